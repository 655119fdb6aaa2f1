"""Where patches lie in a stack, and how they come back together: pure numpy, and chance that depends on nothing but its key.

A patch has a start voxel, which may be negative, and a size; what lies outside of the stack is padded. Random choices take a generator
made of (seed, epoch, row), so a patch is the same whichever worker or rank makes it, and in whatever order.
"""

import hashlib
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from dicomdl.errors import GeometryError, UsageError

Voxel: TypeAlias = tuple[int, int, int]
Values: TypeAlias = npt.NDArray[Any]
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

    def start(self, view: StackView, size: Voxel, number: int, generator: np.random.Generator) -> Voxel:
        """The first voxel of patch `number` (from 0) of the stack."""


# --- samplers -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Uniform:
    """Every place inside of the stack with the same probability; along axes shorter than the patch, the stack in its middle."""

    def count(self, shape: Voxel, size: Voxel, per_stack: int) -> int:
        """`per_stack`."""
        del shape, size
        return per_stack

    def start(self, view: StackView, size: Voxel, number: int, generator: np.random.Generator) -> Voxel:
        """A random place."""
        del number
        return _inside([int(generator.integers(0, max(0, n - s) + 1)) for n, s in zip(view.shape, size, strict=True)], view.shape, size)


@dataclass(frozen=True, slots=True)
class Foreground:
    """Patches around a random voxel of the body.

    Parameters
    ----------
    above
        Modality values above this are body. By default above -500 for CT in HU, else above the threshold of Otsu on the stack's sample.
    """

    above: float | None = None

    def count(self, shape: Voxel, size: Voxel, per_stack: int) -> int:
        """`per_stack`."""
        del shape, size
        return per_stack

    def start(self, view: StackView, size: Voxel, number: int, generator: np.random.Generator) -> Voxel:
        """Around a random voxel of the body, anywhere where there is none."""
        return _around_one(view.foreground(self.above), view, size, number, generator)


@dataclass(frozen=True, slots=True)
class Balanced:
    """Patches around a random voxel of a label that is chosen by weight.

    Parameters
    ----------
    weights
        {label: weight}; labels that a stack lacks are left out there, and a stack with none of them is sampled uniformly. By
        default all labels of the stack, background too, with the same weight.
    """

    weights: tuple[tuple[int, float], ...] = ()

    def __init__(self, weights: Mapping[int, float] | Sequence[tuple[int, float]] = ()) -> None:
        pairs = tuple(sorted((int(label), float(weight)) for label, weight in dict(weights).items()))
        if any(not (math.isfinite(weight) and weight >= 0) for _, weight in pairs) or (pairs and not sum(w for _, w in pairs)):
            raise UsageError(f"weights are finite, not negative, and not all 0; found {[weight for _, weight in pairs]}")
        object.__setattr__(self, "weights", pairs)

    def count(self, shape: Voxel, size: Voxel, per_stack: int) -> int:
        """`per_stack`."""
        del shape, size
        return per_stack

    def start(self, view: StackView, size: Voxel, number: int, generator: np.random.Generator) -> Voxel:
        """Around a random voxel of a random label."""
        voxels = view.labelled()
        wanted = [(label, weight) for label, weight in (self.weights or [(label, 1.0) for label in sorted(voxels)]) if label in voxels]
        total = sum(weight for _, weight in wanted)
        if not total:
            return Uniform().start(view, size, number, generator)
        label = wanted[int(generator.choice(len(wanted), p=[weight / total for _, weight in wanted]))][0]
        return _around_one(voxels[label], view, size, number, generator)


