"""The choice of time points (echoes, b-values, ...) of a group, for the option `times`."""

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np

from dicomdl.arrays import Ints, Mask
from dicomdl.datasets._permutations import checked_count
from dicomdl.errors import UsageError

_EXPECTED: Final = "expected None, a slice, numbers of volumes, 'random' or a RandomTimes"


@dataclass(frozen=True, slots=True)
class RandomTimes:
    """Random volumes of a group, drawn anew for each sample, in ascending order.

    Parameters
    ----------
    count
        The number of volumes, from 1.
    consecutive
        Whether they follow each other in the group.

    Raises
    ------
    UsageError
        `count` is not an integer from 1.

    Examples
    --------
    >>> RandomTimes(3)
    RandomTimes(count=3, consecutive=False)
    """

    count: int = 1
    consecutive: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "count", checked_count("count", self.count, 1))

    def draw(self, total: int, generator: np.random.Generator) -> Ints:
        """Return (count,) ascending numbers below `total`, drawn from `generator`."""
        if self.consecutive:
            return np.arange(self.count) + int(generator.integers(total - self.count + 1))
        return np.sort(generator.choice(total, self.count, replace=False)).astype(np.int64)


TimesOption: TypeAlias = slice | Sequence[int] | str | RandomTimes | None


@dataclass(frozen=True, slots=True)
class Times:
    """The volumes of a group that a sample has; without any option, all of them.

    Attributes
    ----------
    span
        Start, stop and step of a slice.
    numbers
        The numbers of the volumes, negative from the end.
    random
        Random volumes.
    """

    span: tuple[int | None, int | None, int | None] | None = None
    numbers: tuple[int, ...] | None = None
    random: RandomTimes | None = None

    @classmethod
    def of(cls, option: TimesOption) -> "Times":
        """Return the choice for the option of a dataset, checked."""
        if option is None:
            return cls()
        if isinstance(option, RandomTimes):
            return cls(random=option)
        if isinstance(option, str):
            if option != "random":
                raise UsageError(f"times={option!r}: {_EXPECTED}")
            return cls(random=RandomTimes())
        try:
            if isinstance(option, slice):
                slice(option.start, option.stop, option.step).indices(1)
                return cls(span=(option.start, option.stop, option.step))
            if any(isinstance(each, bool) for each in option):
                raise TypeError
            numbers = tuple(map(operator.index, option))
        except (TypeError, ValueError):
            raise UsageError(
                f"times={option!r}: {_EXPECTED}; times=[3] is volume 3, times=RandomTimes(3) three "
                "at random"
            ) from None
        if not numbers:
            raise UsageError(f"times={option!r}: no volume is chosen")
        return cls(numbers=numbers)

    def fit(self, counts: Ints) -> Mask:
        """Return flags: groups with these numbers of volumes that have the chosen ones."""
        if self.random is not None:
            return np.asarray(counts >= self.random.count)
        if self.numbers is not None:
            needed = max(max(self.numbers) + 1, -min(self.numbers))
            return np.asarray(counts >= needed)
        return np.array([len(self._slice(total)) > 0 for total in counts.tolist()], np.bool_)

    def choose(self, total: int, generator: np.random.Generator) -> Ints:
        """Return the numbers of the chosen volumes of a group of `total`, from 0."""
        if self.random is not None:
            return self.random.draw(total, generator)
        if self.numbers is not None:
            return np.array(self.numbers, np.int64) % total
        return np.array(self._slice(total), np.int64)

    def _slice(self, total: int) -> range:
        return range(*slice(*(self.span or (None, None, None))).indices(total))

    @property
    def is_random(self) -> bool:
        """Whether volumes are drawn at random."""
        return self.random is not None


ALL_TIMES: Final = Times()
