"""The byte ranges of the frames in the pixel data, native (PS3.5 8.1, 8.2) or encapsulated (A.4).

Pixel data are measured, and their content is not read. For native ones the length of the element
suffices, for encapsulated ones the item headers are followed.
"""

import functools
import struct
from itertools import pairwise
from typing import Final, NamedTuple, TypeAlias

from dicomdl.errors import HeaderError
from dicomdl.headers._decimals import decimal
from dicomdl.headers._heads import ITEM, SEQUENCE_END, UNDEFINED, ElementHead
from dicomdl.headers._window import Window
from dicomdl.headers.limits import most_fragments
from dicomdl.headers.uids import NATIVE, RLE_LOSSLESS, TRANSFER_SYNTAXES, family_of, is_uid

_MAX_TABLE_BYTES: Final = 8_000_000
_ITEM_HEAD: Final = struct.Struct("<HHI")


class Place(NamedTuple):
    """The byte range of one frame; see `FrameSource`."""

    byte_offset: int
    byte_length: int
    bit_offset: int


# The byte ranges of the frames of one file, and their number of fragments; 0 for native. A plain
# tuple, because one is made per file.
Located: TypeAlias = tuple[list[Place], int]


class PixelLayout(NamedTuple):
    """The size of the frames of one file, from the Image Pixel module (PS3.3 C.7.6.3)."""

    frames: int
    frame_bits: int
    # Bits of a frame without subsampling of chrominance. They exceed frame_bits if the photometric
    # interpretation declares subsampling.
    whole_bits: int
    # What is odd about the description of the pixels: words of `_flags.MEANINGS`.
    flags: str = ""


# Small: three numbers per layout.
@functools.lru_cache(maxsize=4096)
def pixel_layout(raws: tuple[bytes, ...]) -> PixelLayout | HeaderError:
    """Return the size of the frames from the raw values of the columns rows to number_of_frames.

    An error is returned and not raised, so that it is cached as well.
    """
    rows, columns, samples, photometric, _, allocated, stored, high, _, frames = raws
    try:
        sizes = [_unsigned(raw) for raw in (rows, columns, samples, allocated)]
        # A number twice is that number; of several different ones none is known to be right.
        numbers = {decimal(part) for part in (frames.strip(b"\0 ") or b"1").split(b"\\")}
        (number,) = numbers
        count = int(number) or 1
        if count != number and number:
            raise ValueError
    except (ValueError, OverflowError):
        return HeaderError("NumberOfFrames (0028,0008) is not one integer", reason="invalid_value")
    if sizes[2] is None and photometric.strip(b"\0 ") in (
        b"MONOCHROME1",
        b"MONOCHROME2",
        b"PALETTE COLOR",
    ):
        sizes[2] = 1
    names = (
        "Rows (0028,0010)",
        "Columns (0028,0011)",
        "SamplesPerPixel (0028,0002)",
        "BitsAllocated (0028,0100)",
    )
    missing = [name for name, value in zip(names, sizes, strict=True) if value is None]
    if missing:
        return HeaderError(f"missing: {', '.join(missing)}", reason="missing_attribute")
    n_rows, n_columns, n_samples, bits = (value or 0 for value in sizes)
    if not (0 < n_rows <= 0xFFFF and 0 < n_columns <= 0xFFFF):
        return HeaderError(
            f"Rows x Columns is {n_rows} x {n_columns}",
            reason="invalid_value",
            rows=n_rows,
            columns=n_columns,
        )
    if n_samples not in (1, 2, 3, 4) or bits not in (1, 8, 16, 32, 64):
        return HeaderError(
            f"SamplesPerPixel {n_samples} with BitsAllocated {bits} cannot be read",
            reason="invalid_value",
        )
    if count < 1:
        return HeaderError(
            f"NumberOfFrames is {count}", reason="invalid_value", number_of_frames=count
        )
    samples_stored = (
        2
        if photometric.strip(b"\0 ") in (b"YBR_FULL_422", b"YBR_PARTIAL_422") and n_samples == 3
        else n_samples
    )
    return PixelLayout(
        count,
        n_rows * n_columns * samples_stored * bits,
        n_rows * n_columns * n_samples * bits,
        _odd_pixels(n_samples, photometric.strip(b"\0 "), bits, stored, high),
    )


