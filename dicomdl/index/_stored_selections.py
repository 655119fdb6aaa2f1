"""Long selections in the cache folder, so that the pickle of an index stays below 4 kB."""

import hashlib
import os
from typing import Final

import numpy as np

from dicomdl.errors import IndexFolderError
from dicomdl.index._selections import Ranges
from dicomdl.storage import publishing as storage

# Most ranges that a pickle holds; longer selections are written to the cache folder.
INLINE_RANGES: Final = 32


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
