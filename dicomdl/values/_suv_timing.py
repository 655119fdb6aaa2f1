"""Times of a PET scan: from the injection to the instant of the decay correction.

Times are seconds since 1999-09-05 by the local clock of the scan. De-identification often removes
or shifts dates, so a time of day without a date is accepted when it is unambiguous, and a
contradiction beyond 2 % of decay is an error.
"""

import datetime
import math
import re
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from dicomdl.values._suv_header import (
    FRAME_TIME,
    SERIES_COLUMNS,
    Columns,
    PetHeader,
    number_of,
    refusal,
    text_of,
)

# Longest time from injection to scan: 0.4 % of the dose is left after it. C-11 is imaged up to 6
# half-lives, Cu-64 up to 6 (3 days), Zr-89 and I-124 up to 4. One day, the usual fault of
# de-identified dates, is 13 half-lives of F-18.
MAX_HALF_LIVES: Final = 8.0
# A dynamic scan may begin this long before its injection.
MAX_LEAD_S: Final = 600.0
# A Series begins at most half a day before its first image.
MAX_SERIES_LEAD_S: Final = 43200.0
# Largest difference of two spellings of one time of day.
SAME_TIME_S: Final = 60.0
# Times are often written in whole seconds.
SAME_START_S: Final = 2.0
# Largest fraction of the dose that decays between times that should be equal.
TOLERATED_DECAY: Final = 0.02
_DAY_S: Final = 86400.0
# Day 0 is near the dates of PET, so that float64 resolves microseconds.
_DAY_0: Final = datetime.date(1999, 9, 5).toordinal()


def decay_time(header: PetHeader, half_life: float, series: Columns | None) -> float:
    """Compute the seconds from the injection to the start of the scan."""
    start = _scan_start(header, half_life, series)
    injected = _injection(header, start)
    latest = MAX_HALF_LIVES * half_life
    lead = MAX_LEAD_S if header.text("series_type").split("\\")[0].strip() == "DYNAMIC" else 0.0
    columns = [injected.column, start.column]
    if injected.dated and start.dated:
        elapsed = start.seconds - injected.seconds
        if elapsed < -lead:
            raise refusal(
                columns,
                "contradictory (the scan begins before the injection)",
                "dates and times that were not shifted apart",
            )
    else:
        # Only times of day: the injection is the last such time before the scan, which may be on
        # the day before.
        elapsed = (start.seconds - injected.seconds) % _DAY_S
        if elapsed >= _DAY_S - lead:
            elapsed -= _DAY_S
        if elapsed + _DAY_S <= latest:
            problem = (
                f"without a date, and a half-life of {half_life / 3600:.1f} h "
                "leaves several days possible"
            )
            raise refusal(
                ["radiopharmaceutical_start_date_time", start.column],
                problem,
                "the date of the injection and of the scan",
            )
    if elapsed > latest:
        problem = f"contradictory ({elapsed / half_life:.0f} half-lives apart)"
        raise refusal(
            columns,
            problem,
            f"an injection before the scan, by {MAX_HALF_LIVES:g} half-lives at most",
        )
    return elapsed


def _injection(header: PetHeader, start: "_Moment") -> "_Moment":
    """Return the time of the injection: date and time, else the time of day alone.

    When the header has both, they must agree on the time of day. Clocks are local to the scan
    (PS3.5 6.2): an offset from UTC counts only when the scan states one as well.
    """
    column = "radiopharmaceutical_start_date_time"
    clock = _clock(header.text("radiopharmaceutical_start_time"), "radiopharmaceutical_start_time")
    moment = _date_time(header.text(column), column, clock)
    if moment is None:
        if clock is None:
            raise refusal(
                [column, "radiopharmaceutical_start_time"],
                "",
                "one of them, to know how much has decayed",
            )
        return _Moment(clock, False, "radiopharmaceutical_start_time", None)
    if moment.zone is not None and start.zone is not None:
        moment = moment._replace(seconds=moment.seconds + start.zone - moment.zone)
    if clock is None:
        return moment
    apart = _apart(clock, moment.seconds)
    if abs(apart) <= SAME_TIME_S:
        return moment
    # Some headers have the DT in UTC and the TM in local time: their difference is then a multiple
    # of a quarter of an hour, as time zones are.
    if (
        moment.zone == 0
        and start.zone is None
        and abs(apart - 900 * round(apart / 900)) <= SAME_TIME_S
    ):
        return moment._replace(seconds=moment.seconds + apart)
    problem = "contradictory (their times of day differ by more than a minute)"
    raise refusal([column, "radiopharmaceutical_start_time"], problem, "one time of injection")


