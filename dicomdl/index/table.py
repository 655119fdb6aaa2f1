"""Table: one memory-mapped Arrow table of an index, read as NumPy arrays and Python objects.

An index folder holds four tables per generation::

    lidc.index/
      manifest.json                     name of the current generation; replaced in one step
      generations/<id>/checksums        size of each file, and a checksum per block of 64 KiB
      generations/<id>/scan.json        options of the scan, with its tolerances
      generations/<id>/files.arrow      one row per file: path, size, times, kind, SOP class
      generations/<id>/frames.arrow     one row per frame, sorted by stack and slice
      generations/<id>/stacks.arrow     one row per stack: range of frames, verdict, affine
      generations/<id>/problems.arrow   one row per file that could not be used

A published generation never changes. Columns with few distinct values are dictionary-encoded with
the narrowest index, so a column costs one or two bytes per frame. Columns with one value are not
stored (`_left_out`).
"""

import copy
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from dicomdl.arrays import ends_of
from dicomdl.errors import UsageError
from dicomdl.extras import import_extra
from dicomdl.index._arrow_arrays import array_of, of_numbers
from dicomdl.index._left_out import Columns, columns_of, zeros
from dicomdl.index._verifying import MappedBlocks
from dicomdl.index.schema import TEXT
from dicomdl.lazy import cached_property
from dicomdl.storage import publishing as storage

# The largest whole number up to which a float64 holds each one.
_EXACT: Final = 2**53
_WRONG_TYPE: Final = (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError)


