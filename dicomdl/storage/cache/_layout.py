"""The format of an entry: version 1, the same bytes in a file and in shared memory.

All integers are little-endian. An entry is::

    header     128 bytes
    lengths    4 bytes per block, only where the format is "blosc2"
    checksums  4 bytes per block, then 4 bytes per slice of the mask
    zeros      up to the next multiple of 4096
    values     block after block, without gaps
    mask       slice after slice, only where the entry has one

The header:

======  ====  ===========================================================================
offset  size  content
======  ====  ===========================================================================
0       8     magic: 89 44 43 4D 44 4C 0D 0A ("\x89DCMDL\r\n")
8       4     version of the format
12      4     checksum of all bytes before the values, taken with zeros in this place
16      8     bytes of the whole entry
24      32    key
56      8     dtype of the values as numpy writes it ("<i2"), filled up with zeros
64      8     "raw" or "blosc2", filled up with zeros
72      4     number of axes: 3, or 4 with samples
76      4     1 where there is a mask, else 0
80      32    shape: slices, rows, columns, samples (0 where there are none), 8 bytes each
112     12    shape of a block: slices, rows, columns, 4 bytes each
124     4     a random number of this writing: tells an entry from a later one in its place
======  ====  ===========================================================================

A checksum is CRC-32 (ISO 3309, as zlib computes it) and every byte is behind one, which is compared
before the byte is used. Values are C-ordered, in the byte order of the machine that wrote them.

A raw block is some rows of one slice, up to 64 KiB; the last one of a slice has what remains. So
the values are one array that can be mapped, and a patch of 128 x 128 pixels verifies 2-3 blocks per
slice. A compressed block is a box of about 32 x 32 x 32 voxels, compressed by Blosc2 (LZ4 after a
shuffle), so that a patch decompresses few others. Blocks follow each other in C order; those at the
far ends are smaller. A slice of the mask has one bit per pixel, rows filled up to whole bytes, the
first column in the highest bit.

Readers refuse every other version. Nothing is allocated on the word of a header.
"""

import dataclasses
import functools
import itertools
import math
import os
import secrets
import struct
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from dicomdl.arrays import Values
from dicomdl.errors import missing_extra
from dicomdl.storage.cache.entries import (
    DTYPES,
    MAX_SAMPLES,
    Arrays,
    Box,
    Lost,
    packed_mask,
    slices_of,
)

# Part of every key: raise it when the bytes of an entry change their meaning.
FORMAT_VERSION: Final = 1
PAGE: Final = 4096
_BLOCK_BYTES: Final = 64 * 1024
_TILE_VOXELS: Final = 2**15
# Key, number of the source, number of the writing.
Identity: TypeAlias = tuple[str, int, int]
MAGIC: Final = b"\x89DCMDL\r\n"
# Magic, version, checksum, bytes, key, dtype, format, axes, mask, shape, block, writing.
_HEADER: Final = struct.Struct("<8sIIQ32s8s8sII4Q4I")


