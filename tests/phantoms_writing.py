"""DICOM files as pydicom writes them, faster where elements repeat from file to file.

The files of phantoms differ in a few elements, and tests write thousands of them. What pydicom made
of an element is kept, so that only new elements are coded; `tests/test_phantoms.py` compares whole
files. Data sets with anything unusual go through `pydicom.dcmwrite`.
"""

import struct
from copy import deepcopy
from io import BytesIO
from typing import Any

from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import dcmwrite, write_data_element, write_file_meta_info
from pydicom.multival import MultiValue
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian
from pydicom.valuerep import DSfloat, PersonName

MEMORY = 20_000  # elements
# Two values of these types with one text are coded alike (an array of NumPy has "..." in its text).
TEXT_DECIDES = (str, int, float, DSfloat, PersonName, MultiValue, list, type(None))
CODED: dict[tuple[int, str, str], bytes] = {}
METAS: dict[str, tuple[bytes, bytes]] = {}
ITEM = b"\xfe\xff\x00\xe0"


class _Unusual(Exception):
    """A data set that only pydicom itself codes."""


def written(dataset: Dataset) -> bytes:
    """Return the bytes that ``pydicom.dcmwrite(..., enforce_file_format=True)`` writes."""
    syntax = UID(dataset.file_meta.TransferSyntaxUID)
    try:
        if syntax.is_implicit_VR or not syntax.is_little_endian or syntax.is_private:
            raise _Unusual
        if syntax == DeflatedExplicitVRLittleEndian or dataset.preamble != b"\0" * 128:
            raise _Unusual
        if "PixelData" in dataset:
            dataset["PixelData"].is_undefined_length = syntax.is_compressed
        group_2, body = _meta(dataset.file_meta), _data_set(dataset)
    except _Unusual:
        file = BytesIO()
        dcmwrite(file, dataset, enforce_file_format=True)
        return file.getvalue()
    return b"\0" * 128 + b"DICM" + group_2 + body


def _meta(meta: FileMetaDataset) -> bytes:
    """Group 2; files with the same one but for the instance UID share what surrounds it."""
    instance = meta.get("MediaStorageSOPInstanceUID")
    if not instance:
        raise _Unusual
    key = repr([(element.tag, element.value) for element in meta if element.tag != 0x00020003])
    if key not in METAS:
        file = DicomBytesIO()
        write_file_meta_info(file, deepcopy(meta), enforce_standard=True)
        before, after = file.getvalue()[12:].split(_uid(instance))
        METAS[key] = before, after
    before, after = METAS[key]
    group = before + _uid(instance) + after
    return struct.pack("<HH2sHI", 2, 0, b"UL", 4, len(group)) + group


def _uid(instance: str) -> bytes:
    value = instance.encode() + b"\0" * (len(instance) % 2)
    return struct.pack("<HH2sH", 2, 3, b"UI", len(value)) + value


def _data_set(dataset: Dataset) -> bytes:
    elements = sorted(dataset.values(), key=lambda element: int(element.tag))
    return b"".join([_element(element) for element in elements])


def _element(element: Any) -> bytes:
    if element.is_raw or len(element.VR) != 2:
        raise _Unusual
    tag, value = int(element.tag), element.value
    if tag & 0xFFFF == 0 or tag >> 16 in (0, 2) or tag == 0x00080005:
        raise _Unusual
    if element.VR == "SQ":
        return _sequence(element)
    if not isinstance(value, TEXT_DECIDES) or element.is_undefined_length:
        return _by_pydicom(element)
    key = (tag, element.VR, repr(value))
    if key not in CODED:
        if len(CODED) >= MEMORY:
            CODED.clear()
        CODED[key] = _by_pydicom(element)
    return CODED[key]


def _sequence(element: DataElement) -> bytes:
    items = []
    for item in element.value or ():
        if element.is_undefined_length or item.is_undefined_length_sequence_item:
            raise _Unusual
        body = _data_set(item)
        items.append(ITEM + struct.pack("<I", len(body)) + body)
    value = b"".join(items)
    head = struct.pack("<HH2sHI", element.tag.group, element.tag.element, b"SQ", 0, len(value))
    return head + value


def _by_pydicom(element: DataElement) -> bytes:
    file = DicomBytesIO()
    file.is_implicit_VR, file.is_little_endian = False, True
    write_data_element(file, element, ["iso8859"])
    return file.getvalue()
