"""Candidate attributes, from columns to codes, and the values shown for them."""

from typing import Any

import numpy as np
import pytest

from dicomdl.geometry._candidates import Candidates, _five_digits, _naturally_ranked
from dicomdl.geometry._dimensions import Candidate, Dimension, Tier, find_dimension
from dicomdl.geometry._specs import SPECS
from dicomdl.headers.columns import Constant
from dicomdl.headers.frame import Frame, attributes
from dicomdl.index.building import encoded, frames_table
from dicomdl.index.table import Table


def frames(count: int, numbers: Any = None, **columns: Any) -> Table:
    """A `frames` table that holds only these columns; the others are absent throughout.

    `numbers` are those of the frames in their files, 1 by default.
    """
    values: dict[str, Any] = {
        a.name: Constant("" if a.kind == "text" else False if a.kind == "flag" else None, count)
        for a in attributes()
    }
    assert set(columns) <= set(values)
    places = {
        "file": range(count),
        "frame_number": numbers or [1] * count,
        "byte_offset": [0] * count,
        "byte_length": [0] * count,
    }
    places |= {
        "bit_offset": [0] * count,
        "deflated": [False] * count,
        "float_pixels": [False] * count,
    }
    return encoded(frames_table(places, values | columns, ()))


def shown(places: Any, **columns: Any) -> list[dict[str, Any]]:
    """The values of the dimension that is found."""
    candidates, rows = Candidates(frames(len(places), **columns)), np.arange(len(places))
    found = find_dimension(np.asarray(places), candidates.of(rows))
    assert isinstance(found, Dimension)
    return candidates.shown(found, rows)


def test_every_spec_names_columns_of_the_table_and_no_name_twice() -> None:
    assert {column for spec in SPECS for column in spec.columns} <= set(Frame.__slots__)
    names = [spec.name for spec in SPECS]
    assert len(set(names)) == len(names)


def test_every_fact_that_is_kept_for_splitting_is_a_candidate_or_has_another_use() -> None:
    other_uses = {
        # The number of tiles, for the header reader.
        "siemens_images_in_mosaic",
        # The position itself.
        "in_stack_position_number",
        "slice_vector",
        # Segments always split.
        "referenced_segment_number",
        # Each index is a candidate by itself.
        "dimension_index_values",
        "grid_frame_offset",
    }
    kept = {a.name for a in attributes() if a.need == "split"}
    assert kept - {column for spec in SPECS for column in spec.columns} <= other_uses


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"echo_time": [4.9, 7.3] * 2}, [{"echo_time": 4.9}, {"echo_time": 7.3}]),
        (
            {"siemens_b_value": [0, 1000] * 2},
            [{"diffusion_b_value": 0}, {"diffusion_b_value": 1000}],
        ),
        (
            {"ge_b_value": [(0.0, 8.0), (1e9 + 800, 8.0)] * 2},
            [{"diffusion_b_value": 0.0}, {"diffusion_b_value": 800.0}],
        ),
        (
            {"philips_b_value": [0.0, 1000.0] * 2},
            [{"diffusion_b_value": 0.0}, {"diffusion_b_value": 1000.0}],
        ),
        ({"image_type": ["A\\M", "A\\P"] * 2}, [{"image_type": "A\\M"}, {"image_type": "A\\P"}]),
        (
            {"acquisition_number": [None, 2] * 2},
            [{"acquisition_number": None}, {"acquisition_number": 2}],
        ),
        ({"echo_numbers": [(1.0,), (2.0,)] * 2}, [{"echo_numbers": 1.0}, {"echo_numbers": 2.0}]),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_values_are_shown_as_dicom_has_them_vendors_by_the_public_name(
    columns: dict[str, Any], expected: list[Any]
) -> None:
    assert shown([0, 0, 1, 1], **columns) == expected


def test_times_are_shown_in_seconds_from_the_first_volume_and_midnight_is_passed() -> None:
    found = shown(
        [0, 1, 0, 1],
        acquisition_date=["20200101"] * 2 + ["20200102"] * 2,
        acquisition_time=["235958"] * 2 + ["000001.5"] * 2,
    )
    assert found == [{"acquisition_time": 0.0}, {"acquisition_time": 3.5}]


def test_a_date_that_only_some_frames_have_does_not_count_and_is_never_shown() -> None:
    found = shown(
        [0, 0, 1, 1],
        acquisition_date=["20200101", "20200101", "", ""],
        acquisition_time=["101000", "101005"] * 2,
    )
    assert found == [{"acquisition_time": 0.0}, {"acquisition_time": 5.0}]


