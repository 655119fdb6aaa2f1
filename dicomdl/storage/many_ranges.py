"""Many ranges of one open file, read into one buffer by one loop: compiled, or its twin in Python.

The rule: the loop ends before a range that it cannot read completely. That range and those behind
it are read by the handle, which finds and words the error. Handles that are no file of a mounted
file system read all of them by themselves.
"""

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from dicomdl._kernels import compiled_or
from dicomdl.arrays import Ints
from dicomdl.errors import PixelError
from dicomdl.storage.handles import Handle, LocalFile, read_exactly
from dicomdl.storage.system import read_into

Bytes: TypeAlias = npt.NDArray[np.uint8]


class Ranges(NamedTuple):
    """Ranges of a file: rows of bytes, of which some columns are kept.

    Attributes
    ----------
    fields
        (ranges, 6) int64: offset in the file, number of rows, bytes of a row, the first byte that
        is kept of each row, how many are kept, and their place in the result.
    size
        The bytes of the result.
    """

    fields: Ints
    size: int

    @property
    def band_size(self) -> int:
        """The bytes of memory that the loop needs for complete rows; 0 where it keeps these."""
        _, rows, row_bytes, _, width, _ = self.fields.T
        return int((rows * row_bytes)[width < row_bytes].max(initial=0))


def pure_fill_ranges(descriptor: int, fields: Ints, out: Bytes, band: Bytes) -> int:
    """Read ranges of a file into `out`; return how many are complete.

    `fields` and the size of `band` are those of `Ranges`. The call ends before a range that cannot
    be read completely.
    """
    for done, field in enumerate(fields.tolist()):
        part, offset = _buffer(field, out, band), field[0]
        try:
            # Before the start of a file, systems may read at a position of their own.
            if offset < 0 or read_into(descriptor, part.data, offset) < part.nbytes:
                return done
        except OSError:
            return done
        _keep(field, out, band)
    return len(fields)


fill_ranges = compiled_or(pure_fill_ranges)


def _buffer(field: list[int], out: Bytes, band: Bytes) -> Bytes:
    """Return the memory that a range is read into."""
    _, rows, row_bytes, _, width, place = field
    size = rows * row_bytes
    return out[place : place + size] if width == row_bytes else band[:size]


def _keep(field: list[int], out: Bytes, band: Bytes) -> None:
    """Copy the columns that are kept of a range, where these are not complete rows."""
    _, rows, row_bytes, lead, width, place = field
    if width < row_bytes:
        kept = band[: rows * row_bytes].reshape(rows, row_bytes)[:, lead : lead + width]
        out[place : place + rows * width].reshape(rows, width)[...] = kept


def read_ranges(
    handle: Handle,
    ranges: Ranges,
    out: Bytes,
    band: Bytes,
    note: Callable[[PixelError, int], None],
) -> None:
    """Read ranges of an open file.

    Parameters
    ----------
    handle
        The file.
    ranges
        The ranges.
    out
        Memory for the result, C-contiguous.
    band
        Memory of ``ranges.band_size`` bytes.
    note
        A function that adds to an error what the range of a number is.

    Raises
    ------
    PixelError
        The file ends before a range does; with its note.
    """
    fields, done = ranges.fields, 0
    # A class below it reads in a way of its own.
    if type(handle) is LocalFile:
        done = fill_ranges(handle.descriptor, fields, out, band)
    try:
        for field in fields[done:].tolist():
            part, offset = _buffer(field, out, band), field[0]
            if handle.read_into(part.data, offset) < part.nbytes:
                read_exactly(handle, part, offset)
            _keep(field, out, band)
            done += 1
    except PixelError as error:
        note(error, done)
        raise
