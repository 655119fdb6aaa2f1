"""One file -> what it is, its frames' facts and where each frame's bytes are.

Only the first bytes of a file are read; pixel data are measured, not read. The walk over the elements is ours
(`elements`); pydicom is asked for the data dictionary (names of extra columns) and for character sets beyond ASCII, and is
imported only then. A file that cannot be used becomes a `Header` of kind "problem" with a reason; nothing raises.
"""

import functools
import math
import os
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from operator import itemgetter
from typing import Any, Final, Literal, NamedTuple

from dicomdl.elements import (
    BIG_ENDIAN,
    DOUBLE_FLOAT_PIXEL_DATA,
    EXPLICIT,
    FLOAT_PIXEL_DATA,
    IMPLICIT,
    ITEM,
    SEQUENCE_END,
    TRANSFER_SYNTAX,
    UNDEFINED,
    ElementHead,
    Layouts,
    Step,
    Syntax,
    Walked,
    Wanted,
    Window,
    items,
    iterate,
    read_head,
    walk,
)
from dicomdl.errors import DicomdlError, HeaderError, UsageError
from dicomdl.frame import Attribute, Frame, attributes, snake_case

FileKind = Literal["image", "no_image", "not_dicom", "problem"]

IMPLICIT_LITTLE: Final = "1.2.840.10008.1.2"
EXPLICIT_LITTLE: Final = "1.2.840.10008.1.2.1"
EXPLICIT_BIG: Final = "1.2.840.10008.1.2.2"
DEFLATED: Final = "1.2.840.10008.1.2.1.99"
GE_BIG_ENDIAN_PIXELS: Final = "1.2.840.113619.5.2"  # implicit little endian, but pixels are big endian
NATIVE: Final = frozenset({IMPLICIT_LITTLE, EXPLICIT_LITTLE, EXPLICIT_BIG, DEFLATED, GE_BIG_ENDIAN_PIXELS})

SHARED_GROUPS: Final = 0x52009229
PER_FRAME_GROUPS: Final = 0x52009230
CHARACTER_SET: Final = 0x00080005
EXTENDED_OFFSETS: Final = 0x7FE00001
_SPECIALS: Final = (CHARACTER_SET, SHARED_GROUPS, PER_FRAME_GROUPS, 0x00540016, EXTENDED_OFFSETS)

# O_NONBLOCK: a FIFO that has taken a file's place since the walk must not hang the scan.
_OPEN_FLAGS: Final = os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
FIRST_READ: Final = 16 * 2**10  # most headers end before; one read then does it all
MAX_INFLATED: Final = 512 * 2**20
_ITEM_HEAD: Final = struct.Struct("<HHI")

# Files of these SOP classes have no pixels by design; every other file with Rows and no pixel data lost them.
_STORAGE: Final = "1.2.840.10008.5.1.4.1.1."


class Place(NamedTuple):
    """Where one frame's bytes are; see `FrameSource`."""

    byte_offset: int
    byte_length: int
    bit_offset: int


class Header(NamedTuple):
    """What one file is. `rows` has one tuple of raw values a frame, in the order of the reader's `columns`."""

    kind: FileKind
    reason: str = ""
    detail: str = ""
    sop_class_uid: str = ""
    file_bytes: int = 0
    file_mtime_ns: int = 0
    file_ctime_ns: int = 0
    rows: Sequence[tuple[bytes, ...]] = ()
    places: Sequence[Place] = ()
    deflated: bool = False
    float_pixels: bool = False


class PixelLayout(NamedTuple):
    """The size of the frames of one file, from the Image Pixel module (PS3.3 C.7.6.3)."""

    frames: int
    frame_bits: int


class Constant(NamedTuple):
    """A column that holds one value `count` times."""

    value: Any
    rows: int


Column = list[Any] | Constant


