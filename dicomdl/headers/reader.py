"""One file -> what it is, its frames' facts and where each frame's bytes are.

Only the first bytes of a file are read; pixel data are measured, not read. The walk over the elements is ours
(`elements`); pydicom is asked for the data dictionary (names of extra columns) and for character sets beyond ASCII, and is
imported only then. A file that cannot be used becomes a `Header` of kind "problem" with a reason; nothing raises.
"""

import functools
import os
import struct
from collections.abc import Callable, Mapping, Sequence
from operator import itemgetter
from typing import Final, Literal, NamedTuple

from dicomdl.errors import HeaderError
from dicomdl.headers.columns import (
    BINARY,
    Column,
    Constant,
    as_text,
    check_real,
    converter,
    fill_pixel_defaults,
    sign_padding,
    swap_bytes,
    vector_values,
)
from dicomdl.headers.elements import (
    BIG_ENDIAN,
    EXPLICIT,
    IMPLICIT,
    PIXEL_DATA,
    TRANSFER_SYNTAX,
    Step,
    Syntax,
    Walked,
    Wanted,
    Window,
    items,
    iterate,
    walk,
    walk_meta,
)
from dicomdl.headers.frame import Attribute, Frame, attributes
from dicomdl.headers.inflate import Inflated
from dicomdl.headers.layouts import Layouts
from dicomdl.headers.mosaic import (
    Plane,
    Tiling,
    csa_diffusion,
    nm_positions,
    protocol_slices,
    read_csa,
    siemens_tiling,
    uih_tiling,
)
from dicomdl.headers.pixel_data import Place, locate_frames, pixel_layout
from dicomdl.headers.requirement import require_pydicom
from dicomdl.headers.uids import (
    DEFLATED,
    EXPLICIT_BIG,
    EXPLICIT_LITTLE,
    IMPLICIT_LITTLE,
    NATIVE,
    NM_IMAGE,
    VIDEO_ADVICE,
    family_of,
    is_image_storage,
)
from dicomdl.storage.system import OPEN_FLAGS, read_at

# Small: the few UIDs that every file names.
_uid = functools.lru_cache(maxsize=256)(as_text)
FileKind = Literal["image", "no_image", "not_dicom", "problem"]
_FREE_TEXT_VRS: Final = frozenset(
    {"LO", "LT", "PN", "SH", "ST", "UC", "UT"}
)  # what SpecificCharacterSet applies to (PS3.5 6.1.2.3)
SHARED_GROUPS: Final = 0x52009229
PER_FRAME_GROUPS: Final = 0x52009230
CHARACTER_SET: Final = 0x00080005
EXTENDED_OFFSETS: Final = 0x7FE00001
DETECTOR_INFORMATION: Final = 0x00540022
_SPECIALS: Final = (
    CHARACTER_SET,
    SHARED_GROUPS,
    PER_FRAME_GROUPS,
    EXTENDED_OFFSETS,
    DETECTOR_INFORMATION,
)
# What only mosaics and old Siemens diffusion images are asked for, in a walk of their own: 10 to 100 KB that all of a scanner's files
# have. De-identification may remove the creator of a block and leave its elements, so these are also looked for where they usually are.
_PRIVATE: Final = (
    (0x00290010, "SIEMENS CSA HEADER"),
    (0x00290020, "SIEMENS CSA HEADER"),
    (0x00650050, "Image Private Header"),
    (0x00650051, "Image Private Header"),
)
_PRIVATE_WANTED: Final = Wanted([*_PRIVATE, *((tag | 0x1000, "") for tag, _ in _PRIVATE)])
FIRST_READ: Final = 16 * 2**10  # most headers end before; one read then does it all


class CodedTile(NamedTuple):
    """Where in its mosaic a tile is; see `FrameSource`."""

    coded_rows: int
    coded_columns: int
    tile_top: int
    tile_left: int


NO_TILE: Final = CodedTile(0, 0, 0, 0)


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
    tiles: Sequence[
        CodedTile
    ] = ()  # one a row where the rows are the tiles of the file's one frame

    @property
    def frame_numbers(self) -> Sequence[int]:
        """The frame of each row, from 1."""
        return [1] * len(self.tiles) or range(1, len(self.rows) + 1)


