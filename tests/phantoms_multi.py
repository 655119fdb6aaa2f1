"""Writers of ramp phantoms whose objects pack slices in their own way.

These are mosaics, grids, NM and ultrasound volumes, and instances divided into files. Voxels and
geometry are those of `phantoms`: the voxel at (z, y, x) stores x + 7 y + 53 z, and slice z lies at
``origin + z * dz * (row direction x column direction)``.
"""

import copy
import math
import os
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from phantoms import (
    Array,
    Edit,
    _dataset,
    _identify,
    decimal,
    decimals,
    frame_order,
    item,
    ramp,
    save,
    set_pixels,
    slice_normal,
    true_positions,
    uid,
)
from pydicom import dcmread
from pydicom.dataset import Dataset, FileDataset
from pydicom.sequence import Sequence as DicomSequence
from pydicom.uid import (
    EnhancedUSVolumeStorage,
    ExplicitVRLittleEndian,
    MRImageStorage,
    NuclearMedicineImageStorage,
)

Direction = Sequence[float]


def tiled(volume: Array, *, is_square: bool = True) -> Array:
    """Arrange (slices, rows, columns) as one image of tiles on ceil(sqrt(slices)) columns, else 0.

    There are as many rows of tiles as columns, or only as many as needed.
    """
    slices, rows, columns = volume.shape
    side = math.ceil(math.sqrt(slices))
    down = side if is_square else math.ceil(slices / side)
    mosaic = np.zeros((down * rows, side * columns), volume.dtype)
    for k, tile in enumerate(volume):
        top, left = k // side * rows, k % side * columns
        mosaic[top : top + rows, left : left + columns] = tile
    return mosaic


# --- Siemens --------------------------------------------------------------------------------------


def csa_header(
    entries: Mapping[str, Sequence[object]], version: Literal[1, 2] = 2, padding_items: int = 6
) -> bytes:
    """A CSA header: entries of items, which are text.

    Each entry has `padding_items` items, the empty ones last.
    """
    parts = [b"SV10\4\3\2\1"] if version == 2 else []
    parts.append(struct.pack("<II", len(entries), 77))
    for name, values in entries.items():
        parts.append(
            struct.pack("<64si4siii", name.encode(), len(values), b"FD", 4, padding_items, 77)
        )
        for number in range(padding_items):
            text = f"{values[number]}".encode() + b"\0" if number < len(values) else b""
            first = len(text) + (padding_items if version == 1 else 0)
            parts.append(
                struct.pack("<iiii", first, len(text), 77, len(text))
                + text
                + b"\0" * (-len(text) % 4)
            )
    return b"".join(parts)


def csa_series_header(centres: NDArray[np.float64], *, reverse: bool = False) -> bytes:
    """The part of a CSA series header that lists the slices of the protocol."""
    lines = ["<XProtocol>", "### ASCCONV BEGIN ###"]
    for k, centre in enumerate(centres):
        lines += [
            f"sSliceArray.asSlice[{k}].sPosition.d{axis} = {value:.10g}"
            for axis, value in zip(("Sag", "Cor", "Tra"), centre, strict=True)
            if value
        ]
    lines += [
        f"sSliceArray.lSize = {len(centres)}",
        *(["sSliceArray.ucImageNumbTra = 0x1"] if reverse else []),
        "### ASCCONV END ###",
    ]
    return b"SV10\4\3\2\1" + "\n".join(lines).encode()


def add_csa(dataset: Dataset, image: bytes | None, series: bytes | None) -> None:
    """Add the elements (0029,1010) and (0029,1020) under their creator."""
    block = dataset.private_block(0x0029, "SIEMENS CSA HEADER", create=True)
    for element, content in ((0x10, image), (0x20, series)):
        if content is not None:
            block.add_new(element, "OB", content + b"\0" * (len(content) % 2))


