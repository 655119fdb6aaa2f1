"""What stands beside a NIfTI file: b-values and gradient directions, in two text files of FSL."""

from typing import Final

import numpy as np

from dicomdl.arrays import Floats
from dicomdl.errors import DicomdlWarning
from dicomdl.geometry.grid import Geometry

_SUFFIXES: Final = (".nii.gz", ".nii")


class GradientWarning(DicomdlWarning):
    """The axes of the gradient directions that were written are not certain."""


def stem_of(path: str) -> str | None:
    """Return a path without .nii or .nii.gz; None for a file of another format."""
    suffix = next((s for s in _SUFFIXES if path.lower().endswith(s)), None)
    return None if suffix is None else path[: -len(suffix)]


def gradient_files(b_values: Floats, vectors: Floats, geometry: Geometry) -> dict[str, str]:
    """Return {suffix: text} of the files of FSL for a diffusion series; {} for other series.

    Parameters
    ----------
    b_values
        (n,) in s/mm^2.
    vectors
        (n, 3) unit vectors in LPS.
    geometry
        The grid of the array that is saved.

    Notes
    -----
    FSL counts vectors along the axes of the stored array (column, row, slice), and reverses the
    first one if these axes are right-handed in the world. A series is one of diffusion if every
    b-value is known and one is above 0; directions are written if all of them are known.
    """
    if not (len(b_values) and np.isfinite(b_values).all() and (b_values > 0).any()):
        return {}
    files = {".bval": _row(b_values)}
    if np.isfinite(vectors).all():
        files[".bvec"] = "".join(map(_row, along_axes(vectors, geometry).T))
    return files


def along_axes(vectors: Floats, geometry: Geometry) -> Floats:
    """Return unit vectors (n, 3) in LPS along the axes of FSL of an array on the grid."""
    slice_, row, column = geometry.direction.T
    # The slice axis of a sheared grid is not orthogonal; its normal is.
    normal = np.cross(column, row)
    axes = np.stack([column, row, normal * (np.sign(normal @ slice_) or 1.0)])
    along = vectors @ axes.T
    length = np.linalg.norm(along, axis=1, keepdims=True)
    along = np.divide(along, length, out=np.zeros_like(along), where=length > 0)
    return np.asarray(along * (-1.0 if np.linalg.det(axes) > 0 else 1.0, 1.0, 1.0))


def _row(numbers: Floats) -> str:
    """Return one line of numbers with six significant digits."""
    return " ".join(f"{number + 0.0:.6g}" for number in np.round(numbers, 9)) + "\n"
