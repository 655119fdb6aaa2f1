"""Segments of segmentations on the slices of stacks."""

import functools
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import NewFolder, index_of
from numpy.typing import NDArray
from phantoms import item, write_secondary_capture, write_series
from phantoms_labels import write_seg
from phantoms_multi import divide
from pydicom import dcmread
from pydicom.uid import DeflatedExplicitVRLittleEndian, RLELossless

import dicomdl
from dicomdl.errors import AnnotationError, HeaderError, TruncatedPixels
from dicomdl.headers.annotation import read_annotation
from dicomdl.headers.data_set import source_of
from dicomdl.index.views import Stack
from dicomdl.labels import _row_batches, places
from dicomdl.labels._choice import chosen
from dicomdl.labels._coverage import referred_by_file
from dicomdl.labels._fractions import Fractions
from dicomdl.labels._seg_frames import SegFrames
from dicomdl.labels.read import RemarkWarning
from dicomdl.labels.reader import channel_block, label_block
from dicomdl.labels.seg import SegObject, SegReader

SHAPE = (5, 9, 11)  # 99 pixels: frames share bytes


def labels_of(seed: int = 0) -> NDArray[np.uint8]:
    """Labels 1 to 3 at random, so that no order or flip of the voxels keeps them."""
    return np.random.default_rng(seed).integers(0, 4, SHAPE, np.uint8)


def position(z: float, y: float = 0, x: float = 0) -> tuple[float, float, float]:
    """The first pixel of a slice of the phantom, moved by rows and columns."""
    return x, y, 2.0 * z


@pytest.fixture(scope="module")
def image(new_folder: NewFolder) -> Path:
    folder = new_folder()
    return write_series(folder / "ct", shape=SHAPE)[0]


@pytest.fixture(scope="module")
def stack(image: Path) -> Stack:
    return index_of(image.parent).stacks[0]


def reader_of(
    stack: Stack, path: Path, wish: Any = None, threshold: float | None = None, **options: Any
) -> SegReader:
    facts = read_annotation(source_of(path))
    choices = chosen(facts.segments, wish, "segments")
    frames = SegFrames.of_file(str(path))
    seg = SegObject(facts, frames, functools.partial(referred_by_file, stack, facts))
    return SegReader(stack, seg, choices, fractions=Fractions("labels", threshold), **options)


def binary(labels: NDArray[Any], order: Any = None) -> list[tuple[int, Any, NDArray[Any]]]:
    """Frames of all segments and slices, in the given order of (segment, slice)."""
    pairs = [(k, z) for k in (1, 2, 3) for z in range(SHAPE[0])]
    shuffled = [pairs[n] for n in np.random.default_rng(order).permutation(len(pairs))]
    return [(k, position(z), (labels[z] == k).astype(np.uint8)) for k, z in shuffled]


def test_bits_of_any_order_of_frames_become_labels(folder: Path, image: Path, stack: Stack) -> None:
    labels = labels_of()
    reader = reader_of(stack, write_seg(folder / "seg.dcm", image, binary(labels, 1)))
    found, overlap = label_block(reader, (0, 0, 0), SHAPE, np.uint8)
    assert np.array_equal(found, labels)
    assert overlap == 0
    part, _ = label_block(reader, (1, 2, 3), (4, 8, 10), np.uint8)
    assert np.array_equal(part, labels[1:4, 2:8, 3:10])
    channels = channel_block(reader, (0, 0, 0), SHAPE)
    assert np.array_equal(channels, [labels == k for k in (1, 2, 3)])


def test_frames_of_other_size_and_corner_find_their_pixels(
    folder: Path, image: Path, stack: Stack
) -> None:
    mask = np.random.default_rng(3).integers(0, 2, (6, 20), np.uint8)
    frames = [(1, position(3, y=4, x=-7), mask)]
    reader = reader_of(stack, write_seg(folder / "seg.dcm", image, frames))
    expected = np.zeros(SHAPE, np.uint8)
    expected[3, 4:9, :] = mask[:5, 7:18]
    found, _ = label_block(reader, (0, 0, 0), SHAPE, np.uint8)
    assert np.array_equal(found, expected)


