"""Division of the groups of an index into the parts of a split, from scratch or after a file."""

import itertools
import math
import operator
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from dicomdl.arrays import Floats, Ints
from dicomdl.errors import DicomdlWarning, UsageError
from dicomdl.index._assigning import Wanted, assign, labels_of
from dicomdl.index._components import (
    IDENTITIES,
    KEY_NAMES,
    PIXELS,
    Grouping,
    Key,
    digest_of,
    grouping_of,
    require_level,
)
from dicomdl.index._strata import Strata, strata_of
from dicomdl.index.joined import Joined
from dicomdl.index.rows import Generation
from dicomdl.index.saved_splits import SavedGroup, SavedSplit
from dicomdl.index.text import counted, format_nouns

# Nouns of the units of a level.
UNITS: Final = {"patient": "patients", "study": "studies", "series": "series"}
# Fields of a saved group per key.
_FIELDS: Final = dict(zip(IDENTITIES, ("patients", "studies", "series"), strict=True))
# A group is large when it holds this many times what a group holds on average.
_LARGE: Final = 2.0


class SplitWarning(DicomdlWarning):
    """A group of a split is larger than a part, or there are fewer groups than parts."""


@dataclass(frozen=True, slots=True)
class Request:
    """The arguments of `Index.split`, checked.

    Attributes
    ----------
    by, fractions, k, stratify, seed, keep
        The arguments; fractions are those of the folds where `k` is given.
    """

    by: str
    fractions: tuple[float, ...]
    k: int | None
    stratify: tuple[str, ...]
    seed: int
    keep: SavedSplit | None

    @property
    def shares(self) -> Floats:
        """(parts + 1,) the share of each part and of the rest, together 1."""
        rest = max(0.0, 1.0 - math.fsum(self.fractions))
        return np.array([*self.fractions, rest if rest > 1e-9 else 0.0])


def requested(
    fractions: Sequence[float] | None,
    k: int | None,
    by: str,
    stratify: str | Sequence[str] | None,
    seed: int,
    keep: SavedSplit | None,
) -> Request:
    """Check the arguments of `Index.split`; those that are not given are those of `keep`.

    Raises
    ------
    UsageError
        They do not fit each other.
    """
    require_level(by)
    if keep is not None and not isinstance(keep, SavedSplit):
        raise UsageError(
            f"keep is what load_split(path) or Split.saved returns, not {type(keep).__name__}"
        )
    if fractions is not None and k is not None:
        raise UsageError("split takes fractions or k, not both")
    if keep is not None:
        if keep.by != by:
            raise UsageError(f"keep is a split by {keep.by}, not by {by}: pass by={keep.by!r}")
        if fractions is None and k is None:
            fractions, k = keep.fractions, keep.k
        if stratify is None:
            stratify = keep.stratify
    elif fractions is None and k is None:
        raise UsageError("split takes fractions such as (0.8, 0.1, 0.1), or k=5 for folds")
    columns = _columns(stratify)
    shares = _folds(k) if k is not None else _fractions(() if fractions is None else fractions)
    if keep is not None and len(keep.parts) != len(shares):
        raise UsageError(
            f"keep has {counted(len(keep.parts), 'parts')}, and {len(shares)} are asked for: a "
            "kept split keeps its parts"
        )
    folds = None if k is None else len(shares)
    try:
        number = operator.index(seed)
    except TypeError:
        raise UsageError(f"seed={seed!r}: expected a whole number") from None
    return Request(by, shares, folds, columns, number, keep)


def _columns(given: Any) -> tuple[str, ...]:
    """Return the columns to stratify by."""
    columns = () if given is None else (given,) if isinstance(given, str) else given
    if isinstance(columns, list | tuple) and all(isinstance(name, str) for name in columns):
        return tuple(columns)
    raise UsageError(f"stratify takes a column or a list of columns, not {type(given).__name__}")


def _folds(k: Any) -> tuple[float, ...]:
    if isinstance(k, bool) or not hasattr(k, "__index__") or operator.index(k) < 2:
        raise UsageError(f"k is the number of folds, at least 2, found {k!r}", k=k)
    return (1 / operator.index(k),) * operator.index(k)


def _fractions(given: Any) -> tuple[float, ...]:
    try:
        fractions = () if isinstance(given, str | bytes) else tuple(map(float, given))
    except (TypeError, ValueError):
        raise UsageError(
            f"fractions are numbers such as (0.8, 0.1, 0.1), found {given!r}; k=5 gives folds"
        ) from None
    if not (fractions and min(fractions) >= 0 and 0 < math.fsum(fractions) <= 1 + 1e-9):
        raise UsageError(
            "fractions are parts of 1, one at least above 0 and together at most 1, found "
            f"{given!r}",
            fractions=fractions,
        )
    return fractions


