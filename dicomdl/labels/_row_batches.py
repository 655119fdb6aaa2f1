"""Parts of frames of plain bits or bytes, read many at a time."""

from collections.abc import Iterator
from typing import Final, NamedTuple

import numpy as np

from dicomdl.arrays import Ints
from dicomdl.errors import PixelError
from dicomdl.labels._aligned import Parts
from dicomdl.labels._seg_frames import SegFrames
from dicomdl.pixels.stored import add_frame_note
from dicomdl.storage.many_ranges import Bytes, Ranges, read_ranges
from dicomdl.storage.sources import Handle

# Bytes that are kept at once: they stay in the processor's cache until they are drawn.
_MOST_AT_ONCE: Final = 1 << 19


class RowBatch(NamedTuple):
    """Parts of some frames: complete rows of bits, or the columns of a part in rows of bytes.

    Attributes
    ----------
    part
        Which of the parts they are.
    data
        Their bytes, a multiple of eight. The next batch overwrites them.
    bits
        (parts,) int64: the first bit of the part in `data`.
    """

    part: slice
    data: Bytes
    bits: Ints


def row_batches(frames: SegFrames, handle: Handle, parts: Parts) -> Iterator[RowBatch]:
    """Read parts of frames of plain bits or bytes that are not turned.

    Parameters
    ----------
    frames
        The frames.
    handle
        Their file, open.
    parts
        The parts.

    Raises
    ------
    PixelError
        The file ends before.
    """
    fields, first = _fields(frames, parts)
    # Each begins with a word of eight bytes.
    room = fields[:, 1] * fields[:, 4] + 7 & -8
    ends = np.cumsum(room)
    data, begin = np.zeros(0, np.uint8), 0
    band = np.empty(Ranges(fields, 0).band_size, np.uint8)

    def note(error: PixelError, at: int) -> None:
        add_frame_note(error, frames.source_of(int(parts.frames[begin + at])))

    while begin < len(fields):
        before = int(ends[begin] - room[begin])
        end = max(begin + 1, int(np.searchsorted(ends, before + _MOST_AT_ONCE, side="right")))
        part, size = slice(begin, end), int(ends[end - 1]) - before
        if len(data) < size:
            data = np.empty(size, np.uint8)
        places = fields[part, 5] = ends[part] - room[part] - before
        # What follows a part in its last word is 0.
        data[:size].view(np.uint64)[(ends[part] - before >> 3) - 1] = 0
        read_ranges(handle, Ranges(fields[part], size), data, band, note)
        yield RowBatch(part, data[:size], (places << 3) + first[part])
        begin = end


def _fields(frames: SegFrames, parts: Parts) -> tuple[Ints, Ints]:
    """Return the fields of `Ranges` without places, and the first bit of each part within."""
    assert frames.first_bits is not None
    (top, left), (bottom, right) = (parts.low - parts.corners).T, (parts.high - parts.corners).T
    begin = frames.first_bits[parts.frames]
    starts, stops = frames.bytes_of_rows(begin, top, bottom)
    none = np.zeros_like(starts)
    if frames.bits == 8:
        width = np.full_like(starts, frames.size[1])
        fields = [starts, bottom - top, width, left, right - left, none]
        return np.stack(fields, axis=1), none
    sizes = stops - starts
    shifts = begin + top * frames.size[1] - (starts << 3)
    return np.stack([starts, none + 1, sizes, none, sizes, none], axis=1), shifts + left