def test_without_dates_midnight_is_seen_where_the_rest_of_the_day_is_empty() -> None:
    found = shown([0, 0, 0, 1, 1, 1], acquisition_time=["235930", "000000", "000030"] * 2)
    assert found == [
        {"acquisition_time": 0.0},
        {"acquisition_time": 30.0},
        {"acquisition_time": 60.0},
    ]
    times = ["000000", "080000", "160000"] * 2
    candidates = Candidates(frames(6, acquisition_time=times))
    assert [c.name for c in candidates.of(np.arange(6))] == [], "may begin at any of them"


def test_gradient_directions_follow_one_another_as_they_were_acquired() -> None:
    directions = [(0.0, 0.0, 1.0), (-1.0, 0.0, 0.0), (0.0, 1.0, 0.0)]
    found = shown(
        [0, 0, 0, 1, 1, 1],
        diffusion_gradient_orientation=directions * 2,
        instance_number=[1, 2, 3, 4, 5, 6],
    )
    assert [one["diffusion_gradient_orientation"] for one in found] == [
        list(direction) for direction in directions
    ]


def test_a_direction_in_three_columns_is_one_value() -> None:
    columns = {f"ge_diffusion_direction_{axis}": [0.0, float(axis == "y")] * 2 for axis in "xyz"}
    found = shown([0, 0, 1, 1], **columns, instance_number=[1, 2, 3, 4])
    assert [one["diffusion_gradient_orientation"] for one in found] == [
        [0.0, 0.0, 0.0],
        [0.0, 1.0, 0.0],
    ]


def test_dimension_indices_are_candidates_one_by_one() -> None:
    found = shown(
        [0, 0, 1, 1], dimension_index_values=[(1.0, 1.0), (1.0, 2.0), (2.0, 1.0), (2.0, 2.0)]
    )
    assert found == [{"dimension_index_values[1]": 1}, {"dimension_index_values[1]": 2}]


def test_a_phase_that_jitters_is_told_by_its_middle() -> None:
    found = shown([0, 0, 1, 1, 2, 2], trigger_time=[0.0, 30.0, 1.0, 31.0, 2.0, 35.0])
    assert found == [{"trigger_time": 1.0}, {"trigger_time": 31.0}]


def test_the_last_digits_of_an_echo_time_do_not_count_but_its_value_does() -> None:
    found = shown([0, 0, 1, 1], echo_time=[4.9, 4.92, 4.9000011, 4.9199992])
    assert [one["echo_time"] for one in found] == [4.9, 4.92]


def test_a_number_that_some_frames_lack_is_no_candidate() -> None:
    candidates = Candidates(frames(4, instance_number=[None, 2, 3, 4], image_index=[1, 2, 3, 4]))
    assert [one.name for one in candidates.of(np.arange(4))] == ["image_index"]


def test_two_vendors_columns_of_one_value_are_one_value() -> None:
    found = shown(
        [0, 0, 1, 1],
        diffusion_b_value=[0.0, 1000.0, None, None],
        siemens_b_value=[None, None, 0, 1000],
    )
    assert found == [{"diffusion_b_value": 0.0}, {"diffusion_b_value": 1000.0}]


def test_one_date_for_all_frames_does_not_hide_that_midnight_passed() -> None:
    found = shown(
        [0, 0, 1, 1], acquisition_date=["20200101"] * 4, acquisition_time=["235958", "000002"] * 2
    )
    assert found == [{"acquisition_time": 0.0}, {"acquisition_time": 4.0}]


def test_a_repetition_time_that_differs_from_volume_to_volume_keeps_the_order_of_time() -> None:
    found = shown(
        [0, 0, 0, 1, 1, 1],
        repetition_time=[30.0, 10.0, 20.0] * 2,
        acquisition_time=["100000", "100010", "100020"] * 2,
    )
    assert [one["repetition_time"] for one in found] == [30.0, 10.0, 20.0]


def candidates_of(count: int, **columns: Any) -> dict[str, Candidate]:
    found = Candidates(frames(count, **columns)).of(np.arange(count))
    return {candidate.name: candidate for candidate in found}


# --- numbers and texts ----------------------------------------------------------------------------


