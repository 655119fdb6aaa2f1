"""Checksums of files: XXH3 of each block of 64 KiB, compared when a block is first used.

A block takes 4 us in memory that is mapped already, and 20 us together with its page faults.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import xxhash

from dicomdl.storage.json_texts import parsed

BLOCK_BYTES: Final = 2**16
Sums = npt.NDArray[np.uint64]
# The first line of a sealed file: the checksum of all bytes after it.
_SEAL: Final = re.compile(rb'\{"xxh3": "([0-9a-f]{16})",\n')


def sums_of_file(path: str) -> Sums:
    """Return the checksum of each block of a file, in order."""
    return np.fromiter(_block_sums(path), np.uint64)


def first_damaged(path: str, sums: Sums) -> int | None:
    """Return the number of the first block of a file that has another checksum; None for none.

    The file is read, not mapped: a file that is cut meanwhile ends no process.
    """
    found = sums_of_file(path)
    if len(found) != len(sums):
        return min(len(found), len(sums))
    differing = np.flatnonzero(found != sums)
    return int(differing[0]) if len(differing) else None


def _block_sums(path: str) -> Iterator[int]:
    with open(path, "rb") as file:
        while block := file.read(BLOCK_BYTES):
            yield xxhash.xxh3_64_intdigest(block)


class Blocks:
    """The bytes of a mapped file, of which each block is verified once per process.

    A forked process inherits which blocks were verified.
    """

    __slots__ = ("_damaged", "_data", "_seen", "_sums")

    def __init__(self, data: memoryview, sums: Sums, damaged: Callable[[int], Exception]) -> None:
        """`damaged` returns the error for the number of a block."""
        self._data, self._sums, self._damaged = data, sums, damaged
        self._seen = bytearray(len(sums))

    def verify(self, start: int, stop: int) -> None:
        """Compare the blocks that hold the bytes from `start` to `stop`."""
        if not 0 <= start <= stop <= len(self._data):
            raise self._damaged(max(0, min(start, len(self._data) - 1)) // BLOCK_BYTES)
        end = -(-stop // BLOCK_BYTES) if start < stop else 0
        block = start // BLOCK_BYTES
        while (block := self._seen.find(0, block, end)) >= 0:
            self.verify_block(block)

    def verify_block(self, block: int) -> None:
        """Compare one block."""
        data = self._data[block * BLOCK_BYTES : (block + 1) * BLOCK_BYTES]
        if xxhash.xxh3_64_intdigest(data) != int(self._sums[block]):
            raise self._damaged(block)
        self._seen[block] = 1


def sealed(content: Mapping[str, Any], rest: bytes = b"") -> bytes:
    """Return a JSON object and other bytes; its first entry is a checksum of all that follows."""
    body = json.dumps(dict(content))[1:].encode() + b"\n" + rest
    return b'{"xxh3": "%016x",\n' % xxhash.xxh3_64_intdigest(body) + body


def unsealed(data: bytes) -> tuple[dict[str, Any], bytes]:
    """Return what `sealed` took.

    Raises
    ------
    ValueError
        The checksum differs.
    """
    seal = _SEAL.match(data)
    body = data[seal.end() :] if seal else b""
    if seal is None or int(seal[1], 16) != xxhash.xxh3_64_intdigest(body):
        raise ValueError("the checksum differs")
    line, _, rest = body.partition(b"\n")
    return dict(parsed(b"{" + line)), rest
