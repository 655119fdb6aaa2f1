"""Exports to nnU-Net v2: what its own check accepts, with our affines, labels and folds."""

import json
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from conftest import NewFolder, index_of
from phantoms import true_affine, write_series
from phantoms_labels import write_seg

import dicomdl
from dicomdl.cli.main import main
from dicomdl.errors import UsageError
from dicomdl.index.own_scans import record
from dicomdl.jobs.exports.export import export
from dicomdl.jobs.exports.exported import ExportWarning

NAME = "Dataset501_Phantom"
RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
PATIENTS = 6


def write_patient(folder: Path, number: int, *, segments: dict[int, str], **options: Any) -> None:
    """Write a CT and a SEG with one slice per segment."""
    paths = write_series(
        folder / "ct", patient_id=f"P{number}", seed=number, intercept=-1024, **options
    )
    frames = []
    for segment in segments:
        mask = np.zeros((5, 7), np.uint8)
        mask[1:3, 2:6] = 1
        frames.append((segment, (0, 0, 2.0 * segment), mask))
    write_seg(folder / "seg.dcm", paths[0], frames, segments=segments)


@pytest.fixture(scope="module")
def index(new_folder: NewFolder) -> dicomdl.Index:
    folder = new_folder()
    for number in range(PATIENTS):
        # Each SEG numbers its segments on its own.
        names = {1: "liver", 2: "tumour"} if number % 2 else {1: "tumour", 2: "liver"}
        write_patient(folder / str(number), number, segments=names)
    return index_of(folder).select(modality="CT")


def exported(index: dicomdl.Index, out: Path, **options: Any) -> Any:
    defaults = {"labels": "SEG", "name": NAME, "progress": False}
    return export(index, "nnunet", out, **defaults | options)


def told(out: Path, file: str = "dataset.json") -> Any:
    return json.loads((out / NAME / file).read_text())


def require_integrity(out: Path) -> None:
    """Run nnU-Net's own check of a data set, where it is installed."""
    check = pytest.importorskip(
        "nnunetv2.experiment_planning.verify_dataset_integrity", exc_type=ImportError
    )
    check.verify_dataset_integrity(str(out / NAME), num_processes=1)


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".nii.gz", ".mha"])
def test_the_check_of_nnunet_accepts_a_set(
    index: dicomdl.Index, tmp_path: Path, suffix: str
) -> None:
    exported(index, tmp_path / "out", suffix=suffix)
    require_integrity(tmp_path / "out")


@pytest.mark.slow
def test_images_and_labels_have_the_values_and_the_affine_of_the_stack(
    index: dicomdl.Index, tmp_path: Path
) -> None:
    done = exported(index, tmp_path / "out")
    affine = (RAS @ true_affine((2.0, 1.0, 1.0)))[:, [2, 1, 0, 3]]
    for entry in done.entries:
        stack = index.stack(entry["stacks"][0])
        folder = tmp_path / "out" / NAME
        image = nibabel.load(folder / "imagesTr" / f"{entry['name']}_0000.nii.gz")  # type: ignore[attr-defined]
        label = nibabel.load(folder / "labelsTr" / f"{entry['name']}.nii.gz")  # type: ignore[attr-defined]
        assert np.array_equal(np.asarray(image.dataobj).T, dicomdl.read_volume(stack).array)
        assert image.get_data_dtype() == np.int16
        assert np.allclose(image.affine, affine, atol=1e-6)
        assert np.array_equal(image.affine, label.affine)
        expected = dicomdl.read_labels(stack, "SEG")
        names = {number: name for name, number in told(tmp_path / "out")["labels"].items()}
        found = np.asarray(label.dataobj).T
        for number, name in expected.names.items():
            assert np.array_equal(found == number_of(names, name), expected.array == number)


def number_of(names: dict[int, str], name: str) -> int:
    (number,) = (number for number, other in names.items() if other == name)
    return number


