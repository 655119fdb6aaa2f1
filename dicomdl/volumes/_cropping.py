"""Blocks of a grid, by indices, by a box in the patient, and by a mask."""

import itertools
import operator
from collections.abc import Sequence
from typing import Any

import numpy as np

from dicomdl.arrays import Values
from dicomdl.errors import GeometryError, UsageError
from dicomdl.geometry.grid import Geometry
from dicomdl.volumes._regridding import Gridded
from dicomdl.volumes.resampling import require_known

# A range of indices as a slice or (start, stop); None is the complete axis.
Range = slice | Sequence[int] | None
Block = tuple[slice, slice, slice]
_AXES = ("slices", "rows", "columns")
# Voxels: a box that ends on the border of a voxel by rounding does not contain the next one.
_ROUNDING = 1e-6


def block_of(
    geometry: Geometry, ranges: Sequence[Range], box: Any, mask: Values | None, margin: float
) -> Block:
    """Return the block of ranges of indices, of a box or of a mask; see `Volume.crop`.

    Raises
    ------
    UsageError
        There is more than one of them, or one is malformed.
    GeometryError
        The block is empty, or beside the grid.
    """
    given = any(each is not None for each in ranges), box is not None, mask is not None
    if sum(given) > 1:
        raise UsageError("crop takes ranges of indices, or box=, or mask=: pass one of them")
    if not margin >= 0 or (margin and mask is None):
        raise UsageError(f"margin={margin}: expected a distance of at least 0 mm about mask=")
    if mask is not None:
        # A mask with time points: the part that any of them covers.
        any_time = np.any(mask.reshape(-1, *geometry.shape), axis=0)
        return block_of_mask(geometry, np.asarray(any_time), margin)
    return (
        block_of_box(geometry, box) if box is not None else block_of_ranges(geometry.shape, ranges)
    )


def block_of_ranges(shape: Sequence[int], ranges: Sequence[Range]) -> Block:
    """Return the block of three ranges of indices, which count from the end if negative.

    Raises
    ------
    UsageError
        A range has a step, or is neither a slice nor a pair.
    GeometryError
        A range is empty, or exceeds the grid.
    """
    found = []
    for name, length, wanted in zip(_AXES, shape, ranges, strict=True):
        start, stop = _ends(name, wanted)
        low = 0 if start is None else start + length * (start < 0)
        high = length if stop is None else stop + length * (stop < 0)
        if not 0 <= low < high <= length:
            raise GeometryError(
                f"{name}={wanted}: expected a range within 0 to {length}", shape=tuple(shape)
            )
        found.append(slice(low, high))
    return found[0], found[1], found[2]


def _ends(name: str, wanted: Range) -> tuple[int | None, int | None]:
    if wanted is None:
        return None, None
    given: Any = wanted
    if isinstance(wanted, slice) and wanted.step in (None, 1):
        given = wanted.start, wanted.stop
    try:
        start, stop = given
        return _whole(start), _whole(stop)
    except (TypeError, ValueError):
        raise UsageError(
            f"{name}={wanted}: expected (start, stop) of whole numbers, or a slice without a step"
        ) from None


def _whole(end: Any) -> int | None:
    return None if end is None else operator.index(end)


def block_of_box(geometry: Geometry, box: Any) -> Block:
    """Return the smallest block that contains the part of a box in the patient on the grid.

    Parameters
    ----------
    geometry
        The grid.
    box
        Two opposite corners, (2, 3) LPS mm; its faces are parallel to the axes of the patient.

    Raises
    ------
    UsageError
        The box is not two points.
    GeometryError
        The position of the grid is unknown, or the box is beside it.
    """
    require_known(geometry)
    points = np.asarray(box, dtype=np.float64)
    if points.shape != (2, 3) or not np.isfinite(points).all():
        raise UsageError(f"box={box}: expected two points, ((x, y, z), (x, y, z)) in LPS mm")
    corners = np.array(list(itertools.product(*points.T)))
    voxels = geometry.world_to_voxel(corners)
    return _within(geometry, voxels.min(axis=0), voxels.max(axis=0), "the box")


def block_of_mask(geometry: Geometry, mask: Values, margin: float) -> Block:
    """Return the bounding box of a mask, (slice, row, column), with a margin in mm on each side.

    Raises
    ------
    GeometryError
        The mask is empty, or the margin has no meaning because the spacing is unknown.
    """
    found = [
        np.flatnonzero(mask.any(axis=tuple(other for other in range(3) if other != axis)))
        for axis in range(3)
    ]
    if not all(map(len, found)):
        raise GeometryError("the mask is empty: there is nothing to crop to")
    around = np.zeros(3)
    if margin:
        around = margin / np.asarray(geometry.spacing)
        if not np.isfinite(around).all():
            raise GeometryError(f"margin={margin} mm needs a spacing, and this one is not known")
    low = np.array([indices[0] for indices in found]) - around
    high = np.array([indices[-1] for indices in found]) + around
    return _within(geometry, low, high, "the mask with its margin")


def _within(geometry: Geometry, low: Any, high: Any, what: str) -> Block:
    """Return the voxels that an interval of fractional indices touches, clipped to the grid."""
    start, stop = np.floor(low + 0.5 + _ROUNDING), np.ceil(high + 0.5 - _ROUNDING)
    # A point on the border of two voxels.
    stop = np.maximum(stop, start + 1)
    start, stop = np.maximum(start, 0), np.minimum(stop, geometry.shape)
    if (start >= stop).any():
        raise GeometryError(f"{what} lies beside the volume")
    return tuple(slice(int(a), int(b)) for a, b in zip(start, stop, strict=True))  # type: ignore[return-value]


def cropped(old: Gridded, block: Block) -> Gridded:
    """Return views of the parts of a grid in a block; the affine stays with the voxels."""
    affine = old.geometry.affine.copy()
    starts = np.array([part.start for part in block], dtype=np.float64)
    # An axis that is not cropped does not change an origin, where its step is unknown.
    steps = np.where(starts == 0, 0.0, affine[:3, :3])
    affine[:3, 3] += steps @ starts
    shape = tuple(part.stop - part.start for part in block)
    lead = (slice(None),) if old.times else ()
    return Gridded(
        old.array[(*lead, *block)],
        Geometry((shape[0], shape[1], shape[2]), affine),
        old.filled[block[0]],
        None if old.padding is None else old.padding[(*lead, *block)],
        old.times,
        None if old.unlabelled is None else old.unlabelled[block],
    )
