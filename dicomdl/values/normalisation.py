"""Normalisation: z-scores, the range of a stack, clipping, and chains of maps.

All reduce to a ramp. A z-score is a ramp that goes on beyond its ends: subtract the mean, divide by
the standard deviation. A chain of ramps is one ramp with a smallest and a largest result, so that
NumPy, torch and the device path compute it in one step.
"""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np

from dicomdl.arrays import Values
from dicomdl.errors import IntensityError, UsageError
from dicomdl.values._floats import store_floats
from dicomdl.values.foreground import otsu
from dicomdl.values.formulas import Formula, FormulaMap, Ramp, Same, composed
from dicomdl.values.sampled import SampledMap, finite_of
from dicomdl.values.windows import Limits, sampled_limits

Mask = Literal["foreground"]
# Rounding of an end of a ramp to float32, as a part of its width, that does not matter.
_ROUNDING: Final = 1e-6


@dataclass(frozen=True, slots=True)
class Line(FormulaMap):
    """The map of a known ramp: of a z-score with its statistics, or of a chain."""

    ramp: Ramp

    @property
    def formula(self) -> Formula:
        """The ramp."""
        return self.ramp


@dataclass(frozen=True, slots=True)
class Clip(FormulaMap):
    """Values below `lower` become `lower`, values above `upper` become `upper`; units stay.

    Parameters
    ----------
    lower, upper
        ``lower < upper``, in the units of the values; one of them may be infinite.

    Raises
    ------
    IntensityError
        A limit is not a number, or `lower` is not below `upper`; attributes `lower`, `upper`.

    Examples
    --------
    >>> import numpy as np
    >>> import dicomdl
    >>> dicomdl.Clip(-1000, 1000)(np.array([-2000, 40, 3000], np.int16))
    array([-1000.,    40.,  1000.], dtype=float32)

    A tuple of maps is a chain: here, a z-score of clipped values.

    >>> option = (dicomdl.Clip(-1000, 1000), dicomdl.ZScore())
    """

    lower: float = -math.inf
    upper: float = math.inf

    def __post_init__(self) -> None:
        store_floats(self, "lower", "upper")
        is_endless = math.isinf(self.lower) and math.isinf(self.upper)
        if is_endless or not self.lower < self.upper:
            message = f"clip to {self.lower} and {self.upper}: expected two numbers, the lower one"
            message += " first, of which one may be infinite"
            raise IntensityError(message, lower=self.lower, upper=self.upper)

    @property
    def formula(self) -> Formula:
        """The ramp that leaves values as they are between its ends."""
        return Ramp(0.0, 1.0, low=self.lower, high=self.upper)


@dataclass(frozen=True, slots=True)
class ZScore(SampledMap):
    """``(values - mean) / standard deviation`` of a stack's values.

    Mean and standard deviation belong to the stack, or to all stacks of a group, and come from the
    same fixed sample as the limits of `Percentile`, without padding. They are computed once and
    cached, so that frame, volume and patch map a value identically. Padding becomes the smallest
    sampled value. A constant stack becomes zeros.

    Parameters
    ----------
    mask
        The voxels of the statistics: None for all, "foreground" for those of the body. All voxels
        are mapped in either case. Without two different values in the foreground, all count.
    above
        For "foreground", the value above which voxels count, in units of the stack's values before
        any map. By default -500 for values in HU, otherwise Otsu's threshold of the sample, as the
        sampler `Foreground` has it.

    Raises
    ------
    UsageError
        `mask` is neither, or `above` is given without it or is no finite number.

    Examples
    --------
    >>> import numpy as np
    >>> import dicomdl
    >>> dicomdl.ZScore()(np.array([1, 2, 3, 6], np.int16))
    array([-1.069045 , -0.5345225,  0.       ,  1.6035674], dtype=float32)
    """

    mask: Mask | None = None
    above: float | None = None

    def __post_init__(self) -> None:
        if self.mask not in (None, "foreground"):
            raise UsageError(f"mask={self.mask!r}: expected None or 'foreground'")
        if self.above is None:
            return
        store_floats(self, "above")
        if self.mask is None or not math.isfinite(self.above):
            raise UsageError(f"above={self.above}: expected a finite number, and mask='foreground'")

    @property
    def count(self) -> int:
        """3."""
        return 3

    def limits(self, sample: Values, original: Values | None = None) -> tuple[float, float, float]:
        """Return mean, standard deviation and the smallest value of a `sample`.

        They are rounded to float32, so that the map is computed in float32. The standard deviation
        is that of the values themselves (divided by n), 0 for constant values. The foreground is
        that of the `original` sample, before any map of a chain; by default that of `sample`.
        """
        everything = finite_of(sample)
        values = everything
        if self.mask is not None:
            decided = sample if original is None else original
            above = otsu(decided) if self.above is None else self.above
            inside = sample[(decided > above) & np.isfinite(sample)]
            # One value has no deviation, and would blank a stack that is not constant.
            if inside.size and inside.min() < inside.max():
                values = finite_of(inside)
        # The mean of equal floats may differ from them in the last place.
        is_constant = values.min() == values.max()
        with np.errstate(over="ignore"):
            spread = 0.0 if is_constant else values.std()
            numbers = np.array((values.mean(), spread, everything.min()), np.float64)
            mean, deviation, smallest = numbers.astype(np.float32).tolist()
        if not all(map(math.isfinite, (mean, deviation, smallest))):
            raise IntensityError(
                f"the statistics of {sample.size} sampled values exceed float32",
                sampled=int(sample.size),
            )
        return mean, deviation, smallest

    def known(self, limits: tuple[float, ...]) -> Line:
        """Return the map for `limits`: mean, standard deviation and smallest value."""
        mean, deviation, smallest = limits
        if deviation == 0:
            return Line(Ramp(mean, 0.0, low=0.0, high=0.0))
        return Line(Ramp(mean, deviation, clip=False, bottom=smallest))


