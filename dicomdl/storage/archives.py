"""Archives: their members as sources of bytes, read in place where they are not compressed.

An archive is opened once per process, and its directory is kept in a share of the memory budget.
Opening a member then costs a look-up of the archive's state and no opening, so that reading from a
stored zip takes no longer than from a folder. The state of a member is that of its archive with its
own size: a changed archive refuses all of its members.
"""

import contextlib
import errno
import functools
import io
import os
import threading
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final

from dicomdl.errors import PixelError, StorageError
from dicomdl.storage import copies
from dicomdl.storage._remote_file import RemoteFile
from dicomdl.storage._stores import ObjectState
from dicomdl.storage._tars import MOST_EXPANSION, inflated_pieces, opener_of, read_tar
from dicomdl.storage._zips import Inflating, packed_range, read_zip
from dicomdl.storage.directory import (
    STORED,
    ArchiveLimits,
    Member,
    Refused,
    unreadable,
)
from dicomdl.storage.handles import (
    UNKNOWN,
    Handle,
    LocalFile,
    Source,
    State,
    read_range,
    state_of,
)
from dicomdl.storage.locations import Location, is_url, joined, split
from dicomdl.storage.memory import Share, share
from dicomdl.storage.objects import look_up_object, require_same
from dicomdl.storage.paths import require_accepted
from dicomdl.storage.ranges import Range, Status, Stored
from dicomdl.storage.system import CAN_SHARE

# Endings of archives that are read, and of those that are not.
ENDINGS: Final = (
    *(".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst"),
)
OTHER_ENDINGS: Final = (".7z", ".rar")
# Archives in archives are read, those in these are not.
MOST_NESTED: Final = 1
# Counted per open archive, so that the share holds few of them however small they are.
_ARCHIVE_BYTES: Final = 2**17
_MOST_LOCATED: Final = 8192
# Inflated bytes of one member in memory; a longer one is copied to the cache folder.
_MOST_IN_MEMORY: Final = 16 * 2**20
_START_BYTES: Final = 512
_PIECE_BYTES: Final = 2**20
# What a member is read with; the scan that listed it has enforced the limits.
_ANY: Final = ArchiveLimits(2**40, 2**62)


def has_ending(path: str) -> bool:
    """Whether a file is named as an archive that is read."""
    return path.lower().endswith(ENDINGS)


class _SharedFile(LocalFile):
    """The file of an archive, which all threads read, and which closes with its last member."""

    __slots__ = ()

    def __del__(self) -> None:
        with contextlib.suppress(AttributeError, OSError):
            self.close()


class _LockedFile(_SharedFile):
    """The same where reading moves the position of a descriptor: one thread at a time reads."""

    __slots__ = ("_lock",)

    def __init__(self, path: str, expected: Source | None = None) -> None:
        self._lock = threading.Lock()
        super().__init__(path, expected)

    def read_at(self, offset: int, length: int) -> bytes:
        """Read up to `length` bytes at `offset`; fewer at the end."""
        with self._lock:
            return super().read_at(offset, length)

    def read_into(self, buffer: memoryview, offset: int) -> int:
        """Fill `buffer` from `offset`; return the number of bytes read, which may be fewer."""
        with self._lock:
            return super().read_into(buffer, offset)


_ArchiveFile: Final = _SharedFile if CAN_SHARE else _LockedFile


def _copied(source: Source, pieces: Callable[[], Iterable[bytes]]) -> _SharedFile:
    """Open the copy of what cannot be read in place."""
    try:
        return _ArchiveFile(copies.copy_of(source, pieces))
    except StorageError as error:
        raise unreadable("no_copy", str(error)) from error


