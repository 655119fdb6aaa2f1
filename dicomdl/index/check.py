"""Check: the verdict on every stack with its reason, for people and as plain values for JSON.

Missing slices, uneven spacing, duplicates, slices of several contrasts, an image without geometry,
a gap in a group, a Series that its units divide, a Study of several patients and an unusable file
need a person; everything else is counted. Text names stacks
by number and Series Instance UID, and holds no patient's identity and no date.
"""

import itertools
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Final

import numpy as np

from dicomdl.geometry.identities import COUNTED, SHARED
from dicomdl.headers.uids import PLACED
from dicomdl.index._reasons import format_value, reason
from dicomdl.index.overview import ALARMING, IDC_COLUMNS, SHOWN_PROBLEMS
from dicomdl.index.problems import NOT_DELIVERED
from dicomdl.index.text import (
    SHOWN_LINES,
    Part,
    Problem,
    counted,
    escaped,
    format_counts,
    format_ledger,
    format_lengths,
    format_nouns,
    format_verdicts,
    html_table,
    plain_value,
    text_columns,
)
from dicomdl.index.views import Stack
from dicomdl.printing import printable

# Keys in the detail of stacks whose slices have several identifiers, or lack one.
_JOINED: Final = frozenset(
    key for counted in COUNTED.values() for key in (counted.values, counted.blank)
)
# Keys in the detail of stacks whose Series an identifier divides.
_APART: Final = frozenset(counted.apart for counted in COUNTED.values())
# Keys in the detail of stacks whose Study or Series is that of several patients.
_SHARED: Final = frozenset(SHARED.values())


@dataclass(frozen=True, slots=True)
class StackCheck:
    """The check of one stack.

    Attributes
    ----------
    number
        The number of the stack in the index.
    patient
        The number of the patient in the index, from 1, which reveals no identity.
    series_number, description
        Series Number and Series Description.
    folder
        The folder of the first file.
    series_instance_uid, modality, content, verdict, dimension, group, group_index, detail
        As for `Stack`.
    shape
        (slices, rows, columns).
    spacing
        (slice, row, column) spacing in mm; NaN where unknown.
    idc
        The columns of IDC's geometry checks, under their names; None where IDC has no answer.
    reason
        The verdict as one line, with its numbers.
    needs_person
        Whether a person should look at the stack.
    """

    number: int
    patient: int
    series_instance_uid: str
    series_number: int | None
    description: str
    folder: str
    modality: str
    content: str
    shape: tuple[int, int, int]
    spacing: tuple[float, float, float]
    verdict: str
    dimension: Mapping[str, Any]
    group: int
    group_index: int
    detail: Mapping[str, Any]
    idc: Mapping[str, bool | float | None]
    reason: str
    needs_person: bool

    @property
    def uniform_slice_spacing(self) -> bool:
        """Whether all gaps are equal by IDC's check, which is stricter than the verdict."""
        return bool(self.idc.get("uniform_slice_spacing"))

    def to_dict(self) -> dict[str, Any]:
        """Convert to plain values without NaN; IDC's columns stand beside the others."""
        values = {
            field.name: getattr(self, field.name) for field in fields(self) if field.name != "idc"
        }
        return {name: plain_value(value) for name, value in (values | dict(self.idc)).items()}


