"""Order, affine and verdict of slices, against exact arithmetic and SimpleITK."""

import itertools
import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from phantoms import slice_normal, true_affine, true_positions, write_series

from dicomdl.errors import GeometryError, UsageError
from dicomdl.geometry.grid import (
    Geometry,
    Tolerances,
    frame_orientations,
    frame_positions,
    halved,
    plane_axes,
)
from dicomdl.geometry.regular import regular_slices
from dicomdl.geometry.verdict import Assessment, assess, has_geometry, idc_checks, number_slices

AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
SAGITTAL = (0.0, 1.0, 0.0, 0.0, 0.0, -1.0)
CORONAL = (1.0, 0.0, 0.0, 0.0, 0.0, -1.0)
OBLIQUE = (0.8, 0.6, 0.0, -0.36, 0.48, -0.8)
FEET_FIRST = (-1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
ORIENTATIONS = {
    "axial": AXIAL,
    "sagittal": SAGITTAL,
    "coronal": CORONAL,
    "oblique": OBLIQUE,
    "feet first": FEET_FIRST,
}
Floats = NDArray[np.float64]


def judge(
    positions: Any,
    orientation: Any = AXIAL,
    pixel_spacing: Any = (0.7, 0.8),
    thickness: float = math.nan,
) -> Assessment:
    found = [
        np.asarray(values, dtype=np.float64) for values in (positions, orientation, pixel_spacing)
    ]
    return assess(found[0].reshape(-1, 3), found[1], found[2], Tolerances(), thickness)


def along_z(*z: float) -> Floats:
    return np.array([[-100.0, -90.0, value] for value in z])


# --- verdicts of DESIGN section 5 -----------------------------------------------------------------


@pytest.mark.parametrize("orientation", ORIENTATIONS.values(), ids=list(ORIENTATIONS))
def test_even_slices_are_regular_in_every_orientation(orientation: tuple[float, ...]) -> None:
    positions = true_positions(6, (2.5, 0.7, 0.8), (-10, 20, 30), orientation)
    found = judge(positions[[3, 0, 5, 1, 4, 2]], orientation)
    assert found.verdict == "regular"
    assert found.order.tolist() == [1, 3, 5, 0, 4, 2]
    assert found.detail == {"spacing": 2.5, "position_error": 0.0}
    np.testing.assert_allclose(
        found.affine, true_affine((2.5, 0.7, 0.8), (-10, 20, 30), orientation), atol=1e-12
    )


def test_ge_pet_whose_gaps_jitter_but_whose_positions_stay_on_the_grid_is_regular() -> None:
    gaps = [3.27, 3.27, 3.19, 3.29, 3.27, 3.27, 3.29, 3.27]
    found = judge(along_z(*itertools.accumulate(gaps, initial=-700.0)))
    assert found.verdict == "regular"
    assert found.detail["position_error"] <= 0.1
    checks = idc_checks(
        along_z(*itertools.accumulate(gaps, initial=-700.0)),
        np.array(ORIENTATIONS["axial"], dtype=float),
    )
    assert (
        checks["uniform_slice_spacing"] is False and checks["regularly_spaced_3d_volume"] is False
    ), "IDC compares every gap"


@pytest.mark.parametrize("start", [-30.0, 0.1, 0.3])
@pytest.mark.parametrize("slices", [9, 81, 82, 300])
def test_0_625_mm_ct_written_with_one_decimal_is_regular(slices: int, start: float) -> None:
    found = judge(along_z(*[round(start + 0.625 * k, 1) for k in range(slices)]))
    assert found.verdict == "regular"
    assert found.detail["spacing"] == pytest.approx(0.625, abs=0.1 / (slices - 1))
    assert 0.02 < found.detail["position_error"] <= 2 * 0.0625


@settings(max_examples=60)
@given(start=st.floats(-500, 500), spacing=st.floats(0.6, 5), slices=st.integers(3, 200))
def test_rounding_to_one_decimal_never_makes_even_slices_uneven(
    start: float, spacing: float, slices: int
) -> None:
    assert (
        judge(along_z(*[round(start + spacing * k, 1) for k in range(slices)])).verdict == "regular"
    )


@pytest.mark.parametrize(("spacing", "limit"), [(0.5, 0.05), (1.0, 0.1), (5.0, 0.1), (20.0, 0.2)])
def test_the_tolerance_is_of_a_position_and_scales_with_the_spacing(
    spacing: float, limit: float
) -> None:
    for error, verdict in ((0.98 * limit, "regular"), (1.02 * limit, "uneven_spacing")):
        z = [spacing * k for k in range(9)]
        # Errors up, down, up: no other origin or spacing is better.
        z[2], z[4], z[6] = (
            z[2] + error,
            z[4] - error,
            z[6] + error,
        )
        assert judge(along_z(*z)).verdict == verdict


def test_a_gantry_tilt_is_measured_and_sheared_into_the_affine() -> None:
    shear = 2.5 * math.tan(math.radians(15))
    positions = true_positions(7, (2.5, 0.7, 0.8), (0, 0, 0), AXIAL, (0, shear))
    found = judge(positions)
    assert found.verdict == "tilted"
    assert found.detail["tilt_deg"] == pytest.approx(15, abs=1e-3)
    np.testing.assert_allclose(
        found.affine, true_affine((2.5, 0.7, 0.8), (0, 0, 0), AXIAL, (0, shear)), atol=1e-12
    )
    assert Geometry((7, 5, 5), found.affine).shear == pytest.approx(math.sin(math.radians(15)))


def test_a_tilt_below_0_06_degrees_is_no_tilt() -> None:
    below, above = (
        judge(true_positions(61, (2, 1, 1), (0, 0, 0), AXIAL, (2 * tangent, 0)))
        for tangent in (0.9e-3, 1.1e-3)
    )
    assert (below.verdict, above.verdict) == ("regular", "tilted")
    assert above.detail["tilt_deg"] == pytest.approx(math.degrees(1.1e-3), abs=1e-3)


@pytest.mark.parametrize("slices", [2, 3, 6, 7, 40])
def test_a_tilt_of_less_than_a_tenth_of_a_millimetre_over_the_stack_is_rounding(
    slices: int,
) -> None:
    below, above = (
        judge(true_positions(slices, (0.5, 1, 1), (3, 4, 5), AXIAL, (0, aside / (slices - 1))))
        for aside in (0.09, 0.11)
    )
    assert above.verdict == "tilted"
    assert below.verdict == "regular"
    assert "tilt_deg" not in below.detail
    assert Geometry((slices, 5, 5), below.affine).shear < 1e-12
    middle = slices // 2
    np.testing.assert_allclose(
        below.affine @ [middle, 0, 0, 1],
        [3, 4 + 0.09 * middle / (slices - 1), 5 + 0.5 * middle, 1],
        atol=1e-9,
    )
    assert below.detail["off_axis"] == pytest.approx(0.09 * middle / (slices - 1), abs=1e-6)


def test_a_tenth_of_a_millimetre_in_one_decimal_is_rounding() -> None:
    for tenth in range(-30, 30):
        positions = np.array([[k // 3 + tenth, 0, 10 * k] for k in range(6)]) / 10
        assert judge(positions).verdict == "regular"


@pytest.mark.parametrize("orientation", ORIENTATIONS.values(), ids=list(ORIENTATIONS))
@pytest.mark.parametrize("decimals", [1, 2, 3])
@pytest.mark.parametrize("slices", [2, 6, 20])
def test_positions_with_few_decimals_are_regular_and_within_their_rounding(
    orientation: tuple[float, ...], decimals: int, slices: int
) -> None:
    spacing, unit = (3.0, 0.7, 0.8), 10.0**-decimals
    true = true_positions(slices, spacing, (-12.3456, 31.0617, 7.2549), orientation)
    found = judge(np.round(true, decimals), orientation, spacing[1:])
    assert found.verdict == "regular"
    assert "tilt_deg" not in found.detail
    geometry = Geometry((slices, 5, 7), found.affine)
    assert geometry.shear < 1e-12
    located = geometry.voxel_to_world([(k, 0, 0) for k in range(slices)])
    assert np.abs(located - true).max() <= 2 * unit
    assert found.detail.get("off_axis", 0) <= 2 * unit


def test_oblique_positions_with_one_decimal_lie_on_one_line() -> None:
    """The first position may be rounded away from all others: 0.13 mm here."""
    true = true_positions(40, (3.0, 0.7, 0.8), (-12.34, 31.06, 7.25), OBLIQUE)
    positions = np.round(true, 1)
    plane = np.array([OBLIQUE[:3], OBLIQUE[3:]])
    positions[0] = true[0] + plane.T @ (0.05, 0.05)
    positions[20] = true[20] - plane.T @ (0.05, 0.05)
    found = judge(positions, OBLIQUE)
    assert found.verdict == "regular"
    assert "in_plane_error" not in found.detail
    assert 0.1 < found.detail["off_axis"] < 0.2


@pytest.mark.parametrize("decimals", [3, 4])
def test_rounded_direction_cosines_are_no_tilt(decimals: int) -> None:
    """The normal of rounded cosines is off by up to half of their last digit, or a bit more."""
    for seed in range(40):
        matrix, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
        orientation = np.concatenate([matrix[0], matrix[1]])
        true = true_positions(30, (3.0, 0.7, 0.8), (-12, 31, 7), tuple(orientation))
        found = judge(true, np.round(orientation, decimals))
        assert found.verdict == "regular"
        located = Geometry((30, 5, 7), found.affine).voxel_to_world([(k, 0, 0) for k in range(30)])
        assert np.abs(located - true).max() <= 0.1


def test_a_long_line_that_is_no_tilt_stays_in_the_affine() -> None:
    """A tenth of a millimetre is the limit in plane; 0.05 degrees leave it over 300 mm."""
    true = true_positions(301, (1, 1, 1), (0, 0, 0), AXIAL, (0, 0.9e-3))
    found = judge(true)
    assert found.verdict == "regular"
    located = Geometry((301, 5, 5), found.affine).voxel_to_world([(k, 0, 0) for k in range(301)])
    np.testing.assert_allclose(located, true, atol=1e-9)


def test_a_rounded_stack_with_a_hole_is_filled_along_the_normal() -> None:
    x = [10.01, 10.02, 10.01, 10.02, 10.02]
    positions = np.array([[x[k], 4.0, 0.5 * z] for k, z in enumerate((0, 1, 2, 4, 5))])
    found = judge(positions)
    assert found.verdict == "missing_slices"
    grid = regular_slices(positions, Geometry((5, 4, 4), found.affine), found.verdict, Tolerances())
    assert grid.geometry.shape == (6, 4, 4)
    np.testing.assert_allclose(grid.geometry.affine[:3, 0], [0, 0, 0.5], atol=1e-12)
    assert grid.geometry.origin == pytest.approx((10.01, 4.0, 0.0))


def test_an_uneven_stack_tells_its_tilt_too() -> None:
    positions = np.array([[0, z * math.tan(math.radians(10)), z] for z in (0, 2, 5.3, 7, 9.1)])
    found = judge(positions)
    assert found.verdict == "uneven_spacing"
    assert found.detail["tilt_deg"] == pytest.approx(10, abs=1e-3)
    assert (
        found.detail["smallest_gap"],
        found.detail["median_gap"],
        found.detail["largest_gap"],
    ) == (1.7, 2.05, 3.3)


def test_positions_off_their_line_in_the_plane_are_uneven() -> None:
    positions = along_z(0, 2, 4, 6, 8)
    positions[2, 0] += 0.5
    found = judge(positions)
    assert found.verdict == "uneven_spacing"
    assert found.detail["in_plane_error"] == pytest.approx(0.5)


def test_missing_slices_are_counted_and_placed_and_the_true_spacing_found() -> None:
    found = judge(along_z(*[2.5 * k for k in range(20) if k not in (4, 11, 12)]))
    assert found.verdict == "missing_slices"
    assert found.detail["missing"] == 3
    assert found.detail["missing_after"] == [3, 9]
    assert found.detail["spacing"] == 2.5
    np.testing.assert_allclose(found.affine[:3, 0], [0, 0, 2.5])


@pytest.mark.parametrize("spacing", [0.625, 1.25, 3.0])
def test_one_missing_slice_among_many_rounded_ones_is_found(spacing: float) -> None:
    found = judge(along_z(*[round(spacing * k, 1) for k in range(300) if k != 149]))
    assert (found.verdict, found.detail["missing"], found.detail["missing_after"]) == (
        "missing_slices",
        1,
        [148],
    )
    assert found.detail["spacing"] == pytest.approx(spacing, abs=1e-3)


def test_as_many_holes_as_slices_are_uneven() -> None:
    assert judge(along_z(0, 1, 2, 30)).verdict == "uneven_spacing"


def test_two_slices_are_regular_but_unconfirmed() -> None:
    found = judge(along_z(5, 0))
    assert found.verdict == "regular"
    assert found.detail["unconfirmed"] is True
    assert found.order.tolist() == [1, 0]


def test_three_slices_with_one_double_gap_are_uneven_because_no_gap_repeats() -> None:
    assert judge(along_z(0, 1, 3)).verdict == "uneven_spacing"


def test_a_position_twice_is_duplicates_and_the_pixels_are_unchecked() -> None:
    found = judge(along_z(0, 2, 2, 4, 6))
    assert found.verdict == "duplicates"
    assert found.detail["repeated_positions"] == 1
    assert found.detail["pixels"] == "unchecked"
    assert found.detail["spacing"] == 2.0
    assert found.order.tolist() == [0, 1, 2, 3, 4]


def test_all_slices_at_one_position_have_no_spacing() -> None:
    found = judge(along_z(3, 3, 3), thickness=4.0)
    assert found.verdict == "duplicates"
    assert found.detail == {"repeated_positions": 2, "pixels": "unchecked"}
    np.testing.assert_allclose(found.affine[:3, 0], [0, 0, 4])


def test_tiles_beside_each_other_in_one_plane_show_how_far_apart_they_lie() -> None:
    found = judge([[0, 0, 0], [40, 0, 0]])
    assert found.verdict == "duplicates"
    assert found.detail["in_plane_error"] == 40.0


def test_float_noise_in_a_position_is_a_repetition_but_half_a_slice_is_not() -> None:
    assert judge(along_z(0, 2, 2.0000001, 4)).verdict == "duplicates"
    assert judge(along_z(0, 2, 3.2, 4)).verdict == "uneven_spacing"


def test_a_single_slice_takes_its_thickness_as_step_or_1_mm() -> None:
    known, unknown = judge(along_z(3), thickness=4.0), judge(along_z(3))
    assert known.verdict == unknown.verdict == "single"
    assert known.detail == {"step": "SliceThickness"}
    np.testing.assert_allclose(known.affine[:3, 0], [0, 0, 4])
    np.testing.assert_allclose(unknown.affine[:3, 0], [0, 0, 1])


@pytest.mark.parametrize("thickness", [0.0, -2.0, math.inf, math.nan])
def test_a_senseless_thickness_is_no_step(thickness: float) -> None:
    np.testing.assert_allclose(judge(along_z(3), thickness=thickness).affine[:3, 0], [0, 0, 1])


@pytest.mark.parametrize(
    ("positions", "orientation", "pixel_spacing", "word"),
    [
        (along_z(0, math.nan), AXIAL, (1, 1), "ImagePositionPatient"),
        (along_z(0, math.inf), AXIAL, (1, 1), "ImagePositionPatient"),
        (along_z(0, 1e9), AXIAL, (1, 1), "kilometre"),
        (along_z(0, 1), (0,) * 6, (1, 1), "ImageOrientationPatient"),
        (along_z(0, 1), (1, 0, 0, 1, 0, 0), (1, 1), "ImageOrientationPatient"),
        (along_z(0, 1), (1, 0, 0, 0, 1.2, 0), (1, 1), "ImageOrientationPatient"),
        (along_z(0, 1), (math.nan,) * 6, (1, 1), "ImageOrientationPatient"),
        (along_z(0, 1), AXIAL, (math.nan, 1), "PixelSpacing"),
        (along_z(0, 1), AXIAL, (0, 1), "PixelSpacing"),
        (along_z(0, 1), AXIAL, (1, -1), "PixelSpacing"),
        (along_z(0, 1), AXIAL, (1e5, 1), "PixelSpacing"),
        (along_z(0, 1), AXIAL, (math.inf, 1), "PixelSpacing"),
    ],
)
def test_numbers_that_make_no_grid_are_no_geometry_and_say_which(
    positions: Any, orientation: Any, pixel_spacing: Any, word: str
) -> None:
    found = judge(positions, orientation, pixel_spacing)
    assert found.verdict == "no_geometry"
    assert word in found.detail["why"]
    assert np.isnan(found.affine).all()
    assert found.order.tolist() == [0, 1]


def test_cosines_a_little_off_unit_length_and_right_angle_are_repaired() -> None:
    row, column, normal = plane_axes(np.array([1.003, 0, 0, 0.004, 0.998, 0]), Tolerances())  # type: ignore[misc]
    np.testing.assert_allclose([row, column, normal], np.eye(3), atol=1e-12)
    assert plane_axes(np.array([1.003, 0, 0, 0.02, 0.998, 0]), Tolerances()) is None


# --- properties -----------------------------------------------------------------------------------


@st.composite
def orthonormal(draw: st.DrawFn) -> Floats:
    """ImageOrientationPatient of any plane."""
    seed = draw(st.integers(0, 2**32 - 1))
    matrix, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
    return np.concatenate([matrix[0], matrix[1]])


@settings(max_examples=60)
@given(
    orientation=orthonormal(),
    slices=st.integers(2, 12),
    spacing=st.tuples(*[st.floats(0.1, 10)] * 3),
    origin=st.tuples(*[st.floats(-500, 500)] * 3),
    shear=st.tuples(st.floats(-1, 1), st.floats(-1, 1)),
    seed=st.integers(0, 1000),
)
def test_the_affine_maps_every_voxel_of_a_shuffled_series_to_its_world_point(
    orientation: Floats, slices: int, spacing: Any, origin: Any, shear: Any, seed: int
) -> None:
    truth = true_affine(spacing, origin, orientation, shear)
    shuffled = np.random.default_rng(seed).permutation(slices)
    found = judge(
        true_positions(slices, spacing, origin, orientation, shear)[shuffled],
        orientation,
        spacing[1:],
    )
    assert found.verdict in ("regular", "tilted")
    assert shuffled[found.order].tolist() == list(range(slices))
    geometry = Geometry((slices, 5, 7), found.affine)
    voxels = np.stack(np.meshgrid(*map(np.arange, geometry.shape), indexing="ij"), -1)
    expected = np.concatenate([voxels, np.ones((*voxels.shape[:3], 1))], -1) @ truth.T
    # A shear of less than a tenth of a millimetre over the stack is rounding.
    error = 0 if "tilt_deg" in found.detail else found.detail.get("off_axis", 1e-3) + 1e-6
    np.testing.assert_allclose(
        geometry.voxel_to_world(voxels), expected[..., :3], atol=1e-8 + error
    )
    np.testing.assert_allclose(
        geometry.world_to_voxel(expected[..., :3]), voxels, atol=1e-6 + error / min(spacing)
    )


@settings(max_examples=40)
@given(orientation=orthonormal(), seed=st.integers(0, 1000))
def test_reversing_the_slices_changes_nothing_but_the_order(orientation: Floats, seed: int) -> None:
    z = np.sort(np.random.default_rng(seed).uniform(0, 50, 6))
    positions = z[:, None] * slice_normal(orientation.tolist())
    forward, backward = judge(positions, orientation), judge(positions[::-1], orientation)
    assert (forward.verdict, forward.detail) == (backward.verdict, backward.detail)
    np.testing.assert_array_equal(forward.affine, backward.affine)
    assert forward.order.tolist() == (5 - backward.order).tolist()


# --- second opinion -------------------------------------------------------------------------------


@pytest.mark.parametrize("orientation", ORIENTATIONS.values(), ids=list(ORIENTATIONS))
def test_simpleitk_agrees_on_order_spacing_origin_and_direction(
    tmp_path: Path, orientation: tuple[float, ...]
) -> None:
    paths = write_series(
        tmp_path, orientation=orientation, spacing=(2.5, 0.7, 0.8), origin=(-12.5, 31.0, 7.25)
    )
    reader = sitk.ImageSeriesReader()
    names = reader.GetGDCMSeriesFileNames(str(tmp_path))
    reader.SetFileNames(names)
    image = reader.Execute()
    positions = np.array([sitk.ReadImage(str(path)).GetOrigin() for path in paths])
    found = judge(positions[::-1], orientation)
    geometry = Geometry((6, 5, 7), found.affine)
    assert [str(paths[::-1][k]) for k in found.order] == list(names)
    np.testing.assert_allclose(geometry.spacing, image.GetSpacing()[::-1], atol=1e-6)
    np.testing.assert_allclose(geometry.origin, image.GetOrigin(), atol=1e-6)
    # SimpleITK's axes are (x, y, z): columns, rows, slices.
    np.testing.assert_allclose(
        geometry.direction[:, ::-1], np.reshape(image.GetDirection(), (3, 3)), atol=1e-6
    )


# --- the value ------------------------------------------------------------------------------------


def test_a_geometry_is_a_frozen_value_that_compares_and_hashes() -> None:
    one, two = (Geometry((6, 5, 7), true_affine((2, 1, 1))) for _ in range(2))
    assert one == two
    assert hash(one) == hash(two)
    assert one != Geometry((6, 5, 8), one.affine)
    assert (one == "Geometry") is False
    with pytest.raises(ValueError, match="read-only"):
        one.affine[0, 0] = 1
    assert repr(one) == "Geometry(6 x 5 x 7 voxels of 2 x 1 x 1 mm)"
    np.testing.assert_allclose(one.center, [3, 2, 5])
    away = Geometry((6, 5, 7), true_affine((2, 1, 1), (10, -20, 30)))
    np.testing.assert_allclose(away.center, [13, -18, 35])
    assert one.is_known
    assert one.shear == 0


def test_an_unknown_geometry_says_so() -> None:
    unknown = Geometry((1, 5, 7), np.full((4, 4), np.nan))
    assert not unknown.is_known
    assert math.isnan(unknown.shear)
    assert unknown == Geometry((1, 5, 7), np.full((4, 4), np.nan))


def test_an_affine_of_another_shape_is_a_geometry_error() -> None:
    with pytest.raises(GeometryError, match="4 x 4") as caught:
        Geometry((1, 1, 1), np.eye(3))
    assert caught.value.shape == (3, 3)


# --- places and IDC's checks ----------------------------------------------------------------------


@pytest.mark.parametrize("orientation", ORIENTATIONS.values(), ids=list(ORIENTATIONS))
def test_slices_at_one_position_share_a_place_and_places_ascend_along_the_normal(
    orientation: tuple[float, ...],
) -> None:
    positions = true_positions(5, (2.5, 0.7, 0.8), (-10, 20, 30), orientation)
    order = [3, 0, 4, 3, 1, 2, 0, 3]
    jitter = np.random.default_rng(0).uniform(-0.002, 0.002, (len(order), 3))
    assert (
        number_slices(positions[order] + jitter, np.array(orientation), Tolerances()).tolist()
        == order
    )


def test_what_has_no_geometry_is_told_frame_by_frame() -> None:
    positions, orientations, spacings = (
        np.zeros((8, 3)),
        np.tile(np.array(AXIAL), (8, 1)),
        np.ones((8, 2)),
    )
    positions[0, 1], positions[1, 2] = math.nan, 2e6
    orientations[2], orientations[3, 3], orientations[4, 0] = 0.0, 1.0, math.inf
    spacings[5, 0], spacings[6, 1] = 0.0, -1.0
    assert has_geometry(positions, orientations, spacings, Tolerances()).tolist() == [False] * 7 + [
        True
    ]


def test_a_gap_off_by_more_than_one_percent_of_the_mean_gap_is_not_uniform_for_idc() -> None:
    axial = np.array(AXIAL)
    assert idc_checks(along_z(0, 1, 2.0099, 3), axial)["uniform_slice_spacing"] is True
    assert idc_checks(along_z(0, 1, 2.0101, 3), axial)["uniform_slice_spacing"] is False
    assert idc_checks(along_z(0, 1, 1, 2), axial)["unique_slice_positions"] is False
    assert idc_checks(along_z(0), axial)["uniform_slice_spacing"] is None
    assert idc_checks(along_z(0, 1, 2), axial)["regularly_spaced_3d_volume"] is True


def test_a_tilted_stack_is_no_regular_volume_for_idc_and_says_its_obliquity() -> None:
    tilted = idc_checks(np.array([[0, 0.3 * z, z] for z in range(4)], dtype=float), np.array(AXIAL))
    assert tilted["consistent_in_plane_col"] is False and tilted["consistent_in_plane_row"] is True
    assert tilted["uniform_slice_spacing"] is True and tilted["regularly_spaced_3d_volume"] is False
    leaning = np.array([1, 0, 0, 0, math.cos(math.radians(15)), math.sin(math.radians(15))])
    assert idc_checks(along_z(0, 1, 2), leaning)["obliquity_degrees"] == 15.0


@settings(max_examples=60)
@given(
    st.integers(3, 40), st.floats(0.3, 6.0), st.floats(-300, 300), st.randoms(use_true_random=False)
)
def test_a_regular_affine_puts_every_slice_within_the_error_that_is_told(
    n: int, spacing: float, start: float, random: Any
) -> None:
    jitter = [random.uniform(-0.12, 0.12) for _ in range(n)]
    z = start + spacing * np.arange(n) + np.array(jitter)
    found = judge(along_z(*z))
    if found.verdict == "regular":
        told = found.affine[2, 3] + found.affine[2, 0] * np.arange(n)
        assert np.abs(told - z).max() <= found.detail["position_error"] + 1e-5
        assert (
            found.detail["position_error"]
            <= 2 * Tolerances().position(found.detail["spacing"]) + 1e-5
        ), "first and last are rounded, too"


@settings(max_examples=200)
@given(
    st.floats(-0.0101, 0.0101),
    st.floats(-0.0101, 0.0101),
    st.floats(-0.0101, 0.0101),
    st.floats(0, 6.3),
)
def test_one_frame_and_many_are_judged_alike_at_the_border_of_the_tolerance(
    long: float, short: float, skew: float, angle: float
) -> None:
    row = np.array([math.cos(angle), math.sin(angle), 0.0])
    column = np.array([-math.sin(angle), math.cos(angle), 0.0]) + skew * row
    orientation = np.concatenate([(1 + long) * row, (1 + short) * column])
    many = has_geometry(np.zeros((1, 3)), orientation[None], np.ones((1, 2)), Tolerances())[0]
    assert bool(many) == (plane_axes(orientation, Tolerances()) is not None)


@pytest.mark.parametrize("value", [-1, float("nan"), "1", None, True], ids=repr)
def test_a_tolerance_that_is_no_number_of_at_least_0_is_refused(value: Any) -> None:
    with pytest.raises(UsageError, match=r"in_plane_mm=.*at least 0"):
        Tolerances(in_plane_mm=value)


def test_tolerances_of_numpy_numbers_are_those_of_floats() -> None:
    found: dict[str, Any] = {"in_plane_mm": np.float32(1), "tilt": np.int64(0)}
    narrow = Tolerances(**found)
    assert narrow == Tolerances(in_plane_mm=1.0, tilt=0.0)
    assert json.loads(json.dumps(asdict(narrow))) == asdict(narrow)


def test_unknown_spacing_of_a_grid_prints_as_a_question_mark() -> None:
    affine = np.diag([np.nan, 0.5, 0.25, 1.0])
    affine[:3, 0] = np.nan
    assert repr(Geometry((1, 5, 7), affine)) == "Geometry(1 x 5 x 7 voxels of ? x 0.5 x 0.25 mm)"


def test_the_default_tolerances_are_those_that_the_verdicts_are_documented_with() -> None:
    assert asdict(Tolerances()) == {
        "spacing_fraction": 0.01,
        "spacing_mm": 0.1,
        "spacing_mm_fraction": 0.1,
        "in_plane_mm": 0.1,
        "tilt": 1e-3,
        "cosines": 1e-3,
        "unit": 1e-2,
        "pixel_spacing": 1e-3,
        "same_position_mm": 1e-2,
    }
    assert Tolerances(in_plane_mm=0).in_plane_mm == 0


def test_the_shape_of_a_grid_is_a_tuple_of_plain_integers() -> None:
    given: Any = np.array([6, 5, 7])
    grid = Geometry(given, np.eye(4))
    assert grid.shape == (6, 5, 7) and json.dumps(grid.shape) == "[6, 5, 7]"
    assert grid == Geometry((6, 5, 7), np.eye(4)) and hash(grid)
    assert grid != Geometry((6, 5, 7), np.diag([2.0, 1, 1, 1]))


def test_an_affine_is_copied() -> None:
    affine = np.eye(4, dtype=np.float32)
    grid = Geometry((6, 5, 7), affine)
    affine[0, 3] = 9
    assert grid.origin == (0, 0, 0) and grid.affine.dtype == np.float64


@pytest.mark.parametrize(
    ("length", "expected"), [(8, [8, 4, 2, 1]), (9, [9, 5, 3, 2]), (1, [1, 1, 1, 1])]
)
def test_halving_rounds_up(length: int, expected: list[int]) -> None:
    assert [halved(length, times) for times in range(4)] == expected


def test_a_halved_grid_retains_every_second_voxel_of_each_slice() -> None:
    grid = Geometry((3, 5, 8), true_affine((2.5, 0.7, 0.8), (-10, 20, 30), OBLIQUE))
    half = grid.halved(1)
    assert half.shape == (3, 3, 4)
    voxels = np.array([[0, 0, 0], [2, 1, 3], [1, 2, 0]])
    np.testing.assert_allclose(
        half.voxel_to_world(voxels), grid.voxel_to_world(voxels * [1, 2, 2]), atol=1e-12
    )
    assert grid.halved(0) == grid and grid.halved(2) == half.halved(1)


# --- positions of frames --------------------------------------------------------------------------


class Columns:
    """Facts of frames, from columns by name; absent ones are constant None."""

    def __init__(self, count: int, **columns: Any) -> None:
        self._count = count
        self._columns = {name: np.asarray(values, float) for name, values in columns.items()}

    @property
    def constants(self) -> dict[str, Any]:
        names = ("image_position_volume", "image_orientation_volume")
        return {name: None for name in names if name not in self._columns}

    def numbers(self, name: str) -> Floats:
        return self._columns.get(name, np.full(self._count, np.nan))

    def ranks(self, name: str) -> NDArray[np.int64]:
        return self.numbers(name).astype(np.int64)

    def vectors(self, name: str, size: int) -> Floats:
        return self._columns.get(name, np.full((self._count, size), np.nan))


def test_a_volume_of_an_ultrasound_probe_lies_in_its_coordinates() -> None:
    """PS3.3 C.8.24.2: only where the patient's coordinates are unknown."""
    unknown = [math.nan] * 3
    facts: Any = Columns(
        3,
        image_position_patient=[unknown, [1, 2, 3], unknown],
        image_position_volume=[[4, 5, 6], [7, 8, 9], unknown],
        image_orientation_patient=[[math.nan] * 6, OBLIQUE, [math.nan] * 6],
        image_orientation_volume=[SAGITTAL, CORONAL, [math.nan] * 6],
    )
    np.testing.assert_array_equal(
        frame_positions(facts, Tolerances()), [[4, 5, 6], [1, 2, 3], unknown]
    )
    np.testing.assert_array_equal(frame_orientations(facts), [SAGITTAL, OBLIQUE, [math.nan] * 6])
    without: Any = Columns(2, image_position_patient=[[1, 2, 3], unknown])
    np.testing.assert_array_equal(frame_positions(without, Tolerances()), [[1, 2, 3], unknown])
    assert np.isnan(frame_orientations(without)).all()


def test_offsets_of_dose_planes_are_distances_or_coordinates_object_by_object() -> None:
    """PS3.3 C.8.8.3.2. The first object has no plane, and the last frame no offset."""
    facts: Any = Columns(
        8,
        sop_instance_uid=[0, 0, 1, 1, 1, 2, 2, 3],
        frame_number=[1, 2, 3, 1, 2, 2, 1, 1],
        grid_frame_offset=[0, 2, 6, 0, 3, 50, 40, math.nan],
        image_position_patient=[[1, 2, 3]] * 8,
        image_orientation_patient=[[0] * 6] * 2 + [FEET_FIRST] * 3 + [AXIAL] * 3,
    )
    before = facts.vectors("image_position_patient", 3).copy()
    assert frame_positions(facts, Tolerances()).tolist() == [
        [1, 2, 3],
        [1, 2, 3],
        [1, 2, -3],
        [1, 2, 3],
        [1, 2, 0],
        [1, 2, 50],
        [1, 2, 40],
        [1, 2, 3],
    ]
    np.testing.assert_array_equal(facts.vectors("image_position_patient", 3), before)


@pytest.mark.parametrize(
    "axes",
    [
        np.diag([0.0, 1, 1]),
        [[1, 2, 0], [0, 0, 0], [0, 0, 1]],
        [[0.1, 0.3, 0], [0.2, 0.6, 0], [0, 0, 1]],
    ],
    ids=["a step of 0", "parallel", "parallel but for rounding"],
)
def test_a_grid_whose_axes_lie_in_one_plane_has_no_inverse(axes: Any) -> None:
    affine = np.eye(4)
    affine[:3, :3] = axes
    grid = Geometry((2, 3, 4), affine)
    assert grid.is_flat
    with pytest.raises(GeometryError, match="axes of this grid lie in one plane"):
        grid.world_to_voxel([0, 0, 0])


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_an_unknown_grid_is_not_flat(value: float) -> None:
    assert not Geometry((2, 3, 4), np.diag([value, 1, 1, 1])).is_flat
    sheared = np.eye(4)
    sheared[1, 0] = math.tan(math.radians(40))
    assert not Geometry((2, 3, 4), sheared * [[1e-5], [1e-5], [1e-5], [1]]).is_flat
