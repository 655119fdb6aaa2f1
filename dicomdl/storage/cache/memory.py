"""`MemoryCache`: decoded stacks in memory that all workers of a DataLoader share.

The oldest entries are evicted first, whether used or not: readers take no lock, and a ring buffer
needs no bookkeeping of uses.
"""

import functools
from contextlib import AbstractContextManager
from multiprocessing import context, reduction
from typing import Any, Final

from dicomdl.storage import locks
from dicomdl.storage.cache._base import BaseCache
from dicomdl.storage.cache._ring import Ring
from dicomdl.storage.cache._stored import StoredEntry
from dicomdl.storage.cache.entries import Arrays, Body, Lost
from dicomdl.storage.cache.stats import checked_bytes
from dicomdl.storage.system import physical_memory

DEFAULT_MEMORY_BYTES: Final = 4 * 2**30


class MemoryCache(BaseCache):
    """A cache of decoded stacks in memory that all workers of a DataLoader share.

    The workers may be forked or spawned. New entries evict the oldest ones.

    Parameters
    ----------
    max_bytes
        Limit of all entries together. The default is 4 GiB, or a quarter of the memory of the
        machine if that is less. Memory is allocated when it is filled.
    strict
        Whether keys are computed from the contents of files instead of their times and inodes (see
        `stack_key`).

    Attributes
    ----------
    max_bytes : int
        The limit in bytes.
    strict : bool
        Whether keys are computed from contents.

    Raises
    ------
    UsageError
        `max_bytes` is not a number above 0.

    Warns
    -----
    CacheWarning
        Entries cannot be stored. Values are computed each time then. The warning appears once per
        process.

    Notes
    -----
    The workers of a loader map the same memory, which they inherit by fork or receive as a
    descriptor. It has no name, and the system frees it with the last process that maps it. A cache
    that is pickled for another purpose (to a file, to another machine) becomes an empty cache with
    the same options. Entries larger than the cache are computed each time. On Windows each worker
    has a separate cache of `max_bytes`.

    Examples
    --------
    >>> import dicomdl
    >>> cache = dicomdl.MemoryCache(max_bytes=64 * 2**20)
    >>> cache.stats().hits
    0

    A dataset takes it as an option: ``VolumeDataset(index, cache=cache)``.
    """

    def __init__(self, max_bytes: int | None = None, *, strict: bool = False) -> None:
        super().__init__()
        self.max_bytes = checked_bytes(_default_memory() if max_bytes is None else max_bytes)
        self.strict = strict
        self._ring = Ring(self.max_bytes)

    def __reduce__(self) -> tuple[Any, ...]:
        if not locks.available() or context.get_spawning_popen() is None:
            return functools.partial(MemoryCache, strict=self.strict), (self.max_bytes,)
        return _attached, (self.max_bytes, self.strict, reduction.DupFd(self._ring.descriptor))

    def __copy__(self) -> "MemoryCache":
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> "MemoryCache":
        return self

    def __repr__(self) -> str:
        return f"MemoryCache({self.max_bytes}, strict={self.strict})"

    def _find(self, digest: str, counting: bool = False) -> Body | None:
        try:
            return self._ring.find(digest)
        except Lost:
            self._counters.add("damaged", int(counting))
            return None

    def _alone(self, digest: str) -> AbstractContextManager[object]:
        return self._ring.making(digest)

    def _store(self, digest: str, arrays: Arrays) -> bool:
        return self._ring.put(digest, arrays)

    def _drop(self, digest: str, lost: Body) -> None:
        assert isinstance(lost, StoredEntry)
        position = lost.source.number
        if self._ring.is_whole(position):
            self._counters.add("damaged")
            self._ring.drop(digest, position)
        else:
            self._counters.add("evicted")


def _default_memory() -> int:
    memory = physical_memory()
    return DEFAULT_MEMORY_BYTES if memory is None else min(DEFAULT_MEMORY_BYTES, memory // 4)


def _attached(max_bytes: int, strict: bool, handed: Any) -> MemoryCache:
    """Attach a process that was just started to the same memory, by the received descriptor."""
    cache = MemoryCache.__new__(MemoryCache)
    BaseCache.__init__(cache)
    cache.max_bytes, cache.strict = max_bytes, strict
    cache._ring = Ring(max_bytes, handed.detach())
    return cache
