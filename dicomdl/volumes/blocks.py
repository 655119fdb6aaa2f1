"""Blocks of voxels of a stack, read without the rest of it.

For plain frames, a block costs one positioned read per slice, of the rows that it covers. For coded
frames, it costs the decoding of its slices, which stay in memory for the next blocks (see
`storage.memory`). With a disk or memory cache, a coded stack is decoded once, as a whole, for all
processes. A block has the same values, bit by bit, as `read_volume` gives: each slice goes through
the same conversion.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from dicomdl.arrays import Bits, Float32, Mask, Values, Voxel
from dicomdl.errors import IntensityError, PixelError
from dicomdl.geometry.grid import Geometry
from dicomdl.headers.frame import Frame
from dicomdl.headers.frame_source import FILE_FIELDS, FrameSource
from dicomdl.index.views import Stack
from dicomdl.lazy import cached_property
from dicomdl.pixels.options import WHOLE, Decoding
from dicomdl.pixels.read import frames_ahead_of
from dicomdl.pixels.stored import (
    add_frame_note,
    as_meant,
    is_plain,
    stored_dtype,
    stored_range,
)
from dicomdl.storage.cache.stats import Cache
from dicomdl.storage.memory import remembered, share
from dicomdl.storage.pieces import Changes, Pieces, Window
from dicomdl.storage.sources import Source
from dicomdl.values.bit_masks import BitMask
from dicomdl.values.conversion import Conversion, conversions, quantity_units
from dicomdl.values.intensity import Intensity
from dicomdl.values.looked_up import LookUp
from dicomdl.values.network_tables import network_table
from dicomdl.values.one_pass import OnePass
from dicomdl.values.quantity import Quantity
from dicomdl.values.reading import Converted, read_converted
from dicomdl.values.rescale import dtypes_to_try, in_first_that_fits, modality_dtype
from dicomdl.volumes.block_reader import Scratch, require_inside
from dicomdl.volumes.caching import StackCache, StackSamples, is_worth_caching, takes_samples

# Facts that all frames of a stack must share for its blocks to be read as plain bytes. Byte offsets
# and files may differ.
_UNIFORM: Final = (
    *(
        "transfer_syntax_uid",
        "rows",
        "columns",
        "samples_per_pixel",
        "photometric_interpretation",
        "planar_configuration",
    ),
    *(
        "bits_allocated",
        "bits_stored",
        "high_bit",
        "pixel_representation",
        "float_pixels",
        "deflated",
        "coded_rows",
    ),
)


class StackVoxels:
    """Reader of blocks of one stack, with the values that `read_volume` gives.

    Parameters
    ----------
    stack
        A stack of ``index.stacks``; all its slices have one size.
    quantity
        Quantity of the values, as for ``read_volume(values=)``.
    cache
        Cache for the values of the stack, if `is_worth_caching`, or for the samples of a plain one,
        if the cache takes these.
    how
        Options of decoding; their limit holds per slice, and per stack where a cache decodes it as
        a whole.
    """

    def __init__(
        self,
        stack: Stack,
        quantity: Quantity = "modality",
        cache: Cache | None = None,
        how: Decoding = WHOLE,
    ) -> None:
        self.stack = stack
        self._quantity = quantity
        self._how = how
        self.shape = stack.shape
        self.conversions = conversions(stack, quantity)
        first = self.conversions[0]
        self._one_conversion = all(each is first or each == first for each in self.conversions)
        self._first = stack.source(0)
        self.is_colour = first.is_colour(self._first)
        uniform = all(stack.is_constant(name) for name in _UNIFORM)
        self._plain = (
            uniform and not (self.is_colour or self._first.coded_rows) and is_plain(self._first)
        )
        self._pieces = self._located() if self._plain else None
        self._cache: StackCache | None = None
        if cache is not None and is_worth_caching(stack):
            self._cache = StackCache(cache, stack, quantity, self.conversions, how)
        self._kept: StackSamples | None = None
        if cache is not None and self._plain and takes_samples(cache, stored_dtype(self._first)):
            self._kept = StackSamples(cache, stack, self._whole)
        self._integral = (
            all(each.is_integral for each in self.distinct) and not self._first.float_pixels
        )

    def _located(self) -> Pieces:
        """Return the byte offset of each slice, and its file as the scan saw it."""
        columns = (self.stack.values(name) for name in FILE_FIELDS)
        offsets = np.array(self.stack.values("byte_offset"), np.int64)
        return Pieces(list(map(Source, *columns)), offsets, self._note)

    def _note(self, error: PixelError, number: int) -> None:
        add_frame_note(error, self.stack.source(number))

    def read(
        self,
        start: Voxel,
        stop: Voxel,
        scratch: Scratch | None = None,
        *,
        want_padding: bool = True,
    ) -> Converted:
        """Read the block from voxel `start` up to `stop`, which is excluded.

        Parameters
        ----------
        start, stop
            (slice, row, column) corners of the block, inside the stack.
        scratch
            Memory for the values, valid until the next read. Fresh pages cost as much as the
            read itself. None allocates new memory.
        want_padding
            False skips the search for padding.

        Returns
        -------
        Converted
            Values (slice, row, column[, sample]): int16 if all fit, else int32, else float32;
            colour as stored. And a mask of padding, None if there is none.

        Raises
        ------
        UsageError
            The block is not inside the stack.
        PixelError, IntensityError
            As for `read_volume`. Notes name the file and the frame.
        """
        require_inside(start, stop, self.shape)
        slices, window = (
            range(start[0], stop[0]),
            (slice(start[1], stop[1]), slice(start[2], stop[2])),
        )
        if self._cache is not None and (cached := self._cache.block(start, stop)) is not None:
            return cached
        if self._plain:
            return self._converted(slices, window, scratch or Scratch(), want_padding=want_padding)
        with frames_ahead_of(self._first.path, lambda: [self.stack.source(z) for z in slices]):
            decoded = [self._slice(z) for z in slices]
        if self.is_colour:
            return Converted(np.stack([part.array[window] for part in decoded]), None)
        is_float = not self._integral or any(part.array.dtype.kind == "f" for part in decoded)
        dtype = (
            np.dtype(np.float32) if is_float else np.result_type(*(part.array for part in decoded))
        )
        array = np.stack([part.array[window] for part in decoded], dtype=dtype, casting="same_kind")
        masks = [None if part.padding is None else part.padding[window] for part in decoded]
        if all(mask is None for mask in masks):
            return Converted(array, None)
        return Converted(
            array,
            np.stack(
                [np.zeros(array.shape[1:], np.bool_) if mask is None else mask for mask in masks]
            ),
        )

    @property
    def stored_axes(self) -> tuple[int, int, int]:
        """(0, 1, 2): blocks are (slice, row, column)."""
        return 0, 1, 2

    @cached_property
    def geometry(self) -> Geometry:
        """The grid of the stack; its affine is NaN where unknown."""
        return self.stack.geometry

    @cached_property
    def middle(self) -> Frame:
        """The facts of the middle slice."""
        return self.stack.middle

    @cached_property
    def units(self) -> str:
        """The units of the values."""
        return quantity_units(self.stack, self._quantity)

    @property
    def distinct(self) -> Sequence[Conversion]:
        """The conversion of each slice, or one of all."""
        return self.conversions[:1] if self._one_conversion else self.conversions

    @cached_property
    def always_int16(self) -> bool:
        """Whether blocks of plain frames are int16 for all possible stored values.

        Parts of a block may then be read one after the other.
        """
        if (
            not (self._plain and self._integral and self._one_conversion)
            or self.conversions[0].table is not None
        ):
            return False
        rescale = self.conversions[0].rescale
        return modality_dtype([rescale], *stored_range(self._first)) == np.int16

    @property
    def samples(self) -> tuple[int, ...]:
        """Last axis of blocks: () for grey, (3,) for RGB."""
        if not self.is_colour:
            return ()
        return (3,) if self._first.samples_per_pixel == 1 else (self._first.samples_per_pixel,)

    @property
    def likely_dtype(self) -> np.dtype[Any]:
        """Dtype of blocks, unless values turn out not to fit it."""
        if self.is_colour:
            return (
                np.dtype(np.uint8)
                if self._first.samples_per_pixel == 1
                else stored_dtype(self._first)
            )
        return np.dtype(np.int16 if self._integral else np.float32)

    @cached_property
    def padding_top(self) -> float:
        """Highest converted value of padding in the stack; -inf without padding."""
        ends = [
            (one, end) for one in self.distinct if one.padding is not None for end in one.padding
        ]
        tables = any(one.table is not None for one, _ in ends)
        return (
            math.inf
            if tables
            else max(
                (one.rescale.slope * end + one.rescale.intercept for one, end in ends),
                default=-math.inf,
            )
        )

    # --- plain frames ---

    @cached_property
    def plain(self) -> tuple[Pieces, FrameSource] | None:
        """The slices of plain frames, with all bytes of each, and the facts that they share.

        None for other frames.
        """
        if self._pieces is None:
            return None
        row_bytes = self._first.columns * stored_dtype(self._first).itemsize
        lengths = np.asarray(self.stack.values("byte_length"))
        return (self._pieces, self._first) if lengths.min() >= self.shape[1] * row_bytes else None

    def network_table(self, recipe: Intensity, *, marks_padding: bool) -> Float32 | None:
        """Return the network value of each sample (see `values.network_tables`).

        None where blocks have none.
        """
        if not (self._plain and self._one_conversion) or self._cache is not None:
            return None
        own = self.conversions[0]
        return network_table(self._first, own, recipe, marks_padding=marks_padding)

    def read_by(
        self, table: Float32, start: Voxel, stop: Voxel, out: Float32, *, threads: int = 1
    ) -> None:
        """Fill `out` with the network values of a block, by a `network_table` of this reader."""
        require_inside(start, stop, self.shape)
        window = slice(start[1], stop[1]), slice(start[2], stop[2])
        slices, look_up = range(start[0], stop[0]), LookUp(table)
        kept = self._kept_samples(slices, window, is_owned=False)
        if kept is None:
            self._read_samples(slices, window, out, changes=[look_up], threads=threads)
        else:
            look_up(kept, out, None)

    def _kept_samples(
        self, slices: range, window: tuple[slice, slice], *, is_owned: bool = True
    ) -> Values | None:
        """Return the samples of a block, as the files have them, from the cache of samples.

        The caller may write to them if `is_owned`. None where they are read from the files.
        """
        if self._kept is None:
            return None
        start = slices.start, window[0].start, window[1].start
        stop = slices.stop, window[0].stop, window[1].stop
        return self._kept.block(start, stop, is_owned=is_owned)

    def _whole(self) -> Values:
        """Read the samples of the stack."""
        samples = np.empty(self.shape, stored_dtype(self._first))
        window = slice(0, self.shape[1]), slice(0, self.shape[2])
        self._read_samples(range(self.shape[0]), window, samples)
        return samples

    def _read_samples(
        self,
        slices: range,
        window: tuple[slice, slice],
        out: Values,
        bits: Bits | None = None,
        changes: Changes = (),
        threads: int = 1,
    ) -> int:
        """Fill `out` with a block, as `Pieces.read` does."""
        assert self._pieces is not None
        item, (rows, columns) = stored_dtype(self._first).itemsize, window
        row_bytes = self._first.columns * item
        part = Window(
            rows.start * row_bytes,
            rows.stop - rows.start,
            row_bytes,
            columns.start * item,
            (columns.stop - columns.start) * item,
        )
        return self._pieces.read(slices.start, part, out, bits, changes, threads)

    def _converted(
        self,
        slices: range,
        window: tuple[slice, slice],
        scratch: Scratch,
        *,
        want_padding: bool,
    ) -> Converted:
        """Read and convert a block, all slices at once where they share one conversion."""
        stored, one = self._kept_samples(slices, window), self._one_pass
        shape = (len(slices), *(part.stop - part.start for part in window))
        if one is not None:
            if stored is not None and stored.itemsize == one.values.itemsize:
                array = stored.view(one.values)
            else:
                array = scratch.block(shape, one.values)
            mask = None
            if want_padding and one.padding is not None:
                mask = BitMask.empty(shape, len(slices) if stored is None else 1)
            bits = None if mask is None else mask.bits
            if stored is None:
                found = self._read_samples(slices, window, array, bits, [one])
            else:
                found = one(stored, array, bits)
            is_padded = one.is_padded(found)
            return Converted(array, mask.unpacked() if mask is not None and is_padded else None)
        if stored is None:
            stored = scratch.block(shape, stored_dtype(self._first))
            self._read_samples(slices, window, stored)
        as_meant(stored, self._first)
        own = [self.conversions[z] for z in slices]
        bounds = None if stored.dtype.kind == "f" else stored_range(self._first)

        def attempt(dtype: np.dtype[Any]) -> Converted:
            return self._as(stored, own, dtype, bounds, want_padding=want_padding)

        # integral by the whole stack, as in `read_volume`
        try:
            return in_first_that_fits(attempt, dtypes_to_try(integral=self._integral))
        except IntensityError as error:
            add_frame_note(error, self.stack.source(slices[0]))
            raise

    @cached_property
    def _one_pass(self) -> OnePass | None:
        """The steps for samples of int16 stacks; None where blocks need several passes."""
        if not self.always_int16:
            return None
        return OnePass.of(self._first, self.conversions[0], np.dtype(np.int16))

    def _as(
        self,
        stored: Values,
        own: Sequence[Conversion],
        dtype: np.dtype[Any],
        bounds: tuple[int, int] | None,
        *,
        want_padding: bool,
    ) -> Converted:
        # In place only for a single conversion: with several, one may fail after others have
        # written, and the stored values are still needed for the next dtype.
        in_place = (
            self._one_conversion
            and dtype.kind == "i"
            and dtype.itemsize == stored.itemsize
            and own[0].table is None
        )
        array = stored.view(dtype) if in_place else np.empty(stored.shape, dtype)
        padding: Mask | None = None
        parts = (
            [slice(None)]
            if self._one_conversion
            else [slice(number, number + 1) for number in range(len(own))]
        )
        for part in parts:
            conversion = own[part.start or 0]
            mask = conversion.padding_of(stored[part]) if want_padding else None
            if mask is not None:
                padding = np.zeros(stored.shape, np.bool_) if padding is None else padding
                padding[part] = mask
            conversion(stored[part], array[part], bounds)
        return Converted(array, padding)

    # --- coded frames ---

    def _slice(self, z: int) -> Converted:
        """Return one slice, decoded and converted, from memory if a block has used it before."""
        return _slices.of(
            (self.stack.key, z, self.conversions[z]), functools.partial(self._decoded, z)
        )

    def _decoded(self, z: int) -> Converted:
        sources, per_slice = [self.stack.source(z)], [self.conversions[z]]
        array, padding = read_converted(sources, per_slice, how=self._how)
        return Converted(array[0], None if padding is None else padding[0])


def _size(value: Converted) -> int:
    return value.array.nbytes + (0 if value.padding is None else value.padding.nbytes)


_slices: Final = share("slices", _size)


def voxels_of(
    stack: Stack,
    quantity: Quantity = "modality",
    cache: Cache | None = None,
    how: Decoding = WHOLE,
) -> StackVoxels:
    """Return the reader of a stack; it stays in memory for the next block."""
    return _known_voxels(stack, quantity, cache, how)


def _reader_size(reader: StackVoxels) -> int:
    """Estimate the bytes of a reader: a path, three numbers and a conversion per slice.

    Look-up tables count in their own share of the memory budget.
    """
    return 512 * reader.shape[0]


@remembered("stack readers", _reader_size)
def _known_voxels(
    stack: Stack, quantity: Quantity, cache: Cache | None, how: Decoding
) -> StackVoxels:
    return StackVoxels(stack, quantity, cache, how)