class HeaderReader:
    """Reads headers; remembers only how to read the next one faster, never a value (see `elements.Layouts`).

    Parameters
    ----------
    extra
        Columns beyond `Frame`'s own, from `extra_attributes`.
    """

    def __init__(self, extra: Sequence[Attribute] = ()) -> None:
        self.extra = tuple(extra)
        self.columns = (*attributes(), *self.extra)
        entries = [(0 if column.inside else column.tag, column.creator) for column in self.columns]
        self._wanted = Wanted([*entries, *((tag, "") for tag in _SPECIALS)])
        self._layouts = Layouts(self._wanted)
        self._first_read = FIRST_READ
        self._index = {column.name: number for number, column in enumerate(self.columns)}
        self._transfer_syntax = self._index["transfer_syntax_uid"]
        self._format = slice(self._index["rows"], self._index["number_of_frames"] + 1)
        self._texts = itemgetter(*(i for i, column in enumerate(self.columns) if column.kind == "text"))
        self._required_reals = [i for i, column in enumerate(self.columns) if column.required and column.kind == "real"]
        self._inside = {
            sequence: {c.tag: i for i, c in enumerate(self.columns) if c.inside == sequence}
            for sequence in {c.inside for c in self.columns if c.inside}
        }
        self._per_frame = [i for i, column in enumerate(self.columns) if column.per_frame]
        self._groups = {(group, column.group_tag or column.tag): i for i, column in enumerate(self.columns) for group in column.groups}
        self._converters = [converter(column) for column in self.columns]

    def read(self, path: str) -> Header:
        """What the file at `path` is; never raises for what a file may contain, a missing file included."""
        try:
            descriptor = os.open(
                path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
            )
        except OSError as error:
            return Header("problem", "unreadable", f"cannot be opened: {error.strerror}")
        try:
            stat = os.fstat(descriptor)
            first = os.pread(descriptor, self._first_read, 0)
            header = self.parse(first, stat.st_size, lambda offset, length: os.pread(descriptor, length, offset))
        except OSError as error:
            return Header("problem", "unreadable", f"cannot be read: {error.strerror}")
        finally:
            os.close(descriptor)
        return header._replace(file_bytes=stat.st_size, file_mtime_ns=stat.st_mtime_ns, file_ctime_ns=stat.st_ctime_ns)

    def parse(self, first: bytes, size: int, read: Callable[[int, int], bytes]) -> Header:
        """What a file of `size` bytes is, given its `first` bytes and a way to `read(offset, length)` more."""
        if size == 0:
            return Header("problem", "empty", "the file has 0 bytes")
        start = _start(first)
        if start is None:
            return Header("not_dicom")
        try:
            return self._parse(first, size, read, start)
        except HeaderError as error:
            if start == 0:  # no prefix said that this is DICOM, and it does not read as such
                return Header("not_dicom")
            return Header("problem", error.reason, str(error))

    def _parse(self, first: bytes, size: int, read: Callable[[int, int], bytes], start: int) -> Header:
        matched = self._layouts.match(first)
        if matched is not None:
            walked, transfer_syntax = matched[0], _text(matched[1])
            syntax = IMPLICIT if transfer_syntax in (IMPLICIT_LITTLE, GE_BIG_ENDIAN_PIXELS) else EXPLICIT
            return self._conclude(walked, transfer_syntax, syntax, Window(read, size, first), deflated=False)
        window = Window(read, size, first)
        meta: list[Step] = []
        raw_syntax, position = _read_meta(window, start, meta, self._transfer_syntax)
        transfer_syntax = _text(raw_syntax)
        if transfer_syntax == DEFLATED:
            window, position = _inflate(read, size, position), 0
        syntax, transfer_syntax = _syntax(window, position, transfer_syntax)
        learn = syntax.little and start == 132 and transfer_syntax != DEFLATED and self._layouts.worth_learning()
        steps: list[Step] = []
        walked = walk(window, position, syntax, self._wanted, steps if learn else None)
        if walked.pixel_data is not None:
            if learn:
                self._layouts.learn(first, start, meta, steps)
            if walked.pixel_data.value > self._first_read:
                self._first_read = min(2**18, 1 << walked.pixel_data.value.bit_length())
        values = _override(walked.values, {self._transfer_syntax: raw_syntax or transfer_syntax.encode()})
        return self._conclude(walked._replace(values=values), transfer_syntax, syntax, window, deflated=transfer_syntax == DEFLATED)

    def _conclude(self, walked: Walked, transfer_syntax: str, syntax: Syntax, window: Window, *, deflated: bool) -> Header:
        """Turn raw values into rows, one a frame, with the place of each frame's bytes."""
        count = len(self.columns)
        row, specials = walked.values[:count], walked.values[count:]
        charset, shared, per_frame, radiopharmaceutical, extended_offsets = specials
        changes: dict[int, bytes] = {}
        if radiopharmaceutical:
            changes.update(self._first_item(radiopharmaceutical, syntax, 0x00540016))
        if not syntax.little:
            changes.update(_swapped(self.columns, row))
        row = _override(row, changes)
        if charset:
            row = self._transcode(row, charset)
        sop_class = row[self._index["sop_class_uid"]].strip(b"\0 ").decode("ascii", "replace")
        if walked.pixel_data is None:
            return self._without_pixels(row, sop_class)
        layout = _pixel_layout(row[self._format])
        if isinstance(layout, HeaderError):
            raise layout
        for i in self._required_reals:
            if row[i]:
                _check_real(row[i], self.columns[i])
        places = _locate(walked.pixel_data, layout, transfer_syntax, window, extended_offsets)
        rows = self._frame_rows(row, layout.frames, shared, per_frame, syntax)
        is_float = walked.pixel_data.tag in (FLOAT_PIXEL_DATA, DOUBLE_FLOAT_PIXEL_DATA)
        return Header("image", "", "", sop_class, rows=rows, places=places, deflated=deflated, float_pixels=is_float)

    def _without_pixels(self, row: tuple[bytes, ...], sop_class: str) -> Header:
        if not any(row):
            raise HeaderError("no element that an index knows was found", reason="malformed")
        if row[self._index["rows"]] and row[self._index["columns"]] and is_image_storage(sop_class):
            raise HeaderError("the header describes an image, but there are no pixel data", reason="no_pixel_data")
        return Header("no_image", "", "", sop_class)

    def _first_item(self, raw: bytes, syntax: Syntax, sequence: int) -> dict[int, bytes]:
        wanted = self._inside[sequence]
        for item in items(raw, syntax):
            return {wanted[tag]: value for tag, _, value in iterate(item, syntax) if tag in wanted}
        return {}

    def _transcode(self, row: tuple[bytes, ...], charset: bytes) -> tuple[bytes, ...]:
        """The row with text as UTF-8, where the file's character set is not ASCII (PS3.3 C.12.1.1.2)."""
        joined = b"".join(self._texts(row))
        if joined.isascii() and b"\x1b" not in joined:
            return row
        texts = {i for i, column in enumerate(self.columns) if column.vr in ("LO", "SH", "ST", "LT", "UC", "UT")}
        return tuple(
            _to_utf8(value, charset) if i in texts and (not value.isascii() or b"\x1b" in value) else value for i, value in enumerate(row)
        )

    def _frame_rows(
        self, row: tuple[bytes, ...], frames: int, shared: bytes, per_frame: bytes, syntax: Syntax
    ) -> Sequence[tuple[bytes, ...]]:
        """One row a frame: the file's values under the shared and per-frame functional groups and the frame's vectors."""
        if shared:
            for item in items(shared, syntax):
                row = _override(row, self._group_values(item, syntax))
        vectors = [i for i in self._per_frame if row[i]] if frames > 1 or any(row[i] for i in self._per_frame) else []
        if not per_frame and not vectors:
            return [row] * frames
        changes: list[dict[int, bytes]] = [{} for _ in range(frames)]
        if per_frame:
            changes = [self._group_values(item, syntax) for item in items(per_frame, syntax)]
            if len(changes) != frames:
                raise HeaderError(
                    f"NumberOfFrames is {frames}, but there are functional groups for {len(changes)}",
                    reason="functional_groups",
                    expected=frames,
                    found=len(changes),
                )
        for i in vectors:
            for change, value in zip(changes, _vector(row[i], self.columns[i], frames), strict=True):
                change[i] = value
        return [_override(row, change) for change in changes]

    def _group_values(self, item: bytes, syntax: Syntax, found: dict[int, bytes] | None = None, outer: int = 0) -> dict[int, bytes]:
        """Raw values by column of one item of a functional groups sequence; macros may nest once (MR diffusion)."""
        found = {} if found is None else found
        for group, vr, value in iterate(item, syntax):
            column = self._groups.get((outer, group)) if outer else None
            if column is not None:
                found[column] = value if syntax.little else _swap(value, self.columns[column])
            elif (vr in (b"SQ", b"") and value[:4] == b"\xfe\xff\x00\xe0") or (not syntax.little and vr == b"SQ"):
                for inner in items(value, syntax):
                    self._group_values(inner, syntax, found, group)
                    break
        return found

    def convert(self, rows: Sequence[tuple[bytes, ...]]) -> dict[str, Column]:
        """Typed columns of raw rows. Text is stripped str, numbers int or float, missing ones None."""
        result: dict[str, Column] = {}
        for column, convert, raws in zip(self.columns, self._converters, zip(*rows, strict=True), strict=True):
            first = raws[0]
            if raws.count(first) == len(raws):
                result[column.name] = Constant(convert(first), len(raws))
            else:
                result[column.name] = [convert(raw) for raw in raws]
        _sign_padding(result)
        _fill_pixel_defaults(result)
        return result


