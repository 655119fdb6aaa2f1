"""Whether a file system lets its readers wait, so that many reads at once pay.

The rule: three of the files that will be read are opened and read at their place, and the median of
the times decides for their device, until it is measured again. A local disk takes 20 us, and
threads would cost more than they save; a file system over a network takes milliseconds.
"""

import functools
import math
import os
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Final

from dicomdl.storage.handles import LocalFile

# The time of opening and reading from which a file system is slow.
SLOW_S: Final = 0.001
# A verdict holds this long: data reach the memory of this machine, and networks have hours.
_HOLDS_S: Final = 10.0
_TRIALS: Final = 3
_TRIAL_BYTES: Final = 4096

clock: Callable[[], float] = time.perf_counter


@dataclass(slots=True)
class _Verdict:
    """Whether a device is slow, and until when that holds."""

    is_slow: bool = False
    until: float = -math.inf


# Small: a flag per device.
@functools.lru_cache(maxsize=256)
def _verdict_on(_device: int) -> _Verdict:
    return _Verdict()


def is_slow(first: str, places: Callable[[], Sequence[tuple[str, int]]]) -> bool:
    """Return whether many reads at once pay for some files of one file system.

    Parameters
    ----------
    first
        The path that will be read first.
    places
        A function that returns all paths, each with an offset that will be read there. It is called
        where the device of the first was not measured lately.
    """
    verdict = _verdict_on(_device(os.path.dirname(first)))
    if clock() < verdict.until:
        return verdict.is_slow
    every = places()
    if not every:
        return False
    step = max(1, (len(every) - 1) // (_TRIALS - 1))
    times = sorted(_time(*place) for place in every[::step][:_TRIALS])
    verdict.is_slow = times[len(times) // 2] >= SLOW_S
    verdict.until = clock() + _HOLDS_S
    return verdict.is_slow


def _time(path: str, offset: int) -> float:
    """Return the seconds that opening a file and reading a little of it takes."""
    begin = clock()
    try:
        with closing(LocalFile(path)) as handle:
            handle.read_at(offset, _TRIAL_BYTES)
    except OSError:
        # Whoever reads the file says so.
        pass
    return clock() - begin


# Small: a number per folder.
@functools.lru_cache(maxsize=4096)
def _device(folder: str) -> int:
    try:
        return os.stat(folder).st_dev
    except OSError:
        return -1
