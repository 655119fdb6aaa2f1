"""roots: archives and folders give the same index, a DICOMDIR the files that it references."""

import json
import multiprocessing
import os
import pickle
import shutil
import tarfile
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from phantoms import write_multiframe, write_series
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filewriter import dcmwrite
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian

import dicomdl
from dicomdl.cli.main import main
from dicomdl.errors import FileChanged, UsageError
from dicomdl.headers.reader import HeaderReader
from dicomdl.index.schema import STATE_COLUMNS, TABLES
from dicomdl.index.stored_generation import StoredGeneration, read_manifest
from dicomdl.jobs import engine as engine_module
from dicomdl.storage import kept, memory

RLE = "1.2.840.10008.1.2.5"


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("DICOMDL_CACHE", str(tmp_path / "cache"))
    memory.clear()
    yield
    memory.clear()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Series, a file of several frames, one that is damaged, and others that are no DICOM."""
    root = tmp_path / "data"
    write_series(root / "p1" / "ct", shape=(6, 9, 14))
    write_series(root / "p1" / "gap", shape=(6, 9, 14), drop=[2], patient_id="B", seed=1)
    write_series(root / "p2", shape=(4, 9, 14), transfer_syntax=RLE, patient_id="C", seed=2)
    write_multiframe(root / "p2" / "frames", shape=(5, 9, 14))
    (root / "read me.txt").write_text("text")
    (root / ".hidden").mkdir()
    (root / ".hidden" / "a").write_text("text")
    whole = next((root / "p1" / "ct").iterdir()).read_bytes()
    (root / "p1" / "cut.dcm").write_bytes(whole[:-50])
    return root


def zipped(folder: Path, path: Path, method: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for file in sorted(folder.rglob("*"), reverse=True):
            archive.write(file, file.relative_to(folder))
    return path


def tarred(folder: Path, path: Path, mode: str) -> Path:
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        archive.add(folder, arcname=".")
    return path


def packed(folder: Path, path: Path) -> Path:
    """Pack a folder, by the name of the archive."""
    if path.suffix == ".zip":
        method = zipfile.ZIP_DEFLATED if "deflated" in path.name else zipfile.ZIP_STORED
        return zipped(folder, path, method)
    return tarred(folder, path, "w:gz" if path.suffix == ".gz" else "w")


NAMES = ("stored.zip", "deflated.zip", "plain.tar", "packed.tar.gz")


def scan(root: Any, out: Path, **options: Any) -> dicomdl.Index:
    return dicomdl.scan(root, out, progress=False, **options)


def tables(out: Path, root: str) -> dict[str, dict[str, list[Any]]]:
    """Return the columns of all tables but states, with locations below the root."""
    stored = StoredGeneration(str(out), read_manifest(str(out))["generation"])
    found = {}
    for name in TABLES:
        table = stored.table(name)
        columns = [c for c in table.arrow.schema.names if c not in STATE_COLUMNS]
        # Compared by their text, in which NaN is NaN.
        found[name] = {c: list(map(repr, table.column(c).to_pylist())) for c in columns}
    found["files"]["path"] = [path.replace(root, "") for path in found["files"]["path"]]
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_an_archive_has_the_tables_volumes_and_splits_of_its_folder(
    folder: Path, tmp_path: Path, name: str
) -> None:
    path = packed(folder, tmp_path / name)
    one, other = scan(folder, tmp_path / "i"), scan(path, tmp_path / "j")
    assert tables(tmp_path / "i", f"{folder}/") == tables(tmp_path / "j", f"{path}//")
    assert len(one.stacks) == len(other.stacks) == 4
    for stack, same in zip(one.stacks, other.stacks, strict=True):
        options: Any = {"irregular": "accept"}
        volume, again = (dicomdl.read_volume(each, **options) for each in (stack, same))
        np.testing.assert_array_equal(volume.array, again.array)
        np.testing.assert_array_equal(volume.affine, again.affine)
        assert (stack.verdict, stack.detail) == (same.verdict, same.detail)
        assert same.path == str(path) + stack.path.replace(f"{folder}", "/", 1)
    for part, twin in zip(*[each.split((0.5, 0.5), seed=3) for each in (one, other)], strict=True):
        assert [stack.number for stack in part.stacks] == [stack.number for stack in twin.stacks]
    assert other.manifest["passed_over"]["hidden_in_archives"] == [f"{path}//.hidden"]


@pytest.mark.parametrize("name", NAMES)
def test_an_unchanged_archive_is_neither_opened_nor_read_again(
    folder: Path, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = packed(folder, tmp_path / name)
    before = scan(path, tmp_path / "i")
    opens: list[str] = []
    original = os.open
    monkeypatch.setattr(
        os, "open", lambda name, *a, **k: (opens.append(name), original(name, *a, **k))[1]
    )
    after = scan(path, tmp_path / "i")
    assert str(path) not in opens
    assert after.manifest["generation"] == before.manifest["generation"]


@pytest.mark.slow
def test_a_changed_archive_refuses_its_members_and_is_read_again(
    folder: Path, tmp_path: Path
) -> None:
    path = packed(folder, tmp_path / "a.zip")
    (stack, *_) = scan(path, tmp_path / "i").select(verdict="regular").stacks
    time.sleep(0.02)
    (folder / "p1" / "cut.dcm").unlink()
    packed(folder, path)
    with pytest.raises(FileChanged, match="changed"):
        dicomdl.read_volume(stack)
    again = scan(path, tmp_path / "i")
    assert len(again.problems) == 0
    dicomdl.read_volume(again.select(verdict="regular").stacks[0])


@pytest.mark.slow
def test_archives_in_folders_are_read_by_option_and_once(folder: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    shutil.copytree(folder / "p1" / "ct", root / "plain")
    (root / "more").mkdir()
    path = packed(folder / "p2", root / "more" / "P2.zip")
    os.link(path, root / "more" / "twice.zip")
    assert scan(root, tmp_path / "i").ledger["files"] == 6 + 1
    index = scan(root, tmp_path / "j", archives=True)
    assert index.ledger["files"] == 6 + 5
    # A root that is an archive is read always, and once if it also lies in a folder.
    for archives in (False, True):
        both = scan([root, path], tmp_path / f"k{archives}", archives=archives)
        assert both.ledger["image"] == 11
        again = scan([root, path], tmp_path / f"k{archives}", archives=archives)
        assert again.manifest["generation"] == both.manifest["generation"]


@pytest.mark.slow
def test_worker_processes_read_members_as_this_process_does(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = packed(folder, tmp_path / "deflated.zip")
    scan(path, tmp_path / "i")
    monkeypatch.setattr(engine_module, "CHUNK_FILES", 3)
    scan(path, tmp_path / "j", workers=2)
    assert tables(tmp_path / "i", "") == tables(tmp_path / "j", "")


@pytest.mark.slow
@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.parametrize("name", NAMES)
def test_workers_of_a_loader_read_members(
    folder: Path, tmp_path: Path, name: str, method: str
) -> None:
    torch = pytest.importorskip("torch")
    path = packed(folder, tmp_path / name)
    index = scan(path, tmp_path / "i").select(verdict="regular")
    plain = dicomdl.PatchDataset(
        scan(folder, tmp_path / "j").select(verdict="regular"), size=(3, 4, 4), per_stack=2
    )
    dataset = dicomdl.PatchDataset(index, size=(3, 4, 4), per_stack=2)
    dataset[0]
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip("this system has no fork")
    # An interpreter takes seconds to start.
    workers = 1 if method == "spawn" else 2
    torch.manual_seed(3)
    loader = torch.utils.data.DataLoader(
        dataset, 2, num_workers=workers, multiprocessing_context=method
    )
    got = [batch["image"] for batch in loader]
    torch.manual_seed(3)
    expected = torch.utils.data.DataLoader(plain, 2, num_workers=workers)
    for image, batch in zip(got, expected, strict=True):
        assert torch.equal(image, batch["image"])


def test_two_series_of_one_archive_have_their_own_entries_in_a_cache(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    for number in range(2):
        write_series(
            tmp_path / "data" / f"{number}",
            shape=(3, 4, 4),
            offset=number,
            series_uid="1.2.3",
            seed=number,
            spacing=(2.0, 1.0 + number, 1.0),
        )
    index = scan(packed(tmp_path / "data", tmp_path / "a.zip"), tmp_path / "i")
    plain = dicomdl.VolumeDataset(index, intensity=None)
    for _ in range(2):
        cached = dicomdl.VolumeDataset(index, intensity=None, cache="disk")
        images = [np.asarray(cached[number]["image"]) for number in range(2)]
        for number, image in enumerate(images):
            np.testing.assert_array_equal(image, np.asarray(plain[number]["image"]))
    assert not np.array_equal(*images)


@pytest.mark.slow
def test_a_moved_archive_is_followed_by_root_and_by_move(folder: Path, tmp_path: Path) -> None:
    path = packed(folder, tmp_path / "a.zip")
    index = scan(path, tmp_path / "i")
    (number, *_) = [s.number for s in index.select(verdict="regular").stacks]
    expected = dicomdl.read_volume(index.stack(number)).array
    status = path.stat()
    new = tmp_path / "b.zip"
    shutil.copyfile(path, new)
    os.utime(new, ns=(status.st_atime_ns, status.st_mtime_ns))
    path.unlink()
    with pytest.raises(FileChanged, match="gone"):
        dicomdl.read_volume(index.stack(number))
    moved = dicomdl.open_index(tmp_path / "i", root=new)
    np.testing.assert_array_equal(dicomdl.read_volume(moved.stack(number)).array, expected)
    np.testing.assert_array_equal(
        dicomdl.read_volume(pickle.loads(pickle.dumps(moved)).stack(number)).array, expected
    )
    reads: list[str] = []
    original = HeaderReader.read
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(HeaderReader, "read", lambda self, p: (reads.append(p), original(self, p))[1])
        again = scan(new, tmp_path / "i", move={str(path): str(new)})
    assert reads == []
    assert again.stack(number).paths[0].startswith(f"{new}//")
    np.testing.assert_array_equal(dicomdl.read_volume(again.stack(number)).array, expected)


@pytest.mark.quick(1)
@pytest.mark.parametrize("name", ["stored.zip", "plain.tar", "deflated.zip", "packed.tar.gz"])
def test_a_reference_file_names_the_archive_that_has_the_bytes_in_place(
    folder: Path, tmp_path: Path, name: str
) -> None:
    path = packed(folder, tmp_path / name)
    index = scan(path, tmp_path / "i").select(verdict="regular")
    out = tmp_path / "stack.json"
    if name in ("deflated.zip", "packed.tar.gz"):
        with pytest.raises(UsageError, match="compressed archive"):
            index.to_kerchunk(out, on_unsupported="raise")
        return
    index.to_kerchunk(out, on_unsupported="skip")
    references = json.loads(out.read_text())["refs"]
    chunks = [each for each in references.values() if isinstance(each, list)]
    assert len(chunks) >= 6
    volumes = b"".join(
        dicomdl.read_volume(stack, dtype="int16").array[number].tobytes()
        for stack in index.stacks
        for number in range(len(stack))
    )
    for file, offset, length in chunks:
        assert file == str(path)
        assert path.read_bytes()[offset : offset + length] in volumes


@pytest.mark.slow
def test_a_second_decoder_reads_members(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("imagecodecs")
    index = scan(packed(folder, tmp_path / "deflated.zip"), tmp_path / "i")
    report = dicomdl.check_pixels(index, progress=False)
    assert not report.differences, report


def test_functions_of_one_file_take_the_path_of_a_member(folder: Path, tmp_path: Path) -> None:
    path = packed(folder, tmp_path / "deflated.zip")
    index = scan(path, tmp_path / "i")
    frame = index.stacks[0].frame(0)
    np.testing.assert_array_equal(dicomdl.read_frame(frame.path), dicomdl.read_frame(frame))


# --- DICOMDIR -------------------------------------------------------------------------------------


def write_dicomdir(path: Path, *file_ids: "str | list[str]", inactive: int = 0) -> None:
    """Write a DICOMDIR whose records reference some files; the last ones are not in use."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = "1.2.840.10008.1.3.10"  # type: ignore[assignment]
    meta.MediaStorageSOPInstanceUID = "1.2.3"  # type: ignore[assignment]
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    records = []
    for number, file_id in enumerate(file_ids):
        record = Dataset()
        record.RecordInUseFlag = 0 if number >= len(file_ids) - inactive else 0xFFFF
        record.DirectoryRecordType = "IMAGE"
        record.ReferencedFileID = file_id
        records.append(record)
    data_set = Dataset()
    data_set.file_meta = meta
    data_set.FileSetID = "CD"
    data_set.DirectoryRecordSequence = Sequence(records)
    dcmwrite(path, data_set, enforce_file_format=True)


