"""Look-up tables, palettes and real-world maps of one file, from the raw words of its header.

The meaning of the words follows the standard. pydicom's `apply_color_lut` is wrong for big-endian
files, for 8-bit tables of more than 256 entries and for indirect segments, so only the tests use
it, as a second opinion.
"""

import contextlib
import operator
import os
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dicomdl.errors import DicomdlError, IntensityError, PixelError
from dicomdl.headers.rare_tables import (
    MOST_ENTRIES,
    File,
    Group,
    RawMap,
    RawTable,
    Tables,
    expanded,
    groups_of,
    raw_tables,
)
from dicomdl.storage.memory import remembered
from dicomdl.storage.sources import Source
from dicomdl.values._lookup import LookupTable, Palette, RealWorldMap, RealWorldMaps, look_up


def select_real_world_map(
    maps: Sequence[RealWorldMap], which: int | str
) -> RealWorldMap | RealWorldMaps:
    """Select one of the real-world maps of a file.

    Parameters
    ----------
    maps
        The result of `real_world_maps`.
    which
        A number from 0, units ("mm2/s"), or a label when no map has such units. Several maps to the
        same units become one when their ranges of stored values do not overlap; an overlap would
        give a stored value two meanings.

    Raises
    ------
    IntensityError
        There is no such map, or several overlap; attribute `units`, those of all maps. Labels are
        not listed, because they are free text.
    """
    units = tuple(each.units for each in maps)
    listed = (
        f"there are {len(maps)}, in the units {', '.join(map(repr, units))}"
        if maps
        else "the file has none"
    )
    if not isinstance(which, str):
        if not 0 <= operator.index(which) < len(maps):
            raise IntensityError(f"real-world map {which} asked for, but {listed}", units=units)
        return maps[which]
    matching = [each for each in maps if each.units == which] or [
        each for each in maps if each.label == which
    ]
    distinct = list(
        {
            (each.first, each.last, each.slope, each.intercept, each.table, each.units): each
            for each in matching
        }.values()
    )
    if not distinct:
        raise IntensityError(
            f"no real-world map has the units or the label asked for: {listed}", units=units
        )
    return distinct[0] if len(distinct) == 1 else RealWorldMaps(tuple(distinct))


def modality_lut(file: File) -> LookupTable:
    """Read the table of the Modality LUT Sequence (0028,3000), from stored to modality values.

    Raises
    ------
    IntensityError
        The file cannot be read, has no such table, or a table that contradicts its LUT Descriptor
        (0028,3002).
    """
    with _about(file):
        tables = raw_tables(file, IntensityError)
        if not tables.modality:
            state = "is empty" if tables.modality == () else "is absent"
            raise IntensityError(f"the Modality LUT Sequence (0028,3000) {state}: use the rescale")
        return _lookup_table(tables.modality[0], bool(tables.signed))


def voi_luts(file: File, frame_number: int = 1) -> tuple[LookupTable, ...]:
    """Read the tables of the VOI LUT Sequence (0028,3010), from modality to display values.

    The first value mapped is signed when the input may be negative (PS3.3 C.11.2.1.1): without a
    rescale by Pixel Representation, after a Modality LUT never, after a rescale when Bits Stored,
    slope and intercept allow a negative value, and in Hounsfield units always. The explicit VR (US
    or SS) is ignored, because writers derive it from Pixel Representation. A table that then lies
    beside all values of the input has the other sign, if that one maps some of them.

    Parameters
    ----------
    file
        A DICOM file, or the `file` of a frame, which must be unchanged since the scan.
    frame_number
        From 1. Enhanced objects hold the tables in the Frame VOI LUT Sequence (0028,9132), per
        frame or shared.

    Returns
    -------
    tuple of LookupTable
        Empty when the file has none.

    Raises
    ------
    IntensityError
        The file cannot be read, or a table contradicts its LUT Descriptor (0028,3002).
    UsageError
        There is no such frame.
    """
    with _about(file):
        raw, values = _raw_voi_luts(file, frame_number)
        return tuple(_lookup_table(each, _is_signed(each, values)) for each in raw)


