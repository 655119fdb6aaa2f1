"""Whole plain stacks in threads: the values, masks and errors of reading frame by frame."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import index_of
from phantoms import ramp, write_series
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRBigEndian, JPEGLSLossless

import dicomdl
from dicomdl._kernels import both
from dicomdl.errors import FileChanged, IntensityError, TooLarge
from dicomdl.pixels.options import Decoding
from dicomdl.storage import _slow, pieces
from dicomdl.storage.system import CAN_SHARE
from dicomdl.values.conversion import conversions
from dicomdl.values.reading import read_converted
from dicomdl.volumes._plain_volumes import read_plain_volume
from dicomdl.volumes.blocks import voxels_of

SHAPE = (7, 9, 14)


def padded(dataset: Dataset, z: int) -> None:
    dataset.PixelPaddingValue = 3
    dataset.PixelPaddingRangeLimit = 40
    dataset["PixelPaddingValue"].VR = dataset["PixelPaddingRangeLimit"].VR = "US"


@pytest.fixture(autouse=True)
def many_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads for phantoms, which are small."""
    monkeypatch.setattr(pieces, "_THREAD_BYTES", 1)


@pytest.mark.quick(3)
@pytest.mark.parametrize("dtype", [None, np.int16, np.int32, np.float32])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"edit": padded},
        {"signed": True, "offset": -300, "unused_bits": "ones"},
        {"transfer_syntax": ExplicitVRBigEndian, "edit": padded},
        {"slope": [0.5, 1, 2, 3, 4, 5, 6.5], "intercept": -3},
        {"slope": [1, 2, 3, 4, 5, 6, 7], "intercept": [0, 1, 2, 3, 4, 5, 6], "edit": padded},
        {"bits_allocated": 8, "stored": np.arange(7 * 9 * 14).reshape(SHAPE) % 251},
        {"slope": 1e-3, "bits_allocated": 32},
    ],
    ids=lambda options: ", ".join(options) if isinstance(options, dict) else None,
)
def test_a_plain_volume_has_the_values_of_its_frames(
    folder: Path, options: dict[str, Any], dtype: Any
) -> None:
    write_series(folder, shape=SHAPE, **options)
    stack = index_of(folder).stacks[0]
    each = conversions(stack)
    if dtype in (np.int16, np.int32) and not all(one.is_integral for one in each):
        pytest.skip("these values are no integers")
    expected = read_converted(stack.sources, each, dtype=dtype)
    found = 0
    for threads in (1, 3):
        read = read_plain_volume([voxels_of(stack)], dtype, Decoding(threads=threads))
        if read is None:
            continue
        found += 1
        array, mask = read
        assert array.dtype == expected.array.dtype
        assert np.array_equal(array, expected.array)
        assert (mask is None) == (expected.padding is None)
        assert mask is None or np.array_equal(mask.unpacked(), expected.padding)
    assert found or "bits_allocated" in options or len(set(each)) > 1


