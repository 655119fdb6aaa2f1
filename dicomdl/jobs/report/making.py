"""A report of an index: one page with its facts, its findings and a picture of every stack."""

import os
from collections.abc import Mapping, Sequence
from typing import Any, Final, get_args

import numpy as np

from dicomdl.errors import UsageError
from dicomdl.index.audits import Audit
from dicomdl.index.check import Check, StackCheck
from dicomdl.index.given import Indexed, as_index
from dicomdl.index.index import Index
from dicomdl.index.saved_splits import SavedSplit, load_split
from dicomdl.index.text import counted, format_ledger
from dicomdl.jobs.report import charts, page, tables
from dicomdl.jobs.report.columns import stacks_of
from dicomdl.jobs.report.comparison import Comparison, compare
from dicomdl.jobs.report.drawing import Wanted
from dicomdl.jobs.report.gallery import Gallery, Pictures
from dicomdl.jobs.report.pictures import drawn
from dicomdl.jobs.report.result import Report, needing_words
from dicomdl.jobs.report.tables import Paths, PathStyle
from dicomdl.printing import printable
from dicomdl.storage import publishing as storage
from dicomdl.version import __version__

# Slices of a slider, and their pixels in multiples of a plane of a card.
_STRIP: Final = 24
_STRIP_SCALE: Final = 1.5
_LARGEST_SIDE: Final = 512
_NAMES: Final[Mapping[int, tuple[str, ...]]] = {
    2: ("training", "test"),
    3: ("training", "validation", "test"),
}


def report(
    source: Indexed,
    out: str | os.PathLike[str] | None = None,
    *,
    split: Sequence[Index] | Mapping[str, Index] | SavedSplit | str | None = None,
    compare_with: Indexed | None = None,
    pictures: int = 64,
    sliders: int | Sequence[int] = 12,
    labels: bool = True,
    demographics: bool = False,
    paths: PathStyle = "relative",
    overwrite: bool = False,
    workers: int | None = None,
    progress: bool = True,
) -> Report:
    """Write one page about an index: its facts and findings, and a card with pictures per stack.

    The page is one file without a network: sizes, transfer syntaxes and what decoding them costs,
    distributions, what needs a person, files that could not be used, labels with their volumes, a
    split with its leaks and targets, and three planes of every stack with its verdict. Stacks are
    filtered, searched and sorted in the browser. Pictures are cached, so an interrupted report goes
    on where it was.

    It shows no PatientID, name or date. Descriptions of series are shown, and folders below that of
    all files; ``paths="hash"`` hides the folders. Pictures show faces, and burned-in text.

    Parameters
    ----------
    source
        An Index or a selection, its path, stacks, Series.
    out
        The file to write, for the owner only. None writes none: see `Report.html`.
    split
        The parts whose leaks and targets are shown: what ``index.split`` returns, several indexes,
        a dict of names to indexes, or what `load_split` returns, or its path.
    compare_with
        Another index: the page shows stacks that only one of the two has, stacks with another
        verdict or size, and distributions side by side.
    pictures
        Pixels of a plane, 0 for a page without pictures.
    sliders
        The number of stacks with a slider over their slices, spread evenly over the stacks; or a
        list of the numbers of stacks.
    labels
        Whether SEG and RTSTRUCT are read, for overlays and volumes.
    demographics
        Whether the distributions of age and sex are shown.
    paths
        "relative" shows folders below that of all files; "hash" shows keyed hashes of them.
    overwrite
        Whether an existing file is replaced.
    workers
        Processes that draw; one per core by default.
    progress
        Show a progress bar.

    Returns
    -------
    Report
        What was found; a notebook shows the page.

    Raises
    ------
    UsageError
        An option is none, or the file exists.
    MissingExtra
        Jinja2 is not installed (extra `report`).
    StorageError
        The file cannot be written.

    Examples
    --------
    >>> import os, tempfile
    >>> import dicomdl
    >>> from pydicom.data import get_testdata_file
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     index = dicomdl.scan(get_testdata_file("CT_small.dcm"), folder, progress=False)
    ...     made = index.report(os.path.join(folder, "report.html"), progress=False)
    >>> made.stacks, made.undrawn
    (1, {})
    """
    index = as_index(source, "report")
    page.require_jinja()
    _check(pictures, paths, workers)
    other = None if compare_with is None else as_index(compare_with, "report(compare_with=)")
    target = None if out is None else os.path.abspath(os.path.expanduser(os.fspath(out)))
    if target is not None and os.path.lexists(target) and not overwrite:
        raise UsageError(f"{target!r} exists: choose another file, or pass overwrite=True")
    check = index.check()
    part = index._part()
    parts = _parts(index, split)
    audit = index.audit(*parts.values()) if len(parts) > 1 else None
    shown = Paths(_folders(index, check), paths)
    chosen = _with_slider(check.rows, sliders) if pictures else frozenset()
    wanted = {
        row.number: Wanted(
            pictures, _STRIP if row.number in chosen else 0, int(pictures * _STRIP_SCALE), labels
        )
        for row in check.rows
    }
    gallery = Gallery([row.number for row in check.rows], pictures)
    if pictures:
        for number, picture in drawn(index, wanted, workers, progress=progress):
            gallery.put(number, picture)
    made = gallery.finished(shown.scrubbed)
    stack_bytes = tables.sizes(part)
    comparison = None if other is None else compare(index, check.rows, other, _name(other, paths))
    data = stacks_of(
        index,
        check.rows,
        stack_bytes,
        parts,
        shown,
        made,
        comparison,
        demographics=demographics,
    )
    facts = _facts(
        index,
        check,
        stack_bytes,
        parts,
        audit,
        shown,
        made,
        comparison,
        demographics=demographics,
    )
    text = page.rendered(facts, data, made.sheets)
    if target is not None:
        storage.make_folder(os.path.dirname(target))
        storage.write_whole(target, text.encode())
    needing = tuple(row.number for row in check.needing)
    compared = None if comparison is None else comparison.counts
    return Report(
        path=target,
        stacks=len(check.rows),
        drawn=len(made.drawn) - len(made.errors),
        undrawn=made.errors,
        needing=needing,
        problems=len(check.problems),
        audit=audit,
        compared=compared,
        _page=text,
    )


