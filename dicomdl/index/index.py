"""The Index: what a scan concluded, as people and datasets see it, with views Study, Series and Stack.

An Index is a generation of tables and a selection of rows. Both are memory-mapped: opening a million frames takes
milliseconds, a worker shares the pages of its neighbours, and a pickle holds a path, a generation and the name of
a selection. Nothing here changes an index; `select` and `split` give new, smaller ones.
"""

import functools
import hashlib
import itertools
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from dicomdl.errors import IndexFolderError, UsageError
from dicomdl.geometry.grid import Geometry, Tolerances
from dicomdl.geometry.stacks import frame_positions
from dicomdl.headers.frame import SOURCE_FIELDS, Frame, FrameSource
from dicomdl.index import overview
from dicomdl.index.overview import Check, Problem
from dicomdl.index.table import Table, between, map_table, no_such_column, read_manifest, where
from dicomdl.storage import publishing as storage

Ranges = npt.NDArray[np.int64]  # (k, 2): rows [start, stop), ascending, not touching
CACHED_VALUES: Final = 4096  # the values of a column with at most this many become Python objects once looked at
INLINE_RANGES: Final = 32  # a pickle carries this many ranges itself; more go to a file in the cache folder
SPLIT_LEVELS: Final = {
    "patient": ("patient_id", "study_instance_uid", "series_instance_uid"),
    "study": ("study_instance_uid", "series_instance_uid"),
    "series": ("series_instance_uid",),
}


class Generation:
    """The tables of one generation, opened when first asked for and shared by all indexes of a process."""

    def __init__(self, folder: str, name: str) -> None:
        self.folder = folder
        self.name = name

    @functools.cached_property
    def files(self) -> Table:
        """One row a file."""
        return map_table(self.folder, self.name, "files")

    @functools.cached_property
    def frames(self) -> Table:
        """One row a frame, sorted by stack and slice."""
        return map_table(self.folder, self.name, "frames")

    @functools.cached_property
    def stacks(self) -> Table:
        """One row a stack."""
        return map_table(self.folder, self.name, "stacks")

    @functools.cached_property
    def problems(self) -> Table:
        """One row a file that could not be used."""
        return map_table(self.folder, self.name, "problems")

    @functools.cached_property
    def stack_starts(self) -> npt.NDArray[np.int64]:
        """(stacks + 1,) the first frame row of each stack, and the end; copies, which are in no stack, come behind it."""
        starts, slices = self.stacks.numbers("frame_start"), self.stacks.numbers("slices")
        return np.append(starts, slices.sum()).astype(np.int64)

    @functools.cached_property
    def groups(self) -> list[npt.NDArray[np.int64]]:
        """The stacks of each group, by group and place in it."""
        numbers = self.stacks.numbers("group")
        order = np.lexsort([self.stacks.numbers("group_index"), numbers])
        return np.split(order, np.flatnonzero(np.diff(numbers[order])) + 1) if len(order) else []

    @functools.cached_property
    def _cells(self) -> dict[str, Callable[[int], Any]]:
        return {}

    def cell(self, name: str) -> Callable[[int], Any]:
        """A quick reader of one column: frame row -> value. `path`, `file_bytes` and `file_mtime_ns` are those of its file."""
        if name not in self._cells:
            if name in _FILE_COLUMNS:
                convert: Callable[[Any], Any] = os.fsdecode if name == "path" else int
                reader = _through(self.cell("file"), _cells(self.files, name), convert)
            else:
                reader = _cells(self.frames, name)
            self._cells[name] = reader
        return self._cells[name]

    def values(self, name: str, rows: slice) -> list[Any]:
        """One column of some frame rows: as `cell` gives them, but several at once."""
        if name in _FILE_COLUMNS:
            files = self.frames.numbers("file")[rows]
            return _decoded(*self.files.binaries(name, files)) if name == "path" else self.files.some_numbers(name, files)
        if self.frames.is_number(name) and not self.frames.column(name).null_count:
            return self.frames.numbers(name)[rows].tolist()  # type: ignore[no-any-return]
        cell = self.cell(name)
        return [cell(row) for row in range(rows.start, rows.stop)]

    def stack_value(self, name: str, number: int) -> Any:
        """One fact of a stack."""
        if name not in self._stack_cells:
            self._stack_cells[name] = _cells(self.stacks, name)
        return self._stack_cells[name](number)

    @functools.cached_property
    def _stack_cells(self) -> dict[str, Callable[[int], Any]]:
        return {}

    @functools.cached_property
    def _source_cells(self) -> list[Callable[[int], Any]]:
        return [self.cell(name) for name in SOURCE_FIELDS]

    def source(self, row: int) -> FrameSource:
        """Where the bytes of one frame row are."""
        return FrameSource(*[cell(row) for cell in self._source_cells])

    @functools.cached_property
    def _frame_parts(self) -> tuple[dict[str, Any], list[tuple[str, Callable[[int], Any]]], list[tuple[str, Callable[[int], Any]]]]:
        """(fields of `Frame` that are the same in every row, readers of the other fields, readers of extra columns)."""
        constants = self.frames.constants
        known = {name: constants[name] for name in _FRAME_COLUMNS if name in constants}
        others = [(name, self.cell(name)) for name in (*_FILE_COLUMNS, *_FRAME_COLUMNS) if name not in known]
        return known, others, [(name, self.cell(name)) for name in self.frames.names if name not in _NOT_EXTRA]

    def frame(self, row: int) -> Frame:
        """One frame row as a Frame."""
        known, others, extra = self._frame_parts
        return Frame(extra=tuple((name, cell(row)) for name, cell in extra), **known, **{name: cell(row) for name, cell in others})


