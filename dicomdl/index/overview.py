"""What an index says to people.

What `print(index)` shows, and `index.check()`, as text, as HTML and as plain values for JSON.

An index hands over a `Part`: its tables and which of their rows are meant. Nothing here opens a
file or changes a conclusion. Stacks are named by number and Series Instance UID, files by path; no
patient's identity and no date is in any of it. What files say passes `printable` before it is
shown, and is escaped in HTML as well.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from dicomdl.geometry.verdict import IDC_CHECKS
from dicomdl.index.text import (
    Part,
    counted,
    escaped,
    html_table,
    ledger_told,
    plural,
    printable,
    text_columns,
    verdicts_told,
)

SHOWN_PROBLEMS: Final = 20
SHOWN_VALUES: Final = 8  # of a list in a reason
# under IDC's names, as `geometry.idc_checks` computes them
IDC_COLUMNS: Final = (
    *IDC_CHECKS,
    "obliquity_degrees",
)
# A tilted, regular or single stack is as it should be.
ALARMING: Final = frozenset({"missing_slices", "uneven_spacing", "duplicates"})


# --- the summary ----------------------------------------------------------------------------------


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
        lines = [
            f"{self.title}: "
            + ", ".join(f"{n:,} {plural(name, n)}" for name, n in self.counts.items())
        ]
        rows = [
            [m.modality, f"{m.stacks:,}", f"{m.frames:,}", " " + verdicts_told(m.verdicts)]
            for m in self.modalities
        ]
        lines += (
            text_columns(
                ["modality", "stacks", "frames", " verdicts"], rows, right={1, 2}, widths=(8, 8, 10)
            )
            if rows
            else []
        )
        lines += [f"  {told}" for told in self._told_of_stacks()]
        lines.append(f"  {ledger_told(self.ledger)}")
        lines += [f"  problems: {counted(self.reasons)}"] if self.reasons else []
        lines += [f"  passed over: {counted(self.passed_over)}"] if self.passed_over else []
        lines.append(f"  in {self.path}")
        return "\n".join(printable(line) for line in lines)

    def _told_of_stacks(self) -> list[str]:
        groups = f"{self.groups:,} group(s) of stacks on one grid: time points, echoes, b-values, ... (index.groups)"
        copies = f"{self.equal_copies:,} frame(s) are equal copies of others and in no stack"
        return [
            told for told, count in ((groups, self.groups), (copies, self.equal_copies)) if count
        ]

    def html(self) -> str:
        """The same for a notebook."""
        head = " · ".join(f"<b>{n:,}</b> {plural(name, n)}" for name, n in self.counts.items())
        rows = [
            [m.modality, f"{m.stacks:,}", f"{m.frames:,}", verdicts_told(m.verdicts)]
            for m in self.modalities
        ]
        last = [
            *self._told_of_stacks(),
            ledger_told(self.ledger),
            f"problems: {counted(self.reasons) or 'none'}",
        ]
        last += [f"passed over: {counted(self.passed_over)}"] if self.passed_over else []
        table = html_table(["modality", "stacks", "frames", "verdicts"], rows, right={1, 2})
        return f"<div><p>{head}</p>{table}<p>{'<br>'.join(map(escaped, last))}<br><code>{escaped(self.path)}</code></p></div>"


def overview(part: Part) -> Overview:
    """The numbers of an index."""
    return Overview(
        title="Index"
        if part.is_whole
        else f"Selection of {int(part.mask.sum()):,} of {len(part.frames):,} frames",
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
    return int(
        ((np.bincount(groups[part.chosen], minlength=len(sizes)) == sizes) & (sizes > 1)).sum()
    )


def counts(part: Part) -> dict[str, int]:
    """Patients, studies, series, stacks and frames.

    What a stack taken apart leaves counts as frames.
    """
    selected = np.concatenate([[0], np.cumsum(part.mask)])
    touched = np.flatnonzero(np.diff(selected[part.starts]))
    heads = part.starts[touched]
    patients, studies = (
        part.frames.codes(name)[0][heads] for name in ("patient_id", "study_instance_uid")
    )
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
        rows.append(
            ModalityCount(
                str(modalities[code]) or "(none)",
                int(members.sum()),
                int(slices[members].sum()),
                told,
            )
        )
    return sorted(rows, key=lambda row: -row.frames)
