"""Tables of points: the layouts that `Centers.from_table` knows, read into arrays.

Points are in LPS mm, or pixels of a named frame. Pixels have the origin of DICOM's annotations: the
outer corner of the first pixel is (0, 0), its centre (0.5, 0.5) (PS3.3 C.10.5.1.2, C.18.6.1.2).
"""

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from dicomdl.errors import UsageError
from dicomdl.index.tables import columns_of_file, value_of

# Columns with the Series and x, y, z in LPS mm: ours, and those of LUNA16.
_WORLD: Final = (
    ("series_instance_uid", "x", "y", "z"),
    ("seriesuid", "coordX", "coordY", "coordZ"),
)
# Columns with the Series, the frame, and its pixel: RSNA lumbar spine 2024, RSNA aneurysm 2025.
_BY_INSTANCE: Final = ("series_id", "instance_number", "x", "y")
_BY_OBJECT: Final = ("SeriesInstanceUID", "SOPInstanceUID", "coordinates")


class Frames(NamedTuple):
    """The frames of points in pixels.

    Attributes
    ----------
    column
        The column of the index that `keys` are values of: "instance_number" or "sop_instance_uid".
    keys
        (points,) text.
    numbers
        (points,) float64, the Frame Number in a multi-frame file, from 1; NaN where not told.
    """

    column: str
    keys: npt.NDArray[np.str_]
    numbers: npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class PointTable:
    """The points of a table.

    Attributes
    ----------
    series
        The Series of each point, as text.
    places
        (points, 3) float64: LPS mm; or (0, row, column) indices of pixels, 0 at the centre of the
        first pixel.
    frames
        The frame of each point; None for points in LPS mm.
    """

    series: Sequence[str]
    places: npt.NDArray[np.float64]
    frames: Frames | None = None


def read_points(table: Any, columns: Sequence[str] | None) -> PointTable:
    """Return the points of a table, in the layout of its columns.

    Raises
    ------
    UsageError
        See `Centers.from_table`.
    """
    if isinstance(table, str | os.PathLike):
        known = [name for layout in (*_WORLD, _BY_INSTANCE, _BY_OBJECT) for name in layout]
        table = columns_of_file(table, [*known, *(columns or ())])
    names = list(getattr(table, "column_names", table))
    if columns is not None:
        return _world(table, columns, names)
    for layout in _WORLD:
        if set(layout) <= set(names):
            return _world(table, layout, names)
    if set(_BY_INSTANCE) <= set(names):
        return _by_instance(table)
    if set(_BY_OBJECT) <= set(names):
        return _by_object(table)
    layouts = "; ".join(map(", ".join, (*_WORLD, _BY_INSTANCE, _BY_OBJECT)))
    raise UsageError(
        f"the columns of the table are none of those known for points: {layouts}. Name the columns "
        "with the Series Instance UID and x, y, z in LPS mm by columns=",
        columns=names,
    )


def _world(table: Any, columns: Sequence[str], names: Sequence[str]) -> PointTable:
    """Return points in LPS mm."""
    missing = [name for name in columns if name not in names]
    if missing:
        nouns = "column" if len(missing) == 1 else "columns"
        raise UsageError(f"the table lacks the {nouns} {', '.join(missing)}", missing=missing)
    uid, *axes = columns
    places = np.stack([_numbers(table, axis) for axis in axes], axis=1)
    return PointTable(_texts(table, uid), places)


def _by_instance(table: Any) -> PointTable:
    """Return points on frames that are named by the Instance Number."""
    series, instance, x, y = _BY_INSTANCE
    places = _pixels(_numbers(table, x), _numbers(table, y))
    numbers = _numbers(table, instance)
    if (wrong := np.flatnonzero(numbers % 1)).size:
        row = int(wrong[0])
        raise UsageError(f"row {row} of the table: {instance} is no whole number", row=row)
    keys = np.array([str(int(number)) for number in numbers.tolist()], np.str_)
    return PointTable(
        _texts(table, series),
        places,
        Frames("instance_number", keys, np.full(len(keys), np.nan)),
    )


def _by_object(table: Any) -> PointTable:
    """Return points on frames that are named by the SOP Instance UID, from text of a dict."""
    series, sop, coordinates = _BY_OBJECT
    entries = [_coordinates(text, row) for row, text in enumerate(_column(table, coordinates))]
    x, y = (np.array([each[axis] for each in entries], np.float64) for axis in "xy")
    # "f" counts the frames of a multi-frame file from 0, as arrays do; Frame Number from 1.
    numbers = np.array([each.get("f", np.nan) + 1 for each in entries], np.float64)
    keys = np.array(_texts(table, sop), np.str_)
    return PointTable(
        _texts(table, series), _pixels(x, y), Frames("sop_instance_uid", keys, numbers)
    )


def _pixels(x: npt.NDArray[np.float64], y: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return (n, 3) indices (0, row, column) of places that count from the outer corner."""
    return np.stack([np.zeros(len(x)), y - 0.5, x - 0.5], axis=1)


def _column(table: Any, name: str) -> list[Any]:
    """Return the values of a column of a data frame, an Arrow table or a mapping."""
    column = table[name]
    return list(column.to_pylist() if hasattr(column, "to_pylist") else column)


def _texts(table: Any, name: str) -> list[str]:
    """Return the keys of a column as text; raise a UsageError for numbers with a fraction."""
    values = _column(table, name)
    for row, value in enumerate(values):
        if isinstance(value, float) or value is None:
            raise UsageError(
                f"row {row} of the table: {name} is empty or a number with a fraction, expected "
                "text. pandas makes numbers of keys: pandas.read_csv(path, dtype=str)",
                row=row,
                column=name,
            )
    return list(map(str, values))


def _numbers(table: Any, name: str) -> npt.NDArray[np.float64]:
    """Return (n,) float64; raise a UsageError for a value that is no finite number."""
    return np.array(
        [_number(value, name, row) for row, value in enumerate(_column(table, name))], np.float64
    )


def _number(value: Any, name: str, row: int) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise UsageError(
            f"row {row} of the table: {name} is no finite number", row=row, column=name
        )
    return number


def _coordinates(given: Any, row: int) -> dict[str, float]:
    """Return the numbers of ``{'x': 258.36, 'y': 261.36}``, a dict or its text."""
    name = _BY_OBJECT[2]
    try:
        value = value_of(given) if isinstance(given, str) else given
    except ValueError:
        value = None
    entries = value if isinstance(value, Mapping) else {}
    if not {"x", "y"} <= set(entries):
        raise UsageError(
            f"row {row} of the table: {name} is no text such as {{'x': 258.36, 'y': 261.36}}",
            row=row,
            column=name,
        )
    return {key: _number(entries[key], name, row) for key in ("x", "y", "f") if key in entries}
