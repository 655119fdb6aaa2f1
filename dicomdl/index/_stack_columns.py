"""Conclusions on many stacks at once, read from the columns of a generation."""

from collections import Counter

import numpy as np

from dicomdl.arrays import Floats, Ints, Mask
from dicomdl.index.rows import Generation


def shapes(generation: Generation, stacks: Ints) -> Ints:
    """Return (len, 3) slices, rows and columns of each stack, int64."""
    starts, frames = generation.stack_starts, generation.frames
    first_rows = starts[stacks]
    size = [
        np.asarray(frames.values(name, first_rows), np.int64).reshape(-1)
        for name in ("rows", "columns")
    ]
    return np.stack([np.diff(starts)[stacks], *size], axis=1).astype(np.int64)


def affines(generation: Generation, stacks: Ints) -> Floats:
    """Return (len, 4, 4) the affine of each stack, float64; NaN without geometry."""
    return generation.stacks.vectors("affine", 16)[stacks].reshape(-1, 4, 4)


def have_detail(generation: Generation, stacks: Ints, key: str) -> Mask:
    """Return (len,) flags: stacks whose `detail` has a key.

    The search is in the JSON text, which spares parsing a million details.
    """
    codes, details = generation.stacks.codes("detail")
    has_key = np.array([f'"{key}": ' in detail for detail in details] or [False], dtype=np.bool_)
    return np.asarray(has_key[codes[stacks]])


def verdicts(generation: Generation, stacks: Ints) -> Counter[str]:
    """Count the stacks per verdict."""
    codes, values = generation.stacks.codes("verdict")
    chosen, counts = np.unique(codes[stacks], return_counts=True)
    return Counter({str(values[code]): int(n) for code, n in zip(chosen, counts, strict=True)})
