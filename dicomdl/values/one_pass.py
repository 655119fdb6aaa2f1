"""Samples as a file has them to values, in one pass: byte order, bits, padding and rescale.

The rule: the steps are decided here, from the header and the conversion; the compiled module takes
them sample by sample, its twin one after the other. Both give the same values, bit by bit, as
`pixels.stored.as_meant` followed by a `Conversion`. Where the values might not fit the dtype, or
where there is a table, a pass is not offered. A pass is a tuple of its steps, by which
`storage.pieces` converts samples as it reads them.
"""

import sys
from typing import Any, Final, NamedTuple, TypeAlias

import numpy as np

from dicomdl._kernels import compiled_or
from dicomdl.arrays import Bits, Values, ends_of
from dicomdl.headers.uids import PLAIN_BIG
from dicomdl.pixels.bits import header_rule
from dicomdl.pixels.codestreams import FrameLike
from dicomdl.pixels.stored import header_bits, stored_dtype, stored_range
from dicomdl.values.conversion import Conversion
from dicomdl.values.rescale import Rescale, beyond_float32, is_sure_to_fit, to_float, to_integer

# The code of a dtype, whether bytes are swapped, a shift to the left, one to the right, and the
# bits of unsigned samples that stay.
Meant: TypeAlias = tuple[str, bool, int, int, int]
# The code of the result, slope and intercept modulo 2^32, and as they are.
Rescaled: TypeAlias = tuple[str, int, int, float, float]

# The results of a pass, added.
FOUND: Final = 1
BEYOND: Final = 2
_CODES: Final = {np.dtype(code): code for code in "BbHhIi"}


def pure_convert_samples(samples: Values, out: Values, bits: Bits | None, steps: "OnePass") -> int:
    """Fill `out` with the values of samples; the samples may be overwritten.

    Parameters
    ----------
    samples
        Contiguous integers of the dtype that the steps begin with, as the file has them.
    out
        int16, int32 or float32 of the same shape, also in the memory of `samples` where both have
        one size.
    bits
        Contiguous, one bit per sample: 1 for padding, which is not looked for without it.
    steps
        The pass.

    Returns
    -------
    int
        `FOUND` where some value is padding, plus `BEYOND` where float32 does not hold one.
    """
    meant, rescaled, padding = steps
    _, swaps, left, right, kept = meant
    if swaps:
        samples.byteswap(inplace=True)
    if left:
        np.left_shift(samples, left, out=samples)
    if right:
        np.right_shift(samples, right, out=samples)
    if samples.dtype.kind == "u" and kept != ends_of(samples.dtype)[1]:
        np.bitwise_and(samples, kept, out=samples)
    result = 0
    if bits is not None and padding is None:
        bits[...] = 0
    elif bits is not None and padding is not None:
        low, high = padding
        found = samples == low if low == high else (samples >= low) & (samples <= high)
        bits[...] = np.packbits(found, bitorder="little")
        result = FOUND if bits.any() else 0
    rescale = Rescale(*rescaled[3:])
    if out.dtype.kind == "i":
        to_integer(samples, rescale, out)
        return result
    return result if to_float(samples, rescale, out) else result + BEYOND


convert_samples = compiled_or(pure_convert_samples)


class OnePass(NamedTuple):
    """The steps from the samples of some frames to values of one dtype.

    Attributes
    ----------
    meant, rescaled
        The steps to the stored value, and from it to the value.
    padding
        The lowest and the highest stored value that mean padding, inside the range of the dtype of
        samples.
    """

    meant: Meant
    rescaled: Rescaled
    padding: tuple[int, int] | None

    @classmethod
    def of(
        cls, source: FrameLike, conversion: Conversion, dtype: np.dtype[Any]
    ) -> "OnePass | None":
        """Return the pass for plain frames; None where their values need more than one."""
        stored, rescale = stored_dtype(source), conversion.rescale
        if conversion.table is not None or stored not in _CODES or source.bits_allocated == 1:
            return None
        if dtype.kind == "i" and not is_sure_to_fit(rescale, stored_range(source), dtype):
            return None
        modulo = 1 << 32
        whole = [int(value) % modulo if dtype.kind == "i" else 0 for value in rescale.parts]
        rescaled = (dtype.char, whole[0], whole[1], *rescale.parts)
        return cls(_meant(source, stored), rescaled, _inside(conversion.padding, stored))

    @property
    def samples(self) -> np.dtype[Any]:
        """The dtype of the samples."""
        return np.dtype(self.meant[0])

    @property
    def values(self) -> np.dtype[Any]:
        """The dtype of the values."""
        return np.dtype(self.rescaled[0])

    def __call__(self, samples: Values, out: Values, bits: Bits | None) -> int:
        """Fill `out` and `bits` as `convert_samples` does."""
        return convert_samples(samples, out, bits, self)

    def is_padded(self, found: int) -> bool:
        """Return whether a pass has found padding.

        Raises
        ------
        IntensityError
            A value is beyond the range of float32.
        """
        if found & BEYOND:
            raise beyond_float32(Rescale(*self.rescaled[3:]))
        return bool(found & FOUND)


def _meant(source: FrameLike, dtype: np.dtype[Any]) -> Meant:
    """Return the steps to stored values (PS3.5 8.1.1)."""
    rule, width = header_rule(header_bits(source)), 8 * dtype.itemsize
    swaps = (source.transfer_syntax_uid in PLAIN_BIG) == (sys.byteorder == "little")
    code, all_bits = _CODES[dtype], (1 << width) - 1
    if rule.action == "extend":
        return code, swaps, width - 1 - rule.high, width - rule.bits, all_bits
    if rule.action == "mask":
        return code, swaps, 0, rule.high + 1 - rule.bits, (1 << rule.bits) - 1
    return code, swaps, 0, 0, all_bits


def _inside(padding: tuple[int, int] | None, dtype: np.dtype[Any]) -> tuple[int, int] | None:
    """Return the part of a range that a dtype can have; None without one."""
    if padding is None:
        return None
    smallest, largest = ends_of(dtype)
    low, high = max(padding[0], smallest), min(padding[1], largest)
    return (low, high) if low <= high else None