_GREY: Final = frozenset({b"MONOCHROME1", b"MONOCHROME2", b"PALETTE COLOR"})
_COLOURS: Final = (b"RGB", b"YBR_")


def _odd_pixels(samples: int, photometric: bytes, bits: int, stored: bytes, high: bytes) -> str:
    """Return flags of a description that contradicts itself (PS3.3 C.7.6.3.1.2, PS3.5 8.1.1).

    The number of samples decides about colours, and impossible bits count as absent ones.
    """
    flags = []
    if not photometric:
        flags.append("no_photometric")
    elif photometric in _GREY if samples > 1 else photometric.startswith(_COLOURS):
        flags.append("contradicting_photometric")
    n_stored, top = _unsigned(stored), _unsigned(high)
    least = 1 if n_stored is None else n_stored
    if (n_stored is not None and not 0 < n_stored <= bits) or (
        top is not None and not least - 1 <= top < bits
    ):
        flags.append("impossible_bits")
    return " ".join(flags)


def _unsigned(raw: bytes) -> int | None:
    return int.from_bytes(raw, "little") if len(raw) in (2, 4) else None


def locate_frames(
    pixel_data: ElementHead,
    layout: PixelLayout,
    window: Window,
    *,
    transfer_syntax: str,
    extended_offsets: bytes = b"",
) -> Located:
    """Return the byte range per frame, in file order, and the number of fragments.

    HeaderError is raised if a frame is missing. `extended_offsets` is the raw Extended Offset
    Table.
    """
    if transfer_syntax in NATIVE:
        return _locate_native(pixel_data, layout, window), 0
    if pixel_data.length != UNDEFINED:
        raise _not_encapsulated(transfer_syntax, items=_has_items(pixel_data, window))
    return _locate_encapsulated(
        pixel_data.value, layout.frames, window, extended_offsets, transfer_syntax
    )


def _not_encapsulated(transfer_syntax: str, *, items: bool) -> HeaderError:
    """Return the error for pixel data of defined length in a syntax that is not native."""
    if transfer_syntax not in TRANSFER_SYNTAXES:
        name = transfer_syntax if is_uid(transfer_syntax) else "(not a UID)"
        return HeaderError(
            f"the transfer syntax {name} is unknown, so that the coding of the pixels is, too",
            reason="unknown_syntax",
        )
    if items:
        return HeaderError(
            "the encapsulated pixel data have a defined length, which hides their end (PS3.5 A.4)",
            reason="malformed",
        )
    return HeaderError(
        "the transfer syntax is compressed, but the pixel data are not encapsulated",
        reason="malformed",
    )


def _has_items(pixel_data: ElementHead, window: Window) -> bool:
    """Return whether pixel data begin with an item, in either byte order."""
    return window.read(pixel_data.value, 4) in (b"\xfe\xff\x00\xe0", b"\xff\xfe\xe0\x00")


