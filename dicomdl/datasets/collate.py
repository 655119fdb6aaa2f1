"""datasets.collate"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.utils.data._utils.collate import collate as _default_collate

from dicomdl.datasets.sample import Sample
from dicomdl.datasets.transport import Parcel, is_plain, stacked
from dicomdl.datasets.worker import errors_leave_whole, is_worker
from dicomdl.errors import UsageError


@errors_leave_whole
def collate_by_default(samples: Sequence[Sample], *, collate_fn_map: Any = None) -> dict[str, Any]:
    """What the default collate does with samples: as with any dict, once their images have one size."""
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
        lambda values: _default_collate(values, collate_fn_map=collate_fn_map),
    )


def _of_one_type(samples: Sequence[Sample]) -> Sequence[Sample]:
    """The samples with images of one dtype: integers that wait for their intensity may be of two, or beside floats."""
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
    """Collate samples of any sizes: what has one shape is stacked, tensors of several shapes stay a list.

    Use as ``DataLoader(dataset, batch_size=8, collate_fn=dicomdl.collate)``. In a worker the batch may be the samples' own memory, as it
    may with the default collate: change samples before they are collated, not afterwards.
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
    """One dict of all: plain tensors of one shape stacked, the rest as `otherwise` says; in a worker, one that is on its way."""
    batch: dict[str, Any] = Parcel() if is_worker() else {}
    for key in samples[0]:
        values = [sample[key] for sample in samples]
        are_alike = (
            all(map(is_plain, values))
            and len({(value.shape, value.dtype) for value in values}) == 1
        )
        batch[key] = stacked(values) if are_alike else otherwise(values)
    return batch
