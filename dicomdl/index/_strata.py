"""Strata of a split: the classes of columns of the index or of joined columns, per unit."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from dicomdl.arrays import Ints
from dicomdl.errors import UsageError
from dicomdl.headers.frame import attributes
from dicomdl.index._components import Grouping, stack_of_rows
from dicomdl.index._conditions import columns_of, table_of
from dicomdl.index.joined import Joined
from dicomdl.index.rows import Generation
from dicomdl.index.schema import STACKS_SCHEMA
from dicomdl.index.table import Table, no_such_column

# Most distinct numbers that are classes of their own; more are divided into BINS of equal counts.
MAX_NUMBERS: Final = 20
BINS: Final = 5
# Most classes of a column of text: more are names, which cannot be in balance.
MAX_CLASSES: Final = 1000
UNKNOWN: Final = "unknown"


@dataclass(frozen=True, slots=True, eq=False)
class Strata:
    """Classes of units.

    Attributes
    ----------
    names
        The name of each class, such as "target=1".
    units, classes
        (n,) int64: pairs of a unit and a class that it has, each pair once.
    frames
        (n,) int64: the number of frames of the unit in the class.
    """

    names: tuple[str, ...]
    units: Ints
    classes: Ints
    frames: Ints


def strata_of(
    generation: Generation, joined: Joined, rows: Ints, grouping: Grouping, columns: Sequence[str]
) -> Strata:
    """Return the classes that the units of some rows have in the columns.

    A unit has every class that a frame of it has. Frames without a value have the class "unknown".

    Raises
    ------
    UsageError
        There is no such column, or it holds lists of numbers or too many classes.
    """
    units = grouping.unit[stack_of_rows(generation)[rows]]
    names: list[str] = []
    pairs = [np.zeros((0, 3), dtype=np.int64)]
    for column in columns:
        at, codes, classes = _classes(generation, joined, rows, column)
        both, frames = _counted(units[at] * len(classes) + codes)
        owners, numbers = np.divmod(both, len(classes))
        used, numbers = np.unique(numbers, return_inverse=True)
        pairs.append(np.stack([owners, numbers.reshape(-1) + len(names), frames], axis=1))
        shown = column in joined or _is_shown(column)
        names += [
            f"{column}={classes[number] if shown else f'#{number}'}" for number in used.tolist()
        ]
    together = np.concatenate(pairs)
    return Strata(tuple(names), together[:, 0], together[:, 1], together[:, 2])


def _is_shown(column: str) -> bool:
    """Whether reports may show the values of a column of the index: no identity, and no date.

    Those of further attributes of a scan may be of either kind.
    """
    facts = {attribute.name: attribute for attribute in attributes()}
    if column not in facts:
        return column in STACKS_SCHEMA.names
    return facts[column].need != "identity" and facts[column].vr not in ("DA", "TM", "DT")


def _counted(values: Ints) -> tuple[Ints, Ints]:
    """Return the distinct values, and the number of each; fast where equal ones are neighbours.

    Frames of a stack mostly have one class, and a sort of a million rows takes 0.1 s.
    """
    starts = np.flatnonzero(np.append(True, values[1:] != values[:-1])[: len(values)])
    lengths = np.diff(np.append(starts, len(values)))
    distinct, inverse = np.unique(values[starts], return_inverse=True)
    counts = np.bincount(inverse.reshape(-1), lengths, len(distinct))
    return distinct, counts.astype(np.int64)


def _classes(
    generation: Generation, joined: Joined, rows: Ints, column: str
) -> tuple[Ints, Ints, list[str]]:
    """Return (positions in `rows`, class of each, names of classes) of a column.

    A row has several classes in a column of lists.
    """
    at = np.arange(len(rows))
    if column in joined:
        kind = joined.kind(column)
        if kind in ("texts", "integers"):
            return _classes_of_lists(joined.lists(column, rows))
        if kind == "real":
            return at, *_of_numbers(joined.values(column, rows)[0])
        if kind == "reals":
            raise UsageError(f"{column} holds lists of numbers, which are no classes")
        codes, classes = joined.codes(column, rows)
        if kind == "integer" and len(classes) > MAX_NUMBERS:
            numbers, is_known = joined.values(column, rows)
            return at, *_of_numbers(np.where(is_known, numbers, np.nan))
        return at, *_with_unknown(column, codes.astype(np.int64), list(classes))
    if column not in columns_of(generation):
        raise no_such_column(column, [*joined.names, *columns_of(generation)])
    table, by_stack = table_of(generation, column)
    places = stack_of_rows(generation)[rows] if by_stack else rows
    return at, *_of_table(table, column, places)


def _of_table(table: Table, column: str, places: Ints) -> tuple[Ints, list[str]]:
    """Return (classes, names) of some rows of a column of the index."""
    if table.is_list(column):
        raise UsageError(f"{column} holds several numbers per row, which are no classes")
    codes, values = table.codes(column)
    numbers = [value for value in values if isinstance(value, int | float)]
    if any(isinstance(n, float) for n in numbers) or len(numbers) > MAX_NUMBERS:
        return _of_numbers(table.numbers(column).astype(np.float64)[places])
    known = sorted({value for value in values if value not in (None, "")})
    number_of = {value: number for number, value in enumerate(known)}
    renumbered = np.array([number_of.get(value, -1) for value in values] or [-1], dtype=np.int64)
    return _with_unknown(column, renumbered[codes[places]], known)


def _with_unknown(column: str, codes: Ints, classes: list[Any]) -> tuple[Ints, list[str]]:
    if len(classes) > MAX_CLASSES:
        raise UsageError(
            f"stratify by {column!r}: {len(classes):,} different values are no classes, at most "
            f"{MAX_CLASSES:,} are",
            column=column,
            classes=len(classes),
        )
    return np.where(codes < 0, len(classes), codes), [*map(str, classes), UNKNOWN]


def _of_numbers(numbers: np.ndarray) -> tuple[Ints, list[str]]:
    """Return (classes, names) of numbers: few values each for itself, many in bins."""
    known = np.isfinite(numbers)
    values = np.unique(numbers[known])
    if len(values) <= MAX_NUMBERS:
        codes = np.where(known, np.searchsorted(values, numbers), -1)
        return _with_unknown("", codes, [f"{value:g}" for value in values])
    inner = np.unique(np.quantile(numbers[known], np.arange(1, BINS) / BINS))
    codes = np.where(known, np.searchsorted(inner, numbers, side="right"), -1)
    ends = [f"{value:.4g}" for value in (values[0], *inner, values[-1])]
    names = [f"{low} to {high}" for low, high in itertools.pairwise(ends)]
    return _with_unknown("", codes, names)


def _classes_of_lists(lists: Sequence[Any]) -> tuple[Ints, Ints, list[str]]:
    """Return (positions, classes, names) of rows with lists of classes."""
    lengths = np.array([len(each) for each in lists], dtype=np.int64)
    at = np.repeat(np.arange(len(lists)), np.maximum(lengths, 1))
    flat = [value for each in lists for value in (each if len(each) else [None])]
    known = sorted({value for value in flat if value not in (None, "")})
    number_of = {value: number for number, value in enumerate(known)}
    codes = np.array([number_of.get(value, -1) for value in flat] or [], dtype=np.int64)
    return at, *_with_unknown("", codes, known)
