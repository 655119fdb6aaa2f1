"""Tar files whose bytes depend on their members alone: no times, owners or order of a file system.

The members of a sample are adjacent, and their names are its key, a dot and their kind, as
WebDataset reads them.
"""

import hashlib
import os
import tarfile
from collections.abc import Mapping
from typing import Any, Final

_BLOCK: Final = tarfile.BLOCKSIZE
# Two blocks of zeros end a tar file.
_END: Final = bytes(2 * _BLOCK)


def packed_bytes(members: Mapping[str, bytes]) -> int:
    """Return the bytes that members take in a shard, with their headers."""
    return sum(_BLOCK + _padded(len(data)) for data in members.values())


def _padded(length: int) -> int:
    return -(-length // _BLOCK) * _BLOCK


class TarWriter:
    """A tar file that grows by complete samples, below a temporary name.

    Parameters
    ----------
    path
        The file.
    """

    def __init__(self, path: str) -> None:
        self._file = open(path, "xb")  # noqa: SIM115
        self._hash = hashlib.blake2b(digest_size=16)
        self.bytes = 0

    def add(self, key: str, members: Mapping[str, bytes]) -> dict[str, list[int]]:
        """Append a sample; return {kind: [offset, length]} of the bytes of each member."""
        places = {}
        for kind, data in members.items():
            header = tarfile.TarInfo(f"{key}.{kind}")
            header.size, header.mode = len(data), 0o644
            self._put(header.tobuf(tarfile.USTAR_FORMAT))
            places[kind] = [self.bytes, len(data)]
            self._put(data)
            self._put(bytes(_padded(len(data)) - len(data)))
        return places

    def finish(self) -> dict[str, Any]:
        """End the file, flush it to the disk, and return its size and hash."""
        self._put(_END)
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        return {"bytes": self.bytes, "blake2b": self._hash.hexdigest()}

    def close(self) -> None:
        """Close the file, complete or not."""
        self._file.close()

    def _put(self, data: bytes) -> None:
        self._file.write(data)
        self._hash.update(data)
        self.bytes += len(data)
