"""index.check"""

import itertools
import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Final

import numpy as np

from dicomdl.headers.uids import PLACED
from dicomdl.index.overview import ALARMING, IDC_COLUMNS, SHOWN_PROBLEMS, SHOWN_VALUES
from dicomdl.index.text import (
    SHOWN_LINES,
    Part,
    Problem,
    counted,
    escaped,
    html_table,
    ledger_told,
    plain_value,
    plural,
    printable,
    text_columns,
    verdicts_told,
)


@dataclass(frozen=True, slots=True)
class StackCheck:
    """What is known of one stack.

    `reason` says its verdict in a sentence, `needs_person` whether somebody should look.
    """

    number: int
    series_instance_uid: str
    modality: str
    content: str
    shape: tuple[int, int, int]  # slices, rows, columns
    spacing: tuple[float, float, float]  # the same axes, mm; NaN where unknown
    verdict: str
    dimension: Mapping[str, Any]
    group: int
    group_index: int
    detail: Mapping[str, Any]
    # IDC's columns, by their names; None where IDC has no answer
    idc: Mapping[str, bool | float | None]
    reason: str
    needs_person: bool

    @property
    def uniform_slice_spacing(self) -> bool:
        """IDC's stricter check of every gap."""
        return bool(self.idc.get("uniform_slice_spacing"))

    def to_dict(self) -> dict[str, Any]:
        """Plain values without NaN; IDC's columns stand beside ours."""
        values = {
            field.name: getattr(self, field.name) for field in fields(self) if field.name != "idc"
        }
        return {name: plain_value(value) for name, value in (values | dict(self.idc)).items()}