def read_frames(path: str | os.PathLike[str], extra: Sequence[Attribute] = ()) -> list[Frame]:
    """The frames of one DICOM file, in file order.

    Returns
    -------
    list of Frame
        Empty for DICOM without an image (SR, RTPLAN, DICOMDIR, ...).

    Raises
    ------
    HeaderError
        The file is not DICOM or cannot be used; attribute `reason` says why.
    """
    reader = HeaderReader(extra)
    name = os.path.abspath(os.fspath(path))
    header = reader.read(name)
    if header.kind in ("problem", "not_dicom"):
        error = HeaderError(header.detail or "this is not a DICOM file", reason=header.reason or "not_dicom")
        error.add_note(f"file: {name}")
        raise error
    if not header.rows:
        return []
    columns = reader.convert(header.rows)
    count = len(header.rows)
    values = {name: [c.value] * count if isinstance(c, Constant) else c for name, c in columns.items()}
    own = [a.name for a in attributes()]
    added = [a.name for a in extra]
    return [
        Frame(
            path=name,
            frame_number=number + 1,
            byte_offset=place.byte_offset,
            byte_length=place.byte_length,
            bit_offset=place.bit_offset,
            deflated=header.deflated,
            float_pixels=header.float_pixels,
            file_bytes=header.file_bytes,
            file_mtime_ns=header.file_mtime_ns,
            extra=tuple((column, values[column][number]) for column in added),
            **{column: values[column][number] for column in own},
        )
        for number, place in enumerate(header.places)
    ]


