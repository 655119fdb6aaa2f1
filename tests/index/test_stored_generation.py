"""stored_generation and _cell_readers: tables of a generation, verified before they are used."""

import functools
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from dicomdl.errors import GenerationGone, IndexDamaged, IndexFolderError
from dicomdl.index._cell_readers import CHUNK_BITS, SMALL_BYTES, reader_of
from dicomdl.index.access import Access
from dicomdl.index.building import empty_table
from dicomdl.index.generations import publish
from dicomdl.index.rows import Generation
from dicomdl.index.schema import (
    ANNOTATIONS_SCHEMA,
    PROBLEMS_SCHEMA,
    STACKS_SCHEMA,
)
from dicomdl.index.stored_generation import StoredGeneration, read_manifest
from dicomdl.index.table import Table
from dicomdl.storage.checksums import BLOCK_BYTES, Blocks

ROWS = 3 * (SMALL_BYTES // 8) + 5


@functools.cache
def frames() -> Table:
    """Long columns of every kind that an index has; each value tells its row."""
    numbers = np.arange(ROWS)
    floats = pa.array(numbers * 0.5)
    ends = pa.array(np.minimum(np.arange(ROWS + 1), ROWS - 3), pa.int32())
    columns = {
        "number": pa.array(numbers),
        "blank": pa.array([None if n % 7 == 0 else float(n) for n in range(ROWS)]),
        "flag": pa.array(numbers % 3 == 0),
        "text": pa.array([f"text {n}" for n in range(ROWS)], pa.large_string()),
        "raw": pa.array([b"/%d" % n for n in range(ROWS)], pa.large_binary()),
        "position": pa.FixedSizeListArray.from_arrays(pa.array(np.arange(3.0 * ROWS)), 3),
        "window": pa.ListArray.from_arrays(ends, floats),
        "code": pa.array([f"code {n // 20}" for n in range(ROWS)], pa.large_string()),
        "file": pa.array(numbers[::-1], pa.int32()),
    }
    return Table(pa.table(columns))


def files() -> Table:
    """One file per frame, in the reverse order."""
    numbers = np.arange(ROWS)
    paths = pa.array([b"/%d" % n for n in numbers], pa.large_binary())
    return Table(pa.table({"path": paths, "file_mtime_ns": pa.array(numbers)}))


NAMES = frames().names


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    schemas = {
        "stacks": STACKS_SCHEMA,
        "problems": PROBLEMS_SCHEMA,
        "annotations": ANNOTATIONS_SCHEMA,
    }
    tables = {name: empty_table(schema) for name, schema in schemas.items()}
    publish(str(folder), tables | {"frames": frames(), "files": files()}, {"options": {}})
    return folder


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "index"))


def stored(folder: Path) -> StoredGeneration:
    return StoredGeneration(str(folder), read_manifest(str(folder))["generation"])


def file_of(folder: Path, name: str) -> Path:
    return folder / "generations" / read_manifest(str(folder))["generation"] / name


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def place_of(folder: Path, name: str, row: int) -> int:
    """Return the position of the bytes of a cell in the file of frames."""
    path = file_of(folder, "frames.arrow")
    wanted = {
        "number": np.arange(ROWS)[row:].tobytes(),
        "position": np.arange(3.0 * ROWS)[3 * row :].tobytes(),
        "text": f"text {row}text {row + 1}".encode(),
    }[name]
    return path.read_bytes().index(wanted[:40])


