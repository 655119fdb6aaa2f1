"""A Stack as one array of modality values on a known grid: reading, windowing, resampling, reorienting, other formats.

Uncompressed slices are read by positioned reads straight into the array that is returned, by threads, and rescaled
there while they are still in the processor's cache: 128 x 512 x 512 costs little more than reading the bytes. This
module is the door to SimpleITK, which does the resampling and the file formats.
"""

import contextlib
import dataclasses
import functools
import hashlib
import itertools
import json
import math
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from dicomdl import storage
from dicomdl.errors import GeometryError, IntensityError, IrregularStack, StorageError, UsageError, missing_extra
from dicomdl.frame import Frame, FrameSource
from dicomdl.geometry import Geometry
from dicomdl.index import Stack
from dicomdl.intensity import Intensity, IntensityOption, Rescale, apply_rescale, resolve, sample_positions, sample_stride, units_of
from dicomdl.pixels import frame_shape, palette_to_rgb, read_frame, stored_dtype, stored_range
from dicomdl.system import available_cores

Values = npt.NDArray[Any]
Irregular = Literal["raise", "accept"]
Interpolation = Literal["linear", "nearest", "cubic"]

READABLE: Final = frozenset({"regular", "single", "tilted"})  # verdicts whose affine is exact
_SAMPLE_RULE: Final = 1  # counts up when `sample_positions` or `sample_stride` change: kept limits are of one rule
_FORMATS: Final = (".nii.gz", ".nii", ".nrrd", ".nhdr", ".mha", ".mhd")
MAX_VOXELS: Final = 2**33  # of a resampled grid: 16 GiB of int16
MAX_SHEAR: Final = 1e-3  # a cosine between axes up to this is a right angle (the tolerance of `regular`)
RESCALE_COLUMNS: Final = ("rescale_slope", "rescale_intercept", "dose_grid_scaling", "modality_lut_sequence")


