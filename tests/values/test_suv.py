"""suv: formulas by hand, the choice of clocks, and a named attribute per fault of a header."""

import datetime
import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dicomdl.errors import IntensityError, SUVError, UsageError
from dicomdl.headers.frame import Frame, attributes
from dicomdl.values._suv_header import SERIES_COLUMNS, SUV_COLUMNS
from dicomdl.values.suv import SUV, SUV_KINDS, suv_factor

F18 = 6586.2
ZR89 = 78.41 * 3600
TEXTS = {attribute.name for attribute in attributes() if attribute.kind == "text"}

# Injected at 13:00, scanned at 14:00: BQML, decay corrected to the start of the scan.
BASE: dict[str, Any] = {
    "modality": "PT",
    "units": "BQML",
    "counts_source": "EMISSION",
    "series_type": "WHOLE BODY\\IMAGE",
    "corrected_image": "RAN\\DTIM\\NORM\\ATTN\\SCAT\\DECY",
    "decay_correction": "START",
    "series_date": "20200306",
    "series_time": "140000",
    "acquisition_date": "20200306",
    "acquisition_time": "140000.00",
    "patient_weight": 70.0,
    "patient_size": 1.75,
    "patient_sex": "M",
    "radiopharmaceutical_start_time": "130000",
    "radiopharmaceutical_start_date_time": "20200306130000.00",
    "radionuclide_total_dose": 3.7e8,
    "radionuclide_half_life": F18,
}
ABSENT: dict[str, Any] = {name: "" if name in TEXTS else None for name in SUV_COLUMNS}
UNDATED = {"series_date": "", "acquisition_date": "", "radiopharmaceutical_start_date_time": ""}


def facts(*frames: dict[str, Any], **more: Any) -> dict[str, list[Any]]:
    """Return columns of frames, each BASE with its own facts; `more` applies to all."""
    rows = [{**ABSENT, **BASE, **more, **frame} for frame in frames or ({},)]
    return {name: [row[name] for row in rows] for name in SUV_COLUMNS}


def factor(kind: Any = "bw", **more: Any) -> float:
    value = suv_factor(facts(**more), kind)
    return float(value)


def elapsed(
    value: float, half_life: float = F18, weight: float = 70.0, dose: float = 3.7e8
) -> float:
    """Return the seconds of decay in a factor of SUVbw."""
    return float(np.log2(value * dose / (1000 * weight)) * half_life)


def refusal(*frames: dict[str, Any], kind: Any = "bw", series: Any = None, **more: Any) -> SUVError:
    with pytest.raises(SUVError) as caught:
        suv_factor(facts(*frames, **more), kind, series=series)
    for private in ("2020", "1400", "1300", "0306"):
        assert private not in re.sub(r"\(\w{4},\w{4}\)", "", str(caught.value)), (
            "a date or time in a message"
        )
    return caught.value


# --- options and errors ---------------------------------------------------------------------------


def test_the_option_is_a_value_that_knows_its_unit():
    assert SUV() == SUV("bw") == pickle.loads(pickle.dumps(SUV()))
    assert hash(SUV()) == hash(SUV("bw"))
    assert [SUV(kind).units for kind in SUV_KINDS] == ["GML", "GML", "GML", "GML", "GML", "CM2ML"]  # type: ignore[arg-type]
    assert SUV(upper=15.0).upper == 15.0


@pytest.mark.parametrize(
    "kind, near",
    [("BW", "bw"), ("lbmjames", "lbmjames128"), ("bsa2", "bsa"), ("SUL", "lbmjanma"), (7, "bw")],
)
def test_an_unknown_kind_is_a_usage_error_with_near_names(kind: Any, near: str):
    with pytest.raises(UsageError, match=near):
        SUV(kind)
    with pytest.raises(UsageError, match=near):
        suv_factor(facts(), kind)


@pytest.mark.parametrize("upper", [0.0, -1.0, float("nan"), float("inf")])
def test_an_impossible_upper_end_is_a_usage_error(upper: float):
    with pytest.raises(UsageError):
        SUV(upper=upper)


