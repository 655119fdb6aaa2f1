"""Cases of a `Pairing`: candidates per role, the choice among them, and the reasons against a case.

A candidate is a stack that meets the rule of a role. Candidates of one unit (patient, study, ...)
with the same values of the columns `same` form a case, if there is exactly one for each role.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from dicomdl.arrays import Ints, Mask
from dicomdl.errors import UsageError
from dicomdl.index._pairing_columns import combined, flags_of_rule, same_values, scores, units
from dicomdl.index._pairing_overlap import gaps_mm
from dicomdl.index.index import Index
from dicomdl.index.pairs import Pairs, Unpaired
from dicomdl.index.rows import Generation
from dicomdl.index.text import counted

_NO_RULE: Final = "meets no rule"
_NOT_PREFERRED: Final = "another stack is preferred"


class Options(Protocol):
    """The options of a `Pairing`."""

    @property
    def roles(self) -> Mapping[str, Any]:
        """A rule per role."""

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the roles."""

    @property
    def by(self) -> Any:
        """The level at which images are paired."""

    @property
    def optional(self) -> tuple[str, ...]:
        """The roles that a case may lack."""

    @property
    def same(self) -> Any:
        """The columns that have one value within a case."""

    def preferences_of(self, role: str) -> tuple[Any, ...]:
        """Return the preferences of a role."""


class _Candidates(NamedTuple):
    """Stacks that meet the rule of a role, (n,) each: stack, role, number of the case."""

    stacks: Ints
    roles: Ints
    cases: Ints

    def part(self, chosen: Any) -> "_Candidates":
        return _Candidates(self.stacks[chosen], self.roles[chosen], self.cases[chosen])


class _Reasons:
    """The first reason against each case, by its number in `texts`; -1 without one."""

    def __init__(self, cases: int) -> None:
        self.of_case = np.full(cases, -1, dtype=np.int64)
        self.texts: list[str] = []

    @property
    def are_open(self) -> Mask:
        """(cases,) flags: the cases without a reason so far."""
        return np.asarray(self.of_case < 0)

    def give(self, cases: Mask, text: str) -> None:
        """Enter a reason for the cases that have none yet."""
        cases = cases & self.are_open
        if cases.any():
            self.of_case[cases] = len(self.texts)
            self.texts.append(text)

    def give_by_roles(self, flags: Mask, names: Sequence[str], template: str) -> None:
        """Enter a reason per combination of roles, from (cases, roles) flags."""
        for row in np.unique(flags[self.are_open], axis=0).tolist():
            if any(row):
                roles = " and ".join(name for name, has in zip(names, row, strict=True) if has)
                self.give((flags == row).all(axis=1), template.format(roles))


def paired(index: Index, options: Options) -> Pairs:
    """Return the cases of an index, and what does not pair.

    Raises
    ------
    UsageError
        A rule names a column that does not exist, or meets no stack at all.
    """
    generation, selected = index._generation, index.stacks.numbers
    found = _candidates(index, options)
    same, blank = same_values(generation, tuple(options.same))
    unit = units(generation, options.by)
    keys, case_of = np.unique(combined([unit, same])[found.stacks], return_inverse=True)
    found = found._replace(cases=case_of.reshape(-1).astype(np.int64))
    kept = _preferred(generation, found, options)
    count, roles = len(keys), len(options.names)
    cells = found.cases[kept] * roles + found.roles[kept]
    counts = np.bincount(cells, minlength=count * roles).reshape(count, roles)
    flat = np.full(count * roles, -1, dtype=np.int64)
    flat[cells[::-1]] = found.stacks[kept][::-1]
    chosen = flat.reshape(count, roles)
    reasons = _Reasons(count)
    is_blank = np.zeros(count, dtype=np.bool_)
    is_blank[found.cases] = blank[found.stacks]
    reasons.give(is_blank, f"without {_plain(options.same)} (same=None pairs it)")
    _missing(reasons, counts, _in_unit(found, unit, counts.shape), options)
    reasons.give_by_roles(counts > 1, options.names, "several {}: tighten the rule, or use prefer=")
    _unfit(reasons, generation, chosen, options.names)
    return _result(chosen, reasons, (found, kept), selected, options)


def _candidates(index: Index, options: Options) -> _Candidates:
    """Return the selected stacks that meet the rule of each role."""
    selected = np.zeros(len(index._generation.stacks), dtype=np.bool_)
    selected[index.stacks.numbers] = True
    stacks, roles = [], []
    for number, (role, rule) in enumerate(options.roles.items()):
        try:
            flags = flags_of_rule(index, rule)
        except UsageError as error:
            error.add_note(f"in the rule of {role!r}")
            raise
        meeting = np.flatnonzero(flags & selected)
        if selected.any() and (not flags.any() or not (len(meeting) or role in options.optional)):
            whole = f" (it meets {flags.sum():,} of the complete index)" if flags.any() else ""
            raise UsageError(
                f"the rule of {role!r} meets none of {counted(int(selected.sum()), 'stacks')}"
                f"{whole}: index.to_pandas('stacks') shows their columns",
                role=role,
            )
        stacks.append(meeting)
        roles.append(np.full(len(meeting), number, dtype=np.int64))
    joined = np.concatenate(stacks)
    return _Candidates(joined, np.concatenate(roles), np.zeros(len(joined), dtype=np.int64))


