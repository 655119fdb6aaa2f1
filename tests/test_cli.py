"""The command line, as a shell sees it: output, exit codes, and lazy imports."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import SimpleITK as sitk
from phantoms import write_series

from dicomdl.cli.main import main
from dicomdl.index.opening import open_index


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_series(tmp_path / "dicom", shape=(4, 5, 7))
    return tmp_path / "dicom"


@pytest.mark.slow
def test_scan_prints_a_summary_and_exits_0(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["scan", str(folder), "-o", str(tmp_path / "i"), "-q"]) == 0
    printed = capsys.readouterr().out
    assert "1 patient, 1 study, 1 series, 1 stack, 4 frames" in printed and "1 regular" in printed
    assert "4 files = 4 with images" in printed


def test_scan_exits_1_when_files_could_not_be_used_and_show_tells_which(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "empty.dcm").write_bytes(b"")
    assert main(["scan", str(folder), "-o", str(tmp_path / "i"), "-q"]) == 1
    assert "dicomdl show --problems" in capsys.readouterr().out
    assert main(["show", str(tmp_path / "i"), "--problems"]) == 1
    assert "empty.dcm" in capsys.readouterr().out


def test_a_missing_folder_is_wrong_use_with_a_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["scan", str(tmp_path / "absent")]) == 2
    captured = capsys.readouterr()
    assert (
        "does not exist" in captured.err and "Traceback" not in captured.err and captured.out == ""
    )


@pytest.mark.parametrize(
    "command", [["convert"], ["export", "--to", "png"], ["card", "--name", "x"]], ids=lambda c: c[0]
)
def test_an_empty_name_of_an_output_folder_is_not_the_working_directory(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    command: list[str],
) -> None:
    index, here = tmp_path / "i", tmp_path / "here"
    here.mkdir()
    assert main(["scan", str(folder), "-o", str(index), "-q"]) == 0
    monkeypatch.chdir(here)
    assert main([*command, str(index), "-o", "", "-q"]) == 2
    assert "the name of the output folder is empty" in capsys.readouterr().err
    assert list(here.iterdir()) == []


def in_a_process(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a command with a buffered output, which is that of an ordinary shell."""
    environment = {name: os.environ[name] for name in os.environ if name != "PYTHONUNBUFFERED"}
    return subprocess.run(
        [sys.executable, "-m", "dicomdl.cli.main", *arguments],
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        check=False,
        **options,
    )


@pytest.mark.slow
@pytest.mark.parametrize("command", ["show", "--help"])
def test_a_reader_that_closes_its_pipe_early_is_no_failure(
    folder: Path, tmp_path: Path, command: str
) -> None:
    main(["scan", str(folder), "-o", str(tmp_path / "i"), "-q"])
    arguments = [command] if command == "--help" else [command, str(tmp_path / "i")]
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = in_a_process(*arguments, stdout=writer)
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no /dev/full")
def test_an_output_that_cannot_be_written_is_a_failure_with_a_sentence(
    folder: Path, tmp_path: Path
) -> None:
    main(["scan", str(folder), "-o", str(tmp_path / "i"), "-q"])
    with open("/dev/full", "w") as full:
        done = in_a_process("show", str(tmp_path / "i"), "--csv", stdout=full)
    assert done.returncode == 2
    assert done.stderr.startswith("dicomdl: ") and "No space left" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.slow
def test_a_folder_that_was_scanned_without_out_is_shown_and_checked_by_its_own_name(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("DICOMDL_CACHE", str(tmp_path / "cache"))
    # A file of the data that has the name of an index's own.
    (folder / "manifest.json").write_text("{}")
    assert main(["show", str(folder)]) == 2
    assert not (tmp_path / "cache").exists()
    assert main(["scan", str(folder), "-q"]) == 0
    assert main(["scan", str(folder), "-q", "-a", "ContrastBolusAgent"]) == 0
    capsys.readouterr()
    assert main(["show", str(folder)]) == 0
    assert "1 stack, 4 frames" in capsys.readouterr().out
    assert main(["check", str(folder)]) == 0
    latest = open_index(folder).manifest["options"]["attributes"]
    assert latest == ["ContrastBolusAgent"]
    assert main(["show", str(folder.parent)]) == 2


def test_a_scan_that_finds_no_image_says_so_and_exits_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "data").mkdir()
    scan = ["scan", str(tmp_path / "data"), "-o", str(tmp_path / "i"), "-q"]
    assert main(scan) == 1
    assert "there are no files in" in capsys.readouterr().out
    (tmp_path / "data" / "readme.txt").write_text("no DICOM at all")
    assert main(scan) == 1
    assert "no file in" in (printed := capsys.readouterr().out) and "--archives" in printed


