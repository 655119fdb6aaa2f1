"""The registry of all caches of a process, with one memory budget.

The budget is 256 MiB per process. The environment variable `DICOMDL_MEMORY` sets another budget, as
a number of bytes or with a unit (``512MiB``, ``1GiB``). The workers of a DataLoader are processes:
they inherit the variable, and each has a full budget. Every cache has a fixed share of the budget,
in thousandths:

    slices               280   decoded slices of coded stacks, for the following blocks
    label maps           200   integer labels of a dataset's `labels=`, per stack
    inflated files       104   data sets of deflated files with several frames
    label readers         70   contours on the slices of stacks, frames of segmentations, masks
    archive members       60   inflated members of archives
    label voxels          45   numbers of voxels per slice and label, by which samplers draw centers
    mosaic bands          50   decoded rows of mosaics, for the following tiles
    stack readers         15   byte ranges and conversions of stacks
    label slabs            5   keys of label maps in a cache
    real-world maps       20   maps of stored values to real-world values
    header tables         20   lookup tables, palettes and maps as stored in headers
    archives              40   directories of archives
    body voxels           20   voxels of the body, per stack, from which samplers draw centers
    generations           25   opened index folders (their tables are mapped and not counted)
    label points          10   points of a table that lie in a stack
    lookup tables         10   Modality and VOI LUTs
    palettes              10   colour tables
    group axes             5   times, echoes and b-values of groups
    resampled grids        1   the grid on which `spacing=` delivers a stack
    intensity recipes      5   the conversion that `intensity=` stands for, per stack
    intensity limits       4   percentiles, per stack
    SUV factors            1   per stack

A share evicts its least recently used items. Unused room of one share is not available to another.
An evicted generation takes with it the items of all shares whose keys have stacks or groups of it:
these hold its tables open.
An item larger than its share stays as the only item until the next one is added. A `MemoryWarning`
reports the first such item per share and process.

The budget does not cover:

- `MemoryCache` and `DiskCache`, which users create with separate limits;
- batches in transport, the scratch buffers of threads, and arrays that a caller holds;
- caches of a few small values; a comment beside each gives the reason.
"""

import dataclasses
import functools
import itertools
import os
import re
import sys
import threading
import warnings
from collections.abc import Callable, Mapping
from typing import Any, Final, Generic, ParamSpec, TypeVar

import numpy as np

from dicomdl.errors import DicomdlWarning, UsageError

Value = TypeVar("Value")
Result = TypeVar("Result")
Parameters = ParamSpec("Parameters")

DEFAULT_BUDGET: Final = 256 * 2**20
VARIABLE: Final = "DICOMDL_MEMORY"
# Overhead per item besides its value: the key and the entry of the dictionary.
ITEM_BYTES: Final = 400
SHARES: Final[Mapping[str, int]] = {
    "slices": 280,
    "label maps": 200,
    "label readers": 70,
    "inflated files": 104,
    "archive members": 60,
    "archives": 40,
    "label voxels": 45,
    "mosaic bands": 50,
    "stack readers": 15,
    "label slabs": 5,
    "real-world maps": 20,
    "header tables": 20,
    "body voxels": 20,
    "generations": 25,
    "label points": 10,
    "lookup tables": 10,
    "palettes": 10,
    "group axes": 5,
    "resampled grids": 1,
    "intensity recipes": 5,
    "intensity limits": 4,
    "SUV factors": 1,
}
_UNITS: Final = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12} | {
    "KIB": 2**10,
    "MIB": 2**20,
    "GIB": 2**30,
    "TIB": 2**40,
}


class MemoryWarning(DicomdlWarning):
    """Warning that an item is larger than its share of the memory budget.

    Set the environment variable `DICOMDL_MEMORY` to a larger number of bytes. The shares are listed
    in `dicomdl.storage.memory`.
    """


# --- the budget ---------------------------------------------------------------------------------


def budget() -> int:
    """Return the memory budget of this process in bytes.

    `DICOMDL_MEMORY` is read at the first call, and again after `clear`.

    Raises
    ------
    UsageError
        The value of the variable is not a number of bytes; attribute `found`.
    """
    return _registry.budget()


