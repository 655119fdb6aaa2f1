"""What tells frames at one position apart.

The search for the attribute, or few, that make one volume of each value.

Pure numpy. A dimension of a set of frames is an attribute, or the smallest combination, that is
unique within each position and takes the same values at all positions. It is found, not listed:
every candidate is tried, the meaningful ones first (`Tier`). What more than one of a tier would
tell differently is a tie, and a tie is never decided.

Times and counts that differ from slice to slice tell volumes apart, too, where their order leaves
no choice: when all frames of one pass over the positions come before all of the next one
(`_passes`), or when neighbours in time lie at one position (`_strides`). Heart phases are compared
by their rank at each position (`_phases`).
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Final, Literal

import numpy as np

from dicomdl.arrays import Floats, Ints

MOST_TOGETHER: Final = 3  # attributes in one combination
POSITIONS_LOOKED_AT: Final = 50  # before all positions are
# frames whose order is no accident: four have one of two orders of two passes in two cases of
# three
FEWEST_IN_ORDER: Final = 6
MOST_POSITIONS: Final = (
    0.75  # of an incomplete set: at more than this part of the positions each value must be
)
_LIMIT: Final = 2**62


class Tier(IntEnum):
    """How much an attribute means.

    Those of a higher tier are only asked when all before them gave nothing.
    """

    MEANING = 0  # what was measured or how: time point, echo, b-value, phase, kernel
    BOOKKEEPING = 1  # what a scanner counts: acquisitions, stacks, dimension indices
    ACQUISITION_TIME = 2  # a time that is the same at all positions
    PHASE_ORDER = 3  # the rank of a trigger delay that jitters from slice to slice
    ACQUISITION_ORDER = 4  # acquisition times that run on from slice to slice
    CONTENT_TIME = 5
    NUMBER = 6  # instance number and the like, which only count


Kind = Literal["value", "phase", "time", "count"]


@dataclass(frozen=True, slots=True, eq=False)
class Candidate:
    """One attribute of n frames.

    `codes` order and equal each other as the values do. A "phase" may jitter, so its rank at each
    position counts too, a "time" or a "count" may run on, so its passes count too: for these three,
    `numbers` are the values, none missing. `slow` ones vary slowest where a dimension has several.
    """

    name: str
    tier: Tier
    kind: Kind
    codes: Ints
    slow: bool = False
    numbers: Floats | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Dimension:
    """The answer: `labels[i]` is the volume of frame i, 0 ...

    count - 1, in lexicographic order of the attributes' values.
    """

    candidates: tuple[Candidate, ...]  # those that it is made of, the slowest first
    labels: Ints
    count: int


@dataclass(frozen=True, slots=True)
class Tie:
    """Attributes each of which would do, with different volumes as the result."""

    names: tuple[str, ...]


def find_dimension(places: Ints, candidates: Sequence[Candidate]) -> Dimension | Tie | None:
    """The dimension of n frames at the positions `places` (0 ...

    p - 1, all occupied), None where nothing tells them apart.

    Where some positions have fewer frames than others (an interrupted last volume), an attribute
    must have a value that all positions have and exactly as many values as the fullest position has
    frames; or, where it means something, each of its values must be at most positions.
    """
    counts = np.bincount(places)
    most = int(counts.max())
    if most == 1:
        return None
    whole = bool((counts == most).all())
    forms: list[Candidate] = []
    seen: set[bytes] = set()
    for tier in Tier:
        added = len(forms)
        for form in _forms(places, candidates, tier, whole=whole):
            labels = _dense(form.codes)
            pattern = _pattern(labels)
            if pattern not in seen and _may_help(places, labels, most, whole=whole):
                seen.add(pattern)
                forms.append(replace(form, codes=labels))
        if (
            len(forms) > added
            and (found := _smallest(places, forms, added, most, whole=whole)) is not None
        ):
            if isinstance(found, Dimension) and tier >= Tier.PHASE_ORDER:
                return _contradiction(places, found, candidates) or found
            return found
    return None


def _contradiction(places: Ints, found: Dimension, candidates: Sequence[Candidate]) -> Tie | None:
    """A Tie with an attribute that means something and, though not told everywhere, tells it otherwise than an order of times or numbers.

    That is one whose values differ from frame to frame at most positions, but not in the same order of volumes.
    """
    order = np.lexsort([found.labels, places])
    starts = np.flatnonzero(np.diff(places[order], prepend=-1))
    for candidate in candidates:
        codes = _dense(candidate.codes)
        if (
            candidate.tier != Tier.MEANING
            or candidate.kind != "value"
            or candidate.slow
            or int(codes.max()) + 1 > 2 * found.count
        ):
            continue
        orders = [tuple(_dense(part).tolist()) for part in np.split(codes[order], starts[1:])]
        telling = [ranks for ranks in orders if len(ranks) > 1 and len(set(ranks)) == len(ranks)]
        if 2 * len(telling) > len(orders) and len(set(telling)) > 1:
            return Tie((candidate.name, *(one.name for one in found.candidates)))
    return None


def _forms(
    places: Ints, candidates: Sequence[Candidate], tier: Tier, *, whole: bool
) -> Iterator[Candidate]:
    """The candidates of a tier as they are, and what follows from the order of their values."""
    several_places = int(places.max()) > 0
    for candidate in candidates:
        # At a single position any count is unique and proves nothing.
        if candidate.tier == tier and (several_places or tier < Tier.CONTENT_TIME):
            yield candidate
        if not several_places or len(places) < FEWEST_IN_ORDER:
            continue
        runs_on = candidate.kind in ("time", "count")
        if candidate.kind == "phase" and tier == Tier.PHASE_ORDER and whole:
            yield from _with(candidate, _phases(places, candidate))
        if runs_on and tier == max(candidate.tier, Tier.ACQUISITION_ORDER):
            yield from _with(candidate, _passes(places, candidate, whole=whole))
            if whole and candidate.tier != Tier.CONTENT_TIME:
                yield from _with(candidate, _strides(places, candidate.codes))


def _with(candidate: Candidate, codes: Ints | None) -> Iterator[Candidate]:
    if codes is not None:
        yield replace(candidate, codes=codes)


def _smallest(
    places: Ints, forms: Sequence[Candidate], added: int, most: int, *, whole: bool
) -> Dimension | Tie | None:
    """The smallest combination with a form from number `added` on.

    Of those before, none was enough.
    """
    counts = [int(form.codes.max()) + 1 for form in forms]
    few = np.flatnonzero(places < POSITIONS_LOOKED_AT)  # most combinations fail there already
    for size in range(1, MOST_TOGETHER + 1):
        found: list[Dimension] = []
        for chosen in itertools.combinations(range(len(forms)), size):
            if chosen[-1] < added or np.prod([counts[i] for i in chosen], dtype=np.float64) < most:
                continue
            together = sorted((forms[i] for i in chosen), key=lambda form: not form.slow)
            if not _is_unique(places[few], _mixed([form.codes[few] for form in together])):
                continue
            labels = _dense(_mixed([form.codes for form in together]))
            if _tells_apart(places, labels, most, max(form.tier for form in together), whole=whole):
                found.append(Dimension(tuple(together), labels, int(labels.max()) + 1))
        if len({_pattern(dimension.labels) for dimension in found}) > 1:
            return Tie(
                tuple(
                    "+".join(candidate.name for candidate in dimension.candidates)
                    for dimension in found
                )
            )
        if found:
            return found[0]
    return None


def _is_unique(places: Ints, codes: Ints) -> bool:
    """Whether no two frames at one position have the same code."""
    order = np.lexsort([codes, places])
    return not bool(((np.diff(places[order]) == 0) & (np.diff(codes[order]) == 0)).any())


def _may_help(places: Ints, labels: Ints, most: int, *, whole: bool) -> bool:
    """Whether an attribute can be part of a dimension.

    In a whole set a part takes the same values equally often at every position, because the
    combination does; else its values may not be more than the fullest position has frames, or a few
    more where every position lacks another one.
    """
    values = int(labels.max()) + 1
    if values == 1 or values > most * (1 if whole else 1 / MOST_POSITIONS):
        return False
    if not whole:
        return True
    table = np.bincount(
        places * values + labels, minlength=(int(places.max()) + 1) * values
    ).reshape(-1, values)
    return bool((table == table[0]).all())


def _tells_apart(places: Ints, labels: Ints, most: int, tier: Tier, *, whole: bool) -> bool:
    """Whether labels are unique within each position, and the same at all positions as far as the frames go."""
    values = int(labels.max()) + 1
    if not _is_unique(places, labels):
        return False
    if whole:
        return values == most
    covered = np.bincount(labels) / (int(places.max()) + 1)
    return (values == most and covered.max() == 1) or (
        tier <= Tier.BOOKKEEPING and covered.min() > MOST_POSITIONS
    )


def _rank_within(places: Ints, codes: Ints) -> Ints:
    """The rank of each frame's value among the distinct values at its position."""
    order = np.lexsort([codes, places])
    new_place = np.diff(places[order], prepend=-1) != 0
    step = (np.diff(codes[order], prepend=0) != 0) | new_place
    running = np.cumsum(step)
    ranks = np.empty(len(codes), dtype=np.int64)
    starts = running[new_place]
    ranks[order] = running - np.repeat(
        starts, np.diff(np.append(np.flatnonzero(new_place), len(order)))
    )
    return ranks


