"""Bytes that a caller holds, read as a file is, without storing them."""

from typing import Any, Self

import xxhash

from dicomdl.storage.handles import UNKNOWN, Source
from dicomdl.storage.locations import SEPARATOR


class GivenBytes(str):
    """The location of bytes in memory: a hash of them, as text, and the bytes.

    Equal bytes have equal locations, so caches by location never mix two files.

    Attributes
    ----------
    data
        The bytes.
    """

    __slots__ = ("data",)
    data: bytes

    def __new__(cls, data: bytes) -> Self:
        """Return the location of some bytes."""
        made = super().__new__(cls, f"bytes{SEPARATOR}{xxhash.xxh3_128_hexdigest(data)}")
        made.data = data
        return made

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.data,)


def given_bytes(given: Any) -> GivenBytes | None:
    """Return the location of bytes, or of what an open file has from its position on.

    None for anything else.
    """
    if isinstance(given, bytes | bytearray | memoryview):
        return GivenBytes(bytes(given))
    if hasattr(given, "read"):
        data = given.read()
        if isinstance(data, bytes | bytearray | memoryview):
            return GivenBytes(bytes(data))
    return None


class BytesHandle:
    """Bytes in memory, open for reading."""

    __slots__ = ("_data", "_location")

    def __init__(self, location: GivenBytes) -> None:
        self._location, self._data = location, memoryview(location.data)

    @property
    def source(self) -> Source:
        """The bytes; they have one state."""
        return Source(self._location, self.size, UNKNOWN)

    @property
    def size(self) -> int:
        """The number of bytes."""
        return self._data.nbytes

    def check(self, expected: Source) -> None:
        """Accept any source of this location: its hash is that of the bytes."""
        del expected

    def read_at(self, offset: int, length: int) -> bytes:
        """Read up to `length` bytes at `offset`; fewer at the end."""
        return bytes(self._data[offset : offset + length])

    def read_into(self, buffer: memoryview, offset: int) -> int:
        """Fill `buffer` from `offset`; return the number of bytes read, fewer at the end."""
        found = self._data[offset : offset + buffer.nbytes]
        buffer.cast("B")[: found.nbytes] = found
        return found.nbytes

    def close(self) -> None:
        """Release nothing."""