def test_the_error_is_an_intensity_error_that_crosses_processes():
    error = refusal(patient_weight=None)
    assert isinstance(error, IntensityError) and error.attribute == "PatientWeight (0010,1030)"
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is SUVError and copy.attribute == error.attribute and str(copy) == str(error)
    assert "absent" in str(error) and "expected" in str(error) and "scan again" in str(error)


def test_every_column_is_a_fact_of_the_index():
    assert set(SUV_COLUMNS) <= set(Frame.__dataclass_fields__) and set(SERIES_COLUMNS) <= set(
        SUV_COLUMNS
    )


def test_columns_that_are_missing_empty_or_uneven_are_usage_errors():
    complete = facts({}, {})
    for broken in (
        {name: values for name, values in complete.items() if name != "units"},
        {name: [] for name in complete},
        {**complete, "units": ["BQML"]},
    ):
        with pytest.raises(UsageError):
            suv_factor(broken)
    with pytest.raises(UsageError, match="acquisition_time"):
        suv_factor(complete, series={"acquisition_date": ["20200306"]})


# --- Bq/ml ----------------------------------------------------------------------------------------


def test_start_decays_the_dose_from_the_injection_to_the_start_of_the_scan():
    # 3600 s are 0.546597 half-lives of F-18: 3.7e8 Bq become 2.533142e8 Bq, over 70,000 g.
    assert factor() == pytest.approx(70000 / 2.533142e8, rel=1e-6)


def test_admin_takes_the_dose_as_it_was_and_asks_for_no_times():
    times = ("series", "acquisition", "radiopharmaceutical_start")
    no_times = {name: "" for name in SUV_COLUMNS if name.startswith(times)}
    assert factor(
        decay_correction="ADMIN", **no_times, radionuclide_half_life=None
    ) == pytest.approx(70000 / 3.7e8, rel=1e-12)


def test_all_frames_have_one_factor():
    assert suv_factor(facts(*[{}] * 5)) == factor()


@pytest.mark.slow
@given(
    st.floats(0.02, 200),
    st.floats(1.0, 1e4),
    st.floats(600, 1e6),
    st.floats(0, 7.9),
    st.datetimes(datetime.datetime(1950, 1, 1), datetime.datetime(2090, 1, 1)),
)
def test_a_cylinder_that_holds_what_is_left_of_the_dose_has_suv_1(
    weight: float, kbq_per_g: float, half_life: float, lives: float, at: datetime.datetime
):
    dose = max(weight * 1000 * kbq_per_g * 1000, 2e5)
    start = at + datetime.timedelta(seconds=round(half_life * lives))
    # Bq/ml at a density of 1 g/ml
    activity = dose * 0.5 ** ((start - at).total_seconds() / half_life) / (1000 * weight)
    suv = activity * factor(
        patient_weight=weight,
        radionuclide_total_dose=min(dose, 1e11),
        radionuclide_half_life=half_life,
        radiopharmaceutical_start_time="",
        radiopharmaceutical_start_date_time=at.strftime("%Y%m%d%H%M%S.%f"),
        series_date="",
        series_time="",
        acquisition_date=start.strftime("%Y%m%d"),
        acquisition_time=start.strftime("%H%M%S.%f"),
    )
    assert suv == pytest.approx(max(dose, 1e11) / 1e11, rel=1e-6)


@pytest.mark.slow
@given(st.floats(30, 250), st.floats(0.5, 2))
def test_suvbw_is_linear_in_the_weight_and_inverse_in_the_dose(weight: float, times: float):
    assert factor(patient_weight=weight) == pytest.approx(factor() * weight / 70)
    assert factor(radionuclide_total_dose=3.7e8 * times) == pytest.approx(factor() / times)


