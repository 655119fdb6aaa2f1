"""Masks of padding with one bit per value, as the loops that read samples write them.

A mask of bools has half the bytes of an int16 volume, and new memory costs as much as reading it.
"""

import math
from dataclasses import dataclass
from typing import Self

import numpy as np

from dicomdl.arrays import Bits, Mask


@dataclass(frozen=True, slots=True, eq=False)
class BitMask:
    """A mask that becomes bools where these are asked for.

    Attributes
    ----------
    bits
        (pieces, bytes) uint8: bits of consecutive parts of the mask, of equal size. The first value
        of a piece is the lowest bit of its first byte.
    shape
        Shape of the mask.
    """

    bits: Bits
    shape: tuple[int, ...]

    @classmethod
    def empty(cls, shape: tuple[int, ...], pieces: int) -> Self:
        """Return a mask to be filled, whose pieces can be filled independently of each other."""
        return cls(np.empty((pieces, -(-math.prod(shape) // (8 * pieces))), np.uint8), shape)

    def reshape(self, shape: tuple[int, ...]) -> Self:
        """Return the same values in another shape."""
        return type(self)(self.bits, shape)

    def unpacked(self) -> Mask:
        """Return a new array of bools."""
        count = math.prod(self.shape) // len(self.bits)
        values = np.unpackbits(self.bits, axis=1, count=count, bitorder="little")
        return values.view(np.bool_).reshape(self.shape)
