"""Arrays of a caller on the grid of a volume: predictions and masks."""

from typing import Any

import numpy as np

from dicomdl.arrays import Values, Voxel
from dicomdl.errors import GeometryError, UsageError
from dicomdl.volumes._facts import VolumeFacts

# Distance of two grids at any corner that still counts as one grid, in voxels.
_SAME_GRID = 0.01


def as_values(array: Any) -> Values:
    """Return numbers as an array; a tensor is detached and copied to the CPU.

    Raises
    ------
    UsageError
        These are no numbers.
    """
    if hasattr(array, "detach"):
        array = array.detach().cpu()
        # NumPy has no bfloat16.
        array = (array.float() if "bfloat16" in str(array.dtype) else array).numpy()
    values = np.asarray(array)
    if values.dtype.kind not in "biuf":
        raise UsageError(f"expected an array of numbers, found {type(array).__name__}")
    return values


def fitting(array: Any, grid: Voxel, times: int) -> tuple[Values, bool]:
    """Return an array that fits a grid, and whether it has its leading axis of time points.

    Parameters
    ----------
    array
        (slice, row, column), with the leading axis if there are `times`, or a last one of samples.
    grid
        (slices, rows, columns).
    times
        Number of time points, 0 without a leading axis.

    Raises
    ------
    GeometryError
        The array has another shape.
    UsageError
        These are no numbers.
    """
    values = as_values(array)
    if times and values.shape[:4] == (times, *grid) and values.ndim <= 5:
        return values, True
    if values.shape[:3] == grid and values.ndim <= 4:
        return values, False
    more = len(values.shape) - 3
    remedy = ""
    if more > 0 and values.shape[-3:] == grid:
        leading = values.shape[:more]
        remedy = (
            f": pass array[{', '.join('0' * more)}]"
            if set(leading) == {1}
            else ": its leading axis is none of the grid; channels come last (numpy.moveaxis)"
        )
    expected = f"{(times, *grid)} or {grid}" if times else f"{grid}"
    raise GeometryError(
        f"the array is {values.shape}, the grid is {expected}{remedy}",
        shape=values.shape,
        expected=grid,
    )


def mask_on(volume: VolumeFacts, mask: Any) -> Values:
    """Return a mask on the grid of a volume: bool, or integers with 0 for the background.

    Parameters
    ----------
    volume
        The volume; its mask may have the leading axis, or one mask is for all time points.
    mask
        An array, a tensor or a `Volume`.

    Raises
    ------
    GeometryError
        The mask has another shape, or lies on another grid.
    UsageError
        The values are neither bool nor integers.
    """
    require_same_grid(volume, mask)
    values, has_times = fitting(mask, volume.geometry.shape, len(volume.dimension))
    if values.ndim > (4 if has_times else 3):
        raise GeometryError(
            f"the mask is {values.shape}: expected one label per voxel", shape=values.shape
        )
    if values.dtype.kind == "f":
        if not np.array_equal(values, np.rint(values)):
            raise UsageError("the mask has fractions: expected bool or integers, mask > 0.5")
        values = values.astype(np.int64)
    return values


def require_same_grid(volume: VolumeFacts, other: Any) -> None:
    """Raise a GeometryError for a volume on another grid than `volume`; arrays have no grid."""
    if not isinstance(other, VolumeFacts):
        return
    grid, given = volume.geometry, other.geometry
    if grid.shape != given.shape:
        raise GeometryError(
            f"the grid is {given.shape}, that of the volume {grid.shape}: "
            "resample_to(volume.geometry), labels with interpolation='nearest'",
            shape=given.shape,
            expected=grid.shape,
        )
    if not (grid.is_known and given.is_known):
        return
    corners = np.indices((2, 2, 2)).reshape(3, -1).T * (np.array(grid.shape) - 1)
    places, wanted = given.voxel_to_world(corners), grid.voxel_to_world(corners)
    if np.abs(grid.world_to_voxel(places) - corners).max() > _SAME_GRID:
        worst = float(np.abs(places - wanted).max())
        raise GeometryError(
            f"the grid lies up to {worst:.3g} mm beside that of the volume: "
            "resample_to(volume.geometry), labels with interpolation='nearest'",
            error_mm=worst,
        )
