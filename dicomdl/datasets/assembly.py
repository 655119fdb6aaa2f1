"""What a sample is and how one is made: what a dataset takes of an index, how values become tensors, what happens where one cannot be read.

A sample depends on (seed, epoch, row) alone. Everything here is used by the datasets and by nobody else; torch enters by this door
and by `datasets`.
"""

from dataclasses import dataclass
from typing import Any, Final, Literal, get_args

import numpy as np
import numpy.typing as npt
import torch

from dicomdl.datasets.device.intensity import intensity_as_data
from dicomdl.datasets.sample import Sample
from dicomdl.datasets.transport.images import new_array
from dicomdl.errors import GeometryError, UsageError
from dicomdl.geometry.grid import Geometry
from dicomdl.index.views import Stack
from dicomdl.storage.memory import remembered
from dicomdl.values.intensity import Intensity
from dicomdl.values.reading import Converted
from dicomdl.values.request import IntensityRequest
from dicomdl.values.stack_intensity import SuvPolicy, stack_intensity
from dicomdl.volumes.resampling import Interpolation
from dicomdl.volumes.volume import Volume

Affine = npt.NDArray[np.float64]
IntensityOn = Literal["cpu", "device"]
_LUMA: Final = (0.299, 0.587, 0.114)  # of RGB, PS3.3 C.7.6.3.1.2 (the Y of YBR_FULL)


def floored(read: Converted, recipe: Intensity) -> npt.NDArray[Any]:
    """The values, which are the caller's own to change, with padding as low as the recipe can see."""
    if read.padding is not None and (lowest := recipe.floor(read.array.dtype)) is not None:
        # Without branches: where a mask is ragged, a masked copy takes ten times as long.
        bits = read.array.view(f"i{read.array.itemsize}")
        change = bits ^ np.array(lowest, read.array.dtype).view(bits.dtype)
        padding = (
            read.padding if read.padding.ndim == change.ndim else read.padding[..., None]
        )  # of colour
        np.multiply(change, padding, out=change)
        np.bitwise_xor(bits, change, out=bits)
    return read.array


def frame_grid(stack: Stack, position: int, reduce: int) -> tuple[Affine, Affine]:
    """The affine of a frame as slice 0 of its own grid, and (slice, row, column) spacing."""
    affine, spacing = stack.affine, np.asarray(stack.spacing, dtype=np.float64)
    affine[:3, 3] = stack.position(position)
    affine[:3, 1:3] *= 1 << reduce
    return affine, spacing * (1, *[1 << reduce] * 2)


def stack_recipe(
    stack: Stack, request: IntensityRequest, suv: SuvPolicy, max_bytes: int | None = None
) -> Intensity:
    """What `intensity` means for a stack, remembered where the request can be hashed."""
    try:
        hash(request)
    except TypeError:  # such as a caller's own object
        return stack_intensity(stack, request, suv, max_bytes)
    return _known_recipe(stack, request, suv, max_bytes)


@remembered("intensity recipes")
def _known_recipe(
    stack: Stack, request: IntensityRequest, suv: SuvPolicy, max_bytes: int | None
) -> Intensity:
    return stack_intensity(stack, request, suv, max_bytes)


def channel_first(values: npt.NDArray[Any], dimensions: int) -> npt.NDArray[Any]:
    """(C, ...) from (...) or (..., C)."""
    return values[None] if values.ndim == dimensions else np.moveaxis(values, -1, 0)


def made_sample(
    image: npt.NDArray[Any],
    affine: Affine,
    spacing: Affine,
    recipe: Intensity,
    how: "Delivery",
    facts: dict[str, Any],
) -> Sample:
    """The sample of an image, (C, ...) modality values that are the caller's own to change."""
    image, channels = np.ascontiguousarray(image), how.channels
    if how.intensity_on == "device":
        facts["intensity"] = intensity_as_data(recipe)
        mapped = torch.from_numpy(
            image.astype(_CARRIED.get(image.dtype.char, np.float32), copy=False)
        )
    else:  # mapped already where nothing is left to do
        is_done = image.dtype == np.float32 and recipe.is_identity
        mapped = torch.from_numpy(
            image if is_done else recipe(image, new_array(image.shape, np.float32))
        )
    if channels == 3 and mapped.shape[0] == 1:
        mapped = mapped.expand(3, *mapped.shape[1:]).contiguous()
    elif channels == 1 and mapped.shape[0] == 3:
        mapped = torch.einsum("c...,c->...", mapped.to(torch.float32), torch.tensor(_LUMA))[None]
    return Sample(
        image=mapped,
        affine=torch.from_numpy(np.array(affine)),
        spacing=torch.from_numpy(np.array(spacing, dtype=np.float64)),
        units=recipe.units,
        **facts,
    )


@dataclass(frozen=True, slots=True)
class Delivery:
    """How the images of a dataset are delivered: its `channels` and `intensity_on`."""

    channels: int | None = None
    intensity_on: IntensityOn = "cpu"

    def __post_init__(self) -> None:
        if self.channels not in (None, 1, 3):
            raise UsageError(f"channels={self.channels!r}: expected 1, 3 or None")
        if self.intensity_on not in get_args(IntensityOn):
            raise UsageError(f"intensity_on={self.intensity_on!r}: expected 'cpu' or 'device'")


# What is carried as it is; unsigned 16 bits are for colour alone, and torch hardly computes with them.
_CARRIED: Final[dict[str, Any]] = {
    "B": np.uint8,
    "h": np.int16,
    "i": np.int32,
    "f": np.float32,
    "H": np.int32,
}


def resized(
    image: npt.NDArray[Any],
    affine: Affine,
    spacing: Affine,
    size: Any,
    new_spacing: Any,
    *,
    smooth: bool,
    fill: float | None,
) -> tuple[npt.NDArray[Any], Affine, Affine]:
    """A frame (C, H, W) on another in-plane grid: image, affine and spacing, as `FrameDataset` documents.

    `smooth` interpolates with antialiasing; labels take the nearest pixel instead. `fill` is what lies beyond the frame, by default the
    smallest value.
    """
    if size is None and new_spacing is None:
        return image, affine, spacing
    tensor = torch.from_numpy(image.astype(np.float32))[None]
    how: dict[str, Any] = (
        {"mode": "bilinear", "antialias": True} if smooth else {"mode": "nearest-exact"}
    )
    if new_spacing is None:
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
        # With the scale given (not recomputed from the rounded size), pixels have exactly the spacing asked for.
        tensor = torch.nn.functional.interpolate(
            tensor, scale_factor=scale, recompute_scale_factor=False, **how
        )
    # Edges stay where they were, so the first centre moves by half the difference of the pixel sizes.
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
    volume: Volume, size: Any, spacing: Any, interpolation: Interpolation, fill: float | None
) -> Volume:
    """A volume on another grid, as `VolumeDataset` documents; without geometry only its size changes."""
    if size is None and spacing is None:
        return volume
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
