"""Instances of DICOMweb servers as sources: files that nobody stores, of a header and its frames.

    header | head of the element of pixel data | frame 1 | frame 2 | ...

`headers.web` makes the header, from metadata; the bytes of a frame come from the server when they
are read. So offsets and lengths of the index mean what they mean for a file. The number of bytes of
a compressed frame is known only once it has come: it has a room, which begins with the head of an
item and is as long as no frame is, and reading a room returns what is in it.

An object whose frames a server does not give is read as a whole instead, with the offsets of the
file that it is. All bytes go through the byte cache. The state of a source is its layout and a hash
of its metadata, in place of an ETag, since these servers state none.
"""

import errno
import hashlib
import json
import re
from typing import Any, Final, NamedTuple

from dicomdl.errors import FileChanged
from dicomdl.storage import json_texts
from dicomdl.storage._byte_cache import byte_cache, digest_of
from dicomdl.storage._plans import planned
from dicomdl.storage.dicomweb import WebError, plain_url, session_of
from dicomdl.storage.handles import UNKNOWN, Source
from dicomdl.storage.objects import RemoteObject

FRAME: Final = 'multipart/related; type="application/octet-stream"; transfer-syntax=*'
WHOLE: Final = 'multipart/related; type="application/dicom"; transfer-syntax=*'
ITEM_HEAD_BYTES: Final = 8
_ITEM: Final = b"\xfe\xff\x00\xe0"
_ITEMS_END: Final = b"\xfe\xff\xdd\xe0\0\0\0\0"
# Of an object that is read as a whole.
MOST_WHOLE_BYTES: Final = 4 * 2**30
# Of one that stays in memory while it is open.
_MOST_KEPT_BYTES: Final = 64 * 2**20
_BLOCK_BYTES: Final = 2**20
_RECORD_BYTES: Final = 1024
_PATH: Final = re.compile(r"/studies/[0-9.]{1,64}/series/[0-9.]{1,64}/instances/[0-9.]{1,64}")


class WebLayout(NamedTuple):
    """Where the bytes of an instance lie; `text` is what the index holds in place of an ETag.

    Attributes
    ----------
    kind
        "native" or "coded" for frames one by one, "whole", or "header" for an object without any.
    start
        Offset of the first frame.
    stride
        Bytes of a native frame, or of the room of a coded one.
    frames
        Their number.
    syntax
        The transfer syntax that the server states for a frame; "" if none.
    digest
        Hash of the metadata, or of the whole object.
    """

    kind: str
    start: int = 0
    stride: int = 0
    frames: int = 0
    syntax: str = ""
    digest: str = ""

    @property
    def stop(self) -> int:
        """The offset behind the last frame."""
        return self.start + self.frames * self.stride

    @property
    def size(self) -> int:
        """The size of the file; not that of a whole object."""
        if self.kind == "coded":
            return self.stop + len(_ITEMS_END)
        return self.stop + self.stop % 2 if self.kind == "native" else self.start

    @property
    def text(self) -> str:
        """The layout as a text without spaces."""
        return ":".join(map(str, self))

    @classmethod
    def of(cls, source: Source) -> "WebLayout":
        """Return the layout of a source; OSError if its state holds none."""
        kind, *rest = source.etag.split(":")
        try:
            start, stride, frames, syntax, digest = rest
            layout = cls(kind, int(start), int(stride), int(frames), syntax, digest)
            is_sound = min(layout[1:4]) >= 0 and (
                kind == "whole"
                or (layout.size == source.size and (layout.stride or not layout.frames))
            )
        except ValueError:
            is_sound = False
        if not is_sound or kind not in ("native", "coded", "whole", "header"):
            raise OSError(errno.EINVAL, "the index states no layout of this object: scan again")
        return layout


def address_of(url: str) -> tuple[str, str]:
    """Return the root of the service and the path of an instance below it; OSError for others."""
    whole = plain_url(url)
    base, found, rest = whole.partition("/studies/")
    if not _PATH.fullmatch(found + rest):
        raise OSError(errno.EINVAL, "this is not the address of an instance of a DICOMweb server")
    return base, found + rest


# --- what a server sends --------------------------------------------------------------------------


