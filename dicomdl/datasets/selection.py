"""Which stacks of an index a dataset takes, and what it tells of those that it leaves out."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dicomdl.errors import UsageError
from dicomdl.geometry.regular import is_worth_filling
from dicomdl.geometry.verdict import FILLABLE, POLICIES, READABLE, VERDICTS, Irregular
from dicomdl.headers.uids import CONTENTS
from dicomdl.index.index import Index


class LeftOutWarning(UserWarning):
    """A dataset does not take everything that its index holds.

    The message is a table of what and why.
    """


@dataclass(frozen=True, slots=True)
class LeftOut:
    """Stacks that a dataset does not take, with the frames in them, and why."""

    reason: str
    stacks: int
    frames: int


class Taken:
    """What is left of an index, condition by condition, and what was left out for which reason, each stack once."""

    def __init__(self, index: Index) -> None:
        self.index = index
        self.left_out: list[LeftOut] = []

    def leave_out(self, reason: str, **conditions: Any) -> None:
        """Keep what meets the conditions, as `Index.select` does."""
        self._keep(self.index.select(**conditions), reason)

    def _keep(self, kept: Index, reason: str) -> None:
        if len(kept) < len(self.index):
            self.left_out.append(
                LeftOut(
                    reason, len(self.index.stacks) - len(kept.stacks), len(self.index) - len(kept)
                )
            )
            self.index = kept

    def leave_out_copies(self) -> None:
        """Keep the frames that are in a stack."""
        self.leave_out("equal copy of another frame", min_position_in_stack=0)

    def leave_out_other_content(self, content: str | None) -> None:
        """Keep what the pixels are to be."""
        if content is not None:
            self.leave_out(f"not content={content!r}", content=content)

    def leave_out_irregular(self, irregular: Irregular) -> None:
        """Keep the stacks that `read_volume` makes a volume of, and that lack nothing that others of their group have."""
        if irregular == "accept":
            return
        usable = READABLE if irregular == "raise" else READABLE | FILLABLE
        for verdict in VERDICTS:
            if verdict not in usable:
                self.leave_out(verdict, verdict=[other for other in VERDICTS if other != verdict])
        if irregular == "resample":
            self._leave_out_detail("uneven_spacing, slices moved in their plane", "in_plane_error")
            uneven = self.index.select(verdict="uneven_spacing").stacks
            sparse = [
                stack.number for stack in uneven if not is_worth_filling(stack.slices, stack.detail)
            ]
            numbers = self.index.stacks.numbers
            self._keep(
                self.index.of_stacks(numbers[~np.isin(numbers, sparse)]),
                "uneven_spacing, most slices would be made up",
            )
        self._leave_out_detail("incomplete in its group", "missing_in_group")

    def _leave_out_detail(self, reason: str, key: str) -> None:
        stacks = self.index.stacks
        has_key = stacks.have_detail(key)
        if has_key.any():
            self._keep(self.index.of_stacks(stacks.numbers[~has_key]), reason)


@dataclass(frozen=True, slots=True)
class StackChoice:
    """Which stacks a dataset takes.

    Of what content, what is done with irregular ones, and how long they are at least.
    """

    content: str | None
    irregular: Irregular
    min_slices: int

    def __post_init__(self) -> None:
        checked_content(self.content)
        if self.irregular not in POLICIES:
            raise UsageError(
                f"irregular={self.irregular!r}: expected one of {', '.join(map(repr, POLICIES))}"
            )

    def of(self, index: Index) -> Taken:
        """What it takes of an index."""
        taken = Taken(index)
        taken.leave_out_copies()
        taken.leave_out_other_content(self.content)
        taken.leave_out_irregular(self.irregular)
        taken.leave_out(f"fewer than {self.min_slices} slices", min_slices=self.min_slices)
        return taken


def tell(left_out: Sequence[LeftOut]) -> None:
    """Warn once of what is left out, as a table."""
    if left_out:
        width = max(len(row.reason) for row in left_out)
        table = "\n".join(
            f"  {row.reason:<{width}} {row.stacks:>8,} {row.frames:>10,}" for row in left_out
        )
        warnings.warn(
            f"left out:\n  {'reason':<{width}} {'stacks':>8} {'frames':>10}\n{table}",
            LeftOutWarning,
            stacklevel=3,
        )


def checked_content(content: str | None) -> str | None:
    """The content asked for, after a check that there is such."""
    if content is not None and content not in CONTENTS:
        raise UsageError(f"content={content!r}: expected None or one of {', '.join(CONTENTS)}")
    return content