def voi_lut(file: File, frame_number: int, which: int) -> LookupTable:
    """Read one table of the VOI LUT Sequence, as `voi_luts` reads all; the others may be unusable.

    Raises
    ------
    IntensityError
        As `voi_luts`, for this table alone; or there is no such table: attribute `tables`, the
        number that there are.
    UsageError
        There is no such frame.
    """
    with _about(file):
        raw, values = _raw_voi_luts(file, frame_number)
        if not 0 <= which < len(raw):
            raise IntensityError(
                f"VOI LUT {which} asked for, but the file has {len(raw)}", tables=len(raw)
            )
        return _lookup_table(raw[which], _is_signed(raw[which], values))


def voi_lut_count(file: File, frame_number: int) -> int:
    """Return the number of items of the VOI LUT Sequence, usable or not.

    Raises
    ------
    IntensityError
        The file cannot be read.
    UsageError
        There is no such frame.
    """
    with _about(file):
        return len(_raw_voi_luts(file, frame_number)[0])


def _raw_voi_luts(file: File, frame_number: int) -> "tuple[tuple[RawTable, ...], _Input]":
    """Return the VOI LUTs of a frame as in the header, and their input."""
    tables = raw_tables(file, IntensityError)
    groups = groups_of(tables, frame_number)
    raw = next((group.voi for group in groups if group.voi), ())
    return raw, _voi_input(tables, groups)


def real_world_maps(file: File, frame_number: int = 1) -> tuple[RealWorldMap, ...]:
    """Read the items of the Real World Value Mapping Sequence (0040,9096) of one frame.

    The first and the last value mapped are signed by Pixel Representation, unless the last is then
    below the first: some writers choose the other VR. The double-float range (0040,9214),
    (0040,9213) has precedence over the integer range.

    Parameters
    ----------
    file
        A DICOM file, or the `file` of a frame, which must be unchanged since the scan.
    frame_number
        From 1. The functional group of the frame has precedence over the shared group, and this
        over the top level.

    Returns
    -------
    tuple of RealWorldMap
        Empty when the file has none.

    Raises
    ------
    IntensityError
        The file cannot be read, or an item has neither slope and intercept nor a table, no range,
        or a table that is too short.
    UsageError
        There is no such frame.
    """
    with _about(file):
        tables = raw_tables(file, IntensityError)
        raw = next((group.maps for group in groups_of(tables, frame_number) if group.maps), ())
        return tuple(_real_world_map(each, tables.signed) for each in raw)


def palette(file: File) -> Palette:
    """Read the colours of a PALETTE COLOR file.

    Plain or segmented tables of 8 or 16 bits are brought to one range of indices. Supplemental
    palettes, which colour a part of a grey-scale image, are an error. Tables state their width by
    their descriptor and by their length, of which the length counts. A 16-bit palette without an
    entry above 255 holds 8-bit colours, because entries span the full range (PS3.3 C.7.6.3.1.6).

    Raises
    ------
    PixelError
        The file cannot be read, is not PALETTE COLOR, or has no usable tables.
    """
    with _about(file):
        tables = raw_tables(file, PixelError)
        if tables.photometric not in ("", "PALETTE COLOR"):
            raise PixelError(
                "the photometric interpretation is not PALETTE COLOR: "
                "the file has no palette for all of its values"
            )
        return _palette(tables.palette, bool(tables.signed))


@contextlib.contextmanager
def _about(file: File) -> Iterator[None]:
    """Add the path of the file to errors."""
    try:
        yield
    except DicomdlError as error:
        path = file.path if isinstance(file, Source) else os.fspath(file)
        error.add_note(f"file: {path}")
        raise


class _Descriptor(NamedTuple):
    entries: int
    first: int
    bits: int