@dataclass(frozen=True, slots=True, eq=False)
class Volume:
    """Values on a grid: `array[slice, row, column]` (colour: a last axis of samples) and where its voxels are.

    ``affine @ [slice, row, column, 1]`` is a voxel's centre in LPS mm. `units` are those of the values ("HU",
    "BQML", ...; "1" after a window; "" unknown). `frame` holds the facts of the stack's middle slice, `stack` is where
    the volume came from, None for one from elsewhere.
    """

    array: Values
    geometry: Geometry
    units: str = ""
    frame: Frame | None = None
    stack: Stack | None = None

    @property
    def verdict(self) -> str:
        """The verdict on the stack it came from, "" for a volume from elsewhere; see it before you trust the affine."""
        return self.stack.verdict if self.stack is not None else ""

    @property
    def affine(self) -> npt.NDArray[np.float64]:
        """(4, 4) from (slice, row, column, 1) to LPS mm, read-only."""
        return self.geometry.affine

    @property
    def spacing(self) -> tuple[float, float, float]:
        """(slice, row, column) spacing in mm."""
        return self.geometry.spacing

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the array."""
        return tuple(self.array.shape)

    @property
    def series_instance_uid(self) -> str:
        """Series Instance UID, "" when the volume came from elsewhere."""
        return self.frame.series_instance_uid if self.frame else ""

    @property
    def study_instance_uid(self) -> str:
        """Study Instance UID, "" when the volume came from elsewhere."""
        return self.frame.study_instance_uid if self.frame else ""

    def __repr__(self) -> str:
        shape, spacing = " x ".join(map(str, self.shape)), " x ".join(f"{s:.4g}" for s in self.spacing)
        return (
            f"Volume({shape} {self.array.dtype}, {spacing} mm{', ' + self.units if self.units else ''}"
            f"{'' if self.verdict in ('', *READABLE) else ', ' + self.verdict})"
        )

    def window(self, intensity: IntensityOption | float = "auto", width: float | None = None) -> "Volume":
        """The volume with its values mapped for a network or an eye: float32, mostly in [0, 1].

        ``volume.window("ct.lung")``, ``volume.window(-600, 1500)``, ``volume.window(Percentile(1, 99))``; what
        `resolve` takes. Percentiles are those of the stack that the volume came from, resampled or not.
        """
        option: Any = intensity if width is None else (intensity, width)
        if self.frame is None and option in ("auto", "file"):
            raise UsageError(f"a volume without DICOM facts has no {option!r} window: name a preset or a (center, width)")
        if self.stack is not None:
            recipe = stack_intensity(self.stack, option)
        else:
            recipe = resolve(option, self.frame or _NO_FACTS)
            recipe = recipe.with_sample(_sample(self.array[sample_positions(len(self.array))])) if recipe.needs_sample else recipe
        return dataclasses.replace(self, array=recipe(self.array), units=recipe.units)

    def resample(
        self,
        spacing: Sequence[float] | float | None = None,
        *,
        size: Sequence[int] | None = None,
        interpolation: Interpolation = "linear",
        fill: float | None = None,
    ) -> "Volume":
        """The same field of view on another orthogonal grid; a sheared (tilted) volume loses its shear rightly.

        Parameters
        ----------
        spacing
            (slice, row, column) in mm, or one number for all three.
        size
            (slices, rows, columns). Alone, the field of view is divided into that many voxels; with `spacing`, the
            grid has this size about the same centre, cropped or padded.
        interpolation
            "linear", "nearest" (labels) or "cubic" (B-spline).
        fill
            The value outside of the volume; by default its smallest one.

        Raises
        ------
        GeometryError
            The volume's position is not known, or the new grid is impossible.
        """
        return self.resample_to(_new_grid(self.geometry, spacing, size), interpolation=interpolation, fill=fill)

    def resample_to(self, geometry: Geometry, *, interpolation: Interpolation = "linear", fill: float | None = None) -> "Volume":
        """The volume's values at the voxels of another grid, which may be rotated or sheared against it."""
        _require_known(self.geometry)
        _require_known(geometry)
        array = _interpolate(self.array, self.geometry, geometry, interpolation, fill)
        return dataclasses.replace(self, array=array, geometry=geometry)

    def reorient(self, axes: str = "SPL") -> "Volume":
        """The volume with its axes permuted and flipped so that their indices ascend towards the directions named.

        One letter an axis, in the order of the array: "SPL" is slices to Superior, rows to Posterior, columns to
        Left, the order of an axial series. Oblique axes go to the nearest direction; no value is interpolated and
        the affine, shear included, stays exact.
        """
        _require_known(self.geometry)
        order, flips = _axes_towards(self.geometry, axes)
        array, affine = self.array, np.array(self.affine)
        rest = tuple(range(3, array.ndim))
        array = array.transpose(*order, *rest)
        affine[:, :3] = affine[:, list(order)]
        for axis in flips:
            affine[:, 3] += affine[:, axis] * (array.shape[axis] - 1)
            affine[:, axis] *= -1
            array = np.flip(array, axis)
        shape = (array.shape[0], array.shape[1], array.shape[2])
        return dataclasses.replace(self, array=np.ascontiguousarray(array), geometry=Geometry(shape, affine))

    def to_sitk(self) -> Any:
        """The volume as a SimpleITK image (its index order is column, row, slice; its space is LPS, too).

        Raises
        ------
        GeometryError
            The position is unknown, or the grid is sheared, which an ITK image cannot say: `resample` first.
        """
        sitk = _sitk()
        _require_known(self.geometry)
        if self.geometry.shear > MAX_SHEAR:
            tilt = math.degrees(math.asin(min(1.0, self.geometry.shear)))
            raise GeometryError(f"the slice axis is tilted by {tilt:.2f} degrees: resample() to an orthogonal grid first", tilt_deg=tilt)
        direction = self.geometry.direction[:, ::-1].copy()
        normal = np.cross(direction[:, 0], direction[:, 1])
        direction[:, 2] = normal * np.sign(normal @ direction[:, 2])
        image = sitk.GetImageFromArray(self.array, isVector=self.array.ndim == 4)
        image.SetSpacing(self.spacing[::-1])
        image.SetOrigin(self.geometry.origin)
        image.SetDirection(direction.reshape(-1).tolist())
        return image

    @classmethod
    def from_sitk(cls, image: Any, units: str = "") -> "Volume":
        """A volume from a three-dimensional SimpleITK image; the values are copied."""
        sitk = _sitk()
        if image.GetDimension() != 3:
            raise GeometryError(f"the image has {image.GetDimension()} dimensions, a volume has 3", dimensions=image.GetDimension())
        direction = np.asarray(image.GetDirection()).reshape(3, 3)
        affine = np.eye(4)
        affine[:3, :3] = (direction * np.asarray(image.GetSpacing()))[:, ::-1]
        affine[:3, 3] = image.GetOrigin()
        array = sitk.GetArrayFromImage(image)
        return cls(array, Geometry(array.shape[:3], affine), units)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the volume to a file; the format follows the name: .nii.gz, .nii, .nrrd, .nhdr, .mha or .mhd.

        No DICOM attribute and no identity goes into the file. NIfTI's RAS affine is written by SimpleITK.
        """
        sitk = _sitk()
        target = os.fspath(path)
        if not target.lower().endswith(_FORMATS):
            raise StorageError(f"{target!r} cannot be written: the formats that keep a grid are {', '.join(_FORMATS)}")
        image = self.to_sitk()
        try:
            sitk.WriteImage(image, target, useCompression=True)
        except RuntimeError as error:
            known = os.path.isdir(os.path.dirname(os.path.abspath(target)))
            raise StorageError(f"{target!r} cannot be written: {'no right to write' if known else 'no such folder'}") from error

    def plot(self, intensity: IntensityOption = "auto", slices: int = 9) -> Any:
        """A matplotlib figure of evenly spaced slices in their true proportions (needs the extra `notebook`)."""
        try:
            import matplotlib.pyplot as plt
        except ImportError:
            raise missing_extra("Volume.plot()", "matplotlib", "notebook") from None
        shown = self.window(intensity) if self.array.dtype != np.float32 or self.units != "1" else self
        positions = _evenly_spaced(len(self.array), slices)
        columns = math.ceil(math.sqrt(len(positions)))
        figure = plt.figure(figsize=(2.4 * columns, 2.4 * math.ceil(len(positions) / columns)), layout="tight")
        plt.close(figure)  # a notebook then shows what is returned, once, and pyplot keeps nothing
        for number, position in enumerate(positions, 1):
            axes = figure.add_subplot(math.ceil(len(positions) / columns), columns, number)
            aspect = self.spacing[1] / self.spacing[2] if np.isfinite(self.spacing[1:]).all() else 1.0
            axes.imshow(shown.array[position], cmap="gray", vmin=0, vmax=1, aspect=aspect)
            axes.set_title(f"slice {position}", fontsize=8)
            axes.axis("off")
        return figure


def _sitk() -> Any:
    """SimpleITK, imported when first needed (0.2 s); Any, because its types are incomplete."""
    import SimpleITK

    return SimpleITK


_NO_FACTS: Final = Frame(path="", frame_number=1, byte_offset=0, byte_length=0, file_bytes=0, file_mtime_ns=-1)


# --- reading ----------------------------------------------------------------------------------------------------------


def read_volume(stack: Stack, *, irregular: Irregular = "raise", dtype: npt.DTypeLike | None = None, threads: int | None = None) -> Volume:
    """Read a stack as modality values (HU for CT) on its grid.

    Parameters
    ----------
    stack
        From ``index.stacks``.
    irregular
        What to do with a stack whose slices do not make a grid: "raise" an IrregularStack with the numbers, or "accept"
        the slices as they lie (the affine then holds on average only, or is NaN without geometry).
    dtype
        int16, int32 or float32; by default int16 when all values fit exactly, else int32, else float32 (which every
        stack with a fractional slope or intercept gets). Colour stays uint8 (or uint16).
    threads
        Threads that read and decode; by default one a core.

    Returns
    -------
    Volume
        array (slice, row, column[, sample]), a new array that the caller owns.

    Raises
    ------
    IrregularStack
        The verdict is not regular, single or tilted; attributes `verdict` and `detail`.
    PixelError
        A frame cannot be read; its file and frame number are noted. Never a volume with holes.
    IntensityError
        A rescale that is no number, or values that do not fit the `dtype` asked for.
    """
    if irregular not in ("raise", "accept"):
        raise UsageError(f"irregular={irregular!r}: expected 'raise' or 'accept'")
    verdict = stack.verdict
    if irregular == "raise" and verdict not in READABLE:
        numbers = ", ".join(f"{key} {value}" for key, value in stack.detail.items())
        message = f"the stack is {verdict} ({numbers}): pass irregular='accept' to take it as it lies"
        error = IrregularStack(message, verdict=verdict, detail=stack.detail)
        error.add_note(f"series: {stack.series_instance_uid}")
        raise error
    middle = stack.middle
    array = read_modality(stack.sources, rescales(stack), dtype=dtype, threads=threads, palettes=stack.content == "image")
    return Volume(array, stack.geometry, units_of(middle), middle, stack)


def rescales(stack: Stack) -> list[Rescale]:
    """Each slice's own rescale, never the first one's for all; an IntensityError where a slice has none that counts."""
    columns = [stack.values(name) for name in RESCALE_COLUMNS]
    return [rescale_of(values) for values in zip(*columns, strict=True)]


@functools.lru_cache(maxsize=4096)
def rescale_of(values: tuple[Any, ...]) -> Rescale:
    """The rescale of a frame with these values of `RESCALE_COLUMNS`."""
    return Rescale.from_frame(SimpleNamespace(**dict(zip(RESCALE_COLUMNS, values, strict=True))))  # type: ignore[arg-type]


def read_modality(
    sources: Sequence[FrameSource],
    rescales: Sequence[Rescale],
    *,
    dtype: npt.DTypeLike | None = None,
    threads: int | None = None,
    palettes: bool = True,
) -> Values:
    """Frames of one size as one array of modality values (frame, row, column[, sample]); see `read_volume`.

    `palettes` expands PALETTE COLOR to RGB; label maps keep their labels, whose palette only is a suggestion to viewers.
    """
    shapes = {frame_shape(source) for source in sources}
    if len(shapes) != 1:
        raise GeometryError(f"the frames have different sizes: {sorted(shapes)}", shapes=sorted(shapes))
    shape = (len(sources), *shapes.pop())
    if sources[0].samples_per_pixel > 1 or (palettes and sources[0].photometric_interpretation == "PALETTE COLOR"):
        return _read_colour(sources, shape, dtype, threads)
    wanted = _candidates(sources, rescales) if dtype is None else [np.dtype(dtype)]
    for number, candidate in enumerate(wanted):
        if candidate not in (np.int16, np.int32, np.float32):
            raise UsageError(f"dtype is {candidate}: expected int16, int32 or float32")
        array = np.empty(shape, candidate)  # every frame is filled whole, or the read raises
        try:
            _in_threads(functools.partial(_fill, sources, rescales, array), len(sources), threads)
        except IntensityError as error:
            if number + 1 == len(wanted) or not hasattr(error, "minimum"):
                raise
            continue
        return array
    raise AssertionError("the last candidate returns or raises")


def _candidates(sources: Sequence[FrameSource], rescales: Sequence[Rescale]) -> list[np.dtype[Any]]:
    """The dtypes to try, narrowest first: whether values fit is seen while reading them."""
    if all(rescale.is_integral for rescale in set(rescales)) and not any(source.float_pixels for source in sources):
        return [np.dtype(np.int16), np.dtype(np.int32), np.dtype(np.float32)]
    return [np.dtype(np.float32)]


def _fill(sources: Sequence[FrameSource], rescales: Sequence[Rescale], array: Values, number: int) -> None:
    """Read one frame into its place and rescale it there; frames of another width take a detour through their own array."""
    source, rescale, place = sources[number], rescales[number], array[number]
    try:
        dtype = stored_dtype(source)
        if dtype.kind in "iu" and dtype.itemsize == place.dtype.itemsize and place.dtype.kind in "iu":
            stored = read_frame(source, out=place.view(dtype))
        else:
            stored = read_frame(source)
        bounds = None if dtype.kind == "f" else stored_range(source)
        apply_rescale(stored, rescale.slope, rescale.intercept, place, stored_range=bounds)
    except IntensityError as error:
        error.add_note(f"file: {source.path}, frame {source.frame_number}")
        raise


def _read_colour(sources: Sequence[FrameSource], shape: tuple[int, ...], dtype: npt.DTypeLike | None, threads: int | None) -> Values:
    """Frames of colour as they are stored; PALETTE COLOR becomes RGB of 8 bits."""
    stored = stored_dtype(sources[0])
    palette = sources[0].photometric_interpretation == "PALETTE COLOR"
    if any(stored_dtype(source) != stored for source in sources):
        raise UsageError("the frames hold colour of different depths, which makes no one array")
    result = np.dtype(np.uint8) if palette else stored
    if dtype is not None and np.dtype(dtype) != result:
        raise UsageError(f"colour is read as {result}: it has no modality values")
    array = np.empty(shape, stored)

    def fill(number: int) -> None:
        read_frame(sources[number], out=array[number])

    _in_threads(fill, len(sources), threads)
    return _expand_palettes(array, sources) if palette else array


def _expand_palettes(indices: Values, sources: Sequence[FrameSource]) -> Values:
    """(frame, row, column, 3) uint8 from indices; each file has its own look-up tables."""
    rgb = np.empty((*indices.shape, 3), np.uint8)
    for path in {source.path for source in sources}:
        mine = [number for number, source in enumerate(sources) if source.path == path]
        colours = palette_to_rgb(indices[mine], path)
        rgb[mine] = colours if colours.dtype == np.uint8 else np.rint(colours / 257).astype(np.uint8)  # 65535 / 257 = 255
    return rgb


def _in_threads(work: Callable[[int], None], count: int, threads: int | None) -> None:
    """Do work(0) ... work(count - 1) on some threads; the first error ends it."""
    workers = min(count, available_cores() if threads is None else threads)
    if workers < 1:
        raise UsageError(f"threads is {threads}, expected at least 1", threads=threads)
    if workers == 1:
        for number in range(count):
            work(number)
        return

    def share(first: int) -> None:
        for number in range(first, count, workers):
            work(number)

    with ThreadPoolExecutor(workers) as pool:
        for done in [pool.submit(share, first) for first in range(workers)]:
            done.result()


def read_image(source: FrameSource, rescale: Rescale, *, palettes: bool = True) -> Values:
    """One frame as modality values, (rows, columns); colour as `read_volume` gives it, (rows, columns, samples)."""
    return np.asarray(read_modality([source], [rescale], threads=1, palettes=palettes)[0])


# --- intensities of a stack -------------------------------------------------------------------------------------------


def stack_intensity(stack: Stack, option: IntensityOption) -> Intensity:
    """What `option` means for a stack, percentiles computed: from its middle slice and its fixed sample.

    The limits of percentiles are kept in memory and in the cache folder, so that every worker of every run maps a
    value of this stack alike and reads the sample at most once.
    """
    recipe = resolve(option, stack.middle)
    if not recipe.needs_sample:
        return recipe
    percentile: Any = recipe.mapping
    lower, upper = _kept_limits(stack, percentile)
    return dataclasses.replace(recipe, mapping=percentile.with_limits(lower, upper))


@functools.lru_cache(maxsize=1024)
def _kept_limits(stack: Stack, percentile: Any) -> tuple[float, float]:
    name = hashlib.blake2b(repr((_SAMPLE_RULE, stack.key[1:], percentile)).encode(), digest_size=16).hexdigest()
    try:
        path = os.path.join(storage.cache_folder("limits"), f"{name}.json")
        with open(path, "rb") as file:
            lower, upper = json.load(file)
        return float(lower), float(upper)
    except (OSError, ValueError, TypeError):  # StorageError among them: a cache that cannot be used costs time, not the epoch
        lower, upper = percentile.limits(stack_sample(stack))
    with contextlib.suppress(StorageError):
        storage.write_whole(os.path.join(storage.cache_folder("limits"), f"{name}.json"), json.dumps([lower, upper]).encode())
    return lower, upper


def stack_sample(stack: Stack) -> Values:
    """The fixed sample of a stack's modality values that percentiles are computed from (see `Percentile`)."""
    chosen = sample_positions(stack.slices).tolist()
    every = rescales(stack)
    palettes = stack.content == "image"
    return _sample(read_modality([stack.source(i) for i in chosen], [every[i] for i in chosen], palettes=palettes))


