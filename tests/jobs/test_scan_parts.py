"""scan_parts: a scan in parts writes the tables of one scan, whatever dies on the way."""

import os
from pathlib import Path
from typing import Any

import phantoms
import pyarrow
import pytest

import dicomdl
from dicomdl.errors import UsageError
from dicomdl.index.schema import TABLES
from dicomdl.jobs import partitions, scan, supervisor
from dicomdl.jobs.scan_parts import ScanTask, make_scan, merge_scan, plan_scan


def written(folder: Path, series: int = 3) -> Path:
    """Write some series, a text, and a file that is cut off."""
    for number in range(series):
        phantoms.write_series(folder / f"s{number}", seed=number, patient_id=f"P{number % 2}")
    (folder / "note.txt").write_text("no image")
    (folder / "s0" / "cut.dcm").write_bytes(b"\0" * 128 + b"DICM" + b"\x08\0\x05\0")
    return folder


def tables(index: dicomdl.Index) -> dict[str, Any]:
    """The bytes of the tables of an index.

    Older versions of pyarrow leave unused bits of bitmaps as memory had them: the values then.
    """
    folder = Path(index.path, "generations", index.generation)
    stored = {name: (folder / f"{name}.arrow").read_bytes() for name in TABLES}
    if int(pyarrow.__version__.partition(".")[0]) >= 26:
        return stored
    # As text, in which NaN is NaN.
    return {
        name: repr(pyarrow.ipc.open_file(data).read_all().to_pydict())
        for name, data in stored.items()
    }


def made_here(work: str) -> None:
    """Make all partitions in this process."""
    task = ScanTask(partitions.read_plan(work, "scan"))
    for number in range(len(task.plan)):
        partitions.make(task, number, {})


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"texts": False, "patient_id": "hash"},
        {"attributes": ["ContrastBolusRoute"], "pixel_hash": True},
    ],
    ids=["plain", "private", "more columns"],
)
@pytest.mark.parametrize("parts", [None, 1, 4, 100])
def test_the_tables_are_those_of_one_scan_byte_for_byte(
    tmp_path: Path, options: dict[str, Any], parts: int | None
) -> None:
    root = written(tmp_path / "in")
    one = dicomdl.scan(root, tmp_path / "one", progress=False, **options)
    plan = plan_scan(root, tmp_path / "many", parts=parts, **options)
    assert len(plan) == {None: 1, 1: 1, 4: 4, 100: 20}[parts]
    made_here(plan.folder)
    many = merge_scan(plan.folder)
    assert tables(many) == tables(one)
    assert many.manifest["options"] == one.manifest["options"]
    assert many.ledger == one.ledger
    assert sorted(os.listdir(tmp_path)) == ["in", "many", "one"]


def test_no_identity_lies_in_the_parts_of_a_private_scan(tmp_path: Path) -> None:
    phantoms.write_series(tmp_path / "in", patient_id="VERYSECRET")
    options: Any = {"patient_id": "hash", "texts": False}
    plan = plan_scan(tmp_path / "in", tmp_path / "index", **options)
    made_here(plan.folder)
    stored = b"".join(p.read_bytes() for p in Path(plan.folder).rglob("*") if p.is_file())
    assert b"VERYSECRET" not in stored
    assert b"sop_instance_uid" in stored


@pytest.mark.slow
def test_an_update_in_parts_reads_what_changed(tmp_path: Path) -> None:
    root = written(tmp_path / "in")
    for out in ("one", "many"):
        dicomdl.scan(root, tmp_path / out, progress=False)
    phantoms.write_series(root / "s9", seed=9)
    (root / "note.txt").unlink()
    one = dicomdl.scan(root, tmp_path / "one", progress=False)
    plan = plan_scan(root, tmp_path / "many", parts=2)
    assert ScanTask(plan).bounds == [0, 3, 6]
    made_here(plan.folder)
    many = merge_scan(plan.folder)
    assert tables(many) == tables(one)
    plan = plan_scan(root, tmp_path / "many")
    assert len(plan) == 0
    assert merge_scan(plan.folder).generation == many.generation


@pytest.mark.slow
def test_an_index_that_another_scan_wrote_since_the_plan_is_said(tmp_path: Path) -> None:
    root = written(tmp_path / "in")
    dicomdl.scan(root, tmp_path / "index", progress=False)
    phantoms.write_series(root / "s9", seed=9)
    plan = plan_scan(root, tmp_path / "index")
    made_here(plan.folder)
    dicomdl.scan(root, tmp_path / "index", progress=False)
    with pytest.raises(UsageError, match="written by another scan since the plan"):
        merge_scan(plan.folder)


def test_an_index_that_another_scan_wrote_during_the_walk_of_a_plan_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The plan has the rows of the index that it read before the walk."""
    root, walk = written(tmp_path / "in"), scan.walk_roots
    dicomdl.scan(root, tmp_path / "index", progress=False)

    def meanwhile(*given: Any) -> Any:
        monkeypatch.setattr(scan, "walk_roots", walk)
        phantoms.write_series(root / "a", seed=8)
        dicomdl.scan(root, tmp_path / "index", progress=False)
        return walk(*given)

    monkeypatch.setattr(scan, "walk_roots", meanwhile)
    plan = plan_scan(root, tmp_path / "index")
    made_here(plan.folder)
    with pytest.raises(UsageError, match="written by another scan since the plan"):
        merge_scan(plan.folder)


def test_roots_that_vanished_are_problems_of_their_files(tmp_path: Path) -> None:
    root = written(tmp_path / "in", series=2)
    plan = plan_scan(root, tmp_path / "index", parts=2)
    for path in (root / "s1").iterdir():
        path.unlink()
    made_here(plan.folder)
    index = merge_scan(plan.folder)
    assert index.problems.reasons()["unreadable"] == 6
    assert len(index) == 6
    with pytest.raises(UsageError, match="does not exist"):
        plan_scan(tmp_path / "gone", tmp_path / "other")


@pytest.mark.slow
def test_a_share_is_made_by_child_processes(tmp_path: Path) -> None:
    root = written(tmp_path / "in")
    plan = plan_scan(root, tmp_path / "index", parts=4)
    assert make_scan(plan.folder, "2/2", workers=2)["partitions"] == 2
    assert make_scan(plan.folder) == {"partitions": 4, "files": 20, "frames": 18, "problems": 1}
    merge_scan(plan.folder)


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")
def test_kills_change_nothing_and_a_poisonous_file_becomes_a_problem(tmp_path: Path) -> None:
    root = written(tmp_path / "in")
    poison = root / "s1" / "poison.dcm"
    poison.write_bytes(b"no image")
    plan = plan_scan(root, tmp_path / "index", parts=3)
    kills = Path(plan.folder, "kills")
    kills.mkdir()
    for number in range(3):
        (kills / str(number)).touch()
    task = ScanTask(plan)
    setup = {"folder": plan.folder}
    supervisor.complete(task, "deadly:scanning", setup, range(3), workers=2)
    assert list(kills.iterdir()) == []
    index = merge_scan(plan.folder)
    (problem,) = [p for p in index.problems if p.reason == "killed_worker"]
    assert problem.path == str(poison)
    assert "SIGKILL" in problem.detail and "left out" in problem.detail
    # All else is as in a scan that nothing disturbs.
    other = dicomdl.scan(root, tmp_path / "other", progress=False)
    found, expected = tables(index), tables(other)
    assert {name for name in TABLES if found[name] != expected[name]} == {"files", "problems"}
    assert index.ledger["problem"] == other.ledger["problem"] + 1
