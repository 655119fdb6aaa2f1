"""The data of the benchmarks: CT slices as a scanner writes them, written once and stored.

A slice is 512 x 512, 12 bits in 16, explicit little endian, with a header of about 260 elements in
8 to 10 kB, modelled on that of GE (two thirds of the elements are private): UIDs and decimal
strings whose length differs between slices, nested sequences of defined and undefined length,
binary blocks. The elements differ between series. The pixels are a smooth body plus noise, which
gives codecs a realistic ratio (about 2.3 : 1 for JPEG 2000).

The folder is ``$DICOMDL_BENCHMARK_DATA``, or else the temporary folder. To write the data
beforehand: ``python tests/benchmarks/phantom_ct.py --slices 2048`` (1.1 GB).
"""

import argparse
import io
import os
import random
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import imagecodecs
import numpy as np
from numpy.typing import NDArray
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.filewriter import dcmwrite
from pydicom.pixels.encoders import RLELosslessEncoder  # type: ignore[attr-defined]
from pydicom.sequence import Sequence
from pydicom.uid import (
    UID,
    CTImageStorage,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)
from pydicom.valuerep import DSfloat

SLICES_PER_SERIES = 128
ROWS = COLUMNS = 512
ROOT_UID = "1.2.826.0.1.3680043.8.498.78"
VERSION = 1  # enters the folder names: a change of the data makes new ones
CODECS = {
    "j2k": JPEG2000Lossless,
    "jpeg-lossless": JPEGLosslessSV1,
    "jpeg-ls": JPEGLSLossless,
    "htj2k": HTJ2KLossless,
    "rle": RLELossless,
}

# (group, creator, number of elements) of the private blocks
PRIVATE_BLOCKS = (
    (0x0009, "GEMS_IDEN_01", 12),
    (0x0019, "GEMS_ACQU_01", 56),
    (0x0021, "GEMS_RELA_01", 14),
    (0x0023, "GEMS_STDY_01", 6),
    (0x0025, "GEMS_SERS_01", 8),
    (0x0027, "GEMS_IMAG_01", 24),
    (0x0043, "GEMS_PARM_01", 30),
    (0x0045, "GEMS_HELIOS_01", 20),
)
PRIVATE_VRS = ("SL", "SS", "DS", "FL", "LO", "SH", "UL", "DS", "US", "IS", "FD", "UI", "DS", "SS")


def data_folder() -> Path:
    """Folder of benchmark data between runs."""
    return Path(
        os.environ.get("DICOMDL_BENCHMARK_DATA")
        or Path(tempfile.gettempdir()) / "dicomdl-benchmark"
    )


def ct_folder(slices: int = 2048) -> Path:
    """Return a folder of `slices` CT slices in series of 128, one subfolder per series.

    The slices are written if the folder does not exist.
    """
    return _kept(f"ct-{slices}", lambda folder: _write_ct(folder, slices))


def series_folders(folder: Path) -> list[Path]:
    """The series of `ct_folder`, in order."""
    return sorted(path for path in folder.iterdir() if path.is_dir())


def files_below(folder: Path) -> list[str]:
    """Every file below `folder`, sorted."""
    return sorted(
        os.path.join(parent, name) for parent, _, names in os.walk(folder) for name in names
    )


def compressed_folder(codec: str, slices: int = 32) -> Path:
    """`slices` of the same CT slices, compressed with one of `CODECS`."""
    return _kept(f"{codec}-{slices}", lambda folder: _write_ct(folder, slices, CODECS[codec]))


def small_files(count: int = 50_000) -> Path:
    """A tree of `count` CT files of 4 x 4 pixels, 128 per folder, to measure the walk."""
    return _kept(f"small-{count}", lambda folder: _write_small_files(folder, count))


