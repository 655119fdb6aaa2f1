"""The pickling of batches and samples that are sent from a worker to a receiver."""

from multiprocessing.reduction import ForkingPickler
from typing import Any, NamedTuple

import numpy as np
import torch

from dicomdl.datasets.sample import Sample
from dicomdl.datasets.transport.memory import Bytes, Lease, as_tensor, is_plain_tensor
from dicomdl.datasets.transport.pool import MIN_BYTES, Pool, own_pool
from dicomdl.datasets.transport.receiver import RECEIVER


class OutgoingBatch(dict[str, Any]):
    """A batch that leaves a worker; the receiver gets a plain dict."""


class _Packed(NamedTuple):
    """A plain tensor as it is sent: its bytes, or the lease of the buffer that holds them."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    contents: Bytes | Lease


def _reduced(values: dict[str, Any]) -> tuple[Any, ...]:
    """Reduce a batch or sample, with its plain tensors packed if this process has a pool."""
    kind = dict if type(values) is OutgoingBatch else type(values)
    pool = own_pool()
    if pool is None:
        return kind, ({key: _resolved(value) for key, value in values.items()},)
    return _received, (kind, {key: _packed(value, pool) for key, value in values.items()})


def _packed(value: Any, pool: Pool) -> Any:
    """Return a value with each plain tensor replaced by a `_Packed`."""
    if type(value) is list:
        return [_packed(item, pool) for item in value]
    value = _resolved(value)
    # torch preserves another memory order, such as channels last.
    if not is_plain_tensor(value) or not value.is_contiguous():
        return value
    contents: Bytes | Lease | None = None
    try:
        if value.nbytes < MIN_BYTES:
            contents = value.reshape(-1).view(torch.uint8).numpy()
        else:
            contents = pool.send(value)
    except Exception:
        # An error here would leave the receiver waiting. torch may still be able to send the value.
        return value
    return value if contents is None else _Packed(tuple(value.shape), value.dtype, contents)


def _resolved(value: Any) -> Any:
    """Return a value whose memory holds its numbers.

    torch loses the negative bit of a tensor when it sends its memory.
    """
    return value.resolve_neg() if is_plain_tensor(value) else value


def _received(kind: type[Any], packed: dict[str, Any]) -> Any:
    """Return the batch or sample, in the receiver."""
    return kind({key: _unpacked(value) for key, value in packed.items()})


def _unpacked(value: Any) -> Any:
    """Return a value with each `_Packed` replaced by its tensor."""
    if type(value) is list:
        return [_unpacked(item) for item in value]
    if type(value) is not _Packed:
        return value
    contents = value.contents
    memory = contents if isinstance(contents, np.ndarray) else RECEIVER.receive(contents)
    return as_tensor(memory, value.shape, value.dtype)


ForkingPickler.register(OutgoingBatch, _reduced)
# A dataset without batches sends samples one by one.
ForkingPickler.register(Sample, _reduced)
