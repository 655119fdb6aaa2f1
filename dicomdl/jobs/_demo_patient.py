"""A made-up patient: its head, and its Series with their identities and files.

No number or name comes from a person. UIDs are digests of their path, so that two runs write the
same bytes.
"""

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from dicomdl.arrays import Floats
from dicomdl.geometry.grid import Geometry
from dicomdl.jobs._head import Lesion, Tissues, paint
from dicomdl.jobs._part10 import Elements

Image = npt.NDArray[Any]
# A path below the folder of the data, and the elements of the data set to write there.
File = tuple[str, Elements]

_SOP_CLASSES: Final = {
    "CT": "CTImageStorage",
    "MR": "MRImageStorage",
    "PT": "PositronEmissionTomographyImageStorage",
    "DX": "DigitalXRayImageStorageForPresentation",
}
DATE: Final = "20200101"
# Elements that every file has, and that may be empty (type 2).
_UNKNOWN: Final = (
    "PatientBirthDate",
    "PatientSex",
    "StudyTime",
    "StudyID",
    "AccessionNumber",
    "ReferringPhysicianName",
)


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

    @property
    def study_uid(self) -> str:
        """Study Instance UID of this patient."""
        return _uid(self.patient_id)

    @property
    def space_uid(self) -> str:
        """Frame of Reference UID of every Series with positions."""
        return _uid(f"{self.patient_id}/space")

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


@dataclass(frozen=True, slots=True)
class Series:
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
                place = placed(grid, grid.voxel_to_world([z, 0, 0]))
                yield self.file(numbers[z], {**facts, **place, **(each[z] if each else {})}, values)

    def file(self, instance: int, facts: Elements, stored: Image) -> File:
        """Return the elements of one image, whose file is named by its UID."""
        from pydicom import uid

        bits = 16 if facts["Modality"] == "PT" else 12
        elements: dict[str | int, Any] = {
            **self.identity(instance),
            "SOPClassUID": getattr(uid, _SOP_CLASSES[facts["Modality"]]),
            "SeriesDate": DATE,
            "AcquisitionDate": DATE,
            "ImageType": ["ORIGINAL", "PRIMARY"],
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
            elements["FrameOfReferenceUID"] = self.head.space_uid
        return self.path(instance), elements

    def identity(self, instance: int) -> Elements:
        """Return what says which patient, study, Series and instance a file is."""
        return {
            "SOPInstanceUID": self.instance_uid(instance),
            "StudyInstanceUID": self.head.study_uid,
            "SeriesInstanceUID": self.uid,
            "PatientID": self.head.patient_id,
            "PatientName": "Phantom^",
            "StudyDate": DATE,
            "StudyDescription": "dicomdl demo",
            "SeriesDescription": self.description,
            "SeriesNumber": self.number,
            "InstanceNumber": instance,
            "Manufacturer": "dicomdl",
            **dict.fromkeys(_UNKNOWN, ""),
        }

    @property
    def uid(self) -> str:
        """Series Instance UID."""
        return _uid(f"{self.head.patient_id}/{self.name}")

    def instance_uid(self, instance: int) -> str:
        """Return the SOP Instance UID of a file."""
        return _uid(f"{self.head.patient_id}/{self.name}/{instance}")

    def path(self, instance: int) -> str:
        """Return the path of a file below the folder of the data."""
        folder = f"patient-{self.head.number:02}"
        return os.path.join(folder, self.name, f"{self.instance_uid(instance)[5:17]}.dcm")


def placed(grid: Geometry, position: Floats) -> Elements:
    """Return position, orientation and spacing of a slice."""
    _, row, column = grid.spacing
    down, right = grid.direction[:, 1], grid.direction[:, 2]
    return {
        "ImagePositionPatient": [decimal(each) for each in position],
        "ImageOrientationPatient": [decimal(each) for each in (*right, *down)],
        "PixelSpacing": [decimal(row), decimal(column)],
        # The distance of the slices along their normal.
        "SliceThickness": decimal(abs(float(np.cross(right, down) @ grid.affine[:3, 0]))),
    }


def decimal(value: float) -> str:
    """Return a number as DS, which has up to 16 characters."""
    return f"{value + 0.0:.9g}"


def _uid(text: str) -> str:
    """Return a UID (PS3.5 B.2) that depends on a text alone."""
    digest = hashlib.blake2b(text.encode(), digest_size=16, person=b"dicomdl demo").digest()
    return f"2.25.{int.from_bytes(digest, 'big')}"