class Archive:
    """An open archive, with its directory and the places of members that were found so far."""

    __slots__ = ("_located", "directory", "handle", "is_whole", "location", "state")

    def __init__(
        self,
        location: str,
        handle: Handle,
        state: State,
        limits: ArchiveLimits = _ANY,
        *,
        is_copy: bool = False,
    ) -> None:
        self.location, self.state = location, state
        # Whether every member is in the directory that may be read under any limits.
        self.is_whole = limits == _ANY and not is_copy
        opener = opener_of(handle.read_at(0, _START_BYTES))
        if opener is not None:
            pieces = functools.partial(inflated_pieces, handle, opener, limits)
            handle = _copied(Source(location, *state), pieces)
        self.handle = handle
        is_zip = handle.read_at(0, 2) == b"PK" or location.lower().endswith(".zip")
        self.directory = (read_zip if is_zip else read_tar)(handle, limits)
        self._located: dict[str, Range] = {}

    @property
    def nbytes(self) -> int:
        """The bytes in memory."""
        return self.directory.nbytes + _ARCHIVE_BYTES

    def source(self, member: Member, path: str = "") -> Source:
        """Return a member in the state of the archive."""
        return Source(path or joined(self.location, member.name), member.size, *self.state[1:])

    def find(self, name: str) -> Member:
        """Return a member; raise FileNotFoundError without one."""
        member = self.directory.find(name)
        if member is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        return member

    def open(self, name: str, path: str, expected: Source | None = None) -> Handle:
        """Open a member as the source of this path, in the expected state."""
        if (located := self._located.get(name)) is not None:
            source = Source(path, located.size, *self.state[1:])
            if expected is not None:
                expected.check(Status(source))
            return located.named(source)
        member = self.find(name)
        source = self.source(member, path)
        if expected is not None:
            expected.check(Status(source))
        if not self.directory.is_zip:
            packed = Range(self.handle, member.start, member.size)
        else:
            packed = packed_range(self.handle, member)
        if member.method != STORED:
            return Inflated(packed, member, source)
        if self.directory.is_zip:
            packed = Stored(packed.outer, packed.start, packed.size, member.crc)
        if len(self._located) >= _MOST_LOCATED:
            self._located.clear()
        self._located[name] = packed
        return packed.named(source)

    def open_archive(self, name: str, limits: ArchiveLimits = _ANY) -> "Archive":
        """Open a member that is an archive itself; one that is compressed is copied first."""
        location = joined(self.location, name)
        handle = self.open(name, location)
        if isinstance(handle, Inflated):
            handle = _copied(handle.source, handle.pieces)
        return Archive(location, handle, self.state, limits)


class Inflated:
    """A compressed member, inflated as far as it is read, and no further."""

    def __init__(self, packed: Range, member: Member, source: Source) -> None:
        self.source, self.size = source, member.size
        self._packed, self._member = packed, member
        self._whole: bytes | None = _inflated.find(source)
        self._stream: Inflating | None = None
        self._start = b""
        self._copy: _SharedFile | None = None

    def check(self, expected: Source) -> None:
        """Raise FileChanged if the member is not in the expected state."""
        expected.check(Status(self.source))

    def read_at(self, offset: int, length: int) -> bytes:
        """Read up to `length` bytes at `offset`; fewer at the end."""
        end = min(offset + length, self.size)
        if self._is_copied(end):
            return self._copied().read_at(offset, length)
        return self._inflated_to(end)[offset:end]

    def read_into(self, buffer: memoryview, offset: int) -> int:
        """Fill `buffer` from `offset`; return the number of bytes read, which may be fewer."""
        end = min(offset + buffer.nbytes, self.size)
        if self._is_copied(end):
            return self._copied().read_into(buffer, offset)
        count = max(0, end - offset)
        if count:
            buffer.cast("B")[:count] = memoryview(self._inflated_to(end))[offset:end]
        return count

    def _is_copied(self, end: int) -> bool:
        return self._copy is not None or (self._whole is None and end > _MOST_IN_MEMORY)

    def _inflated_to(self, end: int) -> bytes:
        """Return the member from its start to `end` or beyond."""
        if self._whole is not None:
            return self._whole
        if end > len(self._start):
            self._stream = self._stream or Inflating(self._packed, self._member)
            # Twice as much as before, so that many short reads cost no more than one long one.
            end = min(self.size, max(end, 2 * len(self._start)))
            self._start += self._stream.read(end - len(self._start))
            if len(self._start) == self.size:
                self._whole = _inflated.keep(self.source, self._start)
        return self._start

    def _copied(self) -> _SharedFile:
        if self._copy is None:
            self._copy = _copied(self.source, self.pieces)
        return self._copy

    def pieces(self) -> Iterator[bytes]:
        """Yield the bytes of the member."""
        stream = Inflating(self._packed, self._member)
        while piece := stream.read(_PIECE_BYTES):
            yield piece

    def close(self) -> None:
        """Forget what was inflated; a whole member stays in its share."""
        self._stream, self._start = None, b""


def _bytes_of(archive: Archive) -> int:
    return archive.nbytes


_archives: Final[Share[Archive]] = share("archives", _bytes_of, one_at_a_time=True)
_inflated: Final[Share[bytes]] = share("archive members", len)


