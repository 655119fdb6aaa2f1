"""Rules for the bits of a sample that are the stored value, decided from numbers alone.

The header has the last word: BitsStored, HighBit and PixelRepresentation state which bits count and
whether the highest one is a sign (PS3.5 8.1.1). A codestream only states how a decoder has treated
the samples before. Each array library applies the rules by itself; `keep_bits` does so for NumPy.
"""

import functools
from typing import Literal, NamedTuple

import numpy as np

from dicomdl.arrays import Values


class HeaderBits(NamedTuple):
    """Bits of a sample as the header declares them: BitsAllocated, BitsStored, HighBit, signed."""

    allocated: int
    stored: int
    high: int
    signed: bool


class CodedBits(NamedTuple):
    """Bits of decoded samples.

    `precision` is that of the codestream, 0 where it declares none. `signed` is True if the decoder
    returned signed samples. `overshoots` is True if values may exceed the bits stored, as with
    lossy codecs and the filter of a wavelet. `bytewise` codecs code bytes and have no notion of
    bits.
    """

    precision: int
    signed: bool
    overshoots: bool
    bytewise: bool = False


class BitRule(NamedTuple):
    """Rule that turns samples into stored values.

    "keep" changes nothing; "extend" extends the sign of the `bits` that end at bit `high`; "mask"
    keeps those bits, shifted to the right; "clip" limits values to the range of `bits`, because
    wrapping round would turn white into black.
    """

    action: Literal["keep", "extend", "mask", "clip"]
    bits: int
    high: int
    signed: bool

    @property
    def limits(self) -> tuple[int, int]:
        """Smallest and largest value of `bits`."""
        half = 1 << self.bits - 1
        return (-half, half - 1) if self.signed else (0, 2 * half - 1)


# Small: four numbers per combination that occurs.
@functools.lru_cache(maxsize=256)
def header_bits_of(
    allocated: int, stored: int | None, high: int | None, representation: int
) -> HeaderBits:
    """Return the bits that the attributes of a header name.

    Impossible values are replaced by the usual ones: all bits, right-aligned.
    """
    bits, top = stored or 0, high or 0
    if not 0 < bits <= allocated:
        bits = allocated
    if not bits <= top < allocated:
        top = bits - 1
    return HeaderBits(allocated, bits, top, representation == 1)


# Small: four numbers per combination that occurs.
@functools.lru_cache(maxsize=256)
def header_rule(header: HeaderBits) -> BitRule:
    """Return the rule for samples as they are in a file; ACR-NEMA wrote left-aligned ones."""
    action: Literal["keep", "extend", "mask"] = "extend" if header.signed else "mask"
    if header.stored == header.allocated:
        action = "keep"
    return BitRule(action, header.stored, header.high, header.signed)


def coded_rule(header: HeaderBits, coded: CodedBits) -> BitRule:
    """Return the rule for samples as a decoder returned them."""
    stored, signed = header.stored, header.signed
    is_left_aligned = header.high >= stored and coded.precision > stored
    # These samples were coded without a change.
    if coded.bytewise or is_left_aligned:
        return header_rule(header)
    if signed and not coded.signed:
        # JPEG and JPEG-LS have no sign, and JPEG 2000 streams may declare the wrong one.
        bits = min(stored, coded.precision or stored)
        return BitRule("extend", bits, bits - 1, signed)
    if coded.overshoots and signed == coded.signed:
        may_overshoot = stored < max(8, header.allocated) and coded.precision != stored
        return BitRule("clip" if may_overshoot else "keep", stored, stored - 1, signed)
    return BitRule("extend" if signed else "mask", stored, stored - 1, signed)


def keep_bits(values: Values, rule: BitRule) -> None:
    """Apply a rule in place to integers as wide as BitsAllocated, signed as the header declares."""
    width, shift = 8 * values.itemsize, rule.high + 1 - rule.bits
    if rule.action == "extend":
        if rule.high + 1 < width:
            np.left_shift(values, width - 1 - rule.high, out=values)
        if rule.bits < width:
            np.right_shift(values, width - rule.bits, out=values)
    elif rule.action == "mask":
        if shift:
            np.right_shift(values, shift, out=values)
        if rule.bits < width:
            np.bitwise_and(values, (1 << rule.bits) - 1, out=values)
    elif rule.action == "clip":
        np.clip(values, *rule.limits, out=values)