@dataclass(frozen=True, slots=True)
class MinMax(SampledMap):
    """Linear map of the smallest and the largest value of a stack onto [0, 1].

    They are those of the fixed sample of `Percentile`, of a stack or of all stacks of a group,
    without padding. A constant stack becomes zeros.

    Parameters
    ----------
    clip
        Whether values beyond those of the sample become 0 and 1, or continue along the line.

    Examples
    --------
    >>> import numpy as np
    >>> import dicomdl
    >>> dicomdl.MinMax()(np.array([10, 20, 30], np.int16))
    array([0. , 0.5, 1. ], dtype=float32)
    """

    clip: bool = True

    @property
    def count(self) -> int:
        """2."""
        return 2

    def limits(self, sample: Values, original: Values | None = None) -> tuple[float, float]:
        """Return the smallest and the largest finite value of `sample`; `original` is ignored."""
        del original
        values = finite_of(sample)
        return float(np.float32(values.min())), float(np.float32(values.max()))

    def known(self, limits: tuple[float, ...]) -> Limits:
        """Return the map between known `limits`."""
        lower, upper = limits
        return sampled_limits(lower, upper, clip=self.clip)


@dataclass(frozen=True, slots=True)
class Chain(SampledMap):
    """Maps in turn, of which some need the sample: each takes the results of those before it."""

    parts: tuple[FormulaMap | SampledMap, ...]

    @property
    def count(self) -> int:
        """The number of limits of all parts, and the smallest value of the sample."""
        return 1 + sum(part.count for part in self.parts if isinstance(part, SampledMap))

    def limits(self, sample: Values, original: Values | None = None) -> tuple[float, ...]:
        """Return the limits of each part, and the smallest value of the sample."""
        original = sample if original is None else original
        limits: list[float] = []
        for part in self.parts:
            if isinstance(part, SampledMap):
                own = part.limits(sample, original)
                limits += own
                part = part.known(own)
            sample = part(sample)
        return (*limits, float(np.float32(finite_of(original).min())))

    def known(self, limits: tuple[float, ...]) -> FormulaMap:
        """Return the one map of all parts for known limits."""
        known: list[FormulaMap] = []
        start = 0
        for part in self.parts:
            if isinstance(part, SampledMap):
                known.append(part.known(limits[start : start + part.count]))
                start += part.count
            else:
                known.append(part)
        joined = joined_map(known)
        if isinstance(joined, Line):
            return Line(dataclasses.replace(joined.ramp, bottom=limits[-1]))
        return joined


def chained(maps: Sequence[Any]) -> FormulaMap | SampledMap:
    """Return one map for several in turn.

    Raises
    ------
    UsageError
        A map is a function, or two of them do not make one formula.
    """
    parts: list[FormulaMap | SampledMap] = []
    for part in maps:
        if isinstance(part, Chain):
            parts += part.parts
        elif isinstance(part, FormulaMap | SampledMap):
            parts.append(part)
        else:
            raise UsageError(
                "a chain holds a function: expected windows, Limits, Clip, Percentile, MinMax or "
                "ZScore; call the others in the function"
            )
    if len(parts) == 1:
        return parts[0]
    # Whether the forms compose does not depend on the numbers.
    joined = joined_map([part if isinstance(part, FormulaMap) else Limits(0, 1) for part in parts])
    return Chain(tuple(parts)) if any(isinstance(p, SampledMap) for p in parts) else joined


def joined_map(maps: Sequence[FormulaMap]) -> FormulaMap:
    """Return one map for several with formulas, in turn.

    Raises
    ------
    UsageError
        A sigmoid or a table is among others.
    """
    maps = [each for each in maps if not isinstance(each.formula, Same)] or list(maps[:1])
    if len(maps) == 1:
        return maps[0]
    formula: Formula | None = Same()
    for each in maps:
        formula = None if formula is None else composed(formula, each.formula)
    if not isinstance(formula, Ramp):
        raise UsageError(
            "a SIGMOID window or a VOI LUT does not chain with other maps: expected linear ones"
        )
    return Line(_in_float32(formula))


def _in_float32(ramp: Ramp) -> Ramp:
    """Return a ramp whose ends are rounded to float32, if that changes no result visibly.

    It is then computed in float32.
    """
    lower, width = (float(np.float32(end)) for end in (ramp.lower, ramp.width))
    if not (0 < width < math.inf and abs(lower - ramp.lower) <= _ROUNDING * width):
        return ramp
    return dataclasses.replace(ramp, lower=lower, width=width)
