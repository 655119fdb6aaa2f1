"""Interop of samples on other grids, in planes and of several images: each at its place."""

import importlib
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import NewFolder
from phantoms import uid, write_series
from phantoms_linear import linear_values, write_linear
from torch.utils.data import DataLoader

import dicomdl
from dicomdl.datasets.sample import Sample
from dicomdl.errors import UsageError
from dicomdl.geometry.grid import Geometry
from dicomdl.interop.monai import ForMonai, to_monai
from dicomdl.interop.torchio import ForTorchIO, to_torchio
from dicomdl.interop.torchvision import ForTorchvision

PLANES = {"axial": (1, 0, 0, 0, 1, 0), "sagittal": (0, 1, 0, 0, 0, -1)}
OBLIQUE = (0.8, 0.6, 0.0, -0.36, 0.48, 0.8)
WEIGHTS = {"T1": (3.0, 1.0, 2.0), "FLAIR": (-1.0, 4.0, 0.5)}
PAIRING = dicomdl.Pairing({name: f"series_description={name}" for name in WEIGHTS})


def needed(module: str) -> Any:
    """Import an optional package, or skip the test by the name of the package."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return importlib.import_module(module)
    # torchvision raises a RuntimeError if it does not fit the build of torch
    except Exception as error:
        pytest.skip(f"needs {module}: {type(error).__name__}")


@pytest.fixture(params=[*PLANES.values(), OBLIQUE], ids=[*PLANES, "oblique"], scope="module")
def index(request: pytest.FixtureRequest, new_folder: NewFolder) -> dicomdl.Index:
    """One series of an orientation."""
    folder = new_folder()
    write_series(
        folder,
        shape=(6, 9, 12),
        spacing=(2, 0.5, 0.7),
        origin=(3, -40, 50),
        orientation=request.param,
    )
    return dicomdl.scan(folder, folder.parent / "index", progress=False)


@pytest.fixture(scope="module")
def pairs(new_folder: NewFolder) -> dicomdl.Index:
    """Two patients with a T1 and a coarser FLAIR."""
    folder = new_folder()
    for patient in ("a", "b"):
        for number, (name, weights) in enumerate(WEIGHTS.items()):
            write_linear(
                folder / patient / name,
                weights,
                shape=(8, 12, 10) if number == 0 else (6, 8, 8),
                spacing=(2, 1, 1) if number == 0 else (3, 1.5, 1.5),
                origin=(-number, -number, -number),
                study_uid=uid(patient),
                patient_id=patient,
                seed=number,
                edit=lambda dataset, z, name=name: setattr(dataset, "SeriesDescription", name),
            )
    return dicomdl.scan(folder, folder.parent / "index", progress=False)


def assert_linear(sample: Sample, atol: float = 0.05) -> None:
    """Assert that each channel has the values of its image at the places of its voxels."""
    shape = tuple(sample["image"].shape[1:])
    inside = (slice(2, -2),) * 3
    grid = Geometry((shape[0], shape[1], shape[2]), sample["affine"].numpy())
    world = grid.voxel_to_world(np.moveaxis(np.indices(shape), 0, -1))[inside]
    for channel, weights in zip(sample["image"].numpy(), WEIGHTS.values(), strict=True):
        assert np.allclose(channel[inside], linear_values(world, weights), atol=atol)


# --- MONAI ----------------------------------------------------------------------------------------


def test_orientation_is_what_monais_orientationd_delivers(index: dicomdl.Index) -> None:
    transforms = needed("monai.transforms")
    for axes in ("RAS", "LPI", "ASL"):
        there = transforms.Orientationd(["image"], axes, labels=None)(
            to_monai(dicomdl.VolumeDataset(index, "modality")[0])
        )["image"]
        here = to_monai(dicomdl.VolumeDataset(index, "modality", orientation=axes)[0])["image"]
        assert torch.equal(here.as_tensor(), there.as_tensor())
        assert np.allclose(here.affine, there.affine, atol=1e-9)


def test_patches_in_ras_stay_at_their_place_through_monai(index: dicomdl.Index) -> None:
    transforms = needed("monai.transforms")
    patches = dicomdl.PatchDataset(
        index, (6, 6, 5), orientation="RAS", sampler="grid", intensity="modality"
    )
    flip = ForMonai(transforms.Flipd(["image"], 0), seed=0)
    for sample in patches:
        made = flip(sample)
        assert torch.equal(made["image"], sample["image"].flip(1))
        first = made["affine"].numpy() @ [5, 0, 0, 1]
        assert np.allclose(first, sample["affine"].numpy() @ [0, 0, 0, 1])


@pytest.mark.parametrize("plane", ["coronal", "sagittal"])
def test_frames_in_a_plane_keep_their_place_in_every_package(
    index: dicomdl.Index, plane: Any
) -> None:
    frames = dicomdl.FrameDataset(index, "modality", plane=plane)
    packages = {
        "monai.transforms": lambda t: ForMonai(t.Flipd(["image"], 1)),
        "torchvision.transforms.v2": lambda t: ForTorchvision(t.RandomHorizontalFlip(1)),
        "torchio": lambda t: ForTorchIO(None),
    }
    sample, tried = frames[len(frames) // 2], 0
    width = sample["image"].shape[2]
    for name, make in packages.items():
        try:
            package = importlib.import_module(name)
        except Exception:  # not installed, or for another build of torch
            continue
        made, tried = make(package)(sample), tried + 1
        flipped = name != "torchio"
        assert torch.equal(made["image"], sample["image"].flip(2) if flipped else sample["image"])
        corner = made["affine"].numpy() @ [0, 0, width - 1 if flipped else 0, 1]
        assert np.allclose(corner, sample["affine"].numpy() @ [0, 0, 0, 1])
        assert np.allclose(made["spacing"], sample["spacing"])
        assert made["slice"] == sample["slice"] and made["stack"] == sample["stack"]
    if not tried:
        pytest.skip("needs monai, torchio or torchvision")


def test_monai_gets_the_channels_of_a_pairing_and_their_names(pairs: dicomdl.Index) -> None:
    transforms, data = needed("monai.transforms"), needed("monai.data")
    patches = dicomdl.PatchDataset(
        pairs, (6, 8, 8), channels=PAIRING, orientation="RAS", intensity="modality"
    )
    sample = patches[0]
    given = to_monai(sample)
    assert given["image"].shape[0] == 2 and given["image"].meta["channels"] == list(WEIGHTS)
    assert given["image"].meta["filename_or_obj"] == sample["series_instance_uid"]
    made = ForMonai(transforms.Spacingd(["image"], (1.2, 1, 1)), seed=1)(sample)
    assert_linear(made)
    assert made["present"].tolist() == [True, True] and made["series"] == sample["series"]
    dataset = dicomdl.PatchDataset(
        pairs, (6, 8, 8), channels=PAIRING, transform=ForMonai(restore=False)
    )
    batch = next(iter(data.DataLoader(dataset, batch_size=2)))
    assert batch["image"].shape == (2, 2, 6, 8, 8)
    assert [part["image"].shape[0] for part in data.decollate_batch(batch)] == [2, 2]


def test_monai_saves_a_volume_at_its_place_and_by_its_series(
    index: dicomdl.Index, tmp_path: Path
) -> None:
    transforms = needed("monai.transforms")
    sample = to_monai(dicomdl.VolumeDataset(index, "modality", orientation="RAS")[0])
    save = transforms.SaveImage(tmp_path, "", resample=False, print_log=False)
    save(sample["image"])
    name = sample["series_instance_uid"]
    (path,) = tmp_path.rglob("*.nii.gz")
    assert path.name.startswith(name.rsplit(".", 1)[0])
    loaded = dicomdl.Volume.load(path).reorient("RAS")
    assert np.array_equal(loaded.array, sample["image"][0])


# --- TorchIO --------------------------------------------------------------------------------------


def test_a_subject_has_an_image_per_role(pairs: dicomdl.Index) -> None:
    torchio = needed("torchio")
    sample = dicomdl.PatchDataset(pairs, (6, 8, 8), channels=PAIRING, intensity="modality")[1]
    subject = to_torchio(sample)
    for number, role in enumerate(WEIGHTS):
        assert isinstance(subject[role], torchio.ScalarImage)
        assert torch.equal(subject[role].data[0], sample["image"][number])
    assert "image" not in {*subject}
    made = ForTorchIO(torchio.Resample(1.2))(sample)
    assert_linear(made)
    same = ForTorchIO()(sample)
    assert same.keys() == sample.keys() and torch.equal(same["image"], sample["image"])
    with pytest.raises(UsageError, match="row"):
        to_torchio({**sample, "units": {"row": "HU", "FLAIR": "HU"}})


# --- groups and bags ------------------------------------------------------------------------------


def test_the_volumes_of_a_group_are_channels_and_a_bag_is_refused(folder: Path) -> None:
    needed("monai.data")
    torchio = needed("torchio")
    for seed, time in enumerate((5.0, 10.0)):
        write_series(
            folder / str(seed),
            shape=(6, 9, 12),
            modality="MR",
            seed=seed,
            offset=1000 * seed,
            series_uid=uid("echoes"),
            edit=lambda dataset, z, time=time: setattr(dataset, "EchoTime", time),
        )
    index = dicomdl.scan(folder, folder.parent / "index", progress=False)
    sample = dicomdl.VolumeDataset(index.groups, "modality", orientation="RAS")[0]
    assert to_monai(sample)["image"].shape == sample["image"].shape
    made = ForTorchIO(torchio.Resample(1.0))(sample)
    assert len(made["image"]) == len(sample["image"]) > 1
    assert torch.equal(made["present"], sample["present"])
    bag = dicomdl.VolumeDataset(index, "modality", by="study")[0]
    for convert in (to_monai, to_torchio):
        with pytest.raises(UsageError, match="bag of"):
            convert(bag)


# --- Lightning ------------------------------------------------------------------------------------


def test_the_data_module_delivers_every_kind_of_sample(pairs: dicomdl.Index) -> None:
    needed("lightning.pytorch")
    from dicomdl.interop.lightning import DataModule

    whole = {"size": 8, "orientation": "RAS", "spacing": 2.0}
    kinds = [
        dicomdl.FrameDataset(pairs, plane="coronal", size=(8, 8), neighbours=1),
        dicomdl.VolumeDataset(pairs, **whole),
        dicomdl.PatchDataset(pairs, (4, 4, 4), channels=PAIRING, orientation="RAS"),
    ]
    module = DataModule(train=kinds, val=kinds, batch_size=2, collate_fn=dicomdl.collate)
    for loaders in (module.train_dataloader(), module.val_dataloader()):
        frames, volumes, channels = (next(iter(loader)) for loader in loaders)
        assert frames["image"].shape == (2, 3, 8, 8)
        assert volumes["image"].shape == (2, 1, 8, 8, 8)
        assert channels["image"].shape == (2, 2, 4, 4, 4) and channels["present"].all()


def test_a_plain_loader_collates_the_roles_of_channels(pairs: dicomdl.Index) -> None:
    patches = dicomdl.PatchDataset(pairs, (4, 4, 4), channels=PAIRING)
    batch = next(iter(DataLoader(patches, batch_size=3)))
    assert list(batch["units"]) == list(WEIGHTS) and len(batch["series"]["T1"]) == 3
