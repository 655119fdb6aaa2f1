"""The roots of a scan: what each of them is, and one walk over all."""

import contextlib
import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, NamedTuple, TypeAlias

from dicomdl.errors import HeaderError, PixelError, StorageError, UsageError
from dicomdl.headers.dicomdir import referenced_files
from dicomdl.headers.limits import DEFAULT_LIMITS, ReadLimits
from dicomdl.index.problems import NOT_DELIVERED
from dicomdl.jobs.fetch_ledger import undelivered
from dicomdl.jobs.store_roots import add_stores, checked_url, is_table
from dicomdl.jobs.web_roots import add_services, checked_service
from dicomdl.storage.archives import (
    OTHER_ENDINGS,
    compressed_bytes,
    copy_archive,
    has_ending,
    list_members,
    state_now,
)
from dicomdl.storage.dicomweb import is_web
from dicomdl.storage.directory import ArchiveLimits, Refused
from dicomdl.storage.folders import Walk, drop_repeats, identity_of, require_no_url, walk
from dicomdl.storage.locations import SEPARATOR, absolute, is_url, joined, split
from dicomdl.storage.medium import Medium, is_dicomdir
from dicomdl.storage.sources import Source, State

Path: TypeAlias = str | bytes | os.PathLike[str] | os.PathLike[bytes]
_SEPARATOR: Final = os.fsencode(SEPARATOR)
# "folder" also stands for a single file.
Kind = Literal["folder", "archive", "dicomdir", "store", "table", "service"]


# The device of archives in stores.
_ARCHIVED: Final = -3


class Root(NamedTuple):
    """A root and its kind."""

    path: bytes
    kind: Kind

    @property
    def is_remote(self) -> bool:
        """Whether it is in a store, or names objects of stores."""
        return self.kind == "table" or is_url(os.fsdecode(self.path))


class Known(NamedTuple):
    """An archive as the last scan found it: its members and their states, and hidden folders."""

    members: Sequence[tuple[bytes, State]]
    hidden: Sequence[str]


@dataclass(frozen=True, slots=True)
class Walking:
    """Options of a walk over roots.

    `copy_archives` copies zips with compressed members to the cache folder.
    `known` has the archives that the last scan read, by their location. One that is in the same
    state, of which the first `compared` entries count, is not opened again.
    `looks_up` gives the states of the files in folders, which comparing with the last scan needs.
    """

    follow_links: bool = False
    archives: bool = False
    limits: ReadLimits = DEFAULT_LIMITS
    avoid: str = ""
    compared: int = 4
    known: Mapping[bytes, Known] = field(default_factory=dict)
    storage_options: Mapping[str, Any] = field(default_factory=dict)
    copy_archives: bool = False
    looks_up: bool = True


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
    if is_web(given):
        return Root(os.fsencode(checked_service(given)), "service")
    if is_url(given):
        path = checked_url(given)
        if has_ending(path):
            return Root(os.fsencode(path), "archive")
        return Root(os.fsencode(path), "table" if is_table(path) else "store")
    require_no_url(given)
    path = absolute(given)
    if not os.path.exists(path):
        raise UsageError(f"{path!r} does not exist", path=path)
    kind: Kind = "folder"
    if os.path.isfile(path):
        if path.lower().endswith(OTHER_ENDINGS):
            raise UsageError(
                f"{given!r} is an archive of a kind that is not read: unpack it and scan the "
                "folder, or pack it as zip or tar",
                path=given,
            )
        kind = "archive" if has_ending(path) else "dicomdir" if is_dicomdir(path) else "folder"
        kind = "table" if is_table(path) else kind
    return Root(os.fsencode(path), kind)


def walk_roots(roots: Sequence[Root], walking: Walking) -> Walk:
    """List every file of the roots once, and every member of the archives among them.

    Archives that are roots are read always, those that are found on the way with `archives`.
    """
    plain = [root.path for root in roots if root.kind == "folder"]
    # A file of one root may be that of another.
    looks_up = walking.looks_up or len(roots) > 1
    found = walk(plain, follow_links=walking.follow_links, avoid=walking.avoid, looks_up=looks_up)
    for folder in plain:
        _add_undelivered(os.fsdecode(folder), found)
    packed = [root.path for root in roots if root.kind == "archive"]
    packed += _take_archives(found, set(packed), walking.archives)
    seen: set[tuple[int, int]] = set()
    for path in packed:
        _add_archive(path, found, walking, seen)
    for root in roots:
        if root.kind == "dicomdir":
            _add_referenced(os.fsdecode(root.path), found)
    if len(roots) > 1:
        drop_repeats(found)
    stores, tables = (
        [os.fsdecode(root.path) for root in roots if root.kind == kind]
        for kind in ("store", "table")
    )
    if stores or tables:
        add_stores(stores, tables, walking.storage_options, found)
        for path in _take_archives(found, set(packed), walking.archives):
            _add_archive(path, found, walking, seen)
    services = [os.fsdecode(root.path) for root in roots if root.kind == "service"]
    add_services(services, walking.limits, found)
    return found


def _add_undelivered(folder: str, found: Walk) -> None:
    """Refuse what an archive promised to a folder of `fetch` and did not deliver."""
    for path, why in undelivered(folder):
        found.refuse(os.fsencode(os.path.join(folder, *path.split("/"))), NOT_DELIVERED, why)