@dataclass(frozen=True)
class _Layout:
    """What lies where in the file of an entry."""

    digest: str
    dtype: np.dtype[Any]
    format: str
    shape: tuple[int, ...]
    has_mask: bool
    # Slices, rows and columns of a block; those at the far ends are smaller.
    block: tuple[int, int, int]
    # A random number: tells an entry from a later one in its place.
    writing: int
    lengths: npt.NDArray[np.int64]
    checksums: npt.NDArray[np.uint32]

    @functools.cached_property
    def grid(self) -> tuple[int, int, int]:
        """How many blocks there are along each axis."""
        slices, rows, columns = (
            -(-length // step) for length, step in zip(self.shape[:3], self.block, strict=True)
        )
        return slices, rows, columns

    @property
    def samples(self) -> tuple[int, ...]:
        return self.shape[3:]

    @property
    def mask_slice(self) -> tuple[int, int]:
        """(rows, bytes a row) of one slice of the mask."""
        return self.shape[1], -(-self.shape[2] // 8)

    @functools.cached_property
    def values_at(self) -> int:
        tables = self.checksums.nbytes + (0 if self.format == "raw" else 4 * len(self.lengths))
        return aligned(_HEADER.size + tables)

    @functools.cached_property
    def offsets(self) -> list[int]:
        """Where each block begins, and where the last one ends."""
        return [self.values_at, *(self.values_at + np.cumsum(self.lengths)).tolist()]

    @property
    def mask_at(self) -> int:
        return self.offsets[-1]

    @property
    def file_bytes(self) -> int:
        return self.mask_at + self.shape[0] * math.prod(self.mask_slice) * self.has_mask

    def extent(self, place: Sequence[int]) -> Box:
        """The voxels of the block at a place of the grid."""
        a, b, c = (
            (i * step, min((i + 1) * step, length))
            for i, step, length in zip(place, self.block, self.shape[:3], strict=True)
        )
        return a, b, c

    def packed(self) -> bytes:
        """All that lies before the values."""
        tables = (
            b"" if self.format == "raw" else self.lengths.astype("<u4").tobytes()
        ) + self.checksums.astype("<u4").tobytes()
        names = bytes.fromhex(self.digest), self.dtype.str.encode(), self.format.encode()
        shape = (*self.shape, 0)[:4]
        rest = (
            self.file_bytes,
            *names,
            len(self.shape),
            int(self.has_mask),
            *shape,
            *self.block,
            self.writing,
        )
        blank = (_HEADER.pack(MAGIC, FORMAT_VERSION, 0, *rest) + tables).ljust(
            self.values_at, b"\0"
        )
        return _HEADER.pack(MAGIC, FORMAT_VERSION, zlib.crc32(blank), *rest) + blank[_HEADER.size :]


def aligned(offset: int, step: int = PAGE) -> int:
    """The next multiple of `step`."""
    return -(-offset // step) * step


def _block_shape(shape: tuple[int, ...], row_bytes: int, format: str) -> tuple[int, int, int]:
    slices, rows, columns = shape[:3]
    if format == "raw":
        return 1, max(1, min(rows, _BLOCK_BYTES // row_bytes)), columns
    depth = min(slices, 32)
    side = 1 << (int((_TILE_VOXELS / depth) ** 0.5) - 1).bit_length()
    return depth, min(rows, side), min(columns, side)


def _raw_lengths(layout: _Layout) -> npt.NDArray[np.int64]:
    """The bytes of each block when nothing is compressed."""
    row_bytes = (
        layout.shape[2] * int(np.prod(layout.samples, dtype=np.int64)) * layout.dtype.itemsize
    )
    rows = np.minimum(
        layout.block[1], layout.shape[1] - np.arange(layout.grid[1]) * layout.block[1]
    )
    return np.tile(rows * row_bytes, layout.shape[0]).astype(np.int64)


def read_layout(
    read: Callable[[int, int], npt.NDArray[np.uint8]], size: int, digest: str
) -> _Layout:
    """The layout of `size` bytes that are the whole, undamaged entry of this key; else Lost.

    `read` gives the bytes from a start to an end, or fewer.
    """
    head = read(0, min(size, 16 * PAGE)).tobytes()
    layout, checksum = _said(head, size, digest)
    blocks = math.prod(layout.grid)
    count = blocks + layout.shape[0] * layout.has_mask
    words = count + (0 if layout.format == "raw" else blocks)
    length = aligned(_HEADER.size + 4 * words)
    if length > size:
        raise Lost
    head = head[:length] if length <= len(head) else read(0, length).tobytes()
    if len(head) != length or checksum != zlib.crc32(head[16:], zlib.crc32(head[:12] + bytes(4))):
        raise Lost
    table = np.frombuffer(head, "<u4", words, _HEADER.size)
    lengths = _raw_lengths(layout) if layout.format == "raw" else table[:blocks].astype(np.int64)
    layout = dataclasses.replace(layout, lengths=lengths, checksums=table[words - count :])
    if layout.file_bytes != size:
        raise Lost
    return layout


def _said(head: bytes, size: int, digest: str) -> tuple[_Layout, int]:
    """The layout that a header states, without the tables, and its checksum.

    It may state anything: plain integers are compared, nothing is allocated.
    """
    if len(head) < _HEADER.size:
        raise Lost
    magic, version, checksum, total, key, dtype, format_, ndim, has_mask, *rest = (
        _HEADER.unpack_from(head)
    )
    shape, block, writing = tuple(rest[:ndim]), tuple(rest[4:7]), rest[7]
    name, form = (
        dtype.rstrip(b"\0").decode("ascii", "replace"),
        format_.rstrip(b"\0").decode("ascii", "replace"),
    )
    is_ours = (magic, version, total, key.hex()) == (MAGIC, FORMAT_VERSION, size, digest)
    if (
        not is_ours
        or name not in DTYPES
        or form not in ("raw", "blosc2")
        or ndim not in (3, 4)
        or has_mask > 1
    ):
        raise Lost
    if not all(0 < length < 2**31 for length in (*shape, *block)) or any(
        b > s for b, s in zip(block, shape, strict=False)
    ):
        raise Lost
    if form == "raw":
        fits = math.prod(shape) * DTYPES[name].itemsize <= size and (block[0], block[2]) == (
            1,
            shape[2],
        )
    else:
        fits = math.prod(block) <= 4 * _TILE_VOXELS and shape[3:] <= (MAX_SAMPLES,)
    if not fits:
        raise Lost
    nothing: Any = np.empty(0, np.int64)
    return _Layout(
        digest, DTYPES[name], form, shape, bool(has_mask), block, writing, nothing, nothing
    ), checksum


@functools.cache
def checksum_of() -> Callable[[Any], int]:
    """CRC-32 of ISO 3309, as `zlib.crc32`.

    By libdeflate where there is one, which takes 0.09 ns per byte instead of 0.25.
    """
    try:
        import imagecodecs

        if imagecodecs.deflate_crc32(b"123456789") == 0xCBF43926:
            function: Callable[[Any], int] = imagecodecs.deflate_crc32
            return function
    except Exception:
        # A build without libdeflate raises an error of its own when the function is called.
        return zlib.crc32
    return zlib.crc32


def blosc2_codec() -> Any:
    """imagecodecs, whose BLOSC2 compresses; MissingExtra from a build that lacks it."""
    try:
        import imagecodecs

        if imagecodecs.BLOSC2.available:
            return imagecodecs
    except ImportError:
        pass
    raise missing_extra('format="blosc2"', "imagecodecs with Blosc2", "cache")


def _compressed(tile: Values) -> bytes:
    """LZ4 after a shuffle of bytes: 2.2-2.5 x smaller on CT.

    One thread, because workers are many.
    """
    return bytes(
        blosc2_codec().blosc2_encode(
            tile, level=5, compressor="lz4", shuffle="shuffle", typesize=tile.itemsize, numthreads=1
        )
    )


def file_pieces(digest: str, arrays: Arrays, format: str) -> list[Any]:
    """The bytes of an entry's file, one buffer after the other."""
    values, packed = arrays.values, packed_mask(arrays.mask)
    nothing: Any = np.empty(0, np.int64)
    block = _block_shape(values.shape, values[0, 0].nbytes, format)
    layout = _Layout(
        digest,
        values.dtype,
        format,
        values.shape,
        packed is not None,
        block,
        secrets.randbits(32),
        nothing,
        nothing,
    )
    if format == "raw":
        whole, lengths = values.reshape(-1).view(np.uint8), _raw_lengths(layout)
        ends = np.cumsum(lengths).tolist()
        blocks: list[Any] = [whole[start:end] for start, end in zip([0, *ends], ends, strict=False)]
        stored: list[Any] = [whole]
    else:
        places = itertools.product(*map(range, layout.grid))
        blocks = stored = [
            _compressed(np.ascontiguousarray(values[slices_of(layout.extent(place))]))
            for place in places
        ]
        lengths = np.array([len(one) for one in blocks], np.int64)
    masks = [] if packed is None else [one.reshape(-1) for one in packed]
    checksums = np.array([checksum_of()(one) for one in (*blocks, *masks)], np.uint32)
    layout = dataclasses.replace(layout, lengths=lengths, checksums=checksums)
    return [layout.packed(), *stored, *masks]


def write_pieces(descriptor: int, pieces: Sequence[Any]) -> None:
    """Write, never through a map.

    A full disk then raises instead of ending the process (SIGBUS).
    """
    for piece in pieces:
        rest = memoryview(piece)
        while rest:
            rest = rest[os.write(descriptor, rest) :]


class Overlap(NamedTuple):
    """What a block and a part have in common along one axis."""

    place: int  # of the block in the grid
    extent: int  # of the block
    inside: slice  # of the block
    target: slice  # of the part


def overlaps(start: int, stop: int, step: int, length: int) -> list[Overlap]:
    found = []
    for place in range(start // step, -(-stop // step)) if stop > start else ():
        first, last = place * step, min((place + 1) * step, length)
        low, high = max(first, start), min(last, stop)
        found.append(
            Overlap(
                place,
                last - first,
                slice(low - first, high - first),
                slice(low - start, high - start),
            )
        )
    return found
