"""The report on the regions of a structure set."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import NewFolder, index_of
from phantoms import write_series
from phantoms_labels import contour, write_structure_set

import dicomdl
from dicomdl.errors import AnnotationError, UsageError
from dicomdl.index.views import Stack
from dicomdl.labels.read import RemarkWarning

SHAPE = (5, 12, 14)
# A rectangle of 5 rows and 6 columns.
CORNERS = np.array([(1.5, 3.5), (1.5, 9.5), (6.5, 9.5), (6.5, 3.5)])


def on(stack: Stack, z: float, corners: Any = CORNERS, kind: str = "CLOSED_PLANAR") -> Any:
    """A contour of (row, column) corners at slice z."""
    corners = np.asarray(corners)
    voxels = np.column_stack([np.full(len(corners), z), corners])
    return contour(stack.geometry.voxel_to_world(voxels), kind)


@pytest.fixture(scope="module")
def stack(new_folder: NewFolder) -> Stack:
    """A stack beside a structure set of regions of all kinds."""
    folder = new_folder()
    image = write_series(folder / "ct", shape=SHAPE, spacing=(2.5, 0.8, 0.5))[0]
    stack = index_of(folder / "ct").stacks[0]
    wide = [(-5.0, -5.0), (-5.0, 4.5), (30.0, 4.5), (3.0, -5.0)]
    rois = {
        "Lung_L": [on(stack, 1), on(stack, 2.1)],
        "Lung_R": [on(stack, 1)],
        "Heart": [on(stack, z) for z in (0, 2, 4)],
        "Nothing": [],
        "Seed": [on(stack, 1, CORNERS[:1], "POINT"), on(stack, 2, kind="OPEN_PLANAR")],
        "Body": [on(stack, 2, wide), on(stack, 9), on(stack, 2.4)],
    }
    write_structure_set(folder / "rt.dcm", image, rois)
    return dicomdl.scan(folder, folder.parent / "index", progress=False).stacks[0]


def test_each_region_has_what_was_counted_of_it(stack: Stack) -> None:
    report = dicomdl.LabelSource("RTSTRUCT").report(stack)
    assert [each.name for each in report] == [
        *("Lung_L", "Lung_R", "Heart", "Nothing", "Seed", "Body")
    ]
    left, right, heart, nothing, seed, body = report
    assert (left.contours, left.slices, left.label, left.matched_by) == (2, 2, "Lung_L", "")
    assert left.distance_mm == pytest.approx(0.25)
    # 30 pixels per slice of 2.5 x 0.8 x 0.5 mm.
    assert left.volume_ml == pytest.approx(2 * 30 * 1e-3)
    assert right.remarks == ()
    assert (heart.gaps, heart.filled, heart.slices) == (2, 2, 5)
    assert heart.remarks == ("gaps: 2 slices, 2 filled",)
    assert nothing.remarks == ("empty: no contours",) and np.isnan(nothing.distance_mm)
    assert (seed.open, seed.slices, seed.volume_ml) == (2, 0, 0)
    assert seed.remarks == ("empty: no voxel of the stack lies in it", "2 open or points")
    assert (body.outside, body.outside_points, body.beyond, body.between) == (1, 4, 1, 1)


def test_volumes_are_those_of_the_labels(stack: Stack) -> None:
    labels = dicomdl.read_labels(stack, "RTSTRUCT", channels=True)
    found = labels.array.reshape(len(labels.array), -1).sum(axis=1) * 2.5 * 0.8 * 0.5 / 1000
    report = dicomdl.LabelSource("RTSTRUCT").report(stack)
    assert [each.volume_ml for each in report] == pytest.approx(found.tolist())


def test_reading_tells_that_slices_between_coarse_ones_are_filled(stack: Stack) -> None:
    with pytest.warns(RemarkWarning, match="2 slices without contours of their own have those of"):
        labels = dicomdl.read_labels(stack, "RTSTRUCT", rois=["heart"])
    assert (labels.array.reshape(5, -1).sum(axis=1) == 30).all()


def test_regions_tell_which_expression_took_them_and_expressions_whether_any(
    stack: Stack,
) -> None:
    wish = {"lungs": ["lung_l", "lung.*"], "liver": "liver", "heart": 3}
    report = dicomdl.LabelSource("RTSTRUCT", rois=wish).report(stack)
    assert [(each.label, each.matched_by) for each in report] == [
        *(("lungs", "lung_l"), ("lungs", "lung.*"), ("heart", "3"), ("", ""), ("", ""), ("", ""))
    ]
    assert report.unmatched == ("liver",)
    assert report[3].remarks == ("empty: no contours", "not wanted")
    printed = repr(report)
    assert "6 regions" in printed and "no region is named 'liver'" in printed
    assert "gaps: 2 slices, 2 filled" in printed
    assert dicomdl.LabelSource("RTSTRUCT", rois=["x", "y"]).report(stack).unmatched == ("x", "y")


def test_a_region_that_cannot_be_read_is_told_beside_the_others(stack: Stack, folder: Path) -> None:
    image = Path(stack.frames[0].path)

    def edit(dataset: Any, _: int) -> None:
        dataset.StructureSetROISequence[1].ReferencedFrameOfReferenceUID = "1.2.3"
        dataset.ROIContourSequence[2].ContourSequence[0].ContourData = ["1", "2"]

    rois = {name: [on(stack, 1)] for name in ("good", "elsewhere", "odd")}
    upright = [(3, 2, 0), (3, 9, 0), (3, 9, 6), (3, 2, 6)]
    rois["upright"] = [contour(upright)]
    path = write_structure_set(folder / "bad.dcm", image, rois, edit=edit)
    report = dicomdl.LabelSource(str(path)).report(stack)
    assert [bool(each.problem) for each in report] == [False, True, True, True]
    assert "another frame of reference" in report[1].problem
    assert "2 values" in report[2].remarks[0] and "across the slices" in report[3].problem


def test_what_is_no_structure_set_has_no_report(stack: Stack) -> None:
    with pytest.raises(AnnotationError, match="no readable SEG"):
        dicomdl.LabelSource("SEG").report(stack)
    with pytest.raises(dicomdl.DicomdlError, match="no RT structure set"):
        dicomdl.LabelSource(stack.frames[0].path).report(stack)
    with pytest.raises(UsageError, match="no regular expression"):
        dicomdl.LabelSource("RTSTRUCT", rois=["("]).report(stack)