def test_noisy_numbers_are_compared_to_five_significant_digits() -> None:
    values = [4.9, 4.9001, 4.90004, 123454.0, 123456.0, -0.00123456, 0.0, np.nan]
    expected = [4.9, 4.9001, 4.9, 123450.0, 123460.0, -0.0012346, 0.0, np.nan]
    np.testing.assert_allclose(_five_digits(np.array(values)), expected, rtol=1e-14)
    same = candidates_of(3, echo_time=[4.9, 4.90001, 4.89999], flip_angle=[9.0, 9.001, 9.0])
    assert list(same) == ["flip_angle"]
    assert candidates_of(2, echo_numbers=[(1.0,), (1.000001,)])


def test_texts_are_ordered_by_the_numbers_in_them() -> None:
    texts = ["b1000", "b500", "b0500", "a9z10", "a9z9", "b", "", f"b{'9' * 5000}"]
    ordered = sorted(range(len(texts)), key=_naturally_ranked(texts).tolist().__getitem__)
    assert [texts[n][:6] for n in ordered] == [
        "",
        "a9z9",
        "a9z10",
        "b",
        "b0500",
        "b500",
        "b1000",
        "b99999",
    ]
    assert _naturally_ranked(["x2", "x10", "x2"]).tolist() == [0, 1, 0]
    found = shown([0, 0, 1, 1], sequence_name=["*ep_b1000", "*ep_b500"] * 2)
    assert found == [{"sequence_name": "*ep_b500"}, {"sequence_name": "*ep_b1000"}]


def test_codes_order_and_equal_each_other_as_the_values_do() -> None:
    found = candidates_of(
        4,
        acquisition_number=[7, 3, None, 7],
        inversion_times=[(2.0,), (1.0, 5.0), (1.0,), None],
        image_type=["B", "A", "B", "A"],
        temporal_position_identifier=[5, 5, 5, 5],
    )
    codes = {name: candidate.codes.tolist() for name, candidate in found.items()}
    assert codes == {
        "inversion_times": [2, 1, 0, -1],
        "image_type": [1, 0, 1, 0],
        "acquisition_number": [2, 1, 0, 2],
    }
    assert all(candidate.codes.dtype == np.int64 for candidate in found.values())
    number = found["acquisition_number"]
    assert (number.tier, number.kind, number.slow, number.numbers) == (
        Tier.BOOKKEEPING,
        "value",
        True,
        None,
    )
    assert not found["image_type"].slow


def test_a_vendors_columns_that_do_not_vary_among_the_rows_are_no_candidate() -> None:
    table = frames(
        4, siemens_b_value=[0, 0, 1000, 1000], philips_b_value=[None] * 3 + [5.0], kvp=[80.0] * 4
    )
    candidates = Candidates(table)
    assert [one.name for one in candidates.of(np.arange(4))] == ["diffusion_b_value"]
    assert candidates.of(np.arange(2)) == []
    # The first column of a vendor that has a value counts.
    assert candidates.of(np.array([2, 3])) == []


def test_columns_that_vary_among_some_rows_are_named() -> None:
    table = frames(
        4,
        echo_time=[1.0, 1.0, 2.0, 2.0],
        inversion_times=[(1.0,), (2.0,), (2.0,), (2.0,)],
        kvp=[80.0] * 4,
        acquisition_time=["101000", "101001", "101002", "101003"],
    )
    candidates = Candidates(table)
    names = ("kvp", "inversion_times", "echo_time", "acquisition_time")
    assert candidates.varying(np.arange(4), names) == ["inversion_times", "echo_time"]
    assert candidates.varying(np.array([2, 3]), names) == []
    assert candidates.varying(np.array([0, 1]), names) == ["inversion_times"]
    assert candidates.varying(np.array([1, 2]), names) == ["echo_time"]
    assert candidates.varying(np.arange(4), ("kvp",)) == []


# --- times ----------------------------------------------------------------------------------------


def test_a_date_time_comes_before_a_date_and_a_time() -> None:
    found = shown(
        [0, 0, 1, 1],
        acquisition_date_time=["20200101235958", "20200102000001.12345"] * 2,
        acquisition_time=["101000", "101000"] * 2,
    )
    assert found == [{"acquisition_time": 0.0}, {"acquisition_time": 3.123}]


def test_a_date_time_that_some_frames_lack_gives_way_to_the_time() -> None:
    found = shown(
        [0, 0, 1, 1],
        acquisition_date_time=["20200101235958", "20200102000001", "", ""],
        acquisition_time=["101000", "101005"] * 2,
    )
    assert found == [{"acquisition_time": 0.0}, {"acquisition_time": 5.0}]
    lacking = candidates_of(4, frame_acquisition_date_time=["20200101101000", ""] * 2)
    assert "frame_acquisition_time" not in lacking
    known = candidates_of(4, frame_acquisition_date_time=["20200101101000", "20200101101001"] * 2)
    assert known["frame_acquisition_time"].codes.tolist() == [0, 1, 0, 1]
    assert not candidates_of(2, acquisition_time=["101000", ""])


