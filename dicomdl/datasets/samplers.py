"""Samplers.

The rows of an epoch in an order that depends on (seed, epoch) alone, dealt to ranks, resumable at
any batch.

A row is delivered as an `EpochRow`, which carries its epoch: the workers of a DataLoader hold
copies of the dataset, and with `persistent_workers=True` nothing that the parent sets later reaches
them, but rows do. Orders are the argsort of Philox numbers, whose stream NumPy promises not to
change (that of `Generator.permutation` may), so that a run resumes in the same order under another
release. An epoch costs the parent 8 bytes a row, workers nothing.
"""

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sized
from typing import Any

import numpy as np
import torch

from dicomdl.datasets._permutations import (
    CHUNK,
    ROWS,
    Rows,
    Shuffle,
    State,
    Uneven,
    check_ranks,
    check_state,
    checked_boundaries,
    checked_count,
    checked_uneven,
    dealt,
    permutation,
    ranks,
    stack_order,
    windowed,
)
from dicomdl.errors import UsageError


class EpochRow(int):
    """A row that knows its epoch.

    It computes, compares, hashes and prints as the row, and pickles whole.

    Datasets take ``getattr(row, "epoch", self.epoch)``, before any arithmetic, whose result is a
    plain int.

    Parameters
    ----------
    row, epoch
        Integers from 0.
    """

    epoch: int

    def __new__(cls, row: int, epoch: int) -> "EpochRow":
        """An immutable number is made here, not in `__init__`."""
        self = super().__new__(cls, row)
        self.epoch = epoch
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return EpochRow, (int(self), self.epoch)


