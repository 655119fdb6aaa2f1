"""Samples to batches: `collate`, and what torch's default collate does with samples."""

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
    """Tell torch's default collate about samples, at the extension point that torch documents for it."""
    if _TORCH is not None:
        _TORCH.default_collate_fn_map[Sample] = _collate_by_default


@errors_leave_whole
def _collate_by_default(samples: Sequence[Sample], *, collate_fn_map: Any = None) -> dict[str, Any]:
    """What the default collate does with samples.

    As with any dict, once their images have one size.
    """
    shapes = {
        tuple(sample["image"].shape)
        for sample in samples
        if isinstance(sample.get("image"), torch.Tensor)
    }
    if len(shapes) > 1:
        found = ", ".join(" x ".join(map(str, shape)) for shape in sorted(shapes))
        raise UsageError(
            f"a batch needs images of one size, found {found}: give the dataset size=... (and channels=...), use batch_size=1, "
            "or DataLoader(collate_fn=dicomdl.collate), which keeps them in a list",
            shapes=sorted(shapes),
        )
    return _collated(
        _of_one_type(samples),
        lambda values: _TORCH.collate(values, collate_fn_map=collate_fn_map),
    )


def _of_one_type(samples: Sequence[Sample]) -> Sequence[Sample]:
    """The samples with images of one dtype.

    Integers that wait for their intensity may be of two, or beside floats.
    """
    types = {
        sample["image"].dtype for sample in samples if isinstance(sample.get("image"), torch.Tensor)
    }
    if len(types) < 2:
        return samples
    widest = functools.reduce(torch.promote_types, types)
    if widest == torch.float32 and torch.int32 in types:
        widest = torch.float64  # which holds both exactly
    return [Sample({**sample, "image": sample["image"].to(widest)}) for sample in samples]


@errors_leave_whole
def collate(samples: Sequence[Any]) -> Any:
    """Collate samples of any sizes.

    What has one shape is stacked, tensors of several shapes stay a list.

    Use as ``DataLoader(dataset, batch_size=8, collate_fn=dicomdl.collate)``. In a worker the batch
    may be the samples' own memory, as it may with the default collate: change samples before they
    are collated, not afterwards.
    """
    if not isinstance(samples[0], dict):  # a transform may deliver anything
        return torch.utils.data.default_collate(list(samples))
    return _collated(_of_one_type(samples), _stacked_or_listed)


def _stacked_or_listed(values: list[Any]) -> Any:
    are_of_several_shapes = (
        len({tuple(value.shape) for value in values if isinstance(value, torch.Tensor)}) > 1
    )
    return values if are_of_several_shapes else torch.utils.data.default_collate(values)


def _collated(samples: Sequence[Any], otherwise: Callable[[list[Any]], Any]) -> dict[str, Any]:
    """One dict of all samples.

    Plain tensors of one shape stacked, the rest as `otherwise` collates it.
    """
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
            # torch's way out of a worker, whose stack lies in shared memory and takes
            # no lazy negatives.
            batch[key] = otherwise([value.resolve_neg() for value in values])
        else:
            batch[key] = otherwise(values)
    return batch
