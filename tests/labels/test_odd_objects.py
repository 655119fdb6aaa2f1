"""Objects that are odd or contradict their images, as those of public collections.

Each has a status, a remark or an error with numbers, and is never an empty mask in silence.
"""

import copy
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import index_of
from numpy.typing import NDArray
from phantoms import item, write_series
from phantoms_labels import contour, write_seg, write_structure_set
from pydicom import dcmread

import dicomdl
from dicomdl.errors import AnnotationError, UsageError
from dicomdl.index.annotations import Annotation
from dicomdl.index.views import Stack
from dicomdl.labels.read import RemarkWarning

SHAPE = (5, 9, 11)


def mask_of(seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 2, SHAPE, np.uint8)


def frames_of(values: NDArray[Any], x: float = 0, z: float = 0) -> list[Any]:
    return [(1, (x, 0, 2.0 * n + z), each) for n, each in enumerate(values)]


@pytest.fixture
def image(folder: Path) -> Path:
    return write_series(folder / "ct", shape=SHAPE)[0]


def only(folder: Path) -> tuple[Stack, Annotation]:
    """The image, and the only annotation of a folder."""
    index = index_of(folder)
    (stack,) = (each for each in index.stacks if each.content == "image")
    (annotation,) = index.annotations
    return stack, annotation


def share_segment(dataset: Any, _: int) -> None:
    """NSCLC Radiogenomics: the segment in shared groups only, instances named twice."""
    groups = dataset.PerFrameFunctionalGroupsSequence
    shared = dataset.SharedFunctionalGroupsSequence[0]
    shared.SegmentIdentificationSequence = groups[0].SegmentIdentificationSequence
    for group in groups:
        del group.SegmentIdentificationSequence
    (series,) = dataset.ReferencedSeriesSequence
    series.ReferencedInstanceSequence.append(series.ReferencedInstanceSequence[0])


def share_one_of_two(dataset: Any, number: int) -> None:
    share_segment(dataset, number)
    second = copy.deepcopy(dataset.SegmentSequence[0])
    second.SegmentNumber = 2
    dataset.SegmentSequence.append(second)


def test_the_only_segment_may_be_named_in_the_shared_groups(folder: Path, image: Path) -> None:
    write_seg(folder / "seg.dcm", image, frames_of(mask_of()), edit=share_segment)
    stack, annotation = only(folder)
    assert annotation.remarks == ("instances are named again by 1 of its references",)
    with pytest.warns(RemarkWarning, match="named again by 1 of its references$"):
        assert np.array_equal(dicomdl.read_labels(stack, "SEG").array, mask_of())


def test_shared_segments_and_instances_named_twice_are_read_with_remarks(
    folder: Path, image: Path
) -> None:
    path = write_seg(folder / "seg.dcm", image, frames_of(mask_of()), edit=share_one_of_two)
    stack, annotation = only(folder)
    assert annotation.status == "ok" and annotation.referenced == 1
    assert annotation.remarks == (
        "instances are named again by 1 of its references",
        "one of 2 segments for all frames, in the Shared Functional Groups (5200,9229)",
    )
    assert "2 remarks" in repr(annotation)
    with pytest.warns(
        RemarkWarning, match="named again by 1 of its references; one of 2 segments for all"
    ):
        labels = dicomdl.read_labels(stack, "SEG")
    assert np.array_equal(labels.array, mask_of())
    with pytest.warns(RemarkWarning, match="named again"):
        assert np.array_equal(dicomdl.read_labels(stack, path).array, mask_of())


def test_frames_beyond_the_field_of_view_are_counted(folder: Path, image: Path) -> None:
    """LIDC-IDRI: cases 262, 291, 311, ... have frames beyond the CT."""
    frames = frames_of(mask_of()) + frames_of(mask_of()[:2], z=40) + frames_of(mask_of()[:1], x=99)
    write_seg(folder / "seg.dcm", image, frames)
    stack, _ = only(folder)
    with pytest.warns(RemarkWarning, match="3 of 8 frames lie beyond the stack"):
        labels = dicomdl.read_labels(stack, "SEG")
    assert np.array_equal(labels.array, mask_of())


def test_segments_without_frames_and_regions_without_contours_are_counted(
    folder: Path, image: Path
) -> None:
    seg = write_seg(
        folder / "seg.dcm", image, frames_of(mask_of()), segments={1: "A", 2: "B", 3: "C"}
    )
    stack = index_of(folder / "ct").stacks[0]
    with pytest.warns(RemarkWarning, match="2 of 3 labels have no frame on the stack"):
        dicomdl.read_labels(stack, seg)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        dicomdl.read_labels(stack, seg, segments=["A"])
    square = np.array([(2.5, 1.5, 4), (7.5, 1.5, 4), (7.5, 6.5, 4), (2.5, 6.5, 4)])
    rois = {
        "Drawn": [
            contour(square),
            contour(square + np.array([0, 0, 60])),
            contour(square[:1], "POINT"),
        ],
        "Empty": [],
    }
    structures = write_structure_set(folder / "rt.dcm", image, rois)
    words = (
        "1 of 3 contours lie beyond the slices of the stack; "
        "1 of 3 contours are points or open, and enclose no area; "
        "1 of 2 labels have no contour in the stack"
    )
    with pytest.warns(RemarkWarning, match=words):
        labels = dicomdl.read_labels(stack, structures)
    assert labels.array.sum() == 25


