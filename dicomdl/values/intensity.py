"""Stored -> modality -> network values: rescale, windows, percentiles and what "auto" means, as frozen callables.

The rule to know: modality values are int16 when every slope and intercept is integral and the actual values fit,
else int32, else float32 computed in float64 and rounded once; nothing wraps. Network values are always float32.
A linear map runs in float32 as subtract, divide, clip: both roundings are relative, so the result is within 2 ulp of
the exact formula, which scale-and-shift is not (its error grows with center / width). Where the lower end or the
input is not exactly a float32 it runs in float64, in blocks that stay in the cache.

Options are values: they compare, print, pickle and are the cache key. Maps never write to their argument.
"""

import dataclasses
import difflib
import functools
import importlib.resources
import math
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, Literal, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from dicomdl.errors import IntensityError, UsageError
from dicomdl.headers.frame import Frame
from dicomdl.headers.reader import content_of
from dicomdl.pixels.read import stored_range
from dicomdl.values.lookup import LookupTable, blocks, modality_lut, voi_luts
from dicomdl.values.suv import SUV

Values: TypeAlias = NDArray[Any]
Float32: TypeAlias = NDArray[np.float32]
VoiFunction = Literal["LINEAR", "LINEAR_EXACT", "SIGMOID"]
Range: TypeAlias = tuple[int, int]

SAMPLED_FRAMES: Final = 16
SAMPLED_VALUES: Final = 1 << 20

_EXACT_IN_FLOAT32: Final = frozenset("?bBhHef")  # dtype.char of what converts to float32 without rounding
_FUNCTIONS: Final = ("LINEAR", "LINEAR_EXACT", "SIGMOID")


# --- stored -> modality -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Rescale:
    """Stored values to modality values: ``stored * slope + intercept`` (PS3.3 C.11.1.1).

    Parameters
    ----------
    slope, intercept
        Rescale Slope (0028,1053), finite and not 0, and Rescale Intercept (0028,1052), finite.

    Raises
    ------
    IntensityError
        Slope 0 or a value that is not finite; attributes `slope`, `intercept`.
    """

    slope: float = 1.0
    intercept: float = 0.0

    def __post_init__(self) -> None:
        _store_floats(self, "slope", "intercept")
        if self.slope == 0 or not math.isfinite(self.slope):
            message = f"RescaleSlope (0028,1053) is {self.slope}; expected a finite number other than 0"
            raise IntensityError(message, slope=self.slope, intercept=self.intercept)
        if not math.isfinite(self.intercept):
            message = f"RescaleIntercept (0028,1052) is {self.intercept}; expected a finite number"
            raise IntensityError(message, slope=self.slope, intercept=self.intercept)

    @classmethod
    def from_frame(cls, frame: Frame) -> "Rescale":
        """The rescale of one frame; absent attributes are the identity.

        RTDOSE scales by Dose Grid Scaling (3004,000E) instead (PS3.3 C.8.8.3). A Modality LUT Sequence (0028,3000)
        excludes a rescale (PS3.3 C.11.1) and is not linear: IntensityError. `modality` applies it.
        """
        if frame.dose_grid_scaling is not None:
            if frame.dose_grid_scaling == 0 or not math.isfinite(frame.dose_grid_scaling):
                message = f"DoseGridScaling (3004,000E) is {frame.dose_grid_scaling}; expected a finite number other than 0"
                raise IntensityError(message, dose_grid_scaling=frame.dose_grid_scaling)
            return cls(frame.dose_grid_scaling, 0.0)
        if has_modality_lut(frame):
            raise IntensityError("the frame has a Modality LUT Sequence (0028,3000), which is no slope and intercept")
        slope = 1.0 if frame.rescale_slope is None else frame.rescale_slope
        return cls(slope, 0.0 if frame.rescale_intercept is None else frame.rescale_intercept)

    @property
    def is_integral(self) -> bool:
        """Whether integers stay integers."""
        return self.slope.is_integer() and self.intercept.is_integer()

    @property
    def is_identity(self) -> bool:
        """Whether modality values are the stored values."""
        return self.slope == 1 and self.intercept == 0

    def __call__(self, stored: Values) -> Values:
        """Modality values of one array, in a new array of the same shape.

        Parameters
        ----------
        stored
            Any shape, any integer or float dtype.

        Returns
        -------
        int16 or int32, the first that holds the actual values, when slope, intercept and stored values are integers;
        float32, computed in float64 and rounded once, otherwise and beyond int32.
        """
        dtype = np.dtype(np.float32)
        actual = None
        if self.is_integral and stored.dtype.kind in "biu":
            actual = _actual_range(stored)
            dtype = modality_dtype([(self.slope, self.intercept)], *actual)
        out = np.empty(stored.shape, dtype)
        apply_rescale(stored, self.slope, self.intercept, out, stored_range=actual)
        return out