class SentFrame(NamedTuple):
    """A frame as it came, and what the server says of it: media type and transfer syntax."""

    data: bytes
    media_type: str
    syntax: str


def fetch_metadata(url: str, most_bytes: int) -> list[Any]:
    """Return the metadata at the address of an instance; OSError."""
    base, path = address_of(url)
    return session_of(base).json(f"{path}/metadata", most_bytes=most_bytes)


def fetch_frame(url: str, number: int, most_bytes: int) -> SentFrame:
    """Return a frame, numbered from 1, of at most `most_bytes`; OSError."""
    base, path = address_of(url)
    sent = session_of(base).part(f"{path}/frames/{number}", FRAME, most_bytes=most_bytes)
    if sent.location and "/instances/" in sent.location and f"{path}/frames" not in sent.location:
        raise WebError(
            errno.EPROTO, "the server sent a frame of another instance than was asked for"
        )
    return SentFrame(sent.data, sent.media_type, sent.syntax)


def fetch_bulk(url: str, address: str, most_bytes: int) -> bytes:
    """Return a value that the metadata of an instance give by its address; OSError.

    Only addresses below the service of the instance are asked for.
    """
    base, _ = address_of(url)
    found = plain_url(address) if "://" in address else base + "/" + address.lstrip("/")
    if not found.startswith(f"{base}/") or "/../" in found:
        raise WebError(errno.EACCES, "the server gives the address of a value on another server")
    accept = 'multipart/related; type="application/octet-stream"'
    return session_of(base).part(found[len(base) :], accept, most_bytes=most_bytes).data


def whole_source(url: str, digest: str) -> Source:
    """Return the source of an instance that is read as a whole; a small one is kept in the cache.

    `digest` is the hash of its metadata. Raises OSError.
    """
    base, path = address_of(url)
    size, hashed, kept = 0, hashlib.blake2b(digest_size=16), bytearray()
    with session_of(base).parts(path, WHOLE, most_bytes=MOST_WHOLE_BYTES) as parts:
        for chunk in next(parts).chunks():
            size += len(chunk)
            hashed.update(chunk)
            if size <= _MOST_KEPT_BYTES:
                kept += chunk
    layout = WebLayout("whole", digest=f"{digest}-{hashed.hexdigest()}")
    source = web_source(url, size, layout)
    if size <= _MOST_KEPT_BYTES:
        keep_bytes(source, 0, kept)
    return source


def web_source(url: str, size: int, layout: WebLayout) -> Source:
    """Return the source of an instance."""
    return Source(url, size, 0, UNKNOWN, 0, layout.text)


# --- what the cache holds -------------------------------------------------------------------------


def _digest(source: Source) -> str:
    return digest_of(source.path, source.size, source.mtime_ns, source.etag)


def keep_bytes(source: Source, offset: int, data: Any) -> None:
    """Keep bytes of an instance in the byte cache, if there is one."""
    if (cache := byte_cache()) is not None:
        cache.add(_digest(source), offset, data)


def kept_bytes(source: Source, offset: int, length: int) -> bytes | None:
    """Return bytes of an instance from the byte cache; None if it lacks them."""
    cache, buffer = byte_cache(), bytearray(length)
    if cache is None or cache.read_into(_digest(source), memoryview(buffer), offset) is not None:
        return None
    return bytes(buffer)


def remember(source: Source, digest: str) -> None:
    """Keep the state of an instance, found for metadata with this hash."""
    cache = byte_cache()
    record = json.dumps([digest, source.size, source.etag]).ljust(_RECORD_BYTES).encode()
    if cache is not None and len(record) == _RECORD_BYTES:
        cache.replace(digest_of(source.path, 0, 0, "state"), record)


def remembered(url: str) -> tuple[Source, str] | None:
    """Return the state of an instance that was kept last, and the hash of its metadata."""
    cache, record = byte_cache(), bytearray(_RECORD_BYTES)
    key = digest_of(url, 0, 0, "state")
    if cache is None or cache.read_into(key, memoryview(record), 0) is not None:
        return None
    try:
        digest, size, etag = json_texts.parsed(bytes(record))
        source = Source(url, int(size), 0, UNKNOWN, 0, str(etag))
        WebLayout.of(source)
    except (ValueError, TypeError, OSError):
        return None
    return source, str(digest)


