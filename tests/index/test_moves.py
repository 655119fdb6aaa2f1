"""moves: data that lie elsewhere than at the scan."""

import os
import pickle  # our own bytes, made a line before
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from phantoms import ramp, write_series

import dicomdl
from dicomdl.errors import FileChanged, UsageError
from dicomdl.headers.reader import HeaderReader
from dicomdl.index.index import Index
from dicomdl.index.moves import moved, moves_of, parse_roots

RLE = "1.2.840.10008.1.2.5"


@pytest.fixture
def index(tmp_path: Path) -> Index:
    """Six patients in one root; one CT is compressed."""
    for patient in "ABCDEF":
        syntax = {"transfer_syntax": RLE} if patient == "A" else {}
        write_series(tmp_path / "data" / patient, shape=(4, 5, 7), patient_id=patient, **syntax)
    return dicomdl.scan(tmp_path / "data", tmp_path / "index", progress=False)


@pytest.fixture
def scratch(index: Index, tmp_path: Path) -> str:
    """The data after a copy with their times to another folder, where they are alone."""
    shutil.copytree(tmp_path / "data", tmp_path / "scratch")
    shutil.rmtree(tmp_path / "data")
    return str(tmp_path / "scratch")


def test_a_root_that_is_gone_is_an_error_that_names_the_way(index: Index, scratch: str) -> None:
    with pytest.raises(FileChanged, match=r"open_index\(path, root=\.\.\.\) or DICOMDL_ROOT"):
        dicomdl.read_volume(index.stacks[0])


def test_an_index_reads_its_data_at_the_new_root(index: Index, scratch: str) -> None:
    there = dicomdl.open_index(index.path, root=scratch)
    for stack in there.stacks:
        volume = dicomdl.read_volume(stack)
        assert np.array_equal(volume.array, ramp((4, 5, 7)) + volume.array[0, 0, 0])
        assert all(source.path.startswith(scratch + os.sep) for source in stack.sources)
    assert there.frame(0).path.startswith(scratch)
    assert all(path.startswith(scratch) for path in there.to_pandas("frames")["path"])
    assert all(path.startswith(scratch) for path in there.to_pandas("files")["path"])


