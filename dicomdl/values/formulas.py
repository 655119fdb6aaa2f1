"""Formulas: the four forms that every map to network values reduces to, computed with NumPy.

A map states its computation once, as one of these values. NumPy computes them here, torch in
`datasets.device.intensity`. Padding, the cache and the transport to a device read the formula and
never the map. A new map is one class with a `formula`.

A ramp is computed in float32 as subtract, divide, clip. Both roundings are relative, so the result
is within 2 ulp of the exact formula; the error of scale-and-shift grows with center / width. When
float32 does not hold the lower end or the input exactly, the ramp is computed in float64, in blocks
that stay in the processor's cache.
"""

import math
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from dicomdl.arrays import Float32, Values, ends_of
from dicomdl.errors import UsageError
from dicomdl.values._floats import EXACT_IN_FLOAT32, is_float32
from dicomdl.values._lookup import LookupTable, blocks


@dataclass(frozen=True, slots=True)
class Same:
    """Values as they are, rounded once to float32."""

    @property
    def ends(self) -> None:
        """None: no value is mapped to 0 or 1."""
        return

    def fill(self, values: Values, out: Float32) -> None:
        """Compute into `out`, float32 of the shape of `values`, rounded once."""
        np.copyto(out, values, casting="unsafe")


@dataclass(frozen=True, slots=True)
class Ramp:
    """``(values - lower) / width``; for width 0 a step at `lower`: `high` above it, else `low`.

    Parameters
    ----------
    lower, width
        Finite, ``width >= 0``.
    clip
        Whether results stay within `low` and `high`, or continue along the line.
    margin
        Distance of padding from the ends, for ends that are rounded.
    low, high
        Smallest and largest result, ``low <= high``; either may be infinite, for a step neither.
    bottom
        The value of padding for a ramp that goes on below, instead of `lower`: the smallest value
        of a sample.
    """

    lower: float
    width: float
    clip: bool = True
    margin: float = 0.0
    low: float = 0.0
    high: float = 1.0
    bottom: float | None = None

    @property
    def saturates(self) -> bool:
        """Whether all values below the lower end become one number."""
        return self.width == 0 or (self.clip and math.isfinite(self.low))

    @property
    def ends(self) -> tuple[float, float]:
        """Values that become the smallest and the largest result, with the margin.

        Without such a result, those that become 0 and 1, or `bottom`.
        """
        low, high = (self.low, self.high) if self.clip else (0.0, 1.0)
        start = self.lower + self.width * (low if math.isfinite(low) else 0.0)
        stop = self.lower + self.width * (high if math.isfinite(high) else 1.0)
        if self.bottom is not None and not self.saturates:
            start = self.bottom
        return start - self.margin, stop + self.margin

    def at(self, value: float) -> float:
        """Return the result for one number, in float64."""
        if self.width == 0:
            return self.high if value > self.lower else self.low
        result = (value - self.lower) / self.width
        return min(max(result, self.low), self.high) if self.clip else result

    def fill(self, values: Values, out: Float32) -> None:
        """Compute into `out`, float32 of the shape of `values`; NaN stays NaN."""
        is_unit = self.clip and self.low == 0 and self.high == 1
        if is_unit and _are_within(values.dtype, self.lower, self.width):
            _integer_ramp(values, int(self.lower), int(self.width), out)
        elif self.width == 0:
            _step(values, self, out)
        elif _is_exact(values.dtype, self.lower, self.width):
            _single_ramp(values, self, out)
        else:
            _double_ramp(values, self, out)


@dataclass(frozen=True, slots=True)
class Sigmoid:
    """``1 / (1 + exp(-4 (values - center) / width))`` (PS3.3 C.11.2.1.3.1), in float64."""

    center: float
    width: float

    @property
    def ends(self) -> tuple[float, float]:
        """Values that become 0 and 1 in float32: 160 in the exponent, 40 widths from the center."""
        return self.center - 40 * self.width, self.center + 40 * self.width

    def fill(self, values: Values, out: Float32) -> None:
        """Compute into `out`, float32 of the shape of `values`; NaN stays NaN."""
        for source, target in blocks(values, out):
            # exp overflows to infinity for values whose result is 0.
            with np.errstate(over="ignore", under="ignore"):
                exponent = (source.astype(np.float64) - self.center) * (-4 / self.width)
                np.copyto(target, 1 / (1 + np.exp(exponent)), casting="same_kind")


@dataclass(frozen=True, slots=True)
class Table:
    """The entries of a table divided by `scale`."""

    table: LookupTable
    scale: int

    @property
    def ends(self) -> tuple[float, float]:
        """Values that map to the smallest and the largest entry."""
        entries, first = self.table.entries, self.table.first
        return first + int(entries.argmin()), first + int(entries.argmax())

    def fill(self, values: Values, out: Float32) -> None:
        """Compute into `out`, float32 of the shape of `values`; NaN maps to the first entry."""
        np.divide(self.table(values), np.float32(self.scale), out=out, dtype=np.float32)


Formula: TypeAlias = Same | Ramp | Sigmoid | Table


