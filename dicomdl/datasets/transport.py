"""How batches and errors leave a loader's worker: pixels in memory that both sides have mapped, errors with all that they know.

torch sends each tensor of each batch in shared memory of its own: made, zeroed, handed over through a socket, mapped and thrown away. That
takes longer than reading the pixels did. Here a worker keeps a few blocks of nameless memory and fills them again and again; the
receiver maps a block when it first sees it. Where there is no such memory (not Linux), or no block is free, tensors go torch's way.

The rule to know: a block is filled again only when nobody can see what is in it. The receiver says so in the block's first page, when
the last view of the tensor goes; the worker knows by a weak reference to its own; what a fork of either sees is never filled again.
What is sent is the receiver's alone: where the worker still holds an image that was made in the block, a copy goes. Nothing has a
name, so nothing outlives the processes.
"""

import math
import multiprocessing.process
import os
import secrets
import threading
import weakref
from collections.abc import Sequence
from multiprocessing import reduction
from multiprocessing.reduction import ForkingPickler
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from dicomdl.datasets.sample import Sample
from dicomdl.datasets.worker import is_worker

Bytes = npt.NDArray[np.uint8]
IN_BLOCKS: Final = (
    1 << 16
)  # bytes from which a tensor lies in a block; smaller ones travel in the message
MOST_BLOCKS: Final = 64  # of a worker: each is a descriptor there
SURPLUS: Final = (
    32  # after so many that were lent while more lay free than were in use, what is too much goes
)
_PAGE: Final = 4096
_STATE: Final = 0  # the byte of a block's first page that says who has it
_FREE, _OUT, _LOST = range(3)  # nobody or the worker; the receiver; for good a fork of the receiver
_INTEGERS: Final = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
_PLAIN: Final = frozenset(
    (torch.bool, *_INTEGERS, torch.float16, torch.bfloat16, torch.float32, torch.float64)
)


class Parcel(dict[str, Any]):
    """A batch on its way out of a worker; a plain dict arrives."""


def is_plain(value: Any) -> bool:
    """Whether a value is a tensor that is its numbers and nothing else."""
    is_numbers = (
        type(value) is torch.Tensor
        and value.device.type == "cpu"
        and value.layout == torch.strided
        and value.dtype in _PLAIN
    )
    return is_numbers and not value.requires_grad


# --- the worker's side ------------------------------------------------------------------------------------------------


