"""Blocks of voxels: equal to those of the volume for every kind of stack, at the right cost."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import index_of
from descriptors import open_below
from phantoms import ramp, true_volume, write_multiframe, write_series
from phantoms_multi import write_mosaic
from pydicom.dataset import Dataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)

import dicomdl
from dicomdl._kernels import accelerated, both
from dicomdl.errors import FileChanged, TruncatedPixels, UsageError
from dicomdl.storage import pieces as pieces_module
from dicomdl.storage import sources as sources_module
from dicomdl.storage.cache.disk import DiskCache
from dicomdl.storage.cache.memory import MemoryCache
from dicomdl.storage.memory import Share
from dicomdl.storage.system import CAN_SHARE
from dicomdl.values import one_pass
from dicomdl.values.intensity import Intensity
from dicomdl.values.sampling import stack_sample
from dicomdl.values.windows import Window
from dicomdl.volumes import blocks as voxels
from dicomdl.volumes.block_reader import Scratch
from dicomdl.volumes.blocks import StackVoxels

SHAPE = (6, 9, 14)
BLOCKS = [
    ((0, 0, 0), SHAPE),
    ((1, 2, 3), (4, 7, 11)),
    ((5, 8, 13), (6, 9, 14)),
    ((0, 3, 0), (6, 5, 14)),
]


def only_stack(folder: Path) -> dicomdl.Stack:
    (stack,) = dicomdl.scan(folder, folder.parent / f"{folder.name}.index", progress=False).stacks
    return stack


def padded(dataset: Dataset, z: int) -> None:
    dataset.add_new("PixelPaddingValue", "SS" if dataset.PixelRepresentation else "US", 30)


KINDS: dict[str, dict[str, Any]] = {
    "native": {"intercept": -1024},
    "big endian": {"intercept": -1024, "transfer_syntax": ExplicitVRBigEndian},
    "deflated": {"transfer_syntax": DeflatedExplicitVRLittleEndian},
    "RLE": {"intercept": -1024, "transfer_syntax": RLELossless},
    "JPEG 2000": {"intercept": -1024, "transfer_syntax": JPEG2000Lossless},
    "JPEG-LS": {"transfer_syntax": JPEGLSLossless},
    "8 bits": {"bits_allocated": 8, "stored": ramp(SHAPE) % 251},
    "32 bits": {"bits_allocated": 32, "stored": ramp(SHAPE) * 10_000},
    "signed, junk above": {"signed": True, "offset": -90, "unused_bits": "ones"},
    "signs that differ": {"signed": [True, False, True, False, False, True]},
    "a slope each": {"slope": [1, 2, 3, 4, 5, 6], "intercept": -5},
    "fractional": {"slope": 0.25, "intercept": 0.5},
    "padding": {"intercept": -1024, "edit": padded},
    "padding, a slope each": {"slope": [1, 2, 3, 4, 5, 6], "edit": padded},
    "values beyond int16": {"slope": [1, 1, 1, 1, 1, 3000]},
}


@pytest.mark.quick(1)
@pytest.mark.parametrize("kind", KINDS)
def test_a_block_is_that_of_the_volume(folder: Path, kind: str) -> None:
    write_series(folder, shape=SHAPE, **KINDS[kind])
    stack = only_stack(folder)
    volume = dicomdl.read_volume(stack)
    reader, scratch = StackVoxels(stack), Scratch()
    for start, stop in BLOCKS:
        part = tuple(slice(a, b) for a, b in zip(start, stop, strict=True))
        for memory in (None, scratch):
            array, padding = reader.read(start, stop, memory)
            assert np.array_equal(array, volume.array[part]) and array.dtype in (
                np.int16,
                np.int32,
                np.float32,
            )
            expected = (
                np.zeros(array.shape, bool) if volume.padding is None else volume.padding[part]
            )
            assert np.array_equal(
                np.zeros(array.shape, bool) if padding is None else padding, expected
            )


def test_a_block_of_an_enhanced_file_and_of_mosaics_is_that_of_the_volume(folder: Path) -> None:
    write_multiframe(
        folder / "a.dcm", shape=SHAPE, order=[3, 0, 5, 1, 4, 2], slope=[1, 2, 3, 4, 5, 6]
    )
    stack = only_stack(folder)
    array, _ = StackVoxels(stack).read((1, 2, 3), (5, 6, 7))
    assert np.array_equal(array, dicomdl.read_volume(stack).array[1:5, 2:6, 3:7])
    tiles = folder.parent / "mosaic"
    tiles.mkdir()
    write_mosaic(tiles / "a.dcm")
    mosaic = dicomdl.scan(tiles, folder.parent / "mosaic.index", progress=False).stacks[0]
    array, _ = StackVoxels(mosaic).read((1, 0, 0), (3, 2, 2))
    assert np.array_equal(
        array, dicomdl.read_volume(mosaic, irregular="accept").array[1:3, 0:2, 0:2]
    )


def test_other_quantities_come_in_blocks_too(folder: Path) -> None:
    write_series(folder, shape=SHAPE, modality="PT", slope=3, edit=_gml)
    stack = only_stack(folder)
    array, _ = StackVoxels(stack, dicomdl.SUV()).read((1, 2, 3), (5, 6, 7))
    assert np.array_equal(array, dicomdl.read_volume(stack, values="suv").array[1:5, 2:6, 3:7])


@pytest.mark.slow
def test_every_stack_of_the_corpus_is_the_same_with_and_without_the_compiled_module(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index, recipe = dicomdl.scan(corpus, tmp_path / "i", progress=False), Intensity(Window(40, 400))
    compared = 0
    for stack in index.stacks:
        if min(stack.shape) < 1 or np.prod(stack.shape) > 2**24 or not StackVoxels(stack)._plain:
            continue
        found = []
        pairs = [(one_pass, "convert_samples", one_pass.pure_convert_samples)]
        pairs.append((pieces_module, "fill_block", pieces_module.pure_fill_block))
        for chosen in range(2):
            for module, name, pure in pairs:
                monkeypatch.setattr(module, name, (both(pure) or (pure, pure))[chosen])
            array, padding = StackVoxels(stack).read((0, 0, 0), stack.shape)
            mask = np.zeros(array.shape, bool) if padding is None else padding
            found.append((array, mask))
        volume = dicomdl.read_volume(stack, irregular="accept")
        found.append((volume.array, volume.padding if volume.padding is not None else 0 * mask))
        for array, padding in found[1:]:
            assert array.dtype == found[0][0].dtype
            assert np.array_equal(array, found[0][0], equal_nan=array.dtype.kind == "f")
            assert np.array_equal(padding, found[0][1])
        reader = StackVoxels(stack)
        table = reader.network_table(recipe, marks_padding=False)
        if table is not None:
            image = np.empty(stack.shape, np.float32)
            reader.read_by(table, (0, 0, 0), stack.shape, image)
            assert np.array_equal(image, recipe(found[0][0]))
            compared += 1
    assert compared >= 10 or not accelerated


def _gml(dataset: Dataset, z: int) -> None:
    dataset.Units, dataset.CorrectedImage, dataset.DecayCorrection = (
        "GML",
        ["ATTN", "DECY"],
        "START",
    )


@pytest.mark.parametrize(
    ("start", "stop"), [((0, 0, 0), (7, 1, 1)), ((-1, 0, 0), (1, 1, 1)), ((2, 2, 2), (2, 3, 3))]
)
def test_a_block_that_is_not_inside_is_refused(folder: Path, start: Any, stop: Any) -> None:
    write_series(folder, shape=SHAPE)
    with pytest.raises(UsageError, match="not inside"):
        StackVoxels(only_stack(folder)).read(start, stop)


@pytest.mark.skipif(not CAN_SHARE, reason="this system reads by handles alone")
def test_a_block_of_plain_frames_reads_its_own_rows_of_its_own_slices(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_series(folder, shape=SHAPE)
    stack = only_stack(folder)
    reader = StackVoxels(stack)
    read: list[int] = []
    original = pieces_module.pure_fill_block

    def counted(places: Any, first: int, window: pieces_module.Window, *a: Any) -> tuple[int, int]:
        complete, found = original(places, first, window, *a)
        read.extend([window.rows * window.row_bytes] * complete)
        return complete, found

    monkeypatch.setattr(pieces_module, "fill_block", counted)
    reader.read((1, 2, 3), (4, 5, 6))
    assert read == [3 * 14 * 2] * 3


def test_coded_slices_are_decoded_once_and_kept_within_bounds(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_series(folder, shape=SHAPE, transfer_syntax=JPEGLSLossless)
    reader = StackVoxels(only_stack(folder))
    decoded: list[int] = []
    original = voxels.read_converted
    monkeypatch.setattr(
        voxels,
        "read_converted",
        lambda sources, *a, **o: (decoded.append(len(sources)), original(sources, *a, **o))[1],
    )
    for _ in range(3):
        reader.read((1, 0, 0), (4, 5, 6))
    assert decoded == [1, 1, 1]
    room_for_two = Share("slices", voxels._size, limit=lambda: 2 * (9 * 14 * 2 + 400))
    monkeypatch.setattr(voxels, "_slices", room_for_two)
    for _ in range(2):
        reader.read((0, 0, 0), (6, 5, 6))
    assert len(decoded) == 15 and len(room_for_two) == 2


def test_errors_name_the_file_of_the_slice_that_cannot_be_read(folder: Path) -> None:
    paths = write_series(folder, shape=SHAPE)
    reader = StackVoxels(only_stack(folder))
    os.utime(paths[2], ns=(1, 1))
    with pytest.raises(FileChanged) as changed:
        reader.read((1, 0, 0), (4, 5, 6))
    assert paths[2].name in changed.value.__notes__[0]
    paths[4].unlink()
    with pytest.raises(FileChanged) as gone:
        reader.read((3, 0, 0), (6, 9, 14))
    assert paths[4].name in gone.value.__notes__[0]


def test_files_of_a_batch_are_opened_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_series(folder, shape=SHAPE)
    reader = StackVoxels(only_stack(folder))
    monkeypatch.setattr(pieces_module, "fill_block", pieces_module.pure_fill_block)
    opened: list[str] = []
    original = os.open
    monkeypatch.setattr(
        os, "open", lambda path, *a, **k: (opened.append(path), original(path, *a, **k))[1]
    )
    with sources_module.kept_open():
        for _ in range(3):
            reader.read((1, 0, 0), (4, 5, 6))
    assert len(opened) == 3
    assert open_below(folder) == 0
    monkeypatch.setattr(sources_module, "MOST_OPEN", 2)
    with sources_module.kept_open():
        array, _ = reader.read((0, 0, 0), (6, 5, 6))
    assert np.array_equal(array, ramp(SHAPE)[:, :5, :6])


def test_a_truncated_file_is_an_error_and_never_old_memory(folder: Path) -> None:
    paths = write_series(folder, shape=SHAPE)
    stack = only_stack(folder)
    reader = StackVoxels(stack)
    status = paths[1].stat()
    os.truncate(paths[1], status.st_size - 10)
    os.utime(paths[1], ns=(status.st_atime_ns, status.st_mtime_ns))
    with pytest.raises((TruncatedPixels, FileChanged)):
        reader.read((0, 0, 0), SHAPE)


# --- caches ---------------------------------------------------------------------------------------


@pytest.mark.quick(3)
@pytest.mark.parametrize(
    "kind", [kind for kind in KINDS if "transfer_syntax" in KINDS[kind] and kind != "big endian"]
)
@pytest.mark.parametrize("where", ["disk", "memory"])
def test_a_cached_block_is_that_of_the_volume_and_decoded_once(
    folder: Path, tmp_path: Path, kind: str, where: str
) -> None:
    write_series(folder, shape=SHAPE, **{**KINDS[kind], "edit": padded})
    stack = only_stack(folder)
    volume = dicomdl.read_volume(stack)
    assert volume.padding is not None
    cache = DiskCache(tmp_path / "cache") if where == "disk" else MemoryCache(2**20)
    for _ in range(2):
        reader = StackVoxels(stack, cache=cache)
        for start, stop in BLOCKS:
            part = tuple(slice(a, b) for a, b in zip(start, stop, strict=True))
            array, padding = reader.read(start, stop)
            assert np.array_equal(array, volume.array[part])
            assert np.array_equal(
                np.zeros(array.shape, bool) if padding is None else padding, volume.padding[part]
            )
    # The process that decoded the stack finds it in the cache from its second block on.
    assert (cache.stats().made, cache.stats().hits) == (1, 2)


def test_what_is_plain_is_in_no_cache(folder: Path, tmp_path: Path) -> None:
    write_series(folder, shape=SHAPE)
    cache = DiskCache(tmp_path / "cache")
    StackVoxels(only_stack(folder), cache=cache).read((0, 0, 0), SHAPE)
    assert cache.stats().made == 0


def test_another_quantity_another_rescale_or_a_changed_file_is_another_entry(
    folder: Path, tmp_path: Path
) -> None:
    def edit(dataset: Dataset, z: int) -> None:
        _gml(dataset, z)

    paths = write_series(
        folder, shape=SHAPE, modality="PT", slope=3, edit=edit, transfer_syntax=JPEGLSLossless
    )
    cache = DiskCache(tmp_path / "cache")
    stack = only_stack(folder)
    for quantity in ("modality", dicomdl.SUV(), dicomdl.SUV("bw")):
        StackVoxels(stack, quantity, cache).read((0, 0, 0), (1, 1, 1))
    assert cache.stats().made == 2
    write_series(
        folder, shape=SHAPE, modality="PT", slope=5, edit=edit, transfer_syntax=JPEGLSLossless
    )
    for path in paths:
        path.unlink()
    array, _ = StackVoxels(only_stack(folder), "modality", cache).read((0, 0, 0), SHAPE)
    assert np.array_equal(array, ramp(SHAPE) * 5) and cache.stats().made == 3


def test_a_file_that_changed_since_the_scan_is_noticed_though_its_stack_is_cached(
    folder: Path, tmp_path: Path
) -> None:
    paths = write_series(folder, shape=SHAPE, transfer_syntax=JPEGLSLossless)
    cache, stack = DiskCache(tmp_path / "cache"), only_stack(folder)
    StackVoxels(stack, cache=cache).read((0, 0, 0), SHAPE)
    os.utime(paths[2], ns=(1, 1))
    with pytest.raises(FileChanged) as caught:
        StackVoxels(stack, cache=cache).read((0, 0, 0), SHAPE)
    assert paths[2].name in caught.value.__notes__[0]


def test_labels_with_a_palette_stay_labels_however_they_are_read(folder: Path) -> None:
    pytest.importorskip("torch")
    label_map = "1.2.840.10008.5.1.4.1.1.66.7"
    write_series(folder, shape=(3, 4, 5), sop_class=label_map, photometric="PALETTE COLOR")
    index = index_of(folder)
    stack, expected = index.stacks[0], true_volume((3, 4, 5))
    options: dict[str, Any] = {"intensity": "modality", "content": "segmentation"}
    whole = dicomdl.VolumeDataset(index, **options)[0]["image"]
    patch = dicomdl.PatchDataset(index, (3, 4, 5), sampler="grid", **options)[0]["image"]
    frames = [sample["image"][0] for sample in dicomdl.FrameDataset(index, **options)]
    for found in (
        dicomdl.read_volume(stack).array,
        StackVoxels(stack).read((0, 0, 0), (3, 4, 5)).array,
        stack_sample(stack),
        whole[0],
        patch[0],
        np.stack(frames),
    ):
        assert np.array_equal(found, expected)
