"""entries: a part of an entry is that part of the array, in every kind of cache."""

import os
from pathlib import Path

import numpy as np
import pytest
from cache_entries import KINDS, Maker, assert_content, cache_of, content, key_of, never
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from dicomdl.errors import FileChanged, UsageError
from dicomdl.storage.cache.disk import DiskCache
from dicomdl.storage.cache.entries import Arrays
from dicomdl.storage.cache.keys import Key

shapes = st.tuples(st.integers(1, 40), st.integers(1, 70), st.integers(1, 70)) | st.tuples(
    st.integers(1, 3), st.integers(1, 40), st.integers(1, 40), st.integers(3, 4)
)
bounds = st.none() | st.integers(-80, 80)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_part_of_an_entry_is_that_part_of_the_array(
    kind: str, data: st.DataObject, tmp_path: Path
) -> None:
    shape = data.draw(shapes)
    dtype = data.draw(st.sampled_from(["int16", "int32", "uint8", "float32", "uint16"]))
    values = data.draw(
        npst.arrays(
            dtype,
            shape,
            elements=npst.from_dtype(np.dtype(dtype), allow_nan=False),
            fill=st.nothing(),
        )
        | st.just(np.random.default_rng(len(shape)).integers(0, 255, shape).astype(dtype))
    )
    mask = data.draw(st.none() | st.just(np.random.default_rng(1).random(shape[:3]) < 0.3))
    where = tuple(
        slice(*data.draw(st.tuples(bounds, bounds))) for _ in range(data.draw(st.integers(0, 3)))
    )
    with cache_of(kind, tmp_path) as made:
        key = Key(os.urandom(32).hex())
        for expected in ("made", "kept"):
            entry = made.get(key, (lambda: Arrays(values, mask)) if expected == "made" else never)
            assert (entry.shape, entry.dtype, entry.has_mask) == (
                values.shape,
                values.dtype,
                mask is not None,
            )
            part, masked = entry.part(*where), entry.mask_part(*where)
            assert part.dtype == values.dtype and part.flags.writeable and part.flags.c_contiguous
            assert np.array_equal(part, values[where])
            assert (
                masked is None
                if mask is None
                else masked is not None and np.array_equal(masked, mask[where])
            )
            part[...] = 0
            assert np.array_equal(entry.part(), values)


@pytest.mark.slow
def test_large_entries_with_many_blocks_are_whole(tmp_path: Path) -> None:
    shape = (40, 300, 257)
    for kind in KINDS:
        with cache_of(kind, tmp_path) as made:
            maker = Maker(3, shape=shape)
            for _ in range(2):
                entry = made.get(key_of(3), maker)
                assert_content(entry, 3, shape=shape)
                inner = slice(5, 38), slice(60, 250), slice(31, 255)
                assert np.array_equal(entry.part(*inner), content(3, shape)[0][inner])
            assert maker.calls == 1


def test_parts_have_no_steps_and_three_axes(tmp_path: Path) -> None:
    entry = DiskCache(tmp_path / "c").get(key_of(0), Maker())
    with pytest.raises(UsageError, match="step"):
        entry.part(slice(0, 3, 2))
    with pytest.raises(UsageError, match="at most 3"):
        entry.part(*[slice(None)] * 4)


@pytest.mark.parametrize(
    "arrays",
    [
        Arrays(np.zeros((3, 3), np.int16)),
        Arrays(np.zeros((0, 3, 3), np.int16)),
        Arrays(np.zeros((1, 3, 3), np.float64)),
        Arrays(np.zeros((1, 3, 3), object)),
        Arrays(np.zeros((1, 3, 3), ">i2")),
        Arrays(np.zeros((1, 3, 3, 17), np.uint8)),
        Arrays(np.zeros((1, 3, 3), np.int16), np.zeros((1, 3, 2), bool)),
        Arrays(np.zeros((1, 3, 3), np.int16), np.zeros((1, 3, 3), np.uint8)),
    ],
)
def test_what_a_cache_cannot_hold_is_a_usage_error(arrays: Arrays, tmp_path: Path) -> None:
    for kind in ("raw", "memory"):
        with cache_of(kind, tmp_path) as made, pytest.raises(UsageError, match="found"):
            made.get(key_of(0), lambda: arrays)


def test_an_array_that_is_not_contiguous_is_kept_as_its_values(tmp_path: Path) -> None:
    values = np.arange(4 * 5 * 6, dtype=np.int16).reshape(6, 5, 4).T
    for kind in KINDS:
        with cache_of(kind, tmp_path) as made:
            made.get(key_of(0), lambda: Arrays(values, values > 7))
            entry = made.get(key_of(0), never)
            assert np.array_equal(entry.part(), values) and np.array_equal(
                entry.mask_part(), values > 7
            )


@pytest.mark.parametrize("kind", KINDS)
def test_what_make_raises_reaches_the_caller_and_nothing_is_kept(kind: str, tmp_path: Path) -> None:
    def fail() -> Arrays:
        raise FileChanged("gone")

    with cache_of(kind, tmp_path) as made:
        for _ in range(2):
            with pytest.raises(FileChanged, match="gone"):
                made.get(key_of(0), fail)
        assert_content(made.get(key_of(0), Maker()), 0)
        assert_content(made.get(key_of(0), never), 0)
