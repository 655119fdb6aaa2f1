"""Files of a volume, which appear complete and together, or not at all."""

import math
import os
from collections.abc import Callable, Mapping

from dicomdl.errors import StorageError
from dicomdl.storage.publishing import put_together
from dicomdl.volumes._diffusion import gradient_files_of
from dicomdl.volumes._facts import VolumeFacts
from dicomdl.volumes._nifti_images import NiftiImage, write_nifti
from dicomdl.volumes.nifti import stem_of
from dicomdl.volumes.resampling import (
    TIME_STEP,
    UNITS,
    require_format,
    require_known,
    to_image,
    write_image,
)


def saved(volume: VolumeFacts, path: str) -> str:
    """Save a volume as `Volume.save` documents it, and return the path."""
    require_format(path)
    require_known(volume.geometry)
    is_series, step, is_nifti = bool(volume.dimension), volume.time_step_s, bool(stem_of(path))
    if is_nifti:
        part = NiftiImage(volume.array, volume.geometry, is_series, step, volume.units)
        beside = gradient_files_of(volume.stacks, volume.geometry)
        _publish(lambda inside: write_nifti(part, inside), path, beside)
        return path
    image = to_image(
        volume.array,
        volume.geometry,
        series=is_series,
        step=1.0 if math.isnan(step) else step,
    )
    stated = {UNITS: volume.units, TIME_STEP: "" if math.isnan(step) else repr(step)}
    for name, value in stated.items():
        if value:
            image.SetMetaData(name, value)
    _publish(lambda inside: write_image(image, inside), path, {})
    return path


def _publish(write: Callable[[str], None], path: str, beside: Mapping[str, str]) -> None:
    """Write an image, and texts beside it under its name with other suffixes.

    Existing files of these names are replaced. Only the owner may read them.

    Raises
    ------
    StorageError
        The folder is absent, or cannot be written to.
    """
    if not os.path.isdir(os.path.dirname(os.path.abspath(path))):
        raise StorageError(f"{path!r} cannot be written: no such folder")
    with put_together(path) as inside:
        write(inside)
        for suffix, text in beside.items():
            with open(f"{stem_of(inside)}{suffix}", "w", encoding="ascii", newline="\n") as file:
                file.write(text)