_FILE_COLUMNS: Final = ("path", "file_bytes", "file_mtime_ns")
_FRAME_COLUMNS: Final = tuple(f.name for f in fields(Frame) if f.name not in (*_FILE_COLUMNS, "extra"))
_NOT_EXTRA: Final = frozenset({*_FRAME_COLUMNS, "file", "pixel_digest"})


def _cells(table: Table, name: str) -> Callable[[int], Any]:
    """A quick reader of single cells: 0.1 us where Arrow's own takes 2, and no page is touched that is not needed. The row must exist."""
    if name in table.constants:
        value = table.constants[name]
        return lambda _row: value
    array = table.column(name)
    if table.is_list(name):
        size, flat = table.flat(name)
        return (lambda row: tuple(flat[row * size : (row + 1) * size].tolist())) if size else (lambda row: table.value(name, row))
    if table.is_encoded(name):
        codes, one = table.codes_of(name)
        return _remembered(codes, one) if len(array.dictionary) <= CACHED_VALUES else lambda row: one(codes[row])
    if table.is_number(name) and not array.null_count:
        numbers = table.numbers(name)
        return lambda row: numbers[row].item()
    return lambda row: array[row].as_py()  # a private copy of a long column would cost every worker its memory


def _remembered(codes: npt.NDArray[Any], one: Callable[[int], Any]) -> Callable[[int], Any]:
    values: dict[int, Any] = {}

    def cell(row: int) -> Any:
        code = codes[row]
        if code not in values:
            values[code] = one(code)
        return values[code]

    return cell


def _decoded(data: bytes, ends: list[int]) -> list[str]:
    """Paths that lie one behind the other, as text."""
    pieces = itertools.pairwise(ends)
    if data.isascii():
        text = os.fsdecode(data)
        return [text[start:end] for start, end in pieces]
    return [os.fsdecode(data[start:end]) for start, end in pieces]


def _through(files: Callable[[int], Any], cells: Callable[[int], Any], convert: Callable[[Any], Any]) -> Callable[[int], Any]:
    return lambda row: convert(cells(files(row)))


@functools.lru_cache(maxsize=16)
def _generation(folder: str, name: str) -> Generation:
    return Generation(folder, name)


