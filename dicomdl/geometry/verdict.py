"""Verdicts: whether slices form a regular grid, with the order and affine that follow.

A grid is regular if every position is within tolerance of origin + k x spacing (`Tolerances`). The
affine rests on the first and last slice, as in ITK and dcm2niix. In the slice plane, its slice axis
is the normal through the middle slice where positions leave it by rounding only. `VERDICTS` lists
all verdicts, `READABLE` those with an exact affine, and `FILLABLE` those that `regular_slices` can
make regular.
"""

import math
from dataclasses import dataclass
from typing import Any, Final, Literal, get_args

import numpy as np
import numpy.typing as npt

from dicomdl.arrays import Floats
from dicomdl.errors import GeometryError
from dicomdl.geometry.grid import Tolerances, cross, plane_axes

Verdict = Literal[
    "no_geometry", "single", "duplicates", "uneven_spacing", "missing_slices", "tilted", "regular"
]
VERDICTS: Final[tuple[Verdict, ...]] = (
    "regular",
    "tilted",
    "single",
    "missing_slices",
    "uneven_spacing",
    "duplicates",
    "no_geometry",
)
_FARTHEST_MM: Final = 1e6
# The images of electron microscopes have pixels of 1e-7 mm.
_SMALLEST_MM: Final = 1e-9
_LARGEST_PIXEL_MM: Final = 1e4
# Distances from the slice axis up to this limit are not reported, mm.
_ROUNDING_MM: Final = 1e-3
# Columns of IDC's table of volumes. They describe a Series, and are stricter than the verdict,
# which describes a stack.
IDC_CHECKS: Final = (
    "orthogonal_orientation",
    "unique_slice_positions",
    "consistent_in_plane_row",
    "consistent_in_plane_col",
    "uniform_slice_spacing",
    "regularly_spaced_3d_volume",
)


@dataclass(frozen=True, slots=True)
class Assessment:
    """Verdict on a set of slices, with the numbers behind it.

    Attributes
    ----------
    order
        (n,) int64, the slices in ascending order along the normal.
    affine
        (4, 4) of the grid, LPS mm; NaN where nothing is known.
    verdict
        One of `VERDICTS`.
    detail
        The numbers behind the verdict, by name.
    """

    order: npt.NDArray[np.int64]
    affine: Floats
    verdict: Verdict
    detail: dict[str, Any]


def _are_cosines(orientations: Floats, tolerances: Tolerances) -> npt.NDArray[np.bool_]:
    """Mask, (n,), of (n, 6) orientations that are perpendicular unit vectors within tolerance."""
    # Clipping keeps the squares of absurd values finite.
    cosines = np.clip(np.nan_to_num(orientations), -2, 2).T
    (a, b, c), (x, y, z) = cosines[:3], cosines[3:]
    lengths = np.sqrt(np.stack([a * a + b * b + c * c, x * x + y * y + z * z]))
    right = np.abs(a * x + b * y + c * z) <= tolerances.unit
    return np.asarray(
        np.isfinite(orientations).all(axis=1)
        & (np.abs(lengths - 1).max(axis=0) <= tolerances.unit)
        & right
    )


def _along(positions: Floats, direction: Floats) -> Floats:
    """Return (n,) positions projected on a direction.

    The sums are written out, because a matrix product may round a row depending on its index.
    """
    return np.asarray(
        positions[:, 0] * direction[0]
        + positions[:, 1] * direction[1]
        + positions[:, 2] * direction[2]
    )


def assess(
    positions: Floats,
    orientation: Floats,
    pixel_spacing: Floats,
    tolerances: Tolerances,
    thickness: float = math.nan,
) -> Assessment:
    """Judge slices of one orientation and one in-plane grid.

    Parameters
    ----------
    positions
        (n, 3) ImagePositionPatient, any order.
    orientation
        (6,) ImageOrientationPatient of all slices.
    pixel_spacing
        (2,) PixelSpacing (between rows, between columns), mm.
    tolerances
        Limits of differences that still count as equal.
    thickness
        SliceThickness, mm: the step of a single slice, which has no neighbour to measure; 1 mm when
        unknown.

    Returns
    -------
    Assessment
        Order, affine, verdict and detail.
    """
    count = len(positions)
    axes = plane_axes(orientation, tolerances)
    why = _why_no_geometry(positions, axes, pixel_spacing)
    if axes is None or why:
        return Assessment(np.arange(count), np.full((4, 4), math.nan), "no_geometry", {"why": why})
    projected = _along(positions, axes[2])
    order = np.argsort(projected, kind="stable")
    projected, positions = projected[order], positions[order]
    known = _SMALLEST_MM < thickness < _FARTHEST_MM
    alone = axes[2] * (thickness if known else 1.0)
    if count == 1:
        detail = {"step": "SliceThickness" if known else "unknown, 1 mm"}
        return Assessment(
            order, _affine(positions[0], alone, axes, pixel_spacing), "single", detail
        )
    verdict, detail, origin, step = _judge(projected, positions, axes, alone, tolerances)
    return Assessment(order, _affine(origin, step, axes, pixel_spacing), verdict, detail)


