"""Readers of blocks: what patches are cut from, on the grid of a stack or on another one.

`blocks.StackVoxels` reads on the grid of a stack. Other readers wrap a reader and deliver its
values on another grid.
"""

import math
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from dicomdl.arrays import Values, Voxel
from dicomdl.errors import UsageError
from dicomdl.geometry.grid import Geometry
from dicomdl.values.reading import Converted


class Scratch:
    """Memory that one thread reuses for block after block.

    Parameters
    ----------
    new_block
        Allocator of (shape, dtype) for blocks that must outlive the next read. None reuses one
        buffer.
    """

    def __init__(
        self, new_block: Callable[[tuple[int, ...], np.dtype[Any]], Values] | None = None
    ) -> None:
        self._bytes: dict[str, Values] = {}
        self._new_block = new_block
        # The memory of the reader below one that changes the grid: its blocks may be overwritten.
        self.inner: Scratch = self if new_block is None else Scratch()

    @property
    def blocks_outlive(self) -> bool:
        """Whether blocks must lie in new memory, to outlive the next read."""
        return self._new_block is not None

    def block(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Values:
        """Return an array for a block; without `new_block` it overwrites the previous block."""
        return (
            self.array("block", shape, dtype)
            if self._new_block is None
            else self._new_block(shape, dtype)
        )

    def array(self, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Values:
        """Return the array of a name, not cleared; it overwrites the previous one of that name."""
        needed = math.prod(shape) * dtype.itemsize
        buffer = self._bytes.get(name)
        if buffer is None or buffer.nbytes < needed:
            buffer = self._bytes[name] = np.empty(needed, np.uint8)
        return buffer[:needed].view(dtype).reshape(shape)


class BlockReader(Protocol):
    """A reader of blocks of one image, on a grid of its own."""

    @property
    def geometry(self) -> Geometry:
        """The grid that blocks are cut from; its affine is NaN where unknown."""

    @property
    def shape(self) -> Voxel:
        """The shape of the grid."""

    @property
    def samples(self) -> tuple[int, ...]:
        """Last axis of blocks: () for grey, (3,) for RGB."""

    @property
    def likely_dtype(self) -> np.dtype[Any]:
        """Dtype of blocks, unless values turn out not to fit it."""

    @property
    def padding_top(self) -> float:
        """Highest value of padding; -inf without padding."""

    @property
    def always_int16(self) -> bool:
        """Whether blocks are int16 for all possible values.

        Parts of a block may then be read one after the other.
        """

    @property
    def stored_axes(self) -> tuple[int, int, int]:
        """The axis of the stored slices (0 slice, 1 row, 2 column) that each axis lies along.

        Parts of a block along stored slices read no byte twice; along rows or columns they may
        read the rows, or decode the slices, again.
        """

    def read(
        self,
        start: Voxel,
        stop: Voxel,
        scratch: Scratch | None = None,
        *,
        want_padding: bool = True,
    ) -> Converted:
        """Read the block from voxel `start` up to `stop`, which is excluded.

        The caller owns the values and may change them, up to the next read into `scratch`. They
        need not be contiguous.
        """


def require_inside(start: Voxel, stop: Voxel, shape: Voxel) -> None:
    """Raise a UsageError for a block that is empty or not inside the grid."""
    if not all(0 <= a < b <= n for a, b, n in zip(start, stop, shape, strict=True)):
        raise UsageError(
            f"the block from {start} to {stop} is not inside the stack of shape {shape}",
            start=start,
            stop=stop,
        )
