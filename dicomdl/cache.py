"""Decoded values kept for the next epoch: on disk, shared by all processes and ranks, or in memory, shared by the workers of a loader.

A cache may only ever save time. What is damaged, stale, evicted, foreign or cannot be written is made again and counted in `stats()`:
never a wrong value, never an error for it, and locks only spare work (without them entries are made more often, and are right). So whoever
writes, writes a whole new file and puts it in place by one `os.replace`, and a checksum stands behind every block of it. Nothing random
may be cached, and nothing here loads code from data.
"""

import contextlib
import dataclasses
import functools
import hashlib
import itertools
import json
import math
import mmap
import os
import re
import secrets
import stat
import struct
import tempfile
import threading
import time
import warnings
import weakref
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing import context, reduction
from types import ModuleType
from typing import Any, Final, Literal, NamedTuple, Protocol, TypeAlias, runtime_checkable

import numpy as np
import numpy.typing as npt

from dicomdl.errors import FileChanged, PixelError, StorageError, UsageError, missing_extra
from dicomdl.storage import cache_folder, make_folder
from dicomdl.system import OPEN_FLAGS, read_at
from dicomdl.version import __version__

_fcntl: ModuleType | None
try:
    import fcntl as _fcntl
except ImportError:  # Windows: no locks, so entries may be made more than once, and memory is each worker's own
    _fcntl = None

Values: TypeAlias = npt.NDArray[Any]
Mask: TypeAlias = npt.NDArray[np.bool_]
Box: TypeAlias = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]
DiskFormat = Literal["raw", "blosc2"]

# Part of every key: raise VALUES_VERSION when the same files and options come to give other values, FORMAT_VERSION when the bytes of
# an entry change their meaning.
VALUES_VERSION: Final = 1
FORMAT_VERSION: Final = 1

DEFAULT_DISK_BYTES: Final = 50 * 2**30
DEFAULT_MEMORY_BYTES: Final = 4 * 2**30
LOCK_WAIT_S: Final = 30.0  # the longest that anybody waits for another process that makes the same entry
TOUCH_S: Final = 60.0  # an entry's file is marked as used once in so many seconds at most
OPEN_ENTRIES: Final = 64  # mapped by one process at a time, a descriptor each; mapping one again takes 0.1 ms
KNOWN_ENTRIES: Final = 16384  # of which a process remembers what it verified, 128 bytes for a CT

_DTYPES: Final = {np.dtype(name).str: np.dtype(name) for name in ("i2", "i4", "u1", "f4", "i1", "u2", "u4")}  # of this byte order only
_BLOCK_BYTES: Final = 64 * 1024
_TILE_VOXELS: Final = 2**15
_MAX_SAMPLES: Final = 16
_PAGE: Final = 4096
_SLACK: Final = 16  # eviction frees so much that a 16th of the limit is free; a process writes a 16th of what is free before it looks again


class CacheWarning(UserWarning):
    """A cache cannot store what it is given; values are delivered all the same."""


class _Lost(Exception):
    """An entry that was there is damaged, overwritten or gone: make it again. Never leaves this module."""


# --- keys -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class FileState:
    """One source file as it is now, and which of its frames are meant: all that a key knows of it.

    Made by `FileState.of`. `path` only serves to read the contents for a strict key; it is no part of any key, so that a data set
    that is mounted elsewhere keeps its entries.
    """

    path: str
    instance_uid: str
    frames: tuple[int, ...]
    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int

    @classmethod
    def of(cls, path: str | os.PathLike[str], instance_uid: str = "", frames: Sequence[int] = (1,)) -> "FileState":
        """Ask the file system now, about 2 us a file.

        Raises
        ------
        FileChanged
            The file is gone.
        PixelError
            It cannot be looked up. Attribute `errno`.
        """
        try:
            status = os.stat(path)
        except FileNotFoundError:
            raise FileChanged("the file that was scanned is gone: scan again") from None
        except OSError as error:
            raise PixelError(f"the file cannot be opened: {error.strerror}", errno=error.errno) from error
        times = (status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)
        return cls(os.fsdecode(path), instance_uid, tuple(map(int, frames)), *times)


@dataclass(frozen=True, slots=True)
class Key:
    """The name of an entry: 64 hexadecimal digits that tell nothing about a patient."""

    digest: str

    def __post_init__(self) -> None:
        if not re.fullmatch("[0-9a-f]{64}", self.digest):
            raise UsageError("a key is 64 hexadecimal digits, as stack_key makes it")


def stack_key(files: Sequence[FileState], options: Mapping[str, str], strict: bool = False) -> Key:
    """The key of values that are made of these files, in this order, with these options.

    Parameters
    ----------
    files
        In slice order. A file's size, modification and change time and inode stand for its contents: every rewriting changes one of
        them, even when the modification time is set back.
    options
        Everything else that the values depend on, by name: the reprs of frozen options. Tiles of one frame need their origin here.
    strict
        A hash of each file's contents takes the place of times and inode: for file systems whose inodes or times cannot be relied on, and
        for data that moves between them. It reads every file whole (0.8 GB/s).

    Returns
    -------
    Key
        BLAKE2b of canonical JSON; the versions of dicomdl, its values and its format are part of it.

    Raises
    ------
    PixelError
        A strict key of a file that cannot be read.
    """
    sources = [
        [file.instance_uid, list(file.frames), _content(file.path) if strict else [file.size, file.mtime_ns, file.ctime_ns, file.inode]]
        for file in files
    ]
    versions = {"dicomdl": __version__, "values": VALUES_VERSION, "format": FORMAT_VERSION}
    told = {"versions": versions, "strict": strict, "files": sources, "options": dict(options)}
    text = json.dumps(told, sort_keys=True, separators=(",", ":"))
    return Key(hashlib.blake2b(text.encode(), digest_size=32).hexdigest())


def _content(path: str) -> str:
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, functools.partial(hashlib.blake2b, digest_size=32)).hexdigest()
    except OSError as error:
        raise PixelError(f"the file cannot be read: {error.strerror}", errno=error.errno) from error


# --- what users see ---------------------------------------------------------------------------------------------------


