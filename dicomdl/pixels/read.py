"""Stored values of frames, the entry to this package.

A native little endian frame is one `os.preadv` into the result; only bits above BitsStored cost a
second pass, in place. All other frames (words of the other endianness, planes, single bits,
deflated data sets, subsampled colour, compressed frames) are read first and arranged afterwards.
Tiles of a mosaic are cut out of a band of its rows, or out of the complete decoded mosaic, which is
cached for the next tiles.
"""

import contextlib
from collections.abc import Callable, Sequence

import numpy as np

from dicomdl.arrays import Values
from dicomdl.errors import UsageError
from dicomdl.headers.frame_source import FrameSource
from dicomdl.pixels._native import UNCODED
from dicomdl.pixels._whole import read_plain, read_whole
from dicomdl.pixels.coded import read_coded, to_rgb
from dicomdl.pixels.codestreams import FrameLike
from dicomdl.pixels.halving import halve
from dicomdl.pixels.options import WHOLE, Colour, Decoding
from dicomdl.pixels.stored import check_out, is_label, is_plain, named, result_array, stored_range
from dicomdl.pixels.tiles import read_tile
from dicomdl.storage.sources import Span, reading_ahead_of

# --- reading --------------------------------------------------------------------------------------


def read_frame(
    source: FrameLike,
    out: Values | None = None,
    *,
    colour: Colour = "rgb",
    reduce: int = 0,
    threads: int = 1,
    max_bytes: int | None = None,
) -> Values:
    """Read the stored values of one frame: `values.frames.read_frame` documents the options.

    `out` has `frame_shape(source, reduce)` and `stored_dtype(source)`.
    """
    return decode_frame(source, out, Decoding(colour, reduce, threads, max_bytes))


def frames_ahead(sources: Sequence[FrameSource]) -> contextlib.AbstractContextManager[None]:
    """Return a context in which frames are asked for ahead where reading them one by one waits."""
    if len(sources) < 2:
        return contextlib.nullcontext()
    return frames_ahead_of(sources[0].path, lambda: sources)


def frames_ahead_of(
    first: str, sources: Callable[[], Sequence[FrameSource]]
) -> contextlib.AbstractContextManager[None]:
    """Do as `frames_ahead`, for frames that are only looked up where reading them waits.

    `first` is the path of the first one.
    """

    def ranges() -> list[Span]:
        spans = (
            Span(source.file, source.byte_offset, source.byte_length)
            for source in sources()
            if not source.deflated
        )
        return list(dict.fromkeys(spans))

    return reading_ahead_of(first, ranges)


def decode_frame(source: FrameLike, out: Values | None = None, how: Decoding = WHOLE) -> Values:
    """Read a frame as `read_frame` does, with its options as one value."""
    with named(source):
        if how.reduce:
            return _read_reduced(source, out, how)
        if source.coded_rows:
            return read_tile(source, 0, source.rows, out, how)
        return read_whole(source, out, how)


def _read_reduced(source: FrameLike, out: Values | None, how: Decoding) -> Values:
    """Read a frame at a lower resolution.

    The codec makes the halvings that it can, and `halve` the others.
    """
    smooth, done = not is_label(source), 0
    whole = how.at_full_size()
    if source.coded_rows:
        values = read_tile(source, 0, source.rows, None, whole)
    elif source.transfer_syntax_uid in UNCODED or is_plain(source) or not smooth:
        values = read_whole(source, None, whole)
    else:
        values, space, done = read_coded(source, None, how)
        if how.colour == "rgb":
            to_rgb(values, space, source)
    limits = None if values.dtype.kind == "f" else stored_range(source)
    values = halve(values, how.reduce - done, smooth=smooth, limits=limits)
    if out is None:
        return values
    check_out(out, values.shape, values.dtype)
    np.copyto(out, values)
    return out


def read_rows(
    source: FrameLike,
    row_start: int,
    row_stop: int,
    out: Values | None = None,
    *,
    colour: Colour = "rgb",
) -> Values:
    """Read the stored values of rows `row_start` to `row_stop` (exclusive) of one frame.

    Native frames with samples row by row need only those bytes; all others are decoded completely
    and cut. A tile is read as in `read_frame`, together with its neighbours' rows. Parameters,
    values and errors are those of `read_frame`.

    Returns
    -------
    ndarray
        (row_stop - row_start, columns[, samples]).

    Raises
    ------
    UsageError
        The rows exceed the frame, or `out` does not fit.
    """
    if not 0 <= row_start <= row_stop <= source.rows:
        raise UsageError(
            f"rows {row_start} to {row_stop} of a frame with {source.rows}", rows=source.rows
        )
    if source.coded_rows:
        with named(source):
            return read_tile(source, row_start, row_stop, out, Decoding(colour))
    if is_plain(source):
        with named(source):
            return read_plain(source, row_start, row_stop, out, Decoding(colour))
    values = result_array(out, source, row_stop - row_start)
    values[...] = read_frame(source, colour=colour)[row_start:row_stop]
    return values
