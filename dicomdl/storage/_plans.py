"""Plans: ranges that loops will read, asked for by threads ahead of the reads."""

import bisect
import os
import threading
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from typing import Final, NamedTuple

from dicomdl.storage._requests import CONCURRENCY, submit
from dicomdl.storage.handles import Source

# Bytes that wait for their reader, in the requests of one loop.
_MOST_AHEAD_BYTES: Final = 64 * 2**20


class Span(NamedTuple):
    """Bytes of a source that will be read."""

    source: Source
    offset: int
    length: int


class Plan:
    """Ranges that a loop will read in about this order, and the requests for the next of them.

    The first range that the cache lacks starts the requests, so a loop over cached ranges pays
    nothing. Threads of one loop share its plan.

    Parameters
    ----------
    ranges
        What will be read.
    read
        Returns the bytes of a range, called on other threads.
    """

    def __init__(self, ranges: list[Span], read: Callable[[Span], memoryview]) -> None:
        self._ranges, self._read = ranges, read
        # A fork copies the plan, and not the threads that fulfil it.
        self.process = os.getpid()
        self._by_path: dict[str, list[tuple[int, int]]] = {}
        for number, part in enumerate(ranges):
            self._by_path.setdefault(part.source.path, []).append((part.offset, number))
        for places in self._by_path.values():
            places.sort()
        self._lock = threading.Lock()
        self._asked: dict[int, Future[memoryview]] = {}
        self._started: set[int] = set()
        self._next = 0
        self._bytes = 0

    def take(self, path: str, start: int, stop: int, *, may_ask: bool) -> memoryview | None:
        """Return a part of a planned range; None if it is not planned, or was read already.

        A range that was not asked for yet is asked for, and those behind it, if `may_ask`.
        """
        if not (may_ask or self._started):
            return None
        number = self._number(path, start, stop)
        if number is None:
            return None
        part = self._ranges[number]
        with self._lock:
            if number not in self._started:
                if not may_ask:
                    return None
                self._ask(number)
            self._ask_more()
            future = self._asked.get(number)
        if future is None:
            return None
        try:
            data = future.result()[start - part.offset : stop - part.offset]
        except CancelledError:
            # The loop of another thread, which had planned this range, has ended.
            return None
        if stop == part.offset + part.length:
            with self._lock:
                if self._asked.pop(number, None) is not None:
                    self._bytes -= part.length
                self._ask_more()
        return data

    def has(self, source: Source) -> bool:
        """Whether ranges of a file are planned, in this state and by a path accepted alike."""
        places = self._by_path.get(source.path)
        if places is None:
            return False
        known = self._ranges[places[0][1]].source
        return known == source and type(known.path) is type(source.path)

    def cancel(self) -> None:
        """Withdraw the requests that have not begun."""
        with self._lock:
            self._next = len(self._ranges)
            for future in self._asked.values():
                future.cancel()
            self._asked.clear()

    def _number(self, path: str, start: int, stop: int) -> int | None:
        places = self._by_path.get(path)
        if places is None:
            return None
        at = bisect.bisect_right(places, (start, len(self._ranges))) - 1
        if at < 0:
            return None
        offset, number = places[at]
        inside = offset <= start and stop <= offset + self._ranges[number].length
        return number if inside else None

    def _ask(self, number: int) -> None:
        part = self._ranges[number]
        self._started.add(number)
        self._asked[number] = submit(self._read, part)
        self._bytes += part.length

    def _ask_more(self) -> None:
        # Behind the first range that was asked for: those before it are in the cache.
        self._next = max(self._next, min(self._asked, default=0))
        while self._next < len(self._ranges) and len(self._asked) < CONCURRENCY:
            if self._asked and self._bytes + self._ranges[self._next].length > _MOST_AHEAD_BYTES:
                break
            if self._next not in self._started:
                self._ask(self._next)
            self._next += 1


class _Plans:
    """The plans of loops that are running, on any thread."""

    def __init__(self) -> None:
        self.after_fork()

    def after_fork(self) -> None:
        """Begin anew in a child: another thread of the parent may have held the lock."""
        self.running: tuple[Plan, ...] = ()
        self._lock = threading.Lock()

    def begin(self, plan: Plan) -> None:
        """Add a plan."""
        with self._lock:
            self.running = (*self.running, plan)

    def end(self, plan: Plan) -> None:
        """Drop a plan, and its requests that have not begun."""
        with self._lock:
            self.running = tuple(each for each in self.running if each is not plan)
        plan.cancel()


loops: Final = _Plans()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=loops.after_fork)


def planned(path: str, start: int, stop: int, *, may_ask: bool) -> memoryview | None:
    """Return a range of a source from the plans of this process; None if none has it."""
    for plan in loops.running:
        if plan.process == os.getpid():
            data = plan.take(path, start, stop, may_ask=may_ask)
            if data is not None:
                return data
    return None