@pytest.mark.parametrize(
    ("orientation", "corner", "turn"),
    [
        ((-1, 0, 0, 0, -1, 0), (0, 8, 10), lambda mask: mask[::-1, ::-1]),
        ((0, 1, 0, 1, 0, 0), (0, 0, 0), lambda mask: mask.T),
        ((0, -1, 0, 1, 0, 0), (0, 8, 0), lambda mask: mask[::-1].T),
    ],
)
def test_frames_that_are_turned_against_the_slices_are_turned_back(
    folder: Path, image: Path, stack: Stack, orientation: Any, corner: Any, turn: Any
) -> None:
    mask = labels_of()[2] > 1
    frames = [(1, position(2, *corner[1:]), turn(mask).astype(np.uint8))]
    path = write_seg(folder / "seg.dcm", image, frames, orientation=orientation)
    found, _ = label_block(reader_of(stack, path), (0, 0, 0), SHAPE, np.uint8)
    assert np.array_equal(found[2], mask)
    part, _ = label_block(reader_of(stack, path), (2, 3, 4), (3, 7, 9), np.uint8)
    assert np.array_equal(part[0], mask[3:7, 4:9])


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_label_map_keeps_its_numbers_and_unknown_values_are_background(
    folder: Path, image: Path, stack: Stack, dtype: Any
) -> None:
    values = np.array([0, 5, 40, 7], dtype)[labels_of()]
    frames = [(0, position(z), values[z]) for z in (4, 0, 2, 1, 3)]

    def pad(dataset: Any, _: int) -> None:
        dataset.PixelPaddingValue = 0

    segments = {5: "Liver", 40: "Spleen"}
    path = write_seg(
        folder / "seg.dcm", image, frames, kind="LABELMAP", segments=segments, edit=pad
    )
    found, _ = label_block(reader_of(stack, path), (0, 0, 0), SHAPE, np.uint8)
    assert np.array_equal(found, np.where(values == 7, 0, values))
    spleen = reader_of(stack, path, ["spleen"])
    assert spleen.names == {1: "Spleen"}
    found, _ = label_block(spleen, (1, 1, 2), (4, 9, 11), np.uint8)
    assert np.array_equal(found, (values == 40)[1:4, 1:9, 2:11])


def marking(*marked: tuple[Path, Sequence[int]]) -> Any:
    """An edit that leaves frames their source image, and its frames, instead of a position."""

    def edit(dataset: Any, _: int) -> None:
        dataset.pop("FrameOfReferenceUID", None)
        shared = dataset.SharedFunctionalGroupsSequence[0]
        del shared.PixelMeasuresSequence, shared.PlaneOrientationSequence
        groups = dataset.PerFrameFunctionalGroupsSequence
        for group, (path, numbers) in itertools.zip_longest(groups, marked, fillvalue=(None, ())):
            del group.PlanePositionSequence
            if path is None:
                continue
            source = dcmread(path, stop_before_pixels=True)
            image = item(
                ReferencedSOPClassUID=source.SOPClassUID,
                ReferencedSOPInstanceUID=source.SOPInstanceUID,
            )
            if numbers:
                image[0].ReferencedFrameNumber = list(numbers)
            group.DerivationImageSequence = item(SourceImageSequence=image)

    return edit


def test_frames_without_a_position_lie_on_the_images_that_they_refer_to(folder: Path) -> None:
    images = write_series(folder / "dx", modality="DX", shape=SHAPE)
    parts = labels_of()
    frames = [(n, (0, 0, 0), parts[z] == n) for z, n in ((3, 1), (0, 2), (3, 2), (4, 1))]
    edit = marking(*((images[z], ()) for z in (3, 0, 3, 4)))
    path = write_seg(folder / "dx" / "seg.dcm", images[0], frames, edit=edit)
    (image,) = index_of(images[0].parent).select(content="image").stacks
    expected = np.where(np.isin(np.arange(5), (0, 3, 4))[:, None, None] & (parts < 3), parts, 0)
    expected[0][parts[0] == 1] = expected[4][parts[4] == 2] = 0
    assert image.verdict == "no_geometry"
    for source in ("SEG", path):
        assert np.array_equal(dicomdl.read_labels(image, source).array, expected)
    rows = dicomdl.read_labels(image, "SEG", channels=True).array[0, 3]
    assert np.array_equal(rows, parts[3] == 1)


def test_frames_without_a_position_lie_on_the_frames_that_they_refer_to(folder: Path) -> None:
    path = write_secondary_capture(folder / "us" / "a.dcm", rows=9, columns=11, frames=4)
    parts = labels_of() % 2
    frames = [(1, (0, 0, 0), parts[z]) for z in range(2)]
    edit = marking((path, (4,)), (path, (1, 3)))
    seg = write_seg(folder / "us" / "seg.dcm", path, frames, edit=edit)
    (image,) = index_of(path.parent).select(content="image").stacks
    found = dicomdl.read_labels(image, seg).array
    assert np.array_equal(found, np.stack([parts[1], 0 * parts[1], parts[1], parts[0]]))


def test_a_reference_without_frames_is_to_all_of_an_image(folder: Path) -> None:
    path = write_secondary_capture(folder / "us" / "a.dcm", rows=9, columns=11, frames=3)
    part = labels_of()[:1] % 2
    frames = [(1, (0, 0, 0), part[0])]
    seg = write_seg(folder / "one.dcm", path, frames, edit=marking((path, ())))
    (image,) = index_of(path.parent).stacks
    found = dicomdl.read_labels(image, seg).array
    assert np.array_equal(found, np.repeat(part, 3, axis=0))
    several = write_seg(folder / "two.dcm", path, 2 * frames, edit=marking(*2 * [(path, ())]))
    with pytest.raises(AnnotationError, match="several of a segment refer to one image"):
        dicomdl.read_labels(image, several)


def test_frames_without_a_position_lie_on_slices_with_one(
    folder: Path, image: Path, stack: Stack
) -> None:
    part = labels_of() % 2
    edit = marking((Path(stack.paths[3]), ()))
    path = write_seg(folder / "seg.dcm", image, [(1, (0, 0, 0), part[1])], edit=edit)
    found = dicomdl.read_labels(stack, path).array
    assert np.array_equal(found[3], part[1])
    assert not found[[0, 1, 2, 4]].any()


