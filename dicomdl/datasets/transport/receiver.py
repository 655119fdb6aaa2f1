"""The receiver's side: buffers of workers, mapped once and released with their last view."""

import multiprocessing.process
import os
import weakref
from dataclasses import dataclass
from typing import Any, Final

from dicomdl.datasets.transport.memory import FREE, LOST, PAGE, STATE, Bytes, Lease, mapped


@dataclass(eq=False, slots=True)
class _Buffer:
    """A buffer of a worker, mapped in this process."""

    name: str
    worker: int
    bytes: Bytes
    # Whether a forked child may see the leased content.
    is_forked: bool = False


class Receiver:
    """The buffers that are mapped in this process, and those that are leased to it.

    A buffer stays mapped between leases only if its worker is a child of this process. The end of
    the child then shows that the buffer is no longer needed.
    """

    def __init__(self) -> None:
        self.mapped: dict[str, _Buffer] = {}
        self.leased: set[_Buffer] = set()
        # The process objects of the workers.
        self.workers: dict[int, weakref.ref[Any]] = {}

    def receive(self, lease: Lease) -> Bytes:
        """Return exactly the bytes of a lease.

        Code that copies the storage of a tensor must not get other pixels.
        """
        for name in lease.evicted:
            self.mapped.pop(name, None)
        buffer = self.mapped.get(lease.name) or _opened(lease)
        if self._is_own(lease.worker):
            self.mapped[lease.name] = buffer
        view = buffer.bytes[PAGE : PAGE + lease.content]
        self.leased.add(buffer)
        weakref.finalize(view, self._release, buffer, os.getpid()).atexit = False
        return view

    def _release(self, buffer: _Buffer, process: int) -> None:
        """Release a buffer to its worker after the last view is freed.

        A forked process does nothing, since the parent may still have views.
        """
        if os.getpid() != process:
            return
        self.leased.discard(buffer)
        if buffer.is_forked:
            self.mapped.pop(buffer.name, None)
        buffer.bytes[STATE] = LOST if buffer.is_forked else FREE
        if self._has_ended(buffer.worker):
            for worker in filter(self._has_ended, self.workers.copy()):
                self._forget(worker)

    def _is_own(self, worker: int) -> bool:
        """Return whether a worker is a child of this process, and watch it from then on."""
        if worker not in self.workers:
            for child in tuple(getattr(multiprocessing.process, "_children", ())):
                if child.pid == worker:
                    self.workers[worker] = weakref.ref(child)
                    weakref.finalize(child, self._forget, worker).atexit = False
        return worker in self.workers

    def _has_ended(self, worker: int) -> bool:
        """Return whether a watched worker has ended."""
        watched = self.workers.get(worker)
        process = None if watched is None else watched()
        return process is not None and process.exitcode is not None

    def _forget(self, worker: int) -> None:
        """Drop a worker and its mapped buffers."""
        self.workers.pop(worker, None)
        for name, buffer in self.mapped.copy().items():
            if buffer.worker == worker:
                self.mapped.pop(name, None)

    def before_fork(self) -> None:
        """Mark the leased buffers, whose content a child will see too."""
        for buffer in self.leased.copy():
            buffer.is_forked = True

    def after_fork(self) -> None:
        """Drop the buffers of the parent, in a child."""
        self.mapped.clear()
        self.leased.clear()
        self.workers.clear()


def _opened(lease: Lease) -> _Buffer:
    """Map a buffer at its first lease in this process.

    Its descriptor is passed as torch passes descriptors. If another process received the
    descriptor, the buffer is opened through that of the worker, under ``/proc``.
    """
    descriptor = -1
    try:
        if lease.descriptor is None:
            contents = mapped(lease.worker, lease.number, lease.size)
        else:
            descriptor = lease.descriptor.detach()
            contents = mapped("self", descriptor, lease.size)
    except (OSError, EOFError) as error:
        raise RuntimeError(
            "a batch cannot be received: the worker that made it has ended, or no descriptors are "
            "left"
        ) from error
    finally:
        if descriptor >= 0:
            os.close(descriptor)
    return _Buffer(lease.name, lease.worker, contents)


RECEIVER: Final = Receiver()

if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=RECEIVER.before_fork, after_in_child=RECEIVER.after_fork)
