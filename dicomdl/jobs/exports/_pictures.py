"""Frames as pictures: encoded pixels, and the window that leads back to values."""

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from dicomdl.errors import UsageError
from dicomdl.values.formulas import Ramp
from dicomdl.values.intensity import Intensity

SUFFIXES: Final = {"png": ".png", "png16": ".png", "jpeg": ".jpg"}
# Quality of JPEG, and effort of PNG: a fifth of the time of the default for 5 % more bytes.
_JPEG_QUALITY: Final = 95
_PNG_LEVEL: Final = 3
_BYTE: Final = 255
_WORD: Final = 65535
# Modality values in 16 bits count from here.
_LOWEST: Final = -32768


def pixels_of(
    image: npt.NDArray[np.float32], picture: str, *, are_values: bool
) -> npt.NDArray[Any]:
    """Return the pixels of a frame, (H, W) or (H, W, 3), uint8 or uint16.

    Parameters
    ----------
    image
        (C, H, W): network values, of which 0 to 1 are shown, or modality values.
    picture
        "png", "png16" or "jpeg".
    are_values
        Whether these are modality values, which 16 bits hold from -32768 to 32767.

    Raises
    ------
    UsageError
        Values do not fit, or the image has another number of channels than 1 or 3.
    """
    if len(image) not in (1, 3):
        raise UsageError(f"a picture has 1 or 3 channels, found {len(image)}")
    planes = image[0] if len(image) == 1 else np.moveaxis(image, 0, -1)
    if are_values:
        pixels = np.rint(planes) - _LOWEST
        low, high = float(pixels.min(initial=0)), float(pixels.max(initial=0))
        if not (low >= 0 and high <= _WORD):
            raise UsageError(
                f"values from {low + _LOWEST:g} to {high + _LOWEST:g} do not fit 16 bits: pass an "
                "intensity, such as a window"
            )
        return np.asarray(pixels, np.uint16)
    most = _WORD if picture == "png16" else _BYTE
    shown = np.clip(np.nan_to_num(planes), 0, 1)
    dtype = np.uint16 if most == _WORD else np.uint8
    return np.asarray(np.rint(shown * np.float32(most)), dtype)


def encoded(pixels: npt.NDArray[Any], picture: str) -> bytes:
    """Return the bytes of a picture."""
    import imagecodecs

    values = np.ascontiguousarray(pixels)
    if picture == "jpeg":
        return bytes(imagecodecs.jpeg8_encode(values, level=_JPEG_QUALITY))
    return bytes(imagecodecs.png_encode(values, level=_PNG_LEVEL))


def window_of(recipe: Intensity, *, are_values: bool) -> dict[str, Any]:
    """Return what leads from pixels back to values, as columns of a table.

    ``value = low + pixel / highest * (high - low)``, where `highest` is 255, or 65535 for 16 bits;
    `low` is above `high` in a picture that is inverted. None where the map is no line, or where it
    depends on the pixels of the frame.
    """
    low: float | None = None
    high: float | None = None
    if are_values:
        low, high = float(_LOWEST), float(_LOWEST + _WORD)
    elif isinstance(recipe.formula, Ramp):
        low, high = recipe.formula.lower, recipe.formula.lower + recipe.formula.width
        if recipe.invert:
            low, high = high, low
    return {"low": low, "high": high, "intensity": repr(recipe.mapping)}
