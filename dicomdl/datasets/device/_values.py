"""Stored and modality values on a device: the copy, the significant bits, the rescale."""

from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from dicomdl.arrays import Values
from dicomdl.datasets.device._kinds import Kind
from dicomdl.errors import DecodeError, IntensityError
from dicomdl.pixels.bits import CodedBits, coded_rule
from dicomdl.values.rescale import Rescale

_INT32: Final = np.iinfo(np.int32)


def to_device(values: Values, device: Any) -> Tensor:
    """Return an array of stored values on a device, in the dtypes of `DeviceDecoder.read`.

    The copy to CUDA goes through pinned memory. uint64 values beyond int64 raise a DecodeError.
    """
    if values.dtype == np.uint64 and values.size and int(values.max()) >= 1 << 63:
        raise DecodeError("stored values of 2**63 and more: torch has no integers for them")
    plain = (
        values.view(f"i{values.itemsize}")
        if values.dtype.kind == "u" and values.itemsize > 1
        else values
    )
    tensor = torch.from_numpy(np.ascontiguousarray(plain))
    if torch.device(device).type == "cuda":
        tensor = tensor.pin_memory()
    tensor = tensor.to(device, non_blocking=True)
    return _unsigned(tensor, values.itemsize) if values.dtype.kind == "u" else tensor


def _unsigned(tensor: Tensor, itemsize: int) -> Tensor:
    """Return the unsigned numbers whose bits a signed tensor holds, in twice the width.

    torch has hardly any operation on uint16 and uint32.
    """
    if itemsize == 2:
        return tensor.to(torch.int32).bitwise_and_(0xFFFF)
    return tensor.to(torch.int64).bitwise_and_(0xFFFFFFFF) if itemsize == 4 else tensor


def keep_coded_bits(samples: Tensor, kind: Kind) -> Tensor:
    """Return decoded samples as stored values, by the rules of `pixels.bits`.

    The values have the sign that the header declares and no bits above BitsStored; overshoot of
    lossy codecs is clipped.

    Parameters
    ----------
    samples
        uint8, int8, uint16 or int16 of any shape, as the decoder returns them; not changed.
    kind
        The kind of the frame.

    Returns
    -------
    Tensor
        uint8, int8, int16, or int32 for unsigned values of 16 bits allocated; a new tensor.
    """
    coded_signed = samples.dtype in (torch.int8, torch.int16)
    wide = samples.element_size() == 2 and not coded_signed
    values = _unsigned(samples.view(torch.int16), 2) if wide else samples.to(torch.int32, copy=True)
    rule = coded_rule(kind.header_bits, CodedBits(kind.precision, coded_signed, kind.lossy))
    if rule.action == "extend":
        values.bitwise_left_shift_(31 - rule.high).bitwise_right_shift_(32 - rule.bits)
    elif rule.action == "mask":
        values.bitwise_right_shift_(rule.high + 1 - rule.bits).bitwise_and_((1 << rule.bits) - 1)
    elif rule.action == "clip":
        values.clamp_(*rule.limits)
    dtypes = {(8, 0): torch.uint8, (8, 1): torch.int8, (16, 0): torch.int32, (16, 1): torch.int16}
    return values.to(dtypes[kind.bits_allocated, kind.pixel_representation])


def to_modality(
    stored: Tensor, rescale: Rescale, stored_range: tuple[int, int] | None = None
) -> Tensor:
    """Return modality values, equal to those of `Rescale` for an array.

    They are computed in float64 and rounded once.

    Parameters
    ----------
    stored
        Any shape and device, as from `DeviceDecoder.read`; integers up to 32 bits are exact.
    rescale
        Slope and intercept.
    stored_range
        Bounds that the caller guarantees, such as (0, 4095). Without them the values are examined
        if their dtype does not decide whether the result fits int32.

    Returns
    -------
    Tensor
        int32 if slope, intercept and stored values are integers and the result fits, else float32;
        a new tensor.

    Raises
    ------
    IntensityError
        Values are beyond the range of float32.
    """
    values = stored.to(torch.float64, copy=True).mul_(rescale.slope).add_(rescale.intercept)
    integers = not stored.dtype.is_floating_point and rescale.is_integral
    if integers and (
        _fits_int32(_ends(stored, rescale, stored_range)) or _fits_int32(_extremes(values))
    ):
        return values.to(torch.int32)
    result = values.to(torch.float32)
    if bool((result.isinf() & ~stored.isinf()).any()):
        given = f"slope {rescale.slope} and intercept {rescale.intercept}"
        message = f"{given} give values beyond the range of float32"
        raise IntensityError(message, slope=rescale.slope, intercept=rescale.intercept)
    return result


def _ends(
    stored: Tensor, rescale: Rescale, stored_range: tuple[int, int] | None
) -> tuple[float, float]:
    """Return the least and greatest modality value that the range of stored values allows."""
    limits = torch.iinfo(torch.uint8 if stored.dtype == torch.bool else stored.dtype)
    ends = [
        value * rescale.slope + rescale.intercept
        for value in stored_range or (limits.min, limits.max)
    ]
    return min(ends), max(ends)


def _extremes(values: Tensor) -> tuple[float, float]:
    """Return the least and greatest value."""
    return (float(values.min()), float(values.max())) if values.numel() else (0.0, 0.0)


def _fits_int32(ends: tuple[float, float]) -> bool:
    """Return whether a range of values fits int32."""
    return _INT32.min <= ends[0] and ends[1] <= _INT32.max
