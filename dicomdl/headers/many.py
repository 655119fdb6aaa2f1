"""Headers of many files: one after the other, and of objects of stores many at a time."""

from collections.abc import Sequence

from dicomdl.headers.header import Header
from dicomdl.headers.reader import HeaderReader, unopened
from dicomdl.storage.locations import SEPARATOR, split
from dicomdl.storage.sources import HeadWalker, walk_heads


def read_headers(
    reader: HeaderReader, paths: Sequence[str], walker: HeadWalker | None = None
) -> list[Header]:
    """Read the headers of some files.

    Parameters
    ----------
    reader
        The reader.
    paths
        Locations of files, members of archives and objects of stores.
    walker
        Who asks for the objects among these files and others; None for these alone.

    Returns
    -------
    list of Header
        In the order of `paths`.
    """
    if not any(SEPARATOR in path for path in paths):
        return [reader.read(path) for path in paths]
    objects = objects_among(paths)
    remote = set(objects)
    walk = walk_heads if walker is None else walker.walk
    found = iter(walk(objects, reader.read_opened))
    headers = []
    for path in paths:
        header = next(found) if path in remote else reader.read(path)
        headers.append(header if isinstance(header, Header) else unopened(header))
    return headers


def objects_among(paths: Sequence[str]) -> list[str]:
    """Return the objects of stores among some locations."""
    if not any(SEPARATOR in path for path in paths):
        return []
    return [path for path in paths if split(path).kind == "object"]
