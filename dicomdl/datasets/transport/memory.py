"""Memory of buffers, as the worker and the receiver see it."""

import os
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

Bytes = npt.NDArray[np.uint8]

# The first page of a buffer holds its state in its first byte; tensors begin behind it.
PAGE: Final = 4096
STATE: Final = 0
# Of the worker, or nobody's; leased to the receiver; visible in a forked child of the receiver,
# for good.
FREE, LEASED, LOST = range(3)

_INTEGERS: Final = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
_FLOATS: Final = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
PLAIN_TYPES: Final = frozenset((torch.bool, *_INTEGERS, *_FLOATS))


class Lease(NamedTuple):
    """Where a tensor lies: what a worker tells a receiver about one lease of a buffer."""

    name: str
    worker: int  # the process that owns the buffer
    number: int  # the buffer's descriptor in that process
    size: int
    content: int  # bytes of the tensor
    descriptor: Any  # how to get a descriptor; None once a receiver has one
    evicted: list[str]  # buffers that the worker no longer has


def is_plain_tensor(value: Any) -> bool:
    """Whether a value is a tensor that is its numbers and nothing else."""
    is_numbers = (
        type(value) is torch.Tensor
        and value.device.type == "cpu"
        and value.layout == torch.strided
        and value.dtype in PLAIN_TYPES
    )
    return is_numbers and not value.requires_grad


def nameless_file(size: int) -> int:
    """A descriptor of so many bytes of memory; an OSError where there is not enough."""
    descriptor = os.memfd_create("dicomdl-batch", os.MFD_CLOEXEC)
    try:
        # Touching a page of a map for which there is no memory would kill the process.
        os.posix_fallocate(descriptor, 0, size)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def mapped(process: int | str, descriptor: int, size: int) -> Bytes:
    """The bytes behind a descriptor of a process.

    Mapped by torch, whose maps keep no descriptor, as Python's do.
    """
    path = f"/proc/{process}/fd/{descriptor}"
    if os.stat(path).st_size != size:
        raise FileNotFoundError(f"{path} is another file")
    contents: Bytes = torch.from_file(path, shared=True, size=size, dtype=torch.uint8).numpy()
    return contents


def as_tensor(memory: Bytes, shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
    """The tensor at the beginning of memory."""
    size = torch.Size(shape).numel() * dtype.itemsize
    # A view could not be detached in place.
    return torch.from_numpy(memory)[:size].view(dtype).reshape(tuple(shape)).detach()
