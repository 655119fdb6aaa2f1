"""Where the images of a batch are made, so that the batch can leave a worker without a copy."""

import math
import threading
import weakref
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch

from dicomdl.datasets.transport.memory import Bytes
from dicomdl.datasets.transport.pool import MIN_BYTES, Pool, own_pool

_of_thread: Final = threading.local()


class BatchImages:
    """The memory of the images that a thread makes for one batch, one behind the other in a buffer.

    Within ``with BatchImages(count) as images:``, `images.place` is the place in the batch of the
    sample that is being made. The first batch of a worker only tells whether images may be made in
    place: they may not where images differ in size, nor where code keeps them and might change them
    while the batch is being sent. ``BatchImages(0)`` makes no images in place, as for samples of
    their own within a batch.
    """

    def __init__(self, count: int) -> None:
        self.place = 0
        self._count = count
        self._sizes: set[int] = set()
        self._made: set[int] = set()
        self._images: list[weakref.ref[Bytes]] = []
        self._memory: torch.Tensor | None = None
        self._outer: BatchImages | None = None

    def __enter__(self) -> "BatchImages":
        self._outer, _of_thread.images = getattr(_of_thread, "images", None), self
        if self._count and (pool := own_pool()) is not None:
            pool.in_place.look_at_last_batch()
        return self

    def __exit__(self, *error: object) -> None:
        _of_thread.images = self._outer
        if self._sizes and (pool := own_pool()) is not None:
            pool.in_place.remember(self._images, are_alike=len(self._sizes) == 1)

    def new(self, size: int) -> Bytes:
        """The memory of the sample's image."""
        pool = own_pool() if self._count else None
        if pool is None:
            return np.empty(size, np.uint8)
        self._sizes.add(size)
        image = self._in_place(pool, size)
        if image is None:
            image = np.empty(size, np.uint8)
        self._images.append(weakref.ref(image))
        return image

    def _in_place(self, pool: Pool, size: int) -> Bytes | None:
        if not pool.in_place.is_allowed or self.place in self._made or len(self._sizes) > 1:
            return None
        if not self._made:
            whole = self._count * size
            leased = pool.lease(whole) if whole >= MIN_BYTES else None
            self._memory = None if leased is None else torch.from_numpy(leased).view(-1, size)
        self._made.add(self.place)
        return None if self._memory is None else pool.image(self._memory[self.place])


def new_array(shape: Sequence[int], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """A new array for the image of a sample, its content undefined."""
    images: BatchImages | None = getattr(_of_thread, "images", None)
    if images is None:
        return np.empty(tuple(shape), dtype)
    size = math.prod(shape) * np.dtype(dtype).itemsize
    return images.new(size).view(dtype).reshape(tuple(shape))
