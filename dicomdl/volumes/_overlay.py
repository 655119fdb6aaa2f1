"""Masks over pictures: colours of labels, and their legend."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from dicomdl.arrays import Values
from dicomdl.volumes._facts import VolumeFacts
from dicomdl.volumes._fitting import mask_on

# Colours that the colour-blind tell apart (Okabe and Ito, 2008), without black.
_COLOURS: Final = (
    (0.84, 0.37, 0.00),
    (0.34, 0.71, 0.91),
    (0.94, 0.89, 0.26),
    (0.00, 0.62, 0.45),
    (0.80, 0.47, 0.65),
    (0.00, 0.45, 0.70),
    (0.90, 0.62, 0.00),
)
_OPACITY: Final = 0.45
# Labels that the legend names; the rest is counted.
_NAMED: Final = 12


@dataclass(frozen=True, slots=True, eq=False)
class Overlay:
    """A mask on the grid of a volume.

    Attributes
    ----------
    values
        bool or integers, (slice, row, column), or with the leading axis of a group.
    labels
        The labels other than 0, ascending.
    names
        {label: name} of some labels.
    """

    values: Values
    labels: npt.NDArray[Any]
    names: Mapping[int, str] = field(default_factory=dict)

    def at(self, t: int | None) -> Values:
        """Return the mask of one time point, (slice, row, column)."""
        return self.values if t is None or self.values.ndim == 3 else self.values[t]

    def coloured(self, plane: Values) -> npt.NDArray[np.float64]:
        """Return (row, column, 4) RGBA of labels; the background is transparent."""
        rank = np.searchsorted(self.labels, plane)
        colours = np.array(
            [(*_COLOURS[n % len(_COLOURS)], _OPACITY) for n in range(len(self.labels))]
        )
        result = np.zeros((*plane.shape, 4))
        if len(colours):
            marked = plane != 0
            result[marked] = colours[rank[marked]]
        return result

    def legend(self) -> list[tuple[str, tuple[float, float, float] | None]]:
        """Return (text, colour) per label; the colour of the count of the rest is None."""
        if self.values.dtype == np.bool_ and len(self.labels):
            return [("mask", _COLOURS[0])]
        named = [
            (self.names.get(label) or f"label {label}", _COLOURS[n % len(_COLOURS)])
            for n, label in enumerate(self.labels[:_NAMED].tolist())
        ]
        more = len(self.labels) - _NAMED
        return [*named, (f"and {more} more", None)] if more > 0 else list(named)


def overlay_of(volume: VolumeFacts, mask: Any) -> Overlay | None:
    """Return the overlay of a mask, None without one.

    Raises
    ------
    GeometryError, UsageError
        The mask does not fit the volume; see `mask_on`.
    """
    if mask is None:
        return None
    values = mask_on(volume, mask)
    if values.dtype == np.bool_:
        labels = np.array([True])[: int(values.any())]
    elif values.dtype == np.uint8:
        # A hundred million voxels in 0.1 s; np.unique sorts them.
        labels = np.flatnonzero(np.bincount(values.reshape(-1), minlength=1))
    else:
        labels = np.unique(values)
    names = mask.names if isinstance(mask, VolumeFacts) else {}
    return Overlay(values, labels[labels != 0], names)
