"""Planes of a grid for pictures: axial, coronal and sagittal, as a reader of images expects them.

Each array axis counts as the nearest direction of the patient. Pictures show the patient from the
feet or from the front, with the left side on the right: rows of an axial picture lead to Posterior,
those of the others to Inferior; columns lead to Left, or in a sagittal picture to Posterior. A
sheared grid is drawn with its shear, so that lengths and angles in a picture are true.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dicomdl.arrays import Floats, Values
from dicomdl.errors import GeometryError, UsageError
from dicomdl.geometry.axes import PLANE_AXES, PLANES, Plane, axes_towards
from dicomdl.geometry.grid import Geometry


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """One plane of a grid.

    Attributes
    ----------
    name
        "axial", "coronal", "sagittal", or "" for the slices of a grid without orientation.
    axis
        The array axis across the plane, without the leading axis of a group.
    rows, columns
        The array axes down and across the picture.
    turned
        Whether the picture reverses rows and columns.
    steps
        (2, 2) mm: across and down, per column (first) and row (second) of the picture.
    """

    name: str
    axis: int
    rows: int
    columns: int
    turned: tuple[bool, bool]
    steps: Floats

    def cut(self, values: Values, number: int) -> Values:
        """Return the picture (row, column[, sample]) at an index, of (slice, row, column, ...)."""
        plane = np.take(values, number, axis=self.axis)
        if self.rows > self.columns:
            plane = plane.swapaxes(0, 1)
        down, across = (slice(None, None, -1 if turn else 1) for turn in self.turned)
        return np.asarray(plane[down, across])

    def extent(self, shape: Sequence[int]) -> tuple[float, float]:
        """Return the width and the height of the picture of a grid in mm."""
        width, height = np.abs(self.steps) @ (shape[self.columns], shape[self.rows])
        return float(width), float(height)


def views_of(geometry: Geometry, in_plane: tuple[float, float]) -> dict[str, View]:
    """Return {name: view} of the planes that a grid can be shown in.

    A single slice has one plane. Without orientation, its name is "".

    Parameters
    ----------
    geometry
        The grid.
    in_plane
        (row, column) spacing in mm of a grid without orientation; squares where it is NaN.
    """
    affine = _completed(geometry)
    if affine is None:
        row, column = in_plane if np.isfinite(in_plane).all() else (1.0, 1.0)
        return {"": View("", 0, 1, 2, (False, False), np.diag([column, row]))}
    views = [_view(name, Geometry(geometry.shape, affine)) for name in PLANES]
    if geometry.shape[0] == 1:
        views = [view for view in views if view.axis == 0]
    return {view.name: view for view in views}


def chosen_view(views: dict[str, View], plane: str | None) -> View:
    """Return the view of a plane, by default that of the slices.

    Raises
    ------
    UsageError
        There is no plane of this name.
    GeometryError
        The grid has no such plane.
    """
    if plane is not None and plane not in PLANES:
        raise UsageError(f"plane={plane!r}: expected one of {', '.join(map(repr, PLANES))}")
    if plane is not None and plane not in views:
        reason = (
            "the orientation of this volume is not known"
            if "" in views
            else f"this volume is one {next(iter(views))} slice"
        )
        raise GeometryError(f"plane={plane!r}: {reason}", plane=plane)
    return native_view(views) if plane is None else views[plane]


def native_view(views: dict[str, View]) -> View:
    """Return the view of the slices as they are stored."""
    return next(view for view in views.values() if view.axis == 0)


def _completed(geometry: Geometry) -> Floats | None:
    """Return an affine for pictures; a single slice gets its normal. None without orientation."""
    affine = geometry.affine.copy()
    row, column = affine[:3, 1], affine[:3, 2]
    if not np.isfinite([row, column]).all():
        return None
    if not np.isfinite(affine[:3, 0]).all():
        if geometry.shape[0] > 1:
            return None
        normal = np.cross(column, row)
        affine[:3, 0] = normal / (np.linalg.norm(normal) or 1.0)
    affine[:3, 3] = 0
    return affine if np.linalg.det(affine[:3, :3]) else None


def _view(name: Plane, geometry: Geometry) -> View:
    order = axes_towards(geometry, PLANE_AXES[name])
    across, rows, columns = order.axes
    turned = order.flips[1:]
    vectors = geometry.affine[:3, [columns, rows]].T
    vectors = vectors * np.where(turned[::-1], -1.0, 1.0)[:, None]
    width = np.linalg.norm(vectors[0])
    shift = vectors[1] @ vectors[0] / width
    height = np.sqrt(max(float(vectors[1] @ vectors[1] - shift**2), 0.0))
    steps = np.array([[width, shift], [0.0, height]])
    return View(name, across, rows, columns, turned, steps)


def evenly_spaced(length: int, count: int) -> list[int]:
    """Return at most `count` indices in [0, length), including the first and the last."""
    spread = np.linspace(0, length - 1, max(1, min(count, length))).round().astype(np.int64)
    return [int(number) for number in np.unique(spread)]


def middle_of(shape: Sequence[int], mask: Values | None) -> tuple[int, int, int]:
    """Return the indices of the planes to show: the middle, or where a mask is the largest.

    Parameters
    ----------
    shape
        (slices, rows, columns).
    mask
        (slice, row, column); 0 is the background.
    """
    if mask is None or not mask.any():
        return shape[0] // 2, shape[1] // 2, shape[2] // 2
    is_marked: npt.NDArray[np.bool_] = mask != 0
    largest = [
        int(is_marked.sum(axis=tuple(other for other in range(3) if other != axis)).argmax())
        for axis in range(3)
    ]
    return largest[0], largest[1], largest[2]


def corners_of(steps: Floats, rows: int, columns: int) -> Floats:
    """Return (4, 2) mm of the corners of a picture, the edges of its pixels included."""
    ends = itertools.product((-0.5, columns - 0.5), (-0.5, rows - 0.5))
    return np.asarray(np.array(list(ends)) @ steps.T)
