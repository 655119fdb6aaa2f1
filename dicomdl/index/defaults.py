"""Default index folders: those that a scan without `out` keeps in the user's cache folder."""

import contextlib
import hashlib
import json
import os
from collections.abc import Mapping
from typing import Any, Final

from dicomdl.errors import DicomdlError
from dicomdl.index.stored_generation import StoredGeneration, read_manifest
from dicomdl.storage import publishing as storage

_PART: Final = "indexes"


def default_folder(options: Mapping[str, Any]) -> str:
    """Return the default index folder of a scan with these options, and create it if absent."""
    name = hashlib.blake2b(json.dumps(options, sort_keys=True).encode(), digest_size=12).hexdigest()
    return storage.cache_folder(_PART, name)


def find_default(root: str) -> str | None:
    """Return the default index folder whose scan had `root` as its only root.

    A link to the folder counts as the folder, unless the link itself was scanned. The latest index,
    if scans with several options were made. None without such an index: one of several roots would
    bring the files of the others.
    """
    parent = os.path.join(storage.cache_root(), _PART)
    # (Whether the path itself was scanned, time, folder).
    found: list[tuple[bool, float, str]] = []
    with contextlib.suppress(OSError):
        for name in os.listdir(parent):
            folder = os.path.join(parent, name)
            # An index that is damaged, of another format or half removed is none.
            with contextlib.suppress(DicomdlError, OSError):
                facts = StoredGeneration(folder, read_manifest(folder)["generation"]).facts()
                roots = facts.get("options", {}).get("roots", [])
                if len(roots) == 1 and _is_same(roots[0], root):
                    written = os.path.getmtime(os.path.join(folder, "manifest.json"))
                    found.append((roots == [root], written, folder))
    return max(found)[2] if found else None


def _is_same(one: str, other: str) -> bool:
    """Return whether two paths lead to the same folder, through links too."""
    with contextlib.suppress(OSError, ValueError):
        return one == other or os.path.realpath(one) == os.path.realpath(other)
    return False
