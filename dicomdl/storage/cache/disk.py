"""`DiskCache`: decoded stacks in a folder, shared by processes and ranks, persistent across runs.

An entry is one file. Eviction is by least recent use, which is the modification time of the file;
each process updates it once per 60 s at most.
"""

import contextlib
import os
import time
from collections import OrderedDict
from contextlib import AbstractContextManager
from typing import Any, Final, Literal

from dicomdl.errors import StorageError, UsageError
from dicomdl.storage import locks
from dicomdl.storage.cache import folder as cachefolder
from dicomdl.storage.cache._base import BaseCache
from dicomdl.storage.cache._file_source import FileSource
from dicomdl.storage.cache._layout import Identity, blosc2_codec, file_pieces
from dicomdl.storage.cache._stored import StoredEntry
from dicomdl.storage.cache.entries import Arrays, Body, Lost
from dicomdl.storage.cache.stats import checked_bytes
from dicomdl.storage.publishing import cache_folder, make_folder, removed_first, require_private

DiskFormat = Literal["raw", "blosc2"]
DEFAULT_DISK_BYTES: Final = 50 * 2**30
# Shortest interval between two marks of an entry's file as used.
TOUCH_S: Final = 60.0
# Number of entries that a process keeps open, with one map each. Mapping again takes 0.1 ms.
OPEN_ENTRIES: Final = 64
# Number of closed entries whose verified blocks a process remembers, 128 bytes per CT.
KNOWN_ENTRIES: Final = 16384
# Eviction leaves a 16th of the limit free. A process writes up to a 16th of the free bytes before
# it lists the folder again.
_SLACK: Final = 16