def _mr(
    rows: Sequence[object], transfer_syntax: str, image_type: Sequence[str], manufacturer: str
) -> FileDataset:
    study = uid("study", "RAMP-1")
    series = uid("packed series", *rows)
    dataset = _dataset(
        MRImageStorage, transfer_syntax, uid("instance", series, transfer_syntax, *rows)
    )
    _identify(dataset, "MR", "RAMP-1", study, series, 1)
    dataset.FrameOfReferenceUID = uid("frame of reference", study)
    dataset.ImageType = list(image_type)
    dataset.Manufacturer = manufacturer
    dataset.PhotometricInterpretation = "MONOCHROME2"
    return dataset


def write_mosaic(
    path: str | os.PathLike[str],
    *,
    shape: tuple[int, int, int] = (7, 6, 8),
    spacing: tuple[float, float, float] = (4.0, 1.5, 2.0),
    origin: Sequence[float] = (-10, 20, 30),
    orientation: Sequence[float] = (1, 0, 0, 0, 1, 0),
    descending: bool = False,
    csa: Literal[0, 1, 2] = 2,
    series_header: bool = False,
    count_tag: bool = True,
    entries: Mapping[str, Sequence[object]] | None = None,
    transfer_syntax: str = ExplicitVRLittleEndian,
    bits_allocated: int = 16,
    bits_stored: int = 12,
    signed: bool = False,
    edit: Edit | None = None,
) -> Path:
    """Write the ramp phantom as one Siemens mosaic.

    `descending` puts the last slice into the first tile. `csa` is the version of the CSA image
    header, 0 for none; `entries` are added to it or replace its entries. `series_header` adds the
    CSA series header, `count_tag` (0019,100A). ImagePositionPatient is that of a slice of the
    mosaic's size, centred on the first tile.
    """
    slices, rows, columns = shape
    order = range(slices)[:: -1 if descending else 1]
    mosaic = tiled(ramp(shape)[list(order)])
    axes = np.asarray(orientation, np.float64)
    positions = true_positions(slices, spacing, origin, orientation)
    shift = (mosaic.shape[1] - columns) / 2 * spacing[2] * axes[:3] + (
        mosaic.shape[0] - rows
    ) / 2 * spacing[1] * axes[3:]
    dataset = _mr(
        (shape, descending, csa),
        transfer_syntax,
        ("ORIGINAL", "PRIMARY", "M", "ND", "MOSAIC"),
        "SIEMENS",
    )
    dataset.ImagePositionPatient = decimals(positions[order[0]] - shift)
    dataset.ImageOrientationPatient = decimals(orientation)
    dataset.PixelSpacing, dataset.SpacingBetweenSlices = decimals(spacing[1:]), decimal(spacing[0])
    if count_tag:
        dataset.private_block(0x0019, "SIEMENS MR HEADER", create=True).add_new(0x0A, "US", slices)
    normal = slice_normal(orientation) * (-1 if descending else 1)
    said = {
        "EchoLinePosition": [3],
        "NumberOfImagesInMosaic": [slices],
        "SliceNormalVector": [f"{n:.8f}" for n in normal],
        **(entries or {}),
    }
    centres = (
        positions
        + (columns - 1) / 2 * spacing[2] * axes[:3]
        + (rows - 1) / 2 * spacing[1] * axes[3:]
    )
    add_csa(
        dataset,
        csa_header(said, version=csa) if csa else None,
        csa_series_header(centres, reverse=descending) if series_header else None,
    )
    set_pixels(dataset, mosaic[None], bits_allocated, bits_stored, signed)
    return save(dataset, Path(path), edit)


# --- UIH ------------------------------------------------------------------------------------------


