"""The fingerprint against nnU-Net's own, of the same set converted to NIfTI with its labels."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import index_of
from phantoms import write_series

import dicomdl

pytest.importorskip("nnunetv2")

SHAPE = (10, 40, 44)


def write_case(folder: Path, number: int) -> None:
    """Write a CT: air, and a body of its own brightness."""
    generator = np.random.default_rng(number)
    stored = np.full(SHAPE, 24.0)
    stored[2:-2, 8:-8, 8:-8] = 1000 + 15 * number + generator.normal(0, 90, (6, 24, 28))
    write_series(
        folder / str(number),
        shape=SHAPE,
        stored=stored.clip(0, 4095).astype(np.uint16),
        spacing=(2.0 + number, 0.5, 0.7),
        intercept=-1024,
        patient_id=f"P{number}",
        seed=number,
    )


def body(stack: dicomdl.Stack) -> Any:
    """Return the label map of a stack: 1 in the body."""
    return (dicomdl.read_volume(stack).array > -500).astype(np.uint8)


def of_nnunet(index: dicomdl.Index, folder: Path) -> dict[str, Any]:
    """Return what nnU-Net collects of the converted set, aggregated as its extractor does."""
    extractor = pytest.importorskip(
        "nnunetv2.experiment_planning.dataset_fingerprint.fingerprint_extractor"
    )
    reader = pytest.importorskip("nnunetv2.imageio.simpleitk_reader_writer").SimpleITKIO
    folder.mkdir()
    voxels, spacings, shapes = [], [], []
    for stack in index.stacks:
        volume = dicomdl.read_volume(stack)
        image, labels = folder / f"{stack.number}_0000.nii.gz", folder / f"{stack.number}.nii.gz"
        volume.save(image)
        dicomdl.Volume(body(stack), volume.geometry).save(labels)
        shape, spacing, inside, _, _ = extractor.DatasetFingerprintExtractor.analyze_case(
            [str(image)], str(labels), reader, 20_000
        )
        voxels.append(inside[0])
        spacings.append(tuple(spacing))
        shapes.append(tuple(int(n) for n in shape))
    every = np.concatenate(voxels)
    lower, median, upper = np.percentile(every, (0.5, 50, 99.5))
    return {
        "spacings": spacings,
        "sizes": shapes,
        "lower": lower,
        "median": median,
        "upper": upper,
        "mean": every.mean(),
        "deviation": every.std(),
        "minimum": every.min(),
        "maximum": every.max(),
    }


@pytest.mark.slow
def test_the_fingerprint_is_that_of_nnunet_within_one_percent(folder: Path, tmp_path: Path) -> None:
    for number in range(4):
        write_case(folder, number)
    index = index_of(folder)
    found = dicomdl.fingerprint(index, labels=body)
    theirs = of_nnunet(index, tmp_path / "nifti")
    assert np.allclose(found.spacings, theirs["spacings"], rtol=1e-6)
    assert list(found.sizes) == theirs["sizes"]
    spread = theirs["upper"] - theirs["lower"]
    for name in ("lower", "median", "upper", "mean", "deviation"):
        assert abs(getattr(found, name) - theirs[name]) <= 0.01 * spread, name
    assert found.deviation == pytest.approx(theirs["deviation"], rel=0.01)
