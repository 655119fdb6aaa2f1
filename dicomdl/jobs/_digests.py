"""Digests of pixels, by which a scan recognizes copies of one frame."""

import hashlib
import os
from collections.abc import Callable, Sequence
from typing import Final

import numpy as np

from dicomdl.errors import PixelError
from dicomdl.headers.frame_source import FILE_FIELDS, SOURCE_FIELDS, FrameSource
from dicomdl.index.table import Table
from dicomdl.pixels.read import read_frame
from dicomdl.storage.sources import as_stream, opened


def digests(frames: Table, files: Table) -> Callable[[int], str]:
    """Return a function from a row to the digest of its frame (see `_digest`).

    Digests of the previous scan are reused.
    """

    def digest(row: int) -> str:
        if known := frames.text("pixel_digest", row):
            return known
        fields = {name: frames.value(name, row) for name in SOURCE_FIELDS if name in frames.names}
        file = frames.value("file", row)
        state = {name: files.value(name, file) for name in FILE_FIELDS}
        source = FrameSource(**{**state, "path": os.fsdecode(state["path"])}, **fields)
        rescale = [
            frames.value(name, row)
            for name in ("rescale_slope", "rescale_intercept", "dose_grid_scaling")
        ]
        by_file = frames.value("modality_lut_sequence", row) or _is_costly(
            source, frames.value("number_of_frames", row)
        )
        return _digest(source, rescale, by_file=by_file)

    return digest


# Bytes of pixels per file that a comparison decodes in any case, and per byte of the file. Images
# code to no less than a hundredth; blank ones of more pixels are compared as files.
_FREE_DECODED_BYTES: Final = 16 * 2**20
_MOST_EXPANSION: Final = 200


def _is_costly(source: FrameSource, frames: int) -> bool:
    """Whether decoding all frames of a file costs more than its bytes justify."""
    rows, columns = source.coded_rows or source.rows, source.coded_columns or source.columns
    decoded = frames * rows * columns * source.samples_per_pixel * source.bits_allocated // 8
    return decoded > max(_FREE_DECODED_BYTES, _MOST_EXPANSION * source.file_bytes)


def _digest(source: FrameSource, rescale: Sequence[float | None], *, by_file: bool) -> str:
    """Return a digest of the stored values and the rescale of a frame.

    Three cases use the whole file instead: look-up tables that give the values their meaning,
    frames that cannot be decoded, and files that code far more pixels than they have bytes. The
    digest is "" if the file cannot be read.
    """
    if not by_file and source.photometric_interpretation != "PALETTE COLOR":
        try:
            values = read_frame(source)
        except PixelError:
            pass
        else:
            result = hashlib.blake2b(
                repr((values.shape, values.dtype.str, rescale)).encode(), digest_size=16
            )
            result.update(np.ascontiguousarray(values).data)
            return result.hexdigest()
    try:
        with opened(source.file) as handle:
            whole = hashlib.file_digest(as_stream(handle), "blake2b").hexdigest()
    except PixelError:
        return ""
    return f"{whole[:32]}:{source.frame_number}:{source.tile_top}:{source.tile_left}"
