"""intensity, maps, formulas, rescale and auto: stored -> modality -> network values.

Exact formulas, the examples of the standard, and the meaning of the options.
"""

import importlib.resources
import math
import pickle
import tomllib
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from pydicom.dataset import Dataset
from pydicom.pixels.processing import apply_rescale as pydicom_rescale
from pydicom.pixels.processing import apply_windowing

from dicomdl.errors import DoesNotFit, IntensityError, UsageError
from dicomdl.headers.frame import Frame
from dicomdl.values.auto import AUTO_RULES, PROJECTION, by_modality, resolve, units_of
from dicomdl.values.formulas import Formula, FormulaMap, Ramp
from dicomdl.values.intensity import Intensity
from dicomdl.values.presets import preset, presets
from dicomdl.values.rescale import Rescale, dtypes_to_try, in_first_that_fits, modality_dtype
from dicomdl.values.sampling import SAMPLED_VALUES, sample_positions, sample_stride
from dicomdl.values.suv import SUV
from dicomdl.values.windows import Identity, Limits, Percentile, Window

STORED_DTYPES = ("uint8", "int8", "uint16", "int16", "uint32", "int32")
CT_STORAGE = "1.2.840.10008.5.1.4.1.1.2"
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
SEGMENTATION = "1.2.840.10008.5.1.4.1.1.66.4"

stored_arrays = st.sampled_from(STORED_DTYPES).flatmap(
    lambda name: npst.arrays(name, npst.array_shapes(max_dims=3, max_side=6))
)
finite = st.floats(-1e5, 1e5, allow_subnormal=False)
centers = st.one_of(st.integers(-4096, 4096).map(float), finite)
widths = st.one_of(st.integers(1, 65536).map(float), st.floats(1, 1e5))
int16_arrays = npst.arrays(np.int16, npst.array_shapes(max_dims=2, max_side=8))


def frame_with(**facts: Any) -> Frame:
    basics = {
        "path": "a.dcm",
        "frame_number": 1,
        "byte_offset": 0,
        "byte_length": 8,
        "file_bytes": 8,
        "file_mtime_ns": 0,
    }
    coding = {
        "rows": 2,
        "columns": 2,
        "samples_per_pixel": 1,
        "bits_allocated": 16,
        "bits_stored": 12,
        "pixel_representation": 0,
    }
    return Frame(**{**basics, **coding, "photometric_interpretation": "MONOCHROME2", **facts})


def ct_frame(**facts: Any) -> Frame:
    defaults = {
        "modality": "CT",
        "sop_class_uid": CT_STORAGE,
        "image_type": "ORIGINAL\\PRIMARY\\AXIAL",
        "rescale_slope": 1.0,
        "rescale_intercept": -1024.0,
    }
    return frame_with(**{**defaults, **facts})


def exact_ramp(values: np.ndarray, lower: Fraction, width: Fraction) -> np.ndarray:
    """Compute the formula in rational numbers, rounded once to float64."""
    line = [
        min(max((Fraction(float(value)) - lower) / width, Fraction(0)), Fraction(1))
        for value in values.ravel()
    ]
    return np.array([float(value) for value in line]).reshape(values.shape)


def assert_exact_to_float32(result: np.ndarray, exact: np.ndarray) -> None:
    assert result.dtype == np.float32
    error = np.abs(result.astype(np.float64) - exact)
    assert (error <= 2.5e-7 * np.abs(exact) + 1e-37).all(), error.max()


# --- rescale --------------------------------------------------------------------------------------


@given(stored_arrays, st.integers(-40, 40).filter(bool), st.integers(-70000, 70000))
def test_an_integral_rescale_is_exact_in_the_smallest_dtype_that_holds_the_actual_values(
    stored: np.ndarray, slope: int, intercept: int
):
    exact = [int(value) * slope + intercept for value in stored.ravel()]
    result = Rescale(slope, intercept)(stored)
    smallest, largest = min(exact), max(exact)
    if smallest >= -(2**15) and largest < 2**15:
        assert result.dtype == np.int16
    elif smallest >= -(2**31) and largest < 2**31:
        assert result.dtype == np.int32
    else:
        assert result.dtype == np.float32
        exact = [float(np.float32(value)) for value in exact]
    assert result.ravel().tolist() == exact
    assert result.shape == stored.shape


@given(stored_arrays, st.integers(-3, 3).filter(bool), st.integers(-70000, 70000))
def test_an_int16_result_never_wraps(stored: np.ndarray, slope: int, intercept: int):
    exact = [int(value) * slope + intercept for value in stored.ravel()]
    out = np.full(stored.shape, 7, np.int16)
    if min(exact) >= -(2**15) and max(exact) < 2**15:
        Rescale(slope, intercept).fill(stored, out)
        assert out.ravel().tolist() == exact
    else:
        with pytest.raises(DoesNotFit) as caught:
            Rescale(slope, intercept).fill(stored, out)
        assert (caught.value.minimum, caught.value.maximum, caught.value.dtype) == (
            min(exact),
            max(exact),
            "int16",
        )
        assert (out == 7).all()


