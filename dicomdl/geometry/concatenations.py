"""Concatenations: instances that a writer has divided into several files (PS3.3 C.7.6.16.2.2.4).

The files of a concatenation are one instance for whoever reads them. Their number in it, and not
their names, UIDs or Instance Number, which is one for all of them, gives the order of their frames.
"""

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np

from dicomdl.arrays import Floats, Ints, Mask
from dicomdl.geometry._facts import Facts

CONCATENATION: Final = "concatenation_uid"
NUMBER: Final = "in_concatenation_number"
TOTAL: Final = "in_concatenation_total_number"


class Missed(NamedTuple):
    """How many files of a concatenation are absent, and how many it has."""

    absent: int
    parts: int


def are_parts(facts: Facts) -> Mask:
    """Mask of frames, (n,), whose file is a part of a concatenation."""
    codes, uids = facts.codes(CONCATENATION)
    return np.asarray(np.array([bool(uid) for uid in uids] or [False])[codes])


def are_of_several(facts: Facts) -> Mask:
    """Mask of frames, (n,), whose instance has several frames, in one file or in its parts."""
    return (facts.numbers("number_of_frames") > 1) | are_parts(facts)


def lacking_parts(facts: Facts, series: Ints, stacks: Sequence[Ints]) -> dict[int, dict[str, Any]]:
    """Find stacks of a concatenation of which files are absent.

    Parameters
    ----------
    facts
        Columns of all frames.
    series
        (n,) number of the Series of each frame.
    stacks
        The rows of every stack.

    Returns
    -------
    dict
        First row of a stack -> the remark on it: how many files are absent, of how many.
    """
    rows = np.flatnonzero(are_parts(facts))
    if not len(rows):
        return {}
    pairs = np.column_stack([series[rows], facts.ranks(CONCATENATION)[rows]])
    wholes = np.unique(pairs, axis=0, return_inverse=True)[1].reshape(-1)
    whole = np.full(len(facts), -1)
    whole[rows] = wholes
    rows = rows[np.argsort(wholes, kind="stable")]
    numbers, totals = facts.numbers(NUMBER), facts.numbers(TOTAL)
    missed = [
        missed_parts(numbers[each], totals[each])
        for each in np.split(rows, np.flatnonzero(np.diff(whole[rows])) + 1)
    ]
    found = {}
    for stack in stacks:
        own = [missed[number] for number in np.unique(whole[stack]).tolist() if number >= 0]
        if any(each.absent for each in own):
            absent, parts = (sum(counts) for counts in zip(*own, strict=True))
            found[int(stack[0])] = {"absent_parts": absent, "parts": parts}
    return found


def missed_parts(numbers: Floats, totals: Floats) -> Missed:
    """Return how many files of one concatenation are absent.

    Parameters
    ----------
    numbers, totals
        In-concatenation Number, from 1, and In-concatenation Total Number of the files that are
        there; NaN where unknown. The largest of all counts: a total is optional.
    """
    there = np.unique(numbers[numbers >= 1])
    parts = int(max(np.nanmax([*numbers, *totals, 0]), len(there)))
    return Missed(parts - len(there), parts)
