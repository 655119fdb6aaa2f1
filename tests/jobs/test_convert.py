"""convert: every stack becomes a file with its places, values, labels and facts, or a reason."""

import json
import os
import subprocess
import sys
from pathlib import Path
from time import sleep
from typing import Any

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given
from hypothesis import strategies as st
from phantoms import ramp, true_affine, true_positions, write_series
from phantoms_labels import contour, write_seg, write_structure_set
from phantoms_multi import divide
from pydicom.dataset import Dataset

import dicomdl
from dicomdl.cli.main import main
from dicomdl.errors import StorageError, UsageError
from dicomdl.jobs._file_names import NameTemplate, safe_name

SHAPE = (6, 5, 7)
HOSTILE = ["../../evil", "/etc/passwd", "CON", "..", "a\\b\x1b[2J", "日本"]
RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


def scanned(folder: Path) -> dicomdl.Index:
    return dicomdl.scan(folder, folder.with_name("index"), progress=False)


def converted(index: dicomdl.Index, out: Path, **options: Any) -> Any:
    return dicomdl.convert(index, out, progress=False, **options)


def edited(**attributes: Any) -> Any:
    """Return an `edit` that sets attributes of every slice."""

    def edit(dataset: Dataset, z: int) -> None:
        for name, value in attributes.items():
            setattr(dataset, name, value)

    return edit


def test_a_series_becomes_nifti_with_its_values_at_their_places(tmp_path: Path) -> None:
    write_series(tmp_path / "in", orientation=(0, 1, 0, 0, 0, -1), slope=2, intercept=-5)
    done = converted(scanned(tmp_path / "in"), tmp_path / "out")
    (image,) = done.images
    assert (done.ok, image.status, image.stacks) == (True, "written", (0,))
    read = nibabel.load(tmp_path / "out" / image.files[0])  # type: ignore[attr-defined]
    assert np.array_equal(np.asarray(read.dataobj).T, 2 * ramp(SHAPE) - 5)
    affine = true_affine((2.0, 1.0, 1.0), orientation=(0, 1, 0, 0, 0, -1))
    assert np.allclose(read.affine, (RAS @ affine)[:, [2, 1, 0, 3]], atol=1e-5)


@pytest.mark.parametrize("suffix", [".nii", ".nrrd", ".mha", ".npy"])
def test_every_format_holds_the_same_values(tmp_path: Path, suffix: str) -> None:
    write_series(tmp_path / "in")
    done = converted(scanned(tmp_path / "in"), tmp_path / "out", suffix=suffix)
    path = tmp_path / "out" / done.images[0].files[0]
    values = np.load(path) if suffix == ".npy" else sitk.GetArrayFromImage(sitk.ReadImage(path))
    assert np.array_equal(values, ramp(SHAPE))


def test_the_facts_beside_an_image_have_the_units_of_bids_and_no_dates(tmp_path: Path) -> None:
    edit = edited(EchoTime=4.9, RepetitionTime=2000, FlipAngle=90, MagneticFieldStrength=3)
    write_series(tmp_path / "in", modality="MR", slope=None, intercept=None, edit=edit)
    done = converted(scanned(tmp_path / "in"), tmp_path / "out")
    text = (tmp_path / "out" / done.images[0].files[-1]).read_text()
    facts = json.loads(text)
    assert (facts["EchoTime"], facts["RepetitionTime"]) == (0.0049, 2.0)
    assert (facts["FlipAngle"], facts["MagneticFieldStrength"]) == (90, 3)
    assert facts["ConversionSoftware"] == "dicomdl"
    own = facts["dicomdl"]
    assert own["verdict"] == "regular"
    assert np.allclose(own["affine_lps_mm"], true_affine((2.0, 1.0, 1.0)))
    assert "RAMP-1" not in text


