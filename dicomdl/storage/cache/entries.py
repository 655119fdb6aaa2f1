"""Entries of a cache: the arrays that are stored, and the reading of parts of them.

An entry reads from a body: stored bytes, or arrays in the memory of the process. A body that proves
damaged, foreign, truncated or overwritten raises `Lost`. The entry then requests another body from
its cache, which computes the values again if necessary.
"""

from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from dicomdl.arrays import Mask, Values
from dicomdl.errors import UsageError

Box: TypeAlias = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]
# Byte order of this machine only.
DTYPES: Final = {
    np.dtype(name).str: np.dtype(name) for name in ("i2", "i4", "u1", "f4", "i1", "u2", "u4")
}
MAX_SAMPLES: Final = 16


class Lost(Exception):
    """An entry that existed is damaged, overwritten or gone. The error never leaves a cache."""


# --- entries as datasets use them -----------------------------------------------------------------


class Arrays(NamedTuple):
    """Arrays to be cached.

    Attributes
    ----------
    values : ndarray
        Shape (slices, rows, columns[, samples]); integers of up to 32 bits, or float32.
    mask : ndarray of bool or None
        Shape (slices, rows, columns), True at padding; None if the stack has no padding.
    """

    values: Values
    mask: Mask | None = None


Make: TypeAlias = Callable[[], Arrays]


class Body(Protocol):
    """The stored values of an entry; its methods return arrays, or raise Lost."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    has_mask: bool

    def values(self, box: Box) -> Values:
        """Return a new array of the values of a box."""
        ...

    def steady_values(self, box: Box) -> Values:
        """Return the values of a box, without a copy where they cannot change."""
        ...

    def mask(self, box: Box) -> Mask:
        """Return a new array of the mask of a box, for an entry with a mask."""
        ...


class Entry:
    """The cached values of one key, of which parts can be read.

    An entry belongs to one process. When it is damaged, evicted or overwritten later, its values
    are computed again silently.
    """

    __slots__ = ("_again", "_body")

    def __init__(self, body: Body, again: "Callable[[Body, bool], Body]") -> None:
        self._body, self._again = body, again

    @property
    def shape(self) -> tuple[int, ...]:
        """(slices, rows, columns) or (slices, rows, columns, samples)."""
        return self._body.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of the values."""
        return self._body.dtype

    @property
    def has_mask(self) -> bool:
        """Whether the entry has a mask of padding."""
        return self._body.has_mask

    @property
    def is_stored(self) -> bool:
        """Whether the values are in the cache, so that another `get` finds them."""
        return not isinstance(self._body, Held) or self._body.is_stored

    @property
    def is_held(self) -> bool:
        """Whether this process, which computed the values, holds all of them in its memory."""
        return isinstance(self._body, Held)

    def part(self, *where: slice) -> Values:
        """Read some slices, rows and columns, with all samples, as a new, writable array.

        ``entry.part(slice(0, 64), slice(10, 20))`` has rows 10 to 19 of 64 slices.

        Parameters
        ----------
        *where
            Up to three slices, on the axes slice, row and column. They are clipped to the shape as
            in numpy. Omitted ones select the full axis.

        Raises
        ------
        UsageError
            A slice has a step, or more than three are given.
        DicomdlError
            The values must be computed again, and `make` fails.
        """
        box = _box(where, self.shape)
        values: Values = self._read(lambda body: body.values(box))
        return values

    def steady_part(self, *where: slice) -> Values:
        """Read a part as `part` does, as an array not to be written to, which may be mapped."""
        box = _box(where, self.shape)
        values: Values = self._read(lambda body: body.steady_values(box))
        return values

    def mask_part(self, *where: slice) -> Mask | None:
        """Read the mask of a part, True at padding; None if the entry has no mask."""
        box = _box(where, self.shape)
        return self._read(lambda body: body.mask(box)) if self.has_mask else None

    def _read(self, read: Callable[[Body], Any]) -> Any:
        for may_be_stored in (True, False):
            try:
                return read(self._body)
            except Lost:
                self._body = self._again(self._body, may_be_stored)
        return read(self._body)


def _box(where: Sequence[slice], shape: tuple[int, ...]) -> Box:
    """Return (start, stop) per axis of space."""
    if len(where) > 3:
        raise UsageError(f"a part has at most 3 slices (slices, rows, columns), found {len(where)}")
    given = (*where, *[slice(None)] * (3 - len(where)))
    ends = [axis.indices(length) for axis, length in zip(given, shape[:3], strict=True)]
    if any(step != 1 for _, _, step in ends):
        raise UsageError(
            "the slices of a part have no step: take every n-th of the part that is returned"
        )
    slices, rows, columns = ((start, max(start, stop)) for start, stop, _ in ends)
    return slices, rows, columns


def checked_arrays(arrays: Arrays) -> Arrays:
    """Return the arrays C-contiguous; raise UsageError for a dtype or shape that is not allowed."""
    values, mask = arrays
    if (
        values.ndim not in (3, 4)
        or not values.size
        or values.dtype.str not in DTYPES
        or values.shape[3:] > (MAX_SAMPLES,)
    ):
        found = f"{values.dtype} of shape {values.shape}"
        raise UsageError(
            "a cache holds (slices, rows, columns[, samples]) of integers of up to 32 bits or "
            f"float32, found {found}"
        )
    if mask is not None and (mask.dtype != np.bool_ or mask.shape != values.shape[:3]):
        raise UsageError(
            f"a mask is bool of shape {values.shape[:3]}, found {mask.dtype} of shape {mask.shape}"
        )
    return Arrays(
        np.ascontiguousarray(values), None if mask is None else np.ascontiguousarray(mask)
    )


class Held:
    """The values of an entry in the memory of this process, perhaps in the cache as well."""

    def __init__(self, arrays: Arrays, *, is_stored: bool = False) -> None:
        self.arrays, self.is_stored = arrays, is_stored
        self.shape, self.dtype, self.has_mask = (
            arrays.values.shape,
            arrays.values.dtype,
            arrays.mask is not None,
        )

    def values(self, box: Box) -> Values:
        """Copy a box of the values."""
        return self.steady_values(box).copy()

    def steady_values(self, box: Box) -> Values:
        """Return a box of the values."""
        return self.arrays.values[slices_of(box)]

    def mask(self, box: Box) -> Mask:
        """Copy a box of the mask."""
        assert self.arrays.mask is not None
        return self.arrays.mask[slices_of(box)].copy()


def slices_of(box: Box) -> tuple[slice, ...]:
    """Return a box as an index of an array."""
    return tuple(slice(start, stop) for start, stop in box)


def packed_mask(mask: Mask | None) -> npt.NDArray[np.uint8] | None:
    """Pack 8 columns of a mask into a byte; each row begins with a new byte."""
    return None if mask is None else np.packbits(mask, axis=2)


def unpacked_mask(
    packed: npt.NDArray[np.uint8], rows: tuple[int, int], columns: tuple[int, int]
) -> Mask:
    """Unpack some rows and columns of a mask from `packed_mask`."""
    first, last = columns
    bits = np.unpackbits(packed[:, slice(*rows), first // 8 : -(-last // 8)], axis=2)[
        :, :, first % 8 : first % 8 + last - first
    ]
    return np.ascontiguousarray(bits).view(np.bool_)
