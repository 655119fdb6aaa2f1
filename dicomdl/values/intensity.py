"""Stored -> modality -> network values: rescale, windows, percentiles and what "auto" means, as frozen callables.

The rule to know: modality values are int16 when every slope and intercept is integral and the actual values fit,
else int32, else float32 computed in float64 and rounded once; nothing wraps. Network values are always float32.
A linear map runs in float32 as subtract, divide, clip: both roundings are relative, so the result is within 2 ulp of
the exact formula, which scale-and-shift is not (its error grows with center / width). Where the lower end or the
input is not exactly a float32 it runs in float64, in blocks that stay in the cache.

Options are values: they compare, print, pickle and are the cache key. Maps never write to their argument.
"""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from dicomdl.arrays import Float32, Values
from dicomdl.errors import IntensityError
from dicomdl.values.quantity import Quantity
from dicomdl.values.windows import (
    Identity,
    IntensityMap,
    Limits,
    Percentile,
    VoiLut,
    Window,
    source_and_target,
)


@dataclass(frozen=True, slots=True)
class Intensity:
    """What is done to the modality values of a stack, decided once.

    Parameters
    ----------
    mapping
        Modality values to network values. A `Percentile` still needs the stack's sample: see `needs_sample`.
    invert
        Whether x becomes 1 - x afterwards: MONOCHROME1 projection images under "auto", nothing else.
    units
        Of the result: "1" for what a window or limits have made of it, the modality's units for `Identity`,
        "" where nobody knows (a caller's own function).
    quantity
        What `mapping` takes: modality values, or SUV or real-world values instead of them.
    """

    mapping: IntensityMap
    invert: bool = False
    units: str = "1"
    quantity: Quantity = "modality"

    @property
    def needs_sample(self) -> bool:
        """Whether `with_sample` has to be called before the values of different frames compare."""
        return isinstance(self.mapping, Percentile)

    def with_sample(self, sample: Values) -> "Intensity":
        """The same recipe with the limits that the stack's sample gives (see `Percentile`); itself when it needs none."""
        if not isinstance(self.mapping, Percentile):
            return self
        return dataclasses.replace(
            self, mapping=self.mapping.with_limits(*self.mapping.limits(sample))
        )

    def floor(self, dtype: np.dtype[Any]) -> float | None:
        """The value of `dtype` that becomes the lowest network value, which padding takes the place of.

        None where values are not windowed: padding stays what it is under `Identity`, and a caller's own function may mean anything.
        """
        lowest = _lowest_input(self.mapping, self.invert)
        if lowest is None or dtype.kind == "f":
            return lowest
        limits = np.iinfo(dtype)
        return min(
            max(math.ceil(lowest) if self.invert else math.floor(lowest), int(limits.min)),
            int(limits.max),
        )

    def __call__(self, values: Values, out: Float32 | None = None) -> Float32:
        """Network values, float32 of the shape of `values`, in a new array or `out`.

        IntensityError when a caller's own function changes the shape.
        """
        if isinstance(self.mapping, Window | Limits | Identity | Percentile | VoiLut):
            result = self.mapping(values, out)
        else:
            result = _converted(self.mapping(values), values, out)
        return np.subtract(np.float32(1), result, out=result) if self.invert else result


def _lowest_input(mapping: IntensityMap, invert: bool) -> float | None:
    """A value that the mapping makes 0 of, or 1 where it is inverted afterwards."""
    if isinstance(mapping, Window) and mapping.function == "SIGMOID":
        return (
            mapping.center + (40 if invert else -40) * mapping.width
        )  # 160 in the exponent: 0 or 1 in float32
    if isinstance(mapping, Window):
        return (
            mapping.limits[1] + 1 if invert else mapping.limits[0] - 1
        )  # beyond the rounding of the ends
    if isinstance(mapping, Limits):
        return mapping.upper if invert else mapping.lower
    if isinstance(mapping, VoiLut):
        entries = mapping.table.entries
        return mapping.table.first + int(entries.argmax() if invert else entries.argmin())
    return None


def _converted(result: Values, values: Values, out: Float32 | None) -> Float32:
    result = np.asarray(result)
    if result.shape != values.shape:
        raise IntensityError(
            f"the intensity function made shape {result.shape} of {values.shape}: it must keep the shape"
        )
    _, out = source_and_target(
        values, out
    )  # always a copy: the function may have returned its argument
    np.copyto(out, result, casting="unsafe")
    return out
