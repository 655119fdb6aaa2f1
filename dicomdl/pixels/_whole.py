"""Complete frames as they are coded: plain, otherwise native, or compressed.

A plain frame takes one read into the result and one pass in place. A tile of a mosaic is a part of
a coded frame; `mosaic_of` returns the frame that holds it.
"""

import dataclasses
import math

from dicomdl.arrays import Values
from dicomdl.headers.frame import Frame
from dicomdl.headers.frame_source import FrameSource
from dicomdl.pixels._native import UNCODED, arrange, native_bytes
from dicomdl.pixels.coded import read_coded, to_rgb
from dicomdl.pixels.codestreams import FrameLike
from dicomdl.pixels.options import FREE_FRAME_BYTES, Decoding, require_justified
from dicomdl.pixels.stored import as_meant, frame_shape, is_plain, result_array, stored_dtype
from dicomdl.storage.sources import opened, read_exactly, truncated


def read_whole(source: FrameLike, out: Values | None, how: Decoding) -> Values:
    """Read a frame as it is coded, without a change of resolution."""
    if is_plain(source):
        return read_plain(source, 0, source.rows, out, how)
    if source.transfer_syntax_uid in UNCODED:
        require_justified(
            math.prod(frame_shape(source)) * stored_dtype(source).itemsize,
            [source],
            FREE_FRAME_BYTES,
            how.max_bytes,
        )
        values, space = result_array(out, source, source.rows), source.photometric_interpretation
        arrange(native_bytes(source), source, values)
    else:
        values, space, _ = read_coded(source, out, how)
    if how.colour == "rgb":
        to_rgb(values, space, source)
    return values


def read_plain(
    source: FrameLike, row_start: int, row_stop: int, out: Values | None, how: Decoding
) -> Values:
    """Read rows `row_start` to `row_stop` of a plain frame, straight into the result."""
    row_bytes = source.columns * source.samples_per_pixel * (source.bits_allocated // 8)
    if source.byte_length < source.rows * row_bytes:
        raise truncated(source.rows * row_bytes, source.byte_length)
    # Opened first: memory is allocated for bytes that are there.
    with opened(source.file) as handle:
        values = result_array(out, source, row_stop - row_start)
        if values.size:
            read_exactly(handle, values, source.byte_offset + row_start * row_bytes)
    as_meant(values, source)
    if how.colour == "rgb":
        to_rgb(values, source.photometric_interpretation, source)
    return values


def mosaic_of(tile: FrameLike) -> FrameSource:
    """Return the mosaic that holds a tile, as a frame."""
    frame = tile.source if isinstance(tile, Frame) else tile
    return dataclasses.replace(
        frame,
        rows=tile.coded_rows,
        columns=tile.coded_columns,
        coded_rows=0,
        coded_columns=0,
        tile_top=0,
        tile_left=0,
    )
