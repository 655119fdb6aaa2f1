"""Values of an array on another grid, and images and files of SimpleITK.

The only module that imports SimpleITK. Arrays are (slice, row, column[, sample]), with a leading
axis of time points where `series` is true; all time points share one grid. Resampling works in
index space, so that any affine, including a sheared one, is exact.
"""

import math
import os
from collections.abc import Sequence
from typing import Any, Final, Literal, get_args

import numpy as np
import numpy.typing as npt

from dicomdl.arrays import Floats, Ints, Values, Voxel, ends_of
from dicomdl.errors import GeometryError, StorageError
from dicomdl.geometry.grid import FLAT, Geometry
from dicomdl.geometry.regular import require_possible

Interpolation = Literal["linear", "nearest", "cubic", "thick_slices"]
INTERPOLATIONS: Final[tuple[Interpolation, ...]] = get_args(Interpolation)
# Cosine between two axes that still counts as a right angle (the tolerance of `regular`).
MAX_SHEAR: Final = 1e-3
# Names of metadata in files of NRRD and MetaImage.
UNITS: Final = "units"
TIME_STEP: Final = "time_step_s"
FORMATS: Final = (".nii.gz", ".nii", ".nrrd", ".nhdr", ".mha", ".mhd")
# Cosine of two axes that are at a right angle but for rounding, and orders of the axes in which one
# of them is first.
_RIGHT: Final = 1e-6
_SHIFTED_FIRST: Final = np.array([[0, 1, 2], [1, 0, 2], [2, 0, 1]])
# Slices: deviation from an integer that the inverse of an affine leaves.
_ROUNDING: Final = 1e-6


def simpleitk() -> Any:
    """Import SimpleITK at its first use (0.2 s). Typed as Any: its own types are incomplete."""
    import SimpleITK

    return SimpleITK


# --- grids ----------------------------------------------------------------------------------------


def require_known(geometry: Geometry) -> None:
    """Raise a GeometryError for a grid that is unknown, or whose axes lie in one plane."""
    if not geometry.is_known:
        raise GeometryError(
            "the position or orientation of this volume is not known, so it has no place in space"
        )
    if geometry.is_flat:
        raise GeometryError(FLAT)


def new_grid(
    old: Geometry, spacing: Sequence[float] | float | None, size: Sequence[int] | None
) -> Geometry:
    """Return an orthogonal grid about the same centre, along the old rows and columns."""
    require_known(old)
    direction = _orthogonal(old.direction)
    extent = _extents(np.asarray(old.shape), old.affine[:3, :3], direction)
    shape = None if size is None else _whole_size(size)
    if spacing is not None:
        new_spacing = _three(
            spacing, f"a spacing is one or three positive numbers in mm, found {spacing}"
        )
    elif shape is not None:
        new_spacing = extent / shape
    else:
        # a step along a tilted slice axis is longer than the distance of the slices
        new_spacing = np.asarray(old.spacing) * np.abs((old.direction * direction).sum(axis=0))
    if shape is None:
        shape = _counts(extent, new_spacing)
    whole = (int(shape[0]), int(shape[1]), int(shape[2]))
    require_possible(whole)
    affine = np.eye(4)
    affine[:3, :3] = direction * new_spacing
    affine[:3, 3] = old.center - affine[:3, :3] @ ((shape - 1) / 2)
    return Geometry(whole, affine)


def new_shapes(shapes: Ints, steps: Floats, spacing: Sequence[float]) -> Ints:
    """Return (n, 3) the shapes that `new_grid` gives n grids at one spacing.

    Parameters
    ----------
    shapes
        (n, 3) of the old grids.
    steps
        (n, 3, 3) mm, the steps along the old axes as columns.
    spacing
        Three positive numbers in mm.
    """
    directions = _orthogonal(steps / np.sqrt((steps**2).sum(axis=-2, keepdims=True)))
    return _counts(_extents(shapes, steps, directions), np.asarray(spacing))


def _orthogonal(direction: Floats) -> Floats:
    """Return orthogonal directions along the old ones; (..., 3, 3) unit vectors, as columns.

    Two axes are kept, the rows and columns of the slices, in whatever order the axes are. The third
    one, along which slices may be shifted, becomes their normal.
    """
    gram = np.abs(np.swapaxes(direction, -1, -2) @ direction)
    # Cosines between the other two axes. Of axes that are all at right angles, the first is taken.
    between = np.stack([gram[..., 1, 2] - _RIGHT, gram[..., 0, 2], gram[..., 0, 1]], axis=-1)
    order = _SHIFTED_FIRST[between.argmin(axis=-1)][..., None, :]
    shifted, rows, columns = np.moveaxis(np.take_along_axis(direction, order, axis=-1), -1, 0)
    normal = np.cross(columns, rows)
    normal /= np.sqrt((normal**2).sum(axis=-1, keepdims=True))
    rows = np.cross(normal, columns)
    normal = normal * np.where((normal * shifted).sum(axis=-1, keepdims=True) < 0, -1.0, 1.0)
    kept = np.stack([normal, rows, columns], axis=-1)
    return np.take_along_axis(kept, order.argsort(axis=-1), axis=-1)


