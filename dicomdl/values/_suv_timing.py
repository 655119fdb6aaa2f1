"""values.suv_timing"""

import datetime
import math
import re
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from dicomdl.values._suv_header import (
    SERIES_COLUMNS,
    Columns,
    PetHeader,
    number_of,
    refusal,
    text_of,
)

# No scan begins later: 0.4 % of the dose would be left. C-11 is imaged up to 6 half-lives, Cu-64
# up to 6 (3 days), Zr-89
# and I-124 up to 4; while one day, which is how de-identified dates go wrong, is 13 half-lives of
# F-18.
MAX_HALF_LIVES: Final = 8.0
MAX_LEAD_S: Final = 600.0  # a dynamic scan may begin this long before its injection
MAX_SERIES_LEAD_S: Final = (
    43200.0  # a Series does not begin more than half a day before its first image
)
SAME_TIME_S: Final = 60.0  # two spellings of one time of day
SAME_START_S: Final = 2.0  # times are often written in whole seconds
TOLERATED_DECAY: Final = 0.02  # of the dose, between times that should be one
_DAY_S: Final = 86400.0
# near the dates of PET, so that float64 keeps microseconds
_DAY_0: Final = datetime.date(1999, 9, 5).toordinal()


def decay_time(header: PetHeader, half_life: float, series: Columns | None) -> float:
    """Seconds from the injection to the start of the scan."""
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
        # Only times of day: the last such time before the scan, which may be on the day before.
        elapsed = (start.seconds - injected.seconds) % _DAY_S
        if elapsed >= _DAY_S - lead:
            elapsed -= _DAY_S
        if elapsed + _DAY_S <= latest:
            found = f"without a date, and a half-life of {half_life / 3600:.1f} h leaves several days possible"
            raise refusal(
                ["radiopharmaceutical_start_date_time", start.column],
                found,
                "the date of the injection and of the scan",
            )
    if elapsed > latest:
        found = f"contradictory ({elapsed / half_life:.0f} half-lives apart)"
        raise refusal(
            columns,
            found,
            f"an injection before the scan, by {MAX_HALF_LIVES:g} half-lives at most",
        )
    return elapsed


def _injection(header: PetHeader, start: "_Moment") -> "_Moment":
    """When the dose was given: the date and time, else the time of day alone.

    Both must agree on the time of day.

    All clocks are local to the scan (PS3.5 6.2): an offset from UTC counts only where the scan's
    own is stated, too.
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
    # Some write the DT in UTC beside a local TM: whole quarters of an hour apart, as time
    # zones are.
    if (
        moment.zone == 0
        and start.zone is None
        and abs(apart - 900 * round(apart / 900)) <= SAME_TIME_S
    ):
        return moment._replace(seconds=moment.seconds + apart)
    found = "contradictory (their times of day differ by more than a minute)"
    raise refusal([column, "radiopharmaceutical_start_time"], found, "one time of injection")


class _Moment(NamedTuple):
    """A point in time.

    Seconds since 1999-09-05 by the local clock, or within an unknown day when not `dated`.
    """

    seconds: float
    dated: bool
    column: str
    zone: float | None  # of the local clock, in seconds east of UTC, where it is stated


class _Timing(NamedTuple):
    """When one image was acquired, and how far it says that is from the start of the scan."""

    acquired: float
    reference_ms: float | None
    duration_ms: float | None
    decay_factor: float | None


def _scan_start(header: PetHeader, half_life: float, series: Columns | None) -> _Moment:
    """The instant that the values of a Series are decay corrected to (START).

    1. Series Date and Time, which is defined to be that reference (PS3.3 C.8.9.1.1.2), unless it is
    after the first image
       of the Series: then the Series was made later, by a reconstruction or another workstation;
    2. GE's own scan date and time (0009,100D); 3. the earliest acquisition of all images of the
    Series: of all time points and beds, not of this stack alone.

    QIBA's pseudo-code also offers to compute 3 back from each image: acquired - Frame Reference
    Time + the time of the average count rate within the frame. Where a Series is whole, both give
    the same. Where they differ (a Series whose first bed is missing, a second injection) vendors
    differ as well: GE counts to the start of the frame, Siemens and Philips to its average, CPS
    writes 0. So it serves as a witness (`_check_witnesses`), and a contradiction is an error.
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
    """Series Date and Time unless absent or after the first image.

    Without a date it is the nearest to the first image.
    """
    clock = _clock(header.text("series_time"), "series_time")
    if clock is None:
        return None
    day = _day(header.text("series_date"), "series_date")
    start = _Moment(clock + (day or 0) * _DAY_S, day is not None, "series_time", first.zone)
    if not (start.dated and first.dated):
        # Of the two dates one is missing: times of day are compared, and whichever date
        # there is dates both.
        start = _near(start, first)._replace(dated=first.dated)
    return None if start.seconds > first.seconds else start


