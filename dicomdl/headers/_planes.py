"""The plane of an image, and conversions of directions and numbers from headers."""

import math
from collections.abc import Sequence
from typing import Final, NamedTuple, TypeAlias

from dicomdl.headers._decimals import decimal
from dicomdl.headers._rows import Row, Schema

Vector: TypeAlias = tuple[float, float, float]
# Tolerance of directions: departure from unit length, and from a right angle.
_SKEW: Final = 1e-2


class Plane(NamedTuple):
    """A coded image as its header describes it; mm, LPS. Absent and unreadable values are None."""

    rows: int
    columns: int
    # ImagePositionPatient.
    position: tuple[float, ...] | None
    # ImageOrientationPatient.
    orientation: tuple[float, ...] | None
    # Distances between rows and between columns.
    pixel_spacing: tuple[float, ...] | None
    slice_spacing: float | None


def plane_of(row: Row, schema: Schema) -> Plane:
    """Return the plane that a raw row describes."""
    at = schema.at
    numbers = (
        at.rows,
        at.columns,
        at.image_position_patient,
        at.image_orientation_patient,
        at.pixel_spacing,
        at.spacing_between_slices,
    )
    return Plane(*(schema.value(row, number) for number in numbers))


class Axes(NamedTuple):
    """Unit vectors in LPS: to the next column, to the next row, and their cross product."""

    row: Vector
    column: Vector
    normal: Vector


def axes_of(orientation: tuple[float, ...] | None) -> Axes | None:
    """Return the directions of ImageOrientationPatient.

    The result is None unless they have unit length and a right angle, within 1e-2.
    """
    if orientation is None:
        return None
    row, column = vector(orientation[:3]), vector(orientation[3:])
    if max(abs(dot(row, row) - 1), abs(dot(column, column) - 1), abs(dot(row, column))) > _SKEW:
        return None
    row, column = _unit(row), _unit(column)
    normal = (
        row[1] * column[2] - row[2] * column[1],
        row[2] * column[0] - row[0] * column[2],
        row[0] * column[1] - row[1] * column[0],
    )
    return Axes(row, column, _unit(normal))


def vector(numbers: Sequence[float]) -> Vector:
    """Return three numbers as a vector."""
    x, y, z = numbers
    return (x, y, z)


def dot(a: Vector, b: Vector) -> float:
    """Return the inner product."""
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def _unit(a: Vector) -> Vector:
    length = math.sqrt(dot(a, a))
    return (a[0] / length, a[1] / length, a[2] / length)


def along(start: Vector, direction: Vector, distance: float) -> Vector:
    """Return the point at a distance from `start` along a direction."""
    return (
        start[0] + direction[0] * distance,
        start[1] + direction[1] * distance,
        start[2] + direction[2] * distance,
    )


def first_text(raw: bytes) -> str:
    """Return the text up to the first zero byte."""
    return raw.split(b"\0", 1)[0].decode("latin-1").strip()


def real(text: str) -> float | None:
    """Return a text as a finite number; None for any other text."""
    try:
        number = decimal(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def integer(text: str) -> int | None:
    """Return a text as an integer of 32 bits; None for any other text."""
    number = real(text)
    return (
        int(number) if number is not None and number.is_integer() and abs(number) < 2**31 else None
    )
