"""The check of shards: a shard that is not as the export wrote it is found."""

import json
from pathlib import Path

import pytest
from phantoms import write_series

import dicomdl
from dicomdl.cli.main import main
from dicomdl.errors import IndexFolderError
from dicomdl.jobs.shard_check import check_shards

FIRST, SECOND = "train-00000-000000.tar", "val-00000-000000.tar"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two shards of one sample each."""
    for patient in range(2):
        write_series(tmp_path / "in" / str(patient), patient_id=f"P{patient}", seed=patient)
    dicomdl.scan(tmp_path / "in", tmp_path / "index", progress=False)
    return export(tmp_path)


def export(path: Path) -> Path:
    index = dicomdl.open_index(path / "index")
    split = index.split((0.5, 0.5), seed=1)
    dicomdl.export(index, "webdataset", path / "out", split=split, progress=False)
    return path / "out"


def test_shards_as_they_were_written_are_fine(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert check_shards(str(folder), progress=False).ok
    assert main(["check", str(folder)]) == 0
    assert capsys.readouterr().out == "2 shards were read: 0 damaged\n"


@pytest.mark.parametrize("part", [0, 0.3, 0.7, 1])
def test_a_byte_that_changed_anywhere_in_a_shard_is_found(folder: Path, part: float) -> None:
    data = bytearray((folder / SECOND).read_bytes())
    data[int(part * (len(data) - 1))] ^= 4
    (folder / SECOND).write_bytes(data)
    found = check_shards(str(folder), progress=False)
    assert not found.ok and found.shards == 2
    ((name, detail),) = found.damaged
    assert name == SECOND and detail.startswith("it has another checksum: copy it again, or export")


def test_shards_that_are_cut_or_absent_are_found_and_exit_with_1(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / FIRST).write_bytes((folder / FIRST).read_bytes()[:-512])
    (folder / SECOND).unlink()
    assert main(["check", "--json", str(folder)]) == 1
    told = json.loads(capsys.readouterr().out)
    assert told["shards"] == 2 and [each["shard"] for each in told["damaged"]] == [FIRST, SECOND]
    assert main(["check", "--archives", str(folder)]) == 1
    text = capsys.readouterr().out
    assert "2 damaged" in text and "bytes, expected" in text and "No such file" in text


@pytest.mark.parametrize("is_there", [True, False])
def test_a_shard_that_is_damaged_or_deleted_is_written_again_with_the_same_bytes(
    folder: Path, tmp_path: Path, is_there: bool
) -> None:
    data = (folder / SECOND).read_bytes()
    (folder / SECOND).unlink()
    if is_there:
        (folder / SECOND).write_bytes(bytes(len(data)))
    export(tmp_path)
    assert (folder / SECOND).read_bytes() == data and check_shards(str(folder), progress=False).ok


def test_checks_of_an_index_refuse_shards_and_a_damaged_manifest_is_told(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", "--pixels", str(folder)]) == 2
    assert "--pixels is a check of an index" in capsys.readouterr().err
    manifest = folder / "manifest.parquet"
    manifest.write_bytes(manifest.read_bytes()[:-9])
    with pytest.raises(IndexFolderError, match="is damaged"):
        check_shards(str(folder), progress=False)
    assert main(["check", str(folder)]) == 2
