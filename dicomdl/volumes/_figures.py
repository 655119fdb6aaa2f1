"""Figures of evenly spaced slices, and the choices that every picture of a volume shares."""

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from dicomdl.arrays import Values
from dicomdl.extras import import_extra
from dicomdl.values.quantity import Quantity, RealWorld
from dicomdl.values.request import IntensityOption, IntensityRequest
from dicomdl.values.windows import Percentile

# Title of a slice, and its index into the array of a volume.
Pictured = tuple[str, tuple[int, ...]]


def pyplot() -> Any:
    """Import pyplot at its first use.

    Raises
    ------
    MissingExtra
        matplotlib is not installed.
    """
    return import_extra("matplotlib.pyplot", "Volume.plot()", "notebook")


def figure_of(
    plt: Any, values: Values, chosen: list[Pictured], spacing: tuple[float, float, float]
) -> Any:
    """Draw chosen slices of network values with `pyplot()`, and return the matplotlib figure."""
    columns = math.ceil(math.sqrt(len(chosen)))
    rows = math.ceil(len(chosen) / columns)
    figure = plt.figure(figsize=(2.4 * columns, 2.4 * rows), layout="tight")
    # A closed figure is shown once by a notebook, as the returned value, and pyplot drops it.
    plt.close(figure)
    aspect = spacing[1] / spacing[2] if np.isfinite(spacing[1:]).all() else 1.0
    for number, (title, index) in enumerate(chosen, 1):
        axes = figure.add_subplot(rows, columns, number)
        axes.imshow(values[index], cmap="gray", vmin=0, vmax=1, aspect=aspect)
        axes.set_title(title, fontsize=8)
        axes.axis("off")
    return figure


def pictured(shape: tuple[int, ...], count: int, *, series: bool) -> list[Pictured]:
    """Return titles and indices of at most `count` slices that show an array of a volume.

    They are spread over the slices, or, for a series, over the time points of the middle slice.
    """
    numbers = _evenly_spaced(shape[0], count).tolist()
    if not series:
        return [(f"slice {z}", (z,)) for z in numbers]
    middle = shape[1] // 2
    return [(f"t {t}, slice {middle}", (t, middle)) for t in numbers]


def _evenly_spaced(length: int, count: int) -> npt.NDArray[np.int64]:
    """Return at most `count` indices in [0, length), including the first and the last."""
    return np.unique(
        np.linspace(0, length - 1, max(1, min(count, length))).round().astype(np.int64)
    )


def shown_intensity(quantity: Quantity, intensity: IntensityOption) -> IntensityRequest:
    """Return the request for a picture of values of a quantity.

    "auto" means percentiles for real-world values, for which no other rule exists.
    """
    request = IntensityRequest.parse(intensity)
    if request.source == "auto" and isinstance(quantity, RealWorld):
        return IntensityRequest.parse(Percentile(0.5, 99.5))
    return request
