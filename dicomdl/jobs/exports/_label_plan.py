"""The integers that label files of an export hold, and their names: the same ones for all samples.

nnU-Net and MONAI want one integer per name over all files. Segmentations number their segments
each on its own, so names are numbered from 1 here, in the order of a mapping or of the alphabet.
Masks of labels that overlap become bits, of which each name is a region.
"""

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from dicomdl.datasets.sample_labels import SampleLabels
from dicomdl.errors import UsageError
from dicomdl.index.index import Index
from dicomdl.labels.source import LabelSource

BACKGROUND: Final = "background"
IGNORE: Final = "ignore"
# Masks that the bits of one byte tell apart, with room for voxels that nobody annotated.
_MOST_MASKS: Final = 7


class LabelPlan:
    """The numbers of the labels of an index.

    Parameters
    ----------
    index
        The index of the samples.
    labels
        The labels of the dataset.

    Raises
    ------
    UsageError
        Voxels hold fractions or bits, or more masks overlap than integers tell apart.
    """

    def __init__(self, index: Index, labels: SampleLabels) -> None:
        self._index, self._labels = index, labels
        source = labels.source
        if source.values != "labels":
            raise UsageError(
                f"labels with values={source.values!r} are no label maps: expected values='labels'"
            )
        self.masks = labels.names
        if len(self.masks) > _MOST_MASKS:
            raise UsageError(
                f"{len(self.masks)} masks may overlap, at most {_MOST_MASKS} are told apart: "
                "choose some by segments= or rois=, or leave channels=True out"
            )
        self.has_ignored = source.has_unlabelled
        self._names = _names(index, source)
        if self.has_ignored and not (self._names or self.masks):
            raise UsageError(
                "voxels that nobody annotated need a number behind those of all labels: "
                "segments={name: number} names these"
            )

    def numbers(self, found: int) -> dict[str, Any]:
        """Return {name: number, or numbers of a region}, with background and ignored voxels.

        Parameters
        ----------
        found
            The largest number in the files, which decides where the labels have no names.
        """
        if self.masks:
            every = range(1, 1 << len(self.masks))
            told: dict[str, Any] = {
                name: [number for number in every if number >> bit & 1]
                for bit, name in enumerate(self.masks)
            }
        elif self._names:
            told = {name: number for number, name in enumerate(self._names, 1)}
        else:
            told = {f"label_{number}": number for number in range(1, found + 1)}
        ignored = {IGNORE: self._ignored(found)} if self.has_ignored else {}
        return {BACKGROUND: 0, **told, **ignored}

    def map_of(self, sample: Mapping[str, Any], stack: int) -> npt.NDArray[Any]:
        """Return the label map of a sample, (D, H, W), without ignored voxels."""
        label = sample["label"].numpy()
        if self.masks:
            bits = (1 << np.arange(len(self.masks))).astype(np.uint8)
            return np.asarray(np.tensordot(bits, label.astype(np.uint8), 1), np.uint8)
        if self._names:
            label = self._numbered(label, stack)
        elif label.min(initial=0) < 0:
            raise UsageError(f"a label is {int(label.min())}: expected numbers from 0")
        highest = int(label.max(initial=0)) + self.has_ignored
        dtype = np.uint8 if highest <= np.iinfo(np.uint8).max else np.int16
        return np.asarray(label.astype(dtype))

    def ignoring(self, values: npt.NDArray[Any], sample: Mapping[str, Any]) -> npt.NDArray[Any]:
        """Return a label map whose voxels that nobody annotated have the number of `IGNORE`."""
        if not self.has_ignored:
            return values
        values = values.copy()
        values[sample["unlabelled"].numpy()] = self._ignored(0)
        return values

    def _ignored(self, found: int) -> int:
        if self.masks:
            return 1 << len(self.masks)
        return (len(self._names) or found) + 1

    def _numbered(self, label: npt.NDArray[Any], stack: int) -> npt.NDArray[Any]:
        """Return a label map with the numbers of this plan."""
        source = self._labels.source
        if source.names:
            return label
        own = source.reader(self._index.stack(stack)).names
        number_of = {name: number for number, name in enumerate(self._names, 1)}
        table = np.zeros(max([*own, int(label.max(initial=0)), 0]) + 1, np.int64)
        for number, name in own.items():
            table[number] = number_of.get(str(name), 0)
        return np.asarray(table[label])


def _names(index: Index, source: LabelSource) -> tuple[str, ...]:
    """Return the names of all labels, in the order of their numbers; () for labels without."""
    if source.names:
        return source.names
    if not source.kind:
        return ()
    found: set[str] = set()
    for each in index.annotations:
        if each.kind == source.kind and each.status in ("ok", "partial"):
            found.update(map(str, source.labels_of(each).values()))
    return tuple(sorted(name for name in found if name.lower() != BACKGROUND))
