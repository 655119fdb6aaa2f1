"""Sources and handles: a file in one state, and an open file from which byte ranges are read.

The state is size, modification time, change time, inode and, for an object of a store, its ETag. A
program that rewrites a file and sets the modification time back still moves the change time, which
no program can set. `chmod`, a new
hard link and a copy of the data set move the change time too, although the content is unchanged.
Such a file is refused as well, and the next scan reads only that file again. `MovedPath` relaxes
the comparison, for files below a moved root and for indexes opened with `strict_files=False`. On
Windows the change time is the time of creation, so there the inode is compared in addition. Other
systems do not compare the inode: it adds nothing to the change time, and file systems in user space
number their files anew at every mount.
"""

import io
import os
from typing import Any, Final, NamedTuple, Protocol, TypeAlias

from dicomdl.arrays import Values
from dicomdl.errors import FileChanged, TruncatedPixels
from dicomdl.storage.locations import is_url
from dicomdl.storage.system import OPEN_FLAGS, read_at, read_into

# Size in bytes, modification time and change time in ns, inode, ETag of an object of a store.
State: TypeAlias = tuple[int, int, int, int, str]

UNKNOWN: Final = -1
COMPARED: Final = 4 if os.name == "nt" else 3
# Of a file below a moved root: size and modification time.
COMPARED_IF_MOVED: Final = 2
# Those of an inode that fit the index.
INODE_BITS: Final = 2**63 - 1
_SIGN: Final = 2**63


class Status(Protocol):
    """What `os.stat` tells of a file, and an archive or a store of what is in it."""

    @property
    def st_size(self) -> int:
        """Size in bytes."""

    @property
    def st_mtime_ns(self) -> int:
        """Modification time in ns."""

    @property
    def st_ctime_ns(self) -> int:
        """Change time in ns."""

    @property
    def st_ino(self) -> int:
        """Inode."""


def state_of(status: Status) -> State:
    """Return size in bytes, modification time and change time in ns, inode, and no ETag.

    Scans compare the first `COMPARED` entries. The inode is reduced to its low 63 bits, which fit
    the index; it is 0 on file systems without inodes.
    """
    inode = status.st_ino & INODE_BITS
    return status.st_size, stored_ns(status.st_mtime_ns), stored_ns(status.st_ctime_ns), inode, ""


def stored_ns(time_ns: int) -> int:
    """Return a time of a file in 64 bits, which fit the index: those after 2262 wrap around.

    A clock that was wrong once, or a damaged inode, leaves such times.
    """
    if -_SIGN <= time_ns < _SIGN:
        return time_ns
    return (time_ns + _SIGN) % (2 * _SIGN) - _SIGN


class MovedPath(str):
    """A path below a root that was moved since the scan, or whose change times are not stable.

    A copy has another change time and another inode, so only size and modification time of the
    file are compared with the scan.
    """

    __slots__ = ()


class Source(NamedTuple):
    """A file in one state: as the scan saw it, or as it is now.

    The class is a tuple for speed: one is created per frame that is read. `mtime_ns` is UNKNOWN for
    a file that no scan has seen; such a file is accepted in any state. An UNKNOWN `ctime_ns` and an
    `inode` of 0 are not compared. `etag` is "" for a file.
    """

    path: str
    size: int = UNKNOWN
    mtime_ns: int = UNKNOWN
    ctime_ns: int = UNKNOWN
    inode: int = 0
    etag: str = ""

    def check(self, status: Status) -> None:
        """Raise FileChanged if `status` describes the file in another state."""
        if (
            status.st_size == self.size
            and stored_ns(status.st_mtime_ns) == self.mtime_ns
            and (
                (
                    self.ctime_ns in (UNKNOWN, stored_ns(status.st_ctime_ns))
                    and (COMPARED == 3 or self._is_inode(status))
                )
                or isinstance(self.path, MovedPath)
            )
        ):
            return
        if self.mtime_ns == UNKNOWN:
            return
        cure = "scan again"
        if isinstance(self.path, MovedPath):
            cure = "copy the data with its times (cp -p, rsync -a), or scan again"
        if status.st_size != self.size:
            change = f"{self.size} bytes then, {status.st_size} now"
        elif stored_ns(status.st_mtime_ns) != self.mtime_ns:
            change = "another modification time"
        else:
            change = "rewritten with its old time, copied, linked, or given other permissions"
            cure += "; open_index(path, strict_files=False) disregards change times"
        raise FileChanged(
            f"the file changed after it was scanned ({change}): {cure}",
            expected_bytes=self.size,
            found_bytes=status.st_size,
        )

    def _is_inode(self, status: Status) -> bool:
        return status.st_ino & INODE_BITS == self.inode or 0 in (self.inode, status.st_ino)


