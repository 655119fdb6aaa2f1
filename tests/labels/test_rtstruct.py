"""Contours of structure sets on the slices of stacks."""

import warnings
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from conftest import index_of
from numpy.typing import NDArray
from phantoms import item, slice_normal, write_series
from phantoms_labels import contour, write_structure_set
from pydicom import dcmread
from pydicom.dataset import Dataset

import dicomdl
from dicomdl.errors import AnnotationError
from dicomdl.headers.data_set import source_of
from dicomdl.headers.structure_set import read_structure_set
from dicomdl.index.views import Stack
from dicomdl.labels._choice import chosen
from dicomdl.labels._planes import Planes, place
from dicomdl.labels.read import RemarkWarning
from dicomdl.labels.reader import channel_block, label_block
from dicomdl.labels.rtstruct import ContourReader

SHAPE = (5, 12, 14)
AXIAL = (1, 0, 0, 0, 1, 0)
# A rectangle of 5 rows and 6 columns: rows 2 to 6, columns 4 to 9.
CORNERS = np.array([(1.5, 3.5), (1.5, 9.5), (6.5, 9.5), (6.5, 3.5)])


def block(z: slice) -> NDArray[np.bool_]:
    mask = np.zeros(SHAPE, np.bool_)
    mask[z, 2:7, 4:10] = True
    return mask


def points_on(stack: Stack, z: float, corners: NDArray[Any] = CORNERS) -> NDArray[Any]:
    """LPS points of (row, column) corners at slice z."""
    voxels = np.column_stack([np.full(len(corners), z), corners])
    return stack.geometry.voxel_to_world(voxels)


def stack_of(folder: Path, **options: Any) -> tuple[Stack, Path]:
    image = write_series(folder / "ct", shape=SHAPE, **options)[0]
    return index_of(folder / "ct").stacks[0], image


def reader_of(stack: Stack, path: Path, wish: Any = None) -> ContourReader:
    rois = read_structure_set(source_of(path)).rois
    choices = chosen([roi.facts for roi in rois], wish, "rois")
    return ContourReader(stack, rois, choices, lambda: np.zeros(stack.slices, np.bool_))


@pytest.mark.quick(4)
@pytest.mark.parametrize(
    "geometry",
    [
        {},
        {"spacing": (2.5, 0.7, 0.8), "origin": (-100, 40, 7)},
        {"shear": (0.0, 0.8)},
        {"orientation": (0, 1, 0, 0, 0, -1)},
        {"orientation": (1, 0, 0, 0, 0, -1)},
        {"orientation": (0.8, 0.6, 0, -0.6, 0.8, 0)},
        {"positions": [(0, 0, z) for z in (0, 2, 4, 8, 10)]},
        {"positions": [(0, 0, z) for z in (0, 1, 2.5, 4.5, 5.25)]},
    ],
    ids=["axial", "spacing", "tilted", "sagittal", "coronal", "oblique", "hole", "uneven"],
)
def test_contours_fill_the_pixels_of_their_own_slices(
    folder: Path, geometry: dict[str, Any]
) -> None:
    stack, image = stack_of(folder, **geometry)
    planes = Planes.of(stack)
    down, right = planes.down, planes.right
    drawn = [
        contour(planes.origins[z] + CORNERS[:, :1] * down + CORNERS[:, 1:] * right)
        for z in (1, 2, 4)
    ]
    reader = reader_of(stack, write_structure_set(folder / "rt.dcm", image, {"A": drawn}))
    labels, overlap = label_block(reader, (0, 0, 0), SHAPE, np.uint8)
    expected = block(slice(1, 3)) | block(slice(4, 5))
    assert np.array_equal(labels, expected.astype(np.uint8))
    assert overlap == 0
    part, _ = label_block(reader, (1, 3, 2), (5, 9, 8), np.uint8)
    assert np.array_equal(part, labels[1:5, 3:9, 2:8])


