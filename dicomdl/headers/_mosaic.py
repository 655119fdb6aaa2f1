"""Mosaics: the slices of a volume as tiles of one image, row by row, on ceil(sqrt(n)) columns.

The positions of the slices are in private elements (`_siemens`, `_uih`). If these are absent or
contradict each other, the image stays one frame, and its position is removed: the position in the
header is that of a slice as large as the mosaic, and nothing in the row would distinguish it from a
true one.
"""

import struct
from collections.abc import Mapping, Sequence
from typing import Final

from dicomdl.headers._elements import Wanted, walk, walk_meta
from dicomdl.headers._planes import Plane, plane_of
from dicomdl.headers._rows import Context, Row, Schema, decimals, override
from dicomdl.headers._siemens import csa_diffusion, protocol_slices, read_csa, siemens_tiling
from dicomdl.headers._tiling import Tiling
from dicomdl.headers._uih import uih_tiling
from dicomdl.headers.header import CodedTile

# Elements that a separate walk reads, for mosaics and old Siemens diffusion images only: they take
# 10 to 100 KB in all files of a scanner. De-identification may remove the creator of a block and
# leave its elements, so they are also searched in their usual block.
_PRIVATE: Final = (
    (0x00290010, "SIEMENS CSA HEADER"),
    (0x00290020, "SIEMENS CSA HEADER"),
    (0x00650050, "Image Private Header"),
    (0x00650051, "Image Private Header"),
)
_PRIVATE_WANTED: Final = Wanted([*_PRIVATE, *((tag | 0x1000, "") for tag, _ in _PRIVATE)])


def unpacked_rows(
    rows: Sequence[Row], context: Context
) -> tuple[Sequence[Row], Sequence[CodedTile]]:
    """Return the rows of a file without functional groups, and their tiles.

    A mosaic becomes one row per tile; other images have no tiles.
    """
    at = context.schema.at
    image_type = rows[0][at.image_type]
    if len(rows) > 1:
        if _shows_many(image_type):
            # Each frame has many slices, but there is only one position.
            rows = [override(row, {at.image_position_patient: b""}) for row in rows]
        return rows, ()
    if b"MOSAIC" in image_type or b"VFRAME" in image_type or b"ep_b" in rows[0][at.sequence_name]:
        return _unpacked(rows[0], context)
    return rows, ()


def _unpacked(row: Row, context: Context) -> tuple[Sequence[Row], Sequence[CodedTile]]:
    """Return the rows and tiles of a file of one frame that is a mosaic or a diffusion image."""
    schema, at = context.schema, context.schema.at
    is_mosaic = _shows_many(row[at.image_type])
    if not is_mosaic and (b"ep_b" not in row[at.sequence_name] or row[at.siemens_b_value]):
        return [row], ()
    image, series, count, frames = _private_values(context)
    csa = read_csa(image)
    row = override(row, _csa_diffusion(row, csa, schema))
    if not is_mosaic:
        return [row], ()
    plane = plane_of(row, schema)
    if frames:
        tiling = uih_tiling(plane, count, frames, context)
    else:
        declared = schema.value(row, at.siemens_images_in_mosaic)
        tiling = siemens_tiling(plane, declared, csa, protocol_slices(series))
    if tiling is None:
        return [override(row, {at.image_position_patient: b""})], ()
    return _tile_rows(row, plane, tiling, schema)


def _tile_rows(
    row: Row, plane: Plane, tiling: Tiling, schema: Schema
) -> tuple[Sequence[Row], Sequence[CodedTile]]:
    at = schema.at
    row = override(
        row,
        {
            at.rows: tiling.rows.to_bytes(2, "little"),
            at.columns: tiling.columns.to_bytes(2, "little"),
        },
    )
    rows = [
        override(row, {at.image_position_patient: decimals(tile.position)}) for tile in tiling.tiles
    ]
    return rows, [
        CodedTile(plane.rows, plane.columns, tile.top, tile.left) for tile in tiling.tiles
    ]


def _csa_diffusion(row: Row, csa: Mapping[str, Sequence[str]], schema: Schema) -> dict[int, bytes]:
    """Return b-value and direction as changes of a row without them.

    Scanners before syngo MR VB13 store them in the CSA header only.
    """
    at = schema.at
    b_value, direction = csa_diffusion(csa)
    changes = {}
    if b_value is not None and not row[at.siemens_b_value]:
        changes[at.siemens_b_value] = b"%d" % b_value
    if direction is not None and not row[at.siemens_diffusion_direction]:
        changes[at.siemens_diffusion_direction] = struct.pack("<3d", *direction)
    return changes


def _private_values(context: Context) -> list[bytes]:
    """Return the raw values of the elements `_PRIVATE`, b"" if absent."""
    start = 0 if context.deflated else walk_meta(context.window, context.start, None, -1)[1]
    values = walk(context.window, start, context.syntax, _PRIVATE_WANTED).values
    count = len(_PRIVATE)
    return [
        reserved or usual for reserved, usual in zip(values[:count], values[count:], strict=True)
    ]


def _shows_many(image_type: bytes) -> bool:
    """Return whether an image is a mosaic of slices, by Siemens or by UIH."""
    return not {b"MOSAIC", b"VFRAME"}.isdisjoint(
        part.strip(b"\0 ") for part in image_type.split(b"\\")
    )