def cd(tmp_path: Path) -> Path:
    """Return a CD in lower case with three images, of which the directory references two."""
    root = tmp_path / "cd"
    write_series(tmp_path / "series", shape=(3, 4, 4))
    (root / "images").mkdir(parents=True)
    for number, file in enumerate(sorted((tmp_path / "series").iterdir())):
        shutil.copyfile(file, root / "images" / f"im{number}{';1' if number == 1 else ''}")
    (root / "viewer.exe").write_bytes(b"MZ")
    return root


@pytest.mark.slow
def test_a_dicomdir_stands_for_the_files_that_it_references(tmp_path: Path) -> None:
    root = cd(tmp_path)
    write_dicomdir(
        root / "DICOMDIR",
        ["IMAGES", "IM0"],
        ["IMAGES", "IM1"],
        ["IMAGES", "IM9"],
        ["IMAGES", "IM2"],
        inactive=1,
    )
    index = scan(root / "DICOMDIR", tmp_path / "i")
    files = index.to_pandas("files")["path"].tolist()
    names = ["DICOMDIR", "images/im0", "images/im1;1", "images/IM9"]
    assert sorted(files) == sorted(str(root / name) for name in names)
    (problem,) = index.problems
    assert (problem.path, problem.reason) == (str(root / "images" / "IM9"), "missing")
    assert (index.ledger["image"], index.ledger["no_image"]) == (2, 1)
    assert index.manifest["passed_over"]["not_referenced"] == 2
    again = scan(root / "DICOMDIR", tmp_path / "i")
    assert again.manifest["generation"] == index.manifest["generation"]
    # The file appears, and is read.
    shutil.copyfile(root / "images" / "im2", root / "images" / "IM9")
    assert scan(root / "DICOMDIR", tmp_path / "i").ledger["image"] == 3
    # A folder stays a folder.
    assert scan(root, tmp_path / "j").ledger["image"] == 4


