"""The rare tables of one header as they lie in the file.

Bytes and words, before anything is concluded from them. Pydicom's door.

The rule to know: a header is parsed once per file (path, size, modification time), however many
frames ask for it. Only the bytes are taken from pydicom, because its own reading of these elements
depends on the VR that it guesses.
"""

import contextlib
import functools
import io
import itertools
import os
import warnings
from collections.abc import Iterable
from typing import Any, BinaryIO, Final, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from dicomdl.errors import DicomdlError, FileChanged, IntensityError, PixelError, UsageError
from dicomdl.headers.frame import FRAME_VOI_LUT, PIXEL_VALUE_TRANSFORMATION
from dicomdl.headers.inflate import inflate_data_set
from dicomdl.headers.requirement import require_pydicom
from dicomdl.headers.uids import DEFLATED
from dicomdl.storage.memory import Share, share
from dicomdl.storage.sources import Source, as_stream, look_up, opened

# A path is any file that is there; a source must be as it was scanned.
File: TypeAlias = str | os.PathLike[str] | Source

MOST_ENTRIES: Final = 1 << 16
# looked at of an element: more than 65536 entries, plain or in segments, can need
MOST_BYTES: Final = 16 * MOST_ENTRIES
MOST_INFLATED: Final = 1 << 26  # header bytes of a deflated file; a 1 MB file can inflate to 1 GB

# Modality LUT Type (0028,3004), the defined terms of PS3.3 C.11.1.1.2. Anything else is free text
# and not kept.
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
_DEFLATED: Final = b"\x02\x00\x10\x00UI\x16\x00" + DEFLATED.encode()


# --- what a header says ---------------------------------------------------------------------------


class Element(NamedTuple):
    """The value of one element as it lies in the file.

    `vr` is "" where the file does not say it.
    """

    vr: str = ""
    value: bytes = b""
    little_endian: bool = True

    def words(self) -> NDArray[np.uint16]:
        """The value as unsigned 16-bit words."""
        return np.frombuffer(
            self.value, "<u2" if self.little_endian else ">u2", len(self.value) // 2
        ).astype("<u2")

    def octets(self) -> NDArray[np.uint8]:
        """The value as bytes.

        The ones that lie in words, low byte first, change places in a big-endian file.
        """
        if self.little_endian or self.vr in ("OB", "UN"):
            return np.frombuffer(self.value, np.uint8)
        return np.frombuffer(self.words().tobytes(), np.uint8)


class RawTable(NamedTuple):
    """A table before anything was concluded; `descriptor` are unsigned words."""

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
    """An item of the Real World Value Mapping Sequence before its range was concluded.

    `signed` as its VR says.
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
    """What the top level, the shared or one frame's functional groups say.

    None where they do not.
    """

    voi: tuple[RawTable, ...] | None = None
    maps: tuple[RawMap, ...] | None = None
    rescale: Rescale | None = None


class Tables(NamedTuple):
    """Everything that is wanted from one file.

    `signed` is None where there is no Pixel Representation (float pixels).
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
    """What applies to one frame, the most special first."""
    if not 1 <= frame_number <= tables.frames:
        message = f"frame {frame_number} asked for: the file has {tables.frames}, counted from 1"
        raise UsageError(message, frame_number=frame_number, frames=tables.frames)
    if not tables.per_frame:
        return tables.shared, tables.top
    if frame_number > len(tables.per_frame):
        found = len(tables.per_frame)
        message = f"the Per-frame Functional Groups Sequence (5200,9230) has {found} items for {tables.frames} frames"
        raise IntensityError(message, expected_items=tables.frames, found_items=found)
    return tables.per_frame[frame_number - 1], tables.shared, tables.top


# --- segments -------------------------------------------------------------------------------------


class _Segment(NamedTuple):
    """The values of a discrete segment.

    Or a line of `line` entries to the one value, where `line` is not 0.
    """

    line: int
    values: list[int]


