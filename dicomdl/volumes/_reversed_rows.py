"""The rows of volumes that a file stores in reverse under a header that does not say so."""

from collections.abc import Sequence
from typing import Final, Literal, get_args

from dicomdl.arrays import Mask, Values
from dicomdl.errors import GeometryError, UsageError
from dicomdl.index.views import Stack

ReversedRows = Literal["accept", "turn"]
_POLICIES: Final = get_args(ReversedRows)


def turn_rows(
    array: Values,
    padding: Mask | None,
    stacks: Sequence[Stack],
    policy: ReversedRows,
    reduce: int,
) -> None:
    """Turn the rows of stacks that are stored in reverse, in place, if the policy says so.

    `array` has the slices of all stacks, (slice, row, column[, sample]), and `padding` their mask.
    """
    if policy not in _POLICIES:
        raise UsageError(
            f"reversed_rows={policy!r}: expected one of {', '.join(map(repr, _POLICIES))}"
        )
    if policy == "accept":
        return
    start = 0
    for stack in stacks:
        slices = slice(start, start + stack.slices)
        start = slices.stop
        found = stack.detail.get("reversed_rows")
        if found is None:
            continue
        if found != "all":
            raise GeometryError(
                "the header does not tell which time points of GE's epi_pepolar have reversed "
                "rows: read the stacks without reversed_rows="
            )
        if reduce:
            raise UsageError(
                f"reduce={reduce} keeps other rows of an image stored in reverse: read it in full"
            )
        for values in (array, padding):
            if values is not None:
                values[slices] = values[slices, ::-1].copy()