# --- what kind of file, and how it is coded -----------------------------------------------------------------------


def _start(first: bytes) -> int | None:
    """Where the first element is: after preamble and prefix (PS3.10 7.1), or at 0 in files without; None: not DICOM."""
    if first[128:132] == b"DICM":
        return 132
    if first[:4] == b"DICM":
        return 4
    group, element = first[:2], first[2:4]
    if group in (b"\x02\x00", b"\x08\x00") and len(first) > 8 and element[1:] in (b"\x00", b"\x10"):
        return 0
    if group == b"\x00\x08" and len(first) > 8 and element[:1] == b"\x00" and first[4:6].isalpha():
        return 0
    return None


def _read_meta(window: Window, position: int, trail: list[Step], slot: int) -> tuple[bytes, int]:
    """The raw transfer syntax (b"" when not given) and where the data set starts; the group length is not trusted."""
    transfer_syntax = b""
    while position < window.size and window.take(position, min(2, window.size - position)) == b"\x02\x00":
        head = read_head(window, position, EXPLICIT)
        is_syntax = head.tag == TRANSFER_SYNTAX
        trail.append(Step(position, head, slot if is_syntax else -1))
        if is_syntax:
            transfer_syntax = window.take(head.value, head.length)
        position = head.value + head.length
        if position > window.size:
            raise HeaderError("the file ends inside its meta information", reason="truncated", found_bytes=window.size)
    return transfer_syntax, position


def _syntax(window: Window, position: int, transfer_syntax: str) -> tuple[Syntax, str]:
    """How the data set is coded, from the transfer syntax and its first element, which wins where they differ.

    Big endian against little endian is not decided by looks: what the pixels are would be a guess.
    """
    start = window.at(position, 8)
    group, vr = window.buffer[start : start + 2], window.buffer[start + 4 : start + 6]
    explicit = vr.isalpha() and vr.isupper()
    looks_big = len(group) == 2 and group[0] == 0 and group[1] != 0
    if transfer_syntax == EXPLICIT_BIG or (not transfer_syntax and looks_big):
        if not looks_big and group not in (b"\x00\x00", b""):
            raise HeaderError("the transfer syntax is big endian, the data set is little endian", reason="contradicting_syntax")
        return BIG_ENDIAN, EXPLICIT_BIG
    if looks_big:
        raise HeaderError("the transfer syntax is little endian, the data set is big endian", reason="contradicting_syntax")
    # Without a transfer syntax, native pixels can only be little endian; encapsulated ones are refused in _locate.
    return (EXPLICIT if explicit else IMPLICIT), transfer_syntax or (EXPLICIT_LITTLE if explicit else IMPLICIT_LITTLE)


