"""The choice of stacks that a dataset takes from an index, and the report of the rest.

Each stack is counted once, under the first condition that it does not meet.
"""

import os
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from dicomdl.arrays import Mask
from dicomdl.errors import DicomdlWarning, EmptySelection, UsageError
from dicomdl.geometry.regular import is_worth_filling
from dicomdl.geometry.verdict import FILLABLE, POLICIES, READABLE, VERDICTS, Irregular
from dicomdl.headers.uids import CONTENTS
from dicomdl.index.given import why_no_frames
from dicomdl.index.index import Index
from dicomdl.index.text import counted

# The package, whose frames a warning passes over.
_PACKAGE: Final = os.path.dirname(os.path.dirname(__file__)) + os.sep
# Left out of every dataset without a warning: the frame that it copies is taken.
_COPIES: Final = "equal copy of another frame"


class LeftOutWarning(DicomdlWarning):
    """A dataset leaves out a part of its index; the message is a table of reasons and counts."""


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A reason, with the numbers of stacks and frames that a dataset leaves out for it."""

    reason: str
    stacks: int
    frames: int


class Taken:
    """The part of an index that meets all conditions so far, and a list of what is left out."""

    def __init__(self, index: Index) -> None:
        index.require_readable()
        self.given = index
        self.index = index
        self.left_out: list[LeftOut] = []

    def leave_out(self, reason: str, **conditions: Any) -> None:
        """Select the frames that meet the conditions (see `Index.select`)."""
        self.continue_with(self.index.select(**conditions), reason)

    def continue_with(self, part: Index, reason: str) -> None:
        """Continue with a part of the index, and list the rest under a reason."""
        if len(part) < len(self.index):
            self.left_out.append(
                LeftOut(
                    reason, len(self.index.stacks) - len(part.stacks), len(self.index) - len(part)
                )
            )
            self.index = part

    def leave_out_copies(self) -> None:
        """Select the frames that are in a stack."""
        self.leave_out(_COPIES, min_position_in_stack=0)

    def leave_out_parts(self) -> None:
        """Select the complete stacks."""
        stacks = self.index.stacks
        if int(stacks.shapes()[:, 0].sum()) < len(self.index):
            parts, whole = self.index, self.index.of_stacks(stacks.numbers)
            touched = len(parts.stack_boundaries()) - 1
            self.left_out.append(
                LeftOut(
                    "a part of a stack, whose other slices are not selected",
                    touched - len(stacks),
                    len(parts) - len(whole),
                )
            )
            self.index = whole

    def leave_out_other_content(self, content: str | None) -> None:
        """Select the frames of a content; None selects all."""
        if content is not None:
            self.leave_out(f"content other than {content.replace('_', ' ')}", content=content)

    def leave_out_irregular(self, irregular: Irregular) -> None:
        """Select the stacks that `read_volume` reads, without those incomplete in their group."""
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
            worth = ~np.isin(self.index.stacks.numbers, sparse)
            self.keep_stacks(worth, "uneven_spacing, most slices would be made up")
        self._leave_out_detail("incomplete in its group", "missing_in_group")

    def leave_out_unplaced(self) -> None:
        """Select the stacks whose position and orientation are known."""
        unknown = np.isnan(self.index.stacks.affines()).any(axis=(1, 2))
        self.keep_stacks(np.logical_not(unknown), "no known orientation in the patient")

    def keep_stacks(self, flags: Mask, reason: str) -> None:
        """Select the complete stacks with a flag, (stacks,) bool."""
        if not flags.all():
            self.continue_with(self.index.of_stacks(self.index.stacks.numbers[flags]), reason)

    def _leave_out_detail(self, reason: str, key: str) -> None:
        """Select the stacks whose `detail` has no such key."""
        self.keep_stacks(~self.index.stacks.have_detail(key), reason)


@dataclass(frozen=True, slots=True)
class StackChoice:
    """The stacks that a dataset takes: content, treatment of irregular ones, least slices.

    `is_placed` takes only those whose position and orientation are known.
    """

    content: str | None
    irregular: Irregular
    min_slices: int
    is_placed: bool = False

    def __post_init__(self) -> None:
        checked_content(self.content)
        if self.irregular not in POLICIES:
            raise UsageError(
                f"irregular={self.irregular!r}: expected one of {', '.join(map(repr, POLICIES))}"
            )

    def of(self, index: Index) -> Taken:
        """Return the chosen part of an index."""
        taken = Taken(index)
        taken.leave_out_copies()
        taken.leave_out_parts()
        taken.leave_out_other_content(self.content)
        taken.leave_out_irregular(self.irregular)
        if self.is_placed:
            taken.leave_out_unplaced()
        taken.leave_out(f"fewer than {self.min_slices} slices", min_slices=self.min_slices)
        return taken


def report_left_out(taker: str, given: Index, samples: int, left_out: Sequence[LeftOut]) -> None:
    """Warn about what a dataset leaves out, as one table at the line of the caller.

    Raises
    ------
    EmptySelection
        The dataset has no samples.
    """
    told = [row for row in left_out if row.reason != _COPIES]
    if not samples:
        words = _why_empty(given, left_out)
        facts = [(row.reason, row.stacks, row.frames) for row in left_out]
        raise EmptySelection(f"{taker}: {words}", left_out=facts)
    if told:
        warnings.warn(
            f"{taker} leaves out:\n{_table(told)}", LeftOutWarning, stacklevel=level_of_caller()
        )


def _why_empty(given: Index, left_out: Sequence[LeftOut]) -> str:
    """Return the reason why nothing is left of an index, with counts."""
    if not len(given):
        return why_no_frames(given)
    if not left_out:
        return f"the sampler takes no sample from {counted(len(given.stacks), 'stacks')}"
    whole = f"{counted(len(given.stacks), 'stacks')} with {counted(len(given), 'frames')}"
    help_ = (
        "\nirregular='accept' takes all verdicts; 'resample' (VolumeDataset) fills holes and evens "
        "out spacing"
        if any(row.reason in VERDICTS for row in left_out)
        else ""
    )
    return f"nothing is left of {whole}. Left out:\n{_table(left_out)}{help_}"


def _table(left_out: Sequence[LeftOut]) -> str:
    width = max(len(row.reason) for row in left_out)
    rows = [f"  {row.reason:<{width}} {row.stacks:>8,} {row.frames:>10,}" for row in left_out]
    return "\n".join([f"  {'reason':<{width}} {'stacks':>8} {'frames':>10}", *rows])


def level_of_caller() -> int:
    """Return the `stacklevel` of the first line outside of this package, for a warning here."""
    # Level 1 is the function that warns; frame 2 from here is the one that calls it.
    level, frame = 2, sys._getframe(2)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_PACKAGE):
        level, frame = level + 1, frame.f_back
    return level


def checked_content(content: str | None) -> str | None:
    """Return the content; raise a UsageError if it is not one of `CONTENTS`."""
    if content is not None and content not in CONTENTS:
        raise UsageError(f"content={content!r}: expected None or one of {', '.join(CONTENTS)}")
    return content
