"""storage.cache.memory"""

import functools
import warnings
from multiprocessing import context, reduction
from typing import Any, Final

from dicomdl.storage import locks
from dicomdl.storage.cache.entries import Body, Entry, Held, checked_arrays
from dicomdl.storage.cache.keys import Key
from dicomdl.storage.cache.ring import Arena
from dicomdl.storage.cache.stats import CacheWarning, Counters, Make, Stats, checked_bytes
from dicomdl.storage.system import physical_memory

DEFAULT_MEMORY_BYTES: Final = 4 * 2**30


class MemoryCache:
    """Entries in memory that all workers of a DataLoader share, whatever their start method; the oldest make room for new ones.

    Parameters
    ----------
    max_bytes
        What the entries may take together; by default 4 GiB, or a quarter of the machine's memory if that is less. Memory is taken as
        it is filled.
    strict
        Keys are made of the contents of files (see `stack_key`).

    Notes
    -----
    Processes that a loader starts get the same memory, by fork or by a descriptor that is handed over; it has no name and goes with the
    last of them. Pickled otherwise (to a file, to another machine) it becomes an empty cache with the same options. Entries
    larger than the cache are made each time. Windows: each worker has an own one of `max_bytes`.
    """

    def __init__(self, max_bytes: int | None = None, *, strict: bool = False) -> None:
        self.max_bytes = checked_bytes(_default_memory() if max_bytes is None else max_bytes)
        self.strict = strict
        self._counters = Counters()
        self._warned = False
        self._arena = Arena(self.max_bytes)

    def __reduce__(self) -> tuple[Any, ...]:
        if not locks.available() or context.get_spawning_popen() is None:
            return functools.partial(MemoryCache, strict=self.strict), (self.max_bytes,)
        return _attached, (self.max_bytes, self.strict, reduction.DupFd(self._arena.descriptor))

    def __copy__(self) -> "MemoryCache":
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> "MemoryCache":
        return self

    def __repr__(self) -> str:
        return f"MemoryCache({self.max_bytes}, strict={self.strict})"

    def stats(self) -> Stats:
        """What this process has asked of the cache."""
        return self._counters.stats()

    def get(self, key: Key, make: Make) -> Entry:
        """The entry of a key, made by `make` if need be. Raises what `make` raises."""
        body: Body | None = self._arena.find(key.digest)
        if body is None:
            body = self._fill(key.digest, make)
        else:
            self._counters.add("hits")
        return Entry(body, functools.partial(self._again, key.digest, make))

    def _fill(self, digest: str, make: Make) -> Body:
        with self._arena.making(digest):
            body = self._arena.find(digest)
            if body is None:
                return self._made(digest, make)
        self._counters.add("hits")
        return body

    def _made(self, digest: str, make: Make) -> Body:
        self._counters.add("made")
        arrays = checked_arrays(make())
        try:
            self._counters.add("stored", int(self._arena.put(digest, arrays)))
        except OSError as error:
            self._counters.add("failed")
            if not self._warned:
                self._warned = True
                message = f"the memory cache cannot store entries ({error.strerror}); values are computed each time until it can"
                warnings.warn(message, CacheWarning, stacklevel=4)
        return Held(arrays)

    def _again(self, digest: str, make: Make, may_be_stored: bool) -> Body:
        self._counters.add("evicted")
        return self._fill(digest, make) if may_be_stored else Held(checked_arrays(make()))


def _default_memory() -> int:
    memory = physical_memory()
    return DEFAULT_MEMORY_BYTES if memory is None else min(DEFAULT_MEMORY_BYTES, memory // 4)


def _attached(max_bytes: int, strict: bool, handed: Any) -> MemoryCache:
    """In a process that was just started: the same memory, by the descriptor that came along."""
    cache = MemoryCache.__new__(MemoryCache)
    cache.max_bytes, cache.strict = max_bytes, strict
    cache._counters, cache._warned = Counters(), False
    cache._arena = Arena(max_bytes, handed.detach())
    return cache
