"""Generations: complete sets of tables in an index folder, of which the manifest names one.

A scan writes a new generation beside the current one and replaces the manifest in one step, so
readers see either all of the old tables or all of the new ones. A superseded generation is removed
after ``GRACE_S`` (one day), for processes that still read it. Folders of scans that were killed go
with the next scan.
"""

import contextlib
import json
import math
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping
from typing import Any, BinaryIO, Final

import pyarrow as pa

from dicomdl.errors import IndexFolderError, StorageError
from dicomdl.index._retiring import moment_of, retirements
from dicomdl.index.building import encoded
from dicomdl.index.schema import FORMAT, TABLES
from dicomdl.index.stored_generation import (
    CHECKSUMS,
    FACTS,
    MANIFEST,
    checksums_of,
    read_manifest,
)
from dicomdl.index.table import Table
from dicomdl.storage import locks
from dicomdl.storage import publishing as storage
from dicomdl.storage.checksums import sealed
from dicomdl.version import __version__

# Grace period of a superseded generation: processes may still have it open.
GRACE_S: Final = 24 * 3600.0
# Names that may be removed from an index folder: those that dicomdl gives, for complete and for
# interrupted writes.
_COMPLETE: Final = r"[0-9a-f]{16}"
_INTERRUPTED: Final = r"\.[0-9a-f]{16}\.[0-9a-f]{12}\.tmp"
OUR_GENERATIONS: Final = f"{_COMPLETE}|{_INTERRUPTED}"
OUR_MANIFESTS: Final = r"manifest\.json\.[0-9a-f]{12}\.tmp"
# The folder of files that a caller gave as bytes, and their names in it.
GIVEN_FILES: Final = "given"
OUR_GIVEN: Final = r"[0-9a-f]{32}|\.[0-9a-f]{32}\.[0-9a-f]{12}\.tmp"


def is_index_folder(folder: str) -> bool:
    """Whether a folder is empty or holds only the files of an index.

    The index may be complete, damaged or interrupted. Any other file or folder makes it False.
    """
    inside = {"generations": OUR_GENERATIONS, GIVEN_FILES: OUR_GIVEN}
    for name in os.listdir(folder):
        if name in inside:
            if not all(
                re.fullmatch(inside[name], inner)
                for inner in os.listdir(os.path.join(folder, name))
            ):
                return False
        elif name != MANIFEST and not re.fullmatch(OUR_MANIFESTS, name):
            return False
    return True


def publish(
    folder: str,
    tables: Mapping[str, Table],
    facts: Mapping[str, Any],
    grace_s: float | None = None,
    *,
    written: Callable[[str], object] = lambda _: None,
) -> str:
    """Write a new generation and make it the current one.

    Generations whose grace period (``GRACE_S`` by default) has passed are removed. Readers see the
    old generation until the manifest is replaced in one step. A failure before that step
    (StorageError) leaves the old generation untouched. `written` is called with the name of the new
    generation when its files are complete, before the manifest names it.
    """
    grace_s = GRACE_S if grace_s is None else grace_s
    generations = os.path.join(folder, "generations")
    storage.make_folder(generations)
    generation = secrets.token_hex(8)
    with (
        storage.new_folder(generations, generation) as temporary,
        storage.flushing() as flush,
    ):
        for name in TABLES:
            path = os.path.join(temporary, f"{name}.arrow")
            _write_table(path, encoded(tables[name]))
            flush(path)
        _write(os.path.join(temporary, FACTS), json.dumps(dict(facts), indent=1).encode())
        flush(os.path.join(temporary, FACTS))
        _write(os.path.join(temporary, CHECKSUMS), checksums_of(temporary, generation))
        flush(os.path.join(temporary, CHECKSUMS))
    written(generation)
    # Of two scans at the same time, the second one sees what the first has removed.
    with locks.alone_in(generations):
        _make_current(folder, generation, {name: len(tables[name]) for name in TABLES}, grace_s)
    return generation


def _make_current(folder: str, generation: str, rows: Mapping[str, int], grace_s: float) -> None:
    """Name a complete generation in the manifest, and remove what has expired."""
    generations = os.path.join(folder, "generations")
    try:
        superseded = read_manifest(folder)
    except IndexFolderError:
        superseded = {}
    try:
        now = moment_of(os.path.join(generations, generation))
    except FileNotFoundError:
        raise StorageError(
            f"another scan that stores less of patients replaced the index {folder!r} meanwhile, "
            "and removed what this one has written: scan again, one after the other",
            path=folder,
        ) from None
    others = [name for name in _complete(generations) if name != generation]
    retired = retirements(superseded.get("retired", {}), others, now)
    expired = [name for name, since in retired.items() if now.since(since) >= grace_s]
    manifest: dict[str, Any] = {
        "format": FORMAT,
        "dicomdl": __version__,
        "generation": generation,
        "rows": rows,
        "retired": {name: since for name, since in retired.items() if name not in expired},
    }
    storage.write_whole(os.path.join(folder, MANIFEST), sealed(manifest))
    storage.remove_old(generations, grace_s, now.date_s, pattern=_INTERRUPTED)
    storage.remove_old(folder, GRACE_S, now.date_s, pattern=OUR_MANIFESTS)
    for name in expired:
        shutil.rmtree(os.path.join(generations, name), ignore_errors=True)


def _complete(generations: str) -> list[str]:
    return [name for name in os.listdir(generations) if re.fullmatch(_COMPLETE, name)]


def clear_remains(folder: str) -> None:
    """Remove what scans that were killed have left in the folder of an index, if there is one."""
    generations = os.path.join(folder, "generations")
    storage.remove_old(generations, math.inf, 0.0, pattern=_INTERRUPTED)


def _write_table(path: str, table: Table) -> None:
    stored = table.stored
    with _new_file(path) as file, pa.ipc.new_file(file, stored.schema) as writer:
        writer.write_table(stored)


def _write(path: str, data: bytes) -> None:
    with _new_file(path) as file:
        file.write(data)


@contextlib.contextmanager
def _new_file(path: str) -> Iterator[BinaryIO]:
    """Open a new file that only its owner may read."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with open(descriptor, "wb") as file:
        yield file
