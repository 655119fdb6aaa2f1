"""Targets of all rows of a dataset, without reading pixels."""

from typing import Any

import numpy as np
import torch

from dicomdl.arrays import Ints, Values
from dicomdl.datasets._table_labels import NO_LABELS, TableLabels
from dicomdl.datasets.targets import (
    TargetColumns,
    class_numbers,
    weights_of_classes,
    weights_of_labels,
)
from dicomdl.errors import UsageError
from dicomdl.index.index import Index


class Targeted:
    """A dataset whose samples may have a `target`.

    Attributes
    ----------
    index
        The part of the index that the dataset takes.
    table
        The options `target`, `boxes` and `points`.
    """

    index: Index
    table: TableLabels = NO_LABELS

    def _target_rows(self) -> Ints:
        """Return (samples,) the row in the table `frames` that holds the target of each sample.

        Raises
        ------
        UsageError
            Members of a bag have targets of their own.
        """
        raise NotImplementedError

    @property
    def _target(self) -> TargetColumns:
        if self.table.target is None:
            raise UsageError("the dataset has no targets: pass target=, a joined column")
        return self.table.target

    @property
    def targets(self) -> Values:
        """(samples,) or (samples, columns): the `target` of each sample, without reading pixels.

        int64 or float32. -1 or NaN, or `Target.unknown`, is a sample of unknown target.
        """
        return self._target.values(self.index.joined, self._target_rows())

    @property
    def target_classes(self) -> tuple[Any, ...]:
        """The values of the classes, by their number; the names of several columns of numbers.

        Empty for numbers that stay as they are.
        """
        target = self._target
        if target.classes is not None:
            return target.classes
        return target.names if len(target.names) > 1 else ()

    @property
    def box_classes(self) -> tuple[Any, ...]:
        """The values of the classes of boxes, by their number; empty for integers."""
        boxes = self.table.boxes
        return () if boxes is None else boxes.classes or ()

    @property
    def point_classes(self) -> tuple[Any, ...]:
        """The values of the classes of points, by their number; empty for integers."""
        points = self.table.points
        return () if points is None else points.classes or ()

    def class_numbers(self) -> Ints:
        """Return (samples,) int64 the class of each sample, -1 where unknown.

        Raises
        ------
        UsageError
            The target is no class: several columns, fractions or negative numbers.
        """
        return class_numbers(self._target, self.targets)

    def class_weights(self) -> torch.Tensor:
        """Return the weights that balance the classes in a loss.

        Returns
        -------
        torch.Tensor
            (classes,) float32 for ``CrossEntropyLoss(weight=...)``: rare classes weigh more, the
            mean over the samples is 1, and a class without samples has 0. With several columns of
            0 and 1, (columns,) for ``BCEWithLogitsLoss(pos_weight=...)``: the samples without each
            label per sample with it. Samples of unknown target do not count.

        Raises
        ------
        UsageError
            There is no target, or it is no class.
        """
        target, targets = self._target, self.targets
        if len(target.names) > 1 and target.classes is None:
            weights = weights_of_labels(targets)
        else:
            numbers = class_numbers(target, targets)
            weights = weights_of_classes(numbers, len(target.classes or ()))
        return torch.from_numpy(np.asarray(weights, np.float32))
