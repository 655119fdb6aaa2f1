"""A ring buffer of entries in memory that several processes map, with a directory of its entries.

The memory has no name, so the system frees it with the last process that maps it. Entries, in the
format of `_layout`, are written one after the other, and a new one overwrites the oldest. The
position of an entry is the count of bytes ever written before it. An entry is whole exactly while
its position is not below TAIL, which a writer raises before it overwrites anything. A writer that
dies has not published its entry.

Readers take no lock. On machines that keep the order of loads and of stores (x86), a reader
verifies the checksum of a block once per process, copies from the map, and compares TAIL after the
copy. Other machines (ARM) may show an old TAIL beside new bytes, so there each read takes a private
copy of its blocks and verifies the copy.
"""

import contextlib
import mmap
import os
import platform
import tempfile
import threading
import time
import weakref
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any, Final

import numpy as np

from dicomdl.storage import locks
from dicomdl.storage.cache._layout import PAGE, aligned, file_pieces
from dicomdl.storage.cache._stored import Bytes, StoredEntry
from dicomdl.storage.cache.entries import Arrays, Lost

# Control page | slots (key, key, position + 1, bytes) | ring.
_HEAD: Final = 0
_TAIL: Final = 1
_PROBES: Final = 8
_LINE: Final = 64
STORE_WAIT_S: Final = 5.0
# True on machines where a process sees the stores of another one in their order.
KEEPS_ORDER: Final = platform.machine().lower() in ("x86_64", "amd64", "i386", "i686", "x86")
# Number of layouts that a process caches, 3 KB each, with the flags of verified blocks.
OPEN_ENTRIES: Final = 4096


class _RingSource:
    """The bytes of one entry of a ring."""

    is_steady = False

    def __init__(self, ring: "Ring", position: int, size: int) -> None:
        self._ring, self.number, self.size = ring, position, size
        at = position % ring.capacity
        self._bytes = ring.bytes[at : at + size]

    def map(self) -> Bytes | None:
        return self._bytes if KEEPS_ORDER else None

    def read(self, start: int, end: int) -> Bytes:
        return self._bytes[start:end].copy()

    def require_whole(self) -> None:
        if not self._ring.is_whole(self.number):
            raise Lost