def test_a_moved_cd_is_followed_by_its_dicomdir(tmp_path: Path) -> None:
    root = cd(tmp_path)
    write_dicomdir(root / "DICOMDIR", ["IMAGES", "IM0"])
    (stack,) = scan(root / "DICOMDIR", tmp_path / "i").stacks
    expected = dicomdl.read_volume(stack).array
    os.rename(root, tmp_path / "moved")
    for new in ("moved/DICOMDIR", "moved"):
        (stack,) = dicomdl.open_index(tmp_path / "i", root=tmp_path / new).stacks
        np.testing.assert_array_equal(dicomdl.read_volume(stack).array, expected)


@pytest.mark.slow
def test_the_dicomdir_of_pydicom_references_the_files_that_pydicom_finds(tmp_path: Path) -> None:
    from pydicom.data import get_testdata_file
    from pydicom.fileset import FileSet

    path = str(get_testdata_file("DICOMDIR"))
    index = scan(path, tmp_path / "i")
    expected = {instance.path for instance in FileSet(path)}
    files = set(index.to_pandas("files")["path"]) - {path}
    assert files == expected
    assert len(index.problems) == 0


@pytest.mark.quick(2)
@pytest.mark.parametrize(
    "file_id",
    [
        ["..", "secret.dcm"],
        ["IMAGES", "..", "..", "secret.dcm"],
        "/secret.dcm",
        "../secret.dcm",
        "..\\secret.dcm",
        "C:\\secret.dcm",
        ["C:", "secret.dcm"],
        ["", "secret.dcm"],
        "IM0\0.dcm",
        ".",
    ],
    ids=repr,
)
def test_a_dicomdir_reaches_nothing_outside_of_its_folder(tmp_path: Path, file_id: Any) -> None:
    root = cd(tmp_path)
    shutil.copyfile(root / "images" / "im0", tmp_path / "secret.dcm")
    write_dicomdir(root / "DICOMDIR", ["IMAGES", "IM0"], ["IMAGES", "PLACEHOL"])
    # pydicom writes no such names: the place of another one is taken, as long as it is.
    text = file_id if isinstance(file_id, str) else "\\".join(file_id)
    raw = (root / "DICOMDIR").read_bytes()
    held = b"IMAGES\\PLACEHOL"
    (root / "DICOMDIR").write_bytes(_with_value(raw, held, text.encode()))
    index = scan(root / "DICOMDIR", tmp_path / "i")
    (problem,) = index.problems
    assert problem.reason in ("unsafe_name", "missing")
    assert index.ledger["image"] == 1