class DiskCache(BaseCache):
    """A cache of decoded stacks as files in a folder, shared by processes and ranks.

    The entries persist for the next run.

    Parameters
    ----------
    folder
        Folder of the entries, created when absent, for its owner only. The default is "arrays" in
        the user's cache folder (or `DICOMDL_CACHE`).
    max_bytes
        Limit of all entries together. The least recently used entries are evicted first. Processes
        that write at the same time may exceed the limit by the bytes that each writes before it
        lists the folder again: one entry, or a 16th of the free bytes.
    format
        "raw" stores the values uncompressed and maps them. "blosc2" compresses them (LZ4 after a
        shuffle): CT becomes 2.2-2.5 x smaller, and reading a patch takes 10 x longer.
    strict
        Whether keys are computed from the contents of files instead of their times and inodes (see
        `stack_key`).
    uncompressed
        Whether stacks of uncompressed frames are cached, too, for patches: their samples as one
        array that is mapped. It costs the size of the pixels.

    Attributes
    ----------
    folder : str
        The absolute path of the folder.
    max_bytes : int
        The limit in bytes.
    format : {"raw", "blosc2"}
        The format of new entries.
    strict : bool
        Whether keys are computed from contents.
    uncompressed : bool
        Whether stacks of uncompressed frames are cached, too.

    Raises
    ------
    StorageError
        The folder belongs to another user, or all users can write to it.
    MissingExtra
        `format` is "blosc2", and imagecodecs lacks Blosc2.
    UsageError
        `format` is unknown, or `max_bytes` is not a number above 0.

    Warns
    -----
    CacheWarning
        Entries cannot be stored, for example in a folder without write permission. Values are
        computed each time then. The warning appears once per process.

    Notes
    -----
    The folder holds pixels of patients: protect it like the source data. A pickled cache consists
    of its options. No file is open after construction; later, a process maps up to 64 entries.

    Examples
    --------
    >>> import dicomdl, tempfile
    >>> cache = dicomdl.DiskCache(tempfile.mkdtemp(), max_bytes=10 * 2**30)
    >>> cache.stats()
    Stats(hits=0, made=0, stored=0, damaged=0, evicted=0, failed=0)

    A dataset takes it as an option: ``PatchDataset(index, size=(96, 96, 96), cache=cache)``.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str] | None = None,
        *,
        max_bytes: int = DEFAULT_DISK_BYTES,
        format: DiskFormat = "raw",
        strict: bool = False,
        uncompressed: bool = False,
    ) -> None:
        if format not in ("raw", "blosc2"):
            raise UsageError(f'format={format!r}: expected "raw" or "blosc2"')
        if format == "blosc2":
            blosc2_codec()
        self.max_bytes = checked_bytes(max_bytes)
        self.format: DiskFormat = format
        self.strict = strict
        self.uncompressed = uncompressed
        self.folder = (
            cache_folder("arrays") if folder is None else os.path.abspath(os.fspath(folder))
        )
        self._begin()
        self._is_ready()

    def _begin(self) -> None:
        """Initialize the state that each process has separately."""
        super().__init__()
        self._opened: OrderedDict[str, StoredEntry] = OrderedDict()
        self._known: OrderedDict[Identity, bytes] = OrderedDict()
        self._recently: set[str] = set()
        self._swept = time.monotonic()
        self._allowance = 0
        self._checked = False
        self._mapped = True

    def __getstate__(self) -> dict[str, Any]:
        names = "folder", "max_bytes", "format", "strict", "uncompressed"
        return {name: getattr(self, name) for name in names}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._begin()

    def __repr__(self) -> str:
        return (
            f"DiskCache({self.folder!r}, max_bytes={self.max_bytes}, format={self.format!r}, "
            f"strict={self.strict}, uncompressed={self.uncompressed})"
        )

    def _alone(self, digest: str) -> AbstractContextManager[object]:
        if not self._checked:
            return contextlib.nullcontext()
        return locks.alone(cachefolder.lock_path(self.folder, digest))

    def _drop(self, digest: str, lost: Body) -> None:
        self._opened.pop(digest, None)
        self._counters.add("damaged")
        path = self._path(digest)
        # The comparison spares a newer file, which another process may have put in place.
        with contextlib.suppress(OSError):
            if os.path.samestat(os.lstat(path), _status(lost)):
                os.unlink(path)

    def _path(self, digest: str) -> str:
        return os.path.join(self.folder, f"{digest}.entry")

    def _is_ready(self) -> bool:
        """Return whether the folder exists and is private.

        The check runs once per process, and again at each call until the folder could be created.
        """
        if self._checked and os.path.isdir(self.folder):
            return True
        try:
            make_folder(self.folder)
        except StorageError as error:
            self._warn(error)
            return False
        require_private(self.folder)
        cachefolder.remove_orphans(self.folder)
        self._mapped = cachefolder.may_be_mapped(self.folder)
        self._checked = True
        return True

    def _find(self, digest: str, counting: bool = False) -> StoredEntry | None:
        # The first lookup of a `get` checks the folder again, which may have been removed.
        if not (self._checked if counting else self._is_ready()):
            return None
        if time.monotonic() - self._swept > TOUCH_S:
            self._sweep()
        body = self._opened.get(digest)
        if body is None:
            try:
                body = cachefolder.open_entry(
                    self._path(digest), digest, self._mapped, self._remembered
                )
            except FileNotFoundError:
                return None
            except (Lost, OSError, ValueError):
                # A ValueError means that the file has become shorter since its size was read.
                self._counters.add("damaged", int(counting))
                return None
            self._keep(digest, body)
        self._recently.add(digest)
        with contextlib.suppress(KeyError):
            self._opened.move_to_end(digest)
        return body

    def _remembered(self, identity: Identity) -> bytes | None:
        return self._known.pop(identity, None)

    def _keep(self, digest: str, body: StoredEntry) -> None:
        """Keep an entry open, and close the least recently used one beyond `OPEN_ENTRIES`.

        The flags of verified blocks of a closed entry are kept.
        """
        self._opened[digest] = body
        if abs(time.time() - _status(body).st_mtime) > TOUCH_S:
            self._touch(digest, body)
        while len(self._opened) > OPEN_ENTRIES:
            with contextlib.suppress(KeyError):
                _, closed = self._opened.popitem(last=False)
                self._known[closed.identity] = closed.verified_bits()
        while len(self._known) > KNOWN_ENTRIES:
            with contextlib.suppress(KeyError):
                self._known.popitem(last=False)

    def _touch(self, digest: str, body: StoredEntry) -> bool:
        """Mark an entry as used by the modification time of its file.

        Returns False if the file is gone or has been replaced.
        """
        path = self._path(digest)
        try:
            if not os.path.samestat(os.lstat(path), _status(body)):
                return False
            os.utime(path)
        except FileNotFoundError:
            return False
        except OSError:
            # The folder is read-only, and the file is still there.
            return True
        return True

    def _sweep(self) -> None:
        """Mark the entries used since the last sweep, and close files that have been removed.

        The disk space of a removed file is free only when every process has closed it.
        """
        self._swept = time.monotonic()
        recently, self._recently = self._recently, set()
        for digest, body in list(self._opened.items()):
            if digest in recently:
                is_there = self._touch(digest, body)
            else:
                is_there = os.path.exists(self._path(digest))
            if not is_there:
                self._opened.pop(digest, None)

    def _store(self, digest: str, arrays: Arrays) -> bool:
        if not self._checked:
            return False
        pieces = file_pieces(digest, arrays, self.format)
        size = sum(len(piece) for piece in pieces)
        if size > self.max_bytes:
            return False
        self._make_room(size)
        try:
            cachefolder.write_entry(self.folder, digest, pieces)
        except FileNotFoundError:
            # Another process removed the folder, or cleared it during the write.
            return False
        return True

    def _make_room(self, needed: int) -> None:
        """Evict the least recently used entries if the limit requires it.

        The folder is listed only when this process has used up its allowance.
        """
        if needed <= self._allowance:
            self._allowance -= needed
            return
        used = cachefolder.used_files(self.folder)
        used.sort(key=lambda file: removed_first(file.mtime))
        total = sum(file.size for file in used)
        if total + needed > self.max_bytes:
            target = self.max_bytes - needed - self.max_bytes // _SLACK
            for file in used:
                if total <= max(target, 0):
                    break
                if file.digest and self._evict(file):
                    total -= file.size
        self._allowance = max(0, self.max_bytes - total - needed) // _SLACK

    def _evict(self, file: cachefolder.Used) -> bool:
        """Remove an entry; return whether its file is gone.

        Processes that map the file still read it (POSIX). Windows refuses, and the entry stays.
        """
        self._opened.pop(file.digest, None)
        try:
            os.unlink(file.path)
        except FileNotFoundError:
            return True
        except OSError:
            return False
        self._counters.add("evicted")
        return True


def _status(body: Body) -> os.stat_result:
    """Return the status of an entry's file at the time it was opened."""
    assert isinstance(body, StoredEntry) and isinstance(body.source, FileSource)
    return body.source.status
