"""Whole stacks of plain frames, read and converted part by part in threads.

The rule: where the header proves that all values fit the dtype, threads read a few slices at a time
straight into the result and convert them there, while they are in the processor's cache. All other
stacks are read frame by frame (`values.reading`), with the same values and errors. Each thread has
at least `_THREAD_BYTES` to read: starting one costs as much as reading a tenth of that.
"""

import itertools
import math
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from dicomdl.arrays import Mask, Values
from dicomdl.errors import IntensityError
from dicomdl.index.views import Stack
from dicomdl.pixels.options import FREE_VOLUME_BYTES, Decoding, require_justified
from dicomdl.pixels.stored import stored_dtype
from dicomdl.storage.pieces import Pieces, Window
from dicomdl.values.one_pass import OnePass
from dicomdl.values.quantity import Quantity
from dicomdl.values.reading import Converted
from dicomdl.values.rescale import MODALITY_DTYPES
from dicomdl.volumes.block_reader import Scratch
from dicomdl.volumes.blocks import StackVoxels, voxels_of

# Bytes that a processor's cache keeps between reading and conversion.
_PART_BYTES: Final = 256 * 2**10
_THREAD_BYTES: Final = 4 * 2**20


def read_plain_volume(
    stacks: Sequence[Stack], quantity: Quantity, dtype: npt.DTypeLike | None, how: Decoding
) -> Converted | None:
    """Return the values of stacks of one shape, one behind the other, as `read_converted` does.

    None for stacks that are read frame by frame, of which some may raise an error there.
    """
    if how.reduce or not all(stack.is_constant("transfer_syntax_uid") for stack in stacks):
        return None
    readers = [voxels_of(stack, quantity) for stack in stacks]
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
    # Zeroed memory costs nothing until a mask is written.
    mask = np.zeros(shape, np.bool_) if any(each.has_padding for each in found) else None
    try:
        padded = _in_threads(_parts(found, array, mask), min(how.threads, needed // _THREAD_BYTES))
    except IntensityError:
        # Reading frame by frame finds the frame.
        return None
    return Converted(array, mask if padded else None)


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
    dtype
        The dtype of their samples.
    passes
        The conversion of each slice; equal ones are one object.
    """

    pieces: Pieces
    window: Window
    dtype: np.dtype[Any]
    passes: list[OnePass]

    @classmethod
    def of(cls, reader: StackVoxels, wanted: np.dtype[Any]) -> "_Plain | None":
        """Return the stack of a reader; None where its values may not fit, or are not plain."""
        if reader.plain is None or wanted not in MODALITY_DTYPES:
            return None
        pieces, first = reader.plain
        distinct = {id(each): each for each in reader.conversions}
        passes = {key: OnePass.of(first, each, wanted) for key, each in distinct.items()}
        every = [one for each in reader.conversions if (one := passes[id(each)]) is not None]
        if len(every) < len(reader.conversions):
            return None
        dtype = stored_dtype(first)
        row_bytes = first.columns * dtype.itemsize
        return cls(pieces, Window(0, first.rows, row_bytes, 0, row_bytes), dtype, every)

    @property
    def has_padding(self) -> bool:
        """Whether some stored value means padding."""
        return any(one.padding is not None for one in self.passes)

    @property
    def step(self) -> int:
        """The slices of a part."""
        is_one = all(one is self.passes[0] for one in self.passes)
        return max(1, _PART_BYTES // self.window.size) if is_one else 1

    def waits(self) -> bool:
        """Whether reading slices one by one waits for a server."""
        return self.pieces.waits(0, len(self.pieces), self.window)

    def fill(self, first: int, out: Values, mask: Mask | None, scratch: Scratch) -> bool:
        """Fill `out` and its mask with slices from number `first`; return whether one is padded."""
        is_in_place = out.itemsize == self.dtype.itemsize
        samples = (
            out.view(self.dtype) if is_in_place else scratch.array("stored", out.shape, self.dtype)
        )
        self.pieces.read(first, self.window, samples.reshape(-1).view(np.uint8))
        one = self.passes[first]
        return one(samples, out, None if one.padding is None else mask)


class _Part(NamedTuple):
    """Slices of a volume that are read at once, and where they go."""

    plain: _Plain
    first: int
    out: Values
    mask: Mask | None


def _parts(plain: Sequence[_Plain], array: Values, mask: Mask | None) -> list[_Part]:
    parts, start = [], 0
    for each in plain:
        count, step = len(each.pieces), each.step
        for first in range(0, count, step):
            at = slice(start + first, start + min(first + step, count))
            parts.append(_Part(each, first, array[at], None if mask is None else mask[at]))
        start += count
    return parts


def _in_threads(parts: Sequence[_Part], threads: int) -> bool:
    """Fill all parts, each thread those of one stretch; return whether some value is padding.

    After an error, the other threads stop when their part is done.
    """
    failed = threading.Event()

    def work(stretch: Sequence[_Part]) -> bool:
        scratch, padded = Scratch(), False
        for part in stretch:
            if failed.is_set():
                break
            try:
                padded |= part.plain.fill(part.first, part.out, part.mask, scratch)
            except BaseException:
                failed.set()
                raise
        return padded

    if threads <= 1:
        return work(parts)
    ends = [len(parts) * number // threads for number in range(threads + 1)]
    with ThreadPoolExecutor(threads) as pool:
        return any(list(pool.map(work, [parts[a:b] for a, b in itertools.pairwise(ends)])))
