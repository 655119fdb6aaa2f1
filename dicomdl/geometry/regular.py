"""Regular grids for stacks with missing slices or uneven spacing, in pure NumPy.

Holes are filled and uneven gaps evened out along the line of the positions, which a gantry tilt
leaves oblique. Neighbouring slices are mixed pixel by pixel, so the affine contains the exact
shear, and no value is extrapolated.
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

# Limit of voxels of a computed grid: 16 GiB of int16.
MAX_VOXELS: Final = 2**33


@dataclass(frozen=True, slots=True, eq=False)
class RegularSlices:
    """A regular grid, and the location of each of its slices among the slices that were read.

    Slice j of the grid lies `fraction[j]` (float64, in [0, 1)) of the way from slice `lower[j]`
    (int64) to the next one; 0 means that it is slice `lower[j]`. `located` (float64) are the
    locations of the slices that were read, in slices of the grid.
    """

    geometry: Geometry
    located: Floats
    lower: npt.NDArray[np.int64]
    fraction: Floats

    @property
    def filled(self) -> npt.NDArray[np.bool_]:
        """Mask of the grid's slices, (slices,), that are in no file."""
        return self.fraction > 0

    def values(self, slices: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Compute the slices of the grid by linear interpolation.

        Takes the slices that were read, (slices, rows, columns[, samples]), and returns a new array
        of the same dtype. Slices are mixed in float64, and integers rounded to the nearest.
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
        """Select the slices of the grid for labels, which cannot be mixed, as a new array.

        Each is the nearest slice within half a slice, else background, 0: writers leave out empty
        frames, so a segmentation has nothing of the segment where it has no frame.
        """
        near = np.abs(np.arange(len(self.lower)) - self.located[self._nearest]) <= 0.5
        result = self.nearest(slices)
        result[~near] = 0
        return result

    def nearest(self, slices: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Select the nearest slice that was read for each slice of the grid, as a new array."""
        return np.asarray(slices[self._nearest])

    @property
    def _nearest(self) -> npt.NDArray[np.int64]:
        """Number of the nearest slice that was read, per slice of the grid."""
        return self.lower + np.rint(self.fraction).astype(np.int64)


def is_worth_filling(slices: int, detail: Mapping[str, Any]) -> bool:
    """Whether the regular grid has at most twice as many slices as the stack.

    Computed from the numbers in the detail of a verdict.
    """
    if "median_gap" not in detail or "missing" in detail:
        return True
    return bool(
        detail["spacing"] * (slices - 1) / max(detail["median_gap"], 1e-6) + 1 <= 2 * slices
    )


def regular_slices(
    positions: Floats, geometry: Geometry, verdict: str, tolerances: Tolerances
) -> RegularSlices:
    """Compute the regular grid for slices with the verdict `missing_slices` or `uneven_spacing`.

    Missing slices: every slice has its place on the grid of the true spacing. Uneven spacing: the
    spacing is the median gap. The grid begins with the first slice and ends with the last complete
    step, less than one step before the last slice, so that no value is extrapolated. A slice within
    `tolerances.same_position_mm` (and within 10 % of the spacing) of a slice of the grid is taken
    unchanged.

    Parameters
    ----------
    positions
        (slices, 3) LPS mm, ascending along the normal, on one line.
    geometry
        Grid of the stack. Its step is the true one for missing slices, and the mean one for uneven
        spacing.
    verdict
        "missing_slices" or "uneven_spacing".
    tolerances
        Those of the index.

    Returns
    -------
    RegularSlices
        The grid and the location of its slices.

    Raises
    ------
    GeometryError
        The median gap is so small that the grid would be too large.
    """
    normal = np.cross(geometry.direction[:, 2], geometry.direction[:, 1])
    projected = (positions - positions[0]) @ normal
    if verdict == "missing_slices":
        spacing = float(geometry.affine[:3, 0] @ normal)
        located = np.concatenate([[0.0], np.cumsum(np.rint(np.diff(projected) / spacing))])
    else:
        spacing = float(np.median(np.diff(projected)))
        located = projected / spacing
    require_possible((math.ceil(located[-1]) + 1, *geometry.shape[1:]))
    lower, fraction = _neighbours(located, min(tolerances.same_position_mm / spacing, 0.1))
    # The slice axis of the stack: oblique for a tilted one, else the normal.
    axis = geometry.affine[:3, 0] / float(geometry.affine[:3, 0] @ normal)
    affine = geometry.affine.copy()
    affine[:3, 0] = axis * (projected[-1] / located[-1])
    return RegularSlices(
        Geometry((len(lower), *geometry.shape[1:]), affine), located, lower, fraction
    )


def require_possible(shape: tuple[int, int, int]) -> None:
    """Raise a GeometryError for a grid of more than `MAX_VOXELS`."""
    if math.prod(shape) > MAX_VOXELS:
        raise GeometryError(
            f"a grid of {' x '.join(map(str, shape))} voxels exceeds the limit of {MAX_VOXELS:,}: "
            "take a larger spacing, in mm",
            voxels=math.prod(shape),
            limit=MAX_VOXELS,
        )


def _neighbours(located: Floats, tolerance: float) -> tuple[npt.NDArray[np.int64], Floats]:
    """Return the neighbours of slices 0, 1, 2, ... of the grid: (slice at or before, fraction).

    The fraction is the distance beyond that slice, relative to the gap to the next one, and 0
    within tolerance.
    """
    grid = np.arange(math.floor(located[-1] + tolerance) + 1, dtype=np.float64)
    lower = np.searchsorted(located, grid + tolerance, side="right") - 1
    upper = np.minimum(lower + 1, len(located) - 1)
    beyond = grid - located[lower]
    # Beyond the last slice, distances exceed the tolerance only by rounding.
    between = (beyond > tolerance) & (lower < len(located) - 1)
    gaps = np.where(between, located[upper] - located[lower], 1.0)
    return lower.astype(np.int64), np.where(between, beyond / gaps, 0.0)
