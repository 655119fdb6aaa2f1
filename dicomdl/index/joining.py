"""Joins: labels out of a table, as columns of an index.

A join has four steps: the keys of frames and rows are matched as text, the rows of each key are
reduced to one row (or to lists, or pivoted), the columns get the kinds of their cells, and the
result is stored with a report.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa

from dicomdl.arrays import Mask
from dicomdl.errors import UsageError
from dicomdl.index._cells import Column, column_of
from dicomdl.index._findings import Findings, parsed_unmatched, report_of, require_matched
from dicomdl.index._keys import Facts, Key, On, columns_named, parsed_keys, parsed_on
from dicomdl.index._matching import Matched, level_of, matched
from dicomdl.index._reduction import Reduced, one_row_per_key, pivoted
from dicomdl.index._stored_joins import StoredJoin, stored_join
from dicomdl.index._table_reading import GivenTable, given_table, key_text
from dicomdl.index.joined import Joined
from dicomdl.index.rows import Generation

Label: TypeAlias = str | Sequence[str] | Mapping[str, str] | None


@dataclass(frozen=True, slots=True)
class JoinOptions:
    """The options of a join, as `Index.join` takes them."""

    on: On
    label: Label = None
    level: str | None = None
    pivot: str | None = None
    lists: bool | str | Sequence[str] = False
    parse: str | Sequence[str] = ()
    on_unmatched: str | Mapping[str, str] = "raise"


@dataclass(frozen=True, slots=True, eq=False)
class Selected:
    """The part of an index that is joined: its generation, joined columns, and (frames,) flags."""

    generation: Generation
    joined: Joined
    mask: Mask


def join(selected: Selected, table: Any, options: JoinOptions) -> tuple[StoredJoin, Mask]:
    """Join a table with an index.

    Returns
    -------
    join : StoredJoin
        The columns, by the rows of the complete generation.
    mask : numpy.ndarray
        (frames,) flags of the frames of the selection that stay.

    Raises
    ------
    UsageError
        See `Index.join`.
    """
    unmatched = parsed_unmatched(options.on_unmatched)
    on = parsed_on(options.on)
    given = given_table(table, options.label, columns_named(on))
    facts = Facts(selected.generation, selected.joined)
    keys = parsed_keys(on, facts, given.names)
    labels, left_out = _labels(options, keys, given, facts)
    read = _Read(given, keys, tuple(labels), options.pivot)
    found = matched(facts, keys, read)
    reduced = _reduced(read, found, options, tuple(labels))
    columns = reduced.columns.rename_columns(
        [labels.get(name, name) for name in reduced.columns.column_names]
    )
    _require_new(columns.column_names, facts)
    level = level_of(selected.generation, facts, keys, found, options.level)
    row_of_frame = np.append(reduced.row_of_key, np.int32(-1))[found.key_of_frame]
    report = report_of(
        Findings(given, on, keys, found, facts, reduced.duplicates_equal, left_out),
        selected.mask,
        row_of_frame,
        level,
        columns,
    )
    require_matched(report, unmatched)
    facts_of_join = {"level": level, "report": report.to_dict()}
    stored = stored_join(columns, row_of_frame, facts_of_join)
    drops = unmatched["index"] == "drop"
    return stored, selected.mask & (row_of_frame >= 0) if drops else selected.mask


def _labels(
    options: JoinOptions, keys: Sequence[Key], given: GivenTable, facts: Facts
) -> tuple[dict[str, str], tuple[str, ...]]:
    """Return {column of the table: joined name}, and the columns that the index has by itself.

    Without a label, every column is joined that is no key and is not one of the index.
    """
    taken = {name for key in keys for name in key.table.names} | {options.pivot}
    split = [key.split for key in keys if key.split]
    label = options.label
    if label is not None:
        names = {label: label} if isinstance(label, str) else label
        chosen = dict(names) if isinstance(names, Mapping) else {name: name for name in names}
        given.require([name for name in chosen if name not in split], "label")
        left_out: list[str] = []
    else:
        free = [name for name in given.names if name and name not in taken]
        left_out = [name for name in free if facts.has(name)]
        chosen = {name: name for name in free if name not in left_out}
    if options.pivot is not None and options.pivot not in split:
        given.require([options.pivot], "pivot")
    for name in split:
        if name not in (options.pivot, *chosen):
            raise UsageError(
                f"on: neither a column of the index nor the pivot is called {name!r}: name it in "
                "pivot= or label=, or correct it",
                column=name,
            )
    if not chosen and options.pivot is None:
        raise UsageError(f"{given.title} has no columns besides the keys to join")
    return chosen, tuple(left_out)


def _require_new(names: Sequence[str], facts: Facts) -> None:
    """Raise UsageError for a joined column that the index has already."""
    for name in names:
        if facts.has(name):
            raise UsageError(
                f"the index has a column {facts.column(name)!r}: give another name, "
                f"label={{{name!r}: 'name'}}",
                column=name,
            )


class _Read:
    """The columns of a table that a join needs, read once."""

    def __init__(
        self, given: GivenTable, keys: Sequence[Key], labels: Sequence[str], pivot: str | None
    ) -> None:
        self._given = given
        needed = [*(name for key in keys for name in key.table.names), *labels, pivot]
        held = [name for name in dict.fromkeys(needed) if name in given.names]
        self._table = given.read(held)
        self.place = given.place
        if not self._table.num_rows:
            raise UsageError(f"{given.title} has no rows")

    def key_texts(self, names: Sequence[str]) -> pa.Table:
        """Return columns as text, null where a cell is blank."""
        return pa.table(
            {name: key_text(name, self._table.column(name), self.place) for name in names}
        )

    def column(self, name: str, found: Matched) -> Column:
        """Return a column of labels, or the part that a template splits off."""
        if name not in self._table.column_names:
            if found.parts is None:
                raise AssertionError(f"nothing splits off {name}")
            return found.parts
        return column_of(name, self._table.column(name), self.place)


def _reduced(read: _Read, found: Matched, options: JoinOptions, labels: Sequence[str]) -> Reduced:
    columns = {name: read.column(name, found) for name in labels}
    if options.pivot is not None:
        return pivoted(columns, read.column(options.pivot, found), found, read.place)
    lists = options.lists
    if isinstance(lists, bool):
        names = tuple(labels) if lists else ()
    else:
        names = (lists,) if isinstance(lists, str) else tuple(lists)
        for name in names:
            if name not in labels:
                raise UsageError(
                    f"lists: {name!r} is none of the joined columns {', '.join(labels)}",
                    column=name,
                )
    return one_row_per_key(columns, names, found, read.place)