def has_modality_lut(frame: Frame) -> bool:
    """Whether a Modality LUT Sequence (0028,3000) makes modality values; where both are there against the rule, the rescale does."""
    return frame.modality_lut_sequence and frame.rescale_slope is None and frame.rescale_intercept is None


def modality_dtype(rescales: Iterable[tuple[float, float]], stored_min: int, stored_max: int) -> np.dtype[Any]:
    """The one dtype that holds the modality values of a whole stack.

    Parameters
    ----------
    rescales
        (slope, intercept) of every frame; equal ones may be given once.
    stored_min, stored_max
        Smallest and largest stored value over all frames: the actual ones, or what Bits Stored allows for a
        dtype that is safe without looking.

    Returns
    -------
    int16 if everything is integral and fits, else int32 if that fits, else float32.
    """
    low, high = 0, 0
    for slope, intercept in rescales:
        rescale = Rescale(slope, intercept)
        if not rescale.is_integral:
            return np.dtype(np.float32)
        ends = _integral_ends(rescale, (stored_min, stored_max))
        low, high = min(low, ends[0]), max(high, ends[1])
    for candidate in (np.int16, np.int32):
        if _fits((low, high), np.dtype(candidate)):
            return np.dtype(candidate)
    return np.dtype(np.float32)


def apply_rescale(stored: Values, slope: float, intercept: float, out: Values, stored_range: Range | None = None) -> None:
    """Fill `out` with the modality values of one slice; safe to call from threads on different slices.

    The values are looked at (one pass for the minimum, one for the maximum) only when neither `stored_range` nor the
    dtype of `stored` proves that they fit `out`. In place is fine: `out` may be the memory of `stored` seen as another
    dtype of the same size (uint16 as int16).

    Parameters
    ----------
    stored
        Native stored values, any shape, any integer or float dtype.
    slope, intercept
        As for `Rescale`, which checks them.
    out
        int16, int32 or float32 of the same shape; the only argument written to.
    stored_range
        Bounds that the caller vouches for, such as (0, 4095) for 12 unsigned bits stored.

    Raises
    ------
    IntensityError
        `out` is an integer array and a value would not fit (attributes `minimum`, `maximum`, `dtype`), or slope or
        intercept is not integral; or `out` is float32 and a value is beyond its range. `out` of integers is untouched then.
    """
    rescale = Rescale(slope, intercept)
    if out.shape != stored.shape or out.dtype not in (np.int16, np.int32, np.float32):
        raise UsageError(f"out is {out.dtype} {out.shape}; expected int16, int32 or float32 of shape {stored.shape}")
    if out.dtype == np.float32:
        _rescale_to_float(stored, rescale, out)
        return
    if not rescale.is_integral or stored.dtype.kind not in "biu":
        message = f"slope {rescale.slope} and intercept {rescale.intercept} on {stored.dtype} do not give integers: ask for float32"
        raise IntensityError(message, slope=rescale.slope, intercept=rescale.intercept, dtype=str(out.dtype))
    _check_fit(stored, rescale, out.dtype, stored_range)
    _rescale_to_integer(stored, rescale, out)


def _check_fit(stored: Values, rescale: Rescale, dtype: np.dtype[Any], stored_range: Range | None) -> None:
    if _fits(_integral_ends(rescale, stored_range or _dtype_range(stored.dtype)), dtype):
        return
    low, high = _integral_ends(rescale, _actual_range(stored))
    if not _fits((low, high), dtype):
        message = f"modality values {low} to {high} do not fit {dtype}: ask for a wider dtype"
        raise IntensityError(message, minimum=low, maximum=high, dtype=str(dtype))