def test_a_contour_off_its_slice_belongs_to_the_nearest_one(folder: Path) -> None:
    stack, image = stack_of(folder)
    drawn = [contour(points_on(stack, z)) for z in (0.98, 2.4)]
    rois = read_structure_set(
        source_of(write_structure_set(folder / "rt.dcm", image, {"A": drawn}))
    ).rois
    placed = place(rois[0].contours, Planes.of(stack))
    assert (placed.edges.planes[0], placed.edges.planes[-1]) == (1, 2)
    assert placed.distance_mm == pytest.approx(0.8)


def test_of_contours_between_slices_the_nearest_plane_counts(folder: Path) -> None:
    stack, image = stack_of(folder)
    # Five planes per slice: by exclusive or, an even number of them would cancel.
    drawn = [contour(points_on(stack, z)) for z in np.arange(1.0, 3.01, 0.2)]
    path = write_structure_set(folder / "rt.dcm", image, {"A": drawn})
    labels, _ = label_block(reader_of(stack, path), (0, 0, 0), SHAPE, np.uint8)
    assert np.array_equal(labels > 0, block(slice(1, 4)))


@pytest.mark.parametrize("kind", ["CLOSED_PLANAR", "CLOSEDPLANAR_XOR"])
def test_a_contour_that_was_stored_twice_fills_its_pixels_all_the_same(
    folder: Path, kind: str
) -> None:
    stack, image = stack_of(folder)
    hole = points_on(stack, 2, np.array([(2.5, 4.5), (2.5, 6.5), (4.5, 6.5), (4.5, 4.5)]))
    outer = points_on(stack, 2)
    # The copies begin elsewhere, and go the other way round.
    drawn = [outer, hole, np.roll(outer, 1, axis=0), np.roll(outer, 2, axis=0)[::-1], hole]
    drawn.append(points_on(stack, 3))  # the same outline on another slice is none
    path = write_structure_set(
        folder / "rt.dcm", image, {"Heart": [contour(each, kind) for each in drawn]}
    )
    truth = block(slice(2, 4))
    truth[2, 3:5, 5:7] = False
    reader = reader_of(stack, path)
    assert np.array_equal(label_block(reader, (0, 0, 0), SHAPE, np.uint8)[0] == 1, truth)
    assert reader.remarks == ("3 of 6 contours repeat another one, and are left out",)
    (region,) = dicomdl.LabelSource(path).report(stack)
    assert (region.contours, region.copies) == (6, 3)
    assert "3 copies" in region.remarks


def test_contours_that_a_planning_system_interpolated_are_closed(folder: Path) -> None:
    stack, image = stack_of(folder)
    kinds = ("CLOSED_PLANAR", "INTERPOLATED_PLANAR", "CLOSED_PLANAR")
    drawn = [contour(points_on(stack, z), kind) for z, kind in enumerate(kinds)]
    path = write_structure_set(folder / "rt.dcm", image, {"Heart": drawn})
    found, _ = label_block(reader_of(stack, path), (0, 0, 0), SHAPE, np.uint8)
    assert np.array_equal(found == 1, block(slice(0, 3)))


def test_contours_of_no_region_are_counted_and_the_others_are_read(folder: Path) -> None:
    def forget(dataset: Dataset, _: int) -> None:
        del dataset.StructureSetROISequence[1]

    stack, image = stack_of(folder)
    drawn = {"A": [contour(points_on(stack, 1))], "B": [contour(points_on(stack, 2))] * 2}
    path = write_structure_set(folder / "rt.dcm", image, drawn, edit=forget)
    with pytest.warns(RemarkWarning, match="2 contours of a Referenced ROI Number"):
        labels = dicomdl.read_labels(stack, path)
    assert np.flatnonzero(labels.array.any(axis=(1, 2))).tolist() == [1]
    assert labels.names == {1: "A"}


