"""The labels of the made-up patient: a segmentation and a structure set of its CT.

They are written element by element, because highdicom is an extra and the demo needs none.
"""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from dicomdl.arrays import Floats, Values
from dicomdl.headers.uids import STUDY_MANAGEMENT
from dicomdl.jobs._demo_patient import DATE, File, Head, Series, placed
from dicomdl.jobs._demo_series import ct_grid, ct_series
from dicomdl.jobs._head import Outlines, labels_of, outlines_of
from dicomdl.jobs._part10 import Elements

_TIME: Final = "100000"
# Label, and value and meaning of the coded type, of the segments by number.
_SEGMENTS: Final = {1: ("Lesion", "108369006", "Neoplasm"), 2: ("Oedema", "79654002", "Edema")}
_ABNORMAL: Final = ("49755003", "Morphologically Abnormal Structure")
_SEGMENTATION: Final = ("113076", "Segmentation", "DCM")
_SOURCE: Final = ("121322", "Source image for image processing operation", "DCM")
# Interpreted type and colour of the regions.
_REGIONS: Final = {
    "Brain": ("ORGAN", (230, 159, 0)),
    "Eye_L": ("ORGAN", (86, 180, 233)),
    "Eye_R": ("ORGAN", (0, 158, 115)),
    "GTV": ("GTV", (213, 94, 0)),
}
# A segment or region, and the slice of one of its frames.
_Place = tuple[int, int]


def segmentation(head: Head) -> File:
    """Return a SEG of the lesion and its oedema on the slices of the CT, BINARY (PS3.3 A.51)."""
    labels = labels_of(ct_grid(head), head.lesion)
    places = [
        (number, int(z))
        for number in _SEGMENTS
        for z in np.flatnonzero((labels == number).any(axis=(1, 2)))
    ]
    masks = np.stack([labels[z] == number for number, z in places])
    series = Series(head, "seg", 9, "Lesion and oedema")
    return series.path(1), {
        **series.identity(1),
        **_segmented(series),
        **_frames(head, places),
        **_bits(masks),
    }


def structure_set(head: Head) -> File:
    """Return an RTSTRUCT of the brain, the eyes and the lesion on the slices of the CT."""
    from pydicom import uid

    grid, series = ct_grid(head), Series(head, "rtstruct", 10, "Contours")
    heights = grid.voxel_to_world([[z, 0, 0] for z in range(grid.shape[0])])[:, 2].tolist()
    outlines = outlines_of(head.lesion, head.size, heights)
    return series.path(1), {
        **series.identity(1),
        "SOPClassUID": uid.RTStructureSetStorage,
        "Modality": "RTSTRUCT",
        "FrameOfReferenceUID": head.space_uid,
        "PositionReferenceIndicator": "",
        "OperatorsName": "",
        "StructureSetLabel": "Head",
        "StructureSetDate": DATE,
        "StructureSetTime": _TIME,
        "ReferencedFrameOfReferenceSequence": [_referenced_space(head, len(heights))],
        "StructureSetROISequence": [
            {
                "ROINumber": number,
                "ReferencedFrameOfReferenceUID": head.space_uid,
                "ROIName": name,
                "ROIGenerationAlgorithm": "MANUAL",
            }
            for number, name in enumerate(outlines, 1)
        ],
        "ROIContourSequence": _contours(head, outlines, heights),
        "RTROIObservationsSequence": [
            {
                "ObservationNumber": number,
                "ReferencedROINumber": number,
                "RTROIInterpretedType": _REGIONS[name][0],
                "ROIInterpreter": "",
            }
            for number, name in enumerate(outlines, 1)
        ],
    }


# --- segmentation ---------------------------------------------------------------------------------


def _segmented(series: Series) -> Elements:
    """Return what the SEG is, and its segments."""
    from pydicom import uid

    return {
        "SOPClassUID": uid.SegmentationStorage,
        "Modality": "SEG",
        "ImageType": ["DERIVED", "PRIMARY"],
        "FrameOfReferenceUID": series.head.space_uid,
        "PositionReferenceIndicator": "",
        "ManufacturerModelName": "dicomdl",
        "DeviceSerialNumber": "none",
        "SoftwareVersions": "2",
        "ContentLabel": "LESION",
        "ContentDescription": "",
        "ContentDate": DATE,
        "ContentTime": _TIME,
        "SegmentationType": "BINARY",
        "SegmentsOverlap": "NO",
        "SegmentSequence": [
            {
                "SegmentNumber": number,
                "SegmentLabel": label,
                "SegmentAlgorithmType": "MANUAL",
                "SegmentedPropertyCategoryCodeSequence": [_code(*_ABNORMAL)],
                "SegmentedPropertyTypeCodeSequence": [_code(value, meaning)],
            }
            for number, (label, value, meaning) in _SEGMENTS.items()
        ],
        "DimensionOrganizationSequence": [{"DimensionOrganizationUID": series.uid}],
        "DimensionIndexSequence": [
            {
                "DimensionOrganizationUID": series.uid,
                "DimensionIndexPointer": pointer,
                "FunctionalGroupPointer": group,
            }
            for pointer, group in (
                ("ReferencedSegmentNumber", "SegmentIdentificationSequence"),
                ("ImagePositionPatient", "PlanePositionSequence"),
            )
        ],
    }


