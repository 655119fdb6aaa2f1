"""Many rows per key: one row where they are equal, lists, or a pivot."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from dicomdl.arrays import Ints
from dicomdl.errors import UsageError
from dicomdl.index._cells import Column, list_array
from dicomdl.index._matching import Matched

# More columns than any pivot of labels has: the column is an identifier.
MOST_PIVOTED: Final = 1000
Place = Callable[[int], str]


@dataclass(frozen=True, slots=True, eq=False)
class Reduced:
    """One row per key.

    Attributes
    ----------
    columns
        One row per key that has rows, and a last row without values.
    row_of_key
        (keys,) int32, the row of each key; -1 for none.
    duplicates_equal
        The number of rows that repeat a key with equal labels.
    """

    columns: pa.Table
    row_of_key: npt.NDArray[np.int32]
    duplicates_equal: int


def one_row_per_key(
    columns: Mapping[str, Column], lists: Sequence[str], found: Matched, place: Place
) -> Reduced:
    """Return one row per key; columns of `lists` become one list per key.

    Raises
    ------
    UsageError
        A key has several rows with different labels in a column that is no list.
    """
    keys = found.key_of_row
    rows = np.flatnonzero(keys >= 0)
    first = _first_rows(keys[rows], rows, len(found.keys))
    plain = {name: column for name, column in columns.items() if name not in lists}
    repeated = rows[first[keys[rows]] != rows]
    _require_equal(plain, first[keys[repeated]], repeated, place)
    held = np.flatnonzero(first >= 0)
    row_of_key = np.full(len(first), -1, dtype=np.int32)
    row_of_key[held] = np.arange(len(held), dtype=np.int32)
    listed = {name: columns[name] for name in lists}
    kept = _rows_with_items(listed, rows)
    arrays = {}
    for name, column in columns.items():
        if name in listed or column.row_of_item is not None:
            of_rows = kept if name in listed else first[held]
            arrays[name] = _lists_of(column, keys, of_rows, row_of_key, len(held))
        else:
            arrays[name] = _plain(column, np.append(first[held], -1))
    return Reduced(pa.table(arrays), row_of_key, 0 if lists else len(repeated))


def pivoted(columns: Mapping[str, Column], by: Column, found: Matched, place: Place) -> Reduced:
    """Return one row per key, with one column per value of `by` (and label, if several).

    Raises
    ------
    UsageError
        A key has one value of `by` several times with different labels, or the values are too many
        for columns.
    """
    for name, column in columns.items():
        if column.row_of_item is not None:
            raise UsageError(f"pivot: {name} holds lists: join it by itself", column=name)
    keys, words = found.key_of_row, [str(value) for value in by.values.to_pylist()]
    rows = np.flatnonzero(keys >= 0)
    if (blank := np.flatnonzero(by.codes[rows] < 0)).size:
        raise UsageError(f"pivot: the cell in {place(int(rows[blank[0]]))} is blank")
    used = np.flatnonzero(np.bincount(by.codes[rows])).tolist()
    if len(used) * len(columns) > MOST_PIVOTED:
        raise UsageError(
            f"pivot: {len(used):,} values make {len(used) * len(columns):,} columns, at most "
            f"{MOST_PIVOTED:,}: is it a key?",
            columns=len(used) * len(columns),
        )
    order = sorted(used, key=lambda code: words[code])
    firsts, duplicates = [], 0
    for code in order:
        of_value = rows[by.codes[rows] == code]
        first = _first_rows(keys[of_value], of_value, len(found.keys))
        repeated = of_value[first[keys[of_value]] != of_value]
        _require_equal(columns, first[keys[repeated]], repeated, place)
        firsts.append(first)
        duplicates += len(repeated)
    has_rows = np.zeros(len(found.keys), dtype=np.bool_)
    has_rows[keys[rows]] = True
    held = np.flatnonzero(has_rows)
    row_of_key = np.full(len(has_rows), -1, dtype=np.int32)
    row_of_key[held] = np.arange(len(held), dtype=np.int32)
    arrays = {}
    for name, column in columns.items():
        for code, first in zip(order, firsts, strict=True):
            title = words[code] if len(columns) == 1 else f"{name}_{words[code]}"
            arrays[title] = _plain(column, np.append(first[held], -1))
    return Reduced(pa.table(arrays), row_of_key, duplicates)


def _first_rows(keys: npt.NDArray[np.int32], rows: Ints, count: int) -> Ints:
    """Return (count,) the first row of each key; -1 for none."""
    first = np.full(count, -1, dtype=np.int64)
    # The last assignment counts.
    first[keys[::-1]] = rows[::-1]
    return first


def _require_equal(columns: Mapping[str, Column], first: Ints, rows: Ints, place: Place) -> None:
    """Raise UsageError for a row that repeats a key with other labels than its first row."""
    differs = np.zeros(len(rows), dtype=np.bool_)
    names = []
    for name, column in columns.items():
        unequal = column.of_rows[first] != column.of_rows[rows]
        if unequal.any():
            names.append(name)
        differs |= unequal
    if not names:
        return
    where = int(np.flatnonzero(differs)[0])
    raise UsageError(
        f"{len(np.unique(first[differs])):,} keys have several rows with different "
        f"{', '.join(names)}: the first in {place(int(first[where]))} and "
        f"{place(int(rows[where]))}. Pass lists={names!r} for one list per key, pivot= for one "
        "column per kind of row, or label= without them",
        columns=names,
        rows=int(differs.sum()),
    )


def _plain(column: Column, rows: Ints) -> pa.Array:
    """Return one value per row; unknown text is "", and row -1 is unknown."""
    codes = np.append(column.codes, np.int32(-1))[rows]
    if not pa.types.is_large_string(column.values.type):
        return column.values.take(pa.array(codes, mask=codes < 0))
    used, numbers = np.unique(codes, return_inverse=True)
    taken = column.values.take(pa.array(used[used >= 0]))
    blank = pa.array([""] if len(used) and used[0] < 0 else [], taken.type)
    return pa.DictionaryArray.from_arrays(
        pa.array(numbers.reshape(-1).astype(np.int32)), pa.concat_arrays([blank, taken])
    )


def _rows_with_items(lists: Mapping[str, Column], rows: Ints) -> Ints:
    """Return the rows with a known value in a list: a negative has one row without any."""
    if not lists:
        return rows
    count = int(rows[-1]) + 1 if len(rows) else 0
    has_items = np.zeros(count, dtype=np.bool_)
    for column in lists.values():
        of_item = column.row_of_item
        known = np.flatnonzero(column.codes >= 0) if of_item is None else of_item
        has_items[known[known < count]] = True
    return rows[has_items[rows]]


def _lists_of(
    column: Column,
    keys: npt.NDArray[np.int32],
    rows: Ints,
    row_of_key: npt.NDArray[np.int32],
    count: int,
) -> pa.Array:
    """Return (count + 1,) one list per key, in the order of the rows; the last is unknown."""
    items, of_row = rows, rows
    if column.row_of_item is not None:
        is_taken = np.zeros(len(keys), dtype=np.bool_)
        is_taken[rows] = True
        items = np.flatnonzero(is_taken[column.row_of_item])
        of_row = column.row_of_item[items]
    of_list = row_of_key[keys[of_row]]
    order = np.argsort(of_list, kind="stable")
    sizes = np.bincount(of_list, minlength=count)
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    codes = column.codes[items[order]]
    values = column.values.take(pa.array(codes, mask=codes < 0))
    offsets = np.append(offsets, offsets[-1])
    return list_array(values, offsets, np.arange(count + 1) < count)
