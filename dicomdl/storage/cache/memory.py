"""A cache in memory that all workers of a DataLoader share."""

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
    """Entries in memory that all workers of a DataLoader share, whatever their start method.

    The oldest entries are evicted for new ones.

    Parameters
    ----------
    max_bytes
        Limit of all entries together; by default 4 GiB, or a quarter of the machine's memory if
        that is less. Memory is allocated as it is filled.
    strict
        Keys are made of the contents of files (see `stack_key`).

    Notes
    -----
    Processes that a loader starts map the same memory, inherited by fork or passed as a descriptor.
    It has no name and is freed with the last of them. Pickled otherwise (to a file, to another
    machine) it becomes an empty cache with the same options. Entries larger than the cache are made
    each time. On Windows each worker has a cache of its own of `max_bytes`.
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
        place = lost.source.number
        if self._ring.is_whole(place):
            self._counters.add("damaged")
            self._ring.drop(digest, place)
        else:
            self._counters.add("evicted")


def _default_memory() -> int:
    memory = physical_memory()
    return DEFAULT_MEMORY_BYTES if memory is None else min(DEFAULT_MEMORY_BYTES, memory // 4)


def _attached(max_bytes: int, strict: bool, handed: Any) -> MemoryCache:
    """In a process that was just started: the same memory, by the descriptor that came along."""
    cache = MemoryCache.__new__(MemoryCache)
    BaseCache.__init__(cache)
    cache.max_bytes, cache.strict = max_bytes, strict
    cache._ring = Ring(max_bytes, handed.detach())
    return cache
