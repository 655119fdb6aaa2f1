"""table reading: tables of every kind, and what is wrong with one told by line and column."""

import csv
import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from phantoms import write_series

import dicomdl
from dicomdl.errors import StorageError, UsageError
from dicomdl.index.index import Index

GOOD = "id,y\np0,1\np1,2\np2,3\n"
HEADER = ",".join(f"c{number}" for number in range(20_000))


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Index:
    """Three patients of one image each, in the folders p0 to p2."""
    root = tmp_path_factory.mktemp("tables")
    for number in range(3):
        facts = {"patient_id": f"00{number}", "seed": number}
        write_series(root / "data" / f"p{number}", shape=(1, 4, 4), **facts)
    return dicomdl.scan(root / "data", root / "index", progress=False)


def joined(index: Index, table: Any, **options: Any) -> list[Any]:
    """The first joined column, by the folders p0 to p2."""
    found = index.join(table, **{"on": {"parent": "id"}, **options})
    name = found.joined.names[0]
    by_folder = {Path(found.frame(n).path).parent.name: found.value(n, name) for n in range(3)}
    return [by_folder[f"p{number}"] for number in range(3)]


@pytest.mark.parametrize(
    "data",
    [
        GOOD.encode(),
        b"\xef\xbb\xbf" + GOOD.encode(),
        GOOD.encode("utf-16"),
        b"\xfe\xff" + GOOD.encode("utf-16-be"),
        GOOD.replace(",", ";").encode(),
        GOOD.replace(",", "\t").encode(),
        GOOD.replace("\n", "\r\n").encode(),
        GOOD.replace("\n", "\r").encode(),
        ("\n\n" + GOOD.replace("\n", "\n\n")).encode(),
        GOOD[:-1].encode(),
        b"id,y,,\np0,1,,\np1,2,,\np2,3,,\n",
        b'"id","y"\n"p0","1"\n"p1","2"\n"p2","3"\n',
        b'x,y,id\n5",1,p0\n6,2,p1\n7,3,p2\n',
    ],
)
def test_a_text_file_is_read_as_it_was_written(index: Index, tmp_path: Path, data: bytes) -> None:
    (tmp_path / "t.csv").write_bytes(data)
    assert joined(index, tmp_path / "t.csv", label="y") == [1, 2, 3]


@pytest.mark.parametrize(
    ("cells", "kind", "values"),
    [
        (("1", "-2", ""), "integer", [1, -2, None]),
        (("1", "2.50", "NA"), "real", [1, 2.5, None]),
        (("1e3", ".5", "nan"), "real", [1000, 0.5, None]),
        (("True", "FALSE", ""), "flag", [True, False, None]),
        (("a", "NA", ""), "text", ["a", "NA", ""]),
        # Leading zeros, and numbers beyond 64 bits, are identifiers.
        (("007", "8", ""), "text", ["007", "8", ""]),
        (("1", "9" * 30, "3"), "text", ["1", "9" * 30, "3"]),
        (('"a\nb"', '"c,d"', '"e""f"'), "text", ["a\nb", "c,d", 'e"f']),
        (("", "", ""), "text", ["", "", ""]),
        (("a" * 1_000_000, "b", "c"), "text", ["a" * 1_000_000, "b", "c"]),
    ],
)
def test_the_kind_of_a_column_is_that_of_all_its_cells(
    index: Index, tmp_path: Path, cells: tuple[str, ...], kind: str, values: list[Any]
) -> None:
    path = tmp_path / "t.csv"
    path.write_text("id,y\n" + "".join(f"p{n},{cell}\n" for n, cell in enumerate(cells)))
    found = index.join(path, on={"parent": "id"})
    assert found.joined.kind("y") == kind == found.joins[0].columns["y"]
    assert joined(index, path) == values


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ("", "t.csv is empty"),
        ("\n\n", "t.csv is empty"),
        ("id,y\n", "has a header and no rows"),
        ("id,y", "has a header and no rows"),
        ("id,y,y\np0,1,2\n", "several columns named 'y'"),
        (GOOD.replace("p1,2", "p1,2,3"), "t.csv, line 3: 3 cells, expected 2"),
        ('id,y\n"p\n0",1\np1\n', "t.csv, line 4: 1 cells, expected 2"),
        (GOOD.replace(",2", ",1e999"), "column 'y', line 3, holds a number beyond a float"),
        (GOOD.replace(",2", "," + "9" * 400), "line 3, holds a number beyond a float"),
        (GOOD.replace(",2", ",inf"), "line 3, holds a number beyond a float"),
        (GOOD.replace(",2", ",=SUM(A1:A2)"), "column 'y', line 3, holds a formula"),
        (GOOD.replace(",2", ",#REF!"), "column 'y', line 3, holds a formula or its error"),
        (GOOD.replace("p1", '="p1"'), "the key 'id', line 3, holds a formula"),
        (GOOD.replace("p1,", ","), r"1 rows of t.csv with a blank key \(line 3\)"),
        ('id,y\np0,1\np1,"2\np2,3\n', "line 3: a quote is not closed before the end"),
        ('id,"y\np0,1\n', "a quote is not closed"),
        ("id,y\np0,é\np1,b\np2,c\n".encode("latin-1"), "line 2: the bytes are not UTF-8"),
        ("größe,id,y\n1,p0,1\n".encode("latin-1"), "line 1: the bytes are not UTF-8"),
        (GOOD.encode("utf-16-le"), "UTF-16 without a byte order mark"),
        (bytes(range(256)), "no text"),
        (b"PK\x03\x04....", "save the sheet as CSV"),
        (b"\x1f\x8b....", "compressed by gzip"),
        (b"PAR1........", "is damaged"),
        (f"id,{HEADER}\n", "20,001 columns or more, at most 10,000"),
        (f"id,{HEADER * 60}\n", "columns or more, at most 10,000"),
        (f"id,{'y' * 200_000}\n1,2\n", "the header cannot be read"),
        (GOOD.replace("id", "ident"), "no column 'id'.*it has 'ident', 'y'"),
    ],
)
def test_a_wrong_file_is_told_with_its_line(
    index: Index, tmp_path: Path, data: str | bytes, words: str
) -> None:
    (tmp_path / "t.csv").write_bytes(data if isinstance(data, bytes) else data.encode())
    with pytest.raises(UsageError, match=words):
        joined(index, tmp_path / "t.csv")


