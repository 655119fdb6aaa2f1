"""The receiver's side: buffers of workers, mapped once and released when their last view goes."""

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
    is_forked: bool = False  # a forked child may see the leased content


class Receiver:
    """The buffers that are mapped in this process, and those that are leased to it.

    A buffer stays mapped between leases only if its worker is a child of this process, whose end
    tells that the buffer is no longer needed.
    """

    def __init__(self) -> None:
        self.mapped: dict[str, _Buffer] = {}
        self.leased: set[_Buffer] = set()
        self.workers: dict[int, weakref.ref[Any]] = {}  # process objects of the workers

    def receive(self, lease: Lease) -> Bytes:
        """The bytes of a lease and no others.

        Code that copies a tensor's storage must not get other pixels.
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
        """Give a buffer back to its worker when the last view is gone.

        In a fork it is not the last one.
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
        """Whether a worker is a child of this process, which is watched from now on."""
        if worker not in self.workers:
            for child in tuple(getattr(multiprocessing.process, "_children", ())):
                if child.pid == worker:
                    self.workers[worker] = weakref.ref(child)
                    weakref.finalize(child, self._forget, worker).atexit = False
        return worker in self.workers

    def _has_ended(self, worker: int) -> bool:
        watched = self.workers.get(worker)
        process = None if watched is None else watched()
        return process is not None and process.exitcode is not None

    def _forget(self, worker: int) -> None:
        self.workers.pop(worker, None)
        for name, buffer in self.mapped.copy().items():
            if buffer.worker == worker:
                self.mapped.pop(name, None)

    def before_fork(self) -> None:
        """Mark the buffers whose content a child is about to see as well."""
        for buffer in self.leased.copy():
            buffer.is_forked = True

    def after_fork(self) -> None:
        """Forget the buffers of the parent in a child."""
        self.mapped.clear()
        self.leased.clear()
        self.workers.clear()


def _opened(lease: Lease) -> _Buffer:
    """A buffer that is new here: its descriptor is passed as torch passes its own.

    Where another process got the descriptor, the buffer is opened by the descriptor of the worker.
    """
    own = -1
    try:
        if lease.descriptor is None:
            contents = mapped(lease.worker, lease.number, lease.size)
        else:
            own = lease.descriptor.detach()
            contents = mapped("self", own, lease.size)
    except (OSError, EOFError) as error:
        raise RuntimeError(
            "a batch cannot be received: the worker that made it has ended, or no descriptors are left"
        ) from error
    finally:
        if own >= 0:
            os.close(own)
    return _Buffer(lease.name, lease.worker, contents)


RECEIVER: Final = Receiver()

if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=RECEIVER.before_fork, after_in_child=RECEIVER.after_fork)
