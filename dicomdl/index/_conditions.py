"""Conditions of `Index.select`: flags per frame of the frames that meet one.

A condition names a column in snake case or by its DICOM keyword, with a prefix (`min_`, `max_`,
`not_`) or without one. Text is compared as it is, or as a pattern where it holds `*` or `?` and no
row has exactly this text: Siemens' sequence names begin with an asterisk.
"""

import difflib
import fnmatch
import json
import math
import re
import unicodedata
from collections.abc import Iterable, Mapping
from typing import Any, Final

import numpy as np

from dicomdl.errors import UsageError
from dicomdl.geometry.verdict import VERDICTS
from dicomdl.headers.annotation import ANNOTATION_KINDS
from dicomdl.headers.attribute import snake_case
from dicomdl.headers.uids import CONTENT_KINDS
from dicomdl.index._exporting import folders_of
from dicomdl.index._identity import IDENTITY, per_frame, rows_of_stacks
from dicomdl.index._selections import Flags, flags_per_frame
from dicomdl.index.joined import Joined
from dicomdl.index.rows import Generation
from dicomdl.index.table import Table, between, no_such_column, passing, where

# Columns whose values are all known.
_CLOSED: Final[Mapping[str, tuple[str, ...]]] = {"verdict": VERDICTS, "content": CONTENT_KINDS}
# Columns of short codes, in which a value that the index lacks and nearly has is a slip.
_CODES: Final = ("modality", "body_part_examined")
_PREFIXES: Final = ("min_", "max_", "not_")
# A column of stacks that the tables compute: the folder of the first file.
_FOLDER: Final = "folder"
# A column of stacks that holds several values by name, as JSON.
_DIMENSION: Final = "dimension"
# Relative difference of a number of a dimension from the one that is wanted: an echo time is typed
# with the digits that a repr shows.
_SAME_VALUE: Final = 1e-6


def columns_of(generation: Generation, joined: Joined = Joined.NONE) -> list[str]:
    """Return the column names of conditions: those of stacks, then of frames, then the joined."""
    return [*generation.stacks.names, _FOLDER, *generation.frames.names, *joined.names]


def column_of(generation: Generation, name: str, joined: Joined = Joined.NONE) -> tuple[str, type]:
    """Return the column of a name or DICOM keyword, and whether it holds str, bool or float.

    Raises
    ------
    UsageError
        The column does not exist.
    """
    prefix, column = _parsed(name, columns_of(generation, joined))
    table = joined.table(column) if column in joined else table_of(generation, column)[0]
    kind = str if table.is_text(column) else bool if table.is_flag(column) else float
    return prefix + column, kind


def meeting(
    generation: Generation, condition: str, wanted: Any, joined: Joined = Joined.NONE
) -> Flags:
    """Return (frames,) flags of the frames that meet a condition of `Index.select`.

    Raises
    ------
    UsageError
        A column or a code that does not exist, or a value of another type than the column's.
    """
    if isinstance(wanted, np.generic) or (isinstance(wanted, np.ndarray) and not wanted.ndim):
        wanted = wanted.item()
    if condition in ("has", "not_has"):
        mask = flags_per_frame(generation, _annotated(generation, wanted))
        return mask if condition == "has" else ~mask
    prefix, name = _parsed(condition, columns_of(generation, joined))
    if name in joined:
        mask = _passing(joined.table(name), prefix, name, wanted)[joined.keys(name)]
        return ~mask if prefix == "not_" else mask
    table, by_stack = table_of(generation, name)
    mask = _passing(table, prefix, name, wanted)
    if name in IDENTITY:
        frames, starts = generation.frames, generation.stack_starts
        mask = mask[per_frame(frames, rows_of_stacks(frames, name, starts), starts)]
    mask = ~mask if prefix == "not_" else mask
    return flags_per_frame(generation, mask) if by_stack else mask


def _passing(table: Table, prefix: str, name: str, wanted: Any) -> Flags:
    """Return flags of the rows of a table that meet a condition without "not_"."""
    if prefix not in ("min_", "max_"):
        return _equal(table, name, wanted)
    low, high = (wanted, None) if prefix == "min_" else (None, wanted)
    return between(table, name, low, high)