class Problems(Sequence[Problem]):
    """The problems of an index, read from the table as they are looked at."""

    def __init__(self, generation: Generation) -> None:
        self._generation = generation

    def __len__(self) -> int:
        return len(self._generation.problems)

    def __getitem__(self, number: Any) -> Any:
        if isinstance(number, slice):
            return [self[i] for i in range(*number.indices(len(self)))]
        number = range(len(self))[number]
        table = self._generation.problems
        path = os.fsdecode(self._generation.files.value("path", table.value("file", number)))
        return Problem(path, table.value("reason", number), table.value("detail", number))

    def reasons(self) -> Counter[str]:
        """How many problems have each reason, the most frequent first."""
        codes, values = self._generation.problems.codes("reason")
        return Counter(dict(Counter(str(values[code]) for code in codes.tolist()).most_common()))

    def __repr__(self) -> str:
        shown = "\n".join(f"{p.reason:<20} {p.path}\n{'':<20} {p.detail}" for p in self[:20])
        more = f"\n... and {len(self) - 20} more" if len(self) > 20 else ""
        return f"{len(self)} problem(s)\n{shown}{more}" if len(self) else "no problems"


class Index:
    """Every frame that a scan found, in stacks, or the part of them that `select` or `split` left.

    Made by `dicomdl.scan` and `dicomdl.open_index`. Immutable; pickles as a path (at most 4 kB).
    """

    def __init__(self, generation: Generation, ranges: Ranges | None = None) -> None:
        self._generation = generation
        self._ranges = np.array([[0, len(generation.frames)]], dtype=np.int64) if ranges is None else ranges
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
        return np.asarray(np.arange(len(self)) + np.repeat(self._ranges[:, 0] - self._offsets[:-1], lengths))

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
        """Some facts of frame `number`, by the names of their columns: quicker than all of them by `frame`."""
        row = self.row(number)
        return {column: self._generation.cell(column)(row) for column in columns}

    def stack_of(self, number: int) -> "Stack":
        """The stack that frame `number` belongs to, whole, whatever part of it this index selects.

        Raises
        ------
        UsageError
            The frame is an equal copy of another one (`Frame.duplicate_of`), which makes it part of no stack.
        """
        starts, row = self._generation.stack_starts, self.row(number)
        if row >= starts[-1]:
            original = self._generation.cell("duplicate_of")(row)
            raise UsageError(f"frame {number} is an equal copy of row {original} and in no stack", number=number, duplicate_of=original)
        return Stack(self._generation, int(np.searchsorted(starts, row, side="right")) - 1)

    def stack_boundaries(self) -> npt.NDArray[np.int64]:
        """(n + 1,) the numbers of the frames that begin a stack, whole or in part, and the end."""
        starts = np.searchsorted(self._generation.stack_starts, self.rows(), side="right")
        return np.concatenate([np.flatnonzero(np.diff(starts, prepend=-1)), [len(self)]]).astype(np.int64)

    @property
    def stacks(self) -> "Stacks":
        """The stacks whose frames are all selected, in order. A stack that `select` took apart is not among them."""
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
            Group(self._generation, n) for n, members in enumerate(self._generation.groups) if len(members) > 1 and whole[members].all()
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
        """What the last scan of this folder wrote down: options, what was passed over, generations."""
        return read_manifest(self.path)

    @functools.cached_property
    def ledger(self) -> Mapping[str, int]:
        """How many files were seen, and of which kind each one is: the kinds add up to `files`."""
        codes, kinds = self._generation.files.codes("kind")
        counts = np.bincount(codes, minlength=len(kinds)) if len(codes) else np.zeros(0, dtype=int)
        found = {str(kind): int(count) for kind, count in zip(kinds, counts, strict=False)}
        return {"files": len(self._generation.files), **{k: found.get(k, 0) for k in ("image", "no_image", "not_dicom", "problem")}}

    # --- smaller indexes ---

    def select(self, **conditions: Any) -> "Index":
        """The part of the index that meets every condition.

        Parameters
        ----------
        **conditions
            ``column=value`` (equal), ``column=[a, b]`` (one of), ``column=None`` (absent), ``min_column=low`` and
            ``max_column=high`` (inclusive). Columns of stacks (`verdict`, `slices`, `content`, `slice_spacing`, ...)
            take whole stacks, and no equal copies, which are in none; columns of frames (`modality`, `echo_time`, ...)
            take frames.

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
        return np.append(np.repeat(mask, np.diff(starts)), np.zeros(len(self._generation.frames) - starts[-1], dtype=bool))

    def _mask(self) -> npt.NDArray[np.bool_]:
        mask = np.zeros(len(self._generation.frames), dtype=bool)
        mask[self.rows()] = True
        return mask

    def of_stacks(self, numbers: npt.ArrayLike) -> "Index":
        """The part of the index that the stacks with these numbers (`Stack.number`) make up, so far as it is selected."""
        wanted, count = np.asarray(numbers, dtype=np.int64), len(self._generation.stacks)
        if wanted.size and (wanted.min() < 0 or wanted.max() >= count):
            raise UsageError(f"there are stacks 0 to {count - 1}, found {wanted.min()} to {wanted.max()}", stacks=count)
        chosen = np.zeros(count, dtype=bool)
        chosen[wanted] = True
        return Index(self._generation, _ranges(self._mask() & self._per_frame(chosen)))

    def split(self, fractions: Sequence[float], by: str = "patient", seed: int = 0) -> tuple["Index", ...]:
        """Parts without a patient (or study, or series) in common.

        The part of a patient follows from a hash of its PatientID and the seed alone, so adding patients never moves
        one between parts. Fractions are therefore expected rather than exact. Where PatientID is blank, the
        Study Instance UID stands in for it, then the Series Instance UID.

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
            raise UsageError(f"fractions are parts of 1 and together at most 1, found {tuple(fractions)}", fractions=tuple(fractions))
        if bounds[-1] > 1 - 1e-9:
            bounds[-1] = np.inf  # rounding must not lose a patient
        place = self._places(by, seed)
        mask = self._mask()
        return tuple(Index(self._generation, _ranges(mask & (place >= low) & (place < high))) for low, high in itertools.pairwise(bounds))

    def _places(self, by: str, seed: int) -> npt.NDArray[np.float64]:
        """(frames,) where in [0, 1) each frame's patient, study or series falls."""
        place = np.full(len(self._generation.frames), np.nan)
        for name in SPLIT_LEVELS[by]:
            codes, values = self._generation.frames.codes(name)
            per_value = np.array([_unit_hash(f"{seed}\0{name}\0{value}") if value else np.nan for value in values] or [np.nan])
            place = np.where(np.isnan(place), per_value[codes], place)
        return np.where(np.isnan(place), _unit_hash(f"{seed}\0"), place)

    def stack(self, number: int) -> "Stack":
        """Stack `number` of the whole index, as `Stack.number` names it."""
        if not 0 <= number < len(self._generation.stacks):
            raise UsageError(f"there are stacks 0 to {len(self._generation.stacks) - 1}, not {number}", number=number)
        return Stack(self._generation, number)

    # --- out of here ---

    def to_parquet(self, folder: str | os.PathLike[str]) -> None:
        """Write `files`, `frames` (the selected ones), `stacks` and `problems` as Parquet files into a folder."""
        target = os.fspath(folder)
        storage.make_folder(target)
        for name, table in self._exported().items():
            table.to_parquet(os.path.join(target, f"{name}.parquet"))

    def to_pandas(self, table: str = "frames") -> Any:
        """One of the tables as a pandas DataFrame: "frames" (the selected ones), "stacks", "files" or "problems"."""
        tables = self._exported()
        if table not in tables:
            raise UsageError(f"there is no table {table!r}: {', '.join(tables)}", table=table)
        return tables[table].to_pandas()

    def _exported(self) -> dict[str, Table]:
        generation = self._generation
        frames, stacks = generation.frames, generation.stacks
        if not self._whole:
            rows, whole = self.rows(), self._whole_stacks()
            starts = np.searchsorted(rows, generation.stack_starts[whole])  # where a stack's frames are among the exported ones
            originals = frames.numbers("duplicate_of")[rows]
            places = np.minimum(np.searchsorted(rows, originals), len(rows) - 1)
            # -2: of a frame that is not exported.
            originals = np.where(originals < 0, -1, np.where(rows[places] == originals, places, -2)) if len(rows) else originals
            frames = frames.take(rows).with_column("duplicate_of", originals)
            stacks = stacks.take(whole).with_column("frame_start", starts)
        frames, problems = frames.with_paths(generation.files), generation.problems.with_paths(generation.files)
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
        """Patients, studies, series, stacks and frames; what a stack taken apart leaves counts as frames."""
        return overview.counts(self._part())

    def check(self) -> Check:
        """The verdict on every stack with its numbers and the reason, the ledger, the problems: what needs a person.

        Prints well in a terminal and in a notebook; `check().ok` says whether nothing needs a person, `check().rows` has
        every stack of this selection, `check().to_dict()` everything for machines. Problems are those of the whole index.
        """
        return overview.check(self._part())

    def __repr__(self) -> str:
        return overview.overview(self._part()).text()

    def _repr_html_(self) -> str:
        return overview.overview(self._part()).html()

    def _part(self) -> overview.Part:
        generation = self._generation
        return overview.Part(
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
        """What the walk left out, by kind: {} when nothing, or when the manifest is of a later generation."""
        try:
            manifest = self.manifest
        except IndexFolderError:
            return {}
        if manifest["generation"] != self.generation:
            return {}
        counted = {name.replace("_", " "): len(n) if isinstance(n, list) else n for name, n in manifest.get("passed_over", {}).items()}
        return {name: n for name, n in counted.items() if n}


def open_index(path: str | os.PathLike[str]) -> Index:
    """Open the index folder that `dicomdl.scan` wrote.

    Raises
    ------
    IndexFolderError
        No index there, a damaged one, or one of another format.
    """
    folder = os.path.abspath(os.path.expanduser(os.fspath(path)))
    generation = _generation(folder, read_manifest(folder)["generation"])
    _ = generation.files, generation.stacks  # mapped now, so that a damaged index says so here and not in mid-training
    return Index(generation)


def _unpickle(folder: str, generation: str, ranges: list[list[int]] | None, selection: str) -> Index:
    opened = _generation(folder, generation)
    len(opened.frames)  # says GenerationGone now rather than at the first frame
    if selection:
        return Index(opened, _kept_selection(selection))
    return Index(opened, None if ranges is None else np.array(ranges, dtype=np.int64).reshape(-1, 2))


def _keep_selection(ranges: Ranges) -> str:
    """Write ranges to the cache folder, once, under the digest of their content; the digest is the selection's name."""
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
            f"the selection {name} is not in this machine's cache folder: select again here, or share DICOMDL_CACHE", selection=name
        ) from None


