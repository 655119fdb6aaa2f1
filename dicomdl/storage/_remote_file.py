"""The file of an archive in a store: small reads side by side become one request."""

from typing import Final

from dicomdl.storage.handles import Source
from dicomdl.storage.objects import FIRST_BYTES, RemoteObject, fetch

# Fits the local header of a member and the first bytes of its own header.
_BLOCK_BYTES: Final = FIRST_BYTES + 1024
# Of reads that follow each other, as in a compressed archive.
_MOST_BLOCK_BYTES: Final = 4 * 2**20
_MOST_KEPT_BYTES: Final = 4 * 2**20
# Longer blocks are read once, and would fill the byte cache.
_MOST_CACHED_BYTES: Final = 2**20


class RemoteFile(RemoteObject):
    """An object that is read as an archive is: its end, headers, and many short ranges."""

    __slots__ = ("_blocks",)

    def __init__(self, url: str, expected: Source | None = None) -> None:
        super().__init__(url, expected)
        # (first byte, bytes), the newest one last. Replaced as a whole: threads share it, and a
        # fork copies it, without a lock.
        self._blocks: tuple[tuple[int, bytes], ...] = ()

    def read_at(self, offset: int, length: int) -> bytes:
        """Read up to `length` bytes at `offset`; fewer at the end."""
        length = max(0, min(length, self.size - offset))
        if not 0 < length <= FIRST_BYTES:
            return super().read_at(offset, length)
        blocks, wanted = self._blocks, _BLOCK_BYTES
        for start, data in reversed(blocks):
            if start <= offset and offset + length <= start + len(data):
                return data[offset - start : offset - start + length]
        if blocks:
            start, data = blocks[-1]
            if start < offset <= start + len(data):
                wanted = min(2 * len(data), _MOST_BLOCK_BYTES)
        data = self._block(offset, min(max(wanted, length), self.size - offset))
        room, first = _MOST_KEPT_BYTES - len(data), len(blocks)
        while first and len(blocks[first - 1][1]) <= room:
            first -= 1
            room -= len(blocks[first][1])
        self._blocks = (*blocks[first:], (offset, data))
        return data[:length]

    def _block(self, offset: int, length: int) -> bytes:
        if length <= _MOST_CACHED_BYTES:
            return super().read_at(offset, length)
        return bytes(fetch(self.source, offset, length).data)
