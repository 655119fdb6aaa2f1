"""A comparison of two indexes: stacks that came, went, or are another grid than before.

A stack is known again by its Series and its place among the stacks of it, and without a Series
Instance UID by the instance of its first slice.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from dicomdl.index.check import StackCheck
from dicomdl.index.index import Index
from dicomdl.jobs.report import tables
from dicomdl.printing import printable

# Lengths in mm that differ by less are equal.
_TOLERANCE_MM: Final = 1e-3


@dataclass(frozen=True, slots=True, eq=False)
class Comparison:
    """What another index has of the stacks of one.

    Attributes
    ----------
    name
        The name of the other index.
    rows, stack_bytes
        Its stacks, and their bytes.
    added
        The stacks that the other index lacks.
    lost
        The stacks of the other index that are no longer there.
    changed
        {number: what changed}.
    """

    name: str
    rows: tuple[StackCheck, ...]
    stack_bytes: Sequence[int]
    added: tuple[StackCheck, ...]
    lost: tuple[StackCheck, ...]
    changed: Mapping[int, str]

    @property
    def counts(self) -> dict[str, int]:
        """The number of stacks per outcome."""
        both = len(self.rows) - len(self.lost)
        return {
            "in both": both,
            "changed": len(self.changed),
            "only here": len(self.added),
            "only there": len(self.lost),
        }

    def outcomes(self, numbers: Sequence[int]) -> list[str]:
        """Return what became of each stack of this index."""
        added = {row.number for row in self.added}
        return [
            "only here" if number in added else "changed" if number in self.changed else "same"
            for number in numbers
        ]

    def findings(self) -> list[tuple[str, bool, tables.Finding]]:
        """Return (heading, whether its stacks are of this index, stacks with examples)."""
        lost = [(f"stack {row.number}", _described(row)) for row in self.lost]
        here = [
            ("changed", [(str(number), words) for number, words in self.changed.items()]),
            ("only here", [(str(row.number), _described(row)) for row in self.added]),
        ]
        found = [
            (title, True, tables.Finding(title, len(every), tuple(every[: tables.EXAMPLES])))
            for title, every in here
            if every
        ]
        if lost:
            only = tables.Finding("only there", len(lost), tuple(lost[: tables.EXAMPLES]))
            found.append(("only there", False, only))
        return found


def compare(index: Index, rows: Sequence[StackCheck], other: Index, name: str) -> Comparison:
    """Compare the stacks of an index with those of another one."""
    before = other.check().rows
    here, there = _keys(index, rows), _keys(other, before)
    changed = {}
    for key, row in here.items():
        if key in there and (words := _changes(there[key], row)):
            changed[row.number] = words
    return Comparison(
        name,
        before,
        tables.sizes(other._part()),
        tuple(row for key, row in here.items() if key not in there),
        tuple(row for key, row in there.items() if key not in here),
        changed,
    )


def _described(row: StackCheck) -> str:
    return printable(f"{row.modality or '?'} {row.description}".strip())


def _keys(index: Index, rows: Sequence[StackCheck]) -> dict[tuple[str, int], StackCheck]:
    """Return the stacks by their Series, and their number among those of it."""
    firsts = index._part().heads("sop_instance_uid")
    seen: Counter[str] = Counter()
    result = {}
    for row, first in zip(rows, firsts, strict=True):
        uid = row.series_instance_uid or f"instance {first}"
        result[uid, seen[uid]] = row
        seen[uid] += 1
    return result


def _changes(before: StackCheck, now: StackCheck) -> str:
    """Return in words what is another in a stack than before; "" for nothing."""
    words = []
    if before.verdict != now.verdict:
        words.append(f"{before.verdict}, now {now.verdict}".replace("_", " "))
    if before.shape != now.shape:
        words.append(f"{_product(before.shape)}, now {_product(now.shape)}")
    if not all(map(_same, before.spacing, now.spacing)):
        words.append(f"{_product(before.spacing)} mm, now {_product(now.spacing)} mm")
    return "; ".join(words)


def _same(one: float, two: float) -> bool:
    return (math.isnan(one) and math.isnan(two)) or abs(one - two) <= _TOLERANCE_MM


def _product(values: Sequence[float]) -> str:
    return " x ".join(f"{value:.4g}" for value in values)
