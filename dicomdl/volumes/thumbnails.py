"""Small pictures of a stack: planes in true proportions, read from a few of its slices.

A plane across the slices needs one line per slice, so that 64 slices show a stack of a thousand.
Slices lie in the picture where the header puts them: gaps stay black.
"""

import dataclasses
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from dicomdl.arrays import Floats, Mask, Values
from dicomdl.errors import IntensityError, SUVError
from dicomdl.index.views import Stack
from dicomdl.pixels.options import Decoding
from dicomdl.values.auto import resolve
from dicomdl.values.conversion import conversions, quantity_units
from dicomdl.values.formulas import Ramp
from dicomdl.values.intensity import Intensity
from dicomdl.values.quantity import printed_units
from dicomdl.values.reading import read_converted
from dicomdl.values.windows import Limits, Percentile
from dicomdl.volumes._overlay import legend_of
from dicomdl.volumes._planes import View, evenly_spaced, middle_of, native_view, views_of

Picture = npt.NDArray[np.uint8]

# Slices further apart than this many times the usual distance leave a gap.
_GAP: Final = 1.6
# Values of a stack from which its percentiles are taken, about.
_SAMPLE: Final = 1 << 17
_PERCENTILES: Final = (1, 50, 99)
# Labels of one picture; further ones share the last number.
MOST_MARKS: Final = 254


@dataclass(frozen=True, slots=True)
class ThumbnailOptions:
    """How a stack is pictured.

    Attributes
    ----------
    side
        Pixels of a plane, which is a square.
    slices
        The largest number of slices that the planes across the slices are made of. Below 8, and
        below the number of slices, a stack has the plane of its slices alone.
    reduce
        How many times rows and columns are halved while decoding.
    strip
        Slices of the strip; 0 for none.
    strip_side
        Pixels of a slice of the strip.
    """

    side: int = 64
    slices: int = 64
    reduce: int = 0
    strip: int = 0
    strip_side: int = 96


@dataclass(frozen=True, slots=True, eq=False)
class Thumbnail:
    """The pictures of one stack.

    Attributes
    ----------
    names
        The planes: "axial", "coronal", "sagittal", or "" for slices without orientation.
    planes
        (plane, row, column[, 3]) uint8.
    marks
        (plane, row, column) uint8: the numbers of the labels, counted from 1; None without labels.
    strip, strip_marks
        The same of slices along the stack; None unless they were asked for.
    numbers
        The slices of the strip.
    percentiles
        Percentiles 1, 50 and 99 of a sample of the values; () of colour.
    units
        The units of the values.
    window
        The values that are black and white; () of colour, or where no two values say it.
    """

    names: tuple[str, ...]
    planes: Picture
    marks: Picture | None
    strip: Picture | None
    strip_marks: Picture | None
    numbers: tuple[int, ...]
    percentiles: tuple[float, ...]
    units: str
    window: tuple[float, ...]


def thumbnail(stack: Stack, options: ThumbnailOptions, marks: Values | None = None) -> Thumbnail:
    """Make the pictures of a stack.

    Parameters
    ----------
    stack
        The stack.
    options
        Sizes, and the number of slices to read.
    marks
        (slice, row, column) integers on the grid of the stack: numbers of labels, 0 for none. The
        planes go through the most of them.

    Raises
    ------
    PixelError, IntensityError, GeometryError
        The slices cannot be read, or have no values.
    """
    shape = stack.shape
    middle = middle_of(shape, marks)
    spread = evenly_spaced(shape[0], options.slices)
    views = views_of(stack.geometry, (stack.spacing[1], stack.spacing[2]))
    native = native_view(views)
    if len(spread) < min(8, shape[0]):
        views, spread = {native.name: native}, [middle[0]]
    strip = evenly_spaced(shape[0], options.strip) if options.strip and shape[0] > 1 else []
    frames = _Frames(stack, options.reduce, middle)
    taken = sorted({*(spread if len(views) > 1 else ()), middle[0], *strip})
    for number in taken:
        frames.take(number, line=number in set(spread), whole=number in {middle[0], *strip})
    recipe, window = _recipe(stack, frames)
    where = _places(stack)
    planes, marked = [], []
    for view in views.values():
        canvas = _Canvas(view, shape, where, options.side)
        source = frames.plane(view.axis, middle[0])
        lines = np.array(frames.lined) if view.axis else np.zeros(0, np.int64)
        planes.append(canvas.draw(_mapped(recipe, source), lines))
        if marks is not None:
            marked.append(canvas.mark(np.take(marks, middle[view.axis], axis=view.axis)))
    slices, slice_marks = [], []
    for number in strip:
        canvas = _Canvas(native, shape, where, options.strip_side)
        values = _mapped(recipe, frames.whole[number])
        slices.append(canvas.draw(values, np.zeros(0, np.int64)))
        if marks is not None:
            slice_marks.append(canvas.mark(marks[number]))
    return Thumbnail(
        tuple(views),
        np.stack(planes),
        np.stack(marked) if marked else None,
        np.stack(slices) if slices else None,
        np.stack(slice_marks) if slice_marks else None,
        tuple(strip),
        frames.percentiles(),
        printed_units(quantity_units(stack, recipe.quantity)),
        window,
    )