def _sample(frames: Values) -> Values:
    stride = sample_stride(frames.shape[1], frames.shape[2], len(frames))
    return frames[:, ::stride, ::stride]


# --- grids ------------------------------------------------------------------------------------------------------------


def _require_known(geometry: Geometry) -> None:
    if not geometry.is_known:
        raise GeometryError("the position or orientation of this volume is not known, so it has no place in space")


def _new_grid(old: Geometry, spacing: Sequence[float] | float | None, size: Sequence[int] | None) -> Geometry:
    """An orthogonal grid about the same centre, along the old rows and columns."""
    _require_known(old)
    direction = old.direction.copy()
    normal = np.cross(direction[:, 2], direction[:, 1])
    direction[:, 0] = normal * (np.sign(normal @ direction[:, 0]) or 1.0)
    direction[:, 1] = np.cross(np.cross(direction[:, 2], direction[:, 1]), direction[:, 2])
    extent = _extent(old, direction)
    shape = None if size is None else _three(size, f"a size is (slices, rows, columns), found {size}").astype(int)
    if spacing is not None:
        new_spacing = _three(spacing, f"a spacing is one or three positive numbers in mm, found {spacing}")
    elif shape is not None:
        new_spacing = extent / shape
    else:  # a tilted slice axis is longer than the distance of its slices
        new_spacing = np.asarray(old.spacing) * np.abs((old.direction * direction).sum(axis=0))
    if shape is None:
        shape = np.maximum(1, np.rint(extent / new_spacing)).astype(int)
    if float(np.prod(shape.astype(np.float64))) > MAX_VOXELS:
        raise GeometryError(f"a grid of {' x '.join(map(str, shape))} voxels is too large", voxels=MAX_VOXELS)
    affine = np.eye(4)
    affine[:3, :3] = direction * new_spacing
    affine[:3, 3] = old.center - affine[:3, :3] @ ((shape - 1) / 2)
    return Geometry((int(shape[0]), int(shape[1]), int(shape[2])), affine)


