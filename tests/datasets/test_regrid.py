"""regrid: the grid of projection images, whose spacing may hold at the detector."""

import math
from pathlib import Path
from typing import Any

import phantoms
import pytest
import torch
from conftest import index_of
from phantoms_defects import say
from pydicom.dataset import Dataset

import dicomdl
from dicomdl.errors import GeometryError

FACTOR = "EstimatedRadiographicMagnificationFactor"


def radiographs(folder: Path, *views: dict[str, Any], modality: str = "MG") -> dicomdl.Index:
    """The index of one Series of projection images with these facts."""

    def edit(dataset: Dataset, z: int) -> None:
        for name in ("PixelSpacing", "SliceThickness"):
            if name in dataset:
                delattr(dataset, name)
        say(dataset, views[z])

    phantoms.write_series(
        folder,
        shape=(len(views), 6, 8),
        modality=modality,
        slope=None,
        intercept=None,
        names="ordered",
        edit=edit,
    )
    return index_of(folder)


CONTACT = {"ImagerPixelSpacing": [0.07, 0.07], FACTOR: 1.0}
MAGNIFIED = {"ImagerPixelSpacing": [0.07, 0.07], FACTOR: 1.75}


@pytest.mark.parametrize("modality", ["MG", "CR", "DX"])
def test_a_sample_names_the_place_of_its_spacing_and_gives_that_in_the_patient_on_request(
    folder: Path, modality: str
) -> None:
    index = radiographs(folder, MAGNIFIED, modality=modality)
    (stack,) = index.stacks
    assert (stack.spacing[1:], stack.spacing_at) == ((0.07, 0.07), "detector")
    assert stack.detail["spacing_at"] == "detector" and stack.detail["magnification"] == 1.75
    assert "1.75 times" in index.check().rows[0].reason
    assert stack.plane_spacing().in_patient().row == pytest.approx(0.04)
    sample = dicomdl.FrameDataset(index)[0]
    assert (sample["spacing_at"], sample["spacing"][1:].tolist()) == ("detector", [0.07, 0.07])
    sample = dicomdl.FrameDataset(index, spacing_at="patient")[0]
    assert sample["spacing_at"] == "patient"
    assert sample["spacing"][1:].tolist() == pytest.approx([0.04, 0.04])


def test_views_of_one_series_have_each_their_own_spacing(folder: Path) -> None:
    other = {"PixelSpacing": [0.05, 0.06], "PixelSpacingCalibrationType": "GEOMETRY"}
    index = radiographs(folder, CONTACT, MAGNIFIED, {**MAGNIFIED, **other})
    (stack,) = index.stacks
    assert math.isnan(stack.spacing[1]) and stack.spacing_at == ""
    assert stack.detail["in_plane_spacings"] == 2
    assert stack.detail["spacing_at"] == ["detector", "patient"]
    assert stack.detail["magnification"] == [1.0, 1.75]
    found = [
        (sample["spacing_at"], [round(s, 6) for s in sample["spacing"][1:].tolist()])
        for sample in dicomdl.FrameDataset(index, spacing_at="patient")
    ]
    assert sorted(found) == [
        ("patient", [0.04, 0.04]),
        ("patient", [0.05, 0.06]),
        ("patient", [0.07, 0.07]),
    ]


def test_without_a_magnification_the_spacing_in_the_patient_is_unknown(folder: Path) -> None:
    index = radiographs(folder, {"ImagerPixelSpacing": [0.07, 0.07]})
    sample = dicomdl.FrameDataset(index, spacing_at="patient")[0]
    assert sample["spacing_at"] == "" and torch.isnan(sample["spacing"][1:]).all()
    with pytest.raises(GeometryError, match="not known"):
        dicomdl.FrameDataset(index, spacing=0.1, spacing_at="patient")[0]
    assert "unknown magnification" in index.check().rows[0].reason


def test_resampling_goes_from_the_spacing_that_was_asked_for(folder: Path) -> None:
    index = radiographs(folder, {"ImagerPixelSpacing": [0.2, 0.2], FACTOR: 2.0})
    by_detector = dicomdl.FrameDataset(index, spacing=0.1)[0]
    by_patient = dicomdl.FrameDataset(index, spacing=0.1, spacing_at="patient")[0]
    assert by_detector["image"].shape[1:] == (12, 16) and by_detector["spacing_at"] == "detector"
    assert by_patient["image"].shape[1:] == (6, 8) and by_patient["spacing_at"] == "patient"


