"""The collation of samples into batches: `collate`, and a hook for torch's default collate.

A batch of plain tensors is written into a buffer that leaves the worker without a copy; other
values take torch's way (see `transport`).
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, Final

import torch

from dicomdl.datasets.sample import Sample
from dicomdl.datasets.transport.check import torch_collate
from dicomdl.datasets.transport.memory import is_plain_tensor
from dicomdl.datasets.transport.pool import own_pool, stacked
from dicomdl.datasets.transport.wire import OutgoingBatch
from dicomdl.datasets.worker import errors_leave_whole, is_worker
from dicomdl.errors import UsageError

_TORCH: Final = torch_collate()


def teach_default_collate() -> None:
    """Register `Sample` in ``default_collate_fn_map``, the extension point that torch documents."""
    if _TORCH is not None:
        _TORCH.default_collate_fn_map[Sample] = _collate_by_default


@errors_leave_whole
def _collate_by_default(samples: Sequence[Sample], *, collate_fn_map: Any = None) -> dict[str, Any]:
    """Collate samples as the default collate does dicts; raise for images of several sizes."""
    shapes = {
        tuple(sample["image"].shape)
        for sample in samples
        if isinstance(sample.get("image"), torch.Tensor)
    }
    if len(shapes) > 1:
        sizes = ", ".join(" x ".join(map(str, shape)) for shape in sorted(shapes))
        raise UsageError(
            f"a batch needs images of one size, found {sizes}: give the dataset size=... (and "
            "channels=...), use batch_size=1, or DataLoader(collate_fn=dicomdl.collate), which "
            "keeps them in a list",
            shapes=sorted(shapes),
        )
    return _collated(
        _of_one_type(samples),
        lambda values: _TORCH.collate(values, collate_fn_map=collate_fn_map),
    )


def _of_one_type(samples: Sequence[Sample]) -> Sequence[Sample]:
    """Return the samples with their images in one dtype, which holds all their values exactly.

    With ``intensity_on="device"`` a batch may mix integer dtypes, or integers and floats.
    """
    types = {
        sample["image"].dtype for sample in samples if isinstance(sample.get("image"), torch.Tensor)
    }
    if len(types) < 2:
        return samples
    widest = functools.reduce(torch.promote_types, types)
    if widest == torch.float32 and torch.int32 in types:
        # float32 does not hold every int32; float64 holds both exactly.
        widest = torch.float64
    return [Sample({**sample, "image": sample["image"].to(widest)}) for sample in samples]


@errors_leave_whole
def collate(samples: Sequence[Any]) -> Any:
    """Collate samples of any sizes: tensors of one shape are stacked, others stay a list.

    Use as ``DataLoader(dataset, batch_size=8, collate_fn=dicomdl.collate)``. In a worker the batch
    may share memory with the samples, as with the default collate: change samples before they are
    collated.

    Parameters
    ----------
    samples
        Dicts with the same keys, at least one. Other values, which a transform may return, are
        collated as torch does.

    Returns
    -------
    dict
        Per key a tensor (samples, ...), a list of tensors of several shapes, or what torch's
        default collate makes of the values.

    Examples
    --------
    >>> import torch
    >>> small, large = torch.zeros(1, 2, 2), torch.zeros(1, 3, 3)
    >>> batch = collate([{"image": small, "row": 0}, {"image": large, "row": 1}])
    >>> [tuple(image.shape) for image in batch["image"]], batch["row"]
    ([(1, 2, 2), (1, 3, 3)], tensor([0, 1]))
    >>> collate([{"image": small}, {"image": small}])["image"].shape
    torch.Size([2, 1, 2, 2])
    """
    if not isinstance(samples[0], dict):
        # A transform may return anything.
        return torch.utils.data.default_collate(list(samples))
    return _collated(_of_one_type(samples), _stacked_or_listed)


def _stacked_or_listed(values: list[Any]) -> Any:
    """Return the values as torch collates them, or as they are for tensors of several shapes."""
    shapes = {tuple(value.shape) for value in values if isinstance(value, torch.Tensor)}
    return values if len(shapes) > 1 else torch.utils.data.default_collate(values)


def _collated(samples: Sequence[Any], otherwise: Callable[[list[Any]], Any]) -> dict[str, Any]:
    """Return one dict: plain tensors of one shape stacked, other values collated by `otherwise`."""
    leaves = own_pool() is not None
    batch: dict[str, Any] = OutgoingBatch() if leaves else {}
    for key in samples[0]:
        values = [sample[key] for sample in samples]
        are_alike = (
            all(map(is_plain_tensor, values))
            and len({(value.shape, value.dtype) for value in values}) == 1
        )
        if are_alike and (leaves or not is_worker()):
            batch[key] = stacked(values)
        elif are_alike:
            # In a worker without buffers torch stacks into shared memory, which does not hold
            # lazy negatives.
            batch[key] = otherwise([value.resolve_neg() for value in values])
        else:
            batch[key] = otherwise(values)
    return tensors_last(batch)


def tensors_last(batch: dict[str, Any]) -> dict[str, Any]:
    """Order the entries of a batch: without tensors, stacked tensors, tensors of several shapes.

    Lightning takes the length of the first tensor for the batch size, and warns of an ambiguous
    collection where text, or a tensor of another length, follows.
    """
    for key in sorted(batch, key=lambda key: _place(batch[key])):
        batch[key] = batch.pop(key)
    return batch


def _place(value: Any) -> int:
    if isinstance(value, torch.Tensor):
        return 1
    return 2 if isinstance(value, list | tuple) and any(map(torch.is_tensor, value)) else 0
