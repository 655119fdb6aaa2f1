"""The start of a file: the position of the first element, and the coding of the data set."""

from typing import Final

from dicomdl.errors import HeaderError
from dicomdl.headers._heads import (
    BIG_ENDIAN,
    EXPLICIT,
    IMPLICIT,
    UNDEFINED,
    Syntax,
    read_head,
)
from dicomdl.headers._window import Window
from dicomdl.headers.uids import EXPLICIT_BIG, EXPLICIT_LITTLE, IMPLICIT_LITTLE

# Group of the patient: the first 128 bytes of a data set do not reach beyond it.
_LAST_GROUP: Final = 0x0010
PREAMBLE: Final = 128
# Position of the first element behind preamble and prefix.
BEHIND_PREFIX: Final = 132


def first_element(first: bytes) -> int | None:
    """Return the position of the first element; None if the file is not DICOM.

    The element follows preamble and prefix (PS3.10 7.1), or is at 0 in files without them. Some
    writers leave the prefix out behind a preamble of zeros.
    """
    # Meta information behind the prefix shows that it is one, which spares most files a call.
    if first[128:132] == b"DICM" and (first[132:134] == b"\x02\x00" or not _is_value(first)):
        return BEHIND_PREFIX
    if first[:4] == b"DICM":
        return 4
    if _begins_data_set(first):
        return 0
    is_blank = first[:PREAMBLE] == bytes(PREAMBLE)
    return PREAMBLE if is_blank and _begins_data_set(first[PREAMBLE:]) else None


def _begins_data_set(first: bytes) -> bool:
    group, element = first[:2], first[2:4]
    if len(first) <= 8:
        return False
    if group == b"\x00\x08":
        return element[:1] == b"\x00" and first[4:6].isalpha()
    return group in (b"\x02\x00", b"\x08\x00") and element[1:] in (b"\x00", b"\x10")


def _is_value(first: bytes) -> bool:
    """Return whether "DICM" at 128 is a part of a value of a file without preamble.

    The elements from 0 on are then in ascending order, and one of them encloses it. A preamble has
    any content (PS3.10 7.1).
    """
    if not _begins_data_set(first):
        return False
    window = Window(lambda offset, length: first[offset : offset + length], len(first), first)
    syntax = BIG_ENDIAN if first[0] == 0 else EXPLICIT
    position, last = 0, -1
    while position <= 128 < len(first):
        head = read_head(window, position, syntax)
        if head.tag <= last or head.tag >> 16 > _LAST_GROUP or head.value > 128:
            return False
        if head.length == UNDEFINED:
            return True
        position, last = head.value + head.length, head.tag
    return position >= 132


def syntax_of(window: Window, position: int, transfer_syntax: str) -> tuple[Syntax, str]:
    """Return the coding of the data set, and its transfer syntax (a default where it is absent).

    The first element decides between explicit and implicit VR if it contradicts the transfer
    syntax. A contradiction about the byte order raises HeaderError, because the byte order of the
    pixels would be a guess.
    """
    start = window.at(position, 8)
    group, vr = window.buffer[start : start + 2], window.buffer[start + 4 : start + 6]
    explicit = vr.isalpha() and vr.isupper()
    looks_big = len(group) == 2 and group[0] == 0 and group[1] != 0
    if transfer_syntax == EXPLICIT_BIG or (not transfer_syntax and looks_big):
        if not looks_big and group not in (b"\x00\x00", b""):
            raise HeaderError(
                "the transfer syntax is big endian, the data set is little endian",
                reason="contradicting_syntax",
            )
        return BIG_ENDIAN, EXPLICIT_BIG
    if looks_big:
        raise HeaderError(
            "the transfer syntax is little endian, the data set is big endian",
            reason="contradicting_syntax",
        )
    # Native pixels without a transfer syntax can only be little endian. Encapsulated ones are
    # refused by `locate_frames`.
    return (EXPLICIT if explicit else IMPLICIT), transfer_syntax or (
        EXPLICIT_LITTLE if explicit else IMPLICIT_LITTLE
    )