class _Coding(NamedTuple):
    """How one file is coded and read: its first element is at `start`."""

    transfer_syntax: str
    syntax: Syntax
    window: Window
    start: int
    deflated: bool


class HeaderReader:
    """Reads headers. What it remembers of one file only makes the next one faster, and never changes what is read.

    Parameters
    ----------
    extra
        Columns beyond `Frame`'s own, from `extra_attributes`.
    """

    def __init__(self, extra: Sequence[Attribute] = ()) -> None:
        self.extra = tuple(extra)
        self.columns = (*attributes(), *self.extra)
        # Tag 0 leaves a slot empty: the transfer syntax is the file meta information's, whatever the data set may say.
        entries = [
            (0 if column.inside or column.tag == TRANSFER_SYNTAX else column.tag, column.creator)
            for column in self.columns
        ]
        self._inside = {
            sequence: {c.tag: i for i, c in enumerate(self.columns) if c.inside == sequence}
            for sequence in {c.inside: None for c in self.columns if c.inside}
        }
        self._wanted = Wanted([*entries, *((tag, "") for tag in (*_SPECIALS, *self._inside))])
        self._layouts = Layouts(self._wanted)
        self._first_read = FIRST_READ
        self._index = {column.name: number for number, column in enumerate(self.columns)}
        self._transfer_syntax = self._index["transfer_syntax_uid"]
        self._format = slice(self._index["rows"], self._index["number_of_frames"] + 1)
        self._free_texts = [
            i for i, column in enumerate(self.columns) if column.vr in _FREE_TEXT_VRS
        ]
        self._texts = itemgetter(*self._free_texts)
        self._required_reals = [
            i for i, column in enumerate(self.columns) if column.required and column.kind == "real"
        ]
        self._per_frame = [i for i, column in enumerate(self.columns) if column.per_frame]
        self._vectors = itemgetter(*self._per_frame)
        self._count = len(self.columns)
        self._sop_class = self._index["sop_class_uid"]
        self._image_type = self._index["image_type"]
        self._sequence_name = self._index["sequence_name"]
        self._position = self._index["image_position_patient"]
        self._orientation = self._index["image_orientation_patient"]
        self._slice_vector = self._index["slice_vector"]
        self._siemens_count = self._index["siemens_images_in_mosaic"]
        self._siemens_b_value = self._index["siemens_b_value"]
        self._siemens_direction = self._index["siemens_diffusion_direction"]
        self._plane_columns = [
            self._index[name]
            for name in (
                "rows",
                "columns",
                "image_position_patient",
                "image_orientation_patient",
                "pixel_spacing",
                "spacing_between_slices",
            )
        ]
        self._groups = {
            (group, column.group_tag or column.tag): i
            for i, column in enumerate(self.columns)
            for group in column.groups
        }
        self._macros = frozenset(group for group, _ in self._groups)
        self._converters = [converter(column) for column in self.columns]

    def read(self, path: str) -> Header:
        """What the file at `path` is; never raises for what a file may contain, a missing file included."""
        try:
            descriptor = os.open(path, OPEN_FLAGS)
        except OSError as error:
            return Header("problem", "unreadable", f"cannot be opened: {error.strerror}")
        try:
            stat = os.fstat(descriptor)
            first = read_at(descriptor, self._first_read, 0)
            header = self.parse(
                first, stat.st_size, lambda offset, length: read_at(descriptor, length, offset)
            )
        except OSError as error:
            return Header("problem", "unreadable", f"cannot be read: {error.strerror}")
        finally:
            os.close(descriptor)
        kind, reason, detail, sop_class, _, _, _, rows, places, deflated, is_float, tiles = header
        times = (
            stat.st_size,
            stat.st_mtime_ns,
            stat.st_ctime_ns,
        )  # not by _replace, which takes 2 us
        return Header(
            kind, reason, detail, sop_class, *times, rows, places, deflated, is_float, tiles
        )

    def parse(self, first: bytes, size: int, read: Callable[[int, int], bytes]) -> Header:
        """What a file of `size` bytes is, given its `first` bytes and a way to `read(offset, length)` more."""
        if size == 0:
            return Header("problem", "empty", "the file has 0 bytes")
        start = first_element(first)
        if start is None:
            return Header("not_dicom")
        try:
            return self._parse(first, size, read, start)
        except HeaderError as error:
            if start == 0:  # no prefix said that this is DICOM, and it does not read as such
                return Header("not_dicom")
            return Header("problem", error.reason, str(error))

    def _parse(
        self, first: bytes, size: int, read: Callable[[int, int], bytes], start: int
    ) -> Header:
        window = Window(read, size, first)
        matched = self._layouts.match(first, start)
        if matched is not None:
            walked, raw_syntax, syntax = matched
            return self._conclude(
                walked, _Coding(_uid(raw_syntax), syntax, window, start, deflated=False)
            )
        learn = self._layouts.worth_learning()
        meta: list[Step] = []
        raw_syntax, position = walk_meta(
            window, start, meta if learn else None, self._transfer_syntax
        )
        transfer_syntax = as_text(raw_syntax)
        inflated = Inflated(read, size, position) if transfer_syntax == DEFLATED else None
        if inflated is not None:
            window, position = inflated.window(), 0
        syntax, transfer_syntax = _syntax(window, position, transfer_syntax)
        learn = learn and inflated is None
        steps: list[Step] = []
        walked = walk(window, position, syntax, self._wanted, steps if learn else None)
        if walked.pixel_data is not None:
            if learn:
                self._layouts.learn(first, start, syntax, meta, steps)
            if walked.pixel_data.value > self._first_read:
                self._first_read = min(2**18, 1 << walked.pixel_data.value.bit_length())
            if inflated is not None:
                window.size = inflated.measure(walked.pixel_data)
        values = _override(
            walked.values, {self._transfer_syntax: raw_syntax or transfer_syntax.encode()}
        )
        return self._conclude(
            walked._replace(values=values),
            _Coding(transfer_syntax, syntax, window, start, deflated=inflated is not None),
        )

    def _conclude(self, walked: Walked, coding: "_Coding") -> Header:
        """Turn raw values into rows, one a frame or tile, with the place of each frame's bytes."""
        transfer_syntax, syntax, window, _, deflated = coding
        row = walked.values[: self._count]
        charset, shared, per_frame, extended_offsets, detectors, *sequences = walked.values[
            self._count :
        ]
        if not syntax.little:
            row = _override(row, _swapped(self.columns, row))
        if any(sequences):
            for sequence, value in zip(self._inside, sequences, strict=True):
                row = (
                    _override(row, self._first_item(value, syntax, sequence, window))
                    if value
                    else row
                )
        if charset:
            row = self._transcode(row, charset)
        sop_class = _uid(row[self._sop_class])
        pixel_data = walked.pixel_data
        if pixel_data is None:
            return self._without_pixels(row, sop_class)
        if family_of(transfer_syntax) == "video":
            raise HeaderError(VIDEO_ADVICE, reason="video")
        layout = pixel_layout(row[self._format])
        if isinstance(layout, HeaderError):
            raise HeaderError(
                str(layout), **vars(layout)
            )  # a new one: a raised error keeps its traceback, and with it the file's bytes
        for i in self._required_reals:
            if row[i]:
                check_real(row[i], self.columns[i])
        places = locate_frames(
            pixel_data,
            layout,
            window,
            native=transfer_syntax in NATIVE,
            extended_offsets=extended_offsets,
        )
        rows = self._frame_rows(row, layout.frames, shared, per_frame, syntax, window)
        tiles: Sequence[CodedTile] = ()
        if sop_class == NM_IMAGE:
            rows = self._nm_rows(rows, detectors, syntax, window)
        elif not (
            shared or per_frame
        ):  # enhanced objects unpack their mosaics, but may still be called so
            image_type = row[self._image_type]
            if layout.frames == 1 and (
                b"MOSAIC" in image_type
                or b"VFRAME" in image_type
                or b"ep_b" in row[self._sequence_name]
            ):
                rows, tiles = self._unpacked(rows[0], coding)
                places *= len(rows)
            elif layout.frames > 1 and _shows_many(
                image_type
            ):  # one position for frames of many slices each
                rows = [_override(row, {self._position: b""}) for row in rows]
        return Header(
            "image",
            "",
            "",
            sop_class,
            0,
            0,
            0,
            rows,
            places,
            deflated,
            pixel_data.tag != PIXEL_DATA,
            tiles,
        )

    def _without_pixels(self, row: tuple[bytes, ...], sop_class: str) -> Header:
        if not any(row):
            raise HeaderError("no element that an index knows was found", reason="malformed")
        if row[self._index["rows"]] and row[self._index["columns"]] and is_image_storage(sop_class):
            raise HeaderError(
                "the header describes an image, but there are no pixel data", reason="no_pixel_data"
            )
        return Header("no_image", "", "", sop_class)

    def _first_item(
        self, raw: bytes, syntax: Syntax, sequence: int, account: Window
    ) -> dict[int, bytes]:
        wanted = self._inside[sequence]
        for item in items(raw, syntax, account):
            found = {
                wanted[tag]: value
                for tag, _, value in iterate(item, syntax, account)
                if tag in wanted
            }
            return (
                found
                if syntax.little
                else {i: swap_bytes(value, self.columns[i]) for i, value in found.items()}
            )
        return {}

    def _transcode(self, row: tuple[bytes, ...], charset: bytes) -> tuple[bytes, ...]:
        """The row with text as UTF-8, where the file's character set is not ASCII (PS3.3 C.12.1.1.2)."""
        joined = b"".join(self._texts(row))
        if joined.isascii() and b"\x1b" not in joined:
            return row
        foreign = {
            i: _to_utf8(row[i], charset)
            for i in self._free_texts
            if not row[i].isascii() or b"\x1b" in row[i]
        }
        return _override(row, foreign)

    def _frame_rows(
        self,
        row: tuple[bytes, ...],
        frames: int,
        shared: bytes,
        per_frame: bytes,
        syntax: Syntax,
        account: Window,
    ) -> Sequence[tuple[bytes, ...]]:
        """One row a frame: the file's values under the shared and per-frame functional groups and the frame's vectors."""
        if shared:
            for item in items(shared, syntax, account):
                row = _override(row, self._group_values(item, syntax, account))
        has_vectors = any(self._vectors(row))
        if not per_frame and not has_vectors:
            return [row] * frames
        changes: list[dict[int, bytes]] = [{} for _ in range(frames)]
        if per_frame:
            changes = [
                self._group_values(item, syntax, account)
                for item in items(per_frame, syntax, account)
            ]
            if len(changes) != frames:
                changes = [self._agreed(changes, frames)] * frames
        for i in self._per_frame if has_vectors else ():
            changes = [dict(change) for change in changes]
            for change, value in zip(
                changes, vector_values(row[i], self.columns[i], frames), strict=True
            ):
                change[i] = value
        return [_override(row, change) for change in changes]

    def _agreed(self, groups: Sequence[Mapping[int, bytes]], frames: int) -> dict[int, bytes]:
        """What holds for every frame where nothing says whose groups are whose, such as in files of which a tool kept some frames.

        What the groups differ in is unknown then: such frames have no position. Their values must not depend on it. With fewer groups than
        frames, what the groups say need not hold for the frames that have none.
        """
        known = set().union(*groups) if len(groups) > frames else set()
        agreed = {
            i: values.pop() if len(values := {group.get(i) for group in groups}) == 1 else b""
            for i in known
        }
        if not known or any(self.columns[i].required for i, value in agreed.items() if not value):
            raise HeaderError(
                f"NumberOfFrames is {frames}, but there are functional groups for {len(groups)}: nothing says whose they are",
                reason="functional_groups",
                expected=frames,
                found=len(groups),
            )
        return {i: value or b"" for i, value in agreed.items()}

    # --- frames that are packed in their own way: see `mosaic` ---

    def _unpacked(
        self, row: tuple[bytes, ...], coding: "_Coding"
    ) -> tuple[list[tuple[bytes, ...]], Sequence[CodedTile]]:
        """The rows of a file with one frame: one, or one a tile where it is a mosaic.

        A mosaic whose tiles cannot be placed stays whole, and loses its position: that is one of a slice as large as the mosaic,
        which nothing in the row would tell from a true one.
        """
        image_type = row[self._image_type]
        is_mosaic = _shows_many(image_type)
        if not is_mosaic and (
            b"ep_b" not in row[self._sequence_name] or row[self._siemens_b_value]
        ):
            return [row], ()
        image, series, count, frames = _private_values(coding)
        csa = read_csa(image)
        row = _override(row, self._csa_diffusion(row, csa))
        if not is_mosaic:
            return [row], ()
        plane = self._plane(row)
        if frames:
            tiling = uih_tiling(plane, count, frames, coding.syntax, coding.window)
        else:
            said = self._converters[self._siemens_count](row[self._siemens_count])
            tiling = siemens_tiling(plane, said, csa, protocol_slices(series))
        if tiling is None:
            return [_override(row, {self._position: b""})], ()
        return self._tile_rows(row, plane, tiling)

    def _tile_rows(
        self, row: tuple[bytes, ...], plane: Plane, tiling: Tiling
    ) -> tuple[list[tuple[bytes, ...]], Sequence[CodedTile]]:
        size = {
            self._format.start: tiling.rows.to_bytes(2, "little"),
            self._format.start + 1: tiling.columns.to_bytes(2, "little"),
        }
        rows = [
            _override(row, {**size, self._position: _decimals(tile.position)})
            for tile in tiling.tiles
        ]
        return rows, [
            CodedTile(plane.rows, plane.columns, tile.top, tile.left) for tile in tiling.tiles
        ]

    def _csa_diffusion(
        self, row: tuple[bytes, ...], csa: Mapping[str, Sequence[str]]
    ) -> dict[int, bytes]:
        """What scanners before syngo MR VB13 say of diffusion in the CSA header only."""
        b_value, direction = csa_diffusion(csa)
        found = {}
        if b_value is not None and not row[self._siemens_b_value]:
            found[self._siemens_b_value] = b"%d" % b_value
        if direction is not None and not row[self._siemens_direction]:
            found[self._siemens_direction] = struct.pack("<3d", *direction)
        return found

    def _nm_rows(
        self, rows: Sequence[tuple[bytes, ...]], detectors: bytes, syntax: Syntax, account: Window
    ) -> list[tuple[bytes, ...]]:
        """The rows of an NM file; those of reconstructed slices with the positions that the first detector's item implies."""
        kind = rows[0][self._image_type].strip(b"\0 ").split(b"\\")[2:3]
        if [word.strip() for word in kind] not in ([b"RECON TOMO"], [b"RECON GATED TOMO"]):
            return list(rows)
        where = {self.columns[i].tag: i for i in (self._position, self._orientation)}
        first: dict[int, bytes] = {}
        for item in items(detectors, syntax, account):
            first = {
                where[tag]: value
                for tag, _, value in iterate(item, syntax, account)
                if tag in where
            }
            break
        vector = [self._converters[self._slice_vector](row[self._slice_vector]) for row in rows]
        slices = [1] if vector == [None] else vector
        positions = nm_positions(self._plane(_override(rows[0], first)), slices)
        texts = (
            [b""] * len(rows)
            if positions is None
            else [_decimals(position) for position in positions]
        )
        return [
            _override(row, {**first, self._position: text})
            for row, text in zip(rows, texts, strict=True)
        ]

    def _plane(self, row: tuple[bytes, ...]) -> Plane:
        return Plane(*(self._converters[i](row[i]) for i in self._plane_columns))

    def _group_values(
        self, item: bytes, syntax: Syntax, account: Window, outer: tuple[int, ...] = ()
    ) -> dict[int, bytes]:
        """Raw values by column of one item of a functional groups sequence; macros nest once (MR diffusion)."""
        found: dict[int, bytes] = {}
        for tag, vr, value in iterate(item, syntax, account):
            column = self._groups.get((outer[-1], tag)) if outer else None
            if column is not None:
                found[column] = value if syntax.little else swap_bytes(value, self.columns[column])
            elif (
                len(outer) < 2
                and tag in self._macros
                and (vr in (b"SQ", b"") and (value[:4] == b"\xfe\xff\x00\xe0" or not syntax.little))
            ):
                for inner in items(value, syntax, account):
                    found |= self._group_values(inner, syntax, account, (*outer, tag))
                    break
        return found

    def convert(self, rows: Sequence[tuple[bytes, ...]]) -> dict[str, Column]:
        """Typed columns of raw rows. Text is stripped str, numbers int or float, missing ones None."""
        result: dict[str, Column] = {}
        for column, convert, raws in zip(
            self.columns, self._converters, zip(*rows, strict=True), strict=True
        ):
            first = raws[0]
            if raws.count(first) == len(raws):
                result[column.name] = Constant(convert(first), len(raws))
            else:
                result[column.name] = [convert(raw) for raw in raws]
        sign_padding(result)
        fill_pixel_defaults(result)
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
        error = HeaderError(
            header.detail or "this is not a DICOM file", reason=header.reason or "not_dicom"
        )
        error.add_note(f"file: {name}")
        raise error
    if not header.rows:
        return []
    columns = reader.convert(header.rows)
    count = len(header.rows)
    values = {
        name: [c.value] * count if isinstance(c, Constant) else c for name, c in columns.items()
    }
    own = [a.name for a in attributes()]
    added = [a.name for a in extra]
    return [
        Frame(
            path=name,
            frame_number=header.frame_numbers[number],
            byte_offset=place.byte_offset,
            byte_length=place.byte_length,
            bit_offset=place.bit_offset,
            deflated=header.deflated,
            float_pixels=header.float_pixels,
            file_bytes=header.file_bytes,
            file_mtime_ns=header.file_mtime_ns,
            **(header.tiles[number] if header.tiles else NO_TILE)._asdict(),
            extra=tuple((column, values[column][number]) for column in added),
            **{column: values[column][number] for column in own},
        )
        for number, place in enumerate(header.places)
    ]