@pytest.mark.slow
def test_echoes_and_phase_are_files_and_times_are_one_image(tmp_path: Path) -> None:
    shared = {"modality": "MR", "slope": None, "intercept": None, "series_uid": "1.2.3"}
    for echo in (1, 2):
        for part in ("M", "P"):
            for time in (1, 2, 3):
                write_series(
                    tmp_path / "in",
                    **shared,  # type: ignore[arg-type]
                    offset=echo + 10 * time,
                    seed=100 * echo + 10 * time + (part == "P"),
                    edit=edited(
                        EchoTime=5 * echo,
                        TemporalPositionIdentifier=time,
                        ImageType=["ORIGINAL", "PRIMARY", part],
                        SeriesDescription="multi",
                        SeriesNumber=3,
                    ),
                )
    done = converted(scanned(tmp_path / "in"), tmp_path / "out", suffix=".nii")
    assert {image.files[0] for image in done.images} == {
        f"RAMP-1/003_multi_e{echo}{part}.nii" for echo in (1, 2) for part in ("", "_ph")
    }
    for echo in (1, 2):
        path = tmp_path / "out" / f"RAMP-1/003_multi_e{echo}.nii"
        values = np.asarray(nibabel.load(path).dataobj).T  # type: ignore[attr-defined]
        assert values.shape == (3, *SHAPE)
        assert values[:, 0, 0, 0].tolist() == [echo + 10 * time for time in (1, 2, 3)]


def test_a_group_that_is_no_array_becomes_an_image_per_stack(tmp_path: Path) -> None:
    for time in (1, 2):
        write_series(
            tmp_path / "in",
            modality="MR",
            series_uid="1.2.3",
            seed=time,
            drop=[5] if time == 2 else [],
            edit=edited(TemporalPositionIdentifier=time),
        )
    index = scanned(tmp_path / "in")
    done = converted(index, tmp_path / "out", irregular="accept")
    assert sorted(n for image in done.images for n in image.stacks) == [0, 1]
    assert all("lack" in image.reason for image in done.images)
    assert sum(len(image.files) for image in done.images) == 4


def test_segmentations_and_regions_are_label_maps_with_their_names(tmp_path: Path) -> None:
    image = write_series(tmp_path / "in", shape=SHAPE)[2]
    mask = np.zeros(SHAPE[1:], np.uint8)
    mask[1:3, 2:5] = 1
    frames = [(1, true_positions(6, (2.0, 1.0, 1.0))[2].tolist(), mask)]
    write_seg(tmp_path / "in" / "seg.dcm", image, frames, segments={1: "Left\tlung"})
    square = contour([(1, 1, 4), (4, 1, 4), (4, 3, 4), (1, 3, 4)])
    write_structure_set(tmp_path / "in" / "rt.dcm", image, {"Heart": [square]})
    index = scanned(tmp_path / "in")
    done = converted(index, tmp_path / "out", names="case")
    stack = next(s for s in index.stacks if s.content == "image")
    (result,) = done.images
    assert len(done.segmentations) == 1 and done.ok
    for kind, name in (("SEG", "Left lung"), ("RTSTRUCT", "Heart")):
        expected = dicomdl.read_labels(stack, kind).array
        read = nibabel.load(tmp_path / "out" / f"case_{kind.lower()}1.nii.gz")  # type: ignore
        assert expected.any()
        assert np.array_equal(np.asarray(read.dataobj).T, expected)
        assert np.allclose(read.affine, nibabel.load(tmp_path / "out/case.nii.gz").affine)  # type: ignore
        table = (tmp_path / "out" / f"case_{kind.lower()}1.tsv").read_text()
        assert table == f"index\tname\n1\t{name}\n"
    assert set(os.listdir(tmp_path / "out")) == set(result.files)


def test_labels_that_overlap_are_masks(tmp_path: Path) -> None:
    image = write_series(tmp_path / "in", shape=SHAPE)[2]
    big = contour([(1, 1, 4), (5, 1, 4), (5, 4, 4), (1, 4, 4)])
    small = contour([(2, 1, 4), (4, 1, 4), (4, 3, 4), (2, 3, 4)])
    write_structure_set(tmp_path / "in" / "rt.dcm", image, {"Body": [big], "Heart": [small]})
    index = scanned(tmp_path / "in")
    converted(index, tmp_path / "out", names="case")
    masks = nibabel.load(tmp_path / "out" / "case_rtstruct1.nii.gz")  # type: ignore
    expected = dicomdl.read_labels(index.stacks[0], "RTSTRUCT", channels=True).array
    assert np.array_equal(np.asarray(masks.dataobj).T, expected)
    assert (tmp_path / "out" / "case_rtstruct1.tsv").read_text().splitlines()[1:] == [
        "0\tBody",
        "1\tHeart",
    ]
    facts = json.loads((tmp_path / "out" / "case.json").read_text())
    assert facts["dicomdl"]["labels"] == {"case_rtstruct1.nii.gz": {"0": "Body", "1": "Heart"}}


