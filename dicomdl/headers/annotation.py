"""What segmentations, structure sets, doses, reports and registrations say about images.

Only the elements before the pixel data are read, and the contours of a structure set are passed
over.
"""

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from dicomdl.errors import HeaderError
from dicomdl.headers._coding import first_element, syntax_of
from dicomdl.headers._elements import Wanted, walk, walk_meta
from dicomdl.headers._heads import Syntax
from dicomdl.headers._window import Window
from dicomdl.headers.columns import as_text
from dicomdl.headers.data_set import SPECIFIC_CHARACTER_SET, Item, Value
from dicomdl.headers.inflate import Inflated
from dicomdl.headers.uids import DEFLATED, STANDARD
from dicomdl.headers.web import opened
from dicomdl.storage.sources import Source

_FIRST_READ: Final = 1 << 16
_STORAGE: Final = STANDARD + "5.1.4.1.1."
# The kind of an annotation by its SOP class, or by the beginning of it.
KINDS: Final = {
    _STORAGE + "66.4": "SEG",
    _STORAGE + "66.7": "SEG",
    _STORAGE + "481.3": "RTSTRUCT",
    _STORAGE + "481.2": "RTDOSE",
    _STORAGE + "481.5": "RTPLAN",
    _STORAGE + "481.8": "RTPLAN",
    _STORAGE + "66.1": "REG",
    _STORAGE + "66.2": "FID",
    _STORAGE + "66.3": "REG",
    _STORAGE + "67": "RWV",
}
_REPORTS: Final = _STORAGE + "88."
ANNOTATION_KINDS: Final = (*dict.fromkeys(KINDS.values()), "SR")

_SOP_CLASS_UID: Final = 0x00080016
_SOP_INSTANCE_UID: Final = 0x00080018
_INSTANCE_CREATION: Final = (0x00080012, 0x00080013)
_CONTENT: Final = (0x00080023, 0x00080033)
_STRUCTURE_SET: Final = (0x30060008, 0x30060009)
_PATIENT_ID: Final = 0x00100020
_STUDY_INSTANCE_UID: Final = 0x0020000D
_SERIES_INSTANCE_UID: Final = 0x0020000E
_FRAME_OF_REFERENCE_UID: Final = 0x00200052
_CODE_VALUE: Final = 0x00080100
_CODING_SCHEME_DESIGNATOR: Final = 0x00080102
_CODE_MEANING: Final = 0x00080104
_LONG_CODE_VALUE: Final = 0x00080119
_REFERENCED_SERIES_SEQUENCE: Final = 0x00081115
_REFERENCED_IMAGE_SEQUENCE: Final = 0x00081140
_REFERENCED_INSTANCE_SEQUENCE: Final = 0x0008114A
_REFERENCED_SOP_INSTANCE_UID: Final = 0x00081155
_REFERENCED_SOP_SEQUENCE: Final = 0x00081199
_EVIDENCE_SEQUENCE: Final = 0x0040A375
_CONTENT_LABEL: Final = 0x00700080
_SEGMENTATION_TYPE: Final = 0x00620001
_SEGMENT_SEQUENCE: Final = 0x00620002
_SEGMENTED_PROPERTY_CATEGORY: Final = 0x00620003
_SEGMENT_NUMBER: Final = 0x00620004
_SEGMENT_LABEL: Final = 0x00620005
_SEGMENT_ALGORITHM_TYPE: Final = 0x00620008
_MAXIMUM_FRACTIONAL_VALUE: Final = 0x0062000E
_SEGMENTED_PROPERTY_TYPE: Final = 0x0062000F
_SEGMENTATION_FRACTIONAL_TYPE: Final = 0x00620010
_SEGMENT_IDENTIFICATION: Final = 0x0062000A
_SHARED_FUNCTIONAL_GROUPS: Final = 0x52009229
_PER_FRAME_FUNCTIONAL_GROUPS: Final = 0x52009230
_NUMBER_OF_FRAMES: Final = 0x00280008
_PIXEL_PADDING_VALUE: Final = 0x00280120
_DOSE_TYPE: Final = 0x30040004
_DOSE_SUMMATION_TYPE: Final = 0x3004000A
_STRUCTURE_SET_LABEL: Final = 0x30060002
_REFERENCED_FRAME_OF_REFERENCE_SEQUENCE: Final = 0x30060010
_RT_REFERENCED_STUDY_SEQUENCE: Final = 0x30060012
_RT_REFERENCED_SERIES_SEQUENCE: Final = 0x30060014
_CONTOUR_IMAGE_SEQUENCE: Final = 0x30060016
_STRUCTURE_SET_ROI_SEQUENCE: Final = 0x30060020
_ROI_NUMBER: Final = 0x30060022
_REFERENCED_FRAME_OF_REFERENCE_UID: Final = 0x30060024
_ROI_NAME: Final = 0x30060026
_ROI_GENERATION_ALGORITHM: Final = 0x30060036
_RT_ROI_OBSERVATIONS_SEQUENCE: Final = 0x30060080
_REFERENCED_ROI_NUMBER: Final = 0x30060084
_RT_ROI_INTERPRETED_TYPE: Final = 0x300600A4

