"""Siemens mosaics and CSA headers: tile positions and diffusion values from private elements.

ImagePositionPatient is that of a slice as large as the complete mosaic, centred on the first tile.
The tiles ascend along the SliceNormalVector of the CSA image header, whose sign is decisive
(dcm2niix and nibabel read it in this way; ProtocolSliceNumber, which dcm2niix reads too, is only
the order of storage).

The protocol in the CSA series header has priority: if it lists as many slices as there are tiles,
and the centre of the first tile is one end of that list, the tiles ascend towards the other end. In
the mosaics of the corpus both sources agree within 2e-5 mm. The protocol also gives the positions
of mosaics whose CSA image header was removed. Nothing is guessed beyond that.

References
----------
nibabel, "Siemens format DICOM with CSA header", describes the format of CSA headers.
"""

import math
import re
import struct
from collections.abc import Mapping, Sequence
from typing import Final

from dicomdl.headers._planes import (
    Axes,
    Plane,
    Vector,
    along,
    axes_of,
    dot,
    first_text,
    integer,
    real,
    vector,
)
from dicomdl.headers._tiling import MAX_TILES, Tiling, tile_size, tiled

_MAX_CSA_ENTRIES: Final = 1000
_CSA_NAMES: Final = {
    name.encode(): name
    for name in (
        "NumberOfImagesInMosaic",
        "SliceNormalVector",
        "B_value",
        "DiffusionGradientDirection",
    )
}
# Name, multiplicity, VR, syngo type, number of items, 77 or 205.
_CSA_TAG: Final = struct.Struct("<64si4siii")
_CSA_ITEM: Final = struct.Struct("<iiii")
# Tolerance of parallel unit normals: departure of their product from 1.
_PARALLEL: Final = 1e-3


def siemens_tiling(
    plane: Plane, count: int | None, csa: Mapping[str, Sequence[str]], protocol: Sequence[Vector]
) -> Tiling | None:
    """Return the tiles of a Siemens mosaic; None for an incomplete or contradictory header.

    Parameters
    ----------
    plane
        The mosaic as its header describes it.
    count
        (0019,xx0A) NumberOfImagesInMosaic; None if absent.
    csa
        Items of the CSA image header, from `read_csa`.
    protocol
        Centres of the slices in the CSA series header, from `protocol_slices`.
    """
    count = _count(count, csa, protocol)
    size = None if count is None else tile_size(plane, count)
    axes = axes_of(plane.orientation)
    if (
        count is None
        or size is None
        or axes is None
        or plane.position is None
        or plane.pixel_spacing is None
    ):
        return None
    rows, columns = size
    between_rows, between_columns = plane.pixel_spacing
    down, right = between_rows * (plane.rows - 1) / 2, between_columns * (plane.columns - 1) / 2
    centre = along(along(vector(plane.position), axes.row, right), axes.column, down)
    step = _step_of_protocol(axes, centre, protocol, count) or _step_of_csa(
        axes, plane.slice_spacing, csa
    )
    if step is None:
        return None
    first = along(
        along(centre, axes.row, -between_columns * (columns - 1) / 2),
        axes.column,
        -between_rows * (rows - 1) / 2,
    )
    return tiled(plane, rows, columns, [along(first, axes.normal, step * k) for k in range(count)])


def _count(
    count: int | None, csa: Mapping[str, Sequence[str]], protocol: Sequence[Vector]
) -> int | None:
    """Return the number of tiles; None if it is absent or if two sources disagree."""
    declared = {integer(text) for text in csa.get("NumberOfImagesInMosaic", ())[:1]} | (
        {count} if count is not None else set()
    )
    # A 3D protocol lists its slab as one slice, so a list of one is not used.
    if not declared and len(protocol) > 1:
        return len(protocol)
    return declared.pop() if len(declared) == 1 else None


def _step_of_protocol(
    axes: Axes, centre: Vector, protocol: Sequence[Vector], count: int
) -> float | None:
    """Return the signed distance along the normal from tile to tile, by the protocol.

    The result is None unless the first tile is one end of the protocol's slices.
    """
    if count < 2 or len(protocol) != count:
        return None
    ends = [dot(slice_centre, axes.normal) for slice_centre in (protocol[0], protocol[-1])]
    step = (ends[1] - ends[0]) / (count - 1)
    first = dot(centre, axes.normal)
    for end, signed in zip(ends, (step, -step), strict=True):
        # With prospective motion correction the slices lie elsewhere, and the list is not used.
        if abs(first - end) < 0.1 * abs(step):
            return signed
    return None


