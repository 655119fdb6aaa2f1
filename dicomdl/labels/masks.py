"""Label maps in files of NIfTI, NRRD and MetaImage, on the grid of a stack.

Voxels find their places through the affine of the file. The order of its axes plays no part: masks
of public sets are sagittal, or reversed, beside axial images.
"""

import os
import string
from collections.abc import Collection, Iterator
from typing import Any, Final

import numpy as np

from dicomdl.arrays import Mask, Values, Voxel
from dicomdl.errors import AnnotationError, UsageError
from dicomdl.geometry.grid import FLAT
from dicomdl.headers.annotation import Segment
from dicomdl.index.views import Stack
from dicomdl.labels._choice import Wish, chosen
from dicomdl.labels.reader import LABEL_DTYPES, LabelValues, Piece, is_held, smallest_dtype
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
    return pattern.format(**{name: _fact(stack, name) for name in names})


def _fact(stack: Stack, name: str) -> Any:
    """Return one fact of a stack; its folder alone reads the path of each slice."""
    if name == "folder":
        return stack.path
    if name == "name":
        return os.path.basename(stack.path)
    if name in ("patient_id", "study_instance_uid"):
        return getattr(stack, name)
    value = stack.value(name)
    return "" if value is None else value


class MaskReader:
    """Labels of a stack out of a file, held in memory; their numbers are their names.

    Parameters
    ----------
    stack
        The stack.
    path
        The file.
    wish
        The option `segments=`, which names labels by their numbers.

    Raises
    ------
    AnnotationError, StorageError
        As `loaded_mask`; also an AnnotationError for a mask that lies elsewhere, and for a wish for
        a label that the file lacks.
    """

    values: LabelValues = "labels"
    remarks: tuple[str, ...] = ()

    def __init__(self, stack: Stack, path: str, wish: Wish = None) -> None:
        mask = loaded_mask(path)
        _require_near(stack, mask)
        self._covered = _field_of_view(stack, mask)
        on_stack = mask.resample_to(stack.geometry, interpolation="nearest", fill=0)
        self._labels = on_stack.array
        self.shape: Voxel = stack.shape
        self.names = {int(label): str(label) for label in np.unique(self._labels) if label}
        if wish is not None:
            self._choose(wish)

    def _choose(self, wish: Wish) -> None:
        """Replace the labels by those of a wish."""
        found = [Segment(number, name) for number, name in self.names.items()]
        choices = chosen(found, wish, "segments")
        self.names = {choice.label: choice.name for choice in choices}
        labels = np.zeros(self._labels.shape, smallest_dtype(self.names))
        for choice in choices:
            labels[np.isin(self._labels, choice.numbers)] = choice.label
        self._labels = labels

    @property
    def nbytes(self) -> int:
        """The bytes of the labels."""
        return self._labels.nbytes + (0 if self._covered is None else self._covered.nbytes)

    def counts(self) -> None:
        """Return None: voxels are counted in the label map."""

    def covered(self, start: Voxel, stop: Voxel) -> Mask | None:
        """Return the voxels in the field of view of the file."""
        if self._covered is None:
            return None
        z, y, x = (slice(a, b) for a, b in zip(start, stop, strict=True))
        return self._covered[z, y, x]

    def pieces(
        self, start: Voxel, stop: Voxel, only: Collection[int] | None = None
    ) -> Iterator[Piece]:
        """Yield the labels of a block; see `LabelReader`."""
        del only
        z, y, x = (slice(a, b) for a, b in zip(start, stop, strict=True))
        where = tuple(slice(0, b - a) for a, b in zip(start, stop, strict=True))
        yield Piece(where, None, self._labels[z, y, x])


def loaded_mask(path: str) -> Volume:
    """Return the labels of a file on its own grid.

    Raises
    ------
    StorageError
        The file is absent, damaged or of another format.
    AnnotationError
        The file states no positions, axes in one plane, or holds fractions.
    """
    loaded = Volume.load(path)
    array = loaded.array
    # A fourth axis of one time point or one sample, which many tools write, says nothing.
    if loaded.dimension and len(array) == 1:
        array = array[0]
    if array.ndim == 4 and array.shape[-1] == 1:
        array = array[..., 0]
    if array.ndim != 3:
        raise AnnotationError(
            f"the mask has shape {loaded.array.shape}, expected three axes", shape=loaded.shape
        )
    if not loaded.geometry.is_known:
        raise AnnotationError("the file of the mask states no positions (neither sform nor qform)")
    if loaded.geometry.is_flat:
        raise AnnotationError(f"the mask fits no image: {FLAT}")
    return Volume(_integers(array), loaded.geometry)


def _field_of_view(stack: Stack, mask: Volume) -> Mask | None:
    """Return the voxels of a stack that lie in the grid of a mask; None for all of them.

    Raises
    ------
    AnnotationError
        None of them lies in it.
    """
    corners = np.stack(np.meshgrid(*[(0, n - 1) for n in stack.shape], indexing="ij"), axis=-1)
    world = stack.geometry.voxel_to_world(corners.reshape(-1, 3))
    places = mask.geometry.world_to_voxel(world)
    if ((places > -0.5) & (places < np.array(mask.geometry.shape) - 0.5)).all():
        return None
    view = Volume(np.ones(mask.geometry.shape, np.uint8), mask.geometry)
    inside = view.resample_to(stack.geometry, interpolation="nearest", fill=0).array > 0
    if not inside.any():
        raise _elsewhere(stack, mask, "the mask does not touch the stack")
    return inside


def _integers(array: Values) -> Values:
    """Return the labels as the smallest of uint8, int16 and int32 that holds them."""
    if array.dtype.kind == "f":
        rounded = np.rint(array)
        if not (np.isfinite(array).all() and np.array_equal(rounded, array)):
            raise AnnotationError("the mask holds fractions, expected integers")
        array = rounded
    low, high = int(array.min(initial=0)), int(array.max(initial=0))
    for dtype in LABEL_DTYPES:
        if is_held((low, high), dtype):
            return array.astype(dtype)
    raise AnnotationError(f"the mask holds values from {low} to {high}, expected labels")


def _require_near(stack: Stack, mask: Volume) -> None:
    """Raise an AnnotationError for a mask none of whose voxels lies in the stack."""
    inside = stack.geometry.world_to_voxel(_labelled_points(mask))
    reach = np.array(stack.shape) - 0.5
    if len(inside) and not ((inside > -0.5) & (inside < reach)).all(axis=1).any():
        raise _elsewhere(stack, mask, "no label of the mask lies in the stack")


def _elsewhere(stack: Stack, mask: Volume, words: str) -> AnnotationError:
    apart = float(np.linalg.norm(mask.geometry.center - stack.geometry.center))
    return AnnotationError(f"{words}: their centres are {apart:.0f} mm apart", apart_mm=apart)


def _labelled_points(mask: Volume) -> Any:
    """Return (n, 3) LPS mm: all voxels with a label."""
    return mask.geometry.voxel_to_world(np.argwhere(mask.array))
