"""Writing behind a connection: files go to the disk on threads, while the next ones come.

A disk takes milliseconds to flush one file, and little longer to flush several at once. What has
come and is not written yet is bounded in bytes.
"""

import contextlib
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Final

_THREADS: Final = 8
_MOST_BYTES: Final = 256 * 2**20


class Batch:
    """Writes of one answer, which are done or have failed when its block ends."""

    def __init__(self, writers: "Writers") -> None:
        self._writers = writers
        self.running = 0
        self.error: BaseException | None = None

    def add(self, size: int, write: Callable[[], object]) -> None:
        """Begin a write that holds so many bytes, when there is room for them.

        Raises the error of a write that failed before.
        """
        if self.error is not None:
            raise self.error
        self._writers.start(self, size, write)


class Writers:
    """Threads that write files, for all connections of a job."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(_THREADS, "dicomdl-write")
        self._changed = threading.Condition()
        self._bytes = 0

    @contextlib.contextmanager
    def open(self) -> Iterator["Writers"]:
        """End the threads with the block, when they have written what waits."""
        with self._pool:
            yield self

    @contextlib.contextmanager
    def batch(self) -> Iterator[Batch]:
        """Wait for the writes of the block when it ends, and raise the first of their errors.

        It comes in the place of an error of the block itself.
        """
        batch = Batch(self)
        try:
            yield batch
        finally:
            with self._changed:
                self._changed.wait_for(lambda: not batch.running)
            if batch.error is not None:
                raise batch.error

    def start(self, batch: Batch, size: int, write: Callable[[], object]) -> None:
        """Begin a write of a batch; a file that is larger than all room waits for the others."""
        with self._changed:
            self._changed.wait_for(lambda: not self._bytes or self._bytes + size <= _MOST_BYTES)
            self._bytes += size
            batch.running += 1
        self._pool.submit(self._write, batch, size, write)

    def _write(self, batch: Batch, size: int, write: Callable[[], object]) -> None:
        error: BaseException | None = None
        try:
            write()
        except BaseException as caught:
            error = caught
        with self._changed:
            batch.error = batch.error or error
            batch.running -= 1
            self._bytes -= size
            self._changed.notify_all()
