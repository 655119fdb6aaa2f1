"""Readers of single cells: 0.1 us where Arrow's own takes 2 us.

A reader touches no page that its cell does not need. In a mapped column that is longer than
``SMALL_BYTES``, it verifies 4096 rows when it reads the first of them. When the whole column is
verified, a reader that verifies nothing takes its place.
"""

from collections.abc import Callable
from typing import Any, Final, TypeAlias

import numpy.typing as npt

from dicomdl.index.table import Table

Reader: TypeAlias = Callable[[int], Any]

# Columns with at most this many distinct values keep each value as a Python object after its first
# use.
CACHED_VALUES: Final = 4096
# Columns up to this size are verified as a whole: 1.3 ms for one of 256 KiB in the page cache.
SMALL_BYTES: Final = 2**18
# Rows that are verified together are 2 ** CHUNK_BITS.
CHUNK_BITS: Final = 12


def reader_of(table: Table, name: str, verified: Callable[[], object]) -> Reader:
    """Return a reader of one column. The row must exist.

    `verified` is called when the column is verified as a whole, so that the caller asks again.
    """
    if name in table.constants:
        value = table.constants[name]
        return lambda _row: value
    if table.is_verified(name) or table.bytes_of(name) <= SMALL_BYTES:
        table.column(name)
        return _fast_reader(table, name)
    read, rows = _fast_reader(table.unverified, name), len(table)
    is_seen = bytearray(-(-rows >> CHUNK_BITS))

    def verify(chunk: int) -> None:
        start = chunk << CHUNK_BITS
        table.column_at(name, start, min(start + (1 << CHUNK_BITS), rows))
        is_seen[chunk] = 1
        if 0 not in is_seen or table.is_verified(name):
            table.column(name)
            verified()

    def verified_cell(row: int) -> Any:
        if not is_seen[row >> CHUNK_BITS]:
            verify(row >> CHUNK_BITS)
        return read(row)

    return verified_cell


def _fast_reader(table: Table, name: str) -> Reader:
    array = table.column(name)
    if table.is_list(name):
        size, flat = table.flat(name)
        return (
            (lambda row: tuple(flat[row * size : (row + 1) * size].tolist()))
            if size
            else (lambda row: table.value(name, row))
        )
    if table.is_encoded(name):
        codes, decode = table.codes_of(name)
        return (
            _cached(codes, decode)
            if len(array.dictionary) <= CACHED_VALUES
            else lambda row: decode(codes[row])
        )
    if table.is_number(name) and not array.null_count:
        numbers = table.numbers(name)
        return lambda row: numbers[row].item()
    # Arrow, because a private copy of a long column would cost memory in every worker.
    return lambda row: array[row].as_py()


def _cached(codes: npt.NDArray[Any], decode: Reader) -> Reader:
    """Return a reader that decodes each code once."""
    values: dict[int, Any] = {}

    def cell(row: int) -> Any:
        code = codes[row]
        if code not in values:
            values[code] = decode(code)
        return values[code]

    return cell