def _ranges(mask: npt.NDArray[np.bool_]) -> Ranges:
    """(k, 2) the runs of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], mask, [False]]).astype(np.int8)))
    return edges.reshape(-1, 2).astype(np.int64)


def _unit_hash(key: str) -> float:
    """A number in [0, 1) that follows from `key` on every machine."""
    digest = hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return float((int.from_bytes(digest, "little") >> 11) / 2**53)


# --- views ------------------------------------------------------------------------------------------------------------


class Stack:
    """The frames of one Series that form one grid, in slice order, with the verdict on it.

    A view into an index: pickles as a path and a number.
    """

    __slots__ = ("_generation", "number")

    def __init__(self, generation: Generation, number: int) -> None:
        self._generation = generation
        self.number = number

    @property
    def rows(self) -> slice:
        """The rows of the `frames` table, in slice order."""
        starts = self._generation.stack_starts
        return slice(int(starts[self.number]), int(starts[self.number + 1]))

    @property
    def slices(self) -> int:
        """The number of frames."""
        return int(self.rows.stop - self.rows.start)

    def __len__(self) -> int:
        return self.slices

    @property
    def shape(self) -> tuple[int, int, int]:
        """(slices, rows, columns)."""
        return (self.slices, int(self.value("rows")), int(self.value("columns")))

    @property
    def verdict(self) -> str:
        """What the grid is: regular, tilted, single, missing_slices, uneven_spacing, duplicates or no_geometry."""
        return str(self._generation.stack_value("verdict", self.number))

    @property
    def detail(self) -> dict[str, Any]:
        """The numbers behind the verdict, lengths in mm."""
        return dict(json.loads(self._generation.stack_value("detail", self.number)))

    @property
    def content(self) -> str:
        """What the pixels are: "image", "segmentation", "dose" or "parametric_map"."""
        return str(self._generation.stack_value("content", self.number))

    @property
    def affine(self) -> npt.NDArray[np.float64]:
        """(4, 4) from (slice, row, column, 1) to LPS mm; NaN without geometry."""
        return np.asarray(self._generation.stack_value("affine", self.number), dtype=np.float64).reshape(4, 4)

    @property
    def spacing(self) -> tuple[float, float, float]:
        """(slice, row, column) spacing in mm; NaN where unknown (a single slice has no slice spacing)."""
        depth, row, column = self._generation.stack_value("spacing", self.number)
        return (depth, row, column)

    @property
    def geometry(self) -> Geometry:
        """Shape and affine."""
        return Geometry(self.shape, self.affine)

    @property
    def positions(self) -> npt.NDArray[np.float64]:
        """(slices, 3) LPS mm, where the centre of each slice's first pixel is; NaN where unknown.

        ImagePositionPatient, and for the planes of a dose grid with their offset (PS3.3 C.8.8.3.2).
        """
        return frame_positions(self._generation.frames.part(self.rows), Tolerances())

    def position(self, number: int) -> npt.NDArray[np.float64]:
        """(3,) LPS mm, where the centre of the first pixel of slice `number` is; NaN where unknown: one of `positions`."""
        place = self.frame_value(number, "image_position_patient")
        if place is None or self.frame_value(number, "grid_frame_offset") is not None:
            return np.array(self.positions[number])
        return np.array(place, dtype=np.float64)

    @property
    def dimension(self) -> dict[str, Any]:
        """What tells this stack from the others of its group, such as ``{"echo_time": 4.9}``; {} for one that is alone.

        Times of day are told in seconds from the first stack of the group.
        """
        values = json.loads(self._generation.stack_value("dimension", self.number))
        return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}

    @property
    def group(self) -> "Group":
        """The stacks on one grid that `dimension` tells apart, this one among them."""
        return Group(self._generation, int(self._generation.stack_value("group", self.number)))

    @property
    def group_index(self) -> int:
        """The place of this stack in its group, from 0."""
        return int(self._generation.stack_value("group_index", self.number))

    @property
    def patient_id(self) -> str:
        """PatientID, or its keyed hash where the scan was told so."""
        return str(self.value("patient_id"))

    @property
    def study_instance_uid(self) -> str:
        """Study Instance UID."""
        return str(self.value("study_instance_uid"))

    @property
    def series_instance_uid(self) -> str:
        """Series Instance UID."""
        return str(self.value("series_instance_uid"))

    @property
    def modality(self) -> str:
        """Modality (0008,0060)."""
        return str(self.value("modality"))

    def value(self, column: str) -> Any:
        """A fact of the first frame, by the name of its column."""
        return self._generation.cell(column)(self.rows.start)

    def values(self, column: str) -> list[Any]:
        """A fact of every frame, in slice order."""
        return self._generation.values(column, self.rows)

    def is_constant(self, column: str) -> bool:
        """Whether a fact is the same in every frame; looked at without making values of it."""
        frames = self._generation.frames
        if column in frames.constants:
            return True
        if frames.is_encoded(column):
            own = frames.codes_of(column)[0][self.rows]
        elif frames.is_number(column) and not frames.column(column).null_count:
            own = frames.numbers(column)[self.rows]
        else:  # a copy of a long column would cost more than its few values here
            values = self.values(column)
            return all(value == values[0] for value in values)
        return bool((own == own[:1]).all())

    def frame_value(self, number: int, column: str) -> Any:
        """A fact of slice `number`, by the name of its column."""
        return self._generation.cell(column)(range(self.rows.start, self.rows.stop)[number])

    @property
    def series(self) -> "Stacks":
        """All stacks of this one's Series in the whole index, itself among them."""
        numbers = self._generation.stacks.numbers("series")
        return Stacks(self._generation, np.flatnonzero(numbers == numbers[self.number]))

    def frame(self, number: int) -> Frame:
        """Slice `number` with all its facts."""
        return self._generation.frame(range(self.rows.start, self.rows.stop)[number])

    @property
    def frames(self) -> list[Frame]:
        """All slices with all their facts; `source` is quicker for reading."""
        return [self.frame(number) for number in range(self.slices)]

    @property
    def middle(self) -> Frame:
        """The middle slice: the frame that stands for its stack where one must."""
        return self.frame(self.slices // 2)

    def source(self, number: int) -> FrameSource:
        """Where the bytes of slice `number` are."""
        return self._generation.source(range(self.rows.start, self.rows.stop)[number])

    @property
    def sources(self) -> list[FrameSource]:
        """Where the bytes of every slice are, in slice order."""
        source = self._generation.source
        return [source(row) for row in range(self.rows.start, self.rows.stop)]

    @property
    def key(self) -> tuple[str, str, int]:
        """(index folder, generation, number): the same stack has the same key in every process."""
        return (self._generation.folder, self._generation.name, self.number)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Stack) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)

    def __reduce__(self) -> tuple[Any, ...]:
        return _unpickle_stack, self.key

    def __repr__(self) -> str:
        shape, spacing = " x ".join(map(str, self.shape)), " x ".join(f"{s:.4g}" for s in self.spacing)
        told = "".join(f", {name} {value}" for name, value in self.dimension.items())
        return (
            f"Stack({self.modality or '?'} {shape}, {spacing} mm, {self.verdict}{overview.printable(told)}, "
            f"series {self.series_instance_uid or '(no UID)'})"
        )