@pytest.mark.parametrize(("preserved", "is_read"), [("YES", True), ("NO", False)])
def test_frames_that_moved_away_from_their_images_are_not_put_there(
    folder: Path, image: Path, stack: Stack, preserved: str, is_read: bool
) -> None:
    part = labels_of()[0] % 2

    def edit(dataset: Any, _: int) -> None:
        marking((image, ()))(dataset, 0)
        (derived,) = dataset.PerFrameFunctionalGroupsSequence[0].DerivationImageSequence
        derived.SourceImageSequence[0].SpatialLocationsPreserved = preserved

    path = write_seg(folder / "seg.dcm", image, [(1, (0, 0, 0), part)], edit=edit)
    if is_read:
        assert dicomdl.read_labels(stack, path).array.sum() == part.sum()
    else:
        with pytest.raises(AnnotationError, match="lie elsewhere than their source images"):
            dicomdl.read_labels(stack, path)


def test_frames_of_a_segment_that_is_not_described_are_left_out_with_a_remark(
    folder: Path, image: Path, stack: Stack
) -> None:
    parts = labels_of() % 2
    frames = [(number, position(number), parts[number]) for number in (1, 2, 3)]
    path = write_seg(folder / "seg.dcm", image, frames, segments={1: "A", 2: "B"})
    with pytest.warns(RemarkWarning, match="1 of 3 frames are left out: no segment has"):
        found = dicomdl.read_labels(stack, path).array
    assert np.array_equal(found[1:4], [parts[1], 2 * parts[2], 0 * parts[3]])


def test_segments_of_one_number_are_refused(folder: Path, image: Path, stack: Stack) -> None:
    def edit(dataset: Any, _: int) -> None:
        dataset.SegmentSequence[1].SegmentNumber = 1

    frames = [(number, position(number), labels_of()[0] % 2) for number in (1, 2)]
    path = write_seg(folder / "seg.dcm", image, frames, edit=edit)
    with pytest.raises(AnnotationError, match="2 segments have 1 distinct number"):
        dicomdl.read_labels(stack, path)


def two_times(folder: Path) -> tuple[list[Path], list[Stack]]:
    """Two time points of two slices each: their images, and their stacks."""

    def edit(dataset: Any, z: int) -> None:
        dataset.TemporalPositionIdentifier = 1 + z // 2

    places = [position(z % 2) for z in range(4)]
    images = write_series(folder, modality="MR", shape=(4, 9, 11), positions=places, edit=edit)
    stacks = index_of(folder).select(content="image").stacks
    return images, sorted(stacks, key=lambda each: each.dimension["temporal_position_identifier"])


def referring(images: Sequence[Path]) -> Any:
    """An edit that gives each frame its source image, and names all of them."""

    def edit(dataset: Any, _: int) -> None:
        references = []
        for group, path in zip(dataset.PerFrameFunctionalGroupsSequence, images, strict=True):
            source = dcmread(path, stop_before_pixels=True)
            image = item(
                ReferencedSOPClassUID=source.SOPClassUID,
                ReferencedSOPInstanceUID=source.SOPInstanceUID,
            )
            group.DerivationImageSequence = item(SourceImageSequence=image)
            references += image
        dataset.ReferencedSeriesSequence[0].ReferencedInstanceSequence = references

    return edit


@pytest.mark.parametrize("kind", ["BINARY", "LABELMAP"])
@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 0, 2, 1), (1, 2)])
@pytest.mark.filterwarnings("ignore:labels were read, but it describes 2 stacks")
def test_frames_of_another_time_are_no_labels_of_a_stack(
    folder: Path, kind: str, order: tuple[int, ...]
) -> None:
    images, _ = two_times(folder / "mr")
    parts = labels_of()[:4] % 2
    frames = [(1, position(n % 2), parts[n]) for n in order]
    edit = referring([images[n] for n in order])
    path = write_seg(folder / "mr" / "seg.dcm", images[0], frames, kind=kind, edit=edit)
    index = index_of(folder / "mr")
    there = np.where(np.isin(np.arange(4), order)[:, None, None], parts, 0)
    found = index.select(content="image").stacks
    for stack in found:
        time = stack.dimension["temporal_position_identifier"] - 1
        for source in ("SEG", path):
            labels = dicomdl.read_labels(stack, source).array
            assert np.array_equal(labels, there[2 * time : 2 * time + 2])
    assert len(found) == 2


