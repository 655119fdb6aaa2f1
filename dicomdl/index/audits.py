"""Audit: what parts of one index, or several indexes, have in common."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from dicomdl.arrays import Ints, Mask
from dicomdl.errors import UsageError, position_in, rows_of_slice
from dicomdl.index._components import (
    FRAME_OF_REFERENCE,
    IDENTITIES,
    KEY_NAMES,
    PIXELS,
    identities,
    stack_of_rows,
)
from dicomdl.index.rows import Generation
from dicomdl.index.table import Table
from dicomdl.index.text import counted, html_table, text_columns

# Name of the key "is the same stack", which also finds an equal copy of a frame.
STACK: Final = "stack"
_NAMES: Final = {**KEY_NAMES, STACK: "the same stack"}


@dataclass(frozen=True, slots=True, eq=False)
class Audited:
    """The frames of one part.

    Attributes
    ----------
    generation
        The generation of its index.
    rows
        (frames,) int64: its rows of the table `frames`.
    """

    generation: Generation
    rows: Ints

    @classmethod
    def of(cls, index: Any) -> "Audited":
        """Return the frames of an index; a UsageError for anything else."""
        generation = getattr(index, "_generation", None)
        if not isinstance(generation, Generation) or not callable(getattr(index, "rows", None)):
            raise UsageError(
                "audit takes parts of an index, such as audit(train, val, test), not "
                f"{type(index).__name__}"
            )
        return cls(generation, index.rows())


@dataclass(frozen=True, slots=True)
class Leak:
    """A value that two parts have in common.

    Attributes
    ----------
    key
        The column: "patient_id", "study_instance_uid", "series_instance_uid",
        "frame_of_reference_uid", "pixel_hash"; or "stack" for one stack in both parts.
    value
        The UID or the hash; "" for a PatientID, which no report shows, and for a stack.
    parts
        The numbers of the two parts.
    stacks
        The numbers (`Stack.number`) of a stack with the value in the one part and in the other.
    """

    key: str
    value: str
    parts: tuple[int, int]
    stacks: tuple[int, int]


@dataclass(frozen=True, slots=True, eq=False)
class _Shared:
    """The values of one key that parts share.

    `parts` and `stacks` are (n, 2) int64; `values` has the column `name`, row ``codes[i]`` for
    leak i.
    """

    name: str
    codes: Ints
    parts: Ints
    stacks: Ints
    values: Table | None

    def leak(self, number: int) -> Leak:
        shown = self.values is not None and self.name != "patient_id"
        value = self.values.text(self.name, int(self.codes[number])) if shown else ""  # type: ignore[union-attr]
        one, two = self.parts[number].tolist(), self.stacks[number].tolist()
        return Leak(self.name, value, (one[0], one[1]), (two[0], two[1]))


class Audit(Sequence[Leak]):
    """The leaks between parts, as `Index.audit` finds them.

    A sequence of `Leak`: one per value of a key and pair of parts. It prints their number per key.

    Attributes
    ----------
    ok
        True when the parts share nothing.
    parts
        The number of parts.
    """

    def __init__(self, parts: int, shared: Sequence[_Shared]) -> None:
        self.parts = parts
        self._shared = [each for each in shared if len(each.codes)]
        self._ends = np.cumsum([len(each.codes) for each in self._shared]).tolist()

    @property
    def ok(self) -> bool:
        """Whether the parts share nothing."""
        return not self._shared

    def __len__(self) -> int:
        """Return the number of leaks."""
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, number: Any) -> Any:
        if isinstance(number, slice):
            return [self[each] for each in rows_of_slice(number, len(self), "leak")]
        number = position_in(number, len(self), "leak")
        which = int(np.searchsorted(self._ends, number, side="right"))
        return self._shared[which].leak(number - ([0, *self._ends])[which])

    def __iter__(self) -> Iterator[Leak]:
        for each in self._shared:
            yield from map(each.leak, range(len(each.codes)))

    def to_dict(self) -> dict[str, Any]:
        """Return the number of shared values per key and pair of parts, as plain values."""
        return {
            "ok": self.ok,
            "parts": self.parts,
            "leaks": [
                {"key": key, "parts": list(pair), "values": count, "stacks": list(stacks)}
                for key, pair, count, stacks in self._summary()
            ],
        }

    def _summary(self) -> Iterator[tuple[str, tuple[int, int], int, tuple[int, int]]]:
        """Yield key, pair of parts, number of values, and a pair of stacks for example."""
        for each in self._shared:
            pairs, first, counts = np.unique(
                each.parts, axis=0, return_index=True, return_counts=True
            )
            for pair, one, count in zip(
                pairs.tolist(), first.tolist(), counts.tolist(), strict=True
            ):
                stacks = each.stacks[one].tolist()
                yield each.name, (pair[0], pair[1]), count, (stacks[0], stacks[1])

    def __repr__(self) -> str:
        lines = [self._title()]
        return "\n".join(lines + (text_columns(_TITLES, self._rows(), right=(2,)) if self else []))

    def _repr_html_(self) -> str:
        table = html_table(_TITLES, self._rows(), right=(2,)) if self else ""
        return f"<p>{self._title()}</p>{table}"

    def _title(self) -> str:
        if self.ok:
            return f"Audit of {self.parts} parts: they share nothing"
        return f"Audit of {self.parts} parts: {counted(len(self), 'leaks')}"

    def _rows(self) -> list[list[str]]:
        return [
            [
                _NAMES[key],
                f"{pair[0]} and {pair[1]}",
                f"{count:,}",
                f"stack {stacks[0]}, stack {stacks[1]}",
            ]
            for key, pair, count, stacks in self._summary()
        ]


_TITLES: Final = ("in two parts", "parts", "values", "for example")


def audit(parts: Sequence[Audited]) -> Audit:
    """Return what two or more parts have in common.

    Raises
    ------
    UsageError
        There are fewer than two parts.
    """
    if len(parts) < 2:
        raise UsageError(f"audit takes two or more parts, found {len(parts)}", parts=len(parts))
    layers = _layers(parts)
    shared = _same_stacks(layers)
    shared += [_shared(layers, name) for name in (*IDENTITIES, FRAME_OF_REFERENCE, PIXELS)]
    return Audit(len(parts), shared)


@dataclass(frozen=True, slots=True, eq=False)
class _Layer:
    """Parts of one generation that have no row in common.

    Attributes
    ----------
    generation
        The generation.
    owners
        (frames,) int64: the stack of each row.
    part
        (frames,) int64: the part of each row, -1 for none.
    """

    generation: Generation
    owners: Ints
    part: Ints


def _layers(parts: Sequence[Audited]) -> list[_Layer]:
    """Return the parts in as few layers as take them one after the other."""
    result: list[_Layer] = []
    for number, part in enumerate(parts):
        address = part.generation.address
        same = [layer for layer in result if layer.generation.address == address]
        free = [layer for layer in same if (layer.part[part.rows] < 0).all()]
        if not free:
            owners = same[0].owners if same else stack_of_rows(part.generation)
            free = [_Layer(part.generation, owners, np.full(len(owners), -1))]
            result += free
        free[0].part[part.rows] = number
    return result


def _same_stacks(layers: Sequence[_Layer]) -> list[_Shared]:
    """Return the stacks that are in several parts of one index."""
    result = []
    for address in {layer.generation.address: None for layer in layers}:
        stacks, parts = [], []
        for layer in layers:
            if layer.generation.address == address:
                rows = _changes(layer, np.zeros(len(layer.owners), dtype=np.bool_))
                stacks.append(layer.owners[rows])
                parts.append(layer.part[rows])
        together = np.concatenate(stacks)
        result.append(_pairs(STACK, together, np.concatenate(parts), together, None))
    return result


def _changes(layer: _Layer, changed: Mask) -> Ints:
    """Return the rows of parts at which the part, the stack or a flagged value changes."""
    flags = changed.copy()
    flags[:1] = True
    flags[1:] |= (layer.owners[1:] != layer.owners[:-1]) | (layer.part[1:] != layer.part[:-1])
    return np.flatnonzero(flags & (layer.part >= 0))


def _shared(layers: Sequence[_Layer], name: str) -> _Shared:
    """Return the values of a key that are in several parts."""
    codes, numbers, stacks, tables = [], [], [], []
    offset = 0
    for layer in layers:
        frames = layer.generation.frames
        if frames.constants.get(name) == "":
            continue
        rows = _changes(layer, frames.changes(name))
        if name == PIXELS and len(layers) == 1:
            rows = frames.perhaps_repeated(name, rows)
        coded, values = frames.distinct_at(name, rows)
        known = identities(values, name)[coded]
        codes.append(coded[known] + offset)
        numbers.append(layer.part[rows][known])
        stacks.append(layer.owners[rows][known])
        tables.append(values)
        offset += len(values)
    if not codes:
        empty = np.zeros(0, np.int64)
        return _Shared(name, empty, empty.reshape(0, 2), empty.reshape(0, 2), None)
    together, values = np.concatenate(codes), tables[0]
    if len(tables) > 1:
        same, values = Table.together(name, tables)
        together = same[together]
    return _pairs(name, together, np.concatenate(numbers), np.concatenate(stacks), values)


def _pairs(name: str, codes: Ints, parts: Ints, stacks: Ints, values: Table | None) -> _Shared:
    """Return the pairs of parts that hold one code, from (n,) codes, parts and stacks."""
    top = int(codes.max(initial=-1)) + 1
    low, high = np.full(top, np.iinfo(np.int64).max), np.full(top, -1)
    np.minimum.at(low, codes, parts)
    np.maximum.at(high, codes, parts)
    leaking = (low < high)[codes]
    codes, parts, stacks = codes[leaking], parts[leaking], stacks[leaking]
    # One entry per code and part, with its first stack.
    order = np.lexsort([stacks, parts, codes])
    codes, parts, stacks = codes[order], parts[order], stacks[order]
    first = np.append(True, (codes[1:] != codes[:-1]) | (parts[1:] != parts[:-1]))[: len(codes)]
    codes, parts, stacks = codes[first], parts[first], stacks[first]
    one, two = _all_pairs(codes)
    return _Shared(
        name,
        codes[one],
        np.stack([parts[one], parts[two]], axis=1),
        np.stack([stacks[one], stacks[two]], axis=1),
        values,
    )


def _all_pairs(codes: Ints) -> tuple[Ints, Ints]:
    """Return (first, second) positions of all pairs of equal codes, which are sorted."""
    starts = np.flatnonzero(np.append(True, codes[1:] != codes[:-1])[: len(codes)])
    lengths = np.diff(np.append(starts, len(codes)))
    ones, twos = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    for length in np.unique(lengths).tolist():
        at = starts[lengths == length]
        for one, two in itertools.combinations(range(length), 2):
            ones.append(at + one)
            twos.append(at + two)
    first, second = np.concatenate(ones), np.concatenate(twos)
    order = np.argsort(first, kind="stable")
    return first[order], second[order]
