"""Search for a stack group's dimension: the attribute that distinguishes frames at one position.

A dimension is an attribute, or the smallest combination of attributes, that is unique within each
position and takes the same values at all positions, so that each value makes one volume. The search
tries every candidate, the meaningful ones first (`Tier`). If several attributes of one tier would
make different volumes, the result is a tie; a tie is never decided.

Times and counts that differ from slice to slice can distinguish volumes, too, where their order
leaves no choice: when all frames of one pass over the positions come before all frames of the next
(`_passes`), or when neighbours in time lie at one position (`_strides`). Cardiac phases are
compared by their rank at each position (`_phases`).
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Final, Literal

import numpy as np

from dicomdl.arrays import Floats, Ints

# Limit of attributes in one combination.
MOST_TOGETHER: Final = 3
# Positions that are tested before all positions are.
POSITIONS_LOOKED_AT: Final = 50
# Minimum of frames whose order is no accident: four frames have one of the two orders of two
# passes in two cases of three.
FEWEST_IN_ORDER: Final = 6
# In an incomplete set, each value must occur at more than this fraction of the positions.
MOST_POSITIONS: Final = 0.75
_LIMIT: Final = 2**62


class Tier(IntEnum):
    """Rank of an attribute by its meaning.

    A tier is tried only after all tiers before it gave no dimension.
    """

    # The subject or method of a measurement: time point, echo, b-value, phase, kernel.
    MEANING = 0
    # Counters of the scanner: acquisitions, stacks, dimension indices.
    BOOKKEEPING = 1
    # A time that is the same at all positions.
    ACQUISITION_TIME = 2
    # The rank of a trigger delay that jitters from slice to slice.
    PHASE_ORDER = 3
    # Acquisition times that increase from slice to slice.
    ACQUISITION_ORDER = 4
    CONTENT_TIME = 5
    # Instance number and similar counters.
    NUMBER = 6


Kind = Literal["value", "phase", "time", "count"]


@dataclass(frozen=True, slots=True, eq=False)
class Candidate:
    """One attribute of n frames.

    `codes` order and equal each other as the values do. `numbers` are the values of a "phase",
    "time" or "count", none missing. A "phase" may jitter, so its rank at each position counts too;
    a "time" or "count" may increase from slice to slice, so its passes count too. In a dimension of
    several attributes, `slow` ones vary slowest.
    """

    name: str
    tier: Tier
    kind: Kind
    codes: Ints
    slow: bool = False
    numbers: Floats | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Dimension:
    """Result of the search: frame i belongs to volume `labels[i]`.

    Volumes are numbered 0 to `count` - 1 in lexicographic order of the attributes' values.
    `candidates` are the attributes, the slowest first.
    """

    candidates: tuple[Candidate, ...]
    labels: Ints
    count: int


@dataclass(frozen=True, slots=True)
class Tie:
    """Attributes that are each sufficient, but make different volumes."""

    names: tuple[str, ...]


def find_dimension(positions: Ints, candidates: Sequence[Candidate]) -> Dimension | Tie | None:
    """Find the dimension of n frames, None where no attribute distinguishes them.

    `positions` numbers the position of each frame from 0 to p - 1, all of them occupied. Some
    positions may have fewer frames than others (an interrupted last volume). An attribute must then
    have a value that all positions have, and exactly as many values as the fullest position has
    frames; or, for an attribute that means something, each value must occur at most positions.
    """
    counts = np.bincount(positions)
    most = int(counts.max())
    if most == 1:
        return None
    complete = bool((counts == most).all())
    forms: list[Candidate] = []
    seen: set[bytes] = set()
    for tier in Tier:
        added = len(forms)
        for form in _forms(positions, candidates, tier, complete=complete):
            labels = dense_codes(form.codes)
            pattern = pattern_of(labels)
            if pattern not in seen and _may_help(positions, labels, most, complete=complete):
                seen.add(pattern)
                forms.append(replace(form, codes=labels))
        if (
            len(forms) > added
            and (found := _smallest(positions, forms, added, most, complete=complete)) is not None
        ):
            if isinstance(found, Dimension) and tier >= Tier.PHASE_ORDER:
                return _contradiction(positions, found, candidates) or found
            return found
    return None


def _contradiction(
    positions: Ints, found: Dimension, candidates: Sequence[Candidate]
) -> Tie | None:
    """Return a Tie if a meaningful attribute contradicts an order of times or numbers.

    Such an attribute is not known everywhere: its values differ from frame to frame at most
    positions, but not in the same order of volumes.
    """
    order = np.lexsort([found.labels, positions])
    starts = np.flatnonzero(np.diff(positions[order], prepend=-1))
    for candidate in candidates:
        codes = dense_codes(candidate.codes)
        if (
            candidate.tier != Tier.MEANING
            or candidate.kind != "value"
            or candidate.slow
            or int(codes.max()) + 1 > 2 * found.count
        ):
            continue
        orders = [tuple(dense_codes(part).tolist()) for part in np.split(codes[order], starts[1:])]
        distinct = [ranks for ranks in orders if len(ranks) > 1 and len(set(ranks)) == len(ranks)]
        if 2 * len(distinct) > len(orders) and len(set(distinct)) > 1:
            return Tie((candidate.name, *(one.name for one in found.candidates)))
    return None


def _forms(
    positions: Ints, candidates: Sequence[Candidate], tier: Tier, *, complete: bool
) -> Iterator[Candidate]:
    """Yield the candidates of a tier, and labels derived from the order of their values."""
    several_positions = int(positions.max()) > 0
    for candidate in candidates:
        # At a single position, any count is unique and proves nothing.
        if candidate.tier == tier and (several_positions or tier < Tier.CONTENT_TIME):
            yield candidate
        if not several_positions or len(positions) < FEWEST_IN_ORDER:
            continue
        runs_on = candidate.kind in ("time", "count")
        if candidate.kind == "phase" and tier == Tier.PHASE_ORDER and complete:
            yield from _with(candidate, _phases(positions, candidate))
        if runs_on and tier == max(candidate.tier, Tier.ACQUISITION_ORDER):
            yield from _with(candidate, _passes(positions, candidate, complete=complete))
            if complete and candidate.tier != Tier.CONTENT_TIME:
                yield from _with(candidate, _strides(positions, candidate.codes))


def _with(candidate: Candidate, codes: Ints | None) -> Iterator[Candidate]:
    """Yield the candidate with other codes, if there are any."""
    if codes is not None:
        yield replace(candidate, codes=codes)


def _smallest(
    positions: Ints, forms: Sequence[Candidate], added: int, most: int, *, complete: bool
) -> Dimension | Tie | None:
    """Find the smallest combination that contains a form from number `added` on.

    The forms before were tried together already, without success.
    """
    counts = [int(form.codes.max()) + 1 for form in forms]
    # Most combinations fail at the first positions already.
    few = np.flatnonzero(positions < POSITIONS_LOOKED_AT)
    for size in range(1, MOST_TOGETHER + 1):
        found: list[Dimension] = []
        for chosen in itertools.combinations(range(len(forms)), size):
            if chosen[-1] < added or np.prod([counts[i] for i in chosen], dtype=np.float64) < most:
                continue
            together = sorted((forms[i] for i in chosen), key=lambda form: not form.slow)
            if not is_unique(positions[few], mixed_codes([form.codes[few] for form in together])):
                continue
            labels = dense_codes(mixed_codes([form.codes for form in together]))
            if _distinguishes(
                positions, labels, most, max(form.tier for form in together), complete=complete
            ):
                found.append(Dimension(tuple(together), labels, int(labels.max()) + 1))
        if len({pattern_of(dimension.labels) for dimension in found}) > 1:
            return Tie(
                tuple(
                    "+".join(candidate.name for candidate in dimension.candidates)
                    for dimension in found
                )
            )
        if found:
            return found[0]
    return None


def is_unique(positions: Ints, codes: Ints) -> bool:
    """Whether no two frames at one position have the same code."""
    order = np.lexsort([codes, positions])
    return not bool(((np.diff(positions[order]) == 0) & (np.diff(codes[order]) == 0)).any())


def _may_help(positions: Ints, labels: Ints, most: int, *, complete: bool) -> bool:
    """Whether an attribute can be part of a dimension.

    In a complete set, a part of a combination takes the same values equally often at every
    position, because the combination does. In an incomplete set, an attribute may not have more
    values than the fullest position has frames, or a few more where every position lacks another
    value.
    """
    values = int(labels.max()) + 1
    if values == 1 or values > most * (1 if complete else 1 / MOST_POSITIONS):
        return False
    if not complete:
        return True
    table = np.bincount(
        positions * values + labels, minlength=(int(positions.max()) + 1) * values
    ).reshape(-1, values)
    return bool((table == table[0]).all())


def _distinguishes(positions: Ints, labels: Ints, most: int, tier: Tier, *, complete: bool) -> bool:
    """Whether labels are unique within each position and agree across positions.

    In an incomplete set, positions agree as far as their frames go.
    """
    values = int(labels.max()) + 1
    if not is_unique(positions, labels):
        return False
    if complete:
        return values == most
    covered = np.bincount(labels) / (int(positions.max()) + 1)
    return (values == most and covered.max() == 1) or (
        tier <= Tier.BOOKKEEPING and covered.min() > MOST_POSITIONS
    )


def _rank_within(positions: Ints, codes: Ints) -> Ints:
    """Return the rank of each frame's value among the distinct values at its position."""
    order = np.lexsort([codes, positions])
    new_position = np.diff(positions[order], prepend=-1) != 0
    step = (np.diff(codes[order], prepend=0) != 0) | new_position
    running = np.cumsum(step)
    ranks = np.empty(len(codes), dtype=np.int64)
    starts = running[new_position]
    ranks[order] = running - np.repeat(
        starts, np.diff(np.append(np.flatnonzero(new_position), len(order)))
    )
    return ranks


