"""How batches and samples are pickled on their way from a worker to a receiver."""

from multiprocessing.reduction import ForkingPickler
from typing import Any, NamedTuple

import numpy as np
import torch

from dicomdl.datasets.sample import Sample
from dicomdl.datasets.transport.memory import Bytes, Lease, as_tensor, is_plain_tensor
from dicomdl.datasets.transport.pool import MIN_BYTES, Pool, own_pool
from dicomdl.datasets.transport.receiver import RECEIVER


class OutgoingBatch(dict[str, Any]):
    """A batch that leaves a worker; a plain dict arrives."""


class _Packed(NamedTuple):
    """A plain tensor on its way: its bytes, or where they lie."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    contents: Bytes | Lease


def _reduced(values: dict[str, Any]) -> tuple[Any, ...]:
    kind = dict if type(values) is OutgoingBatch else type(values)
    pool = own_pool()
    if pool is None:
        return kind, ({key: _resolved(value) for key, value in values.items()},)
    return _arrived, (kind, {key: _packed(value, pool) for key, value in values.items()})


def _packed(value: Any, pool: Pool) -> Any:
    """A value with `_Packed` in place of each plain tensor."""
    if type(value) is list:
        return [_packed(one, pool) for one in value]
    value = _resolved(value)
    # torch keeps an order of its own, such as channels last.
    if not is_plain_tensor(value) or not value.is_contiguous():
        return value
    contents: Bytes | Lease | None = None
    try:
        if value.nbytes < MIN_BYTES:
            contents = value.reshape(-1).view(torch.uint8).numpy()
        else:
            contents = pool.send(value)
    except Exception:
        # An error here would leave the receiver waiting: torch may find a way.
        return value
    return value if contents is None else _Packed(tuple(value.shape), value.dtype, contents)


def _resolved(value: Any) -> Any:
    """A value that is what lies in its memory.

    Torch forgets that a tensor stands for its negative.
    """
    return value.resolve_neg() if is_plain_tensor(value) else value


def _arrived(kind: type[Any], packed: dict[str, Any]) -> Any:
    return kind({key: _unpacked(value) for key, value in packed.items()})


def _unpacked(value: Any) -> Any:
    if type(value) is list:
        return [_unpacked(one) for one in value]
    if type(value) is not _Packed:
        return value
    contents = value.contents
    memory = contents if isinstance(contents, np.ndarray) else RECEIVER.receive(contents)
    return as_tensor(memory, value.shape, value.dtype)


ForkingPickler.register(OutgoingBatch, _reduced)
ForkingPickler.register(Sample, _reduced)  # one that is delivered without a batch
