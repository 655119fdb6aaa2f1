"""First bytes of many objects, asked for ahead of the parser that walks over them.

The parser runs on one thread. Where it needs bytes that are not there yet, the handle raises
`NotFetched`, the range is asked for, and the parser starts again when it has come. So every wait of
a file overlaps with those of the others.
"""

import queue
from collections.abc import Callable, Sequence
from typing import Any, Final, Generic, TypeAlias, TypeVar

from dicomdl.errors import FileChanged
from dicomdl.storage._requests import CONCURRENCY as CONCURRENCY
from dicomdl.storage._requests import submit
from dicomdl.storage._stores import ObjectState
from dicomdl.storage.handles import Handle, NotFetched, Source
from dicomdl.storage.objects import (
    FIRST_BYTES,
    RemoteObject,
    fetch,
    fetch_first,
    require_same,
    source_of,
)

# Largest first request.
_MOST_FIRST_BYTES: Final = 128 * 2**10
# A longer range is a part of a header; headers of fragments have 8 bytes.
_HEADER_PART: Final = 4096
# Rounds until the parser reads by itself, range by range, and the bytes kept for it.
_MOST_ROUNDS: Final = 64
_MOST_KEPT_BYTES: Final = 64 * 2**20
# Ranges that follow each other closely are asked for in ever longer ones.
_CLOSE_BYTES: Final = 256 * 2**10
_CLOSE_ROUNDS: Final = 3

_Parsed = TypeVar("_Parsed")
# From a handle, and its first bytes if they are known.
Parse: TypeAlias = Callable[[Handle, bytes | None], _Parsed]


class FirstBytes:
    """The bytes of the first request, as headers of the files before need them."""

    def __init__(self) -> None:
        self.size = FIRST_BYTES
        self._misses = 0
        self._hits = 0

    def learn(self, *, was_enough: bool) -> None:
        """Double the size after some misses close to each other, halve it after many hits."""
        if was_enough:
            self._hits += 1
            self._misses = max(0, self._misses - 1)
            if self._hits >= 512 and self.size > FIRST_BYTES:
                self.size //= 2
                self._hits = 0
            return
        self._hits = 0
        self._misses += 8
        if self._misses >= 32:
            self.size = min(2 * self.size, _MOST_FIRST_BYTES)
            self._misses = 0


class PartialObject:
    """An object of which some ranges were fetched. Reads of others raise NotFetched."""

    __slots__ = ("_parts", "_source", "rounds")

    def __init__(self, url: str, state: ObjectState) -> None:
        self._source = source_of(url, state)
        self._parts: list[tuple[int, memoryview]] = []
        self.rounds = 0

    @property
    def source(self) -> Source:
        """The object, and its state when the first bytes were read."""
        return self._source

    @property
    def size(self) -> int:
        """The size in bytes."""
        return self._source.size

    @property
    def kept_bytes(self) -> int:
        """Bytes of all ranges."""
        return sum(data.nbytes for _, data in self._parts)

    def check(self, expected: Source) -> None:
        """Raise FileChanged if the object is not in the expected state."""
        source = self._source
        require_same(expected, ObjectState(source.size, source.mtime_ns, source.etag))

    def add(self, offset: int, data: memoryview) -> None:
        """Add a range."""
        self._parts.append((offset, data))
        self.rounds += 1

    def read_at(self, offset: int, length: int) -> bytes:
        """Read up to `length` bytes at `offset`; fewer at the end, and for the first bytes."""
        stop = min(offset + length, self.size)
        if offset >= stop:
            return b""
        for begin, data in reversed(self._parts):
            if begin <= offset and stop <= begin + data.nbytes:
                return bytes(data[offset - begin : stop - begin])
        raise NotFetched(offset, stop - offset)

    def first_bytes(self) -> bytes:
        """Return the first bytes that are there."""
        return bytes(self._parts[0][1])

    def read_into(self, buffer: memoryview, offset: int) -> int:
        """Fill `buffer` from `offset`."""
        data = self.read_at(offset, buffer.nbytes)
        buffer.cast("B")[: len(data)] = data
        return len(data)

    def close(self) -> None:
        """Release nothing."""

    def widened(self, gap: NotFetched) -> int:
        """Return how many bytes to ask for at a gap, up to the end of the object."""
        length, before = gap.length, self._parts[-1][0]
        step = gap.offset - before
        if self.rounds > _CLOSE_ROUNDS and 0 < step < _CLOSE_BYTES:
            length = max(length, min(4 * 2**20, step << (self.rounds - _CLOSE_ROUNDS)))
        return min(length, self.size - gap.offset)


