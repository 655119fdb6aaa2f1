"""A volume on the grid of another one, for the channels of a sample."""

import dataclasses

import numpy as np

from dicomdl.index.views import Stack
from dicomdl.values.intensity import Intensity
from dicomdl.volumes.cutting import outside_value
from dicomdl.volumes.interpolation import Resampling
from dicomdl.volumes.resampling import Interpolation
from dicomdl.volumes.volume import Volume


def on_grid_of(
    volume: Volume, other: Volume, stack: Stack, recipe: Intensity, images: Resampling
) -> Volume:
    """Return another grey volume, that of a stack, on the grid of a volume.

    `images` is the interpolation of images; segmentations take the nearest voxel.
    """
    is_label = stack.content == "segmentation"
    how: Interpolation = "nearest" if is_label else images.interpolation
    if not is_label:
        # Interpolated values must not be rounded to integers.
        other = dataclasses.replace(other, array=other.array.astype(np.float32, copy=False))
    fill = outside_value(recipe, other.array.dtype)
    return other.resample_to(volume.geometry, interpolation=how, fill=fill)