@given(stored_arrays, st.floats(1e-3, 1e3), finite)
def test_a_fractional_rescale_is_float64_arithmetic_rounded_once(
    stored: np.ndarray, slope: float, intercept: float
):
    assume(not (slope.is_integer() and intercept.is_integer()))
    result = Rescale(slope, intercept)(stored)
    assert result.dtype == np.float32
    assert (result == (stored.astype(np.float64) * slope + intercept).astype(np.float32)).all()


@pytest.mark.parametrize("slope, intercept", [(1, -1024), (2.5, 0.25), (0.00012207, 0), (-1, 4095)])
def test_pydicom_gives_the_same_modality_values(slope: float, intercept: float):
    dataset = Dataset()
    dataset.RescaleSlope, dataset.RescaleIntercept = slope, intercept
    stored = np.arange(4096, dtype=np.uint16).reshape(64, 64)
    expected = pydicom_rescale(stored, dataset).astype(np.float32)
    assert (Rescale(slope, intercept)(stored) == expected).all()


@pytest.mark.parametrize("slope", [0, -0.0, math.nan, math.inf, -math.inf])
def test_a_slope_of_zero_or_not_finite_is_an_error_that_names_the_attribute(slope: float):
    with pytest.raises(IntensityError, match=r"RescaleSlope \(0028,1053\)"):
        Rescale(slope, 0)


@pytest.mark.parametrize("intercept", [math.nan, math.inf])
def test_an_intercept_that_is_not_finite_is_an_error_that_names_the_attribute(intercept: float):
    with pytest.raises(IntensityError, match=r"RescaleIntercept \(0028,1052\)"):
        Rescale(1, intercept)


def test_a_rescale_that_leaves_float32_is_an_error_not_infinity():
    with pytest.raises(IntensityError, match="beyond the range of float32"):
        Rescale(1e308, 0.5)(np.array([1, 2], np.int16))


def test_a_rescale_in_place_through_a_view_gives_the_same_values():
    stored = np.arange(4096, dtype=np.uint16).reshape(64, 64)
    expected = stored.astype(np.int16) - 1024
    out = stored.view(np.int16)
    Rescale(1, -1024).fill(stored, out, stored_range=(0, 4095))
    assert (out == expected).all()


def test_an_intercept_beyond_int16_is_fine_when_the_values_fit():
    stored = np.array([40000, 50000, 65535], np.uint16)
    out = np.empty(3, np.int16)
    Rescale(1, -40000).fill(stored, out)
    assert out.tolist() == [0, 10000, 25535]


def test_a_slope_that_passes_through_larger_numbers_is_fine_when_the_values_fit():
    out = np.empty(2, np.int16)
    Rescale(3, -90000).fill(np.array([30000, 30001], np.int16), out)
    assert out.tolist() == [0, 3]


def test_a_stored_range_spares_the_look_at_the_values():
    class Watched(np.ndarray):
        def min(self, *_: Any, **__: Any) -> Any:
            raise AssertionError("looked at the values")

    stored = np.arange(16, dtype=np.uint16).view(Watched)
    out = np.empty(16, np.int16)
    Rescale(1, -1024).fill(stored, out, stored_range=(0, 4095))
    assert out[0] == -1024
    with pytest.raises(AssertionError, match="looked"):
        Rescale(1, -1024).fill(stored, out)


def test_integers_are_refused_for_a_fractional_slope():
    with pytest.raises(IntensityError, match="ask for float32"):
        Rescale(0.5, 0).fill(np.zeros(2, np.int16), np.empty(2, np.int16))


@pytest.mark.parametrize(
    "out", [np.empty(3, np.int16), np.empty(2, np.float64), np.empty(2, ">i2")]
)
def test_a_rescale_into_the_wrong_array_is_an_error(out: np.ndarray):
    with pytest.raises(UsageError, match="expected int16, int32 or float32"):
        Rescale(1, 0).fill(np.zeros(2, np.int16), out)


def test_big_endian_stored_values_rescale_like_native_ones():
    stored = np.arange(300, dtype=np.int16)
    assert (Rescale(2, -7)(stored.astype(">i2")) == stored * 2 - 7).all()
    assert (Rescale(0.5, 0)(stored.astype(">i2")) == stored / np.float32(2)).all()


def test_slices_rescale_in_place_from_threads():
    stored = np.arange(32 * 64 * 64, dtype=np.uint32).reshape(32, 64, 64).astype(np.uint16) % 4096
    out = stored.copy().view(np.int16)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda k: Rescale(1, -k).fill(out[k], out[k]), range(32)))
    assert (out == stored.astype(np.int32) - np.arange(32)[:, None, None]).all()


def test_a_one_bit_frame_becomes_int16():
    assert Rescale()(np.array([True, False])).tolist() == [1, 0]
    assert Rescale()(np.array([True, False])).dtype == np.int16