class Handle(Protocol):
    """An open source of bytes. An OSError of the system passes through."""

    @property
    def source(self) -> Source:
        """The file, and its state when it was opened."""

    @property
    def size(self) -> int:
        """The size in bytes when it was opened."""

    def check(self, expected: Source) -> None:
        """Raise FileChanged if the file is not in the expected state."""

    def read_at(self, offset: int, length: int) -> bytes:
        """Read up to `length` bytes at `offset`; fewer at the end."""

    def read_into(self, buffer: memoryview, offset: int) -> int:
        """Fill `buffer` from `offset`; return the number of bytes read, which may be fewer."""

    def close(self) -> None:
        """Release the resources of the system."""


class NotFetched(OSError):
    """Bytes of an object that are not here yet; whoever raised it to is asked to come again.

    Attributes
    ----------
    offset, length
        The range.
    """

    def __init__(self, offset: int, length: int) -> None:
        super().__init__(f"bytes {offset} to {offset + length} were not asked for yet")
        self.offset, self.length = offset, length


class LocalFile:
    """A file on a mounted file system."""

    __slots__ = ("_descriptor", "_path", "_status")

    def __init__(self, path: str, expected: Source | None = None, flags: int = OPEN_FLAGS) -> None:
        self._path = path
        self._descriptor = descriptor = os.open(path, flags)
        try:
            self._status = status = os.fstat(descriptor)
            if expected is not None:
                expected.check(status)
        except BaseException:
            os.close(descriptor)
            raise

    @property
    def source(self) -> Source:
        """The file, and its state when it was opened."""
        return Source(self._path, *state_of(self._status))

    @property
    def size(self) -> int:
        """The size in bytes when it was opened."""
        return self._status.st_size

    @property
    def descriptor(self) -> int:
        """The descriptor, which stays open until `close`."""
        return self._descriptor

    def check(self, expected: Source) -> None:
        """Raise FileChanged if the file is not in the expected state."""
        expected.check(self._status)

    def read_at(self, offset: int, length: int) -> bytes:
        """Read up to `length` bytes at `offset`; fewer at the end."""
        return read_at(self._descriptor, length, offset)

    def read_into(self, buffer: memoryview, offset: int) -> int:
        """Fill `buffer` from `offset`; return the number of bytes read, which may be fewer."""
        return read_into(self._descriptor, buffer, offset)

    def close(self) -> None:
        """Close the descriptor."""
        os.close(self._descriptor)


def read_exactly(handle: Handle, buffer: Values, offset: int) -> None:
    """Fill `buffer` from `offset`, without a copy; TruncatedPixels if the file is too short.

    One call is enough unless there are more than 2 GiB.
    """
    found, needed = handle.read_into(buffer.data, offset), buffer.nbytes
    while 0 < found < needed:
        more = handle.read_into(buffer.data.cast("B")[found:], offset + found)
        if more == 0:
            break
        found += more
    if found < needed:
        raise truncated(needed, found)


def read_range(handle: Handle, offset: int, length: int) -> bytes:
    """Return `length` bytes at `offset`, in as many system calls as necessary.

    Raises TruncatedPixels if the file ends before. A range beyond the size of the file when it was
    opened is refused before memory for it is allocated.
    """
    if offset + length > handle.size:
        raise truncated(length, max(0, handle.size - offset))
    data = handle.read_at(offset, length)
    while len(data) < length:
        more = handle.read_at(offset + len(data), length - len(data))
        if not more:
            raise truncated(length, len(data))
        data += more
    return data


def truncated(expected_bytes: int, found_bytes: int) -> TruncatedPixels:
    """Return the error for a frame with missing bytes."""
    return TruncatedPixels(
        f"the frame needs {expected_bytes} bytes, found {found_bytes}",
        expected_bytes=expected_bytes,
        found_bytes=found_bytes,
    )


# Bytes of one request for a library that reads a few at a time.
_REMOTE_BUFFER: Final = 256 * 2**10


class _Stream(io.RawIOBase):
    def __init__(self, handle: Handle) -> None:
        self._handle, self._position = handle, 0

    @property
    def name(self) -> str:
        """The path, which pydicom reads from file objects."""
        return self._handle.source.path

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._position}.get(whence, self._handle.size)
        self._position = max(0, start + offset)
        return self._position

    def readinto(self, buffer: Any) -> int:
        count = self._handle.read_into(memoryview(buffer), self._position)
        self._position += count
        return count


def as_stream(handle: Handle) -> io.BufferedReader:
    """Wrap a handle as a binary file for other libraries; closing that leaves the handle open."""
    remote = is_url(handle.source.path)
    return io.BufferedReader(_Stream(handle), _REMOTE_BUFFER if remote else io.DEFAULT_BUFFER_SIZE)
