"""UIH grids: mosaics with the position of each tile in a private sequence."""

from typing import Final

from dicomdl.headers._nested import items, iterate
from dicomdl.headers._planes import Plane, Vector, first_text, integer, real, vector
from dicomdl.headers._rows import Context
from dicomdl.headers._tiling import MAX_TILES, Tiling, tile_size, tiled

_IMAGE_POSITION: Final = 0x00200032


def uih_tiling(plane: Plane, count: bytes, frames: bytes, context: Context) -> Tiling | None:
    """Return the tiles of a UIH grid; None if the header does not define their positions.

    `count` is the raw (0065,xx50), the number of slices. `frames` is the raw sequence (0065,xx51)
    with one item per slice, which contains its ImagePositionPatient.
    """
    positions: list[Vector] = []
    for item in items(frames, context.syntax, context.window):
        position = next(
            (
                value
                for tag, _, value in iterate(item, context.syntax, context.window)
                if tag == _IMAGE_POSITION
            ),
            b"",
        )
        numbers = [real(text) for text in first_text(position).split("\\")]
        if len(numbers) != 3 or None in numbers or len(positions) == MAX_TILES:
            return None
        positions.append(vector([number or 0.0 for number in numbers]))
    declared = integer(first_text(count))
    size = (
        tile_size(plane, len(positions), is_square=False)
        if declared in (None, len(positions))
        else None
    )
    return None if size is None else tiled(plane, *size, positions)