@pytest.mark.slow
@given(st.integers(-20000, 20000), st.integers(-43200, 43200))
def test_shifting_all_dates_and_times_changes_nothing(days: int, seconds: int):
    shift = datetime.timedelta(days=days, seconds=seconds)
    injected, start = (datetime.datetime(2020, 3, 6, hour) + shift for hour in (13, 14))
    shifted = {
        "series_date": start.strftime("%Y%m%d"),
        "series_time": start.strftime("%H%M%S"),
        "acquisition_date": start.strftime("%Y%m%d"),
        "acquisition_time": start.strftime("%H%M%S"),
        "radiopharmaceutical_start_time": injected.strftime("%H%M%S"),
    }
    whole = injected.strftime("%Y%m%d%H%M%S")
    assert factor(**shifted, radiopharmaceutical_start_date_time=whole) == pytest.approx(
        factor(), rel=1e-6
    )
    # also over midnight
    assert factor(**shifted, radiopharmaceutical_start_date_time="") == pytest.approx(
        factor(), rel=1e-6
    )
    assert factor(**{**shifted, **UNDATED}) == pytest.approx(factor(), rel=1e-6)


# --- the start of the scan ------------------------------------------------------------------------


def beds(*times: str, **more: Any) -> dict[str, list[Any]]:
    return facts(*({"acquisition_time": time} for time in times), **more)


def test_the_series_time_counts_where_it_is_not_after_the_first_image():
    assert elapsed(suv_factor(beds("140300", "140130"))) == pytest.approx(3600)


def test_a_series_that_was_made_later_starts_with_its_earliest_bed():
    assert elapsed(
        suv_factor(beds("140600", "140130", "141000", series_time="173000"))
    ) == pytest.approx(3690)


def test_the_earliest_image_may_be_in_another_stack_of_the_series():
    series = {
        "acquisition_date": ["20200306"] * 3,
        "acquisition_time": ["142000", "140130", "143000"],
        "acquisition_date_time": [""] * 3,
    }
    value = suv_factor(facts(acquisition_time="142000", series_time="173000"), series=series)
    assert elapsed(value) == pytest.approx(3690)
    alone = refusal(
        acquisition_time="142000",
        series_time="173000",
        frame_reference_time=1.2e6,
        actual_frame_duration=180000,
    )
    assert alone.attribute == "FrameReferenceTime (0054,1300) and AcquisitionTime (0008,0032)"


def test_ges_own_time_counts_only_where_the_series_was_made_later():
    ge = "20200306140100.00"
    assert elapsed(
        factor(acquisition_time="140200", series_time="173000", ge_scan_date_time=ge)
    ) == pytest.approx(3660)
    assert elapsed(factor(acquisition_time="140200", ge_scan_date_time=ge)) == pytest.approx(3600)
    assert elapsed(
        factor(acquisition_time="140200", series_time="173000", ge_scan_date_time=ge, **UNDATED)
    ) == pytest.approx(3660)
    other_day = refusal(series_time="173000", ge_scan_date_time="20200308140100")
    assert "(0009,100D)" in other_day.attribute and "contradictory" in str(other_day)


def test_acquisition_date_time_serves_where_date_and_time_are_absent():
    whole = {
        "acquisition_date": "",
        "acquisition_time": "",
        "acquisition_date_time": "20200306140130.5+0100",
    }
    assert elapsed(factor(series_time="173000", **whole)) == pytest.approx(3690.5)
    assert elapsed(factor(series_time="", **whole)) == pytest.approx(3690.5)


def test_a_series_without_a_time_starts_with_its_first_image():
    assert elapsed(
        factor(series_date="", series_time="", acquisition_time="140500")
    ) == pytest.approx(3900)


def test_beds_on_both_sides_of_midnight_are_ordered_with_and_without_dates():
    night = {
        "radiopharmaceutical_start_time": "225800",
        "radiopharmaceutical_start_date_time": "",
        "series_time": "",
    }
    dated = facts(
        {"acquisition_time": "000200", "acquisition_date": "20200307"},
        {"acquisition_time": "235800"},
        **night,
    )
    undated = facts(
        {"acquisition_time": "000200"}, {"acquisition_time": "235800"}, **{**night, **UNDATED}
    )
    assert elapsed(suv_factor(dated)) == pytest.approx(3600)
    assert elapsed(suv_factor(undated)) == pytest.approx(3600)


