"""Verdicts at the borders of their tolerances, with numbers that floats hold exactly.

`test_grid` has the verdicts themselves, properties, and a second opinion.
"""

import math
from typing import Any, get_args

import numpy as np
import pytest
from numpy.typing import NDArray

from dicomdl.errors import GeometryError
from dicomdl.geometry.grid import Tolerances, plane_axes
from dicomdl.geometry.verdict import (
    EVENLY_SPACED,
    FILLABLE,
    READABLE,
    VERDICTS,
    Assessment,
    Verdict,
    assess,
    has_geometry,
    idc_checks,
    number_slices,
)

AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
Floats = NDArray[np.float64]
DEFAULT = Tolerances()
TIGHT = Tolerances(spacing_fraction=0, spacing_mm=0, in_plane_mm=0, tilt=0)


def judge(
    positions: Any,
    tolerances: Tolerances = DEFAULT,
    orientation: Any = AXIAL,
    pixel_spacing: Any = (0.7, 0.8),
) -> Assessment:
    found = [np.asarray(values, dtype=float) for values in (positions, orientation, pixel_spacing)]
    return assess(found[0], found[1], found[2], tolerances)


def along_z(*z: float) -> Floats:
    return np.array([[-100.0, -90.0, value] for value in z])


def known(
    position: Any = (0, 0, 0), orientation: Any = AXIAL, spacing: Any = (1, 1), unit: float = 1e-2
) -> tuple[bool, bool]:
    """Return whether one frame has geometry, by `has_geometry` and by `assess`."""
    tolerances = Tolerances(unit=unit)
    arrays = [np.array([values], dtype=float) for values in (position, orientation, spacing)]
    mask = has_geometry(arrays[0], arrays[1], arrays[2], tolerances)
    assert mask.shape == (1,) and mask.dtype == bool
    verdict = judge(arrays[0], tolerances, orientation, spacing).verdict
    return bool(mask[0]), verdict != "no_geometry"


def test_the_sets_of_verdicts_are_verdicts() -> None:
    assert sorted(VERDICTS) == sorted(get_args(Verdict))
    assert {"regular", "tilted"} == EVENLY_SPACED == READABLE - {"single"}
    assert {"missing_slices", "uneven_spacing"} == FILLABLE
    assert set(VERDICTS) - READABLE - FILLABLE == {"duplicates", "no_geometry"}


# --- what has geometry ----------------------------------------------------------------------------


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("sign", [-1, 1])
def test_a_position_is_possible_up_to_a_kilometre_away(axis: int, sign: int) -> None:
    position = np.zeros(3)
    position[axis] = sign * 1e6
    assert known(position=position) == (True, True)
    position[axis] = sign * (1e6 + 1)
    assert known(position=position) == (False, False)


@pytest.mark.parametrize("number", [0, 1])
def test_a_pixel_is_possible_from_a_picometre_to_ten_metres(number: int) -> None:
    possible = {9999.0: True, 1e4: False, 1.5e-9: True, 1e-9: False, 0.0: False, -1.0: False}
    for size, expected in possible.items():
        spacing = [1.0, 1.0]
        spacing[number] = size
        assert known(spacing=spacing) == (expected, expected)


def test_a_thickness_is_the_step_of_one_slice_from_a_picometre_to_a_kilometre() -> None:
    for thickness, known in ((1.5e-9, True), (1e-9, False), (0.9e6, True), (1e6, False)):
        found = assess(np.zeros((1, 3)), np.array(AXIAL), np.ones(2), DEFAULT, thickness)
        assert found.detail == {"step": "SliceThickness" if known else "unknown, 1 mm"}
        assert found.affine[:3, 0].tolist() == [0, 0, thickness if known else 1]


@pytest.mark.parametrize(
    ("orientation", "expected"),
    [
        ((1.5, 0, 0, 0, 1, 0), True),
        ((1.51, 0, 0, 0, 1, 0), False),
        ((0, 0, 0.5, 0, 1, 0), True),
        ((0, 0, 0.49, 0, 1, 0), False),
        ((0, 1, 0, 1.5, 0, 0), True),
        ((0, 1, 0, 0, 0, 1.51), False),
        ((0, 1, 0, 0, 0, 0.49), False),
        # The scalar product is exactly the tolerance, by each of its three terms.
        ((1, 0, 0, 0.5, 1, 0), True),
        ((1, 0, 0, 0.51, 1, 0), False),
        ((1, 0, 0, -0.5, 1, 0), True),
        ((0, 1, 0, 1, 0.51, 0), False),
        ((0, 1, 0, 1, -0.51, 0), False),
        ((0, 0, 1, 1, 0, 0.5), True),
        ((0, 0, 1, 1, 0, 0.51), False),
        # The square of a huge cosine has no float.
        ((1e200, 0, 0, 0, 1, 0), False),
        ((1, 0, 0, 0, 1, math.nan), False),
        ((1, 0, 0, 0, 1, math.inf), False),
    ],
)
def test_cosines_are_repaired_up_to_the_tolerance_itself(orientation: Any, expected: bool) -> None:
    assert known(orientation=orientation, unit=0.5) == (expected, expected)


