"""Look-up tables and real-world maps, read from the file when they are needed: too few files have them for the index.

The rule to know: what tables mean is decided here, by the standard and from the raw words that `rawtables` gives. pydicom's
`apply_color_lut` is wrong for big-endian files, for 8-bit tables of more than 256 entries and for indirect segments, so it is the
second opinion of the tests and not used here.

Tables are values: they compare, hash, pickle and are cache keys. They clip at both ends, as the standard says; real-world maps do
not, because no real-world value is defined outside of their range: it is NaN.
"""

import contextlib
import functools
import itertools
import math
import operator
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from dicomdl.errors import DicomdlError, IntensityError, PixelError, UsageError
from dicomdl.headers.rare_tables import MOST_ENTRIES, Group, Path, RawMap, RawTable, Tables, expanded, groups_of, raw_tables

Values: TypeAlias = NDArray[Any]
Float32: TypeAlias = NDArray[np.float32]

BLOCK: Final = 1 << 16  # values worked on at once: half a megabyte of places or of float64


# --- look-up tables -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, repr=False)
class LookupTable:
    """One Modality or VOI LUT (PS3.3 C.11.1.1, C.11.2.1.1): a callable, integers in, unsigned integers out.

    Parameters
    ----------
    first
        The value that gets the first entry; smaller ones get it, too.
    bits
        Of an entry, 1 to 16. The output is uint8 up to 8 bits, else uint16.
    data
        The entries as little-endian uint16, 1 to 65536 of them, also where they fit 8 bits.
    kind
        Modality LUT Type (0028,3004) where it is a defined term ("OD": thousandths of optical density, "HU", "US": unspecified,
        ...), else "".

    Raises
    ------
    IntensityError
        No entries, too many, or larger ones than `bits` says; attributes `bits`, `entries`.
    """

    first: int
    bits: int
    data: bytes
    kind: str = ""

    def __post_init__(self) -> None:
        count = len(self.data) // 2
        if not (1 <= self.bits <= 16 and 1 <= count <= MOST_ENTRIES and len(self.data) % 2 == 0):
            message = (
                f"a look-up table of {len(self.data)} bytes with {self.bits} bits an entry: expected 1 to 65536 uint16 of 1 to 16 bits"
            )
            raise IntensityError(message, bits=self.bits, entries=count)
        if self.maximum >= 1 << self.bits:
            message = f"a look-up table of {self.bits} bits has an entry {self.maximum}"
            raise IntensityError(message, bits=self.bits, entries=count)

    @property
    def entries(self) -> NDArray[np.uint16]:
        """The entries, uint16 of shape (n,): a read-only view."""
        return np.frombuffer(self.data, "<u2")

    @property
    def maximum(self) -> int:
        """The largest entry. Some devices say 16 bits of tables that end at 4095, so that `bits` is no scale for display."""
        return int(self.entries.max())

    def __call__(self, values: Values) -> Values:
        """The entries of `values`, of the same shape, uint8 where `bits` is 8 or fewer, else uint16.

        Parameters
        ----------
        values
            Any integer dtype. Floats (modality values of a fractional rescale that feed a VOI LUT) are rounded to the nearest
            integer first: rounding errors leave them a little above or below the whole number that they stand for, and cutting off would
            give the entry beside it half of the time. NaN gets the first entry, the one of everything that lies below the table.
        """
        table = self.entries if self.bits > 8 else self.entries.astype(np.uint8)
        return _look_up(table, self.first, values)

    def __repr__(self) -> str:
        return f"LookupTable({len(self.data) // 2} entries of {self.bits} bits from {self.first}{', ' * bool(self.kind)}{self.kind})"


