"""The Index.

What a scan concluded, as people and datasets see it, with views Study, Series and Stack.

An Index is a generation of tables and a selection of rows. Both are memory-mapped: opening a
million frames takes milliseconds, a worker shares the pages of its neighbours, and a pickle holds a
path, a generation and the name of a selection. Nothing here changes an index; `select` and `split`
give new, smaller ones.
"""

import functools
import hashlib
import itertools
import os
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from dicomdl.errors import IndexFolderError, UsageError
from dicomdl.headers.frame import Frame, FrameSource
from dicomdl.index import overview
from dicomdl.index.check import Check, check
from dicomdl.index.generations import read_facts, read_manifest
from dicomdl.index.rows import Generation, generation_of
from dicomdl.index.table import Table, between, no_such_column, where
from dicomdl.index.text import Part
from dicomdl.index.views import Group, Problems, Series, Stack, Stacks, Study
from dicomdl.storage import publishing as storage

Ranges = npt.NDArray[np.int64]  # (k, 2): rows [start, stop), ascending, not touching
INLINE_RANGES: Final = (
    32  # a pickle carries this many ranges itself; more go to a file in the cache folder
)
SPLIT_LEVELS: Final = {
    "patient": ("patient_id", "study_instance_uid", "series_instance_uid"),
    "study": ("study_instance_uid", "series_instance_uid"),
    "series": ("series_instance_uid",),
}


