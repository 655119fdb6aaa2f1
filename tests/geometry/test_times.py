"""Dates and times of headers as seconds."""

import math

import pytest

from dicomdl.geometry._times import seconds_of_date, seconds_of_date_time, seconds_of_time


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("10", 36000),
        ("1030", 37800),
        ("103015", 37815),
        ("103015.25", 37815.25),
        ("10:30:15", 37815),
        ("000000", 0),
    ],
)
def test_times_of_every_length_that_the_standard_allows_are_read(text: str, seconds: float) -> None:
    assert seconds_of_time(text) == seconds


@pytest.mark.parametrize("text", ["", "1", "10a", "12345", "noon", "1030.x", "  "])
def test_what_is_no_time_is_nan(text: str) -> None:
    assert math.isnan(seconds_of_time(text))


def test_dates_count_days_and_what_is_none_is_nan() -> None:
    assert seconds_of_date("20200301") - seconds_of_date("20200228") == 2 * 86400, (
        "2020 was a leap year"
    )
    assert seconds_of_date("2020.03.01") == seconds_of_date("20200301"), "as ACR-NEMA wrote it"
    assert all(
        math.isnan(seconds_of_date(text)) for text in ("", "20201340", "202003", "yesterday")
    )


def test_a_date_time_is_in_utc_where_it_tells_its_offset() -> None:
    assert seconds_of_date_time("20200301103015.5") == seconds_of_date("20200301") + 37815.5
    assert seconds_of_date_time("20201025025900+0200") + 60 == seconds_of_date_time(
        "20201025020000+0100"
    ), "the clock was put back between"
    assert seconds_of_date_time("20200301103000-0500") == seconds_of_date_time(
        "20200301153000+0000"
    )
    assert math.isnan(seconds_of_date_time("20200301"))
