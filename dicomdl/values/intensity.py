"""Intensity: the recipe of a stack, from modality values to network values, resolved once.

Network values are always float32. Recipes are frozen values, which compare, print, pickle and serve
as cache keys. They never write to their argument.
"""

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dicomdl.arrays import Float32, Values, ends_of
from dicomdl.errors import IntensityError
from dicomdl.values.formulas import Formula, FormulaMap, Ramp, Same, source_and_target
from dicomdl.values.looked_up import filled
from dicomdl.values.quantity import Quantity
from dicomdl.values.sampled import SampledMap
from dicomdl.values.windows import IntensityMap


@dataclass(frozen=True, slots=True)
class Intensity:
    """The recipe of a stack: a map from its values to network values.

    Parameters
    ----------
    mapping
        Modality values to network values. A `SampledMap` (`Percentile`, `ZScore`, ...) still needs
        the sample of the stack: see `needs_sample`.
    invert
        Whether x becomes 1 - x afterwards. Only "auto" sets it, for MONOCHROME1 projection images.
    units
        Units of the result: "1" after a window, limits or statistics, the units of the modality for
        `Identity` and `Clip`, "" when unknown (a caller's function).
    quantity
        The input of `mapping`: modality values, SUV or real-world values.

    Attributes
    ----------
    formula
        The formula of `mapping`, read once per recipe. None for a caller's function, and for a
        `SampledMap`.
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
        """Whether values stay unchanged."""
        return isinstance(self.formula, Same) and not self.invert

    @property
    def needs_sample(self) -> bool:
        """Whether `with_sample` must be called before the values of different frames compare."""
        return isinstance(self.mapping, SampledMap)

    @property
    def saturates(self) -> bool:
        """Whether all values below the lowest that the map distinguishes become one number."""
        if self.formula is None or isinstance(self.formula, Same):
            return False
        return not isinstance(self.formula, Ramp) or self.formula.saturates

    def with_sample(self, sample: Values) -> "Intensity":
        """Return the recipe with the limits of the stack's sample (see `Percentile`).

        A recipe that needs no sample is returned as it is.
        """
        if not isinstance(self.mapping, SampledMap):
            return self
        return dataclasses.replace(self, mapping=self.mapping.known(self.mapping.limits(sample)))

    def floor(self, dtype: np.dtype[Any]) -> float | None:
        """Return the value of `dtype` that maps to the lowest network value, for padding.

        None when values are not windowed: padding stays unchanged under `Identity`, and the lowest
        value of a caller's function is unknown.
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
        """Return network values, float32 of the shape of `values`, in `out` or a new array.

        Raises
        ------
        IntensityError
            A caller's function changes the shape.
        """
        if self.formula is not None:
            values, result = source_and_target(values, out)
            filled(self.formula, values, result)
        elif isinstance(self.mapping, SampledMap):
            result = self.mapping(values, out)
        else:
            result = _converted(self.mapping(values), values, out)
        return np.subtract(np.float32(1), result, out=result) if self.invert else result


def _converted(result: Values, values: Values, out: Float32 | None) -> Float32:
    """Copy the result of a caller's function to float32, after a check of its shape."""
    result = np.asarray(result)
    if result.shape != values.shape:
        raise IntensityError(
            f"the intensity function made shape {result.shape} of {values.shape}: "
            "it must keep the shape"
        )
    # Always a copy: the function may have returned its argument.
    _, out = source_and_target(values, out)
    np.copyto(out, result, casting="unsafe")
    return out
