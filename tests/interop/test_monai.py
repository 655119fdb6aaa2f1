"""Interop: after a transform of another package the affine of a voxel is right, or NaN."""

import functools
import importlib
import pickle
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from phantoms import write_series
from torch.utils.data import DataLoader, Subset

import dicomdl
from dicomdl import interop
from dicomdl.datasets.sample import Sample
from dicomdl.datasets.samplers import RowBatchSampler, RowSampler
from dicomdl.datasets.stream import StackStream
from dicomdl.errors import GeometryError, MissingExtra, UsageError
from dicomdl.interop import torchvision as torchvision_module
from dicomdl.interop.lightning import collate_flat
from dicomdl.interop.monai import ForMonai, from_monai, to_monai
from dicomdl.interop.torchio import ForTorchIO, from_torchio, to_torchio
from dicomdl.interop.torchvision import ForTorchvision, to_torchvision

OBLIQUE = (0.8, 0.6, 0.0, -0.36, 0.48, 0.8)
SAGITTAL = (0, 1, 0, 0, 0, -1)
SHAPE = (8, 22, 26)


def needed(module: str) -> Any:
    """Import an optional package, or skip the test by the name of the package."""
    try:
        return importlib.import_module(module)
    # torchvision raises a RuntimeError if it does not fit the build of torch
    except Exception as error:
        pytest.skip(f"needs {module}: {type(error).__name__}")


@pytest.fixture
def monai() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        needed("monai.data")
        return needed("monai.transforms")


@pytest.fixture
def torchio() -> Any:
    return needed("torchio")


@pytest.fixture
def v2() -> Any:
    return needed("torchvision.transforms.v2")


@pytest.fixture
def lightning() -> Any:
    return needed("lightning.pytorch")


def index_of(folder: Path, **options: Any) -> dicomdl.Index:
    write_series(
        folder / "dicom",
        **{"shape": SHAPE, "spacing": (2, 0.5, 0.7), "orientation": OBLIQUE, "origin": (3, -40, 50)}
        | options,
    )
    return dicomdl.scan(folder / "dicom", folder / "index", progress=False)


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> dicomdl.Index:
    return index_of(tmp_path_factory.mktemp("monai"))


@pytest.fixture
def volume(index: dicomdl.Index) -> Sample:
    return with_mask(dicomdl.VolumeDataset(index, intensity="modality")[0])


@pytest.fixture
def frame(index: dicomdl.Index) -> Sample:
    return with_mask(dicomdl.FrameDataset(index, intensity="modality")[3])


def with_mask(sample: Sample) -> Sample:
    """A sample with a mask of values above the mean, without channels, and a class."""
    image = sample["image"][0]
    return Sample({**sample, "mask": (image > image.mean()).long(), "label": torch.tensor(2)})


def voxels(sample: Sample) -> tuple[np.ndarray, np.ndarray]:
    """Return (n, 4) indices of all voxels and (n,) values."""
    image = sample["image"] if sample["image"].ndim == 4 else sample["image"][:, None]
    grid = np.stack(np.meshgrid(*map(np.arange, image.shape[1:]), indexing="ij"), axis=-1).reshape(
        -1, 3
    )
    return np.column_stack([grid, np.ones(len(grid))]), image[0].double().numpy().ravel()


def errors_in_the_world(made: Sample, original: Sample, margin: float = 1.5) -> np.ndarray:
    """Deviation of values from the ramp at their position, well inside the original grid."""
    old, ramp = voxels(original)
    indices, values = voxels(made)
    places = (np.linalg.inv(original["affine"].numpy()) @ made["affine"].numpy() @ indices.T).T
    last = old[:, :3].max(axis=0)
    thin = last == 0
    assert np.abs(places[:, :3][:, thin]).max(initial=0) < 1e-6, "a frame left its plane"
    inside = (thin | ((places[:, :3] >= margin) & (places[:, :3] <= last - margin))).all(axis=1)
    assert inside.sum() > 50
    slopes = np.linalg.lstsq(old, ramp, rcond=None)[0]
    return np.abs(places @ slopes - values)[inside]


def assert_right(made: Sample, original: Sample, at_most: float = 1e-3) -> None:
    assert type(made) is Sample and type(made["image"]) is torch.Tensor
    assert errors_in_the_world(made, original).max() < at_most
    assert np.allclose(made["spacing"], np.linalg.norm(made["affine"][:3, :3], axis=0))
    spatial = made["image"].shape[1:]
    assert made["mask"].shape == spatial and made["mask"].dtype == torch.int64
    threshold = original["image"][0].mean()
    # Linear and nearest interpolation differ by at most half the step of a voxel; values further
    # from the threshold agree.
    sure = (made["image"][0] - threshold).abs() > 40
    sure &= torch.from_numpy(well_within(made, original))
    assert torch.equal(made["mask"].bool()[sure], (made["image"][0] > threshold)[sure])
    assert made["label"] == 2 and made["patient_id"] == original["patient_id"]


