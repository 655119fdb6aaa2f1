"""Decoded values kept for the next epoch: on disk, shared by all processes and ranks, or in memory, shared by the workers of a loader.

A cache may only ever save time. What is damaged, stale, evicted, foreign or cannot be written is made again and counted in `stats()`:
never a wrong value, never an error for it, and locks only spare work (without them entries are made more often, and are right). So whoever
writes, writes a whole new file and puts it in place by one `os.replace`, and a checksum stands behind every block of it. Nothing random
may be cached, and nothing here loads code from data.
"""

import os
from typing import TypeAlias

from dicomdl.errors import UsageError
from dicomdl.storage.cache.disk import DiskCache
from dicomdl.storage.cache.memory import MemoryCache
from dicomdl.storage.cache.stats import Cache

CacheOption: TypeAlias = "Cache | str | int | os.PathLike[str] | None"


def as_cache(option: CacheOption) -> Cache | None:
    """The cache that an option means.

    None: none. "memory": a MemoryCache of 4 GiB, or a quarter of the memory if that is less; a number: one of so many bytes.
    "disk": a DiskCache in the user's cache folder; a pathlib.Path: one in that folder. A cache is taken as it is.
    """
    if option is None:
        return None
    if option == "memory":
        return MemoryCache()
    if option == "disk":
        return DiskCache()
    if isinstance(option, os.PathLike):
        return DiskCache(option)
    if isinstance(option, int) and not isinstance(option, bool):
        return MemoryCache(option)
    if isinstance(option, Cache):
        return option
    raise UsageError(
        f'cache={option!r}: expected None, "memory", "disk", a number of bytes, a pathlib.Path of a folder or a cache'
    )