def composed(first: Formula, second: Formula) -> Formula | None:
    """Return the one formula of two in turn, or None when no formula computes both.

    Ramps compose into a ramp, whose smallest and largest results are those of the second for those
    of the first.
    """
    if isinstance(first, Same):
        return second
    if isinstance(second, Same):
        return first
    if not (isinstance(first, Ramp) and isinstance(second, Ramp)):
        return None
    line = (first.low, first.high) if first.clip else (-math.inf, math.inf)
    if first.width == 0 or second.width == 0:
        return _composed_step(first, second, line)
    low, high = (second.at(end) for end in line)
    lower, width = first.lower + second.lower * first.width, first.width * second.width
    is_clipped = math.isfinite(low) or math.isfinite(high)
    # The lower end in input units is rounded: padding lies safely below it.
    margin = first.margin + 1e-6 * (abs(lower) + width) if math.isfinite(low) else 0.0
    return Ramp(lower, width, is_clipped, margin, low, high, first.bottom)


def _composed_step(first: Ramp, second: Ramp, line: tuple[float, float]) -> Ramp:
    """Return two ramps in turn of which one is a step, given the ends of the first's results."""
    if first.width == 0:
        low, high = second.at(first.low), second.at(first.high)
        return Ramp(first.lower, 0.0, True, first.margin, low, high)
    if line[0] <= second.lower < line[1]:
        lower = first.lower + second.lower * first.width
        return Ramp(lower, 0.0, True, first.margin, second.low, second.high)
    constant = second.at(line[0])
    return Ramp(first.lower, 0.0, True, first.margin, constant, constant)


class FormulaMap:
    """Base of the maps that reduce to a formula; a subclass defines `formula` alone."""

    __slots__ = ()

    @property
    def formula(self) -> Formula:
        """The formula that the map computes."""
        raise NotImplementedError

    def __call__(self, values: Values, out: Float32 | None = None) -> Float32:
        """Return float32 network values of the shape of `values`, in `out` or a new array."""
        values, out = source_and_target(values, out)
        self.formula.fill(values, out)
        return out


def source_and_target(values: Values, out: Float32 | None) -> tuple[Values, Float32]:
    """Return the values as an array, and `out` or a new float32 array of their shape.

    Raises
    ------
    UsageError
        `out` has another dtype or shape.
    """
    values = np.asarray(values)
    if out is None:
        return values, np.empty(values.shape, np.float32)
    if out.dtype != np.float32 or out.shape != values.shape:
        raise UsageError(
            f"out is {out.dtype} {out.shape}; expected float32 of shape {values.shape}"
        )
    return values, out


def _is_exact(dtype: np.dtype[Any], lower: float, width: float) -> bool:
    """Whether float32 holds the values and the lower end, so that only results are rounded."""
    is_exact = dtype.char in EXACT_IN_FLOAT32 and dtype.isnative and is_float32(lower)
    return is_exact and bool(np.float32(width) > 0)


def _step(values: Values, ramp: Ramp, out: Float32) -> None:
    for source, target in blocks(values, out):
        above = np.heaviside(source.astype(np.float64) - ramp.lower, 0.0)
        np.copyto(target, ramp.low + above * (ramp.high - ramp.low), casting="same_kind")


def _single_ramp(values: Values, ramp: Ramp, out: Float32) -> None:
    for source, target in blocks(values, out):
        with np.errstate(over="ignore"):
            np.subtract(source, np.float32(ramp.lower), out=target, dtype=np.float32)
            np.divide(target, np.float32(ramp.width), out=target)
            if ramp.clip:
                np.clip(target, ramp.low, ramp.high, out=target)


def _double_ramp(values: Values, ramp: Ramp, out: Float32) -> None:
    for source, target in blocks(values, out):
        with np.errstate(over="ignore"):
            exact = source.astype(np.float64)
            exact -= ramp.lower
            exact /= ramp.width
            if ramp.clip:
                np.clip(exact, ramp.low, ramp.high, out=exact)
            np.copyto(target, exact, casting="same_kind")


def _are_within(dtype: np.dtype[Any], lower: float, width: float) -> bool:
    """Whether an integer dtype holds both ends of a ramp, and float32 all differences."""
    if (
        dtype.kind not in "iu"
        or not dtype.isnative
        or not (lower.is_integer() and width.is_integer() and 0 < width <= 1 << 24)
    ):
        return False
    smallest, largest = ends_of(dtype)
    return smallest <= lower and lower + width <= largest


def _integer_ramp(values: Values, lower: int, width: int, out: Float32) -> None:
    """Compute a ramp of integers, clipped and shifted before the conversion to float32.

    The result is equal, in half the time.
    """
    low, high = values.dtype.type(lower), values.dtype.type(lower + width)
    for source, target in blocks(values, out):
        # With `out`, np.clip returns an array for 0 dimensions as well.
        shifted = np.clip(source, low, high, out=np.empty(source.shape, source.dtype))
        # Wraps; read as unsigned, the result is right.
        np.subtract(shifted, low, out=shifted)
        unsigned = shifted.view(f"u{shifted.itemsize}")
        np.divide(unsigned, np.float32(width), out=target, dtype=np.float32)
