"""What a join found: its report, and the error where something did not match."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from dicomdl.arrays import Ints, Mask
from dicomdl.errors import UsageError
from dicomdl.index._keys import Facts, Key, is_public
from dicomdl.index._matching import JOINT, NO_KEY, NO_MATCH, Matched
from dicomdl.index._table_reading import GivenTable
from dicomdl.index.join_report import JoinReport
from dicomdl.index.joined import kind_of

_EXAMPLES: Final = 5
# Most keys that are compared for a hint.
_COMPARED: Final = 10_000
_COMPARED_IN_PAIRS: Final = 100
_CHOICES: Final[Mapping[str, tuple[str, ...]]] = {
    "index": ("raise", "drop", "keep"),
    "table": ("raise", "drop"),
}


@dataclass(frozen=True, slots=True, eq=False)
class Findings:
    """What the steps of a join found out."""

    given: GivenTable
    on: Mapping[str, str]
    keys: Sequence[Key]
    found: Matched
    facts: Facts
    duplicates_equal: int
    left_out: tuple[str, ...]


def parsed_unmatched(given: str | Mapping[str, str]) -> dict[str, str]:
    """Return what happens to unmatched frames of the "index" and rows of the "table".

    Raises
    ------
    UsageError
        The option has another value.
    """
    as_given = given
    if isinstance(given, str):
        given = {"index": given, "table": "raise" if given == "raise" else "drop"}
    if isinstance(given, Mapping) and set(given) <= set(_CHOICES):
        chosen = {"index": "raise", "table": "raise", **given}
        if all(chosen[side] in choices for side, choices in _CHOICES.items()):
            return chosen
    raise UsageError(
        f"on_unmatched={as_given!r}: expected 'raise', 'drop' or 'keep', or a dict such as "
        "{'index': 'keep', 'table': 'raise'}"
    )


def report_of(
    findings: Findings,
    mask: Mask,
    row_of_frame: npt.NDArray[np.int32],
    level: str,
    columns: pa.Table,
) -> JoinReport:
    """Return the report of a join for the frames of a selection."""
    found = findings.found
    key_of_row = found.key_of_row
    key_of_frame = found.key_of_frame[mask]
    # NumPy's `unique` takes 3.5 s for a million keys.
    has_rows, is_selected = np.zeros((2, len(found.keys)), dtype=np.bool_)
    has_rows[key_of_row[key_of_row >= 0]] = True
    is_selected[key_of_frame[key_of_frame >= 0]] = True
    of_selection = np.flatnonzero(is_selected)
    without = of_selection[~has_rows[of_selection]]
    rows_without = np.flatnonzero(key_of_row == NO_MATCH)
    no_key = np.flatnonzero(key_of_row == NO_KEY)
    lost = np.append(rows_without[:_EXAMPLES], no_key)
    matched_rows = key_of_row[key_of_row >= 0]
    return JoinReport(
        table=findings.given.title,
        on=tuple(findings.on.items()),
        level=level,
        columns={name: kind_of(columns.column(name).type) for name in columns.column_names},
        keys=len(of_selection),
        keys_matched=len(of_selection) - len(without),
        keys_unmatched=len(without),
        frames=int(mask.sum()),
        frames_matched=int((row_of_frame[mask] >= 0).sum()),
        frames_without_key=int((key_of_frame < 0).sum()),
        rows=len(key_of_row),
        rows_matched=len(matched_rows),
        rows_unmatched=len(rows_without),
        rows_without_key=len(no_key),
        rows_elsewhere=int((~is_selected[matched_rows]).sum()),
        duplicates_equal=findings.duplicates_equal,
        examples=_examples(findings, without, mask),
        row_examples=tuple(findings.given.places(lost[:_EXAMPLES].tolist())),
        left_out=findings.left_out,
        hint=_hint(found, without, rows_without),
    )


def _examples(findings: Findings, without: Ints, mask: Mask) -> tuple[str, ...]:
    """Return some keys of the index that have no rows; keys of a patient as frame rows."""
    names = [name for key in findings.keys for name in key.index.names]
    some = without[:_EXAMPLES]
    if all(is_public(findings.facts.column(name)) for name in names):
        texts = findings.found.keys.take(pa.array(some)).to_pylist()
        return tuple(repr(text.replace(JOINT, ", ")) for text in texts)
    of_frame = np.where(mask, findings.found.key_of_frame, NO_MATCH)
    return tuple(f"frame row {int(np.flatnonzero(of_frame == key)[0])}" for key in some)


def _hint(found: Matched, without: Ints, rows: Ints) -> str:
    """Return what makes keys of the two sides differ, where another spelling would match."""
    if pc.any(pc.starts_with(found.keys, "hash:")).as_py():
        return "the index holds hashes instead of PatientID: use another key"
    index = found.keys.take(pa.array(without[:_COMPARED])).to_pylist()
    table = found.texts.take(pa.array(rows[:_COMPARED])).to_pylist()
    held, lengths = set(index), {len(text) for text in index}
    folded = {text.casefold() for text in index}
    for text in table:
        if text.isdigit() and any(text.zfill(length) in held for length in lengths):
            return (
                "keys of the index have leading zeros that the table lacks: read it as text, or "
                "pad its keys, such as '{column:05}'"
            )
        if text.isdigit() and (text.lstrip("0") or "0") in held:
            return "keys of the table have leading zeros that the index lacks"
        if text.endswith(".0") and text[:-2] in held:
            return "keys of the table end in '.0': pandas made numbers of them, read with dtype=str"
        if text.strip() in held:
            return "keys of the table have spaces around them"
        if text.casefold() in folded:
            return "keys of the two sides differ in upper and lower case"
    for text in table[:_COMPARED_IN_PAIRS]:
        for other in index[:_COMPARED_IN_PAIRS]:
            if other in text:
                return "keys of the table have more text around them: use a template of the index"
            if text in other:
                return "keys of the index have more text around them: use a template of the table"
    return ""


def require_matched(report: JoinReport, unmatched: Mapping[str, str]) -> None:
    """Raise UsageError for keys and rows that matched nothing, unless they are to be dropped.

    A join of which nothing matches is always an error.
    """
    lacking = report.keys_unmatched or report.frames_without_key
    lost = report.rows_unmatched or report.rows_without_key
    nothing = not report.frames_matched
    if not (
        nothing
        or (lacking and unmatched["index"] == "raise")
        or (lost and unmatched["table"] == "raise")
    ):
        return
    advice = "correct on=" if nothing else "correct on=, or pass on_unmatched='drop' or 'keep'"
    raise UsageError(
        f"{_words(report)}; {report.hint + '; ' if report.hint else ''}{advice}",
        report=report,
        keys=report.keys,
        keys_unmatched=report.keys_unmatched,
        rows=report.rows,
        rows_unmatched=report.rows_unmatched,
    )


def _words(report: JoinReport) -> str:
    """Return what did not match, in one sentence."""
    parts = []
    if report.keys_unmatched:
        shown = _shown(report.examples, report.keys_unmatched)
        parts.append(f"{report.keys_unmatched:,} of {report.keys:,} keys of the index{shown}")
    if report.frames_without_key:
        parts.append(f"{report.frames_without_key:,} frames without a key")
    if report.rows_unmatched:
        shown = _shown(report.row_examples, report.rows_unmatched)
        parts.append(f"{report.rows_unmatched:,} of {report.rows:,} rows of {report.table}{shown}")
    if report.rows_without_key:
        examples = () if report.rows_unmatched else report.row_examples
        shown = _shown(examples, report.rows_without_key)
        parts.append(f"{report.rows_without_key:,} rows of {report.table} with a blank key{shown}")
    if not parts:
        return f"no frame of this selection has a row in {report.table}"
    return f"{', and '.join(parts)} match nothing"


def _shown(examples: Sequence[str], count: int) -> str:
    more = ", ..." if count > len(examples) else ""
    return f" ({', '.join(examples)}{more})" if examples else ""
