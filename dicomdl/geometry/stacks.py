"""Splits Series into Stacks, the frames that form one grid, and gives each a verdict.

A Series is (PatientID, StudyInstanceUID, SeriesInstanceUID). It is split in three steps: by what cannot be one grid (SOP
class, size, kind of samples, frame of reference, localizers), by orientation and in-plane grid within tolerance, and
then, where positions repeat, by what tells the frames at one position apart (`dimensions`): each value of that is a
Stack, and all of them together are a group. Frames without position or orientation make stacks, too: each multi-frame
file its own (a clip is a unit), single-frame files together.

Conclusions depend on what the headers say and never on the order or names of files: groups are numbered by the
values that made them, and ties within a stack are broken by SOP Instance UID and frame number. Pixels are looked at
only where nothing in the headers tells two frames apart: equal ones are copies, different ones stay `duplicates`.
"""

import functools
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from dicomdl.arrays import Ints
from dicomdl.geometry.candidates import Candidates, Facts
from dicomdl.geometry.dimensions import Dimension, Tie, Tier, find_dimension, members
from dicomdl.geometry.grid import Tolerances, frame_orientations, frame_positions, plane_axes
from dicomdl.geometry.grouping import (
    by_text,
    clusters,
    combined_codes,
    exact_groups,
    is_blank,
    is_every_nth,
    overlap,
)
from dicomdl.geometry.verdict import Assessment, assess, has_geometry, idc_checks, slice_places
from dicomdl.headers.uids import content_of

Digest = Callable[[int], str]
# What orders frames that geometry does not; a copy of an instance in another file comes after it by its coding.
_TIE_BREAKERS: Final = (
    *("instance_number", "sop_instance_uid", "frame_number", "tile_top", "tile_left"),
    *("transfer_syntax_uid", "byte_length", "byte_offset"),
)
_ONE_FRAME: Final = ("sop_instance_uid", "frame_number", "tile_top", "tile_left")
_MOST_COMPARED: Final = (
    20_000  # frames of one series whose pixels are compared; more are told as "unchecked"
)
_MOST_NAMED: Final = 10  # instances named in the detail of duplicates
_MOST_ACQUISITIONS: Final = 4  # that overlap without a common grid
_MOSAICS: Final = frozenset({"MOSAIC", "VFRAME"})  # in ImageType, of Siemens and UIH
_WHOLE_MOSAIC: Final = (
    "a mosaic of slices whose places are not told: its private header is missing or damaged"
)
_FEWEST_SLICES: Final = 3  # of an acquisition among others: two slices are always regular
_READABLE: Final = ("regular", "tilted")
# What should not change from slice to slice of one volume; where it does, positions do not repeat and the stack says so.
_CONTRAST: Final = (
    *(
        "echo_time",
        "effective_echo_time",
        "inversion_time",
        "diffusion_b_value",
        "complex_image_component",
    ),
    *(
        "convolution_kernel",
        "kvp",
        "monoenergetic_energy_equivalent",
        "slice_thickness",
        "reconstruction_diameter",
    ),
)


@dataclass(frozen=True, slots=True)
class StackRow:
    """One stack: where its frames are once `Stacking.order` is applied, and what was concluded."""

    frame_start: int
    slices: int
    series: int
    content: str
    verdict: str
    detail: str  # JSON
    affine: tuple[float, ...]  # 16 numbers, row by row
    spacing: tuple[float, ...]  # slice, row, column; mm; NaN where unknown
    slice_spacing: float
    dimension: str  # JSON
    group: int
    group_index: int
    idc: dict[str, Any]  # `geometry.idc_checks`


@dataclass(frozen=True, slots=True)
class Stacking:
    """`order[k]` is the row of the frame that comes k-th; stack rows refer to that order.

    Copies come behind all stacks; `duplicate_of[k]` is the place in that order of what frame k is a copy of, else -1.
    `digests` are those of the rows whose pixels were compared.
    """

    order: Ints
    stacks: Sequence[StackRow]
    duplicate_of: Ints
    digests: Mapping[int, str]


@dataclass(frozen=True, slots=True)
class _Part:
    """The rows of one stack, what tells it from the others of its group, and what is to be said of it."""

    rows: Ints
    dimension: dict[str, Any] = field(default_factory=dict)
    remarks: dict[str, Any] = field(default_factory=dict)


