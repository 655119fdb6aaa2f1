"""Verification of Arrow arrays: the blocks of a mapped file that hold some of their values."""

import pyarrow as pa

from dicomdl.storage.checksums import Blocks


class MappedBlocks:
    """The blocks of a mapped Arrow file, by the addresses of the arrays in it."""

    __slots__ = ("_address", "_blocks")

    def __init__(self, blocks: Blocks, address: int) -> None:
        self._blocks, self._address = blocks, address

    def verify(self, array: pa.Array) -> None:
        """Compare the checksums of all blocks that an array reads.

        An encoded array reads its rows and the whole dictionary. Offsets are verified before they
        are followed.

        Raises
        ------
        IndexDamaged
            A block is not as the scan wrote it.
        """
        kind, first, count = array.type, array.offset, len(array)
        if pa.types.is_dictionary(kind):
            self.verify(array.dictionary)
            kind = kind.index_type
        if not count:
            return
        held = array.buffers()
        self._verify_bits(held[0], first, count, 1)
        if pa.types.is_fixed_size_list(kind):
            self.verify(array.values.slice(first * kind.list_size, count * kind.list_size))
        elif pa.types.is_list(kind):
            self._verify_bits(held[1], first, count + 1, 32)
            offsets = array.offsets
            start, stop = offsets[0].as_py(), offsets[count].as_py()
            self.verify(array.values.slice(start, stop - start))
        elif pa.types.is_large_string(kind) or pa.types.is_large_binary(kind):
            self._verify_bits(held[1], first, count + 1, 64)
            words = memoryview(held[1]).cast("q")
            start, stop = words[first], words[first + count]
            self._verify_bits(held[2], start, stop - start, 8)
        elif pa.types.is_primitive(kind):
            self._verify_bits(held[1], first, count, kind.bit_width)
        else:
            # No scan writes such a column; `soundness` refuses it.
            for buffer in filter(None, held):
                self._verify_bits(buffer, 0, buffer.size, 8)

    def _verify_bits(self, buffer: pa.Buffer | None, first: int, count: int, bits: int) -> None:
        """Compare the blocks of `count` items of `bits` from item `first` on; None has none."""
        if buffer is not None and count > 0:
            start = buffer.address - self._address
            self._blocks.verify(start + first * bits // 8, start + -(-(first + count) * bits // 8))
