"""Ordinary files, read many at a time by the compiled walk: their columns without rows of bytes.

The rule: a file is ordinary if the reader would only walk it. It has one frame that ends with the
file, native or in one fragment, ASCII text, all its identifiers, and nothing that calls for a
second look: no functional groups, vectors, mosaics, annotations or private items. The compiled walk
takes the files whose elements are ordinary (`_kernels/walk.c`), and this module those whose values
are. The reader reads all others, and would give the same columns for these.
"""

import functools
import os
import struct
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from dicomdl._kernels import compiled_or
from dicomdl.errors import HeaderError
from dicomdl.headers._attribute_items import PHILIPS_ITEMS
from dicomdl.headers._breast import may_lack_view
from dicomdl.headers._elements import Wanted
from dicomdl.headers._heads import RAW_STOPS
from dicomdl.headers._pixel_data import pixel_layout
from dicomdl.headers._rows import Schema
from dicomdl.headers.annotation import kind_of
from dicomdl.headers.columns import (
    FEW_VALUES,
    LONGEST_CACHED,
    ROWS_PER_VALUE,
    Coded,
    Column,
    Constant,
    are_real,
    as_text,
    complete,
    converted_each,
    each_row,
    limited,
)
from dicomdl.headers.limits import ReadLimits
from dicomdl.headers.uids import NATIVE, NM_IMAGE, TRANSFER_SYNTAXES, is_uid
from dicomdl.storage.sources import Source
from dicomdl.storage.system import OPEN_FLAGS

# What the compiled walk demands of the value of a slot (`RULE_` in walk.c).
_ASCII: Final = 1
_UID: Final = 2
_ABSENT: Final = 4
_PRESENCE: Final = 8
# The compiled walk reads 256 KiB of a file at most, which is far below limits of this size.
_LEAST_LIMIT: Final = 2**20
# Numbers per file of the compiled walk.
_NUMBERS: Final = 7
# In place of the bytes of a frame: its length is that of its fragment.
_CODED: Final = -1
# Files that are worth a thread, and the most threads: what they find is put together by one.
_PER_THREAD: Final = 256
_MOST_THREADS: Final = 4
# Of a chunk after one with few ordinary files, so many are tried first.
_TRIAL: Final = 32
_LEAST_SHARE: Final = 1 / 8

# Slots, their creators and rules, and the slot of the transfer syntax, as the compiled walk takes
# them: raw tags and slots as pairs of 32-bit numbers; creators as (group, name, pairs).
Plan: TypeAlias = tuple[bytes, tuple[tuple[int, bytes, bytes], ...], bytes, int]
# What the compiled walk found: places among the paths (int32), seven numbers per file (int64), the
# number of the value per file and slot (int32), the values per slot, the bytes of a first read.
_Heads: TypeAlias = tuple[bytes, bytes, bytes, list[list[bytes]], int]


def pure_read_heads(
    _paths: tuple[bytes, ...], _plan: Plan, _flags: int, first: int, _seed: int
) -> _Heads:
    """Take no file: without the compiled walk, the reader reads each."""
    return b"", b"", b"", [], first


read_heads = compiled_or(pure_read_heads)
# Whether ordinary files are read many at a time.
CAN_READ: Final = read_heads is not pure_read_heads


class Ordinary(NamedTuple):
    """The ordinary ones among some files.

    Attributes
    ----------
    places : (files,) numpy.ndarray
        Their numbers among the paths, in order.
    states : (files, 4) numpy.ndarray
        Size in bytes, modification and change time in ns, and inode.
    sop_classes : list of str
        The SOP class per file.
    offsets, lengths : (files,) numpy.ndarray
        The byte range of the frame.
    columns : dict of str to Column
        Typed columns, as of `HeaderReader.convert`.
    """

    places: npt.NDArray[np.int64]
    states: npt.NDArray[np.int64]
    sop_classes: list[str]
    offsets: npt.NDArray[np.int64]
    lengths: npt.NDArray[np.int64]
    columns: dict[str, Column]

    def sources(self, paths: Sequence[bytes]) -> list[Source]:
        """Return the files in the state in which they were read; `paths` are all."""
        places = zip(self.places.tolist(), self.states.tolist(), strict=True)
        return [Source(os.fsdecode(paths[place]), *state) for place, state in places]