_TAGS: Final = (
    SPECIFIC_CHARACTER_SET,
    _SOP_CLASS_UID,
    _SOP_INSTANCE_UID,
    *_INSTANCE_CREATION,
    *_CONTENT,
    *_STRUCTURE_SET,
    _PATIENT_ID,
    _STUDY_INSTANCE_UID,
    _SERIES_INSTANCE_UID,
    _FRAME_OF_REFERENCE_UID,
    _PIXEL_PADDING_VALUE,
    _REFERENCED_SERIES_SEQUENCE,
    _EVIDENCE_SEQUENCE,
    _CONTENT_LABEL,
    _SEGMENTATION_TYPE,
    _SEGMENT_SEQUENCE,
    _MAXIMUM_FRACTIONAL_VALUE,
    _SEGMENTATION_FRACTIONAL_TYPE,
    _DOSE_TYPE,
    _DOSE_SUMMATION_TYPE,
    _STRUCTURE_SET_LABEL,
    _REFERENCED_FRAME_OF_REFERENCE_SEQUENCE,
    _STRUCTURE_SET_ROI_SEQUENCE,
    _RT_ROI_OBSERVATIONS_SEQUENCE,
    _SHARED_FUNCTIONAL_GROUPS,
)
# "Background" of CID 7155, with which writers of label maps describe the value 0.
_BACKGROUND: Final = ("DCM", "125040")
# Types of a dose that is that of complete plans (PS3.3 C.8.8.3).
_WHOLE_DOSES: Final = ("", "PLAN", "MULTI_PLAN", "PLAN_OVERVIEW")
_COUNTS: Final = (SPECIFIC_CHARACTER_SET, _NUMBER_OF_FRAMES, _PER_FRAME_FUNCTIONAL_GROUPS)


@dataclass(frozen=True, slots=True)
class Code:
    """A coded concept (PS3.3 8.8): value, scheme ("SCT", "DCM", ...) and meaning."""

    value: str
    scheme: str
    meaning: str


@dataclass(frozen=True, slots=True)
class Segment:
    """A segment of a segmentation, or a region of interest of a structure set.

    Attributes
    ----------
    number
        Segment Number or ROI Number.
    label
        Segment Label or ROI Name.
    algorithm
        Segment Algorithm Type or ROI Generation Algorithm: "MANUAL", "AUTOMATIC", ...
    category, type
        Segmented Property Category and Type; None where absent. The type of a region of interest is
        its RT ROI Interpreted Type ("ORGAN", "GTV", ...), without a scheme.
    frame_of_reference_uid
        The frame of reference of a region of interest; "" for segments.
    is_background
        Whether it is the background of a label map: the segment of Pixel Padding Value, or number
        0 under this name (PS3.3 C.8.20.2.3).
    """

    number: int
    label: str
    algorithm: str = ""
    category: Code | None = None
    type: Code | None = None
    frame_of_reference_uid: str = ""
    is_background: bool = False


@dataclass(frozen=True, slots=True)
class ReferencedSeries:
    """A Series that an object refers to, and the instances of it that are named.

    `repeated` is the number of references to an instance that was named before.
    """

    series_instance_uid: str
    sop_instance_uids: tuple[str, ...]
    repeated: int = 0


@dataclass(frozen=True, slots=True)
class AnnotationFacts:
    """What an object says about itself and about images.

    Attributes
    ----------
    kind
        "SEG", "RTSTRUCT", "RTDOSE", "RTPLAN", "SR", "REG", "FID" or "RWV".
    patient_id, sop_instance_uid, study_instance_uid, series_instance_uid, frame_of_reference_uid
        Its PatientID and UIDs; "" where absent.
    created
        Date and time of its content, YYYYMMDDHHMMSS; "" where absent.
    label
        Content Label or Structure Set Label.
    segmentation_type
        "BINARY", "FRACTIONAL" or "LABELMAP"; "" for other kinds.
    fractional_type, maximum_fractional_value
        "PROBABILITY" or "OCCUPANCY", and the stored value of 1; "" and 0 for other kinds.
    segments
        Its segments or regions of interest.
    references
        The Series that it refers to.
    remarks
        What deviates from the standard or from custom, and is read all the same.
    """

    kind: str
    patient_id: str
    sop_instance_uid: str
    study_instance_uid: str
    series_instance_uid: str
    frame_of_reference_uid: str
    created: str
    label: str
    segmentation_type: str
    fractional_type: str
    maximum_fractional_value: int
    segments: tuple[Segment, ...]
    references: tuple[ReferencedSeries, ...]
    remarks: tuple[str, ...] = ()


