"""`LabelReader`, what every kind of annotation gives: blocks of labels on the grid of a stack."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, Final, Literal, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from dicomdl.arrays import Mask, Values, Voxel
from dicomdl.errors import DicomdlWarning, UsageError
from dicomdl.labels._bit_rows import BitRows
from dicomdl.labels.places import slabs

# Torch computes with these, and hardly with uint16.
LABEL_DTYPES: Final = (np.uint8, np.int16, np.int32)
# What a voxel holds: a label; the bits of a FRACTIONAL SEG; or the fraction of each label.
LabelValues = Literal["labels", "bits", "fractions"]


class Piece(NamedTuple):
    """Labels in a part of a block.

    Attributes
    ----------
    where
        The slices of the block.
    mask
        bool: the voxels that have the label; float32: its fraction per voxel. None: all that have
        one in `label`.
    label
        The label, or without a mask the label (or the bits) per voxel, 0 for none.
    """

    where: tuple[slice, ...]
    mask: Values | None
    label: int | Values


class LabelReader(Protocol):
    """Blocks of the labels of one stack."""

    @property
    def names(self) -> Mapping[int, str]:
        """{label: name}, in the order of the channels. Labels count from 1; 0 is background."""

    @property
    def shape(self) -> Voxel:
        """(slices, rows, columns) of the stack."""

    @property
    def values(self) -> LabelValues:
        """What a voxel holds."""

    @property
    def remarks(self) -> tuple[str, ...]:
        """What lies beyond the stack or is passed over otherwise, with counts."""

    @property
    def nbytes(self) -> int:
        """The memory of the reader, bytes."""

    def pieces(
        self, start: Voxel, stop: Voxel, only: Collection[int] | None = None
    ) -> Iterator[Piece | BitRows]:
        """Yield the labels of the block from voxel `start` up to `stop`, in the order of `names`.

        Where pieces of several labels have one voxel, the labels overlap. With `only`, masks of
        other labels may be left out.
        """

    def counts(self) -> Values | None:
        """Return (slices, labels) int32: the voxels of each label of the map per slice.

        Labels are in the order of `names`. None where only the label map tells.
        """

    def covered(self, start: Voxel, stop: Voxel) -> Mask | None:
        """Return the voxels of a block that the object annotates; None for all of them.

        Those without a label are background; nothing is known of the others.
        """


class NoLabels:
    """The labels of a stack that nobody annotated.

    Parameters
    ----------
    shape
        (slices, rows, columns) of the stack.
    """

    values: LabelValues = "labels"
    remarks: tuple[str, ...] = ()
    nbytes = 0

    def __init__(self, shape: Voxel) -> None:
        self.shape = shape
        self.names: Mapping[int, str] = {}

    def pieces(
        self, start: Voxel, stop: Voxel, only: Collection[int] | None = None
    ) -> Iterator[Piece]:
        """Yield nothing."""
        del start, stop, only
        return iter(())

    def counts(self) -> None:
        """Return None: voxels are counted in the label map."""

    def covered(self, start: Voxel, stop: Voxel) -> Mask:
        """Return that nothing is annotated."""
        return np.zeros([b - a for a, b in zip(start, stop, strict=True)], np.bool_)


OVERLAP: Final = (
    "voxels have several labels, and each got the last one: LabelSource(..., channels=True) keeps "
    "all in samples"
)


class OverlapWarning(DicomdlWarning):
    """Warning that labels overlap where a label map holds one per voxel."""


def label_block(
    reader: LabelReader, start: Voxel, stop: Voxel, dtype: npt.DTypeLike
) -> tuple[Values, int]:
    """Return a block as a label map, and the number of voxels with more than one label.

    Such voxels have the last of their labels in the order of `names`.
    """
    shape = stop[0] - start[0], stop[1] - start[1], stop[2] - start[2]
    block, overlap = np.zeros(shape, dtype), 0
    for first, last in slabs(shape, 1):
        ends = (start[0] + first, *start[1:]), (start[0] + last, *stop[1:])
        overlap += _put_labels(reader, block[first:last], *ends)
    return block, overlap


def _put_labels(reader: LabelReader, block: Values, start: Voxel, stop: Voxel) -> int:
    """Put labels into a block of zeros; return the number of voxels with more than one label."""
    twice: Mask | None = None
    overlaps, is_new = False, np.ones(len(block), np.bool_)
    for piece in reader.pieces(start, stop):
        if isinstance(piece, BitRows):
            twice = np.zeros(block.shape, np.bool_) if twice is None else twice
            overlaps |= piece.put_labels(block, twice) > 0
            is_new[...] = False
            continue
        where, mask, label = piece
        seen = block[where]
        was_new = is_new[where[0]].all()
        is_new[where[0]] = False
        if mask is None and (was_new or not seen.any()):
            seen[...] = label
            continue
        known = label != 0 if mask is None else mask
        both = (seen != 0) & known
        if both.any():
            twice = np.zeros(block.shape, np.bool_) if twice is None else twice
            both &= seen != label
            twice[where] |= both
            overlaps = True
        np.copyto(seen, label, where=known, casting="unsafe")
    return int(twice.sum()) if overlaps and twice is not None else 0


def channel_block(
    reader: LabelReader, start: Voxel, stop: Voxel, names: Sequence[str] | None = None
) -> Values:
    """Return a block as (labels, slices, rows, columns), bool; float32 for fractions.

    The channels are those of `names`, by default all labels of the reader in their order. Labels of
    one name share its channel; the channel of a name that the reader lacks is empty.
    """
    if names is None:
        channels = {label: number for number, label in enumerate(reader.names)}
    else:
        numbers = {name: number for number, name in enumerate(names)}
        channels = {label: numbers[name] for label, name in reader.names.items() if name in numbers}
    shape = tuple(b - a for a, b in zip(start, stop, strict=True))
    dtype = np.float32 if reader.values == "fractions" else np.bool_
    count = len(reader.names if names is None else names)
    block: Values = np.zeros((count, *shape), dtype)
    for piece in reader.pieces(start, stop, channels):
        if isinstance(piece, BitRows):
            piece.put_masks(block, channels)
            continue
        where, mask, label = piece
        if mask is None:
            for each, number in channels.items():
                block[number][where] |= (
                    (label & each) != 0 if reader.values == "bits" else label == each
                )
        elif int(label) in channels:
            seen = block[channels[int(label)]][where]
            np.maximum(seen, mask, out=seen)
    return block


def fraction_block(reader: LabelReader, start: Voxel, stop: Voxel) -> Values:
    """Return the fractions of the only label of a block, float32.

    Raises
    ------
    UsageError
        The reader has another number of labels.
    """
    if len(reader.names) != 1:
        raise UsageError(
            f"values='fractions' of {len(reader.names)} segments: channels=True gives one channel "
            "each, segments=[...] chooses one"
        )
    fractions: Values = channel_block(reader, start, stop)[0]
    return fractions


def smallest_dtype(labels: Mapping[int, Any]) -> npt.DTypeLike:
    """Return the smallest of uint8, int16 and int32 that holds the labels."""
    for dtype in LABEL_DTYPES:
        if is_held(labels, dtype):
            return dtype
    most = max(labels, default=0)
    raise UsageError(f"label {most} does not fit 32 bits", label=most)


def is_held(labels: Collection[int], dtype: npt.DTypeLike) -> bool:
    """Return whether an integer dtype holds all of the labels, negative ones too."""
    limits = np.iinfo(dtype)
    return bool(limits.min <= min(labels, default=0) and max(labels, default=0) <= limits.max)
