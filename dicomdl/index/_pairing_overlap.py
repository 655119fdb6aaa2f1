"""Distances in space between the boxes of stacks, from their affines alone."""

import numpy as np

from dicomdl.arrays import Floats, Ints
from dicomdl.index._stack_columns import shapes
from dicomdl.index.rows import Generation


def gaps_mm(generation: Generation, first: Ints, second: Ints) -> Floats:
    """Return (n,) the width of the gap between the boxes of two stacks, mm; at most 0 if they meet.

    Boxes reach to the outer edges of voxels. The gap is the widest along the axes of the patient
    and the normals of the faces of both boxes. It may miss two boxes that only pass each other
    edge by edge, and never reports a gap between boxes that meet.
    """
    if not len(first):
        return np.zeros(0)
    boxes = [_corners(generation, stacks) for stacks in (first, second)]
    axes = [np.broadcast_to(np.eye(3), (len(first), 3, 3)), *(_normals(box) for box in boxes)]
    directions = np.concatenate(axes, axis=1)
    low, high = [], []
    for box in boxes:
        projected = np.einsum("ncx,nax->nac", box, directions)
        low.append(projected.min(axis=2))
        high.append(projected.max(axis=2))
    return np.asarray(np.maximum(low[1] - high[0], low[0] - high[1]).max(axis=1))


def _corners(generation: Generation, stacks: Ints) -> Floats:
    """Return (n, 8, 3) LPS mm, the corners of the boxes; corner 4 a + 2 b + c is at (a, b, c)."""
    affines = generation.stacks.vectors("affine", 16)[stacks].reshape(-1, 4, 4)
    ends = np.stack([np.full((len(stacks), 3), -0.5), shapes(generation, stacks) - 0.5], axis=1)
    which = np.array(np.unravel_index(np.arange(8), (2, 2, 2))).T
    voxels = np.take_along_axis(ends, np.broadcast_to(which, (len(stacks), 8, 3)), axis=1)
    turned = np.einsum("nij,ncj->nci", affines[:, :3, :3], voxels)
    return np.asarray(turned + affines[:, None, :3, 3])


def _normals(box: Floats) -> Floats:
    """Return (n, 3, 3) unit normals of the faces of boxes."""
    edges = box[:, [4, 2, 1]] - box[:, :1]
    normals = np.cross(edges[:, [1, 2, 0]], edges[:, [2, 0, 1]])
    return np.asarray(normals / np.linalg.norm(normals, axis=2, keepdims=True))