def _step_of_csa(
    axes: Axes, slice_spacing: float | None, csa: Mapping[str, Sequence[str]]
) -> float | None:
    """Return the signed distance from tile to tile, by the normal of the CSA image header."""
    numbers = [real(text) for text in csa.get("SliceNormalVector", ())]
    if len(numbers) != 3 or None in numbers or slice_spacing is None or not slice_spacing > 0:
        return None
    cosine = dot(vector([number or 0.0 for number in numbers]), axes.normal)
    if not abs(abs(cosine) - 1) < _PARALLEL:
        return None
    return math.copysign(slice_spacing, cosine)


def read_csa(raw: bytes) -> dict[str, list[str]]:
    """Read the required items of a CSA image header, by name.

    The result is {} if the header is damaged or of another kind.
    """
    try:
        return _read_csa(raw)
    except (struct.error, ValueError):
        return {}


def _read_csa(raw: bytes) -> dict[str, list[str]]:
    is_second = raw[:4] == b"SV10"
    position = 8 if is_second else 0
    (entries,) = struct.unpack_from("<I", raw, position)
    if not 0 < entries <= _MAX_CSA_ENTRIES:
        raise ValueError
    position += 8
    result: dict[str, list[str]] = {}
    # In the first version, lengths are too large by the number of items of the first entry.
    offset = 0
    for entry in range(entries):
        name, multiplicity, _, _, count, _ = _CSA_TAG.unpack_from(raw, position)
        position += _CSA_TAG.size
        if not 0 <= count <= _MAX_CSA_ENTRIES:
            raise ValueError
        offset = count if entry == 0 and not is_second else offset
        values: list[bytes] = []
        for _ in range(count):
            lengths = _CSA_ITEM.unpack_from(raw, position)
            position += _CSA_ITEM.size
            length = lengths[1] if is_second else lengths[0] - offset
            if not 0 <= length <= len(raw) - position:
                if is_second:
                    raise ValueError
                # As in SPM, the entry of a first version ends here.
                break
            values.append(raw[position : position + length])
            position += (length + 3) // 4 * 4
        key = _CSA_NAMES.get(name.split(b"\0", 1)[0])
        if key is not None:
            result[key] = [text for text in map(first_text, values[: multiplicity or None]) if text]
            if len(result) == len(_CSA_NAMES):
                break
    return result


def csa_diffusion(csa: Mapping[str, Sequence[str]]) -> tuple[int | None, Vector | None]:
    """Return b-value (s/mm^2) and gradient direction (LPS) of a CSA header; None if absent."""
    b_values = [integer(text) for text in csa.get("B_value", ())]
    direction = [real(text) for text in csa.get("DiffusionGradientDirection", ())]
    b_value = b_values[0] if len(b_values) == 1 else None
    if len(direction) != 3 or None in direction:
        return b_value, None
    return b_value, vector([number or 0.0 for number in direction])


_SLICE_POSITION: Final = re.compile(
    rb"sSliceArray\.asSlice\[(\d{1,4})\]\.sPosition\.d(Sag|Cor|Tra)[ \t]*=[ \t]*([-+.0-9eE]{1,32})"
)
_SLICE_COUNT: Final = re.compile(rb"sSliceArray\.lSize[ \t]*=[ \t]*(\d{1,4})\b")


def protocol_slices(raw: bytes) -> list[Vector]:
    """Return the centres of the slices (LPS, mm) in the order of the protocol.

    `raw` is a CSA series header. The result is [] if it has no protocol.
    """
    start, end = raw.find(b"### ASCCONV BEGIN"), raw.rfind(b"### ASCCONV END ###")
    if not 0 <= start < end:
        return []
    text = raw[start:end]
    sizes = {int(size) for size in _SLICE_COUNT.findall(text)}
    count = sizes.pop() if len(sizes) == 1 else 0
    # The protocol omits coordinates that are 0.
    centres = [[0.0, 0.0, 0.0] for _ in range(min(count, MAX_TILES))]
    for number, axis, value in _SLICE_POSITION.findall(text):
        coordinate = real(value.decode("ascii"))
        if coordinate is None or int(number) >= len(centres):
            return []
        centres[int(number)][(b"Sag", b"Cor", b"Tra").index(axis)] = coordinate
    return [vector(centre) for centre in centres]