@pytest.mark.filterwarnings("ignore:labels were read, but")
def test_segments_of_another_series_and_of_no_image_keep_their_frames(folder: Path) -> None:
    images, _ = two_times(folder / "mr")
    others = write_series(folder / "ct", shape=(2, 9, 11))
    parts = labels_of()[:4] % 2
    # Segment 2 was drawn on CT, and segment 3 names no image.
    frames = [(1, position(0), parts[0]), (1, position(0), parts[1])]
    frames += [(2, position(1), parts[2]), (3, position(1), parts[3])]
    edit = referring([images[0], images[2], others[1], others[0]])

    def unname(dataset: Any, _: int) -> None:
        edit(dataset, 0)
        del dataset.PerFrameFunctionalGroupsSequence[3].DerivationImageSequence

    path = write_seg(folder / "seg.dcm", images[0], frames, edit=unname)
    stacks = index_of(folder).select(modality="MR").stacks
    for stack in stacks:
        time = stack.dimension["temporal_position_identifier"] - 1
        found = dicomdl.read_labels(stack, path, channels=True).array
        assert np.array_equal(found[0, 0], parts[time])
        assert np.array_equal(found[1:, 1], parts[2:])


def test_frames_at_one_place_that_nothing_tells_apart_are_combined_with_a_remark(
    folder: Path, image: Path, stack: Stack
) -> None:
    parts = labels_of() % 2
    frames = [(1, position(2), parts[0]), (1, position(2), parts[1]), (1, position(3), parts[2])]
    path = write_seg(folder / "seg.dcm", image, frames)
    with pytest.warns(RemarkWarning, match="2 frames share their segment and their place"):
        found = dicomdl.read_labels(stack, path).array
    assert np.array_equal(found[2], parts[0] | parts[1])


def test_a_seg_that_no_place_and_no_image_has_says_so(
    folder: Path, image: Path, stack: Stack
) -> None:
    part = labels_of()[0] % 2
    one = [(1, (0, 0, 0), part)]
    nowhere = write_seg(folder / "a.dcm", image, one, edit=marking())
    with pytest.raises(AnnotationError, match="1 of 1 frames have no image_position_patient, and"):
        dicomdl.read_labels(stack, nowhere)
    small = write_seg(
        folder / "b.dcm", image, [(1, (0, 0, 0), part[1:])], edit=marking((image, ()))
    )
    with pytest.raises(AnnotationError, match="8 x 11 pixels: expected the 9 x 11 of the images"):
        dicomdl.read_labels(stack, small)

    def on_slide(dataset: Any, _: int) -> None:
        marking((image, ()))(dataset, 0)
        (group,) = dataset.PerFrameFunctionalGroupsSequence
        group.PlanePositionSlideSequence = item(XOffsetInSlideCoordinateSystem="1")

    slide = write_seg(folder / "d.dcm", image, one, edit=on_slide)
    with pytest.raises(AnnotationError, match="they lie on a microscope slide"):
        dicomdl.read_labels(stack, slide)
    (other, *_) = write_series(folder / "dx", modality="DX", shape=SHAPE)
    strange = write_seg(folder / "c.dcm", image, one, edit=marking((other, ())))
    with pytest.raises(AnnotationError, match="no position, refers to an image of the stack"):
        dicomdl.read_labels(stack, strange)


def test_fractions_need_a_threshold(folder: Path, image: Path, stack: Stack) -> None:
    values = np.random.default_rng(0).integers(0, 201, SHAPE, np.uint8)
    frames = [(1, position(z), values[z]) for z in range(SHAPE[0])]
    path = write_seg(folder / "seg.dcm", image, frames, kind="FRACTIONAL")
    with pytest.raises(AnnotationError, match=r"fractions \(PROBABILITY\): threshold=0.5"):
        reader_of(stack, path)
    with pytest.raises(AnnotationError, match="above 0 to 1"):
        reader_of(stack, path, threshold=1.5)
    found, _ = label_block(reader_of(stack, path, threshold=0.5), (0, 0, 0), SHAPE, np.uint8)
    assert np.array_equal(found, values >= 100)


def test_overlapping_segments_are_counted_and_the_last_one_counts(
    folder: Path, image: Path, stack: Stack
) -> None:
    one = np.zeros(SHAPE[1:], np.uint8)
    one[2:6] = 1
    frames = [(2, position(1), one), (1, position(1), one[::-1])]
    reader = reader_of(stack, write_seg(folder / "seg.dcm", image, frames))
    found, overlap = label_block(reader, (0, 0, 0), SHAPE, np.uint8)
    assert overlap == (one & one[::-1]).sum()
    assert np.array_equal(found[1], np.where(one, 2, one[::-1]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pixel_spacing": (2.0, 1.0)}, "its pixels"),
        ({"orientation": (1, 0, 0, 0, 0, -1)}, "rise 8 mm across the slices"),
    ],
)
def test_another_grid_is_refused_with_numbers(
    folder: Path, image: Path, stack: Stack, options: Any, message: str
) -> None:
    frames = [(1, position(2), np.ones(SHAPE[1:], np.uint8))]
    path = write_seg(folder / "seg.dcm", image, frames, **options)
    with pytest.raises(AnnotationError, match=message):
        reader_of(stack, path, align="exact")


