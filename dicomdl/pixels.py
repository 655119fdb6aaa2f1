"""The stored values of frames: native bytes straight into the array, or one codec call.

Native little endian frames are one `os.preadv` into the result; only the bits above BitsStored cost a second pass, in
place. Everything else (words of the other endianness, planes, single bits, deflated data sets, subsampled colour) is read
first and arranged then. Compressed frames are checked before they are decoded, because decoders are not to be
trusted with damage: libjpeg-turbo and pylibjpeg-libjpeg return wrong pixels for a cut JPEG lossless frame without a word.

This is the only door to imagecodecs and to pydicom's decoders; gdcm is never asked, since it aborts the process
on damaged frames (41 of 427 mutated JPEG frames).
"""

import os
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Final, Literal, NamedTuple, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from dicomdl.errors import DecodeError, FileChanged, PixelError, TruncatedPixels, UnsupportedSyntax, UsageError
from dicomdl.frame import Frame, FrameSource

Source: TypeAlias = FrameSource | Frame
Values: TypeAlias = NDArray[Any]
Colour = Literal["rgb", "stored"]
Result = TypeVar("Result")

_BIG_ENDIAN: Final = "1.2.840.10008.1.2.2"
_GE_BIG_ENDIAN_PIXELS: Final = "1.2.840.113619.5.2"  # implicit little endian header, big endian pixels
_DEFLATED: Final = "1.2.840.10008.1.2.1.99"
_LITTLE: Final = frozenset({"1.2.840.10008.1.2", "1.2.840.10008.1.2.1"})
_BIG: Final = frozenset({_BIG_ENDIAN, _GE_BIG_ENDIAN_PIXELS})
_SUBSAMPLED: Final = frozenset({"YBR_FULL_422", "YBR_PARTIAL_422"})

_DTYPES: Final = {
    (False, bits, representation): np.dtype(f"{'ui'[representation]}{bits // 8}" if bits > 1 else "u1")
    for bits in (1, 8, 16, 32, 64)
    for representation in (0, 1)
} | {(True, bits, representation): np.dtype(f"f{bits // 8}") for bits in (32, 64) for representation in (0, 1)}

_OPEN_FLAGS: Final = os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)


# --- what a frame becomes -----------------------------------------------------------------------------------------


def is_native(transfer_syntax_uid: str) -> bool:
    """Whether frames lie in the file as plain samples, so that a part of one can be read by its position.

    True for the little and big endian transfer syntaxes. False for the deflated one, whose frames have no place of
    their own in the file, and for every encapsulated one.
    """
    return transfer_syntax_uid in _LITTLE or transfer_syntax_uid in _BIG


def stored_dtype(source: Source) -> np.dtype[Any]:
    """The dtype of a frame's stored values, in this machine's byte order.

    uint8 for BitsAllocated 1; else as wide as BitsAllocated (8, 16, 32, 64) and signed where PixelRepresentation is 1;
    float32 or float64 for Float and Double Float Pixel Data.

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


def frame_shape(source: Source) -> tuple[int, ...]:
    """The shape of a frame's stored values: (rows, columns), or (rows, columns, samples) where there are several."""
    return _shape(source, source.rows)


def _shape(source: Source, rows: int) -> tuple[int, ...]:
    if source.samples_per_pixel == 1:
        return (rows, source.columns)
    return (rows, source.columns, source.samples_per_pixel)


# --- reading ------------------------------------------------------------------------------------------------------


def read_stored(source: Source, out: Values | None = None, *, colour: Colour = "rgb") -> Values:
    """The stored values of one frame, as the file means them before any rescale.

    Bits outside of BitsStored are cleared or sign-extended (PS3.5 8.1.1). Colour frames are pixel-interleaved whatever their
    PlanarConfiguration; PALETTE COLOR gives the indices (see `palette_to_rgb`). Safe to call from threads: reading, decoding
    and the passes over the values release the GIL.

    Parameters
    ----------
    source
        Where the frame is and how it is coded; a `Frame` will do.
    out
        C-contiguous array of `frame_shape(source)` and `stored_dtype(source)` to fill. Its content is undefined after an error.
    colour
        "rgb" turns the YBR_* photometric interpretations into RGB (PS3.3 C.7.6.3.1.2); "stored" leaves luminance and
        chrominance. JPEG 2000 decoders always undo YBR_RCT and YBR_ICT, so those are RGB in both.

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
    UnsupportedSyntax
        There is no decoder for the transfer syntax.
    """
    if colour not in ("rgb", "stored"):
        raise UsageError(f"colour is {colour!r}; it is 'rgb' or 'stored'")
    if _is_plain(source):
        return _read_plain(source, 0, source.rows, out, colour)
    if is_native(source.transfer_syntax_uid) or source.transfer_syntax_uid == _DEFLATED:
        values = _result(out, source, source.rows)
        _arrange(_native_bytes(source), source, source.bit_offset, values)
        space = source.photometric_interpretation
    else:
        values, space = _read_encapsulated(source, out)
    if colour == "rgb":
        _to_rgb(values, space, source)
    return values