def build_stacks(
    facts: Facts, tolerances: Tolerances, folders: Ints | None = None, digest: Digest | None = None
) -> Stacking:
    """Sort all frames into stacks.

    Parameters
    ----------
    facts
        Columns of all frames, any order.
    tolerances
        What still counts as equal.
    folders
        (n,) the number of the folder that each frame's file is in. Frames without a Series Instance UID are one Series
        only within a folder; their stacks say so in `detail`.
    digest
        row -> the same text for frames with the same modality values, "" for one that cannot be read. Without it, frames
        that nothing tells apart are `duplicates` with "unchecked" pixels.
    """
    if len(facts) == 0:
        return Stacking(np.empty(0, dtype=np.int64), [], np.empty(0, dtype=np.int64), {})
    return _Builder(facts, tolerances, folders, digest).build()


class _Builder:
    """One run over all frames: the columns that it needs again and again, and the copies that it finds."""

    def __init__(
        self, facts: Facts, tolerances: Tolerances, folders: Ints | None, digest: Digest | None
    ) -> None:
        self.facts = facts
        self.tolerances = tolerances
        self.digest = digest
        self.compared: dict[int, str] = {}
        self.judged: tuple[tuple[Any, ...], tuple[Assessment, dict[str, Any]]] | None = None
        self.original: dict[int, int] = {}  # row of a copy -> row of what it is a copy of
        self.positions = frame_positions(facts, tolerances)
        self.orientations, self.pixel_spacings = (
            frame_orientations(facts),
            facts.vectors("pixel_spacing", 2),
        )
        self.imager_spacings, self.thickness = (
            facts.vectors("imager_pixel_spacing", 2),
            facts.numbers("slice_thickness"),
        )
        self.by_transducer = np.isnan(
            facts.vectors("image_position_patient", 3)[:, 0]
        ) & np.isfinite(self.positions[:, 0])
        self.segments = np.nan_to_num(facts.numbers("referenced_segment_number"), nan=-1).astype(
            np.int64
        )
        self.placed = has_geometry(
            self.positions, self.orientations, self.pixel_spacings, tolerances
        )
        self.blanks = {
            name: is_blank(facts, name) for name in ("series_instance_uid", "study_instance_uid")
        }
        in_folder = self.blanks["series_instance_uid"]
        self.folders = np.where(in_folder, -1 if folders is None else self._by_content(folders), -1)

    def _by_content(self, folders: Ints) -> Ints:
        """Folders numbered by the lowest instance in them, so that their names have no say in the order of stacks."""
        instances = self.facts.ranks("sop_instance_uid")
        lowest = np.full(int(folders.max()) + 1, np.iinfo(np.int64).max)
        np.minimum.at(lowest, folders, instances)
        number = np.empty(len(lowest), dtype=np.int64)
        number[np.argsort(lowest, kind="stable")] = np.arange(len(lowest))
        return np.asarray(number[folders])

    def build(self) -> Stacking:
        tie_break = np.lexsort([self.facts.ranks(name) for name in reversed(_TIE_BREAKERS)])
        rank_of_row = np.empty(len(tie_break), dtype=np.int64)
        rank_of_row[tie_break] = np.arange(len(tie_break))
        series, groups = exact_groups(self.facts, self.folders)
        order: list[Ints] = []
        stacks: list[StackRow] = []
        start = group_number = 0
        for group in groups:
            rows = self._without_same_instances(group[np.argsort(rank_of_row[group])])
            for parts in self._groups(rows):
                for number, part in enumerate(parts):
                    found, rows = self._assess(part)
                    order.append(rows)
                    stacks.append(
                        self._row(
                            start, rows, int(series[rows[0]]), part, found, group_number, number
                        )
                    )
                    start += len(rows)
                group_number += 1
        copies = np.array(
            sorted(self.original, key=lambda row: int(rank_of_row[row])), dtype=np.int64
        )
        whole = np.concatenate([*order, copies])
        place = np.empty(len(whole), dtype=np.int64)
        place[whole] = np.arange(len(whole))
        duplicate_of = np.full(len(whole), -1, dtype=np.int64)
        duplicate_of[start:] = [place[self.original[row]] for row in copies.tolist()]
        return Stacking(whole, stacks, duplicate_of, self.compared)

    # --- one stack ---

    def _assess(self, part: _Part) -> tuple[Assessment, Ints]:
        """The verdict on a part and its rows in slice order."""
        found, _ = self._judged(part.rows)
        detail = found.detail | part.remarks | self._remarks(part.rows)
        return Assessment(found.order, found.affine, found.verdict, detail), part.rows[found.order]

    def _remarks(self, rows: Ints) -> dict[str, Any]:
        """What is to be said of any stack."""
        first = rows[0]
        remarks: dict[str, Any] = {
            name: "blank" for name, blank in self.blanks.items() if blank[first]
        }
        if self.by_transducer[first]:
            remarks["coordinates"] = "of the transducer"
        if varies := self._candidates.varying(rows, _CONTRAST):
            remarks["varies"] = varies
        return remarks

    def _judged(self, rows: Ints) -> tuple[Assessment, dict[str, Any]]:
        """The verdict on some rows and IDC's checks; kept for the next call, because time points lie where their neighbours do."""
        first = rows[0]
        positions, orientation, spacing = (
            self.positions[rows],
            self.orientations[first],
            self.pixel_spacings[first],
        )
        key = (
            positions.tobytes(),
            orientation.tobytes(),
            spacing.tobytes(),
            float(self.thickness[first]),
        )
        if self.judged is None or self.judged[0] != key:
            found = assess(positions, orientation, spacing, self.tolerances, key[-1])
            self.judged = (key, (found, idc_checks(positions, orientation)))
        return self.judged[1]

    def _row(
        self,
        start: int,
        rows: Ints,
        series: int,
        part: _Part,
        found: Assessment,
        group: int,
        number: int,
    ) -> StackRow:
        first = int(part.rows[0])
        in_plane = (
            self.pixel_spacings[first]
            if np.isfinite(self.pixel_spacings[first]).all()
            else self.imager_spacings[first]
        )
        # Where no two slices lie apart, the affine's step is only the thickness of one: no spacing was measured.
        step = (
            float(np.sqrt((found.affine[:3, 0] ** 2).sum()))
            if "spacing" in found.detail
            else math.nan
        )
        return StackRow(
            frame_start=start,
            slices=len(rows),
            series=series,
            content=content_of(self.facts.text("sop_class_uid", first)),
            verdict=found.verdict,
            detail=json.dumps(found.detail),
            affine=tuple(found.affine.reshape(-1).tolist()),
            spacing=(step, float(in_plane[0]), float(in_plane[1])),
            slice_spacing=step,
            dimension=json.dumps(part.dimension),
            group=group,
            group_index=number,
            idc=self._judged(part.rows)[1],
        )

    # --- the stacks of a grid ---

    def _groups(self, rows: Ints) -> Iterator[list[_Part]]:
        """Rows that agree in everything exact, as groups of stacks; frames without geometry come last."""
        placed = rows[self.placed[rows]]
        if len(placed):
            for same_plane in clusters(
                placed, self.orientations[placed], self.tolerances.cosines, 0.0
            ):
                for grid in clusters(
                    same_plane, self.pixel_spacings[same_plane], 0.0, self.tolerances.pixel_spacing
                ):
                    yield from self._split(grid)
        rest = rows[~self.placed[rows]]
        if len(rest):
            clips = self._clips[rest]
            for clip in np.unique(clips):
                part = rest[clips == clip]
                yield [
                    _Part(part, remarks={"why": _WHOLE_MOSAIC} if self._mosaics[part].all() else {})
                ]

    @functools.cached_property
    def _clips(self) -> Ints:
        """(n,) numbers that tell multi-frame files apart, by instance first so that the order of files has little say; else -1."""
        by_file = combined_codes(
            [self.facts.ranks("sop_instance_uid"), self.facts.numbers("file").astype(np.int64)]
        )
        return np.where(self.facts.numbers("number_of_frames") > 1, by_file, -1)

    @functools.cached_property
    def _mosaics(self) -> npt.NDArray[np.bool_]:
        """(n,) which frames show many slices that `header` could not tell apart."""
        kinds = by_text(
            self.facts, "image_type", lambda text: int(not _MOSAICS.isdisjoint(text.split("\\")))
        )
        return np.asarray((kinds == 1) & (self.facts.numbers("coded_rows") == 0))

    @functools.cached_property
    def _derived(self) -> npt.NDArray[np.bool_]:
        """(n,) whose pixels were made of other images' (PS3.3 C.7.6.1.1.2, value 1)."""
        return by_text(
            self.facts, "image_type", lambda text: int(text.startswith("DERIVED"))
        ).astype(np.bool_)

    @functools.cached_property
    def _candidates(self) -> Candidates:
        return Candidates(self.facts)

    def _split(self, rows: Ints) -> Iterator[list[_Part]]:
        """The groups of stacks that frames of one orientation and in-plane grid make.

        In this order: segments are stacks; positions that do not repeat are one; fields of view beside each other are split; so is
        what the search tells apart; then what was derived from what was not, acquisitions that overlap, copies.
        """
        segments = self.segments[rows]
        if (segments != segments[0]).any():
            # Each segment has the slices in which it is not empty, so they need not agree (PS3.3 C.8.20.2.3.1).
            numbers = np.unique(segments)
            parts = [
                part
                for number in numbers
                for group in self._split(rows[segments == number])
                for part in group
            ]
            yield [
                _Part(
                    part.rows,
                    {"referenced_segment_number": int(self.segments[part.rows[0]])}
                    | part.dimension,
                    part.remarks,
                )
                for part in parts
            ]
            return
        places = slice_places(self.positions[rows], self.orientations[rows[0]], self.tolerances)
        if int(places.max()) + 1 == len(rows):
            yield from self._overlapping(rows, places) or [[_Part(rows)]]
            return
        beside = self._side_by_side(rows, places)
        if beside is not None:
            for part in beside:
                yield from self._split(part)
            return
        found = find_dimension(places, self._candidates.of(rows))
        derived = self._derived[rows]
        if isinstance(found, Dimension):
            yield from self._grouped(rows, places, found)
        elif isinstance(found, Tie):
            yield [_Part(rows, remarks={"told_apart_by": list(found.names)})]
        elif (derived != derived[0]).any():
            yield from self._split(rows[~derived])
            yield from self._split(rows[derived])
        else:
            yield from self._overlapping(rows, places) or self._duplicates(rows, places)

    def _grouped(self, rows: Ints, places: Ints, dimension: Dimension) -> Iterator[list[_Part]]:
        """One part for each value of the dimension, and which slices of the whole grid it lacks.

        Volumes that were derived (an ADC map among b-values) are a group of their own, if they are wholly derived: a single
        slice is called DERIVED where it was compressed, too. Volumes that have less than half of their positions in
        common with the largest one are acquisitions that overlap: each is whole in itself and a group of its own.
        """
        values, frames = self._candidates.shown(dimension, rows), members(dimension.labels)
        derived = [self._derived[rows[one]] for one in frames]
        pure = all((one == one[0]).all() for one in derived)
        kinds = [bool(one[0]) and pure for one in derived]
        for kind in sorted(set(kinds)):
            chosen = [t for t in range(dimension.count) if kinds[t] is kind]
            yield from self._on_one_grid(
                rows, places, dimension, [frames[t] for t in chosen], [values[t] for t in chosen]
            )

    def _on_one_grid(
        self,
        rows: Ints,
        places: Ints,
        dimension: Dimension,
        frames: Sequence[Ints],
        values: Sequence[dict[str, Any]],
    ) -> Iterator[list[_Part]]:
        """The volumes that lie on the grid of the largest one as a group, the others alone; see `_grouped`.

        Alone are, too, what lies on every n-th position, a thicker reconstruction of the same scan, and acquisitions of a single
        slice, which watch the contrast agent arrive. Of time points, either is one that was interrupted.
        """
        in_time = any(candidate.slow for candidate in dimension.candidates)
        watches = any(candidate.name == "acquisition_number" for candidate in dimension.candidates)
        taken = [set(places[one].tolist()) for one in frames]
        largest = max(taken, key=len)
        together = [
            2 * len(mine & largest) >= len(mine)
            and not (not in_time and is_every_nth(mine, largest))
            and not (watches and len(mine) == 1 < len(largest))
            for mine in taken
        ]
        whole = sorted(
            set().union(*(mine for mine, joins in zip(taken, together, strict=True) if joins))
        )
        group = []
        for one, mine, joins, value in zip(frames, taken, together, values, strict=True):
            if not joins:
                yield [_Part(rows[one], value)]
                continue
            missing = (
                [number for number, place in enumerate(whole) if place not in mine]
                if len(mine) < len(whole)
                else []
            )
            group.append(_Part(rows[one], value, {"missing_in_group": missing} if missing else {}))
        yield group

    def _overlapping(self, rows: Ints, places: Ints) -> list[list[_Part]]:
        """Acquisitions (reconstructions, ...) whose extents overlap on different grids, each regular by itself; else [].

        Without repeated positions, only uneven spacing or a contrast that varies makes one look for them; parts that merely
        follow one another, finer and coarser ones, stay one stack, unless the file calls them stacks (PS3.3 C.7.6.16.2.2.4).
        """
        unique = int(places.max()) + 1 == len(rows)
        found = self._assess(_Part(rows))[0]
        varies = found.detail.get("varies", [])
        if len(rows) < 2 * _FEWEST_SLICES or (
            unique and found.verdict != "uneven_spacing" and not varies
        ):
            return []
        for candidate in self._candidates.of(rows):
            if unique and found.verdict != "uneven_spacing" and candidate.name not in varies:
                continue
            labels = np.unique(candidate.codes, return_inverse=True)[1].reshape(-1)
            count = int(labels.max()) + 1
            named, many = (
                candidate.name == "stack_id",
                candidate.tier == Tier.MEANING and candidate.slow,
            )
            if candidate.tier > Tier.BOOKKEEPING or not (
                1 < count <= _MOST_ACQUISITIONS or named or many
            ):
                continue
            frames = members(labels)
            if min(map(len, frames)) < _FEWEST_SLICES or not (
                named or overlap([places[one] for one in frames])
            ):
                continue
            shown = self._candidates.shown(Dimension((candidate,), labels, count), rows)
            parts = [_Part(rows[one], value) for one, value in zip(frames, shown, strict=True)]
            if all(self._assess(part)[0].verdict in _READABLE for part in parts):
                return [[part] for part in parts]
        return []

    def _side_by_side(self, rows: Ints, places: Ints) -> list[Ints] | None:
        """Rows divided where fields of view lie beside each other in the same planes (two knees); else None."""
        axes = plane_axes(self.orientations[rows[0]], self.tolerances)
        if axes is None:
            return None
        in_plane = np.stack(
            [(self.positions[rows] * axis).sum(axis=1) for axis in axes[:2]], axis=1
        )
        order = np.argsort(places, kind="stable")
        starts = np.flatnonzero(np.diff(places[order], prepend=-1))
        spread = np.maximum.reduceat(in_plane[order], starts) - np.minimum.reduceat(
            in_plane[order], starts
        )
        if (spread <= self.tolerances.in_plane_mm).all():
            return None
        parts = list(clusters(rows, in_plane, self.tolerances.in_plane_mm, 0.0))
        most = int(np.bincount(places).max())
        return parts if 1 < len(parts) <= most else None

    # --- copies ---

    @functools.cached_property
    def _repeated_instance(self) -> npt.NDArray[np.bool_]:
        """(n,) which frames share SOP Instance UID and frame number with another one: a file that is there twice."""
        keys = combined_codes([self.facts.ranks(name) for name in _ONE_FRAME])
        return np.asarray((np.bincount(keys)[keys] > 1) & ~is_blank(self.facts, "sop_instance_uid"))

    def _without_same_instances(self, rows: Ints) -> Ints:
        """Rows without the second files of an instance. The same UID is not enough: some writers give one to all their files."""
        again = rows[self._repeated_instance[rows]]
        if len(again) == 0:
            return rows
        keys = combined_codes([*(self.facts.ranks(name)[again] for name in _ONE_FRAME)])
        where = np.nan_to_num(self.positions[again], nan=1e300)
        places = np.unique(np.column_stack([keys, where]), axis=0, return_inverse=True)[1].reshape(
            -1
        )
        return (
            rows[~np.isin(rows, self._copies(again, places))]
            if self._can_compare(len(again))
            else rows
        )

    def _duplicates(self, rows: Ints, places: Ints) -> Iterator[list[_Part]]:
        """Rows at repeated positions that nothing tells apart: equal copies are set aside, and the rest is looked at again."""
        repeated = np.bincount(places)[places] > 1
        if not self._can_compare(int(repeated.sum())):
            yield [_Part(rows, remarks={"pixels": "unchecked"})]
            return
        copies = self._copies(rows[repeated], places[repeated])
        if len(copies):
            yield from self._split(rows[~np.isin(rows, copies)])
            return
        instances = sorted(
            {self.facts.text("sop_instance_uid", int(row)) for row in rows[repeated]}
        )
        # Frames whose headers are equal in everything are put in order by their pixels, so that the order of files has no say.
        digests = np.unique(
            [self.compared.get(row, "") for row in rows.tolist()], return_inverse=True
        )[1]
        rows = rows[
            np.lexsort(
                [digests, *(self.facts.ranks(name)[rows] for name in reversed(_TIE_BREAKERS))]
            )
        ]
        yield [_Part(rows, remarks={"pixels": "different", "instances": instances[:_MOST_NAMED]})]

    def _can_compare(self, count: int) -> bool:
        return self.digest is not None and count <= _MOST_COMPARED

    def _copies(self, rows: Ints, places: Ints) -> Ints:
        """Those of the rows that hold the pixels of an earlier one at their place; what they are copies of is noted."""
        assert self.digest is not None
        first: dict[tuple[int, str], int] = {}
        copies = []
        alone = np.bincount(places)[places] == 1
        for row, place in zip(rows[~alone].tolist(), places[~alone].tolist(), strict=True):
            if row not in self.compared:
                self.compared[row] = self.digest(row)
            original = first.setdefault((place, self.compared[row] or f"unreadable {row}"), row)
            if original != row:
                self.original[row] = original
                copies.append(row)
        return np.array(copies, dtype=np.int64)