def open_member(location: Location, path: str, expected: Source | None = None) -> Handle:
    """Open a member of an archive.

    Parameters
    ----------
    location
        The parts of `path`.
    path
        The path as the index has it, which may be moved.
    expected
        The state of the member in the scan; None accepts any.

    Raises
    ------
    FileChanged
        The archive is in another state.
    PixelError
        The archive or the member cannot be read. Attribute `reason`.
    OSError
        The system refuses the archive, or it has no such member.
    """
    if is_url(location.whole):
        archive = _remote_archive(location.whole, expected)
        state = archive.state
    else:
        state = state_of(os.stat(location.whole))
        if expected is not None:
            # First of all: whatever a changed archive has, it is not what the scan saw.
            expected.check(Status(Source(path, expected.size, *state[1:])))
        archive = _whole_archive(location.whole, state)
    try:
        return _inner(archive, location.members).open(location.members[-1], path, expected)
    except FileNotFoundError:
        if archive.is_whole:
            raise
    # A scan has left out what is beyond its limits, and a copy what is damaged.
    archive = _archives.of(
        (location.whole, state, "whole"), lambda: _opened(location.whole, state, _ANY)
    )
    return _inner(archive, location.members).open(location.members[-1], path, expected)


def _whole_archive(path: str, state: State) -> Archive:
    return _archives.of((path, state), lambda: _copy(path, state) or _opened(path, state, _ANY))


def _copy(path: str, state: State) -> Archive | None:
    """Open the copy without compression of an archive; None if `copy_archive` made none."""
    found = copies.find(Source(path, *state))
    if found is None:
        return None
    try:
        return Archive(path, _ArchiveFile(found), state, is_copy=True)
    except (OSError, PixelError):
        # Another process has removed it meanwhile.
        return None


def _opened(path: str, state: State, limits: ArchiveLimits) -> Archive:
    file: Handle
    if is_url(path):
        file = RemoteFile(path, Source(path, *state))
    else:
        file = _ArchiveFile(path, Source(path, *state))
    return Archive(path, file, state, limits)


def _remote_archive(url: str, expected: Source | None) -> Archive:
    """Return an archive in a store, in the state of a member or in that of the last listing.

    Every request carries the ETag of that state.
    """
    if expected is None or expected.mtime_ns == UNKNOWN:
        return _archives.of((url, "now"), lambda: _any_state(url))
    mark = expected.mtime_ns, expected.etag

    def make() -> Archive:
        state = state_now(url)
        # The size of the archive is in no member.
        require_same(
            Source(url, state[0], expected.mtime_ns, UNKNOWN, 0, expected.etag),
            ObjectState(state[0], state[1], state[4]),
        )
        return _copy(url, state) or _opened(url, state, _ANY)

    return _archives.of((url, mark), make)


def _any_state(url: str) -> Archive:
    state = state_now(url)
    return _copy(url, state) or _opened(url, state, _ANY)


def state_now(path: str) -> State:
    """Return the state of an archive; raise OSError if it cannot be looked up."""
    if is_url(path):
        found = look_up_object(Source(path))
        return found.size, found.mtime_ns, UNKNOWN, 0, found.etag
    return state_of(os.stat(path))


def _inner(archive: Archive, members: Sequence[str]) -> Archive:
    """Return the archive that holds the last of some members."""
    for name in members[:-1]:
        outer = archive
        key = (joined(outer.location, name), outer.state)
        archive = _archives.of(key, functools.partial(outer.open_archive, name))
    return archive


def verify_member(source: Source) -> bool:
    """Read a member of an archive in full, and compare the checksum that the archive states.

    Returns
    -------
    bool
        False for a member of a tar, which states none.

    Raises
    ------
    FileChanged
        The archive is in another state.
    PixelError
        The member is damaged, or cannot be read. Attribute `reason`.
    OSError
        The system refuses the archive.
    """
    if type(source.path) is not str:
        require_accepted(source.path)
    handle = open_member(split(source.path), source.path, source)
    with contextlib.closing(handle):
        if isinstance(handle, Inflated):
            for _ in handle.pieces():
                pass
            return True
        crc = 0
        for offset in range(0, handle.size, _PIECE_BYTES):
            length = min(_PIECE_BYTES, handle.size - offset)
            crc = zlib.crc32(read_range(handle, offset, length), crc)
        if isinstance(handle, Stored):
            handle.require_checksum(crc)
        return isinstance(handle, Stored)


# --- copies without compression ---------------------------------------------------------------


def compressed_bytes(path: str) -> int:
    """Return the bytes that the compressed members of a zip have; 0 where a copy is read.

    Raises OSError or PixelError for an archive that cannot be read.
    """
    state = state_now(path)
    archive = _whole_archive(path, state)
    if not archive.directory.is_zip:
        return 0
    return sum(member.size for member in archive.directory if member.method != STORED)


