"""Candidate attributes that may distinguish frames at one position, with comparable values.

`SPECS` lists the attributes by meaning; `_dimensions` finds the one that distinguishes the frames.
Times are compared together with their dates and shown in seconds from the first volume, so that no
date of a patient leaves the index.
"""

import math
import re
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from dicomdl.arrays import Floats, Ints
from dicomdl.geometry._dimensions import Candidate, Dimension, Tier, members
from dicomdl.geometry._facts import Facts
from dicomdl.geometry._grouping import combined_codes
from dicomdl.geometry._specs import LISTS, SPECS, VECTORS, Spec
from dicomdl.geometry._times import (
    past_midnight,
    seconds_of_date,
    seconds_of_date_time,
    seconds_of_time,
)
from dicomdl.lazy import cached_property

DIMENSION_INDICES: Final = "dimension_index_values"
# Three or four dimension indices are usual; each is a candidate.
_MOST_INDICES: Final = 12


class Candidates:
    """Candidate attributes for any subset of the rows of a table.

    Columns that hold one value in all rows are never examined.
    """

    def __init__(self, facts: Facts) -> None:
        self._facts = facts
        self._converted_columns: dict[str, Floats] = {}
        self._converted_lists: dict[str, Ints] = {}
        self._converted_together: dict[tuple[str, ...], Ints] = {}
        columns = [(spec, [c for c in spec.columns if c not in facts.constants]) for spec in SPECS]
        self._specs = [(spec, varying) for spec, varying in columns if varying]

    @cached_property
    def _plain(self) -> dict[str, int]:
        """Column number in `_ranks` for each column of single values."""
        names = [
            c
            for spec, columns in self._specs
            if spec.kind != "time"
            for c in columns
            if c not in LISTS | VECTORS
        ]
        return {name: number for number, name in enumerate(names)}

    @cached_property
    def _ranks(self) -> npt.NDArray[np.int32]:
        """Ranks of all single-valued columns, (n, columns): one gather for the rows of a group."""
        result = np.empty((len(self._facts), len(self._plain)), dtype=np.int32)
        noisy = {column for spec, columns in self._specs if spec.noisy for column in columns}
        for name, number in self._plain.items():
            result[:, number] = (
                _ranked(_five_digits(self._facts.numbers(name)))
                if name in noisy
                else self._facts.ranks(name)
            )
        return result

    def _seconds(self, spec: Spec, rows: Ints) -> Floats | None:
        """Return times in seconds, or None where any row has no time.

        The date counts if all rows have one; without dates, the times are checked for a midnight
        between them.
        """
        *date_times, date, time = spec.columns if len(spec.columns) > 1 else (*spec.columns, "", "")
        for column in date_times:
            seconds = self._converted(column)[rows]
            if not np.isnan(seconds).any():
                return seconds
        if not time:
            return None
        seconds, days = self._converted(time)[rows], self._converted(date)[rows]
        if np.isnan(seconds).any():
            return None
        # A date that is the same for all rows may be a default, or the date of the first frame.
        if np.isnan(days).any() or (days == days[0]).all():
            return past_midnight(seconds)
        return seconds + days

    def _numbers_of(self, column: str) -> Floats:
        """Return a numeric column as (n,) floats, NaN where absent.

        The column is converted once, not once per group.
        """
        if column not in self._converted_columns:
            self._converted_columns[column] = self._facts.numbers(column).astype(np.float64)
        return self._converted_columns[column]

    def _converted(self, column: str) -> Floats:
        """Return a column of dates or times as (n,) seconds, NaN where absent.

        Each distinct text is converted once.
        """
        if column not in self._converted_columns:
            convert = (
                seconds_of_date_time
                if column.endswith("date_time")
                else seconds_of_date
                if "date" in column
                else seconds_of_time
            )
            codes, values = self._facts.codes(column)
            self._converted_columns[column] = np.asarray(
                np.array([convert(value) for value in values] or [math.nan])[codes]
            )
        return self._converted_columns[column]

    def of(self, rows: Ints) -> list[Candidate]:
        """Return the attributes that vary among `rows`; `codes` follow the order of `rows`."""
        ranks = self._ranks[rows]
        varying = (ranks != ranks[0]).any(axis=0)
        candidates = []
        for spec, columns in self._specs:
            numbers = self._numbers(spec, columns[0], rows)
            codes = _ranked(numbers) if numbers is not None else None
            if spec.kind == "value":
                codes = self._codes(spec, columns, rows, ranks, varying)
            if codes is None or (codes == codes[0]).all():
                continue
            candidates.append(
                Candidate(
                    spec.name,
                    spec.tier,
                    spec.kind,
                    codes if spec.ordered else self._as_acquired(rows, codes),
                    spec.slow,
                    numbers,
                )
            )
        return candidates + self._dimension_indices(rows)

    def _numbers(self, spec: Spec, column: str, rows: Ints) -> Floats | None:
        """Return the values of a phase, time or count, or None where any row has none.

        An absent value has no order.
        """
        if spec.kind == "value":
            return None
        numbers = (
            self._seconds(spec, rows) if spec.kind == "time" else self._numbers_of(column)[rows]
        )
        return None if numbers is None or np.isnan(numbers).any() else numbers

    def varying(self, rows: Ints, names: tuple[str, ...]) -> list[str]:
        """Return the names of columns whose values differ among `rows`."""
        codes = self._together(names)[rows]
        if (codes == codes[0]).all():
            return []
        found = []
        for name in names:
            ranks = self._ranks_of(name)
            if ranks is not None and (ranks[rows] != ranks[rows[0]]).any():
                found.append(name)
        return found

    def _together(self, names: tuple[str, ...]) -> Ints:
        """Return (n,) integers that are equal where all these columns are, converted once."""
        if names not in self._converted_together:
            every = [ranks for ranks in map(self._ranks_of, names) if ranks is not None]
            together = combined_codes(every) if every else np.zeros(len(self._facts), np.int64)
            self._converted_together[names] = together
        return self._converted_together[names]

    def _ranks_of(self, column: str) -> npt.NDArray[Any] | None:
        """Return a column as (n,) integers that are equal where its values are.

        The result is None for a column that is constant or holds times.
        """
        if column in self._plain:
            return self._ranks[:, self._plain[column]]
        if column not in LISTS | VECTORS or column in self._facts.constants:
            return None
        if column not in self._converted_lists:
            number_of: dict[Any, int] = {}
            values = self._facts.values(column, np.arange(len(self._facts)))
            self._converted_lists[column] = np.array(
                [number_of.setdefault(value, len(number_of)) for value in values], dtype=np.int64
            )
        return self._converted_lists[column]

    def _as_acquired(self, rows: Ints, codes: Ints) -> Ints:
        """Renumber codes in the order in which their values were first acquired.

        The order is by acquisition time, instance number and frame number. It serves values without
        an order of their own, such as directions.
        """
        times = self._seconds(next(spec for spec in SPECS if spec.name == "acquisition_time"), rows)
        keys = [
            codes,
            self._numbers_of("frame_number")[rows],
            self._numbers_of("instance_number")[rows],
        ]
        order = np.lexsort(keys if times is None else [*keys, times])
        distinct, first = np.unique(codes[order], return_index=True)
        rank = np.empty(len(distinct), dtype=np.int64)
        rank[np.argsort(first)] = np.arange(len(distinct))
        return rank[np.searchsorted(distinct, codes)]

    def _codes(
        self,
        spec: Spec,
        columns: Sequence[str],
        rows: Ints,
        ranks: npt.NDArray[np.int32],
        varying: npt.NDArray[np.bool_],
    ) -> Ints | None:
        """Return codes of a spec's values, or None if none of its columns varies.

        The value of a row is that of `_first_known`.
        """
        if len(spec.columns) == 1 and columns[0] in self._plain:
            number = self._plain[columns[0]]
            if not varying[number]:
                return None
            if spec.natural:
                return _naturally_ranked(self._facts.values(columns[0], rows))
            return ranks[:, number].astype(np.int64)
        if not any(varying[self._plain[c]] if c in self._plain else True for c in columns):
            return None
        return _ranked_objects(self.known(spec, rows))

    def known(self, spec: Spec, rows: Ints) -> list[Any]:
        """Return the value of a spec per row, from the first of its columns that has one."""
        return [
            _first_known(spec.columns, values)
            for values in zip(*(self._facts.values(c, rows) for c in spec.columns), strict=True)
        ]

    def _dimension_indices(self, rows: Ints) -> list[Candidate]:
        """Return one candidate per dimension index of an enhanced object (PS3.3 C.7.6.17).

        The list is empty unless all frames have equally many indices.
        """
        if DIMENSION_INDICES in self._facts.constants:
            return []
        values = self._facts.values(DIMENSION_INDICES, rows)
        if None in values or len({len(value) for value in values}) != 1:
            return []
        columns = np.array(values, dtype=np.float64).reshape(len(rows), -1).T[:_MOST_INDICES]
        return [
            Candidate(f"{DIMENSION_INDICES}[{number}]", Tier.BOOKKEEPING, "value", _ranked(column))
            for number, column in enumerate(columns)
            if (column != column[0]).any()
        ]

    def shown(self, dimension: Dimension, rows: Ints) -> list[dict[str, Any]]:
        """Return {attribute: value} per volume of a dimension of `rows`, with values for JSON."""
        result: list[dict[str, Any]] = [{} for _ in range(dimension.count)]
        frames = members(dimension.labels)
        # One table access per attribute, not one per volume.
        for candidate in dimension.candidates:
            for label, value in enumerate(self._shown(candidate, rows, frames)):
                result[label][candidate.name] = value
        return result

    def _shown(self, candidate: Candidate, rows: Ints, frames: Sequence[Ints]) -> list[Any]:
        """Return the value of one attribute per volume; `frames` are the rows of each volume."""
        firsts = rows[[volume[0] for volume in frames]]
        if candidate.name.startswith(DIMENSION_INDICES):
            number = int(candidate.name.removeprefix(DIMENSION_INDICES).strip("[]"))
            return [
                int(indices[number]) for indices in self._facts.values(DIMENSION_INDICES, firsts)
            ]
        spec = next(spec for spec in SPECS if spec.name == candidate.name)
        if candidate.kind == "time":
            seconds = self._seconds(spec, rows)
            # A time that some row lacks is not a candidate.
            assert seconds is not None
            earliest = seconds.min()
            return [round(float(seconds[volume].min() - earliest), 3) for volume in frames]
        numbers = self._numbers_of(spec.columns[0])[rows] if candidate.kind != "value" else rows
        # The median represents a phase that jitters.
        if candidate.kind == "phase":
            return [float(np.median(numbers[volume])) for volume in frames]
        if candidate.kind == "count":
            return [int(numbers[volume].min()) for volume in frames]
        return [
            list(value) if isinstance(value, tuple) else value for value in self.known(spec, firsts)
        ]


