"""What a cache reports, and the protocol of caches."""

import dataclasses
import os
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

from dicomdl.errors import UsageError
from dicomdl.storage.cache.entries import Entry, Make
from dicomdl.storage.cache.keys import Key


class CacheWarning(UserWarning):
    """A cache cannot store what it is given; values are delivered all the same."""


@dataclass(frozen=True, slots=True)
class Stats:
    """Counts of one process since it began.

    `hits` were found; `made` were not, and were computed by this process; `stored` is how many of
    those were stored, `failed` how often storing failed. `damaged` entries were found and made
    again. `evicted` entries were removed for room, or were while this process read them.
    """

    hits: int = 0
    made: int = 0
    stored: int = 0
    damaged: int = 0
    evicted: int = 0
    failed: int = 0


@runtime_checkable
class Cache(Protocol):
    """The protocol of caches that datasets take; `DiskCache` and `MemoryCache` follow it."""

    strict: bool  # whether keys are to be made with strict=True

    def get(self, key: Key, make: Make) -> Entry:
        """The entry of a key, made by `make` if need be, once by all processes of the cache.

        Raises what `make` raises.
        """
        ...

    def stats(self) -> Stats:
        """What this process has asked of the cache."""
        ...


class Counters:
    """The counts behind `Stats`; a process that was forked begins anew."""

    def __init__(self) -> None:
        self.process = -1
        self.counts: dict[str, int] = {}

    def _mine(self) -> dict[str, int]:
        if self.process != os.getpid():
            self.process, self.counts = (
                os.getpid(),
                dict.fromkeys((field.name for field in dataclasses.fields(Stats)), 0),
            )
        return self.counts

    def add(self, name: str, number: int = 1) -> None:
        self._mine()[name] += number

    def stats(self) -> Stats:
        return Stats(**self._mine())


def checked_bytes(max_bytes: int) -> int:
    if isinstance(max_bytes, bool) or not isinstance(max_bytes, int | np.integer) or max_bytes <= 0:
        raise UsageError(f"max_bytes={max_bytes!r}: expected a number of bytes above 0")
    return int(max_bytes)
