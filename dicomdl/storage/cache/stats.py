"""Counts that a cache reports per process, and the protocol of caches."""

import dataclasses
import os
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

from dicomdl.errors import DicomdlWarning, UsageError
from dicomdl.storage.cache.entries import Entry, Make
from dicomdl.storage.cache.keys import Key


class CacheWarning(DicomdlWarning):
    """Warning that a cache cannot store entries; values are computed and returned nevertheless."""


@dataclass(frozen=True, slots=True)
class Stats:
    """Counts of one process since its start.

    Attributes
    ----------
    hits : int
        Entries that the cache had.
    made : int
        Entries that this process computed.
    stored : int
        Computed entries that were stored.
    damaged : int
        Entries that were found damaged, and computed again.
    evicted : int
        Entries that this process removed for room, or that were evicted while it read them.
    failed : int
        Computed entries whose storing failed.
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

    # Whether keys are to be computed with strict=True.
    strict: bool

    def get(self, key: Key, make: Make) -> Entry:
        """Return the entry of a key, computed by `make` on a miss.

        The processes of the cache compute an entry once. Errors of `make` pass through.
        """
        ...

    def stats(self) -> Stats:
        """Return the counts of this process."""
        ...


class Counters:
    """The counts behind `Stats`; a forked process begins with zeros."""

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
        """Increase a count."""
        self._mine()[name] += number

    def stats(self) -> Stats:
        """Return the counts of this process."""
        return Stats(**self._mine())


def checked_bytes(max_bytes: int) -> int:
    """Return a limit in bytes; raise UsageError unless it is a number above 0."""
    if isinstance(max_bytes, bool) or not isinstance(max_bytes, int | np.integer) or max_bytes <= 0:
        raise UsageError(f"max_bytes={max_bytes!r}: expected a number of bytes above 0")
    return int(max_bytes)
