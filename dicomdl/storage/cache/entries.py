"""One entry of a cache: what it holds, how parts of it are read, and the bytes of its file.

A checksum stands behind every byte of a file, and is compared before the byte is used: whatever is damaged, foreign or cut raises `Lost`,
which a cache answers by making the entry again. Headers may say anything; nothing is allocated on their word, and no code is loaded.
"""

import dataclasses
import functools
import itertools
import math
import mmap
import os
import secrets
import struct
import weakref
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from dicomdl.errors import UsageError, missing_extra
from dicomdl.storage.system import read_at

Values: TypeAlias = npt.NDArray[Any]
Mask: TypeAlias = npt.NDArray[np.bool_]
Box: TypeAlias = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]

FORMAT_VERSION: Final = 1  # part of every key: raise it when the bytes of an entry change their meaning
DTYPES: Final = {np.dtype(name).str: np.dtype(name) for name in ("i2", "i4", "u1", "f4", "i1", "u2", "u4")}  # of this byte order only
PAGE: Final = 4096
_BLOCK_BYTES: Final = 64 * 1024
_TILE_VOXELS: Final = 2**15
_MAX_SAMPLES: Final = 16


class Lost(Exception):
    """An entry that was there is damaged, overwritten or gone: make it again. Never leaves a cache."""


# --- what users see ---------------------------------------------------------------------------------------------------


class Arrays(NamedTuple):
    """What a cache is given: values (slices, rows, columns[, samples]) and where they are padding (slices, rows, columns), if anywhere."""

    values: Values
    mask: Mask | None = None


Make: TypeAlias = Callable[[], Arrays]


class Body(Protocol):
    """Where an entry's values are. `values` and `mask` give new arrays, or raise Lost."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    has_mask: bool

    def values(self, box: Box) -> Values:
        """A new array of the values of a box."""
        ...

    def mask(self, box: Box) -> Mask:
        """A new array of the mask of a box, where the entry has one."""
        ...


class Entry:
    """Values that a cache holds, of which parts can be read; for the use of one process, while it needs them.

    An entry that is damaged, evicted or overwritten after it was got is made again, unseen.
    """

    __slots__ = ("_again", "_body")

    def __init__(self, body: Body, again: "Callable[[bool], Body]") -> None:
        self._body, self._again = body, again

    @property
    def shape(self) -> tuple[int, ...]:
        """(slices, rows, columns) or (slices, rows, columns, samples)."""
        return self._body.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of the values."""
        return self._body.dtype

    @property
    def has_mask(self) -> bool:
        """Whether a mask of padding lies beside the values."""
        return self._body.has_mask

    @property
    def is_stored(self) -> bool:
        """Whether the cache has taken the values; else they only live in this process, as long as the entry does."""
        return not isinstance(self._body, Held)

    def part(self, *where: slice) -> Values:
        """A new, writable array of some slices, rows and columns (and all samples): ``entry.part(slice(0, 64), slice(10, 20))``.

        Slices are clipped to the shape as numpy does; those not given mean everything. Raises UsageError for steps, and what `make`
        raises where values must be made again.
        """
        box = _box(where, self.shape)
        values: Values = self._read(lambda body: body.values(box))
        return values

    def mask_part(self, *where: slice) -> Mask | None:
        """The mask of the same part, True where there is padding; None where the entry has no mask."""
        box = _box(where, self.shape)
        return self._read(lambda body: body.mask(box)) if self.has_mask else None

    def _read(self, read: Callable[[Body], Any]) -> Any:
        for may_be_stored in (True, False):
            try:
                return read(self._body)
            except Lost:
                self._body = self._again(may_be_stored)
        return read(self._body)


def _box(where: Sequence[slice], shape: tuple[int, ...]) -> Box:
    """(start, stop) on each of the three axes of space."""
    if len(where) > 3:
        raise UsageError(f"a part has at most 3 slices (slices, rows, columns), found {len(where)}")
    given = (*where, *[slice(None)] * (3 - len(where)))
    found = [one.indices(length) for one, length in zip(given, shape[:3], strict=True)]
    if any(step != 1 for _, _, step in found):
        raise UsageError("the slices of a part have no step: take every n-th of the part that is returned")
    slices, rows, columns = ((start, max(start, stop)) for start, stop, _ in found)
    return slices, rows, columns