class Ring:
    """A ring buffer of entries in memory that several processes map.

    Parameters
    ----------
    capacity
        Bytes of the ring, rounded up to pages. The directory needs additional memory.
    descriptor
        The memory of an existing ring of the same capacity; None allocates new memory. The ring
        takes the ownership of the descriptor.
    """

    def __init__(self, capacity: int, descriptor: int | None = None) -> None:
        self.capacity = aligned(capacity)
        slots = 1 << max(10, min(20, (self.capacity // 2**16).bit_length()))
        directory = aligned(PAGE + (slots + _PROBES) * 32)
        self.descriptor = _nameless(directory, self.capacity) if descriptor is None else descriptor
        weakref.finalize(self, os.close, self.descriptor)
        map_ = mmap.mmap(self.descriptor, directory + self.capacity)
        self._map, self._ring_at, self._slot_count = map_, directory, slots
        self._control = np.frombuffer(map_, np.uint64, 2)
        self._slots = np.frombuffer(map_, np.uint64, (slots + _PROBES) * 4, PAGE).reshape(-1, 4)
        self.bytes = np.frombuffer(map_, np.uint8, self.capacity, directory)
        self.bytes.flags.writeable = False
        self._opened: OrderedDict[int, StoredEntry] = OrderedDict()
        self._begin()

    def _begin(self) -> None:
        self._process = os.getpid()
        self._threads = threading.Lock()
        self._making: dict[str, threading.Lock] = {}

    def _renew(self) -> None:
        """Create new locks in a forked process, which has other threads than its parent."""
        if self._process != os.getpid():
            self._begin()

    def is_whole(self, position: int) -> bool:
        """Return whether no byte of the entry at a position has been overwritten."""
        return position >= int(self._control[_TAIL])

    def find(self, digest: str) -> StoredEntry | None:
        """Return the entry of a key, or None if absent; raise Lost if it is damaged."""
        first, second, row = self._hashed(digest)
        for number, slot in enumerate(self._slots[row : row + _PROBES].tolist()):
            key_high, key_low, after, size = slot
            if (key_high, key_low) == (first, second) and after and self.is_whole(after - 1):
                try:
                    return self._open(digest, after - 1, size)
                except Lost:
                    # A writer may have changed the slot meanwhile, which is not damage.
                    if self.is_whole(after - 1) and self._slots[row + number].tolist() == slot:
                        raise
        return None

    def _open(self, digest: str, position: int, size: int) -> StoredEntry:
        entry = self._opened.get(position)
        if entry is None:
            entry = StoredEntry(_RingSource(self, position, size), digest)
            self._opened[position] = entry
            with contextlib.suppress(KeyError):
                while len(self._opened) > OPEN_ENTRIES:
                    self._opened.popitem(last=False)
        if entry.layout.digest != digest:
            raise Lost
        return entry

    def _hashed(self, digest: str) -> tuple[int, int, int]:
        first, second = int(digest[:16], 16), int(digest[16:32], 16)
        return first, second, second % self._slot_count

    def put(self, digest: str, arrays: Arrays) -> bool:
        """Write an entry over the oldest ones, and publish it.

        Returns False if the entry is larger than the ring, or if the lock of writers cannot be
        acquired within `STORE_WAIT_S`.
        """
        pieces = [memoryview(piece).cast("B") for piece in file_pieces(digest, arrays, "raw")]
        size = sum(piece.nbytes for piece in pieces)
        room = aligned(size, _LINE)
        if room > self.capacity:
            return False
        self._renew()
        with self._held(0, self._threads, STORE_WAIT_S) as alone:
            if not alone:
                return False
            head = max(int(self._control[_HEAD]), int(self._control[_TAIL]))
            left = self.capacity - head % self.capacity
            # An entry does not wrap around the end of the ring.
            position = head if room <= left else head + left
            self._control[_TAIL] = max(int(self._control[_TAIL]), position + room - self.capacity)
            at = self._ring_at + position % self.capacity
            for piece in pieces:
                at = self._write(piece, at)
            self._control[_HEAD] = position + room
            self._publish(digest, position, size)
        return True

    def _write(self, rest: memoryview, offset: int) -> int:
        """Write by system calls, which raise when memory runs out; a map would end the process."""
        while rest:
            written = os.pwrite(self.descriptor, rest, offset)
            rest, offset = rest[written:], offset + written
        return offset

    def _publish(self, digest: str, position: int, size: int) -> None:
        """Write the slot of an entry: the one of the same key, or the oldest of the probed slots.

        The position is 0 while the other fields change, so that no reader takes a mixture.
        """
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
        slot[0], slot[1], slot[3] = first, second, size
        slot[2] = position + 1

    def drop(self, digest: str, position: int | None = None) -> bool:
        """Remove an entry from the directory if it still is at the position; return if it was."""
        first, second, row = self._hashed(digest)
        self._renew()
        with self._held(0, self._threads, STORE_WAIT_S) as alone:
            for slot in self._slots[row : row + _PROBES] if alone else ():
                at = int(slot[2]) - 1
                if (int(slot[0]), int(slot[1])) != (first, second) or not self.is_whole(at):
                    continue
                if at >= 0 and position in (None, at):
                    slot[2] = 0
                    self._opened.pop(at, None)
                    return True
        return False

    @contextlib.contextmanager
    def making(self, digest: str) -> Iterator[None]:
        """Hold the lock of an entry among threads and processes, if acquired in `LOCK_WAIT_S`."""
        self._renew()
        lock = self._making.setdefault(digest, threading.Lock())
        try:
            with self._held(1 + int(digest[:14], 16), lock, locks.LOCK_WAIT_S):
                yield
        finally:
            self._making.pop(digest, None)

    @contextlib.contextmanager
    def _held(self, byte: int, lock: threading.Lock, wait_s: float) -> Iterator[bool]:
        """Hold a lock among threads and a record lock of one byte among processes, if possible.

        Yields whether both were acquired within `wait_s`.
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
    """Return the descriptor of memory (Linux) or of a file without a name.

    Pages of the ring are allocated when they are filled, those of the directory at once.
    """
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("dicomdl", os.MFD_CLOEXEC)
    else:
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    os.ftruncate(descriptor, directory + capacity)
    os.lseek(descriptor, 0, os.SEEK_SET)
    rest: Any = memoryview(bytes(directory))
    while rest:
        rest = rest[os.write(descriptor, rest) :]
    return descriptor
