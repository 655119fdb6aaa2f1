"""Headers of many files: one after the other, and of objects of stores many at a time."""

from collections.abc import Sequence

from dicomdl.headers.header import Header
from dicomdl.headers.reader import HeaderReader, unopened
from dicomdl.storage.locations import SEPARATOR, split
from dicomdl.storage.sources import CONCURRENCY, walk_heads


def read_headers(
    reader: HeaderReader, paths: Sequence[str], concurrency: int = CONCURRENCY
) -> list[Header]:
    """Read the headers of some files.

    Parameters
    ----------
    reader
        The reader.
    paths
        Locations of files, members of archives and objects of stores.
    concurrency
        Objects that are asked for at once.

    Returns
    -------
    list of Header
        In the order of `paths`.
    """
    if not any(SEPARATOR in path for path in paths):
        return [reader.read(path) for path in paths]
    is_object = [split(path).kind == "object" for path in paths]
    objects = [path for path, chosen in zip(paths, is_object, strict=True) if chosen]
    found = iter(walk_heads(objects, reader.read_opened, concurrency))
    headers = []
    for path, chosen in zip(paths, is_object, strict=True):
        header = next(found) if chosen else reader.read(path)
        headers.append(header if isinstance(header, Header) else unopened(header))
    return headers
