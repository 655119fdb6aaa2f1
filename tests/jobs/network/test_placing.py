"""Received files lie under their UIDs, whole, whatever the UIDs say and whoever writes at once."""

import errno
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.data import get_testdata_file

import dicomdl
from dicomdl.errors import HeaderError, StorageError
from dicomdl.jobs.network.placing import Identity, Placing, identity_of, is_full, path_of
from dicomdl.storage import publishing

CT = Path(get_testdata_file("CT_small.dcm"))
HOSTILE = (
    "",
    ".",
    "..",
    "../../x",
    "/etc/passwd",
    "1" * 65,
    "1.2\0",
    "1..2",
    "a.dcm",
    "1.2\n",
    "C:",
)


def files_of(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize("uid", HOSTILE)
def test_a_text_that_is_no_uid_is_hashed_and_stays_in_the_folder(uid: str, tmp_path: Path) -> None:
    path = path_of(Identity("1.2", uid, uid, uid))
    parts = path.split("/")
    assert len(parts) == 3 and all(len(part) < 60 and part.strip(".") for part in parts)
    target = (tmp_path / path).resolve()
    assert target.is_relative_to(tmp_path.resolve())
    assert path_of(Identity("1.2", "1.3", "1.4", "1.05")) == "1.3/1.4/1.05.dcm"


def test_different_texts_have_different_paths() -> None:
    paths = {path_of(Identity("1.2", "1", "2", uid)) for uid in HOSTILE}
    assert len(paths) == len(HOSTILE)


def test_a_file_lies_under_its_uids_and_is_kept_once(tmp_path: Path) -> None:
    data = CT.read_bytes()
    identity = identity_of(data)
    with Placing(str(tmp_path / "in")).open() as box:
        first, again = box.put(data), box.put(data)
        other = box.put(data + b"\0\0", identity)
        once_more = box.put(data + b"\0\0", identity)
        assert box.has(identity)
    assert [each.outcome for each in (first, again, other, once_more)] == [
        *("new", "present", "differs", "present"),
    ]
    assert first.path == path_of(identity)
    found = files_of(tmp_path / "in")
    assert found[first.path] == data and found[other.path] == data + b"\0\0"
    assert len(found) == 2


def test_many_threads_put_one_instance_once(tmp_path: Path) -> None:
    data = CT.read_bytes()
    with Placing(str(tmp_path)).open() as box, ThreadPoolExecutor(8) as team:
        outcomes = [placed.outcome for placed in team.map(box.put, [data] * 32)]
    assert sorted(outcomes) == ["new"] + ["present"] * 31
    assert len(files_of(tmp_path)) == 1


def test_a_full_disk_leaves_nothing_of_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with Placing(str(tmp_path)).open() as box:
        monkeypatch.setattr(publishing.os, "fsync", full)
        with pytest.raises(StorageError) as caught:
            box.put(CT.read_bytes())
        assert is_full(caught.value)
        assert files_of(tmp_path).keys() <= {f"{Path(box._scratch).name}/writer.lock"}


def test_a_file_has_its_name_after_its_bytes_are_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flush, link, done = os.fsync, os.link, list[str]()

    def flushed(descriptor: int) -> None:
        flush(descriptor)
        done.append("flushed")

    def linked(source: str, target: str) -> None:
        link(source, target)
        done.append("named")

    monkeypatch.setattr(os, "fsync", flushed)
    monkeypatch.setattr(os, "link", linked)
    with Placing(str(tmp_path)).open() as box:
        box.put(CT.read_bytes())
    assert done == ["flushed", "named"]


def test_a_folder_that_is_removed_meanwhile_is_made_again(tmp_path: Path) -> None:
    with Placing(str(tmp_path)).open() as box:
        placed = box.put(CT.read_bytes())
        (tmp_path / placed.path).unlink()
        (tmp_path / placed.path).parent.rmdir()
        assert box.put(CT.read_bytes()) == placed


def test_a_system_without_hard_links_gets_the_files_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(source: str, target: str) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", none)
    with Placing(str(tmp_path)).open() as box:
        assert box.put(CT.read_bytes()).outcome == "new"
        assert box.put(CT.read_bytes()).outcome == "present"
    assert len(files_of(tmp_path)) == 1


@pytest.mark.slow
def test_a_scan_sees_no_file_that_is_being_written(tmp_path: Path) -> None:
    with Placing(str(tmp_path / "in")).open() as box:
        (Path(box._scratch) / "7.dcm").write_bytes(CT.read_bytes()[:2000])
        index = dicomdl.scan(tmp_path / "in", tmp_path / "index", progress=False)
        assert len(index) == 0 and len(index.problems) == 0


@pytest.mark.parametrize(
    "name",
    [
        "CT_small.dcm",
        "MR_small_implicit.dcm",
        "MR_small_bigendian.dcm",
        "rtplan.dcm",
        "JPEG2000.dcm",
        "no_meta.dcm",
    ],
)
def test_the_uids_of_a_file_are_those_that_pydicom_reads(name: str) -> None:
    path = get_testdata_file(name)
    header = dcmread(path, force=True, stop_before_pixels=True)
    assert identity_of(Path(path).read_bytes()) == (
        header.get("SOPClassUID", ""),
        header.get("StudyInstanceUID", ""),
        header.get("SeriesInstanceUID", ""),
        header.get("SOPInstanceUID", ""),
    )


def test_the_uids_of_a_file_are_found_behind_long_values_and_out_of_order(tmp_path: Path) -> None:
    header = dcmread(CT)
    expected = identity_of(CT.read_bytes())
    header.add_new(0x00104000, "UT", "x" * 100_000)
    header.save_as(tmp_path / "long.dcm")
    assert identity_of((tmp_path / "long.dcm").read_bytes()) == expected
    value = expected.study.encode() + b"\0" * (len(expected.study) % 2)
    study = b"\x20\0\x0d\0UI" + len(value).to_bytes(2, "little") + value
    data = CT.read_bytes()
    first = data.index(b"\x08\0\x05\0CS")
    assert study in data
    moved = data.replace(study, b"")
    assert identity_of(moved[:first] + study + moved[first:]) == expected
    behind = moved.index(b"\x28\0\x02\0US")
    assert identity_of(moved[:behind] + study + moved[behind:]) == expected


def test_bytes_like_an_element_within_a_value_are_no_uid(tmp_path: Path) -> None:
    header = dcmread(CT)
    expected = identity_of(CT.read_bytes())
    header.add_new(0x00091001, "OB", b"\x20\0\x0e\0UI\x04\x001.9\0")
    header.save_as(tmp_path / "false.dcm")
    assert identity_of((tmp_path / "false.dcm").read_bytes()) == expected


def test_a_deflated_file_is_read_and_a_damaged_one_is_an_error_and_no_file(
    tmp_path: Path,
) -> None:
    deflated = Path(get_testdata_file("image_dfl.dcm")).read_bytes()
    assert identity_of(deflated).instance
    with Placing(str(tmp_path)).open() as box, pytest.raises(HeaderError):
        box.put(deflated[:400] + b"\xff" * 300)
    assert not files_of(tmp_path)
