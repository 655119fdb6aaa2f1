"""coding: the first element and the coding of the data set are found, or the reason is true."""

import struct
from pathlib import Path

import numpy as np
import phantoms
import pydicom
import pytest
from phantoms import element
from pydicom.encaps import encapsulate

from dicomdl.errors import HeaderError
from dicomdl.headers._coding import first_element
from dicomdl.headers._heads import BIG_ENDIAN, EXPLICIT, IMPLICIT, Syntax
from dicomdl.headers.frame import Frame
from dicomdl.headers.reader import HeaderReader, read_frames
from dicomdl.headers.uids import DEFLATED
from dicomdl.pixels.read import read_frame

NATIVE = "1.2.840.10008.1.2.1"
JPEG = "1.2.840.10008.1.2.4.70"
SYNTAXES = {"explicit": EXPLICIT, "implicit": IMPLICIT, "big endian": BIG_ENDIAN}


def bare(syntax: Syntax, before: int, text: bytes, tag: int = 0x00081010) -> bytes:
    """A data set without preamble; `text` is at the byte `before` of a long value at the start."""
    head = element(0x00080005, b"CS", b"ISO_IR 100", syntax)
    value = b"A" * (before - len(head) - 8) + text
    head += element(tag, b"SH", value + b" " * (len(value) % 2), syntax)
    pixels = np.arange(4, dtype="<u2" if syntax.little else ">u2").tobytes()
    number = "<H" if syntax.little else ">H"
    return b"".join(
        [
            head,
            element(0x0020000E, b"UI", b"1.2.3.45", syntax),
            *(
                element(0x00280000 | low, b"US", struct.pack(number, value), syntax)
                for low, value in ((0x02, 1), (0x10, 2), (0x11, 2), (0x100, 16))
            ),
            element(0x7FE00010, b"OW", pixels, syntax),
        ]
    )


@pytest.mark.parametrize("name", SYNTAXES)
@pytest.mark.parametrize("text", [b"DICM", b"DICMA1", b"DICM OB US ST", b"DICMWORKLIST" * 9])
def test_a_value_with_the_prefix_at_its_place_is_no_prefix(
    tmp_path: Path, name: str, text: bytes
) -> None:
    raw = bare(SYNTAXES[name], 128, text)
    assert raw[128:132] == b"DICM" and first_element(raw) == 0
    (tmp_path / "a").write_bytes(raw)
    (frame,) = read_frames(tmp_path / "a")
    assert (frame.series_instance_uid, frame.rows, frame.byte_length) == ("1.2.3.45", 2, 8)


@pytest.mark.parametrize(
    "preamble",
    [
        b"II*\0\x08\0\0\0",
        b"MM\0*\0\0\0\x08",
        b"\x08\0\x05\0CS\x0a\0ISO_IR 100",
        b"\x08\0\x05\0CS\x74\0ISO_IR 100",
        b"\x02\0\0\0UL\4\0\1\2\3\4",
        b"\0\x08\0\x05CS\0\x0aISO_IR 100",
    ],
)
@pytest.mark.parametrize("syntax", phantoms.NATIVE_SYNTAXES)
def test_a_preamble_may_have_any_content(tmp_path: Path, preamble: bytes, syntax: str) -> None:
    (path,) = phantoms.write_series(tmp_path, shape=(1, 5, 7), transfer_syntax=syntax)
    raw = path.read_bytes()
    path.write_bytes(preamble.ljust(128, b"\0") + raw[128:])
    assert first_element(path.read_bytes()) == 132
    assert len(read_frames(path)) == 1


@pytest.mark.parametrize(
    ("syntax", "with_meta"),
    [
        (syntax, with_meta)
        for syntax in phantoms.NATIVE_SYNTAXES
        for with_meta in (True, False)
        if with_meta or syntax != DEFLATED
    ],
)
def test_a_preamble_of_zeros_may_lack_the_prefix(
    tmp_path: Path, syntax: str, with_meta: bool
) -> None:
    (path,) = phantoms.write_series(tmp_path, shape=(1, 5, 7), transfer_syntax=syntax)
    (expected,) = read_frames(path)
    raw = path.read_bytes()
    start = 132 if with_meta else 144 + int.from_bytes(raw[140:144], "little")
    path.write_bytes(bytes(128) + raw[start:])
    (frame,) = read_frames(path)
    assert frame.transfer_syntax_uid == expected.transfer_syntax_uid
    assert frame.image_position_patient == expected.image_position_patient
    assert np.array_equal(read_frame(frame), read_frame(frame_of(raw, tmp_path / "whole.dcm")))


