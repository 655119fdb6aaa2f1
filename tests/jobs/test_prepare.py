"""prepare: a recipe becomes a data set, whose bytes do not depend on what died on the way."""

import contextlib
import hashlib
import io
import json
import os
import random
import signal
import subprocess
import sys
import tarfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import phantoms
import phantoms_labels
import pydicom
import pytest

import dicomdl
from dicomdl.cli.main import main
from dicomdl.errors import EmptySelection, StorageError, UsageError
from dicomdl.index.shard_manifests import ShardManifest
from dicomdl.jobs import partitions, preparing, supervisor
from dicomdl.jobs.prepare import make_parts, merge_parts, plan_prepare, prepare
from dicomdl.jobs.prepared import Prepared
from dicomdl.jobs.preparing import PrepareTask
from dicomdl.jobs.scan_parts import work_folder
from dicomdl.storage import locks

RECIPE = """\
name: ramps
sources: {roots: [in]}
select: [modality=CT]
tables:
  - {path: labels.csv, on: {patient_id: patient}}
split: {fractions: [0.75, 0.25], stratify: grade}
output: {to: webdataset, target: grade, parts: 3}
"""


def written(folder: Path, patients: int = 4) -> Path:
    """Write a study of each patient, a table, and the recipe; return its path."""
    for number in range(patients):
        phantoms.write_series(
            folder / "in" / f"s{number}", seed=number, patient_id=f"P{number}", offset=number
        )
    rows = "".join(f"P{number},{number % 2}\n" for number in range(patients))
    (folder / "labels.csv").write_text(f"patient,grade\n{rows}")
    path = folder / "r.yaml"
    path.write_text(RECIPE)
    return path


def in_process(work: str) -> None:
    """Make all partitions of a plan in this process."""
    task = PrepareTask(partitions.read_plan(work, "prepare"))
    for number in range(len(task.plan)):
        partitions.make(task, number, {})


def prepared(recipe: Path, out: Path, **options: Any) -> Prepared:
    """Prepare in this process."""
    plan = plan_prepare(recipe, out, progress=False, **options)
    in_process(plan.folder)
    return merge_parts(plan.folder, progress=False)


def contents(out: Path) -> dict[str, str]:
    """The digest of each file of a data set, save the record."""
    return {
        path.relative_to(out).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(out.rglob("*"))
        if path.is_file() and not path.name.startswith(".")
    }


@pytest.mark.slow
def test_a_recipe_becomes_shards_with_labels_and_parts(tmp_path: Path) -> None:
    recipe = written(tmp_path)
    done = prepared(recipe, tmp_path / "out")
    assert (done.status, done.samples, done.ok) == ("prepared", {"train": 3, "val": 1}, True)
    manifest = ShardManifest(str(tmp_path / "out"))
    assert sorted(manifest.column("target")) == [[0.0], [0.0], [1.0], [1.0]]
    assert sorted(manifest.column("patient_id")) == ["P0", "P1", "P2", "P3"]
    # Values are read by tarfile and NumPy alone.
    for row, patient in enumerate(manifest.column("patient_id")):
        place = manifest.row(row)
        with tarfile.open(tmp_path / "out" / place.shard) as tar:
            file = tar.extractfile(f"{place.key}.image.npy")
            assert file is not None
            image = np.load(io.BytesIO(file.read()))
        ramp = phantoms.ramp(image.shape[1:]) + int(patient[1:])
        np.testing.assert_array_equal(image[0] - image[0, 0, 0, 0], ramp - ramp[0, 0, 0])
    assert not os.path.exists(work_folder(tmp_path / "out"))
    assert "PatientID" not in repr(done)
    assert "P0" not in repr(done)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("to", "changes"),
    [
        ("nnunet", ["output.name=Dataset501_Ramp", "labels.source=SEG"]),
        ("datalist", []),
        ("png", ["output.target=null"]),
        ("hf", []),
    ],
)
def test_every_format_has_the_files_of_one_export_by_one_process(
    tmp_path: Path, to: Any, changes: list[str]
) -> None:
    recipe = written(tmp_path)
    for number in range(4):
        folder = tmp_path / "in" / f"s{number}"
        image = next(folder.iterdir())
        position = pydicom.dcmread(image).ImagePositionPatient
        mask = np.eye(5, 7, dtype=np.uint8)
        phantoms_labels.write_seg(folder / "seg.dcm", image, [(1, position, mask)])
    done = prepared(recipe, tmp_path / "out", changes=[f"output.to={to}", *changes])
    assert done.ok
    assert sum(done.samples.values()) == (4 if to in ("nnunet", "datalist") else 24)
    index = dicomdl.scan(tmp_path / "in", tmp_path / "index", progress=False)
    index = index.select(modality="CT").join(tmp_path / "labels.csv", on={"patient_id": "patient"})
    options: dict[str, Any] = {"target": "grade"}
    if to == "nnunet":
        options |= {"name": "Dataset501_Ramp", "labels": "SEG"}
    if to == "png":
        options = {}
    split = index.split((0.75, 0.25), stratify="grade")
    dicomdl.export(index, to, tmp_path / "one", split=split, progress=False, **options)
    one, many = contents(tmp_path / "one"), contents(tmp_path / "out")
    card = {name for name in many if name.startswith(("README", "card", "stacks/"))}
    assert {name: many[name] for name in set(many) - card} == {
        name: one[name] for name in set(one) - card if not name.startswith(".dicomdl")
    }


