"""Compressed frames: from a codestream to its samples. The door to imagecodecs, Pillow and pydicom's decoders.

A codestream is looked at before it is decoded, because decoders are not to be trusted with damage: libjpeg-turbo and
pylibjpeg-libjpeg return wrong pixels for a cut JPEG lossless frame without a word. gdcm is never asked, since it aborts the
process on damaged frames (41 of 427 mutated JPEG frames). All decoding is behind one call, `decode`, which takes and gives plain
values, so that it could run in a process of its own. What the samples mean (BitsStored, sign) is the caller's.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Final, Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from dicomdl.errors import DecodeError, PixelError, TruncatedPixels, UnsupportedSyntax
from dicomdl.geometry.grid import halved
from dicomdl.headers.frame import Frame, FrameSource
from dicomdl.headers.reader import VIDEO_ADVICE, is_video

Source: TypeAlias = FrameSource | Frame
Values: TypeAlias = NDArray[Any]


class Coded(NamedTuple):
    """The samples of one compressed frame and what its codestream says of them.

    `samples` has the shape of the frame and the integer dtype that its codec chose; it lies in the `out` of `decode` where that fits.
    `space` is their photometric interpretation. `precision` is the bits of a coded sample, 0 where the format does not
    say (RLE, JPEG XL). `bytewise` samples came as they would lie in a native frame; `lossy` ones are not exact. `reduced` is how
    often rows and columns were halved while decoding.
    """

    samples: Values
    space: str
    precision: int
    bytewise: bool
    lossy: bool
    reduced: int = 0


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
    tiles: int = 1
    levels: int = 0  # how often JPEG 2000 can be halved by leaving out its higher resolutions
    packets: int = 0  # the least that JPEG 2000 of these sizes must have


class Job(NamedTuple):
    """One codestream to decode, into `out` where the codec can.

    `rgb` asks a decoder that `converts` for RGB; `reduce` is how often rows and columns are to be halved.
    """

    stream: bytes
    source: Source
    facts: Codestream
    out: Values | None = None
    rgb: bool = False
    reduce: int = 0
    threads: int = 1


class Decoder(NamedTuple):
    """One way to decode. `decode` returns its job's `out`, filled, or an array of its own."""

    name: str
    decode: Callable[[Job], Values]
    converts: bool = False


class Syntax(NamedTuple):
    """How the frames of one transfer syntax are looked at and decoded, best decoder first."""

    inspect: Callable[[bytes], Codestream]
    decoders: tuple[Decoder, ...]
    lossy: bool = False
    bytewise: bool = False  # the samples come out as they would lie in a native frame
    reducers: tuple[Decoder, ...] = ()  # decode lower resolutions alone


# --- one frame ----------------------------------------------------------------------------------------------------


def decode(stream: bytes, source: Source, out: Values | None = None, *, rgb: bool = False, reduce: int = 0, threads: int = 1) -> Coded:
    """The samples of one compressed frame.

    Parameters
    ----------
    stream
        The frame's codestream, as `join_fragments` gives it.
    source
        What the header says of the frame; a codestream that contradicts it is refused before it is decoded.
    out
        C-contiguous array of the frame's shape, of BitsAllocated bits, to decode into where the codec can. Its content is
        undefined afterwards unless `Coded.samples` lies in it. Not with `reduce`.
    rgb
        Whether a codec that can is to turn YBR_FULL of 8 bits into RGB, which libjpeg-turbo does in passing; `Coded.space` says
        what came. It rounds the coefficients to 16 bits: green is one off for 34 of the 65,536 pairs of chrominances.
    reduce
        Rows and columns are halved that often, where the codestream holds the lower resolution (JPEG 2000); `Coded.reduced` says
        how often they were.
    threads
        Threads inside of the codec, where it has any (JPEG 2000).

    Raises
    ------
    TruncatedPixels
        The codestream ends too early.
    DecodeError
        The codestream is damaged or contradicts the header.
    UnsupportedSyntax
        There is no decoder for the transfer syntax.
    """
    syntax = find_syntax(source.transfer_syntax_uid)
    facts = syntax.inspect(stream)
    check_facts(facts, source, len(stream))
    if syntax.bytewise:
        _check_rle(facts.segments, source, len(stream))
    space = coded_space(facts, source)
    reduce = min(reduce, facts.levels) if reduce and syntax.reducers and _halves_alike(facts, source) else 0
    rgb = rgb and syntax.lossy and space.startswith("YBR_FULL") and facts.precision == 8  # lossless JPEG converts nothing
    job = Job(stream, source, facts, out, rgb, threads=threads)
    samples, decoder = _decode_reduced(syntax, job._replace(out=None, reduce=reduce)) if reduce else (None, None)
    if samples is None or decoder is None:
        reduce = 0
        samples, decoder = _decode(syntax.decoders, job)
    return Coded(samples, "RGB" if rgb and decoder.converts else space, facts.precision, syntax.bytewise, syntax.lossy, reduce)