def test_an_injection_before_midnight_belongs_to_the_day_before_the_scan():
    scan = {
        "series_time": "002000",
        "acquisition_time": "002000",
        "radiopharmaceutical_start_date_time": "",
    }
    assert elapsed(factor(radiopharmaceutical_start_time="232000", **scan)) == pytest.approx(3600)


@pytest.mark.parametrize("gap", ["series_date", "acquisition_date"])
def test_one_date_dates_the_times_that_have_none(gap: str):
    assert factor(**{gap: ""}) == pytest.approx(factor())


FRAMES = [
    {
        "acquisition_time": f"14{3 * bed:02}00",
        "frame_reference_time": 180000.0 * bed + 89000,
        "actual_frame_duration": 180000,
    }
    for bed in range(4)
]


def test_frame_reference_times_that_agree_change_nothing():
    assert elapsed(suv_factor(facts(*FRAMES))) == pytest.approx(3600)
    assert elapsed(suv_factor(facts(*FRAMES, series_time="173000"))) == pytest.approx(3600)
    # as GE counts
    to_start = [
        {**frame, "frame_reference_time": frame["frame_reference_time"] - 89000} for frame in FRAMES
    ]
    assert elapsed(suv_factor(facts(*to_start, series_time="173000"))) == pytest.approx(3600)


def test_a_series_whose_first_beds_are_missing_is_told_by_its_frame_reference_times():
    assert "FrameReferenceTime (0054,1300)" in refusal(*FRAMES[2:], series_time="173000").attribute
    # its Series Time is right
    assert elapsed(suv_factor(facts(*FRAMES[2:]))) == pytest.approx(3600)


def test_decay_factors_are_a_witness_where_frame_reference_times_are_0():
    def decayed(bed: int, **more: Any) -> dict[str, Any]:
        return {
            **FRAMES[bed],
            "frame_reference_time": 0.0,
            "decay_factor": 2 ** ((180 * bed + 89) / F18),
            **more,
        }

    assert elapsed(
        suv_factor(facts(decayed(0), decayed(3), series_time="173000"))
    ) == pytest.approx(3600)
    assert "DecayFactor (0054,1321)" in refusal(decayed(3), series_time="173000").attribute
    # One witness for the start is enough: some vendors use the other attribute otherwise.
    agreeing = decayed(3, frame_reference_time=1000.0)
    assert elapsed(suv_factor(facts(agreeing, series_time="173000"))) == pytest.approx(3600 + 540)


@pytest.mark.parametrize("reference", [None, 0.0, 1000.0])
def test_a_frame_reference_time_that_is_no_offset_from_the_scan_says_nothing(
    reference: float | None,
):
    frames = [{**frame, "frame_reference_time": reference} for frame in FRAMES]
    assert elapsed(suv_factor(facts(*frames))) == pytest.approx(3600)


def test_a_dynamic_scan_may_begin_before_its_injection():
    injected = {
        "radiopharmaceutical_start_time": "140030",
        "radiopharmaceutical_start_date_time": "20200306140030",
    }
    assert elapsed(factor(series_type="DYNAMIC\\IMAGE", **injected)) == pytest.approx(-30)
    injected["radiopharmaceutical_start_date_time"] = ""
    assert elapsed(factor(series_type="DYNAMIC\\IMAGE", **injected)) == pytest.approx(-30)
    assert "contradictory" in str(refusal(**injected))


# --- the injection --------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["1300", "13:00:00", "130000.000001", "130000.0 "])
def test_times_may_be_shortened_or_have_fractions(text: str):
    assert elapsed(
        factor(radiopharmaceutical_start_time=text, radiopharmaceutical_start_date_time="")
    ) == pytest.approx(3600, abs=1e-4)


@pytest.mark.parametrize(
    "text",
    [
        "202003061300",
        "20200306130000.5",
        "20200306130000.000000+0100",
        "202003061300-0800",
        "20200306",
    ],
)
def test_a_date_and_time_may_be_shortened_or_have_an_offset(text: str):
    assert elapsed(factor(radiopharmaceutical_start_date_time=text)) == pytest.approx(3600, abs=1)