def _with_value(raw: bytes, held: bytes, text: bytes) -> bytes:
    """Return the bytes with the value of one element replaced by a shorter or equal one."""
    at = raw.index(held)
    room = len(held) + len(held) % 2
    text = text[:room] if len(text) > room else text
    return raw[:at] + text.ljust(room) + raw[at + room :]


@pytest.mark.skipif(os.name != "posix", reason="needs symbolic links")
def test_a_link_out_of_the_folder_of_a_dicomdir_is_a_problem(tmp_path: Path) -> None:
    root = cd(tmp_path)
    shutil.copyfile(root / "images" / "im0", tmp_path / "secret.dcm")
    (root / "images" / "link").symlink_to(tmp_path / "secret.dcm")
    (root / "away").symlink_to(tmp_path)
    (root / "pipe").mkdir()
    write_dicomdir(root / "DICOMDIR", ["IMAGES", "LINK"], ["AWAY", "SECRET.DCM"], ["PIPE"])
    index = scan(root / "DICOMDIR", tmp_path / "i")
    assert sorted(p.reason for p in index.problems) == [
        "outside_link",
        "outside_link",
        "special_file",
    ]
    assert index.ledger["image"] == 0


def test_a_dicomdir_that_is_none_is_a_file_or_a_problem(tmp_path: Path) -> None:
    (tmp_path / "DICOMDIR").write_text("text")
    index = scan(tmp_path / "DICOMDIR", tmp_path / "i")
    assert [p.reason for p in index.problems] == ["not_dicom"]
    write_series(tmp_path / "series", shape=(1, 4, 4))
    shutil.copyfile(next((tmp_path / "series").iterdir()), tmp_path / "DICOMDIR")
    index = scan(tmp_path / "DICOMDIR", tmp_path / "i")
    assert [p.reason for p in index.problems] == ["no_directory"]