@dataclass(frozen=True, slots=True, repr=False)
class Check:
    """The verdict on every stack of an index, its ledger and its problems.

    What needs a person, and why.

    A person is needed by missing slices, uneven spacing, different slices at one position, a CT, MR
    or PET image without geometry, a stack that lacks slices which the others of its group have, and
    every file that could not be used.
    """

    path: str
    generation: str
    rows: tuple[StackCheck, ...]
    ledger: Mapping[str, int]
    problems: tuple[Problem, ...]  # of the whole index: a selection does not change them
    passed_over: Mapping[str, int]
    equal_copies: int  # frames that are in no stack because another frame is equal
    parted_frames: int  # frames of stacks that the selection took apart; no row speaks of them

    @property
    def needing(self) -> list[StackCheck]:
        """The stacks that need a person."""
        return [row for row in self.rows if row.needs_person]

    @property
    def ok(self) -> bool:
        """Whether nothing needs a person."""
        return not self.problems and not any(row.needs_person for row in self.rows)

    @property
    def remarks(self) -> list[str]:
        """What is worth knowing and alarms nobody."""
        blank = sum(
            "blank" in (row.detail.get("series_instance_uid"), row.detail.get("study_instance_uid"))
            for row in self.rows
        )
        told = {
            "frame(s) left out as equal copies of others": self.equal_copies,
            "stack(s) without a Series or Study Instance UID": blank,
            "frame(s) of stacks that the selection took apart, not checked": self.parted_frames,
            "passed over": self.passed_over,
        }
        return [
            f"{text}: {counted(n)}" if isinstance(n, Mapping) else f"{n:,} {text}"
            for text, n in told.items()
            if n
        ]

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain values for JSON, null instead of NaN."""
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
            "equal_copies": self.equal_copies,
            "parted_frames": self.parted_frames,
        }

    def text(self, everything: bool = False) -> str:
        """For a terminal: who needs a person and why, the others counted.

        With `everything` all stacks and all problems.
        """
        lines = [self._headline()]
        groups = _alike(self.rows if everything else self.needing)
        shown = groups if everything else groups[:SHOWN_LINES]
        lines += _stack_lines(shown, marked=everything)
        if len(shown) < len(groups):
            lines.append(
                f"  ... and {_stacks_in(groups[len(shown) :]):,} more stack(s): --all, or `check.rows`"
            )
        if not everything:
            fine = _fine(self.rows)
            lines += (
                ["  nothing to do for", *(f"    {m:<8} {verdicts_told(told)}" for m, told in fine)]
                if fine
                else []
            )
        lines.append(f"  {ledger_told(self.ledger)}")
        problems = self.problems if everything else self.problems[:SHOWN_PROBLEMS]
        for problem in problems:
            lines += [f"    {problem.reason:<20} {problem.path}", f"    {'':<20} {problem.detail}"]
        if len(problems) < len(self.problems):
            lines.append(
                f"    ... and {len(self.problems) - len(problems):,} more file(s): --all, or `check.problems`"
            )
        lines += [f"  {remark}" for remark in self.remarks]
        return "\n".join(printable(line) for line in [*lines, f"  in {self.path}"])

    def _headline(self) -> str:
        needing, files = len(self.needing), len(self.problems)
        stacks = f"{len(self.rows):,} {plural('stacks', len(self.rows))}"
        told = [
            f"{needing:,} of {stacks} {'needs' if needing == 1 else 'need'} a person"
            if needing
            else f"{stacks}, none needs a person"
        ]
        told += [f"{files:,} file(s) could not be used"] if files else []
        return "Check: " + "; ".join(told)

    def __repr__(self) -> str:
        return self.text()

    def _repr_html_(self) -> str:
        groups = _alike(self.needing)
        parts = [f"<p><b>{escaped(self._headline())}</b></p>"]
        if groups:
            rows = [
                [_numbers_told(g), g[0].series_instance_uid or "(none)", *_facts_told(g)]
                for g in groups[:SHOWN_LINES]
            ]
            parts.append(html_table(["stack", "series", *_STACK_TITLES], rows, right={0}))
        if len(groups) > SHOWN_LINES:
            parts.append(
                f"<p>... and {_stacks_in(groups[SHOWN_LINES:]):,} more stack(s): <code>check.rows</code></p>"
            )
        if fine := [[m, verdicts_told(told)] for m, told in _fine(self.rows)]:
            parts.append(f"<p>Nothing to do for</p>{html_table(['modality', 'verdicts'], fine)}")
        parts.append(f"<p>{escaped(ledger_told(self.ledger))}</p>")
        if self.problems:
            rows = [[p.reason, p.path, p.detail] for p in self.problems[:SHOWN_PROBLEMS]]
            parts.append(html_table(["problem", "path", "detail"], rows))
        if len(self.problems) > SHOWN_PROBLEMS:
            parts.append(
                f"<p>... and {len(self.problems) - SHOWN_PROBLEMS:,} more file(s): <code>check.problems</code></p>"
            )
        parts += [f"<p>{escaped(remark)}</p>" for remark in self.remarks]
        return f"<div>{''.join(parts)}<p><code>{escaped(self.path)}</code></p></div>"


def check(part: Part) -> Check:
    """Every stack with its verdict and the reason, what the ledger and the problems say."""
    members = (
        np.bincount(part.stacks.numbers("group"))
        if len(part.stacks)
        else np.zeros(0, dtype=np.int64)
    )
    slices = np.diff(part.starts)[part.chosen].tolist()
    idc = {name: part.conclusions(name) for name in IDC_COLUMNS}
    columns: dict[str, Iterable[Any]] = {
        "number": part.chosen.tolist(),
        "series_instance_uid": part.heads("series_instance_uid"),
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
        equal_copies=copies,
        parted_frames=int(part.mask.sum()) - sum(slices) - copies,
    )


def _needs_person(
    content: str, verdict: str, detail: Mapping[str, Any], sop_class_uid: str
) -> bool:
    # frames without a voxel of the segment may be left out (PS3.3 C.8.20.2.3.1)
    if content == "segmentation":
        return verdict == "duplicates"
    # What the Modality says does not count: a screenshot may call itself CT.
    unplaced = verdict == "no_geometry" and sop_class_uid in PLACED
    return verdict in ALARMING or unplaced or bool(detail.get("missing_in_group"))


def reason(verdict: str, detail: Mapping[str, Any], slices: int, members: int) -> str:
    """The numbers behind a verdict as one line.

    Parameters
    ----------
    verdict, detail
        As the stack has them (DESIGN section 5).
    slices
        How many the stack has.
    members
        How many stacks its group has, itself included.
    """
    facts = _Facts(verdict, detail, slices, members)
    told = [phrase(facts) for key, phrase in _PHRASES.items() if key in detail]
    unknown = {
        key: value
        for key, value in detail.items()
        if key not in _PHRASES and key not in _TOLD_BY_OTHERS
    }
    # told badly rather than lost
    told += [f"{key.replace('_', ' ')} {_value_told(value)}" for key, value in unknown.items()]
    return "; ".join(phrase for phrase in told if phrase)


@dataclass(frozen=True, slots=True)
class _Facts:
    verdict: str
    detail: Mapping[str, Any]
    slices: int
    members: int


def _holes_told(facts: _Facts) -> str:
    detail = facts.detail
    whole = facts.slices - detail.get("repeated_positions", 0) + detail["missing"]
    places = detail.get("missing_after", [])
    after = f" after slice{'s' if len(places) > 1 else ''} {_value_told(places)}" if places else ""
    return f"{detail['missing']} of {whole} slices missing{after}; true spacing {_value_told(detail.get('spacing'))} mm"


def _gaps_told(facts: _Facts) -> str:
    if "missing" in facts.detail:
        return ""  # the holes say it better
    smallest, median, largest = (
        _value_told(facts.detail.get(f"{which}_gap")) for which in ("smallest", "median", "largest")
    )
    return f"spacing between {smallest} and {largest} mm, median {median}"


def _error_told(facts: _Facts) -> str:
    error = facts.detail["position_error"]
    # two slices are never off the line through them
    if facts.verdict not in ("regular", "tilted") or facts.slices <= 2:
        return ""
    return (
        "positions on an even grid"
        if error < 1e-3
        else f"positions within {_value_told(error)} mm of an even grid"
    )


def _step_told(facts: _Facts) -> str:
    step = facts.detail["step"]
    return (
        "one slice, as thick as SliceThickness says"
        if step == "SliceThickness"
        else f"one slice, its thickness {_value_told(step)}"
    )


def _group_gaps_told(facts: _Facts) -> str:
    lacking = facts.detail["missing_in_group"]
    slices = "1 slice" if len(lacking) == 1 else f"{len(lacking)} slices"
    return (
        f"lacks {slices} that others of its group of {facts.members} stacks have: {_value_told(lacking)}"
        if lacking
        else ""
    )


def _copies_told(facts: _Facts) -> str:
    detail = facts.detail
    told = [
        f"{detail['repeated_positions']} of {facts.slices} slices at the position of another one"
    ]
    if "pixels" in detail:
        told.append(
            "pixels not compared"
            if detail["pixels"] == "unchecked"
            else f"pixels {_value_told(detail['pixels'])}"
        )
    if ties := detail.get("told_apart_by"):
        told.append(f"{' or '.join(map(str, ties))} would tell them apart, but differently")
    else:
        told.append("nothing in the headers tells them apart")
    return "; ".join(told)


def _instances_told(facts: _Facts) -> str:
    # UIDs of 64 characters: two are enough to find the place, `detail` has the others
    instances = facts.detail["instances"]
    return f"instances {_value_told(instances[:2])}{', ...' if len(instances) > 2 else ''}"


_PHRASES: Final[Mapping[str, Callable[[_Facts], str]]] = {  # in this order
    "why": lambda facts: _value_told(facts.detail["why"]),
    "missing_in_group": _group_gaps_told,
    "repeated_positions": _copies_told,
    "missing": _holes_told,
    "smallest_gap": _gaps_told,
    "in_plane_error": lambda facts: (
        f"positions leave a straight line by up to {_value_told(facts.detail['in_plane_error'])} mm"
    ),
    "tilt_deg": lambda facts: f"tilted by {_value_told(facts.detail['tilt_deg'])} degrees",
    "position_error": _error_told,
    "unconfirmed": lambda facts: (
        "two slices: nothing confirms the spacing" if facts.slices == 2 else ""
    ),
    "varies": lambda facts: (
        f"{', '.join(map(str, facts.detail['varies']))} not the same in all slices"
    ),
    "coordinates": lambda facts: (
        f"coordinates {_value_told(facts.detail['coordinates'])}, not of the patient"
    ),
    "step": _step_told,
    "series_instance_uid": lambda facts: (
        f"Series Instance UID is {_value_told(facts.detail['series_instance_uid'])}"
    ),
    "study_instance_uid": lambda facts: (
        f"Study Instance UID is {_value_told(facts.detail['study_instance_uid'])}"
    ),
    "instances": _instances_told,
}
_TOLD_BY_OTHERS: Final = frozenset(
    {
        "spacing",
        "median_gap",
        "largest_gap",
        "missing_after",
        "pixels",
        "told_apart_by",
        *IDC_COLUMNS,
    }
)


def _value_told(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_value_told(inner)}" for key, inner in value.items())
    if isinstance(value, list | tuple):
        more = f", ... ({len(value)} in all)" if len(value) > SHOWN_VALUES else ""
        return ", ".join(map(_value_told, value[:SHOWN_VALUES])) + more
    return "none" if value is None else str(value)


_STACK_TITLES: Final = ("modality", "shape", "spacing mm", "verdict", "reason")


def _alike(rows: Iterable[StackCheck]) -> list[list[StackCheck]]:
    """Neighbours that differ in nothing but their number.

    The time points of a series with the same fault are one line.
    """

    def said(row: StackCheck) -> tuple[Any, ...]:
        return (
            row.series_instance_uid,
            row.modality,
            row.shape,
            row.verdict,
            row.reason,
            row.needs_person,
        )

    return [list(members) for _, members in itertools.groupby(rows, key=said)]


def _stacks_in(groups: Iterable[Sequence[StackCheck]]) -> int:
    return sum(map(len, groups))


def _numbers_told(group: Sequence[StackCheck]) -> str:
    return str(group[0].number) if len(group) == 1 else f"{group[0].number}-{group[-1].number}"


def _facts_told(group: Sequence[StackCheck]) -> list[str]:
    row = group[0]
    spacing = " x ".join(f"{step:.4g}" if math.isfinite(step) else "?" for step in row.spacing)
    told = f"{len(group)} stacks, each: {row.reason}" if len(group) > 1 else row.reason
    if len(group) == 1 and row.dimension:
        told = f"[{_value_told(row.dimension)}] {told}"
    return [row.modality or "(none)", " x ".join(map(str, row.shape)), spacing, row.verdict, told]


def _stack_lines(groups: Sequence[Sequence[StackCheck]], marked: bool) -> list[str]:
    """A line a group of alike stacks, below the Series it is of.

    A mark where one needs a person.
    """
    rows = [
        [
            _numbers_told(group) + (" !" if marked and group[0].needs_person else "  "),
            *_facts_told(group),
        ]
        for group in groups
    ]
    if not rows:
        return []
    header, *lines = text_columns(["stack  ", *_STACK_TITLES], rows, right={0})
    told, before = [header], None
    for group, line in zip(groups, lines, strict=True):
        series = group[0].series_instance_uid or "(no UID)"
        told += [f"  series {series}", line] if series != before else [line]
        before = series
    return told


def _fine(rows: Iterable[StackCheck]) -> list[tuple[str, Counter[str]]]:
    """(modality, verdicts) of the stacks that need nobody, most stacks first."""
    found: dict[str, Counter[str]] = {}
    for row in rows:
        if not row.needs_person:
            found.setdefault(row.modality or "(none)", Counter())[row.verdict] += 1
    return sorted(found.items(), key=lambda item: -item[1].total())