class Arrays(NamedTuple):
    """What a cache is given: values (slices, rows, columns[, samples]) and where they are padding (slices, rows, columns), if anywhere."""

    values: Values
    mask: Mask | None = None


Make: TypeAlias = Callable[[], Arrays]


@dataclass(frozen=True, slots=True)
class Stats:
    """What one process asked of a cache since it began.

    `hits` were there, `made` were not and have been computed here, `stored` of those could be kept; `damaged` entries were found and made
    again, `evicted` ones removed for room, `failed` is how often storing failed.
    """

    hits: int = 0
    made: int = 0
    stored: int = 0
    damaged: int = 0
    evicted: int = 0
    failed: int = 0


class _Body(Protocol):
    """Where an entry's values are. `values` and `mask` give new arrays, or raise _Lost."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    has_mask: bool

    def values(self, box: Box) -> Values: ...

    def mask(self, box: Box) -> Mask: ...


class Entry:
    """Values that a cache holds, of which parts can be read; for the use of one process, while it needs them.

    An entry that is damaged, evicted or overwritten after it was got is made again, unseen.
    """

    __slots__ = ("_again", "_body")

    def __init__(self, body: _Body, again: "Callable[[bool], _Body]") -> None:
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

    def _read(self, read: Callable[[_Body], Any]) -> Any:
        for may_be_stored in (True, False):
            try:
                return read(self._body)
            except _Lost:
                self._body = self._again(may_be_stored)
        return read(self._body)


@runtime_checkable
class Cache(Protocol):
    """What a dataset asks of a cache: `DiskCache` and `MemoryCache` are such, and whatever has these."""

    strict: bool  # whether keys are to be made with strict=True

    def get(self, key: Key, make: Make) -> Entry:
        """The entry of a key, made by `make` if need be, once by all who share the cache. Raises what `make` raises."""
        ...

    def stats(self) -> Stats:
        """What this process has asked of the cache."""
        ...


CacheOption: TypeAlias = "Cache | str | int | os.PathLike[str] | None"


def as_cache(option: CacheOption) -> Cache | None:
    """The cache that an option means.

    None: none. "memory": a MemoryCache of 4 GiB, or a quarter of the memory if that is less; a number: one of so many bytes.
    "disk": a DiskCache in the user's cache folder; a pathlib.Path: one in that folder. A cache is taken as it is.
    """
    if option is None:
        return None
    if option == "memory":
        return MemoryCache()
    if option == "disk":
        return DiskCache()
    if isinstance(option, os.PathLike):
        return DiskCache(option)
    if isinstance(option, int) and not isinstance(option, bool):
        return MemoryCache(option)
    if isinstance(option, Cache):
        return option
    raise UsageError(f'cache={option!r}: expected None, "memory", "disk", a number of bytes, a pathlib.Path of a folder or a cache')


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


def _checked(arrays: Arrays) -> Arrays:
    """The arrays as a cache keeps them: C-contiguous, of a dtype that is allowed."""
    values, mask = arrays
    if values.ndim not in (3, 4) or not values.size or values.dtype.str not in _DTYPES or values.shape[3:] > (_MAX_SAMPLES,):
        found = f"{values.dtype} of shape {values.shape}"
        raise UsageError(f"a cache holds (slices, rows, columns[, samples]) of integers of up to 32 bits or float32, found {found}")
    if mask is not None and (mask.dtype != np.bool_ or mask.shape != values.shape[:3]):
        raise UsageError(f"a mask is bool of shape {values.shape[:3]}, found {mask.dtype} of shape {mask.shape}")
    return Arrays(np.ascontiguousarray(values), None if mask is None else np.ascontiguousarray(mask))


class _Counters:
    """The counts behind `Stats`; a process that was forked begins anew."""

    def __init__(self) -> None:
        self.process = -1
        self.counts: dict[str, int] = {}

    def _mine(self) -> dict[str, int]:
        if self.process != os.getpid():
            self.process, self.counts = os.getpid(), dict.fromkeys((field.name for field in dataclasses.fields(Stats)), 0)
        return self.counts

    def add(self, name: str, number: int = 1) -> None:
        self._mine()[name] += number

    def stats(self) -> Stats:
        return Stats(**self._mine())


class _Held:
    """Values in this process's memory."""

    def __init__(self, arrays: Arrays) -> None:
        self.arrays = arrays
        self.shape, self.dtype, self.has_mask = arrays.values.shape, arrays.values.dtype, arrays.mask is not None

    def values(self, box: Box) -> Values:
        return self.arrays.values[_index(box)].copy()

    def mask(self, box: Box) -> Mask:
        assert self.arrays.mask is not None
        return self.arrays.mask[_index(box)].copy()


def _index(box: Box) -> tuple[slice, ...]:
    return tuple(slice(start, stop) for start, stop in box)


def _packed(mask: Mask | None) -> npt.NDArray[np.uint8] | None:
    """A mask with 8 columns in a byte, each row on its own."""
    return None if mask is None else np.packbits(mask, axis=2)


def _unpacked(packed: npt.NDArray[np.uint8], rows: tuple[int, int], columns: tuple[int, int]) -> Mask:
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

_Identity: TypeAlias = tuple[str, int, int]  # key, inode, number of the writing
_MAGIC: Final = b"\x89DCMDL\r\n"
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
        return _aligned(_HEADER.size + tables)

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
        blank = (_HEADER.pack(_MAGIC, FORMAT_VERSION, 0, *rest) + tables).ljust(self.values_at, b"\0")
        return _HEADER.pack(_MAGIC, FORMAT_VERSION, zlib.crc32(blank), *rest) + blank[_HEADER.size :]


def _aligned(offset: int, step: int = _PAGE) -> int:
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
    """The layout of an open file that is the whole, undamaged header of this key's entry; else _Lost."""
    size = os.fstat(descriptor).st_size
    head = read_at(descriptor, 16 * _PAGE, 0)
    layout, checksum = _said(head, size, digest)
    blocks = math.prod(layout.grid)
    count = blocks + layout.shape[0] * layout.has_mask
    words = count + (0 if layout.format == "raw" else blocks)
    length = _aligned(_HEADER.size + 4 * words)
    if length > size:
        raise _Lost
    head = head[:length] if length <= len(head) else read_at(descriptor, length, 0)
    if len(head) != length or checksum != zlib.crc32(head[16:], zlib.crc32(head[:12] + bytes(4))):
        raise _Lost
    table = np.frombuffer(head, "<u4", words, _HEADER.size)
    lengths = _raw_lengths(layout) if layout.format == "raw" else table[:blocks].astype(np.int64)
    layout = dataclasses.replace(layout, lengths=lengths, checksums=table[words - count :])
    if layout.file_bytes != size:
        raise _Lost
    return layout


