"""`read_labels`: labels of an object as a volume on the grid of a stack."""

from pathlib import Path

import numpy as np
import pytest
from conftest import index_of
from phantoms import write_series
from phantoms_labels import contour, write_seg, write_structure_set

import dicomdl
from dicomdl.errors import AnnotationError, UsageError
from dicomdl.index.views import Stack
from dicomdl.labels.read import OverlapWarning

SHAPE = (3, 8, 9)
# Rows 2 to 5 and columns 1 to 6 of the phantom, whose pixels are 1 mm apart.
SQUARE = np.array([(0.5, 1.5, 2), (6.5, 1.5, 2), (6.5, 5.5, 2), (0.5, 5.5, 2)])


@pytest.fixture
def image(folder: Path) -> Path:
    return write_series(folder / "ct", shape=SHAPE)[0]


@pytest.fixture
def stack(folder: Path, image: Path) -> Stack:
    return index_of(folder / "ct").stacks[0]


def test_contours_are_a_volume_with_names_on_the_grid_of_the_stack(
    folder: Path, image: Path, stack: Stack
) -> None:
    path = write_structure_set(folder / "rt.dcm", image, {"A": [], "Heart": [contour(SQUARE)]})
    labels = dicomdl.read_labels(stack, path)
    assert (labels.dtype, labels.names) == (np.uint8, {1: "A", 2: "Heart"})
    assert np.array_equal(labels.affine, stack.affine)
    expected = np.zeros(SHAPE, np.uint8)
    expected[1, 2:6, 1:7] = 2
    assert np.array_equal(labels.array, expected)


def test_channels_keep_labels_that_overlap_and_a_map_warns(
    folder: Path, image: Path, stack: Stack
) -> None:
    mask = np.zeros(SHAPE[1:], np.uint8)
    mask[2:5] = 1
    frames = [(1, (0, 0, 2), mask), (300, (0, 0, 2), mask.copy())]
    path = write_seg(folder / "seg.dcm", image, frames, segments={1: "A", 300: "B"})
    with pytest.warns(OverlapWarning, match="27 voxels have several labels"):
        labels = dicomdl.read_labels(stack, path)
    assert labels.dtype == np.int16
    assert np.array_equal(labels.array[1], np.where(mask, 300, 0))
    channels = dicomdl.read_labels(stack, path, channels=True)
    assert channels.dimension == ("A", "B")
    assert np.array_equal(channels.array[:, 1], [mask, mask])


def test_what_cannot_be_read_as_labels_is_refused_with_the_file(
    folder: Path, image: Path, stack: Stack
) -> None:
    path = write_structure_set(folder / "rt.dcm", image, {"Heart": [contour(SQUARE)]})
    with pytest.raises(UsageError, match="segments= is no option for a RTSTRUCT") as failure:
        dicomdl.read_labels(stack, path, segments=[1])
    assert failure.value.__notes__ == [f"file: {path}"]
    with pytest.raises(UsageError, match="label_dtype=float32: expected integers that hold"):
        dicomdl.read_labels(stack, path, label_dtype=np.float32)
    with pytest.raises(UsageError, match="expected 'nearest' or 'exact'"):
        dicomdl.read_labels(stack, path, align="linear")  # type: ignore[arg-type]

    def as_plan(dataset: object, _: int) -> None:
        dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.481.5"  # type: ignore[attr-defined]

    plan = write_structure_set(folder / "plan.dcm", image, {}, edit=as_plan)
    with pytest.raises(AnnotationError, match="RTPLAN: expected a SEG or an RTSTRUCT"):
        dicomdl.read_labels(stack, plan)
