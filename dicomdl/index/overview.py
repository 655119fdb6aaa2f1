"""Overview: the numbers of an index that ``print(index)`` and a notebook show.

Input is a `Part`: tables, and the selected rows. This file opens no file and changes no conclusion.
Its text names stacks by number and Series Instance UID and files by path; it holds no patient's
identity and no date. Text from files passes `printable`, and in HTML `escaped`.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from dicomdl.geometry.verdict import IDC_CHECKS
from dicomdl.index._identity import IDENTITY, rows_of_stacks
from dicomdl.index.text import (
    Part,
    counted,
    escaped,
    format_counts,
    format_ledger,
    format_nouns,
    format_verdicts,
    html_table,
    text_columns,
)
from dicomdl.printing import printable

SHOWN_PROBLEMS: Final = 20
# Values of a list in a reason.
SHOWN_VALUES: Final = 8
# Under IDC's names, as `geometry.verdict.idc_checks` computes them.
IDC_COLUMNS: Final = (
    *IDC_CHECKS,
    "obliquity_degrees",
)
# Verdicts that need a person. Tilted, regular and single stacks are as expected.
ALARMING: Final = frozenset({"missing_slices", "uneven_spacing", "duplicates"})


@dataclass(frozen=True, slots=True)
class ModalityCount:
    """The complete stacks of one modality: their number, their frames, their verdicts."""

    modality: str
    stacks: int
    frames: int
    verdicts: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Overview:
    """An index in numbers, as ``print(index)`` shows them."""

    title: str
    counts: Mapping[str, int]
    # Groups of two or more stacks.
    groups: int
    equal_copies: int
    # Objects that describe images, per kind.
    annotations: Mapping[str, int]
    # Columns that were joined.
    joined: Sequence[str]
    # Stacks with slices of several contrasts.
    mixed: int
    # Frames of partly selected stacks.
    parted_frames: int
    # Files that hold the selected frames; None for the complete index.
    selected_files: int | None
    # Sorted by frames, most first.
    modalities: Sequence[ModalityCount]
    ledger: Mapping[str, int]
    reasons: Mapping[str, int]
    passed_over: Mapping[str, int]
    # Files per flag (`Frame.flags`).
    flags: Mapping[str, int]
    path: str

    def text(self) -> str:
        """Format for a terminal: counts, one line per modality, the ledger, the problems."""
        lines = [
            f"{self.title}: " + ", ".join(counted(n, nouns) for nouns, n in self.counts.items())
        ]
        rows = [
            [m.modality, f"{m.stacks:,}", f"{m.frames:,}", " " + format_verdicts(m.verdicts)]
            for m in self.modalities
        ]
        lines += (
            text_columns(
                ["modality", "stacks", "frames", " verdicts"], rows, right={1, 2}, widths=(8, 8, 10)
            )
            if rows
            else []
        )
        lines += [f"  {remark}" for remark in self._remarks()]
        lines += [f"  {line}" for line in self._origin()]
        lines.append(f"  in {self.path}")
        return "\n".join(printable(line) for line in lines)

    def _remarks(self) -> list[str]:
        counts = {
            "on one grid: time points, echoes, b-values, ... (index.groups)": (
                self.groups,
                "groups",
            ),
            "of several contrasts: select(mixed=False) leaves them out": (self.mixed, "stacks"),
            "left out as equal copies of others": (self.equal_copies, "frames"),
            "of stacks that the selection took apart": (self.parted_frames, "frames"),
        }
        remarks = [f"{counted(n, nouns)} {text}" for text, (n, nouns) in counts.items() if n]
        if self.annotations:
            total = counted(sum(self.annotations.values()), "annotations")
            kinds = format_counts(dict(sorted(self.annotations.items())))
            remarks.insert(int(self.groups > 0), f"{total}: {kinds} (index.annotations)")
        if self.joined:
            shown = ", ".join(self.joined[:SHOWN_VALUES])
            more = ", ..." if len(self.joined) > SHOWN_VALUES else ""
            remarks.append(f"joined {counted(len(self.joined), 'columns')}: {shown}{more}")
        return remarks

    def _origin(self) -> list[str]:
        """Return the lines about files: of a selection, those that hold its frames."""
        if self.selected_files is not None:
            total = counted(self.ledger["files"], "files")
            lines = [f"{self.selected_files:,} of {total} of the index hold them"]
        else:
            lines = [format_ledger(self.ledger)]
            lines += [f"problems: {format_counts(self.reasons)}"] if self.reasons else []
            passed = format_nouns(self.passed_over)
            lines += [f"passed over: {passed}"] if passed else []
        return lines + ([f"flagged files: {format_counts(self.flags)}"] if self.flags else [])

    def html(self) -> str:
        """Format for a notebook."""
        head = " · ".join(
            re.sub(r"^\S+", r"<b>\g<0></b>", counted(n, noun)) for noun, n in self.counts.items()
        )
        rows = [
            [m.modality, f"{m.stacks:,}", f"{m.frames:,}", format_verdicts(m.verdicts)]
            for m in self.modalities
        ]
        last = [*self._remarks(), *self._origin()]
        table = html_table(["modality", "stacks", "frames", "verdicts"], rows, right={1, 2})
        foot = "<br>".join(map(escaped, last))
        path = f"<code>{escaped(self.path)}</code>"
        return f"<div><p>{head}</p>{table}<p>{foot}<br>{path}</p></div>"


def overview(part: Part) -> Overview:
    """Compute the numbers of an index."""
    return Overview(
        title="Index"
        if part.is_whole
        else f"Selection of {int(part.mask.sum()):,} of {len(part.frames):,} frames",
        counts=counts(part),
        groups=_whole_groups(part),
        annotations=part.annotations,
        joined=part.joined,
        equal_copies=int(part.mask[part.starts[-1] :].sum()),
        mixed=int(part.stacks.numbers("mixed")[part.chosen].sum()),
        parted_frames=int(part.mask[: part.starts[-1]].sum())
        - int(np.diff(part.starts)[part.chosen].sum()),
        selected_files=None if part.is_whole else int(part.held_files.sum()),
        modalities=_by_modality(part),
        ledger=part.ledger,
        reasons=part.reasons,
        passed_over=part.passed_over,
        flags=part.flags,
        path=part.path,
    )


def _whole_groups(part: Part) -> int:
    """Count the groups of two or more stacks of which every stack is selected.

    The segments of a SEG are labels, and no group.
    """
    groups = part.stacks.numbers("group")
    sizes = np.bincount(groups) if len(groups) else np.zeros(0, dtype=np.int64)
    contents, names = part.stacks.codes("content")
    is_label = np.array([name == "segmentation" for name in names], np.bool_)
    chosen = part.chosen[~is_label[contents[part.chosen]]]
    return int(((np.bincount(groups[chosen], minlength=len(sizes)) == sizes) & (sizes > 1)).sum())


def counts(part: Part) -> dict[str, int]:
    """Count patients, studies, series, stacks and frames.

    Frames of a partly selected stack count as frames; the stack does not count.
    """
    selected = np.concatenate([[0], np.cumsum(part.mask)])
    touched = np.flatnonzero(np.diff(selected[part.starts]))
    patients, studies = (
        part.frames.codes(name)[0][rows_of_stacks(part.frames, name, part.starts)[touched]]
        for name in IDENTITY
    )
    return {
        "patients": len(np.unique(patients)),
        "studies": np.unique(np.stack([patients, studies]), axis=1).shape[1] if len(touched) else 0,
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
        present, numbers = np.unique(verdicts[part.chosen[members]], return_counts=True)
        per_verdict = {
            str(names[verdict]): int(n) for verdict, n in zip(present, numbers, strict=True)
        }
        rows.append(
            ModalityCount(
                str(modalities[code]) or "(none)",
                int(members.sum()),
                int(slices[members].sum()),
                per_verdict,
            )
        )
    return sorted(rows, key=lambda row: -row.frames)