def _rescale_to_integer(stored: Values, rescale: Rescale, out: Values) -> None:
    # Integer arithmetic is modulo 2**bits, and the true results are known to fit: so is every step, whatever it passes through.
    source = stored
    if stored.dtype.itemsize == out.dtype.itemsize and stored.dtype.isnative:
        source = stored.view(out.dtype)  # no buffered cast, and no temporary when out is the same memory
    slope, intercept = (_modulo(value, out.dtype) for value in (rescale.slope, rescale.intercept))
    if rescale.slope != 1:
        np.multiply(source, slope, out=out, dtype=out.dtype, casting="unsafe")
        source = out
    if rescale.intercept != 0:
        np.add(source, intercept, out=out, dtype=out.dtype, casting="unsafe")
    elif source is not out:
        np.copyto(out, source, casting="unsafe")


def _rescale_to_float(stored: Values, rescale: Rescale, out: Values) -> None:
    try:
        with np.errstate(over="raise"):
            for source, target in blocks(stored, out):
                values = np.multiply(source, rescale.slope, dtype=np.float64)
                values += rescale.intercept
                np.copyto(target, values, casting="same_kind")
    except FloatingPointError:
        message = f"slope {rescale.slope} and intercept {rescale.intercept} give values beyond the range of float32"
        raise IntensityError(message, slope=rescale.slope, intercept=rescale.intercept) from None


def _integral_ends(rescale: Rescale, stored_range: Range) -> Range:
    # Python integers: exact whatever the size.
    ends = [int(value) * int(rescale.slope) + int(rescale.intercept) for value in stored_range]
    return min(ends), max(ends)


def _fits(ends: Range, dtype: np.dtype[Any]) -> bool:
    limits = np.iinfo(dtype)
    return int(limits.min) <= ends[0] and ends[1] <= int(limits.max)


def _dtype_range(dtype: np.dtype[Any]) -> Range:
    if dtype.kind == "b":
        return 0, 1
    limits = np.iinfo(dtype)
    return int(limits.min), int(limits.max)


def _actual_range(stored: Values) -> Range:
    return (int(stored.min()), int(stored.max())) if stored.size else (0, 0)


def _modulo(value: float, dtype: np.dtype[Any]) -> Any:
    bits = 8 * dtype.itemsize
    half = 1 << (bits - 1)
    return dtype.type((int(value) + half) % (1 << bits) - half)


# --- modality -> network ------------------------------------------------------------------------------------------


class IntensityMap(Protocol):
    """What maps modality values to network values, elementwise: any callable, array in, array of the same shape out."""

    def __call__(self, values: Values, /) -> Values:
        """Network values; converted to float32 by the caller."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Modality values as they are, as float32."""

    def __call__(self, values: Values, out: Float32 | None = None) -> Float32:
        """`values` rounded once to float32, in a new array or `out` of the same shape."""
        values, out = _source_and_target(values, out)
        np.copyto(out, values, casting="unsafe")
        return out


@dataclass(frozen=True, slots=True)
class Limits:
    """Linear map of [lower, upper] onto [0, 1].

    Equal limits are a step: values above them give 1, the others 0, so a constant image gives zeros, not NaN.

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
        _store_floats(self, "lower", "upper")
        if not (math.isfinite(self.lower) and math.isfinite(self.upper) and self.lower <= self.upper):
            message = f"limits {self.lower} and {self.upper}: expected finite numbers, the lower one first"
            raise IntensityError(message, lower=self.lower, upper=self.upper)

    def __call__(self, values: Values, out: Float32 | None = None) -> Float32:
        """Network values of an array of any shape, in a new array or `out`; NaN stays NaN."""
        values, out = _source_and_target(values, out)
        _ramp(values, self.lower, self.upper - self.lower, self.clip, out)
        return out


@dataclass(frozen=True, slots=True)
class Window:
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
        _store_floats(self, "center", "width")
        if self.function not in _FUNCTIONS:
            raise IntensityError(f"unknown VOI LUT function: expected one of {', '.join(_FUNCTIONS)}")
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
            raise IntensityError(f"window {which} asked for, but the file has {windows}: give a preset or a Window", windows=windows)
        function: Any = frame.voi_lut_function.strip().upper() or "LINEAR"
        return cls(centers[which], widths[which], function, "file")

    @property
    def limits(self) -> tuple[float, float]:
        """The values that become 0 and 1, in modality units; of the tangent at the center for SIGMOID, which reaches neither.

        LINEAR: PS3.3 C.11.2.1.2.1. LINEAR_EXACT: C.11.2.1.3.2.
        """
        if self.function == "LINEAR":
            half = (self.width - 1) / 2
            return self.center - 0.5 - half, self.center - 0.5 + half
        return self.center - self.width / 2, self.center + self.width / 2

    def __call__(self, values: Values, out: Float32 | None = None) -> Float32:
        """Network values of an array of any shape, in a new array or `out`; NaN stays NaN."""
        values, out = _source_and_target(values, out)
        if self.function == "SIGMOID":
            _sigmoid(values, self.center, self.width, out)
        else:
            width = self.width - 1 if self.function == "LINEAR" else self.width
            _ramp(values, self.limits[0], width, True, out)
        return out


@dataclass(frozen=True, slots=True)
class VoiLut:
    """A VOI LUT of the file (PS3.3 C.11.2.1.1) onto [0, 1]: entries are divided by the largest number of as many bits as they use.

    Not of `table.bits`: some devices say 16 bits of tables that end at 4095.

    Parameters
    ----------
    table
        From `lookup.voi_luts`.
    """

    table: LookupTable

    @classmethod
    def from_frame(cls, frame: Frame, which: int = 0) -> "VoiLut":
        """The file's own table number `which`; IntensityError when there is none (attribute `tables`, how many it has)."""
        tables = voi_luts(frame.path, frame.frame_number) if frame.voi_lut_sequence else ()
        if not 0 <= which < len(tables):
            raise IntensityError(f"VOI LUT {which} asked for, but the file has {len(tables)}", tables=len(tables))
        return cls(tables[which])

    @property
    def scale(self) -> int:
        """The entry that becomes 1."""
        return max(1, (1 << self.table.maximum.bit_length()) - 1)

    def __call__(self, values: Values, out: Float32 | None = None) -> Float32:
        """Network values of an array of any shape, in a new array or `out`; NaN gets the first entry."""
        values, out = _source_and_target(values, out)
        np.divide(self.table(values), np.float32(self.scale), out=out, dtype=np.float32)
        return out


