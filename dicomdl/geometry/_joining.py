"""Frames that different Study or Frame of Reference UIDs divide although they make one grid.

A Series has one frame of reference and belongs to one Study (PS3.3 C.7.4.1.1.1, A.1.2.3), so UIDs
that differ within a Series are a contradiction. Positions resolve it:

- A UID that holds a grid of its own, three or more evenly spaced positions, is believed. Two
  positions are always even, so they prove nothing. Where these grids make one together, positions
  and UIDs contradict each other, and the remark `one_grid` calls a person.
- A blank UID is unknown. One UID per position, in three positions or more, is none: the software
  that replaced it made a new one per file. Such frames are joined as if all UIDs were equal.
- Other UIDs are joined if all positions together are evenly spaced, at most one of the UIDs holds
  a grid of its own, and they share no position: a volume with a hole is not the time point of
  another one.
- Frames that complete one of several grids, filling its holes or continuing it, join this one.

Without a position, UIDs of frames of reference have no meaning, and Studies are joined if they
differ from file to file.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from dicomdl.arrays import Ints
from dicomdl.geometry._dimensions import Dimension, find_dimension
from dicomdl.geometry._frame_columns import FrameColumns
from dicomdl.geometry._judge import Judge
from dicomdl.geometry.grid import plane_axes
from dicomdl.geometry.identities import COUNTED, DIVIDING, FEWEST_VALUES
from dicomdl.geometry.verdict import EVENLY_SPACED, number_slices

# Minimum of positions of a grid, and of UIDs that differ from position to position.
_FEWEST: Final = FEWEST_VALUES
_STUDY: Final = "study_instance_uid"
_Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class _Classes:
    """Rows divided by one identifier: `labels` (rows,) number its values, `known` are not blank.

    `slices` (rows,) number the positions along the normal.
    """

    rows: Ints
    slices: Ints
    labels: Ints
    known: Ints

    def of(self, label: int) -> Ints:
        """Return the indices into `rows` of one value."""
        return np.flatnonzero(self.labels == label)

    @property
    def positions(self) -> Ints:
        """(labels,) number of positions of each value."""
        count = int(self.slices.max()) + 1
        pairs = np.unique(self.labels * count + self.slices) // count
        return np.asarray(np.bincount(pairs, minlength=int(self.labels.max()) + 1))

    @property
    def singles(self) -> Ints:
        """The labels of the known values with one position."""
        return np.asarray(self.known[self.positions[self.known] == 1])

    @property
    def are_apart(self) -> bool:
        """Whether no position belongs to two values."""
        return int(self.positions.sum()) == int(self.slices.max()) + 1


class Joiner:
    """Division of rows of one orientation and in-plane grid by Study and frame of reference."""

    def __init__(self, columns: FrameColumns, judge: Judge) -> None:
        self._columns = columns
        self._judge = judge

    def placed(self, rows: Ints) -> list[tuple[Ints, dict[str, Any]]]:
        """Divide frames with a position; returns rows in their order, with remarks on them."""
        parts: list[tuple[Ints, dict[str, Any]]] = [(rows, {})]
        if not self._columns.identities.vary(int(rows[0])):
            return parts
        for name in DIVIDING:
            parts = [
                (part, remarks | more)
                for whole, remarks in parts
                for part, more in self._divided(name, whole)
            ]
        return parts

    def unplaced(self, rows: Ints) -> list[Ints]:
        """Divide frames without a position by their Study, unless it differs from file to file."""
        if not self._columns.identities.vary(int(rows[0])):
            return [rows]
        study = self._columns.identities.columns[_STUDY]
        labels = np.unique(study.codes[rows], return_inverse=True)[1].reshape(-1)
        files = np.unique(
            self._columns.facts.ranks("sop_instance_uid")[rows] * len(labels) + labels
        )
        known = len(np.unique(labels[~study.blank[rows]]))
        per_file = known >= _FEWEST and len(files) == int(labels.max()) + 1
        if known <= 1 or (per_file and not self._is_doubtful(_STUDY, rows)):
            return [rows]
        return [rows[labels == label] for label in range(int(labels.max()) + 1)]

    def _divided(self, name: str, rows: Ints) -> Iterator[tuple[Ints, dict[str, Any]]]:
        identity = self._columns.identities.columns[name]
        codes, blank = identity.codes[rows], identity.blank[rows]
        if (codes == codes[0]).all():
            yield rows, {}
            return
        labels = np.unique(codes, return_inverse=True)[1].reshape(-1)
        slices = number_slices(
            self._columns.positions[rows],
            self._columns.orientations[rows[0]],
            self._columns.tolerances,
        )
        classes = _Classes(rows, slices, labels, np.unique(labels[~blank]))
        grids = [
            label
            for label in self._long(classes)
            if self._verdict(classes, classes.of(label)) in EVENLY_SPACED
        ]
        if len(grids) <= 1 and self._are_one(name, classes, grids):
            yield rows, {}
            return
        yield from self._completed(name, classes)

    def _are_one(self, name: str, classes: _Classes, grids: Sequence[int]) -> bool:
        """Whether the values tell nothing apart; `grids` are those with a grid of their own."""
        if not grids and not self._is_doubtful(name, classes.rows):
            if len(classes.known) >= _FEWEST and len(classes.singles) == len(classes.known):
                return True
            if len(classes.known) == 1:
                return self._are_told_apart(classes)
        everything = np.arange(len(classes.rows))
        return self._verdict(classes, everything) in EVENLY_SPACED and self._are_told_apart(classes)

    def _are_told_apart(self, classes: _Classes) -> bool:
        """Whether the values share no position, or something else tells their frames there apart.

        Two known values share none if one of them has a volume.
        """
        if classes.are_apart:
            return True
        if len(classes.known) > 1 and self._long(classes):
            return False
        candidates = self._columns.candidates.of(classes.rows)
        return isinstance(find_dimension(classes.slices, candidates), Dimension)

    def _is_doubtful(self, name: str, rows: Ints) -> bool:
        """Whether only the Series Instance UID says that frames of several Studies belong together.

        The PatientID is blank, and careless writers use one Series Instance UID again and again.
        """
        return name == _STUDY and bool(
            self._columns.identities.columns["patient_id"].blank[rows].any()
        )

    def _long(self, classes: _Classes) -> list[int]:
        """Return the known values with at least three positions."""
        positions = classes.positions[classes.known]
        return [int(label) for label in classes.known[positions >= _FEWEST]]

    def _verdict(self, classes: _Classes, members: Ints) -> str:
        """Return the verdict on the distinct positions of some rows, "" for less than three."""
        first = members[np.unique(classes.slices[members], return_index=True)[1]]
        if len(first) < _FEWEST:
            return ""
        return self._judge.measured(classes.rows[first]).verdict

    def _completed(self, name: str, classes: _Classes) -> Iterator[tuple[Ints, dict[str, Any]]]:
        """Yield one part per value, with the frames of others that complete its grid alone."""
        grids = {
            label: np.zeros(len(classes.rows), dtype=bool)
            for label in self._long(classes)
            if self._verdict(classes, classes.of(label)) in EVENLY_SPACED | {"missing_slices"}
        }
        loose = ~np.isin(classes.labels, list(grids))
        for label in grids if loose.any() else ():
            grids[label] = self._completing(classes, classes.of(label), np.flatnonzero(loose))
        fits = np.sum(list(grids.values()), axis=0) if grids else np.zeros(len(loose), dtype=int)
        labels = classes.labels.copy()
        for label, completing in grids.items():
            alone = completing & (fits == 1)
            # A UID is one decision for all of its frames, a blank one per frame.
            whole = np.isin(classes.labels, classes.known) & np.isin(
                classes.labels, classes.labels[loose & ~alone]
            )
            labels[alone & ~whole] = label
        alone = np.isin(labels, classes.singles)
        if len(np.unique(labels[alone])) >= _FEWEST and not self._is_doubtful(name, classes.rows):
            labels[alone] = labels[alone].min()
        apart = int(np.isin(np.unique(labels), classes.known).sum())
        divided: dict[str, Any] = {COUNTED[name].apart: apart} if apart > 1 else {}
        if self._make_one_grid(classes):
            divided["one_grid"] = True
        for label in np.unique(labels):
            remarks = divided
            if label not in classes.known:
                remarks = {"unassigned": name}
            yield classes.rows[labels == label], remarks

    def _make_one_grid(self, classes: _Classes) -> bool:
        """Whether the values divide one grid, and no contrast confirms the division."""
        everything = np.arange(len(classes.rows))
        return (
            classes.are_apart
            and self._verdict(classes, everything) in EVENLY_SPACED
            and self._columns.contrasts.among(classes.rows) is None
        )

    def _completing(self, classes: _Classes, members: Ints, others: Ints) -> _Mask:
        """Mask of rows: those of `others` that fill holes of the grid of `members` or continue it.

        A position that several of the others share completes nothing.
        """
        mask = np.zeros(len(classes.rows), dtype=bool)
        first = members[np.unique(classes.slices[members], return_index=True)[1]]
        affine = self._judge.measured(classes.rows[first]).affine
        axes = plane_axes(self._columns.orientations[classes.rows[0]], self._columns.tolerances)
        assert axes is not None
        step, spacing = affine[:3, 0], float(affine[:3, 0] @ axes[2])
        moved = self._columns.positions[classes.rows] - affine[:3, 3]
        located = moved @ axes[2] / spacing
        numbers = np.rint(located).astype(np.int64)
        beside = moved - np.outer(located, step)
        tolerances = self._columns.tolerances
        on_grid = (np.abs(located - numbers) * spacing <= tolerances.position(spacing)) & (
            np.sqrt((beside**2).sum(axis=1)) <= tolerances.in_plane_mm
        )
        near = others[on_grid[others]]
        values, counts = np.unique(numbers[near], return_counts=True)
        taken = set(numbers[members].tolist())
        free = set(values[counts == 1].tolist()) - taken
        lowest, highest = min(taken), max(taken)
        while highest + 1 in free:
            highest += 1
        while lowest - 1 in free:
            lowest -= 1
        chosen = np.isin(numbers[near], list(free)) & (numbers[near] >= lowest)
        mask[near[chosen & (numbers[near] <= highest)]] = True
        return mask
