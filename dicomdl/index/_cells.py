"""Cells of a joined table: the kind of each column, decided by all its cells.

Text is a column of whole numbers, numbers or flags if every cell that is not blank is one. Numbers
with leading zeros are identifiers, so their column stays text. Columns are held as codes of
distinct values: 4.5 million cells of "0" and "1" cost four bytes each.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from dicomdl.arrays import Ints
from dicomdl.errors import UsageError
from dicomdl.index.schema import TEXT

_INTEGER: Final = r"^[+-]?(0|[1-9][0-9]*)$"
_REAL: Final = (
    r"^[+-]?(((0|[1-9][0-9]*)(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?|inf|Inf|INF|[iI]nfinity)$"
)
_FLAG: Final = r"^(True|False|TRUE|FALSE|true|false)$"
_KINDS: Final = ((_INTEGER, pa.int64()), (_REAL, pa.float64()), (_FLAG, pa.bool_()))
# Cells of numbers and flags without a value, as pandas and R write them; text keeps them.
UNKNOWN: Final = ("", "NaN", "nan", "NA", "N/A", "#N/A", "null", "NULL", "None", "<NA>")
# Cells that a spreadsheet has not computed, or could not.
_FORMULA: Final = r"^(=.*|#(REF|NAME|VALUE|NUM|NULL|DIV/0)[!?]?)$"
_ABSENT: Final = -1
# Returns the place of a row in words, such as "line 5".
PlaceOf: TypeAlias = Callable[[int], str]


@dataclass(frozen=True, slots=True, eq=False)
class Column:
    """One column of a table that is joined.

    Attributes
    ----------
    codes
        (items,) int32, the number of the value of each item; -1 where it is unknown.
    values
        The distinct values, without null: text, int64, float64 or bool.
    row_of_item
        (items,) the row of each item, ascending, where a cell holds several; None where every row
        has one item.
    cells
        (rows,) int32 codes that are equal for equal cells, where a cell holds several items.
    """

    codes: npt.NDArray[np.int32]
    values: pa.Array
    row_of_item: Ints | None = None
    cells: npt.NDArray[np.int32] | None = None

    @property
    def of_rows(self) -> npt.NDArray[np.int32]:
        """(rows,) codes that are equal for equal cells."""
        return self.codes if self.cells is None else self.cells


def column_of(name: str, cells: pa.ChunkedArray, place: PlaceOf) -> Column:
    """Return a column with the kind that its cells have.

    Parameters
    ----------
    name
        The name of the column, for messages.
    cells
        Text, or typed values of Parquet, Arrow or pandas.
    place
        Returns the place of a row in words, for messages.

    Raises
    ------
    UsageError
        A number is beyond a float, a cell is a formula, or Arrow's type is none of a label.
    """
    kind = cells.type
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        return _reals(name, cells.cast(pa.float64()), place)
    if pa.types.is_integer(kind):
        return coded(_int64s(name, cells))
    if pa.types.is_boolean(kind):
        return coded(cells)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return _lists(name, cells, place)
    if pa.types.is_temporal(kind) or pa.types.is_null(kind):
        cells = cells.cast(TEXT)
    elif not is_text(kind):
        raise UsageError(
            f"the column {name!r} of the table holds {kind}: expected text, numbers, flags or "
            "lists of them",
            column=name,
        )
    return _texts(name, coded(cells), place)


def is_text(kind: pa.DataType) -> bool:
    """Whether a type of Arrow is one of its three of text."""
    text = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
    return any(is_kind(kind) for is_kind in text)


def coded(cells: pa.ChunkedArray) -> Column:
    """Return the distinct values of cells, and the code of each."""
    if not pa.types.is_dictionary(cells.type):
        cells = cells.dictionary_encode()
    array = cells.unify_dictionaries().combine_chunks()
    if isinstance(array, pa.ChunkedArray):
        array = array.chunk(0) if array.num_chunks else pa.array([], cells.type)
    indices = pc.fill_null(array.indices.cast(pa.int32()), _ABSENT)
    values = array.dictionary
    if is_text(values.type):
        values = values.cast(TEXT)
    # A dictionary of another program may hold null, or a value twice.
    distinct = values.drop_null().unique()
    if len(distinct) != len(values):
        numbers = pc.fill_null(pc.index_in(values, value_set=distinct), _ABSENT)
        return Column(_recoded(int32s(indices), int32s(numbers)), distinct)
    return Column(int32s(indices), values)


def int32s(array: pa.Array) -> npt.NDArray[np.int32]:
    """Return an array of numbers without nulls as int32."""
    return np.asarray(np.from_dlpack(array), dtype=np.int32)


def _recoded(codes: npt.NDArray[np.int32], numbers: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
    """Return codes through new numbers of the values; -1 stays -1."""
    return np.append(numbers, np.int32(_ABSENT)).astype(np.int32)[codes]


def _int64s(name: str, cells: pa.ChunkedArray) -> pa.ChunkedArray:
    try:
        return cells.cast(pa.int64())
    except pa.ArrowInvalid:
        raise UsageError(
            f"the column {name!r} of the table holds whole numbers beyond 64 bits: make it text",
            column=name,
        ) from None


def _texts(name: str, column: Column, place: PlaceOf) -> Column:
    """Return a column of text as that of its kind."""
    values = column.values
    if (bad := _first(pc.match_substring_regex(values, _FORMULA))) >= 0:
        raise _bad_cell(name, column, bad, place, "holds a formula or its error: save the values")
    is_unknown = pc.is_in(values, value_set=pa.array(UNKNOWN, TEXT))
    known = values.filter(pc.invert(is_unknown))
    kind = next((kind for pattern, kind in _KINDS if _all_match(known, pattern)), TEXT)
    if kind == TEXT:
        # In text, only a blank cell is unknown.
        is_unknown = pc.equal(values, "")
        known = values.filter(pc.invert(is_unknown))
    numbers = pc.fill_null(pc.index_in(values, value_set=known), _ABSENT)
    codes = _recoded(column.codes, int32s(numbers))
    if kind == TEXT:
        return Column(codes, known)
    try:
        typed = known.cast(kind)
    except pa.ArrowInvalid:
        # Whole numbers beyond 64 bits are identifiers, unless they are beyond a float.
        _require_finite(name, Column(codes, known.cast(pa.float64())), place)
        return Column(codes, known)
    if pa.types.is_floating(kind):
        _require_finite(name, Column(codes, typed), place)
    return distinct(Column(codes, typed))


def _all_match(texts: pa.Array, pattern: str) -> bool:
    """Whether there are texts, and all of them match a pattern."""
    return bool(len(texts)) and bool(pc.all(pc.match_substring_regex(texts, pattern)).as_py())


def _reals(name: str, cells: pa.ChunkedArray, place: PlaceOf) -> Column:
    """Return a column of floats; NaN is unknown."""
    column = coded(pc.if_else(pc.is_nan(cells), pa.scalar(None, pa.float64()), cells))
    _require_finite(name, column, place)
    return column


def _require_finite(name: str, column: Column, place: PlaceOf) -> None:
    if (bad := _first(pc.is_inf(column.values))) >= 0:
        raise _bad_cell(name, column, bad, place, "holds a number beyond a float")


def distinct(column: Column) -> Column:
    """Return a column whose equal values have one code: "1.0" and "1.00" are one number."""
    distinct = column.values.unique()
    if len(distinct) == len(column.values):
        return column
    numbers = int32s(pc.index_in(column.values, value_set=distinct))
    return Column(_recoded(column.codes, numbers), distinct)


def _lists(name: str, cells: pa.ChunkedArray, place: PlaceOf) -> Column:
    """Return a column of lists: its items, and the row of each."""
    lengths = pc.fill_null(pc.list_value_length(cells), 0).to_numpy()
    items = column_of(name, pc.list_flatten(cells), place)
    if items.row_of_item is not None:
        raise UsageError(f"the column {name!r} of the table holds lists of lists", column=name)
    rows = np.repeat(np.arange(len(lengths)), lengths)
    numbered = coded(pa.chunked_array([pa.array(map(str, cells.to_pylist()), TEXT)]))
    return Column(items.codes, items.values, rows, numbered.codes)


def _first(flags: pa.Array) -> int:
    """Return the number of the first True; -1 for none."""
    return int(pc.index(flags, True).as_py())


def _bad_cell(name: str, column: Column, code: int, place: PlaceOf, words: str) -> UsageError:
    """Return the error of a cell with a code; it names line and column, and quotes no cell."""
    row = int(np.flatnonzero(column.codes == code)[0])
    return UsageError(f"column {name!r}, {place(row)}, {words}", column=name, row=row)


def list_array(items: pa.Array, offsets: Ints, is_known: Any) -> pa.Array:
    """Return an array of lists, from items in order and (lists + 1,) offsets.

    `is_known` is (lists,) flags; a list without one is null.
    """
    if pa.types.is_boolean(items.type) or pa.types.is_integer(items.type):
        # NumPy has no unknown whole number.
        items = items.cast(pa.float64() if items.null_count else pa.int64())
    if pa.types.is_floating(items.type):
        items = pc.fill_null(items, np.nan)
    elif items.type == TEXT:
        items = pc.fill_null(items, "")
    return pa.ListArray.from_arrays(
        pa.array(offsets, pa.int32()), items, mask=pa.array(~np.asarray(is_known))
    )
