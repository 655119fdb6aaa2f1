"""Protocol of the frame columns that the building of stacks reads, for any kind of table."""

from typing import Any, Protocol

import numpy.typing as npt

from dicomdl.arrays import Floats, Ints


class Facts(Protocol):
    """Columns of the frames; row i is the same frame in all of them."""

    def __len__(self) -> int: ...

    @property
    def constants(self) -> dict[str, Any]:
        """Columns known to hold one value in every row -> that value."""

    def ranks(self, name: str) -> Ints:
        """Return (n,) integers that order and equal each other as the column's values do."""

    def numbers(self, name: str) -> Floats:
        """Return (n,) floats, NaN where absent."""

    def vectors(self, name: str, size: int) -> Floats:
        """Return (n, size) floats, NaN where absent."""

    def text(self, name: str, row: int) -> str:
        """Return one value of a text column."""

    def codes(self, name: str) -> tuple[npt.NDArray[Any], list[Any]]:
        """Return (codes, values) of a column: row i holds values[codes[i]]."""

    def values(self, name: str, rows: Ints) -> list[Any]:
        """Return some values of a column as Python objects: lists as tuples, None where absent."""
