"""Slices that no stack holds together: many stacks of one slice in a Series or a Study.

A Series is usually one volume. Stacks of one slice at different positions of one orientation are
what is left when something unforeseen differs from slice to slice, even the PatientID.
"""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from dicomdl.arrays import Ints
from dicomdl.geometry._frame_columns import FrameColumns
from dicomdl.geometry._grouping import combined_codes
from dicomdl.headers.uids import content_of

# Minimum of slices that should have been one stack: two slices prove nothing.
_FEWEST: Final = 3


def scattered(columns: FrameColumns, stacks: Sequence[Ints]) -> dict[int, dict[str, Any]]:
    """Find the slices of one orientation that are stacks of their own.

    Localizers stand alone, and so do slices of a segmentation, because frames without a voxel of
    the segment may be omitted (PS3.3 C.8.20.2.3.1). Slices at fewer than three positions are no
    volume: time points of one slice, or slices that watch a contrast agent arrive.

    Software that replaces identifiers may write another Series Instance UID into every file. Series
    of one slice then have one Study and one Series Number.

    Parameters
    ----------
    columns
        Columns of all frames.
    stacks
        The rows of every stack.

    Returns
    -------
    dict
        Row -> the remark on its stack: the number of such slices in its Series and orientation, or
        of such Series in its Study.
    """
    alone = np.array([rows[0] for rows in stacks if len(rows) == 1], dtype=np.int64)
    alone = alone[columns.placed[alone]]
    uids = columns.identities.uids
    found = _apart(columns, alone, uids[alone], "slices_apart")
    numbers = columns.facts.numbers("series_number")
    sizes = np.bincount(uids)[uids]
    alone = alone[(sizes[alone] == 1) & np.isfinite(numbers[alone])]
    if len(alone) < _FEWEST:
        return found
    identities = columns.identities.columns
    keys = [identities[name].codes[alone] for name in ("patient_id", "study_instance_uid")]
    series = combined_codes([*keys, numbers[alone].astype(np.int64)])
    return found | _apart(columns, alone, series, "series_apart")


def _apart(columns: FrameColumns, alone: Ints, series: Ints, key: str) -> dict[int, dict[str, Any]]:
    """Find slices of one orientation among those of equal codes `series`, (len(alone),)."""
    inverse = np.unique(series, return_inverse=True)[1].reshape(-1)
    counts = np.bincount(inverse)
    found: dict[int, dict[str, Any]] = {}
    for number in np.flatnonzero(counts >= _FEWEST):
        rows = alone[inverse == number]
        rows = rows[[_is_slice(columns, row) for row in rows.tolist()]]
        if len(rows) < _FEWEST:
            continue
        for parallel in columns.planes(rows):
            unit = max(columns.tolerances.same_position_mm, 1e-6)
            positions = np.unique(np.rint(columns.positions[parallel] / unit), axis=0)
            if len(positions) >= _FEWEST:
                found |= {row: {key: len(parallel)} for row in parallel.tolist()}
    return found


def _is_slice(columns: FrameColumns, row: int) -> bool:
    """Whether a frame should be a slice of a volume."""
    localizer = "LOCALIZER" in columns.facts.text("image_type", row).split("\\")
    content = content_of(columns.facts.text("sop_class_uid", row))
    return not localizer and content != "segmentation"
