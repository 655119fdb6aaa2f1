"""Blocks in another order of axes: those of the reoriented volume, from the same bytes."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import index_of
from phantoms import ramp, write_series
from pydicom.dataset import Dataset
from pydicom.uid import JPEG2000Lossless, RLELossless

import dicomdl
from dicomdl.errors import UsageError
from dicomdl.geometry.axes import AxisOrder, axes_towards
from dicomdl.storage import pieces
from dicomdl.storage.cache.memory import MemoryCache
from dicomdl.volumes.block_reader import Scratch
from dicomdl.volumes.blocks import StackVoxels
from dicomdl.volumes.oriented import OrientedReader

SHAPE = (6, 9, 14)
OBLIQUE = (0.8, 0.6, 0.0, -0.48, 0.64, -0.6)


def oriented(stack: dicomdl.Stack, axes: str, **options: Any) -> OrientedReader:
    return OrientedReader(StackVoxels(stack, **options), axes_towards(stack.geometry, axes))


def padded(dataset: Dataset, z: int) -> None:
    dataset.add_new("PixelPaddingValue", "SS" if dataset.PixelRepresentation else "US", 30)


@pytest.mark.quick(3)
@pytest.mark.parametrize("axes", ["RAS", "SPL", "IPR", "PSL", "ALI"])
@pytest.mark.parametrize(
    "kind",
    [
        {"intercept": -1024, "edit": padded},
        {"slope": 0.25, "transfer_syntax": RLELossless},
        {"bits_allocated": 32, "stored": ramp(SHAPE) * 10_000},
        {"orientation": OBLIQUE, "shear": (0.3, 0.2)},
    ],
)
def test_a_block_is_that_of_the_reoriented_volume(
    folder: Path, axes: str, kind: dict[str, Any]
) -> None:
    write_series(folder, shape=SHAPE, **kind)
    stack = index_of(folder).stacks[0]
    volume = dicomdl.read_volume(stack).reorient(axes)
    reader = oriented(stack, axes)
    assert reader.geometry == volume.geometry and reader.shape == volume.geometry.shape
    keeping = Scratch(lambda shape, dtype: np.empty(shape, dtype))
    start, stop = (1, 2, 3), tuple(n - 1 for n in reader.shape)
    part = tuple(slice(a, b) for a, b in zip(start, stop, strict=True))
    for scratch in (None, Scratch(), keeping):
        array, padding = reader.read(start, (stop[0], stop[1], stop[2]), scratch)
        assert np.array_equal(array, volume.array[part]) and array.dtype == volume.array.dtype
        expected = np.zeros(array.shape, bool) if volume.padding is None else volume.padding[part]
        assert np.array_equal(np.zeros(array.shape, bool) if padding is None else padding, expected)
    assert array.flags.c_contiguous


def test_a_cached_stack_is_turned_too(folder: Path) -> None:
    write_series(folder, shape=SHAPE, transfer_syntax=JPEG2000Lossless)
    stack = index_of(folder).stacks[0]
    array, _ = oriented(stack, "RAS", cache=MemoryCache(1 << 24)).read((3, 1, 2), (9, 5, 4))
    volume = dicomdl.read_volume(stack).reorient("RAS")
    assert np.array_equal(array, volume.array[3:9, 1:5, 2:4])


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "preadv"), reason="needs preadv")
def test_a_block_reads_the_rows_that_it_covers(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_series(folder, shape=SHAPE)
    stack = index_of(folder).stacks[0]
    reader, read = oriented(stack, "LPS"), []
    preadv = os.preadv

    def counted(descriptor: int, buffers: Any, offset: int) -> int:
        count = preadv(descriptor, buffers, offset)
        read.append(count)
        return count

    monkeypatch.setattr(os, "preadv", counted)
    monkeypatch.setattr(pieces, "fill_block", pieces.pure_fill_block)
    reader.read((0, 4, 1), (14, 5, 5))
    # One row in each of four slices.
    assert sum(read) == 4 * SHAPE[2] * 2
    with pytest.raises(UsageError, match="not inside"):
        reader.read((0, 0, 0), (15, 1, 1))


def test_a_reader_tells_which_axis_its_slices_are_stored_along(folder: Path) -> None:
    write_series(folder, shape=SHAPE)
    stack = index_of(folder).stacks[0]
    assert oriented(stack, "RAS").stored_axes == (2, 1, 0)
    assert oriented(stack, "PIL").stored_axes == (1, 0, 2)
    assert OrientedReader(oriented(stack, "PIL"), AxisOrder((1, 2, 0))).stored_axes == (0, 2, 1)
