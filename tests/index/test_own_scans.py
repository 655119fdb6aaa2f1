"""own_scans: the list of generations that scans of this user wrote."""

import json
import os
import shutil
import time
from pathlib import Path

import pytest
from phantoms import write_series

import dicomdl
from dicomdl.errors import StorageError
from dicomdl.index.index import Index
from dicomdl.index.own_scans import is_own, record

posix_only = pytest.mark.skipif(os.name != "posix", reason="modes and owners of POSIX")


@pytest.fixture
def index(tmp_path: Path) -> Index:
    write_series(tmp_path / "data", shape=(3, 4, 4))
    return dicomdl.scan(tmp_path / "data", tmp_path / "index", progress=False)


def record_of(index: Index, cache: Path) -> Path:
    """The record of a generation."""
    return cache / "scans" / f"{index.generation}.json"


def test_an_index_that_a_scan_of_this_user_wrote_is_own(index: Index, cache_folder: Path) -> None:
    assert is_own(index.path, index.generation)
    written = record_of(index, cache_folder)
    if os.name == "posix":
        assert written.stat().st_mode & 0o777 == 0o600
        assert written.parent.stat().st_mode & 0o777 == 0o700


def test_an_index_without_a_record_is_foreign(
    index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DICOMDL_CACHE", str(tmp_path / "of another user"))
    assert not is_own(index.path, index.generation)


@pytest.mark.parametrize("way", ["copy", "move", "touch"])
def test_a_copy_is_own_and_its_content_is_read_once(
    way: str, index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "elsewhere"
    if way == "move":
        os.rename(index.path, place)
    else:
        shutil.copytree(index.path, place)
    if way == "touch":
        for path in place.rglob("*.arrow"):
            os.utime(path, (1, 1))
    assert is_own(str(place), index.generation)
    monkeypatch.setattr("dicomdl.index.own_scans._digest", lambda *_: pytest.fail("read again"))
    assert is_own(str(place), index.generation)
    assert way == "move" or is_own(index.path, index.generation)


@pytest.mark.parametrize("name", ["files.arrow", "frames.arrow", "scan.json"])
def test_an_index_that_was_edited_is_foreign(name: str, index: Index) -> None:
    path = Path(index.path) / "generations" / index.generation / name
    before, data = path.stat(), bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    # The change time betrays an edit that puts the time back.
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert not is_own(index.path, index.generation)


@pytest.mark.parametrize("change", ["more", "fewer", "link"])
def test_an_index_with_other_files_is_foreign(change: str, index: Index) -> None:
    folder = Path(index.path) / "generations" / index.generation
    if change == "more":
        (folder / "more.arrow").write_bytes(b"")
    else:
        shutil.move(folder / "problems.arrow", folder.parent / "problems.arrow")
    if change == "link":
        (folder / "problems.arrow").symlink_to(folder.parent / "problems.arrow")
    assert not is_own(index.path, index.generation)


@pytest.mark.parametrize("generation", ["", "..", "../scans/x", "A" * 16, "0" * 15])
def test_no_name_of_a_generation_leads_out_of_the_list(generation: str, index: Index) -> None:
    assert not is_own(index.path, generation)


@posix_only
@pytest.mark.parametrize("fault", ["mode", "name", "garbage", "long", "fifo"])
def test_a_record_that_others_may_have_written_does_not_count(
    fault: str, index: Index, cache_folder: Path
) -> None:
    path = record_of(index, cache_folder)
    content = path.read_bytes()
    if fault == "mode":
        path.chmod(0o660)
    elif fault == "name":
        path.write_text(json.dumps(json.loads(content) | {"generation": "0" * 16}))
    elif fault == "garbage":
        path.write_bytes(b"[1, 2")
    elif fault == "long":
        path.write_bytes(b" " * 100_000 + content)
    else:
        path.unlink()
        os.mkfifo(path, 0o600)
    assert not is_own(index.path, index.generation)


@posix_only
def test_a_record_in_a_folder_to_which_all_can_write_does_not_count(
    index: Index, cache_folder: Path
) -> None:
    (cache_folder / "scans").chmod(0o777)
    assert not is_own(index.path, index.generation)


def test_many_copies_do_not_grow_the_record(index: Index, tmp_path: Path) -> None:
    for number in range(12):
        place = tmp_path / f"copy {number}"
        shutil.copytree(index.path, place)
        os.utime(place / "generations" / index.generation / "files.arrow", (number, number))
        assert is_own(str(place), index.generation)
    (path,) = Path(os.environ["DICOMDL_CACHE"], "scans").glob("*.json")
    assert len(json.loads(path.read_bytes())["places"]) == 8
    assert is_own(index.path, index.generation)


def test_records_that_were_not_used_for_two_years_go(index: Index, cache_folder: Path) -> None:
    old = cache_folder / "scans" / f"{'a' * 16}.json"
    old.write_bytes(b"{}")
    os.utime(old, (1, 1))
    used = record_of(index, cache_folder)
    os.utime(used, (time.time() - 10 * 24 * 3600,) * 2)
    assert is_own(index.path, index.generation)
    assert time.time() - used.stat().st_mtime < 3600
    # Records are looked through once a day.
    record(index.path, index.generation)
    assert old.exists()
    os.utime(cache_folder / "scans" / "looked", (time.time() - 25 * 3600,) * 2)
    record(index.path, index.generation)
    assert [path.name for path in (cache_folder / "scans").glob("*.json")] == [used.name]


@pytest.mark.parametrize("years", [5, -5])
def test_a_clock_that_jumps_removes_no_record(index: Index, cache_folder: Path, years: int) -> None:
    other = cache_folder / "scans" / f"{'a' * 16}.json"
    other.write_bytes(b"{}")
    now = time.time() + years * 365 * 24 * 3600
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(time, "time", lambda: now)
        record(index.path, index.generation)
        assert other.exists() and is_own(index.path, index.generation)
    # As it is after the clock was set right: the last look was in the future, or long ago.
    os.utime(cache_folder / "scans" / "looked", (now, now))
    record(index.path, index.generation)
    assert other.exists()


def test_where_the_cache_folder_takes_no_record_this_process_remembers_it(
    index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("DICOMDL_CACHE", str(tmp_path / "file" / "cache"))
    assert not is_own(index.path, index.generation)
    with pytest.raises(StorageError, match="cannot be created"):
        record(index.path, index.generation)
    assert is_own(index.path, index.generation)
