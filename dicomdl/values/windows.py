"""Windows and other maps from modality values to network values: limits, tables, percentiles.

Each is a frozen value that reduces to one of the four formulas. A `Percentile` does so when the
limits of its stack are known.
"""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, Final, Literal, Protocol

import numpy as np

from dicomdl.arrays import Values
from dicomdl.errors import IntensityError
from dicomdl.headers.frame import Frame
from dicomdl.values._floats import store_floats
from dicomdl.values._lookup import LookupTable
from dicomdl.values._lookup_reading import voi_lut, voi_lut_count
from dicomdl.values.formulas import Formula, FormulaMap, Ramp, Same, Sigmoid, Table
from dicomdl.values.sampled import SampledMap, finite_of

VoiFunction = Literal["LINEAR", "LINEAR_EXACT", "SIGMOID"]
# The height of a step above a sampled constant, as a fraction of it: 8 times the error of float32.
_STEP_ABOVE: Final = 2.0**-20
_FUNCTIONS: Final = ("LINEAR", "LINEAR_EXACT", "SIGMOID")


class IntensityMap(Protocol):
    """An elementwise map from modality values to network values.

    Any callable qualifies that takes an array and returns one of the same shape.
    """

    def __call__(self, values: Values, /) -> Values:
        """Return network values; the caller converts them to float32."""


@dataclass(frozen=True, slots=True)
class Identity(FormulaMap):
    """Modality values unchanged, as float32."""

    @property
    def formula(self) -> Formula:
        """`Same`."""
        return Same()


@dataclass(frozen=True, slots=True)
class Limits(FormulaMap):
    """Linear map of [lower, upper] onto [0, 1].

    Equal limits are a step: values above them become 1, the others 0, so a constant image becomes
    zeros and not NaN.

    Parameters
    ----------
    lower, upper
        Finite, in modality units, ``lower <= upper``.
    clip
        Whether values outside the limits become 0 and 1, or continue along the line.

    Raises
    ------
    IntensityError
        A limit is not finite, or `lower` is above `upper`; attributes `lower`, `upper`.
    """

    lower: float
    upper: float
    clip: bool = True

    def __post_init__(self) -> None:
        store_floats(self, "lower", "upper")
        if not (
            math.isfinite(self.lower) and math.isfinite(self.upper) and self.lower <= self.upper
        ):
            message = f"limits {self.lower} and {self.upper}"
            message += ": expected finite numbers, the lower one first"
            raise IntensityError(message, lower=self.lower, upper=self.upper)

    @property
    def formula(self) -> Formula:
        """The ramp from `lower` to `upper`."""
        return Ramp(self.lower, self.upper - self.lower, self.clip)


def sampled_limits(lower: float, upper: float, *, clip: bool) -> Limits:
    """Return the map between two limits that a sample of values gave.

    The step of equal limits lies a little above them: a constant image that was interpolated
    differs from its constant by the rounding of float32, which must not become 1.
    """
    if lower == upper:
        lower = upper = float(np.float32(lower + abs(lower) * _STEP_ABOVE))
    return Limits(lower, upper, clip)


@dataclass(frozen=True, slots=True)
class Window(FormulaMap):
    """Map of a window center and width onto [0, 1], by one of the three VOI LUT functions.

    Parameters
    ----------
    center, width
        In modality units. The width is at least 1 for LINEAR, above 0 for the others.
    function
        LINEAR_EXACT maps [c - w/2, c + w/2] onto [0, 1]. LINEAR, the default of files, maps
        [c - 0.5 - (w-1)/2, c - 0.5 + (w-1)/2], and is a threshold at c - 0.5 for width 1. SIGMOID
        is 1 / (1 + exp(-4 (x - c) / w)).
    name
        A name for people; windows that differ only in it are equal.

    Raises
    ------
    IntensityError
        A value is not finite, the width is too small (attributes `center`, `width`), or the
        function is unknown.

    References
    ----------
    PS3.3 C.11.2.1.2 and C.11.2.1.3.

    Examples
    --------
    >>> import numpy as np
    >>> import dicomdl
    >>> window = dicomdl.Window(center=40, width=400)
    >>> window.limits
    (-160.0, 240.0)
    >>> window(np.array([-1000, -160, 40, 240], np.int16))
    array([0. , 0. , 0.5, 1. ], dtype=float32)
    """

    center: float
    width: float
    function: VoiFunction = "LINEAR_EXACT"
    name: str = dataclasses.field(default="", compare=False)

    def __post_init__(self) -> None:
        store_floats(self, "center", "width")
        if self.function not in _FUNCTIONS:
            raise IntensityError(
                f"unknown VOI LUT function: expected one of {', '.join(_FUNCTIONS)}"
            )
        enough = self.width >= 1 if self.function == "LINEAR" else self.width > 0
        if not (enough and math.isfinite(self.center) and math.isfinite(self.width)):
            needed = "at least 1" if self.function == "LINEAR" else "above 0"
            message = f"window center {self.center}, width {self.width}: expected finite numbers"
            message += f" and, for {self.function}, a width {needed}"
            raise IntensityError(message, center=self.center, width=self.width)

    @classmethod
    def count(cls, frame: Frame) -> int:
        """Return the number of windows in the file of `frame`, usable or not."""
        return min(len(frame.window_center or ()), len(frame.window_width or ()))

    @classmethod
    def from_frame(cls, frame: Frame, which: int = 0) -> "Window":
        """Return a window of the file.

        Its VOI LUT Function is that of the file, LINEAR when absent (PS3.3 C.11.2.1.3).

        Parameters
        ----------
        frame
            A frame, from `Index.frame` or `Stack.frame`.
        which
            The number of the window, from 0.

        Returns
        -------
        Window
            The window, with the name "file".

        Raises
        ------
        IntensityError
            There is no such window (attribute `windows`, the number that there are), or its values
            are unusable.
        """
        centers, widths = frame.window_center or (), frame.window_width or ()
        windows = cls.count(frame)
        if len(centers) != len(widths):
            message = f"{len(centers)} WindowCenter (0028,1050)"
            message += f" but {len(widths)} WindowWidth (0028,1051) values: expected pairs"
            raise IntensityError(message, windows=windows)
        if not 0 <= which < windows:
            raise IntensityError(
                f"window {which} asked for, but the file has {windows}: give a preset or a Window",
                windows=windows,
            )
        function: Any = frame.voi_lut_function.strip().upper() or "LINEAR"
        return cls(centers[which], widths[which], function, "file")

    @property
    def limits(self) -> tuple[float, float]:
        """The values that become 0 and 1, in modality units.

        SIGMOID reaches neither; these are the limits of its tangent at the center. LINEAR: PS3.3
        C.11.2.1.2.1. LINEAR_EXACT: C.11.2.1.3.2.
        """
        if self.function == "LINEAR":
            half = (self.width - 1) / 2
            return self.center - 0.5 - half, self.center - 0.5 + half
        return self.center - self.width / 2, self.center + self.width / 2

    @property
    def formula(self) -> Formula:
        """The sigmoid, or the ramp between `limits`, with a margin for their rounding."""
        if self.function == "SIGMOID":
            return Sigmoid(self.center, self.width)
        width = self.width - 1 if self.function == "LINEAR" else self.width
        return Ramp(self.limits[0], width, margin=1.0)


