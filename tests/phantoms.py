"""Writers of small DICOM files whose voxels store their own position.

The *ramp phantom*: the voxel at (slice, row, column) = (z, y, x) of the true geometry stores ``x +
7 y + 53 z`` (+ `offset`), so that a flip, a transposition or a wrong order is a wrong number at a
known position. Slice z lies at ``origin + z * dz * (row direction x column direction)``: slices
ascend along the normal for every orientation. Files get random names from a fixed seed, so the
order on disk differs from the order in space.

All writers are deterministic: UIDs are derived from the content. Two calls into one folder
therefore need different parameters or a different `seed`; a file that would be overwritten raises
FileExistsError.
"""

import hashlib
import os
import pickle
import random
import struct
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import imagecodecs
import numpy as np
import pytest
from numpy.typing import NDArray
from phantoms_writing import written
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate, encapsulate_extended
from pydicom.pixels.encoders import RLELosslessEncoder  # type: ignore[attr-defined]
from pydicom.pixels.utils import pack_bits
from pydicom.sequence import Sequence as DicomSequence
from pydicom.uid import (
    JPEG2000,
    UID,
    BasicTextSRStorage,
    ComputedRadiographyImageStorage,
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    DigitalMammographyXRayImageStorageForPresentation,
    DigitalXRayImageStorageForPresentation,
    EnhancedCTImageStorage,
    EnhancedMRImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    MRImageStorage,
    MultiFrameTrueColorSecondaryCaptureImageStorage,
    NuclearMedicineImageStorage,
    PositronEmissionTomographyImageStorage,
    RLELossless,
    SecondaryCaptureImageStorage,
    SegmentationStorage,
    UltrasoundImageStorage,
    generate_uid,
)
from pydicom.valuerep import DSfloat

from dicomdl.headers._heads import EXPLICIT, Syntax

Array = NDArray[Any]
Edit = Callable[[Dataset, int], object]
OffsetTable = Literal["none", "basic", "extended"]

UID_PREFIX = "1.2.826.0.1.3680043.8.498.77."  # a branch of pydicom's own root, which is free to use
SOP_CLASSES: dict[str, UID] = {
    "CT": CTImageStorage,
    "MR": MRImageStorage,
    "PT": PositronEmissionTomographyImageStorage,
    "NM": NuclearMedicineImageStorage,
    "US": UltrasoundImageStorage,
    "CR": ComputedRadiographyImageStorage,
    "DX": DigitalXRayImageStorageForPresentation,
    "MG": DigitalMammographyXRayImageStorageForPresentation,
    "OT": SecondaryCaptureImageStorage,
}
MODALITIES_WITH_GEOMETRY = ("CT", "MR", "PT")
NATIVE_SYNTAXES = (
    ImplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    DeflatedExplicitVRLittleEndian,
)


# --------------------------------------------------------------------------------------------------
# true values


def ramp(shape: Sequence[int]) -> NDArray[np.int64]:
    """``x + 7 y + 53 z`` for every voxel of (slices, rows, columns)."""
    z, y, x = np.indices(tuple(shape), dtype=np.int64)
    return np.asarray(x + 7 * y + 53 * z, np.int64)


def true_volume(
    shape: Sequence[int],
    slope: float | Sequence[float] = 1,
    intercept: float | Sequence[float] = 0,
    *,
    offset: int = 0,
    drop: Iterable[int] = (),
) -> NDArray[np.float64]:
    """Return the modality values that `write_series` wrote.

    Float64, (slices without the dropped ones, rows, columns).
    """
    slopes, intercepts = per_slice(slope, shape[0]), per_slice(intercept, shape[0])
    volume = (ramp(shape) + offset) * np.asarray(slopes)[:, None, None] + np.asarray(intercepts)[
        :, None, None
    ]
    return np.delete(volume, sorted(drop), axis=0)


def slice_normal(orientation: Sequence[float]) -> NDArray[np.float64]:
    """Return row direction x column direction of ImageOrientationPatient, the normal of slices."""
    directions = np.asarray(orientation, np.float64)
    return np.cross(directions[:3], directions[3:])


