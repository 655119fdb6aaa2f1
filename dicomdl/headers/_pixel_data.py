"""Where the frames lie inside the pixel data, native (PS3.5 8.1, 8.2) or encapsulated (PS3.5 A.4).

Pixel data are measured, never read: of native ones only the length counts, of encapsulated ones the
item headers are followed.
"""

import functools
import struct
from itertools import pairwise
from typing import Final, NamedTuple

from dicomdl.errors import HeaderError
from dicomdl.headers._heads import ITEM, SEQUENCE_END, UNDEFINED, ElementHead
from dicomdl.headers._window import Window

# What a hostile file may cost: whole slide images have had some 100,000 frames, most files one
# fragment a frame.
MAX_FRAMES: Final = 1_000_000
MAX_FRAGMENTS: Final = 1_000_000
_MAX_TABLE_BYTES: Final = 8 * MAX_FRAMES
_ITEM_HEAD: Final = struct.Struct("<HHI")


class Place(NamedTuple):
    """Where one frame's bytes are; see `FrameSource`."""

    byte_offset: int
    byte_length: int
    bit_offset: int


class PixelLayout(NamedTuple):
    """The size of the frames of one file, from the Image Pixel module (PS3.3 C.7.6.3)."""

    frames: int
    frame_bits: int
    # more than frame_bits where the photometric interpretation says that chrominance is
    # subsampled
    whole_bits: int


# Small: three numbers per layout that occurs.
@functools.lru_cache(maxsize=4096)
def pixel_layout(raws: tuple[bytes, ...]) -> PixelLayout | HeaderError:
    """The frames' size from the raw values of rows ... number_of_frames.

    An error is returned, so that it is cached too.
    """
    rows, columns, samples, photometric, _, allocated, _, _, _, frames = raws
    try:
        sizes = [_unsigned(raw) for raw in (rows, columns, samples, allocated)]
        number = float(frames.strip(b"\0 ").split(b"\\")[0] or 1)
        count = int(number) or 1
        if count != number and number:
            raise ValueError
    except (ValueError, OverflowError):
        return HeaderError("NumberOfFrames (0028,0008) is not a number", reason="invalid_value")
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
    if not 0 < count <= MAX_FRAMES:
        return HeaderError(
            f"NumberOfFrames is {count}, up to {MAX_FRAMES} can be read",
            reason="invalid_value",
            number_of_frames=count,
        )
    samples_stored = (
        2
        if photometric.strip(b"\0 ") in (b"YBR_FULL_422", b"YBR_PARTIAL_422") and n_samples == 3
        else n_samples
    )
    return PixelLayout(
        count, n_rows * n_columns * samples_stored * bits, n_rows * n_columns * n_samples * bits
    )


def _unsigned(raw: bytes) -> int | None:
    return int.from_bytes(raw, "little") if len(raw) in (2, 4) else None


def locate_frames(
    pixel_data: ElementHead,
    layout: PixelLayout,
    window: Window,
    *,
    native: bool,
    extended_offsets: bytes = b"",
) -> list[Place]:
    """The place of each frame, in file order; HeaderError when they cannot all be there.

    `native` says that the transfer syntax is not a compressed one, `extended_offsets` is the raw
    Extended Offset Table.
    """
    if native:
        return _locate_native(pixel_data, layout, window)
    if pixel_data.length != UNDEFINED:
        raise HeaderError(
            "the transfer syntax is compressed, but the pixel data are not encapsulated",
            reason="malformed",
        )
    return _locate_encapsulated(pixel_data.value, layout.frames, window, extended_offsets)


