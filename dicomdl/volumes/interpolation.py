"""Values of a grid at the voxels of another grid, block by block or as a whole.

A `Regridding` connects two grids. It computes any block of the new grid from the voxels of the old
one that the block needs, so a patch of a resampled volume equals the patch that is cut first.

Where the axes of the grids are parallel, each axis is interpolated by itself (`_separable`).
Oblique grids (a gantry tilt, a rotation) go through SimpleITK: onto a grid with the new axes and
about the old spacing, and from there axis by axis where an axis shrinks.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numpy as np

from dicomdl.arrays import Floats, Values, Voxel, ends_of
from dicomdl.errors import UsageError
from dicomdl.geometry.grid import Geometry
from dicomdl.lazy import cached_property
from dicomdl.volumes._axis_weights import (
    AxisMap,
    AxisWeights,
    Kernel,
    axis_maps,
    axis_weights,
    nearest_inputs,
)
from dicomdl.volumes._separable import NewArray, new_memory, weighed
from dicomdl.volumes.resampling import (
    INTERPOLATIONS,
    Interpolation,
    exact_float,
    rounded,
    sampled,
)

# Reads the old voxels from a first to a last one, which is excluded.
ReadBox: TypeAlias = Callable[[Voxel, Voxel], Values]
Axes: TypeAlias = tuple[AxisWeights, AxisWeights, AxisWeights]
# An axis shrinks if its voxels become larger by more than rounding.
_SHRINKS: Final = 1 + 1e-6
# The fraction by which places on an oblique grid are drawn inwards, beyond their rounding (1e-14).
_INWARDS: Final = 1e-11
# nnU-Net's ANISO_THRESHOLD (nnunetv2/configuration.py, version 2.8.1).
_ANISOTROPY: Final = 3.0
# Types that SimpleITK lacks, and those that hold their values. It has the own byte order alone.
_HELD_BY: Final[Mapping[str, np.dtype[Any]]] = {
    "bool": np.dtype(np.uint8),
    "float16": np.dtype(np.float32),
}


@dataclass(frozen=True, slots=True)
class Resampling:
    """The interpolation of values, and whether axes that shrink are antialiased.

    `Volume.resample` documents both. Only linear interpolation is antialiased.

    Raises
    ------
    UsageError
        The interpolation is unknown.
    """

    interpolation: Interpolation = "linear"
    antialias: bool = True

    def __post_init__(self) -> None:
        if self.interpolation not in INTERPOLATIONS:
            raise UsageError(
                f"interpolation={self.interpolation!r}: expected one of {', '.join(INTERPOLATIONS)}"
            )

    @property
    def is_linear(self) -> bool:
        """Whether values are mixed linearly, at least within the slices."""
        return self.interpolation in ("linear", "thick_slices")


def thick_axis(old: Sequence[float], new: Sequence[float]) -> int | None:
    """Return the axis that nnU-Net resamples by itself, from slice to nearest slice.

    That is the axis of the largest spacing if it is more than 3 times the smallest one, in the old
    grid or else in the new one, and if no second axis is as coarse. The axes of the two spacings
    correspond.

    References
    ----------
    nnU-Net 2.8.1, nnunetv2/preprocessing/resampling/default_resampling.py:
    `determine_do_sep_z_and_axis`, `get_do_separate_z`, `get_lowres_axis`; its planner sets
    ``force_separate_z=None`` and ``order_z=0`` for images.
    """
    for spacing in (np.asarray(old), np.asarray(new)):
        if spacing.max() / spacing.min() > _ANISOTROPY:
            coarsest = np.flatnonzero(np.isclose(spacing.max() / spacing, 1))
            return int(coarsest[0]) if len(coarsest) == 1 else None
    return None


class Regridding:
    """The way of values from one grid to another.

    Parameters
    ----------
    old, new
        The grids, with known positions.
    how
        The interpolation.
    """

    def __init__(self, old: Geometry, new: Geometry, how: Resampling) -> None:
        self.old, self.new, self.how = old, new, how
        self._maps = None if how.interpolation == "cubic" else axis_maps(old, new)

    @property
    def axes(self) -> tuple[int, int, int]:
        """The axis of the old grid that each axis of the new one lies along, or nearly so."""
        if self._maps is not None:
            return self._maps[0].axis, self._maps[1].axis, self._maps[2].axis
        first, second, third = _nearest_axes(self.old, self.new)
        return first, second, third

    def block(
        self,
        read: ReadBox,
        start: Voxel,
        stop: Voxel,
        dtype: np.dtype[Any],
        fill: float,
        new: NewArray = new_memory,
    ) -> Values:
        """Return the values of the new grid from voxel `start` up to `stop`, which is excluded.

        Parameters
        ----------
        read
            Reads a box of the old values, (slices, rows, columns), several times in turn.
        start, stop
            Corners of the block, inside the new grid.
        dtype
            Dtype of the old values, if they are integers or labels; else the float dtype of the
            result.
        fill
            Value of voxels outside of the old grid.
        new
            Allocator; see `_separable.weighed`.

        Returns
        -------
        numpy.ndarray
            Floats, not rounded; the dtype of the values by the nearest voxel.
        """
        if self.how.interpolation == "nearest" and self._maps is not None:
            return self._nearest(self._maps, read, start, stop, fill)
        working = np.dtype(exact_float(dtype))
        if self._maps is not None:
            return self._separable(self._maps, read, start, stop, working, fill, new)
        return self._oblique(read, start, stop, dtype, fill)

    # --- parallel axes ---

    def _separable(
        self,
        maps: tuple[AxisMap, AxisMap, AxisMap],
        read: ReadBox,
        start: Voxel,
        stop: Voxel,
        working: np.dtype[Any],
        fill: float,
        new: NewArray,
    ) -> Values:
        order = [one.axis for one in maps]
        # In the order of the old axes; the result is turned at the end.
        turned = [order.index(axis) for axis in range(3)]
        is_thick = self.how.interpolation == "thick_slices"
        spacing = [self.new.spacing[a] for a in turned]
        nearest = thick_axis(self.old.spacing, spacing) if is_thick else None
        axes = [
            self._weights(maps[a], start[a], stop[a], working, is_nearest=maps[a].axis == nearest)
            for a in turned
        ]
        slices, rows, columns = axes

        def read_slices(first: int, last: int) -> Values:
            return read(
                (first, int(rows.used[0]), int(columns.used[0])),
                (last, int(rows.used[-1]) + 1, int(columns.used[-1]) + 1),
            )

        result = weighed(read_slices, (slices, rows, columns), fill, working, new)
        if order == [0, 1, 2]:
            return result
        in_order = result.transpose(order)
        result = new("turned", in_order.shape, working)
        np.copyto(result, in_order)
        return result

    def _weights(
        self, along: AxisMap, start: int, stop: int, dtype: np.dtype[Any], *, is_nearest: bool
    ) -> AxisWeights:
        step = abs(along.step)
        width = step if self.how.antialias and step > _SHRINKS else 1.0
        kernel: Kernel = "nearest" if is_nearest else "linear"
        places = along.places(start, stop)
        return axis_weights(places, width, self.old.shape[along.axis], dtype, kernel)

    def _nearest(
        self,
        maps: tuple[AxisMap, AxisMap, AxisMap],
        read: ReadBox,
        start: Voxel,
        stop: Voxel,
        fill: float,
    ) -> Values:
        order = [one.axis for one in maps]
        turned = [order.index(axis) for axis in range(3)]
        found = [
            nearest_inputs(maps[a].places(start[a], stop[a]), self.old.shape[maps[a].axis])
            for a in turned
        ]
        lows = [int(inputs.min()) for inputs, _ in found]
        highs = [int(inputs.max()) + 1 for inputs, _ in found]
        box = read((lows[0], lows[1], lows[2]), (highs[0], highs[1], highs[2]))
        inputs = (numbers - low for (numbers, _), low in zip(found, lows, strict=True))
        result = box[np.ix_(*inputs)]
        for axis, (_, inside) in enumerate(found):
            if not inside.all():
                where: list[Any] = [slice(None)] * 3
                where[axis] = ~inside
                result[tuple(where)] = fill
        return np.ascontiguousarray(result.transpose(order))

    # --- oblique axes ---

    @cached_property
    def _fine(self) -> Geometry:
        """The new grid, with about the old spacing along the axes that shrink.

        It is a new voxel wider at each end of these axes, so that voxels at the border of the new
        grid are means over their whole neighbourhood.
        """
        if not (self.how.is_linear and self.how.antialias):
            return self.new
        nearest = _nearest_axes(self.old, self.new)
        factors = np.asarray(self.new.spacing) / np.asarray(self.old.spacing)[nearest]
        factors = np.where(factors > _SHRINKS, factors, 1.0)
        if (factors == 1).all():
            return self.new
        affine, margin = np.array(self.new.affine), factors > 1
        affine[:3, 3] += affine[:3, :3] @ (0.5 / factors - 0.5 - margin)
        affine[:3, :3] /= factors
        lengths = (np.asarray(self.new.shape) + 2 * margin) * factors
        shape = np.ceil(lengths - 1e-6).astype(int).tolist()
        return Geometry((shape[0], shape[1], shape[2]), affine)

    def _oblique(
        self, read: ReadBox, start: Voxel, stop: Voxel, dtype: np.dtype[Any], fill: float
    ) -> Values:
        fine = self._fine
        if fine is self.new:
            return self._sampled(read, fine, start, stop, dtype, fill)
        shrink = Regridding(fine, self.new, Resampling("linear"))
        low, high = shrink._reach(start, stop)
        values = self._sampled(read, fine, low, high, dtype, fill)

        def read_fine(first: Voxel, last: Voxel) -> Values:
            z, y, x = (slice(a - n, b - n) for a, b, n in zip(first, last, low, strict=True))
            return values[z, y, x]

        return shrink.block(read_fine, start, stop, values.dtype, fill)

    def _reach(self, start: Voxel, stop: Voxel) -> tuple[Voxel, Voxel]:
        """Return the old voxels that a block weighs, where the axes correspond."""
        assert self._maps is not None
        ends = zip(self._maps, start, stop, strict=True)
        used = [self._weights(*one, np.dtype(np.float32), is_nearest=False).used for one in ends]
        low, high = [int(one[0]) for one in used], [int(one[-1]) + 1 for one in used]
        return (low[0], low[1], low[2]), (high[0], high[1], high[2])

    def _sampled(
        self,
        read: ReadBox,
        fine: Geometry,
        start: Voxel,
        stop: Voxel,
        dtype: np.dtype[Any],
        fill: float,
    ) -> Values:
        """Sample the old values at the voxels of a block of the fine grid."""
        shape = (stop[0] - start[0], stop[1] - start[1], stop[2] - start[2])
        working = dtype if self.how.interpolation == "nearest" else np.dtype(exact_float(dtype))
        working = _HELD_BY.get(working.name, working).newbyteorder("=")
        matrix = np.linalg.inv(self.old.affine) @ fine.affine
        if self.how.interpolation != "nearest":
            # Half a voxel beyond the border of the old grid is inside in every block, whatever the
            # rounding. The nearest voxel of a place between two would depend on rounding then.
            middle = (np.asarray(self.old.shape) - 1) / 2
            matrix[:3, 3] -= middle
            matrix[:3] *= 1 - _INWARDS
            matrix[:3, 3] += middle
        matrix[:3, 3] += matrix[:3, :3] @ start
        low, high = self._box(matrix, shape)
        if any(a >= b for a, b in zip(low, high, strict=True)):
            return np.full(shape, fill, working)
        matrix[:3, 3] -= low
        box = read(low, high).astype(working, copy=False)
        return sampled(box, matrix, shape, self.how.interpolation, fill)

    def _box(self, matrix: Floats, shape: Voxel) -> tuple[Voxel, Voxel]:
        """Return the old voxels between which a block lies; all of them for B-splines."""
        if self.how.interpolation == "cubic":
            return (0, 0, 0), self.old.shape
        ends = [(0, n - 1) for n in shape]
        corners = np.array(list(itertools.product(*ends))) @ matrix[:3, :3].T + matrix[:3, 3]
        last = np.asarray(self.old.shape) - 1
        # A voxel more than the neighbours, for rounding; nothing if all lies outside.
        low = np.floor(corners.min(axis=0)).astype(int) - 1
        high = np.ceil(corners.max(axis=0)).astype(int) + 1
        if (high < 0).any() or (low > last).any():
            return (0, 0, 0), (0, 0, 0)
        low, high = np.maximum(low, 0), np.minimum(high, last) + 1
        return (int(low[0]), int(low[1]), int(low[2])), (int(high[0]), int(high[1]), int(high[2]))


def _nearest_axes(old: Geometry, new: Geometry) -> list[int]:
    """Return the axis of `old` that makes the smallest angle with each axis of `new`."""
    nearest: list[int] = np.abs(old.direction.T @ new.direction).argmax(axis=0).tolist()
    return nearest


def interpolate(
    array: Values,
    old: Geometry,
    new: Geometry,
    how: Resampling,
    fill: float | None,
    *,
    series: bool,
) -> Values:
    """Interpolate `array` at the voxels of `new`, each time point separately.

    Integers are interpolated as floats, and rounded once. Voxels outside `old` get `fill`, by
    default the minimum of the array. As in ITK, outside begins half a voxel beyond the outermost
    centres; up to there the edge is repeated.
    """
    _check_fill(fill, array.dtype)
    fill = float(array.min() if fill is None else fill)
    way = Regridding(old, new, how)

    def resampled(values: Values) -> Values:
        if values.ndim == 4:
            samples = [resampled(values[..., number]) for number in range(values.shape[3])]
            return np.stack(samples, axis=-1)

        def read(start: Voxel, stop: Voxel) -> Values:
            z, y, x = (slice(a, b) for a, b in zip(start, stop, strict=True))
            return values[z, y, x]

        result = way.block(read, (0, 0, 0), new.shape, array.dtype, fill)
        if result.dtype == array.dtype:
            return result
        # Nearest voxels are values of the array, in a type that SimpleITK has.
        is_rounded = array.dtype.kind != "f" and result.dtype.kind == "f"
        return rounded(result, array.dtype) if is_rounded else result.astype(array.dtype)

    if not series:
        return resampled(array)
    result = np.empty((len(array), *new.shape, *array.shape[4:]), array.dtype)
    for target, values in zip(result, array, strict=True):
        target[...] = resampled(values)
    return result


def _check_fill(fill: float | None, dtype: np.dtype[Any]) -> None:
    if fill is None:
        return
    try:
        number = float(fill)
    except (TypeError, ValueError):
        raise UsageError(f"fill={fill!r}: expected a number") from None
    if dtype.kind == "f":
        return
    lowest, highest = ends_of(dtype)
    if not (number.is_integer() and lowest <= number <= highest):
        raise UsageError(f"fill={fill} does not fit {dtype}", fill=fill)
