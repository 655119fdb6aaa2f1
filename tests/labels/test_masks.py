"""Masks in files on the grid of a stack: through the affine, whatever the order of the axes."""

from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import SimpleITK
from conftest import NewFolder, index_of
from phantoms import write_series

import dicomdl
from dicomdl.errors import AnnotationError, StorageError, UsageError
from dicomdl.index.views import Stack

SHAPE = (4, 6, 7)


@pytest.fixture(scope="module")
def stack(new_folder: NewFolder) -> Stack:
    folder = new_folder()
    write_series(folder / "ct", shape=SHAPE, spacing=(2.5, 0.8, 0.7), origin=(10, -20, 30))
    return index_of(folder / "ct").stacks[0]


@pytest.fixture
def labels() -> Any:
    return np.random.default_rng(0).integers(0, 5, SHAPE, np.uint8)


def nifti(path: Path, array: Any, affine: Any) -> Path:
    nibabel.save(nibabel.Nifti1Image(array, affine), path)
    return path


def test_a_dtype_that_lacks_negative_labels_is_refused(folder: Path, stack: Stack) -> None:
    labels = np.full(stack.shape, -1, np.int16)
    to_ras = np.diag([-1.0, -1, 1, 1]) @ stack.affine
    path = nifti(folder / "mask.nii.gz", labels, to_ras)
    with pytest.raises(UsageError, match=r"label_dtype=uint8: .* hold the labels -1 to -1"):
        dicomdl.read_labels(stack, path, label_dtype=np.uint8)
    assert np.array_equal(dicomdl.read_labels(stack, path, label_dtype=np.int8).array, labels)


@pytest.mark.parametrize("axes", ["RAS", "LPS", "SPL", "AIR", "PSR"])
def test_a_nifti_mask_of_any_order_of_axes_lies_where_the_image_lies(
    tmp_path: Path, stack: Stack, labels: Any, axes: str
) -> None:
    # nibabel turns the mask: the file has another order of its axes and another affine.
    to_ras = np.diag([-1.0, -1, 1, 1]) @ stack.affine
    image = nibabel.Nifti1Image(labels, to_ras)
    start = nibabel.orientations.io_orientation(to_ras)
    turn = nibabel.orientations.ornt_transform(
        start, nibabel.orientations.axcodes2ornt(tuple(axes))
    )
    nibabel.save(image.as_reoriented(turn), tmp_path / "mask.nii.gz")
    found = dicomdl.read_labels(stack, tmp_path / "mask.nii.gz")
    assert np.array_equal(found.array, labels)
    assert found.names == {1: "1", 2: "2", 3: "3", 4: "4"}
    assert np.array_equal(found.affine, stack.affine)


@pytest.mark.parametrize("name", ["mask.nrrd", "mask.mha"])
def test_masks_of_simpleitk_are_read_too(
    tmp_path: Path, stack: Stack, labels: Any, name: str
) -> None:
    image = dicomdl.Volume(labels, stack.geometry).to_sitk()
    SimpleITK.WriteImage(SimpleITK.Flip(image, (True, False, True)), str(tmp_path / name))
    assert np.array_equal(dicomdl.read_labels(stack, tmp_path / name).array, labels)


def test_a_pattern_names_the_file_of_each_stack(tmp_path: Path, stack: Stack, labels: Any) -> None:
    to_ras = np.diag([-1.0, -1, 1, 1]) @ stack.affine
    nifti(tmp_path / f"{stack.series_instance_uid}.nii", labels, to_ras)
    found = dicomdl.read_labels(stack, f"{tmp_path}/{{series_instance_uid}}.nii")
    assert np.array_equal(found.array, labels)
    with pytest.raises(UsageError, match=r"\{series\} in a pattern: expected one of patient_id"):
        dicomdl.read_labels(stack, "{series}.nii")
    with pytest.raises(StorageError):
        dicomdl.read_labels(stack, f"{tmp_path}/{{patient_id}}.nii")


def test_what_is_no_mask_of_the_image_is_refused(tmp_path: Path, stack: Stack, labels: Any) -> None:
    to_ras = np.diag([-1.0, -1, 1, 1]) @ stack.affine
    far = to_ras.copy()
    far[2, 3] += 500
    with pytest.raises(AnnotationError, match="no label of the mask lies in the stack"):
        dicomdl.read_labels(stack, nifti(tmp_path / "far.nii", labels, far))
    fractions = nifti(tmp_path / "fractions.nii", labels / np.float32(2), to_ras)
    with pytest.raises(AnnotationError, match="holds fractions"):
        dicomdl.read_labels(stack, fractions)
    nowhere = nibabel.Nifti1Image(labels, None)
    nibabel.save(nowhere, tmp_path / "nowhere.nii")
    with pytest.raises(AnnotationError, match="states no positions"):
        dicomdl.read_labels(stack, tmp_path / "nowhere.nii")


def test_a_mask_whose_axes_lie_in_one_plane_is_refused(
    tmp_path: Path, stack: Stack, labels: Any
) -> None:
    image = nibabel.Nifti1Image(labels, None)
    image.header.set_sform(np.diag([0.0, 1, 1, 1]), 1)
    nibabel.save(image, tmp_path / "mask.nii.gz")
    with pytest.raises(AnnotationError, match="axes of this grid lie in one plane"):
        dicomdl.read_labels(stack, tmp_path / "mask.nii.gz")


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_further_axes_of_length_one_say_nothing(
    tmp_path: Path, stack: Stack, labels: Any, axes: int
) -> None:
    to_ras = np.diag([-1.0, -1, 1, 1]) @ stack.affine
    more = labels.reshape(*labels.shape, *(1,) * axes)
    found = dicomdl.read_labels(stack, nifti(tmp_path / "mask.nii.gz", more, to_ras))
    assert np.array_equal(found.array, labels)


def test_a_mask_of_one_time_point_in_another_format_is_read(
    tmp_path: Path, stack: Stack, labels: Any
) -> None:
    image = SimpleITK.JoinSeries([dicomdl.Volume(labels, stack.geometry).to_sitk()])
    SimpleITK.WriteImage(image, str(tmp_path / "mask.nrrd"))
    found = dicomdl.read_labels(stack, tmp_path / "mask.nrrd")
    assert np.array_equal(found.array, labels)


@pytest.mark.parametrize("shape", [(2,), (1, 2)])
def test_a_mask_of_several_volumes_stays_an_error(
    tmp_path: Path, stack: Stack, labels: Any, shape: tuple[int, ...]
) -> None:
    to_ras = np.diag([-1.0, -1, 1, 1]) @ stack.affine
    more = np.broadcast_to(labels.reshape(*labels.shape, *(1 for _ in shape)), (*SHAPE, *shape))
    with pytest.raises(AnnotationError, match="expected three axes"):
        dicomdl.read_labels(stack, nifti(tmp_path / "mask.nii.gz", more, to_ras))


def test_a_mask_of_floats_with_whole_numbers_is_one(
    tmp_path: Path, stack: Stack, labels: Any
) -> None:
    to_ras = np.diag([-1.0, -1, 1, 1]) @ stack.affine
    path = nifti(tmp_path / "mask.nii", labels.astype(np.float32), to_ras)
    found = dicomdl.read_labels(stack, path)
    assert found.dtype == np.uint8
    assert np.array_equal(found.array, labels)
