"""The end of a codestream: the position after its end marker, found by its structure.

Some writers leave bytes of a buffer after the end marker, which belong to no image. A truncated
stream may contain the bytes of an end marker, too: in a thumbnail, a comment, a table, or in the
next image. Therefore the markers are followed from the start. Coded data are searched, and not
walked: they contain no marker but RST.
"""

import re
from typing import Final, NamedTuple

from dicomdl.errors import TruncatedPixels

_END: Final = b"\xff\xd9"
# A marker that ends coded data. In those of JPEG, FF is followed by 00 or RST (ITU-T T.81 B.1.1.5),
# in those of JPEG-LS by a byte below 80 (T.87 A.1).
_MARKER: Final = re.compile(rb"\xff[\xc0-\xcf\xd8-\xfe]")
_WITHOUT_LENGTH: Final = frozenset({0x01, *range(0xD0, 0xD8)})
_SOF: Final = frozenset({*range(0xC0, 0xD0), 0xF7}) - {0xC4, 0xC8, 0xCC}
# Frames with several scans of each component (T.81 table B.1).
_PROGRESSIVE: Final = frozenset({0xC2, 0xC6, 0xCA, 0xCE})
# Limit for hostile streams: 0.2 s.
_MAX_SEGMENTS: Final = 200_000
# Bytes of a header that are searched for. Shorter ones take longer.
_NEEDLE: Final = 40


def cut(stream: bytes) -> TruncatedPixels:
    """Return the error for a codestream that does not reach its end marker."""
    return TruncatedPixels(
        f"the codestream of {len(stream)} bytes does not end with its end marker",
        found_bytes=len(stream),
    )


class _Scan(NamedTuple):
    """The start of the coded data of the first scan, and the end of the frame header (SOF).

    `is_only` is True if the frame has no other scan.
    """

    start: int
    frame_end: int
    is_only: bool


def jpeg_end(stream: bytes) -> int:
    """Return the position after the end marker EOI of JPEG or JPEG-LS (ITU-T T.81 B.2.1).

    Raises
    ------
    TruncatedPixels
        The stream ends, or another image begins, before its end marker.
    """
    scan = _first_scan(stream)
    if scan is None:
        raise cut(stream)
    last = stream.rfind(_END, scan.start)
    if last < 0:
        raise cut(stream)
    # Most streams end here: with one scan, an end marker after its start is that of the image, lies
    # behind it, or is that of another image, which would begin with the same header.
    header = stream[: min(_NEEDLE, scan.frame_end)]
    if scan.is_only and len(stream) - last <= 3 and stream.find(header, scan.start) < 0:
        return last + 2
    return _walked_end(stream, scan.start)


def _first_scan(stream: bytes) -> _Scan | None:
    position, components, frame_end, is_progressive = 2, 0, 0, False
    for _ in range(_MAX_SEGMENTS):
        if position + 4 > len(stream):
            break
        marker = stream[position + 1]
        if stream[position] != 0xFF or marker in (0xD8, 0xD9):
            break
        if marker == 0xFF or marker in _WITHOUT_LENGTH:
            # A fill byte, or a marker alone.
            position += 1 if marker == 0xFF else 2
            continue
        end = _after_segment(stream, position)
        if end > len(stream):
            break
        if marker == 0xDA:
            # The number of its components; an empty segment has none.
            named = stream[position + 4 : min(end, position + 5)]
            is_only = not is_progressive and named == bytes([components]) and components > 0
            return _Scan(end, frame_end, is_only)
        if marker in _SOF and end - position > 9:
            components, frame_end = stream[position + 9], end
            is_progressive = marker in _PROGRESSIVE
        position = end
    return None


def _after_segment(stream: bytes, position: int) -> int:
    """Return the position after the marker segment at `position`."""
    return position + 2 + max(2, int.from_bytes(stream[position + 2 : position + 4], "big"))


def _walked_end(stream: bytes, position: int) -> int:
    """Return the position after EOI by the markers from `position` on, which is in coded data."""
    for _ in range(_MAX_SEGMENTS):
        found = _MARKER.search(stream, position)
        if found is None:
            break
        position, marker = found.start(), stream[found.start() + 1]
        if marker == 0xD9:
            return position + 2
        if marker == 0xD8 or marker in _SOF:
            # Another image begins, so the rest of this one is missing.
            break
        # Tables, DNL, or the header of the next scan.
        position = _after_segment(stream, position)
    raise cut(stream)


def jpeg2000_end(stream: bytes, start: int) -> int:
    """Return the position after the end marker EOC of JPEG 2000 or HTJ2K (ITU-T T.800 A.4.4).

    The codestream begins at `start`. Tile-parts state their lengths (Psot, A.4.2).

    Raises
    ------
    TruncatedPixels
        The stream ends before its end marker, or a tile-part is shorter than it states.
    """
    position = start + 2
    is_tile = False
    for _ in range(_MAX_SEGMENTS):
        marker = stream[position : position + 2]
        if is_tile and stream[position - 2 : position] == _END:
            # Some writers count the end marker to the last tile-part. Coded data cannot end so.
            return position
        if is_tile and marker == _END:
            return position + 2
        if marker[:1] != b"\xff" or position + 12 > len(stream):
            break
        if marker != b"\xff\x90":
            position = _after_segment(stream, position)
            continue
        is_tile = True
        length = int.from_bytes(stream[position + 6 : position + 10], "big")
        if length == 0:
            # The last tile-part extends to the end marker, whose bytes coded data cannot contain.
            last = stream.find(_END, _coded_data(stream, position))
            if last < 0:
                break
            return last + 2
        position += max(length, 12)
    raise cut(stream)


def _coded_data(stream: bytes, position: int) -> int:
    """Return the position after the header of the tile-part at `position`, which SOD ends."""
    position = _after_segment(stream, position)
    for _ in range(_MAX_SEGMENTS):
        marker = stream[position : position + 2]
        if marker == b"\xff\x93" or marker[:1] != b"\xff":
            break
        position = _after_segment(stream, position)
    return position