def copy_archive(path: str, limits: ArchiveLimits) -> None:
    """Copy a zip with compressed members to the cache folder, without compression.

    Every process reads its members from there while the copy exists and the archive is in the same
    state. Members that are damaged stay in the archive alone. Other archives are left as they are.

    Raises
    ------
    PixelError
        The archive cannot be read. Attribute `reason`.
    StorageError
        The cache folder cannot take the copy.
    OSError
        The system refuses the archive.
    """
    if not compressed_bytes(path):
        return
    state = state_now(path)
    archive = _opened(path, state, _ANY)
    members, most = (
        list(archive.directory),
        max(limits.inflated_bytes, MOST_EXPANSION * archive.handle.size),
    )
    size = sum(member.size for member in members)
    if size > most:
        raise unreadable(
            "inflates_too_far",
            f"the members have {size} bytes in an archive of {archive.handle.size}, up to {most} "
            "are copied: if it is sound, scan(limits=ReadLimits(inflated_bytes=...)), or unpack it",
        )
    copies.copy_of(Source(path, *state), lambda: _stored_zip(archive, members))
    # The next member is opened in the copy.
    _archives.drop(lambda key: key[0] == path)


def _stored_zip(archive: Archive, members: Sequence[Member]) -> Iterator[bytes]:
    """Yield the bytes of a zip of members without compression."""
    sink = _Sink()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_STORED) as made:
        for member in members:
            try:
                pieces = _checked_pieces(archive, member)
                info = zipfile.ZipInfo(member.name.encode().decode())
            except (PixelError, UnicodeEncodeError):
                continue
            with made.open(info, "w", force_zip64=True) as file:
                for piece in pieces:
                    file.write(piece)
                    yield sink.taken()
    yield sink.taken()


def _checked_pieces(archive: Archive, member: Member) -> Iterable[bytes]:
    """Return the bytes of a member; raise PixelError if it is damaged before the first of them."""
    location = joined(archive.location, member.name)
    handle = archive.open(member.name, location)
    if member.size <= _MOST_IN_MEMORY:
        return [handle.read_at(0, member.size)]
    verify_member(archive.source(member))
    if isinstance(handle, Inflated):
        return handle.pieces()
    return (handle.read_at(at, _PIECE_BYTES) for at in range(0, member.size, _PIECE_BYTES))


class _Sink(io.RawIOBase):
    """A file that is written only, and whose bytes are taken piece by piece."""

    def __init__(self) -> None:
        super().__init__()
        self._pieces: list[bytes] = []

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._pieces.append(bytes(data))
        return len(data)

    def taken(self) -> bytes:
        data, self._pieces = b"".join(self._pieces), []
        return data


# --- the members of an archive, for a scan --------------------------------------------------------


def list_members(path: str, limits: ArchiveLimits) -> tuple[State, list[Refused]]:
    """Return the state of an archive, and its members in the order in which folders are walked.

    A member is a `Refused` by its location; one that may be read has no reason. Archives among the
    members are replaced by their own members, once.

    Raises
    ------
    PixelError
        The archive cannot be read. Attribute `reason`.
    StorageError
        It is compressed, and the cache folder cannot take its copy.
    OSError
        The system refuses the archive.
    """
    state = state_now(path)
    archive = _archives.keep((path, state), _opened(path, state, limits))
    if is_url(path):
        _archives.drop(lambda key: key[0] == path and key[1] == "now")
        for key in ("now", (state[1], state[4])):
            _archives.keep((path, key), archive)
    return state, sorted(_listed(archive, limits), key=_order)


def _listed(archive: Archive, limits: ArchiveLimits, nested: int = 0) -> Iterator[Refused]:
    for each in archive.directory.refused:
        # The name is no path: a location shows it, and leads nowhere.
        name = each.name.replace("\0", "\N{REPLACEMENT CHARACTER}")
        yield each._replace(name=joined(archive.location, name) if name else archive.location)
    for member in archive.directory:
        location = joined(archive.location, member.name)
        if not has_ending(member.name):
            yield Refused(location, "", "", member.size)
        elif nested == MOST_NESTED:
            detail = "the archive is in an archive that is in an archive: unpack the outer one"
            yield Refused(location, "nested_too_deep", detail, member.size)
        else:
            yield from _nested(archive, member, limits, nested + 1)


def _nested(
    outer: Archive, member: Member, limits: ArchiveLimits, nested: int
) -> Iterator[Refused]:
    location = joined(outer.location, member.name)
    try:
        inner = outer.open_archive(member.name, limits)
    except PixelError as error:
        yield Refused(location, error.reason, str(error), member.size)
        return
    _archives.keep((location, outer.state), inner)
    yield from _listed(inner, limits, nested)


def _order(member: Refused) -> tuple[list[bytes], bytes]:
    """Return the key that sorts members as a walk meets files: those of a folder come first."""
    *folder, name = os.fsencode(member.name).split(b"/")
    return folder, name
