"""Soundness of the tables of an index that no scan of this user wrote.

A scan writes tables of one shape. Those of somebody else may hold any bytes: offsets that lead out
of a column, rows that do not exist, byte ranges beyond the end of a file, times that switch off the
comparison of states. Each table of such an index is checked once per process, when it is mapped: by
Arrow (offsets, dictionary codes, UTF-8), and then by whole columns. A million frames take 0.4 s.

The checks are of shape alone: a foreign index may still state a wrong position or slope.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from dicomdl.errors import IndexFolderError
from dicomdl.geometry.verdict import VERDICTS
from dicomdl.headers.uids import CONTENTS
from dicomdl.index.schema import (
    ANNOTATIONS_SCHEMA,
    FILES_SCHEMA,
    PROBLEMS_SCHEMA,
    STACKS_SCHEMA,
    STATE_COLUMNS,
    TEXT,
    frames_schema,
)
from dicomdl.index.table import Table, flags_of
from dicomdl.storage.handles import UNKNOWN
from dicomdl.storage.json_texts import parsed

# The table of a name, of the same generation.
Others = Callable[[str], Table]

_SCHEMAS: Final[Mapping[str, pa.Schema]] = {
    "files": FILES_SCHEMA,
    "frames": frames_schema(),
    "stacks": STACKS_SCHEMA,
    "problems": PROBLEMS_SCHEMA,
    "annotations": ANNOTATIONS_SCHEMA,
}
# By name: a schema searches its fields for each name.
_TYPES: Final[Mapping[str, Mapping[str, pa.DataType]]] = {
    table: {field.name: field.type for field in schema} for table, schema in _SCHEMAS.items()
}
# Of the columns that a scan adds to `frames` by `attributes`.
_EXTRA_TYPES: Final = (TEXT, pa.int64(), pa.float64(), pa.bool_(), pa.list_(pa.float64()))
_CODES: Final = (pa.int8(), pa.int16(), pa.int32())
_MOST: Final = 2**62
# Values of Unsigned Short (PS3.5 6.2), and the limits of what `headers` reads.
_SHORT: Final = (0, 65535)
_RANGES: Final[Mapping[str, Mapping[str, tuple[int, int]]]] = {
    "files": {"file_bytes": (0, _MOST)},
    "frames": {
        "frame_number": (1, 2**31 - 1),
        "byte_offset": (0, _MOST),
        "byte_length": (0, _MOST),
        "bit_offset": (0, 7),
        **dict.fromkeys(("coded_rows", "coded_columns", "tile_top", "tile_left"), _SHORT),
        **dict.fromkeys(("rows", "columns", "samples_per_pixel", "planar_configuration"), _SHORT),
        **dict.fromkeys(("bits_allocated", "bits_stored", "high_bit"), _SHORT),
        "pixel_representation": _SHORT,
        "number_of_frames": (0, 2**31 - 1),
    },
    "stacks": {"frame_start": (0, _MOST), "slices": (1, _MOST), "group_index": (0, _MOST)},
    "problems": {},
    "annotations": {"referenced": (0, _MOST), "found": (0, _MOST)},
}
_URL: Final = rb"^[A-Za-z][A-Za-z0-9+.-]+://"
_DRIVE: Final = rb"^([A-Za-z]:[/\\]|[/\\]{2})"
# Columns that have a value in every row, besides these ranges, states and texts.
_COMPLETE: Final = (
    *("file", "deflated", "float_pixels", "position_in_stack", "duplicate_of"),
    *("affine", "spacing", "group", "mixed", "series"),
)


def require_sound(folder: str, name: str, table: Table, others: Others) -> None:
    """Raise IndexFolderError unless a table has the shape of those that a scan writes.

    Parameters
    ----------
    folder
        The index, for the message.
    name, table
        The table.
    others
        Returns the other tables of the generation, which are checked themselves.
    """
    fault = next(_faults(name, table, others), None)
    if fault is not None:
        raise IndexFolderError(
            f"the table {name} of the index {folder!r} is not as a scan writes it ({fault}): ask "
            "for the index again, or scan the data",
            path=folder,
            table=name,
            fault=fault,
        )


def require_sound_facts(folder: str, facts: Mapping[str, Any]) -> None:
    """Raise IndexFolderError unless the facts of a generation are as a scan writes them."""
    options, passed_over = facts.get("options", {}), facts.get("passed_over", {})
    if not isinstance(options, dict) or not (
        isinstance(passed_over, dict)
        and all(
            isinstance(value, int)
            or (isinstance(value, list) and all(isinstance(each, str) for each in value))
            for value in passed_over.values()
        )
    ):
        raise IndexFolderError(
            f"the facts of the index {folder!r} are not as a scan writes them: scan again",
            path=folder,
        )


def _faults(name: str, table: Table, others: Others) -> Iterator[str]:
    """Yield what is wrong with a table. Each check relies on those before it."""
    yield from _faults_of_types(name, table)
    try:
        table.arrow.validate(full=True)
    except pa.ArrowInvalid as error:
        yield f"Arrow: {error}"
    yield from _faults_of_nulls(name, table)
    yield from _faults_of_constants(table)
    for column, (low, high) in _RANGES[name].items():
        yield from _outside(column, table.numbers(column), low, high)
    yield from _OWN_FAULTS[name](table, others)


def _faults_of_types(name: str, table: Table) -> Iterator[str]:
    try:
        arrow = table.arrow
    except (pa.ArrowException, ValueError, OverflowError) as error:
        yield f"a column that is left out: {error}"
        return
    expected, fields = _TYPES[name], list(arrow.schema)
    names = {field.name for field in fields}
    if len(names) != len(fields):
        yield "a column twice"
    for column in expected:
        if column not in names:
            yield f"no column {column}"
    for field in fields:
        kind = field.type
        if pa.types.is_dictionary(kind):
            inner = kind.value_type
            is_number = pa.types.is_integer(inner) or pa.types.is_floating(inner)
            if kind.index_type not in _CODES or not (is_number or inner == TEXT):
                yield f"{field.name} is encoded as {kind}"
            kind = kind.value_type
        if field.name in expected:
            if kind != expected[field.name]:
                yield f"{field.name} holds {kind}"
        elif name != "frames" or not (
            kind in _EXTRA_TYPES
            or (pa.types.is_fixed_size_list(kind) and kind.value_type == pa.float64())
        ):
            yield f"a column {field.name!r} of {kind}"


def _faults_of_nulls(name: str, table: Table) -> Iterator[str]:
    """Yield columns that lack values. Codes are complete; null is a value of the dictionary."""
    complete = {*_RANGES[name], *STATE_COLUMNS, *_COMPLETE}
    for field in _SCHEMAS[name]:
        array = table.column(field.name)
        is_list = pa.types.is_nested(array.type)
        if pa.types.is_dictionary(array.type) and array.null_count:
            yield f"{field.name} has rows without a code"
        if is_list and array.flatten().null_count:
            yield f"lists of {field.name} lack values"
        lacks = array.null_count or (
            pa.types.is_dictionary(array.type) and array.dictionary.null_count
        )
        if lacks and (field.name in complete or field.type in (TEXT, pa.large_binary())):
            yield f"{field.name} lacks values"


def _faults_of_constants(table: Table) -> Iterator[str]:
    """Yield columns whose only value is another one than the metadata state."""
    for name, value in table.constants.items():
        if not _is_only(table.column(name), value):
            yield f"{name} is not constant"


def _is_only(array: pa.Array, value: Any) -> bool:
    """Whether all rows of a checked column hold a value."""
    if pa.types.is_dictionary(array.type):
        return len(array.dictionary) == 1 and _is_same(array.dictionary[0].as_py(), value)
    if value is None:
        return bool(array.null_count == len(array))
    return bool(pa.types.is_boolean(array.type) and array.unique().to_pylist() == [value])


def _is_same(one: Any, other: Any) -> bool:
    return type(one) is type(other) and (one == other or (one != one and other != other))


def _outside(column: str, numbers: npt.NDArray[Any], low: int, high: int) -> Iterator[str]:
    """Yield the first number of a column that is not from `low` to `high`."""
    if len(numbers) and (found := int(numbers.min())) < low:
        yield f"{column} is {found}, expected {low} or more"
    if len(numbers) and (found := int(numbers.max())) > high:
        yield f"{column} is {found}, expected {high} at most"


# --- one table each -------------------------------------------------------------------------------


def _faults_of_files(table: Table, others: Others) -> Iterator[str]:
    del others
    paths = table.column("path")
    if pc.any(pc.match_substring(paths, b"\x00")).as_py():
        yield "a path holds a zero byte"
    on_windows = os.sep == "\\"
    is_file = pc.match_substring_regex(paths, _DRIVE) if on_windows else pc.starts_with(paths, b"/")
    objects = paths.filter(pc.invert(is_file))
    if not pc.all(pc.match_substring_regex(objects, _URL), min_count=0).as_py():
        yield "a path is neither absolute nor a URL"
    # A file in such a state would be read whatever became of it. Objects have no change time.
    if (table.numbers("file_mtime_ns") == UNKNOWN).any():
        yield "a file has no modification time"
    if (flags_of(is_file) & (table.numbers("file_ctime_ns") == UNKNOWN)).any():
        yield "a file has no change time"


def _faults_of_frames(table: Table, others: Others) -> Iterator[str]:
    files, count = others("files"), len(table)
    of_file = table.numbers("file")
    yield from _outside("file", of_file, 0, len(files) - 1)
    for name in ("position_in_stack", "duplicate_of"):
        yield from _outside(name, table.numbers(name), -1, count - 1)
    starts, lengths = table.numbers("byte_offset"), table.numbers("byte_length")
    sizes, deflated = files.numbers("file_bytes"), table.numbers("deflated")
    # Of a deflated data set, bytes are counted after inflation, whose limits hold.
    if (~deflated & ((lengths > sizes[of_file]) | (starts > sizes[of_file] - lengths))).any():
        yield "the bytes of a frame end behind its file"
    tops, lefts = table.numbers("tile_top"), table.numbers("tile_left")
    high, wide = table.numbers("coded_rows"), table.numbers("coded_columns")
    is_tile = high > 0
    ends = tops + table.numbers("rows"), lefts + table.numbers("columns")
    if (is_tile & ((ends[0] > high) | (ends[1] > wide))).any():
        yield "a tile leads out of its mosaic"
    # Frames share no bytes, but for the byte in which one of single bits ends and the next begins.
    # Many that did would let a small file justify much memory.
    own = ~deflated & ~is_tile
    total = np.bincount(of_file[own], lengths[own].astype(np.float64), len(files))
    shared = np.bincount(of_file[own], minlength=len(files))
    if (total > sizes + shared).any():
        yield "the frames of a file have more bytes than the file"


def _faults_of_stacks(table: Table, others: Others) -> Iterator[str]:
    starts, slices = table.numbers("frame_start"), table.numbers("slices")
    positions = others("frames").numbers("position_in_stack")
    yield from _outside("slices", slices, 1, len(positions))
    ends = np.cumsum(slices)
    if (starts != ends - slices).any():
        yield "stacks overlap, or leave out frames"
    end = int(slices.sum())
    yield from _outside("frame_start + slices", ends, 0, len(positions))
    # Copies are behind the last stack, in none.
    if (positions[:end] != np.arange(end) - np.repeat(starts, slices)).any() or (
        positions[end:] != -1
    ).any():
        yield "position_in_stack is not the slice of the frame"
    for name in ("group", "series"):
        numbers = np.unique(table.numbers(name))
        if (numbers != np.arange(len(numbers))).any():
            yield f"{name} is not numbered from 0"
    for name, known in (("verdict", VERDICTS), ("content", CONTENTS)):
        if not set(table.distinct(name)) <= set(known):
            yield f"an unknown {name}"
    for name in ("detail", "dimension"):
        yield from _no_json(name, table.distinct(name), dict)


def _faults_of_problems(table: Table, others: Others) -> Iterator[str]:
    yield from _outside("file", table.numbers("file"), 0, len(others("files")) - 1)


def _faults_of_annotations(table: Table, others: Others) -> Iterator[str]:
    yield from _outside("file", table.numbers("file"), 0, len(others("files")) - 1)
    yield from _outside("stacks", table.ragged("stacks")[1], 0, len(others("stacks")) - 1)
    offsets, files = table.ragged("files")
    yield from _outside("files", files, 0, len(others("files")) - 1)
    if (np.diff(offsets) == 0).any():
        yield "an object without a file"
    yield from _no_json("segments", table.distinct("segments"), list)


def _no_json(name: str, texts: list[str], kind: type) -> Iterator[str]:
    """Yield a column of which a text is not JSON of a kind."""
    for text in texts:
        try:
            if isinstance(parsed(text), kind):
                continue
        except ValueError:
            pass
        yield f"{name} is no JSON of a {kind.__name__}"


_OWN_FAULTS: Final[Mapping[str, Callable[[Table, Others], Iterator[str]]]] = {
    "files": _faults_of_files,
    "frames": _faults_of_frames,
    "stacks": _faults_of_stacks,
    "problems": _faults_of_problems,
    "annotations": _faults_of_annotations,
}
