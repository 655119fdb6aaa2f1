"""A writer of DICOM files byte by byte: it writes what no library would.

An element is its VR and its value in little endian; the writer swaps bytes where the syntax is big
endian. `bytes` instead of an element stand in the file as they are.
"""

import struct
import zlib
from collections.abc import Mapping
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from phantoms import element

from dicomdl.headers._heads import BIG_ENDIAN, EXPLICIT, IMPLICIT, ITEM, SEQUENCE_END, UNDEFINED
from dicomdl.headers._heads import Syntax as Coding

EXPLICIT_LITTLE = b"1.2.840.10008.1.2.1"
IMPLICIT_LITTLE = b"1.2.840.10008.1.2"
EXPLICIT_BIG = b"1.2.840.10008.1.2.2"
DEFLATED = b"1.2.840.10008.1.2.1.99"
RLE = b"1.2.840.10008.1.2.5"
JPEG = b"1.2.840.10008.1.2.4.50"
PROGRESSIVE = b"1.2.840.10008.1.2.4.55"
JPEG_LOSSLESS = b"1.2.840.10008.1.2.4.70"
JPEG_LS = b"1.2.840.10008.1.2.4.80"
JPEG_2000 = b"1.2.840.10008.1.2.4.90"
CT = b"1.2.840.10008.5.1.4.1.1.2"
PREAMBLE = bytes(128)
PIXEL_DATA = 0x7FE00010
# Of a data set: bytes that are not made before they are deflated. See `inflating`.
FILLING = b"<filling>"
_MIB = 1 << 20
# Bytes of one number, for VRs of binary numbers.
_WIDTHS = {b"US": 2, b"SS": 2, b"OW": 2, b"AT": 2, b"UL": 4, b"SL": 4, b"FL": 4, b"FD": 8}

Element: TypeAlias = tuple[bytes, bytes]
Elements: TypeAlias = dict[int, Element | bytes]
Changes: TypeAlias = Mapping[int, Element | bytes | None]


def text(value: str | bytes, vr: bytes = b"DS") -> Element:
    """Return an element of text, padded to an even length."""
    raw = value.encode() if isinstance(value, str) else value
    return vr, raw + (b"\0" if vr == b"UI" else b" ") * (len(raw) % 2)


def us(value: int) -> Element:
    return b"US", struct.pack("<H", value)


def native(data: bytes) -> bytes:
    """Return Pixel Data (7FE0,0010) of VR OB."""
    return element(PIXEL_DATA, b"OB", data)


def encapsulated(*fragments: bytes, table: bytes = b"", end: bytes | None = None) -> bytes:
    """Return encapsulated Pixel Data; `end` replaces the sequence delimiter."""
    items = b"".join(element(ITEM, b"", each) for each in (table, *fragments))
    closed = element(SEQUENCE_END, b"") if end is None else end
    return element(PIXEL_DATA, b"OB", items + closed, length=UNDEFINED)


def image(changes: Changes | None = None, shape: tuple[int, int] = (4, 5)) -> Elements:
    """Return the elements of a CT slice of 16 bits, with some changed; None leaves one out.

    The pixel at (row, column) stores 7 x row + column. Modality values are 2 x stored - 10.
    """
    elements: Elements = {
        0x00080016: text(CT, b"UI"),
        0x00080018: text("1.2.3.1", b"UI"),
        0x00080060: text("CT", b"CS"),
        0x00100020: text("P-1", b"LO"),
        0x0020000D: text("1.2.3.2", b"UI"),
        0x0020000E: text("1.2.3.3", b"UI"),
        0x00200032: text("0\\0\\0"),
        0x00200037: text("1\\0\\0\\0\\1\\0"),
        0x00280002: us(1),
        0x00280004: text("MONOCHROME2", b"CS"),
        0x00280010: us(shape[0]),
        0x00280011: us(shape[1]),
        0x00280030: text("1\\1"),
        0x00280100: us(16),
        0x00280101: us(16),
        0x00280102: us(15),
        0x00280103: us(0),
        0x00281052: text("-10"),
        0x00281053: text("2"),
    }
    changed = {**elements, **(changes or {})}
    if PIXEL_DATA not in changed:
        changed[PIXEL_DATA] = (b"OW", stored(shape).astype("<u2").tobytes())
    return {tag: each for tag, each in sorted(changed.items()) if each is not None}


def stored(shape: tuple[int, int] = (4, 5)) -> NDArray[np.int64]:
    """Return the stored values of `image`, (rows, columns) int64."""
    rows, columns = np.indices(shape)
    return np.asarray(7 * rows + columns, np.int64)


def coded(elements: Mapping[int, Element | bytes], coding: Coding = EXPLICIT) -> bytes:
    """Return the bytes of elements, in the order of the mapping."""
    return b"".join(
        each if isinstance(each, bytes) else _coded(tag, *each, coding)
        for tag, each in elements.items()
    )


def _coded(tag: int, vr: bytes, value: bytes, coding: Coding) -> bytes:
    width = 1 if coding.little else _WIDTHS.get(vr, 1)
    if width > 1:
        value = b"".join(value[i : i + width][::-1] for i in range(0, len(value), width))
    return element(tag, vr, value, coding)


def meta(syntax: bytes, group_length: int | None = None) -> bytes:
    """Return group 0002 of a transfer syntax; the group length may be wrong."""
    raw = coded({0x00020010: text(syntax, b"UI")})
    length = len(raw) if group_length is None else group_length
    return coded({0x00020000: (b"UL", struct.pack("<I", length))}) + raw


def file(syntax: bytes, data_set: bytes, *, preamble: bytes = PREAMBLE) -> bytes:
    """Return a file of a data set; that of the deflated transfer syntax is packed."""
    if syntax == DEFLATED:
        data_set = deflated(data_set)
    return preamble + b"DICM" + meta(syntax) + data_set


def deflated(data_set: bytes) -> bytes:
    """Return a data set deflated."""
    return _deflated(data_set, zlib.Z_FINISH)


def inflating(data_set: bytes, size: int, value: bytes = b"\0") -> bytes:
    """Return a deflated file in whose data set `size` equal bytes stand for `FILLING`.

    One of their mebibytes is deflated, and repeated.
    """
    before, _, behind = data_set.partition(FILLING)
    count, rest = divmod(size, _MIB)
    packed = _deflated(value * _MIB, zlib.Z_FULL_FLUSH)
    ends = _deflated(before, zlib.Z_FULL_FLUSH), deflated(value * rest + behind)
    return PREAMBLE + b"DICM" + meta(DEFLATED) + ends[0] + packed * count + ends[1]


def _deflated(data: bytes, end: int) -> bytes:
    deflater = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    return deflater.compress(data) + deflater.flush(end)


CODINGS = {IMPLICIT_LITTLE: IMPLICIT, EXPLICIT_BIG: BIG_ENDIAN}


def image_file(
    changes: Changes | None = None,
    syntax: bytes = EXPLICIT_LITTLE,
    *,
    preamble: bytes = PREAMBLE,
    shape: tuple[int, int] = (4, 5),
) -> bytes:
    """Return a file of `image`."""
    coding = CODINGS.get(syntax, EXPLICIT)
    return file(syntax, coded(image(changes, shape), coding), preamble=preamble)
