"""Stacks and frames that a DataFrame of an index names, with a proof that it is of that index.

A DataFrame loses everything but its columns on the way through joins, so its numbers alone may be
those of another index. The UIDs of its rows must agree with the numbers.
"""

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from dicomdl.errors import UsageError
from dicomdl.index._selections import Flags, in_rows, in_stacks
from dicomdl.index.rows import Generation

# Name of the numbers, and of the UIDs that must agree with them.
STACK_NUMBERS: Final = ("stack", "series_instance_uid")
FRAME_NUMBERS: Final = ("row", "sop_instance_uid")


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
    held = generation.frames.values(uid, rows)
    differing = sum(a != b for a, b in zip(table[uid].tolist(), held, strict=True))
    if differing:
        raise UsageError(
            f"{differing} of {len(rows)} rows of the table are not of this index: their {uid} is "
            "another one; call to_pandas() of this index again",
            rows=differing,
        )
