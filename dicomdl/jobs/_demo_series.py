"""The Series of the made-up patient, as elements of DICOM files.

Each has one property that readers of slices get wrong: the order of files, a tilted gantry, missing
slices, two echoes, a slope per slice, a mosaic, MONOCHROME1. All values are computed; no number or
name comes from a person. UIDs are digests of their path, so that two runs write the same bytes.
"""

import hashlib
import math
import os
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from dicomdl.arrays import Floats
from dicomdl.geometry.grid import Geometry
from dicomdl.jobs._head import Lesion, Tissues, paint, per_tissue
from dicomdl.jobs._part10 import Elements

Image = npt.NDArray[Any]
# A path below the folder of the data, and the elements of the data set to write there.
File = tuple[str, Elements]

# Degrees of the tilted gantry, and echo times of the MR, ms.
TILT_DEG: Final = 18.0
ECHO_TIMES_MS: Final = (12.0, 96.0)
# Slices that the series with a gap lacks.
MISSING: Final = (13, 14, 15, 25)
_TIME_POINTS: Final = 3
# Made-up PET: injected dose (Bq), weight (kg), half-life (s), seconds from injection to scan.
_DOSE: Final = 3.5e8
_WEIGHT: Final = 75.0
_HALF_LIFE_S: Final = 6586.2
_WAIT_S: Final = 3600


@dataclass(frozen=True, slots=True)
class Head:
    """A head of one made-up patient.

    Attributes
    ----------
    number
        The patient, from 1.
    size
        Factor of all lengths.
    lesion
        The lesion of this patient.
    """

    number: int
    size: float
    lesion: Lesion

    @property
    def patient_id(self) -> str:
        """PatientID of this head."""
        return f"DEMO-{self.number:03}"

    def tissues(self, grid: Geometry) -> Tissues:
        """Return the tissue code of every voxel of a grid."""
        affine = grid.affine.copy()
        affine[:3] /= self.size
        x, y, z = (each / self.size for each in self.lesion.center)
        return paint(
            Geometry(grid.shape, affine), Lesion((x, y, z), self.lesion.radius / self.size)
        )

    def noise(self, shape: Sequence[int], key: int) -> npt.NDArray[np.float32]:
        """Return standard normal noise that depends on the patient and a key alone."""
        chance = np.random.default_rng((self.number, key))
        return chance.standard_normal(shape, dtype=np.float32)


def first_patient(head: Head) -> Iterator[File]:
    """Yield the files of a patient with every kind of Series."""
    yield from ct(head, (72, 192, 192), (2.5, 1.25))
    yield from _tilted_ct(head)
    yield from _gapped_ct(head)
    yield from _two_echoes(head)
    yield from _pet(head)
    yield from _mosaics(head)
    yield _film(head)


def other_patient(head: Head) -> Iterator[File]:
    """Yield the files of a patient with one small CT."""
    return ct(head, (36, 96, 96), (5.0, 2.5))


def ct(head: Head, shape: tuple[int, int, int], spacing: tuple[float, float]) -> Iterator[File]:
    """Yield axial CT: regular, with files that are named by their UIDs."""
    grid = axial(shape, spacing)
    series = _Series(head, "ct", 2, "Head CT 2.5 mm" if spacing[0] < 3 else "Head CT 5 mm")
    return series.slices(grid, _ct_values(head, grid, 2), _CT)


def _tilted_ct(head: Head) -> Iterator[File]:
    grid = axial((64, 192, 192), (2.75, 1.25), TILT_DEG)
    series = _Series(head, "ct-tilted", 3, "Head CT gantry tilt")
    return series.slices(grid, _ct_values(head, grid, 3), {**_CT, "GantryDetectorTilt": TILT_DEG})


def _gapped_ct(head: Head) -> Iterator[File]:
    grid = axial((44, 160, 160), (4.0, 1.5))
    series = _Series(head, "ct-missing-slices", 4, "Head CT 4 mm")
    return series.slices(grid, _ct_values(head, grid, 4), _CT, without=MISSING)


def _two_echoes(head: Head) -> Iterator[File]:
    grid = axial((36, 160, 160), (4.5, 1.5))
    tissues = head.tissues(grid)
    series = _Series(head, "mr-two-echoes", 5, "Brain PD+T2")
    for number, time_ms in enumerate(ECHO_TIMES_MS):
        signal = 11 * per_tissue("density") * np.exp(-time_ms / per_tissue("t2_ms"))
        values = _smoothed(signal[tissues] * _coil(grid))
        values = np.abs(values + 9 * head.noise(grid.shape, 5 + 50 * number))
        echo: Elements = {
            "EchoTime": time_ms,
            "EchoNumbers": number + 1,
            "RepetitionTime": 3200,
        }
        facts: Elements = {**_MR, **echo}
        yield from series.slices(
            grid, values.round(), facts, numbers=range(number + 1, 999, len(ECHO_TIMES_MS))
        )


def _pet(head: Head) -> Iterator[File]:
    """Yield PET of Bq/ml whose slices have a rescale slope each."""
    fine = axial((44, 128, 128), (4.0, 2.0))
    uptake = _smoothed(per_tissue("uptake")[head.tissues(fine)], times=2)
    shape = (44, 64, 64)
    uptake = uptake.reshape(44, 64, 2, 64, 2).mean((2, 4), dtype=np.float32)
    uptake = _smoothed(np.maximum(0, uptake * (1 + 0.1 * head.noise(shape, 6))))
    decayed = _DOSE * math.exp(-math.log(2) * _WAIT_S / _HALF_LIFE_S)
    activity = uptake * np.float32(decayed / (1000 * _WEIGHT))
    # The slope of a slice makes its largest value 32,767.
    slopes = [f"{max(float(each.max()), 1.0) / 32767:.8g}" for each in activity]
    stored = activity / np.array(slopes, np.float32)[:, None, None]
    each: list[Elements] = [
        {"RescaleSlope": slope, "ImageIndex": n + 1} for n, slope in enumerate(slopes)
    ]
    series = _Series(head, "pet-slope-per-slice", 6, "Brain FDG PET")
    affine = fine.affine @ np.diag([1, 2, 2, 1])
    affine[:3, 3] = fine.voxel_to_world([0, 0.5, 0.5])
    return series.slices(Geometry(shape, affine), stored.round(), _PET, each=each)


def _mosaics(head: Head) -> Iterator[File]:
    """Yield fMRI as Siemens writes it: all slices of a time point as tiles of one image."""
    grid = axial((36, 64, 64), (4.0, 3.5))
    signal = 15 * per_tissue("density") * np.exp(-30 / np.minimum(per_tissue("t2_ms"), 90))
    values = _smoothed(signal[head.tissues(grid)] * _coil(grid))
    series = _Series(head, "mr-mosaic", 7, "fMRI rest")
    for time in range(_TIME_POINTS):
        noisy = np.abs(values + 14 * head.noise(grid.shape, 7 + 50 * time)).round()
        tiles = noisy.reshape(6, 6, 64, 64).swapaxes(1, 2).reshape(384, 384)
        csa = _csa_header({"NumberOfImagesInMosaic": "36", "SliceNormalVector": _NORMAL})
        # The position of a slice of the size of the mosaic, centred on the first tile.
        corner = grid.affine[:3, 3] - 2.5 * 64 * 3.5 * np.array([1, 1, 0])
        facts: dict[str | int, Any] = {
            **_MR,
            **_placed(grid, corner),
            "ImageType": ["ORIGINAL", "PRIMARY", "M", "ND", "MOSAIC"],
            "Manufacturer": "SIEMENS",
            "EchoTime": 30,
            "RepetitionTime": 2000,
            "AcquisitionTime": f"1010{2 * time:02}.000000",
            "SpacingBetweenSlices": 4,
            0x00190010: ("LO", b"SIEMENS MR HEADER"),
            0x0019100A: ("US", struct.pack("<H", 36)),
            0x00290010: ("LO", b"SIEMENS CSA HEADER"),
            0x00291010: ("OB", csa),
        }
        yield series.file(time + 1, facts, tiles)


def _film(head: Head) -> File:
    """Return a lateral radiograph, MONOCHROME1: rays along x through a fine head."""
    affine = np.array([[2.0, 0, 0, -82], [0, 0, 0.8, -130], [0, -0.8, 0, 108], [0, 0, 0, 1]])
    grid = Geometry((83, 256, 320), affine)
    water = np.maximum(0, 1 + per_tissue("hu") / 1000)
    depth = water[head.tissues(grid)].sum(axis=0, dtype=np.float32, keepdims=True)
    # Absorption of water per mm; smooth, so that the steps of the rays do not show.
    depth = _smoothed(depth, times=2)[0] * np.float32(2 * 0.021)
    depth[14:44, 286:292] = depth[38:44, 286:304] = 4.5  # a lead letter L
    depth = depth + 0.03 * head.noise(depth.shape, 8)
    series = _Series(head, "film", 8, "Skull lateral")
    return series.file(1, _FILM, (4095 * np.exp(-0.42 * np.clip(depth, 0, 6))).round())


# --- values ---------------------------------------------------------------------------------------


def axial(
    shape: tuple[int, int, int], spacing: tuple[float, float], tilt_deg: float = 0
) -> Geometry:
    """Return a grid of axial slices about the middle of the head.

    The table moves along z; a tilted gantry turns each slice about the axis from left to right.
    """
    between, in_plane = spacing
    angle = math.radians(tilt_deg)
    affine = np.eye(4)
    affine[:3, 0] = 0, 0, between
    affine[:3, 1] = 0, in_plane * math.cos(angle), -in_plane * math.sin(angle)
    affine[:3, 2] = in_plane, 0, 0
    middle = (np.array(shape) - 1) / 2
    affine[:3, 3] = np.array([0, 0, 10]) - affine[:3, :3] @ middle
    return Geometry(shape, affine)


def _ct_values(head: Head, grid: Geometry, key: int) -> Image:
    values = _smoothed(per_tissue("hu")[head.tissues(grid)])
    values += 4 * head.noise(grid.shape, key)
    return np.asarray(np.clip(values.round() + 1024, 0, 4095))


def _smoothed(values: Image, times: int = 1) -> Image:
    """Smooth rows and columns by (1, 2, 1) / 4, as a detector does."""
    for _ in range(times):
        padded = np.pad(values, ((0, 0), (1, 1), (1, 1)), mode="edge")
        rows = padded[:, :-2] + padded[:, 2:] + 2 * padded[:, 1:-1]
        values = (rows[..., :-2] + rows[..., 2:] + 2 * rows[..., 1:-1]) / np.float32(16)
    return values


def _coil(grid: Geometry) -> Image:
    """Return the sensitivity of the coil, which falls smoothly towards the feet."""
    z = grid.affine[2, 3] + grid.affine[2, 0] * np.arange(grid.shape[0], dtype=np.float32)
    y = np.linspace(-1, 1, grid.shape[1], dtype=np.float32)
    return np.asarray(((1 - np.clip(-z, 0, 120) / 260)[:, None] * (1 + 0.08 * y))[..., None])


def _csa_header(entries: dict[str, str]) -> bytes:
    """Return a CSA header, version 2: entries of items, which are text."""
    parts = [b"SV10\4\3\2\1", struct.pack("<II", len(entries), 77)]
    for name, text in entries.items():
        values = [value.encode() + b"\0" for value in text.split()]
        count = len(values)
        parts.append(struct.pack("<64si4siii", name.encode(), count, b"FD", 4, count, 77))
        for value in values:
            lengths = struct.pack("<iiii", len(value), len(value), 77, len(value))
            parts.append(lengths + value + b"\0" * (-len(value) % 4))
    return b"".join(parts)


# --- data sets ------------------------------------------------------------------------------------

_CT: Final[Elements] = {"Modality": "CT", "RescaleSlope": 1, "RescaleIntercept": -1024, "KVP": 120}
_MR: Final[Elements] = {"Modality": "MR", "MagneticFieldStrength": 3}
_NORMAL: Final = "0.0 0.0 1.0"
_PET: Final[Elements] = {
    "Modality": "PT",
    "Units": "BQML",
    "CorrectedImage": ["ATTN", "DECY", "SCAT"],
    "DecayCorrection": "START",
    "SeriesType": ["STATIC", "IMAGE"],
    "RescaleIntercept": 0,
    "PatientWeight": _WEIGHT,
    "SeriesTime": "100000.000000",
    "AcquisitionTime": "100000.000000",
    "ActualFrameDuration": 600000,
    "RadiopharmaceuticalInformationSequence": [
        {
            "RadiopharmaceuticalStartTime": "090000.000000",
            "RadionuclideTotalDose": _DOSE,
            "RadionuclideHalfLife": _HALF_LIFE_S,
        }
    ],
}
_FILM: Final[Elements] = {
    "Modality": "DX",
    "PhotometricInterpretation": "MONOCHROME1",
    "BodyPartExamined": "SKULL",
    "ViewPosition": "LL",
    "ImagerPixelSpacing": ["0.8", "0.8"],
    "PresentationIntentType": "FOR PRESENTATION",
}
_SOP_CLASSES: Final = {
    "CT": "CTImageStorage",
    "MR": "MRImageStorage",
    "PT": "PositronEmissionTomographyImageStorage",
    "DX": "DigitalXRayImageStorageForPresentation",
}
_DATE: Final = "20200101"


@dataclass(frozen=True, slots=True)
class _Series:
    """One Series of a patient: its identity, and its files."""

    head: Head
    name: str
    number: int
    description: str

    def slices(
        self,
        grid: Geometry,
        stored: Image,
        facts: Elements,
        *,
        each: Sequence[Elements] = (),
        numbers: Sequence[int] = range(1, 999),
        without: Sequence[int] = (),
    ) -> Iterator[File]:
        """Yield one file per slice; `each` has further elements, `numbers` Instance Numbers."""
        for z, values in enumerate(stored):
            if z not in without:
                place = _placed(grid, grid.voxel_to_world([z, 0, 0]))
                yield self.file(numbers[z], {**facts, **place, **(each[z] if each else {})}, values)

    def file(self, instance: int, facts: Elements, stored: Image) -> File:
        """Return the elements of one file, which is named by its UID."""
        from pydicom import uid

        patient = self.head.patient_id
        series = f"{patient}/{self.name}"
        bits = 16 if facts["Modality"] == "PT" else 12
        instance_uid = _uid(f"{series}/{instance}")
        elements: dict[str | int, Any] = {
            "SOPClassUID": getattr(uid, _SOP_CLASSES[facts["Modality"]]),
            "SOPInstanceUID": instance_uid,
            "StudyInstanceUID": _uid(patient),
            "SeriesInstanceUID": _uid(series),
            "PatientID": patient,
            "PatientName": "Phantom",
            "StudyDate": _DATE,
            "SeriesDate": _DATE,
            "AcquisitionDate": _DATE,
            "StudyDescription": "dicomdl demo",
            "SeriesDescription": self.description,
            "SeriesNumber": self.number,
            "InstanceNumber": instance,
            "ImageType": ["ORIGINAL", "PRIMARY"],
            "Manufacturer": "dicomdl",
            "SamplesPerPixel": 1,
            "PhotometricInterpretation": "MONOCHROME2",
            "Rows": stored.shape[0],
            "Columns": stored.shape[1],
            "BitsAllocated": 16,
            "BitsStored": bits,
            "HighBit": bits - 1,
            "PixelRepresentation": 0,
            "PixelData": stored.astype("<u2").tobytes(),
            **facts,
        }
        if "ImagePositionPatient" in facts:
            elements["FrameOfReferenceUID"] = _uid(f"{patient}/space")
        folder = f"patient-{self.head.number:02}"
        return os.path.join(folder, self.name, f"{instance_uid[5:17]}.dcm"), elements


def _placed(grid: Geometry, position: Floats) -> Elements:
    """Return position, orientation and spacing of a slice."""
    _, row, column = grid.spacing
    down, right = grid.direction[:, 1], grid.direction[:, 2]
    return {
        "ImagePositionPatient": [_decimal(each) for each in position],
        "ImageOrientationPatient": [_decimal(each) for each in (*right, *down)],
        "PixelSpacing": [_decimal(row), _decimal(column)],
        # The distance of the slices along their normal.
        "SliceThickness": _decimal(abs(float(np.cross(right, down) @ grid.affine[:3, 0]))),
    }


def _decimal(value: float) -> str:
    """Return a number as DS, which has up to 16 characters."""
    return f"{value + 0.0:.9g}"


def _uid(text: str) -> str:
    """Return a UID (PS3.5 B.2) that depends on a text alone."""
    digest = hashlib.blake2b(text.encode(), digest_size=16, person=b"dicomdl demo").digest()
    return f"2.25.{int.from_bytes(digest, 'big')}"
