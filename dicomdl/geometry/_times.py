"""Dates and times as numbers of seconds (PS3.5 6.2)."""

import datetime
import math

import numpy as np

from dicomdl.arrays import Floats


def past_midnight(seconds: Floats) -> Floats | None:
    """Times of day that may begin on one day and end on the next.

    None where they spread so far that either may be.
    """
    distinct = np.unique(seconds)
    if distinct[-1] - distinct[0] <= 43200:
        return seconds
    place = int(np.argmax(np.diff(distinct)))
    if distinct[place + 1] - distinct[place] <= 43200:
        return None
    return np.where(seconds > distinct[place], seconds - 86400, seconds)


def seconds_of_time(text: str) -> float:
    """A TM, HHMMSS.FFFFFF or a beginning of it, as seconds of the day; NaN where it is none."""
    digits = (text or "").replace(":", "")
    whole, _, fraction = digits.partition(".")
    if not (
        whole.isdecimal() and len(whole) in (2, 4, 6) and (not fraction or fraction.isdecimal())
    ):
        return math.nan
    hours, minutes, seconds = (int(whole[i : i + 2] or 0) for i in (0, 2, 4))
    return hours * 3600 + minutes * 60 + seconds + (float(f"0.{fraction}") if fraction else 0.0)


def seconds_of_date(text: str) -> float:
    """A DA, YYYYMMDD, as seconds of the calendar; NaN where it is none."""
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
    """A DT, YYYYMMDDHHMMSS.FFFFFF&ZZXX, in UTC where it tells its offset; NaN where it is none."""
    value, sign, offset = (text or "").strip(), 1, ""
    for mark in "+-":
        if mark in value:
            value, _, offset = value.partition(mark)
            sign = 1 if mark == "+" else -1
    shift = seconds_of_time(offset) if offset else 0.0
    return seconds_of_date(value[:8]) + seconds_of_time(value[8:]) - sign * shift
