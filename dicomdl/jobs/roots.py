"""The roots of a scan: what each of them is, and one walk over all."""

import os
from collections.abc import Iterable, Sequence
from typing import Any, Final, Literal, NamedTuple, TypeAlias

from dicomdl.errors import UsageError
from dicomdl.storage.folders import Walk, require_no_url, walk
from dicomdl.storage.locations import absolute

Path: TypeAlias = str | bytes | os.PathLike[str] | os.PathLike[bytes]
Kind = Literal["folder", "archive"]

# Endings of archives, which must be unpacked first.
_ARCHIVES: Final = (
    *(".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst"),
    *(".7z", ".rar"),
)


class Root(NamedTuple):
    """A root and its kind: "folder" also for a single file."""

    path: bytes
    kind: Kind


def checked_roots(given: Any) -> list[Root]:
    """Return the roots that a user gives, without repeats, sorted by their location.

    Raises
    ------
    UsageError
        A root does not exist, or is of a kind that the scan does not read.
    """
    if not isinstance(given, str | bytes | os.PathLike | Iterable):
        raise UsageError(f"scan takes a folder, or a list of them, not {type(given).__name__}")
    roots = [given] if isinstance(given, str | bytes | os.PathLike) else list(given)
    if not roots or not all(os.fspath(root) for root in roots):
        raise UsageError("no folder to scan was given, or one with an empty name")
    return sorted({_root(os.fsdecode(os.fspath(root))) for root in roots})


def _root(given: str) -> Root:
    require_no_url(given)
    path = absolute(given)
    if not os.path.exists(path):
        raise UsageError(f"{path!r} does not exist", path=path)
    if path.lower().endswith(_ARCHIVES) and os.path.isfile(path):
        raise UsageError(
            f"{given!r} is an archive, which the scan does not read yet: unpack it and scan the "
            "folder",
            path=given,
        )
    return Root(os.fsencode(path), "folder")


def walk_roots(roots: Sequence[Root], *, follow_links: bool, avoid: str) -> Walk:
    """List every file of the roots once. See `folders.walk`."""
    return walk([root.path for root in roots], follow_links=follow_links, avoid=avoid)