@pytest.mark.parametrize(
    ("count", "message"),
    [
        (3, r"NumberOfFrames \(0028,0008\) is 3, but the Per-frame .* have 5 items"),
        (7, "the scan could not read the frames of the SEG"),
    ],
)
def test_another_number_of_frames_than_of_groups_is_no_empty_mask(
    folder: Path, image: Path, count: int, message: str
) -> None:
    def recount(dataset: Any, _: int) -> None:
        dataset.NumberOfFrames = count
        dataset.PixelData += bytes(100)

    write_seg(folder / "seg.dcm", image, frames_of(mask_of()), edit=recount)
    index = index_of(folder)
    (stack,) = (each for each in index.stacks if each.content == "image")
    if not index.annotations:
        (problem,) = index.problems
        assert "NumberOfFrames is 7, but there are functional groups for 5" in problem.detail
        with pytest.raises(AnnotationError, match="no readable SEG"):
            dicomdl.read_labels(stack, "SEG")
        return
    with pytest.raises(AnnotationError, match=message):
        dicomdl.read_labels(stack, index.annotations[0])


def test_an_object_of_two_stacks_is_read_on_both_with_a_remark(folder: Path) -> None:
    images = [write_series(folder / name, shape=SHAPE, seed=n)[0] for n, name in enumerate("ab")]

    def name_both(dataset: Any, _: int) -> None:
        for image in images[1:]:
            source = dcmread(image, stop_before_pixels=True)
            instances = item(ReferencedSOPInstanceUID=source.SOPInstanceUID)
            dataset.ReferencedSeriesSequence += item(
                SeriesInstanceUID=source.SeriesInstanceUID, ReferencedInstanceSequence=instances
            )

    write_seg(folder / "seg.dcm", images[0], frames_of(mask_of()), edit=name_both)
    index = index_of(folder)
    (annotation,) = index.annotations
    stacks = [each for each in index.stacks if each.content == "image"]
    assert annotation.remarks == ("it describes 2 stacks",) and annotation.referenced == 2
    for stack in stacks:
        with pytest.warns(RemarkWarning, match="it describes 2 stacks"):
            assert np.array_equal(dicomdl.read_labels(stack, "SEG").array, mask_of())


def refer_to_nothing(dataset: Any, _: int) -> None:
    del dataset.ReferencedSeriesSequence


def to_elsewhere(dataset: Any, _: int) -> None:
    dataset.FrameOfReferenceUID = "1.2.3.4"


def to_nowhere(dataset: Any, number: int) -> None:
    refer_to_nothing(dataset, number)
    del dataset.FrameOfReferenceUID


def of_another(dataset: Any, _: int) -> None:
    dataset.PatientID = "OTHER"


def of_another_by_space(dataset: Any, number: int) -> None:
    of_another(dataset, number)
    refer_to_nothing(dataset, number)


@pytest.mark.parametrize(
    ("edit", "status", "by_name"),
    [
        (refer_to_nothing, "ok", "read"),
        (to_elsewhere, "other_frame_of_reference", "another frame of reference"),
        (to_nowhere, "no_reference", "read"),
        (of_another, "other_patient", "read"),
        (of_another_by_space, "other_patient", "read"),
    ],
)
def test_objects_that_contradict_their_images_have_a_status(
    folder: Path, image: Path, edit: Any, status: str, by_name: str
) -> None:
    path = write_seg(folder / "seg.dcm", image, frames_of(mask_of()), edit=edit)
    stack, annotation = only(folder)
    assert annotation.status == status
    if status != "ok":
        with pytest.raises(AnnotationError, match="no readable SEG"):
            dicomdl.read_labels(stack, "SEG")
    for source in (annotation, path):
        if by_name != "read":
            with pytest.raises(AnnotationError, match=by_name):
                dicomdl.read_labels(stack, source)
        elif status == "other_patient":
            with pytest.warns(RemarkWarning, match="another one than that of the image") as told:
                assert np.array_equal(dicomdl.read_labels(stack, source).array, mask_of())
            assert "OTHER" not in str(told[0].message)
        else:
            assert np.array_equal(dicomdl.read_labels(stack, source).array, mask_of())


