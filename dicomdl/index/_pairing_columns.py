"""Columns of stacks that a `Pairing` compares: its rules, its levels, and its preferences."""

from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from dicomdl.arrays import Floats, Ints, Mask
from dicomdl.errors import UsageError
from dicomdl.index._conditions import column_of, meeting, table_of
from dicomdl.index._identity import IDENTITY, SPLIT_LEVELS, rows_of_series, rows_of_stacks
from dicomdl.index.filtering import parsed
from dicomdl.index.index import Index
from dicomdl.index.rows import Generation
from dicomdl.index.views import Stack


def flags_of_rule(index: Index, rule: Any) -> Mask:
    """Return (stacks,) flags: the stacks of the complete index that meet a rule.

    A function is called for the stacks that meet the other parts of the rule.
    """
    generation = index._generation
    conditions, functions = _parts(index, rule)
    flags = np.ones(len(generation.stacks), dtype=np.bool_)
    for name, wanted in conditions:
        met = meeting(generation, name, wanted, index.joined)
        flags &= _of_stacks(met, generation.stack_starts)
    for function in functions:
        for number in np.flatnonzero(flags).tolist():
            flags[number] = bool(function(Stack(generation, number)))
    return flags


def _parts(index: Index, rule: Any) -> tuple[list[tuple[str, Any]], list[Callable[[Stack], Any]]]:
    """Return the conditions of a rule, as of `Index.select`, and its functions."""
    if isinstance(rule, str):
        return [parsed(index, rule)], []
    if isinstance(rule, Mapping):
        return list(rule.items()), []
    if callable(rule):
        return [], [rule]
    parts = [_parts(index, each) for each in rule]
    return [one for part in parts for one in part[0]], [one for part in parts for one in part[1]]


def _of_stacks(flags: Mask, starts: Ints) -> Mask:
    """Return (stacks,) flags of the stacks of which every frame has a flag."""
    if len(starts) == 1:
        return np.zeros(0, dtype=np.bool_)
    return np.asarray(np.logical_and.reduceat(flags[: starts[-1]], starts[:-1]))


def units(generation: Generation, by: str) -> Ints:
    """Return (stacks,) the number of the patient, study, Series or group of each stack."""
    if by in ("series", "group"):
        return np.asarray(generation.stacks.numbers(by), dtype=np.int64)
    owners = _owners(generation, SPLIT_LEVELS[by])
    if by == "patient":
        return owners
    # Two patients with one Study Instance UID have two studies.
    return combined([_owners(generation, SPLIT_LEVELS["patient"]), owners])


def _owners(generation: Generation, levels: tuple[str, ...]) -> Ints:
    """Return (stacks,) a number per value of the first level that is not blank."""
    frames, starts = generation.frames, generation.stack_starts
    series = np.asarray(generation.stacks.numbers("series"), dtype=np.int64)
    owners = np.stack([np.full(len(series), len(levels)), series])
    for level in reversed(range(len(levels))):
        codes, values = frames.codes(levels[level])
        is_known = np.array([bool(value) for value in values] or [False])
        held = codes[rows_of_series(frames, levels[level], starts, series)].astype(np.int64)
        found = is_known[held]
        owners[:, found] = np.stack([np.full(len(held), level), held])[:, found]
    return combined(list(owners))


def combined(columns: list[Ints]) -> Ints:
    """Return (n,) a number, from 0, per distinct combination of the values of columns."""
    codes = np.zeros(len(columns[0]), dtype=np.int64)
    for column in columns:
        distinct, own = np.unique(column, return_inverse=True)
        codes = codes * max(1, len(distinct)) + own.reshape(-1)
        codes = np.unique(codes, return_inverse=True)[1].reshape(-1)
    return codes


def same_values(generation: Generation, names: tuple[str, ...]) -> tuple[Ints, Mask]:
    """Return (stacks,) a number per combination of values, and flags of blank ones.

    The value of a stack is that of its first slice.

    Raises
    ------
    UsageError
        A column does not exist, or holds several numbers per row.
    """
    count, starts = len(generation.stacks), generation.stack_starts
    columns, blank = [np.zeros(count, dtype=np.int64)], np.zeros(count, dtype=np.bool_)
    for name in names:
        column, _ = column_of(generation, name)
        table, by_stack = table_of(generation, column)
        if table.is_list(column):
            raise UsageError(f"same: {column} holds several numbers per row", column=column)
        codes, values = table.codes(column)
        rows: Any = slice(None) if by_stack else starts[:-1]
        if column in IDENTITY:
            rows = rows_of_stacks(table, column, starts)
        held = codes[rows].astype(np.int64)
        blank |= np.array([value in (None, "") for value in values] or [True])[held]
        columns.append(held)
    return combined(columns), blank


def scores(generation: Generation, preference: Any, stacks: Ints) -> Floats:
    """Return (n,) the score of some stacks by a preference; the highest is the best.

    An unknown value has the score -inf.

    Raises
    ------
    UsageError
        A function of the user gives no number.
    """
    if callable(preference):
        given = [preference(Stack(generation, number)) for number in stacks.tolist()]
        try:
            values = np.array(given, dtype=np.float64).reshape(len(stacks))
        except (TypeError, ValueError):
            raise UsageError("prefer: a function of a stack gives a number, its score") from None
    else:
        read, sign = PREFERENCES[preference]
        values = sign * read(generation, stacks)
    return np.where(np.isnan(values), -np.inf, values)


def _of_frames(name: str) -> Callable[[Generation, Ints], Floats]:
    def read(generation: Generation, stacks: Ints) -> Floats:
        values = generation.frames.values(name, generation.stack_starts[stacks])
        return np.array([np.nan if v is None else v for v in values], dtype=np.float64)

    return read


def _of_table(name: str) -> Callable[[Generation, Ints], Floats]:
    return lambda made, stacks: np.asarray(made.stacks.numbers(name)[stacks], dtype=np.float64)


def _voxel_volumes(generation: Generation, stacks: Ints) -> Floats:
    spacing: npt.NDArray[np.float64] = generation.stacks.vectors("spacing", 3)[stacks]
    return np.asarray(spacing.prod(axis=1))


# Reader of a value of stacks, and 1 where the highest is the best, -1 where the lowest is.
PREFERENCES: Final[Mapping[str, tuple[Callable[[Generation, Ints], Floats], int]]] = {
    "most_slices": (_of_table("slices"), 1),
    "fewest_slices": (_of_table("slices"), -1),
    "thinnest_slices": (_of_table("slice_spacing"), -1),
    "smallest_voxels": (_voxel_volumes, -1),
    "first_series": (_of_frames("series_number"), -1),
    "last_series": (_of_frames("series_number"), 1),
    "first": (lambda _, stacks: stacks.astype(np.float64), -1),
    "last": (lambda _, stacks: stacks.astype(np.float64), 1),
}
