"""Rescale: stored values to modality values by slope and intercept, and the dtype of the result.

Modality values are int16 when every slope and intercept is integral and the actual values fit, else
int32, else float32, computed in float64 and rounded once. No value wraps.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeAlias, TypeVar

import numpy as np

from dicomdl.arrays import Values, ends_of
from dicomdl.errors import DoesNotFit, IntensityError, UsageError
from dicomdl.headers.uids import RT_DOSE, TABLE_IMAGES, XRAY_IMAGES
from dicomdl.values._floats import store_floats
from dicomdl.values._lookup import blocks

Range: TypeAlias = tuple[int, int]
Result = TypeVar("Result")
MODALITY_DTYPES: Final = (np.dtype(np.int16), np.dtype(np.int32), np.dtype(np.float32))


class RescaleFacts(Protocol):
    """The facts of a rescale, as a `Frame` and the columns of an index hold them."""

    @property
    def sop_class_uid(self) -> str:
        """SOP Class UID (0008,0016)."""

    @property
    def rescale_slope(self) -> float | None:
        """Rescale Slope (0028,1053)."""

    @property
    def rescale_intercept(self) -> float | None:
        """Rescale Intercept (0028,1052)."""

    @property
    def dose_grid_scaling(self) -> float | None:
        """Dose Grid Scaling (3004,000E)."""

    @property
    def modality_lut_sequence(self) -> bool:
        """Whether there is a Modality LUT Sequence (0028,3000)."""


@dataclass(frozen=True, slots=True)
class Rescale:
    """Map from stored to modality values: ``stored * slope + intercept`` (PS3.3 C.11.1.1).

    Parameters
    ----------
    slope, intercept
        Rescale Slope (0028,1053), finite and not 0, and Rescale Intercept (0028,1052), finite.

    Raises
    ------
    IntensityError
        The slope is 0, or a value is not finite; attributes `slope`, `intercept`.

    Examples
    --------
    >>> import numpy as np
    >>> import dicomdl
    >>> dicomdl.Rescale(1, -1024)(np.array([0, 1024, 4095], np.uint16))
    array([-1024,     0,  3071], dtype=int16)
    """

    slope: float = 1.0
    intercept: float = 0.0

    def __post_init__(self) -> None:
        store_floats(self, "slope", "intercept")
        if self.slope == 0 or not math.isfinite(self.slope):
            message = (
                f"RescaleSlope (0028,1053) is {self.slope}; expected a finite number other than 0"
            )
            raise IntensityError(message, slope=self.slope, intercept=self.intercept)
        if not math.isfinite(self.intercept):
            message = f"RescaleIntercept (0028,1052) is {self.intercept}; expected a finite number"
            raise IntensityError(message, slope=self.slope, intercept=self.intercept)

    @classmethod
    def from_frame(cls, frame: RescaleFacts) -> "Rescale":
        """Return the rescale of `frame`; absent attributes are the identity.

        RTDOSE scales by Dose Grid Scaling (3004,000E) instead (PS3.3 C.8.8.3).

        Raises
        ------
        IntensityError
            The frame has a Modality LUT Sequence (0028,3000), which excludes a rescale (PS3.3
            C.11.1) and is not linear, or a slope or intercept that cannot be used, or is an RTDOSE
            without a scaling.
        """
        if frame.dose_grid_scaling is not None:
            if frame.dose_grid_scaling == 0 or not math.isfinite(frame.dose_grid_scaling):
                message = f"DoseGridScaling (3004,000E) is {frame.dose_grid_scaling}"
                message += "; expected a finite number other than 0"
                raise IntensityError(message, dose_grid_scaling=frame.dose_grid_scaling)
            return cls(frame.dose_grid_scaling, 0.0)
        if frame.sop_class_uid == RT_DOSE and frame.rescale_slope is None:
            # Type 1C: required with pixel data.
            raise IntensityError(
                "the doses have no DoseGridScaling (3004,000E), which makes Gy of stored values: "
                "dicomdl.read_frame gives these",
                dose_grid_scaling=None,
            )
        if has_modality_lut(frame):
            raise IntensityError(
                "the frame has a Modality LUT Sequence (0028,3000), which is no slope and intercept"
            )
        slope = 1.0 if frame.rescale_slope is None else frame.rescale_slope
        return cls(slope, 0.0 if frame.rescale_intercept is None else frame.rescale_intercept)

    @property
    def is_integral(self) -> bool:
        """Whether integers stay integers."""
        return self.slope.is_integer() and self.intercept.is_integer()

    @property
    def parts(self) -> tuple[float, float]:
        """Slope and intercept."""
        return self.slope, self.intercept

    @property
    def is_identity(self) -> bool:
        """Whether modality values are the stored values."""
        return self.slope == 1 and self.intercept == 0

    def __call__(self, stored: Values) -> Values:
        """Return modality values of one array, in a new array of the same shape.

        Parameters
        ----------
        stored
            Any shape, any integer or float dtype.

        Returns
        -------
        ndarray
            int16 or int32, the first that holds the actual values, when slope, intercept and stored
            values are integers. Otherwise, and beyond int32, float32, computed in float64 and
            rounded once.
        """
        dtype = np.dtype(np.float32)
        actual = None
        if self.is_integral and stored.dtype.kind in "biu":
            actual = _actual_range(stored)
            dtype = modality_dtype([self], *actual)
        out = np.empty(stored.shape, dtype)
        self.fill(stored, out, actual)
        return out

    def fill(self, stored: Values, out: Values, stored_range: Range | None = None) -> None:
        """Fill `out` with the modality values of one slice.

        Threads may call it on different slices. The minimum and the maximum of the values are
        computed (two passes) only when neither `stored_range` nor the dtype of `stored` proves that
        they fit `out`. It works in place: `out` may be the memory of `stored` viewed as another
        dtype of the same size (uint16 as int16).

        Parameters
        ----------
        stored
            Native stored values, any shape, any integer or float dtype.
        out
            int16, int32 or float32 of the same shape; the only argument that is written.
        stored_range
            Bounds that the caller guarantees, such as (0, 4095) for 12 unsigned bits stored.

        Raises
        ------
        DoesNotFit
            `out` is an integer array and a value does not fit; `out` is then unchanged.
        IntensityError
            `out` is an integer array and slope or intercept is not integral, or it is float32 and a
            value is beyond its range.
        UsageError
            `out` has another shape or dtype.
        """
        if out.shape != stored.shape or out.dtype not in MODALITY_DTYPES:
            message = f"out is {out.dtype} {out.shape}"
            raise UsageError(f"{message}; expected int16, int32 or float32 of shape {stored.shape}")
        if out.dtype == np.float32:
            if not to_float(stored, self, out):
                raise beyond_float32(self)
            return
        if not self.is_integral or stored.dtype.kind not in "biu":
            facts = {"slope": self.slope, "intercept": self.intercept, "dtype": str(out.dtype)}
            message = f"slope {self.slope} and intercept {self.intercept} on {stored.dtype}"
            raise IntensityError(f"{message} do not give integers: ask for float32", **facts)
        _check_fit(stored, self, out.dtype, stored_range)
        to_integer(stored, self, out)


def has_modality_lut(frame: RescaleFacts) -> bool:
    """Whether a Modality LUT Sequence (0028,3000) gives the modality values.

    A header with a rescale, too, is against the rule (PS3.3 C.11.1). The table applies to images
    whose module has no rescale of its own, such as CR; the rescale to others, such as CT. The table
    of angiography and fluoroscopy leads back to the intensity of X-rays: windows apply to stored
    values (PS3.3 C.8.7.1.1.2).
    """
    has_rescale = frame.rescale_slope is not None or frame.rescale_intercept is not None
    return (
        frame.modality_lut_sequence
        and (not has_rescale or frame.sop_class_uid in TABLE_IMAGES)
        and frame.sop_class_uid not in XRAY_IMAGES
    )


def modality_dtype(rescales: Iterable[Rescale], stored_min: int, stored_max: int) -> np.dtype[Any]:
    """Return the dtype that holds the modality values of a complete stack.

    Parameters
    ----------
    rescales
        The rescales of all frames; equal ones may be given once.
    stored_min, stored_max
        The smallest and the largest stored value over all frames: the actual ones, or the range of
        Bits Stored, for a dtype that is safe without reading.

    Returns
    -------
    numpy.dtype
        int16 if all are integral and fit, else int32 if they fit, else float32.
    """
    low, high = 0, 0
    for rescale in rescales:
        if not rescale.is_integral:
            return np.dtype(np.float32)
        ends = _integral_ends(rescale, (stored_min, stored_max))
        low, high = min(low, ends[0]), max(high, ends[1])
    integers = (dtype for dtype in MODALITY_DTYPES if dtype.kind == "i")
    return next((dtype for dtype in integers if _fits((low, high), dtype)), MODALITY_DTYPES[-1])


def dtypes_to_try(*, integral: bool) -> Sequence[np.dtype[Any]]:
    """Return the dtypes of modality values, narrowest first; only float32 for fractions."""
    return MODALITY_DTYPES if integral else MODALITY_DTYPES[-1:]


def in_first_that_fits(
    attempt: Callable[[np.dtype[Any]], Result], dtypes: Sequence[np.dtype[Any]]
) -> Result:
    """Call `attempt` for each dtype until one holds all values, and return its result.

    Raises
    ------
    DoesNotFit
        No dtype holds all values.
    """
    for dtype in dtypes[:-1]:
        try:
            return attempt(dtype)
        except DoesNotFit:
            continue
    return attempt(dtypes[-1])


def _check_fit(
    stored: Values, rescale: Rescale, dtype: np.dtype[Any], stored_range: Range | None
) -> None:
    if _fits(_integral_ends(rescale, stored_range or ends_of(stored.dtype)), dtype):
        return
    low, high = _integral_ends(rescale, _actual_range(stored))
    if not _fits((low, high), dtype):
        message = f"modality values {low} to {high} do not fit {dtype}: ask for a wider dtype"
        raise DoesNotFit(message, minimum=low, maximum=high, dtype=str(dtype))


def is_sure_to_fit(rescale: Rescale, stored_range: Range, dtype: np.dtype[Any]) -> bool:
    """Whether all integers of a range become integers that a dtype holds."""
    return rescale.is_integral and _fits(_integral_ends(rescale, stored_range), dtype)


def to_integer(stored: Values, rescale: Rescale, out: Values) -> None:
    """Fill an array of integers with values that fit it; `out` may be the memory of `stored`."""
    # Integer arithmetic is modulo 2**bits and the final results fit, so wrapped intermediate
    # results do no harm.
    source = stored
    if stored.dtype.itemsize == out.dtype.itemsize and stored.dtype.isnative:
        # Avoids a buffered cast, and a temporary when `out` is the same memory.
        source = stored.view(out.dtype)
    slope, intercept = (_modulo(value, out.dtype) for value in (rescale.slope, rescale.intercept))
    if rescale.slope != 1:
        np.multiply(source, slope, out=out, dtype=out.dtype, casting="unsafe")
        source = out
    if rescale.intercept != 0:
        np.add(source, intercept, out=out, dtype=out.dtype, casting="unsafe")
    elif source is not out:
        np.copyto(out, source, casting="unsafe")


def to_float(stored: Values, rescale: Rescale, out: Values) -> bool:
    """Fill a float32 array, rounding once; return False where a value is beyond its range."""
    try:
        with np.errstate(over="raise"):
            for source, target in blocks(stored, out):
                values = np.multiply(source, rescale.slope, dtype=np.float64)
                values += rescale.intercept
                np.copyto(target, values, casting="same_kind")
    except FloatingPointError:
        return False
    return True


def beyond_float32(rescale: Rescale) -> IntensityError:
    """Return the error for a value that float32 does not hold."""
    message = f"slope {rescale.slope} and intercept {rescale.intercept}"
    message += " give values beyond the range of float32"
    return IntensityError(message, slope=rescale.slope, intercept=rescale.intercept)


def _integral_ends(rescale: Rescale, stored_range: Range) -> Range:
    # Python integers are exact at any size.
    ends = [int(value) * int(rescale.slope) + int(rescale.intercept) for value in stored_range]
    return min(ends), max(ends)


def _fits(ends: Range, dtype: np.dtype[Any]) -> bool:
    smallest, largest = ends_of(dtype)
    return smallest <= ends[0] and ends[1] <= largest


def _actual_range(stored: Values) -> Range:
    return (int(stored.min()), int(stored.max())) if stored.size else (0, 0)


def _modulo(value: float, dtype: np.dtype[Any]) -> Any:
    bits = 8 * dtype.itemsize
    half = 1 << (bits - 1)
    return dtype.type((int(value) + half) % (1 << bits) - half)
