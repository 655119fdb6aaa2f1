"""The tiles of a mosaic: one slice each, row by row."""

import math
from collections.abc import Sequence
from typing import Final, NamedTuple

from dicomdl.headers._planes import Plane, Vector

MAX_TILES: Final = 4096  # a real mosaic has had up to some 200


class Tile(NamedTuple):
    """One slice in a mosaic.

    Its first row and column there, and the position of its first pixel in LPS mm.
    """

    top: int
    left: int
    position: Vector


class Tiling(NamedTuple):
    """The slices of a mosaic, in its order, all of `rows` x `columns` pixels."""

    rows: int
    columns: int
    tiles: Sequence[Tile]


def tile_size(plane: Plane, count: int, *, is_square: bool = True) -> tuple[int, int] | None:
    """Rows and columns of a tile; None when `count` tiles do not make the image.

    Tiles lie on ceil(sqrt(count)) columns. Siemens has the same number of rows, UIH only the rows
    that are needed.
    """
    across = math.isqrt(count - 1) + 1 if 0 < count <= MAX_TILES else 0
    down = across if is_square else -(-count // max(across, 1))
    if across == 0 or plane.rows % down or plane.columns % across:
        return None
    return plane.rows // down, plane.columns // across


def tiled(plane: Plane, rows: int, columns: int, positions: Sequence[Vector]) -> Tiling:
    across = plane.columns // columns
    return Tiling(
        rows,
        columns,
        [
            Tile(k // across * rows, k % across * columns, position)
            for k, position in enumerate(positions)
        ],
    )
