"""Samplers of rows: an order that depends on (seed, epoch) alone, split over ranks, resumable.

A row is delivered as an `EpochRow`, which carries its epoch into every worker, also through Subset,
random_split and ConcatDataset (see `epochs.keep_epochs`). An epoch costs 8 bytes per row in the
parent, and nothing in the workers.
"""

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
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
from dicomdl.datasets._row_weights import RowWeights, rows_of
from dicomdl.datasets.epochs import EpochRow, keep_epochs
from dicomdl.errors import UsageError


class RowSampler(torch.utils.data.Sampler[int]):
    """The rows of an epoch, each once over all ranks, for the option `sampler` of a DataLoader.

    Parameters
    ----------
    source
        A dataset, or a number of rows. ``shuffle="stacks"`` needs a dataset with `boundaries`. Each
        Subset in it gets `indices` that pass the epoch on and are equal otherwise.
    seed
        An integer from 0.
    shuffle
        "rows": a uniformly random order. "stacks": stacks in random order, with their rows shuffled
        in windows, so that a disk reads mostly in order. False: ascending.
    window
        The number of consecutive rows that "stacks" shuffles within themselves.
    uneven
        The treatment of rows that the ranks do not divide.

        - "keep" delivers every row exactly once. Ranks then differ by one row and possibly by one
          batch, for which DistributedDataParallel waits forever. `RowBatchSampler` gives all ranks
          the same number of batches.
        - "drop" leaves out up to world_size - 1 rows, different ones in each epoch.
        - "pad" repeats rows from the beginning of the order.
    rank, world_size
        By default those of torch.distributed if it is initialised, else 0 and 1.
    weights
        (rows,) numbers, in proportion to which rows are drawn, with repeats. "target" draws the
        classes of a dataset with `target` equally often, and no row of unknown class. An epoch has
        as many rows as without weights; in it, a row comes as often as its share, rounded down or
        up. By default every row comes once.

    Attributes
    ----------
    epoch
        The epoch of the present or next pass.
    rows
        The number of rows of the source.

    Raises
    ------
    UsageError
        An option has an unknown value, `source` has no valid `boundaries`, or weights do not fit.

    Notes
    -----
    A pass over the sampler is an epoch. `set_epoch` sets its number; without it, each pass is the
    epoch after the last one. Row k of a rank is row k * world_size + rank of the order, so a state
    may be loaded under another number of ranks.

    ``state_dict()`` counts the rows drawn. torchdata's StatefulDataLoader calls it batch by batch
    and needs nothing else. A plain DataLoader draws rows ahead of delivery; there use
    ``state_dict(samples_done=...)``.

    Examples
    --------
    >>> sampler = RowSampler(6, seed=1, rank=0, world_size=2)
    >>> first = list(sampler)
    >>> other = list(RowSampler(6, seed=1, rank=1, world_size=2))
    >>> sorted(first + other)
    [0, 1, 2, 3, 4, 5]
    >>> sampler.set_epoch(0)
    >>> list(sampler) == first
    True
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
        weights: Sequence[float] | npt.ArrayLike | Literal["target"] | None = None,
    ) -> None:
        if shuffle not in ("rows", "stacks", False):
            raise UsageError(f"shuffle={shuffle!r}: expected 'rows', 'stacks' or False")
        if weights is not None and shuffle != "rows":
            raise UsageError(f"shuffle={shuffle!r}: weights= draws rows in random order")
        self.rows = checked_count("source", rows_of(source), 0)
        keep_epochs(source)
        self._weights: RowWeights | None = RowWeights.of(weights, source)
        self.boundaries = checked_boundaries(source) if shuffle == "stacks" else None
        self.seed = checked_count("seed", seed, 0)
        self.shuffle: Shuffle = shuffle
        self.window = checked_count("window", window, 1)
        self.uneven = checked_uneven(uneven)
        self.rank, self.world_size = ranks(rank, world_size)
        self._found_ranks = rank is None
        self.epoch = 0
        # The start of the next pass, a position in the order of all ranks.
        self._position = 0
        self._ended = False
        self._pass: _Pass | None = None

    @property
    def total(self) -> int:
        """The number of rows that all ranks deliver together per epoch."""
        return dealt(self.rows, self.world_size, self.uneven)

    def __len__(self) -> int:
        """Return the rows of a complete epoch on this rank, even if the next pass resumes."""
        return len(range(self.rank, self.total, self.world_size))

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the next pass; a loaded position of this epoch is preserved.

        Parameters
        ----------
        epoch
            An integer from 0.
        """
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
        """Return (len(self),) int64, the rows of the complete `epoch` on this rank."""
        if self.boundaries is not None:
            order = windowed(
                stack_order(self.boundaries, self.seed, epoch), self.window, self.seed, epoch
            )
        elif self._weights is not None:
            order = self._weights.order(self.seed, epoch)
        elif self.shuffle:
            order = permutation(self.rows, self.seed, epoch, ROWS)
        else:
            order = np.arange(self.rows)
        return np.resize(order, self.total)[self.rank :: self.world_size].copy()

    def state_dict(self, samples_done: int | None = None) -> State:
        """Return the position of the present pass.

        Parameters
        ----------
        samples_done
            Samples that this rank received since the pass began; a last batch may be counted as
            full. By default the rows drawn from the sampler. Under a plain DataLoader with workers
            these are more than the rows delivered.

        Returns
        -------
        dict
            Numbers and strings, for `load_state_dict`.
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
        """Resume the next pass at the position of a state; later passes are complete.

        Parameters
        ----------
        state
            The result of `state_dict`.

        Raises
        ------
        UsageError
            The state belongs to another order (seed, rows, options) or is no state of a RowSampler.
        """
        # States of samplers without weights need not mention them.
        known = {"weights": "", **state} if isinstance(state, Mapping) else state
        check_state(known, self._identity(), "epoch", "position")
        self.epoch = state["epoch"]
        self._position = min(state["position"], self.total)
        # StatefulDataLoader creates an iterator for a pass that has ended, and then another for the
        # next epoch. A plain DataLoader creates two iterators for one pass. The empty rest of an
        # ended pass is therefore a pass only if the state counts drawn rows.
        self._ended = state.get("counts") == "drawn"
        self._pass = None

    def start_of(self, position: int) -> int:
        """Return how many of the first `position` rows of the order belong to this rank."""
        return len(range(self.rank, position, self.world_size))

    def _identity(self) -> State:
        """Return the options that determine the order, as a state stores them."""
        window = self.window if self.shuffle == "stacks" else 0
        return {
            "kind": "RowSampler",
            "seed": self.seed,
            "shuffle": self.shuffle,
            "window": window,
            "uneven": self.uneven,
            "rows": self.rows,
            "weights": "" if self._weights is None else self._weights.digest,
        }


class _Pass(Iterator[int]):
    """One pass over a sampler; the order is computed at the first row."""

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
        """Yield the rows of the pass."""
        order = sampler.order(self.epoch)
        for first in range(self.start, len(order), CHUNK):
            for row in order[first : first + CHUNK].tolist():
                yield EpochRow(row, self.epoch)


class RowBatchSampler(torch.utils.data.Sampler[list[int]]):
    """Batches of a `RowSampler`, the same number on every rank, for the option `batch_sampler`.

    If some ranks have one row more and would need one more batch for it, the batch before the last
    is one row smaller on all ranks. Each row is delivered exactly once, and DistributedDataParallel
    never waits. Batches of one row leave no room for this.

    Parameters
    ----------
    sampler
        A RowSampler.
    batch_size
        Rows per batch, from 1.
    drop_last
        Leave out rows that do not fill a batch on every rank.

    Raises
    ------
    UsageError
        `batch_size` is not an integer from 1.
    """

    def __init__(self, sampler: RowSampler, batch_size: int, drop_last: bool = False) -> None:
        self.sampler = sampler
        self.batch_size = checked_count("batch_size", batch_size, 1)
        self.drop_last = drop_last

    def __len__(self) -> int:
        """Return the batches of a complete epoch, the same on every rank."""
        return self._count(0)

    def set_epoch(self, epoch: int) -> None:
        """Set the `epoch` of the sampler."""
        self.sampler.set_epoch(epoch)

    def __iter__(self) -> Iterator[list[int]]:
        return self._draw(iter(self.sampler))

    def _draw(self, rows: _Pass) -> Iterator[list[int]]:
        """Yield the batches of a pass."""
        for size in self._sizes(rows.position):
            batch = list(itertools.islice(rows, size))
            # With fewer rows than ranks, some ranks have none.
            if batch:
                yield batch
        # Rows that drop_last leaves out count as done.
        for _ in rows:
            pass

    def _count(self, position: int) -> int:
        """Return the number of batches from a position."""
        left, ranks_, size = self.sampler.total - position, self.sampler.world_size, self.batch_size
        return (
            left // ranks_ // size if self.drop_last else math.ceil(math.ceil(left / ranks_) / size)
        )

    def _sizes(self, position: int) -> Iterator[int]:
        """Yield upper limits of the batch sizes from a position.

        They are equal on all ranks, so that the state of one rank serves all.
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
        """Return the position of the present pass.

        Parameters
        ----------
        batches_done
            Batches received since the pass began, as ``enumerate(loader, 1)`` counts them. By
            default the batches drawn (see `RowSampler.state_dict`).

        Returns
        -------
        dict
            The state of the sampler.

        Raises
        ------
        UsageError
            The pass has fewer batches.
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
        """Load `state` into the sampler; the batch size may differ."""
        self.sampler.load_state_dict(state)


class WithEpoch(torch.utils.data.Sampler[Any]):
    """A wrapper of another sampler or batch sampler, whose rows then carry their epoch.

    Parameters
    ----------
    sampler
        A sampler such as torch's DistributedSampler. Its `set_epoch`, if it has one, is called
        before every pass. Each Subset in its dataset gets `indices` that pass the epoch on.

    Attributes
    ----------
    epoch
        The epoch of the present or next pass.

    Notes
    -----
    `set_epoch` sets the epoch of the next pass. Without it, each pass is the epoch after the last
    one.
    """

    def __init__(self, sampler: Iterable[Any]) -> None:
        self.sampler = sampler
        keep_epochs(sampler)
        self.epoch = 0
        self._began = False

    def __len__(self) -> int:
        return len(self.sampler)  # type: ignore[arg-type]

    def set_epoch(self, epoch: int) -> None:
        """Set the `epoch` of the next pass, an integer from 0."""
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
