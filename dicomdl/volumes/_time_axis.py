"""The time between the volumes on the leading axis of an array."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from dicomdl.arrays import Floats
from dicomdl.geometry.time_steps import Facts, time_step_s, times_s
from dicomdl.index.views import Stack


def step_of(stacks: Sequence[Stack], names: Sequence[str], dimension: Sequence[Any]) -> float:
    """Return the time in s between volumes; NaN if there is none or it is unknown.

    Volumes from elsewhere have coordinates instead of stacks: "time_s", or "t", which are no times
    where they count 0, 1, 2, ...
    """
    if stacks:
        return time_step_s(_differing(names, dimension), _facts(stacks))
    if tuple(names) not in (("t",), ("time_s",)) or len(dimension) < 2:
        return math.nan
    steps = np.diff(np.asarray(dimension, dtype=np.float64))
    is_time = steps[0] > 0 and (steps[0] != 1 or names[0] == "time_s")
    is_equal = is_time and np.allclose(steps, steps[0], rtol=1e-6)
    return float(steps[0]) if is_equal else math.nan


def times_of(stacks: Sequence[Stack], names: Sequence[str], dimension: Sequence[Any]) -> Floats:
    """Return (volumes,) the times in s of the volumes of a group from the first; NaN if unknown."""
    return times_s(_differing(names, dimension), _facts(stacks))


def _differing(names: Sequence[str], dimension: Sequence[Any]) -> Sequence[str]:
    """Return the names whose values differ: a part of a group may share the value of one."""
    if len(names) < 2:
        return names
    values = [set(of_one) for of_one in zip(*dimension, strict=True)]
    return [name for name, of_one in zip(names, values, strict=True) if len(of_one) > 1]


def _facts(stacks: Sequence[Stack]) -> Facts:
    """Return a function from a column to its values at the ends of each stack."""
    return lambda column: [_ends(stack, column) for stack in stacks]


def _ends(stack: Stack, column: str) -> tuple[Any, Any]:
    """Return a fact of the first and of the last slice."""
    return stack.frame_value(0, column), stack.frame_value(len(stack) - 1, column)
