"""One generation of an index on the disk, whose files are read and mapped with their checksums.

A scan writes the file `checksums` last: the size of each other file, and XXH3 of each of its blocks
of 64 KiB. Nothing of a file is believed before its block was compared, once per process.
"""

import contextlib
import functools
import os
from typing import Any, Final, NamedTuple

import numpy as np
import pyarrow as pa

from dicomdl.errors import GenerationGone, IndexDamaged, IndexFolderError
from dicomdl.index._plain_messages import read_plain
from dicomdl.index._verifying import MappedBlocks
from dicomdl.index.schema import FORMAT, TABLES
from dicomdl.index.table import Table
from dicomdl.storage import publishing as storage
from dicomdl.storage.checksums import (
    BLOCK_BYTES,
    Blocks,
    Sums,
    first_damaged,
    sealed,
    sums_of_file,
    unsealed,
)
from dicomdl.storage.json_texts import parsed
from dicomdl.version import __version__

FACTS: Final = "scan.json"
MANIFEST: Final = "manifest.json"
CHECKSUMS: Final = "checksums"


def read_manifest(folder: str) -> dict[str, Any]:
    """Read the manifest of an index folder.

    Raises
    ------
    IndexDamaged
        The manifest is not as a scan wrote it.
    IndexFolderError
        There is no index, or another version of dicomdl wrote it in another format.
    """
    path = os.path.join(folder, MANIFEST)
    try:
        with storage.open_regular(path) as file:
            data = file.read()
        # Other formats need no checksum.
        format_found = parsed(data)["format"]
        manifest, _ = ({}, b"") if format_found != FORMAT else unsealed(data)
    except NotADirectoryError:
        raise IndexFolderError(
            f"{folder!r} is a file, not the folder of an index: write one with "
            "dicomdl.scan(folder, out=...)",
            path=folder,
        ) from None
    except FileNotFoundError:
        raise IndexFolderError(
            f"there is no index at {folder!r}: write one with dicomdl.scan(folder, out=...)",
            path=folder,
        ) from None
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise _damaged(folder, MANIFEST, None, "cannot be read, or was changed") from error
    if format_found != FORMAT:
        raise IndexFolderError(
            f"the index {folder!r} has format {format_found}, "
            f"this dicomdl {__version__} reads {FORMAT}: scan again",
            found=format_found,
            expected=FORMAT,
        )
    generation = manifest.get("generation")
    if not (isinstance(generation, str) and generation.isalnum()):
        raise _damaged(folder, MANIFEST, None, "names no generation")
    return manifest


