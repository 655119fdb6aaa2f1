"""Pictures of volumes as 8-bit arrays, and PNG files of them.

Values are windowed by the same rule as for networks ("auto" by default).
"""

import math
import os

import numpy as np
import numpy.typing as npt

from dicomdl.errors import StorageError
from dicomdl.values.request import IntensityOption
from dicomdl.volumes._figures import pictured
from dicomdl.volumes._shown import shown_intensity
from dicomdl.volumes.resampling import simpleitk
from dicomdl.volumes.volume import Volume


def montage(
    volume: Volume, slices: int = 16, intensity: IntensityOption = "auto"
) -> npt.NDArray[np.uint8]:
    """Tile evenly spaced slices into one picture.

    For the volume of a group, the tiles are its middle slice at evenly spaced time points.

    Returns
    -------
    numpy.ndarray
        uint8, grey (rows, columns) or RGB (rows, columns, 3).
    """
    request = shown_intensity(volume.quantity, intensity)
    values = volume.window(request, suv="if_possible").array
    chosen = pictured(volume.shape, slices, series=bool(volume.dimension))
    indices = [index for _, index in chosen]
    across = math.ceil(math.sqrt(len(indices)))
    down = math.ceil(len(indices) / across)
    rows, columns, *samples = values[indices[0]].shape
    sheet = np.zeros((down * rows, across * columns, *samples), dtype=np.uint8)
    for number, index in enumerate(indices):
        top, left = divmod(number, across)
        tile = np.clip(values[index], 0, 1) * 255
        sheet[top * rows : (top + 1) * rows, left * columns : (left + 1) * columns] = np.rint(
            tile
        ).astype(np.uint8)
    return sheet


def write_png(path: str | os.PathLike[str], picture: npt.NDArray[np.uint8]) -> None:
    """Write an 8-bit grey or RGB picture."""
    sitk = simpleitk()
    try:
        sitk.WriteImage(
            sitk.GetImageFromArray(picture, isVector=picture.ndim == 3), os.fspath(path)
        )
    except RuntimeError as error:
        raise StorageError(
            f"{os.fspath(path)!r} cannot be written: no such folder, or no permission to write"
        ) from error