def well_within(made: Sample, original: Sample) -> np.ndarray:
    indices, _ = voxels(made)
    places = (np.linalg.inv(original["affine"].numpy()) @ made["affine"].numpy() @ indices.T).T[
        :, :3
    ]
    last = voxels(original)[0][:, :3].max(axis=0)
    within = ((last == 0) | ((places >= 1.5) & (places <= last - 1.5))).all(axis=1)
    return within.reshape(made["image"].shape[1:])


BOTH = ("image", "mask")
LINEAR = ("bilinear", "nearest")


# --- MONAI ----------------------------------------------------------------------------------------

SPATIAL_3D: dict[str, Callable[[Any], Any]] = {
    "nothing": lambda _: None,
    "orientation": lambda t: t.Orientationd(BOTH, "RAS", labels=None),
    "spacing": lambda t: t.Spacingd(BOTH, (1.5, 1, 1), mode=LINEAR),
    "orientation and spacing": lambda t: t.Compose(
        [t.Orientationd(BOTH, "RAS", labels=None), t.Spacingd(BOTH, (1, 1, 1.5), mode=LINEAR)]
    ),
    "lazy": lambda t: t.Compose(
        [t.RandFlipd(BOTH, 1, 0), t.Spacingd(BOTH, (1.5, 1, 1))],
        lazy=True,
        overrides={"mask": {"mode": "nearest"}},
    ),
    "flip": lambda t: t.RandFlipd(BOTH, 1, 0),
    "quarter turn": lambda t: t.RandRotate90d(BOTH, 1, spatial_axes=(0, 2)),
    "affine": lambda t: t.RandAffined(
        BOTH, prob=1, rotate_range=[0.2] * 3, translate_range=[1] * 3, scale_range=0.1, mode=LINEAR
    ),
    "crop": lambda t: t.RandSpatialCropd(BOTH, (6, 12, 14), random_size=False),
    "pad": lambda t: t.SpatialPadd(BOTH, (20, 30, 40)),
    "resize": lambda t: t.Resized(BOTH, (20, 30, 30), mode=("trilinear", "nearest-exact")),
    "zoom": lambda t: t.RandZoomd(BOTH, 1, 1.1, 1.3, mode=("trilinear", "nearest-exact")),
}


@pytest.mark.parametrize("name", SPATIAL_3D)
@pytest.mark.filterwarnings("ignore")
def test_voxels_keep_their_place_in_the_world_through_monai(
    monai: Any, volume: Sample, name: str
) -> None:
    made = ForMonai(SPATIAL_3D[name](monai))(volume)
    assert_right(made, volume)
    if name == "nothing":
        assert torch.equal(made["affine"], volume["affine"]) and torch.equal(
            made["image"], volume["image"]
        )


SPATIAL_2D: dict[str, Callable[[Any], Any]] = {
    "spacing": lambda t: t.Spacingd(BOTH, (1, 1), mode=LINEAR),
    "flip": lambda t: t.RandFlipd(BOTH, 1, 0),
    "quarter turn": lambda t: t.RandRotate90d(BOTH, 1),
    "affine": lambda t: t.RandAffined(
        BOTH, prob=1, rotate_range=0.3, translate_range=[1, 1], scale_range=0.1, mode=LINEAR
    ),
    "pad": lambda t: t.SpatialPadd(BOTH, (30, 40)),
    "resize": lambda t: t.Resized(BOTH, (30, 35), mode=("bilinear", "nearest-exact")),
}


@pytest.mark.quick(2)
@pytest.mark.parametrize("name", SPATIAL_2D)
@pytest.mark.parametrize(
    "orientation", [(1, 0, 0, 0, 1, 0), SAGITTAL, OBLIQUE], ids=["axial", "sagittal", "oblique"]
)
@pytest.mark.filterwarnings("ignore")
def test_pixels_of_frames_keep_their_place_whatever_their_orientation(
    monai: Any, tmp_path: Path, name: str, orientation: Any
) -> None:
    frame = with_mask(
        dicomdl.FrameDataset(index_of(tmp_path, orientation=orientation), intensity="modality")[3]
    )
    made = ForMonai(SPATIAL_2D[name](monai))(frame)
    assert_right(made, frame)
    assert made["spacing"][0] == 2


