"""The time from one volume of a group to the next, by the facts of the headers.

A group has one time step only if its volumes follow each other in time and in equal steps. Echoes,
kernels and the like are no time axis. Three facts can state the step, in this order:

1. a clock: an attribute that differs from volume to volume. Its steps must be equal: frames of a
   PET series that grow longer have no common step.
2. Temporal Resolution.
3. Repetition Time (PS3.3 C.8.3.1), for sequences that acquire a volume per repetition. A clock that
   agrees with it only confirms it, because many clocks are coarse.

Without a clock, a short or 3-D repetition is that of an excitation, not of a volume.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from dicomdl.arrays import Floats
from dicomdl.geometry._times import (
    past_midnight,
    seconds_of_date,
    seconds_of_date_time,
    seconds_of_time,
)

# Values of a column per volume: (volumes, places) for some places that all volumes share.
Facts = Callable[[str], Sequence[Sequence[Any]]]

# Delays within a heart beat or breath, ms (PS3.3 C.7.6.16.2.7, C.7.6.16.2.17).
_DELAYS: Final = frozenset(
    {
        "trigger_time",
        "nominal_cardiac_trigger_delay_time",
        "actual_cardiac_trigger_delay_time",
        "nominal_respiratory_trigger_delay_time",
    }
)
_TIMES: Final = frozenset(
    {
        "temporal_position_index",
        "temporal_position_identifier",
        "temporal_position_time_offset",
        "frame_reference_time",
        "acquisition_number",
        "frame_acquisition_number",
        "acquisition_time",
        "frame_acquisition_time",
        "frame_reference_date_time",
        "content_time",
        "image_index",
        "instance_number",
    }
)
# Counters of more than time: they need a clock.
_COUNTERS: Final = frozenset(
    {"dimension_index_values", "time_slice_vector", "philips_phase_number"}
)
_DIFFUSION: Final = frozenset(
    {
        "diffusion_b_value",
        "diffusion_gradient_orientation",
        "philips_gradient_direction_number",
    }
)


@dataclass(frozen=True, slots=True)
class _Clock:
    """Times in s, (volumes, places), and their resolution in s."""

    seconds: Floats
    resolution_s: float


# Columns of numbers, and their unit in s: Temporal Position Time Offset in s (PS3.3 C.7.6.16.2.23),
# Frame Reference Time in ms (C.8.9.4), Trigger Time in ms (C.8.3.1), and the private Dynamic Scan
# Begin Time of Philips in s.
_OFFSETS: Final = (
    ("temporal_position_time_offset", 1.0),
    ("frame_reference_time", 1e-3),
    ("philips_dynamic_scan_begin_time", 1.0),
)
_TRIGGER: Final = ("trigger_time", 1e-3)
# Columns of dates and times: date-times, or a time with its date. Those of a frame come first,
# because those of a file are the same for all volumes that it holds.
_TEXTS: Final = (
    ("frame_reference_date_time",),
    ("frame_acquisition_date_time",),
    ("acquisition_date_time",),
    ("acquisition_date", "acquisition_time"),
)
# Resolution of numbers, and of texts with and without a fraction of a second.
_NUMBER_S: Final = 0.001
_FINE_S: Final = 0.01
_WHOLE_S: Final = 1.0
# Departure of one volume from equal steps, as far as the resolution does not explain more, and at
# most; and of a clock's step from the Repetition Time.
_UNEQUAL: Final = 0.02
_JITTER: Final = 0.05
_OTHER: Final = 0.01
# Uncertainty of the mean step of a coarse clock.
_UNCERTAIN: Final = 0.05
# Shortest Repetition Time in s that is taken for that of a volume: echo-planar, of another
# sequence, and of a sequence that the header does not name.
_SHORTEST_S: Final = {"planar": 0.1, "other": 1.0, "unknown": 0.2}
_EVERY_RESOLUTION_S: Final = (0.1, 600.0)


def time_step_s(names: Sequence[str], facts: Facts) -> float:
    """Return the step in s between the volumes of a group; NaN if there is none or it is unknown.

    Parameters
    ----------
    names
        Attributes that distinguish the volumes.
    facts
        Function from the name of a column to its values, per volume.
    """
    axis = _axis_of(names)
    delays = axis & _DELAYS
    if not _is_time(axis):
        return np.nan
    repetition = _constant(facts, "repetition_time", 1e-3)
    if delays:
        return _delay_step(next(iter(delays)), repetition, facts)
    clock = _first_clock(facts)
    if clock is not None:
        return _clock_step(clock, repetition)
    if axis <= _COUNTERS:
        return np.nan
    return _stated_step(repetition, facts, is_diffusion=bool(axis & _DIFFUSION))


def times_s(names: Sequence[str], facts: Facts) -> Floats:
    """Return (volumes,) the times in s of the volumes of a group, from 0 for the first one.

    They need no equal steps, as in dynamic PET. NaN where they are no times or are unknown.

    Parameters
    ----------
    names, facts
        As for `time_step_s`.
    """
    axis, count = _axis_of(names), len(facts("instance_number"))
    step = time_step_s(names, facts)
    if np.isfinite(step):
        return np.asarray(np.arange(count) * step)
    unknown = np.full(count, np.nan)
    if not _is_time(axis):
        return unknown
    if delays := axis & _DELAYS:
        clock: _Clock | None = _Clock(_delays(next(iter(delays)), facts), _NUMBER_S)
    else:
        clock = _first_clock(facts)
    if clock is None:
        return unknown
    times = np.median(clock.seconds - clock.seconds[:1], axis=1)
    return np.asarray(np.round(times, 6)) if (np.diff(times) > 0).all() else unknown


def _axis_of(names: Sequence[str]) -> set[str]:
    """Return the columns of the attributes, without the number of a component."""
    return {name.partition("[")[0] for name in names}


def _is_time(axis: set[str]) -> bool:
    """Whether attributes can order volumes in time."""
    if axis & _DELAYS:
        return len(axis) == 1
    return bool(axis) and (axis <= _TIMES | _DIFFUSION or (len(axis) == 1 and axis <= _COUNTERS))


def _delays(column: str, facts: Facts) -> Floats:
    """Return (volumes, 1) delays in s; the median over the places counts."""
    return np.asarray(np.median(_numbers(facts(column), 1e-3), axis=1, keepdims=True))


def _delay_step(column: str, repetition: float, facts: Facts) -> float:
    """Return the step of a delay within the cycle."""
    delays = _delays(column, facts)
    return np.nan if np.isnan(delays).any() else _clock_step(_Clock(delays, _NUMBER_S), repetition)


def _first_clock(facts: Facts) -> _Clock | None:
    """Return the first clock that every volume has and that runs."""
    for column, unit_s in _OFFSETS:
        clock = _running(_numbers(facts(column), unit_s), _NUMBER_S)
        if clock is not None:
            return clock
    for columns in _TEXTS:
        seconds = _seconds(columns, facts)
        if seconds is not None and (clock := _running(seconds, _resolution(seconds))) is not None:
            return clock
    return _running(_numbers(facts(_TRIGGER[0]), _TRIGGER[1]), _NUMBER_S)


def _running(seconds: Floats, resolution_s: float) -> _Clock | None:
    """Return a clock, or None if times are missing or the same for all volumes."""
    if np.isnan(seconds).any() or (seconds == seconds[:1]).all():
        return None
    return _Clock(seconds, resolution_s)


def _numbers(values: Sequence[Sequence[Any]], unit_s: float) -> Floats:
    return (
        np.array([[np.nan if value is None else float(value) for value in row] for row in values])
        * unit_s
    )


def _seconds(columns: Sequence[str], facts: Facts) -> Floats | None:
    """Return times in s from columns of texts; None where a midnight is ambiguous."""
    *dates, last = columns
    convert = seconds_of_date_time if last.endswith("date_time") else seconds_of_time
    seconds = np.array([[convert(text) for text in row] for row in facts(last)])
    if convert is seconds_of_date_time or np.isnan(seconds).any():
        return seconds
    days = np.array([[seconds_of_date(text) for text in row] for row in facts(dates[0])])
    # one date for all may be a default
    if np.isnan(days).any() or (days == days[0, 0]).all():
        return past_midnight(seconds)
    return np.asarray(seconds + days)


def _resolution(seconds: Floats) -> float:
    """Return 1 s for times without a fraction of a second."""
    return _WHOLE_S if (seconds == np.floor(seconds)).all() else _FINE_S


def _clock_step(clock: _Clock, repetition: float) -> float:
    """Return the step of a clock: the Repetition Time if it agrees, NaN for unequal steps."""
    is_coarse = clock.resolution_s == _WHOLE_S
    since = clock.seconds - clock.seconds[:1]
    steps = len(since) - 1
    mean = since[-1] / steps
    step, error = float(mean.mean()), clock.resolution_s / steps
    if not step > 0 or float(np.ptp(mean)) > max(error, _UNEQUAL * step):
        return np.nan
    off = float(np.abs(since - np.arange(steps + 1)[:, None] * mean).max())
    allowed = max(clock.resolution_s, _UNEQUAL * step)
    if off > (allowed if is_coarse else min(allowed, _JITTER * step)):
        return np.nan
    if abs(step - repetition) <= max(_OTHER * repetition, error):
        return repetition
    if is_coarse and error > _UNCERTAIN * step and off > 0:
        return np.nan
    return round(step, 6)


def _stated_step(repetition: float, facts: Facts, *, is_diffusion: bool) -> float:
    """Return the step without a clock: Temporal Resolution, or a Repetition Time of volumes."""
    resolution = _constant(facts, "temporal_resolution", 1e-3)
    least, most = _EVERY_RESOLUTION_S
    if least <= resolution <= most and not resolution < repetition:
        return resolution
    sequence = {
        word for row in facts("scanning_sequence") for text in row for word in text.split("\\")
    }
    is_planar = bool(sequence & {"EP", "RM"})
    kind = "planar" if is_planar else "other" if sequence - {""} else "unknown"
    # A conventional spin echo repeats once per line.
    if sequence & {"SE", "IR"} and not (is_planar or is_diffusion):
        return np.nan
    is_slab = any(text == "3D" for row in facts("mr_acquisition_type") for text in row)
    return np.nan if is_slab or not repetition >= _SHORTEST_S[kind] else repetition


def _constant(facts: Facts, column: str, unit_s: float) -> float:
    """Return the value that a column has everywhere, in s; NaN if it varies or is not positive."""
    values = _numbers(facts(column), unit_s)
    first = float(values.flat[0])
    return first if first > 0 and (values == first).all() else np.nan