def _unpickle_stack(folder: str, generation: str, number: int) -> Stack:
    return Stack(_generation(folder, generation), number)


class Stacks(Sequence[Stack]):
    """Stacks by number, made as they are looked at."""

    def __init__(self, generation: Generation, numbers: npt.NDArray[np.int64]) -> None:
        self._generation = generation
        self.numbers = numbers

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, number: Any) -> Any:
        if isinstance(number, slice):
            return Stacks(self._generation, self.numbers[number])
        if not -len(self) <= number < len(self):
            raise IndexError(f"stack {number} of {len(self)}")
        return Stack(self._generation, int(self.numbers[number]))

    def __iter__(self) -> Iterator[Stack]:
        return (Stack(self._generation, number) for number in self.numbers.tolist())

    def shapes(self) -> npt.NDArray[np.int64]:
        """(stacks, 3) slices, rows and columns of each."""
        starts = self._generation.stack_starts
        frames = self._generation.frames
        heads = starts[self.numbers]
        size = [np.asarray(frames.values(name, heads), np.int64).reshape(-1) for name in ("rows", "columns")]
        return np.stack([np.diff(starts)[self.numbers], *size], axis=1).astype(np.int64)

    def have_detail(self, key: str) -> npt.NDArray[np.bool_]:
        """(len,) which stacks' `detail` has a key; looked for in the text, for a million details are not parsed for a few."""
        codes, details = self._generation.stacks.codes("detail")
        has_key = np.array([f'"{key}": ' in detail for detail in details] or [False], dtype=np.bool_)
        return np.asarray(has_key[codes[self.numbers]])

    def verdicts(self) -> Counter[str]:
        """How many stacks have each verdict."""
        codes, values = self._generation.stacks.codes("verdict")
        return Counter({str(values[code]): int(n) for code, n in zip(*np.unique(codes[self.numbers], return_counts=True), strict=True)})

    def __repr__(self) -> str:
        shown = "\n".join(repr(stack) for stack in self[:20])
        more = f"\n... and {len(self) - 20} more" if len(self) > 20 else ""
        return f"{len(self)} stack(s)\n{shown}{more}"