def _decode_reduced(syntax: Syntax, job: Job) -> tuple[Values, Decoder] | tuple[None, None]:
    """What a decoder of lower resolutions gives; nothing where none can: whole frames have better decoders, whose error then counts."""
    try:
        return _decode(syntax.reducers, job)
    except PixelError:
        return None, None


def find_syntax(transfer_syntax_uid: str) -> Syntax:
    """How the frames of a transfer syntax are decoded; UnsupportedSyntax where they are not."""
    syntax = _SYNTAXES.get(transfer_syntax_uid)
    if syntax is None:
        raise _unsupported(transfer_syntax_uid)
    return syntax


def join_fragments(data: bytes) -> bytes:
    """The codestream in the items that hold one frame.

    Raises
    ------
    TruncatedPixels, DecodeError
        The items are cut, or something else lies between them.
    """
    return b"".join(_fragments(data))


def _fragments(data: bytes) -> Iterator[bytes]:
    """The values of the items that hold one frame (PS3.5 A.4)."""
    position = 0
    while position < len(data) and data[position : position + 4] != b"\xfe\xff\xdd\xe0":
        if data[position : position + 4] != b"\xfe\xff\x00\xe0":
            if position + 4 > len(data):
                raise truncated(position + 8, len(data))
            raise DecodeError(f"no item starts at byte {position} of the encapsulated frame", position=position)
        start = position + 8
        position = start + int.from_bytes(data[position + 4 : start], "little")
        if max(start, position) > len(data):
            raise truncated(max(start, position), len(data))
        yield data[start:position]


def truncated(expected_bytes: int, found_bytes: int) -> TruncatedPixels:
    """The error for a frame whose bytes are not all there."""
    return TruncatedPixels(
        f"the frame needs {expected_bytes} bytes, found {found_bytes}", expected_bytes=expected_bytes, found_bytes=found_bytes
    )


def check_facts(facts: Codestream, source: Source, stream_bytes: int) -> None:
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
    if facts.packets > 8 * stream_bytes:  # an empty one is a bit; a decoder makes room for all before it sees the first
        raise DecodeError(f"{stream_bytes} bytes cannot hold {facts.packets} packets", packets=facts.packets, found_bytes=stream_bytes)
    if not 0 < facts.tiles <= stream_bytes // _TILE_BYTES + 1:  # a decoder makes room for every tile before it sees the first
        raise DecodeError(f"{stream_bytes} bytes cannot hold {facts.tiles} tiles", tiles=facts.tiles, found_bytes=stream_bytes)


def _check_rle(segments: int, source: Source, stream_bytes: int) -> None:
    """One segment a byte of a pixel (PS3.5 G.2), of which two coded bytes give 128 at most."""
    expected = source.samples_per_pixel * source.bits_allocated // 8
    if segments != expected:
        raise DecodeError(f"RLE needs {expected} segments, found {segments}", expected_segments=expected, found_segments=segments)
    if 64 * stream_bytes < source.rows * source.columns * segments:
        raise TruncatedPixels(f"{stream_bytes} bytes of RLE cannot hold the frame", found_bytes=stream_bytes)


def _decode(decoders: tuple[Decoder, ...], job: Job) -> tuple[Values, Decoder]:
    """What the first decoder that can returns, and which one it was; the reasons of all of them when none can."""
    reasons = []
    missing = 0
    cut: TruncatedPixels | None = None
    for decoder in decoders:
        try:
            return _checked(decoder.decode(job), job), decoder
        except (KeyboardInterrupt, SystemExit, GeneratorExit, MemoryError):
            raise
        except ImportError:
            missing += 1
            reasons.append(f"{decoder.name} is not installed")
        except TruncatedPixels as error:  # every decoder would miss the same bytes
            cut = error
            reasons.append(f"{decoder.name}: {error}")
        except BaseException as error:  # Rust decoders panic with a BaseException, which would kill a DataLoader worker
            reasons.append(f"{decoder.name}: {_reason(error)}")
    if missing == len(decoders):
        raise _unsupported(job.source.transfer_syntax_uid, f": {'; '.join(reasons)}")
    if cut is not None:
        raise cut
    raise DecodeError(f"no decoder can read the frame: {'; '.join(reasons)}", reasons=tuple(reasons))


