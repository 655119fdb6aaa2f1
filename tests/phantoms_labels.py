"""Writers of small structure sets and segmentations for series of `phantoms.write_series`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from phantoms import Edit, decimals, item, save, uid
from pydicom import dcmread
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.pixels.utils import pack_bits
from pydicom.sequence import Sequence as DicomSequence
from pydicom.uid import (
    UID,
    CTImageStorage,
    ExplicitVRLittleEndian,
    RTDoseStorage,
    RTStructureSetStorage,
    SegmentationStorage,
)

LABEL_MAP_STORAGE = "1.2.840.10008.5.1.4.1.1.66.7"

Points = Sequence[Sequence[float]] | NDArray[Any]


def _object(sop_class: str, image: Path, seed: object, syntax: str) -> FileDataset:
    """Return an object of the patient, study and frame of reference of an image."""
    source = dcmread(image, stop_before_pixels=True)
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = UID(syntax)
    dataset = FileDataset(None, {}, file_meta=meta, preamble=b"\0" * 128)  # type: ignore[arg-type]
    dataset.SOPClassUID = sop_class
    dataset.SOPInstanceUID = uid(sop_class, source.SeriesInstanceUID, seed)
    dataset.SeriesInstanceUID = uid("series of", dataset.SOPInstanceUID)
    for keyword in ("PatientName", "PatientID", "StudyInstanceUID", "FrameOfReferenceUID"):
        if keyword in source:
            setattr(dataset, keyword, source[keyword].value)
    return dataset


def contour(points: Points, kind: str = "CLOSED_PLANAR") -> Dataset:
    """Return a contour of (n, 3) points, LPS mm."""
    dataset = Dataset()
    flat = np.asarray(points, np.float64).reshape(-1)
    dataset.ContourGeometricType = kind
    dataset.NumberOfContourPoints = len(flat) // 3
    dataset.ContourData = decimals(flat.tolist())
    return dataset


def write_structure_set(
    path: Path,
    image: Path,
    rois: Mapping[str, Sequence[Dataset]],
    *,
    transfer_syntax: str = ExplicitVRLittleEndian,
    edit: Edit | None = None,
) -> Path:
    """Write a structure set with contours by region, for the series of an image."""
    dataset = _object(RTStructureSetStorage, image, path.name, transfer_syntax)
    dataset.Modality, dataset.StructureSetLabel = "RTSTRUCT", "RAMP"
    reference = dataset.FrameOfReferenceUID
    regions, drawn, observed = [], [], []
    for number, (name, contours) in enumerate(rois.items(), 1):
        regions += item(
            ROINumber=number,
            ReferencedFrameOfReferenceUID=reference,
            ROIName=name,
            ROIGenerationAlgorithm="MANUAL",
        )
        drawn += item(ReferencedROINumber=number, ContourSequence=DicomSequence(contours))
        observed += item(ReferencedROINumber=number, RTROIInterpretedType="ORGAN")
    dataset.StructureSetROISequence = DicomSequence(regions)
    dataset.ROIContourSequence = DicomSequence(drawn)
    dataset.RTROIObservationsSequence = DicomSequence(observed)
    return save(dataset, path, edit)


def write_seg(
    path: Path,
    image: Path,
    frames: Sequence[tuple[int, Sequence[float], NDArray[Any]]],
    *,
    kind: str = "BINARY",
    orientation: Sequence[float] = (1, 0, 0, 0, 1, 0),
    pixel_spacing: Sequence[float] = (1.0, 1.0),
    segments: Mapping[int, str] | None = None,
    edit: Edit | None = None,
) -> Path:
    """Write a segmentation of frames (segment, ImagePositionPatient, stored values).

    `pixel_spacing` is that of DICOM: between rows, between columns, mm.
    """
    is_map = kind == "LABELMAP"
    sop_class = LABEL_MAP_STORAGE if is_map else SegmentationStorage
    dataset = _object(sop_class, image, path.name, ExplicitVRLittleEndian)
    dataset.Modality, dataset.SegmentationType = "SEG", kind
    if kind == "FRACTIONAL":
        dataset.SegmentationFractionalType, dataset.MaximumFractionalValue = "PROBABILITY", 200
    values = np.stack([each for _, _, each in frames])
    bits = 1 if kind == "BINARY" else 8 * values.itemsize
    dataset.Rows, dataset.Columns = values.shape[1:]
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated = dataset.BitsStored = bits
    dataset.HighBit, dataset.PixelRepresentation = bits - 1, 0
    dataset.NumberOfFrames = len(frames)
    numbers = segments or {number: f"Part {number}" for number, _, _ in sorted(frames, key=_first)}
    dataset.SegmentSequence = DicomSequence(
        item(SegmentNumber=number, SegmentLabel=name, SegmentAlgorithmType="MANUAL")[0]
        for number, name in numbers.items()
    )
    shared = Dataset()
    shared.PixelMeasuresSequence = item(PixelSpacing=decimals(pixel_spacing), SliceThickness=1)
    shared.PlaneOrientationSequence = item(ImageOrientationPatient=decimals(orientation))
    dataset.SharedFunctionalGroupsSequence = DicomSequence([shared])
    groups = []
    for number, position, _ in frames:
        group = Dataset()
        group.PlanePositionSequence = item(ImagePositionPatient=decimals(position))
        if not is_map:
            group.SegmentIdentificationSequence = item(ReferencedSegmentNumber=number)
        groups.append(group)
    dataset.PerFrameFunctionalGroupsSequence = DicomSequence(groups)
    dataset.ReferencedSeriesSequence = item(
        SeriesInstanceUID=dcmread(image, stop_before_pixels=True).SeriesInstanceUID,
        ReferencedInstanceSequence=item(
            ReferencedSOPClassUID=CTImageStorage,
            ReferencedSOPInstanceUID=dcmread(image, stop_before_pixels=True).SOPInstanceUID,
        ),
    )
    packed = pack_bits(values, pad=True) if bits == 1 else values.tobytes()
    dataset.PixelData = packed + b"\0" * (len(packed) % 2)
    dataset["PixelData"].VR = "OB" if bits <= 8 else "OW"
    return save(dataset, path, edit)


def write_dose(
    path: Path,
    image: Path,
    stored: NDArray[Any],
    *,
    origin: Sequence[float] = (0, 0, 0),
    spacing: Sequence[float] = (2.0, 1.0, 1.0),
    orientation: Sequence[float] = (1, 0, 0, 0, 1, 0),
    is_relative: bool = True,
    edit: Edit | None = None,
) -> Path:
    """Write a dose of (planes, rows, columns) stored values, whose grid scaling is 0.001 Gy.

    `is_relative` says whether the Grid Frame Offset Vector counts from the first plane, or holds
    the third coordinate (PS3.3 C.8.8.3.2).
    """
    dataset = _object(RTDoseStorage, image, path.name, ExplicitVRLittleEndian)
    dataset.Modality, dataset.DoseUnits, dataset.DoseType = "RTDOSE", "GY", "PHYSICAL"
    dataset.DoseSummationType, dataset.DoseGridScaling = "PLAN", "0.001"
    dataset.NumberOfFrames, dataset.Rows, dataset.Columns = stored.shape
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated = dataset.BitsStored = 16
    dataset.HighBit, dataset.PixelRepresentation = 15, 0
    dataset.ImagePositionPatient = decimals(origin)
    dataset.ImageOrientationPatient = decimals(orientation)
    dataset.PixelSpacing = decimals(spacing[1:])
    first = 0.0 if is_relative else origin[2]
    dataset.GridFrameOffsetVector = decimals(
        [first + spacing[0] * plane for plane in range(len(stored))]
    )
    dataset.PixelData = stored.astype("<u2").tobytes()
    return save(dataset, path, edit)


def _first(frame: tuple[int, Any, Any]) -> int:
    return frame[0]
