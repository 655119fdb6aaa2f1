"""The decision whether batches leave a worker in buffers or as torch sends them.

A self-check sends one page through the functions that all buffers use, once per process.
"""

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
# Any byte except 0, the content of new memory.
_CONTENT: Final = 91


def torch_collate() -> Any:
    """Return the module of torch's default collate, or None if its private path has changed."""
    with contextlib.suppress(ImportError):
        module = importlib.import_module("torch.utils.data._utils.collate")
        is_known = callable(getattr(module, "collate", None))
        if is_known and isinstance(getattr(module, "default_collate_fn_map", None), dict):
            return module
    return None


@functools.lru_cache(1)
def uses_buffers() -> bool:
    """Return whether this process sends batches in buffers.

    It does if the environment allows it and the self-check succeeds.
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
    """Return a reason why this process cannot send buffers, or None if it can."""
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
    """Reduce a probe to its descriptor."""
    return _first_byte, (reduction.DupFd(probe.descriptor),)


def _first_byte(descriptor: Any) -> int:
    """Return the first byte of the page behind a received descriptor."""
    number = descriptor.detach()
    try:
        return int(mapped("self", number, PAGE)[0])
    finally:
        os.close(number)


def _round_trip() -> int:
    """Send a page as buffers are sent, within this process, and return the byte that arrives."""
    ForkingPickler.register(_Probe, _reduced)
    descriptor = nameless_file(PAGE)
    try:
        mapped("self", descriptor, PAGE)[0] = _CONTENT
        arrived: int = ForkingPickler.loads(ForkingPickler.dumps(_Probe(descriptor)))
        return arrived
    finally:
        os.close(descriptor)


def _warn(message: str) -> None:
    """Warn, in one worker of a loader only."""
    worker = torch.utils.data.get_worker_info()
    if worker is None or worker.id == 0:
        warnings.warn(message, RuntimeWarning, stacklevel=2)
