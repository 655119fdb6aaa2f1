"""values.stack_intensity"""

import contextlib
import dataclasses
import hashlib
import json
import os
from typing import Any, Final, Literal, get_args

import numpy as np

from dicomdl.arrays import Mask, Values
from dicomdl.errors import PixelError, StorageError, SUVError, UsageError
from dicomdl.headers.frame import FrameSource
from dicomdl.index.views import Group, Stack
from dicomdl.pixels.options import Decoding
from dicomdl.storage import publishing as storage
from dicomdl.storage.memory import remembered
from dicomdl.storage.system import available_cores
from dicomdl.values.auto import pet_without_suv, resolve
from dicomdl.values.conversion import Conversion, conversions, quantity_units, suv_factor_of
from dicomdl.values.intensity import Intensity
from dicomdl.values.quantity import Quantity, RealWorld
from dicomdl.values.reading import read_converted
from dicomdl.values.request import IntensityOption, IntensityRequest
from dicomdl.values.suv import SUV
from dicomdl.values.windows import Identity, sample_positions, sample_stride

SuvPolicy = Literal["required", "if_possible"]
SUV_POLICIES: Final[tuple[SuvPolicy, ...]] = get_args(SuvPolicy)
_SAMPLE_RULE: Final = (
    2  # counts up when `sample_positions` or `sample_stride` change: kept limits are of one rule
)


def checked_suv(policy: SuvPolicy) -> SuvPolicy:
    """The policy; UsageError for one that does not exist."""
    if policy not in SUV_POLICIES:
        raise UsageError(f"suv={policy!r}: expected one of {', '.join(map(repr, SUV_POLICIES))}")
    return policy


def stack_intensity(
    stack: Stack | Group,
    option: IntensityOption,
    suv: SuvPolicy = "required",
    max_bytes: int | None = None,
) -> Intensity:
    """What `option` means for a stack, percentiles computed: from its middle slice and its fixed sample.

    The limits of percentiles are kept in memory and in the cache folder, so that every worker of every run maps a
    value of this stack alike and reads the sample at most once. A group has limits of its own, the same for all its stacks.

    An SUVError where SUV are needed and the header does not give them; under "auto" with ``suv="if_possible"`` percentiles instead.
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
    percentile: Any = recipe.mapping
    lower, upper = kept_limits(stack, percentile, recipe.quantity, max_bytes)
    return dataclasses.replace(recipe, mapping=percentile.with_limits(lower, upper))


def with_units(recipe: Intensity, stack: Stack, place: int | None = None) -> Intensity:
    """The recipe with the units of real-world values, which only their map knows."""
    if not (isinstance(recipe.quantity, RealWorld) and isinstance(recipe.mapping, Identity)):
        return recipe
    return dataclasses.replace(recipe, units=quantity_units(stack, recipe.quantity, place))


@remembered("intensity limits")
def kept_limits(
    stack: Stack | Group, percentile: Any, quantity: Quantity, max_bytes: int | None = None
) -> tuple[float, float]:
    key = (
        _SAMPLE_RULE,
        _first(stack).key[1:],
        percentile,
        quantity,
        *(("group",) if isinstance(stack, Group) else ()),
    )
    name = hashlib.blake2b(repr(key).encode(), digest_size=16).hexdigest()
    try:
        path = os.path.join(storage.cache_folder("limits"), f"{name}.json")
        with open(path, "rb") as file:
            lower, upper = json.load(file)
        return float(lower), float(upper)
    except (
        OSError,
        ValueError,
        TypeError,
    ):  # StorageError among them: a cache that cannot be used costs time, not the epoch
        sample, is_whole = _sampled(stack, quantity, max_bytes)
        lower, upper = percentile.limits(sample)
        if not is_whole:  # a file may come back
            return lower, upper
    with contextlib.suppress(StorageError):
        storage.write_whole(
            os.path.join(storage.cache_folder("limits"), f"{name}.json"),
            json.dumps([lower, upper]).encode(),
        )
    return lower, upper


def stack_sample(
    stack: Stack | Group, quantity: Quantity = "modality", max_bytes: int | None = None
) -> Values:
    """The fixed sample of a stack's values that percentiles are computed from (see `Percentile`), without padding.

    Slices that cannot be read are left out of it: reading them for themselves says so. That of a group pools the samples of at most 16
    of its stacks, evenly spaced, the first and the last among them.
    """
    return _sampled(stack, quantity, max_bytes)[0]


def _sampled(
    stack: Stack | Group, quantity: Quantity, max_bytes: int | None
) -> tuple[Values, bool]:
    """The sample, and whether all of its slices could be read."""
    stacks = (
        [stack[t] for t in sample_positions(len(stack)).tolist()]
        if isinstance(stack, Group)
        else [stack]
    )
    sources: list[FrameSource] = []
    every: list[Conversion] = []
    for each in stacks:
        own = conversions(each, quantity)
        for place in sample_positions(each.slices).tolist():
            sources.append(each.source(place))
            every.append(own[place])
    how = Decoding(threads=available_cores(), max_bytes=max_bytes)
    try:
        return sample_of(*read_converted(sources, every, how=how)), True
    except (
        PixelError
    ) as error:  # one slice that cannot be read is the fault of its own sample, not of all
        parts = []
        for source, one in zip(sources, every, strict=True):
            with contextlib.suppress(PixelError):
                parts.append(sample_of(*read_converted([source], [one], how=how)).ravel())
        if not parts:
            raise error from None
        return np.concatenate(parts), False


def sample_of(frames: Values, padding: Mask | None) -> Values:
    """The sample that frames of a stack give, without padding; all of it where everything is padding: blank is to become blank."""
    values = _sparse(frames)
    kept = None if padding is None else ~_sparse(padding)
    return values if kept is None or not kept.any() else values[kept]


def _first(stack: Stack | Group) -> Stack:
    return stack[0] if isinstance(stack, Group) else stack


def _sparse(frames: Values) -> Values:
    """Every n-th row and column of frames, so many that they make a sample."""
    stride = sample_stride(frames.shape[1], frames.shape[2], len(frames))
    return frames[:, ::stride, ::stride]
