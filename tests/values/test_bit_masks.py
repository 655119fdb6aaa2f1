"""Masks with one bit per value: pieces that end within a byte, other shapes, bools again."""

import numpy as np
import pytest

from dicomdl.values.bit_masks import BitMask


@pytest.mark.parametrize("shape", [(3, 4, 5), (2, 8), (7,), (4, 1, 1), (2, 3, 8)])
@pytest.mark.parametrize("pieces", [1, 2])
def test_bits_become_the_bools_that_they_were(shape: tuple[int, ...], pieces: int) -> None:
    truth = np.random.default_rng(len(shape)).random(shape) < 0.4
    if truth.size % pieces:
        pytest.skip("pieces have one size")
    mask = BitMask.empty(shape, pieces)
    for bits, part in zip(mask.bits, truth.reshape(pieces, -1), strict=True):
        bits[:] = np.packbits(part, bitorder="little")
    assert np.array_equal(mask.unpacked(), truth) and mask.unpacked().dtype == np.bool_
    flat = mask.reshape((truth.size,))
    assert np.array_equal(flat.unpacked(), truth.ravel())


def test_a_mask_takes_an_eighth_of_the_memory_of_its_bools() -> None:
    mask = BitMask.empty((5, 16, 16), pieces=5)
    assert 8 * mask.bits.nbytes == mask.unpacked().nbytes
