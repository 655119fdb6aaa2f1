"""Python as on a system that lacks what Linux has: put this folder first on PYTHONPATH.

macOS and Windows lack `memfd_create`, `posix_fadvise` and, in part, `preadv`; Windows lacks `fork`
and `fcntl`, too. Child processes inherit PYTHONPATH, so they lack them as well. They start by
`spawn`, as on those systems.
"""

import multiprocessing
import os
import sys

for name in ("memfd_create", "preadv", "posix_fadvise", "fork"):
    if hasattr(os, name):
        delattr(os, name)
sys.modules["fcntl"] = None  # type: ignore[assignment]
multiprocessing.set_start_method("spawn")
