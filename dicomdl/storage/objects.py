"""Objects of stores as sources: handles whose reads are ranged requests.

A request carries the ETag of the scan (If-Match), and the reply is compared with the state of the
scan, so that bytes of two states never mix. Ranges go through a cache on local disk
(`_byte_cache`), keyed by that state. Ranges that a loop has declared are taken from its plan
(`_plans`).
"""

import errno
import functools
import os
from collections.abc import Iterable
from typing import Final

from dicomdl.errors import FileChanged
from dicomdl.storage._byte_cache import byte_cache, digest_of
from dicomdl.storage._plans import planned
from dicomdl.storage._requests import MOST_CONCURRENCY as MOST_CONCURRENCY
from dicomdl.storage._requests import client_of
from dicomdl.storage._store_options import checked_options as checked_options
from dicomdl.storage._store_options import declare as declare
from dicomdl.storage._store_options import declared as declared
from dicomdl.storage._store_options import knows_queries, query_of
from dicomdl.storage._store_options import remember_query as remember_query
from dicomdl.storage._store_options import require_no_secret as require_no_secret
from dicomdl.storage._store_options import without_secrets as without_secrets
from dicomdl.storage._stores import ChangedObject, Fetched, ObjectState, in_full
from dicomdl.storage.handles import UNKNOWN, Source
from dicomdl.storage.locations import split

# Bytes of the first request for a header, which most fit.
FIRST_BYTES: Final = 16 * 2**10


def have_queries(paths: Iterable[bytes]) -> bool:
    """Whether some locations were given with queries, which no other process knows."""
    return knows_queries() and any(
        query_of(split(os.fsdecode(path)).whole) for path in paths if b"://" in path
    )


def source_of(url: str, state: ObjectState) -> Source:
    """Return the source of an object in a state."""
    return Source(url, state.size, state.mtime_ns, UNKNOWN, 0, state.etag)


def require_same(expected: Source, state: ObjectState) -> None:
    """Raise FileChanged if an object is not in the state of the scan.

    Equal ETags are equal objects. Without an ETag on one side, Last-Modified is compared.
    """
    if expected.mtime_ns == UNKNOWN:
        return
    if expected.size != state.size:
        change = f"{expected.size} bytes then, {state.size} now"
    elif expected.etag and state.etag:
        change = "" if expected.etag == state.etag else "another ETag"
    else:
        change = "" if expected.mtime_ns == state.mtime_ns else "another time of modification"
    if change:
        raise _changed(change, expected.size, state.size)


def _changed(change: str, expected_bytes: int = UNKNOWN, found_bytes: int = UNKNOWN) -> FileChanged:
    return FileChanged(
        f"the object changed after it was scanned ({change}): scan again",
        expected_bytes=expected_bytes,
        found_bytes=found_bytes,
    )


def look_up_object(source: Source) -> Source:
    """Return the state of an object.

    The state of the scan is returned as it is, without a request: every read compares it. Raises
    OSError if an unknown state cannot be looked up.
    """
    if source.mtime_ns != UNKNOWN:
        return source
    return source_of(source.path, client_of(source.path).head(source.path))


def fetch(source: Source, offset: int, length: int) -> Fetched:
    """Return bytes of an object by one request.

    Raises
    ------
    FileChanged
        The object is gone, or not in the state that the source declares.
    OSError
        The request failed; `strerror` is a sentence.
    """
    url, etag = source.path, source.etag
    get = functools.partial(_get, url, etag)
    try:
        found = in_full(get, offset, length)
    except ChangedObject:
        raise _changed("another ETag") from None
    except FileNotFoundError:
        if source.mtime_ns == UNKNOWN:
            raise
        raise FileChanged("the object that was scanned is gone: scan again") from None
    require_same(source, found.state)
    return found


def _get(url: str, etag: str, start: int, stop: int) -> Fetched:
    return client_of(url).get(url, start, stop, etag)


