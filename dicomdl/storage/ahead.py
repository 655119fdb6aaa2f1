"""Ranges that a loop will read, in flight ahead of its reads: of stores, and of slow file systems.

A file system that is fast (`_slow`) is left alone: its reads cost less than a thread. A file that
is read ahead is opened by the thread that reads it, since opening waits for the server, too.
"""

import contextlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from typing import TypeVar

from dicomdl.errors import DicomdlError
from dicomdl.storage._files import open_file
from dicomdl.storage._plans import Plan, loops, planned
from dicomdl.storage._plans import Span as Span
from dicomdl.storage._requests import CONCURRENCY, submit
from dicomdl.storage._slow import is_slow
from dicomdl.storage.archives import open_member
from dicomdl.storage.dicomweb import is_web
from dicomdl.storage.handles import UNKNOWN, Handle, Source, read_range
from dicomdl.storage.locations import SEPARATOR, is_url, split
from dicomdl.storage.objects import RemoteObject
from dicomdl.storage.paths import UnacceptedPath
from dicomdl.storage.web_objects import WebInstance

_Result = TypeVar("_Result")


def reading_ahead_of(
    first: str, ranges: Callable[[], Sequence[Span]]
) -> contextlib.AbstractContextManager[None]:
    """Return a context in which ranges are asked for ahead where reading them one by one waits.

    Parameters
    ----------
    first
        The path of the first range.
    ranges
        A function that returns the ranges, which is not called where nothing waits.
    """
    if SEPARATOR not in first and not is_slow(first, lambda: _places(ranges())):
        return contextlib.nullcontext()
    return reading_ahead(ranges())


def waits_for(first: Source, ranges: Callable[[], Sequence[Span]]) -> bool:
    """Whether reading ranges one by one waits, or a running loop reads the first file ahead.

    Parameters
    ----------
    first
        The source of the first range.
    ranges
        As for `reading_ahead_of`.
    """
    if loops.running and any(plan.has(first) for plan in loops.running):
        return True
    return SEPARATOR in first.path or is_slow(first.path, lambda: _places(ranges()))


def are_slow(paths: Sequence[str]) -> bool:
    """Whether many reads at once pay for some files of one file system."""
    return len(paths) > 1 and is_slow(paths[0], lambda: [(path, 0) for path in paths])


def _places(ranges: Sequence[Span]) -> list[tuple[str, int]]:
    return [(part.source.path, part.offset) for part in ranges]


@contextlib.contextmanager
def reading_ahead(ranges: Iterable[Span]) -> Iterator[None]:
    """Ask for ranges of objects and files ahead of the reads inside the block.

    Members of archives on disk, and paths that the user has not accepted, are not asked for.
    """
    wanted = [part for part in ranges if part.length and _can_be_asked(part.source)]
    if len(wanted) < 2:
        yield
        return
    plan = Plan(wanted, _read)
    loops.begin(plan)
    try:
        yield
    finally:
        loops.end(plan)


def _can_be_asked(source: Source) -> bool:
    if isinstance(source.path, UnacceptedPath):
        return False
    if SEPARATOR in source.path:
        return is_url(source.path)
    return source.mtime_ns != UNKNOWN


def _read(part: Span) -> memoryview:
    """Return the bytes of a range, on the thread of a plan."""
    source = part.source
    location = split(source.path)
    if location.members:
        with contextlib.closing(open_member(location, source.path, source)) as handle:
            return memoryview(read_range(handle, part.offset, part.length))
    if is_url(source.path):
        kind = WebInstance if is_web(source.path) else RemoteObject
        return kind(source.path, source).fetched(part.offset, part.length)
    with contextlib.closing(open_file(source.path, source)) as handle:
        return memoryview(read_range(handle, part.offset, part.length))


class FileAhead:
    """A file of which ranges are read ahead. It is opened at the first read of another range.

    Parameters
    ----------
    source
        The file, in a state that a scan has seen.
    open_now
        Opens it.
    """

    __slots__ = ("_file", "_open", "_source")

    def __init__(self, source: Source, open_now: Callable[[Source], Handle]) -> None:
        self._source, self._open = source, open_now
        self._file: Handle | None = None

    @property
    def source(self) -> Source:
        """The file, and its state when it was opened."""
        return self._opened().source

    @property
    def size(self) -> int:
        """The size in bytes, in the state of the scan."""
        return self._source.size

    def check(self, expected: Source) -> None:
        """Raise FileChanged if the file is not in the expected state."""
        if expected != self._source:
            self._opened().check(expected)

    def read_at(self, offset: int, length: int) -> bytes:
        """Read up to `length` bytes at `offset`; fewer at the end."""
        data = self._ahead(offset, offset + length)
        return self._opened().read_at(offset, length) if data is None else bytes(data)

    def read_into(self, buffer: memoryview, offset: int) -> int:
        """Fill `buffer` from `offset`; return the number of bytes read, which may be fewer."""
        data = self._ahead(offset, offset + buffer.nbytes)
        if data is None:
            return self._opened().read_into(buffer, offset)
        buffer.cast("B")[:] = data
        return data.nbytes

    def close(self) -> None:
        """Close the file if it was opened."""
        if self._file is not None:
            self._file.close()

    def _ahead(self, start: int, stop: int) -> memoryview | None:
        try:
            return planned(self._source.path, start, stop, may_ask=True)
        except (OSError, DicomdlError):
            # Reading it here raises the error with its words.
            return None

    def _opened(self) -> Handle:
        if self._file is None:
            self._file = self._open(self._source)
        return self._file


def file_ahead(source: Source, open_now: Callable[[Source], Handle]) -> Handle | None:
    """Return a handle on a file of which a running loop reads ranges ahead; None for others."""
    if SEPARATOR in source.path and not (is_url(source.path) and split(source.path).members):
        # Objects ask their plan themselves.
        return None
    if not any(plan.has(source) for plan in loops.running):
        return None
    return FileAhead(source, open_now)


def each_of(work: Callable[[Source], _Result], sources: Sequence[Source]) -> Iterator[_Result]:
    """Yield `work(source)` in order; many at once where reading the sources one by one waits."""
    if len(sources) < 2 or not (
        any(is_url(source.path) for source in sources)
        or are_slow([source.path for source in sources])
    ):
        yield from map(work, sources)
        return
    begun: deque[Future[_Result]] = deque()
    left = iter(sources)
    try:
        for source in left:
            begun.append(submit(work, source))
            if len(begun) >= CONCURRENCY:
                yield begun.popleft().result()
        while begun:
            yield begun.popleft().result()
    finally:
        for future in begun:
            future.cancel()
