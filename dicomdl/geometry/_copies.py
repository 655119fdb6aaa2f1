"""Duplicate frames: files of one instance, and frames with equal pixels at one position.

Pixels are compared only where no header attribute distinguishes two frames.
"""

from collections.abc import Callable, Set
from typing import Final

import numpy as np
import numpy.typing as npt

from dicomdl.arrays import Ints
from dicomdl.geometry._frame_columns import FrameColumns
from dicomdl.geometry._grouping import combined_codes, is_blank
from dicomdl.lazy import cached_property

Digest = Callable[[int], str]
_ONE_FRAME: Final = ("sop_instance_uid", "frame_number", "tile_top", "tile_left")
# Limit of frames per series whose pixels are compared; larger sets are reported as "unchecked".
_MOST_COMPARED: Final = 20_000


class Copies:
    """Registry of the copies found so far.

    Attributes
    ----------
    original
        Row of a copy -> row of its original.
    digests
        Row -> digest, for the rows whose pixels were compared.
    """

    def __init__(self, columns: FrameColumns, digest: Digest | None) -> None:
        self._columns = columns
        self._digest = digest
        self.original: dict[int, int] = {}
        self.digests: dict[int, str] = {}

    @cached_property
    def _repeated_instance(self) -> npt.NDArray[np.bool_]:
        """Mask of frames, (n,), that share SOP Instance UID and frame number with another frame.

        The usual reason is a file that exists twice.
        """
        keys = combined_codes([self._columns.ranks(name) for name in _ONE_FRAME])
        repeated = np.asarray(np.bincount(keys)[keys] > 1)
        if not repeated.any():
            return repeated
        name = _ONE_FRAME[0]
        return repeated & ~is_blank(self._columns.facts, name, self._columns.ranks(name))

    def without_same_instances(self, rows: Ints) -> Ints:
        """Return the rows without second files of an instance.

        Equal UIDs are not enough, because some writers give one UID to all their files: the
        positions and the pixels must be equal, too.
        """
        again = rows[self._repeated_instance[rows]]
        if len(again) == 0:
            return rows
        keys = combined_codes([*(self._columns.ranks(name)[again] for name in _ONE_FRAME)])
        where = np.nan_to_num(self._columns.positions[again], nan=1e300)
        positions = np.unique(np.column_stack([keys, where]), axis=0, return_inverse=True)[
            1
        ].reshape(-1)
        if not self.can_compare(len(again)):
            return rows
        return rows[~np.isin(rows, self.among(again, positions))]

    def first_of(self, row: int) -> int:
        """Return the original of a copy, which is no copy itself.

        A second file of an instance may be the copy of a frame that is later found to be the copy
        of another instance.
        """
        while row in self.original:
            row = self.original[row]
        return row

    def forget_all_but(self, rows: Set[int]) -> None:
        """Forget the copies beside `rows`: those of a division that was given up."""
        for row in self.original.keys() - rows:
            del self.original[row]

    def can_compare(self, count: int) -> bool:
        """Whether the pixels of `count` frames may be compared."""
        return self._digest is not None and count <= _MOST_COMPARED

    def are_of_pixels(self, rows: Ints) -> bool:
        """Whether the digests of rows are those of pixels.

        Digests of files (with a colon), and absent ones, may differ although the pixels are equal.
        """
        found = [self.digests.get(row, "") for row in rows.tolist()]
        return all(found) and not any(":" in digest for digest in found)

    def among(self, rows: Ints, positions: Ints) -> Ints:
        """Return the rows whose pixels equal those of an earlier row at the same position.

        The original of each copy is recorded in `original`.
        """
        assert self._digest is not None
        first: dict[tuple[int, str], int] = {}
        copies = []
        alone = np.bincount(positions)[positions] == 1
        for row, position in zip(rows[~alone].tolist(), positions[~alone].tolist(), strict=True):
            if row not in self.digests:
                self.digests[row] = self._digest(row)
            original = first.setdefault((position, self.digests[row] or f"unreadable {row}"), row)
            if original != row:
                self.original[row] = original
                copies.append(row)
        return np.array(copies, dtype=np.int64)
