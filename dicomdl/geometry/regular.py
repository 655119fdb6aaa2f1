"""Slices that make no grid -> the regular grid that they belong to.

Which slices are kept, which lie between which. Pure numpy.

Holes are filled and uneven gaps are evened out along the line of the positions, which a tilt leaves
oblique: neighbours are mixed pixel by pixel, so the shear stays in the affine, exact, and nothing
is ever taken from outside of two neighbours.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from dicomdl.arrays import Floats
from dicomdl.errors import GeometryError
from dicomdl.geometry.grid import Geometry, Tolerances

MAX_VOXELS: Final = 2**33  # of a grid that is made, not read: 16 GiB of int16


@dataclass(frozen=True, slots=True, eq=False)
class RegularSlices:
    """A regular grid, and where each of its slices lies among those that were read.

    Slice j of the grid lies `fraction[j]` (float64, in [0, 1)) of the way from slice `lower[j]`
    (int64) to the one after it; 0 means that it is slice `lower[j]`. `places` (float64) is where
    the slices that were read lie, in slices of the grid.
    """

    geometry: Geometry
    places: Floats
    lower: npt.NDArray[np.int64]
    fraction: Floats

    @property
    def filled(self) -> npt.NDArray[np.bool_]:
        """(slices of the grid,) True for those that no file holds."""
        return self.fraction > 0

    def values(self, slices: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """The slices of the grid from those that were read, (slices, rows, columns[, samples]), in a new array of the same dtype.

        Mixed linearly in float64, integers rounded to the nearest.
        """
        result = np.empty((len(self.lower), *slices.shape[1:]), slices.dtype)
        for target, first, fraction in zip(
            result, self.lower.tolist(), self.fraction.tolist(), strict=True
        ):
            if fraction == 0:
                target[...] = slices[first]
                continue
            mixed = slices[first] * np.float64(1 - fraction) + slices[first + 1] * np.float64(
                fraction
            )
            target[...] = mixed if slices.dtype.kind == "f" else np.rint(mixed, out=mixed)
        return result

    def labels(self, slices: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """The slices of the grid for labels, which cannot be mixed.

        The one that was read within half a slice, else background, 0.

        Where a segmentation has no frame there is nothing of the segment: writers leave empty
        frames out.
        """
        near = np.abs(np.arange(len(self.lower)) - self.places[self._nearest]) <= 0.5
        result = self.nearest(slices)
        result[~near] = 0
        return result

    def nearest(self, slices: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """The nearest of the slices that were read, however far, for each slice of the grid, in a new array."""
        return np.asarray(slices[self._nearest])

    @property
    def _nearest(self) -> npt.NDArray[np.int64]:
        return self.lower + np.rint(self.fraction).astype(np.int64)


def is_worth_filling(slices: int, detail: Mapping[str, Any]) -> bool:
    """Whether the grid that `regular_slices` would make has at most twice as many slices as there are, by the numbers of a verdict."""
    if "median_gap" not in detail or "missing" in detail:
        return True
    return bool(
        detail["spacing"] * (slices - 1) / max(detail["median_gap"], 1e-6) + 1 <= 2 * slices
    )


def regular_slices(
    positions: Floats, geometry: Geometry, verdict: str, tolerances: Tolerances
) -> RegularSlices:
    """The grid that slices of the verdict `missing_slices` or `uneven_spacing` belong to.

    Missing slices: every slice keeps its place on the grid of the true spacing. Uneven spacing: the
    spacing is the median gap, the grid begins with the first slice and ends with the last whole
    step, less than one step before the last slice: what lies beyond is left out rather than
    invented. A slice closer to its place than `tolerances.same_position_mm` (and than 10 % of the
    spacing) is kept as it is.

    Parameters
    ----------
    positions
        (slices, 3) LPS mm, ascending along the normal, on one line.
    geometry
        Of the stack: its step is the true one for missing slices, and the mean one for uneven
        spacing.

    Raises
    ------
    GeometryError
        The median gap is so small that the grid would be too large.
    """
    normal = np.cross(geometry.direction[:, 2], geometry.direction[:, 1])
    projected = (positions - positions[0]) @ normal
    if verdict == "missing_slices":
        spacing = float(geometry.affine[:3, 0] @ normal)
        places = np.concatenate([[0.0], np.cumsum(np.rint(np.diff(projected) / spacing))])
    else:
        spacing = float(np.median(np.diff(projected)))
        places = projected / spacing
    require_possible((math.ceil(places[-1]) + 1, *geometry.shape[1:]))
    lower, fraction = _neighbours(places, min(tolerances.same_position_mm / spacing, 0.1))
    affine = geometry.affine.copy()
    affine[:3, 0] = (positions[-1] - positions[0]) / places[-1]
    return RegularSlices(
        Geometry((len(lower), *geometry.shape[1:]), affine), places, lower, fraction
    )


def require_possible(shape: tuple[int, int, int]) -> None:
    """Raise a GeometryError for a grid of more than `MAX_VOXELS`."""
    if math.prod(shape) > MAX_VOXELS:
        raise GeometryError(
            f"a grid of {' x '.join(map(str, shape))} voxels is too large",
            voxels=math.prod(shape),
            limit=MAX_VOXELS,
        )


def _neighbours(places: Floats, tolerance: float) -> tuple[npt.NDArray[np.int64], Floats]:
    """For the places 0, 1, 2, ... up to the last one.

    The slice at or before it, and how far on to the next one, 0 within tolerance.
    """
    grid = np.arange(math.floor(places[-1] + tolerance) + 1, dtype=np.float64)
    lower = np.searchsorted(places, grid + tolerance, side="right") - 1
    upper = np.minimum(lower + 1, len(places) - 1)
    beyond = grid - places[lower]
    # behind the last slice nothing is more than the tolerance, but for rounding
    between = (beyond > tolerance) & (lower < len(places) - 1)
    gaps = np.where(between, places[upper] - places[lower], 1.0)
    return lower.astype(np.int64), np.where(between, beyond / gaps, 0.0)
