"""Intensities on a device: the four formulas in torch, and recipes as numbers that collate.

Results agree with those of the CPU within 2 units in the last place of float32.
"""

import math
from collections.abc import Callable
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from dicomdl.errors import IntensityError, UsageError
from dicomdl.values.formulas import Formula, Ramp, Same, Sigmoid, Table
from dicomdl.values.intensity import Intensity
from dicomdl.values.windows import IntensityMap

# Dtypes whose values float32 holds exactly.
_EXACT: Final = frozenset(
    (
        *(torch.bool, torch.uint8, torch.int8, torch.int16),
        *(torch.float16, torch.bfloat16, torch.float32),
    )
)


def intensity_as_data(recipe: Intensity) -> Tensor:
    """Return a recipe as seven float64 numbers.

    They are kind, lower or center, width, clip, low, high, invert (see `Ramp`). The kind is 0 for
    unchanged values, 1 for a ramp and 2 for a sigmoid.

    Raises
    ------
    UsageError
        The recipe is a user's function or a table, which seven numbers cannot describe.
    """
    formula = recipe.formula
    if isinstance(formula, Same):
        numbers = (0.0, 0.0, 1.0, 0.0, 0.0, 1.0)
    elif isinstance(formula, Ramp):
        ends = formula.low, formula.high
        numbers = (1.0, formula.lower, formula.width, float(formula.clip), *ends)
    elif isinstance(formula, Sigmoid):
        numbers = (2.0, formula.center, formula.width, 1.0, 0.0, 1.0)
    else:
        message = 'intensity_on="device" takes windows, limits and percentiles'
        raise UsageError(f"{message}: a function or a table is applied on the CPU")
    return torch.tensor((*numbers, float(recipe.invert)), dtype=torch.float64)


def _formula_of(numbers: list[float]) -> tuple[Formula, bool]:
    """Return the formula that seven numbers describe, and whether to invert its result."""
    kind, start, width, clip, low, high, invert = numbers
    if kind == 0:
        return Same(), bool(invert)
    ramp = Ramp(start, width, bool(clip), low=low, high=high)
    return ramp if kind == 1 else Sigmoid(start, width), bool(invert)


def apply_intensity(batch: dict[str, Any], device: Any = None) -> dict[str, Any]:
    """Map the images of a batch (or a sample) of ``intensity_on="device"``, on a device.

    Integers halve the bytes to transfer, and the copy of a pinned batch is asynchronous. Values
    agree with those of ``intensity_on="cpu"`` within 2 units in the last place.

    Parameters
    ----------
    batch
        A batch or sample with `image` and `intensity`.
    device
        The device of the images; by default the one that they are on.

    Returns
    -------
    dict
        The batch with `image` float32, of the same shape and on `device`, and without `intensity`.
        The given batch is not changed.
    """
    image, intensity = batch["image"], batch["intensity"]
    rest = {key: value for key, value in batch.items() if key not in ("image", "intensity")}
    # `collate` delivers images of several sizes as a list.
    if isinstance(image, list):
        parts = [
            apply_intensity({"image": single_image, "intensity": numbers}, device)
            for single_image, numbers in zip(image, intensity, strict=True)
        ]
        return {"image": [part["image"] for part in parts], **rest}
    single = intensity.ndim == 1
    images = (image[None] if single else image).to(device, non_blocking=True)
    result = torch.empty(images.shape, dtype=torch.float32, device=images.device)
    every = (intensity[None] if single else intensity).tolist()
    for values, mapped, numbers in zip(images, result, every, strict=True):
        formula, invert = _formula_of(numbers)
        mapped.copy_(_inverted(_computed(formula, values), invert))
    return {"image": result[0] if single else result, **rest}