def _descriptor(raw: RawTable, signed: bool, failure: type[DicomdlError]) -> _Descriptor:
    """Parse a LUT Descriptor: number of entries, first value mapped, bits per entry.

    Only the second may be signed (PS3.3 C.11.1.1.1): a count of 63488 in an SS is no negative
    number. A count of 0 means 65536.
    """
    if len(raw.descriptor) < 3:
        message = f"the descriptor of the {raw.name} has {len(raw.descriptor)} values: expected 3"
        raise failure(message, values=len(raw.descriptor))
    entries, first, bits = raw.descriptor[:3]
    if not 1 <= bits <= 16:
        raise failure(
            f"the descriptor of the {raw.name} says {bits} bits per entry: expected 8 to 16",
            bits=bits,
        )
    return _Descriptor(entries or MOST_ENTRIES, _as_signed(first) if signed else first, bits)


def _as_signed(word: int) -> int:
    return word - (1 << 16) if word >= 1 << 15 else word


def _first_entries(
    data: NDArray[Any], entries: int, raw: RawTable, failure: type[DicomdlError]
) -> NDArray[Any]:
    """Return the entries that the descriptor declares; `failure` when the data has fewer."""
    if len(data) < entries:
        message = (
            f"the descriptor of the {raw.name} says {entries} entries, its data has {len(data)}"
        )
        raise failure(message, expected_entries=entries, found_entries=len(data))
    return data[:entries]


@remembered("lookup tables")
def _lookup_table(raw: RawTable, signed: bool) -> LookupTable:
    """Build a Modality or VOI LUT.

    Entries of up to 8 bits may be stored two per word or one per word, by the length of the data
    (PS3.3 C.11.1.1.1).
    """
    entries, first, bits = _descriptor(raw, signed, IntensityError)
    packed = _is_packed(raw, entries, bits)
    values = _first_entries(
        raw.data.octets() if packed else raw.data.words(), entries, raw, IntensityError
    )
    # Some files declare 8 bits for entries that have more.
    bits = max(bits, int(values.max()).bit_length())
    return LookupTable(first, bits, values.astype("<u2").tobytes(), raw.kind)


def _is_packed(raw: RawTable, entries: int, bits: int) -> bool:
    """Whether the data holds two entries per word.

    Some writers declare 16 bits for bytes. They are bytes when they fill the data exactly and rise
    or fall throughout; half of a table of words does not.
    """
    length = len(raw.data.value)
    if length >= 2 * entries:
        return False
    if bits <= 8:
        return True
    if length not in (entries, entries + entries % 2):
        return False
    steps = np.diff(raw.data.octets()[:entries].astype(np.int16))
    return bool((steps >= 0).all() or (steps <= 0).all())


class _Input(NamedTuple):
    """The values that a VOI LUT may get: whether they may be negative, and their range."""

    signed: bool
    low: float
    high: float


def _voi_input(tables: Tables, groups: Sequence[Group]) -> _Input:
    """Return the input of a VOI LUT (PS3.3 C.11.2.1.1)."""
    half = 1 << (tables.bits_stored - 1)
    ends = (-half, half - 1) if tables.signed else (0, 2 * half - 1)
    rescale = next((group.rescale for group in groups if group.rescale is not None), None)
    if rescale is not None:
        low, high = sorted(end * rescale.slope + rescale.intercept for end in ends)
        return _Input(rescale.kind == "HU" or low < 0, low, high)
    if tables.modality:
        return _Input(False, 0, MOST_ENTRIES - 1)
    return _Input(bool(tables.signed), *ends)


def _is_signed(raw: RawTable, values: _Input) -> bool:
    """Whether the first value mapped is signed: as the input, unless this maps none of its values.

    Some writers choose the other sign; the table then lies beside all values, and the image would
    be black or white.
    """
    if len(raw.descriptor) < 2:
        return values.signed
    entries, first = raw.descriptor[0] or MOST_ENTRIES, raw.descriptor[1]

    def is_used(first: int) -> bool:
        return first <= values.high and first + entries - 1 >= values.low

    usual, other = (_as_signed(first), first) if values.signed else (first, _as_signed(first))
    return values.signed if is_used(usual) or not is_used(other) else not values.signed


