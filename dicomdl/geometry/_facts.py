"""What the building of stacks asks of the frames: columns of a table, which may be any."""

from typing import Any, Protocol

import numpy.typing as npt

from dicomdl.arrays import Floats, Ints


class Facts(Protocol):
    """The frames' columns as the building of stacks needs them.

    Row i is the same frame in all of them.
    """

    def __len__(self) -> int: ...

    @property
    def constants(self) -> dict[str, Any]:
        """The columns that are known to hold one value in every row, and that value."""

    def ranks(self, name: str) -> Ints:
        """(n,) integers that order and equal each other as the column's values do."""

    def numbers(self, name: str) -> Floats:
        """(n,) floats, NaN where absent."""

    def vectors(self, name: str, size: int) -> Floats:
        """(n, size) floats, NaN where absent."""

    def text(self, name: str, row: int) -> str:
        """One value of a text column."""

    def codes(self, name: str) -> tuple[npt.NDArray[Any], list[Any]]:
        """(codes, values) of a column: row i holds values[codes[i]]."""

    def values(self, name: str, rows: Ints) -> list[Any]:
        """Some values of a column as Python objects; lists as tuples, None where absent."""
