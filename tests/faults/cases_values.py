"""Cases of values: rescale, windows, positions, numbers as text, identifiers, character sets."""

import struct
from collections.abc import Callable

from faults.case import Case
from faults.writing import Element, image_file, text, us
from phantoms import element

SLOPE, INTERCEPT = 0x00281053, 0x00281052
POSITION, ORIENTATION, SPACING = 0x00200032, 0x00200037, 0x00280030
CHARACTER_SET = 0x00080005
DESCRIPTION = 0x0008103E
# A table of 256 values, each twice its number (PS3.3 C.11.1).
TABLE = struct.pack("<256H", *range(0, 512, 2))


def of(tag: int, value: str, vr: bytes = b"DS") -> Callable[[], bytes]:
    """Return the maker of a file with another text in one element."""
    return lambda: image_file({tag: text(value, vr)})


def without(*tags: int) -> Callable[[], bytes]:
    return lambda: image_file(dict.fromkeys(tags))


def of_text(charset: str | None, raw: bytes, vr: bytes = b"LO") -> Callable[[], bytes]:
    """Return the maker of a file with a description in a character set."""
    changes: dict[int, Element | None] = {DESCRIPTION: text(raw, vr)}
    if charset is not None:
        changes[CHARACTER_SET] = text(charset, b"CS")
    return lambda: image_file(changes)


def lookup(table: bytes, descriptor: bytes = struct.pack("<3H", 256, 0, 16)) -> bytes:
    """Return a file with a Modality LUT in place of slope and intercept."""
    facts = (
        element(0x00283002, b"US", descriptor)
        + element(0x00283004, b"LO", b"US")
        + element(0x00283006, b"OW", table)
    )
    sequence = element(0x00283000, b"SQ", element(0xFFFEE000, b"", facts))
    return image_file({SLOPE: None, INTERCEPT: None, 0x00283000: sequence})