def _phases(positions: Ints, candidate: Candidate) -> Ints | None:
    """Return the rank of each frame's phase at its position.

    The result is None unless every position goes through the cycle alike. Each position has its own
    heart beat: its first phase must be within half a step of the usual one, and so must all others,
    as fractions of its cycle. The jittering delays of a triggered scan fail that test.
    """
    assert candidate.numbers is not None
    ranks = _rank_within(positions, candidate.codes)
    count = int(ranks.max()) + 1
    # Magnitude and velocity images share a phase.
    cells, first = np.unique(positions * count + ranks, return_index=True)
    if (
        count == 1
        or len(cells) != count * (int(positions.max()) + 1)
        or np.isnan(candidate.numbers).any()
    ):
        return None
    delays = candidate.numbers[first].reshape(-1, count)
    cycle = delays[:, -1] - delays[:, 0]
    step = float(np.median(cycle)) / (count - 1)
    fractions = (delays - delays[:, :1]) / cycle[:, None]
    alike = np.abs(fractions - np.median(fractions, axis=0)).max() < 0.5 / (count - 1)
    return (
        ranks
        if alike and np.abs(delays[:, 0] - np.median(delays[:, 0])).max() < 0.5 * step
        else None
    )


def _passes(positions: Ints, candidate: Candidate, *, complete: bool) -> Ints | None:
    """Return the number of the pass over the positions for each frame.

    The result is None where passes overlap, differ, or may begin elsewhere. Frames with one value
    belong to one pass: echoes share a time. All passes must visit the positions in one order,
    because a frame lost in one of them moves all later ones. An incomplete set may lack only the
    end of its last pass, after two complete ones.
    """
    count = int(positions.max()) + 1
    order = np.lexsort([positions, candidate.codes])
    if complete:
        labels = _rank_within(positions, candidate.codes)
        size = len(order) // (int(labels.max()) + 1)
        if (
            size == len(order)
            or (np.diff(labels[order]) < 0).any()
            or (np.bincount(labels) != size).any()
        ):
            return None
    else:
        size = count
        if len(order) <= 2 * count or len(np.unique(candidate.codes)) != len(order):
            return None
        labels = np.empty(len(order), dtype=np.int64)
        labels[order] = np.arange(len(order)) // count
    one_pass = positions[order[:size]]
    if (
        len(np.unique(one_pass)) != count
        or not (positions[order] == np.resize(one_pass, len(order))).all()
    ):
        return None
    return labels if begins_there(one_pass, candidate, order, size) else None