def checked_arrays(arrays: Arrays) -> Arrays:
    """The arrays as a cache keeps them: C-contiguous, of a dtype that is allowed."""
    values, mask = arrays
    if values.ndim not in (3, 4) or not values.size or values.dtype.str not in DTYPES or values.shape[3:] > (_MAX_SAMPLES,):
        found = f"{values.dtype} of shape {values.shape}"
        raise UsageError(f"a cache holds (slices, rows, columns[, samples]) of integers of up to 32 bits or float32, found {found}")
    if mask is not None and (mask.dtype != np.bool_ or mask.shape != values.shape[:3]):
        raise UsageError(f"a mask is bool of shape {values.shape[:3]}, found {mask.dtype} of shape {mask.shape}")
    return Arrays(np.ascontiguousarray(values), None if mask is None else np.ascontiguousarray(mask))


class Held:
    """Values in this process's memory."""

    def __init__(self, arrays: Arrays) -> None:
        self.arrays = arrays
        self.shape, self.dtype, self.has_mask = arrays.values.shape, arrays.values.dtype, arrays.mask is not None

    def values(self, box: Box) -> Values:
        """A copy of a box of the values."""
        return self.arrays.values[slices_of(box)].copy()

    def mask(self, box: Box) -> Mask:
        """A copy of a box of the mask."""
        assert self.arrays.mask is not None
        return self.arrays.mask[slices_of(box)].copy()


def slices_of(box: Box) -> tuple[slice, ...]:
    """A box as an index of an array."""
    return tuple(slice(start, stop) for start, stop in box)


def packed_mask(mask: Mask | None) -> npt.NDArray[np.uint8] | None:
    """A mask with 8 columns in a byte, each row on its own."""
    return None if mask is None else np.packbits(mask, axis=2)


