"""Datasets with orientation=: the same places of the patient, for stacks of any orientation."""

import pickle
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from conftest import NewFolder, index_of
from phantoms import write_secondary_capture, write_series

import dicomdl
from dicomdl.datasets._grid_request import OWN_GRID, GridRequest
from dicomdl.datasets.selection import LeftOutWarning
from dicomdl.datasets.stitch import stitch
from dicomdl.errors import GeometryError, UsageError
from dicomdl.geometry.grid import Geometry

ORIENTATIONS = {
    "axial": (1, 0, 0, 0, 1, 0),
    "coronal": (1, 0, 0, 0, 0, -1),
    "sagittal": (0, 1, 0, 0, 0, -1),
    "feet first, prone": (-1, 0, 0, 0, -1, 0),
    "oblique": (0.8, 0.6, 0.0, -0.48, 0.64, -0.6),
}
SHAPE = (5, 8, 11)
FLIP = np.diag([-1.0, -1.0, 1.0, 1.0])


@pytest.fixture(scope="module")
def planes(new_folder: NewFolder) -> dicomdl.Index:
    """One series per orientation, all of one shape."""
    folder = new_folder()
    for number, orientation in enumerate(ORIENTATIONS.values()):
        write_series(
            folder,
            shape=SHAPE,
            spacing=(3, 0.5, 0.7),
            origin=(-10, 20, 30),
            orientation=orientation,
            offset=number,
            modality="MR",
            seed=number,
        )
    return index_of(folder)


def labels_of(stack: dicomdl.Stack) -> Any:
    labels = np.zeros(stack.shape, np.uint8)
    labels[1, 2:4, 5:9] = 3
    return labels


def as_ras(volume: dicomdl.Volume) -> tuple[Any, Any]:
    """The values and the affine (RAS) by nibabel: a second opinion."""
    image = nibabel.as_closest_canonical(
        nibabel.Nifti1Image(np.asarray(volume.array, np.float32), FLIP @ volume.affine)
    )
    return np.asarray(image.dataobj), image.affine


def test_volumes_are_those_of_nibabel_as_closest_canonical(planes: dicomdl.Index) -> None:
    volumes = dicomdl.VolumeDataset(planes, "modality", orientation="RAS")
    assert len(volumes) == len(ORIENTATIONS)
    for sample, stack in zip(volumes, planes.stacks, strict=True):
        array, affine = as_ras(dicomdl.read_volume(stack))
        assert np.array_equal(sample["image"][0], array)
        assert np.allclose(FLIP @ sample["affine"].numpy(), affine, atol=1e-12)
        assert sample["image"].is_contiguous()
        grid = Geometry(array.shape, sample["affine"].numpy())
        assert np.allclose(sample["spacing"], grid.spacing)


@pytest.mark.quick(3)
@pytest.mark.parametrize("axes", ["RAS", "SPL", "ail"])
@pytest.mark.parametrize("intensity_on", ["cpu", "device"])
def test_patches_are_parts_of_the_reoriented_volume(
    planes: dicomdl.Index, axes: str, intensity_on: Any
) -> None:
    patches = dicomdl.PatchDataset(
        planes,
        (4, 5, 6),
        sampler="grid",
        orientation=axes,
        labels=labels_of,
        intensity="modality",
        intensity_on=intensity_on,
    )
    samples = patches.__getitems__(range(len(patches)))
    for number, stack in enumerate(patches.index.stacks):
        volume = dicomdl.read_volume(stack).reorient(axes)
        labels = dicomdl.read_volume(stack).like(labels_of(stack)).reorient(axes)
        rows = range(*patches.boundaries[number : number + 2].tolist())
        parts = [samples[row] for row in rows]
        locations = [part["location"].tolist() for part in parts]
        for name, expected in (("image", volume), ("label", labels)):
            arrays = [part[name].to(torch.float32).numpy() for part in parts]
            joined = stitch(arrays, locations, volume.geometry.shape, "constant")
            assert np.allclose(joined.squeeze(), expected.array, atol=1e-4)
        for part in parts:
            assert tuple(part["shape"].tolist()) == volume.geometry.shape
            assert np.allclose(part["spacing"], volume.spacing)
            at = part["affine"].numpy() @ [0, 0, 0, 1]
            assert np.allclose(at[:3], volume.geometry.voxel_to_world(part["location"].numpy()))


