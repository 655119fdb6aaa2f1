"""Which bits of a sample are the stored value: decided from numbers, applied by each array library.

The rule to know: the header has the last word. Its BitsStored, HighBit and PixelRepresentation say
which bits count and whether the highest one is a sign (PS3.5 8.1.1); a codestream only says what a
decoder has done to the samples before.
"""

from typing import Literal, NamedTuple

import numpy as np

from dicomdl.arrays import Values


class HeaderBits(NamedTuple):
    """What a header says of a sample.

    BitsAllocated, BitsStored, HighBit, and whether it is signed.
    """

    allocated: int
    stored: int
    high: int
    signed: bool


class CodedBits(NamedTuple):
    """What is known of decoded samples.

    `precision` is the codestream's, 0 where it names none. `signed` says whether the decoder gave
    signed samples, `overshoots` whether values may lie beyond the bits stored: lossy codecs and the
    filter of a wavelet do that. `bytewise` codecs know nothing of bits.
    """

    precision: int
    signed: bool
    overshoots: bool
    bytewise: bool = False


class BitRule(NamedTuple):
    """What makes stored values of samples.

    "keep" nothing; "extend" the sign of the `bits` that end at bit `high`; "mask" those bits,
    shifted to the right; or "clip" to what `bits` hold, because wrapping round would turn white
    into black.
    """

    action: Literal["keep", "extend", "mask", "clip"]
    bits: int
    high: int
    signed: bool

    @property
    def limits(self) -> tuple[int, int]:
        """The smallest and largest value of `bits`."""
        half = 1 << self.bits - 1
        return (-half, half - 1) if self.signed else (0, 2 * half - 1)


def header_rule(header: HeaderBits) -> BitRule:
    """The rule for samples as they lie in a file; ACR-NEMA wrote left-aligned ones."""
    action: Literal["keep", "extend", "mask"] = "extend" if header.signed else "mask"
    if header.stored == header.allocated:
        action = "keep"
    return BitRule(action, header.stored, header.high, header.signed)


def coded_rule(header: HeaderBits, coded: CodedBits) -> BitRule:
    """The rule for samples as a decoder gave them."""
    stored, signed = header.stored, header.signed
    is_left_aligned = header.high >= stored and coded.precision > stored
    if coded.bytewise or is_left_aligned:  # coded as they were
        return header_rule(header)
    if signed and not coded.signed:
        # JPEG and JPEG-LS know no sign, JPEG 2000 streams may be labelled wrongly.
        bits = min(stored, coded.precision or stored)
        return BitRule("extend", bits, bits - 1, signed)
    if coded.overshoots and signed == coded.signed:
        may_overshoot = stored < max(8, header.allocated) and coded.precision != stored
        return BitRule("clip" if may_overshoot else "keep", stored, stored - 1, signed)
    return BitRule("extend" if signed else "mask", stored, stored - 1, signed)


def keep_bits(values: Values, rule: BitRule) -> None:
    """Apply a rule to integers as wide as BitsAllocated, signed as the header says, in place."""
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
