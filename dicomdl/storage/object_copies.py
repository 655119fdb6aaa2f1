"""Copies of objects in a folder: each file whole or absent, and compared with the MD5 of its store.

The ETag of an object that was stored in one part is its MD5 (S3 and GCS); other ETags are no hash
of the content, and the size is compared alone.
"""

import contextlib
import hashlib
import os
import re
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Final

from dicomdl.errors import DicomdlError, StorageError
from dicomdl.storage import publishing as storage
from dicomdl.storage._requests import submit
from dicomdl.storage.handles import Source
from dicomdl.storage.listing import listed
from dicomdl.storage.objects import fetch

_MD5: Final = re.compile(r"[0-9a-f]{32}")
# Bytes of one request, and of one object in memory.
_PART_BYTES: Final = 32 * 2**20


@dataclass(frozen=True, slots=True)
class Wanted:
    """An object in a state, and the path of its copy."""

    source: Source
    path: str


def objects_below(prefix: str, folder: str) -> list[Wanted]:
    """List the objects below a prefix, with the paths of their copies in a folder.

    Only the last part of a key becomes the name of a file.

    Raises
    ------
    StorageError
        The prefix cannot be listed.
    """
    with storage.explained(f"{prefix} cannot be listed"):
        found = listed(prefix)
    if found.unreadable:
        raise StorageError(f"cannot be listed: {found.unreadable[0]}")
    wanted = []
    for path, state in zip(found.paths, found.states, strict=True):
        url = os.fsdecode(path)
        name = url.rpartition("/")[2]
        if name in ("", ".", "..") or os.sep in name or "\0" in name:
            raise StorageError(f"{url!r} has no name for a file")
        wanted.append(Wanted(Source(url, *state), os.path.join(folder, name)))
    return wanted


def copy_objects(
    wanted: Iterable[Wanted], concurrency: int, done: Callable[[int], None]
) -> tuple[int, int]:
    """Copy objects that are not there in full yet, several at once.

    Parameters
    ----------
    wanted
        The objects. A file of the right size counts as its copy: it appeared complete.
    concurrency
        Number of objects that are copied at once.
    done
        Called with the bytes of each object that is there, by one thread at a time.

    Returns
    -------
    copied, present : int
        The number of objects copied now, and there before.

    Raises
    ------
    StorageError
        Objects could not be copied (attribute `failed`); all others are there.
    """
    room = threading.BoundedSemaphore(concurrency)
    lock, is_full = threading.Lock(), threading.Event()

    def copy(each: Wanted) -> None:
        try:
            _copy(each)
        except StorageError as error:
            # A full disk fails whatever follows; a request fails alone.
            if getattr(error, "errno", None) is not None:
                is_full.set()
            raise
        finally:
            room.release()
        with lock:
            done(each.source.size)

    asked: list[Future[None]] = []
    present = 0
    for each in wanted:
        if is_full.is_set():
            break
        if _size(each.path) == each.source.size:
            present += 1
            with lock:
                done(each.source.size)
            continue
        room.acquire()
        asked.append(submit(copy, each))
    failures = [error for future in asked if (error := future.exception()) is not None]
    if failures:
        first = failures[0]
        if not isinstance(first, DicomdlError):
            raise first
        raise StorageError(
            f"{len(failures)} of {len(asked)} objects could not be copied, the others are there: "
            f"{first}; the same call continues",
            failed=len(failures),
        ) from first
    return len(asked), present


def _copy(wanted: Wanted) -> None:
    """Copy an object part by part into a temporary file, and put it in place."""
    source = wanted.source
    storage.make_folder(os.path.dirname(wanted.path))
    digest = hashlib.md5(usedforsecurity=False)
    with storage.put_together(wanted.path) as inside, open(inside, "wb") as file:
        for offset in range(0, source.size, _PART_BYTES):
            data = _part(source, offset)
            digest.update(data)
            file.write(data)
        if _MD5.fullmatch(source.etag) and digest.hexdigest() != source.etag:
            raise StorageError(f"{source.path} arrived damaged: its MD5 differs from its ETag")


def _part(source: Source, offset: int) -> memoryview:
    length = min(_PART_BYTES, source.size - offset)
    try:
        data: memoryview = fetch(source, offset, length).data
    except OSError as error:
        raise StorageError(f"{source.path} cannot be read: {error.strerror}") from error
    return data


def _size(path: str) -> int:
    with contextlib.suppress(OSError):
        return os.stat(path).st_size
    return -1
