"""Frames and volumes on another grid: the size and spacing that a dataset delivers."""

import math
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple, get_args

import numpy as np
import numpy.typing as npt
import torch

from dicomdl.datasets._assembly import Affine
from dicomdl.errors import GeometryError, UsageError
from dicomdl.geometry.boxes import map_of_scales
from dicomdl.geometry.grid import Geometry
from dicomdl.geometry.in_plane import PROJECTION, SpacingAt
from dicomdl.index.views import Stack
from dicomdl.values.fingerprint import Fingerprint
from dicomdl.volumes.resampling import Interpolation, new_grid
from dicomdl.volumes.volume import Volume

Fit = Literal["stretch", "pad", "crop"]
# Voxels of a resampled volume: 4 GiB of float32. More is a spacing in other units, or a mistake.
MOST_VOXELS: Final = 2**30
FITS: Final[tuple[Fit, ...]] = get_args(Fit)


@dataclass(frozen=True, slots=True)
class TargetGrid:
    """The size and spacing of delivered images, one number per axis; None leaves them as read.

    `fit` says how an image of another shape gets the size (see `FrameDataset`); None leaves that to
    `fit_of`.
    """

    size: tuple[int, ...] | None = None
    spacing: tuple[float, ...] | None = None
    fit: Fit | None = None

    def __post_init__(self) -> None:
        if self.fit is None:
            return
        if self.fit not in FITS:
            raise UsageError(
                f"fit={self.fit!r}: expected one of {', '.join(map(repr, FITS))} or None"
            )
        if self.size is None or self.spacing is not None:
            raise UsageError(
                f"fit={self.fit!r} needs size= without spacing=: with spacing=, the image is "
                "cropped or padded about its centre"
            )

    @classmethod
    def of(cls, axes: int, size: Any, spacing: Any, fit: Any = None) -> "TargetGrid":
        """Return the grid for the keywords of a dataset with `axes` axes, checked."""
        return cls(
            checked_numbers(size, axes, "size"), checked_numbers(spacing, axes, "spacing"), fit
        )

    def fit_of(self, modality: str) -> Fit:
        """Return the fit for frames of a modality: by default "pad" for projection images."""
        return self.fit or ("pad" if modality in PROJECTION else "stretch")

    @property
    def is_own(self) -> bool:
        """Whether images are delivered on the grid that they are read on."""
        return self.size is None and self.spacing is None


def requested_spacing(given: Any, axes: int, *, oriented: bool = False) -> Any:
    """Return a spacing, a tuple of `axes` numbers in mm, for ``spacing=``; None for None.

    A `Fingerprint` stands for its target spacing, along slices, rows and columns. `oriented` says
    that the axes have another order.

    Raises
    ------
    UsageError
        These are no positive numbers, or a Fingerprint does not have these axes.
    GeometryError
        No stack of the Fingerprint has a known spacing.
    """
    if isinstance(given, Fingerprint):
        if oriented or axes != 3:
            raise UsageError(
                "spacing=Fingerprint(...): its target_spacing is along slices, rows and columns: "
                "give numbers in the order of the axes"
            )
        given = given.target_spacing
    return checked_numbers(given, axes, "spacing")


def checked_numbers(given: Any, count: int, name: str) -> Any:
    """Return a tuple of `count` positive numbers (integers for "size"), or None."""
    if given is None:
        return None
    try:
        numbers = tuple([given] * count if np.ndim(given) == 0 else given)
        # A number of NumPy or torch becomes one of Python.
        numbers = tuple(n.item() if hasattr(n, "item") else n for n in numbers)
        valid = len(numbers) == count and all(0 < number < math.inf for number in numbers)
        if name == "size":
            valid = valid and all(float(number).is_integer() for number in numbers)
    except (TypeError, ValueError):
        valid = False
    if not valid:
        kind = "whole numbers" if name == "size" else "numbers"
        raise UsageError(f"{name}={given!r}: expected {count} positive {kind}")
    return tuple(int(number) for number in numbers) if name == "size" else numbers


class FrameGrid(NamedTuple):
    """The grid of a frame: its affine as slice 0, its (slice, row, column) spacing, its place."""

    affine: Affine
    spacing: Affine
    spacing_at: SpacingAt