def test_monai_sees_the_affine_that_its_own_reader_sees(
    monai: Any, index: dicomdl.Index, volume: Sample, tmp_path: Path
) -> None:
    needed("nibabel")
    dicomdl.read_volume(index.stacks[0]).save(tmp_path / "volume.nii.gz")
    # its order is (column, row, slice)
    theirs = monai.LoadImage(image_only=True)(tmp_path / "volume.nii.gz")
    ours = to_monai(volume)["image"]
    point = np.array([5, 3, 7, 1])
    i, j, k = (
        int(x)
        for x in np.rint(np.linalg.solve(theirs.affine.numpy(), ours.affine.numpy() @ point))[:3]
    )
    assert float(theirs[i, j, k]) == float(ours[0, 5, 3, 7])
    assert (
        ours.meta["space"] == "RAS"
        and list(ours.meta["spatial_shape"]) == list(SHAPE)
        and "patient_id" not in ours.meta
    )


def test_a_tilted_stack_keeps_its_shear_in_monai(monai: Any, tmp_path: Path) -> None:
    volume = with_mask(
        dicomdl.VolumeDataset(index_of(tmp_path, shear=(0, 0.5)), intensity="modality")[0]
    )
    assert volume["verdict"] == "tilted"
    for make in ("flip", "spacing", "quarter turn"):
        assert_right(ForMonai(SPATIAL_3D[make](monai))(volume), volume)


def test_a_single_slice_has_no_spacing_to_the_next_before_and_after(
    monai: Any, tmp_path: Path
) -> None:
    single = with_mask(
        dicomdl.VolumeDataset(index_of(tmp_path, shape=(1, 22, 26)), intensity="modality")[0]
    )
    assert torch.isnan(single["spacing"][0])
    turned = ForMonai(monai.RandRotate90d(BOTH, 1, max_k=1, spatial_axes=(0, 1)))(single)
    assert torch.isnan(turned["spacing"]).tolist() == [False, True, False]
    assert torch.equal(
        turned["spacing"].nan_to_num(0), torch.tensor([0.5, 0, 0.7], dtype=torch.float64)
    )


@pytest.mark.filterwarnings("ignore")
def test_several_crops_of_one_sample_have_each_its_place_and_make_one_batch(
    monai: Any, volume: Sample
) -> None:
    crop = ForMonai(monai.RandCropByPosNegLabeld(BOTH, "mask", (5, 12, 12), num_samples=3), seed=1)
    crops = crop(volume)
    assert len(crops) == 3 and len({tuple(one["affine"].flatten().tolist()) for one in crops}) > 1
    for one in crops:
        assert_right(one, volume)
    batch = collate_flat([crops, crops])
    assert batch["image"].shape == (6, 1, 5, 12, 12) and batch["affine"].shape == (6, 4, 4)
    assert collate_flat([volume])["image"].shape == (1, 1, *SHAPE)


def test_what_monai_must_know_and_does_not_is_told(
    monai: Any, frame: Sample, volume: Sample
) -> None:
    nowhere = Sample(
        {**frame, "affine": torch.full((4, 4), torch.nan), "spacing": torch.full((3,), torch.nan)}
    )
    with pytest.raises(GeometryError, match="unknown="):
        to_monai(nowhere)
    made = ForMonai(monai.RandFlipd(BOTH, 1, 0), unknown="axes")(nowhere)
    assert (
        torch.equal(made["image"], frame["image"].flip(1))
        and torch.isnan(made["affine"]).all()
        and torch.isnan(made["spacing"]).all()
    )
    without_position = Sample({**frame, "affine": nowhere["affine"]})
    made = ForMonai(monai.RandRotate90d(BOTH, 1, max_k=1))(without_position)
    assert torch.isnan(made["affine"]).all() and made["spacing"].tolist() == [2, 0.7, 0.5]
    with pytest.raises(GeometryError):
        to_monai({**volume, "affine": nowhere["affine"]})
    with pytest.raises(UsageError):
        to_monai(volume, unknown="guess")


def test_an_image_without_its_metadata_has_no_place_and_is_still_a_sample(
    monai: Any, volume: Sample
) -> None:
    made = ForMonai(monai.EnsureTyped(BOTH, track_meta=False))(volume)
    assert torch.equal(made["image"], volume["image"]) and torch.isnan(made["affine"]).all()
    squeezed = from_monai({**to_monai(volume), "image": to_monai(volume)["image"][:, 0]})
    assert torch.isnan(squeezed["affine"]).all()


def test_a_label_that_interpolation_made_fractional_is_not_rounded_in_silence(
    monai: Any, volume: Sample
) -> None:
    made = ForMonai(monai.Spacingd(BOTH, (1.5, 0.8, 0.8)))(volume)
    assert made["mask"].is_floating_point() and not torch.equal(made["mask"], made["mask"].round())


