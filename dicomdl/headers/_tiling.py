"""The tiling of a mosaic: the size and position of its tiles, which are slices, row by row."""

import math
from collections.abc import Sequence
from typing import Final, NamedTuple

from dicomdl.headers._planes import Plane, Vector

# Limit for hostile files. Real mosaics have had up to about 200 tiles.
MAX_TILES: Final = 4096


class Tile(NamedTuple):
    """A slice in a mosaic: first row and column, and position of the first pixel (LPS, mm)."""

    top: int
    left: int
    position: Vector


class Tiling(NamedTuple):
    """The slices of a mosaic in the order of its tiles, each of `rows` x `columns` pixels."""

    rows: int
    columns: int
    tiles: Sequence[Tile]


def tile_size(plane: Plane, count: int, *, is_square: bool = True) -> tuple[int, int] | None:
    """Return rows and columns of a tile; None if `count` tiles do not fill the image.

    The tiles are on ceil(sqrt(count)) columns. Siemens uses the same number of rows (`is_square`),
    UIH only the necessary rows.
    """
    across = math.isqrt(count - 1) + 1 if 0 < count <= MAX_TILES else 0
    down = across if is_square else -(-count // max(across, 1))
    if across == 0 or plane.rows % down or plane.columns % across:
        return None
    return plane.rows // down, plane.columns // across


def tiled(plane: Plane, rows: int, columns: int, positions: Sequence[Vector]) -> Tiling:
    """Return the tiling of an image into tiles of `rows` x `columns` at the given positions."""
    across = plane.columns // columns
    return Tiling(
        rows,
        columns,
        [
            Tile(k // across * rows, k % across * columns, position)
            for k, position in enumerate(positions)
        ],
    )