# --- what kind of file, and how it is coded -----------------------------------------------------------------------


def first_element(first: bytes) -> int | None:
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
            raise HeaderError(
                "the transfer syntax is big endian, the data set is little endian",
                reason="contradicting_syntax",
            )
        return BIG_ENDIAN, EXPLICIT_BIG
    if looks_big:
        raise HeaderError(
            "the transfer syntax is little endian, the data set is big endian",
            reason="contradicting_syntax",
        )
    # Without a transfer syntax, native pixels can only be little endian; encapsulated ones are refused in `places`.
    return (EXPLICIT if explicit else IMPLICIT), transfer_syntax or (
        EXPLICIT_LITTLE if explicit else IMPLICIT_LITTLE
    )


def _private_values(coding: _Coding) -> list[bytes]:
    """The raw values of the elements `_PRIVATE`, b"" where absent."""
    start = 0 if coding.deflated else walk_meta(coding.window, coding.start, None, -1)[1]
    values = walk(coding.window, start, coding.syntax, _PRIVATE_WANTED).values
    count = len(_PRIVATE)
    return [
        reserved or usual for reserved, usual in zip(values[:count], values[count:], strict=True)
    ]


def _decimals(position: Sequence[float]) -> bytes:
    return "\\".join(map(repr, position)).encode()