def read_rows(source: Source, row_start: int, row_stop: int, out: Values | None = None, *, colour: Colour = "rgb") -> Values:
    """The stored values of the rows from `row_start` up to, not including, `row_stop` of one frame.

    Native frames whose samples lie row by row read those bytes only; all others are decoded whole and cut.
    Parameters, values and errors are those of `read_stored`; the shape is (row_stop - row_start, columns[, samples]).

    Raises
    ------
    UsageError
        The rows are not those of the frame, or `out` does not fit.
    """
    if not 0 <= row_start <= row_stop <= source.rows:
        raise UsageError(f"rows {row_start} to {row_stop} of a frame with {source.rows}", rows=source.rows)
    if _is_plain(source):
        return _read_plain(source, row_start, row_stop, out, colour)
    values = _result(out, source, row_stop - row_start)
    values[...] = read_stored(source, colour=colour)[row_start:row_stop]
    return values


def palette_to_rgb(indices: Values, path: str | os.PathLike[str]) -> Values:
    """Colours of PALETTE COLOR frames, by the look-up tables of their file (PS3.3 C.7.6.3.1.5, C.7.6.3.1.6).

    Parameters
    ----------
    indices
        Stored values of shape (..., rows, columns).
    path
        The file that they came from.

    Returns
    -------
    ndarray
        RGB of shape (..., rows, columns, 3), uint8 or uint16 as the tables are.

    Raises
    ------
    PixelError
        The file has no usable look-up tables.
    """
    import pydicom
    from pydicom.pixels.processing import apply_color_lut

    try:
        colours = apply_color_lut(indices, pydicom.dcmread(path, stop_before_pixels=True))
    except (ValueError, AttributeError, KeyError, TypeError, IndexError, pydicom.errors.InvalidDicomError) as error:
        raise PixelError(f"the palette colour look-up tables cannot be used ({type(error).__name__})") from error
    return colours[..., :3]  # a fourth table would be the opacity


def _result(out: Values | None, source: Source, rows: int) -> Values:
    """The array to fill: `out` after a check that it fits, or a new one."""
    shape, dtype = _shape(source, rows), stored_dtype(source)
    if out is None:
        return np.empty(shape, dtype)
    if out.shape != shape or out.dtype != dtype or not (out.flags.c_contiguous and out.flags.writeable):
        raise UsageError(
            f"out must be a writeable C-contiguous {dtype} array of shape {shape}, found {out.dtype} of {out.shape}",
            expected_shape=shape,
            found_shape=out.shape,
        )
    return out


# --- bytes of the file --------------------------------------------------------------------------------------------


def _read_into(source: Source, offset: int, buffer: Values) -> None:
    """Fill `buffer` from `offset` of the file, without a copy."""
    found = _with_file(source, lambda descriptor: _fill(descriptor, buffer, offset))
    if found < buffer.nbytes:
        raise _truncated(buffer.nbytes, found)


def _read_bytes(source: Source, offset: int, length: int) -> bytes:
    """`length` bytes at `offset`; refused before they are allocated when the file is too short for them."""
    if offset + length > source.file_bytes:
        raise _truncated(length, max(0, source.file_bytes - offset))
    data = _with_file(source, lambda descriptor: _take(descriptor, offset, length))
    if len(data) < length:
        raise _truncated(length, len(data))
    return data


def _with_file(source: Source, read: Callable[[int], Result]) -> Result:
    """What `read` makes of the open file, which must be the one that was scanned."""
    try:
        descriptor = os.open(source.path, _OPEN_FLAGS)
    except FileNotFoundError:
        raise FileChanged("the file that was scanned is gone: scan again") from None
    except OSError as error:
        raise PixelError(f"the file cannot be opened: {error.strerror}", errno=error.errno) from error
    try:
        _check_unchanged(source, os.fstat(descriptor))
        return read(descriptor)
    except OSError as error:
        raise PixelError(f"the file cannot be read: {error.strerror}", errno=error.errno) from error
    finally:
        os.close(descriptor)


def _check_unchanged(source: Source, status: os.stat_result) -> None:
    """Size and modification time as the scan saw them; a negative time stands for a file that was not scanned."""
    if source.file_mtime_ns >= 0 and (status.st_size != source.file_bytes or status.st_mtime_ns != source.file_mtime_ns):
        raise FileChanged(
            f"the file changed after it was scanned ({source.file_bytes} bytes then, {status.st_size} now): scan again",
            expected_bytes=source.file_bytes,
            found_bytes=status.st_size,
        )


