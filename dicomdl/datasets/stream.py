"""A stream of complete stacks, read ahead by a thread and mixed in a bounded buffer.

It suits disks and network file systems on which random rows are slow. The order depends on (seed,
epoch, share) alone and is determined before anything is read. A pass therefore resumes by replaying
row numbers instead of pixels, and no order depends on threads or timing. The rows of an epoch,
stack by stack, form one sequence that is cut into ranks x workers shares of equal length. Each row
is delivered exactly once, shares differ by one row, and two workers read a stack that a cut
divides.
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
    IS_SET,
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
    """A map-style dataset that declares the first row of each stack.

    An optional ``__getitems__(rows)`` reads several rows at once. It may return fewer samples than
    rows if the dataset skips unreadable ones; the stream then reads row by row.
    """

    boundaries: Rows
    """(stacks + 1,), ascending from 0 to the length.

    Rows [boundaries[i], boundaries[i + 1]) come from stack i, in file order.
    """

    def __len__(self) -> int:
        """Return the number of rows."""

    def __getitem__(self, row: int, /) -> Any:
        """Return the sample of a row, an `EpochRow` after `StackStream.set_epoch`.

        It depends on (seed, epoch, row) alone.
        """


class StackStream(torch.utils.data.IterableDataset[Any]):
    """The samples of a dataset, stack by stack, as an iterable dataset for a DataLoader.

    Parameters
    ----------
    dataset
        A FrameDataset, VolumeDataset, PatchDataset or other `StackedDataset`.
    shuffle
        True takes stacks in random order and mixes samples in the buffer. False takes both in
        ascending order; each worker then delivers its part of the order.
    shuffle_buffer
        The number of samples per worker that wait for a random draw. A worker holds at most
        shuffle_buffer + read_ahead samples. If every stack is one row, as for volumes, the order of
        stacks shuffles all rows, and the buffer is not used.
    read_ahead
        The number of samples that a thread reads while others are delivered. 0 reads on demand,
        without a thread.
    seed
        An integer from 0.
    uneven
        The treatment of rows that ranks x workers do not divide: "keep" delivers each row exactly
        once; "drop" and "pad" make all shares equal, so that all ranks have the same number of
        batches (see `RowSampler`).
    rank, world_size
        By default those of torch.distributed if it is initialised, else 0 and 1.

    Attributes
    ----------
    epoch
        The epoch of the present or next pass.

    Raises
    ------
    UsageError
        An option has an unknown value, or `dataset` has no valid `boundaries`.

    Notes
    -----
    Use as ``DataLoader(stream, batch_size=..., num_workers=...)``. Call `set_epoch` before every
    pass; it reaches persistent workers too. Without it each pass has the same order, and a warning
    says so: unlike a sampler, a stream in a worker does not know the number of earlier passes.
    Samples with chance, such as patches, are then drawn anew from torch's seed all the same.

    An unreadable sample raises its error at its position in the order, and the samples after it
    are still delivered. The option `drop_last` of a DataLoader leaves out up to batch_size - 1
    samples of every worker.

    The stream has no `len`: with workers, a DataLoader would derive too few batches from it. See
    `number_of_batches`.

    Under torchdata's StatefulDataLoader, resuming needs nothing else. With a plain DataLoader, take
    ``stream.state_dict(loader, batches_done)`` and load it into the stream before the next loader
    is created.
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
        if isinstance(dataset, str) or not hasattr(dataset, "boundaries"):
            raise UsageError(
                "StackStream takes a dataset, such as StackStream(dicomdl.FrameDataset(index)), or "
                f"another one with `boundaries`; not a {type(dataset).__name__}"
            )
        checked_boundaries(dataset)
        self.dataset = dataset
        self.shuffle = bool(shuffle)
        self.shuffle_buffer = checked_count("shuffle_buffer", shuffle_buffer, 0)
        self.read_ahead = checked_count("read_ahead", read_ahead, 0)
        self.seed = checked_count("seed", seed, 0)
        self.uneven = checked_uneven(uneven)
        self.rank, self.world_size = ranks(rank, world_size)
        self._found_ranks = rank is None
        self.shared_batches = shared_batches([0, 0, 0, 0])
        self._loads = 0
        self._resume: Resume | None = None

    # --- epochs -----------------------------------------------------------------------------------

    @property
    def epoch(self) -> int:
        """The epoch of the present or next pass."""
        return int(self.shared_batches[EPOCH])

    def set_epoch(self, epoch: int) -> None:
        """Set the `epoch` of the next pass, from 0, in this process and in all its workers.

        A loaded position of this epoch is preserved.
        """
        self._begin_at(checked_count("epoch", epoch, 0), is_set=True)

    def _begin_at(self, epoch: int, is_set: bool) -> None:
        """Set the epoch of the next pass, which its rows carry if the user has set it."""
        if self._resume is not None and (
            epoch != self._resume.epoch or self.shared_batches[PASSES] > 0
        ):
            self._resume = None
        self.shared_batches[EPOCH] = epoch
        self.shared_batches[PASSES] = 0
        self.shared_batches[IS_SET] = is_set

    def __iter__(self) -> "_StackIterator":
        info = torch.utils.data.get_worker_info()
        worker, workers = (info.id, info.num_workers) if info is not None else (0, 1)
        share, done, refusal = worker, 0, None
        try:
            share, done = self._resumed(worker, workers)
        except UsageError as error:
            # Raised here, the error would end a persistent worker and lose its message. The
            # iterator raises it instead.
            refusal = error
        return _StackIterator(self, Position(self.epoch, share, workers, done), worker, refusal)

    def _resumed(self, worker: int, workers: int) -> tuple[int, int]:
        """Return (share, done) for a worker's next pass."""
        if self._found_ranks:
            check_ranks(self.world_size)
        if self._loads != self.shared_batches[LOADS]:
            raise UsageError(
                "load_state_dict was called after the workers of this DataLoader had started: make "
                "a new DataLoader"
            )
        if self._resume is not None and self._resume.epoch == self.epoch:
            return self._resume.of(worker, workers)
        return worker, 0

    def _begin(self, worker: int) -> None:
        """Count the pass of a worker that delivers its first sample."""
        if self._resume is not None:
            self._resume.use(worker)
        if worker == 0:
            self.shared_batches[PASSES] += 1
            if self.shuffle and self.shared_batches[PASSES] > 1:
                warnings.warn(
                    f"epoch {self.epoch} again: call set_epoch before every pass, or all have the "
                    "same order",
                    stacklevel=3,
                )

    # --- shares -----------------------------------------------------------------------------------

    def _ends(self, share: int, workers: int) -> tuple[int, int]:
        """Return [first, last) of a share in the sequence of the epoch's rows.

        Positions beyond the sequence continue at its beginning.
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
        """Return a share of an epoch."""
        boundaries = checked_boundaries(self.dataset)
        stacks = len(boundaries) - 1
        order = permutation(stacks, self.seed, epoch, STACKS) if self.shuffle else np.arange(stacks)
        return Share.cut(boundaries, order, *self._ends(share, workers))

    def _draws(self, count: int, at: "Position") -> "Draws":
        """Return the draws of a share with `count` rows, replayed to a position."""
        lengths = np.diff(self.dataset.boundaries)
        mixes = self.shuffle and lengths.max(initial=0) > 1
        number = self.rank * at.workers + at.share
        draws = Draws(
            count,
            max(1, self.shuffle_buffer) if mixes else 1,
            philox(self.seed, at.epoch, BUFFER, number),
        )
        for _ in range(min(at.done, count)):
            draws.take()
        return draws

    def number_of_batches(self, loader: "torch.utils.data.DataLoader[Any]") -> int:
        """Return the number of batches of a complete epoch on this rank.

        It depends on workers, batch_size and drop_last of the `loader`.
        """
        return sum(
            batches(self._length(share, loader), 0, loader)
            for share in range(max(1, loader.num_workers))
        )

    def _length(self, share: int, loader: "torch.utils.data.DataLoader[Any]") -> int:
        """Return the number of rows of a share."""
        first, last = self._ends(share, max(1, loader.num_workers))
        return last - first

    # --- resuming ---------------------------------------------------------------------------------

    def state_dict(
        self, loader: "torch.utils.data.DataLoader[Any] | None" = None, batches_done: int = 0
    ) -> State:
        """Return the position of the present pass of a plain DataLoader.

        Parameters
        ----------
        loader
            The loader of the pass. Without it the state holds the epoch alone, which is all that
            StatefulDataLoader needs besides the states of the iterators.
        batches_done
            Batches received since the pass began, as ``enumerate(loader, 1)`` counts them.

        Returns
        -------
        dict
            Numbers, strings and lists of numbers.

        Raises
        ------
        UsageError
            The loader has another dataset or delivers out of order, or the pass has fewer batches.
        """
        is_set = bool(self.shared_batches[IS_SET])
        state = {**self._identity(), "epoch": self.epoch, "is_set": is_set, "workers": None}
        if loader is None:
            return state
        if loader.dataset is not self or not getattr(loader, "in_order", True):
            raise UsageError("expected a DataLoader of this stream that delivers in order")
        workers = max(1, loader.num_workers)
        positions = [(share, 0) for share in range(workers)]
        if (
            self._resume is not None
            and self._resume.epoch == self.epoch
            and self.shared_batches[PASSES] <= 1
        ):
            positions = self._resume.positions
        lengths = [self._length(share, loader) for share, _ in positions]
        return {
            **state,
            "workers": state_after(
                positions, lengths, checked_count("batches_done", batches_done, 0), loader
            ),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume the next pass at the position of a state; later passes are complete.

        Parameters
        ----------
        state
            The result of `state_dict`.

        Raises
        ------
        UsageError
            The state belongs to another order (seed, rows, options, rank), or is no state of a
            StackStream.
        """
        check_state(state, self._identity(), "epoch")
        self._resume = None
        self._begin_at(state["epoch"], is_set=bool(state.get("is_set", True)))
        # A worker of StatefulDataLoader loads the epoch alone.
        if state.get("workers") is not None:
            self._resume = Resume.of_state(state["epoch"], state["workers"])
            self.shared_batches[LOADS] += 1
            self._loads = int(self.shared_batches[LOADS])

    def _identity(self) -> State:
        """Return the options that determine the order, as a state stores them."""
        names = ("seed", "shuffle", "shuffle_buffer", "uneven", "rank", "world_size")
        counts = {"rows": len(self.dataset), "stacks": len(self.dataset.boundaries) - 1}
        return {"kind": "StackStream", **{name: getattr(self, name) for name in names}, **counts}

    # --- pickling ---------------------------------------------------------------------------------

    def __getstate__(self) -> dict[str, Any]:
        if self._found_ranks:
            check_ranks(self.world_size)
        state = self.__dict__.copy()
        # Only a copy for a worker shares memory; any other copy has its own numbers.
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
    """The pass of one worker. It is a class because a generator ends with its first error."""

    def __init__(
        self, stream: StackStream, at: "Position", worker: int, refusal: UsageError | None
    ) -> None:
        self._stream, self._worker, self._refusal = stream, worker, refusal
        self._began = False
        self._set(at)

    def _set(self, at: "Position") -> None:
        """Continue at a position of an epoch."""
        self._at = at
        first, last = self._stream._ends(at.share, at.workers)
        self._count = last - first
        self._draws = self._stream._draws(self._count, at)
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
        """Return the next sample, its Failure, or SKIPPED."""
        if self._chunks is None:
            self._chunks = self._read()
        position = self._draws.take()
        while position not in self._ready:
            chunk = next(self._chunks, None)
            if chunk is None:
                raise RuntimeError(
                    "the stream was closed, or its reader ended before its rows: they are not "
                    "delivered"
                )
            self._ready.update(chunk)
        return self._ready.pop(position)

    def _read(self) -> Iterator[Chunk]:
        """Start to read the rest of the share, by a thread if the stream reads ahead."""
        stream, at = self._stream, self._at
        share = stream._share(at.epoch, at.share, at.workers)
        size = max(1, stream.read_ahead // CHUNKS)
        epoch = at.epoch if stream.shared_batches[IS_SET] else None
        chunks = read_chunks(stream.dataset, share.rows, epoch, self._draws.to_read(size))
        if stream.read_ahead == 0:
            return chunks
        ahead = Ahead()
        # The thread references the queue and not the iterator, so that the iterator can be freed.
        self._stop = weakref.finalize(self, ahead.stop)
        ahead.start(chunks)
        return ahead

    def close(self) -> None:
        """End the reading thread and free its samples.

        The end of the pass does so too; freeing the iterator ends the thread.
        """
        if self._stop is not None:
            self._stop()
        self._chunks, self._ready = iter(()), {}

    def state_dict(self) -> State:
        """Return the position of this worker's pass, counted in delivered samples."""
        return {
            **self._stream._identity(),
            "epoch": self._at.epoch,
            "share": self._at.share,
            "workers": self._at.workers,
            "done": self._draws.done,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue at the position of a state.

        A state of another stream or number of workers raises a UsageError.
        """
        identity = {
            **self._stream._identity(),
            "share": self._at.share,
            "workers": self._at.workers,
        }
        check_state(state, identity, "epoch", "done")
        self.close()
        self._set(Position(state["epoch"], state["share"], state["workers"], state["done"]))
