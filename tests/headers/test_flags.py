"""flags: what is odd about a file is named, and the image is read as it is."""

import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
from phantoms import element, ramp, write_multiframe, write_series

import dicomdl
from dicomdl.errors import HeaderError
from dicomdl.headers._flags import MEANINGS
from dicomdl.headers._heads import ITEM, SEQUENCE_END
from dicomdl.headers.reader import HeaderReader, read_frames
from dicomdl.pixels.read import read_frame

RLE = "1.2.840.10008.1.2.5"
SHAPE = (1, 6, 8)


def written(folder: Path, syntax: str = "1.2.840.10008.1.2.1") -> bytes:
    return write_series(folder / "good", shape=SHAPE, transfer_syntax=syntax)[0].read_bytes()


def with_preamble(head: bytes) -> Callable[[Path], bytes]:
    return lambda folder: head.ljust(128, b"\1") + written(folder)[128:]


def without(keyword: str, text: str = "") -> Callable[[Path], bytes]:
    def odd(folder: Path) -> bytes:
        path = folder / "odd"
        (good,) = write_series(folder / "good", shape=SHAPE)
        dataset = pydicom.dcmread(good)
        setattr(dataset, keyword, text)
        dataset.save_as(path, enforce_file_format=False)
        return path.read_bytes()

    return odd


def without_meta(folder: Path) -> bytes:
    raw = written(folder)
    # Behind the group length of the meta information (PS3.10 7.1).
    return raw[144 + struct.unpack_from("<I", raw, 140)[0] :]


def without_transfer_syntax(folder: Path) -> bytes:
    raw = written(folder)
    begin = raw.index(b"\x02\x00\x10\x00UI")
    (length,) = struct.unpack_from("<H", raw, begin + 6)
    return raw[:begin] + raw[begin + 8 + length :]


def of_other_coding(folder: Path) -> bytes:
    raw = written(folder)
    explicit = raw.index(b"1.2.840.10008.1.2.1\0")
    return raw[:explicit] + b"1.2.840.10008.1.2\0\0\0" + raw[explicit + 20 :]


def fragments(*parts: bytes, delimiter: bytes = element(SEQUENCE_END, b"")) -> bytes:
    return element(ITEM, b"") + b"".join(element(ITEM, b"", part) for part in parts) + delimiter


def of_rle(folder: Path, change: Callable[[bytes], bytes]) -> bytes:
    """Return a file of one RLE frame whose encapsulated bytes are changed."""
    raw = written(folder, RLE)
    begin = raw.index(b"\xe0\x7f\x10\x00OB\0\0\xff\xff\xff\xff") + 12
    first = begin + 8 + struct.unpack_from("<I", raw, begin + 4)[0]
    (length,) = struct.unpack_from("<I", raw, first + 4)
    return raw[:begin] + change(raw[first + 8 : first + 8 + length])


