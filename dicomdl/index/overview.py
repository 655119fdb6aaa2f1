"""What an index says to people: what `print(index)` shows, and `index.check()`, as text, as HTML and as plain values for JSON.

An index hands over a `Part`: its tables and which of their rows are meant. Nothing here opens a file or changes a
conclusion. Stacks are named by number and Series Instance UID, files by path; no patient's identity and no date is in
any of it. What files say passes `printable` before it is shown, and is escaped in HTML as well.
"""

import itertools
import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from html import escape
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from dicomdl.geometry.grid import IDC_CHECKS, VERDICTS
from dicomdl.index.table import Table

SHOWN_LINES: Final = 40  # lines of the check's table that are shown before the rest is only counted
SHOWN_PROBLEMS: Final = 20
SHOWN_VALUES: Final = 8  # of a list in a reason
IDC_COLUMNS: Final = (*IDC_CHECKS, "obliquity_degrees")  # under IDC's names, as `geometry.idc_checks` computes them
# A tilted, regular or single stack is as it should be.
_ALARMING: Final = frozenset({"missing_slices", "uneven_spacing", "duplicates"})
# CT, MR and PET images, classic, enhanced and legacy converted, have a place in the patient (PS3.3 A.3, A.4, A.21, A.36, A.38, A.56,
# A.70 to A.72): one without is a fault. What the Modality says does not count: a screenshot may call itself CT.
_PLACED_CLASSES: Final = frozenset(
    f"1.2.840.10008.5.1.4.1.1.{branch}" for branch in ("2", "2.1", "2.2", "4", "4.1", "4.3", "4.4", "128", "128.1", "130")
)


@dataclass(frozen=True, slots=True)
class Problem:
    """One file that could not be used: why in a word (`reason`) and in numbers (`detail`)."""

    path: str
    reason: str
    detail: str


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """What an index hands over: the tables of its generation, and which of their rows are meant."""

    path: str
    generation: str
    is_whole: bool  # all of the index, not a selection
    frames: Table
    stacks: Table
    starts: npt.NDArray[np.int64]  # (stacks + 1,) the first frame row of each stack, and the end; equal copies come behind it
    chosen: npt.NDArray[np.int64]  # the stacks whose frames are all meant
    mask: npt.NDArray[np.bool_]  # (frames,) the frames that are meant
    ledger: Mapping[str, int]
    problems: Sequence[Problem]
    reasons: Mapping[str, int]  # how many problems have each reason
    passed_over: Mapping[str, int]  # what the walk left out, by kind

    def heads(self, name: str) -> list[Any]:
        """A fact of the first frame of each chosen stack."""
        return _at(self.frames, name, self.starts[self.chosen])

    def conclusions(self, name: str, convert: Callable[[Any], Any] = lambda value: value) -> list[Any]:
        """A column of the chosen stacks, each distinct value converted once."""
        return _at(self.stacks, name, self.chosen, convert)


def _at(table: Table, name: str, rows: npt.NDArray[np.int64], convert: Callable[[Any], Any] = lambda value: value) -> list[Any]:
    codes, values = table.codes(name)
    wanted = codes[rows]
    known = {code: convert(values[code]) for code in np.unique(wanted).tolist()}
    return [known[code] for code in wanted.tolist()]


# --- the summary ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ModalityCount:
    """The whole stacks of one modality: how many, of how many frames, with which verdicts."""

    modality: str
    stacks: int
    frames: int
    verdicts: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Overview:
    """An index in numbers, as `print(index)` shows them."""

    title: str
    counts: Mapping[str, int]
    groups: int  # of two or more stacks
    equal_copies: int
    modalities: Sequence[ModalityCount]  # most frames first
    ledger: Mapping[str, int]
    reasons: Mapping[str, int]
    passed_over: Mapping[str, int]
    path: str

    def text(self) -> str:
        """For a terminal: counts, a line a modality, the ledger, the problems."""
        lines = [f"{self.title}: " + ", ".join(f"{n:,} {_plural(name, n)}" for name, n in self.counts.items())]
        rows = [[m.modality, f"{m.stacks:,}", f"{m.frames:,}", " " + _verdicts_told(m.verdicts)] for m in self.modalities]
        lines += _columns(["modality", "stacks", "frames", " verdicts"], rows, right={1, 2}, widths=(8, 8, 10)) if rows else []
        lines += [f"  {told}" for told in self._told_of_stacks()]
        lines.append(f"  {_ledger_told(self.ledger)}")
        lines += [f"  problems: {_counted(self.reasons)}"] if self.reasons else []
        lines += [f"  passed over: {_counted(self.passed_over)}"] if self.passed_over else []
        lines.append(f"  in {self.path}")
        return "\n".join(printable(line) for line in lines)

    def _told_of_stacks(self) -> list[str]:
        groups = f"{self.groups:,} group(s) of stacks on one grid: time points, echoes, b-values, ... (index.groups)"
        copies = f"{self.equal_copies:,} frame(s) are equal copies of others and in no stack"
        return [told for told, count in ((groups, self.groups), (copies, self.equal_copies)) if count]

    def html(self) -> str:
        """The same for a notebook."""
        head = " · ".join(f"<b>{n:,}</b> {_plural(name, n)}" for name, n in self.counts.items())
        rows = [[m.modality, f"{m.stacks:,}", f"{m.frames:,}", _verdicts_told(m.verdicts)] for m in self.modalities]
        last = [*self._told_of_stacks(), _ledger_told(self.ledger), f"problems: {_counted(self.reasons) or 'none'}"]
        last += [f"passed over: {_counted(self.passed_over)}"] if self.passed_over else []
        table = _html_table(["modality", "stacks", "frames", "verdicts"], rows, right={1, 2})
        return f"<div><p>{head}</p>{table}<p>{'<br>'.join(map(_escaped, last))}<br><code>{_escaped(self.path)}</code></p></div>"


