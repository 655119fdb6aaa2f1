"""A patch sampler for the points of a table, such as findings or lesions.

The points are held in arrays. A worker that reads Python objects changes their reference counts and
so copies the pages that it shares with its parent; arrays stay shared.
"""

import hashlib
import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from dicomdl.arrays import Voxel
from dicomdl.datasets.patch_samplers import StackView
from dicomdl.errors import UsageError


class Centers:
    """One patch around each point of a table.

    Parameters
    ----------
    points
        (Series Instance UID, x, y, z) per point, in LPS mm. `from_table` takes a data frame.
    jitter
        The largest random shift of a patch along each axis, in voxels; drawn anew in every epoch.

    Attributes
    ----------
    series
        (series,) the Series Instance UIDs, sorted.
    rows
        (points,) the rows of the points in the table, ordered by Series.
    """

    def __init__(
        self, points: Iterable[tuple[str, float, float, float]] = (), jitter: int = 0
    ) -> None:
        rows = list(points)
        names = [str(row[0]) for row in rows]
        points_mm = np.array([row[1:4] for row in rows], np.float64).reshape(-1, 3)
        self._jitter = jitter
        self.series, which = np.unique(np.array(names, np.str_), return_inverse=True)
        self.rows = np.argsort(which, kind="stable")
        self._ends = np.searchsorted(which[self.rows], np.arange(len(self.series) + 1))
        self._points_mm = points_mm[self.rows]
        self._digest = hashlib.blake2b(
            repr((names, jitter)).encode() + points_mm.tobytes(), digest_size=16
        ).digest()

    @property
    def jitter(self) -> int:
        """The largest random shift of a patch along each axis, in voxels."""
        return self._jitter

    @property
    def is_random(self) -> bool:
        """Whether patches are shifted at random."""
        return self._jitter != 0

    def __len__(self) -> int:
        return len(self._points_mm)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Centers) and other._digest == self._digest

    def __hash__(self) -> int:
        return hash(self._digest)

    def __repr__(self) -> str:
        return f"Centers({len(self):,} points, jitter={self.jitter})"

    @classmethod
    def from_table(
        cls,
        table: Any,
        *,
        jitter: int = 0,
        columns: Sequence[str] = ("series_instance_uid", "x", "y", "z"),
    ) -> "Centers":
        """Return the centers for a data frame, or for a mapping of columns to values.

        Parameters
        ----------
        table
            One row per point.
        jitter
            As for `Centers`.
        columns
            The names of the columns with the Series Instance UID and x, y, z in LPS mm.

        Returns
        -------
        Centers
            One patch per row of the table.

        Raises
        ------
        UsageError
            A column is missing, or a coordinate is not a finite number.
        """
        missing = [name for name in columns if name not in table]
        if missing:
            nouns = "column" if len(missing) == 1 else "columns"
            raise UsageError(f"the table lacks the {nouns} {', '.join(missing)}", missing=missing)
        try:
            points = [
                (str(uid), float(x), float(y), float(z))
                for uid, x, y, z in zip(*(table[name] for name in columns), strict=True)
            ]
        except (TypeError, ValueError):
            raise UsageError("a coordinate of the table is not a number") from None
        if not all(math.isfinite(value) for point in points for value in point[1:]):
            raise UsageError("a coordinate of the table is not finite")
        return cls(points, jitter)

    def of_series(
        self, series_instance_uid: str
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
        """Return the points of one Series.

        Parameters
        ----------
        series_instance_uid
            The Series Instance UID.

        Returns
        -------
        points : numpy.ndarray
            (n, 3) float64, LPS mm.
        rows : numpy.ndarray
            (n,) int64, their rows in the table.
        """
        number = int(np.searchsorted(self.series, series_instance_uid))
        if number == len(self.series) or self.series[number] != series_instance_uid:
            return np.zeros((0, 3)), np.zeros(0, np.int64)
        part = slice(int(self._ends[number]), int(self._ends[number + 1]))
        return self._points_mm[part], self.rows[part]

    def count(self, shape: Voxel, size: Voxel, per_stack: int) -> int:
        """Raise a UsageError: the dataset counts the points of each stack.

        Neither `shape` nor `size` nor `per_stack` determines their number.
        """
        del shape, size, per_stack
        raise UsageError("the points of a table are counted by the dataset")

    def start(
        self, view: StackView, size: Voxel, number: int, generator: np.random.Generator
    ) -> Voxel:
        """Return the start of a patch of `size` around point `number` of the stack in `view`.

        It may reach beyond the border. The jitter is drawn from `generator`.
        """
        center = view.centers()[number]
        moves = generator.integers(-self.jitter, self.jitter + 1, 3) if self.jitter else np.zeros(3)
        z, y, x = (
            round(float(c)) - s // 2 + int(m) for c, s, m in zip(center, size, moves, strict=True)
        )
        return z, y, x