@dataclass(frozen=True, slots=True, repr=False)
class Check:
    """The verdict on every stack of an index, its ledger and its problems.

    A person is needed for missing slices, uneven spacing, different slices at one position, slices
    of several contrasts in one stack, a CT, MR or PET image without geometry, a stack that lacks
    slices which others of its group have, rows stored in reverse, slices of a Series that fall
    apart, also by what their values mean, a Study or Series of several patients, a concatenation of
    which files are absent, and every file that could not be used.

    Attributes
    ----------
    path, generation
        The index folder, and its generation.
    rows
        One `StackCheck` per complete stack of the selection.
    ledger
        Number of files per kind.
    problems
        Problems of the complete index; a selection does not change them.
    passed_over
        Number of entries that the walk left out, per kind.
    flags
        Number of files per flag (`Frame.flags`): what is odd about files that are read.
    equal_copies
        Frames that are in no stack because another frame is equal.
    parted_frames
        Frames of partly selected stacks; no row describes them.
    """

    path: str
    generation: str
    rows: tuple[StackCheck, ...]
    ledger: Mapping[str, int]
    problems: tuple[Problem, ...]
    passed_over: Mapping[str, int]
    flags: Mapping[str, int]
    equal_copies: int
    parted_frames: int

    @property
    def needing(self) -> list[StackCheck]:
        """The stacks that need a person."""
        return [row for row in self.rows if row.needs_person]

    @property
    def ok(self) -> bool:
        """Whether there are stacks, and nothing needs a person."""
        return bool(self.rows) and not self.problems and not self.needing

    @property
    def remarks(self) -> list[str]:
        """Remarks that need no person: copies, absent UIDs, movement, partly selected stacks."""
        blank = sum(
            "blank" in (row.detail.get("series_instance_uid"), row.detail.get("study_instance_uid"))
            for row in self.rows
        )
        moved = [mm for row in self.rows if (mm := row.detail.get("movement_mm", 0)) > 0]
        farthest = f"{max(moved, default=0):.4g}"
        joined = sum(not _JOINED.isdisjoint(row.detail) for row in self.rows)
        apart = sum(not _APART.isdisjoint(row.detail) for row in self.rows)
        counts = {
            "left out as equal copies of others": (self.equal_copies, "frames"),
            "without a Series or Study Instance UID": (blank, "stacks"),
            f"moved against the first of the group by up to {farthest} mm": (len(moved), "stacks"),
            "joined although the slices have several identifiers": (joined, "stacks"),
            "apart by identifiers that differ within a Series": (apart, "stacks"),
            "taken apart by the selection and not checked": (self.parted_frames, "frames"),
        }
        remarks = [f"{text}: {counted(n, noun)}" for text, (n, noun) in counts.items() if n]
        passed, flagged = format_nouns(self.passed_over), format_counts(self.flags)
        remarks += [f"passed over: {passed}"] if passed else []
        return [*remarks, f"flagged files: {flagged}"] if flagged else remarks

    def to_dict(self) -> dict[str, Any]:
        """Convert to plain values for JSON, with null for NaN."""
        return {
            "index": self.path,
            "generation": self.generation,
            "ok": self.ok,
            "needs_person": [row.number for row in self.needing],
            "verdicts": dict(sorted(Counter(row.verdict for row in self.rows).items())),
            "stacks": [row.to_dict() for row in self.rows],
            "ledger": dict(self.ledger),
            "problems": [
                {"path": p.path, "reason": p.reason, "detail": p.detail} for p in self.problems
            ],
            "passed_over": dict(self.passed_over),
            "flags": dict(self.flags),
            "equal_copies": self.equal_copies,
            "parted_frames": self.parted_frames,
        }

    def text(self, everything: bool = False) -> str:
        """Format for a terminal: the stacks that need a person, with reasons; others are counted.

        With `everything`, all stacks and all problems.
        """
        lines = [self._headline()]
        groups = _alike(self.rows if everything else self.needing)
        shown = groups if everything else groups[:SHOWN_LINES]
        lines += _stack_lines(shown, marked=everything)
        if len(shown) < len(groups):
            more = _stacks_in(groups[len(shown) :])
            lines.append(f"  ... and {more:,} more stacks: --all, or `check.rows`")
        if not everything:
            fine = _fine(self.rows)
            lines += (
                ["  nothing to do for", *(f"    {m:<8} {format_verdicts(v)}" for m, v in fine)]
                if fine
                else []
            )
        lines.append(f"  {format_ledger(self.ledger)}")
        problems = self.problems if everything else self.problems[:SHOWN_PROBLEMS]
        for problem in problems:
            lines += [f"    {problem.reason:<20} {problem.path}", f"    {'':<20} {problem.detail}"]
        if len(problems) < len(self.problems):
            more = len(self.problems) - len(problems)
            lines.append(f"    ... and {more:,} more: --all, or `check.problems`")
        lines += [f"  {remark}" for remark in self.remarks]
        return "\n".join(printable(line) for line in [*lines, f"  in {self.path}"])

    def _headline(self) -> str:
        needing, files = len(self.needing), len(self.problems)
        stacks = counted(len(self.rows), "stacks") if self.rows else "there is no stack"
        parts = [
            f"{needing:,} of {stacks} {'needs' if needing == 1 else 'need'} a person"
            if needing
            else (f"{stacks}, none needs a person" if self.rows else stacks)
        ]
        parts += [f"{counted(files, 'files')} could not be used"] if files else []
        promised = sum(problem.reason == NOT_DELIVERED for problem in self.problems)
        if promised:
            parts.append(f"{promised:,} of these an archive promised and did not deliver")
        return "Check: " + "; ".join(parts)

    def __repr__(self) -> str:
        return self.text()

    def _repr_html_(self) -> str:
        groups = _alike(self.needing)
        parts = [f"<p><b>{escaped(self._headline())}</b></p>"]
        if groups:
            rows = [
                [_format_numbers(g), g[0].series_instance_uid or "(none)", *_format_facts(g)]
                for g in groups[:SHOWN_LINES]
            ]
            parts.append(html_table(["stack", "series", *_STACK_TITLES], rows, right={0}))
        if len(groups) > SHOWN_LINES:
            more = _stacks_in(groups[SHOWN_LINES:])
            parts.append(f"<p>... and {more:,} more stacks: <code>check.rows</code></p>")
        if fine := [[m, format_verdicts(verdicts)] for m, verdicts in _fine(self.rows)]:
            parts.append(f"<p>Nothing to do for</p>{html_table(['modality', 'verdicts'], fine)}")
        parts.append(f"<p>{escaped(format_ledger(self.ledger))}</p>")
        if self.problems:
            rows = [[p.reason, p.path, p.detail] for p in self.problems[:SHOWN_PROBLEMS]]
            parts.append(html_table(["problem", "path", "detail"], rows))
        if len(self.problems) > SHOWN_PROBLEMS:
            more = len(self.problems) - SHOWN_PROBLEMS
            parts.append(f"<p>... and {more:,} more: <code>check.problems</code></p>")
        parts += [f"<p>{escaped(remark)}</p>" for remark in self.remarks]
        return f"<div>{''.join(parts)}<p><code>{escaped(self.path)}</code></p></div>"


