"""Places of labels in a stack: how many voxels of each label a slice has, and the n-th of them.

A census reads a label map once, slab by slab, and keeps one number per slice and label: 44 kB for
10 labels of 500 slices. A voxel is then found by reading its slice only.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, overload

import numpy as np

from dicomdl.arrays import Ints, Values, Voxel
from dicomdl.errors import UsageError, position_in, rows_of_slice

# Labels of a box of a stack, from its first voxel to the one after its last.
ReadBox = Callable[[Voxel, Voxel], Values]
# Bytes of labels that are read at once.
SLAB_BYTES: Final = 1 << 22


@dataclass(frozen=True, slots=True, eq=False)
class Census:
    """The number of voxels of each label in each slice of a label map.

    Attributes
    ----------
    labels
        (labels,) int64, ascending: the labels that have voxels, with the background.
    counts
        (slices, labels) int32.
    """

    labels: Ints
    counts: Values

    @classmethod
    def of(cls, read: ReadBox, shape: Voxel) -> "Census":
        """Count the labels of a stack of `shape`, of which `SLAB_BYTES` are read at once."""
        found: dict[int, Values] = {}
        for first, last in slabs(shape, 1):
            for z, plane in enumerate(read((first, 0, 0), (last, *shape[1:])), first):
                for label, count in _counts(plane):
                    if label not in found:
                        found[label] = np.zeros(shape[0], np.int32)
                    found[label][z] = count
        labels = sorted(found)
        counts = [found[label] for label in labels]
        return cls(
            np.array(labels, np.int64),
            np.stack(counts, axis=1) if counts else np.zeros((shape[0], 0), np.int32),
        )

    @classmethod
    def of_counts(cls, labels: Sequence[int], counts: Values, pixels: int) -> "Census":
        """Return the census of labels above 0 with these counts; the rest is background.

        Parameters
        ----------
        labels
            The labels.
        counts
            (slices, labels) voxels.
        pixels
            The number of voxels of a slice.
        """
        background = pixels - counts.sum(axis=1, keepdims=True)
        every = np.concatenate([background, counts], axis=1).astype(np.int32)
        numbers = np.array([0, *labels], np.int64)
        order = np.argsort(numbers)
        present = order[np.asarray(every.any(axis=0))[order]]
        return cls(numbers[present], every[:, present])

    def voxels(self, read: ReadBox, shape: Voxel) -> "Mapping[int, LabelVoxels]":
        """Return {label: its voxels}, in ascending order of labels."""
        return {
            label: LabelVoxels(
                label, np.cumsum(self.counts[:, number], dtype=np.int64), read, shape
            )
            for number, label in enumerate(self.labels.tolist())
        }


class LabelVoxels(Sequence[Values]):
    """All voxels of one label, in the order of slices, rows and columns; each is read when asked.

    Parameters
    ----------
    label
        The label.
    ends
        (slices,) int64: the number of its voxels up to and with each slice.
    read
        A function that reads a box of the label map.
    shape
        (slices, rows, columns) of the label map.
    """

    def __init__(self, label: int, ends: Ints, read: ReadBox, shape: Voxel) -> None:
        self._label, self._ends, self._read, self._shape = label, ends, read, shape

    def __len__(self) -> int:
        return int(self._ends[-1])

    @overload
    def __getitem__(self, number: int) -> Values: ...
    @overload
    def __getitem__(self, number: slice) -> Sequence[Values]: ...
    def __getitem__(self, number: Any) -> Any:
        """Return (3,) int32: a voxel by its number from 0; several for a slice."""
        if isinstance(number, slice):
            return [self[each] for each in rows_of_slice(number, len(self), "voxel")]
        at = position_in(number, len(self), "voxel")
        z = int(np.searchsorted(self._ends, at, side="right"))
        before = int(self._ends[z - 1]) if z else 0
        (plane,) = self._read((z, 0, 0), (z + 1, *self._shape[1:]))
        pixels = np.flatnonzero(plane == self._label)
        if at - before >= len(pixels):
            raise UsageError(
                f"label {self._label} had more than {len(pixels)} voxels in slice {z} before: a "
                "function of labels must return the same map each time"
            )
        row, column = divmod(int(pixels[at - before]), self._shape[2])
        return np.array([z, row, column], np.int32)


def slabs(shape: Voxel, itemsize: int) -> list[tuple[int, int]]:
    """Return (first, after the last) slice of each slab of a stack, of up to `SLAB_BYTES`."""
    height = max(1, SLAB_BYTES // max(1, shape[1] * shape[2] * itemsize))
    return [(first, min(first + height, shape[0])) for first in range(0, shape[0], height)]


def _counts(plane: Values) -> list[tuple[int, int]]:
    """Return (label, number of pixels) of the labels of a slice."""
    if plane.dtype.kind != "u" or plane.dtype.itemsize > 2:
        labels, counts = np.unique(plane, return_counts=True)
        return list(zip(map(int, labels), counts.tolist(), strict=True))
    # Background is most of a slice, and numbers of pixels by label are counted as 64 bits.
    labelled = plane[plane != 0]
    every = np.bincount(labelled, minlength=1)
    every[0] = plane.size - labelled.size
    present = np.flatnonzero(every)
    return list(zip(present.tolist(), every[present].tolist(), strict=True))