def true_positions(
    slices: int,
    spacing: Sequence[float] = (2.0, 1.0, 1.0),
    origin: Sequence[float] = (0, 0, 0),
    orientation: Sequence[float] = (1, 0, 0, 0, 1, 0),
    shear: Sequence[float] = (0, 0),
) -> NDArray[np.float64]:
    """Return ImagePositionPatient of every slice, (slices, 3), mm.

    `shear` is mm per slice along (row direction, column direction).
    """
    directions = np.asarray(orientation, np.float64)
    step = (
        spacing[0] * slice_normal(orientation)
        + shear[0] * directions[:3]
        + shear[1] * directions[3:]
    )
    return np.asarray(origin, np.float64) + np.arange(slices)[:, None] * step


def true_affine(
    spacing: Sequence[float] = (2.0, 1.0, 1.0),
    origin: Sequence[float] = (0, 0, 0),
    orientation: Sequence[float] = (1, 0, 0, 0, 1, 0),
    shear: Sequence[float] = (0, 0),
) -> NDArray[np.float64]:
    """4 x 4: ``affine @ [slice, row, column, 1]`` = the voxel's centre, LPS, mm.

    The row index walks along the *column* direction (the second triple of ImageOrientationPatient)
    and the column index along the row direction (PS3.3 C.7.6.2.1.1).
    """
    directions = np.asarray(orientation, np.float64)
    first, second = true_positions(2, spacing, origin, orientation, shear)
    affine = np.eye(4)
    affine[:3, 0] = second - first
    affine[:3, 1] = directions[3:] * spacing[1]
    affine[:3, 2] = directions[:3] * spacing[2]
    affine[:3, 3] = first
    return affine


def true_rgb(frames: int, rows: int, columns: int) -> NDArray[np.uint8]:
    """Return the values that `write_secondary_capture` stores, (frames, rows, columns, 3).

    The samples are 0, 90 and 180 above the ramp, modulo 256.
    """
    samples: Array = (ramp((frames, rows, columns))[..., None] + np.array([0, 90, 180])) % 256
    return samples.astype(np.uint8)


def true_mask(frames: int, rows: int, columns: int) -> NDArray[np.uint8]:
    """Return the values that `write_segmentation_1bit` stores, (frames, rows, columns) of 0 and 1.

    They are 1 where 3 divides the ramp.
    """
    return np.asarray(ramp((frames, rows, columns)) % 3 == 0, np.uint8)


# --------------------------------------------------------------------------------------------------
# writers


