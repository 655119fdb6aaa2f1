"""How batches and errors leave a loader's worker: pixels in memory that both sides have mapped, errors with all that they know.

torch sends each tensor of each batch in shared memory of its own: made, zeroed, handed over through a socket, mapped and thrown away. That
takes longer than reading the pixels did. Here a worker keeps a few blocks of nameless memory and fills them again and again; the
receiver maps a block when it first sees it. Where there is no such memory (not Linux), or no block is free, tensors go torch's way.

The rule to know: a block is filled again only when neither side can see what is in it. The receiver says so in the block's first page,
when the last view of the tensor goes; the worker knows by a weak reference to its own. Nothing has a name, so nothing outlives
the processes.
"""

import contextlib
import functools
import math
import mmap
import os
import secrets
import threading
import weakref
from collections.abc import Callable, Sequence
from multiprocessing.reduction import DupFd, ForkingPickler
from typing import Any, Final, ParamSpec, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from dicomdl.errors import DicomdlError

Bytes = npt.NDArray[np.uint8]
Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")

IN_BLOCKS: Final = 1 << 16  # bytes from which a tensor lies in a block; smaller ones travel in the message
MOST_BLOCKS: Final = 32  # of a worker: more are only asked for where the receiver keeps what it gets
_PAGE: Final = 4096
_OUT: Final = 0  # the byte of the first page that says that the receiver has the block
_INTEGERS: Final = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
_PLAIN: Final = frozenset((torch.bool, *_INTEGERS, torch.float16, torch.bfloat16, torch.float32, torch.float64))


class Sample(dict[str, Any]):
    """One sample: a dict. A type of its own, so that the default collate can say what to do about sizes."""


class Parcel(dict[str, Any]):
    """A batch on its way out of a worker; a plain dict arrives."""


def is_worker() -> bool:
    """Whether this process is a worker of a DataLoader."""
    return torch.utils.data.get_worker_info() is not None


def is_plain(value: Any) -> bool:
    """Whether a value is a tensor that is its numbers and nothing else."""
    is_numbers = type(value) is torch.Tensor and value.device.type == "cpu" and value.layout == torch.strided and value.dtype in _PLAIN
    return is_numbers and not value.requires_grad


# --- the worker's side ------------------------------------------------------------------------------------------------