@dataclass(frozen=True, slots=True, repr=False)
class Palette:
    """The colours of a PALETTE COLOR image (PS3.3 C.7.6.3.1.5, C.7.6.3.1.6, C.7.9): a callable, indices in, RGB out.

    Parameters
    ----------
    first
        The index that gets the first colour; smaller ones get it, too.
    bits
        Of a sample: 8 or 16.
    data
        RGB triples, uint8 or little-endian uint16.
    """

    first: int
    bits: int
    data: bytes

    @property
    def colours(self) -> Values:
        """The colours, uint8 or uint16 of shape (n, 3): a read-only view."""
        return np.frombuffer(self.data, "u1" if self.bits == 8 else "<u2").reshape(-1, 3)

    def __call__(self, indices: Values) -> Values:
        """RGB of indices of shape (..., rows, columns): (..., rows, columns, 3), uint8 or uint16. Clips at both ends."""
        return _look_up(self.colours, self.first, indices)

    def in_8_bits(self) -> "Palette":
        """The same colours in 8 bits a sample, rounded; itself where it has them. Cheaper here than on the pixels, and equal."""
        if self.bits == 8:
            return self
        return Palette(self.first, 8, np.rint(self.colours / 257).astype(np.uint8).tobytes())  # 65535 / 257 = 255

    def __repr__(self) -> str:
        return f"Palette({len(self.colours)} colours of {self.bits} bits from {self.first})"


def _look_up(table: Values, first: int, values: Values) -> Values:
    """The rows of `table` at ``values - first``, clipped at both ends; `take` lets other threads run."""
    values = np.asarray(values)
    if values.dtype.kind not in "biuf":
        raise UsageError(f"a look-up table maps integers or floats, found {values.dtype}")
    out = np.empty((values.size, *table.shape[1:]), table.dtype.newbyteorder("="))
    flat = values.reshape(-1)
    places = np.empty(min(BLOCK, flat.size), np.intp)
    for start in range(0, flat.size, BLOCK):
        block = flat[start : start + BLOCK]
        at = places[: block.size]
        _place(block, first, len(table), at)
        np.take(table, at, axis=0, mode="clip", out=out[start : start + BLOCK])
    return out.reshape((*values.shape, *table.shape[1:]))


def _place(block: Values, first: int, count: int, out: NDArray[np.intp]) -> None:
    """Where each value lies in a table, perhaps outside of it."""
    if block.dtype.kind == "f":
        exact = np.rint(block.astype(np.float64))
        np.fmin(np.fmax(exact, first, out=exact), first + count - 1, out=exact)  # fmax of NaN and `first` is `first`
        block = exact
    elif block.dtype.kind == "b":
        block = block.view(np.uint8)
    elif block.itemsize >= out.itemsize:  # the subtraction must not wrap
        limits = np.iinfo(block.dtype)
        block = np.clip(block, max(int(limits.min), -(1 << 30)), min(int(limits.max), 1 << 30))
    np.subtract(block, first, out=out, dtype=block.dtype if block.dtype.kind == "f" else np.intp, casting="unsafe")


