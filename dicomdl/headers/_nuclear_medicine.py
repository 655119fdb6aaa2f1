"""Reconstructed volumes of nuclear medicine, whose header has one position and a slice vector."""

from collections.abc import Sequence

from dicomdl.headers._attribute_items import first_item
from dicomdl.headers._planes import Plane, Vector, along, axes_of, plane_of, vector
from dicomdl.headers._rows import Context, Row, decimals, override

_RECONSTRUCTED = ([b"RECON TOMO"], [b"RECON GATED TOMO"])


def placed_rows(rows: Sequence[Row], detectors: bytes, context: Context) -> Sequence[Row]:
    """Return the rows of an NM file, those of reconstructed slices with their positions.

    The positions follow from the item of the first detector.
    """
    schema, at = context.schema, context.schema.at
    kind = rows[0][at.image_type].strip(b"\0 ").split(b"\\")[2:3]
    if [word.strip() for word in kind] not in _RECONSTRUCTED:
        return rows
    number_of = {
        schema.columns[number].tag: number
        for number in (at.image_position_patient, at.image_orientation_patient)
    }
    first = first_item(detectors, number_of, context)
    vectors = [schema.value(row, at.slice_vector) for row in rows]
    slices = [1] if vectors == [None] else vectors
    positions = nm_positions(plane_of(override(rows[0], first), schema), slices)
    texts = [b""] * len(rows) if positions is None else list(map(decimals, positions))
    return [
        override(row, {**first, at.image_position_patient: text})
        for row, text in zip(rows, texts, strict=True)
    ]


def nm_positions(plane: Plane, slices: Sequence[int | None]) -> list[Vector] | None:
    """Return the position per frame of a reconstructed NM volume; None if they are unknown.

    `plane` is the first slice, and `slices` has the slice number per frame, from 1. A positive
    SpacingBetweenSlices stacks the others "behind" the first, a negative one "in front" (PS3.3
    C.8.4.15). The normal row x column points away from the viewer of the image, so "behind" is
    along the normal. GE writes -4.4 mm for volumes whose first slice is the top of the head;
    readers that ignore the sign show them upside down.
    """
    axes = axes_of(plane.orientation)
    if (
        axes is None
        or plane.position is None
        or any(number is None or number < 1 for number in slices)
    ):
        return None
    if set(slices) != {1} and not plane.slice_spacing:
        return None
    spacing = plane.slice_spacing or 0.0
    return [
        along(vector(plane.position), axes.normal, spacing * ((number or 1) - 1))
        for number in slices
    ]
