"""Which facts may tell frames at one position apart, and how their values are compared and shown.

The table `SPECS` lists them by meaning; `dimensions` finds the one that does. Vendors' private copies of a public
attribute go by its name. Times are compared with their dates and shown in seconds from the first volume, so that no
date of a patient leaves the index.
"""

import datetime
import functools
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt

from dicomdl.arrays import Floats, Ints
from dicomdl.geometry.dimensions import Candidate, Dimension, Kind, Tier, members


class Facts(Protocol):
    """The frames' columns as the building of stacks needs them; row i is the same frame in all of them."""

    def __len__(self) -> int: ...

    @property
    def constants(self) -> dict[str, Any]:
        """The columns that are known to hold one value in every row, and that value."""

    def ranks(self, name: str) -> Ints:
        """(n,) integers that order and equal each other as the column's values do."""

    def numbers(self, name: str) -> Floats:
        """(n,) floats, NaN where absent."""

    def vectors(self, name: str, size: int) -> Floats:
        """(n, size) floats, NaN where absent."""

    def text(self, name: str, row: int) -> str:
        """One value of a text column."""

    def codes(self, name: str) -> tuple[npt.NDArray[Any], list[Any]]:
        """(codes, values) of a column: row i holds values[codes[i]]."""

    def values(self, name: str, rows: Ints) -> list[Any]:
        """Some values of a column as Python objects; lists as tuples, None where absent."""


@dataclass(frozen=True, slots=True)
class Spec:
    """One attribute of a dimension: its name, the columns that hold it, and what its order may prove."""

    name: str
    columns: tuple[str, ...]
    kind: Kind = "value"
    tier: Tier = Tier.MEANING
    slow: bool = False
    ordered: bool = True  # else its values follow one another as they were first acquired
    natural: bool = False  # text with numbers in it, which order it: "b500" before "b1000"
    noisy: bool = False  # compared to five digits: scanners compute it anew for each slice


def _same(*names: str, **more: Any) -> list[Spec]:
    """Specs of attributes that are a column each."""
    return [Spec(name, (name,), **more) for name in names]


# In the order of preference where several attributes tell the same; the order too in which they vary, slowest first.
SPECS: Final[tuple[Spec, ...]] = (
    *_same(
        "temporal_position_index",
        "temporal_position_identifier",
        "temporal_position_time_offset",
        "frame_reference_time",
        slow=True,
    ),
    *_same(
        "time_slot_vector", "time_slice_vector", "rr_interval_vector", "phase_vector", slow=True
    ),
    *_same("philips_phase_number", slow=True),
    *_same(
        "nominal_percentage_of_cardiac_phase",
        "nominal_cardiac_trigger_delay_time",
        kind="phase",
        slow=True,
    ),
    *_same("actual_cardiac_trigger_delay_time", "trigger_time", kind="phase", slow=True),
    *_same(
        "nominal_percentage_of_respiratory_phase",
        "nominal_respiratory_trigger_delay_time",
        kind="phase",
        slow=True,
    ),
    Spec(
        "diffusion_b_value",
        ("diffusion_b_value", "siemens_b_value", "ge_b_value", "philips_b_value", "uih_b_value"),
    ),
    Spec(
        "diffusion_gradient_orientation",
        (
            *(
                "diffusion_gradient_orientation",
                "siemens_diffusion_direction",
                "uih_diffusion_direction",
            ),
            *(
                f"{vendor}_diffusion_direction_{axis}"
                for vendor in ("ge", "philips")
                for axis in "xyz"
            ),
        ),
        ordered=False,
    ),
    *_same("philips_gradient_direction_number", "velocity_encoding_maximum_value"),
    *_same("velocity_encoding_direction", ordered=False),
    *_same("echo_time", "effective_echo_time", noisy=True),
    *_same("echo_numbers", "inversion_times"),
    *_same("inversion_time", "flip_angle", noisy=True),
    *_same("repetition_time", ordered=False, noisy=True),
    *_same(
        "complex_image_component",
        "ge_raw_data_type",
        "philips_label_type",
        "image_type",
        "frame_type",
    ),
    *_same("siemens_coil", "sequence_name", natural=True),
    *_same("energy_window_vector", "detector_vector", "rotation_vector"),
    *_same("kvp", "monoenergetic_energy_equivalent", "slice_thickness", noisy=True),
    *_same("convolution_kernel", "reconstruction_algorithm"),
    *_same("reconstruction_diameter", ordered=False, noisy=True),
    *_same("acquisition_number", "frame_acquisition_number", tier=Tier.BOOKKEEPING, slow=True),
    *_same("stack_id", tier=Tier.BOOKKEEPING, natural=True),
    *_same("rescale_slope", "rescale_intercept", tier=Tier.BOOKKEEPING, ordered=False),
    # A date and time in one, then the date, then the time.
    Spec(
        "acquisition_time",
        ("acquisition_date_time", "acquisition_date", "acquisition_time"),
        "time",
        Tier.ACQUISITION_TIME,
        slow=True,
    ),
    Spec(
        "frame_acquisition_time",
        ("frame_acquisition_date_time",),
        "time",
        Tier.ACQUISITION_TIME,
        slow=True,
    ),
    Spec(
        "frame_reference_date_time",
        ("frame_reference_date_time",),
        "time",
        Tier.ACQUISITION_TIME,
        slow=True,
    ),
    Spec("content_time", ("content_date", "content_time"), "time", Tier.CONTENT_TIME, slow=True),
    *_same("image_index", "instance_number", kind="count", tier=Tier.NUMBER, slow=True),
    *_same("lossy_image_compression", tier=Tier.NUMBER),
)
DIMENSION_INDICES: Final = "dimension_index_values"
_MOST_INDICES: Final = 12  # three or four are usual; each is a candidate
# Columns whose values are lists of any length, which Arrow does not order; they are compared as tuples.
_LISTS: Final = frozenset({"ge_b_value", "echo_numbers", "inversion_times"})
_VECTORS: Final = frozenset(
    {
        "diffusion_gradient_orientation",
        "siemens_diffusion_direction",
        "uih_diffusion_direction",
        "velocity_encoding_direction",
    }
)


