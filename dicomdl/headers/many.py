"""Headers of many files: one after the other, and many at a time where each one waits."""

import os
from collections.abc import Sequence
from typing import Final

from dicomdl.errors import PixelError
from dicomdl.headers._ordinary import CAN_READ
from dicomdl.headers._ordinary import Ordinary as Ordinary
from dicomdl.headers.header import Header
from dicomdl.headers.reader import HeaderReader, unread
from dicomdl.storage.dicomweb import is_web
from dicomdl.storage.locations import SEPARATOR, is_url
from dicomdl.storage.sources import CONCURRENCY, HeadWalker, are_slow, walk_heads

_SEPARATOR: Final = os.fsencode(SEPARATOR)


def read_headers(
    reader: HeaderReader,
    paths: Sequence[str],
    walker: HeadWalker | None = None,
    concurrency: int = CONCURRENCY,
) -> list[Header]:
    """Read the headers of some files.

    Objects of stores, and files of a slow file system, are read many at a time.

    Parameters
    ----------
    reader
        The reader.
    paths
        Locations of files, members of archives and objects of stores.
    walker
        Who asks for the objects among these files and others; None for these alone.
    concurrency
        Reads in flight of a slow file system.

    Returns
    -------
    list of Header
        In the order of `paths`.
    """
    if not any(SEPARATOR in path for path in paths):
        if not are_slow(paths):
            return [reader.read(path) for path in paths]
        return _headers(walk_heads(paths, reader.read_opened, concurrency))
    objects = objects_among(paths)
    remote = set(objects)
    walk = walk_heads if walker is None else walker.walk
    found = iter(_headers(walk(objects, reader.read_opened)))
    return [next(found) if path in remote else reader.read(path) for path in paths]


def ordinary_among(reader: HeaderReader, paths: Sequence[bytes]) -> Ordinary | None:
    """Return the ordinary ones among some files, which are read at once; None without any.

    Members of archives, objects of stores and files of a slow file system are left to
    `read_headers`.
    """
    if not CAN_READ or _SEPARATOR in b"\0".join(paths):
        return None
    # The files that `are_slow` tries of many.
    tried = paths[:: max(1, (len(paths) - 1) // 2)]
    if are_slow([os.fsdecode(path) for path in tried]):
        return None
    return reader.read_ordinary(paths)


def _headers(found: Sequence[Header | OSError | PixelError]) -> list[Header]:
    """Return a problem for each file that could not be read."""
    return [header if isinstance(header, Header) else unread(header) for header in found]


def objects_among(paths: Sequence[str]) -> list[str]:
    """Return the objects of stores among some locations, and the members of archives in stores.

    Instances of DICOMweb servers have their headers already.
    """
    return [path for path in paths if SEPARATOR in path and is_url(path) and not is_web(path)]