# --- handles --------------------------------------------------------------------------------------


class Outline:
    """A header, and frames of which only the places are there: zeros, and heads of items.

    A header is read from it without a request.
    """

    __slots__ = ("_head", "_layout", "_source")

    def __init__(self, source: Source, head: bytes) -> None:
        self._source, self._head, self._layout = source, head, WebLayout.of(source)
        if len(head) != self._layout.start:
            raise FileChanged("the metadata of the object changed after it was scanned: scan again")

    @property
    def source(self) -> Source:
        """The instance."""
        return self._source

    @property
    def size(self) -> int:
        """The size in bytes, with the rooms of its frames."""
        return self._source.size

    def check(self, expected: Source) -> None:
        """Raise FileChanged if the instance is not in the expected state."""
        if expected.mtime_ns != UNKNOWN and expected[1:] != self._source[1:]:
            raise FileChanged("the object changed after it was scanned: scan again")

    def read_at(self, offset: int, length: int) -> bytes:
        """Read up to `length` bytes at `offset`; fewer at the end."""
        head, layout = self._head[offset : offset + length], self._layout
        length = min(length, self.size - offset)
        if layout.kind != "coded" or length <= len(head):
            return head + bytes(max(0, length - len(head)))
        found = bytearray(head + bytes(length - len(head)))
        first = max(0, offset - layout.start) // layout.stride
        for number in range(first, layout.frames + 1):
            place = layout.start + number * layout.stride - offset
            if place >= length:
                break
            room = layout.stride - ITEM_HEAD_BYTES
            mark = _ITEMS_END if number == layout.frames else _ITEM + room.to_bytes(4, "little")
            begin, end = max(0, place), min(length, place + len(mark))
            if begin < end:
                found[begin:end] = mark[begin - place : end - place]
        return bytes(found)

    def read_into(self, buffer: memoryview, offset: int) -> int:
        """Fill `buffer` from `offset`; return the number of bytes read, fewer at the end."""
        data = self.read_at(offset, buffer.nbytes)
        buffer.cast("B")[: len(data)] = data
        return len(data)

    def close(self) -> None:
        """Release nothing."""


