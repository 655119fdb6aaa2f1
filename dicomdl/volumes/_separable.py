"""Interpolation of a block axis by axis, for grids whose axes are parallel to those of the values.

Each axis is a product with small matrices (`_axis_weights`), which BLAS computes at the speed of
memory. A few slices at a time come in, are converted to floats and resampled in plane, while they
are in the processor's cache; the slices are weighed last. So the values need never be in memory as
a whole.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any, Final

import numpy as np

from dicomdl.arrays import Values
from dicomdl.volumes._axis_weights import AxisWeights

# Voxels that are resampled in plane at a time: half a megabyte of float32.
SLAB_VOXELS: Final = 1 << 17

# Values of the slices from a first to a last number, which is excluded: those rows and columns that
# the weights use, or all rows and columns between the first and the last of these.
ReadSlices = Callable[[int, int], Values]
NewArray = Callable[[str, tuple[int, ...], np.dtype[Any]], Values]


def new_memory(name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Values:
    """Return fresh memory for an array; the name is for allocators that reuse memory."""
    del name
    return np.empty(shape, dtype)


def weighed(
    read: ReadSlices,
    axes: tuple[AxisWeights, AxisWeights, AxisWeights],
    fill: float,
    dtype: np.dtype[Any],
    new: NewArray = new_memory,
) -> Values:
    """Return values weighed along slices, rows and columns.

    Parameters
    ----------
    read
        Reads slices by their numbers, with the rows and columns from the first to the last one
        used.
    axes
        Weights of slices, rows and columns; float matrices of `dtype`.
    fill
        Value of outputs outside.
    dtype
        float32 or float64, of the computation and the result.
    new
        Allocator of "planes", "slab", "part" and "result".

    Returns
    -------
    numpy.ndarray
        (slices, rows, columns) of `dtype`. NaN where a value that counts is not finite.
    """
    shape = (len(axes[0]), len(axes[1]), len(axes[2]))
    result = new("result", shape, dtype)
    if not all(len(axis.used) for axis in axes):
        result.fill(fill)
        return result
    slices, rows, columns = axes
    planes = result if slices.is_copy else new("planes", (len(slices.used), *shape[1:]), dtype)
    bad: Values | None = None
    for part, values in _slabs(read, axes):
        slab = new("slab", values.shape, dtype)
        np.copyto(slab, values, casting="unsafe")
        if values.dtype.kind == "f" and not _is_finite(slab):
            finite = np.isfinite(slab)
            slab[~finite] = 0
            bad = np.zeros((len(slices.used), *slab.shape[1:]), dtype) if bad is None else bad
            bad[part] = ~finite
        _in_plane(slab, rows, columns, planes[part], new)
    if not slices.is_copy:
        _along_slices(planes, slices, result)
    _fill_outside(result, axes, fill)
    if bad is not None:
        marks = bad
        numbers = slices.used
        counted = weighed(
            lambda start, stop: marks[np.searchsorted(numbers, start) :][: stop - start],
            axes,
            0.0,
            dtype,
        )
        result[counted > 0] = np.nan
    return result


def _is_finite(values: Values) -> bool:
    """Whether all values are finite: their sum is not, if one of them is not."""
    with np.errstate(invalid="ignore", over="ignore"):
        return math.isfinite(float(values.sum()))


def _slabs(
    read: ReadSlices, axes: tuple[AxisWeights, AxisWeights, AxisWeights]
) -> Iterator[tuple[slice, Values]]:
    """Yield (positions among the used slices, their values), a few slices at a time."""
    numbers = axes[0].used
    spans = [int(axis.used[-1] - axis.used[0]) + 1 for axis in axes[1:]]
    most = max(1, SLAB_VOXELS // math.prod(spans))
    # Slices without weight, as between thick new ones, are not read.
    runs = np.split(np.arange(len(numbers)), np.flatnonzero(np.diff(numbers) > 1) + 1)
    for run in runs:
        for start in range(int(run[0]), int(run[-1]) + 1, most):
            stop = min(start + most, int(run[-1]) + 1)
            values = read(int(numbers[start]), int(numbers[stop - 1]) + 1)
            yield slice(start, stop), values[:, _used(axes[1])][:, :, _used(axes[2])]


def _used(axis: AxisWeights) -> Any:
    """Return the index of the used inputs among those from the first to the last one."""
    if len(axis.used) == axis.used[-1] - axis.used[0] + 1:
        return slice(None)
    return axis.used - axis.used[0]


def _in_plane(
    slab: Values, rows: AxisWeights, columns: AxisWeights, target: Values, new: NewArray
) -> None:
    """Resample the planes of a slab into `target`, first along the axis that shrinks more."""
    if rows.is_copy and columns.is_copy:
        target[...] = slab
    elif rows.is_copy:
        _along_columns(slab, columns, target)
    elif columns.is_copy:
        _along_rows(slab, rows, target)
    elif len(rows) * slab.shape[2] <= len(columns) * slab.shape[1]:
        part = new("part", (len(slab), len(rows), slab.shape[2]), slab.dtype)
        _along_rows(slab, rows, part)
        _along_columns(part, columns, target)
    else:
        part = new("part", (*slab.shape[:2], len(columns)), slab.dtype)
        _along_columns(slab, columns, part)
        _along_rows(part, rows, target)


def _along_columns(values: Values, axis: AxisWeights, target: Values) -> None:
    for outputs, inputs, matrix in axis.bands:
        np.matmul(values[:, :, inputs], matrix.T, out=target[:, :, outputs])


def _along_rows(values: Values, axis: AxisWeights, target: Values) -> None:
    for outputs, inputs, matrix in axis.bands:
        np.matmul(matrix, values[:, inputs], out=target[:, outputs])


def _along_slices(values: Values, axis: AxisWeights, target: Values) -> None:
    # Row by row, so that the products are small (see `OUTPUTS`).
    for outputs, inputs, matrix in axis.bands:
        rows = values[inputs].transpose(1, 0, 2)
        np.matmul(matrix, rows, out=target[outputs].transpose(1, 0, 2))


def _fill_outside(
    result: Values, axes: tuple[AxisWeights, AxisWeights, AxisWeights], fill: float
) -> None:
    for number, axis in enumerate(axes):
        if not axis.inside.all():
            where: list[Any] = [slice(None)] * 3
            where[number] = ~axis.inside
            result[tuple(where)] = fill
