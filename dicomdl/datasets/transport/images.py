"""The memory for the images of a batch, arranged so that the batch leaves a worker uncopied.

Images of one batch are written one behind the other into one buffer, which then is the batch.
"""

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
    """The memory of the images that a thread reads for one batch, in one buffer.

    Within ``with BatchImages(count) as images:``, set `images.position` to the index in the batch
    of the sample that is read next. The first batch of a worker is not read into a buffer; it shows
    whether later ones may be. They may not if images differ in size, or if code references the
    images and might change them while the batch is being sent. ``BatchImages(0)`` gives each image
    separate memory, as for a single sample read within a batch.
    """

    def __init__(self, count: int) -> None:
        self.position = 0
        self._count = count
        self._sizes: set[int] = set()
        self._filled: set[int] = set()
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
        """Return `size` bytes for the image of the sample at `position`."""
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
        """Return memory in the buffer of the batch, or None if the image may not lie there."""
        if not pool.in_place.is_allowed or self.position in self._filled or len(self._sizes) > 1:
            return None
        if not self._filled:
            batch_bytes = self._count * size
            leased = pool.lease(batch_bytes) if batch_bytes >= MIN_BYTES else None
            self._memory = None if leased is None else torch.from_numpy(leased).view(-1, size)
        self._filled.add(self.position)
        return None if self._memory is None else pool.image(self._memory[self.position])


def new_array(shape: Sequence[int], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """Return a new array for the image of a sample, with undefined content."""
    images: BatchImages | None = getattr(_of_thread, "images", None)
    if images is None:
        return np.empty(tuple(shape), dtype)
    size = math.prod(shape) * np.dtype(dtype).itemsize
    return images.new(size).view(dtype).reshape(tuple(shape))