def begins_there(one_pass: Ints, candidate: Candidate, order: Ints, size: int) -> bool:
    """Whether passes that are cut every `size` frames are cut at their beginnings.

    Where frames are lost at both ends, any cut looks complete. Evidence for a beginning is a pause
    before each pass longer than any within; or numbers that count on from 1, or from a multiple of
    `size`; or, if time only increases, passes that go straight from one end of the positions to the
    other.
    """
    assert candidate.numbers is not None
    numbers = candidate.numbers[order]
    steps = np.diff(numbers)
    between = np.arange(1, len(order)) % size == 0
    within, pauses = float(steps[~between].max(initial=0)), float(steps[between].min())
    if pauses > within * 1.01:
        return True
    if float(steps[between].max()) * 1.01 < within:
        return False
    if candidate.kind == "count" and (steps == 1).all():
        return bool(numbers[0] == 0 or (numbers[0] - 1) % size == 0)
    along = np.diff(one_pass)
    return len(one_pass) > 2 and bool((along >= 0).all() or (along <= 0).all())


def _strides(positions: Ints, codes: Ints) -> Ints | None:
    """Return the number of each frame within its run of frames at one position.

    The result is None unless the count goes through all frames of one position before the next.
    """
    most = len(positions) // (int(positions.max()) + 1)
    if len(np.unique(codes)) != len(codes):
        return None
    order = np.argsort(codes)
    runs = positions[order].reshape(-1, most)
    if not (runs == runs[:, :1]).all():
        return None
    labels = np.empty(len(positions), dtype=np.int64)
    labels[order] = np.arange(len(positions)) % most
    return labels


def mixed_codes(codes: Sequence[Ints]) -> Ints:
    """Return one integer per frame that orders and equals as the tuple of dense codes does."""
    result = codes[0]
    for code in codes[1:]:
        values = int(code.max()) + 1
        if int(result.max()) >= _LIMIT // values:
            result = dense_codes(result)
        result = result * values + code
    return result


def dense_codes(codes: Ints) -> Ints:
    """Return 0, 1, 2, ... in the order of the codes."""
    if (codes == codes[0]).all():
        return np.zeros(len(codes), dtype=np.int64)
    return np.unique(codes, return_inverse=True)[1].reshape(-1).astype(np.int64)


def pattern_of(labels: Ints) -> bytes:
    """Return equal bytes for labellings that group the frames alike, whatever their labels are."""
    _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    return bytes(first[inverse.reshape(-1)].astype(np.int64).tobytes())


def members(labels: Ints) -> list[Ints]:
    """Return the indices of the frames with label 0, 1, 2, ..., in order."""
    return np.split(np.argsort(labels, kind="stable"), np.cumsum(np.bincount(labels))[:-1])
