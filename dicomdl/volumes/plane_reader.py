"""Planes of a stack for a screen: axial, coronal and sagittal pictures, read one by one.

Slices are read one by one from the start. The other planes are read by their rows, or cut from
memory once the whole stack is there.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from dicomdl.arrays import Values
from dicomdl.errors import UsageError
from dicomdl.index.views import Stack
from dicomdl.values.quantity import Quantity
from dicomdl.volumes._planes import View, native_view, views_of
from dicomdl.volumes.blocks import voxels_of


@dataclass(frozen=True, slots=True)
class PlaneFacts:
    """One plane of a stack.

    Attributes
    ----------
    name
        "axial", "coronal" or "sagittal"; "" for slices without orientation.
    count
        The number of pictures.
    rows, columns
        The pixels of a picture.
    width_mm, height_mm
        The size of a picture, in mm where the spacing is known.
    is_native
        Whether its pictures are the slices.
    axis, row_axis, column_axis
        The array axes across the pictures, down and along their rows.
    turned
        Whether the pictures reverse the order of their rows, and of their columns.
    """

    name: str
    count: int
    rows: int
    columns: int
    width_mm: float
    height_mm: float
    is_native: bool
    axis: int
    row_axis: int
    column_axis: int
    turned: tuple[bool, bool]


class PlaneReader:
    """The pictures of a stack.

    Rows of an axial picture lead to Posterior, those of the others to Inferior; columns lead to
    Left, or in a sagittal picture to Posterior.

    Parameters
    ----------
    stack
        The stack.
    quantity
        The quantity of the values, as for ``read_volume(values=)``.

    Attributes
    ----------
    planes
        {name: facts} of the planes that the stack has.
    """

    def __init__(self, stack: Stack, quantity: Quantity = "modality") -> None:
        self._reader = voxels_of(stack, quantity)
        self._views = views_of(stack.geometry, stack.spacing[1:])
        self._whole: Values | None = None
        native = native_view(self._views)
        self.shape = stack.shape
        self.planes: Mapping[str, PlaneFacts] = {
            name: _facts(view, self.shape, view is native) for name, view in self._views.items()
        }

    @property
    def nbytes(self) -> int:
        """Bytes of the whole stack in memory."""
        samples = math.prod(self._reader.samples)
        return math.prod(self.shape) * samples * self._reader.likely_dtype.itemsize

    @property
    def is_whole(self) -> bool:
        """Whether the whole stack is in memory."""
        return self._whole is not None

    def load(self) -> None:
        """Read the whole stack into memory, after which each plane is cut from it.

        Raises
        ------
        PixelError
            A slice cannot be read.
        """
        self._whole = self.whole()

    def whole(self) -> Values:
        """Return the whole stack, (slice, row, column[, sample]); it is not kept.

        Raises
        ------
        PixelError
            A slice cannot be read.
        """
        if self._whole is not None:
            return self._whole
        return self._reader.read((0, 0, 0), self.shape, want_padding=False).array

    def read(self, plane: str, number: int) -> Values:
        """Read one picture.

        Parameters
        ----------
        plane
            The name of the plane.
        number
            The number of the picture, from 0, in the order of the array of the stack.

        Returns
        -------
        numpy.ndarray
            (row, column[, sample]), contiguous.

        Raises
        ------
        UsageError
            There is no such plane or picture.
        PixelError
            A slice cannot be read.
        """
        view = self._view(plane, number)
        if self._whole is not None:
            return np.ascontiguousarray(view.cut(self._whole, number))
        start, stop = [0, 0, 0], list(self.shape)
        start[view.axis], stop[view.axis] = number, number + 1
        corners = (start[0], start[1], start[2]), (stop[0], stop[1], stop[2])
        block = self._reader.read(*corners, want_padding=False).array
        return np.ascontiguousarray(view.cut(block, 0))

    def cut(self, values: Values, plane: str, number: int) -> Values:
        """Return the picture of other values on the grid of the stack, such as labels."""
        return np.ascontiguousarray(self._view(plane, number).cut(values, number))

    def _view(self, plane: str, number: int) -> View:
        view = self._views.get(plane)
        if view is None or not 0 <= number < self.shape[view.axis]:
            raise UsageError(f"the stack has no picture {number} of the plane {plane!r}")
        return view


def _facts(view: View, shape: tuple[int, int, int], is_native: bool) -> PlaneFacts:
    width, height = view.extent(shape)
    return PlaneFacts(
        name=view.name,
        count=shape[view.axis],
        rows=shape[view.rows],
        columns=shape[view.columns],
        width_mm=width,
        height_mm=height,
        is_native=is_native,
        axis=view.axis,
        row_axis=view.rows,
        column_axis=view.columns,
        turned=view.turned,
    )
