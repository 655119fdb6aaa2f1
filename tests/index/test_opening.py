"""opening: which files an index may read, of this user and of others."""

import os
import pickle  # our own bytes, made a line before
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from phantoms import ramp, write_series
from phantoms_labels import contour, write_structure_set

import dicomdl
from dicomdl.errors import FileChanged, IndexFolderError, PixelError, UntrustedRoot, UsageError
from dicomdl.index import generations, opening
from dicomdl.index.index import Index


@pytest.fixture
def mine(tmp_path: Path) -> Index:
    """The index of two patients below two roots, as its own user has it."""
    for patient in "AB":
        images = write_series(tmp_path / patient / "data", shape=(4, 5, 7), patient_id=patient)
    square = contour([[0, 0, 0], [3, 0, 0], [3, 3, 0], [0, 3, 0]])
    write_structure_set(tmp_path / "B" / "rt.dcm", images[0], {"square": [square]})
    return dicomdl.scan([tmp_path / "A", tmp_path / "B"], tmp_path / "index", progress=False)


@pytest.fixture
def other_user(mine: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another user, whose cache folder knows no scan."""
    monkeypatch.setenv("DICOMDL_CACHE", str(tmp_path / "cache of another user"))


@pytest.fixture
def foreign(mine: Index, other_user: None) -> Index:
    """The index as another user opens it."""
    return dicomdl.open_index(mine.path)


def roots_of(index: Index) -> dict[str, str]:
    """The roots of an index, each at its place."""
    return {root: root for root in index.manifest["options"]["roots"]}


def is_readable(index: Index) -> bool:
    """Whether all pixels of an index are read, right."""
    volumes = [dicomdl.read_volume(stack) for stack in index.stacks]
    return all(np.array_equal(v.array - v.array[0, 0, 0], ramp((4, 5, 7))) for v in volumes)


def test_the_user_who_scanned_needs_no_option(mine: Index) -> None:
    again = dicomdl.open_index(mine.path)
    assert is_readable(again)
    assert all(type(source.path) is str for stack in again.stacks for source in stack.sources)


def test_an_index_that_is_replaced_and_removed_while_it_is_opened_is_opened_as_it_is_now(
    mine: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    access_to, removed = opening.access_to, list[str]()

    def replaced(folder: str, name: str, *given: Any, **options: Any) -> Any:
        if not removed:
            write_series(tmp_path / "A" / "new", shape=(4, 5, 7), patient_id="C")
            dicomdl.scan([tmp_path / "A", tmp_path / "B"], mine.path, progress=False)
            shutil.rmtree(tmp_path / "index" / "generations" / name)
            removed.append(name)
        return access_to(folder, name, *given, **options)

    monkeypatch.setattr(opening, "access_to", replaced)
    again = dicomdl.open_index(mine.path)
    assert removed == [mine.generation] and len(again) == len(mine) + 4 and is_readable(again)


def test_a_scan_is_recorded_before_others_see_its_index(
    mine: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_current, opened = generations._make_current, list[bool]()

    def current(folder: str, *given: Any) -> None:
        make_current(folder, *given)
        opened.append(is_readable(dicomdl.open_index(folder)))

    monkeypatch.setattr(generations, "_make_current", current)
    write_series(tmp_path / "A" / "new", shape=(4, 5, 7), patient_id="C")
    dicomdl.scan([tmp_path / "A", tmp_path / "B"], mine.path, progress=False)
    assert opened == [True]


@pytest.mark.slow
def test_another_user_sees_the_tables(foreign: Index, mine: Index) -> None:
    pytest.importorskip("pandas")
    assert repr(foreign) == repr(mine)
    assert len(foreign.select(patient_id="A")) == 4
    assert [len(part) for part in foreign.split((0.5, 0.5))] == [4, 4]
    assert foreign.to_pandas()["path"].tolist() == mine.to_pandas()["path"].tolist()
    assert foreign.check().to_dict() == mine.check().to_dict()
    assert foreign.frame(0).path == mine.frame(0).path
    assert foreign.stacks[0].path == mine.stacks[0].path


@pytest.mark.quick(3)
@pytest.mark.parametrize(
    "read",
    [
        lambda index: index.source(0),
        lambda index: index.stacks[0].sources,
        lambda index: dicomdl.read_frame(index.frame(0)),
        lambda index: dicomdl.read_volume(index.stacks[0]),
        lambda index: dicomdl.check_pixels(index),
        lambda index: dicomdl.fingerprint(index),
        lambda index: dicomdl.convert(index, index.path + ".nii", progress=False),
        lambda index: index.to_kerchunk(index.path + ".json", on_unsupported="skip"),
        lambda index: dicomdl.read_labels(index.stacks[0], index.annotations[0]),
    ],
    ids=["source", "sources", "frame", "volume", "check", "fingerprint", "nifti", "zarr", "labels"],
)
def test_pixels_of_another_user_s_index_are_refused(
    read: Callable[[Index], Any], foreign: Index
) -> None:
    with pytest.raises(UntrustedRoot, match=r"open_index\(path, root=\.\.\.\) or DICOMDL_ROOT"):
        read(foreign)


@pytest.mark.quick(2)
@pytest.mark.parametrize("on_error", ["raise", "skip", "replace"])
@pytest.mark.parametrize("kind", ["FrameDataset", "VolumeDataset", "PatchDataset"])
def test_no_dataset_is_made_of_pixels_that_are_refused(
    kind: str, on_error: str, foreign: Index
) -> None:
    pytest.importorskip("torch")
    size = {"size": (2, 2, 2)} if kind == "PatchDataset" else {}
    for given in (foreign, foreign.path, foreign.stacks, foreign.select(patient_id="A")):
        with pytest.raises(UntrustedRoot):
            getattr(dicomdl, kind)(given, on_error=on_error, **size)


def test_no_policy_of_a_dataset_skips_a_refused_root() -> None:
    assert issubclass(UntrustedRoot, IndexFolderError)
    assert not issubclass(UntrustedRoot, PixelError)


@pytest.mark.parametrize("way", ["root", "variable", "trust"])
def test_the_user_who_names_the_roots_reads_them(
    way: str, mine: Index, other_user: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if way == "variable":
        pairs = [f"{old}={new}" for old, new in roots_of(mine).items()]
        monkeypatch.setenv("DICOMDL_ROOT", os.pathsep.join(pairs))
    options: dict[str, Any] = {"root": roots_of(mine)} if way == "root" else {}
    assert is_readable(dicomdl.open_index(mine.path, trust=way == "trust", **options))


def test_one_root_is_named_by_its_folder_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_series(tmp_path / "data", shape=(4, 5, 7))
    index = dicomdl.scan(tmp_path / "data", tmp_path / "index", progress=False)
    monkeypatch.setenv("DICOMDL_CACHE", str(tmp_path / "cache of another user"))
    assert is_readable(dicomdl.open_index(index.path, root=tmp_path / "data"))
    os.rename(tmp_path / "data", tmp_path / "moved")
    assert is_readable(dicomdl.open_index(index.path, root=tmp_path / "moved"))
    with pytest.raises(FileChanged):
        dicomdl.read_volume(dicomdl.open_index(index.path, root=tmp_path / "absent").stacks[0])


def test_a_root_that_was_not_named_stays_refused(
    mine: Index, other_user: None, tmp_path: Path
) -> None:
    pytest.importorskip("torch")
    partly = dicomdl.open_index(mine.path, root={str(tmp_path / "A"): str(tmp_path / "A")})
    assert is_readable(partly.select(patient_id="A"))
    assert len(dicomdl.FrameDataset(partly.select(patient_id="A"))) == 4
    with pytest.raises(UntrustedRoot):
        dicomdl.read_volume(partly.select(patient_id="B").stacks[0])
    with pytest.raises(UntrustedRoot):
        dicomdl.FrameDataset(partly, on_error="skip")


def test_the_error_names_roots_and_index(foreign: Index) -> None:
    with pytest.raises(UntrustedRoot) as caught:
        foreign.source(0)
    assert caught.value.path == foreign.path
    assert caught.value.roots == list(roots_of(foreign))


@pytest.mark.slow
def test_what_was_accepted_travels_with_pickles(mine: Index, other_user: None) -> None:
    accepted = dicomdl.open_index(mine.path, root=roots_of(mine))
    for thing in (accepted, accepted.select(patient_id="A"), accepted.stacks[0], accepted.frame(0)):
        data = pickle.dumps(thing)
        assert len(data) <= 4096
        again = pickle.loads(data)
        assert again == thing or is_readable(again)
    refused = pickle.loads(pickle.dumps(dicomdl.open_index(mine.path)))
    with pytest.raises(UntrustedRoot):
        refused.source(0)


def read_in_another_process(thing: Any, cache: Path) -> bytes:
    """Read a pickled stack in a process of another cache folder, such as a rank elsewhere."""
    code = (
        "import pickle, sys, dicomdl\n"
        "print(dicomdl.read_volume(pickle.loads(sys.stdin.buffer.read())).shape)"
    )
    environment = os.environ | {"DICOMDL_CACHE": str(cache)}
    done = subprocess.run(
        [sys.executable, "-c", code],
        input=pickle.dumps(thing),
        capture_output=True,
        env=environment,
        check=False,
    )
    return done.stdout.strip() or done.stderr


@pytest.mark.slow
def test_processes_of_another_machine_read_what_they_are_sent(mine: Index, tmp_path: Path) -> None:
    assert read_in_another_process(mine.stacks[0], tmp_path / "elsewhere") == b"(4, 5, 7)"


@pytest.mark.slow
def test_a_scan_without_a_cache_folder_is_read_by_its_process_and_workers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_series(tmp_path / "data", shape=(4, 5, 7))
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("DICOMDL_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.warns(UserWarning, match=r"later ones name the root, open_index\(path, root="):
        index = dicomdl.scan(tmp_path / "data", tmp_path / "index", progress=False)
    assert is_readable(index) and is_readable(dicomdl.open_index(index.path))
    sent = read_in_another_process(index.stacks[0], tmp_path / "file" / "cache")
    assert sent == b"(4, 5, 7)"


def test_a_scan_into_the_index_of_another_user_makes_it_this_user_s_own(
    mine: Index, other_user: None
) -> None:
    again = dicomdl.scan(list(roots_of(mine)), mine.path, progress=False)
    assert again.generation == mine.generation, "nothing changed, so nothing was written"
    assert is_readable(again) and is_readable(dicomdl.open_index(mine.path))


@pytest.mark.slow
def test_a_scan_moves_the_index_of_another_user(
    mine: Index, other_user: None, tmp_path: Path
) -> None:
    os.rename(tmp_path / "A", tmp_path / "C")
    move = {str(tmp_path / "A"): str(tmp_path / "C")}
    moved = dicomdl.scan([tmp_path / "C", tmp_path / "B"], mine.path, move=move, progress=False)
    assert is_readable(moved) and is_readable(dicomdl.open_index(mine.path))


def test_a_default_index_of_this_user_is_found_and_read(tmp_path: Path) -> None:
    write_series(tmp_path / "data", shape=(4, 5, 7))
    dicomdl.scan(tmp_path / "data", progress=False)
    assert is_readable(dicomdl.open_index(tmp_path / "data"))


def test_a_root_that_the_index_does_not_have_is_an_error(foreign: Index) -> None:
    with pytest.raises(UsageError, match="is no root of this index"):
        dicomdl.open_index(foreign.path, root={"/absent": "/absent"})
