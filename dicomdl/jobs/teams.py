"""Work of several child processes, in any order, however many of the children die.

`answers` has children that are not replaced: there is nothing to try again. With `worked`, a child
that dies is replaced, and the caller decides what becomes of the item that it had.
"""

import contextlib
import queue
import secrets
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final, TypeAlias, TypeVar

from dicomdl.errors import StorageError
from dicomdl.storage.children import Child, Death

Item = TypeVar("Item")
Result = TypeVar("Result")
# Children that end before they are ready: their imports fail, and no item is the reason. A signal,
# as of a queue that takes its machine back, is no fault of theirs.
_MOST_STARTS: Final = 2
_MOST_KILLED_STARTS: Final = 20
# Wait before an item that was put off is tried again, and between looks for Ctrl-C.
_PAUSE_S: Final = 0.5

# The number of a message, and its answer or how the child that had it ended; None where the caller
# answers it.
Answered: TypeAlias = tuple[int, bytes | Death | None]


def answers(
    start: Callable[[], Child],
    messages: Sequence[Sequence[bytes]],
    workers: int,
    *,
    joins: bool = False,
) -> Iterator[Answered]:
    """Yield the number of each message once, with its answer or the death of a child.

    A child that dies is not replaced. The messages that no child is left for have the last death.
    With `joins` the caller works, too: it gets a message with None whenever no answer waits.

    Parameters
    ----------
    start
        Starts a child.
    messages
        The messages, each in parts.
    workers
        The number of children.
    joins
        Whether the caller answers messages itself.
    """
    waiting: queue.SimpleQueue[int | None] = queue.SimpleQueue()
    answered: queue.SimpleQueue[Answered | None] = queue.SimpleQueue()
    for number in (*range(len(messages)), *[None] * workers):
        waiting.put(number)

    def feed(child: Child) -> None:
        while (number := waiting.get()) is not None:
            child.send(*messages[number])
            answer = child.receive()
            answered.put((number, answer))
            if isinstance(answer, Death):
                break
        answered.put(None)

    with contextlib.ExitStack() as team:
        for _ in range(workers):
            child = start()
            team.callback(child.end)
            threading.Thread(target=feed, args=(child,), daemon=True).start()
        running, last = workers, None
        while running:
            if joins and answered.empty():
                with contextlib.suppress(queue.Empty):
                    if (number := waiting.get_nowait()) is not None:
                        yield number, None
                        continue
                    # The end is told to as many as there are children.
                    waiting.put(None)
                joins = False
            found = answered.get()
            if found is None:
                running -= 1
                continue
            if isinstance(found[1], Death):
                last = found[1]
            yield found
    left = [waiting.get() for _ in range(waiting.qsize())]
    for number in left:
        if number is not None:
            assert last is not None
            yield number, last


class Slot:
    """One place for a child process, which is started when it is asked, and again if it died.

    Attributes
    ----------
    word
        A random word that no other place has.
    """

    def __init__(self, start: Callable[[], Child], stopped: threading.Event) -> None:
        self._start, self._stopped = start, stopped
        self._child: Child | None = None
        self._lock = threading.Lock()
        self.word = secrets.token_hex(8)

    def ask(self, message: bytes) -> bytes | Death:
        """Send a message; return the answer, or how the child ended that had begun with it.

        Raises
        ------
        StorageError
            No child can be started, or the team was stopped.
        """
        failed = killed = 0
        while True:
            child = self._running()
            child.send(message)
            answer = child.receive()
            if not isinstance(answer, Death):
                return answer
            self.end()
            if answer.was_ready:
                return answer
            failed, killed = failed + (answer.code >= 0), killed + (answer.code < 0)
            if failed == _MOST_STARTS or killed == _MOST_KILLED_STARTS:
                raise StorageError(f"a child process cannot start: {answer.why}")

    def _running(self) -> Child:
        with self._lock:
            if self._stopped.is_set():
                raise StorageError("stopped")
            if self._child is None:
                self._child = self._start()
            return self._child

    def end(self) -> None:
        """End the child, if there is one."""
        with self._lock:
            child, self._child = self._child, None
        if child is not None:
            child.end()


def worked(
    start: Callable[[], Child],
    items: Iterable[Item],
    work: Callable[[Slot, Item], Result | None],
    workers: int,
) -> Iterator[Result]:
    """Yield what `work` makes of each item, as it comes.

    Parameters
    ----------
    start
        Starts a child.
    items
        The items.
    work
        Called in a thread with a place for a child and an item. None puts the item off: it is tried
        again after the others.
    workers
        The number of children.

    Raises
    ------
    Exception
        The first error of `work`, after which no other item is begun.
    """
    waiting = deque(items)
    results: queue.SimpleQueue[Result | BaseException] = queue.SimpleQueue()
    stopped = threading.Event()

    def serve(slot: Slot) -> None:
        try:
            while not stopped.is_set():
                try:
                    item = waiting.popleft()
                except IndexError:
                    return
                if (found := work(slot, item)) is not None:
                    results.put(found)
                else:
                    waiting.append(item)
                    stopped.wait(_PAUSE_S)
        except BaseException as error:
            results.put(error)
        finally:
            slot.end()

    left, slots = len(waiting), [Slot(start, stopped) for _ in range(workers)]
    threads = [threading.Thread(target=serve, args=(slot,), daemon=True) for slot in slots]
    for thread in threads:
        thread.start()
    try:
        while left:
            # With a time limit, so that Ctrl-C is noticed.
            try:
                result = results.get(timeout=_PAUSE_S)
            except queue.Empty:
                continue
            if isinstance(result, BaseException):
                raise result
            left -= 1
            yield result
    finally:
        stopped.set()
        for slot in slots:
            slot.end()
        for thread in threads:
            thread.join()
