"""Sources: files of users as a scan saw them, and the only module that opens and reads them.

A `Source` names a file and the state in which the scan found it. `opened` returns a `Handle`, from
which byte ranges are read, and refuses a file in another state. All other modules read ranges from
a handle and never open a path. Members of archives and objects of a store therefore need only
another handle.

The state is size, modification time, change time and inode. A program that rewrites a file and sets
the modification time back still moves the change time, which no program can set. `chmod`, a new
hard link and a copy of the data set move the change time too, although the content is unchanged.
Such a file is refused as well, and the next scan reads only that file again. `MovedPath` relaxes
the comparison, for files below a moved root and for indexes opened with `strict_files=False`. On
Windows the change time is the time of creation, so there the inode is compared in addition. Other
systems do not compare the inode: it adds nothing to the change time, and file systems in user space
number their files anew at every mount.
"""

import contextlib
import io
import os
import stat
import threading
from collections.abc import Iterable, Iterator
from typing import Any, Final, NamedTuple, Protocol, TypeAlias

from dicomdl.arrays import Values
from dicomdl.errors import FileChanged, PixelError, TruncatedPixels
from dicomdl.storage.system import OPEN_FLAGS, read_at, read_into

State: TypeAlias = tuple[int, int, int, int]

UNKNOWN: Final = -1
COMPARED: Final = 4 if os.name == "nt" else 3
# Of a file below a moved root: size and modification time.
COMPARED_IF_MOVED: Final = 2
_LOW_BITS: Final = 2**63 - 1


