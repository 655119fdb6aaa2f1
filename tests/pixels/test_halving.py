"""Halved frames, against the lower resolutions of JPEG 2000, and the positions of their pixels."""

import io
from typing import Any

import imagecodecs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL.Jpeg2KImagePlugin import Jpeg2KImageFile

from dicomdl.errors import UsageError
from dicomdl.geometry.grid import halved
from dicomdl.pixels import halving
from dicomdl.pixels.halving import halve

Array = NDArray[Any]
KINDS = {"u1": (0, 255), "i1": (-128, 127), "u2": (0, 65535), "i2": (-32768, 32767)}


def in_jpeg_2000(image: Array) -> tuple[bytes, int]:
    """Return a lossless stream of the image, and the number of its halvings.

    OpenJPEG gives small images fewer levels.
    """
    stream = bytes(
        imagecodecs.jpeg2k_encode(image, level=0, codecformat="j2k", reversible=True, mct=False)
    )
    # The levels are in COD (ITU-T T.800 A.6.1).
    return stream, stream[stream.find(b"\xff\x52") + 9]


def by_openjpeg(stream: bytes, image: Array, times: int) -> Array:
    """Return the lower resolution that OpenJPEG decodes from a stream of the image.

    Pillow gives 8 or 16 bits, unsigned.
    """
    picture = Jpeg2KImageFile(io.BytesIO(stream))
    picture.reduce = times
    picture._size = (halved(image.shape[1], times) << times, halved(image.shape[0], times) << times)
    low = np.array(picture).astype(np.int64)
    return low + min(0, int(np.iinfo(image.dtype).min))


@settings(max_examples=60)
@given(
    st.integers(0, 2**32),
    st.integers(8, 70),
    st.integers(8, 70),
    st.sampled_from(sorted(KINDS)),
    st.integers(1, 3),
)
def test_halved_integers_are_those_of_the_reversible_wavelet(
    seed: int, rows: int, columns: int, kind: str, times: int
) -> None:
    low, high = KINDS[kind]
    image = (
        np.random.default_rng(seed).integers(low, high, (rows, columns), endpoint=True).astype(kind)
    )
    stream, levels = in_jpeg_2000(image)
    times = min(times, levels)
    result = halve(image, times)
    assert result.dtype == image.dtype and result.shape == (
        halved(rows, times),
        halved(columns, times),
    )
    assert np.array_equal(result, by_openjpeg(stream, image, times))


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (2, 1), (3, 2)])
def test_frames_of_a_few_pixels_can_be_halved_until_one_is_left(shape: tuple[int, int]) -> None:
    image = np.full(shape, 77, "u2")
    for times in range(5):
        assert (halve(image, times) == 77).all() and halve(image, times).shape == (
            halved(shape[0], times),
            halved(shape[1], times),
        )
    assert halve(image, 4).size == 1


@pytest.mark.parametrize("times", [1, 2, 3])
@pytest.mark.parametrize("dtype", ["u2", "f4"])
def test_a_ramp_keeps_its_values_at_its_places(times: int, dtype: str) -> None:
    ramp = (100 * np.arange(64)[:, None] + 8 * np.arange(80)).astype(dtype)
    inside = halve(ramp, times)[1:-1, 1:-1]
    assert np.allclose(inside, ramp[:: 1 << times, :: 1 << times][1:-1, 1:-1], atol=1)


@pytest.mark.parametrize("value", [0, 1, 4095, 65535])
def test_a_constant_frame_stays_what_it_is(value: int) -> None:
    assert (halve(np.full((9, 13), value, "u2"), 2) == value).all()


def test_colours_are_halved_sample_by_sample() -> None:
    image = np.random.default_rng(0).integers(0, 256, (21, 34, 3)).astype("u1")
    result = halve(image, 2)
    for sample in range(3):
        assert np.array_equal(result[..., sample], halve(image[..., sample], 2))


def test_labels_are_taken_and_never_mixed() -> None:
    labels = np.random.default_rng(0).choice([0, 3, 200], (21, 34)).astype("u1")
    assert np.array_equal(halve(labels, 1, smooth=False), labels[::2, ::2])
    assert np.array_equal(halve(labels, 2, smooth=False), labels[::4, ::4])


def test_floats_have_the_filter_without_its_rounding() -> None:
    image = np.random.default_rng(0).normal(0, 100, (30, 41)).astype("f4")
    exact = halve((image * 4096).astype("i4"), 1) / 4096
    assert np.allclose(halve(image, 1), exact, atol=0.01)
    assert halve(image, 1).dtype == np.float32


def test_the_argument_is_left_alone_and_the_result_is_new() -> None:
    image = np.arange(64, dtype="u2").reshape(8, 8)
    before = image.copy()
    for smooth in (True, False):
        for times in (0, 1):
            assert not np.may_share_memory(halve(image, times, smooth=smooth), image)
    assert np.array_equal(image, before)


def test_bands_make_no_seams(monkeypatch: pytest.MonkeyPatch) -> None:
    image = np.random.default_rng(0).integers(0, 65536, (131, 20)).astype("u2")
    whole = halve(image, 2)
    for band in (1, 2, 3, 7):
        monkeypatch.setattr(halving, "BAND", band)
        assert np.array_equal(halve(image, 2), whole)


def test_what_the_filter_overshoots_is_clipped_to_the_limits() -> None:
    edge = np.zeros((16, 16), "u2")
    edge[:, 7:] = 4095
    assert halve(edge, 1).max() > 4095 and halve(edge, 1, limits=(0, 4095)).max() == 4095


def test_integers_of_64_bits_are_refused() -> None:
    with pytest.raises(UsageError, match="64"):
        halve(np.zeros((4, 4), "u8"), 1)
    assert halve(np.full((4, 4), 2**63, "u8"), 1, smooth=False).shape == (2, 2)