class Index:
    """Every frame that a scan found, in stacks, or the part of them that `select` or `split` left.

    Made by `dicomdl.scan` and `dicomdl.open_index`. Immutable; pickles as a path (at most 4 kB).
    """

    def __init__(self, generation: Generation, ranges: Ranges | None = None) -> None:
        self._generation = generation
        self._ranges = (
            np.array([[0, len(generation.frames)]], dtype=np.int64) if ranges is None else ranges
        )
        self._whole = ranges is None
        self._offsets = np.concatenate([[0], np.cumsum(self._ranges[:, 1] - self._ranges[:, 0])])

    # --- what it holds ---

    def __len__(self) -> int:
        """The number of frames."""
        return int(self._offsets[-1])

    @property
    def path(self) -> str:
        """The folder of the index."""
        return self._generation.folder

    @property
    def generation(self) -> str:
        """The name of the generation that this index reads; a later scan makes another."""
        return self._generation.name

    @property
    def columns(self) -> list[str]:
        """The names that `select` takes: those of stacks, then those of frames."""
        return [*self._generation.stacks.names, *self._generation.frames.names]

    def rows(self) -> npt.NDArray[np.int64]:
        """(len,) the rows of the `frames` table that are selected, ascending."""
        lengths = np.diff(self._offsets)
        return np.asarray(
            np.arange(len(self)) + np.repeat(self._ranges[:, 0] - self._offsets[:-1], lengths)
        )

    def row(self, number: int) -> int:
        """The row of the `frames` table of the frame `number` (from 0) of this index."""
        if not -len(self) <= number < len(self):
            raise UsageError(f"frame {number} of {len(self)}", number=number, frames=len(self))
        number %= len(self)
        place = int(np.searchsorted(self._offsets, number, side="right")) - 1
        return int(self._ranges[place, 0] + number - self._offsets[place])

    def frame(self, number: int) -> Frame:
        """Frame `number` (from 0, in order of stacks and slices) with all its facts."""
        return self._generation.frame(self.row(number))

    def source(self, number: int) -> FrameSource:
        """Where the bytes of frame `number` are and how they code its samples."""
        return self._generation.source(self.row(number))

    def value(self, number: int, column: str) -> Any:
        """One fact of frame `number`, by the name of its column."""
        return self._generation.cell(column)(self.row(number))

    def facts(self, number: int, columns: Sequence[str]) -> dict[str, Any]:
        """Some facts of frame `number`, by the names of their columns.

        Quicker than all of them by `frame`.
        """
        row = self.row(number)
        return {column: self._generation.cell(column)(row) for column in columns}

    def stack_of(self, number: int) -> "Stack":
        """The stack that frame `number` belongs to, whole, whatever part of it this index selects.

        Raises
        ------
        UsageError
            The frame is an equal copy of another one (`Frame.duplicate_of`), which makes it part of
            no stack.
        """
        starts, row = self._generation.stack_starts, self.row(number)
        if row >= starts[-1]:
            original = self._generation.cell("duplicate_of")(row)
            raise UsageError(
                f"frame {number} is an equal copy of row {original} and in no stack",
                number=number,
                duplicate_of=original,
            )
        return Stack(self._generation, int(np.searchsorted(starts, row, side="right")) - 1)

    def stack_boundaries(self) -> npt.NDArray[np.int64]:
        """(n + 1,) the numbers of the frames that begin a stack, whole or in part, and the end."""
        starts = np.searchsorted(self._generation.stack_starts, self.rows(), side="right")
        return np.concatenate([np.flatnonzero(np.diff(starts, prepend=-1)), [len(self)]]).astype(
            np.int64
        )

    @property
    def stacks(self) -> "Stacks":
        """The stacks whose frames are all selected, in order.

        A stack that `select` took apart is not among them.
        """
        return Stacks(self._generation, self._whole_stacks())

    def _whole_stacks(self) -> npt.NDArray[np.int64]:
        starts = self._generation.stack_starts
        if self._whole:
            return np.arange(len(starts) - 1)
        if len(self._ranges) == 0:
            return np.empty(0, dtype=np.int64)
        place = np.searchsorted(self._ranges[:, 0], starts[:-1], side="right") - 1
        inside = (place >= 0) & (starts[1:] <= self._ranges[np.maximum(place, 0), 1])
        return np.flatnonzero(inside)

    @property
    def groups(self) -> list["Group"]:
        """The groups of two or more stacks (time points, echoes, b-values, ...) of which every stack is selected."""
        whole = np.zeros(len(self._generation.stacks), dtype=bool)
        whole[self._whole_stacks()] = True
        return [
            Group(self._generation, n)
            for n, members in enumerate(self._generation.groups)
            if len(members) > 1 and whole[members].all()
        ]

    @property
    def series(self) -> list["Series"]:
        """The Series of the selected stacks."""
        chosen = self._whole_stacks()
        numbers = self._generation.stacks.numbers("series")[chosen]
        order = np.argsort(numbers, kind="stable")
        groups = np.split(chosen[order], np.flatnonzero(np.diff(numbers[order])) + 1)
        return [Series(Stacks(self._generation, group)) for group in groups if len(group)]

    @property
    def studies(self) -> list["Study"]:
        """The Studies of the selected stacks."""
        groups: dict[tuple[str, str], list[Series]] = {}
        for series in self.series:
            first = series.stacks[0]
            groups.setdefault((first.patient_id, first.study_instance_uid), []).append(series)
        return [Study(members) for members in groups.values()]

    @property
    def problems(self) -> Problems:
        """The files that could not be used, one row a file; selections do not change them."""
        return Problems(self._generation)

    @functools.cached_property
    def manifest(self) -> Mapping[str, Any]:
        """What the last scan of this folder wrote down.

        Options, what was passed over, generations.
        """
        manifest = read_manifest(self.path)
        return manifest | read_facts(self.path, manifest["generation"])

    @functools.cached_property
    def ledger(self) -> Mapping[str, int]:
        """How many files were seen, and of which kind each one is: the kinds add up to `files`."""
        codes, kinds = self._generation.files.codes("kind")
        counts = np.bincount(codes, minlength=len(kinds)) if len(codes) else np.zeros(0, dtype=int)
        found = {str(kind): int(count) for kind, count in zip(kinds, counts, strict=False)}
        return {
            "files": len(self._generation.files),
            **{k: found.get(k, 0) for k in ("image", "no_image", "not_dicom", "problem")},
        }

    # --- smaller indexes ---

    def select(self, **conditions: Any) -> "Index":
        """The part of the index that meets every condition.

        Parameters
        ----------
        **conditions
            ``column=value`` (equal), ``column=[a, b]`` (one of), ``column=None`` (absent),
            ``min_column=low`` and ``max_column=high`` (inclusive). Columns of stacks (`verdict`,
            `slices`, `content`, `slice_spacing`, ...) take whole stacks, and no equal copies, which
            are in none; columns of frames (`modality`, `echo_time`, ...) take frames.

        Raises
        ------
        UsageError
            A column that does not exist, or a value of another type than the column's.
        """
        mask = self._mask()
        for condition, wanted in conditions.items():
            mask &= self._condition(condition, wanted)
        return Index(self._generation, _ranges(mask))

    def _condition(self, condition: str, wanted: Any) -> npt.NDArray[np.bool_]:
        name, low, high = condition, None, None
        if condition not in self.columns and condition.startswith(("min_", "max_")):
            name = condition[4:]
            low, high = (wanted, None) if condition.startswith("min_") else (None, wanted)
        if name not in self.columns:
            raise no_such_column(name, self.columns)
        by_stack = name in self._generation.stacks.names
        table = self._generation.stacks if by_stack else self._generation.frames
        mask = where(table, name, wanted) if name == condition else between(table, name, low, high)
        return self._per_frame(mask) if by_stack else mask

    def _per_frame(self, mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
        """(frames,) what holds for the stack of each frame; copies have none."""
        starts = self._generation.stack_starts
        return np.append(
            np.repeat(mask, np.diff(starts)),
            np.zeros(len(self._generation.frames) - starts[-1], dtype=bool),
        )

    def _mask(self) -> npt.NDArray[np.bool_]:
        mask = np.zeros(len(self._generation.frames), dtype=bool)
        mask[self.rows()] = True
        return mask

    def of_stacks(self, numbers: npt.ArrayLike) -> "Index":
        """The part of the index that the stacks with these numbers (`Stack.number`) make up, so far as it is selected."""
        wanted, count = np.asarray(numbers, dtype=np.int64), len(self._generation.stacks)
        if wanted.size and (wanted.min() < 0 or wanted.max() >= count):
            raise UsageError(
                f"there are stacks 0 to {count - 1}, found {wanted.min()} to {wanted.max()}",
                stacks=count,
            )
        chosen = np.zeros(count, dtype=bool)
        chosen[wanted] = True
        return Index(self._generation, _ranges(self._mask() & self._per_frame(chosen)))

    def split(
        self, fractions: Sequence[float], by: str = "patient", seed: int = 0
    ) -> tuple["Index", ...]:
        """Parts without a patient (or study, or series) in common.

        The part of a patient follows from a hash of its PatientID and the seed alone, so adding
        patients never moves one between parts. Fractions are therefore expected rather than exact.
        Where PatientID is blank, the Study Instance UID stands in for it, then the Series Instance
        UID.

        Parameters
        ----------
        fractions
            The expected share of each part; together at most 1. What they leave is in no part.
        by
            "patient", "study" or "series": what must not be divided.
        seed
            Another seed gives other parts.
        """
        if by not in SPLIT_LEVELS:
            raise UsageError(f"split by {by!r}: expected one of {', '.join(SPLIT_LEVELS)}", by=by)
        bounds = np.concatenate([[0.0], np.cumsum(np.asarray(fractions, dtype=np.float64))])
        if len(bounds) < 2 or not (np.diff(bounds) >= 0).all() or bounds[-1] > 1 + 1e-9:
            raise UsageError(
                f"fractions are parts of 1 and together at most 1, found {tuple(fractions)}",
                fractions=tuple(fractions),
            )
        if bounds[-1] > 1 - 1e-9:
            bounds[-1] = np.inf  # rounding must not lose a patient
        place = self._places(by, seed)
        mask = self._mask()
        return tuple(
            Index(self._generation, _ranges(mask & (place >= low) & (place < high)))
            for low, high in itertools.pairwise(bounds)
        )

    def _places(self, by: str, seed: int) -> npt.NDArray[np.float64]:
        """(frames,) where in [0, 1) each frame's patient, study or series falls."""
        place = np.full(len(self._generation.frames), np.nan)
        for name in SPLIT_LEVELS[by]:
            codes, values = self._generation.frames.codes(name)
            per_value = np.array(
                [_unit_hash(f"{seed}\0{name}\0{value}") if value else np.nan for value in values]
                or [np.nan]
            )
            place = np.where(np.isnan(place), per_value[codes], place)
        return np.where(np.isnan(place), _unit_hash(f"{seed}\0"), place)

    def stack(self, number: int) -> "Stack":
        """Stack `number` of the whole index, as `Stack.number` names it."""
        if not 0 <= number < len(self._generation.stacks):
            raise UsageError(
                f"there are stacks 0 to {len(self._generation.stacks) - 1}, not {number}",
                number=number,
            )
        return Stack(self._generation, number)

    # --- out of here ---

    def to_parquet(self, folder: str | os.PathLike[str]) -> None:
        """Write `files`, `frames` (the selected ones), `stacks` and `problems` as Parquet files into a folder."""
        target = os.fspath(folder)
        storage.make_folder(target)
        for name, table in self._exported().items():
            table.to_parquet(os.path.join(target, f"{name}.parquet"))

    def to_pandas(self, table: str = "frames") -> Any:
        """One of the tables as a pandas DataFrame.

        "frames" (the selected ones), "stacks", "files" or "problems".
        """
        tables = self._exported()
        if table not in tables:
            raise UsageError(f"there is no table {table!r}: {', '.join(tables)}", table=table)
        return tables[table].to_pandas()

    def _exported(self) -> dict[str, Table]:
        generation = self._generation
        frames, stacks = generation.frames, generation.stacks
        if not self._whole:
            rows, whole = self.rows(), self._whole_stacks()
            # where a stack's frames are among the exported ones
            starts = np.searchsorted(rows, generation.stack_starts[whole])
            originals = frames.numbers("duplicate_of")[rows]
            places = np.minimum(np.searchsorted(rows, originals), len(rows) - 1)
            # -2: of a frame that is not exported.
            originals = (
                np.where(originals < 0, -1, np.where(rows[places] == originals, places, -2))
                if len(rows)
                else originals
            )
            frames = frames.take(rows).with_column("duplicate_of", originals)
            stacks = stacks.take(whole).with_column("frame_start", starts)
        frames, problems = (
            frames.with_paths(generation.files),
            generation.problems.with_paths(generation.files),
        )
        return {"files": generation.files, "frames": frames, "stacks": stacks, "problems": problems}

    def __reduce__(self) -> tuple[Any, ...]:
        if self._whole:
            return _unpickle, (self.path, self.generation, None, "")
        if len(self._ranges) <= INLINE_RANGES:
            return _unpickle, (self.path, self.generation, self._ranges.tolist(), "")
        return _unpickle, (self.path, self.generation, None, _keep_selection(self._ranges))

    # --- for people ---

    @property
    def counts(self) -> dict[str, int]:
        """Patients, studies, series, stacks and frames.

        What a stack taken apart leaves counts as frames.
        """
        return overview.counts(self._part())

    def check(self) -> Check:
        """The verdict on every stack with its numbers and the reason, the ledger, the problems.

        What needs a person.

        Prints well in a terminal and in a notebook; `check().ok` says whether nothing needs a
        person, `check().rows` has every stack of this selection, `check().to_dict()` everything for
        machines. Problems are those of the whole index.
        """
        return check(self._part())

    def __repr__(self) -> str:
        return overview.overview(self._part()).text()

    def _repr_html_(self) -> str:
        return overview.overview(self._part()).html()

    def _part(self) -> Part:
        generation = self._generation
        return Part(
            path=self.path,
            generation=self.generation,
            is_whole=self._whole,
            frames=generation.frames,
            stacks=generation.stacks,
            starts=generation.stack_starts,
            chosen=self._whole_stacks(),
            mask=self._mask(),
            ledger=self.ledger,
            problems=self.problems,
            reasons=self.problems.reasons(),
            passed_over=self._passed_over(),
        )

    def _passed_over(self) -> dict[str, int]:
        """What the walk left out, by kind: {} when nothing."""
        counted = {
            name.replace("_", " "): len(n) if isinstance(n, list) else n
            for name, n in self._generation.facts.get("passed_over", {}).items()
        }
        return {name: n for name, n in counted.items() if n}


def open_index(path: str | os.PathLike[str]) -> Index:
    """Open the index folder that `dicomdl.scan` wrote.

    Raises
    ------
    IndexFolderError
        No index there, a damaged one, or one of another format.
    """
    folder = os.path.abspath(os.path.expanduser(os.fspath(path)))
    generation = generation_of(folder, read_manifest(folder)["generation"])
    # Looked at now, so that a damaged index says so here and not in mid-training.
    _ = generation.tolerances, generation.files, generation.stacks
    return Index(generation)


def _unpickle(
    folder: str, generation: str, ranges: list[list[int]] | None, selection: str
) -> Index:
    opened = generation_of(folder, generation)
    len(opened.frames)  # says GenerationGone now rather than at the first frame
    if selection:
        return Index(opened, _kept_selection(selection))
    return Index(
        opened, None if ranges is None else np.array(ranges, dtype=np.int64).reshape(-1, 2)
    )


def _keep_selection(ranges: Ranges) -> str:
    """Write ranges to the cache folder, once, under the digest of their content.

    The digest is the selection's name.
    """
    name = hashlib.blake2b(ranges.tobytes(), digest_size=16).hexdigest()
    path = os.path.join(storage.cache_folder("selections"), f"{name}.i64")
    if not os.path.exists(path):
        storage.write_whole(path, ranges.astype("<i8").tobytes())
    return name


def _kept_selection(name: str) -> Ranges:
    path = os.path.join(storage.cache_folder("selections"), f"{name}.i64")
    try:
        return np.asarray(np.memmap(path, dtype="<i8", mode="r")).reshape(-1, 2)
    except (OSError, ValueError):
        raise IndexFolderError(
            f"the selection {name} is not in this machine's cache folder: select again here, or share DICOMDL_CACHE",
            selection=name,
        ) from None


def _ranges(mask: npt.NDArray[np.bool_]) -> Ranges:
    """(k, 2) the runs of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], mask, [False]]).astype(np.int8)))
    return edges.reshape(-1, 2).astype(np.int64)


def _unit_hash(key: str) -> float:
    """A number in [0, 1) that follows from `key` on every machine."""
    digest = hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return float((int.from_bytes(digest, "little") >> 11) / 2**53)
