"""The data of `labels.py`: a CT of one series, and its segmentations and structure set.

The label map has ellipsoids, one per segment, which grow and shrink along the slices. A SEG is
written frame by frame, so that one of 17,388 frames needs no memory.
"""

import io
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from phantom_ct import COLUMNS, ROWS, SlicePixels, data_folder
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filewriter import dcmwrite
from pydicom.sequence import Sequence as DicomSequence
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian

ROOT = "1.2.826.0.1.3680043.8.498.79"
SEGMENTATION = "1.2.840.10008.5.1.4.1.1.66.4"
LABEL_MAP = "1.2.840.10008.5.1.4.1.1.66.7"
STRUCTURE_SET = "1.2.840.10008.5.1.4.1.1.481.3"
PIXEL_SPACING, SLICE_SPACING = 0.7, 1.25
VERSION = 2  # enters the names of files: a change of the data makes new ones
# Referenced Segment Number and Image Position (Patient), and their functional groups.
_DIMENSIONS = ((0x0062000B, 0x0062000A), (0x00200032, 0x00209113))


def ct_folder(slices: int) -> Path:
    """Return the folder of one series of `slices` CT slices of 512 x 512."""
    folder = data_folder() / f"labelled-ct-{slices}-v{VERSION}"
    if not folder.exists():
        partial = folder.with_suffix(".partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        pixels = SlicePixels(0)
        for z in range(slices):
            header = _header(CTImageStorage, f"{ROOT}.1.{slices}.{z}", slices, "CT")
            header.InstanceNumber = z + 1
            header.ImagePositionPatient = [0, 0, z * SLICE_SPACING]
            header.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
            header.PixelSpacing = [PIXEL_SPACING, PIXEL_SPACING]
            header.SliceThickness = SLICE_SPACING
            header.RescaleSlope, header.RescaleIntercept = 1, -1024
            _image(header, 16, 12)
            _save(header, partial / f"{z:05d}.dcm", pixels.slice(z % 128).astype("<u2").tobytes())
        partial.rename(folder)
    return folder


def seg_file(slices: int, segments: int, kind: str = "BINARY", most: int | None = None) -> Path:
    """Return a SEG of the CT: a frame per slice and segment; of LABELMAP one per slice.

    `most` stops after that number of frames.
    """
    path = data_folder() / f"seg-{slices}-{segments}-{kind}-{most}-v{VERSION}.dcm"
    if path.exists():
        return path
    is_map = kind == "LABELMAP"
    wanted = [(z, k) for k in ([0] if is_map else range(1, segments + 1)) for z in range(slices)]
    wanted = wanted[:most]
    sop = LABEL_MAP if is_map else SEGMENTATION
    header = _header(sop, f"{ROOT}.3.{slices}.{segments}.{len(wanted)}", slices, "SEG")
    header.SeriesInstanceUID = f"{header.SOPInstanceUID}.1"
    header.SegmentationType = kind
    header.NumberOfFrames = len(wanted)
    _image(header, 8 if is_map else 1, 8 if is_map else 1)
    header.SegmentSequence = DicomSequence(
        _item(
            SegmentNumber=k,
            SegmentLabel=f"Part {k}",
            SegmentAlgorithmType="MANUAL",
            SegmentedPropertyCategoryCodeSequence=DicomSequence([_tissue()]),
            SegmentedPropertyTypeCodeSequence=DicomSequence([_tissue()]),
        )
        for k in range(1, segments + 1)
    )
    header.DimensionOrganizationSequence = DicomSequence(
        [_item(DimensionOrganizationUID=f"{ROOT}.5")]
    )
    header.DimensionIndexSequence = DicomSequence(
        _item(
            DimensionOrganizationUID=f"{ROOT}.5",
            DimensionIndexPointer=pointer,
            FunctionalGroupPointer=group,
        )
        for pointer, group in _DIMENSIONS[int(is_map) :]
    )
    shared = Dataset()
    shared.PixelMeasuresSequence = DicomSequence(
        [_item(PixelSpacing=[PIXEL_SPACING] * 2, SliceThickness=SLICE_SPACING)]
    )
    shared.PlaneOrientationSequence = DicomSequence(
        [_item(ImageOrientationPatient=[1, 0, 0, 0, 1, 0])]
    )
    header.SharedFunctionalGroupsSequence = DicomSequence([shared])
    groups = []
    for z, k in wanted:
        group = Dataset()
        group.FrameContentSequence = DicomSequence(
            [_item(DimensionIndexValues=[z + 1] if is_map else [k, z + 1])]
        )
        group.PlanePositionSequence = DicomSequence(
            [_item(ImagePositionPatient=[0, 0, z * SLICE_SPACING])]
        )
        if not is_map:
            group.SegmentIdentificationSequence = DicomSequence([_item(ReferencedSegmentNumber=k)])
        groups.append(group)
    header.PerFrameFunctionalGroupsSequence = DicomSequence(groups)
    header.ReferencedSeriesSequence = DicomSequence([_reference(slices)])
    shapes = Ellipsoids(slices, segments)
    frames = (
        shapes.labels(z).tobytes()
        if is_map
        else np.packbits(shapes.mask(z, k), bitorder="little").tobytes()
        for z, k in wanted
    )
    size = len(wanted) * ROWS * COLUMNS // (1 if is_map else 8)
    _save(header, path.with_suffix(".partial"), frames, size)
    path.with_suffix(".partial").rename(path)
    return path


def structure_set(slices: int, regions: int, points: int = 150) -> Path:
    """Return an RTSTRUCT of the CT: a region per ellipsoid, with a hole in every fourth."""
    path = data_folder() / f"rtstruct-{slices}-{regions}-{points}-v{VERSION}.dcm"
    if path.exists():
        return path
    header = _header(STRUCTURE_SET, f"{ROOT}.4.{slices}.{regions}.{points}", slices, "RTSTRUCT")
    header.SeriesInstanceUID = f"{header.SOPInstanceUID}.1"
    header.StructureSetLabel = "ELLIPSES"
    reference = _item(FrameOfReferenceUID=header.FrameOfReferenceUID)
    study = _item(ReferencedSOPClassUID=STRUCTURE_SET, ReferencedSOPInstanceUID=ROOT)
    study.RTReferencedSeriesSequence = DicomSequence([_reference(slices, is_contoured=True)])
    reference.RTReferencedStudySequence = DicomSequence([study])
    header.ReferencedFrameOfReferenceSequence = DicomSequence([reference])
    header.StructureSetROISequence = DicomSequence(
        _item(
            ROINumber=k,
            ReferencedFrameOfReferenceUID=header.FrameOfReferenceUID,
            ROIName=f"Part {k}",
            ROIGenerationAlgorithm="MANUAL",
        )
        for k in range(1, regions + 1)
    )
    shapes, drawn = Ellipsoids(slices, regions), []
    for k in range(1, regions + 1):
        contours = [
            _item(ContourGeometricType="CLOSED_PLANAR", NumberOfContourPoints=len(outline))
            for z in range(slices)
            for outline in shapes.outlines(z, k, points)
        ]
        outlines = (each for z in range(slices) for each in shapes.outlines(z, k, points))
        for contour, outline in zip(contours, outlines, strict=True):
            contour.ContourData = [f"{value:.4f}" for value in outline.ravel()]
        drawn.append(_item(ReferencedROINumber=k, ContourSequence=DicomSequence(contours)))
    header.ROIContourSequence = DicomSequence(drawn)
    _save(header, path)
    return path


class Ellipsoids:
    """Ellipsoids on a grid of slices; segments count from 1, and later ones lie above."""

    def __init__(self, slices: int, segments: int) -> None:
        chance = np.random.default_rng(segments)
        self._slices = slices
        self._centres = chance.uniform(130, 380, (segments, 2))
        self._radii = chance.uniform(25, 75, (segments, 2))
        self._middle = chance.uniform(0.3, 0.7, segments) * slices
        self._y, self._x = np.ogrid[:ROWS, :COLUMNS]

    def scale(self, z: int, k: int) -> float:
        """Return the size of an ellipsoid in a slice, 0 to 1."""
        return float(max(0.0, 1 - ((z - self._middle[k - 1]) / (0.4 * self._slices)) ** 2) ** 0.5)

    def mask(self, z: int, k: int) -> NDArray[np.bool_]:
        """Return the pixels of a segment in a slice."""
        scale = self.scale(z, k)
        if not scale:
            return np.zeros((ROWS, COLUMNS), np.bool_)
        (y, x), (b, a) = self._centres[k - 1], self._radii[k - 1] * scale
        return ((self._y - y) / b) ** 2 + ((self._x - x) / a) ** 2 < 1

    def labels(self, z: int) -> NDArray[np.uint8]:
        """Return the label map of a slice."""
        plane = np.zeros((ROWS, COLUMNS), np.uint8)
        for k in range(1, len(self._middle) + 1):
            plane[self.mask(z, k)] = k
        return plane

    def outlines(self, z: int, k: int, points: int) -> Iterator[NDArray[np.float64]]:
        """Yield the contours of a segment in a slice, (points, 3) LPS mm."""
        scale = self.scale(z, k)
        if scale < 0.1:
            return
        angle = np.linspace(0, 2 * np.pi, points, endpoint=False)
        for part in (1, 0.4) if k % 4 == 0 else (1,):
            (y, x), (b, a) = self._centres[k - 1], self._radii[k - 1] * scale * part
            wave = 1 + 0.05 * np.sin(7 * angle)
            plane = np.column_stack([x + a * wave * np.cos(angle), y + b * wave * np.sin(angle)])
            yield np.column_stack([plane * PIXEL_SPACING, np.full(points, z * SLICE_SPACING)])


def _item(**values: object) -> Dataset:
    made = Dataset()
    for keyword, value in values.items():
        setattr(made, keyword, value)
    return made


def _tissue() -> Dataset:
    return _item(CodeValue="85756007", CodingSchemeDesignator="SCT", CodeMeaning="Tissue")


def _header(sop_class: str, sop_instance: str, slices: int, modality: str) -> Dataset:
    """Return the elements that all objects of the patient share."""
    header = _item(
        SOPClassUID=sop_class,
        SOPInstanceUID=sop_instance,
        Modality=modality,
        PatientID="LABELLED",
        PatientName="LABELLED",
        StudyInstanceUID=f"{ROOT}.{slices}",
        SeriesInstanceUID=f"{ROOT}.{slices}.1",
        FrameOfReferenceUID=f"{ROOT}.{slices}.2",
    )
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = (
        UID(sop_class),
        UID(sop_instance),
    )
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    header.file_meta = meta
    return header


def _reference(slices: int, *, is_contoured: bool = False) -> Dataset:
    """Return the reference to the images of the CT."""
    images = DicomSequence(
        _item(
            ReferencedSOPClassUID=CTImageStorage,
            ReferencedSOPInstanceUID=f"{ROOT}.1.{slices}.{z}",
        )
        for z in range(slices)
    )
    name = "ContourImageSequence" if is_contoured else "ReferencedInstanceSequence"
    return _item(SeriesInstanceUID=f"{ROOT}.{slices}.1", **{name: images})


def _image(header: Dataset, allocated: int, stored: int) -> None:
    header.Rows, header.Columns, header.SamplesPerPixel = ROWS, COLUMNS, 1
    header.PhotometricInterpretation, header.PixelRepresentation = "MONOCHROME2", 0
    header.BitsAllocated, header.BitsStored, header.HighBit = allocated, stored, stored - 1


def _save(
    header: Dataset, path: Path, pixels: bytes | Iterator[bytes] | None = None, size: int = 0
) -> None:
    """Write a header, and the pixel data piece by piece."""
    buffer = io.BytesIO()
    dcmwrite(buffer, header, enforce_file_format=True)
    pieces: Sequence[bytes] | Iterator[bytes] = (
        [pixels] if isinstance(pixels, bytes) else pixels or []
    )
    size = len(pixels) if isinstance(pixels, bytes) else size
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(buffer.getbuffer())
        if size:
            file.write(b"\xe0\x7f\x10\x00OB\0\0" + size.to_bytes(4, "little"))
        for piece in pieces:
            file.write(piece)
