"""The ledger of a fetched folder: what was asked, found, fetched and refused, and what failed, why.

It lies in a hidden folder of the fetched one, as a journal: a killed process loses its last line.
Lines hold UIDs, modalities, descriptions, paths and sizes, and neither a patient's identity nor a
date. A fetch that is started again reads what is there, and `scan` what is not.
"""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from dicomdl.jobs.received_names import file_name, instance_of
from dicomdl.storage import publishing as storage
from dicomdl.storage.journals import Journal, entries

FOLDER: Final = ".fetch"
_FILE: Final = "ledger.jsonl"
_FORMAT: Final = 1


class SeriesFound(NamedTuple):
    """A series that an archive has.

    Attributes
    ----------
    study, series
        UIDs.
    modality, description
        Modality and Series Description.
    instances
        How many instances the archive says that it has; -1 if it does not say.
    """

    study: str
    series: str
    modality: str = ""
    description: str = ""
    instances: int = -1


class Missing(NamedTuple):
    """Something that an archive promised, and that is not in the folder.

    Attributes
    ----------
    path
        Where an instance would lie, below the folder; one in the folder of its series for several.
    why
        A sentence.
    """

    path: str
    why: str


@dataclass
class SeriesState:
    """What a ledger says about one series.

    Attributes
    ----------
    found
        The series, and the number of instances that the archive promised.
    folder
        Where its files lie, below the fetched folder.
    files
        {SOP Instance UID: (path below the folder, bytes)} of what was fetched.
    failed
        {SOP Instance UID: why} of what was not.
    recorded
        SOP Instance UIDs of all that was fetched, also where the file is no longer as it was.
    """

    found: SeriesFound
    folder: str
    files: dict[str, tuple[str, int]] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    recorded: set[str] = field(default_factory=set)


class Ledger:
    """The ledger of a folder, read and added to.

    Parameters
    ----------
    folder
        The fetched folder.
    """

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.path = os.path.join(folder, FOLDER, _FILE)
        self._journal = Journal(self.path)

    def begin(self, archive: str, asked: Mapping[str, Any]) -> None:
        """Record what is asked, without identities, and of whom."""
        self._journal.add(
            {"event": "asked", "format": _FORMAT, "archive": archive, "asked": dict(asked)}
        )

    def add_found(self, found: SeriesFound, folder: str) -> None:
        """Record a series that the archive has, and the folder of its files."""
        self._journal.add({"event": "found", **found._asdict(), "folder": folder})

    def add_fetched(self, found: SeriesFound, files: Mapping[str, tuple[str, int]]) -> None:
        """Record files that lie in the folder: {SOP Instance UID: (path below it, bytes)}."""
        self._journal.add_all(
            {
                "event": "fetched",
                "series": found.series,
                "instance": uid,
                "path": path,
                "bytes": size,
            }
            for uid, (path, size) in files.items()
        )

    def add_failed(self, found: SeriesFound, instance: str, why: str) -> None:
        """Record an instance that was promised and did not come; "" for unknown ones."""
        place = {"series": found.series, "instance": instance, "why": why}
        self._journal.add({"event": "failed", **place})

    def add_refused(self, found: SeriesFound, why: str) -> None:
        """Record something that came and was not asked for, or cannot be read."""
        self._journal.add({"event": "refused", "series": found.series, "why": why})

    def close(self) -> None:
        """Flush the ledger to the disk."""
        self._journal.close()

    def states(self) -> dict[str, SeriesState]:
        """Return {Series Instance UID: what the ledger says}.

        Files that are absent, or have another size than the one recorded, are left out.
        """
        states = _states(self.path)
        for state in states.values():
            state.files = {
                uid: (path, size)
                for uid, (path, size) in state.files.items()
                if storage.size_of(_absolute(self.folder, path)) == size
            }
        return states


def unrecorded(folder: str, state: SeriesState) -> dict[str, tuple[str, int]]:
    """Return files of a series that a killed fetch has placed and not recorded, as `files` does.

    A placed file is whole. One that was recorded with another size is left out.
    """
    found = {}
    place = _absolute(folder, state.folder)
    for name in os.listdir(place) if os.path.isdir(place) else ():
        uid = instance_of(name)
        if uid and uid not in state.recorded:
            found[uid] = f"{state.folder}/{name}", storage.size_of(os.path.join(place, name))
    return found


def undelivered(folder: str) -> Iterator[Missing]:
    """Yield what was promised to a fetched folder and is not there; nothing for other folders.

    Raises
    ------
    StorageError
        The ledger cannot be read.
    """
    ledger = Ledger(folder)
    if storage.size_of(ledger.path) < 0:
        return
    for state in ledger.states().values():
        absent = state.found.instances - len(state.files)
        for uid, why in state.failed.items():
            path = f"{state.folder}/{file_name(uid)}"
            if uid and uid not in state.files and storage.size_of(_absolute(folder, path)) < 0:
                absent -= 1
                words = "the archive promised this instance and did not deliver it"
                yield Missing(path, f"{words}: {why}")
        if absent > 0:
            why = state.failed.get("", "the fetch has not ended: start it again")
            yield Missing(
                f"{state.folder}/not-delivered",
                f"{absent} of {state.found.instances} instances that the archive promised were not "
                f"delivered: {why}",
            )


def _absolute(folder: str, path: str) -> str:
    return os.path.join(folder, *path.split("/"))


def _states(path: str) -> dict[str, SeriesState]:
    states: dict[str, SeriesState] = {}
    for entry in entries(path):
        # The folder may be somebody else's: lines of other kinds and types are passed over.
        try:
            _add(states, entry)
        except (KeyError, TypeError, ValueError):
            continue
    return states


def _add(states: dict[str, SeriesState], entry: dict[str, Any]) -> None:
    series = str(entry["series"])
    if entry["event"] == "found":
        found = SeriesFound(
            str(entry["study"]),
            series,
            str(entry["modality"]),
            str(entry["description"]),
            int(entry["instances"]),
        )
        state = states.setdefault(series, SeriesState(found, ""))
        state.found, state.folder = found, str(entry["folder"])
        return
    state, event = states[series], entry["event"]
    if event == "fetched":
        state.files[str(entry["instance"])] = str(entry["path"]), int(entry["bytes"])
        state.failed.pop(str(entry["instance"]), None)
        state.recorded.add(str(entry["instance"]))
    elif event == "failed":
        state.failed[str(entry["instance"])] = str(entry["why"])
