"""A window on a file, which slides over unwanted values, and an account of the reading cost."""

from collections.abc import Callable

from dicomdl.errors import HeaderError
from dicomdl.headers.limits import DEFAULT_LIMITS, ReadLimits


class Window:
    """A buffered part of a file, read on demand around the current position.

    `read(offset, length)` returns bytes of the file, fewer at its end. `size` is the length of the
    file. The window also counts the bytes read and the elements passed, and enforces their limits.
    Elements are weighted by their cost.
    """

    __slots__ = (
        "base",
        "buffer",
        "bytes_read",
        "elements_met",
        "limits",
        "most_bytes",
        "read",
        "size",
    )

    def __init__(
        self,
        read: Callable[[int, int], bytes],
        size: int,
        first: bytes = b"",
        limits: ReadLimits = DEFAULT_LIMITS,
    ) -> None:
        self.read = read
        self.size = size
        self.buffer = first
        self.base = 0
        self.bytes_read = len(first)
        self.limits = limits
        self.most_bytes = limits.header_bytes
        self.elements_met = 0

    @classmethod
    def on(cls, raw: bytes) -> "Window":
        """Return a window on bytes in memory, which cost no reading."""
        window = cls(lambda offset, length: raw[offset : offset + length], len(raw), raw)
        window.most_bytes = 2 * len(raw) + (1 << 17)
        return window

    def count(self, elements: int) -> None:
        """Count elements; raise HeaderError beyond the limit."""
        self.elements_met += elements
        if self.elements_met > self.limits.elements:
            most = self.limits.elements
            raise HeaderError(f"more than {most} elements", reason="too_many_elements", limit=most)

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
