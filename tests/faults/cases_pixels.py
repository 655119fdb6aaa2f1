"""Cases of the pixels: their size, their items, their codestreams, and what small files claim."""

import functools
import struct
from collections.abc import Callable

import imagecodecs
import numpy as np
from faults import bombs
from faults.case import Case
from faults.writing import (
    DEFLATED,
    EXPLICIT_LITTLE,
    JPEG,
    JPEG_2000,
    JPEG_LOSSLESS,
    JPEG_LS,
    PIXEL_DATA,
    RLE,
    Changes,
    Element,
    coded,
    encapsulated,
    file,
    image,
    image_file,
    native,
    stored,
    text,
    us,
)
from numpy.typing import NDArray
from phantoms import element, encode_frame

PIXELS = stored().astype("<u2").tobytes()
SAMPLES = stored().astype(np.uint16)
EOI = b"\xff\xd9"
# Sizes of other images, whose pixels are bytes.
BITS_8: Changes = {0x00280100: us(8), 0x00280101: us(8), 0x00280102: us(7)}


@functools.cache
def stream(syntax: bytes, *, frame: int = 0) -> bytes:
    """Return the codestream of the image, or of a constant one."""
    samples = SAMPLES if not frame else np.full_like(SAMPLES, frame)
    raw = encode_frame(samples, syntax.decode(), 16)
    return raw + bytes(len(raw) % 2)


def frames(count: int | str) -> dict[int, Element]:
    return {0x00280008: text(str(count), b"IS")}


def changed(changes: Changes, syntax: bytes = EXPLICIT_LITTLE) -> Callable[[], bytes]:
    """Return a function that makes the good file with other elements."""
    return functools.partial(image_file, changes, syntax)


def pixels(data: bytes, changes: Changes | None = None, syntax: bytes = EXPLICIT_LITTLE) -> bytes:
    return image_file({**(changes or {}), PIXEL_DATA: native(data)}, syntax)


def fragments(
    syntax: bytes,
    *parts: bytes,
    changes: Changes | None = None,
    table: bytes = b"",
    end: bytes | None = None,
) -> bytes:
    """Return a file whose encapsulated pixels have some fragments, of the image by default."""
    items = encapsulated(*(parts or (stream(syntax),)), table=table, end=end)
    return image_file({**(changes or {}), PIXEL_DATA: items}, syntax)


def halves(syntax: bytes) -> tuple[bytes, bytes]:
    raw = stream(syntax)
    middle = len(raw) // 4 * 2
    return raw[:middle], raw[middle:]


def offsets(*values: int, code: str = "I") -> bytes:
    return struct.pack(f"<{len(values)}{code}", *values)


def signed() -> NDArray[np.int64]:
    return np.where(stored() % 2, -stored(), stored())


def one_bit() -> bytes:
    """Return an image of one bit per pixel: 20 pixels in three bytes."""
    mask = (stored() % 3 == 0).astype(np.uint8)
    data = np.packbits(mask, bitorder="little").tobytes()
    changes = {0x00280100: us(1), 0x00280101: us(1), 0x00280102: us(0)}
    return pixels(data + b"\0", {**changes, 0x00281052: None, 0x00281053: None})


def colour(photometric: str, changes: Changes | None = None) -> bytes:
    """Return an RGB image whose samples are 0, 1, 2, ..."""
    facts: Changes = {
        **BITS_8,
        0x00280002: us(3),
        0x00280004: text(photometric, b"CS"),
        0x00280006: us(0),
        0x00281052: None,
        0x00281053: None,
    }
    return pixels(bytes(range(60)), {**facts, **(changes or {})})


def palette(changes: Changes | None = None) -> bytes:
    """Return an image of palette colours: 128 entries of 16 bits."""
    ramp = (np.arange(128, dtype="<u2") * 256).tobytes()
    facts: Changes = {
        **BITS_8,
        0x00280004: text("PALETTE COLOR", b"CS"),
        **{0x00281101 + n: (b"US", offsets(128, 0, 16, code="H")) for n in range(3)},
        **{0x00281201 + n: (b"OW", ramp) for n in range(3)},
        0x00281052: None,
        0x00281053: None,
    }
    return pixels(stored().astype(np.uint8).tobytes(), {**facts, **(changes or {})})


