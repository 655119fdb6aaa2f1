"""A whole stack as network values on a device, decoded, rescaled and windowed there."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from dicomdl.errors import GeometryError, IrregularStack, UsageError
from dicomdl.geometry.verdict import READABLE
from dicomdl.headers.frame import FrameSource
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
    """A stack's network values on the device of a decoder.

    What `read_volume` and the intensity make of it.

    Frames are read, rescaled by their own rescales and windowed 32 at a time, so that beside the
    result only those are in memory.

    Parameters
    ----------
    stack
        One of ``index.stacks``.
    decoder
        What decodes the frames, and whose device holds the result.
    intensity
        As for `FrameDataset`; percentiles are those of the stack, read once by the CPU and kept.
    irregular
        "accept" takes slices that do not make a grid as they lie; only `read_volume` resamples.

    Returns
    -------
    Tensor
        float32, (channels, slices, rows, columns); 3 channels for colour, palettes among them.

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
        message = f"the stack is {stack.verdict}: pass irregular='accept' to take it as it lies, or resample it by read_volume"
        raise IrregularStack(message, verdict=stack.verdict, detail=stack.detail)
    recipe = stack_intensity(stack, request)
    sources, own = stack.sources, conversions(stack, recipe.quantity)
    shapes = {frame_shape(source) for source in sources}
    if len(shapes) != 1:
        raise GeometryError(
            f"the frames have different sizes: {sorted(shapes)}", shapes=sorted(shapes)
        )
    colour = own[0].is_colour(sources[0])
    channels = max(sources[0].samples_per_pixel, 3) if colour else 1
    result = torch.empty(
        (channels, len(sources), *shapes.pop()[:2]), dtype=torch.float32, device=decoder.device
    )
    for start in range(0, len(sources), BATCH):
        run = slice(start, start + BATCH)
        for place, (values, padding) in enumerate(
            _read_converted(sources[run], own[run], decoder), start
        ):
            if padding is not None and (lowest := recipe.floor(_numpy_dtype(values))) is not None:
                values = values.masked_fill(padding, lowest)
            mapped = window(values, recipe)
            result[:, place] = mapped.movedim(-1, 0) if colour else mapped
    return result


def _numpy_dtype(values: "Tensor") -> np.dtype[Any]:
    return np.dtype(str(values.dtype).removeprefix("torch."))


def _read_converted(
    sources: Sequence[FrameSource], own: Sequence[Conversion], decoder: DeviceDecoder
) -> "list[tuple[Tensor, Tensor | None]]":
    """Converted values of a few frames on the device and where they are padding.

    Colour has none but its stored values (PS3.3 C.11.1).

    Tables, maps and palettes are applied by the CPU.
    """
    source = sources[0]
    colour = own[0].is_colour(source)
    has_palette = colour and source.samples_per_pixel == 1
    if has_palette or any(one.table is not None for one in own):
        images = [read_image(source, one) for source, one in zip(sources, own, strict=True)]
        put = decoder.device
        return [
            (to_device(array, put), None if padding is None else to_device(padding, put))
            for array, padding in images
        ]
    stored = decoder.read(sources)
    if colour:
        return [(values, None) for values in stored]
    ranges = [None if source.float_pixels else stored_range(source) for source in sources]
    return [
        (to_modality(values, one.rescale, bounds), _padding(values, one.padding))
        for values, one, bounds in zip(stored, own, ranges, strict=True)
    ]


def _padding(stored: "Tensor", ends: tuple[int, int] | None) -> "Tensor | None":
    return None if ends is None else (stored >= ends[0]) & (stored <= ends[1])
