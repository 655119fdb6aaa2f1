"""Records of what an export has completed, in a hidden folder of its output.

A record says which entries a unit of work made, and of what: the options and the state of its
files. The next run leaves complete units as they are. A process that dies loses its last unit only.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from typing import Any, Final

from dicomdl.errors import PixelError, StorageError, UsageError
from dicomdl.index.index import Index
from dicomdl.index.views import Stack
from dicomdl.jobs.exports._samples import Case
from dicomdl.jobs.exports.options import ExportOptions
from dicomdl.labels.masks import path_of
from dicomdl.labels.source import LABEL_KINDS, LabelSource
from dicomdl.storage import locks
from dicomdl.storage import publishing as storage
from dicomdl.storage.json_texts import parsed
from dicomdl.storage.sources import Source, look_up
from dicomdl.version import __version__

Entry = dict[str, Any]
# The folder of the records in the output folder.
RECORDS: Final = ".dicomdl-export"
_OPTIONS: Final = "options.json"
_STATE: Final = ("sop_instance_uid", "frame_number", "byte_offset", "file_bytes", "file_mtime_ns")


@contextlib.contextmanager
def alone(folder: str) -> Iterator[None]:
    """Hold the lock of an output folder.

    Raises
    ------
    StorageError
        Another export writes to the folder.
    """
    storage.make_folder(os.path.join(folder, RECORDS))
    with locks.alone(os.path.join(folder, RECORDS, "lock"), wait_s=0) as held:
        if held is False:
            raise StorageError(
                f"another export writes to {folder!r}: wait for its end, or choose another folder"
            )
        yield


def begin(folder: str, options: ExportOptions, *, overwrite: bool) -> None:
    """Make an output folder the folder of an export, or continue the same one.

    Raises
    ------
    UsageError
        The folder has files that are not of an export, or the export had other options.
    """
    records = os.path.join(folder, RECORDS)
    path = os.path.join(records, _OPTIONS)
    mine = {"to": options.to, "options": options.fingerprint, "version": __version__}
    if os.path.exists(path):
        if _read(path) == mine or overwrite:
            storage.write_whole(path, json.dumps(mine).encode())
            return
        raise UsageError(
            f"{folder!r} has an export with other options or of another version of dicomdl: "
            "choose another folder, or pass overwrite=True"
        )
    others = sorted(set(_listed(folder)) - {RECORDS})
    if others and not overwrite:
        raise UsageError(
            f"{folder!r} has other files, the first is {others[0]!r}: choose an empty folder, or "
            "pass overwrite=True"
        )
    storage.make_folder(records)
    storage.write_whole(path, json.dumps(mine).encode())


class Records:
    """The records of one export.

    Parameters
    ----------
    folder
        The output folder.
    index
        The index of the samples.
    options
        The options of the export.
    """

    def __init__(self, folder: str, index: Index, options: ExportOptions) -> None:
        self.folder = folder
        self._index, self._options = index, options
        self._made = set[str]()

    def find(self, name: str, cases: Sequence[Case] | None = None) -> list[Entry] | None:
        """Return the entries of a unit if it is complete.

        With `cases`, it must be made of the first of these, as they are now.
        """
        record = _read(self._path(name))
        try:
            entries: list[Entry] = record["entries"]
            if cases is not None and (
                [entry["key"] for entry in entries] != [case.key for case in cases[: len(entries)]]
                or record["made_of"] != self.state(cases[: len(entries)])
            ):
                return None
            files = {path: held for entry in entries for path, held in entry["files"].items()}
        except (KeyError, TypeError, AttributeError):
            return None
        is_there = all(size_of(os.path.join(self.folder, p)) == files[p]["bytes"] for p in files)
        return entries if is_there else None

    def put(self, name: str, cases: Sequence[Case], entries: Sequence[Entry]) -> None:
        """Record a complete unit."""
        record = {"made_of": self.state(cases), "entries": list(entries)}
        path = self._path(name)
        if (parent := os.path.dirname(path)) not in self._made:
            storage.make_folder(parent)
            self._made.add(parent)
        storage.write_whole(path, json.dumps(record).encode())

    def state(self, cases: Sequence[Case]) -> str:
        """Return a hash of all that the files of samples depend on."""
        parts: list[Any] = [__version__, self._options.fingerprint]
        parts += [(case.key, case.name, case.part, case.fold) for case in cases]
        for number in dict.fromkeys(number for case in cases for number in case.stacks):
            stack = self._index.stack(number)
            parts += [stack.values(name) for name in _STATE]
            if self._options.target or self._options.boxes or self._options.points:
                rows = range(stack.rows.start, stack.rows.stop)
                for name in self._index.joined.names:
                    cell = self._index.joined.cell(name)
                    parts.append([repr(cell(row)) for row in rows])
            if self._options.labels is not None:
                parts.append(self._state_of_labels(stack))
        return hashlib.blake2b(json.dumps(parts).encode(), digest_size=16).hexdigest()

    def _state_of_labels(self, stack: Stack) -> list[Any]:
        labels = self._options.labels
        source = labels.source if isinstance(labels, LabelSource) else labels
        if callable(source):
            return []
        if os.fspath(source) in LABEL_KINDS:
            return [[each.source.size, each.source.mtime_ns] for each in stack.annotations]
        with contextlib.suppress(PixelError, UsageError):
            found = look_up(Source(path_of(stack, os.fspath(source))))
            return [found.size, found.mtime_ns]
        return []

    def _path(self, name: str) -> str:
        return os.path.join(self.folder, RECORDS, name[:2], f"{name}.json")


def size_of(path: str) -> int:
    """Return the size of a file in bytes; -1 without one."""
    try:
        return os.path.getsize(path)
    except OSError:
        return -1


def _read(path: str) -> Any:
    """Return the content of a JSON file; {} for one that is absent or damaged."""
    try:
        return parsed(storage.read_whole(path))
    except ValueError:
        # StorageError is a ValueError.
        return {}


def _listed(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []
