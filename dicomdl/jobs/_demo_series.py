"""The Series of the made-up patient, as elements of DICOM files.

Each has one property that readers of slices get wrong: the order of files, a tilted gantry, missing
slices, two echoes, a slope per slice, a mosaic, MONOCHROME1. All values are computed.
"""

import math
import struct
from collections.abc import Iterator
from typing import Any, Final

import numpy as np

from dicomdl.geometry.grid import Geometry
from dicomdl.jobs._demo_patient import File, Head, Image, Series, placed
from dicomdl.jobs._head import per_tissue
from dicomdl.jobs._part10 import Elements

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


def first_patient(head: Head) -> Iterator[File]:
    """Yield the files of a patient with every kind of Series."""
    yield from ct(head)
    yield from _tilted_ct(head)
    yield from _gapped_ct(head)
    yield from _two_echoes(head)
    yield from _pet(head)
    yield from _mosaics(head)
    yield _film(head)


def ct_grid(head: Head) -> Geometry:
    """Return the grid of the CT that a patient has: fine for the first one, small for others."""
    if head.number == 1:
        return axial((72, 192, 192), (2.5, 1.25))
    return axial((36, 96, 96), (5.0, 2.5))


def ct_series(head: Head) -> Series:
    """Return the Series of that CT."""
    return Series(head, "ct", 2, "Head CT 2.5 mm" if head.number == 1 else "Head CT 5 mm")


def ct(head: Head) -> Iterator[File]:
    """Yield axial CT: regular, with files that are named by their UIDs."""
    grid = ct_grid(head)
    return ct_series(head).slices(grid, _ct_values(head, grid, 2), _CT)


def _tilted_ct(head: Head) -> Iterator[File]:
    grid = axial((64, 192, 192), (2.75, 1.25), TILT_DEG)
    series = Series(head, "ct-tilted", 3, "Head CT gantry tilt")
    return series.slices(grid, _ct_values(head, grid, 3), {**_CT, "GantryDetectorTilt": TILT_DEG})


def _gapped_ct(head: Head) -> Iterator[File]:
    grid = axial((44, 160, 160), (4.0, 1.5))
    series = Series(head, "ct-missing-slices", 4, "Head CT 4 mm")
    return series.slices(grid, _ct_values(head, grid, 4), _CT, without=MISSING)


def _two_echoes(head: Head) -> Iterator[File]:
    grid = axial((36, 160, 160), (4.5, 1.5))
    tissues = head.tissues(grid)
    series = Series(head, "mr-two-echoes", 5, "Brain PD+T2")
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
    series = Series(head, "pet-slope-per-slice", 6, "Brain FDG PET")
    affine = fine.affine @ np.diag([1, 2, 2, 1])
    affine[:3, 3] = fine.voxel_to_world([0, 0.5, 0.5])
    return series.slices(Geometry(shape, affine), stored.round(), _PET, each=each)


def _mosaics(head: Head) -> Iterator[File]:
    """Yield fMRI as Siemens writes it: all slices of a time point as tiles of one image."""
    grid = axial((36, 64, 64), (4.0, 3.5))
    signal = 15 * per_tissue("density") * np.exp(-30 / np.minimum(per_tissue("t2_ms"), 90))
    values = _smoothed(signal[head.tissues(grid)] * _coil(grid))
    series = Series(head, "mr-mosaic", 7, "fMRI rest")
    for time in range(_TIME_POINTS):
        noisy = np.abs(values + 14 * head.noise(grid.shape, 7 + 50 * time)).round()
        tiles = noisy.reshape(6, 6, 64, 64).swapaxes(1, 2).reshape(384, 384)
        csa = _csa_header({"NumberOfImagesInMosaic": "36", "SliceNormalVector": _NORMAL})
        # The position of a slice of the size of the mosaic, centred on the first tile.
        corner = grid.affine[:3, 3] - 2.5 * 64 * 3.5 * np.array([1, 1, 0])
        facts: dict[str | int, Any] = {
            **_MR,
            **placed(grid, corner),
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
    series = Series(head, "film", 8, "Skull lateral")
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
