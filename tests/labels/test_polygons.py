"""Polygons as masks: pixel centres, even-odd, half-open edges."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from dicomdl.labels._polygons import Edges

SHAPE = (1, 12, 14)
Polygon = Sequence[tuple[float, float]]
coordinate = st.integers(-20, 200).map(lambda n: n / 10 + 0.033)
polygon = st.lists(st.tuples(coordinate, coordinate), min_size=3, max_size=8)


def edges_of(*polygons: Polygon, planes: Sequence[int] | None = None) -> Edges:
    points = np.array([point for each in polygons for point in each], np.float64).reshape(-1, 2)
    starts = np.cumsum([0, *map(len, polygons)], dtype=np.int64)
    return Edges.of(points, starts, np.array(planes or [0] * len(polygons), np.int64))


def filled(*polygons: Polygon) -> NDArray[np.bool_]:
    return edges_of(*polygons).fill((0, 0, 0), SHAPE)[0]


def is_inside(row: float, column: float, points: Polygon) -> bool:
    """The ray from a point to the right crosses the polygon an odd number of times."""
    inside = False
    for (y0, x0), (y1, x1) in zip(points, [*points[1:], points[0]], strict=True):
        crosses = (y0 <= row) != (y1 <= row)
        if crosses and column < x0 + (row - y0) * (x1 - x0) / (y1 - y0):
            inside = not inside
    return inside


@pytest.mark.slow
@given(polygon)
def test_a_pixel_is_filled_if_its_centre_lies_inside(points: Polygon) -> None:
    found = filled(points)
    for row, column in np.ndindex(SHAPE[1:]):
        # A centre on an edge belongs to either side.
        near = {
            is_inside(row + dy, column + dx, points) for dy in (-1e-7, 1e-7) for dx in (-1e-7, 1e-7)
        }
        assert found[row, column] in near


def test_an_edge_through_centres_counts_on_one_side_only() -> None:
    left = filled([(2, 3), (2, 6), (5, 6), (5, 3)])
    right = filled([(2, 6), (2, 9), (5, 9), (5, 6)])
    assert left.sum() == 9
    assert not (left & right).any()
    assert np.array_equal(left | right, filled([(2, 3), (2, 9), (5, 9), (5, 3)]))


@pytest.mark.slow
@given(polygon, st.tuples(coordinate, coordinate), st.tuples(coordinate, coordinate))
def test_a_cut_divides_a_polygon_without_gap_or_overlap(
    points: Polygon, one: tuple[float, float], other: tuple[float, float]
) -> None:
    middle = len(points) // 2
    first = [*points[: middle + 1], one, other]
    second = [*points[middle:], points[0], other, one]
    assert np.array_equal(filled(first) ^ filled(second), filled(points))


def test_a_polygon_inside_another_is_a_hole_and_one_inside_that_an_island() -> None:
    square = [[(a, a), (a, 11 - a), (11 - a, 11 - a), (11 - a, a)] for a in (0.5, 2.5, 4.5)]
    outer, hole, island = (filled(each) for each in square)
    assert np.array_equal(filled(*square), outer & ~hole | island)


@pytest.mark.parametrize("width", [0.0, 0.1])
def test_a_keyhole_fills_the_ring_between_its_edges(width: float) -> None:
    outer = [(0.5, 0.5), (0.5, 10.5), (10.5, 10.5), (10.5, 0.5)]
    hole = [(3.5, 3.3), (7.5, 3.3), (7.5, 7.5), (3.5, 7.5)]
    # The channel runs from the corner of the outer square to that of the hole and back.
    back = (0.5 + width, 0.5)
    keyhole = [outer[0], *outer[1:], back, (3.5 + width, 3.3), *hole[1:], hole[0]]
    assert np.array_equal(filled(keyhole), filled(outer, hole))


@pytest.mark.slow
@given(polygon, st.tuples(st.integers(0, 11), st.integers(0, 13)), st.integers(1, 8))
def test_a_pixel_does_not_depend_on_the_block_that_it_is_filled_with(
    points: Polygon, corner: tuple[int, int], size: int
) -> None:
    start = (0, *corner)
    stop = (1, min(12, corner[0] + size), min(14, corner[1] + size))
    block = edges_of(points).fill(start, stop)
    whole = filled(points)
    assert np.array_equal(block[0], whole[corner[0] : stop[1], corner[1] : stop[2]])


def test_planes_are_filled_apart_and_empty_polygons_fill_nothing() -> None:
    square = [(1.5, 1.5), (1.5, 4.5), (4.5, 4.5), (4.5, 1.5)]
    planes = edges_of(square, [], square, planes=[0, 1, 2]).fill((0, 0, 0), (3, 12, 14))
    assert planes.sum(axis=(1, 2)).tolist() == [9, 0, 9]
    assert edges_of(planes=[]).fill((0, 0, 0), (1, 4, 4)).sum() == 0