def state_of(status: os.stat_result) -> State:
    """Return size in bytes, modification time and change time in ns, and inode.

    Scans compare the first `COMPARED` entries. The inode is reduced to its low 63 bits, which fit
    the index; it is 0 on file systems without inodes.
    """
    inode = status.st_ino & _LOW_BITS
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, inode


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
    `inode` of 0 are not compared.
    """

    path: str
    size: int = UNKNOWN
    mtime_ns: int = UNKNOWN
    ctime_ns: int = UNKNOWN
    inode: int = 0

    def check(self, status: os.stat_result) -> None:
        """Raise FileChanged if `status` describes the file in another state."""
        if (
            status.st_size == self.size
            and status.st_mtime_ns == self.mtime_ns
            and (
                (
                    (status.st_ctime_ns == self.ctime_ns or self.ctime_ns == UNKNOWN)
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
        elif status.st_mtime_ns != self.mtime_ns:
            change = "another modification time"
        else:
            change = "rewritten with its old time, copied, linked, or given other permissions"
            cure += "; open_index(path, strict_files=False) disregards change times"
        raise FileChanged(
            f"the file changed after it was scanned ({change}): {cure}",
            expected_bytes=self.size,
            found_bytes=status.st_size,
        )

    def _is_inode(self, status: os.stat_result) -> bool:
        return status.st_ino & _LOW_BITS == self.inode or 0 in (self.inode, status.st_ino)


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


class _LocalFile:
    """A file on a mounted file system."""

    __slots__ = ("_descriptor", "_path", "_status")

    def __init__(self, path: str, expected: Source | None = None) -> None:
        self._path = path
        self._descriptor = descriptor = os.open(path, OPEN_FLAGS)
        try:
            self._status = status = os.fstat(descriptor)
            if expected is not None:
                expected.check(status)
        except BaseException:
            os.close(descriptor)
            raise

    @property
    def source(self) -> Source:
        return Source(self._path, *state_of(self._status))

    @property
    def size(self) -> int:
        return self._status.st_size

    def check(self, expected: Source) -> None:
        expected.check(self._status)

    def read_at(self, offset: int, length: int) -> bytes:
        return read_at(self._descriptor, length, offset)

    def read_into(self, buffer: memoryview, offset: int) -> int:
        return read_into(self._descriptor, buffer, offset)

    def close(self) -> None:
        os.close(self._descriptor)


def open_path(path: str, expected: Source | None = None) -> Handle:
    """Open the file at a path; raise OSError on failure.

    Raises FileChanged unless the file is in the expected state. Scans expect no state.
    """
    return _LocalFile(path, expected)


def look_up(source: Source) -> Source:
    """Return the current state of a file, without opening it.

    For a file below a moved root the state of the scan is returned, so that cache keys stay.

    Raises
    ------
    FileChanged
        The file is gone, or its state differs from `source`.
    PixelError
        The file cannot be looked up (attribute `errno`), or is not a regular file.
    """
    try:
        status = os.stat(source.path)
    except OSError as error:
        raise _unopened(source, error) from error
    if not stat.S_ISREG(status.st_mode):
        raise PixelError("the file cannot be read: this is no regular file")
    source.check(status)
    if isinstance(source.path, MovedPath) and source.mtime_ns != UNKNOWN:
        return source
    return Source(source.path, *state_of(status))


def _open(source: Source) -> Handle:
    try:
        return open_path(source.path, source)
    except OSError as error:
        raise _unopened(source, error) from error


def _unopened(source: Source, error: OSError) -> PixelError:
    # The second where a file stands in the place of a folder.
    is_gone = isinstance(error, FileNotFoundError | NotADirectoryError)
    if is_gone and source.mtime_ns != UNKNOWN:
        return FileChanged(
            "the file that was scanned is gone: scan again; if the data were moved, "
            "open_index(path, root=...) or DICOMDL_ROOT names their new root"
        )
    return PixelError(f"the file cannot be opened: {error.strerror}", errno=error.errno)


def _unread(error: OSError) -> PixelError:
    return PixelError(f"the file cannot be read: {error.strerror}", errno=error.errno)


# --- handles that stay open -----------------------------------------------------------------------

MOST_OPEN: Final = 128
_kept_files: Final = threading.local()


@contextlib.contextmanager
def kept_open() -> Iterator[None]:
    """Keep the files that this thread reads open until the block ends, at most `MOST_OPEN` of them.

    A batch is read inside such a block.
    """
    if getattr(_kept_files, "handles", None) is not None:
        yield
        return
    _kept_files.handles = {}
    try:
        yield
    finally:
        for handle, _ in _kept_files.handles.values():
            handle.close()
        _kept_files.handles = None


class opened:
    """A context in which a source is open for reading, in the state that it declares.

    Inside `kept_open`, a file is opened and checked once for all reads.
    """

    __slots__ = ("_keep", "_own", "source")

    def __init__(self, source: Source) -> None:
        self.source = source
        self._own: Handle | None = None
        self._keep: dict[str, tuple[Handle, Source]] | None = getattr(_kept_files, "handles", None)

    def __enter__(self) -> Handle:
        keep, source = self._keep, self.source
        if keep is not None and source.path in keep:
            handle, checked = keep[source.path]
            if checked != source:
                handle.check(source)
            return handle
        handle = _open(source)
        if keep is not None and len(keep) < MOST_OPEN:
            keep[source.path] = handle, source
        else:
            self._own = handle
        return handle

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        if self._own is not None:
            self._own.close()
        if isinstance(error, OSError):
            raise _unread(error) from error


# --- byte ranges ----------------------------------------------------------------------------------

Piece: TypeAlias = tuple[Source, int]


def read_pieces(pieces: Iterable[Piece], buffer: Values) -> Iterator[None]:
    """Fill `buffer` with one piece after the other, and yield after each.

    A piece is a source and the offset of its first byte. The function combines `opened` and
    `read_exactly` without overhead between the system calls, because one block may consist of a
    hundred pieces.
    """
    keep: dict[str, tuple[Handle, Source]] | None = getattr(_kept_files, "handles", None)
    view, needed = buffer.data, buffer.nbytes
    for source, offset in pieces:
        kept = None if keep is None else keep.get(source.path)
        if kept is None:
            handle = _open(source)
        else:
            handle, checked = kept
            if checked is not source:
                handle.check(source)
        try:
            if handle.read_into(view, offset) < needed:
                read_exactly(handle, buffer, offset)
        except OSError as error:
            raise _unread(error) from error
        finally:
            if kept is None:
                if keep is not None and len(keep) < MOST_OPEN:
                    keep[source.path] = handle, source
                else:
                    handle.close()
        yield


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
    return io.BufferedReader(_Stream(handle))
