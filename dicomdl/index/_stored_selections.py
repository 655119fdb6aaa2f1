"""Long selections in the cache folder, so that the pickle of an index stays below 4 kB."""

import contextlib
import hashlib
import os
import zlib
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from dicomdl.errors import IndexDamaged, IndexFolderError, StorageError
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
    data = ranges.astype("<i8").tobytes()
    name = _name_of(data)
    storage.write_named(_path(name), data)
    return name


def read_selection(name: str) -> Ranges:
    """Map the ranges that `write_selection` wrote, after a comparison with their digest.

    Raises
    ------
    IndexDamaged
        The file holds other ranges.
    IndexFolderError
        The cache folder of this machine does not hold them.
    """
    path = _path(name)
    try:
        data: npt.NDArray[np.uint8] = np.memmap(path, mode="r")
    except ValueError:
        # An empty file.
        data = np.empty(0, np.uint8)
    except OSError:
        raise IndexFolderError(
            f"the selection {name} is not in this machine's cache folder: "
            "select again here, or share DICOMDL_CACHE",
            selection=name,
        ) from None
    if _name_of(data) != name:
        raise IndexDamaged(
            f"the selection {name} in the cache folder is damaged: select again, which writes it "
            "anew",
            path=path,
            table="selection",
            block=None,
        )
    return np.asarray(data).view("<i8").reshape(-1, 2)


def _path(name: str) -> str:
    return os.path.join(storage.cache_folder("selections"), f"{name}.i64")


def _name_of(data: Any) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()
