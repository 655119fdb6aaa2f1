"""Raw little-endian values of the header -> typed columns of the `frames` table.

Text becomes str, numbers int or float, what is absent or no number None; a required number that is
none is an error.
"""

import functools
import math
import struct
from collections.abc import Callable, Iterator
from typing import Any, Final, NamedTuple

from dicomdl.errors import HeaderError
from dicomdl.headers.frame import Attribute


class Constant(NamedTuple):
    """A column that holds one value in all `rows`."""

    value: Any
    rows: int


Column = list[Any] | Constant


BINARY: Final = {
    "US": "H",
    "XS": "H",
    "SS": "h",
    "UL": "I",
    "SL": "i",
    "FL": "f",
    "FD": "d",
    "AT": "H",
    "UV": "Q",
    "SV": "q",
}


def converter(column: Attribute) -> Callable[[bytes], Any]:
    """A function from one raw little-endian value to the column's value, with a memory for values seen."""
    if column.kind == "flag":
        return bool
    if column.kind == "text":
        convert: Callable[[bytes], Any] = as_text
    elif column.vr in BINARY:
        convert = functools.partial(
            _from_binary, code=BINARY[column.vr], size=1 if column.per_frame else column.size
        )
    else:
        integer = column.kind == "integer"
        convert = functools.partial(
            _from_digits, size=1 if column.per_frame else column.size, integer=integer
        )
    # Small: short values, a megabyte per column at most, gone with the reader of a scan.
    return functools.lru_cache(maxsize=4096)(convert)


def as_text(raw: bytes) -> str:
    """Text without the padding of PS3.5 6.2; bytes that are no UTF-8 are replaced."""
    return raw.decode("utf-8", "replace").strip("\0 ").replace("\0", "")


def _from_binary(raw: bytes, code: str, size: int) -> Any:
    width = struct.calcsize(code)
    if size == 1 and code in "HI" and len(raw) in (2, 4):  # US written as UL, and the reverse
        return int.from_bytes(raw, "little")
    values = struct.unpack(f"<{len(raw) // width}{code}", raw[: len(raw) // width * width])
    if not all(map(math.isfinite, values)):
        return None
    if size == 1:
        return values[0] if values else None
    if size == 0:
        return tuple(float(v) for v in values) or None
    return tuple(float(v) for v in values) if len(values) == size else None


def _from_digits(raw: bytes, size: int, integer: bool) -> Any:
    """DS and IS (PS3.5 6.2): numbers as text, several ones between backslashes.

    None when they are not that.
    """
    text = raw.strip(b"\0 ")
    if not text:
        return None
    try:
        values = tuple(float(part) for part in text.split(b"\\"))
    except ValueError:
        return None
    if not all(map(math.isfinite, values)):
        return None
    if size == 1:
        if not integer:
            return values[0]
        return int(values[0]) if values[0].is_integer() and abs(values[0]) < 2**53 else None
    return values if size in (0, len(values)) else None


# Small: a flag per short text.
@functools.lru_cache(maxsize=4096)
def _is_real(raw: bytes) -> bool:
    text = raw.strip(b"\0 ")
    return not text or _from_digits(text, 1, integer=False) is not None


def check_real(raw: bytes, column: Attribute) -> None:
    """A rescale value that is present but no number may not silently become 1 or 0."""
    if not _is_real(raw):
        raise HeaderError(
            f"{column.name} ({column.tag >> 16:04X},{column.tag & 0xFFFF:04X}) is not a finite number",
            reason="invalid_value",
            name=column.name,
        )


def vector_values(raw: bytes, column: Attribute, frames: int) -> Iterator[bytes]:
    """The value of each frame of a vector.

    Empty ones when it has not one a frame (NM vectors also occur in single frames).
    """
    if column.vr == "US":
        values = [raw[i : i + 2] for i in range(0, len(raw), 2)]
    else:
        values = raw.strip(b"\0 ").split(b"\\")
    if len(values) != frames:
        return iter([b""] * frames)
    return iter(values)


def swap_bytes(raw: bytes, column: Attribute) -> bytes:
    """A big-endian binary value as little endian; text stays."""
    width = struct.calcsize(BINARY.get(column.vr, "c"))
    return (
        b"".join(raw[i : i + width][::-1] for i in range(0, len(raw), width)) if width > 1 else raw
    )


def sign_padding(columns: dict[str, Column]) -> None:
    """PixelPaddingValue is signed exactly when the pixels are (PS3.3 C.7.5.1.1.2), whatever VR was written."""
    for name in ("pixel_padding_value", "pixel_padding_range_limit"):
        values = columns[name]
        if isinstance(values, Constant) and values.value is None:
            continue
        signs = columns["pixel_representation"]
        count = values.rows if isinstance(values, Constant) else len(values)
        pairs = zip(_each_row(values, count), _each_row(signs, count), strict=True)
        columns[name] = [
            v - 0x10000 if v is not None and sign == 1 and 0x8000 <= v <= 0xFFFF else v
            for v, sign in pairs
        ]


def fill_pixel_defaults(columns: dict[str, Column]) -> None:
    """What the Image Pixel module lets one conclude where it was left out.

    The columns of reading are never None.
    """
    count = next(len(c) if isinstance(c, list) else c.rows for c in columns.values())
    fills: tuple[tuple[str, Callable[..., int], tuple[str, ...]], ...] = (
        ("samples_per_pixel", lambda: 1, ()),
        ("planar_configuration", lambda: 0, ()),
        ("pixel_representation", lambda: 0, ()),
        ("number_of_frames", lambda: 1, ()),
        ("bits_stored", lambda allocated: allocated, ("bits_allocated",)),
        ("high_bit", lambda stored: stored - 1, ("bits_stored",)),
    )
    for name, fill, needs in fills:
        column = columns[name]
        if isinstance(column, Constant) and column.value is not None:
            continue
        sources = [_each_row(columns[need], count) for need in needs]
        arguments = list(zip(*sources, strict=True)) if sources else [()] * count
        columns[name] = [
            fill(*a) if v is None else v
            for v, a in zip(_each_row(column, count), arguments, strict=True)
        ]


def _each_row(column: Column, count: int) -> list[Any]:
    return [column.value] * count if isinstance(column, Constant) else column
