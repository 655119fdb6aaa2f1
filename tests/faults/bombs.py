"""Bombs: small files that claim, or inflate to, far more than they hold."""

import struct
from collections.abc import Callable
from pathlib import Path

from faults import writing
from faults.writing import (
    DEFLATED,
    EXPLICIT_LITTLE,
    FILLING,
    JPEG,
    JPEG_2000,
    JPEG_LS,
    PIXEL_DATA,
    PROGRESSIVE,
    RLE,
    Changes,
    encapsulated,
    file,
    inflating,
    native,
    text,
    us,
)
from phantoms import element

from dicomdl.headers._heads import ITEM, SEQUENCE_END, UNDEFINED


def image(
    pixel_data: bytes,
    rows: int = 4,
    columns: int = 4,
    *,
    frames: int | None = None,
    bits: int = 8,
    uid: bytes = b"1.2.3.1",
    before: bytes = b"",
    inside: bytes = b"",
) -> bytes:
    """Return the data set of an image; `before` and `inside` go before and into group 0028."""
    changes: Changes = {
        0x00080018: text(uid, b"UI"),
        0x00080061: before,
        0x00280008: None if frames is None else text(str(frames), b"IS"),
        0x00280100: us(bits),
        0x00280101: us(bits),
        0x00280102: us(bits - 1),
        0x00280104: inside,
        0x00281052: None,
        0x00281053: None,
        0x7FE00010: pixel_data,
    }
    return writing.coded(writing.image(changes, (rows, columns)))


def million_frames() -> list[bytes]:
    """125 kB: a million frames of one pixel of one bit."""
    return [file(EXPLICIT_LITTLE, image(native(bytes(125_000)), 1, 1, frames=1_000_000, bits=1))]


def long_text(size: int = 60 << 20) -> list[bytes]:
    """62 kB: a deflated text of 60 MiB in an unlimited VR of an attribute that is stored."""
    description = element(0x0008103E, b"UT", FILLING, length=size)
    return [inflating(image(native(bytes(16)), before=description), size, b"A")]


def long_unknown(size: int = 60 << 20) -> list[bytes]:
    """As `long_text`, in VR UN."""
    description = element(0x0008103E, b"UN", FILLING, length=size)
    return [inflating(image(native(bytes(16)), before=description), size, b"A")]


def long_sequence(size: int = 60 << 20) -> list[bytes]:
    """60 MiB of zeros in an attribute that nothing wants."""
    other = element(0x00091010, b"OB", FILLING, length=size)
    return [inflating(image(native(bytes(16)), before=other), size)]


def wanted_sequence(size: int = 60 << 20) -> list[bytes]:
    """60 MiB in a sequence that the reader keeps: a private element in the functional groups."""
    other = element(0x00091010, b"OB", FILLING, length=size)
    length = len(other) - len(FILLING) + size
    item = element(ITEM, b"", other, length=length)
    groups = element(0x52009229, b"SQ", item, length=length + 8)
    return [inflating(image(b"") + groups + native(bytes(16)), size)]


def many_texts(count: int = 900) -> list[bytes]:
    """Deflated frames with a long text each that differs: 60 kB x 900."""
    groups = b"".join(
        element(
            ITEM,
            b"",
            element(
                0x00209111,
                b"SQ",
                element(ITEM, b"", element(0x00209056, *text(str(number) * 15_000, b"SH"))),
            ),
        )
        for number in range(count)
    )
    per_frame = element(0x52009230, b"SQ", groups, length=len(groups))
    return [file(DEFLATED, image(b"", frames=count) + per_frame + native(bytes(16 * count)))]


def progressive(size: int = 11_500, scans: int = 490) -> bytes:
    """A progressive JPEG of many scans, each of which refines the whole image."""
    components = bytes([1, 1, 0x11, 0])
    head = b"\xff\xd8\xff\xdb\0\x43\0" + bytes([1] * 64)
    head += b"\xff\xc2" + struct.pack(">HBHHB", 11, 8, size, size, 1) + components[:1] + b"\x11\0"
    # One code of one bit, for the symbol 0: end of block.
    table = bytes([1] + [0] * 15) + b"\0"
    head += b"\xff\xc4" + struct.pack(">H", 2 + 1 + len(table)) + b"\0" + table
    head += b"\xff\xc4" + struct.pack(">H", 2 + 1 + len(table)) + b"\x10" + table
    scan = b"\xff\xda" + struct.pack(">HB", 8, 1) + b"\1\0"
    first = scan + bytes([0, 0, 0]) + b"\0"
    refine = scan + bytes([1, 63, 0]) + b"\0"
    return head + first + refine * scans + b"\xff\xd9"


