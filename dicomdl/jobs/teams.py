"""Messages that child processes answer, in any order, however many of the children die."""

import contextlib
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import TypeAlias

from dicomdl.storage.children import Child, Death

# The number of a message, and its answer or how the child that had it ended.
Answered: TypeAlias = tuple[int, bytes | Death]


def answers(
    start: Callable[[], Child], messages: Sequence[Sequence[bytes]], workers: int
) -> Iterator[Answered]:
    """Yield the number of each message once, with its answer or the death of a child.

    A child that dies is not replaced. The messages that no child is left for have the last death.

    Parameters
    ----------
    start
        Starts a child.
    messages
        The messages, each in parts.
    workers
        The number of children.
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