def test_a_file_that_is_not_there_or_not_readable_is_told(index: Index, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not exist"):
        joined(index, tmp_path / "t.csv")
    with pytest.raises(UsageError, match="is a folder"):
        joined(index, tmp_path)


IDS = ["p0", "p1", "p2"]


@pytest.mark.parametrize(
    "table",
    [
        {"id": IDS, "y": [1, 2, 3]},
        {"id": np.array(IDS), "y": np.array([1, 2, 3], np.uint8)},
        pa.table({"id": IDS, "y": [1, 2, 3]}),
        pa.table({"id": pa.array(IDS, pa.string_view()), "y": pa.array(["1", "2", "3"])}),
        pa.table({"id": pa.array(IDS).dictionary_encode(), "y": pa.chunked_array([[1], [2, 3]])}),
    ],
)
def test_tables_in_memory_join(index: Index, table: Any) -> None:
    assert joined(index, table) == [1, 2, 3]


def test_parquet_joins_with_its_types(index: Index, tmp_path: Path) -> None:
    lists = [[1.5, 2.5], [], None]
    pq.write_table(pa.table({"id": IDS, "y": [1, None, 3], "x": lists}), tmp_path / "t.parquet")
    assert joined(index, tmp_path / "t.parquet") == [1, None, 3]
    assert joined(index, tmp_path / "t.parquet", label="x") == [(1.5, 2.5), (), ()]


@pytest.mark.parametrize("name", [b"label", IDS[0].encode()])
def test_parquet_with_text_that_is_no_utf_8_is_damaged(
    name: bytes, index: Index, tmp_path: Path
) -> None:
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"id": IDS, "label": [1, 2, 3]}), path, compression="none")
    path.write_bytes(path.read_bytes().replace(name, b"\xc8" + name[1:]))
    with pytest.raises(UsageError, match="is damaged"):
        index.join(path, {"parent": "id"}, on_unmatched="keep")


