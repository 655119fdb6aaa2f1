"""Paths of files that an index names, whose class says how far the index is believed.

A plain `str` is a path of the user, or of an index that a scan of this user wrote. `RootedPath` is
a path of an index that came from elsewhere: no link may lead it out of the root that the user gave.
`UnacceptedPath` is below no root that the user gave, and is never opened. `MovedPath` says which
part of the state of the file is compared (`handles`).
"""

import functools
import os
from typing import Any, Final, Self

from dicomdl.errors import UntrustedRoot
from dicomdl.storage.handles import MovedPath
from dicomdl.storage.locations import SEPARATOR, is_url, split

# Of local paths, of members of archives and of URLs.
_SEPARATORS: Final = {os.sep, "/"}


class RootedPath(str):
    """A path of an index that another user may have written, below a root that this user gave.

    Attributes
    ----------
    root
        The root, which no link on the way to the file may leave.
    folder
        The folder of a local file outside of archives, which is the root or below it; "" where that
        was not looked at. One object for all files of a folder spares computing it for each.
    """

    __slots__ = ("folder", "root")
    folder: str
    root: str

    def __new__(cls, path: str, root: str, folder: str = "") -> Self:
        """Return the path with its root."""
        made = str.__new__(cls, path)
        made.root, made.folder = root, folder
        return made

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (str(self), self.root)


class MovedRootedPath(RootedPath, MovedPath):
    """A `RootedPath` below a root that was moved since the scan."""

    __slots__ = ()


class UnacceptedPath(str):
    """A path that an index names, below no root that the user gave: it is shown, never opened."""

    __slots__ = ()


def require_accepted(path: str) -> None:
    """Raise UntrustedRoot for a path of an index that is not below a root that the user gave.

    Links are followed as long as they stay below the root. Folders are looked up once per process:
    a program of this machine that replaces one by a link afterwards is not stopped, but the file
    behind the link must also have the size and the times that the index states.
    """
    if must_be_no_link(path) and os.path.islink(path):
        require_link_inside(path)


def must_be_no_link(path: str) -> bool:
    """Do as `require_accepted`, except for a link in the place of the file itself.

    Returns whether the file must be none, or pass `require_link_inside`. Whoever opens it without
    following links spares a look at each file.
    """
    if not isinstance(path, RootedPath):
        if isinstance(path, UnacceptedPath):
            raise UntrustedRoot(
                "the file is below no root that was accepted for its index: name the root, "
                "open_index(path, root=...) or DICOMDL_ROOT"
            )
        return False
    if path.folder and _folder_stays_inside(path.folder, path.root):
        return True
    root: str = path.root
    whole: str = path
    if SEPARATOR in path:
        # An archive, or a store, which has no links.
        whole = split(path).whole
        if is_url(whole):
            return False
    # A root that is the file itself, or a part of an archive, was named by the user.
    if root.startswith(whole) and is_inside(root, whole):
        return False
    if not _folder_stays_inside(os.path.dirname(whole), root):
        raise _leads_out(root)
    if whole is path:
        return True
    if os.path.islink(whole):
        _require_target(whole, root)
    return False


def require_link_inside(path: str) -> None:
    """Raise UntrustedRoot if a path of which `must_be_no_link` is True leads out of its root."""
    if isinstance(path, RootedPath):
        _require_target(path, path.root)


def _require_target(path: str, root: str) -> None:
    if not is_inside(os.path.realpath(path), os.path.realpath(root)):
        raise _leads_out(root)


def _leads_out(root: str) -> UntrustedRoot:
    return UntrustedRoot(
        f"a link leads out of the root {root!r}, which was given for the index: copy the "
        "file to its place, or open_index(path, trust=True)",
        root=root,
    )


# Small: a flag per folder, of which looking up each part takes 10 us.
@functools.lru_cache(maxsize=4096)
def _folder_stays_inside(folder: str, root: str) -> bool:
    return is_inside(os.path.realpath(folder), os.path.realpath(root))


def is_inside(path: str, root: str) -> bool:
    """Whether a path is that of a root, or below it; both without links and "..".

    A root is a folder, a file, an archive or the URL of a store. A member of an archive is below
    it: its path is that of the archive, "//" and its name.
    """
    if not path.startswith(root):
        return False
    return path == root or root[-1] in _SEPARATORS or path[len(root)] in _SEPARATORS
