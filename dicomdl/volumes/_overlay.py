"""Labels over pictures: where they come from, their colours, and their legend."""

import dataclasses
import os
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from dicomdl.arrays import Values
from dicomdl.errors import UsageError
from dicomdl.index.annotations import Annotation
from dicomdl.index.views import Stack
from dicomdl.printing import printable
from dicomdl.volumes._facts import VolumeFacts
from dicomdl.volumes.fitting import mask_on, require_same_grid

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
# Characters of a name in the legend.
_LONGEST: Final = 48
# Text and colour of one label; the colour of the count of the rest is None.
Entry = tuple[str, tuple[float, float, float] | None]


@dataclass(frozen=True, slots=True, eq=False)
class Overlay:
    """Labels on the grid of a volume.

    Attributes
    ----------
    values
        bool or integers, (slice, row, column), or with the leading axis of a group; or bool masks
        (label, slice, row, column).
    labels
        The labels other than 0, ascending; of masks, the numbers of those with a voxel.
    texts
        What the legend says of each label.
    ranks
        The number of the colour of each label.
    is_masks
        Whether the leading axis is that of labels, which may overlap.
    """

    values: Values
    labels: npt.NDArray[Any]
    texts: tuple[str, ...]
    ranks: npt.NDArray[np.int64]
    is_masks: bool = False

    def at(self, t: int | None) -> Values:
        """Return what is marked at one time point, (slice, row, column)."""
        if self.is_masks:
            return np.asarray(self.values.any(axis=0))
        return self.values if t is None or self.values.ndim == 3 else self.values[t]

    def picture(self, cut: Callable[[Values], Values], t: int | None) -> npt.NDArray[np.float64]:
        """Return (row, column, 4) RGBA of a plane, which `cut` cuts; the rest is transparent."""
        if self.is_masks:
            masks = [cut(self.values[number]) for number in self.labels.tolist()]
            return _blended(cut(self.values[0]).shape, masks, self.ranks)
        plane = cut(self.at(t))
        present = np.unique(plane)
        present = present[present != 0]
        ranks = self.ranks[np.searchsorted(self.labels, present)]
        return _blended(plane.shape, [plane == label for label in present], ranks)

    def legend(self) -> list[Entry]:
        """Return the entries of the legend."""
        return legend_of(dict(zip(self.texts, self.ranks.tolist(), strict=True)))

    def slice(self, number: int) -> "Overlay":
        """Return a copy of one slice."""
        return dataclasses.replace(self, values=self.values[..., number : number + 1, :, :].copy())


def legend_of(ranks: dict[str, int]) -> list[Entry]:
    """Return the entries of the legend of texts with the numbers of their colours."""
    named = [(text, _COLOURS[n % len(_COLOURS)]) for text, n in list(ranks.items())[:_NAMED]]
    more = len(ranks) - _NAMED
    return [*named, (f"and {more} more", None)] if more > 0 else list(named)


def in_common_colours(overlays: Sequence[Overlay]) -> tuple[list[Overlay], dict[str, int]]:
    """Return overlays in which one text has one colour, and the number of the colour per text."""
    ranks: dict[str, int] = {}
    for text in (text for overlay in overlays for text in overlay.texts):
        ranks.setdefault(text, len(ranks))
    return [
        dataclasses.replace(each, ranks=np.array([ranks[text] for text in each.texts], np.int64))
        for each in overlays
    ], ranks


def overlay_of(volume: VolumeFacts, labels: Any) -> Overlay | None:
    """Return the overlay of labels, None without any.

    Raises
    ------
    GeometryError, UsageError
        The labels do not fit the volume; see `mask_on`.
    """
    if labels is None:
        return None
    if isinstance(labels, VolumeFacts) and labels.dimension_names == ("label",):
        require_same_grid(volume, labels)
        numbers = np.flatnonzero(labels.array.reshape(len(labels.array), -1).any(axis=1))
        texts = tuple(_text(str(labels.dimension[number])) for number in numbers)
        return Overlay(labels.array, numbers, texts, np.arange(len(numbers)), is_masks=True)
    values = mask_on(volume, labels)
    found = _labels_in(values)
    if values.dtype == np.bool_:
        texts = ("mask",) * len(found)
    else:
        names = labels.names if isinstance(labels, VolumeFacts) else {}
        texts = tuple(_text(names.get(label) or f"label {label}") for label in found.tolist())
    return Overlay(values, found, texts, np.arange(len(found)))


def labels_for(stack: Stack | None, labels: Any) -> Any:
    """Return labels to draw: those of a source as a volume on the grid of a stack, others as given.

    Raises
    ------
    UsageError
        There is no stack whose labels a source could give.
    AnnotationError, StorageError
        The source has no labels for the stack.
    """
    if not (isinstance(labels, str | os.PathLike | Annotation) or callable(labels)):
        return labels
    if stack is None:
        raise UsageError(
            f"labels={labels!r} are read for a stack, and this volume has none: "
            "pass an array or a volume"
        )
    # Labels are read by the package above this one.
    import dicomdl

    if callable(labels) and not isinstance(labels, dicomdl.LabelSource):
        return dicomdl.Volume(np.asarray(labels(stack)), stack.geometry)
    return dicomdl.read_labels(stack, labels)


def _text(name: str) -> str:
    return textwrap.shorten(printable(name), _LONGEST, placeholder="...") or name[:_LONGEST]


def _labels_in(values: Values) -> npt.NDArray[Any]:
    """Return the labels other than 0, ascending."""
    if values.dtype == np.bool_:
        return np.array([True])[: int(values.any())]
    if values.dtype == np.uint8:
        # A hundred million voxels in 0.1 s; np.unique sorts them.
        found = np.flatnonzero(np.bincount(values.reshape(-1), minlength=1))
    else:
        found = np.unique(values)
    return np.asarray(found[found != 0])


def _blended(
    shape: tuple[int, ...], planes: Sequence[Values], ranks: npt.NDArray[np.int64]
) -> npt.NDArray[np.float64]:
    """Return RGBA of masks, of which later ones lie over earlier ones."""
    result = np.zeros((*shape, 4))
    for plane, rank in zip(planes, ranks.tolist(), strict=True):
        below = result[plane]
        opaque = _OPACITY + below[:, 3:] * (1 - _OPACITY)
        colour = np.array(_COLOURS[rank % len(_COLOURS)]) * _OPACITY
        mixed = (colour + below[:, :3] * below[:, 3:] * (1 - _OPACITY)) / opaque
        result[plane] = np.concatenate([mixed, opaque], axis=1)
    return result
