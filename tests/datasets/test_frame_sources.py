"""Frames in a plane of the patient: pictures as in plots, with the bytes that they cross."""

import os
import pickle
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import NewFolder, index_of
from phantoms import write_secondary_capture, write_series
from pydicom.uid import JPEG2000Lossless
from torch.utils.data import DataLoader

import dicomdl
from dicomdl.datasets.samplers import RowBatchSampler, RowSampler
from dicomdl.datasets.selection import LeftOutWarning
from dicomdl.errors import DicomdlError, UsageError
from dicomdl.geometry.axes import PLANE_AXES, PLANES, axes_towards
from dicomdl.geometry.grid import Geometry
from dicomdl.storage import memory, pieces
from dicomdl.volumes import blocks, slices
from dicomdl.volumes._planes import views_of

ORIENTATIONS = {
    "axial": (1, 0, 0, 0, 1, 0),
    "coronal": (1, 0, 0, 0, 0, -1),
    "sagittal": (0, 1, 0, 0, 0, -1),
    "feet first, prone": (-1, 0, 0, 0, -1, 0),
    "oblique": (0.8, 0.6, 0.0, -0.48, 0.64, -0.6),
}
SHAPE = (5, 8, 11)
GRID: dict[str, Any] = {"spacing": (3, 0.5, 0.7), "origin": (-10, 20, 30)}


@pytest.fixture(scope="module")
def planes(new_folder: NewFolder) -> dicomdl.Index:
    """One series per orientation."""
    folder = new_folder()
    for seed, orientation in enumerate(ORIENTATIONS.values()):
        write_series(folder, shape=SHAPE, orientation=orientation, seed=seed, **GRID)
    return index_of(folder)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Counter[int]:
    """Bytes read per offset in a file, for all files together."""
    count: Counter[int] = Counter()
    preadv = os.preadv

    def counted(descriptor: int, buffers: Any, offset: int) -> int:
        done = preadv(descriptor, buffers, offset)
        count[offset] += done
        return done

    monkeypatch.setattr(os, "preadv", counted)
    monkeypatch.setattr(pieces, "fill_block", pieces.pure_fill_block)
    return count


@pytest.mark.parametrize("plane", PLANES)
def test_frames_are_the_pictures_of_a_plot_at_their_place(
    planes: dicomdl.Index, plane: Any
) -> None:
    frames = dicomdl.FrameDataset(planes, "modality", plane=plane)
    for number, stack in enumerate(planes.stacks):
        volume = dicomdl.read_volume(stack)
        view = views_of(volume.geometry, (1.0, 1.0))[plane]
        order = axes_towards(volume.geometry, PLANE_AXES[plane])
        begin, end = frames.boundaries[number : number + 2].tolist()
        assert end - begin == volume.array.shape[view.axis]
        for row in (begin, begin + 1, end - 1):
            sample = frames[row]
            position = sample["slice"]
            assert sample["stack"] == stack.number and row == begin + position
            stored = end - 1 - row if order.flips[0] else position
            assert np.array_equal(sample["image"][0], view.cut(volume.array, stored))
            height, width = sample["image"].shape[1:]
            corner = volume.reorient(PLANE_AXES[plane]).geometry.voxel_to_world(
                [position, height - 1, width - 1]
            )
            affine = sample["affine"].numpy()
            assert np.allclose(affine @ [0, height - 1, width - 1, 1], [*corner, 1])
            assert np.allclose(sample["spacing"], np.linalg.norm(affine[:3, :3], axis=0))


def test_a_coronal_frame_reads_one_row_per_slice_and_a_batch_its_own_rows(
    folder: Path, reads: Counter[int]
) -> None:
    write_series(folder, shape=SHAPE)
    frames = dicomdl.FrameDataset(index_of(folder), (0, 400), plane="coronal")
    row_bytes = 2 * SHAPE[2] * SHAPE[0]
    reads.clear()
    alone = frames[3]
    assert sum(reads.values()) == row_bytes and len(reads) == 1
    reads.clear()
    batch = frames.__getitems__([6, 3, 2, 3])
    assert sum(reads.values()) == 3 * row_bytes
    assert torch.equal(batch[1]["image"], alone["image"])
    assert [sample["slice"] for sample in batch] == [6, 3, 2, 3]


