"""storage.sources"""

import contextlib
import os
import threading
from collections.abc import Iterable, Iterator
from typing import Any, Final, TypeAlias

from dicomdl.arrays import Values
from dicomdl.errors import FileChanged, PixelError, TruncatedPixels
from dicomdl.storage.system import OPEN_FLAGS, read_into

Piece: TypeAlias = tuple[
    str, int, int, int
]  # path, the size and modification time that the scan saw, and where to begin


def read_exactly(descriptor: int, buffer: Values, offset: int) -> None:
    """Fill `buffer` from `offset` of an open file, without a copy; TruncatedPixels where the file is too short."""
    found = _fill(descriptor, buffer, offset)
    if found < buffer.nbytes:
        raise truncated(buffer.nbytes, found)


def read_pieces(pieces: Iterable[Piece], buffer: Values) -> Iterator[None]:
    """Fill `buffer` with one piece after the other, each from a file that must be as it was scanned; yields when one is there.

    `opened` and `read_exactly` in one, with nothing between the system calls, for those who read a hundred pieces to make one block.
    """
    keep, view, needed = getattr(_kept_files, "descriptors", None), buffer.data, buffer.nbytes
    for path, size, mtime_ns, offset in pieces:
        kept = -1 if keep is None else keep.get(path, -1)
        descriptor = kept if kept >= 0 else _open_unchanged(path, size, mtime_ns)
        try:
            if read_into(descriptor, view, offset) < needed:
                read_exactly(descriptor, buffer, offset)
        except OSError as error:
            raise _unread(error) from error
        finally:
            if kept < 0:
                if keep is not None and len(keep) < MOST_OPEN:
                    keep[path] = descriptor
                else:
                    os.close(descriptor)
        yield


def _open_unchanged(path: str, size: int, mtime_ns: int) -> int:
    """The descriptor of a file, which must be the one that was scanned."""
    try:
        descriptor = os.open(path, OPEN_FLAGS)
    except OSError as error:
        raise unopened(error) from error
    try:
        status = os.fstat(descriptor)
        if status.st_size != size or status.st_mtime_ns != mtime_ns:
            check_unchanged(size, mtime_ns, status.st_size, status.st_mtime_ns)
    except BaseException as error:
        os.close(descriptor)
        if isinstance(error, OSError):
            raise _unread(error) from error
        raise
    return descriptor


class opened:
    """A file open for reading, which must be the one that was scanned: of that size and modification time.

    Inside of `kept_open` it is opened once, and looked at once, for all that is read from it.
    """

    __slots__ = ("descriptor", "keep", "mtime_ns", "path", "size")

    def __init__(self, path: str, size: int, mtime_ns: int) -> None:
        self.path, self.size, self.mtime_ns = path, size, mtime_ns
        self.descriptor = -1
        self.keep: dict[str, int] | None = getattr(_kept_files, "descriptors", None)

    def __enter__(self) -> int:
        if self.keep is not None and self.path in self.keep:
            return self.keep[self.path]
        self.descriptor = _open_unchanged(self.path, self.size, self.mtime_ns)
        if self.keep is not None and len(self.keep) < MOST_OPEN:
            self.keep[self.path] = self.descriptor
            self.descriptor = -1
            return self.keep[self.path]
        return self.descriptor

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        if self.descriptor >= 0:
            os.close(self.descriptor)
        if isinstance(error, OSError):
            raise _unread(error) from error


MOST_OPEN: Final = 128
_kept_files: Final = threading.local()


@contextlib.contextmanager
def kept_open() -> Iterator[None]:
    """Files that this thread reads from stay open until the block ends, at most `MOST_OPEN` of them: for a batch."""
    if getattr(_kept_files, "descriptors", None) is not None:
        yield
        return
    _kept_files.descriptors = {}
    try:
        yield
    finally:
        for descriptor in _kept_files.descriptors.values():
            os.close(descriptor)
        _kept_files.descriptors = None


def unopened(error: OSError) -> PixelError:
    """What it means that a file cannot be opened or looked up."""
    if isinstance(error, FileNotFoundError):
        return FileChanged("the file that was scanned is gone: scan again")
    return PixelError(f"the file cannot be opened: {error.strerror}", errno=error.errno)


def _unread(error: OSError) -> PixelError:
    return PixelError(f"the file cannot be read: {error.strerror}", errno=error.errno)


def check_unchanged(size: int, mtime_ns: int, size_now: int, mtime_ns_now: int) -> None:
    """Size and modification time as the scan saw them; a negative time stands for a file that was not scanned."""
    if mtime_ns >= 0 and (size_now != size or mtime_ns_now != mtime_ns):
        raise FileChanged(
            f"the file changed after it was scanned ({size} bytes then, {size_now} now): scan again",
            expected_bytes=size,
            found_bytes=size_now,
        )


def _fill(descriptor: int, buffer: Values, offset: int) -> int:
    """How many bytes of `buffer` could be read; one call does it unless there are more than 2 GiB."""
    found = read_into(descriptor, buffer.data, offset)
    while 0 < found < buffer.nbytes:
        more = read_into(descriptor, buffer.data.cast("B")[found:], offset + found)
        if more == 0:
            break
        found += more
    return found


def take_open_file(descriptor: int, offset: int, length: int) -> bytes:
    with open(descriptor, "rb", closefd=False) as file:
        file.seek(offset)
        return file.read(length)


def truncated(expected_bytes: int, found_bytes: int) -> TruncatedPixels:
    """The error for a frame whose bytes are not all there."""
    return TruncatedPixels(
        f"the frame needs {expected_bytes} bytes, found {found_bytes}",
        expected_bytes=expected_bytes,
        found_bytes=found_bytes,
    )