def write_series(
    folder: str | os.PathLike[str],
    *,
    shape: tuple[int, int, int] = (6, 5, 7),
    spacing: tuple[float, float, float] = (2.0, 1.0, 1.0),
    origin: Sequence[float] = (0, 0, 0),
    orientation: Sequence[float] = (1, 0, 0, 0, 1, 0),
    shear: tuple[float, float] = (0, 0),
    positions: Sequence[Sequence[float]] | None = None,
    modality: str = "CT",
    sop_class: str | None = None,
    photometric: str = "MONOCHROME2",
    slope: float | Sequence[float] | None = 1,
    intercept: float | Sequence[float] | None = 0,
    transfer_syntax: str = ExplicitVRLittleEndian,
    bits_allocated: int = 16,
    bits_stored: int | None = None,
    signed: bool | Sequence[bool] = False,
    offset: int = 0,
    stored: Array | None = None,
    unused_bits: Literal["extend", "zero", "ones"] = "extend",
    names: Literal["random", "ordered"] = "random",
    instance_numbers: Sequence[int] | None = None,
    drop: Iterable[int] = (),
    repeat: Iterable[int] = (),
    patient_id: str = "RAMP-1",
    study_uid: str | None = None,
    series_uid: str | None = None,
    frame_of_reference: str | None = None,
    seed: int = 0,
    edit: Edit | None = None,
) -> list[Path]:
    """Write one ramp phantom as a classic series, one file per slice.

    Parameters
    ----------
    folder
        Folder of the files; created if absent.
    shape
        (slices, rows, columns) of the true geometry, before `drop`.
    spacing
        (dz, dy, dx), mm: between slices, between rows, between columns.
    positions
        One ImagePositionPatient per slice, instead of `true_positions(...)`.
    slope, intercept
        One number, or one per slice; None leaves the attribute out.
    transfer_syntax
        One of `NATIVE_SYNTAXES` or one that `encode_frame` knows.
    bits_stored
        12 for 16 allocated bits unless given, else all of them. HighBit = BitsStored - 1.
    signed
        PixelRepresentation 1; one flag, or one per slice.
    offset
        Added to the ramp before it is stored: negative numbers show a missing sign extension.
    stored
        Stored values instead of the ramp, (slices, rows, columns), any integer type.
    unused_bits
        Bits of native signed samples above HighBit: their sign, zeros or ones. Unsigned samples
        get zeros for "extend".
    drop, repeat
        Slices that are left out; slices that are written a second time under a new SOPInstanceUID.
    seed
        Distinguishes two calls with otherwise equal parameters: enters UIDs and file names.
    edit
        Called with (dataset, z) just before a file is written; it may change everything, file meta
        included.

    Returns
    -------
    list of Path
        In true slice order; a repeated slice's copy follows its original.
    """
    bits_stored = bits_stored or (12 if bits_allocated == 16 else bits_allocated)
    values = ramp(shape) + offset if stored is None else np.asarray(stored)
    if positions is None:
        positions = true_positions(shape[0], spacing, origin, orientation, shear).tolist()
    identity = (
        modality,
        shape,
        spacing,
        tuple(origin),
        tuple(orientation),
        shear,
        slope,
        intercept,
        offset,
        transfer_syntax,
        seed,
    )
    study_uid = study_uid or uid("study", patient_id)
    series_uid = series_uid or uid("series", study_uid, *identity)
    slopes, intercepts, signs = (
        per_slice(slope, shape[0]),
        per_slice(intercept, shape[0]),
        per_slice(signed, shape[0]),
    )
    dropped, repeated = set(drop), set(repeat)
    wanted = [
        (z, number)
        for z in range(shape[0])
        if z not in dropped
        for number in range(1 + (z in repeated))
    ]
    paths = _paths(Path(folder), names, wanted, series_uid, identity)
    common = _dataset(sop_class or SOP_CLASSES[modality], transfer_syntax, "1")
    _identify(common, modality, patient_id, study_uid, series_uid, 1)
    if modality in MODALITIES_WITH_GEOMETRY:
        common.FrameOfReferenceUID = frame_of_reference or uid("frame of reference", study_uid)
        common.ImageOrientationPatient = decimals(orientation)
        common.SliceThickness = decimal(spacing[0])
        common.PixelSpacing = decimals(spacing[1:])
    common.PhotometricInterpretation = photometric
    stored_common = pickle.dumps(common)  # its elements are made and checked once per series
    for z, number in _shuffled(list(paths), seed):
        dataset = pickle.loads(stored_common)
        dataset.SOPInstanceUID = uid("instance", series_uid, *identity, z, number)
        dataset.InstanceNumber = instance_numbers[z] if instance_numbers else z + 1
        if modality in MODALITIES_WITH_GEOMETRY:
            dataset.ImagePositionPatient = decimals(positions[z])
        if slopes[z] is not None:
            dataset.RescaleSlope = decimal(slopes[z])
        if intercepts[z] is not None:
            dataset.RescaleIntercept = decimal(intercepts[z])
        set_pixels(
            dataset, values[z][None], bits_allocated, bits_stored, signs[z], unused_bits=unused_bits
        )
        save(dataset, paths[z, number], edit, z)
    return [paths[item] for item in wanted]