@dataclass(frozen=True, slots=True, eq=False)
class Division:
    """The part of each group.

    Attributes
    ----------
    request
        What was asked for.
    grouping
        The groups and their units.
    strata
        The classes of the units.
    part
        (groups,) int64: the part of each group, ``len(fractions)`` for none.
    kept
        (saved groups,) int64: the group that holds each group of `request.keep`; -1 for one of
        which nothing is in the index.
    """

    request: Request
    grouping: Grouping
    strata: Strata
    part: Ints
    kept: Ints

    @property
    def part_of_stack(self) -> Ints:
        """(stacks,) the part of each stack; -1 for stacks that do not count."""
        group = self.grouping.group
        return np.where(group < 0, -1, np.append(self.part, -1)[group])


def divide(generation: Generation, joined: Joined, rows: Ints, request: Request) -> Division:
    """Divide the groups of some rows of `frames`.

    Raises
    ------
    UsageError
        There are fewer groups than folds, a group joins two parts of `request.keep`, or a column
        of strata does not exist.
    """
    grouping = grouping_of(generation, request.by, rows)
    count = len(grouping)
    if request.k is not None and count < request.k:
        raise UsageError(
            f"{counted(count, 'groups')} cannot make {request.k} folds: at least one group per "
            f"fold is needed. {_content(grouping, 0) if count else 'Nothing is selected'}",
            groups=count,
            k=request.k,
        )
    strata = strata_of(generation, joined, rows, grouping, request.stratify)
    members = labels_of(
        grouping.unit_group[strata.units], strata.classes, strata.frames, count, len(strata.names)
    )
    kept, saved = _kept(grouping, request)
    wanted = Wanted(
        request.shares,
        np.array([*(share > 0 for share in request.fractions), False]),
        np.argsort(np.argsort(_mixed(grouping.digests, request.seed), kind="stable")),
        kept,
    )
    part = assign(grouping.sizes, members, wanted)
    return Division(request, grouping, strata, part, saved)


def _mixed(digests: Any, seed: int) -> Any:
    """Return (n,) uint64 hashes of digests with a seed: splitmix64 (Steele, Lea, Flood 2014)."""
    with np.errstate(over="ignore"):
        x = digests + np.uint64(((seed + 1) * 0x9E3779B97F4A7C15) % 2**64)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return x ^ (x >> np.uint64(31))


# --- a split that is kept -------------------------------------------------------------------------


def _kept(grouping: Grouping, request: Request) -> tuple[Ints, Ints]:
    """Return the part of each group by `request.keep`, and the group of each saved group."""
    part = np.full(len(grouping), -1)
    if request.keep is None:
        return part, np.zeros(0, np.int64)
    groups, parts = _saved_groups(request.keep)
    owner = np.full(len(groups), -1)
    for key in grouping.keys:
        if key.name not in _FIELDS:
            continue
        numbers = _numbers_of_values(key, groups)
        found = numbers[key.codes] >= 0
        saved, group = numbers[key.codes[found]], grouping.group[key.stacks[found]]
        wrong = np.flatnonzero((part[group] >= 0) & (part[group] != parts[saved]))
        part[group] = parts[saved]
        owner[saved] = group
        if not len(wrong):
            wrong = np.flatnonzero(part[group] != parts[saved])
        if len(wrong):
            raise _joins_two_parts(grouping, int(group[wrong[0]]), request.keep)
    return part, owner


def _saved_groups(keep: SavedSplit) -> tuple[list[SavedGroup], Ints]:
    """Return all groups of a saved split, and the part of each; the rest comes last."""
    several = [*keep.parts, keep.rest]
    numbers = np.repeat(np.arange(len(several)), [len(part) for part in several])
    return list(itertools.chain(*several)), numbers


def _numbers_of_values(key: Key, groups: Sequence[SavedGroup]) -> Ints:
    """Return (values,) the number of the saved group that has each value of a key; else -1."""
    field = _FIELDS[key.name]
    number_of = {
        value: number for number, group in enumerate(groups) for value in getattr(group, field)
    }
    found = [number_of.get(value, -1) for value in saved_values(key)]
    return np.array(found, dtype=np.int64)


def saved_values(key: Key) -> list[str]:
    """Return the values of a key as a split file holds them: a hash for each PatientID."""
    values: list[str] = key.values.column(key.name).to_pylist()
    if key.name == "patient_id":
        return [f"{digest_of(key.name, value):016x}" for value in values]
    return values


def _joins_two_parts(grouping: Grouping, group: int, keep: SavedSplit) -> UsageError:
    """Return the error for a group whose members are in two parts of a saved split."""
    groups, parts = _saved_groups(keep)
    places: dict[int, str] = {}
    for key in grouping.keys:
        if key.name in _FIELDS:
            codes = np.unique(key.codes[grouping.group[key.stacks] == group])
            numbers = _numbers_of_values(key, groups)[codes]
            for code, number in zip(codes.tolist(), numbers.tolist(), strict=True):
                if number >= 0:
                    places.setdefault(int(parts[number]), _told_value(key, code))
    said = " and ".join(
        f"{words} is in {_part_name(part, keep)}" for part, words in sorted(places.items())
    )
    return UsageError(
        f"a group of the index joins {len(places)} parts of the split that is kept: {said}. "
        f"{_content(grouping, group)} Divide them from scratch, or select those that join them "
        "away",
        parts=sorted(places),
    )


