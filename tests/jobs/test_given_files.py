"""given_files: files in memory become an index that is opened again, and reaches workers."""

import io
import multiprocessing
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from phantoms import ramp, write_series

import dicomdl
from dicomdl.errors import UsageError


@pytest.fixture
def pairs(tmp_path: Path) -> list[tuple[str, bytes]]:
    paths = write_series(tmp_path / "in")
    found = [(f"case/{path.name}", path.read_bytes()) for path in paths]
    for path in paths:
        path.unlink()
    return found


def scanned(given: Any, out: Path | None) -> dicomdl.Index:
    return dicomdl.scan(given, out, progress=False)


def mean(index: dicomdl.Index) -> float:
    return float(dicomdl.read_volume(index.stacks[0]).array.mean())


def test_bytes_and_open_files_are_scanned_as_files(tmp_path: Path, pairs: Any) -> None:
    index = scanned([(name, io.BytesIO(data)) for name, data in pairs], tmp_path / "index")
    assert np.array_equal(dicomdl.read_volume(index.stacks[0]).array, ramp((6, 5, 7)))
    again = dicomdl.open_index(tmp_path / "index")
    assert np.array_equal(dicomdl.read_volume(again.stacks[0]).array, ramp((6, 5, 7)))
    assert all(Path(frame).is_relative_to(tmp_path / "index") for frame in index.stacks[0].paths)


def test_the_same_bytes_are_stored_once_and_for_their_owner(tmp_path: Path, pairs: Any) -> None:
    first = scanned(pairs, tmp_path / "index")
    files = sorted((tmp_path / "index" / "given").rglob("*"))
    assert scanned(pairs, tmp_path / "index").generation == first.generation
    assert sorted((tmp_path / "index" / "given").rglob("*")) == files
    assert all(path.stat().st_mode & 0o077 == 0 for path in files)


@pytest.mark.slow
def test_an_index_of_bytes_without_a_folder_reaches_spawned_processes(
    tmp_path: Path, pairs: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DICOMDL_CACHE", str(tmp_path / "cache"))
    index = scanned(pairs, None)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(mean, (index,)) == ramp((6, 5, 7)).mean()


@pytest.mark.parametrize(
    "name", ["", "/abs.dcm", "../up.dcm", "a//b", "a/../b", ".hidden", "a\\b", "a\0b", "a/."]
)
def test_a_name_that_leads_elsewhere_is_an_error(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="no name"):
        scanned([(name, b"x")], tmp_path / "index")
    assert not (tmp_path / "index").exists()


@pytest.mark.parametrize("given", [("a", 1), ("a",), (1, b""), ("a", b"", 1), ("a", "text")])
def test_what_is_no_pair_of_name_and_bytes_is_an_error(tmp_path: Path, given: Any) -> None:
    with pytest.raises(UsageError, match=r"\(name, bytes\)"):
        scanned([given], tmp_path / "index")


def test_two_files_of_one_name_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="one name"):
        scanned([("a", b"x"), ("a", b"y")], tmp_path / "index")


def test_a_folder_of_other_files_is_left_as_it_is(tmp_path: Path, pairs: Any) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("notes")
    with pytest.raises(UsageError, match="other files"):
        scanned(pairs, tmp_path / "mine")
    assert os.listdir(tmp_path / "mine") == ["notes.txt"]


def test_bytes_beside_folders_are_roots_as_they_are(tmp_path: Path, pairs: Any) -> None:
    write_series(tmp_path / "other", seed=1)
    assert len(scanned([tmp_path / "other", *pairs], tmp_path / "index")) == 12