def write_multiframe(
    path: str | os.PathLike[str],
    *,
    shape: tuple[int, int, int] = (6, 5, 7),
    spacing: tuple[float, float, float] = (2.0, 1.0, 1.0),
    origin: Sequence[float] = (0, 0, 0),
    orientation: Sequence[float] = (1, 0, 0, 0, 1, 0),
    shear: tuple[float, float] = (0, 0),
    order: Sequence[int] | None = None,
    modality: Literal["CT", "MR"] = "CT",
    slope: float | Sequence[float] | None = 1,
    intercept: float | Sequence[float] | None = 0,
    transfer_syntax: str = ExplicitVRLittleEndian,
    bits_allocated: int = 16,
    bits_stored: int | None = None,
    signed: bool = False,
    offset: int = 0,
    offset_table: OffsetTable = "basic",
    fragments_per_frame: int = 1,
    patient_id: str = "RAMP-1",
    study_uid: str | None = None,
    series_uid: str | None = None,
    frame_of_reference: str | None = None,
    seed: int = 0,
    edit: Edit | None = None,
) -> Path:
    """Write the ramp phantom as one enhanced CT or MR file with functional groups.

    The objects are those of PS3.3 A.38 and A.36. `order[k]` is the true slice of frame number k + 1
    (default: `frame_order(slices, seed)`, shuffled). Orientation and pixel measures are shared;
    positions are per frame; so is the rescale when it is given per slice. `offset_table` and
    `fragments_per_frame` set the layout of encapsulated frames (PS3.5 A.4); an extended table
    allows only one fragment per frame. Other parameters are those of `write_series`. `edit` is
    called with (dataset, 0).
    """
    order = frame_order(shape[0], seed) if order is None else list(order)
    bits_stored = bits_stored or (12 if bits_allocated == 16 else bits_allocated)
    study_uid = study_uid or uid("study", patient_id)
    identity = (
        modality,
        shape,
        spacing,
        tuple(origin),
        tuple(orientation),
        shear,
        offset,
        transfer_syntax,
        tuple(order),
        seed,
    )
    series_uid = series_uid or uid("multi-frame series", study_uid, *identity)
    sop_class = EnhancedCTImageStorage if modality == "CT" else EnhancedMRImageStorage
    dataset = _dataset(sop_class, transfer_syntax, uid("instance", series_uid, *identity))
    _identify(dataset, modality, patient_id, study_uid, series_uid, 1)
    dataset.FrameOfReferenceUID = frame_of_reference or uid("frame of reference", study_uid)
    positions = true_positions(shape[0], spacing, origin, orientation, shear)
    shared = Dataset()
    shared.PixelMeasuresSequence = item(
        SliceThickness=decimal(spacing[0]), PixelSpacing=decimals(spacing[1:])
    )
    shared.PlaneOrientationSequence = item(ImageOrientationPatient=decimals(orientation))
    if isinstance(slope, int | float) and isinstance(intercept, int | float):
        shared.PixelValueTransformationSequence = _rescale(slope, intercept)
    dataset.SharedFunctionalGroupsSequence = DicomSequence([shared])
    slopes, intercepts = per_slice(slope, shape[0]), per_slice(intercept, shape[0])
    groups = []
    for z in order:
        group = Dataset()
        group.FrameContentSequence = item(
            StackID="1", InStackPositionNumber=int(z) + 1, DimensionIndexValues=[1, int(z) + 1]
        )
        group.PlanePositionSequence = item(ImagePositionPatient=decimals(positions[z]))
        if slopes[z] is not None and "PixelValueTransformationSequence" not in shared:
            group.PixelValueTransformationSequence = _rescale(slopes[z], intercepts[z])
        groups.append(group)
    dataset.PerFrameFunctionalGroupsSequence = DicomSequence(groups)
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.NumberOfFrames = len(order)
    values = (ramp(shape) + offset)[list(order)]
    set_pixels(
        dataset,
        values,
        bits_allocated,
        bits_stored,
        signed,
        offset_table=offset_table,
        fragments_per_frame=fragments_per_frame,
    )
    return save(dataset, Path(path), edit)