def test_contours_beyond_the_slices_are_counted_and_fill_nothing(folder: Path) -> None:
    stack, image = stack_of(folder)
    drawn = [contour(points_on(stack, z)) for z in (-1, 0, 4, 4.6, 9)]
    rois = read_structure_set(
        source_of(write_structure_set(folder / "rt.dcm", image, {"A": drawn}))
    ).rois
    placed = place(rois[0].contours, Planes.of(stack))
    assert (placed.beyond, placed.between, placed.open) == (3, 0, 0)


def test_contours_beyond_the_image_are_clipped(folder: Path) -> None:
    stack, image = stack_of(folder)
    wide = np.array([(-5.0, -5.0), (-5.0, 4.5), (30.0, 4.5), (30.0, -5.0)])
    path = write_structure_set(
        folder / "rt.dcm", image, {"A": [contour(points_on(stack, 2, wide))]}
    )
    labels, _ = label_block(reader_of(stack, path), (0, 0, 0), SHAPE, np.uint8)
    expected = np.zeros(SHAPE, np.uint8)
    expected[2, :, :5] = 1
    assert np.array_equal(labels, expected)


def test_points_and_open_contours_enclose_no_area(folder: Path) -> None:
    stack, image = stack_of(folder)
    drawn = [
        contour(points_on(stack, 1)[:1], "POINT"),
        contour(points_on(stack, 1), "OPEN_PLANAR"),
        contour(points_on(stack, 2)),
    ]
    rois = read_structure_set(
        source_of(write_structure_set(folder / "rt.dcm", image, {"A": drawn}))
    ).rois
    placed = place(rois[0].contours, Planes.of(stack))
    assert placed.open == 2
    assert np.unique(placed.edges.planes).tolist() == [2]


def test_regions_are_chosen_by_name_and_joined_by_a_mapping(folder: Path) -> None:
    stack, image = stack_of(folder)
    rois = {
        "Lung_L": [contour(points_on(stack, 1))],
        "Lung_R": [contour(points_on(stack, 3))],
        "Heart": [contour(points_on(stack, 1) + np.array([2, 0, 0]))],
    }
    path = write_structure_set(folder / "rt.dcm", image, rois)
    both = reader_of(stack, path, {"lungs": "lung_.*", "heart": ["heart"]})
    assert both.names == {1: "lungs", 2: "heart"}
    labels, overlap = label_block(both, (0, 0, 0), SHAPE, np.uint8)
    assert (labels[3] == 1).sum() == 30
    # The later label counts where two overlap.
    assert (labels[1] == 2).sum() == 30
    assert overlap == 20
    channels = channel_block(both, (0, 0, 0), SHAPE)
    assert channels.reshape(2, -1).sum(axis=1).tolist() == [60, 30]
    assert reader_of(stack, path, ["heart", "lung_l"]).names == {1: "Heart", 2: "Lung_L"}
    # Names that differ between patients: one of them has to be there.
    assert reader_of(stack, path, {"heart": ["cor", "heart"]}).names == {1: "heart"}
    with pytest.raises(AnnotationError, match="nothing is named 'cor' or 'hart' among 3"):
        reader_of(stack, path, {"heart": ["cor", "hart"]})
    with pytest.raises(AnnotationError, match="nothing is named 'liver' among 3") as failure:
        reader_of(stack, path, ["liver"])
    assert failure.value.names == ["1 Lung_L", "2 Lung_R", "3 Heart"]


def test_a_region_with_the_number_0_is_refused_and_never_lost(folder: Path) -> None:
    stack, image = stack_of(folder)

    def number_from_0(dataset: Any, _: int) -> None:
        for number in range(2):
            dataset.StructureSetROISequence[number].ROINumber = number
            dataset.ROIContourSequence[number].ReferencedROINumber = number

    rois = {name: [contour(points_on(stack, z))] for z, name in enumerate(("Heart", "Lung"))}
    path = write_structure_set(folder / "rt.dcm", image, rois, edit=number_from_0)
    with pytest.raises(AnnotationError, match=r"'Heart' has the number 0.*rois=\['\.\*'\]"):
        dicomdl.read_labels(stack, path)
    labels = dicomdl.read_labels(stack, path, rois=[".*"])
    assert labels.names == {1: "Heart", 2: "Lung"}
    assert np.array_equal(labels.array == 1, block(slice(0, 1)))
    assert np.array_equal(labels.array == 2, block(slice(1, 2)))


