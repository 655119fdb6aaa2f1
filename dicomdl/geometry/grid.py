"""Grids of slices: shape and affine, tolerances, and the positions of frames.

``affine @ [slice, row, column, 1]`` is the centre of that voxel in the patient coordinate system
(LPS, mm). Slices ascend along row direction x column direction, as in ITK. Their order comes from
positions projected on that normal (PS3.3 C.7.6.2.1.1), never from instance numbers, names or z.
"""

import functools
import math
from dataclasses import dataclass, fields
from numbers import Real
from typing import Final

import numpy as np
import numpy.typing as npt

from dicomdl.arrays import Floats
from dicomdl.errors import GeometryError, UsageError
from dicomdl.geometry._facts import Facts


def halved(length: int, times: int) -> int:
    """Return the rows or columns left after `times` halvings, rounded up (ITU-T T.800 B-15)."""
    return -(-length >> times)


@dataclass(frozen=True, slots=True)
class Tolerances:
    """Limits of differences that still count as equal; one frozen value that an index stores.

    `spacing_fraction`, `spacing_mm` and `spacing_mm_fraction` bound the error of a projected
    position against the best grid origin + k x spacing: max(1 % of the spacing, min(0.1 mm, 10 % of
    the spacing)). The bound is on positions and not on gaps: a GE PET of 3.27 mm has gaps of 3.19
    to 3.29 mm and position errors of 0.04 mm, and 0.625 mm CT is written with one decimal.

    Parameters
    ----------
    spacing_fraction
        Error of a position that is always regular, as a fraction of the spacing.
    spacing_mm
        Error of a position that is regular at large spacings, mm.
    spacing_mm_fraction
        Fraction of the spacing that `spacing_mm` may not exceed.
    in_plane_mm
        Distance of positions from one line, measured in the slice plane, mm.
    tilt
        Sine of the angle between slice axis and normal; 1e-3 is 0.06 degrees. A larger angle is
        rounding if it moves the last slice by at most `in_plane_mm` against the first.
    cosines
        Difference of direction cosines within one orientation.
    unit
        Departure of direction cosines from unit length and right angle that is repaired.
    pixel_spacing
        Relative difference of pixel spacings within one in-plane grid.
    same_position_mm
        Distance below which two positions are one, if it is also below 10 % of the spacing, mm.

    Raises
    ------
    UsageError
        A tolerance is not a number of at least 0.

    Examples
    --------
    >>> from dicomdl import Tolerances
    >>> Tolerances().position(5.0)
    0.1
    >>> Tolerances(spacing_mm=0.2).position(5.0)
    0.2
    """

    spacing_fraction: float = 0.01
    spacing_mm: float = 0.1
    spacing_mm_fraction: float = 0.1
    in_plane_mm: float = 0.1
    tilt: float = 1e-3
    cosines: float = 1e-3
    unit: float = 1e-2
    pixel_spacing: float = 1e-3
    same_position_mm: float = 1e-2

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            # NaN is not at least 0.
            if not isinstance(value, Real) or isinstance(value, bool) or not float(value) >= 0:
                raise UsageError(f"{field.name}={value!r}: expected a number of at least 0")
            # An index stores floats; NumPy's float32 has no JSON.
            object.__setattr__(self, field.name, float(value))

    def position(self, spacing: float) -> float:
        """Return the largest regular error of a projected position in mm, for `spacing` in mm."""
        return max(
            self.spacing_fraction * spacing,
            min(self.spacing_mm, self.spacing_mm_fraction * spacing),
        )


# Volume of three unit vectors below which they lie in one plane; a tilted gantry leaves above 0.8.
_FLAT: Final = 1e-9
FLAT: Final = (
    "the axes of this grid lie in one plane, or one of them has no length: its affine has no "
    "inverse, so its voxels fill no space"
)


