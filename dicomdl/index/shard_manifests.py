"""Manifests of shards: a Parquet file with the place of each sample and of each of its members.

A row is a sample. Its bytes, with the headers of the tar file, are `offset` to ``offset + bytes``
of `shard`, and the bytes of member `members[i]` begin at `member_offsets[i]`. A tar file has no
checksum of contents, so `xxh3` is one of the members (`sum_of`). The pages of the manifest have
theirs, and `xxh3` of its facts is that of all other facts.
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import pyarrow as pa
import xxhash

from dicomdl.errors import IndexFolderError
from dicomdl.index.schema import TEXT
from dicomdl.storage import publishing as storage
from dicomdl.storage.checksums import sealed, unsealed
from dicomdl.storage.json_texts import parsed

MANIFEST: Final = "manifest.parquet"
# Number of the format of manifests and of the JSON in shards.
VERSION: Final = 1
_FACTS: Final = b"dicomdl_shards"
_SEALED: Final = b'{"xxh3"'
_SUM: Final = "xxh3"
# Bytes of an image that have a checksum of their own: those that a reader converts at once.
BLOCK_BYTES: Final = 2**19
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
        (_SUM, TEXT),
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
    xxh3
        The `sum_of` the sample; "" in a manifest without checksums.
    """

    key: str
    shard: str
    offset: int
    bytes: int
    members: Mapping[str, tuple[int, int]]
    xxh3: str = ""


def sum_of(parts: Iterable[bytes | memoryview], blocks: Iterable[int]) -> str:
    """Return the checksum of a sample, XXH3 of 64 bits.

    Parameters
    ----------
    parts
        The header of the image, and the members behind the image in their order.
    blocks
        XXH3 of each `BLOCK_BYTES` of the values of the image, which threads may read.
    """
    whole = xxhash.xxh3_64()
    for part in parts:
        whole.update(part)
    for block in blocks:
        whole.update(block.to_bytes(8, "little"))
    return whole.hexdigest()


def sum_of_members(members: Mapping[str, bytes], value_bytes: int) -> str:
    """Return the `sum_of` a sample whose first member ends with so many bytes of values."""
    image, *others = members.values()
    values = memoryview(image)[len(image) - value_bytes :]
    starts = range(0, value_bytes, BLOCK_BYTES)
    blocks = [xxhash.xxh3_64_intdigest(values[at : at + BLOCK_BYTES]) for at in starts]
    return sum_of([image[: len(image) - value_bytes], *others], blocks)


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
                table = pq.read_table(file, page_checksum_verification=True)
            table.validate(full=True)
            self.facts: Mapping[str, Any] = _facts_of(table)
            version = self.facts["version"]
            if len(table) != self.facts.get("rows", len(table)):
                raise ValueError(f"{len(table)} rows, expected {self.facts['rows']}")
            if _SUM not in table.column_names:
                table = table.append_column(_SUM, pa.nulls(len(table), TEXT))
            self.table = table.select(_SCHEMA.names).cast(_SCHEMA)
        except FileNotFoundError:
            raise IndexFolderError(
                f"{folder!r} has no {MANIFEST}: expected the folder of an export to webdataset"
            ) from None
        except _DAMAGE as error:
            raise IndexFolderError(
                f"the manifest {path!r} is damaged: {type(error).__name__}: {error}; copy it "
                "again, or export again, which keeps complete shards"
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
        key, shard, offset, length, kinds, starts, sizes, checksum = (
            self.table.column(name)[number].as_py() for name in (*names, _SUM)
        )
        members = dict(zip(kinds, zip(starts, sizes, strict=True), strict=True))
        return ShardRow(key, shard, offset, length, members, checksum or "")


def _facts_of(table: pa.Table) -> dict[str, Any]:
    """Return the facts of a manifest; raise ValueError if they are not as they were written.

    Those of manifests without checksums of samples have none, either.
    """
    data = table.schema.metadata[_FACTS]
    if _SUM in table.column_names:
        return unsealed(data)[0]
    if data.startswith(_SEALED):
        raise ValueError(f"there is no column {_SUM}")
    return dict(parsed(data))


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
    told = sealed(dict(sorted({"version": VERSION, "rows": len(entries), **facts}.items())))
    table = pa.table(columns, schema=_SCHEMA.with_metadata({_FACTS: told}))
    with storage.put_together(path) as inside:
        pq.write_table(table, inside, compression="zstd", write_page_checksum=True)