@pytest.mark.parametrize("name", ["number", "position", "text"])
def test_damage_is_an_error_where_it_is_read_and_nowhere_else(folder: Path, name: str) -> None:
    row = 2 * ROWS // 3
    at = place_of(folder, name, row)
    flip(file_of(folder, "frames.arrow"), at)
    table = stored(folder).table("frames")
    for other in set(NAMES) - {name}:
        table.column(other)
    cell = reader_of(table, name, lambda: None)
    assert repr(cell(3)) == repr(frames().value(name, 3))
    reads: tuple[Callable[[], Any], ...] = (
        lambda: cell(row),
        lambda: table.column(name),
        lambda: table.values(name, np.array([1, ROWS - 1])),
        lambda: table.part(slice(row - 1, row + 1)).column(name),
        lambda: table.arrow,
        stored(folder).verify,
    )
    for read in reads:
        with pytest.raises(IndexDamaged, match="scan again") as caught:
            read()
        assert (caught.value.table, caught.value.block) == ("frames", at // BLOCK_BYTES)
        assert caught.value.path == str(folder)
    assert table.values(name, np.array([1, 2])) == frames().values(name, np.array([1, 2]))
    again = pickle.loads(pickle.dumps(caught.value))
    assert (again.table, again.block, str(again)) == ("frames", at // BLOCK_BYTES, str(again))


def test_what_describes_the_columns_is_verified_when_a_table_is_opened(folder: Path) -> None:
    path = file_of(folder, "frames.arrow")
    for at in (100, path.stat().st_size - 20):
        flip(path, at)
        with pytest.raises(IndexDamaged):
            stored(folder).table("frames")
        flip(path, at)
    assert len(stored(folder).table("frames")) == ROWS


def right_value(name: str, row: int) -> Any:
    if name == "path":
        return f"/{ROWS - 1 - row}"
    return ROWS - 1 - row if name == "file_mtime_ns" else frames().value(name, row)


@pytest.mark.parametrize("name", [*NAMES, "path", "file_mtime_ns"])
def test_readers_that_verify_return_what_is_stored_and_are_replaced_in_the_end(
    whole: Path, name: str
) -> None:
    generation = Generation(str(whole), stored(whole).name, Access((), None, True))
    first = generation.cell(name)
    rows = [ROWS - 1, 0, ROWS // 2, 7, 1 << CHUNK_BITS, (1 << CHUNK_BITS) - 1]
    right = [repr(right_value(name, row)) for row in rows]
    assert [repr(first(row)) for row in rows] == right
    assert generation.values(name, slice(5, 7)) == [right_value(name, 5), right_value(name, 6)]
    for row in range(0, ROWS, 1 << CHUNK_BITS - 1):
        generation.cell(name)(row)
    held = generation.frames if name in NAMES else generation.files
    assert held.is_verified(name)
    last = generation.cell(name)
    assert last is generation.cell(name)
    assert [repr(last(row)) for row in rows] == right


def test_a_cell_of_a_long_column_verifies_a_few_blocks(
    whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table, seen = stored(whole).table("frames"), []
    original = Blocks.verify_block

    def verify_block(self: Blocks, block: int) -> None:
        seen.append(block)
        original(self, block)

    monkeypatch.setattr(Blocks, "verify_block", verify_block)
    cell = reader_of(table, "number", lambda: None)
    assert seen == []
    assert cell(ROWS // 2) == cell(ROWS // 2) == ROWS // 2
    assert 0 < len(seen) <= 2


def test_an_empty_cut_or_foreign_file_is_never_mapped(folder: Path, whole: Path) -> None:
    path = file_of(folder, "frames.arrow")
    data = path.read_bytes()
    for damaged in (b"", data[:-1], data[: len(data) // 2], data + b"\0"):
        path.write_bytes(damaged)
        with pytest.raises(IndexDamaged, match=f"has {len(damaged)} bytes") as caught:
            stored(folder).table("frames")
        assert caught.value.table == "frames"
        with pytest.raises(IndexDamaged, match="has"):
            stored(folder).verify()
    path.write_bytes(data)
    publish(str(folder), _tables_of(whole), {"options": {"other": 1}})
    os.replace(path.with_name("checksums"), file_of(folder, "checksums"))
    with pytest.raises(IndexDamaged, match="of another generation"):
        stored(folder)


def _tables_of(folder: Path) -> dict[str, Table]:
    names = ("files", "frames", "stacks", "problems", "annotations")
    return {name: stored(folder).table(name) for name in names}


def test_an_absent_file_is_damage_of_the_current_generation_and_goes_with_an_old_one(
    folder: Path, whole: Path
) -> None:
    first = stored(folder)
    file_of(folder, "frames.arrow").unlink()
    with pytest.raises(IndexDamaged, match="frames is absent"):
        first.table("frames")
    with pytest.raises(IndexDamaged, match="frames is absent"):
        first.verify()
    publish(str(folder), _tables_of(whole), {})
    with pytest.raises(GenerationGone):
        first.table("frames")


def test_facts_and_manifest_are_verified(folder: Path) -> None:
    facts, manifest = file_of(folder, "scan.json"), folder / "manifest.json"
    facts.write_text(facts.read_text().replace("{}", "[]"))
    with pytest.raises(IndexDamaged, match=r"scan\.json") as caught:
        stored(folder).facts()
    assert caught.value.block == 0
    manifest.write_text(manifest.read_text().replace('"rows"', '"Rows"'))
    with pytest.raises(IndexDamaged, match=r"manifest\.json") as caught:
        read_manifest(str(folder))
    assert isinstance(caught.value, IndexFolderError)
    assert (caught.value.table, caught.value.block) == ("manifest.json", None)


@pytest.mark.skipif(os.name != "posix", reason="only POSIX opens folders")
def test_all_files_of_a_generation_are_on_the_disk_before_the_manifest_names_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushed: set[int] = set()
    named: list[set[int]] = []
    replace = os.replace

    def replaced(source: str, target: str) -> None:
        named.append(set(flushed))
        replace(source, target)

    monkeypatch.setattr(os, "fsync", lambda descriptor: flushed.add(os.fstat(descriptor).st_ino))
    monkeypatch.setattr(os, "replace", replaced)
    generation = publish(str(folder), _tables_of(folder), {"options": {}})
    written = folder / "generations" / generation
    needed = {os.stat(path).st_ino for path in (written, written.parent, *written.iterdir())}
    assert len(needed) == 9
    assert needed <= named[0]
