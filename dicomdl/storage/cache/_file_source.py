"""The bytes of an entry's file: mapped, or read block by block where a map is not safe."""

import mmap
import os
import weakref

import numpy as np

from dicomdl.storage.cache._stored import Bytes
from dicomdl.storage.cache.entries import Lost
from dicomdl.storage.system import read_at


class FileSource:
    """An open file.

    The descriptor stays the caller's: a file that can be mapped needs it only until then, and one
    that cannot has a duplicate.
    """

    def __init__(self, descriptor: int, mapped: bool) -> None:
        self.status = os.fstat(descriptor)
        self.size, self.number = self.status.st_size, self.status.st_ino
        self._can_be_mapped = mapped
        self._descriptor = descriptor if mapped else os.dup(descriptor)
        if not mapped:
            weakref.finalize(self, os.close, self._descriptor)

    def map(self) -> Bytes | None:
        """The whole file in memory. Never closed by hand: the last array of it closes it."""
        if not self._can_be_mapped:
            return None
        map_ = mmap.mmap(self._descriptor, self.size, access=mmap.ACCESS_READ)
        return np.frombuffer(map_, np.uint8)

    def read(self, start: int, end: int) -> Bytes:
        """Some bytes of the file, fewer at its end."""
        try:
            return np.frombuffer(read_at(self._descriptor, end - start, start), np.uint8)
        except OSError as error:
            # A network file system whose server has dropped the file.
            raise Lost from error

    def require_whole(self) -> None:
        """Whole as long as it is open: a file of ours is replaced, never written to."""
