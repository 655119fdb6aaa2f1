"""Stacks in a cache: the choice of stacks that are cached, and the blocks read from the cache.

Only stacks with compressed frames are cached. An entry is a whole stack, keyed by its files as they
are now and by every conversion of its values.
"""

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
    """Whether a stack is cached: true if any of its frames is compressed.

    A stack of plain samples, in any byte order, is read from its files: a cache would hold the
    same values a second time.
    """
    name = "transfer_syntax_uid"
    if stack.is_constant(name):
        return not is_native(stack.value(name))
    return not all(map(is_native, stack.values(name)))


class StackCache:
    """A stack in a cache.

    The first process that needs a block reads and decodes the whole stack.
    """

    def __init__(
        self,
        cache: Cache,
        stack: Stack,
        quantity: Quantity,
        conversions: Sequence[Conversion],
        how: Decoding,
    ) -> None:
        self._cache: Cache | None = cache
        self._stack = stack
        self._quantity = quantity
        self._conversions = conversions
        self._how = how
        self._entry: Entry | None = None

    def block(self, start: Voxel, stop: Voxel) -> Converted | None:
        """Return the block from the cache, or None if this stack bypasses the cache.

        The cache is bypassed from then on in two cases: a slice is damaged, which must not lose
        the others; or the cache cannot hold the stack, and every worker would hold its own copy.
        """
        if self._cache is None:
            return None
        try:
            entry = self._entry or self._cache.get(self._key(self._cache.strict), self._whole)
            window = tuple(slice(a, b) for a, b in zip(start, stop, strict=True))
            values, mask = entry.part(*window), entry.mask_part(*window)
        except FileChanged:
            raise
        except PixelError:
            self._cache = self._entry = None
            return None
        if not entry.is_stored:
            self._cache = self._entry = None
        elif not entry.is_held:
            self._entry = entry
        return Converted(values, mask if mask is not None and mask.any() else None)

    def _whole(self) -> Arrays:
        alone = multiprocessing.parent_process() is None
        # workers of a DataLoader share the cores
        threads = available_cores() if alone else 1
        how = self._how.with_threads(threads)
        return Arrays(*read_converted(self._stack.sources, self._conversions, how=how))

    def _key(self, strict: bool) -> Key:
        """Return the key: files as they are now, and every conversion of their values.

        `look_up` raises if a file has changed since the scan.
        """
        sources, files = self._stack.sources, []
        for file, group in itertools.groupby(sources, key=lambda source: source.file):
            frames = list(group)
            with named(frames[0]):
                now = look_up(file)
            numbers = tuple(frame.frame_number for frame in frames)
            files.append(KeyFile(now, self._stack.series_instance_uid, numbers))
        digest = hashlib.blake2b(digest_size=16)
        for conversion in self._conversions:
            table = (
                b""
                if conversion.table is None
                else repr(conversion.table).encode()
                + getattr(conversion.table, "data", getattr(conversion.table, "table", b""))
            )
            digest.update(repr((conversion.rescale, conversion.padding)).encode() + table)
        tiles = [(source.tile_top, source.tile_left) for source in sources if source.coded_rows]
        options = {
            "quantity": repr(self._quantity),
            "content": self._stack.content,
            "conversions": digest.hexdigest(),
            "tiles": repr(tiles),
        }
        return stack_key(files, options, strict)
