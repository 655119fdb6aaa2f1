"""Listing of stacks for a shell: one row per stack, as text, CSV or JSON.

Patients are numbered, and dates and PatientID are shown on request only: a listing is copied into
mails and reports.
"""

import csv
import io
import json
from collections.abc import Sequence
from typing import Any, Final

from dicomdl.index.index import Index
from dicomdl.index.text import format_lengths, plain_value, text_columns

_TITLES: Final = (
    *("stack", "patient", "patient_id", "study_date", "series_number", "description"),
    *("modality", "shape", "spacing", "verdict", "dimension", "folder"),
    *("study_instance_uid", "series_instance_uid"),
)


def listing(
    index: Index, *, dates: bool = False, patient_ids: bool = False, uids: bool = False
) -> list[dict[str, Any]]:
    """List the complete stacks of a selection as plain values.

    Parameters
    ----------
    index
        The selection.
    dates
        Whether Study Date is listed.
    patient_ids
        Whether PatientID is listed beside the number of the patient.
    uids
        Whether Study and Series Instance UID are listed, which labels are joined by.
    """
    part = index._part()
    columns: dict[str, Sequence[Any]] = {
        "stack": part.chosen.tolist(),
        "patient": part.patients(),
        "patient_id": [stack.patient_id for stack in index.stacks] if patient_ids else [],
        "study_date": part.heads("study_date") if dates else [],
        "series_number": part.heads("series_number"),
        "description": part.heads("series_description"),
        "modality": part.heads("modality"),
        "shape": [list(shape) for shape in index.stacks.shapes().tolist()],
        "spacing": part.stacks.vectors("spacing", 3)[part.chosen].tolist(),
        "verdict": part.conclusions("verdict"),
        "dimension": part.conclusions("dimension", json.loads),
        "folder": [part.folder_of(number) for number in part.chosen.tolist()],
        "study_instance_uid": part.heads("study_instance_uid") if uids else [],
        "series_instance_uid": part.heads("series_instance_uid") if uids else [],
    }
    shown = [title for title in _TITLES if len(columns[title]) == len(part.chosen)]
    rows = zip(*(columns[title] for title in shown), strict=True)
    return [dict(zip(shown, map(plain_value, row), strict=True)) for row in rows]


def as_text(rows: Sequence[dict[str, Any]]) -> str:
    """Format a listing as aligned columns."""
    if not rows:
        return "  no stack is selected"
    titles = [title.replace("_", " ") for title in rows[0]]
    cells = [[_cell(name, value) for name, value in row.items()] for row in rows]
    numbers = {titles.index(name) for name in ("stack", "patient", "series number")}
    return "\n".join(text_columns(titles, cells, right=numbers))


def as_csv(rows: Sequence[dict[str, Any]]) -> str:
    """Format a listing as CSV with a line of titles.

    A cell that a spreadsheet would compute gets an apostrophe before it.
    """
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(rows[0] if rows else _TITLES)
    writer.writerows([_inert(_cell(name, value)) for name, value in row.items()] for row in rows)
    return stream.getvalue().rstrip("\n")


def _cell(name: str, value: Any) -> str:
    if value is None:
        return ""
    if name == "shape":
        return " x ".join(map(str, value))
    if name == "spacing":
        return format_lengths(float("nan") if each is None else each for each in value)
    if name == "dimension":
        return ", ".join(f"{key} {each}" for key, each in value.items())
    return str(value)


def _inert(text: str) -> str:
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text
