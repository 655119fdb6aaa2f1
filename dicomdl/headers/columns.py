"""Conversion of raw little-endian values of headers to typed columns of the table `frames`.

Text becomes str, numbers become int or float. Absent values become None, as does text that is not a
number. In a required column, such text is an error.
"""

import functools
import math
import operator
import struct
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from dicomdl.errors import HeaderError
from dicomdl.headers.attribute import Attribute


class Constant(NamedTuple):
    """A column with one value in all `rows`."""

    value: Any
    rows: int


# A column has few values: so many, or one per so many rows.
FEW_VALUES: Final = 256
ROWS_PER_VALUE: Final = 8


class Coded(NamedTuple):
    """A column with few values: row i has ``values[codes[i]]``. They differ, and each occurs."""

    codes: npt.NDArray[np.int32]
    values: list[Any]


Column = list[Any] | Constant | Coded


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


# No VR with a limit allows a longer text (LT, 10,240 characters). The index holds no more of one.
LONGEST_TEXT: Final = 2**14
# Longer values are kept by no cache.
LONGEST_CACHED: Final = 2**10
# No VR of numbers allows a longer value (PS3.5 7.1.2). Nested elements may have one.
_LONGEST: Final = 0xFFFE


def converter(column: Attribute) -> Callable[[bytes], Any]:
    """Return the function that converts one raw little-endian value of a column."""
    if column.kind == "flag":
        return bool
    if column.kind == "text":
        is_coding = column.vr == "CS" and column.need == "pixels"
        convert: Callable[[bytes], Any] = _as_code if is_coding else as_text
        if column.vr in ("DA", "DT", "TM"):
            convert = _as_time
    elif column.vr in BINARY:
        convert = functools.partial(
            _from_binary, code=BINARY[column.vr], size=1 if column.per_frame else column.size
        )
    else:
        integer = column.kind == "integer"
        convert = functools.partial(
            _from_digits, size=1 if column.per_frame else column.size, integer=integer
        )
    return convert


def converted(raws: Sequence[bytes], convert: Callable[[bytes], Any]) -> Column:
    """Convert the raw values of one column by a function of `converter`, each distinct one once."""
    first = raws[0]
    if raws.count(first) == len(raws):
        return Constant(limited(convert(first)), len(raws))
    distinct = list(dict.fromkeys(raws))
    known = dict(zip(distinct, converted_each(distinct, convert), strict=True))
    return list(map(known.__getitem__, raws))


_SEPARATORS: Final = operator.methodcaller("count", b"\\")
# Stands between values that are converted at once, and is in no text of one line.
_BETWEEN: Final = b"\n"


def converted_each(raws: Sequence[bytes], convert: Callable[[bytes], Any]) -> list[Any]:
    """Convert different values of one column: at once where all of them are plain."""
    values = _converted_at_once(raws, convert)
    if values is None:
        values = list(map(convert, raws))
    return list(map(limited, values)) if max(map(len, raws)) > LONGEST_TEXT else values


def _converted_at_once(raws: Sequence[bytes], convert: Callable[[bytes], Any]) -> list[Any] | None:
    """Convert values with a few calls for all of them; None where one of them needs its own."""
    if convert is as_text or convert is _as_time:
        joined = _BETWEEN.join(raws)
        if convert is _as_time and joined.translate(None, _OF_TIMES + _BETWEEN):
            return None
        if not joined.isascii() or joined.count(_BETWEEN) >= len(raws):
            return None
        text = joined.decode().replace("\0", "")
        values = text.split("\n")
        return [value.strip(" ") for value in values] if " " in text else values
    if isinstance(convert, functools.partial) and convert.func is _from_digits:
        return _digits_at_once(raws, **convert.keywords)
    return None


