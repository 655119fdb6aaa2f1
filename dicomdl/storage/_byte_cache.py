"""Byte cache: ranges of objects that were read once, in files of the user's cache folder.

One file per object in one state, to which ranges are appended: a head with offset, length and
XXH3 checksum, then the bytes. The first range is empty, and its offset a random number by which a
file differs from the one that was removed before it. A range is verified at its first use in a
process. After that, a read costs the system calls of a local file. A file that does not read as it
should is removed, and the bytes are asked for again. The files used longest ago are removed beyond
the limit.
"""

import contextlib
import functools
import hashlib
import os
import re
import secrets
import struct
import threading
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import xxhash

from dicomdl.errors import StorageError, UsageError
from dicomdl.storage.publishing import (
    cache_folder,
    files_by_use,
    make_folder,
    removed_first,
    require_private,
)
from dicomdl.storage.system import OPEN_FLAGS, read_at, read_into

VARIABLE: Final = "DICOMDL_BYTE_CACHE"
# The folder below the user's cache folder.
PART: Final = "bytes"
DEFAULT_BYTES: Final = 8 * 2**30
_UNITS: Final = {"": 1, "k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}
_MAGIC: Final = b"dicomdl1"
# Magic, offset, length, checksum of the bytes, checksum of the head before it.
_HEAD: Final = struct.Struct("<8sQQQ")
_CHECKSUM: Final = struct.Struct("<Q")
_HEAD_BYTES: Final = _HEAD.size + _CHECKSUM.size
_NAME: Final = re.compile(r"[0-9a-f]{40}\.bytes")
_NO_LINK: Final = getattr(os, "O_NOFOLLOW", 0)
_APPEND: Final = (
    os.O_WRONLY
    | os.O_APPEND
    | os.O_CREAT
    | _NO_LINK
    | getattr(os, "O_CLOEXEC", 0)
    | getattr(os, "O_BINARY", 0)
)
# Files whose ranges a process remembers.
_MOST_KNOWN: Final = 16384


class _Range(NamedTuple):
    """A range of an object in its file."""

    start: int
    stop: int
    position: int
    checksum: int


@dataclass(slots=True)
class _Known:
    """The ranges of one file, by its first head and its size.

    Its inode would not do: a file system gives that of a removed file to the next one.
    """

    identity: tuple[bytes, int]
    ranges: list[_Range]
    verified: set[int] = field(default_factory=set)

    def at(self, offset: int) -> _Range | None:
        """Return the range at `offset` that reaches farthest."""
        found = [each for each in self.ranges if each.start <= offset < each.stop]
        return max(found, key=lambda each: each.stop, default=None)


class ByteCache:
    """A bounded folder of ranges of objects."""

    def __init__(self, folder: str, limit_bytes: int) -> None:
        self.folder, self.limit_bytes = folder, limit_bytes
        self._known: OrderedDict[str, _Known] = OrderedDict()
        self._lock = threading.Lock()
        # So that the first write of every process removes what others have left over the limit.
        self._unswept = limit_bytes

    def read_into(self, digest: str, buffer: memoryview, offset: int) -> tuple[int, int] | None:
        """Fill `buffer` from `offset` of an object; return the range that is missing, or None.

        The missing range reaches from the first missing byte to the last.
        """
        wanted = offset, offset + buffer.nbytes
        try:
            descriptor = os.open(self._path(digest), OPEN_FLAGS | _NO_LINK)
        except OSError:
            return wanted
        try:
            known = self._ranges(digest, descriptor)
            missing = _missing(known, *wanted)
            if missing is not None:
                return missing
            if self._filled(known, descriptor, buffer, offset):
                return None
        except OSError:
            return wanted
        finally:
            os.close(descriptor)
        self._remove(digest)
        return wanted

    def _filled(self, known: _Known, descriptor: int, buffer: memoryview, offset: int) -> bool:
        """Fill the buffer from ranges that cover it; False if one of them is damaged."""
        position, stop = offset, offset + buffer.nbytes
        while position < stop:
            part = known.at(position)
            if part is None:
                return False
            end = min(part.stop, stop)
            target = buffer[position - offset : end - offset]
            begin = part.position + position - part.start
            if part.position in known.verified:
                if read_into(descriptor, target, begin) != end - position:
                    return False
            else:
                data = read_at(descriptor, part.stop - part.start, part.position)
                if xxhash.xxh3_64_intdigest(data) != part.checksum:
                    return False
                known.verified.add(part.position)
                target[:] = data[position - part.start : end - part.start]
            position = end
        return True

    def add(self, digest: str, offset: int, data: Any) -> None:
        """Append a range of an object. A file system that refuses leaves the cache as it is."""
        view = memoryview(data)
        head = _head(offset, view)
        self._sweep(len(head) + view.nbytes)
        try:
            # The folder may have been removed since this process began.
            make_folder(self.folder)
            descriptor = os.open(self._path(digest), _APPEND, 0o600)
        except OSError:
            return
        try:
            if os.fstat(descriptor).st_size == 0:
                head = _head(secrets.randbits(64), memoryview(b"")) + head
            # One call, so that ranges of several processes do not mix.
            whole = _write(descriptor, head, view) == len(head) + view.nbytes
        except OSError:
            whole = False
        finally:
            os.close(descriptor)
        if not whole:
            self._remove(digest)

    def replace(self, digest: str, data: Any) -> None:
        """Put bytes in place of all that the cache has of an object."""
        self._remove(digest)
        self.add(digest, 0, data)

    def _path(self, digest: str) -> str:
        return os.path.join(self.folder, f"{digest}.bytes")

    def _remove(self, digest: str) -> None:
        with contextlib.suppress(OSError):
            os.unlink(self._path(digest))

    def _ranges(self, digest: str, descriptor: int) -> _Known:
        size = os.fstat(descriptor).st_size
        identity = read_at(descriptor, _HEAD_BYTES, 0), size
        with self._lock:
            known = self._known.get(digest)
        if known is not None and known.identity == identity:
            return known
        before = known.verified if known and known.identity[0] == identity[0] else set()
        ranges, is_sound = _parsed(descriptor, size)
        if not is_sound:
            # Ranges behind a damaged head would be hidden for ever.
            self._remove(digest)
            return _Known(identity, [])
        known = _Known(identity, ranges, set(before))
        with contextlib.suppress(OSError):
            # The time of the last use, which decides what is removed first.
            os.utime(self._path(digest))
        with self._lock:
            self._known[digest] = known
            self._known.move_to_end(digest)
            while len(self._known) > _MOST_KNOWN:
                self._known.popitem(last=False)
        return known

    def _sweep(self, more: int) -> None:
        """Remove the files used longest ago, after each sixteenth of the limit that was written."""
        with self._lock:
            self._unswept += more
            if self._unswept < self.limit_bytes // 16:
                return
            self._unswept = 0
        files = used_files(self.folder)
        total = sum(size for _, size, _ in files)
        for _, size, path in sorted(files, key=lambda file: removed_first(file[0])):
            if total <= self.limit_bytes - self.limit_bytes // 16:
                break
            with contextlib.suppress(OSError):
                os.unlink(path)
                total -= size


def used_files(folder: str) -> list[tuple[float, int, str]]:
    """Return the time of the last use, the bytes and the path of each file of the cache."""
    return files_by_use(folder, _NAME)


def damaged_files(folder: str) -> tuple[str, ...]:
    """Return the names of the files with a range that does not have its checksum."""
    found = []
    for _, size, path in used_files(folder):
        with contextlib.suppress(FileNotFoundError), open(path, "rb", buffering=0) as file:
            ranges, is_sound = _parsed(file.fileno(), size)
            if not is_sound or not all(_is_sound(file.fileno(), each) for each in ranges):
                found.append(os.path.basename(path))
    return tuple(sorted(found))


def _is_sound(descriptor: int, part: _Range) -> bool:
    data = read_at(descriptor, part.stop - part.start, part.position)
    return xxhash.xxh3_64_intdigest(data) == part.checksum


def clear(folder: str) -> int:
    """Remove all files of the cache; return their bytes. Running processes ask again."""
    total = 0
    for _, size, path in used_files(folder):
        with contextlib.suppress(OSError):
            os.unlink(path)
            total += size
    return total


def _head(offset: int, data: memoryview) -> bytes:
    head = _HEAD.pack(_MAGIC, offset, data.nbytes, xxhash.xxh3_64_intdigest(data))
    return head + _CHECKSUM.pack(xxhash.xxh3_64_intdigest(head))


def _write(descriptor: int, head: bytes, data: memoryview) -> int:
    if hasattr(os, "writev"):
        return os.writev(descriptor, [head, data])
    return os.write(descriptor, head + bytes(data))


def _parsed(descriptor: int, size: int) -> tuple[list[_Range], bool]:
    """Return the complete ranges of a file, and whether all heads are sound.

    The last range may be one that another process is writing.
    """
    ranges, position = [], 0
    while position + _HEAD_BYTES <= size:
        head = read_at(descriptor, _HEAD_BYTES, position)
        if len(head) < _HEAD_BYTES:
            break
        (declared,) = _CHECKSUM.unpack_from(head, _HEAD.size)
        magic, offset, length, checksum = _HEAD.unpack_from(head)
        if xxhash.xxh3_64_intdigest(head[: _HEAD.size]) != declared or magic != _MAGIC:
            return [], False
        position += _HEAD_BYTES
        if position + length > size:
            break
        ranges.append(_Range(offset, offset + length, position, checksum))
        position += length
    return sorted(ranges), True


def _missing(known: _Known, start: int, stop: int) -> tuple[int, int] | None:
    """Return the range from the first to the last byte that no range covers; None if all are."""
    while start < stop and (part := known.at(start)) is not None:
        start = part.stop
    if start >= stop:
        return None
    while (part := known.at(stop - 1)) is not None:
        stop = part.start
    return start, stop


def digest_of(url: str, size: int, mtime_ns: int, etag: str) -> str:
    """Return the name of an object in one state; the ETag alone tells the state if there is one."""
    state = f"{url}\n{size}\n{etag or mtime_ns}"
    return hashlib.blake2b(state.encode("utf-8", "surrogateescape"), digest_size=20).hexdigest()


def limit_bytes() -> int:
    """Return ``$DICOMDL_BYTE_CACHE``, such as "20G", in bytes; 0 switches the cache off.

    Raises
    ------
    UsageError
        The variable is no size.
    """
    text = os.environ.get(VARIABLE, "")
    if not text:
        return DEFAULT_BYTES
    match = re.fullmatch(r"(\d+(?:\.\d*)?)\s*([kmgt]?)(?:i?b)?", text.strip().lower())
    if match is None:
        raise UsageError(f"{VARIABLE} is {text!r}: expected a size such as 20G, or 0 for no cache")
    return int(float(match[1]) * _UNITS[match[2]])


def byte_cache() -> ByteCache | None:
    """Return the cache of this process; None if it is switched off or its folder is no good."""
    return _cache_at(os.environ.get("DICOMDL_CACHE"), os.environ.get(VARIABLE), os.getpid())


# Small: one per value of two variables.
@functools.lru_cache(maxsize=4)
def _cache_at(_root: str | None, _limit: str | None, _process: int) -> ByteCache | None:
    limit = limit_bytes()
    if not limit:
        return None
    try:
        folder = cache_folder(PART)
        require_private(folder)
    except StorageError:
        # Reading goes on without: the data are in the store.
        return None
    return ByteCache(folder, limit)
