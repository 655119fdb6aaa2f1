"""Walk over folders that lists every regular file once, in an order given by the paths.

Folder entries are sorted by name, so two scans of the same folders give the same order. Repeats are
found by (device, inode). The search runs only when the walk met a link, an inode number twice, or
more than one root.

The listing of a folder tells files from folders and has their inode numbers. A look at each file,
which is most of the time of a walk, gives its state; threads look up many files at a time while the
walk goes on. A scan that opens every file anyway walks without it.
"""

import functools
import operator
import os
import re
import stat
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Final, Self

import numpy as np

from dicomdl._kernels import compiled_or
from dicomdl.errors import UsageError
from dicomdl.storage.handles import INODE_BITS
from dicomdl.storage.sources import State, state_of
from dicomdl.storage.states import States
from dicomdl.storage.system import available_cores

_SEPARATOR: Final = os.fsencode(os.sep)


_NAME: Final = operator.attrgetter("name")
# Windows lists folders without inodes.
_LOOKS_UP_ALWAYS: Final = os.name == "nt"
# Of something that is absent, or that is none of the user's, or that was not looked up.
NO_STATE: Final[State] = (0, 0, 0, 0, "")
# Files that are looked up at once, and the threads that do so beside the walk.
_AT_ONCE: Final = 8192
_MOST_THREADS: Final = 4
# Numbers of 64 bits per file that is looked up: size, modification and change time in ns, inode,
# device, and 1; zeros for what is no regular file or cannot be looked up.
_NUMBERS: Final = 6


def pure_look_up_files(paths: tuple[bytes, ...]) -> bytes:
    """Return `_NUMBERS` numbers per path."""
    return np.array([_looked_up(path) for path in paths], np.uint64).tobytes()


def _looked_up(path: bytes) -> list[int]:
    try:
        status = os.lstat(path)
    except (OSError, ValueError):
        return [0] * _NUMBERS
    if not stat.S_ISREG(status.st_mode):
        return [0] * _NUMBERS
    size, modified, changed, *_ = state_of(status)
    numbers = (size, modified, changed, status.st_ino, status.st_dev, 1)
    return [number % 2**64 for number in numbers]


look_up_files = compiled_or(pure_look_up_files)
# Threads of Python would wait for each other.
_IN_THREADS: Final = look_up_files is not pure_look_up_files


@dataclass
class Walk:
    """The result of a walk over the roots: the files, and counts of the entries passed over.

    `paths`, `states` and `keys` have one entry per file, in the same order. `refused` names those
    among the paths that must not be read, with the reason in a word and in a sentence; they become
    problems. `unreadable` holds the paths of folders and entries that the system refused to list or
    describe.
    """

    paths: list[bytes] = field(default_factory=list)
    states: States = field(default_factory=States)
    # Identity per file: (device, inode), and what tells the members of an archive apart. Those of
    # files that were not looked up are empty.
    keys: list[tuple[int, ...]] = field(default_factory=list)
    refused: dict[bytes, tuple[str, str]] = field(default_factory=dict)
    # True when a file may have been reached twice: through links, or through overlapping roots.
    may_repeat: bool = False
    # Of the files in folders, as their listing has them.
    inodes: list[int] = field(default_factory=list)
    hidden_folders: int = 0
    linked_folders: int = 0
    # Links to files that are not below a root.
    outside_links: int = 0
    # Devices, FIFOs, sockets, and links to nothing: git-annex has those for files not fetched.
    special_files: int = 0
    unreadable: list[str] = field(default_factory=list)
    # Their locations: the next scan does not open the archive for them.
    hidden_in_archives: list[str] = field(default_factory=list)
    # Files beside a DICOMDIR that it does not reference.
    not_referenced: int = 0

    def add(self, path: bytes, state: State, key: tuple[int, ...]) -> None:
        """Add a file to be read."""
        self.paths.append(path)
        self.states.append(state)
        self.keys.append(key)

    def refuse(
        self, path: bytes, reason: str, detail: str, state: State = (0, 0, 0, 0, "")
    ) -> None:
        """Add something that becomes a problem instead of being read; a path has one reason."""
        if path not in self.refused:
            # No file has a negative device.
            self.add(path, state, (-1, len(self.paths)))
            self.refused[path] = reason, detail

    def keep(self, rows: Sequence[int]) -> None:
        """Keep some of the files."""
        self.paths = [self.paths[row] for row in rows]
        self.states.keep(rows)
        self.keys = [self.keys[row] for row in rows]

    def passed_over(self) -> dict[str, Any]:
        """Return the entries without a row in the index, in the form that the manifest stores."""
        return {name: getattr(self, name) for name in _PASSED_OVER}


_PASSED_OVER: Final = (
    "hidden_folders",
    "linked_folders",
    "outside_links",
    "special_files",
    "unreadable",
    "not_referenced",
    "hidden_in_archives",
)