def test_one_hidden_folder_is_counted_in_the_singular(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_series(tmp_path / "data", shape=(3, 4, 4))
    (tmp_path / "data" / ".hidden").mkdir()
    assert main(["scan", str(tmp_path / "data"), "-o", str(tmp_path / "i"), "-q"]) == 0
    assert main(["check", str(tmp_path / "i")]) == 0
    assert capsys.readouterr().out.count("passed over: 1 hidden folder\n") == 2


@pytest.mark.parametrize(
    ("root", "sentence"),
    [
        ("s3:/bucket/lidc", "is a URL"),
        ("https://example.org/case.7z", "is an archive of a kind that is not read"),
        ("case.7z", "unpack it"),
        ("case.RAR", "unpack it"),
        ("absent.zip", "does not exist"),
    ],
)
def test_an_archive_or_a_url_is_refused_with_what_to_do(
    root: str,
    sentence: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("case.7z", "case.RAR"):
        (tmp_path / name).write_bytes(b"PK")
    assert main(["scan", root, "-o", str(tmp_path / "i"), "-q"]) == 2
    said = capsys.readouterr().err
    assert sentence in said
    if sentence == "is a URL":
        for command in ("show", "check"):
            assert main([command, root]) == 2
            assert capsys.readouterr().err == said


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with 60 series that lack a slice, and their index `i`."""
    folder = tmp_path_factory.mktemp("faulty")
    for number in range(60):
        write_series(folder / "dicom" / str(number), shape=(5, 4, 4), drop=[2])
    main(["scan", str(folder / "dicom"), "-o", str(folder / "i"), "-q"])
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [
        ["scan", "dicom", "-o", "i", "-j", "0"],
        ["scan", "dicom", "-o", "i", "-a", "PatientName"],
        ["scan", "dicom", "-o", ""],
        ["scan", "dicom", "-o", "i", "-a", "NoSuchKeyword"],
        ["show", "dicom"],
        ["show", "i", "--stacks"],
        ["check", "i", "--all"],
        ["check", "i"],
        ["check", "i", "--sample", "2"],
    ],
)
def test_messages_name_commands_and_options_not_functions_and_arguments(
    arguments: list[str],
    faulty: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(faulty)
    main(arguments)
    captured = capsys.readouterr()
    said = captured.out + captured.err
    assert said and not re.search(r"dicomdl\.\w+\(|\w+=(True|None|\.\.\.|\d)|`", said), said


def test_no_command_and_no_index_are_wrong_use(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([]) == 2
    assert main(["show", str(tmp_path)]) == 2
    assert "there is no index" in capsys.readouterr().err


@pytest.fixture(scope="module")
def without_images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the index of a folder without DICOM."""
    folder = tmp_path_factory.mktemp("texts")
    (folder / "in").mkdir()
    (folder / "in/readme.txt").write_text("no DICOM")
    main(["scan", str(folder / "in"), "-o", str(folder / "index"), "-q"])
    return folder / "index"


@pytest.mark.parametrize(
    ("code", "arguments"),
    [
        (1, ("check",)),
        (1, ("check", "--pixels")),
        (1, ("check", "--phi")),
        (1, ("report", "--pictures", "0", "-o", "{out}.html")),
        (2, ("convert", "-o", "{out}")),
        (2, ("export", "--to", "png", "-o", "{out}")),
        (2, ("card", "-o", "{out}", "--name", "nothing")),
        (2, ("view", "--no-browser")),
    ],
    ids=lambda given: " ".join(given[:2]) if isinstance(given, tuple) else None,
)
def test_a_command_with_nothing_to_do_fails_and_says_so(
    without_images: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    code: int,
    arguments: tuple[str, ...],
) -> None:
    command, *options = (each.format(out=tmp_path / "out") for each in arguments)
    assert main([command, str(without_images), *options]) == code
    printed = capsys.readouterr()
    text = printed.err if code == 2 else printed.out
    assert re.search("the index has no image|there is no|no file was read|0 stacks", text)
    assert not (tmp_path / "out").exists()


def test_convert_of_a_folder_without_dicom_and_of_nothing_selected_fails(
    without_images: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ["-o", str(tmp_path / "out"), "-q"]
    assert main(["convert", str(without_images.parent / "in"), *out]) == 2
    assert "the index has no image: 1 file" in capsys.readouterr().err
    main(["scan", str(folder), "-o", str(tmp_path / "i"), "-q"])
    assert main(["convert", str(tmp_path / "i"), *out, "--where", "modality=PT"]) == 2
    assert "no frame is selected of the 4 files" in capsys.readouterr().err
    assert main(["convert", str(tmp_path / "i"), *out, "--where", "instance_number=1"]) == 2
    assert "no complete stack of an image is selected" in capsys.readouterr().err


def test_json_is_json_and_nothing_else(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["scan", str(folder), "-o", str(tmp_path / "i"), "--json"]) == 0
    scanned = json.loads(capsys.readouterr().out)
    assert scanned["ledger"] == {
        "files": 4,
        "image": 4,
        "no_image": 0,
        "not_dicom": 0,
        "problem": 0,
    }
    assert main(["show", str(tmp_path / "i"), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["stacks"][0]["shape"] == [4, 5, 7] and shown["stacks"][0]["verdict"] == "regular"


def test_show_lists_stacks(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["scan", str(folder), "-o", str(tmp_path / "i"), "-q"])
    capsys.readouterr()
    assert main(["show", str(tmp_path / "i"), "--stacks"]) == 0
    printed = capsys.readouterr().out
    assert "4 x 5 x 7" in printed and str(folder) in printed and "RAMP CT" in printed


def test_check_exits_0_when_nothing_needs_a_person(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["scan", str(folder), "-o", str(tmp_path / "i"), "-q"])
    capsys.readouterr()
    assert main(["check", str(tmp_path / "i")]) == 0
    assert "1 stack, none needs a person" in capsys.readouterr().out
    assert main(["check", "--all", str(tmp_path / "i")]) == 0
    assert "4 x 5 x 7" in capsys.readouterr().out


def test_check_exits_2_and_says_where_an_index_is_damaged(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["scan", str(folder), "-o", str(tmp_path / "i"), "-q"])
    (table,) = (tmp_path / "i").glob("generations/*/annotations.arrow")
    table.write_bytes(table.read_bytes()[:-1] + b"?")
    assert main(["check", str(tmp_path / "i")]) == 2
    assert "is damaged: annotations has another checksum in block 0" in capsys.readouterr().err


def test_check_exits_1_and_says_what_needs_a_person(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_series(tmp_path / "dicom", shape=(9, 5, 7), drop=[4])
    main(["scan", str(tmp_path / "dicom"), "-o", str(tmp_path / "i"), "-q"])
    capsys.readouterr()
    assert main(["check", str(tmp_path / "i")]) == 1
    assert "1 of 9 slices missing after slice 3" in capsys.readouterr().out
    assert main(["check", "--json", str(tmp_path / "i")]) == 1
    said = json.loads(capsys.readouterr().out)
    assert (
        said["ok"] is False
        and said["needs_person"] == [0]
        and said["stacks"][0]["verdict"] == "missing_slices"
    )


def test_check_of_no_index_is_wrong_use(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(tmp_path)]) == 2
    assert "there is no index" in capsys.readouterr().err


def test_an_identifying_attribute_needs_permission(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["scan", str(folder), "-o", str(tmp_path / "i"), "-q", "-a", "PatientName"]) == 2
    assert "--allow-phi" in capsys.readouterr().err


def test_escape_sequences_from_files_do_not_reach_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def hostile(dataset: object, z: int) -> None:
        dataset.Modality = "C\x1b[31m"

    write_series(tmp_path / "dicom", shape=(2, 5, 7), edit=hostile)
    main(["scan", str(tmp_path / "dicom"), "-o", str(tmp_path / "i"), "-q"])
    main(["check", "--all", str(tmp_path / "i")])
    main(["show", "--stacks", str(tmp_path / "i")])
    assert "\x1b" not in capsys.readouterr().out


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that the demo has run in once."""
    folder = tmp_path_factory.mktemp("demo") / "demo"
    with pytest.MonkeyPatch.context() as patch:
        # As without the extra `notebook`.
        patch.setitem(sys.modules, "matplotlib.figure", None)
        assert main(["demo", "-o", str(folder)]) == 0
    return folder


@pytest.mark.slow
def test_demo_without_matplotlib_draws_a_sheet_without_captions(demo: Path) -> None:
    assert [path.name for path in demo.glob("*.png")] == ["sheet.png"]
    assert sitk.GetArrayFromImage(sitk.ReadImage(str(demo / "sheet.png"))).std() > 20


@pytest.mark.slow
def test_demo_explains_every_count_and_draws_each_repair(
    demo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")
    assert main(["demo", "-o", str(demo)]) == 0
    printed = capsys.readouterr().out
    steps = ("data", "scan", "volumes", "labels", "repairs", "epochs", "pictures")
    assert all(f"{number}. {step}" in printed for number, step in enumerate(steps, 1))
    files, found = re.search(r"(\d+) files = (\d+) with images", printed).groups()
    head = re.search(r"(\d+) files of the head hold (\d+) frames", printed).groups()
    shipped = re.search(r"(\d+) files come with pydicom", printed)[1]
    # The README of the head is no DICOM.
    assert int(head[0]) + int(shipped) + 1 == int(files) and head == ("298", "421")
    assert int(found) < int(files)
    read, lost, images = re.search(r"(\d+) \+ (\d+) frames? that .* = (\d+);", printed).groups()
    assert int(read) + int(lost) == int(images)
    for name in ("repairs", "planes", "batch", "sheet"):
        picture = sitk.GetArrayFromImage(sitk.ReadImage(str(demo / f"{name}.png")))
        assert picture.shape[0] > 150 and picture.shape[1] > 900 and picture.std() > 20


@pytest.mark.slow
def test_demo_finds_the_lesion_in_every_series_and_prints_json(
    demo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["demo", "-o", str(demo), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert len(found["volumes"]) == 4
    for volume in found["volumes"]:
        assert volume["lesion_mm"] == pytest.approx(found["data"]["lesion_mm"], abs=1)
    labels = {each["name"]: each for each in found["labels"]}
    assert list(labels) == ["Lesion", "Oedema", "Brain", "Eye_L", "Eye_R", "GTV"]
    for name in ("Lesion", "GTV"):
        assert labels[name]["middle_mm"] == pytest.approx(found["data"]["lesion_mm"], abs=0.3)
    assert len(found["repairs"]) == 7 and found["epochs"]["not_decoded"]
    assert (
        found["epochs"]["frames"]
        + len(found["epochs"]["not_decoded"])
        + sum(found["epochs"]["left_out"].values())
        == found["counts"]["frames"]
    )


@pytest.mark.parametrize(
    "statement",
    [
        "import dicomdl",
        "from dicomdl.cli.main import main\ntry: main(['--help'])\nexcept SystemExit: pass",
    ],
)
def test_importing_dicomdl_and_asking_for_help_import_nothing_heavy(statement: str) -> None:
    check = (
        "import sys\n"
        "heavy = {'torch', 'SimpleITK', 'pyarrow', 'numpy', 'pydicom'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    ran = subprocess.run(
        [sys.executable, "-c", f"{statement}\n{check}"], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr


def test_the_module_runs_as_a_command() -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "dicomdl", "--version"], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0 and ran.stdout.startswith("dicomdl ")
