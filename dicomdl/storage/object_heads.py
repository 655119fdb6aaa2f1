"""First bytes of many files, asked for ahead of the parser that walks over them.

The files are objects of stores, or lie on a slow file system. The parser runs on one thread. Where
it needs bytes that are not there yet, the handle raises `NotFetched`, the range is asked for, and
the parser starts again when it has come. So every wait of a file overlaps with those of the others.
"""

import contextlib
import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, Generic, NamedTuple, TypeAlias, TypeVar

from dicomdl.errors import PixelError
from dicomdl.storage._requests import CONCURRENCY as CONCURRENCY
from dicomdl.storage._requests import submit
from dicomdl.storage.archives import open_member
from dicomdl.storage.handles import Handle, LocalFile, NotFetched, Source
from dicomdl.storage.locations import SEPARATOR, is_url, split
from dicomdl.storage.objects import FIRST_BYTES, RemoteObject, fetch, fetch_first, source_of

# Largest first request.
_MOST_FIRST_BYTES: Final = 128 * 2**10
# A longer range is a part of a header; headers of fragments have 8 bytes.
_HEADER_PART: Final = 4096
# Rounds until the parser reads by itself, range by range, and the bytes kept for it.
_MOST_ROUNDS: Final = 64
_MOST_KEPT_BYTES: Final = 64 * 2**20
# Ranges that follow each other closely are asked for in ever longer ones.
# Files that were fetched before the parser has come to them: 8 MB of first bytes.
_MOST_WAITING: Final = 512
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


class Part(NamedTuple):
    """Bytes of a file, and its state when they were read."""

    data: memoryview
    source: Source


def _first_part(path: str, length: int) -> Part:
    """Return the first bytes of a file in any state."""
    if SEPARATOR in path and not split(path).members:
        found = fetch_first(path, length)
        return Part(found.data, source_of(path, found.state))
    with contextlib.closing(_opened(path)) as handle:
        return Part(memoryview(handle.read_at(0, length)), handle.source)


def _part_at(source: Source, offset: int, length: int) -> Part:
    """Return a range of a file in its state."""
    with contextlib.closing(_whole(source)) as handle:
        if isinstance(handle, RemoteObject):
            return Part(fetch(source, offset, length).data, source)
        return Part(memoryview(handle.read_at(offset, length)), source)


def _whole(source: Source) -> Handle:
    """Open a file whose ranges are not asked for ahead."""
    return _opened(source.path, source)


def _opened(path: str, expected: Source | None = None) -> Handle:
    location = split(path)
    if location.members:
        return open_member(location, path, expected)
    return RemoteObject(path, expected) if is_url(path) else LocalFile(path, expected)


class PartialFile:
    """A file of which some ranges were fetched. Reads of others raise NotFetched."""

    __slots__ = ("_parts", "_source", "rounds")

    def __init__(self, source: Source) -> None:
        self._source = source
        self._parts: list[tuple[int, memoryview]] = []
        self.rounds = 0

    @property
    def source(self) -> Source:
        """The file, and its state when the first bytes were read."""
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
        """Raise PixelError if the file is not in the expected state."""
        with contextlib.closing(_whole(self._source)) as handle:
            handle.check(expected)

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
        """Return how many bytes to ask for at a gap, up to the end of the file."""
        length, before = gap.length, self._parts[-1][0]
        step = gap.offset - before
        if self.rounds > _CLOSE_ROUNDS and 0 < step < _CLOSE_BYTES:
            length = max(length, min(4 * 2**20, step << (self.rounds - _CLOSE_ROUNDS)))
        return min(length, self.size - gap.offset)


class _Fault:
    """An error of a request that is none of a store: it ends the walk."""

    def __init__(self, error: BaseException) -> None:
        self.error = error


