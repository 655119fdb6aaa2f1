"""Values of a volume as another quantity: SUV of PET, and network values by a recipe."""

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np

from dicomdl.arrays import Mask, Values
from dicomdl.errors import UsageError
from dicomdl.headers.frame import Frame
from dicomdl.index.views import Group, Stack
from dicomdl.values.auto import resolve
from dicomdl.values.conversion import suv_factor_of
from dicomdl.values.intensity import Intensity
from dicomdl.values.quantity import Quantity, RealWorld
from dicomdl.values.request import IntensityRequest
from dicomdl.values.sampling import sample_of, sample_positions
from dicomdl.values.stack_intensity import SuvPolicy, kept_limits, stack_intensity
from dicomdl.values.suv import SUV


@dataclass(frozen=True, slots=True, eq=False)
class Measured:
    """The parts of a volume that its quantity concerns; see the parameters of `Volume`."""

    array: Values
    units: str
    quantity: Quantity
    padding: Mask | None
    frame: Frame | None
    stack: Stack | None
    # Whether the array has a leading axis of time points.
    is_series: bool
    # The stacks along that axis, where known.
    stacks: tuple[Stack, ...] = ()

    @property
    def source(self) -> Stack | Group | None:
        """Stack or group that was read; None for values that no file holds."""
        if self.quantity == "derived":
            return None
        if self.stack is None or not self.is_series:
            return self.stack
        return self.stack.group.only(self.stacks) if self.stacks else self.stack.group


def in_suv(measured: Measured, suv: SUV) -> Measured:
    """Convert modality values of PET to SUV.

    Raises
    ------
    SUVError
        The header does not give SUV.
    UsageError
        The values are not modality values of a stack.
    """
    array = _converted(measured, suv)
    return dataclasses.replace(measured, array=array, units=suv.units, quantity=suv)


def windowed(measured: Measured, request: IntensityRequest, suv: SuvPolicy) -> Measured:
    """Map the values by the recipe of a request; padding becomes the lowest value.

    Raises
    ------
    SUVError
        "auto" needs SUV, and the header does not give them.
    UsageError
        The rule applies to modality values only and these are others.
    """
    return mapped(measured, recipe_of(measured, request, suv))


def mapped(measured: Measured, recipe: Intensity) -> Measured:
    """Map the values by a recipe of `recipe_of`; padding becomes the lowest value."""
    array = _converted(measured, recipe.quantity)
    if measured.padding is not None and (lowest := recipe.floor(array.dtype)) is not None:
        array = np.where(measured.padding, array.dtype.type(lowest), array)
    stays = recipe.is_identity
    units = measured.units if stays and recipe.quantity == measured.quantity else recipe.units
    quantity = recipe.quantity if stays else "network"
    return dataclasses.replace(measured, array=recipe(array), units=units, quantity=quantity)


def recipe_of(measured: Measured, request: IntensityRequest, suv: SuvPolicy) -> Intensity:
    """Return the recipe of a request for these values, with percentiles computed.

    Percentiles of modality values come from the stack, others from the array.
    """
    if measured.quantity == "modality" and (source := measured.source) is not None:
        return stack_intensity(source, request, suv)
    frame = None if measured.quantity == "derived" else measured.frame
    recipe = resolve(request, frame, measured.quantity)
    if measured.quantity != "modality":
        recipe = _for_quantity(measured.quantity, request, recipe)
    if not recipe.needs_sample:
        return recipe
    if recipe.quantity != "network" and (source := measured.source) is not None:
        sampled: Any = recipe.mapping
        limits = kept_limits(source, sampled, recipe.quantity)
        return dataclasses.replace(recipe, mapping=sampled.known(limits))
    return recipe.with_sample(_sample(measured))


def _for_quantity(quantity: Quantity, request: IntensityRequest, recipe: Intensity) -> Intensity:
    """Adapt a recipe to values that are not modality values.

    Raises a UsageError for a recipe that applies to modality values only.
    """
    # "auto" fits every kind of SUV, and its percentiles fit values of unknown units
    is_fit = isinstance(quantity, SUV) or (quantity == "philips" and recipe.needs_sample)
    if request.source == "auto" and is_fit:
        return dataclasses.replace(recipe, quantity=quantity)
    if (request.needs_file or request.names_units) and recipe.quantity != quantity:
        message = f"{request} is for modality values, and these are not"
        raise UsageError(f"{message}: name a (center, width), Limits or a Percentile")
    # a window by numbers takes the values as they are
    if recipe.quantity == "modality":
        return dataclasses.replace(recipe, quantity=quantity)
    return recipe


def _converted(measured: Measured, quantity: Quantity) -> Values:
    """Return the values as another quantity: only modality values of PET convert, to SUV."""
    if quantity == measured.quantity:
        return measured.array
    source = measured.source
    if not isinstance(quantity, SUV) or measured.quantity != "modality" or source is None:
        wanted = "real_world" if isinstance(quantity, RealWorld) else "suv"
        wanted = quantity if isinstance(quantity, str) else wanted
        raise UsageError(
            f"these values cannot be converted: read_volume(stack, values={wanted!r}) gives "
            "the quantity that was asked for"
        )
    stacks = source if isinstance(source, Group) else [source]
    factors = {suv_factor_of(stack, quantity) for stack in stacks}
    if len(factors) > 1:
        raise UsageError(
            "the stacks of the group have different SUV factors: "
            "read_volume(group, values='suv') gives SUV"
        )
    result = np.empty(measured.array.shape, np.float32)
    return np.multiply(measured.array, factors.pop(), out=result, casting="same_kind")


def _sample(measured: Measured) -> Values:
    """Take the sample of `stack_sample` from the array itself."""
    slices = sample_positions(measured.array.shape[1 if measured.is_series else 0])
    parts = []
    for values in (measured.array, measured.padding):
        if values is not None and measured.is_series:
            values = values[sample_positions(len(values))][:, slices]
            values = values.reshape(-1, *values.shape[2:])
        elif values is not None:
            values = values[slices]
        parts.append(values)
    return sample_of(*parts)  # type: ignore[arg-type]