def write_secondary_capture(
    path: str | os.PathLike[str],
    *,
    rows: int = 5,
    columns: int = 7,
    frames: int = 1,
    photometric: Literal["RGB", "YBR_FULL"] = "RGB",
    planar_configuration: int = 0,
    transfer_syntax: str = ExplicitVRLittleEndian,
    patient_id: str = "RAMP-1",
    study_uid: str | None = None,
    series_uid: str | None = None,
    seed: int = 0,
    edit: Edit | None = None,
) -> Path:
    """Write a colour screenshot without geometry: `true_rgb(frames, rows, columns)`.

    The samples have 8 bits and are stored unchanged under the given PhotometricInterpretation; no
    colour is converted.
    """
    study_uid = study_uid or uid("study", patient_id)
    series_uid = series_uid or uid(
        "secondary capture", study_uid, rows, columns, frames, photometric, seed
    )
    sop_class = (
        SecondaryCaptureImageStorage
        if frames == 1
        else MultiFrameTrueColorSecondaryCaptureImageStorage
    )
    dataset = _dataset(
        sop_class,
        transfer_syntax,
        uid("instance", series_uid, transfer_syntax, planar_configuration),
    )
    _identify(dataset, "OT", patient_id, study_uid, series_uid, 1)
    dataset.ConversionType = "WSD"
    dataset.PhotometricInterpretation = photometric
    dataset.PlanarConfiguration = planar_configuration
    if frames > 1:
        dataset.NumberOfFrames = frames
    set_pixels(dataset, true_rgb(frames, rows, columns), 8, 8, False)
    return save(dataset, Path(path), edit)


def write_segmentation_1bit(
    path: str | os.PathLike[str],
    *,
    shape: tuple[int, int, int] = (4, 5, 7),
    spacing: tuple[float, float, float] = (2.0, 1.0, 1.0),
    origin: Sequence[float] = (0, 0, 0),
    orientation: Sequence[float] = (1, 0, 0, 0, 1, 0),
    segments: int = 1,
    patient_id: str = "RAMP-1",
    study_uid: str | None = None,
    series_uid: str | None = None,
    frame_of_reference: str | None = None,
    edit: Edit | None = None,
) -> Path:
    """Write a binary SEG (PS3.3 A.51): `true_mask(slices * segments, rows, columns)`.

    Pixels have one bit, and frames follow each other without padding. With 5 x 7 pixels a frame has
    35 bits, so frame 2 starts at bit 3 of byte 4 (PS3.5 8.1.1 packs across frames). Frame `s *
    slices + z + 1` is slice z of segment s + 1.
    """
    study_uid = study_uid or uid("study", patient_id)
    series_uid = series_uid or uid("segmentation", study_uid, shape, segments)
    dataset = _dataset(
        SegmentationStorage,
        ExplicitVRLittleEndian,
        uid("instance", series_uid, spacing, tuple(origin)),
    )
    _identify(dataset, "SEG", patient_id, study_uid, series_uid, 1)
    dataset.FrameOfReferenceUID = frame_of_reference or uid("frame of reference", study_uid)
    dataset.SegmentationType = "BINARY"
    dataset.SegmentSequence = DicomSequence(
        [
            item(
                SegmentNumber=s + 1, SegmentLabel=f"Segment {s + 1}", SegmentAlgorithmType="MANUAL"
            )[0]
            for s in range(segments)
        ]
    )
    shared = Dataset()
    shared.PixelMeasuresSequence = item(
        SliceThickness=decimal(spacing[0]), PixelSpacing=decimals(spacing[1:])
    )
    shared.PlaneOrientationSequence = item(ImageOrientationPatient=decimals(orientation))
    dataset.SharedFunctionalGroupsSequence = DicomSequence([shared])
    groups = []
    positions = true_positions(shape[0], spacing, origin, orientation)
    for segment, z in np.ndindex(segments, shape[0]):
        group = Dataset()
        group.FrameContentSequence = item(DimensionIndexValues=[int(segment) + 1, int(z) + 1])
        group.PlanePositionSequence = item(ImagePositionPatient=decimals(positions[z]))
        group.SegmentIdentificationSequence = item(ReferencedSegmentNumber=int(segment) + 1)
        groups.append(group)
    dataset.PerFrameFunctionalGroupsSequence = DicomSequence(groups)
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.NumberOfFrames = len(groups)
    _describe_pixels(dataset, shape[1], shape[2], 1, 1, 1, False)
    dataset.PixelData = pack_bits(true_mask(len(groups), shape[1], shape[2]).ravel())
    dataset["PixelData"].VR = "OB"
    return save(dataset, Path(path), edit)