@pytest.mark.slow
def test_labels_are_consecutive_and_the_same_in_all_cases(
    index: dicomdl.Index, tmp_path: Path
) -> None:
    exported(index, tmp_path / "out")
    content = told(tmp_path / "out")
    assert content["labels"] == {"background": 0, "liver": 1, "tumour": 2}
    assert content["channel_names"] == {"0": "CT"}
    assert (content["numTraining"], content["file_ending"]) == (PATIENTS, ".nii.gz")


def test_folds_are_those_of_our_split(index: dicomdl.Index, tmp_path: Path) -> None:
    split = index.split(k=3, seed=2)
    done = exported(index, tmp_path / "out", split=split)
    case = {entry["stacks"][0]: entry["name"] for entry in done.entries}
    folds = told(tmp_path / "out", "splits_final.json")
    assert len(folds) == 3
    for fold, (train, val) in zip(folds, split.folds(), strict=True):
        assert fold["train"] == sorted(case[n] for n in train.stacks.numbers.tolist())
        assert fold["val"] == sorted(case[n] for n in val.stacks.numbers.tolist())


def test_without_a_split_there_are_five_folds_by_patient(
    index: dicomdl.Index, tmp_path: Path
) -> None:
    exported(index, tmp_path / "out")
    folds = told(tmp_path / "out", "splits_final.json")
    assert len(folds) == 5
    assert sorted(name for fold in folds for name in fold["val"]) == sorted(
        path.name.partition("_")[0]
        for path in (tmp_path / "out" / NAME / "imagesTr").glob("*.nii.gz")
    )


def test_the_test_part_is_apart(index: dicomdl.Index, tmp_path: Path) -> None:
    done = exported(index, tmp_path / "out", split=(0.5, 0.25, 0.25))
    names = {part: set[str]() for part in ("train", "val", "test")}
    for entry in done.entries:
        names[entry["split"]].add(entry["name"])
    folder = tmp_path / "out" / NAME
    assert {p.name for p in (folder / "imagesTs").iterdir()} == {
        f"{name}_0000.nii.gz" for name in names["test"]
    }
    assert told(tmp_path / "out")["numTraining"] == PATIENTS - len(names["test"])
    (fold,) = told(tmp_path / "out", "splits_final.json")
    assert (set(fold["train"]), set(fold["val"])) == (names["train"], names["val"])


@pytest.mark.slow
def test_masks_that_overlap_become_regions(index: dicomdl.Index, tmp_path: Path) -> None:
    labels = dicomdl.LabelSource("SEG", channels=True)
    exported(index, tmp_path / "out", labels=labels)
    content = told(tmp_path / "out")
    assert content["labels"]["background"] == 0
    assert sorted(map(str, content["labels"].values())) == ["0", "[1, 3]", "[2, 3]"]
    assert content["regions_class_order"] == [1, 2]
    require_integrity(tmp_path / "out")


def test_voxels_that_nobody_annotated_are_ignored(index: dicomdl.Index, tmp_path: Path) -> None:
    labels = dicomdl.LabelSource("SEG", unlabelled=True)
    exported(index, tmp_path / "out", labels=labels)
    assert told(tmp_path / "out")["labels"] == {
        "background": 0,
        "liver": 1,
        "tumour": 2,
        "ignore": 3,
    }
    path = next((tmp_path / "out" / NAME / "labelsTr").iterdir())
    assert set(np.unique(sitk.GetArrayFromImage(sitk.ReadImage(path)))) <= {0, 1, 2, 3}


def test_mapped_values_are_not_normalised_again(index: dicomdl.Index, tmp_path: Path) -> None:
    exported(index, tmp_path / "out", intensity="ct.lung")
    assert told(tmp_path / "out")["channel_names"] == {"0": "noNorm"}