@dataclass(frozen=True, slots=True, eq=False)
class Geometry:
    """Grid of a volume: shape and affine, from which spacing, direction and origin are derived.

    Parameters
    ----------
    shape
        (slices, rows, columns).
    affine
        (4, 4), copied as read-only float64: (slice, row, column, 1) -> LPS mm. NaN where unknown.

    Raises
    ------
    GeometryError
        The affine is not 4 x 4.

    Examples
    --------
    >>> import numpy as np
    >>> from dicomdl import Geometry
    >>> grid = Geometry((20, 256, 256), np.diag([5.0, 0.5, 0.5, 1.0]))
    >>> grid
    Geometry(20 x 256 x 256 voxels of 5 x 0.5 x 0.5 mm)
    >>> grid.voxel_to_world([1, 2, 0]).tolist()
    [5.0, 1.0, 0.0]
    """

    shape: tuple[int, int, int]
    affine: Floats

    def __post_init__(self) -> None:
        affine = np.array(self.affine, dtype=np.float64)
        if affine.shape != (4, 4):
            raise GeometryError(
                f"an affine is 4 x 4, this one is {affine.shape}", shape=affine.shape
            )
        affine.flags.writeable = False
        object.__setattr__(self, "affine", affine)
        object.__setattr__(self, "shape", tuple(int(n) for n in self.shape))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Geometry):
            return NotImplemented
        return self.shape == other.shape and np.array_equal(
            self.affine, other.affine, equal_nan=True
        )

    def __hash__(self) -> int:
        return hash((self.shape, self.affine.tobytes()))

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Distance between neighbouring (slices, rows, columns), mm; NaN where unknown."""
        lengths = np.sqrt((self.affine[:3, :3] ** 2).sum(axis=0))
        return (float(lengths[0]), float(lengths[1]), float(lengths[2]))

    @property
    def direction(self) -> Floats:
        """Unit vectors along the slice, row and column index as columns of a (3, 3) array, LPS."""
        return np.asarray(self.affine[:3, :3] / np.asarray(self.spacing))

    @property
    def origin(self) -> tuple[float, float, float]:
        """Centre of voxel (0, 0, 0), LPS mm."""
        return (float(self.affine[0, 3]), float(self.affine[1, 3]), float(self.affine[2, 3]))

    @property
    def is_known(self) -> bool:
        """Whether position and orientation are known."""
        return bool(np.isfinite(self.affine).all())

    @property
    def is_flat(self) -> bool:
        """Whether the axes of a known grid lie in one plane, or one has no length."""
        if not self.is_known:
            return False
        volume = abs(float(np.linalg.det(self.affine[:3, :3])))
        return volume <= _FLAT * math.prod(self.spacing)

    @property
    def shear(self) -> float:
        """Largest cosine between two index axes, NaN where unknown.

        0 for an orthogonal grid, the sine of the gantry tilt for a tilted one.
        """
        gram = self.direction.T @ self.direction
        return float(np.abs(gram - np.diag(np.diag(gram))).max()) if self.is_known else math.nan

    @property
    def center(self) -> Floats:
        """Centre of the grid, (3,) LPS mm."""
        middle = (np.asarray(self.shape, dtype=np.float64) - 1) / 2
        return np.asarray(self.affine[:3, :3] @ middle + self.affine[:3, 3])

    def halved(self, times: int) -> "Geometry":
        """Return the grid of the same slices with rows and columns halved `times` times.

        Every 2^n-th voxel centre is retained (see `dicomdl.pixels.halving`).
        """
        slices, rows, columns = self.shape
        affine = self.affine.copy()
        affine[:3, 1:3] *= 1 << times
        return Geometry((slices, halved(rows, times), halved(columns, times)), affine)

    def voxel_to_world(self, voxels: npt.ArrayLike) -> Floats:
        """Return (..., 3) LPS mm for `voxels`, (..., 3) indices (slice, row, column)."""
        return np.asarray(
            np.asarray(voxels, dtype=np.float64) @ self.affine[:3, :3].T + self.affine[:3, 3]
        )

    def world_to_voxel(self, points: npt.ArrayLike) -> Floats:
        """Return (..., 3) fractional indices (slice, row, column) for `points`, (..., 3) LPS mm.

        Raises
        ------
        GeometryError
            The axes of the grid lie in one plane.
        """
        if self.is_flat:
            raise GeometryError(FLAT)
        inverse = np.linalg.inv(self.affine[:3, :3])
        return np.asarray((np.asarray(points, dtype=np.float64) - self.affine[:3, 3]) @ inverse.T)

    def __repr__(self) -> str:
        shape, spacing = (
            " x ".join(map(str, self.shape)),
            " x ".join("?" if math.isnan(s) else f"{s:.4g}" for s in self.spacing),
        )
        return f"Geometry({shape} voxels of {spacing} mm)"


def plane_axes(orientation: Floats, tolerances: Tolerances) -> Floats | None:
    """Return unit row direction, column direction and normal as the rows of a 3 x 3 array.

    The input is ImageOrientationPatient. Cosines within tolerance of unit length and right angle
    are repaired; the result, which is read-only, is None beyond it.
    """
    # As bytes: 0.0 equals -0.0.
    return _axes(np.asarray(orientation, np.float64).tobytes(), tolerances.unit)


# Small: most stacks have the orientation of the one before, which is asked for three times.
@functools.lru_cache(maxsize=16)
def _axes(cosines_as_bytes: bytes, unit: float) -> Floats | None:
    # Python computes the same sums as `_are_cosines`, so that the two never differ by a rounding.
    # NumPy takes 100 us for one orientation.
    orientation = np.frombuffer(cosines_as_bytes)
    a, b, c, x, y, z = cosines = orientation.tolist()
    lengths = math.sqrt(a * a + b * b + c * c), math.sqrt(x * x + y * y + z * z)
    if not all(map(math.isfinite, cosines)) or max(abs(length - 1) for length in lengths) > unit:
        return None
    if abs(a * x + b * y + c * z) > unit:
        return None
    row, column = orientation[:3], orientation[3:]
    row = row / math.sqrt(row @ row)
    column = column - (column @ row) * row
    column = column / math.sqrt(column @ column)
    axes = np.stack([row, column, cross(row, column)])
    axes.flags.writeable = False
    return axes


def cross(first: Floats, second: Floats) -> Floats:
    """Return the cross product of two vectors in 2 us; `numpy.cross` takes 40."""
    a, b, c = first.tolist()
    x, y, z = second.tolist()
    return np.array([b * z - c * y, c * x - a * z, a * y - b * x])


def frame_positions(facts: Facts, tolerances: Tolerances) -> Floats:
    """Return the centre of each frame's first pixel, (n, 3) mm, NaN where unknown.

    Coordinates are those of the frame of reference: ImagePositionPatient (LPS), moved by the
    plane's offset where a dose grid has one; for an enhanced ultrasound volume ImagePositionVolume,
    in the coordinates of the transducer (PS3.3 C.8.24.2).
    """
    positions = _else(facts.vectors("image_position_patient", 3), facts, "image_position_volume")
    offsets = facts.numbers("grid_frame_offset")
    with_offset = np.flatnonzero(np.isfinite(offsets))
    if len(with_offset) == 0:
        return positions
    # Offsets that begin with 0 are distances along the normal, others z coordinates
    # (PS3.3 C.8.8.3.2).
    positions = positions.copy()
    orientations = facts.vectors("image_orientation_patient", 6)
    instances, numbers = facts.ranks("sop_instance_uid"), facts.numbers("frame_number")
    for instance in np.unique(instances[with_offset]):
        rows = with_offset[instances[with_offset] == instance]
        first = rows[np.argmin(numbers[rows])]
        axes = plane_axes(orientations[first], tolerances)
        if axes is None:
            continue
        if offsets[first] == 0:
            positions[rows] += offsets[rows, None] * axes[2]
        else:
            positions[rows, 2] = offsets[rows]
    return positions


def frame_orientations(facts: Facts) -> Floats:
    """Return (n, 6) ImageOrientationPatient, or ImageOrientationVolume where only that is known."""
    return _else(facts.vectors("image_orientation_patient", 6), facts, "image_orientation_volume")


def _else(values: Floats, facts: Facts, column: str) -> Floats:
    """Return the values, replaced by those of another column where they are NaN."""
    if facts.constants.get(column, ()) is None:
        return values
    return np.where(np.isnan(values[:, :1]), facts.vectors(column, values.shape[1]), values)
