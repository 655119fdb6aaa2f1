"""A complete stack as network values on a device, decoded, rescaled and windowed there."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from dicomdl.errors import GeometryError, IrregularStack, UsageError
from dicomdl.geometry.verdict import READABLE
from dicomdl.headers.frame_source import FrameSource
from dicomdl.index.check import reason_of
from dicomdl.index.views import Stack
from dicomdl.pixels.stored import frame_shape, stored_range
from dicomdl.values.conversion import Conversion, conversions
from dicomdl.values.reading import read_image
from dicomdl.values.request import IntensityOption, IntensityRequest
from dicomdl.values.stack_intensity import stack_intensity

if TYPE_CHECKING:
    from torch import Tensor
from dicomdl.datasets.device._values import to_device, to_modality
from dicomdl.datasets.device.decoder import BATCH, DeviceDecoder
from dicomdl.datasets.device.intensity import window


def read_stack_on_device(
    stack: Stack,
    decoder: DeviceDecoder,
    intensity: IntensityOption = "auto",
    *,
    irregular: Literal["raise", "accept"] = "raise",
) -> "Tensor":
    """Read a stack as network values on the device of a decoder.

    The values are those of `read_volume`, mapped by the intensity. Frames are read, rescaled with
    their own slope and intercept, and windowed 32 at a time; besides the result, only these are in
    memory.

    Parameters
    ----------
    stack
        An entry of ``index.stacks``.
    decoder
        The decoder of the frames, whose device holds the result.
    intensity
        As for `FrameDataset`. Percentiles are those of the stack, computed once by the CPU and
        remembered.
    irregular
        "raise" refuses a stack whose verdict does not allow a volume. "accept" takes its slices as
        they are; only `read_volume` resamples.

    Returns
    -------
    Tensor
        (channels, slices, rows, columns) float32; 3 channels for colour, including palettes.

    Raises
    ------
    IrregularStack
        The verdict does not allow a volume; attributes `verdict` and `detail`.
    GeometryError, PixelError, IntensityError, UsageError
        As for `read_volume`, `DeviceDecoder.read` and `window`.
    """
    import torch

    request = IntensityRequest.parse(intensity)
    if irregular not in ("raise", "accept"):
        raise UsageError(f"irregular={irregular!r}: expected 'raise' or 'accept'")
    if irregular == "raise" and stack.verdict not in READABLE:
        raise IrregularStack(
            f"the stack is {stack.verdict} ({reason_of(stack)}): pass irregular='accept' to take "
            "its slices as they are, or resample it by read_volume",
            verdict=stack.verdict,
            detail=stack.detail,
        )
    recipe = stack_intensity(stack, request)
    sources, frame_conversions = stack.sources, conversions(stack, recipe.quantity)
    shapes = {frame_shape(source) for source in sources}
    if len(shapes) != 1:
        raise GeometryError(
            f"the frames have different sizes: {sorted(shapes)}", shapes=sorted(shapes)
        )
    colour = frame_conversions[0].is_colour(sources[0])
    channels = max(sources[0].samples_per_pixel, 3) if colour else 1
    result = torch.empty(
        (channels, len(sources), *shapes.pop()[:2]), dtype=torch.float32, device=decoder.device
    )
    for start in range(0, len(sources), BATCH):
        run = slice(start, start + BATCH)
        for position, (values, padding) in enumerate(
            _read_converted(sources[run], frame_conversions[run], decoder), start
        ):
            if padding is not None and (lowest := recipe.floor(_numpy_dtype(values))) is not None:
                values = values.masked_fill(padding, lowest)
            mapped = window(values, recipe)
            result[:, position] = mapped.movedim(-1, 0) if colour else mapped
    return result


def _numpy_dtype(values: "Tensor") -> np.dtype[Any]:
    """Return the NumPy dtype of a tensor."""
    return np.dtype(str(values.dtype).removeprefix("torch."))


def _read_converted(
    sources: Sequence[FrameSource], frame_conversions: Sequence[Conversion], decoder: DeviceDecoder
) -> "list[tuple[Tensor, Tensor | None]]":
    """Return (converted values, mask of padding) of frames, on the device.

    Colour has no conversion beyond its stored values (PS3.3 C.11.1). The CPU applies tables, maps
    and palettes.
    """
    source = sources[0]
    colour = frame_conversions[0].is_colour(source)
    has_palette = colour and source.samples_per_pixel == 1
    if has_palette or any(conversion.table is not None for conversion in frame_conversions):
        images = [
            read_image(source, conversion)
            for source, conversion in zip(sources, frame_conversions, strict=True)
        ]
        device = decoder.device
        return [
            (to_device(array, device), None if padding is None else to_device(padding, device))
            for array, padding in images
        ]
    stored = decoder.read(sources)
    if colour:
        return [(values, None) for values in stored]
    ranges = [None if source.float_pixels else stored_range(source) for source in sources]
    return [
        (
            to_modality(values, conversion.rescale, bounds),
            _padding(values, conversion.padding),
        )
        for values, conversion, bounds in zip(stored, frame_conversions, ranges, strict=True)
    ]


def _padding(stored: "Tensor", ends: tuple[int, int] | None) -> "Tensor | None":
    """Return the mask of stored values within the range of padding, or None without a range."""
    return None if ends is None else (stored >= ends[0]) & (stored <= ends[1])
