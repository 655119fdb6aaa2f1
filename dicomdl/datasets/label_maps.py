"""Labelled voxels, body voxels and points of a stack, from which patch samplers draw.

Each is computed once per stack and process; with a cache, label maps and the numbers of their
voxels once for all processes. Voxels of the body are thinned to 8,192 (`BODY_VOXELS`).
"""

import threading
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from dicomdl.arrays import Values, Voxel
from dicomdl.datasets._grid_request import GridRequest, ReadLabels
from dicomdl.datasets.centers import Centers
from dicomdl.datasets.patch_samplers import PatchSampler, thinned
from dicomdl.datasets.sample_labels import ByIdentity, SampleLabels
from dicomdl.errors import UsageError
from dicomdl.index.views import Stack
from dicomdl.labels.places import Census, LabelVoxels
from dicomdl.storage.cache.stats import Cache
from dicomdl.storage.memory import Share, remembered, share
from dicomdl.values.auto import resolve
from dicomdl.values.foreground import BODY_HU, otsu
from dicomdl.values.sampling import stack_sample
from dicomdl.values.windows import Identity
from dicomdl.volumes.blocks import voxels_of

# What nobody annotated, among labels; no label of a file or function is that low.
_UNLABELLED: Final = -(2**31)
# Voxels of a stack's body to draw from: 96 kB for each of the 64 stacks that are remembered.
BODY_VOXELS: Final = 1 << 13
# Voxels of a patch to read and map at once: half a megabyte of int16, one megabyte of float32.
SLAB_VOXELS: Final = 1 << 18
of_thread = threading.local()
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


def _labelled(stack: Stack, labels: SampleLabels, cache: Cache | None) -> Mapping[int, LabelVoxels]:
    """Return {label: its voxels} of a stack; the numbers of voxels per slice are remembered.

    Channels are the labels from 1 on; a fraction counts from a half on. Where samples tell what is
    unlabelled, that is no background.
    """
    found: dict[int, LabelVoxels] = {}
    if labels.names:
        for number, read in enumerate(labels.channels(stack, cache, together=False), 1):
            voxels = _voxels(stack, labels, _halves([read]), labels.names[number - 1])
            if 1 in voxels:
                found[number] = voxels[1]
    every = _voxels(stack, labels, _with_unlabelled(stack, labels, cache), None, cache)
    kept = (0,) if labels.names else tuple(label for label in every if label != _UNLABELLED)
    return found | {label: every[label] for label in kept if label in every}


def _voxels(
    stack: Stack,
    labels: SampleLabels,
    read: ReadLabels,
    name: str | None,
    cache: Cache | None = None,
) -> Mapping[int, LabelVoxels]:
    """Return {label: its voxels} of what a function reads; `name` is that of a channel, or None."""
    given = labels.source.source
    source = ByIdentity(given) if callable(given) else labels.source

    def count() -> Census:
        is_map = labels.source.values != "fractions" and not labels.source.has_unlabelled
        if name is not None or labels.names or not is_map:
            return Census.of(read, stack.shape)
        return labels.census(stack, cache, read)

    return _censuses.of((stack, source, labels.names, name), count).voxels(read, stack.shape)


def _with_unlabelled(stack: Stack, labels: SampleLabels, cache: Cache | None) -> ReadLabels:
    """Return a function that reads labels, 1 for those of channels, `_UNLABELLED` for nothing."""
    reads = labels.channels(stack, cache, together=True)
    is_map = not labels.names and labels.source.values != "fractions"
    labelled = reads[0] if is_map else _halves(reads)
    if not labels.source.has_unlabelled:
        return labelled
    covered = labels.covered(stack, cache)

    def read(start: Voxel, stop: Voxel) -> Values:
        values = labelled(start, stop)
        is_known = (covered(start, stop) != 0) | (values != 0)
        return np.where(is_known, values.astype(np.int32), _UNLABELLED)

    return read


def _halves(reads: Sequence[ReadLabels]) -> ReadLabels:
    """Return a function that reads 1 where one of the given functions reads a half or more."""

    def read(start: Voxel, stop: Voxel) -> Values:
        masks = [each(start, stop) >= 0.5 for each in reads]
        return np.asarray(np.logical_or.reduce(masks)).view(np.uint8)

    return read


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
        labels: SampleLabels | None,
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
