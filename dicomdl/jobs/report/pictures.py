"""The pictures of many stacks: from the cache, or made by worker processes and cached."""

import contextlib
import hashlib
import os
import queue
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from dicomdl.errors import StorageError
from dicomdl.index.index import Index
from dicomdl.jobs._progress import progress_bar
from dicomdl.jobs.report.drawing import TARGET, Drawn, Wanted, draw, request_of, setup_of
from dicomdl.storage import publishing as storage
from dicomdl.storage.children import Child, Death
from dicomdl.storage.kept import PICTURES
from dicomdl.storage.locations import is_url
from dicomdl.storage.system import available_cores

# Rises when pictures change: part of the key of cached ones.
_VERSION: Final = 1
# Below this number of stacks, the start of workers costs more than they save.
_IN_PROCESS: Final = 24
# Workers that die one after the other, after which the rest gets no pictures.
_MOST_DEATHS: Final = 50
# Cached pictures of an index are removed when no report has made any for so long.
_UNUSED_S: Final = 30 * 86400


class PictureCache:
    """Pictures of the stacks of one generation, in the cache folder of the user.

    An interrupted report goes on where it was, and the next one takes no time for its pictures. A
    cache that cannot be used costs time alone.
    """

    def __init__(self, generation: str) -> None:
        self._folder: str | None = None
        with contextlib.suppress(StorageError):
            pictures = storage.cache_folder(PICTURES)
            storage.remove_old(pictures, _UNUSED_S, time.time(), pattern=r".*")
            self._folder = storage.cache_folder(PICTURES, generation)

    def _path(self, number: int, wanted: Wanted) -> str:
        key = hashlib.blake2b(repr((_VERSION, wanted)).encode(), digest_size=6).hexdigest()
        return os.path.join(self._folder or "", f"{number}-{key}.bin")

    def get(self, number: int, wanted: Wanted) -> Drawn | None:
        """Return the pictures of a stack; None without them, or if they are damaged."""
        if self._folder is None:
            return None
        try:
            return Drawn.from_bytes(storage.read_whole(self._path(number, wanted)))
        except ValueError:
            # StorageError is a ValueError.
            return None

    def put(self, number: int, wanted: Wanted, data: bytes) -> None:
        """Cache the pictures of a stack."""
        if self._folder is not None:
            name = os.path.basename(self._path(number, wanted))
            with contextlib.suppress(StorageError):
                storage.write_files(self._folder, [(name, data)])


def drawn(
    index: Index, wanted: Mapping[int, Wanted], workers: int | None, *, progress: bool
) -> Iterator[tuple[int, Drawn]]:
    """Yield (number of the stack, its pictures), in any order.

    Parameters
    ----------
    index
        The index.
    wanted
        What is drawn of each stack, by number.
    workers
        Processes; None for one per core.
    progress
        Show a progress bar.

    Raises
    ------
    StorageError
        No process can be started.
    """
    cache = PictureCache(index.generation)
    left = []
    with progress_bar(
        total=len(wanted), unit="stack", desc="drawing stacks", shown=progress
    ) as bar:
        for number, how in wanted.items():
            if (found := cache.get(number, how)) is None:
                left.append(number)
            else:
                bar.update()
                yield number, found
        for number, made in _made(index, wanted, left, workers or available_cores()):
            if not made.error:
                cache.put(number, wanted[number], made.to_bytes())
            bar.update()
            yield number, made


def _made(
    index: Index, wanted: Mapping[int, Wanted], numbers: Sequence[int], workers: int
) -> Iterator[tuple[int, Drawn]]:
    alone = workers == 1 or len(numbers) < _IN_PROCESS or not sys.executable
    if alone or any(is_url(str(index.stack(number).value("path"))) for number in numbers[:1]):
        # How stores are reached is known to this process alone.
        for number in numbers:
            yield number, draw(index.stack(number), wanted[number])
    else:
        yield from _by_workers(index, wanted, numbers, min(workers, len(numbers)))


def _by_workers(
    index: Index, wanted: Mapping[int, Wanted], numbers: Sequence[int], workers: int
) -> Iterator[tuple[int, Drawn]]:
    folder, generation, _, access = index.stack(numbers[0]).key
    setup = setup_of(folder, generation, access)
    waiting: queue.SimpleQueue[int] = queue.SimpleQueue()
    for number in numbers:
        waiting.put(number)
    results: queue.SimpleQueue[tuple[int, Drawn] | BaseException] = queue.SimpleQueue()
    team = [_Worker(setup, wanted, waiting, results) for _ in range(workers)]
    try:
        for worker in team:
            worker.start()
        for _ in numbers:
            result = results.get()
            if isinstance(result, BaseException):
                raise result
            yield result
    finally:
        for worker in team:
            worker.stop()


class _Worker:
    """One process, and the thread that sends it stacks; a process that dies is replaced."""

    def __init__(
        self,
        setup: Mapping[str, Any],
        wanted: Mapping[int, Wanted],
        waiting: "queue.SimpleQueue[int]",
        results: "queue.SimpleQueue[tuple[int, Drawn] | BaseException]",
    ) -> None:
        self._setup, self._wanted = setup, wanted
        self._waiting, self._results = waiting, results
        self._child: Child | None = None
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        """Begin to draw."""
        self._thread.start()

    def stop(self) -> None:
        """End the process, and wait for the thread."""
        self._stopped.set()
        if self._child is not None:
            self._child.end()
        self._thread.join()

    def _run(self) -> None:
        deaths = 0
        try:
            while not self._stopped.is_set():
                try:
                    number = self._waiting.get_nowait()
                except queue.Empty:
                    return
                made = self._drawn(number) if deaths < _MOST_DEATHS else Drawn(error=_TOO_MANY)
                deaths += self._child is None
                self._results.put((number, made))
        except BaseException as error:
            self._results.put(error)

    def _drawn(self, number: int) -> Drawn:
        if self._child is None:
            self._child = Child(TARGET, self._setup)
        self._child.send(request_of(number, self._wanted[number]))
        answer = self._child.receive()
        if not isinstance(answer, Death):
            with contextlib.suppress(ValueError):
                return Drawn.from_bytes(answer)
        self._child.end()
        self._child = None
        return Drawn(error=str(answer) if isinstance(answer, Death) else _UNREADABLE)


_TOO_MANY: Final = "too many worker processes have died"
_UNREADABLE: Final = "the worker process gave an answer that cannot be read"
