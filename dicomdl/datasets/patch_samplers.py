"""Samplers of patches: the positions of patches in a stack, in pure numpy.

A patch has a start voxel, which may be negative, and a size. Voxels outside the stack are padding.
Random choices take a generator. Where it is seeded by (seed, epoch, row), a patch is the same in
every worker, rank and order.
"""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from dicomdl.arrays import Voxel
from dicomdl.errors import UsageError


def chance(seed: int, epoch: int, row: int) -> np.random.Generator:
    """Return the random generator of one sample, distinct for every (seed, epoch, row)."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence((seed, epoch, row))))


class StackView(Protocol):
    """The view of a stack that a sampler gets."""

    @property
    def shape(self) -> Voxel:
        """(slices, rows, columns)."""

    def foreground(self, above: float | None) -> npt.NDArray[np.int32]:
        """Return (n, 3) int32 voxels of the body, thinned evenly."""

    def labelled(self) -> Mapping[int, Sequence[npt.NDArray[np.int32]]]:
        """Return {label: all its voxels}, each (3,) int32, which are read when asked for."""

    def centers(self) -> npt.NDArray[np.float64]:
        """Return (n, 3) float64 voxels, the points of a table in the stack."""


class PatchSampler(Protocol):
    """The start voxels of the patches of a stack: a frozen value, compared by content.

    A sampler that never uses the generator of `start` may say so by an attribute `is_random` that
    is False. Its patches are then fixed, and torch's generator is left alone.
    """

    def count(self, shape: Voxel, size: Voxel, per_stack: int) -> int:
        """Return the number of patches of `size` per epoch for a stack of `shape`.

        `per_stack` is the option of the dataset.
        """

    def start(
        self, view: StackView, size: Voxel, number: int, generator: np.random.Generator
    ) -> Voxel:
        """Return the first voxel of patch `number` (from 0) of the stack in `view`.

        The patch has `size` voxels; chance comes from `generator` alone.
        """


# --- samplers -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Uniform:
    """Patches at uniformly random positions inside the stack.

    Along an axis shorter than the patch, the stack lies in the middle of the patch.
    """

    def count(self, shape: Voxel, size: Voxel, per_stack: int) -> int:
        """Return `per_stack`, whatever `shape` and `size` are."""
        del shape, size
        return per_stack

    def start(
        self, view: StackView, size: Voxel, number: int, generator: np.random.Generator
    ) -> Voxel:
        """Return a random start in `view` for a patch of `size`, drawn from `generator`.

        All starts inside the stack are equally probable, for each `number`.
        """
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
        The threshold of modality values above which a voxel is body. By default -500 for CT in HU,
        else Otsu's threshold of the stack's sample.
    """

    above: float | None = None

    def count(self, shape: Voxel, size: Voxel, per_stack: int) -> int:
        """Return `per_stack`, whatever `shape` and `size` are."""
        del shape, size
        return per_stack

    def start(
        self, view: StackView, size: Voxel, number: int, generator: np.random.Generator
    ) -> Voxel:
        """Return a start around a voxel of the body in `view`, drawn from `generator`.

        The patch has `size` voxels; `number` plays no part. Without a body the start is uniform.
        """
        return _around_random(view.foreground(self.above), view, size, number, generator)


