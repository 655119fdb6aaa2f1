"""Which facts may tell frames at one position apart, and how their values are compared and shown.

The table `SPECS` lists them by meaning; `dimensions` finds the one that does. Times are compared
with their dates and shown in seconds from the first volume, so that no date of a patient leaves the
index.
"""

import functools
import math
import re
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from dicomdl.arrays import Floats, Ints
from dicomdl.geometry._dimensions import Candidate, Dimension, Tier, members
from dicomdl.geometry._facts import Facts
from dicomdl.geometry._specs import LISTS, SPECS, VECTORS, Spec
from dicomdl.geometry._times import (
    past_midnight,
    seconds_of_date,
    seconds_of_date_time,
    seconds_of_time,
)

DIMENSION_INDICES: Final = "dimension_index_values"
_MOST_INDICES: Final = 12  # three or four are usual; each is a candidate


class Candidates:
    """The candidates of any rows of a table.

    Columns that hold one value throughout are never looked at.
    """

    def __init__(self, facts: Facts) -> None:
        self._facts = facts
        self._converted_columns: dict[str, Floats] = {}
        columns = [(spec, [c for c in spec.columns if c not in facts.constants]) for spec in SPECS]
        self._specs = [(spec, varying) for spec, varying in columns if varying]

    @functools.cached_property
    def _plain(self) -> dict[str, int]:
        """Where each column of single values is in `_ranks`."""
        names = [
            c
            for spec, columns in self._specs
            if spec.kind != "time"
            for c in columns
            if c not in LISTS | VECTORS
        ]
        return {name: place for place, name in enumerate(names)}

    @functools.cached_property
    def _ranks(self) -> npt.NDArray[np.int32]:
        """(n, columns): one gather for all columns of a group's rows."""
        result = np.empty((len(self._facts), len(self._plain)), dtype=np.int32)
        noisy = {column for spec, columns in self._specs if spec.noisy for column in columns}
        for name, place in self._plain.items():
            result[:, place] = (
                _ranked(_five_digits(self._facts.numbers(name)))
                if name in noisy
                else self._facts.ranks(name)
            )
        return result

    def _seconds(self, spec: Spec, rows: Ints) -> Floats | None:
        """Times in seconds; None where some have none. A date counts where all have one.

        Else midnight is looked for.
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
        # one date for all may have been put there, or be that of the first frame
        if np.isnan(days).any() or (days == days[0]).all():
            return past_midnight(seconds)
        return seconds + days

    def _numbers_of(self, column: str) -> Floats:
        """(n,) a column of numbers, NaN where absent; converted once, not for each group."""
        if column not in self._converted_columns:
            self._converted_columns[column] = self._facts.numbers(column).astype(np.float64)
        return self._converted_columns[column]

    def _converted(self, column: str) -> Floats:
        """(n,) a column of dates or times in seconds, NaN where absent.

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
        """What varies among some frames; `codes` follow the order of `rows`."""
        ranks = self._ranks[rows]
        varying = (ranks != ranks[0]).any(axis=0)
        found = []
        for spec, columns in self._specs:
            numbers = self._numbers(spec, columns[0], rows)
            codes = _ranked(numbers) if numbers is not None else None
            if spec.kind == "value":
                codes = self._codes(spec, columns, rows, ranks, varying)
            if codes is None or (codes == codes[0]).all():
                continue
            found.append(
                Candidate(
                    spec.name,
                    spec.tier,
                    spec.kind,
                    codes if spec.ordered else self._as_acquired(rows, codes),
                    spec.slow,
                    numbers,
                )
            )
        return found + self._dimension_indices(rows)

    def _numbers(self, spec: Spec, column: str, rows: Ints) -> Floats | None:
        """The values of a phase, a time or a count; None where some have none.

        What is absent has no order.
        """
        if spec.kind == "value":
            return None
        numbers = (
            self._seconds(spec, rows) if spec.kind == "time" else self._numbers_of(column)[rows]
        )
        return None if numbers is None or np.isnan(numbers).any() else numbers

    def varying(self, rows: Ints, names: Sequence[str]) -> list[str]:
        """Which of some columns of single values differ among rows."""
        wanted = [name for name in names if name in self._plain]
        if not wanted:
            return []
        ranks = self._ranks[rows[:, None], [self._plain[name] for name in wanted]]
        return [
            name
            for name, differs in zip(wanted, (ranks != ranks[0]).any(axis=0).tolist(), strict=True)
            if differs
        ]

    def _as_acquired(self, rows: Ints, codes: Ints) -> Ints:
        """Codes in the order in which their values first come by acquisition time, instance and frame number: directions have none."""
        times = self._seconds(next(spec for spec in SPECS if spec.name == "acquisition_time"), rows)
        keys = [
            codes,
            self._numbers_of("frame_number")[rows],
            self._numbers_of("instance_number")[rows],
        ]
        order = np.lexsort(keys if times is None else [*keys, times])
        distinct, first = np.unique(codes[order], return_index=True)
        place = np.empty(len(distinct), dtype=np.int64)
        place[np.argsort(first)] = np.arange(len(distinct))
        return place[np.searchsorted(distinct, codes)]

    def _codes(
        self,
        spec: Spec,
        columns: Sequence[str],
        rows: Ints,
        ranks: npt.NDArray[np.int32],
        varying: npt.NDArray[np.bool_],
    ) -> Ints | None:
        """Codes of the values as `_first_known` sees them in the columns of a spec.

        None where none varies.
        """
        if len(spec.columns) == 1 and columns[0] in self._plain:
            place = self._plain[columns[0]]
            if not varying[place]:
                return None
            if spec.natural:
                return _naturally_ranked(self._facts.values(columns[0], rows))
            return ranks[:, place].astype(np.int64)
        if not any(varying[self._plain[c]] if c in self._plain else True for c in columns):
            return None
        return _ranked_objects(self._known(spec, rows))

    def _known(self, spec: Spec, rows: Ints) -> list[Any]:
        """The value of a spec in each row, from the first of its columns that has one."""
        return [
            _first_known(spec.columns, values)
            for values in zip(*(self._facts.values(c, rows) for c in spec.columns), strict=True)
        ]

    def _dimension_indices(self, rows: Ints) -> list[Candidate]:
        """Each of the dimension indices of an enhanced object, where all frames have equally many (PS3.3 C.7.6.17)."""
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
        """For each volume of a dimension of `rows` the value of each of its attributes, as JSON has them."""
        result: list[dict[str, Any]] = [{} for _ in range(dimension.count)]
        frames = members(dimension.labels)
        # one look at the table for each, not one for each volume
        for candidate in dimension.candidates:
            for label, value in enumerate(self._shown(candidate, rows, frames)):
                result[label][candidate.name] = value
        return result

    def _shown(self, candidate: Candidate, rows: Ints, frames: Sequence[Ints]) -> list[Any]:
        firsts = rows[[one[0] for one in frames]]
        if candidate.name.startswith(DIMENSION_INDICES):
            number = int(candidate.name.removeprefix(DIMENSION_INDICES).strip("[]"))
            return [
                int(indices[number]) for indices in self._facts.values(DIMENSION_INDICES, firsts)
            ]
        spec = next(spec for spec in SPECS if spec.name == candidate.name)
        if candidate.kind == "time":
            seconds = self._seconds(spec, rows)
            assert seconds is not None  # or it would be no candidate
            earliest = seconds.min()
            return [round(float(seconds[one].min() - earliest), 3) for one in frames]
        numbers = self._numbers_of(spec.columns[0])[rows] if candidate.kind != "value" else rows
        if candidate.kind == "phase":  # those that jitter are told by their middle
            return [float(np.median(numbers[one])) for one in frames]
        if candidate.kind == "count":
            return [int(numbers[one].min()) for one in frames]
        return [
            list(value) if isinstance(value, tuple) else value
            for value in self._known(spec, firsts)
        ]