class _Walk(Generic[_Parsed]):
    """The walk over the heads of some objects."""

    def __init__(self, urls: Sequence[str], parse: Parse[_Parsed]) -> None:
        self._urls, self._parse = urls, parse
        self._arrived: queue.SimpleQueue[tuple[int, int, Any]] = queue.SimpleQueue()
        self._handles: dict[int, PartialObject] = {}
        self.results: list[_Parsed | OSError | FileChanged | None] = [None] * len(urls)

    def run(self, concurrency: int) -> None:
        """Ask, parse and ask again, until all objects have a result."""
        numbers, first = iter(range(len(self._urls))), FirstBytes()
        pending = 0
        for number in numbers:
            self._ask_first(number, first.size)
            pending += 1
            if pending == concurrency:
                break
        while pending:
            number, offset, found = self._arrived.get()
            if self._step(number, offset, found, first):
                continue
            following = next(numbers, None)
            if following is None:
                pending -= 1
            else:
                self._ask_first(following, first.size)

    def _ask_first(self, number: int, length: int) -> None:
        submit(self._deliver, number, 0, fetch_first, self._urls[number], length)

    def _deliver(self, number: int, offset: int, work: Callable[..., Any], *arguments: Any) -> None:
        try:
            found: Any = work(*arguments)
        except (OSError, FileChanged) as error:
            found = error
        except BaseException as error:
            found = _Fault(error)
        self._arrived.put((number, offset, found))

    def _step(self, number: int, offset: int, found: Any, first: FirstBytes) -> bool:
        """Parse an object whose bytes have come; True if it needs more of them."""
        if isinstance(found, _Fault):
            raise found.error
        if isinstance(found, OSError | FileChanged):
            self.results[number] = found
            self._handles.pop(number, None)
            return False
        handle = self._handles.get(number)
        if handle is None:
            handle = self._handles[number] = PartialObject(self._urls[number], found.state)
        handle.add(offset, found.data)
        try:
            self.results[number] = self._parse(handle, handle.first_bytes())
        except NotFetched as gap:
            if handle.rounds == 1:
                first.learn(was_enough=gap.length <= _HEADER_PART)
            return self._ask_again(number, handle, gap)
        if handle.rounds == 1:
            first.learn(was_enough=True)
        del self._handles[number]
        return False

    def _ask_again(self, number: int, handle: PartialObject, gap: NotFetched) -> bool:
        if handle.rounds >= _MOST_ROUNDS or handle.kept_bytes > _MOST_KEPT_BYTES:
            del self._handles[number]
            try:
                whole = RemoteObject(handle.source.path, handle.source)
                self.results[number] = self._parse(whole, None)
            except (OSError, FileChanged) as error:
                self.results[number] = error
            return False
        length = handle.widened(gap)
        submit(self._deliver, number, gap.offset, fetch, handle.source, gap.offset, length)
        return True


class _Fault:
    """An error of a request that is none of a store: it ends the walk."""

    def __init__(self, error: BaseException) -> None:
        self.error = error


def walk_heads(
    urls: Sequence[str], parse: Parse[_Parsed], concurrency: int = CONCURRENCY
) -> list[_Parsed | OSError | FileChanged]:
    """Parse many objects, each from a handle that raises NotFetched for bytes not there yet.

    Parameters
    ----------
    urls
        The locations.
    parse
        Called again from the start until it raises no NotFetched.
    concurrency
        Requests in flight.

    Returns
    -------
    list
        In order: what `parse` returned, or the error of the request.
    """
    walk = _Walk(urls, parse)
    walk.run(concurrency)
    return [result for result in walk.results if result is not None]
