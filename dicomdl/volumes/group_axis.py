"""The leading axis of a group: what its volumes differ in, their times and their b-values.

The facts are read from the headers of every volume, once per group and process.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from dicomdl.arrays import Floats, Ints
from dicomdl.index.views import Group
from dicomdl.storage.memory import remembered
from dicomdl.volumes._diffusion import gradients
from dicomdl.volumes._time_axis import step_of, times_of


@dataclass(frozen=True, slots=True, eq=False)
class GroupAxis:
    """The volumes of a group along its leading axis.

    Attributes
    ----------
    names
        The columns of the attributes that distinguish the volumes, the slowest first.
    values
        A tuple per volume: the value of each attribute.
    times_s
        (t,) float64 seconds from the first volume of the group; NaN where they are no times or are
        unknown.
    time_step_s
        The time between the volumes in s; NaN without one.
    b_values, b_vectors
        (t,) s/mm^2 and (t, 3) unit vectors in LPS (see `Volume.b_values`).
    """

    names: tuple[str, ...]
    values: tuple[tuple[Any, ...], ...]
    times_s: Floats
    time_step_s: float
    b_values: Floats
    b_vectors: Floats

    def at(self, times: Ints) -> "GroupAxis":
        """Return the axis of some volumes; without equal steps there is no time step."""
        if np.array_equal(times, np.arange(len(self.values))):
            return self
        steps = np.diff(times)
        is_even = len(steps) > 0 and steps[0] > 0 and bool((steps == steps[0]).all())
        return GroupAxis(
            self.names,
            tuple(self.values[t] for t in times.tolist()),
            self.times_s[times],
            self.time_step_s * int(steps[0]) if is_even else np.nan,
            self.b_values[times],
            self.b_vectors[times],
        )

    def numbers(self) -> Floats:
        """Return (t, names) float64 the values that are numbers, NaN for all others."""
        numbers = [[_number(value) for value in values] for values in self.values]
        return np.array(numbers, np.float64).reshape(len(self.values), len(self.names))


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else np.nan


def axis_of(group: Group) -> GroupAxis:
    """Return the leading axis of a group; each process remembers those that it used last."""
    return _known_axis(group)


@remembered("group axes", lambda axis: 512 * (len(axis.values) + 1))
def _known_axis(group: Group) -> GroupAxis:
    names, stacks = group.dimension_names, list(group)
    values = tuple(tuple(stack.dimension[name] for name in names) for stack in stacks)
    b_values, b_vectors = gradients(stacks)
    dimension = group.dimension
    return GroupAxis(
        names,
        values,
        times_of(stacks, names, dimension),
        step_of(stacks, names, dimension),
        b_values,
        b_vectors,
    )
