"""Labels drawn where bits are 1: both loops, and the rule pixel by pixel."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from dicomdl._kernels import both
from dicomdl.labels._bit_rows import pure_draw_bits

LOOPS = both(pure_draw_bits) or (pure_draw_bits,)
Array = NDArray[Any]


def drawn_one_by_one(
    data: Array, pieces: Array, labels: Array, columns: int, out: Array, twice: Array | None
) -> int:
    bits, found = np.unpackbits(data, bitorder="little"), 0
    for (bit, rows, width, z, y, x), label in zip(pieces.tolist(), labels.tolist(), strict=True):
        for row in range(rows):
            for column in range(width):
                if not bits[bit + row * columns + column]:
                    continue
                at = z, y + row, x + column
                if twice is not None and out[at] not in (0, label) and not twice[at]:
                    twice[at] = True
                    found += 1
                out[at] = label
    return found


def case(seed: int, dtype: Any, density: float, shape: tuple[int, int, int]) -> tuple[Any, ...]:
    """Frames of one size that begin at any bit, of which pieces reach into a block."""
    chance = np.random.default_rng(seed)
    columns, frame_rows, count = int(chance.integers(1, 150)), int(chance.integers(1, 9)), 6
    bits = chance.random(count * columns * frame_rows + 13) < density
    data = np.packbits(bits, bitorder="little")
    data = np.concatenate([data, np.zeros(-len(data) % 8, np.uint8)])
    pieces = []
    for number in range(count):
        top, left = int(chance.integers(frame_rows)), int(chance.integers(columns))
        rows = int(chance.integers(1, min(frame_rows - top, shape[1]) + 1))
        width = int(chance.integers(1, min(columns - left, shape[2]) + 1))
        first = number * columns * frame_rows + 7 + top * columns + left
        y = int(chance.integers(shape[1] - rows + 1))
        x = int(chance.integers(shape[2] - width + 1))
        pieces.append((first, rows, width, int(chance.integers(shape[0])), y, x))
    labels = chance.integers(1, 4, count).astype(dtype)
    return data, np.array(pieces, np.int64), labels, columns


@given(
    seed=st.integers(0, 2**32 - 1),
    dtype=st.sampled_from(["u1", "?", "i2", "i4", "i8", "f4", "f8"]),
    density=st.sampled_from([0.0, 0.02, 0.5, 1.0]),
    is_marked=st.booleans(),
)
def test_both_loops_draw_what_the_rule_says(
    seed: int, dtype: str, density: float, is_marked: bool
) -> None:
    shape = (2, 7, 140)
    given = case(seed, dtype, density, shape)
    expected = np.zeros(shape, dtype), np.zeros(shape, np.bool_) if is_marked else None
    count = drawn_one_by_one(*given, *expected)
    for draw in LOOPS:
        out, twice = np.zeros(shape, dtype), np.zeros(shape, np.bool_) if is_marked else None
        assert draw(*given, out, twice) == count
        assert np.array_equal(out, expected[0])
        assert is_marked is False or np.array_equal(twice, expected[1])


def test_labels_that_were_there_before_count_as_others() -> None:
    for draw in LOOPS:
        data, pieces = np.full(8, 255, np.uint8), np.array([[0, 1, 20, 0, 0, 1]], np.int64)
        out, twice = np.zeros((1, 1, 24), np.uint8), np.zeros((1, 1, 24), np.bool_)
        out[..., ::2] = 5
        assert draw(data, pieces, np.array([3], np.uint8), 20, out, twice) == 10
        assert draw(data, pieces, np.array([5], np.uint8), 20, out, twice) == 10
        assert (out[..., 1:21] == 5).all() and twice[..., 1:21].all()


@pytest.mark.skipif(not both(pure_draw_bits), reason="nothing is compiled here")
@pytest.mark.parametrize(
    "piece",
    [
        (-1, 1, 1, 0, 0, 0),
        (64, 1, 1, 0, 0, 0),
        (0, 7, 5, 0, 0, 0),
        (0, 2**62, 1, 0, 0, 0),
        (2**62, 2, 1, 0, 0, 0),
        (0, 0, 1, 0, 0, 0),
        (0, 1, 0, 0, 0, 0),
        (0, 1, 11, 0, 0, 0),
        (0, 1, 2**62, 0, 0, 0),
        (0, 1, 1, 2, 0, 0),
        (0, 1, 1, -1, 0, 0),
        (0, 2, 1, 0, 4, 0),
        (0, 1, 1, 0, -1, 0),
        (0, 1, 2, 0, 0, 6),
        (0, 1, 1, 0, 0, -1),
        (0, 1, 1, 2**62, 2**62, 2**62),
    ],
)
def test_the_compiled_loop_refuses_pieces_beyond_what_it_was_given(piece: Any) -> None:
    compiled = LOOPS[0]
    pieces, one = np.array([piece], np.int64), np.array([1], np.uint8)
    out = np.zeros((2, 5, 7), np.uint8)
    with pytest.raises(ValueError, match="exceed the memory"):
        compiled(np.zeros(8, np.uint8), pieces, one, 10, out, None)


@pytest.mark.skipif(not both(pure_draw_bits), reason="nothing is compiled here")
def test_the_compiled_loop_refuses_arrays_that_do_not_fit_each_other() -> None:
    compiled = LOOPS[0]
    data, pieces = np.zeros(8, np.uint8), np.array([[0, 1, 1, 0, 0, 0]], np.int64)
    one, out = np.array([1], np.uint8), np.zeros((2, 5, 7), np.uint8)
    read_only = np.zeros((2, 5, 7), np.uint8)
    read_only.flags.writeable = False
    for wrong in (
        (data, pieces, one[:0], 10, out, None),
        (data, pieces, one, 0, out, None),
        (data, pieces, one, 10, out[0], None),
        (data, pieces, one, 10, out[..., ::2], None),
        (data, pieces, one, 10, np.zeros((2, 5, 7), np.complex128), None),
        (data, pieces, one, 10, read_only, None),
        (data, pieces, one, 10, out, np.zeros((2, 5, 6), np.bool_)),
    ):
        with pytest.raises((ValueError, BufferError)):
            compiled(*wrong)  # type: ignore[arg-type]
