"""Conversion of text from the character set of a file to UTF-8, by pydicom."""

from dicomdl.headers._rows import Row, Schema, override
from dicomdl.headers.requirement import quiet, require_pydicom


def transcoded(row: Row, charset: bytes, schema: Schema) -> Row:
    """Convert the text of a row to UTF-8 from SpecificCharacterSet (PS3.3 C.12.1.1.2).

    Text in ASCII stays as it is, and pydicom is not imported for it.
    """
    joined = b"".join(schema.texts_of(row))
    if joined.isascii() and b"\x1b" not in joined:
        return row
    foreign = {
        number: to_utf8(row[number], charset)
        for number in schema.free_texts
        if not row[number].isascii() or b"\x1b" in row[number]
    }
    return override(row, foreign)


def to_utf8(raw: bytes, charset: bytes) -> bytes:
    """Convert text to UTF-8; characters that cannot be decoded are replaced."""
    require_pydicom()
    from pydicom.charset import convert_encodings, decode_bytes

    names = charset.decode("ascii", "replace").strip("\0 ").split("\\")
    with quiet():
        try:
            encodings = convert_encodings([name.strip() for name in names])
            return decode_bytes(raw, encodings, {0x5C}).encode("utf-8", "replace")
        except (LookupError, ValueError):
            return raw.decode("utf-8", "replace").encode()
