"""datasets.centers"""

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
        (Series Instance UID, x, y, z) a point, LPS mm. `from_table` takes what pandas and csv give.
    jitter
        The most voxels that a patch is moved by along each axis, another time in every epoch.
    """

    def __init__(
        self, points: Iterable[tuple[str, float, float, float]] = (), jitter: int = 0
    ) -> None:
        rows = list(points)
        names, places = (
            [str(row[0]) for row in rows],
            np.array([row[1:4] for row in rows], np.float64).reshape(-1, 3),
        )
        self._jitter = jitter
        # Arrays, not objects: a worker that looks at an object writes to its count of
        # references, and so copies its page.
        self.series, which = np.unique(np.array(names, np.str_), return_inverse=True)
        self.rows = np.argsort(which, kind="stable")
        self._ends = np.searchsorted(which[self.rows], np.arange(len(self.series) + 1))
        self._places = places[self.rows]
        self._digest = hashlib.blake2b(
            repr((names, jitter)).encode() + places.tobytes(), digest_size=16
        ).digest()

    @property
    def jitter(self) -> int:
        """The most voxels that a patch is moved by."""
        return self._jitter

    def __len__(self) -> int:
        return len(self._places)

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
        """The points of a data frame, or of a mapping of columns to values.

        Raises
        ------
        UsageError
            A column is missing, or a coordinate is no finite number.
        """
        missing = [name for name in columns if name not in table]
        if missing:
            raise UsageError(f"the table lacks the column(s) {', '.join(missing)}", missing=missing)
        try:
            points = [
                (str(uid), float(x), float(y), float(z))
                for uid, x, y, z in zip(*(table[name] for name in columns), strict=True)
            ]
        except (TypeError, ValueError):
            raise UsageError("a coordinate of the table is no number") from None
        if not all(math.isfinite(value) for point in points for value in point[1:]):
            raise UsageError("a coordinate of the table is not finite")
        return cls(points, jitter)

    def of_series(
        self, series_instance_uid: str
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
        """(n, 3) LPS mm of one Series, and (n,) the rows of the table that they are, from 0."""
        place = int(np.searchsorted(self.series, series_instance_uid))
        if place == len(self.series) or self.series[place] != series_instance_uid:
            return np.zeros((0, 3)), np.zeros(0, np.int64)
        own = slice(int(self._ends[place]), int(self._ends[place + 1]))
        return self._places[own], self.rows[own]

    def count(self, shape: Voxel, size: Voxel, per_stack: int) -> int:
        """Not known of a shape alone: the dataset counts the points that lie in a stack."""
        del shape, size, per_stack
        raise UsageError("the points of a table are counted by the dataset")

    def start(
        self, view: StackView, size: Voxel, number: int, generator: np.random.Generator
    ) -> Voxel:
        """Around point `number` of the stack; it may reach beyond the border."""
        center = view.centers()[number]
        moves = generator.integers(-self.jitter, self.jitter + 1, 3) if self.jitter else np.zeros(3)
        z, y, x = (
            round(float(c)) - s // 2 + int(m) for c, s, m in zip(center, size, moves, strict=True)
        )
        return z, y, x
