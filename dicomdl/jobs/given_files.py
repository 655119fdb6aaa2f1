"""Files that a caller gives as (name, bytes): stored once, so that an index of them can be opened.

They lie in the folder of the index, or in the user's cache folder for an index without `out`, below
a hash of their names and bytes. Only the owner can read them.
"""

import os
from collections.abc import Sequence
from typing import Any, Final

import xxhash

from dicomdl.errors import StorageError, UsageError
from dicomdl.index.generations import GIVEN_FILES
from dicomdl.storage import publishing as storage
from dicomdl.storage.given import given_bytes

_ODD: Final = ("", ".", "..")


def stored_files(roots: Any, index_folder: str | None) -> Any:
    """Return roots with a folder in place of the (name, bytes) pairs among them.

    The files are stored in the folder of the index, or in the cache folder.

    Raises
    ------
    UsageError
        A name is no relative path, begins with a dot, or is given twice.
    StorageError
        The files cannot be written.
    """
    if not isinstance(roots, list | tuple) or not any(isinstance(each, tuple) for each in roots):
        return roots
    pairs = [_pair(each) for each in roots if isinstance(each, tuple)]
    names = [name for name, _ in pairs]
    if len(set(names)) < len(names):
        raise UsageError("two files were given under one name")
    digest = xxhash.xxh3_128()
    for name, data in pairs:
        digest.update(f"{len(name)} {len(data)} {name}".encode())
        digest.update(data)
    if index_folder is None:
        parent = storage.cache_folder(GIVEN_FILES)
    else:
        parent = os.path.join(index_folder, GIVEN_FILES)
    folder = os.path.join(parent, digest.hexdigest())
    if not os.path.isdir(folder):
        _write(parent, digest.hexdigest(), pairs)
    return [*(each for each in roots if not isinstance(each, tuple)), folder]


def _pair(given: tuple[Any, ...]) -> tuple[str, bytes]:
    name = given[0] if len(given) == 2 and isinstance(given[0], str) else None
    location = given_bytes(given[1]) if name is not None else None
    if name is None or location is None:
        raise UsageError("scan takes paths, and (name, bytes) for files in memory")
    parts = name.split("/")
    if any(part in _ODD or part.startswith(".") or "\\" in part or "\0" in part for part in parts):
        raise UsageError(
            f"{name!r} is no name for a file: expected a relative path without names that begin "
            "with a dot"
        )
    return name, location.data


def _write(parent: str, name: str, pairs: Sequence[tuple[str, bytes]]) -> None:
    storage.make_folder(parent)
    try:
        with storage.new_folder(parent, name) as folder:
            storage.write_files(folder, pairs)
    except StorageError:
        # Another process may have stored them first.
        if not os.path.isdir(os.path.join(parent, name)):
            raise