def _locate_native(pixel_data: ElementHead, layout: PixelLayout, window: Window) -> list[Place]:
    """Frames lie end to end without padding, even where BitsAllocated 1 lets them share a byte (PS3.5 8.1.1)."""
    frames, bits, whole = layout
    # Some writers label whole pixels as subsampled ones; the length that the element claims
    # tells, even of a cut file.
    if pixel_data.length != UNDEFINED and 8 * pixel_data.length >= frames * whole:
        bits = whole
    needed = (frames * bits + 7) // 8
    in_file = window.size - pixel_data.value
    found = in_file if pixel_data.length == UNDEFINED else pixel_data.length
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
    # whole frames, and a byte to make it even
    if bits % 8 == 0 and found - needed >= bits // 8 and (found - needed) % (bits // 8) <= 1:
        more = 8 * found // bits
        raise HeaderError(
            f"NumberOfFrames is {frames}, found {more} frames",
            reason="more_frames",
            expected=frames,
            found=more,
        )
    start = pixel_data.value
    if pixel_data.length == UNDEFINED and window.take(start, 4) == b"\xfe\xff\x00\xe0":
        raise HeaderError(
            "the transfer syntax is native, but the pixel data are encapsulated", reason="malformed"
        )
    if bits % 8 == 0:
        length = bits // 8
        return [Place(start + number * length, length, 0) for number in range(frames)]
    places = []
    for number in range(frames):
        first, last = number * bits, (number + 1) * bits
        places.append(Place(start + first // 8, (last + 7) // 8 - first // 8, first % 8))
    return places


def _locate_encapsulated(
    position: int, frames: int, window: Window, extended_offsets: bytes
) -> list[Place]:
    """From the first item tag of each frame to the end of its last fragment (PS3.5 A.4).

    The item headers are followed one by one: offset tables are often wrong, so they only say which
    fragments belong together where there are more of them than frames.
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
        found = max(len(table) // 4, _codestreams(window, starts) if len(starts) > 1 else 1)
        if found > 1:
            raise HeaderError(
                f"NumberOfFrames is 1, found {found} codestreams",
                reason="more_frames",
                expected=1,
                found=found,
            )
        return [Place(starts[0], end - starts[0], 0)]
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
            or _starts_from_end_markers(window, starts, end, frames)
        )
    return [Place(begin, stop - begin, 0) for begin, stop in pairwise([*heads, end])]


def _codestreams(window: Window, starts: list[int]) -> int:
    """How many fragments begin a codestream of JPEG, JPEG-LS or JPEG 2000, whose data cannot hold the markers that do."""
    return sum(
        window.read(start + 8, 4).startswith((b"\xff\xd8\xff", b"\xff\x4f\xff\x51"))
        for start in starts
    )


def _item_length(raw: bytes, position: int) -> int | None:
    """The length that the item header `raw`, which lies at `position`, gives.

    None at the delimiter or the end of the file.
    """
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
    """Where each fragment's item tag is, and where the last fragment ends."""
    starts: list[int] = []
    buffer, base = window.buffer, window.base
    length = 0
    while True:
        at = position - base
        if not 0 <= at <= len(buffer) - 8:
            # Small fragments come many at a time; of large ones the header is enough.
            buffer, base, at = window.read(position, 8 if length > 4096 else 2**16), position, 0
        found = _item_length(buffer[at : at + 8], position)
        if found is None:
            return starts, position
        length = found
        starts.append(position)
        position += 8 + length
        if position > window.size:
            raise HeaderError(
                f"a fragment of {length} bytes ends beyond the file ({window.size} bytes)",
                reason="truncated",
                expected_bytes=position,
                found_bytes=window.size,
            )
        if len(starts) > MAX_FRAGMENTS:
            raise HeaderError(
                f"there are more than {MAX_FRAGMENTS} fragments",
                reason="too_many_fragments",
                limit=MAX_FRAGMENTS,
            )


def _starts_from_offsets(
    table: bytes, code: str, first: int, starts: list[int], frames: int
) -> list[int]:
    """The frames' first fragments by an offset table, [] when it contradicts the fragments (PS3.5 A.4, PS3.3 C.7.6.3.1.8)."""
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


def _starts_from_end_markers(window: Window, starts: list[int], end: int, frames: int) -> list[int]:
    """The frames' first fragments where no table says.

    After each fragment that ends a codestream (EOI, EOC).
    """
    heads = [starts[0]]
    for begin, stop in pairwise([*starts, end]):
        if (
            b"\xff\xd9" in window.read(max(begin + 8, stop - 10), min(10, stop - begin - 8))
            and stop != end
        ):
            heads.append(stop)
    if len(heads) != frames:
        raise HeaderError(
            f"{len(starts)} fragments cannot be told apart as {frames} frames",
            reason="fragments",
            expected=frames,
            found=len(heads),
        )
    return heads
