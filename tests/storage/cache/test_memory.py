"""memory: all workers share entries, and none waits for a dead worker."""

import errno
import functools
import multiprocessing
import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cache_entries import (
    START_METHODS,
    Maker,
    assert_content,
    cache_of,
    content,
    in_a_fork,
    key_of,
    names,
    never,
    posix_only,
    start,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from dicomdl.storage import locks
from dicomdl.storage.cache import _ring as ring
from dicomdl.storage.cache.disk import DiskCache
from dicomdl.storage.cache.entries import Arrays
from dicomdl.storage.cache.keys import stack_key
from dicomdl.storage.cache.memory import MemoryCache
from dicomdl.storage.cache.stats import CacheWarning


def ask(made: DiskCache | MemoryCache, numbers: list[int], results: Any) -> None:
    """The work of a worker: the digest of all that it reads, and the number it had to compute."""
    sums = []
    for number in numbers:
        entry = made.get(key_of(number), functools.partial(content, number))
        masked = entry.mask_part()
        assert masked is not None
        sums.append((number, int(entry.part().astype(np.int64).sum()), int(masked.sum())))
    results.put((sums, made.stats().made))


@posix_only
@pytest.mark.parametrize("method", START_METHODS)
@pytest.mark.parametrize("kind", ["raw", "memory"])
def test_workers_of_every_start_method_share_a_cache(
    method: str, kind: str, tmp_path: Path
) -> None:
    started = multiprocessing.get_context(method)
    results = started.SimpleQueue()
    with cache_of(kind, tmp_path) as made:
        made.get(key_of(0), functools.partial(content, 0))
        workers = [
            started.Process(target=ask, args=(made, order, results))
            for order in ([0, 1, 2, 3], [3, 2, 1, 0])
        ]
        for worker in workers:
            worker.start()
        told = [results.get() for _ in workers]
        for worker in workers:
            worker.join()
        assert [worker.exitcode for worker in workers] == [0, 0]
        truth = [
            (n, int(content(n)[0].astype(np.int64).sum()), int(content(n)[1].sum()))
            for n in range(4)
        ]  # type: ignore[union-attr]
        assert all(sorted(sums) == truth for sums, _ in told)
        assert sum(number for _, number in told) == 3
        for number in range(4):
            assert_content(made.get(key_of(number), never), number)


@pytest.mark.slow
@posix_only
def test_the_workers_of_a_data_loader_share_a_memory_cache(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    made = MemoryCache(2**22)
    log = tmp_path / "log"

    class Stacks(torch.utils.data.Dataset):  # type: ignore[misc,name-defined]
        def __len__(self) -> int:
            return 24

        def __getitem__(self, number: int) -> Any:
            def make() -> Arrays:
                with open(log, "ab", buffering=0) as file:
                    file.write(b"x")
                return content(number % 6)

            return made.get(key_of(number % 6), make).part(slice(0, 1), slice(0, 4), slice(0, 4))

    for _ in range(2):
        loader = torch.utils.data.DataLoader(
            Stacks(), batch_size=2, num_workers=2, multiprocessing_context="fork"
        )
        found = np.concatenate([batch.numpy() for batch in loader])
        assert all(
            np.array_equal(found[number], content(number % 6)[0][:1, :4, :4])
            for number in range(24)
        )
    assert log.read_bytes() == b"x" * 6


def test_new_entries_take_the_place_of_the_oldest_and_what_was_got_is_still_right() -> None:
    shape = (2, 100, 100)
    made = MemoryCache(200_000)
    got = [
        (number, made.get(key_of(number), functools.partial(content, number, shape)))
        for number in range(3)
    ]
    assert made.stats().made == 3
    got = [
        (number, made.get(key_of(number), functools.partial(content, number, shape)))
        for number, _ in got
    ]
    assert made.stats().made == 3
    for number in range(3, 60):
        made.get(key_of(number), functools.partial(content, number, shape))
        for recent in range(number - 2, number + 1):
            assert_content(made.get(key_of(recent), never), recent, shape=shape)
    maker = Maker(0, shape=shape)
    made.get(key_of(0), maker)
    assert maker.calls == 1
    for number, entry in got:
        assert_content(entry, number, shape=shape)


@pytest.mark.slow
@settings(max_examples=25)
@given(
    st.lists(
        st.tuples(st.integers(0, 12), st.integers(1, 3), st.integers(1, 60), st.booleans()),
        max_size=60,
    )
)
def test_a_ring_of_entries_of_any_sizes_never_gives_another_ones_values(
    asked: list[tuple[int, int, int, bool]],
) -> None:
    made = MemoryCache(12_000)
    for number, slices, rows, has_mask in asked:
        shape = (slices, rows, 1 + number)
        values, mask = content(number, shape)
        key = stack_key([], {"key": repr((shape, has_mask))})
        for _ in range(2):
            entry = made.get(
                key,
                lambda values=values, mask=mask, has_mask=has_mask: Arrays(
                    values, mask if has_mask else None
                ),
            )
            assert np.array_equal(entry.part(), values)
            assert not has_mask or np.array_equal(entry.mask_part(), mask)


@pytest.mark.slow
@posix_only
def test_a_reader_never_sees_an_entry_that_is_being_overwritten() -> None:
    made = MemoryCache(400_000)

    def plain(number: int) -> Arrays:
        return Arrays(np.full((1, 200, 200), number, np.int16))

    def writer(seed: int) -> None:
        rng = random.Random(seed)
        for _ in range(3000):
            number = rng.randrange(20)
            found = made.get(key_of(number), functools.partial(plain, number)).part()
            assert (found == number).all()

    children = [start(writer, seed) for seed in range(3)]
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * 3


@posix_only
@pytest.mark.parametrize("where", ["making", "writing"])
def test_a_worker_that_dies_with_a_lock_or_in_mid_write_stops_nobody(
    where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Longer than a test may take, so waiting for the dead worker fails.
    monkeypatch.setattr(locks, "LOCK_WAIT_S", 3600.0)
    monkeypatch.setattr(ring, "STORE_WAIT_S", 3600.0)
    made = MemoryCache(2**20)

    def child() -> None:
        def dies(*_: Any) -> Any:
            os.kill(os.getpid(), signal.SIGKILL)

        if where == "writing":
            os.pwrite = dies  # type: ignore[assignment]
        made.get(key_of(0), dies if where == "making" else Maker())

    assert in_a_fork(child) == -signal.SIGKILL
    assert_content(made.get(key_of(0), Maker()), 0)
    assert_content(made.get(key_of(0), never), 0)


@posix_only
def test_a_worker_that_is_stopped_while_it_makes_an_entry_is_waited_for_only_so_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(locks, "LOCK_WAIT_S", 0.2)
    monkeypatch.setattr(ring, "STORE_WAIT_S", 0.2)
    made = MemoryCache(2**20)
    begun, begins = os.pipe()

    def hangs() -> Arrays:
        os.write(begins, b"x")
        time.sleep(600)
        raise AssertionError

    child = start(made.get, key_of(0), hangs)
    assert os.read(begun, 1) == b"x"
    assert_content(made.get(key_of(0), Maker()), 0)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


@posix_only
def test_memory_that_is_out_costs_the_entry_not_the_value(monkeypatch: pytest.MonkeyPatch) -> None:
    made = MemoryCache(2**20)

    def out(*_: Any) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "pwrite", out)
    with pytest.warns(CacheWarning) as told:
        for number in range(3):
            assert_content(made.get(key_of(number), functools.partial(content, number)), number)
    assert len(told) == 1
    monkeypatch.undo()
    made.get(key_of(0), Maker())
    assert_content(made.get(key_of(0), never), 0)


@pytest.mark.skipif(not os.path.isdir("/dev/shm"), reason="where Linux keeps named shared memory")
def test_memory_has_no_name_and_is_taken_only_as_it_is_filled() -> None:
    before = names(Path("/dev/shm"))
    made = MemoryCache(2**34)
    made.get(key_of(0), Maker())
    assert set(names(Path("/dev/shm"))) <= set(before)
    taken = os.fstat(made._ring.descriptor).st_blocks * 512
    assert taken < 20 * 2**20
    number = made._ring.descriptor
    del made
    with pytest.raises(OSError, match="Bad file"):
        os.fstat(number)
