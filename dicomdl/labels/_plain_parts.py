"""Parts of a block out of frames of plain bits or bytes that are not turned, many at a time."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from dicomdl.arrays import Ints, Mask, Values, Voxel
from dicomdl.labels._aligned import Parts
from dicomdl.labels._bit_rows import BitRows
from dicomdl.labels._row_batches import row_batches
from dicomdl.labels._seg_frames import SegFrames
from dicomdl.storage.sources import Handle


class LabelledValues(NamedTuple):
    """Stored values in a part of a block: its slices, (slices, rows, columns), and the label."""

    where: tuple[slice, ...]
    values: Values
    label: int


def bit_parts(frames: SegFrames, handle: Handle, parts: Parts, start: Voxel) -> Iterator[BitRows]:
    """Yield parts of the block at voxel `start` as bits."""
    planes, low = parts.slices - start[0], parts.low - start[1:]
    places = np.column_stack([parts.high - parts.low, planes, low])
    for batch in row_batches(frames, handle, parts):
        pieces = np.column_stack([batch.bits, places[batch.part]])
        yield BitRows(batch.data, frames.size[1], pieces, parts.labels[batch.part])


def byte_parts(
    frames: SegFrames, handle: Handle, parts: Parts, start: Voxel, *, at_once: bool
) -> Iterator[LabelledValues]:
    """Yield parts of the block at voxel `start` as bytes; slices in a row together if `at_once`."""
    goes_on = _goes_on(parts) & at_once
    for batch in row_batches(frames, handle, parts):
        for first, last in _runs(goes_on, batch.part):
            (top, left), (bottom, right) = parts.low[first].tolist(), parts.high[first].tolist()
            at = batch.bits[first - batch.part.start : last - batch.part.start] >> 3
            step = int(at[1] - at[0]) if len(at) > 1 else 0
            shape = last - first, bottom - top, right - left
            values: Values = np.ndarray(
                shape, np.uint8, batch.data, int(at[0]), (step, shape[2], 1)
            )
            z = int(parts.slices[first:last].min()) - start[0]
            where = (
                slice(z, z + shape[0]),
                slice(top - start[1], bottom - start[1]),
                slice(left - start[2], right - start[2]),
            )
            is_down = parts.slices[first] > parts.slices[last - 1]
            yield LabelledValues(
                where, values[::-1] if is_down else values, int(parts.labels[first])
            )


def _goes_on(parts: Parts) -> Mask:
    """Return whether each part but the last has its neighbour behind it: one slice on or back."""
    steps = np.diff(parts.slices)
    goes_on: Mask = np.abs(steps) == 1
    for each in (parts.corners, parts.low, parts.high):
        goes_on &= (each[1:] == each[:-1]).all(axis=1)
    # In one direction.
    goes_on[1:] &= (steps[1:] == steps[:-1]) | ~goes_on[:-1]
    return goes_on


def _runs(goes_on: Mask, part: slice) -> Iterator[tuple[int, int]]:
    """Yield the first and the last (excluded) of the parts that go on, within a batch."""
    begin, end = part.start, part.stop
    ends: Ints = np.flatnonzero(~goes_on[begin : end - 1]) + begin + 1
    for last in [*ends.tolist(), end]:
        yield begin, last
        begin = last
