"""`LabelReader`, what every kind of annotation gives: blocks of labels on the grid of a stack."""

from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from dicomdl.arrays import Mask, Values, Voxel
from dicomdl.errors import UsageError
from dicomdl.labels.places import slabs

# Torch computes with these, and hardly with uint16.
_DTYPES: Final = (np.uint8, np.int16, np.int32)


class Piece(NamedTuple):
    """Labels in a part of a block.

    Attributes
    ----------
    where
        The slices of the block.
    mask
        bool: the voxels that have the label. None: all that have one in `label`.
    label
        The label, or without a mask the label per voxel, 0 for none.
    """

    where: tuple[slice, ...]
    mask: Mask | None
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
    def nbytes(self) -> int:
        """The memory of the reader, bytes."""

    def pieces(self, start: Voxel, stop: Voxel) -> Iterator[Piece]:
        """Yield the labels of the block from voxel `start` up to `stop`, in the order of `names`.

        Where pieces of several labels have one voxel, the labels overlap.
        """


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
    for where, mask, label in reader.pieces(start, stop):
        seen = block[where]
        if mask is None and not seen.any():
            seen[...] = label
            continue
        known = label != 0 if mask is None else mask
        both = (seen != 0) & known
        if both.any():
            twice = np.zeros(block.shape, np.bool_) if twice is None else twice
            both &= seen != label
            twice[where] |= both
        np.copyto(seen, label, where=known, casting="unsafe")
    return 0 if twice is None else int(twice.sum())


def channel_block(reader: LabelReader, start: Voxel, stop: Voxel) -> Mask:
    """Return a block as (labels, slices, rows, columns) bool, in the order of `names`."""
    channels = {label: number for number, label in enumerate(reader.names)}
    shape = tuple(b - a for a, b in zip(start, stop, strict=True))
    block = np.zeros((len(channels), *shape), np.bool_)
    for where, mask, label in reader.pieces(start, stop):
        if mask is not None:
            block[channels[int(label)]][where] |= mask
        else:
            for each, number in channels.items():
                block[number][where] |= label == each
    return block


def label_dtype(labels: Mapping[int, Any]) -> npt.DTypeLike:
    """Return the smallest of uint8, int16 and int32 that holds the labels."""
    most = max(labels, default=0)
    for dtype in _DTYPES:
        if most <= np.iinfo(dtype).max:
            return dtype
    raise UsageError(f"label {most} does not fit 32 bits", label=most)