def test_a_label_of_another_shape_is_refused(volume: Sample) -> None:
    needed("monai.data")
    for mask in (torch.zeros(3, 4, 5), torch.zeros(1, *SHAPE[::-1])):
        with pytest.raises(UsageError, match="mask"):
            to_monai({**volume, "mask": mask})
    with pytest.raises(UsageError, match="image"):
        to_monai({**volume, "image": volume["image"][0, 0]})


def test_metatensors_go_through_monais_own_loader(monai: Any, index: dicomdl.Index) -> None:
    dataset = dicomdl.FrameDataset(
        index, transform=ForMonai(monai.RandFlipd("image", 0.5, 0), restore=False)
    )
    batch = next(iter(importlib.import_module("monai.data").DataLoader(dataset, batch_size=4)))
    assert batch["image"].shape == (4, 1, *SHAPE[1:]) and batch["image"].affine.shape == (4, 3, 3)


# --- TorchIO --------------------------------------------------------------------------------------


def canonical(torchio: Any) -> Any:
    """Return the transform to RAS+ by its name in TorchIO 2.x or 1.x."""
    return torchio.Reorient("RAS") if hasattr(torchio, "Reorient") else torchio.ToCanonical()


def flip(torchio: Any, axis: int, p: float = 1) -> Any:
    """Return the transform that flips one axis, by its name in TorchIO 2.x or 1.x."""
    kind = torchio.RandomFlip if hasattr(torchio, "RandomFlip") else torchio.Flip
    return kind(axes=axis, flip_probability=p)


def noise(torchio: Any) -> Any:
    """Return the transform that adds noise, by its name in TorchIO 2.x or 1.x."""
    return torchio.RandomNoise() if hasattr(torchio, "RandomNoise") else torchio.Noise(std=0.25)


IN_TORCHIO: dict[str, Callable[[Any], Any]] = {
    "nothing": lambda _: None,
    "canonical": canonical,
    "resample": lambda t: t.Resample((1.5, 1, 1)),
    "canonical and resample": lambda t: t.Compose([canonical(t), t.Resample(1)]),
    "crop or pad": lambda t: t.CropOrPad((6, 30, 20)),
}


@pytest.mark.parametrize("name", IN_TORCHIO)
def test_voxels_keep_their_place_in_the_world_through_torchio(
    torchio: Any, volume: Sample, name: str
) -> None:
    assert_right(ForTorchIO(IN_TORCHIO[name](torchio))(volume), volume)


@pytest.mark.slow
def test_frames_are_2d_images_in_torchio_and_keep_their_place(torchio: Any, frame: Sample) -> None:
    assert to_torchio(frame).image.data.shape == (1, *SHAPE[1:], 1)
    for transform in (None, torchio.Resample((1, 1, 2)), torchio.CropOrPad((12, 14, 1))):
        made = ForTorchIO(transform)(frame)
        assert_right(made, frame)
        assert made["image"].ndim == 3


def test_a_subject_says_of_itself_what_nibabel_says_of_the_volume(
    torchio: Any, index: dicomdl.Index, volume: Sample
) -> None:
    subject = to_torchio(volume)
    assert isinstance(subject.image, torchio.ScalarImage) and isinstance(
        subject.mask, torchio.LabelMap
    )
    nibabel = needed("nibabel")
    assert subject.image.orientation == nibabel.aff2axcodes(
        np.diag([-1, -1, 1, 1]) @ volume["affine"].numpy()
    )
    assert np.allclose(subject.image.spacing, volume["spacing"])


def test_a_flip_of_torchio_moves_image_and_mask_within_the_grid(
    torchio: Any, volume: Sample
) -> None:
    made = ForTorchIO(flip(torchio, 1))(volume)
    assert torch.equal(made["image"], volume["image"].flip(2)) and torch.equal(
        made["mask"], volume["mask"].flip(1)
    )
    assert torch.equal(made["affine"], volume["affine"])


def test_what_torchio_would_get_wrong_is_refused(
    torchio: Any, tmp_path: Path, frame: Sample
) -> None:
    tilted = dicomdl.VolumeDataset(index_of(tmp_path / "t", shear=(0, 0.5)))[0]
    with pytest.raises(GeometryError, match="tilted"):
        to_torchio(tilted)
    nowhere = {
        **frame,
        "affine": torch.full((4, 4), torch.nan),
        "spacing": torch.full((3,), torch.nan),
    }
    with pytest.raises(GeometryError, match="unknown="):
        to_torchio(nowhere)
    made = ForTorchIO(flip(torchio, 0), unknown="axes")(nowhere)
    assert torch.equal(made["image"], frame["image"].flip(1)) and torch.isnan(made["affine"]).all()


