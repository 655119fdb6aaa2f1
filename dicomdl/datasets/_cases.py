"""Cases: the stacks of each sample of a dataset, as ragged arrays of stack numbers.

A plain dataset has one stack per case and holds no array but the numbers of its stacks. A group, a
pairing or a bag has several. A dataset pickles the rule that makes its cases of its index, and
makes them again in each process.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt

from dicomdl.index.index import Index

Numbers = npt.NDArray[np.int64]
# The number of a stack that a case lacks, such as an optional channel.
ABSENT: Final = -1


@dataclass(frozen=True, slots=True, eq=False)
class Cases:
    """Stack numbers (or frame numbers) of each sample.

    Attributes
    ----------
    numbers
        (members,) int64 `Stack.number`, case after case; `ABSENT` for a member that a case lacks.
        The first member of a case is never absent.
    starts
        (cases + 1,) int64 the first member of each case, and the end. None: one member per case.
    """

    numbers: Numbers
    starts: Numbers | None = None

    @classmethod
    def of(cls, members: Sequence[npt.ArrayLike]) -> "Cases":
        """Return the cases with the given members, each a list of numbers."""
        arrays = [np.asarray(each, np.int64) for each in members]
        numbers = np.concatenate(arrays) if arrays else np.zeros(0, np.int64)
        if all(len(each) == 1 for each in arrays):
            return cls(numbers)
        return cls(numbers, np.cumsum([0, *map(len, arrays)], dtype=np.int64))

    def __len__(self) -> int:
        return len(self.numbers) if self.starts is None else len(self.starts) - 1

    def __getitem__(self, case: int) -> Numbers:
        """Return (members,) the numbers of a case, from 0."""
        if self.starts is None:
            return self.numbers[case : case + 1]
        return self.numbers[self.starts[case] : self.starts[case + 1]]

    @property
    def firsts(self) -> Numbers:
        """(cases,) the first member of each case."""
        return self.numbers if self.starts is None else self.numbers[self.starts[:-1]]

    @property
    def counts(self) -> Numbers:
        """(cases,) the number of members of each case."""
        if self.starts is None:
            return np.ones(len(self.numbers), np.int64)
        return np.diff(self.starts)

    def where(self, flags: npt.NDArray[np.bool_]) -> "Cases":
        """Return the cases with a flag, (cases,) bool, in order."""
        if self.starts is None:
            return Cases(self.numbers[flags])
        kept, counts = np.repeat(flags, self.counts), self.counts[flags]
        return Cases(self.numbers[kept], np.concatenate([[0], np.cumsum(counts)]).astype(np.int64))


class CaseRule(Protocol):
    """A rule that makes the cases of an index: a frozen value, equal in every process."""

    def cases(self, index: Index) -> Cases:
        """Return the cases, in the order of the samples."""


@dataclass(frozen=True, slots=True)
class EachStack:
    """One case per complete stack, in the order of the index."""

    def cases(self, index: Index) -> Cases:
        """Return a case per stack."""
        return Cases(index.stacks.numbers)