def overview(part: Part) -> Overview:
    """The numbers of an index."""
    return Overview(
        title="Index" if part.is_whole else f"Selection of {int(part.mask.sum()):,} of {len(part.frames):,} frames",
        counts=counts(part),
        groups=_whole_groups(part),
        equal_copies=int(part.mask[part.starts[-1] :].sum()),
        modalities=_by_modality(part),
        ledger=part.ledger,
        reasons=part.reasons,
        passed_over=part.passed_over,
        path=part.path,
    )


def _whole_groups(part: Part) -> int:
    """How many groups of two or more stacks are there with all of them."""
    groups = part.stacks.numbers("group")
    sizes = np.bincount(groups) if len(groups) else np.zeros(0, dtype=np.int64)
    return int(((np.bincount(groups[part.chosen], minlength=len(sizes)) == sizes) & (sizes > 1)).sum())


def counts(part: Part) -> dict[str, int]:
    """Patients, studies, series, stacks and frames; what a stack taken apart leaves counts as frames."""
    selected = np.concatenate([[0], np.cumsum(part.mask)])
    touched = np.flatnonzero(np.diff(selected[part.starts]))
    heads = part.starts[touched]
    patients, studies = (part.frames.codes(name)[0][heads] for name in ("patient_id", "study_instance_uid"))
    return {
        "patients": len(np.unique(patients)),
        "studies": np.unique(np.stack([patients, studies]), axis=1).shape[1] if len(heads) else 0,
        "series": len(np.unique(part.stacks.numbers("series")[touched])),
        "stacks": len(part.chosen),
        "frames": int(selected[-1]),
    }


def _by_modality(part: Part) -> list[ModalityCount]:
    codes, modalities = part.frames.codes("modality")
    verdicts, names = part.stacks.codes("verdict")
    of_stack = codes[part.starts[part.chosen]]
    slices = np.diff(part.starts)[part.chosen]
    rows = []
    for code in np.unique(of_stack):
        members = of_stack == code
        found, numbers = np.unique(verdicts[part.chosen[members]], return_counts=True)
        told = {str(names[verdict]): int(n) for verdict, n in zip(found, numbers, strict=True)}
        rows.append(ModalityCount(str(modalities[code]) or "(none)", int(members.sum()), int(slices[members].sum()), told))
    return sorted(rows, key=lambda row: -row.frames)


# --- the check --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class StackCheck:
    """What is known of one stack: `reason` says its verdict in a sentence, `needs_person` whether somebody should look."""

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
    idc: Mapping[str, bool | float | None]  # IDC's columns, by their names; None where IDC has no answer
    reason: str
    needs_person: bool

    @property
    def uniform_slice_spacing(self) -> bool:
        """IDC's stricter check of every gap."""
        return bool(self.idc.get("uniform_slice_spacing"))

    def to_dict(self) -> dict[str, Any]:
        """Plain values without NaN; IDC's columns stand beside ours."""
        values = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "idc"}
        return {name: _plain(value) for name, value in (values | dict(self.idc)).items()}