def _digits_at_once(raws: Sequence[bytes], size: int, integer: bool) -> list[Any] | None:
    """Convert DS and IS as `_from_digits` does; None unless each has `size` finite numbers."""
    joined = b"\\".join(raws)
    if not size or b"_" in joined or max(map(len, raws)) > _LONGEST:
        return None
    if set(map(_SEPARATORS, raws)) != {size - 1}:
        return None
    try:
        numbers = list(map(float, joined.split(b"\\")))
    except ValueError:
        return None
    if not all(map(math.isfinite, numbers)):
        return None
    if size > 1:
        return list(zip(*[iter(numbers)] * size, strict=True))
    if not integer:
        return numbers
    return [
        int(number) if number.is_integer() and abs(number) < 2**53 else None for number in numbers
    ]


def limited(value: Any) -> Any:
    """Return a value, text without what is beyond `LONGEST_TEXT`."""
    return value[:LONGEST_TEXT] if isinstance(value, str) else value


def as_text(raw: bytes) -> str:
    """Return text without the padding of PS3.5 6.2; bytes that are not UTF-8 are replaced."""
    return raw.decode("utf-8", "replace").strip("\0 ").replace("\0", "")


def _as_code(raw: bytes) -> str:
    """Return a CS, whose letters are capitals (PS3.5 6.2), whatever the file has.

    A photometric interpretation in small letters would be an unknown one, and a MONOCHROME1 image
    would be shown as its negative.
    """
    return as_text(raw).upper()


# Digits, the marks of times, dates of ACR-NEMA and several values, and padding.
_OF_TIMES: Final = b"0123456789.:+-/ \\\0"


def _as_time(raw: bytes) -> str:
    """Return a date or time as it is written; "" for any other text, which may be a name."""
    return "" if raw.translate(None, _OF_TIMES) else as_text(raw)