def test_what_is_complete_is_left_and_what_is_damaged_is_made_again(tmp_path: Path) -> None:
    write_series(tmp_path / "in" / "a")
    write_series(tmp_path / "in" / "b", seed=1)
    index = scanned(tmp_path / "in")
    first = converted(index, tmp_path / "out")
    paths = [tmp_path / "out" / image.files[0] for image in first.images]
    times = [path.stat().st_mtime_ns for path in paths]
    assert converted(index, tmp_path / "out").counts == {"present": 2}
    assert [path.stat().st_mtime_ns for path in paths] == times
    paths[0].write_bytes(paths[0].read_bytes()[:100])
    again = converted(index, tmp_path / "out")
    assert again.counts == {"written": 1, "present": 1}
    assert nibabel.load(paths[0]).get_fdata().shape == SHAPE[::-1]  # type: ignore
    assert [image.files for image in again.images] == [image.files for image in first.images]


def test_files_of_other_data_are_not_overwritten_unless_asked(tmp_path: Path) -> None:
    write_series(tmp_path / "in")
    index = scanned(tmp_path / "in")
    (tmp_path / "out").mkdir()
    mine = tmp_path / "out" / "case.nii.gz"
    mine.write_bytes(b"mine")
    done = converted(index, tmp_path / "out", names="case")
    assert "overwrite=True" in done.refused[0].reason and mine.read_bytes() == b"mine"
    assert converted(index, tmp_path / "out", names="case", overwrite=True).ok
    other = converted(index, tmp_path / "out", names="case", tilt="resample")
    assert other.counts == {"refused": 1}


def test_labels_and_gradients_of_the_replaced_image_do_not_stay_beside_the_new_one(
    tmp_path: Path,
) -> None:
    for each, b_value in enumerate((0.0, 1000.0)):
        image = write_series(
            tmp_path / "in",
            modality="MR",
            series_uid="1.2.3",
            seed=each,
            edit=edited(DiffusionBValue=b_value, DiffusionGradientOrientation=[1.0, 0.0, 0.0]),
        )[2]
    square = contour([(1, 1, 4), (4, 1, 4), (4, 3, 4), (1, 3, 4)])
    write_structure_set(tmp_path / "in" / "rt.dcm", image, {"Heart": [square]})
    out = tmp_path / "out"
    converted(scanned(tmp_path / "in"), out, names="case", suffix=".nii")
    beside = {f"case{each}" for each in (".bval", ".bvec", "_rtstruct1.nii", "_rtstruct1.tsv")}
    assert set(os.listdir(out)) == {"case.nii", "case.json", *beside}
    (out / "case_notes.tsv").write_text("mine")
    (out / "case_rtstruct1.tsv").write_text("mine, too")

    write_series(tmp_path / "other")
    done = converted(scanned(tmp_path / "other"), out, names="case", suffix=".nii", overwrite=True)
    assert done.images[0].files == ("case.nii", "case.json")
    assert set(os.listdir(out)) == {
        *("case.nii", "case.json"),
        # Files that this program did not write.
        *("case_notes.tsv", "case_rtstruct1.tsv"),
    }


def test_a_segmentation_that_lacks_files_is_listed_and_not_left_out_in_silence(
    tmp_path: Path,
) -> None:
    image = write_series(tmp_path / "in", shape=SHAPE)[2]
    frames = [
        (1, position.tolist(), np.ones(SHAPE[1:], np.uint8))
        for position in true_positions(6, (2.0, 1.0, 1.0))
    ]
    parts = divide(write_seg(tmp_path / "in" / "seg.dcm", image, frames), [2, 4])
    whole = converted(scanned(tmp_path / "in"), tmp_path / "whole", names="case")
    assert whole.ok and "case_seg1.nii.gz" in whole.images[0].files
    parts[1].unlink()
    done = converted(scanned(tmp_path / "in"), tmp_path / "out", names="case")
    assert not done.ok
    assert done.images[0].refused_labels == {
        str(parts[0]): "its status is incomplete: files of its concatenation are not in the index"
    }
    assert converted(scanned(tmp_path / "in"), tmp_path / "none", names="case", labels=False).ok


