"""datasets.device.values"""

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch

from dicomdl.errors import DecodeError, IntensityError, UsageError
from dicomdl.values.intensity import Intensity
from dicomdl.values.rescale import Rescale
from dicomdl.values.windows import Identity, IntensityMap, Limits, Percentile, VoiLut, Window

if TYPE_CHECKING:
    from torch import Tensor
from dicomdl.arrays import Values
from dicomdl.datasets.device.kinds import Kind


def intensity_as_data(recipe: Intensity) -> torch.Tensor:
    """A recipe as five numbers that collate: kind (0 as it is, 1 linear, 2 sigmoid), lower or center, width, clip, invert; float64.

    Raises
    ------
    UsageError
        The recipe is a function of the caller's or a table: no numbers say what it does.
    """
    mapping, flags = recipe.mapping, [1.0, float(recipe.invert)]
    if isinstance(mapping, Identity):
        return torch.tensor([0.0, 0.0, 1.0, 0.0, float(recipe.invert)], dtype=torch.float64)
    if isinstance(mapping, Window) and mapping.function == "SIGMOID":
        return torch.tensor([2.0, mapping.center, mapping.width, *flags], dtype=torch.float64)
    if isinstance(mapping, Window):
        width = mapping.width - 1 if mapping.function == "LINEAR" else mapping.width
        return torch.tensor([1.0, mapping.limits[0], width, *flags], dtype=torch.float64)
    if isinstance(mapping, Limits):
        return torch.tensor(
            [1.0, mapping.lower, mapping.upper - mapping.lower, float(mapping.clip), flags[1]],
            dtype=torch.float64,
        )
    raise UsageError(
        'intensity_on="device" takes windows, limits and percentiles: a function or a table is applied on the CPU'
    )


def apply_intensity(batch: dict[str, Any], device: Any = None) -> dict[str, Any]:
    """A batch (or a sample) of ``intensity_on="device"``, its images mapped on `device`: float32, as the CPU would make them.

    Integers are half the bytes to carry; the copy does not wait where the batch is pinned. Values agree with those of
    ``intensity_on="cpu"`` within 2 units in the last place. `intensity` leaves the batch.
    """
    image, intensity = batch["image"], batch["intensity"]
    rest = {key: value for key, value in batch.items() if key not in ("image", "intensity")}
    if isinstance(image, list):  # images of several sizes, as `collate` leaves them
        parts = [
            apply_intensity({"image": one, "intensity": own}, device)
            for one, own in zip(image, intensity, strict=True)
        ]
        return {"image": [part["image"] for part in parts], **rest}
    single = intensity.ndim == 1
    images = (image[None] if single else image).to(device, non_blocking=True)
    result = torch.empty(images.shape, dtype=torch.float32, device=images.device)
    for place, (kind, low, width, clip, invert) in enumerate(
        (intensity[None] if single else intensity).tolist()
    ):
        exact = (
            images.dtype in (torch.uint8, torch.int16, torch.float32)
            and float(np.float32(low)) == low
        )
        values = images[place].to(torch.float32 if exact and kind != 2 else torch.float64)
        if kind == 1 and width == 0:
            values = (values > low).to(values.dtype)
        elif kind == 1:
            values = (values - low) / torch.tensor(width, dtype=values.dtype, device=values.device)
            values = values.clamp_(0, 1) if clip else values
        elif kind == 2:
            values = 1 / (1 + torch.exp((values - low) * (-4 / width)))
        result[place] = 1 - values if invert else values
    return {"image": result[0] if single else result, **rest}


_INT32: Final = np.iinfo(np.int32)


def to_device(values: Values, device: Any) -> "Tensor":
    """An array of stored values on a device, in the dtypes of `DeviceDecoder.read`; through pinned memory where that is CUDA.

    DecodeError when uint64 values are beyond int64.
    """
    import torch

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


def _unsigned(tensor: "Tensor", itemsize: int) -> "Tensor":
    """The numbers whose bits the signed tensor holds, in twice the width: torch has hardly any operation on uint16 and uint32."""
    import torch

    if itemsize == 2:
        return tensor.to(torch.int32).bitwise_and_(0xFFFF)
    return tensor.to(torch.int64).bitwise_and_(0xFFFFFFFF) if itemsize == 4 else tensor


