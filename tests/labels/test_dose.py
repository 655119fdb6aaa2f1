"""Doses on the grid of a stack."""

import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import index_of
from phantoms import write_series
from phantoms_labels import write_dose

import dicomdl
from dicomdl.errors import AnnotationError
from dicomdl.index.views import Stack
from dicomdl.labels.read import RemarkWarning

ORIGIN, SPACING = np.array([-3.0, -4.0, -2.0]), (3.0, 2.0, 2.5)
# Stored values that are linear in space, so that interpolation is exact: 10 x + 20 y + 30 z + 500.
STEPS = np.array([10.0, 20.0, 30.0])


def dose_of(points: Any) -> Any:
    return (np.asarray(points) @ STEPS + 500) / 1000


def stored(shape: tuple[int, int, int]) -> Any:
    z, y, x = np.indices(shape)
    points = np.stack([x * SPACING[2], y * SPACING[1], z * SPACING[0]], axis=-1) + ORIGIN
    return np.rint(1000 * dose_of(points))


def stack_with(folder: Path, shape: tuple[int, int, int], **options: Any) -> Stack:
    image = write_series(folder / "ct", shape=(4, 6, 7))[0]
    write_dose(folder / "dose.dcm", image, stored(shape), origin=ORIGIN, spacing=SPACING, **options)
    return index_of(folder).select(modality="CT").stacks[0]


@pytest.mark.parametrize("is_relative", [True, False])
def test_a_dose_is_interpolated_in_gray_at_the_voxels_of_the_stack(
    folder: Path, is_relative: bool
) -> None:
    stack = stack_with(folder, (6, 10, 8), is_relative=is_relative)
    dose = dicomdl.read_labels(stack, "RTDOSE")
    assert (dose.dtype, dose.units) == (np.float32, "GY")
    points = stack.geometry.voxel_to_world(np.indices(stack.shape).reshape(3, -1).T)
    assert dose.array.ravel() == pytest.approx(dose_of(points), abs=1e-4)


def test_a_dose_is_zero_beyond_its_grid(folder: Path) -> None:
    stack = stack_with(folder, (2, 10, 8))
    dose = dicomdl.read_labels(stack, "RTDOSE").array
    assert dose[0].all()
    assert not dose[3].any()


@pytest.mark.parametrize(
    ("keyword", "value", "remark"),
    [
        ("DoseSummationType", "BEAM", r"a part of a plan: Dose Summation Type .* is BEAM"),
        ("DoseSummationType", "FRACTION", r"a part of a plan: .* is FRACTION"),
        ("DoseSummationType", "MULTI_PLAN", ""),
        ("DoseType", "ERROR", r"differences of doses: Dose Type \(3004,0004\) is ERROR"),
        ("DoseType", "EFFECTIVE", ""),
        ("PatientID", "ANOTHER", r"its PatientID is another one"),
    ],
)
def test_doses_that_are_not_those_of_a_plan_are_read_with_a_warning(
    folder: Path, keyword: str, value: str, remark: str
) -> None:
    stack = stack_with(folder, (6, 10, 8), edit=lambda each, _: setattr(each, keyword, value))
    (annotation,) = stack.annotations
    assert bool(annotation.remarks) == bool(remark and keyword != "PatientID")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        dose = dicomdl.read_labels(stack, annotation)
    assert dose.array.any()
    assert [each.category for each in caught] == [RemarkWarning] * bool(remark)
    assert all(re.search(remark, str(each.message)) for each in caught)
    assert all(each.filename == __file__ for each in caught)


def test_doses_of_one_series_are_grids_of_their_own(folder: Path) -> None:
    image = write_series(folder / "ct", shape=(4, 6, 7))[0]
    for number in (1, 2, 3):

        def of_one_series(dataset: Any, _: int, number: int = number) -> None:
            dataset.SeriesInstanceUID, dataset.SOPInstanceUID = "1.2.3", f"1.2.3.{number}"

        doses = np.full((4, 6, 7), 1000 * number)
        write_dose(folder / f"{number}.dcm", image, doses, edit=of_one_series)
    index = index_of(folder)
    assert [stack.verdict for stack in index.select(content="dose").stacks] == ["regular"] * 3
    stack = index.select(modality="CT").stacks[0]
    found = {
        annotation.facts.sop_instance_uid: dicomdl.read_labels(stack, annotation).array
        for annotation in stack.annotations
    }
    assert sorted(found) == ["1.2.3.1", "1.2.3.2", "1.2.3.3"]
    for uid, dose in found.items():
        assert np.array_equal(dose, np.full((4, 6, 7), float(uid[-1])))


def test_a_dose_in_a_file_per_plane_is_one(folder: Path) -> None:
    image = write_series(folder / "ct", shape=(4, 6, 7))[0]
    for z in range(4):

        def one_plane(dataset: Any, _: int, z: int = z) -> None:
            del dataset.GridFrameOffsetVector
            dataset.SeriesInstanceUID, dataset.SOPInstanceUID = "1.2.3", f"1.2.3.{z}"

        doses, origin = np.full((1, 6, 7), 1000 * (z + 1)), (0, 0, 2 * z)
        write_dose(folder / f"{z}.dcm", image, doses, origin=origin, edit=one_plane)
    stack = index_of(folder).select(modality="CT").stacks[0]
    dose = dicomdl.read_labels(stack, "RTDOSE").array
    assert dose[:, 2, 3].tolist() == [1.0, 2.0, 3.0, 4.0]


def test_several_doses_are_refused_and_those_of_beams_named(folder: Path) -> None:
    image = write_series(folder / "ct", shape=(4, 6, 7))[0]
    for name in ("PLAN", "BEAM"):
        write_dose(
            folder / f"{name}.dcm",
            image,
            stored((2, 10, 8)),
            edit=lambda each, _, name=name: setattr(each, "DoseSummationType", name),  # type: ignore[misc]
        )
    stack = index_of(folder).select(has="RTDOSE").stacks[0]
    with pytest.raises(AnnotationError, match=r"2 readable .* \(1 hold the dose of a part of a p"):
        dicomdl.read_labels(stack, "RTDOSE")


def test_relative_doses_and_files_without_an_index_are_refused(folder: Path) -> None:
    def as_relative(dataset: Any, _: int) -> None:
        dataset.DoseUnits = "RELATIVE"

    stack = stack_with(folder, (6, 10, 8), edit=as_relative)
    with pytest.raises(AnnotationError, match="the doses are RELATIVE, expected GY"):
        dicomdl.read_labels(stack, "RTDOSE")
    with pytest.raises(AnnotationError, match="scan it with its images"):
        dicomdl.read_labels(stack, folder / "dose.dcm")