@dataclass(frozen=True, slots=True, repr=False)
class Check:
    """The verdict on every stack of an index, its ledger and its problems: what needs a person, and why.

    A person is needed by missing slices, uneven spacing, different slices at one position, a CT, MR or PET image without
    geometry, a stack that lacks slices which the others of its group have, and every file that could not be used.
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
        blank = sum("blank" in (row.detail.get("series_instance_uid"), row.detail.get("study_instance_uid")) for row in self.rows)
        told = {
            "frame(s) left out as equal copies of others": self.equal_copies,
            "stack(s) without a Series or Study Instance UID": blank,
            "frame(s) of stacks that the selection took apart, not checked": self.parted_frames,
            "passed over": self.passed_over,
        }
        return [f"{text}: {_counted(n)}" if isinstance(n, Mapping) else f"{n:,} {text}" for text, n in told.items() if n]

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
            "problems": [{"path": p.path, "reason": p.reason, "detail": p.detail} for p in self.problems],
            "passed_over": dict(self.passed_over),
            "equal_copies": self.equal_copies,
            "parted_frames": self.parted_frames,
        }

    def text(self, everything: bool = False) -> str:
        """For a terminal: who needs a person and why, the others counted; with `everything` all stacks and all problems."""
        lines = [self._headline()]
        groups = _alike(self.rows if everything else self.needing)
        shown = groups if everything else groups[:SHOWN_LINES]
        lines += _stack_lines(shown, marked=everything)
        if len(shown) < len(groups):
            lines.append(f"  ... and {_stacks_in(groups[len(shown) :]):,} more stack(s): --all, or `check.rows`")
        if not everything:
            fine = _fine(self.rows)
            lines += ["  nothing to do for", *(f"    {m:<8} {_verdicts_told(told)}" for m, told in fine)] if fine else []
        lines.append(f"  {_ledger_told(self.ledger)}")
        problems = self.problems if everything else self.problems[:SHOWN_PROBLEMS]
        for problem in problems:
            lines += [f"    {problem.reason:<20} {problem.path}", f"    {'':<20} {problem.detail}"]
        if len(problems) < len(self.problems):
            lines.append(f"    ... and {len(self.problems) - len(problems):,} more file(s): --all, or `check.problems`")
        lines += [f"  {remark}" for remark in self.remarks]
        return "\n".join(printable(line) for line in [*lines, f"  in {self.path}"])

    def _headline(self) -> str:
        needing, files = len(self.needing), len(self.problems)
        stacks = f"{len(self.rows):,} {_plural('stacks', len(self.rows))}"
        told = [f"{needing:,} of {stacks} {'needs' if needing == 1 else 'need'} a person" if needing else f"{stacks}, none needs a person"]
        told += [f"{files:,} file(s) could not be used"] if files else []
        return "Check: " + "; ".join(told)

    def __repr__(self) -> str:
        return self.text()

    def _repr_html_(self) -> str:
        groups = _alike(self.needing)
        parts = [f"<p><b>{_escaped(self._headline())}</b></p>"]
        if groups:
            rows = [[_numbers_told(g), g[0].series_instance_uid or "(none)", *_facts_told(g)] for g in groups[:SHOWN_LINES]]
            parts.append(_html_table(["stack", "series", *_STACK_TITLES], rows, right={0}))
        if len(groups) > SHOWN_LINES:
            parts.append(f"<p>... and {_stacks_in(groups[SHOWN_LINES:]):,} more stack(s): <code>check.rows</code></p>")
        if fine := [[m, _verdicts_told(told)] for m, told in _fine(self.rows)]:
            parts.append(f"<p>Nothing to do for</p>{_html_table(['modality', 'verdicts'], fine)}")
        parts.append(f"<p>{_escaped(_ledger_told(self.ledger))}</p>")
        if self.problems:
            rows = [[p.reason, p.path, p.detail] for p in self.problems[:SHOWN_PROBLEMS]]
            parts.append(_html_table(["problem", "path", "detail"], rows))
        if len(self.problems) > SHOWN_PROBLEMS:
            parts.append(f"<p>... and {len(self.problems) - SHOWN_PROBLEMS:,} more file(s): <code>check.problems</code></p>")
        parts += [f"<p>{_escaped(remark)}</p>" for remark in self.remarks]
        return f"<div>{''.join(parts)}<p><code>{_escaped(self.path)}</code></p></div>"


def check(part: Part) -> Check:
    """Every stack with its verdict and the reason, what the ledger and the problems say."""
    members = np.bincount(part.stacks.numbers("group")) if len(part.stacks) else np.zeros(0, dtype=np.int64)
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
        "reason": itertools.starmap(reason, zip(verdicts, details, slices, members[groups].tolist(), strict=True)),
        "needs_person": itertools.starmap(_needs_person, zip(contents, verdicts, details, part.heads("sop_class_uid"), strict=True)),
    }
    copies = int(part.mask[part.starts[-1] :].sum())
    return Check(
        path=part.path,
        generation=part.generation,
        rows=tuple(StackCheck(**dict(zip(columns, values, strict=True))) for values in zip(*columns.values(), strict=True)),
        ledger=dict(part.ledger),
        problems=tuple(part.problems),
        passed_over=dict(part.passed_over),
        equal_copies=copies,
        parted_frames=int(part.mask.sum()) - sum(slices) - copies,
    )


def _needs_person(content: str, verdict: str, detail: Mapping[str, Any], sop_class_uid: str) -> bool:
    if content == "segmentation":  # frames without a voxel of the segment may be left out (PS3.3 C.8.20.2.3.1)
        return verdict == "duplicates"
    unplaced = verdict == "no_geometry" and sop_class_uid in _PLACED_CLASSES
    return verdict in _ALARMING or unplaced or bool(detail.get("missing_in_group"))


# --- reasons ----------------------------------------------------------------------------------------------------------


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
    unknown = {key: value for key, value in detail.items() if key not in _PHRASES and key not in _TOLD_BY_OTHERS}
    told += [f"{key.replace('_', ' ')} {_value_told(value)}" for key, value in unknown.items()]  # told badly rather than lost
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
    smallest, median, largest = (_value_told(facts.detail.get(f"{which}_gap")) for which in ("smallest", "median", "largest"))
    return f"spacing between {smallest} and {largest} mm, median {median}"


def _error_told(facts: _Facts) -> str:
    error = facts.detail["position_error"]
    if facts.verdict not in ("regular", "tilted") or facts.slices <= 2:  # two slices are never off the line through them
        return ""
    return "positions on an even grid" if error < 1e-3 else f"positions within {_value_told(error)} mm of an even grid"


def _step_told(facts: _Facts) -> str:
    step = facts.detail["step"]
    return "one slice, as thick as SliceThickness says" if step == "SliceThickness" else f"one slice, its thickness {_value_told(step)}"


def _group_gaps_told(facts: _Facts) -> str:
    lacking = facts.detail["missing_in_group"]
    slices = "1 slice" if len(lacking) == 1 else f"{len(lacking)} slices"
    return f"lacks {slices} that others of its group of {facts.members} stacks have: {_value_told(lacking)}" if lacking else ""


def _copies_told(facts: _Facts) -> str:
    detail = facts.detail
    told = [f"{detail['repeated_positions']} of {facts.slices} slices at the position of another one"]
    if "pixels" in detail:
        told.append("pixels not compared" if detail["pixels"] == "unchecked" else f"pixels {_value_told(detail['pixels'])}")
    if ties := detail.get("told_apart_by"):
        told.append(f"{' or '.join(map(str, ties))} would tell them apart, but differently")
    else:
        told.append("nothing in the headers tells them apart")
    return "; ".join(told)


def _instances_told(facts: _Facts) -> str:
    instances = facts.detail["instances"]  # UIDs of 64 characters: two are enough to find the place, `detail` has the others
    return f"instances {_value_told(instances[:2])}{', ...' if len(instances) > 2 else ''}"


_PHRASES: Final[Mapping[str, Callable[[_Facts], str]]] = {  # in this order
    "why": lambda facts: _value_told(facts.detail["why"]),
    "missing_in_group": _group_gaps_told,
    "repeated_positions": _copies_told,
    "missing": _holes_told,
    "smallest_gap": _gaps_told,
    "in_plane_error": lambda facts: f"positions leave a straight line by up to {_value_told(facts.detail['in_plane_error'])} mm",
    "tilt_deg": lambda facts: f"tilted by {_value_told(facts.detail['tilt_deg'])} degrees",
    "position_error": _error_told,
    "unconfirmed": lambda facts: "two slices: nothing confirms the spacing" if facts.slices == 2 else "",
    "varies": lambda facts: f"{', '.join(map(str, facts.detail['varies']))} not the same in all slices",
    "coordinates": lambda facts: f"coordinates {_value_told(facts.detail['coordinates'])}, not of the patient",
    "step": _step_told,
    "series_instance_uid": lambda facts: f"Series Instance UID is {_value_told(facts.detail['series_instance_uid'])}",
    "study_instance_uid": lambda facts: f"Study Instance UID is {_value_told(facts.detail['study_instance_uid'])}",
    "instances": _instances_told,
}
_TOLD_BY_OTHERS: Final = frozenset({"spacing", "median_gap", "largest_gap", "missing_after", "pixels", "told_apart_by", *IDC_COLUMNS})


def _value_told(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_value_told(inner)}" for key, inner in value.items())
    if isinstance(value, list | tuple):
        more = f", ... ({len(value)} in all)" if len(value) > SHOWN_VALUES else ""
        return ", ".join(map(_value_told, value[:SHOWN_VALUES])) + more
    return "none" if value is None else str(value)


# --- lines and tables -------------------------------------------------------------------------------------------------

_STACK_TITLES: Final = ("modality", "shape", "spacing mm", "verdict", "reason")


def printable(text: str) -> str:
    """Text from files without what could command a terminal: escape sequences, line breaks, bytes that are no UTF-8."""
    if text.isascii() and text.isprintable():
        return text
    readable = text.encode("utf-8", "backslashreplace").decode()  # a path's bytes that are no text become \udc.. in words
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in readable)


def _escaped(text: str) -> str:
    return escape(printable(text))


def _alike(rows: Iterable[StackCheck]) -> list[list[StackCheck]]:
    """Neighbours that differ in nothing but their number: the time points of a series with the same fault are one line."""

    def said(row: StackCheck) -> tuple[Any, ...]:
        return (row.series_instance_uid, row.modality, row.shape, row.verdict, row.reason, row.needs_person)

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
    """A line a group of alike stacks, below the Series it is of; a mark where one needs a person."""
    rows = [[_numbers_told(group) + (" !" if marked and group[0].needs_person else "  "), *_facts_told(group)] for group in groups]
    if not rows:
        return []
    header, *lines = _columns(["stack  ", *_STACK_TITLES], rows, right={0})
    told, before = [header], None
    for group, line in zip(groups, lines, strict=True):
        series = group[0].series_instance_uid or "(no UID)"
        told += [f"  series {series}", line] if series != before else [line]
        before = series
    return told


def _columns(titles: Sequence[str], rows: Sequence[Sequence[str]], right: Iterable[int], widths: Sequence[int] = ()) -> list[str]:
    """Lines of aligned columns, the titles first; `widths` are the least ones."""
    cells = [[printable(cell) for cell in row] for row in (titles, *rows)]
    least = [*widths, *[0] * (len(titles) - len(widths))]
    needed = [max(least[place], *(len(row[place]) for row in cells)) for place in range(len(titles))]
    aligned = [
        [cell.rjust(width) if place in right else cell.ljust(width) for place, (cell, width) in enumerate(zip(row, needed, strict=True))]
        for row in cells
    ]
    return ["  " + " ".join(row).rstrip() for row in aligned]


def _html_table(titles: Sequence[str], rows: Sequence[Sequence[str]], right: Iterable[int] = ()) -> str:
    head = "".join(f"<th style='text-align:left'>{_escaped(title)}</th>" for title in titles)
    aligned = ["right" if place in right else "left" for place in range(len(titles))]
    # UIDs and paths break anywhere, or they push the last column, which is prose, out of sight.
    wraps = ["overflow-wrap:anywhere" if title in ("series", "path") else "white-space:nowrap" for title in titles]
    wraps[-1] = "min-width:16em"
    styles = [f"text-align:{side};{wrap}" for side, wrap in zip(aligned, wraps, strict=True)]
    body = "".join(
        "<tr>" + "".join(f"<td style='{style}'>{_escaped(cell)}</td>" for style, cell in zip(styles, row, strict=True)) + "</tr>"
        for row in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _fine(rows: Iterable[StackCheck]) -> list[tuple[str, Counter[str]]]:
    """(modality, verdicts) of the stacks that need nobody, most stacks first."""
    found: dict[str, Counter[str]] = {}
    for row in rows:
        if not row.needs_person:
            found.setdefault(row.modality or "(none)", Counter())[row.verdict] += 1
    return sorted(found.items(), key=lambda item: -item[1].total())


def _verdicts_told(verdicts: Mapping[str, int]) -> str:
    return ", ".join(f"{verdicts[v]:,} {v}" for v in VERDICTS if verdicts.get(v))


def _counted(numbers: Mapping[str, int]) -> str:
    return ", ".join(f"{n:,} {name}" for name, n in numbers.items() if n)


def _ledger_told(ledger: Mapping[str, int]) -> str:
    return (
        f"{ledger['files']:,} files = {ledger['image']:,} with images + {ledger['no_image']:,} DICOM without an image"
        f" + {ledger['not_dicom']:,} not DICOM + {ledger['problem']:,} problems"
    )


def _plural(name: str, count: int) -> str:
    if count != 1 or name == "series":
        return name
    return {"patients": "patient", "studies": "study", "stacks": "stack", "frames": "frame"}[name]


def _plain(value: Any) -> Any:
    """The value in what JSON knows: None for NaN and the infinities."""
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