CASES: dict[str, tuple[str, Callable[[Path], bytes]]] = {
    "a plain file": ("", written),
    "a preamble of spaces": ("", with_preamble(b" " * 128)),
    "MZ": ("also_executable", with_preamble(b"MZ\x90\0")),
    "ELF": ("also_executable", with_preamble(b"\x7fELF\2\1\1")),
    "Mach-O": ("also_executable", with_preamble(b"\xcf\xfa\xed\xfe")),
    "a script": ("also_executable", with_preamble(b"#!/bin/sh\n")),
    "PDF": ("also_pdf", with_preamble(b"%PDF-1.7\n")),
    "ZIP": ("also_zip", with_preamble(b"PK\3\4")),
    "TIFF": ("also_tiff", with_preamble(b"II*\0")),
    "no meta information": ("no_preamble no_transfer_syntax", without_meta),
    "no transfer syntax": ("no_transfer_syntax", without_transfer_syntax),
    "other coding": ("other_coding", of_other_coding),
    "a delimiter between elements": (
        "stray_delimiter",
        lambda folder: stray(written(folder), element(SEQUENCE_END, b"")),
    ),
    "an item between elements": (
        "stray_delimiter",
        lambda folder: stray(written(folder), element(ITEM, b"", bytes(6))),
    ),
    "no SOP class": ("no_sop_class", without("SOPClassUID")),
    "no SOP Instance UID": ("no_sop_instance_uid", without("SOPInstanceUID")),
    "a SOP class that is no UID": ("no_sop_class", without("SOPClassUID", "CT")),
    "a SOP Instance UID of NUL": (
        "no_sop_instance_uid",
        lambda folder: blanked(written(folder), b"\x08\x00\x18\x00UI"),
    ),
    "no Study": ("no_study_uid", without("StudyInstanceUID")),
    "no Series": ("no_series_uid", without("SeriesInstanceUID")),
    "no photometric interpretation": ("no_photometric", without("PhotometricInterpretation")),
    "grey values that claim to be colours": (
        "contradicting_photometric",
        without("PhotometricInterpretation", "YBR_FULL"),
    ),
    "no BitsStored": ("", lambda folder: with_number(written(folder), 0x0101, None)),
    "BitsStored of 0": ("impossible_bits", lambda folder: with_number(written(folder), 0x0101, 0)),
    "BitsStored of 17": (
        "impossible_bits",
        lambda folder: with_number(written(folder), 0x0101, 17),
    ),
    "HighBit of 16": ("impossible_bits", lambda folder: with_number(written(folder), 0x0102, 16)),
    "HighBit of 10": ("impossible_bits", lambda folder: with_number(written(folder), 0x0102, 10)),
    "RLE": ("", lambda folder: written(folder, RLE)),
    "RLE in two fragments": (
        "fragmented_rle",
        lambda folder: of_rle(folder, lambda frame: fragments(frame[:70], frame[70:])),
    ),
    "RLE and an empty fragment": (
        "fragmented_rle",
        lambda folder: of_rle(folder, lambda frame: fragments(frame, b"")),
    ),
    "no delimiter": (
        "no_delimiter",
        lambda folder: of_rle(folder, lambda frame: fragments(frame, delimiter=b"")),
    ),
    "junk behind a delimiter": (
        "trailing_bytes",
        lambda folder: of_rle(folder, lambda frame: fragments(frame) + b"junk"),
    ),
    "junk behind native pixels": ("trailing_bytes", lambda folder: written(folder) + b"junk"),
    "zeros behind native pixels": ("trailing_bytes", lambda folder: written(folder) + bytes(512)),
    "padding behind native pixels": (
        "",
        lambda folder: written(folder) + element(0xFFFCFFFC, b"OB", bytes(100)),
    ),
    "private elements behind native pixels": (
        "",
        lambda folder: written(folder) + element(0x7FE10010, b"LO", b"CREATOR "),
    ),
    "an element behind native pixels that is cut": (
        "trailing_bytes",
        lambda folder: written(folder) + element(0xFFFCFFFC, b"OB", bytes(10), length=600),
    ),
    "an odd byte behind native pixels": ("", lambda folder: written(folder) + b"\0"),
    "longer pixel data": ("longer_pixel_data", lambda folder: longer(written(folder), 10)),
}


def with_number(raw: bytes, number: int, value: int | None) -> bytes:
    """Return a file with another value of an element of group 0028, or without it."""
    head = struct.pack("<HH2sH", 0x0028, number, b"US", 2)
    at = raw.index(head)
    new = b"" if value is None else head + struct.pack("<H", value)
    return raw[:at] + new + raw[at + 10 :]


def stray(raw: bytes, what: bytes) -> bytes:
    """Return a file with some bytes in front of Rows (0028,0010)."""
    at = raw.index(b"\x28\x00\x10\x00US")
    return raw[:at] + what + raw[at:]


