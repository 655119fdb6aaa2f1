"""The order of the axes of a grid: the permutation and reversals that lead towards directions.

Directions are letters, one per array axis: L or R, A or P, S or I. "RAS" is an array whose first
index ascends to the right of the patient, the second to the front, the third to the head. Each axis
of an oblique grid counts as the nearest direction. Nothing is interpolated, and the affine stays
exact, shear included.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, get_args

import numpy as np
import numpy.typing as npt

from dicomdl.arrays import Floats, Ints, Values, Voxel
from dicomdl.errors import UsageError
from dicomdl.geometry.grid import Geometry

Plane = Literal["axial", "coronal", "sagittal"]
PLANES: Final[tuple[Plane, ...]] = get_args(Plane)
# Directions across a picture, down it and along its rows, as a reader of images expects them: the
# patient from the feet or from the front, with the left side on the right.
PLANE_AXES: Final[dict[Plane, str]] = {"axial": "SPL", "coronal": "PIL", "sagittal": "LIP"}
# Axis of the patient (LPS) of each direction, and the sign of the direction along it.
_NAMED: Final = {"L": (0, 1), "R": (0, -1), "P": (1, 1), "A": (1, -1), "S": (2, 1), "I": (2, -1)}
_PERMUTATIONS: Final = np.array(list(itertools.permutations(range(3))))


@dataclass(frozen=True, slots=True)
class AxisOrder:
    """A permutation and reversals of the axes of a grid.

    Attributes
    ----------
    axes
        The old axis of each new axis.
    flips
        Whether a new axis runs against its old axis.
    """

    axes: tuple[int, int, int] = (0, 1, 2)
    flips: tuple[bool, bool, bool] = (False, False, False)

    @property
    def is_identity(self) -> bool:
        """Whether the axes stay as they are."""
        return self == _UNCHANGED

    def of(self, numbers: Sequence[Any]) -> tuple[Any, Any, Any]:
        """Return numbers per old axis (a shape, a spacing, a size) per new axis."""
        first, second, third = self.axes
        return numbers[first], numbers[second], numbers[third]

    def geometry(self, old: Geometry) -> Geometry:
        """Return the grid with its axes in this order."""
        shape = self.of(old.shape)
        affine = np.array(old.affine)
        affine[:, :3] = affine[:, list(self.axes)]
        for axis in np.flatnonzero(self.flips).tolist():
            affine[:, 3] += affine[:, axis] * (shape[axis] - 1)
            affine[:, axis] *= -1
        return Geometry(shape, affine)

    def view(self, values: Values, lead: int = 0) -> Values:
        """Return a view of an array with its axes in this order.

        `lead` is the number of axes before the three; axes after them stay.
        """
        rest = range(lead + 3, values.ndim)
        turned = values.transpose(*range(lead), *(lead + axis for axis in self.axes), *rest)
        reversed_axes = tuple(lead + axis for axis, flip in enumerate(self.flips) if flip)
        return np.flip(turned, reversed_axes) if reversed_axes else turned

    def box(self, start: Voxel, stop: Voxel, shape: Voxel) -> tuple[Voxel, Voxel]:
        """Return the (start, stop) in the old grid of a box in the new one, of shape `shape`."""
        ends = [(0, 0), (0, 0), (0, 0)]
        for new, (axis, flip) in enumerate(zip(self.axes, self.flips, strict=True)):
            low, high = start[new], stop[new]
            ends[axis] = (shape[new] - high, shape[new] - low) if flip else (low, high)
        (z0, z1), (y0, y1), (x0, x1) = ends
        return (z0, y0, x0), (z1, y1, x1)

    def voxels(self, old: npt.NDArray[Any], shape: Voxel) -> npt.NDArray[Any]:
        """Return (n, 3) voxels of the old grid as voxels of the new one, of shape `shape`."""
        new = old[:, list(self.axes)]
        flips = np.asarray(self.flips)
        return np.where(flips, np.asarray(shape, new.dtype) - 1 - new, new)


_UNCHANGED: Final = AxisOrder()


def axes_towards(geometry: Geometry, axes: str) -> AxisOrder:
    """Return the order of the axes of a grid that leads along the named directions.

    Raises
    ------
    UsageError
        `axes` does not name one of each pair L/R, A/P, S/I.
    """
    letters = [_NAMED[letter] for letter in checked_axes(axes)]
    direction = geometry.direction
    order = axes_along(direction[None], axes)[0].tolist()
    flips = [
        bool(direction[world, axis] * sign < 0)
        for (world, sign), axis in zip(letters, order, strict=True)
    ]
    return AxisOrder((order[0], order[1], order[2]), (flips[0], flips[1], flips[2]))


def axes_along(directions: Floats, axes: str) -> Ints:
    """Return (n, 3): per grid, the axis that is the nearest to each named direction.

    Parameters
    ----------
    directions
        (n, 3, 3) unit vectors along the axes, as columns.
    axes
        Three letters of `checked_axes`.
    """
    world = np.arange(3)
    along = np.abs(directions[:, world, _PERMUTATIONS]).sum(axis=2)
    best = _PERMUTATIONS[along.argmax(axis=1)]
    return np.asarray(best[:, [_NAMED[letter][0] for letter in axes.upper()]])


def checked_axes(axes: str) -> str:
    """Return the letters in capitals.

    Raises
    ------
    UsageError
        They do not name one of each pair L/R, A/P, S/I.
    """
    letters = axes.upper() if isinstance(axes, str) else ""
    if sorted(_NAMED[letter][0] for letter in letters if letter in _NAMED) != [0, 1, 2] or (
        len(letters) != 3
    ):
        raise UsageError(
            f"axes={axes!r}: expected one letter of each pair L/R, A/P, S/I, such as 'SPL'",
            axes=axes,
        )
    return letters
