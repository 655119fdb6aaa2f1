"""The grace period of superseded generations, by two clocks of which one may be wrong."""

import time
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from dicomdl.storage import publishing as storage


class Moment(NamedTuple):
    """A moment by two clocks, in seconds.

    Attributes
    ----------
    date_s
        By the file system, since 1970: one clock for all machines that write to the folder.
    up_s
        By this machine, since its start: a clock that no one can set.
    """

    date_s: float
    up_s: float

    def since(self, earlier: "Moment") -> float:
        """Return the seconds since an earlier moment that both clocks confirm.

        The clock of a machine that has started since shows less; so may that of another machine.
        Processes that had a generation open have ended with it, and the date decides alone.
        """
        by_date = self.date_s - earlier.date_s
        is_running_since = self.up_s >= earlier.up_s
        return min(by_date, self.up_s - earlier.up_s) if is_running_since else by_date


def moment_of(path: str) -> Moment:
    """Return the moment in which a file or folder was written, which is just now."""
    return Moment(storage.written_s(path), time.monotonic())


def retirements(
    before: Mapping[str, object], names: Iterable[str], now: Moment
) -> dict[str, Moment]:
    """Return since when each of these generations is superseded.

    Parameters
    ----------
    before
        The retirements as the manifest has them: generation -> [date_s, up_s].
    names
        The generations in the folder, except the current one.
    now
        The moment of the scan. It replaces what is absent, unreadable or in the future.
    """
    found = {}
    for name in names:
        match before.get(name):
            case [int() | float() as date_s, int() | float() as up_s] if date_s <= now.date_s:
                found[name] = Moment(date_s, up_s)
            case _:
                found[name] = now
    return found
