"""Default index folders: those that a scan without `out` keeps in the user's cache folder."""

import contextlib
import hashlib
import json
import os
from collections.abc import Mapping
from typing import Any, Final

from dicomdl.errors import DicomdlError
from dicomdl.index.generations import read_facts, read_manifest
from dicomdl.storage import publishing as storage

_PART: Final = "indexes"


def default_folder(options: Mapping[str, Any]) -> str:
    """Return the default index folder of a scan with these options, and create it if absent."""
    name = hashlib.blake2b(json.dumps(options, sort_keys=True).encode(), digest_size=12).hexdigest()
    return storage.cache_folder(_PART, name)


def find_default(root: str) -> str | None:
    """Return the default index folder whose scan had `root` as its only root.

    The latest one, if scans with several options were made. None without such an index.
    """
    parent = os.path.join(storage.cache_root(), _PART)
    found: list[tuple[float, str]] = []
    with contextlib.suppress(OSError):
        for name in os.listdir(parent):
            folder = os.path.join(parent, name)
            # An index that is damaged, of another format or half removed is none.
            with contextlib.suppress(DicomdlError, OSError):
                facts = read_facts(folder, read_manifest(folder)["generation"])
                if facts.get("options", {}).get("roots") == [root]:
                    found.append((os.path.getmtime(os.path.join(folder, "manifest.json")), folder))
    return max(found)[1] if found else None
