"""Streaming: whole stacks one after the other, read ahead by a thread, mixed in a bounded buffer.

For disks and network file systems on which random rows are slow. What is delivered when is decided
on row numbers alone (seed, epoch, share), before anything is read: so a pass resumes by replaying
numbers, not pixels, and no order depends on threads or timing. The epoch's rows, stack by stack,
are one line that is cut into ranks x workers pieces of equal length: each row comes exactly once,
shares differ by one row, and a stack that lies across a cut is read by two workers.
"""

import multiprocessing.context
import warnings
import weakref
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import numpy as np
import torch

from dicomdl.datasets._permutations import (
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
from dicomdl.datasets._readahead import SKIPPED, Ahead, Chunk, Failure, read_chunks
from dicomdl.datasets._stream_order import (
    CHUNKS,
    EPOCH,
    LOADS,
    PASSES,
    Draws,
    Position,
    Resume,
    Share,
    batches,
    shared_batches,
    state_after,
)
from dicomdl.datasets.worker import errors_leave_whole
from dicomdl.errors import UsageError


class StackedDataset(Protocol):
    """What a stream reads: a map-style dataset that says where its stacks begin.

    An optional ``__getitems__(rows)`` reads several rows at once. It may return fewer samples than
    rows, where the dataset skips what it cannot read; the stream then asks again row by row.
    """

    boundaries: Rows
    """(stacks + 1,), ascending from 0 to the length: rows [boundaries[i], boundaries[i + 1]) come from stack i, in file order."""

    def __len__(self) -> int:
        """The number of rows."""

    def __getitem__(self, row: int, /) -> Any:
        """The sample of a row, which depends on (seed, epoch, row) alone.

        `row` is an `EpochRow`.
        """


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
        self.shared_batches = shared_batches([0, 0, 0])
        self._loads = 0
        self._resume: Resume | None = None

    # --- epochs -----------------------------------------------------------------------------------

    @property
    def epoch(self) -> int:
        """The epoch of the present or next pass."""
        return int(self.shared_batches[EPOCH])

    def set_epoch(self, epoch: int) -> None:
        """What the next pass delivers, in this process and in all its workers.

        A loaded position stays when it is of this epoch.
        """
        epoch = checked_count("epoch", epoch, 0)
        if self._resume is not None and (
            epoch != self._resume.epoch or self.shared_batches[PASSES] > 0
        ):
            self._resume = None
        self.shared_batches[EPOCH] = epoch
        self.shared_batches[PASSES] = 0

    def __iter__(self) -> "_StackIterator":
        info = torch.utils.data.get_worker_info()
        worker, workers = (info.id, info.num_workers) if info is not None else (0, 1)
        share, done, refusal = worker, 0, None
        try:
            share, done = self._resumed(worker, workers)
        except UsageError as error:
            # raised here, in a persistent worker, it would end the worker and its
            # words with it
            refusal = error
        return _StackIterator(self, Position(self.epoch, share, workers, done), worker, refusal)

    def _resumed(self, worker: int, workers: int) -> tuple[int, int]:
        """(share, done) of a worker's next pass."""
        if self._found_ranks:
            check_ranks(self.world_size)
        if self._loads != self.shared_batches[LOADS]:
            raise UsageError(
                "load_state_dict was called after the workers of this DataLoader had started: make a new DataLoader"
            )
        if self._resume is not None and self._resume.epoch == self.epoch:
            return self._resume.of(worker, workers)
        return worker, 0

    def _begin(self, worker: int) -> None:
        """A pass delivers its first sample."""
        if self._resume is not None:
            self._resume.use(worker)
        if worker == 0:
            self.shared_batches[PASSES] += 1
            if self.shuffle and self.shared_batches[PASSES] > 1:
                warnings.warn(
                    f"epoch {self.epoch} again: call set_epoch before every pass, or all have the same order",
                    stacklevel=3,
                )

    # --- what a share is --------------------------------------------------------------------------

    def _ends(self, share: int, workers: int) -> tuple[int, int]:
        """Where a worker's share of the epoch's line of rows begins and ends.

        Beyond the line it begins again.
        """
        shares, number, rows = (
            self.world_size * workers,
            self.rank * workers + share,
            len(self.dataset),
        )
        if self.uneven == "keep":
            return rows * number // shares, rows * (number + 1) // shares
        length = dealt(rows, shares, self.uneven) // shares
        return length * number, length * (number + 1)

    def _share(self, epoch: int, share: int, workers: int) -> "Share":
        boundaries = checked_boundaries(self.dataset)
        stacks = len(boundaries) - 1
        order = permutation(stacks, self.seed, epoch, STACKS) if self.shuffle else np.arange(stacks)
        return Share.cut(boundaries, order, *self._ends(share, workers))

    def _draws(self, count: int, place: "Position") -> "Draws":
        lengths = np.diff(self.dataset.boundaries)
        mixes = self.shuffle and lengths.max(initial=0) > 1
        number = self.rank * place.workers + place.share
        draws = Draws(
            count,
            max(1, self.shuffle_buffer) if mixes else 1,
            philox(self.seed, place.epoch, BUFFER, number),
        )
        for _ in range(min(place.done, count)):
            draws.take()
        return draws

    def number_of_batches(self, loader: "torch.utils.data.DataLoader[Any]") -> int:
        """How many batches a whole epoch has on this rank, which depends on the loader's workers, batch_size and drop_last."""
        return sum(
            batches(self._length(share, loader), 0, loader)
            for share in range(max(1, loader.num_workers))
        )

    def _length(self, share: int, loader: "torch.utils.data.DataLoader[Any]") -> int:
        first, last = self._ends(share, max(1, loader.num_workers))
        return last - first

    # --- resuming ---------------------------------------------------------------------------------

    def state_dict(
        self, loader: "torch.utils.data.DataLoader[Any] | None" = None, batches_done: int = 0
    ) -> State:
        """Where the present pass of a plain DataLoader is: a dict of numbers and words.

        Parameters
        ----------
        loader
            The loader whose pass it is. Without it the state is the epoch alone, which is all that
            StatefulDataLoader needs beside the states of the iterators.
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
        if (
            self._resume is not None
            and self._resume.epoch == self.epoch
            and self.shared_batches[PASSES] <= 1
        ):
            places = self._resume.places
        lengths = [self._length(share, loader) for share, _ in places]
        return {
            **state,
            "workers": state_after(
                places, lengths, checked_count("batches_done", batches_done, 0), loader
            ),
        }

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
            self._resume = Resume.of_state(state["epoch"], state["workers"])
            self.shared_batches[LOADS] += 1
            self._loads = int(self.shared_batches[LOADS])

    def _identity(self) -> State:
        names = ("seed", "shuffle", "shuffle_buffer", "uneven", "rank", "world_size")
        counts = {"rows": len(self.dataset), "stacks": len(self.dataset.boundaries) - 1}
        return {"kind": "StackStream", **{name: getattr(self, name) for name in names}, **counts}

    # --- pickling ---------------------------------------------------------------------------------

    def __getstate__(self) -> dict[str, Any]:
        if self._found_ranks:
            check_ranks(self.world_size)
        state = self.__dict__.copy()
        # a copy for keeps, not for a worker: it shares nothing
        if multiprocessing.context.get_spawning_popen() is None:
            state["shared_batches"] = self.shared_batches.tolist()
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if not isinstance(self.shared_batches, torch.Tensor):
            self.shared_batches = shared_batches(state["shared_batches"])

    def __repr__(self) -> str:
        return f"StackStream({self.dataset!r}, seed={self.seed}, epoch={self.epoch})"


class _StackIterator(Iterator[Any]):
    """One worker's pass. Not a generator: those end for good with the first error."""

    def __init__(
        self, stream: StackStream, place: "Position", worker: int, refusal: UsageError | None
    ) -> None:
        self._stream, self._worker, self._refusal = stream, worker, refusal
        self._began = False
        self._set(place)

    def _set(self, place: "Position") -> None:
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
                raise RuntimeError(
                    "the stream was closed, or its reader ended before its rows: they are not delivered"
                )
            self._ready.update(chunk)
        return self._ready.pop(position)

    def _read(self) -> Iterator[Chunk]:
        stream, place = self._stream, self._place
        share = stream._share(place.epoch, place.share, place.workers)
        size = max(1, stream.read_ahead // CHUNKS)
        chunks = read_chunks(stream.dataset, share.rows, place.epoch, self._draws.to_read(size))
        if stream.read_ahead == 0:
            return chunks
        ahead = Ahead()
        # the thread knows the queue, not the iterator, which so may go
        self._stop = weakref.finalize(self, ahead.stop)
        ahead.start(chunks)
        return ahead

    def close(self) -> None:
        """End the reading thread and let go of what it read.

        Happens by itself at the end and when the iterator goes.
        """
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
        """Go on where the state was taken.

        UsageError when it is of another stream or number of workers.
        """
        identity = {
            **self._stream._identity(),
            "share": self._place.share,
            "workers": self._place.workers,
        }
        check_state(state, identity, "epoch", "done")
        self.close()
        self._set(Position(state["epoch"], state["share"], state["workers"], state["done"]))