def walk(
    roots: Sequence[bytes],
    *,
    follow_links: bool = False,
    avoid: str = "",
    looks_up: bool = True,
) -> Walk:
    """List every regular file below the roots once, in an order given by the paths.

    Parameters
    ----------
    roots
        Folders, or single files.
    follow_links
        Whether links to folders are followed, and links to files outside of the roots. Links to
        files below a root always are.
    avoid
        A folder to leave out: the index.
    looks_up
        Whether to look up the state and identity of each file. Without it, those of a file may be
        `NO_STATE` and empty.

    Raises
    ------
    UsageError
        A root is neither a folder nor a regular file.
    """
    found = Walk(may_repeat=len(roots) > 1)
    avoided = _identity(avoid)
    seen_folders: set[tuple[int, int]] = set()
    inside = None if follow_links else tuple(map(os.path.realpath, roots))
    with _LookUp(found) as look_up:
        for root in roots:
            if not os.path.isdir(root):
                _add_root_file(root, found)
                continue
            for _ in _walk_folder(root, found, seen_folders, avoided, inside):
                if looks_up:
                    look_up.begin(_AT_ONCE)
        may_repeat = found.may_repeat or len(set(found.inodes)) < len(found.inodes)
        if looks_up or may_repeat:
            look_up.finish()
    if may_repeat:
        drop_repeats(found)
    return found


def require_no_url(path: str) -> None:
    """Raise UsageError for a URL, also for one whose "//" became "/" in a `pathlib.Path`."""
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", path) and not os.path.exists(path):
        raise UsageError(
            f'{path!r} is a URL in place of a folder: scan takes URLs as text, with "//", which '
            "pathlib.Path shortens, and an index is a folder on disk",
            path=path,
        )


def identity_of(path: bytes) -> tuple[tuple[int, int], State]:
    """Return (device, inode) of a file, and its state; raise OSError without one."""
    status = os.stat(path)
    return (status.st_dev, status.st_ino), state_of(status)


def _identity(folder: str) -> tuple[int, int] | None:
    """Return (device, inode), which is equal for all spellings of a path; None without a folder."""
    try:
        status = os.stat(folder)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _walk_folder(
    root: bytes,
    found: Walk,
    seen_folders: set[tuple[int, int]],
    avoided: tuple[int, int] | None,
    inside: tuple[bytes, ...] | None,
) -> Iterator[None]:
    """Walk over one root, and yield after each folder.

    `inside` are the folders that no link may leave, None if links may.
    """
    pending = [root]
    while pending:
        folder = pending.pop()
        try:
            with os.scandir(folder) as entries:
                listed = sorted(entries, key=_NAME)
            if inside is None or found.may_repeat:
                here = os.stat(folder)
                if (here.st_dev, here.st_ino) in seen_folders:
                    continue
                seen_folders.add((here.st_dev, here.st_ino))
        except OSError:
            found.unreadable.append(os.fsdecode(folder))
            continue
        folders = []
        trusts_listing = not _LOOKS_UP_ALWAYS and _can_be_searched(folder)
        if trusts_listing and _add_files(listed, found):
            yield
            continue
        for entry in listed:
            try:
                if trusts_listing and _add_files([entry], found):
                    continue
                if not entry.is_dir():
                    is_link = entry.is_symlink()
                    if is_link and _leads_out(entry, inside):
                        found.outside_links += 1
                    else:
                        _add_entry(entry, found, is_link=is_link)
                elif inside is not None and entry.is_symlink():
                    found.linked_folders += 1
                elif entry.name.startswith(b"."):
                    found.hidden_folders += 1
                elif avoided is None or not _is_folder(entry, avoided):
                    folders.append(entry.path)
            except OSError as error:
                _add_failed(entry.path, error, found, is_link=entry.is_symlink())
        yield
        pending.extend(reversed(folders))


def _add_files(listed: Sequence[os.DirEntry[bytes]], found: Walk) -> bool:
    """Add entries, without their states, if all of them are regular files; return whether they are.

    One list per fact: a loop over the files takes twice as long.
    """
    try:
        if not all(entry.is_file(follow_symlinks=False) for entry in listed):
            return False
    except OSError:
        return False
    found.paths.extend([entry.path for entry in listed])
    found.states.append_unknown(len(listed))
    found.keys.extend([()] * len(listed))
    found.inodes.extend([entry.inode() for entry in listed])
    return True


def _can_be_searched(folder: bytes) -> bool:
    """Whether files in a folder can be looked up, and not only listed."""
    try:
        os.stat(os.path.join(folder, b"."))
    except OSError:
        return False
    return True


