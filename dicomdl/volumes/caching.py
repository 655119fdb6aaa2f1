"""Stacks whose values a cache keeps, and which those are."""

import hashlib
import itertools
import multiprocessing
from collections.abc import Sequence

from dicomdl.arrays import Voxel
from dicomdl.errors import FileChanged, PixelError
from dicomdl.index.views import Stack
from dicomdl.pixels.options import Decoding
from dicomdl.pixels.stored import is_native, named
from dicomdl.storage.cache.entries import Arrays, Entry
from dicomdl.storage.cache.keys import Key, KeyFile, stack_key
from dicomdl.storage.cache.stats import Cache
from dicomdl.storage.sources import look_up
from dicomdl.storage.system import available_cores
from dicomdl.values.conversion import Conversion
from dicomdl.values.quantity import Quantity
from dicomdl.values.reading import Converted, read_converted


def is_worth_caching(stack: Stack) -> bool:
    """Whether a cache keeps the values of a stack: where frames must be decompressed for them.

    What is stored as plain samples needs none, in whatever order its bytes lie: the file holds
    the values already, and a cache would hold them twice.
    """
    name = "transfer_syntax_uid"
    if stack.is_constant(name):
        return not is_native(stack.value(name))
    return not all(map(is_native, stack.values(name)))


class StackCache:
    """One stack in a cache.

    Read whole for the first block, by whichever process wants one first.
    """

    def __init__(
        self,
        cache: Cache,
        stack: Stack,
        quantity: Quantity,
        conversions: Sequence[Conversion],
        max_bytes: int | None,
    ) -> None:
        self._cache: Cache | None = cache
        self._stack = stack
        self._quantity = quantity
        self._conversions = conversions
        self._max_bytes = max_bytes
        self._entry: Entry | None = None

    @property
    def is_given_up(self) -> bool:
        """Whether slices have to be decoded one by one after all."""
        return self._cache is None

    def block(self, start: Voxel, stop: Voxel) -> Converted | None:
        """The block out of the cache; None, now and from now on, where the cache is given up.

        That is where a slice is damaged, which must not lose the others, and where the cache
        cannot hold the stack, which must not be kept by every worker for itself.
        """
        if self._cache is None:
            return None
        try:
            entry = self._entry or self._cache.get(self._key(self._cache.strict), self._whole)
            where = tuple(slice(a, b) for a, b in zip(start, stop, strict=True))
            values, mask = entry.part(*where), entry.mask_part(*where)
        except FileChanged:
            raise
        except PixelError:
            self._cache = self._entry = None
            return None
        if entry.is_stored:
            self._entry = entry
        else:
            self._cache = self._entry = None
        return Converted(values, mask if mask is not None and mask.any() else None)

    def _whole(self) -> Arrays:
        alone = multiprocessing.parent_process() is None
        threads = available_cores() if alone else 1  # a loader's workers share the cores
        how = Decoding(threads=threads, max_bytes=self._max_bytes)
        return Arrays(*read_converted(self._stack.sources, self._conversions, how=how))

    def _key(self, strict: bool) -> Key:
        """Of the files as they are now, which must be as they were scanned, and of all that is done to their values."""
        sources, files = self._stack.sources, []
        for file, group in itertools.groupby(sources, key=lambda source: source.file):
            frames = list(group)
            with named(frames[0]):
                now = look_up(file)
            numbers = tuple(frame.frame_number for frame in frames)
            files.append(KeyFile(now, self._stack.series_instance_uid, numbers))
        done = hashlib.blake2b(digest_size=16)
        for one in self._conversions:
            table = (
                b""
                if one.table is None
                else repr(one.table).encode()
                + getattr(one.table, "data", getattr(one.table, "table", b""))
            )
            done.update(repr((one.rescale, one.padding)).encode() + table)
        tiles = [(source.tile_top, source.tile_left) for source in sources if source.coded_rows]
        options = {
            "quantity": repr(self._quantity),
            "content": self._stack.content,
            "conversions": done.hexdigest(),
            "tiles": repr(tiles),
        }
        return stack_key(files, options, strict)
