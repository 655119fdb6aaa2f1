"""The tables of a report: plain values of an index, without an identity, a date or a full path."""

import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np

from dicomdl.headers import uids
from dicomdl.index.audits import Audit
from dicomdl.index.check import Check, StackCheck
from dicomdl.index.index import Index
from dicomdl.index.text import Part
from dicomdl.jobs._patients import keyed_digest
from dicomdl.jobs.report.costs import decoding_ms
from dicomdl.printing import printable
from dicomdl.storage.locations import common_folder

PathStyle = Literal["relative", "hash"]
# Examples per reason.
EXAMPLES: Final = 5
# Letters of a UID that are shown: the last ones.
_UID_LETTERS: Final = 5


class Paths:
    """Paths as a report shows them: below the folder that holds all of them, or as hashes.

    Parameters
    ----------
    folders
        The folders of all files that the report names.
    style
        "relative" or "hash".
    """

    def __init__(self, folders: Iterable[str], style: PathStyle) -> None:
        self.style = style
        every = sorted(set(folders))
        self._root = common_folder([os.path.join(each, "_") for each in every]) if every else ""

    def shown(self, path: str) -> str:
        """Return a path for people."""
        if self.style == "hash":
            return keyed_digest(path)
        inside = path.removeprefix(self._root).lstrip("/\\")
        return printable(inside or ".")

    def scrubbed(self, text: str) -> str:
        """Return a text without absolute paths."""
        if self.style == "relative" and self._root.strip("/\\"):
            text = text.replace(self._root, "...")
        return shown_text(_QUOTED[self.style].sub("'...'", text))


def short_uid(uid: str) -> str:
    """Return the end of a UID, which tells two apart and is no date."""
    return f"…{uid[-_UID_LETTERS:]}" if uid else ""


def shown_text(text: str) -> str:
    """Return a sentence for people, with the ends of UIDs."""
    return printable(_UID.sub(lambda found: short_uid(found[0]), text))


# Paths in quotes that a report does not show: absolute ones and URLs, or all with a folder.
_QUOTED: Final = {
    "relative": re.compile(r"""(['"])(?:[A-Za-z]:|[a-z0-9+.-]+:)?[/\\].*?\1"""),
    "hash": re.compile(r"""(['"])[^'"]*[/\\].*?\1"""),
}
_UID: Final = re.compile(r"\b\d+(?:\.\d+){5,}\b")


@dataclass(frozen=True, slots=True)
class Syntax:
    """The stacks of one transfer syntax, and what decoding all of their frames once costs."""

    name: str
    stacks: int
    frames: int
    megabytes: float
    is_lossy: bool
    seconds: float | None


@dataclass(frozen=True, slots=True)
class Finding:
    """One reason of stacks or files that need a person, with examples."""

    title: str
    count: int
    # (number of the stack or path, sentence)
    examples: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Table:
    """A small table: titles, and rows of text."""

    titles: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def sizes(part: Part) -> list[int]:
    """Return the bytes of the frames of each chosen stack."""
    if not len(part.chosen):
        return []
    lengths = part.frames.numbers("byte_length").astype(np.int64)
    # The tiles of a mosaic have its bytes each.
    files, offsets = part.frames.numbers("file"), part.frames.numbers("byte_offset")
    is_same = (files[1:] == files[:-1]) & (offsets[1:] == offsets[:-1])
    bits = part.frames.numbers("bit_offset")
    is_same &= bits[1:] == bits[:-1]
    lengths[1:][is_same] = 0
    ends = np.concatenate([[0], np.cumsum(lengths)])
    chosen: list[int] = (
        ends[part.starts[part.chosen + 1]] - ends[part.starts[part.chosen]]
    ).tolist()
    return chosen


