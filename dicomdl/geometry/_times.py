"""Dates and times as numbers of seconds (PS3.5 6.2)."""

import datetime
import math

import numpy as np

from dicomdl.arrays import Floats


def past_midnight(seconds: Floats) -> Floats | None:
    """Shift times of day that span midnight, so that they increase from one day to the next.

    None where they spread so far (more than 12 hours) that one day and two are both possible.
    """
    distinct = np.unique(seconds)
    if distinct[-1] - distinct[0] <= 43200:
        return seconds
    gap = int(np.argmax(np.diff(distinct)))
    if distinct[gap + 1] - distinct[gap] <= 43200:
        return None
    return np.where(seconds > distinct[gap], seconds - 86400, seconds)


def seconds_of_time(text: str) -> float:
    """Convert a TM, HHMMSS.FFFFFF or a beginning of it, to seconds of the day; NaN if invalid."""
    digits = (text or "").replace(":", "")
    whole, _, fraction = digits.partition(".")
    if not (
        whole.isdecimal() and len(whole) in (2, 4, 6) and (not fraction or fraction.isdecimal())
    ):
        return math.nan
    hours, minutes, seconds = (int(whole[i : i + 2] or 0) for i in (0, 2, 4))
    return hours * 3600 + minutes * 60 + seconds + (float(f"0.{fraction}") if fraction else 0.0)


def seconds_of_date(text: str) -> float:
    """Convert a DA, YYYYMMDD, to seconds of the calendar; NaN if invalid."""
    digits = (text or "").replace(".", "")
    if not (digits.isdecimal() and len(digits) == 8):
        return math.nan
    try:
        return (
            datetime.date(int(digits[:4]), int(digits[4:6]), int(digits[6:])).toordinal() * 86400.0
        )
    except ValueError:
        return math.nan


def seconds_of_date_time(text: str) -> float:
    """Convert a DT, YYYYMMDDHHMMSS.FFFFFF&ZZXX, to UTC if it has an offset; NaN if invalid."""
    value, sign, offset = (text or "").strip(), 1, ""
    for mark in "+-":
        if mark in value:
            value, _, offset = value.partition(mark)
            sign = 1 if mark == "+" else -1
    shift = seconds_of_time(offset) if offset else 0.0
    return seconds_of_date(value[:8]) + seconds_of_time(value[8:]) - sign * shift
