"""Plain stacks in a cache that takes them: the same values, from one entry that is mapped."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from phantoms import ramp, write_series
from pydicom.uid import ExplicitVRBigEndian

import dicomdl
from dicomdl.errors import FileChanged
from dicomdl.storage.cache.disk import DiskCache
from dicomdl.storage.cache.memory import MemoryCache
from dicomdl.volumes.blocks import StackVoxels

SHAPE = (5, 12, 16)
KINDS: dict[str, dict[str, Any]] = {
    "integers": {"intercept": -1024},
    "big endian": {"intercept": -1024, "transfer_syntax": ExplicitVRBigEndian},
    "fractions": {"slope": 0.37, "intercept": 2.5},
    "signed, junk above": {"signed": True, "offset": -90, "unused_bits": "ones"},
    "8 bits": {"bits_allocated": 8, "stored": ramp(SHAPE) % 251},
    "each slice its own": {"slope": [1, 2, 3, 4, 5]},
}


def padded(dataset: Any, z: int) -> None:
    dataset.add_new("PixelPaddingValue", "SS" if dataset.PixelRepresentation else "US", 30)


def written(folder: Path, **options: Any) -> dicomdl.Index:
    write_series(folder, shape=SHAPE, edit=padded, **options)
    return dicomdl.scan(folder, folder.parent / "index", progress=False)


@pytest.mark.parametrize("kind", KINDS)
def test_values_are_those_without_the_cache(folder: Path, kind: str) -> None:
    index = written(folder, **KINDS[kind])
    cache = DiskCache(folder.parent / "cache", uncompressed=True)
    plain, kept = (StackVoxels(index.stacks[0], cache=each) for each in (None, cache))
    start, stop = (1, 2, 3), (4, 9, 15)
    for _ in range(2):
        expected, found = (reader.read(start, stop) for reader in (plain, kept))
        assert np.array_equal(found.array, expected.array)
        assert found.array.dtype == expected.array.dtype
        assert (found.padding is None) == (expected.padding is None)
        assert found.padding is None or np.array_equal(found.padding, expected.padding)
    assert cache.stats().made == 1


@pytest.mark.quick(3)
@pytest.mark.parametrize("kind", KINDS)
def test_patches_are_those_without_the_cache(folder: Path, kind: str) -> None:
    pytest.importorskip("torch")
    index = written(folder, **KINDS[kind])
    cache = DiskCache(folder.parent / "cache", uncompressed=True)
    options: dict[str, Any] = {"size": (3, 6, 7), "per_stack": 3, "intensity": (40, 400)}
    without, with_cache = (dicomdl.PatchDataset(index, cache=c, **options) for c in (None, cache))
    for row in range(3):
        assert np.array_equal(without[row]["image"].numpy(), with_cache[row]["image"].numpy())
    assert cache.stats().made == 1


def test_an_entry_serves_every_quantity_and_the_next_cache(folder: Path) -> None:
    index = written(folder)
    for made in (1, 0):
        cache = DiskCache(folder.parent / "cache", uncompressed=True)
        StackVoxels(index.stacks[0], cache=cache).read((0, 0, 0), SHAPE)
        assert (cache.stats().made, cache.stats().hits) == (made, 1 - made)


def test_a_damaged_entry_is_made_again(folder: Path) -> None:
    index = written(folder)
    expected = dicomdl.read_volume(index.stacks[0]).array
    StackVoxels(index.stacks[0], cache=DiskCache(folder.parent / "c", uncompressed=True)).read(
        (0, 0, 0), SHAPE
    )
    (entry,) = (folder.parent / "c").glob("*.entry")
    content = bytearray(entry.read_bytes())
    content[-9] ^= 1
    entry.write_bytes(content)
    cache = DiskCache(folder.parent / "c", uncompressed=True)
    reader = StackVoxels(index.stacks[0], cache=cache)
    assert np.array_equal(reader.read((0, 0, 0), SHAPE).array, expected)
    assert cache.stats().damaged == 1


def test_a_file_that_changed_is_found_and_not_read_from_an_entry(folder: Path) -> None:
    index = written(folder)
    path = index.stacks[0].source(2).path
    cache = DiskCache(folder.parent / "cache", uncompressed=True)
    StackVoxels(index.stacks[0], cache=cache).read((0, 0, 0), SHAPE)
    Path(path).write_bytes(Path(path).read_bytes() + b"\0\0")
    with pytest.raises(FileChanged):
        StackVoxels(index.stacks[0], cache=cache).read((0, 0, 0), SHAPE)


def test_other_caches_do_not_take_plain_stacks(folder: Path) -> None:
    index = written(folder)
    for cache in (DiskCache(folder.parent / "cache"), MemoryCache(2**20)):
        StackVoxels(index.stacks[0], cache=cache).read((0, 0, 0), SHAPE)
        assert cache.stats().made == 0


def test_an_entry_that_cannot_be_stored_leaves_the_files(folder: Path) -> None:
    index = written(folder)
    cache = DiskCache(folder.parent / "cache", uncompressed=True, max_bytes=64)
    reader = StackVoxels(index.stacks[0], cache=cache)
    for _ in range(2):
        found = reader.read((1, 0, 0), (3, 4, 4)).array
        assert np.array_equal(found, dicomdl.read_volume(index.stacks[0]).array[1:3, :4, :4])
    assert (cache.stats().made, cache.stats().stored) == (1, 0)