# --- real-world maps ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RealWorldMap:
    """One item of a Real World Value Mapping Sequence (PS3.3 C.7.6.16.2.11): stored values to quantities with units.

    It maps stored values, not modality values.

    Parameters
    ----------
    first, last
        The stored values that it is for, both ends included.
    slope, intercept
        ``stored * slope + intercept``; not used where there is a table.
    table
        Little-endian float64, one for each stored value from `first` to `last`; b"" for a linear map.
    units
        Code Value of the Measurement Units Code Sequence (0040,08EA), UCUM: "mm2/s", "[hnsf'U]", "1".
    label
        LUT Label (0040,9210): free text, so it is neither printed nor put into messages.

    Raises
    ------
    IntensityError
        Something is not finite, the range is empty, or the table does not have its length.
    """

    first: float
    last: float
    slope: float = 1.0
    intercept: float = 0.0
    table: bytes = field(default=b"", repr=False)
    units: str = ""
    label: str = field(default="", repr=False)

    def __post_init__(self) -> None:
        for name in ("first", "last", "slope", "intercept"):
            value = float(getattr(self, name))
            object.__setattr__(self, name, value)
            if not math.isfinite(value):
                raise IntensityError(f"a real-world map has a {name} of {value}; expected a finite number", **{name: value})
        if self.first > self.last:
            message = f"a real-world map of the stored values {self.first:g} to {self.last:g}: the first is above the last"
            raise IntensityError(message, first=self.first, last=self.last)
        expected = int(self.last) - int(self.first) + 1
        if self.table and len(self.table) != 8 * expected:
            message = f"a real-world map of {expected} stored values has {len(self.table) / 8:g} table entries"
            raise IntensityError(message, expected_entries=expected, found_entries=len(self.table) // 8)

    def __call__(self, stored: Values, out: Float32 | None = None) -> Float32:
        """Real-world values as float32, computed in float64 and rounded once, in a new array or `out`; NaN outside of the range.

        IntensityError where a value is beyond the range of float32.
        """
        return _real_world((self,), stored, out)

    def _exact(self, block: Values) -> NDArray[np.float64]:
        """Real-world values of a block; the ones of values outside of the range mean nothing."""
        if self.table:
            table = np.frombuffer(self.table, "<f8")
            return _look_up(table, int(self.first), block)
        exact = np.multiply(block, self.slope, dtype=np.float64)
        exact += self.intercept
        return exact


@dataclass(frozen=True, slots=True)
class RealWorldMaps:
    """Several maps to the same units whose ranges of stored values do not overlap, used as one.

    The standard lets items divide the stored values among them (PS3.3 C.7.6.16.2.11.1, figure C.7.6.16-7): a piecewise map.
    """

    maps: tuple[RealWorldMap, ...]

    def __post_init__(self) -> None:
        units = tuple(one.units for one in self.maps)
        if len(set(units)) != 1:
            raise IntensityError(f"real-world maps of {len(set(units))} units cannot be used as one: choose by number", units=units)
        ordered = sorted(self.maps, key=lambda one: one.first)
        if any(before.last >= after.first for before, after in itertools.pairwise(ordered)):
            message = f"{len(units)} real-world maps to {units[0]!r} overlap, so stored values have several meanings: choose by number"
            raise IntensityError(message, units=units)

    @property
    def units(self) -> str:
        """The units that all of them have."""
        return self.maps[0].units

    def __call__(self, stored: Values, out: Float32 | None = None) -> Float32:
        """As `RealWorldMap`: each value by the map whose range it lies in, NaN between and outside of the ranges."""
        return _real_world(self.maps, stored, out)


def _real_world(maps: Sequence[RealWorldMap], stored: Values, out: Float32 | None) -> Float32:
    stored = np.asarray(stored)
    if stored.dtype.kind not in "biuf":
        raise UsageError(f"real-world maps are for integers or floats, found {stored.dtype}")
    if out is None:
        out = np.empty(stored.shape, np.float32)
    elif out.dtype != np.float32 or out.shape != stored.shape:
        raise UsageError(f"out is {out.dtype} {out.shape}; expected float32 of shape {stored.shape}")
    try:
        with np.errstate(over="raise", invalid="ignore"):
            for source, target in blocks(stored, out):
                np.copyto(target, _exact_block(maps, source), casting="same_kind")
    except FloatingPointError:
        steepest = max(maps, key=lambda one: abs(one.slope))
        message = f"slope {steepest.slope:g} and intercept {steepest.intercept:g} give values beyond the range of float32"
        raise IntensityError(message, slope=steepest.slope, intercept=steepest.intercept) from None
    return out


def _exact_block(maps: Sequence[RealWorldMap], block: Values) -> NDArray[np.float64]:
    exact = np.full(block.shape, np.nan)
    for one in maps:
        inside = (block >= one.first) & (block <= one.last)  # false for NaN
        np.copyto(exact, one._exact(block), where=inside)
    return exact


def blocks(values: Values, out: Values) -> Iterator[tuple[Values, Values]]:
    """Pairs of views that together cover both arrays, small enough to stay in the cache where the layout allows it."""
    if values.size <= BLOCK or not (values.flags.c_contiguous and out.flags.c_contiguous):
        yield values, out
        return
    flat_values, flat_out = values.reshape(-1), out.reshape(-1)
    for start in range(0, values.size, BLOCK):
        yield flat_values[start : start + BLOCK], flat_out[start : start + BLOCK]


def select_real_world_map(maps: Sequence[RealWorldMap], which: int | str) -> RealWorldMap | RealWorldMaps:
    """One of a file's real-world maps.

    Parameters
    ----------
    maps
        What `real_world_maps` gave.
    which
        A number from 0, units ("mm2/s"), or a label where no map has such units. Several maps to the same units become one where their
        ranges of stored values do not overlap; where they do, the same stored value would have two meanings.

    Raises
    ------
    IntensityError
        There is none, or several that overlap; attribute `units`, those of all maps. Labels are not listed: they are free text.
    """
    units = tuple(one.units for one in maps)
    listed = f"there are {len(maps)}, in the units {', '.join(map(repr, units))}" if maps else "the file has none"
    if not isinstance(which, str):
        if not 0 <= operator.index(which) < len(maps):
            raise IntensityError(f"real-world map {which} asked for, but {listed}", units=units)
        return maps[which]
    found = [one for one in maps if one.units == which] or [one for one in maps if one.label == which]
    found = list({(one.first, one.last, one.slope, one.intercept, one.table, one.units): one for one in found}.values())
    if not found:
        raise IntensityError(f"no real-world map has the units or the label asked for: {listed}", units=units)
    return found[0] if len(found) == 1 else RealWorldMaps(tuple(found))


# --- the tables of a file -----------------------------------------------------------------------------------------


def modality_lut(path: Path) -> LookupTable:
    """The table of the Modality LUT Sequence (0028,3000), from stored to modality values.

    Raises
    ------
    IntensityError
        The file cannot be read, has no such table, or one that contradicts its LUT Descriptor (0028,3002).
    """
    with _about(path):
        tables = raw_tables(path, IntensityError)
        if not tables.modality:
            found = "is empty" if tables.modality == () else "is absent"
            raise IntensityError(f"the Modality LUT Sequence (0028,3000) {found}: use the rescale")
        return _lookup_table(tables.modality[0], bool(tables.signed))


def voi_luts(path: Path, frame_number: int = 1) -> tuple[LookupTable, ...]:
    """The tables of the VOI LUT Sequence (0028,3010), from modality to display values; () where there is none.

    Their first value is signed where their input may be (PS3.3 C.11.2.1.1): without a rescale as Pixel Representation says, after a
    Modality LUT never, after a rescale where Bits Stored, slope and intercept allow a negative value, and in Hounsfield units always.
    What the explicit VR says (US or SS) is not looked at, because writers derive it from Pixel Representation.

    Parameters
    ----------
    path
        A DICOM file.
    frame_number
        From 1. Enhanced objects keep the tables in the Frame VOI LUT Sequence (0028,9132), per frame or shared.

    Raises
    ------
    IntensityError
        The file cannot be read, or a table contradicts its LUT Descriptor (0028,3002).
    UsageError
        There is no such frame.
    """
    with _about(path):
        tables = raw_tables(path, IntensityError)
        groups = groups_of(tables, frame_number)
        raw = next((group.voi for group in groups if group.voi), ())
        return tuple(_lookup_table(one, _input_is_signed(tables, groups)) for one in raw)


def real_world_maps(path: Path, frame_number: int = 1) -> tuple[RealWorldMap, ...]:
    """The items of the Real World Value Mapping Sequence (0040,9096) of one frame; () where there is none.

    First and last value mapped are signed as Pixel Representation says, unless the last were then below the first: some writers
    choose the other VR. The double-float range (0040,9214), (0040,9213) goes before the integer one.

    Parameters
    ----------
    path
        A DICOM file.
    frame_number
        From 1. The frame's own functional group goes before the shared one and this before the top level.

    Raises
    ------
    IntensityError
        The file cannot be read, or an item has neither slope and intercept nor a table, no range, or a table that is too short.
    UsageError
        There is no such frame.
    """
    with _about(path):
        tables = raw_tables(path, IntensityError)
        raw = next((group.maps for group in groups_of(tables, frame_number) if group.maps), ())
        return tuple(_real_world_map(one, tables.signed) for one in raw)


def palette(path: Path) -> Palette:
    """The colours of a PALETTE COLOR file: plain or segmented tables of 8 or 16 bits, brought to one range of indices.

    The tables of supplemental palettes, which colour a grey-scale image in part, are not for this: such a file is an error.
    Tables say their width twice, by their descriptor and by their length; the length is believed. A 16-bit
    palette without an entry above 255 holds 8-bit colours, since entries span the full range (PS3.3 C.7.6.3.1.6).

    Raises
    ------
    PixelError
        The file cannot be read, is not of PALETTE COLOR, or has no usable tables.
    """
    with _about(path):
        tables = raw_tables(path, PixelError)
        if tables.photometric not in ("", "PALETTE COLOR"):
            raise PixelError("the photometric interpretation is not PALETTE COLOR: the file has no palette for all of its values")
        return _palette(tables.palette, bool(tables.signed))


def palette_to_rgb(indices: Values, path: Path) -> Values:
    """Colours of PALETTE COLOR frames, by the look-up tables of their file (see `palette`).

    Parameters
    ----------
    indices
        Stored values of shape (..., rows, columns).
    path
        The file that they came from.

    Returns
    -------
    ndarray
        RGB of shape (..., rows, columns, 3), uint8 or uint16 as the tables are.

    Raises
    ------
    PixelError
        As for `palette`.
    """
    return palette(path)(indices)


@contextlib.contextmanager
def _about(path: Path) -> Iterator[None]:
    try:
        yield
    except DicomdlError as error:
        error.add_note(f"file: {os.fspath(path)}")
        raise


# --- what raw tables mean -----------------------------------------------------------------------------------------


class _Descriptor(NamedTuple):
    entries: int
    first: int
    bits: int


def _descriptor(raw: RawTable, signed: bool, failure: type[DicomdlError]) -> _Descriptor:
    """Number of entries, first value mapped, bits of an entry.

    Only the second is ever signed (PS3.3 C.11.1.1.1): a count of 63488 in an SS is no negative number. 0 entries are 65536.
    """
    if len(raw.descriptor) < 3:
        message = f"the descriptor of the {raw.name} has {len(raw.descriptor)} values: expected 3"
        raise failure(message, values=len(raw.descriptor))
    entries, first, bits = raw.descriptor[:3]
    if not 1 <= bits <= 16:
        raise failure(f"the descriptor of the {raw.name} says {bits} bits an entry: expected 8 to 16", bits=bits)
    return _Descriptor(entries or MOST_ENTRIES, _as_signed(first) if signed else first, bits)


def _as_signed(word: int) -> int:
    return word - (1 << 16) if word >= 1 << 15 else word


def _first_entries(found: NDArray[Any], entries: int, raw: RawTable, failure: type[DicomdlError]) -> NDArray[Any]:
    if len(found) < entries:
        message = f"the descriptor of the {raw.name} says {entries} entries, its data has {len(found)}"
        raise failure(message, expected_entries=entries, found_entries=len(found))
    return found[:entries]


@functools.lru_cache(maxsize=64)
def _lookup_table(raw: RawTable, signed: bool) -> LookupTable:
    """A Modality or VOI LUT. Up to 8 bits, entries may lie two a word or one a word: the length tells (PS3.3 C.11.1.1.1)."""
    entries, first, bits = _descriptor(raw, signed, IntensityError)
    packed = bits <= 8 and len(raw.data.value) < 2 * entries
    values = _first_entries(raw.data.octets() if packed else raw.data.words(), entries, raw, IntensityError)
    bits = max(bits, int(values.max()).bit_length())  # some say 8 bits of entries that have more
    return LookupTable(first, bits, values.astype("<u2").tobytes(), raw.kind)


def _input_is_signed(tables: Tables, groups: Sequence[Group]) -> bool:
    """Whether the input of a VOI LUT may be negative (PS3.3 C.11.2.1.1)."""
    rescale = next((group.rescale for group in groups if group.rescale is not None), None)
    if rescale is None:
        return bool(tables.signed) and not tables.modality
    half = 1 << (tables.bits_stored - 1)
    ends = (-half, half - 1) if tables.signed else (0, 2 * half - 1)
    return rescale.kind == "HU" or min(end * rescale.slope + rescale.intercept for end in ends) < 0


@functools.lru_cache(maxsize=256)
def _real_world_map(raw: RawMap, signed: bool | None) -> RealWorldMap:
    first, last = _range_of(raw, signed)
    linear = raw.slope is not None and raw.intercept is not None
    if not raw.table and not linear:
        message = (
            "a real-world map has neither RealWorldValueLUTData (0040,9212) nor RealWorldValueSlope (0040,9225) and -Intercept (0040,9224)"
        )
        raise IntensityError(message)
    table = raw.table
    if table:
        expected = int(last) - int(first) + 1
        if len(table) < 8 * expected:
            message = f"RealWorldValueLUTData (0040,9212) has {len(table) // 8} entries for {expected} stored values"
            raise IntensityError(message, expected_entries=expected, found_entries=len(table) // 8)
        table = table[: 8 * max(expected, 0)]
    slope, intercept = (raw.slope, raw.intercept) if linear and not table else (1.0, 0.0)
    return RealWorldMap(first, last, slope, intercept, table, raw.units, raw.label)  # type: ignore[arg-type]


def _range_of(raw: RawMap, signed: bool | None) -> tuple[float, float]:
    """First and last value mapped."""
    if len(raw.exact) == 2:
        return raw.exact[0], raw.exact[1]
    if len(raw.words) != 2:
        message = "a real-world map lacks RealWorldValueFirstValueMapped (0040,9216) or RealWorldValueLastValueMapped (0040,9211)"
        raise IntensityError(message)
    as_signed = (_as_signed(raw.words[0]), _as_signed(raw.words[1]))
    usual, other = (as_signed, raw.words) if (raw.signed if signed is None else signed) else (raw.words, as_signed)
    first, last = other if usual[0] > usual[1] and other[0] <= other[1] else usual
    return float(first), float(last)


# --- palettes -----------------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=16)
def _palette(raw: tuple[RawTable, ...], signed: bool) -> Palette:
    """Three channels, each with its own descriptor, as one table of colours over all indices that any of them maps."""
    channels = [_channel(one, signed) for one in raw]
    eight = all(channel.bits <= 8 for channel in channels) or all(int(channel.values.max()) < 256 for channel in channels)
    if not eight:
        channels = [channel._replace(values=_widened(channel.values, channel.bits)) for channel in channels]
    first = min(channel.first for channel in channels)
    last = max(channel.first + len(channel.values) - 1 for channel in channels)
    indices = np.arange(first, last + 1)
    colours = np.stack([_look_up(channel.values, channel.first, indices) for channel in channels], axis=-1)
    return Palette(first, 8 if eight else 16, colours.astype("u1" if eight else "<u2").tobytes())


class _Channel(NamedTuple):
    first: int
    bits: int
    values: NDArray[Any]


def _channel(raw: RawTable, signed: bool) -> _Channel:
    """One channel; its bits as its data has them, where these contradict the descriptor."""
    if not raw.data.value:
        raise PixelError(f"the {raw.name} is absent or empty")
    entries, first, bits = _descriptor(raw, signed, PixelError)
    if raw.segmented:
        codes = (raw.data.octets() if bits <= 8 else raw.data.words())[: 8 * entries]
        values = np.array(expanded(codes.tolist(), entries, codes.itemsize, raw.name), codes.dtype)
    elif len(raw.data.value) < 2 * entries:  # one byte an entry, also where 16 bits are announced
        values, bits = raw.data.octets(), min(bits, 8)
    else:
        values = raw.data.words()
    values = _first_entries(values, entries, raw, PixelError)
    return _Channel(first, bits if int(values.max()) < 1 << bits else 16, values)


def _widened(values: NDArray[Any], bits: int) -> NDArray[Any]:
    """Entries scaled to the full range of 16 bits (PS3.3 C.7.6.3.1.6); those of 8 bits appear in both bytes."""
    return np.rint(values * (65535 / ((1 << bits) - 1))).astype("<u2")
