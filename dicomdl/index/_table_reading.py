"""Tables that users join: CSV and Parquet files, pandas, Arrow, and dicts of columns.

Every cell of a CSV file is read as text. Keys are text on both sides of a join, so what another
program has made a fraction or a date of is refused as a key.
"""

import os
import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from dicomdl.errors import UsageError
from dicomdl.index._cells import is_text
from dicomdl.index._csv_reading import MOST_COLUMNS, open_csv, too_many_columns
from dicomdl.index.schema import TEXT
from dicomdl.index.table import no_such_column
from dicomdl.storage.publishing import explained

_FORMULA: Final = r"^="


@dataclass(frozen=True, slots=True, eq=False)
class GivenTable:
    """A table that is joined, before its cells are read.

    Attributes
    ----------
    title
        The name of the file, or the kind of the table, for messages.
    names
        The columns.
    read
        Returns the named columns.
    places
        Returns the places of rows in words: "line 5" of a file, else "row 3", counted from 0.
    """

    title: str
    names: tuple[str, ...]
    read: Callable[[Sequence[str]], pa.Table]
    places: Callable[[Sequence[int]], list[str]]

    def place(self, row: int) -> str:
        """Return the place of a row in words."""
        return self.places([row])[0]

    def require(self, names: Sequence[str], option: str) -> None:
        """Raise UsageError unless `names`, of an option, are columns of the table."""
        for name in names:
            if name not in self.names:
                error = no_such_column(name, self.names)
                raise UsageError(f"{option}: {self.title}: {error}", column=name)


def given_table(table: Any, label: Any = None, keys: Sequence[str] = ()) -> GivenTable:
    """Return a table that a user gives.

    Parameters
    ----------
    table
        The path of a CSV or Parquet file; a DataFrame of pandas or polars, or a table of Arrow; or
        a mapping of column names to values, or of keys to labels.
    label
        The name of the label, for a mapping of keys to labels.
    keys
        The names that may be columns, for the delimiter of a CSV file and a mapping of keys.

    Raises
    ------
    UsageError
        The file is absent, damaged or of another kind, or the object is no table.
    """
    if isinstance(table, str | os.PathLike):
        made = _of_file(os.fspath(table), keys)
    elif isinstance(table, Mapping):
        made = _of_arrow(_of_mapping(table, label, keys), "the table")
    else:
        made = _of_arrow(_as_arrow(table), "the table")
    if len(made.names) > MOST_COLUMNS:
        raise too_many_columns(made.title, len(made.names))
    _require_different(made.names, made.title)
    return _with_composed_names(made)


def composed(given: Any) -> Any:
    """Return the names in an option in Unicode's composed form, NFC, as Python's are."""
    if isinstance(given, str):
        return unicodedata.normalize("NFC", given)
    if isinstance(given, Mapping):
        return {composed(name): composed(value) for name, value in given.items()}
    return [composed(each) for each in given] if isinstance(given, list | tuple) else given


def _with_composed_names(given: GivenTable) -> GivenTable:
    """Return a table whose columns have names in NFC, unless two names would be equal then."""
    names = tuple(map(composed, given.names))
    if names == given.names or len(set(names)) < len(names):
        return given
    held = dict(zip(names, given.names, strict=True))

    def read(wanted: Sequence[str]) -> pa.Table:
        return given.read([held[name] for name in wanted]).rename_columns(list(wanted))

    return replace(given, names=names, read=read)


def _require_different(names: Sequence[str], title: str) -> None:
    repeated = sorted(name for name, count in Counter(names).items() if name and count > 1)
    if repeated:
        raise UsageError(
            f"{title} has several columns named {', '.join(map(repr, repeated[:5]))}: rename them",
            columns=repeated,
        )


def _of_file(path: str, keys: Sequence[str]) -> GivenTable:
    title = os.path.basename(path)
    if os.path.isdir(path) or not os.path.exists(path):
        kind = "is a folder" if os.path.isdir(path) else "does not exist"
        raise UsageError(f"the table {path!r} {kind}: expected a CSV or Parquet file", path=path)
    with explained(f"the table {path!r} cannot be read"), pa.memory_map(path) as file:
        head = file.read(4)
    if head == b"PAR1":
        return _of_parquet(path, title)
    csv = open_csv(path, title, keys)
    return GivenTable(title, csv.names, csv.read, csv.places)