def _check(pictures: int, paths: str, workers: int | None) -> None:
    if not (isinstance(pictures, int) and 0 <= pictures <= _LARGEST_SIDE):
        raise UsageError(
            f"pictures={pictures!r}: expected the pixels of a plane, 16 to {_LARGEST_SIDE}, or 0"
        )
    if 0 < pictures < 16:
        raise UsageError(f"pictures={pictures}: expected at least 16 pixels, or 0 for none")
    if paths not in get_args(PathStyle):
        raise UsageError(f"paths={paths!r}: expected 'relative' or 'hash'")
    if workers is not None and workers < 1:
        raise UsageError(f"workers is {workers}, expected at least 1", workers=workers)


def _parts(index: Index, split: Any) -> dict[str, Index]:
    """Return the parts of a split by name; {} without one."""
    if split is None:
        return {}
    if isinstance(split, str | os.PathLike):
        split = load_split(split)
    if isinstance(split, SavedSplit):
        split = index.split(keep=split)
    if not isinstance(split, Mapping):
        given = list(split)
        folds = getattr(split, "k", None)
        names = _NAMES.get(len(given)) if folds is None else None
        split = dict(zip(names or _numbered(len(given), folds), given, strict=True))
    if len(split) < 2 or not all(isinstance(each, Index) for each in split.values()):
        raise UsageError(
            "split takes two or more parts of the index: index.split(...), a dict of names to "
            "indexes, or a saved split"
        )
    return {printable(str(name)): part for name, part in split.items()}


def _numbered(count: int, folds: int | None) -> list[str]:
    return [f"{'part' if folds is None else 'fold'} {number}" for number in range(count)]


def _name(index: Index, style: PathStyle) -> str:
    """Return the name of an index for people."""
    name = os.path.basename(os.path.normpath(index.path))
    return printable(name) if style == "relative" else "Index"


def _folders(index: Index, check: Check) -> set[str]:
    """Return the folders of all files that a report names."""
    folders = {row.folder for row in check.rows}
    folders |= {os.path.dirname(problem.path) for problem in check.problems}
    return folders | {os.path.dirname(each.path) for each in index.annotations}


