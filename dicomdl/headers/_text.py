"""Text of a file's own character set -> UTF-8.

A door to pydicom, which knows the character sets.
"""

import warnings

from dicomdl.headers._rows import Row, Schema, override
from dicomdl.headers.requirement import require_pydicom


def transcoded(row: Row, charset: bytes, schema: Schema) -> Row:
    """The row with text as UTF-8, where the file's character set is not ASCII (PS3.3 C.12.1.1.2)."""
    joined = b"".join(schema.texts_of(row))
    if joined.isascii() and b"\x1b" not in joined:
        return row
    foreign = {
        number: _to_utf8(row[number], charset)
        for number in schema.free_texts
        if not row[number].isascii() or b"\x1b" in row[number]
    }
    return override(row, foreign)


def _to_utf8(raw: bytes, charset: bytes) -> bytes:
    """Text of a file's SpecificCharacterSet as UTF-8.

    What does not decode is replaced, never refused.
    """
    require_pydicom()
    from pydicom.charset import convert_encodings, decode_bytes

    names = charset.decode("ascii", "replace").strip("\0 ").split("\\")
    with warnings.catch_warnings():
        # pydicom's warnings quote values, and values may identify a person
        warnings.simplefilter("ignore")
        try:
            encodings = convert_encodings([name.strip() for name in names])
            return decode_bytes(raw, encodings, {0x5C}).encode("utf-8", "replace")
        except (LookupError, ValueError):
            return raw.decode("utf-8", "replace").encode()