def of_floats(values: NDArray[np.float32]) -> bytes:
    changes: Changes = {
        0x00280100: us(32),
        0x00280101: None,
        0x00280102: None,
        0x00280103: None,
        0x7FE00008: (b"OF", values.astype("<f4").tobytes()),
        PIXEL_DATA: None,
    }
    return image_file(changes)


def in_jp2_box() -> bytes:
    raw = bytes(imagecodecs.jpeg2k_encode(SAMPLES, level=0, codecformat="jp2", reversible=True))
    return raw + bytes(len(raw) % 2)


NATIVE = (
    Case(
        "Pixel Data shorter than the frame",
        "problem: short_pixel_data",
        lambda: pixels(PIXELS[:-2]),
    ),
    Case("a surplus byte that makes the length even", "loads", lambda: pixels(PIXELS + b"\0")),
    Case(
        "Pixel Data longer than the frame",
        "loads, flag:longer_pixel_data",
        lambda: pixels(PIXELS + bytes(10)),
    ),
    Case(
        "a second frame that nothing declares", "problem: more_frames", lambda: pixels(PIXELS * 2)
    ),
    Case(
        "two frames of one position",
        "no volume: IrregularStack",
        lambda: pixels(PIXELS * 2, frames(2)),
    ),
    Case(
        "fewer frames than declared",
        "problem: short_pixel_data",
        lambda: pixels(PIXELS * 2, frames(3)),
    ),
    Case("no Pixel Data", "problem: no_pixel_data", changed({PIXEL_DATA: None})),
    Case("empty Pixel Data", "problem: short_pixel_data", lambda: pixels(b"")),
    Case(
        "an image of one bit",
        "loads",
        one_bit,
        stored=lambda: stored() % 3 == 0,
        slope=1,
        intercept=0,
    ),
    Case(
        "Float Pixel Data",
        "loads",
        lambda: of_floats(stored().astype(np.float32) / 4),
        stored=lambda: stored() / 4,
    ),
    Case(
        "Float Pixel Data that is NaN",
        "loads",
        lambda: of_floats(np.full((4, 5), np.nan, np.float32)),
        stored=None,
    ),
    Case(
        "signed pixels",
        "loads",
        lambda: pixels(signed().astype("<i2").tobytes(), {0x00280103: us(1)}),
        stored=signed,
    ),
    Case(
        "12 bits whose 4 unused bits are set",
        "loads",
        lambda: pixels(
            (SAMPLES | 0xF000).astype("<u2").tobytes(), {0x00280101: us(12), 0x00280102: us(11)}
        ),
    ),
    Case(
        "signed pixels of 12 bits without an extended sign",
        "loads",
        lambda: pixels(
            (signed() & 0xFFF).astype("<u2").tobytes(),
            {0x00280101: us(12), 0x00280102: us(11), 0x00280103: us(1)},
        ),
        stored=signed,
    ),
    Case(
        "BitsStored above BitsAllocated",
        "loads, flag:impossible_bits",
        lambda: pixels(PIXELS, {0x00280101: us(20), 0x00280102: us(19)}),
    ),
    Case(
        "BitsStored of 0",
        "loads, flag:impossible_bits",
        lambda: pixels(PIXELS, {0x00280101: us(0)}),
    ),
    Case(
        "HighBit below BitsStored - 1",
        "loads, flag:impossible_bits",
        lambda: pixels(PIXELS, {0x00280101: us(12), 0x00280102: us(7)}),
    ),
    Case(
        "PixelRepresentation of 7",
        "refused: DecodeError",
        lambda: pixels(PIXELS, {0x00280103: us(7)}),
    ),
    Case("colours", "loads", lambda: colour("RGB"), stored=None),
    Case("planes of colours", "loads", lambda: colour("RGB", {0x00280006: us(1)}), stored=None),
    Case(
        "colours that claim to be grey",
        "loads, flag:contradicting_photometric",
        lambda: colour("MONOCHROME2"),
        stored=None,
    ),
    Case(
        "grey values that claim to be colours",
        "loads, flag:contradicting_photometric",
        changed({0x00280004: text("RGB", b"CS")}),
    ),
    Case(
        "an unknown photometric interpretation", "loads", changed({0x00280004: text("CMYK", b"CS")})
    ),
    Case(
        "no photometric interpretation", "loads, flag:no_photometric", changed({0x00280004: None})
    ),
    Case("a palette", "loads", palette, stored=None),
    Case(
        "a palette shorter than its indices",
        "loads",
        lambda: palette(
            {0x00281101 + n: (b"US", offsets(4, 0, 16, code="H")) for n in range(3)}
            | {0x00281201 + n: (b"OW", bytes(8)) for n in range(3)}
        ),
        stored=None,
    ),
    Case(
        "a palette without entries",
        "no volume: PixelError",
        lambda: palette({0x00281201 + n: None for n in range(3)}),
        stored=None,
    ),
)
ENCAPSULATED = (
    Case("JPEG 2000", "loads", lambda: fragments(JPEG_2000)),
    Case("JPEG-LS", "loads", lambda: fragments(JPEG_LS)),
    Case("lossless JPEG", "loads", lambda: fragments(JPEG_LOSSLESS)),
    Case("RLE", "loads", lambda: fragments(RLE)),
    Case(
        "an encapsulated frame of a defined length",
        "problem: malformed",
        lambda: image_file(
            {PIXEL_DATA: native(element(0xFFFEE000, b"") + element(0xFFFEE000, b"", stream(RLE)))},
            RLE,
        ),
    ),
    Case(
        "no offset table item",
        "problem: missing_frames",
        lambda: image_file(
            {
                PIXEL_DATA: element(
                    PIXEL_DATA,
                    b"OB",
                    element(0xFFFEE000, b"", stream(JPEG_LS)) + element(0xFFFEE0DD, b""),
                    length=0xFFFFFFFF,
                )
            },
            JPEG_LS,
        ),
    ),
    Case("no fragment", "problem: missing_frames", changed({PIXEL_DATA: encapsulated()}, JPEG_LS)),
    Case("an empty fragment", "refused: DecodeError", lambda: fragments(JPEG_LS, b"")),
    Case("a frame in two fragments", "loads", lambda: fragments(JPEG_2000, *halves(JPEG_2000))),
    Case(
        "RLE in two fragments", "loads, flag:fragmented_rle", lambda: fragments(RLE, *halves(RLE))
    ),
    Case(
        "two codestreams and one frame",
        "problem: more_frames",
        lambda: fragments(JPEG_LS, stream(JPEG_LS), stream(JPEG_LS)),
    ),
    Case(
        "fewer fragments than frames",
        "problem: missing_frames",
        lambda: fragments(JPEG_LS, changes=frames(2)),
    ),
    Case(
        "an offset table that decreases, over two equal frames",
        "no volume: IrregularStack",
        lambda: fragments(JPEG_LS, *halves(JPEG_LS) * 2, changes=frames(2), table=offsets(100, 0)),
    ),
    Case(
        "an offset table beyond the file, over two equal frames",
        "no volume: IrregularStack",
        lambda: fragments(
            JPEG_LS, *halves(JPEG_LS) * 2, changes=frames(2), table=offsets(0, 10**9)
        ),
    ),
    Case(
        "an extended offset table beyond the file, over two equal frames",
        "no volume: IrregularStack",
        lambda: fragments(
            JPEG_LS,
            *halves(JPEG_LS) * 2,
            changes={**frames(2), 0x7FE00001: (b"OV", offsets(0, 1 << 40, code="Q"))},
        ),
    ),
    Case(
        "fragments that belong to no frame for certain",
        "problem: fragments",
        lambda: fragments(RLE, bytes(64), bytes(64), bytes(64), changes=frames(2)),
    ),
    Case(
        "no sequence delimiter behind the fragments",
        "loads, flag:no_delimiter",
        lambda: fragments(JPEG_LS, end=b""),
    ),
    Case("a fragment longer than the file", "problem: truncated", lambda: fragments(JPEG_LS)[:-20]),
    Case(
        "an element among the fragments",
        "problem: malformed",
        lambda: fragments(JPEG_LS, end=element(0x00280010, *us(4))),
    ),
)
CODESTREAMS = (
    Case(
        "a JPEG 2000 stream without its end",
        "refused: TruncatedPixels",
        lambda: fragments(JPEG_2000, stream(JPEG_2000).rstrip(b"\0")[:-2]),
    ),
    Case(
        "a JPEG-LS stream without its end",
        "refused: TruncatedPixels",
        lambda: fragments(JPEG_LS, stream(JPEG_LS).rstrip(b"\0")[:-2]),
    ),
    Case(
        "a lossless JPEG without its end",
        "refused: TruncatedPixels",
        lambda: fragments(JPEG_LOSSLESS, stream(JPEG_LOSSLESS).rstrip(b"\0")[:-2]),
    ),
    Case(
        "half a lossless JPEG, with an end",
        "refused: TruncatedPixels",
        lambda: fragments(JPEG_LOSSLESS, halves(JPEG_LOSSLESS)[0] + EOI),
    ),
    Case(
        "half a JPEG-LS stream, with an end",
        "refused: TruncatedPixels",
        lambda: fragments(JPEG_LS, halves(JPEG_LS)[0] + EOI),
    ),
    Case(
        "half an RLE stream", "refused: DecodeError", lambda: fragments(RLE, stream(RLE)[: 64 + 16])
    ),
    Case(
        "zeros behind the end of a codestream",
        "loads",
        lambda: fragments(JPEG_2000, stream(JPEG_2000) + bytes(100)),
    ),
    Case(
        "bytes in front of a codestream",
        "refused: DecodeError",
        lambda: fragments(JPEG_LS, b"\1\2\3\4" + stream(JPEG_LS)),
    ),
    Case(
        "a JP2 file in place of a codestream", "loads", lambda: fragments(JPEG_2000, in_jp2_box())
    ),
    Case(
        "a codestream of another transfer syntax",
        "refused: DecodeError",
        lambda: fragments(JPEG_2000, stream(JPEG_LS)),
    ),
    Case(
        "a codestream of other rows",
        "refused: DecodeError",
        lambda: fragments(JPEG_2000, changes={0x00280010: us(5)}),
    ),
    Case(
        "a JPEG of 8 bits in an image of 16",
        "loads",
        lambda: fragments(JPEG, bytes(imagecodecs.jpeg8_encode(SAMPLES.astype("u1")))),
        stored=None,
    ),
    Case(
        "a signed JPEG 2000 stream of unsigned pixels",
        "loads",
        lambda: fragments(JPEG_2000, encode_signed()),
    ),
    Case(
        "random bytes as JPEG",
        "refused: TruncatedPixels",
        lambda: fragments(JPEG, b"\xff\xd8" + bytes(range(100)) + EOI),
    ),
    Case(
        "a JPEG 2000 stream that ends behind its size",
        "refused: TruncatedPixels",
        lambda: fragments(JPEG_2000, stream(JPEG_2000)[:60] + EOI),
    ),
    Case(
        "a transfer syntax that no decoder reads",
        "refused: UnsupportedSyntax",
        lambda: fragments(b"1.2.840.10008.1.2.4.66", stream(JPEG_LS)),
    ),
)