def _inflate(read: Callable[[int, int], bytes], size: int, position: int) -> Window:
    """The inflated data set of a deflated file (PS3.5 A.5) behind a window; bounded, so that no bomb goes off."""
    try:
        inflater = zlib.decompressobj(-zlib.MAX_WBITS)
        data = inflater.decompress(read(position, size - position), MAX_INFLATED)
    except zlib.error:
        raise HeaderError("the deflated data set cannot be inflated", reason="malformed") from None
    if inflater.unconsumed_tail and not inflater.eof:
        raise HeaderError(f"the data set inflates to more than {MAX_INFLATED} bytes", reason="header_too_large", limit_bytes=MAX_INFLATED)
    return Window(lambda offset, length: data[offset : offset + length], len(data))


# SOP classes with pixel data that are no images of a patient but maps on them: what `content` calls them.
_CONTENT: Final = {
    "1.2.840.10008.5.1.4.1.1.66.4": "segmentation",
    "1.2.840.10008.5.1.4.1.1.66.7": "segmentation",  # Label Map Segmentation
    "1.2.840.10008.5.1.4.1.1.66.8": "segmentation",  # Height Map Segmentation
    "1.2.840.10008.5.1.4.1.1.30": "parametric_map",
    "1.2.840.10008.5.1.4.1.1.481.2": "dose",
}
_NO_IMAGE_PREFIXES: Final = (
    "88.",
    "11.",
    "66",
    "67",
    "104.",
    "9.",
    "78.",
    "79.",
    "80.",
    "481.3",
    "481.4",
    "481.5",
    "481.6",
    "481.7",
    "481.8",
)


def content_of(sop_class_uid: str) -> str:
    """What the pixels of a SOP class are: "image", "segmentation", "dose" or "parametric_map"."""
    return _CONTENT.get(sop_class_uid, "image")


def is_image_storage(sop_class_uid: str) -> bool:
    """Whether a SOP class of PS3.4 B.5 stores pixels; private classes do not count."""
    return sop_class_uid.startswith(_STORAGE) and not sop_class_uid.removeprefix(_STORAGE).startswith(_NO_IMAGE_PREFIXES)


# --- where the frames are -----------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=4096)
def _pixel_layout(raws: tuple[bytes, ...]) -> PixelLayout | HeaderError:
    """The frames' size from the raw values of rows ... number_of_frames; an error is returned, so that it is cached too."""
    rows, columns, samples, photometric, _, allocated, _, _, _, frames = raws
    try:
        sizes = [_unsigned(raw) for raw in (rows, columns, samples, allocated)]
        count = int(float(frames.strip(b"\0 ").split(b"\\")[0] or 1)) or 1
    except (ValueError, OverflowError):
        return HeaderError("NumberOfFrames (0028,0008) is not a number", reason="invalid_value")
    if sizes[2] is None and photometric.strip(b"\0 ") in (b"MONOCHROME1", b"MONOCHROME2", b"PALETTE COLOR"):
        sizes[2] = 1
    names = ("Rows (0028,0010)", "Columns (0028,0011)", "SamplesPerPixel (0028,0002)", "BitsAllocated (0028,0100)")
    missing = [name for name, value in zip(names, sizes, strict=True) if value is None]
    if missing:
        return HeaderError(f"missing: {', '.join(missing)}", reason="missing_attribute")
    n_rows, n_columns, n_samples, bits = (value or 0 for value in sizes)
    if not (0 < n_rows <= 0xFFFF and 0 < n_columns <= 0xFFFF):
        return HeaderError(f"Rows x Columns is {n_rows} x {n_columns}", reason="invalid_value", rows=n_rows, columns=n_columns)
    if n_samples not in (1, 2, 3, 4) or bits not in (1, 8, 16, 32, 64):
        return HeaderError(f"SamplesPerPixel {n_samples} with BitsAllocated {bits} cannot be read", reason="invalid_value")
    if count < 0:
        return HeaderError(f"NumberOfFrames is {count}", reason="invalid_value", number_of_frames=count)
    samples_stored = 2 if photometric.strip(b"\0 ") in (b"YBR_FULL_422", b"YBR_PARTIAL_422") and n_samples == 3 else n_samples
    return PixelLayout(count, n_rows * n_columns * samples_stored * bits)


def _unsigned(raw: bytes) -> int | None:
    return int.from_bytes(raw, "little") if len(raw) in (2, 4) else None


def _locate(pixel_data: ElementHead, layout: PixelLayout, transfer_syntax: str, window: Window, extended_offsets: bytes) -> list[Place]:
    if pixel_data.length == UNDEFINED and transfer_syntax not in NATIVE:
        return _locate_encapsulated(pixel_data.value, layout.frames, window, extended_offsets)
    if transfer_syntax not in NATIVE:
        raise HeaderError("the transfer syntax is compressed, but the pixel data are not encapsulated", reason="malformed")
    return _locate_native(pixel_data, layout, window)