def _locate_native(pixel_data: ElementHead, layout: PixelLayout, window: Window) -> list[Place]:
    """Locate native frames, which follow each other without padding (PS3.5 8.1.1).

    With BitsAllocated 1, two frames may share a byte.
    """
    frames, bits, whole, _ = layout
    # Some writers declare subsampling for complete pixels. The declared length of the element
    # reveals this, even for a truncated file.
    if pixel_data.length != UNDEFINED and 8 * pixel_data.length >= frames * whole:
        bits = whole
    needed = (frames * bits + 7) // 8
    in_file = window.size - pixel_data.value
    found = in_file if pixel_data.length == UNDEFINED else pixel_data.length
    # Only an exact length tells that the first samples look like items or a codestream by chance.
    if not needed <= pixel_data.length <= needed + 1:
        _refuse_coded(pixel_data, window, is_short=found < needed)
    if found > in_file:
        reason, found = "truncated", in_file
    else:
        reason = "short_pixel_data"
    if found < needed:
        raise HeaderError(
            f"{frames} frame(s) need {needed} bytes of pixel data, found {found}",
            reason=reason,
            expected_bytes=needed,
            found_bytes=found,
        )
    # The surplus is a number of complete frames, and possibly a byte that makes the length even.
    if bits % 8 == 0 and found - needed >= bits // 8 and (found - needed) % (bits // 8) <= 1:
        more = 8 * found // bits
        raise HeaderError(
            f"NumberOfFrames is {frames}, found {more} frames",
            reason="more_frames",
            expected=frames,
            found=more,
        )
    start = pixel_data.value
    if bits % 8 == 0:
        length = bits // 8
        return [Place(start + number * length, length, 0) for number in range(frames)]
    places = []
    for number in range(frames):
        first, last = number * bits, (number + 1) * bits
        places.append(Place(start + first // 8, (last + 7) // 8 - first // 8, first % 8))
    return places


def _refuse_coded(pixel_data: ElementHead, window: Window, *, is_short: bool) -> None:
    """Raise HeaderError if pixel data under a native transfer syntax are encapsulated or coded.

    Only RLE may be longer than the pixels.
    """
    if _has_items(pixel_data, window):
        raise HeaderError(
            "the pixel data are encapsulated, but the transfer syntax is native or absent",
            reason="malformed",
        )
    is_coded = is_short and _begins_codestream(window, pixel_data.value)
    if is_coded or _begins_codestream(window, pixel_data.value, RLE_LOSSLESS):
        raise HeaderError(
            "the pixel data are a codestream (JPEG, JPEG 2000, JPEG XL or RLE) outside of items, "
            "but the transfer syntax is native or absent",
            reason="malformed",
        )


def _locate_encapsulated(
    position: int, frames: int, window: Window, extended_offsets: bytes, transfer_syntax: str
) -> Located:
    """Locate encapsulated frames (PS3.5 A.4).

    A byte range begins with the first item tag of a frame and ends with its last fragment. The item
    headers are followed one by one. Offset tables are often wrong, so they only assign fragments to
    frames if there are more fragments than frames.
    """
    start = window.at(position, 8)
    table_length = _item_length(window.buffer[start : start + 8], position)
    if table_length is None:
        raise HeaderError(
            "encapsulated pixel data do not begin with an offset table item", reason="malformed"
        )
    table = window.take(position + 8, table_length) if 0 < table_length <= _MAX_TABLE_BYTES else b""
    first = position + 8 + table_length
    starts, end = _fragments(window, first)
    if frames == 1 and starts:
        begun = len(_begun(window, starts, transfer_syntax)) if starts[1:] else 1
        found = max(len(table) // 4, begun)
        if found > 1:
            raise HeaderError(
                f"NumberOfFrames is 1, found {found} codestreams",
                reason="more_frames",
                expected=1,
                found=found,
            )
        return [Place(starts[0], end - starts[0], 0)], len(starts)
    if len(starts) < frames:
        raise HeaderError(
            f"NumberOfFrames is {frames}, found {len(starts)} fragment(s)",
            reason="missing_frames",
            expected=frames,
            found=len(starts),
        )
    if len(starts) == frames:
        heads = starts
    else:
        heads = (
            _starts_from_offsets(extended_offsets, "Q", first, starts, frames)
            or _starts_from_offsets(table, "I", first, starts, frames)
            or _starts_from_markers(window, starts, end, frames, transfer_syntax)
        )
    places = [Place(begin, stop - begin, 0) for begin, stop in pairwise([*heads, end])]
    return places, len(starts)


# JPEG and JPEG-LS, JPEG 2000 and JPEG XL, bare or in a file. The data of a codestream of JPEG or
# JPEG 2000 cannot contain these markers.
_STARTS: Final = (b"\xff\xd8\xff", b"\xff\x4f\xff\x51", b"\0\0\0\x0cjP  ", b"\0\0\0\x0cJXL ")
_BARE_JPEG_XL: Final = b"\xff\x0a"
# The header of RLE (PS3.5 G.5): the number of segments, and the first offset, which is 64.
_RLE_SEGMENTS: Final = 15
_RLE_OFFSET: Final = b"\x40\0\0\0"


def _begins_codestream(window: Window, position: int, transfer_syntax: str = "") -> bool:
    """Return whether a codestream begins at `position`."""
    head = window.read(position, 8)
    family = family_of(transfer_syntax)
    if family == "rle":
        segments = int.from_bytes(head[:4], "little")
        return 1 <= segments <= _RLE_SEGMENTS and head[4:] == _RLE_OFFSET
    return head.startswith((*_STARTS, _BARE_JPEG_XL) if family == "jpegxl" else _STARTS)


def _begun(window: Window, starts: list[int], transfer_syntax: str) -> list[int]:
    """Return the fragments that begin with a codestream."""
    return [each for each in starts if _begins_codestream(window, each + 8, transfer_syntax)]


def _item_length(raw: bytes, position: int) -> int | None:
    """Return the length in the item header `raw` at `position`; None at delimiter or end."""
    if len(raw) < 8:
        return None
    group, element, length = _ITEM_HEAD.unpack(raw)
    tag = group << 16 | element
    if tag == SEQUENCE_END:
        return None
    if tag != ITEM:
        raise HeaderError(
            f"at byte {position} of the pixel data a fragment was expected, found tag {tag:08X}",
            reason="malformed",
            position=position,
        )
    return int(length)


def _fragments(window: Window, position: int) -> tuple[list[int], int]:
    """Return the position of each fragment's item tag, and the end of the last fragment."""
    starts: list[int] = []
    most = most_fragments(window.limits, window.size)
    buffer, base = window.buffer, window.base
    length = 0
    while True:
        at = position - base
        if not 0 <= at <= len(buffer) - 8:
            # Many small fragments are read at once. For large ones the header suffices.
            buffer, base, at = window.read(position, 8 if length > 4096 else 2**16), position, 0
        item_length = _item_length(buffer[at : at + 8], position)
        if item_length is None:
            return starts, position
        length = item_length
        starts.append(position)
        position += 8 + length
        if position > window.size:
            raise HeaderError(
                f"a fragment of {length} bytes ends beyond the file ({window.size} bytes)",
                reason="truncated",
                expected_bytes=position,
                found_bytes=window.size,
            )
        if len(starts) > most:
            raise HeaderError(
                f"there are more than {most} fragments", reason="too_many_fragments", limit=most
            )


def _starts_from_offsets(
    table: bytes, code: str, first: int, starts: list[int], frames: int
) -> list[int]:
    """Return the first fragment per frame by an offset table (PS3.5 A.4, PS3.3 C.7.6.3.1.8).

    The result is [] if the table contradicts the fragments.
    """
    width = struct.calcsize(code)
    heads = [
        first + offset
        for offset in struct.unpack(
            f"<{len(table) // width}{code}", table[: len(table) // width * width]
        )
    ]
    known = set(starts)
    sound = (
        len(heads) == frames
        and heads[0] == first
        and all(a < b for a, b in pairwise(heads))
        and known.issuperset(heads)
    )
    return heads if sound else []


def _starts_from_markers(
    window: Window, starts: list[int], end: int, frames: int, transfer_syntax: str
) -> list[int]:
    """Return the first fragment per frame without a table, by the markers of codestreams.

    A frame ends with the fragment that contains EOI or EOC. Where bytes follow these, and for
    codestreams that end without a marker, the frames are those of the fragments that begin one.
    """
    has_end = family_of(transfer_syntax) not in ("rle", "jpegxl")
    heads = _behind_end_markers(window, starts, end) if has_end else []
    if len(heads) != frames:
        begun = _begun(window, starts, transfer_syntax)
        heads = begun if begun[:1] == starts[:1] else heads
    if len(heads) != frames:
        raise HeaderError(
            f"{len(starts)} fragments cannot be assigned to {frames} frames",
            reason="fragments",
            expected=frames,
            found=len(heads),
        )
    return heads


def _behind_end_markers(window: Window, starts: list[int], end: int) -> list[int]:
    heads = [starts[0]]
    for begin, stop in pairwise([*starts, end]):
        if (
            b"\xff\xd9" in window.read(max(begin + 8, stop - 10), min(10, stop - begin - 8))
            and stop != end
        ):
            heads.append(stop)
    return heads