@pytest.mark.parametrize(
    ("spacing", "grid", "pixel_spacing"),
    [
        ((1.0, 2.0, 0.5), (10, 5, 22), (2.0, 0.5)),
        ((3.0, 1.0, 1.0), (4, 9, 11), (1.0, 1.0)),
    ],
)
def test_another_grid_is_sampled_at_the_nearest_voxel(
    folder: Path, image: Path, stack: Stack, spacing: Any, grid: Any, pixel_spacing: Any
) -> None:
    masks = np.random.default_rng(1).integers(0, 2, grid, np.uint8)
    # Off the middle between two voxels, where the nearest one is a matter of rounding.
    origin = np.array([0.3, 0.2, 0.1])
    frames = [(1, origin + np.array([0, 0, spacing[0] * z]), mask) for z, mask in enumerate(masks)]
    path = write_seg(folder / "seg.dcm", image, frames, pixel_spacing=pixel_spacing)
    found, _ = label_block(reader_of(stack, path), (0, 0, 0), SHAPE, np.uint8)
    affine = np.zeros((4, 4))
    affine[2, 0], affine[1, 1], affine[0, 2], affine[3, 3] = *spacing, 1.0
    affine[:3, 3] = origin
    source = dicomdl.Volume(masks, dicomdl.Geometry(grid, affine), "")
    expected = source.resample_to(stack.geometry, interpolation="nearest", fill=0).array
    assert expected.any()
    assert np.array_equal(found, expected)
    part, _ = label_block(reader_of(stack, path), (1, 2, 3), (4, 8, 10), np.uint8)
    assert np.array_equal(part, found[1:4, 2:8, 3:10])


def test_frames_beyond_the_stack_are_refused_instead_of_an_empty_mask(
    folder: Path, image: Path, stack: Stack
) -> None:
    frames = [(1, position(50), np.ones(SHAPE[1:], np.uint8))]
    path = write_seg(folder / "seg.dcm", image, frames)
    with pytest.raises(AnnotationError, match="none of 1 frames"):
        reader_of(stack, path)


@pytest.mark.parametrize(
    ("images", "seg", "references"),
    [
        ("24x38x3/image", "24x38x3/seg/label.seg", {1: "24x38x3/nrrd/label.nrrd"}),
        ("23x38x3/image", "23x38x3/seg/label.seg", {1: "23x38x3/nrrd/label.nrrd"}),
        ("ct-3slice", "liver.dcm", {1: "liver_seg.nrrd"}),
        (
            "ct-3slice",
            "partial_overlaps.dcm",
            {n: f"partial_overlaps-{i}.nrrd" for n, i in ((1, 1), (2, 2), (3, 3), (4, 1), (5, 1))},
        ),
    ],
)
def test_segments_equal_the_label_maps_that_dcmqi_was_given(
    corpus: Path, tmp_path: Path, images: str, seg: str, references: dict[int, str]
) -> None:
    root = corpus / "QIICR+dcmqi/data/segmentations"
    stack = dicomdl.scan(root / images, tmp_path / "index", progress=False).stacks[0]
    channels = channel_block(reader_of(stack, root / seg), (0, 0, 0), stack.shape)
    for channel, (label, name) in zip(channels, references.items(), strict=True):
        reference = dicomdl.Volume.load(root / name)
        expected = reference.resample_to(stack.geometry, interpolation="nearest", fill=0).array
        assert np.array_equal(channel, expected == label)
        assert channel.any()


def of_slices(values: NDArray[Any]) -> list[tuple[int, Any, NDArray[Any]]]:
    return [(1, position(z), values[z]) for z in range(SHAPE[0])]


def test_a_segment_that_only_the_shared_groups_name_is_read(
    folder: Path, image: Path, stack: Stack
) -> None:
    def share(dataset: Any, _: int) -> None:
        groups = dataset.PerFrameFunctionalGroupsSequence
        dataset.SharedFunctionalGroupsSequence[0].SegmentIdentificationSequence = groups[
            0
        ].SegmentIdentificationSequence
        for group in groups:
            del group.SegmentIdentificationSequence
        # Instances that are referenced twice change nothing.
        (series,) = dataset.ReferencedSeriesSequence
        series.ReferencedInstanceSequence.append(series.ReferencedInstanceSequence[0])

    mask = (labels_of() > 1).astype(np.uint8)
    path = write_seg(folder / "seg.dcm", image, of_slices(mask), edit=share)
    assert np.array_equal(dicomdl.read_labels(stack, path).array, mask)


