"""Frames that agree in everything exact -> groups of stacks.

First by orientation and in-plane grid within tolerance, then, where positions repeat, by what tells
the frames at one position apart (`dimensions`): each value of that is a stack, and all of them
together are a group. Frames without position or orientation make stacks, too: each multi-frame file
its own (a clip is a unit), single-frame files together.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from dicomdl.arrays import Ints
from dicomdl.geometry._copies import Copies
from dicomdl.geometry._dimensions import Dimension, Tie, Tier, find_dimension, members
from dicomdl.geometry._frame_columns import FrameColumns
from dicomdl.geometry._grouping import clusters, is_every_nth, overlap
from dicomdl.geometry._judge import Judge
from dicomdl.geometry.grid import plane_axes
from dicomdl.geometry.verdict import EVENLY_SPACED, slice_places

_MOST_NAMED: Final = 10  # instances named in the detail of duplicates
_MOST_ACQUISITIONS: Final = 4  # that overlap without a common grid
_FEWEST_SLICES: Final = 3  # of an acquisition among others: two slices are always regular
_WHOLE_MOSAIC: Final = (
    "a mosaic of slices whose places are not told: its private header is missing or damaged"
)


@dataclass(frozen=True, slots=True)
class Part:
    """The rows of one stack, what tells it from the others of its group, and what is to be said of it."""

    rows: Ints
    dimension: dict[str, Any] = field(default_factory=dict)
    remarks: dict[str, Any] = field(default_factory=dict)


class Splitter:
    """Splits rows by what their columns say, asking for verdicts and for copies on the way."""

    def __init__(self, columns: FrameColumns, judge: Judge, copies: Copies) -> None:
        self._columns = columns
        self._judge = judge
        self._copies = copies

    def groups(self, rows: Ints) -> Iterator[list[Part]]:
        """Rows that agree in everything exact, as groups of stacks.

        Frames without geometry come last.
        """
        placed = rows[self._columns.placed[rows]]
        if len(placed):
            for same_plane in clusters(
                placed, self._columns.orientations[placed], self._columns.tolerances.cosines, 0.0
            ):
                for grid in clusters(
                    same_plane,
                    self._columns.pixel_spacings[same_plane],
                    0.0,
                    self._columns.tolerances.pixel_spacing,
                ):
                    yield from self._split(grid)
        rest = rows[~self._columns.placed[rows]]
        if len(rest):
            clips = self._columns.clips[rest]
            for clip in np.unique(clips):
                part = rest[clips == clip]
                yield [
                    Part(
                        part,
                        remarks={"why": _WHOLE_MOSAIC} if self._columns.mosaics[part].all() else {},
                    )
                ]

    def _split(self, rows: Ints) -> Iterator[list[Part]]:
        """The groups of stacks that frames of one orientation and in-plane grid make.

        In this order: segments are stacks; positions that do not repeat are one; fields of view
        beside each other are split; so is what the search tells apart; then what was derived from
        what was not, acquisitions that overlap, copies.
        """
        segments = self._columns.segments[rows]
        if (segments != segments[0]).any():
            # Each segment has the slices in which it is not empty, so they need not
            # agree (PS3.3 C.8.20.2.3.1).
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
        places = slice_places(
            self._columns.positions[rows],
            self._columns.orientations[rows[0]],
            self._columns.tolerances,
        )
        if int(places.max()) + 1 == len(rows):
            yield from self._overlapping(rows, places) or [[Part(rows)]]
            return
        beside = self._side_by_side(rows, places)
        if beside is not None:
            for part in beside:
                yield from self._split(part)
            return
        found = find_dimension(places, self._columns.candidates.of(rows))
        derived = self._columns.derived[rows]
        if isinstance(found, Dimension):
            yield from self._grouped(rows, places, found)
        elif isinstance(found, Tie):
            yield [Part(rows, remarks={"told_apart_by": list(found.names)})]
        elif (derived != derived[0]).any():
            yield from self._split(rows[~derived])
            yield from self._split(rows[derived])
        else:
            yield from self._overlapping(rows, places) or self._duplicates(rows, places)

    def _grouped(self, rows: Ints, places: Ints, dimension: Dimension) -> Iterator[list[Part]]:
        """One part for each value of the dimension, and which slices of the whole grid it lacks.

        Volumes that were derived (an ADC map among b-values) are a group of their own, if they are
        wholly derived: a single slice is called DERIVED where it was compressed, too. Volumes that
        have less than half of their positions in common with the largest one are acquisitions that
        overlap: each is whole in itself and a group of its own.
        """
        values, frames = self._columns.candidates.shown(dimension, rows), members(dimension.labels)
        derived = [self._columns.derived[rows[one]] for one in frames]
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
    ) -> Iterator[list[Part]]:
        """The volumes that lie on the grid of the largest one as a group, the others alone.

        See `_grouped`.

        Alone are, too, what lies on every n-th position, a thicker reconstruction of the same scan,
        and acquisitions of a single slice, which watch the contrast agent arrive. Of time points,
        either is one that was interrupted.
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
                yield [Part(rows[one], value)]
                continue
            missing = (
                [number for number, place in enumerate(whole) if place not in mine]
                if len(mine) < len(whole)
                else []
            )
            group.append(Part(rows[one], value, {"missing_in_group": missing} if missing else {}))
        yield group

    def _overlapping(self, rows: Ints, places: Ints) -> list[list[Part]]:
        """Acquisitions (reconstructions, ...) whose extents overlap on different grids, each regular by itself; else [].

        Without repeated positions, only uneven spacing or a contrast that varies makes one look for them; parts that merely
        follow one another, finer and coarser ones, stay one stack, unless the file calls them stacks (PS3.3 C.7.6.16.2.2.4).
        """
        unique = int(places.max()) + 1 == len(rows)
        found = self._judge.assess(rows)[0]
        varies = found.detail.get("varies", [])
        if len(rows) < 2 * _FEWEST_SLICES or (
            unique and found.verdict != "uneven_spacing" and not varies
        ):
            return []
        for candidate in self._columns.candidates.of(rows):
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
            shown = self._columns.candidates.shown(Dimension((candidate,), labels, count), rows)
            parts = [Part(rows[one], value) for one, value in zip(frames, shown, strict=True)]
            if all(self._judge.assess(part.rows)[0].verdict in EVENLY_SPACED for part in parts):
                return [[part] for part in parts]
        return []

    def _side_by_side(self, rows: Ints, places: Ints) -> list[Ints] | None:
        """Rows divided where fields of view lie beside each other in the same planes (two knees).

        Else None.
        """
        axes = plane_axes(self._columns.orientations[rows[0]], self._columns.tolerances)
        if axes is None:
            return None
        in_plane = np.stack(
            [(self._columns.positions[rows] * axis).sum(axis=1) for axis in axes[:2]], axis=1
        )
        order = np.argsort(places, kind="stable")
        starts = np.flatnonzero(np.diff(places[order], prepend=-1))
        spread = np.maximum.reduceat(in_plane[order], starts) - np.minimum.reduceat(
            in_plane[order], starts
        )
        if (spread <= self._columns.tolerances.in_plane_mm).all():
            return None
        parts = list(clusters(rows, in_plane, self._columns.tolerances.in_plane_mm, 0.0))
        most = int(np.bincount(places).max())
        return parts if 1 < len(parts) <= most else None

    def _duplicates(self, rows: Ints, places: Ints) -> Iterator[list[Part]]:
        """Rows at repeated positions that nothing tells apart.

        Equal copies are set aside, and the rest is looked at again.
        """
        repeated = np.bincount(places)[places] > 1
        if not self._copies.can_compare(int(repeated.sum())):
            yield [Part(rows, remarks={"pixels": "unchecked"})]
            return
        copies = self._copies.among(rows[repeated], places[repeated])
        if len(copies):
            yield from self._split(rows[~np.isin(rows, copies)])
            return
        instances = sorted(
            {self._columns.facts.text("sop_instance_uid", int(row)) for row in rows[repeated]}
        )
        # Frames whose headers are equal in everything are put in order by their pixels,
        # so that the order of files has no say.
        digests = np.unique(
            [self._copies.digests.get(row, "") for row in rows.tolist()], return_inverse=True
        )[1]
        rows = self._columns.ordered(rows, digests)
        yield [Part(rows, remarks={"pixels": "different", "instances": instances[:_MOST_NAMED]})]