def _reason(error: BaseException) -> str:
    """What a decoder said, in words only where they are ours or imagecodecs': pydicom quotes values, and values may identify a person."""
    told = isinstance(error, DecodeError) or type(error).__module__.startswith("imagecodecs")
    return f"{type(error).__name__}: {str(error)[:200]}" if told else type(error).__name__


def _checked(decoded: Values, job: Job) -> Values:
    """The decoded integers in the shape of the frame, no wider than BitsAllocated, or an error that says what came instead."""
    source = job.source
    shape: tuple[int, ...] = (halved(source.rows, job.reduce), halved(source.columns, job.reduce), source.samples_per_pixel)
    if source.samples_per_pixel == 1:
        shape = shape[:2]
        decoded = decoded[..., 0] if decoded.shape == (*shape, 1) else decoded
    if decoded.shape != shape:
        raise DecodeError(f"expected shape {shape}, decoded {decoded.shape}", expected_shape=shape, found_shape=decoded.shape)
    if decoded.dtype.kind not in "iu" or 8 * decoded.itemsize > max(8, source.bits_allocated):
        raise DecodeError(f"decoded {decoded.dtype}, BitsAllocated is {source.bits_allocated}", bits_allocated=source.bits_allocated)
    return decoded


def coded_space(facts: Codestream, source: Source) -> str:
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
    if is_video(uid):
        text = VIDEO_ADVICE
    elif number in ("94", "95", "204", "205"):
        text = "the pixels are on a JPIP server, not in the file"
    else:
        text = f"no decoder for the transfer syntax {uid if uid.replace('.', '').isdecimal() else '(not a UID)'}{reasons}"
    return UnsupportedSyntax(text, transfer_syntax_uid=uid)


MAX_SCANS: Final = 500  # of a progressive JPEG: each is a pass over the whole frame, and a few bytes long if it likes
_PROGRESSIVE: Final = frozenset({0xC2, 0xC6, 0xCA, 0xCE})
_TILE_BYTES: Final = 14  # of the smallest tile-part: SOT and SOD (ITU-T T.800 A.4.2, A.4.3)

# --- what codestreams say of themselves ---------------------------------------------------------------------------


def _require_end(stream: bytes) -> None:
    """The end marker FFD9 of JPEG, JPEG-LS and JPEG 2000 must be there, before nothing but padding.

    It told 995 of 995 truncated frames from the whole ones, over five codecs. The byte after it may be anything: some pad with a space.
    """
    end = stream.rfind(b"\xff\xd9")
    if end < 0 or stream[end + 3 :].strip(b"\0\xff \r\n"):
        raise TruncatedPixels(f"the codestream of {len(stream)} bytes does not end with its end marker", found_bytes=len(stream))


def _inspect_jpeg(stream: bytes) -> Codestream:
    """The frame header of JPEG (SOF, ITU-T T.81 B.2.2) or JPEG-LS (SOF55), and which colours its markers speak of."""
    _require_end(stream)
    facts = Codestream()
    jfif = adobe_rgb = adobe_ybr = False
    for marker, segment in jpeg_segments(stream):
        if marker == 0xE0:
            jfif = segment.startswith(b"JFIF\0")
        elif marker == 0xEE and segment.startswith(b"Adobe") and len(segment) >= 12:
            adobe_rgb, adobe_ybr = segment[11] == 0, segment[11] == 1
        elif marker == 0xF7 or (0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)):
            if len(segment) < 6 + 3 * (segment[5] if len(segment) > 5 else 1):
                break
            if marker in _PROGRESSIVE and stream.count(b"\xff\xda") > MAX_SCANS:
                raise DecodeError(f"the progressive codestream has more than {MAX_SCANS} scans", limit=MAX_SCANS)
            rows, columns, samples = int.from_bytes(segment[1:3], "big"), int.from_bytes(segment[3:5], "big"), segment[5]
            named_rgb = bytes(segment[6 : 6 + 3 * samples : 3]) in (b"RGB", b"rgb")
            facts = Codestream(rows, columns, samples, segment[0])
            lossless = marker in (0xC3, 0xF7)  # these code the samples as they are: only the header knows their colours
            if samples == 3 and not lossless:
                rgb, ybr = adobe_rgb or named_rgb, jfif or adobe_ybr
                facts = facts._replace(colour="rgb" if rgb else "ybr" if ybr else "", adobe=adobe_ybr)
    if not facts.columns:
        raise DecodeError("the codestream has no JPEG frame header")
    if not facts.rows:  # pylibjpeg-libjpeg, asked after libjpeg-turbo has refused it, hangs
        raise DecodeError("the JPEG frame header leaves the rows to a DNL marker behind the scan, which no decoder here follows")
    return facts


