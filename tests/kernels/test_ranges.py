"""Ranges of one open file: both loops on the same files, whole and too short."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from dicomdl._kernels import both
from dicomdl.storage.many_ranges import Ranges, pure_fill_ranges

LOOPS = both(pure_fill_ranges) or (pure_fill_ranges,)
SIZE = 3000


@pytest.fixture(scope="module")
def content() -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, SIZE, np.uint8)


@pytest.fixture(scope="module")
def descriptor(
    content: NDArray[np.uint8], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[int]:
    path: Path = tmp_path_factory.mktemp("ranges") / "file"
    path.write_bytes(content.tobytes())
    opened = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
    yield opened
    os.close(opened)


@given(seed=st.integers(0, 2**32 - 1))
def test_both_loops_read_the_columns_of_rows_and_end_before_a_short_range(
    seed: int, content: NDArray[np.uint8], descriptor: int
) -> None:
    chance = np.random.default_rng(seed)
    fields, place, complete = [], 0, -1
    expected = np.zeros(SIZE, np.uint8)
    for number in range(6):
        rows, row_bytes = int(chance.integers(1, 12)), int(chance.integers(1, 30))
        lead = int(chance.integers(row_bytes))
        width = int(chance.integers(1, row_bytes - lead + 1))
        offset = int(chance.integers(SIZE))
        fields.append((offset, rows, row_bytes, lead, width, place))
        if offset + rows * row_bytes > SIZE and complete < 0:
            complete = number
        if complete < 0:
            part = content[offset : offset + rows * row_bytes].reshape(rows, row_bytes)
            kept = part[:, lead : lead + width].ravel()
            expected[place : place + kept.size] = kept
        place += rows * width
    table = np.array(fields, np.int64)
    band = np.zeros(Ranges(table, place).band_size, np.uint8)
    end = place if complete < 0 else fields[complete][-1]
    for fill in LOOPS:
        out = np.zeros(place, np.uint8)
        assert fill(descriptor, table, out, band) == (len(fields) if complete < 0 else complete)
        assert np.array_equal(out[:end], expected[:end])


def test_both_loops_end_at_once_where_the_system_refuses(descriptor: int) -> None:
    table, out = np.array([[0, 1, 4, 0, 4, 0]], np.int64), np.zeros(4, np.uint8)
    closed = os.dup(descriptor)
    os.close(closed)
    for fill in LOOPS:
        assert fill(closed, table, out, out) == 0
        assert fill(descriptor, table[:0], out, out) == 0
        for offset in (-1, SIZE, 2**63 - 2):
            table[0, 0] = offset
            assert fill(descriptor, table, out, out) == 0
        table[0, 0] = 0


@pytest.mark.skipif(not both(pure_fill_ranges), reason="nothing is compiled here")
@pytest.mark.parametrize(
    "field",
    [
        (0, 0, 4, 0, 4, 0),
        (0, 1, 0, 0, 0, 0),
        (0, 1, 4, 0, 0, 0),
        (0, 1, 4, 0, 5, 0),
        (0, 1, 4, -1, 4, 0),
        (0, 1, 4, 1, 4, 0),
        (0, 1, 2**62, 2**62, 4, 0),
        (0, 1, 9, 0, 9, 0),
        (0, 2, 4, 0, 4, 1),
        (0, 2**62, 4, 0, 4, 0),
        (0, 1, 4, 0, 4, -1),
        (0, 1, 4, 0, 4, 2**62),
        (0, 3, 4, 0, 1, 0),
    ],
)
def test_the_compiled_loop_refuses_ranges_beyond_what_it_was_given(
    field: Any, descriptor: int
) -> None:
    compiled = LOOPS[0]
    with pytest.raises(ValueError, match="exceed the memory"):
        compiled(descriptor, np.array([field], np.int64), np.zeros(8, np.uint8), np.zeros(8, "u1"))
