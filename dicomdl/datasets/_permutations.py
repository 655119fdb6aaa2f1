"""Random orders of rows, ranks, and the checks that samplers and streams share.

Orders are the argsort of Philox numbers. NumPy promises not to change the stream of Philox, whereas
`Generator.permutation` may change, so a run resumes in the same order under another release.
"""

from collections.abc import Mapping
from typing import Any, Final, Literal, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import torch

from dicomdl.arrays import Floats, Values
from dicomdl.errors import UsageError
from dicomdl.index.text import counted

Shuffle = Literal["rows", "stacks", False]
Uneven = Literal["keep", "drop", "pad"]
State = dict[str, Any]
Rows = npt.NDArray[np.int64]
UNEVEN: Final = ("keep", "drop", "pad")
# Rows that are converted to Python integers at a time.
CHUNK: Final = 4096
# Purposes of random numbers; each has a separate stream.
ROWS, STACKS, WINDOWS, BUFFER, DRAWS, STARTS = range(6)


@runtime_checkable
class StackedRows(Protocol):
    """The part of a dataset that a sampler needs."""

    boundaries: Rows
    """(stacks + 1,), ascending from 0 to the length.

    Rows [boundaries[i], boundaries[i + 1]) come from stack i, in file order.
    """

    def __len__(self) -> int:
        """Return the number of rows."""


def philox(seed: int, *words: int) -> np.random.Philox:
    """Return the bit generator of a seed for one purpose.

    `words` (epoch, purpose, ...) form the spawn key, so they cannot collide with a seed of any
    size.
    """
    return np.random.Philox(np.random.SeedSequence(seed, spawn_key=words))


def permutation(count: int, seed: int, epoch: int, purpose: int) -> Rows:
    """Return a uniformly random permutation of the numbers below `count`, (count,) int64."""
    keys = philox(seed, epoch, purpose).random_raw(count)
    # This sort is 3 times as fast as a stable one, and gives the same if all keys differ.
    order: Rows = np.argsort(keys)
    ordered = keys[order]
    if (ordered[1:] == ordered[:-1]).any():
        order = np.argsort(keys, kind="stable")
    return order


def stack_order(boundaries: Rows, seed: int, epoch: int) -> Rows:
    """Return all rows stack by stack: stacks in random order, the rows of each ascending."""
    stacks = permutation(len(boundaries) - 1, seed, epoch, STACKS)
    lengths = np.diff(boundaries)[stacks]
    shift = boundaries[stacks] - (np.cumsum(lengths) - lengths)
    order: Rows = np.arange(boundaries[-1]) + np.repeat(shift, lengths)
    return order


def weighted(weights: Floats, groups: Values, count: int, seed: int, epoch: int) -> Rows:
    """Return rows drawn in proportion to their weights, (count,) int64, in random order.

    The draw is systematic: even steps along the sum of the weights, of rows in random order within
    their group. A row comes as often as its share of `count`, rounded down or up, and so does a
    group as a whole.

    Parameters
    ----------
    weights, groups
        (rows,) finite numbers of at least 0, not all 0; and what rows are sorted by.
    count, seed, epoch
        The number of rows, and what chance depends on.
    """
    rows = permutation(len(weights), seed, epoch, DRAWS)
    rows = rows[np.argsort(groups[rows], kind="stable")]
    ends = np.cumsum(weights[rows])
    start = int(philox(seed, epoch, STARTS).random_raw()) / 2**64
    steps = (np.arange(count) + start) * (ends[-1] / max(count, 1))
    places = np.searchsorted(ends, steps, side="right")
    # The last step may reach the end by rounding.
    drawn: Rows = rows[np.minimum(places, np.flatnonzero(weights[rows])[-1])]
    return drawn[permutation(count, seed, epoch, ROWS)]


