"""One entry of a cache: the arrays it is made of, and how parts of it are read.

A body that proves damaged, foreign, cut or overwritten raises `Lost`; the entry then asks its cache
for another body, which is made again if need be.
"""

from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from dicomdl.arrays import Mask, Values
from dicomdl.errors import UsageError

Box: TypeAlias = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]
# of this byte order only
DTYPES: Final = {
    np.dtype(name).str: np.dtype(name) for name in ("i2", "i4", "u1", "f4", "i1", "u2", "u4")
}
MAX_SAMPLES: Final = 16


class Lost(Exception):
    """An entry that was there is damaged, overwritten or gone: make it again.

    Never leaves a cache.
    """


# --- what users see -------------------------------------------------------------------------------


class Arrays(NamedTuple):
    """Arrays to be cached.

    `values` is (slices, rows, columns[, samples]). `mask` is (slices, rows, columns) and True where
    there is padding; None where there is none.
    """

    values: Values
    mask: Mask | None = None


Make: TypeAlias = Callable[[], Arrays]


class Body(Protocol):
    """Where an entry's values are. `values` and `mask` give new arrays, or raise Lost."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    has_mask: bool

    def values(self, box: Box) -> Values:
        """A new array of the values of a box."""
        ...

    def mask(self, box: Box) -> Mask:
        """A new array of the mask of a box, where the entry has one."""
        ...


class Entry:
    """Cached values of which parts can be read, in one process.

    An entry that is damaged, evicted or overwritten later is made again without notice.
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
        """Whether a mask of padding lies beside the values."""
        return self._body.has_mask

    @property
    def is_stored(self) -> bool:
        """Whether the values are in the cache, rather than only in the memory of this process."""
        return not isinstance(self._body, Held)

    def part(self, *where: slice) -> Values:
        """A new, writable array of some slices, rows and columns, and all samples.

        ``entry.part(slice(0, 64), slice(10, 20))`` has rows 10 to 19 of 64 slices. Slices are
        clipped to the shape as numpy does; those not given mean everything. Raises UsageError for
        steps, and what `make` raises where values must be made again.
        """
        box = _box(where, self.shape)
        values: Values = self._read(lambda body: body.values(box))
        return values

    def mask_part(self, *where: slice) -> Mask | None:
        """The mask of the same part, True where there is padding.

        None where the entry has no mask.
        """
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
    """(start, stop) on each of the three axes of space."""
    if len(where) > 3:
        raise UsageError(f"a part has at most 3 slices (slices, rows, columns), found {len(where)}")
    given = (*where, *[slice(None)] * (3 - len(where)))
    found = [one.indices(length) for one, length in zip(given, shape[:3], strict=True)]
    if any(step != 1 for _, _, step in found):
        raise UsageError(
            "the slices of a part have no step: take every n-th of the part that is returned"
        )
    slices, rows, columns = ((start, max(start, stop)) for start, stop, _ in found)
    return slices, rows, columns


def checked_arrays(arrays: Arrays) -> Arrays:
    """The arrays as a cache keeps them: C-contiguous, of a dtype that is allowed."""
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
    """Values in this process's memory."""

    def __init__(self, arrays: Arrays) -> None:
        self.arrays = arrays
        self.shape, self.dtype, self.has_mask = (
            arrays.values.shape,
            arrays.values.dtype,
            arrays.mask is not None,
        )

    def values(self, box: Box) -> Values:
        """A copy of a box of the values."""
        return self.arrays.values[slices_of(box)].copy()

    def mask(self, box: Box) -> Mask:
        """A copy of a box of the mask."""
        assert self.arrays.mask is not None
        return self.arrays.mask[slices_of(box)].copy()


def slices_of(box: Box) -> tuple[slice, ...]:
    """A box as an index of an array."""
    return tuple(slice(start, stop) for start, stop in box)


def packed_mask(mask: Mask | None) -> npt.NDArray[np.uint8] | None:
    """A mask with 8 columns in a byte, each row on its own."""
    return None if mask is None else np.packbits(mask, axis=2)


def unpacked_mask(
    packed: npt.NDArray[np.uint8], rows: tuple[int, int], columns: tuple[int, int]
) -> Mask:
    """Some rows and columns of what `packed_mask` gave."""
    first, last = columns
    bits = np.unpackbits(packed[:, slice(*rows), first // 8 : -(-last // 8)], axis=2)[
        :, :, first % 8 : first % 8 + last - first
    ]
    return np.ascontiguousarray(bits).view(np.bool_)
