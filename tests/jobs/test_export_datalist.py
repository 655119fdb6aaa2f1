"""Exports to a datalist of MONAI: images, labels and the list that its loader takes."""

import json
import time
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from conftest import NewFolder, index_of
from phantoms import true_affine, write_series

import dicomdl
from dicomdl.errors import UsageError

PATIENTS = 4
RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


@pytest.fixture(scope="module")
def index(new_folder: NewFolder) -> dicomdl.Index:
    folder = new_folder()
    for number in range(PATIENTS):
        write_series(folder / str(number), patient_id=f"P{number}", seed=number)
    index = index_of(folder)
    return index.join(
        {"PatientID": [f"P{n}" for n in range(PATIENTS)], "grade": [0, 1, 1, 0]}, on="PatientID"
    )


def upper(stack: dicomdl.Stack) -> Any:
    """Return the label map of a stack: 2 in the upper half of its slices."""
    label = np.zeros(stack.shape, np.uint8)
    label[: len(label) // 2] = 2
    return label


def exported(index: dicomdl.Index, out: Path, **options: Any) -> Any:
    done = dicomdl.export(index, "datalist", out, progress=False, **options)
    return done, json.loads((out / "dataset.json").read_text())


@pytest.mark.slow
def test_parts_are_the_lists_of_monai(index: dicomdl.Index, tmp_path: Path) -> None:
    split = index.split((0.5, 0.25, 0.25), seed=1)
    _, told = exported(index, tmp_path / "out", split=split, labels=upper)
    for name, part in zip(("training", "validation", "test"), split, strict=True):
        assert {item["series_instance_uid"] for item in told[name]} == {
            stack.series_instance_uid for stack in part.stacks
        }
    assert told["labels"] == {"0": "background", "1": "label_1", "2": "label_2"}
    item = told["training"][0]
    label = nibabel.load(tmp_path / "out" / item["label"])  # type: ignore[attr-defined]
    assert np.array_equal(np.asarray(label.dataobj).T, upper(index.stacks[0]))


@pytest.mark.slow
def test_folds_are_told_per_item(index: dicomdl.Index, tmp_path: Path) -> None:
    split = index.split(k=2, seed=1)
    _, told = exported(index, tmp_path / "out", split=split)
    fold = {s.series_instance_uid: n for n, part in enumerate(split) for s in part.stacks}
    assert {i["series_instance_uid"]: i["fold"] for i in told["training"]} == fold


def test_classes_are_the_labels_of_a_list_without_label_maps(
    index: dicomdl.Index, tmp_path: Path
) -> None:
    _, told = exported(index, tmp_path / "out", target="grade")
    assert [item["label"] for item in told["training"]] == [0, 1, 1, 0]


@pytest.mark.slow
def test_the_loader_of_monai_reads_images_at_their_places(
    index: dicomdl.Index, tmp_path: Path
) -> None:
    data = pytest.importorskip("monai.data")
    transforms = pytest.importorskip("monai.transforms")
    exported(index, tmp_path / "out", labels=upper)
    items = data.load_decathlon_datalist(str(tmp_path / "out" / "dataset.json"), True, "training")
    load = transforms.LoadImaged(["image", "label"], ensure_channel_first=True)
    for item, stack in zip(items, index.stacks, strict=True):
        sample = load(item)
        expected = dicomdl.read_volume(stack).array
        assert np.array_equal(sample["image"][0].numpy().T, expected)
        affine = (RAS @ true_affine((2.0, 1.0, 1.0)))[:, [2, 1, 0, 3]]
        assert np.allclose(sample["image"].affine.numpy(), affine)
        assert np.array_equal(sample["label"][0].numpy().T, upper(stack))


def test_images_of_a_pairing_are_a_list_of_files(tmp_path: Path) -> None:
    shared = {"patient_id": "P1", "study_uid": "2.25.9", "frame_of_reference": "2.25.8"}
    write_series(tmp_path / "in" / "ct", **shared)  # type: ignore[arg-type]
    write_series(tmp_path / "in" / "mr", modality="MR", seed=1, **shared)  # type: ignore[arg-type]
    index = dicomdl.scan(tmp_path / "in", tmp_path / "index", progress=False)
    pairing = dicomdl.Pairing({"ct": {"modality": "CT"}, "mr": {"modality": "MR"}})
    _, told = exported(index, tmp_path / "out", channels=pairing)
    (item,) = told["training"]
    assert told["modality"] == {"0": "ct", "1": "mr"}
    assert len(item["image"]) == 2
    assert all((tmp_path / "out" / path).is_file() for path in item["image"])


def test_files_of_volumes_hold_no_float16(index: dicomdl.Index, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="hold no float16"):
        exported(index, tmp_path / "out", dtype="float16")


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd", ".mha"])
def test_files_have_no_times(
    index: dicomdl.Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    done, _ = exported(index, tmp_path / "a", suffix=suffix)
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 1e6)
    assert exported(index, tmp_path / "b", suffix=suffix)[0].entries == done.entries
