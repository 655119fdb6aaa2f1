"""Weights of rows, by which a sampler draws them."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from dicomdl.arrays import Floats, Values
from dicomdl.datasets._permutations import Rows, weighted
from dicomdl.datasets.targets import weights_of_classes
from dicomdl.errors import UsageError


def rows_of(source: Any) -> int:
    """Return the number of rows of a dataset, or of a number of rows."""
    return int(source) if isinstance(source, int | np.integer) else len(source)


@dataclass(frozen=True, slots=True, eq=False)
class RowWeights:
    """The weight of each row, and the group that it is drawn within.

    Attributes
    ----------
    weights
        (rows,) float64.
    groups
        (rows,) the class of each row; its weight where there are no classes.
    """

    weights: Floats
    groups: Values

    @classmethod
    def of(
        cls, option: Sequence[float] | npt.ArrayLike | str | None, source: Any
    ) -> "RowWeights | None":
        """Return the weights for the option of a sampler; None without weights.

        Raises
        ------
        UsageError
            The option has an unknown value, or the source has no classes.
        """
        if option is None:
            return None
        if isinstance(option, str):
            return cls._of_target(option, source)
        rows = rows_of(source)
        try:
            weights = np.array(option, np.float64)
        except (TypeError, ValueError, OverflowError):
            raise UsageError("weights: expected 'target' or a number per row") from None
        if weights.shape != (rows,):
            raise UsageError(
                f"{' x '.join(map(str, weights.shape))} weights for {rows} rows: expected one per "
                "row",
                rows=rows,
            )
        if not (np.isfinite(weights).all() and (weights >= 0).all() and (weights > 0).any()):
            raise UsageError("weights are finite, not negative, and not all 0")
        with np.errstate(over="ignore"):
            is_too_large = not np.isfinite(weights.sum())
        if is_too_large:
            # Draws go along the sum of the weights, of which only the proportions count.
            weights /= weights.max()
        return cls(weights, weights)

    @classmethod
    def _of_target(cls, option: str, source: Any) -> "RowWeights":
        """Return weights by which the classes of a dataset are drawn equally often."""
        if option != "target":
            raise UsageError(f"weights={option!r}: expected 'target' or a number per row")
        if not hasattr(source, "class_numbers"):
            raise UsageError(
                f"weights='target' needs a dataset with target=, not a {type(source).__name__}: of "
                "a part of one take weights of your own, by its `targets`"
            )
        numbers = source.class_numbers()
        if not (numbers >= 0).any():
            raise UsageError("weights='target': the target of every row is unknown")
        of_class = weights_of_classes(numbers, 0)
        return cls(np.where(numbers < 0, 0.0, of_class[numbers]), numbers)

    @property
    def digest(self) -> str:
        """What tells these weights from others."""
        return hashlib.blake2b(self.weights.tobytes(), digest_size=8).hexdigest()

    def order(self, seed: int, epoch: int) -> Rows:
        """Return (rows,) as many rows as there are, drawn for an epoch."""
        return weighted(self.weights, self.groups, len(self.weights), seed, epoch)
