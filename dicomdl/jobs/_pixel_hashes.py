"""Hashes of stored values (XXH3, 128 bits), by which copies are found across patients.

Values are hashed after decoding, so that a copy in another transfer syntax has the same hash. A
frame of one value, such as a black one, and segmentations are equal in many patients by nature:
they have no hash.
"""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

from dicomdl.errors import PixelError
from dicomdl.headers.frame_source import FILE_FIELDS, SOURCE_FIELDS, FrameSource
from dicomdl.headers.uids import content_of
from dicomdl.index.table import Table
from dicomdl.pixels.read import frames_ahead, read_frame
from dicomdl.storage.sources import Source


def pixel_hashes(frames: Table, files: Sequence[Source], first: int) -> list[str]:
    """Return (frames,) hashes of 32 hexadecimal digits, "" for frames without one.

    `files` are those that are numbered from `first` in the table `frames`.
    """
    sources = _sources(frames, files, first)
    with frames_ahead([source for source in sources if _has_hash(source)]):
        return [_hash(source) for source in sources]


def _sources(frames: Table, files: Sequence[Source], first: int) -> list[FrameSource]:
    """Return the source of each frame; columns are converted at once, since a cell takes 30 us."""
    names = [name for name in SOURCE_FIELDS if name not in FILE_FIELDS]
    columns = {name: frames.column(name).to_pylist() for name in names}
    sources = [files[number - first] for number in frames.column("file").to_pylist()]
    for position, name in enumerate(FILE_FIELDS):
        columns[name] = [source[position] for source in sources]
    columns["path"] = [os.fsdecode(path) for path in columns["path"]]
    return [FrameSource(*row) for row in zip(*(columns[n] for n in SOURCE_FIELDS), strict=True)]


def _has_hash(source: FrameSource) -> bool:
    """Whether a frame is not equal in many patients by nature."""
    return source.bits_allocated != 1 and content_of(source.sop_class_uid) != "segmentation"


def _hash(source: FrameSource) -> str:
    if not _has_hash(source):
        return ""
    try:
        values = read_frame(source)
    except PixelError:
        return ""
    if _has_one_value(values):
        return ""
    digest = xxhash.xxh3_128(repr(values.shape).encode())
    digest.update(np.ascontiguousarray(values).data)
    return digest.hexdigest()


def _has_one_value(values: npt.NDArray[Any]) -> bool:
    """Whether all pixels are equal. Two pixels mostly tell, which spares reading the others."""
    rows, columns = values.shape[:2]
    first = values[0, 0]
    if values.ndim == 2 and first != values[rows // 2, columns // 2]:
        return False
    return bool((values[rows // 2] == first).all() and (values == first).all())
