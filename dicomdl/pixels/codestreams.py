"""Facts that codestreams declare about themselves, and their comparison with the header.

A codestream is inspected before it is decoded: a decoder allocates for the declared sizes, tiles
and packets before it meets the first damaged byte, and some return wrong pixels for a truncated
stream without an error.
"""

from collections.abc import Iterator
from typing import Final, Literal, NamedTuple, TypeAlias

from dicomdl.errors import DecodeError
from dicomdl.geometry.grid import halved
from dicomdl.headers.frame import Frame
from dicomdl.headers.frame_source import FrameSource
from dicomdl.pixels._endings import jpeg2000_end, jpeg_end
from dicomdl.storage.sources import truncated

FrameLike: TypeAlias = FrameSource | Frame


class Codestream(NamedTuple):
    """Facts that a compressed frame declares, 0 and "" where its format has none.

    `levels` is the number of halvings by leaving out higher resolutions of JPEG 2000. `packets` is
    the least number of packets for a JPEG 2000 image of these sizes. `length` is the number of
    bytes up to its end marker. `buffered_bytes` are those that a decoder holds beside the samples:
    the coefficients of all blocks, for a JPEG whose samples come in several scans.
    """

    rows: int = 0
    columns: int = 0
    samples: int = 0
    precision: int = 0
    signed: bool = False
    colour: Literal["", "rgb", "ybr"] = ""
    adobe: bool = False
    segments: int = 0
    tiles: int = 1
    levels: int = 0
    packets: int = 0
    length: int = 0
    buffered_bytes: int = 0


def join_fragments(data: bytes) -> bytes:
    """Return the codestream in the items that hold one frame.

    Raises
    ------
    TruncatedPixels, DecodeError
        The items are truncated, or other bytes lie between them.
    """
    return b"".join(_fragments(data))


def _fragments(data: bytes) -> Iterator[bytes]:
    """Yield the values of the items that hold one frame (PS3.5 A.4)."""
    position = 0
    while position < len(data) and data[position : position + 4] != b"\xfe\xff\xdd\xe0":
        if data[position : position + 4] != b"\xfe\xff\x00\xe0":
            if position + 4 > len(data):
                raise truncated(position + 8, len(data))
            raise DecodeError(
                f"no item starts at byte {position} of the encapsulated frame", position=position
            )
        start = position + 8
        position = start + int.from_bytes(data[position + 4 : start], "little")
        if max(start, position) > len(data):
            raise truncated(max(start, position), len(data))
        yield data[start:position]


def without_rest(stream: bytes, facts: Codestream) -> bytes:
    """Return a codestream without the bytes after its end marker, but for one that pads it.

    Decoders differ in what they make of other bytes.
    """
    return stream[: facts.length] if 0 < facts.length < len(stream) - 1 else stream


def check_facts(facts: Codestream, source: FrameLike, stream_bytes: int) -> None:
    """Refuse a codestream that contradicts the header before a decoder allocates memory for it."""
    found = (
        facts.rows or source.rows,
        facts.columns or source.columns,
        facts.samples or source.samples_per_pixel,
    )
    expected = (source.rows, source.columns, source.samples_per_pixel)
    if found != expected:
        raise DecodeError(
            f"the header says {expected} rows, columns, samples, the codestream {found}",
            expected_shape=expected,
            found_shape=found,
        )
    if facts.precision > max(8, source.bits_allocated):
        raise DecodeError(
            f"the codestream has {facts.precision} bits per sample, "
            f"BitsAllocated is {source.bits_allocated}",
            bits_allocated=source.bits_allocated,
            precision=facts.precision,
        )
    # An empty packet is one bit. A decoder allocates for all packets before it reads the first.
    if facts.packets > 8 * stream_bytes:
        raise DecodeError(
            f"{stream_bytes} bytes cannot hold {facts.packets} packets",
            packets=facts.packets,
            found_bytes=stream_bytes,
        )
    # A decoder allocates for all tiles before it reads the first.
    if not 0 < facts.tiles <= stream_bytes // _TILE_BYTES + 1:
        raise DecodeError(
            f"{stream_bytes} bytes cannot hold {facts.tiles} tiles",
            tiles=facts.tiles,
            found_bytes=stream_bytes,
        )


def coded_space(facts: Codestream, source: FrameLike) -> str:
    """Return the photometric interpretation of the decoded samples.

    The codestream overrides the header (PS3.5 8.2.1). A decoder of JPEG 2000 has already undone
    YBR_RCT and YBR_ICT.
    """
    space = source.photometric_interpretation
    if facts.colour == "rgb" or space in ("YBR_RCT", "YBR_ICT"):
        return "RGB"
    if facts.colour == "ybr" and not space.startswith("YBR"):
        return "YBR_FULL"
    return space


