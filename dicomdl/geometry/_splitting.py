"""Division of frames that agree in all exact keys into groups of stacks.

Orientation and in-plane grid divide the frames first, within tolerance, then the Study and the
frame of reference where these hold grids of their own (`_joining`). Where positions repeat, the
search of `_dimensions` finds the attribute that distinguishes the frames at one position: each of
its values is a stack, and all of them together are a group. Volumes of a run that moved share no
positions; `_runs` finds them, and their group says by how much they moved. Frames without position
or orientation make stacks, too: one per multi-frame instance (a clip is a unit), and one of all
single-frame files.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np

from dicomdl.arrays import Ints
from dicomdl.geometry._copies import Copies
from dicomdl.geometry._dimensions import (
    Dimension,
    Tie,
    Tier,
    find_dimension,
    is_unique,
    members,
)
from dicomdl.geometry._frame_columns import FrameColumns
from dicomdl.geometry._grouping import by_first, clusters, is_every_nth, overlap
from dicomdl.geometry._joining import Joiner
from dicomdl.geometry._judge import Judge
from dicomdl.geometry._motion import Motion
from dicomdl.geometry.grid import plane_axes
from dicomdl.geometry.one_position import one_position_remarks
from dicomdl.geometry.verdict import EVENLY_SPACED, READABLE, number_slices

# Limit of instances named in the detail of duplicates.
_MOST_NAMED: Final = 10
# Limit of acquisitions of which only some overlap without a common grid.
_MOST_ACQUISITIONS: Final = 4
# Minimum of the gap between slabs, in spacings of their slices.
_SLABS_APART: Final = 3
# Minimum of slices of an acquisition among others: two slices are always regular.
_FEWEST_SLICES: Final = 3
# Difference of direction cosines between volumes of a run: a head turns by less than 10 degrees.
_TURN: Final = 0.17
_WHOLE_MOSAIC: Final = (
    "a mosaic with tiles of unknown positions: its private header is missing or damaged"
)


@dataclass(frozen=True, slots=True)
class Part:
    """Rows of one stack, with the values that distinguish it in its group, and remarks on it."""

    rows: Ints
    dimension: dict[str, Any] = field(default_factory=dict)
    remarks: dict[str, Any] = field(default_factory=dict)


def with_remarks(part: Part, remarks: dict[str, Any]) -> Part:
    """Return a part with more remarks."""
    return replace(part, remarks=part.remarks | remarks) if remarks else part


class Splitter:
    """Division of rows by their columns, which asks for verdicts and for copies on the way."""

    def __init__(self, columns: FrameColumns, judge: Judge, copies: Copies) -> None:
        self._columns = columns
        self._judge = judge
        self._copies = copies
        self._motion = Motion(columns, judge)
        self._joiner = Joiner(columns, judge)

    def groups(self, rows: Ints) -> Iterator[list[Part]]:
        """Yield rows that agree in all exact keys as groups of stacks.

        Frames without geometry come last, in the order of the rows.
        """
        placed = rows[self._columns.placed[rows]]
        if len(placed):
            planes = list(self._columns.planes(placed))
            taken = np.zeros(0, dtype=np.int64)
            for turning, groups in self._turning(placed) if len(planes) > 1 else ():
                taken = np.concatenate([taken, turning])
                yield from groups
            for same_plane in planes:
                for grid in self._columns.grids(same_plane[~np.isin(same_plane, taken)]):
                    for part, remarks in self._joiner.placed(grid):
                        for group in self._split(self._copies.without_same_instances(part)):
                            yield [with_remarks(each, remarks) for each in group]
        rest = rows[~self._columns.placed[rows]]
        for same_study in self._joiner.unplaced(rest) if len(rest) else ():
            unique = self._copies.without_same_instances(same_study)
            for part in by_first(unique, self._columns.clips[unique]):
                yield [self._unplaced(part)]

    def _unplaced(self, rows: Ints) -> Part:
        """Return frames without geometry as one part; a grid that may be assumed gives the order.

        Slices ascend along the normal.
        """
        if self._columns.mosaics[rows].all():
            return Part(rows, remarks={"why": _WHOLE_MOSAIC})
        if not self._columns.one_position[rows].all():
            return Part(rows)
        remarks = one_position_remarks(self._columns.facts, rows)
        return Part(rows[:: -1 if remarks.get("assumed_spacing", 0) < 0 else 1], remarks=remarks)

    def _turning(self, rows: Ints) -> Iterator[tuple[Ints, list[list[Part]]]]:
        """Yield (rows, groups) of each run whose volumes differ by a small rotation."""
        columns = self._columns
        for near in columns.planes(rows, max(_TURN, columns.tolerances.cosines)):
            if len(list(columns.planes(near))) == 1 or len(list(columns.grids(near))) > 1:
                continue
            for part, remarks in self._joiner.placed(near):
                known = set(self._copies.original)
                if run := self._run(self._copies.without_same_instances(part)):
                    yield part, [[with_remarks(each, remarks) for each in group] for group in run]
                else:
                    # Frames of different orientation that are no run are no copies, either.
                    self._copies.forget_all_but(known)

    def _split(self, rows: Ints) -> Iterator[list[Part]]:
        """Yield the groups of stacks that frames of one orientation and in-plane grid make.

        The rules apply in this order. Segments are stacks. Volumes of a run that moved are a group.
        Positions that do not repeat are one stack. Fields of view side by side are separated.
        Frames are divided by the dimension that the search finds. Without one, derived images are
        separated from others, then overlapping acquisitions, then copies.
        """
        segments = self._columns.segments[rows]
        if (segments != segments[0]).any():
            # A segment has only the slices in which it is not empty, so the slices of segments
            # need not agree (PS3.3 C.8.20.2.3.1).
            numbers = np.unique(segments)
            parts = [
                part
                for number in numbers
                for group in self._split(rows[segments == number])
                for part in group
            ]
            yield [
                Part(
                    part.rows,
                    {"referenced_segment_number": int(self._columns.segments[part.rows[0]])}
                    | part.dimension,
                    part.remarks,
                )
                for part in parts
            ]
            return
        slice_numbers = number_slices(
            self._columns.positions[rows],
            self._columns.orientations[rows[0]],
            self._columns.tolerances,
        )
        if self._motion.is_possible(rows) and (run := self._run(rows)):
            yield from run
            return
        if int(slice_numbers.max()) + 1 == len(rows):
            yield from (
                self._by_contrast(rows, slice_numbers)
                or self._overlapping(rows, slice_numbers)
                or [[part] for part in self._files_apart(rows)]
            )
            return
        beside = self._side_by_side(rows, slice_numbers)
        if beside is not None:
            for part in beside:
                yield from self._split(part)
            return
        found = find_dimension(slice_numbers, self._columns.candidates.of(rows))
        if self._motion.contradicts(rows, slice_numbers, found) and (run := self._run(rows)):
            yield from run
            return
        derived = self._columns.derived[rows]
        if isinstance(found, Dimension):
            by_contrast = self._by_contrast(rows, slice_numbers) if self._mixes(rows, found) else []
            yield from by_contrast or self._grouped(rows, slice_numbers, found)
        elif isinstance(found, Tie):
            by_contrast = self._by_contrast(rows, slice_numbers) if self._counts(found) else []
            yield from by_contrast or [[Part(rows, remarks={"told_apart_by": list(found.names)})]]
        elif (derived != derived[0]).any():
            yield from self._split(rows[~derived])
            yield from self._split(rows[derived])
        else:
            yield from (
                self._by_contrast(rows, slice_numbers)
                or self._overlapping(rows, slice_numbers)
                or self._duplicates(rows, slice_numbers)
            )

    def _counts(self, tie: Tie) -> bool:
        """Whether all attributes of a tie only count, so that contrasts contradict none of them."""
        names = {name for names in tie.names for name in names.split("+")}
        return not any(self._columns.contrasts.knows(name) for name in names)

    def _mixes(self, rows: Ints, dimension: Dimension) -> bool:
        """Whether a volume of the dimension has slices of several contrasts.

        A counter may number the frames at each position, whatever they show.
        """
        return any(
            self._columns.contrasts.among(rows[volume]) is not None
            for volume in members(dimension.labels)
        )

    def _by_contrast(self, rows: Ints, slice_numbers: Ints) -> list[list[Part]]:
        """Return the groups of stacks that frames of several contrasts make, else [].

        Each contrast must be a volume by itself, three slices on an even grid: fewer slices, or
        slices that fill the holes of others, may belong to them, and the stack is reported as
        mixed. Where the contrasts are what separates repeated positions, fewer slices are enough.
        Contrasts on the same positions are one group, derived ones apart from others.
        """
        repeats = int(slice_numbers.max()) + 1 < len(rows)
        # Where positions repeat, the search for a dimension has looked at the time points.
        contrast = self._columns.contrasts.among(rows, in_time=not repeats)
        if contrast is None:
            return []
        dimension = contrast.dimension()
        frames = members(dimension.labels)
        separates = repeats and is_unique(slice_numbers, dimension.labels)
        fewest = 1 if separates else _FEWEST_SLICES
        if min(map(len, frames)) < fewest:
            return []
        copies, values = set(self._copies.original), self._columns.candidates.shown(dimension, rows)
        groups: dict[tuple[Any, ...], list[Part]] = {}
        for number, (volume, value) in enumerate(zip(frames, values, strict=True)):
            places = np.sort(slice_numbers[volume])
            within = list(self._split(rows[volume]))
            for index, group in enumerate(within):
                key: tuple[Any, ...] = (number, index)
                if len(within) == len(group) == 1:
                    key = (places.tobytes(), bool(self._columns.derived[rows[volume]].all()))
                groups.setdefault(key, []).extend(
                    Part(part.rows, value | part.dimension, part.remarks) for part in group
                )
        parts = [part for group in groups.values() for part in group]
        if self._are_volumes(parts, fewest):
            return list(groups.values())
        self._copies.forget_all_but(copies)
        return []

    def _are_volumes(self, parts: Sequence[Part], fewest: int) -> bool:
        """Whether each part is even, most of them with more than one slice."""
        alone = sum(len(part.rows) == 1 for part in parts)
        return 2 * alone < len(parts) and all(
            len(part.rows) >= fewest and self._judge.measured(part.rows).verdict in READABLE
            for part in parts
        )

    def _run(self, rows: Ints, *, damaged: bool = False) -> list[list[Part]]:
        """Return the groups of the volumes of a run among rows, with their movement, else []."""
        run = self._motion.run(rows, damaged=damaged)
        if run is None:
            return []
        groups = []
        for group in self._grouped(rows, run.slices, run.dimension):
            moved = self._motion.remarks([part.rows for part in group])
            groups.append(
                [with_remarks(part, remarks) for part, remarks in zip(group, moved, strict=True)]
            )
        return groups

    def _files_apart(self, rows: Ints) -> list[Part]:
        """Return one part, or one per mosaic: tiles of two mosaics never share a stack."""
        files = self._columns.mosaic_files[rows]
        if (files < 0).any():
            return [Part(rows)]
        return [Part(part) for part in by_first(rows, files)]

    def _grouped(
        self, rows: Ints, slice_numbers: Ints, dimension: Dimension
    ) -> Iterator[list[Part]]:
        """Yield one part per value of the dimension, with the slices that it lacks on the grid.

        Derived volumes (an ADC map among b-values) are a group of their own if all their frames are
        derived: a single slice is called DERIVED when it was compressed, too. Volumes that have
        less than half of their positions in common with the largest one are overlapping
        acquisitions: each is complete in itself and a group of its own.
        """
        values, frames = self._columns.candidates.shown(dimension, rows), members(dimension.labels)
        derived = [self._columns.derived[rows[volume]] for volume in frames]
        pure = all((flags == flags[0]).all() for flags in derived)
        kinds = [bool(flags[0]) and pure for flags in derived]
        for kind in sorted(set(kinds)):
            chosen = [t for t in range(dimension.count) if kinds[t] is kind]
            yield from self._on_one_grid(
                rows,
                slice_numbers,
                dimension,
                [frames[t] for t in chosen],
                [values[t] for t in chosen],
            )

    def _on_one_grid(
        self,
        rows: Ints,
        slice_numbers: Ints,
        dimension: Dimension,
        frames: Sequence[Ints],
        values: Sequence[dict[str, Any]],
    ) -> Iterator[list[Part]]:
        """Yield the volumes on the grid of the largest one as a group, the others as single stacks.

        The rule of half of the positions is in `_grouped`. Two more cases stay single stacks: a
        volume on every n-th position (a thicker reconstruction of the same scan), and an
        acquisition of a single slice (bolus tracking). Among time points, both mean an interrupted
        acquisition, which stays in the group.
        """
        in_time = any(candidate.slow for candidate in dimension.candidates)
        watches = any(candidate.name == "acquisition_number" for candidate in dimension.candidates)
        taken = [set(slice_numbers[volume].tolist()) for volume in frames]
        largest = max(taken, key=len)
        together = [
            2 * len(mine & largest) >= len(mine)
            and not (not in_time and is_every_nth(mine, largest))
            and not (watches and len(mine) == 1 < len(largest))
            for mine in taken
        ]
        union = sorted(
            set().union(*(mine for mine, joins in zip(taken, together, strict=True) if joins))
        )
        group = []
        for volume, mine, joins, value in zip(frames, taken, together, values, strict=True):
            if not joins:
                yield [Part(rows[volume], value)]
                continue
            missing = (
                [index for index, number in enumerate(union) if number not in mine]
                if len(mine) < len(union)
                else []
            )
            group.append(
                Part(rows[volume], value, {"missing_in_group": missing} if missing else {})
            )
        yield group

    def _overlapping(self, rows: Ints, slice_numbers: Ints) -> list[list[Part]]:
        """Return acquisitions (reconstructions, ...) that overlap on different grids, else [].

        Each must be regular by itself. Without repeated positions, the search needs a reason:
        uneven spacing, holes between slices that are too thick for it, or a contrast that varies.
        Parts that merely follow one another, one finer than the other, remain one stack, unless the
        file calls them stacks (PS3.3 C.7.6.16.2.2.4) or a wide gap shows that they are slabs.
        """
        unique = int(slice_numbers.max()) + 1 == len(rows)
        found = self._judge.assess(rows)[0]
        varies = found.detail.get("varies", [])
        uneven = found.verdict == "uneven_spacing" or (
            found.verdict == "missing_slices" and self._motion.overlap(rows, found.detail)
        )
        if len(rows) < 2 * _FEWEST_SLICES or (unique and not uneven and not varies):
            return []
        for candidate in self._columns.candidates.of(rows):
            if unique and not uneven and candidate.name not in varies:
                continue
            labels = np.unique(candidate.codes, return_inverse=True)[1].reshape(-1)
            count = int(labels.max()) + 1
            named, many = (
                candidate.name == "stack_id",
                candidate.tier == Tier.MEANING and candidate.slow,
            )
            if candidate.tier > Tier.BOOKKEEPING:
                continue
            frames = members(labels)
            # Stations of a long scan are many, and each overlaps the next one.
            chained = not named and not many and count > _MOST_ACQUISITIONS
            if min(map(len, frames)) < _FEWEST_SLICES or not (
                named
                or overlap([slice_numbers[part] for part in frames], chained=chained)
                or self._are_slabs([rows[part] for part in frames])
            ):
                continue
            shown = self._columns.candidates.shown(Dimension((candidate,), labels, count), rows)
            parts = [Part(rows[part], value) for part, value in zip(frames, shown, strict=True)]
            if all(self._judge.measured(part.rows).verdict in EVENLY_SPACED for part in parts):
                return [[part] for part in parts]
        return []

    def _are_slabs(self, parts: Sequence[Ints]) -> bool:
        """Whether parts follow one another with gaps much wider than those between their slices."""
        axes = plane_axes(self._columns.orientations[parts[0][0]], self._columns.tolerances)
        if axes is None:
            return False
        along = [self._columns.positions[part] @ axes[2] for part in parts]
        slabs = np.array(sorted((each.min(), each.max(), len(each) - 1) for each in along))
        spacings = (slabs[:, 1] - slabs[:, 0]) / slabs[:, 2]
        wider = np.maximum(spacings[1:], spacings[:-1])
        return bool((slabs[1:, 0] - slabs[:-1, 1] >= _SLABS_APART * wider).all())

    def _side_by_side(self, rows: Ints, slice_numbers: Ints) -> list[Ints] | None:
        """Divide rows where fields of view lie side by side in the same planes, else None.

        Two knees in one Series are the usual case.
        """
        axes = plane_axes(self._columns.orientations[rows[0]], self._columns.tolerances)
        if axes is None:
            return None
        in_plane = np.stack(
            [(self._columns.positions[rows] * axis).sum(axis=1) for axis in axes[:2]], axis=1
        )
        order = np.argsort(slice_numbers, kind="stable")
        starts = np.flatnonzero(np.diff(slice_numbers[order], prepend=-1))
        spread = np.maximum.reduceat(in_plane[order], starts) - np.minimum.reduceat(
            in_plane[order], starts
        )
        if (spread <= self._columns.tolerances.in_plane_mm).all():
            return None
        parts = list(clusters(rows, in_plane, self._columns.tolerances.in_plane_mm, 0.0))
        most = int(np.bincount(slice_numbers).max())
        return parts if 1 < len(parts) <= most else None

    def _duplicates(self, rows: Ints, slice_numbers: Ints) -> Iterator[list[Part]]:
        """Yield rows at repeated positions that no attribute distinguishes.

        Equal copies are set aside, and the remaining rows are divided again. Where the repeats are
        those of a few volumes of a run, these alone are duplicates.
        """
        repeated = np.bincount(slice_numbers)[slice_numbers] > 1
        compared = self._copies.can_compare(int(repeated.sum()))
        if compared:
            copies = self._copies.among(rows[repeated], slice_numbers[repeated])
            if len(copies):
                yield from self._split(rows[~np.isin(rows, copies)])
                return
        for group in self._run(rows, damaged=True) or [[Part(rows)]]:
            yield [self._with_instances(part) if compared else part for part in group]

    def _with_instances(self, part: Part) -> Part:
        """Return a part that names the instances at its repeated positions, if there are any."""
        rows, columns = part.rows, self._columns
        slice_numbers = number_slices(
            columns.positions[rows], columns.orientations[rows[0]], columns.tolerances
        )
        repeated = np.bincount(slice_numbers)[slice_numbers] > 1
        if not repeated.any():
            return part
        instances = sorted(
            {columns.facts.text("sop_instance_uid", int(row)) for row in rows[repeated]}
        )
        # The pixels order frames whose headers are equal, so that the order of files does not
        # matter.
        digests = np.unique(
            [self._copies.digests.get(row, "") for row in rows.tolist()], return_inverse=True
        )[1]
        are_known = self._copies.are_of_pixels(rows[repeated])
        pixels = "different" if are_known else "unchecked"
        told = {"pixels": pixels, "instances": instances[:_MOST_NAMED]}
        return replace(part, rows=columns.ordered(rows, digests), remarks=part.remarks | told)
