"""Manifests of shards: a Parquet file with the place of each sample and of each of its members.

A row is a sample. Its bytes, with the headers of the tar file, are `offset` to ``offset + bytes``
of `shard`, and the bytes of member `members[i]` begin at `member_offsets[i]`.
"""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import pyarrow as pa

from dicomdl.errors import IndexFolderError
from dicomdl.index.schema import TEXT
from dicomdl.storage import publishing as storage
from dicomdl.storage.json_texts import parsed

MANIFEST: Final = "manifest.parquet"
# Number of the format of manifests and of the JSON in shards.
VERSION: Final = 1
_FACTS: Final = b"dicomdl_shards"
_SCHEMA: Final = pa.schema(
    [
        ("key", TEXT),
        ("split", TEXT),
        ("fold", pa.int32()),
        ("shard", TEXT),
        ("offset", pa.int64()),
        ("bytes", pa.int64()),
        ("members", pa.list_(TEXT)),
        ("member_offsets", pa.list_(pa.int64())),
        ("member_bytes", pa.list_(pa.int64())),
        ("dtype", TEXT),
        ("shape", pa.list_(pa.int64())),
        ("target", pa.list_(pa.float64())),
        ("stacks", pa.list_(pa.int64())),
        ("modality", TEXT),
        ("patient_id", TEXT),
        ("study_instance_uid", TEXT),
        ("series_instance_uid", TEXT),
        ("verdict", TEXT),
        ("units", TEXT),
    ]
)
_DAMAGE: Final = (pa.ArrowException, OSError, UnicodeDecodeError, ValueError, KeyError, TypeError)


@dataclass(frozen=True, slots=True)
class ShardRow:
    """The place of a sample.

    Attributes
    ----------
    key, shard
        The key of the sample, and the name of its file.
    offset, bytes
        The range of its bytes in the file.
    members
        {kind: (offset in the file, bytes)}, such as "image.npy".
    """

    key: str
    shard: str
    offset: int
    bytes: int
    members: Mapping[str, tuple[int, int]]


class ShardManifest:
    """The manifest of an export to shards, in memory.

    Parameters
    ----------
    folder
        The folder of the shards.

    Raises
    ------
    IndexFolderError
        There is no manifest, or it is damaged or of another format.
    """

    def __init__(self, folder: str) -> None:
        import pyarrow.parquet as pq

        self.folder = folder
        path = os.path.join(folder, MANIFEST)
        try:
            with storage.open_regular(path) as file:
                table = pq.read_table(file)
            table.validate(full=True)
            self.facts: Mapping[str, Any] = parsed(table.schema.metadata[_FACTS])
            version = self.facts["version"]
            self.table = table.select(_SCHEMA.names).cast(_SCHEMA)
        except FileNotFoundError:
            raise IndexFolderError(
                f"{folder!r} has no {MANIFEST}: expected the folder of an export to webdataset"
            ) from None
        except _DAMAGE as error:
            raise IndexFolderError(
                f"the manifest {path!r} is damaged: {type(error).__name__}: {error}"
            ) from error
        if version != VERSION:
            raise IndexFolderError(
                f"the manifest {path!r} has format {version}, expected {VERSION}: export again"
            )

    def __len__(self) -> int:
        return len(self.table)

    def column(self, name: str) -> list[Any]:
        """Return the values of a column."""
        return self.table.column(name).to_pylist()  # type: ignore[no-any-return]

    def row(self, number: int) -> ShardRow:
        """Return the place of a sample."""
        names = ("key", "shard", "offset", "bytes", "members", "member_offsets", "member_bytes")
        key, shard, offset, length, kinds, starts, sizes = (
            self.table.column(name)[number].as_py() for name in names
        )
        members = dict(zip(kinds, zip(starts, sizes, strict=True), strict=True))
        return ShardRow(key, shard, offset, length, members)


def write_manifest(
    path: str, entries: Sequence[Mapping[str, Any]], facts: Mapping[str, Any]
) -> None:
    """Write the manifest of samples, in their order.

    Parameters
    ----------
    path
        The file, which is replaced where it exists.
    entries
        The entries of an export: `members` is {kind: [offset, bytes]}, other columns have the names
        of the schema.
    facts
        Plain values that hold for all samples.

    Raises
    ------
    StorageError
        The file cannot be written.
    """
    import pyarrow.parquet as pq

    columns: dict[str, list[Any]] = {name: [] for name in _SCHEMA.names}
    for entry in entries:
        members = entry["members"]
        own = {
            "members": list(members),
            "member_offsets": [place[0] for place in members.values()],
            "member_bytes": [place[1] for place in members.values()],
        }
        for name, values in columns.items():
            values.append(own.get(name, entry.get(name)))
    told = json.dumps({"version": VERSION, **facts}, sort_keys=True).encode()
    table = pa.table(columns, schema=_SCHEMA.with_metadata({_FACTS: told}))
    with storage.put_together(path) as inside:
        pq.write_table(table, inside, compression="zstd")