def _annotated(generation: Generation, wanted: Any) -> Flags:
    """Return (stacks,) flags: the stacks with annotations of each of the wanted kinds."""
    given = [wanted] if isinstance(wanted, str) or not isinstance(wanted, Iterable) else [*wanted]
    if other := [each for each in given if not isinstance(each, str)]:
        raise UsageError(
            f"has takes a kind of annotation or several ({', '.join(ANNOTATION_KINDS)}), not "
            f"{type(other[0]).__name__}"
        )
    kinds = set(given)
    unknown = sorted(kinds - set(ANNOTATION_KINDS))
    if unknown:
        raise UsageError(
            f"has={', '.join(unknown)!r}: expected one of {', '.join(ANNOTATION_KINDS)}"
        )
    return passing(generation.stacks, "annotations", lambda text: kinds <= set(text.split()))


def table_of(generation: Generation, name: str) -> tuple[Table, bool]:
    """Return the table that has a column, and whether it is that of stacks."""
    if name == _FOLDER:
        folders = folders_of(generation, np.arange(len(generation.stacks)))
        return generation.stacks.with_first_columns({_FOLDER: folders}), True
    by_stack = name in generation.stacks.names
    return generation.stacks if by_stack else generation.frames, by_stack


def _parsed(condition: str, columns: list[str]) -> tuple[str, str]:
    """Return (prefix or "", column) of the name of a condition."""
    for prefix in ("", *_PREFIXES):
        name = condition.removeprefix(prefix)
        if condition.startswith(prefix):
            for column in (name, snake_case(name), unicodedata.normalize("NFC", name)):
                if column in columns:
                    return prefix, column
    prefix = next((each for each in _PREFIXES if condition.startswith(each)), "")
    raise no_such_column(snake_case(condition.removeprefix(prefix)), columns)


def _equal(table: Table, name: str, wanted: Any) -> Flags:
    """Return flags of the rows that equal a value, one of several, a pattern or a function."""
    if callable(wanted):
        return passing(table, name, wanted)
    if name == _DIMENSION and isinstance(wanted, Mapping):
        return passing(table, name, lambda text: _has_values(json.loads(text), wanted))
    several = isinstance(wanted, Iterable) and not isinstance(wanted, str | bytes)
    choices = list(wanted) if several else [wanted]
    if table.is_text(name) and any(isinstance(choice, str) for choice in choices):
        return _equal_text(table, name, choices)
    return where(table, name, choices)


def _has_values(dimension: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    """Whether a dimension has the wanted values, or values that pass the wanted functions."""
    for name, want in wanted.items():
        if name not in dimension:
            return False
        value = dimension[name]
        if isinstance(want, np.generic | np.ndarray):
            want = want.tolist()
        if callable(want):
            meets = bool(want(value))
        elif isinstance(want, int | float) and isinstance(value, int | float):
            meets = math.isclose(value, want, rel_tol=_SAME_VALUE)
        else:
            meets = value == (list(want) if isinstance(want, tuple) else want)
        if not meets:
            return False
    return True


def _equal_text(table: Table, name: str, choices: list[Any]) -> Flags:
    values = {str(value or "") for value in table.distinct(name)}
    plain = [choice for choice in choices if not _is_pattern(choice) or choice in values]
    patterns = [_regex(choice) for choice in choices if choice not in plain]
    _require_known(name, plain, values)
    mask = where(table, name, plain)
    if patterns:
        mask |= passing(table, name, lambda text: any(p.fullmatch(text or "") for p in patterns))
    return mask


def _is_pattern(choice: Any) -> bool:
    return isinstance(choice, str) and ("*" in choice or "?" in choice)


def _regex(pattern: str) -> re.Pattern[str]:
    # A description is written in any case, and brackets are part of it.
    escaped = pattern.replace("[", "[[]")
    return re.compile(fnmatch.translate(escaped), re.IGNORECASE | re.DOTALL)


def _require_known(name: str, choices: list[Any], values: set[str]) -> None:
    """Raise UsageError for a code that does not exist, or that is a slip of one in the index."""
    known = _CLOSED.get(name)
    if known is None and name not in _CODES:
        return
    for choice in choices:
        if not isinstance(choice, str) or choice in (known or values) or choice == "":
            continue
        near = nearest(choice, sorted(known or values))
        if known is not None or near:
            hint = f"; did you mean {near!r}?" if near else ""
            listed = ", ".join(sorted(known or values))
            raise UsageError(f"{name}={choice!r}: the values are {listed}{hint}", column=name)


def nearest(choice: str, values: Iterable[str]) -> str:
    """Return the value that is spelled most like a choice, in any case; "" for none."""
    folded = {value.casefold(): value for value in values if value}
    near = difflib.get_close_matches(choice.casefold(), folded, 1, 0.75)
    return folded[near[0]] if near else ""