@pytest.fixture(params=both(pieces.pure_fill_block) or (pieces.pure_fill_block,))
def loop(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Each loop in turn, as the one that reads pieces."""
    monkeypatch.setattr(pieces, "fill_block", request.param)


@pytest.mark.usefixtures("loop")
@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize(
    "options",
    [{}, {"edit": padded, "offset": 0}, {"slope": 2}, {"slope": [1, 2, 3, 4, 5, 6, 7]}],
    ids=["alike", "padding", "slope", "slopes"],
)
def test_groups_are_read_one_stack_behind_the_other(
    folder: Path, options: dict[str, Any], threads: int
) -> None:
    write_series(folder, shape=SHAPE, series_uid="1.2.3", seed=1)
    options = {"offset": 50, "seed": 2, **options}
    paths = write_series(folder, shape=SHAPE, series_uid="1.2.4", **options)
    stacks = list(index_of(folder).stacks)
    readers = list(map(voxels_of, stacks))
    read = read_plain_volume(readers, None, Decoding(threads=threads))
    assert read is not None and read[0].shape == (14, 9, 14)
    array, mask = read
    assert (mask is None) == ("edit" not in options)
    for number, stack in enumerate(stacks):
        alone, part = dicomdl.read_volume(stack), slice(7 * number, 7 * number + 7)
        assert np.array_equal(array[part], alone.array)
        if mask is not None:
            own = np.zeros(SHAPE, bool) if alone.padding is None else alone.padding
            assert np.array_equal(mask.unpacked()[part], own)
    os.utime(paths[5], ns=(1, 1))
    with pytest.raises(FileChanged) as caught:
        read_plain_volume(readers, None, Decoding(threads=threads))
    assert paths[5].name in caught.value.__notes__[0]


def test_stacks_of_samples_of_several_sizes_are_left_to_reading_frame_by_frame(
    folder: Path,
) -> None:
    small = np.arange(7 * 9 * 14).reshape(SHAPE) % 251
    write_series(folder, shape=SHAPE, series_uid="1.2.3")
    write_series(folder, shape=SHAPE, series_uid="1.2.4", bits_allocated=8, stored=small)
    readers = list(map(voxels_of, index_of(folder).stacks))
    assert read_plain_volume(readers, None, Decoding()) is None


def test_threads_read_a_volume_in_one_loop(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_series(folder, shape=SHAPE, edit=padded)
    stack, calls, original = index_of(folder).stacks[0], [], pieces.fill_block

    def counted(places: Any, first: int, *a: Any) -> tuple[int, int]:
        calls.append((first, a[-1]))
        return original(places, first, *a)

    monkeypatch.setattr(pieces, "fill_block", counted)
    assert read_plain_volume([voxels_of(stack)], None, Decoding(threads=2)) is not None
    assert calls == ([(0, 2)] if CAN_SHARE else [])


@pytest.mark.parametrize("threads", [1, 4])
def test_a_file_that_changed_is_named(folder: Path, threads: int) -> None:
    paths = write_series(folder, shape=SHAPE)
    stack = index_of(folder).stacks[0]
    os.utime(paths[4], ns=(1, 1))
    with pytest.raises(FileChanged) as caught:
        dicomdl.read_volume(stack, threads=threads)
    assert paths[4].name in caught.value.__notes__[0]
    paths[4].unlink()
    with pytest.raises(FileChanged, match="gone") as caught:
        dicomdl.read_volume(stack, threads=threads)
    assert paths[4].name in caught.value.__notes__[0]


def test_a_value_beyond_float32_is_named_by_its_frame(folder: Path) -> None:
    stored = np.zeros(SHAPE, np.int64)
    stored[5, 3, 2] = 4000
    paths = write_series(folder, shape=SHAPE, stored=stored, slope=1e36)
    with pytest.raises(IntensityError) as caught:
        dicomdl.read_volume(index_of(folder).stacks[0])
    assert any(paths[5].name in note for note in caught.value.__notes__)


def test_stacks_that_are_read_frame_by_frame_are_left_to_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_series(folder, shape=SHAPE)
    stack = index_of(folder).stacks[0]
    assert read_plain_volume([voxels_of(stack)], None, Decoding(reduce=1)) is None
    assert read_plain_volume([voxels_of(stack)], np.uint8, Decoding()) is None
    with pytest.raises(TooLarge):
        read_plain_volume([voxels_of(stack)], None, Decoding(max_bytes=100))
    monkeypatch.setattr(_slow, "_time", lambda path, offset: 1.0)
    _slow._verdict_on.cache_clear()
    try:
        assert read_plain_volume([voxels_of(stack)], None, Decoding()) is None
        assert np.array_equal(dicomdl.read_volume(stack).array, ramp(SHAPE))
    finally:
        _slow._verdict_on.cache_clear()


def test_compressed_stacks_are_left_to_reading_frame_by_frame(folder: Path) -> None:
    write_series(folder, shape=SHAPE, transfer_syntax=JPEGLSLossless)
    stack = index_of(folder).stacks[0]
    assert read_plain_volume([voxels_of(stack)], None, Decoding()) is None


def test_volumes_of_real_files_have_the_values_of_their_frames(
    corpus: Path, tmp_path: Path
) -> None:
    index = dicomdl.scan(corpus, tmp_path / "an.index", progress=False)
    compared = 0
    for stack in index.stacks:
        try:
            read = read_plain_volume([voxels_of(stack)], None, Decoding(threads=2))
        except dicomdl.DicomdlError:
            continue
        if read is None:
            continue
        expected = read_converted(stack.sources, conversions(stack))
        array, mask = read
        assert array.dtype == expected.array.dtype, stack
        assert np.array_equal(array, expected.array), stack
        assert (mask is None) == (expected.padding is None), stack
        assert mask is None or np.array_equal(mask.unpacked(), expected.padding), stack
        compared += 1
    assert compared > 20