def _budget_of(text: str) -> int:
    match = re.fullmatch(r"\s*(\d{1,15}(?:\.\d{1,9})?)\s*([a-z]*)\s*", text, re.IGNORECASE)
    unit = _UNITS.get(match[2].upper()) if match else None
    size = int(float(match[1]) * unit) if match and unit else 0
    if size < 1:
        raise UsageError(
            f"{VARIABLE}={text!r}: expected a number of bytes above 0, "
            "such as 268435456, 512MiB or 1GiB",
            found=text,
        )
    return size


# --- shares -------------------------------------------------------------------------------------


class _Item:
    """A value, its size in bytes, and the time of its last use."""

    __slots__ = ("size", "used", "value")

    def __init__(self, value: Any, size: int, used: int) -> None:
        self.value, self.size, self.used = value, size, used


class Share(Generic[Value]):
    """The cache of one share of the budget: the most recently used items that fit. See `share`.

    A hit takes no lock: it is one dictionary lookup, which also sets the time of last use.

    Parameters
    ----------
    name
        One of `SHARES`.
    size
        Function that returns the bytes of a value.
    one_at_a_time
        Whether only one thread at a time computes values.
    limit
        Function that returns the bytes of the share. The budget is first known when the first item
        is added.
    after_eviction
        Function that is called after items were evicted.
    """

    def __init__(
        self,
        name: str,
        size: Callable[[Value], int],
        *,
        one_at_a_time: bool = False,
        limit: Callable[[], int],
        after_eviction: Callable[[], None] = lambda: None,
    ) -> None:
        self.name = name
        self.bytes = 0
        self._size, self._limit, self._after_eviction = size, limit, after_eviction
        self._items: dict[Any, _Item] = {}
        self._tick = itertools.count().__next__
        self._lock = threading.Lock()
        self._making = threading.Lock() if one_at_a_time else None
        self._has_warned = False

    def of(self, key: Any, make: Callable[[], Value]) -> Value:
        """Return the value of a key; compute it by `make` if absent. Exceptions are not cached."""
        if (item := self._items.get(key)) is not None:
            item.used = self._tick()
            return item.value  # type: ignore[no-any-return]
        if self._making is None:
            return self.keep(key, make())
        with self._making:
            found = self.find(key)
            return self.keep(key, make()) if found is None else found

    def around(self, function: Callable[Parameters, Value]) -> Callable[Parameters, Value]:
        """Wrap a function so that this share caches its results by their arguments."""
        find, tick = self._items.get, self._tick

        @functools.wraps(function)
        def wrapper(*args: Any) -> Any:
            # A copy of `of` without its calls: some of these functions run several times per
            # sample.
            if (item := find(args)) is None:
                return self.keep(args, function(*args))  # type: ignore[call-arg]
            item.used = tick()
            return item.value

        return wrapper  # type: ignore[return-value]

    def find(self, key: Any) -> Value | None:
        """Return the value of a key; None if absent."""
        if (item := self._items.get(key)) is None:
            return None
        item.used = self._tick()
        return item.value  # type: ignore[no-any-return]

    def keep(self, key: Any, value: Value) -> Value:
        """Cache a value and return it, or return the value that another thread cached first."""
        size, limit = self._size(value) + ITEM_BYTES, self._limit()
        with self._lock:
            if (item := self._items.get(key)) is not None:
                return item.value  # type: ignore[no-any-return]
            self._items[key] = _Item(value, size, self._tick())
            self.bytes += size
            evicts = self.bytes > limit
            if evicts:
                self._drop_oldest(limit)
            warns = size > limit and not self._has_warned
            self._has_warned |= warns
        if evicts:
            self._after_eviction()
        if warns:
            self._warn(size, limit)
        return value

    def _drop_oldest(self, limit: int) -> None:
        """Evict the least recently used items until the newest fits.

        At least a 16th of the items is evicted, so that many small items are sorted seldom.
        """
        oldest = sorted(self._items, key=lambda key: self._items[key].used)
        at_once = len(oldest) // 16
        for count, key in enumerate(oldest[:-1]):
            if self.bytes <= limit and count >= at_once:
                return
            self.bytes -= self._items.pop(key).size

    def _warn(self, size: int, limit: int) -> None:
        message = (
            f"{self.name}: an item of {size:,} bytes is larger than its share of the memory "
            f"budget, {limit:,} of {budget():,} bytes. It is cached alone, and all other items "
            f"are read again: set the environment variable {VARIABLE} to a larger number"
        )
        warnings.warn(message, MemoryWarning, stacklevel=4)

    def values(self) -> list[Value]:
        """Return the cached values."""
        with self._lock:
            return [item.value for item in self._items.values()]

    def drop(self, is_dropped: Callable[[Any], bool]) -> None:
        """Evict the items for whose key a function returns True."""
        with self._lock:
            for key in [key for key in self._items if is_dropped(key)]:
                self.bytes -= self._items.pop(key).size

    def clear(self) -> None:
        """Evict all items."""
        with self._lock:
            self._items.clear()
            self.bytes, self._has_warned = 0, False

    def after_fork(self) -> None:
        """Renew the locks, which threads of the parent may have held. The items stay."""
        self._lock = threading.Lock()
        self._making = None if self._making is None else threading.Lock()
        self.bytes = sum(item.size for item in self._items.values())

    def __len__(self) -> int:
        return len(self._items)


