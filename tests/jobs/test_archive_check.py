"""The check of archives: a member whose bytes are not those of its checksum is found."""

import json
import shutil
import tarfile
import zipfile
from pathlib import Path

import pytest
from phantoms import write_series
from phantoms_labels import write_structure_set

import dicomdl
from dicomdl.cli.main import main
from dicomdl.errors import FileChanged
from dicomdl.jobs.archive_check import check_archives

SHAPE = (4, 16, 12)


def packed(folder: Path, path: Path, method: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for file in sorted(each for each in folder.rglob("*") if each.is_file()):
            archive.write(file, file.relative_to(folder).as_posix())
    return path


def flip(path: Path, name: str, part: float) -> None:
    """Flip a bit of a member, at a part of its bytes."""
    with zipfile.ZipFile(path) as archive:
        info = archive.getinfo(name)
    data = bytearray(path.read_bytes())
    start = info.header_offset + 30 + len(name)
    data[start + int(part * (info.compress_size - 1))] ^= 4
    path.write_bytes(data)


@pytest.fixture
def files(folder: Path) -> list[str]:
    """The names of a series and a structure set in a folder."""
    image = write_series(folder / "ct", shape=SHAPE)[0]
    write_structure_set(folder / "rois.dcm", image, {"one": []})
    return sorted(path.relative_to(folder).as_posix() for path in (folder / "ct").iterdir())


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_flipped_bit_of_a_pixel_is_found(
    folder: Path,
    tmp_path: Path,
    files: list[str],
    method: int,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = packed(folder, tmp_path / "set.zip", method)
    flip(path, files[2], 0.98)
    index = dicomdl.scan(path, tmp_path / "index", progress=False)
    check = check_archives(index, progress=False)
    assert (check.members, check.unstated, check.ok) == (SHAPE[0] + 1, 0, False)
    (damaged,) = check.damaged
    assert damaged[0] == f"{path}//{files[2]}"
    assert "the member is damaged" in damaged[1]
    assert main(["check", "--archives", str(tmp_path / "index")]) == 1
    shown = capsys.readouterr().out
    assert "5 members of archives were read: 1 damaged" in shown and files[2] in shown
    assert main(["check", "--archives", "--json", str(tmp_path / "index")]) == 1
    assert json.loads(capsys.readouterr().out)["damaged"] == [
        {"path": damaged[0], "detail": damaged[1]}
    ]


def test_sound_archives_pass_and_a_tar_states_no_checksum(
    folder: Path, tmp_path: Path, files: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    packed(folder, tmp_path / "set.zip")
    with tarfile.open(tmp_path / "set.tar", "w") as archive:
        archive.add(folder / "ct", "ct")
    roots = [folder, tmp_path / "set.zip", tmp_path / "set.tar"]
    index = dicomdl.scan(roots, tmp_path / "index", progress=False)
    check = check_archives(index, progress=False)
    assert (check.members, check.unstated, check.damaged) == (2 * SHAPE[0] + 1, SHAPE[0], ())
    assert main(["check", "--archives", str(tmp_path / "index")]) == 0
    assert "4 of them in tar archives" in capsys.readouterr().out


def test_a_structure_set_in_a_stored_zip_is_compared_as_it_is_read(
    folder: Path, tmp_path: Path, files: list[str]
) -> None:
    path = packed(folder, tmp_path / "set.zip")
    index = dicomdl.scan(path, tmp_path / "index", progress=False)
    assert [each.status for each in index.annotations] == ["ok"]
    flip(path, "rois.dcm", 0.99)
    index = dicomdl.scan(path, tmp_path / "index", progress=False)
    assert [problem.reason for problem in index.problems] == ["damaged_member"]


def test_an_archive_that_changed_or_is_gone_is_said(
    folder: Path, tmp_path: Path, files: list[str]
) -> None:
    path = packed(folder, tmp_path / "set.zip")
    index = dicomdl.scan(path, tmp_path / "index", progress=False)
    shutil.copy(packed(folder / "ct", tmp_path / "other.zip"), path)
    assert len(check_archives(index, progress=False).damaged) == SHAPE[0] + 1
    path.unlink()
    details = {detail for _, detail in check_archives(index, progress=False).damaged}
    assert details == {"it cannot be read: No such file or directory"}
    with pytest.raises(FileChanged):
        dicomdl.read_frame(index.source(0))