def _shows_many(image_type: bytes) -> bool:
    """Whether an image is a mosaic of slices: of Siemens, or of UIH."""
    return not {b"MOSAIC", b"VFRAME"}.isdisjoint(
        part.strip(b"\0 ") for part in image_type.split(b"\\")
    )


def _override(row: tuple[bytes, ...], changes: dict[int, bytes]) -> tuple[bytes, ...]:
    if not changes:
        return row
    values = list(row)
    for i, value in changes.items():
        values[i] = value
    return tuple(values)


def _swapped(columns: Sequence[Attribute], row: tuple[bytes, ...]) -> dict[int, bytes]:
    return {
        i: swap_bytes(value, column)
        for i, (column, value) in enumerate(zip(columns, row, strict=True))
        if value and column.vr in BINARY
    }


def _to_utf8(raw: bytes, charset: bytes) -> bytes:
    """Text of a file's SpecificCharacterSet as UTF-8; what does not decode is replaced, never refused."""
    import warnings

    require_pydicom()
    from pydicom.charset import convert_encodings, decode_bytes

    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # pydicom's warnings quote values, and values may identify a person
        try:
            encodings = convert_encodings(
                [
                    part.strip()
                    for part in charset.decode("ascii", "replace").strip("\0 ").split("\\")
                ]
            )
            return decode_bytes(raw, encodings, {0x5C}).encode("utf-8", "replace")
        except (LookupError, ValueError):
            return raw.decode("utf-8", "replace").encode()
