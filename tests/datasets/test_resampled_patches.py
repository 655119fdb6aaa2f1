"""Patches at a spacing of their own: parts of the resampled volume, read without the rest."""

import functools
import math
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import index_of
from phantoms import write_secondary_capture, write_series

import dicomdl
from dicomdl.datasets.selection import LeftOutWarning
from dicomdl.datasets.stitch import Stitcher, stitch
from dicomdl.errors import GeometryError, UsageError
from dicomdl.storage import pieces
from dicomdl.volumes.resampling import new_grid

SHAPE = (9, 20, 26)
SPACING = (2.5, 0.8, 0.7)
WINDOW = (0, 400)
NOISE = np.random.default_rng(3).integers(0, 400, SHAPE).astype(np.uint16)
OBLIQUE = (0.8, 0.6, 0.0, -0.48, 0.64, -0.6)


def noise(folder: Path, **options: Any) -> dicomdl.Index:
    options = {"shape": SHAPE, "spacing": SPACING, "stored": NOISE, **options}
    write_series(folder, intercept=-50, modality="CT", **options)
    return index_of(folder)


def labels_of(stack: dicomdl.Stack) -> Any:
    labels = np.zeros(stack.shape, np.uint8)
    labels[3:6, 4:9, 5:12] = 3
    labels[7, 15:17, 20:22] = 300 % 251
    return labels


def stitched(patches: dicomdl.PatchDataset, name: str = "image") -> Any:
    samples = patches.__getitems__(range(len(patches)))
    arrays = [sample[name].to(torch.float32).numpy() for sample in samples]
    locations = [sample["location"].tolist() for sample in samples]
    shape = tuple(samples[0]["shape"].tolist())
    return stitch(arrays, locations, shape, "constant")


CASES: dict[str, dict[str, Any]] = {
    "finer": {"spacing": (1.0, 0.5, 0.5)},
    "coarser": {"spacing": (4.0, 1.5, 2.1)},
    "one number": {"spacing": 1.1},
    "thick": {"spacing": 1.0, "interpolation": "thick_slices"},
    "oriented": {"spacing": (1.0, 1.2, 1.7), "orientation": "RAS"},
}
STACKS: dict[str, dict[str, Any]] = {
    "axial": {},
    "oblique": {"orientation": OBLIQUE},
    "tilted": {"shear": (0.0, 0.5)},
    "padded": {"edit": lambda file, _: setattr(file, "PixelPaddingValue", 7)},
    "coded": {"transfer_syntax": "1.2.840.10008.1.2.5"},
    "thick slices": {"spacing": (4.0, 0.8, 0.7)},
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stack", "case"),
    [
        ("axial", "finer"),
        ("oblique", "coarser"),
        ("oblique", "oriented"),
        ("tilted", "coarser"),
        ("tilted", "oriented"),
        ("padded", "one number"),
        ("coded", "coarser"),
        ("thick slices", "thick"),
    ],
)
def test_patches_are_parts_of_the_resampled_volume(folder: Path, stack: str, case: str) -> None:
    index = noise(folder, **STACKS[stack])
    options: dict[str, Any] = {"intensity": WINDOW, **CASES[case]}
    patches = dicomdl.PatchDataset(index, (5, 7, 6), sampler="grid", **options)
    (volume,) = dicomdl.VolumeDataset(index, **options)
    joined = stitched(patches)
    assert joined.shape == volume["image"].shape and np.isfinite(joined).all()
    assert np.abs(joined - volume["image"].numpy()).max() < 1e-4
    grid = patches.geometry(index.stacks[0])
    assert np.allclose(grid.affine, volume["affine"].numpy())
    for sample in (patches[0], patches[len(patches) - 1]):
        assert np.allclose(sample["spacing"], volume["spacing"])
        at = sample["affine"].numpy() @ [0, 0, 0, 1]
        assert np.allclose(at[:3], grid.voxel_to_world(sample["location"].numpy()))


