"""The folder of a disk cache: writing of entries, removal of orphans, reports.

An entry is published complete, by one `os.replace`. Temporary files and lock files are orphans when
no process holds the lock of their entry. Only files whose names match those of a cache are removed.
"""

import contextlib
import dataclasses
import os
import re
import secrets
import stat
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from dicomdl.errors import StorageError
from dicomdl.printing import printable
from dicomdl.storage import locks
from dicomdl.storage.cache._file_source import FileSource
from dicomdl.storage.cache._layout import Identity, write_pieces
from dicomdl.storage.cache._stored import StoredEntry
from dicomdl.storage.cache.entries import Lost
from dicomdl.storage.publishing import cache_folder
from dicomdl.storage.system import OPEN_FLAGS

_ENTRY: Final = re.compile(r"([0-9a-f]{64})\.entry")
_TEMPORARY: Final = re.compile(r"[0-9a-f]{64}\.[0-9a-f]{12}\.tmp")
_LOCK: Final = re.compile(r"[0-9a-f]{64}\.lock")
_DAY_S: Final = 86400.0
_CREATE_FLAGS: Final = (
    os.O_RDWR
    | os.O_CREAT
    | os.O_EXCL
    | getattr(os, "O_CLOEXEC", 0)
    | getattr(os, "O_NOFOLLOW", 0)
    | getattr(os, "O_BINARY", 0)
)
_NETWORK: Final = {
    "nfs",
    "nfs4",
    "cifs",
    "smb3",
    "lustre",
    "beegfs",
    "gpfs",
    "ceph",
    "afs",
    "9p",
    "glusterfs",
    "pvfs2",
}


def open_entry(
    path: str, digest: str, mapped: bool, known: Callable[[Identity], bytes | None] | None = None
) -> StoredEntry:
    """Open an entry's file; raise FileNotFoundError if absent, Lost if it is damaged."""
    descriptor = os.open(path, OPEN_FLAGS | getattr(os, "O_NOFOLLOW", 0))
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise Lost
        return StoredEntry(FileSource(descriptor, mapped), digest, known)
    finally:
        os.close(descriptor)


def write_entry(folder: str, digest: str, pieces: Sequence[Any]) -> None:
    """Publish an entry in one step.

    There is no fsync, which would cost as much as the writing. The checksums detect bytes that a
    power cut lost, and the entry is computed again.
    """
    temporary = os.path.join(folder, f"{digest}.{secrets.token_hex(6)}.tmp")
    descriptor = os.open(temporary, _CREATE_FLAGS, 0o600)
    try:
        try:
            write_pieces(descriptor, pieces)
        finally:
            os.close(descriptor)
        os.replace(temporary, os.path.join(folder, f"{digest}.entry"))
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def lock_path(folder: str, digest: str) -> str:
    """Return the path of the file whose lock a process holds while it computes an entry."""
    return os.path.join(folder, f"{digest}.lock")


def remove_orphans(folder: str) -> None:
    """Remove temporary and lock files whose process is dead.

    A process that writes an entry holds the lock of the entry. On file systems without locks, files
    older than a day are orphans.
    """
    candidates: dict[str, list[str]] = {}
    for item in _items(folder):
        if _TEMPORARY.fullmatch(item.name) or _LOCK.fullmatch(item.name):
            candidates.setdefault(item.name.split(".")[0], []).append(item.path)
    for digest, paths in candidates.items():
        with locks.alone(lock_path(folder, digest), wait_s=0) as held:
            for path in paths:
                # The lock file is removed by the lock itself.
                if not path.endswith(".lock") and (held or (held is None and _is_old(path))):
                    with contextlib.suppress(OSError):
                        os.unlink(path)


def _is_old(path: str) -> bool:
    try:
        return time.time() - os.lstat(path).st_mtime > _DAY_S
    except OSError:
        return False


def _items(folder: str) -> list["os.DirEntry[str]"]:
    try:
        with os.scandir(folder) as items:
            return list(items)
    except OSError:
        return []


class Used(NamedTuple):
    """A file of the cache in the folder; its modification time is the time of its last use."""

    mtime: float
    size: int
    path: str
    # "" for a temporary file.
    digest: str


def used_files(folder: str) -> list[Used]:
    """List the entries and the temporary files, which take room as well."""
    files = []
    for item in _items(folder):
        match = _ENTRY.fullmatch(item.name)
        if match or _TEMPORARY.fullmatch(item.name):
            with contextlib.suppress(OSError):
                status = item.stat(follow_symlinks=False)
                files.append(
                    Used(status.st_mtime, status.st_size, item.path, match[1] if match else "")
                )
    return files


