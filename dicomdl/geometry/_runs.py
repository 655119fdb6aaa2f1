"""Search for the volumes of a run that share no grid: the head moved, or one volume is damaged.

`_dimensions` compares frames at equal positions. Here positions of volumes may differ (prospective
motion correction, b = 0 volumes measured elsewhere), so an attribute counts by what it makes: most
of its values must each be a whole volume, with equally many slices of equal spacing, that overlaps
the others by more than half. Acquisitions of other regions (stations, slabs of a spine, two knees)
lie farther apart and are no run.

A search is strict first: every volume is whole, but for one that was interrupted. Only the caller
that has no other answer allows damaged volumes, which become members with a verdict of their own.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import numpy.typing as npt

from dicomdl.arrays import Floats, Ints
from dicomdl.geometry._dimensions import (
    MOST_TOGETHER,
    Candidate,
    Dimension,
    Tier,
    begins_there,
    dense_codes,
    mixed_codes,
    pattern_of,
)
from dicomdl.geometry.grid import Tolerances

# Minimum of slices of a volume; two slices are always regular. A file that holds a whole volume
# needs no such evidence.
_FEWEST_SLICES: Final = 3
_FEWEST_TILES: Final = 2
# Minimum of whole volumes among all, where some may be damaged. An attribute of the measurement
# itself (echo, b-value, time point) needs less support than a counter.
_WHOLE_BY_MEANING: Final = 0.5
_WHOLE: Final = 0.75
# Largest movement, as a fraction of the extent of a volume.
_FARTHEST: Final = 0.5
# Largest distance from the grid of another volume, in spacings, where volumes are damaged.
_ON_GRID: Final = 0.2
# Attributes of planned positions: volumes that differ in one of them are no run.
_PLANNED: Final = frozenset({"stack_id", "detector_vector", "rotation_vector", "slice_thickness"})


@dataclass(frozen=True, slots=True, eq=False)
class Places:
    """Where n frames of one in-plane grid lie.

    Attributes
    ----------
    positions, orientations
        (n, 3) LPS mm and (n, 6) cosines.
    field_mm
        The longer side of the image plane, mm.
    files
        (n,) number of the file of each frame if every file holds a whole volume (a mosaic), else
        None.
    several_per_file
        Whether files hold several frames each.
    slices
        (n,) codes of the slice numbers that the files state within their stacks, if they do.
    """

    positions: Floats
    orientations: Floats
    field_mm: float
    files: Ints | None
    several_per_file: bool
    slices: Ints


@dataclass(frozen=True, slots=True, eq=False)
class Run:
    """Volumes of one run: their dimension, and (n,) the slice number of each frame in its volume.

    Slices of equal number are the same slice of different volumes.
    """

    dimension: Dimension
    slices: Ints


def find_run(
    places: Places,
    candidates: Sequence[Candidate],
    tolerances: Tolerances,
    *,
    damaged: bool = False,
) -> Run | None:
    """Find the volumes of a run whose positions differ, None where no attribute tells them apart.

    With `damaged`, some volumes may be damaged: repeated positions, lost slices. Of two attributes
    that make different volumes, neither is taken.
    """
    search = _Search(places, tolerances, damaged=damaged)
    forms: list[Candidate] = []
    seen: set[bytes] = set()
    for tier in Tier:
        added = len(forms)
        for form in candidates:
            labels = dense_codes(form.codes)
            if form.tier == tier and search.may_help(form, labels):
                if (key := pattern_of(labels)) not in seen:
                    forms.append(replace(form, codes=labels))
                seen.add(key)
        found = search.smallest(forms, added)
        if found is None and not damaged:
            found = next(search.passes(candidates, tier), None)
        if found is not None:
            return found if isinstance(found, Run) else None
    return None


class _Search:
    """The test of labels for the frames of one call of `find_run`."""

    def __init__(self, places: Places, tolerances: Tolerances, *, damaged: bool) -> None:
        self._places = places
        self._tolerances = tolerances
        self._damaged = damaged
        self._files = None if places.files is None else pattern_of(places.files)
        self._fewest = _FEWEST_SLICES if places.files is None else _FEWEST_TILES
        self._normals = _crossed(places.orientations)

    def may_help(self, form: Candidate, labels: Ints) -> bool:
        """Whether an attribute can be part of a dimension.

        It has few values, constant per mosaic, and does not number slices, stacks or files.
        """
        count = int(labels.max()) + 1
        files, places = self._places.files, self._places
        if form.name in _PLANNED or pattern_of(labels) == pattern_of(places.slices):
            return False
        if files is not None:
            whole = len(np.unique(mixed_codes([files, labels]))) == int(files.max()) + 1
            return count > 1 and whole
        # As in `passes`, equal counters make no volume.
        if form.kind == "count" and not places.several_per_file:
            return False
        return 1 < count <= len(labels) // self._fewest + self._damaged

    def smallest(self, forms: Sequence[Candidate], added: int) -> Run | str | None:
        """Find the smallest combination with a form from number `added` on; "tie" if several."""
        for size in range(1, MOST_TOGETHER + 1):
            found: dict[bytes, Run] = {}
            for chosen in itertools.combinations(range(len(forms)), size):
                if chosen[-1] < added:
                    continue
                together = sorted((forms[i] for i in chosen), key=lambda form: not form.slow)
                labels = dense_codes(mixed_codes([form.codes for form in together]))
                key = pattern_of(labels)
                if key in found:
                    continue
                by_meaning = all(form.tier == Tier.MEANING for form in together)
                slices = self._slices(labels, key, by_meaning=by_meaning)
                if slices is not None:
                    dimension = Dimension(tuple(together), labels, int(labels.max()) + 1)
                    found[key] = Run(dimension, slices)
            if found:
                return next(iter(found.values())) if len(found) == 1 else "tie"
        return None

    def passes(self, candidates: Sequence[Candidate], tier: Tier) -> Iterator[Run]:
        """Yield the run whose volumes follow one another in the order of a time or count.

        Of several sizes, the largest counts: halves of a volume acquired odd slices first look
        whole, too.
        """
        total = len(self._places.positions)
        for candidate in candidates:
            if candidate.kind not in ("time", "count") or self._places.files is not None:
                continue
            if tier != max(candidate.tier, Tier.ACQUISITION_ORDER):
                continue
            # Counters of files begin anew at each station.
            if candidate.kind == "count" and len(np.unique(candidate.codes)) < total:
                continue
            order = np.lexsort([self._along(0, slice(None)), candidate.codes])
            for size in range(total // 2, self._fewest - 1, -1):
                if total % size:
                    continue
                labels = np.empty(total, dtype=np.int64)
                labels[order] = np.arange(total) // size
                slices = self._slices(labels, b"", by_meaning=False)
                if slices is None:
                    continue
                one_pass = slices[order[:size]]
                alike = (slices[order] == np.resize(one_pass, total)).all()
                if alike and begins_there(one_pass, candidate, order, size):
                    form = replace(candidate, codes=labels)
                    yield Run(Dimension((form,), labels, total // size), slices)
                    break

    def _along(self, row: int, rows: Ints | slice) -> Floats:
        """Return positions of rows along the normal of one row, mm."""
        return np.asarray((self._places.positions[rows] * self._normals[row]).sum(axis=-1))

    def _slices(self, labels: Ints, key: bytes, *, by_meaning: bool) -> Ints | None:
        """Return (n,) slice numbers if the labels make the volumes of a run, else None."""
        if self._files is not None and key != self._files:
            return None
        sizes = np.bincount(labels)
        size = int(np.bincount(sizes).argmax())
        full = np.flatnonzero(sizes == size)
        share = len(full) / len(sizes)
        required = _WHOLE_BY_MEANING if by_meaning and self._damaged else _WHOLE
        if size < self._fewest or share < required or not (self._damaged or len(full) > 1):
            return None
        order = np.lexsort([self._projected(labels), labels])
        starts = np.concatenate([[0], np.cumsum(sizes)])
        rows = order[starts[full][:, None] + np.arange(size)]
        whole = self._whole(rows)
        if not whole.any():
            return None
        first = rows[np.argmax(whole)]
        whole &= self._near(rows, first)
        others = [order[starts[t] : starts[t + 1]] for t in np.flatnonzero(sizes != size)]
        if not self._damaged:
            if not whole.all() or len(others) > 1 or any(len(rest) > size for rest in others):
                return None
        elif whole.sum() < required * len(sizes) or not self._on_one_grid(labels, first):
            return None
        slices = np.empty(len(labels), dtype=np.int64)
        slices[rows] = np.arange(size)
        for rest in [*others, *rows[~whole]]:
            numbers, on_grid = self._numbered(rest, first)
            if not on_grid and not self._damaged:
                return None
            slices[rest] = numbers
        return slices

    def _projected(self, labels: Ints) -> Floats:
        """Return (n,) positions along the normal of the first frame of each volume, mm."""
        first = np.unique(labels, return_index=True)[1]
        return np.asarray((self._places.positions * self._normals[first][labels]).sum(axis=1))

    def _whole(self, rows: Ints) -> npt.NDArray[np.bool_]:
        """Mask, (k,), of the volumes of `rows`, (k, size) in slice order, that are regular grids.

        All have the spacing of the median.
        """
        limits, size = self._tolerances, rows.shape[1]
        first = rows[:, 0]
        points = self._places.positions[rows]
        along = (points * self._normals[first][:, None]).sum(axis=2)
        step = (along[:, -1] - along[:, 0]) / (size - 1)
        even = along[:, :1] + step[:, None] * np.arange(size)
        # Twice the tolerance: the best grid is better than the one through both ends.
        off = np.array([2 * limits.position(abs(float(each))) for each in step])
        fraction = np.linspace(0, 1, size)[:, None]
        line = points[:, :1] + fraction * (points[:, -1:] - points[:, :1])
        aside = np.sqrt(((points - line) ** 2).sum(axis=2)).max(axis=1)
        turned = np.abs(
            self._places.orientations[rows] - self._places.orientations[first][:, None]
        ).max(axis=(1, 2))
        whole = (
            (np.abs(along - even).max(axis=1) <= off)
            & (step > limits.same_position_mm)
            & (aside <= np.maximum(off, limits.in_plane_mm))
            & (turned <= limits.cosines)
        )
        if not whole.any():
            return np.asarray(whole)
        usual = float(np.median(step[whole]))
        alike = np.abs(step - usual) * (size - 1) <= 2 * limits.position(usual)
        return np.asarray(whole & alike)

    def _near(self, rows: Ints, first: Ints) -> npt.NDArray[np.bool_]:
        """Mask, (k,), of the volumes that overlap the one of rows `first` by more than half."""
        middles = self._places.positions[rows].mean(axis=1)
        moved = middles - self._places.positions[first].mean(axis=0)
        along = np.abs(moved @ self._normals[first[0]])
        in_plane = np.sqrt(np.maximum((moved**2).sum(axis=1) - along**2, 0))
        extent = np.abs(np.diff(self._along(int(first[0]), first[[0, -1]])))[0]
        depth = extent * len(first) / (len(first) - 1)
        return np.asarray(
            (along < _FARTHEST * depth) & (in_plane < _FARTHEST * self._places.field_mm)
        )

    def _on_one_grid(self, labels: Ints, first: Ints) -> bool:
        """Whether most frames of every volume lie near slices of the grid of the rows `first`.

        Parts of one volume that interleave, of which one is damaged, do not.
        """
        along = self._along(int(first[0]), slice(None))
        step = (along[first[-1]] - along[first[0]]) / (len(first) - 1)
        located = (along - along[first[0]]) / step
        near = np.abs(located - np.rint(located)) <= _ON_GRID
        return bool((np.bincount(labels, near) >= _WHOLE * np.bincount(labels)).all())

    def _numbered(self, rest: Ints, first: Ints) -> tuple[Ints, bool]:
        """Return the slice numbers of a damaged volume, and whether it has a grid with holes.

        Numbers count from the place of slice 0 of the volume of rows `first`; a volume that reaches
        beyond its ends is moved inside.
        """
        along = self._along(int(rest[0]), rest)
        row = int(first[0])
        origin, last = self._along(row, first[[0, -1]])
        step = (last - origin) / (len(first) - 1)
        from_first = (along - along.min()) / step
        numbers = np.rint(from_first).astype(np.int64)
        error = float(np.abs(from_first - numbers).max()) * step
        shift = int(np.rint((along.min() - origin) / step))
        shift = min(max(shift, 0), max(len(first) - 1 - int(numbers.max()), 0))
        on_grid = (
            error <= 2 * self._tolerances.position(float(step))
            and len(np.unique(numbers)) == len(rest)
            and int(numbers.max()) < len(first)
        )
        return numbers + shift, on_grid


def _crossed(orientations: Floats) -> Floats:
    """Return (n, 3) unit normals of (n, 6) orientations."""
    normals = np.cross(orientations[:, :3], orientations[:, 3:])
    return np.asarray(normals / np.sqrt((normals**2).sum(axis=1, keepdims=True)))


def movement(affine: Floats, other: Floats, shape: tuple[int, int, int]) -> tuple[float, float]:
    """Return (mm, degrees) between two grids of one shape.

    The distance is the largest of any voxel, which is that of a corner; the angle is between their
    row and column directions.
    """
    corners = np.array(list(itertools.product((0, 1), repeat=3))) * (np.array(shape) - 1)
    apart = corners @ (other - affine)[:3, :3].T + (other - affine)[:3, 3]
    directions = [
        each[:3, 1:3] / np.sqrt((each[:3, 1:3] ** 2).sum(axis=0)) for each in (affine, other)
    ]
    first, second = (
        np.column_stack([*axes.T, np.cross(axes[:, 1], axes[:, 0])]) for axes in directions
    )
    # The difference of two rotations has the norm 2 sqrt(2) sin(angle / 2).
    sine = float(np.sqrt(((second - first) ** 2).sum() / 8))
    return float(np.sqrt((apart**2).sum(axis=1)).max()), float(
        np.degrees(2 * np.arcsin(min(1.0, sine)))
    )