@dataclass(frozen=True, slots=True)
class Grid:
    """All places of a grid that covers the stack, for inference: `stitch` brings the results back together.

    Parameters
    ----------
    overlap
        The part of a patch that neighbours share at least, 0 to below 1; one number, or one an axis. Places are spread evenly,
        the first and the last flush with the stack; along axes shorter than the patch the stack lies in its middle.
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
        return math.prod(len(_spread(n, s, part)) for n, s, part in zip(shape, size, self._parts(), strict=True))

    def start(self, view: StackView, size: Voxel, number: int, generator: np.random.Generator) -> Voxel:
        """Place `number` of the grid."""
        del generator
        axes = [_spread(n, s, part) for n, s, part in zip(view.shape, size, self._parts(), strict=True)]
        z, rest = divmod(number, len(axes[1]) * len(axes[2]))
        y, x = divmod(rest, len(axes[2]))
        return axes[0][z], axes[1][y], axes[2][x]


class Centers:
    """One patch around each point of a table.

    Parameters
    ----------
    points
        (Series Instance UID, x, y, z) a point, LPS mm. `from_table` takes what pandas and csv give.
    jitter
        The most voxels that a patch is moved by along each axis, another time in every epoch.
    """

    def __init__(self, points: Iterable[tuple[str, float, float, float]] = (), jitter: int = 0) -> None:
        rows = list(points)
        names, places = [str(row[0]) for row in rows], np.array([row[1:4] for row in rows], np.float64).reshape(-1, 3)
        self._jitter = jitter
        # Arrays, not objects: a worker that looks at an object writes to its count of references, and so copies its page.
        self.series, which = np.unique(np.array(names, np.str_), return_inverse=True)
        self.rows = np.argsort(which, kind="stable")
        self._ends = np.searchsorted(which[self.rows], np.arange(len(self.series) + 1))
        self._places = places[self.rows]
        self._digest = hashlib.blake2b(repr((names, jitter)).encode() + places.tobytes(), digest_size=16).digest()

    @property
    def jitter(self) -> int:
        """The most voxels that a patch is moved by."""
        return self._jitter

    def __len__(self) -> int:
        return len(self._places)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Centers) and other._digest == self._digest

    def __hash__(self) -> int:
        return hash(self._digest)

    def __repr__(self) -> str:
        return f"Centers({len(self):,} points, jitter={self.jitter})"

    @classmethod
    def from_table(cls, table: Any, *, jitter: int = 0, columns: Sequence[str] = ("series_instance_uid", "x", "y", "z")) -> "Centers":
        """The points of a data frame, or of a mapping of columns to values.

        Raises
        ------
        UsageError
            A column is missing, or a coordinate is no finite number.
        """
        missing = [name for name in columns if name not in table]
        if missing:
            raise UsageError(f"the table lacks the column(s) {', '.join(missing)}", missing=missing)
        try:
            points = [(str(uid), float(x), float(y), float(z)) for uid, x, y, z in zip(*(table[name] for name in columns), strict=True)]
        except (TypeError, ValueError):
            raise UsageError("a coordinate of the table is no number") from None
        if not all(math.isfinite(value) for point in points for value in point[1:]):
            raise UsageError("a coordinate of the table is not finite")
        return cls(points, jitter)

    def of_series(self, series_instance_uid: str) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
        """(n, 3) LPS mm of one Series, and (n,) the rows of the table that they are, from 0."""
        place = int(np.searchsorted(self.series, series_instance_uid))
        if place == len(self.series) or self.series[place] != series_instance_uid:
            return np.zeros((0, 3)), np.zeros(0, np.int64)
        own = slice(int(self._ends[place]), int(self._ends[place + 1]))
        return self._places[own], self.rows[own]

    def count(self, shape: Voxel, size: Voxel, per_stack: int) -> int:
        """Not known of a shape alone: the dataset counts the points that lie in a stack."""
        del shape, size, per_stack
        raise UsageError("the points of a table are counted by the dataset")

    def start(self, view: StackView, size: Voxel, number: int, generator: np.random.Generator) -> Voxel:
        """Around point `number` of the stack; it may reach beyond the border."""
        center = view.centers()[number]
        moves = generator.integers(-self.jitter, self.jitter + 1, 3) if self.jitter else np.zeros(3)
        z, y, x = (round(float(c)) - s // 2 + int(m) for c, s, m in zip(center, size, moves, strict=True))
        return z, y, x


def as_sampler(option: str | PatchSampler) -> PatchSampler:
    """What a user passed as ``sampler=``: "uniform", "foreground", "labels", "grid" or a sampler."""
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
        raise UsageError(f"sampler is a {type(option).__name__}: expected a name or something with `count` and `start`")
    return option


def _spread(length: int, size: int, overlap: float) -> list[int]:
    """Starts along one axis, so many that neighbours share `overlap` of the size at least."""
    if length <= size:
        return [(length - size) // 2]
    step = max(1, math.floor(size * (1 - overlap)))
    count = math.ceil((length - size) / step) + 1
    return [round(place * (length - size) / (count - 1)) for place in range(count)]


def _around_one(voxels: npt.NDArray[np.int32], view: StackView, size: Voxel, number: int, generator: np.random.Generator) -> Voxel:
    """The patch in whose middle a random one of some voxels lies, moved inside of the stack."""
    if not len(voxels):
        return Uniform().start(view, size, number, generator)
    center = voxels[int(generator.integers(len(voxels)))]
    return _inside([int(c) - s // 2 for c, s in zip(center, size, strict=True)], view.shape, size)


def _inside(start: Sequence[int], shape: Voxel, size: Voxel) -> Voxel:
    """A start moved so that the patch lies inside; where the stack is shorter than the patch, in its middle."""
    z, y, x = ((n - s) // 2 if n < s else min(max(int(a), 0), n - s) for a, n, s in zip(start, shape, size, strict=True))
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
    return float(edges[1:-1][between >= between.max() * (1 - 1e-9)].mean())  # in the middle of an empty valley


# --- cutting and stitching ------------------------------------------------------------------------------------------


def overlap_of(start: Voxel, size: Voxel, shape: Voxel) -> tuple[tuple[slice, ...], tuple[slice, ...]] | None:
    """(where in the stack, where in the patch) the two meet; None where they do not."""
    inner = [(max(0, a), min(n, a + s)) for a, s, n in zip(start, size, shape, strict=True)]
    if any(low >= high for low, high in inner):
        return None
    return tuple(slice(*pair) for pair in inner), tuple(slice(low - a, high - a) for (low, high), a in zip(inner, start, strict=True))


def gaussian(size: Voxel, sigma: float = 0.125) -> npt.NDArray[np.float32]:
    """(size) weights for `stitch`: a bell about the middle, `sigma` times the size wide, at least 1e-3 of its top everywhere."""
    axes = [np.exp(-0.5 * ((np.arange(n) - (n - 1) / 2) / max(sigma * n, 1e-6)) ** 2) for n in size]
    weights = axes[0][:, None, None] * axes[1][:, None] * axes[2]
    return np.asarray(np.maximum(weights / weights.max(), 1e-3), np.float32)


class Stitcher:
    """Patches, or what a network made of them, back into one array of a stack: a weighted mean where they overlap.

    Parameters
    ----------
    shape
        (slices, rows, columns) of the stack.
    weights
        "gaussian", "constant", or an array of the patch's spatial size.
    """

    def __init__(self, shape: Voxel, weights: str | Values = "gaussian") -> None:
        self.shape = shape
        self._weights = weights
        self._sum: Values | None = None
        self._total = np.zeros(shape, np.float32)

    def add(self, patch: Values, location: Sequence[int]) -> None:
        """Add one patch, (C, D, H, W) or (D, H, W), that began at voxel `location` of the stack."""
        patch = np.asarray(patch)
        size = patch.shape[-3:]
        weights = self._of_size((int(size[0]), int(size[1]), int(size[2])))
        if self._sum is None:
            self._sum = np.zeros((*patch.shape[:-3], *self.shape), np.float32)
        if self._sum.shape[:-3] != patch.shape[:-3]:
            raise UsageError(f"patches of {self._sum.shape[:-3]} channels so far, now {patch.shape[:-3]}")
        z, y, x = (int(a) for a in location)
        met = overlap_of((z, y, x), (int(size[0]), int(size[1]), int(size[2])), self.shape)
        if met is None:
            return
        there, here = met
        z_range, y_range, x_range = here
        self._sum[..., there[0], there[1], there[2]] += patch[..., z_range, y_range, x_range] * weights[here]
        self._total[there] += weights[here]

    def _of_size(self, size: Voxel) -> Values:
        if isinstance(self._weights, str):
            if self._weights not in ("gaussian", "constant"):
                raise UsageError(f"weights={self._weights!r}: expected 'gaussian', 'constant' or an array")
            self._weights = gaussian(size) if self._weights == "gaussian" else np.ones(size, np.float32)
        if self._weights.shape != size:
            raise UsageError(f"a patch of {size} with weights of {self._weights.shape}")
        return self._weights

    @property
    def is_covered(self) -> bool:
        """Whether every voxel of the stack lies in a patch."""
        return bool((self._total > 0).all())

    def result(self, fill: float = np.nan) -> npt.NDArray[np.float32]:
        """(C, slices, rows, columns) or (slices, rows, columns) float32, a new array; `fill` where no patch lies.

        Raises
        ------
        GeometryError
            No patch was added.
        """
        if self._sum is None:
            raise GeometryError("no patch was added: there is nothing to stitch")
        with np.errstate(invalid="ignore", divide="ignore"):
            mean = self._sum / self._total
        mean[..., self._total == 0] = fill
        return np.asarray(mean, np.float32)


def stitch(
    patches: Sequence[Values] | Iterator[Values], locations: Sequence[Sequence[int]], shape: Voxel, weights: str | Values = "gaussian"
) -> npt.NDArray[np.float32]:
    """Patches back into one array of a stack: `Stitcher` in one call; NaN where no patch lies."""
    whole = Stitcher(shape, weights)
    for patch, location in zip(patches, locations, strict=True):
        whole.add(patch, location)
    return whole.result()
