r"""The format of an entry, version 1: the same bytes in a file and in shared memory.

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
12      4     checksum of all bytes before the values, taken with zeros in these 4 bytes
16      8     size of the entry in bytes
24      32    key
56      8     dtype of the values as numpy writes it ("<i2"), filled up with zeros
64      8     "raw" or "blosc2", filled up with zeros
72      4     number of axes: 3, or 4 with samples
76      4     1 where there is a mask, else 0
80      32    shape: slices, rows, columns, samples (0 where there are none), 8 bytes each
112     12    shape of a block: slices, rows, columns, 4 bytes each
124     4     random number per write, which distinguishes successive entries at one offset
======  ====  ===========================================================================

Checksums are CRC-32 (ISO 3309, as computed by zlib). They cover every byte and are compared before
the byte is used. Values are C-ordered, in the byte order of the machine that wrote them.

A raw block is some rows of one slice, up to 64 KiB; the last block of a slice has the remaining
rows. The values therefore are one array that can be mapped, and a patch of 128 x 128 pixels
verifies 2-3 blocks per slice. A compressed block is a box of about 32 x 32 x 32 voxels, compressed
by Blosc2 (LZ4 after a shuffle), so that a patch decompresses few voxels outside it. Blocks follow
each other in C order; those at the far ends are smaller. A slice of the mask has one bit per pixel:
rows are filled up to full bytes, and the first column is the highest bit.

Readers refuse every other version. No memory is allocated before the sizes in a header are checked.
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
from dicomdl.extras import missing_extra
from dicomdl.lazy import cached_property
from dicomdl.storage.cache.entries import (
    DTYPES,
    MAX_SAMPLES,
    Arrays,
    Box,
    Lost,
    packed_mask,
    slices_of,
)

# Part of every key. Raise it when the bytes of an entry change their meaning.
FORMAT_VERSION: Final = 1
PAGE: Final = 4096
_BLOCK_BYTES: Final = 64 * 1024
_TILE_VOXELS: Final = 2**15
# Key, number of the source, random number of the write.
Identity: TypeAlias = tuple[str, int, int]
MAGIC: Final = b"\x89DCMDL\r\n"
# Magic, version, checksum, bytes, key, dtype, format, axes, mask, shape, block, random number.
_HEADER: Final = struct.Struct("<8sIIQ32s8s8sII4Q4I")


@dataclass(frozen=True)
class _Layout:
    """The offsets, shapes and checksums of the parts of an entry."""

    digest: str
    dtype: np.dtype[Any]
    format: str
    shape: tuple[int, ...]
    has_mask: bool
    # Slices, rows and columns of a block. Blocks at the far ends are smaller.
    block: tuple[int, int, int]
    # Random number per write, which distinguishes successive entries at one offset.
    writing: int
    lengths: npt.NDArray[np.int64]
    checksums: npt.NDArray[np.uint32]

    @cached_property
    def grid(self) -> tuple[int, int, int]:
        """The number of blocks along each axis."""
        slices, rows, columns = (
            -(-length // step) for length, step in zip(self.shape[:3], self.block, strict=True)
        )
        return slices, rows, columns

    @property
    def samples(self) -> tuple[int, ...]:
        """The axis of samples as a shape: empty for gray values."""
        return self.shape[3:]

    @property
    def mask_slice(self) -> tuple[int, int]:
        """(rows, bytes per row) of one slice of the mask."""
        return self.shape[1], -(-self.shape[2] // 8)

    @cached_property
    def values_at(self) -> int:
        """The offset of the values."""
        tables = self.checksums.nbytes + (0 if self.format == "raw" else 4 * len(self.lengths))
        return aligned(_HEADER.size + tables)

    @cached_property
    def offsets(self) -> list[int]:
        """The offset of each block, and the end of the last one."""
        return [self.values_at, *(self.values_at + np.cumsum(self.lengths)).tolist()]

    @property
    def mask_at(self) -> int:
        """The offset of the mask."""
        return self.offsets[-1]

    @property
    def file_bytes(self) -> int:
        """The size of the entry in bytes."""
        return self.mask_at + self.shape[0] * math.prod(self.mask_slice) * self.has_mask

    def extent(self, index: Sequence[int]) -> Box:
        """Return the box of voxels of the block at an index (slice, row, column) of the grid."""
        a, b, c = (
            (i * step, min((i + 1) * step, length))
            for i, step, length in zip(index, self.block, self.shape[:3], strict=True)
        )
        return a, b, c

    def packed(self) -> bytes:
        """Pack the bytes before the values: header, tables and zeros."""
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
    """Return the next multiple of `step`."""
    return -(-offset // step) * step


def _block_shape(shape: tuple[int, ...], row_bytes: int, format: str) -> tuple[int, int, int]:
    slices, rows, columns = shape[:3]
    if format == "raw":
        return 1, max(1, min(rows, _BLOCK_BYTES // row_bytes)), columns
    depth = min(slices, 32)
    side = 1 << (int((_TILE_VOXELS / depth) ** 0.5) - 1).bit_length()
    return depth, min(rows, side), min(columns, side)


def _raw_lengths(layout: _Layout) -> npt.NDArray[np.int64]:
    """Return the bytes of each uncompressed block."""
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
    """Read the layout of an entry of `size` bytes; raise Lost unless it is the one of this key.

    `read` returns the bytes from a start to an end, or fewer. The header and the tables are
    verified here; the blocks are verified when they are read.
    """
    head = read(0, min(size, 16 * PAGE)).tobytes()
    layout, checksum = _declared(head, size, digest)
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


def _declared(head: bytes, size: int, digest: str) -> tuple[_Layout, int]:
    """Return the layout that a header declares, without the tables, and the header's checksum.

    The header may be damaged, so its integers are compared before memory is allocated for them.
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
    """Return the fastest function for CRC-32 of ISO 3309, with the results of `zlib.crc32`.

    libdeflate takes 0.09 ns per byte, zlib 0.25.
    """
    try:
        import imagecodecs

        if imagecodecs.deflate_crc32(b"123456789") == 0xCBF43926:
            function: Callable[[Any], int] = imagecodecs.deflate_crc32
            return function
    except Exception:
        # A build without libdeflate raises a special error when the function is called.
        return zlib.crc32
    return zlib.crc32


