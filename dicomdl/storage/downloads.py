"""Small files of stores as files on disk, for libraries that want a path."""

import contextlib
import errno
import os
import tempfile
from collections.abc import Iterator
from typing import Final

from dicomdl.storage._requests import client_of
from dicomdl.storage.locations import is_url
from dicomdl.storage.scratch import scratch_prefix

MOST_BYTES: Final = 2**30


@contextlib.contextmanager
def download(location: str) -> Iterator[str]:
    """Give the path of a file, or of the copy of an object, which is removed after the block.

    Raises
    ------
    OSError
        The object cannot be read, or has more than 1 GiB.
    """
    if not is_url(location):
        yield location
        return
    data = client_of(location).whole(location, MOST_BYTES)
    if data is None:
        raise OSError(errno.EFBIG, f"it has more than {MOST_BYTES} bytes")
    with tempfile.TemporaryDirectory(prefix=scratch_prefix("table")) as folder:
        path = os.path.join(folder, f"table{os.path.splitext(location)[1].lower()}")
        with open(path, "wb") as file:
            file.write(data)
        yield path
