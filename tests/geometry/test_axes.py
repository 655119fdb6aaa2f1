"""The order of axes: towards the named directions, for every grid, with the affine along."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dicomdl.errors import UsageError
from dicomdl.geometry.axes import AxisOrder, axes_along, axes_towards, checked_axes
from dicomdl.geometry.grid import Geometry

NAMES = [
    "".join(letters)
    for pairs in itertools.permutations(("LR", "PA", "SI"))
    for letters in itertools.product(*pairs)
]
ORDERS = [
    AxisOrder((a, b, c), flips)
    for (a, b, c), flips in itertools.product(
        itertools.permutations(range(3)), itertools.product((False, True), repeat=3)
    )
]
SHAPE = (3, 4, 5)
UNIT = {"L": (0, 1), "R": (0, -1), "P": (1, 1), "A": (1, -1), "S": (2, 1), "I": (2, -1)}


@pytest.mark.parametrize("name", NAMES)
def test_each_index_ascends_towards_its_direction(name: str) -> None:
    rng = np.random.default_rng(0)
    affine = np.eye(4)
    # Every axis lies within 30 degrees of one of the patient's.
    affine[:3, :3] = (np.eye(3) + rng.uniform(-0.25, 0.25, (3, 3)))[:, [2, 0, 1]] * (-3, 2, 1)
    grid = Geometry(SHAPE, affine)
    direction = axes_towards(grid, name).geometry(grid).direction
    for axis, letter in enumerate(name):
        world, sign = UNIT[letter]
        assert direction[world, axis] * sign > 0.7


@given(st.sampled_from(ORDERS), st.data())
def test_a_voxel_keeps_its_place_and_its_value_in_every_order(
    order: AxisOrder, data: st.DataObject
) -> None:
    rng = np.random.default_rng(1)
    affine = np.eye(4)
    affine[:3] = rng.normal(size=(3, 4))
    old = Geometry(SHAPE, affine)
    new = order.geometry(old)
    values = np.arange(60).reshape(SHAPE)
    voxels = np.argwhere(values >= 0).astype(np.int32)
    turned = order.voxels(voxels, new.shape)
    assert turned.dtype == np.int32
    assert np.allclose(new.voxel_to_world(turned), old.voxel_to_world(voxels))
    assert np.array_equal(order.view(values)[tuple(turned.T)], values[tuple(voxels.T)])
    start = [data.draw(st.integers(0, n - 1)) for n in new.shape]
    stop = [data.draw(st.integers(a + 1, n)) for a, n in zip(start, new.shape, strict=True)]
    begin, end = order.box((start[0], start[1], start[2]), (stop[0], stop[1], stop[2]), new.shape)
    box = tuple(slice(a, b) for a, b in zip(start, stop, strict=True))
    old_box = tuple(slice(a, b) for a, b in zip(begin, end, strict=True))
    assert np.array_equal(order.view(values)[box], order.view(values[old_box]))
    assert order.is_identity == (order == AxisOrder())


def test_axes_before_and_after_the_three_stay() -> None:
    values = np.arange(2 * 60 * 3).reshape(2, *SHAPE, 3)
    turned = AxisOrder((2, 0, 1), (True, False, False)).view(values, 1)
    assert np.array_equal(turned, values.transpose(0, 3, 1, 2, 4)[:, ::-1])
    assert np.shares_memory(turned, values)


def test_many_grids_at_once_get_the_axes_that_each_gets_alone() -> None:
    rng = np.random.default_rng(2)
    affines = np.tile(np.eye(4), (200, 1, 1))
    affines[:, :3, :3] = rng.normal(size=(200, 3, 3))
    grids = [Geometry(SHAPE, affine) for affine in affines]
    together = axes_along(np.stack([grid.direction for grid in grids]), "ras")
    assert together.tolist() == [list(axes_towards(grid, "RAS").axes) for grid in grids]


@pytest.mark.parametrize("wrong", ["", "RA", "RASS", "RLA", "XYZ", "RAX", 3, None])
def test_other_words_are_refused(wrong: str) -> None:
    with pytest.raises(UsageError, match="SPL"):
        checked_axes(wrong)