def test_a_volume_begins_with_its_earliest_slice() -> None:
    places = [0, 1, 2] * 2
    times = ["101000", "101002", "101004", "101100", "101102", "101104"]
    assert shown(places, acquisition_time=times) == [
        {"acquisition_time": 0.0},
        {"acquisition_time": 60.0},
    ]
    assert shown(places, instance_number=[1, 2, 3, 4, 5, 6]) == [
        {"instance_number": 1},
        {"instance_number": 4},
    ]


DIRECTIONS = [(0.0, 0.0, 1.0), (-1.0, 0.0, 0.0), (0.0, 1.0, 0.0)]


@pytest.mark.parametrize(
    ("columns", "order"),
    [
        ({"instance_number": [3, 1, 2]}, [1, 2, 0]),
        ({"instance_number": [3, 1, 2], "acquisition_time": ["10", "12", "11"]}, [0, 2, 1]),
        # A time that some frame lacks is none.
        ({"instance_number": [3, 1, 2], "acquisition_time": ["10", "12", ""]}, [1, 2, 0]),
        ({"instance_number": [1, 1, 1], "numbers": [2, 3, 1]}, [2, 0, 1]),
        ({"instance_number": [2, 1, 1], "numbers": [1, 3, 2]}, [2, 1, 0]),
        ({"instance_number": [2, 1, 1], "acquisition_time": ["10", "10", "09"]}, [2, 1, 0]),
        # The order of the values is the last resort.
        ({}, [1, 0, 2]),
    ],
)
def test_values_without_an_order_come_as_acquired_by_time_instance_and_frame(
    columns: dict[str, Any], order: list[int]
) -> None:
    found = candidates_of(3, velocity_encoding_direction=DIRECTIONS, **columns)
    codes = found["velocity_encoding_direction"].codes
    assert np.argsort(codes).tolist() == order and sorted(codes.tolist()) == [0, 1, 2]


def test_a_value_comes_at_its_first_acquisition() -> None:
    found = candidates_of(
        4, rescale_slope=[2.0, 1.0, 2.0, 1.0], instance_number=[5, 6, 7, 4], echo_time=[1.0] * 4
    )
    assert found["rescale_slope"].codes.tolist() == [1, 0, 1, 0]


# --- dimension indices ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "indices",
    [
        [(1.0, 1.0), (1.0, 2.0), (1.0,), (1.0, 2.0)],
        [(1.0, 1.0), None, (2.0, 1.0), (2.0, 2.0)],
        [(1.0, 1.0)] * 4,
    ],
)
def test_dimension_indices_that_differ_in_number_or_not_at_all_are_no_candidates(
    indices: list[Any],
) -> None:
    assert candidates_of(4, dimension_index_values=indices) == {}


def test_twelve_dimension_indices_are_candidates() -> None:
    found = candidates_of(2, dimension_index_values=[(1.0,) * 14, (2.0,) * 14])
    assert list(found) == [f"dimension_index_values[{number}]" for number in range(12)]
    kinds = {(one.tier, one.kind, one.slow) for one in found.values()}
    assert kinds == {(Tier.BOOKKEEPING, "value", False)}


def test_a_dimension_of_two_attributes_is_shown_volume_by_volume() -> None:
    found = shown(
        [0] * 4 + [1] * 4,
        dimension_index_values=[(9.0, a, b) for _ in range(2) for a in (1.0, 3.0) for b in (5, 7)],
        echo_numbers=[(1.0, 2.0)] * 8,
    )
    assert found == [
        {"dimension_index_values[1]": a, "dimension_index_values[2]": b}
        for a in (1, 3)
        for b in (5, 7)
    ]
    lists = shown([0, 0, 1, 1], inversion_times=[(1.0, 2.0), (1.0, 3.0)] * 2)
    assert lists == [{"inversion_times": [1.0, 2.0]}, {"inversion_times": [1.0, 3.0]}]


@pytest.mark.parametrize("trigger", [[0.0, 30.0, 1.0, 31.0, 8.0, 40.0]])
def test_a_phase_is_shown_by_its_median(trigger: list[float]) -> None:
    found = shown([0, 0, 1, 1, 2, 2], trigger_time=trigger)
    assert found == [{"trigger_time": 1.0}, {"trigger_time": 31.0}]
