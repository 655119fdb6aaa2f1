"""Cases of the file around the data set: preamble, meta information, coding, order of elements."""

import gzip
import io
import random
import struct
import zipfile
from collections.abc import Callable

from faults.case import Case
from faults.writing import (
    CT,
    DEFLATED,
    EXPLICIT_BIG,
    EXPLICIT_LITTLE,
    IMPLICIT_LITTLE,
    JPEG_2000,
    PIXEL_DATA,
    PREAMBLE,
    Element,
    coded,
    deflated,
    encapsulated,
    file,
    image,
    image_file,
    meta,
    native,
    text,
    us,
)
from phantoms import element

from dicomdl.headers._heads import BIG_ENDIAN, IMPLICIT, ITEM, ITEM_END, SEQUENCE_END, UNDEFINED

GOOD = image_file()
DATA_SET = coded(image())
JUNK = random.Random(18).randbytes(4096)
SEQUENCE = 0x00081140
DIRECTORY = b"1.2.840.10008.1.3.10"


def of(raw: bytes) -> Callable[[], bytes]:
    return lambda: raw


def headed(head: bytes) -> bytes:
    """Return the good file with a preamble of another format."""
    return image_file(preamble=head.ljust(128, b"\0"))


def cut(tag: int, raw: bytes = GOOD, into: int = 0) -> bytes:
    """Return a file that ends before the element of a tag, or `into` bytes behind its begin."""
    return raw[: raw.index(struct.pack("<HH", tag >> 16, tag & 0xFFFF), 132) + into]


def zipped() -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("a.dcm", GOOD)
    return packed.getvalue()


def sequence(value: bytes, length: int | None = None, vr: bytes = b"SQ") -> bytes:
    """Return a file with a sequence of some bytes."""
    return image_file({SEQUENCE: element(SEQUENCE, vr, value, length=length)})


def item(value: bytes = b"", length: int | None = None) -> bytes:
    return element(ITEM, b"", value, length=length)


def in_item(*elements: tuple[int, Element]) -> bytes:
    return item(coded(dict(elements)))


def acr_nema() -> bytes:
    """Return a file of ACR-NEMA 2.0: no preamble, no meta information, no UIDs."""
    facts = image({0x00080010: text("ACR-NEMA 2.0", b"LO"), 0x00080016: None, 0x00080018: None})
    return coded({tag: each for tag, each in facts.items() if tag >> 8 != 0x2000}, IMPLICIT)


def directory() -> bytes:
    """Return a DICOMDIR without records."""
    facts = coded({0x00020002: text(DIRECTORY, b"UI"), 0x00020010: text(EXPLICIT_LITTLE, b"UI")})
    records = element(0x00041220, b"SQ", b"")
    return PREAMBLE + b"DICM" + facts + coded({0x00041130: text("SET", b"CS")}) + records


def with_meta(raw: bytes, data_set: bytes = DATA_SET) -> bytes:
    return PREAMBLE + b"DICM" + raw + data_set


def reordered() -> bytes:
    """Return a file with the patient in front of the image."""
    facts = image()
    front = (0x0020000D, 0x00100020)
    return file(EXPLICIT_LITTLE, coded({tag: facts[tag] for tag in (*front, *facts)}))


