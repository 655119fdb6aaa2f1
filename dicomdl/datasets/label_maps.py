"""Label maps, body voxels and points of a stack, from which patch samplers draw.

Each is computed once per stack and process; with a cache, label maps and the numbers of their
voxels once for all processes. Voxels of the body are thinned to 8,192 (`BODY_VOXELS`).
"""

import functools
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from dicomdl.arrays import Voxel
from dicomdl.datasets._grid_request import GridRequest, ReadLabels
from dicomdl.datasets.centers import Centers
from dicomdl.datasets.patch_samplers import PatchSampler, thinned
from dicomdl.errors import GeometryError, UsageError
from dicomdl.geometry.grid import Geometry
from dicomdl.geometry.regular import regular_slices
from dicomdl.geometry.verdict import FILLABLE, Irregular
from dicomdl.index.views import Stack
from dicomdl.labels.caching import cached_labels
from dicomdl.labels.places import Census, LabelVoxels
from dicomdl.labels.reader import label_block as source_block
from dicomdl.labels.reader import label_dtype
from dicomdl.labels.source import LabelSource
from dicomdl.storage.cache.stats import Cache
from dicomdl.storage.memory import Share, remembered, share
from dicomdl.values.auto import resolve
from dicomdl.values.foreground import BODY_HU, otsu
from dicomdl.values.sampling import stack_sample
from dicomdl.values.windows import Identity
from dicomdl.volumes.blocks import voxels_of
from dicomdl.volumes.cutting import overlap_of
from dicomdl.volumes.volume import Volume

# A function from a stack to its label map; a source, or its name.
Labels = Callable[[Stack], npt.NDArray[Any]] | LabelSource
LabelsOption = Labels | str | None
# Voxels of a stack's body to draw from: 96 kB for each of the 64 stacks that are remembered.
BODY_VOXELS: Final = 1 << 13
# Voxels of a patch to read and map at once: half a megabyte of int16, one megabyte of float32.
SLAB_VOXELS: Final = 1 << 18
of_thread = threading.local()
_label_maps: Final[Share[npt.NDArray[Any]]] = share("label maps")
_censuses: Final[Share[Census]] = share("label voxels")


@remembered("label points")
def points_of(
    stack: Stack, centers: Centers, grid: GridRequest
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """Return (n, 3) voxels of the table's points in a stack, and (n,) their rows in the table."""
    geometry = grid.geometry(stack)
    if centers.column:
        voxels, rows = centers.of_frames(stack)
        voxels = grid.places(voxels, stack)
    else:
        points, rows = centers.of_series(stack.series_instance_uid)
        if not len(points) or not geometry.is_known:
            return np.zeros((0, 3)), np.zeros(0, np.int64)
        voxels = geometry.world_to_voxel(points)
    inside = ((voxels > -0.5) & (voxels < np.asarray(geometry.shape) - 0.5)).all(axis=1)
    return np.asarray(voxels[inside]), rows[inside]


class ByIdentity:
    """A key for a function that may be unhashable, compared by identity."""

    def __init__(self, labels: Callable[[Stack], npt.NDArray[Any]]) -> None:
        self.labels = labels

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ByIdentity) and other.labels is self.labels

    def __hash__(self) -> int:
        return id(self.labels)


def label_map(stack: Stack, by: ByIdentity) -> npt.NDArray[Any]:
    """Return the label map of a stack, (slices, rows, columns) integers, from the cache."""
    return _label_maps.of((stack, by), functools.partial(_read_labels, stack, by.labels))