def test_offsets_count_where_both_clocks_state_them():
    scan = {"acquisition_date_time": "20200306140000+0100", "radiopharmaceutical_start_time": ""}
    assert elapsed(
        factor(radiopharmaceutical_start_date_time="20200306120000+0000", **scan)
    ) == pytest.approx(3600)
    assert elapsed(
        factor(radiopharmaceutical_start_date_time="20200306070000-0500", **scan)
    ) == pytest.approx(3600)
    scan["radiopharmaceutical_start_time"] = "130000"
    assert elapsed(
        factor(radiopharmaceutical_start_date_time="20200306120000+0000", **scan)
    ) == pytest.approx(3600)
    assert "contradictory" in str(
        refusal(radiopharmaceutical_start_date_time="20200306110000+0000", **scan)
    )


def test_a_date_and_time_in_utc_beside_a_local_time_is_the_same_injection():
    assert elapsed(
        factor(
            radiopharmaceutical_start_date_time="20200306113000+0000",
            radiopharmaceutical_start_time="130000",
        )
    ) == pytest.approx(3600)
    assert "contradictory" in str(
        refusal(radiopharmaceutical_start_date_time="20200306113700+0000")
    )


@pytest.mark.parametrize("other", ["20200306130101", "20200306120000", "20200306120000+0100"])
def test_two_times_of_injection_that_differ_are_contradictory(other: str):
    error = refusal(radiopharmaceutical_start_date_time=other)
    assert error.attribute == (
        "RadiopharmaceuticalStartDateTime (0018,1078) and RadiopharmaceuticalStartTime (0018,1072)"
    )
    assert elapsed(factor(radiopharmaceutical_start_date_time="20200306130059")) == pytest.approx(
        3541
    )


@pytest.mark.parametrize("date", ["20200307", "20200305", "20180306", "20210306"])
def test_a_date_of_injection_that_was_shifted_away_from_the_scan_is_contradictory(date: str):
    error = refusal(radiopharmaceutical_start_date_time=date + "130000")
    assert (
        "RadiopharmaceuticalStartDateTime (0018,1078)" in error.attribute
        and "contradictory" in str(error)
    )


def test_series_and_images_that_were_shifted_apart_are_contradictory():
    error = refusal(series_date="20190306", radiopharmaceutical_start_date_time="")
    assert error.attribute == "SeriesTime (0008,0031) and AcquisitionTime (0008,0032)"


def test_slow_nuclides_are_imaged_days_later_and_need_the_date():
    days = {"radionuclide_half_life": ZR89, "radiopharmaceutical_start_date_time": "20200301130000"}
    assert elapsed(factor(**days), ZR89) == pytest.approx(5 * 86400 + 3600)
    for gap in (
        {"radiopharmaceutical_start_date_time": ""},
        {"series_date": "", "acquisition_date": ""},
    ):
        error = refusal(**{**days, **gap})
        assert "RadiopharmaceuticalStartDateTime (0018,1078)" in error.attribute and "date" in str(
            error
        )


def test_a_half_life_in_minutes_is_refused():
    assert "half-lives" in str(refusal(radionuclide_half_life=109.77))


# --- counts and SUV -------------------------------------------------------------------------------


def test_philips_counts_become_suv_by_its_own_factor_before_any_other():
    both = {"units": "CNTS", "philips_suv_factor": 0.000551, "philips_activity_factor": 1.7}
    assert factor(**both) == 0.000551
    assert factor(**both, radionuclide_total_dose=None, patient_weight=None) == 0.000551
    assert factor("bsa", **both) == pytest.approx(0.000551 * factor("bsa") / factor("bw"))