class WebInstance(RemoteObject):
    """An instance whose frames are requests, and the ranges of the file that it is if as a whole.

    Opening one in a known state costs no request.
    """

    __slots__ = ("_layout",)

    def __init__(self, url: str, expected: Source | None = None) -> None:
        if expected is None or expected.mtime_ns == UNKNOWN:
            known = remembered(url)
            if known is None:
                raise OSError(errno.ENOENT, "an instance of a DICOMweb server is read after a scan")
            expected = known[0]
        super().__init__(url, expected)
        self._layout = WebLayout.of(self._source)

    def read_at(self, offset: int, length: int) -> bytes:
        """Read up to `length` bytes at `offset`; fewer at the end, also of a coded frame."""
        if self._layout.kind != "coded" or offset < self._layout.start:
            return super().read_at(offset, length)
        inside = (offset - self._layout.start) % self._layout.stride
        return bytes(self._item(offset - inside)[inside : inside + length])

    def fetched(self, offset: int, length: int) -> memoryview:
        """Return a range, from the cache or by a request, on the thread of a plan."""
        if self._layout.kind != "coded" or offset < self._layout.start:
            return super().fetched(offset, length)
        return self._kept_item(offset) or self._fetched_item(offset)

    def fetch_into(self, buffer: memoryview, offset: int, missing: tuple[int, int]) -> None:
        """Fill a buffer by requests for the frames in it."""
        del missing  # Hardly ever a part: frames are kept as a whole.
        layout = self._layout
        if layout.kind == "whole":
            self._stream_into(buffer, offset)
            return
        if layout.kind != "native" or offset < layout.start:
            raise OSError(errno.ENODATA, "the header of an object is read from its metadata")
        stop = offset + buffer.nbytes
        while offset < stop:
            number = (offset - layout.start) // layout.stride
            begin = layout.start + number * layout.stride
            if number >= layout.frames:
                buffer[-(stop - offset) :] = bytes(stop - offset)
                return
            data = self._frame(number, layout.stride)
            keep_bytes(self._source, begin, data)
            end = min(stop, begin + layout.stride)
            at = buffer.nbytes - (stop - offset)
            buffer[at : at + end - offset] = data[offset - begin : end - begin]
            offset = end

    def _item(self, begin: int) -> memoryview:
        """Return the item of a coded frame: from a plan, the cache, or by a request."""
        url, stop = self._source.path, begin + self._layout.stride
        for may_ask in (False, True):
            ahead = planned(url, begin, stop, may_ask=may_ask)
            if ahead is not None:
                return ahead
            if not may_ask and (kept := self._kept_item(begin)) is not None:
                return kept
        return self._fetched_item(begin)

    def _kept_item(self, begin: int) -> memoryview | None:
        head = kept_bytes(self._source, begin, ITEM_HEAD_BYTES)
        if head is None or head[:4] != _ITEM:
            return None
        length = int.from_bytes(head[4:], "little") + ITEM_HEAD_BYTES
        data = kept_bytes(self._source, begin, length) if length <= self._layout.stride else None
        return None if data is None else memoryview(data)

    def _fetched_item(self, begin: int) -> memoryview:
        layout = self._layout
        number, room = (begin - layout.start) // layout.stride, layout.stride - ITEM_HEAD_BYTES
        if number >= layout.frames:
            return memoryview(_ITEMS_END)
        item = as_item(self._frame(number, room))
        keep_bytes(self._source, begin, item)
        return memoryview(item)

    def _frame(self, number: int, most: int) -> bytes:
        """Return a frame, numbered from 0, as the layout says that it is coded."""
        layout = self._layout
        try:
            # A native frame of odd length may come with a byte more.
            sent = fetch_frame(self._source.path, number + 1, most + most % 2)
        except WebError as error:
            if error.status != 404:
                raise
            raise FileChanged(
                "the frame that was scanned is gone from the server: scan again"
            ) from None
        if sent.syntax and layout.syntax and sent.syntax != layout.syntax:
            raise FileChanged(
                f"the server sends the frame in transfer syntax {sent.syntax[:64]!r}, and said "
                f"{layout.syntax} at the scan: scan again"
            )
        if layout.kind == "native" and len(sent.data) not in (most, most + most % 2):
            raise WebError(
                errno.EPROTO, f"the server sent {len(sent.data)} bytes for a frame of {most}"
            )
        return sent.data[:most]

    def _stream_into(self, buffer: memoryview, offset: int) -> None:
        """Fill a buffer from the whole object, which passes through the cache in blocks."""
        base, path = address_of(self._source.path)
        hashed, position, kept = hashlib.blake2b(digest_size=16), 0, bytearray()
        block = bytearray()
        with session_of(base).parts(path, WHOLE, most_bytes=MOST_WHOLE_BYTES) as parts:
            for chunk in next(parts).chunks():
                hashed.update(chunk)
                block += chunk
                if len(block) >= _BLOCK_BYTES:
                    position = self._passed(block, position, buffer, offset, kept)
                    block = bytearray()
        position = self._passed(block, position, buffer, offset, kept)
        if position != self.size or not self._layout.digest.endswith(hashed.hexdigest()):
            raise FileChanged("the object changed after it was scanned: scan again")
        if position == len(kept):
            self._head = memoryview(kept)

    def _passed(
        self, block: bytearray, position: int, buffer: memoryview, offset: int, kept: bytearray
    ) -> int:
        """Keep a block, and copy what the buffer wants of it; return the position behind it."""
        keep_bytes(self._source, position, block)
        stop = position + len(block)
        begin, end = max(position, offset), min(stop, offset + buffer.nbytes)
        if begin < end:
            buffer[begin - offset : end - offset] = block[begin - position : end - position]
        if stop <= _MOST_KEPT_BYTES:
            kept += block
        return stop


def as_item(data: bytes) -> bytes:
    """Return a codestream as an item of encapsulated pixel data, of even length (PS3.5 A.4)."""
    padding = b"\0" * (len(data) % 2)
    return _ITEM + (len(data) + len(padding)).to_bytes(4, "little") + data + padding
