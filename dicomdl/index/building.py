"""Construction of tables: columns to Arrow, dictionary encoding, bytes for a pipe.

A column is dictionary-encoded with the narrowest index when it has few distinct values: at most
256, or one per 8 rows. Only a scan builds tables.
"""

import functools
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from dicomdl.headers.attribute import Attribute
from dicomdl.headers.columns import (
    FEW_VALUES,
    ROWS_PER_VALUE,
    Coded,
    Column,
    Constant,
    each_row,
)
from dicomdl.index._arrow_arrays import array_of, of_numbers
from dicomdl.index._left_out import Columns, Only, is_encodable
from dicomdl.index.schema import DEFAULTS, frames_schema
from dicomdl.index.table import Table


def frames_table(
    locations: Mapping[str, Any],
    columns: Mapping[str, Column],
    extra: Sequence[Attribute],
) -> Table:
    """Build the rows of `frames` for some files.

    `locations` holds the columns of byte ranges and tiles, `columns` the typed attributes.
    """
    count = len(locations["file"])
    defaults = {name: Constant(value, count) for name, value in DEFAULTS.items()}
    return table_of(frames_schema(extra), {**columns, **defaults, **locations})


def table_of(schema: pa.Schema, columns: Mapping[str, Any]) -> Table:
    """Build a table of columns; the first one is no `Constant`."""
    arrays, names, left_out = [], [], {}
    for name, kind, is_list, is_real in _kinds(schema):
        column = columns[name]
        if isinstance(column, Constant):
            value = column.value
            if value is None or not is_list:
                left_out[name] = Only(
                    kind, float(value) if is_real and value is not None else value
                )
                continue
            column = _repeated(column, kind)
        if isinstance(column, Coded):
            arrays.append(_coded(column, kind))
        else:
            arrays.append(array_of(column, kind))
        names.append(name)
    return _table(schema, arrays, names, left_out)


def _table(
    schema: pa.Schema, arrays: list[pa.Array], names: list[str], left_out: dict[str, Only]
) -> Table:
    order = tuple(name for name, *_ in _kinds(schema))
    constants = {name: only.value for name, only in left_out.items()}
    return Table(pa.Table.from_arrays(arrays, names), None, Columns(order, constants, left_out))


# Small: the five tables, and those of frames of a few scans.
@functools.lru_cache(maxsize=16)
def _kinds(schema: pa.Schema) -> tuple[tuple[str, pa.DataType, bool, bool], ...]:
    """Return name, type, and whether it is one of lists or of reals, of each column of a schema.

    Its own look-up takes 1 us per column.
    """
    return tuple(
        (field.name, field.type, pa.types.is_nested(field.type), pa.types.is_floating(field.type))
        for field in schema
    )


def _coded(column: Coded, kind: pa.DataType) -> pa.Array:
    """Return a column with few values, encoded as `encoded` would do it."""
    if not is_encodable(kind):
        return array_of(each_row(column), kind)
    values = array_of(column.values, kind)
    return pa.DictionaryArray.from_arrays(of_numbers(column.codes, _width(len(values))), values)


def _width(distinct: int) -> pa.DataType:
    """Return the narrowest type for codes of so many values."""
    return pa.int8() if distinct <= 127 else pa.int16() if distinct <= 32767 else pa.int32()


def _repeated(column: Constant, kind: pa.DataType) -> pa.Array:
    """Return a column with the same numbers in all rows."""
    size = len(column.value)
    flat = of_numbers(np.tile(np.asarray(column.value, dtype=np.float64), column.rows))
    if pa.types.is_fixed_size_list(kind):
        return pa.FixedSizeListArray.from_arrays(flat, type=kind)
    offsets = np.arange(column.rows + 1, dtype=np.int32) * size
    return pa.ListArray.from_arrays(of_numbers(offsets), flat)


# Small: the five tables.
@functools.lru_cache(maxsize=16)
def empty_table(schema: pa.Schema) -> Table:
    """Build a table without rows."""
    arrays = [pa.nulls(0, kind) for _, kind, *_ in _kinds(schema)]
    return _table(schema, arrays, schema.names, {})


def joined(
    tables: Sequence[Table], schema: pa.Schema, rows: npt.NDArray[np.int64] | None = None
) -> Table:
    """Concatenate tables by rows, or some of their rows; only columns of one value stay encoded."""
    parts = [table for table in tables if len(table)]
    if not parts or (rows is not None and not len(rows)):
        return empty_table(schema)
    if len(parts) == 1:
        table = parts[0].decoded()
        return table if rows is None else table.take(rows)
    taken = None if rows is None else of_numbers(rows)
    arrays, names, left_out = [], [], {}
    for number, (name, kind, *_) in enumerate(_kinds(schema)):
        only = _only_of([part.constants for part in parts], name)
        if number and only:
            left_out[name] = Only(kind, only[0])
            continue
        # One column after the other, which takes the memory of the one before.
        array = _joined([part.column(name) for part in parts], kind)
        arrays.append(array if taken is None else array.take(taken))
        names.append(name)
    return _table(schema, arrays, names, left_out)