def _part_name(part: int, keep: SavedSplit) -> str:
    return f"part {part}" if part < len(keep.parts) else "no part"


def _told_value(key: Key, code: int) -> str:
    """Return a value of a key for a message; of a PatientID, only that it is one."""
    if key.name == "patient_id":
        return f"a PatientID (of stack {int(key.stacks[key.codes == code][0])})"
    return f"{KEY_NAMES[key.name]} {key.values.text(key.name, code)}"


# --- what is told ---------------------------------------------------------------------------------


def tell(division: Division, stacklevel: int) -> None:
    """Warn of a group that is larger than a part, and of parts that stay empty."""
    grouping, request = division.grouping, division.request
    needed = [part for part, share in enumerate(request.fractions) if share > 0]
    empty = sorted(set(needed) - set(division.part.tolist()))
    if empty:
        largest = int(grouping.sizes.argmax()) if len(grouping) else -1
        told = _content(grouping, largest) if len(grouping) else "Nothing is selected."
        words = (
            f"{counted(len(grouping), 'groups')} cannot fill {counted(len(needed), 'parts')} of a "
            f"split by {request.by}: part {', '.join(map(str, empty))} is empty. {told}"
        )
    else:
        words = _oversized(division, min(request.fractions[part] for part in needed))
    if words:
        warnings.warn(words, SplitWarning, stacklevel=stacklevel + 1)


def _oversized(division: Division, smallest: float) -> str:
    """Return a sentence about the largest group if it is larger than the smallest part."""
    grouping = division.grouping
    measures = {UNITS[grouping.by]: grouping.sizes, **_studies(grouping)}
    for sizes in measures.values():
        group, total = int(sizes.argmax()), int(sizes.sum())
        mean = (total - sizes[group]) / max(len(sizes) - 1, 1)
        if sizes[group] > max(smallest * total, _LARGE * mean, 1):
            return (
                f"a group of the split by {grouping.by} is larger than the smallest part, which "
                f"gets {smallest:.3g} of {format_nouns(_totals(measures))}. "
                f"{_content(grouping, group)}"
            )
    return ""


def _totals(measures: Mapping[str, Ints]) -> dict[str, int]:
    return {nouns: int(sizes.sum()) for nouns, sizes in measures.items()}


def _studies(grouping: Grouping) -> dict[str, Ints]:
    """Return the number of Studies of each group, at the level of patients."""
    for key in grouping.keys:
        if key.name == "study_instance_uid" and grouping.by == "patient":
            owners = grouping.group[key.stacks[np.unique(key.codes, return_index=True)[1]]]
            return {"studies": np.bincount(owners, minlength=len(grouping))}
    return {}


def _content(grouping: Grouping, group: int) -> str:
    """Return a sentence about the size of a group and the key that joins most of it."""
    sizes = {UNITS[grouping.by]: int(grouping.sizes[group])}
    sizes |= {nouns: int(each[group]) for nouns, each in _studies(grouping).items()}
    size = format_nouns(sizes)
    key, code, units = _joining(grouping, group)
    if units < 2:
        same = "one PatientID" if grouping.by == "patient" else f"one {grouping.by}"
        stack = int(np.flatnonzero(grouping.group == group)[0])
        hint = (
            "; if it stands for several patients, split by='study', or select them apart"
            if sizes.get("studies", 1) > 1
            else ""
        )
        return f"The group holds {size}, joined by {same} (of stack {stack}){hint}."
    return (
        f"The group holds {size}; {_told_value(key, code)} joins "
        f"{counted(units, UNITS[grouping.by])} of it"
        + ("" if key.name == PIXELS else "; where it is no identity, split by='study' or 'series'")
        + "."
    )


def _joining(grouping: Grouping, group: int) -> tuple[Key, int, int]:
    """Return the key and the value that most units of a group have in common, and their number."""
    best = (grouping.keys[0], 0, 0)
    for key in grouping.keys[1:]:
        inside = grouping.group[key.stacks] == group
        if not inside.any():
            continue
        codes, units = key.codes[inside], grouping.unit[key.stacks[inside]]
        both = np.unique(codes * (len(grouping.unit_group) + 1) + units)
        used, counts = np.unique(both // (len(grouping.unit_group) + 1), return_counts=True)
        most = int(counts.argmax())
        if counts[most] > best[2]:
            best = (key, int(used[most]), int(counts[most]))
    return best
