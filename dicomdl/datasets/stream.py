"""Streaming: whole stacks one after the other, read ahead by a thread, mixed in a bounded buffer.

For disks and network file systems on which random rows are slow. What is delivered when is decided on row numbers alone
(seed, epoch, share), before anything is read: so a pass resumes by replaying numbers, not pixels, and no order depends on
threads or timing. The epoch's rows, stack by stack, are one line that is cut into ranks x workers pieces of equal length:
each row comes exactly once, shares differ by one row, and a stack that lies across a cut is read by two workers.
"""

import collections
import multiprocessing.context
import warnings
import weakref
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np
import torch

from dicomdl.datasets.readahead import SKIPPED, Ahead, Chunk, Failure, read_chunks
from dicomdl.datasets.samplers import (
    BUFFER,
    STACKS,
    Rows,
    State,
    Uneven,
    check_ranks,
    check_state,
    checked_boundaries,
    checked_count,
    checked_uneven,
    dealt,
    permutation,
    philox,
    ranks,
)
from dicomdl.datasets.transport import errors_leave_whole
from dicomdl.errors import UsageError

_EPOCH, _PASSES, _LOADS = range(3)  # places in the numbers that a stream shares with its workers
_RANDOM: Final = 1024  # random numbers made at a time
_CHUNKS: Final = 3  # one being read, one waiting, one being delivered


class StackedDataset(Protocol):
    """What a stream reads: a map-style dataset that says where its stacks begin.

    An optional ``__getitems__(rows)`` reads several rows at once. It may return fewer samples than rows, where the dataset
    skips what it cannot read; the stream then asks again row by row.
    """

    boundaries: Rows
    """(stacks + 1,), ascending from 0 to the length: rows [boundaries[i], boundaries[i + 1]) come from stack i, in file order."""

    def __len__(self) -> int:
        """The number of rows."""

    def __getitem__(self, row: int, /) -> Any:
        """The sample of a row, which depends on (seed, epoch, row) alone; `row` is an `EpochRow`."""