def kind_of(sop_class_uid: str) -> str:
    """Return the kind of annotation of a SOP class; "" for images and other objects."""
    return KINDS.get(sop_class_uid) or ("SR" if sop_class_uid.startswith(_REPORTS) else "")


def no_facts(kind: str) -> AnnotationFacts:
    """Return the facts of an object that cannot be read."""
    return AnnotationFacts(kind, "", "", "", "", "", "", "", "", "", 0, (), ())


def read_annotation(source: Source) -> AnnotationFacts:
    """Read what an object says about images.

    Raises
    ------
    HeaderError
        The file is damaged, or its SOP class is none of `kind_of`.
    PixelError
        The file cannot be opened or read, or has changed since the scan.
    """
    data_set = head_of(source, _TAGS)
    sop_class = data_set[_SOP_CLASS_UID].text
    kind = kind_of(sop_class)
    if not kind:
        raise HeaderError(
            f"SOP class {sop_class or '(absent)'} describes no images", reason="other_sop_class"
        )
    label = data_set[_STRUCTURE_SET_LABEL].text or data_set[_CONTENT_LABEL].text
    references = tuple(_references(data_set))
    segments = tuple(_segments(data_set))
    return AnnotationFacts(
        kind,
        data_set[_PATIENT_ID].text,
        data_set[_SOP_INSTANCE_UID].text,
        data_set[_STUDY_INSTANCE_UID].text,
        data_set[_SERIES_INSTANCE_UID].text,
        data_set[_FRAME_OF_REFERENCE_UID].text,
        _created(data_set),
        label,
        data_set[_SEGMENTATION_TYPE].text.upper(),
        data_set[_SEGMENTATION_FRACTIONAL_TYPE].text.upper(),
        data_set[_MAXIMUM_FRACTIONAL_VALUE].binary or 0,
        (*segments, *regions_of(data_set)),
        references,
        tuple(_remarks(data_set, references, len(segments))),
    )


def frame_counts(source: Source) -> tuple[int, int]:
    """Return NumberOfFrames, and the number of items of the per-frame functional groups.

    Raises
    ------
    HeaderError, PixelError
        As for `read_annotation`.
    """
    data_set = head_of(source, _COUNTS)
    groups = sum(1 for _ in data_set[_PER_FRAME_FUNCTIONAL_GROUPS].items())
    return data_set[_NUMBER_OF_FRAMES].integer or 0, groups


class Head:
    """The wanted elements of a data set before its pixel data."""

    def __init__(self, values: dict[int, bytes], syntax: Syntax) -> None:
        self._values, self._syntax = values, syntax

    def __getitem__(self, tag: int) -> Value:
        return Value(self._values[tag], self._syntax, self._values[SPECIFIC_CHARACTER_SET])


def head_of(source: Source, tags: Sequence[int]) -> Head:
    """Read the elements with some tags, ascending, before the pixel data of a file.

    Raises
    ------
    HeaderError, PixelError
        As for `read_annotation`.
    """
    with opened(source) as handle:
        size = handle.size
        return _walked(
            Window(handle.read_at, size, handle.read_at(0, min(size, _FIRST_READ))), tags
        )


def _walked(window: Window, tags: Sequence[int]) -> Head:
    start = first_element(window.buffer)
    if start is None:
        raise HeaderError("this is not a DICOM file", reason="not_dicom")
    raw_syntax, position = walk_meta(window, start, None, -1)
    name = as_text(raw_syntax)
    if name == DEFLATED:
        window, position = Inflated(window.read, window.size, position).window(), 0
    syntax, _ = syntax_of(window, position, name)
    walked = walk(window, position, syntax, _wanted(tuple(tags)))
    return Head(dict(zip(tags, walked.values, strict=True)), syntax)


# Small: three sets of tags.
@functools.lru_cache(maxsize=4)
def _wanted(tags: tuple[int, ...]) -> Wanted:
    return Wanted([(tag, "") for tag in tags])


