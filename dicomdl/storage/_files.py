"""Files of a file system, opened as far as their paths are accepted."""

import contextlib
import os

from dicomdl.storage.handles import LocalFile, Source
from dicomdl.storage.paths import must_be_no_link, require_link_inside
from dicomdl.storage.system import NO_LINK_FLAGS


def open_file(path: str, expected: Source | None = None) -> LocalFile:
    """Open a file; raise OSError, FileChanged or UntrustedRoot."""
    if type(path) is not str and must_be_no_link(path):
        return open_below_root(path, expected)
    return LocalFile(path, expected)


def open_below_root(path: str, expected: Source | None) -> LocalFile:
    """Open a file of which `must_be_no_link` is True; follow links that stay below the root."""
    if NO_LINK_FLAGS is not None:
        # An error may mean a link, by a number that systems do not agree on.
        with contextlib.suppress(OSError):
            return LocalFile(path, expected, NO_LINK_FLAGS)
    if os.path.islink(path):
        require_link_inside(path)
    return LocalFile(path, expected)