def test_fractions_are_read_as_such(folder: Path, image: Path) -> None:
    values = np.random.default_rng(0).integers(0, 201, (2, *SHAPE), np.uint8)
    frames = [
        (number, position, each)
        for number in (1, 2)
        for _, position, each in frames_of(values[number - 1])
    ]
    path = write_seg(folder / "seg.dcm", image, frames, kind="FRACTIONAL")
    stack = index_of(folder / "ct").stacks[0]
    found = dicomdl.read_labels(stack, path, values="fractions", channels=True)
    assert found.dtype == np.float32 and found.dimension == ("Part 1", "Part 2")
    assert np.allclose(found.array, values / 200)
    one = dicomdl.read_labels(stack, path, values="fractions", segments=[2])
    assert np.allclose(one.array, values[1] / 200)
    with pytest.raises(UsageError, match="values='fractions' of 2 segments: channels=True"):
        dicomdl.read_labels(stack, path, values="fractions")
    with pytest.raises(UsageError, match="threshold= makes labels"):
        dicomdl.read_labels(stack, path, values="fractions", threshold=0.5)
    with pytest.raises(UsageError, match="values='probability': expected"):
        dicomdl.read_labels(stack, path, values="probability")  # type: ignore[arg-type]
    coarse = write_seg(
        folder / "coarse.dcm", image, frames[:5], kind="FRACTIONAL", pixel_spacing=(2, 2)
    )
    found = dicomdl.read_labels(stack, coarse, values="fractions")
    assert np.allclose(found.array[:, ::2, ::2], values[0, :, :5, :6] / 200)


def test_fractions_above_their_maximum_are_an_error_with_numbers(folder: Path, image: Path) -> None:
    values = np.full(SHAPE, 201, np.uint8)
    path = write_seg(folder / "seg.dcm", image, frames_of(values), kind="FRACTIONAL")
    stack = index_of(folder / "ct").stacks[0]
    for options in ({"threshold": 0.5}, {"values": "fractions"}):
        with pytest.raises(AnnotationError, match="a fraction of 201 in 200ths") as failure:
            dicomdl.read_labels(stack, path, **options)
        assert (failure.value.found, failure.value.expected) == (201, 200)


def test_bit_masks_under_the_name_of_fractions_are_read_as_bits(folder: Path, image: Path) -> None:
    """ISPY2 and ACRIN-6698."""

    def add_legend(dataset: Any, _: int) -> None:
        dataset.private_block(0x0117, "RAMP BITS", create=True).add_new(0xD3, "LO", "0x01 PE")

    values = np.random.default_rng(0).integers(0, 256, SHAPE, np.uint8)
    path = write_seg(
        folder / "seg.dcm", image, frames_of(values), kind="FRACTIONAL", edit=add_legend
    )
    stack = index_of(folder / "ct").stacks[0]
    for options in ({"threshold": 0.5}, {"values": "fractions"}):
        with pytest.raises(AnnotationError, match="values='bits' reads them"):
            dicomdl.read_labels(stack, path, **options)
    bits = dicomdl.read_labels(stack, path, values="bits")
    assert bits.dtype == np.uint8 and bits.names[32] == "bit 5"
    assert np.array_equal(bits.array, values)
    channels = dicomdl.read_labels(stack, path, values="bits", channels=True)
    assert channels.dimension[5] == "bit 5"
    assert np.array_equal(channels.array, [(values >> n) & 1 for n in range(8)])
    pytest.importorskip("torch")
    source = dicomdl.LabelSource(str(path), values="bits", channels=True)
    index = dicomdl.open_index(stack.key[0]).select(content="image")
    (sample,) = dicomdl.VolumeDataset(index, labels=source)
    assert np.array_equal(sample["label"], channels.array)
    binary = write_seg(folder / "binary.dcm", image, frames_of(values % 2))
    with pytest.raises(UsageError, match="for a FRACTIONAL SEG: this one is BINARY"):
        dicomdl.read_labels(stack, binary, values="bits")


def test_segments_of_a_file_of_masks_are_chosen_by_number(folder: Path, image: Path) -> None:
    stack = index_of(folder / "ct").stacks[0]
    values = np.random.default_rng(0).integers(0, 4, SHAPE, np.uint8)
    dicomdl.Volume(values, stack.geometry).save(folder / "mask.nii.gz")
    found = dicomdl.read_labels(stack, folder / "mask.nii.gz", segments={"a": 3, "b": [1, 2]})
    assert found.names == {1: "a", 2: "b"}
    assert np.array_equal(found.array, np.array([0, 2, 2, 1])[values])
    dicomdl.Volume(values.astype(np.int16) - 1, stack.geometry).save(folder / "negative.nii.gz")
    found = dicomdl.read_labels(stack, folder / "negative.nii.gz")
    assert np.array_equal(found.array, values.astype(int) - 1)
    with pytest.raises(AnnotationError, match="nothing is named 9 among 3"):
        dicomdl.read_labels(stack, folder / "mask.nii.gz", segments=[9])
    with pytest.raises(UsageError, match="have no effect on a mask"):
        dicomdl.read_labels(stack, folder / "mask.nii.gz", rois=["a"])
