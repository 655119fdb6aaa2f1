"""What becomes of the values of a FRACTIONAL SEG: labels, fractions, or bits under that name."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from dicomdl.arrays import Mask, Values
from dicomdl.errors import AnnotationError, UsageError
from dicomdl.headers.annotation import AnnotationFacts
from dicomdl.headers.bit_masks import names_bits
from dicomdl.labels._choice import Choice
from dicomdl.labels._seg_frames import SegFrames
from dicomdl.labels.reader import LabelValues, Piece

# Bits of a byte, by their value.
BITS: Final[Mapping[int, str]] = {1 << bit: f"bit {bit}" for bit in range(8)}


@dataclass(frozen=True, slots=True)
class Fractions:
    """The options `values=` and `threshold=`.

    Attributes
    ----------
    values
        "labels", "bits" or "fractions".
    threshold
        For labels: the fraction, above 0 to 1, from which on a voxel has the label.
    """

    values: LabelValues = "labels"
    threshold: float | None = None

    def __post_init__(self) -> None:
        if self.values not in ("labels", "bits", "fractions"):
            raise UsageError(f"values={self.values!r}: expected 'labels', 'fractions' or 'bits'")
        if self.threshold is not None and self.values != "labels":
            raise UsageError(f"threshold= makes labels: expected without values={self.values!r}")

    def names(self, choices: Sequence[Choice]) -> dict[int, str]:
        """Return {label: name} of the labels, or of the bits.

        Raises
        ------
        UsageError
            There are bits of several segments.
        """
        if self.values != "bits":
            return {choice.label: choice.name for choice in choices}
        if len(choices) != 1:
            raise UsageError(
                f"values='bits' of {len(choices)} segments: segments=[...] chooses one"
            )
        return dict(BITS)

    def of(self, annotation: AnnotationFacts, frames: SegFrames) -> "StoredFractions":
        """Return what becomes of the values of the frames of a SEG.

        Raises
        ------
        AnnotationError
            The fractions are bit masks, or there is no threshold.
        UsageError
            Bits or fractions are asked of a SEG of another type.
        """
        kind = annotation.segmentation_type
        if kind != "FRACTIONAL":
            if self.values != "labels":
                raise UsageError(
                    f"values={self.values!r} is for a FRACTIONAL SEG: this one is "
                    f"{kind or 'of an unknown type'}"
                )
            return StoredFractions("labels", 1, None)
        first = frames.source_of(0)
        if self.values != "bits" and names_bits(first.file, first.byte_offset):
            raise AnnotationError(
                "the SEG calls bit masks fractions: its private element (0117,xxD3) names the "
                "bits; values='bits' reads them"
            )
        highest = annotation.maximum_fractional_value or 255
        return StoredFractions(self.values, self._lowest(annotation, highest), highest)

    def _lowest(self, annotation: AnnotationFacts, highest: int) -> float:
        """Return the lowest stored value that counts as part of a segment."""
        if self.values != "labels":
            return 1
        if self.threshold is None:
            raise AnnotationError(
                f"the SEG has fractions ({annotation.fractional_type or 'of an unknown type'}): "
                "threshold=0.5 makes labels of them, values='fractions' reads them"
            )
        if not 0 < self.threshold <= 1:
            raise AnnotationError(f"threshold={self.threshold}: expected a fraction above 0 to 1")
        return self.threshold * highest


@dataclass(frozen=True, slots=True)
class StoredFractions:
    """What becomes of stored values: `lowest` counts as part, `highest` is the fraction 1.

    `highest` is None for a SEG that is not FRACTIONAL.
    """

    values: LabelValues
    lowest: float
    highest: int | None

    def piece(self, where: tuple[slice, ...], stored: Values, label: int) -> Piece:
        """Return the piece of a block for the stored values of a segment.

        Raises
        ------
        AnnotationError
            A value is above Maximum Fractional Value.
        """
        if stored.dtype == np.bool_:
            return Piece(where, stored, label)
        if self.values == "bits":
            return Piece(where, None, stored)
        if self.highest is not None:
            self._require_possible(stored, self.highest)
            if self.values == "fractions":
                return Piece(where, (stored / np.float32(self.highest)).astype(np.float32), label)
        mask: Mask = stored >= self.lowest
        return Piece(where, mask, label)

    def _require_possible(self, stored: Values, highest: int) -> None:
        found = int(stored.max(initial=0))
        if found > highest:
            raise AnnotationError(
                f"the SEG has a fraction of {found} in {highest}ths, above Maximum Fractional "
                "Value (0062,000E): its values are no fractions",
                found=found,
                expected=highest,
            )


NO_FRACTIONS: Final = Fractions()
