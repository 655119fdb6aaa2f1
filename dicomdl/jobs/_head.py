"""A made-up head: the tissue at every voxel of a grid, and what scanners measure in a tissue.

The head is a list of ellipsoids in LPS mm about the middle of the brain, each painted over the ones
before it. A grid of any affine, tilted or not, is painted without resampling, so that a point of
the head has the same position in every Series. Left and right differ by the lesion alone.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from dicomdl.arrays import Floats
from dicomdl.geometry.grid import Geometry

Tissues = npt.NDArray[np.uint8]
Coordinates = npt.NDArray[np.float32]
Point = tuple[float, float, float]
Outlines = Mapping[str, Sequence[Floats]]


class Tissue(NamedTuple):
    """What scanners measure in one tissue.

    Attributes
    ----------
    hu
        CT number, HU.
    density, t2_ms
        Density of protons (water is 100), and their transverse relaxation time, ms.
    uptake
        Uptake of FDG, SUV by body weight, g/ml.
    """

    hu: float
    density: float
    t2_ms: float
    uptake: float


_TISSUES: Final[Mapping[str, Tissue]] = {
    "air": Tissue(-1000, 0, 1, 0),
    "skin": Tissue(20, 60, 40, 0.8),
    "fat": Tissue(-95, 85, 65, 0.4),
    "muscle": Tissue(55, 70, 38, 1.1),
    "bone": Tissue(1050, 8, 5, 0.3),
    "marrow": Tissue(520, 45, 45, 0.9),
    "csf": Tissue(5, 100, 400, 0.2),
    "grey": Tissue(40, 82, 92, 8.5),
    "white": Tissue(27, 70, 72, 3.0),
    "dura": Tissue(60, 30, 30, 0.8),
    "eye": Tissue(8, 98, 300, 0.3),
    "lens": Tissue(95, 40, 30, 0.3),
    "enamel": Tissue(2300, 2, 2, 0.2),
    "oedema": Tissue(16, 90, 160, 2.2),
    "lesion": Tissue(72, 84, 125, 13.0),
}
_CODES: Final = {name: code for code, name in enumerate(_TISSUES)}
# Points of a contour.
_POINTS: Final = 60


def per_tissue(field: str) -> npt.NDArray[np.float32]:
    """Return the values of one field of `Tissue` by tissue code."""
    return np.array([getattr(tissue, field) for tissue in _TISSUES.values()], np.float32)


@dataclass(frozen=True, slots=True)
class Lesion:
    """A ball in the brain, with oedema around it.

    Attributes
    ----------
    center
        LPS mm.
    radius
        mm.
    """

    center: Point
    radius: float


@dataclass(frozen=True, slots=True)
class _Part:
    """An ellipsoid of one tissue.

    Attributes
    ----------
    tissue
        Name of the tissue.
    center, radii
        LPS mm.
    turned_deg
        Rotation about the axes x, y and z.
    above
        (z, rise): only points above the plane z + rise * y; none cuts nothing.
    """

    tissue: str
    center: Point
    radii: Point
    turned_deg: Point = (0, 0, 0)
    above: tuple[float, float] | None = None

    def mirrored(self) -> "_Part":
        """Return the same part of the other side."""
        (x, y, z), (about_x, about_y, about_z) = self.center, self.turned_deg
        return _Part(self.tissue, (-x, y, z), self.radii, (about_x, -about_y, -about_z), self.above)

    def scaled(self, size: float) -> "_Part":
        """Return this part of a head of another size."""
        x, y, z = (each * size for each in self.center)
        width, depth, height = (each * size for each in self.radii)
        above = None if self.above is None else (self.above[0] * size, self.above[1])
        return _Part(self.tissue, (x, y, z), (width, depth, height), self.turned_deg, above)


# (z at y = 0, rise per mm of y): the outer and the inner face of the base of the skull.
_BASE: Final = (-43.5, -0.3)
_FLOOR: Final = (-40.0, -0.3)
_OUTSIDE: Final = (
    _Part("skin", (0, 2, 6), (79, 99, 91)),
    _Part("skin", (0, -26, -62), (64, 72, 78)),
    _Part("skin", (0, 26, -110), (58, 60, 92)),
    _Part("skin", (0, -97, -50), (11, 15, 17), (-20, 0, 0)),
    _Part("fat", (0, 2, 6), (77, 97, 89)),
    _Part("fat", (0, -26, -62), (61.5, 69.5, 75)),
    _Part("fat", (0, 26, -110), (55, 57, 90)),
    _Part("muscle", (0, 3, 4), (73.5, 93, 85)),
    _Part("muscle", (0, -16, -62), (51, 50, 70)),
    _Part("fat", (0, -12, -72), (40, 38, 60)),
    _Part("muscle", (0, -6, -84), (33, 26, 50)),
    _Part("muscle", (0, 36, -110), (48, 42, 88)),
    _Part("muscle", (0, -84, -76), (32, 8, 20)),
    _Part("bone", (0, 2, 6), (71, 91, 83), above=_BASE),
    _Part("marrow", (0, 2, 6), (69.4, 89.2, 81.2), above=_BASE),
    _Part("bone", (0, 2, 6), (67.6, 87.2, 79.2), above=_BASE),
    _Part("bone", (0, 40, -33), (54, 45, 33)),
    _Part("csf", (0, 2, 6), (66, 85.4, 77.4), above=_FLOOR),
    _Part("air", (0, -87, -2), (15, 3, 8)),
    _Part("bone", (0, -54, -42), (24, 34, 15)),
    _Part("air", (0, -30, -42), (11, 11, 8)),
    _Part("bone", (0, 24, -94), (15, 10, 30)),
    _Part("marrow", (0, 24, -94), (13, 8, 28)),
    _Part("bone", (0, 42, -104), (20, 14, 28)),
    _Part("csf", (0, 42, -84), (10, 8.5, 50)),
    _Part("white", (0, 42, -84), (6, 5, 48)),
    _Part("air", (0, -4, -94), (10, 7, 34)),
    _Part("bone", (0, -62, -84), (29, 34, 11)),
    _Part("muscle", (0, -52, -88), (23, 34, 14)),
)
# Parts that both sides have; these are of the left one.
_EYE: Final = _Part("eye", (34, -71, -24), (11.8, 11.8, 11.8))
_PAIRED_OUTSIDE: Final = (
    _Part("skin", (79, 10, -28), (6, 15, 25), (12, 0, 0)),
    _Part("fat", (80, 10, -28), (2.5, 9, 17), (12, 0, 0)),
    _Part("skin", (34, -73, -24), (19, 16, 18)),
    _Part("muscle", (54, -14, -72), (6, 22, 36), (10, 0, 0)),
    _Part("bone", (33, -58, -24), (19.5, 27, 18.5), (0, 0, 14)),
    _Part("fat", (33, -60, -24), (17.5, 26, 16.5), (0, 0, 14)),
    _Part("muscle", (29, -50, -24), (9, 17, 9), (0, 0, 14)),
    _Part("fat", (29, -50, -24), (6.5, 16, 6.5), (0, 0, 14)),
    _Part("white", (28, -49, -24), (2.3, 20, 2.3), (0, 0, 14)),
    _Part("muscle", (34, -71, -24), (13, 13, 13)),
    _EYE,
    _Part("lens", (34, -80.5, -24), (4.6, 2.2, 4.6)),
    _Part("bone", (29, -58, -60), (16, 19, 17)),
    _Part("air", (29, -58, -60), (14.4, 17.4, 15.4)),
    _Part("air", (8.5, -56, -38), (4.2, 22, 9)),
    _Part("air", (7, -62, -60), (4.4, 30, 13)),
    _Part("muscle", (8, -56, -62), (1.8, 22, 4)),
    _Part("bone", (61, -38, -42), (3, 27, 4.5), (0, 0, -8)),
    _Part("bone", (46, -18, -84), (4, 15, 34), (12, 0, 0)),
    _Part("marrow", (46, -18, -84), (2, 12, 30), (12, 0, 0)),
    _Part("bone", (36, 8, -40), (26, 8, 8), (0, 0, -30)),
    _Part("air", (29, 8, -41), (2.4, 2.4, 2.4)),
    _Part("air", (37, 12, -41), (2, 3, 3)),
    _Part("bone", (56, 24, -46), (10, 14, 20)),
    _Part("air", (56, 22, -44), (3, 3.5, 5)),
    _Part("air", (57, 29, -52), (3, 3.5, 5)),
    _Part("air", (53, 25, -38), (2.5, 3.5, 3)),
)
_BRAIN: Final = _Part("grey", (0, 2, 7), (63.5, 82.8, 74.6), above=(-38.0, -0.3))
_DEEP: Final = (
    _Part("csf", (0, 2, 46), (1.5, 82, 41)),
    _Part("dura", (0, 2, 46), (0.8, 83, 41)),
    _Part("white", (0, 0, 29), (2.5, 62, 33)),
    _Part("grey", (0, 0, 30), (2.5, 58, 26)),
    _Part("white", (0, 0, 18), (14, 40, 16)),
    _Part("csf", (0, 38, -30), (49, 40, 27.5)),
    _Part("grey", (0, 38, -30), (46.5, 37, 25)),
    _Part("white", (0, 33, -32), (28, 20, 10)),
    _Part("white", (0, 34, -28), (20, 26, 3)),
    _Part("csf", (0, 12, -34), (19, 20, 16)),
    _Part("white", (0, 10, -38), (13, 12, 34), (-14, 0, 0)),
    _Part("csf", (0, 25, -34), (6, 4, 10)),
    _Part("csf", (0, 2, 4), (2.2, 14, 10)),
)
_PAIRED_DEEP: Final = (
    _Part("grey", (13, 8, 6), (9.5, 15, 10), (0, 0, 20)),
    _Part("grey", (25, -10, 8), (7, 19, 11), (0, 0, 14)),
    _Part("grey", (12.5, -22, 17), (5, 13, 9), (0, 0, -12)),
    _Part("csf", (8.5, -18, 19), (4.8, 22, 8.5), (-8, 0, 14)),
    _Part("csf", (13, 12, 22), (5.2, 25, 8), (10, 0, -18)),
    _Part("csf", (24, 34, 11), (6, 16, 9), (28, 0, -14)),
    _Part("csf", (31, 8, -14), (3.4, 16, 5), (0, 0, -8)),
    _Part("csf", (46, -20, -2), (14, 3, 3.5), (0, 0, 25)),
    _Part("bone", (23, 35, 12), (2.2, 3, 2.2)),
)
_MIDDLE: Final = (_Part("dura", (0, 83, 14), (6, 4, 12)),)


def paint(grid: Geometry, lesion: Lesion) -> Tissues:
    """Return the tissue code of every voxel of a grid, uint8 (slices, rows, columns)."""
    tissues = np.zeros(grid.shape, np.uint8)
    for part in (*_OUTSIDE, *_both(_PAIRED_OUTSIDE)):
        _fill(tissues, grid, part)
    for part in _teeth():
        _fill(tissues, grid, part)
    _fill_brain(tissues, grid)
    for part in (*_DEEP, *_both(_PAIRED_DEEP), *_MIDDLE):
        _fill(tissues, grid, part)
    for part in _lesion_parts(lesion):
        _fill(tissues, grid, part)
    return tissues


def labels_of(grid: Geometry, lesion: Lesion) -> Tissues:
    """Return where the voxels of a grid have their centre: 1 lesion, 2 oedema, 0 elsewhere."""
    found = np.zeros(grid.shape, np.uint8)
    for part in _lesion_parts(lesion):
        _fill(found, grid, part)
    labels = np.zeros(len(_TISSUES), np.uint8)
    labels[[_CODES["lesion"], _CODES["oedema"]]] = 1, 2
    return labels[found]


def outlines_of(lesion: Lesion, size: float, heights: Sequence[float]) -> Outlines:
    """Return the contours of some structures in axial planes, as a person would draw them.

    Parameters
    ----------
    lesion
        The lesion.
    size
        Factor of all other lengths of the head.
    heights
        z of the planes, LPS mm.

    Returns
    -------
    dict of lists
        Per structure, the contours of the planes that it reaches: (points, 3) LPS mm.
    """
    r = lesion.radius
    parts = {
        "Brain": _BRAIN.scaled(size),
        "Eye_L": _EYE.scaled(size),
        "Eye_R": _EYE.mirrored().scaled(size),
        "GTV": _Part("lesion", lesion.center, (r, r, r)),
    }
    return {
        name: [drawn for z in heights if len(drawn := _outline(part, z))]
        for name, part in parts.items()
    }


def _lesion_parts(lesion: Lesion) -> tuple[_Part, ...]:
    r = lesion.radius
    return (
        _Part("oedema", lesion.center, (r * 1.7, r * 2.1, r * 1.8)),
        _Part("lesion", lesion.center, (r, r, r)),
    )


def _outline(part: _Part, z: float) -> Floats:
    """Return the contour of a part that is not turned in an axial plane; empty beyond it."""
    (x, y, middle), (width, depth, height) = part.center, part.radii
    square = 1 - ((z - middle) / height) ** 2
    if square <= 0:
        return np.empty((0, 3))
    angle = np.arange(_POINTS) * (2 * np.pi / _POINTS)
    shrunk = np.sqrt(square)
    rows = y + depth * shrunk * np.sin(angle)
    if part.above is not None:
        start, rise = part.above  # z > start + rise * y, with a rise below 0
        if (z - start) / rise >= rows.max():
            return np.empty((0, 3))
        rows = np.maximum(rows, (z - start) / rise)
    return np.stack([x + width * shrunk * np.cos(angle), rows, np.full(_POINTS, z)], axis=1)


def _both(parts: tuple[_Part, ...]) -> Iterator[_Part]:
    for part in parts:
        yield part
        yield part.mirrored()


def _teeth() -> Iterator[_Part]:
    for angle in np.radians(np.arange(-75, 76, 15)).tolist():
        center = (25 * float(np.sin(angle)), -62 - 31 * float(np.cos(angle)), -92.0)
        yield _Part("enamel", center, (3, 3, 8))


def _fill(tissues: Tissues, grid: Geometry, part: _Part) -> None:
    """Paint one part."""
    box, squares = _squares(grid, part)
    if squares.size:
        inside = squares <= 1
        if part.above is not None:
            inside &= _heights(grid, box, part.above) > 0
        tissues[box][inside] = _CODES[part.tissue]


def _squares(grid: Geometry, part: _Part) -> tuple[tuple[slice, ...], npt.NDArray[np.float32]]:
    """Return the box of voxels around a part, and the squares of their relative distances."""
    axes = _rotation(part.turned_deg) * np.asarray(part.radii)
    inverse = np.linalg.inv(grid.affine[:3, :3])
    middle = grid.world_to_voxel(part.center)
    reach = np.linalg.norm(inverse @ axes, axis=1)
    first = np.maximum(np.ceil(middle - reach), 0).astype(int)
    stop = np.minimum(np.floor(middle + reach) + 1, grid.shape).astype(int)
    box = tuple(slice(int(a), max(int(a), int(b))) for a, b in zip(first, stop, strict=True))
    steps = np.linalg.inv(axes) @ grid.affine[:3, :3]
    squares = np.zeros([each.stop - each.start for each in box], np.float32)
    for row in steps:
        squares += _along(box, row, -float(row @ middle)) ** 2
    return box, squares


def _along(box: tuple[slice, ...], steps: Floats, start: float) -> npt.NDArray[np.float32]:
    """Return start + steps @ (slice, row, column) at the voxels of a box."""
    z, y, x = (
        np.arange(each.start, each.stop, dtype=np.float32) * np.float32(step)
        for each, step in zip(box, steps, strict=True)
    )
    total = (z + np.float32(start))[:, None, None] + y[:, None]
    return np.asarray(total + x, np.float32)


def _heights(
    grid: Geometry, box: tuple[slice, ...], plane: tuple[float, float]
) -> npt.NDArray[np.float32]:
    """Return the heights above a plane of `_Part.above` at the voxels of a box, mm."""
    normal = np.array([0, -plane[1], 1, -plane[0]]) @ grid.affine
    return _along(box, normal[:3], float(normal[3]))


def _rotation(turned_deg: Point) -> Floats:
    """Return the rotation about x, then y, then z."""
    total = np.eye(3)
    for axis, angle in enumerate(np.radians(turned_deg)):
        first, second = (axis + 1) % 3, (axis + 2) % 3
        turn = np.eye(3)
        turn[first, first] = turn[second, second] = np.cos(angle)
        turn[second, first], turn[first, second] = np.sin(angle), -np.sin(angle)
        total = turn @ total
    return total


# Folds of the cortex: radians per mm, and how far they are bent.
_FOLDS: Final = 0.235
_BENDS: Final = 1.35
# Relative depth of the folds: 0 at the surface, 1 in the middle of the brain.
_FOLDED: Final = 0.34


def _fill_brain(tissues: Tissues, grid: Geometry) -> None:
    """Paint the cerebrum: white matter, and around it the folded cortex."""
    box, squares = _squares(grid, _BRAIN)
    if not squares.size:
        return
    assert _BRAIN.above is not None
    inside = (squares <= 1) & (_heights(grid, box, _BRAIN.above) > 0)
    part = tissues[box]
    part[inside] = _CODES["white"]
    inside &= squares > (1 - _FOLDED) ** 2
    x, y, z = (_along(box, *_axis(grid, axis, _FOLDS))[inside] for axis in range(3))
    part[inside] = _cortex(1 - np.sqrt(squares[inside]), np.abs(x), y, z)


def _axis(grid: Geometry, axis: int, scale: float) -> tuple[Floats, float]:
    """Return the steps and the start of a scaled coordinate, for `_along`."""
    return grid.affine[axis, :3] * scale, float(grid.affine[axis, 3]) * scale


def _cortex(depth: Coordinates, x: Coordinates, y: Coordinates, z: Coordinates) -> Tissues:
    """Return the tissues of the folded cortex: grey matter along the folds, CSF in their middle."""
    folds = np.abs(
        np.sin(x + _BENDS * np.sin(0.62 * y + 0.7))
        + np.sin(y + _BENDS * np.sin(0.55 * z + 2.0))
        + np.sin(z + _BENDS * np.sin(0.58 * x + 0.4))
    )
    found = np.full(len(depth), _CODES["grey"], np.uint8)
    found[(depth > 0.055) & (folds > 0.42 + np.maximum(0, 0.18 - 0.9 * depth))] = _CODES["white"]
    found[(depth < 0.26) & (folds < 0.3 - depth)] = _CODES["csf"]
    return found
