"""Recipes of stacks: an option resolved for a stack, with its percentiles or statistics.

Limits are computed once and cached, in memory and in the cache folder, so that every worker of
every run maps a value of a stack identically.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
from typing import Any, Final, Literal, get_args

from dicomdl.errors import StorageError, SUVError, UsageError
from dicomdl.index.views import Group, Stack
from dicomdl.pixels.options import WHOLE, Decoding
from dicomdl.storage import publishing as storage
from dicomdl.storage.json_texts import parsed
from dicomdl.storage.memory import remembered
from dicomdl.values.auto import pet_without_suv, resolve
from dicomdl.values.conversion import quantity_units, suv_factor_of
from dicomdl.values.intensity import Intensity
from dicomdl.values.normalisation import Clip
from dicomdl.values.quantity import Quantity, RealWorld
from dicomdl.values.request import IntensityOption, IntensityRequest
from dicomdl.values.sampled import SampledMap
from dicomdl.values.sampling import read_sample
from dicomdl.values.suv import SUV
from dicomdl.values.windows import Identity

SuvPolicy = Literal["required", "if_possible"]
SUV_POLICIES: Final[tuple[SuvPolicy, ...]] = get_args(SuvPolicy)
# Rises when `sample_positions` or `sample_stride` change: part of the key of cached limits.
_SAMPLE_RULE: Final = 2


def checked_suv(policy: SuvPolicy) -> SuvPolicy:
    """Return the policy, or raise UsageError for one that does not exist."""
    if policy not in SUV_POLICIES:
        raise UsageError(f"suv={policy!r}: expected one of {', '.join(map(repr, SUV_POLICIES))}")
    return policy


def stack_intensity(
    stack: Stack | Group,
    option: IntensityOption,
    suv: SuvPolicy = "required",
    how: Decoding = WHOLE,
) -> Intensity:
    """Resolve `option` for a stack, from its middle slice and its fixed sample.

    The limits of percentiles are cached in memory and in the cache folder, so that every worker of
    every run maps a value of this stack identically and reads the sample at most once. A group has
    one pair of limits for all its stacks.

    Raises
    ------
    SUVError
        SUV are needed and the header does not give them. Under "auto" with ``suv="if_possible"``,
        percentiles apply instead.
    """
    request, suv = IntensityRequest.parse(option), checked_suv(suv)
    first = _first(stack)
    recipe = resolve(request, first.middle)
    if isinstance(recipe.quantity, SUV):
        try:
            for each in stack if isinstance(stack, Group) else [stack]:
                suv_factor_of(each, recipe.quantity)
        except SUVError as error:
            if request.source != "auto":
                raise
            if suv == "required":
                error.add_note(
                    'suv="if_possible" makes "auto" take percentiles where there is no SUV'
                )
                raise
            recipe = pet_without_suv()
    recipe = with_units(recipe, first)
    if not recipe.needs_sample:
        return recipe
    sampled: Any = recipe.mapping
    limits = kept_limits(stack, sampled, recipe.quantity, how)
    return dataclasses.replace(recipe, mapping=sampled.known(limits))


def with_units(recipe: Intensity, stack: Stack, number: int | None = None) -> Intensity:
    """Return the recipe with the units of real-world values, which only their map states.

    `number` is the slice, by default the middle one.
    """
    keeps = isinstance(recipe.mapping, Identity | Clip) or recipe.units == ""
    if not (isinstance(recipe.quantity, RealWorld) and keeps):
        return recipe
    return dataclasses.replace(recipe, units=quantity_units(stack, recipe.quantity, number))


@remembered("intensity limits")
def kept_limits(
    stack: Stack | Group, sampled: SampledMap, quantity: Quantity, how: Decoding = WHOLE
) -> tuple[float, ...]:
    """Return the limits of a map from the cache, or compute and cache them."""
    key = (
        _SAMPLE_RULE,
        _first(stack).key[1:3],
        sampled,
        quantity,
        *(("group", *(stack.chosen or ())) if isinstance(stack, Group) else ()),
    )
    name = hashlib.blake2b(repr(key).encode(), digest_size=16).hexdigest()
    try:
        path = os.path.join(storage.cache_folder("limits"), f"{name}.json")
        with open(path, "rb") as file:
            limits = tuple(map(float, parsed(file.read())))
        if len(limits) == sampled.count:
            return limits
        raise ValueError(f"{len(limits)} limits, expected {sampled.count}")
    except (
        OSError,
        ValueError,
        TypeError,
    ):
        # These include StorageError: an unusable cache costs time, not the epoch.
        sample, is_complete = read_sample(stack, quantity, how)
        limits = sampled.limits(sample)
        # A missing file may return, so limits of a part of the sample are not cached.
        if not is_complete:
            return limits
    with contextlib.suppress(StorageError):
        storage.write_whole(
            os.path.join(storage.cache_folder("limits"), f"{name}.json"),
            json.dumps(limits).encode(),
        )
    return limits


def _first(stack: Stack | Group) -> Stack:
    return stack[0] if isinstance(stack, Group) else stack