def _three(given: Any, expected: str) -> npt.NDArray[np.float64]:
    """Return three positive numbers, or raise a GeometryError with what was expected."""
    try:
        numbers = np.array(np.broadcast_to(np.asarray(given, dtype=np.float64), 3))
    except (TypeError, ValueError):
        raise GeometryError(expected) from None
    if not (np.isfinite(numbers).all() and (numbers > 0).all()):
        raise GeometryError(expected)
    return numbers


def _whole_size(given: Any) -> Ints:
    """Return three positive whole numbers of voxels, or raise a GeometryError."""
    expected = f"a size is (slices, rows, columns), found {given}"
    numbers = _three(given, expected)
    if (numbers != np.rint(numbers)).any():
        raise GeometryError(f"{expected}: expected whole numbers")
    return numbers.astype(np.int64)


def _extents(shapes: Ints, steps: Floats, directions: Floats) -> Floats:
    """Return (..., 3) mm: the extent of the voxels, edges included, along each direction."""
    sides = steps * shapes[..., None, :]
    return np.asarray(np.abs(np.swapaxes(directions, -1, -2) @ sides).sum(axis=-1))


def _counts(extents: Floats, spacing: Floats) -> Ints:
    """Return the voxels that an extent holds, at least 1; halves are not left to rounding."""
    counts = np.rint(np.round(extents / spacing, 6))
    return np.asarray(np.maximum(1, counts).astype(np.int64))


def sampled(
    array: Values,
    matrix: Floats,
    shape: Voxel,
    interpolation: Interpolation,
    fill: float,
) -> Values:
    """Sample values by SimpleITK, in index space, where any affine is exact, even a sheared one.

    Parameters
    ----------
    array
        (slices, rows, columns), not bool.
    matrix
        (4, 4) from indices of the result to indices of the array.
    shape
        (slices, rows, columns) of the result.
    interpolation
        "linear", "nearest" or "cubic"; others count as linear.
    fill
        Value of voxels outside.

    Returns
    -------
    numpy.ndarray
        The dtype of the array. ITK truncates interpolated integers: pass floats.
    """
    if interpolation == "cubic" and 2 in array.shape:
        return _cubic_of_two(array, matrix, shape, fill)
    sitk = simpleitk()
    choices = {"nearest": sitk.sitkNearestNeighbor, "cubic": sitk.sitkBSpline}
    # ITK counts (column, row, slice).
    steps, first = matrix[2::-1, 2::-1], matrix[2::-1, 3]
    resampler = sitk.ResampleImageFilter()
    resampler.SetSize([int(n) for n in shape[::-1]])
    resampler.SetTransform(sitk.AffineTransform(steps.reshape(-1).tolist(), first.tolist()))
    resampler.SetInterpolator(choices.get(interpolation, sitk.sitkLinear))
    resampler.SetDefaultPixelValue(fill)
    image = sitk.GetImageFromArray(np.ascontiguousarray(array))
    values = np.asarray(sitk.GetArrayFromImage(resampler.Execute(image)))
    if values.dtype == np.float32 and np.isinf(array).any():
        # ITK clips float32 to its finite values, and float64 not.
        is_clipped = np.abs(values) == np.finfo(np.float32).max
        values[is_clipped] = np.copysign(np.float32(np.inf), values[is_clipped])
    return values


def _cubic_of_two(array: Values, matrix: Floats, shape: Voxel, fill: float) -> Values:
    """Sample an array with axes of two voxels by B-splines.

    ITK mirrors an array once at its border, and a spline beyond the centre of the last voxel of two
    needs it twice: ITK 5.4 reads memory in front of the array then. The longer array is what the
    mirrors show, so its spline is the same one.
    """
    longer = np.pad(array, [(0, 3 if length == 2 else 0) for length in array.shape], "reflect")
    is_inside = sampled(np.ones(array.shape, np.uint8), matrix, shape, "nearest", 0).astype(bool)
    values = sampled(longer, matrix, shape, "cubic", fill)
    return np.where(is_inside, values, array.dtype.type(fill))


def carried(
    marks: npt.NDArray[np.bool_], old: Geometry, new: Geometry, *, antialias: bool = False
) -> npt.NDArray[np.bool_]:
    """Return (slices of `new`,) bool: True where values come from a marked slice of `old`.

    A new slice takes values from all old slices between which its corners lie; with `antialias`,
    from those within one new slice of them.
    """
    if not marks.any():
        return np.zeros(new.shape[0], dtype=np.bool_)
    step, row, column, first = (np.linalg.inv(old.affine) @ new.affine)[0]
    corners = [row * y + column * x for y in (0, new.shape[1] - 1) for x in (0, new.shape[2] - 1)]
    middle = first + step * np.arange(new.shape[0])
    reach = max(abs(step) - 1, 0.0) if antialias else 0.0
    below = np.floor(middle + min(corners) - reach + _ROUNDING).astype(np.int64)
    above = np.ceil(middle + max(corners) + reach - _ROUNDING).astype(np.int64)
    counted = np.concatenate([[0], np.cumsum(marks)])
    return np.asarray(
        counted[np.clip(above + 1, 0, len(marks))] > counted[np.clip(below, 0, len(marks))]
    )


