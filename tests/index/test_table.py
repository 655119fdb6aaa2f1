"""table, building and generations: columns, and the folder of generations."""

import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from dicomdl.errors import GenerationGone, IndexFolderError, StorageError, UsageError
from dicomdl.index import generations as generations_module
from dicomdl.index import schema as schema_module
from dicomdl.index._retiring import Moment
from dicomdl.index.building import encoded, from_bytes, joined, table_of, to_bytes
from dicomdl.index.generations import publish
from dicomdl.index.schema import (
    ANNOTATIONS_SCHEMA,
    FILES_SCHEMA,
    PROBLEMS_SCHEMA,
    STACKS_SCHEMA,
    frames_schema,
)
from dicomdl.index.stored_generation import StoredGeneration, read_manifest
from dicomdl.index.table import Table, between, where


def small(rows: int = 6) -> Table:
    columns: dict[str, Any] = {
        "text": pa.array(["CT", "MR", "", "CT", "PT", "MR"][:rows], type=pa.large_string()),
        "whole": pa.array([1, 2, None, 4, 5, 1][:rows]),
        "real": pa.array([0.5, None, 1.5, 2.5, float("nan"), 0.5][:rows]),
        "flag": pa.array([True, False, True, False, True, False][:rows]),
        "point": pa.array(
            [[1.0, 2.0, 3.0], None, [4.0, 5.0, 6.0], [1.0, 2.0, 3.0], None, [7.0, 8.0, 9.0]][:rows],
            type=pa.list_(pa.float64(), 3),
        ),
    }
    return Table(pa.table(columns))


both = pytest.mark.parametrize("table", [small(), encoded(small())], ids=["plain", "encoded"])


@both
def test_values_numbers_and_vectors_are_the_same_plain_and_encoded(table: Table) -> None:
    assert [table.value("text", row) for row in range(6)] == ["CT", "MR", "", "CT", "PT", "MR"]
    assert table.value("point", 0) == (1.0, 2.0, 3.0)
    assert table.value("point", 1) is None
    np.testing.assert_array_equal(table.numbers("whole"), [1, 2, np.nan, 4, 5, 1])
    np.testing.assert_array_equal(table.vectors("point", 3)[:2], [[1, 2, 3], [np.nan] * 3])


@both
def test_ranks_order_and_equal_each_other_as_the_values_do(table: Table) -> None:
    ranks = table.ranks("text")
    assert ranks[0] == ranks[3]
    assert ranks[2] < ranks[0] < ranks[1] < ranks[4]
    assert table.ranks("whole")[2] < table.ranks("whole")[0] < table.ranks("whole")[1]


@both
@pytest.mark.parametrize(
    ("name", "wanted", "rows"),
    [
        ("text", "CT", [0, 3]),
        ("text", ["CT", "PT"], [0, 3, 4]),
        ("text", np.array(["CT", "PT"]), [0, 3, 4]),
        ("text", {"PT"}, [4]),
        ("text", None, [2]),
        ("text", "XX", []),
        ("text", [], []),
        ("whole", 1, [0, 5]),
        ("whole", range(4, 6), [3, 4]),
        ("whole", np.int64(4), [3]),
        ("whole", None, [2]),
        ("whole", [None, 2], [1, 2]),
        ("real", 0.5, [0, 5]),
        ("real", None, [1]),
        ("flag", True, [0, 2, 4]),
    ],
)
def test_where_finds_equal_listed_and_absent_values(
    table: Table, name: str, wanted: Any, rows: list[int]
) -> None:
    assert np.flatnonzero(where(table, name, wanted)).tolist() == rows


@both
def test_between_is_inclusive_and_absent_values_lie_nowhere(table: Table) -> None:
    assert np.flatnonzero(between(table, "whole", 2, 4)).tolist() == [1, 3]
    assert np.flatnonzero(between(table, "whole", low=2)).tolist() == [1, 3, 4]
    assert np.flatnonzero(between(table, "real", high=1.5)).tolist() == [0, 2, 5]
    assert np.flatnonzero(between(table, "text", "MR", "PT")).tolist() == [1, 4, 5]


@both
@pytest.mark.parametrize(
    ("name", "wanted"),
    [("text", 3), ("whole", "CT"), ("whole", 1.5), ("whole", 2**70), ("point", 1), ("flag", "yes")],
)
def test_values_of_another_type_are_usage_errors(table: Table, name: str, wanted: Any) -> None:
    with pytest.raises(UsageError) as caught:
        where(table, name, wanted)
    assert caught.value.column == name


