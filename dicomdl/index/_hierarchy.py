"""Frames and stacks in the hierarchy of DICOM: their stack, groups, Series and Studies."""

import operator

import numpy as np
import numpy.typing as npt

from dicomdl.errors import UsageError, no_integer
from dicomdl.index.rows import Generation
from dicomdl.index.studies import Series, Study
from dicomdl.index.text import Lines
from dicomdl.index.views import Group, Stack, Stacks


def stack_with(generation: Generation, row: int, number: int) -> Stack:
    """Return the stack that holds a row of `frames`; `number` names the frame in the error.

    Raises
    ------
    UsageError
        The frame is an equal copy of another frame, so it is in no stack.
    """
    starts = generation.stack_starts
    if row >= starts[-1]:
        original = generation.cell("duplicate_of")(row)
        raise UsageError(
            f"frame {number} is an equal copy of row {original} and in no stack",
            number=number,
            duplicate_of=original,
        )
    return Stack(generation, int(np.searchsorted(starts, row, side="right")) - 1)


def stack_numbered(generation: Generation, number: int) -> Stack:
    """Return the stack with a number.

    Raises
    ------
    UsageError
        There is no stack with this number, or it is no integer.
    """
    try:
        number = operator.index(number)
    except TypeError:
        raise no_integer(number, "stack") from None
    if not 0 <= number < len(generation.stacks):
        raise UsageError(
            f"there are stacks 0 to {len(generation.stacks) - 1}, not {number}", number=number
        )
    return Stack(generation, number)


def groups_of(generation: Generation, chosen: npt.NDArray[np.int64]) -> list[Group]:
    """Return the groups of two or more stacks that are all among the chosen ones.

    The segments of a SEG are labels, and no group.
    """
    whole = np.zeros(len(generation.stacks), dtype=bool)
    contents, names = generation.stacks.codes("content")
    is_label = np.array([name == "segmentation" for name in names], np.bool_)
    whole[chosen] = ~is_label[contents[chosen]]
    return Lines(
        Group(generation, n)
        for n, members in enumerate(generation.groups)
        if len(members) > 1 and whole[members].all()
    )


def series_of(generation: Generation, chosen: npt.NDArray[np.int64]) -> list[Series]:
    """Return the Series of the chosen stacks."""
    numbers = generation.stacks.numbers("series")[chosen]
    order = np.argsort(numbers, kind="stable")
    groups = np.split(chosen[order], np.flatnonzero(np.diff(numbers[order])) + 1)
    return Lines(Series(Stacks(generation, group)) for group in groups if len(group))


def studies_of(series: list[Series]) -> list[Study]:
    """Return the Studies of some Series, which are those of one patient and one UID."""
    groups: dict[tuple[str, str], list[Series]] = {}
    for each in series:
        first = each.stacks[0]
        groups.setdefault((first.patient_id, first.study_instance_uid), []).append(each)
    return Lines(Study(members) for members in groups.values())
