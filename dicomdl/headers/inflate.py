"""Inflation of deflated data sets (PS3.5 A.5), with limits.

1 MB may inflate to 1 GiB, so every function has a limit beyond which it does not inflate.
"""

import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import Final

from dicomdl.errors import HeaderError
from dicomdl.headers._coding import first_element
from dicomdl.headers._elements import walk_meta
from dicomdl.headers._heads import UNDEFINED, ElementHead
from dicomdl.headers._window import Window
from dicomdl.headers.limits import DEFAULT_LIMITS, ReadLimits

Read = Callable[[int, int], bytes]

_PACKED: Final = 2**18
_CHUNK: Final = 2**20
# Larger than any data set: an element that ends beyond the limits is not one of a truncated file.
_UNKNOWN: Final = 2**62


def inflated(packed: Iterable[bytes], chunk: int = _CHUNK) -> Iterator[bytes]:
    """Yield the inflated bytes of a raw deflated stream, in pieces of at most `chunk` bytes.

    A truncated stream yields the bytes before its end. A damaged one raises HeaderError.
    """
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        for piece in packed:
            while piece and not inflater.eof:
                yield inflater.decompress(piece, chunk)
                piece = inflater.unconsumed_tail
        while not inflater.eof and (rest := inflater.decompress(b"", chunk)):
            yield rest
    except zlib.error as error:
        message = f"the deflated bytes cannot be inflated ({error})"
        raise HeaderError(message, reason="malformed") from None


def inflate(packed: Iterable[bytes], limit: int) -> bytes:
    """Return the first `limit` inflated bytes of a raw deflated stream, fewer if it is shorter."""
    pieces, length = [], 0
    for piece in inflated(packed, min(limit, _CHUNK)) if limit > 0 else ():
        pieces.append(piece)
        length += len(piece)
        if length >= limit:
            break
    return b"".join(pieces)[:limit]


def inflate_data_set(read: Read, size: int, limit: int) -> bytes:
    """Return the first `limit` bytes of the data set of a deflated file of `size` bytes."""
    first = read(0, min(size, _PACKED))
    window = Window(read, size, first)
    position = walk_meta(window, first_element(first) or 0, None, -1)[1]
    return inflate(_packed(read, position, size), limit)


def inflate_range(read: Read, size: int, offset: int, length: int) -> bytearray:
    """Return `length` bytes at `offset` of the data set of a deflated file of `size` bytes.

    Fewer if the data set ends before. What precedes them is inflated and not kept.
    """
    first = read(0, min(size, _PACKED))
    window = Window(read, size, first)
    position = walk_meta(window, first_element(first) or 0, None, -1)[1]
    kept, passed = bytearray(), 0
    chunk = max(1, min(offset + length, _CHUNK))
    for piece in inflated(_packed(read, position, size), chunk):
        if passed + len(piece) > offset:
            kept += memoryview(piece)[max(0, offset - passed) : offset + length - passed]
        passed += len(piece)
        if passed >= offset + length:
            break
    return kept


def _packed(read: Read, position: int, size: int) -> Iterator[bytes]:
    while position < size and (piece := read(position, min(_PACKED, size - position))):
        yield piece
        position += len(piece)


class Inflated:
    """The data set of a deflated file: its beginning inflated in memory, the rest only measured.

    At most `limits.header_bytes` are stored, and at most `limits.inflated_bytes` measured.
    """

    def __init__(
        self, read: Read, size: int, position: int, limits: ReadLimits = DEFAULT_LIMITS
    ) -> None:
        self._limits = limits
        self._pieces = inflated(_packed(read, position, size))
        self._length = 0
        self._kept = bytearray()

    def window(self) -> Window:
        """Return a window on the data set, whose size is an upper bound until `measure`."""
        most = self._limits.header_bytes
        while len(self._kept) < most and (piece := self._next()) is not None:
            self._kept += piece
        ended = len(self._kept) < most
        size = self._length if ended else _UNKNOWN
        return Window(self._take, size, limits=self._limits)

    def measure(self, pixel_data: ElementHead) -> int:
        """Return the size of the data set, measured up to the end of its pixel data."""
        most = self._limits.inflated_bytes
        end = most + 1 if pixel_data.length == UNDEFINED else pixel_data.value + pixel_data.length
        while self._length < end and self._next() is not None:
            if self._length > most:
                raise _inflates_too_far(most)
        return self._length

    def _take(self, offset: int, length: int) -> bytes:
        if offset + length > len(self._kept) >= self._limits.header_bytes:
            raise _inflates_too_far(self._limits.header_bytes)
        # One copy: a slice of a bytearray would be another.
        return bytes(memoryview(self._kept)[offset : offset + length])

    def _next(self) -> bytes | None:
        piece = next(self._pieces, None)
        self._length += 0 if piece is None else len(piece)
        return piece


def _inflates_too_far(limit: int) -> HeaderError:
    return HeaderError(
        f"the deflated data set is longer than {limit} bytes",
        reason="header_too_large",
        limit_bytes=limit,
    )
