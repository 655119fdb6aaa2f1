"""Frames that are there twice: files of one instance, and equal pixels at one place.

Pixels are looked at only where nothing in the headers tells two frames apart.
"""

import functools
from collections.abc import Callable
from typing import Final

import numpy as np
import numpy.typing as npt

from dicomdl.arrays import Ints
from dicomdl.geometry._frame_columns import FrameColumns
from dicomdl.geometry._grouping import combined_codes, is_blank

Digest = Callable[[int], str]
_ONE_FRAME: Final = ("sop_instance_uid", "frame_number", "tile_top", "tile_left")
# Frames of one series whose pixels are compared; more are told as "unchecked".
_MOST_COMPARED: Final = 20_000


class Copies:
    """The copies that were found so far.

    Attributes
    ----------
    original
        The row of a copy -> the row of what it is a copy of.
    digests
        Those of the rows whose pixels were compared.
    """

    def __init__(self, columns: FrameColumns, digest: Digest | None) -> None:
        self._columns = columns
        self._digest = digest
        self.original: dict[int, int] = {}
        self.digests: dict[int, str] = {}

    @functools.cached_property
    def _repeated_instance(self) -> npt.NDArray[np.bool_]:
        """(n,) which frames share SOP Instance UID and frame number with another one.

        A file that is there twice.
        """
        keys = combined_codes([self._columns.facts.ranks(name) for name in _ONE_FRAME])
        return np.asarray(
            (np.bincount(keys)[keys] > 1) & ~is_blank(self._columns.facts, "sop_instance_uid")
        )

    def without_same_instances(self, rows: Ints) -> Ints:
        """Rows without the second files of an instance. The same UID is not enough.

        Some writers give one to all their files.
        """
        again = rows[self._repeated_instance[rows]]
        if len(again) == 0:
            return rows
        keys = combined_codes([*(self._columns.facts.ranks(name)[again] for name in _ONE_FRAME)])
        where = np.nan_to_num(self._columns.positions[again], nan=1e300)
        places = np.unique(np.column_stack([keys, where]), axis=0, return_inverse=True)[1].reshape(
            -1
        )
        if not self.can_compare(len(again)):
            return rows
        return rows[~np.isin(rows, self.among(again, places))]

    def can_compare(self, count: int) -> bool:
        """Whether the pixels of so many frames may be looked at."""
        return self._digest is not None and count <= _MOST_COMPARED

    def among(self, rows: Ints, places: Ints) -> Ints:
        """Those of the rows that hold the pixels of an earlier one at their place.

        What they are copies of is noted.
        """
        assert self._digest is not None
        first: dict[tuple[int, str], int] = {}
        copies = []
        alone = np.bincount(places)[places] == 1
        for row, place in zip(rows[~alone].tolist(), places[~alone].tolist(), strict=True):
            if row not in self.digests:
                self.digests[row] = self._digest(row)
            original = first.setdefault((place, self.digests[row] or f"unreadable {row}"), row)
            if original != row:
                self.original[row] = original
                copies.append(row)
        return np.array(copies, dtype=np.int64)