@pytest.mark.parametrize("unknown", [None, 0.0])
def test_philips_counts_become_activity_by_its_other_factor(unknown: float | None):
    counts = {"units": "CNTS", "philips_suv_factor": unknown}
    assert factor(**counts, philips_activity_factor=1.7) == pytest.approx(1.7 * factor())
    error = refusal(**counts, philips_activity_factor=unknown)
    assert "(7053,1000)" in error.attribute and "(7053,1009)" in error.attribute
    assert (
        "SUVType (0054,1006)"
        in refusal(units="CNTS", philips_suv_factor=1.0, suv_type="LBM").attribute
    )


def test_values_that_are_suv_stay_as_they_are_and_need_nothing_else():
    nothing = {
        name: ABSENT[name]
        for name in SUV_COLUMNS
        if name.startswith(("radio", "series_", "acquisition", "patient"))
    }
    assert factor(units="GML", suv_type="BW", **nothing) == 1
    assert factor(units="GML", **nothing) == 1  # absent means BW
    assert factor("bsa", units="CM2ML", **nothing) == 1
    assert factor("ibw", units="GML", suv_type="IBW", decay_correction="ADMIN", **nothing) == 1


@pytest.mark.parametrize("declared", SUV_KINDS)
@pytest.mark.parametrize("wanted", SUV_KINDS)
def test_another_kind_of_suv_is_converted_by_the_ratio_of_the_measures(declared: Any, wanted: Any):
    value = factor(wanted, units=SUV(declared).units, suv_type=declared.upper())
    assert value == pytest.approx(factor(wanted) / factor(declared), rel=1e-12)
    assert (value == 1) == (declared == wanted)


def test_a_declared_kind_that_lacks_what_its_conversion_needs_is_refused():
    assert (
        refusal(units="GML", suv_type="LBM", patient_size=None).attribute
        == "PatientSize (0010,1020)"
    )
    assert (
        refusal(units="GML", suv_type="BW", patient_weight=None, kind="bsa").attribute
        == "PatientWeight (0010,1030)"
    )
    assert refusal(units="CM2ML", patient_size=0.0).attribute == "PatientSize (0010,1020)"


@pytest.mark.parametrize(
    "units, declared", [("GML", "BSA"), ("CM2ML", "BW"), ("GML", "SUL"), ("CM2ML", "X")]
)
def test_a_declared_kind_that_does_not_fit_is_refused(units: str, declared: str):
    assert "SUVType (0054,1006)" in refusal(units=units, suv_type=declared).attribute


# --- kinds ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind, male, female",
    [  # 80 kg and 1.60 m: (80 / 160)^2 = 0.25, a body mass index of 31.25
        ("bw", 80000, 80000),
        ("lbm", 1000 * (88 - 30), 1000 * (85.6 - 37)),
        ("lbmjames128", 1000 * (88 - 32), 1000 * (85.6 - 37)),
        ("lbmjanma", 741.6e6 / (6680 + 6750), 741.6e6 / (8780 + 7625)),
        ("ibw", 1000 * (48 + 8.48), 1000 * (45.5 + 7.28)),
        ("bsa", 18330.2, 18330.2),  # 0.007184 x 6.43892 x 39.62662 = 1.83302 m2
    ],
)
def test_the_measures_by_hand(kind: str, male: float, female: float):
    for sex, measure in (("M", male), ("F", female)):
        value = factor(
            kind, decay_correction="ADMIN", patient_weight=80.0, patient_size=1.6, patient_sex=sex
        )
        assert value * 3.7e8 == pytest.approx(measure, rel=1e-4)


@pytest.mark.parametrize("kind", ["lbm", "lbmjames128", "lbmjanma", "ibw"])
@pytest.mark.parametrize("sex", ["", "O"])
def test_kinds_that_depend_on_sex_need_m_or_f(kind: str, sex: str):
    assert refusal(kind=kind, patient_sex=sex).attribute == "PatientSex (0010,0040)"
    assert factor("bsa", patient_sex=sex) > 0


def test_a_body_beyond_a_formula_is_refused():
    assert (
        "PatientSize (0010,1020)"
        in refusal(kind="lbmjames128", patient_weight=300.0, patient_size=1.6).attribute
    )
    assert refusal(kind="ibw", patient_size=0.9).attribute == "PatientSize (0010,1020)"


