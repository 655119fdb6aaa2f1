"""Whether batches leave workers in buffers, or as torch sends them."""

import contextlib
import functools
import importlib
import os
import sys
import warnings
from multiprocessing import reduction
from multiprocessing.reduction import ForkingPickler
from typing import Any, Final

import torch

from dicomdl.datasets.transport.memory import PAGE, mapped, nameless_file

VARIABLE: Final = "DICOMDL_TRANSPORT"
_CONTENT: Final = 91  # any byte but 0, which is what new memory holds


def torch_collate() -> Any:
    """The module of torch with the functions of the default collate.

    None where its private path has changed.
    """
    with contextlib.suppress(ImportError):
        module = importlib.import_module("torch.utils.data._utils.collate")
        is_known = callable(getattr(module, "collate", None))
        if is_known and isinstance(getattr(module, "default_collate_fn_map", None), dict):
            return module
    return None


@functools.lru_cache(1)
def uses_buffers() -> bool:
    """Whether this process sends batches in buffers.

    The environment allows it, and what they need is there.
    """
    wanted = os.environ.get(VARIABLE) or "auto"
    if wanted == "torch":
        return False
    if wanted != "auto":
        _warn(f"{VARIABLE}={wanted!r}: expected auto or torch; auto is used")
    if not sys.platform.startswith("linux"):
        return False
    fault = self_check()
    if fault is not None:
        _warn(f"batches go torch's slower way, since {fault}; {VARIABLE}=torch ends this warning")
    return fault is None


def self_check() -> str | None:
    """What buffers need and do not find in this process; None where all is there."""
    if not hasattr(os, "memfd_create"):
        return "os.memfd_create is missing"
    if torch_collate() is None:
        return "torch.utils.data._utils.collate.default_collate_fn_map is missing"
    try:
        arrived = _round_trip()
    except Exception as error:
        return f"shared memory cannot be sent ({type(error).__name__}: {error})"
    return None if arrived == _CONTENT else "shared memory arrives without its content"


class _Probe:
    """A value that its reducer sends as a descriptor."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor


def _reduced(probe: _Probe) -> tuple[Any, ...]:
    return _first_byte, (reduction.DupFd(probe.descriptor),)


def _first_byte(descriptor: Any) -> int:
    number = descriptor.detach()
    try:
        return int(mapped("self", number, PAGE)[0])
    finally:
        os.close(number)


def _round_trip() -> int:
    """The byte that arrives when a page is sent by the way of all buffers, within this process."""
    ForkingPickler.register(_Probe, _reduced)
    descriptor = nameless_file(PAGE)
    try:
        mapped("self", descriptor, PAGE)[0] = _CONTENT
        arrived: int = ForkingPickler.loads(ForkingPickler.dumps(_Probe(descriptor)))
        return arrived
    finally:
        os.close(descriptor)


def _warn(message: str) -> None:
    worker = torch.utils.data.get_worker_info()
    if worker is None or worker.id == 0:
        warnings.warn(message, RuntimeWarning, stacklevel=2)