@pytest.mark.slow
def test_samples_whose_labels_overlap_are_counted(tmp_path: Path) -> None:
    recipe = written(tmp_path)
    for number in range(4):
        folder = tmp_path / "in" / f"s{number}"
        image = next(folder.iterdir())
        position = pydicom.dcmread(image).ImagePositionPatient
        frames = [(segment, position, np.eye(5, 7, dtype=np.uint8)) for segment in (1, 2)]
        names = {1: "a", 2: "b"}
        phantoms_labels.write_seg(
            folder / "seg.dcm", image, frames[: 1 + number % 2], segments=names
        )
    changes = ["output.to=nnunet", "output.name=Dataset501_Ramp", "labels.source=SEG"]
    done = prepared(recipe, tmp_path / "out", changes=changes)
    ((words, count),) = done.remarks.items()
    assert count == 2
    assert words in repr(done)


@pytest.mark.slow
def test_sources_that_vanish_between_plan_and_part_are_refused_and_told(tmp_path: Path) -> None:
    recipe = written(tmp_path)
    recipe.write_text(RECIPE.replace("patient}}", "patient}, on_unmatched: drop}"))
    plan = plan_prepare(recipe, tmp_path / "out", progress=False)
    gone = tmp_path / "in" / "s2"
    for path in gone.iterdir():
        path.unlink()
    in_process(plan.folder)
    done = merge_parts(plan.folder, progress=False)
    (refused,) = done.refused
    assert sum(done.samples.values()) == 3
    assert "the file that was scanned is gone: scan again" in refused["reason"]
    # The next call scans again, and knows.
    assert sum(prepared(recipe, tmp_path / "out").samples.values()) == 3


@pytest.mark.slow
def test_bytes_are_the_same_in_any_order_of_the_parts(tmp_path: Path) -> None:
    recipe = written(tmp_path)
    prepared(recipe, tmp_path / "a")
    plan = plan_prepare(recipe, tmp_path / "b", progress=False)
    task = PrepareTask(plan)
    for number in reversed(range(len(plan))):
        partitions.make(task, number, {})
    merge_parts(plan.folder)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert len(contents(tmp_path / "a")) >= 4


@pytest.mark.slow
def test_the_second_call_finds_nothing_to_do_and_the_next_patient_something(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = written(tmp_path)
    first = prepared(recipe, tmp_path / "out")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
    with monkeypatch.context() as no_work:
        no_work.setattr(supervisor, "complete", None)
        again = prepare(recipe, tmp_path / "out", progress=False)
    assert again.status == "unchanged"
    assert (again.samples, again.files) == (first.samples, first.files)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()} == before
    written(tmp_path / "more", patients=5)
    os.rename(tmp_path / "more" / "in" / "s4", tmp_path / "in" / "s4")
    (tmp_path / "labels.csv").write_text((tmp_path / "more" / "labels.csv").read_text())
    third = prepared(recipe, tmp_path / "out")
    assert sum(third.samples.values()) == 5
    # Files of the earlier data set that the new one lacks are gone.
    assert set(contents(tmp_path / "out")) == set(third.files)


@pytest.mark.slow
def test_a_changed_label_is_a_change(tmp_path: Path) -> None:
    recipe = written(tmp_path)
    prepared(recipe, tmp_path / "out")
    (tmp_path / "labels.csv").write_text("patient,grade\nP0,1\nP1,1\nP2,0\nP3,0\n")
    assert prepared(recipe, tmp_path / "out").status == "prepared"
    targets = ShardManifest(str(tmp_path / "out")).column("target")
    assert sorted(targets) == [[0.0], [0.0], [1.0], [1.0]]