@remembered("real-world maps")
def _real_world_map(raw: RawMap, signed: bool | None) -> RealWorldMap:
    """Build a real-world map; a table has precedence over slope and intercept."""
    first, last = _range_of(raw, signed)
    linear = raw.slope is not None and raw.intercept is not None
    if not raw.table and not linear:
        raise IntensityError(
            "a real-world map has neither RealWorldValueLUTData (0040,9212) "
            "nor RealWorldValueSlope (0040,9225) and -Intercept (0040,9224)"
        )
    table = raw.table
    if table:
        expected = int(last) - int(first) + 1
        if len(table) < 8 * expected:
            message = f"RealWorldValueLUTData (0040,9212) has {len(table) // 8} entries"
            message += f" for {expected} stored values"
            raise IntensityError(message, expected_entries=expected, found_entries=len(table) // 8)
        table = table[: 8 * max(expected, 0)]
    slope, intercept = (raw.slope, raw.intercept) if linear and not table else (1.0, 0.0)
    return RealWorldMap(first, last, slope, intercept, table, raw.units, raw.label)  # type: ignore[arg-type]


def _range_of(raw: RawMap, signed: bool | None) -> tuple[float, float]:
    """Return the first and the last value mapped."""
    if len(raw.exact) == 2:
        return raw.exact[0], raw.exact[1]
    if len(raw.words) != 2:
        raise IntensityError(
            "a real-world map lacks RealWorldValueFirstValueMapped (0040,9216) "
            "or RealWorldValueLastValueMapped (0040,9211)"
        )
    as_signed = (_as_signed(raw.words[0]), _as_signed(raw.words[1]))
    usual, other = (
        (as_signed, raw.words)
        if (raw.signed if signed is None else signed)
        else (raw.words, as_signed)
    )
    first, last = other if usual[0] > usual[1] and other[0] <= other[1] else usual
    return float(first), float(last)


@remembered("palettes")
def _palette(raw: tuple[RawTable, ...], signed: bool) -> Palette:
    """Build one table of colours from three channels with a descriptor each.

    It covers all indices that any channel maps.
    """
    channels = [_channel(each, signed) for each in raw]
    eight = all(channel.bits <= 8 for channel in channels) or all(
        int(channel.values.max()) < 256 for channel in channels
    )
    if not eight:
        channels = [
            channel._replace(values=_widened(channel.values, channel.bits)) for channel in channels
        ]
    first = min(channel.first for channel in channels)
    last = max(channel.first + len(channel.values) - 1 for channel in channels)
    indices = np.arange(first, last + 1)
    colours = np.stack(
        [look_up(channel.values, channel.first, indices) for channel in channels], axis=-1
    )
    return Palette(first, 8 if eight else 16, colours.astype("u1" if eight else "<u2").tobytes())


class _Channel(NamedTuple):
    first: int
    bits: int
    values: NDArray[Any]


def _channel(raw: RawTable, signed: bool) -> _Channel:
    """Build one channel; its bits follow the data when the descriptor contradicts it."""
    if not raw.data.value:
        raise PixelError(f"the {raw.name} is absent or empty")
    entries, first, bits = _descriptor(raw, signed, PixelError)
    if raw.segmented:
        codes = (raw.data.octets() if bits <= 8 else raw.data.words())[: 8 * entries]
        values = np.array(expanded(codes.tolist(), entries, codes.itemsize, raw.name), codes.dtype)
    elif len(raw.data.value) < 2 * entries:
        # One byte per entry, also when 16 bits are declared.
        values, bits = raw.data.octets(), min(bits, 8)
    else:
        values = raw.data.words()
    values = _first_entries(values, entries, raw, PixelError)
    return _Channel(first, bits if int(values.max()) < 1 << bits else 16, values)


def _widened(values: NDArray[Any], bits: int) -> NDArray[Any]:
    """Scale entries to the full range of 16 bits (PS3.3 C.7.6.3.1.6).

    Entries of 8 bits appear in both bytes.
    """
    return np.rint(values * (65535 / ((1 << bits) - 1))).astype("<u2")