class _Block:
    """Memory that goes to the receiver and comes back."""

    def __init__(self, size: int) -> None:
        self.room = -(-size // _PAGE) * _PAGE
        self.size = _PAGE + self.room
        self.descriptor = os.memfd_create("dicomdl-batch", os.MFD_CLOEXEC)
        weakref.finalize(self, os.close, self.descriptor)
        os.posix_fallocate(
            self.descriptor, 0, self.size
        )  # raises where memory is out; touching a page of a map would kill
        self.bytes = _mapped(f"/proc/self/fd/{self.descriptor}", self.size)
        self.name = secrets.token_hex(8)
        self.is_known = False  # to a receiver
        self._begins = self.bytes.ctypes.data + _PAGE
        self._lent: weakref.ref[Bytes] | None = None

    @property
    def state(self) -> int:
        return int(self.bytes[_STATE])

    @property
    def is_free(self) -> bool:
        return self.lent is None and self.state == _FREE

    @property
    def lent(self) -> Bytes | None:
        """What it is lent as, as long as somebody in this process has that."""
        return None if self._lent is None else self._lent()

    def lend(self, size: int) -> Bytes:
        lent = self.bytes[_PAGE : _PAGE + size]
        self._lent = weakref.ref(lent)
        self.is_batch = self.is_sent = False
        self.images: list[weakref.ref[Bytes]] = []  # that were made in it
        return lent

    def has(self, address: int) -> bool:
        """Whether it is lent, and its content begins at an address."""
        return self._begins == address and self.lent is not None


class _Pool:
    """The blocks of a worker."""

    def __init__(self) -> None:
        self.process = os.getpid()
        self.makes_in_place: bool | None = (
            None  # not before a batch has shown that images are of one size and that nobody keeps them
        )
        self.images: list[weakref.ref[Bytes]] = []  # of the last batch
        self._lock = threading.Lock()  # a queue's thread asks, too
        self._blocks: list[_Block] = []  # those that were lent last at the end
        self._gone: list[str] = []
        self._surplus = 0

    def lend(self, size: int) -> Bytes | None:
        """Memory of so many bytes; None where there is none."""
        with self._lock:
            for block in [one for one in self._blocks if one.state == _LOST]:
                self._remove(block)
            free = [one for one in self._blocks if one.is_free]
            fitting = next((one for one in free if size <= one.room <= 2 * size), None)
            if fitting is not None:
                self._blocks.remove(fitting)
            else:
                if len(self._blocks) >= MOST_BLOCKS and free:
                    self._remove(free[0])
                if len(self._blocks) >= MOST_BLOCKS:
                    return None
                try:
                    fitting = _Block(size)
                except (
                    OSError,
                    RuntimeError,
                    ValueError,
                ):  # no memory, no descriptors, a system that forbids it
                    return None
            self._blocks.append(fitting)
            lent = fitting.lend(size)
            self._let_idle_go()
            return lent

    def _let_idle_go(self) -> None:
        """Let free blocks go, those that were lent longest ago first, when they have been more than those in use for long."""
        free = [block for block in self._blocks if block.is_free]
        too_many = 2 * sum(block.size for block in free) - sum(block.size for block in self._blocks)
        self._surplus = self._surplus + 1 if too_many > 0 else 0
        if self._surplus >= SURPLUS:
            self._surplus = 0
            for block in free:
                if too_many > 0:
                    self._remove(block)
                    too_many -= block.size

    def _remove(self, block: _Block) -> None:
        self._blocks.remove(block)
        self._gone += [block.name] if block.is_known else []

    def forked(self) -> None:
        """What this process sees a fork of it may see for longer: those blocks are given up."""
        with self._lock:
            for block in [one for one in self._blocks if one.lent is not None]:
                self._blocks.remove(block)

    def image(self, memory: torch.Tensor) -> Bytes:
        """Bytes of lent memory in which an image is made."""
        image: Bytes = memory.numpy()
        with self._lock:
            lent = memory.untyped_storage().data_ptr()
            for block in self._blocks:
                if block.has(lent):
                    block.images.append(weakref.ref(image))
        return image

    def in_one_piece(self, tensors: Sequence[torch.Tensor]) -> Bytes | None:
        """What was lent to make these tensors in, one behind the other and nothing before them; once, since then it is another's."""
        first, size = tensors[0].data_ptr(), tensors[0].nbytes
        places = enumerate(tensors)
        if not all(
            one.is_contiguous() and one.data_ptr() == first + place * size and not one.is_neg()
            for place, one in places
        ):
            return None
        block = self._at(first)
        memory = None if block is None else block.lent
        if block is None or block.is_batch or memory is None or memory.nbytes < len(tensors) * size:
            return None
        block.is_batch = True
        return memory

    def sent(self, value: torch.Tensor) -> tuple[Any, ...] | None:
        """What a receiver needs to see a tensor: itself where it lies in a block that nobody else sees, else a copy; None where none."""
        block = self._taken(value)
        if block is None:
            copy = empty(value.shape, value.dtype).copy_(value)
            block = self._taken(copy)
        if block is None:
            return None
        with self._lock:
            descriptor = (
                None if block.is_known else reduction.DupFd(block.descriptor)
            )  # not on Windows, nor are blocks
            block.is_known = True
            block.bytes[_STATE] = _OUT
            gone, self._gone = self._gone, []
            return (
                block.name,
                (self.process, block.descriptor),
                block.size,
                value.nbytes,
                descriptor,
                gone,
            )

    def _taken(self, value: torch.Tensor) -> _Block | None:
        """The block that a tensor begins, to be sent once: several threads may be about to send the same batch."""
        block = self._at(value.data_ptr())
        with self._lock:
            if block is None or block.is_sent:
                return None
            if any(image() is not None for image in block.images):
                if block in self._blocks:
                    self._blocks.remove(block)  # it goes with those who keep it
                return None
            block.is_sent = True
            return block

    def _at(self, address: int) -> _Block | None:
        with self._lock:
            return next((block for block in self._blocks if block.has(address)), None)


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
    return (
        torch.empty(tuple(shape), dtype=dtype) if lent is None else _as_tensor(lent, shape, dtype)
    )


def stacked(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    """Plain tensors of one shape and dtype in one; in a worker, where it need not be copied again, and not at all if `Rows` made them.

    Then it is the tensors' own memory: who changes one changes the other.
    """
    shape, dtype = (len(tensors), *tensors[0].shape), tensors[0].dtype
    pool = _own_pool()
    if pool is not None and (memory := pool.in_one_piece(tensors)) is not None:
        return _as_tensor(memory, shape, dtype)
    return torch.stack(list(tensors), out=empty(shape, dtype))


class Rows:
    """Where a thread makes the images of a batch, so that they lie one behind the other in memory that leaves the worker as it is.

    ``with Rows(count) as rows:`` `place` is the place in the batch of the sample that is being made. The first batch of a worker only
    tells whether that may be: not where images differ in size, and not where somebody keeps them, who might change them while
    the batch is on its way. ``Rows(0)`` makes no images in place, as for samples of their own within a batch.
    """

    def __init__(self, count: int) -> None:
        self.place = 0
        self._count = count
        self._sizes: set[int] = set()
        self._made: set[int] = set()
        self._images: list[weakref.ref[Bytes]] = []
        self._memory: torch.Tensor | None = None
        self._outer: Rows | None = None

    def __enter__(self) -> "Rows":
        self._outer, _of_thread.rows = getattr(_of_thread, "rows", None), self
        if (
            self._count
            and (pool := _own_pool()) is not None
            and any(image() is not None for image in pool.images)
        ):
            pool.makes_in_place = False
        return self

    def __exit__(self, *error: object) -> None:
        _of_thread.rows = self._outer
        if self._sizes and (pool := _own_pool()) is not None:
            pool.makes_in_place = pool.makes_in_place is not False and len(self._sizes) == 1
            pool.images = self._images

    def new(self, size: int) -> Bytes:
        """The memory of the sample's image."""
        pool = _own_pool() if self._count else None
        if pool is None:
            return np.empty(size, np.uint8)
        self._sizes.add(size)
        image = self._in_place(pool, size)
        if image is None:
            image = np.empty(size, np.uint8)
        self._images.append(weakref.ref(image))
        return image

    def _in_place(self, pool: _Pool, size: int) -> Bytes | None:
        if not pool.makes_in_place or self.place in self._made or len(self._sizes) > 1:
            return None
        if not self._made:
            lent = pool.lend(self._count * size) if self._count * size >= IN_BLOCKS else None
            self._memory = None if lent is None else torch.from_numpy(lent).view(self._count, size)
        self._made.add(self.place)
        return None if self._memory is None else pool.image(self._memory[self.place])


_of_thread: Final = threading.local()


def new_array(shape: Sequence[int], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """A new array for the image of a sample, its content undefined."""
    rows: Rows | None = getattr(_of_thread, "rows", None)
    if rows is None:
        return np.empty(tuple(shape), dtype)
    return rows.new(math.prod(shape) * np.dtype(dtype).itemsize).view(dtype).reshape(tuple(shape))


class _Placed(NamedTuple):
    """What a tensor is made of again: its bytes, or where they are (the arguments of `_received`)."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    where: Any


def _reduced(parcel: dict[str, Any]) -> tuple[Any, ...]:
    return _arrived, (type(parcel), {key: _packed(value) for key, value in parcel.items()})


def _packed(value: Any) -> Any:
    """A value with `_Placed` in the place of each plain tensor."""
    if type(value) is list:
        return [_packed(one) for one in value]
    if not is_plain(value):
        return value
    value, pool = (
        value.resolve_neg(),
        _own_pool(),
    )  # torch would send what lies in memory and forget that it stands for its negative
    if not value.is_contiguous():
        return value  # in an order of its own, such as channels last, which torch keeps
    try:
        where = (
            value.reshape(-1).view(torch.uint8).numpy()
            if value.nbytes < IN_BLOCKS
            else pool and pool.sent(value)
        )
    except (
        Exception
    ):  # an error here would be no answer to who waits for the batch: torch may find a way
        where = None
    return value if where is None else _Placed(tuple(value.shape), value.dtype, where)


# --- the receiver's side ----------------------------------------------------------------------------------------------

_known: Final[
    dict[str, tuple[int, Bytes]]
] = {}  # of each block: the worker that it belongs to, and its bytes
_seen: Final[set[str]] = set()  # blocks whose content this process sees
_forked: Final[set[str]] = (
    set()
)  # of those, what a process that was forked from this one may see, too
_watched: Final[
    dict[int, weakref.ref[Any]]
] = {}  # the processes of the workers that blocks are known of


def _arrived(kind: type[Any], packed: dict[str, Any]) -> Any:
    values = {key: _unpacked(value) for key, value in packed.items()}
    return values if kind is Parcel else kind(values)


def _unpacked(value: Any) -> Any:
    if type(value) is list:
        return [_unpacked(one) for one in value]
    if type(value) is not _Placed:
        return value
    memory = value.where if isinstance(value.where, np.ndarray) else _received(*value.where)
    return _as_tensor(memory, value.shape, value.dtype)


def _received(
    name: str, place: tuple[int, int], size: int, content: int, descriptor: Any, gone: list[str]
) -> Bytes:
    """The bytes of a block's content and no more: what keeps or copies the tensor's storage must not have another's pixels."""
    for other in gone:
        _known.pop(other, None)
    worker, number = place
    whole = _known[name][1] if name in _known else _first_seen(worker, number, size, descriptor)
    if _is_watched(worker):
        _known[name] = worker, whole
    seen = whole[_PAGE : _PAGE + content]
    _seen.add(name)
    weakref.finalize(seen, _give_back, name, whole, worker, os.getpid()).atexit = False
    return seen


def _first_seen(worker: int, number: int, size: int, descriptor: Any) -> Bytes:
    """A block that is handed over as torch hands over its own; or, where another process got it first, as the worker has it."""
    opened = -1
    try:
        opened = -1 if descriptor is None else descriptor.detach()
        path = f"/proc/{worker}/fd/{number}" if descriptor is None else f"/proc/self/fd/{opened}"
        if os.stat(path).st_size != size:
            raise FileNotFoundError
        return _mapped(path, size)
    except (OSError, EOFError) as error:
        raise RuntimeError(
            "a batch cannot be received: the worker that made it has ended, or no descriptors are left"
        ) from error
    finally:
        if opened >= 0:
            os.close(opened)


def _give_back(name: str, whole: Bytes, worker: int, process: int) -> None:
    """The last view of a block's content is gone; in a fork it is not the last one."""
    if os.getpid() != process:
        return
    _seen.discard(name)
    if name in _forked:
        _forked.discard(name)
        _known.pop(name, None)
        whole[_STATE] = _LOST
    else:
        whole[_STATE] = _FREE
    if _has_ended(worker):
        for one in [one for one in list(_watched) if _has_ended(one)]:
            _forget(one)


def _is_watched(worker: int) -> bool:
    """Whether a worker is this process's own, whose blocks are forgotten when it ends or its loader goes."""
    if worker not in _watched:
        for child in tuple(getattr(multiprocessing.process, "_children", ())):
            if child.pid == worker:
                _watched[worker] = weakref.ref(child)
                weakref.finalize(child, _forget, worker).atexit = False
    return worker in _watched


def _has_ended(worker: int) -> bool:
    watched = _watched.get(worker)
    owner = None if watched is None else watched()
    return owner is not None and owner.exitcode is not None


def _forget(worker: int) -> None:
    _watched.pop(worker, None)
    for name in [name for name, (own, _) in list(_known.items()) if own == worker]:
        _known.pop(name, None)


def _before_fork() -> None:
    _forked.update(tuple(_seen))
    if _pool is not None and _pool.process == os.getpid():
        _pool.forked()


def _after_fork() -> None:
    _known.clear()
    _seen.clear()
    _forked.clear()
    _watched.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_child=_after_fork)


# --- both sides -------------------------------------------------------------------------------------------------------


def _mapped(path: str, size: int) -> Bytes:
    """A file's bytes; by torch, whose maps keep no descriptor, as Python's do."""
    mapped: Bytes = torch.from_file(path, shared=True, size=size, dtype=torch.uint8).numpy()
    return mapped


def _as_tensor(memory: Bytes, shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
    size = torch.Size(shape).numel() * dtype.itemsize
    return (
        torch.from_numpy(memory)[:size].view(dtype).reshape(tuple(shape)).detach()
    )  # a view could not be detached in place


ForkingPickler.register(Parcel, _reduced)
ForkingPickler.register(Sample, _reduced)  # one that is delivered without a batch
