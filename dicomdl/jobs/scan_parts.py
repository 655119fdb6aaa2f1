"""A scan in partitions: planned once, read by any number of processes, merged into one index.

The plan holds the walk. A partition is a run of its files, in the order of the walk, so that a
series of 90,000 files is read by many processes. The merge builds the stacks; its index is that of
one scan at the time of the plan, byte for byte in its tables.
"""

import itertools
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any, Final

import numpy as np

from dicomdl.errors import UsageError
from dicomdl.headers.attribute import Attribute
from dicomdl.headers.limits import ReadLimits
from dicomdl.headers.reader import HeaderReader
from dicomdl.index.building import from_bytes, table_of, to_bytes
from dicomdl.index.index import Index
from dicomdl.index.schema import READ_FILES_SCHEMA, STATE_COLUMNS
from dicomdl.index.table import Table
from dicomdl.jobs import partitions, supervisor
from dicomdl.jobs.engine import CHUNK_FILES, Reading, asking, read_chunk, refused_tables
from dicomdl.jobs.partitions import LeftOut, Plan
from dicomdl.jobs.roots import Path
from dicomdl.jobs.scan import (
    Begun,
    begin,
    finish,
    old_for,
    unchanged,
    without_identity,
)
from dicomdl.lazy import cached_property
from dicomdl.storage import publishing as storage
from dicomdl.storage.children import Answer
from dicomdl.storage.folders import Walk
from dicomdl.storage.objects import declare, have_queries
from dicomdl.storage.states import States

KIND: Final = "scan"
# Files per partition, unless their number is given.
_FILES: Final = 4 * CHUNK_FILES
TARGET: Final = "dicomdl.jobs.scan_parts:answering"


def work_folder(out: str | os.PathLike[str]) -> str:
    """Return the default folder of the plan of an output: beside it, and hidden from a walk."""
    folder, name = os.path.split(os.path.abspath(os.path.expanduser(os.fspath(out))))
    return os.path.join(folder, f".{name}.parts")


def plan_scan(
    roots: Path | Iterable[Path],
    out: str | os.PathLike[str],
    *,
    work: str | None = None,
    parts: int | None = None,
    **options: Any,
) -> Plan:
    """Walk over the roots and write the plan of a scan.

    Parameters
    ----------
    roots, out
        As for `scan`. `out` may hold an index, of which unchanged files are not read again.
    work
        The folder that the processes share; one beside `out` by default.
    parts
        The number of partitions; by default one per 4096 files.
    options
        Others of `scan`, save `move`.

    Raises
    ------
    UsageError, StorageError
        As for `scan`; or the walk found URLs with signatures, which are not stored.
    """
    begun = begin(roots, out, looks_up=True, **options)
    if have_queries(begun.walked.paths):
        raise UsageError(
            "URLs with a query, which may be a signature, are not stored in a plan: scan them in "
            "one process, or give credentials by the environment"
        )
    walked, fresh = begun.walked, begun.fresh
    count = min(partitions.per_partition(len(fresh), _FILES, parts), max(1, len(fresh)))
    bounds = np.linspace(0, len(fresh), count + 1).round().astype(int).tolist()
    if parts is None or not fresh:
        bounds = [*range(0, len(fresh), _FILES), len(fresh)]
    reading = asdict(begun.reading)
    identity = [begun.options["patient_id"], begun.options["texts"]]
    keys = []
    for start, stop in itertools.pairwise(bounds):
        files = [[os.fsdecode(walked.paths[i]), walked.states[i]] for i in fresh[start:stop]]
        # How many objects are asked for at once changes no row.
        asked = {name: value for name, value in reading.items() if name != "concurrency"}
        keys.append(partitions.key_of(KIND, asked, identity, files))
    setup = {
        "target": begun.target,
        "options": begun.options,
        "reading": reading,
        "strict_files": begun.strict_files,
        "is_unchanged": begun.is_unchanged,
        "old": "" if begun.old is None else begun.old.generation,
        "passed_over": walked.passed_over(),
        "refused": [[os.fsdecode(path), *words] for path, words in walked.refused.items()],
        "bounds": bounds,
    }
    folder = work or work_folder(begun.target)
    return partitions.write_plan(folder, KIND, keys, setup, _stored(begun))


def make_scan(
    work: str, part: str = "all", *, workers: int = 1, progress: bool = False
) -> dict[str, int]:
    """Read the headers of a share of the partitions of a plan, in child processes.

    Parameters
    ----------
    work
        The folder of the plan.
    part
        "3/64" for the third of 64 shares, or "all" for all partitions that are not finished and
        that no other process makes.
    workers
        Child processes.
    progress
        Show a progress bar.

    Returns
    -------
    dict
        Counts of the partitions of the share: "partitions", "files", "frames", "problems".
    """
    task = ScanTask(partitions.read_plan(work, KIND))
    numbers = partitions.chosen(task.plan, part)
    supervisor.complete(
        task, TARGET, {"folder": work}, numbers, workers, progress=progress, desc="reading headers"
    )
    counts = {"partitions": len(numbers), "files": 0, "frames": 0, "problems": 0}
    for number in numbers:
        marker = partitions.finished(task.plan, number)
        for name, count in (marker.facts if marker else {}).items():
            counts[name] += count
    return counts


def merge_scan(work: str) -> Index:
    """Check the markers of all partitions, publish the index, and remove the folder of the plan.

    Raises
    ------
    UsageError
        Partitions are not finished or of another version, or another scan has written the index
        since the plan.
    StorageError
        A partition is damaged, or the index cannot be written.
    """
    plan = partitions.read_plan(work, KIND)
    task = ScanTask(plan)
    markers = partitions.merged(plan)
    begun = task.begun()
    if begun.is_unchanged:
        index = unchanged(begun)
    else:
        chunks = []
        for marker in markers:
            for name in sorted(os.listdir(marker.folder)):
                data = storage.read_whole(os.path.join(marker.folder, name))
                chunks.append(from_bytes(data, 4))
        index = finish(begun, chunks)
    partitions.clear(plan)
    return index


