"""datasets.permutations"""

from collections.abc import Mapping
from typing import Any, Final, Literal, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import torch

from dicomdl.errors import UsageError

Shuffle = Literal["rows", "stacks", False]
Uneven = Literal["keep", "drop", "pad"]
State = dict[str, Any]
Rows = npt.NDArray[np.int64]
UNEVEN: Final = ("keep", "drop", "pad")
CHUNK: Final = 4096  # rows that become Python integers at a time
# What random numbers are for: each purpose has a stream of its own.
ROWS, STACKS, WINDOWS, BUFFER = range(4)


@runtime_checkable
class StackedRows(Protocol):
    """What a sampler asks of a dataset."""

    boundaries: Rows
    """(stacks + 1,), ascending from 0 to the length: rows [boundaries[i], boundaries[i + 1]) come from stack i, in file order."""

    def __len__(self) -> int:
        """The number of rows."""


def philox(seed: int, *words: int) -> np.random.Philox:
    """The random numbers of a seed for one purpose.

    `words` (epoch, purpose, ...) are apart from the seed, whatever its size.
    """
    return np.random.Philox(np.random.SeedSequence(seed, spawn_key=words))


def permutation(count: int, seed: int, epoch: int, purpose: int) -> Rows:
    """Every number below `count` once, (count,) int64, every order equally likely."""
    keys = philox(seed, epoch, purpose).random_raw(count)
    # 3 times as fast as a stable sort, and the same where no two keys are equal
    order: Rows = np.argsort(keys)
    ordered = keys[order]
    if (ordered[1:] == ordered[:-1]).any():
        order = np.argsort(keys, kind="stable")
    return order


def stack_order(boundaries: Rows, seed: int, epoch: int) -> Rows:
    """All rows, stack by stack, the stacks in random order and their rows as they lie."""
    stacks = permutation(len(boundaries) - 1, seed, epoch, STACKS)
    lengths = np.diff(boundaries)[stacks]
    shift = boundaries[stacks] - (np.cumsum(lengths) - lengths)
    order: Rows = np.arange(boundaries[-1]) + np.repeat(shift, lengths)
    return order


def windowed(order: Rows, window: int, seed: int, epoch: int) -> Rows:
    """The order with every `window` consecutive rows shuffled among each other."""
    # The window's number above 32 random bits: one sort shuffles all windows. Equal bits
    # (once in 8,000 windows of 1024) keep their order.
    keys = np.arange(len(order), dtype=np.uint64) // np.uint64(window) << np.uint64(32)
    keys |= philox(seed, epoch, WINDOWS).random_raw(len(order)) >> np.uint64(32)
    return order[np.argsort(keys, kind="stable")]


def dealt(rows: int, shares: int, uneven: Uneven) -> int:
    """Rows that equal shares deliver together."""
    if uneven == "keep":
        return rows
    return (rows if uneven == "drop" else rows + (shares - 1)) // shares * shares if rows else 0


def ranks(rank: int | None, world_size: int | None) -> tuple[int, int]:
    """As given, else of torch.distributed, else one."""
    if (rank is None) != (world_size is None):
        raise UsageError(f"rank={rank}, world_size={world_size}: give both or neither")
    if rank is None or world_size is None:
        return _distributed()
    if not 0 <= rank < world_size:
        raise UsageError(f"rank={rank}, world_size={world_size}: expected 0 <= rank < world_size")
    return rank, world_size


def check_ranks(world_size: int) -> None:
    """UsageError when torch.distributed was initialised after the ranks were asked for.

    Every rank would deliver everything.
    """
    found = _distributed()[1]
    if found not in (1, world_size):
        raise UsageError(
            f"made for {world_size} rank(s), but torch.distributed has {found}: make it after init_process_group, "
            "or give rank= and world_size=",
            world_size=found,
        )


def _distributed() -> tuple[int, int]:
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return 0, 1


def checked_boundaries(source: Any) -> Rows:
    """The boundaries of a dataset as int64, from 0 to its length, never descending."""
    if not isinstance(source, StackedRows):
        raise UsageError(
            "shuffling stacks needs a dataset with `boundaries`, the rows between which each stack lies"
        )
    boundaries = np.asarray(source.boundaries)
    sound = boundaries.ndim == 1 and boundaries.dtype.kind in "iu" and len(boundaries) > 0
    if not (
        sound
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
    """An integer from `least` on."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
        raise UsageError(f"{name}={value!r}: expected an integer from {least} on")
    return int(value)


def checked_uneven(uneven: Uneven) -> Uneven:
    """One of UNEVEN."""
    if uneven not in UNEVEN:
        raise UsageError(f"uneven={uneven!r}: expected one of {', '.join(map(repr, UNEVEN))}")
    return uneven


def check_state(state: Mapping[str, Any], identity: Mapping[str, Any], *numbers: str) -> None:
    """UsageError unless a state has this identity and these whole numbers."""
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
