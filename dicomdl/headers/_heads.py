"""Element headers (PS3.5 7.1): tag, VR and length, in either byte order, explicit or implicit.

Tags are written as DICOM prints them, 0xGGGGEEEE.
"""

import struct
from typing import Final, NamedTuple

from dicomdl.headers._window import Window, truncated

ITEM: Final = 0xFFFEE000
ITEM_END: Final = 0xFFFEE00D
SEQUENCE_END: Final = 0xFFFEE0DD
UNDEFINED: Final = 0xFFFFFFFF
PIXEL_DATA: Final = 0x7FE00010
FLOAT_PIXEL_DATA: Final = 0x7FE00008
DOUBLE_FLOAT_PIXEL_DATA: Final = 0x7FE00009
MEDIA_STORAGE_SOP_CLASS: Final = 0x00020002
TRANSFER_SYNTAX: Final = 0x00020010
PIXEL_TAGS: Final = frozenset({PIXEL_DATA, FLOAT_PIXEL_DATA, DOUBLE_FLOAT_PIXEL_DATA})
# These three have no VR in any syntax (PS3.5 7.5).
VR_LESS: Final = frozenset({ITEM, ITEM_END, SEQUENCE_END})
# These VRs have two reserved bytes and a 32-bit length, all others a 16-bit length (PS3.5 7.1.2).
_LONG_VRS: Final = frozenset(
    {b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"}
)
# Cost of the plain gear, in elements of the fast one, which take 0.3 us.
PLAIN_COST: Final = 6
# Longest layout, in element headers. Longer ones would need too much memory.
MAX_STEPS: Final = 4096


class Syntax(NamedTuple):
    """The coding of element headers: explicit or implicit VR, little or big endian."""

    explicit: bool
    little: bool


EXPLICIT: Final = Syntax(explicit=True, little=True)
IMPLICIT: Final = Syntax(explicit=False, little=True)
BIG_ENDIAN: Final = Syntax(explicit=True, little=False)


def raw_tag(tag: int) -> int:
    """Return a tag as one number, as its four bytes in the file read in little endian."""
    return (tag & 0xFFFF) << 16 | tag >> 16


# Little-endian numbers for the fast gear: the tag; VR and 16-bit length, or a 32-bit length; the
# 32-bit length of long VRs.
HEAD: Final = struct.Struct("<IHHI").unpack_from
HEAD_BYTES: Final = 12
_SHORT_VRS: Final = b"AE AS AT CS DA DS DT FD FL IS LO LT PN SH SL SS ST TM UI UL US".split()
SHORT_CODES: Final = frozenset(int.from_bytes(vr, "little") for vr in _SHORT_VRS)
LONG_CODES: Final = frozenset(int.from_bytes(vr, "little") for vr in _LONG_VRS)
UN_CODE: Final = int.from_bytes(b"UN", "little")
RAW_STOPS: Final = frozenset(map(raw_tag, PIXEL_TAGS | VR_LESS))
_TAG = {True: struct.Struct("<HH").unpack_from, False: struct.Struct(">HH").unpack_from}
_SHORT = {True: struct.Struct("<H").unpack_from, False: struct.Struct(">H").unpack_from}
_LONG = {True: struct.Struct("<I").unpack_from, False: struct.Struct(">I").unpack_from}


class ElementHead(NamedTuple):
    """The header of one element: tag, VR (b"" if implicit), position and length of the value."""

    tag: int
    vr: bytes
    value: int
    length: int


def read_head(window: Window, position: int, syntax: Syntax) -> ElementHead:
    """Read the element header at `position` (PS3.5 7.1).

    Items and delimiters have no VR in any syntax.
    """
    start = window.at(position, 12)
    buffer = window.buffer
    little = syntax.little
    try:
        group, element = _TAG[little](buffer, start)
        tag = group << 16 | element
        if not syntax.explicit or tag in VR_LESS:
            return ElementHead(tag, b"", position + 8, _LONG[little](buffer, start + 4)[0])
        vr = buffer[start + 4 : start + 6]
        if vr in _LONG_VRS:
            return ElementHead(tag, vr, position + 12, _LONG[little](buffer, start + 8)[0])
        if vr.isalpha() and vr.isupper():
            return ElementHead(tag, vr, position + 8, _SHORT[little](buffer, start + 6)[0])
        # Some writers omit the VR of an element and write it as implicit. pydicom accepts it, too.
        return ElementHead(tag, b"", position + 8, _LONG[little](buffer, start + 4)[0])
    except struct.error:
        raise truncated(position, 12, window.size) from None


def inner_syntax(vr: bytes, syntax: Syntax) -> Syntax:
    """Return the syntax inside a sequence.

    UN of undefined length contains implicit little endian (PS3.5 6.2.2, note 2).
    """
    return IMPLICIT if vr == b"UN" else syntax


class Step(NamedTuple):
    """An element header that a walk has passed.

    `slot` is that of its value, -1 for an unwanted element. `creator` is True if the element names
    a private creator.
    """

    position: int
    head: ElementHead
    slot: int
    creator: bool = False
