"""PlaneReader: pictures of three planes, one by one, in the directions of readers of images."""

from pathlib import Path

import numpy as np
import pytest
from conftest import index_of
from phantoms import write_secondary_capture, write_series

import dicomdl
from dicomdl.errors import UsageError
from dicomdl.volumes.plane_reader import PlaneReader

SHAPE = (6, 5, 7)


def reader_of(folder: Path) -> tuple[dicomdl.Stack, PlaneReader]:
    stack = index_of(folder).stacks[0]
    return stack, PlaneReader(stack)


def test_an_axial_stack_has_three_planes_with_their_sizes_in_mm(folder: Path) -> None:
    write_series(folder, shape=SHAPE, spacing=(2.0, 0.5, 0.25))
    planes = reader_of(folder)[1].planes
    sizes = {n: (p.count, p.rows, p.columns, p.width_mm, p.height_mm) for n, p in planes.items()}
    assert sizes == {
        "axial": (6, 5, 7, 1.75, 2.5),
        "coronal": (5, 6, 7, 1.75, 12),
        "sagittal": (7, 6, 5, 2.5, 12),
    }
    assert [name for name, plane in planes.items() if plane.is_native] == ["axial"]


@pytest.mark.parametrize("is_whole", [False, True])
def test_pictures_are_those_of_the_volume_before_and_after_it_is_loaded(
    folder: Path, is_whole: bool
) -> None:
    write_series(folder, shape=SHAPE)
    stack, reader = reader_of(folder)
    volume = dicomdl.read_volume(stack).array
    if is_whole:
        reader.load()
    assert reader.is_whole is is_whole
    for number in range(5):
        assert np.array_equal(reader.read("axial", number), volume[number])
        # Rows of coronal and sagittal pictures lead to Inferior: slices ascend to Superior.
        assert np.array_equal(reader.read("coronal", number), volume[::-1, number])
        assert np.array_equal(reader.read("sagittal", number), volume[::-1, :, number])


def test_a_sagittal_series_shows_its_slices_as_sagittal_pictures(folder: Path) -> None:
    write_series(folder, shape=SHAPE, orientation=(0, 1, 0, 0, 0, -1))
    stack, reader = reader_of(folder)
    volume = dicomdl.read_volume(stack).array
    assert reader.planes["sagittal"].is_native
    assert np.array_equal(reader.read("sagittal", 2), volume[2])


def test_labels_are_cut_as_the_values_are(folder: Path) -> None:
    write_series(folder, shape=SHAPE)
    stack, reader = reader_of(folder)
    volume = dicomdl.read_volume(stack).array
    assert np.array_equal(reader.cut(volume, "coronal", 3), reader.read("coronal", 3))


def test_an_image_without_orientation_has_one_plane(folder: Path) -> None:
    write_secondary_capture(folder / "capture.dcm")
    stack, reader = reader_of(folder)
    assert list(reader.planes) == [""]
    assert reader.read("", 0).shape[:2] == stack.shape[1:]


def test_the_crossing_of_planes_is_told_by_their_axes(folder: Path) -> None:
    write_series(folder, shape=SHAPE)
    _, reader = reader_of(folder)
    mark = np.zeros(SHAPE, np.uint8)
    mark[1, 2, 3] = 1
    for name, plane in reader.planes.items():
        row, column = np.argwhere(reader.cut(mark, name, (1, 2, 3)[plane.axis]))[0]
        place = [0, 0, 0]
        place[plane.axis] = (1, 2, 3)[plane.axis]
        place[plane.row_axis] = plane.rows - 1 - row if plane.turned[0] else row
        place[plane.column_axis] = plane.columns - 1 - column if plane.turned[1] else column
        assert place == [1, 2, 3]


def test_a_picture_that_does_not_exist_is_an_error(folder: Path) -> None:
    write_series(folder, shape=SHAPE)
    _, reader = reader_of(folder)
    for plane, number in (("axial", 6), ("axial", -1), ("oblique", 0)):
        with pytest.raises(UsageError, match="no picture"):
            reader.read(plane, number)
