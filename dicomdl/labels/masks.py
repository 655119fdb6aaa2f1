"""Label maps in files of NIfTI, NRRD and MetaImage, on the grid of a stack.

Voxels find their places through the affine of the file. The order of its axes plays no part: masks
of public sets are sagittal, or reversed, beside axial images.
"""

import os
import string
from collections.abc import Iterator
from typing import Any, Final

import numpy as np

from dicomdl.arrays import Values, Voxel
from dicomdl.errors import AnnotationError, UsageError
from dicomdl.index.views import Stack
from dicomdl.labels.reader import Piece
from dicomdl.volumes.resampling import FORMATS
from dicomdl.volumes.volume import Volume

# What a pattern may name; `folder` is that of the files of the stack, `name` the last part of it.
_FIELDS: Final = (
    *("patient_id", "study_instance_uid", "series_instance_uid", "series_number"),
    *("sop_instance_uid", "folder", "name"),
)


def is_mask(path: str) -> bool:
    """Whether the name of a file is that of a format with a grid."""
    return path.lower().endswith(FORMATS)


def path_of(stack: Stack, pattern: str) -> str:
    """Return the path that a pattern such as "masks/{series_instance_uid}.nii.gz" names.

    Raises
    ------
    UsageError
        The pattern names something else than `patient_id`, `study_instance_uid`,
        `series_instance_uid`, `series_number`, `sop_instance_uid`, `folder` or `name`.
    """
    names = [name for _, name, _, _ in string.Formatter().parse(pattern) if name is not None]
    if not names:
        return pattern
    unknown = [name for name in names if name not in _FIELDS]
    if unknown:
        raise UsageError(f"{{{unknown[0]}}} in a pattern: expected one of {', '.join(_FIELDS)}")
    return pattern.format(**dict(_facts(stack)))


def _facts(stack: Stack) -> Iterator[tuple[str, Any]]:
    yield from (("patient_id", stack.patient_id), ("folder", stack.path))
    yield "name", os.path.basename(stack.path)
    yield "study_instance_uid", stack.study_instance_uid
    for name in ("series_instance_uid", "series_number", "sop_instance_uid"):
        value = stack.value(name)
        yield name, "" if value is None else value


class MaskReader:
    """Labels of a stack out of a file, held in memory; their numbers are their names.

    Raises
    ------
    AnnotationError, StorageError
        As `mask_on`.
    """

    def __init__(self, stack: Stack, path: str) -> None:
        self._labels = mask_on(stack, path).array
        self.shape: Voxel = stack.shape
        self.names = {int(label): str(label) for label in np.unique(self._labels) if label}

    @property
    def nbytes(self) -> int:
        """The bytes of the labels."""
        return self._labels.nbytes

    def pieces(self, start: Voxel, stop: Voxel) -> Iterator[Piece]:
        """Yield the labels of a block; see `LabelReader`."""
        z, y, x = (slice(a, b) for a, b in zip(start, stop, strict=True))
        where = tuple(slice(0, b - a) for a, b in zip(start, stop, strict=True))
        yield Piece(where, None, self._labels[z, y, x])


def mask_on(stack: Stack, path: str) -> Volume:
    """Return the labels of a file at the voxels of a stack, those of the nearest voxel.

    Raises
    ------
    StorageError
        The file is absent, damaged or of another format.
    AnnotationError
        The file states no positions, lies elsewhere, or holds fractions.
    """
    loaded = Volume.load(path)
    if loaded.dimension or loaded.array.ndim != 3:
        raise AnnotationError(
            f"the mask has shape {loaded.array.shape}, expected three axes", shape=loaded.shape
        )
    if not loaded.geometry.is_known:
        raise AnnotationError("the file of the mask states no positions (neither sform nor qform)")
    labels = _integers(loaded.array)
    _require_near(stack, loaded)
    volume = Volume(labels, loaded.geometry)
    return volume.resample_to(stack.geometry, interpolation="nearest", fill=0)


def _integers(array: Values) -> Values:
    """Return the labels as the smallest of uint8, int16 and int32 that holds them."""
    if array.dtype.kind == "f":
        rounded = np.rint(array)
        if not (np.isfinite(array).all() and np.array_equal(rounded, array)):
            raise AnnotationError("the mask holds fractions, expected integers")
        array = rounded
    low, high = int(array.min(initial=0)), int(array.max(initial=0))
    for dtype in (np.uint8, np.int16, np.int32):
        limits = np.iinfo(dtype)
        if limits.min <= low and high <= limits.max:
            return array.astype(dtype)
    raise AnnotationError(f"the mask holds values from {low} to {high}, expected labels")


def _require_near(stack: Stack, mask: Volume) -> None:
    """Raise an AnnotationError for a mask none of whose voxels lies in the stack."""
    inside = stack.geometry.world_to_voxel(_labelled_points(mask))
    reach = np.array(stack.shape) - 0.5
    if len(inside) and not ((inside > -0.5) & (inside < reach)).all(axis=1).any():
        apart = float(np.linalg.norm(mask.geometry.center - stack.geometry.center))
        raise AnnotationError(
            f"no label of the mask lies in the stack: their centres are {apart:.0f} mm apart",
            apart_mm=apart,
        )


def _labelled_points(mask: Volume) -> Any:
    """Return (n, 3) LPS mm: all voxels with a label."""
    return mask.geometry.voxel_to_world(np.argwhere(mask.array))
