"""The collation of samples into batches: `collate`, and a hook for torch's default collate.

A batch of plain tensors is written into a buffer that leaves the worker without a copy; other
values take torch's way (see `transport`).
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, Final

import torch

from dicomdl.datasets.sample import RAGGED, Members, Sample
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
    lengths = {len(sample["present"]) for sample in samples if "present" in sample}
    if len(lengths) > 1:
        raise UsageError(
            f"a batch needs samples of one length, found {sorted(lengths)} members: use "
            "batch_size=1, or DataLoader(collate_fn=dicomdl.collate), which pads them",
            lengths=sorted(lengths),
        )

    def otherwise(values: list[Any]) -> Any:
        if isinstance(values[0], Members):
            return values
        return _TORCH.collate(values, collate_fn_map=collate_fn_map)

    return _collated(_of_one_type(samples), otherwise)


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

    Samples with members, such as the volumes of groups or the stacks of bags, may have different
    numbers of them. Their tensors are padded with zeros to the longest along the axis of members,
    if they agree in all other axes, and `present` (samples, members) tells members from padding.
    Boxes and points, with their labels, are always a list with one tensor per sample.

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
    >>> ones = [{"image": torch.ones(n, 2, 2), "present": torch.ones(n) > 0} for n in (1, 3)]
    >>> collate(ones)["image"].shape, collate(ones)["present"].sum(dim=1)
    (torch.Size([2, 3, 2, 2]), tensor([1, 3]))
    """
    if not isinstance(samples[0], dict):
        # A transform may return anything.
        return torch.utils.data.default_collate(list(samples))
    return _collated(_of_equal_lengths(_members_stacked(_of_one_type(samples))), _stacked_or_listed)


def _members_stacked(samples: Sequence[Any]) -> Sequence[Any]:
    """Return bags with their members stacked, where those of all samples have one shape."""
    keys = [key for key in samples[0] if isinstance(samples[0][key], Members) and key not in RAGGED]
    stacked_keys = []
    for key in keys:
        members = [member for sample in samples for member in sample[key]]
        if all(isinstance(member, torch.Tensor) for member in members) and (
            len({(member.shape, member.dtype) for member in members}) == 1
        ):
            stacked_keys.append(key)
    if not stacked_keys:
        return samples
    return [
        Sample({**sample, **{key: torch.stack(sample[key]) for key in stacked_keys}})
        for sample in samples
    ]


def _stacked_or_listed(values: list[Any]) -> Any:
    """Return the values as torch collates them, or as they are for tensors of several shapes.

    Lists of members stay lists, one per sample.
    """
    shapes = {tuple(value.shape) for value in values if isinstance(value, torch.Tensor)}
    if len(shapes) > 1 or isinstance(values[0], Members):
        return values
    return torch.utils.data.default_collate(values)


def _of_equal_lengths(samples: Sequence[Sample]) -> Sequence[Sample]:
    """Return the samples with their members padded to the longest sample."""
    present = [sample.get("present") for sample in samples]
    lengths = [len(each) for each in present if isinstance(each, torch.Tensor) and each.ndim]
    if len(lengths) < len(samples) or min(lengths) == max(lengths):
        return samples
    longest = max(lengths)
    padded = [Sample(sample) for sample in samples]
    for key in samples[0]:
        if key in RAGGED:
            continue
        values = [sample[key] for sample in samples]
        axis = _axis_of_members(values, lengths)
        if axis is not None:
            for sample, value in zip(padded, values, strict=True):
                sample[key] = _lengthened(value, axis, longest)
    return padded


def _axis_of_members(values: Sequence[Any], lengths: Sequence[int]) -> int | None:
    """Return the axis, 0 or 1, along which tensors have their members; None where they have none.

    Lengths differ from sample to sample, so that no other axis has all of them by chance.
    """
    if not all(isinstance(value, torch.Tensor) for value in values):
        return None
    for axis in (0, 1):
        shapes = [list(value.shape) for value in values]
        if all(len(shape) > axis for shape in shapes):
            along = [shape.pop(axis) for shape in shapes]
            if along == list(lengths) and all(shape == shapes[0] for shape in shapes):
                return axis
    return None


def _lengthened(value: torch.Tensor, axis: int, length: int) -> torch.Tensor:
    """Return a tensor padded with zeros (False) at the end of an axis."""
    shape = list(value.shape)
    if shape[axis] == length:
        return value
    padded = value.new_zeros([*shape[:axis], length, *shape[axis + 1 :]])
    padded.narrow(axis, 0, shape[axis]).copy_(value)
    return padded


def _collated(samples: Sequence[Any], otherwise: Callable[[list[Any]], Any]) -> dict[str, Any]:
    """Return one dict: plain tensors of one shape stacked, other values collated by `otherwise`."""
    leaves = own_pool() is not None
    batch: dict[str, Any] = OutgoingBatch() if leaves else {}
    for key in samples[0]:
        values = [sample[key] for sample in samples]
        if key in RAGGED:
            batch[key] = values
            continue
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
