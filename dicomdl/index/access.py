"""Access to the files of an index: where they are now, and which of them may be read.

What an index says of its files is believed if a scan of this user wrote it (`own_scans`), or if the
user says so with ``trust=True``. Of any other index, only files below the roots that the user gave
are read, and no ".." and no link may lead out of them. The others are shown and never opened.

An archive and the URL of a store are roots, too (`storage.locations`).
"""

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
import pyarrow.compute as pc

from dicomdl.arrays import Mask
from dicomdl.errors import IndexFolderError, UntrustedRoot
from dicomdl.index.moves import VARIABLE, Moves, Roots, moved, moves_of, parse_roots
from dicomdl.index.own_scans import is_own
from dicomdl.index.stored_generation import StoredGeneration
from dicomdl.index.table import Table, flags_of
from dicomdl.storage.handles import MovedPath
from dicomdl.storage.locations import SEPARATOR, is_url
from dicomdl.storage.paths import MovedRootedPath, RootedPath, UnacceptedPath, is_inside

# Roots that an error shows.
_SHOWN_ROOTS: Final = 3
_SEPARATORS: Final = rb"[/\\]" if os.sep == "\\" else rb"/"
# A component that leaves its folder, or a byte that no path holds.
_LEAVING: Final = rb"(^|%s)\.\.(%s|$)|\x00" % (_SEPARATORS, _SEPARATORS)
_LEAVES: Final = re.compile(_LEAVING)


@dataclass(frozen=True, slots=True)
class Access:
    """How far the paths of an index are believed. The pickle of an index carries it.

    Attributes
    ----------
    moves
        The roots of the scan that lie elsewhere now.
    roots
        The folders, archives or files below which files may be read; None for any.
    is_own
        Whether a scan of this user wrote the tables. Those of others are checked when they are
        mapped.
    """

    moves: Moves
    roots: tuple[str, ...] | None
    is_own: bool

    @property
    def is_plain(self) -> bool:
        """Whether the index stores the paths as they are, and each of them may be read."""
        return self.roots is None and not self.moves

    def path(self, data: bytes) -> str:
        """Return the path of a file now, from the bytes that the index stores."""
        now = moved(data, self.moves)
        is_moved, text = now is not data, os.fsdecode(now)
        if self.roots is None:
            return MovedPath(text) if is_moved else text
        root = next((root for root in self.roots if is_inside(text, root)), None)
        if root is None or _LEAVES.search(now):
            return UnacceptedPath(text)
        return (MovedRootedPath if is_moved else RootedPath)(text, root)

    def paths(self) -> Callable[[bytes], str]:
        """Return `path`, or a function that returns the same and looks at each folder once."""
        return self.path if self.roots is None or _SEPARATORS != rb"/" else _Paths(self)

    def readable(self, files: Table) -> Mask:
        """Return (files,) flags of the files that may be read, by their paths alone."""
        paths = files.column("path")
        if self.roots is None:
            return np.ones(len(files), dtype=np.bool_)
        flags = np.zeros(len(files), dtype=np.bool_)
        for root in self.roots:
            # The paths of the index are those before the move.
            before = [old for old, new in self.moves if is_inside(os.fsdecode(new), root)]
            for place in (os.fsencode(root), *before):
                flags |= flags_of(pc.equal(paths, place))
                flags |= flags_of(pc.starts_with(paths, _with_separator(place)))
        return flags & ~flags_of(pc.match_substring_regex(paths, _LEAVING))


class _Paths:
    """Paths of an index whose files are read below some roots, by their folder.

    All files of a folder are below the roots that it is below.
    """

    _MOST: Final = 4096

    def __init__(self, access: Access) -> None:
        self._access = access
        self._ends = [*map(os.fsencode, access.roots or ()), *(old for old, _ in access.moves)]
        # Beginning of the paths of a folder -> class, beginning of the paths now, root, folder now.
        self._folders: dict[bytes, tuple[type[RootedPath], str, str, str]] = {}

    def __call__(self, data: bytes) -> str:
        end = data.rfind(b"/") + 1
        name = data[end:]
        known = self._folders.get(data[:end])
        if known is None or name == b".." or b"\0" in name:
            return self._learned(data[:end], data)
        kind, beginning, root, folder = known
        return kind(beginning + os.fsdecode(name), root, folder)

    def _learned(self, before: bytes, data: bytes) -> str:
        path = self._access.path(data)
        if isinstance(path, RootedPath):
            beginning = path[: len(path) - len(os.fsdecode(data[len(before) :]))]
            # A root within the folder may be one of its files.
            if not any(end.startswith((before, os.fsencode(beginning))) for end in self._ends):
                if len(self._folders) >= self._MOST:
                    self._folders.clear()
                is_file = SEPARATOR not in path and not is_url(path)
                folder = os.path.dirname(path) if is_file else ""
                self._folders[before] = type(path), beginning, path.root, folder
        return path


def access_to(
    folder: str,
    generation: str,
    given: Roots | None,
    *,
    strict_files: bool,
    trust: bool,
) -> Access:
    """Return the access to a generation of an index.

    Parameters
    ----------
    folder, generation
        The generation.
    given, strict_files, trust
        The arguments of `open_index`.

    Raises
    ------
    UsageError
        `given` does not fit the roots of the index.
    IndexFolderError
        The index does not state its roots.
    """
    roots = roots_of(folder, generation)
    pairs = parse_roots(roots, given)
    moves = moves_of(roots, pairs, strict_files=strict_files)
    own = is_own(folder, generation)
    if own or trust:
        return Access(moves, None, own)
    return Access(moves, tuple(sorted(set(pairs.values()), key=len, reverse=True)), False)


def roots_of(folder: str, generation: str) -> list[str]:
    """Return the roots that a generation states.

    Raises
    ------
    IndexFolderError
        It states something else.
    """
    options = StoredGeneration(folder, generation).facts().get("options", {})
    roots = options.get("roots", []) if isinstance(options, dict) else None
    if not isinstance(roots, list) or not all(isinstance(root, str) and root for root in roots):
        raise IndexFolderError(
            f"the index {folder!r} does not state its roots: scan again", path=folder
        )
    return roots


def refused(folder: str, generation: str) -> UntrustedRoot:
    """Return the error for pixels of an index whose roots were not accepted."""
    roots = roots_of(folder, generation)
    shown = ", ".join(map(repr, roots[:_SHOWN_ROOTS])) + ", ..." * (len(roots) > _SHOWN_ROOTS)
    said = f" (the index says {shown})" if roots else ""
    return UntrustedRoot(
        f"no scan of this user wrote the index {folder!r}, so its files are not read on its word: "
        f"name where the data are, open_index(path, root=...) or {VARIABLE}{said}; "
        "trust=True believes all that the index says",
        path=folder,
        roots=roots,
    )


def _with_separator(root: bytes) -> bytes:
    """Return the beginning of all paths below a root; those of a URL have slashes everywhere."""
    separator = b"/" if is_url(os.fsdecode(root)) else os.fsencode(os.sep)
    return root if root.endswith(separator) else root + separator
