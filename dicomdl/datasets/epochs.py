"""The epoch of a row: carried by the row, set for a dataset, or unknown.

A sample with chance depends on (seed, epoch, row) if its epoch is known. In a pass of a DataLoader
it is otherwise drawn from torch's generator, which the loader seeds per worker: anew in every pass,
and the same again after `torch.manual_seed` with the same number of workers. A row that is looked
up without a loader, such as ``patches[3]`` in a notebook, is that of epoch 0.
"""

import contextlib
import mmap
import multiprocessing.context
import operator
import os
import sys
import threading
from collections.abc import Iterator, Sequence
from types import FrameType
from typing import Any, Final

import numpy as np
import torch

from dicomdl.datasets.worker import is_worker

# The epoch of a sample whose row has none, as its entry `epoch`.
NO_EPOCH: Final = -1


class _OfThread(threading.local):
    """The epoch of the rows that a worker received last, and the generator within `chance_from`.

    Class attributes are the defaults of every thread; a missing attribute would cost 1 µs per row.
    """

    epoch: int | None = None
    generator: torch.Generator | None = None


_of_thread: Final = _OfThread()


class EpochRow(int):
    """A row that carries its epoch.

    It computes, compares, hashes and prints as the row, and pickles with the epoch. Sums,
    differences, quotients and remainders carry the epoch too, so that it passes through wrappers
    that compute the row of an inner dataset, such as ConcatDataset.

    Parameters
    ----------
    row, epoch
        Integers from 0.
    """

    epoch: int

    def __new__(cls, row: int, epoch: int) -> "EpochRow":
        """Create the row; the value of an int is set here, before `__init__`."""
        self = super().__new__(cls, row)
        self.epoch = epoch
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return _arrived, (int(self), self.epoch)

    def __add__(self, other: int) -> int:
        return self._with(super().__add__(other))

    def __radd__(self, other: int) -> int:
        return self._with(super().__radd__(other))

    def __sub__(self, other: int) -> int:
        return self._with(super().__sub__(other))

    def __floordiv__(self, other: int) -> int:
        return self._with(super().__floordiv__(other))

    def __mod__(self, other: int) -> int:
        return self._with(super().__mod__(other))

    def __divmod__(self, other: int) -> tuple[int, int]:
        return self // other, self % other

    def _with(self, value: int) -> int:
        """Return a result of integers with the epoch; any other result unchanged."""
        return EpochRow(value, self.epoch) if isinstance(value, int) else value


def _arrived(row: int, epoch: int) -> EpochRow:
    """Return an unpickled row; a worker of a DataLoader also notes its epoch."""
    if is_worker():
        _of_thread.epoch = epoch
    return EpochRow(row, epoch)


def received_epoch() -> int | None:
    """Return the epoch of the rows that this worker received last, None if they carry none.

    A worker serves one DataLoader and receives the rows of one batch at a time. A plain row thus
    has the epoch that a wrapper of the dataset dropped. Outside of workers the result is None.
    """
    return _of_thread.epoch


def drawn_number() -> int:
    """Return a random integer from 0 to below 2**63 from torch's generator of this process.

    Within `chance_from` it comes from the generator given there.
    """
    return int(torch.empty((), dtype=torch.int64).random_(generator=_of_thread.generator))


def _fetches() -> frozenset[Any]:
    """Return the code of the functions by which a DataLoader without workers fetches samples."""
    fetch = getattr(torch.utils.data, "_utils", None)
    kinds = vars(getattr(fetch, "fetch", object)).values() if fetch is not None else ()
    found = (getattr(getattr(kind, "fetch", None), "__code__", None) for kind in kinds)
    return frozenset(code for code in found if code is not None)


_FETCHES: Final = _fetches()


def is_in_pass() -> bool:
    """Whether a DataLoader asks for the current sample, in a worker or in this process.

    torch has no call that tells this of a loader without workers, so the callers are looked
    through: 1 to 3 µs. Without the names of torch that this needs, the result is always True.
    """
    if is_worker() or _of_thread.generator is not None or not _FETCHES:
        return True
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if frame.f_code in _FETCHES:
            return True
        frame = frame.f_back
    return False


@contextlib.contextmanager
def chance_from(generator: torch.Generator) -> Iterator[None]:
    """Draw the numbers of this thread from a generator of its own.

    A thread that reads ahead would otherwise share torch's generator with its process, and the
    numbers would depend on timing.
    """
    _of_thread.generator = generator
    try:
        yield
    finally:
        _of_thread.generator = None