def syntaxes(part: Part, rows: Sequence[StackCheck], stack_bytes: Sequence[int]) -> list[Syntax]:
    """Return a row per transfer syntax, the largest first."""
    held: dict[str, list[int]] = {}
    for row, uid, size in zip(rows, part.heads("transfer_syntax_uid"), stack_bytes, strict=True):
        counts = held.setdefault(uid or "", [0, 0, 0, 0])
        pixels = row.shape[0] * (row.shape[1] or 0) * (row.shape[2] or 0)
        for at, value in enumerate((1, row.shape[0], size, pixels)):
            counts[at] += value
    result = []
    for uid, (stacks, frames, size, pixels) in held.items():
        cost = decoding_ms(uid)
        seconds = None if cost is None else cost * pixels / 1e9
        result.append(
            Syntax(
                syntax_name(uid), int(stacks), int(frames), size / 1e6, uids.is_lossy(uid), seconds
            )
        )
    return sorted(result, key=lambda row: -row.megabytes)


def syntax_name(uid: str) -> str:
    """Return a short name of a transfer syntax."""
    row = uids.TRANSFER_SYNTAXES.get(uid)
    name = "unknown" if row is None else row.name
    return name.replace(" Image Compression", "").replace(", Non-Hierarchical", "")


def modalities(rows: Sequence[StackCheck], stack_bytes: Sequence[int]) -> list[dict[str, Any]]:
    """Return a row per modality: stacks, frames, megabytes, and stacks per verdict."""
    held: dict[str, dict[str, Any]] = {}
    for row, size in zip(rows, stack_bytes, strict=True):
        start = {"stacks": 0, "frames": 0, "bytes": 0, "needs": 0, "verdicts": Counter[str]()}
        entry = held.setdefault(row.modality or "(none)", start)
        entry["stacks"] += 1
        entry["frames"] += row.shape[0]
        entry["bytes"] += size
        entry["needs"] += row.needs_person
        entry["verdicts"][row.verdict] += 1
    named = [{"name": printable(name), **entry} for name, entry in held.items()]
    return sorted(named, key=lambda entry: -entry["stacks"])


def findings(check: Check) -> list[Finding]:
    """Return the verdicts of stacks that need a person, the most frequent first."""
    held: dict[str, list[StackCheck]] = {}
    for row in check.needing:
        odd = row.verdict.replace("_", " ")
        title = odd if row.verdict not in ("regular", "single", "tilted") else f"{odd}, but"
        held.setdefault(title, []).append(row)
    made = [
        Finding(
            title.removesuffix(", but") + (" with a remark" if title.endswith(", but") else ""),
            len(rows),
            tuple((str(row.number), shown_text(row.reason)) for row in rows[:EXAMPLES]),
        )
        for title, rows in held.items()
    ]
    return sorted(made, key=lambda finding: -finding.count)


def problems(check: Check, paths: Paths) -> list[Finding]:
    """Return the reasons of unusable files, the most frequent first."""
    held: dict[str, list[tuple[str, str]]] = {}
    counts: Counter[str] = Counter()
    for problem in check.problems:
        counts[problem.reason] += 1
        examples = held.setdefault(problem.reason, [])
        if len(examples) < EXAMPLES:
            examples.append((paths.shown(problem.path), paths.scrubbed(problem.detail)))
    return [
        Finding(reason.replace("_", " "), count, tuple(held[reason]))
        for reason, count in counts.most_common()
    ]


def by_reason(reasons: Mapping[int, str]) -> list[Finding]:
    """Return reasons by their kind, the word before the colon, with stacks for example."""
    held: dict[str, list[tuple[str, str]]] = {}
    for number, reason in reasons.items():
        kind, _, sentence = reason.partition(": ")
        held.setdefault(kind, []).append((str(number), sentence))
    return [
        Finding(kind, len(each), tuple(each[:EXAMPLES]))
        for kind, each in sorted(held.items(), key=lambda pair: -len(pair[1]))
    ]