def _phases(places: Ints, candidate: Candidate) -> Ints | None:
    """The rank of each frame's phase at its position.

    None unless every position goes through the cycle alike.

    Each position has its own heart beat: its first phase must be within half a step of the usual
    one, and so must all others, as fractions of its cycle. The delays of a triggered scan that
    jitter fail that.
    """
    assert candidate.numbers is not None
    ranks = _rank_within(places, candidate.codes)
    count = int(ranks.max()) + 1
    # magnitude and velocity share a phase
    cells, first = np.unique(places * count + ranks, return_index=True)
    if (
        count == 1
        or len(cells) != count * (int(places.max()) + 1)
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


def _passes(places: Ints, candidate: Candidate, *, whole: bool) -> Ints | None:
    """The number of the pass over the positions that each frame belongs to.

    None where passes overlap, differ, or may begin elsewhere.

    Frames of one value are of one pass: echoes share a time. All passes must go through the
    positions in one order, because a frame lost in one of them moves all later ones. An interrupted
    set may only lack the end of its last pass, after two whole ones.
    """
    count = int(places.max()) + 1
    order = np.lexsort([places, candidate.codes])
    if whole:
        labels = _rank_within(places, candidate.codes)
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
    one_pass = places[order[:size]]
    if (
        len(np.unique(one_pass)) != count
        or not (places[order] == np.resize(one_pass, len(order))).all()
    ):
        return None
    return labels if _begins_there(one_pass, candidate, order, size) else None


def _begins_there(one_pass: Ints, candidate: Candidate, order: Ints, size: int) -> bool:
    """Whether passes that are cut every `size` frames are cut where they begin.

    Where frames are lost at both ends, any cut looks whole.

    There is a pause before each pass longer than any within; or numbers count on from 1, or from a
    multiple; or, if time only runs on, each pass goes straight from one end of the positions to the
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


def _strides(places: Ints, codes: Ints) -> Ints | None:
    """The place of each frame in its run, where counting runs through all frames of one position before the next."""
    most = len(places) // (int(places.max()) + 1)
    if len(np.unique(codes)) != len(codes):
        return None
    order = np.argsort(codes)
    runs = places[order].reshape(-1, most)
    if not (runs == runs[:, :1]).all():
        return None
    labels = np.empty(len(places), dtype=np.int64)
    labels[order] = np.arange(len(places)) % most
    return labels


def _mixed(codes: Sequence[Ints]) -> Ints:
    """One integer a frame that orders and equals as the tuple of dense codes does."""
    result = codes[0]
    for code in codes[1:]:
        values = int(code.max()) + 1
        if int(result.max()) >= _LIMIT // values:
            result = _dense(result)
        result = result * values + code
    return result


def _dense(codes: Ints) -> Ints:
    """0, 1, 2, ... in the order of the codes."""
    if (codes == codes[0]).all():
        return np.zeros(len(codes), dtype=np.int64)
    return np.unique(codes, return_inverse=True)[1].reshape(-1).astype(np.int64)


def _pattern(labels: Ints) -> bytes:
    """The same for two labellings that put the same frames together, whatever they call them."""
    _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    return bytes(first[inverse.reshape(-1)].astype(np.int64).tobytes())


def members(labels: Ints) -> list[Ints]:
    """The places of each label 0, 1, 2, ... in order."""
    return np.split(np.argsort(labels, kind="stable"), np.cumsum(np.bincount(labels))[:-1])
