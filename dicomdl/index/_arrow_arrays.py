"""Arrow arrays of Python values and NumPy arrays.

`pyarrow.array` would import pandas when it is installed: 0.4 s in a first scan and in each of its
workers. Buffers are filled by NumPy instead, which is also faster. Lists of text and of integers,
which only annotations have, are left to it.
"""

from collections.abc import Sequence
from itertools import chain
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

DTYPES: Final = {
    pa.int8(): np.int8,
    pa.int16(): np.int16,
    pa.int32(): np.int32,
    pa.int64(): np.int64,
    pa.float64(): np.float64,
}


def of_numbers(numbers: npt.NDArray[Any], kind: pa.DataType | None = None) -> pa.Array:
    """Return (n,) integers or floats as an Arrow array of a type, by default of their own."""
    kind = kind or pa.from_numpy_dtype(numbers.dtype)
    whole = np.ascontiguousarray(numbers, DTYPES[kind])
    return pa.Array.from_buffers(kind, len(whole), [None, pa.py_buffer(whole)])


def array_of(values: Any, kind: pa.DataType) -> pa.Array:
    """Return values of one column as an Arrow array; None is null. Arrow arrays are returned."""
    if isinstance(values, pa.Array):
        return values if values.type == kind else values.cast(kind)
    if isinstance(values, np.ndarray) and kind in DTYPES and values.dtype.kind in "iuf":
        return of_numbers(values, kind)
    if isinstance(values, np.ndarray) and values.dtype == np.bool_:
        return pa.Array.from_buffers(pa.bool_(), len(values), [None, _bits(values)])
    values = values.tolist() if isinstance(values, np.ndarray) else values
    if not len(values):
        return pa.nulls(0, kind)
    if kind in DTYPES:
        return _of_scalars(values, kind)
    if pa.types.is_large_string(kind) or pa.types.is_large_binary(kind):
        return _of_texts(values, kind)
    if pa.types.is_boolean(kind):
        return _of_flags(values)
    if pa.types.is_fixed_size_list(kind):
        return _of_vectors(values, kind)
    if pa.types.is_list(kind) and kind.value_type == pa.float64():
        return _of_lists(values, kind)
    return pa.array(values, type=kind)


def _validity(values: Sequence[Any]) -> pa.Buffer | None:
    """Return one bit per value, set unless it is None; None where all are set."""
    if None not in values:
        return None
    return _bits(np.fromiter((value is not None for value in values), np.bool_, len(values)))


def _bits(flags: npt.NDArray[np.bool_]) -> pa.Buffer:
    return pa.py_buffer(np.packbits(flags, bitorder="little"))


def _of_scalars(values: Sequence[Any], kind: pa.DataType) -> pa.Array:
    dtype, validity = DTYPES[kind], _validity(values)
    if validity is not None:
        values = [0 if value is None else value for value in values]
    numbers = np.fromiter(values, dtype, len(values))
    return pa.Array.from_buffers(kind, len(numbers), [validity, pa.py_buffer(numbers)])


def _of_texts(values: Sequence[Any], kind: pa.DataType) -> pa.Array:
    validity = _validity(values)
    empty: str | bytes = "" if pa.types.is_large_string(kind) else b""
    if validity is not None:
        values = [empty if value is None else value for value in values]
    data = empty.join(values)
    if isinstance(data, str):
        if not data.isascii():
            values = [value.encode() for value in values]
        data = data.encode()
    offsets = np.zeros(len(values) + 1, np.int64)
    np.cumsum(np.fromiter(map(len, values), np.int64, len(values)), out=offsets[1:])
    buffers = [validity, pa.py_buffer(offsets), pa.py_buffer(data)]
    return pa.Array.from_buffers(kind, len(values), buffers)


def _of_flags(values: Sequence[Any]) -> pa.Array:
    flags = np.fromiter(map(bool, values), np.bool_, len(values))
    return pa.Array.from_buffers(pa.bool_(), len(flags), [_validity(values), _bits(flags)])


def _of_vectors(values: Sequence[Any], kind: pa.DataType) -> pa.Array:
    """Return an array of vectors of one size; the numbers of an absent one are 0."""
    size, validity = kind.list_size, _validity(values)
    if validity is not None:
        nothing = (0.0,) * size
        values = [nothing if value is None else value for value in values]
    flat = np.fromiter(chain.from_iterable(values), np.float64, len(values) * size)
    return pa.Array.from_buffers(kind, len(values), [validity], children=[of_numbers(flat)])


def _of_lists(values: Sequence[Any], kind: pa.DataType) -> pa.Array:
    validity = _validity(values)
    if validity is not None:
        values = [() if value is None else value for value in values]
    offsets = np.zeros(len(values) + 1, np.int32)
    np.cumsum(np.fromiter(map(len, values), np.int64, len(values)), out=offsets[1:])
    flat = np.fromiter(chain.from_iterable(values), np.float64, int(offsets[-1]))
    buffers = [validity, pa.py_buffer(offsets)]
    return pa.Array.from_buffers(kind, len(values), buffers, children=[of_numbers(flat)])