def blosc2_codec() -> Any:
    """Return imagecodecs, which contains Blosc2; raise MissingExtra for a build without it."""
    try:
        import imagecodecs

        if imagecodecs.BLOSC2.available:
            return imagecodecs
    except ImportError:
        pass
    raise missing_extra('format="blosc2"', "imagecodecs with Blosc2", "cache")


def _compressed(tile: Values) -> bytes:
    """Compress by LZ4 after a shuffle of bytes, which makes CT 2.2-2.5 x smaller.

    One thread compresses, because many workers run at the same time.
    """
    return bytes(
        blosc2_codec().blosc2_encode(
            tile, level=5, compressor="lz4", shuffle="shuffle", typesize=tile.itemsize, numthreads=1
        )
    )


def file_pieces(digest: str, arrays: Arrays, format: str) -> list[Any]:
    """Return the bytes of an entry as a list of buffers, in the order of the format."""
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
        indices = itertools.product(*map(range, layout.grid))
        blocks = stored = [
            _compressed(np.ascontiguousarray(values[slices_of(layout.extent(index))]))
            for index in indices
        ]
        lengths = np.array([len(block) for block in blocks], np.int64)
    masks = [] if packed is None else [rows.reshape(-1) for rows in packed]
    checksums = np.array([checksum_of()(part) for part in (*blocks, *masks)], np.uint32)
    layout = dataclasses.replace(layout, lengths=lengths, checksums=checksums)
    return [layout.packed(), *stored, *masks]


def write_pieces(descriptor: int, pieces: Sequence[Any]) -> None:
    """Write buffers by system calls: a full disk then raises, while a map would end the process."""
    for piece in pieces:
        rest = memoryview(piece)
        while rest:
            rest = rest[os.write(descriptor, rest) :]


class Overlap(NamedTuple):
    """The overlap of a block and a requested part along one axis."""

    # Index of the block in the grid.
    block: int
    # Length of the block.
    extent: int
    # The overlap, counted from the start of the block.
    inside: slice
    # The overlap, counted from the start of the part.
    target: slice


def overlaps(start: int, stop: int, step: int, length: int) -> list[Overlap]:
    """Return the overlaps of the part [start, stop) with the blocks on an axis.

    The axis has `length` elements, in blocks of `step`.
    """
    result = []
    for block in range(start // step, -(-stop // step)) if stop > start else ():
        first, last = block * step, min((block + 1) * step, length)
        low, high = max(first, start), min(last, stop)
        result.append(
            Overlap(
                block,
                last - first,
                slice(low - first, high - first),
                slice(low - start, high - start),
            )
        )
    return result