def _three(given: Any, expected: str) -> npt.NDArray[np.float64]:
    """Three positive numbers, or a GeometryError that says what was expected."""
    try:
        numbers = np.array(np.broadcast_to(np.asarray(given, dtype=np.float64), 3))
    except (TypeError, ValueError):
        raise GeometryError(expected) from None
    if not (np.isfinite(numbers).all() and (numbers > 0).all()):
        raise GeometryError(expected)
    return numbers


def _extent(geometry: Geometry, direction: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """(3,) mm that the voxels, edges included, span along each direction."""
    sides = geometry.affine[:3, :3] * np.asarray(geometry.shape)
    return np.asarray(np.abs(direction.T @ sides).sum(axis=1))


def _interpolate(array: Values, old: Geometry, new: Geometry, interpolation: Interpolation, fill: float | None) -> Values:
    """Values of `array` at the voxels of `new`, by SimpleITK in index space, so that any affine, sheared too, is exact."""
    sitk = _sitk()
    _check_fill(fill, array.dtype)
    choices = {"linear": sitk.sitkLinear, "nearest": sitk.sitkNearestNeighbor, "cubic": sitk.sitkBSpline}
    if interpolation not in choices:
        raise UsageError(f"interpolation={interpolation!r}: expected one of {', '.join(choices)}")
    new_to_old = np.linalg.inv(old.affine) @ new.affine
    matrix = new_to_old[2::-1, 2::-1]  # ITK counts (column, row, slice)
    transform = sitk.AffineTransform(matrix.reshape(-1).tolist(), new_to_old[2::-1, 3].tolist())
    # ITK truncates when it interpolates integers, half a unit too low on average: interpolate floats and round.
    exact = interpolation == "nearest" or array.dtype.kind == "f"
    image = sitk.GetImageFromArray(array if exact else array.astype(_exact_float(array.dtype)), isVector=array.ndim == 4)
    resampler = sitk.ResampleImageFilter()
    resampler.SetSize([int(n) for n in new.shape[::-1]])
    resampler.SetTransform(transform)
    resampler.SetInterpolator(choices[interpolation])
    resampler.SetDefaultPixelValue(float(array.min() if fill is None else fill))
    values = np.asarray(sitk.GetArrayFromImage(resampler.Execute(image)))
    if exact:
        return values
    limits = np.iinfo(array.dtype)
    return np.clip(np.rint(values, out=values), limits.min, limits.max, out=values).astype(array.dtype)


def _check_fill(fill: float | None, dtype: np.dtype[Any]) -> None:
    if fill is None or dtype.kind == "f":
        return
    limits = np.iinfo(dtype)
    if not (float(fill).is_integer() and limits.min <= fill <= limits.max):
        raise UsageError(f"fill={fill} does not fit {dtype}", fill=fill)


def _exact_float(dtype: np.dtype[Any]) -> type[np.floating[Any]]:
    """The float type that holds every integer of a dtype."""
    return np.float32 if dtype.itemsize <= 2 else np.float64


def _axes_towards(geometry: Geometry, axes: str) -> tuple[tuple[int, int, int], list[int]]:
    """(old axis for each new axis, new axes to flip) so that index axes go to the directions named."""
    named = {"L": (0, 1), "R": (0, -1), "P": (1, 1), "A": (1, -1), "S": (2, 1), "I": (2, -1)}
    letters = [named[letter] for letter in axes.upper() if letter in named]
    if len(axes) != 3 or sorted(world for world, _ in letters) != [0, 1, 2]:
        raise UsageError(f"axes={axes!r}: expected one letter of each pair L/R, A/P, S/I, such as 'SPL'", axes=axes)
    direction = geometry.direction
    best = max(itertools.permutations(range(3)), key=lambda p: sum(abs(direction[world, axis]) for world, axis in enumerate(p)))
    order = (best[letters[0][0]], best[letters[1][0]], best[letters[2][0]])
    flips = [new for new, (world, sign) in enumerate(letters) if direction[world, best[world]] * sign < 0]
    return order, flips


# --- pictures ---------------------------------------------------------------------------------------------------------


def _evenly_spaced(length: int, count: int) -> npt.NDArray[np.int64]:
    """At most `count` places in [0, length), first and last among them."""
    return np.unique(np.linspace(0, length - 1, max(1, min(count, length))).round().astype(np.int64))


def montage(volume: Volume, slices: int = 16, intensity: IntensityOption = "auto") -> npt.NDArray[np.uint8]:
    """Evenly spaced slices side by side as one grey (rows, columns) or RGB (rows, columns, 3) picture, uint8."""
    values = volume.window(intensity).array
    positions = _evenly_spaced(len(values), slices)
    across = math.ceil(math.sqrt(len(positions)))
    down = math.ceil(len(positions) / across)
    rows, columns = values.shape[1:3]
    sheet = np.zeros((down * rows, across * columns, *values.shape[3:]), dtype=np.uint8)
    for number, position in enumerate(positions):
        top, left = divmod(number, across)
        tile = np.clip(values[position], 0, 1) * 255
        sheet[top * rows : (top + 1) * rows, left * columns : (left + 1) * columns] = np.rint(tile).astype(np.uint8)
    return sheet


def write_png(path: str | os.PathLike[str], picture: npt.NDArray[np.uint8]) -> None:
    """Write an 8-bit grey or RGB picture."""
    sitk = _sitk()
    try:
        sitk.WriteImage(sitk.GetImageFromArray(picture, isVector=picture.ndim == 3), os.fspath(path))
    except RuntimeError as error:
        raise StorageError(f"{os.fspath(path)!r} cannot be written: no such folder, or no right to write") from error