def test_a_root_of_another_kind_is_refused_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "a.rar").write_bytes(b"Rar!")
    with pytest.raises(UsageError, match="unpack it"):
        scan(tmp_path / "a.rar", tmp_path / "i")


@pytest.mark.slow
def test_a_compressed_zip_is_copied_once_and_has_the_same_tables(
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_series(folder / "ct", shape=(5, 16, 12))
    path = tmp_path / "set.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted((folder / "ct").iterdir()):
            archive.write(file, f"ct/{file.name}")
    before = dicomdl.scan(path, tmp_path / "before", progress=False)
    volume = dicomdl.read_volume(before.stacks[0]).array
    words = [str(path), "--out", str(tmp_path / "out"), "--quiet"]
    assert main(["scan", *words]) == 0
    assert "--copy-archives copies it once" in capsys.readouterr().out
    # Also where nothing is read again.
    assert main(["scan", "--copy-archives", *words]) == 0
    assert "--copy-archives" not in capsys.readouterr().out
    assert kept.show_kept()[1].files == 1
    after = dicomdl.open_index(tmp_path / "out")
    for name in ("files", "frames", "stacks"):
        assert before.to_pandas(name).equals(after.to_pandas(name))
    memory.clear()
    assert np.array_equal(dicomdl.read_volume(after.stacks[0]).array, volume)