class SharedEpoch:
    """The epoch of a dataset, or None, shared with the workers that the process starts.

    A forked worker inherits an anonymous mapping; a spawned worker gets a tensor in shared memory.
    A process that sets the epoch of a dataset from its parent, such as a rank, gets memory of its
    own: ranks reach an epoch at different times.
    """

    def __init__(self, epoch: int | None = None) -> None:
        self._begin(epoch)

    def _begin(self, epoch: int | None) -> None:
        """Take new memory, owned by this process."""
        self._owner = os.getpid()
        self._memory = memoryview(mmap.mmap(-1, 8)).cast("q")
        self._memory[0] = NO_EPOCH if epoch is None else epoch
        self._for_spawned: torch.Tensor | None = None

    @property
    def value(self) -> int | None:
        """The epoch, or None."""
        epoch = self._memory[0]
        return None if epoch == NO_EPOCH else epoch

    def set(self, epoch: int) -> None:
        """Set the epoch, here and in the workers."""
        if self._owner != os.getpid():
            self._begin(epoch)
        self._memory[0] = epoch
        if self._for_spawned is not None:
            self._for_spawned[()] = epoch

    def copy(self) -> "SharedEpoch":
        """Return the value for a copy of the dataset: only a copy for a process shares memory."""
        is_for_process = multiprocessing.context.get_spawning_popen() is not None
        return self if is_for_process else SharedEpoch(self.value)

    def __getstate__(self) -> Any:
        if multiprocessing.context.get_spawning_popen() is None:
            return (self.value,)
        if self._for_spawned is None:
            tensor = torch.tensor(self._memory[0], dtype=torch.int64)
            self._for_spawned = tensor.share_memory_()  # type: ignore[no-untyped-call]
        return self._for_spawned, self._owner

    def __setstate__(self, state: Any) -> None:
        if len(state) == 1:
            self._begin(*state)
            return
        self._for_spawned, self._owner = state
        self._memory = self._for_spawned.numpy().reshape(1).data.cast("B").cast("q")


# --- wrappers -------------------------------------------------------------------------------------


def inner_datasets(source: Any) -> Iterator[Any]:
    """Yield a dataset or sampler and the datasets inside, as torch's classes name them."""
    seen: set[int] = set()
    waiting = [source]
    while waiting:
        part = waiting.pop()
        if part is None or id(part) in seen:
            continue
        seen.add(id(part))
        yield part
        waiting += [getattr(part, name, None) for name in ("dataset", "data_source", "sampler")]
        several = getattr(part, "datasets", None)
        waiting += several if isinstance(several, list | tuple) else []


def keep_epochs(source: Any) -> None:
    """Make the Subsets in a dataset or sampler pass the epochs of rows on.

    A Subset looks a row up in its `indices`, which loses the epoch. They are replaced by an equal
    sequence that gives an `EpochRow` for an `EpochRow`; for any other row nothing changes.
    """
    for part in inner_datasets(source):
        if isinstance(part, torch.utils.data.Subset) and not isinstance(
            part.indices, _EpochList | _EpochLookup
        ):
            kind = _EpochList if isinstance(part.indices, list) else _EpochLookup
            part.indices = kind(part.indices)


def _carried(position: Any, index: Any) -> Any:
    """Return what lies at a position, with the epoch of the position if it has one."""
    if not isinstance(position, EpochRow):
        return index
    try:
        return EpochRow(operator.index(index), position.epoch)
    except TypeError:
        # The inner dataset has keys that are no integers.
        return index


class _EpochList(list[Any]):
    """A list that gives an EpochRow for an EpochRow."""

    __slots__ = ()

    def __getitem__(self, position: Any) -> Any:
        return _carried(position, super().__getitem__(position))


class _EpochLookup(Sequence[Any]):
    """A view of any other sequence, such as a range or an array, that does the same."""

    def __init__(self, indices: Any) -> None:
        self._indices = indices

    def __getitem__(self, position: Any) -> Any:
        return _carried(position, self._indices[position])

    def __len__(self) -> int:
        return len(self._indices)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._indices)

    def __eq__(self, other: object) -> Any:
        return self._indices == (other._indices if isinstance(other, _EpochLookup) else other)

    __hash__ = None  # type: ignore[assignment]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "_indices":
            raise AttributeError(name)
        return getattr(self._indices, name)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        array = np.asarray(self._indices, dtype)
        return array.copy() if copy else array

    def __repr__(self) -> str:
        return repr(self._indices)
