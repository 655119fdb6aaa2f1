"""Blocks of an image on the grid of another one, for the channels of a sample."""

import dataclasses
import math

import numpy as np

from dicomdl.arrays import Values, Voxel
from dicomdl.datasets._assembly import floored
from dicomdl.geometry.grid import Geometry
from dicomdl.index.views import Stack
from dicomdl.values.intensity import Intensity
from dicomdl.values.reading import Converted
from dicomdl.volumes.block_reader import BlockReader, Scratch, require_inside
from dicomdl.volumes.cutting import outside_value
from dicomdl.volumes.interpolation import Regridding, Resampling
from dicomdl.volumes.volume import Volume


class OnGrid:
    """Blocks of a grey image on another grid, with the values of `Volume.resample_to`.

    A block reads the box of the image that it needs. Padding has the lowest value of the recipe
    before values are interpolated, and so have voxels outside of the image.

    Parameters
    ----------
    reader
        The reader of the image, on its own grid.
    geometry
        The grid of blocks.
    recipe
        The intensity of the image.
    how
        The interpolation.
    """

    def __init__(
        self, reader: BlockReader, geometry: Geometry, recipe: Intensity, how: Resampling
    ) -> None:
        self.geometry = geometry
        self.shape: Voxel = geometry.shape
        self.samples: tuple[int, ...] = ()
        is_nearest = how.interpolation == "nearest"
        self.likely_dtype = reader.likely_dtype if is_nearest else np.dtype(np.float32)
        # Padding is replaced before values are interpolated.
        self.padding_top = -math.inf
        self.always_int16 = False
        self.stored_axes = (0, 1, 2)
        self._reader, self._recipe = reader, recipe
        self._way = Regridding(reader.geometry, geometry, how)

    def read(
        self,
        start: Voxel,
        stop: Voxel,
        scratch: Scratch | None = None,
        *,
        want_padding: bool = True,
    ) -> Converted:
        """Read a block (see `BlockReader`)."""
        del want_padding
        require_inside(start, stop, self.shape)
        inner = None if scratch is None else scratch.inner

        def box(low: Voxel, high: Voxel) -> Values:
            return floored(self._reader.read(low, high, inner), self._recipe)

        dtype = self._reader.likely_dtype
        outside = outside_value(self._recipe, self.likely_dtype)
        return Converted(self._way.block(box, start, stop, dtype, outside), None)


def interpolation_of(stack: Stack) -> Resampling:
    """Return the interpolation of a stack: linear, or that of labels for a segmentation."""
    return Resampling("nearest" if stack.content == "segmentation" else "linear")


def on_grid_of(volume: Volume, other: Volume, stack: Stack, recipe: Intensity) -> Volume:
    """Return another grey volume, that of a stack, on the grid of a volume."""
    how = interpolation_of(stack).interpolation
    if how != "nearest":
        # Interpolated values must not be rounded to integers.
        other = dataclasses.replace(other, array=other.array.astype(np.float32, copy=False))
    fill = outside_value(recipe, other.array.dtype)
    return other.resample_to(volume.geometry, interpolation=how, fill=fill)
