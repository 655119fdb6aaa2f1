"""retiring: a superseded generation stays for its grace period whatever one clock says."""

import pytest

from dicomdl.index._retiring import Moment, retirements

NOW = Moment(date_s=1e9, up_s=5000.0)
DAY = 86400.0


@pytest.mark.parametrize(
    ("now", "elapsed"),
    [
        (Moment(1e9 + 60, 5060), 60),
        # A date that jumps ahead by a year, and one that jumps back.
        (Moment(1e9 + 365 * DAY, 5060), 60),
        (Moment(1e9 - DAY, 5060), -DAY),
        # The machine has started anew, or it is another one.
        (Moment(1e9 + 2 * DAY, 10), 2 * DAY),
    ],
)
def test_time_passes_by_both_clocks(now: Moment, elapsed: float) -> None:
    assert now.since(NOW) == elapsed


def test_what_is_absent_unreadable_or_of_the_future_is_retired_now() -> None:
    before = {"a": [1e9 - 60, 4000.0], "b": [1e9 + DAY, 1.0], "c": 7.0, "d": "x", "gone": [1, 2]}
    found = retirements(before, ["a", "b", "c", "d", "e"], NOW)
    assert found == {"a": Moment(1e9 - 60, 4000.0), "b": NOW, "c": NOW, "d": NOW, "e": NOW}
