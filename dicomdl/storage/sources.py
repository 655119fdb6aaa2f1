"""Files of others, as a scan saw them: the one place where they are looked up, opened and read.

`Source` says which file is meant and in which state the scan found it. `opened` gives a `Handle` on
it, from which byte ranges are read, and refuses a file in another state. Everything else in dicomdl
asks a handle for ranges and never opens a path, so that members of archives and objects of a store
need only another handle.

The state is size, modification time, change time and inode. A rewriting that sets the modification
time back still moves the change time, which no program can set. So do `chmod`, a new hard link and
a copy of the data set, which leave the content as it is: such a file is refused as well, and the
next scan reads just that file again. Where the change time is none (Windows has the time of
creation there), the inode is compared with it. Elsewhere it is not: it could only repeat what the
change time says, and file systems in user space number their files anew at every mount.
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
_LOW_BITS: Final = 2**63 - 1


def state_of(status: os.stat_result) -> State:
    """Size, modification time, change time (both in ns) and inode.

    Scans compare the first `COMPARED`.

    Of an inode the low 63 bits, which fit the index; 0 where the file system has none.
    """
    inode = status.st_ino & _LOW_BITS
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, inode


class Source(NamedTuple):
    """A file in one state: as the scan saw it, or as it is now.

    A tuple, because one is made for every frame that is read. `mtime_ns` is UNKNOWN where no scan
    saw the file, and nothing is compared then; an UNKNOWN `ctime_ns` and an `inode` of 0 are not
    compared either.
    """

    path: str
    size: int = UNKNOWN
    mtime_ns: int = UNKNOWN
    ctime_ns: int = UNKNOWN
    inode: int = 0

    def check(self, status: os.stat_result) -> None:
        """FileChanged where `status` is of the file in another state."""
        if (
            status.st_size == self.size
            and status.st_mtime_ns == self.mtime_ns
            and (status.st_ctime_ns == self.ctime_ns or self.ctime_ns == UNKNOWN)
            and (COMPARED == 3 or self._is_inode(status))
        ):
            return
        if self.mtime_ns == UNKNOWN:
            return
        if status.st_size != self.size or status.st_mtime_ns != self.mtime_ns:
            found = f"{self.size} bytes then, {status.st_size} now"
        else:
            found = "rewritten with its old time, copied, linked, or given other permissions"
        raise FileChanged(
            f"the file changed after it was scanned ({found}): scan again",
            expected_bytes=self.size,
            found_bytes=status.st_size,
        )

    def _is_inode(self, status: os.stat_result) -> bool:
        return status.st_ino & _LOW_BITS == self.inode or 0 in (self.inode, status.st_ino)


class Handle(Protocol):
    """What is open for reading; `source` is its state when it was opened. OSErrors pass through."""

    @property
    def source(self) -> Source:
        """The file, and its state when it was opened."""

    @property
    def size(self) -> int:
        """The bytes that there were when it was opened."""

    def check(self, expected: Source) -> None:
        """FileChanged where it is not in the expected state."""

    def read_at(self, offset: int, length: int) -> bytes:
        """Up to `length` bytes at `offset`; fewer at the end."""

    def read_into(self, buffer: memoryview, offset: int) -> int:
        """Fill `buffer` from `offset`.

        How many bytes there were, which may be fewer than wanted.
        """

    def close(self) -> None:
        """Give back what the system holds for it."""


class _LocalFile:
    """A file of a mounted file system."""

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
    """The file at a path, in the state expected; for scans in whatever state it is.

    An OSError where it cannot be opened.
    """
    return _LocalFile(path, expected)


def look_up(source: Source) -> Source:
    """The file as it is now, without opening it.

    Raises
    ------
    FileChanged
        It is gone, or in another state than `source` says.
    PixelError
        It cannot be looked up, or is no regular file. Attribute `errno`.
    """
    try:
        status = os.stat(source.path)
    except OSError as error:
        raise _unopened(source, error) from error
    if not stat.S_ISREG(status.st_mode):
        raise PixelError("the file cannot be read: this is no regular file")
    source.check(status)
    return Source(source.path, *state_of(status))


def _open(source: Source) -> Handle:
    try:
        return open_path(source.path, source)
    except OSError as error:
        raise _unopened(source, error) from error


def _unopened(source: Source, error: OSError) -> PixelError:
    if isinstance(error, FileNotFoundError) and source.mtime_ns != UNKNOWN:
        return FileChanged("the file that was scanned is gone: scan again")
    return PixelError(f"the file cannot be opened: {error.strerror}", errno=error.errno)


def _unread(error: OSError) -> PixelError:
    return PixelError(f"the file cannot be read: {error.strerror}", errno=error.errno)


# --- handles that stay open -----------------------------------------------------------------------

MOST_OPEN: Final = 128
_kept_files: Final = threading.local()


@contextlib.contextmanager
def kept_open() -> Iterator[None]:
    """Files that this thread reads from stay open until the block ends, at most `MOST_OPEN`.

    For a batch.
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
    """A source open for reading, in the state that it says.

    Inside of `kept_open` it is opened once, and looked at once, for all that is read from it.
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
    """Fill `buffer` with one piece after the other; yields when one is there.

    A piece is a source and the offset where it begins. `opened` and `read_exactly` in one, with
    nothing between the system calls, for those who read a hundred pieces to make one block.
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
    """Fill `buffer` from `offset`, without a copy; TruncatedPixels where the file is too short."""
    found = _fill(handle, buffer, offset)
    if found < buffer.nbytes:
        raise truncated(buffer.nbytes, found)


def _fill(handle: Handle, buffer: Values, offset: int) -> int:
    """How many bytes of `buffer` could be read.

    One call does it unless there are more than 2 GiB.
    """
    found = handle.read_into(buffer.data, offset)
    while 0 < found < buffer.nbytes:
        more = handle.read_into(buffer.data.cast("B")[found:], offset + found)
        if more == 0:
            break
        found += more
    return found


def read_range(handle: Handle, offset: int, length: int) -> bytes:
    """`length` bytes at `offset`, as many calls as they may take.

    TruncatedPixels where the file ends before.

    Refused before they are allocated where the file was too short when it was opened.
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
    """The error for a frame whose bytes are not all there."""
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
        """As files have it; pydicom asks for it."""
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
        found = self._handle.read_into(memoryview(buffer), self._position)
        self._position += found
        return found


def as_stream(handle: Handle) -> io.BufferedReader:
    """A handle as the binary file that other libraries read from.

    Closing it leaves the handle open.
    """
    return io.BufferedReader(_Stream(handle))
