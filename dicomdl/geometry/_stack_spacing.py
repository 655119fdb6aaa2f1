"""The in-plane spacing of a stack, with the remarks on the place where it holds."""

import math
from collections.abc import Sequence
from typing import Any

from dicomdl.arrays import Ints
from dicomdl.geometry._frame_columns import FrameColumns
from dicomdl.geometry.in_plane import IN_PLANE_COLUMNS, PROJECTION, PlaneSpacing, plane_spacing


def stack_spacing(columns: FrameColumns, rows: Ints) -> tuple[tuple[float, float], dict[str, Any]]:
    """Return the (row, column) spacing of a stack in mm, NaN where unknown, and remarks on it.

    A stack without geometry may have frames of several spacings; it then has none of its own.
    """
    first = int(rows[0])
    row, column = columns.pixel_spacings[first].tolist()
    is_placed = bool(columns.placed[first])
    is_projection = columns.facts.text("modality", first) in PROJECTION
    if is_placed and not is_projection:
        return (row, column), {}
    found = _distinct(columns, rows)
    spacings = {(each.row, each.column) for each in found if each.is_known}
    if not spacings:
        return (row, column), {}
    remarks: dict[str, Any] = {}
    places = sorted({each.at or "unknown" for each in found if each.is_known})
    if is_projection or places != ["patient"]:
        remarks = {"spacing_at": _one_or_all(places), **_magnification(found)}
    if len(spacings) + any(not each.is_known for each in found) > 1 and not is_placed:
        remarks["in_plane_spacings"] = len(spacings)
        return (math.nan, math.nan), remarks
    return ((row, column) if is_placed else spacings.pop()), remarks


def _magnification(found: Sequence[PlaneSpacing]) -> dict[str, Any]:
    known = [each for each in found if math.isfinite(each.magnification)]
    if not known:
        return {}
    factors = [round(each.magnification, 6) for each in known]
    return {
        "magnification": _one_or_all(sorted({min(factors), max(factors)})),
        "magnification_from": _one_or_all(sorted({each.magnification_from for each in known})),
    }


def _one_or_all(values: list[Any]) -> Any:
    return values[0] if len(values) == 1 else values


def _distinct(columns: FrameColumns, rows: Ints) -> list[PlaneSpacing]:
    """Return the different spacings of some rows, computed once per combination of facts."""
    facts = columns.facts
    constants: dict[str, Any] = {
        name: facts.constants[name] for name in IN_PLANE_COLUMNS if name in facts.constants
    }
    # No column of lists is among the constants, and most stacks have one spacing.
    spacings = columns.pixel_spacings[rows]
    if (spacings == spacings[0]).all():
        constants["pixel_spacing"] = tuple(spacings[0].tolist())
    varying = [name for name in IN_PLANE_COLUMNS if name not in constants]
    combinations = dict.fromkeys(
        zip(*(facts.values(name, rows) for name in varying), strict=True) if varying else [()]
    )
    found = (
        plane_spacing({**constants, **dict(zip(varying, values, strict=True))})
        for values in combinations
    )
    return list(dict.fromkeys(found))
