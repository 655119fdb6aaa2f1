"""The view of a breast whose header has it as a code only.

Images of the breast must have View Code Sequence (PS3.3 C.8.11.7, C.8.21.6). View Position is
optional in mammograms, and no attribute of tomosyntheses.
"""

from typing import Final

from dicomdl.headers._attribute_items import first_item
from dicomdl.headers._elements import Wanted, walk, walk_meta
from dicomdl.headers._rows import Context, Row, override
from dicomdl.headers.columns import as_text
from dicomdl.headers.uids import STANDARD

_STORAGE: Final = STANDARD + "5.1.4.1.1."
# Digital mammography, breast tomosynthesis and breast projections.
_BREAST_IMAGES: Final = frozenset(
    _STORAGE + each for each in ("1.2", "1.2.1", "13.1.3", "13.1.4", "13.1.5")
)
_VIEW_CODE_SEQUENCE: Final = Wanted([(0x00540220, "")])
_CODE_VALUE: Final = 0x00080100
# CID 4014 of PS3.16: the ACR equivalent of a code of SNOMED CT, and of SNOMED RT before. The last
# two were deprecated.
_VIEWS: Final = {
    "399260004": "ML",
    "R-10224": "ML",
    "399368009": "MLO",
    "R-10226": "MLO",
    "399352003": "LM",
    "R-10228": "LM",
    "399099002": "LMO",
    "R-10230": "LMO",
    "399162004": "CC",
    "R-10242": "CC",
    "399196006": "FB",
    "R-10244": "FB",
    "399188001": "SIO",
    "R-102D0": "SIO",
    "441555000": "ISO",
    "R-40AAA": "ISO",
    "399192008": "XCCL",
    "R-1024A": "XCCL",
    "399101009": "XCCM",
    "R-1024B": "XCCM",
    "Y-X1770": "XCCL",
    "Y-X1771": "XCCM",
}


def may_lack_view(sop_class: str, view_position: bytes) -> bool:
    """Whether only View Code Sequence may tell the view of an image."""
    return sop_class in _BREAST_IMAGES and not view_position.strip(b"\0 ")


def with_view(row: Row, context: Context) -> Row:
    """Return a row whose View Position is that of the View Code Sequence, if this has a known one.

    A separate walk reads it, because files of other kinds must not pay for it.
    """
    number = context.schema.at.view_position
    start = 0 if context.deflated else walk_meta(context.window, context.start, None, -1)[1]
    (raw,) = walk(context.window, start, context.syntax, _VIEW_CODE_SEQUENCE).values
    code = first_item(raw, {_CODE_VALUE: number}, context).get(number, b"") if raw else b""
    view = _VIEWS.get(as_text(code).upper())
    return override(row, {number: view.encode()}) if view else row
