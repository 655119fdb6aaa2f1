"""Tests of boxes and points between grids: against the pixels that they hold."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dicomdl.geometry.axes import axes_towards
from dicomdl.geometry.boxes import (
    clipped_boxes,
    map_between,
    map_of_scales,
    moved_boxes,
    moved_places,
    places_inside,
)
from dicomdl.geometry.grid import Geometry

SHAPE = (5, 7, 9)
GRID = Geometry(SHAPE, np.array([[0, 0, 1, 3], [0, -2, 0, 4], [-3, 0, 0, 5], [0, 0, 0, 1.0]]))


@st.composite
def boxes(draw: st.DrawFn) -> list[int]:
    """A box of whole voxels inside of `SHAPE`."""
    ends = [sorted(draw(st.lists(st.integers(0, n), min_size=2, max_size=2))) for n in SHAPE]
    ends = [[a, b] if a < b else [max(0, a - 1), max(0, a - 1) + 1] for a, b in ends]
    return [a for a, _ in ends] + [b for _, b in ends]


def voxels(box: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """A mask of the voxels in a box of whole voxels."""
    mask = np.zeros(shape, bool)
    a, b, c, d, e, f = np.rint(box).astype(int).tolist()
    mask[a:d, b:e, c:f] = True
    return mask


@given(box=boxes(), axes=st.sampled_from(["SPL", "IAR", "LPS", "RAS", "ASR", "PIL"]))
def test_a_box_holds_the_same_voxels_in_every_order_of_the_axes(box: list[int], axes: str) -> None:
    order = axes_towards(GRID, axes)
    new = order.geometry(GRID)
    (moved,) = moved_boxes(np.array([box], float), map_between(GRID, new))
    assert np.array_equal(
        voxels(moved, new.shape), order.view(voxels(np.array(box), SHAPE))
    ) and np.allclose(moved, np.rint(moved), atol=1e-9)


@given(
    box=boxes(),
    start=st.tuples(*[st.integers(-3, 6)] * 3),
    size=st.tuples(*[st.integers(1, 8)] * 3),
)
def test_a_clipped_box_holds_the_voxels_of_the_box_in_the_patch(
    box: list[int], start: tuple[int, int, int], size: tuple[int, int, int]
) -> None:
    patch = np.zeros(size, bool)
    for place in np.argwhere(voxels(np.array(box), SHAPE)) - start:
        if ((place >= 0) & (place < size)).all():
            patch[tuple(place)] = True
    moved = moved_boxes(np.array([box], float), map_of_scales(np.ones(3), np.array(start, float)))
    found, is_inside = clipped_boxes(moved, size)
    assert bool(is_inside[0]) == bool(patch.any())
    if len(found):
        assert np.array_equal(voxels(found[0], size), patch)


@given(
    box=boxes(),
    scale=st.tuples(*[st.floats(0.2, 5)] * 3),
    shift=st.tuples(*[st.floats(-4, 4)] * 3),
)
def test_scaled_boxes_scale_their_lengths_and_come_back(
    box: list[int], scale: tuple[float, ...], shift: tuple[float, ...]
) -> None:
    given_box = np.array([box], float)
    by = map_of_scales(np.array(scale), np.array(shift))
    moved = moved_boxes(given_box, by)
    lengths = (moved[:, 3:] - moved[:, :3]) / (given_box[:, 3:] - given_box[:, :3])
    assert np.allclose(lengths, scale) and np.allclose(moved_boxes(moved, np.linalg.inv(by)), box)
    corners = moved_places(given_box.reshape(2, 3) - 0.5, by) + 0.5
    assert np.allclose(moved.reshape(2, 3), corners)


@pytest.mark.parametrize("angle", [0.1, 0.8, 2.5])
def test_a_turned_box_holds_all_its_corners_and_touches_them(angle: float) -> None:
    by = np.eye(4)
    by[1:3, 1:3] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    box = np.array([[1, 2, 3, 2, 6, 5.0]])
    (moved,) = moved_boxes(box, by)
    corners = np.array([[z, y, x] for z in (1, 2) for y in (2, 6) for x in (3, 5)], float)
    turned = moved_places(corners - 0.5, by) + 0.5
    assert np.allclose(moved[:3], turned.min(axis=0)) and np.allclose(moved[3:], turned.max(axis=0))


def test_boxes_without_extent_and_places_beyond_the_border_are_outside() -> None:
    given_boxes = np.array([[0, 0, 0, 0], [-2, 0, 0, 3], [1, 1, 9, 9], [4, 4, 3, 5]], float)
    found, is_inside = clipped_boxes(given_boxes, (4, 4))
    assert is_inside.tolist() == [False, False, True, False] and found.tolist() == [[1, 1, 4, 4]]
    places = np.array([[-0.5, 3.5], [-0.51, 0], [0, 3.51], [1, 1]])
    assert places_inside(places, (4, 4)).tolist() == [True, False, False, True]
    assert clipped_boxes(np.zeros((0, 6)), SHAPE)[0].shape == (0, 6)
    assert moved_boxes(np.zeros((0, 6)), np.eye(4)).shape == (0, 6)
