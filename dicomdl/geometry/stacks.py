"""Division of Series into stacks, the frames that form one grid, with a verdict on each.

A Series is (PatientID, StudyInstanceUID, SeriesInstanceUID). It is divided in four steps. Exact
values that cannot share a grid come first: SOP class, size, kind of samples, localizers.
Orientation and in-plane grid are next, within tolerance, then Studies and frames of reference that
hold grids of their own (`_joining`). Where positions repeat, the last step is the attribute that
distinguishes the frames at one position (`_dimensions`): each of its values is a stack, and all of
them together are a group. Frames without position or orientation make stacks, too: one per
multi-frame instance (a clip is a unit, in one file or in several), and one of all single-frame
files. These follow the others of their Series in the order of Instance Number.

The result depends on the headers and never on the order or names of files: groups are numbered by
the values that made them, and ties within a stack are broken by SOP Instance UID and frame number.
Pixels are compared only where no header attribute distinguishes two frames: equal ones are copies,
different ones stay `duplicates`.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from dicomdl.arrays import Ints
from dicomdl.geometry._copies import Copies, Digest
from dicomdl.geometry._facts import Facts
from dicomdl.geometry._frame_columns import FrameColumns, inverse
from dicomdl.geometry._grouping import exact_groups
from dicomdl.geometry._judge import Judge
from dicomdl.geometry._reversed_rows import reversed_rows
from dicomdl.geometry._scattered import scattered
from dicomdl.geometry._splitting import Part, Splitter
from dicomdl.geometry._stack_spacing import stack_spacing
from dicomdl.geometry._values_apart import values_apart
from dicomdl.geometry.concatenations import lacking_parts
from dicomdl.geometry.grid import Tolerances
from dicomdl.geometry.verdict import Assessment
from dicomdl.headers.uids import content_of


@dataclass(frozen=True, slots=True)
class StackRow:
    """One row of the table of stacks.

    `frame_start` refers to `Stacking.order`. `mixed` is whether slices of several contrasts are in
    the stack. `detail` and `dimension` are JSON. `affine` has 16 numbers, row by row. `spacing` is
    (slice, row, column) in mm, NaN where unknown. `idc` holds the checks of `verdict.idc_checks`.
    """

    frame_start: int
    slices: int
    series: int
    content: str
    verdict: str
    mixed: bool
    detail: str
    affine: tuple[float, ...]
    spacing: tuple[float, ...]
    slice_spacing: float
    dimension: str
    group: int
    group_index: int
    idc: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Stacking:
    """Result of `build_stacks`: the order of all frames, and the stacks in that order.

    `order[k]` is the row of the k-th frame. Copies come after all stacks; `duplicate_of[k]` is the
    index in that order of the original of frame k, else -1. `digests` are those of the rows whose
    pixels were compared.
    """

    order: Ints
    stacks: Sequence[StackRow]
    duplicate_of: Ints
    digests: Mapping[int, str]


def build_stacks(
    facts: Facts, tolerances: Tolerances, folders: Ints | None = None, digest: Digest | None = None
) -> Stacking:
    """Sort all frames into stacks.

    Parameters
    ----------
    facts
        Columns of all frames, any order.
    tolerances
        Limits of differences that still count as equal.
    folders
        (n,) number of the folder of each frame's file. Frames without a Series Instance UID are one
        Series only within a folder; their stacks report it in `detail`.
    digest
        Function row -> text that is equal for frames with the same modality values, and "" for a
        frame that cannot be read. Without it, frames that no attribute distinguishes are
        `duplicates` with "unchecked" pixels.

    Returns
    -------
    Stacking
        Stacks, and the order of the frames that they refer to.
    """
    if len(facts) == 0:
        return Stacking(np.empty(0, dtype=np.int64), [], np.empty(0, dtype=np.int64), {})
    columns = FrameColumns(facts, tolerances, folders)
    judge, copies = Judge(columns), Copies(columns, digest)
    splitter = Splitter(columns, judge, copies)
    rank_of_row = inverse(columns.ordered(np.arange(len(facts))))
    groups = _in_order(
        [
            parts
            for group in exact_groups(facts, columns.identities.series)
            for parts in splitter.groups(group[np.argsort(rank_of_row[group])])
        ],
        columns,
        rank_of_row,
    )
    rows_of_stacks = [part.rows for parts in groups for part in parts]
    series = columns.identities.numbers_of_series(rows_of_stacks)
    alone = scattered(columns, rows_of_stacks)
    lacking = lacking_parts(facts, columns.identities.series, rows_of_stacks)
    divided = values_apart(columns, rows_of_stacks)
    order: list[Ints] = []
    stacks: list[StackRow] = []
    start = 0
    for group_number, parts in enumerate(groups):
        for number, part in enumerate(parts):
            first = int(part.rows[0])
            remarks = part.remarks | alone.get(first, {}) | lacking.get(first, {})
            remarks |= divided.get(first, {})
            assessment, rows = judge.assess(part.rows, remarks)
            location = _Location(start, series[len(stacks)], group_number, number)
            stacks.append(_stack_row(part, assessment, location, columns, judge))
            order.append(rows)
            start += len(rows)
    return _stacking(order, stacks, copies, rank_of_row)


def _in_order(
    groups: list[list[Part]], columns: FrameColumns, rank_of_row: Ints
) -> list[list[Part]]:
    """Sort groups by Series; those without geometry come last, by their first frame."""
    series = columns.identities.series

    def place(parts: list[Part]) -> tuple[int, int]:
        first = int(parts[0].rows[0])
        return int(series[first]), -1 if columns.placed[first] else int(rank_of_row[first])

    return sorted(groups, key=place)


class _Location(NamedTuple):
    """Start, Series and group of a stack among all stacks."""

    start: int
    series: int
    group: int
    number: int


def _stack_row(
    part: Part, assessment: Assessment, location: _Location, columns: FrameColumns, judge: Judge
) -> StackRow:
    """Return the row of one stack in the table of stacks."""
    first = int(part.rows[0])
    in_plane, remarks = stack_spacing(columns, part.rows)
    remarks |= reversed_rows(columns, part.rows, part.dimension, location.number)
    # If all slices share one position, the step of the affine is only the slice thickness: no
    # spacing was measured.
    step = math.nan
    if "spacing" in assessment.detail:
        step = float(np.sqrt((assessment.affine[:3, 0] ** 2).sum()))
    return StackRow(
        frame_start=location.start,
        slices=len(part.rows),
        series=location.series,
        content=content_of(columns.facts.text("sop_class_uid", first)),
        verdict=assessment.verdict,
        mixed="mixed" in assessment.detail,
        detail=json.dumps(assessment.detail | remarks),
        affine=tuple(assessment.affine.ravel().tolist()),
        spacing=(step, *in_plane),
        slice_spacing=step,
        dimension=json.dumps(part.dimension),
        group=location.group,
        group_index=location.number,
        idc=judge.idc(part.rows),
    )


def _stacking(
    order: Sequence[Ints], stacks: Sequence[StackRow], copies: Copies, rank_of_row: Ints
) -> Stacking:
    """Put all frames in the order of their stacks, copies last."""
    copied = sorted(copies.original, key=lambda row: int(rank_of_row[row]))
    complete = np.concatenate([*order, np.array(copied, dtype=np.int64)])
    index = inverse(complete)
    duplicate_of = np.full(len(complete), -1, dtype=np.int64)
    duplicate_of[len(complete) - len(copied) :] = [index[copies.first_of(row)] for row in copied]
    return Stacking(complete, stacks, duplicate_of, copies.digests)
