"""The worker's side: a pool of buffers that are leased for batches and reused."""

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

# Smaller tensors travel in the message.
MIN_BYTES: Final = 1 << 16
# Per worker: each buffer is a descriptor there.
MAX_BUFFERS: Final = 64
# After so many leases with more free than leased bytes, the surplus is evicted.
SURPLUS_LEASES: Final = 32


class Buffer:
    """Memory that is leased for a batch, sent to the receiver and released there."""

    def __init__(self, size: int) -> None:
        self.capacity = -(-size // PAGE) * PAGE
        self.size = PAGE + self.capacity
        self.descriptor = nameless_file(self.size)
        weakref.finalize(self, os.close, self.descriptor)
        self.name = secrets.token_hex(8)
        self.has_receiver = False  # a receiver has its descriptor
        self._bytes = mapped("self", self.descriptor, self.size)
        self._start = self._bytes.ctypes.data + PAGE
        self._leased: weakref.ref[Bytes] | None = None

    @property
    def state(self) -> int:
        return int(self._bytes[STATE])

    @property
    def is_free(self) -> bool:
        return self.leased is None and self.state == FREE

    @property
    def leased(self) -> Bytes | None:
        """The memory that is leased, as long as this process references it."""
        return None if self._leased is None else self._leased()

    def lease(self, size: int) -> Bytes:
        leased = self._bytes[PAGE : PAGE + size]
        self._leased = weakref.ref(leased)
        self.is_batch = self.is_sent = False
        self.images: list[weakref.ref[Bytes]] = []  # that were made in it
        return leased

    def starts_at(self, address: int) -> bool:
        """Whether it is leased, and its content begins at an address."""
        return self._start == address and self.leased is not None

    def hand_over(self) -> None:
        """Leave the content to the receiver, until that releases it."""
        self.has_receiver = True
        self._bytes[STATE] = LEASED


class InPlace:
    """Whether the images of a batch may be made in the batch's buffer, as the batches before have shown.

    Not before a batch has shown that images are of one size, and that no code keeps them.
    """

    def __init__(self) -> None:
        self.is_allowed = False
        self._is_refused = False
        self._last: list[weakref.ref[Bytes]] = []

    def look_at_last_batch(self) -> None:
        """Refuse from now on where images of the last batch are still referenced."""
        if any(image() is not None for image in self._last):
            self._refuse()

    def remember(self, images: list[weakref.ref[Bytes]], *, are_alike: bool) -> None:
        """Take a batch's images as the last ones; `are_alike` says that they have one size."""
        self._last = images
        self.is_allowed = not self._is_refused
        if not are_alike:
            self._refuse()

    def _refuse(self) -> None:
        self._is_refused, self.is_allowed = True, False


class Pool:
    """The buffers of a worker.

    A lock guards them, since the thread of a queue sends what the worker leases.
    """

    def __init__(self) -> None:
        self.process = os.getpid()
        self.in_place = InPlace()
        self._lock = threading.Lock()
        self._buffers: list[Buffer] = []  # in the order of their last lease
        self._evicted: list[str] = []  # since the last message
        self._surplus_leases = 0

    @property
    def size(self) -> int:
        """Bytes of all buffers."""
        return sum(buffer.size for buffer in self._buffers)

    def lease(self, size: int) -> Bytes | None:
        """Memory of so many bytes; None where there is none."""
        with self._lock:
            for lost in [one for one in self._buffers if one.state == LOST]:
                self._evict(lost)
            buffer = self._free_buffer(size) or self._new_buffer(size)
            if buffer is None:
                return None
            self._buffers.append(buffer)
            leased = buffer.lease(size)
            self._drop_surplus()
            return leased

    def _free_buffer(self, size: int) -> Buffer | None:
        for buffer in self._buffers:
            if size <= buffer.capacity <= 2 * size and buffer.is_free:
                self._buffers.remove(buffer)
                return buffer
        return None

    def _new_buffer(self, size: int) -> Buffer | None:
        if len(self._buffers) >= MAX_BUFFERS:
            free = next((buffer for buffer in self._buffers if buffer.is_free), None)
            if free is None:
                return None
            self._evict(free)
        try:
            return Buffer(size)
        except (OSError, RuntimeError, ValueError):
            # No memory, no descriptors, or a system that forbids it.
            return None

    def _drop_surplus(self) -> None:
        """Evict free buffers, the oldest lease first, when they have outweighed leased ones for many leases."""
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
        self._buffers.remove(buffer)
        if buffer.has_receiver:
            self._evicted.append(buffer.name)

    def before_fork(self) -> None:
        """Give up the buffers that this process sees leased: its child may see them for longer."""
        with self._lock:
            self._buffers = [buffer for buffer in self._buffers if buffer.leased is None]

    def image(self, memory: torch.Tensor) -> Bytes:
        """Bytes of leased memory in which an image is made."""
        image: Bytes = memory.numpy()
        buffer = self._at(memory.untyped_storage().data_ptr())
        if buffer is not None:
            buffer.images.append(weakref.ref(image))
        return image

    def whole_batch(self, tensors: Sequence[torch.Tensor]) -> Bytes | None:
        """The leased memory in which exactly these tensors lie, one behind the other from its beginning; once."""
        first, size = tensors[0].data_ptr(), tensors[0].nbytes
        for place, tensor in enumerate(tensors):
            lies_here = tensor.is_contiguous() and tensor.data_ptr() == first + place * size
            if not lies_here or tensor.is_neg():
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
        """What a receiver needs in order to see a tensor, or a copy of it.

        None where no buffer is free.

        The tensor's own buffer is sent where it lies in one that no code in this process keeps.
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
        """The buffer that a tensor begins, once per lease.

        Several threads may be about to send the same batch.
        """
        buffer = self._at(tensor.data_ptr())
        with self._lock:
            if buffer is None or buffer.is_sent:
                return None
            if any(image() is not None for image in buffer.images):
                if buffer in self._buffers:
                    self._buffers.remove(buffer)  # it stays with the code that keeps an image
                return None
            buffer.is_sent = True
            return buffer

    def _at(self, address: int) -> Buffer | None:
        with self._lock:
            return next((buffer for buffer in self._buffers if buffer.starts_at(address)), None)


class _OwnPool:
    """The pool of this process, made anew in a forked one."""

    def __init__(self) -> None:
        self.pool: Pool | None = None

    def get(self) -> Pool:
        if self.pool is None or self.pool.process != os.getpid():
            self.pool = Pool()
        return self.pool

    def before_fork(self) -> None:
        if self.pool is not None and self.pool.process == os.getpid():
            self.pool.before_fork()


_OWN: Final = _OwnPool()

if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_OWN.before_fork)


def own_pool() -> Pool | None:
    """The pool of this process; None where it is no worker, or batches go torch's way."""
    return _OWN.get() if is_worker() and uses_buffers() else None


def empty(shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
    """A new tensor, its content undefined.

    In a worker, if it is large, in memory that leaves it without a copy.
    """
    size = torch.Size(shape).numel() * dtype.itemsize
    pool = own_pool() if size >= MIN_BYTES and dtype in PLAIN_TYPES else None
    leased = None if pool is None else pool.lease(size)
    if leased is None:
        return torch.empty(tuple(shape), dtype=dtype)
    return as_tensor(leased, shape, dtype)


def stacked(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    """Plain tensors of one shape and dtype in one, in memory that leaves a worker without a copy.

    If they are all that `BatchImages` made in a buffer, the result is their own memory: code that
    changes one changes the other.
    """
    shape, dtype = (len(tensors), *tensors[0].shape), tensors[0].dtype
    pool = own_pool()
    if pool is not None and (memory := pool.whole_batch(tensors)) is not None:
        return as_tensor(memory, shape, dtype)
    return torch.stack(list(tensors), out=empty(shape, dtype))