class Group(Sequence[Stack]):
    """Stacks of one Series on one grid that a dimension tells apart: time points, echoes, b-values, phases, kernels.

    `read_volume` makes one array (t, slice, row, column) of it. Every stack is in one group, if only with itself.
    """

    __slots__ = ("_generation", "number")

    def __init__(self, generation: Generation, number: int) -> None:
        self._generation = generation
        self.number = number

    @property
    def stacks(self) -> Stacks:
        """Its stacks in the order of their dimension."""
        return Stacks(self._generation, self._generation.groups[self.number])

    def __len__(self) -> int:
        return len(self.stacks)

    def __getitem__(self, number: Any) -> Any:
        return self.stacks[number]

    @property
    def dimension_names(self) -> tuple[str, ...]:
        """The attributes that tell the stacks apart, the slowest first, such as ("temporal_position_index", "echo_time")."""
        return tuple(self[0].dimension)

    @property
    def dimension(self) -> tuple[Any, ...]:
        """Their value for each stack; a tuple for each where there are several attributes."""
        values = [tuple(stack.dimension.values()) for stack in self]
        return tuple(value[0] if len(value) == 1 else value for value in values)

    @property
    def missing(self) -> dict[Any, list[int]]:
        """{value: the slices of the whole grid that this value's stack lacks}, empty when the group is complete."""
        gaps = [stack.detail.get("missing_in_group") for stack in self]
        return {value: slices for value, slices in zip(self.dimension, gaps, strict=True) if slices}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Group) and self[0] == other[0]

    def __hash__(self) -> int:
        return hash(self[0])

    def __reduce__(self) -> tuple[Any, ...]:
        return _unpickle_group, (self._generation.folder, self._generation.name, self.number)

    def __repr__(self) -> str:
        missing = f", {sum(map(len, self.missing.values()))} slices missing" if self.missing else ""
        return f"Group({len(self)} stacks by {', '.join(self.dimension_names) or '(nothing)'}{missing}, {self[0]!r})"