@pytest.mark.slow
def test_images_of_a_pairing_are_channels_on_one_grid(tmp_path: Path) -> None:
    for number in range(2):
        folder = tmp_path / "in" / str(number)
        shared = {"patient_id": f"P{number}", "study_uid": f"2.25.9{number}"}
        shared["frame_of_reference"] = f"2.25.8{number}"
        write_series(folder / "ct", seed=number, intercept=-1024, **shared)
        write_series(
            folder / "pt", seed=number + 9, modality="PT", spacing=(4.0, 2.0, 2.0), **shared
        )
    index = dicomdl.scan(tmp_path / "in", tmp_path / "index", progress=False)
    done = exported(
        index,
        tmp_path / "out",
        channels=dicomdl.Pairing({"ct": {"modality": "CT"}, "pet": {"modality": "PT"}}),
        labels=lambda stack: np.ones(stack.shape, np.uint8),
        suv="if_possible",
    )
    assert told(tmp_path / "out")["channel_names"] == {"0": "CT", "1": "pet"}
    assert told(tmp_path / "out")["labels"] == {"background": 0, "label_1": 1}
    folder = tmp_path / "out" / NAME / "imagesTr"
    for entry in done.entries:
        first, second = (
            nibabel.load(folder / f"{entry['name']}_000{n}.nii.gz")  # type: ignore[attr-defined]
            for n in range(2)
        )
        assert first.shape == second.shape and np.array_equal(first.affine, second.affine)
    require_integrity(tmp_path / "out")


def test_a_tilted_stack_is_refused_or_made_regular(tmp_path: Path) -> None:
    write_series(tmp_path / "in", shear=(0.4, 0))
    index = dicomdl.scan(tmp_path / "in", tmp_path / "index", progress=False)
    labels = lambda stack: np.ones(stack.shape, np.uint8)
    with pytest.raises(UsageError, match="no sample was written"):
        exported(index, tmp_path / "out", labels=labels)
    done = exported(index, tmp_path / "regular", labels=labels, irregular="resample")
    assert done.ok
    image = nibabel.load(next((tmp_path / "regular" / NAME / "imagesTr").iterdir()))  # type: ignore[attr-defined]
    axes = image.affine[:3, :3] / np.linalg.norm(image.affine[:3, :3], axis=0)
    assert np.allclose(axes.T @ axes, np.eye(3), atol=1e-6)


def test_a_set_without_labels_or_a_name_of_nnunet_is_refused(
    index: dicomdl.Index, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="nnU-Net needs labels"):
        exported(index, tmp_path / "out", labels=None)
    with pytest.raises(UsageError, match="nnU-Net needs a name such as 'Dataset501_Lung'"):
        exported(index, tmp_path / "out", name="lung")
    assert not (tmp_path / "out").exists()


def test_the_command_exports_a_set(
    index: dicomdl.Index, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record(index.path, index.generation)
    given = ["export", index.path, "--to", "nnunet", "-o", str(tmp_path / "out")]
    given += ["--where", "modality=CT", "--labels", "SEG"]
    assert main(given) == 2
    assert "--name" in capsys.readouterr().err
    assert main([*given, "--name", NAME, "--folds", "2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["counts"] == {"train": PATIENTS}
    assert len(told(tmp_path / "out", "splits_final.json")) == 2


@pytest.mark.parametrize("to", ["nnunet", "webdataset"])
def test_labels_that_overlap_are_told_once(tmp_path: Path, to: Any) -> None:
    for number in range(2):
        (image, *_) = write_series(tmp_path / f"in/{number}", patient_id=f"P{number}", seed=number)
        mask = np.ones((5, 7), np.uint8)
        both = (1, 2) if number else (1,)
        frames = [(segment, (0, 0, 2.0), mask) for segment in both]
        write_seg(tmp_path / f"in/{number}/s.dcm", image, frames, segments={1: "a", 2: "b"})
    index = index_of(tmp_path / "in").select(modality="CT")
    with pytest.warns(ExportWarning, match="1 sample: labels overlap") as told:
        done = export(index, to, tmp_path / "out", labels="SEG", name=NAME, progress=False)
    assert len(told) == 1
    assert list(done.remarks.values()) == [1]
    assert "each got the last one" in repr(done)
