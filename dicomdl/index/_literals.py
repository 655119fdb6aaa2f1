"""Cells of text that hold values, as JSON or Python write them; read without running anything.

The grammar: dicts and objects, lists and tuples, strings in either quote, numbers, and
True/true/False/false/None/null. A cell is read once from left to right, so a cell of a million
characters takes as long as a million cells of one.
"""

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

import numpy as np
import pyarrow as pa

from dicomdl.errors import UsageError
from dicomdl.index._cells import Column, PlaceOf, coded, distinct
from dicomdl.index.schema import TEXT

# Levels of brackets; a list of boxes has two.
_DEEPEST: Final = 16
_TOKEN: Final = re.compile(
    r"""\s*(?:
        (?P<sign>[][{}(),:])
      | (?P<text>'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")
      | (?P<number>[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)
      | (?P<word>[A-Za-z]+)
    )""",
    re.VERBOSE | re.DOTALL,
)
_SPACE: Final = re.compile(r"\s*")
_ESCAPE: Final = re.compile(r"\\(x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}|.)", re.DOTALL)
_ESCAPED: Final[Mapping[str, str]] = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f"}
_WORDS: Final[Mapping[str, Any]] = {
    **{"True": True, "true": True, "False": False, "false": False},
    **{"None": None, "null": None, "nan": None, "NaN": None},
}
_CLOSING: Final[Mapping[str, str]] = {"[": "]", "(": ")", "{": "}"}


class _Malformed(Exception):
    """A cell is no value, at a character counted from 1."""

    def __init__(self, character: int, expected: str) -> None:
        super().__init__(expected)
        self.character = character
        self.expected = expected


class _Reader:
    """One cell, read from left to right."""

    def __init__(self, cell: str) -> None:
        self._cell = cell
        self._end = 0

    def whole(self) -> Any:
        """Return the value of the complete cell."""
        value = self._value(0)
        if _SPACE.match(self._cell, self._end).end() != len(self._cell):  # type: ignore[union-attr]
            raise self._malformed("the end")
        return value

    def _malformed(self, expected: str) -> _Malformed:
        return _Malformed(self._end + 1, expected)

    def _next(self, expected: str) -> re.Match[str]:
        match = _TOKEN.match(self._cell, self._end)
        if match is None:
            raise self._malformed(expected)
        self._end = match.end()
        return match

    def _value(self, depth: int) -> Any:
        match = self._next("a value")
        text = match[match.lastgroup or ""]
        if match.lastgroup == "number":
            return _number(text, match.start(match.lastgroup) + 1)
        if match.lastgroup == "text":
            return _text(text[1:-1], match.start(match.lastgroup) + 1)
        if match.lastgroup == "word" and text in _WORDS:
            return _WORDS[text]
        if text in _CLOSING:
            if depth == _DEEPEST:
                raise self._malformed(f"at most {_DEEPEST} levels of brackets")
            return self._dict(depth) if text == "{" else self._list(_CLOSING[text], depth)
        self._end = match.start(match.lastgroup or "")
        raise self._malformed("a value")

    def _items(self, closing: str) -> Iterator[None]:
        """Yield before each item up to a closing bracket; a comma before it is allowed."""
        while True:
            if self._takes(closing):
                return
            yield
            if not self._takes(","):
                if not self._takes(closing):
                    raise self._malformed(f"',' or {closing!r}")
                return

    def _takes(self, sign: str) -> bool:
        start = _SPACE.match(self._cell, self._end).end()  # type: ignore[union-attr]
        if self._cell.startswith(sign, start):
            self._end = start + 1
            return True
        return False

    def _list(self, closing: str, depth: int) -> list[Any]:
        return [self._value(depth + 1) for _ in self._items(closing)]

    def _dict(self, depth: int) -> dict[str, Any]:
        held: dict[str, Any] = {}
        for _ in self._items("}"):
            name = self._value(depth + 1)
            if not isinstance(name, str):
                raise self._malformed("a name in quotes")
            if not self._takes(":"):
                raise self._malformed("':'")
            held[name] = self._value(depth + 1)
        return held


def _number(text: str, character: int) -> int | float:
    is_whole = text.lstrip("+-").isdigit()
    if is_whole and len(text) < 19:
        return int(text)
    value = float(text)
    if math.isinf(value):
        raise _Malformed(character, "a number within a float")
    return value