def _of_parquet(path: str, title: str) -> GivenTable:
    import pyarrow.parquet as pq

    # Arrow does not check that text is UTF-8 before it is asked for.
    damage = (pa.ArrowException, OSError, UnicodeDecodeError)
    try:
        names = tuple(pq.read_schema(path).names)
    except damage as error:
        raise UsageError(f"{title} is damaged: {error}", path=path) from error

    def read(wanted: Sequence[str]) -> pa.Table:
        try:
            table = pq.read_table(path, columns=list(wanted))
            table.validate(full=True)
        except damage as error:
            raise UsageError(f"{title} is damaged: {error}", path=path) from error
        return table

    return GivenTable(title, names, read, _rows)


def _rows(rows: Sequence[int]) -> list[str]:
    return [f"row {row}" for row in rows]


def _of_arrow(table: pa.Table, title: str) -> GivenTable:
    names = tuple(table.schema.names)
    return GivenTable(title, names, lambda wanted: table.select(list(wanted)), _rows)


def _as_arrow(table: Any) -> pa.Table:
    """Return a table of Arrow, pandas or polars as one of Arrow."""
    if isinstance(table, pa.Table):
        return table
    module = type(table).__module__.partition(".")[0]
    try:
        if module == "pandas" and hasattr(table, "columns"):
            # A named index, as of `groupby` or `set_index`, is a column.
            named = any(name is not None for name in table.index.names)
            table = table.reset_index() if named else table
            _require_different([str(name) for name in table.columns], "the table")
            return pa.Table.from_pandas(table, preserve_index=False)
        if hasattr(table, "columns") and hasattr(table, "__arrow_c_stream__"):
            return pa.table(table)
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        # Arrow's words quote cells, which may identify a patient.
        raise UsageError(
            "the table has a column with values of several types: make it text, with "
            ".astype(str) in pandas"
        ) from None
    raise UsageError(
        f"join takes the path of a CSV or Parquet file, a DataFrame, a table of Arrow or a dict of "
        f"columns, not {type(table).__name__}"
    )


def _of_mapping(table: Mapping[Any, Any], label: Any, keys: Sequence[str]) -> pa.Table:
    """Return the table of a dict of columns, or of a dict of keys to labels."""
    if not table:
        raise UsageError("the table is empty: expected a dict of columns, or of keys to labels")
    if all(
        value is None or isinstance(value, str | int | float | bool) for value in table.values()
    ):
        if len(keys) != 1 or not isinstance(label, str):
            raise UsageError(
                "a dict of keys to labels is joined by one key and names its label: "
                "index.join({'1.2.3': 1}, on='SeriesInstanceUID', label='cancer')"
            )
        table = {keys[0]: list(table), label: list(table.values())}
    arrays = {}
    for name, values in table.items():
        try:
            arrays[str(name)] = pa.array(values)
        except (pa.ArrowInvalid, pa.ArrowTypeError, TypeError, ValueError, OverflowError):
            raise UsageError(
                f"the column {name!r} of the table holds values of several types, or numbers "
                "beyond 64 bits: make it text",
                column=str(name),
            ) from None
    if len({len(array) for array in arrays.values()}) > 1:
        lengths = ", ".join(f"{name!r} {len(array)}" for name, array in arrays.items())
        raise UsageError(f"the columns of the table have different lengths: {lengths}")
    return pa.table(arrays)


def key_text(name: str, column: pa.ChunkedArray, place: Callable[[int], str]) -> pa.ChunkedArray:
    """Return a column as the text of a key; null where a cell is blank.

    Raises
    ------
    UsageError
        The column holds what is no text any more (fractions, dates, flags), or a formula.
    """
    kind = column.type
    if pa.types.is_dictionary(kind):
        column, kind = column.cast(kind.value_type), kind.value_type
    if pa.types.is_null(kind):
        return column.cast(TEXT)
    if pa.types.is_integer(kind):
        return column.cast(TEXT)
    if not is_text(kind):
        if pa.types.is_floating(kind) or pa.types.is_decimal(kind):
            words = "fractions: pandas made numbers of text or of blank cells. Read it with "
            words += "read_csv(..., dtype=str), or give the path of the file"
        elif pa.types.is_temporal(kind):
            words = "dates: make it text as the index has it, such as '20240131'"
        else:
            words = f"{kind}: make it text"
        raise UsageError(f"the key {name!r} of the table holds {words}", column=name)
    column = column.cast(TEXT)
    is_formula = pc.match_substring_regex(column, _FORMULA)
    if (row := int(pc.index(is_formula, True).as_py())) >= 0:
        raise UsageError(
            f"the key {name!r}, {place(row)}, holds a formula: save the values of the spreadsheet",
            column=name,
            row=row,
        )
    return pc.if_else(pc.equal(column, ""), pa.scalar(None, TEXT), column)