def blanked(raw: bytes, head: bytes) -> bytes:
    """Return a file in which the value of an element is NUL."""
    begin = raw.index(head) + 8
    (length,) = struct.unpack_from("<H", raw, begin - 2)
    return raw[:begin] + bytes(length) + raw[begin + length :]


def longer(raw: bytes, count: int) -> bytes:
    begin = raw.index(b"\xe0\x7f\x10\x00OW") + 8
    (length,) = struct.unpack_from("<I", raw, begin)
    return raw[:begin] + struct.pack("<I", length + count) + raw[begin + 4 :] + bytes(count)


@pytest.mark.parametrize("name", CASES)
def test_an_odd_file_is_flagged_and_read(name: str, tmp_path: Path) -> None:
    flags, make = CASES[name]
    path = tmp_path / "a.dcm"
    path.write_bytes(make(tmp_path))
    (frame,) = read_frames(path)
    assert frame.flags == flags
    assert np.array_equal(read_frame(frame), ramp(SHAPE)[0])
    reader = HeaderReader()
    # Also by a layout that was learned from the plain file.
    reader.read(str(tmp_path / "good" / "0.dcm"))
    assert [reader.read(str(path)).flags for _ in range(3)] == [flags] * 3


def test_every_flag_is_tried_and_on_the_page() -> None:
    tried = {flag for flags, _ in CASES.values() for flag in flags.split()}
    assert tried == set(MEANINGS)
    page = (Path(__file__).parents[2] / "docs" / "how-to" / "damaged-files.md").read_text()
    rows = [f"| `{flag}` | {meaning} |" for flag, meaning in MEANINGS.items()]
    assert [row for row in rows if row not in page] == []


def test_flags_are_counted_by_file_in_the_summary_and_select(tmp_path: Path) -> None:
    root = tmp_path / "data"
    write_multiframe(root / "several.dcm", shape=(3, 6, 8))
    odd = (root / "several.dcm").read_bytes()
    (root / "several.dcm").write_bytes(b"MZ" + odd[2:] + b"junk")
    (root / "zip.dcm").write_bytes(b"PK\3\4" + written(tmp_path)[4:])
    index = dicomdl.scan([root, tmp_path / "good"], tmp_path / "index", progress=False)
    counts = "1 also_executable, 1 trailing_bytes, 1 also_zip"
    assert f"flagged files: {counts}" in repr(index)
    assert f"flagged files: {counts}" in repr(index.check())
    assert index.check().to_dict()["flags"]["also_zip"] == 1
    assert len(index.select(flags="*trailing_bytes*")) == 3
    assert len(index.select(flags="")) == 1
    assert "flagged" not in repr(index.select(flags=""))


@pytest.mark.parametrize("keyword", ["RescaleSlope", "RescaleIntercept"])
@pytest.mark.parametrize("text", ["1\\2", "1\\", "\\1", "1\\1\\2"])
def test_two_values_of_a_rescale_are_no_rescale(keyword: str, text: str, tmp_path: Path) -> None:
    (path,) = write_series(
        tmp_path, shape=SHAPE, edit=lambda dataset, _: put(dataset, keyword, text)
    )
    with pytest.raises(HeaderError, match="is not one finite number"):
        read_frames(path)


def test_a_rescale_that_repeats_one_value_is_that_value(tmp_path: Path) -> None:
    def edit(dataset: pydicom.Dataset, _: int) -> None:
        put(dataset, "RescaleSlope", "2\\2")

    (path,) = write_series(tmp_path, shape=SHAPE, edit=edit)
    (frame,) = read_frames(path)
    assert frame.rescale_slope == 2


def put(dataset: pydicom.Dataset, keyword: str, text: str) -> None:
    """Set a value as it is, with backslashes that pydicom would split."""
    dataset[keyword] = pydicom.DataElement(keyword, "LO", text.split("\\"))
    dataset[keyword].VR = "DS"
