"""Headers of the images that a new object is derived from, as data sets of pydicom."""

import datetime
import re
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from dicomdl.headers.parsed import parsed_header
from dicomdl.headers.requirement import quiet, require_pydicom
from dicomdl.headers.uids import CT_IMAGE
from dicomdl.storage.sources import Source

# Attributes of type 2, which an object has even if they are empty (PS3.3 C.7.1.1, C.7.2.1).
_REQUIRED: Final = (
    *("PatientID", "PatientName", "PatientBirthDate", "PatientSex"),
    *("AccessionNumber", "StudyID", "StudyDate", "StudyTime", "ReferringPhysicianName"),
)
# What every image of a Series has in common with an object on its grid.
_COMMON: Final = (*("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID"),)
# What else a derived object states. Other facts about the patient and the study stay out.
_STATED: Final = (
    *("SpecificCharacterSet", "Modality", "PositionReferenceIndicator"),
    *("PatientIdentityRemoved", "DeidentificationMethod"),
    *("LossyImageCompression", "LossyImageCompressionRatio", "LossyImageCompressionMethod"),
)
# Values of these attributes that do not match are left out (PS3.5 6.2, PS3.3 C.7.1.1).
_VALID: Final = {
    "PatientBirthDate": r"[0-9]{8}",
    "StudyDate": r"[0-9]{8}",
    "StudyTime": r"([01][0-9]|2[0-3])([0-5][0-9]([0-5][0-9](\.[0-9]{1,6})?)?)?",
    "PatientSex": r"[MFO]",
}


class Plane(NamedTuple):
    """Where a slice lies: ImagePositionPatient, ImageOrientationPatient, and the spacings in mm."""

    position: Sequence[float]
    orientation: Sequence[float]
    pixel_spacing: Sequence[float]
    thickness: float | None


def read_source_header(source: Source) -> Any:
    """Read the header of a source image, with what a derived object needs of patient and study.

    Attributes that an object must have are empty where the image lacks them or has an invalid
    value, such as a date with dots.
    """
    with quiet():
        header = parsed_header(source)
        for keyword in _REQUIRED:
            value = str(header.get(keyword) or "").strip()
            if not value or not _is_valid(keyword, value):
                setattr(header, keyword, "")
        # An image may name several character sets or an unknown one, and highdicom refuses the
        # empty value that Japanese and Korean names begin with.
        header.pop("SpecificCharacterSet", None)
    return header


def use_unicode(derived: Any) -> None:
    """State that the text of a new segmentation is UTF-8, unless all of it is ASCII.

    The default character set holds no other text (PS3.3 C.12.1.1.2): pydicom writes "?" for it.
    """
    keywords = (*_REQUIRED, *_STATED, "SeriesDescription", "SegmentSequence")
    if not all(str(derived.get(keyword) or "").isascii() for keyword in keywords):
        derived.SpecificCharacterSet = "ISO_IR 192"


def _is_valid(keyword: str, value: str) -> bool:
    if not re.fullmatch(_VALID.get(keyword, ".*"), value, re.DOTALL):
        return False
    if keyword.endswith("Date"):
        try:
            datetime.date(int(value[:4]), int(value[4:6]), int(value[6:]))
        except ValueError:
            return False
    return True


def slice_headers(header: Any, planes: Sequence[Plane], rows: int, columns: int) -> list[Any]:
    """Return a header per slice, as if each were an image of one frame.

    The first has patient and study of `header`. SOPInstanceUID is `slice_uid`, which the writer
    replaces in its references by the true instance and frame.
    """
    require_pydicom()
    from pydicom.dataset import Dataset

    slices = []
    for number, plane in enumerate(planes):
        each = Dataset()
        for keyword in (*_COMMON, *(() if number else (*_REQUIRED, *_STATED))):
            if keyword in header:
                each.add(header[keyword])
        # The class of an image of one frame, whatever the slices were cut out of.
        each.SOPClassUID, each.SOPInstanceUID = CT_IMAGE, slice_uid(number)
        each.Rows, each.Columns = rows, columns
        each.ImagePositionPatient = _decimals(plane.position)
        each.ImageOrientationPatient = _decimals(plane.orientation)
        each.PixelSpacing = _decimals(plane.pixel_spacing)
        each.SliceThickness = None if plane.thickness is None else _decimals([plane.thickness])[0]
        slices.append(each)
    return slices


def slice_uid(number: int) -> str:
    """Return the SOPInstanceUID of a slice in `slice_headers`."""
    return f"1.{number}"


def _decimals(values: Sequence[float]) -> list[Any]:
    """Return numbers as decimal strings of up to 16 characters (PS3.5 6.2)."""
    from pydicom.valuerep import DSfloat

    return [DSfloat(float(value), auto_format=True) for value in values]
