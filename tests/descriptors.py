"""Descriptors of this process; those of other tests, whose threads may still end, do not count."""

import gc
import os
from pathlib import Path

HAS_PROC = os.path.isdir("/proc/self/fd")


def open_below(folder: Path) -> int:
    """Return how many descriptors refer to a folder or to what lies in it; 0 without /proc."""
    gc.collect()
    found = 0
    for name in os.listdir("/proc/self/fd") if HAS_PROC else ():
        try:
            found += Path(os.readlink(f"/proc/self/fd/{name}")).is_relative_to(folder.resolve())
        except FileNotFoundError:
            # The one of the listing, or one that a thread has closed.
            continue
    return found
