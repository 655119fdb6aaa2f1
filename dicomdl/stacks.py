"""Splits Series into Stacks, the frames that form one grid, and gives each a verdict.

A Series is (PatientID, StudyInstanceUID, SeriesInstanceUID). It is split by what makes it more than one grid: SOP
class, size, kind of samples, frame of reference, in-plane grid, orientation. Frames without position or orientation
make stacks, too: each multi-frame file its own (a clip is a unit), single-frame files together.

Conclusions depend on what the headers say and never on the order or names of files: groups are numbered by the
values that made them, and ties within a stack are broken by SOP Instance UID and frame number.
"""

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt

from dicomdl.geometry import Assessment, Floats, Tolerances, assess, plane_axes
from dicomdl.header import content_of

Ints = npt.NDArray[np.int64]

# The Series, then what splits it exactly; orientation and in-plane grid are compared with tolerances afterwards.
_SERIES_KEYS: Final = ("patient_id", "study_instance_uid", "series_instance_uid")
_EXACT_KEYS: Final = ("sop_class_uid", "frame_of_reference_uid", "rows", "columns", "samples_per_pixel", "float_pixels", "units")
# What orders frames that geometry does not; a copy of an instance in another file comes after it by its coding.
_TIE_BREAKERS: Final = ("instance_number", "sop_instance_uid", "frame_number", "transfer_syntax_uid", "byte_length", "byte_offset")
# Colour by palette and inverted grey scales are other kinds of samples than plain ones.
_PHOTOMETRIC_KINDS: Final = {"MONOCHROME1": 1, "PALETTE COLOR": 2}


class Facts(Protocol):
    """The frames' columns as stacks needs them; row i is the same frame in all of them."""

    def __len__(self) -> int: ...

    def ranks(self, name: str) -> Ints:
        """(n,) integers that order and equal each other as the column's values do."""

    def numbers(self, name: str) -> Floats:
        """(n,) floats, NaN where absent."""

    def vectors(self, name: str, size: int) -> Floats:
        """(n, size) floats, NaN where absent."""

    def text(self, name: str, row: int) -> str:
        """One value of a text column."""


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
    uniform_slice_spacing: bool


@dataclass(frozen=True, slots=True)
class Stacking:
    """`order[k]` is the row of the frame that comes k-th; stack rows refer to that order."""

    order: Ints
    stacks: Sequence[StackRow]


def build_stacks(facts: Facts, tolerances: Tolerances, folders: Ints | None = None) -> Stacking:
    """Sort all frames into stacks.

    Parameters
    ----------
    facts
        Columns of all frames, any order.
    tolerances
        What still counts as equal.
    folders
        (n,) the number of the folder that each frame's file is in. Frames without a Series Instance UID are one Series
        only within a folder; their stacks say so in `detail`.
    """
    if len(facts) == 0:
        return Stacking(np.empty(0, dtype=np.int64), [])
    positions = frame_positions(facts, tolerances)
    orientations, pixel_spacings = facts.vectors("image_orientation_patient", 6), facts.vectors("pixel_spacing", 2)
    imager_spacings, thickness = facts.vectors("imager_pixel_spacing", 2), facts.numbers("slice_thickness")
    tie_break = np.lexsort([facts.ranks(name) for name in reversed(_TIE_BREAKERS)])
    rank_of_row = np.empty(len(facts), dtype=np.int64)
    rank_of_row[tie_break] = np.arange(len(facts))
    blank = _is_blank(facts, "series_instance_uid")
    series, groups = _exact_groups(facts, np.where(blank, -1 if folders is None else folders, -1))
    unplaced = ~np.isfinite(np.concatenate([positions, orientations, pixel_spacings], axis=1)).all(axis=1)
    clips = _clips(facts)
    order: list[Ints] = []
    stacks: list[StackRow] = []
    start = 0
    for group in groups:
        group = group[np.argsort(rank_of_row[group])]
        for rows in _grids(group, orientations, pixel_spacings, unplaced, clips, tolerances):
            first = rows[0]
            found = assess(positions[rows], orientations[first], pixel_spacings[first], tolerances, float(thickness[first]))
            rows = rows[found.order]
            order.append(rows)
            if blank[first]:
                found.detail["series_instance_uid"] = "blank"
            in_plane = pixel_spacings[first] if np.isfinite(pixel_spacings[first]).all() else imager_spacings[first]
            content = content_of(facts.text("sop_class_uid", int(first)))
            stacks.append(_stack_row(start, len(rows), int(series[first]), content, found, in_plane, len(stacks)))
            start += len(rows)
    return Stacking(np.concatenate(order), stacks)


def _clips(facts: Facts) -> Ints:
    """(n,) numbers that tell multi-frame files apart, by instance first so that the order of files has little say; else -1."""
    by_file = _combined([facts.ranks("sop_instance_uid"), facts.numbers("file").astype(np.int64)])
    return np.where(facts.numbers("number_of_frames") > 1, by_file, -1)


def _is_blank(facts: Facts, name: str) -> npt.NDArray[np.bool_]:
    ranks = facts.ranks(name)  # the empty text comes first
    lowest = int(np.argmin(ranks))
    return np.asarray((ranks == ranks[lowest]) & (facts.text(name, lowest) == ""))


