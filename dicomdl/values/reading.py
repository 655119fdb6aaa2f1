"""Frames as one array of modality values (HU for CT), SUV or real-world values.

Read, decoded and converted, each by its own header.

Uncompressed frames are read by positioned reads straight into the array that is returned, by
threads, and rescaled there while they are still in the processor's cache: 128 x 512 x 512 costs
little more than reading the bytes. Where padding is (Pixel Padding Value) is seen in the same pass,
in stored values: afterwards it could not be told from true ones.
"""

import dataclasses
import itertools
import math
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from dicomdl.arrays import Mask, Values
from dicomdl.errors import GeometryError, IntensityError, UsageError
from dicomdl.headers.frame import FrameSource
from dicomdl.pixels.halving import halve
from dicomdl.pixels.options import FREE_VOLUME_BYTES, WHOLE, Decoding, require_justified
from dicomdl.pixels.read import decode_frame
from dicomdl.pixels.stored import add_frame_note, frame_shape, is_label, stored_dtype, stored_range
from dicomdl.pixels.tiles import read_tiles, same_mosaic
from dicomdl.values._lookup_reading import palette
from dicomdl.values.conversion import Conversion
from dicomdl.values.rescale import MODALITY_DTYPES, dtypes_to_try, in_first_that_fits

# --- reading --------------------------------------------------------------------------------------


class Converted(NamedTuple):
    """Values of frames, (frame, row, column[, sample]), and where they are padding, (frame, row, column); None where none is."""

    array: Values
    padding: Mask | None


def read_converted(
    sources: Sequence[FrameSource],
    conversions: Sequence[Conversion],
    *,
    dtype: npt.DTypeLike | None = None,
    how: Decoding = WHOLE,
) -> Converted:
    """Frames of one size as one array of one dtype.

    int16 when all values fit exactly, else int32, else float32, unless `dtype` is given: see
    `volume.read_volume`.

    The first conversion says whether PALETTE COLOR becomes RGB. `how.threads`
    are for all frames together; those that frames leave idle help to decode one.
    """
    shapes = {frame_shape(source, how.reduce) for source in sources}
    if len(shapes) != 1:
        raise GeometryError(
            f"the frames have different sizes: {sorted(shapes)}", shapes=sorted(shapes)
        )
    shape = (len(sources), *shapes.pop())
    if conversions[0].is_colour(sources[0]):
        return Converted(_read_colour(sources, shape, dtype, how), None)
    wanted: Sequence[np.dtype[Any]] = [np.dtype(dtype)]
    if dtype is None:
        wanted = dtypes_to_try(integral=_is_integral(sources, conversions))
    if wanted[0] not in MODALITY_DTYPES:
        raise UsageError(f"dtype is {wanted[0]}: expected int16, int32 or float32")
    return _read_grey(sources, conversions, shape, wanted, how)


def _read_grey(
    sources: Sequence[FrameSource],
    conversions: Sequence[Conversion],
    shape: tuple[int, ...],
    wanted: Sequence[np.dtype[Any]],
    how: Decoding,
) -> Converted:
    """The frames in the first dtype that holds all values.

    Frames that were read before one does not fit are kept, not read again.
    """
    require_justified(
        math.prod(shape) * wanted[0].itemsize, sources, FREE_VOLUME_BYTES, how.max_bytes
    )
    array = np.empty(shape, wanted[0])  # every frame is filled whole, or the read raises
    runs = _runs(sources, conversions)
    done = np.zeros(len(runs), dtype=np.bool_)
    # Zeroed memory costs nothing until a mask is written to it.
    padding = (
        np.zeros(shape, dtype=np.bool_)
        if any(one.padding is not None for one in conversions)
        else None
    )
    padded = np.zeros(len(runs), dtype=np.bool_)
    each = _per_frame(how, len(runs))

    def fill(number: int) -> None:
        run = runs[number]
        mask = _fill(sources[run], conversions[run.start], array[run], each)
        if mask is not None and padding is not None:
            padding[run] = mask
            padded[number] = True
        done[number] = True

    def read_rest(wider: np.dtype[Any]) -> Values:
        nonlocal array
        if wider != array.dtype:
            kept, array = array, np.empty(shape, wider)
            for number in np.flatnonzero(done):
                array[runs[number]] = kept[runs[number]]
        _in_threads(fill, np.flatnonzero(~done).tolist(), how.threads)
        return array

    array = in_first_that_fits(read_rest, wanted)
    return Converted(array, padding if padded.any() else None)