def _said(head: bytes, size: int, digest: str) -> tuple[_Layout, int]:
    """What a header says, without the tables, and its checksum. It may say anything: plain integers are compared, nothing is allocated."""
    if len(head) < _HEADER.size:
        raise _Lost
    magic, version, checksum, total, key, dtype, format_, ndim, has_mask, *rest = _HEADER.unpack_from(head)
    shape, block, writing = tuple(rest[:ndim]), tuple(rest[4:7]), rest[7]
    name, form = dtype.rstrip(b"\0").decode("ascii", "replace"), format_.rstrip(b"\0").decode("ascii", "replace")
    is_ours = (magic, version, total, key.hex()) == (_MAGIC, FORMAT_VERSION, size, digest)
    if not is_ours or name not in _DTYPES or form not in ("raw", "blosc2") or ndim not in (3, 4) or has_mask > 1:
        raise _Lost
    if not all(0 < length < 2**31 for length in (*shape, *block)) or any(b > s for b, s in zip(block, shape, strict=False)):
        raise _Lost
    if form == "raw":
        fits = math.prod(shape) * _DTYPES[name].itemsize <= size and (block[0], block[2]) == (1, shape[2])
    else:
        fits = math.prod(block) <= 4 * _TILE_VOXELS and shape[3:] <= (_MAX_SAMPLES,)
    if not fits:
        raise _Lost
    nothing: Any = np.empty(0, np.int64)
    return _Layout(digest, _DTYPES[name], form, shape, bool(has_mask), block, writing, nothing, nothing), checksum


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


def _codec() -> Any:
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
    return bytes(_codec().blosc2_encode(tile, level=5, compressor="lz4", shuffle="shuffle", typesize=tile.itemsize, numthreads=1))


def _pieces(digest: str, arrays: Arrays, format: str) -> list[Any]:
    """The bytes of an entry's file, one buffer after the other."""
    values, packed = arrays.values, _packed(arrays.mask)
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
        blocks = stored = [_compressed(np.ascontiguousarray(values[_index(layout.extent(place))])) for place in places]
        lengths = np.array([len(one) for one in blocks], np.int64)
    masks = [] if packed is None else [one.reshape(-1) for one in packed]
    checksums = np.array([_checksum()(one) for one in (*blocks, *masks)], np.uint32)
    layout = dataclasses.replace(layout, lengths=lengths, checksums=checksums)
    return [layout.packed(), *stored, *masks]


def _write_pieces(descriptor: int, pieces: Sequence[Any]) -> None:
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