def test_an_empty_array_rescales():
    assert Rescale(1, -1024)(np.empty((0, 4), np.uint16)).shape == (0, 4)


def test_float_stored_values_stay_float32():
    assert Rescale()(np.array([1.5, np.nan], np.float32)).dtype == np.float32


@pytest.mark.parametrize(
    "rescales, low, high, dtype",
    [
        ([(1, -1024)], 0, 4095, "int16"),
        ([(1, -1024), (1, 0)], 0, 32767, "int16"),
        ([(1, -1024), (1, 1)], 0, 32767, "int32"),
        ([(1, 0)], 0, 65535, "int32"),
        ([(1, 0)], 0, 2**32 - 1, "float32"),
        ([(1, 0), (0.5, 0)], 0, 255, "float32"),
        ([(-1, 0)], -32768, 0, "int32"),
        ([], 0, 255, "int16"),
    ],
)
def test_one_dtype_holds_the_modality_values_of_the_whole_stack(
    rescales: list[tuple[float, float]], low: int, high: int, dtype: str
):
    assert modality_dtype([Rescale(*each) for each in rescales], low, high) == dtype


def test_the_narrowest_dtype_that_holds_all_values_is_taken_and_tried_once():
    tried = []

    def attempt(dtype: np.dtype[Any]) -> np.ndarray:
        tried.append(dtype.name)
        out = np.empty(2, dtype)
        Rescale().fill(np.array([0, 70000]), out)
        return out

    assert in_first_that_fits(attempt, dtypes_to_try(integral=True)).tolist() == [0, 70000]
    assert tried == ["int16", "int32"]
    assert [dtype.name for dtype in dtypes_to_try(integral=False)] == ["float32"]


def test_values_that_no_dtype_holds_and_other_faults_are_raised_as_they_are():
    def attempt(dtype: np.dtype[Any]) -> None:
        Rescale(slope).fill(np.array([0, 70000]), np.empty(2, dtype))

    slope = 1.0
    with pytest.raises(DoesNotFit, match="70000"):
        in_first_that_fits(attempt, [np.dtype(np.int16)])
    slope = 0.5
    with pytest.raises(IntensityError, match="ask for float32") as caught:
        in_first_that_fits(attempt, dtypes_to_try(integral=True))
    assert not isinstance(caught.value, DoesNotFit)


def test_the_rescale_of_a_frame_is_its_own_or_the_identity():
    assert Rescale.from_frame(ct_frame()) == Rescale(1, -1024)
    assert Rescale.from_frame(frame_with()).is_identity
    assert Rescale.from_frame(frame_with(modality="RTDOSE", dose_grid_scaling=0.001)) == Rescale(
        0.001, 0
    )


def test_a_modality_lut_is_not_taken_for_an_identity():
    with pytest.raises(IntensityError, match="Modality LUT Sequence"):
        Rescale.from_frame(frame_with(modality_lut_sequence=True))


def test_doses_without_a_scaling_are_no_gray():
    facts = {"sop_class_uid": "1.2.840.10008.5.1.4.1.1.481.2"}
    with pytest.raises(IntensityError, match=r"no DoseGridScaling \(3004,000E\)"):
        Rescale.from_frame(frame_with(**facts))
    assert Rescale.from_frame(frame_with(rescale_slope=0.1, **facts)) == Rescale(0.1, 0)


def test_a_dose_grid_scaling_of_zero_names_the_attribute():
    with pytest.raises(IntensityError, match=r"DoseGridScaling \(3004,000E\)"):
        Rescale.from_frame(frame_with(dose_grid_scaling=0.0))


# --- windows --------------------------------------------------------------------------------------


@given(int16_arrays, centers, widths)
def test_linear_exact_is_the_formula_to_float32_rounding(
    values: np.ndarray, center: float, width: float
):
    window = Window(center, width)
    lower = Fraction(window.limits[0])
    assert abs(lower - (Fraction(center) - Fraction(width) / 2)) <= Fraction(1e-10)
    assert_exact_to_float32(window(values), exact_ramp(values, lower, Fraction(width)))


@given(int16_arrays, centers, widths.filter(lambda width: width > 1.01))
def test_linear_is_the_formula_to_float32_rounding(values: np.ndarray, center: float, width: float):
    window = Window(center, width, "LINEAR")
    assert_exact_to_float32(
        window(values), exact_ramp(values, Fraction(window.limits[0]), Fraction(width - 1))
    )


@given(int16_arrays, centers, widths)
def test_sigmoid_is_the_formula_to_float32_rounding(
    values: np.ndarray, center: float, width: float
):
    exact = [1 / (1 + math.exp(min(-4 * (int(x) - center) / width, 700))) for x in values.ravel()]
    assert np.allclose(
        Window(center, width, "SIGMOID")(values).ravel(), exact, rtol=1e-6, atol=1e-37
    )


