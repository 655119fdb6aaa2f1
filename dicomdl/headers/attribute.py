"""`Attribute`: the DICOM source of one column of the table `frames`, and the type of the column."""

import re
from dataclasses import dataclass
from typing import Final, Literal

Need = Literal["identity", "select", "grid", "pixels", "intensity", "split", "suv"]
Kind = Literal["text", "integer", "real", "reals", "flag"]


@dataclass(frozen=True, slots=True)
class Attribute:
    """The source of one column of the table `frames`, and its type.

    Attributes
    ----------
    name : str
        The column.
    tag, vr : int, str
        Tag and value representation. "XS" stands for US or SS.
    need : Need
        The purpose of the column.
    size : int
        Number of values: 1 for a scalar, n > 1 for exactly n, 0 for any number. Text of several
        values keeps the backslash of DICOM.
    creator : str
        The private creator; "" for standard attributes.
    inside : int
        The top-level sequence whose first item contains the attribute; 0 for none.
    groups : tuple of int
        The functional group macros that contain it in an enhanced object.
    group_tag : int
        Its tag in these macros if that differs; 0 otherwise.
    counts : bool
        Whether it is the number of different items of the sequence `inside`, and no element of
        them.
    per_frame : bool
        Whether it is a vector with one value per frame (NM vectors, GridFrameOffsetVector).
    required : bool
        Whether a present but unreadable value makes the file a problem, instead of being treated
        as absent.
    """

    name: str
    tag: int
    vr: str
    need: Need
    size: int = 1
    creator: str = ""
    inside: int = 0
    groups: tuple[int, ...] = ()
    group_tag: int = 0
    counts: bool = False
    per_frame: bool = False
    required: bool = False

    @property
    def kind(self) -> Kind:
        """The type of the column in memory and in Arrow."""
        if self.counts:
            return "integer"
        if self.vr == "SQ":
            return "flag"
        if self.vr in TEXT_VRS:
            return "text"
        if self.per_frame or self.size == 1:
            return "integer" if self.vr in _INTEGER_VRS else "real"
        return "reals"


TEXT_VRS: Final = frozenset(
    {"AE", "AS", "CS", "DA", "DT", "LO", "LT", "PN", "SH", "ST", "TM", "UC", "UI", "UR", "UT"}
)
# XS stands for US or SS, depending on PixelRepresentation.
_INTEGER_VRS: Final = frozenset({"IS", "US", "SS", "UL", "SL", "UV", "SV", "AT", "XS"})


def snake_case(keyword: str) -> str:
    """Return the column name of a DICOM keyword: ``SOPInstanceUID`` -> ``sop_instance_uid``."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", keyword).lower()
