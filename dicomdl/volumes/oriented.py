"""Blocks with their axes in another order: exact, and read from the same bytes."""

import numpy as np

from dicomdl.arrays import Voxel
from dicomdl.geometry.axes import AxisOrder
from dicomdl.geometry.grid import Geometry
from dicomdl.values.reading import Converted
from dicomdl.volumes.block_reader import BlockReader, Scratch, require_inside


class OrientedReader:
    """Blocks of another reader with axes exchanged and reversed.

    A block costs what the same voxels cost in the other reader; blocks are views.

    Parameters
    ----------
    reader
        The reader of the values.
    order
        The order of the axes.
    """

    def __init__(self, reader: BlockReader, order: AxisOrder) -> None:
        self._reader, self._order = reader, order
        self.shape: Voxel = order.of(reader.shape)
        self.samples = reader.samples
        self.likely_dtype = reader.likely_dtype
        self.stored_axes: tuple[int, int, int] = order.of(reader.stored_axes)

    @property
    def geometry(self) -> Geometry:
        """The grid in this order of axes."""
        return self._order.geometry(self._reader.geometry)

    @property
    def padding_top(self) -> float:
        """Highest value of padding; -inf without padding."""
        return self._reader.padding_top

    @property
    def always_int16(self) -> bool:
        """Whether blocks are int16 for all possible values."""
        return self._reader.always_int16

    def read(
        self,
        start: Voxel,
        stop: Voxel,
        scratch: Scratch | None = None,
        *,
        want_padding: bool = True,
    ) -> Converted:
        """Read a block (see `BlockReader`)."""
        require_inside(start, stop, self.shape)
        begin, end = self._order.box(start, stop, self.shape)
        inner = None if scratch is None else scratch.inner
        array, padding = self._reader.read(begin, end, inner, want_padding=want_padding)
        array = self._order.view(array)
        if scratch is not None and scratch.blocks_outlive:
            block = scratch.block(array.shape, array.dtype)
            np.copyto(block, array)
            array = block
        return Converted(array, None if padding is None else self._order.view(padding))
