"""What an object annotates, and what nobody did: `Volume.unlabelled`."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import index_of
from numpy.typing import NDArray
from phantoms import item, write_series
from phantoms_labels import contour, write_seg, write_structure_set
from pydicom import dcmread
from pydicom.sequence import Sequence as DicomSequence

import dicomdl
from dicomdl.index.views import Stack

SHAPE = (6, 8, 9)
MASK = np.ones(SHAPE[1:], np.uint8)


@pytest.fixture
def images(folder: Path) -> list[Path]:
    return write_series(folder / "ct", shape=SHAPE)


@pytest.fixture
def stack(folder: Path, images: list[Path]) -> Stack:
    return index_of(folder / "ct").stacks[0]


def refers_to(images: list[Path]) -> Any:
    """An edit that names instances in the only Series that a SEG refers to."""

    def edit(dataset: Any, _: int) -> None:
        instances = [
            item(ReferencedSOPInstanceUID=dcmread(each, stop_before_pixels=True).SOPInstanceUID)[0]
            for each in images
        ]
        dataset.ReferencedSeriesSequence[0].ReferencedInstanceSequence = DicomSequence(instances)

    return edit


def slices_of(mask: NDArray[Any] | None) -> list[int]:
    """The slices that are unlabelled as a whole; the others must be labelled as a whole."""
    assert mask is not None and mask.shape == SHAPE
    assert (mask.any(axis=(1, 2)) == mask.all(axis=(1, 2))).all()
    return np.flatnonzero(mask.any(axis=(1, 2))).tolist()


@pytest.mark.quick(3)
@pytest.mark.parametrize("by_index", [False, True])
@pytest.mark.parametrize(
    ("named", "unlabelled"), [([0, 3], [2, 4, 5]), ([0, 1, 2, 3, 4, 5], []), ([], [])]
)
def test_slices_that_a_seg_refers_to_are_background_where_it_has_no_frame(
    folder: Path, images: list[Path], named: list[int], unlabelled: list[int], by_index: bool
) -> None:
    frames = [(1, (0, 0, 2.0), MASK)]
    edit = refers_to([images[z] for z in named])
    path = write_seg(folder / "seg.dcm", images[0], frames, edit=edit)
    index = index_of(folder)
    (stack,) = (each for each in index.stacks if each.content == "image")
    labels = dicomdl.read_labels(stack, "SEG" if by_index else path)
    assert np.flatnonzero(labels.array.any(axis=(1, 2))).tolist() == [1]
    # Without instances the whole Series is meant.
    assert slices_of(labels.unlabelled) == unlabelled


def test_a_frame_beside_the_named_slices_covers_its_own_pixels(
    folder: Path, images: list[Path], stack: Stack
) -> None:
    frames = [(1, (2.0, 3.0, 4.0), MASK[:4, :5])]
    path = write_seg(folder / "seg.dcm", images[0], frames, edit=refers_to(images[:1]))
    expected = np.ones(SHAPE, np.bool_)
    expected[0] = expected[2, 3:7, 2:7] = False
    assert np.array_equal(dicomdl.read_labels(stack, path).unlabelled, expected)
    # Pixels of 2 mm between slices: one grid is sampled for the other.
    frames = [(1, (0.5, 0.5, 4.4), MASK[:2, :2])]
    path = write_seg(
        folder / "coarse.dcm", images[0], frames, pixel_spacing=(2, 2), edit=refers_to(images[:1])
    )
    expected = np.ones(SHAPE, np.bool_)
    expected[0] = expected[2, :4, :4] = False
    assert np.array_equal(dicomdl.read_labels(stack, path).unlabelled, expected)


def test_a_structure_set_covers_the_slices_of_its_images_and_of_all_its_contours(
    folder: Path, images: list[Path], stack: Stack
) -> None:
    square = np.array([(0.5, 1.5, 2), (6.5, 1.5, 2), (6.5, 5.5, 2), (0.5, 5.5, 2)])
    rois = {"Heart": [contour(square)], "Lung": [contour(square + np.array([0, 0, 6]))]}
    path = write_structure_set(folder / "rt.dcm", images[0], rois)
    labels = dicomdl.read_labels(stack, path, rois=["Heart"])
    assert slices_of(labels.unlabelled) == [0, 2, 3, 5]

    def name_all(dataset: Any, _: int) -> None:
        uids = [dcmread(each, stop_before_pixels=True) for each in images[:3]]
        series = item(
            SeriesInstanceUID=uids[0].SeriesInstanceUID,
            ContourImageSequence=DicomSequence(
                item(ReferencedSOPInstanceUID=each.SOPInstanceUID)[0] for each in uids
            ),
        )
        study = item(RTReferencedSeriesSequence=series)
        dataset.ReferencedFrameOfReferenceSequence = item(RTReferencedStudySequence=study)

    path = write_structure_set(folder / "named.dcm", images[0], rois, edit=name_all)
    assert slices_of(dicomdl.read_labels(stack, path).unlabelled) == [3, 5]


def test_a_file_covers_its_own_field_of_view(folder: Path, stack: Stack) -> None:
    ones = dicomdl.Volume(np.ones(SHAPE, np.uint8), stack.geometry)
    ones.crop(slices=(1, 4), columns=(2, 9)).save(folder / "part.nii.gz")
    labels = dicomdl.read_labels(stack, folder / "part.nii.gz")
    expected = np.ones(SHAPE, np.bool_)
    expected[1:4, :, 2:] = False
    assert np.array_equal(labels.unlabelled, expected)
    assert np.array_equal(labels.array == 0, expected)
    ones.save(folder / "whole.nii.gz")
    assert not dicomdl.read_labels(stack, folder / "whole.nii.gz").unlabelled.any()


def test_an_empty_mask_elsewhere_is_refused_with_the_distance(folder: Path, stack: Stack) -> None:
    affine = stack.affine
    affine[:3, 3] += 500
    empty = dicomdl.Volume(np.zeros(SHAPE, np.uint8), dicomdl.Geometry(SHAPE, affine))
    empty.save(folder / "empty.nii.gz")
    with pytest.raises(dicomdl.DicomdlError, match=r"does not touch the stack.* 866 mm apart"):
        dicomdl.read_labels(stack, folder / "empty.nii.gz")


def test_what_is_unlabelled_goes_along_to_other_grids(
    folder: Path, images: list[Path], stack: Stack
) -> None:
    frames = [(1, (0, 0, 2.0), MASK)]
    path = write_seg(folder / "seg.dcm", images[0], frames, edit=refers_to(images[:3]))
    labels = dicomdl.read_labels(stack, path)
    expected = np.broadcast_to(np.arange(6)[:, None, None] > 2, SHAPE)
    assert np.array_equal(labels.unlabelled, expected)
    assert np.array_equal(labels.crop(slices=(2, 5)).unlabelled, expected[2:5])
    turned = labels.reorient("RAS")
    assert np.array_equal(turned.unlabelled, _turned(labels))
    finer = labels.resample((1.0, 1.0, 1.0), interpolation="nearest")
    assert np.array_equal(finer.unlabelled, np.repeat(expected, 2, axis=0))
    affine = stack.affine
    affine[:3, 3] -= affine[:3, 0]
    moved = labels.resample_to(dicomdl.Geometry(SHAPE, affine), interpolation="nearest", fill=0)
    # A slice before the stack is unlabelled.
    assert slices_of(moved.unlabelled) == [0, 4, 5]
    assert labels.like(labels.array).unlabelled is None
    with pytest.raises(dicomdl.DicomdlError, match="`unlabelled` is"):
        dicomdl.Volume(labels.array, labels.geometry, unlabelled=expected[1:])


def _turned(labels: dicomdl.Volume) -> NDArray[Any]:
    """What is unlabelled, turned as a label map of its own."""
    assert labels.unlabelled is not None
    return labels.like(labels.unlabelled.astype(np.uint8)).reorient("RAS").array.astype(np.bool_)