def test_every_entry_of_a_sample_comes_back_from_torchio(
    torchio: Any, index: dicomdl.Index
) -> None:
    patches = dicomdl.PatchDataset(index, (4, 8, 8), sampler="grid")
    before, after = patches[1], ForTorchIO(flip(torchio, 0))(patches[1])
    assert before.keys() == after.keys()
    assert after["location"].tolist() == before["location"].tolist()
    assert after["shape"].tolist() == list(SHAPE) and after["patient_id"] == before["patient_id"]


def test_a_seed_decides_about_a_transform_of_torchio(torchio: Any, volume: Sample) -> None:
    chance = ForTorchIO(flip(torchio, 0, 0.5), seed=3)
    epochs = [chance({**volume, "epoch": epoch})["image"] for epoch in range(8)]
    again = [chance({**volume, "epoch": epoch})["image"] for epoch in range(8)]
    assert all(map(torch.equal, epochs, again))
    assert len({torch.equal(image, volume["image"]) for image in epochs}) == 2


def test_subjects_go_through_torchios_own_loader(torchio: Any, index: dicomdl.Index) -> None:
    dataset = dicomdl.FrameDataset(index, transform=ForTorchIO(flip(torchio, 0), restore=False))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        batch = next(iter(torchio.SubjectsLoader(dataset, batch_size=4)))
    data = batch["image"]["data"] if isinstance(batch, dict) else batch["image"].data
    assert data.shape == (4, 1, *SHAPE[1:], 1)


def test_samples_from_subjects_collate_by_default(torchio: Any, volume: Sample) -> None:
    batch = torch.utils.data.default_collate([from_torchio(to_torchio(volume)) for _ in range(2)])
    assert batch["image"].shape == (2, 1, *SHAPE) and batch["mask"].dtype == torch.int64


# --- torchvision ----------------------------------------------------------------------------------

IN_TORCHVISION: dict[str, Callable[[Any], Any]] = {
    "nothing": lambda _: None,
    "horizontal flip": lambda t: t.RandomHorizontalFlip(1),
    "vertical flip": lambda t: t.RandomVerticalFlip(1),
    "resize": lambda t: t.Resize((40, 35)),
    "rotation": lambda t: t.RandomRotation((17, 17), interpolation=t.InterpolationMode.BILINEAR),
    "expanding rotation": lambda t: t.RandomRotation(
        (17, 17), interpolation=t.InterpolationMode.BILINEAR, expand=True
    ),
    "affine": lambda t: t.RandomAffine(
        20, (0.1, 0.1), (0.8, 1.2), 5, interpolation=t.InterpolationMode.BILINEAR
    ),
    "crop": lambda t: t.RandomCrop(15),
    "pad": lambda t: t.Pad(3),
    "flip and crop": lambda t: t.Compose(
        [t.RandomHorizontalFlip(1), t.RandomCrop(15), t.GaussianBlur(3, 1e-3)]
    ),
}


@pytest.mark.parametrize("name", IN_TORCHVISION)
def test_pixels_keep_their_place_in_the_world_through_torchvision(
    v2: Any, volume: Sample, frame: Sample, name: str
) -> None:
    for sample in (volume, frame):
        assert_right(ForTorchvision(IN_TORCHVISION[name](v2))(sample), sample, 2e-3)


def test_what_is_no_affine_map_leaves_no_affine(v2: Any, frame: Sample) -> None:
    made = ForTorchvision(v2.RandomPerspective(0.5, 1))(frame)
    assert torch.isnan(made["affine"]).all() and torch.isnan(made["spacing"]).all()
    untracked = ForTorchvision(v2.RandomHorizontalFlip(1), track=False)(frame)
    assert (
        torch.equal(untracked["image"], frame["image"].flip(2))
        and torch.isnan(untracked["affine"]).all()
    )
    assert torch.equal(untracked["mask"], frame["mask"].flip(1))


