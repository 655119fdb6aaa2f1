"""The parts of a multipart answer (RFC 2046 5.1), one after the other, in bounded memory."""

import errno
from collections.abc import Iterator, Mapping
from email.message import Message
from typing import Final

_MOST_HEAD_BYTES: Final = 16 * 2**10
_MOST_PREAMBLE_BYTES: Final = 64 * 2**10
_MOST_BOUNDARY: Final = 256


class Part:
    """One part: its headers by lower-case name, and its bytes, which come once.

    The bytes of a part that is left early are passed over.
    """

    def __init__(self, headers: Mapping[str, str], chunks: Iterator[bytes]) -> None:
        self.headers, self._chunks = headers, chunks

    @property
    def media_type(self) -> str:
        """The media type, such as "application/octet-stream"."""
        return media_type(self.headers.get("content-type", ""))

    def parameter(self, name: str) -> str:
        """Return a parameter of the media type, such as "transfer-syntax"; "" without it."""
        return parameter(self.headers.get("content-type", ""), name)

    def chunks(self) -> Iterator[bytes]:
        """Yield the bytes as they come."""
        return self._chunks

    def read(self, most: int) -> bytes:
        """Return all bytes; OSError for more than `most`."""
        found = bytearray()
        for chunk in self._chunks:
            found += chunk
            if len(found) > most:
                raise OSError(errno.EFBIG, f"the server sends a part of more than {most} bytes")
        return bytes(found)


def media_type(content_type: str) -> str:
    """Return the media type of a header Content-Type, in lower case."""
    return content_type.partition(";")[0].strip().lower()


def parameter(content_type: str, name: str) -> str:
    """Return a parameter of a header Content-Type; "" without it."""
    message = Message()
    message["content-type"] = content_type
    found = message.get_param(name, "")
    return found if isinstance(found, str) else ""


def parts_of(chunks: Iterator[bytes], boundary: str) -> Iterator[Part]:
    """Yield the parts of a body. A part is used before the next one is asked for.

    Raises
    ------
    OSError
        The body ends before its last boundary, or is no multipart body.
    """
    if not 0 < len(boundary) <= _MOST_BOUNDARY:
        raise _malformed("names no boundary")
    yield from _Body(chunks, boundary).parts()


class _Body:
    """A body, and the bytes of it that have come and were not used."""

    def __init__(self, chunks: Iterator[bytes], boundary: str) -> None:
        self._chunks = chunks
        # The first boundary may begin the body, without a line end before it.
        self._waiting = bytearray(b"\r\n")
        self._boundary = b"\r\n--" + boundary.encode("latin-1", "replace")

    def parts(self) -> Iterator[Part]:
        preamble = 0
        for chunk in self._until_boundary():
            preamble += len(chunk)
            if preamble > _MOST_PREAMBLE_BYTES:
                raise _malformed("does not begin with its boundary")
        while not self._is_last():
            content = self._until_boundary()
            yield Part(self._head(), content)
            for _ in content:
                pass

    def _more(self) -> None:
        chunk = next(self._chunks, b"")
        if not chunk:
            raise OSError(errno.EPIPE, "the server ended its answer before the last part")
        self._waiting += chunk

    def _is_last(self) -> bool:
        """Whether the boundary that was just passed is the closing one."""
        while len(self._waiting) < 2:
            self._more()
        return self._waiting[:2] == b"--"

    def _head(self) -> dict[str, str]:
        """Return the headers of a part, which an empty line ends."""
        while (end := self._waiting.find(b"\r\n\r\n")) < 0:
            if len(self._waiting) > _MOST_HEAD_BYTES:
                raise _malformed("has a part with endless headers")
            self._more()
        lines = bytes(self._waiting[:end]).decode("latin-1").split("\r\n")
        del self._waiting[: end + 4]
        pairs = (line.partition(":") for line in lines if ":" in line)
        return {name.strip().lower(): value.strip() for name, _, value in pairs}

    def _until_boundary(self) -> Iterator[bytes]:
        """Yield the bytes up to the next boundary, and pass over that."""
        boundary, keep = self._boundary, len(self._boundary) - 1
        while (end := self._waiting.find(boundary)) < 0:
            if len(self._waiting) > keep:
                yield bytes(self._waiting[:-keep])
                del self._waiting[:-keep]
            self._more()
        found = bytes(self._waiting[:end])
        del self._waiting[: end + len(boundary)]
        if found:
            yield found


def _malformed(words: str) -> OSError:
    return OSError(errno.EPROTO, f"the multipart answer of the server {words}")