def test_the_sagittal_frames_of_a_batch_read_each_file_once(
    folder: Path, reads: Counter[int]
) -> None:
    write_series(folder, shape=SHAPE)
    frames = dicomdl.FrameDataset(index_of(folder), (0, 400), plane="sagittal")
    alone = [frames[row]["image"] for row in range(len(frames))]
    reads.clear()
    together = frames.__getitems__(range(len(frames)))
    assert sum(reads.values()) == 2 * np.prod(SHAPE)
    assert all(torch.equal(a, b["image"]) for a, b in zip(alone, together, strict=True))


@pytest.mark.filterwarnings("ignore::dicomdl.storage.memory.MemoryWarning")
def test_a_batch_decodes_each_slice_once_even_without_memory_for_them(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_series(folder, shape=SHAPE, transfer_syntax=JPEG2000Lossless)
    monkeypatch.setenv("DICOMDL_MEMORY", "1")
    monkeypatch.setattr(slices, "_STORED_VOXELS", SHAPE[1] * SHAPE[2])
    memory.clear()
    frames = dicomdl.FrameDataset(index_of(folder), (0, 400), plane="coronal")
    expected = dicomdl.read_volume(frames.index.stacks[0]).window((0, 400)).reorient("PIL")
    decoded, read_converted = [], blocks.read_converted

    def counted(*given: Any, **options: Any) -> Any:
        decoded.append(given)
        return read_converted(*given, **options)

    monkeypatch.setattr(blocks, "read_converted", counted)
    batch = frames.__getitems__([1, 2, 5, 7])
    assert len(decoded) == SHAPE[0]
    for sample in batch:
        assert np.array_equal(sample["image"][0], expected.array[sample["slice"]])


@pytest.mark.parametrize("cache", [None, "memory"])
def test_neighbours_lie_across_the_plane(folder: Path, cache: Any) -> None:
    write_series(folder, shape=SHAPE, transfer_syntax=JPEG2000Lossless, intercept=-1024)
    frames = dicomdl.FrameDataset(
        index_of(folder), "modality", plane="coronal", neighbours=2, cache=cache
    )
    array = dicomdl.read_volume(frames.index.stacks[0]).reorient("PIL").array
    padded = np.pad(array, ((2, 2), (0, 0), (0, 0)), constant_values=-1024)
    rows = [0, 1, 4, 7]
    for sample in [*frames.__getitems__(rows), *(frames[row] for row in rows)]:
        position = sample["slice"]
        assert np.array_equal(sample["image"], padded[position : position + 5])
    first, second, *_ = frames.__getitems__([0, 1])
    first["image"].zero_()
    assert torch.equal(second["image"], frames[1]["image"])


def test_spacing_makes_pixels_square_and_values_stay_at_their_place(
    planes: dicomdl.Index,
) -> None:
    frames = dicomdl.FrameDataset(planes, "modality", plane="sagittal", spacing=0.5, size=(24, 20))
    for row, stack in zip(frames.boundaries[:-1].tolist(), planes.stacks, strict=True):
        sample = frames[row]
        assert sample["image"].shape == (1, 24, 20)
        assert np.allclose(sample["spacing"][1:], 0.5)
        pixels = np.moveaxis(np.indices((1, 24, 20)), 0, -1)
        world = Geometry((1, 24, 20), sample["affine"].numpy()).voxel_to_world(pixels)
        voxels = stack.geometry.world_to_voxel(world)
        inside = ((voxels >= 0) & (voxels <= np.array(SHAPE) - 1)).all(axis=-1)
        # The phantom is linear, and so is the interpolation.
        assert np.allclose(sample["image"][inside], (voxels @ (53, 7, 1))[inside], atol=1e-3)
        assert inside.sum() > 20


def test_values_that_fit_no_int16_in_one_slice_come_as_in_the_volume(folder: Path) -> None:
    write_series(folder, shape=SHAPE, slope=[1, 1, 1, 1, 3000], offset=1)
    frames = dicomdl.FrameDataset(index_of(folder), "modality", plane="sagittal")
    array = dicomdl.read_volume(frames.index.stacks[0]).reorient("LIP").array
    batch = frames.__getitems__(range(len(frames)))
    assert np.array_equal(np.stack([sample["image"][0] for sample in batch]), array)


def test_stacks_without_slices_in_the_plane_are_left_out_and_told(folder: Path) -> None:
    write_series(folder, shape=SHAPE)
    write_series(folder, shape=(1, 8, 11), seed=1)
    write_series(folder, shape=SHAPE, seed=2, drop=[2])
    write_secondary_capture(folder / "shot.dcm")
    index = index_of(folder)
    with pytest.warns(LeftOutWarning) as told:
        frames = dicomdl.FrameDataset(index, plane="coronal", content=None)
    assert len(frames) == SHAPE[1]
    text = str(told[0].message)
    for reason in ("a single slice of another plane", "missing_slices", "no_geometry"):
        assert reason in text
    with pytest.warns(LeftOutWarning):
        axial = dicomdl.FrameDataset(index, plane="axial", content=None)
    assert len(axial) == SHAPE[0] + 1


def test_a_damaged_file_costs_its_frames_and_is_named(folder: Path) -> None:
    write_series(folder, shape=SHAPE)
    write_series(folder, shape=SHAPE, seed=1, offset=5)
    index = index_of(folder)
    damaged = index.stacks[0].source(2).path
    os.truncate(damaged, os.path.getsize(damaged) - 30)
    frames = dicomdl.FrameDataset(index, plane="coronal", on_error="skip")
    batch = frames.__getitems__([0, 1, 9, 10])
    assert [sample["row"] for sample in batch] == [9, 10]
    assert [each.row for each in frames.skipped] == [0, 1]
    with pytest.raises(DicomdlError) as error:
        dicomdl.FrameDataset(index, plane="coronal")[0]
    assert any(damaged in note for note in error.value.__notes__)


@pytest.mark.slow
def test_loaders_and_workers_deliver_the_same_frames(planes: dicomdl.Index) -> None:
    frames = dicomdl.FrameDataset(planes, plane="coronal", size=(8, 8))
    again = pickle.loads(pickle.dumps(frames))
    assert torch.equal(again[5]["image"], frames[5]["image"])
    assert len(pickle.dumps(frames)) < 4000
    sampler = RowBatchSampler(RowSampler(frames, shuffle="stacks", seed=3), 4)
    here, there = (
        list(DataLoader(frames, batch_sampler=sampler, num_workers=workers)) for workers in (0, 1)
    )
    rows = torch.cat([batch["row"] for batch in here])
    assert sorted(rows.tolist()) == list(range(len(frames)))
    sampler.set_epoch(0)
    assert sum(len(batch["row"]) for batch in there) == len(frames)
    for batch in there[:3]:
        for row, image in zip(batch["row"].tolist(), batch["image"], strict=True):
            assert torch.equal(image, frames[row]["image"])


@pytest.mark.parametrize(
    "options",
    [
        {"plane": "transverse"},
        {"plane": "axial", "reduce": 1},
        {"plane": "axial", "spacing_at": "patient"},
    ],
)
def test_options_that_do_not_fit_a_plane_are_refused(
    planes: dicomdl.Index, options: dict[str, Any]
) -> None:
    with pytest.raises(UsageError, match="plane="):
        dicomdl.FrameDataset(planes, **options)
