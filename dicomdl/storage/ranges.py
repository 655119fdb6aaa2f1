"""Ranges of an open source as sources of their own, for members of archives."""

import io
import zlib
from typing import Any

from dicomdl.errors import PixelError
from dicomdl.storage.handles import Handle, Source


class Range:
    """Some bytes of another handle, which stays open for as long as the range is in use."""

    __slots__ = ("_read_at", "_read_into", "outer", "size", "source", "start")

    def __init__(self, handle: Handle, start: int, size: int, source: Source | None = None) -> None:
        self.outer, self.start, self.size = handle, start, size
        self._read_at, self._read_into = handle.read_at, handle.read_into
        self.source = handle.source if source is None else source

    def named(self, source: Source) -> "Range":
        """Return the same bytes as another source."""
        return Range(self.outer, self.start, self.size, source)

    def check(self, expected: Source) -> None:
        """Raise FileChanged if the source is not in the expected state."""
        expected.check(Status(self.source))

    def read_at(self, offset: int, length: int) -> bytes:
        """Read up to `length` bytes at `offset`; fewer at the end."""
        if not 0 <= offset < self.size:
            return b""
        return self._read_at(self.start + offset, min(length, self.size - offset))

    def read_into(self, buffer: memoryview, offset: int) -> int:
        """Fill `buffer` from `offset`; return the number of bytes read, which may be fewer."""
        if not 0 <= offset < self.size:
            return 0
        if buffer.nbytes > self.size - offset:
            buffer = buffer.cast("B")[: self.size - offset]
        return self._read_into(buffer, self.start + offset)

    def close(self) -> None:
        """Leave the other handle open: it belongs to the archive."""


class Stored(Range):
    """The bytes of a member that is not compressed, with the checksum that its archive states.

    A read of the whole member compares it. A read of a part cannot.
    """

    __slots__ = ("crc",)

    def __init__(
        self, handle: Handle, start: int, size: int, crc: int, source: Source | None = None
    ) -> None:
        super().__init__(handle, start, size, source)
        self.crc = crc

    def named(self, source: Source) -> "Stored":
        """Return the same bytes as another source."""
        return Stored(self.outer, self.start, self.size, self.crc, source)

    def read_at(self, offset: int, length: int) -> bytes:
        """Read up to `length` bytes at `offset`; fewer at the end.

        Raises PixelError (reason "damaged_member") for a whole member with another checksum.
        """
        data = super().read_at(offset, length)
        if offset == 0 and len(data) == self.size:
            self.require_checksum(zlib.crc32(data))
        return data

    def require_checksum(self, crc: int) -> None:
        """Raise PixelError unless this is the checksum of the member."""
        if crc != self.crc:
            raise PixelError(
                "the member is damaged: its checksum is another one", reason="damaged_member"
            )


class Status:
    """The state of a source in the form of `os.stat`."""

    __slots__ = ("st_ctime_ns", "st_ino", "st_mtime_ns", "st_size")

    def __init__(self, source: Source) -> None:
        _, self.st_size, self.st_mtime_ns, self.st_ctime_ns, self.st_ino, _ = source


class Capped(io.BufferedIOBase):
    """A binary file over a handle, for parsers that ask for as many bytes as a header claims.

    A read of more than `most` bytes returns what the file has, `most` at most, and is remembered.
    """

    def __init__(self, handle: Handle, most: int) -> None:
        super().__init__()
        self._handle, self._most = handle, most
        self._position = 0
        self.is_exceeded = False

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def tell(self) -> int:
        """Return the position."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move the position; not in front of the start."""
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position}.get(whence, self._handle.size)
        self._position = max(0, start + offset)
        return self._position

    def read(self, size: Any = -1) -> bytes:
        """Read `size` bytes, or all up to the end; fewer at the end."""
        left = max(0, self._handle.size - self._position)
        wanted = left if size is None or size < 0 else min(size, left)
        if wanted > self._most:
            self.is_exceeded = True
            wanted = self._most
        data = self._handle.read_at(self._position, wanted) if wanted else b""
        while 0 < len(data) < wanted:
            more = self._handle.read_at(self._position + len(data), wanted - len(data))
            if not more:
                break
            data += more
        self._position += len(data)
        return data

    def close(self) -> None:
        """Leave the handle open."""
