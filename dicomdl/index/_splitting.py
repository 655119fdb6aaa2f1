"""Splits of frames into parts that share no patient, study or series.

The part depends on a hash of the identity and the seed alone, the same on every machine.
"""

import hashlib
import itertools
from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from dicomdl.arrays import Ints
from dicomdl.errors import UsageError
from dicomdl.index._identity import per_frame, rows_of_series
from dicomdl.index.table import Table

# Columns whose values a split keeps together; each is used where those before it are blank.
SPLIT_LEVELS: Final = {
    "patient": ("patient_id", "study_instance_uid", "series_instance_uid"),
    "study": ("study_instance_uid", "series_instance_uid"),
    "series": ("series_instance_uid",),
}


def split_flags(
    tables: tuple[Table, Table], starts: Ints, fractions: Sequence[float], by: str, seed: int
) -> list[npt.NDArray[np.bool_]]:
    """Return (frames,) flags per fraction: the frames of its part.

    `tables` are `frames` and `stacks`, `starts` is (stacks + 1,) the first frame row of each stack,
    and the end.

    Raises
    ------
    UsageError
        An unknown level, or fractions that are negative or add up to more than 1.
    """
    if by not in SPLIT_LEVELS:
        raise UsageError(f"split by {by!r}: expected one of {', '.join(SPLIT_LEVELS)}", by=by)
    bounds = np.concatenate([[0.0], np.cumsum(np.asarray(fractions, dtype=np.float64))])
    if len(bounds) < 2 or not (np.diff(bounds) >= 0).all() or bounds[-1] > 1 + 1e-9:
        raise UsageError(
            f"fractions are parts of 1 and together at most 1, found {tuple(fractions)}",
            fractions=tuple(fractions),
        )
    if bounds[-1] > 1 - 1e-9:
        # Rounding must not lose a patient.
        bounds[-1] = np.inf
    positions = _positions(*tables, starts, by, seed)
    return [(positions >= low) & (positions < high) for low, high in itertools.pairwise(bounds)]


def _positions(
    frames: Table, stacks: Table, starts: Ints, by: str, seed: int
) -> npt.NDArray[np.float64]:
    """Return (frames,) the position in [0, 1) of the patient, study or series of each Series."""
    positions = np.full(len(frames), np.nan)
    series = stacks.numbers("series")
    for name in SPLIT_LEVELS[by]:
        codes, values = frames.codes(name)
        per_value = np.array(
            [_unit_hash(f"{seed}\0{name}\0{value}") if value else np.nan for value in values]
            or [np.nan]
        )
        owners = per_frame(frames, rows_of_series(frames, name, starts, series), starts)
        positions = np.where(np.isnan(positions), per_value[codes[owners]], positions)
    return np.where(np.isnan(positions), _unit_hash(f"{seed}\0"), positions)


def _unit_hash(key: str) -> float:
    """Hash `key` to a number in [0, 1), the same on every machine."""
    digest = hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return float((int.from_bytes(digest, "little") >> 11) / 2**53)
