"""The assembly of a sample from the values of a stack: padding, intensity, channels, tensors.

The float32 image is written once, by the intensity, into the memory that leaves the worker (see
`transport.images`).
"""

from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple, get_args

import numpy as np
import numpy.typing as npt
import torch

from dicomdl.datasets.device.intensity import intensity_as_data
from dicomdl.datasets.sample import Sample
from dicomdl.datasets.transport.images import new_array
from dicomdl.errors import UsageError
from dicomdl.values.intensity import Intensity
from dicomdl.values.reading import Converted

Affine = npt.NDArray[np.float64]
IntensityOn = Literal["cpu", "device"]
# Weights of red, green and blue in luminance, PS3.3 C.7.6.3.1.2 (the Y of YBR_FULL).
_LUMA: Final = (0.299, 0.587, 0.114)


def floored(read: Converted, recipe: Intensity) -> npt.NDArray[Any]:
    """Return the values with padding set to the lowest value of the recipe.

    The values are changed in place, so the caller must own them.
    """
    if read.padding is not None and (lowest := recipe.floor(read.array.dtype)) is not None:
        # Bit arithmetic has no branches: with a ragged mask, a masked copy takes ten times as long.
        bits = read.array.view(f"i{read.array.itemsize}")
        change = bits ^ np.array(lowest, read.array.dtype).view(bits.dtype)
        # Colour has a trailing axis of samples.
        padding = read.padding if read.padding.ndim == change.ndim else read.padding[..., None]
        np.multiply(change, padding, out=change)
        np.bitwise_xor(bits, change, out=bits)
    return read.array


def channel_first(values: npt.NDArray[Any], dimensions: int) -> npt.NDArray[Any]:
    """Return a (C, ...) view of (...) or (..., C) values."""
    return values[None] if values.ndim == dimensions else np.moveaxis(values, -1, 0)


class Image(NamedTuple):
    """The image of a sample: modality values, or network values if it is mapped already."""

    values: npt.NDArray[Any]
    is_mapped: bool = False


def made_sample(
    image: Image,
    affine: Affine,
    spacing: Affine,
    recipe: Intensity,
    how: "Delivery",
    facts: dict[str, Any],
) -> Sample:
    """Return the sample of an image of (C, ...) values, which the caller must own."""
    values, channels = np.ascontiguousarray(image.values), how.channels
    if how.intensity_on == "device":
        facts["intensity"] = intensity_as_data(recipe)
        mapped = torch.from_numpy(
            values.astype(_CARRIED.get(values.dtype.char, np.float32), copy=False)
        )
    else:
        is_done = image.is_mapped or (recipe.is_identity and values.dtype == np.float32)
        mapped = torch.from_numpy(
            values if is_done else recipe(values, new_array(values.shape, np.float32))
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
    """The delivery of images by a dataset: its options `channels` and `intensity_on`."""

    channels: int | None = None
    intensity_on: IntensityOn = "cpu"

    def __post_init__(self) -> None:
        if self.channels not in (None, 1, 3):
            raise UsageError(f"channels={self.channels!r}: expected 1, 3 or None")
        if self.intensity_on not in get_args(IntensityOn):
            raise UsageError(f"intensity_on={self.intensity_on!r}: expected 'cpu' or 'device'")


# The dtype in which `intensity_on="device"` delivers values; others become float32. Only colour has
# unsigned 16 bits, and torch has hardly any operation on them.
_CARRIED: Final[dict[str, Any]] = {
    "B": np.uint8,
    "h": np.int16,
    "i": np.int32,
    "f": np.float32,
    "H": np.int32,
}
