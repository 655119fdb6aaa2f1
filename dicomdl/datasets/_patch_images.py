"""The images of patches: blocks of readers, mapped as they are read.

A patch inside the stack is mapped by a table as it is read, or else read and mapped a few slices at
a time (`SLAB_VOXELS`), while they are in the processor's cache.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from dicomdl.arrays import Float32, Voxel
from dicomdl.datasets._assembly import Image, IntensityOn, channel_first, floored
from dicomdl.datasets.label_maps import SLAB_VOXELS, of_thread
from dicomdl.datasets.transport.images import new_array
from dicomdl.datasets.worker import threads_here
from dicomdl.values.intensity import Intensity
from dicomdl.volumes.block_reader import BlockReader, Scratch
from dicomdl.volumes.blocks import StackVoxels
from dicomdl.volumes.cutting import padding_shows, read_block

# An image with its intensity, or the value of an absent one.
Layer: TypeAlias = tuple[BlockReader, Intensity] | float


@dataclass(frozen=True, slots=True)
class PatchImages:
    """How a dataset makes the images of patches: their size, and where they are mapped."""

    size: Voxel
    intensity_on: IntensityOn

    def one(self, voxels: BlockReader, start: Voxel, recipe: Intensity) -> Image:
        """Return a patch, (C, D, H, W), mapped already or not."""
        if not self._is_mapped_in_slabs(voxels, start):
            block = read_block(voxels, start, self.size, recipe, self._scratch)
            values = np.ascontiguousarray(channel_first(floored(block, recipe), 3))
            if self.intensity_on == "device" or values.dtype != np.float32:
                return Image(values)
            # A copy even where values stay unchanged: the scratch memory is used again.
            return Image(recipe(values, new_array(values.shape, np.float32)), is_mapped=True)
        image = new_array(self.size, np.float32)
        self._map_in_slabs(voxels, start, recipe, image)
        return Image(channel_first(image, 3), is_mapped=True)

    def several(self, readers: Sequence[BlockReader], start: Voxel, recipe: Intensity) -> Image:
        """Return the same patch of several readers, (C, n, D, H, W), mapped already or not.

        Grey values that are mapped here need the memory of the image and of one patch.
        """
        if self.intensity_on == "cpu" and not any(voxels.samples for voxels in readers):
            image = self.layers([(voxels, recipe) for voxels in readers], start)
            return Image(image[None], is_mapped=True)
        blocks = [read_block(voxels, start, self.size, recipe, None) for voxels in readers]
        return Image(channel_first(np.stack([floored(block, recipe) for block in blocks]), 4))

    def layers(self, given: Sequence[Layer], start: Voxel) -> Float32:
        """Return the same patch of several grey images, (n, D, H, W), mapped."""
        image = new_array((len(given), *self.size), np.float32)
        for layer, out in zip(given, image, strict=True):
            if isinstance(layer, float):
                out[...] = layer
                continue
            voxels, recipe = layer
            if self._is_mapped_in_slabs(voxels, start):
                self._map_in_slabs(voxels, start, recipe, out)
            else:
                block = read_block(voxels, start, self.size, recipe, self._scratch)
                recipe(floored(block, recipe), out)
        return image

    def _is_mapped_in_slabs(self, voxels: BlockReader, start: Voxel) -> bool:
        """Whether a patch is read and mapped a few slices at a time.

        It has int16 values inside the image, in the order of the slices.
        """
        inside = all(
            0 <= a <= n - s for a, n, s in zip(start, voxels.shape, self.size, strict=True)
        )
        in_order = voxels.always_int16 and voxels.stored_axes[0] == 0
        return self.intensity_on == "cpu" and inside and in_order

    def _map_in_slabs(
        self, voxels: BlockReader, start: Voxel, recipe: Intensity, image: Float32
    ) -> None:
        """Read and map a patch into an array (D, H, W).

        By a table, as it is read; else a few slices at a time.
        """
        scratch = self._scratch
        end = (start[0] + self.size[0], start[1] + self.size[1], start[2] + self.size[2])
        shows = padding_shows(voxels, recipe)
        if isinstance(voxels, StackVoxels):
            table = voxels.network_table(recipe, marks_padding=shows)
            if table is not None:
                voxels.read_by(table, start, end, image, threads=threads_here())
                return
        step = max(1, SLAB_VOXELS // (self.size[1] * self.size[2]))
        for first in range(0, self.size[0], step):
            last = min(first + step, self.size[0])
            low, high = (start[0] + first, *start[1:]), (start[0] + last, *end[1:])
            read = voxels.read(low, high, scratch, want_padding=shows)
            recipe(floored(read, recipe), image[first:last])

    @property
    def _scratch(self) -> Scratch:
        """The scratch memory of this thread.

        With ``intensity_on="device"`` the values become the image unmapped, so they are read into
        the memory of the sample.
        """
        name = f"scratch_{self.intensity_on}"
        if not hasattr(of_thread, name):
            allocate = new_array if self.intensity_on == "device" else None
            setattr(of_thread, name, Scratch(allocate))
        return getattr(of_thread, name)  # type: ignore[no-any-return]
