"""Blocks of values on another grid, interpolated from the voxels that each block needs."""

import math
from collections.abc import Callable

import numpy as np

from dicomdl.arrays import Values, Voxel
from dicomdl.geometry.grid import Geometry
from dicomdl.values.reading import Converted
from dicomdl.volumes.block_reader import BlockReader, Scratch, require_inside
from dicomdl.volumes.interpolation import ReadBox, Regridding, Resampling
from dicomdl.volumes.resampling import rounded


class ResampledReader:
    """Blocks of another reader at the voxels of another grid.

    Grey values are float32, colour and the nearest values keep their dtype. A block has the values
    that `Volume.resample_to` gives its voxels, and reads only the slices, rows and columns between
    which it lies, a few slices at a time.

    Parameters
    ----------
    reader
        The reader of the values.
    geometry
        The new grid.
    how
        The interpolation.
    fill
        Value of voxels outside of the reader's grid.
    prepare
        Replaces padding, so that it does not mix with the image: it takes values as read and
        returns them, changed in place. None if no padding shows.
    """

    always_int16 = False
    padding_top = -math.inf

    def __init__(
        self,
        reader: BlockReader,
        geometry: Geometry,
        how: Resampling,
        fill: float,
        prepare: Callable[[Converted], Values] | None = None,
    ) -> None:
        self._reader, self._fill, self._prepare = reader, fill, prepare
        self._way = Regridding(reader.geometry, geometry, how)
        first, second, third = (reader.stored_axes[axis] for axis in self._way.axes)
        self.stored_axes = (first, second, third)
        self.geometry = geometry
        self.shape: Voxel = geometry.shape
        self.samples = reader.samples
        self._keeps_dtype = how.interpolation == "nearest" or bool(reader.samples)
        self.likely_dtype = reader.likely_dtype if self._keeps_dtype else np.dtype(np.float32)

    def read(
        self,
        start: Voxel,
        stop: Voxel,
        scratch: Scratch | None = None,
        *,
        want_padding: bool = True,
    ) -> Converted:
        """Read a block (see `BlockReader`); its padding is replaced already."""
        del want_padding
        require_inside(start, stop, self.shape)
        memory = Scratch() if scratch is None else scratch
        inner = memory.inner

        def read(first: Voxel, last: Voxel) -> Values:
            return self._prepared(first, last, inner)

        if self.samples:
            result = self._colour(read, start, stop)
        else:
            dtype = self.likely_dtype
            result = self._way.block(read, start, stop, dtype, self._fill, inner.array)
        if memory.blocks_outlive:
            block = memory.block(result.shape, result.dtype)
            np.copyto(block, result)
            result = block
        return Converted(result, None)

    def _prepared(self, start: Voxel, stop: Voxel, inner: Scratch) -> Values:
        """Read a block of the other reader, without padding."""
        got = self._reader.read(start, stop, inner, want_padding=self._prepare is not None)
        if self._prepare is None or got.padding is None:
            return got.array
        if self._keeps_dtype:
            return self._prepare(got)
        # The lowest value of a recipe need not be an integer.
        floats = inner.array("floats", got.array.shape, np.dtype(np.float32))
        np.copyto(floats, got.array)
        return self._prepare(Converted(floats, got.padding))

    def _colour(self, read: ReadBox, start: Voxel, stop: Voxel) -> Values:
        dtype = self.likely_dtype
        samples = [
            self._way.block(
                lambda first, last, n=number: read(first, last)[..., n],  # type: ignore[misc]
                start,
                stop,
                dtype,
                self._fill,
            )
            for number in range(self.samples[0])
        ]
        result = np.stack(samples, axis=-1)
        return result if result.dtype == dtype else rounded(result, dtype)