@pytest.mark.slow
def test_splits_patches_and_cache_entries_stay(
    index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DICOMDL_CACHE", str(tmp_path / "cache"))
    options = {"size": (2, 3, 3), "intensity": "modality", "seed": 3}

    def seen(at: Index) -> tuple[list[list[str]], list[torch.Tensor], dicomdl.DiskCache]:
        cache = dicomdl.DiskCache(tmp_path / "entries")
        parts = [[s.series_instance_uid for s in part.stacks] for part in at.split((0.5, 0.5))]
        rows = dicomdl.RowSampler(patches := dicomdl.PatchDataset(at, cache=cache, **options))
        return parts, [patches[row]["image"] for row in rows], cache

    parts, images, _ = seen(index)
    shutil.copytree(tmp_path / "data", tmp_path / "scratch")
    parts_there, images_there, cache = seen(
        dicomdl.open_index(index.path, root=tmp_path / "scratch")
    )
    assert parts == parts_there
    assert all(map(torch.equal, images, images_there))
    assert (cache.stats().made, cache.stats().hits > 0) == (0, True)


@pytest.mark.slow
def test_the_move_travels_with_pickles_and_into_spawned_workers(index: Index, scratch: str) -> None:
    there = dicomdl.open_index(index.path, root={str(Path(scratch).parent / "data"): scratch})
    for thing in (there, there.stacks[1], there.select(patient_id="B")):
        again = pickle.loads(pickle.dumps(thing))
        frame = again.frame(0) if isinstance(again, Index) else again.frames[0]
        assert frame.path.startswith(scratch)
    code = (
        "import pickle, sys, dicomdl\n"
        "print(dicomdl.read_volume(pickle.loads(sys.stdin.buffer.read())).shape)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], input=pickle.dumps(there.stacks[0]), capture_output=True
    )
    assert done.stdout.strip() == b"(4, 5, 7)", done.stderr


@pytest.mark.parametrize("form", ["{new}", "{old}={new}", "/elsewhere=/nowhere:{old}={new}"])
def test_the_environment_names_the_new_root(
    form: str, index: Index, scratch: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = form.format(new=scratch, old=Path(scratch).parent / "data")
    monkeypatch.setenv("DICOMDL_ROOT", text.replace(":", os.pathsep))
    assert dicomdl.read_volume(dicomdl.open_index(index.path).stacks[0]).shape == (4, 5, 7)


def test_a_file_that_changed_on_the_way_is_refused(index: Index, scratch: str) -> None:
    there = dicomdl.open_index(index.path, root=scratch)
    path = there.stacks[1].frames[0].path
    os.utime(path, ns=(1, 1))
    with pytest.raises(FileChanged, match="rsync -a"):
        dicomdl.read_frame(there.stacks[1].frames[0])


def test_a_root_that_the_index_does_not_have_is_an_error_with_its_roots(
    index: Index, scratch: str
) -> None:
    with pytest.raises(UsageError, match=r"is no root of this index: its roots are .*data"):
        dicomdl.open_index(index.path, root={"/absent": scratch})


def test_one_folder_does_not_stand_for_two_roots() -> None:
    with pytest.raises(UsageError, match="has 2 roots"):
        parse_roots(["/a", "/b"], "/c")


def test_only_whole_folder_names_are_replaced_and_the_innermost_root_wins() -> None:
    roots = ["/a", "/a/b"]
    moves = moves_of(roots, parse_roots(roots, {"/a": "/x", "/a/b": "/y"}))
    paths = [b"/a/1", b"/a/b/1", b"/ab/1", b"/a"]
    assert [moved(path, moves) for path in paths] == [b"/x/1", b"/y/1", b"/ab/1", b"/x"]
    assert moved(b"/data/1", moves_of(["/"], {"/": "/mnt"})) == b"/mnt/data/1"


# --- file systems without stable change times -----------------------------------------------------


def unpack_again(folder: Path) -> None:
    """Give every file another change time and inode, as a container image on another host has."""
    for path in [path for path in folder.rglob("*") if path.is_file()]:
        shutil.copy2(path, path.with_suffix(".new"))
        os.replace(path.with_suffix(".new"), path)


def test_an_index_that_is_not_strict_disregards_change_times(index: Index, tmp_path: Path) -> None:
    unpack_again(tmp_path / "data")
    with pytest.raises(FileChanged, match=r"strict_files=False\) disregards change times"):
        dicomdl.read_volume(index.stacks[0])
    loose = dicomdl.open_index(index.path, strict_files=False)
    for stack in (loose.stacks[0], pickle.loads(pickle.dumps(loose.stacks[0]))):
        volume = dicomdl.read_volume(stack)
        assert np.array_equal(volume.array, ramp((4, 5, 7)) + volume.array[0, 0, 0])
    assert loose.stacks[0].paths == index.stacks[0].paths


@pytest.mark.parametrize("change", ["size", "time"])
def test_an_index_that_is_not_strict_still_compares_size_and_time(
    change: str, index: Index
) -> None:
    loose = dicomdl.open_index(index.path, strict_files=False)
    path = loose.stacks[0].paths[0]
    if change == "size":
        with open(path, "ab") as file:
            file.write(b"more")
    else:
        os.utime(path, ns=(0, 0))
    with pytest.raises(FileChanged, match="or scan again"):
        dicomdl.read_volume(loose.stacks[0])


@pytest.mark.slow
def test_a_scan_that_is_not_strict_takes_over_change_times(
    index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unpack_again(tmp_path / "data")
    read: list[str] = []
    monkeypatch.setattr(HeaderReader, "read", lambda self, path: read.append(path))
    monkeypatch.setattr(HeaderReader, "read_ordinary", lambda self, paths: read.extend(paths))
    again = dicomdl.scan(tmp_path / "data", index.path, progress=False, strict_files=False)
    assert (read, len(again)) == ([], len(index))
    strict = dicomdl.open_index(index.path)
    assert dicomdl.read_volume(strict.stacks[0]).shape == (4, 5, 7)
