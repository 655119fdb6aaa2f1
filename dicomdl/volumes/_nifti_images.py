"""NIfTI images of volumes, written and read by nibabel. The only module that imports it.

nibabel writes any affine into the sform, also one with the shear of a gantry tilt, which SimpleITK
can neither write nor read. NIfTI counts voxels as (column, row, slice, t) in RAS mm.
"""

import contextlib
import io
import math
import os
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from dicomdl.arrays import Floats, Values
from dicomdl.errors import GeometryError, StorageError
from dicomdl.geometry.grid import Geometry
from dicomdl.pixels.gzip import gzipped
from dicomdl.storage import publishing as storage
from dicomdl.volumes.nifti import stem_of
from dicomdl.volumes.resampling import MAX_SHEAR, require_known

# nifti1.h: codes of qform and sform for scanner coordinates, and of an intent with samples.
_SCANNER: Final = 1
_LPS: Final = np.diag([-1.0, -1.0, 1.0, 1.0])
_UNITS: Final = "units "
# Factors onto mm and s of the units of xyzt_units.
_MM: Final = {"meter": 1000.0, "micron": 0.001}
_SECONDS: Final = {"sec": 1.0, "msec": 1e-3, "usec": 1e-6}


@dataclass(frozen=True, slots=True, eq=False)
class NiftiImage:
    """What a NIfTI file has of a volume.

    Attributes
    ----------
    array
        (slice, row, column[, sample]), with a leading axis of time points in a series.
    geometry
        The grid; its affine is NaN where the file has neither an sform nor a qform.
    is_series
        Whether there is the leading axis.
    step_s
        Time between the volumes of a series, s; NaN where unknown.
    units
        Units of the values; "" where unknown.
    """

    array: Values
    geometry: Geometry
    is_series: bool
    step_s: float
    units: str


def nibabel() -> Any:
    """Import nibabel at its first use (0.1 s)."""
    import nibabel

    return nibabel


def write_nifti(image: NiftiImage, path: str) -> None:
    """Write a file, which is compressed if the name says so.

    The affine is in the sform. The qform has it too, unless it has a shear, which no qform
    expresses: its code is 0 then. NIfTI has no bool, whose values become uint8, and no float16.

    Raises
    ------
    GeometryError
        The position of the volume is unknown.
    StorageError
        The format cannot hold the array.
    """
    with _held(image):
        made = _made(image)
        if path.lower().endswith(".gz"):
            folder, name = os.path.split(path)
            storage.write_files(folder, [(name, gzipped(_in_memory(made)))])
        else:
            # nibabel writes mixed case as lower case.
            stem = stem_of(path) or path
            written = stem + path[len(stem) :].lower()
            made.to_filename(written)
            os.replace(written, path)


def nifti_bytes(image: NiftiImage) -> memoryview:
    """Return the bytes of an uncompressed file.

    Raises
    ------
    GeometryError, StorageError
        As for `write_nifti`.
    """
    with _held(image):
        return _in_memory(_made(image))


@contextlib.contextmanager
def _held(image: NiftiImage) -> Iterator[None]:
    """Say what NIfTI cannot hold."""
    nib = nibabel()
    try:
        yield
    except (nib.spatialimages.HeaderDataError, nib.spatialimages.HeaderTypeError) as error:
        raise StorageError(f"NIfTI cannot hold {image.array.dtype} {image.array.shape}") from error


def _made(image: NiftiImage) -> Any:
    """Return the image of nibabel."""
    require_known(image.geometry)
    affine = _to_ras(image.geometry.affine)
    values = _stored(image.array, is_series=image.is_series)
    made = nibabel().Nifti1Image(values, affine, dtype=values.dtype)
    is_sheared = image.geometry.shear > MAX_SHEAR
    made.set_sform(affine, _SCANNER)
    made.set_qform(None if is_sheared else affine, 0 if is_sheared else _SCANNER)
    _state_time(made.header, image)
    if values.ndim == 5:
        made.header.set_intent("vector")
    units = f"{_UNITS}{image.units}".encode("ascii", "ignore")
    made.header["descrip"] = units if image.units and len(units) < 80 else b""
    return made


class _Memory(io.RawIOBase):
    """A new file in memory, of a known size. NumPy fills it without the interpreter lock."""

    def __init__(self, size: int) -> None:
        self.content = np.empty(size, np.uint8)
        self._place = 0

    def write(self, data: Any) -> int:
        end = self._place + len(data)
        self.content[self._place : end] = np.frombuffer(data, np.uint8)
        self._place = end
        return len(data)

    def seek(self, place: int, whence: int = io.SEEK_SET) -> int:
        assert whence == io.SEEK_SET
        self._place = place
        return place

    def tell(self) -> int:
        return self._place


def _in_memory(made: Any) -> memoryview:
    """Return the bytes of an image of nibabel, whose own compression takes three times as long."""
    whole = _Memory(made.header.single_vox_offset + made.dataobj.nbytes)
    made.to_file_map({"image": nibabel().FileHolder(fileobj=whole)})
    return whole.content.data


