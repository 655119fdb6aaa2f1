"""Candidate attributes, from columns to codes, and the values shown for them."""

from typing import Any

import numpy as np
import pytest

from dicomdl.geometry._candidates import Candidates
from dicomdl.geometry._dimensions import Dimension, find_dimension
from dicomdl.geometry._specs import SPECS
from dicomdl.headers.columns import Constant
from dicomdl.headers.frame import Frame, attributes
from dicomdl.index.building import encoded, frames_table
from dicomdl.index.table import Table


def frames(count: int, **columns: Any) -> Table:
    """A `frames` table that holds only these columns; the others are absent throughout."""
    values: dict[str, Any] = {
        a.name: Constant("" if a.kind == "text" else False if a.kind == "flag" else None, count)
        for a in attributes()
    }
    assert set(columns) <= set(values)
    places = {
        "file": range(count),
        "frame_number": [1] * count,
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
