"""Multi-frame files with one position for all frames: refused, named, and placed on request."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from phantoms import decimals, ramp, true_affine, write_series
from pydicom.dataset import Dataset
from pydicom.uid import MultiFrameGrayscaleWordSecondaryCaptureImageStorage, RTDoseStorage

import dicomdl
from dicomdl.errors import IrregularStack
from dicomdl.geometry.grid import Tolerances
from dicomdl.geometry.one_position import assumed_affine

SHAPE = (6, 5, 7)
OBLIQUE = (0.8, 0.6, 0.0, -0.36, 0.48, -0.8)


def write(
    folder: Path,
    facts: dict[str, Any],
    edit: Callable[[Dataset], None] = lambda dataset: None,
    **options: Any,
) -> dicomdl.Index:
    """Write the ramp as the frames of one classic file; None deletes an attribute."""

    def frames(dataset: Dataset, _: int) -> None:
        dataset.NumberOfFrames = SHAPE[0]
        dataset.PixelData = ramp(SHAPE).astype("<u2").tobytes()
        for keyword, value in facts.items():
            if value is None:
                delattr(dataset, keyword)
            else:
                setattr(dataset, keyword, value)
        edit(dataset)

    options = {"origin": (1, 2, 3), **options}
    write_series(folder / "dicom", shape=(1, *SHAPE[1:]), edit=frames, **options)
    return dicomdl.scan(folder / "dicom", folder / "index", workers=1, progress=False)


def test_the_reason_is_that_the_file_gives_one_position(tmp_path: Path) -> None:
    index = write(tmp_path, {"SpacingBetweenSlices": 0.3})
    (stack,) = index.stacks
    assert (stack.verdict, stack.slices) == ("no_geometry", 6)
    assert stack.detail == {
        "why": "the file gives one position for its 6 frames",
        "frames_at_one_position": 6,
        "assumed_spacing": 0.3,
        "assumed_from": "SpacingBetweenSlices",
    }
    assert math.isnan(stack.spacing[0])
    assert not np.isfinite(stack.affine).any()
    with pytest.raises(IrregularStack, match=r"'accept' to place its slices 0\.3 mm apart"):
        dicomdl.read_volume(stack)
    with pytest.raises(IrregularStack, match="nothing says where its slices are"):
        dicomdl.read_volume(stack, irregular="resample")


@pytest.mark.parametrize("modality", ["CT", "MR"])
def test_check_names_the_file_and_what_its_header_suggests(tmp_path: Path, modality: str) -> None:
    check = write(tmp_path, {"SpacingBetweenSlices": 0.3}, modality=modality).check()
    (row,) = check.needing
    assert row.reason == (
        "the file gives one position for its 6 frames; SpacingBetweenSlices suggests 0.3 mm "
        "between frames, which nothing confirms"
    )


@pytest.mark.parametrize("spacing", [0.3, -0.3])
@pytest.mark.parametrize("orientation", [(1, 0, 0, 0, 1, 0), OBLIQUE])
def test_accept_builds_the_grid_of_spacing_between_slices_along_the_normal(
    tmp_path: Path, spacing: float, orientation: tuple[float, ...]
) -> None:
    """A negative spacing stacks frames in front of the first (PS3.3 C.8.4.15)."""
    index = write(tmp_path, {"SpacingBetweenSlices": spacing}, orientation=orientation)
    volume = dicomdl.read_volume(index.stacks[0], irregular="accept")
    true = true_affine((spacing, 1, 1), (1, 2, 3), orientation)
    first_frame = true @ [0, 0, 0, 1]
    slice_of_first = 0 if spacing > 0 else 5
    assert np.allclose(volume.affine @ [slice_of_first, 0, 0, 1], first_frame)
    assert np.array_equal(volume.array, ramp(SHAPE)[:: 1 if spacing > 0 else -1])
    normal = np.cross(orientation[:3], orientation[3:])
    assert np.allclose(volume.affine[:3, 0], normal * 0.3)
    assert volume.verdict == "no_geometry"


def test_a_half_resolution_keeps_the_slices(tmp_path: Path) -> None:
    index = write(tmp_path, {"SpacingBetweenSlices": 0.3})
    volume = dicomdl.read_volume(index.stacks[0], irregular="accept", reduce=1)
    assert (volume.shape, volume.spacing) == ((6, 3, 4), (0.3, 2.0, 2.0))


@pytest.mark.parametrize(("modality", "assumed"), [("CT", 2.0), ("MR", None)])
def test_slice_thickness_stands_in_for_ct_alone(
    tmp_path: Path, modality: str, assumed: float | None
) -> None:
    index = write(tmp_path, {}, modality=modality)
    (stack,) = index.stacks
    assert stack.detail.get("assumed_spacing") == assumed
    assert [index.frame(n).frame_number for n in range(len(index))] == [1, 2, 3, 4, 5, 6]
    volume = dicomdl.read_volume(stack, irregular="accept")
    assert np.isfinite(volume.affine).all() == (assumed is not None)


def test_a_secondary_capture_with_one_position_needs_a_person_too(tmp_path: Path) -> None:
    kind = MultiFrameGrayscaleWordSecondaryCaptureImageStorage

    def edit(dataset: Dataset) -> None:
        dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = kind

    index = write(tmp_path, {"SpacingBetweenSlices": 0.25}, edit)
    (row,) = index.check().needing
    assert (row.verdict, row.detail["assumed_spacing"]) == ("no_geometry", 0.25)


def test_without_an_orientation_nothing_is_assumed(tmp_path: Path) -> None:
    index = write(tmp_path, {"SpacingBetweenSlices": 0.3, "ImageOrientationPatient": None})
    (stack,) = index.stacks
    assert stack.verdict == "no_geometry"
    assert "ImageOrientationPatient" in stack.detail["why"]
    assert "assumed_spacing" not in stack.detail


def test_two_files_with_one_position_each_are_two_stacks(tmp_path: Path) -> None:
    for n in range(2):
        name = tmp_path / f"dicom/{n}"
        write(tmp_path / f"{n}", {"SpacingBetweenSlices": 0.3, "InstanceNumber": n + 1}, seed=n)
        name.parent.mkdir(exist_ok=True)
        (tmp_path / f"{n}/dicom").rename(name)
    index = dicomdl.scan(tmp_path / "dicom", tmp_path / "index", workers=1, progress=False)
    assert [stack.slices for stack in index.stacks] == [6, 6]
    assert list(index.groups) == []


def test_dose_planes_with_offsets_keep_their_geometry_and_others_are_named(tmp_path: Path) -> None:
    def edit(dataset: Dataset) -> None:
        dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = RTDoseStorage
        dataset.Modality, dataset.DoseGridScaling = "RTDOSE", "0.01"

    offsets = {"GridFrameOffsetVector": decimals([0, 2, 4, 6, 8, 10])}
    (placed,) = write(tmp_path / "with", offsets, edit).stacks
    (bare,) = write(tmp_path / "without", {}, edit).stacks
    assert (placed.verdict, bare.verdict) == ("regular", "no_geometry")
    assert bare.detail["frames_at_one_position"] == 6


def test_a_skewed_orientation_has_no_assumed_grid() -> None:
    skewed = np.array([1, 0, 0, 0.7, 0.7, 0])
    affine = assumed_affine(np.zeros(3), skewed, np.ones(2), 1.0, 4, Tolerances())
    assert np.isnan(affine).all()
