"""Whole stacks of plain frames, read and converted in threads.

The rule: where the header proves that all values fit the dtype, the slices are read by one loop,
which converts samples on the way (`storage.pieces`). All other stacks are read frame by frame
(`values.reading`), with the same values and errors.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from dicomdl.arrays import Values
from dicomdl.errors import IntensityError
from dicomdl.pixels.options import FREE_VOLUME_BYTES, Decoding, require_justified
from dicomdl.pixels.stored import stored_dtype
from dicomdl.storage.pieces import Pieces, Window
from dicomdl.values.bit_masks import BitMask
from dicomdl.values.one_pass import OnePass
from dicomdl.values.rescale import MODALITY_DTYPES
from dicomdl.volumes.blocks import StackVoxels


def read_plain_volume(
    readers: Sequence[StackVoxels], dtype: npt.DTypeLike | None, how: Decoding
) -> tuple[Values, BitMask | None] | None:
    """Return the values of stacks of one shape, one behind the other, as `read_converted` does.

    A reader has no cache.

    None for stacks that are read frame by frame, of which some may raise an error there.
    """
    stacks = [reader.stack for reader in readers]
    if how.reduce or not all(stack.is_constant("transfer_syntax_uid") for stack in stacks):
        return None
    wanted = _dtype(readers) if dtype is None else np.dtype(dtype)
    plain = [_Plain.of(reader, wanted) for reader in readers]
    found = [each for each in plain if each is not None and not each.waits()]
    if len(found) < len(stacks) or len({each.window for each in found}) > 1:
        return None
    shape = (sum(stack.slices for stack in stacks), *stacks[0].shape[1:])
    sources = (source for stack in stacks for source in stack.sources)
    needed = math.prod(shape) * wanted.itemsize
    require_justified(needed, sources, FREE_VOLUME_BYTES, how.max_bytes)
    array = np.empty(shape, wanted)
    has_padding = any(one.padding is not None for each in found for one in each.passes)
    mask = BitMask.empty(shape, shape[0]) if has_padding else None
    bits, passes = None if mask is None else mask.bits, _joined_passes(found)
    pieces = Pieces.joined([each.pieces for each in found])
    try:
        seen = pieces.read(0, found[0].window, array, bits, passes, how.threads)
        return array, mask if passes[0].is_padded(seen) else None
    except IntensityError:
        # Reading frame by frame finds the frame.
        return None


def _dtype(readers: Sequence[StackVoxels]) -> np.dtype[Any]:
    """Return the dtype that holds the values of all stacks, if their headers prove it."""
    is_float = any(reader.likely_dtype == np.float32 for reader in readers)
    return np.dtype(np.float32 if is_float else np.int16)


@dataclass(frozen=True, slots=True)
class _Plain:
    """A stack whose slices are converted in one pass each.

    Attributes
    ----------
    pieces, window
        The slices in their files.
    passes
        The conversion of each slice, or one of all.
    """

    pieces: Pieces
    window: Window
    passes: list[OnePass]

    @classmethod
    def of(cls, reader: StackVoxels, wanted: np.dtype[Any]) -> "_Plain | None":
        """Return the stack of a reader; None where its values may not fit, or are not plain."""
        if reader.plain is None or wanted not in MODALITY_DTYPES:
            return None
        pieces, first = reader.plain
        own = reader.distinct
        distinct = {id(each): each for each in own}
        passes = {key: OnePass.of(first, each, wanted) for key, each in distinct.items()}
        every = [one for each in own if (one := passes[id(each)]) is not None]
        if len(every) < len(own):
            return None
        row_bytes = first.columns * stored_dtype(first).itemsize
        window = Window(0, first.rows, row_bytes, 0, row_bytes)
        return cls(pieces, window, every[:1] if len(set(every)) == 1 else every)

    def waits(self) -> bool:
        """Whether reading slices one by one waits for a server."""
        return self.pieces.waits(0, len(self.pieces), self.window)


def _joined_passes(parts: Sequence[_Plain]) -> list[OnePass]:
    """Return the conversion of each slice of all stacks, or one of all."""
    if all(len(each.passes) == 1 and each.passes == parts[0].passes for each in parts):
        return parts[0].passes
    return [
        one
        for each in parts
        for one in (each.passes if len(each.passes) > 1 else each.passes * len(each.pieces))
    ]
