"""Voxels per slice and label out of the bits of frames, without making a label map."""

from collections.abc import Sequence

import numpy as np

from dicomdl.arrays import Ints, Values
from dicomdl.labels._choice import Choice
from dicomdl.labels._seg_frames import RowReader


def count_bits(
    reader: RowReader,
    of_slice: tuple[Ints, Ints],
    segments: Ints,
    choices: Sequence[Choice],
) -> Values:
    """Return (slices, labels) int32: the voxels of each label per slice.

    A voxel of several labels counts for the last one, as in a label map.

    Parameters
    ----------
    reader
        The reader of frames, each of which covers its slice exactly.
    of_slice
        The frames in the order of their slices, and (slices + 1,) the first of each slice.
    segments
        (frames,) int64: the segment of each frame.
    choices
        The labels.
    """
    last = {number: n for n, choice in enumerate(choices) for number in choice.numbers}
    label_of = np.array([last.get(number, -1) for number in segments.tolist()], np.int64)
    order, bounds = of_slice
    counts = np.zeros((len(bounds) - 1, len(choices)), np.int32)
    for z, (begin, end) in enumerate(zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True)):
        frames = order[begin:end]
        free: Values | None = None
        for frame in frames[np.argsort(-label_of[frames], kind="stable")].tolist():
            label = int(label_of[frame])
            words = None if label < 0 else reader.words(frame)
            if words is None:
                continue
            if free is None:
                free = np.full(len(words), ~np.uint64(0))
            new = words & free
            free ^= new
            counts[z, label] += _ones(new)
    return counts


def _ones(words: Values) -> int:
    """Return the number of bits that are 1."""
    if hasattr(np, "bitwise_count"):
        return int(np.bitwise_count(words).sum(dtype=np.int64))
    # Before NumPy 2.0.
    return int(np.unpackbits(words.view(np.uint8)).sum(dtype=np.int64))
