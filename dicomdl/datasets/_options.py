"""Options of datasets, as frozen values that check themselves.

The constructors of datasets have flat keywords. Inside, keywords that belong together travel as one
value: `Reading` (which values of a stack to read), `Policy` (what to do about unreadable samples),
`_assembly.Delivery` (how to deliver images), `_regrid.TargetGrid` (on which grid) and
`selection.StackChoice` (which stacks to take).
"""

from dataclasses import dataclass, field
from typing import Final, Literal, get_args

from dicomdl.datasets._permutations import checked_count
from dicomdl.datasets.worker import threads_here
from dicomdl.errors import UsageError
from dicomdl.index.views import Group, Stack
from dicomdl.pixels.isolation import IsolationOption, as_isolation
from dicomdl.pixels.options import Decoding
from dicomdl.storage.cache.options import CacheOption, as_cache
from dicomdl.storage.cache.stats import Cache
from dicomdl.storage.memory import remembered
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
    """The treatment of unreadable samples (`on_error`), and the seed of random choices."""

    on_error: OnError = "raise"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.on_error not in ON_ERROR:
            raise UsageError(
                f"on_error={self.on_error!r}: expected one of {', '.join(map(repr, ON_ERROR))}"
            )
        object.__setattr__(self, "seed", checked_count("seed", self.seed, 0))


@dataclass(frozen=True, slots=True)
class Reading:
    """How to read a stack: its intensity, its decoding, and the cache of decoded values."""

    intensity: IntensityRequest
    suv: SuvPolicy
    decoding: Decoding
    cache: Cache | None = None
    # A user's function may be unhashable. The check runs once per dataset instead of per sample.
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
        isolation: IsolationOption,
        reduce: int = 0,
    ) -> "Reading":
        """Return the reading for the keywords of a dataset, each checked."""
        decoding = Decoding(reduce=reduce, max_bytes=max_bytes, isolation=as_isolation(isolation))
        request = IntensityRequest.parse(intensity)
        return cls(request, checked_suv(suv), decoding, as_cache(cache))

    def recipe(self, stack: Stack | Group) -> Intensity:
        """Return the intensity resolved for a stack, or one for all stacks of a group."""
        recipe_of = _known_recipe if self.is_hashable else stack_intensity
        return recipe_of(stack, self.intensity, self.suv, self._at_full_size)

    def voxels(self, stack: Stack, quantity: Quantity) -> StackVoxels:
        """Return the reader of blocks of a stack, at full resolution."""
        return voxels_of(stack, quantity, self.cache, self._at_full_size)

    @property
    def _at_full_size(self) -> Decoding:
        """The decoding of samples and blocks, which are not halved."""
        return self.decoding.at_full_size()

    def cached_voxels(self, stack: Stack, quantity: Quantity) -> StackVoxels | None:
        """Return the reader of blocks if the stack is cached, else None."""
        return self.voxels(stack, quantity) if self.is_cached(stack) else None

    def is_cached(self, stack: Stack) -> bool:
        """Return whether the values of a stack come from the cache."""
        return self.cache is not None and not self.decoding.reduce and is_worth_caching(stack)

    def decoding_here(self) -> Decoding:
        """Return the decoding with the threads of this process."""
        return self.decoding.with_threads(threads_here())


@remembered("intensity recipes")
def _known_recipe(
    stack: Stack | Group, request: IntensityRequest, suv: SuvPolicy, how: Decoding
) -> Intensity:
    """Return `stack_intensity`, remembered per stack."""
    return stack_intensity(stack, request, suv, how)