def frame_grid(stack: Stack, position: int, reduce: int, *, in_patient: bool = False) -> FrameGrid:
    """Return the grid of a frame, halved `reduce` times in plane.

    A projection image has a spacing of its own. With `in_patient`, it is that in the patient, or
    NaN.
    """
    affine, spacing = stack.affine, np.asarray(stack.spacing, dtype=np.float64)
    at: SpacingAt = "patient"
    if stack.verdict == "no_geometry" or stack.modality in PROJECTION:
        plane = stack.plane_spacing(position)
        plane = plane.in_patient() if in_patient else plane
        spacing[1:] = plane.row, plane.column
        at = plane.at
    affine[:3, 3] = stack.position(position)
    affine[:3, 1:3] *= 1 << reduce
    return FrameGrid(affine, spacing * (1, *[1 << reduce] * 2), at)


class Resizing(NamedTuple):
    """How frames of a stack come to another grid.

    `smooth` interpolates bilinearly with antialiasing; without it, as for labels, each pixel takes
    the nearest value. `fill` is the value beyond the frame, by default the smallest value.
    """

    fit: Fit
    smooth: bool
    fill: float | None


class Resized(NamedTuple):
    """A frame (C, H, W) on another grid, and the map of its places there (see `geometry.boxes`)."""

    image: npt.NDArray[Any]
    affine: Affine
    spacing: Affine
    by: Affine


def resized(
    image: npt.NDArray[Any], affine: Affine, spacing: Affine, target: TargetGrid, how: Resizing
) -> Resized:
    """Return a frame (C, H, W) on another in-plane grid.

    `FrameDataset` documents the rules.
    """
    if target.is_own:
        return Resized(image, affine, spacing, np.eye(4))
    size, new_spacing = target.size, target.spacing
    # Labels of 32 bits are exact in float64 only.
    is_wide = image.dtype.kind in "iu" and image.dtype.itemsize > 2 and not how.smooth
    tensor = torch.from_numpy(image.astype(np.float64 if is_wide else np.float32))[None]
    inner: tuple[int, ...] | None = None
    if new_spacing is None:
        # Otherwise `is_own` would be true.
        assert size is not None
        inner = _fitted(tuple(tensor.shape[2:]), size, how.fit)
        scale = tuple(new / old for new, old in zip(inner, tensor.shape[2:], strict=True))
    else:
        scale = _scale_to(new_spacing, spacing, image.shape)
    tensor = _interpolated(tensor, to_size=inner, scale=scale, is_mixed=how.smooth)
    # The edges of the image are fixed, so the first centre moves by half the difference of the
    # pixel sizes.
    shift = np.array([0.5 / s - 0.5 for s in scale])
    image, offset = _crop_or_pad(tensor[0].numpy(), size, how.fill if how.smooth else 0)
    shift += np.asarray(offset) / np.asarray(scale)
    affine, spacing = affine.copy(), spacing.copy()
    affine[:3, 3] += affine[:3, 1:3] @ shift
    affine[:3, 1:3] /= np.asarray(scale)
    spacing[1:] /= np.asarray(scale)
    by = map_of_scales(np.array([1, *scale]), np.array([0, *shift]))
    return Resized(image, affine, spacing, by)


def _scale_to(
    new_spacing: tuple[float, ...], spacing: Affine, shape: tuple[int, ...]
) -> tuple[float, ...]:
    """Return the factors by which the rows and columns of a frame (C, H, W) get another number.

    Raises
    ------
    GeometryError
        The frame has no spacing, or would get no pixel, or too many.
    """
    if not np.isfinite(spacing[1:]).all():
        raise GeometryError(
            "the pixel spacing of this frame is not known: use size= without spacing="
        )
    scale = tuple(float(old / new) for old, new in zip(spacing[1:], new_spacing, strict=True))
    rows, columns = (int(n * factor) for n, factor in zip(shape[1:], scale, strict=True))
    if not rows or not columns:
        raise GeometryError(
            f"the frame is smaller than one pixel of {new_spacing} mm", spacing=new_spacing
        )
    if (pixels := shape[0] * rows * columns) > MOST_VOXELS:
        raise GeometryError(
            f"a frame of {rows} x {columns} pixels of {new_spacing} mm exceeds the limit of "
            f"{MOST_VOXELS:,} pixels for a sample: take a larger spacing, in mm",
            voxels=pixels,
            limit=MOST_VOXELS,
            spacing=new_spacing,
        )
    return scale