class StackStream(torch.utils.data.IterableDataset[Any]):
    """The samples of a dataset, stack by stack, for ``DataLoader(stream, batch_size=..., num_workers=...)``.

    Parameters
    ----------
    dataset
        A FrameDataset, VolumeDataset, PatchDataset or other `StackedDataset`.
    shuffle
        Stacks in random order, samples mixed by the buffer; else as they lie, each worker its part.
    shuffle_buffer
        Samples that wait to be drawn at random, a worker: its memory is (shuffle_buffer + read_ahead) samples at most. Where every
        stack is one row, as for volumes, the order of stacks is all there is to shuffle, and the buffer is not used.
    read_ahead
        Samples that a thread reads while others are delivered; 0 reads when asked, without a thread.
    seed
        An integer from 0.
    uneven
        When ranks x workers do not divide the rows: "keep" delivers each row exactly once; "drop" and "pad" make all shares
        equal, so that all ranks have the same number of batches (see `RowSampler`).
    rank, world_size
        By default those of torch.distributed when it is initialised, else 0 and 1.

    Notes
    -----
    Call `set_epoch` before every pass: it reaches persistent workers too. Without it each pass has the same order, which is told
    by a warning (unlike a sampler, a stream in a worker cannot know how many passes there were).

    A sample that cannot be read raises its error in its place of the order; the samples after it still come. `drop_last` of a
    DataLoader leaves out up to batch_size - 1 samples of every worker.

    There is no `len`: with workers, a DataLoader would conclude fewer batches than come. See `number_of_batches`.

    Under torchdata's StatefulDataLoader resuming needs nothing else. With a plain DataLoader take
    ``stream.state_dict(loader, batches_done)`` and load it into the stream before the next loader is made.

    Raises
    ------
    UsageError
        Options or boundaries that do not fit.
    """

    def __init__(
        self,
        dataset: StackedDataset,
        *,
        shuffle: bool = True,
        shuffle_buffer: int = 64,
        read_ahead: int = 24,
        seed: int = 0,
        uneven: Uneven = "keep",
        rank: int | None = None,
        world_size: int | None = None,
    ) -> None:
        checked_boundaries(dataset)
        self.dataset = dataset
        self.shuffle = bool(shuffle)
        self.shuffle_buffer = checked_count("shuffle_buffer", shuffle_buffer, 0)
        self.read_ahead = checked_count("read_ahead", read_ahead, 0)
        self.seed = checked_count("seed", seed, 0)
        self.uneven = checked_uneven(uneven)
        self.rank, self.world_size = ranks(rank, world_size)
        self._found_ranks = rank is None
        self._shared = _shared([0, 0, 0])
        self._loads = 0
        self._resume: _Resume | None = None

    # --- epochs -------------------------------------------------------------------------------------------------------

    @property
    def epoch(self) -> int:
        """The epoch of the present or next pass."""
        return int(self._shared[_EPOCH])

    def set_epoch(self, epoch: int) -> None:
        """What the next pass delivers, in this process and in all its workers; a loaded position stays when it is of this epoch."""
        epoch = checked_count("epoch", epoch, 0)
        if self._resume is not None and (epoch != self._resume.epoch or self._shared[_PASSES] > 0):
            self._resume = None
        self._shared[_EPOCH] = epoch
        self._shared[_PASSES] = 0

    def __iter__(self) -> "_StackIterator":
        info = torch.utils.data.get_worker_info()
        worker, workers = (info.id, info.num_workers) if info is not None else (0, 1)
        share, done, refusal = worker, 0, None
        try:
            share, done = self._resumed(worker, workers)
        except UsageError as error:  # raised here, in a persistent worker, it would end the worker and its words with it
            refusal = error
        return _StackIterator(self, _Place(self.epoch, share, workers, done), worker, refusal)

    def _resumed(self, worker: int, workers: int) -> tuple[int, int]:
        """(share, done) of a worker's next pass."""
        if self._found_ranks:
            check_ranks(self.world_size)
        if self._loads != self._shared[_LOADS]:
            raise UsageError("load_state_dict was called after the workers of this DataLoader had started: make a new DataLoader")
        if self._resume is not None and self._resume.epoch == self.epoch:
            return self._resume.of(worker, workers)
        return worker, 0

    def _begin(self, worker: int) -> None:
        """A pass delivers its first sample."""
        if self._resume is not None:
            self._resume.use(worker)
        if worker == 0:
            self._shared[_PASSES] += 1
            if self.shuffle and self._shared[_PASSES] > 1:
                warnings.warn(f"epoch {self.epoch} again: call set_epoch before every pass, or all have the same order", stacklevel=3)

    # --- what a share is ----------------------------------------------------------------------------------------------

    def _ends(self, share: int, workers: int) -> tuple[int, int]:
        """Where a worker's share of the epoch's line of rows begins and ends; beyond the line it begins again."""
        shares, number, rows = self.world_size * workers, self.rank * workers + share, len(self.dataset)
        if self.uneven == "keep":
            return rows * number // shares, rows * (number + 1) // shares
        length = dealt(rows, shares, self.uneven) // shares
        return length * number, length * (number + 1)

    def _share(self, epoch: int, share: int, workers: int) -> "_Share":
        boundaries = checked_boundaries(self.dataset)
        stacks = len(boundaries) - 1
        order = permutation(stacks, self.seed, epoch, STACKS) if self.shuffle else np.arange(stacks)
        return _Share.cut(boundaries, order, *self._ends(share, workers))

    def _draws(self, count: int, place: "_Place") -> "_Draws":
        lengths = np.diff(self.dataset.boundaries)
        mixes = self.shuffle and lengths.max(initial=0) > 1
        number = self.rank * place.workers + place.share
        draws = _Draws(count, max(1, self.shuffle_buffer) if mixes else 1, philox(self.seed, place.epoch, BUFFER, number))
        for _ in range(min(place.done, count)):
            draws.take()
        return draws

    def number_of_batches(self, loader: "torch.utils.data.DataLoader[Any]") -> int:
        """How many batches a whole epoch has on this rank, which depends on the loader's workers, batch_size and drop_last."""
        return sum(_batches(self._length(share, loader), 0, loader) for share in range(max(1, loader.num_workers)))

    def _length(self, share: int, loader: "torch.utils.data.DataLoader[Any]") -> int:
        first, last = self._ends(share, max(1, loader.num_workers))
        return last - first

    # --- resuming -----------------------------------------------------------------------------------------------------

    def state_dict(self, loader: "torch.utils.data.DataLoader[Any] | None" = None, batches_done: int = 0) -> State:
        """Where the present pass of a plain DataLoader is: a dict of numbers and words.

        Parameters
        ----------
        loader
            The loader whose pass it is. Without it the state is the epoch alone, which is all that StatefulDataLoader needs
            beside the states of the iterators.
        batches_done
            Batches received since the pass began, as ``enumerate(loader, 1)`` counts them.
        """
        state = {**self._identity(), "epoch": self.epoch, "workers": None}
        if loader is None:
            return state
        if loader.dataset is not self or not getattr(loader, "in_order", True):
            raise UsageError("expected a DataLoader of this stream that delivers in order")
        workers = max(1, loader.num_workers)
        places = [(share, 0) for share in range(workers)]
        if self._resume is not None and self._resume.epoch == self.epoch and self._shared[_PASSES] <= 1:
            places = self._resume.places
        lengths = [self._length(share, loader) for share, _ in places]
        return {**state, "workers": _after(places, lengths, checked_count("batches_done", batches_done, 0), loader)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Let the next pass go on where the state was taken; the passes after it are whole.

        Raises
        ------
        UsageError
            The state is of another order (seed, rows, options, rank), or not one of ours.
        """
        check_state(state, self._identity(), "epoch")
        self._resume = None
        self.set_epoch(state["epoch"])
        if state.get("workers") is not None:  # not in a worker of StatefulDataLoader
            self._resume = _Resume.of_state(state["epoch"], state["workers"])
            self._shared[_LOADS] += 1
            self._loads = int(self._shared[_LOADS])

    def _identity(self) -> State:
        names = ("seed", "shuffle", "shuffle_buffer", "uneven", "rank", "world_size")
        counts = {"rows": len(self.dataset), "stacks": len(self.dataset.boundaries) - 1}
        return {"kind": "StackStream", **{name: getattr(self, name) for name in names}, **counts}

    # --- pickling -----------------------------------------------------------------------------------------------------

    def __getstate__(self) -> dict[str, Any]:
        if self._found_ranks:
            check_ranks(self.world_size)
        state = self.__dict__.copy()
        if multiprocessing.context.get_spawning_popen() is None:  # a copy for keeps, not for a worker: it shares nothing
            state["_shared"] = self._shared.tolist()
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if not isinstance(self._shared, torch.Tensor):
            self._shared = _shared(state["_shared"])

    def __repr__(self) -> str:
        return f"StackStream({self.dataset!r}, seed={self.seed}, epoch={self.epoch})"


class _StackIterator(Iterator[Any]):
    """One worker's pass. Not a generator: those end for good with the first error."""

    def __init__(self, stream: StackStream, place: "_Place", worker: int, refusal: UsageError | None) -> None:
        self._stream, self._worker, self._refusal = stream, worker, refusal
        self._began = False
        self._set(place)

    def _set(self, place: "_Place") -> None:
        self._place = place
        first, last = self._stream._ends(place.share, place.workers)
        self._count = last - first
        self._draws = self._stream._draws(self._count, place)
        self._ready: dict[int, Any] = {}
        self._chunks: Iterator[Chunk] | None = None
        self._stop: Any = None

    @errors_leave_whole
    def __next__(self) -> Any:
        if self._refusal is not None:
            raise self._refusal
        if not self._began:
            self._began = True
            self._stream._begin(self._worker)
        while self._draws.done < self._count:
            outcome = self._outcome()
            if isinstance(outcome, Failure):
                raise outcome.error
            if outcome is not SKIPPED:
                return outcome
        self.close()
        raise StopIteration

    def _outcome(self) -> Any:
        if self._chunks is None:
            self._chunks = self._read()
        position = self._draws.take()
        while position not in self._ready:
            chunk = next(self._chunks, None)
            if chunk is None:
                raise RuntimeError("the stream was closed, or its reader ended before its rows: they are not delivered")
            self._ready.update(chunk)
        return self._ready.pop(position)

    def _read(self) -> Iterator[Chunk]:
        stream, place = self._stream, self._place
        share = stream._share(place.epoch, place.share, place.workers)
        size = max(1, stream.read_ahead // _CHUNKS)
        chunks = read_chunks(stream.dataset, share.rows, place.epoch, self._draws.to_read(size))
        if stream.read_ahead == 0:
            return chunks
        ahead = Ahead()
        self._stop = weakref.finalize(self, ahead.stop)  # the thread knows the queue, not the iterator, which so may go
        ahead.start(chunks)
        return ahead

    def close(self) -> None:
        """End the reading thread and let go of what it read; happens by itself at the end and when the iterator goes."""
        if self._stop is not None:
            self._stop()
        self._chunks, self._ready = iter(()), {}

    def state_dict(self) -> State:
        """Where this worker's pass is, counting what was delivered, not what was read ahead."""
        place = self._place
        return {
            **self._stream._identity(),
            "epoch": place.epoch,
            "share": place.share,
            "workers": place.workers,
            "done": self._draws.done,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where the state was taken; UsageError when it is of another stream or number of workers."""
        identity = {**self._stream._identity(), "share": self._place.share, "workers": self._place.workers}
        check_state(state, identity, "epoch", "done")
        self.close()
        self._set(_Place(state["epoch"], state["share"], state["workers"], state["done"]))


# --- which rows, in which order ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Place:
    """How far which share of an epoch is."""

    epoch: int
    share: int
    workers: int
    done: int


@dataclass(frozen=True, slots=True)
class _Share:
    """A piece of the epoch's line of rows: parts of stacks, each from a first row on."""

    firsts: Rows  # (parts,)
    ends: Rows  # (parts,), positions in the share at which the parts end

    @classmethod
    def cut(cls, boundaries: Rows, order: Rows, first: int, last: int) -> "_Share":
        """Positions [first, last) of the stacks laid end to end in `order`, and again from the beginning after the end."""
        ends = np.cumsum(np.diff(boundaries)[order])
        rows, pieces = int(boundaries[-1]), []
        while first < last:
            begin, length = first % rows, min(last - first, rows - first % rows)
            first_stack, last_stack = np.searchsorted(ends, [begin, begin + length - 1], side="right").tolist()
            inner = slice(first_stack, last_stack + 1)
            part_ends = np.minimum(ends[inner], begin + length)
            part_begins = np.maximum(np.concatenate([[begin], ends[inner][:-1]]), begin)
            stack_begins = ends[inner] - np.diff(boundaries)[order[inner]]
            pieces.append((boundaries[order[inner]] + part_begins - stack_begins, part_ends - part_begins))
            first += length
        firsts, lengths = (np.concatenate(columns) for columns in zip(*pieces, strict=True)) if pieces else (np.zeros(0, np.int64),) * 2
        return cls(firsts, np.cumsum(lengths))

    def rows(self, positions: Sequence[int]) -> list[int]:
        """The rows at positions of the share."""
        parts = np.searchsorted(self.ends, positions, side="right")
        found: list[int] = (self.firsts[parts] + positions - np.concatenate([[0], self.ends])[parts]).tolist()
        return found


class _Draws:
    """Which position of a share is delivered next: a random one of the first `buffer` that were not yet.

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


# --- resuming under a plain DataLoader --------------------------------------------------------------------------------


@dataclass(slots=True)
class _Resume:
    """Which share each worker takes in the next pass and how much of it is done; each worker uses its place once."""

    epoch: int
    places: list[tuple[int, int]]
    unused: torch.Tensor  # (workers,) ones and zeros in shared memory: the workers of a later pass must begin at the beginning

    @classmethod
    def of_state(cls, epoch: int, workers: Any) -> "_Resume":
        """From the `workers` of a state: [[share, done], ...]."""
        try:
            places = [(checked_count("share", share, 0), checked_count("done", done, 0)) for share, done in workers]
        except (TypeError, ValueError) as error:
            raise UsageError("not a state of StackStream: `workers` is not a list of [share, done]") from error
        if sorted(share for share, _ in places) != list(range(len(places))):
            raise UsageError("not a state of StackStream: `workers` do not take each share once")
        return cls(epoch, places, _shared([1] * len(places)))

    def of(self, worker: int, workers: int) -> tuple[int, int]:
        """(share, done) of a worker."""
        if not self.unused.any():
            return worker, 0
        if workers != len(self.places):
            found = len(self.places)
            raise UsageError(f"the state is of a pass with {found} worker(s), the loader has {workers}: give it the same", workers=found)
        return self.places[worker] if self.unused[worker] else (worker, 0)

    def use(self, worker: int) -> None:
        """The worker's place is taken."""
        if worker < len(self.places):
            self.unused[worker] = 0


def _batches(length: int, done: int, loader: "torch.utils.data.DataLoader[Any]") -> int:
    """Batches that a worker still gives of its share."""
    size, left = loader.batch_size or 1, max(0, length - done)
    return left // size if loader.drop_last else -(-left // size)


def _after(
    places: Sequence[tuple[int, int]], lengths: Sequence[int], batches_done: int, loader: "torch.utils.data.DataLoader[Any]"
) -> list[list[int]]:
    """[share, done] of each worker of the next loader, when this one has delivered so many batches.

    A DataLoader takes batches from its workers in turn, passing over those that have ended. The next loader begins with its
    worker 0 again, which therefore takes the share whose turn it is.
    """
    turns = collections.deque(
        [share, done, length, _batches(length, done, loader)] for (share, done), length in zip(places, lengths, strict=True)
    )
    total = sum(turn[3] for turn in turns)
    if batches_done > total:
        raise UsageError(f"batches_done={batches_done}: this pass has {total} batches", batches=total)
    while batches_done:
        turn = turns[0]
        if turn[3]:
            turn[1] = min(turn[1] + (loader.batch_size or 1), turn[2])
            turn[3] -= 1
            batches_done -= 1
        turns.rotate(-1)
    return [[share, done if left else length] for share, done, length, left in turns]


def _shared(numbers: Sequence[int]) -> torch.Tensor:
    """Numbers in memory that a worker of any start method shares with its parent."""
    made: torch.Tensor = torch.tensor(numbers, dtype=torch.int64).share_memory_()  # type: ignore[no-untyped-call]
    return made