def _first_known(columns: Sequence[str], values: Sequence[Any]) -> Any:
    """Return the value of the first column that has one, None if none has.

    A direction in x, y and z columns is one tuple; a list of one value becomes that value.
    """
    for number, (column, value) in enumerate(zip(columns, values, strict=True)):
        if value is None or value == "":
            continue
        if column.endswith("_direction_x"):
            return tuple(values[number : number + 3])
        # GE writes 1,000,000,000 + b if a series holds several b-values.
        if column == "ge_b_value":
            return float(value[0] % 100_000)
        return value[0] if isinstance(value, tuple) and len(value) == 1 else value
    return None


def _five_digits(values: Floats) -> Floats:
    """Round numbers to five significant digits."""
    with np.errstate(divide="ignore", invalid="ignore"):
        scale = 10.0 ** (4 - np.floor(np.log10(np.abs(values))))
        return np.where(np.isfinite(scale), np.round(values * scale) / scale, values)


def _ranked(values: Floats) -> Ints:
    """Return the rank of each number among the distinct numbers."""
    return np.unique(values, return_inverse=True)[1].reshape(-1).astype(np.int64)


def _ranked_objects(values: Sequence[Any]) -> Ints:
    """Return ranks of numbers or tuples of numbers; None comes first."""
    known = sorted(
        set(values) - {None}, key=lambda value: value if isinstance(value, tuple) else (value,)
    )
    order = {value: rank for rank, value in enumerate(known)}
    return np.array([order.get(value, -1) for value in values], dtype=np.int64)


def _as_number(digits: str) -> tuple[int, str]:
    """Return a key that sorts as the number does; `int` refuses more than 4300 digits."""
    significant = digits.lstrip("0")
    return len(significant), significant


def _naturally_ranked(texts: Sequence[str]) -> Ints:
    """Return ranks of texts by their words and by the value of the numbers between them."""
    known = sorted(
        set(texts),
        key=lambda text: (
            [_as_number(part) if part.isdecimal() else part for part in re.split(r"(\d+)", text)],
            text,
        ),
    )
    order = {text: rank for rank, text in enumerate(known)}
    return np.array([order[text] for text in texts], dtype=np.int64)
