"""datasets.stream_order"""

import collections
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch

from dicomdl.datasets._permutations import Rows, checked_count
from dicomdl.errors import UsageError

EPOCH, PASSES, LOADS = range(3)  # places in the numbers that a stream shares with its workers
_RANDOM: Final = 1024  # random numbers made at a time
CHUNKS: Final = 3  # one being read, one waiting, one being delivered


@dataclass(frozen=True, slots=True)
class Position:
    """How far which share of an epoch is."""

    epoch: int
    share: int
    workers: int
    done: int


@dataclass(frozen=True, slots=True)
class Share:
    """A piece of the epoch's line of rows: parts of stacks, each from a first row on."""

    firsts: Rows  # (parts,)
    ends: Rows  # (parts,), positions in the share at which the parts end

    @classmethod
    def cut(cls, boundaries: Rows, order: Rows, first: int, last: int) -> "Share":
        """Positions [first, last) of the stacks laid end to end in `order`, and again from the beginning after the end."""
        ends = np.cumsum(np.diff(boundaries)[order])
        rows, pieces = int(boundaries[-1]), []
        while first < last:
            begin, length = first % rows, min(last - first, rows - first % rows)
            first_stack, last_stack = np.searchsorted(
                ends, [begin, begin + length - 1], side="right"
            ).tolist()
            inner = slice(first_stack, last_stack + 1)
            part_ends = np.minimum(ends[inner], begin + length)
            part_begins = np.maximum(np.concatenate([[begin], ends[inner][:-1]]), begin)
            stack_begins = ends[inner] - np.diff(boundaries)[order[inner]]
            pieces.append(
                (boundaries[order[inner]] + part_begins - stack_begins, part_ends - part_begins)
            )
            first += length
        firsts, lengths = (
            (np.concatenate(columns) for columns in zip(*pieces, strict=True))
            if pieces
            else (np.zeros(0, np.int64),) * 2
        )
        return cls(firsts, np.cumsum(lengths))

    def rows(self, positions: Sequence[int]) -> list[int]:
        """The rows at positions of the share."""
        parts = np.searchsorted(self.ends, positions, side="right")
        found: list[int] = (
            self.firsts[parts] + positions - np.concatenate([[0], self.ends])[parts]
        ).tolist()
        return found


class Draws:
    """Which position of a share is delivered next.

    A random one of the first `buffer` that were not yet.

    Parameters
    ----------
    count
        Positions of the share.
    buffer
        From 1, which delivers them as they lie.
    random
        Used up 64 bits a draw.
    """

    def __init__(self, count: int, buffer: int, random: np.random.Philox) -> None:
        self.waiting = list(range(min(buffer, count)))
        self.done = 0
        self._next, self._count = len(self.waiting), count
        self._random = random
        self._bits: Iterator[int] = iter(())

    def take(self) -> int:
        """The next position; IndexError when none is left."""
        bits = next(self._bits, None)
        if bits is None:
            self._bits = iter((self._random.random_raw(_RANDOM) >> np.uint64(32)).tolist())
            bits = next(self._bits)
        slot = bits * len(self.waiting) >> 32
        position = self.waiting[slot]
        if self._next < self._count:
            self.waiting[slot] = self._next
            self._next += 1
        else:
            self.waiting[slot] = self.waiting[-1]
            self.waiting.pop()
        self.done += 1
        return position

    def to_read(self, size: int) -> Iterator[list[int]]:
        """All positions still to deliver, ascending, `size` at a time."""
        waiting, first, count = sorted(self.waiting), self._next, self._count

        def chunks() -> Iterator[list[int]]:
            for begin in range(0, len(waiting), size):
                yield waiting[begin : begin + size]
            for begin in range(first, count, size):
                yield list(range(begin, min(begin + size, count)))

        return chunks()


@dataclass(slots=True)
class Resume:
    """Which share each worker takes in the next pass and how much of it is done.

    Each worker uses its place once.
    """

    epoch: int
    places: list[tuple[int, int]]
    # (workers,) ones and zeros in shared memory: the workers of a later pass must begin at
    # the beginning
    unused: torch.Tensor

    @classmethod
    def of_state(cls, epoch: int, workers: Any) -> "Resume":
        """From the `workers` of a state: [[share, done], ...]."""
        try:
            places = [
                (checked_count("share", share, 0), checked_count("done", done, 0))
                for share, done in workers
            ]
        except (TypeError, ValueError) as error:
            raise UsageError(
                "not a state of StackStream: `workers` is not a list of [share, done]"
            ) from error
        if sorted(share for share, _ in places) != list(range(len(places))):
            raise UsageError("not a state of StackStream: `workers` do not take each share once")
        return cls(epoch, places, shared_batches([1] * len(places)))

    def of(self, worker: int, workers: int) -> tuple[int, int]:
        """(share, done) of a worker."""
        if not self.unused.any():
            return worker, 0
        if workers != len(self.places):
            found = len(self.places)
            raise UsageError(
                f"the state is of a pass with {found} worker(s), the loader has {workers}: give it the same",
                workers=found,
            )
        return self.places[worker] if self.unused[worker] else (worker, 0)

    def use(self, worker: int) -> None:
        """The worker's place is taken."""
        if worker < len(self.places):
            self.unused[worker] = 0


def batches(length: int, done: int, loader: "torch.utils.data.DataLoader[Any]") -> int:
    """Batches that a worker still gives of its share."""
    size, left = loader.batch_size or 1, max(0, length - done)
    return left // size if loader.drop_last else -(-left // size)


def state_after(
    places: Sequence[tuple[int, int]],
    lengths: Sequence[int],
    batches_done: int,
    loader: "torch.utils.data.DataLoader[Any]",
) -> list[list[int]]:
    """[share, done] of each worker of the next loader, when this one has delivered so many batches.

    A DataLoader takes batches from its workers in turn, passing over those that have ended. The
    next loader begins with its worker 0 again, which therefore takes the share whose turn it is.
    """
    turns = collections.deque(
        [share, done, length, batches(length, done, loader)]
        for (share, done), length in zip(places, lengths, strict=True)
    )
    total = sum(turn[3] for turn in turns)
    if batches_done > total:
        raise UsageError(
            f"batches_done={batches_done}: this pass has {total} batches", batches=total
        )
    while batches_done:
        turn = turns[0]
        if turn[3]:
            turn[1] = min(turn[1] + (loader.batch_size or 1), turn[2])
            turn[3] -= 1
            batches_done -= 1
        turns.rotate(-1)
    return [[share, done if left else length] for share, done, length, left in turns]


def shared_batches(numbers: Sequence[int]) -> torch.Tensor:
    """Numbers in memory that a worker of any start method shares with its parent."""
    made: torch.Tensor = torch.tensor(numbers, dtype=torch.int64).share_memory_()  # type: ignore[no-untyped-call]
    return made