def _fill(descriptor: int, buffer: Values, offset: int) -> int:
    """How many bytes of `buffer` could be read; one call does it unless there are more than 2 GiB."""
    found = _read_once(descriptor, buffer.data, offset)
    while 0 < found < buffer.nbytes:
        more = _read_once(descriptor, buffer.data.cast("B")[found:], offset + found)
        if more == 0:
            break
        found += more
    return found


def _read_once(descriptor: int, buffer: memoryview, offset: int) -> int:
    if hasattr(os, "preadv"):
        return os.preadv(descriptor, [buffer], offset)
    with open(descriptor, "rb", buffering=0, closefd=False) as file:  # Windows
        file.seek(offset)
        return file.readinto(buffer) or 0


def _take(descriptor: int, offset: int, length: int) -> bytes:
    with open(descriptor, "rb", buffering=0, closefd=False) as file:
        file.seek(offset)
        data = file.read(length) or b""
        while len(data) < length and (more := file.read(length - len(data))):
            data += more
        return data


def _truncated(expected_bytes: int, found_bytes: int) -> TruncatedPixels:
    return TruncatedPixels(
        f"the frame needs {expected_bytes} bytes, found {found_bytes}", expected_bytes=expected_bytes, found_bytes=found_bytes
    )


# --- native frames ------------------------------------------------------------------------------------------------


def _is_plain(source: Source) -> bool:
    """Whether the file's bytes are the result's, at most with the bytes of each sample reversed."""
    if source.deflated or source.bits_allocated < 8 or not is_native(source.transfer_syntax_uid):
        return False
    if source.bits_allocated == 8 and source.transfer_syntax_uid in _BIG:
        return False  # may be stored in words: see _native_bytes
    return source.samples_per_pixel == 1 or (source.planar_configuration == 0 and source.photometric_interpretation not in _SUBSAMPLED)


