"""Rare tables of a header (LUTs, palettes, real-world maps), as raw bytes and words.

A header is parsed once per state of a file, for all of its frames. pydicom parses it, but only the
bytes of the elements are used, because its conversion of these elements depends on a guessed VR.
`values` and `pixels` interpret the tables.
"""

import contextlib
import functools
import itertools
import os
from collections.abc import Iterable
from typing import Any, Final, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from dicomdl.errors import DicomdlError, FileChanged, IntensityError, PixelError, UsageError
from dicomdl.headers._attribute_items import CONVERTED
from dicomdl.headers._decimals import decimal
from dicomdl.headers.frame import FRAME_VOI_LUT, PIXEL_VALUE_TRANSFORMATION
from dicomdl.headers.parsed import parsed_header
from dicomdl.headers.requirement import quiet
from dicomdl.storage.locations import absolute
from dicomdl.storage.memory import Share, share
from dicomdl.storage.sources import Source, look_up

# A path accepts the file in any state. A source requires the state of the scan.
File: TypeAlias = str | os.PathLike[str] | Source

MOST_ENTRIES: Final = 1 << 16
# Limit of the bytes of an element. 65536 entries need less, plain or in segments.
MOST_BYTES: Final = 16 * MOST_ENTRIES

# Modality LUT Type (0028,3004): the defined terms of PS3.3 C.11.1.1.2. Any other text is free text,
# which is dropped.
KINDS: Final = frozenset({"OD", "HU", "US", "MGML", "Z_EFF", "ED", "EDW", "HU_MOD", "PCT"})

_SOP_CLASS, _PHOTOMETRIC, _FRAMES, _ROWS = 0x00080016, 0x00280004, 0x00280008, 0x00280010
_BITS_ALLOCATED, _BITS_STORED, _PIXEL_REPRESENTATION = 0x00280100, 0x00280101, 0x00280103
_INTERCEPT, _SLOPE, _RESCALE_TYPE = 0x00281052, 0x00281053, 0x00281054
_MODALITY_LUT, _VOI_LUT, _LUT_DESCRIPTOR, _LUT_TYPE, _LUT_DATA = (
    0x00283000,
    0x00283010,
    0x00283002,
    0x00283004,
    0x00283006,
)
_REAL_WORLD, _SHARED, _PER_FRAME = 0x00409096, 0x52009229, 0x52009230
_WANTED: Final = (
    *(
        _SOP_CLASS,
        _PHOTOMETRIC,
        _FRAMES,
        _ROWS,
        _BITS_ALLOCATED,
        _BITS_STORED,
        _PIXEL_REPRESENTATION,
    ),
    *(_INTERCEPT, _SLOPE, _RESCALE_TYPE, _MODALITY_LUT, _VOI_LUT, _REAL_WORLD, _SHARED, _PER_FRAME),
    *(base + number for base in (0x00281100, 0x00281200, 0x00281220) for number in (1, 2, 3)),
)
_CODES: Final = {"US": "u2", "SS": "i2", "UL": "u4", "SL": "i4", "FL": "f4", "FD": "f8"}


# --- raw tables -----------------------------------------------------------------------------------


class Element(NamedTuple):
    """The value of one element as stored in the file; `vr` is "" if the file does not state it."""

    vr: str = ""
    value: bytes = b""
    little_endian: bool = True

    def words(self) -> NDArray[np.uint16]:
        """Return the value as unsigned 16-bit words."""
        return np.frombuffer(
            self.value, "<u2" if self.little_endian else ">u2", len(self.value) // 2
        ).astype("<u2")

    def octets(self) -> NDArray[np.uint8]:
        """Return the value as bytes; those in words of a big-endian file are swapped."""
        if self.little_endian or self.vr in ("OB", "UN"):
            return np.frombuffer(self.value, np.uint8)
        return np.frombuffer(self.words().tobytes(), np.uint8)


class RawTable(NamedTuple):
    """A table before its interpretation; `descriptor` has unsigned words."""

    name: str
    descriptor: tuple[int, ...]
    data: Element
    kind: str = ""
    segmented: bool = False


