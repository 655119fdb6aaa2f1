"""The list of generations that scans of this user wrote, in the user's cache folder.

An index states absolute paths. Whoever wrote it could state any path of this user, so its roots
count only if a scan of this user wrote it. A scan therefore leaves a record per generation::

    <cache folder>/scans/<generation>.json   mode 0600, in a folder of mode 0700

The record holds a digest (BLAKE2b) of all files of the generation, and their states (size,
modification time, change time) in each folder where they were found. Three rules follow.

- The name of a generation is random (64 bits), which finds the record and proves nothing.
- States that equal those of the record prove that nobody has written to the files since, because
  no program can set a change time. This takes 0.1 ms for an index of any size.
- Other states (the index was copied, restored, or mounted elsewhere) are accepted if the digest is
  still the same: 0.1 s per 100 MB, once, since the new states join the record. An index that
  somebody else edited, such as a copy sent back, has another digest and is a foreign index.

A digest of the content was preferred to a signature within the index: a signature would be checked
by reading all tables at each opening, as it has no states, and its key would be one more secret.
Where the cache folder cannot be written, this process remembers the record instead.

A change time proves nothing on file systems that let clients set it, nor against root.
"""

import contextlib
import hashlib
import json
import math
import os
import re
import stat
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Final

from dicomdl.errors import StorageError
from dicomdl.storage import publishing as storage
from dicomdl.storage.handles import COMPARED, state_of
from dicomdl.storage.json_texts import parsed
from dicomdl.storage.memory import decisions

_PART: Final = "scans"
_NAME: Final = r"[0-9a-f]{16}"
# Written when the records were last looked through.
_LOOKED: Final = "looked"
_RECORDS: Final = rf"({_NAME}\.json|{_LOOKED})(\.[0-9a-f]{{12}}\.tmp)?"
# A record is a few hundred bytes; one of an index that was not opened for two years goes.
_MOST_BYTES: Final = 2**16
_UNUSED_S: Final = 2 * 365 * 24 * 3600.0
_USED_S: Final = 24 * 3600.0
# Folders whose states a record holds: the index, and copies of it.
_MOST_PLACES: Final = 8

# Per file, by name: the first `COMPARED` entries of its state.
_States = dict[str, list[int]]


@dataclass(frozen=True, slots=True)
class _Record:
    """What a scan of this user left of a generation: its digest, and the states of its files."""

    generation: str
    digest: str
    places: Sequence[Mapping[str, Sequence[int]]]


# Records of this process that the cache folder did not take.
_unwritten: Final[dict[str, _Record]] = decisions()


def record(folder: str, generation: str) -> None:
    """Record that a scan of this user wrote a generation of the index at `folder`.

    Raises
    ------
    StorageError
        The cache folder does not take the record. This process remembers it all the same.
    """
    made = _Record(generation, _digest(folder, generation), (_states(folder, generation),))
    try:
        _write(made)
    except StorageError:
        _unwritten[generation] = made
        raise
    _remove_unused()


def _remove_unused() -> None:
    """Remove the records that nobody used for long, once a day: a user may have thousands.

    Their age is counted at the last look or now, whichever is earlier, so that a clock that is
    wrong for a day removes none.
    """
    folder = os.path.join(storage.cache_root(), _PART)
    looked, now = os.path.join(folder, _LOOKED), time.time()
    with contextlib.suppress(StorageError):
        try:
            before = os.path.getmtime(looked)
        except OSError:
            before = -math.inf
        if not 0 <= now - before < _USED_S:
            storage.write_whole(looked, b"")
            storage.remove_old(folder, _UNUSED_S, min(now, before), pattern=_RECORDS)


def is_own(folder: str, generation: str) -> bool:
    """Whether a scan of this user wrote a generation, and nobody has edited it since."""
    if not re.fullmatch(_NAME, generation):
        return False
    known = _unwritten.get(generation) or _read(generation)
    if known is None:
        return False
    try:
        states = _states(folder, generation)
        if states in known.places:
            return True
        if _digest(folder, generation) != known.digest:
            return False
    except StorageError:
        return False
    # The states were taken before the digest, so a change in between shows at the next opening.
    kept = [*known.places[: _MOST_PLACES - 1], states]
    with contextlib.suppress(StorageError):
        _write(replace(known, places=kept))
    return True


def _read(generation: str) -> _Record | None:
    """Return the record of a generation; None without one that only this user can have written."""
    path = _path(generation)
    try:
        content = parsed(storage.read_own(path, "record", _MOST_BYTES))
        known = _Record(content["generation"], content["digest"], content["places"])
        if time.time() - os.path.getmtime(path) > _USED_S:
            os.utime(path)
    except (StorageError, OSError, ValueError, KeyError, TypeError):
        return None
    # A link of this user's own to another record has another name.
    return known if known.generation == generation else None


def _write(made: _Record) -> None:
    storage.make_folder(os.path.dirname(_path(made.generation)))
    storage.write_whole(_path(made.generation), json.dumps(asdict(made)).encode())


def _path(generation: str) -> str:
    return os.path.join(storage.cache_root(), _PART, f"{generation}.json")


def _files(folder: str, generation: str) -> Iterator[tuple[str, str]]:
    """Yield (name, path) of each file of a generation, by name.

    Raises
    ------
    StorageError
        The folder or a file cannot be read.
    """
    place = os.path.join(folder, "generations", generation)
    with storage.explained(f"the index {folder!r} cannot be read"):
        for name in sorted(os.listdir(place)):
            yield name, os.path.join(place, name)


def _states(folder: str, generation: str) -> _States:
    """Return the state of each file of a generation, which are regular files without links."""
    states = {}
    for name, path in _files(folder, generation):
        with storage.explained(f"the index {folder!r} cannot be read"):
            status = os.lstat(path)
        if not stat.S_ISREG(status.st_mode):
            raise StorageError(f"{path!r} is no regular file")
        states[name] = list(map(int, state_of(status)[:COMPARED]))
    return states


def _digest(folder: str, generation: str) -> str:
    """Return the BLAKE2b digest of the names and contents of all files of a generation."""
    whole = hashlib.blake2b(digest_size=32)
    for name, path in _files(folder, generation):
        with storage.open_regular(path) as file:
            content = hashlib.file_digest(file, "blake2b").digest()
        whole.update(hashlib.blake2b(os.fsencode(name)).digest() + content)
    return whole.hexdigest()
