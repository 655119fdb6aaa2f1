"""Look-up tables and real-world maps, read from the file when they are needed.

Too few files have them for the index.

The rule to know: what tables mean is decided here, by the standard and from the raw words that
`rawtables` gives. pydicom's `apply_color_lut` is wrong for big-endian files, for 8-bit tables of
more than 256 entries and for indirect segments, so it is the second opinion of the tests and not
used here.

Tables are values: they compare, hash, pickle and are cache keys. They clip at both ends, as the
standard says; real-world maps do not, because no real-world value is defined outside of their
range: it is NaN.
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

BLOCK: Final = 1 << 16  # values worked on at once: half a megabyte of places or of float64


# --- look-up tables -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, repr=False)
class LookupTable:
    """One Modality or VOI LUT (PS3.3 C.11.1.1, C.11.2.1.1).

    A callable, integers in, unsigned integers out.

    Parameters
    ----------
    first
        The value that gets the first entry; smaller ones get it, too.
    bits
        Of an entry, 1 to 16. The output is uint8 up to 8 bits, else uint16.
    data
        The entries as little-endian uint16, 1 to 65536 of them, also where they fit 8 bits.
    kind
        Modality LUT Type (0028,3004) where it is a defined term ("OD": thousandths of optical
        density, "HU", "US": unspecified, ...), else "".

    Raises
    ------
    IntensityError
        No entries, too many, or larger ones than `bits` says; attributes `bits`, `entries`.
    """

    first: int
    bits: int
    data: bytes
    kind: str = ""

    def __post_init__(self) -> None:
        count = len(self.data) // 2
        if not (1 <= self.bits <= 16 and 1 <= count <= MOST_ENTRIES and len(self.data) % 2 == 0):
            message = f"a look-up table of {len(self.data)} bytes with {self.bits} bits an entry: expected 1 to 65536 uint16 of 1 to 16 bits"
            raise IntensityError(message, bits=self.bits, entries=count)
        if self.maximum >= 1 << self.bits:
            message = f"a look-up table of {self.bits} bits has an entry {self.maximum}"
            raise IntensityError(message, bits=self.bits, entries=count)

    @property
    def entries(self) -> NDArray[np.uint16]:
        """The entries, uint16 of shape (n,): a read-only view."""
        return np.frombuffer(self.data, "<u2")

    @property
    def maximum(self) -> int:
        """The largest entry.

        Some devices say 16 bits of tables that end at 4095, so that `bits` is no scale for
        display.
        """
        return int(self.entries.max())

    def __call__(self, values: Values) -> Values:
        """The entries of `values`, of the same shape, uint8 where `bits` is 8 or fewer, else uint16.

        Parameters
        ----------
        values
            Any integer dtype. Floats (modality values of a fractional rescale that feed a VOI LUT) are rounded to the nearest
            integer first: rounding errors leave them a little above or below the whole number that they stand for, and cutting off would
            give the entry beside it half of the time. NaN gets the first entry, the one of everything that lies below the table.
        """
        table = self.entries if self.bits > 8 else self.entries.astype(np.uint8)
        return look_up(table, self.first, values)

    def __repr__(self) -> str:
        return f"LookupTable({len(self.data) // 2} entries of {self.bits} bits from {self.first}{', ' * bool(self.kind)}{self.kind})"


@dataclass(frozen=True, slots=True, repr=False)
class Palette:
    """The colours of a PALETTE COLOR image (PS3.3 C.7.6.3.1.5, C.7.6.3.1.6, C.7.9).

    A callable, indices in, RGB out.

    Parameters
    ----------
    first
        The index that gets the first colour; smaller ones get it, too.
    bits
        Of a sample: 8 or 16.
    data
        RGB triples, uint8 or little-endian uint16.
    """

    first: int
    bits: int
    data: bytes

    @property
    def colours(self) -> Values:
        """The colours, uint8 or uint16 of shape (n, 3): a read-only view."""
        return np.frombuffer(self.data, "u1" if self.bits == 8 else "<u2").reshape(-1, 3)

    def __call__(self, indices: Values) -> Values:
        """RGB of indices of shape (..., rows, columns): (..., rows, columns, 3), uint8 or uint16.

        Clips at both ends.
        """
        return look_up(self.colours, self.first, indices)

    def in_8_bits(self) -> "Palette":
        """The same colours in 8 bits a sample, rounded; itself where it has them.

        Cheaper here than on the pixels, and equal.
        """
        if self.bits == 8:
            return self
        # 65535 / 257 = 255
        return Palette(self.first, 8, np.rint(self.colours / 257).astype(np.uint8).tobytes())

    def __repr__(self) -> str:
        return f"Palette({len(self.colours)} colours of {self.bits} bits from {self.first})"


def look_up(table: Values, first: int, values: Values) -> Values:
    """The rows of `table` at ``values - first``, clipped at both ends.

    `take` lets other threads run.
    """
    values = np.asarray(values)
    if values.dtype.kind not in "biuf":
        raise UsageError(f"a look-up table maps integers or floats, found {values.dtype}")
    out = np.empty((values.size, *table.shape[1:]), table.dtype.newbyteorder("="))
    flat = values.reshape(-1)
    places = np.empty(min(BLOCK, flat.size), np.intp)
    for start in range(0, flat.size, BLOCK):
        block = flat[start : start + BLOCK]
        at = places[: block.size]
        _place(block, first, len(table), at)
        np.take(table, at, axis=0, mode="clip", out=out[start : start + BLOCK])
    return out.reshape((*values.shape, *table.shape[1:]))


def _place(block: Values, first: int, count: int, out: NDArray[np.intp]) -> None:
    """Where each value lies in a table, perhaps outside of it."""
    if block.dtype.kind == "f":
        exact = np.rint(block.astype(np.float64))
        # fmax of NaN and `first` is `first`
        np.fmin(np.fmax(exact, first, out=exact), first + count - 1, out=exact)
        block = exact
    elif block.dtype.kind == "b":
        block = block.view(np.uint8)
    elif block.itemsize >= out.itemsize:  # the subtraction must not wrap
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

    Stored values to quantities with units.

    It maps stored values, not modality values.

    Parameters
    ----------
    first, last
        The stored values that it is for, both ends included.
    slope, intercept
        ``stored * slope + intercept``; not used where there is a table.
    table
        Little-endian float64, one for each stored value from `first` to `last`; b"" for a linear
        map.
    units
        Code Value of the Measurement Units Code Sequence (0040,08EA), UCUM: "mm2/s", "[hnsf'U]",
        "1".
    label
        LUT Label (0040,9210): free text, so it is neither printed nor put into messages.

    Raises
    ------
    IntensityError
        Something is not finite, the range is empty, or the table does not have its length.
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
            message = f"a real-world map of the stored values {self.first:g} to {self.last:g}: the first is above the last"
            raise IntensityError(message, first=self.first, last=self.last)
        expected = int(self.last) - int(self.first) + 1
        if self.table and len(self.table) != 8 * expected:
            message = f"a real-world map of {expected} stored values has {len(self.table) / 8:g} table entries"
            raise IntensityError(
                message, expected_entries=expected, found_entries=len(self.table) // 8
            )

    def __call__(self, stored: Values, out: Float32 | None = None) -> Float32:
        """Real-world values as float32, computed in float64 and rounded once, in a new array or `out`; NaN outside of the range.

        IntensityError where a value is beyond the range of float32.
        """
        return _real_world((self,), stored, out)

    def _exact(self, block: Values) -> NDArray[np.float64]:
        """Real-world values of a block; the ones of values outside of the range mean nothing."""
        if self.table:
            table = np.frombuffer(self.table, "<f8")
            return look_up(table, int(self.first), block)
        exact = np.multiply(block, self.slope, dtype=np.float64)
        exact += self.intercept
        return exact


@dataclass(frozen=True, slots=True)
class RealWorldMaps:
    """Several maps to the same units whose ranges of stored values do not overlap, used as one.

    The standard lets items divide the stored values among them (PS3.3 C.7.6.16.2.11.1, figure
    C.7.6.16-7): a piecewise map.
    """

    maps: tuple[RealWorldMap, ...]

    def __post_init__(self) -> None:
        units = tuple(one.units for one in self.maps)
        if len(set(units)) != 1:
            raise IntensityError(
                f"real-world maps of {len(set(units))} units cannot be used as one: choose by number",
                units=units,
            )
        ordered = sorted(self.maps, key=lambda one: one.first)
        if any(before.last >= after.first for before, after in itertools.pairwise(ordered)):
            message = f"{len(units)} real-world maps to {units[0]!r} overlap, so stored values have several meanings: choose by number"
            raise IntensityError(message, units=units)

    @property
    def units(self) -> str:
        """The units that all of them have."""
        return self.maps[0].units

    def __call__(self, stored: Values, out: Float32 | None = None) -> Float32:
        """As `RealWorldMap`.

        Each value by the map whose range it lies in, NaN between and outside of the ranges.
        """
        return _real_world(self.maps, stored, out)


def _real_world(maps: Sequence[RealWorldMap], stored: Values, out: Float32 | None) -> Float32:
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
        steepest = max(maps, key=lambda one: abs(one.slope))
        message = f"slope {steepest.slope:g} and intercept {steepest.intercept:g} give values beyond the range of float32"
        raise IntensityError(message, slope=steepest.slope, intercept=steepest.intercept) from None
    return out


def _exact_block(maps: Sequence[RealWorldMap], block: Values) -> NDArray[np.float64]:
    exact = np.full(block.shape, np.nan)
    for one in maps:
        inside = (block >= one.first) & (block <= one.last)  # false for NaN
        np.copyto(exact, one._exact(block), where=inside)
    return exact


def blocks(values: Values, out: Values) -> Iterator[tuple[Values, Values]]:
    """Pairs of views that together cover both arrays, small enough to stay in the cache where the layout allows it."""
    if values.size <= BLOCK or not (values.flags.c_contiguous and out.flags.c_contiguous):
        yield values, out
        return
    flat_values, flat_out = values.reshape(-1), out.reshape(-1)
    for start in range(0, values.size, BLOCK):
        yield flat_values[start : start + BLOCK], flat_out[start : start + BLOCK]
