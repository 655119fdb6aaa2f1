"""The base of both caches: look an entry up, on a miss compute and store it once, and count.

`DiskCache` and `MemoryCache` only add how entries are found, stored and locked.
"""

import functools
import warnings
from abc import ABC, abstractmethod
from contextlib import AbstractContextManager

from dicomdl.errors import DicomdlError
from dicomdl.storage.cache.entries import Arrays, Body, Entry, Held, Make, checked_arrays
from dicomdl.storage.cache.keys import Key
from dicomdl.storage.cache.stats import CacheWarning, Counters, Stats


class BaseCache(ABC):
    """A cache that finds entries, computes missing ones, and counts per process."""

    def __init__(self) -> None:
        self._counters = Counters()
        self._warned = False

    @abstractmethod
    def _find(self, digest: str, counting: bool = False) -> Body | None:
        """Return the entry if it is stored and usable; `counting` counts a damaged one."""

    @abstractmethod
    def _alone(self, digest: str) -> AbstractContextManager[object]:
        """Return a context that holds the lock of an entry, if possible."""

    @abstractmethod
    def _store(self, digest: str, arrays: Arrays) -> bool:
        """Store an entry; return False if it is too large, raise OSError if storing fails."""

    @abstractmethod
    def _drop(self, digest: str, lost: Body) -> None:
        """Count and remove an entry that proved unusable during a read."""

    def stats(self) -> Stats:
        """Return the counts of this process."""
        return self._counters.stats()

    def get(self, key: Key, make: Make) -> Entry:
        """Return the entry of `key`, on a miss computed by `make`, whose errors pass through."""
        body = self._find(key.digest)
        if body is None:
            body = self._fill(key.digest, make)
        else:
            self._counters.add("hits")
        return Entry(body, functools.partial(self._again, key.digest, make))

    def _fill(self, digest: str, make: Make) -> Body:
        """Compute an entry, unless another process does so while this one waits for the lock."""
        with self._alone(digest):
            body = self._find(digest, counting=True)
            if body is None:
                return self._made(digest, make, may_be_stored=True)
        self._counters.add("hits")
        return body

    def _made(self, digest: str, make: Make, may_be_stored: bool) -> Held:
        self._counters.add("made")
        arrays, is_stored = checked_arrays(make()), False
        if may_be_stored:
            try:
                is_stored = self._store(digest, arrays)
                self._counters.add("stored", int(is_stored))
            except OSError as error:
                self._counters.add("failed")
                self._warn(error)
        return Held(arrays, is_stored=is_stored)

    def _again(self, digest: str, make: Make, lost: Body, may_be_stored: bool) -> Body:
        """Return a new entry in place of one that was lost during a read."""
        self._drop(digest, lost)
        if may_be_stored:
            return self._fill(digest, make)
        return self._made(digest, make, may_be_stored=False)

    def _warn(self, error: OSError | DicomdlError) -> None:
        """Warn once per process that entries cannot be stored."""
        if not self._warned:
            self._warned = True
            reason = getattr(error, "strerror", None) or str(error)
            warnings.warn(
                f"{self!r} cannot store entries ({reason}); "
                "values are computed each time until it can",
                CacheWarning,
                stacklevel=5,
            )