def encode_signed() -> bytes:
    raw = encode_frame(SAMPLES.astype(np.int16), JPEG_2000.decode(), 16)
    return raw + bytes(len(raw) % 2)


CLAIMS = (
    Case(
        "65,535 x 65,535 pixels in 40 bytes",
        "problem: short_pixel_data",
        lambda: image_file(
            {0x00280010: us(65535), 0x00280011: us(65535), PIXEL_DATA: native(PIXELS)}
        ),
    ),
    Case(
        "Rows of 2^32 - 1",
        "problem: invalid_value",
        changed({0x00280010: (b"UL", b"\xff\xff\xff\xff")}),
    ),
    Case("Rows of 0", "problem: invalid_value", changed({0x00280010: us(0)})),
    Case("Rows of text", "problem: invalid_value", changed({0x00280010: text("512", b"LO")})),
    Case("BitsAllocated of 0", "problem: invalid_value", changed({0x00280100: us(0)})),
    Case("BitsAllocated of 12", "problem: invalid_value", changed({0x00280100: us(12)})),
    Case("BitsAllocated of 65,535", "problem: invalid_value", changed({0x00280100: us(65535)})),
    Case("no BitsAllocated", "problem: missing_attribute", changed({0x00280100: None})),
    Case("SamplesPerPixel of 0", "problem: invalid_value", changed({0x00280002: us(0)})),
    Case("SamplesPerPixel of 65,535", "problem: invalid_value", changed({0x00280002: us(65535)})),
    Case("2,000,000,000 frames", "problem: too_many_frames", changed(frames("2000000000"))),
    Case("10^12 frames", "problem: too_many_frames", changed(frames("1000000000000"))),
    Case("10,000 frames in 40 bytes", "problem: short_pixel_data", changed(frames("10000"))),
    Case("-1 frames", "problem: invalid_value", changed(frames(-1))),
    Case("1.5 frames", "problem: invalid_value", changed(frames("1.5"))),
    Case("two different numbers of frames", "problem: invalid_value", changed(frames("1\\2"))),
    Case("a number of frames twice", "loads", changed(frames("1\\1"))),
    Case("frames of text", "problem: invalid_value", changed(frames("many"))),
    Case("nan frames", "problem: invalid_value", changed(frames("nan"))),
    Case("0 frames", "loads", changed(frames(0))),
    Case("an empty number of frames", "loads", changed(frames(""))),
    Case(
        "an RLE header of 4 billion segments",
        "refused: DecodeError",
        lambda: fragments(RLE, offsets(*[0xFFFFFFFF] * 16) + bytes(64)),
    ),
    Case(
        "RLE for 65,534 x 65,534 pixels",
        "refused: TooLarge",
        lambda: bombs.rle_frame()[0],
        stored=None,
    ),
    Case(
        "JPEG-LS of 8,000 x 8,000 pixels in 862 bytes",
        "refused: DecodeError",
        lambda: bombs.large_jpeg_ls()[0],
        stored=None,
    ),
    Case(
        "JPEG 2000 of 60,000 x 60,000 pixels in 1 kB",
        "refused: TooLarge",
        lambda: bombs.jpeg_2000()[0],
        stored=None,
    ),
    Case(
        "a JPEG-LS stream that claims 65,535 x 65,535 pixels in a small image",
        "refused: DecodeError",
        lambda: fragments(JPEG_LS, bombs.jpeg_ls(65535, 65535)),
    ),
    Case(
        "a deflated image with text of 60 MiB",
        "problem: malformed",
        lambda: bombs.long_text()[0],
        stored=None,
    ),
    Case(
        "a deflated private element of 60 MiB",
        "loads",
        lambda: bombs.long_sequence()[0],
        stored=None,
    ),
    Case(
        "a deflated private element of 70 MiB",
        "problem: header_too_large",
        lambda: bombs.long_sequence(70 << 20)[0],
        stored=None,
    ),
    Case(
        "a deflated frame that ends too early",
        "problem: truncated",
        lambda: file(DEFLATED, coded(image())[:-4]),
    ),
)
CASES = {
    "Native pixels": NATIVE,
    "Encapsulated pixels": ENCAPSULATED,
    "Codestreams": CODESTREAMS,
    "Small files that claim much": CLAIMS,
}
