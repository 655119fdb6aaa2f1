"""Structure sets and annotations: regions, contours, segments and what they refer to."""

from pathlib import Path

import numpy as np
import pytest
from phantoms import NATIVE_SYNTAXES, item, write_series
from phantoms_labels import contour, write_seg, write_structure_set
from pydicom.dataset import Dataset

from dicomdl.errors import HeaderError
from dicomdl.headers._heads import EXPLICIT
from dicomdl.headers.annotation import read_annotation
from dicomdl.headers.data_set import Value, source_of
from dicomdl.headers.frame_references import FrameReference, references_in
from dicomdl.headers.structure_set import Contours, numbers_of, read_structure_set

SQUARE = [(1.25, 2, 0), (4, 2, 0), (4, -5.125, 0), (1.25, -5.125, 0)]


@pytest.fixture
def image(folder: Path) -> Path:
    return write_series(folder / "ct", shape=(2, 5, 7))[0]


def contours_of(folder: Path, image: Path, *contours: Dataset) -> Contours:
    path = write_structure_set(folder / "rt.dcm", image, {"Heart": contours})
    return read_structure_set(source_of(path)).rois[0].contours


@pytest.mark.parametrize("syntax", NATIVE_SYNTAXES)
def test_regions_have_their_names_types_and_points_in_every_native_syntax(
    folder: Path, image: Path, syntax: str
) -> None:
    rois = {"Heart": [contour(SQUARE), contour(SQUARE[:1], "POINT")], "Lunge früh": []}

    def set_charset(dataset: Dataset, _: int) -> None:
        dataset.SpecificCharacterSet = "ISO_IR 100"

    path = write_structure_set(
        folder / "rt.dcm", image, rois, transfer_syntax=syntax, edit=set_charset
    )
    heart, lung = read_structure_set(source_of(path)).rois
    assert (heart.facts.number, heart.facts.label, heart.facts.algorithm) == (1, "Heart", "MANUAL")
    assert heart.contours.types == ("CLOSED_PLANAR", "POINT")
    assert np.array_equal(heart.contours.points, [*SQUARE, SQUARE[0]])
    assert heart.contours.starts.tolist() == [0, 4, 5]
    assert (lung.facts.label, len(lung.contours)) == ("Lunge früh", 0)
    annotation = read_annotation(source_of(path))
    assert annotation.kind == "RTSTRUCT"
    assert annotation.segments == (heart.facts, lung.facts)
    assert annotation.segments[0].type is not None
    assert annotation.segments[0].type.meaning == "ORGAN"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (["1", "2", "3", "4"], "has 4 values, which is no multiple of 3"),
        (["1", "nan", "3"], "of 3 values has one that is no finite number"),
        (["1", "", "3"], "of 3 values has one that is no finite number"),
        ([], "is empty"),
    ],
)
def test_a_contour_whose_data_are_no_points_is_unusable(
    folder: Path, image: Path, data: list[str], reason: str
) -> None:
    bad = contour(SQUARE)

    def spoil(dataset: Dataset, _: int) -> None:
        from pydicom.dataelem import RawDataElement
        from pydicom.tag import Tag

        raw = "\\".join(data).encode()
        raw += b" " * (len(raw) % 2)
        each = dataset.ROIContourSequence[0].ContourSequence[0]
        each[Tag(0x30060050)] = RawDataElement(Tag(0x30060050), "DS", len(raw), raw, 0, False, True)

    path = write_structure_set(folder / "rt.dcm", image, {"A": [bad, contour(SQUARE)]}, edit=spoil)
    contours = read_structure_set(source_of(path)).rois[0].contours
    ((number, found),) = contours.unusable
    assert number == 0
    assert reason in found
    assert contours.starts.tolist() == [0, 0, 4]


@pytest.mark.parametrize(
    ("thickness", "offset", "shift"),
    [
        (3, (0, 0, 1.5), (0, 0, 1.5)),
        (3, (0, 0, 0), (0, 0, 0)),
        (None, (0, 0, 1.5), (0, 0, 0)),  # without a slab, the offset is none
        (0, (0, 0, 1.5), (0, 0, 0)),
    ],
)
def test_a_contour_of_a_slab_lies_in_the_central_plane_of_the_slab(
    folder: Path, image: Path, thickness: float | None, offset: tuple[float, ...], shift: object
) -> None:
    slab = contour(SQUARE)
    slab.ContourOffsetVector = list(offset)
    if thickness is not None:
        slab.ContourSlabThickness = thickness
    found = contours_of(folder, image, contour(SQUARE[:3]), slab, contour(SQUARE[:1], "POINT"))
    assert np.array_equal(found.points[3:7], np.add(SQUARE, shift))
    assert np.array_equal(np.delete(found.points, range(3, 7), axis=0), [*SQUARE[:3], SQUARE[0]])