def unpacked_mask(packed: npt.NDArray[np.uint8], rows: tuple[int, int], columns: tuple[int, int]) -> Mask:
    """Some rows and columns of what `packed_mask` gave."""
    first, last = columns
    bits = np.unpackbits(packed[:, slice(*rows), first // 8 : -(-last // 8)], axis=2)[:, :, first % 8 : first % 8 + last - first]
    return np.ascontiguousarray(bits).view(np.bool_)


# --- one entry as a file ----------------------------------------------------------------------------------------------
#
# header | lengths of blocks (compressed only), checksums of blocks | zeros up to a page's start | values | mask
#
# Every byte is behind a checksum: the header's covers all before the values.
# A raw block is some rows of one slice, 64 KiB: the values are one C-ordered array that can be mapped, and a patch of 128 x 128 pixels
# verifies 2-3 blocks a slice. A compressed block is a box of about 32 x 32 x 32 voxels, so that a patch decompresses few others.

Identity: TypeAlias = tuple[str, int, int]  # key, inode, number of the writing
MAGIC: Final = b"\x89DCMDL\r\n"
_HEADER: Final = struct.Struct(
    "<8sIIQ32s8s8sII4Q4I"
)  # magic, version, checksum, bytes, key, dtype, format, ndim, mask, shape, block, writing


@dataclass(frozen=True)
class _Layout:
    """What lies where in the file of an entry."""

    digest: str
    dtype: np.dtype[Any]
    format: str
    shape: tuple[int, ...]
    has_mask: bool
    block: tuple[int, int, int]  # slices, rows and columns of a block; those at the far ends are smaller
    writing: int  # a random number of this writing: tells a file from a later one that got its inode
    lengths: npt.NDArray[np.int64]
    checksums: npt.NDArray[np.uint32]

    @functools.cached_property
    def grid(self) -> tuple[int, int, int]:
        """How many blocks there are along each axis."""
        slices, rows, columns = (-(-length // step) for length, step in zip(self.shape[:3], self.block, strict=True))
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
        a, b, c = ((i * step, min((i + 1) * step, length)) for i, step, length in zip(place, self.block, self.shape[:3], strict=True))
        return a, b, c

    def packed(self) -> bytes:
        """All that lies before the values."""
        tables = (b"" if self.format == "raw" else self.lengths.astype("<u4").tobytes()) + self.checksums.astype("<u4").tobytes()
        names = bytes.fromhex(self.digest), self.dtype.str.encode(), self.format.encode()
        shape = (*self.shape, 0)[:4]
        rest = (self.file_bytes, *names, len(self.shape), int(self.has_mask), *shape, *self.block, self.writing)
        blank = (_HEADER.pack(MAGIC, FORMAT_VERSION, 0, *rest) + tables).ljust(self.values_at, b"\0")
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
    row_bytes = layout.shape[2] * int(np.prod(layout.samples, dtype=np.int64)) * layout.dtype.itemsize
    rows = np.minimum(layout.block[1], layout.shape[1] - np.arange(layout.grid[1]) * layout.block[1])
    return np.tile(rows * row_bytes, layout.shape[0]).astype(np.int64)


def _read_layout(descriptor: int, digest: str) -> _Layout:
    """The layout of an open file that is the whole, undamaged header of this key's entry; else Lost."""
    size = os.fstat(descriptor).st_size
    head = read_at(descriptor, 16 * PAGE, 0)
    layout, checksum = _said(head, size, digest)
    blocks = math.prod(layout.grid)
    count = blocks + layout.shape[0] * layout.has_mask
    words = count + (0 if layout.format == "raw" else blocks)
    length = aligned(_HEADER.size + 4 * words)
    if length > size:
        raise Lost
    head = head[:length] if length <= len(head) else read_at(descriptor, length, 0)
    if len(head) != length or checksum != zlib.crc32(head[16:], zlib.crc32(head[:12] + bytes(4))):
        raise Lost
    table = np.frombuffer(head, "<u4", words, _HEADER.size)
    lengths = _raw_lengths(layout) if layout.format == "raw" else table[:blocks].astype(np.int64)
    layout = dataclasses.replace(layout, lengths=lengths, checksums=table[words - count :])
    if layout.file_bytes != size:
        raise Lost
    return layout


def _said(head: bytes, size: int, digest: str) -> tuple[_Layout, int]:
    """What a header says, without the tables, and its checksum. It may say anything: plain integers are compared, nothing is allocated."""
    if len(head) < _HEADER.size:
        raise Lost
    magic, version, checksum, total, key, dtype, format_, ndim, has_mask, *rest = _HEADER.unpack_from(head)
    shape, block, writing = tuple(rest[:ndim]), tuple(rest[4:7]), rest[7]
    name, form = dtype.rstrip(b"\0").decode("ascii", "replace"), format_.rstrip(b"\0").decode("ascii", "replace")
    is_ours = (magic, version, total, key.hex()) == (MAGIC, FORMAT_VERSION, size, digest)
    if not is_ours or name not in DTYPES or form not in ("raw", "blosc2") or ndim not in (3, 4) or has_mask > 1:
        raise Lost
    if not all(0 < length < 2**31 for length in (*shape, *block)) or any(b > s for b, s in zip(block, shape, strict=False)):
        raise Lost
    if form == "raw":
        fits = math.prod(shape) * DTYPES[name].itemsize <= size and (block[0], block[2]) == (1, shape[2])
    else:
        fits = math.prod(block) <= 4 * _TILE_VOXELS and shape[3:] <= (_MAX_SAMPLES,)
    if not fits:
        raise Lost
    nothing: Any = np.empty(0, np.int64)
    return _Layout(digest, DTYPES[name], form, shape, bool(has_mask), block, writing, nothing, nothing), checksum


@functools.cache
def _checksum() -> Callable[[Any], int]:
    """CRC-32 of ISO 3309, as `zlib.crc32`; by libdeflate where there is one, which takes 0.09 ns a byte instead of 0.25."""
    try:
        import imagecodecs

        if imagecodecs.deflate_crc32(b"123456789") == 0xCBF43926:
            function: Callable[[Any], int] = imagecodecs.deflate_crc32
            return function
    except Exception:  # a build without libdeflate raises an error of its own when the function is called
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
    """LZ4 after a shuffle of bytes: 2.2-2.5 x smaller on CT; one thread, because workers are many."""
    return bytes(blosc2_codec().blosc2_encode(tile, level=5, compressor="lz4", shuffle="shuffle", typesize=tile.itemsize, numthreads=1))


def file_pieces(digest: str, arrays: Arrays, format: str) -> list[Any]:
    """The bytes of an entry's file, one buffer after the other."""
    values, packed = arrays.values, packed_mask(arrays.mask)
    nothing: Any = np.empty(0, np.int64)
    block = _block_shape(values.shape, values[0, 0].nbytes, format)
    layout = _Layout(digest, values.dtype, format, values.shape, packed is not None, block, secrets.randbits(32), nothing, nothing)
    if format == "raw":
        whole, lengths = values.reshape(-1).view(np.uint8), _raw_lengths(layout)
        ends = np.cumsum(lengths).tolist()
        blocks: list[Any] = [whole[start:end] for start, end in zip([0, *ends], ends, strict=False)]
        stored: list[Any] = [whole]
    else:
        places = itertools.product(*map(range, layout.grid))
        blocks = stored = [_compressed(np.ascontiguousarray(values[slices_of(layout.extent(place))])) for place in places]
        lengths = np.array([len(one) for one in blocks], np.int64)
    masks = [] if packed is None else [one.reshape(-1) for one in packed]
    checksums = np.array([_checksum()(one) for one in (*blocks, *masks)], np.uint32)
    layout = dataclasses.replace(layout, lengths=lengths, checksums=checksums)
    return [layout.packed(), *stored, *masks]


def write_pieces(descriptor: int, pieces: Sequence[Any]) -> None:
    """Write, never through a map: a full disk then raises instead of ending the process (SIGBUS)."""
    for piece in pieces:
        rest = memoryview(piece)
        while rest:
            rest = rest[os.write(descriptor, rest) :]


class _Overlap(NamedTuple):
    """What a block and a part have in common along one axis."""

    place: int  # of the block in the grid
    extent: int  # of the block
    inside: slice  # of the block
    target: slice  # of the part


def _overlaps(start: int, stop: int, step: int, length: int) -> list[_Overlap]:
    found = []
    for place in range(start // step, -(-stop // step)) if stop > start else ():
        first, last = place * step, min((place + 1) * step, length)
        low, high = max(first, start), min(last, stop)
        found.append(_Overlap(place, last - first, slice(low - first, high - first), slice(low - start, high - start)))
    return found


class Filed:
    """An entry in a file that this process has open: mapped, or read block by block where a map is not safe."""

    def __init__(self, descriptor: int, digest: str, mapped: bool, known: Callable[["Identity"], bytes | None] | None = None) -> None:
        """The descriptor stays the caller's. `known` gives the `verified_bits` of the same file, if it was open before."""
        self.layout = layout = _read_layout(descriptor, digest)
        self.shape, self.dtype, self.has_mask = layout.shape, layout.dtype, layout.has_mask
        self.status = os.fstat(descriptor)
        self.identity = (digest, self.status.st_ino, layout.writing)
        count = len(layout.checksums)
        bits = known(self.identity) if known else None
        self.verified = np.zeros(count, bool) if bits is None else np.unpackbits(np.frombuffer(bits, np.uint8), count=count) > 0
        self._bytes = self._array = self._packed = None
        if mapped:
            # Never closed by hand: the last array that looks into the map closes it.
            self._bytes = np.frombuffer(mmap.mmap(descriptor, layout.file_bytes, access=mmap.ACCESS_READ), np.uint8)
            if layout.format == "raw":
                whole = self._bytes[layout.values_at : layout.offsets[-1]]
                self._array = whole.view(layout.dtype).reshape(layout.shape)
            if layout.has_mask:
                self._packed = self._bytes[layout.mask_at :].reshape(layout.shape[0], *layout.mask_slice)
        else:
            self._descriptor = os.dup(descriptor)
            weakref.finalize(self, os.close, self._descriptor)

    def verified_bits(self) -> bytes:
        """Which blocks are verified, a bit each: for `known` of the next time."""
        return np.packbits(self.verified).tobytes()

    def values(self, box: Box) -> Values:
        """A new array of a box of the values; Lost where one of its blocks is damaged."""
        layout = self.layout
        if self._array is not None and self._is_verified(box):
            return self._array[slices_of(box)].copy()
        axes = [_overlaps(*ends, step, length) for ends, step, length in zip(box, layout.block, layout.shape, strict=False)]
        if self._array is not None:
            for one in itertools.product(*axes):
                self._block(self._number(one))
            return self._array[slices_of(box)].copy()
        out = np.empty((*(stop - start for start, stop in box), *layout.samples), layout.dtype)
        for one in itertools.product(*axes):
            tile = self._tile(self._number(one), (one[0].extent, one[1].extent, one[2].extent, *layout.samples))
            out[one[0].target, one[1].target, one[2].target] = tile[one[0].inside, one[1].inside, one[2].inside]
        return out

    def mask(self, box: Box) -> Mask:
        """A new array of a box of the mask; Lost where one of its slices is damaged."""
        slices, rows, columns = box
        first, shape = len(self.layout.lengths), self.layout.mask_slice
        blocks = [self._block(first + number) for number in range(*slices)]
        if self._packed is not None:
            return unpacked_mask(self._packed[slice(*slices)], rows, columns)
        return unpacked_mask(np.array(blocks, np.uint8).reshape(-1, *shape), rows, columns)

    def _is_verified(self, box: Box) -> bool:
        grid = self.verified[: len(self.layout.lengths)].reshape(self.layout.grid)
        touched = (slice(start // step, -(-stop // step)) for (start, stop), step in zip(box, self.layout.block, strict=True))
        return bool(grid[tuple(touched)].all())

    def require_whole(self) -> None:
        """Lost if any block of the file is damaged."""
        for number in range(len(self.layout.checksums)):
            self._block(number)

    def _number(self, one: Sequence["_Overlap"]) -> int:
        _, rows, columns = self.layout.grid
        return (one[0].place * rows + one[1].place) * columns + one[2].place

    def _tile(self, number: int, shape: tuple[int, ...]) -> Values:
        """The values of one block, which has that shape."""
        layout, data = self.layout, self._block(number)
        if layout.format == "raw":
            return data.view(layout.dtype).reshape(shape)
        tile = np.empty(shape, layout.dtype)
        try:
            found = blosc2_codec().blosc2_decode(data, numthreads=1, out=tile.reshape(-1).view(np.uint8))
        except (ValueError, RuntimeError) as error:
            raise Lost from error
        if len(found) != tile.nbytes:
            raise Lost
        return tile

    def _block(self, number: int) -> npt.NDArray[np.uint8]:
        """The bytes of a block, with their checksum verified: the first time of a map, each time of a read."""
        layout, blocks = self.layout, len(self.layout.lengths)
        if number < blocks:
            start, end = layout.offsets[number], layout.offsets[number + 1]
        else:
            length = layout.mask_slice[0] * layout.mask_slice[1]
            start = layout.mask_at + (number - blocks) * length
            end = start + length
        if self._bytes is not None:
            data = self._bytes[start:end]
            if self.verified[number]:
                return data
        else:
            data = self._read(start, end)
        if _checksum()(data) != layout.checksums[number]:
            raise Lost
        self.verified[number] = True
        return data

    def _read(self, start: int, end: int) -> npt.NDArray[np.uint8]:
        try:
            data = read_at(self._descriptor, end - start, start)
        except OSError as error:  # a network file system whose server has dropped the file
            raise Lost from error
        return np.frombuffer(data, np.uint8)
