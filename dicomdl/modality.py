"""Frames as one array of modality values (HU for CT): read, decoded and rescaled, each by its own rescale, in the narrowest dtype.

Uncompressed frames are read by positioned reads straight into the array that is returned, by threads, and rescaled
there while they are still in the processor's cache: 128 x 512 x 512 costs little more than reading the bytes.
"""

import functools
import itertools
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from dicomdl.errors import GeometryError, IntensityError, UsageError
from dicomdl.frame import FrameSource
from dicomdl.index import Stack
from dicomdl.intensity import Rescale, apply_rescale
from dicomdl.pixels import frame_shape, palette_to_rgb, read_frame, read_tiles, same_mosaic, stored_dtype, stored_range
from dicomdl.system import available_cores

Values = npt.NDArray[Any]

RESCALE_COLUMNS: Final = ("rescale_slope", "rescale_intercept", "dose_grid_scaling", "modality_lut_sequence")


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
    """Frames of one size as one array of modality values (frame, row, column[, sample]) of one dtype.

    int16 when all values fit exactly, else int32, else float32, unless `dtype` is given: see `volume.read_volume`.

    `palettes` expands PALETTE COLOR to RGB; label maps keep their labels, whose palette only is a suggestion to viewers.
    """
    shapes = {frame_shape(source) for source in sources}
    if len(shapes) != 1:
        raise GeometryError(f"the frames have different sizes: {sorted(shapes)}", shapes=sorted(shapes))
    shape = (len(sources), *shapes.pop())
    if sources[0].samples_per_pixel > 1 or (palettes and sources[0].photometric_interpretation == "PALETTE COLOR"):
        return _read_colour(sources, shape, dtype, threads)
    wanted = _candidates(sources, rescales) if dtype is None else [np.dtype(dtype)]
    if wanted[0] not in (np.int16, np.int32, np.float32):
        raise UsageError(f"dtype is {wanted[0]}: expected int16, int32 or float32")
    return _read_grey(sources, rescales, shape, wanted, threads)


def _read_grey(
    sources: Sequence[FrameSource], rescales: Sequence[Rescale], shape: tuple[int, ...], wanted: list[np.dtype[Any]], threads: int | None
) -> Values:
    """The frames in the first dtype that holds all values; frames that were read before one does not fit are kept, not read again."""
    array = np.empty(shape, wanted[0])  # every frame is filled whole, or the read raises
    runs = _runs(sources, rescales)
    done = np.zeros(len(runs), dtype=np.bool_)

    def fill(number: int) -> None:
        run = runs[number]
        _fill(sources[run], rescales[run.start], array[run])
        done[number] = True

    for wider in [*wanted[1:], None]:
        try:
            _in_threads(fill, np.flatnonzero(~done).tolist(), threads)
            break
        except IntensityError as error:
            if wider is None or not hasattr(error, "minimum"):
                raise
        kept = array
        array = np.empty(shape, wider)
        for number in np.flatnonzero(done):
            array[runs[number]] = kept[runs[number]]
    return array


def _runs(sources: Sequence[FrameSource], rescales: Sequence[Rescale]) -> list[slice]:
    """What is read at once: each frame alone, tiles of one mosaic that follow one another together."""
    starts = [0]
    for number in range(1, len(sources)):
        before = number - 1
        if not (same_mosaic(sources[before], sources[number]) and rescales[before] == rescales[number]):
            starts.append(number)
    return [slice(start, stop) for start, stop in itertools.pairwise([*starts, len(sources)])]


def _candidates(sources: Sequence[FrameSource], rescales: Sequence[Rescale]) -> list[np.dtype[Any]]:
    """The dtypes to try, narrowest first: whether values fit is seen while reading them."""
    if all(rescale.is_integral for rescale in set(rescales)) and not any(source.float_pixels for source in sources):
        return [np.dtype(np.int16), np.dtype(np.int32), np.dtype(np.float32)]
    return [np.dtype(np.float32)]


def _fill(sources: Sequence[FrameSource], rescale: Rescale, places: Values) -> None:
    """Read one frame, or tiles of one mosaic, into their places and rescale them there; frames of another width take a detour."""
    source = sources[0]
    try:
        dtype = stored_dtype(source)
        direct = dtype.kind in "iu" and dtype.itemsize == places.dtype.itemsize and places.dtype.kind in "iu"
        if len(sources) > 1:
            stored = read_tiles(sources, places.view(dtype) if direct else np.empty(places.shape, dtype))
        else:
            places = places[0]
            stored = read_frame(source, out=places.view(dtype) if direct else None)
        bounds = None if dtype.kind == "f" else stored_range(source)
        apply_rescale(stored, rescale.slope, rescale.intercept, places, stored_range=bounds)
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

    _in_threads(fill, range(len(sources)), threads)
    return _expand_palettes(array, sources) if palette else array


def _expand_palettes(indices: Values, sources: Sequence[FrameSource]) -> Values:
    """(frame, row, column, 3) uint8 from indices; each file has its own look-up tables."""
    rgb = np.empty((*indices.shape, 3), np.uint8)
    for path in {source.path for source in sources}:
        mine = [number for number, source in enumerate(sources) if source.path == path]
        colours = palette_to_rgb(indices[mine], path)
        rgb[mine] = colours if colours.dtype == np.uint8 else np.rint(colours / 257).astype(np.uint8)  # 65535 / 257 = 255
    return rgb


def _in_threads(work: Callable[[int], None], numbers: Sequence[int], threads: int | None) -> None:
    """Do work(number) for all numbers on some threads; after an error the others end with the frame they are at."""
    workers = min(len(numbers), available_cores() if threads is None else threads)
    if threads is not None and threads < 1:
        raise UsageError(f"threads is {threads}, expected at least 1", threads=threads)
    if workers <= 1:
        for number in numbers:
            work(number)
        return
    failed = threading.Event()

    def share(first: int) -> None:
        for number in numbers[first::workers]:
            if failed.is_set():
                return
            try:
                work(number)
            except BaseException:
                failed.set()
                raise

    with ThreadPoolExecutor(workers) as pool:
        for done in [pool.submit(share, first) for first in range(workers)]:
            done.result()


def read_image(source: FrameSource, rescale: Rescale, *, palettes: bool = True) -> Values:
    """One frame as modality values, (rows, columns); colour as `read_volume` gives it, (rows, columns, samples)."""
    return np.asarray(read_modality([source], [rescale], threads=1, palettes=palettes)[0])
