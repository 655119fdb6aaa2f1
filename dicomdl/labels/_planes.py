"""Contours of a structure set on the slices of a stack.

Slices are planes with positions of their own, so that tilted, uneven and incomplete stacks need no
special case. A contour belongs to the nearest slice within half the spacing to the next one. A
region that was drawn on every second or third slice fills those between, from the nearest plane.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from dicomdl.arrays import Floats, Ints, Mask, Voxel
from dicomdl.errors import AnnotationError
from dicomdl.headers.structure_set import CLOSED_TYPES, Contours
from dicomdl.index.views import Stack
from dicomdl.labels._polygons import Edges

# The extent of a contour along the normal that is still one plane, as a part of the spacing.
_FLAT: Final = 0.5
# Contours of one region at this distance from each other, as a part of the spacing, lie in one
# plane. Contours of PET have been up to 0.04 mm off their slice.
_SAME_PLANE: Final = 0.1
# Planes of a region at this distance from each other, in spacings of the stack, were drawn on
# coarser slices, such as on every second or third one. Farther ones are no guess of ours.
_COARSE: Final = (1.2, 4.2)
# Neighbouring planes of such a region are at most this far apart, in the usual distance of them.
_NEIGHBOURS: Final = 1.5


@dataclass(frozen=True, slots=True, eq=False)
class Planes:
    """The slices of a stack as planes, in slice order.

    Attributes
    ----------
    origins
        (slices, 3) float64, LPS mm: the centre of the first pixel of each slice.
    down, right
        (3,) float64, mm: the step from one row, or one column, to the next.
    heights
        (slices,) float64, mm along the normal, ascending.
    reach
        (slices, 2) float64, mm: half the distance to the slice below and above.
    """

    origins: Floats
    down: Floats
    right: Floats
    heights: Floats
    reach: Floats

    @classmethod
    def of(cls, stack: Stack) -> "Planes":
        """Return the planes of a stack.

        Raises
        ------
        AnnotationError
            The positions of the stack are unknown.
        """
        affine, origins = stack.affine, stack.positions
        if not (np.isfinite(affine).all() and np.isfinite(origins).all()):
            raise AnnotationError(
                f"the positions of the slices are not known (verdict {stack.verdict}), so that "
                "contours have no place in them",
                verdict=stack.verdict,
            )
        return cls.at(origins, affine[:3, 1], affine[:3, 2], _thickness(stack))

    @classmethod
    def at(cls, origins: Floats, down: Floats, right: Floats, thickness: float) -> "Planes":
        """Return planes at ascending origins; `thickness` is the reach of a single one, mm."""
        normal = np.cross(right, down)
        heights = origins @ (normal / np.linalg.norm(normal))
        gaps = np.diff(heights)
        if not len(gaps):
            gaps = np.array([thickness])
        reach = np.stack([np.r_[gaps[:1], gaps], np.r_[gaps, gaps[-1:]]], axis=1)
        return cls(origins, down, right, heights, reach[: len(heights)] / 2)

    @property
    def normal(self) -> Floats:
        """(3,) float64: the unit vector along which slices ascend."""
        normal = np.cross(self.right, self.down)
        return np.asarray(normal / np.linalg.norm(normal))

    def nearest(self, heights: Floats) -> Ints:
        """Return the slice of each height, -1 beyond half the spacing of every slice."""
        above = np.clip(np.searchsorted(self.heights, heights), 1, max(1, len(self.heights) - 1))
        below = above - 1
        above = np.minimum(above, len(self.heights) - 1)
        is_above = self.heights[above] - heights < heights - self.heights[below]
        chosen = np.where(is_above, above, below)
        offset = heights - self.heights[chosen]
        reach = np.where(offset < 0, self.reach[chosen, 0], self.reach[chosen, 1])
        return np.where(np.abs(offset) <= reach, chosen, -1)

    def with_contours(self, drawn: Sequence[Contours]) -> Mask:
        """Return (slices,) bool: the slices that a contour of some regions lies in."""
        firsts = [each.points[each.starts[:-1][np.diff(each.starts) > 0]] for each in drawn]
        slices = self.nearest(np.concatenate([np.zeros((0, 3)), *firsts]) @ self.normal)
        mask = np.zeros(len(self.heights), np.bool_)
        mask[slices[slices >= 0]] = True
        return mask

    def pixels(self, points: Floats, slices: Ints) -> Floats:
        """Return (points, 2) float64: the (row, column) of LPS points in their slices, pixels."""
        return self.steps(points - self.origins[slices])

    def steps(self, vectors: Floats) -> Floats:
        """Return (..., 2) float64: vectors in mm as steps of (rows, columns)."""
        return np.stack([vectors @ _dual(self.down), vectors @ _dual(self.right)], axis=-1)


def _dual(step: Floats) -> Floats:
    """Return the vector whose scalar product with mm counts steps; rows and columns are square."""
    return np.asarray(step / (step @ step))


def _thickness(stack: Stack) -> float:
    """Return the extent of a single slice along its normal, mm."""
    thickness = stack.value("slice_thickness")
    return float(thickness) if thickness else 1.0


@dataclass(frozen=True, slots=True, eq=False)
class Placed:
    """The contours of one region that fill pixels of a stack, and counts of the others.

    Attributes
    ----------
    edges
        The edges of the contours; their planes are slices.
    start, stop
        The block that the contours cover, which may reach beyond the rows and columns of the stack.
        Both are (0, 0, 0) without contours.
    distance_mm
        The largest distance of a contour from its slice; NaN without contours.
    beyond
        The number of closed contours beyond the first or last slice, or in a hole of the stack.
    between
        The number of closed contours in planes between slices, nearer ones of which were taken.
    open
        The number of points and open contours, which enclose no area.
    copies
        The number of contours that repeat another one of their plane, and fill nothing.
    extents
        (contours, 2, 2) float64: the lowest and the highest (row, column) of each contour, pixels.
    drawn
        (drawn slices,) int64, ascending: the slices that contours belong to.
    filled
        (filled slices,) int64: slices between them that have the contours of the nearest plane,
        because the region was drawn on coarser slices.
    """

    edges: Edges
    start: Voxel
    stop: Voxel
    distance_mm: float
    beyond: int
    between: int
    open: int
    copies: int
    extents: Floats
    drawn: Ints
    filled: Ints

    @property
    def gaps(self) -> int:
        """The number of slices between the first and the last drawn one that none belongs to."""
        return int(self.drawn[-1] - self.drawn[0]) + 1 - len(self.drawn) if len(self.drawn) else 0


def place(contours: Contours, planes: Planes) -> Placed:
    """Assign the closed contours of a region to slices.

    Raises
    ------
    AnnotationError
        Contours lie across the slices of the stack: they were drawn in another orientation.
    """
    sizes = np.diff(contours.starts)
    closed = np.array([kind in CLOSED_TYPES for kind in contours.types], np.bool_) & (sizes > 2)
    numbers = np.flatnonzero(closed)
    not_closed = int((~closed).sum()) - len(contours.unusable)
    chosen, starts = _points_of(contours.starts, numbers)
    low, high = _extremes((contours.points @ planes.normal)[chosen], starts)
    middle = (low + high) / 2
    slices = planes.nearest(middle)
    inside = slices >= 0
    spacing = planes.reach[slices].min(axis=1) * 2
    across = (high - low > _FLAT * spacing) & inside
    if across.any():
        extent = float((high - low)[across].max())
        raise AnnotationError(
            f"{int(across.sum())} of {len(numbers)} contours extend up to {extent:.3g} mm across "
            "the slices: they were drawn in another orientation than that of the stack",
            contours=int(across.sum()),
            extent_mm=extent,
        )
    offset = np.abs(middle - planes.heights[slices])
    nearest = np.full(len(planes.heights), np.inf)
    np.minimum.at(nearest, slices[inside], offset[inside])
    kept = inside & (offset <= nearest[slices] + _SAME_PLANE * spacing)
    order = np.flatnonzero(kept)[np.argsort(slices[kept], kind="stable")]
    drawn = _Drawn.of(contours, planes, numbers[order], slices[order])
    is_copy = drawn.is_copy()
    if is_copy.any():
        order = order[~is_copy]
        drawn = _Drawn.of(contours, planes, numbers[order], slices[order])
    filled, near = drawn.filled(middle[order], planes)
    edges, start, stop = drawn.with_copies(planes, filled, near)
    return Placed(
        edges,
        start,
        stop,
        float(offset[kept].max()) if kept.any() else np.nan,
        int((~inside).sum()),
        int((inside & ~kept).sum()),
        not_closed,
        int(is_copy.sum()),
        drawn.extents,
        np.unique(drawn.slices),
        np.unique(filled),
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Drawn:
    """Contours in slices.

    Attributes
    ----------
    points
        (points, 3) float64, LPS mm.
    starts
        (contours + 1,) int64: the first point of each contour, then the number of points.
    slices
        (contours,) int64, ascending.
    pixels
        (points, 2) float64: (row, column) of the points in their slices.
    extents
        (contours, 2, 2) float64: the lowest and the highest (row, column) of each contour.
    """

    points: Floats
    starts: Ints
    slices: Ints
    pixels: Floats
    extents: Floats

    @classmethod
    def of(cls, contours: Contours, planes: Planes, numbers: Ints, slices: Ints) -> "_Drawn":
        """Return some contours in their slices, which ascend."""
        chosen, starts = _points_of(contours.starts, numbers)
        points = contours.points[chosen]
        pixels = planes.pixels(points, np.repeat(slices, np.diff(starts)))
        return cls(points, starts, slices, pixels, np.stack(_extremes(pixels, starts), axis=1))

    def is_copy(self) -> Mask:
        """Return (contours,) bool: those with the edges of an earlier one in their slice.

        By exclusive or, a contour that was stored twice would fill nothing. The first point and the
        direction of a copy may be others.
        """
        sizes = np.diff(self.starts)
        # Few contours of one slice have as many points and one rectangle: their edges are compared.
        facts = np.column_stack([self.slices, sizes, np.rint(self.extents.reshape(-1, 4) * 1e4)])
        _, alike, counts = np.unique(facts, axis=0, return_inverse=True, return_counts=True)
        is_copy, seen = np.zeros(len(sizes), np.bool_), set()
        for number in np.flatnonzero(counts[alike.reshape(-1)] > 1).tolist():
            points = self.pixels[self.starts[number] : self.starts[number + 1]]
            edges = np.rint(np.stack([points, np.roll(points, -1, axis=0)], axis=1) * 1e4)
            ordered = sorted(sorted(map(tuple, edge)) for edge in edges.tolist())
            key = (int(self.slices[number]), repr(ordered))
            is_copy[number] = key in seen
            seen.add(key)
        return is_copy

    def filled(self, heights: Floats, planes: Planes) -> tuple[Ints, Ints]:
        """Return the slices between coarser ones, and the contours that each of them takes.

        Both are (copies,) int64: a slice occurs once per contour. Contours of neighbouring planes
        overlap: spots that happen to be as far apart are no region between them.

        Parameters
        ----------
        heights
            (contours,) float64, mm along the normal.
        planes
            The slices.
        """
        none = np.zeros(0, np.int64)
        drawn, first = np.unique(self.slices, return_index=True)
        if len(drawn) < 3:
            return none, none
        ends = [*first[1:].tolist(), len(self.slices)]
        groups = [np.arange(a, b) for a, b in zip(first.tolist(), ends, strict=True)]
        at = heights[first]
        # Of most planes, no neighbour is on the next slice: else, slices were left out on purpose.
        few, usual = np.quantile(np.diff(at), [0.25, 0.5], method="lower").tolist()
        spacing = float(np.median(planes.reach.sum(axis=1)[drawn]))
        if few < _COARSE[0] * spacing or usual > _COARSE[1] * spacing:
            return none, none
        found, near = [none], [none]
        for n in range(len(drawn) - 1):
            between = np.arange(drawn[n] + 1, drawn[n + 1])
            if at[n + 1] - at[n] > _NEIGHBOURS * usual or not self._meet(*groups[n : n + 2]):
                continue
            middle = (at[n] + at[n + 1]) / 2
            for z in between.tolist():
                group = groups[n + int(planes.heights[z] > middle)]
                found.append(np.full(len(group), z))
                near.append(group)
        return np.concatenate(found), np.concatenate(near)

    def _meet(self, these: Ints, those: Ints) -> bool:
        """Whether the rectangles around two groups of contours overlap."""
        low = [self.extents[each, 0].min(axis=0) for each in (these, those)]
        high = [self.extents[each, 1].max(axis=0) for each in (these, those)]
        return bool((np.maximum(*low) <= np.minimum(*high)).all())

    def with_copies(self, planes: Planes, filled: Ints, near: Ints) -> tuple[Edges, Voxel, Voxel]:
        """Return the edges of the contours and of copies, and the block that they cover."""
        if not len(self.slices):
            none = Edges.of(np.zeros((0, 2)), np.zeros(1, np.int64), self.slices)
            return none, (0, 0, 0), (0, 0, 0)
        slices, starts, points = self.slices, self.starts, self.pixels
        if len(filled):
            slices = np.concatenate([slices, filled])
            order = np.argsort(slices, kind="stable")
            slices, copied = slices[order], np.concatenate([np.arange(len(starts) - 1), near])
            chosen, starts = _points_of(starts, copied[order])
            points = planes.pixels(self.points[chosen], np.repeat(slices, np.diff(starts)))
        # A pixel inside has its centre between the lowest and the highest point.
        low, high = np.ceil(points.min(axis=0)), np.ceil(points.max(axis=0))
        start = (int(slices[0]), int(low[0]), int(low[1]))
        stop = (int(slices[-1]) + 1, int(high[0]), int(high[1]))
        return Edges.of(points, starts, slices), start, stop


def _points_of(starts: Ints, numbers: Ints) -> tuple[Ints, Ints]:
    """Return the points of some contours, one after the other, and the first of each and the end.

    `starts` holds the first point of all contours, and the number of points.
    """
    sizes = np.diff(starts)[numbers]
    ends = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    return np.repeat(starts[numbers] - ends[:-1], sizes) + np.arange(ends[-1]), ends


def _extremes(values: Floats, starts: Ints) -> tuple[Floats, Floats]:
    """Return the smallest and the largest values of contours, none of which is empty."""
    if len(starts) < 2:
        return (values[:0], values[:0])
    return np.minimum.reduceat(values, starts[:-1]), np.maximum.reduceat(values, starts[:-1])
