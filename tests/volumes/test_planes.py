"""Planes for pictures: the right side of the patient on the left, and true lengths."""

import itertools

import numpy as np
import pytest
from phantoms import true_affine

from dicomdl.errors import GeometryError, UsageError
from dicomdl.geometry.grid import Geometry
from dicomdl.volumes._planes import (
    View,
    chosen_view,
    corners_of,
    evenly_spaced,
    middle_of,
    native_view,
    views_of,
)

SHAPE = (4, 5, 6)
# LPS axis that grows across and down each picture, with its sign.
LEADS = {"axial": (0, 1, 1, 1), "coronal": (0, 1, 2, -1), "sagittal": (1, 1, 2, -1)}
SQUARE = (1.0, 1.0)


def grid(axes: tuple[int, ...], signs: tuple[int, ...], shear: float = 0.0) -> Geometry:
    """A grid whose index axes lead along axes of the patient, 3, 2 and 1 mm per step."""
    affine = np.eye(4)
    affine[:3, :3] = 0
    for index, (axis, sign) in enumerate(zip(axes, signs, strict=True)):
        affine[axis, index] = sign * (3, 2, 1)[index]
    affine[:3, 0] += shear * affine[:3, 1]
    return Geometry(SHAPE, affine)


@pytest.mark.parametrize("axes", list(itertools.permutations(range(3))))
@pytest.mark.parametrize("signs", list(itertools.product((1, -1), repeat=3)))
def test_each_plane_of_each_orientation_shows_the_patient_alike(
    axes: tuple[int, ...], signs: tuple[int, ...]
) -> None:
    geometry = grid(axes, signs)
    world = geometry.voxel_to_world(np.moveaxis(np.indices(SHAPE), 0, -1))
    views = views_of(geometry, SQUARE)
    assert list(views) == ["axial", "coronal", "sagittal"]
    for name, (across, right, down, below) in LEADS.items():
        picture = views[name].cut(world, 1)
        assert (np.diff(picture[..., across], axis=1) * right > 0).all()
        assert (np.diff(picture[..., down], axis=0) * below > 0).all()
        width, height = views[name].extent(SHAPE)
        assert width == pytest.approx(picture.shape[1] * abs(np.diff(picture[0, :2, across])[0]))
        assert height == pytest.approx(picture.shape[0] * abs(np.diff(picture[:2, 0, down])[0]))


@pytest.mark.parametrize("shear", [0.0, 0.3, -0.5])
def test_distances_in_a_picture_are_distances_in_the_patient(shear: float) -> None:
    geometry = grid((2, 1, 0), (1, 1, 1), shear)
    world = geometry.voxel_to_world(np.moveaxis(np.indices(SHAPE), 0, -1))
    for view in views_of(geometry, SQUARE).values():
        points = view.cut(world, 1)
        rows, columns = points.shape[:2]
        places = np.stack(np.meshgrid(np.arange(columns), np.arange(rows)), axis=-1)
        places = places @ view.steps.T
        for one, other in itertools.combinations(itertools.product(range(rows), range(columns)), 2):
            true = np.linalg.norm(points[one] - points[other])
            assert np.linalg.norm(places[one] - places[other]) == pytest.approx(true)


def test_an_oblique_grid_is_shown_by_its_nearest_planes() -> None:
    oblique = (0.9, 0.43588989, 0.0, -0.43588989, 0.9, 0.0)
    views = views_of(Geometry(SHAPE, true_affine((3, 2, 1), (0, 0, 0), oblique)), SQUARE)
    assert [view.axis for view in views.values()] == [0, 1, 2]


def test_a_single_slice_has_the_one_plane_that_it_lies_in() -> None:
    affine = np.array(grid((0, 2, 1), (1, -1, 1)).affine)
    affine[:3, 0] = np.nan
    views = views_of(Geometry((1, 5, 6), affine), SQUARE)
    assert list(views) == ["sagittal"]
    with pytest.raises(GeometryError, match="one sagittal slice"):
        chosen_view(views, "axial")


def test_slices_without_orientation_keep_the_spacing_that_is_known() -> None:
    views = views_of(Geometry(SHAPE, np.full((4, 4), np.nan)), (0.5, 0.25))
    assert native_view(views).extent(SHAPE) == (6 * 0.25, 5 * 0.5)
    squares = views_of(Geometry(SHAPE, np.full((4, 4), np.nan)), (np.nan, np.nan))
    assert native_view(squares).extent(SHAPE) == (6, 5)
    with pytest.raises(GeometryError, match="orientation of this volume is not known"):
        chosen_view(views, "coronal")


def test_a_plane_that_does_not_exist_is_refused() -> None:
    with pytest.raises(UsageError, match="expected one of 'axial', 'coronal', 'sagittal'"):
        chosen_view(views_of(grid((2, 1, 0), (1, 1, 1)), SQUARE), "transverse")


def test_the_default_plane_is_that_of_the_slices() -> None:
    views = views_of(grid((0, 2, 1), (1, -1, 1)), SQUARE)
    assert chosen_view(views, None).name == "sagittal"


def test_pictures_lie_in_the_middle_or_where_a_mask_is_the_largest() -> None:
    assert middle_of(SHAPE, None) == middle_of(SHAPE, np.zeros(SHAPE)) == (2, 2, 3)
    mask = np.zeros(SHAPE, np.int16)
    mask[0, 4, 1:5] = 7
    mask[3, 4, 5] = -1
    assert middle_of(SHAPE, mask) == (0, 4, 1)


def test_corners_are_the_edges_of_the_outer_pixels() -> None:
    corners = corners_of(np.array([[2.0, 0.0], [0.0, 3.0]]), rows=4, columns=5)
    assert np.ptp(corners, axis=0).tolist() == [10, 12] and corners.min(axis=0).tolist() == [
        -1,
        -1.5,
    ]


@pytest.mark.parametrize(
    ("length", "count", "expected"), [(9, 3, [0, 4, 8]), (2, 9, [0, 1]), (1, 1, [0]), (7, 1, [0])]
)
def test_pictures_are_evenly_spaced(length: int, count: int, expected: list[int]) -> None:
    assert evenly_spaced(length, count) == expected


def test_a_view_of_colour_keeps_its_samples() -> None:
    view = View("", 0, 1, 2, (True, False), np.eye(2))
    colour = np.arange(24).reshape(1, 2, 4, 3)
    assert np.array_equal(view.cut(colour, 0), colour[0, ::-1])