def test_contours_of_another_orientation_are_refused(folder: Path) -> None:
    stack, image = stack_of(folder)
    upright = [(3, 2, 0), (3, 9, 0), (3, 9, 6), (3, 2, 6)]
    path = write_structure_set(folder / "rt.dcm", image, {"A": [contour(upright)]})
    with pytest.raises(AnnotationError, match="1 of 1 contours extend up to 6 mm across"):
        reader_of(stack, path)


def test_contours_outside_of_the_stack_are_refused_instead_of_an_empty_mask(folder: Path) -> None:
    stack, image = stack_of(folder)
    path = write_structure_set(
        folder / "rt.dcm", image, {"A": [contour(points_on(stack, 2) + np.array([500, 0, 0]))]}
    )
    with pytest.raises(AnnotationError, match="none of 1 contours lies in the stack"):
        reader_of(stack, path)


def test_another_frame_of_reference_is_refused(folder: Path) -> None:
    stack, image = stack_of(folder)

    def elsewhere(dataset: Any, _: int) -> None:
        dataset.StructureSetROISequence[0].ReferencedFrameOfReferenceUID = "1.2.3"

    path = write_structure_set(
        folder / "rt.dcm", image, {"A": [contour(points_on(stack, 2))]}, edit=elsewhere
    )
    with pytest.raises(AnnotationError, match="another frame of reference"):
        reader_of(stack, path)


@pytest.mark.parametrize("case", ["STS_002", "STS_019"])
@pytest.mark.parametrize("image", ["CT", "MR_T1", "PET"])
def test_the_masks_of_the_ibsi_are_equal_in_every_voxel(
    corpus: Path, tmp_path: Path, case: str, image: str
) -> None:
    root = corpus / "theibsi+data_sets/ibsi_validation"
    stack = dicomdl.scan(
        root / "dicom" / case / image / "image", tmp_path / "index", progress=False
    ).stacks[0]
    (path,) = (root / "dicom" / case / image / "mask").iterdir()
    labels, _ = label_block(reader_of(stack, path), (0, 0, 0), stack.shape, np.uint8)
    reference = nibabel.load(root / "nifti" / case / f"{image}_mask.nii.gz")
    to_ras = np.diag([-1.0, -1, 1, 1]) @ stack.affine
    voxels = np.linalg.inv(reference.affine) @ to_ras
    indices = np.indices(stack.shape).reshape(3, -1)
    i, j, k = np.rint(voxels[:3, :3] @ indices + voxels[:3, 3:]).astype(int)
    expected = np.asarray(reference.dataobj)[i, j, k].reshape(stack.shape) > 0
    assert expected.any()
    assert np.array_equal(labels > 0, expected)


def test_slice_normals_of_the_phantoms_are_those_of_the_planes(folder: Path) -> None:
    stack, _ = stack_of(folder, orientation=(0, 1, 0, 0, 0, -1))
    assert Planes.of(stack).normal == pytest.approx(slice_normal((0, 1, 0, 0, 0, -1)))


def placed_on(stack: Stack, folder: Path, image: Path, drawn: list[Any]) -> Any:
    path = write_structure_set(folder / "rt.dcm", image, {"A": drawn})
    return place(read_structure_set(source_of(path)).rois[0].contours, Planes.of(stack))


