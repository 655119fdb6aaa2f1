"""What a dataset is told, as frozen values that check themselves.

The constructors of datasets keep flat keywords for people. What belongs together goes on from
there as one value: `Reading` says what is read of a stack, `Policy` what happens where it cannot
be read; `assembly.Delivery` says how images are delivered, `regrid.TargetGrid` on which grid, and
`selection.StackChoice` which stacks are taken.
"""

from dataclasses import dataclass, field
from typing import Final, Literal, get_args

from dicomdl.datasets.worker import is_worker
from dicomdl.errors import UsageError
from dicomdl.index.views import Stack
from dicomdl.pixels.options import Decoding
from dicomdl.storage.cache.options import CacheOption, as_cache
from dicomdl.storage.cache.stats import Cache
from dicomdl.storage.memory import remembered
from dicomdl.storage.system import available_cores
from dicomdl.values.intensity import Intensity
from dicomdl.values.quantity import Quantity
from dicomdl.values.request import IntensityOption, IntensityRequest
from dicomdl.values.stack_intensity import SuvPolicy, checked_suv, stack_intensity
from dicomdl.volumes.blocks import StackVoxels, voxels_of
from dicomdl.volumes.caching import is_worth_caching

OnError = Literal["raise", "skip", "replace"]
ON_ERROR: Final[tuple[OnError, ...]] = get_args(OnError)


@dataclass(frozen=True, slots=True)
class Policy:
    """What happens where a sample cannot be read (`on_error`), and the seed of random choices."""

    on_error: OnError = "raise"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.on_error not in ON_ERROR:
            raise UsageError(
                f"on_error={self.on_error!r}: expected one of {', '.join(map(repr, ON_ERROR))}"
            )
        if not (isinstance(self.seed, int) and self.seed >= 0):
            raise UsageError(f"seed={self.seed!r}: expected a whole number from 0")


@dataclass(frozen=True, slots=True)
class Reading:
    """What is read of a stack: its intensity, its decoding, and the cache that keeps its values."""

    intensity: IntensityRequest
    suv: SuvPolicy
    decoding: Decoding
    cache: Cache | None = None
    # A caller's own function need not hash; found out once, not for every sample.
    is_hashable: bool = field(init=False, repr=False, compare=False, default=True)

    def __post_init__(self) -> None:
        try:
            hash(self.intensity)
        except TypeError:
            object.__setattr__(self, "is_hashable", False)

    @classmethod
    def of(
        cls,
        intensity: IntensityOption,
        suv: SuvPolicy,
        cache: CacheOption,
        *,
        max_bytes: int | None,
        reduce: int = 0,
    ) -> "Reading":
        """The values of the keywords of a dataset, each checked."""
        decoding = Decoding(reduce=reduce, max_bytes=max_bytes)
        request = IntensityRequest.parse(intensity)
        return cls(request, checked_suv(suv), decoding, as_cache(cache))

    def recipe(self, stack: Stack) -> Intensity:
        """What the intensity means for a stack."""
        recipe_of = _known_recipe if self.is_hashable else stack_intensity
        return recipe_of(stack, self.intensity, self.suv, self.decoding.max_bytes)

    def voxels(self, stack: Stack, quantity: Quantity) -> StackVoxels:
        """The reader of a stack's blocks, at full resolution."""
        return voxels_of(stack, quantity, self.cache, self.decoding.max_bytes)

    def cached_voxels(self, stack: Stack, quantity: Quantity) -> StackVoxels | None:
        """The reader of a stack whose values the cache keeps; None of one that it does not."""
        if self.cache is None or self.decoding.reduce or not is_worth_caching(stack):
            return None
        return self.voxels(stack, quantity)

    def decoding_here(self) -> Decoding:
        """The decoding by all cores, or by one in a DataLoader's worker, whose neighbours have them."""
        return self.decoding.with_threads(1 if is_worker() else available_cores())


@remembered("intensity recipes")
def _known_recipe(
    stack: Stack, request: IntensityRequest, suv: SuvPolicy, max_bytes: int | None
) -> Intensity:
    return stack_intensity(stack, request, suv, max_bytes)