class OrdinaryFiles:
    """A reader of ordinary files, which takes those of a list that it can.

    The compiled walk runs in several threads, each with a run of the files.
    """

    def __init__(self, schema: Schema, limits: ReadLimits, first_read: int, threads: int) -> None:
        self._schema = schema
        self._threads = min(threads, _MOST_THREADS)
        self._plan = _plan_of(schema)
        self._first_read = first_read
        # Numbers of hostile files must not meet in one place of a table of values.
        self._seed = int.from_bytes(os.urandom(8), "little")
        self._share = 1.0
        self._has_room = min(limits.header_bytes, limits.elements) >= _LEAST_LIMIT

    def read(self, paths: Sequence[bytes]) -> Ordinary | None:
        """Read the ordinary files among some paths of a local file system; None without any."""
        if not CAN_READ or not self._has_room or not paths:
            return None
        if self._share < _LEAST_SHARE:
            paths = paths[:_TRIAL]
        found = self._read(tuple(paths))
        self._share = len(found.places) / len(paths) if found is not None else 0.0
        return found

    def _read(self, paths: tuple[bytes, ...]) -> Ordinary | None:
        places, numbers, codes, values = self._heads(paths)
        if not len(places):
            return None
        sizes, offsets, lengths = numbers[:, 0], numbers[:, 4], numbers[:, 5]
        needed = _frame_bytes(self._schema, codes, values)
        # The frame, and a byte that makes the length even, end with the file.
        is_native = (lengths == needed) | (lengths == needed + 1)
        is_native &= (needed > 1) & (offsets + lengths == sizes)
        # The compiled walk has found the end of a fragment.
        is_fragment = (needed == _CODED) & (numbers[:, 6] == 1)
        is_plain = is_native | is_fragment
        needed = np.where(is_fragment, lengths, needed)
        if not is_plain.all():
            places, needed = places[is_plain], needed[is_plain]
            numbers, codes = numbers[is_plain], codes[is_plain]
        if not len(places):
            return None
        return self._converted(places, numbers, codes, needed, values)

    def _heads(
        self, paths: tuple[bytes, ...]
    ) -> tuple[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any], list[list[bytes]]]:
        """Return places, numbers and codes of the ordinary files, and the values per slot."""
        threads = max(1, min(self._threads, len(paths) // _PER_THREAD))
        bounds = [len(paths) * number // threads for number in range(threads + 1)]

        def read(start: int, stop: int) -> _Heads:
            return read_heads(
                paths[start:stop], self._plan, OPEN_FLAGS, self._first_read, self._seed
            )

        with ThreadPoolExecutor(threads) as team:
            others = [team.submit(read, *bounds[at : at + 2]) for at in range(1, threads)]
            parts = [read(*bounds[:2]), *(other.result() for other in others)]
        self._first_read = max(part[4] for part in parts)
        places = [np.frombuffer(part[0], np.int32) for part in parts]
        numbers = [np.frombuffer(part[1], np.int64).reshape(-1, _NUMBERS) for part in parts]
        slots = len(self._plan[2])
        codes = [np.frombuffer(part[2], np.int32).reshape(-1, slots) for part in parts]
        values = parts[0][3]
        for number in range(1, threads):
            codes[number], values = _renumbered(codes[number], parts[number][3], values)
        found = [each + start for each, start in zip(places, bounds, strict=False)]
        return (
            np.concatenate(found).astype(np.int64),
            np.concatenate(numbers),
            np.concatenate(codes),
            values,
        )

    def _converted(
        self,
        places: npt.NDArray[np.int64],
        numbers: npt.NDArray[np.int64],
        codes: npt.NDArray[np.int32],
        needed: npt.NDArray[np.int64],
        values: list[list[bytes]],
    ) -> Ordinary:
        schema = self._schema
        columns = {
            column.name: _column(codes[:, number], values[number], convert)
            for number, (column, convert) in enumerate(
                zip(schema.columns, schema.converters, strict=True)
            )
        }
        complete(columns)
        classes = _column(
            codes[:, schema.at.sop_class_uid], values[schema.at.sop_class_uid], as_text
        )
        return Ordinary(places, numbers[:, :4], each_row(classes), numbers[:, 4], needed, columns)


def _renumbered(
    codes: npt.NDArray[np.int32], values: list[list[bytes]], known: list[list[bytes]]
) -> tuple[npt.NDArray[np.int32], list[list[bytes]]]:
    """Return codes of `values` as codes of `known` values, and these with the new ones."""
    codes, together = codes.copy(), []
    for slot, (given, before) in enumerate(zip(values, known, strict=True)):
        if given == before:
            together.append(before)
            continue
        numbers = {value: number for number, value in enumerate(before)}
        renumbered = [numbers.setdefault(value, len(numbers)) for value in given]
        codes[:, slot] = np.array(renumbered, np.int32)[codes[:, slot]]
        together.append(list(numbers))
    return codes, together


# Small: the columns of a few scans.
@functools.lru_cache(maxsize=8)
def _plan_of(schema: Schema) -> Plan:
    """Return the elements that the compiled walk collects, and what it demands of their values."""
    wanted, at, count = schema.wanted, schema.at, schema.count
    # One more slot tells whether there is an item of Philips that the reader may look into.
    alarm = Wanted([(0, "")] * wanted.size + [PHILIPS_ITEMS])
    blocks = {name: list(pairs) for name, pairs in wanted.blocks.items()}
    for name, pairs in alarm.blocks.items():
        blocks.setdefault(name, []).extend(pairs)
    rules = bytearray(wanted.size + 1)
    for number in schema.free_texts:
        rules[number] |= _ASCII
    identity = (at.sop_class_uid, at.sop_instance_uid)
    for number in (*identity, at.study_instance_uid, at.series_instance_uid):
        rules[number] |= _UID
    for number in (*schema.per_frame, *range(count + 1, wanted.size)):
        rules[number] |= _ABSENT
    for number, column in enumerate(schema.columns):
        rules[number] |= _PRESENCE if column.kind == "flag" else 0
    rules[-1] = _PRESENCE
    tags = {tag: slot for tag, slot in wanted.slots.items() if tag not in RAW_STOPS}
    creators = tuple((group, name, _pairs(pairs)) for (group, name), pairs in blocks.items())
    return _pairs(tags.items()), creators, bytes(rules), at.transfer_syntax_uid


def _pairs(pairs: Any) -> bytes:
    return b"".join(struct.pack("=II", *pair) for pair in pairs)


def _column(
    codes: npt.NDArray[np.int32], raws: Sequence[bytes], convert: Callable[[bytes], Any]
) -> Column:
    """Convert one column, each distinct value once."""
    first = int(codes[0])
    if len(raws) == 1 or bool((codes == first).all()):
        return Constant(limited(convert(raws[first])), len(codes))
    column = Coded(codes, converted_each(raws, convert))
    return column if _are_few(column) else each_row(column)


def _are_few(column: Coded) -> bool:
    """Whether a column has few values, and is as `Coded` demands.

    Different bytes may have one value, and a file that is not ordinary the only one of some.
    """
    count = len(column.values)
    return (
        count <= max(FEW_VALUES, len(column.codes) // ROWS_PER_VALUE)
        and len(set(column.values)) == count
        and bool(np.bincount(column.codes, minlength=count).all())
    )


def _frame_bytes(
    schema: Schema, codes: npt.NDArray[np.int32], values: list[list[bytes]]
) -> npt.NDArray[np.int64]:
    """Return (files,) bytes of the frame of each file, 0 for files with unordinary values.

    Values of few columns decide, which most files of a chunk share: each of their combinations is
    judged once.
    """
    deciding = _deciding(schema)
    varied = [number for number in deciding if len(values[number]) > 1]
    combinations, which = np.zeros((1, 0), np.int64), np.zeros(len(codes), np.int64)
    if varied:
        combinations, which = np.unique(codes[:, varied], axis=0, return_inverse=True)
    needed = []
    for combination in combinations.tolist():
        chosen = dict(zip(varied, combination, strict=True))
        row = {number: values[number][chosen.get(number, 0)] for number in deciding}
        needed.append(_frame_bytes_of(schema, row))
    result = np.array(needed, np.int64)[which.reshape(-1)]
    for number in schema.required_reals:
        is_real = [len(raw) <= LONGEST_CACHED and are_real((raw,)) for raw in values[number]]
        if not all(is_real):
            result = np.where(np.array(is_real)[codes[:, number]], result, 0)
    return result


def _deciding(schema: Schema) -> list[int]:
    at = schema.at
    return [
        *range(schema.pixel_format.start, schema.pixel_format.stop),
        at.transfer_syntax_uid,
        at.sop_class_uid,
        at.image_type,
        at.sequence_name,
        at.manufacturer,
        at.scanning_sequence,
        at.view_position,
        at.ge_b_value,
        at.philips_gradient_direction_number,
        schema.wanted.size,
    ]


def _frame_bytes_of(schema: Schema, row: dict[int, bytes]) -> int:
    """Return the bytes of the frame of a file with some values; 0 if these are not ordinary.

    Of a compressed frame `_CODED`.
    """
    at = schema.at
    sop_class = as_text(row[at.sop_class_uid])
    if not is_uid(sop_class) or sop_class == NM_IMAGE or kind_of(sop_class):
        return 0
    if may_lack_view(sop_class, row[at.view_position]):
        return 0
    if _may_be_mosaic(row, schema) or _may_have_facts_apart(row, schema):
        return 0
    raws = tuple(
        row[number] for number in range(schema.pixel_format.start, schema.pixel_format.stop)
    )
    if len(b"".join(raws)) > LONGEST_CACHED:
        return 0
    layout = pixel_layout(raws)
    if isinstance(layout, HeaderError) or layout.frames != 1 or layout.flags:
        return 0
    syntax = TRANSFER_SYNTAXES.get(as_text(row[at.transfer_syntax_uid]))
    if syntax is None or syntax.family in ("video", "jpip"):
        return 0
    if syntax.encapsulated:
        return _CODED
    is_whole = layout.frame_bits == layout.whole_bits and layout.frame_bits % 8 == 0
    return layout.frame_bits // 8 if is_whole and syntax.uid in NATIVE else 0


def _may_be_mosaic(row: dict[int, bytes], schema: Schema) -> bool:
    """Whether `_mosaic` would look at a row."""
    image_type, sequence = row[schema.at.image_type], row[schema.at.sequence_name]
    return b"MOSAIC" in image_type or b"VFRAME" in image_type or b"ep_b" in sequence


def _may_have_facts_apart(row: dict[int, bytes], schema: Schema) -> bool:
    """Whether the reader would look for private elements, as it does for Philips and GE."""
    at = schema.at
    manufacturer = row[at.manufacturer]
    if manufacturer[:7].lower() == b"philips":
        return bool(row[schema.wanted.size]) and not row[at.philips_gradient_direction_number]
    is_echo_planar = b"EP" in row[at.scanning_sequence]
    return manufacturer.startswith(b"GE") and not row[at.ge_b_value] and is_echo_planar