def _state_time(header: Any, image: NiftiImage) -> None:
    if not image.is_series:
        header.set_xyzt_units("mm")
        return
    is_known = not math.isnan(image.step_s)
    header.set_xyzt_units("mm", "sec" if is_known else "unknown")
    # Also a step of 0, which is what nifti1.h has for an unknown one.
    header["pixdim"][4] = image.step_s if is_known else 0.0


def _stored(array: Values, *, is_series: bool) -> Values:
    """Return (column, row, slice[, t[, sample]]) in a type of NIfTI; RGB as its own type."""
    if array.dtype == np.bool_:
        array = array.astype(np.uint8)
    elif array.dtype == np.float16:
        array = array.astype(np.float32)
    if array.ndim == (4 if is_series else 3):
        return array.T
    samples = array.shape[-1]
    if array.dtype == np.uint8 and samples in (3, 4):
        names = "RGBA"[:samples]
        colour = np.dtype([(name, np.uint8) for name in names])
        return np.ascontiguousarray(array).view(colour)[..., 0].T
    # Samples are the fifth dimension, behind that of time.
    first = np.moveaxis(array, -1, 0)
    return np.asarray((first if is_series else first[:, None]).T)


def read_nifti(path: str) -> NiftiImage:
    """Read a file; scaled values become float32.

    Raises
    ------
    StorageError
        The file is damaged, or is not NIfTI.
    GeometryError
        It has more dimensions than a series of volumes.
    """
    nib = nibabel()
    try:
        image = _opened(path)
        stored = np.asanyarray(image.dataobj)
    except (
        OSError,
        EOFError,
        ValueError,
        zlib.error,
        nib.filebasedimages.ImageFileError,
        nib.spatialimages.HeaderDataError,
    ) as error:
        raise StorageError(f"{path!r} is no complete NIfTI file: {type(error).__name__}") from error
    header = image.header
    is_scaled = image.dataobj.slope not in (1, 0) or image.dataobj.inter != 0
    array, is_series = _array(stored.astype(np.float32) if is_scaled else stored)
    space, time = header.get_xyzt_units()
    # The decimal that float32 stands for: 0.72, not 0.7200000286.
    step_s = float(str(header["pixdim"][4])) * _SECONDS.get(time, math.nan)
    is_placed = int(header["sform_code"]) > 0 or int(header["qform_code"]) > 0
    affine = _to_lps(image.affine) if is_placed else np.full((4, 4), np.nan)
    affine[:3] *= _MM.get(space, 1.0)
    shape = array.shape[1:4] if is_series else array.shape[:3]
    described = re.fullmatch(
        rf"{_UNITS}(\S.*)", header["descrip"].item().decode("ascii", "replace")
    )
    return NiftiImage(
        array,
        Geometry((shape[0], shape[1], shape[2]), affine),
        is_series,
        step_s if is_series and step_s > 0 else math.nan,
        described[1] if described else "",
    )


def _opened(path: str) -> Any:
    """Open a file of NIfTI-1 or NIfTI-2; `nibabel.load` wants a suffix in one case."""
    nib = nibabel()
    for kind in (nib.Nifti1Image, nib.Nifti2Image):
        if kind.path_maybe_image(path)[0]:
            return kind.from_file_map({"image": nib.FileHolder(filename=path)}, mmap=False)
    raise nib.filebasedimages.ImageFileError("neither NIfTI-1 nor NIfTI-2")


def _array(stored: Values) -> tuple[Values, bool]:
    """Return the values in the order of a volume, and whether they have a leading axis."""
    if stored.dtype.names:
        colour = np.ascontiguousarray(stored.T)
        samples = len(stored.dtype.names)
        array = colour.view(np.uint8).reshape(*colour.shape, samples)
        return array, stored.ndim > 3
    while stored.ndim < 3:
        stored = stored[..., None]
    while stored.ndim > 5 and stored.shape[-1] == 1:
        stored = stored[..., 0]
    if stored.ndim > 5 or (stored.ndim == 5 and stored.shape[3] < 1):
        raise GeometryError(
            f"the file has {stored.ndim} dimensions: expected volumes, over time and with samples",
            dimensions=stored.ndim,
        )
    array = stored.T
    if stored.ndim == 5:
        array = np.moveaxis(array, 0, -1)
        array = array[0] if len(array) == 1 else array
    native = array.dtype.newbyteorder("=")
    return np.ascontiguousarray(array, dtype=native), array.ndim - (stored.ndim == 5) > 3


def _to_ras(affine: Floats) -> Floats:
    """Return the affine of (column, row, slice) in RAS mm."""
    return np.asarray(_LPS @ affine[:, [2, 1, 0, 3]])


def _to_lps(affine: Floats) -> Floats:
    """Return the affine of (slice, row, column) in LPS mm."""
    return np.asarray(_LPS @ affine)[:, [2, 1, 0, 3]]