def has_geometry(
    positions: Floats, orientations: Floats, pixel_spacings: Floats, tolerances: Tolerances
) -> npt.NDArray[np.bool_]:
    """Mask, (n,), of the frames with a possible position, orientation and pixel spacing."""
    finite = np.isfinite(np.concatenate([positions, pixel_spacings], axis=1)).all(axis=1)
    plane = _are_cosines(orientations, tolerances)
    near = (np.abs(np.nan_to_num(positions)) <= _FARTHEST_MM).all(axis=1)
    sized = ((pixel_spacings > _SMALLEST_MM) & (pixel_spacings < _LARGEST_PIXEL_MM)).all(axis=1)
    return np.asarray(finite & plane & near & sized)


def number_slices(
    positions: Floats, orientation: Floats, tolerances: Tolerances
) -> npt.NDArray[np.int64]:
    """Return (n,) the number of each slice's position along the normal, 0 for the lowest.

    Slices at one position share a number.
    """
    axes = plane_axes(orientation, tolerances)
    if axes is None:
        raise GeometryError("the orientation is not two perpendicular unit vectors")
    projected = _along(positions, axes[2])
    order = np.argsort(projected, kind="stable")
    numbers = np.empty(len(projected), dtype=np.int64)
    numbers[order] = np.cumsum(_distinct(projected[order], tolerances)) - 1
    return numbers


def idc_checks(positions: Floats, orientation: Floats) -> dict[str, Any]:
    """Compute `IDC_CHECKS` and `obliquity_degrees` as IDC's volume_geometry_index does.

    A check is None where it has no value. Every gap between neighbours, repeats included, is
    compared with 1 % of the mean gap, and in-plane positions with 0.1 mm. A stack has one
    orientation, size and pixel spacing, so the three columns about those are left out.
    """
    row, column = orientation[:3], orientation[3:]
    normal = cross(row, column)
    length = float(np.sqrt(normal @ normal))
    if not (np.isfinite(positions).all() and math.isfinite(length) and length > 0):
        return dict.fromkeys((*IDC_CHECKS, "obliquity_degrees"))
    projected = np.sort(_along(positions, normal))
    gaps = np.diff(projected)
    mean = float(projected[-1] - projected[0]) / max(1, len(gaps))
    uniform = bool(np.abs(gaps - mean).max() < 0.01 * abs(mean)) if len(gaps) else None
    checks = {
        "orthogonal_orientation": 0.99 <= length <= 1.01,
        "unique_slice_positions": bool((gaps > 0).all()),
        "consistent_in_plane_row": float(np.ptp(_along(positions, row))) < 0.1,
        "consistent_in_plane_col": float(np.ptp(_along(positions, column))) < 0.1,
        "uniform_slice_spacing": uniform,
    }
    volume = False if False in checks.values() else None if uniform is None else True
    angle = math.degrees(math.acos(min(1.0, float(np.abs(normal).max()) / length)))
    return checks | {"regularly_spaced_3d_volume": volume, "obliquity_degrees": round(angle, 2)}


def _why_no_geometry(positions: Floats, axes: Floats | None, pixel_spacing: Floats) -> str:
    """Return the reason why slices have no geometry, "" if they have one."""
    if not np.isfinite(positions).all():
        return "ImagePositionPatient is missing or not three finite numbers"
    if np.abs(positions).max() > _FARTHEST_MM:
        return "ImagePositionPatient is more than a kilometre away"
    if axes is None:
        return "ImageOrientationPatient is missing or not two perpendicular unit vectors"
    if not (
        np.isfinite(pixel_spacing).all()
        and (pixel_spacing > _SMALLEST_MM).all()
        and (pixel_spacing < _LARGEST_PIXEL_MM).all()
    ):
        return "PixelSpacing is missing or not two positive numbers"
    return ""