def _kept(name: str, write: Callable[[Path], None]) -> Path:
    folder = data_folder() / f"{name}-v{VERSION}"
    if not folder.exists():
        partial = folder.with_suffix(".partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        print(f"writing {folder} ...", flush=True)
        write(partial)
        partial.rename(folder)
    return folder


def _write_ct(folder: Path, slices: int, syntax: UID = ExplicitVRLittleEndian) -> None:
    for first in range(0, slices, SLICES_PER_SERIES):
        number = first // SLICES_PER_SERIES
        chance = random.Random(number)
        pixels = SlicePixels(number)
        header = series_header(number, chance, syntax)
        subfolder = folder / f"series{number:04d}"
        subfolder.mkdir()
        count = min(SLICES_PER_SERIES, slices - first)
        names = chance.sample(
            [f"{ROOT_UID}.{number}.{z}.{chance.randrange(10**9)}" for z in range(count)], count
        )
        for z, name in enumerate(names):
            vary_slice(header, number, z, count, chance)
            set_pixels(header, pixels.slice(z), syntax)
            data = io.BytesIO()
            dcmwrite(data, header, enforce_file_format=True)
            (subfolder / name).write_bytes(data.getbuffer())


class SlicePixels:
    """Stored values 0 to 4095 (HU + 1024) of one series.

    They show an elliptic body in air, organs as slow waves, and noise of 18 HU.
    """

    def __init__(self, series: int) -> None:
        self._random = np.random.default_rng(series)
        y, x = np.mgrid[-1 : 1 : ROWS * 1j, -1 : 1 : COLUMNS * 1j]
        self._inside = (x / 0.8) ** 2 + (y / 0.6) ** 2 < 1
        self._x, self._y = x, y
        self._noise = self._random.normal(0, 18, (2 * ROWS, 2 * COLUMNS)).astype(np.float32)

    def slice(self, z: int) -> NDArray[np.uint16]:
        """The stored values of slice z, (512, 512) uint16."""
        organs = (
            1064
            + 60 * np.sin(9 * self._x + 0.05 * z) * np.cos(7 * self._y - 0.03 * z)
            + 250 * (self._x * self._y > 0.12)
        )
        row, column = self._random.integers(0, ROWS), self._random.integers(0, COLUMNS)
        noise = self._noise[row : row + ROWS, column : column + COLUMNS]
        values = np.where(self._inside, organs, 24) + noise
        return np.clip(np.rint(values), 0, 4095).astype("<u2")


def series_header(number: int, chance: random.Random, syntax: UID) -> Dataset:
    """The elements that all slices of one series share.

    A twentieth of the optional elements is missing, different ones per series.
    """
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = syntax
    meta.ImplementationClassUID = UID(f"{ROOT_UID}.1")
    meta.ImplementationVersionName = "BENCH_CT_1"
    meta.SourceApplicationEntityTitle = "BENCHCT"
    header = Dataset()
    header.file_meta = meta
    header.preamble = b"\0" * 128
    optional = {keyword: value for keyword, value in OPTIONAL.items() if chance.random() > 0.05}
    for keyword, value in {**REQUIRED, **optional}.items():
        setattr(header, keyword, value)
    header.PatientID = f"BENCH-{number:04d}"
    header.StudyInstanceUID = f"{ROOT_UID}.2.{number}.{chance.randrange(10**9)}"
    header.SeriesInstanceUID = f"{ROOT_UID}.3.{number}.{chance.randrange(10**9)}"
    header.FrameOfReferenceUID = f"{ROOT_UID}.4.{number}"
    header.StudyID = str(1000 + number)
    header.SeriesNumber = number + 2
    header.ConvolutionKernel = chance.choice(["STANDARD", "BONE", "LUNG"])
    _add_sequences(header, number)
    for group, creator, count in PRIVATE_BLOCKS:
        block = header.private_block(group, creator, create=True)
        for element in range(count):
            if chance.random() > 0.05:
                vr = PRIVATE_VRS[(group + element) % len(PRIVATE_VRS)]
                block.add_new(2 + element, vr, private_value(vr, chance))
    header.private_block(0x0043, "GEMS_PARM_01").add_new(0xF0, "OB", chance.randbytes(1024))
    header.private_block(0x0045, "GEMS_HELIOS_01").add_new(0xF0, "OB", chance.randbytes(1536))
    return header


def vary_slice(header: Dataset, series: int, z: int, slices: int, chance: random.Random) -> None:
    """Set the elements that a scanner writes per slice; most values also change their length."""
    position = -120.5 + 0.625 * z
    header.SOPInstanceUID = (
        f"{ROOT_UID}.5.{series}.{z + 1}.{chance.randrange(10 ** chance.randint(6, 9))}"
    )
    header.InstanceNumber = z + 1
    header.AcquisitionNumber = 1 + z // 64
    header.ImagePositionPatient = [DSfloat(-173.3), DSfloat(-168.25), decimal(position)]
    header.SliceLocation = decimal(position)
    header.ContentTime = (
        f"1430{z * 60 // slices:02d}.{chance.randrange(10 ** chance.randint(1, 6))}"
    )
    header.AcquisitionTime = f"1429{z * 60 // slices:02d}.{chance.randrange(1000)}"
    header.XRayTubeCurrent = chance.randint(80, 440)
    header.Exposure = chance.randint(8, 120)
    header.ExposureTime = chance.randint(500, 1100)
    header.CTDIvol = round(chance.uniform(3, 18), chance.randint(1, 8))
    header.TableHeight = decimal(round(chance.uniform(120, 180), 4))
    header.SmallestImagePixelValue = chance.randint(0, 40)
    header.LargestImagePixelValue = chance.randint(1500, 4095)
    for number, item in enumerate(header.ReferencedImageSequence):
        item.ReferencedSOPInstanceUID = (
            f"{ROOT_UID}.6.{number}.{chance.randrange(10 ** chance.randint(4, 9))}"
        )
    for group, _, count in PRIVATE_BLOCKS:
        for element in range(0, count, 6):
            private = header.get((group, 0x1002 + element))
            if private is not None and private.VR != "OB":
                private.value = private_value(private.VR, chance)


def set_pixels(header: Dataset, values: NDArray[np.uint16], syntax: UID) -> None:
    """Put one slice's stored values into the data set, in its transfer syntax."""
    if syntax == ExplicitVRLittleEndian:
        header["PixelData"] = DataElement(0x7FE00010, "OW", values.tobytes())
        return
    header["PixelData"] = DataElement(0x7FE00010, "OB", encapsulate([encode(values, syntax)]))
    header["PixelData"].is_undefined_length = True


def encode(values: NDArray[np.uint16], syntax: UID) -> bytes:
    if syntax == JPEG2000Lossless:
        return bytes(
            imagecodecs.jpeg2k_encode(
                values, level=0, codecformat="j2k", reversible=True, bitspersample=12
            )
        )
    if syntax == JPEGLosslessSV1:
        return bytes(imagecodecs.jpeg8_encode(values, lossless=True, predictor=1, bitspersample=12))
    if syntax == JPEGLSLossless:
        return bytes(imagecodecs.jpegls_encode(values, level=0))
    if syntax == HTJ2KLossless:
        return bytes(imagecodecs.htj2k_encode(values, reversible=True))
    coded: bytes = RLELosslessEncoder.encode(
        values,
        encoding_plugin="pydicom",
        rows=values.shape[0],
        columns=values.shape[1],
        samples_per_pixel=1,
        bits_allocated=16,
        bits_stored=12,
        pixel_representation=0,
        photometric_interpretation="MONOCHROME2",
        number_of_frames=1,
    )
    return coded


def decimal(value: float) -> DSfloat:
    """A decimal string of at most 16 characters."""
    return DSfloat(float(value), auto_format=True)


def private_value(vr: str, chance: random.Random) -> object:
    """A value of changing length, like those in private blocks."""
    if vr == "DS":
        return [
            decimal(chance.uniform(-500, 500))
            if chance.random() < 0.5
            else decimal(chance.randint(-99, 99))
        ]
    if vr in ("FL", "FD"):
        return chance.uniform(-500, 500)
    if vr in ("LO", "SH"):
        return (
            "".join(chance.choices("ABCDEFGHIJ 0123456789", k=chance.randint(2, 14))).strip() or "A"
        )
    if vr == "UI":
        return f"{ROOT_UID}.7.{chance.randrange(10 ** chance.randint(3, 12))}"
    if vr == "IS":
        return chance.randint(0, 10 ** chance.randint(1, 6))
    return chance.randint(0, 30_000)


def _code(value: str, meaning: str) -> Dataset:
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = value, "99BENCH", meaning
    return code


def _reference(sop_class: str, instance: str) -> Dataset:
    reference = Dataset()
    reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID = sop_class, instance
    return reference


def _add_sequences(header: Dataset, series: int) -> None:
    """Sequences of defined and undefined length, with items of both kinds, one of them nested."""
    header.ProcedureCodeSequence = Sequence([_code("CTCHEST", "CT of the chest")])
    header.ReferencedStudySequence = Sequence(
        [_reference("1.2.840.10008.3.1.2.3.1", f"{ROOT_UID}.8.{series}")]
    )
    header.ReferencedImageSequence = Sequence(
        [_reference(CTImageStorage, ROOT_UID) for _ in range(2)]
    )
    header.SourceImageSequence = Sequence([_reference(CTImageStorage, f"{ROOT_UID}.9.{series}")])
    header.CTDIPhantomTypeCodeSequence = Sequence([_code("113691", "IEC Body Dosimetry Phantom")])
    request = Dataset()
    request.RequestedProcedureID = "RP1"
    request.ScheduledProcedureStepID = "SPS1"
    request.ScheduledProtocolCodeSequence = Sequence([_code("5.12", "Routine chest")])
    header.RequestAttributesSequence = Sequence([request])
    for keyword in (
        "ReferencedImageSequence",
        "RequestAttributesSequence",
        "CTDIPhantomTypeCodeSequence",
    ):
        header[keyword].is_undefined_length = True
    for item in header.ReferencedImageSequence:
        item.is_undefined_length_sequence_item = True


def _write_small_files(folder: Path, count: int) -> None:
    header = Dataset()
    header.file_meta = FileMetaDataset()
    header.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    for keyword, value in REQUIRED.items():
        setattr(header, keyword, value)
    header.Rows = header.Columns = 4
    header.PatientID = "BENCH-SMALL"
    header.StudyInstanceUID = f"{ROOT_UID}.10"
    header.SeriesInstanceUID = f"{ROOT_UID}.11.1777777"
    header.SOPInstanceUID = f"{ROOT_UID}.12.1888888"
    header.InstanceNumber = 1888888
    header.ImagePositionPatient = [0, 0, 1888888]
    header["PixelData"] = DataElement(0x7FE00010, "OW", bytes(32))
    data = io.BytesIO()
    dcmwrite(data, header, enforce_file_format=True)
    template = data.getvalue()
    for series in range((count + SLICES_PER_SERIES - 1) // SLICES_PER_SERIES):
        subfolder = folder / f"{series:05d}"
        subfolder.mkdir()
        of_series = template.replace(b"1777777", b"1%06d" % series)
        for number in range(
            series * SLICES_PER_SERIES, min(count, (series + 1) * SLICES_PER_SERIES)
        ):
            (subfolder / f"{number:07d}.dcm").write_bytes(
                of_series.replace(b"1888888", b"1%06d" % number)
            )


REQUIRED: dict[str, object] = {
    "SpecificCharacterSet": "ISO_IR 100",
    "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"],
    "SOPClassUID": CTImageStorage,
    "StudyDate": "20200314",
    "StudyTime": "142512",
    "AccessionNumber": "A20200314",
    "Modality": "CT",
    "Manufacturer": "BENCHWORKS MEDICAL",
    "PatientName": "RAMP^PHANTOM",
    "PatientBirthDate": "",
    "PatientSex": "O",
    "SliceThickness": 0.625,
    "KVP": 120,
    "PatientPosition": "FFS",
    "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
    "SamplesPerPixel": 1,
    "PhotometricInterpretation": "MONOCHROME2",
    "Rows": ROWS,
    "Columns": COLUMNS,
    "PixelSpacing": [0.703125, 0.703125],
    "BitsAllocated": 16,
    "BitsStored": 12,
    "HighBit": 11,
    "PixelRepresentation": 0,
    "WindowCenter": 40,
    "WindowWidth": 400,
    "RescaleIntercept": -1024,
    "RescaleSlope": 1,
    "RescaleType": "HU",
}
OPTIONAL: dict[str, object] = {
    "InstanceCreationDate": "20200314",
    "InstanceCreationTime": "143001.5",
    "SeriesDate": "20200314",
    "AcquisitionDate": "20200314",
    "ContentDate": "20200314",
    "SeriesTime": "142800",
    "InstitutionName": "BENCHMARK HOSPITAL",
    "InstitutionAddress": "1 RAMP ROAD",
    "ReferringPhysicianName": "",
    "StationName": "CT01_OC0",
    "StudyDescription": "CT CHEST ROUTINE",
    "SeriesDescription": "AXIAL 0.625 CHEST",
    "InstitutionalDepartmentName": "RADIOLOGY",
    "PhysiciansOfRecord": "",
    "NameOfPhysiciansReadingStudy": "",
    "OperatorsName": "",
    "ManufacturerModelName": "BENCH CT 64",
    "PatientAge": "055Y",
    "PatientSize": 1.74,
    "PatientWeight": 72.5,
    "EthnicGroup": "",
    "AdditionalPatientHistory": "phantom study without a patient",
    "PregnancyStatus": 4,
    "PatientComments": "",
    "PatientIdentityRemoved": "YES",
    "DeidentificationMethod": "never had an identity",
    "ContrastBolusAgent": "OMNI 350",
    "BodyPartExamined": "CHEST",
    "ScanOptions": "HELICAL MODE",
    "DataCollectionDiameter": 500,
    "DeviceSerialNumber": "000042",
    "SoftwareVersions": "bench.2020.1",
    "ProtocolName": "5.12 ROUTINE CHEST",
    "ContrastBolusRoute": "IV",
    "ReconstructionDiameter": 360,
    "DistanceSourceToDetector": 949.147,
    "DistanceSourceToPatient": 541,
    "GantryDetectorTilt": 0,
    "RotationDirection": "CW",
    "FilterType": "BODY FILTER",
    "GeneratorPower": 28400,
    "FocalSpots": 1.2,
    "DateOfLastCalibration": "20200301",
    "TimeOfLastCalibration": "061500",
    "RevolutionTime": 0.5,
    "SingleCollimationWidth": 0.625,
    "TotalCollimationWidth": 40,
    "TableSpeed": 78.75,
    "TableFeedPerRotation": 39.375,
    "SpiralPitchFactor": 0.984375,
    "EstimatedDoseSaving": 12.5,
    "ExposureModulationType": "XYZ_EC",
    "PositionReferenceIndicator": "SN",
    "ImagesInAcquisition": 128,
    "ImageComments": "",
    "WindowCenterWidthExplanation": "MEDIASTINUM",
    "PixelPaddingValue": 0,
    "BurnedInAnnotation": "NO",
    "LossyImageCompression": "00",
    "RequestingPhysician": "",
    "RequestedProcedureDescription": "CT CHEST",
    "PerformedProcedureStepStartDate": "20200314",
    "PerformedProcedureStepStartTime": "142512",
    "PerformedProcedureStepID": "PPS1",
    "PerformedProcedureStepDescription": "CT CHEST ROUTINE",
    "CommentsOnThePerformedProcedureStep": "",
    "PresentationLUTShape": "IDENTITY",
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--slices", type=int, default=2048)
    parser.add_argument("--small", type=int, default=0, help="also this many tiny files")
    arguments = parser.parse_args()
    print(ct_folder(arguments.slices))
    if arguments.small:
        print(small_files(arguments.small))


if __name__ == "__main__":
    main()