# --- what is missing, zero, implausible, contradictory --------------------------------------------


@pytest.mark.parametrize(
    "column, values, attribute",
    [
        ("modality", ["", "NM", "CT"], "Modality (0008,0060)"),
        ("units", ["", "1CM", "PROPCPS", "NONE"], "Units (0054,1001)"),
        ("counts_source", ["TRANSMISSION"], "CountsSource (0054,1002)"),
        ("corrected_image", ["", "ATTN", "DECY", "NORM\\SCAT"], "CorrectedImage (0028,0051)"),
        ("decay_correction", ["", "NONE", "SCAN"], "DecayCorrection (0054,1102)"),
        (
            "patient_weight",
            [None, 0.0, -70.0, 70000.0, float("nan"), float("inf")],
            "PatientWeight (0010,1030)",
        ),
        (
            "radionuclide_total_dose",
            [None, 0.0, -1.0, 370.0, 10.0, 370000.0, 3.7e14],
            "RadionuclideTotalDose (0018,1074)",
        ),
        (
            "radionuclide_half_life",
            [None, 0.0, -1.0, float("inf")],
            "RadionuclideHalfLife (0018,1075)",
        ),
        (
            "acquisition_time",
            ["", "25", "14", "half past two", "256100"],
            "AcquisitionTime (0008,0032)",
        ),
        ("acquisition_date", ["20201345", "yesterday"], "AcquisitionDate (0008,0022)"),
        ("series_time", ["99", "14000O"], "SeriesTime (0008,0031)"),
        ("series_date", ["00000000"], "SeriesDate (0008,0021)"),
        (
            "radiopharmaceutical_start_date_time",
            ["2020", "20201306130000", "202003069900"],
            "RadiopharmaceuticalStartDateTime (0018,1078)",
        ),
        (
            "radiopharmaceutical_start_time",
            ["13", "130061.5"],
            "RadiopharmaceuticalStartTime (0018,1072)",
        ),
        ("rescale_type", ["GML"], "RescaleType (0028,1054)"),
    ],
)
def test_what_is_absent_zero_or_impossible_is_named(column: str, values: list[Any], attribute: str):
    for value in values:
        assert attribute in refusal(**{column: value}).attribute, value


@pytest.mark.parametrize("size", [None, 0.0, 175.0])
@pytest.mark.parametrize("kind", ["lbm", "lbmjames128", "lbmjanma", "ibw", "bsa"])
def test_a_size_that_is_absent_or_in_centimetres_is_refused_by_kinds_that_need_it(
    kind: str, size: float | None
):
    assert refusal(kind=kind, patient_size=size).attribute == "PatientSize (0010,1020)"
    assert factor(patient_size=size) == factor()


def test_several_radiopharmaceuticals_are_named_with_their_number_where_a_dose_is_needed():
    # PS3.3 C.8.9.2 allows any number of items.
    for decay in ("START", "ADMIN"):
        error = refusal(radiopharmaceuticals=2, decay_correction=decay)
        assert error.attribute == "RadiopharmaceuticalInformationSequence (0054,0016)"
        assert "2 different items" in str(error)
    error = refusal(radiopharmaceuticals=3, units="CNTS", philips_activity_factor=2.0)
    assert "3 different items" in str(error)
    assert factor(radiopharmaceuticals=2, units="GML") == 1
    assert factor(radiopharmaceuticals=2, units="CNTS", philips_suv_factor=2.0) == 2.0
    assert factor(radiopharmaceuticals=1) == factor(radiopharmaceuticals=None) == factor()


def test_no_time_of_injection_names_both_attributes():
    error = refusal(radiopharmaceutical_start_time="", radiopharmaceutical_start_date_time="")
    assert error.attribute == (
        "RadiopharmaceuticalStartDateTime (0018,1078) and RadiopharmaceuticalStartTime (0018,1072)"
    )


