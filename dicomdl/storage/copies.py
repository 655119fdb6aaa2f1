"""Copies in the cache folder of what cannot be read in place, such as the tar in a ``.tar.gz``.

A copy is made once for all processes, appears complete in one step, and is readable by its owner
only. Its name has the state of the archive and the bytes of the copy, so that a stale or a cut copy
is never found. The content is checked by the checksums of its compression while it is written.
Copies that were not used for long are removed when the next one needs their room.
"""

import contextlib
import hashlib
import os
import re
import secrets
import shutil
import time
from collections.abc import Callable, Iterable
from typing import Final

from dicomdl.errors import StorageError
from dicomdl.storage import locks
from dicomdl.storage.handles import Source
from dicomdl.storage.publishing import (
    cache_folder,
    cache_root,
    explained,
    files_by_use,
    remove_old,
    removed_first,
    require_private,
)

# The folder below the user's cache folder.
PART: Final = "archives"
_COPY: Final = re.compile(r"[0-9a-f]{32}-(\d+)\.copy")
_TEMPORARY: Final = r"[0-9a-f]{32}\.[0-9a-f]{12}\.tmp"
_DAY_S: Final = 86400.0
# A copy takes minutes at most; a process that waits longer makes its own.
_WAIT_S: Final = 600.0


def copy_of(source: Source, pieces: Callable[[], Iterable[bytes]]) -> str:
    """Return the path of the copy of some bytes, and make it if absent.

    Parameters
    ----------
    source
        What is copied, and its state.
    pieces
        Function that returns the bytes. Its errors pass through, and leave no copy.

    Raises
    ------
    StorageError
        The cache folder cannot be written, or is full.
    """
    folder = cache_folder(PART)
    require_private(folder)
    key = _key(source)
    if (found := _found(folder, key)) is not None:
        return found
    with locks.alone(os.path.join(folder, f"{key}.lock"), _WAIT_S):
        return _found(folder, key) or _made(folder, key, pieces())


def find(source: Source) -> str | None:
    """Return the path of the copy of a source; None if there is none that may be used."""
    folder = os.path.join(cache_root(), PART)
    if not os.path.isdir(folder):
        return None
    try:
        require_private(folder)
        return _found(folder, _key(source))
    except StorageError:
        return None


def _key(source: Source) -> str:
    text = "\0".join(map(str, source))
    return hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=16).hexdigest()


def _found(folder: str, key: str) -> str | None:
    with explained(f"the cache folder {folder!r} cannot be read"):
        names = [name for name in os.listdir(folder) if name.startswith(key)]
    for name in names:
        path = os.path.join(folder, name)
        match = _COPY.fullmatch(name)
        with contextlib.suppress(OSError):
            if match and os.stat(path).st_size == int(match[1]):
                # The time of the last use decides what is removed.
                os.utime(path)
                return path
    return None


def _made(folder: str, key: str, pieces: Iterable[bytes]) -> str:
    temporary = os.path.join(folder, f"{key}.{secrets.token_hex(6)}.tmp")
    remove_old(folder, _DAY_S, time.time(), pattern=_TEMPORARY)
    with explained(f"a copy of the archive cannot be written to {folder!r}"):
        try:
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with open(descriptor, "wb") as file:
                for piece in pieces:
                    _make_room(folder, len(piece))
                    file.write(piece)
                file.flush()
                os.fsync(descriptor)
                size = file.tell()
            path = os.path.join(folder, f"{key}-{size}.copy")
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise
    return path


def _make_room(folder: str, length: int) -> None:
    """Remove the copies that were not used for longest while the disk is nearly full.

    Raises
    ------
    StorageError
        The disk is nearly full of other files.
    """
    while True:
        usage = shutil.disk_usage(folder)
        # A full disk stops other programs, too.
        if usage.free - length > usage.total // 50:
            return
        copies = used_files(folder)
        if not copies:
            raise StorageError(
                f"the disk of the cache folder {folder!r} is nearly full: unpack the archive "
                "elsewhere, or set DICOMDL_CACHE to a folder with more room",
                free_bytes=usage.free,
            )
        _, _, oldest = min(copies, key=lambda copy: removed_first(copy[0]))
        # Another process may remove it at the same time.
        with contextlib.suppress(FileNotFoundError):
            os.unlink(oldest)


def used_files(folder: str) -> list[tuple[float, int, str]]:
    """Return the time of the last use, the bytes and the path of each copy."""
    return files_by_use(folder, _COPY)


def clear() -> int:
    """Remove all copies; return their number of bytes."""
    total = 0
    for _, size, path in used_files(os.path.join(cache_root(), PART)):
        with contextlib.suppress(OSError):
            os.unlink(path)
            total += size
    return total
