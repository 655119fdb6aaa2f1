"""Long selections in the cache folder, so that the pickle of an index stays below 4 kB."""

import contextlib
import hashlib
import os
import zlib
from typing import Final

import numpy as np

from dicomdl.errors import IndexFolderError, StorageError
from dicomdl.index._selections import Ranges
from dicomdl.storage import publishing as storage

# Most ranges that a pickle holds; longer selections are written to the cache folder.
INLINE_RANGES: Final = 32


def stored(ranges: Ranges) -> tuple[bytes | None, str]:
    """Return (packed ranges, "") for a pickle, or (None, name) of a stored selection.

    Where the cache folder cannot be written (a container without a home), the pickle holds them
    all.
    """
    if len(ranges) > INLINE_RANGES:
        with contextlib.suppress(StorageError):
            return None, write_selection(ranges)
    return zlib.compress(ranges.astype("<i8").tobytes()), ""


def unpacked(packed: bytes) -> Ranges:
    """Return the ranges that `stored` packed."""
    return np.frombuffer(zlib.decompress(packed), dtype="<i8").astype(np.int64).reshape(-1, 2)


def write_selection(ranges: Ranges) -> str:
    """Write ranges to the cache folder, once, and return their name: a digest of the content."""
    name = hashlib.blake2b(ranges.tobytes(), digest_size=16).hexdigest()
    path = os.path.join(storage.cache_folder("selections"), f"{name}.i64")
    if not os.path.exists(path):
        storage.write_whole(path, ranges.astype("<i8").tobytes())
    return name


def read_selection(name: str) -> Ranges:
    """Map the ranges that `write_selection` wrote.

    Raises
    ------
    IndexFolderError
        The cache folder of this machine does not hold them.
    """
    path = os.path.join(storage.cache_folder("selections"), f"{name}.i64")
    try:
        return np.asarray(np.memmap(path, dtype="<i8", mode="r")).reshape(-1, 2)
    except (OSError, ValueError):
        raise IndexFolderError(
            f"the selection {name} is not in this machine's cache folder: "
            "select again here, or share DICOMDL_CACHE",
            selection=name,
        ) from None