class Table:
    """Columns of one table, each of one chunk, read-only.

    The only class that converts Arrow values to NumPy or Python. Columns of a mapped file are
    verified before they are returned: `blocks` compares the checksums of what an array reads.
    """

    def __init__(
        self, arrow: pa.Table, blocks: MappedBlocks | None = None, columns: Columns | None = None
    ) -> None:
        """`columns` name those that `arrow` lacks; by default its metadata do.

        Raises
        ------
        ValueError
            The metadata do not fit the columns.
        """
        self._arrow, self._blocks = arrow, blocks
        self._columns = columns_of(arrow.schema) if columns is None else columns
        self._column_numbers = {name: number for number, name in enumerate(arrow.schema.names)}
        # Columns, and those of them that are verified.
        self._arrays: dict[str, pa.Array] = {}
        self._verified: dict[str, pa.Array] = {}
        # Columns whose coding `building.encoded` has chosen.
        self.settled: frozenset[str] = frozenset()

    def __len__(self) -> int:
        return int(self._arrow.num_rows)

    @property
    def stored(self) -> pa.Table:
        """The columns that are stored, all of them verified; the metadata describe the others."""
        metadata = self._columns.metadata() if self._columns.constants else None
        return self._kept.replace_schema_metadata(metadata)

    @cached_property
    def _kept(self) -> pa.Table:
        """The columns that are stored, all of them verified."""
        if self._blocks is not None:
            for name in self._column_numbers:
                self.column(name)
        return self._arrow

    @cached_property
    def arrow(self) -> pa.Table:
        """All columns as an Arrow table, verified."""
        if not self._columns.left_out:
            return self._kept
        arrays = [self.column(name) for name in self.names]
        return pa.Table.from_arrays(arrays, self.names)

    @property
    def names(self) -> list[str]:
        """The names of the columns."""
        return list(self._columns.order)

    @property
    def columns(self) -> Columns:
        """The order of the columns, and those of one value."""
        return self._columns

    def is_text(self, name: str) -> bool:
        """Whether a column holds text."""
        kind = self._type(name)
        return bool(
            pa.types.is_large_string(kind.value_type if pa.types.is_dictionary(kind) else kind)
        )

    def is_number(self, name: str) -> bool:
        """Whether a column holds one plain number per row: neither flags nor encoded."""
        kind = self._type(name)
        return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))

    def is_flag(self, name: str) -> bool:
        """Whether the column holds True or False."""
        return bool(pa.types.is_boolean(self._type(name)))

    def is_list(self, name: str) -> bool:
        """Whether a column holds several numbers per row."""
        kind = self._type(name)
        return bool(pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind))

    def is_encoded(self, name: str) -> bool:
        """Whether a column is dictionary-encoded."""
        return bool(pa.types.is_dictionary(self._type(name)))

    def _type(self, name: str) -> pa.DataType:
        only = self._columns.left_out.get(name)
        return self._array(name).type if only is None else only.type

    @property
    def constants(self) -> dict[str, Any]:
        """Columns that hold one value in all rows, and that value."""
        return self._columns.constants

    def column(self, name: str) -> pa.Array:
        """Return one column as an Arrow array.

        Raises
        ------
        UsageError
            There is no such column; the message lists the nearest names.
        IndexDamaged
            A block of the column is not as the scan wrote it.
        """
        if name not in self._verified:
            array = self._array(name)
            if self._is_mapped(name):
                self._blocks.verify(array)  # type: ignore[union-attr]
            self._verified[name] = array
        return self._verified[name]

    def _array(self, name: str) -> pa.Array:
        # Cached, because Arrow's own look-up by name takes 30 us.
        array = self._arrays.get(name)
        if array is None:
            array = self._arrays[name] = self._made(name)
        return array

    def _made(self, name: str) -> pa.Array:
        if (only := self._columns.left_out.get(name)) is not None:
            return only.array(self._zeros)
        if name not in self._column_numbers:
            raise no_such_column(name, self.names)
        chunked = self._arrow.column(self._column_numbers[name])
        if chunked.num_chunks > 1:
            raise AssertionError(f"column {name} has {chunked.num_chunks} chunks")
        return chunked.chunk(0) if chunked.num_chunks else pa.nulls(0, chunked.type)

    @cached_property
    def _zeros(self) -> pa.Array:
        """The codes of all columns of one value."""
        return zeros(len(self))

    def _is_mapped(self, name: str) -> bool:
        return self._blocks is not None and name in self._column_numbers

    def is_verified(self, name: str) -> bool:
        """Whether the whole column is verified, or no part of a mapped file."""
        return not self._is_mapped(name) or name in self._verified

    def column_at(self, name: str, start: int, stop: int) -> pa.Array:
        """Return one column of which only a range of rows is verified."""
        array = self._array(name)
        if not self.is_verified(name):
            self._blocks.verify(array.slice(start, stop - start))  # type: ignore[union-attr]
        return array

    def taken(self, name: str, rows: npt.NDArray[Any]) -> pa.Array:
        """Return some rows of one column. Those between them are verified, too."""
        if not len(rows):
            return self._array(name).slice(0, 0)
        column = self.column_at(name, int(rows.min()), int(rows.max()) + 1)
        return column.take(_indices(rows))

    def bytes_of(self, name: str) -> int:
        """Return the bytes of one column, with its dictionary."""
        return int(self._array(name).get_total_buffer_size())

    @cached_property
    def unverified(self) -> "Table":
        """The table without verification, for readers that call `column_at` before they read."""
        table = copy.copy(self)
        table._blocks, table._verified = None, {}
        return table

    def distinct(self, name: str) -> list[Any]:
        """Return the distinct values of a column, None among them."""
        array = self.column(name)
        return list((array.dictionary if self.is_encoded(name) else array.unique()).to_pylist())

    def value(self, name: str, row: int) -> Any:
        """Return one value: str, int, float, bool, tuple of floats, bytes or None."""
        if (only := self._columns.left_out.get(name)) is not None:
            return only.value
        value = self.column(name)[row].as_py()
        return tuple(value) if isinstance(value, list) else value

    def numbers(self, name: str) -> npt.NDArray[Any]:
        """Return a numeric column: a view when it is plain and complete, else a copy with NaN."""
        if (only := self._columns.left_out.get(name)) is not None:
            return only.numbers(len(self))
        array = self.column(name)
        if self.is_number(name) and not array.null_count:
            return _view(array)
        if pa.types.is_dictionary(array.type):
            return np.asarray(_numbers(array.dictionary)[_view(array.indices)])
        return _numbers(array)

    def vectors(self, name: str, size: int) -> npt.NDArray[np.float64]:
        """Return (n, size) floats of a column of fixed-size lists, NaN where absent."""
        if name in self._columns.left_out:
            return np.full((len(self), size), np.nan)
        array = self.column(name)
        if len(array) == 0:
            return np.empty((0, size))
        flat = _numbers(array.values).reshape(-1, size)
        flat = flat[array.offset : array.offset + len(array)]
        if not array.null_count:
            return flat
        return np.where(np.asarray(array.is_valid())[:, None], flat, np.nan)

    def flat(self, name: str) -> tuple[int, npt.NDArray[Any]]:
        """Return (size, numbers) of a column of lists of one size.

        Row i is ``numbers[i * size : (i + 1) * size]``. The size is 0 when some rows are absent.
        """
        array = self.column(name)
        if (
            not pa.types.is_fixed_size_list(array.type)
            or array.null_count
            or array.values.null_count
        ):
            return 0, np.empty(0)
        size = array.type.list_size
        return size, _view(array.values)[array.offset * size : (array.offset + len(array)) * size]

    def ragged(self, name: str) -> tuple[npt.NDArray[np.int64], npt.NDArray[Any]]:
        """Return (offsets, numbers) of a column of lists.

        Row i has ``numbers[offsets[i] : offsets[i + 1]]``; an absent list has none.
        """
        array = self.column(name)
        lengths = np.nan_to_num(_numbers(pc.list_value_length(array)))
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        return offsets.astype(np.int64), _view(pc.list_flatten(array))

    def some_numbers(self, name: str, rows: npt.NDArray[Any]) -> list[Any]:
        """Return some values of a numeric column without nulls."""
        taken = self.taken(name, rows)
        plain = taken.dictionary_decode() if pa.types.is_dictionary(taken.type) else taken
        return _view(plain).tolist()  # type: ignore[no-any-return]

    def binaries(self, name: str, rows: npt.NDArray[Any]) -> tuple[bytes, list[int]]:
        """Return some values of a column of bytes, concatenated, and their offsets.

        The offsets are one more than the values: value i is ``data[offsets[i] : offsets[i + 1]]``.
        """
        taken = self.taken(name, rows).cast(pa.large_binary())
        _, offset_buffer, data = taken.buffers()
        offsets = (
            np.frombuffer(offset_buffer, np.int64)[
                taken.offset : taken.offset + len(rows) + 1
            ].tolist()
            if len(rows)
            else [0]
        )
        return b"" if data is None else data.to_pybytes(), offsets

    def codes(self, name: str) -> tuple[npt.NDArray[Any], list[Any]]:
        """Return (codes, values) of a column: row i holds ``values[codes[i]]``."""
        if (only := self._columns.left_out.get(name)) is not None:
            return np.zeros(len(self), np.int8), [only.value]
        array = self.column(name)
        if not pa.types.is_dictionary(array.type):
            array = array.dictionary_encode(null_encoding="encode")
        return _view(array.indices), array.dictionary.to_pylist()

    def codes_of(self, name: str) -> tuple[npt.NDArray[Any], Callable[[int], Any]]:
        """Return (codes, code -> value) of a dictionary-encoded column."""
        array = self.column(name)
        return _view(array.indices), lambda code: array.dictionary[int(code)].as_py()

    def changes(self, name: str) -> npt.NDArray[np.bool_]:
        """Return (n,) flags: rows whose value differs from that of the row before; True for row 0.

        Null counts as a value that differs from all others.
        """
        array = self.column(name)
        flags = np.ones(len(array), dtype=np.bool_)
        if pa.types.is_dictionary(array.type):
            codes = _view(array.indices)
            flags[1:] = codes[1:] != codes[:-1]
        elif len(array) > 1:
            same = pc.equal(array.slice(1), array.slice(0, len(array) - 1))
            flags[1:] = ~flags_of(same)
        return flags

    def distinct_at(
        self, name: str, rows: npt.NDArray[np.int64]
    ) -> tuple[npt.NDArray[np.int64], "Table"]:
        """Return (codes, values) of some rows: row i holds row ``codes[i]`` of the table `values`.

        The table has this column alone, plain, and each value once; some may be in no row.
        """
        array = self.column(name)
        if pa.types.is_dictionary(array.type):
            codes, values = _view(array.indices)[rows], array.dictionary
        else:
            coded = array.take(_indices(rows)).dictionary_encode(null_encoding="encode")
            codes, values = _view(coded.indices), coded.dictionary
        return codes.astype(np.int64), Table(pa.table({name: values}))

    def perhaps_repeated(self, name: str, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Return those of some rows whose text may be that of another one, with none left out.

        Hashes have one length and differ in their first 8 bytes, whose comparison takes a tenth of
        the time of a dictionary. Of other text, all rows are returned.
        """
        array = self.column(name)
        if pa.types.is_dictionary(array.type) or array.offset or not len(rows):
            return rows
        _, offset_buffer, data = array.buffers()
        offsets = np.frombuffer(offset_buffer, np.int64)[: len(array) + 1]
        lengths = np.diff(offsets)
        size = int(lengths.max())
        filled = lengths[rows] > 0
        if size < 8 or not ((lengths == size) | (lengths == 0)).all():
            return rows
        heads = np.frombuffer(data, np.uint8, int(offsets[-1])).reshape(-1, size)[:, :8]
        number = np.cumsum(lengths > 0) - 1
        words = heads[number[rows[filled]]].copy().view(np.uint64)[:, 0]
        ordered = np.sort(words)
        twice = np.unique(ordered[1:][ordered[1:] == ordered[:-1]])
        return rows[filled][np.isin(words, twice)]

    @staticmethod
    def together(name: str, tables: Sequence["Table"]) -> tuple[npt.NDArray[np.int64], "Table"]:
        """Return (codes, values) of the concatenated columns of several tables."""
        whole = pa.concat_arrays([table.column(name) for table in tables])
        coded = whole.dictionary_encode(null_encoding="encode")
        values = Table(pa.table({name: coded.dictionary}))
        return _view(coded.indices).astype(np.int64), values

    def ranks(self, name: str) -> npt.NDArray[np.int64]:
        """Return (n,) integers that compare and sort as the values of the column do."""
        if name in self._columns.left_out:
            return np.zeros(len(self), np.int64)
        array = self.column(name)
        if not pa.types.is_dictionary(array.type):
            array = array.dictionary_encode(null_encoding="encode")
        order = _view(pc.array_sort_indices(array.dictionary, null_placement="at_start"))
        rank = np.empty(len(order), dtype=np.int64)
        rank[order] = np.arange(len(order))
        return np.asarray(rank[_view(array.indices)])

    def text(self, name: str, row: int) -> str:
        """Return one value of a text column."""
        return str(self.value(name, row))

    def values(self, name: str, rows: npt.NDArray[np.int64]) -> list[Any]:
        """Return some values as Python objects; lists as tuples, None where absent."""
        if (only := self._columns.left_out.get(name)) is not None:
            return [only.value] * len(rows)
        return [
            tuple(value) if isinstance(value, list) else value
            for value in self.taken(name, rows).to_pylist()
        ]

    def part(self, rows: slice) -> "Table":
        """Return the rows of a range, without a copy."""
        return _Part(self, rows)

    def take(self, rows: npt.NDArray[np.int64]) -> "Table":
        """Return the given rows in the given order; all of them in theirs without a copy."""
        if len(rows) == len(self) and np.array_equal(rows, np.arange(len(self))):
            return self._like(self._kept, self._columns)
        return self._like(self._kept.take(_indices(rows)), self._columns)

    def with_column(self, name: str, values: npt.NDArray[Any] | Sequence[Any]) -> "Table":
        """Return the table with one column replaced."""
        only = self._columns.left_out.get(name)
        kind = self._type(name) if only is None else only.kind
        kind = kind.value_type if pa.types.is_dictionary(kind) else kind
        field, array = pa.field(name, kind), array_of(values, kind)
        if only is not None:
            arrow = self._kept.append_column(field, array)
        else:
            arrow = self._kept.set_column(self._column_numbers[name], field, array)
        table = self._like(arrow, self._columns.without(name))
        table.settled -= {name}
        return table

    def _like(self, arrow: pa.Table, columns: Columns) -> "Table":
        table = Table(arrow, None, columns)
        table.settled = self.settled
        return table

    def with_paths(self, files: "Table") -> "Table":
        """Return the table with a column `path`, looked up by its column `file`."""
        paths = files.column("path").take(_indices(self.numbers("file")))
        return Table(self.arrow.append_column("path", paths))

    def with_first_columns(self, columns: Mapping[str, Any]) -> "Table":
        """Return the table with more columns before the others; text, integers or Arrow arrays."""
        arrow = self.arrow
        for number, (name, values) in enumerate(columns.items()):
            array = values if isinstance(values, pa.Array) else pa.array(values)
            if pa.types.is_binary(array.type) or pa.types.is_null(array.type):
                array = pa.array([_text_of(value) for value in values], type=TEXT)
            arrow = arrow.add_column(number, name, array)
        return Table(arrow)

    def with_last_columns(self, columns: Mapping[str, pa.Array]) -> "Table":
        """Return the table with more columns after the others."""
        arrow = self.arrow
        for name, array in columns.items():
            arrow = arrow.append_column(name, array)
        return Table(arrow)

    def with_new_column(self, name: str, values: npt.NDArray[np.int32]) -> "Table":
        """Return the table with one more column, int32."""
        order, *rest = self._columns
        arrow = self._kept.append_column(name, of_numbers(values, pa.int32()))
        return self._like(arrow, Columns((*order, name), *rest))

    def without(self, name: str) -> "Table":
        """Return the table without one of its columns."""
        columns = self._columns.without(name)
        columns = columns._replace(order=tuple(each for each in columns.order if each != name))
        is_stored = name in self._column_numbers
        return self._like(self._kept.drop_columns([name] if is_stored else []), columns)

    def equals(self, name: str, values: Sequence[Any]) -> bool:
        """Whether a plain column holds exactly these values."""
        column = self.column(name)
        return bool(column.equals(array_of(values, column.type)))

    def decoded(self) -> "Table":
        """Return the table without dictionary encoding, save of the columns that are left out."""
        stored = self._kept
        if not any(pa.types.is_dictionary(kind) for kind in stored.schema.types):
            return self
        return Table(stored.cast(_plain_schema(stored.schema)), None, self._columns)

    def plain(self) -> "Table":
        """Return the table without dictionary encoding."""
        if not any(pa.types.is_dictionary(kind) for kind in self.arrow.schema.types):
            return self
        return Table(self.arrow.cast(_plain_schema(self.arrow.schema)))

    def to_parquet(self, path: str) -> None:
        """Write the table as one Parquet file."""
        with storage.explained(f"{path!r} cannot be written"):
            pq.write_table(_with_variable_lists(_readable(self.plain().arrow)), path)

    def to_pandas(self) -> Any:
        """Return the table as a pandas DataFrame (needs the extra `notebook`)."""
        pandas = import_extra("pandas", "to_pandas()", "notebook")
        arrow = _readable(self.plain().arrow)
        table = arrow.to_pandas()
        kept_whole = {pa.int64(): pandas.Int64Dtype()}.get
        for name in _whole_beyond_floats(arrow):
            table[name] = arrow.column(name).to_pandas(types_mapper=kept_whole)
        return table


def _plain_schema(schema: pa.Schema) -> pa.Schema:
    """Return a schema of the same columns without dictionary encoding."""
    return pa.schema(
        [
            pa.field(f.name, f.type.value_type if pa.types.is_dictionary(f.type) else f.type)
            for f in schema
        ]
    )


def require_name(name: Any) -> None:
    """Raise UsageError for what is no name of a column."""
    if not isinstance(name, str):
        raise UsageError(f"a column is named by a text, not by {type(name).__name__}")


def no_such_column(name: str, names: Sequence[str]) -> UsageError:
    """Build the error for a column that does not exist, with the nearest names."""
    import difflib

    near = difflib.get_close_matches(name, names, 3)
    hint = f"; did you mean {' or '.join(near)}?" if near else ""
    return UsageError(f"there is no column {name!r}{hint}", column=name)


def _text_of(path: bytes) -> str:
    return path.decode("utf-8", "backslashreplace")


def _whole_beyond_floats(arrow: pa.Table) -> list[str]:
    """Return the columns of whole numbers that pandas would round to make room for NaN."""
    found = []
    for name, column in zip(arrow.column_names, arrow.columns, strict=True):
        if pa.types.is_int64(column.type) and column.null_count:
            ends = pc.min_max(column).as_py().values()
            if any(end is not None and abs(end) > _EXACT for end in ends):
                found.append(name)
    return found


def _readable(arrow: pa.Table) -> pa.Table:
    r"""Convert paths to text for export; bytes outside UTF-8 become \x escapes."""
    if "path" not in arrow.schema.names:
        return arrow
    paths = [_text_of(path) for path in arrow.column("path").to_pylist()]
    return arrow.set_column(
        arrow.schema.get_field_index("path"), "path", pa.array(paths, type=TEXT)
    )


def where(table: Table, name: str, wanted: Any) -> npt.NDArray[np.bool_]:
    """Return (n,) flags: rows whose value equals `wanted`, or is one of a list, tuple or set.

    None selects rows without a value.
    """
    several = isinstance(wanted, Iterable) and not isinstance(wanted, str | bytes)
    choices = [_plain(choice) for choice in (wanted if several else [wanted])]
    if table.is_text(name):
        choices = ["" if choice is None else choice for choice in choices]
    array = _comparable(table, name, choices, exact=True)
    if table.is_encoded(name):
        chosen = set(choices)
        return _per_row(array, [value in chosen for value in array.dictionary.to_pylist()])
    try:
        return flags_of(pc.is_in(array, value_set=pa.array(choices, type=array.type)))
    except (*_WRONG_TYPE, OverflowError):
        raise UsageError(
            f"{name} holds {_plain_type(array.type)}, not {_types_of(choices)}", column=name
        ) from None


def starting(table: Table, name: str, prefix: str) -> npt.NDArray[np.bool_]:
    """Return (n,) flags: rows of a plain column of text whose value begins with a prefix."""
    return flags_of(pc.starts_with(table.column(name), prefix))


def passing(table: Table, name: str, test: Callable[[Any], Any]) -> npt.NDArray[np.bool_]:
    """Return (n,) flags: rows whose value passes a test, which is called per distinct value."""
    array = table.column(name)
    if table.is_list(name):
        raise _is_of_lists(name)
    coded = array if table.is_encoded(name) else array.dictionary_encode(null_encoding="encode")
    return _per_row(coded, [bool(test(value)) for value in coded.dictionary.to_pylist()])


def between(table: Table, name: str, low: Any = None, high: Any = None) -> npt.NDArray[np.bool_]:
    """Return (n,) flags: rows whose value lies in [low, high]; False for absent values."""
    low, high = _plain(low), _plain(high)
    array = _comparable(
        table, name, [bound for bound in (low, high) if bound is not None], exact=False
    )
    if table.is_encoded(name):
        values = array.dictionary.to_pylist()
        inside = [
            v is not None and (low is None or v >= low) and (high is None or v <= high)
            for v in values
        ]
        return _per_row(array, inside)
    result = np.ones(len(array), dtype=np.bool_)
    for bound, is_low in ((low, True), (high, False)):
        if bound is not None:
            result &= _beside(array, bound, is_low=is_low)
    return result


def _beside(array: pa.Array, bound: Any, *, is_low: bool) -> npt.NDArray[np.bool_]:
    """Return (n,) flags: values of at least, or at most, a bound; False for absent values."""
    kind = array.type
    if pa.types.is_integer(kind):
        # Arrow compares integers with fractions only where float64 holds each of them.
        lowest, highest = ends_of(np.dtype(kind.to_pandas_dtype()))
        if not lowest <= bound <= highest:
            return flags_of(array.is_valid()) & np.bool_((bound < lowest) == is_low)
        bound = pa.scalar(math.ceil(bound) if is_low else math.floor(bound), kind)
    elif isinstance(bound, int) and pa.types.is_floating(kind):
        try:
            bound = float(bound)
        except OverflowError:
            bound = math.inf if bound > 0 else -math.inf
    return flags_of((pc.greater_equal if is_low else pc.less_equal)(array, bound))


def _plain(value: Any) -> Any:
    """Return a value of NumPy as one of Python."""
    return value.item() if isinstance(value, np.generic) else value


def _comparable(table: Table, name: str, choices: Sequence[Any], *, exact: bool) -> pa.Array:
    """Return the column after a check that it can be compared with the choices.

    Raises
    ------
    UsageError
        The column holds lists, or values of another type than the choices.
    """
    array = table.column(name)
    if table.is_list(name):
        raise _is_of_lists(name)
    kind = array.type.value_type if pa.types.is_dictionary(array.type) else array.type
    for choice in choices:
        is_number = isinstance(choice, int | float)
        fits = isinstance(choice, bool) if pa.types.is_boolean(kind) else is_number
        if table.is_text(name) or pa.types.is_large_binary(kind):
            fits = isinstance(choice, str if table.is_text(name) else bytes)
        # Equality only: Arrow would truncate a fraction to an integer. Bounds are rounded.
        lossless = (
            not (exact and pa.types.is_integer(kind))
            or not is_number
            or (abs(choice) < 2**63 and float(choice).is_integer())
        )
        if isinstance(choice, float) and math.isnan(choice):
            raise UsageError(f"{name} equals no NaN: None selects absent values", column=name)
        if isinstance(choice, str) and not _is_unicode(choice):
            raise UsageError(f"{name} holds text, and no lone surrogates", column=name)
        if choice is not None and not (fits and lossless):
            hint = ": convert it, with .astype(str) in pandas" if table.is_text(name) else ""
            raise UsageError(
                f"{name} holds {_plain_type(kind)}, not {_types_of([choice])}{hint}", column=name
            )
    return array


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _plain_type(kind: pa.DataType) -> str:
    """Return the type of a column in plain words."""
    if pa.types.is_boolean(kind):
        return "True or False"
    if pa.types.is_integer(kind):
        return "whole numbers"
    return "numbers" if pa.types.is_floating(kind) else "text"


def _types_of(values: Sequence[Any]) -> str:
    """Return the types of values, but no value: it may be a PatientID or a date."""
    return " or ".join(sorted({type(value).__name__ for value in values}))


def _is_of_lists(name: str) -> UsageError:
    return UsageError(
        f"{name} holds several numbers per row: select by another column", column=name
    )


def flags_of(array: pa.Array) -> npt.NDArray[np.bool_]:
    """Convert a boolean Arrow array to (n,) flags; null becomes False."""
    validity, bits = array.buffers()
    flags = _bits(bits, array)
    return flags & _bits(validity, array) if array.null_count else flags


def _bits(buffer: pa.Buffer, array: pa.Array) -> npt.NDArray[np.bool_]:
    """Return (n,) the bits of the rows of an array."""
    if not len(array):
        return np.empty(0, np.bool_)
    bits = np.unpackbits(np.frombuffer(buffer, np.uint8), bitorder="little")
    return bits[array.offset : array.offset + len(array)].astype(np.bool_)


class _Part(Table):
    """Rows of a table, whose columns are cut when they are asked for: all 150 take 1 ms."""

    def __init__(self, whole: Table, rows: slice) -> None:
        self._whole, self._rows = whole, rows
        self._blocks, self._columns = whole._blocks, whole._columns
        self._column_numbers, self.settled = whole._column_numbers, whole.settled
        self._arrays, self._verified = {}, {}

    def __len__(self) -> int:
        return len(range(*self._rows.indices(len(self._whole))))

    @cached_property
    def _arrow(self) -> pa.Table:
        return self._whole._arrow.slice(self._rows.start, len(self))

    def _array(self, name: str) -> pa.Array:
        if name not in self._arrays:
            self._arrays[name] = self._whole._array(name).slice(self._rows.start, len(self))
        return self._arrays[name]


def _view(array: pa.Array) -> npt.NDArray[Any]:
    """Return a read-only view of an Arrow array of numbers without nulls.

    `Array.to_numpy` would import pandas when it is installed: 0.25 s and 25 MB in every worker.
    """
    return np.from_dlpack(array)


def _indices(rows: npt.NDArray[Any]) -> pa.Array:
    """Return rows as an Arrow array."""
    return of_numbers(rows, pa.int64())


def _numbers(array: pa.Array) -> npt.NDArray[Any]:
    """Return the numbers of a plain Arrow array: floats with NaN for nulls, flags as booleans."""
    if pa.types.is_boolean(array.type):
        return flags_of(array)
    if not array.null_count:
        return _view(array)
    floats = array.cast(pa.float64())
    # pc.fill_null would import pandas when it is installed.
    validity, data = floats.buffers()
    numbers = np.frombuffer(data, np.float64)[floats.offset : floats.offset + len(floats)]
    return np.where(_bits(validity, floats), numbers, np.nan)


def _per_row(array: pa.Array, per_value: Sequence[bool]) -> npt.NDArray[np.bool_]:
    """Return (n,) flags per row of an encoded column from flags per distinct value."""
    if len(array) == 0:
        return np.zeros(0, dtype=np.bool_)
    return np.asarray(np.asarray(per_value, dtype=np.bool_)[_view(array.indices)])


def _with_variable_lists(arrow: pa.Table) -> pa.Table:
    """Convert lists of a fixed size to lists whose missing rows are empty.

    Parquet of pyarrow before 26 neither writes nor reads missing lists of a fixed size.
    """
    for number, field in enumerate(arrow.schema):
        if pa.types.is_fixed_size_list(field.type):
            column = arrow.column(number).combine_chunks()
            present = np.asarray(column.is_valid())
            offsets = np.append(0, np.cumsum(present * field.type.list_size)).astype(np.int32)
            lists = pa.ListArray.from_arrays(
                offsets, column.drop_null().flatten(), mask=pa.array(~present)
            )
            arrow = arrow.set_column(number, field.name, lists)
    return arrow