@both
def test_bounds_of_another_type_are_usage_errors(table: Table) -> None:
    for name, bound in (("text", 3), ("whole", "CT"), ("point", 1)):
        with pytest.raises(UsageError):
            between(table, name, bound)


@both
def test_an_unknown_column_names_the_nearest(table: Table) -> None:
    with pytest.raises(UsageError, match="did you mean whole"):
        table.column("whol")


def test_views_are_read_only_and_in_place(tmp_path: Path) -> None:
    table = Table(pa.table({"number": pa.array(np.arange(5))}))
    view = table.numbers("number")
    assert not view.flags.writeable
    assert view.tolist() == [0, 1, 2, 3, 4]
    assert table.numbers("number")[1:3].tolist() == [1, 2]


def test_encoding_keeps_every_value_and_narrows_to_a_byte() -> None:
    many = Table(
        pa.table(
            {
                "text": pa.array([f"v{k % 100}" for k in range(10_000)], type=pa.large_string()),
                "id": pa.array(range(10_000)),
            }
        )
    )
    found = encoded(many)
    assert found.arrow.schema.field("text").type.index_type == pa.int8()
    assert found.arrow.schema.field("id").type == pa.int64()
    assert found.plain().arrow.equals(many.arrow)


def test_a_column_of_one_value_is_known_without_a_look_at_its_rows() -> None:
    table = encoded(
        Table(
            pa.table(
                {
                    "one": pa.array(["x"] * 5, type=pa.large_string()),
                    "none": pa.nulls(5, pa.list_(pa.float64())),
                    "two": [1, 2, 1, 2, 1],
                }
            )
        )
    )
    assert table.constants == {"one": "x", "none": None}
    assert table.with_column("one", list("abcde")).constants == {"none": None}


def test_tables_cross_a_pipe_whole() -> None:
    one, two = from_bytes(to_bytes([small(), encoded(small(3))]), 2)
    assert repr(one.arrow.to_pylist()) == repr(small().arrow.to_pylist())
    assert two.plain().arrow.equals(small(3).arrow)


def test_joining_tables_puts_one_under_the_other_and_none_is_empty() -> None:
    schema = small().arrow.schema
    assert len(joined([small(), encoded(small(2))], schema)) == 8
    assert len(joined([], schema)) == 0


def test_replacing_a_column_leaves_the_others() -> None:
    table = encoded(small()).with_column("text", ["x"] * 6)
    assert [table.value("text", row) for row in range(6)] == ["x"] * 6
    assert table.value("whole", 0) == 1


# --- the folder -----------------------------------------------------------------------------------


def empty_tables() -> dict[str, Table]:
    schemas = {
        "files": FILES_SCHEMA,
        "frames": frames_schema(),
        "stacks": STACKS_SCHEMA,
        "problems": PROBLEMS_SCHEMA,
        "annotations": ANNOTATIONS_SCHEMA,
    }
    return {name: Table(schema.empty_table()) for name, schema in schemas.items()}


def test_a_generation_is_published_and_read_back(tmp_path: Path) -> None:
    content = empty_tables()
    content["problems"] = table_of(
        PROBLEMS_SCHEMA, {"file": [0], "reason": ["cut"], "detail": ["3 of 4"]}
    )
    name = publish(str(tmp_path), content, {"options": {"a": 1}})
    manifest = read_manifest(str(tmp_path))
    assert manifest["generation"] == name
    assert StoredGeneration(str(tmp_path), name).facts() == {"options": {"a": 1}}
    rows = {"files": 0, "frames": 0, "stacks": 0, "problems": 1, "annotations": 0}
    assert manifest["rows"] == rows
    assert StoredGeneration(str(tmp_path), name).table("problems").value("reason", 0) == "cut"


def test_a_superseded_generation_stays_for_the_grace_period_and_then_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = publish(str(tmp_path), empty_tables(), {})
    second = publish(str(tmp_path), empty_tables(), {})
    assert sorted(os.listdir(tmp_path / "generations")) == sorted([first, second])
    assert list(read_manifest(str(tmp_path))["retired"]) == [first]
    monkeypatch.setattr(generations_module, "GRACE_S", -1.0)
    third = publish(str(tmp_path), empty_tables(), {})
    assert os.listdir(tmp_path / "generations") == [third]
    with pytest.raises(GenerationGone, match="gone") as caught:
        StoredGeneration(str(tmp_path), first).table("frames")
    assert caught.value.generation == first


