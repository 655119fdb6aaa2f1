"""Sources: files of users as a scan saw them, and the only module that opens and reads them.

A `Source` names a file and the state in which the scan found it. `opened` returns a `Handle`, from
which byte ranges are read, and refuses a file in another state. All other modules read ranges from
a handle and never open a path. Members of archives and objects of a store therefore need only
another handle, which `open_path` chooses.
"""

import contextlib
import os
import stat
import threading
from collections.abc import Iterator, Sequence, Sized
from typing import Any, Final, TypeAlias

from dicomdl.arrays import Values
from dicomdl.errors import FileChanged, PixelError
from dicomdl.storage._descriptors import Descriptors, OpenPieces
from dicomdl.storage._files import open_below_root
from dicomdl.storage._plans import loops
from dicomdl.storage.ahead import Span as Span
from dicomdl.storage.ahead import are_slow as are_slow
from dicomdl.storage.ahead import each_of as each_of
from dicomdl.storage.ahead import file_ahead
from dicomdl.storage.ahead import reading_ahead_of as reading_ahead_of
from dicomdl.storage.archives import open_member
from dicomdl.storage.dicomweb import is_web
from dicomdl.storage.given import BytesHandle, GivenBytes
from dicomdl.storage.handles import COMPARED as COMPARED
from dicomdl.storage.handles import COMPARED_IF_MOVED as COMPARED_IF_MOVED
from dicomdl.storage.handles import UNKNOWN as UNKNOWN
from dicomdl.storage.handles import Handle as Handle
from dicomdl.storage.handles import LocalFile
from dicomdl.storage.handles import MovedPath as MovedPath
from dicomdl.storage.handles import NotFetched as NotFetched
from dicomdl.storage.handles import Source as Source
from dicomdl.storage.handles import State as State
from dicomdl.storage.handles import as_stream as as_stream
from dicomdl.storage.handles import read_exactly as read_exactly
from dicomdl.storage.handles import read_range as read_range
from dicomdl.storage.handles import state_of as state_of
from dicomdl.storage.handles import truncated as truncated
from dicomdl.storage.locations import SEPARATOR, split
from dicomdl.storage.object_heads import CONCURRENCY as CONCURRENCY
from dicomdl.storage.object_heads import HeadWalker as HeadWalker
from dicomdl.storage.object_heads import walk_heads as walk_heads
from dicomdl.storage.objects import RemoteObject, look_up_object
from dicomdl.storage.paths import must_be_no_link, require_accepted, require_link_inside
from dicomdl.storage.ranges import Range
from dicomdl.storage.web_objects import WebInstance


def open_path(path: str, expected: Source | None = None) -> Handle:
    """Open the file or member at a location; raise OSError on failure.

    Raises FileChanged unless it is in the expected state, PixelError for a member that cannot be
    read, and UntrustedRoot for a path of an index that the user has not accepted. Scans expect no
    state.
    """
    if type(path) is not str and must_be_no_link(path):
        return open_below_root(path, expected)
    if SEPARATOR in path:
        if isinstance(path, GivenBytes):
            return BytesHandle(path)
        location = split(path)
        if location.members:
            return open_member(location, path, expected)
        return WebInstance(path, expected) if is_web(path) else RemoteObject(path, expected)
    return LocalFile(path, expected)


def look_up(source: Source) -> Source:
    """Return the current state of a file, without opening it.

    For a file below a moved root the state of the scan is returned, so that cache keys stay.

    Raises
    ------
    FileChanged
        The file is gone, or its state differs from `source`.
    PixelError
        The file cannot be looked up (attribute `errno`), or is not a regular file.
    UntrustedRoot
        An index names the file, and the user has not accepted its root.
    """
    no_link = type(source.path) is not str and must_be_no_link(source.path)
    if SEPARATOR in source.path:
        return _look_up_inside(source)
    try:
        status = os.stat(source.path, follow_symlinks=not no_link)
        if no_link and stat.S_ISLNK(status.st_mode):
            require_link_inside(source.path)
            status = os.stat(source.path)
    except OSError as error:
        raise _unopened(source, error) from error
    if not stat.S_ISREG(status.st_mode):
        raise PixelError("the file cannot be read: this is no regular file")
    source.check(status)
    if isinstance(source.path, MovedPath) and source.mtime_ns != UNKNOWN:
        return source
    return Source(source.path, *state_of(status))


def _look_up_inside(source: Source) -> Source:
    """Return the current state of an object, or of a member of an archive."""
    if not split(source.path).members:
        try:
            return look_up_object(source)
        except OSError as error:
            raise _unopened(source, error) from error
    handle = _open(source)
    handle.close()
    return source if isinstance(source.path, MovedPath) else handle.source


