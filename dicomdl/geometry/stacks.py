"""Splits Series into Stacks, the frames that form one grid, and gives each a verdict.

A Series is (PatientID, StudyInstanceUID, SeriesInstanceUID). It is split in three steps: by what
cannot be one grid (SOP class, size, kind of samples, frame of reference, localizers), by
orientation and in-plane grid within tolerance, and then, where positions repeat, by what tells the
frames at one position apart (`dimensions`): each value of that is a Stack, and all of them together
are a group. Frames without position or orientation make stacks, too: each multi-frame file its own
(a clip is a unit), single-frame files together.

Conclusions depend on what the headers say and never on the order or names of files: groups are
numbered by the values that made them, and ties within a stack are broken by SOP Instance UID and
frame number. Pixels are looked at only where nothing in the headers tells two frames apart: equal
ones are copies, different ones stay `duplicates`.
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
from dicomdl.geometry._frame_columns import FrameColumns
from dicomdl.geometry._grouping import exact_groups
from dicomdl.geometry._judge import Judge
from dicomdl.geometry._splitting import Part, Splitter
from dicomdl.geometry.grid import Tolerances
from dicomdl.geometry.verdict import Assessment
from dicomdl.headers.uids import content_of


@dataclass(frozen=True, slots=True)
class StackRow:
    """One stack: where its frames are once `Stacking.order` is applied, and what was concluded."""

    frame_start: int
    slices: int
    series: int
    content: str
    verdict: str
    detail: str  # JSON
    affine: tuple[float, ...]  # 16 numbers, row by row
    spacing: tuple[float, ...]  # slice, row, column; mm; NaN where unknown
    slice_spacing: float
    dimension: str  # JSON
    group: int
    group_index: int
    idc: dict[str, Any]  # `geometry.idc_checks`


@dataclass(frozen=True, slots=True)
class Stacking:
    """`order[k]` is the row of the frame that comes k-th; stack rows refer to that order.

    Copies come behind all stacks; `duplicate_of[k]` is the place in that order of what frame k is a
    copy of, else -1. `digests` are those of the rows whose pixels were compared.
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
        What still counts as equal.
    folders
        (n,) the number of the folder that each frame's file is in. Frames without a Series Instance
        UID are one Series only within a folder; their stacks say so in `detail`.
    digest
        row -> the same text for frames with the same modality values, "" for one that cannot be
        read. Without it, frames that nothing tells apart are `duplicates` with "unchecked" pixels.
    """
    if len(facts) == 0:
        return Stacking(np.empty(0, dtype=np.int64), [], np.empty(0, dtype=np.int64), {})
    columns = FrameColumns(facts, tolerances)
    judge, copies = Judge(columns), Copies(columns, digest)
    splitter = Splitter(columns, judge, copies)
    rank_of_row = _inverse(columns.ordered(np.arange(len(facts))))
    series, groups = exact_groups(facts, _folders_of_blank(columns, folders))
    order: list[Ints] = []
    stacks: list[StackRow] = []
    start = group_number = 0
    for group in groups:
        rows = copies.without_same_instances(group[np.argsort(rank_of_row[group])])
        for parts in splitter.groups(rows):
            for number, part in enumerate(parts):
                found, rows = judge.assess(part.rows, part.remarks)
                place = _Place(start, int(series[rows[0]]), group_number, number)
                stacks.append(_stack_row(part, found, place, columns, judge))
                order.append(rows)
                start += len(rows)
            group_number += 1
    return _stacking(order, stacks, copies, rank_of_row)


class _Place(NamedTuple):
    """Where a stack is among all of them."""

    start: int
    series: int
    group: int
    number: int


def _stack_row(
    part: Part, found: Assessment, place: _Place, columns: FrameColumns, judge: Judge
) -> StackRow:
    first = int(part.rows[0])
    in_plane = columns.pixel_spacings[first]
    if not np.isfinite(in_plane).all():
        in_plane = columns.imager_spacings[first]
    # Where no two slices lie apart, the affine's step is only the thickness of one: no
    # spacing was measured.
    step = math.nan
    if "spacing" in found.detail:
        step = float(np.sqrt((found.affine[:3, 0] ** 2).sum()))
    return StackRow(
        frame_start=place.start,
        slices=len(part.rows),
        series=place.series,
        content=content_of(columns.facts.text("sop_class_uid", first)),
        verdict=found.verdict,
        detail=json.dumps(found.detail),
        affine=tuple(found.affine.reshape(-1).tolist()),
        spacing=(step, float(in_plane[0]), float(in_plane[1])),
        slice_spacing=step,
        dimension=json.dumps(part.dimension),
        group=place.group,
        group_index=place.number,
        idc=judge.idc(part.rows),
    )


def _folders_of_blank(columns: FrameColumns, folders: Ints | None) -> Ints:
    """(n,) the folder of each frame without a Series Instance UID, else -1.

    Folders are numbered by the lowest instance in them, so that their names have no say in the
    order of stacks.
    """
    blank = columns.blanks["series_instance_uid"]
    if folders is None:
        return np.full(len(blank), -1)
    lowest = np.full(int(folders.max()) + 1, np.iinfo(np.int64).max)
    np.minimum.at(lowest, folders, columns.facts.ranks("sop_instance_uid"))
    number = _inverse(np.argsort(lowest, kind="stable"))
    return np.where(blank, number[folders], -1)


def _stacking(
    order: Sequence[Ints], stacks: Sequence[StackRow], copies: Copies, rank_of_row: Ints
) -> Stacking:
    """All frames in the order of their stacks, the copies behind."""
    found = sorted(copies.original, key=lambda row: int(rank_of_row[row]))
    whole = np.concatenate([*order, np.array(found, dtype=np.int64)])
    place = _inverse(whole)
    duplicate_of = np.full(len(whole), -1, dtype=np.int64)
    duplicate_of[len(whole) - len(found) :] = [place[copies.original[row]] for row in found]
    return Stacking(whole, stacks, duplicate_of, copies.digests)


def _inverse(order: Ints) -> Ints:
    """Where each row comes in an order of all rows."""
    place = np.empty(len(order), dtype=np.int64)
    place[order] = np.arange(len(order))
    return place
