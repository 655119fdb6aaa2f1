"""building: columns to Arrow tables."""

import numpy as np
import pyarrow as pa

from dicomdl.headers.columns import Column, Constant
from dicomdl.headers.frame import attributes
from dicomdl.index.building import encoded, frames_table, from_bytes, joined, to_bytes
from dicomdl.index.schema import frames_schema
from dicomdl.index.table import Table


def rows(files: list[int], **columns: Column) -> Table:
    """Rows of `frames`, in which all other facts are absent."""
    count = len(files)
    locations = {name: [0] * count for name in ("frame_number", "byte_offset", "byte_length")}
    locations |= {"file": files, "bit_offset": [0] * count}
    flags = dict.fromkeys(("deflated", "float_pixels"), [False] * count)
    absent = {a.name: Constant("" if a.kind == "text" else None, count) for a in attributes()}
    return frames_table({**locations, **flags}, absent | columns, ())


def test_columns_of_one_value_stay_encoded_where_parts_are_joined() -> None:
    first = rows([0, 1], rows=Constant(5, 2), modality=Constant("CT", 2), columns=[7, 8])
    second = rows([2], rows=Constant(5, 1), modality=Constant("MR", 1), columns=Constant(8, 1))
    table = joined(from_bytes(to_bytes([first, second]), 2), frames_schema())
    assert [name for name in ("rows", "modality", "columns") if table.is_encoded(name)] == ["rows"]
    assert table.column("rows").to_pylist() == [5, 5, 5]
    assert table.column("modality").to_pylist() == ["CT", "CT", "MR"]
    assert table.column("columns").to_pylist() == [7, 8, 8]
    assert table.column("echo_time").to_pylist() == [None] * 3
    assert table.plain().arrow.schema.equals(frames_schema())
    assert len(joined([rows([])], frames_schema())) == 0


def test_a_constant_column_of_every_kind_becomes_an_array() -> None:
    values = {
        "modality": "CT",
        "rows": 512,
        "echo_time": None,
        "pixel_spacing": (0.5, 0.5),
        "window_width": (1.0, 2.0),
        "voi_lut_sequence": True,
    }
    table = rows([0, 1, 2], **{name: Constant(value, 3) for name, value in values.items()})
    assert table.plain().arrow.schema.equals(frames_schema())
    for name, value in values.items():
        assert table.values(name, np.arange(3)) == [value] * 3
        assert table.is_encoded(name) == (name in ("modality", "rows", "echo_time"))


def test_a_table_that_was_encoded_in_part_is_the_one_that_was_plain() -> None:
    table = rows([0, 1, 2], rows=Constant(5, 3), modality=["CT", "CT", "MR"])
    assert encoded(table).arrow.equals(encoded(table.plain()).arrow, check_metadata=True)
    assert encoded(table).constants["rows"] == 5
    assert encoded(table).constants["echo_time"] is None
    assert encoded(table).column("rows").type == pa.dictionary(pa.int8(), pa.int64())