@pytest.mark.slow
def test_a_process_whose_plan_another_one_has_published_has_its_ledger(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = written(tmp_path)

    def finished_by_another(plan: partitions.Plan, *_: Any, **__: Any) -> None:
        in_process(plan.folder)
        merge_parts(plan.folder, progress=False)
        # A child of this process that was slow.
        Path(plan.folder, "parts").mkdir(parents=True)

    monkeypatch.setattr("dicomdl.jobs.prepare.complete_parts", finished_by_another)
    done = prepare(recipe, tmp_path / "out", progress=False)
    assert (done.status, sum(done.samples.values())) == ("unchanged", 4)
    assert not Path(work_folder(tmp_path / "out")).exists()
    assert len(plan_prepare(recipe, tmp_path / "out", progress=False)) == 3


def test_a_dry_run_says_what_would_be_made_and_writes_nothing(tmp_path: Path) -> None:
    recipe = written(tmp_path)
    changes = ["select=[modality=CT, slices>=99]"]
    with pytest.raises(EmptySelection, match="nothing is left: 4 stacks not slices>=99"):
        prepare(recipe, tmp_path / "out", changes=changes, dry_run=True, progress=False)
    done = prepare(recipe, tmp_path / "out", dry_run=True, progress=False)
    assert (done.status, done.samples, done.partitions) == ("planned", {"train": 3, "val": 1}, 3)
    assert repr(done).startswith("Would prepare: ramps, 4 samples (3 train, 1 val)")
    assert sorted(os.listdir(tmp_path)) == ["in", "labels.csv", "r.yaml"]


@pytest.mark.slow
def test_the_ledger_adds_up(tmp_path: Path) -> None:
    recipe = written(tmp_path)
    phantoms.write_series(tmp_path / "in" / "mr", seed=8, modality="MR", patient_id="P0")
    phantoms.write_series(tmp_path / "in" / "gap", seed=9, drop=[2], patient_id="P1")
    phantoms.write_series(tmp_path / "in" / "second", shape=(9, 9, 9), seed=10, patient_id="P2")
    (tmp_path / "in" / "bad.dcm").write_bytes(b"\0" * 128 + b"DICM" + b"\x08\0\x05\0")
    changes = ["stacks.verdicts=[regular]", "stacks.one_per=patient"]
    done = prepared(recipe, tmp_path / "out", changes=changes)
    assert done.left_out == {
        "not modality=CT": 1,
        "verdict missing_slices": 1,
        "another of its patient has more slices": 1,
    }
    assert done.problems == {"truncated": 1}
    assert not done.ok
    total = sum(done.samples.values()) + sum(done.left_out.values())
    assert total == done.found["stacks"] == 7


@pytest.mark.slow
def test_a_stack_that_cannot_be_read_is_refused_with_its_reason(tmp_path: Path) -> None:
    recipe = written(tmp_path)
    phantoms.write_series(tmp_path / "in" / "gap", seed=9, drop=[2], patient_id="P1")
    done = prepared(recipe, tmp_path / "out")
    assert sum(done.samples.values()) == 4
    told = [*done.left_out, *(each["reason"] for each in done.refused)]
    assert any("missing" in text for text in told)


@pytest.mark.slow
def test_the_card_describes_the_stacks_that_became_samples(tmp_path: Path) -> None:
    recipe = written(tmp_path)
    plan = plan_prepare(recipe, tmp_path / "out", progress=False)
    lost = sorted((tmp_path / "in" / "s3").iterdir())[2]
    lost.write_bytes(lost.read_bytes()[:-20])
    in_process(plan.folder)
    done = merge_parts(plan.folder, progress=False)
    assert sum(done.samples.values()) == 3 and len(done.refused) == 1
    rows = [
        row
        for table in sorted((tmp_path / "out" / "stacks").iterdir())
        for row in table.read_text().splitlines()[1:]
    ]
    assert len(rows) == 3


@pytest.mark.slow
def test_of_two_recipes_that_begin_at_once_one_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, out = written(tmp_path), tmp_path / "out"
    other = tmp_path / "other.yaml"
    other.write_text(RECIPE.replace("ramps", "slopes"))
    divide = preparing.parts_of

    def planned_meanwhile(*given: Any) -> Any:
        monkeypatch.setattr(preparing, "parts_of", divide)
        plan_prepare(other, out, progress=False)
        return divide(*given)

    monkeypatch.setattr(preparing, "parts_of", planned_meanwhile)
    with pytest.raises(UsageError, match="unfinished plan of another recipe"):
        prepare(recipe, out, progress=False)
    in_process(work_folder(out))
    assert merge_parts(work_folder(out), progress=False).name == "slopes"


@pytest.mark.slow
def test_a_process_does_not_publish_the_plan_of_another_recipe_as_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, out = written(tmp_path), tmp_path / "out"
    other = tmp_path / "other.yaml"
    other.write_text(RECIPE.replace("ramps", "slopes"))

    def planned_meanwhile(plan: partitions.Plan, *_: Any, **__: Any) -> None:
        in_process(plan_prepare(other, out, progress=False, overwrite=True).folder)

    monkeypatch.setattr("dicomdl.jobs.prepare.complete_parts", planned_meanwhile)
    with pytest.raises(UsageError, match="another process prepares another recipe"):
        prepare(recipe, out, progress=False)
    assert merge_parts(work_folder(out), progress=False).name == "slopes"


@pytest.mark.slow
def test_a_merge_waits_for_the_one_that_another_process_began(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_prepare(written(tmp_path), tmp_path / "out", progress=False)
    in_process(plan.folder)
    waits, read = threading.Event(), partitions.read_plan

    def noticed(*given: Any) -> partitions.Plan:
        found = read(*given)
        waits.set()
        return found

    with locks.alone(str(tmp_path / "out" / ".prepared.lock")), ThreadPoolExecutor(1) as team:
        monkeypatch.setattr(partitions, "read_plan", noticed)
        merge = team.submit(merge_parts, plan.folder, progress=False)
        assert waits.wait(60)
        partitions.clear(plan)
        os.unlink(tmp_path / "out" / ".prepared.lock")
        with pytest.raises(UsageError, match="there is no plan"):
            merge.result()
    assert not list((tmp_path / "out").glob("*"))


@pytest.mark.slow
def test_folders_of_others_and_other_recipes_are_refused(tmp_path: Path) -> None:
    recipe = written(tmp_path)
    prepared(recipe, tmp_path / "out")
    other = tmp_path / "other.yaml"
    other.write_text(RECIPE.replace("ramps", "slopes"))
    with pytest.raises(UsageError, match="data set of another recipe"):
        prepare(other, tmp_path / "out", progress=False)
    plan_prepare(recipe, tmp_path / "b", progress=False)
    with pytest.raises(UsageError, match="unfinished plan of another recipe"):
        prepare(other, tmp_path / "b", progress=False)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("")
    with pytest.raises(UsageError, match=r"has other files, the first is 'mine\.txt'"):
        prepare(recipe, tmp_path / "full", progress=False)
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="is a file"):
        prepare(recipe, tmp_path / "file", progress=False)
    plan = plan_prepare(other, tmp_path / "out", progress=False, overwrite=True)
    in_process(plan.folder)
    assert merge_parts(plan.folder, overwrite=True).name == "slopes"


@pytest.mark.quick(3)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("sources.roots=[gone]", "gone' does not exist"),
        ("tables.0.path=gone.csv", "gone.csv"),
        ("select=[no_such_column=1]", "no_such_column"),
        ("output.names=same", "one name"),
        ("output.target=nothing", "nothing"),
        ("split.file=gone.json", "gone.json"),
        ("intensity=ct.lungs", "ct.lungs"),
    ],
)
def test_what_does_not_fit_the_data_is_a_sentence_and_exit_code_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], change: str, message: str
) -> None:
    recipe = written(tmp_path)
    out = str(tmp_path / "out")
    assert main(["prepare", str(recipe), "-o", out, "-q", "--set", change, "--plan"]) == 2
    shown = capsys.readouterr().err
    assert shown.startswith("dicomdl: ")
    assert message in shown
    assert not os.path.exists(out)