def _locate_native(pixel_data: ElementHead, layout: PixelLayout, window: Window) -> list[Place]:
    """Frames lie end to end without padding, even where BitsAllocated 1 lets them share a byte (PS3.5 8.1.1)."""
    frames, bits = layout
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
    start = pixel_data.value
    if pixel_data.length == UNDEFINED and window.take(start, 4) == b"\xfe\xff\x00\xe0":
        raise HeaderError("the transfer syntax is native, but the pixel data are encapsulated", reason="malformed")
    if bits % 8 == 0:
        length = bits // 8
        return [Place(start + number * length, length, 0) for number in range(frames)]
    places = []
    for number in range(frames):
        first, last = number * bits, (number + 1) * bits
        places.append(Place(start + first // 8, (last + 7) // 8 - first // 8, first % 8))
    return places


def _locate_encapsulated(position: int, frames: int, window: Window, extended_offsets: bytes) -> list[Place]:
    """From the first item tag of each frame to the end of its last fragment (PS3.5 A.4).

    The item headers are followed one by one: offset tables are often wrong, so they only say which fragments belong
    together where there are more of them than frames.
    """
    table_length = _item_length(window, position)
    if table_length is None:
        raise HeaderError("encapsulated pixel data do not begin with an offset table item", reason="malformed")
    table = window.take(position + 8, table_length) if 0 < table_length <= 4 * 2**20 else b""
    first = position + 8 + table_length
    starts, end = _fragments(window, first)
    if frames == 1 and starts:
        return [Place(starts[0], end - starts[0], 0)]
    if len(starts) < frames:
        raise HeaderError(
            f"NumberOfFrames is {frames}, found {len(starts)} fragment(s)", reason="missing_frames", expected=frames, found=len(starts)
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


def _item_length(window: Window, position: int) -> int | None:
    """The length of the item at `position`, None at the sequence delimitation item or the end of the file."""
    if position + 8 > window.size:
        return None
    start = position - window.base
    raw = window.buffer[start : start + 8] if 0 <= start <= len(window.buffer) - 8 else window.read(position, 8)
    if len(raw) < 8:
        return None
    group, element, length = _ITEM_HEAD.unpack(raw)
    tag = group << 16 | element
    if tag == SEQUENCE_END:
        return None
    if tag != ITEM:
        raise HeaderError(
            f"at byte {position} of the pixel data a fragment was expected, found tag {tag:08X}", reason="malformed", position=position
        )
    return int(length)


def _fragments(window: Window, position: int) -> tuple[list[int], int]:
    """Where each fragment's item tag is, and where the last fragment ends."""
    starts = []
    while (length := _item_length(window, position)) is not None:
        starts.append(position)
        position += 8 + length
        if position > window.size:
            raise HeaderError(
                f"a fragment of {length} bytes ends beyond the file ({window.size} bytes)",
                reason="truncated",
                expected_bytes=position,
                found_bytes=window.size,
            )
    return starts, position


def _starts_from_offsets(table: bytes, code: str, first: int, starts: list[int], frames: int) -> list[int]:
    """The frames' first fragments by an offset table, [] when it contradicts the fragments (PS3.5 A.4, PS3.3 C.7.6.3.1.8)."""
    width = struct.calcsize(code)
    heads = [first + offset for offset in struct.unpack(f"<{len(table) // width}{code}", table[: len(table) // width * width])]
    known = set(starts)
    sound = len(heads) == frames and heads[0] == first and all(a < b for a, b in pairwise(heads)) and known.issuperset(heads)
    return heads if sound else []


def _starts_from_end_markers(window: Window, starts: list[int], end: int, frames: int) -> list[int]:
    """The frames' first fragments where no table says: after each fragment that ends a codestream (EOI, EOC)."""
    heads = [starts[0]]
    for begin, stop in pairwise([*starts, end]):
        if b"\xff\xd9" in window.read(max(begin + 8, stop - 10), min(10, stop - begin - 8)) and stop != end:
            heads.append(stop)
    if len(heads) != frames:
        raise HeaderError(
            f"{len(starts)} fragments cannot be told apart as {frames} frames", reason="fragments", expected=frames, found=len(heads)
        )
    return heads


# --- raw values -> values -----------------------------------------------------------------------------------------

_BINARY: Final = {"US": "H", "XS": "H", "SS": "h", "UL": "I", "SL": "i", "FL": "f", "FD": "d", "AT": "H", "UV": "Q", "SV": "q"}


def converter(column: Attribute) -> Callable[[bytes], Any]:
    """A function from one raw little-endian value to the column's value, with a memory for values seen."""
    if column.kind == "flag":
        return bool
    if column.kind == "text":
        convert: Callable[[bytes], Any] = _text
    elif column.vr in _BINARY:
        convert = functools.partial(_from_binary, code=_BINARY[column.vr], size=1 if column.per_frame else column.size)
    else:
        integer = column.kind == "integer"
        convert = functools.partial(_from_digits, size=1 if column.per_frame else column.size, integer=integer)
    return functools.lru_cache(maxsize=4096)(convert)


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "replace").strip("\0 ").replace("\0", "")


def _from_binary(raw: bytes, code: str, size: int) -> Any:
    width = struct.calcsize(code)
    if size == 1 and code in "HI" and len(raw) in (2, 4):  # US written as UL, and the reverse
        return int.from_bytes(raw, "little")
    values = struct.unpack(f"<{len(raw) // width}{code}", raw[: len(raw) // width * width])
    if not all(map(math.isfinite, values)):
        return None
    if size == 1:
        return values[0] if values else None
    if size == 0:
        return tuple(float(v) for v in values) or None
    return tuple(float(v) for v in values) if len(values) == size else None


def _from_digits(raw: bytes, size: int, integer: bool) -> Any:
    """DS and IS (PS3.5 6.2): numbers as text, several ones between backslashes; None when they are not that."""
    text = raw.strip(b"\0 ")
    if not text:
        return None
    try:
        values = tuple(float(part) for part in text.split(b"\\"))
    except ValueError:
        return None
    if not all(map(math.isfinite, values)):
        return None
    if size == 1:
        if not integer:
            return values[0]
        return int(values[0]) if values[0].is_integer() and abs(values[0]) < 2**53 else None
    return values if size in (0, len(values)) else None


@functools.lru_cache(maxsize=4096)
def _is_real(raw: bytes) -> bool:
    text = raw.strip(b"\0 ")
    return not text or _from_digits(text, 1, integer=False) is not None


def _check_real(raw: bytes, column: Attribute) -> None:
    """A rescale value that is present but no number may not silently become 1 or 0."""
    if not _is_real(raw):
        raise HeaderError(
            f"{column.name} ({column.tag >> 16:04X},{column.tag & 0xFFFF:04X}) is not a finite number",
            reason="invalid_value",
            name=column.name,
        )


def _override(row: tuple[bytes, ...], changes: dict[int, bytes]) -> tuple[bytes, ...]:
    if not changes:
        return row
    values = list(row)
    for i, value in changes.items():
        values[i] = value
    return tuple(values)


def _vector(raw: bytes, column: Attribute, frames: int) -> Iterator[bytes]:
    """The value of each frame of a vector; HeaderError when it has not one a frame."""
    if column.vr == "US":
        values = [raw[i : i + 2] for i in range(0, len(raw), 2)]
    else:
        values = raw.strip(b"\0 ").split(b"\\")
    if len(values) != frames:
        # A vector of another length says nothing about frames (NM vectors also occur in single frames).
        return iter([b""] * frames)
    return iter(values)


def _swap(raw: bytes, column: Attribute) -> bytes:
    """A big-endian binary value as little endian; text stays."""
    width = struct.calcsize(_BINARY.get(column.vr, "c"))
    return b"".join(raw[i : i + width][::-1] for i in range(0, len(raw), width)) if width > 1 else raw


def _swapped(columns: Sequence[Attribute], row: tuple[bytes, ...]) -> dict[int, bytes]:
    return {i: _swap(value, column) for i, (column, value) in enumerate(zip(columns, row, strict=True)) if value and column.vr in _BINARY}


def _to_utf8(raw: bytes, charset: bytes) -> bytes:
    """Text of a file's SpecificCharacterSet as UTF-8; what does not decode is replaced, never refused."""
    import warnings

    from pydicom.charset import convert_encodings, decode_bytes

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom's warnings quote values, and values may identify a person
        try:
            encodings = convert_encodings([part.strip() for part in charset.decode("ascii", "replace").strip("\0 ").split("\\")])
            return decode_bytes(raw, encodings, {0x5C}).encode("utf-8", "replace")
        except (LookupError, ValueError):
            return raw.decode("utf-8", "replace").encode()


def _sign_padding(columns: dict[str, Column]) -> None:
    """PixelPaddingValue is signed exactly when the pixels are (PS3.3 C.7.5.1.1.2), whatever VR was written."""
    for name in ("pixel_padding_value", "pixel_padding_range_limit"):
        values = columns[name]
        if isinstance(values, Constant) and values.value is None:
            continue
        signs = columns["pixel_representation"]
        count = values.rows if isinstance(values, Constant) else len(values)
        pairs = zip(_expand(values, count), _expand(signs, count), strict=True)
        columns[name] = [v - 0x10000 if v is not None and sign == 1 and 0x8000 <= v <= 0xFFFF else v for v, sign in pairs]


def _fill_pixel_defaults(columns: dict[str, Column]) -> None:
    """What the Image Pixel module lets one conclude where it was left out: the columns of reading are never None."""
    count = next(len(c) if isinstance(c, list) else c.rows for c in columns.values())
    fills: tuple[tuple[str, Callable[..., int], tuple[str, ...]], ...] = (
        ("samples_per_pixel", lambda: 1, ()),
        ("planar_configuration", lambda: 0, ()),
        ("pixel_representation", lambda: 0, ()),
        ("number_of_frames", lambda: 1, ()),
        ("bits_stored", lambda allocated: allocated, ("bits_allocated",)),
        ("high_bit", lambda stored: stored - 1, ("bits_stored",)),
    )
    for name, fill, needs in fills:
        column = columns[name]
        if isinstance(column, Constant) and column.value is not None:
            continue
        sources = [_expand(columns[need], count) for need in needs]
        arguments = list(zip(*sources, strict=True)) if sources else [()] * count
        columns[name] = [fill(*a) if v is None else v for v, a in zip(_expand(column, count), arguments, strict=True)]


def _expand(column: Column, count: int) -> list[Any]:
    return [column.value] * count if isinstance(column, Constant) else column


# --- columns that users add ---------------------------------------------------------------------------------------

# Identifying attributes of the basic profile (PS3.15 Table E.1-1) beyond person names and all dates and times of birth
# and contact: adding one of these needs allow_phi=True. Whole groups are refused rather than listed where possible.
_PHI_VRS: Final = frozenset({"PN", "DA", "DT", "TM"})
_PHI_WORDS: Final = (
    "patient", "person", "physician", "operator", "performer", "requester", "institution", "address", "telephone", "accession",
    "station", "serial", "deviceuid", "comments", "description", "history", "allerg", "occupation", "insurance", "medicalrecord",
    "birth", "name", "studyid", "admission", "visit", "location", "identification", "reviewer", "author", "uid", "label", "trial",
)  # fmt: skip


def extra_attributes(keywords: Sequence[str], *, allow_phi: bool = False) -> tuple[Attribute, ...]:
    """Columns for DICOM keywords beyond the index's own, as `scan(attributes=[...])` takes them.

    Raises
    ------
    UsageError
        An unknown keyword, a sequence or bulk data, or an identifying attribute without ``allow_phi=True``.
    """
    if not keywords:
        return ()
    from pydicom.datadict import dictionary_VM, dictionary_VR, tag_for_keyword

    own = {attribute.name for attribute in attributes()} | set(Frame.__slots__)
    found = []
    for keyword in dict.fromkeys(keywords):
        tag = tag_for_keyword(keyword)
        if tag is None:
            raise UsageError(f"{keyword!r} is not a keyword of the DICOM data dictionary (PS3.6)", keyword=keyword)
        name, vr, vm = snake_case(keyword), dictionary_VR(tag), dictionary_VM(tag)
        if name in own:
            continue
        if vr == "SQ" or vr.startswith("O") or vr == "UN":
            raise UsageError(f"{keyword} is a {vr}: a column holds text or numbers", keyword=keyword, vr=vr)
        identifying = vr in _PHI_VRS or tag >> 16 == 0x0010 or any(word in keyword.lower() for word in _PHI_WORDS)
        if identifying and not allow_phi:
            raise UsageError(
                f"{keyword} can identify a patient: pass allow_phi=True to keep it in the index, and guard the index then", keyword=keyword
            )
        found.append(Attribute(name, tag, "XS" if " or " in vr else vr, "select", 1 if vm == "1" else 0))
    return tuple(found)


__all__ = ["Column", "Constant", "DicomdlError", "Header", "HeaderReader", "Place", "content_of", "extra_attributes", "read_frames"]
