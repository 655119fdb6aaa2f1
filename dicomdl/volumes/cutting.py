"""What of a block lies in its stack, and what is put where it reaches beyond."""

from typing import Any

import numpy as np
import numpy.typing as npt

from dicomdl.arrays import Voxel
from dicomdl.values.intensity import Intensity
from dicomdl.values.reading import Converted
from dicomdl.volumes.blocks import Scratch, StackVoxels


def read_block(
    voxels: StackVoxels, start: Voxel, size: Voxel, recipe: Intensity, scratch: Scratch | None
) -> Converted:
    """A block that may reach beyond the stack: there, as low as the recipe can see, and padding."""
    met = overlap_of(start, size, voxels.shape)
    if met is not None and all(
        low == 0 and high == n
        for low, high, n in ((s.start, s.stop, n) for s, n in zip(met[1], size, strict=True))
    ):
        stop = (start[0] + size[0], start[1] + size[1], start[2] + size[2])
        return voxels.read(start, stop, scratch, want_padding=padding_shows(voxels, recipe))
    inner = None
    if met is not None:
        (z, y, x), _ = met
        inner = voxels.read((z.start, y.start, x.start), (z.stop, y.stop, x.stop))
    dtype = voxels.likely_dtype if inner is None else inner.array.dtype
    samples = voxels.samples
    lowest = recipe.floor(dtype)
    outside = lowest if lowest is not None else -1024 if recipe.units == "HU" else 0
    array = np.full((*size, *samples), outside, dtype)
    padding = np.ones(size, np.bool_)
    if met is not None and inner is not None:
        array[met[1]] = inner.array
        padding[met[1]] = False if inner.padding is None else inner.padding
    return Converted(array, padding)


def padding_shows(voxels: StackVoxels, recipe: Intensity) -> bool:
    """Whether padding would be another network value than the lowest one if nobody looked for it."""
    lowest = recipe.floor(np.dtype(np.float32))
    return lowest is not None and (recipe.invert or voxels.padding_top > lowest)


def cut(labels: npt.NDArray[Any], start: Voxel, size: Voxel) -> npt.NDArray[np.int64]:
    result = np.zeros(size, np.int64)
    met = overlap_of(start, size, (labels.shape[0], labels.shape[1], labels.shape[2]))
    if met is not None:
        result[met[1]] = labels[met[0]]
    return result


def overlap_of(
    start: Voxel, size: Voxel, shape: Voxel
) -> tuple[tuple[slice, ...], tuple[slice, ...]] | None:
    """(where in the stack, where in the patch) the two meet; None where they do not."""
    inner = [(max(0, a), min(n, a + s)) for a, s, n in zip(start, size, shape, strict=True)]
    if any(low >= high for low, high in inner):
        return None
    return tuple(slice(*pair) for pair in inner), tuple(
        slice(low - a, high - a) for (low, high), a in zip(inner, start, strict=True)
    )
