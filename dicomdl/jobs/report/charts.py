"""Distributions of a report: bars with counts, side by side with those of another index."""

import itertools
import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from dicomdl.arrays import Floats
from dicomdl.index.check import StackCheck
from dicomdl.index.text import Part, counted
from dicomdl.printing import printable

_BINS: Final = 24
# Values up to which each has a bar.
_FEW: Final = 12


@dataclass(frozen=True, slots=True)
class Bar:
    """One bar: its label, its count and share of the highest; and those of the other index."""

    label: str
    count: int
    share: float
    other: int = 0
    other_share: float = 0.0


@dataclass(frozen=True, slots=True)
class Histogram:
    """A distribution of one fact over the stacks or patients of an index, or of two."""

    title: str
    unit: str
    bars: tuple[Bar, ...]
    words: str
    is_double: bool = False
    is_words: bool = False


Numbers = Iterable[float | None]


def histogram(
    title: str, unit: str, values: Numbers, of: str = "stacks", other: Numbers | None = None
) -> Histogram | None:
    """Return the distribution of numbers, with a bar per value where they are few; None for none.

    The outermost hundredth on either side shares the outermost bar. Bars of two indexes are shares
    of each.
    """
    every = _floats(values)
    known = every[np.isfinite(every)]
    compared = _floats(() if other is None else other)
    compared = compared[np.isfinite(compared)]
    together = np.concatenate([known, compared])
    if not together.size:
        return None
    words = _words(known, every.size - known.size, of)
    if other is not None:
        words += f" (there: {_words(compared, 0, of)})"
    distinct = np.unique(np.round(together, 4))
    if len(distinct) <= _FEW:
        labels = [short(value) for value in distinct]
        pairs = [
            [int((np.round(part, 4) == value).sum()) for value in distinct]
            for part in (known, compared)
        ]
    else:
        edges, labels = _bins(together)
        pairs = [
            np.histogram(np.clip(part, edges[0], edges[-1]), bins=edges)[0].tolist()
            for part in (known, compared)
        ]
    bars = _bars(labels, pairs[0], None if other is None else pairs[1])
    return Histogram(title, unit, bars, words, other is not None)


def _floats(values: Numbers) -> Floats:
    return np.array([np.nan if value is None else float(value) for value in values], np.float64)


def _words(known: Floats, unknown: int, of: str) -> str:
    if not known.size:
        return "none known"
    words = "{} to {}, median {}".format(*map(short, (known.min(), known.max(), np.median(known))))
    return f"{words}; unknown for {counted(unknown, of)}" if unknown else words


def _bins(values: Floats) -> tuple[npt.NDArray[Any], list[str]]:
    """Return the edges of bins, and their labels; integers have bins of whole numbers."""
    low, high = (float(end) for end in np.percentile(values, (1, 99)))
    if high <= low:
        low, high = float(values.min()), float(values.max())
    if (values == np.round(values)).all():
        width = math.ceil((math.floor(high) - math.floor(low) + 1) / _BINS)
        count = math.ceil((math.floor(high) - math.floor(low) + 1) / width)
        starts = [math.floor(low) + width * number for number in range(count)]
        ends = [short(start + width - 1) for start in starts]
        names = [short(start) for start in starts]
        if width > 1:
            names = [f"{one} to {two}" for one, two in zip(names, ends, strict=True)]
        return np.array([*starts, starts[-1] + width]) - 0.5, names
    edges = np.linspace(low, high, _BINS + 1)
    return edges, [f"{short(a)} to {short(b)}" for a, b in itertools.pairwise(edges)]


def short(value: float) -> str:
    """Return a number with four digits, and all of those in front of the point."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def counts_of(
    title: str, names: Iterable[str], other: Iterable[str] | None = None
) -> Histogram | None:
    """Return the distribution of words, the most frequent first; None for none."""
    counts = Counter(map(printable, names))
    compared = Counter(map(printable, () if other is None else other))
    most = [name for name, _ in (counts + compared).most_common(_BINS)]
    if not most:
        return None
    others = None if other is None else [compared[name] for name in most]
    bars = _bars(most, [counts[name] for name in most], others)
    return Histogram(title, "", bars, "", other is not None, True)


def _bars(
    labels: Sequence[str], counts: Sequence[int], others: Sequence[int] | None
) -> tuple[Bar, ...]:
    if others is None:
        top = max(counts, default=1) or 1
        return tuple(Bar(label, n, n / top) for label, n in zip(labels, counts, strict=True))
    shares = [[n / max(sum(part), 1) for n in part] for part in (counts, others)]
    top_share = max(itertools.chain(*shares), default=1.0) or 1.0
    return tuple(
        Bar(label, n, a / top_share, m, b / top_share)
        for label, n, m, a, b in zip(labels, counts, others, *shares, strict=True)
    )


def of_stacks(
    rows: Sequence[StackCheck],
    stack_bytes: Sequence[int],
    other: tuple[Sequence[StackCheck], Sequence[int]] | None = None,
) -> list[Histogram | None]:
    """Return the distributions of what headers say of stacks, with those of another index."""

    def chart(title: str, unit: str, at: Any) -> Histogram | None:
        return histogram(title, unit, map(at, rows), other=other and map(at, other[0]))

    sizes = histogram(
        "Size per stack",
        "MB",
        [count / 1e6 for count in stack_bytes],
        other=other and [count / 1e6 for count in other[1]],
    )
    by_words = (
        []
        if other is None
        else [
            counts_of(title, map(at, rows), map(at, other[0]))
            for title, at in (
                ("Modality", lambda row: row.modality or "(none)"),
                ("Verdict", lambda row: row.verdict.replace("_", " ")),
            )
        ]
    )
    return [
        *by_words,
        chart("Slices per stack", "", lambda row: row.shape[0]),
        chart("Slice spacing", "mm", lambda row: row.spacing[0] if row.shape[0] > 1 else None),
        chart("Row spacing", "mm", lambda row: row.spacing[1]),
        chart("Rows", "pixels", lambda row: row.shape[1]),
        chart("Columns", "pixels", lambda row: row.shape[2]),
        sizes,
    ]


def demographics(part: Part) -> list[Histogram | None]:
    """Return the distributions of age and sex, by the first stack of each patient."""
    first: dict[int, int] = {}
    for at, patient in enumerate(part.patients()):
        first.setdefault(patient, at)
    ages, sexes = part.heads("patient_age"), part.heads("patient_sex")
    return [
        histogram("Age", "years", [years(ages[at]) for at in first.values()], "patients"),
        counts_of("Sex", [sexes[at] or "unknown" for at in first.values()]),
    ]


def years(age: str | None) -> float | None:
    """Return the years of an Age String (PS3.5 6.2), such as "045Y"; None without one."""
    found = re.fullmatch(r"(\d{1,3})([DWMY])", (age or "").strip())
    return None if found is None else int(found[1]) / _PER_YEAR[found[2]]


_PER_YEAR: Final = {"D": 365.25, "W": 52.18, "M": 12, "Y": 1}
