"""The methods of an index about parts that share nothing: `split`, `audit`, `duplicates`."""

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from dicomdl.index._components import stack_of_rows
from dicomdl.index._dividing import divide, requested, tell
from dicomdl.index.audits import Audit, Audited, audit
from dicomdl.index.duplicates import Duplicates, duplicates
from dicomdl.index.joined import Joined
from dicomdl.index.rows import Generation
from dicomdl.index.saved_splits import SavedSplit
from dicomdl.index.splits import Split


class Dividable:
    """An index that is split, audited and searched for equal frames."""

    _generation: Generation
    _joined: Joined

    def rows(self) -> npt.NDArray[np.int64]:
        """Return (len,) the selected rows of the `frames` table, int64, ascending."""
        raise NotImplementedError

    def _selection(self, mask: npt.NDArray[np.bool_]) -> Any:
        """Return the frames with a flag."""
        raise NotImplementedError

    def split(
        self,
        fractions: Sequence[float] | None = None,
        by: str = "patient",
        seed: int = 0,
        *,
        k: int | None = None,
        stratify: str | Sequence[str] | None = None,
        keep: SavedSplit | None = None,
    ) -> Split[Self]:
        """Split the index into parts that share no patient (or study, or series).

        What belongs together stays together: all that one PatientID, Study Instance UID, Series or
        Frame of Reference UID joins, and frames with equal pixels after
        ``scan(..., pixel_hash=True)``. A blank PatientID joins nothing, nor does the frame of
        reference of an atlas (PS3.6 table A-2). The parts are as near to their shares as such
        groups allow, and none is empty where there are as many groups as parts.

        Without `keep`, parts are made from scratch: a later split of more patients may move some.
        With `keep`, every group of an earlier split stays in its part, and only new ones are
        assigned, to the parts that are furthest below their share.

        Parameters
        ----------
        fractions
            The share of each part in the patients, together at most 1. The remainder is in no part.
        by
            The level that must not be divided: "patient", "study" or "series".
        seed
            Another seed gives other parts.
        k
            The number of folds of equal size, instead of fractions.
        stratify
            A column of the index or a joined one, or several, whose values are in balance. A
            patient has every value that a frame of theirs has. Numbers with more than 20 different
            values are divided into five bins of equal counts.
        keep
            What `load_split` or ``Split.saved`` returns. Fractions, `k` and `stratify` are then
            those of that split, unless they are given.

        Returns
        -------
        Split
            A tuple of indexes, one per part, that prints their sizes.

        Raises
        ------
        UsageError
            An unknown level or column, fractions that are negative or add up to more than 1, fewer
            groups than folds, or a group that joins two parts of `keep`.

        Warns
        -----
        SplitWarning
            A group is larger than the smallest part, or a part is empty because there are fewer
            groups than parts. The warning states the size of the group and the key that joins it.
        """
        generation, rows = self._generation, self.rows()
        request = requested(fractions, k, by, stratify, seed, keep)
        division = divide(generation, self._joined, rows, request)
        tell(division, 2)
        part_of_row = np.full(len(generation.frames), -1)
        part_of_row[rows] = division.part_of_stack[stack_of_rows(generation)[rows]]
        parts = [self._selection(part_of_row == part) for part in range(len(request.fractions))]
        return Split(parts, division)

    def audit(self, *parts: Self) -> Audit:
        """Search parts for what they share: patients, studies, pixels and more.

        Parameters
        ----------
        *parts
            Two or more indexes, such as training and test, of this index or of others.

        Returns
        -------
        Audit
            Every value of PatientID, Study, Series and Frame of Reference UID that occurs in two
            parts, every frame that is in both, and equal pixels of indexes with
            ``scan(..., pixel_hash=True)``. It prints a table; `ok` is True when nothing is shared.

        Raises
        ------
        UsageError
            Fewer than two parts, or something that is no index.

        Examples
        --------
        >>> import dicomdl, tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     data = dicomdl.demo_data(f"{folder}/demo", patients=4)
        ...     index = dicomdl.scan(data, f"{folder}/index", progress=False)
        >>> index.audit(*index.split((0.5, 0.5))).ok
        True
        """
        return audit([Audited.of(part) for part in parts])

    def duplicates(self) -> Duplicates:
        """Return the frames with equal pixels, those across patients first.

        Images of one value, such as black ones, and segmentations do not count.

        Returns
        -------
        Duplicates
            Sets of equal frames. It prints how many there are across patients, studies and series.

        Raises
        ------
        UsageError
            The index was made without ``scan(..., pixel_hash=True)``.
        """
        return duplicates(self._generation, self.rows())