NOT_DICOM = (
    Case("an empty file that is named as DICOM", "problem: empty", of(b"")),
    Case("an empty file of another name", "not DICOM", of(b""), "notes.txt"),
    Case("one byte", "not DICOM", of(b"D")),
    Case("text", "not DICOM", of(b"Dear colleague,\n" * 40)),
    Case("4 kB of zeros", "not DICOM", of(bytes(4096))),
    Case("4 kB of random bytes", "not DICOM", of(JUNK)),
    Case(
        "an HTML page in place of the file",
        "not DICOM",
        of(b"<!DOCTYPE html><html><body>403 Forbidden</body></html>"),
    ),
    Case(
        "an AppleDouble file",
        "not DICOM",
        of(b"\0\5\x16\7\0\2\0\0Mac OS X" + bytes(200)),
        "._a.dcm",
    ),
    Case(
        "a Windows thumbnail store",
        "not DICOM",
        of(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600)),
        "Thumbs.db",
    ),
    Case("a macOS folder store", "not DICOM", of(b"\0\0\0\1Bud1" + bytes(600)), ".DS_Store"),
    Case(
        "a pointer of git LFS",
        "not DICOM",
        of(b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 9\n"),
    ),
    Case("a gzip file of an image", "not DICOM", lambda: gzip.compress(GOOD, mtime=0)),
    Case("a ZIP file of an image, named .dcm", "not DICOM", zipped),
    Case("the prefix DICM and nothing else", "problem: malformed", of(PREAMBLE + b"DICM")),
    Case("the prefix DICM and random bytes", "problem: truncated", of(PREAMBLE + b"DICM" + JUNK)),
    Case("a DICOMDIR", "no image", directory, "DICOMDIR"),
)
CODING = (
    Case("explicit VR, little endian", "loads", of(GOOD)),
    Case("implicit VR, little endian", "loads", lambda: image_file(syntax=IMPLICIT_LITTLE)),
    Case("explicit VR, big endian", "loads", lambda: image_file(syntax=EXPLICIT_BIG)),
    Case("a deflated data set", "loads", lambda: image_file(syntax=DEFLATED)),
    Case(
        "a preamble of zeros without DICM",
        "loads, flag:no_preamble",
        of(PREAMBLE + meta(EXPLICIT_LITTLE) + DATA_SET),
    ),
    Case(
        "another preamble without DICM",
        "not DICOM",
        of(b"A" * 128 + meta(EXPLICIT_LITTLE) + DATA_SET),
    ),
    Case(
        "DICM at byte 0", "loads, flag:no_preamble", of(b"DICM" + meta(EXPLICIT_LITTLE) + DATA_SET)
    ),
    Case("no preamble", "loads, flag:no_preamble", of(meta(EXPLICIT_LITTLE) + DATA_SET)),
    Case(
        "an implicit data set alone",
        "loads, flag:no_preamble no_transfer_syntax",
        lambda: coded(image(), IMPLICIT),
    ),
    Case("an explicit data set alone", "loads, flag:no_preamble no_transfer_syntax", of(DATA_SET)),
    Case(
        "a big endian data set alone",
        "loads, flag:no_preamble no_transfer_syntax",
        lambda: coded(image(), BIG_ENDIAN),
    ),
    Case("no meta information", "loads, flag:no_transfer_syntax", of(with_meta(b""))),
    Case(
        "a file of ACR-NEMA 2.0",
        "no volume: IrregularStack, flag:no_preamble no_transfer_syntax no_sop_class "
        "no_sop_instance_uid no_study_uid no_series_uid",
        acr_nema,
    ),
    Case("an empty transfer syntax", "loads, flag:no_transfer_syntax", of(file(b"", DATA_SET))),
    Case(
        "a transfer syntax padded by a space", "loads", of(file(b"1.2.840.10008.1.2.1 ", DATA_SET))
    ),
    Case(
        "a transfer syntax with spaces around", "loads", of(file(b" 1.2.840.10008.1.2.1", DATA_SET))
    ),
    Case("an unknown transfer syntax", "problem: unknown_syntax", of(file(b"1.2.3.4", DATA_SET))),
    Case("a transfer syntax of text", "problem: unknown_syntax", of(file(b"JPEG", DATA_SET))),
    Case(
        "a big endian transfer syntax of little endian data",
        "problem: contradicting_syntax",
        of(file(EXPLICIT_BIG, DATA_SET)),
    ),
    Case(
        "a little endian transfer syntax of big endian data",
        "problem: contradicting_syntax",
        lambda: file(EXPLICIT_LITTLE, coded(image(), BIG_ENDIAN)),
    ),
    Case(
        "an implicit transfer syntax of explicit data",
        "loads, flag:other_coding",
        of(file(IMPLICIT_LITTLE, DATA_SET)),
    ),
    Case(
        "an explicit transfer syntax of implicit data",
        "loads, flag:other_coding",
        lambda: file(EXPLICIT_LITTLE, coded(image(), IMPLICIT)),
    ),
    Case(
        "a transfer syntax of JPEG 2000 with native pixels",
        "problem: malformed",
        of(file(JPEG_2000, DATA_SET)),
    ),
    Case("a video", "problem: video", of(file(b"1.2.840.10008.1.2.4.102", DATA_SET))),
    Case("a reference to JPIP", "problem: jpip", of(file(b"1.2.840.10008.1.2.4.94", DATA_SET))),
    Case(
        "meta information without its length",
        "loads",
        of(with_meta(coded({0x00020010: text(EXPLICIT_LITTLE, b"UI")}))),
    ),
    Case("a length of the meta information of 0", "loads", of(with_meta(meta(EXPLICIT_LITTLE, 0)))),
    Case(
        "a length of the meta information of 4 GB",
        "loads",
        of(with_meta(meta(EXPLICIT_LITTLE, 0xFFFFFFFE))),
    ),
    Case(
        "implicit meta information",
        "loads",
        of(with_meta(coded({0x00020010: text(EXPLICIT_LITTLE, b"UI")}, IMPLICIT))),
    ),
    Case(
        "meta information with an element of 4 GB",
        "problem: truncated",
        of(
            with_meta(
                element(0x00020001, b"OB", b"\0\1", length=0xFFFFFFF0) + meta(EXPLICIT_LITTLE)
            )
        ),
    ),
    Case(
        "meta information within the data set",
        "loads",
        lambda: image_file({0x00080017: meta(IMPLICIT_LITTLE)}),
    ),
    Case(
        "deflated bytes that are random",
        "problem: malformed",
        of(with_meta(meta(DEFLATED), b"\x07" + JUNK)),
    ),
    Case(
        "a deflated data set that is cut",
        "problem: truncated",
        lambda: with_meta(meta(DEFLATED), deflated(DATA_SET + JUNK)[:200]),
    ),
    Case(
        "zlib instead of raw deflate",
        "problem: malformed",
        lambda: with_meta(meta(DEFLATED), b"\x78\x9c" + deflated(DATA_SET)),
    ),
)
PREAMBLES = (
    Case("a preamble of text", "loads", lambda: headed(b"written by a scanner")),
    Case("a preamble of a Windows program", "loads, flag:also_executable", lambda: headed(b"MZ")),
    Case(
        "a preamble of a Linux program", "loads, flag:also_executable", lambda: headed(b"\x7fELF")
    ),
    Case(
        "a preamble of a macOS program",
        "loads, flag:also_executable",
        lambda: headed(b"\xcf\xfa\xed\xfe"),
    ),
    Case("a preamble of a script", "loads, flag:also_executable", lambda: headed(b"#!/bin/sh\n")),
    Case("a preamble of a PDF", "loads, flag:also_pdf", lambda: headed(b"%PDF-1.7\n")),
    Case("a preamble of a ZIP file", "loads, flag:also_zip", lambda: headed(b"PK\3\4")),
    Case("a preamble of a TIFF", "loads, flag:also_tiff", lambda: headed(b"II*\0\x08\0\0\0")),
    Case("a preamble of a big TIFF", "loads, flag:also_tiff", lambda: headed(b"MM\0+\0\x08\0\0")),
)
LENGTHS = (
    Case("a file cut in its header", "problem: truncated", lambda: cut(0x00200032, into=10)),
    Case("a file cut in front of Rows", "problem: no_pixel_data", lambda: cut(0x00280010)),
    Case("a file cut in front of Pixel Data", "problem: no_pixel_data", lambda: cut(PIXEL_DATA)),
    Case("a file cut in front of the SOP class", "problem: malformed", lambda: cut(0x00080016)),
    Case("a file cut in its pixels", "problem: truncated", of(GOOD[:-7])),
    Case(
        "a header element of 4 GB",
        "problem: truncated",
        lambda: image_file({0x00081111: element(0x00081111, b"OB", b"", length=0xFFFFFFF0)}),
    ),
    Case(
        "a header element that ends in the pixels",
        "problem: truncated",
        lambda: image_file({0x00081111: element(0x00081111, b"LO", b"", length=0x7FFF)}),
    ),
    Case(
        "a header element of odd length", "loads", lambda: image_file({0x00081030: (b"LO", b"odd")})
    ),
    Case(
        "a VR in lower case",
        "problem: truncated",
        lambda: image_file({0x00080070: b"\x08\0\x70\0lo\4\0ACME"}),
    ),
    Case(
        "an element without VR in explicit data",
        "loads",
        lambda: image_file({0x00080070: element(0x00080070, b"LO", b"ACME", IMPLICIT)}),
    ),
    Case(
        "a VR that does not exist",
        "loads",
        lambda: image_file({0x00080070: b"\x08\0\x70\0ZZ\4\0ACME"}),
    ),
    Case(
        "Pixel Data of undefined length in a native syntax",
        "loads",
        lambda: image_file({PIXEL_DATA: element(PIXEL_DATA, b"OW", GOOD[-40:], length=UNDEFINED)}),
    ),
    Case(
        "Pixel Data of 4 GB in a small file",
        "loads, flag:longer_pixel_data",
        lambda: image_file({PIXEL_DATA: element(PIXEL_DATA, b"OW", GOOD[-40:], length=0xFFFFFFFE)}),
    ),
    Case("elements out of order", "loads", reordered),
    Case(
        "an element twice, alike",
        "loads",
        lambda: image_file({0x00280012: element(0x00280011, *us(5))}),
    ),
    Case(
        "group lengths in the data set",
        "loads",
        lambda: image_file({0x00080000: (b"UL", b"\xff\0\0\0"), 0x00280000: (b"UL", b"\0\0\0\0")}),
    ),
    Case(
        "private elements without a creator",
        "loads",
        lambda: image_file({0x00091001: text("free", b"LO"), 0x00290010: text("", b"LO")}),
    ),
    Case(
        "a creator of undefined length",
        "loads",
        lambda: image_file(
            {0x00090010: element(0x00090010, b"UN", length=UNDEFINED) + element(SEQUENCE_END, b"")}
        ),
    ),
)
ENDS = (
    Case("one byte of zero behind the pixels", "loads", of(GOOD + b"\0")),
    Case(
        "1 MB of zeros behind the pixels", "loads, flag:trailing_bytes", of(GOOD + bytes(1 << 20))
    ),
    Case("random bytes behind the pixels", "loads, flag:trailing_bytes", of(GOOD + b"\1" + JUNK)),
    Case("two files, one behind the other", "loads, flag:trailing_bytes", of(GOOD + GOOD)),
    Case("Data Set Trailing Padding", "loads", of(GOOD + element(0xFFFCFFFC, b"OB", bytes(600)))),
    Case(
        "a digital signature behind the pixels", "loads", of(GOOD + element(0xFFFAFFFA, b"SQ", b""))
    ),
)
SEQUENCES = (
    Case(
        "a sequence and an item of undefined length",
        "loads",
        lambda: sequence(
            item(element(0x00081150, *text(CT, b"UI")), UNDEFINED)
            + element(ITEM_END, b"")
            + element(SEQUENCE_END, b""),
            UNDEFINED,
        ),
    ),
    Case(
        "a sequence of undefined length in VR UN",
        "loads",
        lambda: sequence(
            item(element(0x00081150, b"UI", CT, IMPLICIT)) + element(SEQUENCE_END, b""),
            UNDEFINED,
            b"UN",
        ),
    ),
    Case("an empty sequence", "loads", lambda: sequence(b"")),
    Case(
        "a sequence without its delimiter",
        "problem: malformed",
        lambda: sequence(item(), UNDEFINED),
    ),
    Case(
        "an item without its delimiter",
        "problem: malformed",
        lambda: sequence(item(b"", UNDEFINED) + element(SEQUENCE_END, b""), UNDEFINED),
    ),
    Case(
        "a sequence longer than the file", "problem: truncated", lambda: sequence(item(), 1 << 24)
    ),
    Case("an item longer than its sequence", "loads", lambda: sequence(item(b"", 1 << 24))),
    Case(
        "an element in place of an item",
        "problem: malformed",
        lambda: sequence(element(0x00081150, *text(CT, b"UI")), UNDEFINED),
    ),
    Case(
        "a delimiter between the elements",
        "loads, flag:stray_delimiter",
        lambda: image_file({0x00081111: element(ITEM_END, b"")}),
    ),
    Case(
        "an icon with a size and pixels of its own",
        "loads",
        lambda: image_file(
            {
                0x00280010: us(4),
                0x00088888: None,
                0x00091110: element(
                    0x00880200,
                    b"SQ",
                    in_item(
                        (0x00280010, us(1)), (0x00280011, us(1)), (PIXEL_DATA, (b"OW", b"\xff\xff"))
                    ),
                ),
            }
        ),
    ),
    Case(
        "100 sequences, one within the other",
        "problem: too_deep",
        lambda: sequence(
            element(ITEM, b"", element(SEQUENCE, b"SQ", b"", length=UNDEFINED), length=UNDEFINED)
            * 100,
            UNDEFINED,
        ),
    ),
    Case("20 sequences, one within the other", "loads", lambda: image_file({SEQUENCE: nested(20)})),
)


def nested(levels: int) -> bytes:
    raw = b""
    for _ in range(levels):
        raw = element(SEQUENCE, b"SQ", item(raw))
    return raw


COMPRESSED_IN_NATIVE = (
    Case(
        "encapsulated pixels in a native syntax",
        "problem: malformed",
        lambda: image_file({PIXEL_DATA: encapsulated(b"\xff\xd8\xff\xe0" + bytes(16))}),
    ),
    Case(
        "a codestream without items in a native syntax",
        "problem: malformed",
        lambda: image_file({PIXEL_DATA: native(b"\xff\xd8\xff\xe0" + bytes(16))}),
    ),
)
CASES = {
    "Files that are not DICOM": NOT_DICOM,
    "Coding of the file": CODING,
    "Preambles of other formats": PREAMBLES,
    "Lengths, VRs and order of elements": LENGTHS,
    "Behind the pixels": ENDS,
    "Sequences": SEQUENCES,
    "Coding of the pixels": COMPRESSED_IN_NATIVE,
}