@pytest.mark.parametrize(
    ("heights", "filled"),
    [
        ((0, 2, 4), [1, 3]),
        ((1, 3), []),
        ((0, 1, 2, 4), []),
        ((0, 1.5, 3), [2]),
        ((0.1, 2.1, 4), [1, 3]),
    ],
    ids=str,
)
def test_a_region_on_coarser_slices_fills_those_between_and_tells_gaps(
    folder: Path, heights: Any, filled: list[int]
) -> None:
    stack, image = stack_of(folder)
    placed = placed_on(stack, folder, image, [contour(points_on(stack, z)) for z in heights])
    assert placed.filled.tolist() == filled
    drawn = placed.drawn.tolist()
    assert placed.gaps == drawn[-1] - drawn[0] + 1 - len(drawn)
    expected = np.zeros(SHAPE, np.bool_)
    for z in (*drawn, *filled):
        expected |= block(slice(z, z + 1))
    assert np.array_equal(placed.edges.fill((0, 0, 0), SHAPE), expected)


def test_a_slice_between_takes_the_contours_of_the_nearest_plane(folder: Path) -> None:
    image = write_series(folder / "ct", shape=(10, *SHAPE[1:]))[0]
    stack = index_of(folder / "ct").stacks[0]
    drawn = [contour(points_on(stack, z, CORNERS + z / 9)) for z in (0, 3, 6, 9)]
    placed = placed_on(stack, folder, image, drawn)
    mask = placed.edges.fill((0, 0, 0), stack.shape)
    assert placed.filled.tolist() == [1, 2, 4, 5, 7, 8]
    for z, nearest in ((1, 0), (2, 3), (4, 3), (5, 6), (7, 6), (8, 9)):
        assert np.array_equal(mask[z], mask[nearest]) and mask[z].any()


def test_spots_apart_from_each_other_are_no_region_between_them(folder: Path) -> None:
    stack, image = stack_of(folder)
    spot = np.array([(0.5, 0.5), (0.5, 2.5), (2.5, 2.5), (2.5, 0.5)])
    drawn = [contour(points_on(stack, z, spot + 2.2 * z)) for z in (0, 2, 4)]
    placed = placed_on(stack, folder, image, drawn)
    assert placed.filled.tolist() == [] and placed.gaps == 2


def drawn_on(path: Path, z: float, first: int, last: int) -> Dataset:
    """A contour around rows and columns `first` to `last` that names its image."""
    low, high = first - 0.5, last + 0.5
    drawn = contour([(low, low, z), (high, low, z), (high, high, z), (low, high, z)])
    source = dcmread(path, stop_before_pixels=True)
    drawn.ContourImageSequence = item(
        ReferencedSOPClassUID=source.SOPClassUID, ReferencedSOPInstanceUID=source.SOPInstanceUID
    )
    return drawn


def test_contours_of_another_time_are_no_labels_of_a_stack(folder: Path) -> None:
    def edit(dataset: Dataset, z: int) -> None:
        dataset.TemporalPositionIdentifier = 1 + z // 2

    places = [(0, 0, 2.0 * (z % 2)) for z in range(4)]
    images = write_series(
        folder / "mr", modality="MR", shape=(4, 12, 14), positions=places, edit=edit
    )
    (other, *_) = write_series(folder / "ct", shape=(2, 12, 14))
    rois = {
        # By exclusive or, contours of both times would leave a hole.
        "both": [drawn_on(images[0], 0, 1, 6), drawn_on(images[2], 0, 2, 4)],
        "first": [drawn_on(images[1], 2, 7, 8)],
        "elsewhere": [drawn_on(other, 2, 1, 1)],
    }
    path = write_structure_set(folder / "rt.dcm", images[0], rois)
    stacks = index_of(folder).select(modality="MR").stacks
    assert len(stacks) == 2
    for stack in stacks:
        is_first = stack.dimension["temporal_position_identifier"] == 1
        expected = np.zeros((2, 12, 14), np.uint8)
        expected[0, 1:7, 1:7] = is_first
        if not is_first:
            expected[0, 2:5, 2:5] = 1
        expected[1, 7:9, 7:9] = 2 * is_first
        expected[1, 1, 1] = 3
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RemarkWarning)
            assert np.array_equal(dicomdl.read_labels(stack, path).array, expected)
        report = dicomdl.LabelSource(str(path)).report(stack)
        assert [region.contours for region in report] == [1, int(is_first), 1]
