"""Records of what an export has completed, in a hidden folder of its output.

A record says which entries a unit of work made, and of what: the options and the state of its
files. The next run leaves complete units as they are. A process that dies loses its last unit only.
"""

import contextlib
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Sequence
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
# Records lie in folders of the first letters of their names.
_PREFIX: Final = 2
# Files and folders of `storage.publishing` until they are complete.
_TEMPORARY: Final = re.compile(r".+\.[0-9a-f]{12}\.tmp")
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


def require_usable(folder: str, options: ExportOptions, *, overwrite: bool) -> None:
    """Raise UsageError for a folder of other files, or of an export with other options."""
    if overwrite:
        return
    found = _read(_options_of(folder))
    if found:
        if found != _told(options):
            raise UsageError(
                f"{folder!r} has an export with other options or of another version of dicomdl: "
                "choose another folder, or pass overwrite=True"
            )
        return
    others = sorted(set(_listed(folder)) - {RECORDS})
    if others:
        raise UsageError(
            f"{folder!r} has other files, the first is {others[0]!r}: choose an empty folder, or "
            "pass overwrite=True"
        )


def begin(folder: str, options: ExportOptions, *, overwrite: bool) -> None:
    """Make an output folder the folder of an export, or continue the same one.

    Files of an export with other options are removed, which `overwrite` allows.

    Raises
    ------
    UsageError
        As `require_usable`.
    """
    require_usable(folder, options, overwrite=overwrite)
    path = _options_of(folder)
    if os.path.exists(path) and _read(path) != _told(options):
        remove_stale(folder, ())
    _remove_temporaries(folder)
    storage.make_folder(os.path.dirname(path))
    storage.write_whole(path, json.dumps(_told(options)).encode())


def remove_stale(folder: str, entries: Iterable[Entry]) -> None:
    """Remove files that an earlier run made, and that are not of these entries.

    A sample that left the index, or its part, would else stay beside the others.
    """
    current = {path for entry in entries for path in entry["files"]}
    for record in _records_in(folder):
        try:
            made = {path for entry in _read(record)["entries"] for path in entry["files"]}
        except (KeyError, TypeError, AttributeError):
            continue
        for path in made - current:
            if not os.path.isabs(path) and ".." not in path.split("/"):
                _remove(os.path.join(folder, path))
        if made and not made & current:
            _remove(record)


def _remove_temporaries(folder: str) -> None:
    """Remove what a killed process was writing; the lock tells that no other one writes."""
    for top, folders, files in os.walk(folder):
        for name in filter(_TEMPORARY.fullmatch, files):
            _remove(os.path.join(top, name))
        for name in filter(_TEMPORARY.fullmatch, folders):
            shutil.rmtree(os.path.join(top, name), ignore_errors=True)
        folders[:] = [name for name in folders if not _TEMPORARY.fullmatch(name)]


def _told(options: ExportOptions) -> dict[str, str]:
    return {"to": options.to, "options": options.fingerprint, "version": __version__}


def _options_of(folder: str) -> str:
    return os.path.join(folder, RECORDS, _OPTIONS)


def _records_in(folder: str) -> list[str]:
    """Return the paths of all records of an export."""
    top = os.path.join(folder, RECORDS)
    return [
        os.path.join(top, part, name)
        for part in _listed(top)
        if len(part) == _PREFIX
        for name in _listed(os.path.join(top, part))
        if name.endswith(".json")
    ]


def _remove(path: str) -> None:
    with storage.explained(f"{path!r} cannot be removed"), contextlib.suppress(FileNotFoundError):
        os.unlink(path)


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
        """Return the entries of a unit if it is complete, and its files are as they were written.

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
        return entries if all(self._is_there(path, files[path]) for path in files) else None

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
            return [
                [source.size, source.mtime_ns]
                for each in stack.annotations
                for source in each.sources
            ]
        with contextlib.suppress(PixelError, UsageError):
            found = look_up(Source(path_of(stack, os.fspath(source))))
            return [found.size, found.mtime_ns]
        return []

    def _is_there(self, path: str, written: dict[str, Any]) -> bool:
        """Whether a file has the size and the hash of what was written."""
        whole = os.path.join(self.folder, path)
        try:
            is_same: bool = size_of(whole) == written["bytes"]
            return is_same and storage.blake2b_of(whole) == str(written["blake2b"])
        except OSError:
            return False

    def _path(self, name: str) -> str:
        return os.path.join(self.folder, RECORDS, name[:_PREFIX], f"{name}.json")


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
