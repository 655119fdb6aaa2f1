"""Groups of frames by equal values, and by values within a tolerance.

Exact values split first (`exact_groups`): Series, SOP class, size, kind of samples, localizers.
Orientation and in-plane grid are compared with tolerances afterwards (`clusters`). Both depend on
the values alone, never on the order of the files.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from dicomdl.arrays import Floats, Ints
from dicomdl.geometry._facts import Facts
from dicomdl.geometry.concatenations import are_of_several
from dicomdl.headers.uids import OWN_PLANES, RT_DOSE

# The values that split a Series exactly; orientation and in-plane grid are compared with tolerances
# afterwards, then Study and frame of reference by `_joining`.
_EXACT_KEYS: Final = ("sop_class_uid", "units")
_EXACT_NUMBERS: Final = ("rows", "columns", "samples_per_pixel", "float_pixels")
# The exact keys that state what the values of pixels mean, and nothing about their grid.
_OF_VALUES: Final = frozenset(
    {"units", "samples_per_pixel", "float_pixels", "depth_of_colour", "rescaled", "photometric"}
)
# Palette colour and inverted grey scales are separate kinds of samples.
PALETTE: Final = 2
_PHOTOMETRIC_KINDS: Final = {"MONOCHROME1": 1, "PALETTE COLOR": PALETTE}


def is_every_nth(some: set[int], all_numbers: set[int]) -> bool:
    """Whether `some` are three or more of `all_numbers`, every second, third, ... one of them."""
    within = np.flatnonzero([number in some for number in sorted(all_numbers)])
    steps = np.diff(within)
    return len(within) == len(some) > 2 and int(steps.min()) > 1 and bool((steps == steps[0]).all())


def overlap(sets: Sequence[Ints], *, chained: bool = False) -> bool:
    """Whether extents of some sets of slice numbers overlap; with `chained`, each with the next."""
    extents = sorted((int(numbers.min()), int(numbers.max())) for numbers in sets)
    reached = itertools.accumulate((end for _, end in extents), max)
    meet = [start <= end for (start, _), end in zip(extents[1:], reached, strict=False)]
    return all(meet) if chained else any(meet)


def is_blank(facts: Facts, name: str, ranks: Ints | None = None) -> npt.NDArray[np.bool_]:
    """Mask of rows, (n,), whose text is empty; `ranks` are those of the column, if known."""
    # The empty text comes first.
    ranks = facts.ranks(name) if ranks is None else ranks
    lowest = int(np.argmin(ranks))
    return np.asarray((ranks == ranks[lowest]) & (facts.text(name, lowest) == ""))


def exact_groups(facts: Facts, series: Ints) -> list[Ints]:
    """Group the frames that agree in all exact keys; `series` numbers their Series.

    Returns the rows of each group.
    """
    return _equal(list(_exact_keys(facts, series).values()))


def same_but_for_values(facts: Facts, series: Ints) -> list[Ints]:
    """Group the frames that agree in all exact keys but those that state what the values mean."""
    keys = _exact_keys(facts, series)
    return _equal([keys[name] for name in keys if name not in _OF_VALUES])


def _equal(keys: Sequence[Ints]) -> list[Ints]:
    """Return the rows of each combination of the keys."""
    combined = combined_codes(keys)
    order = np.argsort(combined, kind="stable")
    bounds = np.flatnonzero(np.diff(combined[order])) + 1
    return np.split(order, bounds)


def _exact_keys(facts: Facts, series: Ints) -> dict[str, Ints]:
    """Return the exact keys, (n,) each, in the order in which they sort the groups."""
    samples, depths = facts.numbers("samples_per_pixel"), facts.numbers("bits_allocated")
    keys = {"series": series, "series_number": _series_numbers(facts, series)}
    keys |= {name: facts.ranks(name) for name in _EXACT_KEYS}
    keys |= {name: facts.numbers(name).astype(np.int64) for name in _EXACT_NUMBERS}
    # Grey values of any depth become one array of modality values; colour of 8 and of 16 bits
    # are two kinds of samples.
    keys["depth_of_colour"] = np.where(samples > 1, depths, 0).astype(np.int64)
    keys["rescaled"] = rescaled(facts)
    keys["photometric"] = photometric_kinds(facts)
    # Localizers are not slices of the volume that they plan, even on the same grid, and images
    # made after the examination (SECONDARY) are not slices of the measured volume
    # (PS3.3 C.7.6.1.1.2, C.8.2.1.1.1).
    keys["localizer"] = by_text(
        facts, "image_type", lambda text: int("LOCALIZER" in text.split("\\"))
    )
    keys["secondary"] = by_text(
        facts, "image_type", lambda text: int(text.split("\\")[1:2] == ["SECONDARY"])
    )
    # Some archives store the slices and a multi-frame copy of them under one Series. Enhanced
    # objects may have a single frame.
    classic = by_text(facts, "sop_class_uid", lambda uid: int(uid not in OWN_PLANES))
    keys["multiframe"] = are_of_several(facts) * classic
    keys["dose"] = _doses(facts)
    return keys


def photometric_kinds(facts: Facts) -> Ints:
    """Return (n,) the kind of samples by Photometric Interpretation: `PALETTE`, 1 or 0."""
    return by_text(
        facts, "photometric_interpretation", lambda text: _PHOTOMETRIC_KINDS.get(text, 0)
    )


def rescaled(facts: Facts) -> Ints:
    """Return (n,) 1 for frames with a Rescale Slope, else 0.

    A slice without rescale among slices with one would mix stored values with Hounsfield units.
    """
    return np.isfinite(facts.numbers("rescale_slope")).astype(np.int64)


def _doses(facts: Facts) -> Ints:
    """Return (n,) the instance of each frame of an RT dose of several planes, -1 for others.

    Such a dose is a complete grid (PS3.3 C.8.8.3), and planning systems put the doses of a plan and
    of its beams into one Series.
    """
    doses = by_text(facts, "sop_class_uid", lambda uid: int(uid == RT_DOSE))
    doses *= are_of_several(facts)
    return np.where(doses, facts.ranks("sop_instance_uid"), -1) if doses.any() else doses - 1


def _series_numbers(facts: Facts, series: Ints) -> Ints:
    """Return (n,) codes of SeriesNumber, which divides the Series of some archives in two.

    A blank number takes that of its Series, if the Series has only one.
    """
    numbers = facts.numbers("series_number").astype(np.float64)
    codes = np.unique(numbers, return_inverse=True)[1].reshape(-1).astype(np.int64)
    return filled(codes, np.isnan(numbers), series)


def filled(codes: Ints, blank: npt.NDArray[np.bool_], groups: Ints) -> Ints:
    """Replace the code of blank rows by that of the others of their group, if these have only one.

    `groups` are (n,) numbers from 0.
    """
    if not blank.any() or blank.all():
        return codes
    count = int(groups.max()) + 1
    lowest, highest = np.full(count, np.iinfo(np.int64).max), np.full(count, -1)
    np.minimum.at(lowest, groups[~blank], codes[~blank])
    np.maximum.at(highest, groups[~blank], codes[~blank])
    only = (lowest == highest)[groups]
    return np.where(blank & only, highest[groups], codes)


def by_text(facts: Facts, name: str, number: Callable[[str], int]) -> Ints:
    """Return (n,) integers computed from the texts of a column, once per distinct text."""
    codes, values = facts.codes(name)
    return np.asarray(
        np.array([number(str(value or "")) for value in values] or [0], dtype=np.int64)[codes]
    )


def combined_codes(keys: Sequence[Ints]) -> Ints:
    """Return one integer per row that orders and equals as the tuple of the keys does."""
    result = np.zeros(len(keys[0]), dtype=np.int64)
    varying = [key for key in keys if (key != key[0]).any()]
    if not varying:
        return result
    for key in varying:
        low = int(key.min())
        span = int(key.max()) - low + 1
        if int(result.max(initial=0)) >= 2**62 // span:
            result = np.unique(result, return_inverse=True)[1].astype(np.int64)
        result = result * span + (key - low)
    return np.unique(result, return_inverse=True)[1].astype(np.int64)


def differ_within(groups: Ints, values: Ints) -> npt.NDArray[np.bool_]:
    """Mask of rows, (n,), in whose group the values differ; groups are numbered from 0."""
    first = np.empty(int(groups.max(initial=-1)) + 1, dtype=np.int64)
    first[groups] = values
    differ = np.zeros(len(first), dtype=bool)
    differ[groups[first[groups] != values]] = True
    return np.asarray(differ[groups])


def by_first(rows: Ints, codes: Ints) -> list[Ints]:
    """Divide rows by their codes, in the order in which the codes first occur."""
    _, first, inverse = np.unique(codes, return_index=True, return_inverse=True)
    starts = first[inverse.reshape(-1)]
    order = np.argsort(starts, kind="stable")
    return np.split(rows[order], np.flatnonzero(np.diff(starts[order])) + 1)


def clusters(rows: Ints, values: Floats, absolute: float, relative: float) -> Iterator[Ints]:
    """Yield rows grouped by values within `absolute + relative * |reference|` of a reference.

    The first reference is the median of all values, the centre of any jitter; the next ones are the
    lowest value of the remaining rows. References follow from the values and not from the order of
    the rows, so the order of files does not matter.
    """
    if (values == values[0]).all():
        yield rows
        return
    distinct, inverse = np.unique(values, axis=0, return_inverse=True)
    median = np.quantile(values, 0.5, axis=0, method="lower")
    about = (np.abs(distinct - median) <= absolute + relative * np.abs(median)).all(axis=1)
    label = np.where(about, len(distinct), -1)
    farthest = np.searchsorted(
        distinct[:, 0], distinct[:, 0] + absolute + relative * np.abs(distinct[:, 0]), side="right"
    )
    # The values are sorted: values before have a label, values from `farthest` on are too far.
    for number, reference in enumerate(distinct):
        if label[number] < 0:
            behind = slice(number, farthest[number])
            near = (
                np.abs(distinct[behind] - reference) <= absolute + relative * np.abs(reference)
            ).all(axis=1)
            label[behind][near & (label[behind] < 0)] = number
    labels = label[inverse.reshape(-1)]
    for number in np.unique(labels):
        yield rows[labels == number]
