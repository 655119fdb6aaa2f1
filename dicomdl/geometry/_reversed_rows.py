"""Stacks whose rows are stored in reverse under a header that does not say so.

GE's sequence epi_pepolar measures volumes with both polarities of the phase encoding in one Series.
The rows of reversed volumes are stored in reverse order, but all headers state one orientation and
position. The private Pulse Sequence Name tells the sequence, and User Data 12 the scheme: 0 none, 1
all, 2 the odd and 3 the even time points, counted from 1. dcm2niix turns such volumes (its issue
532); here the header stays the default.
"""

from typing import Any, Final

from dicomdl.arrays import Ints
from dicomdl.geometry._frame_columns import FrameColumns
from dicomdl.geometry._specs import SPECS

_SEQUENCE: Final = "epi_pepolar"
_NAME: Final = "ge_pulse_sequence_name"
# Names of the dimensions that order time points.
_SLOW: Final = frozenset(spec.name for spec in SPECS if spec.slow)


def reversed_rows(
    columns: FrameColumns, rows: Ints, dimension: dict[str, Any], number: int
) -> dict[str, str]:
    """Return the remark on a stack whose rows are stored in reverse, or may be; {} for others.

    `number` is that of the stack in its group, whose `dimension` orders it. It is the time point
    where the header has no Temporal Position Identifier.
    """
    facts = columns.facts
    if _NAME in facts.constants and _SEQUENCE not in (facts.constants[_NAME] or ""):
        return {}
    names = set(facts.values(_NAME, rows))
    if not any(_SEQUENCE in (name or "") for name in names):
        return {}
    schemes = set(facts.values("ge_user_data_12", rows))
    points = set(facts.values("temporal_position_identifier", rows))
    if points == {None} and len(dimension) == 1 and _SLOW.issuperset(dimension):
        points = {number + 1}
    if len(names) > 1 or len(schemes) > 1:
        return {"reversed_rows": "unknown"}
    scheme = schemes.pop()
    if scheme in (0, 1):
        return {"reversed_rows": "all"} if scheme else {}
    point = points.pop() if len(points) == 1 else None
    if scheme not in (2, 3) or point is None or point < 1:
        return {"reversed_rows": "unknown"}
    return {"reversed_rows": "all"} if point % 2 == 3 - scheme else {}
