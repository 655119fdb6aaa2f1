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
import json
import os
import re
import time
import warnings
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing import context, reduction
from typing import Any, Final, Literal, Protocol, TypeAlias, runtime_checkable

import numpy as np

from dicomdl.errors import FileChanged, PixelError, StorageError, UsageError
from dicomdl.storage import locks
from dicomdl.storage.cache import folder as cachefolder
from dicomdl.storage.cache.entries import FORMAT_VERSION, Body, Filed, Held, Identity, Lost, blosc2_codec, checked_arrays, file_pieces
from dicomdl.storage.cache.entries import Arrays as Arrays
from dicomdl.storage.cache.entries import Entry as Entry
from dicomdl.storage.cache.folder import FolderReport as FolderReport
from dicomdl.storage.cache.folder import clear as clear
from dicomdl.storage.cache.folder import show as show
from dicomdl.storage.cache.folder import verify as verify
from dicomdl.storage.cache.ring import Arena
from dicomdl.storage.publishing import cache_folder, make_folder
from dicomdl.version import __version__

DiskFormat = Literal["raw", "blosc2"]
Make: TypeAlias = Callable[[], Arrays]

VALUES_VERSION: Final = 1  # part of every key: raise it when the same files and options come to give other values

DEFAULT_DISK_BYTES: Final = 50 * 2**30
DEFAULT_MEMORY_BYTES: Final = 4 * 2**30
TOUCH_S: Final = 60.0  # an entry's file is marked as used once in so many seconds at most
OPEN_ENTRIES: Final = 64  # mapped by one process at a time, a descriptor each; mapping one again takes 0.1 ms
KNOWN_ENTRIES: Final = 16384  # of which a process remembers what it verified, 128 bytes for a CT
_SLACK: Final = 16  # eviction frees so much that a 16th of the limit is free; a process writes a 16th of what is free before it looks again


class CacheWarning(UserWarning):
    """A cache cannot store what it is given; values are delivered all the same."""


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
            blosc2_codec()
        self.max_bytes = _checked_bytes(max_bytes)
        self.format: DiskFormat = format
        self.strict = strict
        self.folder = cache_folder("arrays") if folder is None else os.path.abspath(os.fspath(folder))
        self._begin()
        self._is_ready()

    def _begin(self) -> None:
        """What each process has of its own."""
        self._counters = _Counters()
        self._opened: OrderedDict[str, Filed] = OrderedDict()
        self._known: OrderedDict[Identity, bytes] = OrderedDict()
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
        body: Body | None = self._look_up(key.digest) if self._is_ready() else None
        if body is None:
            body = self._fill(key.digest, make)
        else:
            self._counters.add("hits")
        return Entry(body, functools.partial(self._again, key.digest, make))

    def _fill(self, digest: str, make: Make) -> Body:
        """Make an entry, unless another process has done so by the time that it is our turn."""
        if not self._checked:
            return self._made(digest, make)
        with locks.alone(os.path.join(self.folder, f"{digest}.lock")):
            found = self._look_up(digest, counting=True)
            if found is None:
                return self._made(digest, make)
        self._counters.add("hits")
        return found

    def _made(self, digest: str, make: Make) -> Body:
        self._counters.add("made")
        arrays = checked_arrays(make())
        if self._checked:
            self._store(digest, arrays)
        return Held(arrays)

    def _again(self, digest: str, make: Make, may_be_stored: bool) -> Body:
        """What takes the place of an entry that proved damaged while it was read."""
        self._opened.pop(digest, None)
        self._counters.add("damaged")
        if not may_be_stored:
            self._counters.add("made")
            return Held(checked_arrays(make()))
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
        cachefolder.require_private(self.folder)
        cachefolder.remove_orphans(self.folder)
        self._mapped = cachefolder.may_be_mapped(self.folder)
        self._checked = True
        return True

    def _look_up(self, digest: str, counting: bool = False) -> Filed | None:
        """The entry's file, opened; None where there is none that can be used."""
        if time.monotonic() - self._swept > TOUCH_S:
            self._sweep()
        body = self._opened.get(digest)
        if body is None:
            try:
                body = cachefolder.open_entry(self._path(digest), digest, self._mapped, self._remembered)
            except FileNotFoundError:
                return None
            except (Lost, OSError, ValueError):  # ValueError: the file has become shorter since it was looked at
                self._counters.add("damaged", int(counting))
                return None
            self._keep(digest, body)
        self._recently.add(digest)
        with contextlib.suppress(KeyError):
            self._opened.move_to_end(digest)
        return body

    def _remembered(self, identity: Identity) -> bytes | None:
        return self._known.pop(identity, None)

    def _keep(self, digest: str, body: Filed) -> None:
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

    def _touch(self, digest: str, body: Filed) -> bool:
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
            pieces = file_pieces(digest, arrays, self.format)
            size = sum(len(piece) for piece in pieces)
            if size > self.max_bytes:
                return
            self._make_room(size)
            cachefolder.write_entry(self.folder, digest, pieces)
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
        used = sorted(cachefolder.used_files(self.folder))
        total = sum(one.size for one in used)
        if total + needed > self.max_bytes:
            target = self.max_bytes - needed - self.max_bytes // _SLACK
            for one in used:
                if total <= max(target, 0):
                    break
                if one.digest and self._evict(one):
                    total -= one.size
        self._allowance = max(0, self.max_bytes - total - needed) // _SLACK

    def _evict(self, one: cachefolder.Used) -> bool:
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


# --- the memory cache -------------------------------------------------------------------------------------------------


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
        self._arena = Arena(self.max_bytes)

    def __reduce__(self) -> tuple[Any, ...]:
        if not locks.available() or context.get_spawning_popen() is None:
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
        body: Body | None = self._arena.find(key.digest)
        if body is None:
            body = self._fill(key.digest, make)
        else:
            self._counters.add("hits")
        return Entry(body, functools.partial(self._again, key.digest, make))

    def _fill(self, digest: str, make: Make) -> Body:
        with self._arena.making(digest):
            body = self._arena.find(digest)
            if body is None:
                return self._made(digest, make)
        self._counters.add("hits")
        return body

    def _made(self, digest: str, make: Make) -> Body:
        self._counters.add("made")
        arrays = checked_arrays(make())
        try:
            self._counters.add("stored", int(self._arena.put(digest, arrays)))
        except OSError as error:
            self._counters.add("failed")
            if not self._warned:
                self._warned = True
                message = f"the memory cache cannot store entries ({error.strerror}); values are computed each time until it can"
                warnings.warn(message, CacheWarning, stacklevel=4)
        return Held(arrays)

    def _again(self, digest: str, make: Make, may_be_stored: bool) -> Body:
        self._counters.add("evicted")
        return self._fill(digest, make) if may_be_stored else Held(checked_arrays(make()))


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
    cache._arena = Arena(max_bytes, handed.detach())
    return cache