class _Moment(NamedTuple):
    """A point in time.

    `seconds` count from 1999-09-05 by the local clock; from midnight of an unknown day when not
    `dated`. `zone` is the offset of that clock in seconds east of UTC, None when not stated.
    """

    seconds: float
    dated: bool
    column: str
    zone: float | None


class _Timing(NamedTuple):
    """The acquisition time of one image, and its facts about the distance to the scan's start."""

    acquired: float
    reference_ms: float | None
    duration_ms: float | None
    decay_factor: float | None


def _scan_start(header: PetHeader, half_life: float, series: Columns | None) -> _Moment:
    """Return the instant to which the values of a Series are decay corrected (START).

    The first of these that applies:

    1. Series Date and Time, which is that reference by definition (PS3.3 C.8.9.1.1.2), unless it is
       after the first image of the Series: then a reconstruction or another workstation created the
       Series later.
    2. GE's scan date and time (0009,100D).
    3. The earliest acquisition of all images of the Series, with all time points and beds.

    QIBA's pseudo-code also offers to compute 3 back from each image: acquisition time - Frame
    Reference Time + the time of the average count rate within the frame. For a complete Series both
    are equal. When they differ (a missing first bed, a second injection), vendors differ as well:
    GE counts to the start of the frame, Siemens and Philips to its average, CPS writes 0. Frame
    Reference Time is therefore a witness (`_check_witnesses`), and a contradiction is an error.
    """
    first = _first_acquisition(header, series)
    start = _series_start(header, first) or _private_start(header, first) or first
    if abs(first.seconds - start.seconds) > MAX_SERIES_LEAD_S:
        raise refusal(
            [start.column, first.column],
            "contradictory (more than 12 h apart)",
            "dates that were not shifted apart",
        )
    _check_witnesses(_timings(header, first), start, half_life)
    return start


def _series_start(header: PetHeader, first: _Moment) -> _Moment | None:
    """Return Series Date and Time, or None when absent or after the first image.

    Without a date, the day is the one nearest to the first image.
    """
    clock = _clock(header.text("series_time"), "series_time")
    if clock is None:
        return None
    day = _day(header.text("series_date"), "series_date")
    start = _Moment(clock + (day or 0) * _DAY_S, day is not None, "series_time", first.zone)
    if not (start.dated and first.dated):
        # At least one date is missing: times of day are compared, and the date of the first image,
        # if any, applies.
        start = _near(start, first)._replace(dated=first.dated)
    return None if start.seconds > first.seconds else start


def _private_start(header: PetHeader, first: _Moment) -> _Moment | None:
    """Return GE's scan date and time; its date is ignored when all other dates were removed."""
    start = _date_time(header.text("ge_scan_date_time"), "ge_scan_date_time")
    if start is not None and not first.dated:
        start = _near(start, first)._replace(dated=False)
    if start is not None and start.seconds > first.seconds + SAME_START_S:
        raise refusal(
            [start.column, first.column],
            "contradictory (the scan begins after its first image)",
            "a scan that begins with its images",
        )
    return start


