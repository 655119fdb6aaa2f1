"""Regions of interest of an RT structure set as labels of a stack."""

from collections.abc import Collection, Iterator, Sequence
from typing import Any, Final

import numpy as np

from dicomdl.arrays import Mask, Voxel
from dicomdl.errors import AnnotationError
from dicomdl.headers.structure_set import Roi
from dicomdl.index.text import counted
from dicomdl.index.views import Stack
from dicomdl.labels._choice import Choice
from dicomdl.labels._coverage import Referred
from dicomdl.labels._planes import Placed, Planes, place
from dicomdl.labels.reader import LabelValues, Piece
from dicomdl.lazy import cached_property

# Counts of `Placed`, and what they count.
_PASSED_OVER: Final = {
    "beyond": "lie beyond the slices of the stack",
    "between": "lie between slices that have nearer ones",
    "open": "are points or open, and enclose no area",
    "copies": "repeat another one, and are left out",
}


class ContourReader:
    """Labels of a stack out of contours; only the contours of a block's slices are filled.

    Parameters
    ----------
    stack
        The stack.
    rois
        The regions of interest.
    choices
        The labels.
    referred
        The slices that the structure set refers to.

    Raises
    ------
    AnnotationError
        Contours of a region are unusable, lie across the slices, or in another frame of reference;
        or no contour of any region lies in the stack.
    """

    values: LabelValues = "labels"

    def __init__(
        self, stack: Stack, rois: Sequence[Roi], choices: Sequence[Choice], referred: Referred
    ) -> None:
        planes = Planes.of(stack)
        self.shape: Voxel = stack.shape
        self.names = {choice.label: choice.name for choice in choices}
        taken = {
            choice.label: [roi for roi in rois if roi.facts.number in choice.numbers]
            for choice in choices
        }
        self._placed: dict[int, list[Placed]] = {}
        for label, parts in taken.items():
            for roi in parts:
                require_usable(roi, stack)
            self._placed[label] = [place(roi.contours, planes) for roi in parts]
        drawn = sum(len(roi.contours) for parts in taken.values() for roi in parts)
        boxes = [(part.start, part.stop) for parts in self._placed.values() for part in parts]
        if drawn and not any(_overlap(*box, (0, 0, 0), self.shape) for box in boxes):
            raise AnnotationError(
                f"none of {drawn} contours lies in the stack: the structure set belongs to another "
                "image, or its contours are empty",
                contours=drawn,
            )

        self._referred, self._drawn = referred, planes.with_contours([roi.contours for roi in rois])
        for part in (part for parts in self._placed.values() for part in parts):
            # Slices between the planes of a coarse region are filled, too.
            self._drawn[part.edges.planes] = True
        self.remarks = tuple(self._remarks(drawn))

    def _remarks(self, drawn: int) -> Iterator[str]:
        for name, words in _PASSED_OVER.items():
            each = (getattr(part, name) for parts in self._placed.values() for part in parts)
            if count := sum(each):
                yield f"{count} of {drawn} contours {words}"
        filled = sum(len(part.filled) for parts in self._placed.values() for part in parts)
        if filled:
            slices = counted(filled, "slices")
            yield f"{slices} without contours of their own have those of the nearest plane"
        empty = sum(
            not any(_overlap(part.start, part.stop, (0, 0, 0), self.shape) for part in parts)
            for parts in self._placed.values()
        )
        if empty:
            yield f"{empty} of {counted(len(self._placed), 'labels')} have no contour in the stack"

    @property
    def nbytes(self) -> int:
        """The memory of the edges, bytes."""
        return sum(part.edges.nbytes for parts in self._placed.values() for part in parts)

    def counts(self) -> None:
        """Return None: voxels are counted in the label map."""

    def covered(self, start: Voxel, stop: Voxel) -> Mask | None:
        """Return the voxels in slices that the structure set refers to, or has contours in."""
        is_whole = self._whole[start[0] : stop[0]]
        shape = [b - a for a, b in zip(start, stop, strict=True)]
        return None if is_whole.all() else np.broadcast_to(is_whole[:, None, None], shape)

    @cached_property
    def _whole(self) -> Mask:
        return self._referred() | self._drawn

    def pieces(
        self, start: Voxel, stop: Voxel, only: Collection[int] | None = None
    ) -> Iterator[Piece]:
        """Yield the labels of a block, in the order of `names`; see `LabelReader`."""
        for label, parts in self._placed.items():
            for part in parts if only is None or label in only else ():
                overlap = _overlap(part.start, part.stop, start, stop)
                if overlap is not None:
                    low, high = overlap
                    where = tuple(
                        slice(a - s, b - s) for a, b, s in zip(low, high, start, strict=True)
                    )
                    yield Piece(where, part.edges.fill(low, high), label)


def require_usable(roi: Roi, stack: Stack) -> None:
    """Raise an AnnotationError for a region with unusable contours, or in another place."""
    if roi.contours.unusable:
        number, reason = roi.contours.unusable[0]
        raise AnnotationError(
            f"{len(roi.contours.unusable)} of {len(roi.contours)} contours of region "
            f"{roi.facts.number} cannot be read; contour {number}: {reason}",
            unusable=len(roi.contours.unusable),
        )
    here = str(stack.value("frame_of_reference_uid"))
    there = roi.facts.frame_of_reference_uid
    if here and there and here != there:
        raise AnnotationError(
            f"region {roi.facts.number} was drawn in another frame of reference than the stack's",
            expected=here,
            found=there,
        )


def _overlap(
    start: Voxel, stop: Voxel, other_start: Voxel, other_stop: Voxel
) -> tuple[Voxel, Voxel] | None:
    """Return the first voxel of the overlap of two blocks, and the one after its last."""
    low, high = np.maximum(start, other_start), np.minimum(stop, other_stop)
    return (_voxel(low), _voxel(high)) if (low < high).all() else None


def _voxel(numbers: Any) -> Voxel:
    z, y, x = (int(number) for number in numbers)
    return z, y, x
