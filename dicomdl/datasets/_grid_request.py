"""The grid on which a dataset delivers its stacks: axes in an order, voxels of a spacing.

The orientation comes first and is exact; the spacing counts along the axes in that order. Samplers,
label maps, points and the facts of samples all count voxels of this grid.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from dicomdl.arrays import Floats, Ints, Values, Voxel
from dicomdl.datasets._assembly import floored
from dicomdl.datasets._regrid import requested_spacing
from dicomdl.errors import GeometryError, UsageError
from dicomdl.geometry.axes import AxisOrder, axes_along, axes_towards, checked_axes
from dicomdl.geometry.grid import Geometry
from dicomdl.geometry.regular import require_possible
from dicomdl.index.views import Stack, Stacks
from dicomdl.storage.memory import remembered
from dicomdl.values.intensity import Intensity
from dicomdl.volumes.block_reader import BlockReader
from dicomdl.volumes.cutting import outside_value, padding_shows
from dicomdl.volumes.interpolation import Regridding, Resampling
from dicomdl.volumes.oriented import OrientedReader
from dicomdl.volumes.resampled import ResampledReader
from dicomdl.volumes.resampling import new_grid, new_shapes, require_known

# Labels of a box of a stack, from its first voxel to the one after its last.
ReadLabels = Callable[[Voxel, Voxel], Values]
_OWN_ORDER: Final = AxisOrder()
_LINEAR: Final = Resampling()
_NEAREST: Final = Resampling("nearest")


@dataclass(frozen=True, slots=True)
class GridRequest:
    """The grid of delivered stacks: the options of a dataset that place voxels.

    A frozen value, which is a part of the key of everything that is cached per grid.

    Attributes
    ----------
    orientation
        The directions of the axes (see `geometry.axes`), or None for those of the slices.
    spacing
        (3,) mm along the axes in their order, or None for that of the stack.
    how
        The interpolation of images, if they have a spacing.
    """

    orientation: str | None = None
    spacing: tuple[float, float, float] | None = None
    how: Resampling = _LINEAR

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

    @classmethod
    def of(cls, orientation: str | None, spacing: Any, interpolation: Any) -> "GridRequest":
        """Return the request for the keywords of a dataset, checked.

        Raises
        ------
        UsageError
            A keyword is unknown, or the spacing of a Fingerprint, which is along slices, rows and
            columns, comes with an orientation.
        """
        mm = requested_spacing(spacing, 3, oriented=orientation is not None)
        how = interpolation_of_images(interpolation, is_used=mm is not None)
        return cls(orientation, mm, how)

    @property
    def is_own(self) -> bool:
        """Whether stacks are delivered on their own grid."""
        return self.orientation is None and self.spacing is None

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
        """Return the grid on which a stack is delivered.

        Raises
        ------
        GeometryError
            As `order`; also for a grid of more than `geometry.regular.MAX_VOXELS` voxels.
        """
        if self.spacing is not None:
            return _resampled_grid(stack, self)
        own = stack.geometry
        return own if self.is_own else self.order(own).geometry(own)

    def spacing_of(self, stack: Stack) -> Floats:
        """Return (3,) mm per axis of the delivered grid; NaN where unknown."""
        if self.spacing is not None:
            return np.array(self.spacing)
        spacing = stack.spacing
        return np.array(spacing if self.is_own else self.order(stack.geometry).of(spacing))

    def shapes(self, stacks: Stacks) -> Ints:
        """Return (stacks, 3) the shapes of the delivered grids, int64; raises as `geometry`."""
        shapes = stacks.shapes()
        if self.is_own or not len(shapes):
            return shapes
        axes = self.stored_axes(stacks)
        shapes = np.take_along_axis(shapes, axes, axis=1)
        if self.spacing is None:
            return shapes
        steps = np.take_along_axis(stacks.affines()[:, :3, :3], axes[:, None], axis=2)
        shapes = new_shapes(shapes, steps, self.spacing)
        largest = int(shapes.prod(axis=1, dtype=np.float64).argmax())
        z, y, x = shapes[largest].tolist()
        try:
            require_possible((z, y, x))
        except GeometryError as error:
            error.add_note(f"series: {stacks[largest].series_instance_uid}")
            raise
        return shapes

    def stored_axes(self, stacks: Stacks) -> Ints:
        """Return (stacks, 3) the axis of the slices, rows and columns that each axis lies along."""
        if self.orientation is None:
            return np.tile(np.arange(3), (len(stacks), 1))
        affines = stacks.affines()[:, :3, :3]
        with np.errstate(invalid="ignore"):
            directions = affines / np.sqrt((affines**2).sum(axis=1, keepdims=True))
        return axes_along(directions, self.orientation)

    def reader(
        self, voxels: BlockReader, geometry: Geometry, stack: Stack, recipe: Intensity
    ) -> BlockReader:
        """Return the reader of blocks of a stack on the delivered grid.

        Parameters
        ----------
        voxels
            The reader on the grid of the stack.
        geometry
            The delivered grid. With a spacing it may be that of another stack.
        stack, recipe
            The stack and its intensity.
        """
        if self.spacing is not None:
            return resampled_reader(voxels, geometry, stack, recipe, self.how)
        order = self.order(voxels.geometry)
        return voxels if order.is_identity else OrientedReader(voxels, order)

    def labels(self, read: ReadLabels, stack: Stack, start: Voxel, stop: Voxel) -> Values:
        """Return the labels of a box inside the delivered grid, each of the nearest voxel.

        `read(start, stop)` returns the labels of a box of the stack.
        """
        if self.spacing is None:
            order = self.order(stack.geometry)
            return order.view(read(*order.box(start, stop, order.of(stack.shape))))
        way = Regridding(stack.geometry, self.geometry(stack), _NEAREST)
        return way.block(read, start, stop, read((0, 0, 0), (1, 1, 1)).dtype, 0)

    def places(self, voxels: Floats, stack: Stack) -> Floats:
        """Return (n, 3) places in voxels of a stack as places in voxels of the delivered grid."""
        if self.is_own:
            return voxels
        if self.spacing is not None:
            return self.geometry(stack).world_to_voxel(stack.geometry.voxel_to_world(voxels))
        order = self.order(stack.geometry)
        return np.asarray(order.voxels(voxels, order.of(stack.shape)), np.float64)

    def voxels(self, voxels: npt.NDArray[Any], stack: Stack) -> npt.NDArray[Any]:
        """Return (n, 3) voxels of a stack as voxels of the delivered grid: the nearest ones."""
        if self.is_own:
            return voxels
        if self.spacing is not None:
            last = np.asarray(self.geometry(stack).shape) - 1
            inside = np.clip(np.rint(self.places(voxels, stack)), 0, last)
            return np.unique(inside.astype(np.int32), axis=0)
        order = self.order(stack.geometry)
        return order.voxels(voxels, order.of(stack.shape))


# `new_grid` takes 0.1 ms, and a patch asks several times.
@remembered("resampled grids")
def _resampled_grid(stack: Stack, request: GridRequest) -> Geometry:
    """Return the orthogonal grid about the centre of a stack."""
    own = stack.geometry
    require_known(own)
    return new_grid(request.order(own).geometry(own), request.spacing, None)


def resampled_reader(
    voxels: BlockReader,
    geometry: Geometry,
    stack: Stack,
    recipe: Intensity,
    how: Resampling = _LINEAR,
) -> ResampledReader:
    """Return the reader of blocks of a stack on another grid; segmentations are not mixed.

    Padding gets the floor of the recipe before values are mixed, and so have voxels outside.
    """
    how = _NEAREST if stack.content == "segmentation" else how
    fill = 0.0 if how is _NEAREST else outside_value(recipe, np.dtype(np.float32))
    shows = padding_shows(voxels, recipe, is_mixed=how is not _NEAREST)
    prepare = functools.partial(floored, recipe=recipe) if shows else None
    return ResampledReader(voxels, geometry, how, fill, prepare)


def interpolation_of_images(interpolation: Any, *, is_used: bool) -> Resampling:
    """Return the interpolation of the images of a dataset, for its keyword.

    Raises
    ------
    UsageError
        It is neither "linear" nor "thick_slices", or no default although images stay on the grid of
        their slices (not `is_used`).
    """
    if interpolation not in ("linear", "thick_slices"):
        raise UsageError(
            f"interpolation={interpolation!r}: expected 'linear' or 'thick_slices'; labels and "
            "segmentations take the nearest voxel"
        )
    if interpolation != "linear" and not is_used:
        raise UsageError(
            f"interpolation={interpolation!r} has no effect: it needs spacing=, the grid to "
            "interpolate to"
        )
    return Resampling(interpolation)


OWN_GRID = GridRequest()
