"""Multi-frame files that state one position for all their frames, such as those of dental CBCT.

A CT Image or Secondary Capture has one Image Position (Patient), which is that of its first frame
at best; only functional groups and vectors place the others. Nothing says that the frames follow
one another along the normal, so such a file has no geometry. Its Spacing Between Slices suggests a
grid, which a caller may accept.
"""

import math
from typing import Any, Final

import numpy as np

from dicomdl.arrays import Floats, Ints, Mask
from dicomdl.geometry._candidates import Candidates
from dicomdl.geometry._facts import Facts
from dicomdl.geometry.grid import Tolerances, plane_axes
from dicomdl.headers.uids import content_of

# Modality (0008,0060) of files whose frames are slices. The thickness of a clip's only slice says
# nothing about other frames.
_SLICES: Final = "CT"
# Segments and parametric maps share positions.
_CONTENTS: Final = frozenset({"image", "dose"})


def has_one_position(facts: Facts, clips: Ints, positions: Floats, candidates: Candidates) -> Mask:
    """Mask of frames, (n,), whose file has one position for all frames, and no way to tell them.

    `clips` numbers the multi-frame instance of each frame with a position, -1 for others. One whose
    frames differ in an attribute (time, phase, echo) has one slice and several volumes.
    """
    result = np.zeros(len(facts), dtype=np.bool_)
    rows = np.flatnonzero(clips >= 0)
    if not len(rows):
        return result
    rows = rows[np.argsort(clips[rows], kind="stable")]
    starts = np.flatnonzero(np.diff(clips[rows], prepend=-2))
    low, high = (ends.reduceat(positions[rows], starts) for ends in (np.minimum, np.maximum))
    sizes = np.diff(np.append(starts, len(rows)))
    for index in np.flatnonzero((low == high).all(axis=1) & (sizes > 1)).tolist():
        clip = rows[starts[index] : starts[index] + sizes[index]]
        content = content_of(facts.text("sop_class_uid", int(clip[0])))
        result[clip] = content in _CONTENTS and not candidates.of(clip)
    return result


def one_position_remarks(facts: Facts, rows: Ints) -> dict[str, Any]:
    """Return the entries for the detail of a stack of such frames.

    The grid that the header suggests has the signed distance of frames along the normal. Its sign
    is that of Spacing Between Slices in NM, the only image module that gives the sign a meaning: a
    positive one stacks frames behind the first (PS3.3 C.8.4.15).
    """
    result: dict[str, Any] = {
        "why": f"the file gives one position for its {len(rows)} frames",
        "frames_at_one_position": len(rows),
    }
    first = int(rows[0])
    for name, column in (
        ("SpacingBetweenSlices", "spacing_between_slices"),
        ("SliceThickness", "slice_thickness"),
    ):
        spacing = float(facts.numbers(column)[first])
        is_thickness = column == "slice_thickness"
        if not math.isfinite(spacing) or spacing == 0:
            continue
        if not is_thickness or (spacing > 0 and facts.text("modality", first) == _SLICES):
            return result | {"assumed_spacing": spacing, "assumed_from": name}
    return result


def assumed_affine(
    position: Floats,
    orientation: Floats,
    pixel_spacing: Floats,
    spacing: float,
    slices: int,
    tolerances: Tolerances,
) -> Floats:
    """Return the (4, 4) affine of slices that follow one another along the normal, LPS mm.

    Parameters
    ----------
    position
        (3,) ImagePositionPatient, that of the file's first frame.
    orientation
        (6,) ImageOrientationPatient.
    pixel_spacing
        (2,) PixelSpacing (between rows, between columns), mm.
    spacing
        Signed distance of frames along the normal, mm. A negative one puts the last frame lowest;
        slices ascend, so that it is slice 0.
    slices
        Number of slices.
    tolerances
        Those of the index.

    Returns
    -------
    Floats
        NaN where the orientation is no two perpendicular unit vectors.
    """
    axes = plane_axes(orientation, tolerances)
    if axes is None:
        return np.full((4, 4), math.nan)
    affine = np.eye(4)
    affine[:3, 0] = axes[2] * abs(spacing)
    affine[:3, 1] = axes[1] * pixel_spacing[0]
    affine[:3, 2] = axes[0] * pixel_spacing[1]
    affine[:3, 3] = position + axes[2] * min(0.0, spacing) * (slices - 1)
    return affine