def progressive_pair() -> list[bytes]:
    """Two files of 6.5 kB with one position: their pixels are compared."""
    stream = progressive()
    stream += bytes(len(stream) % 2)
    return [
        file(PROGRESSIVE, image(encapsulated(stream), 11_500, 11_500, uid=uid))
        for uid in (b"1.2.3.7", b"1.2.3.8")
    ]


def jpeg_of_scans(size: int = 6_600) -> list[bytes]:
    """A baseline JPEG of three components of 43 megapixels, whose first scan has one of them."""
    sof = b"\xff\xc0" + struct.pack(">HBHHB", 17, 8, size, size, 3)
    sof += b"".join(bytes([component, 0x11, 0]) for component in (1, 2, 3))
    sos = b"\xff\xda" + struct.pack(">HB", 8, 1) + b"\1\0\0\x3f\0"
    stream = b"\xff\xd8" + sof + sos + bytes(500) + b"\xff\xd9"
    colours: Changes = {0x00280002: us(3), 0x00280004: text("YBR_FULL", b"CS"), 0x00280006: us(0)}
    changes = {**colours, 0x00280100: us(8), 0x00280101: us(8), 0x00280102: us(7)}
    pixels = {0x00281052: None, 0x00281053: None, 0x7FE00010: encapsulated(stream)}
    elements = writing.image({**changes, **pixels}, (size, size))
    return [file(JPEG, writing.coded(elements))]


def empty_fragments(count: int = 999_990) -> list[bytes]:
    """8 MB: a frame, and empty fragments."""
    items = element(ITEM, b"") * count
    stream = element(ITEM, b"") + items + element(ITEM, b"", jpeg_ls()) + element(SEQUENCE_END, b"")
    data = element(0x7FE00010, b"OB", stream, length=UNDEFINED)
    return [file(JPEG_LS, image(data))]


def jpeg_ls(rows: int = 4, columns: int = 4, size: int = 0) -> bytes:
    """A JPEG-LS stream with a claimed size and no data behind its headers."""
    sof = b"\xff\xf7" + struct.pack(">HBHHB", 11, 8, rows, columns, 1) + b"\1\x11\0"
    sos = b"\xff\xda" + struct.pack(">HB", 8, 1) + b"\1\0\0\0\0"
    return b"\xff\xd8" + sof + sos + bytes(size) + b"\xff\xd9"


def large_jpeg_ls() -> list[bytes]:
    """862 bytes that claim 8000 x 8000 pixels."""
    return [file(JPEG_LS, image(encapsulated(jpeg_ls(8000, 8000, 500)), 8000, 8000))]


def deflated_pixels(size: int = 200 << 20) -> list[bytes]:
    """208 kB that inflate to 200 MiB of pixels, of which one frame is small."""
    side = 64
    frames = size // side**2
    pixels = element(PIXEL_DATA, b"OB", FILLING, length=size)
    return [inflating(image(pixels, side, side, frames=frames), size)]


def deflated_frame(size: int = 15_000) -> list[bytes]:
    """One deflated frame of 15,000 x 15,000 zeros."""
    pixels = element(PIXEL_DATA, b"OB", FILLING, length=size**2)
    return [inflating(image(pixels, size, size), size**2)]


def rle_frame() -> list[bytes]:
    """A small RLE stream for a frame of 65,534 x 65,534."""
    stream = struct.pack("<16I", 1, 64, *[0] * 14) + b"\x81\0" * 200
    return [file(RLE, image(encapsulated(stream), 65534, 65534))]


