"""index.text"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from dicomdl.geometry.verdict import VERDICTS
from dicomdl.index.table import Table

SHOWN_LINES: Final = 40  # lines of the check's table that are shown before the rest is only counted


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
    # (stacks + 1,) the first frame row of each stack, and the end; equal copies come behind
    # it
    starts: npt.NDArray[np.int64]
    chosen: npt.NDArray[np.int64]  # the stacks whose frames are all meant
    mask: npt.NDArray[np.bool_]  # (frames,) the frames that are meant
    ledger: Mapping[str, int]
    problems: Sequence[Problem]
    reasons: Mapping[str, int]  # how many problems have each reason
    passed_over: Mapping[str, int]  # what the walk left out, by kind

    def heads(self, name: str) -> list[Any]:
        """A fact of the first frame of each chosen stack."""
        return _at(self.frames, name, self.starts[self.chosen])

    def conclusions(
        self, name: str, convert: Callable[[Any], Any] = lambda value: value
    ) -> list[Any]:
        """A column of the chosen stacks, each distinct value converted once."""
        return _at(self.stacks, name, self.chosen, convert)


def _at(
    table: Table,
    name: str,
    rows: npt.NDArray[np.int64],
    convert: Callable[[Any], Any] = lambda value: value,
) -> list[Any]:
    codes, values = table.codes(name)
    wanted = codes[rows]
    known = {code: convert(values[code]) for code in np.unique(wanted).tolist()}
    return [known[code] for code in wanted.tolist()]


def printable(text: str) -> str:
    """Text from files without what could command a terminal.

    Escape sequences, line breaks, bytes that are no UTF-8.
    """
    if text.isascii() and text.isprintable():
        return text
    # a path's bytes that are no text become \udc.. in words
    readable = text.encode("utf-8", "backslashreplace").decode()
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in readable)


def escaped(text: str) -> str:
    return escape(printable(text))


def text_columns(
    titles: Sequence[str],
    rows: Sequence[Sequence[str]],
    right: Iterable[int],
    widths: Sequence[int] = (),
) -> list[str]:
    """Lines of aligned columns, the titles first; `widths` are the least ones."""
    cells = [[printable(cell) for cell in row] for row in (titles, *rows)]
    least = [*widths, *[0] * (len(titles) - len(widths))]
    needed = [
        max(least[place], *(len(row[place]) for row in cells)) for place in range(len(titles))
    ]
    aligned = [
        [
            cell.rjust(width) if place in right else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(row, needed, strict=True))
        ]
        for row in cells
    ]
    return ["  " + " ".join(row).rstrip() for row in aligned]


def html_table(
    titles: Sequence[str], rows: Sequence[Sequence[str]], right: Iterable[int] = ()
) -> str:
    head = "".join(f"<th style='text-align:left'>{escaped(title)}</th>" for title in titles)
    aligned = ["right" if place in right else "left" for place in range(len(titles))]
    # UIDs and paths break anywhere, or they push the last column, which is prose, out of sight.
    wraps = [
        "overflow-wrap:anywhere" if title in ("series", "path") else "white-space:nowrap"
        for title in titles
    ]
    wraps[-1] = "min-width:16em"
    styles = [f"text-align:{side};{wrap}" for side, wrap in zip(aligned, wraps, strict=True)]
    body = "".join(
        "<tr>"
        + "".join(
            f"<td style='{style}'>{escaped(cell)}</td>"
            for style, cell in zip(styles, row, strict=True)
        )
        + "</tr>"
        for row in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def verdicts_told(verdicts: Mapping[str, int]) -> str:
    return ", ".join(f"{verdicts[v]:,} {v}" for v in VERDICTS if verdicts.get(v))


def counted(numbers: Mapping[str, int]) -> str:
    return ", ".join(f"{n:,} {name}" for name, n in numbers.items() if n)


def ledger_told(ledger: Mapping[str, int]) -> str:
    return (
        f"{ledger['files']:,} files = {ledger['image']:,} with images + {ledger['no_image']:,} DICOM without an image"
        f" + {ledger['not_dicom']:,} not DICOM + {ledger['problem']:,} problems"
    )


def plural(name: str, count: int) -> str:
    if count != 1 or name == "series":
        return name
    return {"patients": "patient", "studies": "study", "stacks": "stack", "frames": "frame"}[name]


def plain_value(value: Any) -> Any:
    """The value in what JSON knows: None for NaN and the infinities."""
    if isinstance(value, Mapping):
        return {str(key): plain_value(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain_value(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
