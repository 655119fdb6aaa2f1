"""Label maps in a cache, in slabs of slices, so that no process holds the label map of a stack.

Frames of single bits are unpacked and contours are filled once for all processes and epochs. A
patch then reads its part of a few slabs.
"""

import dataclasses
import hashlib
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeAlias

import numpy as np

from dicomdl.arrays import Values, Voxel
from dicomdl.index.annotations import hash_of_each
from dicomdl.index.views import Stack
from dicomdl.labels.places import Census, ReadBox, slabs
from dicomdl.labels.reader import (
    LabelReader,
    channel_block,
    fraction_block,
    label_block,
    smallest_dtype,
)
from dicomdl.labels.source import LabelSource
from dicomdl.storage.cache.entries import Arrays, Entry
from dicomdl.storage.cache.keys import Key, KeyFile, stack_key
from dicomdl.storage.cache.stats import Cache
from dicomdl.storage.memory import remembered
from dicomdl.storage.sources import look_up

# Options that change samples, and not what is cached.
_OF_SAMPLES: Final[Mapping[str, Any]] = {
    "channels": False,
    "label_dtype": None,
    "unlabelled": False,
    "on_missing": "skip",
}


# None for the label map; the name of a channel, for its mask or fractions; or what is annotated.
Layer: TypeAlias = tuple[str, ...] | None
COVERED: Final[Layer] = ()
# Called with the first of some slices in which labels overlap, and the one after the last.
_Note: TypeAlias = Callable[[int, int], None]


class CachedLabels:
    """The label map of a stack in a cache, or one of its channels; see `cached_labels`."""

    def __init__(
        self, cache: Cache, stack: Stack, source: LabelSource, layer: Layer = None
    ) -> None:
        self._cache, self._stack, self._source = cache, stack, source
        self._layer = layer
        self._files = [
            KeyFile(look_up(file), stack.series_instance_uid) for file in source.files(stack)
        ]
        self._options = {
            # The path of a file is no part of a key, and its state is.
            "labels": repr(dataclasses.replace(source, source=source.kind, **_OF_SAMPLES)),
            "layer": repr(layer),
            "grid": _digest_of_grid(stack),
        }
        if layer == COVERED:
            # What an object refers to are instances.
            instances = hash_of_each(map(str, stack.values("sop_instance_uid")))
            self._options["instances"] = instances.tobytes().hex()
        self._slabs = slabs(stack.shape, 1)
        self._entries: dict[int, Entry] = {}
        # Whether the cache holds what it is given; if not, blocks are read without it.
        self._is_held = True

    def read(self, start: Voxel, stop: Voxel, *, note: _Note | None = None) -> Values:
        """Return the labels of the block from voxel `start` up to `stop`, which is excluded.

        `note` is called where labels overlap in what the cache does not hold yet.
        """
        height = self._slabs[0][1]
        parts = []
        for number in range(start[0] // height, -(-stop[0] // height)):
            if not self._is_held:
                return self._block(start, stop, note)
            first, last = self._slabs[number]
            planes = slice(max(start[0], first) - first, min(stop[0], last) - first)
            entry = self._entries.get(number) or self._slab(number, note)
            parts.append(entry.part(planes, slice(start[1], stop[1]), slice(start[2], stop[2])))
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def census(self) -> Census:
        """Return the number of voxels per slice and label."""
        entry = self._cache.get(self._key("census"), self._counted)
        labels, counts = np.split(entry.part()[:, 0], [1])
        return Census(labels[0].astype(np.int64), counts)

    def _slab(self, number: int, note: _Note | None) -> Entry:
        first, last = self._slabs[number]
        rows = self._stack.shape[1:]
        entry = self._cache.get(
            self._key(f"slices {first} to {last}"),
            lambda: Arrays(self._block((first, 0, 0), (last, *rows), note)),
        )
        self._is_held = entry.is_stored
        if not entry.is_held:
            self._entries[number] = entry
        return entry

    def _counted(self) -> Arrays:
        if self._layer is None:
            census = census_of(self._source.reader(self._stack), self.read)
        else:
            census = Census.of(self.read, self._stack.shape)
        return Arrays(
            np.concatenate([census.labels[None], census.counts]).astype(np.int32)[:, None]
        )

    def _block(self, start: Voxel, stop: Voxel, note: _Note | None) -> Values:
        reader = self._source.reader(self._stack)
        if self._layer == COVERED:
            covered = reader.covered(start, stop)
            shape = [b - a for a, b in zip(start, stop, strict=True)]
            return np.ones(shape, np.uint8) if covered is None else covered.astype(np.uint8)
        if self._layer is not None:
            mask: Values = channel_block(reader, start, stop, (self._layer[0],))[0]
            return mask.view(np.uint8) if mask.dtype == np.bool_ else mask
        if reader.values == "fractions":
            return fraction_block(reader, start, stop)
        labels, overlap = label_block(reader, start, stop, smallest_dtype(reader.names))
        if overlap and note is not None:
            note(start[0], stop[0])
        return labels

    def _key(self, part: str) -> Key:
        return stack_key(self._files, {**self._options, "part": part}, self._cache.strict)


@remembered("label slabs")
def cached_labels(
    cache: Cache, stack: Stack, source: LabelSource, layer: Layer = None
) -> CachedLabels:
    """Return the labels of a stack out of a cache, in 4 MiB of slices at a time.

    They are its label map, or a `Layer` of it.

    Raises
    ------
    AnnotationError
        As `LabelSource.reader`.
    FileChanged, PixelError
        The file of the labels has changed since the scan, or cannot be looked up.
    """
    return CachedLabels(cache, stack, source, layer)


def census_of(reader: LabelReader, read: ReadBox) -> Census:
    """Return the number of voxels per slice and label of the label map of a reader.

    `read` reads a box of the map, where the reader has no faster way.
    """
    counts = reader.counts()
    if counts is None:
        return Census.of(read, reader.shape)
    return Census.of_counts(tuple(reader.names), counts, reader.shape[1] * reader.shape[2])


def _digest_of_grid(stack: Stack) -> str:
    """Return what places the voxels of a stack, as hexadecimal digits."""
    reference = str(stack.value("frame_of_reference_uid"))
    digest = hashlib.blake2b(repr((stack.shape, reference)).encode(), digest_size=16)
    for array in (stack.affine, stack.positions):
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
