"""A ring of entries in memory that several processes have mapped; nameless, so that nothing outlives the last of them.

Entries are written one after the other, and each new one takes the room of the oldest. Places count bytes ever written, so an entry is
whole exactly while its place is not below TAIL, which a writer raises before it overwrites anything: a reader copies first and looks at
TAIL afterwards. A writer that dies has published nothing.
"""

import contextlib
import mmap
import os
import struct
import tempfile
import threading
import time
import weakref
from collections.abc import Iterator
from typing import Any, Final

import numpy as np

from dicomdl.arrays import Mask, Values
from dicomdl.storage import locks
from dicomdl.storage.cache.entries import (
    DTYPES,
    Arrays,
    Box,
    Lost,
    packed_mask,
    slices_of,
    unpacked_mask,
)
from dicomdl.storage.cache.layout import PAGE, aligned

# control page | slots (key, key, place + 1, 0) | arena
_HEAD: Final = 0
_TAIL: Final = 1
_PROBES: Final = 8
_LINE: Final = 64
_RECORD: Final = struct.Struct(
    "<32s8sIIQ4Q40x"
)  # key, dtype, ndim, mask, bytes of values, shape; 128 bytes
STORE_WAIT_S: Final = 5.0


class _InArena:
    """An entry of a memory cache, for as long as nothing newer has taken its place."""

    def __init__(self, arena: "Arena", place: int, digest: str) -> None:
        self._arena, self._place = arena, place
        at = place % arena.capacity
        record = arena.bytes[at : at + _RECORD.size].tobytes()
        if len(record) < _RECORD.size:
            raise Lost
        key, dtype, ndim, has_mask, size, *shape = _RECORD.unpack(record)
        if key.hex() != digest or not arena.is_whole(place):
            raise Lost
        self.shape, self.dtype, self.has_mask = (
            tuple(shape[:ndim]),
            DTYPES[dtype.rstrip(b"\0").decode()],
            bool(has_mask),
        )
        start = at + _RECORD.size
        self._values = arena.bytes[start : start + size].view(self.dtype).reshape(self.shape)
        mask_shape = (*self.shape[:2], -(-self.shape[2] // 8))
        start += aligned(size, _LINE)
        self._mask = (
            arena.bytes[start : start + int(np.prod(mask_shape))].reshape(mask_shape)
            if has_mask
            else None
        )

    def values(self, box: Box) -> Values:
        return self._if_whole(self._values[slices_of(box)].copy())

    def mask(self, box: Box) -> Mask:
        assert self._mask is not None
        return self._if_whole(unpacked_mask(self._mask[slice(*box[0])], *box[1:]))

    def _if_whole(self, copied: Values) -> Values:
        if not self._arena.is_whole(self._place):
            raise Lost
        return copied


class Arena:
    """Memory that several processes have mapped, with a directory in it; nameless, so that nothing outlives the last of them."""

    def __init__(self, capacity: int, descriptor: int | None = None) -> None:
        self.capacity = aligned(capacity)
        slots = 1 << max(10, min(20, (self.capacity // 2**16).bit_length()))
        directory = aligned(PAGE + (slots + _PROBES) * 32)
        self.descriptor = _nameless(directory, self.capacity) if descriptor is None else descriptor
        weakref.finalize(self, os.close, self.descriptor)
        map_ = mmap.mmap(self.descriptor, directory + self.capacity)
        self._map, self._arena_at, self._slot_count = map_, directory, slots
        self._control = np.frombuffer(map_, np.uint64, 2)
        self._slots = np.frombuffer(map_, np.uint64, (slots + _PROBES) * 4, PAGE).reshape(-1, 4)
        self.bytes = np.frombuffer(map_, np.uint8, self.capacity, directory)
        self.bytes.flags.writeable = False
        self._begin()

    def _begin(self) -> None:
        self._process = os.getpid()
        self._threads = threading.Lock()
        self._making: dict[str, threading.Lock] = {}

    def _renew(self) -> None:
        """A forked process has its own threads, and so its own locks among them."""
        if self._process != os.getpid():
            self._begin()

    def is_whole(self, place: int) -> bool:
        """Whether what was written at a place has not been overwritten, not even in part."""
        return place >= int(self._control[_TAIL])

    def find(self, digest: str) -> _InArena | None:
        """The entry of a key, if it is here."""
        first, second, row = self._hashed(digest)
        for one, two, place, _ in self._slots[row : row + _PROBES].tolist():
            if (one, two) == (first, second) and place:
                with contextlib.suppress(Lost):
                    return _InArena(self, place - 1, digest)
        return None

    def _hashed(self, digest: str) -> tuple[int, int, int]:
        first, second = int(digest[:16], 16), int(digest[16:32], 16)
        return first, second, second % self._slot_count

    def put(self, digest: str, arrays: Arrays) -> bool:
        """Write an entry in the place of the oldest; False where it is larger than the arena, or the others are too busy."""
        values, packed = arrays.values, packed_mask(arrays.mask)
        size = (
            _RECORD.size
            + aligned(values.nbytes, _LINE)
            + (0 if packed is None else aligned(packed.nbytes, _LINE))
        )
        if size > self.capacity:
            return False
        with self._held(0, self._threads, STORE_WAIT_S) as alone:
            if not alone:
                return False
            head = max(int(self._control[_HEAD]), int(self._control[_TAIL]))
            left = self.capacity - head % self.capacity
            place = head if size <= left else head + left  # an entry lies in one piece
            self._control[_TAIL] = max(int(self._control[_TAIL]), place + size - self.capacity)
            shape = (*values.shape, 0)[:4]
            names = bytes.fromhex(digest), values.dtype.str.encode()
            record = _RECORD.pack(
                *names, values.ndim, int(packed is not None), values.nbytes, *shape
            )
            at = self._arena_at + place % self.capacity
            self._write(record, at)
            self._write(values, at + _RECORD.size)
            if packed is not None:
                self._write(packed, at + _RECORD.size + aligned(values.nbytes, _LINE))
            self._control[_HEAD] = place + size
            self._publish(digest, place)
        return True

    def _write(self, data: Any, offset: int) -> None:
        """By system calls, not through the map: where memory is out they raise."""
        rest = memoryview(data).cast("B")
        while rest:
            written = os.pwrite(self.descriptor, rest, offset)
            rest, offset = rest[written:], offset + written

    def _publish(self, digest: str, place: int) -> None:
        first, second, row = self._hashed(digest)
        tail = int(self._control[_TAIL])
        window = self._slots[row : row + _PROBES].tolist()
        same = [
            number for number, slot in enumerate(window) if (slot[0], slot[1]) == (first, second)
        ]
        oldest = min(
            range(_PROBES), key=lambda number: window[number][2] if window[number][2] > tail else 0
        )
        slot = self._slots[row + (same[0] if same else oldest)]
        slot[2] = 0
        slot[0], slot[1] = first, second
        slot[2] = place + 1

    @contextlib.contextmanager
    def making(self, digest: str) -> Iterator[None]:
        """Be the only thread of the only process that makes an entry, if that can be had in `locks.LOCK_WAIT_S`."""
        self._renew()
        lock = self._making.setdefault(digest, threading.Lock())
        try:
            with self._held(1 + int(digest[:14], 16), lock, locks.LOCK_WAIT_S):
                yield
        finally:
            self._making.pop(digest, None)

    @contextlib.contextmanager
    def _held(self, byte: int, lock: threading.Lock, wait_s: float) -> Iterator[bool]:
        """Hold a lock among threads and a record lock of one byte among processes; whether both could be had.

        Record locks belong to a process, forked or not, and go with it when it dies.
        """
        end = time.monotonic() + wait_s
        if not lock.acquire(timeout=wait_s):
            yield False
            return
        locked = False
        try:
            locked = locks.record_lock(self.descriptor, byte, end)
            yield locked
        finally:
            if locked:
                locks.record_unlock(self.descriptor, byte)
            lock.release()


def _nameless(directory: int, capacity: int) -> int:
    """The descriptor of memory (Linux) or of a file without a name; pages are only taken as they are filled, but those of the directory."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("dicomdl", os.MFD_CLOEXEC)
    else:
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    os.ftruncate(descriptor, directory + capacity)
    os.lseek(descriptor, 0, os.SEEK_SET)
    rest = memoryview(bytes(directory))
    while rest:
        rest = rest[os.write(descriptor, rest) :]
    return descriptor