def _per_frame(how: Decoding, frames: int) -> Decoding:
    """How one of several frames is decoded, when each is decoded by a thread of its own."""
    return how.with_threads(max(1, how.threads // frames))


def _runs(sources: Sequence[FrameSource], conversions: Sequence[Conversion]) -> list[slice]:
    """What is read at once.

    Each frame alone, tiles of one mosaic that follow one another together.
    """
    starts = [0]
    for number in range(1, len(sources)):
        before = number - 1
        if not (
            same_mosaic(sources[before], sources[number])
            and conversions[before] == conversions[number]
        ):
            starts.append(number)
    return [slice(start, stop) for start, stop in itertools.pairwise([*starts, len(sources)])]


def _is_integral(sources: Sequence[FrameSource], conversions: Sequence[Conversion]) -> bool:
    """Whether all values are integers; whether they fit is seen while reading them."""
    integral = all(conversion.is_integral for conversion in set(conversions))
    return integral and not any(source.float_pixels for source in sources)


def _fill(
    sources: Sequence[FrameSource], conversion: Conversion, places: Values, how: Decoding
) -> Mask | None:
    """Read one frame, or tiles of one mosaic, into their places and convert them there.

    Frames of another width take a detour.

    Gives where they are padding, None where nowhere.
    """
    source = sources[0]
    try:
        dtype = stored_dtype(source)
        integral = dtype.kind in "iu" and places.dtype.kind in "iu" and conversion.table is None
        direct = integral and dtype.itemsize == places.dtype.itemsize
        if how.reduce and (len(sources) > 1 or conversion.padding is not None):
            return _fill_reduced(sources, conversion, places, how)
        if len(sources) > 1:
            stored = read_tiles(
                sources, places.view(dtype) if direct else np.empty(places.shape, dtype), how
            )
        else:
            places = places[0]
            stored = decode_frame(source, places.view(dtype) if direct else None, how)
        padding = conversion.padding_of(stored)
        conversion(stored, places, None if dtype.kind == "f" else stored_range(source))
    except IntensityError as error:
        add_frame_note(error, source)
        raise
    return padding


def _fill_reduced(
    sources: Sequence[FrameSource], conversion: Conversion, places: Values, how: Decoding
) -> Mask | None:
    """Frames at a lower resolution whose padding must not be mixed with the image.

    Halved apart from it.
    """
    masks = []
    for source, place in zip(sources, places, strict=True):
        whole = decode_frame(source, None, dataclasses.replace(how, reduce=0))
        bounds = None if whole.dtype.kind == "f" else stored_range(source)
        mask = conversion.padding_of(whole)
        small = halve(
            whole if mask is None else spread_over(whole, mask),
            how.reduce,
            smooth=not is_label(source),
            limits=bounds,
        )
        masks.append(None if mask is None else halve(mask, how.reduce, smooth=False))
        if mask is not None:
            small[masks[-1]] = halve(whole, how.reduce, smooth=False)[masks[-1]]
        conversion(small, place, bounds)
    if all(mask is None for mask in masks):
        return None
    found = np.stack(
        [np.zeros(places.shape[1:], np.bool_) if mask is None else mask for mask in masks]
    )
    return found if len(sources) > 1 else found[0]


def spread_over(values: Values, padding: Mask) -> Values:
    """Values with the smallest of the image in the place of padding, in a new array, so that no filter mixes padding with the image."""
    image = values[~padding]
    return np.where(padding, image.min() if image.size else values.dtype.type(0), values)


def _read_colour(
    sources: Sequence[FrameSource],
    shape: tuple[int, ...],
    dtype: npt.DTypeLike | None,
    how: Decoding,
) -> Values:
    """Frames of colour as they are stored; PALETTE COLOR becomes RGB of 8 bits."""
    stored = stored_dtype(sources[0])
    has_palette = sources[0].photometric_interpretation == "PALETTE COLOR"
    if any(stored_dtype(source) != stored for source in sources):
        raise UsageError("the frames hold colour of different depths, which makes no one array")
    result = np.dtype(np.uint8) if has_palette else stored
    if dtype is not None and np.dtype(dtype) != result:
        raise UsageError(f"colour is read as {result}: it has no modality values")
    if has_palette:
        shape = (*shape, 3)
    require_justified(math.prod(shape) * result.itemsize, sources, FREE_VOLUME_BYTES, how.max_bytes)
    array = np.empty(shape, result)
    each = _per_frame(how, len(sources))

    def fill(number: int) -> None:
        source = sources[number]
        if has_palette:
            array[number] = palette(source.file).in_8_bits()(decode_frame(source, None, each))
        else:
            decode_frame(source, array[number], each)

    _in_threads(fill, range(len(sources)), how.threads)
    return array


def _in_threads(work: Callable[[int], None], numbers: Sequence[int], threads: int) -> None:
    """Do work(number) for all numbers on some threads.

    After an error the others end with the frame they are at.
    """
    workers = min(len(numbers), threads)
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


def read_image(source: FrameSource, conversion: Conversion, *, how: Decoding = WHOLE) -> Converted:
    """One frame, (rows, columns) or, of colour, (rows, columns, samples), and where it is padding."""
    array, padding = read_converted([source], [conversion], how=how)
    return Converted(array[0], None if padding is None else padding[0])
