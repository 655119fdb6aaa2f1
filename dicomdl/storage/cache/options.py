"""The option `cache=` of datasets, and its conversion to a cache."""

import os
from typing import TypeAlias

from dicomdl.errors import UsageError
from dicomdl.storage.cache.disk import DiskCache
from dicomdl.storage.cache.memory import MemoryCache
from dicomdl.storage.cache.stats import Cache

CacheOption: TypeAlias = "Cache | str | int | os.PathLike[str] | None"


def as_cache(option: CacheOption) -> Cache | None:
    """Return the cache that an option stands for.

    ==============  =======================================================================
    None            no cache
    "memory"        a `MemoryCache` of 4 GiB, or a quarter of the memory if that is less
    a number        a `MemoryCache` of that number of bytes
    "disk"          a `DiskCache` in the user's cache folder
    "raw"           the same, which takes uncompressed stacks, too
    a pathlib.Path  a `DiskCache` in that folder
    a cache         itself
    ==============  =======================================================================

    Raises UsageError for any other value.
    """
    if option is None:
        return None
    if option == "memory":
        return MemoryCache()
    if option == "disk":
        return DiskCache()
    if option == "raw":
        return DiskCache(uncompressed=True)
    if isinstance(option, os.PathLike):
        return DiskCache(option)
    if isinstance(option, int) and not isinstance(option, bool):
        return MemoryCache(option)
    if isinstance(option, Cache):
        return option
    raise UsageError(
        f'cache={option!r}: expected None, "memory", "disk", "raw", a number of bytes, '
        "a pathlib.Path of a folder or a cache"
    )