def _unpickle_group(folder: str, generation: str, number: int) -> Group:
    return Group(_generation(folder, generation), number)


@dataclass(frozen=True)
class Series:
    """One Series (PatientID, Study and Series Instance UID) and its stacks."""

    stacks: Stacks

    @property
    def series_instance_uid(self) -> str:
        """Series Instance UID."""
        return str(self.stacks[0].series_instance_uid)

    @property
    def modality(self) -> str:
        """Modality of its first stack."""
        return str(self.stacks[0].modality)

    @property
    def description(self) -> str:
        """SeriesDescription of its first stack."""
        return str(self.stacks[0].value("series_description"))

    def __repr__(self) -> str:
        return f"Series({self.modality or '?'}, {len(self.stacks)} stack(s), {self.series_instance_uid or '(no UID)'})"


@dataclass(frozen=True)
class Study:
    """One Study and its Series."""

    series: Sequence[Series]

    @property
    def study_instance_uid(self) -> str:
        """Study Instance UID."""
        return str(self.series[0].stacks[0].study_instance_uid)

    def __repr__(self) -> str:
        return f"Study({len(self.series)} series, {self.study_instance_uid or '(no UID)'})"


__all__ = ["Check", "Group", "Index", "Problem", "Series", "Stack", "Study", "open_index"]
