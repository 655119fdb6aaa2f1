"""Rules for the bits that count, against exact integers and contradictions of header and stream."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dicomdl.pixels.bits import BitRule, CodedBits, HeaderBits, coded_rule, header_rule, keep_bits


@pytest.mark.slow
@given(
    words=st.lists(st.integers(0, 65535), min_size=1, max_size=8),
    stored=st.integers(1, 16),
    left_aligned=st.booleans(),
    signed=st.booleans(),
)
def test_the_bits_that_the_header_names_become_the_value(
    words: list[int], stored: int, left_aligned: bool, signed: bool
) -> None:
    high = 15 if left_aligned else stored - 1
    expected = [(word >> (high + 1 - stored)) & ((1 << stored) - 1) for word in words]
    if signed:
        expected = [value - (value >> stored - 1 << stored) for value in expected]
    values = np.array(words, np.uint16).view(np.int16 if signed else np.uint16)
    keep_bits(values, header_rule(HeaderBits(16, stored, high, signed)))
    assert values.tolist() == expected


RIGHT, LEFT = HeaderBits(16, 12, 11, False), HeaderBits(16, 12, 15, False)
SIGNED = RIGHT._replace(signed=True)


@pytest.mark.parametrize(
    ("header", "coded", "expected"),
    [
        (RIGHT, CodedBits(12, False, False), BitRule("mask", 12, 11, False)),
        (LEFT, CodedBits(16, False, False), BitRule("mask", 12, 15, False)),
        (LEFT, CodedBits(16, False, True), BitRule("mask", 12, 15, False)),
        (LEFT, CodedBits(12, False, False), BitRule("mask", 12, 11, False)),
        (LEFT, CodedBits(0, False, False, bytewise=True), BitRule("mask", 12, 15, False)),
        (SIGNED, CodedBits(12, False, False), BitRule("extend", 12, 11, True)),
        (SIGNED, CodedBits(10, False, False), BitRule("extend", 10, 9, True)),
        (SIGNED, CodedBits(12, True, False), BitRule("extend", 12, 11, True)),
        (RIGHT, CodedBits(16, False, True), BitRule("clip", 12, 11, False)),
        (SIGNED, CodedBits(16, True, True), BitRule("clip", 12, 11, True)),
        (RIGHT, CodedBits(12, False, True), BitRule("keep", 12, 11, False)),
        (RIGHT, CodedBits(12, True, True), BitRule("mask", 12, 11, False)),
    ],
)
def test_a_codestream_is_read_as_its_header_means_it(
    header: HeaderBits, coded: CodedBits, expected: BitRule
) -> None:
    assert coded_rule(header, coded) == expected


def test_overshoot_is_clipped_and_not_wrapped() -> None:
    values = np.array([-3000, -2048, 2047, 2100], np.int16)
    keep_bits(values, BitRule("clip", 12, 11, True))
    assert values.tolist() == [-2048, -2048, 2047, 2047]