@pytest.mark.parametrize(
    ("count", "message"),
    [
        (7, "7 frame.* need 87 bytes of pixel data, found 62"),
        (3, r"is 3, but the Per-frame .* have 5 items"),
    ],
)
def test_another_number_of_frames_than_of_groups_is_refused(
    folder: Path, image: Path, stack: Stack, count: int, message: str
) -> None:
    def recount(dataset: Any, _: int) -> None:
        dataset.NumberOfFrames = count

    path = write_seg(folder / "seg.dcm", image, of_slices(labels_of() // 2), edit=recount)
    with pytest.raises((HeaderError, AnnotationError), match=message):
        dicomdl.read_labels(stack, path)


def test_frames_beyond_the_view_are_left_out_and_never_all_of_them(
    folder: Path, image: Path, stack: Stack
) -> None:
    mask = (labels_of() > 1).astype(np.uint8)
    beyond = [(1, position(30), mask[0]), (1, position(2, x=500), mask[1])]
    path = write_seg(folder / "seg.dcm", image, of_slices(mask) + beyond)
    assert np.array_equal(dicomdl.read_labels(stack, path).array, mask)
    for number, where in enumerate(("on a slice", "within the rows")):
        path = write_seg(folder / f"beyond {number}.dcm", image, [beyond[number]])
        with pytest.raises(AnnotationError, match=f"none of 1 frames of the SEG lies {where}"):
            dicomdl.read_labels(stack, path)


def test_frames_of_one_plane_at_several_places_are_not_sampled(
    folder: Path, image: Path, stack: Stack
) -> None:
    mask = np.ones((3, 3), np.uint8)
    frames = [(1, position(1), mask), (1, position(1, x=4), mask)]
    path = write_seg(folder / "seg.dcm", image, frames, pixel_spacing=(2.0, 2.0))
    with pytest.raises(AnnotationError, match="lie up to 2 pixels apart"):
        dicomdl.read_labels(stack, path)


def test_a_palette_and_padding_leave_the_numbers_of_a_label_map(
    folder: Path, image: Path, stack: Stack
) -> None:
    values = np.array([1, 5, 9], np.uint8)[labels_of() % 3]

    def colour(dataset: Any, _: int) -> None:
        dataset.PixelPaddingValue = 5
        dataset.PhotometricInterpretation = "PALETTE COLOR"
        for name in ("Red", "Green", "Blue"):
            setattr(dataset, f"{name}PaletteColorLookupTableDescriptor", [16, 0, 8])
            setattr(dataset, f"{name}PaletteColorLookupTableData", bytes(range(16)))

    names = {0: "Background", 1: "Liver", 9: "Spleen"}
    frames = [(0, position(z), values[z]) for z in range(SHAPE[0])]
    path = write_seg(
        folder / "seg.dcm", image, frames, kind="LABELMAP", segments=names, edit=colour
    )
    found = dicomdl.read_labels(stack, path)
    assert np.array_equal(found.array, np.where(values == 5, 0, values))
    assert found.names == {1: "Liver", 9: "Spleen"}


@pytest.mark.parametrize(
    ("padding", "names", "found"),
    [
        # A padding value that is described is a segment of nothing; highdicom describes 0 so.
        (5, {1: "Liver", 5: "Rest"}, {1: "Liver"}),
        (0, {0: "Rest", 1: "Liver", 5: "Spleen"}, {1: "Liver", 5: "Spleen"}),
        (None, {0: "Background", 1: "Liver", 5: "Spleen"}, {1: "Liver", 5: "Spleen"}),
    ],
)
def test_the_segment_of_the_padding_value_is_the_background_of_a_label_map(
    folder: Path,
    image: Path,
    stack: Stack,
    padding: int | None,
    names: dict[int, str],
    found: dict[int, str],
) -> None:
    values = np.array([0, 1, 5], np.uint8)[labels_of() % 3]

    def pad(dataset: Any, _: int) -> None:
        if padding is not None:
            dataset.PixelPaddingValue = padding

    frames = [(0, position(z), values[z]) for z in range(SHAPE[0])]
    path = write_seg(folder / "seg.dcm", image, frames, kind="LABELMAP", segments=names, edit=pad)
    labels = dicomdl.read_labels(stack, path)
    assert labels.names == found
    assert np.array_equal(labels.array, np.where(np.isin(values, list(found)), values, 0))
    every = dicomdl.read_labels(stack, path, segments=[".*"])
    assert list(every.names.values()) == list(found.values())
    named = dicomdl.read_labels(stack, path, segments=list(names.values()))
    assert list(named.names.values()) == list(names.values())


@pytest.mark.parametrize("kind", ["BINARY", "LABELMAP"])
def test_a_segment_with_the_number_0_is_refused_and_never_lost(
    folder: Path, image: Path, stack: Stack, kind: str
) -> None:
    values = labels_of() % 2

    def pad(dataset: Any, _: int) -> None:
        dataset.PixelPaddingValue = 255

    frames: Any = [(0, position(z), values[z].astype(np.uint8)) for z in range(SHAPE[0])]
    if kind == "BINARY":
        frames = [
            (number, position(z), (values[z] == number).astype(np.uint8))
            for z in range(SHAPE[0])
            for number in (0, 1)
        ]
    names = {0: "Liver", 1: "Spleen"}
    path = write_seg(folder / "seg.dcm", image, frames, kind=kind, segments=names, edit=pad)
    with pytest.raises(AnnotationError, match="'Liver' has the number 0"):
        dicomdl.read_labels(stack, path)
    labels = dicomdl.read_labels(stack, path, segments=[".*"])
    assert labels.names == {1: "Liver", 2: "Spleen"}
    assert np.array_equal(labels.array, values + 1)


@pytest.mark.parametrize("syntax", [DeflatedExplicitVRLittleEndian, RLELossless])
def test_compressed_objects_give_the_same_labels(
    folder: Path, image: Path, stack: Stack, syntax: Any
) -> None:
    values = labels_of()

    def compress(dataset: Any, _: int) -> None:
        if syntax == RLELossless:
            dataset.compress(syntax, generate_instance_uid=False, encoding_plugin="pydicom")
        dataset.file_meta.TransferSyntaxUID = syntax

    names = {1: "A", 2: "B", 3: "C"}
    frames = [(0, position(z), values[z]) for z in range(SHAPE[0])]
    path = write_seg(
        folder / "seg.dcm", image, frames, kind="LABELMAP", segments=names, edit=compress
    )
    assert np.array_equal(dicomdl.read_labels(stack, path).array, values)


def test_bit_masks_under_the_name_of_fractions_are_refused(
    folder: Path, image: Path, stack: Stack
) -> None:
    def add_legend(dataset: Any, _: int) -> None:
        block = dataset.private_block(0x0117, "RAMP BITS", create=True)
        block.add_new(0xD3, "LO", "0x01 threshold")

    frames = of_slices(labels_of() * 16)
    path = write_seg(folder / "seg.dcm", image, frames, kind="FRACTIONAL", edit=add_legend)
    with pytest.raises(AnnotationError, match="calls bit masks fractions"):
        dicomdl.read_labels(stack, path, threshold=0.5)


@pytest.mark.corpus
@pytest.mark.parametrize("name", ["noppv", "ppv5"])
def test_a_real_label_map_with_absent_slices_has_the_voxels_of_its_nrrd(
    corpus: Path, folder: Path, name: str
) -> None:
    files = corpus / "QIICR+dcmqi/data/segmentations"
    truth = dicomdl.Volume.load(files / f"sparse_labelmap_{name}_seg.nrrd")
    index = dicomdl.scan(files / "24x38x3/image", folder / "index", progress=False)
    found = dicomdl.read_labels(index.stacks[0], files / f"sparse-labelmap-{name}.dcm")
    # 5 is the padding of the slice that the file lacks.
    assert np.array_equal(found.array, np.where(truth.array == 5, 0, truth.array))
    assert found.array.any()


def test_a_label_map_is_read_in_slabs_and_counts_overlaps_in_each(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = write_series(folder / "ct", shape=(5, 12, 14))[0]
    masks = np.random.default_rng(4).random((2, 5, 12, 14)) < 0.4
    frames = [
        (k + 1, (0, 0, 2.0 * z), masks[k, z].astype(np.uint8)) for k in range(2) for z in range(5)
    ]
    path = write_seg(folder / "seg.dcm", image, frames)
    stack = index_of(folder / "ct").stacks[0]
    reader = dicomdl.LabelSource(str(path)).reader(stack)
    asked: list[tuple[int, int]] = []
    pieces = type(reader).pieces

    def noted(self: Any, start: Any, stop: Any, *more: Any, **options: Any) -> Any:
        asked.append((start[0], stop[0]))
        return pieces(self, start, stop, *more, **options)

    monkeypatch.setattr(type(reader), "pieces", noted)
    monkeypatch.setattr(places, "SLAB_BYTES", 2 * 12 * 14)
    labels, overlap = label_block(reader, (0, 0, 0), (5, 12, 14), np.uint8)
    assert asked == [(0, 2), (2, 4), (4, 5)]
    assert np.array_equal(labels, np.where(masks[1], 2, masks[0]))
    assert overlap == (masks[0] & masks[1]).sum()


@pytest.mark.parametrize("order", [(0, 1, 2, 3, 4), (4, 3, 2, 1, 0), (1, 2, 4, 3, 0), (0, 2, 4)])
@pytest.mark.parametrize("most", [1, 250, 1 << 20])
def test_label_maps_of_any_order_of_frames_and_size_of_batches_are_read(
    folder: Path,
    image: Path,
    stack: Stack,
    order: tuple[int, ...],
    most: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_row_batches, "_MOST_AT_ONCE", most)
    values = labels_of()
    frames = [(0, position(z), values[z]) for z in order]
    path = write_seg(
        folder / "seg.dcm", image, frames, kind="LABELMAP", segments={1: "A", 2: "B", 3: "C"}
    )
    expected = np.zeros(SHAPE, np.uint8)
    expected[list(order)] = values[list(order)]
    found, overlap = label_block(reader_of(stack, path), (0, 0, 0), SHAPE, np.uint8)
    assert np.array_equal(found, expected) and overlap == 0
    part, _ = label_block(reader_of(stack, path), (1, 2, 3), (4, 8, 10), np.int16)
    assert np.array_equal(part, expected[1:4, 2:8, 3:10])


def test_of_two_label_maps_of_one_slice_the_later_counts_where_it_has_labels(
    folder: Path, image: Path, stack: Stack
) -> None:
    values, others = labels_of(), labels_of(1)
    frames = [(0, position(z), values[z]) for z in range(SHAPE[0])]
    frames += [(0, position(z), others[z]) for z in (3, 2, 1)]
    path = write_seg(
        folder / "seg.dcm", image, frames, kind="LABELMAP", segments={1: "A", 2: "B", 3: "C"}
    )
    later = np.zeros_like(others)
    later[1:4] = others[1:4]
    found, overlap = label_block(reader_of(stack, path), (0, 0, 0), SHAPE, np.uint8)
    assert np.array_equal(found, np.where(later, later, values))
    assert overlap == ((later != 0) & (values != 0) & (later != values)).sum()


@pytest.mark.parametrize("most", [1, 40, 1 << 20])
def test_bits_are_read_in_batches_of_any_size(
    folder: Path, image: Path, stack: Stack, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_row_batches, "_MOST_AT_ONCE", most)
    masks = np.random.default_rng(2).random((3, *SHAPE)) < 0.3
    frames = [
        (k + 1, position(z), masks[k, z].astype(np.uint8)) for z in (3, 0, 4) for k in range(3)
    ]
    reader = reader_of(stack, write_seg(folder / "seg.dcm", image, frames))
    masks[:, [1, 2]] = False
    channels = channel_block(reader, (0, 1, 2), (5, 9, 10))
    assert np.array_equal(channels, masks[:, :, 1:9, 2:10])
    second = channel_block(reader, (0, 1, 2), (5, 9, 10), ["Part 2", "absent"])
    assert np.array_equal(second, [masks[1, :, 1:9, 2:10], np.zeros((5, 8, 8))])
    labels, overlap = label_block(reader, (0, 0, 0), SHAPE, np.int32)
    assert np.array_equal(labels, (masks * np.array([1, 2, 3])[:, None, None, None]).max(axis=0))
    assert overlap == (masks.sum(axis=0) > 1).sum()


@pytest.mark.parametrize("kind", ["BINARY", "LABELMAP"])
def test_a_frame_beyond_the_end_of_the_file_is_named(
    folder: Path, image: Path, stack: Stack, kind: str
) -> None:
    is_map = kind == "LABELMAP"
    frames = [(0 if is_map else 1, position(z), labels_of()[z] & 1) for z in range(SHAPE[0])]
    path = write_seg(folder / "seg.dcm", image, frames, kind=kind, segments={1: "A"})
    facts, read = read_annotation(source_of(path)), SegFrames.of_file(str(path))
    assert read.first_bits is not None
    read.first_bits[3] += 8 * path.stat().st_size
    seg = SegObject(facts, read, functools.partial(referred_by_file, stack, facts))
    reader = SegReader(stack, seg, chosen(facts.segments, None, "segments"))
    assert label_block(reader, (0, 0, 0), (3, *SHAPE[1:]), np.uint8)[0].any()
    with pytest.raises(TruncatedPixels, match="found 0") as caught:
        label_block(reader, (0, 0, 0), SHAPE, np.uint8)
    assert caught.value.__notes__ == [f"file: {path}, frame 4"]


@pytest.mark.parametrize("kind", ["BINARY", "LABELMAP", "FRACTIONAL"])
def test_segments_in_several_files_are_those_of_one(folder: Path, image: Path, kind: str) -> None:
    labels = labels_of()
    if kind == "LABELMAP":
        frames = [(0, position(z), labels[z]) for z in range(SHAPE[0])]
    else:
        scale = 200 if kind == "FRACTIONAL" else 1
        frames = [
            (number, position(z), (labels[z] == number).astype(np.uint8) * scale)
            for number in (1, 2, 3)
            for z in range(SHAPE[0])
        ]
    names = {1: "a", 2: "b", 3: "c"}
    path = write_seg(folder / "seg.dcm", image, frames, kind=kind, segments=names)
    count = len(frames)
    parts = divide(path, (2, count - 3, 1))
    index = dicomdl.scan([image.parent, folder], folder.parent / "index", progress=False)
    stack = index.select(modality="CT").stacks[0]
    threshold = 0.5 if kind == "FRACTIONAL" else None
    reader = dicomdl.LabelSource("SEG", threshold=threshold).reader(stack)
    assert np.array_equal(label_block(reader, (0, 0, 0), SHAPE, np.uint8)[0], labels)
    box = (1, 2, 3), (4, 9, 10)
    assert np.array_equal(label_block(reader, *box, np.uint8)[0], labels[1:4, 2:9, 3:10])
    with pytest.raises(AnnotationError, match="one part of a concatenation"):
        SegFrames.of_file(str(parts[1]))


def test_a_segmentation_that_lacks_files_is_read_on_purpose_only(folder: Path, image: Path) -> None:
    labels = labels_of()
    frames = [(0, position(z), labels[z]) for z in range(SHAPE[0])]
    path = write_seg(
        folder / "seg.dcm", image, frames, kind="LABELMAP", segments={1: "a", 2: "b", 3: "c"}
    )
    *_, last = divide(path, (2, 2, 1))
    last.unlink()
    index = dicomdl.scan([image.parent, folder], folder.parent / "index", progress=False)
    stack = index.select(modality="CT").stacks[0]
    with pytest.raises(AnnotationError, match=r"no readable SEG \(found: incomplete\)"):
        dicomdl.LabelSource("SEG").reader(stack)
    reader = dicomdl.LabelSource("SEG").of_annotation(stack, stack.annotations[0])
    labels[-1] = 0
    assert np.array_equal(label_block(reader, (0, 0, 0), SHAPE, np.uint8)[0], labels)