INTEGERS = ["i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", ">i2"]


@given(st.data(), st.sampled_from(INTEGERS), st.integers(-(2**31), 2**31), st.integers(1, 2**25))
def test_integers_are_mapped_as_their_floats_are(data: Any, dtype: str, lower: int, width: int):
    limits = np.iinfo(dtype)
    ends = [
        int(limits.min),
        int(limits.max),
        lower,
        lower + width,
        lower - 1,
        lower + width + 1,
        lower + width // 2,
        0,
    ]
    near = st.sampled_from([value for value in ends if limits.min <= value <= limits.max])
    values = np.array(
        data.draw(st.lists(near | st.integers(int(limits.min), int(limits.max)), min_size=1)), dtype
    )
    before = values.copy()
    exact = [
        min(Fraction(1), max(Fraction(0), Fraction(int(value) - lower, width))) for value in values
    ]
    found = Limits(lower, lower + width)(values)
    assert found.dtype == np.float32 and np.array_equal(values, before)
    assert all(abs(Fraction(float(x)) - e) <= e / 2**22 for x, e in zip(found, exact, strict=True))
    as_floats = Limits(lower, lower + width)(values.astype(np.float64))
    assert np.array_equal(found, as_floats) or np.abs(found - as_floats).max() <= 2**-23


@pytest.mark.parametrize("shape", [(300, 400), (3, 0), (1,), ()])
def test_integers_are_mapped_alike_whatever_their_layout(shape: tuple[int, ...]):
    values = np.asarray(np.arange(math.prod(shape), dtype=np.int16).reshape(shape) % 3000 - 1500)
    whole = Limits(-1350, 150)(values)
    if shape:
        assert np.array_equal(Limits(-1350, 150)(np.asfortranarray(values)), whole)
        assert np.array_equal(Limits(-1350, 150)(values[..., ::2]), whole[..., ::2])
    assert np.array_equal(Limits(-1350, 150)(values.astype(np.float32)), whole)
    out = np.empty(shape, np.float32)
    assert Limits(-1350, 150)(values, out) is out and np.array_equal(out, whole)


@given(centers, widths, st.sampled_from(["LINEAR", "LINEAR_EXACT", "SIGMOID"]))
@settings(max_examples=40)
def test_windows_are_monotone_and_stay_within_0_and_1(center: float, width: float, function: Any):
    result = Window(center, width, function)(np.arange(-32768, 32768, 5, dtype=np.int16))
    assert (np.diff(result) >= 0).all()
    assert result.min() >= 0
    assert result.max() <= 1


# pydicom's result for the sigmoid of width 2
@pytest.mark.filterwarnings("ignore:overflow encountered in exp")
@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
@pytest.mark.parametrize("center, width", [(2048, 4096), (0, 100), (40.7, 400.3), (2048, 2)])
def test_pydicom_gives_the_same_windowed_values(function: Any, center: float, width: float):
    dataset = Dataset()
    dataset.PhotometricInterpretation, dataset.BitsStored, dataset.PixelRepresentation = (
        "MONOCHROME2",
        12,
        0,
    )
    dataset.WindowCenter, dataset.WindowWidth, dataset.VOILUTFunction = center, width, function
    values = np.arange(4096, dtype=np.uint16).reshape(64, 64)
    expected = apply_windowing(values, dataset) / 4095  # pydicom's range is that of 12 bits
    assert np.allclose(Window(center, width, function)(values), expected, rtol=0, atol=2e-7)


def y_of(window: Window, x: float) -> float:
    return float(window(np.array([x], np.float32))[0])


def test_the_standards_example_of_the_full_12_bit_range():
    """PS3.3 C.11.2.1.2.1, c=2048, w=4096.

    0 up to x=0, 1 above 4095, ((x - 2047.5) / 4095 + 0.5) between.
    """
    window = Window(2048, 4096, "LINEAR")
    assert [y_of(window, x) for x in (-1, 0, 4095, 4096)] == [0, 0, 1, 1]
    assert y_of(window, 1) == np.float32((1 - 2047.5) / 4095 + 0.5)


def test_the_standards_example_of_a_threshold():
    """PS3.3 C.11.2.1.2.1, c=2048, w=1: 0 up to x=2047.5, else 1."""
    window = Window(2048, 1, "LINEAR")
    assert [y_of(window, x) for x in (2047, 2047.5, 2047.75, 2048)] == [0, 0, 1, 1]


def test_the_standards_example_of_a_signed_range():
    """PS3.3 C.11.2.1.2.1, c=0, w=100: 0 up to x=-50, 1 above 49, ((x + 0.5) / 99 + 0.5) between."""
    window = Window(0, 100, "LINEAR")
    assert [y_of(window, x) for x in (-51, -50, 49, 50)] == [0, 0, 1, 1]
    assert y_of(window, 0) == pytest.approx(0.5 / 99 + 0.5, abs=6e-8)