def frame_of(raw: bytes, path: Path) -> Frame:
    path.write_bytes(raw)
    return read_frames(path)[0]


@pytest.mark.parametrize("after", [b"", bytes(400), b"\x08\0\0\0" + bytes(99), b"\2\0\x10\0UI\4\0"])
def test_zeros_and_what_resembles_an_element_are_not_dicom(tmp_path: Path, after: bytes) -> None:
    (tmp_path / "a").write_bytes(bytes(128) + after)
    assert HeaderReader().read(str(tmp_path / "a")).kind == "not_dicom"


def test_a_value_that_ends_at_the_prefix_encloses_none() -> None:
    value = b"A" * (128 - 8)
    raw = element(0x00080005, b"CS", value) + b"DICM" + element(0x00080016, b"UI", b"1.2")
    assert first_element(raw) == 132


def reason_of(path: Path) -> tuple[str, str]:
    with pytest.raises(HeaderError) as caught:
        read_frames(path)
    return caught.value.reason, str(caught.value)


def relabelled(tmp_path: Path, syntax: str, to: str | None, pixels: bytes | None = None) -> Path:
    """Write an image in one syntax, and name another one in its meta information, or none."""
    (path,) = phantoms.write_series(tmp_path / "in", shape=(1, 64, 64), transfer_syntax=syntax)
    dataset = pydicom.dcmread(path)
    if pixels is not None:
        dataset.PixelData = pixels
        dataset["PixelData"].VR = "OW" if syntax == NATIVE else "OB"
        dataset["PixelData"].is_undefined_length = False
    raw = _written(dataset)
    old = element(0x00020010, b"UI", syntax.encode() + b"\0" * (len(syntax) % 2))
    new = b"" if to is None else element(0x00020010, b"UI", to.encode() + b"\0" * (len(to) % 2))
    assert raw.count(old) == 1
    path.write_bytes(raw.replace(old, new))
    return path


def _written(dataset: pydicom.Dataset) -> bytes:
    file = pydicom.filebase.DicomBytesIO()
    pydicom.dcmwrite(file, dataset, enforce_file_format=True)
    return bytes(file.getvalue())


@pytest.mark.parametrize("to", [NATIVE, "1.2.840.10008.1.2", "1.2.840.10008.1.2.2.9", None])
@pytest.mark.parametrize("size", [1000, 64 * 64 * 2 - 30, 64 * 64 * 2, 64 * 64 * 4, 99_999])
def test_encapsulated_pixels_under_another_syntax_are_named(
    tmp_path: Path, to: str | None, size: int
) -> None:
    path = relabelled(tmp_path, JPEG, to)
    stream = b"\xff\xd8\xff" + b"\1" * (size - 5) + b"\xff\xd9"
    raw = path.read_bytes()
    at = raw.rindex(b"\xe0\x7f\x10\0OB\0\0\xff\xff\xff\xff") + 12
    path.write_bytes(raw[:at] + encapsulate([stream]))
    if to == "1.2.840.10008.1.2.2.9":
        # An unknown syntax is taken for a compressed one, which no decoder knows.
        assert len(read_frames(path)) == 1
    else:
        reason, detail = reason_of(path)
        assert reason == "malformed" and "are encapsulated" in detail


def test_native_pixels_under_a_compressed_or_unknown_syntax_are_named(tmp_path: Path) -> None:
    assert "not encapsulated" in reason_of(relabelled(tmp_path / "a", NATIVE, JPEG))[1]
    reason, detail = reason_of(relabelled(tmp_path / "b", NATIVE, "1.2.3.4"))
    assert reason == "unknown_syntax" and "1.2.3.4" in detail
    detail = reason_of(relabelled(tmp_path / "c", NATIVE, "DOE"))[1]
    assert "unknown" in detail and "DOE" not in detail


