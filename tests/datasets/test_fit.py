"""fit: how a frame of another shape gets the size that a FrameDataset delivers."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import index_of
from phantoms import ramp, write_secondary_capture, write_segmentation_1bit, write_series

import dicomdl
from dicomdl.datasets._regrid import TargetGrid
from dicomdl.datasets.device.intensity import apply_intensity
from dicomdl.errors import UsageError

FITS = ("stretch", "pad", "crop")
SHAPE = (3, 20, 31)


def radiograph(folder: Path, *, modality: str = "DX", **options: Any) -> dicomdl.Index:
    write_series(
        folder,
        **{"shape": (1, 40, 26), "modality": modality, "slope": None, "intercept": None} | options,
    )
    return index_of(folder)


def places(made: Any, original: Any) -> np.ndarray:
    """(rows, columns, 2) the row and column in the original frame of each pixel of a sample."""
    indices = np.indices(made["image"].shape[1:]).reshape(2, -1)
    homogeneous = np.stack([0 * indices[0], *indices, np.ones(indices.shape[1])])
    to_old = np.linalg.inv(original["affine"].numpy()) @ made["affine"].numpy()
    return (to_old @ homogeneous)[1:3].T.reshape(*made["image"].shape[1:], 2)


@pytest.mark.quick(3)
@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("size", [(64, 64), (90, 50), (41, 93)])
def test_every_pixel_shows_its_place_by_the_affine(
    folder: Path, fit: Any, size: tuple[int, int]
) -> None:
    write_series(folder, shape=SHAPE, spacing=(2, 0.5, 0.5), origin=(3, -40, 50))
    index = index_of(folder)
    plain = dicomdl.FrameDataset(index, "modality")[1]
    made = dicomdl.FrameDataset(index, "modality", size=size, fit=fit)[1]
    assert made["image"].shape == (1, *size)
    at = places(made, plain)
    inside = ((at >= 0) & (at <= np.array(SHAPE[1:]) - 1)).all(axis=-1)
    expected = plain["image"][0, 0, 0].item() + at @ (7, 1)
    assert inside.sum() > 500
    assert np.abs(made["image"][0].numpy() - expected)[inside].max() < 1e-3
    assert np.allclose(made["spacing"], np.linalg.norm(made["affine"][:3, :3], axis=0))
    ends = at.reshape(-1, 2)
    whole = (ends.min(axis=0) <= 0).all() and (ends.max(axis=0) >= np.array(SHAPE[1:]) - 1).all()
    assert whole == (fit != "crop")
    row, column = made["spacing"][1:].tolist()
    if fit != "stretch":
        # Whole pixels: the factors of the axes differ by half a pixel at most.
        assert abs(row / column - 1) < 0.5 / min(size) + 1e-9


@pytest.mark.parametrize("modality", ["CR", "DX", "MG", "RG", "RF", "XA", "IO", "PX", "CT", "US"])
def test_projection_images_are_padded_and_others_stretched_by_default(modality: str) -> None:
    expected = "stretch" if modality in ("CT", "US") else "pad"
    assert TargetGrid.of(2, 64, None).fit_of(modality) == expected
    assert TargetGrid.of(2, 64, None, "crop").fit_of(modality) == "crop"


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_a_mammogram_lies_in_the_middle_and_the_rest_is_the_lowest_value(
    folder: Path, photometric: str
) -> None:
    index = radiograph(folder, modality="MG", photometric=photometric, stored=ramp((1, 40, 26)))
    for intensity in ("auto", dicomdl.Percentile(1, 99)):
        image = dicomdl.FrameDataset(index, intensity, size=(20, 20))[0]["image"][0]
        # 40 x 26 becomes 20 x 13, with 4 columns before and 3 behind.
        assert (image[:, :4] == 0).all() and (image[:, 17:] == 0).all()
        assert (image[5:15, 4:17] > 0).all()
    wide = dicomdl.FrameDataset(index, size=(20, 40))[0]["image"][0]
    assert (wide[:, :14] == 0).all() and (wide[:, 27:] == 0).all()
    assert (
        dicomdl.FrameDataset(index, size=(20, 20), fit="crop")[0]["image"] > 0
    ).float().mean() > 0.9


@pytest.mark.quick(2)
@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("fit", FITS)
def test_a_device_gets_the_same_image(folder: Path, fit: Any, photometric: str) -> None:
    index = radiograph(folder, photometric=photometric, stored=ramp((1, 40, 26)))
    expected = dicomdl.FrameDataset(index, size=(30, 24), fit=fit)[0]
    later = dicomdl.FrameDataset(index, size=(30, 24), fit=fit, intensity_on="device")[0]
    made = apply_intensity(later)
    assert torch.allclose(made["image"], expected["image"], atol=1e-5)
    assert torch.equal(made["image"] == 0, expected["image"] == 0)


def test_the_spacing_of_a_radiograph_follows_its_fit(folder: Path) -> None:
    def edit(header: Any, z: int) -> None:
        header.ImagerPixelSpacing = [1, 1]

    index = radiograph(folder, edit=edit)
    spacing = {
        fit: dicomdl.FrameDataset(index, size=(20, 20), fit=fit)[0]["spacing"][1:] for fit in FITS
    }
    assert spacing["pad"].tolist() == [2.0, 2.0]
    assert spacing["stretch"].tolist() == pytest.approx([2.0, 1.3])
    assert spacing["crop"].tolist() == pytest.approx([40 / 31, 1.3])


@pytest.mark.parametrize("fit", FITS)
def test_neighbours_and_halved_frames_fit_alike(folder: Path, fit: Any) -> None:
    write_series(folder, shape=SHAPE)
    index = index_of(folder)
    options: dict[str, Any] = {"intensity": (80, 200), "size": (48, 48), "fit": fit}
    frames = [sample["image"] for sample in dicomdl.FrameDataset(index, **options)]
    three = dicomdl.FrameDataset(index, **options, neighbours=1)[1]
    assert torch.allclose(three["image"], torch.cat(frames))
    whole, half = (dicomdl.FrameDataset(index, **options, reduce=n)[1] for n in (0, 1))
    last = torch.tensor([0, 24.0, 24, 1], dtype=torch.float64)
    assert torch.allclose(whole["affine"] @ last, half["affine"] @ last, atol=1.5)


@pytest.mark.parametrize("fit", FITS)
def test_labels_are_never_mixed_and_background_beyond(folder: Path, fit: Any) -> None:
    write_segmentation_1bit(folder / "s.dcm", shape=(2, 10, 17))
    index = index_of(folder)
    options: dict[str, Any] = {"content": "segmentation", "intensity": "modality"}
    plain = dicomdl.FrameDataset(index, **options)[0]
    made = dicomdl.FrameDataset(index, **options, size=(34, 34), fit=fit)[0]
    at = np.rint(places(made, plain)).astype(int)
    inside = ((at >= 0) & (at < np.array(plain["image"].shape[1:]))).all(axis=-1)
    rows, columns = at[inside].T
    assert set(made["image"].unique().tolist()) <= {0.0, 1.0}
    if fit == "pad":
        assert (made["image"][0].numpy()[~inside] == 0).all() and (~inside).any()
    else:
        assert inside.mean() > 0.95
    wrong = made["image"][0].numpy()[inside] != plain["image"][0].numpy()[rows, columns]
    # Where a pixel lies between two labels, either is the nearest.
    exact = np.abs(places(made, plain)[inside] % 1 - 0.5).min(axis=-1) > 1e-6
    assert not wrong[exact].any()


def test_colour_fits_with_all_channels(folder: Path) -> None:
    write_secondary_capture(folder / "c.dcm", rows=8, columns=16)
    image = dicomdl.FrameDataset(index_of(folder), size=(16, 16), fit="pad")[0]["image"]
    assert image.shape == (3, 16, 16) and (image[:, :4] == 0).all() and (image[:, 12:] == 0).all()
    assert image[:, 4:12].amax() > 0.1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"size": 8, "fit": "squeeze"}, "'stretch', 'pad', 'crop'"),
        ({"fit": "pad"}, "needs size="),
        ({"fit": "pad", "size": 8, "spacing": 1}, "without spacing="),
    ],
)
def test_a_fit_that_says_nothing_is_refused(
    folder: Path, options: dict[str, Any], words: str
) -> None:
    write_series(folder, shape=(1, 5, 7))
    with pytest.raises(UsageError, match=words):
        dicomdl.FrameDataset(index_of(folder), **options)
