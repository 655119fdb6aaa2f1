"""Rows of frames of single bits, drawn into blocks by one loop: compiled, or its twin in Python."""

from collections.abc import Mapping
from typing import Final, NamedTuple

import numpy as np

from dicomdl._kernels import compiled_or
from dicomdl.arrays import Ints, Mask, Values
from dicomdl.storage.many_ranges import Bytes

_PLANE: Final = 3


def pure_draw_bits(
    data: Bytes, pieces: Ints, labels: Values, columns: int, out: Values, twice: Mask | None
) -> int:
    """Write labels into `out` where bits are 1; return how many voxels got another label.

    Parameters
    ----------
    data
        Bits, a multiple of eight bytes; the first pixel is the lowest bit of its byte.
    pieces
        (pieces, 6) int64: the first bit of each in `data`, its rows and columns, and its first
        plane, row and column in `out`.
    labels
        (pieces,) labels, of the dtype of `out`.
    columns
        The bits from one row to the next.
    out
        (planes, rows, columns), C-contiguous.
    twice
        bool, of the shape of `out`: gets True where another label than 0 was overwritten, and the
        result counts those that were False. With None, nothing is marked and the result is 0.
    """
    words, found = data.view(np.uint64), 0
    for (bit, rows, width, z, y, x), label in zip(pieces.tolist(), labels, strict=True):
        begin = bit >> 6
        filled = words[begin : (bit + (rows - 1) * columns + width + 63) >> 6].nonzero()[0]
        if not len(filled):
            continue
        # The first and the last row with a bit in a word that is not zero; bits before and behind
        # the rows may share such a word.
        shift = bit & 63
        top = max(0, (int(filled[0]) * 64 - shift) // columns)
        bottom = min(rows, (int(filled[-1]) * 64 + 63 - shift) // columns + 1)
        if top >= bottom:
            continue
        first = bit + top * columns
        # Zeros follow the last byte.
        bits = np.unpackbits(
            data[first >> 3 :],
            bitorder="little",
            count=(first & 7) + (bottom - top) * columns,
        )[first & 7 :]
        mask = bits.reshape(-1, columns)[:, :width].view(np.bool_)
        part = z, slice(y + top, y + bottom), slice(x, x + width)
        seen = out[part]
        if twice is not None:
            both = mask & (seen != 0)
            if both.any():
                both &= (seen != label) & ~twice[part]
                twice[part] |= both
                found += int(np.count_nonzero(both))
        np.copyto(seen, label, where=mask)
    return found


draw_bits = compiled_or(pure_draw_bits)


class BitRows(NamedTuple):
    """Rows of frames of single bits, in parts of a block; see `pure_draw_bits`.

    Attributes
    ----------
    data
        The bits. Whoever made them may overwrite them afterwards.
    columns
        The bits from one row to the next.
    pieces
        (pieces, 6) int64: bits, size and place in the block.
    labels
        (pieces,) int64: their labels.
    """

    data: Bytes
    columns: int
    pieces: Ints
    labels: Ints

    def put_labels(self, block: Values, twice: Mask) -> int:
        """Put the labels into a block; mark and count voxels with more than one."""
        labels = self.labels.astype(block.dtype)
        return draw_bits(self.data, self.pieces, labels, self.columns, block, twice)

    def put_masks(self, block: Values, channels: Mapping[int, int]) -> None:
        """Put 1 into the channels, by label, of a block of (channels, slices, rows, columns)."""
        numbers = np.array([channels.get(label, -1) for label in self.labels.tolist()], np.int64)
        pieces = self.pieces[numbers >= 0]
        pieces[:, _PLANE] += numbers[numbers >= 0] * block.shape[1]
        ones, planes = np.ones(len(pieces), block.dtype), block.reshape(-1, *block.shape[2:])
        draw_bits(self.data, pieces, ones, self.columns, planes, None)