def _affine(origin: Floats, step: Floats, axes: Floats, pixel_spacing: Floats) -> Floats:
    """Return the (4, 4) affine of a grid."""
    affine = np.eye(4)
    affine[:3, 0] = step
    # The row index moves along the column direction (PS3.3 C.7.6.2.1.1).
    affine[:3, 1] = axes[1] * pixel_spacing[0]
    affine[:3, 2] = axes[0] * pixel_spacing[1]
    affine[:3, 3] = origin
    return affine


def _judge(
    projected: Floats, positions: Floats, axes: Floats, alone: Floats, tolerances: Tolerances
) -> tuple[Verdict, dict[str, Any], Floats, Floats]:
    """Return verdict, numbers, origin and step (LPS mm) for two or more sorted slices."""
    keep = _distinct(projected, tolerances)
    detail: dict[str, Any] = {}
    repeated = len(projected) - int(keep.sum())
    if repeated:
        detail |= {"repeated_positions": repeated, "pixels": "unchecked"}
    line_error = _distance_from_line(projected, positions, tolerances)
    if line_error > tolerances.in_plane_mm:
        detail["in_plane_error"] = round(line_error, 6)
    projected, positions = projected[keep], positions[keep]
    if len(projected) == 1:
        return "duplicates", detail, positions[0], alone
    error, is_grid = _grid_error(projected, np.arange(len(projected)), tolerances)
    spacing = float((projected[-1] - projected[0]) / (len(projected) - 1))
    tilt, origin, slope, off_axis = _slice_axis(projected, positions, axes[2], tolerances)
    detail |= {"spacing": round(spacing, 6), "position_error": round(error, 6)}
    if tilt > 0:
        detail["tilt_deg"] = round(math.degrees(math.asin(min(1.0, tilt))), 4)
    if off_axis > _ROUNDING_MM and "in_plane_error" not in detail:
        detail["off_axis"] = round(off_axis, 6)
    if len(projected) == 2:
        # Two slices have one gap, which nothing contradicts and nothing confirms.
        detail["unconfirmed"] = True
    verdict: Verdict = "tilted" if tilt > 0 else "regular"
    if not is_grid:
        gaps = np.diff(projected)
        detail |= {
            "smallest_gap": round(float(gaps.min()), 6),
            "median_gap": round(float(np.median(gaps)), 6),
        }
        detail["largest_gap"] = round(float(gaps.max()), 6)
        verdict = "uneven_spacing"
        holes = (
            _holes(projected, gaps, tolerances) if line_error <= tolerances.in_plane_mm else None
        )
        if holes is not None:
            spacing, missing = holes
            detail |= {
                "spacing": round(spacing, 6),
                "missing": int(missing.sum()),
                "missing_after": np.flatnonzero(missing).tolist(),
            }
            verdict = "missing_slices"
    if line_error > tolerances.in_plane_mm:
        verdict = "uneven_spacing"
    return ("duplicates" if repeated else verdict), detail, origin, spacing * slope


