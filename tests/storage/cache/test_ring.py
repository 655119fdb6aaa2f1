"""ring: a reader gets the bytes that were written, with and without ordered stores."""

import os
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from cache_entries import Maker, assert_content, content, key_of, never

from dicomdl.storage.cache import _ring as ring
from dicomdl.storage.cache._stored import StoredEntry
from dicomdl.storage.cache.entries import Lost
from dicomdl.storage.cache.memory import MemoryCache

SHAPE = (3, 300, 300)


@pytest.fixture(params=[True, False], ids=["keeps order", "reorders"])
def made(request: Any, monkeypatch: pytest.MonkeyPatch) -> MemoryCache:
    """A cache of two entries, on a machine of either kind."""
    monkeypatch.setattr(ring, "KEEPS_ORDER", request.param)
    cache = MemoryCache(2**21)
    for number in range(2):
        cache.get(key_of(number), Maker(number, shape=SHAPE))
    return cache


def place_of(made: MemoryCache, number: int) -> tuple[int, int]:
    """(offset in the file of the ring, bytes) of an entry."""
    _, _, row = made._ring._hashed(key_of(number).digest)
    for slot in made._ring._slots[row : row + ring._PROBES].tolist():
        if slot[0] == int(key_of(number).digest[:16], 16):
            return made._ring._ring_at + (slot[2] - 1) % made._ring.capacity, slot[3]
    raise AssertionError("not in the ring")


def damage(made: MemoryCache, number: int, at: int) -> None:
    """Flip one bit; a negative `at` counts from the end of the entry."""
    start, size = place_of(made, number)
    offset = start + at % size
    old = os.pread(made._ring.descriptor, 1, offset)[0]
    os.pwrite(made._ring.descriptor, bytes([old ^ 4]), offset)


@pytest.mark.quick(7)
@pytest.mark.parametrize("at", [0, 20, 100, 130, 4096, 70_000, 300_000, -1])
def test_a_damaged_byte_is_found_counted_and_made_again(made: MemoryCache, at: int) -> None:
    damage(made, 0, at)
    maker = Maker(0, shape=SHAPE)
    assert_content(made.get(key_of(0), maker), 0, shape=SHAPE)
    assert (maker.calls, made.stats().damaged) == (1, 1)
    assert_content(made.get(key_of(0), never), 0, shape=SHAPE)
    assert_content(made.get(key_of(1), never), 1, shape=SHAPE)


def test_an_entry_that_is_damaged_between_get_and_part_is_made_again(made: MemoryCache) -> None:
    maker = Maker(0, shape=SHAPE)
    entry = made.get(key_of(0), maker)
    damage(made, 0, 70_000)
    assert_content(entry, 0, shape=SHAPE)
    assert (maker.calls, made.stats().damaged) == (1, 1)
    assert entry.is_held is True
    assert_content(made.get(key_of(0), never), 0, shape=SHAPE)


def test_where_order_is_not_kept_each_read_is_verified(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ring, "KEEPS_ORDER", False)
    made, maker = MemoryCache(2**21), Maker(0, shape=SHAPE)
    made.get(key_of(0), maker)
    entry = made.get(key_of(0), never)
    assert_content(entry, 0, shape=SHAPE)
    damage(made, 0, 70_000)
    entry = made.get(key_of(0), maker)
    assert_content(entry, 0, shape=SHAPE)
    assert (maker.calls, made.stats().damaged) == (2, 1)


def stale_tail(monkeypatch: pytest.MonkeyPatch) -> None:
    """TAIL as a reader may see it on ARM: before the writer raised it."""
    monkeypatch.setattr(ring.Ring, "is_whole", lambda self, place: place >= 0)


def overwrite_half(made: MemoryCache, number: int, size: int) -> None:
    """The result of a reader whose copy overlaps the write of a newer entry."""
    start, _ = place_of(made, number)
    newer = np.full(size // 2, 7, np.uint8)
    os.pwrite(made._ring.descriptor, newer.tobytes(), start + size // 4)


def test_a_torn_write_that_tail_does_not_show_yet_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ring, "KEEPS_ORDER", False)
    made, maker = MemoryCache(2**21), Maker(0, shape=SHAPE)
    made.get(key_of(0), maker)
    entry = made.get(key_of(0), maker)
    assert_content(entry, 0, shape=SHAPE)
    stale_tail(monkeypatch)
    overwrite_half(made, 0, place_of(made, 0)[1])
    assert_content(entry, 0, shape=SHAPE)
    assert (maker.calls, made.stats().damaged) == (2, 1)


def test_a_slot_that_is_visible_before_its_entry_is_no_entry(made: MemoryCache) -> None:
    start, size = place_of(made, 0)
    os.pwrite(made._ring.descriptor, bytes(size), start)
    with pytest.raises(Lost):
        made._ring.find(key_of(0).digest)
    maker = Maker(0, shape=SHAPE)
    assert_content(made.get(key_of(0), maker), 0, shape=SHAPE)
    assert maker.calls == 1


def test_an_entry_that_is_overwritten_while_it_is_read_is_lost(
    made: MemoryCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry, values = made.get(key_of(0), Maker(0, shape=SHAPE)), StoredEntry._values

    def meanwhile(self: StoredEntry, box: Any) -> Any:
        copied = values(self, box)
        monkeypatch.undo()
        for number in range(2, 8):
            made.get(key_of(number), Maker(number, shape=SHAPE))
        return copied

    monkeypatch.setattr(StoredEntry, "_values", meanwhile)
    assert np.array_equal(entry.part(), content(0, SHAPE)[0])
    assert (made.stats().evicted, made.stats().damaged) == (1, 0)


@pytest.mark.parametrize(
    "drop", [lambda r, d: r.drop(d), lambda r, d: r.drop(d, r.find(d).source.number)]
)
def test_an_entry_that_was_dropped_is_not_found(
    made: MemoryCache, drop: Callable[[ring.Ring, str], bool]
) -> None:
    digest = key_of(0).digest
    assert drop(made._ring, digest) is True
    assert made._ring.find(digest) is None
    assert made._ring.drop(digest) is False
    assert made._ring.find(key_of(1).digest) is not None


def test_an_entry_that_was_written_again_is_not_dropped_for_the_old_one(made: MemoryCache) -> None:
    digest = key_of(0).digest
    old = made._ring.find(digest)
    assert old is not None
    made._ring.put(digest, content(0, SHAPE))
    assert made._ring.drop(digest, old.source.number) is False
    assert made._ring.find(digest) is not None