def place_of(source: Source) -> tuple[str, int] | None:
    """Return the file or object that has the bytes of a source in place, and their offset.

    None for a member of an archive that is compressed.
    """
    location = split(source.path)
    if not location.members:
        return source.path, 0
    with opened(source) as opened_handle:
        handle, offset = opened_handle, 0
        while isinstance(handle, Range):
            offset += handle.start
            handle = handle.outer
        is_there = (
            isinstance(handle, LocalFile | RemoteObject) and handle.source.path == location.whole
        )
        return (location.whole, offset) if is_there else None


def _open(source: Source) -> Handle:
    if loops.running and (handle := file_ahead(source, _open_now)) is not None:
        return handle
    return _open_now(source)


def _open_now(source: Source) -> Handle:
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


def read_items(handle: Handle, offset: int, length: int) -> bytes:
    """Return the items of a compressed frame, in one read.

    Those of a file have exactly this length. An instance of a DICOMweb server has a room of this
    length, of which the frame is a part.
    """
    if isinstance(handle, WebInstance):
        return handle.read_at(offset, length)
    return read_range(handle, offset, length)


@contextlib.contextmanager
def unread_as_pixel_errors() -> Iterator[None]:
    """Turn an OSError of opening or reading into the PixelError that `opened` raises for it."""
    try:
        yield
    except OSError as error:
        raise _unread(error) from error


def _unread(error: OSError) -> PixelError:
    return PixelError(f"the file cannot be read: {error.strerror}", errno=error.errno)


# --- handles that stay open -----------------------------------------------------------------------

MOST_OPEN: Final = 128
_kept_files: Final = threading.local()


class KeptFiles(threading.local):
    """Descriptors of `storage.pieces` that stay open from block to block, those of each thread.

    They are closed with this object, of which a copy holds none.
    """

    def __init__(self) -> None:
        self.pieces = OpenPieces()

    def __reduce__(self) -> Any:
        return KeptFiles, ()


@contextlib.contextmanager
def kept_open(files: KeptFiles | None = None) -> Iterator[None]:
    """Keep the files that this thread reads open until the block ends, at most `MOST_OPEN` of them.

    A batch is read inside such a block. The descriptors in `files` stay open for the next one,
    which looks at the state of each file again.
    """
    if getattr(_kept_files, "handles", None) is not None:
        yield
        return
    _kept_files.handles = {}
    _kept_files.pieces = OpenPieces() if files is None else files.pieces
    try:
        yield
    finally:
        for handle, _ in _kept_files.handles.values():
            handle.close()
        if files is None:
            _kept_files.pieces.close()
        _kept_files.handles = _kept_files.pieces = None


def kept_descriptors(pieces: Sized, first: int, count: int) -> Descriptors | None:
    """Return the descriptors of pieces that stay open in this thread; None outside `kept_open`."""
    kept: OpenPieces | None = getattr(_kept_files, "pieces", None)
    return None if kept is None else kept.of(pieces, first, count)


def close_kept_descriptors() -> None:
    """Close the descriptors that stay open in this thread, of which the system may lack some."""
    if (kept := getattr(_kept_files, "pieces", None)) is not None:
        kept.close()


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
            if type(source.path) is not str:
                require_accepted(source.path)
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


def read_pieces(pieces: Sequence[Piece], buffers: Sequence[Values]) -> Iterator[None]:
    """Fill each buffer with its piece, and yield after each.

    A piece is a source and the offset of its first byte; all buffers have one size, and may be the
    same. Pieces of objects, and of files of a slow file system, are asked for ahead.
    """
    ahead: contextlib.AbstractContextManager[None] = contextlib.nullcontext()
    if len(pieces) > 1:
        size = buffers[0].nbytes
        ahead = reading_ahead_of(
            pieces[0][0].path,
            lambda: [Span(source, offset, size) for source, offset in pieces],
        )
    return _read_pieces(pieces, buffers, ahead)


def _read_pieces(
    pieces: Sequence[Piece],
    buffers: Sequence[Values],
    ahead: contextlib.AbstractContextManager[None],
) -> Iterator[None]:
    """Combine `opened` and `read_exactly` without overhead between the system calls.

    One block may consist of a hundred pieces.
    """
    keep: dict[str, tuple[Handle, Source]] | None = getattr(_kept_files, "handles", None)
    with ahead:
        for (source, offset), buffer in zip(pieces, buffers, strict=True):
            kept = None if keep is None else keep.get(source.path)
            if kept is None:
                handle = _open(source) if loops.running else _open_now(source)
            else:
                handle, checked = kept
                if checked is not source:
                    handle.check(source)
            try:
                if handle.read_into(buffer.data, offset) < buffer.nbytes:
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