def write_structured_report(
    path: str | os.PathLike[str],
    *,
    patient_id: str = "RAMP-1",
    study_uid: str | None = None,
    series_uid: str | None = None,
    edit: Edit | None = None,
) -> Path:
    """Write a small Basic Text SR: a good DICOM file without an image."""
    study_uid = study_uid or uid("study", patient_id)
    series_uid = series_uid or uid("report", study_uid)
    dataset = _dataset(BasicTextSRStorage, ExplicitVRLittleEndian, uid("instance", series_uid))
    _identify(dataset, "SR", patient_id, study_uid, series_uid, 1)
    del dataset.ImageType
    dataset.CompletionFlag, dataset.VerificationFlag = "COMPLETE", "UNVERIFIED"
    dataset.ValueType = "CONTAINER"
    dataset.ContinuityOfContent = "SEPARATE"
    dataset.ConceptNameCodeSequence = item(
        CodeValue="18748-4", CodingSchemeDesignator="LN", CodeMeaning="Diagnostic imaging report"
    )
    finding = item(CodeValue="121071", CodingSchemeDesignator="DCM", CodeMeaning="Finding")
    dataset.ContentSequence = item(
        RelationshipType="CONTAINS",
        ValueType="TEXT",
        TextValue="A ramp, as expected.",
        ConceptNameCodeSequence=finding,
    )
    return save(dataset, Path(path), edit)


# --------------------------------------------------------------------------------------------------
# the parts


def uid(*words: object) -> str:
    """Return a UID that depends only on `words`."""
    return str(generate_uid(prefix=UID_PREFIX, entropy_srcs=[repr(word) for word in words]))


def frame_order(frames: int, seed: int = 0) -> list[int]:
    """The shuffled order that `write_multiframe` takes by default."""
    return _shuffled(list(range(frames)), seed)


def per_slice(value: Any, slices: int) -> list[Any]:
    """Return one value per slice, from one value or a sequence of them."""
    return list(value) if np.ndim(value) else [value] * slices


def decimal(value: float) -> DSfloat:
    """A number as a Decimal String of at most 16 characters (PS3.5 6.2)."""
    return DSfloat(float(value), auto_format=True)


def decimals(values: Iterable[float]) -> list[DSfloat]:
    """Numbers as Decimal Strings."""
    return [decimal(value) for value in values]


def item(**attributes: Any) -> DicomSequence:
    """A sequence of one item with these attributes, by keyword."""
    dataset = Dataset()
    for keyword, value in attributes.items():
        setattr(dataset, keyword, value)
    return DicomSequence([dataset])


def set_pixels(
    dataset: Dataset,
    values: Array,
    bits_allocated: int,
    bits_stored: int,
    signed: bool,
    *,
    unused_bits: Literal["extend", "zero", "ones"] = "extend",
    offset_table: OffsetTable = "basic",
    fragments_per_frame: int = 1,
) -> None:
    """Store `values`, (frames, rows, columns[, samples]), in the file meta's transfer syntax."""
    low, high = (
        (-(1 << bits_stored - 1), (1 << bits_stored - 1) - 1)
        if signed
        else (0, (1 << bits_stored) - 1)
    )
    if values.min() < low or values.max() > high:
        raise ValueError(
            f"values {values.min()} to {values.max()} exceed {bits_stored} bits: {low} to {high}"
        )
    samples = values.shape[3] if values.ndim == 4 else 1
    _describe_pixels(
        dataset, values.shape[1], values.shape[2], samples, bits_allocated, bits_stored, signed
    )
    samples_as_stored = values.astype(f"<{'i' if signed else 'u'}{bits_allocated // 8}")
    syntax = UID(dataset.file_meta.TransferSyntaxUID)
    if syntax in NATIVE_SYNTAXES:
        dataset.PixelData = _native_bytes(samples_as_stored, dataset, syntax, unused_bits)
        dataset["PixelData"].VR = (
            "OB" if bits_allocated == 8 and syntax != ImplicitVRLittleEndian else "OW"
        )
        return
    if fragments_per_frame > 1 and (offset_table == "extended" or syntax == RLELossless):
        raise ValueError(
            "an Extended Offset Table (PS3.3 C.7.6.3) and RLE (PS3.5 A.4.2) need one fragment per "
            "frame"
        )
    frames = [encode_frame(frame, syntax, bits_stored) for frame in samples_as_stored]
    if offset_table == "extended":
        dataset.PixelData, dataset.ExtendedOffsetTable, dataset.ExtendedOffsetTableLengths = (
            encapsulate_extended(frames)
        )
    else:
        dataset.PixelData = encapsulate(
            frames, fragments_per_frame=fragments_per_frame, has_bot=offset_table == "basic"
        )
    dataset["PixelData"].VR = "OB"
    dataset["PixelData"].is_undefined_length = True


