"""headers.inflate"""

import zlib
from collections.abc import Callable
from typing import Final

from dicomdl.errors import HeaderError
from dicomdl.headers.heads import UNDEFINED, ElementHead
from dicomdl.headers.window import MAX_HEADER_BYTES, Window

MAX_INFLATED: Final = 512 * 2**20


class Inflated:
    """The data set of a deflated file (PS3.5 A.5): its beginning inflated in memory, the rest only measured.

    So that no bomb goes off: of 1 GiB of zeros in 1 MB, `MAX_HEADER_BYTES` are kept and `MAX_INFLATED` looked at.
    """

    CHUNK: Final = 2**20

    def __init__(self, read: Callable[[int, int], bytes], size: int, position: int) -> None:
        self._read = read
        self._size = size
        self._position = position
        self._inflater = zlib.decompressobj(-zlib.MAX_WBITS)
        self._length = 0
        self._kept = bytearray()

    def window(self) -> Window:
        """A window on the data set, whose size is an upper bound until `measure` says it."""
        while len(self._kept) < MAX_HEADER_BYTES and (chunk := self._next()):
            self._kept += chunk
        ended = len(self._kept) < MAX_HEADER_BYTES
        return Window(self._take, self._length if ended else MAX_INFLATED)

    def measure(self, pixel_data: ElementHead) -> int:
        """The size of the data set, counted up to the end of its pixel data."""
        end = (
            MAX_INFLATED + 1
            if pixel_data.length == UNDEFINED
            else pixel_data.value + pixel_data.length
        )
        while self._length < end and self._next():
            if self._length > MAX_INFLATED:
                raise _inflates_too_far(MAX_INFLATED)
        return self._length

    def _take(self, offset: int, length: int) -> bytes:
        if offset + length > len(self._kept) >= MAX_HEADER_BYTES:
            raise _inflates_too_far(MAX_HEADER_BYTES)
        return bytes(self._kept[offset : offset + length])

    def _next(self) -> bytes:
        """Up to `CHUNK` more inflated bytes, b"" at the end; a stream that breaks off ends where it does."""
        inflater = self._inflater
        try:
            while not inflater.eof:
                compressed = inflater.unconsumed_tail
                if not compressed:
                    compressed = self._read(self._position, min(2**18, self._size - self._position))
                    self._position += len(compressed)
                chunk = inflater.decompress(compressed, self.CHUNK)
                self._length += len(chunk)
                if chunk or not compressed:
                    return chunk
        except zlib.error:
            raise HeaderError(
                "the deflated data set cannot be inflated", reason="malformed"
            ) from None
        return b""


def _inflates_too_far(limit: int) -> HeaderError:
    return HeaderError(
        f"the deflated data set is longer than {limit} bytes",
        reason="header_too_large",
        limit_bytes=limit,
    )
