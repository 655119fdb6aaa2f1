"""The recipe of a stack: what is done to its modality values, decided once.

Network values are always float32. Recipes are frozen values: they compare, print, pickle and are
cache keys. They never write to their argument.
"""

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dicomdl.arrays import Float32, Values, ends_of
from dicomdl.errors import IntensityError
from dicomdl.values.formulas import Formula, FormulaMap, Same, source_and_target
from dicomdl.values.maps import IntensityMap, Percentile
from dicomdl.values.quantity import Quantity


@dataclass(frozen=True, slots=True)
class Intensity:
    """What is done to the modality values of a stack, decided once.

    Parameters
    ----------
    mapping
        Modality values to network values. A `Percentile` still needs the stack's sample: see
        `needs_sample`.
    invert
        Whether x becomes 1 - x afterwards: MONOCHROME1 projection images under "auto", nothing
        else.
    units
        Of the result: "1" for what a window or limits have made of it, the modality's units for
        `Identity`, "" where nobody knows (a caller's own function).
    quantity
        What `mapping` takes: modality values, or SUV or real-world values instead of them.

    Attributes
    ----------
    formula
        What `mapping` computes, asked once. None for a caller's own function, and for a
        `Percentile` without limits.
    """

    mapping: IntensityMap
    invert: bool = False
    units: str = "1"
    quantity: Quantity = "modality"
    formula: Formula | None = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        formula = self.mapping.formula if isinstance(self.mapping, FormulaMap) else None
        object.__setattr__(self, "formula", formula)

    @property
    def is_identity(self) -> bool:
        """Whether values stay what they are."""
        return isinstance(self.formula, Same) and not self.invert

    @property
    def needs_sample(self) -> bool:
        """Whether `with_sample` has to be called before the values of different frames compare."""
        return isinstance(self.mapping, Percentile)

    def with_sample(self, sample: Values) -> "Intensity":
        """The same recipe with the limits that the stack's sample gives (see `Percentile`).

        Itself when it needs none.
        """
        if not isinstance(self.mapping, Percentile):
            return self
        return dataclasses.replace(
            self, mapping=self.mapping.with_limits(*self.mapping.limits(sample))
        )

    def floor(self, dtype: np.dtype[Any]) -> float | None:
        """The value of `dtype` that becomes the lowest network value, which padding takes the place of.

        None where values are not windowed: padding stays what it is under `Identity`, and a caller's own function may mean anything.
        """
        ends = None if self.formula is None else self.formula.ends
        if ends is None:
            return None
        lowest = ends[self.invert]
        if dtype.kind == "f":
            return lowest
        smallest, largest = ends_of(dtype)
        whole = math.ceil(lowest) if self.invert else math.floor(lowest)
        return min(max(whole, smallest), largest)

    def __call__(self, values: Values, out: Float32 | None = None) -> Float32:
        """Network values, float32 of the shape of `values`, in a new array or `out`.

        IntensityError when a caller's own function changes the shape.
        """
        if self.formula is not None:
            values, result = source_and_target(values, out)
            self.formula.fill(values, result)
        elif isinstance(self.mapping, Percentile):
            result = self.mapping(values, out)
        else:
            result = _converted(self.mapping(values), values, out)
        return np.subtract(np.float32(1), result, out=result) if self.invert else result


def _converted(result: Values, values: Values, out: Float32 | None) -> Float32:
    result = np.asarray(result)
    if result.shape != values.shape:
        raise IntensityError(
            f"the intensity function made shape {result.shape} of {values.shape}: it must keep the shape"
        )
    # always a copy: the function may have returned its argument
    _, out = source_and_target(values, out)
    np.copyto(out, result, casting="unsafe")
    return out