def test_the_standards_example_of_a_threshold_at_zero():
    """PS3.3 C.11.2.1.2.1, c=0, w=1: 0 up to x=-0.5, else 1."""
    assert [y_of(Window(0, 1, "LINEAR"), x) for x in (-1, -0.5, -0.25, 0)] == [0, 0, 1, 1]


def test_linear_exact_reaches_0_and_1_at_center_minus_and_plus_half_the_width():
    window = Window(40, 400)
    assert [y_of(window, x) for x in (-161, -160, 40, 240, 241)] == [0, 0, 0.5, 1, 1]


@pytest.mark.parametrize(
    "function, width",
    [("LINEAR", 0.99), ("LINEAR", 0), ("LINEAR_EXACT", 0), ("SIGMOID", -1), ("LINEAR", math.nan)],
)
def test_a_width_that_the_function_forbids_is_an_error_with_its_numbers(
    function: Any, width: float
):
    with pytest.raises(IntensityError) as caught:
        Window(40, width, function)
    assert caught.value.center == 40
    assert caught.value.width is not None


def test_a_width_below_1_is_fine_for_linear_exact():
    assert y_of(Window(0, 0.5), 0.125) == 0.75


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
@pytest.mark.parametrize("width", [1, 250])
def test_nan_stays_nan_and_infinities_are_the_ends(function: Any, width: float):
    result = Window(50, width, function)(np.array([np.nan, np.inf, -np.inf], np.float32))
    assert np.isnan(result[0])
    assert result[1:].tolist() == [1, 0]


def test_the_files_own_window_follows_its_voi_lut_function_and_is_linear_without_one():
    frame = frame_with(window_center=(40.0, -600.0), window_width=(400.0, 1500.0))
    assert Window.from_frame(frame) == Window(40, 400, "LINEAR")
    assert Window.from_frame(frame, 1) == Window(-600, 1500, "LINEAR")
    sigmoid = frame_with(window_center=(40.0,), window_width=(400.0,), voi_lut_function="SIGMOID")
    assert Window.from_frame(sigmoid).function == "SIGMOID"


def test_a_frame_without_a_window_says_how_many_it_has():
    with pytest.raises(IntensityError, match="the file has 0") as caught:
        Window.from_frame(frame_with())
    assert caught.value.windows == 0
    with pytest.raises(IntensityError, match="the file has 1"):
        Window.from_frame(frame_with(window_center=(40.0,), window_width=(400.0,)), 1)


def test_window_centers_without_as_many_widths_are_an_error():
    with pytest.raises(IntensityError, match="expected pairs"):
        Window.from_frame(frame_with(window_center=(40.0, 50.0), window_width=(400.0,)))


def test_an_unknown_voi_lut_function_is_an_error_that_does_not_quote_the_header():
    with pytest.raises(IntensityError) as caught:
        Window.from_frame(
            frame_with(window_center=(40.0,), window_width=(400.0,), voi_lut_function="DOE^JANE")
        )
    assert "DOE" not in str(caught.value)


# --- what all maps have in common -----------------------------------------------------------------

MAPS = [
    Identity(),
    Limits(-100, 300),
    Limits(5, 5),
    Limits(0, 100, clip=False),
    Percentile(),
    Percentile(10, 90, clip=False),
] + [Window(40.7, 400, function) for function in ("LINEAR", "LINEAR_EXACT", "SIGMOID")]
OPTIONS = [*MAPS, Rescale(1, -1024), Intensity(Window(40, 400), invert=True), preset("ct.lung")]


@pytest.mark.parametrize("option", OPTIONS, ids=repr)
def test_options_pickle_compare_and_hash_as_values(option: Any):
    again = pickle.loads(pickle.dumps(option))  # our own bytes
    assert again == option
    assert hash(again) == hash(option)
    assert repr(again) == repr(option)


def test_equal_options_print_alike_whatever_number_type_they_were_given():
    given_as_float, given_as_integer = Window(40.0, 400.0), Window(np.float32(40), 400)  # type: ignore[arg-type]
    assert given_as_float == given_as_integer
    assert repr(given_as_float) == repr(given_as_integer)


def test_a_window_equals_one_of_another_name():
    assert preset("ct.lung") == Window(-600, 1500)


@pytest.mark.parametrize("option", MAPS, ids=repr)
@pytest.mark.parametrize("dtype", ["uint8", "int16", "int32", "float32"])
def test_out_gets_what_a_plain_call_returns_and_the_argument_is_left_alone(option: Any, dtype: str):
    values = (np.arange(300 * 400) % 251).reshape(300, 400).astype(dtype)  # more than one block
    values.flags.writeable = False
    plain = option(values)
    out = np.full(values.shape, np.nan, np.float32)
    assert option(values, out=out) is out
    assert plain.dtype == np.float32
    assert plain.shape == values.shape
    assert not np.shares_memory(plain, values)
    assert (out == plain).all()


