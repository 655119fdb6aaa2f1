"""Where patches lie in a stack, and how they come back together.

Pure numpy, and chance that depends on nothing but its key.

A patch has a start voxel, which may be negative, and a size; what lies outside of the stack is
padded. Random choices take a generator made of (seed, epoch, row), so a patch is the same whichever
worker or rank makes it, and in whatever order.
"""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt

from dicomdl.arrays import Values, Voxel
from dicomdl.errors import UsageError

MOST_CANDIDATES: Final = 1 << 16  # voxels of one class that a stack keeps to draw from: 768 kB


def chance(seed: int, epoch: int, row: int) -> np.random.Generator:
    """The generator of one sample; distinct for every (seed, epoch, row)."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence((seed, epoch, row))))


class StackView(Protocol):
    """What a sampler may ask of a stack."""

    @property
    def shape(self) -> Voxel:
        """(slices, rows, columns)."""

    def foreground(self, above: float | None) -> npt.NDArray[np.int32]:
        """(n, 3) voxels that belong to the body, evenly thinned out."""

    def labelled(self) -> Mapping[int, npt.NDArray[np.int32]]:
        """{label: (n, 3) voxels}, evenly thinned out."""

    def centers(self) -> npt.NDArray[np.float64]:
        """(n, 3) voxels around which patches were asked for."""


class PatchSampler(Protocol):
    """Where the patches of a stack begin. Frozen values: they compare, print and pickle."""

    def count(self, shape: Voxel, size: Voxel, per_stack: int) -> int:
        """How many patches a stack of this shape gives in an epoch."""

    def start(
        self, view: StackView, size: Voxel, number: int, generator: np.random.Generator
    ) -> Voxel:
        """The first voxel of patch `number` (from 0) of the stack."""


# --- samplers -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Uniform:
    """Every place inside of the stack with the same probability.

    Along axes shorter than the patch, the stack in its middle.
    """

    def count(self, shape: Voxel, size: Voxel, per_stack: int) -> int:
        """`per_stack`."""
        del shape, size
        return per_stack

    def start(
        self, view: StackView, size: Voxel, number: int, generator: np.random.Generator
    ) -> Voxel:
        """A random place."""
        del number
        return _inside(
            [
                int(generator.integers(0, max(0, n - s) + 1))
                for n, s in zip(view.shape, size, strict=True)
            ],
            view.shape,
            size,
        )


@dataclass(frozen=True, slots=True)
class Foreground:
    """Patches around a random voxel of the body.

    Parameters
    ----------
    above
        Modality values above this are body. By default above -500 for CT in HU, else above the
        threshold of Otsu on the stack's sample.
    """

    above: float | None = None

    def count(self, shape: Voxel, size: Voxel, per_stack: int) -> int:
        """`per_stack`."""
        del shape, size
        return per_stack

    def start(
        self, view: StackView, size: Voxel, number: int, generator: np.random.Generator
    ) -> Voxel:
        """Around a random voxel of the body, anywhere where there is none."""
        return _around_one(view.foreground(self.above), view, size, number, generator)


@dataclass(frozen=True, slots=True)
class Balanced:
    """Patches around a random voxel of a label that is chosen by weight.

    Parameters
    ----------
    weights
        {label: weight}; labels that a stack lacks are left out there, and a stack with none of them
        is sampled uniformly. By default all labels of the stack, background too, with the same
        weight.
    """

    weights: tuple[tuple[int, float], ...] = ()

    def __init__(self, weights: Mapping[int, float] | Sequence[tuple[int, float]] = ()) -> None:
        pairs = tuple(
            sorted((int(label), float(weight)) for label, weight in dict(weights).items())
        )
        if any(not (math.isfinite(weight) and weight >= 0) for _, weight in pairs) or (
            pairs and not sum(w for _, w in pairs)
        ):
            raise UsageError(
                f"weights are finite, not negative, and not all 0; found {[weight for _, weight in pairs]}"
            )
        object.__setattr__(self, "weights", pairs)

    def count(self, shape: Voxel, size: Voxel, per_stack: int) -> int:
        """`per_stack`."""
        del shape, size
        return per_stack

    def start(
        self, view: StackView, size: Voxel, number: int, generator: np.random.Generator
    ) -> Voxel:
        """Around a random voxel of a random label."""
        voxels = view.labelled()
        wanted = [
            (label, weight)
            for label, weight in (self.weights or [(label, 1.0) for label in sorted(voxels)])
            if label in voxels
        ]
        total = sum(weight for _, weight in wanted)
        if not total:
            return Uniform().start(view, size, number, generator)
        label = wanted[
            int(generator.choice(len(wanted), p=[weight / total for _, weight in wanted]))
        ][0]
        return _around_one(voxels[label], view, size, number, generator)


@dataclass(frozen=True, slots=True)
class Grid:
    """All places of a grid that covers the stack, for inference.

    `stitch` brings the results back together.

    Parameters
    ----------
    overlap
        The part of a patch that neighbours share at least, 0 to below 1; one number, or one an
        axis. Places are spread evenly, the first and the last flush with the stack; along axes
        shorter than the patch the stack lies in its middle.
    """

    overlap: float | tuple[float, float, float] = 0.0

    def __post_init__(self) -> None:
        if not all(0 <= part < 1 for part in self._parts()):
            raise UsageError(f"overlap is {self.overlap}: expected 0 to below 1")

    def _parts(self) -> tuple[float, ...]:
        return self.overlap if isinstance(self.overlap, tuple) else (self.overlap,) * 3

    def starts(self, shape: Voxel, size: Voxel) -> list[Voxel]:
        """All start voxels, the last axis fastest."""
        axes = [_spread(n, s, part) for n, s, part in zip(shape, size, self._parts(), strict=True)]
        return [(z, y, x) for z, y, x in itertools.product(*axes)]

    def count(self, shape: Voxel, size: Voxel, per_stack: int) -> int:
        """As many as cover the stack."""
        del per_stack
        return math.prod(
            len(_spread(n, s, part)) for n, s, part in zip(shape, size, self._parts(), strict=True)
        )

    def start(
        self, view: StackView, size: Voxel, number: int, generator: np.random.Generator
    ) -> Voxel:
        """Place `number` of the grid."""
        del generator
        axes = [
            _spread(n, s, part) for n, s, part in zip(view.shape, size, self._parts(), strict=True)
        ]
        z, rest = divmod(number, len(axes[1]) * len(axes[2]))
        y, x = divmod(rest, len(axes[2]))
        return axes[0][z], axes[1][y], axes[2][x]


def as_sampler(option: str | PatchSampler) -> PatchSampler:
    """What a user passed as ``sampler=``.

    "uniform", "foreground", "labels", "grid" or a sampler.
    """
    named: dict[str, Callable[[], PatchSampler]] = {
        "uniform": Uniform,
        "foreground": Foreground,
        "labels": Balanced,
        "balanced": Balanced,
        "grid": Grid,
    }
    if isinstance(option, str):
        if option not in named:
            raise UsageError(
                f"sampler={option!r}: expected {', '.join(map(repr, named))}, Centers.from_table(...) or a sampler of your own"
            )
        return named[option]()
    if not (hasattr(option, "count") and hasattr(option, "start")):
        raise UsageError(
            f"sampler is a {type(option).__name__}: expected a name or something with `count` and `start`"
        )
    return option


def _spread(length: int, size: int, overlap: float) -> list[int]:
    """Starts along one axis, so many that neighbours share `overlap` of the size at least."""
    if length <= size:
        return [(length - size) // 2]
    step = max(1, math.floor(size * (1 - overlap)))
    count = math.ceil((length - size) / step) + 1
    return [round(place * (length - size) / (count - 1)) for place in range(count)]


def _around_one(
    voxels: npt.NDArray[np.int32],
    view: StackView,
    size: Voxel,
    number: int,
    generator: np.random.Generator,
) -> Voxel:
    """The patch in whose middle a random one of some voxels lies, moved inside of the stack."""
    if not len(voxels):
        return Uniform().start(view, size, number, generator)
    center = voxels[int(generator.integers(len(voxels)))]
    return _inside([int(c) - s // 2 for c, s in zip(center, size, strict=True)], view.shape, size)


def _inside(start: Sequence[int], shape: Voxel, size: Voxel) -> Voxel:
    """A start moved so that the patch lies inside.

    Where the stack is shorter than the patch, in its middle.
    """
    z, y, x = (
        (n - s) // 2 if n < s else min(max(int(a), 0), n - s)
        for a, n, s in zip(start, shape, size, strict=True)
    )
    return z, y, x


def thinned(voxels: npt.NDArray[Any], most: int = MOST_CANDIDATES) -> npt.NDArray[np.int32]:
    """(n, 3) at most `most` of some voxels, evenly out of their order."""
    if len(voxels) > most:
        voxels = voxels[np.linspace(0, len(voxels) - 1, most).astype(np.int64)]
    return np.ascontiguousarray(voxels, np.int32)


def otsu(sample: Values) -> float:
    """The threshold that parts a sample into two classes of least variance (Otsu 1979), by a histogram of 256 bins."""
    values = np.asarray(sample, np.float64).ravel()
    values = values[np.isfinite(values)]
    if not values.size or values.min() == values.max():
        return float(values[0]) if values.size else 0.0
    counts, edges = np.histogram(values, 256)
    centers = (edges[1:] + edges[:-1]) / 2
    below = np.cumsum(counts)[:-1]
    above = values.size - below
    sums = np.cumsum(counts * centers)
    means = sums[:-1] / np.maximum(below, 1), (sums[-1] - sums[:-1]) / np.maximum(above, 1)
    between = below * above * (means[0] - means[1]) ** 2
    # in the middle of an empty valley
    return float(edges[1:-1][between >= between.max() * (1 - 1e-9)].mean())