@dataclass(frozen=True, slots=True)
class Percentile:
    """Linear map onto [0, 1] between two percentiles of a stack's values.

    The limits belong to the stack, so that frame, volume and patch map a value identically. Whoever reads the stack
    computes them once: it reads the frames at `sample_positions(n_frames)` (at most 16, evenly spaced, the first and the
    last among them), takes every `sample_stride`-th row and column of each (at most 2**20 values in all), and
    calls ``with_limits(*limits(sample))``. Called directly, it takes the array that it is given as its own sample.

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
        _store_floats(self, "lower", "upper")
        if not 0 <= self.lower < self.upper <= 100:
            message = f"percentiles {self.lower} and {self.upper}: expected 0 <= lower < upper <= 100"
            raise IntensityError(message, lower=self.lower, upper=self.upper)

    def limits(self, sample: Values) -> tuple[float, float]:
        """The two percentiles (linear interpolation) of the finite values of `sample`, rounded to float32.

        IntensityError when no value is finite. Rounded, so that the map runs in float32.
        """
        values = np.asarray(sample, np.float64).ravel()  # float64: np.percentile overflows inside int16
        if sample.dtype.kind == "f":
            values = values[np.isfinite(values)]
        if not values.size:
            raise IntensityError(f"none of {sample.size} sampled values is finite: no percentiles", sampled=int(sample.size))
        lower, upper = np.percentile(values, (self.lower, self.upper)).astype(np.float32)
        return float(lower), float(upper)

    def with_limits(self, lower: float, upper: float) -> Limits:
        """The map, once the limits are known."""
        return Limits(lower, upper, self.clip)

    def __call__(self, values: Values, out: Float32 | None = None) -> Float32:
        """Network values of an array of any shape by its own percentiles, in a new array or `out`."""
        return self.with_limits(*self.limits(np.asarray(values)))(values, out)


def sample_positions(n_frames: int) -> NDArray[np.intp]:
    """Which frames of a stack the sample for `Percentile` takes: ascending, at most 16, evenly spaced, first and last among them."""
    if n_frames <= SAMPLED_FRAMES:
        return np.arange(n_frames, dtype=np.intp)
    gaps = SAMPLED_FRAMES - 1
    return (np.arange(SAMPLED_FRAMES, dtype=np.intp) * (n_frames - 1) + gaps // 2) // gaps


def sample_stride(rows: int, columns: int, n_sampled: int) -> int:
    """The smallest step, the same for rows and columns, with which `n_sampled` frames give at most 2**20 values."""
    stride = max(1, math.isqrt(n_sampled * rows * columns // SAMPLED_VALUES))
    while stride < max(rows, columns) and n_sampled * -(-rows // stride) * -(-columns // stride) > SAMPLED_VALUES:
        stride += 1
    return stride


def _ramp(values: Values, lower: float, width: float, clip: bool, out: Float32) -> None:
    """``(values - lower) / width`` into `out`; a step at `lower` when `width` is 0."""
    if clip and _are_within(values.dtype, lower, width):
        _integer_ramp(values, int(lower), int(width), out)
        return
    in_float32 = values.dtype.char in _EXACT_IN_FLOAT32 and values.dtype.isnative and _is_float32(lower) and np.float32(width) > 0
    for source, target in blocks(values, out):
        if width == 0:
            np.copyto(target, np.heaviside(source.astype(np.float64) - lower, 0.0), casting="same_kind")
        elif in_float32:
            with np.errstate(over="ignore"):
                np.subtract(source, np.float32(lower), out=target, dtype=np.float32)
                np.divide(target, np.float32(width), out=target)
                if clip:
                    np.clip(target, 0, 1, out=target)
        else:
            with np.errstate(over="ignore"):
                exact = source.astype(np.float64)
                exact -= lower
                exact /= width
                if clip:
                    np.clip(exact, 0, 1, out=exact)
                np.copyto(target, exact, casting="same_kind")


def _are_within(dtype: np.dtype[Any], lower: float, width: float) -> bool:
    """Whether a dtype has both ends of a ramp, and float32 all differences between them."""
    if dtype.kind not in "iu" or not dtype.isnative or not (lower.is_integer() and width.is_integer() and 0 < width <= 1 << 24):
        return False
    limits = np.iinfo(dtype)
    return int(limits.min) <= lower and lower + width <= int(limits.max)


def _integer_ramp(values: Values, lower: int, width: int, out: Float32) -> None:
    """`_ramp` where integers are clipped and shifted, before they become float32: the same results in half the time."""
    low, high = values.dtype.type(lower), values.dtype.type(lower + width)
    for source, target in blocks(values, out):
        shifted = np.clip(source, low, high, out=np.empty(source.shape, source.dtype))  # an array also without dimensions
        np.subtract(shifted, low, out=shifted)  # wraps, and is right without its sign
        np.divide(shifted.view(f"u{shifted.itemsize}"), np.float32(width), out=target, dtype=np.float32)


def _sigmoid(values: Values, center: float, width: float, out: Float32) -> None:
    """PS3.3 C.11.2.1.3.1 onto [0, 1]."""
    for source, target in blocks(values, out):
        with np.errstate(over="ignore", under="ignore"):  # exp runs over to inf where the result is 0
            steepness = (source.astype(np.float64) - center) * (-4 / width)
            np.copyto(target, 1 / (1 + np.exp(steepness)), casting="same_kind")


def _source_and_target(values: Values, out: Float32 | None) -> tuple[Values, Float32]:
    values = np.asarray(values)
    if out is None:
        return values, np.empty(values.shape, np.float32)
    if out.dtype != np.float32 or out.shape != values.shape:
        raise UsageError(f"out is {out.dtype} {out.shape}; expected float32 of shape {values.shape}")
    return values, out


def _is_float32(value: float) -> bool:
    with np.errstate(over="ignore"):
        return float(np.float32(value)) == value


def _store_floats(option: Any, *names: str) -> None:
    # int, numpy scalars and pydicom's DSfloat become float, so that equal options print and hash alike.
    for name in names:
        object.__setattr__(option, name, float(getattr(option, name)))


# --- presets ------------------------------------------------------------------------------------------------------


@functools.cache
def _presets() -> dict[str, Window]:
    text = importlib.resources.files("dicomdl.values").joinpath("presets.toml").read_text("utf-8")
    return {
        f"{modality}.{word}": Window(entry["center"], entry["width"], name=f"{modality}.{word}")
        for modality, words in tomllib.loads(text).items()
        for word, entry in words.items()
    }


def presets() -> dict[str, Window]:
    """Every named window; presets.toml says where each comes from. A new dict each time."""
    return dict(_presets())


def preset(name: str) -> Window:
    """The window called `name`, such as ``"ct.lung"``; UsageError with near names (attribute `near`) when there is none."""
    known = _presets()
    if name in known:
        return known[name]
    near = difflib.get_close_matches(name, known, n=3)
    near += [full for full in known if full.partition(".")[2] == name and full not in near]
    hint = f"did you mean {', '.join(near)}?" if near else f"there are {', '.join(known)}"
    raise UsageError(f"no window preset {name!r}: {hint}", near=tuple(near))


# --- what the values are ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RealWorld:
    """The wish for real-world values: stored values by the file's own Real World Value Mapping (PS3.3 C.7.6.16.2.11).

    Parameters
    ----------
    which
        A number from 0, units ("mm2/s"), or a label, as for `lookup.select_real_world_map`.
    """

    which: int | str = 0


Quantity: TypeAlias = Literal["modality", "network"] | SUV | RealWorld
"""What values are: by rescale or Modality LUT, as standardized uptake, by a real-world map; or what a window has made of any of these."""


def as_quantity(option: str | SUV | RealWorld) -> Quantity:
    """What a user passed as ``values=``: "modality", "suv", "real_world", an SUV or a RealWorld; UsageError otherwise."""
    if isinstance(option, RealWorld):
        return option
    if isinstance(option, SUV):
        return SUV(option.kind)
    named: dict[str, Quantity] = {"modality": "modality", "suv": SUV(), "real_world": RealWorld()}
    if not isinstance(option, str) or option not in named:
        raise UsageError(f"values={option!r}: expected {', '.join(map(repr, named))}, an SUV(...) or a RealWorld(...)")
    return named[option]


# --- from options to recipes --------------------------------------------------------------------------------------


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
        return dataclasses.replace(self, mapping=self.mapping.with_limits(*self.mapping.limits(sample)))

    def floor(self, dtype: np.dtype[Any]) -> float | None:
        """The value of `dtype` that becomes the lowest network value, which padding takes the place of.

        None where values are not windowed: padding stays what it is under `Identity`, and a caller's own function may mean anything.
        """
        lowest = _lowest_input(self.mapping, self.invert)
        if lowest is None or dtype.kind == "f":
            return lowest
        limits = np.iinfo(dtype)
        return min(max(math.ceil(lowest) if self.invert else math.floor(lowest), int(limits.min)), int(limits.max))

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
        return mapping.center + (40 if invert else -40) * mapping.width  # 160 in the exponent: 0 or 1 in float32
    if isinstance(mapping, Window):
        return mapping.limits[1] + 1 if invert else mapping.limits[0] - 1  # beyond the rounding of the ends
    if isinstance(mapping, Limits):
        return mapping.upper if invert else mapping.lower
    if isinstance(mapping, VoiLut):
        entries = mapping.table.entries
        return mapping.table.first + int(entries.argmax() if invert else entries.argmin())
    return None


def _converted(result: Values, values: Values, out: Float32 | None) -> Float32:
    result = np.asarray(result)
    if result.shape != values.shape:
        raise IntensityError(f"the intensity function made shape {result.shape} of {values.shape}: it must keep the shape")
    _, out = _source_and_target(values, out)  # always a copy: the function may have returned its argument
    np.copyto(out, result, casting="unsafe")
    return out


IntensityOption: TypeAlias = str | tuple[float, float] | Intensity | IntensityMap | SUV | RealWorld | None

# SOP classes that say more about the values than Modality does (PS3.4 B.5): 600 "CT" series of IDC are screenshots.
_SECONDARY_CAPTURE: Final = "1.2.840.10008.5.1.4.1.1.7"  # and its multi-frame kinds .7.1 to .7.4

PROJECTION: Final = frozenset({"CR", "DX", "MG", "RG", "RF", "XA", "IO", "PX"})
SUV_UPPER: Final = 20.0  # g/ml

Rule = Literal["ct", "percentile", "pet", "counts", "projection", "picture", "values"]

AUTO_RULES: Final = MappingProxyType[str, Rule](
    {
        "CT": "ct",
        "MR": "percentile",
        "PT": "pet",
        "NM": "counts",
        **dict.fromkeys(sorted(PROJECTION), "projection"),
        **dict.fromkeys(("US", "IVUS", "OT", "SC", "ES", "GM", "SM", "XC", "OP", "OPT", "IVOCT", "DG"), "picture"),
        **dict.fromkeys(("SEG", "RTDOSE"), "values"),
    }
)
"""Modality (0008,0060) -> rule of "auto"; every other modality is a "picture". `by_modality` says what the rules do."""


def by_modality(frame: Frame) -> Intensity:
    """What ``intensity="auto"`` does to a stack, from its representative frame.

    ==============================  ============================================================================
    frame                           modality values -> network values
    ==============================  ============================================================================
    CT in HU                        [-1024, 3071] onto [0, 1], the whole scale (preset ct.full)
    MR                              percentiles 0.5 and 99.5 of the stack onto [0, 1]: MR has no absolute scale
    PT                              SUVbw (`SUV`) of [0, 20] g/ml onto [0, 1]; without SUV see `pet_without_suv`
    NM                              percentiles 0 and 100 of the stack onto [0, 1]
    CR DX MG RG RF XA IO PX         the file's own window or VOI LUT when it has a usable one, else percentiles 0.5
                                    and 99.5; then 1 - x for MONOCHROME1
    colour of any modality          the range that Bits Stored allows onto [0, 1]: 8 bits / 255; palettes, too
    US, OT, SC, ES, ... and any     up to 8 bits stored: the range that Bits Stored allows onto [0, 1];
    other; CT not in HU             more: the file's own window or VOI LUT, else percentiles 0.5 and 99.5
    SEG, RTDOSE                     as they are (`Identity`): labels, fractions, doses
    ==============================  ============================================================================

    SOP class outranks Modality for segmentations and for secondary captures of up to 8 bits. Only "auto" inverts.
    """
    rule = _rule(frame)
    if rule == "ct":
        return Intensity(preset("ct.full"))
    if rule == "percentile":
        return Intensity(Percentile(0.5, 99.5))
    if rule == "pet":
        return Intensity(Limits(0.0, SUV_UPPER), quantity=SUV())
    if rule == "counts":
        return Intensity(Percentile(0.0, 100.0))
    if rule == "projection":
        return Intensity(_own_voi(frame) or Percentile(0.5, 99.5), invert=frame.photometric_interpretation == "MONOCHROME1")
    if rule == "values":
        return Intensity(Identity(), units=units_of(frame))
    return Intensity(_stored_limits(frame) or _own_voi(frame) or Percentile(0.5, 99.5))


def _rule(frame: Frame) -> Rule:
    if content_of(frame.sop_class_uid) == "segmentation":
        return "values"
    few_bits = frame.bits_stored is not None and frame.bits_stored <= 8
    if (frame.samples_per_pixel or 1) > 1 or _has_palette(frame) or (few_bits and _is_secondary_capture(frame)):
        return "picture"
    rule = AUTO_RULES.get(frame.modality, "picture")
    return "picture" if rule == "ct" and units_of(frame) != "HU" else rule


def _has_palette(frame: Frame) -> bool:
    return frame.photometric_interpretation == "PALETTE COLOR"


def _is_secondary_capture(frame: Frame) -> bool:
    uid = frame.sop_class_uid
    return uid == _SECONDARY_CAPTURE or uid.startswith(_SECONDARY_CAPTURE + ".")


def pet_without_suv() -> Intensity:
    """What "auto" does to PET under ``suv="if_possible"`` where the header gives no SUV: percentiles 0 and 99.9 of the stack."""
    return Intensity(Percentile(0.0, 99.9))


def _own_voi(frame: Frame) -> Window | VoiLut | None:
    """The file's first window, or its first VOI LUT, or none when it has no usable one: "auto" has another answer then."""
    for source in (Window, VoiLut):
        try:
            return source.from_frame(frame)
        except IntensityError:
            continue
    return None


