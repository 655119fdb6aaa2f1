"""Look-up tables and real-world maps, read from the file when they are needed: too few files have them for the index.

The rule to know: a header is parsed once per file (path, size, modification time) into plain bytes and numbers, however many
frames ask for it; what they mean is decided afterwards, by the standard and from the raw words. pydicom's own reading of
these elements depends on the VR that it guesses, and its `apply_color_lut` is wrong for big-endian files, for 8-bit tables of more
than 256 entries and for indirect segments, so it is the second opinion of the tests and not used here.

Tables are values: they compare, hash, pickle and are cache keys. They clip at both ends, as the standard says; real-world maps do
not, because no real-world value is defined outside of their range: it is NaN.
"""

import contextlib
import functools
import io
import itertools
import math
import operator
import os
import stat
import threading
import warnings
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, BinaryIO, Final, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from dicomdl.errors import DicomdlError, IntensityError, PixelError, UsageError
from dicomdl.frame import FRAME_VOI_LUT, PIXEL_VALUE_TRANSFORMATION
from dicomdl.system import OPEN_FLAGS

Values: TypeAlias = NDArray[Any]
Float32: TypeAlias = NDArray[np.float32]
Path: TypeAlias = str | os.PathLike[str]

BLOCK: Final = 1 << 16  # values worked on at once: half a megabyte of places or of float64
MOST_ENTRIES: Final = 1 << 16
MOST_BYTES: Final = 16 * MOST_ENTRIES  # looked at of an element: more than 65536 entries, plain or in segments, can need
MOST_INFLATED: Final = 1 << 26  # header bytes of a deflated file; a 1 MB file can inflate to 1 GB

# Modality LUT Type (0028,3004), the defined terms of PS3.3 C.11.1.1.2. Anything else is free text and not kept.
KINDS: Final = frozenset({"OD", "HU", "US", "MGML", "Z_EFF", "ED", "EDW", "HU_MOD", "PCT"})


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
            for source, target in _blocks(stored, out):
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


def _blocks(values: Values, out: Values) -> Iterator[tuple[Values, Values]]:
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
        tables = _tables(path, IntensityError)
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
        tables = _tables(path, IntensityError)
        groups = _groups_of(tables, frame_number)
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
        tables = _tables(path, IntensityError)
        raw = next((group.maps for group in _groups_of(tables, frame_number) if group.maps), ())
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
        tables = _tables(path, PixelError)
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


