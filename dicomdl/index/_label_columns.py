"""Columns of a table that a join takes, and their names in the index."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from dicomdl.errors import UsageError
from dicomdl.index._keys import Facts, Key, On
from dicomdl.index._table_reading import GivenTable

Label: TypeAlias = str | Sequence[str] | Mapping[str, str] | None
Names: TypeAlias = str | Sequence[str]


@dataclass(frozen=True, slots=True)
class JoinOptions:
    """The options of a join, as `Index.join` takes them."""

    on: On
    label: Label = None
    level: str | None = None
    pivot: str | None = None
    lists: bool | Names = False
    parse: Names = ()
    on_unmatched: str | Mapping[str, str] = "raise"


@dataclass(frozen=True, slots=True)
class Labels:
    """What a join takes of a table.

    Attributes
    ----------
    needed
        The columns of the table.
    parsed
        Those whose cells are parsed; each gives columns such as ``coordinates_x``.
    renamed
        {column, or a column of a parsed one: its name in the index}.
    lists
        The columns that become lists; None for all.
    left_out
        The columns that the index has by itself.
    """

    needed: tuple[str, ...]
    parsed: tuple[str, ...]
    renamed: Mapping[str, str]
    lists: tuple[str, ...] | None
    left_out: tuple[str, ...]

    def names_of(self, name: str, parts: Sequence[str]) -> dict[str, str]:
        """Return {part: its name in the index} of the parts of a column that are joined."""
        if name in self.renamed and name not in parts:
            new = self.renamed[name]
            return {part: new + part.removeprefix(name) for part in parts}
        return {part: self.renamed[part] for part in parts if part in self.renamed}

    def is_list(self, name: str, part: str) -> bool:
        """Whether a part of a column becomes one list per key."""
        return self.lists is None or name in self.lists or part in self.lists

    def require_used(self, columns: Mapping[str, object]) -> None:
        """Raise UsageError for a name that no column of the table, nor of a parsed one, has."""
        for name, new in self.renamed.items():
            if new not in columns and name not in self.parsed:
                raise UsageError(
                    f"label: parse gives no column {name!r}, but {', '.join(columns) or 'none'}",
                    column=name,
                )


def chosen_labels(
    options: JoinOptions, keys: Sequence[Key], given: GivenTable, facts: Facts
) -> Labels:
    """Return the columns that a join takes.

    Without a label, those are joined that are no keys and not columns of the index.

    Raises
    ------
    UsageError
        A name of an option is no column.
    """
    split = [key.split for key in keys if key.split]
    parsed = _as_names(options.parse, "parse")
    given.require(parsed, "parse")
    left_out: list[str] = []
    if options.label is None:
        taken = {name for key in keys for name in key.table.names} | {options.pivot, ""}
        free = [name for name in given.names if name not in taken]
        left_out = [name for name in free if facts.has(name)]
        renamed = {name: name for name in free if name not in left_out}
    elif isinstance(options.label, Mapping):
        renamed = dict(options.label)
    else:
        renamed = {name: name for name in _as_names(options.label, "label")}
    needed = tuple(dict.fromkeys(_base_of(name, parsed, given.names) for name in renamed))
    given.require([name for name in needed if name not in split], "label")
    _require_once(renamed.values())
    _require_pivot(options.pivot, split, renamed, given)
    if not renamed:
        raise UsageError(f"{given.title} has no column to join, besides keys and pivot")
    lists = _lists(options.lists, renamed, needed)
    return Labels(needed, parsed, renamed, lists, tuple(left_out))


def parsed_base(name: str, options: JoinOptions, columns: Sequence[str]) -> str:
    """Return the column whose parsed cells have a name, such as ``coordinates_f``; "" for none."""
    base = _base_of(name, _as_names(options.parse, "parse"), columns)
    return "" if base == name else base


def _as_names(given: Names, option: str) -> tuple[str, ...]:
    names = (given,) if isinstance(given, str) else given
    if isinstance(names, Sequence) and all(isinstance(name, str) for name in names):
        return tuple(names)
    raise UsageError(f"{option}: expected the name of a column, or several, not {given!r}")


def _base_of(name: str, parsed: Sequence[str], columns: Sequence[str]) -> str:
    """Return the column of the table that a name is of: ``coordinates`` of ``coordinates_x``."""
    if name in columns:
        return name
    return next((base for base in parsed if name.startswith(f"{base}_")), name)


def _lists(
    given: bool | Names, renamed: Mapping[str, str], needed: Sequence[str]
) -> tuple[str, ...] | None:
    if isinstance(given, bool):
        return None if given else ()
    names = _as_names(given, "lists")
    for name in names:
        if name not in renamed and name not in needed:
            raise UsageError(
                f"lists: {name!r} is none of the joined columns {', '.join(renamed)}", column=name
            )
    return names


def _require_once(names: Iterable[str]) -> None:
    names = list(names)
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"label: two columns are to be called {name!r}", column=name)


def _require_pivot(
    pivot: str | None, split: Sequence[str], renamed: Mapping[str, str], given: GivenTable
) -> None:
    """Raise UsageError unless the pivot is a column, and a split-off part is used."""
    if pivot is not None and pivot not in split:
        given.require([pivot], "pivot")
    for name in split:
        if name != pivot and name not in renamed:
            raise UsageError(
                f"on: neither a column of the index nor the pivot is called {name!r}: name it in "
                "pivot= or label=, or correct it",
                column=name,
            )