def test_patches_of_integers_inside_a_stack_are_mapped_in_their_order(folder: Path) -> None:
    write_series(folder, shape=SHAPE, intercept=-100)
    index = index_of(folder)
    for axes in ("RAS", "IPR"):
        patches = dicomdl.PatchDataset(
            index, (3, 3, 3), orientation=axes, intensity=(0, 600), sampler="grid"
        )
        volume = dicomdl.read_volume(index.stacks[0]).window((0, 600)).reorient(axes)
        for sample in patches:
            z, y, x = sample["location"].tolist()
            expected = volume.array[z : z + 3, y : y + 3, x : x + 3]
            assert np.array_equal(sample["image"][0], expected)


def test_labelled_voxels_points_and_the_body_are_found_in_the_grid(planes: dicomdl.Index) -> None:
    options: dict[str, Any] = {"labels": labels_of, "orientation": "RAS", "intensity": "modality"}
    rare = dicomdl.PatchDataset(planes, (1, 1, 1), sampler=dicomdl.Balanced({3: 1}), **options)
    assert all(int(sample["label"]) == 3 for sample in rare)
    world = [stack.geometry.voxel_to_world([1, 3, 6]) for stack in planes.stacks]
    points = [
        (stack.series_instance_uid, *xyz) for stack, xyz in zip(planes.stacks, world, strict=True)
    ]
    around = dicomdl.PatchDataset(planes, (1, 1, 1), sampler=dicomdl.Centers(points), **options)
    for sample, xyz, stack in zip(around, world, planes.stacks, strict=True):
        assert float(sample["image"]) == dicomdl.read_volume(stack).array[1, 3, 6]
        assert np.allclose(sample["affine"][:3, 3], xyz)
    body = dicomdl.PatchDataset(planes, (1, 1, 1), sampler=dicomdl.Foreground(above=250), **options)
    assert all(float(sample["image"]) > 250 for sample in body)


def test_a_stack_without_orientation_is_left_out_and_told(folder: Path) -> None:
    write_series(folder, shape=SHAPE)
    write_secondary_capture(folder / "shot.dcm")
    index = index_of(folder)
    with pytest.warns(LeftOutWarning, match="no known orientation"):
        volumes = dicomdl.VolumeDataset(index, irregular="accept", content=None, orientation="RAS")
    assert len(volumes) == 1 and "orientation" in volumes.left_out[-1].reason
    shot = next(stack for stack in index.stacks if stack.verdict == "no_geometry")
    with pytest.raises(GeometryError, match="not known"):
        GridRequest("RAS").geometry(shot)


def test_a_single_slice_has_its_own_spacing_in_every_order(folder: Path) -> None:
    write_series(folder, shape=(1, 8, 11), spacing=(2, 0.5, 0.7))
    index = index_of(folder)
    (sample,) = dicomdl.VolumeDataset(index, orientation="RAS")
    assert np.array_equal(sample["spacing"], [0.7, 0.5, np.nan], equal_nan=True)
    assert sample["image"].shape == (1, 11, 8, 1)
    (sample,) = dicomdl.VolumeDataset(index, orientation="RAS", reduce=1)
    assert np.array_equal(sample["spacing"], [1.4, 1.0, np.nan], equal_nan=True)


def test_size_and_spacing_are_in_the_order_of_the_axes(planes: dicomdl.Index) -> None:
    options: dict[str, Any] = {"orientation": "RAS", "spacing": (1, 2, 3), "size": (4, 5, 6)}
    for sample in dicomdl.VolumeDataset(planes, "modality", **options):
        assert sample["image"].shape == (1, 4, 5, 6)
        assert np.allclose(sample["spacing"], (1, 2, 3))
        assert (np.diag(FLIP @ sample["affine"].numpy())[:3] > 0).all()


def test_an_orientation_is_a_value_that_compares_and_pickles(planes: dicomdl.Index) -> None:
    assert GridRequest("ras") == GridRequest("RAS") != OWN_GRID == GridRequest()
    patches = dicomdl.PatchDataset(planes, (3, 3, 3), orientation="ras", seed=1)
    again = pickle.loads(pickle.dumps(patches))
    assert again.grid == patches.grid
    assert torch.equal(again[3]["image"], patches[3]["image"])
    with pytest.raises(UsageError, match="orientation='RLS'"):
        dicomdl.VolumeDataset(planes, orientation="RLS")
