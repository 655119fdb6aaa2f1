"""The order of a stream, in row numbers alone: shares, draws from the buffer, and resuming."""

import collections
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch

from dicomdl.datasets._permutations import Rows, checked_count
from dicomdl.errors import UsageError
from dicomdl.index.text import counted

# Indices into the numbers that a stream shares with its workers.
EPOCH, PASSES, LOADS, IS_SET = range(4)
# Random numbers computed at a time.
_RANDOM: Final = 1024
# Chunks in memory: one being read, one waiting, one being delivered.
CHUNKS: Final = 3


@dataclass(frozen=True, slots=True)
class Position:
    """A position in an epoch: `done` samples of one of the shares of `workers` workers."""

    epoch: int
    share: int
    workers: int
    done: int


@dataclass(frozen=True, slots=True)
class Share:
    """A piece of the sequence of an epoch's rows: parts of stacks with consecutive rows.

    Attributes
    ----------
    firsts
        (parts,) the first row of each part.
    ends
        (parts,) the end of each part, a position in the share.
    """

    firsts: Rows
    ends: Rows

    @classmethod
    def cut(cls, boundaries: Rows, order: Rows, first: int, last: int) -> "Share":
        """Cut positions [first, last) out of the sequence of all stacks in `order`.

        Positions beyond the sequence continue at its beginning.
        """
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
        """Return the rows at positions of the share."""
        parts = np.searchsorted(self.ends, positions, side="right")
        rows: list[int] = (
            self.firsts[parts] + positions - np.concatenate([[0], self.ends])[parts]
        ).tolist()
        return rows


class Draws:
    """The order of delivery of a share: a random one of the next `buffer` positions each time.

    Parameters
    ----------
    count
        The number of positions in the share.
    buffer
        The number of positions to draw from; 1 delivers them in ascending order.
    random
        A bit generator, of which each draw consumes 64 bits.
    """

    def __init__(self, count: int, buffer: int, random: np.random.Philox) -> None:
        self.waiting = list(range(min(buffer, count)))
        self.done = 0
        self._next, self._count = len(self.waiting), count
        self._random = random
        self._bits: Iterator[int] = iter(())

    def take(self) -> int:
        """Return the next position; raise an IndexError when none is left."""
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
        """Return all positions still to deliver, ascending, `size` at a time."""
        waiting, first, count = sorted(self.waiting), self._next, self._count

        def chunks() -> Iterator[list[int]]:
            """Yield the waiting positions, then the others."""
            for begin in range(0, len(waiting), size):
                yield waiting[begin : begin + size]
            for begin in range(first, count, size):
                yield list(range(begin, min(begin + size, count)))

        return chunks()


@dataclass(slots=True)
class Resume:
    """The shares of the workers in the next pass, and the progress in each; used once per worker.

    Attributes
    ----------
    epoch
        The epoch of the next pass.
    positions
        (share, done) per worker.
    unused
        (workers,) ones and zeros in shared memory. A worker of a later pass finds 0 and begins at
        the beginning.
    """

    epoch: int
    positions: list[tuple[int, int]]
    unused: torch.Tensor

    @classmethod
    def of_state(cls, epoch: int, workers: Any) -> "Resume":
        """Return the value for the `workers` of a state: [[share, done], ...]."""
        try:
            positions = [
                (checked_count("share", share, 0), checked_count("done", done, 0))
                for share, done in workers
            ]
        except (TypeError, ValueError) as error:
            raise UsageError(
                "not a state of StackStream: `workers` is not a list of [share, done]"
            ) from error
        if sorted(share for share, _ in positions) != list(range(len(positions))):
            raise UsageError("not a state of StackStream: `workers` do not take each share once")
        return cls(epoch, positions, shared_batches([1] * len(positions)))

    def of(self, worker: int, workers: int) -> tuple[int, int]:
        """Return (share, done) of a worker."""
        if not self.unused.any():
            return worker, 0
        if workers != len(self.positions):
            expected = len(self.positions)
            raise UsageError(
                f"the state is of a pass with {counted(expected, 'workers')}, the loader has "
                f"{workers}: give it the same",
                workers=expected,
            )
        return self.positions[worker] if self.unused[worker] else (worker, 0)

    def use(self, worker: int) -> None:
        """Mark the position of a worker as used."""
        if worker < len(self.positions):
            self.unused[worker] = 0


def batches(length: int, done: int, loader: "torch.utils.data.DataLoader[Any]") -> int:
    """Return the number of batches that a worker still delivers of its share."""
    size, left = loader.batch_size or 1, max(0, length - done)
    return left // size if loader.drop_last else -(-left // size)


def state_after(
    positions: Sequence[tuple[int, int]],
    lengths: Sequence[int],
    batches_done: int,
    loader: "torch.utils.data.DataLoader[Any]",
) -> list[list[int]]:
    """Return [share, done] per worker of the next loader, after this one delivered some batches.

    A DataLoader takes batches from its workers in turn and skips workers that have ended. The next
    loader begins with its worker 0, which therefore takes the share whose turn it is.
    """
    turns = collections.deque(
        [share, done, length, batches(length, done, loader)]
        for (share, done), length in zip(positions, lengths, strict=True)
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
    """Return numbers in memory that a worker of any start method shares with its parent."""
    tensor = torch.tensor(numbers, dtype=torch.int64)
    shared: torch.Tensor = tensor.share_memory_()  # type: ignore[no-untyped-call]
    return shared
