"""Labels for a person to look at: the objects of a stack that are drawn, and how they are read.

SEG comes before RTSTRUCT, because it needs no filling of contours. A SEG of fractions is drawn
where they are at least 0.5.
"""

import warnings
from typing import Final

from dicomdl.geometry.linking import READABLE_STATUSES
from dicomdl.index.annotations import Annotation
from dicomdl.index.views import Stack
from dicomdl.labels.read import read_labels
from dicomdl.volumes.volume import Volume

_KINDS: Final = ("SEG", "RTSTRUCT")
_FRACTION: Final = 0.5


def shown_annotations(stack: Stack) -> list[Annotation]:
    """Return the readable SEG of a stack, then its RTSTRUCT, the newest of each first."""
    every = [each for each in stack.annotations if each.status in READABLE_STATUSES]
    return [each for kind in _KINDS for each in every if each.kind == kind]


def shown_labels(stack: Stack, annotation: Annotation) -> Volume:
    """Return the label map of one of them; what is odd about it is no warning here.

    Raises
    ------
    DicomdlError
        As for `read_labels`.
    """
    is_fractional = annotation.facts.segmentation_type == "FRACTIONAL"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return read_labels(stack, annotation, threshold=_FRACTION if is_fractional else None)