def label_colour(rank: int) -> tuple[int, int, int]:
    """Return the RGB colour of a label by its rank, as figures have it."""
    colour = legend_of({"": rank})[0][1] or (1.0, 1.0, 1.0)
    red, green, blue = (round(255 * part) for part in colour)
    return red, green, blue


class _Frames:
    """The parts of slices that pictures need: a row and a column of most, a few as a whole."""

    def __init__(self, stack: Stack, reduce: int, middle: tuple[int, int, int]) -> None:
        self.stack = stack
        self._how = Decoding(reduce=reduce, threads=1)
        self._conversions = conversions(stack)
        self._at = tuple(number >> reduce for number in middle[1:])
        self.lined: list[int] = []
        self.whole: dict[int, tuple[Values, Mask | None]] = {}
        self._lines: dict[int, list[tuple[Values, Mask | None]]] = {1: [], 2: []}
        self._samples: list[Values] = []
        _, rows, columns = stack.shape
        self._thin = max(
            1, math.isqrt(rows * columns * min(stack.slices, 64) // _SAMPLE >> 2 * reduce)
        )

    def take(self, number: int, *, line: bool, whole: bool) -> None:
        """Read one slice."""
        frame, mask = self._read(number)
        thin = (slice(None, None, self._thin),) * 2
        values = frame[thin]
        self._samples.append(values[~mask[thin]] if mask is not None else values.reshape(-1))
        if whole:
            self.whole[number] = (frame, mask)
        if line:
            self.lined.append(number)
            row, column = (
                min(at, size - 1) for at, size in zip(self._at, frame.shape[:2], strict=True)
            )
            self._lines[1].append((frame[row].copy(), None if mask is None else mask[row].copy()))
            self._lines[2].append(
                (frame[:, column].copy(), None if mask is None else mask[:, column].copy())
            )

    def _read(self, number: int) -> tuple[Values, Mask | None]:
        """Return a slice and its padding.

        A decoder that halves rows and columns mixes padding with the image beside it. A small
        picture may show that; decoding at full size for an exact edge takes many times as long.
        """
        conversion = self._conversions[number]
        ends, mixes = conversion.padding, self._how.reduce and conversion.table is None
        if ends is None or not mixes:
            read = read_converted([self.stack.source(number)], [conversion], how=self._how)
            return read.array[0], None if read.padding is None else read.padding[0]
        plain = dataclasses.replace(conversion, padding=None)
        frame = read_converted([self.stack.source(number)], [plain], how=self._how).array[0]
        low, high = sorted(
            conversion.rescale.slope * e + conversion.rescale.intercept for e in ends
        )
        mask = (frame >= low) & (frame <= high)
        return frame, mask if mask.any() else None

    @property
    def is_colour(self) -> bool:
        """Whether the slices are RGB."""
        return next(iter(self.whole.values()))[0].ndim > 2

    def sample(self) -> Values:
        """Return values of the slices that were read, without padding."""
        return np.concatenate(self._samples)

    def percentiles(self) -> tuple[float, ...]:
        """Return percentiles of the sample; () of colour or without finite values."""
        if self.is_colour:
            return ()
        values = self.sample()
        finite = values[np.isfinite(values)] if values.dtype.kind == "f" else values
        if not finite.size:
            return ()
        return tuple(np.percentile(finite.astype(np.float64), _PERCENTILES).tolist())

    def plane(self, axis: int, number: int) -> tuple[Values, Mask | None]:
        """Return the values and the padding across an array axis."""
        if axis == 0:
            return self.whole[number]
        values = np.stack([line for line, _ in self._lines[axis]])
        masks = [mask for _, mask in self._lines[axis]]
        if all(mask is None for mask in masks):
            return values, None
        empty = np.zeros(values.shape[1:2], np.bool_)
        return values, np.stack([empty if mask is None else mask for mask in masks])


def _recipe(stack: Stack, frames: _Frames) -> tuple[Intensity, tuple[float, ...]]:
    """Return how values become grey, and the values that are black and white.

    CT has the window of the file, else that of soft tissue; other images follow "auto", with
    percentiles in place of scales that most images fill by a small part.
    """
    middle = stack.middle
    if (
        stack.modality == "CT"
        and quantity_units(stack, "modality") == "HU"
        and not frames.is_colour
    ):
        try:
            recipe = resolve("file", middle)
        except IntensityError:
            recipe = resolve("ct.soft_tissue", middle)
    else:
        try:
            recipe = resolve("auto", middle)
        except SUVError:
            recipe = Intensity(Percentile(0.5, 99.5))
        if recipe.quantity != "modality":
            recipe = Intensity(Percentile(0.5, 99.5))
    if recipe.is_identity:
        sample = frames.sample()
        low, high = float(sample.min(initial=0)), float(sample.max(initial=1))
        recipe = Intensity(Limits(low, max(high, low + 1)))
    if recipe.needs_sample:
        recipe = recipe.with_sample(frames.sample())
    formula = recipe.formula
    if frames.is_colour or not isinstance(formula, Ramp):
        return recipe, ()
    return recipe, (formula.lower, formula.lower + formula.width)


def _mapped(recipe: Intensity, part: tuple[Values, Mask | None]) -> Values:
    """Return float32 from 0 to 1 of a part of the slices; padding is black."""
    values, padding = part
    shown = np.clip(np.nan_to_num(recipe(values)), 0, 1)
    if padding is not None:
        shown[padding] = 0
    return shown


def _places(stack: Stack) -> Floats:
    """Return (slices,) where each slice lies along the axis of the slices, in steps of the grid."""
    plain = np.arange(stack.slices, dtype=np.float64)
    step = stack.affine[:3, 0]
    if stack.slices < 2 or not np.isfinite(step).all() or not step.any():
        return plain
    positions = stack.positions
    found = (positions - positions[0]) @ step / (step @ step)
    return found if np.isfinite(found).all() and (np.diff(found) > 0).all() else plain


class _Canvas:
    """A square of pixels of one size in mm, onto which one plane is drawn.

    Parameters
    ----------
    view
        The plane.
    shape
        The shape of the stack.
    where
        (slices,) the places of the slices.
    side
        Pixels.
    """

    def __init__(self, view: View, shape: tuple[int, int, int], where: Floats, side: int) -> None:
        self._view, self._shape, self._where = view, shape, where
        lengths = (float(where[-1] - where[0]) + 1, *shape[1:])
        rows, columns = lengths[view.rows], lengths[view.columns]
        edges = ((-0.5, columns - 0.5), (-0.5, rows - 0.5))
        ends = np.array(list(itertools.product(*edges))) @ view.steps
        low, high = ends.min(axis=0), ends.max(axis=0)
        self._mm = float(max(*(high - low), 1e-9)) / side
        self._side = side
        middle = (low + high) / 2
        offsets = (np.arange(side) - (side - 1) / 2) * self._mm
        across, down = np.meshgrid(middle[0] + offsets, middle[1] + offsets)
        places = np.stack([across, down], axis=-1) @ np.linalg.inv(view.steps)
        # The places of pixels, by array axis.
        self._at = {view.columns: places[..., 0], view.rows: places[..., 1]}
        for axis, turned in ((view.rows, view.turned[0]), (view.columns, view.turned[1])):
            if turned:
                self._at[axis] = lengths[axis] - 1 - self._at[axis]
        self._axes = sorted(self._at)
        widths = np.linalg.norm(view.steps, axis=1)
        self._spans = {view.columns: self._mm / widths[0], view.rows: self._mm / widths[1]}

    def draw(self, plane: Values, lines: npt.NDArray[np.int64]) -> Picture:
        """Return the picture of a plane, whose axes are in the order of the array.

        `lines` are the slices of its first axis, where that is the axis of the slices.
        """
        outside = np.zeros((self._side, self._side), np.bool_)
        factors, places = [], []
        for number, axis in enumerate(self._axes):
            at, length = self._at[axis], plane.shape[number]
            if axis == 0:
                at, span, beyond = self._between(at, lines)
            else:
                scale = length / self._shape[axis]
                beyond = (at < -0.5) | (at > self._shape[axis] - 0.5)
                at, span = (at + 0.5) * scale - 0.5, self._spans[axis] * scale
            outside |= beyond
            factor = max(1, min(length, int(span)))
            factors.append(factor)
            places.append((at - (factor - 1) / 2) / factor)
        small = _averaged(plane, factors)
        picture = _sampled(small, places)
        picture[outside] = 0
        return np.asarray(np.rint(picture * 255), np.uint8)

    def mark(self, plane: Values) -> Picture:
        """Return the labels of a plane: (row, column) integers of all slices, rows, columns."""
        outside = np.zeros((self._side, self._side), np.bool_)
        small = np.minimum(plane, MOST_MARKS).astype(np.uint8)
        places = []
        for number, axis in enumerate(self._axes):
            at, length = self._at[axis], small.shape[number]
            if axis == 0:
                at, span, beyond = self._between(at, np.arange(length))
            else:
                span, beyond = self._spans[axis], (at < -0.5) | (at > length - 0.5)
            outside |= beyond
            factor = max(1, min(length, int(span)))
            small = _largest(small, number, factor)
            nearest = np.rint((at - (factor - 1) / 2) / factor).astype(np.int64)
            places.append(np.clip(nearest, 0, small.shape[number] - 1))
        picture = small[places[0], places[1]]
        picture[outside] = 0
        return np.asarray(picture, np.uint8)

    def _between(self, at: Floats, lines: npt.NDArray[np.int64]) -> tuple[Floats, float, Mask]:
        """Return the places among slices that were read, their span, and what lies in gaps."""
        every = self._where - self._where[0]
        there = every[lines]
        usual = float(np.median(np.diff(there))) if len(there) > 1 else 1.0
        after = np.clip(np.searchsorted(every, at), 0, len(every) - 1)
        before = np.maximum(after - 1, 0)
        distance = np.minimum(np.abs(at - every[after]), np.abs(at - every[before]))
        # by all slices, not by those that were read
        step = float(np.median(np.diff(every))) if len(every) > 1 else 1.0
        in_gap = distance > step * _GAP / 2
        places = np.interp(at, there, np.arange(len(lines)))
        return places, self._spans[0] / usual, in_gap


def _averaged(plane: Values, factors: Sequence[int]) -> Values:
    """Return means of blocks of pixels; pixels beyond the last whole block do not count."""
    for axis, factor in enumerate(factors):
        if factor > 1:
            whole = plane.shape[axis] // factor
            shape = (*plane.shape[:axis], whole, factor, *plane.shape[axis + 1 :])
            part = np.take(plane, range(whole * factor), axis=axis)
            plane = part.reshape(shape).mean(axis=axis + 1, dtype=np.float32)
    return plane


def _largest(plane: Values, axis: int, factor: int) -> Values:
    """Return the largest of blocks of pixels along an axis: a small label does not vanish."""
    if factor == 1:
        return plane
    starts = np.arange(0, plane.shape[axis], factor)
    return np.asarray(np.maximum.reduceat(plane, starts, axis=axis))


def _sampled(plane: Values, places: Sequence[Floats]) -> Any:
    """Return linearly interpolated values at (row, column) places; the edge goes on."""
    lows, shares = [], []
    for axis, place in enumerate(places):
        inside = np.clip(place, 0, plane.shape[axis] - 1)
        low = np.minimum(inside.astype(np.int64), max(plane.shape[axis] - 2, 0))
        lows.append(low)
        share = (inside - low).astype(np.float32)
        shares.append(share[..., None] if plane.ndim > 2 else share)
    nexts = [np.minimum(low + 1, plane.shape[axis] - 1) for axis, low in enumerate(lows)]
    above = plane[lows[0], lows[1]] * (1 - shares[1]) + plane[lows[0], nexts[1]] * shares[1]
    below = plane[nexts[0], lows[1]] * (1 - shares[1]) + plane[nexts[0], nexts[1]] * shares[1]
    return above * (1 - shares[0]) + below * shares[0]
