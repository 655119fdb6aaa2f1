"""Volumes for a viewer in 3D: the bytes of a NIfTI file, with a limit on the voxels."""

from typing import Final

import numpy as np

from dicomdl.arrays import Values
from dicomdl.errors import GeometryError
from dicomdl.geometry.grid import Geometry
from dicomdl.volumes._nifti_images import NiftiImage, nifti_bytes

# A graphics card holds a volume as a texture of several bytes per voxel.
MOST_VOXELS: Final = 1 << 26


def solid(array: Values, geometry: Geometry) -> memoryview:
    """Return a volume or label map as a NIfTI file, with the affine in RAS.

    Above `MOST_VOXELS` every second row and column is taken, or every fourth.

    Parameters
    ----------
    array
        (slice, row, column), or (slice, row, column, sample) uint8 of colour.
    geometry
        Its grid.

    Raises
    ------
    GeometryError
        The position is unknown, or there is one slice.
    """
    if geometry.shape[0] < 2:
        raise GeometryError("one slice is no volume: 3D takes two or more")
    step = 1
    while int(np.prod(geometry.shape)) // step**2 > MOST_VOXELS:
        step *= 2
    taken = np.ascontiguousarray(array[:, ::step, ::step])
    affine = geometry.affine @ np.diag([1.0, step, step, 1.0])
    depth, rows, columns = taken.shape[:3]
    return nifti_bytes(
        NiftiImage(taken, Geometry((depth, rows, columns), affine), False, float("nan"), "")
    )
