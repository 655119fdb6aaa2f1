"""Exchange of groups between the parts of a split, for labels and frames in better balance.

Sizes stay as they are: groups of one unit change places. The number of units per label counts
most. The number of frames per label decides among exchanges that leave it as it is, so that labels
of single slices are in balance, too.
"""

from typing import Final, Protocol

import numpy as np

from dicomdl.arrays import Floats, Ints

# Weight of the frames per label; 1 is that of the units.
_FRAMES: Final = 0.1
# Passes over all groups.
_PASSES: Final = 4
# Most numbers that a pass compares, about a second. Larger sets are in balance by their numbers.
_MOST: Final = 50_000_000


class _Labels(Protocol):
    """The labels of groups, as `_assigning.Labels` holds them."""

    @property
    def starts(self) -> Ints: ...
    @property
    def numbers(self) -> Ints: ...
    @property
    def counts(self) -> Ints: ...
    @property
    def frames(self) -> Floats: ...
    @property
    def total(self) -> int: ...


def refine(part: Ints, free: Ints, labels: _Labels, shares: Floats) -> Ints:
    """Return (groups,) the part of each group after exchanges.

    Parameters
    ----------
    part
        (groups,) int64: the part of each group.
    free
        Groups of one unit that may be exchanged.
    labels
        The units and the frames of each group that have a label.
    shares
        (parts,) float64: the share of each part.
    """
    total = labels.total
    if len(free) ** 2 * 2 * total > _MOST or len(free) < 2 or not total:
        return part
    owners = np.repeat(np.arange(len(part)), np.diff(labels.starts))
    values = np.zeros((len(part), 2 * total))
    values[owners, labels.numbers] = labels.counts
    mean = max(labels.frames.sum() / len(part), 1.0)
    values[owners, total + labels.numbers] = labels.frames * (_FRAMES**0.5 / mean)
    over = np.zeros((len(shares), 2 * total))
    np.add.at(over, part, values)
    over -= np.outer(shares, values.sum(axis=0))
    part, of_free = part.copy(), values[free]
    places = part[free]
    for _ in range(_PASSES):
        if not _pass(places, of_free, over):
            break
    part[free] = places
    return part


def _pass(places: Ints, values: Floats, over: Floats) -> bool:
    """Exchange each group with the one that helps most; return whether any was exchanged."""
    changed = False
    for group in range(len(places)):
        here = places[group]
        difference = values - values[group]
        # Change of the sum of squares of `over`, halved.
        gain = np.einsum("ij,ij->i", difference, over[here] - over[places] + difference)
        gain[places == here] = 0
        other = int(gain.argmin())
        if gain[other] < -1e-9:
            there = places[other]
            over[here] += difference[other]
            over[there] -= difference[other]
            places[group], places[other] = there, here
            changed = True
    return changed