def jpeg_segments(stream: bytes) -> Iterator[tuple[int, bytes]]:
    """(marker, segment without its length) of a JPEG stream, the last one that of its first scan (ITU-T T.81 B.1.1.4, B.2)."""
    position, marker = 2, 0
    while position + 4 <= len(stream) and stream[position] == 0xFF and marker != 0xDA:
        marker = stream[position + 1]
        if marker == 0xFF:  # a fill byte
            position += 1
            continue
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
    right, bottom, left, top, tile_width, tile_height, tile_left, tile_top = _longs(size, 4)
    tiles = -(-(right - tile_left) // max(1, tile_width)) * -(-(bottom - tile_top) // max(1, tile_height))
    samples = int.from_bytes(size[36:38], "big")
    style = next((segment for marker, segment in main_header(stream, start + 2) if marker == 0x52), b"")  # COD (A.6.1)
    rows, columns, precision = bottom - top, right - left, (size[38] & 0x7F) + 1
    levels = style[5] if len(style) > 5 else 0
    return Codestream(
        rows=rows,
        columns=columns,
        samples=samples,
        precision=precision,
        signed=size[38] > 0x7F,
        colour="rgb" if len(style) > 4 and style[4] == 1 and samples >= 3 else "",  # the transformation of RGB that a decoder undoes
        tiles=tiles,
        # Resolutions count from the corner of the reference grid, so an image that begins elsewhere would be shifted (B.2, B.5);
        # tiles are filtered each alone, with seams that a frame halved afterwards does not have.
        levels=levels if tiles == 1 and not (left or top) else 0,
        packets=samples * _precincts(style, rows, columns) if tiles == 1 else 0,
    )


def main_header(stream: bytes, position: int) -> Iterator[tuple[int, bytes]]:
    """(marker, segment without its length) of a JPEG 2000 codestream up to its first tile (ITU-T T.800 A.2)."""
    while position + 4 <= len(stream) and stream[position] == 0xFF and stream[position + 1] not in (0x90, 0xD9):
        length = int.from_bytes(stream[position + 2 : position + 4], "big")
        yield stream[position + 1], stream[position + 4 : position + 2 + length]
        position += 2 + max(length, 2)


def _precincts(style: bytes, rows: int, columns: int) -> int:
    """How many precincts one component has: many only where the coding style makes them small (T.800 A.6.1, B.6)."""
    if not style or not style[0] & 1:
        return 0
    levels, sizes = style[5], style[10:]
    count = 0
    for resolution in range(levels + 1):
        exponents = sizes[resolution] if resolution < len(sizes) else 0xFF
        height, width = (halved(length, levels - resolution) for length in (rows, columns))
        count += -(-height >> (exponents >> 4)) * -(-width >> (exponents & 15))
    return count


def _halves_alike(facts: Codestream, source: Source) -> bool:
    """Whether the lower resolutions of a codestream are what halving its stored values would give.

    Not where the sign of the stream contradicts the header, or where samples are left-aligned: then only whole ones can be made what
    they mean. What the filter overshoots is clipped to the bits of the stream, and then to BitsStored.
    """
    stored = source.bits_stored or source.bits_allocated
    left_aligned = facts.precision > stored and source.high_bit >= stored
    alike = not left_aligned and facts.signed == (source.pixel_representation == 1)
    return alike and (facts.precision == 8 if source.samples_per_pixel > 1 else facts.precision <= 16)


def _longs(segment: bytes, start: int) -> tuple[int, ...]:
    """Eight big endian numbers of 32 bits."""
    return tuple(int.from_bytes(segment[at : at + 4], "big") for at in range(start, start + 32, 4))


def _inspect_rle(stream: bytes) -> Codestream:
    """The number of segments, all that RLE says of itself (PS3.5 G.5)."""
    if len(stream) < 64:
        raise truncated(64, len(stream))
    return Codestream(segments=int.from_bytes(stream[:4], "little"))


def _inspect_jpegxl(stream: bytes) -> Codestream:
    """The size header of JPEG XL, bare or in a container (ISO/IEC 18181-1 D.2 and 18181-2); colour and precision lie deeper."""
    if stream.startswith(b"\0\0\0\x0cJXL "):
        stream = _jpegxl_box(stream)
    if not stream.startswith(b"\xff\x0a"):
        raise DecodeError("the codestream is not JPEG XL")
    bits = int.from_bytes(stream[2:18], "little")  # the first field is the lowest bits

    def take(count: int) -> int:
        nonlocal bits
        value = bits & ((1 << count) - 1)
        bits >>= count
        return value

    small = take(1)

    def length() -> int:
        return 8 * (take(5) + 1) if small else take((9, 13, 18, 30)[take(2)]) + 1

    rows = length()
    ratio = take(3)
    if not ratio:
        return Codestream(rows=rows, columns=length())
    times, by = ((1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))[ratio - 1]
    return Codestream(rows=rows, columns=rows * times // by)


def _jpegxl_box(stream: bytes) -> bytes:
    """The beginning of the codestream in a container: of the box `jxlc`, or of the first `jxlp` behind its counter."""
    position = 12
    while position + 8 <= len(stream):
        length, kind = int.from_bytes(stream[position : position + 4], "big"), stream[position + 4 : position + 8]
        start = position + (16 if length == 1 else 8)
        if kind in (b"jxlc", b"jxlp"):
            return stream[start + 4 * (kind == b"jxlp") :][:64]
        if length == 1:
            length = int.from_bytes(stream[position + 8 : start], "big")
        if length < 8:
            break
        position += length
    raise DecodeError("the JPEG XL container holds no codestream")


# --- decoders -----------------------------------------------------------------------------------------------------


def _target(job: Job) -> Values | None:
    """The array to fill as the codec would type it, so that it decodes in place; None where it uses another width."""
    width = 1 if job.facts.precision <= 8 else 2 if job.facts.precision <= 16 else 4
    if job.out is None or job.out.itemsize != width:
        return None
    return job.out.view(f"{'i' if job.facts.signed else 'u'}{width}")


def _decode_jpeg(job: Job) -> Values:
    import imagecodecs

    # Equal colour spaces make libjpeg-turbo return the components as coded, whatever it would guess from the markers.
    space = {3: "YCBCR", 4: "CMYK"}.get(job.source.samples_per_pixel)
    result = "RGB" if job.rgb else space
    decoded: Values = imagecodecs.jpeg8_decode(job.stream, colorspace=space, outcolorspace=result, out=_target(job))
    return decoded


def _decode_jpegls(job: Job) -> Values:
    import imagecodecs

    decoded: Values = imagecodecs.jpegls_decode(job.stream, out=_target(job))
    return decoded


def _decode_jpeg2000(job: Job) -> Values:
    import imagecodecs

    decoded: Values = imagecodecs.jpeg2k_decode(job.stream, numthreads=job.threads, out=_target(job))
    return decoded


def _decode_jpeg2000_reduced(job: Job) -> Values:
    import io

    from PIL.Jpeg2KImagePlugin import Jpeg2KImageFile  # by its name: no other format is tried

    image = Jpeg2KImageFile(io.BytesIO(job.stream))
    image.reduce = job.reduce
    # Pillow would round sizes to the nearest, OpenJPEG rounds them up; of these both make the same.
    columns, rows = image.size
    image._size = (halved(columns, job.reduce) << job.reduce, halved(rows, job.reduce) << job.reduce)
    samples: Values = np.array(image)
    precision = job.facts.precision
    if job.source.samples_per_pixel == 1:  # Pillow makes samples unsigned and shifts them to the top of 8 or 16 bits
        np.right_shift(samples, 8 * samples.itemsize - precision, out=samples)
    if not job.facts.signed:
        return samples
    np.subtract(samples, samples.dtype.type(1 << precision - 1), out=samples)  # modulo the width of the dtype
    return samples.view(f"i{samples.itemsize}")


def _decode_jpegxl(job: Job) -> Values:
    import imagecodecs

    decoded: Values = imagecodecs.jpegxl_decode(job.stream, numthreads=1)
    return decoded


def _decode_rle(job: Job) -> Values:
    import imagecodecs

    source = job.source
    dtype = np.dtype(f"u{source.bits_allocated // 8}")
    one_plane = source.samples_per_pixel == 1
    if one_plane and job.out is not None:
        planes = job.out.view(dtype)
    else:
        planes = np.empty((source.samples_per_pixel, source.rows, source.columns)[one_plane:], dtype)
    decoded = imagecodecs.dicomrle_decode(job.stream, dtype.str, out=planes.reshape(-1).view(np.uint8).data)
    if len(decoded) != planes.nbytes:
        raise truncated(planes.nbytes, len(decoded))
    if one_plane:
        return planes
    pixels = np.empty((source.rows, source.columns, source.samples_per_pixel), dtype) if job.out is None else job.out.view(dtype)
    for sample, plane in enumerate(planes):  # one by one: three times as fast as all at once
        pixels[..., sample] = plane
    return pixels


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


_JPEG: Final = Decoder("imagecodecs.jpeg8_decode", _decode_jpeg, converts=True)  # safe on 15,000 damaged frames; ljpeg and jpegsof3 are not
_JPEGLS: Final = Decoder("imagecodecs.jpegls_decode", _decode_jpegls)
_JPEG2000: Final = Decoder("imagecodecs.jpeg2k_decode", _decode_jpeg2000)
_REDUCED: Final = (Decoder("Pillow", _decode_jpeg2000_reduced),)
_JPEGXL: Final = Decoder("imagecodecs.jpegxl_decode", _decode_jpegxl)
_RLE: Final = Decoder("imagecodecs.dicomrle_decode", _decode_rle)

# Left out: imagecodecs.htj2k_decode (OpenJPH 0.26 takes 1.4 ms where OpenJPEG takes 2.6, but of 3,000 mutated frames 23 hung and 6
# killed the process, and of 3,000 damaged behind the header it refused 971, OpenJPEG 2,621); pylibjpeg for JPEG-LS (wrong pixels for
# damaged frames, one hang in 1,500) and for RLE (366 panics in 1,500).
_SYNTAXES: Final = {
    "1.2.840.10008.1.2.4.50": Syntax(_inspect_jpeg, (_JPEG, *_pydicom("pylibjpeg", "pillow")), lossy=True),
    "1.2.840.10008.1.2.4.51": Syntax(_inspect_jpeg, (_JPEG, *_pydicom("pylibjpeg", "pillow")), lossy=True),
    "1.2.840.10008.1.2.4.53": Syntax(_inspect_jpeg, (_JPEG,), lossy=True),  # retired, spectral selection
    "1.2.840.10008.1.2.4.55": Syntax(_inspect_jpeg, (_JPEG,), lossy=True),  # retired, full progression
    "1.2.840.10008.1.2.4.57": Syntax(_inspect_jpeg, (_JPEG, *_pydicom("pylibjpeg"))),
    "1.2.840.10008.1.2.4.70": Syntax(_inspect_jpeg, (_JPEG, *_pydicom("pylibjpeg"))),
    "1.2.840.10008.1.2.4.80": Syntax(_inspect_jpeg, (_JPEGLS, *_pydicom("pyjpegls"))),
    "1.2.840.10008.1.2.4.81": Syntax(_inspect_jpeg, (_JPEGLS, *_pydicom("pyjpegls")), lossy=True),
    "1.2.840.10008.1.2.4.90": Syntax(_inspect_jpeg2000, (_JPEG2000, *_pydicom("pylibjpeg", "pillow")), reducers=_REDUCED),
    "1.2.840.10008.1.2.4.91": Syntax(_inspect_jpeg2000, (_JPEG2000, *_pydicom("pylibjpeg", "pillow")), lossy=True, reducers=_REDUCED),
    "1.2.840.10008.1.2.4.110": Syntax(_inspect_jpegxl, (_JPEGXL,)),
    "1.2.840.10008.1.2.4.111": Syntax(_inspect_jpegxl, (_JPEGXL,), lossy=True),
    "1.2.840.10008.1.2.4.112": Syntax(_inspect_jpegxl, (_JPEGXL,), lossy=True),
    "1.2.840.10008.1.2.4.201": Syntax(_inspect_jpeg2000, (_JPEG2000, *_pydicom("pylibjpeg")), reducers=_REDUCED),
    "1.2.840.10008.1.2.4.202": Syntax(_inspect_jpeg2000, (_JPEG2000, *_pydicom("pylibjpeg")), reducers=_REDUCED),
    "1.2.840.10008.1.2.4.203": Syntax(_inspect_jpeg2000, (_JPEG2000, *_pydicom("pylibjpeg")), lossy=True, reducers=_REDUCED),
    "1.2.840.10008.1.2.5": Syntax(_inspect_rle, (_RLE, *_pydicom("pydicom")), bytewise=True),
}
