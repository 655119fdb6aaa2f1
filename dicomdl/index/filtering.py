"""Conditions of a shell, such as ``modality=CT,MR`` and ``slices>=20``, for `Index.select`."""

import math
import re
from collections.abc import Sequence
from typing import Any, Final

from dicomdl.errors import UsageError
from dicomdl.index._conditions import column_of
from dicomdl.index.index import Index

# A name, a sign and values.
_CONDITION: Final = re.compile(r"\s*(\w+)\s*(>=|<=|!=|!~|==|=|>|<|~)(.*)", re.DOTALL)
# Prefix of `Index.select` for each sign.
_PREFIXES: Final = {
    **{">=": "min_", ">": "min_", "<=": "max_", "<": "max_"},
    **{"!=": "not_", "!~": "not_"},
}
# A value in quotes, which may hold commas, or a value up to the next comma.
_VALUE: Final = re.compile(r"""\s*(?:'([^']*)'|"([^"]*)"|([^,]*?))\s*(?:,|$)""", re.DOTALL)
# Directions to the next float, since the bounds of `Index.select` are inclusive.
_BEYOND: Final = {">": math.inf, "<": -math.inf}
_FLAGS: Final = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


def selected(index: Index, texts: Sequence[str]) -> Index:
    """Return the part of an index that meets every condition; one column may have several.

    Raises
    ------
    UsageError
        A text is no condition, or the column does not exist or holds other values.
    """
    for text in texts:
        name, value = parsed(index, text)
        index = index.select(**{name: value})
    return index


def parsed(index: Index, text: str) -> tuple[str, Any]:
    """Parse a condition to the name and the value of one of `Index.select`.

    The column decides whether digits are a number or text, such as those of a PatientID.
    """
    match = _CONDITION.fullmatch(text)
    if match is None:
        raise UsageError(
            f"{text!r} is no condition: expected column=value, !=, >=, <=, > or <, or a pattern "
            "after ~ or !~, in quotes, such as modality=CT,MR or 'slices>=20'"
        )
    name, sign, rest = match.groups()
    if re.search(r"\s(and|or|&&?|\|\|?)\s.*[=<>]", rest):
        raise UsageError(
            f"{text!r} holds several conditions: give each its own --where, or a list of texts"
        )
    column, kind = column_of(index._generation, name, index.joined)
    values = [_value(column, part, kind) for part in _parts(rest)]
    if "~" in sign:
        _require_patterns(column, values)
    if sign in _BEYOND and kind is not str:
        values = [math.nextafter(value, _BEYOND[sign]) for value in values]
    elif sign in _BEYOND or (sign in (">=", "<=") and len(values) > 1):
        raise UsageError(f"{column} takes one value with >= or <=", column=column)
    one = len(values) == 1
    return _PREFIXES.get(sign, "") + column, values[0] if one else values


def _parts(text: str) -> list[str]:
    """Return the values between commas; those in quotes without them."""
    parts: list[str] = []
    for match in _VALUE.finditer(text):
        parts.append(next(part for part in match.groups() if part is not None))
        if not match[0].endswith(","):
            break
    return parts


def _require_patterns(column: str, values: list[Any]) -> None:
    """Raise UsageError unless values after ~ are patterns, of a column of text."""
    if not all(isinstance(value, str) and ("*" in value or "?" in value) for value in values):
        raise UsageError(
            f"{column} ~ takes patterns with * or ?, of a column of text, such as "
            "series_description ~ '*t1*'",
            column=column,
        )


def _value(column: str, text: str, kind: type) -> Any:
    """Return the value of a text for a column; an empty text is an absent value.

    The message quotes no value of a text column: it may be a PatientID or a date.
    """
    if kind is str:
        return text
    if not text:
        return None
    if kind is bool:
        if text.lower() in _FLAGS:
            return _FLAGS[text.lower()]
        raise UsageError(f"{column} is true or false, not {text!r}", column=column)
    try:
        number = float(text)
    except ValueError:
        raise UsageError(f"{column} holds numbers, not {text!r}", column=column) from None
    return int(number) if number.is_integer() else number