def _read_plain(source: Source, row_start: int, row_stop: int, out: Values | None, colour: Colour) -> Values:
    row_bytes = source.columns * source.samples_per_pixel * (source.bits_allocated // 8)
    if source.byte_length < source.rows * row_bytes:
        raise _truncated(source.rows * row_bytes, source.byte_length)
    values = _result(out, source, row_stop - row_start)
    if values.size:
        _read_into(source, source.byte_offset + row_start * row_bytes, values)
    if (source.transfer_syntax_uid in _BIG) == (np.little_endian):
        values.byteswap(inplace=True)
    _keep_stored_bits(values, source)
    if colour == "rgb":
        _to_rgb(values, source.photometric_interpretation, source)
    return values


def _stored_bits(source: Source) -> tuple[int, int]:
    """BitsStored and HighBit; values that cannot be are taken as the usual ones: all bits, right-aligned."""
    stored = source.bits_stored if 0 < source.bits_stored <= source.bits_allocated else source.bits_allocated
    high = source.high_bit if stored <= source.high_bit < source.bits_allocated else stored - 1
    return stored, high


def _keep_stored_bits(values: Values, source: Source) -> None:
    """Clear what is outside of BitsStored, align the rest right and extend its sign, in place (PS3.5 8.1.1)."""
    stored, high = _stored_bits(source)
    if stored == source.bits_allocated or source.float_pixels:
        return
    if source.pixel_representation == 1:
        _extend_sign(values, high, stored)
        return
    if high >= stored:  # ACR-NEMA wrote left-aligned samples
        np.right_shift(values, high + 1 - stored, out=values)
    np.bitwise_and(values, (1 << stored) - 1, out=values)


def _extend_sign(values: Values, high: int, stored: int) -> None:
    """Make two's complement numbers of the `stored` bits that end at bit `high`, in place."""
    width = 8 * values.itemsize
    if high + 1 < width:
        np.left_shift(values, width - 1 - high, out=values)
    if stored < width:
        np.right_shift(values, width - stored, out=values)


def _native_bytes(source: Source) -> Values:
    """The frame's bytes as uint8: inflated, and out of big endian words where 8-bit or 1-bit samples were written in those."""
    if source.deflated:
        return np.frombuffer(_inflated(source), np.uint8)
    offset, length = source.byte_offset, source.byte_length
    if source.bits_allocated > 8 or source.transfer_syntax_uid not in _BIG:
        return np.frombuffer(_read_bytes(source, offset, length), np.uint8)
    element = offset - _bits_before(source) // 8
    if not _is_in_words(source, element):
        return np.frombuffer(_read_bytes(source, offset, length), np.uint8)
    # OW: the element is a row of 16-bit words, whose bytes big endian swaps (PS3.5 7.3, 8.1.2); frames may start inside one.
    lead = (offset - element) % 2
    words = np.frombuffer(_read_bytes(source, offset - lead, (lead + length + 1) // 2 * 2), np.uint16)
    return words.byteswap().view(np.uint8)[lead : lead + length]


def _frame_bits(source: Source) -> int:
    # Two pixels of a subsampled frame share one pair of chrominance samples (PS3.3 C.7.6.3.1.2).
    samples = 2 if _is_subsampled(source) else source.samples_per_pixel
    return source.rows * source.columns * samples * source.bits_allocated


def _is_subsampled(source: Source) -> bool:
    return source.samples_per_pixel == 3 and source.photometric_interpretation in _SUBSAMPLED


def _bits_before(source: Source) -> int:
    """How far into the pixel data element the frame starts: frames lie end to end without padding (PS3.5 8.1.1)."""
    return (source.frame_number - 1) * _frame_bits(source)


def _is_in_words(source: Source, element: int) -> bool:
    """Whether the value that starts at `element` has VR OW, which only its header tells; implicit VR means OW (PS3.5 A.1)."""
    if source.transfer_syntax_uid == _GE_BIG_ENDIAN_PIXELS:
        return True
    return element >= 12 and _read_bytes(source, element - 12, 6)[4:] == b"OW"


def _arrange(raw: Values, source: Source, bit_offset: int, values: Values) -> None:
    """Put the samples of one native frame into `values`: bits unpacked, chrominance doubled, planes interleaved."""
    needed = (bit_offset + _frame_bits(source) + 7) // 8
    if raw.nbytes < needed:
        raise _truncated(needed, raw.nbytes)
    if source.bits_allocated == 1:  # the first pixel is the lowest bit (PS3.5 8.1.1)
        samples = np.unpackbits(raw[:needed], bitorder="little")[bit_offset : bit_offset + _frame_bits(source)]
    else:
        dtype = values.dtype.newbyteorder(">") if source.transfer_syntax_uid in _BIG else values.dtype.newbyteorder("<")
        samples = raw[:needed].view(dtype)
    if _is_subsampled(source):
        _double_chrominance(samples, values)
    elif source.samples_per_pixel > 1 and source.planar_configuration == 1:
        values[...] = np.moveaxis(samples.reshape(source.samples_per_pixel, source.rows, source.columns), 0, -1)
    else:
        values[...] = samples.reshape(values.shape)
    if source.bits_allocated > 1:
        _keep_stored_bits(values, source)


def _double_chrominance(samples: Values, values: Values) -> None:
    """Y0 Y1 CB CR -> (Y0, CB, CR), (Y1, CB, CR): the pair belongs to both pixels (PS3.3 C.7.6.3.1.2)."""
    rows, columns, _ = values.shape
    if columns % 2:
        raise DecodeError(f"subsampled frames have an even number of columns, found {columns}", columns=columns)
    pairs = samples.reshape(rows, columns // 2, 4)
    for pixel in (0, 1):
        values[:, pixel::2, 0] = pairs[..., pixel]
        values[:, pixel::2, 1:] = pairs[..., 2:]


# --- the deflated data set ----------------------------------------------------------------------------------------


def _inflated(source: Source) -> bytes:
    """The frame's bytes out of a deflated data set (PS3.5 A.5), inflated no further than the frame's end."""
    data = _read_bytes(source, 0, source.file_bytes)
    limit = source.byte_offset + source.byte_length
    inflated = _inflate(data[_end_of_meta(data) :], limit)
    if len(inflated) < limit:
        raise _truncated(source.byte_length, max(0, len(inflated) - source.byte_offset))
    return inflated[source.byte_offset :]


def _inflate(data: bytes, limit: int) -> bytes:
    try:
        return zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, limit)
    except zlib.error as error:
        raise DecodeError(f"the deflated bytes are damaged ({error})") from None


def _end_of_meta(data: bytes) -> int:
    """Where the file meta information (group 0002, explicit VR little endian: PS3.10 7.1) ends."""
    position = 132 if data[128:132] == b"DICM" else 0
    while data[position : position + 2] == b"\x02\x00":
        if data[position + 4 : position + 6] in (b"OB", b"UN", b"OW", b"SQ", b"UT"):
            position += 12 + int.from_bytes(data[position + 8 : position + 12], "little")
        else:
            position += 8 + int.from_bytes(data[position + 6 : position + 8], "little")
    return position


# --- encapsulated frames ------------------------------------------------------------------------------------------


class Codestream(NamedTuple):
    """What a compressed frame says of itself; 0 and "" where its format does not say or it was not looked up."""

    rows: int = 0
    columns: int = 0
    samples: int = 0
    precision: int = 0
    signed: bool = False
    colour: Literal["", "rgb", "ybr"] = ""
    adobe: bool = False
    segments: int = 0


class Job(NamedTuple):
    """One codestream to decode: `values` is the array that it may be decoded into."""

    stream: bytes
    source: Source
    facts: Codestream
    values: Values


Decode: TypeAlias = Callable[[Job], Values]


class Decoder(NamedTuple):
    """One way to decode. `decode` returns the values of its job, filled, or an array of its own."""

    name: str
    decode: Decode


class Syntax(NamedTuple):
    """How the frames of one transfer syntax are looked at and decoded, best decoder first."""

    inspect: Callable[[bytes], Codestream]
    decoders: tuple[Decoder, ...]
    lossy: bool = False
    bytewise: bool = False  # the samples come out as they would lie in a native frame


def _read_encapsulated(source: Source, out: Values | None) -> tuple[Values, str]:
    """The values of one encapsulated frame and the photometric interpretation that they have."""
    uid = source.transfer_syntax_uid
    if uid not in _SYNTAXES and uid not in _UNPACKERS:
        raise _unsupported(uid)
    if source.float_pixels:
        raise DecodeError("float pixel data cannot be encapsulated (PS3.5 A.4)")
    stream = b"".join(_fragments(_read_bytes(source, source.byte_offset, source.byte_length)))
    if uid in _UNPACKERS:
        raw = _UNPACKERS[uid](stream, (_frame_bits(source) + 7) // 8)
        values = _result(out, source, source.rows)
        _arrange(np.frombuffer(raw, np.uint8), source, 0, values)
        return values, source.photometric_interpretation
    syntax = _SYNTAXES[uid]
    facts = syntax.inspect(stream)
    _check_facts(facts, source, len(stream))
    values = _result(out, source, source.rows)
    decoded = _decode(syntax.decoders, Job(stream, source, facts, values))
    _to_stored(decoded, syntax, facts, source, values)
    return values, _coded_space(facts, source)


def _fragments(data: bytes) -> Iterator[bytes]:
    """The values of the items that hold one frame (PS3.5 A.4)."""
    position = 0
    while position < len(data) and data[position : position + 4] != b"\xfe\xff\xdd\xe0":
        if data[position : position + 4] != b"\xfe\xff\x00\xe0":
            if position + 4 > len(data):
                raise _truncated(position + 8, len(data))
            raise DecodeError(f"no item starts at byte {position} of the encapsulated frame", position=position)
        start = position + 8
        position = start + int.from_bytes(data[position + 4 : start], "little")
        if max(start, position) > len(data):
            raise _truncated(max(start, position), len(data))
        yield data[start:position]


def _check_facts(facts: Codestream, source: Source, stream_bytes: int) -> None:
    """Refuse a codestream that contradicts the header before a decoder allocates anything for it."""
    found = (facts.rows or source.rows, facts.columns or source.columns, facts.samples or source.samples_per_pixel)
    expected = (source.rows, source.columns, source.samples_per_pixel)
    if found != expected:
        raise DecodeError(
            f"the header says {expected} rows, columns, samples, the codestream {found}", expected_shape=expected, found_shape=found
        )
    if facts.precision > max(8, source.bits_allocated):
        raise DecodeError(
            f"the codestream has {facts.precision} bits a sample, BitsAllocated is {source.bits_allocated}",
            bits_allocated=source.bits_allocated,
            precision=facts.precision,
        )
    if facts.segments:
        _check_rle(facts.segments, source, stream_bytes)


def _check_rle(segments: int, source: Source, stream_bytes: int) -> None:
    """One segment a byte of a pixel (PS3.5 G.2), of which two coded bytes give 128 at most."""
    expected = source.samples_per_pixel * source.bits_allocated // 8
    if segments != expected:
        raise DecodeError(f"RLE needs {expected} segments, found {segments}", expected_segments=expected, found_segments=segments)
    if 64 * stream_bytes < _frame_bits(source) // 8:
        raise TruncatedPixels(f"{stream_bytes} bytes of RLE cannot hold the frame", found_bytes=stream_bytes)


def _decode(decoders: tuple[Decoder, ...], job: Job) -> Values:
    """What the first decoder that can returns; the reasons of all of them when none can."""
    reasons = []
    missing = 0
    for decoder in decoders:
        try:
            return _of_shape(decoder.decode(job), job.values.shape)
        except (KeyboardInterrupt, SystemExit):
            raise
        except ImportError:
            missing += 1
            reasons.append(f"{decoder.name} is not installed")
        except BaseException as error:  # Rust decoders panic with a BaseException, which would kill a DataLoader worker
            reasons.append(f"{decoder.name}: {type(error).__name__}: {str(error)[:200]}")
    if missing == len(decoders):
        raise _unsupported(job.source.transfer_syntax_uid, f": {'; '.join(reasons)}")
    raise DecodeError(f"no decoder can read the frame: {'; '.join(reasons)}", reasons=tuple(reasons))


def _of_shape(decoded: Values, shape: tuple[int, ...]) -> Values:
    if decoded.shape == (*shape, 1):
        decoded = decoded[..., 0]
    if decoded.shape != shape:
        raise DecodeError(f"expected shape {shape}, decoded {decoded.shape}", expected_shape=shape, found_shape=decoded.shape)
    return decoded


def _to_stored(decoded: Values, syntax: Syntax, facts: Codestream, source: Source, values: Values) -> None:
    """Bring what the codec returned into `values` with the sign that the header says and no bits above BitsStored."""
    if not np.may_share_memory(decoded, values):
        np.copyto(values, decoded, casting="unsafe")  # same bits; narrower ones were refused with the precision
    if syntax.bytewise:
        _keep_stored_bits(values, source)
        return
    stored, _ = _stored_bits(source)
    width = 8 * values.itemsize
    signed = source.pixel_representation == 1 and values.dtype.kind == "i"
    if signed and decoded.dtype.kind == "u":
        # JPEG and JPEG-LS know no sign, JPEG 2000 streams may be labelled wrongly: the header's counts.
        sign_bits = min(stored, facts.precision or stored)
        _extend_sign(values, sign_bits - 1, sign_bits)
    elif syntax.lossy and signed == (decoded.dtype.kind == "i"):
        # A lossy codec with more bits than BitsStored overshoots; to wrap that round would turn white into black.
        if stored < width and facts.precision != stored:
            np.clip(values, -(1 << stored - 1) if signed else 0, (1 << stored - signed) - 1, out=values)
    elif signed:
        _extend_sign(values, stored - 1, stored)
    elif stored < width:
        np.bitwise_and(values, (1 << stored) - 1, out=values)


def _coded_space(facts: Codestream, source: Source) -> str:
    """The photometric interpretation of the decoded samples.

    What the codestream says goes before the header (PS3.5 8.2.1); a decoder of JPEG 2000 has undone YBR_RCT and YBR_ICT.
    """
    space = source.photometric_interpretation
    if facts.colour == "rgb" or space in ("YBR_RCT", "YBR_ICT"):
        return "RGB"
    if facts.colour == "ybr" and not space.startswith("YBR"):
        return "YBR_FULL"
    return space


def _unsupported(uid: str, reasons: str = "") -> UnsupportedSyntax:
    number = uid.removeprefix("1.2.840.10008.1.2.4.")
    if number.isdigit() and 100 <= int(number) <= 108:
        text = "the frames are a video (MPEG-2, MPEG-4 or HEVC), which dicomdl does not decode; extract it with pydicom and ffmpeg"
    elif number in ("94", "95") or uid in ("1.2.840.10008.1.2.4.204", "1.2.840.10008.1.2.4.205"):
        text = "the pixels are on a JPIP server, not in the file"
    else:
        text = f"no decoder for the transfer syntax{reasons}"
    return UnsupportedSyntax(text, transfer_syntax_uid=uid)


# --- what codestreams say of themselves ---------------------------------------------------------------------------


def _require_end(stream: bytes) -> None:
    """The end marker FFD9 of JPEG, JPEG-LS and JPEG 2000 must be there, before nothing but padding.

    It told 995 of 995 truncated frames from the whole ones, over five codecs. The byte after it may be anything: some pad with a space.
    """
    end = stream.rfind(b"\xff\xd9")
    if end < 0 or stream[end + 3 :].strip(b"\0\xff"):
        raise TruncatedPixels(f"the codestream of {len(stream)} bytes does not end with its end marker", found_bytes=len(stream))


def _inspect_jpeg(stream: bytes) -> Codestream:
    """The frame header of JPEG (SOF, ITU-T T.81 B.2.2) or JPEG-LS (SOF55), and which colours its markers speak of."""
    _require_end(stream)
    facts = Codestream()
    jfif = adobe_rgb = adobe_ybr = False
    for marker, segment in _segments(stream):
        if marker == 0xE0:
            jfif = segment.startswith(b"JFIF\0")
        elif marker == 0xEE and segment.startswith(b"Adobe") and len(segment) >= 12:
            adobe_rgb, adobe_ybr = segment[11] == 0, segment[11] == 1
        elif marker == 0xF7 or (0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)):
            if len(segment) < 6 + 3 * (segment[5] if len(segment) > 5 else 1):
                break
            rows, columns, samples = int.from_bytes(segment[1:3], "big"), int.from_bytes(segment[3:5], "big"), segment[5]
            named_rgb = bytes(segment[6 : 6 + 3 * samples : 3]) in (b"RGB", b"rgb")
            facts = Codestream(rows, columns, samples, segment[0])
            lossless = marker in (0xC3, 0xF7)  # these code the samples as they are: only the header knows their colours
            if samples == 3 and not lossless:
                rgb, ybr = adobe_rgb or named_rgb, jfif or adobe_ybr
                facts = facts._replace(colour="rgb" if rgb else "ybr" if ybr else "", adobe=adobe_ybr)
    if not facts.columns:
        raise DecodeError("the codestream has no JPEG frame header")
    return facts


def _segments(stream: bytes) -> Iterator[tuple[int, bytes]]:
    """(marker, segment without its length) of a JPEG stream up to its first scan."""
    position = 2
    while position + 4 <= len(stream) and stream[position] == 0xFF:
        marker = stream[position + 1]
        if marker == 0xFF:  # a fill byte
            position += 1
            continue
        if marker == 0xDA:
            return
        length = int.from_bytes(stream[position + 2 : position + 4], "big")
        yield marker, stream[position + 4 : position + 2 + length]
        position += 2 + max(length, 2)


def _inspect_jpeg2000(stream: bytes) -> Codestream:
    """The SIZ segment of JPEG 2000 and HTJ2K (ITU-T T.800 A.5.1), also of streams that were wrapped into a JP2 file."""
    _require_end(stream)
    start = stream.find(b"\xff\x4f\xff\x51")
    size = stream[start + 4 : start + 45]
    if start < 0 or len(size) < 41:
        raise DecodeError("the codestream has no JPEG 2000 size segment")
    right, bottom, left, top = (int.from_bytes(size[at : at + 4], "big") for at in (4, 8, 12, 16))
    return Codestream(
        rows=bottom - top,
        columns=right - left,
        samples=int.from_bytes(size[36:38], "big"),
        precision=(size[38] & 0x7F) + 1,
        signed=size[38] > 0x7F,
    )


def _inspect_rle(stream: bytes) -> Codestream:
    """The number of segments, all that RLE says of itself (PS3.5 G.5)."""
    if len(stream) < 64:
        raise _truncated(64, len(stream))
    return Codestream(segments=int.from_bytes(stream[:4], "little"))


def _inspect_jpegxl(stream: bytes) -> Codestream:
    """Only that it is JPEG XL, bare or in a container (ISO/IEC 18181-2): its sizes are packed bits, which the decoder checks."""
    if not stream.startswith((b"\xff\x0a", b"\0\0\0\x0cJXL ")):
        raise DecodeError("the codestream is not JPEG XL")
    return Codestream()


# --- decoders -----------------------------------------------------------------------------------------------------


def _target(job: Job) -> Values | None:
    """The values as the codec would type them, so that it decodes in place; None where it uses another width."""
    width = 1 if job.facts.precision <= 8 else 2 if job.facts.precision <= 16 else 4
    return job.values.view(f"{'i' if job.facts.signed else 'u'}{width}") if width == job.values.itemsize else None


def _decode_jpeg(job: Job) -> Values:
    import imagecodecs

    # Equal colour spaces make libjpeg-turbo return the components as coded, whatever it would guess from the markers.
    space = {3: "YCBCR", 4: "CMYK"}.get(job.source.samples_per_pixel)
    decoded: Values = imagecodecs.jpeg8_decode(job.stream, colorspace=space, outcolorspace=space, out=_target(job))
    return decoded


def _decode_jpegls(job: Job) -> Values:
    import imagecodecs

    decoded: Values = imagecodecs.jpegls_decode(job.stream, out=_target(job))
    return decoded


def _decode_jpeg2000(job: Job) -> Values:
    import imagecodecs

    decoded: Values = imagecodecs.jpeg2k_decode(job.stream, numthreads=1, out=_target(job))
    return decoded


def _decode_jpegxl(job: Job) -> Values:
    import imagecodecs

    decoded: Values = imagecodecs.jpegxl_decode(job.stream, numthreads=1)
    if decoded.itemsize > job.values.itemsize:
        raise DecodeError(f"decoded {decoded.dtype}, BitsAllocated is {job.source.bits_allocated}")
    return decoded


def _decode_rle(job: Job) -> Values:
    import imagecodecs

    source, values = job.source, job.values
    one_plane = source.samples_per_pixel == 1
    planes = values if one_plane else np.empty((source.samples_per_pixel, source.rows, source.columns), values.dtype)
    decoded = imagecodecs.dicomrle_decode(job.stream, values.dtype.str.replace("i", "u"), out=planes.reshape(-1).view(np.uint8).data)
    if len(decoded) != planes.nbytes:
        raise _truncated(planes.nbytes, len(decoded))
    return planes if one_plane else np.moveaxis(planes, 0, -1)


def _decode_by_pydicom(job: Job, *, plugin: str) -> Values:
    from pydicom.pixels.decoders.base import get_decoder

    decoder = get_decoder(job.source.transfer_syntax_uid)
    if plugin not in decoder.available_plugins:
        raise ImportError(plugin)
    if plugin == "pillow" and job.facts.adobe:
        raise DecodeError("Pillow would convert the colours of this frame by itself")
    stream = job.stream + b"\0" * (len(job.stream) % 2)
    items = b"\xfe\xff\x00\xe0\0\0\0\0\xfe\xff\x00\xe0" + len(stream).to_bytes(4, "little") + stream
    names = ("rows", "columns", "samples_per_pixel", "photometric_interpretation", "planar_configuration")
    bits = ("bits_allocated", "bits_stored", "pixel_representation")
    options: dict[str, Any] = {name: getattr(job.source, name) for name in names + bits}
    options |= {"number_of_frames": 1, "pixel_keyword": "PixelData"}
    return decoder.as_array(items, index=0, raw=True, decoding_plugin=plugin, **options)[0]


def _pydicom(*plugins: str) -> tuple[Decoder, ...]:
    return tuple(Decoder(f"pydicom's plugin {plugin}", partial(_decode_by_pydicom, plugin=plugin)) for plugin in plugins)


_JPEG: Final = Decoder("imagecodecs.jpeg8_decode", _decode_jpeg)  # safe on 15,000 damaged frames; ljpeg and jpegsof3 are not
_JPEGLS: Final = Decoder("imagecodecs.jpegls_decode", _decode_jpegls)
_JPEG2000: Final = Decoder("imagecodecs.jpeg2k_decode", _decode_jpeg2000)
_JPEGXL: Final = Decoder("imagecodecs.jpegxl_decode", _decode_jpegxl)
_RLE: Final = Decoder("imagecodecs.dicomrle_decode", _decode_rle)

# Left out: imagecodecs.htj2k_decode (OpenJPH takes 1.8 ms where OpenJPEG takes 3.0, but of 3,000 mutated frames 3 hung, 1 killed the
# process, and errors inside a frame are only printed); pylibjpeg for JPEG-LS (wrong pixels for damaged frames, one hang in
# 1,500) and for RLE (366 panics in 1,500).
_SYNTAXES: Final = {
    "1.2.840.10008.1.2.4.50": Syntax(_inspect_jpeg, (_JPEG, *_pydicom("pylibjpeg", "pillow")), lossy=True),
    "1.2.840.10008.1.2.4.51": Syntax(_inspect_jpeg, (_JPEG, *_pydicom("pylibjpeg", "pillow")), lossy=True),
    "1.2.840.10008.1.2.4.53": Syntax(_inspect_jpeg, (_JPEG,), lossy=True),  # retired, spectral selection
    "1.2.840.10008.1.2.4.55": Syntax(_inspect_jpeg, (_JPEG,), lossy=True),  # retired, full progression
    "1.2.840.10008.1.2.4.57": Syntax(_inspect_jpeg, (_JPEG, *_pydicom("pylibjpeg"))),
    "1.2.840.10008.1.2.4.70": Syntax(_inspect_jpeg, (_JPEG, *_pydicom("pylibjpeg"))),
    "1.2.840.10008.1.2.4.80": Syntax(_inspect_jpeg, (_JPEGLS, *_pydicom("pyjpegls"))),
    "1.2.840.10008.1.2.4.81": Syntax(_inspect_jpeg, (_JPEGLS, *_pydicom("pyjpegls")), lossy=True),
    "1.2.840.10008.1.2.4.90": Syntax(_inspect_jpeg2000, (_JPEG2000, *_pydicom("pylibjpeg", "pillow"))),
    "1.2.840.10008.1.2.4.91": Syntax(_inspect_jpeg2000, (_JPEG2000, *_pydicom("pylibjpeg", "pillow")), lossy=True),
    "1.2.840.10008.1.2.4.110": Syntax(_inspect_jpegxl, (_JPEGXL,)),
    "1.2.840.10008.1.2.4.111": Syntax(_inspect_jpegxl, (_JPEGXL,), lossy=True),
    "1.2.840.10008.1.2.4.112": Syntax(_inspect_jpegxl, (_JPEGXL,), lossy=True),
    "1.2.840.10008.1.2.4.201": Syntax(_inspect_jpeg2000, (_JPEG2000, *_pydicom("pylibjpeg"))),
    "1.2.840.10008.1.2.4.202": Syntax(_inspect_jpeg2000, (_JPEG2000, *_pydicom("pylibjpeg"))),
    "1.2.840.10008.1.2.4.203": Syntax(_inspect_jpeg2000, (_JPEG2000, *_pydicom("pylibjpeg")), lossy=True),
    "1.2.840.10008.1.2.5": Syntax(_inspect_rle, (_RLE, *_pydicom("pydicom")), bytewise=True),
}

# Frames in items that are native inside (PS3.5 A.4.11) or native and deflated one by one (A.4.13).
_UNPACKERS: Final[dict[str, Callable[[bytes, int], bytes]]] = {
    "1.2.840.10008.1.2.1.98": lambda stream, limit: stream[:limit],
    "1.2.840.10008.1.2.8.1": _inflate,
}


# --- colour -------------------------------------------------------------------------------------------------------


def _to_rgb(values: Values, space: str, source: Source) -> None:
    """YBR_FULL* and YBR_PARTIAL* to RGB, rounded and clipped, in place: the inverse of PS3.3 C.7.6.3.1.2.

    Written for 8 bits there; for more the offsets 16 and 128 and the range scale with 2 ** (BitsStored - 8).
    """
    if source.samples_per_pixel != 3 or not space.startswith(("YBR_FULL", "YBR_PARTIAL")):
        return
    bits, _ = _stored_bits(source)
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
