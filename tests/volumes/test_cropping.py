"""Crops: the block that was asked for, with every voxel where it was."""

import numpy as np
import pytest
from phantoms import true_affine, true_volume

from dicomdl import Geometry, Volume
from dicomdl.errors import GeometryError, UsageError

SHAPE = (6, 9, 11)
OBLIQUE = (0.8, 0.6, 0.0, -0.36, 0.48, 0.8)


def oblique(**more: object) -> Volume:
    affine = true_affine((3, 0.5, 0.7), (-10, 20, 30), OBLIQUE)
    affine[:3, 0] += 0.2 * affine[:3, 1]
    return Volume(true_volume(SHAPE).astype(np.int32), Geometry(SHAPE, affine), "HU", **more)  # type: ignore[arg-type]


def value_at(volume: Volume, points: np.ndarray) -> np.ndarray:
    voxels = np.rint(volume.geometry.world_to_voxel(points)).astype(int)
    return volume.array[tuple(voxels.T)]


@pytest.mark.parametrize(
    "options",
    [
        {"slices": (1, 4), "rows": (2, -1), "columns": slice(3, None)},
        {"rows": slice(-4, -1)},
        {"mask": None},
        {},
    ],
)
def test_a_crop_moves_no_value_in_the_patient(options: dict[str, object]) -> None:
    volume = oblique()
    part = volume.crop(**options)  # type: ignore[arg-type]
    points = part.geometry.voxel_to_world(np.indices(part.shape).reshape(3, -1).T)
    assert np.array_equal(part.array.reshape(-1), value_at(volume, points))
    assert np.shares_memory(part.array, volume.array) and part.units == "HU"
    assert np.array_equal(part.direction, volume.direction)


def test_a_box_in_the_patient_keeps_the_voxels_that_it_touches() -> None:
    grid = Geometry(SHAPE, np.array([[0, 0, 1, 0], [0, 2, 0, 0], [5, 0, 0, 0], [0, 0, 0, 1.0]]))
    volume = Volume(true_volume(SHAPE), grid)
    part = volume.crop(box=((2.6, 3, 4), (4.4, 5.5, 9)))
    assert part.origin == (3, 4, 5) and part.shape == (2 - 1 + 1, 2, 2)
    turned = volume.crop(box=((4.4, 5.5, 9), (2.6, 3, 4)))
    assert turned.geometry == part.geometry
    assert volume.crop(box=((2, 4, 5), (2, 4, 5))).shape == (1, 1, 1)
    assert volume.crop(box=((-99, -99, -99), (99, 99, 99))).shape == SHAPE


@pytest.mark.parametrize("far", [100, -100])
def test_a_box_beside_the_volume_is_an_error(far: int) -> None:
    with pytest.raises(GeometryError, match="the box lies beside the volume"):
        oblique().crop(box=((far, far, far), (far, far, far)))


def test_a_mask_gives_its_bounding_box_and_a_margin_in_mm() -> None:
    volume = oblique()
    mask = np.zeros(SHAPE, np.uint8)
    mask[2, 3:5, 6] = 9
    assert volume.crop(mask=mask).shape == (1, 2, 1)
    # 1.1 mm are 0.4 slices of 3 mm, two rows of 0.5 mm and 1.6 columns of 0.7 mm.
    assert volume.crop(mask=volume.like(mask), margin=1.1).shape == (1, 2 + 2 * 2, 1 + 2 * 2)
    assert volume.crop(mask=mask > 0, margin=1000).shape == SHAPE


def test_an_empty_mask_cannot_be_cropped_to() -> None:
    with pytest.raises(GeometryError, match="the mask is empty"):
        oblique().crop(mask=np.zeros(SHAPE, bool))


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"slices": (3, 3)}, GeometryError),
        ({"rows": (0, 10)}, GeometryError),
        ({"rows": (-10, 3)}, GeometryError),
        ({"columns": slice(0, 4, 2)}, UsageError),
        ({"columns": (1, 2, 3)}, UsageError),
        ({"columns": 2}, UsageError),
        ({"columns": (0.5, 2)}, UsageError),
        ({"slices": (0, 1), "mask": np.ones(SHAPE, bool)}, UsageError),
        ({"margin": 2}, UsageError),
        ({"mask": np.ones(SHAPE, bool), "margin": -1}, UsageError),
        ({"mask": np.ones(SHAPE, bool), "margin": np.nan}, UsageError),
        ({"box": (1, 2, 3)}, UsageError),
        ({"box": ((1, 2, 3), (1, 2, np.nan))}, UsageError),
        ({"mask": np.ones((2, 2, 2), bool)}, GeometryError),
    ],
)
def test_a_block_that_cannot_be_is_refused(options: dict[str, object], error: type) -> None:
    with pytest.raises(error):
        oblique().crop(**options)  # type: ignore[arg-type]


def test_padding_filled_slices_and_time_points_are_cropped_along() -> None:
    filled = np.arange(6) == 3
    array = np.stack([true_volume(SHAPE), true_volume(SHAPE) + 1])
    volume = Volume(
        array,
        oblique().geometry,
        dimension=(1, 2),
        dimension_names=("echo_time",),
        filled=filled,
        padding=array % 2 == 0,
    )
    part = volume.crop((2, 5), columns=(1, 3))
    assert part.shape == (2, 3, 9, 2) and part.filled.tolist() == [False, True, False]
    assert part.padding is not None and np.array_equal(part.padding, part.array % 2 == 0)
    marked = np.zeros((2, *SHAPE), bool)
    marked[0, 1, 2, 3] = marked[1, 4, 2, 3] = True
    assert volume.crop(mask=marked).shape == (2, 4, 1, 1)


def test_slices_of_unknown_place_are_cropped_by_index() -> None:
    affine = np.full((4, 4), np.nan)
    volume = Volume(true_volume(SHAPE), Geometry(SHAPE, affine))
    assert volume.crop(rows=(2, 4)).shape == (6, 2, 11)
    with pytest.raises(GeometryError, match="no place in space"):
        volume.crop(box=((0, 0, 0), (1, 1, 1)))
    with pytest.raises(GeometryError, match="needs a spacing"):
        volume.crop(mask=np.ones(SHAPE, bool), margin=1)
