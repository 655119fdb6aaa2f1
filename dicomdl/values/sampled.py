"""SampledMap: the base of maps whose numbers come from the sample of a stack.

`Percentile`, `ZScore`, `MinMax` and chains of them are such maps. Their numbers are computed once
per stack or group and cached (`stack_intensity.kept_limits`); `known` then gives the map itself.
"""

import numpy as np

from dicomdl.arrays import Float32, Floats, Values
from dicomdl.errors import IntensityError
from dicomdl.values.formulas import FormulaMap


class SampledMap:
    """A frozen value that a sample turns into a map with a formula."""

    __slots__ = ()

    @property
    def count(self) -> int:
        """The number of `limits`."""
        raise NotImplementedError

    def limits(self, sample: Values, original: Values | None = None) -> tuple[float, ...]:
        """Return the numbers of a sample, finite.

        `original` are the values of the sample before the earlier maps of a chain, by default
        `sample`; a mask is decided on them.

        Raises
        ------
        IntensityError
            No value is finite; attribute `sampled`, the number of values.
        """
        raise NotImplementedError

    def known(self, limits: tuple[float, ...]) -> FormulaMap:
        """Return the map for known `limits`."""
        raise NotImplementedError

    def __call__(self, values: Values, out: Float32 | None = None) -> Float32:
        """Return network values of an array, which is its own sample, in `out` or a new array."""
        values = np.asarray(values)
        return self.known(self.limits(values))(values, out)


def finite_of(sample: Values) -> Floats:
    """Return the finite values of a sample, (n,) float64.

    Raises
    ------
    IntensityError
        There are none; attribute `sampled`, the number of values.
    """
    # float64, because np.percentile overflows in int16.
    values = np.asarray(sample, np.float64).ravel()
    if sample.dtype.kind == "f":
        values = values[np.isfinite(values)]
    if not values.size:
        raise IntensityError(
            f"none of {sample.size} sampled values is finite: no percentiles or statistics",
            sampled=int(sample.size),
        )
    return values