def check(part: Part) -> Check:
    """Check every complete stack of a part, with the ledger and the problems of its index."""
    members = (
        np.bincount(part.stacks.numbers("group"))
        if len(part.stacks)
        else np.zeros(0, dtype=np.int64)
    )
    slices = np.diff(part.starts)[part.chosen].tolist()
    idc = {name: part.conclusions(name) for name in IDC_COLUMNS}
    columns: dict[str, Iterable[Any]] = {
        "number": part.chosen.tolist(),
        "patient": part.patients(),
        "series_instance_uid": part.heads("series_instance_uid"),
        "series_number": part.heads("series_number"),
        "description": [text or "" for text in part.heads("series_description")],
        "folder": map(part.folder_of, part.chosen.tolist()),
        "modality": part.heads("modality"),
        "content": (contents := part.conclusions("content")),
        "shape": zip(slices, part.heads("rows"), part.heads("columns"), strict=True),
        "spacing": map(tuple, part.stacks.vectors("spacing", 3)[part.chosen].tolist()),
        "verdict": (verdicts := part.conclusions("verdict")),
        "dimension": part.conclusions("dimension", json.loads),
        "group": (groups := part.conclusions("group")),
        "group_index": part.conclusions("group_index"),
        "detail": (details := part.conclusions("detail", json.loads)),
        "idc": [dict(zip(idc, values, strict=True)) for values in zip(*idc.values(), strict=True)],
        "reason": itertools.starmap(
            reason, zip(verdicts, details, slices, members[groups].tolist(), strict=True)
        ),
        "needs_person": itertools.starmap(
            _needs_person,
            zip(contents, verdicts, details, part.heads("sop_class_uid"), strict=True),
        ),
    }
    copies = int(part.mask[part.starts[-1] :].sum())
    return Check(
        path=part.path,
        generation=part.generation,
        rows=tuple(
            StackCheck(**dict(zip(columns, values, strict=True)))
            for values in zip(*columns.values(), strict=True)
        ),
        ledger=dict(part.ledger),
        problems=tuple(part.problems),
        passed_over=dict(part.passed_over),
        flags=dict(part.flags),
        equal_copies=copies,
        parted_frames=int(part.mask.sum()) - sum(slices) - copies,
    )


