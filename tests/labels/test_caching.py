"""Label maps in a cache: the same labels, made once, in slabs."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import NewFolder, index_of
from phantoms import write_series
from phantoms_labels import contour, write_seg, write_structure_set
from phantoms_multi import divide

import dicomdl
from dicomdl.errors import FileChanged
from dicomdl.index.views import Stack
from dicomdl.labels import places
from dicomdl.labels.caching import CachedLabels, census_of
from dicomdl.labels.places import Census
from dicomdl.labels.reader import label_block
from dicomdl.labels.source import LabelSource
from dicomdl.storage import memory

SHAPE = (7, 12, 14)


@pytest.fixture(autouse=True)
def slabs_of_three_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "SLAB_BYTES", 3 * 12 * 14)


@pytest.fixture(scope="module")
def stack(new_folder: NewFolder) -> Stack:
    """A stack with a SEG and a structure set."""
    folder = new_folder()
    image = write_series(folder / "ct", shape=SHAPE)[0]
    labels = np.random.default_rng(0).integers(0, 4, SHAPE, np.uint8)
    frames = [
        (k, (0, 0, 2.0 * z), (labels[z] == k).astype(np.uint8))
        for z in range(SHAPE[0])
        for k in (1, 2, 3)
    ]
    write_seg(folder / "seg.dcm", image, frames)
    square = np.array([(2.5, 1.5, 4), (9.5, 1.5, 4), (9.5, 8.5, 4), (2.5, 8.5, 4)])
    write_structure_set(folder / "rt.dcm", image, {"Heart": [contour(square)]})
    index = dicomdl.scan(folder, folder.parent / "index", progress=False)
    return index.select(has="SEG").stacks[0]


@pytest.fixture(params=["disk", "memory"])
def cache(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    return (
        dicomdl.MemoryCache(1 << 22)
        if request.param == "memory"
        else dicomdl.DiskCache(tmp_path / "cache")
    )


@pytest.mark.parametrize("kind", ["SEG", "RTSTRUCT"])
def test_blocks_and_numbers_out_of_a_cache_are_those_of_the_annotation(
    stack: Stack, cache: Any, kind: str
) -> None:
    source = LabelSource(kind)
    whole, cached = source(stack), CachedLabels(cache, stack, source)
    for start, stop in [
        ((0, 0, 0), SHAPE),
        ((2, 3, 4), (3, 9, 8)),
        ((2, 0, 1), (7, 12, 3)),
        ((3, 2, 2), (6, 4, 4)),
    ]:
        found = cached.read(start, stop)
        assert np.array_equal(found, whole[tuple(map(slice, start, stop))])
        assert found.dtype == whole.dtype
    census = cached.census()
    labels, counts = np.unique(whole, return_counts=True)
    assert np.array_equal(census.labels, labels)
    assert np.array_equal(census.counts.sum(axis=0), counts)


def test_a_later_process_opens_no_annotation(
    stack: Stack, cache: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = LabelSource("SEG", segments=["Part 3"])
    first = CachedLabels(cache, stack, source)
    expected, counts = first.read((0, 0, 0), SHAPE), first.census().counts
    memory.clear()

    def refuse(*_: Any) -> Any:
        raise AssertionError("the annotation was opened")

    monkeypatch.setattr(LabelSource, "reader", refuse)
    again = CachedLabels(cache, stack, source)
    assert np.array_equal(again.read((0, 0, 0), SHAPE), expected)
    assert np.array_equal(again.census().counts, counts)
    with pytest.raises(AssertionError):
        CachedLabels(cache, stack, LabelSource("SEG")).read((0, 0, 0), SHAPE)


def test_a_cache_that_holds_no_slab_is_passed_by(stack: Stack) -> None:
    cached = CachedLabels(dicomdl.MemoryCache(100), stack, LabelSource("SEG"))
    expected = LabelSource("SEG")(stack)
    for _ in range(2):
        assert np.array_equal(cached.read((1, 2, 3), (7, 9, 9)), expected[1:7, 2:9, 3:9])


def test_an_annotation_that_changed_since_the_scan_is_an_error(stack: Stack, cache: Any) -> None:
    (source,) = LabelSource("SEG").files(stack)
    with open(source.path, "ab") as file:
        file.write(b"\0\0")
    with pytest.raises(FileChanged):
        CachedLabels(cache, stack, LabelSource("SEG"))


def test_a_change_of_any_file_of_a_concatenation_is_an_error(folder: Path, cache: Any) -> None:
    image = write_series(folder / "ct", shape=SHAPE)[0]
    mask = np.ones(SHAPE[1:], np.uint8)
    seg = write_seg(folder / "seg.dcm", image, [(1, (0, 0, 2.0 * z), mask) for z in range(3)])
    *_, last = divide(seg, (1, 1, 1))
    index = dicomdl.scan(folder, folder.parent / "index", progress=False)
    (stack,) = index.select(has="SEG").stacks
    cached = CachedLabels(cache, stack, LabelSource("SEG"))
    assert cached.read((0, 0, 0), SHAPE).any(axis=(1, 2)).tolist() == [True] * 3 + [False] * 4
    with open(last, "ab") as file:
        file.write(b"\0\0")
    with pytest.raises(FileChanged):
        CachedLabels(cache, stack, LabelSource("SEG"))


@pytest.mark.quick(4)
@pytest.mark.parametrize("orientation", [(1, 0, 0, 0, 1, 0), (0, 1, 0, -1, 0, 0)], ids=str)
@pytest.mark.parametrize("rows", [12, 9])
@pytest.mark.parametrize(
    "segments", [None, ["part 2"], {"a": [3, 1], "b": [2, 1]}], ids=["all", "one", "joined"]
)
def test_voxels_are_counted_in_the_bits_of_frames_as_in_the_label_map(
    folder: Path, orientation: Any, rows: int, segments: Any
) -> None:
    image = write_series(folder / "ct", shape=(4, rows, rows))[0]
    masks = np.random.default_rng(5).random((4, 3, rows, rows)) < 0.4
    masks[1, 0] = False
    # The first pixel of frames that are turned lies in another corner.
    x = 0 if orientation[0] else rows - 1
    frames = [
        (k + 1, (x, 0, 2.0 * z), masks[z, k].astype(np.uint8))
        for z in (3, 0, 1)
        for k in range(3)
        if (z, k) != (0, 2)
    ]
    path = write_seg(folder / "seg.dcm", image, frames, orientation=orientation)
    stack = index_of(folder / "ct").stacks[0]
    reader = LabelSource(str(path), segments=segments).reader(stack)

    def read(start: Any, stop: Any) -> Any:
        return label_block(reader, start, stop, np.uint8)[0]

    assert (reader.counts() is None) == (rows == 9)
    found, expected = census_of(reader, read), Census.of(read, stack.shape)
    assert np.array_equal(found.labels, expected.labels)
    assert np.array_equal(found.counts, expected.counts)
