"""A patch sampler for the points of a table, such as findings or lesions.

The points are held in arrays. A worker that reads Python objects changes their reference counts and
so copies the pages that it shares with its parent; arrays stay shared.
"""

import hashlib
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from dicomdl.arrays import Voxel
from dicomdl.datasets._center_tables import PointTable, read_points
from dicomdl.datasets.patch_samplers import StackView
from dicomdl.errors import UsageError
from dicomdl.index.views import Stack


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
        places = np.array([row[1:4] for row in rows], np.float64).reshape(-1, 3)
        self._take(PointTable([str(row[0]) for row in rows], places), jitter)

    def _take(self, table: PointTable, jitter: int) -> None:
        """Keep the points in arrays, ordered by Series."""
        self._jitter = jitter
        self.series, which = np.unique(np.array(table.series, np.str_), return_inverse=True)
        self.rows = np.argsort(which, kind="stable")
        self._ends = np.searchsorted(which[self.rows], np.arange(len(self.series) + 1))
        self._places = table.places[self.rows]
        frames = table.frames
        self._frames = (
            None
            if frames is None
            else frames._replace(keys=frames.keys[self.rows], numbers=frames.numbers[self.rows])
        )
        named = [] if frames is None else [frames.column, frames.keys.tolist()]
        numbers = b"" if frames is None else frames.numbers.tobytes()
        self._digest = hashlib.blake2b(
            repr((list(table.series), jitter, named)).encode() + table.places.tobytes() + numbers,
            digest_size=16,
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
        return len(self._places)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Centers) and other._digest == self._digest

    def __hash__(self) -> int:
        return hash(self._digest)

    def __repr__(self) -> str:
        return f"Centers({len(self):,} points, jitter={self.jitter})"

    @classmethod
    def from_table(
        cls, table: Any, *, jitter: int = 0, columns: Sequence[str] | None = None
    ) -> "Centers":
        """Return the centers for a table of points.

        Parameters
        ----------
        table
            The path of a CSV or Parquet file, a data frame, an Arrow table, or a mapping of columns
            to values, with one row per point. These columns are known; others are ignored.

            - ``series_instance_uid, x, y, z``, or LUNA16's ``seriesuid, coordX, coordY, coordZ``:
              LPS mm.
            - ``series_id, instance_number, x, y`` (RSNA lumbar spine 2024): pixels of the frame
              with this Instance Number.
            - ``SeriesInstanceUID, SOPInstanceUID, coordinates`` (RSNA aneurysm 2025): pixels of
              this object, as text such as ``{'x': 258.36, 'y': 261.36}``. An entry ``'f'`` is the
              frame of a multi-frame object, from 0.

            Pixels count from the outer corner of the first one, as in annotations of DICOM (PS3.3
            C.10.5.1.2): its centre is (0.5, 0.5). A Series that is named by no UID is the folder of
            its files.
        jitter
            As for `Centers`.
        columns
            The names of the columns with the Series Instance UID and x, y, z in LPS mm, where they
            are others.

        Returns
        -------
        Centers
            One patch per row of the table.

        Raises
        ------
        UsageError
            The columns are not known or missing, a coordinate is not a finite number, or a key is a
            number with a fraction. The message tells the row, from 0.

        Examples
        --------
        >>> from dicomdl import Centers
        >>> luna = {"seriesuid": ["1.2"], "coordX": [-12.5], "coordY": [40], "coordZ": [-310]}
        >>> Centers.from_table(luna, jitter=4)
        Centers(1 points, jitter=4)
        """
        made = cls(jitter=jitter)
        made._take(read_points(table, columns), jitter)
        return made

    @property
    def column(self) -> str:
        """The column of the index that names the frames of points in pixels; "" for LPS mm."""
        return "" if self._frames is None else self._frames.column

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
            (n, 3) float64, LPS mm; for points in pixels (0, row, column) indices.
        rows : numpy.ndarray
            (n,) int64, their rows in the table.
        """
        part = self._part(series_instance_uid)
        return self._places[part], self.rows[part]

    def _part(self, series: str) -> slice:
        """Return the range of the points of a Series."""
        number = int(np.searchsorted(self.series, series))
        if number == len(self.series) or self.series[number] != series:
            return slice(0, 0)
        return slice(int(self._ends[number]), int(self._ends[number + 1]))

    def is_of(self, stack: Stack) -> bool:
        """Return whether the table names the Series of a stack, by its UID or by its folder.

        Parameters
        ----------
        stack
            The stack.

        Returns
        -------
        bool
            True if a point of the table is of its Series.
        """
        return any(self._part(name) != slice(0, 0) for name in _names_of(stack))

    def of_frames(self, stack: Stack) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
        """Return the points in pixels of the frames of a stack.

        Parameters
        ----------
        stack
            The stack.

        Returns
        -------
        voxels : numpy.ndarray
            (n, 3) float64 voxels of the stack.
        rows : numpy.ndarray
            (n,) int64, their rows in the table.

        Raises
        ------
        UsageError
            The points are in LPS mm, or a point names an object of several frames without the
            frame.
        """
        if self._frames is None:
            raise UsageError("the points of this table are in LPS mm: they name no frames")
        parts = [self._part(name) for name in _names_of(stack)]
        chosen = np.concatenate([np.arange(part.start, part.stop) for part in parts])
        slices: dict[str, list[int]] = {}
        for position, key in enumerate(stack.values(self._frames.column)):
            slices.setdefault(str(key), []).append(position)
        found = [self._slice(stack, slices, point) for point in chosen.tolist()]
        positions = np.array(found, np.int64)
        is_here = positions >= 0
        voxels = self._places[chosen[is_here]]
        voxels[:, 0] = positions[is_here]
        return voxels, self.rows[chosen[is_here]]

    def _slice(self, stack: Stack, slices: dict[str, list[int]], point: int) -> int:
        """Return the slice of a stack that a point names, or -1."""
        assert self._frames is not None
        positions = slices.get(str(self._frames.keys[point]), [])
        number = float(self._frames.numbers[point])
        if not np.isnan(number):
            numbers = [stack.frame_value(position, "frame_number") for position in positions]
            positions = [p for p, own in zip(positions, numbers, strict=True) if own == number]
        elif len(positions) > 1 and self.column == "sop_instance_uid":
            row = int(self.rows[point])
            raise UsageError(
                f"row {row} of the table names an object of {len(positions)} frames, and not which "
                "one: expected 'f' in its coordinates",
                row=row,
                frames=len(positions),
            )
        return positions[0] if positions else -1

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


def _names_of(stack: Stack) -> tuple[str, ...]:
    """Return the names by which a table may call the Series of a stack: its UID and its folder."""
    folders = str(stack.value("path")).replace("\\", "/").split("/")[:-1]
    return tuple(dict.fromkeys([stack.series_instance_uid, *folders[-1:]]))
