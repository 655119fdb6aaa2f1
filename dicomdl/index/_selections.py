"""Selections of frames as ranges of rows, as flags per frame, and as conditions on columns."""

from typing import Any

import numpy as np
import numpy.typing as npt

from dicomdl.errors import UsageError
from dicomdl.index._identity import IDENTITY, per_frame, rows_of_stacks
from dicomdl.index.rows import Generation
from dicomdl.index.table import between, no_such_column, where

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


def complete_stacks(ranges: Ranges, starts: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return the numbers of the stacks of which every frame lies in the ranges.

    `starts` is (stacks + 1,) the first frame row of each stack, and the end.
    """
    if len(ranges) == 0:
        return np.empty(0, dtype=np.int64)
    which = np.searchsorted(ranges[:, 0], starts[:-1], side="right") - 1
    inside = (which >= 0) & (starts[1:] <= ranges[np.maximum(which, 0), 1])
    return np.flatnonzero(inside)


def columns_of(generation: Generation) -> list[str]:
    """Return the column names of conditions: those of stacks, then those of frames."""
    return [*generation.stacks.names, *generation.frames.names]


def meeting(generation: Generation, condition: str, wanted: Any) -> Flags:
    """Return (frames,) flags of the frames that meet a condition of `Index.select`.

    Raises
    ------
    UsageError
        A column that does not exist, or a value of another type than the column's.
    """
    columns, name, low, high = columns_of(generation), condition, None, None
    if condition not in columns and condition.startswith(("min_", "max_")):
        name = condition[4:]
        low, high = (wanted, None) if condition.startswith("min_") else (None, wanted)
    if name not in columns:
        raise no_such_column(name, columns)
    by_stack = name in generation.stacks.names
    table = generation.stacks if by_stack else generation.frames
    mask = where(table, name, wanted) if name == condition else between(table, name, low, high)
    if name in IDENTITY:
        frames, starts = generation.frames, generation.stack_starts
        mask = mask[per_frame(frames, rows_of_stacks(frames, name, starts), starts)]
    return _per_frame(generation, mask) if by_stack else mask


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
    return _per_frame(generation, chosen)


def _per_frame(generation: Generation, mask: Flags) -> Flags:
    """Expand flags per stack to (frames,) flags; False for copies, which are in no stack."""
    starts = generation.stack_starts
    return np.append(
        np.repeat(mask, np.diff(starts)),
        np.zeros(len(generation.frames) - starts[-1], dtype=bool),
    )