@pytest.mark.parametrize("option", MAPS[:4] + MAPS[6:], ids=repr)
def test_a_patch_maps_like_the_volume_it_is_cut_from(option: Any):
    volume = (np.arange(20 * 90 * 90) % 2003 - 500).reshape(20, 90, 90).astype(np.int16)
    patch = volume[3:9, 10:30, ::2]
    assert (option(patch) == option(volume)[3:9, 10:30, ::2]).all()


@pytest.mark.parametrize(
    "option", [Window(40, 400), Limits(-160, 240), Window(40.7, 400)], ids=repr
)
def test_the_dtype_of_the_modality_values_does_not_matter(option: Any):
    values = np.arange(-1024, 3072, dtype=np.int16)
    results = [option(values.astype(dtype)) for dtype in ("int16", "int32", "float32", "float64")]
    assert all(np.allclose(result, results[0], rtol=2.5e-7, atol=0) for result in results)


def test_a_map_refuses_an_out_of_another_dtype_or_shape():
    for out in (np.empty(3, np.float64), np.empty(4, np.float32)):
        with pytest.raises(UsageError, match="expected float32"):
            Window(40, 400)(np.zeros(3, np.int16), out=out)  # type: ignore[arg-type]


def test_large_integers_keep_their_place_in_a_narrow_window():
    values = np.arange(2**30, 2**30 + 5, dtype=np.int32)
    assert Limits(2**30, 2**30 + 4)(values).tolist() == [0, 0.25, 0.5, 0.75, 1]


# --- percentiles ----------------------------------------------------------------------------------


def test_percentile_limits_are_those_of_the_finite_values():
    sample = np.concatenate([np.arange(101, dtype=np.float32), [np.nan, np.inf, -np.inf]]).astype(
        np.float32
    )
    assert Percentile(10, 90).limits(sample) == (10, 90)


def test_percentile_limits_of_the_whole_int16_range_do_not_overflow():
    assert Percentile(25, 75).limits(np.array([-32768, 32767], np.int16)) == (-16384.25, 16383.25)


@pytest.mark.parametrize("value", [0, 7, -3])
def test_a_constant_image_gives_zeros(value: int):
    result = Percentile()(np.full((4, 4), value, np.int16))
    assert (result == 0).all()


def test_percentile_without_clipping_goes_on_beyond_0_and_1():
    assert Percentile(0, 100, clip=False).with_limits(0, 10)(
        np.array([-10, 20], np.int16)
    ).tolist() == [-1, 2]


def test_a_sample_without_finite_values_is_an_error_with_its_size():
    with pytest.raises(IntensityError) as caught:
        Percentile().limits(np.full(5, np.nan, np.float32))
    assert caught.value.sampled == 5


@pytest.mark.parametrize("lower, upper", [(-1, 99), (50, 50), (99, 1), (0, 101), (math.nan, 99)])
def test_impossible_percentiles_are_an_error(lower: float, upper: float):
    with pytest.raises(IntensityError, match="0 <= lower < upper <= 100"):
        Percentile(lower, upper)


@pytest.mark.parametrize("lower, upper", [(2, 1), (math.nan, 1), (0, math.inf)])
def test_impossible_limits_are_an_error(lower: float, upper: float):
    with pytest.raises(IntensityError, match="the lower one first"):
        Limits(lower, upper)


@given(st.integers(0, 5000))
def test_at_most_16_frames_are_sampled_evenly_with_the_first_and_the_last(n_frames: int):
    positions = sample_positions(n_frames)
    assert len(positions) == min(16, n_frames)
    if n_frames:
        assert (positions[0], positions[-1]) == (0, n_frames - 1)
    if n_frames > 1:
        gaps = np.diff(positions)
        assert gaps.min() >= 1
        assert gaps.max() - gaps.min() <= 1


@given(st.integers(1, 20000), st.integers(1, 20000), st.integers(1, 16))
def test_the_stride_is_the_smallest_that_keeps_the_sample_within_2_to_the_20(
    rows: int, columns: int, n_sampled: int
):
    def sampled(step: int) -> int:
        return n_sampled * len(range(0, rows, step)) * len(range(0, columns, step))

    stride = sample_stride(rows, columns, n_sampled)
    assert sampled(stride) <= SAMPLED_VALUES
    assert stride == 1 or sampled(stride - 1) > SAMPLED_VALUES


# --- presets --------------------------------------------------------------------------------------


def test_the_presets_that_people_ask_for_are_there():
    words = "lung bone brain soft_tissue mediastinum liver subdural stroke angio abdomen spine"
    words += " temporal_bone"
    assert {f"ct.{word}" for word in words.split()} <= set(presets())


def test_every_preset_has_a_source_and_is_linear_exact_and_knows_its_name():
    tables = tomllib.loads(
        importlib.resources.files("dicomdl.values").joinpath("presets.toml").read_text("utf-8")
    )
    for name, window in presets().items():
        modality, word = name.split(".")
        assert len(tables[modality][word]["source"]) > 20
        assert (window.function, window.name) == ("LINEAR_EXACT", name)


