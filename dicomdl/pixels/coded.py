"""Values of compressed frames, from the bytes in the file to stored bits and RGB.

The codec's samples become the result without a copy where their width allows it. The header decides
which bits count (`bits`), and the codestream decides the colour space (PS3.5 8.2.1).
"""

import functools
import math
from typing import Final

import numpy as np

from dicomdl.arrays import Values
from dicomdl.errors import DecodeError
from dicomdl.pixels import decoders as codecs
from dicomdl.pixels.bits import CodedBits, coded_rule, keep_bits
from dicomdl.pixels.codestreams import FrameLike, join_fragments
from dicomdl.pixels.options import FREE_FRAME_BYTES, Decoding, require_justified
from dicomdl.pixels.stored import (
    frame_shape,
    header_bits,
    result_array,
    stored_dtype,
)
from dicomdl.storage.locations import is_url
from dicomdl.storage.sources import opened, read_items, read_range

# Retired, without a formula for RGB (PS3.3-2000 C.7.6.3.1.2).
_OTHER_COLOURS: Final = frozenset({"HSV", "ARGB", "CMYK"})


def read_coded(source: FrameLike, out: Values | None, how: Decoding) -> tuple[Values, str, int]:
    """Read a compressed frame: (values, photometric interpretation, halvings by the codec)."""
    # An unsupported syntax is refused before a large file is read.
    codecs.find_syntax(source.transfer_syntax_uid)
    dtype = stored_dtype(source)
    if source.float_pixels:
        raise DecodeError("float pixel data cannot be compressed (PS3.5 A.4)")
    require_justified(
        math.prod(frame_shape(source)) * dtype.itemsize, [source], FREE_FRAME_BYTES, how.max_bytes
    )
    if out is not None:
        result_array(out, source, source.rows)
    coded = codecs.decode(
        read_codestream(source),
        source,
        out,
        rgb=how.colour == "rgb",
        reduce=how.reduce,
        threads=how.threads,
        max_bytes=how.max_bytes,
        isolation=how.isolation,
    )
    samples, values = coded.samples, out
    if (
        values is None
        and samples.itemsize == dtype.itemsize
        and samples.flags.c_contiguous
        and samples.flags.writeable
    ):
        values = samples.view(dtype)
    elif values is None:
        values = np.empty(samples.shape, dtype)
    if not np.may_share_memory(samples, values):
        # The cast preserves all bits, because wider samples were refused.
        np.copyto(values, samples, casting="unsafe")
    keep_bits(values, coded_rule(header_bits(source), _coded_bits(coded)))
    return values, coded.space, coded.reduced


def read_codestream(source: FrameLike) -> bytes:
    """Return the codestream of one frame, without a copy if it lies in one item, as most do."""
    offset, length = source.byte_offset, source.byte_length
    with opened(source.file) as handle:
        if is_url(source.path):
            # One request.
            whole = read_items(handle, offset, length)
            return whole[8:] if _is_one_item(whole, len(whole)) else join_fragments(whole)
        if not _is_one_item(read_range(handle, offset, min(8, length)), length):
            return join_fragments(read_range(handle, offset, length))
        return read_range(handle, offset + 8, length - 8)


def _is_one_item(data: bytes, length: int) -> bool:
    return data[:4] == b"\xfe\xff\x00\xe0" and int.from_bytes(data[4:8], "little") == length - 8


def _coded_bits(coded: codecs.Coded) -> CodedBits:
    """Return the bits of decoded samples."""
    signed, overshoots = coded.samples.dtype.kind == "i", coded.lossy or coded.reduced > 0
    return CodedBits(coded.precision, signed, overshoots, coded.bytewise)


def to_rgb(values: Values, space: str, source: FrameLike) -> None:
    """Convert YBR_FULL* and YBR_PARTIAL* to RGB, rounded and clipped, in place.

    This is the inverse of PS3.3 C.7.6.3.1.2, which is written for 8 bits. For more bits, the
    offsets 16 and 128 and the range scale with 2 ** (BitsStored - 8).

    Raises
    ------
    DecodeError
        The samples are neither RGB nor YBR.
    """
    if space in _OTHER_COLOURS and source.samples_per_pixel > 1:
        raise DecodeError(
            f"the photometric interpretation is {space}, which is not converted to RGB: "
            "read_frame(..., colour='stored') gives its samples",
            photometric_interpretation=space,
        )
    if source.samples_per_pixel != 3 or not space.startswith(("YBR_FULL", "YBR_PARTIAL")):
        return
    bits = header_bits(source).stored
    if bits == 8 and values.itemsize == 1 and space.startswith("YBR_FULL"):
        _full_to_rgb(values)
        return
    luma = values[..., 0].astype(np.float32)
    blue, red = (values[..., sample].astype(np.float32) - (1 << bits - 1) for sample in (1, 2))
    if space.startswith("YBR_PARTIAL"):
        luma = (luma - np.float32(16 * 2.0 ** (bits - 8))) * np.float32(255 / 219)
        blue, red = blue * np.float32(255 / 224), red * np.float32(255 / 224)
    planes = (
        luma + np.float32(1.402) * red,
        luma - np.float32(0.114 * 1.772 / 0.587) * blue - np.float32(0.299 * 1.402 / 0.587) * red,
        luma + np.float32(1.772) * blue,
    )
    for sample, plane in enumerate(planes):
        np.clip(np.floor(plane + np.float32(0.5)), 0, (1 << bits) - 1, out=plane)
        values[..., sample] = plane


@functools.cache
def _chrominance_tables() -> tuple[Values, Values, Values]:
    """Return the contributions of chrominances of 8 bits to red, green and blue.

    They are added to the luminance: int16, exact, rounded to the nearest. The index for green is
    256 blue + red.
    """
    shift = np.arange(256, dtype=np.int64) - 128
    blue, red = shift[:, None], shift[None, :]
    # 0.114 x 1.772 / 0.587, 0.299 x 1.402 / 0.587
    green = (587_000 - 2 * 202_008 * blue - 2 * 419_198 * red) // (2 * 587_000)
    # 1.402, 1.772
    tables = (
        (2804 * shift + 1000) // 2000,
        green.ravel(),
        (3544 * shift + 1000) // 2000,
    )
    red_table, green_table, blue_table = (table.astype(np.int16) for table in tables)
    return red_table, green_table, blue_table


def _full_to_rgb(values: Values) -> None:
    """Convert YBR_FULL of 8 bits to RGB in place, by tables.

    The tables are exact, and three times as fast as float32.
    """
    to_red, to_green, to_blue = _chrominance_tables()
    luma = values[..., 0].astype(np.int16)
    blue, red = values[..., 1].astype(np.uint16), values[..., 2].astype(np.uint16)
    for sample, table, index in (
        (0, to_red, red),
        (2, to_blue, blue),
        (1, to_green, (blue << 8) + red),
    ):
        plane = table.take(index)
        plane += luma
        values[..., sample] = np.clip(plane, 0, 255, out=plane)
