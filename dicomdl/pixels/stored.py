"""pixels.stored"""

import contextlib
from collections.abc import Iterator
from typing import Any, Final

import numpy as np

from dicomdl.arrays import Values
from dicomdl.errors import DecodeError, PixelError, UsageError
from dicomdl.geometry.grid import halved
from dicomdl.headers.uids import PLAIN_BIG, PLAIN_LITTLE, content_of
from dicomdl.pixels.bits import HeaderBits, header_rule, keep_bits
from dicomdl.pixels.codestreams import FrameLike

_SUBSAMPLED: Final = frozenset({"YBR_FULL_422", "YBR_PARTIAL_422"})
_DTYPES: Final = {
    (False, bits, representation): np.dtype(
        f"{'ui'[representation]}{bits // 8}" if bits > 1 else "u1"
    )
    for bits in (1, 8, 16, 32, 64)
    for representation in (0, 1)
} | {
    (True, bits, representation): np.dtype(f"f{bits // 8}")
    for bits in (32, 64)
    for representation in (0, 1)
}


def is_native(transfer_syntax_uid: str) -> bool:
    """Whether frames lie in the file as plain samples, so that a part of one can be read by its position.

    True for the little and big endian transfer syntaxes. False for the deflated one, whose frames have no place of
    their own in the file, and for every encapsulated one.
    """
    return transfer_syntax_uid in PLAIN_LITTLE or transfer_syntax_uid in PLAIN_BIG


def stored_dtype(source: FrameLike) -> np.dtype[Any]:
    """The dtype of a frame's stored values, in this machine's byte order.

    uint8 for BitsAllocated 1; else as wide as BitsAllocated (8, 16, 32, 64) and signed where
    PixelRepresentation is 1; float32 or float64 for Float and Double Float Pixel Data.

    Raises
    ------
    DecodeError
        No dtype has that many bits (BitsAllocated 12 of ACR-NEMA). Attribute `bits_allocated`.
    """
    dtype = _DTYPES.get((source.float_pixels, source.bits_allocated, source.pixel_representation))
    if dtype is None:
        raise DecodeError(
            f"BitsAllocated {source.bits_allocated} with PixelRepresentation {source.pixel_representation} cannot be read; "
            "1, 8, 16, 32 and 64 with 0 or 1 can (float pixels: 32 and 64)",
            bits_allocated=source.bits_allocated,
            pixel_representation=source.pixel_representation,
        )
    return dtype


def frame_shape(source: FrameLike, reduce: int = 0) -> tuple[int, ...]:
    """The shape of a frame's stored values.

    (rows, columns), or (rows, columns, samples) where there are several.
    """
    return _shape(source, halved(source.rows, reduce), halved(source.columns, reduce))


def _shape(source: FrameLike, rows: int, columns: int | None = None) -> tuple[int, ...]:
    size = (rows, source.columns if columns is None else columns)
    return size if source.samples_per_pixel == 1 else (*size, source.samples_per_pixel)


def is_label(source: FrameLike) -> bool:
    """Whether samples have no mean: labels of segmentations, indices of palettes, single bits."""
    named_so = (
        content_of(source.sop_class_uid) == "segmentation"
        or source.photometric_interpretation == "PALETTE COLOR"
    )
    return named_so or source.bits_allocated == 1


def add_frame_note(error: BaseException, source: FrameLike) -> None:
    """Note on an error the file and frame that it is about, unless it names its file already."""
    if not any(note.startswith("file: ") for note in getattr(error, "__notes__", ())):
        error.add_note(f"file: {source.path}, frame {source.frame_number}")


@contextlib.contextmanager
def named(source: FrameLike) -> Iterator[None]:
    """Add file and frame to each PixelError that leaves the block.

    This is the edge where they are known.
    """
    try:
        yield
    except PixelError as error:
        add_frame_note(error, source)
        raise


def result_array(out: Values | None, source: FrameLike, rows: int) -> Values:
    """The array to fill: `out` after a check that it fits, or a new one."""
    shape, dtype = _shape(source, rows), stored_dtype(source)
    if out is None:
        return np.empty(shape, dtype)
    check_out(out, shape, dtype)
    return out


def check_out(out: Values, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    if (
        out.shape != shape
        or out.dtype != dtype
        or not (out.flags.c_contiguous and out.flags.writeable)
    ):
        raise UsageError(
            f"out must be a writeable C-contiguous {dtype} array of shape {shape}, found {out.dtype} of {out.shape}",
            expected_shape=shape,
            found_shape=out.shape,
        )


def is_plain(source: FrameLike) -> bool:
    """Whether the file's bytes are the result's, at most with the bytes of each sample reversed."""
    if source.deflated or source.bits_allocated < 8 or not is_native(source.transfer_syntax_uid):
        return False
    if source.bits_allocated == 8 and source.transfer_syntax_uid in PLAIN_BIG:
        return False  # may be stored in words: see _native_bytes
    return source.samples_per_pixel == 1 or (
        source.planar_configuration == 0 and not is_subsampled(source, source.byte_length)
    )


def stored_range(source: FrameLike) -> tuple[int, int]:
    """The smallest and largest stored value that a frame's header allows.

    What `read_frame` gives lies between them.
    """
    bits, _ = stored_bits(source)
    return (
        (-(1 << (bits - 1)), (1 << (bits - 1)) - 1)
        if source.pixel_representation == 1 and bits > 1
        else (0, (1 << bits) - 1)
    )


def stored_bits(source: FrameLike) -> tuple[int, int]:
    """BitsStored and HighBit; values that cannot be are taken as the usual ones.

    All bits, right-aligned.
    """
    stored = (
        source.bits_stored
        if 0 < (source.bits_stored or 0) <= source.bits_allocated
        else source.bits_allocated
    )
    high = (
        source.high_bit if stored <= (source.high_bit or 0) < source.bits_allocated else stored - 1
    )
    return stored, high


def header_bits(source: FrameLike) -> HeaderBits:
    """What decides which bits of a frame's samples count."""
    stored, high = stored_bits(source)
    return HeaderBits(source.bits_allocated, stored, high, source.pixel_representation == 1)


def as_meant(values: Values, source: FrameLike) -> None:
    """Turn the samples of plain frames, as they lie in the file, into stored values, in place."""
    if (source.transfer_syntax_uid in PLAIN_BIG) == np.little_endian:
        values.byteswap(inplace=True)
    keep_stored_bits(values, source)


def keep_stored_bits(values: Values, source: FrameLike) -> None:
    """Clear what is outside of BitsStored, align the rest right and extend its sign, in place (PS3.5 8.1.1)."""
    if not source.float_pixels:
        keep_bits(values, header_rule(header_bits(source)))


def whole_bits(source: FrameLike) -> int:
    return source.rows * source.columns * source.samples_per_pixel * source.bits_allocated


def frame_bits(source: FrameLike, found_bytes: int) -> int:
    # Two pixels of a subsampled frame share one pair of chrominance samples (PS3.3 C.7.6.3.1.2).
    return whole_bits(source) // 3 * 2 if is_subsampled(source, found_bytes) else whole_bits(source)


def is_subsampled(source: FrameLike, found_bytes: int) -> bool:
    """Whether a frame of `found_bytes` holds one pair of chrominance samples for two pixels.

    Some are only labelled so.
    """
    if source.samples_per_pixel != 3 or source.photometric_interpretation not in _SUBSAMPLED:
        return False
    # two thirds, and the byte that makes the length even
    return found_bytes <= whole_bits(source) // 12 + 1