def encode_htj2k(image: NDArray[Any]) -> bytes:
    """A frame as HTJ2K; the test is skipped by name where imagecodecs is too old to encode it."""
    if not hasattr(imagecodecs, "htj2k_encode"):
        pytest.skip("needs an encoder of HTJ2K (imagecodecs 2026.1.1)")
    return bytes(imagecodecs.htj2k_encode(image, reversible=True))


def encode_frame(frame: Array, syntax: str, bits_stored: int) -> bytes:
    """Return the codestream of one frame, lossless except for JPEG baseline.

    The frame is (rows, columns[, samples]) of 8 or 16 bits. JPEG 2000 preserves the sign; JPEG and
    JPEG-LS have none and get the two's complement in `bits_stored` bits, RLE the allocated bytes
    unchanged. imagecodecs writes JPEG-LS of 9 to 16 bits with a precision of 16: pydicom 3.0.2 then
    does not extend the sign of 12-bit samples, GDCM does. GDCM cannot read RLE of an odd number of
    pixels.
    """
    if syntax in (JPEG2000Lossless, JPEG2000):
        # Without a multiple component transform, PhotometricInterpretation remains unchanged.
        return bytes(
            imagecodecs.jpeg2k_encode(
                frame,
                level=0,
                codecformat="j2k",
                reversible=True,
                mct=False,
                bitspersample=bits_stored,
            )
        )
    plain = np.ascontiguousarray(frame).view(f"<u{frame.itemsize}")
    if syntax == RLELossless:
        coded: bytes = RLELosslessEncoder.encode(
            plain,
            encoding_plugin="pydicom",
            rows=frame.shape[0],
            columns=frame.shape[1],
            samples_per_pixel=frame.shape[2] if frame.ndim == 3 else 1,
            bits_allocated=8 * frame.itemsize,
            bits_stored=8 * frame.itemsize,
            pixel_representation=0,
            photometric_interpretation="RGB" if frame.ndim == 3 else "MONOCHROME2",
            planar_configuration=0,
            number_of_frames=1,
        )
        return coded
    plain = plain & plain.dtype.type((1 << bits_stored) - 1)
    if syntax == JPEGLSLossless:
        return bytes(imagecodecs.jpegls_encode(plain, level=0))
    if syntax in (JPEGLossless, JPEGLosslessSV1):
        return bytes(
            imagecodecs.jpeg8_encode(plain, lossless=True, predictor=1, bitspersample=bits_stored)
        )
    if syntax == JPEGBaseline8Bit:
        return bytes(imagecodecs.jpeg8_encode(plain, level=95))
    raise ValueError(f"no encoder for transfer syntax {syntax}")


