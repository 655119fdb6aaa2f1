"""Stored values of frames, the entry to this package.

A native little endian frame is one `os.preadv` into the result; only bits above BitsStored cost a
second pass, in place. All other frames (words of the other endianness, planes, single bits,
deflated data sets, subsampled colour, compressed frames) are read first and arranged afterwards.
Tiles of a mosaic are cut out of a band of its rows, or out of the complete decoded mosaic, which is
cached for the next tiles.
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
    """Read the stored values of one frame, before any rescale.

    Bits outside BitsStored are cleared or sign-extended (PS3.5 8.1.1). Colour frames are
    pixel-interleaved for any PlanarConfiguration; PALETTE COLOR gives the indices of the
    palette, not its colours. A multi-frame file is read only where the frame's bytes are. The
    function is thread-safe: reading, decoding and the passes over the values release the GIL.

    Parameters
    ----------
    source
        Byte range and coding of the frame: a `Frame`, or the `FrameSource` of one.
    out
        C-contiguous array of `frame_shape(source, reduce)` and `stored_dtype(source)` to fill. Its
        content is undefined after an error.
    colour
        "rgb" converts the YBR_* photometric interpretations to RGB (PS3.3 C.7.6.3.1.2); "stored"
        leaves luminance and chrominance. JPEG 2000 decoders always undo YBR_RCT and YBR_ICT, so
        those are RGB with either value.
    reduce
        Number of halvings of rows and columns, rounded up: a quarter of the pixels for 1, a
        sixteenth for 2, ... Pixel (r, c) lies at pixel (2^n r, 2^n c) of the full frame. JPEG 2000
        and HTJ2K decode only the resolution needed. All other frames are read in full and smoothed
        by the same filter, so lossless frames have the same values in every transfer syntax: for
        grey exactly those of JPEG 2000's reversible wavelet. Lossy JPEG 2000 has another filter,
        and RGB that JPEG 2000 stores as YBR_RCT is a few units off by rounding. Labels of
        segmentations and indices of palettes are not smoothed: every 2^n-th pixel is taken.
    threads
        Threads for this frame, where its codec can use them (JPEG 2000).
    max_bytes
        Limit of the memory of a compressed frame at full resolution (also with `reduce`). The
        default is 128 MiB, or a thousand times its bytes in the file if that is more: a damaged or
        hostile file may declare any size.

    Returns
    -------
    ndarray
        Shape (rows, columns) or (rows, columns, samples) in `stored_dtype(source)`, a new array or
        `out`.

    Raises
    ------
    FileChanged
        The file is not the one that was scanned.
    TruncatedPixels
        Bytes are missing. Attributes `expected_bytes`, `found_bytes` where they are known.
    DecodeError
        The frame is damaged or contradicts the header.
    TooLarge
        The frame would take more memory than `max_bytes`; no memory of that size was allocated.
    UnsupportedSyntax
        There is no decoder for the transfer syntax.
    UsageError
        `out` does not fit, or an option has no such value.

    Examples
    --------
    >>> import shutil, tempfile
    >>> import dicomdl
    >>> from pydicom.data import get_testdata_file
    >>> folder = tempfile.TemporaryDirectory()
    >>> _ = shutil.copy(get_testdata_file("CT_small.dcm"), folder.name)
    >>> index = dicomdl.scan(folder.name, folder.name + "/index", workers=1, progress=False)
    >>> values = dicomdl.read_frame(index.stacks[0].frame(0))
    >>> values.shape, values.dtype
    ((128, 128), dtype('int16'))
    >>> dicomdl.read_frame(index.stacks[0].frame(0), reduce=1).shape
    (64, 64)
    >>> folder.cleanup()
    """
    return decode_frame(source, out, Decoding(colour, reduce, threads, max_bytes))


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