def test_halving_counts_for_a_spacing_at_the_detector_too(folder: Path) -> None:
    index = radiographs(folder, MAGNIFIED)
    sample = dicomdl.FrameDataset(index, reduce=1, spacing_at="patient")[0]
    assert sample["spacing"][1:].tolist() == pytest.approx([0.08, 0.08])


def test_a_place_that_is_neither_is_a_usage_error(folder: Path) -> None:
    with pytest.raises(dicomdl.DicomdlError, match="spacing_at='film'"):
        dicomdl.FrameDataset(radiographs(folder, CONTACT), spacing_at="film")  # type: ignore[arg-type]


def test_samples_of_volumes_lie_in_the_patient_and_batches_collate(folder: Path) -> None:
    phantoms.write_series(folder / "ct", seed=1)
    index = index_of(folder)
    for dataset in (
        dicomdl.FrameDataset(index),
        dicomdl.VolumeDataset(index),
        dicomdl.PatchDataset(index, size=(2, 2, 2)),
    ):
        batch = next(iter(torch.utils.data.DataLoader(dataset, batch_size=1)))
        assert batch["spacing_at"] == ["patient"]
    assert index.stacks[0].spacing_at == "patient" and "spacing_at" not in index.stacks[0].detail


def test_the_groups_of_an_enhanced_xa_state_its_spacing(tmp_path: Path) -> None:
    def edit(dataset: Dataset, _: int) -> None:
        dataset.Modality = "XA"
        shared = dataset.SharedFunctionalGroupsSequence[0]
        shared.PixelMeasuresSequence = []
        shared.FramePixelDataPropertiesSequence = phantoms.item(ImagerPixelSpacing=[0.3, 0.3])
        shared.XRayGeometrySequence = phantoms.item(
            DistanceSourceToDetector=1200.0, DistanceSourceToIsocenter=800.0
        )

    folder = tmp_path / "dicom"
    phantoms.write_multiframe(folder / "a.dcm", shape=(2, 5, 7), edit=edit)
    (stack,) = index_of(folder).stacks
    assert (stack.spacing[1:], stack.spacing_at) == ((0.3, 0.3), "detector")
    assert stack.plane_spacing(1).in_patient().row == pytest.approx(0.2)


def region(**facts: Any) -> Dataset:
    """A region of tissue with 0.02 cm between columns and 0.03 cm between rows."""
    dataset = Dataset()
    tissue = {
        **{"RegionSpatialFormat": 1, "RegionDataType": 1, "RegionLocationMinX0": 0},
        **{"PhysicalUnitsXDirection": 3, "PhysicalUnitsYDirection": 3},
        **{"PhysicalDeltaX": 0.02, "PhysicalDeltaY": 0.03},
    }
    say(dataset, {**tissue, **facts})
    return dataset


@pytest.mark.parametrize(
    ("regions", "spacing"),
    [
        ([{}], [0.3, 0.2]),
        ([{}, {"RegionLocationMinX0": 4}], [0.3, 0.2]),
        # Beside a region of another scale, and beside a spectrum.
        ([{}, {"PhysicalDeltaX": 0.04}], None),
        ([{}, {"RegionSpatialFormat": 3, "PhysicalUnitsXDirection": 4}], None),
    ],
)
def test_an_ultrasound_image_has_the_spacing_of_all_its_regions(
    folder: Path, regions: list[dict[str, Any]], spacing: list[float] | None
) -> None:
    sequence = [region(**facts) for facts in regions]
    index = radiographs(folder, {"SequenceOfUltrasoundRegions": sequence}, modality="US")
    sample = dicomdl.FrameDataset(index)[0]
    assert sample["spacing_at"] == ("patient" if spacing else "")
    if spacing:
        assert sample["spacing"][1:].tolist() == pytest.approx(spacing)
        assert index.stacks[0].spacing[1:] == pytest.approx(spacing)
    else:
        assert torch.isnan(sample["spacing"][1:]).all()