def _only_of(constants: Sequence[Mapping[str, Any]], name: str) -> list[Any]:
    """Return [value] if a column has the same only value in all tables, else []."""
    if not all(name in each for each in constants):
        return []
    values = [each[name] for each in constants]
    # Neither 0.0 and -0.0 nor 1 and True are the same.
    return values[:1] if len({repr(value) for value in values}) == 1 else []


def _joined(parts: Sequence[pa.Array], kind: pa.DataType) -> pa.Array:
    return pa.concat_arrays(
        [part.cast(kind) if pa.types.is_dictionary(part.type) else part for part in parts]
    )


def in_order(tables: Sequence[Table], schema: pa.Schema) -> Table:
    """Concatenate tables by rows, sorted by the number of their file, without those of file -1."""
    files = np.concatenate([table.numbers("file") for table in tables] or [np.empty(0, np.int32)])
    return joined(tables, schema, _order(files))


def by_file(table: Table, schema: pa.Schema) -> Table:
    """Sort rows by the number of their file, without those of file -1."""
    rows = _order(table.numbers("file"))
    return table.take(rows) if len(rows) else empty_table(schema)


def _order(files: npt.NDArray[np.int32]) -> npt.NDArray[np.int64]:
    """Return the rows in the order of their files, without those of file -1."""
    order = np.argsort(files, kind="stable")
    return order[np.searchsorted(files[order], 0) :]


def encoded(table: Table) -> Table:
    """Dictionary-encode every column that has few distinct values.

    Null becomes a value of the dictionary. Columns with one value in all rows are left out, save
    the first. Columns that were encoded before, and have the same values still, stay as they are.
    """
    if not len(table):
        return table
    columns = table.columns
    arrays, names = [], []
    constants, left_out = dict(columns.constants), dict(columns.left_out)
    for number, name in enumerate(columns.order):
        if name in left_out:
            continue
        array = table.column(name)
        if name not in table.settled:
            kind = array.type.value_type if pa.types.is_dictionary(array.type) else array.type
            array = _narrow(array) if is_encodable(array.type) else array
            for value in _only_value(array):
                constants[name] = value
                if number:
                    left_out[name] = Only(kind, value)
        if name not in left_out:
            arrays.append(array)
            names.append(name)
    made = Columns(columns.order, constants, left_out)
    result = Table(pa.Table.from_arrays(arrays, names), None, made)
    result.settled = frozenset(names)
    return result


def _only_value(array: pa.Array) -> list[Any]:
    """Return [value] for a column that holds one value in all rows, else []."""
    if len(array) == 0 or pa.types.is_large_binary(array.type):
        return []
    if array.null_count == len(array):
        return [None]
    if pa.types.is_dictionary(array.type):
        return array.dictionary.to_pylist() if len(array.dictionary) == 1 else []
    if pa.types.is_boolean(array.type):
        distinct = array.unique()
        return distinct.to_pylist() if len(distinct) == 1 else []
    return []


def _narrow(array: pa.Array) -> pa.Array:
    """Encode an array with the narrowest index type, or return it when it has many values.

    The first 4096 rows decide whether the rest is tried.
    """
    coded = array[:4096].dictionary_encode(null_encoding="encode")
    if len(array) > 4096:
        if len(coded.dictionary) > 2048:
            return array
        coded = array.dictionary_encode(null_encoding="encode")
    distinct = len(coded.dictionary)
    if distinct > max(FEW_VALUES, len(array) // ROWS_PER_VALUE):
        return array
    return pa.DictionaryArray.from_arrays(coded.indices.cast(_width(distinct)), coded.dictionary)


def to_bytes(tables: Sequence[Table]) -> bytes:
    """Serialise tables as one block of bytes for a pipe."""
    sink = io.BytesIO()
    for table in tables:
        stored = table.stored
        with pa.ipc.new_stream(sink, stored.schema) as writer:
            writer.write_table(stored)
    return sink.getvalue()


def from_bytes(block: bytes, count: int) -> list[Table]:
    """Deserialise the `count` tables that `to_bytes` wrote."""
    source = pa.BufferReader(block)
    return [Table(pa.ipc.open_stream(source).read_all().combine_chunks()) for _ in range(count)]
