"""Duplicates: sets of frames with equal pixels, by the hashes that a scan keeps when asked for."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from dicomdl.arrays import Ints
from dicomdl.errors import UsageError, position_in, rows_of_slice
from dicomdl.index._components import IDENTITIES, PIXELS, stack_of_rows
from dicomdl.index.rows import Generation
from dicomdl.index.table import Table, where
from dicomdl.index.text import counted, html_table, text_columns

# What the frames of a set differ in, the gravest first.
ACROSS: Final = ("patient", "study", "series", "stack")
_TITLES: Final = ("equal pixels", "sets", "frames", "for example")


@dataclass(frozen=True, slots=True)
class Duplicate:
    """A set of frames with equal pixels.

    Attributes
    ----------
    across
        The highest level at which they differ: "patient", "study", "series", or "stack" for frames
        of one Series.
    frames
        The numbers of the frames in the index, as `Index.frame` takes them.
    stacks
        The number (`Stack.number`) of the stack of each.
    pixel_hash
        Their hash, 32 hexadecimal digits.
    """

    across: str
    frames: tuple[int, ...]
    stacks: tuple[int, ...]
    pixel_hash: str


class Duplicates(Sequence[Duplicate]):
    """The frames with equal pixels, as `Index.duplicates` finds them.

    A sequence of `Duplicate`, those across patients first. It prints their number per level.

    Attributes
    ----------
    without_hash
        The number of frames that are not compared: images of one value, segmentations, and frames
        that cannot be decoded.
    """

    def __init__(self, frames: Table, found: "_Found", without_hash: int) -> None:
        self._frames = frames
        self._found = found
        self.without_hash = without_hash

    def __len__(self) -> int:
        """Return the number of sets."""
        return len(self._found.levels)

    def __getitem__(self, number: Any) -> Any:
        if isinstance(number, slice):
            return [self[each] for each in rows_of_slice(number, len(self), "set")]
        number = position_in(number, len(self), "set")
        found = self._found
        inside = slice(*found.starts[number : number + 2].tolist())
        return Duplicate(
            ACROSS[int(found.levels[number])],
            tuple(found.numbers[inside].tolist()),
            tuple(found.stacks[inside].tolist()),
            self._frames.text(PIXELS, int(found.rows[inside][0])),
        )

    def __iter__(self) -> Iterator[Duplicate]:
        return map(self.__getitem__, range(len(self)))

    def __repr__(self) -> str:
        lines = text_columns(_TITLES, self._table(), right=(1, 2)) if self else []
        return "\n".join([self._title(), *lines])

    def _repr_html_(self) -> str:
        table = html_table(_TITLES, self._table(), right=(1, 2)) if self else ""
        return f"<p>{self._title()}</p>{table}"

    def _title(self) -> str:
        sets = f"{len(self):,} sets" if len(self) != 1 else "1 set"
        frames = counted(len(self._found.numbers), "frames")
        return f"Duplicates: {sets} of equal pixels, {frames}; {self.without_hash:,} not compared"

    def _table(self) -> list[list[str]]:
        found, rows = self._found, []
        for level, name in enumerate(ACROSS):
            sets = np.flatnonzero(found.levels == level)
            if len(sets):
                frames = int((found.starts[sets + 1] - found.starts[sets]).sum())
                first = self[int(sets[0])]
                where = f"frames {first.frames[0]} and {first.frames[1]}"
                words = f"across {'patients' if level == 0 else 'studies' if level == 1 else name}"
                words = "within a series" if name == "stack" else words
                rows.append([words, f"{len(sets):,}", f"{frames:,}", where])
        return rows


@dataclass(frozen=True, slots=True, eq=False)
class _Found:
    """Sets of equal frames: members `starts[i]` to `starts[i + 1]`, and a level per set."""

    numbers: Ints
    rows: Ints
    stacks: Ints
    starts: Ints
    levels: Ints


def duplicates(generation: Generation, rows: Ints) -> Duplicates:
    """Return the sets of equal frames among some rows of `frames`.

    Raises
    ------
    UsageError
        The index holds no hashes.
    """
    frames = generation.frames
    if not generation.facts.get("options", {}).get("pixel_hash"):
        raise UsageError(
            "the index holds no hashes of pixels: scan again with scan(..., pixel_hash=True)"
        )
    codes, values = frames.distinct_at(PIXELS, rows)
    known = ~where(values, PIXELS, "")[codes]
    counts = np.bincount(codes, minlength=len(values))
    numbers = np.flatnonzero((counts[codes] > 1) & known)
    numbers = numbers[np.argsort(codes[numbers], kind="stable")]
    return Duplicates(frames, _found(generation, rows, numbers, codes), int((~known).sum()))


def _found(generation: Generation, rows: Ints, numbers: Ints, codes: Ints) -> _Found:
    """Return the sets of frames, which are sorted by their codes, in order of their levels."""
    members, sets = rows[numbers], codes[numbers]
    starts = np.flatnonzero(np.append(True, sets[1:] != sets[:-1])[: len(sets)])
    lengths = np.diff(np.append(starts, len(sets)))
    of_set = np.repeat(np.arange(len(starts)), lengths)
    levels = np.full(len(starts), len(ACROSS) - 1)
    for level, name in reversed(list(enumerate(IDENTITIES))):
        levels[_differ(generation.frames, name, members, of_set, len(starts))] = level
    order = np.lexsort([numbers[starts], levels]) if len(starts) else np.zeros(0, np.int64)
    rank = np.argsort(order)
    moved = np.argsort(rank[of_set], kind="stable")
    return _Found(
        numbers[moved],
        members[moved],
        stack_of_rows(generation)[members[moved]],
        np.append(0, np.cumsum(lengths[order])).astype(np.int64),
        levels[order],
    )


def _differ(frames: Table, name: str, rows: Ints, of_set: Ints, sets: int) -> Ints:
    """Return the sets whose frames hold several values of an identity; blanks do not count."""
    codes, values = frames.distinct_at(name, rows)
    known = ~where(values, name, "")[codes]
    low, high = np.full(sets, len(values)), np.full(sets, -1)
    np.minimum.at(low, of_set[known], codes[known])
    np.maximum.at(high, of_set[known], codes[known])
    return np.flatnonzero(high > low)
