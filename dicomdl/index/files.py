"""The files that a scan has read, whatever is in them."""

from dicomdl.headers.frame_source import FILE_FIELDS
from dicomdl.index.index import Index
from dicomdl.storage.sources import Source


def file_sources(index: Index) -> list[Source]:
    """Return the sources of all files of the scan of an index, images or not, in its order."""
    generation = index._generation
    paths = [generation.path(data) for data in generation.files.column("path").to_pylist()]
    states = [generation.files.column(name).to_pylist() for name in FILE_FIELDS[1:]]
    return [Source(*row) for row in zip(paths, *states, strict=True)]
