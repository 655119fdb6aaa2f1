"""The grid on which a dataset delivers its stacks: their own, or one with its axes in an order.

Samplers, label maps, points and the facts of samples all count voxels of this grid.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from dicomdl.arrays import Floats, Ints, Values
from dicomdl.errors import UsageError
from dicomdl.geometry.axes import AxisOrder, axes_along, axes_towards, checked_axes
from dicomdl.geometry.grid import Geometry
from dicomdl.index.views import Stack, Stacks
from dicomdl.volumes.block_reader import BlockReader
from dicomdl.volumes.oriented import OrientedReader
from dicomdl.volumes.resampling import require_known

_OWN_ORDER = AxisOrder()


@dataclass(frozen=True, slots=True)
class GridRequest:
    """The grid of delivered stacks: the options of a dataset that place voxels.

    A frozen value, which is a part of the key of everything that is cached per grid.

    Attributes
    ----------
    orientation
        The directions of the axes (see `geometry.axes`), or None for those of the slices.
    """

    orientation: str | None = None

    def __post_init__(self) -> None:
        if self.orientation is not None:
            try:
                checked = checked_axes(self.orientation)
            except UsageError as error:
                raise UsageError(
                    f"orientation={self.orientation!r}: expected None, or one letter of each pair "
                    "L/R, A/P, S/I, such as 'RAS'"
                ) from error
            object.__setattr__(self, "orientation", checked)

    @property
    def is_own(self) -> bool:
        """Whether stacks are delivered on their own grid."""
        return self.orientation is None

    def order(self, geometry: Geometry) -> AxisOrder:
        """Return the order of the axes of a grid.

        Raises
        ------
        GeometryError
            An orientation is asked for, and that of the grid is unknown.
        """
        if self.orientation is None:
            return _OWN_ORDER
        require_known(geometry)
        return axes_towards(geometry, self.orientation)

    def geometry(self, stack: Stack) -> Geometry:
        """Return the grid on which a stack is delivered; raises as `order`."""
        own = stack.geometry
        return own if self.is_own else self.order(own).geometry(own)

    def spacing(self, stack: Stack) -> Floats:
        """Return (3,) mm per axis of the delivered grid; NaN where unknown."""
        spacing = stack.spacing
        return np.array(spacing if self.is_own else self.order(stack.geometry).of(spacing))

    def shapes(self, stacks: Stacks) -> Ints:
        """Return (stacks, 3) the shapes of the delivered grids, int64."""
        return np.take_along_axis(stacks.shapes(), self.stored_axes(stacks), axis=1)

    def stored_axes(self, stacks: Stacks) -> Ints:
        """Return (stacks, 3) the axis of the slices, rows and columns that each axis lies along."""
        if self.orientation is None:
            return np.tile(np.arange(3), (len(stacks), 1))
        affines = stacks.affines()[:, :3, :3]
        with np.errstate(invalid="ignore"):
            directions = affines / np.sqrt((affines**2).sum(axis=1, keepdims=True))
        return axes_along(directions, self.orientation)

    def reader(self, voxels: BlockReader) -> BlockReader:
        """Return the reader of blocks on the delivered grid, from one on the grid of the stack."""
        order = self.order(voxels.geometry)
        return voxels if order.is_identity else OrientedReader(voxels, order)

    def labels(self, labels: Values, stack: Stack) -> Values:
        """Return labels (slice, row, column) of a stack on the delivered grid, a view."""
        return labels if self.is_own else self.order(stack.geometry).view(labels)

    def voxels(self, voxels: npt.NDArray[Any], stack: Stack) -> npt.NDArray[Any]:
        """Return (n, 3) voxels of a stack as voxels of the delivered grid."""
        if self.is_own:
            return voxels
        order = self.order(stack.geometry)
        return order.voxels(voxels, order.of(stack.shape))


OWN_GRID = GridRequest()