class Rescale(NamedTuple):
    """Slope, intercept and Rescale Type of one set of functional groups."""

    slope: float
    intercept: float
    kind: str


class RawMap(NamedTuple):
    """An item of the Real World Value Mapping Sequence before its interpretation.

    `signed` is the sign of the words by their VR.
    """

    words: tuple[int, ...]
    signed: bool
    exact: tuple[float, ...]
    slope: float | None
    intercept: float | None
    table: bytes
    units: str
    label: str


class Group(NamedTuple):
    """The tables of the top level, the shared or one frame's functional groups; None if absent."""

    voi: tuple[RawTable, ...] | None = None
    maps: tuple[RawMap, ...] | None = None
    rescale: Rescale | None = None


class Tables(NamedTuple):
    """All tables of one file, and the attributes that their interpretation needs.

    `signed` is None without Pixel Representation (float pixels).
    """

    signed: bool | None
    bits_stored: int
    frames: int
    photometric: str
    modality: tuple[RawTable, ...] | None
    palette: tuple[RawTable, ...]
    top: Group
    shared: Group
    per_frame: tuple[Group, ...]


def groups_of(tables: Tables, frame_number: int) -> tuple[Group, ...]:
    """Return the groups that apply to one frame, the most specific first.

    Raises
    ------
    UsageError
        The file has no frame of this number.
    IntensityError
        The per-frame functional groups have fewer items than there are frames.
    """
    if not 1 <= frame_number <= tables.frames:
        message = f"there is no frame {frame_number}: the file has {tables.frames}, from 1"
        raise UsageError(message, frame_number=frame_number, frames=tables.frames)
    if not tables.per_frame:
        return tables.shared, tables.top
    if frame_number > len(tables.per_frame):
        count = len(tables.per_frame)
        message = (
            f"the Per-frame Functional Groups Sequence (5200,9230) has {count} items "
            f"for {tables.frames} frames"
        )
        raise IntensityError(message, expected_items=tables.frames, found_items=count)
    return tables.per_frame[frame_number - 1], tables.shared, tables.top


# --- segments -------------------------------------------------------------------------------------


class _Segment(NamedTuple):
    """A discrete segment with its values, or a linear one of `line` entries towards its value.

    `line` is 0 for a discrete segment.
    """

    line: int
    values: list[int]


