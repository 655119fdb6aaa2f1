"""Elements of GE's echo-planar images whose private creator was removed.

De-identification may remove the creator of a block (PS3.5 7.8.1) and leave its elements. GE
reserves block 10 for its creators in all files. The elements are looked for there in echo-planar
images of GE alone.
"""

from typing import Final

from dicomdl.headers._elements import Wanted, walk, walk_meta
from dicomdl.headers._rows import Context, Row

_WANTED: Final = Wanted(
    [(tag, "") for tag in (0x00431039, 0x001910BB, 0x001910BC, 0x001910BD, 0x0019109C, 0x001910B3)]
)


def may_lack_creators(row: Row, context: Context) -> bool:
    """Whether a row is that of an echo-planar image of GE without a b-value."""
    at = context.schema.at
    return (
        row[at.manufacturer].startswith(b"GE")
        and not row[at.ge_b_value]
        and b"EP" in row[at.scanning_sequence]
    )


def facts_without_creator(context: Context) -> dict[int, bytes]:
    """Return the raw facts of diffusion and of epi_pepolar by the number of their column."""
    at = context.schema.at
    start = 0 if context.deflated else walk_meta(context.window, context.start, None, -1)[1]
    values = walk(context.window, start, context.syntax, _WANTED).values
    numbers = (
        at.ge_b_value,
        at.ge_diffusion_direction_x,
        at.ge_diffusion_direction_y,
        at.ge_diffusion_direction_z,
        at.ge_pulse_sequence_name,
        at.ge_user_data_12,
    )
    return {number: value for number, value in zip(numbers, values, strict=True) if value}