def _stored_limits(frame: Frame) -> Limits | None:
    """The modality values of the range that Bits Stored allows, for colour and for up to 8 bits."""
    if _has_palette(frame):
        return Limits(0, 255)  # its indices become RGB of 8 bits before they are mapped
    if frame.float_pixels or not frame.bits_allocated:
        return None
    low, high = stored_range(frame)
    colour = (frame.samples_per_pixel or 1) > 1
    if high - low > 255 and not colour:
        return None
    if colour:
        return Limits(low, high)  # no rescale applies to colour (PS3.3 C.11.1)
    if has_modality_lut(frame):
        return Limits(0, (1 << modality_lut(frame.path).bits) - 1)
    rescale = Rescale.from_frame(frame)
    ends = [value * rescale.slope + rescale.intercept for value in (low, high)]
    return Limits(min(ends), max(ends))


def resolve(option: IntensityOption, frame: Frame) -> Intensity:
    """The recipe for a whole stack, from what a user passed as ``intensity=``.

    Called once a stack, with its middle frame (slice ``n // 2``): where windows differ from slice to slice the middle one's
    holds for all, because frame, volume and patch of a stack must map a value identically.

    Parameters
    ----------
    option
        ``"auto"`` (`by_modality`); ``"modality"`` or None (modality values as float32); ``"file"`` (the file's own first
        window, or its first VOI LUT where it has no window), ``"file:1"`` (its second window, ...), ``"voi_lut"``, ``"voi_lut:1"``; a
        preset's name; (center, width); a Window, Limits, Percentile, VoiLut or Intensity; an SUV (as it is, or [0, upper] onto
        [0, 1]) or a RealWorld; any callable.
    frame
        The stack's representative frame.

    Raises
    ------
    UsageError
        An unknown name or something that is no option.
    IntensityError
        ``"file"`` or ``"voi_lut"`` and the frame has no usable one; an impossible center or width.
    """
    if option is None or option == "modality" or isinstance(option, Identity):
        return Intensity(Identity(), units=units_of(frame))
    if isinstance(option, Intensity):
        return option
    if isinstance(option, str):
        return _resolve_name(option, frame)
    if isinstance(option, tuple) and len(option) == 2:
        return Intensity(Window(*option))
    if isinstance(option, SUV):
        mapping = Identity() if option.upper is None else Limits(0.0, option.upper)
        return Intensity(mapping, units=option.units if option.upper is None else "1", quantity=SUV(option.kind))
    if isinstance(option, RealWorld):
        return Intensity(Identity(), units="", quantity=option)
    if isinstance(option, Window | Limits | Percentile | VoiLut):
        return Intensity(option)
    if callable(option):
        return Intensity(option, units="")
    raise UsageError(f"intensity is a {type(option).__name__}: expected a name, a (center, width) tuple, a Window or a callable")


