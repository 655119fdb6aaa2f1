"""Zip archives (PKWARE APPNOTE 6.3): their directory, and the bytes of their members.

zipfile of the standard library parses the central directory and inflates. The checks are ours:
names, overlaps, methods, sizes, and whether a local header says what the directory says. They come
before any byte of a member is read.
"""

import lzma
import os
import stat
import struct
import zipfile
import zlib
from typing import IO, Any, Final, cast

import numpy as np

from dicomdl.errors import PixelError
from dicomdl.storage.directory import (
    LARGEST,
    LARGEST_DICTIONARY,
    STORED,
    ArchiveLimits,
    Directory,
    Listing,
    Member,
    large_dictionary,
    too_many,
    unreadable,
)
from dicomdl.storage.handles import Handle
from dicomdl.storage.locations import member_name
from dicomdl.storage.ranges import Capped, Range

# Errors of zipfile about what is no zip archive, or a damaged one.
_DAMAGE: Final = (
    *(zipfile.BadZipFile, NotImplementedError, ValueError, EOFError, struct.error),
    *(OverflowError, IndexError, MemoryError),
)
# Of the decompressors; bz2 raises OSError.
_DAMAGED_BYTES: Final = (*_DAMAGE, zlib.error, lzma.LZMAError, OSError)
_READ: Final = {STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA}
_NAMES: Final = {9: "deflate64", 93: "Zstandard", 95: "XZ", 98: "PPMd", 99: "AES encryption"}
_ENCRYPTED, _DESCRIPTOR, _UTF_8 = 0x1, 0x8, 0x800
# Two bytes of version, the length of the properties, a byte of them, and the dictionary.
_LZMA_HEAD: Final = struct.Struct("<2xHBI")
_LZMA_PROPERTIES, _MOST_PROPERTY = 5, 9 * 5 * 5 - 1
_LOCAL: Final = struct.Struct("<4s2xHHH2xIIIHH").unpack
_LOCAL_BYTES: Final = 30
_SIGNATURE: Final = b"PK\3\4"
_IN_ZIP64: Final = 0xFFFFFFFF
# Bytes per member that a central directory may have: names and extra fields are short.
_ENTRY_BYTES: Final = 512


def read_zip(handle: Handle, limits: ArchiveLimits) -> Directory:
    """Read the central directory of a zip archive.

    Raises
    ------
    PixelError
        There is none, it is damaged, or has too many members. Attribute `reason`.
    """
    stream = Capped(handle, _ENTRY_BYTES * limits.members)
    try:
        with zipfile.ZipFile(stream) as archive:
            infos, start = archive.infolist(), cast(Any, archive).start_dir
    except _DAMAGE as error:
        if stream.is_exceeded:
            raise too_many(limits) from None
        raise unreadable(
            "damaged_archive",
            f"the directory of the zip archive cannot be read ({type(error).__name__}): the "
            "archive is cut, in several parts, or no zip archive",
        ) from None
    if len(infos) > limits.members:
        raise too_many(limits)
    ends, overlaps = _ends(infos, start)
    listing = Listing(limits)
    for info, end, overlap in zip(infos, ends, overlaps, strict=True):
        # zipfile cuts a name at a NUL.
        raw = info.orig_filename if "\0" in info.orig_filename else info.filename
        if raw.endswith("/") and not info.file_size:
            continue
        if info.create_system == 0 and "/" not in raw:
            # Some programs of Windows write backslashes.
            raw = raw.replace("\\", "/")
        problem = _problem(info, limits) or (_OVERLAP if overlap else None)
        place = (info.header_offset, info.file_size, info.compress_size)
        listing.add(raw, *place, info.compress_type, info.CRC, end, problem=problem)
    return listing.directory(is_zip=True)


_OVERLAP: Final = (
    "overlapping_members",
    "the bytes of the member overlap those of another one, as in a decompression bomb",
)


def _ends(infos: list[zipfile.ZipInfo], start_dir: int) -> tuple[list[int], list[bool]]:
    """Return per member where the next one begins, and whether it reaches beyond."""
    # `Listing` refuses members with larger numbers.
    starts = np.array([min(info.header_offset, LARGEST - 1) for info in infos], dtype=np.int64)
    lengths = np.array([min(info.compress_size, LARGEST - 1) for info in infos], dtype=np.int64)
    order = np.argsort(starts, kind="stable")
    following = np.append(starts[order][1:], start_dir)
    ends = np.empty_like(starts)
    ends[order] = following
    overlaps = starts + lengths + _LOCAL_BYTES > ends
    # The second of two that overlap is as suspicious as the first.
    behind = np.zeros(len(infos), dtype=np.bool_)
    behind[order[1:]] = overlaps[order[:-1]]
    return ends.tolist(), (overlaps | behind | (starts < 0)).tolist()