class _Filed:
    """An entry in a file that this process has open: mapped, or read block by block where a map is not safe."""

    def __init__(self, descriptor: int, digest: str, mapped: bool, known: Callable[["_Identity"], bytes | None] | None = None) -> None:
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
        return np.packbits(self.verified).tobytes()

    def values(self, box: Box) -> Values:
        layout = self.layout
        if self._array is not None and self._is_verified(box):
            return self._array[_index(box)].copy()
        axes = [_overlaps(*ends, step, length) for ends, step, length in zip(box, layout.block, layout.shape, strict=False)]
        if self._array is not None:
            for one in itertools.product(*axes):
                self._block(self._number(one))
            return self._array[_index(box)].copy()
        out = np.empty((*(stop - start for start, stop in box), *layout.samples), layout.dtype)
        for one in itertools.product(*axes):
            tile = self._tile(self._number(one), (one[0].extent, one[1].extent, one[2].extent, *layout.samples))
            out[one[0].target, one[1].target, one[2].target] = tile[one[0].inside, one[1].inside, one[2].inside]
        return out

    def mask(self, box: Box) -> Mask:
        slices, rows, columns = box
        first, shape = len(self.layout.lengths), self.layout.mask_slice
        blocks = [self._block(first + number) for number in range(*slices)]
        if self._packed is not None:
            return _unpacked(self._packed[slice(*slices)], rows, columns)
        return _unpacked(np.array(blocks, np.uint8).reshape(-1, *shape), rows, columns)

    def _is_verified(self, box: Box) -> bool:
        grid = self.verified[: len(self.layout.lengths)].reshape(self.layout.grid)
        touched = (slice(start // step, -(-stop // step)) for (start, stop), step in zip(box, self.layout.block, strict=True))
        return bool(grid[tuple(touched)].all())

    def require_whole(self) -> None:
        """_Lost if any block of the file is damaged."""
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
            found = _codec().blosc2_decode(data, numthreads=1, out=tile.reshape(-1).view(np.uint8))
        except (ValueError, RuntimeError) as error:
            raise _Lost from error
        if len(found) != tile.nbytes:
            raise _Lost
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
            raise _Lost
        self.verified[number] = True
        return data

    def _read(self, start: int, end: int) -> npt.NDArray[np.uint8]:
        try:
            data = read_at(self._descriptor, end - start, start)
        except OSError as error:  # a network file system whose server has dropped the file
            raise _Lost from error
        return np.frombuffer(data, np.uint8)


# --- the folder of a disk cache ---------------------------------------------------------------------------------------

_ENTRY: Final = re.compile(r"([0-9a-f]{64})\.entry")
_TEMPORARY: Final = re.compile(r"[0-9a-f]{64}\.[0-9a-f]{12}\.tmp")
_LOCK: Final = re.compile(r"[0-9a-f]{64}\.lock")
_CREATE: Final = os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
_DAY_S: Final = 86400.0
_NETWORK: Final = {"nfs", "nfs4", "cifs", "smb3", "lustre", "beegfs", "gpfs", "ceph", "afs", "9p", "glusterfs", "pvfs2"}


def _open_entry(path: str, digest: str, mapped: bool, known: Callable[[_Identity], bytes | None] | None = None) -> _Filed:
    """Open an entry's file; FileNotFoundError where there is none, _Lost where it is not what it should be."""
    descriptor = os.open(path, OPEN_FLAGS | getattr(os, "O_NOFOLLOW", 0))
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise _Lost
        return _Filed(descriptor, digest, mapped, known)
    finally:
        os.close(descriptor)


def _flock(descriptor: int) -> bool | None:
    """Whether the lock of an open file could be had at once; None where there are no locks."""
    if _fcntl is None:
        return None
    try:
        _fcntl.flock(descriptor, _fcntl.LOCK_EX | _fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _is_at(descriptor: int, path: str) -> bool:
    """Whether the open file is the one that the path names."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.lstat(path))
    except OSError:
        return False


@contextlib.contextmanager
def _alone(path: str) -> Iterator[None]:
    """Be the only one who makes an entry, for as long as the file system has locks and the others take less than `LOCK_WAIT_S`.

    The kernel releases the lock of a process that dies. Whoever holds it removes the file at the end, so who gets the lock of a file that
    is no longer there begins anew.
    """
    descriptor = _wait_for_lock(path)
    try:
        yield
    finally:
        if descriptor is not None:
            with contextlib.suppress(OSError):
                os.unlink(path)
            _unlock(descriptor)


def _wait_for_lock(path: str) -> int | None:
    end, pause = time.monotonic() + LOCK_WAIT_S, 0.001
    while _fcntl is not None and time.monotonic() < end:
        try:
            descriptor = os.open(path, _CREATE, 0o600)
        except OSError:
            return None
        locked = _flock(descriptor)
        if locked and _is_at(descriptor, path):
            return descriptor
        os.close(descriptor)
        if locked is None:
            with contextlib.suppress(OSError):
                os.unlink(path)
            return None
        if not locked:
            time.sleep(pause)
            pause = min(pause * 1.5, 0.02)
    return None


def _unlock(descriptor: int) -> None:
    """Said, not left to close(): a process that was forked meanwhile has the same open file."""
    with contextlib.suppress(OSError):
        if _fcntl is not None:
            _fcntl.flock(descriptor, _fcntl.LOCK_UN)
    os.close(descriptor)


def _write_entry(folder: str, digest: str, pieces: Sequence[Any]) -> None:
    """Put a whole entry in place in one step.

    No fsync, which would cost as much as the writing: what a power cut takes or mangles is found by its checksums and made again.
    """
    descriptor, temporary = _new_temporary(folder, digest)
    final = os.path.join(folder, f"{digest}.entry")
    try:
        try:
            _write_pieces(descriptor, pieces)
            if _fcntl is not None:  # renamed while its lock is held, else who cleans up takes it for an orphan
                os.replace(temporary, final)
        finally:
            os.close(descriptor)
        if _fcntl is None:  # Windows renames no open file
            os.replace(temporary, final)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def _new_temporary(folder: str, digest: str) -> tuple[int, str]:
    """A new file, opened, and its path. Its lock tells those who clean up that the writer lives; who came before it removed the file."""
    while True:
        path = os.path.join(folder, f"{digest}.{secrets.token_hex(6)}.tmp")
        descriptor = os.open(path, _CREATE | os.O_EXCL, 0o600)
        locked = _flock(descriptor)
        if locked is None or (locked and _is_at(descriptor, path)):
            return descriptor, path
        os.close(descriptor)
        with contextlib.suppress(OSError):
            os.unlink(path)


def _remove_orphans(folder: str) -> None:
    """Remove temporary and lock files whose process is dead: those that nobody holds a lock of; without locks, those a day old."""
    for item in _items(folder):
        if not (_TEMPORARY.fullmatch(item.name) or _LOCK.fullmatch(item.name)):
            continue
        with contextlib.suppress(OSError):
            descriptor = os.open(item.path, os.O_RDWR | OPEN_FLAGS | getattr(os, "O_NOFOLLOW", 0))
            try:
                locked = _flock(descriptor)
                is_dead = locked if locked is not None else time.time() - os.fstat(descriptor).st_mtime > _DAY_S
                if is_dead and _is_at(descriptor, item.path):  # else the name is a newer file's, whose owner lives
                    os.unlink(item.path)
            finally:
                _unlock(descriptor)


def _items(folder: str) -> list["os.DirEntry[str]"]:
    try:
        with os.scandir(folder) as found:
            return list(found)
    except OSError:
        return []


class _Used(NamedTuple):
    """One of our files in the folder; the modification time tells when it was last used."""

    mtime: float
    size: int
    path: str
    digest: str  # "" of a temporary file


def _used(folder: str) -> list[_Used]:
    """Entries, and temporary files because they take room as well."""
    found = []
    for item in _items(folder):
        match = _ENTRY.fullmatch(item.name)
        if match or _TEMPORARY.fullmatch(item.name):
            with contextlib.suppress(OSError):
                status = item.stat(follow_symlinks=False)
                found.append(_Used(status.st_mtime, status.st_size, item.path, match[1] if match else ""))
    return found


def _require_private(folder: str) -> None:
    """Refuse a folder into which others can put files: a checksum is no proof against malice."""
    try:
        status = os.stat(folder)
    except OSError as error:
        raise StorageError(f"the cache folder {folder!r} cannot be used: {error.strerror}", errno=error.errno) from error
    if not stat.S_ISDIR(status.st_mode):
        raise StorageError(f"the cache folder {folder!r} is not a folder")
    if hasattr(os, "geteuid") and status.st_uid != os.geteuid():
        raise StorageError(f"the cache folder {folder!r} belongs to another user: choose one of your own", owner=status.st_uid)
    if os.name == "posix" and status.st_mode & stat.S_IWOTH:
        raise StorageError(f"everybody can write to the cache folder {folder!r}: choose another one, or chmod o-w", mode=status.st_mode)


def _may_be_mapped(folder: str) -> bool:
    """Not on a network file system, where another machine's eviction would end this process (SIGBUS) when it touches the map."""
    try:
        with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
            mounts = [line.split() for line in file]
    except OSError:
        return True
    here = os.path.realpath(folder) + "/"
    kinds = {mount[4].rstrip("/") + "/": mount[mount.index("-") + 1] for mount in mounts}  # a later mount covers an earlier one
    kind = kinds[max((point for point in kinds if here.startswith(point)), key=len, default="/")] if kinds else ""
    return not (kind in _NETWORK or kind.startswith("fuse"))


# --- the disk cache ---------------------------------------------------------------------------------------------------


class DiskCache:
    """Entries as files in a folder, shared by any number of processes and ranks, and kept for the next run.

    Parameters
    ----------
    folder
        Created when absent, for its owner only; by default "arrays" in the user's cache folder (or `DICOMDL_CACHE`).
    max_bytes
        What the entries may take together; those used longest ago go first. Processes that write at the same time exceed it by
        what each writes before it looks again: an entry, or a 16th of what was free.
    format
        "raw" maps the values as they are. "blosc2" compresses them (LZ4 after a shuffle), which on CT is 2.2-2.5 x smaller, and a patch
        takes 10 x longer.
    strict
        Keys are made of the contents of files (see `stack_key`).

    Raises
    ------
    StorageError
        The folder is another user's, or everybody can write to it. One that cannot be written to is no error: values are
        delivered from memory, with one `CacheWarning`.
    MissingExtra
        "blosc2" without its package.

    Notes
    -----
    What lies there are pixels of patients, so treat the folder as the source data. It pickles as its options. Nothing is open after
    construction; a process keeps up to 64 entries mapped.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str] | None = None,
        *,
        max_bytes: int = DEFAULT_DISK_BYTES,
        format: DiskFormat = "raw",
        strict: bool = False,
    ) -> None:
        if format not in ("raw", "blosc2"):
            raise UsageError(f'format={format!r}: expected "raw" or "blosc2"')
        if format == "blosc2":
            _codec()
        self.max_bytes = _checked_bytes(max_bytes)
        self.format: DiskFormat = format
        self.strict = strict
        self.folder = cache_folder("arrays") if folder is None else os.path.abspath(os.fspath(folder))
        self._begin()
        self._is_ready()

    def _begin(self) -> None:
        """What each process has of its own."""
        self._counters = _Counters()
        self._opened: OrderedDict[str, _Filed] = OrderedDict()
        self._known: OrderedDict[_Identity, bytes] = OrderedDict()
        self._recently: set[str] = set()
        self._swept = time.monotonic()
        self._allowance = 0
        self._checked = self._warned = False
        self._mapped = True

    def __getstate__(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("folder", "max_bytes", "format", "strict")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._begin()

    def __repr__(self) -> str:
        return f"DiskCache({self.folder!r}, max_bytes={self.max_bytes}, format={self.format!r}, strict={self.strict})"

    def stats(self) -> Stats:
        """What this process has asked of the cache."""
        return self._counters.stats()

    def get(self, key: Key, make: Make) -> Entry:
        """The entry of a key, made by `make` if need be. Raises what `make` raises, and StorageError for a folder as in the class."""
        body: _Body | None = self._look_up(key.digest) if self._is_ready() else None
        if body is None:
            body = self._fill(key.digest, make)
        else:
            self._counters.add("hits")
        return Entry(body, functools.partial(self._again, key.digest, make))

    def _fill(self, digest: str, make: Make) -> _Body:
        """Make an entry, unless another process has done so by the time that it is our turn."""
        if not self._checked:
            return self._made(digest, make)
        with _alone(os.path.join(self.folder, f"{digest}.lock")):
            found = self._look_up(digest, counting=True)
            if found is None:
                return self._made(digest, make)
        self._counters.add("hits")
        return found

    def _made(self, digest: str, make: Make) -> _Body:
        self._counters.add("made")
        arrays = _checked(make())
        if self._checked:
            self._store(digest, arrays)
        return _Held(arrays)

    def _again(self, digest: str, make: Make, may_be_stored: bool) -> _Body:
        """What takes the place of an entry that proved damaged while it was read."""
        self._opened.pop(digest, None)
        self._counters.add("damaged")
        if not may_be_stored:
            self._counters.add("made")
            return _Held(_checked(make()))
        with contextlib.suppress(OSError):
            os.unlink(self._path(digest))
        return self._fill(digest, make)

    def _path(self, digest: str) -> str:
        return os.path.join(self.folder, f"{digest}.entry")

    def _is_ready(self) -> bool:
        """Whether the folder is there and ours; looked at once a process, and again as long as it could not be made."""
        if self._checked and os.path.isdir(self.folder):
            return True
        try:
            make_folder(self.folder)
        except StorageError as error:
            self._warn(error)
            return False
        _require_private(self.folder)
        _remove_orphans(self.folder)
        self._mapped = _may_be_mapped(self.folder)
        self._checked = True
        return True

    def _look_up(self, digest: str, counting: bool = False) -> _Filed | None:
        """The entry's file, opened; None where there is none that can be used."""
        if time.monotonic() - self._swept > TOUCH_S:
            self._sweep()
        body = self._opened.get(digest)
        if body is None:
            try:
                body = _open_entry(self._path(digest), digest, self._mapped, self._remembered)
            except FileNotFoundError:
                return None
            except (_Lost, OSError, ValueError):  # ValueError: the file has become shorter since it was looked at
                self._counters.add("damaged", int(counting))
                return None
            self._keep(digest, body)
        self._recently.add(digest)
        with contextlib.suppress(KeyError):
            self._opened.move_to_end(digest)
        return body

    def _remembered(self, identity: _Identity) -> bytes | None:
        return self._known.pop(identity, None)

    def _keep(self, digest: str, body: _Filed) -> None:
        """Keep an entry open; close the one used longest ago where there are too many, but remember what of it is verified."""
        self._opened[digest] = body
        if abs(time.time() - body.status.st_mtime) > TOUCH_S:
            self._touch(digest, body)
        while len(self._opened) > OPEN_ENTRIES:
            with contextlib.suppress(KeyError):
                _, closed = self._opened.popitem(last=False)
                self._known[closed.identity] = closed.verified_bits()
        while len(self._known) > KNOWN_ENTRIES:
            with contextlib.suppress(KeyError):
                self._known.popitem(last=False)

    def _touch(self, digest: str, body: _Filed) -> bool:
        """Mark an entry as used, by the modification time of its file; False when the file is gone or another one."""
        path = self._path(digest)
        try:
            if not os.path.samestat(os.lstat(path), body.status):
                return False
            os.utime(path)
        except FileNotFoundError:
            return False
        except OSError:
            return True  # read only: still there
        return True

    def _sweep(self) -> None:
        """Mark what was used since the last time, and let go of files that others have removed: their bytes are free only then."""
        self._swept = time.monotonic()
        recently, self._recently = self._recently, set()
        for digest, body in list(self._opened.items()):
            if digest in recently:
                is_there = self._touch(digest, body)
            else:
                is_there = os.path.exists(self._path(digest))
            if not is_there:
                self._opened.pop(digest, None)

    def _store(self, digest: str, arrays: Arrays) -> None:
        """Write an entry; where that is not possible it is not there, and who asked for it has its values all the same."""
        try:
            pieces = _pieces(digest, arrays, self.format)
            size = sum(len(piece) for piece in pieces)
            if size > self.max_bytes:
                return
            self._make_room(size)
            _write_entry(self.folder, digest, pieces)
        except OSError as error:
            self._counters.add("failed")
            self._warn(error)
        else:
            self._counters.add("stored")

    def _warn(self, error: OSError | StorageError) -> None:
        """Say once that nothing can be stored."""
        if not self._warned:
            self._warned = True
            told = getattr(error, "strerror", None) or str(error)
            message = f"the cache in {self.folder!r} cannot store entries ({told}); values are computed each time until it can"
            warnings.warn(message, CacheWarning, stacklevel=5)

    def _make_room(self, needed: int) -> None:
        """Evict what was used longest ago. The folder is only listed when what this process may write unseen is used up."""
        if needed <= self._allowance:
            self._allowance -= needed
            return
        used = sorted(_used(self.folder))
        total = sum(one.size for one in used)
        if total + needed > self.max_bytes:
            target = self.max_bytes - needed - self.max_bytes // _SLACK
            for one in used:
                if total <= max(target, 0):
                    break
                if one.digest and self._evict(one):
                    total -= one.size
        self._allowance = max(0, self.max_bytes - total - needed) // _SLACK

    def _evict(self, one: _Used) -> bool:
        """Remove an entry. Processes that have it mapped keep their map (POSIX); Windows refuses, then it stays."""
        self._opened.pop(one.digest, None)
        try:
            os.unlink(one.path)
        except FileNotFoundError:
            return True
        except OSError:
            return False
        self._counters.add("evicted")
        return True


def _checked_bytes(max_bytes: int) -> int:
    if isinstance(max_bytes, bool) or not isinstance(max_bytes, int | np.integer) or max_bytes <= 0:
        raise UsageError(f"max_bytes={max_bytes!r}: expected a number of bytes above 0")
    return int(max_bytes)


# --- what the command line says ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class FolderReport:
    """What is in the folder of a disk cache; `str` is for people, `as_dict` for machines.

    Of the entries, `damaged` names the files that do not hold what they should (only looked for by `verify`); `oldest_use` and
    `newest_use` are seconds since 1970. `leftovers` are temporary and lock files, `foreign` what is none of ours, `removed` how many
    files `clear` removed.
    """

    folder: str
    entries: int = 0
    size_bytes: int = 0
    oldest_use: float | None = None
    newest_use: float | None = None
    leftovers: int = 0
    foreign: int = 0
    verified: bool = False
    damaged: tuple[str, ...] = ()
    removed: int = 0

    def as_dict(self) -> dict[str, Any]:
        """The fields, ready for JSON."""
        return {**dataclasses.asdict(self), "damaged": list(self.damaged)}

    def __str__(self) -> str:
        lines = [self.folder, f"  {self.entries:,} entries, {self.size_bytes / 2**20:,.1f} MiB"]
        if self.oldest_use is not None and self.newest_use is not None:
            oldest, newest = (time.strftime("%Y-%m-%d %H:%M", time.localtime(at)) for at in (self.oldest_use, self.newest_use))
            lines.append(f"  last used {oldest} to {newest}")
        if self.removed:
            lines.append(f"  {self.removed:,} files removed")
        if self.leftovers:
            lines.append(f"  {self.leftovers:,} temporary and lock files, in use or left by processes that were killed")
        if self.foreign:
            lines.append(f"  {self.foreign:,} other files, which are left alone")
        if self.verified:
            lines.append(f"  {len(self.damaged):,} damaged" + (", which will be made again:" if self.damaged else ""))
            lines.extend(f"    {name}" for name in self.damaged)
        return "\n".join(lines)


def _existing(folder: str | os.PathLike[str] | None) -> str:
    path = cache_folder("arrays") if folder is None else os.path.abspath(os.fspath(folder))
    if not os.path.isdir(path):
        raise StorageError(f"there is no cache folder {path!r}")
    return path


def show(folder: str | os.PathLike[str] | None = None) -> FolderReport:
    """What a cache folder holds (the user's by default), from a listing alone. Raises StorageError where there is none."""
    path = _existing(folder)
    used = [one for one in _used(path) if one.digest]
    names = [item.name for item in _items(path)]
    leftovers = sum(1 for name in names if _TEMPORARY.fullmatch(name) or _LOCK.fullmatch(name))
    times = [one.mtime for one in used]
    return FolderReport(
        path,
        entries=len(used),
        size_bytes=sum(one.size for one in used),
        oldest_use=min(times, default=None),
        newest_use=max(times, default=None),
        leftovers=leftovers,
        foreign=len(names) - len(used) - leftovers,
    )


def verify(folder: str | os.PathLike[str] | None = None) -> FolderReport:
    """Read every entry of a cache folder and compare all checksums; changes nothing."""
    path = _existing(folder)
    mapped, damaged = _may_be_mapped(path), []
    for one in sorted(_used(path), key=lambda one: one.path):
        if one.digest:
            try:
                _open_entry(one.path, one.digest, mapped).require_whole()
            except FileNotFoundError:
                continue  # evicted meanwhile
            except (_Lost, OSError, ValueError):
                damaged.append(os.path.basename(one.path))
    return dataclasses.replace(show(path), verified=True, damaged=tuple(damaged))


def clear(folder: str | os.PathLike[str] | None = None) -> FolderReport:
    """Remove the entries, temporary and lock files of a cache folder, and nothing else; running processes make theirs again."""
    path = _existing(folder)
    removed = 0
    for item in _items(path):
        if _ENTRY.fullmatch(item.name) or _TEMPORARY.fullmatch(item.name) or _LOCK.fullmatch(item.name):
            with contextlib.suppress(OSError):
                os.unlink(item.path)
                removed += 1
    return dataclasses.replace(show(path), removed=removed)


# --- the memory cache -------------------------------------------------------------------------------------------------
#
# control page | slots (key, key, place + 1, 0) | arena
#
# The arena is a ring: entries are written one after the other, and each new one takes the room of the oldest. Places count bytes ever
# written, so an entry is whole exactly while its place is not below TAIL, which a writer raises before it overwrites anything: a reader
# copies first and looks at TAIL afterwards. A writer that dies has published nothing.

_HEAD: Final = 0
_TAIL: Final = 1
_PROBES: Final = 8
_LINE: Final = 64
_RECORD: Final = struct.Struct("<32s8sIIQ4Q40x")  # key, dtype, ndim, mask, bytes of values, shape; 128 bytes
_STORE_WAIT_S: Final = 5.0


class _InArena:
    """An entry of a memory cache, for as long as nothing newer has taken its place."""

    def __init__(self, arena: "_Arena", place: int, digest: str) -> None:
        self._arena, self._place = arena, place
        at = place % arena.capacity
        record = arena.bytes[at : at + _RECORD.size].tobytes()
        if len(record) < _RECORD.size:
            raise _Lost
        key, dtype, ndim, has_mask, size, *shape = _RECORD.unpack(record)
        if key.hex() != digest or not arena.is_whole(place):
            raise _Lost
        self.shape, self.dtype, self.has_mask = tuple(shape[:ndim]), _DTYPES[dtype.rstrip(b"\0").decode()], bool(has_mask)
        start = at + _RECORD.size
        self._values = arena.bytes[start : start + size].view(self.dtype).reshape(self.shape)
        mask_shape = (*self.shape[:2], -(-self.shape[2] // 8))
        start += _aligned(size, _LINE)
        self._mask = arena.bytes[start : start + int(np.prod(mask_shape))].reshape(mask_shape) if has_mask else None

    def values(self, box: Box) -> Values:
        return self._if_whole(self._values[_index(box)].copy())

    def mask(self, box: Box) -> Mask:
        assert self._mask is not None
        return self._if_whole(_unpacked(self._mask[slice(*box[0])], *box[1:]))

    def _if_whole(self, copied: Values) -> Values:
        if not self._arena.is_whole(self._place):
            raise _Lost
        return copied


class _Arena:
    """Memory that several processes have mapped, with a directory in it; nameless, so that nothing outlives the last of them."""

    def __init__(self, capacity: int, descriptor: int | None = None) -> None:
        self.capacity = _aligned(capacity)
        slots = 1 << max(10, min(20, (self.capacity // 2**16).bit_length()))
        directory = _aligned(_PAGE + (slots + _PROBES) * 32)
        self.descriptor = _nameless(directory, self.capacity) if descriptor is None else descriptor
        weakref.finalize(self, os.close, self.descriptor)
        map_ = mmap.mmap(self.descriptor, directory + self.capacity)
        self._map, self._arena_at, self._slot_count = map_, directory, slots
        self._control = np.frombuffer(map_, np.uint64, 2)
        self._slots = np.frombuffer(map_, np.uint64, (slots + _PROBES) * 4, _PAGE).reshape(-1, 4)
        self.bytes = np.frombuffer(map_, np.uint8, self.capacity, directory)
        self.bytes.flags.writeable = False
        self._begin()

    def _begin(self) -> None:
        self._process = os.getpid()
        self._threads = threading.Lock()
        self._making: dict[str, threading.Lock] = {}

    def _renew(self) -> None:
        """A forked process has its own threads, and so its own locks among them."""
        if self._process != os.getpid():
            self._begin()

    def is_whole(self, place: int) -> bool:
        """Whether what was written at a place has not been overwritten, not even in part."""
        return place >= int(self._control[_TAIL])

    def find(self, digest: str) -> _InArena | None:
        """The entry of a key, if it is here."""
        first, second, row = self._hashed(digest)
        for one, two, place, _ in self._slots[row : row + _PROBES].tolist():
            if (one, two) == (first, second) and place:
                with contextlib.suppress(_Lost):
                    return _InArena(self, place - 1, digest)
        return None

    def _hashed(self, digest: str) -> tuple[int, int, int]:
        first, second = int(digest[:16], 16), int(digest[16:32], 16)
        return first, second, second % self._slot_count

    def put(self, digest: str, arrays: Arrays) -> bool:
        """Write an entry in the place of the oldest; False where it is larger than the arena, or the others are too busy."""
        values, packed = arrays.values, _packed(arrays.mask)
        size = _RECORD.size + _aligned(values.nbytes, _LINE) + (0 if packed is None else _aligned(packed.nbytes, _LINE))
        if size > self.capacity:
            return False
        with self._held(0, self._threads, _STORE_WAIT_S) as alone:
            if not alone:
                return False
            head = max(int(self._control[_HEAD]), int(self._control[_TAIL]))
            left = self.capacity - head % self.capacity
            place = head if size <= left else head + left  # an entry lies in one piece
            self._control[_TAIL] = max(int(self._control[_TAIL]), place + size - self.capacity)
            shape = (*values.shape, 0)[:4]
            names = bytes.fromhex(digest), values.dtype.str.encode()
            record = _RECORD.pack(*names, values.ndim, int(packed is not None), values.nbytes, *shape)
            at = self._arena_at + place % self.capacity
            self._write(record, at)
            self._write(values, at + _RECORD.size)
            if packed is not None:
                self._write(packed, at + _RECORD.size + _aligned(values.nbytes, _LINE))
            self._control[_HEAD] = place + size
            self._publish(digest, place)
        return True

    def _write(self, data: Any, offset: int) -> None:
        """By system calls, not through the map: where memory is out they raise."""
        rest = memoryview(data).cast("B")
        while rest:
            written = os.pwrite(self.descriptor, rest, offset)
            rest, offset = rest[written:], offset + written

    def _publish(self, digest: str, place: int) -> None:
        first, second, row = self._hashed(digest)
        tail = int(self._control[_TAIL])
        window = self._slots[row : row + _PROBES].tolist()
        same = [number for number, slot in enumerate(window) if (slot[0], slot[1]) == (first, second)]
        oldest = min(range(_PROBES), key=lambda number: window[number][2] if window[number][2] > tail else 0)
        slot = self._slots[row + (same[0] if same else oldest)]
        slot[2] = 0
        slot[0], slot[1] = first, second
        slot[2] = place + 1

    @contextlib.contextmanager
    def making(self, digest: str) -> Iterator[None]:
        """Be the only thread of the only process that makes an entry, if that can be had in `LOCK_WAIT_S`."""
        self._renew()
        lock = self._making.setdefault(digest, threading.Lock())
        try:
            with self._held(1 + int(digest[:14], 16), lock, LOCK_WAIT_S):
                yield
        finally:
            self._making.pop(digest, None)

    @contextlib.contextmanager
    def _held(self, byte: int, lock: threading.Lock, wait_s: float) -> Iterator[bool]:
        """Hold a lock among threads and a record lock of one byte among processes; whether both could be had.

        Record locks belong to a process, forked or not, and go with it when it dies.
        """
        end = time.monotonic() + wait_s
        if not lock.acquire(timeout=wait_s):
            yield False
            return
        locked = False
        try:
            locked = self._record_lock(byte, end)
            yield locked
        finally:
            if locked and _fcntl is not None:
                with contextlib.suppress(OSError):
                    _fcntl.lockf(self.descriptor, _fcntl.LOCK_UN, 1, byte)
            lock.release()

    def _record_lock(self, byte: int, end: float) -> bool:
        pause = 0.0005
        while _fcntl is not None:
            try:
                _fcntl.lockf(self.descriptor, _fcntl.LOCK_EX | _fcntl.LOCK_NB, 1, byte)
            except (BlockingIOError, PermissionError):  # POSIX lets a system choose between EAGAIN and EACCES
                if time.monotonic() > end:
                    return False
                time.sleep(pause)
                pause = min(pause * 1.5, 0.01)
            except OSError:
                return False
            else:
                return True
        return True  # Windows: the arena is one process's own


def _nameless(directory: int, capacity: int) -> int:
    """The descriptor of memory (Linux) or of a file without a name; pages are only taken as they are filled, but those of the directory."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("dicomdl", os.MFD_CLOEXEC)
    else:
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    os.ftruncate(descriptor, directory + capacity)
    os.lseek(descriptor, 0, os.SEEK_SET)
    rest = memoryview(bytes(directory))
    while rest:
        rest = rest[os.write(descriptor, rest) :]
    return descriptor


class MemoryCache:
    """Entries in memory that all workers of a DataLoader share, whatever their start method; the oldest make room for new ones.

    Parameters
    ----------
    max_bytes
        What the entries may take together; by default 4 GiB, or a quarter of the machine's memory if that is less. Memory is taken as
        it is filled.
    strict
        Keys are made of the contents of files (see `stack_key`).

    Notes
    -----
    Processes that a loader starts get the same memory, by fork or by a descriptor that is handed over; it has no name and goes with the
    last of them. Pickled otherwise (to a file, to another machine) it becomes an empty cache with the same options. Entries
    larger than the cache are made each time. Windows: each worker has an own one of `max_bytes`.
    """

    def __init__(self, max_bytes: int | None = None, *, strict: bool = False) -> None:
        self.max_bytes = _checked_bytes(_default_memory() if max_bytes is None else max_bytes)
        self.strict = strict
        self._counters = _Counters()
        self._warned = False
        self._arena = _Arena(self.max_bytes)

    def __reduce__(self) -> tuple[Any, ...]:
        if _fcntl is None or context.get_spawning_popen() is None:
            return functools.partial(MemoryCache, strict=self.strict), (self.max_bytes,)
        return _attached, (self.max_bytes, self.strict, reduction.DupFd(self._arena.descriptor))

    def __copy__(self) -> "MemoryCache":
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> "MemoryCache":
        return self

    def __repr__(self) -> str:
        return f"MemoryCache({self.max_bytes}, strict={self.strict})"

    def stats(self) -> Stats:
        """What this process has asked of the cache."""
        return self._counters.stats()

    def get(self, key: Key, make: Make) -> Entry:
        """The entry of a key, made by `make` if need be. Raises what `make` raises."""
        body: _Body | None = self._arena.find(key.digest)
        if body is None:
            body = self._fill(key.digest, make)
        else:
            self._counters.add("hits")
        return Entry(body, functools.partial(self._again, key.digest, make))

    def _fill(self, digest: str, make: Make) -> _Body:
        with self._arena.making(digest):
            body = self._arena.find(digest)
            if body is None:
                return self._made(digest, make)
        self._counters.add("hits")
        return body

    def _made(self, digest: str, make: Make) -> _Body:
        self._counters.add("made")
        arrays = _checked(make())
        try:
            self._counters.add("stored", int(self._arena.put(digest, arrays)))
        except OSError as error:
            self._counters.add("failed")
            if not self._warned:
                self._warned = True
                message = f"the memory cache cannot store entries ({error.strerror}); values are computed each time until it can"
                warnings.warn(message, CacheWarning, stacklevel=4)
        return _Held(arrays)

    def _again(self, digest: str, make: Make, may_be_stored: bool) -> _Body:
        self._counters.add("evicted")
        return self._fill(digest, make) if may_be_stored else _Held(_checked(make()))


def _default_memory() -> int:
    try:
        quarter = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 4
    except (AttributeError, ValueError, OSError):
        return DEFAULT_MEMORY_BYTES
    return min(DEFAULT_MEMORY_BYTES, quarter)


def _attached(max_bytes: int, strict: bool, handed: Any) -> MemoryCache:
    """In a process that was just started: the same memory, by the descriptor that came along."""
    cache = MemoryCache.__new__(MemoryCache)
    cache.max_bytes, cache.strict = max_bytes, strict
    cache._counters, cache._warned = _Counters(), False
    cache._arena = _Arena(max_bytes, handed.detach())
    return cache
