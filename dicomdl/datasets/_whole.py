"""Whole volumes of a dataset: a stack, or a group with its leading axis, as the options say.

A stack with a cache, on the grid of its slices, is read from the cache; others by `read_volume`.
"""

import dataclasses
from dataclasses import dataclass

import numpy as np

from dicomdl.datasets._assembly import floored
from dicomdl.datasets._options import Reading
from dicomdl.geometry.verdict import READABLE, Irregular
from dicomdl.index.views import Group, Stack
from dicomdl.values.conversion import is_colour
from dicomdl.values.intensity import Intensity
from dicomdl.values.reading import Converted
from dicomdl.volumes.cutting import outside_value
from dicomdl.volumes.read import is_moved, read_volume
from dicomdl.volumes.resampling import Interpolation
from dicomdl.volumes.volume import Volume


@dataclass(frozen=True, slots=True)
class Whole:
    """How a dataset reads whole volumes.

    Attributes
    ----------
    reading, irregular
        The options of the dataset.
    is_interpolated
        Whether the volume will be resampled. Grey values are then float32: interpolated values must
        not be rounded to integers.
    may_move
        Whether the volumes of a group that moved are put on the grid of its first one.
    """

    reading: Reading
    irregular: Irregular
    is_interpolated: bool
    may_move: bool = False

    def volume(self, case: Stack | Group, recipe: Intensity) -> Volume:
        """Read a stack or group, with padding set to the floor of the recipe."""
        if isinstance(case, Group):
            whole = case[0].group
            if self.may_move and is_moved([whole[0], *case]):
                return self._on_one_grid(case, recipe, whole[0])
            if self.irregular != "resample" and self.reading.is_cached(case[0]):
                return _joined(case, [self.volume(stack, recipe) for stack in case])
            return _without_padding(self._read(case, recipe), recipe)
        return _without_padding(self._cached(case, recipe) or self._read(case, recipe), recipe)

    def _read(self, case: Stack | Group, recipe: Intensity) -> Volume:
        how = self.reading.decoding_here()
        return read_volume(
            case,
            values=recipe.quantity,
            irregular=self.irregular,
            dtype=self._dtype(case if isinstance(case, Stack) else case[0]),
            reduce=how.reduce,
            threads=how.threads,
            max_bytes=how.max_bytes,
            isolation=how.isolation or "auto",
        )

    def _dtype(self, stack: Stack) -> type[np.float32] | None:
        return np.float32 if self.is_interpolated and not is_colour(stack) else None

    def _cached(self, stack: Stack, recipe: Intensity) -> Volume | None:
        """Return a volume from the cache; None where the stack is not cached."""
        if not self._has_own_slices(stack):
            return None
        voxels = self.reading.cached_voxels(stack, recipe.quantity)
        if voxels is None:
            return None
        array, padding = voxels.read((0, 0, 0), stack.shape)
        dtype = self._dtype(stack)
        values = array if dtype is None else array.astype(dtype)
        return Volume(values, stack.geometry, "", None, stack, padding=padding)

    def _has_own_slices(self, stack: Stack) -> bool:
        """Return whether the volume has the stack's slices, without resampling."""
        return self.irregular != "resample" or (
            stack.verdict in READABLE and "tilt_deg" not in stack.detail
        )

    def _on_one_grid(self, group: Group, recipe: Intensity, first: Stack) -> Volume:
        """Read volumes that moved, each resampled to the grid of the first stack of their group."""
        how = dataclasses.replace(self, is_interpolated=True)
        nearest = first.content == "segmentation"
        interpolation: Interpolation = "nearest" if nearest else "linear"
        geometry = first.geometry.halved(self.reading.decoding.reduce)
        volumes = []
        for stack in group:
            volume = how.volume(stack, recipe)
            fill = None if nearest else outside_value(recipe, volume.array.dtype)
            volumes.append(
                volume.resample_to(geometry, interpolation=interpolation, fill=fill)
                if volume.geometry != geometry
                else volume
            )
        return _joined(group, volumes)


def _without_padding(volume: Volume, recipe: Intensity) -> Volume:
    return dataclasses.replace(
        volume, array=floored(Converted(volume.array, volume.padding), recipe), padding=None
    )


def _joined(group: Group, volumes: list[Volume]) -> Volume:
    """Return the volume of a group from those of its stacks, all on one grid."""
    return dataclasses.replace(
        volumes[0],
        array=np.stack([volume.array for volume in volumes]),
        dimension=group.dimension,
        dimension_names=group.dimension_names,
        stacks=tuple(group),
    )
