"""Text for people: what an index passes to the overview and the check, tables, printable words.

Text from files may hold escape sequences that command a terminal, or HTML. `printing.printable`
removes the former, `escaped` both.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any, Final, TypeVar

import numpy as np
import numpy.typing as npt

from dicomdl.geometry.verdict import VERDICTS
from dicomdl.index._identity import rows_of_stacks
from dicomdl.index.table import Table
from dicomdl.printing import printable

T = TypeVar("T")
# Lines of the table of a check; the rest is counted.
SHOWN_LINES: Final = 40


@dataclass(frozen=True, slots=True)
class Problem:
    """One file that could not be used.

    Attributes
    ----------
    path
        The path of the file.
    reason
        The reason in one word.
    detail
        The reason in a sentence, with numbers.
    """

    path: str
    reason: str
    detail: str


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """An index as the overview and the check read it: its tables, and the selected rows."""

    path: str
    generation: str
    # Whether this is the complete index, not a selection.
    is_whole: bool
    frames: Table
    stacks: Table
    # (stacks + 1,) the first frame row of each stack, and the end; later rows are equal copies.
    starts: npt.NDArray[np.int64]
    # Numbers of the stacks whose frames are all selected.
    chosen: npt.NDArray[np.int64]
    # (frames,) the selected frames.
    mask: npt.NDArray[np.bool_]
    ledger: Mapping[str, int]
    problems: Sequence[Problem]
    # Number of problems per reason.
    reasons: Mapping[str, int]
    # Number of entries that the walk left out, per kind.
    passed_over: Mapping[str, int]
    # Number of files per flag, of those that hold selected frames.
    flags: Mapping[str, int]
    # Number of annotations that describe the images, per kind.
    annotations: Mapping[str, int]
    # Names of the columns that were joined.
    joined: Sequence[str]
    # Number of a stack -> the folder of its first file.
    folder_of: Callable[[int], str]
    # (files,) True for the files that hold a selected frame.
    held_files: npt.NDArray[np.bool_]

    def heads(self, name: str) -> list[Any]:
        """Return a fact of the first frame of each chosen stack."""
        return _at(self.frames, name, self.starts[self.chosen])

    def patients(self) -> list[int]:
        """Return the number of the patient of each chosen stack, from 1 in the order of stacks."""
        rows = rows_of_stacks(self.frames, "patient_id", self.starts)
        codes = self.frames.codes("patient_id")[0][rows]
        _, first, inverse = np.unique(codes, return_index=True, return_inverse=True)
        order = np.argsort(np.argsort(first))
        numbers: list[int] = (order[inverse.reshape(-1)] + 1)[self.chosen].tolist()
        return numbers

    def conclusions(
        self, name: str, convert: Callable[[Any], Any] = lambda value: value
    ) -> list[Any]:
        """Return a column of the chosen stacks; each distinct value is converted once."""
        return _at(self.stacks, name, self.chosen, convert)


def _at(
    table: Table,
    name: str,
    rows: npt.NDArray[np.int64],
    convert: Callable[[Any], Any] = lambda value: value,
) -> list[Any]:
    """Return the values of some rows; each distinct value is converted once."""
    codes, values = table.codes(name)
    wanted = codes[rows]
    converted = {code: convert(values[code]) for code in np.unique(wanted).tolist()}
    return [converted[code] for code in wanted.tolist()]


class Lines(list[T]):
    """A list that prints one item per line."""

    def __repr__(self) -> str:
        shown = "\n".join(map(repr, self[:SHOWN_LINES]))
        more = f"\n... and {len(self) - SHOWN_LINES} more" if len(self) > SHOWN_LINES else ""
        return f"[{len(self)}]\n{shown}{more}" if self else "[]"


def escaped(text: str) -> str:
    """Make a text printable and escape it for HTML."""
    return escape(printable(text))


def text_columns(
    titles: Sequence[str],
    rows: Sequence[Sequence[str]],
    right: Iterable[int],
    widths: Sequence[int] = (),
) -> list[str]:
    """Format lines of aligned columns, the titles first; `widths` are minimum widths."""
    cells = [[printable(cell) for cell in row] for row in (titles, *rows)]
    least = [*widths, *[0] * (len(titles) - len(widths))]
    needed = [
        max(least[column], *(len(row[column]) for row in cells)) for column in range(len(titles))
    ]
    aligned = [
        [
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, needed, strict=True))
        ]
        for row in cells
    ]
    return ["  " + " ".join(row).rstrip() for row in aligned]


def html_table(
    titles: Sequence[str], rows: Sequence[Sequence[str]], right: Iterable[int] = ()
) -> str:
    """Format an HTML table; the columns in `right` are aligned to the right."""
    head = "".join(f"<th style='text-align:left'>{escaped(title)}</th>" for title in titles)
    aligned = ["right" if column in right else "left" for column in range(len(titles))]
    # UIDs and paths may break anywhere; otherwise they push the last column, which is prose, out
    # of sight.
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


def format_verdicts(verdicts: Mapping[str, int]) -> str:
    """Format the number of stacks per verdict, in the order of `VERDICTS`."""
    return ", ".join(f"{verdicts[v]:,} {v}" for v in VERDICTS if verdicts.get(v))


def format_counts(numbers: Mapping[str, int]) -> str:
    """Format the counts that are not 0, with their names."""
    return ", ".join(f"{n:,} {name}" for name, n in numbers.items() if n)


def format_ledger(ledger: Mapping[str, int]) -> str:
    """Format the ledger as a sum: files = images + others + problems."""
    return (
        f"{counted(ledger['files'], 'files')} = {ledger['image']:,} with images"
        f" + {ledger['no_image']:,} DICOM without an image"
        f" + {ledger['not_dicom']:,} not DICOM + {ledger['problem']:,} problems"
    )


def counted(count: int, nouns: str) -> str:
    """Format a number with its noun, given in the plural: "1 file", "2 files"."""
    irregular = {"series": "series", "studies": "study", "patches": "patch"}
    singular = irregular.get(nouns, nouns.removesuffix("s"))
    return f"{count:,} {singular if count == 1 else nouns}"


def format_nouns(numbers: Mapping[str, int]) -> str:
    """Format the counts that are not 0 with their nouns, given in the plural."""
    return ", ".join(counted(n, nouns) for nouns, n in numbers.items() if n)


def format_lengths(lengths: Iterable[float]) -> str:
    """Format lengths in mm with four digits: "2.5 x 0.7 x ?"; "?" where unknown."""
    return " x ".join(f"{each:.4g}" if math.isfinite(each) else "?" for each in lengths)


def plain_value(value: Any) -> Any:
    """Convert a value to JSON types; NaN and the infinities become None."""
    if isinstance(value, Mapping):
        return {str(key): plain_value(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain_value(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
