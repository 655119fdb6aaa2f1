"""Construction of tables: columns to Arrow, dictionary encoding, bytes for a pipe.

A column is dictionary-encoded with the narrowest index when it has few distinct values: at most
256, or one per 8 rows. Only a scan builds tables.
"""

import io
import json
from collections.abc import Mapping, Sequence
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
    arrays = []
    for field in schema:
        if field.name in locations:
            arrays.append(pa.array(locations[field.name], type=field.type))
        elif field.name in DEFAULTS:
            arrays.append(pa.array(np.full(count, DEFAULTS[field.name]), type=field.type))
        else:
            arrays.append(_array(columns[field.name], field.type))
    return Table(pa.Table.from_arrays(arrays, schema=schema))


def _array(column: Column, kind: pa.DataType) -> pa.Array:
    if not isinstance(column, Constant):
        return pa.array(column, type=kind)
    if column.value is None:
        return pa.nulls(column.rows, kind)
    if pa.types.is_fixed_size_list(kind):
        flat = np.tile(np.asarray(column.value, dtype=np.float64), column.rows)
        return pa.FixedSizeListArray.from_arrays(pa.array(flat), type=kind)
    if pa.types.is_list(kind):
        return pa.array([column.value] * column.rows, type=kind)
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


def joined(tables: Sequence[Table], schema: pa.Schema) -> Table:
    """Concatenate tables by rows, without dictionary encoding."""
    return Table(
        pa.concat_tables(
            [schema.empty_table(), *(t.plain().arrow for t in tables)]
        ).combine_chunks()
    )


def encoded(table: Table) -> Table:
    """Dictionary-encode every column that has few distinct values.

    Null becomes a value of the dictionary. Columns with one value in all rows are listed in the
    metadata of the schema (`CONSTANTS`).
    """
    arrays, fields = [], []
    for field in table.arrow.schema:
        array = table.column(field.name)
        if pa.types.is_large_string(field.type) or table.is_number(field.name):
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
