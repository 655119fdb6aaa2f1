"""Volumes out of files of other formats than DICOM."""

import math
import os
from dataclasses import dataclass

from dicomdl.arrays import Values
from dicomdl.errors import StorageError
from dicomdl.geometry.grid import Geometry
from dicomdl.volumes._nifti_images import read_nifti
from dicomdl.volumes.nifti import stem_of
from dicomdl.volumes.resampling import FORMATS, TIME_STEP, UNITS, from_image, read_image


@dataclass(frozen=True, slots=True, eq=False)
class Loaded:
    """What a file has of a volume; see the parameters of `Volume`."""

    array: Values
    geometry: Geometry
    units: str
    times: tuple[float, ...]
    names: tuple[str, ...]


def load_image(path: str) -> Loaded:
    """Read a file as `Volume.load` documents it."""
    if not path.lower().endswith(FORMATS):
        raise StorageError(
            f"{path!r} cannot be loaded: the formats are {', '.join(FORMATS)}; DICOM is read by "
            "dicomdl.scan and read_volume"
        )
    if not os.path.isfile(path):
        raise StorageError(f"{path!r} cannot be loaded: no such file")
    if stem_of(path) is not None:
        made = read_nifti(path)
        count = len(made.array) if made.is_series else 0
        return Loaded(made.array, made.geometry, made.units, *_time_axis(count, made.step_s))
    image = read_image(path)
    array, geometry, times = from_image(image)
    stated = {name: image.GetMetaData(name) for name in image.GetMetaDataKeys()}
    if times and TIME_STEP in stated:
        times, names = _time_axis(len(times), float(stated[TIME_STEP]))
    else:
        names = ("t",) if times else ()
    return Loaded(array, geometry, stated.get(UNITS, ""), times, names)


def _time_axis(count: int, step_s: float) -> tuple[tuple[float, ...], tuple[str, ...]]:
    """Return the coordinates of a leading axis and its name; both are () without one."""
    if not count:
        return (), ()
    if math.isnan(step_s):
        return tuple(map(float, range(count))), ("t",)
    return tuple(step_s * number for number in range(count)), ("time_s",)