# Limit of scans of a progressive JPEG: each is a pass over the complete frame, even if it has only
# a few bytes.
MAX_SCANS: Final = 500
# Blocks of 8 x 8 samples that all scans of a progressive JPEG pass in any case, and per byte of it.
# An image of 100 megapixels in ten scans has 16 million; 134 million take 0.6 s.
_FREE_BLOCKS: Final = 2**27
_BLOCKS_PER_BYTE: Final = 2**8
_PROGRESSIVE: Final = frozenset({0xC2, 0xC6, 0xCA, 0xCE})
_JPEG_LS: Final = 0xF7
# Of a coefficient, or of a sample before its component is complete.
_BUFFERED_BYTES: Final = 2
# Size of the smallest tile-part: SOT and SOD (ITU-T T.800 A.4.2, A.4.3).
_TILE_BYTES: Final = 14


def inspect_jpeg(stream: bytes) -> Codestream:
    """Read the frame header of JPEG (SOF, ITU-T T.81 B.2.2) or JPEG-LS (SOF55).

    The colours are those that its markers declare.
    """
    if not stream.startswith(b"\xff\xd8"):
        raise DecodeError("the codestream is not JPEG")
    length = jpeg_end(stream)
    facts, frame = Codestream(), 0
    jfif = adobe_rgb = adobe_ybr = False
    for marker, segment in jpeg_segments(stream):
        if marker == 0xE0:
            jfif = segment.startswith(b"JFIF\0")
        elif marker == 0xEE and segment.startswith(b"Adobe") and len(segment) >= 12:
            adobe_rgb, adobe_ybr = segment[11] == 0, segment[11] == 1
        elif marker == _JPEG_LS or (0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)):
            if len(segment) < 6 + 3 * (segment[5] if len(segment) > 5 else 1):
                break
            frame, samples = marker, segment[5]
            rows, columns = int.from_bytes(segment[1:3], "big"), int.from_bytes(segment[3:5], "big")
            if marker in _PROGRESSIVE:
                _require_few_passes(stream, rows * columns * samples // 64)
            named_rgb = bytes(segment[6 : 6 + 3 * samples : 3]) in (b"RGB", b"rgb")
            facts = Codestream(rows, columns, samples, segment[0], length=length)
            # Lossless syntaxes code the samples unchanged: only the header states their colours.
            lossless = marker in (
                0xC3,
                0xF7,
            )
            if samples == 3 and not lossless:
                rgb, ybr = adobe_rgb or named_rgb, jfif or adobe_ybr
                facts = facts._replace(
                    colour="rgb" if rgb else "ybr" if ybr else "", adobe=adobe_ybr
                )
        elif marker == 0xDA and _comes_in_scans(frame, segment, facts):
            buffered = _BUFFERED_BYTES * facts.rows * facts.columns * facts.samples
            facts = facts._replace(buffered_bytes=buffered)
    if not facts.columns:
        raise DecodeError("the codestream has no JPEG frame header")
    # libjpeg-turbo refuses such a frame, and pylibjpeg-libjpeg, the next decoder, hangs.
    if not facts.rows:
        raise DecodeError(
            "the JPEG frame header leaves the rows to a DNL marker behind the scan, "
            "which no decoder here supports"
        )
    return facts


def _require_few_passes(stream: bytes, blocks: int) -> None:
    """Refuse a progressive JPEG whose scans cost more than an image of its bytes."""
    scans = stream.count(b"\xff\xda")
    if scans > MAX_SCANS:
        raise DecodeError(
            f"the progressive codestream has more than {MAX_SCANS} scans", limit=MAX_SCANS
        )
    most = max(_FREE_BLOCKS, _BLOCKS_PER_BYTE * len(stream))
    if scans * blocks > most:
        raise DecodeError(
            f"the progressive codestream of {len(stream)} bytes has {scans} scans of {blocks} "
            f"blocks, up to {most} blocks in all are decoded",
            blocks=scans * blocks,
            limit=most,
        )


def _comes_in_scans(frame: int, first_scan: bytes, facts: Codestream) -> bool:
    """Whether the samples of a JPEG come in several scans, so that a decoder keeps all of them.

    They do if the first scan has a part of the components, or a part of their bits.
    """
    is_part = len(first_scan) > 0 and first_scan[0] < facts.samples
    return frame in _PROGRESSIVE or (frame != _JPEG_LS and is_part)


def jpeg_segments(stream: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield (marker, segment without its length) of a JPEG stream.

    The last segment is that of the first scan (ITU-T T.81 B.1.1.4, B.2).
    """
    position, marker = 2, 0
    while position + 4 <= len(stream) and stream[position] == 0xFF and marker != 0xDA:
        marker = stream[position + 1]
        # A fill byte.
        if marker == 0xFF:
            position += 1
            continue
        length = int.from_bytes(stream[position + 2 : position + 4], "big")
        yield marker, stream[position + 4 : position + 2 + length]
        position += 2 + max(length, 2)


def inspect_jpeg2000(stream: bytes) -> Codestream:
    """Read the SIZ segment of JPEG 2000 and HTJ2K (ITU-T T.800 A.5.1).

    The stream may be wrapped in a JP2 file.
    """
    start = stream.find(b"\xff\x4f\xff\x51")
    size = stream[start + 4 : start + 45]
    if start < 0 or len(size) < 41:
        raise DecodeError("the codestream has no JPEG 2000 size segment")
    length = jpeg2000_end(stream, start)
    right, bottom, left, top, tile_width, tile_height, tile_left, tile_top = _longs(size, 4)
    tiles = -(-(right - tile_left) // max(1, tile_width)) * -(
        -(bottom - tile_top) // max(1, tile_height)
    )
    samples = int.from_bytes(size[36:38], "big")
    # The coding style, COD (T.800 A.6.1).
    style = next(
        (segment for marker, segment in main_header(stream, start + 2) if marker == 0x52), b""
    )
    rows, columns, precision = bottom - top, right - left, (size[38] & 0x7F) + 1
    levels = style[5] if len(style) > 5 else 0
    return Codestream(
        rows=rows,
        columns=columns,
        samples=samples,
        precision=precision,
        signed=size[38] > 0x7F,
        # A decoder undoes the transformation of RGB.
        colour="rgb" if len(style) > 4 and style[4] == 1 and samples >= 3 else "",
        tiles=tiles,
        # Resolutions count from the corner of the reference grid, so an image that begins
        # elsewhere would be shifted (T.800 B.2, B.5). Tiles are filtered separately, with seams
        # that a frame halved after decoding does not have.
        levels=levels if tiles == 1 and not (left or top) else 0,
        packets=samples * _precincts(style, rows, columns) if tiles == 1 else 0,
        length=length,
    )


def main_header(stream: bytes, position: int) -> Iterator[tuple[int, bytes]]:
    """Yield (marker, segment without its length) of a JPEG 2000 codestream up to its first tile.

    The syntax is that of ITU-T T.800 A.2.
    """
    while (
        position + 4 <= len(stream)
        and stream[position] == 0xFF
        and stream[position + 1] not in (0x90, 0xD9)
    ):
        length = int.from_bytes(stream[position + 2 : position + 4], "big")
        yield stream[position + 1], stream[position + 4 : position + 2 + length]
        position += 2 + max(length, 2)


def _precincts(style: bytes, rows: int, columns: int) -> int:
    """Return the number of precincts of one component.

    It is large only if the coding style makes precincts small (T.800 A.6.1, B.6). A style that is
    cut states none.
    """
    if len(style) < 6 or not style[0] & 1:
        return 0
    levels, sizes = style[5], style[10:]
    count = 0
    for resolution in range(levels + 1):
        exponents = sizes[resolution] if resolution < len(sizes) else 0xFF
        height, width = (halved(length, levels - resolution) for length in (rows, columns))
        count += -(-height >> (exponents >> 4)) * -(-width >> (exponents & 15))
    return count


def halves_alike(facts: Codestream, source: FrameLike) -> bool:
    """Whether lower resolutions of a codestream equal halvings of its stored values.

    They do not if the sign of the stream contradicts the header, or if samples are left-aligned:
    only complete frames can then be corrected. Overshoot of the filter is clipped to the bits of
    the stream, and then to BitsStored.
    """
    stored = source.bits_stored or source.bits_allocated
    left_aligned = facts.precision > stored and source.high_bit >= stored
    alike = not left_aligned and facts.signed == (source.pixel_representation == 1)
    return alike and (
        facts.precision == 8 if source.samples_per_pixel > 1 else facts.precision <= 16
    )


def _longs(segment: bytes, start: int) -> tuple[int, ...]:
    """Return eight big endian numbers of 32 bits."""
    return tuple(int.from_bytes(segment[at : at + 4], "big") for at in range(start, start + 32, 4))


def inspect_rle(stream: bytes) -> Codestream:
    """Read the number of segments, the only fact that RLE declares (PS3.5 G.5)."""
    if len(stream) < 64:
        raise truncated(64, len(stream))
    return Codestream(segments=int.from_bytes(stream[:4], "little"))


def inspect_jpegxl(stream: bytes) -> Codestream:
    """Read the size header of JPEG XL, bare or in a container (ISO/IEC 18181-1 D.2 and 18181-2).

    Colour and precision lie deeper in the stream and are not read.
    """
    if stream.startswith(b"\0\0\0\x0cJXL "):
        stream = _jpegxl_box(stream)
    if not stream.startswith(b"\xff\x0a"):
        raise DecodeError("the codestream is not JPEG XL")
    # The first field is in the lowest bits.
    bits = int.from_bytes(stream[2:18], "little")

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
    """Return the beginning of the codestream in a JPEG XL container.

    It is in the box `jxlc`, or in the first `jxlp` behind its counter.
    """
    position = 12
    while position + 8 <= len(stream):
        length, kind = (
            int.from_bytes(stream[position : position + 4], "big"),
            stream[position + 4 : position + 8],
        )
        start = position + (16 if length == 1 else 8)
        if kind in (b"jxlc", b"jxlp"):
            return stream[start + 4 * (kind == b"jxlp") :][:64]
        if length == 1:
            length = int.from_bytes(stream[position + 8 : start], "big")
        if length < 8:
            break
        position += length
    raise DecodeError("the JPEG XL container holds no codestream")