def _exact_groups(facts: Facts, folders: Ints) -> tuple[Ints, list[Ints]]:
    """(the number of each frame's Series, the rows of each group of frames that agree in everything exact)."""
    series = _combined([*(facts.ranks(name) for name in _SERIES_KEYS), folders])
    numeric = {"rows", "columns", "samples_per_pixel", "float_pixels"}
    samples, depths = facts.numbers("samples_per_pixel"), facts.numbers("bits_allocated")
    # Grey values of any depth become one array of modality values; colour of 8 and of 16 bits is not one kind of sample.
    colour_depths = np.where(samples > 1, depths, 0).astype(np.int64)
    keys = [series, *(facts.numbers(n).astype(np.int64) if n in numeric else facts.ranks(n) for n in _EXACT_KEYS)]
    # A slice without rescale among others with one would be stored values among Hounsfield units.
    has_rescale = np.isfinite(facts.numbers("rescale_slope")).astype(np.int64)
    keys += [_photometric_kinds(facts), colour_depths, has_rescale]
    combined = _combined(keys)
    order = np.argsort(combined, kind="stable")
    bounds = np.flatnonzero(np.diff(combined[order])) + 1
    return series, np.split(order, bounds)


def _photometric_kinds(facts: Facts) -> Ints:
    ranks = facts.ranks("photometric_interpretation")
    kinds = np.zeros(len(facts), dtype=np.int64)
    for rank in np.unique(ranks):
        row = int(np.argmax(ranks == rank))
        kinds[ranks == rank] = _PHOTOMETRIC_KINDS.get(facts.text("photometric_interpretation", row), 0)
    return kinds


def _combined(keys: list[Ints]) -> Ints:
    """One integer a row that orders and equals as the tuple of the keys does."""
    result = np.zeros(len(keys[0]), dtype=np.int64)
    for key in keys:
        low = int(key.min())
        span = int(key.max()) - low + 1
        if span == 1:
            continue
        if int(result.max(initial=0)) >= 2**62 // span:
            result = np.unique(result, return_inverse=True)[1].astype(np.int64)
        result = result * span + (key - low)
    return np.unique(result, return_inverse=True)[1].astype(np.int64)


def frame_positions(facts: Facts, tolerances: Tolerances) -> Floats:
    """(n, 3) LPS mm, the centre of each frame's first pixel: ImagePositionPatient, moved by the plane's offset where a dose grid has one.

    PS3.3 C.8.8.3.2: offsets that begin with 0 are distances along the normal; others are z coordinates.
    """
    positions = facts.vectors("image_position_patient", 3)
    offsets = facts.numbers("grid_frame_offset")
    with_offset = np.flatnonzero(np.isfinite(offsets))
    if len(with_offset) == 0:
        return positions
    positions = positions.copy()
    orientations = facts.vectors("image_orientation_patient", 6)
    instances, numbers = facts.ranks("sop_instance_uid"), facts.numbers("frame_number")
    for instance in np.unique(instances[with_offset]):
        rows = with_offset[instances[with_offset] == instance]
        first = rows[np.argmin(numbers[rows])]
        axes = plane_axes(orientations[first], tolerances)
        if axes is None:
            continue
        if offsets[first] == 0:
            positions[rows] += offsets[rows, None] * axes[2]
        else:
            positions[rows, 2] = offsets[rows]
    return positions


def _grids(
    group: Ints, orientations: Floats, pixel_spacings: Floats, unplaced: npt.NDArray[np.bool_], clips: Ints, tolerances: Tolerances
) -> Iterator[Ints]:
    """The parts of a group that share orientation and in-plane grid within tolerance; unplaced frames last."""
    placed = group[~unplaced[group]]
    if len(placed):
        for same_plane in _clusters(placed, orientations[placed], tolerances.cosines, 0.0):
            yield from _clusters(same_plane, pixel_spacings[same_plane], 0.0, tolerances.pixel_spacing)
    rest = group[unplaced[group]]
    if len(rest):
        for clip in np.unique(clips[rest]):
            yield rest[clips[rest] == clip]


def _clusters(rows: Ints, values: Floats, absolute: float, relative: float) -> Iterator[Ints]:
    """Rows grouped by values that lie within `absolute + relative * |reference|` of the group's lowest one.

    References are taken in the order of the values, not of the rows, so that the order of files has no say.
    """
    if (values == values[0]).all():
        yield rows
        return
    distinct, inverse = np.unique(values, axis=0, return_inverse=True)
    label = np.full(len(distinct), -1)
    for number, reference in enumerate(distinct):
        if label[number] < 0:
            near = (np.abs(distinct - reference) <= absolute + relative * np.abs(reference)).all(axis=1)
            label[near & (label < 0)] = number
    labels = label[inverse.reshape(-1)]
    for number in np.unique(labels):
        yield rows[labels == number]


def _stack_row(start: int, slices: int, series: int, content: str, found: Assessment, in_plane: Floats, group: int) -> StackRow:
    affine = found.affine
    # Where no two slices lie apart, the affine's step is only the thickness of one: no spacing was measured.
    step = float(np.sqrt((affine[:3, 0] ** 2).sum())) if "spacing" in found.detail else math.nan
    return StackRow(
        frame_start=start,
        slices=slices,
        series=series,
        content=content,
        verdict=found.verdict,
        detail=json.dumps(found.detail),
        affine=tuple(affine.reshape(-1).tolist()),
        spacing=(step, float(in_plane[0]), float(in_plane[1])),
        slice_spacing=step,
        dimension="{}",
        group=group,
        group_index=0,
        uniform_slice_spacing=bool(found.detail.get("uniform_slice_spacing", False)),
    )
