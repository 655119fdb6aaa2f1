"""Frames as one array of modality values (HU for CT), SUV or real-world values.

Each frame is read, decoded and converted by its own header. Threads read uncompressed frames by
positioned reads into the returned array and rescale them there, while they are in the processor's
cache: 128 x 512 x 512 costs little more than reading the bytes. The mask of padding (Pixel Padding
Value) is computed in the same pass from stored values, because converted values do not show it.
"""

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
from dicomdl.headers.frame_source import FrameSource
from dicomdl.pixels.halving import halve
from dicomdl.pixels.options import FREE_VOLUME_BYTES, WHOLE, Decoding, require_justified
from dicomdl.pixels.read import decode_frame, frames_ahead
from dicomdl.pixels.stored import add_frame_note, frame_shape, is_label, stored_dtype, stored_range
from dicomdl.pixels.tiles import read_tiles, same_mosaic
from dicomdl.values._lookup_reading import palette
from dicomdl.values.conversion import Conversion
from dicomdl.values.rescale import MODALITY_DTYPES, dtypes_to_try, in_first_that_fits


class Converted(NamedTuple):
    """Values of frames and the mask of their padding.

    Attributes
    ----------
    array
        (frame, row, column[, sample]).
    padding
        (frame, row, column), True for padding; None without any.
    """

    array: Values
    padding: Mask | None


def read_converted(
    sources: Sequence[FrameSource],
    conversions: Sequence[Conversion],
    *,
    dtype: npt.DTypeLike | None = None,
    how: Decoding = WHOLE,
) -> Converted:
    """Read frames of one size as one array of one dtype.

    The dtype is int16 when all values fit exactly, else int32, else float32, unless `dtype` is
    given (see `read_volume`). The first conversion decides whether PALETTE COLOR becomes RGB.
    ``how.threads`` is the number for all frames together; with fewer frames than threads, several
    decode one frame.
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
    """Read the frames in the first dtype that holds all values.

    When a frame does not fit, the frames read before it are converted, not read again.
    """
    require_justified(
        math.prod(shape) * wanted[0].itemsize, sources, FREE_VOLUME_BYTES, how.max_bytes
    )
    # Every frame is filled completely, or the read raises.
    array = np.empty(shape, wanted[0])
    runs = _runs(sources, conversions)
    done = np.zeros(len(runs), dtype=np.bool_)
    # Zeroed memory costs nothing until a mask is written.
    padding = (
        np.zeros(shape, dtype=np.bool_)
        if any(each.padding is not None for each in conversions)
        else None
    )
    padded = np.zeros(len(runs), dtype=np.bool_)
    how_each = _per_frame(how, len(runs))

    def fill(number: int) -> None:
        run = runs[number]
        mask = _fill(sources[run], conversions[run.start], array[run], how_each)
        if mask is not None and padding is not None:
            padding[run] = mask
            padded[number] = True
        done[number] = True

    def read_rest(wider: np.dtype[Any]) -> Values:
        nonlocal array
        if wider != array.dtype:
            narrower, array = array, np.empty(shape, wider)
            for number in np.flatnonzero(done):
                array[runs[number]] = narrower[runs[number]]
        left = np.flatnonzero(~done).tolist()
        with frames_ahead([source for number in left for source in sources[runs[number]]]):
            _in_threads(fill, left, how.threads)
        return array

    array = in_first_that_fits(read_rest, wanted)
    return Converted(array, padding if padded.any() else None)


def _per_frame(how: Decoding, frames: int) -> Decoding:
    """Divide the threads among frames: how one of them is decoded."""
    return how.with_threads(max(1, how.threads // frames))


def _runs(sources: Sequence[FrameSource], conversions: Sequence[Conversion]) -> list[slice]:
    """Return the ranges of frames that are read together: consecutive tiles of one mosaic.

    Any other frame is a range of its own.
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
    """Whether all values are integers; whether they fit is known only after reading."""
    integral = all(conversion.is_integral for conversion in set(conversions))
    return integral and not any(source.float_pixels for source in sources)


def _fill(
    sources: Sequence[FrameSource], conversion: Conversion, out: Values, how: Decoding
) -> Mask | None:
    """Read one frame, or tiles of one mosaic, into `out` and convert them in place.

    Stored values of another item size need a temporary array. Returns the mask of padding, None
    without any.
    """
    source = sources[0]
    try:
        dtype = stored_dtype(source)
        integral = dtype.kind in "iu" and out.dtype.kind in "iu" and conversion.table is None
        in_place = integral and dtype.itemsize == out.dtype.itemsize
        if how.reduce and (len(sources) > 1 or conversion.padding is not None):
            return _fill_reduced(sources, conversion, out, how)
        if len(sources) > 1:
            stored = read_tiles(
                sources, out.view(dtype) if in_place else np.empty(out.shape, dtype), how
            )
        else:
            out = out[0]
            stored = decode_frame(source, out.view(dtype) if in_place else None, how)
        padding = conversion.padding_of(stored)
        conversion(stored, out, None if dtype.kind == "f" else stored_range(source))
    except IntensityError as error:
        add_frame_note(error, source)
        raise
    return padding


def _fill_reduced(
    sources: Sequence[FrameSource], conversion: Conversion, out: Values, how: Decoding
) -> Mask | None:
    """Read frames at a lower resolution; image and padding are halved separately.

    A filter would otherwise mix padding with the image. Returns the mask of padding, None without
    any.
    """
    masks = []
    for source, target in zip(sources, out, strict=True):
        full = decode_frame(source, None, how.at_full_size())
        bounds = None if full.dtype.kind == "f" else stored_range(source)
        mask = conversion.padding_of(full)
        small = halve(
            full if mask is None else spread_over(full, mask),
            how.reduce,
            smooth=not is_label(source),
            limits=bounds,
        )
        masks.append(None if mask is None else halve(mask, how.reduce, smooth=False))
        if mask is not None:
            small[masks[-1]] = halve(full, how.reduce, smooth=False)[masks[-1]]
        conversion(small, target, bounds)
    if all(mask is None for mask in masks):
        return None
    padding = np.stack(
        [np.zeros(out.shape[1:], np.bool_) if mask is None else mask for mask in masks]
    )
    return padding if len(sources) > 1 else padding[0]


def spread_over(values: Values, padding: Mask) -> Values:
    """Return a copy of `values` in which the image's smallest value replaces padding.

    A filter then does not mix padding with the image.
    """
    image = values[~padding]
    return np.where(padding, image.min() if image.size else values.dtype.type(0), values)


def _read_colour(
    sources: Sequence[FrameSource],
    shape: tuple[int, ...],
    dtype: npt.DTypeLike | None,
    how: Decoding,
) -> Values:
    """Read colour frames as stored; PALETTE COLOR becomes RGB of 8 bits."""
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
    how_each = _per_frame(how, len(sources))

    def fill(number: int) -> None:
        source = sources[number]
        if has_palette:
            array[number] = palette(source.file).in_8_bits()(decode_frame(source, None, how_each))
        else:
            decode_frame(source, array[number], how_each)

    with frames_ahead(sources):
        _in_threads(fill, range(len(sources)), how.threads)
    return array


def _in_threads(work: Callable[[int], None], numbers: Sequence[int], threads: int) -> None:
    """Call work(number) for all numbers on some threads.

    After an error, the other threads stop when their current frame is done.
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
    """Read one frame and the mask of its padding.

    The array is (rows, columns), or (rows, columns, samples) for colour.
    """
    array, padding = read_converted([source], [conversion], how=how)
    return Converted(array[0], None if padding is None else padding[0])