class StoredGeneration:
    """The files of one generation, each verified by the checksums that the scan wrote.

    Opening it reads the checksums, 8 bytes per block of 64 KiB. They name the generation, so files
    of another one are damage.

    Raises
    ------
    GenerationGone
        A later scan has removed the generation.
    IndexDamaged
        The checksums, or the file that is read, are not as the scan wrote them.
    """

    def __init__(self, folder: str, name: str) -> None:
        self.folder, self.name = folder, name
        head, sums = self._checksums()
        self._files: dict[str, _Sums] = {}
        start = 0
        for file, (size, structure) in head["files"].items():
            stop = start + -(-size // BLOCK_BYTES)
            self._files[file] = _Sums(size, tuple(structure), sums[start:stop])
            start = stop

    def _checksums(self) -> tuple[dict[str, Any], Sums]:
        data = self._read(CHECKSUMS)
        try:
            head, sums = unsealed(data)
        except ValueError:
            head, sums = {}, b""
        if head.get("generation") != self.name:
            raise self._damaged(CHECKSUMS, None, "cannot be read, or are of another generation")
        return head, np.frombuffer(sums, "<u8").astype(np.uint64, copy=False)

    def facts(self) -> dict[str, Any]:
        """Read the facts: the options of the scan, and what the walk passed over.

        They are stored with the generation, so a process that still reads a superseded generation
        gets the facts of that one.
        """
        data = self._read(FACTS)
        self._blocks(FACTS, data).verify(0, len(data))
        try:
            return dict(parsed(data))
        except (ValueError, TypeError) as error:
            raise self._damaged(FACTS, None, "is no JSON object") from error

    def table(self, name: str, *, is_own: bool = True) -> Table:
        """Map one table into memory.

        Pages are read at their first use, and verified in blocks; what describes the columns is
        verified here. Unless a scan of this user wrote the table, nothing in it is decompressed.
        """
        file = f"{name}.arrow"
        try:
            self._require_size(file, os.stat(self._path(file)).st_size)
            with pa.memory_map(self._path(file)) as source:
                data = source.read_buffer()
            blocks = self._blocks(file, data)
            for block in self._files[file].structure:
                blocks.verify_block(block)
            if is_own:
                arrow = pa.ipc.open_file(pa.BufferReader(data)).read_all()
            else:
                arrow = read_plain(data)
            if arrow.num_columns and arrow.column(0).num_chunks > 1:
                raise ValueError("the rows are in several pieces")
            return Table(arrow, MappedBlocks(blocks, data.address))
        except FileNotFoundError:
            raise self._absent(file) from None
        except IndexFolderError:
            raise
        except (pa.ArrowException, OSError, ValueError) as error:
            raise self._damaged(file, None, "cannot be read") from error

    def verify(self) -> None:
        """Read all files and compare every checksum.

        Raises
        ------
        IndexDamaged
            A file is not as the scan wrote it; the first one.
        """
        for file, expected in self._files.items():
            try:
                self._require_size(file, os.stat(self._path(file)).st_size)
                block = first_damaged(self._path(file), expected.sums)
            except FileNotFoundError:
                raise self._absent(file) from None
            except OSError as error:
                raise self._damaged(file, None, "cannot be read") from error
            if block is not None:
                raise self._damaged_block(file, block)

    def _path(self, file: str) -> str:
        return os.path.join(self.folder, "generations", self.name, file)

    def _read(self, file: str) -> bytes:
        try:
            with storage.open_regular(self._path(file)) as opened:
                return opened.read()
        except FileNotFoundError:
            raise self._absent(file) from None
        except OSError as error:
            raise self._damaged(file, None, "cannot be read") from error

    def _blocks(self, file: str, data: bytes | pa.Buffer) -> Blocks:
        """Return the blocks of a file, of which all bytes are there."""
        self._require_size(file, len(memoryview(data)))
        return Blocks(
            memoryview(data), self._files[file].sums, functools.partial(self._damaged_block, file)
        )

    def _require_size(self, file: str, size: int) -> None:
        """Raise IndexDamaged unless a file has the size of the scan.

        A map that reaches beyond the end of its file would end the process (SIGBUS).
        """
        if file not in self._files:
            raise self._damaged(file, None, "is not among the checksums")
        if size != self._files[file].size:
            expected = self._files[file].size
            raise self._damaged(
                file, min(size, expected) // BLOCK_BYTES, f"has {size} bytes, expected {expected}"
            )

    def _absent(self, file: str) -> IndexFolderError:
        """Return the error for an absent file: of a generation that a scan removed, or damage."""
        with contextlib.suppress(IndexFolderError):
            if read_manifest(self.folder)["generation"] == self.name:
                return self._damaged(file, None, "is absent")
        return GenerationGone(
            f"generation {self.name} of the index {self.folder!r} is gone: a later scan replaced "
            "it; open the index again, or scan",
            path=self.folder,
            generation=self.name,
        )

    def _damaged_block(self, file: str, block: int) -> IndexDamaged:
        return self._damaged(file, block, f"has another checksum in block {block}")

    def _damaged(self, file: str, block: int | None, words: str) -> IndexDamaged:
        return _damaged(self.folder, file.removesuffix(".arrow"), block, words)


class _Sums(NamedTuple):
    """What the scan wrote down of one file."""

    size: int
    # The blocks that describe the columns of a table: schema, offsets and sizes.
    structure: tuple[int, ...]
    sums: Sums


def _damaged(folder: str, table: str, block: int | None, words: str) -> IndexDamaged:
    return IndexDamaged(
        f"the index {folder!r} is damaged: {table} {words}; scan again, which makes it anew",
        path=folder,
        table=table,
        block=block,
    )


def checksums_of(folder: str, generation: str) -> bytes:
    """Return the file of checksums of a generation whose other files are in a folder."""
    files: dict[str, tuple[int, list[int]]] = {}
    sums = []
    for file in (FACTS, *(f"{name}.arrow" for name in TABLES)):
        path = os.path.join(folder, file)
        structure = _structure(path) if file != FACTS else []
        files[file] = os.path.getsize(path), structure
        sums.append(sums_of_file(path))
    rest = np.concatenate(sums).astype("<u8").tobytes()
    return sealed({"generation": generation, "files": files}, rest)


def _structure(path: str) -> list[int]:
    """Return the blocks of an Arrow file that describe its columns and hold none of their values.

    They are all bytes outside of the bodies of its messages.
    """
    with pa.memory_map(path) as source:
        data = source.read_buffer()
    reader = pa.BufferReader(data)
    start, ranges = 0, []
    # The magic and its padding (8 bytes) precede the first message.
    reader.seek(8)
    with contextlib.suppress(EOFError):
        while True:
            body = pa.ipc.read_message(reader).body
            if body is not None and body.size:
                ranges.append((start, body.address - data.address))
                start = body.address - data.address + body.size
    ranges.append((start, data.size))
    blocks = {
        block
        for first, end in ranges
        for block in range(first // BLOCK_BYTES, -(-end // BLOCK_BYTES))
    }
    return sorted(blocks)