def _remarks(
    data_set: Head, references: Sequence[ReferencedSeries], segments: int
) -> Iterator[str]:
    """Yield what deviates from the standard or from custom.

    The only segment of an object is usually named once, for all frames.
    """
    repeated = sum(series.repeated for series in references)
    if repeated:
        yield f"instances are named again by {repeated} of its references"
    summed = data_set[_DOSE_SUMMATION_TYPE].text.upper()
    if summed not in _WHOLE_DOSES:
        yield f"its doses are a part of a plan: Dose Summation Type (3004,000A) is {summed}"
    if data_set[_DOSE_TYPE].text.upper() == "ERROR":
        yield "its values are differences of doses: Dose Type (3004,0004) is ERROR"
    for group in data_set[_SHARED_FUNCTIONAL_GROUPS].items():
        if segments > 1 and _SEGMENT_IDENTIFICATION in group:
            yield (
                f"one of {segments} segments for all frames, in the Shared Functional Groups "
                "(5200,9229)"
            )


def _created(data_set: Head) -> str:
    """Return date and time of the content, else those of the object; "" without a date."""
    for date, time in (_STRUCTURE_SET, _CONTENT, _INSTANCE_CREATION):
        if data_set[date].text:
            return data_set[date].text + data_set[time].text[:6]
    return ""


def _segments(data_set: Head) -> Iterator[Segment]:
    """Yield the segments of a segmentation (PS3.3 C.8.20.4)."""
    is_map = data_set[_SEGMENTATION_TYPE].text.upper() == "LABELMAP"
    padding = data_set[_PIXEL_PADDING_VALUE].binary
    for item in data_set[_SEGMENT_SEQUENCE].items():
        number = item[_SEGMENT_NUMBER].binary
        if number is None:
            continue
        label, kind = item[_SEGMENT_LABEL].text, _code(item[_SEGMENTED_PROPERTY_TYPE])
        is_named = label.lower() == "background" or (
            kind is not None and (kind.scheme, kind.value) == _BACKGROUND
        )
        yield Segment(
            number,
            label,
            item[_SEGMENT_ALGORITHM_TYPE].text,
            _code(item[_SEGMENTED_PROPERTY_CATEGORY]),
            kind,
            is_background=is_map and (number == padding or (not number and is_named)),
        )


def _code(sequence: Value) -> Code | None:
    for item in sequence.items():
        value = item[_CODE_VALUE].text or item[_LONG_CODE_VALUE].text
        return Code(value, item[_CODING_SCHEME_DESIGNATOR].text, item[_CODE_MEANING].text)
    return None


def regions_of(data_set: Head | Item) -> Iterator[Segment]:
    """Yield the regions of interest of a structure set (PS3.3 C.8.8.5, C.8.8.8)."""
    types = {
        item[_REFERENCED_ROI_NUMBER].integer: item[_RT_ROI_INTERPRETED_TYPE].text
        for item in data_set[_RT_ROI_OBSERVATIONS_SEQUENCE].items()
    }
    for item in data_set[_STRUCTURE_SET_ROI_SEQUENCE].items():
        number = item[_ROI_NUMBER].integer
        if number is not None:
            kind = types.get(number, "")
            yield Segment(
                number,
                item[_ROI_NAME].text,
                item[_ROI_GENERATION_ALGORITHM].text,
                None,
                Code(kind, "", kind) if kind else None,
                item[_REFERENCED_FRAME_OF_REFERENCE_UID].text,
            )


def _references(data_set: Head) -> Iterator[ReferencedSeries]:
    """Yield the Series that an object refers to, with the instances that it names."""
    for series in data_set[_REFERENCED_SERIES_SEQUENCE].items():
        yield _series(series, _REFERENCED_INSTANCE_SEQUENCE, _REFERENCED_IMAGE_SEQUENCE)
    for study in data_set[_EVIDENCE_SEQUENCE].items():
        for series in study[_REFERENCED_SERIES_SEQUENCE].items():
            yield _series(series, _REFERENCED_SOP_SEQUENCE)
    for frame in data_set[_REFERENCED_FRAME_OF_REFERENCE_SEQUENCE].items():
        for study in frame[_RT_REFERENCED_STUDY_SEQUENCE].items():
            for series in study[_RT_REFERENCED_SERIES_SEQUENCE].items():
                yield _series(series, _CONTOUR_IMAGE_SEQUENCE)


def _series(item: Item, *sequences: int) -> ReferencedSeries:
    instances = [each for tag in sequences for each in item[tag].items()]
    # Public segmentations name an instance twice.
    named = tuple(dict.fromkeys(each[_REFERENCED_SOP_INSTANCE_UID].text for each in instances))
    return ReferencedSeries(item[_SERIES_INSTANCE_UID].text, named, len(instances) - len(named))
