"""The time between the volumes of a group, by facts that agree, disagree or say nothing."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from dicomdl.geometry.time_steps import time_step_s

TEXTS = {
    "acquisition_date_time",
    "acquisition_date",
    "acquisition_time",
    "frame_reference_date_time",
    "frame_acquisition_date_time",
    "scanning_sequence",
    "mr_acquisition_type",
}


def step(volumes: int, *names: str, **columns: Any) -> float:
    """Return the step of `volumes` volumes; a column has one value, or one per volume."""

    def facts(column: str) -> Sequence[Sequence[Any]]:
        value = columns.get(column, "" if column in TEXTS else None)
        every = value if isinstance(value, list) else [value] * volumes
        assert len(every) == volumes
        return [one if isinstance(one, tuple) else (one, one) for one in every]

    return time_step_s(names or ("temporal_position_identifier",), facts)


def clock(*seconds: float) -> list[str]:
    """Return acquisition times at 10 o'clock and `seconds`."""
    return [f"10{int(s // 60):02d}{s % 60:09.6f}" for s in seconds]


def test_volumes_a_repetition_apart_have_the_repetition_time() -> None:
    assert step(3, repetition_time=5000.0) == 5.0
    assert step(3, repetition_time=5000.0, scanning_sequence="EP\\GR") == 5.0
    assert step(3, "instance_number", repetition_time=2000.0, mr_acquisition_type="2D") == 2.0
    assert step(
        3, "diffusion_b_value", "diffusion_gradient_orientation", repetition_time=4100.0
    ) == (4.1)


@pytest.mark.parametrize(
    "seconds",
    [(0, 2.2, 4.4, 6.6), (0, 2.21, 4.4025, 6.61), (0, 2, 4, 6), (0, 2, 4, 7), (5, 5, 5, 5)],
)
def test_a_clock_that_agrees_confirms_the_repetition_time(seconds: tuple[float, ...]) -> None:
    assert step(4, acquisition_time=clock(*seconds), repetition_time=2200.0) == 2.2


def test_a_clock_counts_where_the_repetition_is_that_of_an_excitation() -> None:
    times = clock(0, 6.3, 12.6, 18.9)
    assert step(4, acquisition_time=times, repetition_time=4.1) == 6.3
    assert step(4, acquisition_time=times, repetition_time=2000.0) == 6.3
    assert step(4, acquisition_time=clock(0, 2, 4, 6)) == 2.0


def test_unequal_steps_are_no_step() -> None:
    assert np.isnan(step(4, acquisition_time=clock(0, 10, 20, 50), repetition_time=4.1))
    assert np.isnan(step(4, acquisition_time=clock(0, 10, 20, 50), repetition_time=2000.0))
    frames = [5e3, 15e3, 25e3, 45e3, 75e3, 120e3]
    assert np.isnan(step(6, "frame_reference_time", frame_reference_time=frames))
    # the order of b-values is not that of time
    directions = ("diffusion_b_value", "diffusion_gradient_orientation")
    times = clock(0, 20, 5, 10, 15)
    assert np.isnan(step(5, *directions, acquisition_time=times, repetition_time=5000.0))


def test_short_steps_are_as_equal_as_long_ones() -> None:
    assert step(4, "trigger_time", trigger_time=[0.0, 35.0, 71.0, 106.0]) == pytest.approx(
        0.0353, abs=1e-4
    )
    assert np.isnan(step(4, "trigger_time", trigger_time=[0.0, 35.0, 80.0, 110.0]))
    assert step(4, acquisition_time=clock(0, 0.05, 0.1, 0.15)) == 0.05
    assert np.isnan(step(4, acquisition_time=clock(0, 0.05, 0.109, 0.15)))


def test_a_clock_of_whole_seconds_needs_enough_of_them() -> None:
    assert np.isnan(step(3, acquisition_time=["120000", "120001", "120003"]))
    every = [f"12{s // 60:02d}{s % 60:02d}" for s in np.floor(np.arange(41) * 2.5).astype(int)]
    assert step(41, acquisition_time=every) == 2.5


def test_times_of_frames_precede_those_of_their_files() -> None:
    frames = [f"20200101{time}" for time in clock(0, 3, 6, 9)]
    files = [frames[0], frames[0], frames[2], frames[2]]
    step_s = step(4, acquisition_date_time=files, frame_acquisition_date_time=frames)
    assert step_s == 3


