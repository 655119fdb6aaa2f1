"""Look-up tables, palettes and real-world maps as frozen values, and their application.

Too few files have them for the index, so `_lookup_reading` reads them from the file when needed.
They compare, hash, pickle and serve as cache keys. Tables clip at both ends (PS3.3 C.11.1.1,
C.11.2.1.1). Real-world maps do not: outside of their range no real-world value is defined, and the
result is NaN.
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from dicomdl.arrays import Float32, Values
from dicomdl.errors import IntensityError, UsageError
from dicomdl.headers.rare_tables import MOST_ENTRIES

# Values per block: half a megabyte of table positions or of float64.
BLOCK: Final = 1 << 16


# --- look-up tables -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, repr=False)
class LookupTable:
    """One Modality or VOI LUT (PS3.3 C.11.1.1, C.11.2.1.1), from integers to unsigned integers.

    Parameters
    ----------
    first
        The value that maps to the first entry; smaller values map to it as well.
    bits
        Bits per entry, 1 to 16. The output is uint8 up to 8 bits, else uint16.
    data
        The entries as little-endian uint16, 1 to 65536 of them, also for 8 bits.
    kind
        Modality LUT Type (0028,3004) when it is a defined term ("OD": thousandths of optical
        density, "HU", "US": unspecified, ...), else "".

    Raises
    ------
    IntensityError
        No entries, too many, or entries beyond `bits`; attributes `bits`, `entries`.
    """

    first: int
    bits: int
    data: bytes
    kind: str = ""

    def __post_init__(self) -> None:
        count = len(self.data) // 2
        if not (1 <= self.bits <= 16 and 1 <= count <= MOST_ENTRIES and len(self.data) % 2 == 0):
            message = f"a look-up table of {len(self.data)} bytes with {self.bits} bits per entry"
            message += ": expected 1 to 65536 uint16 of 1 to 16 bits"
            raise IntensityError(message, bits=self.bits, entries=count)
        if self.maximum >= 1 << self.bits:
            message = f"a look-up table of {self.bits} bits has an entry {self.maximum}"
            raise IntensityError(message, bits=self.bits, entries=count)

    @property
    def entries(self) -> NDArray[np.uint16]:
        """The entries, (n,) uint16, a read-only view."""
        return np.frombuffer(self.data, "<u2")

    @property
    def maximum(self) -> int:
        """The largest entry.

        It is the scale for display, because some devices declare 16 bits for tables that end at
        4095.
        """
        return int(self.entries.max())

    def __call__(self, values: Values) -> Values:
        """Return the entries of `values`, of the same shape, uint8 up to 8 bits, else uint16.

        Parameters
        ----------
        values
            Any integer dtype. Floats (modality values of a fractional rescale before a VOI LUT) are
            rounded to the nearest integer: rounding errors put them slightly above or below the
            integer, and truncation would select the adjacent entry half of the time. NaN maps to
            the first entry, as all values below the table.
        """
        table = self.entries if self.bits > 8 else self.entries.astype(np.uint8)
        return look_up(table, self.first, values)

    def __repr__(self) -> str:
        kind = f", {self.kind}" if self.kind else ""
        count = len(self.data) // 2
        return f"LookupTable({count} entries of {self.bits} bits from {self.first}{kind})"


@dataclass(frozen=True, slots=True, repr=False)
class Palette:
    """The colours of a PALETTE COLOR image, from indices to RGB.

    Defined in PS3.3 C.7.6.3.1.5, C.7.6.3.1.6 and C.7.9.

    Parameters
    ----------
    first
        The index that maps to the first colour; smaller indices map to it as well.
    bits
        Bits per sample: 8 or 16.
    data
        RGB triples, uint8 or little-endian uint16.
    """

    first: int
    bits: int
    data: bytes

    @property
    def colours(self) -> Values:
        """The colours, (n, 3) uint8 or uint16, a read-only view."""
        return np.frombuffer(self.data, "u1" if self.bits == 8 else "<u2").reshape(-1, 3)

    def __call__(self, indices: Values) -> Values:
        """Return RGB (..., rows, columns, 3), uint8 or uint16, of indices (..., rows, columns).

        Indices beyond the ends get the first or the last colour.
        """
        return look_up(self.colours, self.first, indices)

    def in_8_bits(self) -> "Palette":
        """Return the palette with 8 bits per sample, rounded; itself when it has 8 bits.

        The result equals rounding the pixels, at less cost.
        """
        if self.bits == 8:
            return self
        # 65535 / 257 = 255
        return Palette(self.first, 8, np.rint(self.colours / 257).astype(np.uint8).tobytes())

    def __repr__(self) -> str:
        return f"Palette({len(self.colours)} colours of {self.bits} bits from {self.first})"


def look_up(table: Values, first: int, values: Values) -> Values:
    """Return the rows of `table` at ``values - first``, clipped at both ends.

    `np.take` releases the GIL.
    """
    values = np.asarray(values)
    if values.dtype.kind not in "biuf":
        raise UsageError(f"a look-up table maps integers or floats, found {values.dtype}")
    out = np.empty((values.size, *table.shape[1:]), table.dtype.newbyteorder("="))
    flat = values.reshape(-1)
    buffer = np.empty(min(BLOCK, flat.size), np.intp)
    for start in range(0, flat.size, BLOCK):
        block = flat[start : start + BLOCK]
        rows = buffer[: block.size]
        _find_rows(block, first, len(table), rows)
        np.take(table, rows, axis=0, mode="clip", out=out[start : start + BLOCK])
    return out.reshape((*values.shape, *table.shape[1:]))


def _find_rows(block: Values, first: int, count: int, out: NDArray[np.intp]) -> None:
    """Compute the row of each value in a table, which may be outside of it."""
    if block.dtype.kind == "f":
        exact = np.rint(block.astype(np.float64))
        # fmax of NaN and `first` is `first`.
        np.fmin(np.fmax(exact, first, out=exact), first + count - 1, out=exact)
        block = exact
    elif block.dtype.kind == "b":
        block = block.view(np.uint8)
    elif block.itemsize >= out.itemsize:
        # The subtraction must not wrap.
        limits = np.iinfo(block.dtype)
        block = np.clip(block, max(int(limits.min), -(1 << 30)), min(int(limits.max), 1 << 30))
    np.subtract(
        block,
        first,
        out=out,
        dtype=block.dtype if block.dtype.kind == "f" else np.intp,
        casting="unsafe",
    )


# --- real-world maps ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RealWorldMap:
    """One item of a Real World Value Mapping Sequence (PS3.3 C.7.6.16.2.11).

    It maps stored values, not modality values, to quantities with units.

    Parameters
    ----------
    first, last
        The range of stored values, both ends included.
    slope, intercept
        ``stored * slope + intercept``; not used with a table.
    table
        Little-endian float64, one per stored value from `first` to `last`; b"" for a linear map.
    units
        Code Value of the Measurement Units Code Sequence (0040,08EA), UCUM: "mm2/s", "[hnsf'U]",
        "1".
    label
        LUT Label (0040,9210), free text, which is neither printed nor part of a message.

    Raises
    ------
    IntensityError
        A number is not finite, the range is empty, or the table has another length.
    """

    first: float
    last: float
    slope: float = 1.0
    intercept: float = 0.0
    table: bytes = field(default=b"", repr=False)
    units: str = ""
    label: str = field(default="", repr=False)

    def __post_init__(self) -> None:
        for name in ("first", "last", "slope", "intercept"):
            value = float(getattr(self, name))
            object.__setattr__(self, name, value)
            if not math.isfinite(value):
                raise IntensityError(
                    f"a real-world map has a {name} of {value}; expected a finite number",
                    **{name: value},
                )
        if self.first > self.last:
            message = f"a real-world map of the stored values {self.first:g} to {self.last:g}"
            message += ": the first is above the last"
            raise IntensityError(message, first=self.first, last=self.last)
        expected = int(self.last) - int(self.first) + 1
        if self.table and len(self.table) != 8 * expected:
            message = f"a real-world map of {expected} stored values"
            message += f" has {len(self.table) / 8:g} table entries"
            raise IntensityError(
                message, expected_entries=expected, found_entries=len(self.table) // 8
            )

    def __call__(self, stored: Values, out: Float32 | None = None) -> Float32:
        """Return real-world values, float32 of the shape of `stored`, in `out` or a new array.

        They are computed in float64 and rounded once; NaN outside of the range of stored values.

        Raises
        ------
        IntensityError
            A value is beyond the range of float32.
        """
        return _real_world((self,), stored, out)

    def _exact(self, block: Values) -> NDArray[np.float64]:
        """Compute real-world values of a block, undefined outside of the range."""
        if self.table:
            table = np.frombuffer(self.table, "<f8")
            return look_up(table, int(self.first), block)
        exact = np.multiply(block, self.slope, dtype=np.float64)
        exact += self.intercept
        return exact


@dataclass(frozen=True, slots=True)
class RealWorldMaps:
    """A piecewise map: several maps to the same units whose ranges do not overlap.

    Items of the sequence may divide the stored values (PS3.3 C.7.6.16.2.11.1, figure C.7.6.16-7).
    """

    maps: tuple[RealWorldMap, ...]

    def __post_init__(self) -> None:
        units = tuple(each.units for each in self.maps)
        if len(set(units)) != 1:
            raise IntensityError(
                f"real-world maps of {len(set(units))} units cannot be used as one: "
                "choose by number",
                units=units,
            )
        ordered = sorted(self.maps, key=lambda each: each.first)
        if any(before.last >= after.first for before, after in itertools.pairwise(ordered)):
            message = f"{len(units)} real-world maps to {units[0]!r} overlap"
            message += ", so stored values have several meanings: choose by number"
            raise IntensityError(message, units=units)

    @property
    def units(self) -> str:
        """The units of all maps."""
        return self.maps[0].units

    def __call__(self, stored: Values, out: Float32 | None = None) -> Float32:
        """Return real-world values as `RealWorldMap` does, each by the map of its range.

        NaN between and outside of the ranges.
        """
        return _real_world(self.maps, stored, out)


def _real_world(maps: Sequence[RealWorldMap], stored: Values, out: Float32 | None) -> Float32:
    """Apply maps with disjoint ranges to stored values."""
    stored = np.asarray(stored)
    if stored.dtype.kind not in "biuf":
        raise UsageError(f"real-world maps are for integers or floats, found {stored.dtype}")
    if out is None:
        out = np.empty(stored.shape, np.float32)
    elif out.dtype != np.float32 or out.shape != stored.shape:
        raise UsageError(
            f"out is {out.dtype} {out.shape}; expected float32 of shape {stored.shape}"
        )
    try:
        with np.errstate(over="raise", invalid="ignore"):
            for source, target in blocks(stored, out):
                np.copyto(target, _exact_block(maps, source), casting="same_kind")
    except FloatingPointError:
        steepest = max(maps, key=lambda each: abs(each.slope))
        message = f"slope {steepest.slope:g} and intercept {steepest.intercept:g}"
        message += " give values beyond the range of float32"
        raise IntensityError(message, slope=steepest.slope, intercept=steepest.intercept) from None
    return out


def _exact_block(maps: Sequence[RealWorldMap], block: Values) -> NDArray[np.float64]:
    """Apply maps with disjoint ranges to a block, in float64."""
    exact = np.full(block.shape, np.nan)
    for each in maps:
        # False for NaN.
        inside = (block >= each.first) & (block <= each.last)
        np.copyto(exact, each._exact(block), where=inside)
    return exact


def blocks(values: Values, out: Values) -> Iterator[tuple[Values, Values]]:
    """Yield pairs of views that together cover both arrays.

    C-contiguous arrays are divided into blocks that stay in the processor's cache.
    """
    if values.size <= BLOCK or not (values.flags.c_contiguous and out.flags.c_contiguous):
        yield values, out
        return
    flat_values, flat_out = values.reshape(-1), out.reshape(-1)
    for start in range(0, values.size, BLOCK):
        yield flat_values[start : start + BLOCK], flat_out[start : start + BLOCK]
