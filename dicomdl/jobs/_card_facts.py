"""What a data card states of an index: numbers, and nothing that identifies a patient."""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from dicomdl.index.index import Index
from dicomdl.index.views import Stack
from dicomdl.jobs._file_names import safe_name

# The columns of the tables of stacks.
COLUMNS: Final[Mapping[str, str]] = {
    "patient": "Number of the patient in this card",
    "series_instance_uid": "Series Instance UID (0020,000E)",
    "modality": "Modality (0008,0060)",
    "verdict": "What the positions of the slices say: regular, tilted, missing_slices, ...",
    "slices": "Number of slices",
    "rows": "Number of rows of a slice",
    "columns": "Number of columns of a slice",
    "slice_spacing": "Distance of slices in mm",
    "row_spacing": "Distance of rows in mm",
    "column_spacing": "Distance of columns in mm",
    "labels": "Kinds of label objects that describe the stack, such as SEG",
}
TEXTS: Final = frozenset({"series_instance_uid", "modality", "verdict", "labels"})
REALS: Final = frozenset({"slice_spacing", "row_spacing", "column_spacing"})
_NO_LETTER: Final = re.compile(r"[^A-Za-z0-9]+")


Row = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a split: its counts, and a row per stack in an order that only they decide."""

    name: str
    rows: tuple[Row, ...]
    counts: Mapping[str, int]


def parts_of(index: Index, splits: Mapping[str, Index]) -> list[Part]:
    """Return the parts of a split; without one, a part "train" with all stacks, as hubs have it."""
    numbers = _patient_numbers(index.stacks)
    return [
        Part(name, tuple(sorted(_rows(part.stacks, numbers), key=repr)), part.counts)
        for name, part in (splits or {"train": index}).items()
    ]


def _patient_numbers(stacks: Iterable[Stack]) -> dict[str, int]:
    """Return {PatientID: its number}, by the smallest Series Instance UID of each patient."""
    smallest: dict[str, str] = {}
    for stack in stacks:
        uid = stack.series_instance_uid
        smallest[stack.patient_id] = min(uid, smallest.get(stack.patient_id, uid))
    ordered = sorted(smallest, key=lambda patient: (smallest[patient], patient))
    return {patient: number for number, patient in enumerate(ordered, 1)}


def _rows(stacks: Iterable[Stack], numbers: Mapping[str, int]) -> Iterator[Row]:
    """Yield a row of `COLUMNS` per stack of images."""
    for stack in stacks:
        kinds = sorted({a.kind for a in stack.annotations if a.status in ("ok", "partial")})
        yield (
            numbers[stack.patient_id],
            stack.series_instance_uid,
            stack.modality,
            stack.verdict,
            *stack.shape,
            *(round(s, 6) if math.isfinite(s) else None for s in stack.spacing),
            " ".join(kinds),
        )


def modalities_of(index: Index) -> list[dict[str, Any]]:
    """Return stacks, slices, verdicts and ranges per modality, the most stacks first.

    Ranges are [smallest, median, largest] per axis; None where no value is known.
    """
    names = list(COLUMNS)
    members = defaultdict[str, list[dict[str, Any]]](list)
    for row in _rows(index.stacks, defaultdict(int)):
        named = dict(zip(names, row, strict=True))
        members[named["modality"]].append(named)
    found = [
        {
            "modality": modality or "(none)",
            "stacks": len(own),
            "slices": sum(row["slices"] for row in own),
            "verdicts": dict(sorted(Counter(row["verdict"] for row in own).items())),
            "size": [_range(row[axis] for row in own) for axis in names[4:7]],
            "spacing_mm": [_range(row[axis] for row in own) for axis in names[7:10]],
        }
        for modality, own in members.items()
    ]
    return sorted(found, key=lambda each: (-each["stacks"], each["modality"]))


def _range(values: Iterable[float | None]) -> list[float] | None:
    known = [value for value in values if value is not None]
    return [min(known), float(np.median(known)), max(known)] if known else None


def identified(paths: Iterable[str], index: Index) -> list[str]:
    """Return the paths of which a folder or name has a PatientID between other characters."""
    patients = {safe_name(stack.patient_id) for stack in index.stacks} - {""}
    return [path for path in paths if not patients.isdisjoint(_pieces(path))]


def _pieces(path: str) -> Iterator[str]:
    """Yield all runs of whole words of the parts of a path."""
    for part in path.split("/"):
        bounds = [match.span() for match in _NO_LETTER.finditer(part)]
        starts = [0, *(end for _, end in bounds)]
        ends = [*(start for start, _ in bounds), len(part)]
        for start in starts:
            yield from (part[start:end] for end in ends if end > start)