class _Element(NamedTuple):
    """The value of one element as it lies in the file; `vr` is "" where the file does not say it."""

    vr: str = ""
    value: bytes = b""
    little_endian: bool = True

    def words(self) -> NDArray[np.uint16]:
        """The value as unsigned 16-bit words."""
        return np.frombuffer(self.value, "<u2" if self.little_endian else ">u2", len(self.value) // 2).astype("<u2")

    def octets(self) -> NDArray[np.uint8]:
        """The value as bytes; the ones that lie in words, low byte first, change places in a big-endian file."""
        if self.little_endian or self.vr in ("OB", "UN"):
            return np.frombuffer(self.value, np.uint8)
        return np.frombuffer(self.words().tobytes(), np.uint8)


class _RawTable(NamedTuple):
    """A table before anything was concluded; `descriptor` are unsigned words."""

    name: str
    descriptor: tuple[int, ...]
    data: _Element
    kind: str = ""
    segmented: bool = False


class _Descriptor(NamedTuple):
    entries: int
    first: int
    bits: int


def _descriptor(raw: _RawTable, signed: bool, failure: type[DicomdlError]) -> _Descriptor:
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


def _first_entries(found: NDArray[Any], entries: int, raw: _RawTable, failure: type[DicomdlError]) -> NDArray[Any]:
    if len(found) < entries:
        message = f"the descriptor of the {raw.name} says {entries} entries, its data has {len(found)}"
        raise failure(message, expected_entries=entries, found_entries=len(found))
    return found[:entries]


@functools.lru_cache(maxsize=64)
def _lookup_table(raw: _RawTable, signed: bool) -> LookupTable:
    """A Modality or VOI LUT. Up to 8 bits, entries may lie two a word or one a word: the length tells (PS3.3 C.11.1.1.1)."""
    entries, first, bits = _descriptor(raw, signed, IntensityError)
    packed = bits <= 8 and len(raw.data.value) < 2 * entries
    values = _first_entries(raw.data.octets() if packed else raw.data.words(), entries, raw, IntensityError)
    bits = max(bits, int(values.max()).bit_length())  # some say 8 bits of entries that have more
    return LookupTable(first, bits, values.astype("<u2").tobytes(), raw.kind)


def _input_is_signed(tables: "_Tables", groups: "Sequence[_Group]") -> bool:
    """Whether the input of a VOI LUT may be negative (PS3.3 C.11.2.1.1)."""
    rescale = next((group.rescale for group in groups if group.rescale is not None), None)
    if rescale is None:
        return bool(tables.signed) and not tables.modality
    half = 1 << (tables.bits_stored - 1)
    ends = (-half, half - 1) if tables.signed else (0, 2 * half - 1)
    return rescale.kind == "HU" or min(end * rescale.slope + rescale.intercept for end in ends) < 0


@functools.lru_cache(maxsize=256)
def _real_world_map(raw: "_RawMap", signed: bool | None) -> RealWorldMap:
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


def _range_of(raw: "_RawMap", signed: bool | None) -> tuple[float, float]:
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
def _palette(raw: tuple[_RawTable, ...], signed: bool) -> Palette:
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


def _channel(raw: _RawTable, signed: bool) -> _Channel:
    """One channel; its bits as its data has them, where these contradict the descriptor."""
    if not raw.data.value:
        raise PixelError(f"the {raw.name} is absent or empty")
    entries, first, bits = _descriptor(raw, signed, PixelError)
    if raw.segmented:
        codes = (raw.data.octets() if bits <= 8 else raw.data.words())[: 8 * entries]
        values = np.array(_expand(codes.tolist(), entries, codes.itemsize, raw.name), codes.dtype)
    elif len(raw.data.value) < 2 * entries:  # one byte an entry, also where 16 bits are announced
        values, bits = raw.data.octets(), min(bits, 8)
    else:
        values = raw.data.words()
    values = _first_entries(values, entries, raw, PixelError)
    return _Channel(first, bits if int(values.max()) < 1 << bits else 16, values)


def _widened(values: NDArray[Any], bits: int) -> NDArray[Any]:
    """Entries scaled to the full range of 16 bits (PS3.3 C.7.6.3.1.6); those of 8 bits appear in both bytes."""
    return np.rint(values * (65535 / ((1 << bits) - 1))).astype("<u2")


class _Segment(NamedTuple):
    """The values of a discrete segment; or a line of `line` entries to the one value, where `line` is not 0."""

    line: int
    values: list[int]


def _expand(codes: list[int], entries: int, code_bytes: int, name: str) -> list[int]:
    """The table that segments describe (PS3.3 C.7.9.2), no longer than it needs to be.

    An indirect segment repeats earlier ones, which ends and cannot grow out of bounds, as no segment is empty. Its offset counts bytes
    from the beginning of the data; some software counts entries (pydicom does), which is understood where the bytes lead to no segment.
    """
    table: list[int] = []
    segments: list[_Segment | None] = []  # None for indirect ones, which do not nest
    starts: dict[int, int] = {}  # position -> number of the segment there
    position = 0
    while position + 2 < len(codes) and len(table) < entries:  # no segment is shorter than 3: the rest is padding
        opcode, length = codes[position : position + 2]
        taken = {0: length, 1: 1, 2: 4 // code_bytes}.get(opcode, len(codes))
        values = codes[position + 2 : position + 2 + taken]
        if not length or len(values) < taken or (opcode and not table):
            raise PixelError(f"the {name} has no valid segment at its entry {position}", position=position)
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
            table.extend(np.rint(begin + (end - begin) * np.arange(1, line + 1) / line).astype(int).tolist())
        else:
            table.extend(values)
        if len(table) >= entries:
            return


# --- one header -> raw tables -------------------------------------------------------------------------------------

_SOP_CLASS, _PHOTOMETRIC, _FRAMES, _ROWS = 0x00080016, 0x00280004, 0x00280008, 0x00280010
_BITS_ALLOCATED, _BITS_STORED, _PIXEL_REPRESENTATION = 0x00280100, 0x00280101, 0x00280103
_INTERCEPT, _SLOPE, _RESCALE_TYPE = 0x00281052, 0x00281053, 0x00281054
_MODALITY_LUT, _VOI_LUT, _LUT_DESCRIPTOR, _LUT_TYPE, _LUT_DATA = 0x00283000, 0x00283010, 0x00283002, 0x00283004, 0x00283006
_REAL_WORLD, _SHARED, _PER_FRAME = 0x00409096, 0x52009229, 0x52009230
_WANTED: Final = (
    *(_SOP_CLASS, _PHOTOMETRIC, _FRAMES, _ROWS, _BITS_ALLOCATED, _BITS_STORED, _PIXEL_REPRESENTATION),
    *(_INTERCEPT, _SLOPE, _RESCALE_TYPE, _MODALITY_LUT, _VOI_LUT, _REAL_WORLD, _SHARED, _PER_FRAME),
    *(base + number for base in (0x00281100, 0x00281200, 0x00281220) for number in (1, 2, 3)),
)
_CODES: Final = {"US": "u2", "SS": "i2", "UL": "u4", "SL": "i4", "FL": "f4", "FD": "f8"}
_DEFLATED: Final = b"\x02\x00\x10\x00UI\x16\x001.2.840.10008.1.2.1.99"


class _Rescale(NamedTuple):
    slope: float
    intercept: float
    kind: str


class _RawMap(NamedTuple):
    """An item of the Real World Value Mapping Sequence before its range was concluded; `signed` as its VR says."""

    words: tuple[int, ...]
    signed: bool
    exact: tuple[float, ...]
    slope: float | None
    intercept: float | None
    table: bytes
    units: str
    label: str


class _Group(NamedTuple):
    """What the top level, the shared or one frame's functional groups say; None where they do not."""

    voi: tuple[_RawTable, ...] | None = None
    maps: tuple[_RawMap, ...] | None = None
    rescale: _Rescale | None = None


class _Tables(NamedTuple):
    """Everything that this module wants from one file; `signed` is None where there is no Pixel Representation (float pixels)."""

    signed: bool | None
    bits_stored: int
    frames: int
    photometric: str
    modality: tuple[_RawTable, ...] | None
    palette: tuple[_RawTable, ...]
    top: _Group
    shared: _Group
    per_frame: tuple[_Group, ...]


def _groups_of(tables: _Tables, frame_number: int) -> tuple[_Group, ...]:
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


_parsing = threading.Lock()  # warnings are silenced for the whole process, and parsing holds the GIL anyway


def _new_lock() -> None:
    global _parsing
    _parsing = threading.Lock()  # another thread may have held it when the process was forked


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_new_lock)


def _tables(path: Path, failure: type[DicomdlError]) -> _Tables:
    """The raw tables of a file, parsed once as long as it stays the same; whatever goes wrong is a `failure`."""
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            raise failure("this is no regular file")
        with _parsing:
            return _parsed(os.path.abspath(path), status.st_size, status.st_mtime_ns)
    except DicomdlError:
        raise
    except Exception as error:  # a parser raises anything on damaged bytes, and its messages quote values
        reason = error.strerror if isinstance(error, OSError) and error.strerror else type(error).__name__
        raise failure(f"the header cannot be read: {reason}", reason=reason) from None


@functools.lru_cache(maxsize=32)
def _parsed(path: str, size: int, mtime_ns: int) -> _Tables:  # noqa: ARG001  # they only tell one state of the file from another
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom's warnings quote values, and values may identify a person
        return _raw_tables(_read_header(path))


def _read_header(path: str) -> Any:
    """pydicom's data set of the wanted elements before the pixels."""
    import pydicom

    with open(os.open(path, OPEN_FLAGS), "rb") as file:
        start = file.read(1024)
        file.seek(0)
        source: BinaryIO = io.BytesIO(_inflated(file)) if _DEFLATED in start else file
        # Not every file begins as Part 10 says; what is no DICOM at all comes back empty.
        dataset = pydicom.dcmread(source, force=True, stop_before_pixels=True, specific_tags=list(_WANTED))
        if _SOP_CLASS not in dataset and _ROWS not in dataset:
            raise ValueError("not a DICOM data set")
        return dataset


def _inflated(file: BinaryIO) -> bytes:
    """The beginning of the data set of a deflated file (PS3.5 A.5); pydicom would inflate all of it."""
    start = file.read(144)  # ends with the length of the meta information
    file.seek(144 + int.from_bytes(start[140:144], "little"))
    return zlib.decompressobj(-zlib.MAX_WBITS).decompress(file.read(MOST_INFLATED), MOST_INFLATED)


def _raw_tables(dataset: Any) -> _Tables:
    pool: dict[_Group, _Group] = {}  # frames mostly say the same
    groups = [_group(item, top=False) for item in _items(dataset, _PER_FRAME) or ()]
    shared = _items(dataset, _SHARED)
    bits = _numbers(dataset, _BITS_STORED, "US") or _numbers(dataset, _BITS_ALLOCATED, "US") or (16,)
    return _Tables(
        signed=next((value == 1 for value in _numbers(dataset, _PIXEL_REPRESENTATION, "US")), None),
        bits_stored=min(max(int(bits[0]), 1), 64),
        frames=max([1, len(groups), *map(int, _numbers(dataset, _FRAMES, "IS")[:1])]),
        photometric=_text(dataset, _PHOTOMETRIC),
        modality=_luts(dataset, _MODALITY_LUT, "Modality LUT (0028,3006)"),
        palette=_raw_palette(dataset),
        top=_group(dataset, top=True),
        shared=_group(shared[0], top=False) if shared else _Group(),
        per_frame=tuple(pool.setdefault(group, group) for group in groups),
    )


def _group(dataset: Any, *, top: bool) -> _Group:
    """The tables of one set of functional groups, or of the top level, which holds them without a sequence around them."""
    voi, rescale = (dataset, dataset) if top else (_only_item(dataset, tag) for tag in (FRAME_VOI_LUT, PIXEL_VALUE_TRANSFORMATION))
    maps = _items(dataset, _REAL_WORLD)
    return _Group(
        None if voi is None else _luts(voi, _VOI_LUT, "VOI LUT (0028,3006)"),
        None if maps is None else tuple(_raw_map(item) for item in maps),
        None if rescale is None else _rescale(rescale),
    )


def _only_item(dataset: Any, tag: int) -> Any:
    items = _items(dataset, tag)
    return items[0] if items else None


def _luts(dataset: Any, tag: int, name: str) -> tuple[_RawTable, ...] | None:
    items = _items(dataset, tag)
    return None if items is None else tuple(_raw_lut(item, name) for item in items)


def _raw_lut(item: Any, name: str) -> _RawTable:
    kind = _text(item, _LUT_TYPE)
    return _RawTable(name, _words(item, _LUT_DESCRIPTOR), _element(item, _LUT_DATA), kind if kind in KINDS else "")


def _raw_palette(dataset: Any) -> tuple[_RawTable, ...]:
    """The three channels; alpha and supplemental palettes are not looked at."""
    channels = []
    for number, colour in enumerate(("red", "green", "blue"), 1):
        plain, segmented = 0x00281200 + number, 0x00281220 + number
        tag = plain if _element(dataset, plain).value or segmented not in dataset else segmented
        name = f"{colour} palette data (0028,{tag & 0xFFFF:04X})"
        channels.append(_RawTable(name, _words(dataset, 0x00281100 + number), _element(dataset, tag), "", tag == segmented))
    return tuple(channels)


def _rescale(dataset: Any) -> _Rescale | None:
    slope, intercept = _numbers(dataset, _SLOPE, "DS"), _numbers(dataset, _INTERCEPT, "DS")
    if not slope and not intercept:
        return None
    return _Rescale(slope[0] if slope else 1.0, intercept[0] if intercept else 0.0, _text(dataset, _RESCALE_TYPE))


def _raw_map(item: Any) -> _RawMap:
    units = _only_item(item, 0x004008EA)
    code = "" if units is None else _text(units, 0x00080100) or _text(units, 0x00080119) or _text(units, 0x00080120)
    table = np.array(_numbers(item, 0x00409212, "FD"), "<f8")
    return _RawMap(
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


def _element(dataset: Any, tag: int) -> _Element:
    """The bytes of an element, before pydicom makes values of them; empty where it is absent."""
    if tag not in dataset:
        return _Element()
    raw = dataset.get_item(tag)
    if not isinstance(raw.value, bytes):
        return _Element()
    return _Element(raw.VR or "", raw.value[:MOST_BYTES], getattr(raw, "is_little_endian", True))


def _words(dataset: Any, tag: int) -> tuple[int, ...]:
    return tuple(_element(dataset, tag).words()[:8].tolist())


def _text(dataset: Any, tag: int) -> str:
    return _element(dataset, tag).value.decode("ascii", "replace").strip("\0 ")


def _numbers(dataset: Any, tag: int, usual: str) -> tuple[float, ...]:
    """The values of a numeric element, () where it is absent or no number; `usual` is its VR where the file names none that helps."""
    element = _element(dataset, tag)
    vr = element.vr if element.vr in (*_CODES, "DS", "IS") else usual
    if vr in _CODES:
        dtype = np.dtype(_CODES[vr]).newbyteorder("<" if element.little_endian else ">")
        return tuple(np.frombuffer(element.value, dtype, len(element.value) // dtype.itemsize).tolist())
    with contextlib.suppress(ValueError):
        return tuple(float(part) for part in element.value.decode("ascii").strip("\0 ").split("\\"))
    return ()