def test_doses_of_mice_and_of_slow_nuclides_are_doses():
    assert factor(
        patient_weight=0.025, radionuclide_total_dose=5e6, decay_correction="ADMIN"
    ) == pytest.approx(25 / 5e6)
    assert factor(radionuclide_total_dose=1e7, decay_correction="ADMIN") == pytest.approx(
        70000 / 1e7
    )


@pytest.mark.parametrize(
    "column, other",
    [
        ("units", "GML"),
        ("patient_weight", 71.0),
        ("patient_weight", None),
        ("radionuclide_total_dose", 3.6e8),
        ("radionuclide_half_life", 6588.0),
        ("decay_correction", "ADMIN"),
        ("corrected_image", "ATTN\\DECY"),
        ("radiopharmaceutical_start_time", "130100"),
        ("radiopharmaceutical_start_date_time", "20200306130100"),
        ("series_time", "135900"),
    ],
)
def test_frames_of_one_stack_must_not_contradict_one_another(column: str, other: Any):
    error = refusal({}, {column: other})
    assert f"({_tag(column)})" in error.attribute and "contradictory" in str(error)


def _tag(column: str) -> str:
    tag = next(attribute.tag for attribute in attributes() if attribute.name == column)
    return f"{tag >> 16:04X},{tag & 0xFFFF:04X}"


def test_what_a_case_does_not_need_is_not_looked_at():
    assert (
        factor(
            units="GML",
            radiopharmaceutical_start_date_time="20200307130000",
            radionuclide_total_dose=370.0,
        )
        == 1
    )


# --- real files -----------------------------------------------------------------------------------


def columns_of(paths: list[Path]) -> dict[str, list[Any]]:
    """Return the columns as pydicom reads them, without the index."""
    import pydicom

    rows = []
    for path in paths:
        dataset = pydicom.dcmread(path, stop_before_pixels=True)
        inside = dataset.RadiopharmaceuticalInformationSequence[0]
        row = dict(ABSENT)
        for attribute in attributes():
            if attribute.name in row and not (attribute.creator or attribute.counts):
                element = (inside if attribute.inside else dataset).get(attribute.tag)
                if element is not None and element.value not in (None, ""):
                    value = element.value
                    many = (
                        "\\".join(value)
                        if isinstance(value, pydicom.multival.MultiValue)
                        else value
                    )
                    row[attribute.name] = str(many) if attribute.kind == "text" else float(value)
        rows.append(row)
    return {name: [row[name] for row in rows] for name in SUV_COLUMNS}


@pytest.mark.filterwarnings("ignore:The value length")
@pytest.mark.parametrize("patient", ["STS_002", "STS_019"])
def test_ibsi_pet_is_suv_already_although_its_date_of_injection_was_shifted(
    corpus: Path, patient: str
):
    columns = columns_of(
        sorted(
            (corpus / "theibsi+data_sets/ibsi_validation/dicom" / patient / "PET/image").iterdir()
        )
    )
    assert suv_factor(columns) == 1
    size, weight = columns["patient_size"][0], columns["patient_weight"][0]
    area = 0.007184 * weight**0.425 * (100 * size) ** 0.725
    assert suv_factor(columns, "bsa") == pytest.approx(10 * area / weight)


def test_a_whole_body_scan_in_bq_starts_with_its_first_bed(corpus: Path):
    columns = columns_of(sorted((corpus / "FNNDSC+data/dicom/rsna_2/PET").iterdir()))
    # Injected at 11:39:00, first bed at 13:02:44.678: 5024.678 s of F-18 (6586.2 s) in 66.2
    # kg, 381.47 MBq.
    expected = 66200 / (381470000 * 0.5 ** (5024.678 / 6586.2))
    assert suv_factor(columns) == pytest.approx(expected, rel=1e-9)
    later = {**columns, "series_time": ["180000"] * len(columns["units"])}
    assert suv_factor(later) == pytest.approx(expected, rel=1e-9)
    last = [
        place for place, time in enumerate(columns["acquisition_time"]) if time.startswith("1324")
    ]
    with pytest.raises(SUVError, match="DecayFactor"):
        suv_factor({name: [values[place] for place in last] for name, values in later.items()})