class _Block:
    """Memory that goes to the receiver and comes back."""

    def __init__(self, size: int) -> None:
        self.size = _PAGE + -(-size // _PAGE) * _PAGE
        self.descriptor = os.memfd_create("dicomdl", os.MFD_CLOEXEC)
        weakref.finalize(self, os.close, self.descriptor)
        os.posix_fallocate(self.descriptor, 0, self.size)  # raises where memory is out; touching a page of a map would kill
        self.bytes = _mapped(self.descriptor, self.size)
        self._begins = self.bytes.ctypes.data + _PAGE
        self.name = secrets.token_hex(8)
        self.is_known = False  # to the receiver
        self.is_sent = False
        self._lent: weakref.ref[Bytes] | None = None

    @property
    def is_free(self) -> bool:
        return self.lent is None and not self.bytes[_OUT]

    @property
    def lent(self) -> Bytes | None:
        """What it is lent as, as long as somebody has that."""
        return None if self._lent is None else self._lent()

    def lend(self, size: int) -> Bytes:
        lent = self.bytes[_PAGE : _PAGE + size]
        self._lent, self.is_sent = weakref.ref(lent), False
        return lent

    def has(self, address: int) -> bool:
        """Whether it is lent, and its content begins at an address."""
        return self.lent is not None and self._begins == address


class _Pool:
    """The blocks of a worker."""

    def __init__(self) -> None:
        self.process = os.getpid()
        self._lock = threading.Lock()  # a queue's thread asks, too
        self._blocks: list[_Block] = []
        self._gone: list[str] = []
        self.images_are_alike = True  # so far; where they are not, memory for a batch of the first one's size would be waste

    def lend(self, size: int) -> Bytes | None:
        """Memory of so many bytes; None where there is none."""
        with self._lock:
            free = [block for block in self._blocks if block.is_free]
            fitting = [block for block in free if block.size >= _PAGE + size]
            if fitting:
                return min(fitting, key=lambda block: block.size).lend(size)
            if free:  # too small: another takes its place, so that there are never more than are out at the same time
                self._blocks.remove(free[0])
                self._gone += [free[0].name] if free[0].is_known else []
            if len(self._blocks) >= MOST_BLOCKS:
                return None
            try:
                self._blocks.append(_Block(size))
            except (OSError, ValueError):  # no memory, no descriptors, a system that forbids it
                return None
            return self._blocks[-1].lend(size)

    def in_one_piece(self, tensors: Sequence[torch.Tensor]) -> Bytes | None:
        """What was lent to make these tensors in, one behind the other and nothing before them."""
        first, size = tensors[0].data_ptr(), tensors[0].nbytes
        if not all(one.is_contiguous() and one.data_ptr() == first + place * size for place, one in enumerate(tensors)):
            return None
        block = self.block_at(first)
        memory = None if block is None else block.lent
        return None if memory is None or memory.nbytes < len(tensors) * size else memory

    def block_at(self, address: int) -> _Block | None:
        with self._lock:
            return next((block for block in self._blocks if block.has(address) and not block.is_sent), None)

    def send(self, block: _Block) -> tuple[Any, ...]:
        """What the receiver needs to see a block."""
        with self._lock:
            descriptor = None if block.is_known else DupFd(block.descriptor)
            block.is_known = block.is_sent = True
            block.bytes[_OUT] = 1
            gone, self._gone = self._gone, []
            return block.name, self.process, block.size, descriptor, gone


_pool: _Pool | None = None


def _own_pool() -> _Pool | None:
    global _pool
    if not (hasattr(os, "memfd_create") and is_worker()):
        return None
    if _pool is None or _pool.process != os.getpid():
        _pool = _Pool()
    return _pool


def empty(shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
    """A new tensor, its content undefined; in a worker, if it is large, in memory that need not be copied to leave it."""
    size = torch.Size(shape).numel() * dtype.itemsize
    pool = _own_pool() if size >= IN_BLOCKS and dtype in _PLAIN else None
    lent = pool.lend(size) if pool is not None else None
    return torch.empty(tuple(shape), dtype=dtype) if lent is None else _as_tensor(lent, shape, dtype)


def stacked(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    """Plain tensors of one shape and dtype in one; in a worker, where it need not be copied again, and not at all if `Rows` made them."""
    shape, dtype = (len(tensors), *tensors[0].shape), tensors[0].dtype
    pool = _own_pool()
    if pool is not None and (memory := pool.in_one_piece(tensors)) is not None:
        return _as_tensor(memory, shape, dtype)
    return torch.stack(list(tensors), out=empty(shape, dtype))


class Rows:
    """Where a thread makes the images of a batch, so that they lie one behind the other in memory that leaves the worker as it is.

    ``with Rows(count) as rows:`` `place` is the place in the batch of the sample that is being made.
    """

    def __init__(self, count: int) -> None:
        self.place = 0
        self._count, self._size = count, 0
        self._made: set[int] = set()
        self._memory: torch.Tensor | None = None

    def __enter__(self) -> "Rows":
        _of_thread.rows = self if is_worker() else None
        return self

    def __exit__(self, *error: object) -> None:
        _of_thread.rows = None

    def row(self, size: int) -> Bytes | None:
        """The memory of the sample's image; None where it has some already, or another size than the others."""
        pool = _own_pool()
        if pool is None or not pool.images_are_alike:
            return None
        if not self._made:
            self._size = size
            lent = pool.lend(self._count * size) if self._count * size >= IN_BLOCKS else None
            self._memory = None if lent is None else torch.from_numpy(lent).view(self._count, size)
        pool.images_are_alike = self._size == size
        is_new = self.place not in self._made
        self._made.add(self.place)
        if self._memory is None or not (is_new and pool.images_are_alike):
            return None
        return self._memory[self.place].numpy()  # of a tensor, which holds what was lent; a view by numpy would hold the block


_of_thread: Final = threading.local()


def new_array(shape: Sequence[int], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """A new array for the image of a sample, its content undefined."""
    rows: Rows | None = getattr(_of_thread, "rows", None)
    row = None if rows is None else rows.row(math.prod(shape) * np.dtype(dtype).itemsize)
    return np.empty(tuple(shape), dtype) if row is None else row.view(dtype).reshape(tuple(shape))


def _reduced(parcel: dict[str, Any]) -> tuple[Any, ...]:
    return _arrived, (type(parcel), [_packed(key, value) for key, value in parcel.items()])


def _packed(key: str, value: Any) -> tuple[Any, ...]:
    """(key, value), or what a plain tensor is made of again: (key, shape, dtype, its bytes or where they are)."""
    if not is_plain(value):
        return key, value
    if value.nbytes < IN_BLOCKS:
        return key, tuple(value.shape), value.dtype, value.reshape(-1).view(torch.uint8).numpy()
    pool = _own_pool()
    if pool is None:
        return key, value
    block = pool.block_at(value.data_ptr()) if value.is_contiguous() else None
    if block is None:
        copy = empty(value.shape, value.dtype)
        block = pool.block_at(copy.data_ptr())
        if block is None:
            return key, value
        copy.copy_(value)
    return key, tuple(value.shape), value.dtype, pool.send(block)


# --- the receiver's side ----------------------------------------------------------------------------------------------

_known: Final[dict[str, tuple[int, Bytes]]] = {}  # of each block: the worker that it belongs to, and its bytes


def _arrived(kind: type[Any], entries: list[tuple[Any, ...]]) -> Any:
    values = {key: rest[0] if len(rest) == 1 else _unpacked(*rest) for key, *rest in entries}
    return values if kind is Parcel else kind(values)


def _unpacked(shape: tuple[int, ...], dtype: torch.dtype, where: Any) -> torch.Tensor:
    return _as_tensor(where if isinstance(where, np.ndarray) else _received(*where), shape, dtype)


def _received(name: str, worker: int, size: int, descriptor: Any, gone: list[str]) -> Bytes:
    for other in gone:
        _known.pop(other, None)
    if descriptor is not None:
        _forget_ended()
        opened = descriptor.detach()
        try:
            _known[name] = worker, _mapped(opened, size)
        finally:
            os.close(opened)
    whole = _known[name][1]
    seen = whole[_PAGE:]
    weakref.finalize(seen, _give_back, whole, worker, os.getpid()).atexit = False
    return seen


def _give_back(whole: Bytes, worker: int, process: int) -> None:
    """The last view of a block's content is gone; a fork's copy of the view is none."""
    if os.getpid() == process:
        whole[_OUT] = 0
        if not _lives(worker):
            _forget_ended()


def _forget_ended() -> None:
    """Let go of the blocks of workers that are no more."""
    for name, (worker, _) in list(_known.items()):
        if not _lives(worker):
            _known.pop(name, None)


def _lives(process: int) -> bool:
    with contextlib.suppress(ProcessLookupError):
        os.kill(process, 0)
        return True
    return False


# --- both sides -------------------------------------------------------------------------------------------------------


def _mapped(descriptor: int, size: int) -> Bytes:
    return np.frombuffer(mmap.mmap(descriptor, size, flags=mmap.MAP_SHARED | getattr(mmap, "MAP_POPULATE", 0)), np.uint8)


def _as_tensor(memory: Bytes, shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
    size = torch.Size(shape).numel() * dtype.itemsize
    return torch.from_numpy(memory)[:size].view(dtype).reshape(tuple(shape))


# --- errors -----------------------------------------------------------------------------------------------------------


class _OnItsWay(type):
    """The class of the class of an error on its way out of a worker.

    torch sends an error's class and the text of its traceback, and calls that class with that text at the other end. So
    the class itself carries what the error knows.
    """

    parts: tuple[Any, ...]


def errors_leave_whole(function: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
    """What `function` raises leaves a worker with its message, facts and notes; the text of the worker's traceback becomes a note."""

    @functools.wraps(function)
    def called(*arguments: Parameters.args, **keywords: Parameters.kwargs) -> Result:
        try:
            return function(*arguments, **keywords)
        except DicomdlError as error:
            _pack(error)
            raise

    return called


def _pack(error: DicomdlError) -> None:
    """Give an error in a worker a class that is as its own, but takes what the error knows along."""
    kind = type(error)
    if not is_worker() or isinstance(kind, _OnItsWay):
        return
    parts = kind, error.args, error.__dict__  # and not the error, which has a traceback and so all that its frames hold
    try:
        ForkingPickler.dumps(parts)
    except Exception:  # a fact of a caller's own: the text alone goes, rather than nothing and no word about it
        return
    names = {"__module__": kind.__module__, "__qualname__": kind.__qualname__, "__doc__": kind.__doc__, "parts": parts}
    error.__class__ = _OnItsWay(kind.__name__, (kind,), names)  # type: ignore[assignment]


def _reduced_class(sent: _OnItsWay) -> tuple[Any, ...]:
    return _Sent, sent.parts


class _Sent:
    """What torch takes for the class of an error: called with the text of the worker's traceback, it gives the error and notes the text."""

    def __init__(self, kind: type[DicomdlError], arguments: tuple[Any, ...], facts: dict[str, Any]) -> None:
        self.__name__ = kind.__name__
        self._kind, self._arguments, self._facts = kind, arguments, facts

    def __call__(self, text: str) -> DicomdlError:
        error = self._kind(*self._arguments)
        error.__dict__.update(self._facts)
        error.add_note(text)
        return error


ForkingPickler.register(Parcel, _reduced)
ForkingPickler.register(Sample, _reduced)  # one that is delivered without a batch
ForkingPickler.register(_OnItsWay, _reduced_class)
