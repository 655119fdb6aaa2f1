"""Selections of frames as ranges of rows, and as flags per frame."""

import operator

import numpy as np
import numpy.typing as npt

from dicomdl.errors import UsageError, no_integer
from dicomdl.index.rows import Generation

# (k, 2): rows [start, stop), ascending, not touching.
Ranges = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]


def ranges_of(mask: Flags) -> Ranges:
    """Return (k, 2) the runs of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], mask, [False]]).astype(np.int8)))
    return edges.reshape(-1, 2).astype(np.int64)


def rows_of(ranges: Ranges, offsets: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return the rows of ranges, ascending. `offsets` is (k + 1,) the rows before each range."""
    count = np.arange(int(offsets[-1]))
    return np.asarray(count + np.repeat(ranges[:, 0] - offsets[:-1], np.diff(offsets)))


def row_of(ranges: Ranges, offsets: npt.NDArray[np.int64], number: int) -> int:
    """Return the row of a selected frame; negative numbers count from the end.

    Raises
    ------
    UsageError
        There is no such frame, or the number is no integer.
    """
    try:
        number = operator.index(number)
    except TypeError:
        raise no_integer(number, "frame") from None
    count = int(offsets[-1])
    if not -count <= number < count:
        raise UsageError(f"frame {number} of {count}", number=number, frames=count)
    number %= count
    which = int(np.searchsorted(offsets, number, side="right")) - 1
    return int(ranges[which, 0] + number - offsets[which])


def complete_stacks(ranges: Ranges, starts: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return the numbers of the stacks of which every frame lies in the ranges.

    `starts` is (stacks + 1,) the first frame row of each stack, and the end.
    """
    if len(ranges) == 0:
        return np.empty(0, dtype=np.int64)
    which = np.searchsorted(ranges[:, 0], starts[:-1], side="right") - 1
    inside = (which >= 0) & (starts[1:] <= ranges[np.maximum(which, 0), 1])
    return np.flatnonzero(inside)


def in_stacks(generation: Generation, numbers: npt.ArrayLike) -> Flags:
    """Return (frames,) flags of the frames of some stacks.

    Raises
    ------
    UsageError
        There is no stack with such a number.
    """
    wanted, count = np.asarray(numbers, dtype=np.int64), len(generation.stacks)
    if wanted.size and (wanted.min() < 0 or wanted.max() >= count):
        raise UsageError(
            f"there are stacks 0 to {count - 1}, found {wanted.min()} to {wanted.max()}",
            stacks=count,
        )
    chosen = np.zeros(count, dtype=bool)
    chosen[wanted] = True
    return flags_per_frame(generation, chosen)


def in_rows(generation: Generation, rows: npt.ArrayLike) -> Flags:
    """Return (frames,) flags of some rows of the table `frames`.

    Raises
    ------
    UsageError
        There is no such row.
    """
    wanted, count = np.asarray(rows, dtype=np.int64), len(generation.frames)
    if wanted.size and (wanted.min() < 0 or wanted.max() >= count):
        raise UsageError(
            f"there are rows 0 to {count - 1}, found {wanted.min()} to {wanted.max()}", rows=count
        )
    chosen = np.zeros(count, dtype=bool)
    chosen[wanted] = True
    return chosen


def flags_per_frame(generation: Generation, mask: Flags) -> Flags:
    """Expand flags per stack to (frames,) flags; False for copies, which are in no stack."""
    starts = generation.stack_starts
    return np.append(
        np.repeat(mask, np.diff(starts)),
        np.zeros(len(generation.frames) - starts[-1], dtype=bool),
    )