def windowed(order: Rows, window: int, seed: int, epoch: int) -> Rows:
    """Return the order with each window of consecutive rows shuffled within itself."""
    # The key is the number of the window above 32 random bits, so one sort shuffles all windows.
    # Rows with equal bits (once in 8,000 windows of 1024) stay in order.
    keys = np.arange(len(order), dtype=np.uint64) // np.uint64(window) << np.uint64(32)
    keys |= philox(seed, epoch, WINDOWS).random_raw(len(order)) >> np.uint64(32)
    return order[np.argsort(keys, kind="stable")]


def dealt(rows: int, shares: int, uneven: Uneven) -> int:
    """Return the number of rows that all shares deliver together."""
    if uneven == "keep":
        return rows
    return (rows if uneven == "drop" else rows + (shares - 1)) // shares * shares if rows else 0


def ranks(rank: int | None, world_size: int | None) -> tuple[int, int]:
    """Return (rank, world_size): as given, else of torch.distributed, else (0, 1)."""
    if (rank is None) != (world_size is None):
        raise UsageError(f"rank={rank}, world_size={world_size}: give both or neither")
    if rank is None or world_size is None:
        return _distributed()
    if not 0 <= rank < world_size:
        raise UsageError(f"rank={rank}, world_size={world_size}: expected 0 <= rank < world_size")
    return rank, world_size


def check_ranks(world_size: int) -> None:
    """Raise a UsageError if torch.distributed was initialised after the ranks were determined.

    Otherwise every rank would deliver all rows.
    """
    actual = _distributed()[1]
    if actual not in (1, world_size):
        raise UsageError(
            f"made for {counted(world_size, 'ranks')}, but torch.distributed has {actual}: make it "
            "after init_process_group, or give rank= and world_size=",
            world_size=actual,
        )


def _distributed() -> tuple[int, int]:
    """Return (rank, world_size) of torch.distributed, (0, 1) without it."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return 0, 1


def checked_boundaries(source: Any) -> Rows:
    """Return the boundaries of a dataset as int64; raise a UsageError if they are invalid."""
    if not isinstance(source, StackedRows):
        raise UsageError(
            "shuffling stacks needs a dataset with `boundaries`, the first row of each stack and "
            "the end"
        )
    boundaries = np.asarray(source.boundaries)
    is_list = boundaries.ndim == 1 and boundaries.dtype.kind in "iu" and len(boundaries) > 0
    if not (
        is_list
        and boundaries[0] == 0
        and boundaries[-1] == len(source)
        and (boundaries[1:] >= boundaries[:-1]).all()
    ):
        raise UsageError(
            f"`boundaries` do not ascend from 0 to the {len(source)} rows of the dataset",
            rows=len(source),
        )
    return boundaries.astype(np.int64, copy=False)


def checked_count(name: str, value: Any, least: int) -> int:
    """Return an integer from `least`; raise a UsageError for any other value."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
        raise UsageError(f"{name}={value!r}: expected an integer from {least}")
    return int(value)


def checked_uneven(uneven: Uneven) -> Uneven:
    """Return one of `UNEVEN`; raise a UsageError for any other value."""
    if uneven not in UNEVEN:
        raise UsageError(f"uneven={uneven!r}: expected one of {', '.join(map(repr, UNEVEN))}")
    return uneven


def check_state(state: Mapping[str, Any], identity: Mapping[str, Any], *numbers: str) -> None:
    """Raise a UsageError unless a state has this identity and integers from 0 as `numbers`."""
    if not isinstance(state, Mapping):
        raise UsageError(f"a state is a dict, found {type(state).__name__}")
    missing = [name for name in (*identity, *numbers) if name not in state]
    if missing:
        raise UsageError(f"not a state of {identity['kind']}: it has no {', '.join(missing)}")
    other = {name: state[name] for name, value in identity.items() if state[name] != value}
    if other:
        differences = ", ".join(
            f"{name} {found!r} (here {identity[name]!r})" for name, found in other.items()
        )
        raise UsageError(f"the state is of another order: {differences}", **other)
    for name in numbers:
        checked_count(name, state[name], 0)