def keep_coded_bits(samples: "Tensor", kind: Kind) -> "Tensor":
    """Decoded samples as stored values: the header's sign, no bits above BitsStored, overshoot clipped; as `pixels` does it.

    Parameters
    ----------
    samples
        uint8, int8, uint16 or int16 of any shape, as a decoder gave them; unchanged.

    Returns
    -------
    Tensor
        uint8, int8, int16, or int32 for unsigned values of 16 bits allocated; a new tensor.
    """
    import torch

    coded_signed = samples.dtype in (torch.int8, torch.int16)
    wide = samples.element_size() == 2 and not coded_signed
    values = _unsigned(samples.view(torch.int16), 2) if wide else samples.to(torch.int32, copy=True)
    signed, stored = kind.pixel_representation == 1, kind.bits_stored
    if signed and not coded_signed:
        # JPEG knows no sign, JPEG 2000 streams may be labelled wrongly: the header's counts.
        _extend_sign(values, min(stored, kind.precision or stored))
    elif kind.lossy and signed == coded_signed:
        if (
            stored < kind.bits_allocated and kind.precision != stored
        ):  # to wrap overshoot round would turn white into black
            values.clamp_(-(1 << stored - 1) if signed else 0, (1 << stored - signed) - 1)
    elif signed:
        _extend_sign(values, stored)
    else:
        values.bitwise_and_((1 << stored) - 1)
    dtypes = {(8, 0): torch.uint8, (8, 1): torch.int8, (16, 0): torch.int32, (16, 1): torch.int16}
    return values.to(dtypes[kind.bits_allocated, kind.pixel_representation])


def _extend_sign(values: "Tensor", bits: int) -> None:
    """Make two's complement numbers of the lowest `bits` of int32 values, in place."""
    values.bitwise_left_shift_(32 - bits).bitwise_right_shift_(32 - bits)


def to_modality(
    stored: "Tensor", rescale: Rescale, stored_range: tuple[int, int] | None = None
) -> "Tensor":
    """Modality values, the numbers that `Rescale` gives for an array: computed in float64 and rounded once.

    Parameters
    ----------
    stored
        Any shape and device, as `DeviceDecoder.read` gives them; integers up to 32 bits are exact.
    stored_range
        Bounds that the caller vouches for, such as (0, 4095); without them the values are looked at where their dtype leaves doubt.

    Returns
    -------
    Tensor
        int32 when slope, intercept and stored values are integers and fit, else float32; a new tensor.

    Raises
    ------
    IntensityError
        Values beyond the range of float32.
    """
    import torch

    values = stored.to(torch.float64, copy=True).mul_(rescale.slope).add_(rescale.intercept)
    integers = not stored.dtype.is_floating_point and rescale.is_integral
    if integers and (
        _fits_int32(_ends(stored, rescale, stored_range)) or _fits_int32(_extremes(values))
    ):
        return values.to(torch.int32)
    result = values.to(torch.float32)
    if bool((result.isinf() & ~stored.isinf()).any()):
        message = f"slope {rescale.slope} and intercept {rescale.intercept} give values beyond the range of float32"
        raise IntensityError(message, slope=rescale.slope, intercept=rescale.intercept)
    return result


def _ends(
    stored: "Tensor", rescale: Rescale, stored_range: tuple[int, int] | None
) -> tuple[float, float]:
    import torch

    limits = torch.iinfo(torch.uint8 if stored.dtype == torch.bool else stored.dtype)
    ends = [
        value * rescale.slope + rescale.intercept
        for value in stored_range or (limits.min, limits.max)
    ]
    return min(ends), max(ends)


def _extremes(values: "Tensor") -> tuple[float, float]:
    return (float(values.min()), float(values.max())) if values.numel() else (0.0, 0.0)


def _fits_int32(ends: tuple[float, float]) -> bool:
    return _INT32.min <= ends[0] and ends[1] <= _INT32.max