class HeadWalker:
    """First bytes of files, fetched in order by threads while the parser is busy elsewhere.

    Parameters
    ----------
    paths
        All locations that will be walked, in order.
    concurrency
        Requests in flight.
    """

    def __init__(self, paths: Sequence[str], concurrency: int = CONCURRENCY) -> None:
        self.first = FirstBytes()
        self._paths = iter(paths)
        self._take = threading.Lock()
        self._arrived: queue.SimpleQueue[tuple[str, int, Any]] = queue.SimpleQueue()
        # Files that were fetched and not parsed.
        self._room = threading.Semaphore(concurrency + _MOST_WAITING)
        self._early: dict[str, Any] = {}
        self._ended = False
        # Apart from those of other requests, which the parser waits for.
        self._threads = ThreadPoolExecutor(concurrency, "dicomdl-heads")
        for _ in range(min(concurrency, len(paths))):
            self._threads.submit(self._fetch)

    def _fetch(self) -> None:
        """Fetch one file after the other, on a thread of its own."""
        while True:
            self._room.acquire()
            with self._take:
                path = None if self._ended else next(self._paths, None)
            if path is None:
                self._room.release()
                return
            self._arrived.put((path, 0, _outcome(_first_part, path, self.first.size)))

    def close(self) -> None:
        """End the threads, after the requests in flight."""
        self._ended = True
        self._room.release()
        self._threads.shutdown(wait=False)

    def walk(
        self, paths: Sequence[str], parse: Parse[_Parsed]
    ) -> list[_Parsed | OSError | PixelError]:
        """Parse the next files, each from a handle that raises NotFetched for absent bytes.

        Parameters
        ----------
        paths
            The next of the locations.
        parse
            Called again from the start until it raises no NotFetched.

        Returns
        -------
        list
            In order: what `parse` returned, or the error of the request.
        """
        walk = _Walk(parse, self.first, self._ask_again)
        wanted = set(paths)
        early = [path for path in reversed(paths) if path in self._early]
        while len(walk.results) < len(wanted):
            if early:
                path, offset = early.pop(), 0
                found = self._early.pop(path)
            else:
                path, offset, found = self._arrived.get()
                if path not in wanted:
                    self._early[path] = found
                    continue
            if offset == 0:
                self._room.release()
            walk.step(path, offset, found)
        return [walk.results[path] for path in paths]

    def _ask_again(self, source: Source, offset: int, length: int) -> None:
        def work() -> None:
            self._arrived.put((source.path, offset, _outcome(_part_at, source, offset, length)))

        submit(work)


def _outcome(work: Callable[..., Any], *arguments: Any) -> Any:
    try:
        return work(*arguments)
    except (OSError, PixelError) as error:
        return error
    except BaseException as error:
        return _Fault(error)


class _Walk(Generic[_Parsed]):
    """The files of one walk: those that need more bytes, and the results of the others."""

    def __init__(
        self,
        parse: Parse[_Parsed],
        first: FirstBytes,
        ask: Callable[[Source, int, int], None],
    ) -> None:
        self._parse, self._first, self._ask = parse, first, ask
        self._handles: dict[str, PartialFile] = {}
        self.results: dict[str, _Parsed | OSError | PixelError] = {}

    def step(self, path: str, offset: int, found: Any) -> None:
        """Parse a file whose bytes have come, and ask for those that it lacks."""
        if isinstance(found, _Fault):
            raise found.error
        if isinstance(found, OSError | PixelError):
            self.results[path] = found
            self._handles.pop(path, None)
            return
        handle = self._handles.pop(path, None) or PartialFile(found.source)
        handle.add(offset, found.data)
        try:
            self.results[path] = self._parse(handle, handle.first_bytes())
        except NotFetched as gap:
            if handle.rounds == 1:
                self._first.learn(was_enough=gap.length <= _HEADER_PART)
            self._go_on(path, handle, gap)
            return
        if handle.rounds == 1:
            self._first.learn(was_enough=True)

    def _go_on(self, path: str, handle: PartialFile, gap: NotFetched) -> None:
        if handle.rounds < _MOST_ROUNDS and handle.kept_bytes <= _MOST_KEPT_BYTES:
            self._handles[path] = handle
            self._ask(handle.source, gap.offset, handle.widened(gap))
            return
        try:
            self.results[path] = self._parse(_whole(handle.source), None)
        except (OSError, PixelError) as error:
            self.results[path] = error


def walk_heads(
    paths: Sequence[str], parse: Parse[_Parsed], concurrency: int = CONCURRENCY
) -> list[_Parsed | OSError | PixelError]:
    """Parse some files: a `HeadWalker` for one walk."""
    walker = HeadWalker(paths, concurrency)
    try:
        return walker.walk(paths, parse)
    finally:
        walker.close()