def test_numbers_are_those_that_python_reads() -> None:
    texts = ["-1.5", " 2 ", "+3e2", ".25", "1E-05", "-0", "123456.789012"]
    numbers = numbers_of("\\".join(texts).encode())
    assert numbers is not None
    assert numbers.tolist() == [float(text) for text in texts]
    assert numbers_of(b"1\\2x\\3") is None
    assert numbers_of(b"1\\inf") is None


def test_two_regions_with_one_number_are_refused(folder: Path, image: Path) -> None:
    def number_twice(dataset: Dataset, _: int) -> None:
        dataset.StructureSetROISequence[1].ROINumber = 1

    path = write_structure_set(folder / "rt.dcm", image, {"A": [], "B": []}, edit=number_twice)
    with pytest.raises(HeaderError, match="2 regions of interest have 1 distinct numbers"):
        read_structure_set(source_of(path))


def test_an_image_is_no_structure_set_and_no_annotation(image: Path) -> None:
    with pytest.raises(HeaderError, match="no RT structure set"):
        read_structure_set(source_of(image))
    with pytest.raises(HeaderError, match="describes no images"):
        read_annotation(source_of(image))


def test_a_file_that_is_cut_is_refused(folder: Path, image: Path) -> None:
    path = write_structure_set(folder / "rt.dcm", image, {"A": [contour(SQUARE)]})
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(HeaderError):
        read_structure_set(source_of(path))


def test_a_segmentation_states_its_segments_and_the_series_that_it_refers_to(
    folder: Path, image: Path
) -> None:
    mask = np.eye(5, 7, dtype=np.uint8)
    path = write_seg(folder / "seg.dcm", image, [(2, (0, 0, 0), mask)], segments={2: "Liver"})
    annotation = read_annotation(source_of(path))
    assert (annotation.kind, annotation.segmentation_type) == ("SEG", "BINARY")
    assert [(each.number, each.label) for each in annotation.segments] == [(2, "Liver")]
    (series,) = annotation.references
    assert len(series.sop_instance_uids) == 1


def test_contours_name_their_images_and_some_of_them_are_taken(folder: Path, image: Path) -> None:
    drawn = [contour(SQUARE), contour(SQUARE[:3]), contour(SQUARE[:1], "POINT"), contour([])]
    for each, numbers in zip(drawn[1:], (None, [2, 3]), strict=False):
        each.ContourImageSequence = item(ReferencedSOPInstanceUID="1.2.3")
        if numbers:
            each.ContourImageSequence[0].ReferencedFrameNumber = numbers
    contours = contours_of(folder, image, *drawn)
    one, some = FrameReference("1.2.3", ()), FrameReference("1.2.3", (2, 3))
    assert contours.images == ((), (one,), (some,), ())
    taken = contours.taken(np.array([1, 3]))
    assert np.array_equal(taken.points, SQUARE[:3])
    assert (taken.starts.tolist(), taken.types) == ([0, 3, 3], ("CLOSED_PLANAR", "CLOSED_PLANAR"))
    assert taken.images == ((one,), ())
    assert [number for number, _ in taken.unusable] == [1]
    assert len(contours.taken(np.zeros(0, np.int64))) == 0


def test_numbers_of_frames_that_are_none_are_left_out() -> None:
    raw = b"\\".join([b"2", b"x", b"9" * 5000, b" 3 "])
    tags = {0x00081155: (b"UI", b"1.2"), 0x00081160: (b"IS", raw)}
    content = b"".join(
        tag.to_bytes(4, "little")[2:]
        + tag.to_bytes(4, "little")[:2]
        + vr
        + len(value).to_bytes(2, "little")
        + value
        for tag, (vr, value) in tags.items()
    )
    whole = b"\xfe\xff\x00\xe0" + len(content).to_bytes(4, "little") + content
    (found,) = references_in(Value(whole, EXPLICIT, b""))
    assert found == FrameReference("1.2", (2, 3))
