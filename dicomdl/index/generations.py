"""index.generations"""

import contextlib
import datetime
import json
import os
import re
import secrets
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO, Final

import pyarrow as pa

from dicomdl.errors import GenerationGone, IndexFolderError
from dicomdl.index.building import encoded
from dicomdl.index.schema import FORMAT, TABLES
from dicomdl.index.table import Table
from dicomdl.storage import publishing as storage
from dicomdl.version import __version__

# a generation that was replaced stays this long for those who still have it open
GRACE_S: Final = 24 * 3600.0
# What may be removed from an index folder: names that dicomdl gave, whole ones and those of
# interrupted writes.
OUR_GENERATIONS: Final = r"[0-9a-f]{16}|\.[0-9a-f]{16}\.[0-9a-f]{12}\.tmp"
OUR_MANIFESTS: Final = r"manifest\.json\.[0-9a-f]{12}\.tmp"
_FACTS: Final = "scan.json"


def read_manifest(folder: str) -> dict[str, Any]:
    """The manifest of an index folder.

    Raises
    ------
    IndexFolderError
        There is no index, it is damaged, or another version of dicomdl wrote it in another format.
    """
    path = os.path.join(folder, "manifest.json")
    try:
        with open(path, "rb") as file:
            manifest = json.loads(file.read())
        format_found = manifest["format"]
        generation = manifest["generation"]
    except FileNotFoundError:
        raise IndexFolderError(
            f"there is no index at {folder!r}: make one with dicomdl.scan(folder, out=...)",
            path=folder,
        ) from None
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise IndexFolderError(
            f"the manifest of the index {folder!r} cannot be read: scan again", path=folder
        ) from error
    if format_found != FORMAT:
        raise IndexFolderError(
            f"the index {folder!r} has format {format_found}, this dicomdl {__version__} reads {FORMAT}: scan again",
            found=format_found,
            expected=FORMAT,
        )
    if not (isinstance(generation, str) and generation.isalnum()):
        raise IndexFolderError(
            f"the manifest of the index {folder!r} names no generation: scan again", path=folder
        )
    return dict(manifest)


def read_facts(folder: str, generation: str) -> dict[str, Any]:
    """What the scan that made a generation wrote down: its options, and what the walk passed over.

    They belong to the generation, not to the manifest: who still reads a superseded one gets its
    own.

    Raises
    ------
    GenerationGone
        A later scan has removed the generation.
    IndexFolderError
        The file is damaged.
    """
    try:
        with open(os.path.join(folder, "generations", generation, _FACTS), "rb") as file:
            return dict(json.loads(file.read()))
    except FileNotFoundError:
        raise _gone(folder, generation) from None
    except (OSError, ValueError, TypeError) as error:
        raise IndexFolderError(
            f"the facts of the index {folder!r} are damaged: scan again", path=folder
        ) from error


def map_table(folder: str, generation: str, name: str) -> Table:
    """One table of a generation, memory-mapped: nothing is read until it is looked at.

    Raises
    ------
    GenerationGone
        A later scan has removed the generation.
    IndexFolderError
        The file is damaged.
    """
    path = os.path.join(folder, "generations", generation, f"{name}.arrow")
    try:
        with pa.memory_map(path) as source:
            return Table(pa.ipc.open_file(source).read_all())
    except FileNotFoundError:
        raise _gone(folder, generation) from None
    except (pa.ArrowInvalid, OSError) as error:
        raise IndexFolderError(
            f"the table {name} of the index {folder!r} is damaged: scan again", path=folder
        ) from error


def _gone(folder: str, generation: str) -> GenerationGone:
    return GenerationGone(
        f"generation {generation} of the index {folder!r} is gone: a later scan replaced it; "
        "open the index again, or scan",
        path=folder,
        generation=generation,
    )


def is_index_folder(folder: str) -> bool:
    """Whether a folder holds an index, whole, damaged or just begun, or nothing.

    Never when it holds anything else.
    """
    for name in os.listdir(folder):
        if name == "generations":
            if not all(
                re.fullmatch(OUR_GENERATIONS, inner)
                for inner in os.listdir(os.path.join(folder, name))
            ):
                return False
        elif name != "manifest.json" and not re.fullmatch(OUR_MANIFESTS, name):
            return False
    return True


def publish(
    folder: str, tables: Mapping[str, Table], facts: Mapping[str, Any], grace_s: float | None = None
) -> str:
    """Write a new generation, make it the current one, and remove those whose grace period (GRACE_S by default) is over.

    Until the manifest is replaced, in one step, readers see the old generation; whatever goes wrong before leaves
    it untouched (StorageError).
    """
    grace_s = GRACE_S if grace_s is None else grace_s
    storage.make_folder(os.path.join(folder, "generations"))
    try:
        superseded = read_manifest(folder)
    except IndexFolderError:
        superseded = {}
    generation = secrets.token_hex(8)
    now = datetime.datetime.now(datetime.UTC).timestamp()
    with storage.new_folder(os.path.join(folder, "generations"), generation) as temporary:
        for name in TABLES:
            _write_table(os.path.join(temporary, f"{name}.arrow"), encoded(tables[name]))
        _write(os.path.join(temporary, _FACTS), json.dumps(dict(facts), indent=1).encode())
    retired = dict(superseded.get("retired", {}))
    if superseded:
        retired[superseded["generation"]] = now
    expired = [name for name, since in retired.items() if now - since >= grace_s]
    manifest: dict[str, Any] = {
        "format": FORMAT,
        "dicomdl": __version__,
        "generation": generation,
        "rows": {name: len(tables[name]) for name in TABLES},
        "retired": {name: since for name, since in retired.items() if name not in expired},
    }
    storage.write_whole(
        os.path.join(folder, "manifest.json"), json.dumps(manifest, indent=1).encode()
    )
    # Generations nobody names any more, and what killed scans left behind.
    storage.remove_old(
        os.path.join(folder, "generations"),
        grace_s,
        now,
        pattern=OUR_GENERATIONS,
        keep={generation, *manifest["retired"]},
    )
    storage.remove_old(folder, GRACE_S, now, pattern=OUR_MANIFESTS)
    return generation


def _write_table(path: str, table: Table) -> None:
    with _new_file(path) as file, pa.ipc.new_file(file, table.arrow.schema) as writer:
        writer.write_table(table.arrow)


def _write(path: str, data: bytes) -> None:
    with _new_file(path) as file:
        file.write(data)


@contextlib.contextmanager
def _new_file(path: str) -> Iterator[BinaryIO]:
    """A file of its owner alone, on the disk when the block ends."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with open(descriptor, "wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())
