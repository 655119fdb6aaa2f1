"""Values on a grid, with the masks that belong to them, and the same on other grids.

`resampling` interpolates one array. Here the masks and the marks of filled slices go along.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dicomdl.arrays import Mask, Values
from dicomdl.errors import GeometryError
from dicomdl.geometry.axes import axes_towards
from dicomdl.geometry.grid import Geometry
from dicomdl.values.reading import spread_over
from dicomdl.volumes.interpolation import Resampling, interpolate
from dicomdl.volumes.resampling import (
    carried,
    require_known,
)


@dataclass(frozen=True, slots=True, eq=False)
class Gridded:
    """The parts of a volume that depend on its grid; see the parameters of `Volume`."""

    array: Values
    geometry: Geometry
    filled: npt.NDArray[np.bool_]
    padding: Mask | None
    # Number of time points on the leading axis, 0 without one.
    times: int = 0
    unlabelled: Mask | None = None


def checked_filled(parts: Gridded) -> npt.NDArray[np.bool_]:
    """Return the marks of filled slices, read-only: all False if there are none.

    Raises
    ------
    GeometryError
        The array, `filled`, `padding` or `unlabelled` does not have the shape of the grid.
    """
    expected = (*((parts.times,) if parts.times else ()), *parts.geometry.shape)
    array, padding = parts.array, parts.padding
    if tuple(array.shape[: len(expected)]) != expected or array.ndim > len(expected) + 1:
        raise GeometryError(
            f"the array is {array.shape}, the grid is {expected}: "
            "pass `dimension` for an array with a leading axis",
            shape=array.shape,
            expected=expected,
        )
    slices = parts.geometry.shape[0]
    filled = np.array(parts.filled if len(parts.filled) else np.zeros(slices), dtype=np.bool_)
    if filled.shape != (slices,):
        raise GeometryError(f"`filled` is {filled.shape} for {slices} slices", shape=filled.shape)
    masks = (("padding", padding, expected), ("unlabelled", parts.unlabelled, expected[-3:]))
    for name, mask, shape in masks:
        if mask is not None and mask.shape != shape:
            raise GeometryError(
                f"`{name}` is {mask.shape}, the grid is {shape}", shape=mask.shape, expected=shape
            )
    filled.flags.writeable = False
    return filled


def regridded(old: Gridded, geometry: Geometry, how: Resampling, fill: float | None) -> Gridded:
    """Interpolate the values on another grid. `fill` None is the smallest finite value.

    Raises
    ------
    GeometryError
        The position of the old or of the new grid is unknown.
    """
    require_known(old.geometry)
    require_known(geometry)
    array, padding, series = old.array, old.padding, bool(old.times)
    # Padding is not mixed into the image: its mask is interpolated by nearest neighbour.
    if padding is not None:
        array = spread_over(array, padding)
        flags = padding.view(np.uint8)
        nearest = interpolate(
            flags, old.geometry, geometry, Resampling("nearest"), 0, series=series
        )
        padding = nearest.astype(np.bool_)
    if fill is None and array.dtype.kind == "f":
        # real-world values are NaN where the mapping is undefined
        finite = array[np.isfinite(array)]
        fill = float(finite.min()) if finite.size else None
    array = interpolate(array, old.geometry, geometry, how, fill, series=series)
    smooths = how.is_linear and how.antialias
    filled = carried(old.filled, old.geometry, geometry, antialias=smooths)
    unlabelled = old.unlabelled
    if unlabelled is not None:
        labelled = (~unlabelled).view(np.uint8)
        near = interpolate(labelled, old.geometry, geometry, Resampling("nearest"), 0, series=False)
        unlabelled = near == 0
    return Gridded(array, geometry, filled, padding, old.times, unlabelled)


def reoriented(old: Gridded, axes: str) -> Gridded:
    """Permute and flip the axes of the grid towards the directions that `axes` names.

    Raises
    ------
    GeometryError
        The position of the grid is unknown.
    UsageError
        `axes` does not name one of each pair L/R, A/P, S/I.
    """
    require_known(old.geometry)
    order = axes_towards(old.geometry, axes)
    geometry, lead = order.geometry(old.geometry), 1 if old.times else 0

    def turned(values: Values) -> Values:
        return np.ascontiguousarray(order.view(values, lead))

    filled = carried(old.filled, old.geometry, geometry)
    padding = None if old.padding is None else turned(old.padding)
    unlabelled = old.unlabelled
    if unlabelled is not None:
        unlabelled = np.ascontiguousarray(order.view(unlabelled))
    return Gridded(turned(old.array), geometry, filled, padding, old.times, unlabelled)
