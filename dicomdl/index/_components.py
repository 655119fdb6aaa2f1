"""Groups that a split must not divide: connected components of stacks and their identities.

Two stacks belong together when they hold one value of a key: PatientID, Study Instance UID, the
Series, Frame of Reference UID, or the hash of a frame's pixels. A blank value is no identity, nor
is a well-known frame of reference (PS3.6 table A-2), which is that of an atlas.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from dicomdl.arrays import Ints, Mask
from dicomdl.errors import UsageError
from dicomdl.headers.uids import STANDARD_ROOT
from dicomdl.index._identity import SPLIT_LEVELS
from dicomdl.index.rows import Generation
from dicomdl.index.table import Table, starting, where

# Name of a key that is the number of a Series, which joins slices whatever their UIDs are.
SERIES: Final = "series_instance_uid"
FRAME_OF_REFERENCE: Final = "frame_of_reference_uid"
PIXELS: Final = "pixel_hash"
# Keys per level, the one that names the level first. A user who divides patients by Study accepts
# that Studies share a frame of reference; equal pixels are a leak at any level.
LEVELS: Final = {
    "patient": ("patient_id", "study_instance_uid", SERIES, FRAME_OF_REFERENCE, PIXELS),
    "study": ("study_instance_uid", SERIES, PIXELS),
    "series": (SERIES, PIXELS),
}
# Keys whose values are the units of a level, in the order in which one replaces a blank one.
IDENTITIES: Final = SPLIT_LEVELS["patient"]
# Names of keys in messages.
KEY_NAMES: Final = {
    "patient_id": "PatientID",
    "study_instance_uid": "Study Instance UID",
    SERIES: "Series Instance UID",
    FRAME_OF_REFERENCE: "Frame of Reference UID",
    PIXELS: "pixels",
}


def require_level(by: str) -> None:
    """Raise UsageError unless `by` is a level of a split."""
    if not isinstance(by, str) or by not in LEVELS:
        raise UsageError(f"split by {by!r}: expected one of {', '.join(LEVELS)}", by=by)


@dataclass(frozen=True, slots=True, eq=False)
class Key:
    """The values of one key, and the stacks that hold them.

    Attributes
    ----------
    name
        The column of `frames`.
    stacks, codes
        (n,) int64: pairs of a stack and the value that some frame of it holds.
    values
        The table with a column `name`: row ``codes[i]`` is the value of pair i.
    """

    name: str
    stacks: Ints
    codes: Ints
    values: Table

    def __len__(self) -> int:
        """Return the number of values."""
        return len(self.values)


def stack_of_rows(generation: Generation) -> Ints:
    """Return (frames,) the number of the stack of each row; a copy has that of its original."""
    starts = generation.stack_starts
    stacks = np.repeat(np.arange(len(starts) - 1), np.diff(starts))
    originals = generation.frames.numbers("duplicate_of")[starts[-1] :].astype(np.int64)
    return np.concatenate([stacks, stacks[originals]])


def first_rows(frames: Table, name: str, owners: Ints, selected: Mask) -> Ints:
    """Return the selected rows that hold each value of each stack, at least once.

    Of a run of rows of one stack with one value, it is the first that is selected.
    """
    changed = frames.changes(name)
    changed[1:] |= owners[1:] != owners[:-1]
    if selected.all():
        return np.flatnonzero(changed)
    rows = np.flatnonzero(selected)
    runs = np.cumsum(changed)[rows]
    return rows[np.append(True, runs[1:] != runs[:-1])] if len(rows) else rows


def identities(values: Table, name: str) -> Mask:
    """Return (values,) flags: the values of a key that are an identity."""
    known = ~where(values, name, "")
    if name == FRAME_OF_REFERENCE:
        known &= ~starting(values, name, STANDARD_ROOT)
    return known


def key_of(generation: Generation, name: str, owners: Ints, selected: Mask) -> Key:
    """Return a key of the stacks of some rows.

    Parameters
    ----------
    generation
        The generation of the index.
    name
        A column of `frames`.
    owners
        (frames,) int64: the stack of each row (`stack_of_rows`).
    selected
        (frames,) flags of the rows that count.
    """
    frames = generation.frames
    if frames.constants.get(name) == "":
        rows = np.zeros(0, np.int64)
    else:
        rows = first_rows(frames, name, owners, selected)
        if name == PIXELS:
            rows = frames.perhaps_repeated(name, rows)
    codes, values = frames.distinct_at(name, rows)
    known = identities(values, name)
    if not known.all():
        kept = known[codes]
        rows, codes = rows[kept], (np.cumsum(known) - 1)[codes[kept]]
        values = values.take(np.flatnonzero(known))
    return Key(name, owners[rows], codes, values)


def keys_of(generation: Generation, by: str, owners: Ints, selected: Mask) -> list[Key]:
    """Return the keys by which a split at a level keeps stacks together."""
    return [key_of(generation, name, owners, selected) for name in LEVELS[by]]


def components(count: int, pairs: Sequence[tuple[Ints, Ints]]) -> Ints:
    """Return (count,) the smallest member of the component of each of `count` items.

    Parameters
    ----------
    count
        The number of items.
    pairs
        (items, values) of each key: items that hold one value of a key are in one component.
    """
    lowest = np.arange(count)
    tops = [int(values.max()) + 1 if len(values) else 0 for _, values in pairs]
    while True:
        before = lowest.copy()
        for (items, values), top in zip(pairs, tops, strict=True):
            least = np.full(top, count)
            np.minimum.at(least, values, lowest[items])
            # The label of the former root changes, too, so that chains shorten by half.
            np.minimum.at(lowest, lowest[items], least[values])
            np.minimum.at(lowest, items, least[values])
        lowest = lowest[lowest]
        if np.array_equal(before, lowest):
            return lowest


@dataclass(frozen=True, slots=True, eq=False)
class Grouping:
    """The groups of some stacks, which a split keeps together, and their units.

    Attributes
    ----------
    by
        The level: "patient", "study" or "series".
    keys
        What joins them (`keys_of`).
    group
        (stacks,) int64: the number of the group of each stack, from 0; -1 for a stack that does not
        count.
    unit
        (stacks,) int64: the number of the unit (patient, Study, Series) of each stack; -1 likewise.
    unit_group
        (units,) int64: the group of each unit.
    sizes
        (groups,) int64: the number of units of each group.
    digests
        (groups,) uint64: a hash of the identity of each group, which does not depend on the order
        of the data: the smallest of its units.
    """

    by: str
    keys: Sequence[Key]
    group: Ints
    unit: Ints
    unit_group: Ints
    sizes: Ints
    digests: np.ndarray[tuple[int], np.dtype[np.uint64]]

    def __len__(self) -> int:
        """Return the number of groups."""
        return len(self.sizes)


def grouping_of(generation: Generation, by: str, rows: Ints) -> Grouping:
    """Return the groups of the stacks that hold some rows of `frames`.

    Raises
    ------
    UsageError
        An unknown level.
    """
    require_level(by)
    owners = stack_of_rows(generation)
    selected = np.zeros(len(generation.frames), dtype=np.bool_)
    selected[rows] = True
    chosen = np.zeros(len(generation.stacks), dtype=np.bool_)
    chosen[owners[rows]] = True
    keys = keys_of(generation, by, owners, selected)
    stacks = np.flatnonzero(chosen)
    series = generation.stacks.numbers("series").astype(np.int64)
    pairs = [(key.stacks, key.codes) for key in keys]
    lowest = components(len(chosen), [*pairs, (stacks, series[stacks])])
    group = np.full(len(chosen), -1)
    _, group[stacks] = np.unique(lowest[stacks], return_inverse=True)
    unit, names = _units([key for key in keys if key.name in IDENTITIES], group, series)
    unit_group = np.full(len(names), -1)
    unit_group[unit[stacks]] = group[stacks]
    count = int(group.max(initial=-1)) + 1
    digests = np.full(count, np.iinfo(np.uint64).max, dtype=np.uint64)
    np.minimum.at(digests, unit_group, np.array(names, dtype=np.uint64))
    sizes = np.bincount(unit_group, minlength=count)
    return Grouping(by, keys, group, unit, unit_group, sizes, digests)


def _units(keys: Sequence[Key], group: Ints, series: Ints) -> tuple[Ints, list[int]]:
    """Return (stacks,) the number of the unit of each stack, and the digest of each unit.

    A stack without a PatientID is one of the patient of its group. A group without any has its
    Studies as units, and then its Series.
    """
    chosen = group >= 0
    count = int(group.max(initial=-1)) + 1
    unit = np.full(len(group), -1)
    offset = 0
    for key in keys:
        top = len(key)
        first = np.full(len(group), top)
        np.minimum.at(first, key.stacks, key.codes)
        of_group = np.full(count, top)
        np.minimum.at(of_group, group[chosen], first[chosen])
        filled = np.where(first < top, first, of_group[group] if count else top)
        taken = chosen & (unit < 0) & (filled < top)
        unit[taken] = offset + filled[taken]
        offset += top
    left = chosen & (unit < 0)
    unit[left] = offset + series[left]
    used, unit[chosen] = np.unique(unit[chosen], return_inverse=True)
    digests: list[int] = []
    start = 0
    for key in keys:
        inside = used[(used >= start) & (used < start + len(key))] - start
        values = key.values.values(key.name, inside)
        digests += [digest_of(key.name, value) for value in values]
        start += len(key)
    digests += [digest_of("series", str(number)) for number in (used[used >= start] - start)]
    return unit, digests


def digest_of(name: str, value: str) -> int:
    """Hash a value of a key to 64 bits, the same on every machine.

    A split file holds this instead of a PatientID.
    """
    data = f"{name}\0{value}".encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "big")
