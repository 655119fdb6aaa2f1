"""Moves of data: roots of a scan that lie elsewhere now.

An index stores the absolute path of each file below the roots of its scan. A move maps an old root
to a new one, and the index reads the files there. Nothing else of the index changes: rows, stacks,
splits and cache keys stay.
"""

import os
from collections.abc import Mapping, Sequence
from typing import Final, TypeAlias

from dicomdl.errors import UsageError
from dicomdl.storage.locations import absolute
from dicomdl.storage.medium import is_dicomdir

# (old root, new root) pairs of bytes without a separator at the end.
Moves: TypeAlias = tuple[tuple[bytes, bytes], ...]
Roots: TypeAlias = str | os.PathLike[str] | Mapping[str, str | os.PathLike[str]]

VARIABLE: Final = "DICOMDL_ROOT"
_SEPARATOR: Final = os.fsencode(os.sep)


def parse_roots(roots: Sequence[str], given: Roots | None) -> dict[str, str]:
    """Parse where the roots of an index are now, as {root of the scan: its place now}.

    Parameters
    ----------
    roots
        The roots of the scan.
    given
        The new place of the only root, or {old root: new root}. None takes ``$DICOMDL_ROOT``: one
        folder, or OLD=NEW pairs that the path separator of the system divides. A root of the
        variable that is not one of this index is ignored, because the variable is meant for all.

    Returns
    -------
    dict
        The roots that were given, moved or not. A DICOMDIR stands for its folder.

    Raises
    ------
    UsageError
        A root of `given` is not one of the scan, or one folder is given for several roots.
    """
    if given is None:
        text = os.environ.get(VARIABLE, "")
        pairs = _parse_variable(text, roots) if text else {}
    elif isinstance(given, Mapping):
        pairs = {_absolute(old): os.fspath(new) for old, new in given.items()}
        _require_known(pairs, roots)
    else:
        pairs = {_only(roots): os.fspath(given)}
    return {_reach(_absolute(old)): _reach(_absolute(new)) for old, new in pairs.items()}


def moves_of(roots: Sequence[str], pairs: Mapping[str, str], *, strict_files: bool = True) -> Moves:
    """Return the moves of the roots that lie elsewhere now, the longest first.

    Parameters
    ----------
    roots
        The roots of the scan.
    pairs
        What `parse_roots` returns.
    strict_files
        Whether a root that was not moved is left out. With False it is moved to itself, so that its
        files are compared as those of a moved root: by size and modification time.
    """
    if not strict_files:
        pairs = {**{_reach(root): _reach(root) for root in roots}, **pairs}
    moves = [
        (os.fsencode(old), os.fsencode(new))
        for old, new in pairs.items()
        if old != new or not strict_files
    ]
    # The longest first, for roots within roots.
    return tuple(sorted(moves, key=_by_length))


def moved(path: bytes, moves: Moves) -> bytes:
    """Return the path of a file now; the same object if its root is not among the moves."""
    for old, new in moves:
        below = old.rstrip(_SEPARATOR) + _SEPARATOR
        if path == old:
            return new
        if path.startswith(below):
            # Not os.path.join: what follows an archive begins with a slash.
            return new.rstrip(_SEPARATOR) + _SEPARATOR + path[len(below) :]
    return path


def _by_length(pair: tuple[bytes, bytes]) -> tuple[int, bytes]:
    return -len(pair[0]), pair[0]


def _reach(root: str) -> str:
    """Return the folder of a DICOMDIR, beside which its files lie; any other root as it is."""
    return os.path.dirname(root) if is_dicomdir(root) else root


def _absolute(folder: str | os.PathLike[str]) -> str:
    return absolute(os.fspath(folder))


def _parse_variable(text: str, roots: Sequence[str]) -> dict[str, str]:
    parts = [part.partition("=") for part in text.split(os.pathsep) if part]
    if len(parts) == 1 and not parts[0][1]:
        return {_only(roots): parts[0][0]}
    pairs = {_absolute(old): new for old, _, new in parts}
    return {old: new for old, new in pairs.items() if old in roots and new}


def _require_known(pairs: Mapping[str, str], roots: Sequence[str]) -> None:
    for old in pairs:
        if old not in roots:
            known = ", ".join(map(repr, roots))
            raise UsageError(f"{old!r} is no root of this index: its roots are {known}", root=old)


def _only(roots: Sequence[str]) -> str:
    if len(roots) != 1:
        known = ", ".join(map(repr, roots))
        raise UsageError(
            f"this index has {len(roots)} roots ({known}): map each one, {{old: new}}, in "
            f"{VARIABLE} as OLD=NEW{os.pathsep}OLD=NEW"
        )
    return roots[0]