@pytest.mark.parametrize("name", ["dx.chest", "cr.chest", "mg.breast", "us.full", "MR.brain"])
def test_a_modality_without_units_has_no_presets_and_the_error_names_what_it_has(name: str):
    with pytest.raises(UsageError, match="expected 'auto' or 'file'"):
        resolve(name, None)


def test_changing_the_dict_of_presets_changes_no_preset():
    presets().clear()
    assert preset("ct.brain") == Window(40, 80)


@pytest.mark.parametrize(
    "wrong, near",
    [("ct.lungs", "ct.lung"), ("lung", "ct.lung"), ("ct.medistinum", "ct.mediastinum")],
)
def test_an_unknown_preset_is_an_error_that_lists_near_names(wrong: str, near: str):
    with pytest.raises(UsageError, match=near) as caught:
        preset(wrong)
    assert near in caught.value.near


# --- auto, resolve, units -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "frame, expected",
    [
        (ct_frame(), Intensity(Limits(-1024, 3071))),
        (frame_with(modality="MR"), Intensity(Percentile(0.5, 99.5))),
        (frame_with(modality="PT", units="BQML"), Intensity(Limits(0, 20), quantity=SUV())),
        (frame_with(modality="PT", units="GML"), Intensity(Limits(0, 20), quantity=SUV())),
        (frame_with(modality="NM"), Intensity(Percentile(0, 100))),
        (frame_with(modality="DX"), Intensity(Percentile(0.5, 99.5))),
        (frame_with(modality="US", bits_stored=8), Intensity(Limits(0, 255))),
        (frame_with(modality="XC", samples_per_pixel=3, bits_stored=8), Intensity(Limits(0, 255))),
        (
            frame_with(modality="XA", samples_per_pixel=3, bits_stored=16),
            Intensity(Limits(0, 65535)),
        ),
        (
            frame_with(modality="OT", bits_stored=8, pixel_representation=1),
            Intensity(Limits(-128, 127)),
        ),
        (
            frame_with(modality="OT", bits_stored=8, rescale_slope=-2.0, rescale_intercept=5.0),
            Intensity(Limits(-505, 5)),
        ),
        (frame_with(modality="OT"), Intensity(Percentile(0.5, 99.5))),
        (
            frame_with(modality="OT", float_pixels=True, bits_stored=8),
            Intensity(Percentile(0.5, 99.5)),
        ),
        (
            frame_with(modality="SEG", sop_class_uid=SEGMENTATION, bits_stored=1),
            Intensity(Identity(), units=""),
        ),
        (frame_with(modality="RTDOSE", dose_units="GY"), Intensity(Identity(), units="GY")),
        (
            ct_frame(
                sop_class_uid=SECONDARY_CAPTURE,
                bits_stored=8,
                rescale_slope=None,
                rescale_intercept=None,
            ),
            Intensity(Limits(0, 255)),
        ),
    ],
)
def test_auto_does_what_its_table_says(frame: Frame, expected: Intensity):
    intensity = by_modality(frame)
    values = np.arange(-2000, 4000, 7, dtype=np.int16)
    assert (intensity.invert, intensity.units, intensity.quantity) == (
        expected.invert,
        expected.units,
        expected.quantity,
    )
    assert (intensity(values) == expected(values)).all()


@pytest.mark.parametrize("modality", sorted(PROJECTION))
def test_auto_takes_the_own_window_of_a_projection_image_and_inverts_monochrome1_after_it(
    modality: str,
):
    frame = frame_with(
        modality=modality,
        photometric_interpretation="MONOCHROME1",
        window_center=(2048.0,),
        window_width=(4096.0,),
    )
    intensity = by_modality(frame)
    values = np.arange(0, 4096, dtype=np.uint16)
    assert intensity.mapping == Window(2048, 4096, "LINEAR")
    assert (intensity(values) == 1 - Window(2048, 4096, "LINEAR")(values)).all()


@pytest.mark.parametrize("modality", sorted(set(AUTO_RULES) - PROJECTION))
def test_auto_never_inverts_what_is_not_a_projection_image(modality: str):
    assert not by_modality(
        frame_with(modality=modality, photometric_interpretation="MONOCHROME1")
    ).invert


@pytest.mark.parametrize("option", ["modality", "file", "ct.bone", (40, 400), Percentile()])
def test_only_auto_inverts(option: Any):
    frame = frame_with(
        modality="DX",
        photometric_interpretation="MONOCHROME1",
        window_center=(2048.0,),
        window_width=(4096.0,),
    )
    assert not resolve(option, frame).invert
    assert resolve("auto", frame).invert


def test_auto_falls_back_when_the_own_window_is_unusable():
    frame = frame_with(modality="CR", window_center=(0.0,), window_width=(0.0,))
    assert by_modality(frame).mapping == Percentile(0.5, 99.5)


