"""datasets.label_maps"""

import functools
import threading
from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from dicomdl.arrays import Voxel
from dicomdl.datasets.centers import Centers
from dicomdl.datasets.patch_samplers import MOST_CANDIDATES, PatchSampler, otsu, thinned
from dicomdl.errors import GeometryError, UsageError
from dicomdl.index.views import Stack
from dicomdl.storage.memory import Share, remembered, share
from dicomdl.values.auto import resolve
from dicomdl.values.maps import Identity
from dicomdl.values.sampling import stack_sample
from dicomdl.volumes.blocks import voxels_of

Labels = Callable[[Stack], npt.NDArray[Any]]
# of a stack's body to draw from: 96 kB, for the 64 stacks that are remembered
BODY_VOXELS: Final = 1 << 13
# of a patch that are read and mapped at once: half a megabyte, and one of float32
SLAB_VOXELS: Final = 1 << 18
of_thread = threading.local()
_label_maps: Final[Share[npt.NDArray[Any]]] = share("label maps")
_labelled_voxels: Final[Share[Mapping[int, npt.NDArray[np.int32]]]] = share("label voxels")


@remembered("label points")
def points_of(
    stack: Stack, centers: Centers
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """(n, 3) voxels of a table's points that lie in a stack, and (n,) their rows in the table."""
    points, rows = centers.of_series(stack.series_instance_uid)
    geometry = stack.geometry
    if not len(points) or not geometry.is_known:
        return np.zeros((0, 3)), np.zeros(0, np.int64)
    voxels = geometry.world_to_voxel(points)
    inside = ((voxels > -0.5) & (voxels < np.asarray(stack.shape) - 0.5)).all(axis=1)
    return np.asarray(voxels[inside]), rows[inside]


class ByIdentity:
    """A function that need not hash: it is the same as itself."""

    def __init__(self, labels: Labels) -> None:
        self.labels = labels

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ByIdentity) and other.labels is self.labels

    def __hash__(self) -> int:
        return id(self.labels)


def label_map(stack: Stack, by: ByIdentity) -> npt.NDArray[Any]:
    return _label_maps.of((stack, by), functools.partial(_read_labels, stack, by.labels))


def _read_labels(stack: Stack, labels: Labels) -> npt.NDArray[Any]:
    """The label map of a stack, in the smallest integers that hold it."""
    try:
        found = np.asarray(labels(stack))
        if found.shape != stack.shape or found.dtype.kind not in "biu":
            raise GeometryError(
                f"labels give {found.dtype} {found.shape} for a stack of {stack.shape}: expected integers of its shape"
            )
    except OSError as error:
        failure = GeometryError(
            f"the labels of a stack cannot be read: {error.strerror or type(error).__name__}"
        )
        failure.add_note(f"series: {stack.series_instance_uid}")
        raise failure from error
    except GeometryError as error:
        error.add_note(f"series: {stack.series_instance_uid}")
        raise
    if found.dtype.itemsize == 1:
        return found
    return found.astype(
        np.result_type(np.min_scalar_type(found.min()), np.min_scalar_type(found.max()))
    )


def _labelled(stack: Stack, by: ByIdentity) -> Mapping[int, npt.NDArray[np.int32]]:
    return _labelled_voxels.of((stack, by), functools.partial(_find_labelled, stack, by))


def _find_labelled(stack: Stack, by: ByIdentity) -> Mapping[int, npt.NDArray[np.int32]]:
    labels = label_map(stack, by)
    return {int(label): _thin_places(labels, label) for label in np.unique(labels)}


def _thin_places(found: npt.NDArray[Any], label: Any) -> npt.NDArray[np.int32]:
    """(n, 3) voxels of one label, evenly thinned out before they become coordinates."""
    flat = np.flatnonzero(found == label)
    if len(flat) > MOST_CANDIDATES:
        flat = flat[np.linspace(0, len(flat) - 1, MOST_CANDIDATES).astype(np.int64)]
    return np.stack(np.unravel_index(flat, found.shape), axis=1).astype(np.int32)


@remembered("body voxels")
def _foreground(stack: Stack, above: float | None, cache: Any) -> npt.NDArray[np.int32]:
    """Voxels of the body.

    Of at most 32 slices, every n-th row and column, so that a stack is not read for it.
    """
    recipe = resolve(Identity(), stack.middle)
    if above is None:
        above = -500.0 if recipe.units == "HU" else otsu(stack_sample(stack))
    slices, rows, columns = stack.shape
    stride = max(1, int(np.sqrt(rows * columns / 4096)))
    voxels, found = voxels_of(stack, cache=cache), []
    for z in np.unique(np.linspace(0, slices - 1, min(slices, 32)).round().astype(int)).tolist():
        values, padding = voxels.read((z, 0, 0), (z + 1, rows, columns))
        thin = values[0, ::stride, ::stride]
        body = (thin if thin.ndim == 2 else thin.mean(axis=-1)) > above
        if padding is not None:
            body &= ~padding[0, ::stride, ::stride]
        places = np.argwhere(body) * stride
        found.append(np.concatenate([np.full((len(places), 1), z), places], axis=1))
    return thinned(np.concatenate(found), BODY_VOXELS)


class PatchView:
    """What a sampler may ask of a stack; see `patches.StackView`."""

    def __init__(
        self, stack: Stack, sampler: PatchSampler, labels: Labels | None, cache: Any
    ) -> None:
        self._stack, self._sampler, self._labels, self._cache = stack, sampler, labels, cache
        self.shape: Voxel = stack.shape

    def foreground(self, above: float | None) -> npt.NDArray[np.int32]:
        return _foreground(self._stack, above, self._cache)

    def labelled(self) -> Mapping[int, npt.NDArray[np.int32]]:
        if self._labels is None:
            raise UsageError(
                "the sampler asks for labels: give the dataset labels=, a function that gives the label map of a stack"
            )
        return _labelled(self._stack, ByIdentity(self._labels))

    def centers(self) -> npt.NDArray[np.float64]:
        if not isinstance(self._sampler, Centers):
            raise UsageError("the sampler has no points")
        return points_of(self._stack, self._sampler)[0]
