"""Joins: labels out of a table, as columns of an index.

A join has four steps: the keys of frames and rows are matched as text, the rows of each key are
reduced to one row (or to lists, or pivoted), the columns get the kinds of their cells, and the
result is stored with a report.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa

from dicomdl.arrays import Mask
from dicomdl.errors import UsageError
from dicomdl.index._cells import Column, column_of
from dicomdl.index._findings import Findings, parsed_unmatched, report_of, require_matched
from dicomdl.index._keys import Facts, Key, columns_named, parsed_keys, parsed_on
from dicomdl.index._label_columns import JoinOptions, Labels, chosen_labels, parsed_base
from dicomdl.index._literals import parsed_columns
from dicomdl.index._matching import Matched, level_of, matched
from dicomdl.index._reduction import Reduced, one_row_per_key, pivoted
from dicomdl.index._stored_joins import StoredJoin, stored_join
from dicomdl.index._table_reading import GivenTable, composed, given_table, key_text
from dicomdl.index.joined import Joined
from dicomdl.index.rows import Generation
from dicomdl.index.schema import TEXT


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
    on = {left: composed(right) for left, right in parsed_on(options.on).items()}
    options = replace(
        options,
        label=composed(options.label),
        pivot=composed(options.pivot),
        lists=composed(options.lists),
        parse=composed(options.parse),
    )
    given = given_table(table, options.label, columns_named(on))
    facts = Facts(selected.generation, selected.joined)
    in_cells = [name for name in columns_named(on) if parsed_base(name, options, given.names)]
    keys = parsed_keys(on, facts, (*given.names, *in_cells))
    labels = chosen_labels(options, keys, given, facts)
    read = _Read(given, keys, labels, options)
    found = matched(facts, keys, read)
    reduced = _reduced(read, found, options, labels)
    columns = reduced.columns
    _require_new(columns.column_names, facts)
    level = level_of(selected.generation, facts, keys, found, options.level)
    row_of_frame = np.append(reduced.row_of_key, np.int32(-1))[found.key_of_frame]
    report = report_of(
        Findings(given, on, keys, found, facts, reduced.duplicates_equal, labels.left_out),
        selected.mask,
        row_of_frame,
        level,
        columns,
    )
    require_matched(report, unmatched)
    stored = stored_join(
        columns,
        row_of_frame,
        {
            "level": level,
            "repeats_in_files": facts.repeats_in_files(row_of_frame),
            "report": report.to_dict(),
        },
    )
    drops = unmatched["index"] == "drop"
    return stored, selected.mask & (row_of_frame >= 0) if drops else selected.mask


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
        self, given: GivenTable, keys: Sequence[Key], labels: Labels, options: JoinOptions
    ) -> None:
        of_keys = [name for key in keys for name in key.table.names]
        self._base_of = {name: parsed_base(name, options, given.names) for name in of_keys}
        self._parsed: dict[str, dict[str, Column]] = {}
        needed = [*of_keys, *self._base_of.values(), *labels.needed, options.pivot]
        held = [name for name in dict.fromkeys(needed) if name in given.names]
        self._table = given.read(held)
        self.place = given.place
        if not self._table.num_rows:
            raise UsageError(f"{given.title} has no rows")

    def key_texts(self, names: Sequence[str]) -> pa.Table:
        """Return columns as text, null where a cell is blank."""
        return pa.table({name: self._key_text(name) for name in names})

    def _key_text(self, name: str) -> Any:
        if not (base := self._base_of[name]):
            return key_text(name, self._table.column(name), self.place)
        column = self.parsed(base).get(name)
        if column is None:
            return pa.nulls(self._table.num_rows, TEXT)
        if column.row_of_item is not None:
            raise UsageError(f"the key {name!r} of the table holds lists", column=name)
        codes = pa.array(column.codes, mask=column.codes < 0)
        return column.values.cast(TEXT).take(codes)

    def parsed(self, name: str) -> dict[str, Column]:
        """Return the columns of a column whose cells are parsed."""
        if name not in self._parsed:
            column = column_of(name, self._table.column(name), self.place)
            self._parsed[name] = parsed_columns(name, column, self.place)
        return self._parsed[name]

    def column(self, name: str, found: Matched) -> Column:
        """Return a column of labels, or the part that a template splits off."""
        if name not in self._table.column_names:
            if found.parts is None:
                raise AssertionError(f"nothing splits off {name}")
            return found.parts
        return column_of(name, self._table.column(name), self.place)


def _reduced(read: _Read, found: Matched, options: JoinOptions, labels: Labels) -> Reduced:
    """Return the joined columns, by their new names, with one row per key."""
    columns, lists = {}, []
    for name in labels.needed:
        if name in labels.parsed:
            parts = read.parsed(name)
        else:
            parts = {name: read.column(name, found)}
        for part, renamed in labels.names_of(name, tuple(parts)).items():
            columns[renamed] = parts[part]
            if labels.is_list(name, part):
                lists.append(renamed)
    labels.require_used(columns)
    if not columns:
        raise UsageError(f"parse: {', '.join(labels.parsed)}: every cell is blank")
    if options.pivot is None:
        return one_row_per_key(columns, lists, found, read.place)
    if lists:
        raise UsageError("a join has either pivot= or lists=: join the table twice")
    return pivoted(columns, read.column(options.pivot, found), found, read.place)