def expanded(codes: list[int], entries: int, code_bytes: int, name: str) -> list[int]:
    """The table that segments describe (PS3.3 C.7.9.2), no longer than it needs to be.

    An indirect segment repeats earlier ones, which ends and cannot grow out of bounds, as no
    segment is empty. Its offset counts bytes from the beginning of the data; some software counts
    entries (pydicom does), which is understood where the bytes lead to no segment.
    """
    table: list[int] = []
    segments: list[_Segment | None] = []  # None for indirect ones, which do not nest
    starts: dict[int, int] = {}  # position -> number of the segment there
    position = 0
    # no segment is shorter than 3: the rest is padding
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
            offset = sum(code << (8 * code_bytes * place) for place, code in enumerate(values))
            number = starts.get(offset // code_bytes, starts.get(offset, len(segments)))
            if number + length > len(segments):
                message = f"the {name} has an indirect segment of {length} segments from byte {offset} on that do not come before it"
                raise PixelError(message, position=position, offset=offset)
            _extend(table, itertools.islice(segments, number, number + length), entries)
            segments.append(None)
        position += 2 + taken
    return table


def _extend(table: list[int], segments: Iterable[_Segment | None], entries: int) -> None:
    """Append values, or a line from the last entry to a new end (PS3.3 C.7.9.2.2), until there are `entries`."""
    for segment in segments:
        if segment is None:
            raise PixelError("an indirect segment of a palette names another one")
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


# --- one header -> raw tables ---------------------------------------------------------------------

# One at a time: parsing silences warnings for the whole process, and holds the GIL anyway.
_tables: Final[Share[Tables]] = share("header tables", one_at_a_time=True)


def raw_tables(file: File, failure: type[DicomdlError]) -> Tables:
    """The raw tables of a file, parsed once as long as it stays the same.

    Whatever goes wrong is a `failure`.
    """
    source = file if isinstance(file, Source) else Source(os.path.abspath(file))
    try:
        found = look_up(source)
        return _tables.of(found, functools.partial(_parsed, found))
    except FileChanged:
        raise
    except PixelError as error:
        raise failure(str(error)) from None
    except Exception as error:
        # A parser raises anything on damaged bytes, and its messages quote values.
        reason = type(error).__name__
        raise failure(f"the header cannot be read: {reason}", reason=reason) from None


def _parsed(source: Source) -> Tables:
    with warnings.catch_warnings():
        # pydicom's warnings quote values, and values may identify a person
        warnings.simplefilter("ignore")
        return _tables_of(_read_header(source))


def _read_header(source: Source) -> Any:
    """pydicom's data set of the wanted elements before the pixels."""
    require_pydicom()
    import pydicom

    with opened(source) as handle:
        stream: BinaryIO = as_stream(handle)
        if _DEFLATED in handle.read_at(0, 1024):
            stream = io.BytesIO(inflate_data_set(handle.read_at, handle.size, MOST_INFLATED))
        # Not every file begins as Part 10 says; what is no DICOM at all comes back empty.
        dataset = pydicom.dcmread(
            stream, force=True, stop_before_pixels=True, specific_tags=list(_WANTED)
        )
        if _SOP_CLASS not in dataset and _ROWS not in dataset:
            raise ValueError("not a DICOM data set")
        return dataset


def _tables_of(dataset: Any) -> Tables:
    pool: dict[Group, Group] = {}  # frames mostly say the same
    groups = [_group(item, top=False) for item in _items(dataset, _PER_FRAME) or ()]
    shared = _items(dataset, _SHARED)
    bits = (
        _numbers(dataset, _BITS_STORED, "US") or _numbers(dataset, _BITS_ALLOCATED, "US") or (16,)
    )
    return Tables(
        signed=next((value == 1 for value in _numbers(dataset, _PIXEL_REPRESENTATION, "US")), None),
        bits_stored=min(max(int(bits[0]), 1), 64),
        frames=max([1, len(groups), *map(int, _numbers(dataset, _FRAMES, "IS")[:1])]),
        photometric=_text(dataset, _PHOTOMETRIC),
        modality=_luts(dataset, _MODALITY_LUT, "Modality LUT (0028,3006)"),
        palette=_raw_palette(dataset),
        top=_group(dataset, top=True),
        shared=_group(shared[0], top=False) if shared else Group(),
        per_frame=tuple(pool.setdefault(group, group) for group in groups),
    )


def _group(dataset: Any, *, top: bool) -> Group:
    """The tables of one set of functional groups, or of the top level, which holds them without a sequence around them."""
    voi, rescale = (
        (dataset, dataset)
        if top
        else (_only_item(dataset, tag) for tag in (FRAME_VOI_LUT, PIXEL_VALUE_TRANSFORMATION))
    )
    maps = _items(dataset, _REAL_WORLD)
    return Group(
        None if voi is None else _luts(voi, _VOI_LUT, "VOI LUT (0028,3006)"),
        None if maps is None else tuple(_raw_map(item) for item in maps),
        None if rescale is None else _rescale(rescale),
    )


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
    """The three channels; alpha and supplemental palettes are not looked at."""
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
    """The items of a sequence; None where it is absent."""
    if tag not in dataset:
        return None
    element = dataset[tag]
    return element.value if element.VR == "SQ" else None


def _element(dataset: Any, tag: int) -> Element:
    """The bytes of an element, before pydicom makes values of them; empty where it is absent."""
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
    """The values of a numeric element, () where it is absent or no number.

    `usual` is its VR where the file names none that helps.
    """
    element = _element(dataset, tag)
    vr = element.vr if element.vr in (*_CODES, "DS", "IS") else usual
    if vr in _CODES:
        dtype = np.dtype(_CODES[vr]).newbyteorder("<" if element.little_endian else ">")
        return tuple(
            np.frombuffer(element.value, dtype, len(element.value) // dtype.itemsize).tolist()
        )
    with contextlib.suppress(ValueError):
        return tuple(float(part) for part in element.value.decode("ascii").strip("\0 ").split("\\"))
    return ()
