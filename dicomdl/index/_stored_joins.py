"""Joins in the cache folder: the columns of a table, and the row of each frame.

A join has two files, named by a digest of their content. Both are memory-mapped, so that the
workers of a DataLoader share their pages, and a pickled index holds only the name::

    joins/<digest>.arrow     one row per key that matched, and a last row without values
    joins/<digest>.i32       (frames of the generation,) the row of each frame; -1 for none

Row -1 is the last row: a frame that matched nothing has no values by the same look-up.
"""

import contextlib
import hashlib
import json
import os
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from dicomdl.errors import IndexDamaged, IndexFolderError, StorageError
from dicomdl.index.table import Table
from dicomdl.storage import publishing as storage

Rows: TypeAlias = npt.NDArray[np.int32]
# The name of a stored join, or both files compressed, where the cache folder cannot be written.
Pickled: TypeAlias = str | tuple[bytes, bytes]

_FACTS: Final = b"dicomdl.join"


@dataclass(frozen=True, slots=True, eq=False)
class StoredJoin:
    """One join: its columns, the row of each frame, and its facts.

    Attributes
    ----------
    name
        A digest of the content.
    table
        One row per key that matched, and a last row without values.
    row_of_frame
        (frames of the generation,) int32, the row of `table`; -1 where nothing matched.
    facts
        "level", "repeats_in_files" (see `Joined`), and the "report" as plain values.
    is_stored
        Whether the cache folder holds the join.
    """

    name: str
    table: Table
    row_of_frame: Rows
    facts: Mapping[str, Any]
    is_stored: bool

    @property
    def level(self) -> str:
        """The level of the keys: "patient", "study", "series", "stack" or "frame"."""
        return str(self.facts["level"])

    def pickled(self) -> Pickled:
        """Return what `opened_join` takes in another process."""
        if self.is_stored:
            return self.name
        return zlib.compress(_as_bytes(self.table.arrow)), zlib.compress(
            self.row_of_frame.tobytes()
        )


def stored_join(columns: pa.Table, row_of_frame: Rows, facts: Mapping[str, Any]) -> StoredJoin:
    """Write a join to the cache folder, and return it memory-mapped.

    Parameters
    ----------
    columns
        One row per key that matched, and a last row without values.
    row_of_frame
        (frames of the generation,) int32, the row of each frame; -1 for none.
    facts
        Plain values that are stored with the join.
    """
    table = columns.combine_chunks()
    table = table.replace_schema_metadata({_FACTS: json.dumps(facts).encode()})
    data, rows = _as_bytes(table), np.ascontiguousarray(row_of_frame, dtype="<i4")
    name = _name_of(data, rows)
    with contextlib.suppress(StorageError):
        # The table comes last: a process that finds it finds both.
        for suffix, content in (("i32", rows.tobytes()), ("arrow", data)):
            storage.write_named(_path(name, suffix), content)
        return opened_join(name)
    return StoredJoin(name, Table(table), rows, dict(facts), False)


def opened_join(pickled: Pickled) -> StoredJoin:
    """Map the join that `StoredJoin.pickled` names, after a comparison with its digest.

    Raises
    ------
    IndexDamaged
        A file holds something else.
    IndexFolderError
        The cache folder of this machine does not hold it.
    """
    if not isinstance(pickled, str):
        data, rows = map(zlib.decompress, pickled)
        table = pa.ipc.open_file(pa.BufferReader(data)).read_all()
        of_frame = np.frombuffer(rows, dtype="<i4")
        return StoredJoin(_name_of(data, rows), Table(table), of_frame, _facts_of(table), False)
    try:
        mapped: list[npt.NDArray[np.uint8]] = [
            np.memmap(_path(pickled, suffix), mode="r") for suffix in ("arrow", "i32")
        ]
    except ValueError:
        # An empty file.
        mapped = [np.empty(0, np.uint8)] * 2
    except OSError:
        raise IndexFolderError(
            f"the join {pickled} is not in this machine's cache folder: join again here, or share "
            "DICOMDL_CACHE",
            join=pickled,
        ) from None
    if _name_of(*mapped) != pickled:
        raise IndexDamaged(
            f"the join {pickled} in the cache folder is damaged: join again, which writes it anew",
            path=_path(pickled, "arrow"),
            table="join",
            block=None,
        )
    table = pa.ipc.open_file(pa.py_buffer(mapped[0])).read_all()
    of_frame = np.asarray(mapped[1]).view("<i4")
    return StoredJoin(pickled, Table(table), of_frame, _facts_of(table), True)


def _name_of(table: Any, rows: Any) -> str:
    """Return the digest of both files, by which they are named."""
    digest = hashlib.blake2b(table, digest_size=16)
    digest.update(rows)
    return digest.hexdigest()


def _path(name: str, suffix: str) -> str:
    return os.path.join(storage.cache_folder("joins"), f"{name}.{suffix}")


def _facts_of(table: pa.Table) -> dict[str, Any]:
    return dict(json.loads(table.schema.metadata[_FACTS]))


def _as_bytes(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue().to_pybytes())