@pytest.mark.slow
def test_a_full_disk_keeps_what_is_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = written(tmp_path)
    plan = plan_prepare(recipe, tmp_path / "out", progress=False)
    task = PrepareTask(plan)
    partitions.make(task, 0, {})
    with monkeypatch.context() as full:

        def fails(*_: Any) -> None:
            raise OSError(28, "No space left on device")

        full.setattr(os, "fsync", fails)
        with pytest.raises(StorageError, match="No space left on device"):
            partitions.make(task, 1, {})
    assert [partitions.finished(plan, number) is not None for number in range(3)] == [
        *(True, False, False)
    ]
    in_process(plan.folder)
    assert sum(merge_parts(plan.folder).samples.values()) == 4


@pytest.mark.slow
def test_the_stages_of_the_command_line_make_the_data_set(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe, out = str(written(tmp_path)), str(tmp_path / "out")
    assert main(["prepare", recipe, "-o", out, "--plan", "-q", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told == {"work": work_folder(out), "partitions": 3}
    assert main(["prepare", "-o", out, "--merge"]) == 2
    assert "3 of 3 partitions are not finished (1, 2, 3)" in capsys.readouterr().err
    in_process(told["work"])
    assert main(["prepare", "-o", out, "--merge"]) == 0
    assert capsys.readouterr().out.startswith("Prepared: ramps, 4 samples (3 train, 1 val)")
    assert main(["prepare", "-q"]) == 2
    assert main(["prepare", "-o", out]) == 2
    assert main(["prepare", "--list"]) == 0


# --- processes that die ---------------------------------------------------------------------------


@pytest.mark.slow
def test_children_make_what_this_process_makes(tmp_path: Path) -> None:
    recipe = written(tmp_path)
    done = prepare(recipe, tmp_path / "a", workers=2, progress=False)
    prepared(recipe, tmp_path / "b")
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert done.ok
    plan = plan_prepare(recipe, tmp_path / "c", progress=False)
    assert make_parts(plan.folder, "2/2") == {"partitions": 1, "samples": 1, "refused": 0}


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")
def test_kills_of_workers_change_no_byte_and_a_poisonous_series_costs_its_own_sample(
    tmp_path: Path,
) -> None:
    recipe = written(tmp_path)
    prepared(recipe, tmp_path / "a")
    plan = plan_prepare(recipe, tmp_path / "b", progress=False)
    task = PrepareTask(plan)
    kills = Path(plan.folder, "kills")
    kills.mkdir()
    for number in range(3):
        (kills / str(number)).touch()
    setup = {"folder": plan.folder}
    supervisor.complete(task, "deadly_prepare:preparing", setup, range(3), workers=2)
    assert list(kills.iterdir()) == []
    merge_parts(plan.folder)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")

    plan = plan_prepare(recipe, tmp_path / "c", progress=False)
    task = PrepareTask(plan)
    poison = next(unit for number in range(3) for unit in task.units(number)[:1])
    Path(plan.folder, "poison").write_text(poison)
    supervisor.complete(
        task, "deadly_prepare:preparing", {"folder": plan.folder}, range(3), workers=2
    )
    done = merge_parts(plan.folder)
    (refused,) = done.refused
    assert refused["series_instance_uid"] == poison
    assert refused["reason"].startswith("killed_worker: its process died (SIGKILL)")
    expected, found = contents(tmp_path / "a"), contents(tmp_path / "c")
    row = ShardManifest(str(tmp_path / "a")).column("series_instance_uid").index(poison)
    shard = ShardManifest(str(tmp_path / "a")).row(row).shard
    differing = {name for name in expected if found.get(name) != expected[name]}
    # The card describes the stacks that became samples.
    card = {"card.json", "README.md", next(n for n in differing if n.startswith("stacks/"))}
    assert differing == {shard, "manifest.parquet", *card}


DRIVER = """
import sys
from dicomdl.jobs import partitions, preparing, supervisor
from dicomdl.jobs.preparing import PrepareTask
setup = {"folder": sys.argv[1]}
task = PrepareTask(partitions.read_plan(sys.argv[1], "prepare"))
supervisor.complete(task, "deadly_prepare:preparing", setup, range(len(task.plan)), 2)
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "killpg"), reason="this system has no process groups")
def test_kills_of_the_driver_change_no_byte(tmp_path: Path) -> None:
    recipe = written(tmp_path)
    prepared(recipe, tmp_path / "a")
    plan = plan_prepare(recipe, tmp_path / "b", progress=False)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    chance = random.Random(20)
    for _ in range(3):
        driver = subprocess.Popen([sys.executable, "-c", DRIVER, plan.folder], env=environment)
        with contextlib.suppress(subprocess.TimeoutExpired):
            driver.wait(chance.uniform(0.5, 6))
        driver.send_signal(signal.SIGKILL)
        driver.wait()
    setup = {"folder": plan.folder}
    supervisor.complete(PrepareTask(plan), "deadly_prepare:preparing", setup, range(3), workers=2)
    merge_parts(plan.folder)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
