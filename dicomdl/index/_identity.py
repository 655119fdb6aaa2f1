"""The identity of stacks and Series whose slices have several, or lack one.

Slices are joined although their Study Instance UIDs differ, or their PatientID is blank in some
(`geometry._joining`). Such a stack has the first value that is not blank, in slice order.
Selections go by it, so that none takes a stack apart. A split goes by that of the Series.
"""

from typing import Final

import numpy as np
import numpy.typing as npt

from dicomdl.arrays import Ints
from dicomdl.index.table import Table

# Columns of frames that identify their stack.
IDENTITY: Final = ("patient_id", "study_instance_uid")
# Columns that identify a patient, Study or Series; each is used where those before it are blank.
SPLIT_LEVELS: Final = {
    "patient": ("patient_id", "study_instance_uid", "series_instance_uid"),
    "study": ("study_instance_uid", "series_instance_uid"),
    "series": ("series_instance_uid",),
}


def rows_of_stacks(frames: Table, name: str, starts: Ints) -> Ints:
    """Return (stacks,) the row that holds the identity of each stack.

    `starts` is (stacks + 1,) the first frame row of each stack, and the end.
    """
    blank = _blanks(frames, name)[: starts[-1]]
    if not blank.any() or len(starts) == 1:
        return starts[:-1]
    end = int(starts[-1])
    first = np.minimum.reduceat(np.where(blank, end, np.arange(end)), starts[:-1])
    return np.where(first < starts[1:], first, starts[:-1])


def rows_of_series(frames: Table, name: str, starts: Ints, series: Ints) -> Ints:
    """Return (stacks,) the row that holds the identity of the Series of each stack.

    `series` is (stacks,) the number of their Series.
    """
    rows = rows_of_stacks(frames, name, starts)
    # The first stack of each Series that has a value, else its first stack.
    order = np.lexsort([np.arange(len(rows)), _blanks(frames, name)[rows], series])
    _, first, inverse = np.unique(series[order], return_index=True, return_inverse=True)
    result = np.empty(len(rows), dtype=np.int64)
    result[order] = rows[order[first[inverse.reshape(-1)]]]
    return result


def per_frame(frames: Table, rows: Ints, starts: Ints) -> Ints:
    """Expand (stacks,) rows to (frames,) rows.

    A copy, which is in no stack, has the row of its original.
    """
    owners = np.repeat(rows, np.diff(starts))
    originals = frames.numbers("duplicate_of")[starts[-1] :].astype(np.int64)
    return np.concatenate([owners, owners[originals]])


def _blanks(frames: Table, name: str) -> npt.NDArray[np.bool_]:
    codes, values = frames.codes(name)
    return np.asarray(np.array([not value for value in values] or [False])[codes])
