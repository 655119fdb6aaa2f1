"""Digests of pixels, by which a scan recognizes copies of one frame."""

import hashlib
import os
from collections.abc import Callable, Sequence

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
        return _digest(source, rescale, by_file=frames.value("modality_lut_sequence", row))

    return digest


def _digest(source: FrameSource, rescale: Sequence[float | None], *, by_file: bool) -> str:
    """Return a digest of the stored values and the rescale of a frame.

    Two cases use the whole file instead: look-up tables that give the values their meaning, and
    frames that cannot be decoded. The digest is "" if the file cannot be read.
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