def test_a_package_whose_import_fails_is_an_error_that_says_why(
    frame: Sample, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(name: str) -> Any:
        raise RuntimeError("operator torchvision::nms does not exist")

    monkeypatch.setattr(importlib, "import_module", broken)
    for convert in (to_torchvision, to_monai, to_torchio):
        with pytest.raises(MissingExtra, match="import failed: RuntimeError: operator"):
            convert(frame)


def test_the_map_of_points_is_that_of_pixel_centres() -> None:
    points = torchvision_module._points(10, 20).numpy()
    halved = torchvision_module._map_of_points(points, points / 2)
    # the first of half as many pixels lies between the first two
    assert np.allclose(halved @ [7, 0, 0, 1], [7, 0.5, 0.5, 1])
    assert np.isnan(torchvision_module._map_of_points(points, points**2)).all()


# --- chance, processes ----------------------------------------------------------------------------


def loaded(dataset: Any, method: str | None, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    # a spawned worker imports everything again
    workers = {None: 0, "fork": 2, "spawn": 1}[method]
    loader = DataLoader(
        dataset, 2, num_workers=workers, generator=generator, multiprocessing_context=method
    )
    return torch.cat([batch["image"] for batch in loader])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_with_a_seed_nothing_depends_on_the_worker(
    monai: Any, torchio: Any, index: dicomdl.Index
) -> None:
    by_monai = ForMonai(
        monai.Compose([monai.RandFlipd("image", 0.5, 1), monai.RandGaussianNoised("image", 1)]),
        seed=3,
    )
    by_torchio = ForTorchIO(noise(torchio), seed=3)
    # a spawned worker takes seconds to import MONAI
    for transform, method in (
        (by_monai, "fork"),
        (by_torchio, "spawn"),
    ):
        dataset = dicomdl.FrameDataset(index, transform=transform)
        dataset.set_epoch(0)
        assert torch.equal(loaded(dataset, None), loaded(dataset, method))
        again = pickle.loads(pickle.dumps(dataset))
        assert torch.equal(again[3]["image"], dataset[3]["image"])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_without_a_seed_chance_comes_from_the_loader_and_no_two_samples_share_it(
    monai: Any, index: dicomdl.Index
) -> None:
    dataset = dicomdl.FrameDataset(index, transform=ForMonai(monai.RandGaussianNoised("image", 1)))
    plain = torch.stack([sample["image"] for sample in dicomdl.FrameDataset(index)])
    noise = loaded(dataset, "fork") - plain
    assert len({round(float(one.sum()), 4) for one in noise}) == len(plain)
    assert not torch.equal(loaded(dataset, "fork", seed=1) - plain, noise)


def test_a_transform_leaves_the_callers_random_numbers_alone(torchio: Any, frame: Sample) -> None:
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    ForTorchIO(noise(torchio), seed=5)(Sample({**frame, "epoch": 0}))
    assert torch.equal(torch.rand(3), expected)


def test_the_epoch_of_a_sample_changes_its_chance(torchio: Any, frame: Sample) -> None:
    noisy = ForTorchIO(noise(torchio), seed=5)
    made = [noisy(Sample({**frame, "epoch": epoch}))["image"] for epoch in (0, 1, 0)]
    assert torch.equal(made[0], made[2]) and not torch.equal(made[0], made[1])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "persistent", [None, *(pytest.param(each, marks=pytest.mark.slow) for each in (False, True))]
)
def test_a_seed_does_not_repeat_the_chance_of_a_pass_under_a_plain_loader(
    monai: Any, torchio: Any, index: dicomdl.Index, persistent: bool | None
) -> None:
    workers: dict[str, Any] = (
        {} if persistent is None else {"num_workers": 2, "persistent_workers": persistent}
    )
    for transform in (
        ForMonai(monai.RandGaussianNoised("image", 1), seed=0),
        ForTorchIO(noise(torchio), seed=0),
    ):
        frames = dicomdl.FrameDataset(index, transform=transform)

        def passes(frames: Any = frames) -> torch.Tensor:
            torch.manual_seed(3)
            loader = DataLoader(frames, 2, **workers)
            images = [torch.cat([batch["image"] for batch in loader]) for _ in range(2)]
            return torch.stack(images)

        found = passes()
        assert not any(torch.equal(one, two) for one, two in zip(*found, strict=True))
        assert torch.equal(passes(), found)


# --- Lightning ------------------------------------------------------------------------------------


def model_class(lightning: Any) -> Any:
    class Model(lightning.LightningModule):
        """Model that learns the mean of a frame and records its batches."""

        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(1, 1)
            self.seen: list[tuple[int, list[int]]] = []
            self.losses: list[float] = []
            self.validated = 0

        def training_step(self, batch: Any, number: int) -> Any:
            self.seen.append((self.current_epoch, batch["row"].tolist()))
            mean = batch["image"].mean(dim=(1, 2, 3))[:, None]
            loss = ((self.layer(mean) - 2 * mean - 1) ** 2).mean()
            self.losses.append(float(loss))
            return loss

        def validation_step(self, batch: Any, number: int, dataloader_idx: int = 0) -> None:
            self.validated += 1

        def predict_step(self, batch: Any, number: int) -> Any:
            return batch["row"]

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), 0.5)

    return Model