def test_encapsulated_pixels_of_defined_length_are_named(tmp_path: Path) -> None:
    values = encapsulate([b"\xff\xd8\xff" + b"\1" * 99])
    path = relabelled(tmp_path / "a", NATIVE, JPEG, values)
    assert "defined length" in reason_of(path)[1]
    path = relabelled(tmp_path / "b", NATIVE, NATIVE, values)
    assert "are encapsulated" in reason_of(path)[1]
    path = relabelled(tmp_path / "c", NATIVE, NATIVE, b"\xff\xd8\xff" + b"\1" * 99)
    assert "outside of items" in reason_of(path)[1]


@pytest.mark.parametrize("size", [500, 64 * 64 * 2 + 40])
def test_rle_outside_of_items_is_named(tmp_path: Path, size: int) -> None:
    values = struct.pack("<3I", 2, 64, 300).ljust(64, b"\0") + b"\1" * (size - 64)
    path = relabelled(tmp_path, NATIVE, NATIVE, values)
    assert "outside of items" in reason_of(path)[1]


def test_samples_that_look_like_rle_are_samples(tmp_path: Path) -> None:
    values = struct.pack("<3I", 2, 64, 300).ljust(64 * 64 * 2, b"\1")
    path = relabelled(tmp_path, NATIVE, NATIVE, values)
    assert len(read_frames(path)) == 1


def test_samples_that_look_like_an_item_are_samples(tmp_path: Path) -> None:
    stored = np.full((1, 4, 4), 0xE000, "u2")
    stored[0, 0, 0] = 0xFFFE
    for name, more in (("a", b""), ("b", b"\0")):
        (path,) = phantoms.write_series(
            tmp_path / name, shape=(1, 4, 4), stored=stored, bits_stored=16
        )
        raw = path.read_bytes()
        lengths = [struct.pack("<I", 32 + count) + b"\xfe\xff" for count in (0, len(more))]
        path.write_bytes(raw.replace(*lengths) + more)
        assert read_frames(path)[0].byte_length == 32


@pytest.mark.parametrize("data", [NATIVE, "1.2.840.10008.1.2"])
def test_meta_information_in_implicit_vr_is_read(tmp_path: Path, data: str) -> None:
    (path,) = phantoms.write_series(tmp_path, shape=(1, 5, 7), transfer_syntax=data)
    raw = path.read_bytes()
    expected = read_frames(path)[0]
    meta = element(0x00020010, b"UI", data.encode() + b"\0" * (len(data) % 2), IMPLICIT)
    at = raw.index(b"\x08\0\x08\0")
    path.write_bytes(raw[:132] + meta + raw[at:])
    frame = read_frames(path)[0]
    assert frame.transfer_syntax_uid == data
    assert frame.image_position_patient == expected.image_position_patient


def test_meta_information_in_big_endian_is_read_before_a_big_endian_data_set_only(
    tmp_path: Path,
) -> None:
    for syntax in ("1.2.840.10008.1.2.2", NATIVE):
        folder = tmp_path / syntax
        (path,) = phantoms.write_series(folder, shape=(1, 5, 7), transfer_syntax=syntax)
        raw = path.read_bytes()
        at = raw.index(b"\0\x08\0\x08CS" if syntax != NATIVE else b"\x08\0\x08\0CS")
        meta = element(0x00020010, b"UI", syntax.encode() + b"\0", BIG_ENDIAN)
        path.write_bytes(raw[:132] + meta + raw[at:])
        if syntax == NATIVE:
            assert reason_of(path)[0] == "truncated"
        else:
            assert read_frames(path)[0].rows == 5


@pytest.mark.parametrize("blank", [b"", b"\0\0", b"    ", b" \0"])
@pytest.mark.parametrize(
    "data", ["1.2.840.10008.1.2.1", "1.2.840.10008.1.2", "1.2.840.10008.1.2.2"]
)
def test_a_blank_transfer_syntax_is_an_absent_one(tmp_path: Path, blank: bytes, data: str) -> None:
    (path,) = phantoms.write_series(tmp_path, shape=(1, 5, 7), transfer_syntax=data)
    raw = path.read_bytes()
    old = element(0x00020010, b"UI", data.encode() + b"\0" * (len(data) % 2))
    path.write_bytes(raw.replace(old, element(0x00020010, b"UI", blank)))
    reader = HeaderReader()
    headers = [reader.read(str(path)) for _ in range(3)]
    assert {header.kind for header in headers} == {"image"}
    assert headers[0] == headers[1] == headers[2]
    assert read_frames(path)[0].transfer_syntax_uid == data
