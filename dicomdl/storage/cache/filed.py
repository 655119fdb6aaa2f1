"""storage.cache.filed"""

import itertools
import mmap
import os
import weakref
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from dicomdl.arrays import Mask, Values
from dicomdl.storage.cache.entries import Box, Lost, slices_of, unpacked_mask
from dicomdl.storage.cache.layout import (
    Identity,
    Overlap,
    blosc2_codec,
    checksum_of,
    overlaps,
    read_layout,
)
from dicomdl.storage.system import read_at


class Filed:
    """An entry in a file that this process has open: mapped, or read block by block where a map is not safe."""

    def __init__(
        self,
        descriptor: int,
        digest: str,
        mapped: bool,
        known: Callable[["Identity"], bytes | None] | None = None,
    ) -> None:
        """The descriptor stays the caller's. `known` gives the `verified_bits` of the same file, if it was open before."""
        self.layout = layout = read_layout(descriptor, digest)
        self.shape, self.dtype, self.has_mask = layout.shape, layout.dtype, layout.has_mask
        self.status = os.fstat(descriptor)
        self.identity = (digest, self.status.st_ino, layout.writing)
        count = len(layout.checksums)
        bits = known(self.identity) if known else None
        self.verified = (
            np.zeros(count, bool)
            if bits is None
            else np.unpackbits(np.frombuffer(bits, np.uint8), count=count) > 0
        )
        self._bytes = self._array = self._packed = None
        if mapped:
            # Never closed by hand: the last array that looks into the map closes it.
            self._bytes = np.frombuffer(
                mmap.mmap(descriptor, layout.file_bytes, access=mmap.ACCESS_READ), np.uint8
            )
            if layout.format == "raw":
                whole = self._bytes[layout.values_at : layout.offsets[-1]]
                self._array = whole.view(layout.dtype).reshape(layout.shape)
            if layout.has_mask:
                self._packed = self._bytes[layout.mask_at :].reshape(
                    layout.shape[0], *layout.mask_slice
                )
        else:
            self._descriptor = os.dup(descriptor)
            weakref.finalize(self, os.close, self._descriptor)

    def verified_bits(self) -> bytes:
        """Which blocks are verified, a bit each: for `known` of the next time."""
        return np.packbits(self.verified).tobytes()

    def values(self, box: Box) -> Values:
        """A new array of a box of the values; Lost where one of its blocks is damaged."""
        layout = self.layout
        if self._array is not None and self._is_verified(box):
            return self._array[slices_of(box)].copy()
        axes = [
            overlaps(*ends, step, length)
            for ends, step, length in zip(box, layout.block, layout.shape, strict=False)
        ]
        if self._array is not None:
            for one in itertools.product(*axes):
                self._block(self._number(one))
            return self._array[slices_of(box)].copy()
        out = np.empty((*(stop - start for start, stop in box), *layout.samples), layout.dtype)
        for one in itertools.product(*axes):
            tile = self._tile(
                self._number(one), (one[0].extent, one[1].extent, one[2].extent, *layout.samples)
            )
            out[one[0].target, one[1].target, one[2].target] = tile[
                one[0].inside, one[1].inside, one[2].inside
            ]
        return out

    def mask(self, box: Box) -> Mask:
        """A new array of a box of the mask; Lost where one of its slices is damaged."""
        slices, rows, columns = box
        first, shape = len(self.layout.lengths), self.layout.mask_slice
        blocks = [self._block(first + number) for number in range(*slices)]
        if self._packed is not None:
            return unpacked_mask(self._packed[slice(*slices)], rows, columns)
        return unpacked_mask(np.array(blocks, np.uint8).reshape(-1, *shape), rows, columns)

    def _is_verified(self, box: Box) -> bool:
        grid = self.verified[: len(self.layout.lengths)].reshape(self.layout.grid)
        touched = (
            slice(start // step, -(-stop // step))
            for (start, stop), step in zip(box, self.layout.block, strict=True)
        )
        return bool(grid[tuple(touched)].all())

    def require_whole(self) -> None:
        """Lost if any block of the file is damaged."""
        for number in range(len(self.layout.checksums)):
            self._block(number)

    def _number(self, one: Sequence["Overlap"]) -> int:
        _, rows, columns = self.layout.grid
        return (one[0].place * rows + one[1].place) * columns + one[2].place

    def _tile(self, number: int, shape: tuple[int, ...]) -> Values:
        """The values of one block, which has that shape."""
        layout, data = self.layout, self._block(number)
        if layout.format == "raw":
            return data.view(layout.dtype).reshape(shape)
        tile = np.empty(shape, layout.dtype)
        try:
            found = blosc2_codec().blosc2_decode(
                data, numthreads=1, out=tile.reshape(-1).view(np.uint8)
            )
        except (ValueError, RuntimeError) as error:
            raise Lost from error
        if len(found) != tile.nbytes:
            raise Lost
        return tile

    def _block(self, number: int) -> npt.NDArray[np.uint8]:
        """The bytes of a block, with their checksum verified: the first time of a map, each time of a read."""
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
            data = self._read(start, end)
        if checksum_of()(data) != layout.checksums[number]:
            raise Lost
        self.verified[number] = True
        return data

    def _read(self, start: int, end: int) -> npt.NDArray[np.uint8]:
        try:
            data = read_at(self._descriptor, end - start, start)
        except OSError as error:  # a network file system whose server has dropped the file
            raise Lost from error
        return np.frombuffer(data, np.uint8)
