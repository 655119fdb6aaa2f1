"""Blocks that may reach beyond their stack: the overlap, and the fill outside.

The fill is the lowest value that the recipe distinguishes, and is marked as padding.
"""

import math
from typing import Any

import numpy as np

from dicomdl.arrays import Voxel
from dicomdl.values.intensity import Intensity
from dicomdl.values.reading import Converted
from dicomdl.volumes.block_reader import BlockReader, Scratch


def read_block(
    voxels: BlockReader,
    start: Voxel,
    size: Voxel,
    recipe: Intensity,
    scratch: Scratch | None,
    *,
    is_mixed: bool = False,
) -> Converted:
    """Read a block that may reach beyond the stack.

    Voxels outside are padding: the floor of the recipe, or without one -1024 for HU, else 0.
    `is_mixed` says that the values will be interpolated (see `padding_shows`).
    """
    overlap = overlap_of(start, size, voxels.shape)
    if overlap is not None and all(
        low == 0 and high == n
        for low, high, n in ((s.start, s.stop, n) for s, n in zip(overlap[1], size, strict=True))
    ):
        stop = (start[0] + size[0], start[1] + size[1], start[2] + size[2])
        shows = padding_shows(voxels, recipe, is_mixed=is_mixed)
        return voxels.read(start, stop, scratch, want_padding=shows)
    inner = None
    if overlap is not None:
        (z, y, x), _ = overlap
        inner = voxels.read((z.start, y.start, x.start), (z.stop, y.stop, x.stop))
    dtype = voxels.likely_dtype if inner is None else inner.array.dtype
    samples = voxels.samples
    array = np.full((*size, *samples), outside_value(recipe, dtype), dtype)
    padding = np.ones(size, np.bool_)
    if overlap is not None and inner is not None:
        array[overlap[1]] = inner.array
        padding[overlap[1]] = False if inner.padding is None else inner.padding
    return Converted(array, padding)


def outside_value(recipe: Intensity, dtype: np.dtype[Any]) -> float:
    """Return the value of voxels outside of an image: the floor of the recipe, else -1024 HU or 0.

    It is a value before the recipe is applied.
    """
    lowest = recipe.floor(dtype)
    return lowest if lowest is not None else -1024 if recipe.units == "HU" else 0


def padding_shows(voxels: BlockReader, recipe: Intensity, *, is_mixed: bool = False) -> bool:
    """Whether padding must be looked for: unmasked, it could differ from the lowest value.

    Padding below the lowest value is mapped to it by a recipe that saturates. Where values are
    mixed before they are mapped (`is_mixed`), it would lower those beside it.
    """
    lowest = recipe.floor(np.dtype(np.float32))
    if lowest is None:
        return False
    if is_mixed:
        return voxels.padding_top > -math.inf
    # A map that goes on below its lower end distinguishes any two values of padding.
    return recipe.invert or not recipe.saturates or voxels.padding_top > lowest


def overlap_of(
    start: Voxel, size: Voxel, shape: Voxel
) -> tuple[tuple[slice, ...], tuple[slice, ...]] | None:
    """Return (slices of the stack, slices of the block) of the overlap; None without overlap."""
    inner = [(max(0, a), min(n, a + s)) for a, s, n in zip(start, size, shape, strict=True)]
    if any(low >= high for low, high in inner):
        return None
    return tuple(slice(*pair) for pair in inner), tuple(
        slice(low - a, high - a) for (low, high), a in zip(inner, start, strict=True)
    )