def save(dataset: Dataset, path: Path, edit: Edit | None = None, z: int = 0) -> Path:
    """Apply `edit`, and write the data set as a new DICOM file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists():
        raise FileExistsError(f"{path} is there already: give each call its own seed or names")
    if edit is not None:
        edit(dataset, z)
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    path.write_bytes(written(dataset))
    return path


def _dataset(sop_class: str, transfer_syntax: str, sop_uid: str) -> FileDataset:
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = UID(transfer_syntax)
    meta.ImplementationClassUID = UID(UID_PREFIX + "1")
    dataset = FileDataset(None, {}, file_meta=meta, preamble=b"\0" * 128)  # type: ignore[arg-type]
    dataset.SOPClassUID = sop_class
    dataset.SOPInstanceUID = sop_uid
    return dataset


def _identify(
    dataset: Dataset,
    modality: str,
    patient_id: str,
    study_uid: str,
    series_uid: str,
    instance_number: int,
) -> None:
    dataset.PatientName = "RAMP^PHANTOM"
    dataset.PatientID = patient_id
    dataset.PatientSex, dataset.PatientBirthDate = "O", ""
    dataset.StudyInstanceUID = study_uid
    dataset.StudyDate, dataset.StudyTime, dataset.StudyID, dataset.AccessionNumber = (
        "20200101",
        "120000",
        "1",
        "",
    )
    dataset.StudyDescription, dataset.SeriesDescription = "RAMP STUDY", f"RAMP {modality}"
    dataset.SeriesInstanceUID = series_uid
    dataset.SeriesNumber = 1
    dataset.Modality = modality
    dataset.Manufacturer = "RAMPWORKS"
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    dataset.InstanceNumber = instance_number


def _describe_pixels(
    dataset: Dataset,
    rows: int,
    columns: int,
    samples: int,
    bits_allocated: int,
    bits_stored: int,
    signed: bool,
) -> None:
    dataset.Rows, dataset.Columns, dataset.SamplesPerPixel = rows, columns, samples
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = (
        bits_allocated,
        bits_stored,
        bits_stored - 1,
    )
    dataset.PixelRepresentation = int(signed)


def _native_bytes(values: Array, dataset: Dataset, syntax: UID, unused_bits: str) -> bytes:
    if dataset.SamplesPerPixel > 1 and dataset.PlanarConfiguration == 1:
        values = np.moveaxis(values, 3, 1)
    used = (1 << int(dataset.BitsStored)) - 1
    plain = np.ascontiguousarray(values).view(f"<u{values.itemsize}")
    if unused_bits == "zero":
        plain = plain & plain.dtype.type(used)
    elif unused_bits == "ones":
        plain = plain | plain.dtype.type(~used & ((1 << 8 * values.itemsize) - 1))
    stored = plain.astype(plain.dtype.newbyteorder(">")) if syntax == ExplicitVRBigEndian else plain
    data = stored.tobytes()
    return data + b"\0" * (len(data) % 2)


def _rescale(slope: float, intercept: float) -> DicomSequence:
    return item(RescaleIntercept=decimal(intercept), RescaleSlope=decimal(slope), RescaleType="US")


def _paths(
    folder: Path,
    names: str,
    wanted: list[tuple[int, int]],
    series_uid: str,
    identity: tuple[object, ...],
) -> dict[tuple[int, int], Path]:
    if names == "ordered":
        return {(z, number): folder / f"slice{z:04d}{'abc'[number]}.dcm" for z, number in wanted}
    return {
        (z, number): folder
        / hashlib.blake2b(
            repr((series_uid, identity, z, number)).encode(), digest_size=6
        ).hexdigest()
        for z, number in wanted
    }


def _digest(words: tuple[object, ...]) -> str:
    return hashlib.blake2b(repr(words).encode(), digest_size=6).hexdigest()


def _shuffled(items: list[Any], seed: int) -> list[Any]:
    return random.Random(seed).sample(items, len(items))


LONG_VRS = (b"SQ", b"UN", b"OW", b"OB", b"OV", b"OF", b"OD", b"UT")


def element(
    tag: int, vr: bytes, value: bytes = b"", syntax: Syntax = EXPLICIT, length: int | None = None
) -> bytes:
    """One data element, or an item or delimiter when `vr` is empty."""
    order = "<" if syntax.little else ">"
    head = struct.pack(order + "HH", tag >> 16, tag & 0xFFFF)
    count = len(value) if length is None else length
    if not vr or not syntax.explicit:
        return head + struct.pack(order + "I", count) + value
    if vr in LONG_VRS:
        return head + vr + b"\0\0" + struct.pack(order + "I", count) + value
    return head + vr + struct.pack(order + "H", count) + value