def _from_binary(raw: bytes, code: str, size: int) -> Any:
    if len(raw) > _LONGEST:
        return None
    width = struct.calcsize(code)
    # Some writers write US as UL, or the reverse.
    if size == 1 and code in "HI" and len(raw) in (2, 4):
        return int.from_bytes(raw, "little")
    values = struct.unpack(f"<{len(raw) // width}{code}", raw[: len(raw) // width * width])
    if not all(map(math.isfinite, values)):
        return None
    if size == 1:
        value = _only(values)
        # The columns of an index are signed: of UV, the upper half does not fit.
        return value if value is not None and value < 2**63 else None
    if size == 0:
        return tuple(float(v) for v in values) or None
    return tuple(float(v) for v in values) if len(values) == size else None


def _from_digits(raw: bytes, size: int, integer: bool) -> Any:
    """Convert DS and IS (PS3.5 6.2), numbers as text separated by backslashes; None if invalid.

    Empty values at the end of a list are dropped.
    """
    text = raw.strip(b"\0 ") if size else raw.rstrip(b"\0 \\").lstrip(b"\0 ")
    # Python reads "1_0" as 10.
    if not text or len(text) > _LONGEST or b"_" in text:
        return None
    try:
        values = tuple(float(part) for part in text.split(b"\\"))
    except ValueError:
        return None
    if not all(map(math.isfinite, values)):
        return None
    if size == 1:
        value = _only(values)
        if value is None or not integer:
            return value
        return int(value) if value.is_integer() and abs(value) < 2**53 else None
    return values if size in (0, len(values)) else None


def _only(values: Sequence[Any]) -> Any:
    """Return the value of an attribute that has one (VM 1); None for several different ones.

    None of several is known to be that of the image. The first would be taken in silence.
    """
    return values[0] if values and all(value == values[0] for value in values) else None


def _is_real(raw: bytes) -> bool:
    text = raw.strip(b"\0 ")
    return not text or _from_digits(text, 1, integer=False) is not None


# Small: the few slopes and intercepts that all files of a series have.
@functools.lru_cache(maxsize=4096)
def are_real(raws: tuple[bytes, ...]) -> bool:
    """Whether each of some values is absent, or one number, which may be repeated."""
    return all(map(_is_real, raws))


def require_real(raw: bytes, column: Attribute) -> None:
    """Raise HeaderError unless a value is absent or one number, which may be repeated.

    An invalid rescale slope or intercept must not become 1 or 0 silently, and of two different ones
    none is known to be that of the image.
    """
    if not _is_real(raw):
        tag = f"({column.tag >> 16:04X},{column.tag & 0xFFFF:04X})"
        raise HeaderError(
            f"{column.name} {tag} is not one finite number",
            reason="invalid_value",
            name=column.name,
        )


def vector_values(raw: bytes, column: Attribute, frames: int) -> Iterator[bytes]:
    """Return the value of a vector per frame.

    The values are empty if their number differs from that of the frames: NM vectors also occur in
    single frames.
    """
    if column.vr == "US":
        values = [raw[i : i + 2] for i in range(0, len(raw), 2)]
    else:
        values = raw.strip(b"\0 ").split(b"\\")
    if len(values) != frames:
        return iter([b""] * frames)
    return iter(values)


def swap_bytes(raw: bytes, column: Attribute) -> bytes:
    """Convert a big-endian binary value to little endian; text stays as it is."""
    width = struct.calcsize(BINARY.get(column.vr, "c"))
    return (
        b"".join(raw[i : i + width][::-1] for i in range(0, len(raw), width)) if width > 1 else raw
    )


def complete(columns: dict[str, Column]) -> None:
    """Give typed columns what depends on several of them: signs of padding, implied values."""
    _sign_padding(columns)
    _fill_pixel_defaults(columns)


def _sign_padding(columns: dict[str, Column]) -> None:
    """Apply the sign of the pixels to PixelPaddingValue (PS3.3 C.7.5.1.1.2), whatever its VR."""
    for name in ("pixel_padding_value", "pixel_padding_range_limit"):
        values = columns[name]
        if isinstance(values, Constant) and values.value is None:
            continue
        columns[name] = _each(_signed, values, columns["pixel_representation"])


def _signed(value: int | None, sign: int | None) -> int | None:
    if value is None or sign != 1 or not 0x8000 <= value <= 0xFFFF:
        return value
    return value - 0x10000


def _fill_pixel_defaults(columns: dict[str, Column]) -> None:
    """Fill absent columns of the Image Pixel module with their implied values.

    The columns that reading needs are never None.
    """
    count = _rows_of(columns["bits_allocated"])
    for name, value in (
        ("samples_per_pixel", 1),
        ("planar_configuration", 0),
        ("pixel_representation", 0),
        ("number_of_frames", 1),
    ):
        columns[name] = _completed(columns[name], Constant(value, count))
    columns["bits_stored"] = _completed(columns["bits_stored"], columns["bits_allocated"])
    highest = _each(lambda stored: stored - 1, columns["bits_stored"])
    columns["high_bit"] = _completed(columns["high_bit"], highest)


def _completed(column: Column, fill: Column) -> Column:
    if None not in _values_of(column):
        return column
    return _each(lambda value, filled: filled if value is None else value, column, fill)


def _each(convert: Callable[..., Any], *columns: Column) -> Column:
    """Apply a function to the values of each row; once if each column has one value."""
    count = _rows_of(columns[0])
    constants = [column for column in columns if isinstance(column, Constant)]
    if len(constants) == len(columns):
        return Constant(convert(*(column.value for column in constants)), count)
    return list(map(convert, *map(each_row, columns)))


def _values_of(column: Column) -> list[Any]:
    """Return the values that occur in a column, some of them several times."""
    if isinstance(column, Constant):
        return [column.value]
    return column.values if isinstance(column, Coded) else column


def _rows_of(column: Column) -> int:
    if isinstance(column, Constant):
        return column.rows
    return len(column.codes if isinstance(column, Coded) else column)


def each_row(column: Column) -> list[Any]:
    """Return the value of each row of a column."""
    if isinstance(column, Constant):
        return [column.value] * column.rows
    if isinstance(column, Coded):
        return list(map(column.values.__getitem__, column.codes.tolist()))
    return column