def write_uih_grid(
    path: str | os.PathLike[str],
    *,
    shape: tuple[int, int, int] = (7, 6, 8),
    spacing: tuple[float, float, float] = (4.0, 1.5, 2.0),
    origin: Sequence[float] = (-10, 20, 30),
    orientation: Sequence[float] = (1, 0, 0, 0, 1, 0),
    count: str | None = None,
    transfer_syntax: str = ExplicitVRLittleEndian,
    edit: Edit | None = None,
) -> Path:
    """Write the ramp phantom as one UIH grid.

    (0065,1050) is the number of slices, (0065,1051) an item with the position of each.
    """
    positions = true_positions(shape[0], spacing, origin, orientation)
    dataset = _mr((shape, "uih"), transfer_syntax, ("ORIGINAL", "PRIMARY", "M", "VFRAME"), "UIH")
    dataset.ImagePositionPatient, dataset.ImageOrientationPatient = (
        decimals(positions[0]),
        decimals(orientation),
    )
    dataset.PixelSpacing, dataset.SpacingBetweenSlices = decimals(spacing[1:]), decimal(spacing[0])
    block = dataset.private_block(0x0065, "Image Private Header", create=True)
    block.add_new(0x50, "DS", count if count is not None else str(shape[0]))
    block.add_new(
        0x51,
        "SQ",
        DicomSequence([item(ImagePositionPatient=decimals(position))[0] for position in positions]),
    )
    set_pixels(dataset, tiled(ramp(shape), is_square=False)[None], 16, 12, False)
    return save(dataset, Path(path), edit)


# --- nuclear medicine and ultrasound --------------------------------------------------------------


def write_nm_volume(
    path: str | os.PathLike[str],
    *,
    shape: tuple[int, int, int] = (6, 5, 7),
    spacing: tuple[float, float, float] = (4.0, 2.0, 2.0),
    origin: Sequence[float] = (-10, 20, 30),
    orientation: Sequence[float] = (1, 0, 0, 0, 1, 0),
    descending: bool = False,
    time_slots: int = 1,
    image_type: str = "RECON TOMO",
    edit: Edit | None = None,
) -> Path:
    """Write the ramp phantom as a reconstructed NM volume (PS3.3 A.5), from the top down if asked.

    The detector's item has the position of the first frame, the sign of SpacingBetweenSlices the
    direction of the others. Each of `time_slots` adds 1000 to the ramp.
    """
    slices = shape[0]
    order = list(range(slices))[:: -1 if descending else 1]
    study, series = (
        uid("study", "RAMP-1"),
        uid("NM series", shape, descending, time_slots, image_type),
    )
    dataset = _dataset(NuclearMedicineImageStorage, ExplicitVRLittleEndian, uid("instance", series))
    _identify(dataset, "NM", "RAMP-1", study, series, 1)
    dataset.FrameOfReferenceUID = uid("frame of reference", study)
    dataset.ImageType = ["DERIVED", "PRIMARY", image_type, "EMISSION"]
    dataset.PixelSpacing = decimals(spacing[1:])
    dataset.SpacingBetweenSlices = decimal(-spacing[0] if descending else spacing[0])
    first = true_positions(slices, spacing, origin, orientation)[order[0]]
    detector = {
        "ImagePositionPatient": decimals(first),
        "ImageOrientationPatient": decimals(orientation),
    }
    dataset.DetectorInformationSequence = item(**detector)
    dataset.NumberOfFrames = slices * time_slots
    dataset.FrameIncrementPointer = [0x00540070, 0x00540080] if time_slots > 1 else [0x00540080]
    dataset.SliceVector = list(range(1, slices + 1)) * time_slots
    if time_slots > 1:
        dataset.TimeSlotVector = [slot + 1 for slot in range(time_slots) for _ in range(slices)]
    dataset.PhotometricInterpretation = "MONOCHROME2"
    set_pixels(
        dataset,
        np.concatenate([ramp(shape)[order] + 1000 * slot for slot in range(time_slots)]),
        16,
        16,
        False,
    )
    return save(dataset, Path(path), edit)


