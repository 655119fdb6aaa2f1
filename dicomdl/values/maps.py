"""Maps from modality values to network values: windows, limits, tables, percentiles.

Each is a frozen value that reduces to one of the four formulas; a `Percentile` does so once the
limits of its stack are known.
"""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, Final, Literal, Protocol

import numpy as np

from dicomdl.arrays import Float32, Values
from dicomdl.errors import IntensityError
from dicomdl.headers.frame import Frame
from dicomdl.values._floats import store_floats
from dicomdl.values._lookup import LookupTable
from dicomdl.values._lookup_reading import voi_luts
from dicomdl.values.formulas import Formula, FormulaMap, Ramp, Same, Sigmoid, Table

VoiFunction = Literal["LINEAR", "LINEAR_EXACT", "SIGMOID"]
_FUNCTIONS: Final = ("LINEAR", "LINEAR_EXACT", "SIGMOID")


class IntensityMap(Protocol):
    """What maps modality values to network values, elementwise.

    Any callable, array in, array of the same shape out.
    """

    def __call__(self, values: Values, /) -> Values:
        """Network values; converted to float32 by the caller."""


@dataclass(frozen=True, slots=True)
class Identity(FormulaMap):
    """Modality values as they are, as float32."""

    @property
    def formula(self) -> Formula:
        """`Same`."""
        return Same()


@dataclass(frozen=True, slots=True)
class Limits(FormulaMap):
    """Linear map of [lower, upper] onto [0, 1].

    Equal limits are a step: values above them give 1, the others 0, so a constant image gives
    zeros, not NaN.

    Parameters
    ----------
    lower, upper
        Finite, in modality units, ``lower <= upper``; IntensityError otherwise.
    clip
        Whether values outside the limits become 0 and 1 or go on along the line.
    """

    lower: float
    upper: float
    clip: bool = True

    def __post_init__(self) -> None:
        store_floats(self, "lower", "upper")
        if not (
            math.isfinite(self.lower) and math.isfinite(self.upper) and self.lower <= self.upper
        ):
            message = f"limits {self.lower} and {self.upper}: expected finite numbers, the lower one first"
            raise IntensityError(message, lower=self.lower, upper=self.upper)

    @property
    def formula(self) -> Formula:
        """The ramp from `lower` to `upper`."""
        return Ramp(self.lower, self.upper - self.lower, self.clip)


@dataclass(frozen=True, slots=True)
class Window(FormulaMap):
    """Window center and width onto [0, 1], by one of the three VOI LUT functions of PS3.3 C.11.2.1.2 and C.11.2.1.3.

    Parameters
    ----------
    center, width
        In modality units. Width at least 1 for LINEAR, above 0 for the others.
    function
        LINEAR_EXACT maps [c - w/2, c + w/2] onto [0, 1]. LINEAR, what a file means unless it says otherwise, maps
        [c - 0.5 - (w-1)/2, c - 0.5 + (w-1)/2], and is a threshold at c - 0.5 for width 1. SIGMOID is 1 / (1 + exp(-4 (x - c) / w)).
    name
        For people; two windows that differ in it are equal.

    Raises
    ------
    IntensityError
        Not finite, or the width is too small; attributes `center`, `width`.
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
            message = f"window center {self.center}, width {self.width}: expected finite numbers and, for {self.function}, a width {needed}"
            raise IntensityError(message, center=self.center, width=self.width)

    @classmethod
    def from_frame(cls, frame: Frame, which: int = 0) -> "Window":
        """The file's own window number `which` (from 0), with its VOI LUT Function (LINEAR when absent, PS3.3 C.11.2.1.3).

        IntensityError when the frame has none (attribute `windows`, how many it has) or its values are unusable.
        """
        centers, widths = frame.window_center or (), frame.window_width or ()
        windows = min(len(centers), len(widths))
        if len(centers) != len(widths):
            message = f"{len(centers)} WindowCenter (0028,1050) but {len(widths)} WindowWidth (0028,1051) values: expected pairs"
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

        Of the tangent at the center for SIGMOID, which reaches neither.

        LINEAR: PS3.3 C.11.2.1.2.1. LINEAR_EXACT: C.11.2.1.3.2.
        """
        if self.function == "LINEAR":
            half = (self.width - 1) / 2
            return self.center - 0.5 - half, self.center - 0.5 + half
        return self.center - self.width / 2, self.center + self.width / 2

    @property
    def formula(self) -> Formula:
        """The sigmoid, or the ramp between `limits`, whose ends are computed and so rounded."""
        if self.function == "SIGMOID":
            return Sigmoid(self.center, self.width)
        width = self.width - 1 if self.function == "LINEAR" else self.width
        return Ramp(self.limits[0], width, margin=1.0)


@dataclass(frozen=True, slots=True)
class VoiLut(FormulaMap):
    """A VOI LUT of the file (PS3.3 C.11.2.1.1) onto [0, 1].

    Entries are divided by the largest number of as many bits as they use.

    Not of `table.bits`: some devices say 16 bits of tables that end at 4095.

    Parameters
    ----------
    table
        From `lookup.voi_luts`.
    """

    table: LookupTable

    @classmethod
    def from_frame(cls, frame: Frame, which: int = 0) -> "VoiLut":
        """The file's own table number `which`.

        IntensityError when there is none (attribute `tables`, how many it has).
        """
        tables = voi_luts(frame.file, frame.frame_number) if frame.voi_lut_sequence else ()
        if not 0 <= which < len(tables):
            raise IntensityError(
                f"VOI LUT {which} asked for, but the file has {len(tables)}", tables=len(tables)
            )
        return cls(tables[which])

    @property
    def scale(self) -> int:
        """The entry that becomes 1."""
        return max(1, (1 << self.table.maximum.bit_length()) - 1)

    @property
    def formula(self) -> Formula:
        """The table's entries by `scale`."""
        return Table(self.table, self.scale)


@dataclass(frozen=True, slots=True)
class Percentile:
    """Linear map onto [0, 1] between two percentiles of a stack's values.

    The limits belong to the stack, so that frame, volume and patch map a value identically. Whoever
    reads the stack computes them once: it reads the frames at `sample_positions(n_frames)` (at most
    16, evenly spaced, the first and the last among them), takes every `sample_stride`-th row and
    column of each (at most 2**20 values in all), and calls ``with_limits(*limits(sample))``. Called
    directly, it takes the array that it is given as its own sample.

    Parameters
    ----------
    lower, upper
        Percentiles, ``0 <= lower < upper <= 100``; IntensityError otherwise.
    clip
        As for `Limits`.
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

    def limits(self, sample: Values) -> tuple[float, float]:
        """The two percentiles (linear interpolation) of the finite values of `sample`, rounded to float32.

        IntensityError when no value is finite. Rounded, so that the map runs in float32.
        """
        # float64: np.percentile overflows inside int16
        values = np.asarray(sample, np.float64).ravel()
        if sample.dtype.kind == "f":
            values = values[np.isfinite(values)]
        if not values.size:
            raise IntensityError(
                f"none of {sample.size} sampled values is finite: no percentiles",
                sampled=int(sample.size),
            )
        lower, upper = np.percentile(values, (self.lower, self.upper)).astype(np.float32)
        return float(lower), float(upper)

    def with_limits(self, lower: float, upper: float) -> Limits:
        """The map, once the limits are known."""
        return Limits(lower, upper, self.clip)

    def __call__(self, values: Values, out: Float32 | None = None) -> Float32:
        """Network values of an array of any shape by its own percentiles, in a new array or `out`."""
        return self.with_limits(*self.limits(np.asarray(values)))(values, out)
