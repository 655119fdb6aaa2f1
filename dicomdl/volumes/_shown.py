"""Values of a volume as a picture shows them, and the words on their window."""

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np

from dicomdl.arrays import Mask, Values
from dicomdl.printing import printable
from dicomdl.values.formulas import Ramp, Sigmoid
from dicomdl.values.intensity import Intensity
from dicomdl.values.quantity import Quantity, RealWorld, printed_units
from dicomdl.values.request import IntensityOption, IntensityRequest
from dicomdl.values.suv import SUV
from dicomdl.values.windows import Limits, Percentile
from dicomdl.volumes._facts import VolumeFacts
from dicomdl.volumes._windowing import Measured, mapped, recipe_of


def shown_intensity(quantity: Quantity, intensity: IntensityOption) -> IntensityRequest:
    """Return the request for a picture of values of a quantity.

    "auto" means percentiles for real-world values, for which no other rule exists.
    """
    request = IntensityRequest.parse(intensity)
    if request.source == "auto" and isinstance(quantity, RealWorld):
        return IntensityRequest.parse(Percentile(0.5, 99.5))
    return request


@dataclass(frozen=True, slots=True, eq=False)
class Shown:
    """The window of a picture.

    Attributes
    ----------
    measured
        The values before the window.
    recipe
        The recipe; None for network values, which are shown as they are.
    limits
        The network values that are black and white.
    words
        The window and its units, such as "window -1350 to 150 HU (ct.lung)".
    """

    measured: Measured
    recipe: Intensity | None
    limits: tuple[float, float]
    words: str

    def picture(self, values: Values, padding: Mask | None) -> Values:
        """Return network values of a part of the array, clipped to [0, 1] for colour."""
        if self.recipe is not None:
            part = dataclasses.replace(self.measured, array=_numbers(values), padding=padding)
            values = mapped(part, self.recipe).array
        return np.clip(values, 0, 1) if values.ndim > 2 else values


def shown_by(measured: Measured, intensity: IntensityOption) -> Shown:
    """Choose the window of the pictures of some values; those without any rule get percentiles.

    Raises
    ------
    UsageError
        The rule is unknown, or does not apply to these values.
    """
    request = shown_intensity(measured.quantity, intensity)
    if measured.quantity == "network":
        return Shown(measured, None, (0.0, 1.0), "network values 0 to 1")
    is_unknown = measured.frame is None or measured.quantity == "derived"
    if request.source == "auto" and is_unknown:
        request = _by_values(measured)
    recipe = recipe_of(
        dataclasses.replace(measured, array=_numbers(measured.array)), request, "if_possible"
    )
    limits = _ends(measured, recipe) if recipe.is_identity else (0.0, 1.0)
    return Shown(measured, recipe, limits, _words(measured, recipe, intensity, limits))


def measured_of(volume: VolumeFacts) -> Measured:
    """Return the parts of a volume that its quantity concerns."""
    return Measured(
        array=volume.array,
        units=volume.units,
        quantity=volume.quantity,
        padding=volume.padding,
        frame=volume.frame,
        stack=volume.stack,
        is_series=bool(volume.dimension),
        stacks=volume.stacks,
    )


def _numbers(values: Values) -> Values:
    return values.astype(np.uint8) if values.dtype == np.bool_ else values


def _by_values(measured: Measured) -> IntensityRequest:
    """Return a request by the values alone: colour as it is, labels in full, else percentiles."""
    array = measured.array
    if array.ndim == (5 if measured.is_series else 4) and array.dtype.kind == "u":
        return IntensityRequest.parse(Limits(0, float(np.iinfo(array.dtype).max)))
    # Most voxels of a label map are background, so that its percentiles may be equal.
    if array.dtype.kind in "bui" and (array.dtype.itemsize == 1 or measured.quantity == "derived"):
        low, high = float(array.min()), float(array.max())
        return IntensityRequest.parse(Limits(low, max(high, low + 1)))
    return IntensityRequest.parse(Percentile(0.5, 99.5))


def _ends(measured: Measured, recipe: Intensity) -> tuple[float, float]:
    """Return the smallest and the largest value under a recipe that keeps values."""
    array = measured.array
    finite = array[np.isfinite(array)] if array.dtype.kind == "f" else array
    if not finite.size:
        return 0.0, 1.0
    ends = _numbers(np.array([finite.min(), finite.max()], array.dtype))
    low, high = mapped(dataclasses.replace(measured, array=ends, padding=None), recipe).array
    return float(low), float(max(high, low + np.float32(1e-6)))


def _words(measured: Measured, recipe: Intensity, option: Any, limits: tuple[float, float]) -> str:
    """Return the window and its units for people."""
    quantity, formula = recipe.quantity, recipe.formula
    suv = quantity if isinstance(quantity, SUV) else None
    units = printable(printed_units(measured.units if suv is None else suv.units))
    if recipe.is_identity:
        ends: Any = limits
    elif isinstance(formula, Ramp):
        ends = formula.lower, formula.lower + formula.width
    elif isinstance(formula, Sigmoid):
        ends = formula.center - formula.width / 2, formula.center + formula.width / 2
    else:
        ends = None
    named = option if isinstance(option, str) and option not in ("auto", "modality") else ""
    notes = ["" if suv is None else f"SUV{suv.kind}", named, "inverted" if recipe.invert else ""]
    notes = [note for note in notes if note]
    words = "window" if ends is None else f"window {ends[0]:.4g} to {ends[1]:.4g} {units}".rstrip()
    return f"{words} ({', '.join(notes)})" if notes else words