def test_a_generation_that_another_scan_removed_does_not_become_the_current_one(
    tmp_path: Path,
) -> None:
    """A scan that stores less of patients removes all others at once."""
    names = []

    def meanwhile(_: str) -> None:
        names.append(publish(str(tmp_path), empty_tables(), {}, 0.0))

    with pytest.raises(StorageError, match="another scan that stores less of patients"):
        publish(str(tmp_path), empty_tables(), {}, written=meanwhile)
    assert [read_manifest(str(tmp_path))["generation"]] == names
    assert os.listdir(tmp_path / "generations") == names


def test_a_clock_that_jumps_ahead_removes_no_generation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [publish(str(tmp_path), empty_tables(), {}) for _ in range(2)]
    # A folder that no manifest names, as of two scans at one time.
    (tmp_path / "generations" / ("0" * 16)).mkdir()
    ahead = 365 * 86400.0
    monkeypatch.setattr(
        generations_module,
        "moment_of",
        lambda path: Moment(os.stat(path).st_mtime + ahead, time.monotonic()),
    )
    names += ["0" * 16, publish(str(tmp_path), empty_tables(), {})]
    assert sorted(os.listdir(tmp_path / "generations")) == sorted(names)


@pytest.mark.parametrize(
    "manifest",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff",
        b'{"format": 1}',
        b'{"format": 1, "generation": 3}',
        b'{"format": 1, "generation": "../x"}',
    ],
)
def test_a_damaged_manifest_is_an_index_folder_error(tmp_path: Path, manifest: bytes) -> None:
    (tmp_path / "manifest.json").write_bytes(manifest)
    with pytest.raises(IndexFolderError, match="scan again"):
        read_manifest(str(tmp_path))


def test_another_format_says_which_one_it_is(tmp_path: Path) -> None:
    publish(str(tmp_path), empty_tables(), {})
    manifest = json.loads((tmp_path / "manifest.json").read_bytes())
    (tmp_path / "manifest.json").write_text(json.dumps(manifest | {"format": 99}))
    with pytest.raises(IndexFolderError, match="format 99") as caught:
        read_manifest(str(tmp_path))
    assert (caught.value.found, caught.value.expected) == (99, schema_module.FORMAT)


def test_no_index_is_an_index_folder_error(tmp_path: Path) -> None:
    with pytest.raises(IndexFolderError, match="there is no index"):
        read_manifest(str(tmp_path))


@pytest.mark.parametrize("keep", [0, 1, 100, 400])
def test_a_cut_table_is_an_index_folder_error(tmp_path: Path, keep: int) -> None:
    name = publish(str(tmp_path), empty_tables(), {})
    path = tmp_path / "generations" / name / "frames.arrow"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(IndexFolderError, match="damaged"):
        StoredGeneration(str(tmp_path), name).table("frames")


# --- values of some rows --------------------------------------------------------------------------


def texts(*values: str | None, is_encoded: bool = False) -> Table:
    array = pa.array(values, pa.large_string())
    return Table(pa.table({"text": array.dictionary_encode() if is_encoded else array}))


@pytest.mark.parametrize("is_encoded", [False, True])
def test_changes_are_rows_that_differ_from_the_one_before(is_encoded: bool) -> None:
    table = texts("a", "a", "b", "", "", "a", is_encoded=is_encoded)
    assert table.changes("text").tolist() == [True, False, True, True, False, True]
    assert texts("a").changes("text").tolist() == [True]
    assert texts().changes("text").tolist() == []


@pytest.mark.parametrize("is_encoded", [False, True])
def test_distinct_values_of_rows_come_with_codes(is_encoded: bool) -> None:
    table = texts("a", "b", "a", "c", is_encoded=is_encoded)
    codes, values = table.distinct_at("text", np.array([3, 0, 2]))
    assert [values.text("text", code) for code in codes.tolist()] == ["c", "a", "a"]
    same, together = Table.together("text", [values, texts("a", "d")])
    assert together.text("text", int(same[codes[1]])) == "a"
    assert same[-2] == same[codes[1]] and same[-1] not in same[:-1]


def test_hashes_that_may_be_repeated_are_found_by_their_beginning() -> None:
    one, two, three = "0123456789abcdef", "0123456789abcdee", "fedcba9876543210"
    table = texts(one, "", two, three, three, "", "aaaaaaaabbbbbbbb")
    rows = np.arange(7)
    assert table.perhaps_repeated("text", rows).tolist() == [0, 2, 3, 4]
    assert table.perhaps_repeated("text", np.array([0, 1, 3])).tolist() == []
    mixed = texts(one, "short")
    assert mixed.perhaps_repeated("text", np.arange(2)).tolist() == [0, 1]
    encoded = texts(one, one, is_encoded=True)
    assert encoded.perhaps_repeated("text", np.arange(2)).tolist() == [0, 1]
