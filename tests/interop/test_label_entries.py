"""Labels of datasets through other libraries: channels, and what nobody annotated, go along."""

import importlib
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from phantoms import write_series
from phantoms_labels import write_seg

import dicomdl
from dicomdl.interop.monai import ForMonai
from dicomdl.interop.torchio import ForTorchIO
from dicomdl.interop.torchvision import ForTorchvision

SHAPE = (5, 12, 14)


def needed(module: str) -> Any:
    """Import an optional package, or skip the test by the name of the package."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return importlib.import_module(module)
    # torchvision raises a RuntimeError if it does not fit the build of torch
    except Exception as error:
        pytest.skip(f"needs {module}: {type(error).__name__}")


@pytest.fixture
def index(folder: Path) -> dicomdl.Index:
    """One stack with three segments on its first three slices, which are all that is annotated."""
    image = write_series(folder / "ct", shape=SHAPE)[0]
    labels = np.random.default_rng(0).integers(0, 4, SHAPE, np.uint8)
    frames = [
        (k, (0, 0, 2.0 * z), (labels[z] == k).astype(np.uint8)) for k in (1, 2, 3) for z in range(3)
    ]
    write_seg(folder / "seg.dcm", image, frames)
    return dicomdl.scan(folder, folder.parent / "index", progress=False).select(content="image")


def flipped(name: str) -> Any:
    """A transform that reverses the last axis of images and labels."""
    if name == "monai":
        transforms = needed("monai.transforms")
        keys = ["image", "label", "unlabelled"]
        return ForMonai(transforms.Flipd(keys, spatial_axis=-1))
    if name == "torchio":
        torchio = needed("torchio")
        axes = {"axes": (2,), "flip_probability": 1.0}
        make = getattr(torchio, "RandomFlip", None) or torchio.Flip
        return ForTorchIO(make(**axes) if make is not getattr(torchio, "Flip", None) else make(2))
    transforms = needed("torchvision.transforms.v2")
    return ForTorchvision(transforms.RandomHorizontalFlip(1.0))


@pytest.mark.slow
@pytest.mark.parametrize("channels", [False, True])
@pytest.mark.parametrize("name", ["monai", "torchio", "torchvision"])
def test_labels_and_what_is_unlabelled_move_with_the_image(
    index: dicomdl.Index, name: str, channels: bool
) -> None:
    source = dicomdl.LabelSource("SEG", channels=channels, unlabelled=True)
    options = {"sampler": "grid", "labels": source, "intensity": "modality"}
    # Patches reach beyond the stack, where nobody annotated.
    plain = dicomdl.PatchDataset(index, (6, 16, 8), **options)
    moved = dicomdl.PatchDataset(index, (6, 16, 8), transform=flipped(name), **options)
    for one, other in zip(plain, moved, strict=True):
        assert torch.equal(other["image"], one["image"].flip(-1))
        for entry in ("label", "unlabelled"):
            assert torch.equal(other[entry], one[entry].flip(-1))
            assert other[entry].dtype == one[entry].dtype
    assert plain[0]["unlabelled"].any() and plain[0]["label"].any()