@dataclass(frozen=True, slots=True)
class Balanced:
    """Patches around a random voxel of a label that is drawn by weight.

    Every voxel of the drawn label is as likely as any other, in large and in small parts of it. The
    first patch of a stack counts the voxels per slice and label, once per process or, with a cache,
    once for all. Later ones read one slice more than the patch.

    Parameters
    ----------
    weights
        {label: weight}. Labels that a stack lacks are ignored there, and a stack with none of them
        is sampled uniformly. By default all labels of the stack, with the background, have the same
        weight.

    Raises
    ------
    UsageError
        A weight is negative or not finite, or all are 0.
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
                "weights are finite, not negative, and not all 0; found "
                f"{[weight for _, weight in pairs]}"
            )
        object.__setattr__(self, "weights", pairs)

    def count(self, shape: Voxel, size: Voxel, per_stack: int) -> int:
        """Return `per_stack`, whatever `shape` and `size` are."""
        del shape, size
        return per_stack

    def start(
        self, view: StackView, size: Voxel, number: int, generator: np.random.Generator
    ) -> Voxel:
        """Return a start around a voxel of a label in `view`, both drawn from `generator`.

        The patch has `size` voxels; `number` plays no part.
        """
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
        return _around_random(voxels[label], view, size, number, generator)


@dataclass(frozen=True, slots=True)
class Grid:
    """Patches on a grid that covers the stack, for inference; `stitch` joins the results.

    Parameters
    ----------
    overlap
        The least fraction of a patch that neighbours share, from 0 to below 1: one number, or one
        per axis. Patches are spread evenly, the first and last flush with the stack. Along an axis
        shorter than the patch, the stack lies in the middle of the patch.

    Raises
    ------
    UsageError
        An overlap is outside of 0 to below 1.
    """

    overlap: float | tuple[float, float, float] = 0.0

    def __post_init__(self) -> None:
        if not all(0 <= part < 1 for part in self._parts()):
            raise UsageError(f"overlap is {self.overlap}: expected 0 to below 1")

    @property
    def is_random(self) -> bool:
        """False: a grid has no chance."""
        return False

    def _parts(self) -> tuple[float, ...]:
        """Return the overlap per axis."""
        return self.overlap if isinstance(self.overlap, tuple) else (self.overlap,) * 3

    def starts(self, shape: Voxel, size: Voxel) -> list[Voxel]:
        """Return all starts of patches of `size` in a stack of `shape`, the last axis fastest."""
        axes = [_spread(n, s, part) for n, s, part in zip(shape, size, self._parts(), strict=True)]
        return [(z, y, x) for z, y, x in itertools.product(*axes)]

    def count(self, shape: Voxel, size: Voxel, per_stack: int) -> int:
        """Return the number of patches of `size` that cover `shape`, not `per_stack`."""
        del per_stack
        return math.prod(
            len(_spread(n, s, part)) for n, s, part in zip(shape, size, self._parts(), strict=True)
        )

    def start(
        self, view: StackView, size: Voxel, number: int, generator: np.random.Generator
    ) -> Voxel:
        """Return start `number` of `starts` for the shape of `view` and `size`.

        The `generator` is not used.
        """
        del generator
        axes = [
            _spread(n, s, part) for n, s, part in zip(view.shape, size, self._parts(), strict=True)
        ]
        z, rest = divmod(number, len(axes[1]) * len(axes[2]))
        y, x = divmod(rest, len(axes[2]))
        return axes[0][z], axes[1][y], axes[2][x]


def as_sampler(option: str | PatchSampler) -> PatchSampler:
    """Return the sampler for the option ``sampler=``: a name or a sampler."""
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
                f"sampler={option!r}: expected {', '.join(map(repr, named))}, "
                "Centers.from_table(...) or a sampler of your own"
            )
        return named[option]()
    if not (hasattr(option, "count") and hasattr(option, "start")):
        raise UsageError(
            f"sampler is a {type(option).__name__}: expected a name or an object with the methods "
            "`count` and `start`"
        )
    return option


def _spread(length: int, size: int, overlap: float) -> list[int]:
    """Return the starts along one axis; neighbours share at least `overlap` of the size."""
    if length <= size:
        return [(length - size) // 2]
    step = max(1, math.floor(size * (1 - overlap)))
    count = math.ceil((length - size) / step) + 1
    return [round(number * (length - size) / (count - 1)) for number in range(count)]


def _around_random(
    voxels: Sequence[npt.NDArray[np.int32]] | npt.NDArray[np.int32],
    view: StackView,
    size: Voxel,
    number: int,
    generator: np.random.Generator,
) -> Voxel:
    """Return the start of the patch centred on a random voxel, moved inside the stack."""
    if not len(voxels):
        return Uniform().start(view, size, number, generator)
    center = voxels[int(generator.integers(len(voxels)))]
    return _inside([int(c) - s // 2 for c, s in zip(center, size, strict=True)], view.shape, size)


def _inside(start: Sequence[int], shape: Voxel, size: Voxel) -> Voxel:
    """Return a start moved so that the patch lies inside the stack.

    Along an axis shorter than the patch, the stack lies in the middle of the patch.
    """
    z, y, x = (
        (n - s) // 2 if n < s else min(max(int(a), 0), n - s)
        for a, n, s in zip(start, shape, size, strict=True)
    )
    return z, y, x


def thinned(voxels: npt.NDArray[Any], most: int) -> npt.NDArray[np.int32]:
    """Return at most `most` of (n, 3) voxels, taken at even steps of their order."""
    if len(voxels) > most:
        voxels = voxels[np.linspace(0, len(voxels) - 1, most).astype(np.int64)]
    return np.ascontiguousarray(voxels, np.int32)