def write_us_volume(
    path: str | os.PathLike[str],
    *,
    shape: tuple[int, int, int] = (6, 5, 7),
    spacing: tuple[float, float, float] = (2.0, 1.0, 1.0),
    origin: Sequence[float] = (-10, 20, 30),
    orientation: Sequence[float] = (1, 0, 0, 0, 1, 0),
    times: Sequence[float] = (0.0,),
    seed: int = 0,
    edit: Edit | None = None,
) -> Path:
    """Write the ramp phantom as an enhanced ultrasound volume (PS3.3 A.59), frames shuffled.

    There is one volume per time; their values are 1000 apart.
    """
    study, series = uid("study", "RAMP-1"), uid("US volume", shape, times, seed)
    dataset = _dataset(EnhancedUSVolumeStorage, ExplicitVRLittleEndian, uid("instance", series))
    _identify(dataset, "US", "RAMP-1", study, series, 1)
    dataset.VolumeFrameOfReferenceUID = uid("volume frame of reference", study)
    shared = Dataset()
    shared.PixelMeasuresSequence = item(
        PixelSpacing=decimals(spacing[1:]), SpacingBetweenSlices=decimal(spacing[0])
    )
    shared.PlaneOrientationVolumeSequence = item(
        ImageOrientationVolume=[float(v) for v in orientation]
    )
    dataset.SharedFunctionalGroupsSequence = DicomSequence([shared])
    positions = true_positions(shape[0], spacing, origin, orientation)
    groups: list[Any] = []
    planes = []
    for number in frame_order(shape[0] * len(times), seed):
        time, z = divmod(number, shape[0])
        group = Dataset()
        group.FrameContentSequence = item(
            TemporalPositionIndex=time + 1, DimensionIndexValues=[time + 1, z + 1]
        )
        group.PlanePositionVolumeSequence = item(
            ImagePositionVolume=[float(v) for v in positions[z]]
        )
        group.TemporalPositionSequence = item(TemporalPositionTimeOffset=float(times[time]))
        groups.append(group)
        planes.append(ramp(shape)[z] + 1000 * time)
    dataset.PerFrameFunctionalGroupsSequence = DicomSequence(groups)
    dataset.NumberOfFrames = len(groups)
    dataset.PhotometricInterpretation = "MONOCHROME2"
    set_pixels(dataset, np.stack(planes), 16, 16, False)
    return save(dataset, Path(path), edit)


def divide(path: Path, sizes: Sequence[int]) -> list[Path]:
    """Replace a file of plain frames by a concatenation of files with so many frames each.

    The names of the files are in the reverse order of their parts (PS3.3 C.7.6.16.2.2.4).
    """
    whole = dcmread(path)
    assert sum(sizes) == int(whole.NumberOfFrames)
    samples = whole.Rows * whole.Columns * whole.SamplesPerPixel
    stored = np.frombuffer(whole.PixelData, np.uint8)
    if whole.BitsAllocated == 1:
        stored = np.unpackbits(stored, bitorder="little")
    else:
        samples *= whole.BitsAllocated // 8
    groups = whole.get("PerFrameFunctionalGroupsSequence")
    paths, start = [], 0
    for number, size in enumerate(sizes):
        frames = slice(start, start + size)
        part = copy.deepcopy(whole)
        part.SOPInstanceUID = uid(whole.SOPInstanceUID, "part", number)
        part.file_meta.MediaStorageSOPInstanceUID = part.SOPInstanceUID
        part.ConcatenationUID = uid(whole.SOPInstanceUID, "concatenation")
        part.SOPInstanceUIDOfConcatenationSource = whole.SOPInstanceUID
        part.InConcatenationNumber, part.InConcatenationTotalNumber = number + 1, len(sizes)
        part.ConcatenationFrameOffsetNumber, part.NumberOfFrames = start, size
        if groups is not None:
            part.PerFrameFunctionalGroupsSequence = groups[frames]
        values = stored[samples * frames.start : samples * frames.stop]
        data = values.tobytes()
        if whole.BitsAllocated == 1:
            data = np.packbits(values, bitorder="little").tobytes()
        part.PixelData = data + b"\0" * (len(data) % 2)
        paths.append(save(part, path.with_name(f"{path.stem}-{len(sizes) - number}.dcm")))
        start += size
    path.unlink()
    return paths
