"""The stored values of frames: native bytes straight into the array, or what `codecs` gives.

Native little endian frames are one `os.preadv` into the result; only the bits above BitsStored cost
a second pass, in place. Everything else (words of the other endianness, planes, single bits,
deflated data sets, subsampled colour, compressed frames) is read first and arranged then. The tiles
of a mosaic are cut out of its bands or of the whole decoded mosaic, which are kept for the tiles
that come next.
"""

import dataclasses

import numpy as np

from dicomdl.arrays import Values
from dicomdl.errors import UsageError
from dicomdl.pixels._native import UNCODED
from dicomdl.pixels._whole import read_plain, read_whole
from dicomdl.pixels.coded import read_coded, to_rgb
from dicomdl.pixels.codestreams import FrameLike
from dicomdl.pixels.halving import halve
from dicomdl.pixels.options import WHOLE, Colour, Decoding
from dicomdl.pixels.stored import check_out, is_label, is_plain, named, result_array, stored_range
from dicomdl.pixels.tiles import read_tile

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
    """The stored values of one frame, as the file means them before any rescale.

    Bits outside of BitsStored are cleared or sign-extended (PS3.5 8.1.1). Colour frames are
    pixel-interleaved whatever their PlanarConfiguration; PALETTE COLOR gives the indices (see
    `lookup.palette_to_rgb`). Safe to call from threads: reading, decoding and the passes over the
    values release the GIL. Of a multi-frame file only the bytes of the frame are read.

    Parameters
    ----------
    source
        Where the frame is and how it is coded: a `Frame`, or the `FrameSource` of one.
    out
        C-contiguous array of `frame_shape(source, reduce)` and `stored_dtype(source)` to fill. Its
        content is undefined after an error.
    colour
        "rgb" turns the YBR_* photometric interpretations into RGB (PS3.3 C.7.6.3.1.2); "stored"
        leaves luminance and chrominance. JPEG 2000 decoders always undo YBR_RCT and YBR_ICT, so
        those are RGB in both.
    reduce
        Halves rows and columns that often, rounded up: a quarter of the pixels for 1, a sixteenth
        for 2, ... Pixel (r, c) lies where pixel (2^n r, 2^n c) of the whole frame does. JPEG 2000
        and HTJ2K decode only what that takes; everything else is read whole and smoothed by the
        same filter, so that lossless frames give the same values in every transfer syntax (grey:
        exactly those of JPEG 2000's reversible wavelet; lossy JPEG 2000 has a filter of its own;
        RGB that JPEG 2000 keeps as YBR_RCT is a few units off, for rounding). Labels of
        segmentations and indices of palettes are not smoothed: every 2^n-th pixel is taken.
    threads
        Threads for this one frame, where its codec can use them (JPEG 2000).
    max_bytes
        The most memory that a compressed frame may become, whole (also with `reduce`). By default
        128 MiB, or a thousand times its bytes in the file if that is more: a damaged or hostile
        file may claim anything.

    Returns
    -------
    ndarray
        Shape (rows, columns) or (rows, columns, samples), a new array or `out`.

    Raises
    ------
    FileChanged
        The file is not the one that was scanned.
    TruncatedPixels
        Bytes are missing. Attributes `expected_bytes`, `found_bytes` where they are known.
    DecodeError
        The frame is damaged or contradicts the header.
    TooLarge
        The frame would take more memory than `max_bytes`; nothing of that size was allocated.
    UnsupportedSyntax
        There is no decoder for the transfer syntax.
    """
    return decode_frame(source, out, Decoding(colour, reduce, threads, max_bytes))


def decode_frame(source: FrameLike, out: Values | None = None, how: Decoding = WHOLE) -> Values:
    """`read_frame` with its options as one value."""
    with named(source):
        if how.reduce:
            return _read_reduced(source, out, how)
        if source.coded_rows:
            return read_tile(source, 0, source.rows, out, how)
        return read_whole(source, out, how)


def _read_reduced(source: FrameLike, out: Values | None, how: Decoding) -> Values:
    """A frame at a lower resolution.

    What the codec can halve by itself, and the rest afterwards.
    """
    smooth, done = not is_label(source), 0
    whole = dataclasses.replace(how, reduce=0)
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
    """The stored values of the rows from `row_start` up to, not including, `row_stop` of one frame.

    Native frames whose samples lie row by row read those bytes only; all others are decoded whole
    and cut. A tile reads as `read_frame` does: its neighbours' rows are read with it. Parameters,
    values and errors are those of `read_frame`; the shape is (row_stop - row_start, columns[,
    samples]).

    Raises
    ------
    UsageError
        The rows are not those of the frame, or `out` does not fit.
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
