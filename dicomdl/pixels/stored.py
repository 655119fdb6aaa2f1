"""Shape, dtype and bits of a frame's stored values, as its header declares them."""

from typing import Any, Final

import numpy as np

from dicomdl.arrays import Values
from dicomdl.errors import DecodeError, PixelError, UsageError
from dicomdl.geometry.grid import halved
from dicomdl.headers.uids import PLAIN_BIG, PLAIN_LITTLE, content_of
from dicomdl.pixels.bits import HeaderBits, header_bits_of, header_rule, keep_bits
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
    """Whether frames are plain samples in the file, so that parts can be read by byte range.

    True for the little and big endian transfer syntaxes. False for the deflated one, where frames
    have no byte range, and for every encapsulated one.
    """
    return transfer_syntax_uid in PLAIN_LITTLE or transfer_syntax_uid in PLAIN_BIG


def stored_dtype(source: FrameLike) -> np.dtype[Any]:
    """Return the dtype of a frame's stored values, in this machine's byte order.

    The dtype is uint8 for BitsAllocated 1; else as wide as BitsAllocated (8, 16, 32, 64) and signed
    if PixelRepresentation is 1; float32 or float64 for Float and Double Float Pixel Data.

    Raises
    ------
    DecodeError
        No dtype has that many bits (BitsAllocated 12 of ACR-NEMA). Attribute `bits_allocated`.
    """
    dtype = _DTYPES.get((source.float_pixels, source.bits_allocated, source.pixel_representation))
    if dtype is None:
        raise DecodeError(
            f"BitsAllocated {source.bits_allocated} with PixelRepresentation "
            f"{source.pixel_representation} cannot be read; "
            "1, 8, 16, 32 and 64 with 0 or 1 can (float pixels: 32 and 64)",
            bits_allocated=source.bits_allocated,
            pixel_representation=source.pixel_representation,
        )
    return dtype


def frame_shape(source: FrameLike, reduce: int = 0) -> tuple[int, ...]:
    """Return the shape of a frame's stored values after `reduce` halvings.

    (rows, columns), or (rows, columns, samples) where there are several samples.
    """
    return _shape(source, halved(source.rows, reduce), halved(source.columns, reduce))


def _shape(source: FrameLike, rows: int, columns: int | None = None) -> tuple[int, ...]:
    """Return the shape of an array of some rows of a frame."""
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
    """Add the file and frame as a note to an error, unless its file is noted already."""
    if not any(note.startswith("file: ") for note in getattr(error, "__notes__", ())):
        error.add_note(f"file: {source.path}, frame {source.frame_number}")


class named:
    """Add file and frame to each PixelError and MemoryError that leaves the block.

    The block is the edge where both are known. A class, because a generator costs 1 us per frame.
    """

    __slots__ = ("_source",)

    def __init__(self, source: FrameLike) -> None:
        self._source = source

    def __enter__(self) -> None:
        return

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        # Memory runs out for a frame, too.
        if isinstance(error, PixelError | MemoryError):
            add_frame_note(error, self._source)


def result_array(out: Values | None, source: FrameLike, rows: int) -> Values:
    """Return the array to fill: `out` after a check that it fits, or a new one."""
    shape, dtype = _shape(source, rows), stored_dtype(source)
    if out is None:
        return np.empty(shape, dtype)
    check_out(out, shape, dtype)
    return out


def check_out(out: Values, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    """Require a writeable C-contiguous array of the given shape and dtype."""
    if (
        out.shape != shape
        or out.dtype != dtype
        or not (out.flags.c_contiguous and out.flags.writeable)
    ):
        raise UsageError(
            f"out must be a writeable C-contiguous {dtype} array of shape {shape}, "
            f"found {out.dtype} of {out.shape}",
            expected_shape=shape,
            found_shape=out.shape,
        )


def is_plain(source: FrameLike) -> bool:
    """Whether the file's bytes are those of the result, up to the byte order of a sample."""
    if source.deflated or source.bits_allocated < 8 or not is_native(source.transfer_syntax_uid):
        return False
    if source.bits_allocated == 8 and source.transfer_syntax_uid in PLAIN_BIG:
        # The samples may be stored in words: see `_native.native_bytes`.
        return False
    return source.samples_per_pixel == 1 or (
        source.planar_configuration == 0 and not is_subsampled(source, source.byte_length)
    )


def stored_range(source: FrameLike) -> tuple[int, int]:
    """Return the smallest and largest stored value that a frame's header allows.

    The values of `read_frame` lie between them.
    """
    _, bits, _, signed = header_bits(source)
    return (
        (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if signed and bits > 1 else (0, (1 << bits) - 1)
    )


def header_bits(source: FrameLike) -> HeaderBits:
    """Return the facts that decide which bits of a frame's samples count."""
    return header_bits_of(
        source.bits_allocated, source.bits_stored, source.high_bit, source.pixel_representation
    )


def as_meant(values: Values, source: FrameLike) -> None:
    """Turn samples of a plain frame, as they are in the file, into stored values, in place."""
    if (source.transfer_syntax_uid in PLAIN_BIG) == np.little_endian:
        values.byteswap(inplace=True)
    keep_stored_bits(values, source)


def keep_stored_bits(values: Values, source: FrameLike) -> None:
    """Clear bits outside BitsStored, align right and extend the sign, in place (PS3.5 8.1.1)."""
    if not source.float_pixels:
        keep_bits(values, header_rule(header_bits(source)))


def whole_bits(source: FrameLike) -> int:
    """Return the bits of all samples of a frame without subsampling."""
    return source.rows * source.columns * source.samples_per_pixel * source.bits_allocated


def frame_bits(source: FrameLike, found_bytes: int) -> int:
    # Two pixels of a subsampled frame share one pair of chrominance samples
    # (PS3.3 C.7.6.3.1.2).
    """Return the bits of a frame that has `found_bytes` in the file."""
    return whole_bits(source) // 3 * 2 if is_subsampled(source, found_bytes) else whole_bits(source)


def is_subsampled(source: FrameLike, found_bytes: int) -> bool:
    """Whether a frame of `found_bytes` holds one pair of chrominance samples per two pixels.

    Some frames are only labelled so.
    """
    if source.samples_per_pixel != 3 or source.photometric_interpretation not in _SUBSAMPLED:
        return False
    # Two thirds of the bytes, and one byte that makes the length even.
    return found_bytes <= whole_bits(source) // 12 + 1