def test_frames_of_pandas_join(index: Index) -> None:
    pd = pytest.importorskip("pandas")
    assert joined(index, pd.DataFrame({"y": [1, 2, 3]}, index=pd.Index(IDS, name="id"))) == [
        1,
        2,
        3,
    ]
    table = pd.DataFrame({"id": pd.Categorical(IDS), "y": pd.Categorical(["b", "a", None])})
    assert joined(index, table) == ["b", "a", ""]
    whole = pd.array([1, None, 3], "Int64")
    assert joined(index, pd.DataFrame({"id": IDS, "y": whole})) == [1, None, 3]
    # Whole numbers as keys are text without leading zeros, which is told.
    padded = pd.DataFrame({"id": [0, 1, 2], "y": [1, 2, 3]})
    with pytest.raises(UsageError, match="leading zeros that the table lacks: read it as text"):
        joined(index, padded, on={"patient_id": "id"})
    assert joined(index, padded, on={"patient_id": "{id:03}"}) == [1, 2, 3]
    with pytest.raises(UsageError, match=r"several types: make it text"):
        joined(index, pd.DataFrame({"id": ["p0", 1, "p2"], "y": [1, 2, 3]}))
    with pytest.raises(UsageError, match="several columns named 'y'"):
        joined(index, pd.DataFrame([["p0", 1, 2]], columns=["id", "y", "y"]))
    with pytest.raises(UsageError, match=r"1 rows of the table with a blank key \(row 1\)"):
        joined(index, pd.DataFrame({"id": ["p0", None, "p2"], "y": [1, 2, 3]}))


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"id": [0.0, 1.0, 2.0], "y": [1, 2, 3]}, r"fractions: pandas made.*dtype=str"),
        ({"id": [datetime.date(2024, 1, 31)] * 3, "y": [1, 2, 3]}, "dates: make it text"),
        ({"id": [True, False, True], "y": [1, 2, 3]}, "holds bool: make it text"),
        ({"id": IDS, "y": [1.0, float("inf"), 2.0]}, "column 'y', row 1, holds a number beyond"),
        ({"id": IDS, "y": [1, 2**70, 3]}, "numbers beyond 64 bits"),
        ({"id": IDS, "y": np.array([1, 2**63, 3], np.uint64)}, "beyond 64 bits"),
        ({"id": ["p0", 1], "y": [1, 2]}, "values of several types"),
        ({"id": IDS, "y": [1, 2]}, "different lengths: 'id' 3, 'y' 2"),
        ({"id": IDS, "y": [{"a": 1}] * 3}, "holds struct"),
        ({"id": [], "y": []}, "has no rows"),
        ({}, "the table is empty"),
        ({"p0": 1}, "names its label"),
        ([1, 2], "takes the path of a CSV or Parquet file"),
    ],
)
def test_what_is_no_table_of_keys_and_labels_is_told(index: Index, table: Any, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        joined(index, table)


def test_messages_quote_no_cell(index: Index, tmp_path: Path) -> None:
    secret = "Doe^Jane"
    for cells in (f"{secret},2,3", f"={secret},2", f'"{secret},2'):
        (tmp_path / "t.csv").write_text(f"id,y\np0,1\n{cells}\n")
        with pytest.raises(UsageError) as raised:
            joined(index, tmp_path / "t.csv")
        assert secret not in str(raised.value)
    with pytest.raises(UsageError) as raised:
        index.join({"id": [secret], "y": [1]}, on={"patient_id": "id"})
    assert secret not in str(raised.value) and "00" not in str(raised.value)


def test_a_file_without_permission_is_a_storage_error(
    index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "t.csv").write_text(GOOD)

    def refused(path: str) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(pa, "memory_map", refused)
    with pytest.raises(StorageError, match="cannot be read: Permission denied"):
        joined(index, tmp_path / "t.csv")


CELLS = st.text(st.sampled_from("ab1,;\t \"'\n\réß"), max_size=6)


@pytest.mark.slow
@settings(max_examples=25)
@given(st.lists(CELLS, min_size=3, max_size=3), st.sampled_from(",;\t"), st.sampled_from("\n\r"))
def test_cells_are_those_that_python_wrote(
    index: Index, tmp_path_factory: pytest.TempPathFactory, cells: list[str], by: str, end: str
) -> None:
    path = tmp_path_factory.mktemp("csv") / "t.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, delimiter=by, lineterminator=end, quoting=csv.QUOTE_ALL)
        writer.writerows([["id", "y"], *([f"p{n}", f"x{cell}"] for n, cell in enumerate(cells))])
    assert joined(index, path) == [f"x{cell}" for cell in cells]


CHANGE = st.tuples(
    st.integers(0, 60), st.integers(0, 3), st.sampled_from(list(b',";\n\r\t{}[]=0\xff\0p'))
)


@pytest.mark.slow
@settings(max_examples=30)
@given(st.lists(CHANGE, min_size=1, max_size=5), st.booleans())
def test_any_damage_gives_a_table_of_the_same_rows_or_a_typed_error(
    index: Index, tmp_path_factory: pytest.TempPathFactory, changes: list[Any], parse: bool
) -> None:
    data = bytearray(b"id,y,z\np0,1,\"{'x': 1}\"\np1,2,\"[{'x': 2}]\"\np2,3,\n")
    for start, dropped, byte in changes:
        data[start : start + dropped] = bytes([byte])
    path = tmp_path_factory.mktemp("damage") / "t.csv"
    path.write_bytes(data)
    try:
        options = {"parse": "z"} if parse else {"label": "y"}
        found = index.join(path, {"parent": "id"}, lists=True, on_unmatched="keep", **options)
    except dicomdl.DicomdlError:
        return
    # Cells of other columns are not looked at.
    text = data.decode("utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8", "replace")
    by = max(",;\t", key=text.partition("\n")[0].count)
    rows = [row for row in csv.reader(text.splitlines(keepends=True), delimiter=by) if row]
    assert found.joins[0].rows == len(rows) - 1
