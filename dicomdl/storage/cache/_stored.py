"""An entry in the format of `_layout`, read from a source; every block is verified before use.

If the source can be mapped, a block is verified once per process and read from the map from then
on. Otherwise each read takes a copy of its blocks and verifies the copy.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from dicomdl.arrays import Mask, Values
from dicomdl.storage.cache._layout import (
    Identity,
    Overlap,
    blosc2_codec,
    checksum_of,
    overlaps,
    read_layout,
)
from dicomdl.storage.cache.entries import Box, Lost, slices_of, unpacked_mask

Bytes: TypeAlias = npt.NDArray[np.uint8]


class Source(Protocol):
    """The bytes of an entry."""

    size: int
    # Distinguishes the entry from its successor: an inode, or a position in a ring.
    number: int
    # Whether mapped bytes never change.
    is_steady: bool

    def map(self) -> Bytes | None:
        """Return all bytes as mapped memory; None if they may change during a read."""
        ...

    def read(self, start: int, end: int) -> Bytes:
        """Return a private copy of the bytes from `start` to `end`; raise Lost if impossible."""
        ...

    def require_whole(self) -> None:
        """Raise Lost if any byte of the entry has been overwritten."""
        ...


class StoredEntry:
    """An entry of a source; creation raises Lost unless it is the undamaged entry of the key.

    Parameters
    ----------
    source
        The bytes of the entry.
    digest
        The key, 64 hexadecimal digits.
    known
        Function that returns the `verified_bits` of the same entry if it was open before.
    """

    def __init__(
        self,
        source: Source,
        digest: str,
        known: Callable[[Identity], bytes | None] | None = None,
    ) -> None:
        self.source = source
        self.layout = layout = read_layout(source.read, source.size, digest)
        source.require_whole()
        self.shape, self.dtype, self.has_mask = layout.shape, layout.dtype, layout.has_mask
        self.identity = (digest, source.number, layout.writing)
        count = len(layout.checksums)
        bits = known(self.identity) if known else None
        self.verified = (
            np.zeros(count, bool)
            if bits is None
            else np.unpackbits(np.frombuffer(bits, np.uint8), count=count) > 0
        )
        self._bytes = source.map()
        self._array: Values | None = None
        self._packed: Bytes | None = None
        if self._bytes is not None:
            if layout.format == "raw":
                whole = self._bytes[layout.values_at : layout.offsets[-1]]
                self._array = whole.view(layout.dtype).reshape(layout.shape)
            if layout.has_mask:
                self._packed = self._bytes[layout.mask_at : layout.file_bytes].reshape(
                    layout.shape[0], *layout.mask_slice
                )

    def verified_bits(self) -> bytes:
        """Return one bit per verified block, for the argument `known` of the next opening."""
        return np.packbits(self.verified).tobytes()

    def values(self, box: Box) -> Values:
        """Return a new array of a box of the values; raise Lost if one of its blocks is damaged."""
        values = self._values(box)
        if self._array is not None:
            values = values.copy()
        self.source.require_whole()
        return values

    def steady_values(self, box: Box) -> Values:
        """Return the values of a box, mapped where they never change; raise Lost as `values`."""
        if not self.source.is_steady:
            return self.values(box)
        values = self._values(box)
        self.source.require_whole()
        return values

    def mask(self, box: Box) -> Mask:
        """Return a new array of a box of the mask; raise Lost if one of its slices is damaged."""
        slices, rows, columns = box
        first, shape = len(self.layout.lengths), self.layout.mask_slice
        blocks = [self._block(first + number) for number in range(*slices)]
        packed = (
            np.array(blocks, np.uint8).reshape(-1, *shape)
            if self._packed is None
            else self._packed[slice(*slices)]
        )
        mask = unpacked_mask(packed, rows, columns)
        self.source.require_whole()
        return mask

    def require_whole(self) -> None:
        """Verify all blocks; raise Lost if any is damaged."""
        for number in range(len(self.layout.checksums)):
            self._block(number)

    def _values(self, box: Box) -> Values:
        """Return the verified values of a box: mapped, or a new array without a map."""
        layout = self.layout
        if self._array is not None and self._is_verified(box):
            return self._array[slices_of(box)]
        axes = [
            overlaps(*ends, step, length)
            for ends, step, length in zip(box, layout.block, layout.shape, strict=False)
        ]
        if self._array is not None:
            for part in itertools.product(*axes):
                self._block(self._number(part))
            return self._array[slices_of(box)]
        out = np.empty((*(stop - start for start, stop in box), *layout.samples), layout.dtype)
        for part in itertools.product(*axes):
            slices, rows, columns = part
            shape = (slices.extent, rows.extent, columns.extent, *layout.samples)
            tile = self._tile(self._number(part), shape)
            inside = tile[slices.inside, rows.inside, columns.inside]
            out[slices.target, rows.target, columns.target] = inside
        return out

    def _is_verified(self, box: Box) -> bool:
        grid = self.verified[: len(self.layout.lengths)].reshape(self.layout.grid)
        touched = (
            slice(start // step, -(-stop // step))
            for (start, stop), step in zip(box, self.layout.block, strict=True)
        )
        return bool(grid[tuple(touched)].all())

    def _number(self, part: Sequence[Overlap]) -> int:
        """Return the number of a block in C order."""
        _, rows, columns = self.layout.grid
        return (part[0].block * rows + part[1].block) * columns + part[2].block

    def _tile(self, number: int, shape: tuple[int, ...]) -> Values:
        """Return the values of one block, whose shape is given."""
        layout, data = self.layout, self._block(number)
        if layout.format == "raw":
            return data.view(layout.dtype).reshape(shape)
        tile = np.empty(shape, layout.dtype)
        try:
            decoded = blosc2_codec().blosc2_decode(
                data, numthreads=1, out=tile.reshape(-1).view(np.uint8)
            )
        except (ValueError, RuntimeError) as error:
            raise Lost from error
        if len(decoded) != tile.nbytes:
            raise Lost
        return tile

    def _block(self, number: int) -> Bytes:
        """Return the verified bytes of a block. A mapped block is verified once, a copy always."""
        layout, blocks = self.layout, len(self.layout.lengths)
        if number < blocks:
            start, end = layout.offsets[number], layout.offsets[number + 1]
        else:
            length = layout.mask_slice[0] * layout.mask_slice[1]
            start = layout.mask_at + (number - blocks) * length
            end = start + length
        if self._bytes is not None:
            data = self._bytes[start:end]
            if self.verified[number]:
                return data
        else:
            data = self.source.read(start, end)
        if checksum_of()(data) != layout.checksums[number]:
            raise Lost
        self.verified[number] = True
        return data