@pytest.fixture
def trainer(lightning: Any, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    quiet = {
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield lambda **options: lightning.Trainer(
            **{"accelerator": "cpu", "default_root_dir": tmp_path, **quiet} | options
        )


def test_a_model_trains_validates_and_predicts_with_lightning(
    lightning: Any, trainer: Any, index: dicomdl.Index
) -> None:
    frames = dicomdl.FrameDataset(index)
    data = interop.DataModule(frames, [frames, frames], predict=frames, batch_size=3)
    assert isinstance(data, lightning.LightningDataModule)
    model = model_class(lightning)()
    run = trainer(max_epochs=2, num_sanity_val_steps=0)
    run.fit(model, datamodule=data)
    epochs = [
        [row for epoch, rows in model.seen if epoch == number for row in rows]
        for number in range(2)
    ]
    assert [sorted(rows) for rows in epochs] == [list(range(8))] * 2 and epochs[0] != epochs[1]
    assert model.losses[-1] < model.losses[0] and model.validated == 2 * 2 * 3
    assert torch.cat(run.predict(model, datamodule=data)).tolist() == list(range(8))
    # no validation dataset
    trainer(max_epochs=1).fit(
        model_class(lightning)(), datamodule=interop.DataModule(frames, batch_size=3)
    )


@pytest.mark.parametrize("kind", ["frames", "patches", "dict"])
def test_lightning_knows_the_batch_size(
    lightning: Any, trainer: Any, index: dicomdl.Index, kind: str
) -> None:
    class Logging(model_class(lightning)):  # type: ignore[misc]
        def training_step(self, batch: Any, number: int) -> Any:
            self.log("mean", batch["image"].mean(), on_epoch=True, on_step=False)
            sizes.append(importlib.import_module(data).extract_batch_size(batch))
            return self.layer(torch.ones(1, 1)).sum()

    sizes: list[int] = []
    data = "lightning.pytorch.utilities.data"
    dataset = {
        "frames": lambda: dicomdl.FrameDataset(index),
        "patches": lambda: dicomdl.PatchDataset(index, (2, 8, 8), per_stack=8),
        "dict": lambda: dicomdl.FrameDataset(index, transform=dict),
    }[kind]()
    run = trainer(max_epochs=1)
    # Lightning warns once per process.
    importlib.import_module(data).warning_cache.clear()
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        run.fit(Logging(), datamodule=interop.DataModule(dataset, batch_size=3))
    assert sizes == [3, 3, 2]
    assert not [each for each in told if "ambiguous" in str(each.message)]


def test_evaluation_draws_the_same_patches_and_training_others(
    lightning: Any, trainer: Any, index: dicomdl.Index
) -> None:
    class Seeing(model_class(lightning)):  # type: ignore[misc]
        def training_step(self, batch: Any, number: int) -> Any:
            trained.append(batch["location"].tolist())
            return self.layer(batch["image"].mean(dim=(1, 2, 3, 4))[:, None]).sum()

        def validation_step(self, batch: Any, number: int, dataloader_idx: int = 0) -> None:
            evaluated.append(batch["location"].tolist())

    for wrap in (lambda patches: patches, lambda patches: Subset(patches, range(4))):
        trained: list[Any] = []
        evaluated: list[Any] = []
        patches = dicomdl.PatchDataset(index, (3, 5, 5), per_stack=4)
        data = interop.DataModule(wrap(patches), wrap(patches), batch_size=4, num_workers=1)
        trainer(max_epochs=2, num_sanity_val_steps=0).fit(Seeing(), datamodule=data)
        assert len(trained) == 2 and trained[0] != trained[1]
        assert len(evaluated) == 2 and evaluated[0] == evaluated[1]


class Told(torch.utils.data.Dataset[Any]):
    """A dataset from elsewhere with `set_epoch`."""

    def __init__(self) -> None:
        self.epochs: list[int] = []

    def set_epoch(self, epoch: int) -> None:
        self.epochs.append(epoch)

    def __len__(self) -> int:
        return 4

    def __getitem__(self, row: int) -> Any:
        return {"image": torch.full((1, 2, 2), float(self.epochs[-1])), "row": row}


def test_every_dataset_is_told_the_epoch_before_it_begins(lightning: Any, trainer: Any) -> None:
    dataset = Told()
    trainer(max_epochs=3).fit(
        model_class(lightning)(), datamodule=interop.DataModule(dataset, batch_size=2)
    )
    assert sorted(set(dataset.epochs)) == [0, 1, 2] and dataset.epochs == sorted(dataset.epochs)


def sources(index: dicomdl.Index, kind: str) -> tuple[Any, dict[str, Any]]:
    frames = dicomdl.FrameDataset(index)
    if kind == "stream":
        return StackStream(frames, seed=4), {}
    if kind == "batch sampler":
        return frames, {
            "batch_sampler": lambda dataset: RowBatchSampler(RowSampler(dataset, seed=4), 2)
        }
    if kind == "sampler":
        return frames, {"sampler": functools.partial(RowSampler, seed=4)}
    return frames, {}


@pytest.mark.parametrize(
    ("kind", "workers"),
    [
        ("default", 0),
        ("sampler", 0),
        ("batch sampler", 0),
        ("stream", 0),
        ("default", 2),
        ("stream", 2),
    ],
)
def test_training_goes_on_in_the_middle_of_an_epoch(
    lightning: Any, trainer: Any, index: dicomdl.Index, tmp_path: Path, kind: str, workers: int
) -> None:
    def fit(**options: Any) -> list[tuple[int, list[int]]]:
        dataset, train_options = sources(index, kind)
        data = interop.DataModule(
            dataset, train_options=train_options, batch_size=2, num_workers=workers
        )
        saving = lightning.callbacks.ModelCheckpoint(
            tmp_path / kind, "{step}", save_top_k=-1, every_n_train_steps=1
        )
        model = model_class(lightning)()
        run = trainer(max_epochs=2, callbacks=[saving], enable_checkpointing=True)
        run.fit(model, datamodule=data, **options)
        return model.seen

    whole = fit()
    assert len(whole) == 8
    # in the first and in the second epoch, of four batches each
    for done in (2, 5):
        rest = fit(ckpt_path=tmp_path / kind / f"step={done}.ckpt")
        assert rest == whole[done:]


@pytest.mark.filterwarnings("ignore")
def test_a_second_stop_within_an_epoch_is_resumed_as_well(
    lightning: Any, trainer: Any, index: dicomdl.Index, tmp_path: Path
) -> None:
    def fit(**options: Any) -> list[tuple[int, list[int]]]:
        model = model_class(lightning)()
        saving = lightning.callbacks.ModelCheckpoint(
            tmp_path, "{step}", save_top_k=-1, every_n_train_steps=1, enable_version_counter=False
        )
        data = interop.DataModule(dicomdl.FrameDataset(index), batch_size=2)
        run = trainer(max_epochs=1, callbacks=[saving], enable_checkpointing=True)
        run.fit(model, datamodule=data, **options)
        return model.seen

    whole = fit()
    # writes step=2 and step=3 again, from a resumed epoch
    assert fit(ckpt_path=tmp_path / "step=1.ckpt") == whole[1:]
    assert fit(ckpt_path=tmp_path / "step=3.ckpt") == whole[3:]


def test_a_sampler_that_knows_ranks_is_left_alone_by_lightning(
    lightning: Any, index: dicomdl.Index
) -> None:
    frames = dicomdl.FrameDataset(index)
    makers: list[dict[str, Any]] = [
        {"sampler": lambda dataset: RowSampler(dataset, rank=1, world_size=2)},
        {
            "batch_sampler": lambda dataset: RowBatchSampler(
                RowSampler(dataset, rank=1, world_size=2), 2
            )
        },
    ]
    for train_options in makers:
        loader = interop.DataModule(
            frames, train_options=train_options, batch_size=2
        ).train_dataloader()
        assert isinstance(loader.sampler, torch.utils.data.distributed.DistributedSampler)
        assert sum(len(batch["row"]) for batch in loader) == 4 and len(loader) == 2


def test_states_pass_through_the_data_module_without_a_trainer(
    lightning: Any, index: dicomdl.Index
) -> None:
    def module() -> Any:
        return interop.DataModule(dicomdl.FrameDataset(index), batch_size=2)

    first = module()
    batches = iter(first.train_dataloader())
    received = [next(batches)["row"].tolist() for _ in range(2)]
    state = pickle.loads(pickle.dumps(first.state_dict()))
    second = module()
    second.load_state_dict(state)
    rest = [batch["row"].tolist() for batch in second.train_dataloader()]
    assert sorted(row for rows in received + rest for row in rows) == list(range(8))
    assert rest == [batch["row"].tolist() for batch in batches]


def test_options_that_cannot_serve_are_refused(lightning: Any, index: dicomdl.Index) -> None:
    frames = dicomdl.FrameDataset(index)
    with pytest.raises(UsageError, match="train_options"):
        interop.DataModule(frames, sampler=RowSampler(frames))
    with pytest.raises(UsageError, match="one sampler"):
        interop.DataModule([frames, frames], train_options={"sampler": RowSampler(frames)})


def test_the_data_module_pickles_by_its_name(lightning: Any, index: dicomdl.Index) -> None:
    data = pickle.loads(pickle.dumps(interop.DataModule(dicomdl.FrameDataset(index), batch_size=2)))
    assert type(data) is interop.DataModule and len(data.train_dataloader()) == 4
    with pytest.raises(AttributeError):
        _ = interop.no_such_name