class Candidates:
    """The candidates of any rows of a table; columns that hold one value throughout are never looked at."""

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
            if c not in _LISTS | _VECTORS
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
        """Times in seconds; None where some have none. A date counts where all have one; else midnight is looked for."""
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
        if (
            np.isnan(days).any() or (days == days[0]).all()
        ):  # one date for all may have been put there, or be that of the first frame
            return _past_midnight(seconds)
        return seconds + days

    def _numbers_of(self, column: str) -> Floats:
        """(n,) a column of numbers, NaN where absent; converted once, not for each group."""
        if column not in self._converted_columns:
            self._converted_columns[column] = self._facts.numbers(column).astype(np.float64)
        return self._converted_columns[column]

    def _converted(self, column: str) -> Floats:
        """(n,) a column of dates or times in seconds, NaN where absent; each distinct text is converted once."""
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
        """The values of a phase, a time or a count; None where some have none: what is absent has no order."""
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
        """Codes of the values as `_first_known` sees them in the columns of a spec; None where none varies."""
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
        for (
            candidate
        ) in dimension.candidates:  # one look at the table for each, not one for each volume
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
    """The value of the first column that has one; a direction told by x, y and z is one value, a list of one value is that."""
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


# --- times (PS3.5 6.2) ------------------------------------------------------------------------------------------------


def _past_midnight(seconds: Floats) -> Floats | None:
    """Times of day that may begin on one day and end on the next; None where they spread so far that either may be."""
    distinct = np.unique(seconds)
    if distinct[-1] - distinct[0] <= 43200:
        return seconds
    place = int(np.argmax(np.diff(distinct)))
    if distinct[place + 1] - distinct[place] <= 43200:
        return None
    return np.where(seconds > distinct[place], seconds - 86400, seconds)


def seconds_of_time(text: str) -> float:
    """A TM, HHMMSS.FFFFFF or a beginning of it, as seconds of the day; NaN where it is none."""
    digits = (text or "").replace(":", "")
    whole, _, fraction = digits.partition(".")
    if not (
        whole.isdecimal() and len(whole) in (2, 4, 6) and (not fraction or fraction.isdecimal())
    ):
        return math.nan
    hours, minutes, seconds = (int(whole[i : i + 2] or 0) for i in (0, 2, 4))
    return hours * 3600 + minutes * 60 + seconds + (float(f"0.{fraction}") if fraction else 0.0)


def seconds_of_date(text: str) -> float:
    """A DA, YYYYMMDD, as seconds of the calendar; NaN where it is none."""
    digits = (text or "").replace(".", "")
    if not (digits.isdecimal() and len(digits) == 8):
        return math.nan
    try:
        return (
            datetime.date(int(digits[:4]), int(digits[4:6]), int(digits[6:])).toordinal() * 86400.0
        )
    except ValueError:
        return math.nan


def seconds_of_date_time(text: str) -> float:
    """A DT, YYYYMMDDHHMMSS.FFFFFF&ZZXX, in UTC where it tells its offset; NaN where it is none."""
    value, sign, offset = (text or "").strip(), 1, ""
    for mark in "+-":
        if mark in value:
            value, _, offset = value.partition(mark)
            sign = 1 if mark == "+" else -1
    shift = seconds_of_time(offset) if offset else 0.0
    return seconds_of_date(value[:8]) + seconds_of_time(value[8:]) - sign * shift


__all__ = ["SPECS", "Candidates", "Facts", "Spec"]
