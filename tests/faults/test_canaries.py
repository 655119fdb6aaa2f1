"""Identities planted in files: nothing that dicomdl writes, prints, logs or raises holds one.

PatientID, paths and UIDs are shown or stored by design; their values here are no canaries.
"""

import base64
import logging
import os
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pydicom
import pytest
from phantoms import write_series
from pydicom.datadict import dictionary_VR, keyword_dict

import dicomdl
from dicomdl.cli.main import main

pytest.importorskip("torch")
from faults.whole_way import Way

pytestmark = pytest.mark.slow
SHAPE = (2, 5, 7)
# Attributes of PS3.15 Table E.1-1 that images have, by words of their keywords.
WORDS = (
    *("Patient", "Physician", "Operator", "Performing", "Requesting", "Institution", "Address"),
    *("Telephone", "Accession", "Station", "Comments", "History", "Allerg", "Occupation", "Birth"),
    *("Admission", "Visit", "Reviewer", "Author", "MedicalRecord", "DeviceSerial", "Responsible"),
)
FREE_VRS = ("PN", "LO", "SH", "ST", "LT", "UC", "UT")
# Stored or shown by design, or read as numbers.
KEPT = ("PatientID", "PatientPosition", "PatientOrientation")
CHARSETS = {"ISO_IR 100": "é", "ISO_IR 192": "頭", "GB18030": "头", "ISO_IR 144": "Ж", "": ""}
# Attributes that are read, whose values of these kinds make errors and warnings.
BROKEN = {
    "RescaleSlope": b"CANARY-SLOPE",
    "NumberOfFrames": b"CANARY-COUNT",
    "ImagePositionPatient": b"CANARY-X\\CANARY-Y\\CANARY-Z",
    "PixelSpacing": b"CANARY-MM",
    "WindowWidth": b"CANARY-WIDTH",
    "EchoTime": b"CANARY-TE",
    "AcquisitionTime": b"CANARY-TIME",
    "SpecificCharacterSet": b"CANARY-SET",
}


def identifying() -> list[str]:
    """Return at least 60 keywords of text that can identify a person."""
    found = [
        keyword
        for keyword, tag in sorted(keyword_dict.items())
        if dictionary_VR(tag) in FREE_VRS
        and any(word in keyword for word in WORDS)
        and keyword not in KEPT
        and tag >> 16 in (0x0008, 0x0010, 0x0018, 0x0020, 0x0032, 0x0038, 0x0040)
    ]
    assert len(found) >= 60
    return found


def plant(letter: str, charset: str) -> Callable[[Any, int], None]:
    def edit(dataset: Any, z: int) -> None:
        if charset:
            dataset.SpecificCharacterSet = charset
        for number, keyword in enumerate(identifying()):
            setattr(dataset, keyword, f"CANARY{number}{letter}")
        item = pydicom.Dataset()
        item.PatientName = item.PatientComments = "CANARYNESTED"
        dataset.RequestAttributesSequence = [item]
        dataset.add_new(0x00990010, "LO", "CANARYCREATOR")
        dataset.add_new(0x00991001, "LO", "CANARYPRIVATE")

    return edit


def broken(path: Path, keyword: str, value: bytes) -> None:
    """Replace a value by a name: whoever reads it fails, and must not tell it."""
    dataset = pydicom.dcmread(path)
    # Text beyond ASCII is decoded by the character set, whatever that is.
    for name, text in {keyword: value, "SeriesDescription": b"Sch\xe4del"}.items():
        raw = text + b" " * (len(text) % 2)
        tag = pydicom.tag.Tag(name)
        dataset[tag] = pydicom.dataelem.RawDataElement(tag, "LO", len(raw), raw, 0, False, True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset.save_as(path, enforce_file_format=False)


def written(folder: Path) -> Path:
    """Write sound files in five character sets, damaged ones, and one with each broken value."""
    root = folder / "data"
    for number, (charset, letter) in enumerate(CHARSETS.items()):
        paths = write_series(
            root / str(number), shape=SHAPE, seed=number, edit=plant(letter, charset)
        )
        raw = paths[0].read_bytes()
        (root / str(number) / "cut").write_bytes(raw[: len(raw) // 2])
        (root / str(number) / "short").write_bytes(raw[:-30])
        (root / str(number) / "odd").write_bytes(raw.replace(b"DS", b"ds"))
    for number, (keyword, value) in enumerate(BROKEN.items(), 100):
        (path, _) = write_series(root / str(number), shape=SHAPE, seed=number, edit=plant("", ""))
        broken(path, keyword, value)
    return root


def forms() -> Iterator[bytes]:
    for encoding in ("utf-8", "utf-16-le", "utf-16-be"):
        yield "CANARY".encode(encoding)
    for shift in range(3):
        # Without the characters that depend on the neighbours.
        coded = base64.b64encode(b" " * shift + b"CANARY")
        yield coded[4 if shift else 0 : 8]


def leaks(told: bytes) -> list[bytes]:
    return [form for form in forms() if form in told]


def bytes_below(folder: Path) -> bytes:
    return b"".join(
        os.fsencode(path) + path.read_bytes() for path in folder.rglob("*") if path.is_file()
    )


def test_no_planted_identity_is_stored_printed_logged_or_raised(
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    cache_folder: Path,
    record_property: Callable[[str, object], None],
) -> None:
    root = written(tmp_path)
    assert b"CANARY" in bytes_below(root)
    caplog.set_level(logging.DEBUG)
    capfd.readouterr()
    caplog.clear()
    way = Way()
    told: list[str] = []
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        index = way.walk(root, tmp_path / "index")
        assert index is not None and not way.escapes
        told += [repr(index), index._repr_html_(), repr(index.check()), index.check()._repr_html_()]
        told += [repr(problem) for problem in index.problems]
        told += [repr(index.frame(number)) for number in range(len(index))]
        for stack in index.stacks:
            try:
                volume = dicomdl.read_volume(stack)
                volume.window()
                told += [repr(volume), repr(stack)]
            except dicomdl.DicomdlError as error:
                told += [str(error), *getattr(error, "__notes__", []), repr(vars(error))]
        for command in (["show"], ["check"], ["show", "--json"], ["show", "--stacks"]):
            main([*command, str(tmp_path / "index")])
        cached = dicomdl.VolumeDataset(
            index, cache=dicomdl.DiskCache(tmp_path / "cache"), on_error="skip", irregular="accept"
        )
        for number in range(len(cached)):
            told.append(repr(cached[number]))
    output = capfd.readouterr()
    assert len(index) > len(CHARSETS) and len(index.problems) >= 10
    assert leaks("".join(told).encode("utf-8", "replace")) == []
    assert leaks((output.out + output.err).encode("utf-8", "replace")) == []
    assert [str(each.message) for each in warned if "CANARY" in str(each.message)] == []
    assert [each.getMessage() for each in caplog.records if "CANARY" in each.getMessage()] == []
    for folder in (tmp_path / "index", tmp_path / "cache", cache_folder):
        assert leaks(bytes_below(folder)) == []
    canaries = len(CHARSETS) * len(identifying()) + len(BROKEN)
    record_property("figure", f"{canaries} canaries: 0 found")