def _private_start(header: PetHeader, first: _Moment) -> _Moment | None:
    """GE's scan date and time; its date counts for nothing where all other dates were removed."""
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
    """When the earliest image of the Series was acquired."""
    rows = set(_rows(header.facts, SERIES_COLUMNS))
    if series is not None:
        rows.update(_rows(series, SERIES_COLUMNS))
    moments = [_acquisition(*row) for row in rows]
    dated = [moment for moment in moments if moment.dated]
    anchor = min(dated, key=_seconds) if dated else _dated_by_series(moments[0], header)
    # A time without a date is the nearest one to a time that has one: beds may lie on both
    # sides of midnight.
    placed = [
        moment if moment.dated else _near(moment, anchor)._replace(dated=anchor.dated)
        for moment in moments
    ]
    return min(placed, key=_seconds)


def _dated_by_series(moment: _Moment, header: PetHeader) -> _Moment:
    day, clock = (
        _day(header.text("series_date"), "series_date"),
        _clock(header.text("series_time"), "series_time"),
    )
    if day is None:
        return moment
    noon = day * _DAY_S + (_DAY_S / 2 if clock is None else clock)
    return _near(moment, _Moment(noon, True, "series_time", None))._replace(dated=True)


def _acquisition(date: str, time: str, date_time: str) -> _Moment:
    """Acquisition Date and Time, else Acquisition DateTime."""
    clock = _clock(time, "acquisition_time")
    whole = _date_time(date_time, "acquisition_date_time", clock)
    if clock is None:
        if whole is None:
            raise refusal(
                ["acquisition_time"],
                "",
                "the time of every image of the Series, for the start of the scan",
            )
        return whole
    day = _day(date, "acquisition_date")
    if day is None and whole is not None:
        day = int(whole.seconds // _DAY_S)
    return _Moment(
        clock + (day or 0) * _DAY_S,
        day is not None,
        "acquisition_time",
        None if whole is None else whole.zone,
    )


def _timings(header: PetHeader, first: _Moment) -> list[_Timing]:
    rows = zip(
        _rows(header.facts, SERIES_COLUMNS),
        *(
            map(number_of, header.facts[name])
            for name in ("frame_reference_time", "actual_frame_duration", "decay_factor")
        ),
        strict=True,
    )
    timings = []
    for (date, time, date_time), *numbers in dict.fromkeys(rows):
        moment = _acquisition(date, time, date_time)
        if not (moment.dated and first.dated):
            moment = _near(moment, first)
        timings.append(_Timing(moment.seconds, *numbers))
    return timings


def _check_witnesses(timings: Sequence[_Timing], start: _Moment, half_life: float) -> None:
    """A contradiction where the images say how long after the scan's start they are, and none of their ways agrees with it.

    Frame Reference Time and Decay Factor count to the start of a frame or to the time of its average count rate, by vendor: any
    instant within the frame will do. 0 and 1 are what is written where they are unknown, and a number that puts the
    start elsewhere for every bed is no offset: these say nothing.
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
        found = "contradictory (the images count from another start of the scan)"
        raise refusal(
            [*contradicting, start.column],
            found,
            "one start of the scan, and all images of its Series",
        )


def _window(timing: _Timing, offset: float) -> tuple[float, float] | None:
    """Between which instants the scan began, if the image is `offset` seconds after that."""
    if offset <= 0 or timing.duration_ms is None or math.isinf(offset):
        return None
    return timing.acquired - offset, timing.acquired - offset + timing.duration_ms / 1000


_TM: Final = re.compile(r"(\d\d):?(\d\d):?(?:(\d\d)(\.\d+)?)?")
_DA: Final = re.compile(r"(\d{4})\.?(\d\d)\.?(\d\d)")
_DT: Final = re.compile(r"(\d{8})(\d\d.*?)?(?:([+-])(\d\d)(\d\d))?")


def _rows(columns: Columns, names: Sequence[str]) -> Iterable[tuple[str, ...]]:
    return zip(*(map(text_of, columns[name]) for name in names), strict=True)


def _clock(text: str, column: str) -> float | None:
    """Seconds since midnight of a TM (PS3.5 6.2), None when it is absent.

    One without minutes is no time to compute with.
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
    if hours > 23 or minutes > 59 or seconds >= 61:  # 60 is a leap second
        raise refusal([column], "not a time of day", "HHMM[SS[.FFFFFF]]")
    return 3600.0 * hours + 60.0 * minutes + seconds


def _day(text: str, column: str) -> int | None:
    """The number of a DA's day, None when it is absent."""
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
    """A DT (PS3.5 6.2), None when it is absent.

    One that ends with the day takes its time from `clock`.
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
    """Seconds from `other` to the nearest time of that clock, within half a day."""
    return (clock - other + _DAY_S / 2) % _DAY_S - _DAY_S / 2


def _seconds(moment: _Moment) -> float:
    return moment.seconds


def _near(moment: _Moment, anchor: _Moment) -> _Moment:
    """The moment on the day that brings it nearest to another."""
    return moment._replace(seconds=anchor.seconds + _apart(moment.seconds, anchor.seconds))