def fetch_first(url: str, length: int) -> Fetched:
    """Return the first bytes of an object in any state, and its state; raise OSError."""
    try:
        return fetch(Source(url), 0, length)
    except OSError as error:
        # A range of an empty object cannot be satisfied (RFC 9110 15.5.17).
        if error.errno != errno.EINVAL:
            raise
        state = client_of(url).head(url)
        if state.size:
            raise
        return Fetched(memoryview(b""), state)


class RemoteObject:
    """An object of a store. Opening one in a known state costs no request."""

    __slots__ = ("_digest", "_head", "_source")

    def __init__(self, url: str, expected: Source | None = None) -> None:
        self._head = memoryview(b"")
        if expected is not None and expected.mtime_ns != UNKNOWN:
            self._source = Source(*expected)
        else:
            found = fetch_first(url, FIRST_BYTES)
            self._head = found.data
            self._source = source_of(url, found.state)
        source = self._source
        # Without ETag and time, nothing would tell another state from this one.
        self._digest = (
            digest_of(url, source.size, source.mtime_ns, source.etag)
            if source.etag or source.mtime_ns
            else ""
        )

    @property
    def source(self) -> Source:
        """The object, and its state when it was opened."""
        return self._source

    @property
    def size(self) -> int:
        """The size in bytes when it was opened."""
        return self._source.size

    def check(self, expected: Source) -> None:
        """Raise FileChanged if the object is not in the expected state."""
        source = self._source
        require_same(expected, ObjectState(source.size, source.mtime_ns, source.etag))

    def read_at(self, offset: int, length: int) -> bytes:
        """Read up to `length` bytes at `offset`; fewer at the end."""
        buffer = bytearray(max(0, min(length, self.size - offset)))
        self._fill(memoryview(buffer), offset)
        return bytes(buffer)

    def read_into(self, buffer: memoryview, offset: int) -> int:
        """Fill `buffer` from `offset`; return the number of bytes read, fewer at the end."""
        length = max(0, min(buffer.nbytes, self.size - offset))
        if length:
            self._fill(buffer.cast("B")[:length], offset)
        return length

    def close(self) -> None:
        """Release nothing: connections belong to the client."""

    def _fill(self, buffer: memoryview, offset: int) -> None:
        stop = offset + buffer.nbytes
        if not buffer.nbytes:
            return
        if stop <= self._head.nbytes:
            buffer[:] = self._head[offset:stop]
            return
        url = self._source.path
        # Before the cache, which has what came early: the plan goes on as its ranges are taken.
        ahead = planned(url, offset, stop, may_ask=False)
        if ahead is not None:
            buffer[:] = ahead
            return
        cache = byte_cache() if self._digest else None
        missing: tuple[int, int] | None = offset, stop
        if cache is not None:
            missing = cache.read_into(self._digest, buffer, offset)
        if missing is None:
            return
        ahead = planned(url, offset, stop, may_ask=True)
        if ahead is not None:
            buffer[:] = ahead
            return
        self.fetch_into(buffer, offset, missing)

    def fetch_into(self, buffer: memoryview, offset: int, missing: tuple[int, int]) -> None:
        """Fill a buffer by a request for its missing bytes, and keep them in the cache."""
        whole, cache = (offset, offset + buffer.nbytes), byte_cache() if self._digest else None
        start, stop = missing
        data = fetch(self._source, start, stop - start).data
        if cache is not None:
            cache.add(self._digest, start, data)
        if missing != whole:
            if cache is not None and cache.read_into(self._digest, buffer, offset) is None:
                return
            # The cache lost what it had.
            data = fetch(self._source, offset, buffer.nbytes).data
        buffer[:] = data

    def fetched(self, offset: int, length: int) -> memoryview:
        """Return a range, from the cache or by a request, on the thread of a plan."""
        buffer = memoryview(bytearray(length))
        cache = byte_cache() if self._digest else None
        missing: tuple[int, int] | None = offset, offset + length
        if cache is not None:
            missing = cache.read_into(self._digest, buffer, offset)
        if missing is not None:
            self.fetch_into(buffer, offset, missing)
        return buffer
