"""Joined: the columns that `Index.join` took out of tables, by the rows of frames.

Every column lies in a memory-mapped table with one row per key, and every frame has the number of
its row there. A column of a patient and one of a frame are therefore read alike.
"""

from collections.abc import Callable, Iterable
from typing import Any, ClassVar, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from dicomdl.arrays import Ints, Mask
from dicomdl.errors import UsageError
from dicomdl.index._stored_joins import Pickled, StoredJoin, opened_join
from dicomdl.index.join_report import JoinReport
from dicomdl.index.table import Table, no_such_column
from dicomdl.printing import printable

# Levels of keys, the coarsest first.
LEVELS: Final = ("patient", "study", "series", "stack", "frame")


class Joined:
    """The joined columns of an index.

    Rows are those of the table `frames`, as `Index.row` and `Index.rows` return them.

    Attributes
    ----------
    names
        The names of the columns, in the order of the joins.
    """

    NONE: ClassVar["Joined"]

    def __init__(self, joins: Iterable[StoredJoin] = ()) -> None:
        self.joins = tuple(joins)
        self._join_of = {name: join for join in self.joins for name in join.table.names}
        self.names = tuple(self._join_of)

    def __contains__(self, name: object) -> bool:
        return name in self._join_of

    def __len__(self) -> int:
        return len(self.names)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Joined) and self._digests == other._digests

    def __hash__(self) -> int:
        return hash(self._digests)

    @property
    def _digests(self) -> frozenset[str]:
        return frozenset(join.name for join in self.joins)

    def __repr__(self) -> str:
        return printable(f"Joined({', '.join(self.names)})")

    def with_join(self, join: StoredJoin) -> "Joined":
        """Return these columns and those of one more join."""
        return Joined((*self.joins, join))

    def combined(self, other: "Joined") -> "Joined":
        """Return the columns of two selections, which are equal, or one of which has none.

        Raises
        ------
        UsageError
            The selections have different joins.
        """
        if self == other or not other.joins:
            return self
        if not self.joins:
            return other
        raise UsageError(
            "the selections have different joined columns: select both from one index, after its "
            "last join"
        )

    # --- facts of columns ---

    def join_of(self, name: str) -> StoredJoin:
        """Return the join that has a column.

        Raises
        ------
        UsageError
            There is no such joined column; the message lists the names.
        """
        if name not in self._join_of:
            if not self.names:
                raise UsageError(
                    f"there is no joined column {name!r}: this index has none, see Index.join. "
                    "Stacks, Series and groups carry none: pass the joined index or a part of it",
                    column=name,
                )
            error = no_such_column(name, self.names)
            raise UsageError(f"joined are {', '.join(self.names)}: {error}", column=name)
        return self._join_of[name]

    def table(self, name: str) -> Table:
        """Return the table of one row per key that has a column; its last row has no values."""
        return self.join_of(name).table

    def level(self, name: str) -> str:
        """Return the level of the keys: "patient", "study", "series", "stack" or "frame"."""
        return self.join_of(name).level

    def repeats_in_files(self, name: str) -> bool:
        """Return whether several frames of one file have one row: then its pixels are of no frame.

        A table of points of multi-frame files has a column of the frame, which is a key (see
        "frame_index" of `Index.join`); `name` is the column that is asked for.
        """
        return bool(self.join_of(name).facts["repeats_in_files"])

    def kind(self, name: str) -> str:
        """Return what a column holds.

        "integer", "real", "flag" and "text" are one value per key; "integers", "reals" and "texts"
        one list per key.
        """
        return kind_of(self.table(name).column(name).type)

    # --- values ---

    def keys(self, name: str, rows: Ints | None = None) -> npt.NDArray[np.int32]:
        """Return (len(rows),) int32 the row of each frame in `table`; -1 where nothing matched."""
        of_frame = self.join_of(name).row_of_frame
        return of_frame if rows is None else of_frame[rows]

    def values(self, name: str, rows: Ints) -> tuple[npt.NDArray[Any], Mask]:
        """Return numbers of frames, and which of them are known.

        Returns
        -------
        values : numpy.ndarray
            (len(rows),) int64, or float64 of a column of reals; 0 or NaN where unknown.
        is_known : numpy.ndarray
            (len(rows),) bool.

        Raises
        ------
        UsageError
            The column holds text or lists, or does not exist.
        """
        kind = self._require(name, "values", "integer", "real", "flag")
        # The keys are fewer than the frames, except where every frame has its own.
        taken = self.table(name).column(name).take(_not_negative(self.keys(name, rows), self, name))
        is_known = _as_flags(taken.is_valid())
        if kind == "flag":
            taken = taken.cast(pa.int8())
        number = pa.float64() if kind == "real" else pa.int64()
        filler = np.nan if kind == "real" else 0
        held = np.from_dlpack(pc.fill_null(taken.cast(number), filler))
        return held, is_known & ~np.isnan(held)

    def codes(self, name: str, rows: Ints) -> tuple[npt.NDArray[np.int32], tuple[Any, ...]]:
        """Return the classes of frames, of a column of text, integers or flags.

        The classes are those of the complete column, so that all parts of an index have the same.

        Returns
        -------
        codes : numpy.ndarray
            (len(rows),) int32, the number of the class; -1 where unknown.
        classes : tuple
            The distinct values, sorted.

        Raises
        ------
        UsageError
            The column holds reals or lists, or does not exist.
        """
        self._require(name, "codes", "text", "integer", "flag")
        coded, values = self.table(name).codes(name)
        known = sorted(value for value in values if value not in (None, ""))
        number_of = {value: number for number, value in enumerate(known)}
        numbers = np.array([number_of.get(value, -1) for value in values], dtype=np.int32)
        # One row of a million keys must not cost a million look-ups.
        return numbers[coded[self.keys(name, rows)]], tuple(known)

    def classes(self, name: str) -> tuple[Any, ...]:
        """Return the distinct values of a complete column, also within its lists, sorted.

        Raises
        ------
        UsageError
            The column does not exist.
        """
        array = self.table(name).column(name)
        if pa.types.is_list(array.type) or pa.types.is_large_list(array.type):
            array = array.flatten()
        if pa.types.is_dictionary(array.type):
            array = array.dictionary_decode()
        return tuple(sorted(v for v in pc.unique(array).to_pylist() if v not in (None, "")))

    def lists(self, name: str, rows: Ints) -> list[Any]:
        """Return the lists of frames, of a column of many rows per key.

        Returns
        -------
        list
            One item per row: a numpy array of int64 or float64, or a list of text. It is empty
            where the key has no values, or nothing matched.

        Raises
        ------
        UsageError
            The column holds one value per key, or does not exist.
        """
        kind = self._require(name, "lists", "integers", "reals", "texts")
        array = self.table(name).column(name)
        taken = array.take(_not_negative(self.keys(name, rows), self, name))
        if kind == "texts":
            return [value or [] for value in taken.to_pylist()]
        dtype = np.float64 if kind == "reals" else np.int64
        return [np.array(value or [], dtype=dtype) for value in taken.to_pylist()]

    def cell(self, name: str) -> Callable[[int], Any]:
        """Return a reader of one column, frame row -> value; lists as tuples, None for unknown."""
        table, of_frame = self.table(name), self.keys(name)
        last = len(table) - 1
        return lambda row: table.value(name, int(of_frame[row]) if of_frame[row] >= 0 else last)

    def column(self, name: str, rows: Ints) -> Any:
        """Return the Arrow array of one column for some rows, for an export."""
        return self.table(name).column(name).take(_not_negative(self.keys(name, rows), self, name))

    def _require(self, name: str, method: str, *kinds: str) -> str:
        """Return the kind of a column; raise UsageError unless it is one of `kinds`."""
        if (kind := self.kind(name)) not in kinds:
            raise UsageError(
                f"{name} holds {_WORDS[kind]}: {method} takes columns of {' or '.join(kinds)}",
                column=name,
                kind=kind,
            )
        return kind

    @property
    def reports(self) -> tuple[JoinReport, ...]:
        """The report of each join."""
        return tuple(JoinReport.from_dict(join.facts["report"]) for join in self.joins)

    # --- pickling ---

    def pickled(self) -> tuple[Pickled, ...]:
        """Return what `opened` takes in another process."""
        return tuple(join.pickled() for join in self.joins)

    @classmethod
    def opened(cls, pickled: tuple[Pickled, ...]) -> "Joined":
        """Return the columns that `pickled` names."""
        return cls(map(opened_join, pickled)) if pickled else cls.NONE


Joined.NONE = Joined()
_WORDS: Final = {
    **{"integer": "whole numbers", "real": "numbers", "flag": "flags", "text": "text"},
    **{"integers": "lists of whole numbers", "reals": "lists of numbers", "texts": "lists of text"},
}


def kind_of(held: pa.DataType) -> str:
    """Return the word of `Joined.kind` for the type of a column."""
    is_list = pa.types.is_list(held)
    item = held.value_type if is_list else held
    if pa.types.is_integer(item):
        word = "integer"
    elif pa.types.is_floating(item):
        word = "real"
    else:
        word = "flag" if pa.types.is_boolean(item) else "text"
    return word + "s" if is_list else word


def _not_negative(keys: npt.NDArray[np.int32], joined: Joined, name: str) -> pa.Array:
    """Return rows of a table with -1 replaced by its last row, since Arrow counts from 0 only."""
    return pa.array(np.where(keys < 0, len(joined.table(name)) - 1, keys))


def _as_flags(array: pa.Array) -> Mask:
    return np.from_dlpack(array.cast(pa.int8())).astype(np.bool_)