def bytes_in(value: Any) -> int:
    """Return the bytes of a value and of its contents; an object that occurs twice counts once.

    Contents are those of tuples, lists, sets, mappings and the fields of dataclasses.
    """
    total, seen, pending = 0, set[int](), [value]
    while pending:
        item = pending.pop()
        if id(item) in seen:
            continue
        seen.add(id(item))
        total += item.nbytes if isinstance(item, np.ndarray) else sys.getsizeof(item)
        if isinstance(item, Mapping):
            pending += (*item.keys(), *item.values())
        elif isinstance(item, tuple | list | set | frozenset):
            pending += item
        elif dataclasses.is_dataclass(item) and not isinstance(item, type):
            pending += (getattr(item, field.name) for field in dataclasses.fields(item))
    return total


# --- the registry -------------------------------------------------------------------------------


class _Registry:
    """The shares and decisions of this process, and its budget once that is known."""

    def __init__(self) -> None:
        self.shares: dict[str, Share[Any]] = {}
        self.decisions: list[dict[Any, Any]] = []
        self._budget: int | None = None
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._after_fork)

    def budget(self) -> int:
        if self._budget is None:
            text = os.environ.get(VARIABLE)
            self._budget = _budget_of(text) if text else DEFAULT_BUDGET
        return self._budget

    def clear(self) -> None:
        for registered in self.shares.values():
            registered.clear()
        for decided in self.decisions:
            decided.clear()
        self._budget = None

    def _after_fork(self) -> None:
        for registered in self.shares.values():
            registered.after_fork()


_registry: Final = _Registry()


def share(
    name: str,
    size: Callable[[Value], int] = bytes_in,
    *,
    one_at_a_time: bool = False,
    after_eviction: Callable[[], None] = lambda: None,
) -> Share[Value]:
    """Register and return the cache of one of `SHARES`. Each share has one cache.

    Parameters
    ----------
    name
        One of `SHARES`.
    size
        Function that returns the bytes of a value.
    one_at_a_time
        Whether only one thread at a time computes values.
    after_eviction
        Function that is called after items were evicted.
    """
    thousandths = SHARES[name]
    registered = Share[Value](
        name,
        size,
        one_at_a_time=one_at_a_time,
        limit=lambda: _registry.budget() * thousandths // 1000,
        after_eviction=after_eviction,
    )
    _registry.shares[name] = registered
    return registered


def remembered(
    name: str, size: Callable[[Any], int] = bytes_in
) -> Callable[[Callable[Parameters, Result]], Callable[Parameters, Result]]:
    """Decorate a function so that a share caches its results by positional, hashable arguments."""

    def decorate(function: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
        return share(name, size).around(function)

    return decorate


def drop(is_dropped: Callable[[Any], bool]) -> None:
    """Evict the items of all shares for whose key a function returns True."""
    for registered in _registry.shares.values():
        registered.drop(is_dropped)


def decisions() -> dict[Any, Any]:
    """Return a new dictionary for a few small conclusions about this process.

    An example is a faulty library. Only `clear` empties the dictionary, and no share counts it.
    """
    decided: dict[Any, Any] = {}
    _registry.decisions.append(decided)
    return decided


def report() -> dict[str, int]:
    """Return the bytes in use per share; 0 for shares whose modules are not loaded."""
    return {
        name: _registry.shares[name].bytes if name in _registry.shares else 0 for name in SHARES
    }


def clear() -> None:
    """Empty all shares and decisions of this process; `DICOMDL_MEMORY` is read again."""
    _registry.clear()
