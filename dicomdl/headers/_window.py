"""A window on a file, which slides over unwanted values, and an account of the reading cost."""

from collections.abc import Callable
from typing import Final

from dicomdl.errors import HeaderError

# Limits for hostile headers, about 2 s. A real header has had 6 levels, 1,246 elements and 291 KB.
# An enhanced multi-frame file of 10,000 frames has about 500,000 elements, item headers included.
# Elements are weighted by their cost.
MAX_ELEMENTS: Final = 3_000_000
MAX_HEADER_BYTES: Final = 64 * 2**20


class Window:
    """A buffered part of a file, read on demand around the current position.

    `read(offset, length)` returns bytes of the file, fewer at its end. `size` is the length of the
    file. The window also counts the bytes read and the elements passed, and enforces their limits.
    """

    __slots__ = ("base", "buffer", "bytes_read", "elements_met", "most_bytes", "read", "size")

    def __init__(self, read: Callable[[int, int], bytes], size: int, first: bytes = b"") -> None:
        self.read = read
        self.size = size
        self.buffer = first
        self.base = 0
        self.bytes_read = len(first)
        self.most_bytes = MAX_HEADER_BYTES
        self.elements_met = 0

    @classmethod
    def on(cls, raw: bytes) -> "Window":
        """Return a window on bytes in memory, which cost no reading."""
        window = cls(lambda offset, length: raw[offset : offset + length], len(raw), raw)
        window.most_bytes = 2 * len(raw) + (1 << 17)
        return window

    def count(self, elements: int) -> None:
        """Count elements; raise HeaderError beyond `MAX_ELEMENTS`."""
        self.elements_met += elements
        if self.elements_met > MAX_ELEMENTS:
            raise HeaderError(
                f"more than {MAX_ELEMENTS} elements", reason="too_many_elements", limit=MAX_ELEMENTS
            )

    def at(self, position: int, length: int) -> int:
        """Load [position, position + length) into `buffer`, and return its offset there.

        At the end of the file, `buffer` has fewer bytes.
        """
        start = position - self.base
        if start >= 0 and start + length <= len(self.buffer):
            return start
        wanted = max(length, 1 << 16)
        self.bytes_read += min(wanted, max(0, self.size - position))
        if self.bytes_read > self.most_bytes:
            raise HeaderError(
                f"the header is longer than {self.most_bytes} bytes",
                reason="header_too_large",
                limit_bytes=self.most_bytes,
            )
        self.buffer = self.read(position, wanted)
        self.base = position
        return 0

    def take(self, position: int, length: int) -> bytes:
        """Return the bytes [position, position + length); HeaderError if the file ends before."""
        start = self.at(position, length)
        value = self.buffer[start : start + length]
        if len(value) != length:
            raise truncated(position, length, self.size)
        return value


def truncated(position: int, length: int, size: int) -> HeaderError:
    """Return the error for an element that needs bytes beyond the end of the file."""
    return HeaderError(
        f"an element at byte {position} needs {length} bytes, the file ends at {size}",
        reason="truncated",
        position=position,
        expected_bytes=length,
        found_bytes=max(0, size - position),
    )