def expanded(codes: list[int], entries: int, code_bytes: int, name: str) -> list[int]:
    """Expand segments to a table (PS3.3 C.7.9.2), until it has `entries`.

    An indirect segment repeats earlier ones. The expansion ends, because no segment is empty. The
    offset of an indirect segment counts bytes from the beginning of the data. Some software,
    pydicom included, counts entries instead; such an offset is accepted if the bytes lead to no
    segment.
    """
    table: list[int] = []
    # None for indirect segments, which do not nest.
    segments: list[_Segment | None] = []
    # Position -> number of the segment.
    starts: dict[int, int] = {}
    position = 0
    # A segment has at least 3 codes; a shorter rest is padding.
    while position + 2 < len(codes) and len(table) < entries:
        opcode, length = codes[position : position + 2]
        taken = {0: length, 1: 1, 2: 4 // code_bytes}.get(opcode, len(codes))
        values = codes[position + 2 : position + 2 + taken]
        if not length or len(values) < taken or (opcode and not table):
            raise PixelError(
                f"the {name} has no valid segment at its entry {position}", position=position
            )
        starts[position] = len(segments)
        if opcode < 2:
            segments.append(_Segment(length * opcode, values))
            _extend(table, segments[-1:], entries)
        else:
            offset = sum(code << (8 * code_bytes * rank) for rank, code in enumerate(values))
            number = starts.get(offset // code_bytes, starts.get(offset, len(segments)))
            if number + length > len(segments):
                message = (
                    f"the {name} has an indirect segment that repeats {length} segments "
                    f"from byte {offset} on, which do not precede it"
                )
                raise PixelError(message, position=position, offset=offset)
            _extend(table, itertools.islice(segments, number, number + length), entries)
            segments.append(None)
        position += 2 + taken
    return table


def _extend(table: list[int], segments: Iterable[_Segment | None], entries: int) -> None:
    """Append values, or a line from the last entry to a new end (PS3.3 C.7.9.2.2).

    The function stops when the table has `entries`.
    """
    for segment in segments:
        if segment is None:
            raise PixelError("an indirect segment of a palette refers to another indirect one")
        line, values = segment
        if line:
            begin, end = table[-1], values[0]
            table.extend(
                np.rint(begin + (end - begin) * np.arange(1, line + 1) / line).astype(int).tolist()
            )
        else:
            table.extend(values)
        if len(table) >= entries:
            return


# --- reading --------------------------------------------------------------------------------------

# One thread at a time: parsing silences warnings of the complete process, and holds the GIL anyway.
_tables: Final[Share[Tables]] = share("header tables", one_at_a_time=True)


def raw_tables(file: File, failure: type[DicomdlError]) -> Tables:
    """Return the raw tables of a file, parsed once per state of the file.

    Raises
    ------
    FileChanged
        The file is not in the state of the scan.
    DicomdlError
        The header cannot be read. The class is `failure`.
    """
    source = file if isinstance(file, Source) else Source(absolute(os.fspath(file)))
    try:
        current = look_up(source)
        return _tables.of(current, functools.partial(_parsed, current))
    except FileChanged:
        raise
    except PixelError as error:
        raise failure(str(error)) from None
    except Exception as error:
        # A parser may raise any error on damaged bytes, and its messages quote values.
        reason = type(error).__name__
        raise failure(f"the header cannot be read: {reason}", reason=reason) from None


def _parsed(source: Source) -> Tables:
    with quiet():
        return _tables_of(_read_header(source))


def _read_header(source: Source) -> Any:
    dataset = parsed_header(source, _WANTED)
    if _SOP_CLASS not in dataset and _ROWS not in dataset:
        raise ValueError("not a DICOM data set")
    return dataset


def _tables_of(dataset: Any) -> Tables:
    # Most frames have equal groups, which are stored once.
    pool: dict[Group, Group] = {}
    groups = [_group(item, top=False) for item in _items(dataset, _PER_FRAME) or ()]
    shared = _items(dataset, _SHARED)
    bits = (
        _numbers(dataset, _BITS_STORED, "US") or _numbers(dataset, _BITS_ALLOCATED, "US") or (16,)
    )
    return Tables(
        signed=next((value == 1 for value in _numbers(dataset, _PIXEL_REPRESENTATION, "US")), None),
        bits_stored=min(max(int(bits[0]), 1), 64),
        frames=max([1, len(groups), *map(int, _numbers(dataset, _FRAMES, "IS")[:1])]),
        photometric=_text(dataset, _PHOTOMETRIC).upper(),
        modality=_luts(dataset, _MODALITY_LUT, "Modality LUT (0028,3006)"),
        palette=_raw_palette(dataset),
        top=_group(dataset, top=True),
        shared=_group(shared[0], top=False) if shared else Group(),
        per_frame=tuple(pool.setdefault(group, group) for group in groups),
    )


def _group(dataset: Any, *, top: bool) -> Group:
    """Return the tables of one set of functional groups, or of the top level.

    At the top level, the attributes are not wrapped in a sequence. A converted image may have its
    VOI LUT among the attributes without a functional group (PS3.3 C.7.6.16.2.25).
    """
    voi, rescale = (
        (dataset, dataset)
        if top
        else (_only_item(dataset, tag) for tag in (FRAME_VOI_LUT, PIXEL_VALUE_TRANSFORMATION))
    )
    maps = _items(dataset, _REAL_WORLD)
    return Group(
        next(
            (
                luts
                for each in (voi, *(() if top else _converted(dataset)))
                if each is not None
                and (luts := _luts(each, _VOI_LUT, "VOI LUT (0028,3006)")) is not None
            ),
            None,
        ),
        None if maps is None else tuple(_raw_map(item) for item in maps),
        None if rescale is None else _rescale(rescale),
    )


def _converted(dataset: Any) -> list[Any]:
    return [_only_item(dataset, tag) for tag in CONVERTED]


def _only_item(dataset: Any, tag: int) -> Any:
    items = _items(dataset, tag)
    return items[0] if items else None


def _luts(dataset: Any, tag: int, name: str) -> tuple[RawTable, ...] | None:
    items = _items(dataset, tag)
    return None if items is None else tuple(_raw_lut(item, name) for item in items)


def _raw_lut(item: Any, name: str) -> RawTable:
    kind = _text(item, _LUT_TYPE)
    return RawTable(
        name,
        _words(item, _LUT_DESCRIPTOR),
        _element(item, _LUT_DATA),
        kind if kind in KINDS else "",
    )


def _raw_palette(dataset: Any) -> tuple[RawTable, ...]:
    """Return the three channels of the palette; alpha and supplemental palettes are ignored."""
    channels = []
    for number, colour in enumerate(("red", "green", "blue"), 1):
        plain, segmented = 0x00281200 + number, 0x00281220 + number
        tag = plain if _element(dataset, plain).value or segmented not in dataset else segmented
        name = f"{colour} palette data (0028,{tag & 0xFFFF:04X})"
        channels.append(
            RawTable(
                name,
                _words(dataset, 0x00281100 + number),
                _element(dataset, tag),
                "",
                tag == segmented,
            )
        )
    return tuple(channels)


def _rescale(dataset: Any) -> Rescale | None:
    slope, intercept = _numbers(dataset, _SLOPE, "DS"), _numbers(dataset, _INTERCEPT, "DS")
    if not slope and not intercept:
        return None
    return Rescale(
        slope[0] if slope else 1.0,
        intercept[0] if intercept else 0.0,
        _text(dataset, _RESCALE_TYPE),
    )


def _raw_map(item: Any) -> RawMap:
    units = _only_item(item, 0x004008EA)
    code = (
        ""
        if units is None
        else _text(units, 0x00080100) or _text(units, 0x00080119) or _text(units, 0x00080120)
    )
    table = np.array(_numbers(item, 0x00409212, "FD"), "<f8")
    return RawMap(
        _words(item, 0x00409216)[:1] + _words(item, 0x00409211)[:1],
        _element(item, 0x00409216).vr == "SS",
        _numbers(item, 0x00409214, "FD")[:1] + _numbers(item, 0x00409213, "FD")[:1],
        next(iter(_numbers(item, 0x00409225, "FD")), None),
        next(iter(_numbers(item, 0x00409224, "FD")), None),
        table.tobytes(),
        code,
        str(item.get("LUTLabel") or ""),
    )


def _items(dataset: Any, tag: int) -> Any:
    """Return the items of a sequence; None if it is absent."""
    if tag not in dataset:
        return None
    element = dataset[tag]
    return element.value if element.VR == "SQ" else None


def _element(dataset: Any, tag: int) -> Element:
    """Return the bytes of an element, before pydicom converts them; empty if it is absent."""
    if tag not in dataset:
        return Element()
    raw = dataset.get_item(tag)
    if not isinstance(raw.value, bytes):
        return Element()
    return Element(raw.VR or "", raw.value[:MOST_BYTES], getattr(raw, "is_little_endian", True))


def _words(dataset: Any, tag: int) -> tuple[int, ...]:
    return tuple(_element(dataset, tag).words()[:8].tolist())


def _text(dataset: Any, tag: int) -> str:
    return _element(dataset, tag).value.decode("ascii", "replace").strip("\0 ")


def _numbers(dataset: Any, tag: int, usual: str) -> tuple[float, ...]:
    """Return the values of a numeric element; () if it is absent or not a number.

    `usual` is the VR to assume if the file states none, or one that is not numeric.
    """
    element = _element(dataset, tag)
    vr = element.vr if element.vr in (*_CODES, "DS", "IS") else usual
    if vr in _CODES:
        dtype = np.dtype(_CODES[vr]).newbyteorder("<" if element.little_endian else ">")
        return tuple(
            np.frombuffer(element.value, dtype, len(element.value) // dtype.itemsize).tolist()
        )
    with contextlib.suppress(ValueError):
        return tuple(
            decimal(part) for part in element.value.decode("ascii").strip("\0 ").split("\\")
        )
    return ()
