"""Samples of 8 or 16 bits, looked up in a table of their network values.

The rule: a table holds what a formula gives for each possible sample, so that the result is that of
the formula, bit by bit. Without the compiled module a formula is faster.
"""

import functools
from typing import Any, Final, NamedTuple

import numpy as np

from dicomdl._kernels import accelerated, compiled_or
from dicomdl.arrays import Bits, Float32, Values
from dicomdl.values.formulas import Formula

# From this number of values on, a new table pays.
WORTH: Final = 1 << 18


def pure_map_samples(samples: Values, table: Float32, out: Float32) -> None:
    """Fill `out` with the entries of samples.

    Parameters
    ----------
    samples
        Integers of 8 or 16 bits, whose bits are a position in the table; contiguous along the
        last axis, of up to 5.
    table
        (256,) or (65536,) float32.
    out
        Contiguous float32, as many as samples.
    """
    positions = samples.view(f"u{samples.itemsize}")
    np.take(table, positions, mode="clip", out=out.reshape(samples.shape))


map_samples = compiled_or(pure_map_samples)


class LookUp(NamedTuple):
    """A look at a table for each sample, which `storage.pieces` takes to map samples as it reads.

    Attributes
    ----------
    table
        (256,) or (65536,) float32, for samples of 8 or 16 bits.
    """

    table: Float32

    @property
    def samples(self) -> np.dtype[Any]:
        """The dtype of the samples: the positions in the table."""
        return np.dtype(np.uint8 if len(self.table) == 256 else np.uint16)

    @property
    def values(self) -> np.dtype[Any]:
        """float32."""
        return self.table.dtype

    def __call__(self, samples: Values, out: Values, bits: Bits | None) -> int:
        """Fill `out` with the entries of samples; no value is padding."""
        if bits is not None:
            bits[...] = 0
        map_samples(samples, self.table, out)
        return 0


def every_sample(dtype: np.dtype[Any]) -> Values:
    """Return every value of an integer dtype, at the position that its bits are."""
    return np.arange(1 << 8 * dtype.itemsize, dtype=f"u{dtype.itemsize}").view(dtype)


def filled(formula: Formula, values: Values, out: Float32) -> None:
    """Fill `out` as ``formula.fill(values, out)`` does, by a table where that pays."""
    dtype = values.dtype
    if (
        accelerated
        and values.size >= WORTH
        and dtype.kind in "iu"
        and dtype.itemsize <= 2
        and dtype.isnative
        and values.flags.c_contiguous
        and out.flags.c_contiguous
    ):
        map_samples(values, _table(formula, dtype), out)
    else:
        formula.fill(values, out)


# Small: 2 MiB.
@functools.lru_cache(maxsize=8)
def _table(formula: Formula, dtype: np.dtype[Any]) -> Float32:
    samples = every_sample(dtype)
    table = np.empty(samples.shape, np.float32)
    formula.fill(samples, table)
    return table