def reason_of(stack: Stack) -> str:
    """Return the sentence of `check` for the verdict of a stack."""
    return reason(stack.verdict, stack.detail, stack.slices, len(stack.group))


def _needs_person(
    content: str, verdict: str, detail: Mapping[str, Any], sop_class_uid: str
) -> bool:
    # Frames without a voxel of the segment may be omitted (PS3.3 C.8.20.2.3.1).
    if content == "segmentation":
        return verdict == "duplicates" or "absent_parts" in detail or not _SHARED.isdisjoint(detail)
    # SOP class, not Modality: a screenshot may have the modality CT.
    unplaced = verdict == "no_geometry" and sop_class_uid in PLACED
    return (
        verdict in ALARMING
        or unplaced
        or bool(detail.get("missing_in_group"))
        or bool(detail.get("mixed"))
        or "reversed_rows" in detail
        or "slices_apart" in detail
        or "series_apart" in detail
        or "one_grid" in detail
        or "unassigned" in detail
        or "frames_at_one_position" in detail
        or "absent_parts" in detail
        or "values_apart" in detail
        or not _SHARED.isdisjoint(detail)
    )


_STACK_TITLES: Final = ("modality", "shape", "spacing mm", "verdict", "reason")


def _alike(rows: Iterable[StackCheck]) -> list[list[StackCheck]]:
    """Group consecutive rows that are equal but for their number.

    The time points of a series with the same fault become one line.
    """

    def shown(row: StackCheck) -> tuple[Any, ...]:
        return (
            row.series_instance_uid,
            row.modality,
            row.shape,
            row.verdict,
            row.reason,
            row.needs_person,
        )

    return [list(members) for _, members in itertools.groupby(rows, key=shown)]


def _stacks_in(groups: Iterable[Sequence[StackCheck]]) -> int:
    return sum(map(len, groups))


def _format_numbers(group: Sequence[StackCheck]) -> str:
    return str(group[0].number) if len(group) == 1 else f"{group[0].number}-{group[-1].number}"


def _format_facts(group: Sequence[StackCheck]) -> list[str]:
    row = group[0]
    spacing = format_lengths(row.spacing)
    reason = f"{len(group)} stacks, each: {row.reason}" if len(group) > 1 else row.reason
    if len(group) == 1 and row.dimension:
        reason = f"[{format_value(row.dimension)}] {reason}"
    shape = " x ".join(map(str, row.shape))
    return [row.modality or "(none)", shape, spacing, row.verdict, reason]


def _stack_lines(groups: Sequence[Sequence[StackCheck]], marked: bool) -> list[str]:
    """Format one line per group of alike stacks, below a line for their Series.

    With `marked`, an exclamation mark follows the numbers of stacks that need a person.
    """
    rows = [
        [
            _format_numbers(group) + (" !" if marked and group[0].needs_person else "  "),
            *_format_facts(group),
        ]
        for group in groups
    ]
    if not rows:
        return []
    header, *lines = text_columns(["stack  ", *_STACK_TITLES], rows, right={0})
    result, before = [header], None
    for group, line in zip(groups, lines, strict=True):
        series = _format_series(group[0])
        result += [f"  {series}", line] if series != before else [line]
        before = series
    return result


def _format_series(row: StackCheck) -> str:
    """Format the Series of a stack: number, description, UID and folder."""
    number = "" if row.series_number is None else f" {row.series_number}"
    description = f" {row.description!r}" if row.description else ""
    uid = row.series_instance_uid or "(no UID)"
    return f"series{number}{description} of patient {row.patient}, {uid}, in {row.folder}"


def _fine(rows: Iterable[StackCheck]) -> list[tuple[str, Counter[str]]]:
    """Return (modality, verdicts) of the stacks that need no person, most stacks first."""
    fine: dict[str, Counter[str]] = {}
    for row in rows:
        if not row.needs_person:
            fine.setdefault(row.modality or "(none)", Counter())[row.verdict] += 1
    return sorted(fine.items(), key=lambda item: -item[1].total())