def _with_slider(rows: Sequence[StackCheck], sliders: int | Sequence[int]) -> frozenset[int]:
    """Return the numbers of the stacks with a slider."""
    several = [row.number for row in rows if row.shape[0] > 1 and row.content == "image"]
    if not isinstance(sliders, int):
        known = {row.number for row in rows}
        if missing := [number for number in sliders if number not in known]:
            raise UsageError(f"sliders: there is no stack {missing[0]} among those of the report")
        return frozenset(sliders)
    if sliders < 0:
        raise UsageError(f"sliders={sliders}: expected a number of stacks, or a list of numbers")
    if not several or not sliders:
        return frozenset()
    at = np.linspace(0, len(several) - 1, min(sliders, len(several))).round().astype(int)
    return frozenset(several[each] for each in at.tolist())


def _facts(
    index: Index,
    check: Check,
    stack_bytes: Sequence[int],
    parts: Mapping[str, Index],
    audit: Audit | None,
    shown: Paths,
    made: Pictures,
    comparison: Comparison | None,
    *,
    demographics: bool,
) -> dict[str, Any]:
    """Return the variables of the template."""
    part = index._part()
    rows = check.rows
    counts = index.counts
    needing, problems = len(check.needing), len(check.problems)
    words = [
        (f"{needing:,} of {needing_words(needing, len(rows))}", "warn")
        if needing
        else ("no stack needs a person", "good")
    ]
    if problems:
        words.append((f"{counted(problems, 'files')} could not be used", "bad"))
    if made.errors:
        words.append((f"{counted(len(made.errors), 'stacks')} could not be drawn", "bad"))
    if audit is not None:
        leaks = "the split shares nothing" if audit.ok else f"{counted(len(audit), 'leaks')}"
        words.append((leaks, "good" if audit.ok else "bad"))
    histograms = _histograms(rows, stack_bytes, made, comparison)
    histograms += charts.demographics(part) if demographics else []
    ledger = format_ledger(check.ledger) if part.is_whole else ""
    return {
        "title": _name(index, shown.style),
        "subtitle": "All stacks of the index."
        if part.is_whole
        else "A selection of the index. Files that could not be used are those of the whole index.",
        "tiles": [
            *(counted(count, noun).split(" ", 1)[::-1] for noun, count in counts.items()),
            ("of pixel data", page.size(sum(stack_bytes))),
        ],
        "verdict_tags": words,
        "modalities": tables.modalities(rows, stack_bytes),
        "syntaxes": tables.syntaxes(part, rows, stack_bytes),
        "licences": tables.licences(index),
        "ledger": ledger,
        "findings": tables.findings(check),
        "problems": tables.problems(check, shown),
        "undrawn": tables.by_reason(made.errors),
        "unlabelled": tables.by_reason(made.label_errors),
        "remarks": [printable(remark) for remark in check.remarks],
        "histograms": [each for each in histograms if each is not None],
        "comparison": comparison,
        "labels": made.label_table(),
        "annotations": tables.annotations(index),
        "has_marks": any(name.startswith("marks-") and held for name, held in made.sheets.items()),
        "parts": tables.parts(parts) if parts else None,
        "leaks": tables.leaks(audit),
        "targets": tables.targets(parts or {"stacks": index}) if index.joined.names else [],
        "footer": f"Made by dicomdl {__version__}. It is one file and asks no server. It shows no "
        "patient's identity and no date; pictures show faces, and text that is burned in.",
    }


def _histograms(
    rows: Sequence[StackCheck],
    stack_bytes: Sequence[int],
    made: Pictures,
    comparison: Comparison | None,
) -> list[charts.Histogram | None]:
    other = None if comparison is None else (comparison.rows, comparison.stack_bytes)
    result = charts.of_stacks(rows, stack_bytes, other)
    images = {row.number for row in rows if row.content == "image"}
    for units, pictures in made.by_units(images).items():
        for title, at in (("Median of a stack", 1), ("99th percentile of a stack", 2)):
            values = [picture.percentiles[at] for picture in pictures]
            result.append(charts.histogram(title, units or "no units", values))
    return result
