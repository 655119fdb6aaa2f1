"""Labels of datasets out of annotations and files."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import NewFolder
from phantoms import write_series
from phantoms_labels import contour, write_seg, write_structure_set

import dicomdl
from dicomdl.errors import AnnotationError, EmptySelection, UsageError

SHAPE = (5, 12, 14)


@pytest.fixture(scope="module")
def index(new_folder: NewFolder) -> dicomdl.Index:
    """One stack with a SEG and a structure set, and one without."""
    folder = new_folder()
    write_series(folder / "plain", shape=SHAPE, seed=3, patient_id="RAMP-2")
    image = write_series(folder / "ct", shape=SHAPE)[0]
    labels = np.random.default_rng(0).integers(0, 4, SHAPE, np.uint8)
    frames = [
        (k, (0, 0, 2.0 * z), (labels[z] == k).astype(np.uint8))
        for z in range(SHAPE[0])
        for k in (1, 2, 3)
    ]
    write_seg(folder / "seg.dcm", image, frames)
    square = np.array([(2.5, 1.5, 4), (9.5, 1.5, 4), (9.5, 8.5, 4), (2.5, 8.5, 4)])
    write_structure_set(folder / "rt.dcm", image, {"Heart": [contour(square)]})
    return dicomdl.scan(folder, folder.parent / "index", progress=False)


@pytest.mark.parametrize("kind", ["SEG", "RTSTRUCT"])
@pytest.mark.parametrize(
    "grid", [{}, {"orientation": "RAS"}, {"spacing": (1.5, 0.8, 1.3)}], ids=str
)
def test_patches_of_annotations_equal_those_of_the_whole_label_map(
    index: dicomdl.Index, kind: str, grid: dict[str, Any]
) -> None:
    part = index.select(has=kind)
    whole = dicomdl.read_labels(part.stacks[0], kind).array
    expected = dicomdl.PatchDataset(part, 6, sampler="grid", labels=lambda _: whole, **grid)
    found = dicomdl.PatchDataset(part, 6, sampler="grid", labels=kind, **grid)
    assert len(found) == len(expected) > 1
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one["label"], other["label"])
    assert any(sample["label"].any() for sample in found)


def test_stacks_without_the_annotation_are_left_out_and_listed(index: dicomdl.Index) -> None:
    with pytest.warns(UserWarning, match="no readable SEG"):
        patches = dicomdl.PatchDataset(index, 4, sampler="labels", labels="SEG")
    assert [(row.reason, row.stacks) for row in patches.left_out][-1] == ("no readable SEG", 1)
    assert {sample["patient_id"] for sample in patches} == {"RAMP-1"}


def test_the_reason_says_the_status_of_an_annotation_that_is_not_taken(
    new_folder: NewFolder,
) -> None:
    folder = new_folder()
    image = write_series(folder / "ct", shape=SHAPE)[0]
    write_seg(folder / "seg.dcm", image, [(1, (0, 0, 2), np.ones(SHAPE[1:], np.uint8))])
    image.unlink()
    found = dicomdl.scan(folder, folder.parent / "moved", progress=False)
    with pytest.raises(EmptySelection, match=r"no readable SEG \(other_reconstruction\)"):
        dicomdl.PatchDataset(found.select(content="image"), 4, sampler="labels", labels="SEG")


def test_a_source_is_a_value_that_pickles_and_reaches_workers(index: dicomdl.Index) -> None:
    source = dicomdl.LabelSource("SEG", segments={"both": [1, "part 3"]})
    assert pickle.loads(pickle.dumps(source)) == source
    assert source != dicomdl.LabelSource("SEG", segments={"one": [1]})
    assert len({source, dicomdl.LabelSource("SEG", segments={"both": [1, "part 3"]})}) == 1
    patches = dicomdl.PatchDataset(
        index.select(has="SEG"), 6, sampler="labels", labels=source, per_stack=4
    )
    patches.set_epoch(0)
    here = [sample["label"] for sample in patches]
    loader = torch.utils.data.DataLoader(patches, batch_size=1, num_workers=1)
    for batch, sample in zip(loader, here, strict=True):
        assert torch.equal(batch["label"][0], sample)
    assert set(np.unique(np.concatenate([sample.numpy().ravel() for sample in here]))) == {0, 1}


@pytest.mark.parametrize(
    "grid", [{}, {"orientation": "RAS"}, {"spacing": (1.5, 0.8, 1.3)}], ids=str
)
def test_patches_with_a_cache_equal_those_without(
    index: dicomdl.Index, tmp_path: Path, grid: dict[str, Any]
) -> None:
    part = index.select(has="SEG")
    options: dict[str, Any] = {"sampler": "labels", "labels": "SEG", "per_stack": 12, **grid}
    plain = dicomdl.PatchDataset(part, 4, **options)
    cached = dicomdl.PatchDataset(part, 4, cache=dicomdl.DiskCache(tmp_path / "cache"), **options)
    for one, other in zip(plain, cached, strict=True):
        assert torch.equal(one["location"], other["location"])
        assert torch.equal(one["label"], other["label"])
    volumes = dicomdl.VolumeDataset(part, labels="SEG", cache=tmp_path / "cache")
    assert np.array_equal(volumes[0]["label"], dicomdl.read_labels(part.stacks[0], "SEG").array)


@pytest.mark.slow
def test_the_middle_of_a_patch_has_the_label_that_was_drawn(index: dicomdl.Index) -> None:
    rare = dicomdl.PatchDataset(
        index.select(has="SEG"),
        1,
        sampler=dicomdl.Balanced({2: 1}),
        labels="SEG",
        per_stack=40,
        orientation="RAS",
    )
    assert all(int(sample["label"]) == 2 for sample in rare)
    assert len({tuple(sample["location"].tolist()) for sample in rare}) > 20


def test_a_pattern_names_a_mask_per_stack(index: dicomdl.Index, tmp_path: Path) -> None:
    part = index.select(has="SEG")
    stack = part.stacks[0]
    labels = dicomdl.read_labels(stack, "SEG")
    labels.save(tmp_path / f"{stack.series_instance_uid}.nii.gz")
    pattern = f"{tmp_path}/{{series_instance_uid}}.nii.gz"
    for one, other in zip(
        dicomdl.PatchDataset(part, 5, sampler="grid", labels=pattern),
        dicomdl.PatchDataset(part, 5, sampler="grid", labels="SEG"),
        strict=True,
    ):
        assert torch.equal(one["label"], other["label"])


@pytest.mark.parametrize("kind", ["SEG", "RTSTRUCT"])
def test_frames_have_the_labels_of_their_slice(index: dicomdl.Index, kind: str) -> None:
    with pytest.warns(UserWarning, match=f"no readable {kind}"):
        frames = dicomdl.FrameDataset(index, labels=kind)
    whole = dicomdl.read_labels(index.select(has=kind).stacks[0], kind).array
    assert len(frames) == SHAPE[0]
    for z, sample in enumerate(frames):
        assert np.array_equal(sample["label"], whole[z])
        assert sample["label"].shape == sample["image"].shape[1:]
    crossed = dicomdl.FrameDataset(index.select(has=kind), labels=kind, plane="coronal")
    found = np.stack([sample["label"] for sample in crossed])
    # Coronal frames go from front to back, and down from head to foot.
    assert np.array_equal(found, whole.transpose(1, 0, 2)[:, ::-1])
    with pytest.raises(UsageError, match="reduce= halves images"):
        dicomdl.FrameDataset(index, labels=kind, reduce=1)


def test_labels_of_frames_follow_their_images_to_another_size(index: dicomdl.Index) -> None:
    part = index.select(has="SEG")
    whole = dicomdl.read_labels(part.stacks[0], "SEG").array
    frames = dicomdl.FrameDataset(part, labels="SEG", size=(24, 28), intensity="modality")
    for z, sample in enumerate(frames):
        assert np.array_equal(sample["label"], np.kron(whole[z], np.ones((2, 2), int)))
        assert sample["label"].dtype == torch.uint8


@pytest.mark.parametrize(
    "grid",
    [{}, {"orientation": "RAS"}, {"spacing": (1.5, 0.8, 1.3)}, {"size": (4, 9, 9)}],
    ids=str,
)
def test_volumes_have_labels_at_their_own_voxels(
    index: dicomdl.Index, grid: dict[str, Any]
) -> None:
    part = index.select(has="SEG")
    labels = dicomdl.read_labels(part.stacks[0], "SEG")
    (sample,) = dicomdl.VolumeDataset(part, labels="SEG", **grid)
    geometry = dicomdl.Geometry(sample["image"].shape[1:], sample["affine"].numpy())
    expected = labels.resample_to(geometry, interpolation="nearest", fill=0).array
    assert np.array_equal(sample["label"], expected)
    assert sample["label"].any()


def test_labels_lie_right_in_volumes_whose_missing_slices_are_filled(folder: Path) -> None:
    shape = (6, 8, 9)
    images = write_series(folder / "ct", shape=shape, drop=(3,))
    masks = np.random.default_rng(1).integers(0, 2, shape, np.uint8)
    frames = [(1, (0, 0, 2.0 * z), masks[z]) for z in range(6) if z != 3]
    write_seg(folder / "seg.dcm", images[0], frames)
    index = dicomdl.scan(folder, folder.parent / "index", progress=False)
    (sample,) = dicomdl.VolumeDataset(
        index.select(has="SEG"), labels="SEG", irregular="resample", intensity="modality"
    )
    masks[3] = 0
    assert sample["filled"] == 1
    assert np.array_equal(sample["label"], masks)


def test_what_is_no_source_is_refused(index: dicomdl.Index) -> None:
    for word in ("RTDOSE", "seg"):
        with pytest.raises(UsageError, match=f"labels='{word}': expected one of SEG, RTSTRUCT"):
            dicomdl.PatchDataset(index, 4, labels=word)
    with pytest.raises(UsageError, match="labels is a int"):
        dicomdl.PatchDataset(index, 4, labels=3)  # type: ignore[arg-type]
    part = index.select(has="SEG")
    liver = dicomdl.LabelSource("SEG", segments=["liver"], on_missing="raise")
    with pytest.raises(
        AnnotationError, match=r"1 of 1 stacks lack labels.*name nothing in the SEG"
    ):
        dicomdl.PatchDataset(part, 4, labels=liver)
