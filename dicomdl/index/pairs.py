"""Pairs: the cases of a `Pairing`, as numbers of stacks, and a table of what does not pair."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from dicomdl.arrays import Ints, Mask
from dicomdl.index.text import counted, escaped, html_table, text_columns
from dicomdl.printing import printable

# Cases per reason whose stacks are printed.
SHOWN_CASES: Final = 3
# Stacks per case that are printed.
SHOWN_STACKS: Final = 8


@dataclass(frozen=True, slots=True, eq=False)
class Unpaired:
    """A reason, and the stacks that are in no case for it.

    Attributes
    ----------
    reason
        The reason, with its numbers.
    stacks
        (n,) int64: the numbers of the stacks (`Stack.number`), case by case.
    roles
        (n,) int64: the number of the role whose rule each stack meets, -1 for none.
    starts
        (cases + 1,) int64: the first of the stacks of each case, and the end. Without cases, as for
        stacks that meet no rule, it is empty.
    """

    reason: str
    stacks: Ints
    roles: Ints
    starts: Ints

    @property
    def cases(self) -> int:
        """The number of cases that are left out for the reason."""
        return max(0, len(self.starts) - 1)

    @property
    def numbers(self) -> Ints:
        """The numbers of the stacks, each once, ascending."""
        return np.unique(self.stacks)

    def __repr__(self) -> str:
        cases = f"{counted(self.cases, 'cases')}, " if self.cases else ""
        return printable(
            f"Unpaired({self.reason!r}: {cases}{counted(len(self.numbers), 'stacks')})"
        )


@dataclass(frozen=True, slots=True, eq=False)
class Pairs:
    """The cases of a `Pairing` in an index, and what does not pair.

    Attributes
    ----------
    roles
        The names of the roles; the first is the target.
    by
        The level at which images are paired, such as "study".
    stacks
        (cases, roles) int64: the number (`Stack.number`) of the stack of each role, -1 where an
        optional one is absent. In the order of the stacks of the first role.
    unpaired
        The reasons for stacks that are in no case, with their stacks.
    """

    roles: tuple[str, ...]
    by: str
    stacks: Ints
    unpaired: Sequence[Unpaired]

    def __len__(self) -> int:
        """Return the number of cases."""
        return len(self.stacks)

    @property
    def present(self) -> Mask:
        """(cases, roles) bool: whether a case has a stack of the role."""
        return np.asarray(self.stacks >= 0)

    def __repr__(self) -> str:
        lines = [self._title()]
        if self.unpaired:
            lines += text_columns(_TITLES, self._rows(), right=(1, 2))
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        table = html_table(_TITLES, self._rows(), right=(1, 2)) if self.unpaired else ""
        return f"<p>{escaped(self._title())}</p>{table}"

    def _title(self) -> str:
        absent = [
            f"{count:,} without {role}"
            for role, count in zip(self.roles, (self.stacks < 0).sum(axis=0).tolist(), strict=True)
            if count
        ]
        more = f" ({', '.join(absent)})" if absent else ""
        roles = ", ".join(self.roles)
        return printable(f"{counted(len(self), 'cases')} of {roles} by {self.by}{more}")

    def _rows(self) -> list[list[str]]:
        return [
            [
                each.reason,
                f"{each.cases:,}" if each.cases else "",
                f"{len(each.numbers):,}",
                self._listed(each),
            ]
            for each in self.unpaired
        ]

    def _listed(self, each: Unpaired) -> str:
        """Return the stacks of the first cases of a reason, by role."""
        if not each.cases:
            return _numbers(each.numbers)
        shown = []
        for case in range(min(each.cases, SHOWN_CASES)):
            part = slice(*each.starts[case : case + 2].tolist())
            stacks, roles = each.stacks[part], each.roles[part]
            shown.append(
                ", ".join(
                    f"{self.roles[role]} {_numbers(stacks[roles == role])}"
                    for role in np.unique(roles).tolist()
                )
            )
        return "; ".join(shown) + ("; ..." if each.cases > SHOWN_CASES else "")


_TITLES: Final = ("not paired", "cases", "stacks", "numbers")


def _numbers(stacks: Any) -> str:
    more = " ..." if len(stacks) > SHOWN_STACKS else ""
    return " ".join(map(str, stacks[:SHOWN_STACKS].tolist())) + more