def _slice_axis(
    projected: Floats, positions: Floats, normal: Floats, tolerances: Tolerances
) -> tuple[float, Floats, Floats, float]:
    """Return (tilt, origin, step per mm along the normal, largest distance from the slice axis).

    The line from the first to the last position is rounded: positions with two decimals of a stack
    of 2.5 mm make an angle of 0.23 degrees. Up to `tolerances.in_plane_mm` over the whole stack,
    the slice axis is therefore the normal, through the middle slice, and distances from it are
    measured in the slice plane, mm. Beyond, the slice axis is the line, so the affine carries the
    shear. `tilt` is the sine of its angle with the normal, 0 up to `tolerances.tilt`.
    """
    line = positions[-1] - positions[0]
    length = projected[-1] - projected[0]
    aside = float(np.linalg.norm(line - length * normal))
    # The difference of two decimals is not exact: 0.3 - 0.2 is less than 0.1, 1.1 - 1 is more.
    if aside > tolerances.in_plane_mm + 1e-6:
        tilt = aside / float(np.linalg.norm(line))
        slope, tilt = line / length, tilt if tilt > tolerances.tilt else 0.0
        beside = positions - positions[0] - np.outer(projected - projected[0], slope)
        return tilt, positions[0], slope, _longest(beside)
    in_plane = positions - np.outer(projected, normal)
    middle = in_plane[len(positions) // 2]
    return 0.0, middle + projected[0] * normal, normal, _longest(in_plane - middle)


def _grid_error(
    projected: Floats, index: npt.NDArray[np.int64], tolerances: Tolerances
) -> tuple[float, bool]:
    """Return (error of the worst position, whether the positions form a regular grid).

    The error is against first + index x spacing, mm. Positions form a grid if some origin and
    spacing put every position within tolerance. The first and last position, on which the affine
    rests as it does in ITK and dcm2niix, are rounded like all others, which would make nine of ten
    0.625 mm series with one decimal look uneven. If the error is up to twice the tolerance, the
    function therefore searches for the best origin and spacing.
    """
    spacing = float((projected[-1] - projected[0]) / index[-1])
    error = float(np.abs(projected - projected[0] - index * spacing).max())
    limit = tolerances.position(spacing)
    if not limit < error <= 2 * limit:
        return error, error <= limit
    low, high = spacing - 2 * error / index[-1], spacing + 2 * error / index[-1]
    # Ternary search: the half-range of the residuals is convex in the spacing; 40 steps shrink
    # the interval to 1e-7.
    for _ in range(40):
        third = (high - low) / 3
        left, right = (np.ptp(projected - index * guess) for guess in (low + third, high - third))
        low, high = (low, high - third) if left < right else (low + third, high)
    return error, bool(np.ptp(projected - index * (low + high) / 2) / 2 <= limit)


def _distinct(projected: Floats, tolerances: Tolerances) -> npt.NDArray[np.bool_]:
    """Mask of the sorted positions that do not repeat their predecessor."""
    gaps = np.diff(projected)
    clear = gaps[gaps > tolerances.same_position_mm]
    if len(clear) == len(gaps):
        # No position repeats: the median takes more time than all else here.
        return np.ones(len(projected), np.bool_)
    limit = (
        min(tolerances.same_position_mm, 0.1 * float(np.median(clear)))
        if len(clear)
        else tolerances.same_position_mm
    )
    return np.concatenate([[True], gaps > limit])


def _distance_from_line(projected: Floats, positions: Floats, tolerances: Tolerances) -> float:
    """Return the largest distance of positions from a line, mm, measured in the slice plane.

    The line is that from the first to the last position. These are rounded like all others: if the
    distance is up to twice the tolerance, the parallel line in the middle of the positions counts.
    """
    length = float(projected[-1] - projected[0])
    fraction = (projected - projected[0]) / length if length > 0 else np.zeros(len(projected))
    beside = positions - positions[0] - fraction[:, None] * (positions[-1] - positions[0])
    error = _longest(beside)
    if not tolerances.in_plane_mm < error <= 2 * tolerances.in_plane_mm:
        return error
    return min(error, _longest(beside - (beside.max(axis=0) + beside.min(axis=0)) / 2))


def _longest(vectors: Floats) -> float:
    """Return the length of the longest of (n, 3) vectors."""
    return float(np.sqrt((vectors**2).sum(axis=1)).max())


def _holes(
    projected: Floats, gaps: Floats, tolerances: Tolerances
) -> tuple[float, npt.NDArray[np.int64]] | None:
    """Return (true spacing, slices missing after each slice) of a grid with holes.

    Every gap must be a multiple of the smallest repeated gap. The result is None otherwise, and
    when there would be at least as many holes as slices.
    """
    ordered = np.sort(gaps)
    near = np.abs(np.diff(ordered)) <= 2 * tolerances.position(float(ordered[0]))
    if len(ordered) == 1 or not near.any():
        return None
    smallest = float(ordered[int(np.argmax(near))])
    if smallest > ordered[0] + 2 * tolerances.position(smallest):
        # A gap smaller than every repeated gap cannot be a multiple of it.
        return None
    steps = np.rint(gaps / smallest)
    total = float(steps.sum())
    spacing = float((projected[-1] - projected[0]) / total)
    steps = np.rint(gaps / spacing).astype(np.int64)
    missing = steps - 1
    if missing.min() < 0 or not 0 < missing.sum() < len(projected):
        return None
    regular = _grid_error(projected, np.concatenate([[0], np.cumsum(steps)]), tolerances)[1]
    return (spacing, missing) if regular else None


# Verdicts of stacks that `regular_slices` can make regular.
FILLABLE: Final = frozenset({"missing_slices", "uneven_spacing"})
Irregular = Literal["raise", "accept", "resample"]
POLICIES: Final[tuple[Irregular, ...]] = get_args(Irregular)
# Verdicts with an exact affine; `EVENLY_SPACED` are those of two slices or more.
READABLE: Final = frozenset({"regular", "single", "tilted"})
EVENLY_SPACED: Final = READABLE - {"single"}
