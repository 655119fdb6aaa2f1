"""Frames of plain samples without a file, for tests of what becomes of samples."""

from typing import Any, Final

from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian

from dicomdl.headers.frame_source import FrameSource

# Columns of the only row.
COUNT: Final = 5000


def source(allocated: int, stored: int, high: int, *, signed: bool, big: bool) -> FrameSource:
    """Return a frame with these bits, of one row of COUNT samples."""
    syntax = ExplicitVRBigEndian if big else ExplicitVRLittleEndian
    where: tuple[Any, ...] = ("a.dcm", 1, 0, 0, 0, False, 0, 0)
    kind: tuple[Any, ...] = (1, "MONOCHROME2", 0, allocated, stored, high, int(signed), False)
    return FrameSource(*where, str(syntax), 1, COUNT, *kind)
