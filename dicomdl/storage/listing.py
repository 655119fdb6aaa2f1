"""Listings of prefixes: pages of 1,000 keys each, many prefixes at once.

A bucket gives one page after the other, so a listing of 10**6 keys waits 1,000 times. Prefixes are
divided at "/" until there are enough of them to list at the same time.
"""

import bisect
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Final

from dicomdl.storage._requests import client_of, submit
from dicomdl.storage._stores import Listed, ObjectState
from dicomdl.storage.handles import UNKNOWN, State

# Prefixes that are listed at once, and the levels that are divided to get them.
_ENOUGH_PREFIXES: Final = 32
_MOST_LEVELS: Final = 4
# Roots that are listed at once; each may list that many prefixes.
_ROOTS_AT_ONCE: Final = 16


@dataclass
class Listing:
    """Objects below a prefix, by location, and prefixes that cannot be listed, with the reason."""

    paths: list[bytes] = field(default_factory=list)
    states: list[State] = field(default_factory=list)
    hidden_folders: int = 0
    unreadable: list[str] = field(default_factory=list)


def state_of_object(state: ObjectState) -> State:
    """Return the state of an object as the index has it."""
    return state.size, state.mtime_ns, UNKNOWN, 0, state.etag


def listed(root: str) -> Listing:
    """List the objects below a prefix in the order of a walk over folders, or the one at it.

    Markers of folders (objects of 0 bytes) and hidden folders (".name") are left out.

    Raises
    ------
    OSError
        The prefix cannot be listed; FileNotFoundError if nothing is there.
    """
    client = client_of(root)
    objects, prefixes = client.level(root)
    if not objects and not prefixes:
        objects = [Listed(root, client.head(root))]
    found = Listing()
    parts = [_plain(objects)]
    for _ in range(_MOST_LEVELS):
        if not 0 < len(prefixes) < _ENOUGH_PREFIXES:
            break
        asked = [(prefix, submit(client.level, prefix)) for prefix in prefixes]
        prefixes = []
        for prefix, future in asked:
            try:
                objects, further = future.result()
            except OSError as error:
                found.unreadable.append(_reason(prefix, error))
                continue
            parts.append(_plain(objects))
            prefixes += further
    for prefix, listing in [(prefix, submit(_below, prefix)) for prefix in prefixes]:
        try:
            parts.append(listing.result())
        except OSError as error:
            found.unreadable.append(_reason(prefix, error))
    return _sorted(root, parts, found)


def list_many(roots: Sequence[str]) -> Iterator[tuple[str, Listing | OSError]]:
    """Yield each of some prefixes with its listing, or with the error of it, in order."""

    def outcome(root: str) -> Listing | OSError:
        try:
            return listed(root)
        except OSError as error:
            return error

    if len(roots) == 1:
        yield roots[0], outcome(roots[0])
        return
    with ThreadPoolExecutor(_ROOTS_AT_ONCE) as threads:
        yield from zip(roots, threads.map(outcome, roots), strict=True)


_Rows = list[tuple[bytes, State]]


def _plain(objects: Iterable[Listed]) -> _Rows:
    return [(os.fsencode(url), state_of_object(state)) for url, state in objects]


def _below(prefix: str) -> _Rows:
    rows: _Rows = []
    for page in client_of(prefix).below(prefix):
        rows += _plain(page)
    return rows


def _reason(prefix: str, error: OSError) -> str:
    return f"{prefix}: {error.strerror}"


def _sorted(root: str, parts: list[_Rows], found: Listing) -> Listing:
    rows = sorted(row for part in parts for row in part)
    parts.clear()
    base = len(os.fsencode(root))
    hidden: set[bytes] = set()
    kept: _Rows = []
    for number, row in enumerate(rows):
        if (name := _hidden_folder(row[0], base)) is not None:
            hidden.add(name)
        elif row[1][0] or not _is_marker(rows, number):
            kept.append(row)
    kept.sort(key=lambda row: _place(row[0], base))
    found.paths, found.states = [path for path, _ in kept], [state for _, state in kept]
    found.hidden_folders = len(hidden)
    return found


def _place(path: bytes, base: int) -> bytes:
    """Return what sorts objects as a walk over folders does: files of a folder, then its folders.

    No key has a NUL.
    """
    *folders, name = path[base:].split(b"/")
    return b"".join(b"\1" + folder + b"\0" for folder in folders) + b"\0" + name


def _hidden_folder(path: bytes, base: int) -> bytes | None:
    """Return the first hidden folder below the root on a path."""
    at = path.find(b"/.", base)
    end = path.find(b"/", at + 2)
    return path[:end] if at >= 0 and end >= 0 else None


def _is_marker(rows: _Rows, number: int) -> bool:
    """Whether an empty object has the name of a folder with objects in it."""
    folder = rows[number][0] + b"/"
    after = bisect.bisect_left(rows, (folder,), number + 1)
    return after < len(rows) and rows[after][0].startswith(folder)