def _take_archives(found: Walk, roots: set[bytes], every: bool) -> list[bytes]:
    """Remove the archives that are read from what a walk has found; return those beside roots."""
    if not every and not roots:
        return []
    paths = [
        path
        for path in found.paths
        if path not in found.refused and (path in roots or (every and _is_named_so(path)))
    ]
    taken = set(paths)
    found.keep([row for row, path in enumerate(found.paths) if path not in taken])
    return [path for path in paths if path not in roots]


def _is_named_so(path: bytes) -> bool:
    """Whether a file or an object, and no member of an archive, is named as an archive."""
    location = os.fsdecode(path)
    return has_ending(location) and not split(location).members


def _add_archive(path: bytes, found: Walk, walking: Walking, seen: set[tuple[int, int]]) -> None:
    """Add the members of an archive, unless it was added by another path."""
    try:
        key, state = _identity(path)
    except OSError as error:
        found.refuse(path, "unreadable", f"cannot be opened: {error.strerror}")
        return
    if key in seen:
        return
    seen.add(key)
    limits = ArchiveLimits(walking.limits.members, walking.limits.inflated_bytes)
    known = walking.known.get(path)
    # Of objects, the ETag counts.
    compared = len(state) if is_url(os.fsdecode(path)) else walking.compared
    if known and known.members[0][1][1:compared] == state[1:compared]:
        for number, (location, before) in enumerate(known.members):
            found.add(location, (before[0], *state[1:]), (*key, number))
        found.hidden_in_archives.extend(known.hidden)
        if walking.copy_archives:
            _copy_archive(path, limits)
        return
    try:
        now, members = list_members(os.fsdecode(path), limits)
    except PixelError as error:
        found.refuse(path, error.reason, str(error), state)
    except OSError as error:
        found.refuse(path, "unreadable", f"cannot be read: {error.strerror}", state)
    else:
        _add_members(members, found, now, key)
        if walking.copy_archives:
            _copy_archive(path, limits)


def _identity(path: bytes) -> tuple[tuple[int, int], State]:
    """Return what tells an archive from others, and its state; raise OSError."""
    location = os.fsdecode(path)
    if not is_url(location):
        return identity_of(path)
    digest = hashlib.blake2b(path, digest_size=7).digest()
    # No file has a negative device.
    return (_ARCHIVED, int.from_bytes(digest, "big")), state_now(location)


def _copy_archive(path: bytes, limits: ArchiveLimits) -> None:
    """Copy an archive that was listed.

    Raises
    ------
    StorageError
        The archive inflates too far, or the cache folder cannot take the copy.
    """
    try:
        copy_archive(os.fsdecode(path), limits)
    except (PixelError, OSError) as error:
        words = error.strerror if isinstance(error, OSError) else error
        raise StorageError(f"{os.fsdecode(path)!r} cannot be copied: {words}") from error


def compressed_roots(roots: Iterable[str]) -> dict[str, int]:
    """Return the roots that are compressed zips without a copy, and the bytes of their members."""
    found = {}
    for root in roots:
        if has_ending(root):
            with contextlib.suppress(PixelError, OSError):
                if size := compressed_bytes(absolute(root)):
                    found[root] = size
    return found


def _add_members(
    members: Sequence[Refused], found: Walk, state: State, key: tuple[int, int]
) -> None:
    """Add the members of an archive. As in folders, hidden folders in it are only counted."""
    hidden: set[bytes] = set()
    for number, member in enumerate(members):
        location = os.fsencode(member.name)
        if (folder := _hidden_folder(location)) is not None:
            hidden.add(folder)
        elif member.reason:
            found.refuse(location, member.reason, member.detail, (member.size, *state[1:]))
        else:
            found.add(location, (member.size, *state[1:]), (*key, number))
    found.hidden_in_archives += map(os.fsdecode, sorted(hidden))


def _hidden_folder(location: bytes) -> bytes | None:
    """Return the first folder of a member that is hidden."""
    _, _, inside = location.partition(_SEPARATOR)
    if b"." not in inside or b"/" not in inside:
        return None
    parts = inside.split(b"/")[:-1]
    for number, part in enumerate(parts):
        if part.startswith(b".") and part != b"..":
            return location[: -len(inside)] + b"/".join(parts[: number + 1])
    return None


def _add_referenced(path: str, found: Walk) -> None:
    """Add a DICOMDIR and the files that it references; count those beside them."""
    folder = os.path.dirname(path)
    key, state = identity_of(os.fsencode(path))
    try:
        file_ids = referenced_files(Source(path))
    except (HeaderError, PixelError) as error:
        reason = error.reason if isinstance(error, HeaderError) else "unreadable"
        found.refuse(os.fsencode(path), reason, str(error), state)
        return
    found.add(os.fsencode(path), state, key)
    medium, seen = Medium(folder), {key}
    for file_id in dict.fromkeys(file_ids):
        file = medium.find(file_id)
        if file.reason:
            # A name that leads out is shown, and leads nowhere.
            place = file.path or joined(path, file_id.replace("\0", "\N{REPLACEMENT CHARACTER}"))
            found.refuse(os.fsencode(place), file.reason, file.detail)
        elif file.key not in seen:
            seen.add(file.key)
            found.add(os.fsencode(file.path), file.state, file.key)
    beside = walk([os.fsencode(folder)])
    found.not_referenced += len({each for each in beside.keys if each not in seen})
