"""Exports to WebDataset: shards and a manifest that depend on inputs and options alone."""

import errno
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from conftest import NewFolder, index_of
from phantoms import write_series

import dicomdl
from dicomdl.cli.main import main
from dicomdl.errors import StorageError, UsageError
from dicomdl.index.own_scans import record
from dicomdl.jobs.exports.export import export
from dicomdl.jobs.exports.exporter import Exporter
from dicomdl.jobs.exports.formats import exporter_of
from dicomdl.jobs.exports.options import ExportOptions
from dicomdl.storage import tar_writing

RECORDS = ".dicomdl-export"


@pytest.fixture(scope="module")
def index(new_folder: NewFolder) -> dicomdl.Index:
    folder = new_folder()
    for patient in range(6):
        write_series(folder / str(patient), patient_id=f"P{patient}", seed=patient)
    return index_of(folder)


def exported(index: dicomdl.Index, out: Path, **options: Any) -> Any:
    return export(index, "webdataset", out, progress=False, **options)


def content_of(folder: Path) -> dict[str, bytes]:
    """Return {path: bytes} of an export, without its records."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and RECORDS not in path.parts
    }


@pytest.mark.slow
def test_a_shard_has_the_samples_of_a_dataset_as_tar_members(
    index: dicomdl.Index, tmp_path: Path
) -> None:
    done = exported(index, tmp_path / "out", intensity="ct.lung", dtype="float32")
    dataset = dicomdl.VolumeDataset(index, "ct.lung")
    with tarfile.open(tmp_path / "out" / "train-00000-000000.tar") as tar:
        members = {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]
    assert len(done.entries) == len(dataset) == 6
    for entry, sample in zip(done.entries, dataset, strict=True):
        image = np.load(io.BytesIO(members[f"{entry['key']}.image.npy"]))
        assert np.array_equal(image, sample["image"].numpy())
        told = json.loads(members[f"{entry['key']}.json"])
        assert told["values"]["series_instance_uid"] == sample["series_instance_uid"]
        assert told["arrays"]["affine"]["values"] == sample["affine"].ravel().tolist()


@pytest.mark.slow
def test_the_manifest_gives_each_member_by_one_ranged_read(
    index: dicomdl.Index, tmp_path: Path
) -> None:
    exported(index, tmp_path / "out")
    dataset = dicomdl.VolumeDataset(index, "modality")
    for row, sample in zip(
        pq.read_table(tmp_path / "out" / "manifest.parquet").to_pylist(), dataset, strict=True
    ):
        places = dict(
            zip(
                row["members"],
                zip(row["member_offsets"], row["member_bytes"], strict=True),
                strict=True,
            )
        )
        start, length = places["image.npy"]
        with open(tmp_path / "out" / row["shard"], "rb") as file:
            file.seek(start)
            image = np.load(io.BytesIO(file.read(length)))
        assert image.dtype == np.int16 and row["offset"] < start
        assert np.array_equal(image, sample["image"].numpy())


def test_bytes_do_not_depend_on_workers_or_the_order_of_parts(
    index: dicomdl.Index, tmp_path: Path
) -> None:
    options = ExportOptions("webdataset", split=index.split((0.5, 0.5)).saved)
    numbers = index.stacks.numbers.tolist()
    shares = [numbers[:2], numbers[2:4], numbers[4:]]
    contents = []
    for name, order, workers in (("a", [0, 1, 2], 1), ("b", [2, 0, 1], 3)):
        entries = []
        for part in order:
            exporter = exporter_of(index, options, workers=workers)
            entries += exporter.write(shares[part], str(tmp_path / name), part)
        exporter_of(index, options).publish(entries, str(tmp_path / name))
        contents.append(content_of(tmp_path / name))
    assert contents[0] == contents[1]
    assert {name.partition("-")[0] for name in contents[0]} == {"train", "val", "manifest.parquet"}


@pytest.mark.slow
def test_the_split_is_in_shards_and_manifest(index: dicomdl.Index, tmp_path: Path) -> None:
    split = index.split((0.5, 0.25, 0.25), seed=3)
    done = exported(index, tmp_path / "out", split=split)
    parts = {
        number: name
        for name, part in zip(("train", "val", "test"), split, strict=True)
        for number in part.stacks.numbers.tolist()
    }
    assert {e["stacks"][0]: e["split"] for e in done.entries} == parts
    rows = pq.read_table(tmp_path / "out" / "manifest.parquet").to_pylist()
    assert [row["split"] for row in rows] == [parts[row["stacks"][0]] for row in rows]
    assert all(row["shard"].startswith(f"{row['split']}-") for row in rows)


@pytest.mark.slow
def test_an_interrupted_export_continues_where_it_was(
    index: dicomdl.Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"shard_bytes": 2**20, "dtype": "float32", "size": (16, 96, 96)}
    exported(index, tmp_path / "whole", **options)
    read, calls = dicomdl.VolumeDataset._make, [0]

    def failing(self: Any, row: int, epoch: int | None) -> Any:
        calls[0] += 1
        if calls[0] == 4:
            raise KeyboardInterrupt
        return read(self, row, epoch)

    monkeypatch.setattr(dicomdl.VolumeDataset, "_make", failing)
    with pytest.raises(KeyboardInterrupt):
        exported(index, tmp_path / "out", workers=1, **options)
    calls[0] = 10
    exported(index, tmp_path / "out", workers=1, **options)
    assert calls[0] < 16, "a complete shard was made again"
    assert content_of(tmp_path / "out") == content_of(tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.parametrize(("to", "pattern"), [("webdataset", "*.tar"), ("datalist", "**/*.nii.gz")])
def test_export_again_is_the_cure_of_a_damaged_file(
    index: dicomdl.Index, tmp_path: Path, to: Any, pattern: str
) -> None:
    options: dict[str, Any] = {"shard_bytes": 2**20, "size": (16, 96, 96), "progress": False}
    options["dtype"] = "float32"
    export(index, to, tmp_path, **options)
    before = content_of(tmp_path)
    files = sorted(tmp_path.glob(pattern))
    whole = files[1].read_bytes()
    files[1].write_bytes(whole[:-600] + bytes([whole[-600] ^ 1]) + whole[-599:])
    files[2].unlink()
    times = {path: path.stat().st_mtime_ns for path in files if path.exists()}
    export(index, to, tmp_path, **options)
    assert content_of(tmp_path) == before
    assert [path for path in times if path.stat().st_mtime_ns != times[path]] == [files[1]]


@pytest.mark.slow
def test_killed_exports_lose_nothing_and_end_with_the_same_bytes(
    index: dicomdl.Index, tmp_path: Path
) -> None:
    record(index.path, index.generation)
    given = ["export", index.path, "--to", "webdataset", "--shard-mb", "1", "-q"]
    given += ["--dtype", "float32", "--size", "16", "96", "96", "-o"]
    out, whole = tmp_path / "out", tmp_path / "whole"
    assert main([*given, str(whole)]) == 0
    command = [sys.executable, "-m", "dicomdl", *given, str(out)]
    for count in range(2):
        # Killed while it writes a shard, with `count` others complete.
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        while process.poll() is None and not (
            len(list(out.glob("*.tar"))) >= count and list(out.glob(".*.tmp/*.tar"))
        ):
            time.sleep(0.0005)
        process.kill()
        process.wait()
    kept = {path.name: path.stat().st_mtime_ns for path in out.glob("*.tar")}
    assert main([*given, str(out)]) == 0
    assert content_of(out) == content_of(whole)
    again = [name for name in kept if (out / name).stat().st_mtime_ns != kept[name]]
    assert len(again) <= 1, "at most the shard whose record was not yet written is made again"


def test_a_full_disk_is_exit_code_2_and_complete_shards_stay(
    index: dicomdl.Index,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    put, room = tar_writing.TarWriter._put, [1_500_000]

    def full(self: Any, data: bytes) -> None:
        room[0] -= len(data)
        if room[0] < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        put(self, data)

    record(index.path, index.generation)
    given = ["export", index.path, "--to", "webdataset", "-o", str(tmp_path / "out")]
    given += ["--shard-mb", "1", "--dtype", "float32", "--size", "16", "96", "96", "-q"]
    with monkeypatch.context() as patch:
        patch.setattr(tar_writing.TarWriter, "_put", full)
        assert main(given) == 2
    assert "cannot be written: No space left on device" in capsys.readouterr().err
    (first, *others) = sorted((tmp_path / "out").glob("*"))
    complete = {path: path.stat().st_mtime_ns for path in (first, *others) if path.is_file()}
    assert [path.name for path in complete] == ["train-00000-000000.tar", "train-00000-000001.tar"]
    assert main(given) == 0
    assert all(path.stat().st_mtime_ns == when for path, when in complete.items())


def test_files_of_samples_that_left_the_index_are_removed(
    index: dicomdl.Index, tmp_path: Path
) -> None:
    exported(index, tmp_path / "out", split=index.split((0.5, 0.5)).saved)
    some = index.of_stacks([0, 1])
    exported(some, tmp_path / "out", split=index.split((0.5, 0.5)).saved)
    exported(some, tmp_path / "new", split=index.split((0.5, 0.5)).saved)
    assert content_of(tmp_path / "out") == content_of(tmp_path / "new")
    exported(index, tmp_path / "out", overwrite=True)
    exported(index, tmp_path / "all")
    assert content_of(tmp_path / "out") == content_of(tmp_path / "all")


def test_a_folder_of_something_else_is_refused(index: dicomdl.Index, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    with pytest.raises(UsageError, match=r"has other files, the first is 'mine.txt'"):
        exported(index, tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine.txt"]
    exported(index, tmp_path / "other")
    with pytest.raises(UsageError, match="with other options"):
        exported(index, tmp_path / "other", dtype="float32")


def test_two_exports_into_one_folder_are_refused(index: dicomdl.Index, tmp_path: Path) -> None:
    from dicomdl.jobs.exports._records import alone

    with alone(str(tmp_path / "out")), pytest.raises(StorageError, match="another export writes"):
        exported(index, tmp_path / "out")


def test_a_damaged_file_refuses_its_sample_and_no_other(
    index: dicomdl.Index, tmp_path: Path
) -> None:
    patients = Path(index.stacks[0].paths[0]).parents[1]
    shutil.copytree(patients, tmp_path / "in")
    index = index_of(tmp_path / "in")
    path = Path(index.stacks[1].paths[0])
    path.write_bytes(path.read_bytes()[:-100])
    done = exported(index, tmp_path / "out")
    assert [entry["status"] for entry in done.entries].count("refused") == 1
    assert not done.ok and "refused" in repr(done)


def test_values_that_a_dtype_does_not_hold_are_refused(
    index: dicomdl.Index, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="do not fit int16"):
        exported(index, tmp_path / "out", intensity=lambda values: values + 1e6, dtype="int16")


def test_every_exporter_states_what_must_be_written_together(index: dicomdl.Index) -> None:
    exporter: Exporter = exporter_of(index, ExportOptions("webdataset"))
    assert list(exporter.units()) == [(n,) for n in index.stacks.numbers.tolist()]
