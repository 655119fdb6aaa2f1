"""Interpolation along one axis of a grid, as small matrices of weights.

A new voxel takes its value from the old voxels within a triangle about its place. The half-width of
the triangle is one old voxel: linear interpolation. With antialiasing, an axis that shrinks has a
triangle of one new voxel, so that every old voxel counts. The weights of the voxels that exist add
up to 1, which repeats the edge up to half a voxel beyond the outermost centres. Pillow, and torch
with ``antialias=True``, define it alike.
"""

import math
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple

import numpy as np

from dicomdl.arrays import Floats, Ints, Mask, Values
from dicomdl.geometry.grid import Geometry

# Outputs per matrix: few, so that most of its weights are above 0. With 16, the product of one
# slice also stays below the size from which OpenBLAS starts threads (2^18 multiplications).
OUTPUTS: Final = 16
# A place this close to a voxel (in voxels) is that voxel: affines are inverted in float64.
_ROUNDING: Final = 1e-6
# Voxels by which axes of two grids may leave each other over their whole length, and still be one.
_ALIGNED: Final = 1e-3

Kernel = Literal["linear", "nearest"]


class AxisMap(NamedTuple):
    """The place of each index of a new axis on an old axis: ``first + step * index``."""

    axis: int
    first: float
    step: float

    def places(self, start: int, stop: int) -> Floats:
        """Return the places of the indices from `start` to `stop`, in old voxels."""
        places = self.first + self.step * np.arange(start, stop, dtype=np.float64)
        whole = np.rint(places)
        return np.where(np.abs(places - whole) < _ROUNDING, whole, places)


def axis_maps(old: Geometry, new: Geometry) -> tuple[AxisMap, AxisMap, AxisMap] | None:
    """Return the map of each axis of `new` onto an axis of `old`; None if some axis is oblique.

    Axes may be exchanged and reversed.
    """
    matrix = np.linalg.inv(old.affine) @ new.affine
    steps = matrix[:3, :3]
    axes = np.abs(steps).argmax(axis=0)
    extent = np.maximum(np.asarray(new.shape) - 1, 1)
    off = np.abs(steps) * extent
    off[axes, np.arange(3)] = 0
    if len(set(axes.tolist())) < 3 or off.max() > _ALIGNED:
        return None
    # Where axes are one up to rounding, the middle of the grid is exact.
    middle = (np.asarray(new.shape) - 1) / 2
    center = steps @ middle + matrix[:3, 3]
    first, second, third = (
        AxisMap(axis, float(center[axis] - steps[axis, a] * middle[a]), float(steps[axis, a]))
        for a, axis in enumerate(axes.tolist())
    )
    return first, second, third


class Band(NamedTuple):
    """Weights of some outputs, and the inputs that they weigh, counted from the first one read."""

    outputs: slice
    inputs: slice
    # (outputs, inputs)
    matrix: Values


@dataclass(frozen=True, slots=True, eq=False)
class AxisWeights:
    """Weights of one axis for a range of outputs.

    Attributes
    ----------
    used
        The inputs that have a weight, ascending.
    inside
        (outputs,) bool: False for outputs beyond the half voxel around the inputs.
    bands
        The weights; their inputs are positions in `used`.
    is_copy
        Whether the outputs are the inputs, one by one.
    """

    used: Ints
    inside: Mask
    bands: tuple[Band, ...]
    is_copy: bool

    def __len__(self) -> int:
        return len(self.inside)


def axis_weights(
    places: Floats, width: float, length: int, dtype: np.dtype[Any], kernel: Kernel = "linear"
) -> AxisWeights:
    """Return the weights for outputs at some places on an axis of `length` inputs.

    Parameters
    ----------
    places
        (outputs,) in inputs, ascending or descending.
    width
        Half-width of the triangle in inputs, at least 1: the step of the outputs with antialiasing.
    length
        Number of inputs.
    dtype
        Float dtype of the weights.
    kernel
        "nearest" takes the nearest input instead; of two at one distance, the latter.
    """
    inside = _inside(places, length)
    inputs, weights = _taps(places, max(width, 1.0), length, kernel)
    weights[~inside] = 0
    has_weight = weights > 0
    used = np.unique(inputs[has_weight])
    positions = np.searchsorted(used, inputs)
    bands = []
    for start in range(0, len(places), OUTPUTS):
        part = slice(start, min(start + OUTPUTS, len(places)))
        row, tap = np.nonzero(has_weight[part])
        position = positions[part][row, tap]
        low, high = (int(position.min()), int(position.max()) + 1) if len(row) else (0, 1)
        matrix = np.zeros((part.stop - part.start, high - low), dtype)
        matrix[row, position - low] = weights[part][row, tap]
        bands.append(Band(part, slice(low, high), matrix))
    is_copy = bool(
        inside.all()
        and len(used) == len(places)
        and (has_weight.sum(axis=1) == 1).all()
        and (np.diff(places) > 0).all()
    )
    return AxisWeights(used, inside, tuple(bands), is_copy)


def nearest_inputs(places: Floats, length: int) -> tuple[Ints, Mask]:
    """Return the nearest input of each place, and whether the place lies inside the inputs."""
    inside = _inside(places, length)
    nearest = np.floor(places + (0.5 + _ROUNDING)).astype(np.int64)
    return np.clip(nearest, 0, length - 1), inside


def _inside(places: Floats, length: int) -> Mask:
    """Return whether places lie inside the voxels; of two edges, the first one does (as in ITK)."""
    return (places >= -0.5 - _ROUNDING) & (places < length - 0.5 - _ROUNDING)


def _taps(places: Floats, width: float, length: int, kernel: Kernel) -> tuple[Ints, Floats]:
    """Return (outputs, taps) inputs and their weights, which add up to 1 per output."""
    if kernel == "nearest":
        nearest, _ = nearest_inputs(places, length)
        return nearest[:, None], np.ones((len(places), 1))
    first = np.floor(places - width).astype(np.int64) + 1
    inputs = first[:, None] + np.arange(math.ceil(2 * width))
    weights = np.maximum(1 - np.abs(inputs - places[:, None]) / width, 0)
    weights[(inputs < 0) | (inputs >= length)] = 0
    # Outputs far outside have no weight at all; they become fill.
    total = weights.sum(axis=1, keepdims=True)
    weights /= np.where(total > 0, total, 1)
    return np.clip(inputs, 0, length - 1), weights