class RowSampler(torch.utils.data.Sampler[int]):
    """The rows of an epoch, each once over all ranks, for ``DataLoader(dataset, batch_size=..., sampler=...)``.

    Parameters
    ----------
    source
        A dataset, or just a number of rows. `shuffle="stacks"` needs a dataset with `boundaries` (`StackedRows`).
    seed
        An integer from 0.
    shuffle
        "rows": a uniformly random order. "stacks": stacks in random order, their rows shuffled in windows, so that a disk reads
        mostly in order. False: as they lie.
    window
        With "stacks", how many consecutive rows are shuffled among each other.
    uneven
        When the ranks do not divide the rows. "keep": every row exactly once; ranks differ by one row, and so may differ by one
        batch, for which DistributedDataParallel waits forever: use `RowBatchSampler`, which gives all ranks the same number of
        batches, or "drop" (up to world_size - 1 rows, other ones each epoch) or "pad" (rows from the beginning again).
    rank, world_size
        By default those of torch.distributed when it is initialised, else 0 and 1.

    Notes
    -----
    A pass over the sampler is an epoch: `set_epoch` says which; without it each pass is the epoch after the last one. Row k of a
    rank is row k * world_size + rank of the order, so a state may be loaded under another number of ranks.

    ``state_dict()`` counts the rows drawn: torchdata's StatefulDataLoader asks for it batch by batch, and needs nothing else.
    A plain DataLoader draws ahead of what it delivers: there say ``state_dict(samples_done=...)``.

    Raises
    ------
    UsageError
        Options that do not exist or fit.
    """

    def __init__(
        self,
        source: Sized | int,
        *,
        seed: int = 0,
        shuffle: Shuffle = "rows",
        window: int = 1024,
        uneven: Uneven = "keep",
        rank: int | None = None,
        world_size: int | None = None,
    ) -> None:
        if shuffle not in ("rows", "stacks", False):
            raise UsageError(f"shuffle={shuffle!r}: expected 'rows', 'stacks' or False")
        self.rows = checked_count("source", source if isinstance(source, int) else len(source), 0)
        self.boundaries = checked_boundaries(source) if shuffle == "stacks" else None
        self.seed = checked_count("seed", seed, 0)
        self.shuffle: Shuffle = shuffle
        self.window = checked_count("window", window, 1)
        self.uneven = checked_uneven(uneven)
        self.rank, self.world_size = ranks(rank, world_size)
        self._found_ranks = rank is None
        self.epoch = 0
        self._position = 0  # in the order of all ranks, where the next pass begins
        self._ended = False
        self._pass: _Pass | None = None

    @property
    def total(self) -> int:
        """Rows that all ranks deliver together in an epoch."""
        return dealt(self.rows, self.world_size, self.uneven)

    def __len__(self) -> int:
        """Rows of a whole epoch on this rank, also when the next pass resumes in its middle."""
        return len(range(self.rank, self.total, self.world_size))

    def set_epoch(self, epoch: int) -> None:
        """What the next pass delivers; a loaded position stays when it is of this epoch."""
        if epoch != self.epoch or (self._pass is not None and self._pass.began):
            self._position = 0
        self.epoch = checked_count("epoch", epoch, 0)
        self._pass = None

    def __iter__(self) -> "_Pass":
        if self._found_ranks:
            check_ranks(self.world_size)
        if self._pass is not None and (
            self._pass.began or (self._ended and self._pass.position >= self.total)
        ):
            self.epoch += 1
            self._position = 0
        self._pass = _Pass(self, self.epoch, self._position)
        return self._pass

    def order(self, epoch: int) -> Rows:
        """Rows of the whole epoch on this rank, (len(self),) int64."""
        if self.boundaries is not None:
            order = windowed(
                stack_order(self.boundaries, self.seed, epoch), self.window, self.seed, epoch
            )
        elif self.shuffle:
            order = permutation(self.rows, self.seed, epoch, ROWS)
        else:
            order = np.arange(self.rows)
        return np.resize(order, self.total)[self.rank :: self.world_size].copy()

    def state_dict(self, samples_done: int | None = None) -> State:
        """Where the present pass is: a dict of numbers and words.

        Parameters
        ----------
        samples_done
            Samples received since the pass began (this rank's; a last batch may be counted as
            full). By default the rows drawn from the sampler, which under a plain DataLoader with
            workers are more than were delivered.
        """
        counts = "drawn" if samples_done is None else "delivered"
        start = self.start_of(self._position)
        if self._pass is not None:
            start = self._pass.start
            samples_done = self._pass.drawn if samples_done is None else samples_done
        done = min(start + checked_count("samples_done", samples_done or 0, 0), len(self))
        position = self.total if done == len(self) else done * self.world_size
        return {**self._identity(), "epoch": self.epoch, "position": position, "counts": counts}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Let the next pass go on where the state was taken; the passes after it are whole.

        Raises
        ------
        UsageError
            The state is of another order (seed, rows, options) or not one of ours.
        """
        check_state(state, self._identity(), "epoch", "position")
        self.epoch = state["epoch"]
        self._position = min(state["position"], self.total)
        # StatefulDataLoader makes an iterator of a pass that has ended, and at once
        # another one for the next epoch. A plain
        # DataLoader makes two where it means one, and the rest of the ended pass is no row.
        self._ended = state.get("counts") == "drawn"
        self._pass = None

    def start_of(self, position: int) -> int:
        """How many of the first `position` rows of the order are this rank's."""
        return len(range(self.rank, position, self.world_size))

    def _identity(self) -> State:
        window = self.window if self.shuffle == "stacks" else 0
        return {
            "kind": "RowSampler",
            "seed": self.seed,
            "shuffle": self.shuffle,
            "window": window,
            "uneven": self.uneven,
            "rows": self.rows,
        }


class _Pass(Iterator[int]):
    """One pass over a sampler; the order is made with the first row."""

    def __init__(self, sampler: RowSampler, epoch: int, position: int) -> None:
        self.epoch, self.position = epoch, position
        self.start = sampler.start_of(position)
        self.drawn = 0
        self.began = False
        self._rows = self._draw(sampler)

    def __next__(self) -> int:
        self.began = True
        row = next(self._rows)
        self.drawn += 1
        return row

    def _draw(self, sampler: RowSampler) -> Iterator[int]:
        order = sampler.order(self.epoch)
        for first in range(self.start, len(order), CHUNK):
            for row in order[first : first + CHUNK].tolist():
                yield EpochRow(row, self.epoch)