def annotations(index: Index) -> list[str]:
    """Return the number of objects that describe images, per kind and status."""
    counts = Counter((each.kind, each.status) for each in index.annotations)
    return [
        f"{count:,} {kind} {status.replace('_', ' ')}"
        for (kind, status), count in counts.most_common()
    ]


def parts(split: Mapping[str, Index]) -> Table:
    """Return a row per part: its counts."""
    counts = {name: index.counts for name, index in split.items()}
    nouns = list(next(iter(counts.values())))
    rows = tuple((name, *(f"{each[noun]:,}" for noun in nouns)) for name, each in counts.items())
    return Table(("part", *nouns), rows)


def leaks(audit: Audit | None) -> Table:
    """Return a row per key and pair of parts that share values of it."""
    if audit is None:
        return Table(("",), ())
    return Table(("shared", "parts", "values", "for example"), tuple(map(tuple, audit._rows())))


def licences(index: Index) -> Table | None:
    """Return the stacks per licence, where a joined column states it; None otherwise."""
    names = [name for name in index.joined.names if "licen" in name.lower()]
    if not names:
        return None
    values = _values(index, names[0])
    counts = Counter("(none)" if value in (None, "") else str(value) for value in values)
    rows = tuple((printable(name), f"{count:,}") for name, count in counts.most_common())
    return Table(("licence", "stacks"), rows)


def _values(index: Index, name: str) -> list[Any]:
    """Return a joined column at the first slice of each stack, or of all frames."""
    of_frames = index.joined.level(name) == "frame"
    rows = index.rows() if of_frames else index.stacks.first_rows()
    values: list[Any] = index.joined.column(name, rows).to_pylist()
    return values


def targets(parts: Mapping[str, Index]) -> list[tuple[str, Table]]:
    """Return a table per joined column: its values, and how many of them each part has."""
    first = next(iter(parts.values()))
    made = []
    for name in first.joined.names:
        if "licen" in name.lower() or first.joined.kind(name) not in _KINDS:
            continue
        columns = {part: _values(index, name) for part, index in parts.items()}
        level = "frames" if first.joined.level(name) == "frame" else "stacks"
        made.append((f"{printable(name)} ({level})", _table_of(columns, first.joined.kind(name))))
    return made


_KINDS: Final = ("integer", "real", "flag", "text")
_MOST_VALUES: Final = 20


def _table_of(columns: Mapping[str, Sequence[Any]], kind: str) -> Table:
    columns = {
        part: [None if value == "" else value for value in values]
        for part, values in columns.items()
    }
    distinct = {value for values in columns.values() for value in values if value is not None}
    absent = {part: sum(value is None for value in values) for part, values in columns.items()}
    rows: list[tuple[str, ...]] = []
    if kind == "real" or (kind == "integer" and len(distinct) > _MOST_VALUES):
        for words, function in _STATISTICS.items():
            cells = []
            for values in columns.values():
                known = [float(value) for value in values if value is not None]
                cells.append(f"{function(known):.4g}" if known else "")
            rows.append((words, *cells))
    elif len(distinct) > _MOST_VALUES:
        cells = [f"{len(set(values) - {None}):,}" for values in columns.values()]
        rows.append(("different values", *cells))
    else:
        for value in sorted(distinct, key=lambda value: (str(type(value)), value)):
            counts = [sum(each == value for each in values) for values in columns.values()]
            rows.append((printable(str(value)), *_with_shares(counts, columns)))
    if any(absent.values()):
        rows.append(("unknown", *_with_shares(list(absent.values()), columns)))
    return Table(("value", *columns), tuple(rows))


def _with_shares(counts: Sequence[int], columns: Mapping[str, Sequence[Any]]) -> list[str]:
    totals = [max(len(values), 1) for values in columns.values()]
    return [f"{n:,} ({n / total:.0%})" for n, total in zip(counts, totals, strict=True)]


_STATISTICS: Final[Mapping[str, Callable[[Sequence[float]], float]]] = {
    "smallest": min,
    "median": lambda values: float(np.median(values)),
    "largest": max,
}