def _first_known(columns: Sequence[str], values: Sequence[Any]) -> Any:
    """The value of the first column that has one.

    A direction told by x, y and z is one value, a list of one value is that.
    """
    for place, (column, value) in enumerate(zip(columns, values, strict=True)):
        if value is None or value == "":
            continue
        if column.endswith("_direction_x"):
            return tuple(values[place : place + 3])
        if column == "ge_b_value":  # 1,000,000,000 + b where several are in one series
            return float(value[0] % 100_000)
        return value[0] if isinstance(value, tuple) and len(value) == 1 else value
    return None


def _five_digits(values: Floats) -> Floats:
    """Numbers rounded to five significant digits."""
    with np.errstate(divide="ignore", invalid="ignore"):
        scale = 10.0 ** (4 - np.floor(np.log10(np.abs(values))))
        return np.where(np.isfinite(scale), np.round(values * scale) / scale, values)


def _ranked(values: Floats) -> Ints:
    return np.unique(values, return_inverse=True)[1].reshape(-1).astype(np.int64)


def _ranked_objects(values: Sequence[Any]) -> Ints:
    """Ranks of numbers and tuples of numbers; None comes first."""
    known = sorted(
        set(values) - {None}, key=lambda value: value if isinstance(value, tuple) else (value,)
    )
    order = {value: rank for rank, value in enumerate(known)}
    return np.array([order.get(value, -1) for value in values], dtype=np.int64)


def _naturally_ranked(texts: Sequence[str]) -> Ints:
    """Ranks of texts by their words and by the value of the numbers between them."""
    known = sorted(
        set(texts),
        key=lambda text: (
            [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", text)],
            text,
        ),
    )
    order = {text: rank for rank, text in enumerate(known)}
    return np.array([order[text] for text in texts], dtype=np.int64)