def _preferred(generation: Generation, found: _Candidates, options: Options) -> Mask:
    """Return (n,) flags of the candidates that no other one of their case and role is preferred to.

    Only candidates that have a rival are scored.
    """
    kept = np.ones(len(found.stacks), dtype=np.bool_)
    for number, role in enumerate(options.names):
        for preference in options.preferences_of(role):
            own = np.flatnonzero(kept & (found.roles == number))
            _, case, rivals = np.unique(found.cases[own], return_inverse=True, return_counts=True)
            has_rival = rivals[case.reshape(-1)] > 1
            own, case = own[has_rival], case.reshape(-1)[has_rival]
            given = scores(generation, preference, found.stacks[own])
            best = np.full(len(rivals), -np.inf)
            np.maximum.at(best, case, given)
            kept[own[given < best[case]]] = False
    return kept


def _in_unit(found: _Candidates, unit: Ints, shape: tuple[int, ...]) -> Mask:
    """Return (cases, roles) flags: roles that have a candidate elsewhere in the unit of a case."""
    if not len(found.stacks):
        return np.zeros(shape, dtype=np.bool_)
    numbers, own = np.unique(unit[found.stacks], return_inverse=True)
    held = np.zeros((len(numbers), shape[1]), dtype=np.bool_)
    held[own.reshape(-1), found.roles] = True
    unit_of_case = np.zeros(shape[0], dtype=np.int64)
    unit_of_case[found.cases] = own.reshape(-1)
    return np.asarray(held[unit_of_case])


def _missing(reasons: _Reasons, counts: Ints, in_unit: Mask, options: Options) -> None:
    """Enter the reasons for required roles without a stack."""
    required = np.array([name not in options.optional for name in options.names])
    missing = (counts == 0) & required
    elsewhere = f"{{}} with another {_plain(options.same)}"
    reasons.give_by_roles(missing & ~in_unit, options.names, "no {}")
    reasons.give_by_roles(missing & in_unit, options.names, elsewhere)


def _unfit(reasons: _Reasons, generation: Generation, chosen: Ints, names: Sequence[str]) -> None:
    """Enter the reasons for stacks that cannot be brought onto the grid of the first role."""
    affines = generation.stacks.vectors("affine", 16)
    for number, role in enumerate(names):
        stacks = chosen[:, number]
        for other in range(number):
            one = (stacks >= 0) & (stacks == chosen[:, other])
            reasons.give(one, f"one stack is both {names[other]} and {role}")
        unknown = ~np.isfinite(affines[stacks]).all(axis=1) & (stacks >= 0)
        reasons.give(unknown, f"{role} without a known position")
    for number, role in enumerate(names[1:], 1):
        both = np.flatnonzero((chosen[:, number] >= 0) & reasons.are_open)
        gaps = np.zeros(len(chosen))
        gaps[both] = gaps_mm(generation, chosen[both, 0], chosen[both, number])
        if (gaps > 0).any():
            ends = sorted({f"{end:.0f}" for end in (gaps[gaps > 0].min(), gaps.max())}, key=float)
            text = f"{role} lies apart from {names[0]} in space, by {' to '.join(ends)} mm"
            reasons.give(gaps > 0, text)


def _result(
    chosen: Ints,
    reasons: _Reasons,
    candidates: tuple[_Candidates, Mask],
    selected: Ints,
    options: Options,
) -> Pairs:
    """Return the cases, and each other stack under one reason."""
    found, kept = candidates
    cases = chosen[reasons.are_open]
    cases = cases[np.argsort(cases[:, 0], kind="stable")]
    reason = reasons.of_case[found.cases]
    unpaired = [_unpaired(text, found.part(reason == n)) for n, text in enumerate(reasons.texts)]
    rivals = found.part((reason < 0) & ~kept & ~np.isin(found.stacks, cases))
    if len(rivals.stacks):
        unpaired.append(_without_cases(_NOT_PREFERRED, rivals.stacks, rivals.roles))
    others = np.setdiff1d(selected, found.stacks)
    if len(others):
        unpaired.append(_without_cases(_NO_RULE, others, np.full(len(others), -1, np.int64)))
    return Pairs(options.names, options.by, cases, tuple(unpaired))


def _unpaired(reason: str, found: _Candidates) -> Unpaired:
    order = np.lexsort([found.stacks, found.roles, found.cases])
    cases = found.cases[order]
    starts = np.append(np.flatnonzero(np.diff(cases, prepend=-1)), len(cases))
    return Unpaired(reason, found.stacks[order], found.roles[order], starts)


def _without_cases(reason: str, stacks: Ints, roles: npt.NDArray[np.int64]) -> Unpaired:
    return Unpaired(reason, stacks, roles, np.zeros(0, dtype=np.int64))


def _plain(columns: Sequence[str]) -> str:
    """Return the names of columns in words."""
    words = [name.removesuffix("_uid").replace("_", " ") for name in columns]
    return " or ".join(words) or "patient"
