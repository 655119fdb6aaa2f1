"""Paths of a recipe."""

import os

from dicomdl.storage.locations import is_url


def within(folder: str, path: str) -> str:
    """Return a path of a recipe, which is relative to the folder of the data; a URL stays."""
    expanded = os.path.expanduser(path)
    return path if is_url(path) else os.path.normpath(os.path.join(folder, expanded))
