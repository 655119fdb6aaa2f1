"""Regular grids for slices with holes or uneven gaps."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from phantoms import slice_normal, true_affine

from dicomdl.errors import GeometryError
from dicomdl.geometry.grid import Geometry, Tolerances
from dicomdl.geometry.regular import RegularSlices, is_worth_filling, regular_slices
from dicomdl.geometry.verdict import assess

OBLIQUE = (0.8, 0.6, 0.0, -0.36, 0.48, 0.8)
DEFAULT = Tolerances()


def made(
    places: np.ndarray, shear: tuple[float, float] = (0, 0), shape: tuple[int, int] = (3, 4)
) -> tuple[str, RegularSlices]:
    """Return the verdict on slices at `places` along the normal, mm, and their regular grid.

    `shear` is the in-plane shift in mm per mm along the normal.
    """
    orientation = np.array(OBLIQUE)
    step = slice_normal(orientation) + shear[0] * orientation[:3] + shear[1] * orientation[3:]
    positions = np.array([5.0, 6.0, 7.0]) + np.asarray(places, dtype=float)[:, None] * step
    found = assess(positions, orientation, np.array([0.5, 0.7]), Tolerances())
    return found.verdict, regular_slices(
        positions, Geometry((len(places), *shape), found.affine), found.verdict, Tolerances()
    )


@given(
    kept=st.sets(st.integers(1, 28), min_size=16, max_size=27),
    spacing=st.floats(0.3, 9),
    shear=st.sampled_from([(0, 0), (0.1, 0.3), (0, -0.4)]),
)
@settings(max_examples=60)
def test_missing_slices_come_back_as_filled_and_all_others_stay_what_they_are(
    kept: set[int], spacing: float, shear: tuple[float, float]
) -> None:
    numbers = np.array([0, *sorted(kept), 29])
    verdict, grid = made(numbers * spacing, shear)
    assert verdict == "missing_slices"
    assert grid.geometry.shape == (30, 3, 4)
    assert np.array_equal(np.flatnonzero(~grid.filled), numbers)
    assert np.allclose(
        grid.geometry.affine[:3, 0],
        true_affine((spacing, 1, 1), shear=np.array(shear) * spacing, orientation=OBLIQUE)[:3, 0],
    )
    values = grid.values(np.broadcast_to((numbers * 7.0)[:, None, None], (len(numbers), 3, 4)))
    assert np.allclose(values[:, 0, 0], np.arange(30) * 7.0)


@given(
    gaps=st.lists(st.integers(60, 900), min_size=2, max_size=40),
    shear=st.sampled_from([(0, 0), (0.2, 0.3)]),
)
# The last slice lies exactly the tolerance before a slice of the grid.
@example(gaps=[60, 60, 60, 118, 160, 841, 900, 900, 900], shear=(0.2, 0.3))
@settings(max_examples=100)
def test_uneven_slices_are_put_on_the_grid_of_the_median_gap_and_nothing_is_extrapolated(
    gaps: list[int], shear: tuple[float, float]
) -> None:
    places = np.concatenate([[0], np.cumsum(gaps)]) / 100
    verdict, grid = made(places, shear)
    if verdict != "uneven_spacing":
        return
    median = float(np.median(gaps)) / 100
    normal = slice_normal(OBLIQUE)
    there = np.arange(grid.geometry.shape[0]) * median
    assert float(grid.geometry.affine[:3, 0] @ normal) == pytest.approx(median)
    assert places[-1] - median < there[-1] <= places[-1] + 0.01 + 1e-9
    values = grid.values((53 * places)[:, None, None].repeat(3, 1).repeat(4, 2))[:, 0, 0]
    # A slice within 0.01 mm of a slice of the grid is taken unchanged.
    assert np.abs(values - 53 * there).max() <= 53 * 0.01 + 1e-9
    assert (values >= 0).all() and (values <= 53 * places[-1]).all()
    assert np.allclose(values[grid.filled], 53 * there[grid.filled])


def test_a_slice_at_its_place_is_kept_and_only_the_others_are_marked() -> None:
    verdict, grid = made(np.array([0, 3, 6, 9, 12, 17, 22, 27]))
    assert verdict == "uneven_spacing"
    # Slices at 0, 3, ..., 27 mm.
    assert grid.geometry.shape[0] == 10
    assert np.flatnonzero(~grid.filled).tolist() == [0, 1, 2, 3, 4, 9]


def test_integers_are_rounded_and_keep_their_dtype() -> None:
    _, grid = made(np.array([0, 1, 2, 3, 5, 6]))
    slices = np.zeros((6, 3, 4), np.int16)
    slices[3], slices[4] = 3, 6
    assert grid.values(slices).dtype == np.int16
    # 4.5 is rounded to even.
    assert (grid.values(slices)[4] == 4).all()
    extremes = np.full((6, 3, 4), np.iinfo(np.int32).min, np.int32)
    extremes[4:] = np.iinfo(np.int32).max
    assert np.abs(grid.values(extremes)[4].astype(np.int64)).max() <= 1


def test_labels_are_taken_from_within_half_a_slice_and_are_background_elsewhere() -> None:
    _, grid = made(np.array([0, 1, 2, 3.3, 4, 7, 7.7, 9]))
    labels = np.arange(1, 9, dtype=np.uint8)[:, None, None].repeat(3, 1).repeat(4, 2)
    assert grid.labels(labels)[:, 0, 0].tolist() == [1, 2, 3, 4, 5, 0, 0, 6, 7, 8]
    assert grid.labels(labels).dtype == np.uint8


def test_a_gap_a_million_times_the_median_is_refused_with_numbers() -> None:
    with pytest.raises(GeometryError) as caught:
        made(np.array([0, 0.05, 0.11, 0.16, 9e5]), shape=(512, 512))
    assert caught.value.voxels > caught.value.limit


def straight(
    places: list[float],
    step: float = 1,
    shape: tuple[int, int] = (3, 4),
    tolerances: Tolerances = DEFAULT,
) -> RegularSlices:
    """Return the regular grid of unevenly spaced slices along z, at `places` steps: no rounding."""
    affine = np.eye(4)[[2, 1, 0, 3]] * [step, 1, 1, 1]
    positions = np.array(places)[:, None] * affine[:3, 0]
    geometry = Geometry((len(places), *shape), affine)
    return regular_slices(positions, geometry, "uneven_spacing", tolerances)


def test_labels_half_a_slice_away_are_taken() -> None:
    grid = straight([0, 1, 2.5, 3.5])
    labels = np.arange(1, 5, dtype=np.uint8)[:, None, None].repeat(3, 1).repeat(4, 2)
    assert grid.labels(labels)[:, 0, 0].tolist() == [1, 2, 3, 3]


def test_a_slice_exactly_at_the_tolerance_is_taken_unchanged_and_one_beyond_is_not() -> None:
    # 0.5 mm of 8 mm is 1/16 of a step, which floats hold exactly.
    tolerances = Tolerances(same_position_mm=0.5)
    at = straight([0, 1, 2 - 1 / 16, 3, 4, 5], 8, tolerances=tolerances)
    assert at.fraction.tolist() == [0] * 6 and at.lower.tolist() == [0, 1, 2, 3, 4, 5]
    beyond = straight([0, 1, 2 - 1 / 8, 3, 4, 5], 8, tolerances=tolerances)
    assert np.flatnonzero(beyond.filled).tolist() == [2]


def test_no_tolerance_takes_a_slice_unchanged_that_is_a_tenth_of_the_spacing_away() -> None:
    grid = straight([0, 1, 2, 2.85, 4, 5], tolerances=Tolerances(same_position_mm=1))
    assert np.flatnonzero(grid.filled).tolist() == [3]


def test_the_largest_grid_is_computed_and_one_slice_more_is_refused() -> None:
    # 2^30 voxels per slice; the limit is 2^33. Nothing of that size is allocated.
    shape = (2**15, 2**15)
    assert straight([0, 1, 2, 4, 5, 6, 7], shape=shape).geometry.shape == (8, *shape)
    with pytest.raises(GeometryError) as caught:
        straight([0, 1, 2, 4, 5, 6, 8], shape=shape)
    assert (caught.value.voxels, caught.value.limit) == (9 * 2**30, 2**33)


@pytest.mark.parametrize(
    ("detail", "expected"),
    [
        ({}, True),
        ({"spacing": 100.0, "median_gap": 1.0, "missing": 3}, True),
        ({"spacing": 2.25, "median_gap": 1.0}, True),
        ({"spacing": 2.26, "median_gap": 1.0}, False),
        ({"spacing": 4.5, "median_gap": 2.0}, True),
        ({"spacing": 4.6, "median_gap": 2.0}, False),
        # Gaps below a nanometre count as one.
        ({"spacing": 2.2e-6, "median_gap": 0.0}, True),
        ({"spacing": 2.4e-6, "median_gap": 0.0}, False),
    ],
)
def test_filling_is_worth_up_to_twice_as_many_slices(
    detail: dict[str, float], expected: bool
) -> None:
    # Five slices, so ten of the grid.
    assert is_worth_filling(5, detail) is expected
