"""Several slices of a grid at once, in one pass over the files where they lie across them.

A coronal or sagittal slice of axial images has one line in each file. Read one after the other,
slices would open or decode every file once per slice.
"""

import itertools
from collections.abc import Sequence
from typing import Final

import numpy as np

from dicomdl.arrays import Ints, Voxel
from dicomdl.geometry.grid import Geometry
from dicomdl.values.reading import Converted
from dicomdl.volumes.block_reader import BlockReader, Scratch, require_inside

# Voxels to read at once of slices that lie across the stored ones: half a megabyte of int16.
_PART_VOXELS: Final = 1 << 18
# Voxels of whole stored slices that stay in memory for all slices that cross them, if decoded.
_STORED_VOXELS: Final = 1 << 22


class KeptSlices:
    """Some slices of a grid in memory, as a reader of blocks that lie in them.

    Parameters
    ----------
    reader
        The reader of the grid.
    numbers
        The numbers of the slices, ascending, each once.
    want_padding
        False skips the search for padding.
    """

    def __init__(
        self, reader: BlockReader, numbers: Sequence[int], *, want_padding: bool = True
    ) -> None:
        self._numbers: Ints = np.asarray(numbers, np.int64)
        self._kept = read_slices(reader, numbers, want_padding=want_padding)
        self.geometry: Geometry = reader.geometry
        self.shape = reader.shape
        self.samples = reader.samples
        self.likely_dtype = reader.likely_dtype
        self.padding_top = reader.padding_top
        self.always_int16 = reader.always_int16
        self.stored_axes = reader.stored_axes

    def read(
        self,
        start: Voxel,
        stop: Voxel,
        scratch: Scratch | None = None,
        *,
        want_padding: bool = True,
    ) -> Converted:
        """Copy a block (see `BlockReader`) whose slices are kept."""
        del scratch, want_padding
        require_inside(start, stop, self.shape)
        slices = np.searchsorted(self._numbers, np.arange(start[0], stop[0]))
        rows, columns = slice(start[1], stop[1]), slice(start[2], stop[2])
        array, padding = self._kept
        # An index array copies, so that the caller may change the values.
        return Converted(
            array[slices][:, rows, columns],
            None if padding is None else padding[slices][:, rows, columns],
        )


def read_slices(
    reader: BlockReader, numbers: Sequence[int], *, want_padding: bool = True
) -> Converted:
    """Read some slices of a grid, each byte of the files at most once.

    Parameters
    ----------
    reader, numbers, want_padding
        As for `KeptSlices`.

    Returns
    -------
    Converted
        (len(numbers), rows, columns[, sample]) values, of the first dtype that holds all of them;
        and the mask of padding, None without any.
    """
    way, along = _Pass(reader, want_padding), reader.stored_axes.index(0)
    if along == 0:
        ends = (0, reader.shape[1])
        return _joined([way.read(run, 1, ends) for run in _runs(numbers)], 0)
    # Slices along stored columns cover every stored row, so one block serves all of them.
    runs = [list(numbers)] if reader.stored_axes[0] == 2 else _runs(numbers)
    stored = reader.shape[along]
    per_stored = reader.shape[3 - along] * max(run[-1] - run[0] + 1 for run in runs)
    step = _PART_VOXELS // per_stored
    if len(runs) > 1:
        step = min(step, _STORED_VOXELS // (reader.shape[0] * reader.shape[3 - along]))
    step = max(1, step)
    parts = []
    for first in range(0, stored, step):
        ends = (first, min(first + step, stored))
        parts.append(_joined([way.read(run, along, ends) for run in runs], 0))
    return _joined(parts, along)


def _runs(numbers: Sequence[int]) -> list[list[int]]:
    """Divide ascending numbers into runs of consecutive ones."""
    groups = itertools.groupby(enumerate(numbers), lambda pair: pair[1] - pair[0])
    return [[number for _, number in group] for _, group in groups]


class _Pass:
    """One pass over the files of a reader."""

    def __init__(self, reader: BlockReader, want_padding: bool) -> None:
        self._reader, self._want_padding = reader, want_padding
        self._scratch = Scratch()

    def read(self, run: Sequence[int], axis: int, ends: tuple[int, int]) -> Converted:
        """Read the slices `run`, within `ends` of another axis."""
        start, stop = [run[0], 0, 0], [run[-1] + 1, *self._reader.shape[1:]]
        start[axis], stop[axis] = ends
        span = stop[0] - start[0]
        array, padding = self._reader.read(
            (start[0], start[1], start[2]),
            (stop[0], stop[1], stop[2]),
            None if len(run) == span else self._scratch,
            want_padding=self._want_padding,
        )
        if len(run) == span:
            return Converted(array, padding)
        # An index array copies, out of memory that the next read overwrites.
        chosen = np.asarray(run) - run[0]
        return Converted(array[chosen], None if padding is None else padding[chosen])


def _joined(parts: Sequence[Converted], axis: int) -> Converted:
    """Join parts along an axis, in the first dtype of blocks that holds all their values."""
    if len(parts) == 1:
        return parts[0]
    arrays = [part.array for part in parts]
    is_float = any(array.dtype.kind == "f" for array in arrays)
    dtype = np.dtype(np.float32) if is_float else np.result_type(*arrays)
    array = np.concatenate(arrays, axis=axis, dtype=dtype, casting="same_kind")
    if all(part.padding is None for part in parts):
        return Converted(array, None)
    masks = [
        np.zeros(part.array.shape[:3], np.bool_) if part.padding is None else part.padding
        for part in parts
    ]
    return Converted(array, np.concatenate(masks, axis=axis))