def test_inverting_leaves_the_argument_alone_and_fills_out():
    values = np.array([0, 50, 100], np.float32)
    values.flags.writeable = False
    intensity = Intensity(lambda array: array, invert=True)  # returns its argument
    out = np.empty(3, np.float32)
    assert intensity(values).tolist() == [1, -49, -99]
    assert intensity(values, out) is out
    assert out.tolist() == [1, -49, -99]


def test_resolve_takes_everything_that_users_pass():
    frame = ct_frame(window_center=(35.0,), window_width=(70.0,))
    assert resolve("auto", frame) == by_modality(frame)
    assert (
        resolve(None, frame)
        == resolve("modality", frame)
        == resolve(Identity(), frame)
        == Intensity(Identity(), units="HU")
    )
    assert resolve("file", frame).mapping == Window(35, 70, "LINEAR")
    assert resolve("ct.lung", frame) == Intensity(Window(-600, 1500))
    assert resolve((40, 400), frame) == Intensity(Window(40, 400))
    assert resolve(Percentile(1, 99), frame) == Intensity(Percentile(1, 99))
    assert resolve(np.sqrt, frame) == Intensity(np.sqrt, units="")
    ready = Intensity(Window(1, 2), invert=True)
    assert resolve(ready, frame) is ready


def test_resolve_refuses_what_is_no_option():
    with pytest.raises(UsageError, match="expected"):
        resolve(3, frame_with())  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="no window preset"):
        resolve("autp", frame_with())
    with pytest.raises(IntensityError):
        resolve("file", frame_with())


def test_a_callers_own_function_gives_float32_and_must_keep_the_shape():
    values = np.arange(4, dtype=np.int16)
    assert resolve(lambda array: array * 2.0, frame_with())(values).dtype == np.float32
    with pytest.raises(IntensityError, match="keep the shape"):
        resolve(lambda array: array[:2], frame_with())(values)


def test_a_percentile_recipe_waits_for_the_sample_of_the_stack_and_then_maps_every_part_alike():
    volume = np.arange(32 * 32 * 32, dtype=np.int32).reshape(32, 32, 32)
    recipe = resolve("auto", frame_with(modality="MR"))
    assert recipe.needs_sample
    stride = sample_stride(32, 32, 16)
    ready = recipe.with_sample(volume[sample_positions(32), ::stride, ::stride])
    assert not ready.needs_sample
    assert ready.with_sample(volume[:1]) is ready
    assert (ready(volume)[5] == ready(volume[5])).all()


@pytest.mark.parametrize(
    "frame, units",
    [
        (ct_frame(), "HU"),
        (ct_frame(rescale_type="HU"), "HU"),
        (ct_frame(rescale_type="US"), "HU"),
        (ct_frame(rescale_type="US", image_type="ORIGINAL\\PRIMARY\\LOCALIZER"), ""),
        (ct_frame(rescale_type="US", image_type="DERIVED\\SECONDARY"), ""),
        (ct_frame(rescale_type="US", image_type=""), ""),
        (
            ct_frame(
                rescale_type="US",
                image_type="DERIVED\\MIXED",
                frame_type="ORIGINAL\\PRIMARY\\VOLUME\\NONE",
            ),
            "HU",
        ),
        (ct_frame(rescale_type="Z_EFF"), "Z_EFF"),
        (ct_frame(rescale_slope=None, rescale_intercept=None), ""),
        (ct_frame(sop_class_uid=SECONDARY_CAPTURE), ""),
        (ct_frame(sop_class_uid=SECONDARY_CAPTURE, rescale_type="HU"), "HU"),
        (frame_with(modality="PT", units="BQML"), "BQML"),
        (frame_with(modality="RTDOSE", dose_units="GY"), "GY"),
        (frame_with(modality="MR", rescale_type="US"), ""),
        (frame_with(modality="DX", rescale_type="OD"), "OD"),
        (frame_with(modality="MR"), ""),
    ],
)
def test_units_are_those_that_the_file_declares_or_the_standard_demands(frame: Frame, units: str):
    assert units_of(frame) == units


def test_a_recipe_asks_its_map_once_what_it_computes():
    asked: list[str] = []

    class Asked(FormulaMap):
        @property
        def formula(self) -> Formula:
            asked.append("formula")
            return Ramp(0.0, 10.0)

    recipe = Intensity(Asked(), invert=True)
    for _ in range(3):
        assert recipe.floor(np.dtype(np.int16)) == 10 and not recipe.is_identity
        assert recipe(np.array([0, 5, 20], np.int16)).tolist() == [1.0, 0.5, 0.0]
    assert asked == ["formula"]


def test_a_recipe_pickles_with_its_formula():
    recipe = pickle.loads(pickle.dumps(Intensity(Window(40, 400))))
    assert recipe == Intensity(Window(40, 400)) and recipe.formula == Ramp(-160.0, 400.0, margin=1)