def _first_acquisition(header: PetHeader, series: Columns | None) -> _Moment:
    """Return the acquisition time of the earliest image of the Series."""
    rows = set(_acquisitions(header.facts))
    if series is not None:
        rows.update(_acquisitions(series))
    moments = [_acquisition(*row) for row in rows]
    dated = [moment for moment in moments if moment.dated]
    anchor = min(dated, key=_seconds) if dated else _dated_by_series(moments[0], header)
    # A time without a date takes the day nearest to a dated one: beds may lie on both sides of
    # midnight.
    placed = [
        moment if moment.dated else _near(moment, anchor)._replace(dated=anchor.dated)
        for moment in moments
    ]
    return min(placed, key=_seconds)


def _dated_by_series(moment: _Moment, header: PetHeader) -> _Moment:
    """Date a time of day by Series Date: the day nearest to Series Time, or to noon."""
    day, clock = (
        _day(header.text("series_date"), "series_date"),
        _clock(header.text("series_time"), "series_time"),
    )
    if day is None:
        return moment
    noon = day * _DAY_S + (_DAY_S / 2 if clock is None else clock)
    return _near(moment, _Moment(noon, True, "series_time", None))._replace(dated=True)


def _acquisition(date: str, time: str, date_time: str, frame: str) -> _Moment:
    """Return Acquisition Date and Time, else Acquisition DateTime.

    In a multi-frame object these are those of its first frame (PS3.3 C.7.6.16.1), so Frame
    Acquisition DateTime comes first.
    """
    own = _date_time(frame, FRAME_TIME)
    if own is not None:
        return own
    clock = _clock(time, "acquisition_time")
    combined = _date_time(date_time, "acquisition_date_time", clock)
    if clock is None:
        if combined is None:
            raise refusal(
                ["acquisition_time"],
                "",
                "the time of every image of the Series, for the start of the scan",
            )
        return combined
    day = _day(date, "acquisition_date")
    if day is None and combined is not None:
        day = int(combined.seconds // _DAY_S)
    return _Moment(
        clock + (day or 0) * _DAY_S,
        day is not None,
        "acquisition_time",
        None if combined is None else combined.zone,
    )


def _timings(header: PetHeader, first: _Moment) -> list[_Timing]:
    """Return the distinct timings of the images of a stack."""
    rows = zip(
        _acquisitions(header.facts),
        *(
            map(number_of, header.facts[name])
            for name in (
                "frame_reference_time",
                "actual_frame_duration",
                "frame_acquisition_duration",
                "decay_factor",
            )
        ),
        strict=True,
    )
    timings = []
    for times, reference_ms, classic_ms, frame_ms, decay_factor in dict.fromkeys(rows):
        moment = _acquisition(*times)
        if not (moment.dated and first.dated):
            moment = _near(moment, first)
        duration_ms = frame_ms if classic_ms is None else classic_ms
        timings.append(_Timing(moment.seconds, reference_ms, duration_ms, decay_factor))
    return timings


def _check_witnesses(timings: Sequence[_Timing], start: _Moment, half_life: float) -> None:
    """Require that the images agree with the start of the scan; SUVError otherwise.

    Frame Reference Time and Decay Factor state the distance of an image from the start, to the
    start of the frame or to the time of its average count rate, by vendor: any instant within the
    frame is accepted. One of the two that agrees is enough. The values 0 and 1 mean unknown. A
    value that gives another start for every bed is no offset, and is ignored.
    """
    tolerance = max(SAME_START_S, -half_life * math.log2(1 - TOLERATED_DECAY))
    contradicting = []
    for column, windows in (
        ("frame_reference_time", [_window(t, (t.reference_ms or 0) / 1000) for t in timings]),
        (
            "decay_factor",
            [_window(t, half_life * math.log2(max(t.decay_factor or 1, 1))) for t in timings],
        ),
    ):
        known = [window for window in windows if window is not None]
        if not known:
            continue
        low, high = max(window[0] for window in known), min(window[1] for window in known)
        if low > high + SAME_START_S:
            continue
        if low - tolerance <= start.seconds <= high + tolerance:
            return
        contradicting.append(column)
    if contradicting:
        problem = "contradictory (the images count from another start of the scan)"
        raise refusal(
            [*contradicting, start.column],
            problem,
            "one start of the scan, and all images of its Series",
        )


def _window(timing: _Timing, offset: float) -> tuple[float, float] | None:
    """Return the interval in which the scan began, for an image `offset` seconds after it."""
    if offset <= 0 or timing.duration_ms is None or math.isinf(offset):
        return None
    return timing.acquired - offset, timing.acquired - offset + timing.duration_ms / 1000


_TM: Final = re.compile(r"(\d\d):?(\d\d):?(?:(\d\d)(\.\d+)?)?")
_DA: Final = re.compile(r"(\d{4})\.?(\d\d)\.?(\d\d)")
_DT: Final = re.compile(r"(\d{8})(\d\d.*?)?(?:([+-])(\d\d)(\d\d))?")


def _acquisitions(columns: Columns) -> Iterable[tuple[str, ...]]:
    """Return the texts of the acquisition time, one tuple per frame."""
    blank = [""] * len(columns[SERIES_COLUMNS[0]])
    names = (*SERIES_COLUMNS, FRAME_TIME)
    return zip(*(map(text_of, columns.get(name, blank)) for name in names), strict=True)


def _clock(text: str, column: str) -> float | None:
    """Return seconds since midnight of a TM (PS3.5 6.2), None when absent.

    A TM without minutes is an error.
    """
    if not text:
        return None
    match = _TM.fullmatch(text)
    if match is None:
        raise refusal([column], "not a time to the minute", "HHMM[SS[.FFFFFF]]")
    hours, minutes, seconds = (
        int(match[1]),
        int(match[2]),
        float((match[3] or "0") + (match[4] or "")),
    )
    # Second 60 is a leap second.
    if hours > 23 or minutes > 59 or seconds >= 61:
        raise refusal([column], "not a time of day", "HHMM[SS[.FFFFFF]]")
    return 3600.0 * hours + 60.0 * minutes + seconds


def _day(text: str, column: str) -> int | None:
    """Return the day number of a DA, None when absent."""
    if not text:
        return None
    match = _DA.fullmatch(text)
    try:
        if match is not None:
            return datetime.date(int(match[1]), int(match[2]), int(match[3])).toordinal() - _DAY_0
    except ValueError:
        pass
    raise refusal([column], "not a date", "YYYYMMDD")


def _date_time(text: str, column: str, clock: float | None = None) -> _Moment | None:
    """Return the moment of a DT (PS3.5 6.2), None when absent.

    A DT without a time takes it from `clock`.
    """
    if not text:
        return None
    match = _DT.fullmatch(text)
    if match is None or not (match[2] or clock is not None):
        raise refusal(
            [column], "not a date and time to the minute", "YYYYMMDDHHMM[SS[.FFFFFF]][&ZZXX]"
        )
    day, seconds = _day(match[1], column), _clock(match[2], column) if match[2] else clock
    zone = None
    if match[3]:
        zone = (3600.0 * int(match[4]) + 60.0 * int(match[5])) * (-1 if match[3] == "-" else 1)
    return _Moment((day or 0) * _DAY_S + (seconds or 0.0), True, column, zone)


def _apart(clock: float, other: float) -> float:
    """Return seconds from `other` to the nearest time with this clock, within half a day."""
    return (clock - other + _DAY_S / 2) % _DAY_S - _DAY_S / 2


def _seconds(moment: _Moment) -> float:
    """Return the sort key of moments."""
    return moment.seconds


def _near(moment: _Moment, anchor: _Moment) -> _Moment:
    """Move a moment to the day on which it is nearest to another."""
    return moment._replace(seconds=anchor.seconds + _apart(moment.seconds, anchor.seconds))