def exact_float(dtype: np.dtype[Any]) -> type[np.floating[Any]]:
    """Return the float type that holds every integer of a dtype exactly; floats stay theirs."""
    exact_bytes = 4 if dtype.kind == "f" else 2
    return np.float32 if dtype.itemsize <= exact_bytes else np.float64


def rounded(values: Values, dtype: np.dtype[Any]) -> Values:
    """Round floats to an integer dtype, clipped to its range. `values` is overwritten."""
    lowest, highest = ends_of(dtype)
    return np.clip(np.rint(values, out=values), lowest, highest, out=values).astype(dtype)


# --- images and files -----------------------------------------------------------------------------


def to_image(array: Values, geometry: Geometry, *, series: bool, step: float = 1.0) -> Any:
    """Build a SimpleITK image of three dimensions, or of four for a series.

    The fourth dimension counts time points from 0 in steps of `step`.

    Raises
    ------
    GeometryError
        The position is unknown, or the grid is sheared, which an ITK image cannot express.
    """
    require_known(geometry)
    # ITK has neither of these types, nor another byte order.
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    if array.dtype.name in ("bool", "float16"):
        array = array.astype(np.uint8 if array.dtype == np.bool_ else np.float32)
    if geometry.shear > MAX_SHEAR:
        tilt = math.degrees(math.asin(min(1.0, geometry.shear)))
        raise GeometryError(
            f"the slice axis is tilted by {tilt:.2f} degrees: "
            "resample() to an orthogonal grid first",
            tilt_deg=tilt,
        )
    direction = geometry.direction[:, ::-1].copy()
    normal = np.cross(direction[:, 0], direction[:, 1])
    direction[:, 2] = normal * np.sign(normal @ direction[:, 2])
    dimensions = 4 if series else 3
    whole = np.eye(dimensions)
    whole[:3, :3] = direction
    image = simpleitk().GetImageFromArray(array, isVector=array.ndim > dimensions)
    image.SetSpacing([*geometry.spacing[::-1], step][:dimensions])
    image.SetOrigin([*geometry.origin, 0.0][:dimensions])
    image.SetDirection(whole.reshape(-1).tolist())
    return image


def from_image(image: Any) -> tuple[Values, Geometry, tuple[float, ...]]:
    """Return (a copy of the values, the grid, coordinates of time points) of a SimpleITK image.

    The coordinates are those along the fourth dimension, () without one.
    """
    dimensions = image.GetDimension()
    if dimensions not in (3, 4):
        raise GeometryError(
            f"the image has {dimensions} dimensions, expected 3, or 4 with time points",
            dimensions=dimensions,
        )
    direction = np.asarray(image.GetDirection()).reshape(dimensions, dimensions)
    spacing, origin = np.asarray(image.GetSpacing()), np.asarray(image.GetOrigin())
    if dimensions == 4 and np.abs(np.append(direction[3, :3], direction[:3, 3])).max() > MAX_SHEAR:
        raise GeometryError("the fourth dimension of the image is not separate from space")
    affine = np.eye(4)
    affine[:3, :3] = (direction[:3, :3] * spacing[:3])[:, ::-1]
    affine[:3, 3] = origin[:3]
    array = simpleitk().GetArrayFromImage(image)
    times = (
        tuple((origin[3] + spacing[3] * np.arange(len(array))).tolist()) if dimensions == 4 else ()
    )
    return array, Geometry(array.shape[dimensions - 3 : dimensions], affine), times


def require_format(path: str) -> None:
    """Raise a StorageError for a file name whose format does not store a grid."""
    if not path.lower().endswith(FORMATS):
        raise StorageError(
            f"{path!r} cannot be written: the formats that store a grid are {', '.join(FORMATS)}"
        )


def write_image(image: Any, path: str) -> None:
    """Write an image to a file; `require_format` has checked its name.

    Raises
    ------
    StorageError
        The file cannot be written.
    """
    try:
        simpleitk().WriteImage(image, path, useCompression=True)
    except RuntimeError as error:
        raise StorageError(f"{os.path.basename(path)!r} cannot be written") from error


def read_image(path: str) -> Any:
    """Read an image from a file.

    Raises
    ------
    StorageError
        The file cannot be read.
    """
    try:
        return simpleitk().ReadImage(path)
    except RuntimeError as error:
        raise StorageError(f"{os.path.basename(path)!r} cannot be read, or is damaged") from error
