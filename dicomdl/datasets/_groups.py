"""Groups as samples: which groups a dataset takes, and what their samples say of the leading axis.

`read_volume` decides whether a group becomes an array (`volumes.read.require_volume`). Only groups
with a stack that looks suspicious by the columns of the index are asked, so that a million sound
stacks cost no Python object.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, get_args

import numpy as np
import torch

from dicomdl.arrays import Mask
from dicomdl.datasets._cases import Cases
from dicomdl.datasets.sample import Sample
from dicomdl.datasets.selection import LeftOut, StackChoice, Taken
from dicomdl.datasets.times import ALL_TIMES, Times, TimesOption
from dicomdl.errors import GeometryError, IncompleteGroup, IrregularStack, UsageError
from dicomdl.geometry.verdict import READABLE
from dicomdl.index.grouping import by_group
from dicomdl.index.index import Index
from dicomdl.index.views import Group, Stack, Stacks
from dicomdl.values.conversion import quantity_units
from dicomdl.values.quantity import Quantity
from dicomdl.volumes.group_axis import GroupAxis
from dicomdl.volumes.read import require_volume

Incomplete = Literal["leave_out", "readable", "raise"]
Moved = Literal["leave_out", "resample"]


@dataclass(frozen=True, slots=True)
class GroupOptions:
    """The options of a dataset of groups: volumes, incomplete groups, moved volumes."""

    times: Times = ALL_TIMES
    incomplete: Incomplete = "leave_out"
    moved: Moved = "leave_out"

    def __post_init__(self) -> None:
        for name, value, known in (
            ("incomplete", self.incomplete, get_args(Incomplete)),
            ("moved", self.moved, get_args(Moved)),
        ):
            if value not in known:
                raise UsageError(f"{name}={value!r}: expected one of {', '.join(map(repr, known))}")

    @classmethod
    def of(
        cls, groups: Sequence[Group] | None, times: TimesOption, incomplete: Any, moved: Any
    ) -> "GroupOptions":
        """Return the options for the keywords of a dataset; only groups have them.

        Raises
        ------
        UsageError
            A keyword has an unknown value, or there are no groups.
        """
        options = cls(Times.of(times), incomplete, moved)
        if groups is None and options != cls():
            raise UsageError(
                "times=, incomplete= and moved= are options of groups: pass index.groups"
            )
        return options


@dataclass(frozen=True, slots=True)
class EachGroup:
    """One case per group of the selected stacks, in the order of their first stacks."""

    def cases(self, index: Index) -> Cases:
        """Return a case per group, in the order of its dimension."""
        return Cases.of(by_group(index.stacks))


@dataclass(frozen=True, slots=True, eq=False)
class GivenCases:
    """Cases that no rule gives, such as parts of one group: their arrays travel with the rule."""

    given: Cases

    def cases(self, index: Index) -> Cases:
        """Return the arrays."""
        del index
        return self.given


class TakenGroups:
    """The groups that a dataset takes of those that are given.

    Attributes
    ----------
    taken
        The part of the index with their stacks, and the list of what is left out.
    groups
        The groups, each with the stacks that its sample may have.
    """

    def __init__(
        self,
        index: Index,
        given: Sequence[Group],
        choice: StackChoice,
        options: GroupOptions,
        quantity: Quantity,
    ) -> None:
        self._choice, self._options = choice, options
        self.taken = Taken(index)
        self.taken.leave_out_copies()
        self.taken.leave_out_parts()
        self.taken.leave_out_other_content(choice.content)
        if choice.is_placed:
            self.taken.leave_out_unplaced()
        inside = set(self.taken.index.stacks.numbers.tolist())
        self.groups = sorted(
            (group for group in dict.fromkeys(given) if inside.issuperset(_numbers(group))),
            key=lambda group: min(_numbers(group), default=-1),
        )
        self._leave_out_unreadable()
        self._leave_out_short()
        self._keep_where(
            np.array([_has_one_unit(group, quantity) for group in self.groups], np.bool_),
            "in a group of several units (pass its `parts`)",
        )

    @property
    def index(self) -> Index:
        """The part of the index with the stacks of the groups."""
        return self.taken.index

    @property
    def left_out(self) -> list[LeftOut]:
        """What is left out, by reason."""
        return self.taken.left_out

    @property
    def rule(self) -> "EachGroup | GivenCases":
        """The rule of the cases: that of whole groups where it gives the same."""
        cases, whole = Cases.of(list(map(_numbers, self.groups))), EachGroup()
        derived = whole.cases(self.taken.index)
        is_same = np.array_equal(cases.numbers, derived.numbers) and np.array_equal(
            cases.counts, derived.counts
        )
        return whole if is_same else GivenCases(cases)

    def _leave_out_unreadable(self) -> None:
        """Treat the groups that `read_volume` refuses by the options, and list them by reason."""
        doubtful = self._doubtful(self.taken.index.stacks)
        kept: list[Group] = []
        reasons: dict[str, list[Group]] = {}
        for group in self.groups:
            if doubtful.isdisjoint(_numbers(group)):
                kept.append(group)
                continue
            part, reason = self._readable(group)
            if len(part):
                kept.append(part)
            if reason:
                reasons.setdefault(reason, []).append(group)
        self._keep(kept, reasons)

    def _doubtful(self, stacks: Stacks) -> set[int]:
        """Return the numbers of stacks that `read_volume` may refuse, or that their group may."""
        flags: Mask = stacks.have_detail("missing_in_group") | stacks.have_detail("movement_mm")
        sound = self.taken.index.select(verdict=sorted(READABLE)).stacks.numbers
        flags |= ~np.isin(stacks.numbers, sound)
        slices = dict(zip(stacks.numbers.tolist(), stacks.shapes()[:, 0].tolist(), strict=True))
        uneven = [
            number
            for group in self.groups
            if len({slices[number] for number in _numbers(group)}) > 1
            for number in _numbers(group)
        ]
        return {*stacks.numbers[flags].tolist(), *uneven}

    def _readable(self, group: Group) -> tuple[Group, str]:
        """Return what a sample takes of a group, maybe nothing, and why that is not all of it."""
        try:
            require_volume(group, self._choice.irregular, may_move=self._may_move)
            return group, ""
        except (IncompleteGroup, IrregularStack) as error:
            if self._options.incomplete == "raise":
                error.add_note("incomplete='leave_out' or 'readable' takes the other groups")
                raise
            reason = (
                f"in a group with a stack that is {error.verdict}"
                if isinstance(error, IrregularStack)
                else "in a group whose stacks lack slices"
            )
        except GeometryError as error:
            reason = (
                "in a group whose stacks moved"
                if "error_mm" in vars(error)
                else ("in a group whose stacks have several shapes")
            )
            return group.only([]), reason
        if self._options.incomplete == "leave_out":
            return group.only([]), reason
        return self._sound_part(group), reason.replace("in a group with a stack that is ", "")

    def _sound_part(self, group: Group) -> Group:
        """Return the stacks of a group that become an array together, maybe none."""
        part = group.only([stack for stack in group if self._is_allowed(stack)])
        missing = part.missing
        whole = [s for s, value in zip(part, part.dimension, strict=True) if value not in missing]
        most = max(map(len, whole), default=0)
        part = part.only([stack for stack in whole if len(stack) == most])
        try:
            require_volume(part, self._choice.irregular, may_move=self._may_move)
        except (UsageError, GeometryError):
            return group.only([])
        return part

    def _is_allowed(self, stack: Stack) -> bool:
        """Whether the verdict of a stack lets it become a volume."""
        try:
            require_volume(stack, self._choice.irregular)
        except GeometryError:
            return False
        return True

    @property
    def _may_move(self) -> bool:
        return self._options.moved == "resample"

    def _leave_out_short(self) -> None:
        """Leave out groups with too few slices or volumes."""
        least = self._choice.min_slices
        slices = np.array([len(group[0]) for group in self.groups], np.int64)
        volumes = np.array([len(group) for group in self.groups], np.int64)
        self._keep_where(slices >= least, f"fewer than {least} slices")
        self._keep_where(
            self._options.times.fit(volumes[slices >= least]), "too few volumes for times="
        )

    def _keep_where(self, flags: Mask, reason: str) -> None:
        left_out = [group for group, keep in zip(self.groups, flags, strict=True) if not keep]
        kept = [group for group, keep in zip(self.groups, flags, strict=True) if keep]
        self._keep(kept, {reason: left_out} if left_out else {})

    def _keep(self, kept: list[Group], reasons: dict[str, list[Group]]) -> None:
        """Set the groups, and list the stacks that are gone by the reasons of their groups."""
        self.groups = kept
        staying = {number for group in kept for number in _numbers(group)}
        numbers = self.taken.index.stacks.numbers
        for reason, groups in reasons.items():
            gone = {number for group in groups for number in _numbers(group)} - staying
            numbers = numbers[~np.isin(numbers, sorted(gone))]
            self.taken.continue_with(self.taken.index.of_stacks(numbers), reason)


def _has_one_unit(group: Group, quantity: Quantity) -> bool:
    """Whether the values of all stacks have one unit, as an array of them needs."""
    parts = group.parts
    return len(parts) == 1 or len({quantity_units(part[0], quantity) for part in parts}) == 1


def _numbers(group: Group) -> list[int]:
    return group.stacks.numbers.tolist()  # type: ignore[no-any-return]


_AXIS_ENTRIES: Final = ("times_s", "b_values", "b_vectors")


def with_axis(sample: Sample, axis: GroupAxis, stacks: Sequence[Stack]) -> Sample:
    """Return the sample of an image (C, T, D, H, W), with what its leading axis is.

    Grey values have one channel: their volumes take the place of the channels.
    """
    if sample["image"].shape[0] == 1:
        sample["image"] = sample["image"][0]
    columns = list(zip(*axis.values, strict=True)) or [()] * len(axis.names)
    sample |= {
        "stacks": torch.tensor([stack.number for stack in stacks]),
        "present": torch.ones(len(stacks), dtype=torch.bool),
        "dimension": json.dumps(dict(zip(axis.names, columns, strict=True))),
        "dimension_values": torch.from_numpy(axis.numbers()),
        "time_step_s": float(axis.time_step_s),
        **{name: torch.from_numpy(np.array(getattr(axis, name))) for name in _AXIS_ENTRIES},
    }
    return sample
