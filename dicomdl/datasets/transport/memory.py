"""The memory of buffers: its layout and its states, for the worker and the receiver."""

import os
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

Bytes = npt.NDArray[np.uint8]

# The first byte of a buffer is its state; tensors begin at the second page.
PAGE: Final = 4096
STATE: Final = 0
# FREE: the worker may use it. LEASED: the receiver references it. LOST: a forked child of the
# receiver can see it, so it is never reused.
FREE, LEASED, LOST = range(3)

_INTEGERS: Final = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
_FLOATS: Final = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
PLAIN_TYPES: Final = frozenset((torch.bool, *_INTEGERS, *_FLOATS))


class Lease(NamedTuple):
    """The message from a worker to a receiver about one lease of a buffer.

    Attributes
    ----------
    name
        The name of the buffer.
    worker
        The process that owns the buffer.
    number
        The descriptor of the buffer in that process.
    size
        The bytes of the buffer.
    content
        The bytes of the tensor.
    descriptor
        The means to receive a descriptor; None once a receiver has one.
    evicted
        The names of buffers that the worker has evicted.
    """

    name: str
    worker: int
    number: int
    size: int
    content: int
    descriptor: Any
    evicted: list[str]


def is_plain_tensor(value: Any) -> bool:
    """Return whether a value is a dense CPU tensor without gradient, of a plain dtype."""
    is_numbers = (
        type(value) is torch.Tensor
        and value.device.type == "cpu"
        and value.layout == torch.strided
        and value.dtype in PLAIN_TYPES
    )
    return is_numbers and not value.requires_grad


def nameless_file(size: int) -> int:
    """Return a descriptor of `size` bytes of memory; raise an OSError without enough memory."""
    descriptor = os.memfd_create("dicomdl-batch", os.MFD_CLOEXEC)
    try:
        # The memory is allocated now: touching a mapped page without memory behind it would kill
        # the process.
        os.posix_fallocate(descriptor, 0, size)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def mapped(process: int | str, descriptor: int, size: int) -> Bytes:
    """Return the mapped bytes behind a descriptor of a process.

    torch maps them, since a map of Python's `mmap` would hold a descriptor.
    """
    path = f"/proc/{process}/fd/{descriptor}"
    if os.stat(path).st_size != size:
        raise FileNotFoundError(f"{path} is another file")
    contents: Bytes = torch.from_file(path, shared=True, size=size, dtype=torch.uint8).numpy()
    return contents


def as_tensor(memory: Bytes, shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
    """Return the tensor at the beginning of memory."""
    size = torch.Size(shape).numel() * dtype.itemsize
    # Users may call `detach_` on the result, which fails for a view.
    return torch.from_numpy(memory)[:size].view(dtype).reshape(tuple(shape)).detach()