def _problem(info: zipfile.ZipInfo, limits: ArchiveLimits) -> tuple[str, str] | None:
    """Return why a member is not read, as (reason, detail)."""
    mode = info.external_attr >> 16
    if info.create_system == 3 and stat.S_IFMT(mode) not in (0, stat.S_IFREG):
        return "special_member", "the member is a link or a device, which is never followed"
    if info.flag_bits & _ENCRYPTED:
        return "encrypted", "the member is encrypted: unpack the archive, and scan the folder"
    if info.compress_type not in _READ:
        name = _NAMES.get(info.compress_type, "another program")
        return (
            "unsupported_compression",
            f"the member is compressed by method {info.compress_type} ({name}), which is not read: "
            "unpack the archive, or pack it again without compression",
        )
    if info.compress_type == STORED and info.file_size != info.compress_size:
        return "damaged_archive", "a stored member has two sizes: the archive is damaged"
    if info.compress_type != STORED and info.file_size > limits.inflated_bytes:
        return (
            "inflates_too_far",
            f"the member has {info.file_size} bytes, up to {limits.inflated_bytes} are inflated: "
            "if it is sound, scan(limits=ReadLimits(inflated_bytes=...)), or pack it without "
            "compression",
        )
    return None


def packed_range(handle: Handle, member: Member) -> Range:
    """Return the bytes of a member as they are in the archive, behind its local header.

    Raises
    ------
    PixelError
        The local header contradicts the central directory. Attribute `reason`.
    """
    name_bytes = len(os.fsencode(member.name))
    # Most local headers have their name and no more; extra fields are skipped.
    head = handle.read_at(member.start, _LOCAL_BYTES + name_bytes + 4)
    if len(head) < _LOCAL_BYTES:
        raise _contradiction("its header lies beyond the end of the archive")
    signature, flags, method, _, crc, packed, size, length, extra = _LOCAL(head[:_LOCAL_BYTES])
    if signature != _SIGNATURE or method != member.method or flags & _ENCRYPTED:
        raise _contradiction("its header is no header of this member")
    told = (crc, packed, size)
    is_told = not flags & _DESCRIPTOR and _IN_ZIP64 not in (packed, size)
    if is_told and told != (member.crc, member.packed, member.size):
        raise _contradiction("its header states another size or checksum")
    raw = head[_LOCAL_BYTES : _LOCAL_BYTES + length]
    if len(raw) < length:
        raw = handle.read_at(member.start + _LOCAL_BYTES, length)
    if not _is_named(raw, flags, member.name):
        raise _contradiction("its header states another name")
    start = member.start + _LOCAL_BYTES + length + extra
    if start + member.packed > member.end:
        raise unreadable(*_OVERLAP)
    return Range(handle, start, member.packed)


def _is_named(raw: bytes, flags: int, name: str) -> bool:
    try:
        local = raw.decode("utf-8" if flags & _UTF_8 else "cp437")
    except UnicodeDecodeError:
        return False
    return member_name(local) == name or member_name(local.replace("\\", "/")) == name


def _contradiction(words: str) -> Exception:
    return unreadable(
        "damaged_archive", f"the member contradicts the directory of its archive: {words}"
    )


def _require_small_dictionary(packed: Range) -> None:
    """Raise PixelError for LZMA (APPNOTE 5.8.8) with a dictionary that is too large."""
    head = packed.read_at(0, _LZMA_HEAD.size)
    if len(head) < _LZMA_HEAD.size:
        return
    length, first, dictionary = _LZMA_HEAD.unpack(head)
    is_lzma = length == _LZMA_PROPERTIES and first <= _MOST_PROPERTY
    if is_lzma and dictionary > LARGEST_DICTIONARY:
        raise large_dictionary()


class Inflating:
    """The bytes of a compressed member, inflated in order, with size and checksum checked."""

    def __init__(self, packed: Range, member: Member) -> None:
        info = zipfile.ZipInfo(member.name)
        info.compress_type, info.CRC = member.method, member.crc
        info.compress_size, info.file_size = member.packed, member.size
        if member.method == zipfile.ZIP_LZMA:
            _require_small_dictionary(packed)
        stream = cast("IO[bytes]", Capped(packed, packed.size))
        self._stream: Any = self._guarded(lambda: zipfile.ZipExtFile(stream, "r", info))
        self._left = member.size

    def read(self, length: int) -> bytes:
        """Return the next bytes; fewer at the end of the member only."""
        wanted = min(length, self._left)
        data: bytes = self._guarded(lambda: self._stream.read(wanted)) if wanted else b""
        self._left -= len(data)
        if len(data) < wanted:
            raise unreadable("damaged_member", "the member inflates to fewer bytes than stated")
        return data

    @staticmethod
    def _guarded(call: Any) -> Any:
        try:
            return call()
        except PixelError:
            raise
        except _DAMAGED_BYTES as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise
            words = "its checksum is another one" if "CRC" in str(error) else "it does not inflate"
            raise unreadable("damaged_member", f"the member is damaged: {words}") from None
