"""The pictures of many stacks: from the cache, or made by worker processes and cached."""

import contextlib
import hashlib
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from dicomdl.errors import StorageError
from dicomdl.index.index import Index
from dicomdl.jobs._progress import progress_bar
from dicomdl.jobs.report.drawing import TARGET, Drawn, Wanted, draw, request_of, setup_of
from dicomdl.jobs.teams import Slot, worked
from dicomdl.storage import publishing as storage
from dicomdl.storage.children import UNREADABLE, Child, Death
from dicomdl.storage.kept import PICTURES
from dicomdl.storage.locations import is_url
from dicomdl.storage.system import available_cores

# Rises when pictures change: part of the key of cached ones.
_VERSION: Final = 1
# Below this number of stacks, the start of workers costs more than they save.
_IN_PROCESS: Final = 24
# Deaths of workers, after which the rest gets no pictures.
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

    def has(self, number: int, wanted: Wanted) -> bool:
        """Whether there are pictures of a stack, damaged ones among them."""
        return self._folder is not None and os.path.exists(self._path(number, wanted))

    def get_or_draw(self, index: Index, number: int, wanted: Wanted) -> Drawn:
        """Return the pictures of a stack; those that are damaged are made again."""
        try:
            return Drawn.from_bytes(storage.read_whole(self._path(number, wanted)))
        except ValueError:
            # StorageError is a ValueError.
            made = draw(index.stack(number), wanted)
            self.put(number, wanted, made)
            return made

    def put(self, number: int, wanted: Wanted, made: Drawn) -> None:
        """Cache the pictures of a stack; errors are not cached, as files may return."""
        if self._folder is not None and not made.error:
            name = os.path.basename(self._path(number, wanted))
            with contextlib.suppress(StorageError):
                storage.write_files(self._folder, [(name, made.to_bytes())])


def drawn(
    index: Index, wanted: Mapping[int, Wanted], workers: int | None, *, progress: bool
) -> Iterator[tuple[int, Drawn]]:
    """Yield (number of the stack, its pictures), nearly in order: few sheets are open at once.

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
    left = [number for number, how in wanted.items() if not cache.has(number, how)]
    absent = set(left)
    cached = [number for number in wanted if number not in absent]
    place = {number: at for at, number in enumerate(wanted)}
    with progress_bar(
        total=len(wanted), unit="stack", desc="drawing stacks", shown=progress
    ) as bar:
        done = 0
        for number, made in _made(index, wanted, left, workers or available_cores()):
            while done < len(cached) and place[cached[done]] < place[number]:
                yield cached[done], cache.get_or_draw(index, cached[done], wanted[cached[done]])
                bar.update()
                done += 1
            cache.put(number, wanted[number], made)
            yield number, made
            bar.update()
        for number in cached[done:]:
            yield number, cache.get_or_draw(index, number, wanted[number])
            bar.update()


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
    yield from worked(lambda: Child(TARGET, setup), numbers, _Drawing(wanted).drawn, workers)


class _Drawing:
    """What child processes draw; one that dies costs its stack the pictures."""

    def __init__(self, wanted: Mapping[int, Wanted]) -> None:
        self._wanted = wanted
        self._deaths = 0

    def drawn(self, slot: Slot, number: int) -> tuple[int, Drawn]:
        """Return the number of a stack, and its pictures or why there are none."""
        if self._deaths >= _MOST_DEATHS:
            return number, Drawn(error=_TOO_MANY)
        answer = slot.ask(request_of(number, self._wanted[number]))
        if not isinstance(answer, Death):
            with contextlib.suppress(ValueError):
                return number, Drawn.from_bytes(answer)
        slot.end()
        self._deaths += 1
        return number, Drawn(error=str(answer) if isinstance(answer, Death) else UNREADABLE)


_TOO_MANY: Final = "too many worker processes have died"
