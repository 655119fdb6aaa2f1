"""One pass over samples: equal to the steps one after the other, compiled and in Python."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from plain_frames import COUNT, source

from dicomdl._kernels import both
from dicomdl.errors import IntensityError
from dicomdl.headers.frame_source import FrameSource
from dicomdl.pixels.stored import as_meant, stored_dtype, stored_range
from dicomdl.values.bit_masks import BitMask
from dicomdl.values.conversion import Conversion
from dicomdl.values.one_pass import BEYOND, FOUND, OnePass, pure_convert_samples
from dicomdl.values.rescale import MODALITY_DTYPES, Rescale

WHOLE = st.integers(-3000, 3000).map(float) | st.sampled_from([1.0, -1024.0, 0.0])
SLOPES = WHOLE.filter(bool) | st.floats(1e-6, 1e6) | st.sampled_from([0.1, -0.5, 1e-30])


@st.composite
def sources(draw: st.DrawFn) -> FrameSource:
    allocated = draw(st.sampled_from([8, 16, 32]))
    stored = draw(st.integers(1, allocated))
    high = draw(st.integers(stored - 1, allocated - 1))
    return source(
        allocated, stored, high, signed=draw(st.booleans()), big=draw(st.booleans()) and stored > 8
    )


def random_samples(frame: FrameSource, seed: int) -> np.ndarray[Any, Any]:
    bits = np.random.default_rng(seed).integers(0, 256, COUNT * frame.bits_allocated // 8)
    return bits.astype(np.uint8).view(stored_dtype(frame))


def in_steps(
    samples: np.ndarray[Any, Any], frame: FrameSource, conversion: Conversion, dtype: Any
) -> tuple[Any, Any]:
    stored = samples.copy()
    as_meant(stored, frame)
    out, mask = np.empty(stored.shape, dtype), conversion.padding_of(stored)
    conversion(stored, out, stored_range(frame))
    return out, mask


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(
    frame=sources(),
    slope=SLOPES,
    intercept=WHOLE | st.floats(-1e5, 1e5),
    padding=st.none() | st.tuples(st.integers(-70_000, 70_000), st.integers(0, 3000)),
    dtype=st.sampled_from(MODALITY_DTYPES),
    seed=st.integers(0, 2**32 - 1),
)
def test_a_pass_gives_the_values_and_the_padding_of_the_steps(
    frame: FrameSource,
    slope: float,
    intercept: float,
    padding: tuple[int, int] | None,
    dtype: np.dtype[Any],
    seed: int,
) -> None:
    limits = None if padding is None else (padding[0], padding[0] + padding[1])
    conversion = Conversion(Rescale(slope, intercept), padding=limits)
    one = OnePass.of(frame, conversion, dtype)
    if one is None:
        assert dtype.kind == "i"
        return
    samples = random_samples(frame, seed)
    expected, expected_mask = in_steps(samples, frame, conversion, dtype)
    for convert in both(pure_convert_samples) or (pure_convert_samples,):
        out, mask = np.empty(COUNT, dtype), BitMask.empty((COUNT,), pieces=1)
        mask.bits.fill(255)
        found = convert(samples.copy(), out, mask.bits, one)
        assert found == (0 if expected_mask is None else FOUND)
        assert np.array_equal(out.view(np.uint8), expected.view(np.uint8))
        no_mask = np.zeros(COUNT, np.bool_)
        assert np.array_equal(mask.unpacked(), no_mask if expected_mask is None else expected_mask)


@pytest.mark.parametrize("samples", [0, 1, 2047, 2048, 2049])
def test_a_pass_works_in_place_at_every_length(samples: int) -> None:
    frame = source(16, 12, 11, signed=True, big=False)
    stored = random_samples(frame, 3)[:samples]
    conversion = Conversion(Rescale(2, -7))
    one = OnePass.of(frame, conversion, np.dtype(np.int16))
    assert one is not None
    expected, _ = in_steps(stored, frame, conversion, np.int16)
    assert not one(stored, stored.view(np.int16), None)
    assert np.array_equal(stored, expected)


def test_a_value_beyond_float32_is_said_by_both() -> None:
    samples, out = np.array([0, 1, 9], np.uint16), np.empty(3, np.float32)
    one = OnePass(("H", False, 0, 0, 65535), ("f", 0, 0, 1e38, 0.0), None)
    for convert in both(pure_convert_samples) or (pure_convert_samples,):
        assert convert(samples.copy(), out, None, one) == BEYOND


def test_a_pass_raises_as_the_steps_do_where_float32_is_too_small() -> None:
    frame = source(16, 16, 15, signed=False, big=False)
    conversion = Conversion(Rescale(1e38, 0.5))
    one = OnePass.of(frame, conversion, np.dtype(np.float32))
    assert one is not None
    with pytest.raises(IntensityError, match="beyond the range of float32"):
        one.is_padded(one(np.array([9], np.uint16), np.empty(1, np.float32), None))


def test_no_pass_is_offered_where_values_may_not_fit() -> None:
    frame = source(16, 16, 15, signed=False, big=False)
    conversion = Conversion(Rescale(1, -1024))
    assert OnePass.of(frame, conversion, np.dtype(np.int16)) is None
    assert OnePass.of(frame, conversion, np.dtype(np.int32)) is not None


@pytest.mark.parametrize(
    ("samples", "out", "mask", "meant"),
    [
        (4, 3, None, ("H", False, 0, 0, 65535)),
        (4, 4, 2, ("H", False, 0, 0, 65535)),
        (4, 4, None, ("q", False, 0, 0, 65535)),
        (4, 4, None, ("H", False, 16, 0, 65535)),
        (4, 4, None, ("H", False, 0, -1, 65535)),
    ],
)
def test_the_compiled_pass_refuses_memory_and_numbers_that_do_not_fit(
    samples: int, out: int, mask: int | None, meant: Any
) -> None:
    pair = both(pure_convert_samples)
    if pair is None:
        pytest.skip("there is no compiled module")
    memory = None if mask is None else np.zeros(mask, np.uint8)
    stored, filled = np.zeros(samples, np.uint16), np.zeros(out, np.int16)
    with pytest.raises(ValueError, match="not fit"):
        pair[0](stored, filled, memory, OnePass(meant, ("h", 1, 0, 1.0, 0.0), None))


def test_the_compiled_pass_refuses_memory_that_overlaps() -> None:
    pair = both(pure_convert_samples)
    if pair is None:
        pytest.skip("there is no compiled module")
    memory = np.zeros(9, np.uint16)
    with pytest.raises(ValueError, match="do not fit"):
        pair[0](
            memory[:8],
            memory[1:].view(np.int16),
            None,
            OnePass(("H", False, 0, 0, 65535), ("h", 1, 0, 1.0, 0.0), None),
        )
