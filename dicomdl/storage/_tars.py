"""Tar archives: their directory, and the plain tar in a compressed one.

tarfile of the standard library parses the headers. Members are read in place by ranges, so a
compressed tar is first copied to the cache folder (`copies`), inflated, and read there.
"""

import bz2
import gzip
import importlib
import lzma
import tarfile
import zlib
from collections.abc import Callable, Iterator
from typing import IO, Any, Final, cast

from dicomdl.errors import PixelError
from dicomdl.storage.directory import (
    LARGEST_DICTIONARY,
    STORED,
    ArchiveLimits,
    Directory,
    Listing,
    Refused,
    large_dictionary,
    unreadable,
)
from dicomdl.storage.handles import Handle
from dicomdl.storage.ranges import Capped

_DAMAGE: Final = (
    *(tarfile.TarError, ValueError, EOFError, OverflowError, RecursionError, MemoryError),
    *(IndexError, AttributeError),
)
_DAMAGED_BYTES: Final = (zlib.error, lzma.LZMAError, EOFError, ValueError)
_XZ: Final = b"\xfd7zXZ\0"
# A header of 24 bytes asks for a dictionary of 4 GiB, which fills as the archive inflates.
_MOST_XZ_MEMORY: Final = LARGEST_DICTIONARY + 2**20
_CHUNK: Final = 2**20
# The longest header of a member: names and attributes of pax and GNU.
_MOST_HEADER_BYTES: Final = 2**20
# tarfile keeps what it has read, at 2 kB per member.
_MOST_KEPT: Final = 1000
# Of a compressed tar, the most bytes that one of its own may become, beyond the limit of a member.
MOST_EXPANSION: Final = 50


def read_tar(handle: Handle, limits: ArchiveLimits) -> Directory:
    """Read the headers of a tar archive. One that is cut keeps the members before the end.

    Raises
    ------
    PixelError
        It is no tar archive, or has too many members. Attribute `reason`.
    """
    listing, last = Listing(limits), -1
    stream = Capped(handle, _MOST_HEADER_BYTES)
    try:
        with tarfile.open(fileobj=stream, mode="r:") as archive:
            kept: list[tarfile.TarInfo] = cast(Any, archive).members
            for info in archive:
                # A negative size leads back, without an end.
                if info.size < 0 or info.offset <= last or stream.is_exceeded:
                    raise tarfile.ReadError
                last = info.offset
                if len(kept) > _MOST_KEPT:
                    kept.clear()
                if not info.isdir():
                    place = (info.offset_data, info.size, info.size, STORED, 0, handle.size)
                    listing.add(info.name, *place, problem=_problem(info, handle.size))
            # tarfile takes a damaged header behind the first one for the end.
            if handle.read_at(archive.offset, tarfile.BLOCKSIZE).strip(b"\0"):
                raise tarfile.ReadError
    except PixelError:
        raise
    except _DAMAGE:
        detail = "the tar archive is damaged or cut: what lies behind the damage is not read"
        if last < 0:
            raise unreadable(
                "damaged_archive", "the archive has no header of a tar archive: it is damaged"
            ) from None
        listing.refused.append(Refused("", "damaged_archive", detail))
    return listing.directory(is_zip=False)


def _problem(info: tarfile.TarInfo, size: int) -> tuple[str, str] | None:
    """Return why a member is not read, as (reason, detail)."""
    if not info.isreg():
        return "special_member", "the member is a link or a device, which is never followed"
    if info.issparse():
        return "unsupported_compression", "the member is sparse: unpack the archive"
    if info.offset_data + info.size > size:
        return "damaged_archive", "the tar archive ends within the member"
    return None


def opener_of(start: bytes) -> Callable[[IO[bytes]], Any] | None:
    """Return what decompresses a file that starts so; None for one that is not compressed.

    Raises
    ------
    PixelError
        This Python lacks the module for the compression. Attribute `reason`.
    """
    if start.startswith(b"\x1f\x8b"):
        return lambda file: gzip.GzipFile(fileobj=file, mode="rb")
    if start.startswith(b"BZh"):
        return lambda file: bz2.BZ2File(file)
    if start.startswith(_XZ):
        return _XzFile
    if start.startswith(b"\x28\xb5\x2f\xfd"):
        try:
            zstd = importlib.import_module("compression.zstd")
        except ImportError:
            raise unreadable(
                "unsupported_compression",
                "the archive is compressed by Zstandard, which Python reads from version 3.14 on: "
                "unpack it, or pack it again",
            ) from None
        return lambda file: zstd.ZstdFile(file)
    return None


class _XzFile:
    """An xz file, decompressed with little memory: `lzma.LZMAFile` knows no limit.

    Bytes behind its streams that begin no other stream are ignored.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self._decoder = file, self._new()

    @staticmethod
    def _new() -> lzma.LZMADecompressor:
        return lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_MOST_XZ_MEMORY)

    def __enter__(self) -> "_XzFile":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def read(self, size: int) -> bytes:
        """Return the next bytes, up to `size`; none at the end."""
        while True:
            data = b""
            if self._decoder.eof:
                data = self._next_stream()
                if not data:
                    return b""
                self._decoder = self._new()
            elif self._decoder.needs_input and not (data := self._file.read(_CHUNK)):
                raise EOFError
            try:
                piece = self._decoder.decompress(data, size)
            except lzma.LZMAError as error:
                if "emory" in str(error):
                    raise large_dictionary() from None
                raise
            if piece:
                return piece

    def _next_stream(self) -> bytes:
        """Return the begin of the next stream, behind padding; none without one."""
        data = self._decoder.unused_data.lstrip(b"\0")
        while len(data) < len(_XZ) and (more := self._file.read(_CHUNK)):
            data = (data + more).lstrip(b"\0")
        return data if data.startswith(_XZ) else b""


def inflated_pieces(
    handle: Handle, opener: Callable[[IO[bytes]], Any], limits: ArchiveLimits
) -> Iterator[bytes]:
    """Yield the bytes of a compressed archive.

    Raises
    ------
    PixelError
        The bytes are damaged, or inflate too far. Attribute `reason`.
    """
    most, length = max(limits.inflated_bytes, MOST_EXPANSION * handle.size), 0
    stream: Any = Capped(handle, handle.size)
    try:
        with opener(stream) as file:
            while piece := file.read(_CHUNK):
                length += len(piece)
                if length > most:
                    raise unreadable(
                        "inflates_too_far",
                        f"the archive of {handle.size} bytes inflates to more than {most}: if it "
                        "is sound, scan(limits=ReadLimits(inflated_bytes=...)), or unpack it",
                    )
                yield piece
    except PixelError:
        raise
    except MemoryError:
        raise large_dictionary() from None
    except (*_DAMAGED_BYTES, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        detail = f"the compressed archive is damaged ({type(error).__name__}): get it again"
        raise unreadable("damaged_archive", detail) from None