def test_repaired_axes_are_perpendicular_unit_vectors_in_the_plane_of_the_cosines() -> None:
    rough = np.array([0, 1.25, 0, 0, 0.25, -1.25])
    axes = plane_axes(rough, Tolerances(unit=0.5))
    assert axes is not None
    np.testing.assert_allclose(axes, [[0, 1, 0], [0, 0, -1], [-1, 0, 0]], atol=1e-15)


def test_slices_without_a_plane_have_no_numbers() -> None:
    with pytest.raises(GeometryError, match="perpendicular unit vectors"):
        number_slices(along_z(0, 1), np.zeros(6), Tolerances())


# --- one position or two --------------------------------------------------------------------------


def test_positions_are_one_up_to_the_tolerance_itself() -> None:
    tolerances = Tolerances(same_position_mm=0.5)
    assert judge(along_z(0, 0.5, 8, 16), tolerances).detail["repeated_positions"] == 1
    assert judge(along_z(0, 0.51, 8, 16), tolerances).verdict == "uneven_spacing"
    assert judge(along_z(0, 0.5), tolerances).verdict == "duplicates"
    assert judge(along_z(0, 0.51), tolerances).verdict == "regular"


def test_positions_closer_than_a_tenth_of_the_median_gap_are_one() -> None:
    # 0.1 mm is the median gap, so that 0.01 mm is the limit although the tolerance is larger.
    tolerances = Tolerances(same_position_mm=0.05)
    axial = np.array(AXIAL)
    for near, repeated in ((0.009, True), (0.011, False)):
        z = along_z(0, 0.1, 0.1 + near, 0.2 + near, 0.3 + near)
        numbers = number_slices(z, axial, tolerances)
        assert numbers.tolist() == ([0, 1, 1, 2, 3] if repeated else [0, 1, 2, 3, 4])


def test_every_repetition_is_counted() -> None:
    found = judge(along_z(0, 0, 2, 2, 2, 4))
    assert found.detail == {
        "repeated_positions": 3,
        "pixels": "unchecked",
        "spacing": 2.0,
        "position_error": 0.0,
    }


# --- numbers in the detail ------------------------------------------------------------------------


def test_numbers_are_rounded_to_a_nanometre_and_angles_to_four_digits() -> None:
    even = judge(along_z(0, 10 / 3, 20 / 3, 10))
    assert even.detail["spacing"] == 3.333333
    jitter = judge(along_z(0, 1 + 0.1 / 3, 2, 3))
    assert jitter.detail["position_error"] == 0.033333
    tilted = judge([[0, z / 7, z] for z in range(4)])
    assert tilted.detail["tilt_deg"] == round(math.degrees(math.atan(1 / 7)), 4)
    uneven = judge(along_z(0, 1 / 3, 1, 2 + 1 / 7))
    assert (
        uneven.detail["smallest_gap"],
        uneven.detail["median_gap"],
        uneven.detail["largest_gap"],
    ) == (0.333333, 0.666667, 1.142857)
    beside = along_z(0, 2, 4, 6, 8)
    beside[2, 0] += 1 / 3
    assert judge(beside).detail["in_plane_error"] == 0.333333
    aside = along_z(0, 2, 4, 6, 8)
    aside[4, 1] += 0.2 / 3
    assert judge(aside).detail["off_axis"] == 0.066667


def test_a_distance_from_the_slice_axis_counts_from_a_thousandth_of_a_millimetre() -> None:
    for aside, told in ((0.0009, False), (0.0015, True)):
        positions = along_z(0, 2, 4, 6, 8)
        positions[1, 0] += aside
        assert ("off_axis" in judge(positions).detail) is told


def test_a_distance_from_the_line_replaces_that_from_the_axis() -> None:
    positions = along_z(0, 2, 4, 6, 8)
    positions[2, 0] += 0.5
    assert "off_axis" not in judge(positions).detail


def test_three_slices_are_confirmed_and_two_are_not() -> None:
    assert judge(along_z(0, 2)).detail == {
        "spacing": 2.0,
        "position_error": 0.0,
        "unconfirmed": True,
    }
    assert "unconfirmed" not in judge(along_z(0, 2, 4)).detail
    assert judge(along_z(0, 0, 2)).detail["unconfirmed"] is True