@pytest.mark.quick(3)
@pytest.mark.parametrize(
    "told",
    [
        "[" * 200_000,
        "[1]",
        '{"dicomdl": "x"}',
        {"files": {"a\0b": 1}},
        {"files": ["a"]},
        {"files": {"../in/slice000.dcm": "own size"}},
        {"refused_labels": 5},
    ],
)
def test_a_damaged_json_is_a_file_of_somebody_else(told: Any, tmp_path: Path) -> None:
    image = write_series(tmp_path / "in", shape=(2, 3, 4))[0]
    index = scanned(tmp_path / "in")
    converted(index, tmp_path / "out", names="case")
    path = tmp_path / "out" / "case.json"
    if isinstance(told, str):
        path.write_text(told)
    else:
        content = json.loads(path.read_text())
        content["dicomdl"] |= told
        text = json.dumps(content).replace('"own size"', str(image.stat().st_size))
        path.write_text(text.replace("slice000.dcm", image.name))
    (refused,) = converted(index, tmp_path / "out", names="case").images
    assert refused.status == "refused" and "overwrite=True" in refused.reason
    assert converted(index, tmp_path / "out", names="case", overwrite=True).ok


def test_labels_in_a_path_that_is_no_text_are_refused_by_their_path(tmp_path: Path) -> None:
    image = write_series(tmp_path / "in", shape=SHAPE)[2]
    square = contour([(1, 1, 4), (4, 1, 4), (4, 3, 4), (1, 3, 4)])
    written = write_structure_set(tmp_path / "in" / "rt.dcm", image, {"Heart": [square]})
    path = os.fsdecode(os.fsencode(tmp_path / "in") + b"/\xff.dcm")
    try:
        os.rename(written, path)
    except OSError:
        pytest.skip("this system has no such names")
    index = scanned(tmp_path / "in")
    with open(path, "ab") as file:
        file.write(b"later")
    (done,) = converted(index, tmp_path / "out", names="case").images
    facts = json.loads((tmp_path / "out" / "case.json").read_text("utf-8"))
    assert facts["dicomdl"]["refused_labels"] == done.refused_labels
    assert list(done.refused_labels) == [path]


def test_two_images_of_one_name_are_an_error_before_anything_is_read(tmp_path: Path) -> None:
    write_series(tmp_path / "in" / "a")
    write_series(tmp_path / "in" / "b", seed=1)
    index = scanned(tmp_path / "in")
    with pytest.raises(UsageError, match="stack 0 and stack 1 one name") as error:
        converted(index, tmp_path / "out", names="{patient_id}")
    assert error.value.stacks == [[0, 1]]  # type: ignore[attr-defined]
    assert "RAMP-1" not in str(error.value)
    assert not (tmp_path / "out").exists()
    names = [image.files[0] for image in converted(index, tmp_path / "out").images]
    assert names[0].endswith("_s0.nii.gz") and names[1].endswith("_s1.nii.gz")


@pytest.mark.slow
def test_names_stay_apart_from_numbered_ones_and_from_those_of_labels(tmp_path: Path) -> None:
    names = ("Head", "HEAD", "Head_s1", "Head_s0", "Body", "Body_seg1")
    for seed, name in enumerate(names):
        edit = edited(SeriesDescription=name, SeriesNumber=1)
        write_series(tmp_path / "in", seed=seed, patient_id="P", edit=edit)
    index = scanned(tmp_path / "in")
    (body,) = index.select(series_description="Body").stacks
    frames = [(1, body.position(2), np.ones(SHAPE[1:], np.uint8))]
    write_seg(tmp_path / "in" / "seg.dcm", Path(body.paths[2]), frames)
    index = scanned(tmp_path / "in")
    done = converted(index, tmp_path / "out", suffix=".nii")
    files = [file for image in done.images for file in image.files]
    assert len(done.images) == len(names)
    assert done.ok
    assert [name for name in files if name.endswith("_seg1.tsv")]
    assert len({file.lower() for file in files}) == len(files)
    for image in done.images:
        facts = json.loads((tmp_path / "out" / image.files[-1]).read_text())
        assert facts["dicomdl"]["stacks"] == list(image.stacks)
        assert set(facts["dicomdl"]["files"]) == {Path(f).name for f in image.files[:-1]}


