"""Regions of interest of an RT structure set as labels of a stack."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from dicomdl.arrays import Voxel
from dicomdl.errors import AnnotationError
from dicomdl.headers.structure_set import Roi
from dicomdl.index.views import Stack
from dicomdl.labels._choice import Choice
from dicomdl.labels._planes import Placed, Planes, place
from dicomdl.labels.reader import Piece


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

    Raises
    ------
    AnnotationError
        Contours of a region are unusable, lie across the slices, or in another frame of reference;
        or no contour of any region lies in the stack.
    """

    def __init__(self, stack: Stack, rois: Sequence[Roi], choices: Sequence[Choice]) -> None:
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

    @property
    def nbytes(self) -> int:
        """The memory of the edges, bytes."""
        return sum(part.edges.nbytes for parts in self._placed.values() for part in parts)

    def pieces(self, start: Voxel, stop: Voxel) -> Iterator[Piece]:
        """Yield the labels of a block, in the order of `names`; see `LabelReader`."""
        for label, parts in self._placed.items():
            for part in parts:
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
