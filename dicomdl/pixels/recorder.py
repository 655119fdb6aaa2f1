"""The flight recorder: which frame each process is decoding, readable after the process has died.

A decoder that crashes ends its process without a word. Therefore a process writes the file, frame
and decoder into a slot of shared memory before it decodes, and marks the slot when it is done: 2 us
per compressed frame, nothing for uncompressed ones. The memory has no name in any file system, so
nothing of it outlives the processes that map it, not even after `kill -9`.

The process that makes a dataset makes the memory (`Recorder`). Workers inherit it when they are
forked, and receive it with their copy of the dataset otherwise. Processes without that memory
record nothing.
"""

import mmap
import multiprocessing.context
import os
import struct
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing import reduction
from typing import Any, Final

# Of these, only the slots in use take memory.
SLOTS: Final = 1024
SLOT_BYTES: Final = 4096
# Process, whether it is decoding, frame number, start in seconds since the epoch, and the lengths
# of path and decoder, which follow.
_HEAD: Final = struct.Struct("<IIqdHH")
_STATE: Final = struct.Struct("<I")
_STATE_AT: Final = 4
_DONE, _DECODING = 0, 1
_CUT: Final = b"..."


@dataclass(frozen=True, slots=True)
class Decoded:
    """A frame that a process has decoded, or is decoding.

    Attributes
    ----------
    pid
        The process.
    path, frame_number
        The frame.
    decoder
        The decoder.
    seconds
        Seconds since decoding began.
    is_done
        False while the process decodes, and for ever if it died or hangs there.
    """

    pid: int
    path: str
    frame_number: int
    decoder: str
    seconds: float
    is_done: bool


class _Slots:
    """Slots in memory that several processes map; a process takes one per decoding thread."""

    def __init__(self, descriptor: int) -> None:
        # Kept open, to be sent to processes that do not inherit it.
        self.descriptor = descriptor
        self._memory = memoryview(mmap.mmap(descriptor, SLOTS * SLOT_BYTES))

    def take(self) -> memoryview | None:
        """Return a slot that no living process has, marked with this one; None if there is none.

        Two processes that take at once begin at different slots, as their numbers differ.
        """
        own = os.getpid()
        for is_reused in (False, True):
            for number in range(own, own + SLOTS):
                slot = self._slot(number % SLOTS)
                (owner,) = _STATE.unpack_from(slot)
                if owner == 0 or (is_reused and not _may_live(owner)):
                    _HEAD.pack_into(slot, 0, own, _DONE, 0, 0.0, 0, 0)
                    return slot
        return None

    def _slot(self, number: int) -> memoryview:
        return self._memory[number * SLOT_BYTES : (number + 1) * SLOT_BYTES]

    def read(self) -> Iterator[Decoded]:
        """Yield what the slots hold."""
        for number in range(SLOTS):
            slot = self._slot(number)
            pid, state, frame, began, path, decoder = _HEAD.unpack_from(slot)
            if pid and path:
                text = bytes(slot[_HEAD.size :][: path + decoder])
                yield Decoded(
                    pid,
                    os.fsdecode(text[:path]),
                    frame,
                    text[path:].decode("utf-8", "replace"),
                    max(0.0, time.time() - began),
                    state != _DECODING,
                )


def _may_live(pid: int) -> bool:
    """Whether a process may still live; always true where asking would end it (Windows)."""
    if os.name != "posix":
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _nameless() -> int:
    """Return a descriptor of zeroed memory that has no name."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("dicomdl-recorder", os.MFD_CLOEXEC)
    else:
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    os.ftruncate(descriptor, SLOTS * SLOT_BYTES)
    return descriptor


class _OfProcess:
    """The memory of this process, and its slots that no thread uses at the moment."""

    def __init__(self) -> None:
        self.slots: _Slots | None = None
        self.recorder: Recorder | None = None
        self.begin()

    def begin(self) -> None:
        """Begin without slots of its own, as a forked process does."""
        self.process = os.getpid()
        self.free: list[memoryview] = []

    def slot(self) -> memoryview | None:
        """Return a slot for a frame, or None if this process records nothing."""
        if self.slots is None:
            return None
        if self.process != os.getpid():
            self.begin()
        return self.free.pop() if self.free else self.slots.take()


_here: Final = _OfProcess()


class Recorder:
    """The memory of the recorder, as an attribute of what workers receive or inherit.

    There is one per process, which the first call makes, with the memory. A copy for a process that
    does not inherit the memory takes it along; any other copy makes its own. Several datasets in
    one message hold the same object, so that its descriptor is sent once, as `spawn` requires.
    """

    def __new__(cls) -> "Recorder":
        """Return the recorder of this process."""
        if _here.slots is None:
            _here.slots = _Slots(_nameless())
        if _here.recorder is None:
            _here.recorder = super().__new__(cls)
        return _here.recorder

    def __reduce__(self) -> tuple[Any, ...]:
        is_for_process = multiprocessing.context.get_spawning_popen() is not None
        # Windows has no DupFd: its workers have memory of their own, which nobody reads.
        if _here.slots is None or not is_for_process or not hasattr(reduction, "DupFd"):
            return Recorder, ()
        return _received, (reduction.DupFd(_here.slots.descriptor),)


def _received(handed: Any) -> Recorder:
    """Use the memory of the process that sent the recorder."""
    descriptor = handed.detach()
    if _here.slots is None:
        _here.slots = _Slots(descriptor)
    else:
        os.close(descriptor)
    return Recorder()


class decoding:
    """Record a frame for the time of the block.

    A class, because a generator costs 1 us more per frame.
    """

    __slots__ = ("_frame", "_slot")

    def __init__(self, path: str, frame_number: int, decoder: str) -> None:
        self._frame = (path, frame_number, decoder)
        self._slot: memoryview | None = None

    def __enter__(self) -> None:
        slot = self._slot = _here.slot()
        if slot is not None:
            _write(slot, *self._frame)

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        slot = self._slot
        if slot is not None:
            _STATE.pack_into(slot, _STATE_AT, _DONE)
            _here.free.append(slot)


def _write(slot: memoryview, path: str, frame_number: int, decoder: str) -> None:
    name, by = os.fsencode(path), decoder.encode()
    room = SLOT_BYTES - _HEAD.size - len(by)
    if len(name) > room:
        # The end tells files apart.
        name = _CUT + name[len(_CUT) - room :]
    text = name + by
    slot[_HEAD.size : _HEAD.size + len(text)] = text
    # The state last, so that a slot never names the frame before.
    head = (os.getpid(), _DECODING, frame_number, time.time(), len(name), len(by))
    _HEAD.pack_into(slot, 0, *head)


def last_decoded(pid: int | None = None) -> list[Decoded]:
    """Return the compressed frames that processes decoded last, those still in work first.

    The processes are this one and the DataLoader workers of its datasets. A worker that hangs, or
    has died, is named with the frame that it was decoding. An error of a dead worker names that
    frame by itself (`dicomdl.errors.WorkerDied`); for a hang, call this from a debugger or another
    thread.

    Parameters
    ----------
    pid
        Only this process.

    Returns
    -------
    list of Decoded
        One per process, or per thread that decodes there: `pid`, `path`, `frame_number`, `decoder`,
        `seconds` since it began, and `is_done`. Empty before a dataset was made.

    Examples
    --------
    >>> import dicomdl
    >>> [found for found in dicomdl.last_decoded() if not found.is_done]  # nothing hangs
    []
    """
    slots = _here.slots
    found = [] if slots is None else [each for each in slots.read() if pid in (None, each.pid)]
    return sorted(found, key=lambda each: (each.is_done, each.seconds))