@pytest.mark.slow
def test_a_conversion_that_is_killed_again_and_again_has_the_bytes_of_one_that_is_not(
    tmp_path: Path,
) -> None:
    for seed in range(16):
        edit = edited(SeriesDescription=f"s{seed}", SeriesNumber=seed)
        write_series(tmp_path / "in", shape=(8, 128, 128), seed=seed, patient_id="P", edit=edit)
    index = scanned(tmp_path / "in")
    assert converted(index, tmp_path / "whole").ok
    command = [sys.executable, "-m", "dicomdl", "convert", index.path, "-q", "--workers", "2"]
    command += ["-o", str(tmp_path / "killed")]
    for done in (1, 3, 6, 10, 14):
        ran = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        while len(list((tmp_path / "killed").glob("P/*.nii.gz"))) < done and ran.poll() is None:
            sleep(0.001)
        ran.kill()
        ran.wait()
    last = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "16 images" in last.stdout
    assert content(tmp_path / "killed") == content(tmp_path / "whole")


def content(folder: Path) -> dict[str, bytes]:
    """The files of a folder, without what is half written."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in files
        if ".tmp" not in path.as_posix().removeprefix(folder.as_posix())
    }


def test_what_a_killed_conversion_left_is_removed_after_a_day(tmp_path: Path) -> None:
    write_series(tmp_path / "in")
    index = scanned(tmp_path / "in")
    names = {"names": "{modality}"}
    old, new = (tmp_path / "out" / f".CT.nii.{c * 12}.tmp" for c in "ab")
    for folder in (old, new):
        folder.mkdir(parents=True)
        (folder / "CT.nii").write_bytes(b"half")
    os.utime(old, (0, 0))
    assert converted(index, tmp_path / "out", suffix=".nii", **names).ok
    assert not old.exists()
    assert new.exists()


def test_irregular_stacks_are_refused_with_the_reason_or_resampled(tmp_path: Path) -> None:
    write_series(tmp_path / "in", drop=[3])
    index = scanned(tmp_path / "in")
    done = converted(index, tmp_path / "out")
    assert os.listdir(tmp_path / "out") == []
    assert not done.ok and "missing_slices" in done.refused[0].reason
    assert "missing_slices" in repr(done)
    resampled = converted(index, tmp_path / "out", irregular="resample", suffix=".nii")
    read = nibabel.load(tmp_path / "out" / resampled.images[0].files[0])  # type: ignore
    assert np.asarray(read.dataobj).T.shape == SHAPE
    facts = json.loads((tmp_path / "out" / resampled.images[0].files[-1]).read_text())
    assert facts["dicomdl"]["filled_slices"] == [3]


def test_a_tilt_stays_in_nifti_and_is_resampled_for_other_formats(tmp_path: Path) -> None:
    write_series(tmp_path / "in", shear=(0.5, 0))
    index = scanned(tmp_path / "in")
    done = converted(index, tmp_path / "out", suffix=".nii")
    read = nibabel.load(tmp_path / "out" / done.images[0].files[0])  # type: ignore
    affine = (RAS @ index.stacks[0].affine)[:, [2, 1, 0, 3]]
    assert np.allclose(read.affine, affine, atol=1e-5)
    assert converted(index, tmp_path / "mha", suffix=".mha").refused
    assert converted(index, tmp_path / "mha", suffix=".mha", tilt="resample").ok


def test_a_folder_that_cannot_be_written_ends_the_conversion(tmp_path: Path) -> None:
    write_series(tmp_path / "in")
    index = scanned(tmp_path / "in")
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError):
        converted(index, tmp_path / "file" / "out")


def test_a_full_disk_ends_the_conversion_and_leaves_complete_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(4):
        write_series(tmp_path / "in" / str(number), seed=number)
    index = scanned(tmp_path / "in")
    from dicomdl.jobs import _conversion

    written: list[Any] = []
    original = _conversion.storage.write_whole

    def full(path: str, data: bytes) -> None:
        # Twice per image: when it is begun, and when it is complete.
        if len(written) == 5:
            raise StorageError("the disk is full", errno=28)
        written.append(path)
        original(path, data)

    monkeypatch.setattr(_conversion.storage, "write_whole", full)
    with pytest.raises(StorageError, match="full"):
        converted(index, tmp_path / "out", workers=1)
    monkeypatch.undo()
    assert converted(index, tmp_path / "out").counts == {"present": 2, "written": 2}


@pytest.mark.slow
def test_names_from_headers_stay_in_the_output_folder(tmp_path: Path) -> None:
    for number, text in enumerate(HOSTILE):
        write_series(
            tmp_path / "in" / str(number),
            seed=number,
            patient_id=text.replace("\\", "/"),
            edit=edited(SeriesDescription=text.replace("\\", "/"), SeriesNumber=number),
        )
    before = set(tmp_path.rglob("*"))
    done = converted(scanned(tmp_path / "in"), tmp_path / "out")
    assert done.ok and len(done.images) == 6
    made = set(tmp_path.rglob("*")) - before
    inside = [p for p in made if p.is_relative_to(tmp_path / "out")]
    assert {p for p in made if p.is_relative_to(tmp_path / "index")} | set(inside) == made


@pytest.mark.slow
@given(st.text(max_size=300))
def test_a_safe_name_is_one_name_on_every_system(text: str) -> None:
    name = safe_name(text)
    assert len(name) <= 121 and "/" not in name and "\\" not in name and ":" not in name
    assert not name.startswith(".") and not name.endswith((".", " "))
    assert name.isascii() and name.upper().split(".")[0] not in ("CON", "NUL", "AUX", "PRN")


@pytest.mark.parametrize(
    "template",
    [
        "{no_such}",
        "{patient_id",
        "a//b",
        "../x",
        "/x",
        "",
        "{modality!r}",
        "{stack:{group}}",
        "a:b",
    ],
)
def test_a_template_that_leads_nowhere_is_an_error(template: str) -> None:
    with pytest.raises(UsageError, match="template"):
        NameTemplate(template, {"patient_id", "modality", "stack", "group"}.__contains__)


def test_a_template_pads_numbers_and_leaves_out_what_is_unknown() -> None:
    values = {"series_number": 7, "modality": "CT", "echo": None}
    template = NameTemplate("{modality}/{series_number:03}{echo}_x", values.__contains__)
    assert template.name(values.get) == "CT/007_x"


def test_a_group_of_computed_images_without_a_component_is_converted(tmp_path: Path) -> None:
    write_series(tmp_path / "in", edit=edited(ImageType=["DERIVED", "PRIMARY", "", "M"]))
    index = scanned(tmp_path / "in")
    assert index.stacks[0].component == "M"
    assert len(index.stacks[0].group.parts) == 1


@pytest.mark.parametrize(
    ("option", "value"), [("suffix", ".jpg"), ("tilt", "none"), ("workers", 0), ("irregular", "x")]
)
def test_a_wrong_option_is_an_error(tmp_path: Path, option: str, value: Any) -> None:
    write_series(tmp_path / "in")
    with pytest.raises(UsageError, match=option):
        converted(scanned(tmp_path / "in"), tmp_path / "out", **{option: value})


def test_the_command_converts_a_folder_and_says_what_it_did(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DICOMDL_CACHE", str(tmp_path / "cache"))
    write_series(tmp_path / "in" / "a", edit=edited(SeriesNumber=1))
    write_series(tmp_path / "in" / "b", drop=[3], seed=1, edit=edited(SeriesNumber=2))
    command = ["convert", str(tmp_path / "in"), "-o", str(tmp_path / "out"), "-q"]
    assert main(command) == 1
    told = capsys.readouterr().out
    assert "1 refused, 1 written" in told and "pass --irregular resample" in told
    assert "series: " in told.rpartition("(")[2]
    assert main([*command, "--where", "verdict=regular", "--json"]) == 0
    counted = json.loads(capsys.readouterr().out)
    assert counted["counts"] == {"present": 1}
