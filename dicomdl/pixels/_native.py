"""Bytes of native frames, and their arrangement as samples.

Native means uncompressed: plain little or big endian, in items, or in a deflated data set. A
deflated frame is reachable only by inflating all data before it, so inflated files are cached up to
256 MiB each.
"""

import contextlib
from collections.abc import Iterator
from typing import Final

import numpy as np

from dicomdl.arrays import Values
from dicomdl.errors import DecodeError, HeaderError
from dicomdl.headers.inflate import inflate, inflate_data_set, inflate_range
from dicomdl.headers.uids import (
    DEFLATED_IN_ITEMS,
    GE_BIG_ENDIAN_PIXELS,
    NATIVE_IN_ITEMS,
    PLAIN_BIG,
    syntaxes_of,
)
from dicomdl.pixels.codestreams import FrameLike, join_fragments
from dicomdl.pixels.stored import (
    frame_bits,
    is_subsampled,
    keep_stored_bits,
    whole_bits,
)
from dicomdl.storage.memory import Share, share
from dicomdl.storage.sources import opened, read_range, truncated

UNCODED: Final = syntaxes_of("", "deflate")


def _read_bytes(source: FrameLike, offset: int, length: int) -> bytes:
    """Read `length` bytes at `offset`; refuse before allocation if the file is too short."""
    with opened(source.file) as handle:
        return read_range(handle, offset, length)


def native_bytes(source: FrameLike) -> Values:
    """Return the frame's bytes as uint8.

    Items are joined, deflated data inflated, and big endian words swapped where they hold samples
    of 8 bits or 1 bit.
    """
    if source.deflated:
        return _inflated(source)
    if source.transfer_syntax_uid in (NATIVE_IN_ITEMS, DEFLATED_IN_ITEMS):
        data = join_fragments(_read_bytes(source, source.byte_offset, source.byte_length))
        if source.transfer_syntax_uid == DEFLATED_IN_ITEMS:
            with _damage_as_decode_error():
                data = inflate([data], (whole_bits(source) + 7) // 8)
        return np.frombuffer(data, np.uint8)
    offset, length = source.byte_offset, source.byte_length
    if source.bits_allocated <= 8 and source.transfer_syntax_uid in PLAIN_BIG:
        # Frames lie end to end without padding (PS3.5 8.1.1).
        element = offset - (source.frame_number - 1) * frame_bits(source, length) // 8
        if _is_in_words(source, element):
            # OW: the element is a sequence of 16-bit words with swapped bytes in big endian
            # (PS3.5 7.3, 8.1.2). A frame may start inside a word.
            lead = (offset - element) % 2
            words = np.frombuffer(
                _read_bytes(source, offset - lead, (lead + length + 1) // 2 * 2), np.uint16
            )
            return words.byteswap().view(np.uint8)[lead : lead + length]
    return np.frombuffer(_read_bytes(source, offset, length), np.uint8)


def _is_in_words(source: FrameLike, element: int) -> bool:
    """Whether the value that starts at `element` has VR OW, which only its header states.

    Implicit VR means OW (PS3.5 A.1).
    """
    if source.transfer_syntax_uid == GE_BIG_ENDIAN_PIXELS:
        return True
    return element >= 12 and _read_bytes(source, element - 12, 6)[4:] == b"OW"


def arrange(raw: Values, source: FrameLike, values: Values) -> None:
    """Write the samples of one native frame into `values`.

    Bits are unpacked, chrominance is doubled, and planes are interleaved.
    """
    bits, first = frame_bits(source, raw.nbytes), source.bit_offset
    needed = (first + bits + 7) // 8
    if raw.nbytes < needed:
        raise truncated(needed, raw.nbytes)
    # The first pixel is the lowest bit (PS3.5 8.1.1).
    if source.bits_allocated == 1:
        samples = np.unpackbits(raw[:needed], bitorder="little")[first : first + bits]
    else:
        samples = raw[:needed].view(
            values.dtype.newbyteorder(">" if source.transfer_syntax_uid in PLAIN_BIG else "<")
        )
    if is_subsampled(source, raw.nbytes):
        _double_chrominance(samples, values)
    elif source.samples_per_pixel > 1 and source.planar_configuration == 1:
        values[...] = np.moveaxis(
            samples.reshape(source.samples_per_pixel, source.rows, source.columns), 0, -1
        )
    else:
        values[...] = samples.reshape(values.shape)
    if source.bits_allocated > 1:
        keep_stored_bits(values, source)


def _double_chrominance(samples: Values, values: Values) -> None:
    """Expand Y0 Y1 CB CR to (Y0, CB, CR), (Y1, CB, CR).

    The chrominance pair belongs to both pixels (PS3.3 C.7.6.3.1.2).
    """
    rows, columns, _ = values.shape
    if columns % 2:
        raise DecodeError(
            f"subsampled frames have an even number of columns, found {columns}", columns=columns
        )
    pairs = samples.reshape(rows, columns // 2, 4)
    for pixel in (0, 1):
        values[:, pixel::2, 0] = pairs[..., pixel]
        values[:, pixel::2, 1:] = pairs[..., 2:]


_MOST_CACHED_BYTES: Final = 256 * 2**20
# Bytes that a deflated file may expand to in the cache: a file of 400 kB must not take 256 MiB.
_FREE_CACHED_BYTES: Final = 64 * 2**20
_MOST_CACHED_EXPANSION: Final = 100
_files: Final[Share[bytes]] = share("inflated files", len)


def _inflated(source: FrameLike) -> Values:
    """Return the frame's bytes from a deflated data set (PS3.5 A.5).

    A frame is reachable only by inflating all data before it. The second and later frames of a file
    therefore cache the inflated data, up to 256 MiB, for the next frame: 60 frames of 512 x 512
    take 0.2 s instead of 6.1. The first frame, often the only one, stops inflating at its end and
    caches nothing, as do frames of files that expand more than a hundredfold. Two threads may
    inflate the same file.
    """
    start, length = source.byte_offset, source.byte_length
    with opened(source.file) as handle, _damage_as_decode_error():
        whole = _files.find(handle.source)
        if whole is None or start + length > len(whole):
            most = min(
                _MOST_CACHED_BYTES,
                max(_FREE_CACHED_BYTES, _MOST_CACHED_EXPANSION * handle.size),
            )
            if source.frame_number == 1 or start + length > most:
                frame = inflate_range(handle.read_at, handle.size, start, length)
                if len(frame) < length:
                    raise truncated(length, len(frame))
                return np.frombuffer(frame, np.uint8)
            data = inflate_data_set(handle.read_at, handle.size, most)
            whole = _files.keep(handle.source, data)
    if len(whole) - start < length:
        raise truncated(length, max(0, len(whole) - start))
    return np.frombuffer(whole, np.uint8, length, start)


@contextlib.contextmanager
def _damage_as_decode_error() -> Iterator[None]:
    """Raise the HeaderError of damaged deflated data as a DecodeError."""
    try:
        yield
    except HeaderError as error:
        raise DecodeError(str(error)) from None