def _text(text: str, character: int) -> str:
    """Return a text without its escapes; JSON writes characters beyond 16 bits as two of them."""
    if "\\" not in text:
        return text
    try:
        text = _ESCAPE.sub(_unescaped, text)
        return text.encode("utf-16", "surrogatepass").decode("utf-16")
    except (UnicodeDecodeError, ValueError):
        raise _Malformed(character, "escapes of characters that exist") from None


def _unescaped(match: re.Match[str]) -> str:
    code = match[1]
    return chr(int(code[1:], 16)) if len(code) > 1 else _ESCAPED.get(code, code)


def parsed_columns(name: str, column: Column, place: PlaceOf) -> dict[str, Column]:
    """Return the columns of a column of text that holds dicts, lists or lists of dicts.

    Parameters
    ----------
    name
        The name of the column. Those of the result are ``name_key`` per key of the dicts, or the
        name itself for lists of plain values.
    column
        The cells, as text.
    place
        Returns the place of a row in words.

    Raises
    ------
    UsageError
        A cell is none of these; the message has line, column and character.
    """
    if column.values.type != TEXT:
        raise UsageError(f"parse: the column {name!r} holds no text", column=name)
    cells = [
        _read(cell, name, column, code, place)
        for code, cell in enumerate(column.values.to_pylist())
    ]
    is_many = any(isinstance(cell, list) for cell in cells)
    records = [_records(cell, name) for cell in cells]
    names = list(dict.fromkeys(key for held in records for record in held for key in record))
    if not is_many:
        single = [held[0] if held else {} for held in records]
        return {key: _scalar(key, [each.get(key) for each in single], column) for key in names}
    sizes = np.array([len(held) for held in records] or [0])
    starts = np.cumsum(sizes) - sizes
    known = np.flatnonzero(column.codes >= 0)
    of_row = sizes[column.codes[known]]
    rows = np.repeat(known, of_row)
    first = np.repeat(starts[column.codes[known]] - np.cumsum(of_row) + of_row, of_row)
    items = first + np.arange(len(rows))
    flat = [record for held in records for record in held]
    result = {}
    for key in names:
        values = _typed(key, [record.get(key) for record in flat])
        result[key] = Column(values.codes[items], values.values, rows, column.codes)
    return result


def value_of(cell: str) -> Any:
    """Return the value of one cell; raise a ValueError if it is none."""
    try:
        return _Reader(cell).whole()
    except _Malformed as error:
        raise ValueError(f"character {error.character}: expected {error}") from None


def _read(cell: str, name: str, column: Column, code: int, place: PlaceOf) -> Any:
    try:
        value = _Reader(cell).whole()
    except _Malformed as error:
        row = int(np.flatnonzero(column.codes == code)[0])
        raise UsageError(
            f"column {name!r}, {place(row)}, character {error.character}: expected "
            f"{error.expected}, as of a dict or list of JSON or Python",
            column=name,
            row=row,
            character=error.character,
        ) from None
    if isinstance(value, list | dict) or value is None:
        return value
    row = int(np.flatnonzero(column.codes == code)[0])
    raise UsageError(
        f"column {name!r}, {place(row)}: expected a dict or a list, not one value",
        column=name,
        row=row,
    )


def _records(cell: Any, name: str) -> list[dict[str, Any]]:
    """Return the flat dicts of a cell; a plain value is a dict of the column's name."""
    if cell is None:
        return []
    if isinstance(cell, dict):
        return [_flat(cell, name)] if cell else []
    return [_flat(each, name) if isinstance(each, dict) else {name: each} for each in cell]


def _flat(record: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in record.items():
        name = f"{prefix}_{key}"
        if isinstance(value, dict):
            flat |= _flat(value, name)
        else:
            flat[name] = value
    return flat


def _scalar(name: str, values: list[Any], column: Column) -> Column:
    """Return the column of one value per distinct cell."""
    typed = _typed(name, values)
    return Column(np.append(typed.codes, np.int32(-1))[column.codes], typed.values)


def _typed(name: str, values: list[Any]) -> Column:
    """Return a column of Python values, None where unknown."""
    kinds = {type(value) for value in values if value is not None}
    if list in kinds:
        raise UsageError(f"parse: {name} holds lists within dicts or lists", column=name)
    if kinds == {int, float}:
        values = [None if value is None else float(value) for value in values]
    elif len(kinds) > 1:
        words = ", ".join(sorted(kind.__name__ for kind in kinds))
        raise UsageError(f"parse: {name} holds values of several types: {words}", column=name)
    array = pa.array(values, TEXT if kinds <= {str} else None)
    return distinct(coded(pa.chunked_array([array])))
