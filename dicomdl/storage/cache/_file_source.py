"""The bytes of an entry's file: mapped, or read block by block where a map is not safe.

A map is not safe on a network file system: when the server drops the file, the process ends
(SIGBUS) instead of getting an error.
"""

import mmap
import os
import weakref

import numpy as np

from dicomdl.storage.cache._stored import Bytes
from dicomdl.storage.cache.entries import Lost
from dicomdl.storage.system import read_at


class FileSource:
    """An open file as the source of an entry.

    The caller keeps the ownership of the descriptor. A file to be mapped needs the descriptor only
    until `map`; any other file uses a duplicate.
    """

    # Entries are replaced, never overwritten.
    is_steady = True

    def __init__(self, descriptor: int, mapped: bool) -> None:
        self.status = os.fstat(descriptor)
        self.size, self.number = self.status.st_size, self.status.st_ino
        self._can_be_mapped = mapped
        self._descriptor = descriptor if mapped else os.dup(descriptor)
        if not mapped:
            weakref.finalize(self, os.close, self._descriptor)

    def map(self) -> Bytes | None:
        """Map the file; None if it must not be mapped. The last array of the map closes it."""
        if not self._can_be_mapped:
            return None
        map_ = mmap.mmap(self._descriptor, self.size, access=mmap.ACCESS_READ)
        return np.frombuffer(map_, np.uint8)

    def read(self, start: int, end: int) -> Bytes:
        """Read the bytes from `start` to `end`, fewer at the end of the file."""
        try:
            return np.frombuffer(read_at(self._descriptor, end - start, start), np.uint8)
        except OSError as error:
            # The server of a network file system has dropped the file.
            raise Lost from error

    def require_whole(self) -> None:
        """Accept the file: entries are replaced, never overwritten, so an open one stays whole."""