def _interpolated(
    tensor: torch.Tensor,
    *,
    to_size: tuple[int, ...] | None,
    scale: tuple[float, ...],
    is_mixed: bool,
) -> torch.Tensor:
    """Interpolate (1, C, H, W) to a size, or by two factors; bilinearly with antialiasing, or not.

    With antialiasing, torch 2.13 gives every row the first value where one column is left. Such an
    image is turned, since one row is right.
    """
    is_narrow = (int(tensor.shape[3] * scale[1]) if to_size is None else to_size[1]) == 1
    how: dict[str, Any] = (
        {"mode": "bilinear", "antialias": True} if is_mixed else {"mode": "nearest-exact"}
    )
    order = slice(None, None, -1 if is_narrow else 1)
    if to_size is None:
        # With the scale given, instead of recomputed from the rounded size, pixels have exactly
        # the requested spacing.
        how |= {"scale_factor": scale[order], "recompute_scale_factor": False}
    else:
        how["size"] = to_size[order]
    given = tensor.transpose(2, 3).contiguous() if is_narrow else tensor
    result = torch.nn.functional.interpolate(given, **how)
    return result.transpose(2, 3) if is_narrow else result


def _fitted(shape: tuple[int, ...], size: tuple[int, ...], fit: Fit) -> tuple[int, ...]:
    """Return the size of the complete image before it is padded or cropped.

    One factor serves both axes, up to the rounding to whole pixels. The affine states the exact
    scale of each axis.
    """
    if fit == "stretch":
        return size
    factors = [want / have for want, have in zip(size, shape, strict=True)]
    factor = min(factors) if fit == "pad" else max(factors)
    return tuple(max(1, round(have * factor)) for have in shape)


def _crop_or_pad(
    image: npt.NDArray[Any], size: Any, fill: float | None
) -> tuple[npt.NDArray[Any], tuple[int, int]]:
    """Return the image cropped or padded about its centre to (C, *size), and its start.

    The start is the (row, column) of its first pixel in the given image. `fill` is the value of the
    padding, by default the smallest value of the image.
    """
    if size is None or image.shape[1:] == tuple(size):
        return image, (0, 0)
    result = np.full(
        (image.shape[0], *size), image.min() if fill is None else fill, dtype=image.dtype
    )
    starts = [(have - want) // 2 for have, want in zip(image.shape[1:], size, strict=True)]
    source = tuple(
        slice(max(0, start), min(have, start + want))
        for start, have, want in zip(starts, image.shape[1:], size, strict=True)
    )
    target = tuple(
        slice(s.start - start, s.stop - start) for s, start in zip(source, starts, strict=True)
    )
    result[(slice(None), *target)] = image[(slice(None), *source)]
    return result, (starts[0], starts[1])


def resampled(
    volume: Volume, target: TargetGrid, interpolation: Interpolation, fill: float | None
) -> Volume:
    """Return a volume on another grid, as `VolumeDataset` documents.

    A volume without geometry can change in size only.
    """
    if target.is_own:
        return volume
    size, spacing = target.size, target.spacing
    if volume.geometry.is_known:
        grid = new_grid(volume.geometry, spacing, size)
        if math.prod(grid.shape) > MOST_VOXELS:
            raise GeometryError(
                f"{grid} exceeds the limit of {MOST_VOXELS:,} voxels for a sample: take a larger "
                "spacing, a size or patches",
                voxels=math.prod(grid.shape),
                limit=MOST_VOXELS,
                spacing=grid.spacing,
            )
        return volume.resample_to(grid, interpolation=interpolation, fill=fill)
    if spacing is not None:
        raise GeometryError("the position of this stack is not known: use size= without spacing=")
    counted = Volume(
        volume.array, Geometry(volume.geometry.shape, np.eye(4)), volume.units, volume.frame
    )
    resized = counted.resample(
        size=size, interpolation=interpolation, fill=0 if interpolation == "nearest" else fill
    )
    return Volume(
        resized.array,
        Geometry(resized.geometry.shape, np.full((4, 4), np.nan)),
        volume.units,
        volume.frame,
    )