def may_be_mapped(folder: str) -> bool:
    """Return whether files of the folder can be mapped, which network file systems exclude.

    On a network file system, an eviction by another machine ends a process that reads its map
    (SIGBUS).
    """
    try:
        with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
            mounts = [line.split() for line in file]
    except OSError:
        return True
    here = os.path.realpath(folder) + "/"
    # A later mount covers an earlier one.
    kinds = {mount[4].rstrip("/") + "/": mount[mount.index("-") + 1] for mount in mounts}
    kind = (
        kinds[max((point for point in kinds if here.startswith(point)), key=len, default="/")]
        if kinds
        else ""
    )
    return not (kind in _NETWORK or kind.startswith("fuse"))


# --- reports and commands -------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class FolderReport:
    """The contents of the folder of a disk cache; `str` is for people, `as_dict` for machines.

    Attributes
    ----------
    folder : str
        The absolute path.
    entries : int
        Number of entries.
    size_bytes : int
        Bytes of all entries together.
    oldest_use, newest_use : float or None
        Earliest and latest use of an entry, in seconds since 1970; None without entries.
    leftovers : int
        Number of temporary and lock files.
    foreign : int
        Number of files that do not belong to the cache.
    verified : bool
        Whether `verify` has read all entries.
    damaged : tuple of str
        Names of the files of damaged entries, which only `verify` detects.
    removed : int
        Number of files that `clear` removed.
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
        """Return the fields as a dict for JSON."""
        return {**dataclasses.asdict(self), "damaged": list(self.damaged)}

    def __str__(self) -> str:
        lines = [self.folder, f"  {self.entries:,} entries, {self.size_bytes / 2**20:,.1f} MiB"]
        if self.oldest_use is not None and self.newest_use is not None:
            oldest, newest = (
                time.strftime("%Y-%m-%d %H:%M", time.localtime(at))
                for at in (self.oldest_use, self.newest_use)
            )
            lines.append(f"  last used {oldest} to {newest}")
        if self.removed:
            lines.append(f"  {self.removed:,} files removed")
        if self.leftovers:
            lines.append(
                f"  {self.leftovers:,} temporary and lock files, in use or left by processes "
                "that were killed"
            )
        if self.foreign:
            lines.append(f"  {self.foreign:,} other files, which are left as they are")
        if self.verified:
            lines.append(
                f"  {len(self.damaged):,} damaged"
                + (", which will be computed again:" if self.damaged else "")
            )
            lines.extend(f"    {name}" for name in self.damaged)
        return "\n".join(map(printable, lines))


def _existing(folder: str | os.PathLike[str] | None) -> str:
    path = cache_folder("arrays") if folder is None else os.path.abspath(os.fspath(folder))
    if not os.path.isdir(path):
        raise StorageError(f"there is no cache folder {path!r}")
    return path


def show(folder: str | os.PathLike[str] | None = None) -> FolderReport:
    """Report the contents of a cache folder (by default the user's) from a listing alone.

    Raises StorageError if the folder does not exist.
    """
    path = _existing(folder)
    used = [file for file in used_files(path) if file.digest]
    names = [item.name for item in _items(path)]
    leftovers = sum(1 for name in names if _TEMPORARY.fullmatch(name) or _LOCK.fullmatch(name))
    times = [file.mtime for file in used]
    return FolderReport(
        path,
        entries=len(used),
        size_bytes=sum(file.size for file in used),
        oldest_use=min(times, default=None),
        newest_use=max(times, default=None),
        leftovers=leftovers,
        foreign=len(names) - len(used) - leftovers,
    )


def verify(folder: str | os.PathLike[str] | None = None) -> FolderReport:
    """Read every entry of a cache folder and compare all checksums, without any change."""
    path = _existing(folder)
    mapped, damaged = may_be_mapped(path), []
    for file in sorted(used_files(path), key=lambda file: file.path):
        if file.digest:
            try:
                open_entry(file.path, file.digest, mapped).require_whole()
            except FileNotFoundError:
                # Another process has evicted the entry meanwhile.
                continue
            except (Lost, OSError, ValueError):
                damaged.append(os.path.basename(file.path))
    return dataclasses.replace(show(path), verified=True, damaged=tuple(damaged))


def clear(folder: str | os.PathLike[str] | None = None) -> FolderReport:
    """Remove the entries, temporary files and lock files of a cache folder, and no other files.

    Running processes compute their entries again.
    """
    path = _existing(folder)
    removed = 0
    for item in _items(path):
        if (
            _ENTRY.fullmatch(item.name)
            or _TEMPORARY.fullmatch(item.name)
            or _LOCK.fullmatch(item.name)
        ):
            with contextlib.suppress(OSError):
                os.unlink(item.path)
                removed += 1
    return dataclasses.replace(show(path), removed=removed)
