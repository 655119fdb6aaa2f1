"""Other grids for samples: frames and volumes at the size and spacing that a dataset is told."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from dicomdl.datasets._assembly import Affine
from dicomdl.errors import GeometryError, UsageError
from dicomdl.geometry.grid import Geometry
from dicomdl.index.views import Stack
from dicomdl.volumes.resampling import Interpolation
from dicomdl.volumes.volume import Volume


@dataclass(frozen=True, slots=True)
class TargetGrid:
    """The size and spacing, one number per axis, that images are brought to; None as they are."""

    size: tuple[int, ...] | None = None
    spacing: tuple[float, ...] | None = None

    @classmethod
    def of(cls, axes: int, size: Any, spacing: Any) -> "TargetGrid":
        """The grid of the keywords of a dataset of so many axes, checked."""
        return cls(checked_numbers(size, axes, "size"), checked_numbers(spacing, axes, "spacing"))

    @property
    def is_own(self) -> bool:
        """Whether every image keeps its own grid."""
        return self.size is None and self.spacing is None


def checked_numbers(given: Any, count: int, name: str) -> Any:
    """A tuple of `count` positive numbers, or None."""
    if given is None:
        return None
    try:
        numbers = tuple([given] * count if isinstance(given, int | float) else given)
        sound = len(numbers) == count and all(0 < number < math.inf for number in numbers)
        whole = name != "size" or (sound and all(float(number).is_integer() for number in numbers))
    except (TypeError, ValueError):
        sound = whole = False
    if not (sound and whole):
        raise UsageError(
            f"{name}={given!r}: expected {count} positive {'whole ' if name == 'size' else ''}numbers"
        )
    return tuple(int(number) for number in numbers) if name == "size" else numbers


def frame_grid(stack: Stack, position: int, reduce: int) -> tuple[Affine, Affine]:
    """The affine of a frame as slice 0 of its own grid, and (slice, row, column) spacing."""
    affine, spacing = stack.affine, np.asarray(stack.spacing, dtype=np.float64)
    affine[:3, 3] = stack.position(position)
    affine[:3, 1:3] *= 1 << reduce
    return affine, spacing * (1, *[1 << reduce] * 2)


def resized(
    image: npt.NDArray[Any],
    affine: Affine,
    spacing: Affine,
    target: TargetGrid,
    *,
    smooth: bool,
    fill: float | None,
) -> tuple[npt.NDArray[Any], Affine, Affine]:
    """A frame (C, H, W) on another in-plane grid.

    Image, affine and spacing, as `FrameDataset` documents.

    `smooth` interpolates with antialiasing; labels take the nearest pixel instead. `fill` is what
    lies beyond the frame, by default the smallest value.
    """
    if target.is_own:
        return image, affine, spacing
    size, new_spacing = target.size, target.spacing
    tensor = torch.from_numpy(image.astype(np.float32))[None]
    how: dict[str, Any] = (
        {"mode": "bilinear", "antialias": True} if smooth else {"mode": "nearest-exact"}
    )
    if new_spacing is None:
        assert size is not None  # else the grid were its own
        scale = tuple(new / old for new, old in zip(size, tensor.shape[2:], strict=True))
        tensor = torch.nn.functional.interpolate(tensor, size=tuple(size), **how)
    else:
        if not np.isfinite(spacing[1:]).all():
            raise GeometryError(
                "the pixel spacing of this frame is not known: use size= without spacing="
            )
        scale = tuple(float(old / new) for old, new in zip(spacing[1:], new_spacing, strict=True))
        if min(length * factor for length, factor in zip(tensor.shape[2:], scale, strict=True)) < 1:
            raise GeometryError(
                f"the frame is smaller than one pixel of {new_spacing} mm", spacing=new_spacing
            )
        # With the scale given (not recomputed from the rounded size), pixels have exactly
        # the spacing asked for.
        tensor = torch.nn.functional.interpolate(
            tensor, scale_factor=scale, recompute_scale_factor=False, **how
        )
    # Edges stay where they were, so the first centre moves by half the difference of the
    # pixel sizes.
    shift = np.array([0.5 / s - 0.5 for s in scale])
    image, offset = _crop_or_pad(tensor[0].numpy(), size, fill if smooth else 0)
    shift += np.asarray(offset) / np.asarray(scale)
    affine, spacing = affine.copy(), spacing.copy()
    affine[:3, 3] += affine[:3, 1:3] @ shift
    affine[:3, 1:3] /= np.asarray(scale)
    spacing[1:] /= np.asarray(scale)
    return image, affine, spacing


def _crop_or_pad(
    image: npt.NDArray[Any], size: Any, fill: float | None
) -> tuple[npt.NDArray[Any], tuple[int, int]]:
    """(C, *size) about the centre, padded with `fill`, by default the smallest value, and where its first pixel was."""
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
    """A volume on another grid, as `VolumeDataset` documents.

    Without geometry only its size changes.
    """
    if target.is_own:
        return volume
    size, spacing = target.size, target.spacing
    if volume.geometry.is_known:
        return volume.resample(spacing, size=size, interpolation=interpolation, fill=fill)
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
