"""Movement between the volumes of a run: when to look for it, and how large it is.

Most Series need no search (`_runs`), and none that makes one even grid gets one without a reason.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from dicomdl.arrays import Ints
from dicomdl.geometry._dimensions import Dimension, Tie, Tier, pattern_of
from dicomdl.geometry._frame_columns import FrameColumns
from dicomdl.geometry._judge import Judge
from dicomdl.geometry._runs import Places, Run, find_run, movement
from dicomdl.geometry.verdict import EVENLY_SPACED

# Minimum of frames: two volumes of three slices.
_FEWEST: Final = 6
# Thickness of slices, in spacings, from which they overlap too much for one acquisition.
_OVERLAPPING: Final = 1.9
# Difference between volumes, mm and degrees, that the detail of their stacks does not report.
_STILL_MM: Final = 1e-3
_STILL_DEG: Final = 1e-2


class Motion:
    """Search for moved volumes among rows of one in-plane grid, and their movement."""

    def __init__(self, columns: FrameColumns, judge: Judge) -> None:
        self._columns = columns
        self._judge = judge

    def is_possible(self, rows: Ints) -> bool:
        """Whether positions make no grid together.

        Positions of several volumes may make a finer grid by chance. Slices that are thicker than
        its spacing then speak for volumes that moved, and thinner ones for acquisitions that
        interleave. Tiles of two mosaics never share a stack.
        """
        if len(rows) < _FEWEST:
            return False
        detail = self._judge.measured(rows).detail
        if "spacing" not in detail:
            return False
        if "in_plane_error" in detail or ("smallest_gap" in detail and "missing" not in detail):
            return True
        if "repeated_positions" in detail:
            return False
        files = self._columns.mosaic_files[rows]
        several = files[0] >= 0 and bool((files != files[0]).any())
        return several or self.overlap(rows, detail)

    def contradicts(self, rows: Ints, slice_numbers: Ints, found: Dimension | Tie | None) -> bool:
        """Whether a dimension may mix moved volumes, which meet at some positions or at all.

        It does if it puts two mosaics into one volume. Where slices overlap, moved volumes may fill
        a finer grid: a dimension of some positions only is doubted, and a complete one if a run has
        another number of volumes. That number counts against an order of times or counters, too, if
        the run has an attribute.
        """
        files, counts = self._columns.mosaic_files[rows], np.bincount(slice_numbers)
        complete = isinstance(found, Dimension) and bool((counts == counts[0]).all())
        if (files >= 0).all():
            return not complete or (
                isinstance(found, Dimension) and pattern_of(found.labels) != pattern_of(files)
            )
        overlap = self.overlap(rows, self._judge.assess(rows)[0].detail)
        if not complete or not isinstance(found, Dimension):
            return overlap
        if not overlap and any(
            each.tier <= Tier.BOOKKEEPING and each.kind != "phase" for each in found.candidates
        ):
            return False
        run = self.run(rows, damaged=False)
        if run is None or run.dimension.count == found.count:
            return False
        return overlap or all(each.tier <= Tier.BOOKKEEPING for each in run.dimension.candidates)

    def overlap(self, rows: Ints, detail: Mapping[str, Any]) -> bool:
        """Whether slices are about twice as thick as their spacing, or thicker."""
        thickness = float(self._columns.thickness[rows[0]])
        return thickness >= _OVERLAPPING * float(detail.get("spacing", math.inf))

    def run(self, rows: Ints, *, damaged: bool) -> Run | None:
        """Return the run that `find_run` finds among rows."""
        columns = self._columns
        files = columns.mosaic_files[rows]
        tiled = bool((files >= 0).all()) and bool((files != files[0]).any())
        sides = np.array(self._size(rows)) * columns.pixel_spacings[rows[0]]
        places = Places(
            columns.positions[rows],
            columns.orientations[rows],
            float(sides.max()),
            np.unique(files, return_inverse=True)[1].reshape(-1) if tiled else None,
            bool((columns.facts.numbers("number_of_frames")[rows] > 1).all()),
            columns.facts.ranks("in_stack_position_number")[rows],
        )
        return find_run(places, columns.candidates.of(rows), columns.tolerances, damaged=damaged)

    def remarks(self, group: Sequence[Ints]) -> list[dict[str, float]]:
        """Return the entries for the detail of each stack of a group, given the rows of each.

        They are the movement of whole volumes against the first one, if any of them moved.
        """
        grids = [self._judge.measured(rows) for rows in group]
        most = max(map(len, group))
        whole = [len(grid.order) == most and grid.verdict in EVENLY_SPACED for grid in grids]
        nothing: list[dict[str, float]] = [{} for _ in group]
        if not any(whole):
            return nothing
        shape = (most, *self._size(group[0]))
        first = grids[whole.index(True)].affine
        moves = [
            movement(first, grid.affine, shape) if is_whole else None
            for grid, is_whole in zip(grids, whole, strict=True)
        ]
        if all(move is None or move[0] <= _STILL_MM for move in moves):
            return nothing
        return [{} if move is None else _as_remarks(*move) for move in moves]

    def _size(self, rows: Ints) -> tuple[int, int]:
        """Return the number of rows and columns of a frame."""
        facts, first = self._columns.facts, int(rows[0])
        return int(facts.numbers("rows")[first]), int(facts.numbers("columns")[first])


def _as_remarks(distance_mm: float, angle_deg: float) -> dict[str, float]:
    """Return the movement of a stack as entries of its detail."""
    angle = {"rotation_deg": round(angle_deg, 3)} if angle_deg > _STILL_DEG else {}
    return {"movement_mm": round(distance_mm, 4), **angle}
