"""`Exporter`: the two steps of every format. Many processes write, one publishes.

`write` puts the files of some stacks in place, each complete by one rename, and returns their
entries: plain values of JSON, with the size and the hash of each file. `publish` takes the entries
of all stacks, in any order, and writes what needs all of them. Bytes depend on inputs, options and
the division into parts alone.
"""

import abc
import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final

from dicomdl.errors import (
    DicomdlError,
    IndexFolderError,
    MissingExtra,
    StorageError,
    UsageError,
)
from dicomdl.index.index import Index
from dicomdl.jobs.exports._ordered import in_order
from dicomdl.jobs.exports._records import RECORDS, Entry, Records, size_of
from dicomdl.jobs.exports._samples import Case, Samples
from dicomdl.jobs.exports.exported import REMARKS
from dicomdl.jobs.exports.options import ExportOptions
from dicomdl.printing import printable
from dicomdl.storage import publishing as storage
from dicomdl.storage.sources import kept_open
from dicomdl.storage.system import available_cores

# The folder, below an output folder, of what an export remembers: no part of the data set.
HIDDEN: Final = RECORDS
WRITTEN: Final = "written"
REFUSED: Final = "refused"
# Faults of the call, of the index or of the disk, which the next sample meets, too.
FATAL: Final = (UsageError, MissingExtra, IndexFolderError, StorageError)


class Exporter(abc.ABC):
    """The exporter of one format.

    Parameters
    ----------
    index
        The index whose stacks are exported; the same one for every part.
    options
        The options.
    workers
        The number of samples that are made at once; one per core by default.

    Raises
    ------
    EmptySelection
        No sample is left.
    UsageError
        An option does not fit the index or the format.
    """

    def __init__(self, index: Index, options: ExportOptions, *, workers: int | None = None) -> None:
        if workers is not None and workers < 1:
            raise UsageError(f"workers is {workers}, expected at least 1", workers=workers)
        self.index, self.options = index, options
        self.workers = workers or available_cores()
        self.samples = Samples(index, options)

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.samples)

    @property
    def left_out(self) -> dict[str, int]:
        """{why stacks are not exported: their number}."""
        return self.samples.left_out

    def units(self) -> Iterator[tuple[int, ...]]:
        """Yield the numbers of stacks that one call of `write` must have together."""
        return self.samples.units()

    def state(self, stacks: Iterable[int] | None = None) -> str:
        """Return a hash of all that the files of some stacks depend on, save their part."""
        cases = list(self.samples.cases(stacks))
        return Records("", self.index, self.options).state(cases)

    @abc.abstractmethod
    def write(
        self,
        stacks: Iterable[int] | None,
        folder: str,
        part: int = 0,
        *,
        done: Callable[[int], None] | None = None,
    ) -> list[Entry]:
        """Write the samples of some stacks.

        Parameters
        ----------
        stacks
            Numbers of stacks (`Stack.number`), those of a unit together; None for all.
        folder
            The output folder, which is created if it is absent.
        part
            The number of this share of the stacks, which names files that hold several samples.
        done
            Called with the number of samples that were made since the last call.

        Returns
        -------
        list of dict
            One entry per sample, in order: `key`, `name`, `status` ("written", or "refused" with
            its `reason`), `stacks`, `series_instance_uid`, `split`, `fold`, and `files`,
            ``{path: {"bytes": n, "blake2b": hex}}``.

        Raises
        ------
        StorageError
            The folder cannot be written to, or the disk is full. Complete samples stay.
        UsageError
            An option does not fit a sample.
        """

    @abc.abstractmethod
    def publish(self, entries: Iterable[Entry], folder: str) -> list[str]:
        """Write what needs the entries of all samples, and return the paths below the folder.

        Parameters
        ----------
        entries
            What `write` returned, of all parts, in any order.
        folder
            The output folder.

        Raises
        ------
        UsageError
            No sample was written, or the samples do not fit the format together.
        StorageError
            A file cannot be written.
        """


class FileExporter(Exporter):
    """An exporter whose samples have files of their own."""

    def write(
        self,
        stacks: Iterable[int] | None,
        folder: str,
        part: int = 0,
        *,
        done: Callable[[int], None] | None = None,
    ) -> list[Entry]:
        """Write the samples of some stacks; see `Exporter.write`."""
        del part
        records = Records(folder, self.index, self.options)
        entries: list[Entry] = []
        groups = (
            list(group)
            for _, group in itertools.groupby(self.samples.cases(stacks), lambda case: case.stacks)
        )
        for made in in_order(lambda cases: self._unit(cases, records), groups, self.workers):
            entries += made
            if done is not None:
                done(len(made))
        return entries

    def _unit(self, cases: Sequence[Case], records: Records) -> list[Entry]:
        """Return the entries of one unit, whose files are made unless they are complete."""
        name = cases[0].key
        entries = records.find(name, cases)
        if entries is None or any(entry["status"] == REFUSED for entry in entries):
            with kept_open():
                entries = [self._entry(case, records.folder) for case in cases]
            records.put(name, cases, entries)
        return entries

    def _entry(self, case: Case, folder: str) -> Entry:
        try:
            sample = self.samples.read(case)
            paths, facts = self._save(case, sample, folder)
        except DicomdlError as error:
            if isinstance(error, FATAL):
                raise
            return {**case.entry(REFUSED, reason_of(error)), "files": {}}
        files = {path: state_of_file(os.path.join(folder, path)) for path in paths}
        lost = [*self.samples.remarks(case), *facts.pop(REMARKS, ())]
        told = {REMARKS: lost} if lost else {}
        return {**case.entry(WRITTEN), "files": files, **facts, **told}

    @abc.abstractmethod
    def _save(self, case: Case, sample: Any, folder: str) -> tuple[list[str], dict[str, Any]]:
        """Write the files of a sample; return their paths below the folder, and its own facts."""


def written(entries: Iterable[Entry]) -> list[Entry]:
    """Return the entries of samples that were written, in the order of their stacks and frames.

    Raises
    ------
    UsageError
        There is none.
    """
    every = sorted(entries, key=lambda entry: int(entry["row"]))
    taken = [entry for entry in every if entry["status"] == WRITTEN]
    if not taken:
        raise UsageError(
            f"no sample was written: {len(every)} were refused, the first one because "
            f"{every[0]['reason']}"
            if every
            else "no sample was written: there is no entry"
        )
    return taken


def reason_of(error: BaseException) -> str:
    """Return why a sample was refused, in one line."""
    notes = "; ".join(getattr(error, "__notes__", ()))
    return printable(f"{error} ({notes})" if notes else str(error))


def state_of_file(path: str) -> dict[str, Any]:
    """Return the size and the hash of a file."""
    with storage.explained(f"{path!r} cannot be read"):
        return {"bytes": size_of(path), "blake2b": storage.blake2b_of(path)}


def make_parents(folder: str, path: str) -> str:
    """Return the path of a file below a folder, whose own folder is created if it is absent."""
    whole = os.path.join(folder, path)
    storage.make_folder(os.path.dirname(whole))
    return whole
