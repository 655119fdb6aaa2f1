"""The worker's side: a pool of buffers that are leased for batches and reused.

A buffer serves tensors of half its capacity or more, so at most half of the memory is unused.
"""

import os
import secrets
import threading
import weakref
from collections.abc import Sequence
from multiprocessing import reduction
from typing import Final

import torch

from dicomdl.datasets.transport.check import uses_buffers
from dicomdl.datasets.transport.memory import (
    FREE,
    LEASED,
    LOST,
    PAGE,
    PLAIN_TYPES,
    STATE,
    Bytes,
    Lease,
    as_tensor,
    mapped,
    nameless_file,
)
from dicomdl.datasets.worker import is_worker

# Smaller tensors are sent within the message.
MIN_BYTES: Final = 1 << 16
# The limit per worker, in which each buffer takes a descriptor.
MAX_BUFFERS: Final = 64
# After this many leases in a row with more free than leased bytes, the surplus is evicted.
SURPLUS_LEASES: Final = 32


class Buffer:
    """Memory that is leased for a batch, sent to the receiver and released there."""

    def __init__(self, size: int) -> None:
        self.capacity = -(-size // PAGE) * PAGE
        self.size = PAGE + self.capacity
        self.descriptor = nameless_file(self.size)
        weakref.finalize(self, os.close, self.descriptor)
        self.name = secrets.token_hex(8)
        # Whether a receiver has the descriptor.
        self.has_receiver = False
        self._bytes = mapped("self", self.descriptor, self.size)
        self._start = self._bytes.ctypes.data + PAGE
        self._leased: weakref.ref[Bytes] | None = None

    @property
    def state(self) -> int:
        """FREE, LEASED or LOST, as the receiver sets it."""
        return int(self._bytes[STATE])

    @property
    def is_free(self) -> bool:
        """Whether no process references the content."""
        return self.leased is None and self.state == FREE

    @property
    def leased(self) -> Bytes | None:
        """The leased memory, as long as this process references it."""
        return None if self._leased is None else self._leased()

    def lease(self, size: int) -> Bytes:
        """Return `size` bytes of a free buffer, leased until they are released."""
        leased = self._bytes[PAGE : PAGE + size]
        self._leased = weakref.ref(leased)
        self.is_batch = self.is_sent = False
        # The images in the buffer.
        self.images: list[weakref.ref[Bytes]] = []
        return leased

    def starts_at(self, address: int) -> bool:
        """Return whether it is leased and its content begins at an address."""
        return self._start == address and self.leased is not None

    def hand_over(self) -> None:
        """Hand the content over to the receiver, until it releases the buffer."""
        self.has_receiver = True
        self._bytes[STATE] = LEASED


class InPlace:
    """The permission to read images into the buffer of their batch, as earlier batches show.

    A batch must first show that images have one size and that no code references them afterwards.
    """

    def __init__(self) -> None:
        self.is_allowed = False
        self._is_refused = False
        self._last: list[weakref.ref[Bytes]] = []

    def look_at_last_batch(self) -> None:
        """Withdraw the permission if images of the last batch are still referenced."""
        if any(image() is not None for image in self._last):
            self._refuse()

    def remember(self, images: list[weakref.ref[Bytes]], *, are_alike: bool) -> None:
        """Take over the images of a batch; `are_alike` is true if they have one size."""
        self._last = images
        self.is_allowed = not self._is_refused
        if not are_alike:
            self._refuse()

    def _refuse(self) -> None:
        """Withdraw the permission for good."""
        self._is_refused, self.is_allowed = True, False


class Pool:
    """The buffers of a worker.

    A lock guards them, since the worker leases buffers and the thread of a queue sends them.
    """

    def __init__(self) -> None:
        self.process = os.getpid()
        self.in_place = InPlace()
        self._lock = threading.Lock()
        # The buffers, in the order of their last lease.
        self._buffers: list[Buffer] = []
        # The names of buffers evicted since the last message.
        self._evicted: list[str] = []
        self._surplus_leases = 0

    @property
    def size(self) -> int:
        """The bytes of all buffers."""
        return sum(buffer.size for buffer in self._buffers)

    def lease(self, size: int) -> Bytes | None:
        """Return `size` bytes of leased memory, or None if there is none."""
        with self._lock:
            for lost in [buffer for buffer in self._buffers if buffer.state == LOST]:
                self._evict(lost)
            # One reading of the states: the receiver releases buffers at any moment.
            free = [buffer for buffer in self._buffers if buffer.is_free]
            buffer = self._fitting(free, size) or self._new_buffer(free, size)
            if buffer is None:
                return None
            self._buffers.append(buffer)
            leased = buffer.lease(size)
            self._drop_surplus()
            return leased

    def _fitting(self, free: Sequence[Buffer], size: int) -> Buffer | None:
        """Take out the first of the free buffers that has a fitting size."""
        for buffer in free:
            if size <= buffer.capacity <= 2 * size:
                self._buffers.remove(buffer)
                return buffer
        return None

    def _new_buffer(self, free: Sequence[Buffer], size: int) -> Buffer | None:
        """Create a buffer, or return None if the system or the limit does not allow it.

        At the limit it takes the place of the first free buffer.
        """
        if len(self._buffers) >= MAX_BUFFERS:
            if not free:
                return None
            self._evict(free[0])
        try:
            return Buffer(size)
        except (OSError, RuntimeError, ValueError):
            # There is no memory or descriptor left, or the system forbids it.
            return None

    def _drop_surplus(self) -> None:
        """Evict free buffers that have outweighed leased ones for many leases, the oldest first."""
        free = [buffer for buffer in self._buffers if buffer.is_free]
        surplus = 2 * sum(buffer.size for buffer in free) - self.size
        self._surplus_leases = self._surplus_leases + 1 if surplus > 0 else 0
        if self._surplus_leases >= SURPLUS_LEASES:
            self._surplus_leases = 0
            for buffer in free:
                if surplus > 0:
                    self._evict(buffer)
                    surplus -= buffer.size

    def _evict(self, buffer: Buffer) -> None:
        """Remove a buffer, and note its name for the receiver."""
        self._buffers.remove(buffer)
        if buffer.has_receiver:
            self._evicted.append(buffer.name)

    def before_fork(self) -> None:
        """Drop the buffers that this process references: a child may reference them for longer."""
        with self._lock:
            self._buffers = [buffer for buffer in self._buffers if buffer.leased is None]

    def image(self, memory: torch.Tensor) -> Bytes:
        """Return leased memory as the bytes of an image, and register the image."""
        image: Bytes = memory.numpy()
        buffer = self._at(memory.untyped_storage().data_ptr())
        if buffer is not None:
            buffer.images.append(weakref.ref(image))
        return image

    def memory_of_batch(self, tensors: Sequence[torch.Tensor]) -> Bytes | None:
        """Return the leased memory that these tensors fill from its beginning, else None.

        A lease is returned once, so that two batches never share memory.
        """
        first, size = tensors[0].data_ptr(), tensors[0].nbytes
        for position, tensor in enumerate(tensors):
            is_next = tensor.is_contiguous() and tensor.data_ptr() == first + position * size
            if not is_next or tensor.is_neg():
                return None
        buffer = self._at(first)
        memory = None if buffer is None else buffer.leased
        if buffer is None or memory is None or buffer.is_batch:
            return None
        if memory.nbytes < len(tensors) * size:
            return None
        buffer.is_batch = True
        return memory

    def send(self, tensor: torch.Tensor) -> Lease | None:
        """Return the message that gives a receiver a tensor; None if no buffer is free.

        A tensor in a buffer without referenced images is sent in that buffer. Any other tensor is
        copied into a buffer.
        """
        buffer = self._to_send(tensor)
        if buffer is None:
            copy = empty(tensor.shape, tensor.dtype).copy_(tensor)
            buffer = self._to_send(copy)
        if buffer is None:
            return None
        with self._lock:
            descriptor = None if buffer.has_receiver else reduction.DupFd(buffer.descriptor)
            buffer.hand_over()
            evicted, self._evicted = self._evicted, []
        return Lease(
            buffer.name,
            self.process,
            buffer.descriptor,
            buffer.size,
            tensor.nbytes,
            descriptor,
            evicted,
        )

    def _to_send(self, tensor: torch.Tensor) -> Buffer | None:
        """Return the buffer whose content begins with the tensor, once per lease, else None.

        Several threads may try to send the same batch.
        """
        buffer = self._at(tensor.data_ptr())
        with self._lock:
            if buffer is None or buffer.is_sent:
                return None
            if any(image() is not None for image in buffer.images):
                # The buffer is left to the code that references an image in it.
                if buffer in self._buffers:
                    self._buffers.remove(buffer)
                return None
            buffer.is_sent = True
            return buffer

    def _at(self, address: int) -> Buffer | None:
        """Return the leased buffer whose content begins at an address."""
        with self._lock:
            return next((buffer for buffer in self._buffers if buffer.starts_at(address)), None)


class _OwnPool:
    """The pool of this process; a forked process gets a new one."""

    def __init__(self) -> None:
        self.pool: Pool | None = None

    def get(self) -> Pool:
        """Return the pool of this process, created at the first call."""
        if self.pool is None or self.pool.process != os.getpid():
            self.pool = Pool()
        return self.pool

    def before_fork(self) -> None:
        """Prepare the pool for a fork."""
        if self.pool is not None and self.pool.process == os.getpid():
            self.pool.before_fork()


_OWN: Final = _OwnPool()

if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_OWN.before_fork)


def own_pool() -> Pool | None:
    """Return the pool of this process, or None outside of workers and if torch sends batches."""
    return _OWN.get() if is_worker() and uses_buffers() else None


def empty(shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
    """Return a new tensor with undefined content.

    A large tensor in a worker lies in a buffer, which leaves the worker without a copy.
    """
    size = torch.Size(shape).numel() * dtype.itemsize
    pool = own_pool() if size >= MIN_BYTES and dtype in PLAIN_TYPES else None
    leased = None if pool is None else pool.lease(size)
    if leased is None:
        return torch.empty(tuple(shape), dtype=dtype)
    return as_tensor(leased, shape, dtype)


def stacked(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    """Stack plain tensors of one shape and dtype, in memory that leaves a worker without a copy.

    If they are all images that `BatchImages` placed in a buffer, the result is a view of their
    memory: code that changes one changes the other.
    """
    shape, dtype = (len(tensors), *tensors[0].shape), tensors[0].dtype
    pool = own_pool()
    if pool is not None and (memory := pool.memory_of_batch(tensors)) is not None:
        return as_tensor(memory, shape, dtype)
    return torch.stack(list(tensors), out=empty(shape, dtype))