def test_times_past_midnight_run_on() -> None:
    times = ["235950.0", "000000.0", "000010.0"]
    assert step(3, acquisition_time=times) == 10
    dates = ["20200101", "20200102", "20200102"]
    assert step(3, acquisition_time=times, acquisition_date=dates) == 10
    moments = ["20200101235950.0", "20200102000000.0", "20200102000010.0"]
    assert step(3, acquisition_date_time=moments) == 10


def test_each_place_has_its_own_times() -> None:
    times = [tuple(clock(2.5 * t, 2.5 * t + 1.2)) for t in range(4)]
    assert step(4, acquisition_time=times) == 2.5
    drifting = [tuple(clock(2.5 * t, 3.5 * t + 1.2)) for t in range(4)]
    assert np.isnan(step(4, acquisition_time=drifting))


@pytest.mark.parametrize(
    ("name", "column", "values", "expected"),
    [
        ("frame_reference_time", "frame_reference_time", [30e3, 90e3, 150e3], 60),
        ("temporal_position_time_offset", "temporal_position_time_offset", [0.0, 1.5, 3.0], 1.5),
        ("temporal_position_index", "temporal_position_time_offset", [0.0, 1.5, 3.0], 1.5),
        ("temporal_position_identifier", "philips_dynamic_scan_begin_time", [0.0, 1.9, 3.8], 1.9),
        ("temporal_position_identifier", "trigger_time", [0.0, 2000.0, 4000.0], 2),
        ("trigger_time", "trigger_time", [10.0, 50.0, 90.0], 0.04),
        (
            "nominal_cardiac_trigger_delay_time",
            "nominal_cardiac_trigger_delay_time",
            [0.0, 35.5, 71.0],
            0.0355,
        ),
        (
            "frame_reference_date_time",
            "frame_reference_date_time",
            ["20200101120000.5", "20200101120003.0", "20200101120005.5"],
            2.5,
        ),
        (
            "temporal_position_index",
            "frame_acquisition_date_time",
            ["20200101120000.5", "20200101120003.0", "20200101120005.5"],
            2.5,
        ),
        ("temporal_position_identifier", "temporal_resolution", [6300.0] * 3, 6.3),
    ],
)
def test_every_clock_has_its_unit(
    name: str, column: str, values: list[Any], expected: float
) -> None:
    assert step(3, name, **{column: values}, repetition_time=4.1) == pytest.approx(expected)


@pytest.mark.parametrize(
    "names",
    [
        ("echo_time",),
        ("acquisition_number", "echo_time"),
        ("convolution_kernel",),
        ("image_type",),
        ("nominal_percentage_of_cardiac_phase",),
        ("trigger_time", "complex_image_component"),
        ("flip_angle",),
        ("dimension_index_values[1]",),
        ("philips_phase_number",),
    ],
)
def test_what_is_no_time_has_no_step(names: tuple[str, ...]) -> None:
    assert np.isnan(step(3, *names, repetition_time=5000.0, echo_time=[5.0, 10.0, 15.0]))


def test_a_group_without_facts_has_no_step() -> None:
    assert np.isnan(step(3))
    assert np.isnan(step(3, repetition_time=0.0))
    assert np.isnan(step(3, repetition_time=[5000.0, 5000.0, 4000.0]))
    assert np.isnan(step(3, acquisition_time="not a time"))


def test_a_repetition_that_cannot_be_that_of_a_volume_is_no_step() -> None:
    assert np.isnan(step(3, repetition_time=4.1))
    assert np.isnan(step(3, repetition_time=5000.0, mr_acquisition_type="3D"))
    assert np.isnan(step(3, repetition_time=600.0, scanning_sequence="SE"))
    assert np.isnan(step(3, repetition_time=250.0, scanning_sequence="GR"))
    # Philips names echo-planar sequences by their contrast alone
    assert step(3, repetition_time=2000.0, scanning_sequence="GR") == 2
    assert step(3, "diffusion_b_value", repetition_time=9000.0, scanning_sequence="SE") == 9


def test_a_temporal_resolution_in_an_unlikely_unit_is_not_used() -> None:
    assert step(3, temporal_resolution=5.0, repetition_time=5000.0) == 5
    assert np.isnan(step(3, temporal_resolution=5.0, repetition_time=4.1))
    assert np.isnan(step(3, temporal_resolution=5e6, repetition_time=4.1))
