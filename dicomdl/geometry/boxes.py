"""Boxes and points between the grids of one image, in pure NumPy.

Two ways of counting are in use. *Places* are indices: 0 is the centre of the first voxel, as for an
affine. *Edges* count from the outer corner of the first voxel, which ends at 1: the box of the
voxels ``array[a:b]`` is (a, b). Boxes count edges, as those of torchvision, MONAI and DICOM's
annotations do (PS3.3 C.10.5.1.2). A place p is the edge p + 0.5.

A map is a (4, 4) array from the places of one grid to those of another.
"""

import numpy as np

from dicomdl.arrays import Floats, Mask
from dicomdl.geometry.grid import Geometry

# Overlap of a box and a grid below which the box is outside, in voxels: the rounding of affines.
_LEAST_OVERLAP = 1e-6


def map_between(old: Geometry, new: Geometry) -> Floats:
    """Return the (4, 4) map from the places of a grid to those of another one, both known."""
    return np.asarray(np.linalg.solve(new.affine, old.affine))


def map_of_scales(scale: Floats, shift: Floats) -> Floats:
    """Return the (4, 4) map of ``(place - shift) * scale``, both (3,) along the axes."""
    result = np.diag([*scale, 1.0])
    result[:3, 3] = -np.asarray(shift) * scale
    return result


def moved_places(places: Floats, by: Floats) -> Floats:
    """Return (n, 3) places after a map."""
    return np.asarray(places @ by[:3, :3].T + by[:3, 3])


def moved_boxes(boxes: Floats, by: Floats) -> Floats:
    """Return (n, 6) boxes after a map: the smallest boxes that hold their eight corners.

    Boxes are the first edges along the three axes, then the last ones.
    """
    low, high = boxes[:, :3] - 0.5, boxes[:, 3:] - 0.5
    middle = moved_places((low + high) / 2, by)
    reach = (high - low) / 2 @ np.abs(by[:3, :3]).T
    return np.concatenate([middle - reach, middle + reach], axis=1) + 0.5


def clipped_boxes(boxes: Floats, shape: tuple[int, ...]) -> tuple[Floats, Mask]:
    """Return boxes inside of a grid, and which of the given ones reach into it.

    Parameters
    ----------
    boxes
        (n, 2 axes): the first edges, then the last ones.
    shape
        The voxels of the grid along its axes.

    Returns
    -------
    boxes : numpy.ndarray
        (m, 2 axes), cut at the borders.
    is_inside : numpy.ndarray
        (n,) bool. False for a box without extent, too.
    """
    axes = len(shape)
    low = np.maximum(boxes[:, :axes], 0)
    high = np.minimum(boxes[:, axes:], np.asarray(shape, dtype=np.float64))
    is_inside: Mask = np.all(high - low > _LEAST_OVERLAP, axis=1)
    return np.concatenate([low, high], axis=1)[is_inside], is_inside


def places_inside(places: Floats, shape: tuple[int, ...]) -> Mask:
    """Return which of (n, axes) places lie in the voxels of a grid, borders included."""
    last = np.asarray(shape) - 0.5 + _LEAST_OVERLAP
    return np.asarray(((places >= -0.5 - _LEAST_OVERLAP) & (places <= last)).all(axis=1))
