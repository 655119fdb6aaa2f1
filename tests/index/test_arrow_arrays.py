"""arrow_arrays: Arrow arrays of Python values, without pandas."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import phantoms
import pyarrow as pa
import pytest

from dicomdl.index._arrow_arrays import array_of, of_numbers
from dicomdl.index._left_out import Columns, Only, columns_of
from dicomdl.index.building import encoded, table_of
from dicomdl.index.table import Table

TEXT = pa.large_string()
REALS = pa.list_(pa.float64())
CASES: list[tuple[list[Any], pa.DataType]] = [
    ([1, None, -3], pa.int64()),
    ([1, 2], pa.int8()),
    ([1.5, None, 2], pa.float64()),
    (["a", "\N{LATIN SMALL LETTER E WITH ACUTE}", None, ""], TEXT),
    ([b"a", b"\xff", b""], pa.large_binary()),
    ([True, False, None] * 5, pa.bool_()),
    ([(1.0, 2.0), None], pa.list_(pa.float64(), 2)),
    ([(1.0,), None, (), (1.0, 2.0)], REALS),
    ([["a"], None, []], pa.list_(TEXT)),
    ([None, None], TEXT),
    ([], REALS),
]


@pytest.mark.parametrize(("values", "kind"), CASES, ids=str)
def test_an_array_is_that_of_arrow(values: list[Any], kind: pa.DataType) -> None:
    found = array_of(values, kind)
    found.validate(full=True)
    assert found.equals(pa.array(values, type=kind)) and found.type == kind


def test_numpy_arrays_become_arrays_of_the_type_of_the_column() -> None:
    assert array_of(np.arange(3), pa.int32()).equals(pa.array([0, 1, 2], pa.int32()))
    assert array_of(np.array([True, False]), pa.bool_()).to_pylist() == [True, False]
    assert of_numbers(np.arange(4, dtype=np.float64)[::2]).to_pylist() == [0.0, 2.0]


def test_a_column_of_one_value_is_not_stored_and_reads_as_one_that_is() -> None:
    schema = pa.schema(
        {
            **{"file": pa.int32(), "text": TEXT, "number": pa.int64(), "flag": pa.bool_()},
            **{"none": pa.list_(pa.float64(), 3), "several": pa.int64()},
        }
    )
    rows = [[0, 1, 2], ["x"] * 3, [7] * 3, [True] * 3, [None] * 3, [1, 2, 1]]
    table = encoded(table_of(schema, dict(zip(schema.names, rows, strict=True))))
    assert table.stored.schema.names == ["file", "several"]
    assert columns_of(table.stored.schema) == table.columns
    again = Table(table.stored)
    assert again.names == schema.names
    assert again.plain().arrow.to_pydict() == dict(zip(schema.names, rows, strict=True))
    order = np.array([2, 0])
    assert again.take(order).arrow.to_pydict() == again.arrow.take(pa.array(order)).to_pydict()
    for name, value in again.constants.items():
        every = again.column(name)
        assert [each.as_py() for each in every] == [value] * 3
        assert again.value(name, 1) == value
        assert again.values(name, order) == [value] * 2
        if not again.is_list(name):
            codes, values = again.codes(name)
            assert [values[code] for code in codes] == [value] * 3
            assert again.ranks(name).tolist() == [0, 0, 0]
    assert again.numbers("number").tolist() == [7] * 3
    assert again.numbers("flag").tolist() == [True] * 3
    assert np.isnan(again.vectors("none", 3)).all()
    changed = again.with_column("number", [1, 2, 3])
    assert changed.names == again.names and "number" not in changed.constants
    assert changed.value("number", 1) == 2


def test_metadata_that_do_not_fit_the_columns_are_refused() -> None:
    schema = pa.schema([("file", pa.int32())])
    for columns in (
        Columns(("file", "more"), {}, {}),
        Columns(("file", "file"), {"file": 1}, {"file": Only(pa.int64(), 1)}),
        Columns(("file",), {"more": 1}, {}),
        Columns(("file", "more"), {"more": "1"}, {"more": Only(pa.int64(), "1")}),
    ):
        with pytest.raises(ValueError, match=r"metadata|constant"):
            columns_of(schema.with_metadata(columns.metadata()))


@pytest.mark.slow
def test_a_scan_imports_no_pandas(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("pandas")
    phantoms.write_series(folder)
    program = (
        "import sys, dicomdl; dicomdl.scan(sys.argv[1], sys.argv[2], progress=False);"
        "print('pandas' in sys.modules)"
    )
    command = [sys.executable, "-c", program, str(folder), str(tmp_path / "index")]
    assert subprocess.run(command, capture_output=True, text=True).stdout.strip() == "False"
