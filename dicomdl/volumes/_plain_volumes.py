"""Whole stacks of plain frames, read and converted in threads.

The rule: where the header proves that all values fit the dtype, each thread reads a stretch of the
slices in one loop, which converts samples on the way (`storage.pieces`). All other
stacks are read frame by frame (`values.reading`), with the same values and errors. Each thread has
at least `_THREAD_BYTES` to read: starting one costs as much as reading a tenth of that.
"""

import itertools
import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from dicomdl.arrays import Bits, Values
from dicomdl.errors import IntensityError
from dicomdl.pixels.options import FREE_VOLUME_BYTES, Decoding, require_justified
from dicomdl.pixels.stored import stored_dtype
from dicomdl.storage.pieces import Pieces, Window
from dicomdl.values.bit_masks import BitMask
from dicomdl.values.one_pass import OnePass
from dicomdl.values.rescale import MODALITY_DTYPES
from dicomdl.volumes.blocks import StackVoxels

_THREAD_BYTES: Final = 4 * 2**20


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
    if len(found) < len(stacks):
        return None
    shape = (sum(stack.slices for stack in stacks), *stacks[0].shape[1:])
    sources = (source for stack in stacks for source in stack.sources)
    needed = math.prod(shape) * wanted.itemsize
    require_justified(needed, sources, FREE_VOLUME_BYTES, how.max_bytes)
    array = np.empty(shape, wanted)
    has_padding = any(each.has_padding for each in found)
    mask = BitMask.empty(shape, shape[0]) if has_padding else None
    threads = min(how.threads, needed // _THREAD_BYTES)
    bits = None if mask is None else mask.bits
    try:
        padded = _in_threads(_stretches(found, array, bits, max(1, threads)))
    except IntensityError:
        # Reading frame by frame finds the frame.
        return None
    return array, mask if padded else None


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

    @property
    def has_padding(self) -> bool:
        """Whether some stored value means padding."""
        return any(one.padding is not None for one in self.passes)

    def waits(self) -> bool:
        """Whether reading slices one by one waits for a server."""
        return self.pieces.waits(0, len(self.pieces), self.window)

    def fill(self, slices: range, out: Values, bits: Bits | None) -> bool:
        """Fill `out` and the bits of its mask with some slices; return whether one is padded."""
        passes = self.passes if len(self.passes) == 1 else self.passes[slices.start : slices.stop]
        found = self.pieces.read(slices.start, self.window, out, bits, passes)
        return passes[0].is_padded(found)


class _Part(NamedTuple):
    """Slices of a stack, and where they go."""

    plain: _Plain
    slices: range
    out: Values
    bits: Bits | None


def _stretches(
    plain: Sequence[_Plain], array: Values, bits: Bits | None, threads: int
) -> list[list[_Part]]:
    """Return the parts of the volume that each thread reads."""
    ends = [len(array) * number // threads for number in range(threads + 1)]
    stretches = []
    for begin, end in itertools.pairwise(ends):
        parts, start = [], 0
        for each in plain:
            low, high = max(begin, start), min(end, start + len(each.pieces))
            if low < high:
                own = None if bits is None else bits[low:high]
                parts.append(_Part(each, range(low - start, high - start), array[low:high], own))
            start += len(each.pieces)
        stretches.append(parts)
    return stretches


def _in_threads(stretches: Sequence[Sequence[_Part]]) -> bool:
    """Fill each stretch in a thread, the last one in this; return whether some value is padding.

    After an error, the other threads stop when their part is done.
    """
    padded = [False] * len(stretches)
    errors: dict[int, BaseException] = {}

    def work(number: int) -> None:
        try:
            for part in stretches[number]:
                if errors:
                    break
                padded[number] |= part.plain.fill(part.slices, part.out, part.bits)
        except BaseException as error:
            errors[number] = error

    # Futures of a pool would take as long as 5 slices.
    threads = [threading.Thread(target=work, args=(n,)) for n in range(len(stretches) - 1)]
    for thread in threads:
        thread.start()
    work(len(threads))
    for thread in threads:
        thread.join()
    if errors:
        raise errors[min(errors)]
    return any(padded)
