"""Stacks by their numbers, gathered by what they belong to."""

import numpy as np

from dicomdl.arrays import Ints
from dicomdl.index.views import Stacks


def by_group(stacks: Stacks) -> list[Ints]:
    """Return the numbers of the stacks of each group, in the order of the group's dimension.

    Groups come in the order of their first stack.
    """
    table, numbers = stacks._generation.stacks, stacks.numbers
    groups, within = table.numbers("group")[numbers], table.numbers("group_index")[numbers]
    order = np.lexsort([within, groups])
    parts = np.split(numbers[order], np.flatnonzero(np.diff(groups[order])) + 1)
    return sorted(parts, key=lambda part: int(part.min())) if len(numbers) else []


def with_numbers(stacks: Stacks, numbers: Ints) -> Stacks:
    """Return the stacks of an index with some numbers (`Stack.number`), in their order."""
    return Stacks(stacks._generation, numbers)
