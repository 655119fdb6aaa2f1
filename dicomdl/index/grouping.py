"""Stacks and frames by their numbers, gathered by what they belong to."""

from typing import Any, Final

import numpy as np

from dicomdl.arrays import Ints
from dicomdl.index._identity import SPLIT_LEVELS, rows_of_series
from dicomdl.index.index import Index
from dicomdl.index.rows import Generation
from dicomdl.index.views import Stacks

# Facts by which the members of a study or patient are in order, the first one decides first.
_ORDER: Final = ("series_number", "instance_number")


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


def stacks_by_level(stacks: Stacks, by: str) -> list[Ints]:
    """Return the numbers of the stacks of each study or patient (a level of `Index.split`).

    Members are in the order of laterality, view position, series number, instance number, and of
    the index; those without a fact come last. Studies are in the order of their first stacks.
    """
    generation, numbers = stacks._generation, stacks.numbers
    rows = generation.stack_starts[numbers]
    return [numbers[part] for part in _by_level(generation, numbers, rows, by)]


def frames_by_level(index: Index, by: str) -> list[Ints]:
    """Return the numbers of the frames of each study or patient, as `stacks_by_level` does."""
    generation, rows = index._generation, index.rows()
    owners = np.searchsorted(generation.stack_starts, rows, side="right") - 1
    return _by_level(generation, owners, rows, by)


def _by_level(generation: Generation, stacks: Ints, rows: Ints, by: str) -> list[Ints]:
    """Return the positions of the members of each level, for members of some stacks and rows."""
    if not len(rows):
        return []
    levels = _levels(generation, stacks, by)
    facts = [_ranks(generation.frames.codes(name), rows) for name in _ORDER]
    sides, views = _laterality(generation, rows), generation.frames.codes("view_position")
    order = np.lexsort([np.arange(len(rows)), *facts[::-1], _ranks(views, rows), sides, levels])
    parts = np.split(order, np.flatnonzero(np.diff(levels[order])) + 1)
    return sorted(parts, key=lambda part: int(part.min()))


def _levels(generation: Generation, stacks: Ints, by: str) -> Ints:
    """Return the number of the level that each stack is of; blank identities are those of Series.

    As for a split, the first column that is not blank identifies a stack.
    """
    frames, starts = generation.frames, generation.stack_starts
    series = generation.stacks.numbers("series")
    levels, offset = np.full(len(stacks), -1, np.int64), 0
    for name in SPLIT_LEVELS[by]:
        codes, values = frames.codes(name)
        own = codes[rows_of_series(frames, name, starts, series)[stacks]].astype(np.int64)
        is_known = np.array([bool(value) for value in values] or [False])[own]
        levels = np.where((levels < 0) & is_known, own + offset, levels)
        offset += len(values)
    return np.where(levels < 0, offset + series[stacks], levels)


def _laterality(generation: Generation, rows: Ints) -> Ints:
    """Return ranks of Image Laterality, or of Laterality where that is blank."""
    own, of_body_part = (
        [str(values[code] or "") for code in codes[rows].tolist()]
        for codes, values in map(generation.frames.codes, ("image_laterality", "laterality"))
    )
    sides = [image or part for image, part in zip(own, of_body_part, strict=True)]
    names = sorted(set(sides), key=lambda side: (not side, side))
    return np.array([names.index(side) for side in sides], np.int64)


def _ranks(column: tuple[Any, list[Any]], rows: Ints) -> Ints:
    """Return integers that sort as the values of some rows do; absent and blank values last."""
    codes, values = column
    absent = [code for code, value in enumerate(values) if value in (None, "")]
    known = sorted(set(range(len(values))) - set(absent), key=values.__getitem__)
    ranks = np.full(len(values), len(values), np.int64)
    ranks[known] = np.arange(len(known))
    return np.asarray(ranks[codes[rows]])
