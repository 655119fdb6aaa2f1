"""Stacks and frames that a user names by numbers, views or a DataFrame of an index.

Numbers alone may be those of another index. Views know theirs. A DataFrame loses everything but its
columns on the way through joins: the UIDs and the other facts of its rows must agree with the
numbers.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from dicomdl.errors import UsageError
from dicomdl.index._selections import Flags, in_rows, in_stacks
from dicomdl.index.rows import Generation
from dicomdl.index.studies import Series, Study
from dicomdl.index.views import Group, Stack, Stacks

View: TypeAlias = Stack | Stacks | Group | Series | Study

# Name of the numbers, and of the UIDs that must agree with them.
STACK_NUMBERS: Final = ("stack", "series_instance_uid")
FRAME_NUMBERS: Final = ("row", "sop_instance_uid")
# Facts of stacks that must agree, too, where the table still has them: after another scan, a number
# may be that of another echo of the same Series.
_STACK_FACTS: Final = ("slices", "group_index", "dimension")


def parts_of(given: Any) -> Iterator[tuple[Generation, Sequence[int]]]:
    """Return (generation, numbers of stacks) of a view or of a list of views; else nothing."""
    if isinstance(given, Stack):
        yield given._generation, [given.number]
    elif isinstance(given, Stacks):
        yield given._generation, given.numbers.tolist()
    elif isinstance(given, Group | Series):
        yield from parts_of(given.stacks)
    elif isinstance(given, Study):
        yield from parts_of(given.series)
    elif isinstance(given, list | tuple) and all(isinstance(each, View) for each in given):
        for each in given:
            yield from parts_of(each)


def flags_of_stacks(generation: Generation, stacks: Any) -> Flags:
    """Return (frames,) flags of stacks that are given as numbers or as views of the index.

    Raises
    ------
    UsageError
        The stacks are of another index or scan, or something is no number of a stack.
    """
    if isinstance(stacks, Iterator):
        stacks = list(stacks)
    parts = list(parts_of(stacks))
    if any(other.address[:2] != generation.address[:2] for other, _ in parts):
        raise UsageError(
            "the stacks are of another index, or of another scan of this one: take them from "
            "index.stacks again"
        )
    if parts:
        numbers = [number for _, several in parts for number in several]
        return in_stacks(generation, numbers)
    return in_stacks(generation, whole_numbers(stacks, "stacks"))


def whole_numbers(given: Any, name: str) -> npt.NDArray[np.int64]:
    """Return (n,) int64 of one or several numbers of stacks or frames.

    Raises
    ------
    UsageError
        Something is no whole number. The message quotes no value: it may be a PatientID.
    """
    several = isinstance(given, Iterable) and not isinstance(given, str | bytes)
    array = np.asarray(list(given) if several and not _is_scalar(given) else [given])
    if array.size == 0:
        return np.zeros(0, dtype=np.int64)
    if array.dtype.kind == "b":
        raise UsageError(
            f"of_{name} takes numbers of {name}, not flags: pass table[flags], or "
            "numpy.flatnonzero(flags)"
        )
    if array.dtype.kind not in "iuf" or array.ndim != 1:
        kind = type(array.flat[0]).__name__.removesuffix("_")
        raise UsageError(f"of_{name} takes numbers of {name}, not values of type {kind}")
    if array.dtype.kind == "f" and not np.array_equal(array, np.round(array)):
        raise UsageError(f"of_{name} takes whole numbers of {name}, not fractions or NaN")
    return array.astype(np.int64)


def _is_scalar(given: Any) -> bool:
    """Whether this is an array of NumPy without axes, which looks iterable."""
    return isinstance(given, np.ndarray) and not given.ndim


def flags_of_table(generation: Generation, table: Any) -> Flags:
    """Return (frames,) flags of the stacks or frames that a DataFrame names.

    Parameters
    ----------
    generation
        The generation of the index.
    table
        A DataFrame of ``to_pandas("stacks")`` or ``to_pandas("frames")``, perhaps filtered, sorted
        or joined. A table with the numbers of both is one of frames.

    Raises
    ------
    UsageError
        The DataFrame has no numbers, or its UIDs are not those of the index.
    """
    if (rows := _numbers(table, FRAME_NUMBERS[0])) is not None:
        flags = in_rows(generation, rows)
        _require_same(generation, table, FRAME_NUMBERS[1], rows)
        return flags
    if (stacks := _numbers(table, STACK_NUMBERS[0])) is not None:
        flags = in_stacks(generation, stacks)
        _require_same(generation, table, STACK_NUMBERS[1], generation.stack_starts[stacks])
        _require_same_facts(generation, table, stacks)
        return flags
    raise UsageError(
        "the table has neither stack numbers nor frame rows: a join drops the index of a "
        "DataFrame, so call reset_index() before it"
    )


def _numbers(table: Any, name: str) -> npt.NDArray[np.int64] | None:
    """Return the numbers in a column or in the index of a DataFrame; None without them."""
    if name in table.columns:
        given = np.asarray(table[name])
    elif table.index.name == name:
        given = np.asarray(table.index)
    else:
        return None
    if given.size and given.dtype.kind not in "iu":
        raise UsageError(f"the numbers {name!r} of the table are {given.dtype}, not integers")
    return given.astype(np.int64)


def _require_same(
    generation: Generation, table: Any, uid: str, rows: npt.NDArray[np.int64]
) -> None:
    """Raise UsageError unless the UIDs in the table are those of frame rows of the index."""
    if uid not in table.columns:
        raise UsageError(f"the table has no column {uid!r}, which proves that it is of this index")
    _raise_differing(table, uid, generation.frames.values(uid, rows))


def _require_same_facts(generation: Generation, table: Any, stacks: npt.NDArray[np.int64]) -> None:
    """Raise UsageError unless the facts that the table still has are those of the stacks."""
    for name in _STACK_FACTS:
        if name in table.columns:
            _raise_differing(table, name, generation.stacks.values(name, stacks))


def _raise_differing(table: Any, name: str, held: Any) -> None:
    # NaN is what pandas reads for a blank text in a CSV file.
    given = [value if value == value else "" for value in table[name].tolist()]
    differing = sum(a != b for a, b in zip(given, held, strict=True))
    if differing:
        raise UsageError(
            f"{differing} of {len(given)} rows of the table are not of this index: their {name} is "
            "another one; call to_pandas() of this index again",
            rows=differing,
        )