RESCALE = (
    Case("a negative slope", "loads", of(SLOPE, "-2"), slope=-2),
    Case("a slope with an exponent", "loads", of(SLOPE, "2.0E+00"), slope=2),
    Case("a slope of 0", "no volume: IntensityError", of(SLOPE, "0")),
    Case("a slope of 1e308", "no volume: IntensityError", of(SLOPE, "1e308")),
    Case("a slope of nan", "problem: invalid_value", of(SLOPE, "nan")),
    Case("a slope of 1e400", "problem: invalid_value", of(SLOPE, "1e400")),
    Case("a slope of text", "problem: invalid_value", of(SLOPE, "abc")),
    Case("a slope with a decimal comma", "problem: invalid_value", of(SLOPE, "1,5")),
    Case("two different slopes", "problem: invalid_value", of(SLOPE, "1\\2")),
    Case("a slope twice", "loads", of(SLOPE, "2\\2")),
    Case("a slope of more than 16 characters", "loads", of(SLOPE, "2.00000000000000000000")),
    Case("a slope with an underscore", "problem: invalid_value", of(SLOPE, "1_0")),
    Case("a slope in Arabic digits", "problem: invalid_value", of(SLOPE, "٢")),
    Case("an empty slope", "loads", of(SLOPE, ""), slope=1),
    Case("no slope", "loads", without(SLOPE), slope=1),
    Case("no slope and no intercept", "loads", without(SLOPE, INTERCEPT), slope=1, intercept=0),
    Case("an infinite intercept", "problem: invalid_value", of(INTERCEPT, "inf")),
    Case("a fractional intercept", "loads", of(INTERCEPT, "-10.25"), intercept=-10.25),
    Case("a Modality LUT", "loads", lambda: lookup(TABLE), slope=2, intercept=0),
    Case(
        "a Modality LUT without entries",
        "no volume: IntensityError",
        lambda: lookup(b"", struct.pack("<3H", 0, 0, 16)),
    ),
    Case(
        "a Modality LUT shorter than its descriptor",
        "no volume: IntensityError",
        lambda: lookup(TABLE[:100]),
    ),
    Case("a window of width 0", "loads", of(0x00281051, "0")),
    Case("a window of width -1", "loads", of(0x00281051, "-1")),
    Case("a window of text", "loads", of(0x00281051, "wide")),
    Case("a window without a width", "loads", of(0x00281050, "40")),
    Case("a padding value among the values", "loads", lambda: image_file({0x00280120: us(7)})),
)
GEOMETRY = (
    Case("no position", "no volume: IrregularStack", without(POSITION)),
    Case("no orientation", "no volume: IrregularStack", without(ORIENTATION)),
    Case("no PixelSpacing", "no volume: IrregularStack", without(SPACING)),
    Case("a position of two numbers", "no volume: IrregularStack", of(POSITION, "0\\0")),
    Case("a position of nan", "no volume: IrregularStack", of(POSITION, "0\\0\\nan")),
    Case("a position of inf", "no volume: IrregularStack", of(POSITION, "inf\\0\\0")),
    Case("a position of text", "no volume: IrregularStack", of(POSITION, "here\\0\\0")),
    Case("a position with decimal commas", "no volume: IrregularStack", of(POSITION, "0\\0\\1,5")),
    Case("a position of 1e300", "no volume: IrregularStack", of(POSITION, "0\\0\\1e300")),
    Case(
        "an orientation of zeros", "no volume: IrregularStack", of(ORIENTATION, "0\\0\\0\\0\\0\\0")
    ),
    Case(
        "an orientation of parallel directions",
        "no volume: IrregularStack",
        of(ORIENTATION, "1\\0\\0\\1\\0\\0"),
    ),
    Case(
        "an orientation at 80 degrees",
        "no volume: IrregularStack",
        of(ORIENTATION, "1\\0\\0\\0.17365\\0.98481\\0"),
    ),
    Case(
        "an orientation of twice the unit length",
        "no volume: IrregularStack",
        of(ORIENTATION, "2\\0\\0\\0\\2\\0"),
    ),
    Case(
        "an orientation rounded to three digits",
        "loads",
        of(ORIENTATION, "1\\0.0\\0\\0\\0.999\\-0.04"),
    ),
    Case("a PixelSpacing of 0", "no volume: IrregularStack", of(SPACING, "0\\0")),
    Case("a PixelSpacing below 0", "no volume: IrregularStack", of(SPACING, "-1\\-1")),
    Case("a PixelSpacing of nan", "no volume: IrregularStack", of(SPACING, "nan\\1")),
    Case("a PixelSpacing of one number", "no volume: IrregularStack", of(SPACING, "1")),
    Case("a PixelSpacing of 1e-300", "no volume: IrregularStack", of(SPACING, "1e-300\\1")),
    Case("a SliceThickness of 0", "loads", of(0x00180050, "0")),
    Case("a SliceThickness of text", "loads", of(0x00180050, "thin")),
)
IDENTITY = (
    Case("no SOP class", "loads, flag:no_sop_class", without(0x00080016)),
    Case("a SOP class of text", "loads, flag:no_sop_class", of(0x00080016, "CT", b"UI")),
    Case("a private SOP class", "loads", of(0x00080016, "1.2.826.0.1.3680043.8.498.1.99", b"UI")),
    Case("no SOP Instance UID", "loads, flag:no_sop_instance_uid", without(0x00080018)),
    Case("no Study", "loads, flag:no_study_uid", without(0x0020000D)),
    Case("no Series", "loads, flag:no_series_uid", without(0x0020000E)),
    Case("an empty UID", "loads, flag:no_series_uid", of(0x0020000E, "", b"UI")),
    Case("a UID of 200 characters", "loads", of(0x0020000E, "1." + "2" * 198, b"UI")),
    Case("a UID with letters", "loads", of(0x0020000E, "SERIES-1", b"UI")),
    Case("a UID with leading zeros", "loads", of(0x0020000E, "1.02.03", b"UI")),
    Case("a UID that is a path", "loads", of(0x00080018, "../../../tmp/evil", b"UI")),
    Case("a UID that is an absolute path", "loads", of(0x0020000E, "/etc/passwd", b"UI")),
    Case("a UID with NUL inside", "loads", of(0x0020000E, "1.2\0.3", b"UI")),
    Case("a UID of NUL", "loads, flag:no_series_uid", of(0x0020000E, "\0\0", b"UI")),
    Case(
        "one UID for study, series and image",
        "loads",
        lambda: image_file(
            dict.fromkeys((0x00080018, 0x0020000D, 0x0020000E), text("1.2.3", b"UI"))
        ),
    ),
    Case("no PatientID", "loads", without(0x00100020)),
    Case("no modality", "loads", without(0x00080060)),
    Case("a report without an image", "no image", lambda: report()),
    Case("a segmentation without pixels", "problem: no_pixel_data", lambda: report("66.4")),
)
NUMBERS = (
    Case("an InstanceNumber of text", "loads", of(0x00200013, "first", b"IS")),
    Case("an InstanceNumber of 1.5", "loads", of(0x00200013, "1.5", b"IS")),
    Case("an InstanceNumber of 30 digits", "loads", of(0x00200013, "9" * 30, b"IS")),
    Case("an echo time of backslashes", "loads", of(0x00180081, "\\\\\\")),
    Case("an echo time of 5,000 digits", "loads", of(0x00180081, "1" * 5000)),
    Case("a date that does not exist", "loads", of(0x00080022, "20231399", b"DA")),
    Case("a time of text", "loads", of(0x00080032, "noon", b"TM")),
    Case("a time of 99 hours", "loads", of(0x00080032, "995959.999999", b"TM")),
    Case(
        "binary numbers in place of digits",
        "loads",
        lambda: image_file({0x00180081: (b"DS", b"\xff\xfe\x00\x01")}),
    ),
    Case(
        "a value longer than its VR allows",
        "problem: malformed",
        lambda: image_file({DESCRIPTION: element(DESCRIPTION, b"UT", b"A" * 70_000)}),
    ),
)
TEXTS = (
    Case("Latin-1", "loads", of_text("ISO_IR 100", "Schädel".encode("latin-1"))),
    Case("UTF-8", "loads", of_text("ISO_IR 192", "頭部".encode())),
    Case("GB18030", "loads", of_text("GB18030", "头部".encode("gb18030"))),
    Case(
        "Japanese with escapes", "loads", of_text("\\ISO 2022 IR 87", "頭部".encode("iso2022_jp"))
    ),
    Case("Korean with escapes", "loads", of_text("\\ISO 2022 IR 149", b"\x1b$)C\xb5\xce\xba\xce")),
    Case("an escape at the end", "loads", of_text("\\ISO 2022 IR 87", b"head\x1b")),
    Case("an unknown escape", "loads", of_text("\\ISO 2022 IR 87", b"\x1b$Zhead")),
    Case("an unknown character set", "loads", of_text("KLINGON", b"head\xff\xfe")),
    Case(
        "a character set without text of its own", "loads", of_text("ISO_IR 192", b"\xff\xfe\x80")
    ),
    Case("bytes beyond ASCII without a character set", "loads", of_text(None, b"Sch\xe4del")),
    Case("a multi-byte character that is cut", "loads", of_text("ISO_IR 192", "頭".encode()[:2])),
    Case("a surrogate in UTF-8", "loads", of_text("ISO_IR 192", b"\xed\xa0\x80")),
    Case("control characters", "loads", of_text(None, bytes(range(1, 32)))),
    Case("NUL within a text", "loads", of_text(None, b"he\0ad")),
    Case("markup", "loads", of_text(None, b"<script>alert(1)</script>")),
    Case("a spreadsheet formula", "loads", of_text(None, b'=HYPERLINK("http://x")')),
    Case("terminal sequences", "loads", of_text(None, b"\x1b[31mred\x1b]0;title\x07")),
    Case("marks of right to left", "loads", of_text("ISO_IR 192", "a\u202eb".encode())),
    Case("lines", "loads", of_text(None, b"one\r\ntwo")),
    Case("a text of 60,000 characters", "loads", of_text(None, b"A" * 60_000)),
)


def report(suffix: str = "88.11") -> bytes:
    """Return a structured report, or another object, without pixels."""
    uid = "1.2.840.10008.5.1.4.1.1." + suffix
    tags = (0x00280002, 0x00280004, 0x00280010, 0x00280011, 0x00280030, 0x7FE00010)
    return image_file({0x00080016: text(uid, b"UI"), **dict.fromkeys(tags)})


CASES = {
    "Rescale, tables and windows": RESCALE,
    "Position, orientation and spacing": GEOMETRY,
    "Identifiers": IDENTITY,
    "Numbers, dates and lengths": NUMBERS,
    "Texts": TEXTS,
}
