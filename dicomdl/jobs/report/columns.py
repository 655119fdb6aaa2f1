"""The stacks of a report as columns for JSON: lists of numbers, and words with their codes."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from dicomdl.index.check import StackCheck
from dicomdl.index.index import Index
from dicomdl.jobs.report.charts import years
from dicomdl.jobs.report.comparison import Comparison
from dicomdl.jobs.report.gallery import Pictures
from dicomdl.jobs.report.sheets import ACROSS, PER_SHEET, PLANES
from dicomdl.jobs.report.tables import Paths, short_uid, shown_text, syntax_name
from dicomdl.printing import printable

# Name, title, units, is a number, is a column of the table.
_FIELDS: Final = (
    ("number", "stack", "", True, True),
    ("patient", "patient", "", True, True),
    ("modality", "modality", "", False, True),
    ("description", "description", "", False, True),
    ("verdict", "verdict", "", False, True),
    ("reason", "reason", "", False, False),
    ("compared", "comparison", "", False, True),
    ("change", "change", "", False, True),
    ("part", "part", "", False, True),
    ("slices", "slices", "", True, True),
    ("rows", "rows", "", True, True),
    ("columns", "columns", "", True, True),
    ("dz", "slice spacing", "mm", True, True),
    ("dy", "row spacing", "mm", True, True),
    ("dx", "column spacing", "mm", True, False),
    ("mb", "MB", "", True, True),
    ("syntax", "transfer syntax", "", False, True),
    ("content", "content", "", False, False),
    ("labels", "labels", "", False, True),
    ("ml", "labelled ml", "", True, True),
    ("low", "1st percentile", "", True, False),
    ("median", "median value", "", True, True),
    ("high", "99th percentile", "", True, False),
    ("units", "units", "", False, False),
    ("window", "window of the picture", "", False, False),
    ("age", "age", "years", True, True),
    ("sex", "sex", "", False, True),
    ("group", "group", "", True, False),
    ("folder", "folder", "", False, True),
    ("series", "series", "", False, False),
    ("error", "no picture, because", "", False, False),
    ("label_error", "no labels, because", "", False, False),
)
_FACETS: Final = (
    *("modality", "verdict", "compared", "part", "content", "syntax", "units", "sex"),
    "error",
)
_SEARCHED: Final = (
    *("modality", "description", "verdict", "reason", "part", "folder", "labels", "syntax"),
    *("content", "series", "error", "label_error", "compared", "change"),
)
# Values of a facet; a column with more is searched instead.
_MOST_CHOICES: Final = 40


def stacks_of(
    index: Index,
    rows: Sequence[StackCheck],
    stack_bytes: Sequence[int],
    parts: Mapping[str, Index],
    paths: Paths,
    pictures: Pictures,
    comparison: Comparison | None,
    *,
    demographics: bool,
) -> dict[str, Any]:
    """Return the stacks as plain values for JSON; columns without a value are left out."""
    part = index._part()
    of_stack: dict[int, list[str]] = {}
    for name, each in parts.items():
        for number in each.stacks.numbers.tolist():
            of_stack.setdefault(number, []).append(name)
    found = [pictures.drawn.get(row.number) for row in rows]
    seen: set[int] = set()
    firsts = [not (row.group in seen or seen.add(row.group)) for row in rows]  # type: ignore[func-returns-value]
    held: dict[str, Any] = {
        "number": [row.number for row in rows],
        "patient": [row.patient for row in rows],
        "modality": words(row.modality or "(none)" for row in rows),
        "description": words(row.description for row in rows),
        "verdict": words(row.verdict for row in rows),
        "reason": words(shown_text(row.reason) for row in rows),
        "part": words(", ".join(of_stack.get(row.number, ())) for row in rows),
        "slices": [row.shape[0] for row in rows],
        "rows": [row.shape[1] for row in rows],
        "columns": [row.shape[2] for row in rows],
        "dz": [_number(row.spacing[0]) for row in rows],
        "dy": [_number(row.spacing[1]) for row in rows],
        "dx": [_number(row.spacing[2]) for row in rows],
        "mb": [_number(count / 1e6) for count in stack_bytes],
        "syntax": words(syntax_name(uid) for uid in part.heads("transfer_syntax_uid")),
        "content": words(row.content for row in rows),
        "group": [row.group for row in rows],
        "folder": words(paths.shown(row.folder) for row in rows),
        "series": words(short_uid(row.series_instance_uid) for row in rows),
        "needs": [int(row.needs_person) for row in rows],
        "first": [int(is_first) for is_first in firsts],
        "place": list(range(len(rows))),
        "planes": words(
            "" if f is None else ",".join(n or "slice" for n in f.names) for f in found
        ),
        "labels": words(
            "" if f is None else "; ".join(name for name, ml in f.labels if ml != 0) for f in found
        ),
        "ml": [
            None if f is None or not f.labels else _number(sum(ml or 0 for _, ml in f.labels))
            for f in found
        ],
        **{
            name: [
                None if f is None or not f.percentiles else _number(f.percentiles[at])
                for f in found
            ]
            for at, name in enumerate(("low", "median", "high"))
        },
        "units": words("" if f is None else f.units for f in found),
        "window": words(
            "" if f is None or not f.window else f"{f.window[0]:.4g} to {f.window[1]:.4g}"
            for f in found
        ),
        "error": words(pictures.errors.get(row.number, "") for row in rows),
        "label_error": words(pictures.label_errors.get(row.number, "") for row in rows),
    }
    if comparison is not None:
        held["compared"] = words(comparison.outcomes([row.number for row in rows]))
        held["change"] = words(comparison.changed.get(row.number, "") for row in rows)
    if demographics:
        held["age"] = [_number(years(age)) for age in part.heads("patient_age")]
        held["sex"] = words(part.heads("patient_sex"))
    kept = {name: column for name, column in held.items() if name in _ALWAYS or _says(column)}
    fields = [
        {"name": name, "title": title, "unit": unit, "right": right, "tabled": tabled}
        for name, title, unit, right, tabled in _FIELDS
        if name in kept
    ]
    titles = {name: title for name, title, *_ in _FIELDS}
    return {
        "count": len(rows),
        "fields": fields,
        "columns": kept,
        "facets": [
            {"name": name, "title": titles[name]}
            for name in _FACETS
            if name in kept and 1 < len(kept[name]["v"]) <= _MOST_CHOICES
        ],
        "searched": [name for name in _SEARCHED if name in kept],
        "sheets": {"across": ACROSS, "per": PER_SHEET, "planes": PLANES},
        "strips": {str(number): slices for number, slices in pictures.strips.items()},
        "colours": dict(pictures.colours),
    }


# Columns that the page reads, whatever they hold.
_ALWAYS: Final = frozenset(
    {
        *("number", "modality", "verdict", "reason", "slices", "rows", "columns", "dz", "dy", "dx"),
        *("mb", "needs", "first", "place", "folder"),
    }
)


def words(values: Iterable[str | None]) -> dict[str, list[Any]]:
    """Return a column of text: its distinct values, and the number of the value of each row."""
    numbers: dict[str, int] = {}
    codes = [numbers.setdefault(printable(value or ""), len(numbers)) for value in values]
    return {"v": list(numbers), "c": codes}


def _says(column: Any) -> bool:
    """Whether any row of a column has a value."""
    values = column["v"] if isinstance(column, dict) else column
    return any(value not in ("", None) for value in values)


def _number(value: float | None) -> float | int | None:
    """Return a number with four digits for JSON; None where it is not finite."""
    if value is None or not math.isfinite(value):
        return None
    short = float(f"{value:.4g}")
    return int(short) if short.is_integer() else short