@pytest.mark.parametrize("intensity", ["modality", WINDOW])
@pytest.mark.parametrize("intensity_on", ["cpu", "device"])
def test_patches_keep_their_values_while_others_are_read(
    folder: Path, intensity: Any, intensity_on: Any
) -> None:
    index = noise(folder)
    patches = dicomdl.PatchDataset(
        index, (6, 9, 8), spacing=1.0, intensity=intensity, intensity_on=intensity_on, seed=2
    )
    alone = [patches[row]["image"].clone() for row in range(4)]
    together = patches.__getitems__(range(4))
    assert len({tuple(sample["location"].tolist()) for sample in together}) > 1
    for sample, image in zip(together, alone, strict=True):
        assert sample["image"].dtype == torch.float32 and torch.equal(sample["image"], image)


def test_beyond_the_stack_a_patch_is_padded_as_on_the_own_grid(folder: Path) -> None:
    index = noise(folder)
    (sample,) = dicomdl.PatchDataset(
        index, (40, 30, 30), spacing=1.0, sampler="grid", intensity="modality"
    )
    shape = sample["shape"].tolist()
    outside = np.ones((40, 30, 30), bool)
    first = [-int(a) for a in sample["location"]]
    outside[tuple(slice(a, a + n) for a, n in zip(first, shape, strict=True))] = False
    image = sample["image"][0].numpy()
    assert (image[outside] == -1024).all() and (image[~outside] > -100).all()


@pytest.mark.slow
def test_labels_are_those_of_the_nearest_voxels(folder: Path) -> None:
    for number, options in enumerate(({}, {"orientation": OBLIQUE}, {"shear": (0.0, 0.5)})):
        place = folder / str(number)
        place.mkdir()
        index = noise(place, **options)
        stack = index.stacks[0]
        patches = dicomdl.PatchDataset(
            index, (5, 7, 6), sampler="grid", spacing=1.1, labels=labels_of, intensity=WINDOW
        )
        values = dicomdl.read_volume(stack).like(labels_of(stack))
        expected = values.resample(1.1, interpolation="nearest", fill=0).array
        assert np.array_equal(stitched(patches, "label"), expected)
        assert set(np.unique(expected).tolist()) == {0, 3, 49}


def test_samplers_find_labels_bodies_and_points_in_the_new_grid(folder: Path) -> None:
    index = noise(folder, orientation=OBLIQUE, stored=np.where(NOISE > 200, 1500, 50))
    stack = index.stacks[0]
    options: dict[str, Any] = {"spacing": (1.0, 0.4, 0.4), "intensity": "modality"}
    rare = dicomdl.PatchDataset(
        index,
        (1, 1, 1),
        sampler=dicomdl.Balanced({49: 1}),
        labels=labels_of,
        per_stack=8,
        **options,
    )
    assert all(int(sample["label"]) == 49 for sample in rare)
    world = stack.geometry.voxel_to_world([4, 6, 7])
    points = dicomdl.Centers([(stack.series_instance_uid, *world)])
    (sample,) = dicomdl.PatchDataset(index, (3, 3, 3), sampler=points, **options)
    middle = sample["affine"].numpy() @ [1, 1, 1, 1]
    assert np.abs(stack.geometry.world_to_voxel(middle[:3]) - [4, 6, 7]).max() < 0.5
    body = dicomdl.Foreground(above=600)
    around = dicomdl.PatchDataset(index, (1, 1, 1), sampler=body, per_stack=8, **options)
    values = dicomdl.read_volume(stack).array
    for sample in around:
        place = stack.geometry.world_to_voxel(sample["affine"][:3, 3].numpy())
        low, high = np.floor(place).astype(int), np.ceil(place).astype(int) + 1
        assert (
            values[tuple(slice(max(a, 0), b) for a, b in zip(low, high, strict=True))].max() > 600
        )


