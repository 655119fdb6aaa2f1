"""States of many files as columns: a tuple per file takes longer to make than to compare."""

from array import array
from collections.abc import Iterable, Sequence
from typing import Final, overload

import numpy as np
import numpy.typing as npt

from dicomdl.storage.handles import State

# Numbers of a state, before its ETag.
_NUMBERS: Final = 4


class States(Sequence[State]):
    """The states of some files, in their order."""

    def __init__(self, states: Iterable[State] = ()) -> None:
        self._numbers = array("q")
        self._etags: list[str] = []
        for state in states:
            self.append(state)

    def __len__(self) -> int:
        return len(self._etags)

    @overload
    def __getitem__(self, row: int) -> State: ...
    @overload
    def __getitem__(self, row: slice) -> "States": ...
    def __getitem__(self, row: int | slice) -> "State | States":
        """Return the state of one file, or those of a range."""
        if isinstance(row, slice):
            return States(self[each] for each in range(*row.indices(len(self))))
        row = range(len(self))[row]
        size, modified, changed, inode = self._numbers[_NUMBERS * row : _NUMBERS * (row + 1)]
        return size, modified, changed, inode, self._etags[row]

    def append(self, state: State) -> None:
        """Add the state of one file."""
        self._numbers.extend(state[:_NUMBERS])
        self._etags.append(state[_NUMBERS])

    def append_unknown(self, count: int) -> None:
        """Add files whose states are zeros, until they are put."""
        self._numbers.frombytes(bytes(8 * _NUMBERS * count))
        self._etags += [""] * count

    def put(self, rows: npt.NDArray[np.int64], numbers: npt.NDArray[np.int64]) -> None:
        """Put the states, (rows, 4) without ETags, of some files."""
        self.numbers()[rows] = numbers

    def keep(self, rows: Sequence[int]) -> None:
        """Keep the states of some files."""
        kept = self.numbers()[np.array(rows, np.int64)]
        self._numbers = array("q", kept.tobytes())
        self._etags = [self._etags[row] for row in rows]

    def numbers(self) -> npt.NDArray[np.int64]:
        """Return (n, 4) size, times and inode; no state may be added while the array is in use."""
        return np.frombuffer(self._numbers, np.int64).reshape(-1, _NUMBERS)

    @property
    def etags(self) -> Sequence[str]:
        """The ETag per file."""
        return self._etags