class RowBatchSampler(torch.utils.data.Sampler[list[int]]):
    """Batches of a `RowSampler`, as many on every rank, for ``DataLoader(dataset, batch_sampler=...)``.

    When ranks differ by a row and the longer one needs one more batch for it, the batch before the last is one row smaller on
    all ranks: each row comes exactly once and DistributedDataParallel never waits. (Not possible for batches of one.)

    Parameters
    ----------
    sampler
        A RowSampler.
    batch_size
        Rows of a batch, from 1.
    drop_last
        Leave out what does not fill a batch on every rank.
    """

    def __init__(self, sampler: RowSampler, batch_size: int, drop_last: bool = False) -> None:
        self.sampler = sampler
        self.batch_size = checked_count("batch_size", batch_size, 1)
        self.drop_last = drop_last

    def __len__(self) -> int:
        """Batches of a whole epoch, on every rank."""
        return self._count(0)

    def set_epoch(self, epoch: int) -> None:
        """As of the sampler."""
        self.sampler.set_epoch(epoch)

    def __iter__(self) -> Iterator[list[int]]:
        return self._draw(iter(self.sampler))

    def _draw(self, rows: _Pass) -> Iterator[list[int]]:
        for size in self._sizes(rows.position):
            batch = list(itertools.islice(rows, size))
            if batch:  # a rank without rows, when there are fewer rows than ranks
                yield batch
        for _ in rows:  # what drop_last leaves out counts as done
            pass

    def _count(self, position: int) -> int:
        left, ranks_, size = self.sampler.total - position, self.sampler.world_size, self.batch_size
        return (
            left // ranks_ // size if self.drop_last else math.ceil(math.ceil(left / ranks_) / size)
        )

    def _sizes(self, position: int) -> Iterator[int]:
        """Upper limits of the batches from a position on.

        Equal on all ranks, so that one rank's state serves all.
        """
        shortest = (self.sampler.total - position) // self.sampler.world_size
        for after in reversed(range(self._count(position))):
            size = (
                self.batch_size
                if self.drop_last or not after
                else min(self.batch_size, max(1, shortest - after))
            )
            shortest -= size
            yield size

    def state_dict(self, batches_done: int | None = None) -> State:
        """Where the present pass is.

        Parameters
        ----------
        batches_done
            Batches received since the pass began, as ``enumerate(loader, 1)`` counts them. By
            default those drawn (see `RowSampler.state_dict`).
        """
        if batches_done is None:
            return self.sampler.state_dict()
        batches_done = checked_count("batches_done", batches_done, 0)
        position = (
            self.sampler._position if self.sampler._pass is None else self.sampler._pass.position
        )
        count = self._count(position)
        if batches_done > count:
            raise UsageError(
                f"batches_done={batches_done}: this pass has {count} batches", batches=count
            )
        if batches_done == count:
            return self.sampler.state_dict(samples_done=len(self.sampler))
        return self.sampler.state_dict(
            samples_done=sum(itertools.islice(self._sizes(position), batches_done))
        )

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """As of the sampler; the batch size may be another one."""
        self.sampler.load_state_dict(state)


class WithEpoch(torch.utils.data.Sampler[Any]):
    """Any other sampler or batch sampler, such as torch's DistributedSampler, with rows that carry the epoch.

    Parameters
    ----------
    sampler
        Its `set_epoch`, if it has one, is called before every pass.

    Notes
    -----
    `set_epoch` says which epoch the next pass is; without it each pass is the epoch after the last one.
    """

    def __init__(self, sampler: Iterable[Any]) -> None:
        self.sampler = sampler
        self.epoch = 0
        self._began = False

    def __len__(self) -> int:
        return len(self.sampler)  # type: ignore[arg-type]

    def set_epoch(self, epoch: int) -> None:
        """What the next pass delivers."""
        self.epoch, self._began = checked_count("epoch", epoch, 0), False

    def __iter__(self) -> Iterator[Any]:
        self.epoch += self._began
        self._began = True
        epoch = self.epoch
        if hasattr(self.sampler, "set_epoch"):
            self.sampler.set_epoch(epoch)
        for item in self.sampler:
            yield (
                [EpochRow(row, epoch) for row in item]
                if isinstance(item, list | tuple)
                else EpochRow(item, epoch)
            )
