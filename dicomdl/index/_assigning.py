"""Assignment of groups to the parts of a split: sizes as near as groups allow, labels in balance.

Large groups come first, each to a part that has room for it. Groups of one unit fill the rest by
iterative stratification: the rarest label first, each of its groups to the part that lacks most of
it (Sechidis, Tsoumakas, Vlahavas, "On the stratification of multi-label data", ECML PKDD 2011). A
part takes no more than its quota, so that sizes stay within one group whatever the labels are, and
no part stays empty where there are groups enough. Exchanges (`_refining`) come last.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from dicomdl.arrays import Floats, Ints, Mask
from dicomdl.index._refining import refine

# Rounding error of shares of a million units.
_ROUNDING: Final = 1e-6


@dataclass(frozen=True, slots=True, eq=False)
class Labels:
    """The number of units per group that have a label.

    Attributes
    ----------
    starts
        (groups + 1,) int64: the first entry of each group, and the end.
    numbers, counts
        (entries,) int64: a label of the group, and the number of its units that have it.
    frames
        (entries,) float64: the number of its frames that have it.
    total
        The number of labels.
    """

    starts: Ints
    numbers: Ints
    counts: Ints
    frames: Floats
    total: int


def labels_of(group: Ints, label: Ints, frames: Ints, groups: int, total: int) -> Labels:
    """Return the labels of groups.

    Parameters
    ----------
    group, label, frames
        (n,) int64: the group of a unit, a label of it, and the number of its frames with the label.
    groups, total
        The number of groups and of labels.
    """
    both, inverse = np.unique(group * max(total, 1) + label, return_inverse=True)
    owners, numbers = np.divmod(both, max(total, 1))
    starts = np.searchsorted(owners, np.arange(groups + 1)).astype(np.int64)
    inverse = inverse.reshape(-1)
    counts = np.bincount(inverse, minlength=len(both)).astype(np.int64)
    held = np.bincount(inverse, frames, len(both)).astype(np.float64)
    return Labels(starts, numbers, counts, held, total)


@dataclass(frozen=True, slots=True, eq=False)
class Wanted:
    """What a split asks for.

    Attributes
    ----------
    shares
        (parts,) float64: the share of each part; together 1.
    required
        (parts,) flags: parts that must not be empty where there are groups enough. The others have
        a share of 0, or are the rest.
    order
        (groups,) ranks that decide among equals.
    kept
        (groups,) int64: the part of a group that has one already; else -1.
    """

    shares: Floats
    required: Mask
    order: Ints
    kept: Ints


def assign(sizes: Ints, labels: Labels, wanted: Wanted) -> Ints:
    """Return (groups,) int64 the part of each group.

    Parameters
    ----------
    sizes
        (groups,) int64: the number of units of each group.
    labels
        The labels of the units.
    wanted
        The shares, and what is settled already.
    """
    filling = _Filling(sizes, labels, wanted)
    new = np.flatnonzero(wanted.kept < 0)
    large = new[sizes[new] > 1]
    for group in large[np.lexsort([wanted.order[large], -sizes[large]])].tolist():
        filling.place_large(group)
    single = new[sizes[new] == 1]
    single = single[np.argsort(wanted.order[single])]
    filling.fill(single)
    return refine(np.array(filling.part, dtype=np.int64), single, labels, wanted.shares)


@dataclass(slots=True)
class _Filling:
    """The parts while groups are placed. Python lists, because numbers are read one by one."""

    sizes: Ints
    labels: Labels
    wanted: Wanted
    part: list[int] = field(init=False)
    # Units that each part lacks to its share.
    room: list[float] = field(init=False)
    # Units per part and label that are lacking.
    lacks: list[list[float]] = field(init=False)
    # Required parts without a group.
    empty: set[int] = field(init=False)
    # Groups that are not placed.
    left: int = field(init=False)

    def __post_init__(self) -> None:
        kept, shares = self.wanted.kept, self.wanted.shares
        self.part = kept.tolist()
        held = np.bincount(kept[kept >= 0], self.sizes[kept >= 0], len(shares))
        self.room = (shares * self.sizes.sum() - held).tolist()
        self.lacks = (np.outer(shares, self._totals()) - self._held()).tolist()
        self.empty = set(np.flatnonzero(self.wanted.required).tolist()) - set(kept.tolist())
        self.left = int((kept < 0).sum())

    def _totals(self) -> Floats:
        labels = self.labels
        return np.bincount(labels.numbers, labels.counts, labels.total).astype(np.float64)

    def _held(self) -> Floats:
        """Return (parts, labels) units with a label in each part."""
        labels = self.labels
        entry = np.repeat(np.array(self.part, dtype=np.int64), np.diff(labels.starts))
        placed = entry >= 0
        result = np.zeros((len(self.wanted.shares), labels.total))
        np.add.at(result, (entry[placed], labels.numbers[placed]), labels.counts[placed])
        return result

    def labels_of(self, group: int) -> tuple[list[int], list[int]]:
        """Return the labels of a group, and its units with each."""
        entries = slice(*self.labels.starts[group : group + 2].tolist())
        return self.labels.numbers[entries].tolist(), self.labels.counts[entries].tolist()

    def place_large(self, group: int) -> None:
        """Put a group of several units where there is room, else where it exceeds least."""
        size = int(self.sizes[group])
        parts: Sequence[int] = np.flatnonzero(self.wanted.shares > 0).tolist()
        if self.left <= len(self.empty):
            parts = sorted(self.empty)
        fitting = [part for part in parts if self.room[part] >= size - _ROUNDING]
        parts = fitting or [max(parts, key=lambda part: self.room[part])]
        numbers, counts = self.labels_of(group)
        lacks = self.lacks
        chosen = max(
            parts,
            key=lambda part: (
                sum(min(lacks[part][n], c) for n, c in zip(numbers, counts, strict=True)),
                self.room[part],
            ),
        )
        self.part[group] = chosen
        self.room[chosen] -= size
        self.empty.discard(chosen)
        self.left -= 1
        for number, count in zip(numbers, counts, strict=True):
            lacks[chosen][number] -= count

    def fill(self, groups: Ints) -> None:
        """Place groups of one unit, in their order, so that each part gets its quota."""
        if not len(groups):
            return
        least = [float(part in self.empty) for part in range(len(self.room))]
        room = np.array(self.room)
        quota = _quotas(room, np.array(least), len(groups))
        if self.labels.total:
            total = max(float(self.sizes.sum()), 1.0)
            final = self.wanted.shares + (quota - room) / total
            self.lacks = (np.outer(final, self._totals()) - self._held()).tolist()
        _Quotas(self, quota.tolist()).fill(groups)


@dataclass(slots=True)
class _Quotas:
    """Quotas while groups of one unit are placed.

    A quota is rounded down for certain. The units that are then left over go one each to parts with
    a fraction.
    """

    filling: _Filling
    quota: list[float]
    extras: int = field(init=False)

    def fill(self, groups: Ints) -> None:
        """Place all groups, those of the rarest label first."""
        whole = sum(int(each + _ROUNDING) for each in self.quota)
        self.extras = len(groups) - whole
        labels = self.filling.labels
        waiting = np.zeros(len(self.filling.part), dtype=np.bool_)
        waiting[groups] = True
        rank = np.zeros(len(waiting), dtype=np.int64)
        rank[groups] = np.arange(len(groups))
        by_label, label_starts = self._by_label(waiting, rank)
        frequency = np.diff(label_starts).astype(np.float64)
        frequency[frequency == 0] = np.inf
        while len(frequency) and (label := int(frequency.argmin())) >= 0:
            if frequency[label] == np.inf:
                break
            members = by_label[label_starts[label] : label_starts[label + 1]]
            for group in members[waiting[members]].tolist():
                numbers, _ = self.filling.labels_of(group)
                self._place(group, label, numbers)
                waiting[group] = False
                frequency[numbers] -= 1
            frequency[(frequency <= 0)] = np.inf
            frequency[label] = np.inf
        for group in groups[waiting[groups]].tolist():
            self._place(group, None, self.filling.labels_of(group)[0] if labels.total else [])

    def _by_label(self, waiting: np.ndarray, rank: Ints) -> tuple[Ints, Ints]:
        """Return the waiting groups of each label, by rank, and the first of each label."""
        labels = self.filling.labels
        owners = np.repeat(np.arange(len(waiting)), np.diff(labels.starts))
        open_entries = waiting[owners]
        owners, numbers = owners[open_entries], labels.numbers[open_entries]
        order = np.lexsort([rank[owners], numbers])
        starts = np.searchsorted(numbers[order], np.arange(labels.total + 1))
        return owners[order], starts

    def _place(self, group: int, label: int | None, numbers: Sequence[int]) -> None:
        """Put a group into the part that lacks most of a label, and most units among equals."""
        quota, lacks = self.quota, self.filling.lacks
        # An extra unit may go to a part with a fraction left; others must reach their whole number.
        floor = _ROUNDING if self.extras > 0 else 1 - _ROUNDING
        parts = [part for part, each in enumerate(quota) if each >= floor]
        if label is None:
            chosen = max(parts, key=quota.__getitem__)
        else:
            chosen = max(parts, key=lambda part: (lacks[part][label], quota[part]))
        if quota[chosen] < 1 - _ROUNDING:
            self.extras -= 1
        quota[chosen] -= 1
        self.filling.part[group] = chosen
        for number in numbers:
            lacks[chosen][number] -= 1


def _quotas(room: Floats, least: Floats, units: int) -> Floats:
    """Return (parts,) the units of each part, together `units`.

    A part that is over its share, or must not stay empty, takes them from the others, each of which
    gives as much.
    """
    low, high = -abs(room).max(initial=0) - units, abs(room).max(initial=0) + units
    for _ in range(200):
        level = (low + high) / 2
        if np.maximum(room - level, least).sum() > units:
            low = level
        else:
            high = level
    quota = np.maximum(room - high, least)
    quota *= units / max(quota.sum(), _ROUNDING)
    return np.asarray(quota)