# --- the slice axis -------------------------------------------------------------------------------


def test_a_nanometre_beside_the_axis_is_the_rounding_of_decimals() -> None:
    for aside, verdict in ((0.9e-6, "regular"), (1.5e-6, "tilted")):
        assert judge([[0, 0, 0], [aside, 0, 1]], TIGHT).verdict == verdict


def test_a_tilt_of_exactly_its_tolerance_is_none() -> None:
    # A sine of 0.6 exactly: 3, 4, 5.
    positions = [[0, 3.0 * k, 4.0 * k] for k in range(3)]
    at = judge(positions, Tolerances(tilt=0.6))
    assert at.verdict == "regular" and "tilt_deg" not in at.detail
    assert at.affine[:3, 0].tolist() == [0, 3, 4]
    above = judge(np.array(positions) + 7, Tolerances(tilt=0.59)).detail
    assert above == {"spacing": 4.0, "position_error": 0.0, "tilt_deg": 36.8699}


def test_the_normal_goes_through_the_middle_slice() -> None:
    for count in (2, 3, 4, 5):
        positions = np.array([[0.01 * k, -0.02 * k, 10 + 2.0 * k] for k in range(count)])
        found = judge(positions)
        middle = count // 2
        np.testing.assert_allclose(found.affine[:3, 0], [0, 0, 2], atol=1e-12)
        np.testing.assert_allclose(
            found.affine[:3, 3], [0.01 * middle, -0.02 * middle, 10], atol=1e-12
        )


def test_a_line_up_to_twice_the_tolerance_away_is_moved_to_the_middle_of_the_positions() -> None:
    tolerances = Tolerances(in_plane_mm=0.5)
    for aside, verdict in ((0.5, "regular"), (1.0, "regular"), (1.01, "uneven_spacing")):
        positions = along_z(0, 2, 4, 6, 8)
        positions[2, 0] += aside
        found = judge(positions, tolerances)
        assert found.verdict == verdict
        assert ("in_plane_error" in found.detail) is (verdict == "uneven_spacing")
    # No line is within 0.5 mm of positions 0.6 mm to both sides.
    positions = along_z(0, 2, 4, 6, 8)
    positions[1, 0] += 0.6
    positions[3, 0] -= 0.6
    assert judge(positions, tolerances).detail["in_plane_error"] == pytest.approx(0.6)


def test_holes_are_looked_for_on_a_line_only() -> None:
    positions = along_z(0, 2, 4, 8, 10, 12)
    assert judge(positions).verdict == "missing_slices"
    positions[2, 1] += 0.5
    assert judge(positions, Tolerances(in_plane_mm=0.5)).verdict == "missing_slices"
    found = judge(positions)
    assert found.verdict == "uneven_spacing"
    assert "missing" not in found.detail


# --- the grid -------------------------------------------------------------------------------------


def test_a_position_may_be_wrong_by_the_tolerance_itself() -> None:
    tolerances = Tolerances(spacing_mm=0.5)
    found = judge(along_z(0, 8.5, 16), tolerances)
    assert (found.verdict, found.detail["position_error"]) == ("regular", 0.5)


def test_another_origin_and_spacing_halve_an_error_of_up_to_twice_the_tolerance() -> None:
    tolerances = Tolerances(spacing_mm=0.5)
    found = judge(along_z(0, 8.98, 16), tolerances)
    assert (found.verdict, found.detail["position_error"]) == ("regular", 0.98)
    assert judge(along_z(0, 9.02, 16), tolerances).verdict == "uneven_spacing"
    # The best line leaves 0.75 of these 0.98 mm.
    assert judge(along_z(0, 8.98, 16, 24, 31.02, 40), tolerances).verdict == "uneven_spacing"


@pytest.mark.parametrize("sign", [1, -1])
def test_the_best_spacing_is_looked_for_below_and_above_the_mean_one(sign: int) -> None:
    # Against the mean spacing, the second and the last but one position are wrong by 4 mm. A
    # spacing that is 4/7 mm smaller or larger leaves 16/7 = 2.29 mm.
    z = 40.0 * np.arange(9)
    z[1] += sign * 4
    z[7] -= sign * 4
    for limit, verdict in ((2.3, "regular"), (2.27, "uneven_spacing")):
        assert judge(along_z(*z), Tolerances(spacing_mm=limit)).verdict == verdict


# --- holes ----------------------------------------------------------------------------------------


def test_holes_are_fewer_than_slices() -> None:
    # Four slices with three holes, and with four.
    assert judge(along_z(0, 1, 2, 6)).detail["missing"] == 3
    assert judge(along_z(0, 1, 2, 7)).verdict == "uneven_spacing"