def answering(setup: Mapping[str, Any]) -> Answer:
    """Return the function by which a child process makes partitions of a scan."""
    return supervisor.answering(ScanTask(partitions.read_plan(setup["folder"], KIND)))


class ScanTask:
    """The partitions of a scan."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.bounds: Sequence[int] = plan.setup["bounds"]

    @cached_property
    def reading(self) -> Reading:
        """What is read of each file."""
        given = self.plan.setup["reading"]
        extra = [Attribute(**{**each, "groups": tuple(each["groups"])}) for each in given["extra"]]
        for root, chosen in given["stores"].items():
            declare([root], chosen)
        return Reading(**{**given, "extra": extra, "limits": ReadLimits(**given["limits"])})

    @cached_property
    def _files(self) -> Table:
        return from_bytes(self.plan.payload, 1)[0]

    @cached_property
    def _refused(self) -> dict[bytes, tuple[str, str]]:
        return {os.fsencode(path): (why, text) for path, why, text in self.plan.setup["refused"]}

    @cached_property
    def _fresh(self) -> list[int]:
        rows = np.flatnonzero(self._files.numbers("file") < 0).tolist()
        if not self._refused:
            return rows
        paths = self._files.column("path").to_pylist()
        return [row for row in rows if paths[row] not in self._refused]

    def units(self, number: int) -> list[str]:
        """Return the paths of the files of a partition."""
        return [os.fsdecode(path) for path in self._walked(number).paths]

    def make(self, number: int, folder: str, left_out: LeftOut) -> dict[str, int]:
        """Read the files of a partition, and write the tables of each chunk of them."""
        walked, first = self._walked(number), self.bounds[number]
        chunks = [
            without_identity(chunk, self.plan.setup["options"])
            for chunk in self._chunks(walked, first, left_out)
        ]
        counts = {"files": 0, "frames": 0, "problems": 0}
        for name, chunk in enumerate(chunks):
            storage.write_files(folder, [(f"{name:06}.arrow", to_bytes(chunk))])
            for table, count in zip(counts, map(len, chunk[:3]), strict=True):
                counts[table] += count
        return counts

    def begun(self) -> Begun:
        """Return the scan as it was after the walk.

        Raises
        ------
        UsageError
            Another scan has written the index since.
        """
        setup = self.plan.setup
        old_rows = self._files.numbers("file")
        new_rows = np.flatnonzero(old_rows >= 0)
        kept = np.stack([old_rows[new_rows].astype(np.int64), new_rows])
        walked = self._walk(range(len(self._files)))
        for name, value in setup["passed_over"].items():
            setattr(walked, name, value)
        strict_files = setup["strict_files"]
        begun = Begun(
            setup["target"],
            setup["options"],
            walked,
            self._fresh,
            kept,
            None,
            self.reading,
            strict_files,
            setup["is_unchanged"],
        )
        if not setup["old"]:
            return begun
        return replace(begun, old=old_for(begun, setup["old"]))

    def _walked(self, number: int) -> Walk:
        return self._walk(self._fresh[self.bounds[number] : self.bounds[number + 1]])

    def _walk(self, rows: Sequence[int]) -> Walk:
        files = self._files.take(np.array(rows, dtype=np.int64))
        paths = files.column("path").to_pylist()
        columns = [files.column(name).to_pylist() for name in STATE_COLUMNS]
        states = States(zip(*columns, strict=True))
        refused = {path: self._refused[path] for path in paths if path in self._refused}
        return Walk(paths, states, [], refused)

    def _chunks(self, walked: Walk, first: int, left_out: LeftOut) -> Iterable[list[Table]]:
        reading = self.reading
        reader = HeaderReader(reading.extra, reading.limits)
        out = [row for row, path in enumerate(walked.paths) if os.fsdecode(path) in left_out]
        with asking(walked.paths, reading.concurrency) as walker:
            for start, stop in zip([0, *(row + 1 for row in out)], [*out, None], strict=True):
                run = walked.paths[start:stop]
                for at in range(0, len(run), CHUNK_FILES):
                    yield read_chunk(
                        reader,
                        run[at : at + CHUNK_FILES],
                        first + start + at,
                        pixel_hash=reading.pixel_hash,
                        walker=walker,
                        concurrency=reading.concurrency,
                    )
        for row in out:
            path = walked.paths[row]
            detail = (
                f"{left_out[os.fsdecode(path)]}, each time that this file was read alone: it was "
                "left out"
            )
            alone = Walk(
                [path], States([walked.states[row]]), [], {path: (supervisor.KILLED, detail)}
            )
            yield refused_tables(alone, [0], reading, first + row)


def _stored(begun: Begun) -> bytes:
    """Return the walk as a table; `file` is the row in the index before, or -1."""
    walked = begun.walked
    before = np.full(len(walked.paths), -1, dtype=np.int64)
    before[begun.kept[1]] = begun.kept[0]
    blank = [""] * len(walked.paths)
    states = [*walked.states.numbers().T, walked.states.etags]
    columns: dict[str, Any] = {
        "path": walked.paths,
        **dict(zip(STATE_COLUMNS, states, strict=True)),
        "file": before.astype(np.int32),
    }
    names = READ_FILES_SCHEMA.names
    columns |= {name: blank for name in names if name not in columns}
    return to_bytes([table_of(READ_FILES_SCHEMA, columns)])
