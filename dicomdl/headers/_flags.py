"""Flags: what is odd about a file whose image is read nevertheless.

A flag is a word of `MEANINGS`. A file has none, or several with spaces between them. Flags never
change how a file is read.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Final

from dicomdl.errors import HeaderError
from dicomdl.headers._coding import BEHIND_PREFIX
from dicomdl.headers._heads import UNDEFINED, ElementHead, read_head
from dicomdl.headers._pixel_data import Located
from dicomdl.headers._rows import Context, Row, Schema
from dicomdl.headers.columns import as_text
from dicomdl.headers.uids import IMPLICIT_LITTLE, RLE_LOSSLESS, is_uid

MEANINGS: Final[Mapping[str, str]] = {
    "no_preamble": "the file begins with the data, without preamble and prefix (PS3.10 7.1)",
    "also_executable": "the preamble is the head of a program (MZ, ELF, Mach-O or a script)",
    "also_pdf": "the preamble is the head of a PDF file",
    "also_zip": "the preamble is the head of a ZIP file",
    "also_tiff": "the preamble is the head of a TIFF file, as dual-format files have",
    "no_transfer_syntax": "the transfer syntax is absent, and was taken from the first element",
    "other_coding": "elements have VRs although the transfer syntax has none, or the reverse",
    "stray_delimiter": "an item or a delimiter is outside of every sequence (PS3.5 7.5)",
    "no_sop_class": "SOPClassUID is absent or no UID",
    "no_sop_instance_uid": "SOPInstanceUID is absent: copies of the image are not recognized by it",
    "no_study_uid": "StudyInstanceUID is absent",
    "no_series_uid": "SeriesInstanceUID is absent: the images of the folder are one Series",
    "no_photometric": "PhotometricInterpretation is absent: grey values are MONOCHROME2",
    "contradicting_photometric": "PhotometricInterpretation does not fit SamplesPerPixel",
    "impossible_bits": "BitsStored or HighBit is impossible: all bits count (PS3.5 8.1.1)",
    "longer_pixel_data": "the pixel data are longer than the frames",
    "fragmented_rle": "a frame of RLE has several fragments (PS3.5 A.4.2 allows one)",
    "no_delimiter": "the fragments end without a sequence delimiter (PS3.5 A.4)",
    "trailing_bytes": "bytes that are no element follow the pixel data",
}
# Heads of files that a preamble of 128 bytes can hold.
_HEADS: Final = (
    ((b"MZ", b"\x7fELF", b"#!"), "also_executable"),
    # Mach-O, of both widths and byte orders, and for several processors.
    ((b"\xfe\xed\xfa\xce", b"\xfe\xed\xfa\xcf", b"\xce\xfa\xed\xfe"), "also_executable"),
    ((b"\xcf\xfa\xed\xfe", b"\xca\xfe\xba\xbe"), "also_executable"),
    ((b"%PDF",), "also_pdf"),
    ((b"PK\x03\x04", b"PK\x05\x06"), "also_zip"),
    ((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"), "also_tiff"),
)
_DELIMITER_BYTES: Final = 8
_LAST_GROUP: Final = 0x7FE0


def flags_of_start(first: bytes, start: int) -> str:
    """Return the flags of the bytes before the first element, which is at `start`."""
    if start != BEHIND_PREFIX:
        return "no_preamble"
    return next((flag for heads, flag in _HEADS if first.startswith(heads)), "")


def flags_of_image(
    row: Row, sop_class: str, pixel_data: ElementHead, located: Located, context: Context
) -> str:
    """Return all flags of the file of an image; "" for most files."""
    places, fragments = located
    offset, length, _ = places[-1]
    end, size = offset + length, context.window.size
    is_other = context.syntax.explicit is (context.transfer_syntax == IMPLICIT_LITTLE)
    # Most files have all identifiers, and end with native pixels; they must not pay for the others.
    if (
        not fragments
        and end <= pixel_data.value + pixel_data.length == size <= end + 1
        # A UID begins with a digit, which absent and blank ones sort before.
        and min(context.schema.identity_of(row)) >= b"0"
        and _is_class(sop_class)
        and not is_other
    ):
        return context.flags
    flags = _lost_identity(row, sop_class, context.schema)
    flags += ["other_coding"] if is_other else []
    if pixel_data.length == UNDEFINED and fragments:
        flags += _odd_end(end, located, context)
    elif pixel_data.length != UNDEFINED:
        declared = pixel_data.value + pixel_data.length
        if declared > end + 1:
            flags.append("longer_pixel_data")
        if declared + 1 < size and _has_junk(declared, context):
            flags.append("trailing_bytes")
    return " ".join([context.flags, *flags]).strip() if flags else context.flags


# Small: the classes of the files of one scan.
_is_class = functools.lru_cache(maxsize=256)(is_uid)


def _lost_identity(row: Row, sop_class: str, schema: Schema) -> list[str]:
    at = schema.at
    values = {
        "no_sop_instance_uid": row[at.sop_instance_uid],
        "no_study_uid": row[at.study_instance_uid],
        "no_series_uid": row[at.series_instance_uid],
    }
    lost = [flag for flag, value in values.items() if not as_text(value)]
    return lost if _is_class(sop_class) else ["no_sop_class", *lost]


def _odd_end(end: int, located: Located, context: Context) -> Sequence[str]:
    """Return the flags of encapsulated pixel data whose last fragment ends at `end`."""
    flags = []
    places, fragments = located
    if context.transfer_syntax == RLE_LOSSLESS and fragments > len(places):
        flags.append("fragmented_rle")
    after = end + _DELIMITER_BYTES
    if after > context.window.size:
        flags.append("no_delimiter")
    elif after + 1 < context.window.size and _has_junk(after, context):
        flags.append("trailing_bytes")
    return flags


def _has_junk(position: int, context: Context) -> bool:
    """Whether the bytes behind the pixel data do not begin with a whole element of a later tag."""
    if context.deflated:
        return False
    window = context.window
    try:
        head = read_head(window, position, context.syntax)
    except HeaderError:
        return True
    is_whole = head.length == UNDEFINED or head.value + head.length <= window.size
    return head.tag >> 16 < _LAST_GROUP or not is_whole