def window(values: "Tensor", intensity: Intensity | IntensityMap) -> "Tensor":
    """Network values of a tensor, on its device: what `Intensity` gives for an array, within 2 ulp of the exact formula.

    Parameters
    ----------
    values
        Modality values of any shape, dtype and device.
    intensity
        A resolved recipe (`volume.stack_intensity`), or a map: Window, Limits, Identity, or a function of the user's that takes a
        tensor and returns one of the same shape and device.

    Returns
    -------
    Tensor
        float32 of the shape of `values`, a new tensor; NaN stays NaN.

    Raises
    ------
    UsageError
        Percentiles without limits, or a function that does not take or give tensors.
    IntensityError
        A function that changes the shape.
    """
    recipe = intensity if isinstance(intensity, Intensity) else Intensity(intensity)
    result = _mapped(values, recipe.mapping)
    return 1 - result if recipe.invert else result


def _mapped(values: "Tensor", mapping: IntensityMap) -> "Tensor":
    import torch

    if isinstance(mapping, Percentile):
        raise UsageError(
            "the percentiles have no limits yet: take the recipe that volume.stack_intensity gives for the stack"
        )
    if isinstance(mapping, Identity):
        return values.to(torch.float32, copy=True)
    if isinstance(mapping, Limits):
        return _ramp(values, mapping.lower, mapping.upper - mapping.lower, mapping.clip)
    if isinstance(mapping, VoiLut):
        table = torch.tensor(
            mapping.table.entries.astype(np.float32) / np.float32(mapping.scale),
            device=values.device,
        )
        places = (
            torch.nan_to_num(values.to(torch.float64).round(), nan=mapping.table.first)
            - mapping.table.first
        )
        return table[places.clamp_(0, len(table) - 1).to(torch.int64)]
    if not isinstance(mapping, Window):
        return _by_function(values, mapping)
    if mapping.function == "SIGMOID":  # PS3.3 C.11.2.1.3.1
        steepness = (
            values.to(torch.float64, copy=True).sub_(mapping.center).mul_(-4 / mapping.width)
        )
        return steepness.exp_().add_(1).reciprocal_().to(torch.float32)
    return _ramp(
        values,
        mapping.limits[0],
        mapping.width - 1 if mapping.function == "LINEAR" else mapping.width,
        True,
    )


def _ramp(values: "Tensor", lower: float, width: float, clip: bool) -> "Tensor":
    """``(values - lower) / width``, in float32 where nothing but the result is rounded by it; a step at `lower` when `width` is 0."""
    import torch

    if width == 0:
        above = values.to(torch.float64, copy=True).sub_(lower)
        return torch.where(above.isnan(), above, (above > 0).to(torch.float64)).to(torch.float32)
    single = torch.float32
    exact = values.dtype in (
        torch.bool,
        torch.uint8,
        torch.int8,
        torch.int16,
        torch.float16,
        torch.bfloat16,
        single,
    )
    rounded_lower, rounded_width = torch.tensor((lower, width), dtype=single).tolist()
    work = (
        single
        if exact and rounded_lower == lower and 0 < rounded_width < math.inf
        else torch.float64
    )
    # CUDA multiplies by the reciprocal of a plain number, which costs a bit of precision; a tensor is divided by.
    divisor = torch.full((), width, dtype=work, device=values.device)
    result = values.to(work, copy=True).sub_(lower).div_(divisor)
    return (result.clamp_(0, 1) if clip else result).to(single)


def _by_function(values: "Tensor", function: IntensityMap) -> "Tensor":
    import torch

    on_tensors: Callable[[Any], Any] = function
    try:
        result = on_tensors(values)
    except (TypeError, AttributeError, RuntimeError) as error:
        message = f"the intensity function does not take a tensor on {values.device} ({type(error).__name__}): write it with torch operations"
        raise UsageError(message) from error
    if not isinstance(result, torch.Tensor) or result.device != values.device:
        raise UsageError(
            f"the intensity function gave a {type(result).__name__}: on a device it must return a tensor on {values.device}"
        )
    if result.shape != values.shape:
        raise IntensityError(
            f"the intensity function made shape {tuple(result.shape)} of {tuple(values.shape)}: it must keep the shape"
        )
    return result.to(torch.float32, copy=True)