def _resolve_name(name: str, frame: Frame) -> Intensity:
    if name == "auto":
        return by_modality(frame)
    if is_name_of_file(name):
        source, _, number = name.partition(":")
        return Intensity(_of_file(frame, source, number))
    try:
        return Intensity(preset(name))
    except UsageError as error:
        error.add_note('intensity also takes "auto", "modality", "file", "voi_lut", (center, width), a Window, an SUV or any callable')
        raise


def _of_file(frame: Frame, source: str, number: str) -> Window | VoiLut:
    """A window or table of the file; of both, which are alternatives (PS3.3 C.11.2), the window, since people look at that."""
    if source == "voi_lut":
        return VoiLut.from_frame(frame, int(number or 0))
    if not number and frame.voi_lut_sequence and not frame.window_center:
        return VoiLut.from_frame(frame)
    return Window.from_frame(frame, int(number or 0))


def is_name_of_file(option: str) -> bool:
    """Whether an option names something that only the file can tell, so that it cannot be checked without one."""
    source, _, number = option.partition(":")
    return source in ("file", "voi_lut") and (number.isdecimal() or option == source)


def units_of(frame: Frame) -> str:
    """Units of a frame's modality values, "" when unknown.

    CT is "HU" when Rescale Type (0028,1054) is HU or absent, since the CT image module requires it for anything else
    (PS3.3 C.8.2.1), and for US (unspecified, C.11.1.1.2) where that module demands HU: ORIGINAL, not LOCALIZER.
    Not without any rescale, and a secondary capture only if it says HU itself. PT and NM: Units (0054,1001), such as "BQML".
    RTDOSE: Dose Units (3004,0002), such as "GY". Others: the Rescale Type, US being "". With a Modality LUT: its Modality LUT Type.
    """
    if frame.modality == "RTDOSE":
        return frame.dose_units
    if frame.modality in ("PT", "NM") and frame.units:
        return frame.units
    if has_modality_lut(frame):
        kind = modality_lut(frame.path).kind
        return "" if kind == "US" else kind
    kind = frame.rescale_type.strip()
    if frame.modality == "CT" and kind in ("", "US"):
        return "HU" if _is_hounsfield(frame, kind) else ""
    return "" if kind == "US" else kind


def _is_hounsfield(frame: Frame, kind: str) -> bool:
    if _is_secondary_capture(frame) or (frame.rescale_slope is None and frame.rescale_intercept is None):
        return False
    image_type = (frame.frame_type or frame.image_type).split("\\")  # enhanced CT says it per frame (PS3.3 C.8.15.3.10)
    return kind == "" or (image_type[0] == "ORIGINAL" and "LOCALIZER" not in image_type[2:3])