def _leads_out(entry: os.DirEntry[bytes], inside: tuple[bytes, ...] | None) -> bool:
    """Whether a link leads to something outside of the folders that no link may leave."""
    if inside is None:
        return False
    target = os.path.realpath(entry.path)
    return not any(
        target == root or target.startswith(root.rstrip(_SEPARATOR) + _SEPARATOR) for root in inside
    )


def _is_folder(entry: os.DirEntry[bytes], folder: tuple[int, int]) -> bool:
    # The listing already contains the inode, so most folders need no system call here.
    may_be = entry.inode() == folder[1] or entry.is_symlink()
    return may_be and _identity(os.fsdecode(entry.path)) == folder


def _add_entry(entry: os.DirEntry[bytes], found: Walk, *, is_link: bool) -> None:
    """Add a file, or the target of a link to a file; only count a device, FIFO or socket."""
    status = os.stat(entry.path) if _LOOKS_UP_ALWAYS else entry.stat()
    if not stat.S_ISREG(status.st_mode):
        found.special_files += 1
        return
    found.may_repeat |= is_link
    found.add(entry.path, state_of(status), (status.st_dev, status.st_ino))
    found.inodes.append(status.st_ino)


def _add_failed(path: bytes, error: OSError, found: Walk, *, is_link: bool) -> None:
    """Record what the system cannot describe: a dangling link, or a file without permission.

    A file that has vanished since the listing is ignored. One of which a server tells nothing for
    now (EIO, ESTALE) has not.
    """
    if is_link:
        found.special_files += 1
    elif not isinstance(error, FileNotFoundError | NotADirectoryError):
        found.unreadable.append(os.fsdecode(path))


def _add_root_file(path: bytes, found: Walk) -> None:
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):
        raise UsageError(
            f"{os.fsdecode(path)!r} is neither a folder nor a file", path=os.fsdecode(path)
        )
    found.add(path, state_of(status), (status.st_dev, status.st_ino))


class _LookUp:
    """The look at the files that a walk only lists, beside the walk in threads."""

    def __init__(self, found: Walk) -> None:
        self._found = found
        self._begun: list[tuple[int, Callable[[], bytes]]] = []
        self._stop = 0
        self._team = ThreadPoolExecutor(min(_MOST_THREADS, available_cores()))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._team.shutdown(cancel_futures=True)

    def begin(self, least: int) -> None:
        """Begin to look up the files that were listed since the last time, if they are so many."""
        start, stop = self._stop, len(self._found.paths)
        if stop - start < least:
            return
        self._stop = stop
        if not all(self._found.keys[start:]):
            look = functools.partial(look_up_files, tuple(self._found.paths[start:]))
            self._begun.append((start, self._team.submit(look).result if _IN_THREADS else look))

    def finish(self) -> None:
        """Look up all files that were not yet, and leave out those that are gone."""
        self.begin(1)
        gone: set[int] = set()
        for start, done in self._begun:
            _put(self._found, start, done(), gone)
        if gone:
            self._found.keep([row for row in range(len(self._found.paths)) if row not in gone])


def _put(found: Walk, start: int, data: bytes, gone: set[int]) -> None:
    """Put what was found of the files from row `start` on that have no state yet."""
    numbers = np.frombuffer(data, np.int64).reshape(-1, _NUMBERS)
    stop = start + len(numbers)
    is_new = np.array([not key for key in found.keys[start:stop]], np.bool_)
    is_file = is_new & (numbers[:, -1] == 1)
    rows = np.flatnonzero(is_file)
    states = numbers[rows, :4]
    states[:, -1] &= INODE_BITS
    found.states.put(rows + start, states)
    devices, inodes = numbers.view(np.uint64)[:, [4, 3]].T.tolist()
    identities = list(zip(devices, inodes, strict=True))
    if is_file.all():
        found.keys[start:stop] = identities
        return
    for row in rows.tolist():
        found.keys[start + row] = identities[row]
    for row in np.flatnonzero(is_new & ~is_file).tolist():
        if not _look_up_one(found, start + row):
            gone.add(start + row)


def _look_up_one(found: Walk, row: int) -> bool:
    """Look up a file that is no regular one any more, or could not be; return whether it counts."""
    path = found.paths[row]
    try:
        status = os.stat(path)
    except OSError as error:
        _add_failed(path, error, found, is_link=os.path.islink(path))
        return False
    if not stat.S_ISREG(status.st_mode):
        found.special_files += 1
        return False
    found.keys[row] = status.st_dev, status.st_ino
    found.states.put(np.array([row]), np.array([state_of(status)[:4]], np.int64))
    return True


def drop_repeats(found: Walk) -> None:
    """Keep the first path per identity, in path order, so that every scan keeps the same."""
    order = sorted(range(len(found.paths)), key=found.paths.__getitem__)
    seen: set[tuple[int, ...]] = set()
    keep = []
    for i in order:
        if found.keys[i] not in seen:
            seen.add(found.keys[i])
            keep.append(i)
    found.keep(keep)
