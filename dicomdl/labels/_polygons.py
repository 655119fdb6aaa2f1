"""Polygons of planes as masks: pixel centres, even-odd rule, half-open edges.

A pixel belongs to a polygon if its centre does. A centre on an edge counts on one side of the
polygon only, so that the doubled edges of a keyhole cancel and neighbouring polygons share no
pixel. Polygons of one plane are combined by exclusive or (PS3.3 C.8.8.6.1): a polygon inside
another one is a hole, and one inside a hole is an island.
"""

from dataclasses import dataclass

import numpy as np

from dicomdl.arrays import Floats, Ints, Mask, Voxel


@dataclass(frozen=True, slots=True, eq=False)
class Edges:
    """The edges of closed polygons, ordered by plane.

    An edge has the same ends in both directions, so that doubled edges cross at equal rows.

    Attributes
    ----------
    left, right
        (edges, 2) float64: (row, column) of the ends, pixels. The left end has the lower column.
    slope
        (edges,) float64: rows per column; not finite for an edge along a column, which counts for
        no pixel.
    planes
        (edges,) int64, ascending.
    """

    left: Floats
    right: Floats
    slope: Floats
    planes: Ints

    @classmethod
    def of(cls, points: Floats, starts: Ints, planes: Ints) -> "Edges":
        """Return the edges of polygons.

        Parameters
        ----------
        points
            (points, 2) float64: (row, column) of the points of all polygons, pixels.
        starts
            (polygons + 1,) int64: the first point of each polygon, then the number of points.
        planes
            (polygons,) int64, ascending: the plane of each polygon.
        """
        following = np.arange(1, len(points) + 1)
        sizes = np.diff(starts)
        filled = sizes > 0
        following[starts[1:][filled] - 1] = starts[:-1][filled]
        other = points[following] if len(points) else points
        # By column, then by row: with both, the order of two ends is total.
        is_left = (points[:, 1] < other[:, 1]) | (
            (points[:, 1] == other[:, 1]) & (points[:, 0] <= other[:, 0])
        )
        left = np.where(is_left[:, None], points, other)
        right = np.where(is_left[:, None], other, points)
        with np.errstate(divide="ignore", invalid="ignore"):
            slope = (right[:, 0] - left[:, 0]) / (right[:, 1] - left[:, 1])
        return cls(left, right, slope, np.repeat(planes, sizes))

    @property
    def nbytes(self) -> int:
        """The memory of the edges, bytes."""
        return self.left.nbytes + self.right.nbytes + self.slope.nbytes + self.planes.nbytes

    def fill(self, start: Voxel, stop: Voxel) -> Mask:
        """Return (planes, rows, columns) bool: the pixels of a block that lie in the polygons.

        The block is given by its first voxel and the one after its last. A pixel does not depend on
        the block that it is filled with.
        """
        first, last = np.searchsorted(self.planes, [start[0], stop[0]])
        edges = slice(int(first), int(last))
        left, slope, planes = self.left[edges], self.slope[edges], self.planes[edges]
        count, rows, columns = (b - a for a, b in zip(start, stop, strict=True))
        # Columns that an edge crosses: from its left end, inclusive, to its right end, exclusive.
        begin = np.clip(np.ceil(left[:, 1]), start[2], stop[2]).astype(np.int64)
        end = np.clip(np.ceil(self.right[edges, 1]), start[2], stop[2]).astype(np.int64)
        crossings = end - begin
        edge = np.repeat(np.arange(len(left)), crossings)
        column = np.arange(len(edge)) + (begin - np.cumsum(crossings) + crossings)[edge]
        row = np.ceil(left[edge, 0] + (column - left[edge, 1]) * slope[edge])
        # The pixels below a crossing change sides.
        inside = row < stop[1]
        change = np.maximum(row[inside], start[1]).astype(np.int64) - start[1]
        plane = planes[edge[inside]] - start[0]
        # Rows come first, so that a row of all planes is one run of bytes.
        mask = np.zeros((rows, count, columns), np.uint8)
        flat = (change * count + plane) * columns + (column[inside] - start[2])
        np.bitwise_xor.at(mask.reshape(-1), flat, np.uint8(1))
        # NumPy accumulates along an axis value by value, which takes ten times as long.
        for lower in range(1, rows):
            mask[lower] ^= mask[lower - 1]
        return mask.view(np.bool_).transpose(1, 0, 2)
