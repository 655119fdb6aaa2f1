"""Columns of one value, which no table stores: their value and their type stand in its metadata.

Of the 190 columns of a study, 150 hold one value, or none. A file of a table has the others, and
its first column in any case, which tells the number of rows. The metadata of its schema are JSON::

    {"columns": [every name, in order],
     "constants": {name: the only value},
     "left_out": {name: type}}
"""

import json
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from dicomdl.index._arrow_arrays import DTYPES, array_of, of_numbers
from dicomdl.storage.json_texts import parsed

# Key of the metadata of a schema.
METADATA: Final = b"dicomdl.columns"
_KINDS: Final[Mapping[str, pa.DataType]] = {
    "text": pa.large_string(),
    "int8": pa.int8(),
    "int32": pa.int32(),
    "int64": pa.int64(),
    "real": pa.float64(),
    "flag": pa.bool_(),
    "texts": pa.list_(pa.large_string()),
    "integers": pa.list_(pa.int64()),
    "reals": pa.list_(pa.float64()),
}
_NAMES: Final = {kind: name for name, kind in _KINDS.items()}
_TYPES: Final[Mapping[str, type | tuple[type, ...]]] = {
    "text": str,
    **dict.fromkeys(("int8", "int32", "int64"), int),
    "real": (int, float),
    "flag": bool,
}
# Of "reals3", a vector of three numbers; no attribute has a longer one.
_LONGEST: Final = 64


class Only(NamedTuple):
    """The type of a column and its value in all rows."""

    kind: pa.DataType
    value: Any

    @property
    def type(self) -> pa.DataType:
        """The type of the array, which is encoded if `is_encodable`."""
        return pa.dictionary(pa.int8(), self.kind) if is_encodable(self.kind) else self.kind

    def array(self, zeros: pa.Array) -> pa.Array:
        """Return the column; `zeros` are as many codes."""
        if is_encodable(self.kind):
            return pa.DictionaryArray.from_arrays(zeros, array_of([self.value], self.kind))
        if self.value is None:
            return pa.nulls(len(zeros), self.kind)
        return array_of(np.full(len(zeros), self.value), self.kind)

    def numbers(self, count: int) -> npt.NDArray[Any]:
        """Return (count,) the value; NaN for none."""
        if self.value is None:
            return np.full(count, np.nan)
        return np.full(count, self.value, DTYPES.get(self.kind, np.bool_))


class Columns(NamedTuple):
    """What the metadata of a table say: the order of all columns, and those of one value.

    `left_out` are those among `constants` that are not stored.
    """

    order: tuple[str, ...]
    constants: dict[str, Any]
    left_out: dict[str, Only]

    def without(self, name: str) -> "Columns":
        """Return the same with a column that has other values and is stored."""
        if name not in self.constants:
            return self
        constants, left_out = dict(self.constants), dict(self.left_out)
        del constants[name]
        left_out.pop(name, None)
        return Columns(self.order, constants, left_out)

    def metadata(self) -> dict[bytes, bytes]:
        """Return the metadata of a schema of the stored columns."""
        kinds = {name: _name_of(only.kind) for name, only in self.left_out.items()}
        content = {"columns": self.order, "constants": self.constants, "left_out": kinds}
        return {METADATA: json.dumps(content).encode()}


def columns_of(schema: pa.Schema) -> Columns:
    """Return what the metadata of a schema say; that nothing is left out where there are none.

    Raises
    ------
    ValueError
        They cannot be read, or do not fit the stored columns.
    """
    content = (schema.metadata or {}).get(METADATA)
    if content is None:
        return Columns(tuple(schema.names), {}, {})
    try:
        described = parsed(content)
        order, constants = tuple(described["columns"]), dict(described["constants"])
        left_out = {
            name: _checked(kind, constants[name]) for name, kind in described["left_out"].items()
        }
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError("the metadata of a table cannot be read") from error
    if sorted([*schema.names, *left_out]) != sorted(order) or len({*order}) < len(order):
        raise ValueError("the metadata of a table name other columns")
    if not constants.keys() <= {*order}:
        raise ValueError("the metadata of a table name a constant without a column")
    return Columns(order, constants, left_out)


def is_encodable(kind: pa.DataType) -> bool:
    """Whether columns of a type are dictionary-encoded where they have few values."""
    return bool(
        pa.types.is_large_string(kind) or pa.types.is_integer(kind) or pa.types.is_floating(kind)
    )


def zeros(count: int) -> pa.Array:
    """Return the codes of a column with one value."""
    return of_numbers(np.zeros(count, np.int8))


def _name_of(kind: pa.DataType) -> str:
    return f"reals{kind.list_size}" if pa.types.is_fixed_size_list(kind) else _NAMES[kind]


def _checked(name: str, value: Any) -> Only:
    """Return a column of a type that is named, and of a value that fits it."""
    size = name.removeprefix("reals")
    if size.isdecimal() and size != name and 0 < int(size) <= _LONGEST:
        kind = pa.list_(pa.float64(), int(size))
    elif name in _KINDS:
        kind = _KINDS[name]
    else:
        raise ValueError(f"a column of the unknown type {name!r}")
    if value is None:
        return Only(kind, None)
    is_flag = isinstance(value, bool)
    if is_flag != (name == "flag") or not isinstance(value, _TYPES.get(name, ())):
        raise ValueError(f"a constant of type {type(value).__name__}, expected {name}")
    number: Any = value
    return Only(kind, float(number) if name == "real" else value)