def window(values: Tensor, intensity: Intensity | IntensityMap) -> Tensor:
    """Return network values of a tensor, on its device.

    They equal those of `Intensity` for an array, within 2 units in the last place of the exact
    formula.

    Parameters
    ----------
    values
        Modality values of any shape, dtype and device.
    intensity
        A resolved recipe (`stack_intensity`), or a map: Window, Limits, Identity, or a user's
        function from a tensor to one of the same shape and device.

    Returns
    -------
    Tensor
        float32 of the shape of `values`, a new tensor. NaN is preserved.

    Raises
    ------
    UsageError
        The map still needs the sample of the stack, or the function does not take or return
        tensors.
    IntensityError
        The function changes the shape.
    """
    recipe = intensity if isinstance(intensity, Intensity) else Intensity(intensity)
    if recipe.needs_sample:
        message = "the percentiles or statistics of the stack are not known yet"
        raise UsageError(f"{message}: take the recipe that stack_intensity gives for the stack")
    formula = recipe.formula
    if formula is None:
        return _inverted(_by_function(values, recipe.mapping), recipe.invert)
    return _inverted(_computed(formula, values), recipe.invert)


def _inverted(mapped: Tensor, invert: bool) -> Tensor:
    """Return mapped values, inverted if required."""
    return 1 - mapped if invert else mapped


def _computed(formula: Formula, values: Tensor) -> Tensor:
    """Return the result of a formula, float32, a new tensor."""
    if isinstance(formula, Same):
        return values.to(torch.float32, copy=True)
    if isinstance(formula, Ramp):
        return _step(values, formula) if formula.width == 0 else _ramp(values, formula)
    if isinstance(formula, Sigmoid):
        exponent = values.to(torch.float64, copy=True).sub_(formula.center)
        exponent.mul_(-4 / formula.width)
        return exponent.exp_().add_(1).reciprocal_().to(torch.float32)
    return _looked_up(values, formula)


def _step(values: Tensor, ramp: Ramp) -> Tensor:
    """Return `high` above `lower`, else `low`, and NaN for NaN."""
    above = values.to(torch.float64, copy=True).sub_(ramp.lower)
    steps = (above > 0).to(torch.float64) * (ramp.high - ramp.low) + ramp.low
    return torch.where(above.isnan(), above, steps).to(torch.float32)


def _ramp(values: Tensor, ramp: Ramp) -> Tensor:
    """Return the ramp, computed in float32 if that rounds only the result, else in float64."""
    lower, width = torch.tensor((ramp.lower, ramp.width), dtype=torch.float32).tolist()
    is_exact = values.dtype in _EXACT and lower == ramp.lower and 0 < width < math.inf
    work = torch.float32 if is_exact else torch.float64
    # CUDA replaces division by a Python number with multiplication by its reciprocal, which costs a
    # bit of precision. Division by a tensor is rounded correctly.
    divisor = torch.full((), ramp.width, dtype=work, device=values.device)
    result = values.to(work, copy=True).sub_(ramp.lower).div_(divisor)
    return (result.clamp_(ramp.low, ramp.high) if ramp.clip else result).to(torch.float32)


def _looked_up(values: Tensor, formula: Table) -> Tensor:
    """Return the entries of a table at rounded values; NaN takes the first entry."""
    first = formula.table.first
    scaled = formula.table.entries.astype(np.float32) / np.float32(formula.scale)
    table = torch.tensor(scaled, device=values.device)
    indices = torch.nan_to_num(values.to(torch.float64).round(), nan=first) - first
    return table[indices.clamp_(0, len(table) - 1).to(torch.int64)]


def _by_function(values: Tensor, function: IntensityMap) -> Tensor:
    """Return the result of a user's function, float32, after checks."""
    on_tensors: Callable[[Any], Any] = function
    try:
        result = on_tensors(values)
    except (TypeError, AttributeError, RuntimeError) as error:
        message = f"the intensity function does not take a tensor on {values.device}"
        raise UsageError(
            f"{message} ({type(error).__name__}): write it with torch operations"
        ) from error
    if not isinstance(result, Tensor) or result.device != values.device:
        message = f"the intensity function gave a {type(result).__name__}"
        raise UsageError(f"{message}: on a device it must return a tensor on {values.device}")
    if result.shape != values.shape:
        shape, expected = tuple(result.shape), tuple(values.shape)
        message = f"the intensity function made shape {shape} of {expected}"
        raise IntensityError(f"{message}: it must keep the shape")
    return result.to(torch.float32, copy=True)