@pytest.mark.slow
def test_a_result_comes_back_onto_the_slices(folder: Path) -> None:
    index = noise(folder, shear=(0.0, 0.5))
    stack = index.stacks[0]
    patches = dicomdl.PatchDataset(
        index, (16, 16, 16), spacing=0.5, sampler="grid", labels=labels_of, intensity=WINDOW
    )
    joined: Stitcher | None = None
    for sample in patches:
        if joined is None:
            joined = Stitcher(tuple(sample["shape"].tolist()))
        joined.add(sample["label"].numpy() == 3, sample["location"].tolist())
    assert joined is not None and joined.is_covered
    found = dicomdl.Volume(joined.result(), patches.geometry(stack))
    on_slices = found.resample_to(stack.geometry).array > 0.5
    truth = labels_of(stack) == 3
    assert on_slices.shape == stack.shape
    overlap = (on_slices & truth).sum()
    assert 2 * overlap / (on_slices.sum() + truth.sum()) > 0.95


class Counter:
    """Bytes of positioned reads."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.bytes = 0
        self._real = os.preadv
        monkeypatch.setattr(os, "preadv", self._counted)
        monkeypatch.setattr(pieces, "fill_block", pieces.pure_fill_block)

    def _counted(self, *args: Any) -> int:
        got = self._real(*args)
        self.bytes += got
        return got


@pytest.mark.skipif(not hasattr(os, "preadv"), reason="needs preadv")
def test_a_patch_reads_the_rows_that_it_needs_once(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shape = (40, 64, 64)
    write_series(folder, shape=shape, spacing=(1.25, 0.7, 0.7), bits_stored=16)
    index = index_of(folder)
    patches = dicomdl.PatchDataset(index, (16, 16, 16), spacing=1.0, intensity=WINDOW, seed=1)
    location = patches[0]["location"].tolist()
    counter = Counter(monkeypatch)
    patches[0]
    old = index.stacks[0].geometry
    grid = new_grid(old, 1.0, None)
    ends = [np.array(location), np.array(location) + 15]
    places = [old.world_to_voxel(grid.voxel_to_world(end)) for end in ends]
    widths = np.maximum(np.array([1, 1, 1]) / old.spacing, 1)
    low = np.maximum(np.floor(places[0] - widths) + 1, 0)
    high = np.minimum(np.ceil(places[1] + widths), shape)
    slices, rows, _ = (high - low).astype(int)
    assert slices < 20 and rows < 30
    assert counter.bytes <= 1.1 * slices * rows * 64 * 2


def test_a_fingerprint_gives_its_target_spacing(folder: Path) -> None:
    index = noise(folder)
    found = dicomdl.fingerprint(index)
    patches = dicomdl.PatchDataset(index, (4, 4, 4), spacing=found, intensity=WINDOW)
    volumes = dicomdl.VolumeDataset(index, WINDOW, spacing=found)
    for dataset in (patches, volumes):
        assert np.allclose(dataset[0]["spacing"], found.target_spacing)
    with pytest.raises(UsageError, match="target_spacing is along slices"):
        dicomdl.VolumeDataset(index, spacing=found, orientation="RAS")


def test_what_cannot_be_resampled_is_refused_or_left_out(folder: Path) -> None:
    write_series(folder, shape=(4, 6, 7), spacing=(2, 1, 1))
    write_secondary_capture(folder / "shot.dcm")
    index = index_of(folder)
    with pytest.warns(LeftOutWarning, match="no known orientation"):
        patches = dicomdl.PatchDataset(
            index, (2, 2, 2), spacing=1, irregular="accept", content=None
        )
    assert len(patches.index.stacks) == 1
    for spacing in ((1, 1), 0, -1, math.nan, "fine"):
        with pytest.raises(UsageError, match="spacing"):
            dicomdl.PatchDataset(patches.index, (2, 2, 2), spacing=spacing)
    with pytest.raises(UsageError, match="interpolation='nearest'"):
        dicomdl.PatchDataset(
            patches.index,
            (2, 2, 2),
            spacing=1,
            interpolation="nearest",  # type: ignore[arg-type]
        )
    with pytest.raises(GeometryError, match="limit of 8,589,934,592") as caught:
        dicomdl.PatchDataset(patches.index, (2, 2, 2), spacing=1e-3)
    assert caught.value.voxels > caught.value.limit
    with pytest.raises(GeometryError, match="limit of 1,073,741,824") as caught:
        dicomdl.VolumeDataset(patches.index, spacing=5e-3)[0]
    assert caught.value.voxels > caught.value.limit == 2**30
    with pytest.raises(GeometryError, match="limit of 1,073,741,824") as caught:
        dicomdl.FrameDataset(patches.index, spacing=1e-4)[0]
    assert caught.value.voxels > caught.value.limit == 2**30
    for make in (dicomdl.VolumeDataset, functools.partial(dicomdl.PatchDataset, size=(2, 2, 2))):
        with pytest.raises(UsageError, match="it needs spacing="):
            make(patches.index, interpolation="thick_slices")


def test_a_single_slice_of_the_requested_spacing_has_it(folder: Path) -> None:
    index = noise(folder, shape=(1, 20, 26), stored=NOISE[:1])
    options = {"spacing": SPACING, "intensity": "modality"}
    (volume,) = dicomdl.VolumeDataset(index, **options)
    patch = dicomdl.PatchDataset(index, (1, 8, 8), **options)[0]
    assert volume["spacing"].tolist() == patch["spacing"].tolist() == list(SPACING)


def test_a_frame_of_one_column_keeps_its_values_at_their_place(folder: Path) -> None:
    stored = np.arange(10)[:, None, None] * 10 + np.zeros((1, 1, 6), np.int64)
    index = noise(folder, shape=(10, 1, 6), stored=stored, spacing=(1, 2, 1))
    frames = dicomdl.FrameDataset(index, "modality", plane="sagittal", spacing=(2, 2))
    sample = frames[0]
    (column,) = sample["image"][0].T
    places = sample["affine"].numpy() @ np.array([[0, row, 0, 1] for row in range(5)]).T
    assert len(column) == 5
    # The ends are means over a part of their neighbourhood.
    assert np.allclose(column[1:-1], places[2, 1:-1] * 10 - 50, atol=1e-3)


def test_the_number_of_patches_follows_the_grid_of_each_stack(folder: Path) -> None:
    spacings = [(2.5, 0.7, 0.7), (1.0, 1.0, 1.0), (0.7, 0.75, 1.5)]
    for number, spacing in enumerate(spacings):
        shear = (0.0, 0.4 * number)
        write_series(folder, shape=(8, 15, 20), spacing=spacing, shear=shear, seed=number)
    index = index_of(folder)
    for orientation in (None, "RAS"):
        patches = dicomdl.PatchDataset(
            index, (5, 5, 5), spacing=(1.0, 1.0, 1.0), orientation=orientation, sampler="grid"
        )
        counts = np.diff(patches.boundaries).tolist()
        shapes = [patches.geometry(stack).shape for stack in patches.index.stacks]
        assert counts == [math.prod(math.ceil(n / 5) for n in shape) for shape in shapes]
        again = pickle.loads(pickle.dumps(patches))
        last = len(patches) - 1
        assert torch.equal(again[last]["image"], patches[last]["image"])


@pytest.mark.slow
def test_an_epoch_of_a_loader_has_the_patches_of_the_dataset(folder: Path) -> None:
    index = noise(folder)
    patches = dicomdl.PatchDataset(index, (6, 6, 6), spacing=1.0, sampler="grid", intensity=WINDOW)
    loader = torch.utils.data.DataLoader(patches, batch_size=3, num_workers=2)
    images = torch.cat([batch["image"] for batch in loader])
    assert torch.equal(images, torch.stack([sample["image"] for sample in patches]))


def test_patches_of_real_stacks_are_parts_of_their_resampled_volumes(
    corpus: Path, tmp_path: Path
) -> None:
    index = dicomdl.scan(corpus, tmp_path / "i", progress=False)
    chosen = []
    for modality in ("CT", "MR", "PT"):
        for verdict in ("regular", "tilted"):
            stacks = index.select(modality=modality, verdict=verdict, content="image").stacks
            chosen += [stack.number for stack in stacks if 8 <= stack.slices <= 100][:6]
    assert len(chosen) >= 12
    part = index.of_stacks(chosen)
    options: dict[str, Any] = {"spacing": (3.0, 1.7, 1.7), "suv": "if_possible"}
    volumes = dicomdl.VolumeDataset(part, **options)
    patches = dicomdl.PatchDataset(part, (24, 40, 40), per_stack=1, **options)
    assert len(volumes) == len(patches)
    for row, sample in enumerate(patches):
        image = volumes[row]["image"][0].numpy()
        assert torch.isfinite(sample["image"]).all()
        start = sample["location"].numpy()
        end = start + np.array([24, 40, 40])
        low, high = np.maximum(start, 0), np.minimum(end, image.shape)
        expected = image[tuple(slice(a, b) for a, b in zip(low, high, strict=True))]
        inner = tuple(slice(a, b) for a, b in zip(low - start, high - start, strict=True))
        span = max(1.0, float(np.ptp(image)))
        assert np.abs(sample["image"][0].numpy()[inner] - expected).max() <= 1e-4 * span


@pytest.mark.parametrize("kind", ["patches", "planes", "neighbours"])
def test_padding_far_below_the_lowest_value_does_not_darken_what_lies_beside_it(
    folder: Path, kind: str
) -> None:
    stored = NOISE.astype(np.int64) + 1000
    stored[:, :8, :9] = -30000
    index = noise(
        folder,
        stored=stored,
        signed=True,
        bits_stored=16,
        edit=lambda file, _: file.add_new("PixelPaddingValue", "SS", -30000),
    )
    # The window saturates below 950 HU: on the own grid, padding is mapped to 0 as it is.
    window = dicomdl.Limits(950, 1400)
    if kind == "patches":
        patches = dicomdl.PatchDataset(
            index, (5, 7, 6), sampler="grid", intensity=window, spacing=0.6
        )
        (volume,) = dicomdl.VolumeDataset(index, window, spacing=0.6)
        assert np.abs(stitched(patches) - volume["image"].numpy()).max() < 1e-4
        return
    options = {"plane": "axial"} if kind == "planes" else {"neighbours": 1}
    stored_frames = dicomdl.FrameDataset(index, window, spacing=0.6)
    others = dicomdl.FrameDataset(index, window, spacing=0.6, **options)
    for one, other in zip(stored_frames, others, strict=True):
        image = other["image"][len(other["image"]) // 2]
        assert torch.allclose(one["image"][0], image, atol=1e-5)


@pytest.mark.quick(4)
@pytest.mark.parametrize("intensity_on", ["cpu", "device"])
@pytest.mark.parametrize(
    "intensity", [dicomdl.Percentile(1, 99), dicomdl.MinMax(), dicomdl.ZScore(), "auto"]
)
def test_a_constant_stack_is_zero_after_interpolation(
    folder: Path, intensity: Any, intensity_on: Any
) -> None:
    write_series(folder, shape=(6, 16, 16), stored=np.full((6, 16, 16), 77), modality="MR")
    options = {"spacing": 1.3, "intensity": intensity, "intensity_on": intensity_on}
    index = index_of(folder)
    samples = [
        dicomdl.VolumeDataset(index, **options)[0],
        dicomdl.PatchDataset(index, (9, 20, 20), sampler="grid", **options)[0],
    ]
    for sample in samples:
        mapped = dicomdl.apply_intensity(sample) if intensity_on == "device" else sample
        assert mapped["image"].abs().max() < 1e-4
