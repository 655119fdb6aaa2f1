"""The start of a file: the position of the first element, and the coding of the data set."""

from dicomdl.errors import HeaderError
from dicomdl.headers._heads import BIG_ENDIAN, EXPLICIT, IMPLICIT, Syntax
from dicomdl.headers._window import Window
from dicomdl.headers.uids import EXPLICIT_BIG, EXPLICIT_LITTLE, IMPLICIT_LITTLE


def first_element(first: bytes) -> int | None:
    """Return the position of the first element; None if the file is not DICOM.

    The element follows preamble and prefix (PS3.10 7.1), or is at 0 in files without them.
    """
    if first[128:132] == b"DICM":
        return 132
    if first[:4] == b"DICM":
        return 4
    group, element = first[:2], first[2:4]
    if group in (b"\x02\x00", b"\x08\x00") and len(first) > 8 and element[1:] in (b"\x00", b"\x10"):
        return 0
    if group == b"\x00\x08" and len(first) > 8 and element[:1] == b"\x00" and first[4:6].isalpha():
        return 0
    return None


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