@dataclass(frozen=True, slots=True)
class VoiLut(FormulaMap):
    """Map by a VOI LUT of the file (PS3.3 C.11.2.1.1) onto [0, 1].

    Entries are divided by the largest number of the bits that they use. The standard's range is
    that of the descriptor's bits, but some devices declare 16 bits for tables that end at 4095,
    which would come out dark: an image cannot declare 12 (C.11.2.1.1: 8 or 16).

    Parameters
    ----------
    table
        A table of `voi_luts`.
    """

    table: LookupTable

    @classmethod
    def from_frame(cls, frame: Frame, which: int = 0) -> "VoiLut":
        """Return a table of the file, by its number from 0.

        Raises
        ------
        IntensityError
            There is no such table (attribute `tables`, the number that there are), or it is
            unusable.
        """
        if not frame.voi_lut_sequence:
            raise IntensityError(f"VOI LUT {which} asked for, but the file has 0", tables=0)
        return cls(voi_lut(frame.file, frame.frame_number, which))

    @classmethod
    def count(cls, frame: Frame) -> int:
        """Return the number of tables of the file, usable or not.

        Raises
        ------
        IntensityError
            The file cannot be read.
        """
        return voi_lut_count(frame.file, frame.frame_number) if frame.voi_lut_sequence else 0

    @property
    def scale(self) -> int:
        """The entry that becomes 1: a largest entry of 4095 or 4096 are both 12 bits."""
        largest = max(1, self.table.maximum)
        return max(largest, (1 << (largest - 1).bit_length()) - 1)

    @property
    def formula(self) -> Formula:
        """The entries of the table, divided by `scale`."""
        return Table(self.table, self.scale)


@dataclass(frozen=True, slots=True)
class Percentile(SampledMap):
    """Linear map onto [0, 1] between two percentiles of a stack's values.

    The limits belong to the stack, so that frame, volume and patch map a value identically. They
    are computed once from a fixed sample: the frames at ``sample_positions(n_frames)`` (at most 16,
    evenly spaced, with the first and the last), of these every `sample_stride`-th row and column
    (at most 2**20 values in all). ``with_limits(*limits(sample))`` is the resulting map. A direct
    call takes its argument as the sample.

    Parameters
    ----------
    lower, upper
        Percentiles, ``0 <= lower < upper <= 100``.
    clip
        As for `Limits`.

    Raises
    ------
    IntensityError
        The percentiles are out of range; attributes `lower`, `upper`.
    """

    lower: float = 0.5
    upper: float = 99.5
    clip: bool = True

    def __post_init__(self) -> None:
        store_floats(self, "lower", "upper")
        if not 0 <= self.lower < self.upper <= 100:
            message = (
                f"percentiles {self.lower} and {self.upper}: expected 0 <= lower < upper <= 100"
            )
            raise IntensityError(message, lower=self.lower, upper=self.upper)

    @property
    def count(self) -> int:
        """2."""
        return 2

    def limits(self, sample: Values, original: Values | None = None) -> tuple[float, float]:
        """Return the two percentiles (linear interpolation) of the finite values of `sample`.

        They are rounded to float32, so that the map is computed in float32. `original`, the sample
        before any map of a chain, is ignored.

        Raises
        ------
        IntensityError
            No value is finite; attribute `sampled`, the number of values.
        """
        del original
        values = finite_of(sample)
        lower, upper = np.percentile(values, (self.lower, self.upper)).astype(np.float32)
        return float(lower), float(upper)

    def with_limits(self, lower: float, upper: float) -> Limits:
        """Return the map between `lower` and `upper`."""
        return sampled_limits(lower, upper, clip=self.clip)

    def known(self, limits: tuple[float, ...]) -> Limits:
        """Return the map between known `limits`."""
        return self.with_limits(*limits)