def _read_labels(stack: Stack, labels: Callable[[Stack], npt.NDArray[Any]]) -> npt.NDArray[Any]:
    """Read the label map of a stack, in the smallest integer dtype that holds it."""
    try:
        given = np.asarray(labels(stack))
        if given.shape != stack.shape or given.dtype.kind not in "biu":
            raise GeometryError(
                f"labels give {given.dtype} {given.shape} for a stack of {stack.shape}: expected "
                "integers of its shape"
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
    if given.dtype.itemsize == 1:
        return given
    return given.astype(
        np.result_type(np.min_scalar_type(given.min()), np.min_scalar_type(given.max()))
    )


def as_labels(option: LabelsOption) -> Labels | None:
    """Return the labels for the option `labels=`: the name of a source becomes one.

    Raises
    ------
    UsageError
        It is neither a name, a `LabelSource` nor a function.
    """
    if isinstance(option, str):
        return LabelSource(option)
    if not (option is None or callable(option)):
        raise UsageError(
            f"labels is a {type(option).__name__}: expected 'SEG', 'RTSTRUCT', a path or pattern, "
            "a LabelSource, or a function from a stack to its label map"
        )
    return option


def label_block(
    stack: Stack,
    labels: Labels,
    grid: GridRequest,
    box: tuple[Voxel, Voxel],
    cache: Cache | None = None,
) -> npt.NDArray[np.int64]:
    """Return the labels of a box (start, size) of the grid, int64; 0 outside of the stack."""
    start, size = box
    result = np.zeros(size, np.int64)
    overlap = overlap_of(start, size, grid.geometry(stack).shape)
    if overlap is not None:
        (z, y, x), inner = overlap
        first, last = (z.start, y.start, x.start), (z.stop, y.stop, x.stop)
        result[inner] = grid.labels(_read_of(stack, labels, cache), stack, first, last)
    return result


def labels_on(
    stack: Stack,
    labels: Labels,
    geometry: Geometry,
    irregular: Irregular,
    cache: Cache | None = None,
) -> npt.NDArray[np.int64]:
    """Return the labels of a stack at the voxels of a grid, int64; 0 outside of the stack.

    `irregular` is the policy by which the stack became a volume (see `read_volume`).
    """
    whole, own = _read_of(stack, labels, cache)((0, 0, 0), stack.shape), stack.geometry
    if irregular == "resample" and stack.verdict in FILLABLE:
        # The affine of uneven slices is an average: they go to their regular grid first.
        grid = regular_slices(stack.positions, own, stack.verdict, stack.tolerances)
        whole, own = grid.labels(whole), grid.geometry
    if geometry != own and geometry.is_known:
        volume = Volume(whole, own)
        whole = volume.resample_to(geometry, interpolation="nearest", fill=0).array
    if whole.shape != geometry.shape:
        raise UsageError(
            "labels of a stack without geometry have no place in an image of another size: read "
            "it without size="
        )
    return whole.astype(np.int64)


def _read_of(stack: Stack, labels: Labels, cache: Cache | None) -> ReadLabels:
    """Return the function that reads a box of the labels of a stack.

    A source reads the frames and contours of the box only, or slabs of a cache; the map of a
    function is remembered.
    """
    if isinstance(labels, LabelSource):
        if cache is not None:
            return cached_labels(cache, stack, labels).read
        reader = labels.reader(stack)
        dtype = label_dtype(reader.names)
        return lambda start, stop: source_block(reader, start, stop, dtype)[0]
    whole = label_map(stack, ByIdentity(labels))

    def read(start: Voxel, stop: Voxel) -> npt.NDArray[Any]:
        z, y, x = (slice(a, b) for a, b in zip(start, stop, strict=True))
        return whole[z, y, x]

    return read


def _labelled(stack: Stack, labels: Labels, cache: Cache | None) -> Mapping[int, LabelVoxels]:
    """Return {label: its voxels} of a stack; the numbers of voxels per slice are remembered."""
    key = labels if isinstance(labels, LabelSource) else ByIdentity(labels)
    read = _read_of(stack, labels, cache)

    def count() -> Census:
        if isinstance(labels, LabelSource) and cache is not None:
            return cached_labels(cache, stack, labels).census()
        return Census.of(read, stack.shape)

    return _censuses.of((stack, key), count).voxels(read, stack.shape)


class _OnGrid(Sequence[npt.NDArray[Any]]):
    """Voxels of a stack, each given as the nearest voxel of the delivered grid."""

    def __init__(self, voxels: LabelVoxels, stack: Stack, grid: GridRequest) -> None:
        self._voxels, self._stack, self._grid = voxels, stack, grid

    def __len__(self) -> int:
        return len(self._voxels)

    def __getitem__(self, number: Any) -> Any:
        found = self._grid.voxels(np.reshape(self._voxels[number], (-1, 3)), self._stack)
        return found if isinstance(number, slice) else found[0]


@remembered("body voxels")
def _foreground(
    stack: Stack, above: float | None, cache: Any, grid: GridRequest
) -> npt.NDArray[np.int32]:
    """Return (n, 3) voxels of the body.

    They come from at most 32 slices and every n-th row and column, so that the complete stack need
    not be read.
    """
    recipe = resolve(Identity(), stack.middle)
    if above is None:
        above = BODY_HU if recipe.units == "HU" else otsu(stack_sample(stack))
    slices, rows, columns = stack.shape
    stride = max(1, int(np.sqrt(rows * columns / 4096)))
    voxels, candidates = voxels_of(stack, cache=cache), []
    for z in np.unique(np.linspace(0, slices - 1, min(slices, 32)).round().astype(int)).tolist():
        values, padding = voxels.read((z, 0, 0), (z + 1, rows, columns))
        thin = values[0, ::stride, ::stride]
        body = (thin if thin.ndim == 2 else thin.mean(axis=-1)) > above
        if padding is not None:
            body &= ~padding[0, ::stride, ::stride]
        pixels = np.argwhere(body) * stride
        candidates.append(np.concatenate([np.full((len(pixels), 1), z), pixels], axis=1))
    return thinned(grid.voxels(np.concatenate(candidates), stack), BODY_VOXELS)


class PatchView:
    """The view of a stack that a sampler gets (see `patch_samplers.StackView`)."""

    def __init__(
        self,
        stack: Stack,
        shape: Voxel,
        sampler: PatchSampler,
        labels: Labels | None,
        cache: Any,
        grid: GridRequest,
    ) -> None:
        self._stack, self._sampler, self._labels, self._cache = stack, sampler, labels, cache
        self._grid = grid
        self.shape = shape

    def foreground(self, above: float | None) -> npt.NDArray[np.int32]:
        """Return (n, 3) voxels of the body, thinned."""
        return _foreground(self._stack, above, self._cache, self._grid)

    def labelled(self) -> Mapping[int, Sequence[npt.NDArray[np.int32]]]:
        """Return {label: all its voxels}; raise a UsageError without `labels`."""
        if self._labels is None:
            raise UsageError(
                "the sampler asks for labels: give the dataset labels=, a function that gives the "
                "label map of a stack"
            )
        found = _labelled(self._stack, self._labels, self._cache)
        if self._grid.is_own:
            return found
        return {label: _OnGrid(each, self._stack, self._grid) for label, each in found.items()}

    def centers(self) -> npt.NDArray[np.float64]:
        """Return (n, 3) voxels of the table's points in the stack."""
        if not isinstance(self._sampler, Centers):
            raise UsageError("the sampler has no points")
        return points_of(self._stack, self._sampler, self._grid)[0]
