"""Slices of one Series that are stacks of their own because their values mean something else.

A PET Series has one Units (PS3.3 C.8.9.1), and the slices of a volume state one Rescale Type, one
Photometric Interpretation and either all a rescale or none. Where they do not, each kind of values
is a volume that looks complete, and the other slices of the Series are absent from it.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np

from dicomdl.arrays import Ints
from dicomdl.geometry._contrast import UNSPECIFIED, blank_rescale_type
from dicomdl.geometry._facts import Facts
from dicomdl.geometry._frame_columns import FrameColumns
from dicomdl.geometry._grouping import (
    PALETTE,
    by_text,
    combined_codes,
    differ_within,
    photometric_kinds,
    rescaled,
    same_but_for_values,
)
from dicomdl.geometry.verdict import number_slices

APART: Final = "values_apart"
# The kind of colour samples, beside the kinds of grey ones.
_COLOUR: Final = PALETTE + 1


class _Kinds(NamedTuple):
    """Kinds of values by one attribute.

    `codes` (n,) are equal where the frames state the same, -1 where one states nothing. `shown`
    names the kind of a row. Kinds whose codes are `maps` are no finding at the same positions.
    """

    codes: Ints
    shown: Callable[[int], str]
    maps: Callable[[Ints], bool] = lambda _: False


def values_apart(columns: FrameColumns, stacks: Sequence[Ints]) -> dict[int, dict[str, Any]]:
    """Find the stacks of one grid in a Series whose values mean something else.

    Colour beside grey values at the same positions is no finding, and neither are several Rescale
    Types, or a rescale beside none, there: these are maps of one volume, such as the phase of a
    magnitude.

    Parameters
    ----------
    columns
        Columns of all frames.
    stacks
        The rows of every stack.

    Returns
    -------
    dict
        First row of a stack -> the remark on it: {attribute: {value: number of slices}}, in all
        stacks of the Series on this grid.
    """
    series = columns.identities.series
    kinds = _kinds(columns.facts)
    vary = differ_within(series, combined_codes([kind.codes for kind in kinds.values()]))
    vary &= columns.placed
    found: dict[int, dict[str, Any]] = {}
    if not vary.any():
        return found
    first_of = np.full(len(vary), -1)
    for rows in stacks:
        first_of[rows] = rows[0]
    # Copies are in no stack.
    vary &= first_of >= 0
    for family in same_but_for_values(columns.facts, series):
        for rows in _grids(columns, family[vary[family]]):
            apart = _apart(columns, rows, combined_codes([first_of[rows]]), kinds)
            for first in np.unique(first_of[rows]).tolist() if apart else ():
                found[first] = {APART: apart}
    return found


def _kinds(facts: Facts) -> Mapping[str, _Kinds]:
    colour = facts.numbers("samples_per_pixel") > 1

    def text(name: str) -> Callable[[int], str]:
        return lambda row: facts.text(name, row).strip() or "blank"

    def rescale_type(row: int) -> str:
        stated = facts.text("rescale_type", row).strip()
        return stated or blank_rescale_type(facts.text("modality", row))

    slopes = rescaled(facts)
    return {
        "units": _Kinds(facts.ranks("units").astype(np.int64), text("units")),
        "photometric_interpretation": _Kinds(
            np.where(colour, _COLOUR, photometric_kinds(facts)),
            text("photometric_interpretation"),
            lambda codes: bool(codes.max() >= PALETTE),
        ),
        "rescale_slope": _Kinds(
            np.where(colour, -1, slopes),
            lambda row: "stated" if slopes[row] else "blank",
            lambda _: True,
        ),
        "rescale_type": _Kinds(_rescale_types(facts), rescale_type, lambda _: True),
    }


def _rescale_types(facts: Facts) -> Ints:
    """Return (n,) codes of Rescale Type, -1 for one that states no units."""
    numbers = {"": -1, UNSPECIFIED: -1}

    def number(text: str) -> int:
        return numbers.setdefault(text.strip(), len(numbers))

    blank = by_text(facts, "modality", lambda text: number(blank_rescale_type(text)))
    stated = by_text(facts, "rescale_type", number)
    is_blank = by_text(facts, "rescale_type", lambda text: int(not text.strip())) == 1
    return np.where(is_blank, blank, stated)


def _grids(columns: FrameColumns, rows: Ints) -> list[Ints]:
    """Divide rows by orientation and in-plane grid."""
    if len(rows) < 2:
        return []
    return [grid for plane in columns.planes(rows) for grid in columns.grids(plane)]


def _apart(
    columns: FrameColumns, rows: Ints, stacks: Ints, kinds: Mapping[str, _Kinds]
) -> dict[str, dict[str, int]]:
    """Return {attribute: {value: number of slices}} of the attributes that divide rows of a grid.

    `stacks` (rows,) name the stack of each row.
    """
    apart = {}
    for name, kind in kinds.items():
        stated = kind.codes[rows] >= 0
        codes = kind.codes[rows][stated]
        if len(np.unique(codes)) < 2 or differ_within(stacks[stated], codes).any():
            # Slices of several kinds in one stack are a finding of their own (`mixed`).
            continue
        if kind.maps(codes) and _share_positions(columns, rows[stated], codes):
            continue
        _, first, counts = np.unique(codes, return_index=True, return_counts=True)
        named = [kind.shown(row) for row in rows[stated][first].tolist()]
        # The order of files decides the codes, and not this order.
        order = sorted(zip((-counts).tolist(), named, strict=True))
        apart[name] = {value: -count for count, value in order}
    return apart


def _share_positions(columns: FrameColumns, rows: Ints, codes: Ints) -> bool:
    """Whether a position belongs to rows of several codes."""
    slices = number_slices(
        columns.positions[rows], columns.orientations[rows[0]], columns.tolerances
    )
    return bool(differ_within(slices, codes).any())
