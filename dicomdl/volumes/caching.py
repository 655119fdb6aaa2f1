"""Stacks in a cache: the choice of stacks that are cached, and the blocks read from the cache.

An entry is a whole stack, keyed by its files as they are now. Of stacks with compressed frames it
has the values, and its key every conversion of them. Of plain stacks, which only a cache that says
so takes, it has the samples as the files have them, which any conversion starts from.
"""

import hashlib
import itertools
import multiprocessing
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from dicomdl.arrays import Values, Voxel
from dicomdl.errors import FileChanged, PixelError
from dicomdl.index.views import Stack
from dicomdl.pixels.options import Decoding
from dicomdl.pixels.stored import is_native, named, stored_dtype
from dicomdl.storage.cache.entries import DTYPES, Arrays, Entry
from dicomdl.storage.cache.keys import Key, KeyFile, stack_key
from dicomdl.storage.cache.stats import Cache
from dicomdl.storage.sources import look_up
from dicomdl.storage.system import available_cores
from dicomdl.values.conversion import Conversion
from dicomdl.values.quantity import Quantity
from dicomdl.values.reading import Converted, read_converted

_Part = TypeVar("_Part")


def is_worth_caching(stack: Stack) -> bool:
    """Whether a stack is cached: true if any of its frames is compressed.

    A stack of plain samples, in any byte order, is read from its files: a cache would hold the
    same values a second time.
    """
    name = "transfer_syntax_uid"
    if stack.is_constant(name):
        return not is_native(stack.value(name))
    return not all(map(is_native, stack.values(name)))


def takes_samples(cache: Cache, dtype: np.dtype[Any]) -> bool:
    """Whether a cache takes the samples of plain stacks.

    A cache of the user may lack the attribute.
    """
    return bool(getattr(cache, "uncompressed", False)) and dtype.str in DTYPES


class _Kept:
    """The entry of one stack in a cache, until the cache is bypassed.

    It is bypassed in two cases: a slice is damaged, which must not lose the others; or the cache
    cannot hold the stack, and every worker would hold its own copy.
    """

    def __init__(self, cache: Cache) -> None:
        self._cache: Cache | None = cache
        self._entry: Entry | None = None

    def read(
        self,
        key: Callable[[Cache], Key],
        make: Callable[[], Arrays],
        part: Callable[[Entry], _Part],
    ) -> _Part | None:
        """Return a part of the entry, which is made if it is absent; None if it is bypassed."""
        if self._cache is None:
            return None
        try:
            entry = self._entry or self._cache.get(key(self._cache), make)
            taken = part(entry)
        except FileChanged:
            raise
        except PixelError:
            self._cache = self._entry = None
            return None
        if not entry.is_stored:
            self._cache = self._entry = None
        elif not entry.is_held:
            self._entry = entry
        return taken


class StackSamples:
    """The samples of a plain stack in a cache.

    The first process that needs a block reads the whole stack. Files are compared with the scan
    once per process, when the entry is looked up; later the entry alone is read, whose blocks have
    checksums.
    """

    def __init__(self, cache: Cache, stack: Stack, whole: Callable[[], Values]) -> None:
        self._kept = _Kept(cache)
        self._stack = stack
        self._whole = whole

    def block(self, start: Voxel, stop: Voxel, *, is_owned: bool) -> Values | None:
        """Return the samples of a block; None if this stack bypasses the cache.

        With `is_owned` they are a new array, else they may be mapped, and are not to be written to.
        """
        window = tuple(slice(a, b) for a, b in zip(start, stop, strict=True))

        def part(entry: Entry) -> Values:
            return entry.part(*window) if is_owned else entry.steady_part(*window)

        return self._kept.read(self._key, self._made, part)

    def _made(self) -> Arrays:
        return Arrays(self._whole())

    def _key(self, cache: Cache) -> Key:
        sources = self._stack.sources
        kind = stored_dtype(sources[0]).str, [source.byte_offset for source in sources]
        return _stack_key(self._stack, {"samples": repr((self._stack.shape, kind))}, cache.strict)


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
        self._kept = _Kept(cache)
        self._stack = stack
        self._quantity = quantity
        self._conversions = conversions
        self._how = how

    def block(self, start: Voxel, stop: Voxel) -> Converted | None:
        """Return the block from the cache, or None if this stack bypasses the cache."""
        window = tuple(slice(a, b) for a, b in zip(start, stop, strict=True))

        def part(entry: Entry) -> Converted:
            values, mask = entry.part(*window), entry.mask_part(*window)
            return Converted(values, mask if mask is not None and mask.any() else None)

        return self._kept.read(self._key, self._whole, part)

    def _whole(self) -> Arrays:
        alone = multiprocessing.parent_process() is None
        # workers of a DataLoader share the cores
        threads = available_cores() if alone else 1
        how = self._how.with_threads(threads)
        return Arrays(*read_converted(self._stack.sources, self._conversions, how=how))

    def _key(self, cache: Cache) -> Key:
        """Return the key: files as they are now, and every conversion of their values.

        `look_up` raises if a file has changed since the scan.
        """
        sources = self._stack.sources
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
        return _stack_key(self._stack, options, cache.strict)


def _stack_key(stack: Stack, options: Mapping[str, str], strict: bool) -> Key:
    """Return the key of a stack with options; raise a FileChanged if a file is not as scanned."""
    files = []
    for file, group in itertools.groupby(stack.sources, key=lambda source: source.file):
        frames = list(group)
        with named(frames[0]):
            now = look_up(file)
        numbers = tuple(frame.frame_number for frame in frames)
        files.append(KeyFile(now, stack.series_instance_uid, numbers))
    return stack_key(files, options, strict)
