"""Construction of tables: columns to Arrow, dictionary encoding, bytes for a pipe.

A column is dictionary-encoded with the narrowest index when it has few distinct values: at most
256, or one per 8 rows. Only a scan builds tables.
"""

import io
import json
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np
import pyarrow as pa

from dicomdl.headers.attribute import Attribute
from dicomdl.headers.columns import Column, Constant
from dicomdl.index.schema import DEFAULTS, frames_schema
from dicomdl.index.table import CONSTANTS, Table


def frames_table(
    locations: Mapping[str, Sequence[Any]],
    columns: Mapping[str, Column],
    extra: Sequence[Attribute],
) -> Table:
    """Build the rows of `frames` for some files.

    `locations` holds the columns of byte ranges and tiles, `columns` the typed attributes.
    """
    count = len(locations["file"])
    schema = frames_schema(extra)
    # Of the columns with one value, which are most: row i has code 0.
    codes = _codes_of_one(count)
    arrays = []
    for field in schema:
        if field.name in locations:
            arrays.append(pa.array(locations[field.name], type=field.type))
        elif field.name in DEFAULTS:
            arrays.append(_array(Constant(DEFAULTS[field.name], count), field.type, codes))
        else:
            arrays.append(_array(columns[field.name], field.type, codes))
    return Table(pa.Table.from_arrays(arrays, schema.names))


def _codes_of_one(count: int) -> pa.Array:
    return pa.array(np.zeros(count, dtype=np.int8))


def _array(column: Column, kind: pa.DataType, codes: pa.Array) -> pa.Array:
    """Return a column, encoded if it has one value and is of a type that `encoded` encodes."""
    if not isinstance(column, Constant):
        # Synthetic indexes give arrays of Arrow, which need no conversion.
        is_list = isinstance(column, list) and pa.types.is_fixed_size_list(kind)
        if is_list and None not in column:
            # A third of the time of a conversion row by row.
            flat = np.fromiter(
                chain.from_iterable(column), np.float64, len(column) * kind.list_size
            )
            return pa.FixedSizeListArray.from_arrays(pa.array(flat), type=kind)
        return pa.array(column, type=kind)
    if _is_encodable(kind):
        return pa.DictionaryArray.from_arrays(codes, pa.array([column.value], type=kind))
    if column.value is None:
        return pa.nulls(column.rows, kind)
    if pa.types.is_fixed_size_list(kind):
        flat = np.tile(np.asarray(column.value, dtype=np.float64), column.rows)
        return pa.FixedSizeListArray.from_arrays(pa.array(flat), type=kind)
    if pa.types.is_list(kind):
        size = len(column.value)
        offsets = np.arange(column.rows + 1, dtype=np.int32) * size
        flat = np.tile(np.asarray(column.value, dtype=np.float64), column.rows)
        return pa.ListArray.from_arrays(pa.array(offsets), pa.array(flat))
    return pa.repeat(pa.scalar(column.value, type=kind), column.rows)


def table_of(schema: pa.Schema, columns: Mapping[str, Any]) -> Table:
    """Build a table of plain columns."""
    return Table(
        pa.Table.from_arrays(
            [pa.array(columns[f.name], type=f.type) for f in schema], schema=schema
        )
    )


def empty_table(schema: pa.Schema) -> Table:
    """Build a table without rows."""
    return Table(schema.empty_table())


def _is_encodable(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_large_string(kind) or pa.types.is_integer(kind) or pa.types.is_floating(kind)
    )


def joined(tables: Sequence[Table], schema: pa.Schema) -> Table:
    """Concatenate tables by rows; only columns of one value stay encoded."""
    parts = [table for table in tables if len(table)]
    if not parts:
        return empty_table(schema)
    codes = _codes_of_one(sum(map(len, parts)))
    columns = [
        _joined([part.column(field.name) for part in parts], field.type, codes) for field in schema
    ]
    return Table(pa.Table.from_arrays(columns, schema.names))


def _joined(parts: Sequence[pa.Array], kind: pa.DataType, codes: pa.Array) -> pa.Array:
    encoded = [part for part in parts if pa.types.is_dictionary(part.type)]
    first = encoded[0].dictionary if encoded else None
    if len(encoded) == len(parts) and all(
        len(part.dictionary) == 1 and part.dictionary.equals(first) for part in encoded
    ):
        return pa.DictionaryArray.from_arrays(codes, first)
    return pa.concat_arrays(
        [part.cast(kind) if pa.types.is_dictionary(part.type) else part for part in parts]
    )


def in_order(tables: Sequence[Table], schema: pa.Schema) -> Table:
    """Concatenate tables by rows, and sort these by the number of their file."""
    table = joined(tables, schema)
    if not len(table):
        return table
    files = table.numbers("file")
    is_sorted = (files[1:] >= files[:-1]).all()
    return table if is_sorted else table.take(np.argsort(files, kind="stable"))


def encoded(table: Table) -> Table:
    """Dictionary-encode every column that has few distinct values.

    Null becomes a value of the dictionary. Columns with one value in all rows are listed in the
    metadata of the schema (`CONSTANTS`).
    """
    arrays, fields = [], []
    for field in table.arrow.schema:
        array = table.column(field.name)
        if _is_encodable(field.type):
            array = _narrow(array)
        arrays.append(array)
        fields.append(pa.field(field.name, array.type))
    constants = {
        field.name: value
        for field, array in zip(fields, arrays, strict=True)
        for value in _only_value(array)
    }
    metadata = {CONSTANTS: json.dumps(constants).encode()}
    return Table(pa.Table.from_arrays(arrays, schema=pa.schema(fields, metadata=metadata)))


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
    if distinct > max(256, len(array) // 8):
        return array
    width = pa.int8() if distinct <= 127 else pa.int16() if distinct <= 32767 else pa.int32()
    return pa.DictionaryArray.from_arrays(coded.indices.cast(width), coded.dictionary)


def to_bytes(tables: Sequence[Table]) -> bytes:
    """Serialise tables as one block of bytes for a pipe."""
    sink = io.BytesIO()
    for table in tables:
        with pa.ipc.new_stream(sink, table.arrow.schema) as writer:
            writer.write_table(table.arrow)
    return sink.getvalue()


def from_bytes(block: bytes, count: int) -> list[Table]:
    """Deserialise the `count` tables that `to_bytes` wrote."""
    source = pa.BufferReader(block)
    return [Table(pa.ipc.open_stream(source).read_all().combine_chunks()) for _ in range(count)]