def jpeg_2000() -> list[bytes]:
    """A JPEG 2000 stream that claims 60,000 x 60,000 pixels."""
    size = 60000
    siz = struct.pack(">HIIIIIIII", 0, size, size, 0, 0, size, size, 0, 0)
    siz += struct.pack(">HBBB", 1, 7, 1, 1)
    stream = b"\xff\x4f\xff\x51" + struct.pack(">H", 2 + len(siz)) + siz
    stream += (
        b"\xff\x52\0\x0c\0\0\0\1\0\5\4\4\0\0" + b"\xff\x5c\0\x13\x40" + bytes(16) + b"\xff\xd9"
    )
    return [file(JPEG_2000, image(encapsulated(stream), 60000, 60000))]


def many_elements(count: int = 1_000_000) -> list[bytes]:
    """8 MB: a million empty elements."""
    return [
        file(EXPLICIT_LITTLE, image(native(bytes(16)), before=element(0x00091001, b"LO") * count))
    ]


def many_items(count: int = 1_000_000) -> list[bytes]:
    items = element(ITEM, b"") * count
    sequence = element(0x00091001, b"SQ", items, length=len(items))
    return [file(EXPLICIT_LITTLE, image(native(bytes(16)), before=sequence))]


def wanted_items(count: int = 1_000_000) -> list[bytes]:
    """Items of a sequence that the reader looks into: per-frame functional groups."""
    items = element(ITEM, b"") * count
    groups = element(0x52009230, b"SQ", items, length=len(items))
    return [file(EXPLICIT_LITTLE, image(b"", frames=count) + groups + native(bytes(16 * count)))]


def deep(levels: int = 50_000) -> list[bytes]:
    nested = element(0x00091001, b"SQ", element(ITEM, b"", length=UNDEFINED), length=UNDEFINED)
    return [file(EXPLICIT_LITTLE, image(native(bytes(16)), before=nested * levels))]


BOMBS: dict[str, Callable[[], list[bytes]]] = {
    "a million frames of one bit": million_frames,
    "a deflated text of 60 MiB": long_text,
    "a deflated value of VR UN": long_unknown,
    "60 MiB that nothing wants": long_sequence,
    "60 MiB in functional groups": wanted_sequence,
    "long texts per frame": many_texts,
    "two progressive JPEGs at one position": progressive_pair,
    "a JPEG of several scans": jpeg_of_scans,
    "a million empty fragments": empty_fragments,
    "JPEG-LS of 8000 x 8000 in 862 bytes": large_jpeg_ls,
    "deflated frames": deflated_pixels,
    "a deflated frame": deflated_frame,
    "RLE of 65534 x 65534": rle_frame,
    "JPEG 2000 of 60000 x 60000": jpeg_2000,
    "a million elements": many_elements,
    "a million items": many_items,
    "a million functional groups": wanted_items,
    "50,000 levels": deep,
}

# Of a scan: "image", or the reason of the problem. Then most MiB of the scan, and of reading the
# first frame, beyond those of a process that has scanned a good file.
OUTCOMES: dict[str, tuple[str, int, int]] = {
    "a million frames of one bit": ("too_many_frames", 50, 50),
    "a deflated text of 60 MiB": ("malformed", 200, 50),
    "a deflated value of VR UN": ("malformed", 200, 50),
    "60 MiB that nothing wants": ("image", 200, 50),
    # The header itself, of 60 MiB, is held three times.
    "60 MiB in functional groups": ("image", 200, 50),
    "long texts per frame": ("image", 200, 100),
    "two progressive JPEGs at one position": ("image", 50, 50),
    "a JPEG of several scans": ("image", 50, 50),
    "a million empty fragments": ("too_many_fragments", 50, 50),
    "JPEG-LS of 8000 x 8000 in 862 bytes": ("image", 50, 200),
    "deflated frames": ("too_many_frames", 150, 50),
    "a deflated frame": ("image", 150, 50),
    "RLE of 65534 x 65534": ("image", 50, 50),
    "JPEG 2000 of 60000 x 60000": ("image", 50, 50),
    "a million elements": ("image", 100, 50),
    "a million items": ("image", 50, 50),
    "a million functional groups": ("too_many_frames", 50, 50),
    "50,000 levels": ("too_deep", 50, 50),
}


def write(folder: Path, name: str) -> list[Path]:
    """Write the files of a bomb."""
    folder.mkdir(parents=True)
    paths = []
    for number, raw in enumerate(BOMBS[name]()):
        paths.append(folder / f"{number}.dcm")
        paths[-1].write_bytes(raw)
    return paths