def test_the_smallest_gap_that_repeats_is_the_spacing() -> None:
    found = judge(along_z(0, 4, 6, 8, 14, 18))
    assert found.verdict == "missing_slices"
    assert (found.detail["missing"], found.detail["missing_after"]) == (4, [0, 3, 4])
    assert found.detail["spacing"] == 2.0
    np.testing.assert_allclose(found.affine[:3, 0], [0, 0, 2])


def test_a_single_gap_below_those_that_repeat_is_no_spacing() -> None:
    assert judge(along_z(0, 2, 4, 6, 7)).verdict == "uneven_spacing"
    assert judge(along_z(0, 3, 6, 7, 10)).verdict == "uneven_spacing"


def test_gaps_repeat_within_twice_the_tolerance_of_a_position() -> None:
    # 0.1 mm per position, so 0.2 mm per gap.
    assert judge(along_z(0, 2, 4.15, 8.2, 10.2)).verdict == "missing_slices"
    assert judge(along_z(0, 2, 6.0, 8.35)).verdict == "uneven_spacing"


def test_gaps_that_differ_by_exactly_twice_the_tolerance_repeat() -> None:
    found = judge(along_z(0, 8, 16.5, 32.5), Tolerances(spacing_mm=0.25))
    assert (found.verdict, found.detail["spacing"]) == ("missing_slices", 8.125)


def test_a_gap_that_is_no_multiple_is_no_hole() -> None:
    assert judge(along_z(0, 2, 4, 6, 9, 11)).verdict == "uneven_spacing"


# --- IDC's checks ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "expected"),
    [(0.98, False), (0.99, True), (1.01, True), (1.02, False)],
)
def test_the_normal_of_idc_is_a_unit_vector_within_one_percent(row: float, expected: bool) -> None:
    orientation = np.array([row, 0, 0, 0, 1, 0])
    checks = idc_checks(along_z(0, 1, 2), orientation)
    assert checks["orthogonal_orientation"] is expected
    assert checks["regularly_spaced_3d_volume"] is expected


@pytest.mark.parametrize("axis", [0, 1])
def test_idc_asks_for_a_tenth_of_a_millimetre_in_each_direction(axis: int) -> None:
    names = ("consistent_in_plane_row", "consistent_in_plane_col")
    for aside, expected in ((0.09, True), (0.125, False)):
        positions = np.array([[0, 0, z] for z in range(4)], dtype=float)
        positions[1, axis] += aside
        checks = idc_checks(positions, np.array(AXIAL))
        assert checks[names[axis]] is expected
        assert checks[names[1 - axis]] is True
    positions[1, axis] = 0.1
    assert idc_checks(positions, np.array(AXIAL))[names[axis]] is False


@pytest.mark.parametrize("start", [0, 50, -3])
def test_idc_compares_gaps_in_the_order_of_positions(start: float) -> None:
    checks = idc_checks(along_z(4 + start, start, 2 + start, 6 + start), np.array(AXIAL))
    assert checks == {
        "orthogonal_orientation": True,
        "unique_slice_positions": True,
        "consistent_in_plane_row": True,
        "consistent_in_plane_col": True,
        "uniform_slice_spacing": True,
        "regularly_spaced_3d_volume": True,
        "obliquity_degrees": 0.0,
    }


def test_idc_has_no_regular_volume_of_one_slice_and_no_checks_without_numbers() -> None:
    one = idc_checks(along_z(3), np.array(AXIAL))
    assert one["regularly_spaced_3d_volume"] is None and one["unique_slice_positions"] is True
    tilted = idc_checks(along_z(3), np.array([0.9, 0, 0, 0, 1, 0]))
    assert tilted["regularly_spaced_3d_volume"] is False
    names = set(one)
    for positions, orientation in (
        (along_z(0, math.nan), AXIAL),
        (along_z(0, 1), (math.nan,) * 6),
        (along_z(0, 1), (1, 0, 0, 1, 0, 0)),
    ):
        checks = idc_checks(positions, np.array(orientation, dtype=float))
        assert checks == dict.fromkeys(names)


def test_obliquity_is_the_angle_to_the_nearest_axis_in_hundredths_of_a_degree() -> None:
    angle = math.radians(100 / 3)
    leaning = np.array([1, 0, 0, 0, math.cos(angle), math.sin(angle)])
    assert idc_checks(along_z(0, 1), leaning)["obliquity_degrees"] == 33.33
    # Cosines of another length have the same angle.
    assert idc_checks(along_z(0, 1), 1.005 * leaning)["obliquity_degrees"] == 33.33
    assert idc_checks(along_z(0, 1), leaning * -1)["obliquity_degrees"] == 33.33
