"""Cache entries whose content follows from their key, and processes that read them.

The tests of the cache share them.
"""

import contextlib
import errno
import functools
import multiprocessing
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import filelock
import numpy as np
import pytest

from dicomdl.storage.cache import folder as cachefolder
from dicomdl.storage.cache.disk import DiskCache
from dicomdl.storage.cache.entries import Arrays, Entry
from dicomdl.storage.cache.keys import Key, stack_key
from dicomdl.storage.cache.memory import MemoryCache

posix_only = pytest.mark.skipif(
    os.name != "posix", reason="locks, modes and signals are those of POSIX"
)
FORMATS = ("raw", "blosc2")
START_METHODS = [
    name
    for name in ("fork", "spawn", "forkserver")
    if name in multiprocessing.get_all_start_methods()
]
fork = (
    multiprocessing.get_context("fork")
    if "fork" in START_METHODS
    else multiprocessing.get_context()
)


def key_of(number: int) -> Key:
    return stack_key([], {"number": str(number)})


def content(number: int, shape: tuple[int, ...] = (3, 40, 50)) -> Arrays:
    """Return values and a mask that follow from the number, so that a reader can check them."""
    rng = np.random.default_rng(number)
    return Arrays(rng.integers(-2000, 3000, shape, dtype=np.int16), rng.random(shape) < 0.2)


def never() -> Arrays:
    raise AssertionError("this entry should be there")


class Maker:
    """A function that makes the content of a number, and counts its calls."""

    def __init__(self, number: int = 0, **shape: Any) -> None:
        self.number, self.shape, self.calls = number, shape, 0

    def __call__(self) -> Arrays:
        self.calls += 1
        return content(self.number, **self.shape)


def assert_content(entry: Entry, number: int, **shape: Any) -> None:
    values, mask = content(number, **shape)
    assert np.array_equal(entry.part(), values)
    found = entry.mask_part()
    assert found is not None and np.array_equal(found, mask)


def entry_file(folder: Path, key: Key) -> Path:
    return folder / f"{key.digest}.entry"


def names(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


KINDS = ("raw", "blosc2", "raw on a network", "blosc2 on a network", "memory")


@contextlib.contextmanager
def cache_of(kind: str, folder: Path, max_bytes: int = 2**24) -> Iterator[DiskCache | MemoryCache]:
    if kind == "memory":
        yield MemoryCache(max_bytes)
        return
    may_be_mapped = cachefolder.may_be_mapped
    try:
        if "network" in kind:
            cachefolder.may_be_mapped = lambda folder: False
        yield DiskCache(
            folder / kind.replace(" ", "-"), format=kind.split()[0], max_bytes=max_bytes
        )  # type: ignore[arg-type]
    finally:
        cachefolder.may_be_mapped = may_be_mapped


def flip(path: Path, byte: int, bit: int) -> None:
    """Flip a bit as a faulty disk does: the times of the file are unchanged."""
    status = path.stat()
    with open(path, "r+b") as file:
        file.seek(byte)
        old = file.read(1)[0]
        file.seek(byte)
        file.write(bytes([old ^ (1 << bit)]))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def assert_made_again(folder: Path, number: int, **shape: Any) -> None:
    """Assert that a new cache makes a damaged entry once, reports it, and repairs the file."""
    cache, maker = DiskCache(folder), Maker(number, **shape)
    assert_content(cache.get(key_of(number), maker), number, **shape)
    assert (maker.calls, cache.stats().damaged, cache.stats().made) == (1, 1, 1)
    assert_content(DiskCache(folder).get(key_of(number), never), number, **shape)


def in_a_fork(task: Callable[[], object]) -> int:
    """Run a task in a forked child and return its exit code, negative for a signal."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            task()
            code = 0
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def fill(folder: Path, seed: int, numbers: int, log: Path | None = None, **shape: Any) -> None:
    """Read all entries in an order that depends on the seed; log each entry that is made."""
    order = list(range(numbers))
    random.Random(seed).shuffle(order)
    cache = DiskCache(folder)

    def make(number: int) -> Arrays:
        if log is not None:
            with open(log, "ab", buffering=0) as file:
                file.write(bytes([number]))
        return content(number, **shape)

    for number in order:
        assert_content(cache.get(key_of(number), functools.partial(make, number)), number, **shape)


def start(task: Callable[..., object], *arguments: Any) -> int:
    child = os.fork()
    if child == 0:
        code = 1
        with contextlib.suppress(BaseException):
            task(*arguments)
            code = 0
        os._exit(code)
    return child


def refuse_locks(monkeypatch: pytest.MonkeyPatch, number: int = errno.ENOLCK) -> None:
    """Make locks fail as on a network file system without locks."""

    def refuse(*_: Any, **__: Any) -> Any:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(filelock.FileLock, "acquire", refuse)