def _frames(head: Head, places: Sequence[_Place]) -> Elements:
    """Return where the frames of a SEG lie, and the slices that they refer to."""
    grid = ct_grid(head)
    shared = placed(grid, grid.voxel_to_world([0, 0, 0]))
    measures = {
        "PixelSpacing": shared["PixelSpacing"],
        "SliceThickness": shared["SliceThickness"],
        "SpacingBetweenSlices": shared["SliceThickness"],
    }
    orientation = {"ImageOrientationPatient": shared["ImageOrientationPatient"]}
    return {
        "ReferencedSeriesSequence": [
            {
                "SeriesInstanceUID": ct_series(head).uid,
                "ReferencedInstanceSequence": [_slice(head, z) for z in range(grid.shape[0])],
            }
        ],
        "SharedFunctionalGroupsSequence": [
            {
                "PlaneOrientationSequence": [orientation],
                "PixelMeasuresSequence": [measures],
            }
        ],
        "PerFrameFunctionalGroupsSequence": [
            _frame(head, place, grid.voxel_to_world([place[1], 0, 0])) for place in places
        ],
        "NumberOfFrames": len(places),
    }


def _frame(head: Head, place: _Place, position: Floats) -> Elements:
    number, z = place
    source = {
        **_slice(head, z),
        "PurposeOfReferenceCodeSequence": [_code(*_SOURCE)],
        "SpatialLocationsPreserved": "YES",
    }
    derivation = {
        "SourceImageSequence": [source],
        "DerivationCodeSequence": [_code(*_SEGMENTATION)],
    }
    return {
        "DerivationImageSequence": [derivation],
        "FrameContentSequence": [{"DimensionIndexValues": [number, z + 1]}],
        "PlanePositionSequence": [
            {"ImagePositionPatient": placed(ct_grid(head), position)["ImagePositionPatient"]}
        ],
        "SegmentIdentificationSequence": [{"ReferencedSegmentNumber": number}],
    }


def _bits(masks: Values) -> Elements:
    """Return the pixels of bool (frames, rows, columns), one bit each (PS3.5 8.1.1)."""
    return {
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "Rows": masks.shape[1],
        "Columns": masks.shape[2],
        "BitsAllocated": 1,
        "BitsStored": 1,
        "HighBit": 0,
        "PixelRepresentation": 0,
        "LossyImageCompression": "00",
        "PixelData": np.packbits(masks.reshape(-1), bitorder="little").tobytes(),
    }


# --- structure set --------------------------------------------------------------------------------


def _referenced_space(head: Head, slices: int) -> Elements:
    series = {
        "SeriesInstanceUID": ct_series(head).uid,
        "ContourImageSequence": [_slice(head, z) for z in range(slices)],
    }
    study = {
        "ReferencedSOPClassUID": STUDY_MANAGEMENT,
        "ReferencedSOPInstanceUID": head.study_uid,
        "RTReferencedSeriesSequence": [series],
    }
    return {"FrameOfReferenceUID": head.space_uid, "RTReferencedStudySequence": [study]}


def _contours(head: Head, outlines: Outlines, heights: Sequence[float]) -> list[Elements]:
    """Return the contours of each region, and the slice of each contour."""
    return [
        {
            "ReferencedROINumber": number,
            "ROIDisplayColor": list(_REGIONS[name][1]),
            "ContourSequence": [
                {
                    "ContourImageSequence": [_slice(head, heights.index(points[0, 2]))],
                    "ContourGeometricType": "CLOSED_PLANAR",
                    "NumberOfContourPoints": len(points),
                    "ContourData": [f"{each:.2f}" for each in points.reshape(-1).tolist()],
                }
                for points in contours
            ],
        }
        for number, (name, contours) in enumerate(outlines.items(), 1)
    ]


# --- both -----------------------------------------------------------------------------------------


def _slice(head: Head, z: int) -> dict[str | int, Any]:
    """Return a reference to a slice of the CT."""
    from pydicom import uid

    return {
        "ReferencedSOPClassUID": uid.CTImageStorage,
        "ReferencedSOPInstanceUID": ct_series(head).instance_uid(z + 1),
    }


def _code(value: str, meaning: str, scheme: str = "SCT") -> Elements:
    return {"CodeValue": value, "CodingSchemeDesignator": scheme, "CodeMeaning": meaning}
