"""The dataset of shards: samples that an export wrote, by one ranged read each.

The checksum of a sample is compared at each read: XXH3 over blocks that are in the cache of the
processor at that time.
"""

import contextlib
import io
import json
import math
import os
import tokenize
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
import xxhash

from dicomdl.arrays import Float32, Ints, Values
from dicomdl.datasets._options import OnError, Policy
from dicomdl.datasets.base import SampleDataset, Transform
from dicomdl.datasets.sample import Sample
from dicomdl.datasets.transport.images import new_array
from dicomdl.datasets.worker import threads_here
from dicomdl.errors import EmptySelection, PixelError, TruncatedPixels, UsageError
from dicomdl.index.shard_manifests import BLOCK_BYTES, ShardManifest, ShardRow, sum_of
from dicomdl.index.text import counted
from dicomdl.lazy import cached_property
from dicomdl.storage.sources import Handle, Source, opened, read_exactly, read_range

_NPY: Final = ".npy"
_IMAGE: Final = "image.npy"
_DTYPES: Final = ("int16", "float16", "float32")
# Bytes that hold the header of an array of ours.
_HEADER_BYTES: Final = 2**10
# A thread is worth its start for so many bytes of an image.
_LEAST_PER_THREAD: Final = 2**22


class ShardDataset(SampleDataset):
    """The samples of an export to shards: what `VolumeDataset` gave with the options of the export.

    Parameters
    ----------
    folder
        The folder of ``export(index, "webdataset", folder)``.
    split
        The name of a part of the split, such as "train"; None for all samples. With `fold`, "train"
        or "val".
    transform
        As for `FrameDataset`.
    fold
        The number of a fold, of a split into folds: ``split="val"`` are its samples, "train" those
        of all others.
    on_error
        "raise", "skip" or "replace" unreadable samples (see `FrameDataset`).
    seed
        The seed of replacements, an integer from 0.

    Attributes
    ----------
    folder, split, fold
        The arguments.
    boundaries
        (samples + 1,) int64: each row is a sample of its own.
    targets, target_classes
        The target of every sample, without reading shards, and the values of its classes.
    label_names
        The names of the channels of `label`; () for label maps.
    keys
        The key of every sample, as the members of the shards have it.
    skipped
        The unreadable samples so far.

    Raises
    ------
    UsageError
        There is no such part or fold. An EmptySelection, if it has no sample.
    IndexFolderError
        The folder has no manifest, or it is damaged or of another format.
    PixelError
        On access: a shard cannot be read, or is not the one of the manifest.

    Notes
    -----
    Samples have the order and the entries of the `VolumeDataset` of the export, with the `row` of
    this dataset. `image` is float32 again: equal bit by bit for values that the dtype of the export
    holds exactly. Samplers, `StackStream` and ``DataLoader(num_workers=...)`` take it as they take
    any dataset: order, resume and shares of ranks do not depend on shards.

    Examples
    --------
    >>> import tempfile
    >>> import dicomdl
    >>> from pydicom.data import get_testdata_file
    >>> out = tempfile.TemporaryDirectory()
    >>> index = dicomdl.scan(get_testdata_file("CT_small.dcm"), f"{out.name}/index", progress=False)
    >>> done = dicomdl.export(index, "webdataset", f"{out.name}/shards", progress=False)
    >>> shards = dicomdl.ShardDataset(f"{out.name}/shards", "train")
    >>> shards[0]["image"].shape, shards[0]["units"]
    (torch.Size([1, 1, 128, 128]), 'HU')
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        split: str | None = None,
        transform: Transform | None = None,
        *,
        fold: int | None = None,
        on_error: OnError = "raise",
        seed: int = 0,
    ) -> None:
        super().__init__(transform, Policy(on_error, seed))
        self.folder = os.path.abspath(os.path.expanduser(os.fspath(folder)))
        self.split, self.fold = split, fold
        self._rows = self._chosen()
        if not len(self._rows):
            named = "" if split is None else f" of {split!r}"
            raise EmptySelection(f"ShardDataset: {self.folder!r} has no samples{named}")

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def boundaries(self) -> npt.NDArray[np.int64]:
        """(samples + 1,) int64: each row is a sample of its own."""
        return np.arange(len(self) + 1, dtype=np.int64)

    @property
    def keys(self) -> list[str]:
        """The key of every sample."""
        keys = self._manifest.column("key")
        return [keys[row] for row in self._rows.tolist()]

    @property
    def targets(self) -> Values:
        """(samples,) or (samples, columns): the `target` of each sample, float32 or int64.

        Raises
        ------
        UsageError
            The export had no targets.
        """
        column = self._manifest.column("target")
        found = [column[row] for row in self._rows.tolist()]
        if any(each is None for each in found):
            raise UsageError("the shards have no targets: export with target=, a joined column")
        values = np.array(found, np.float64)
        values = values[:, 0] if values.shape[1] == 1 else values
        return values.astype(self._manifest.facts["target_dtype"])

    @property
    def target_classes(self) -> tuple[Any, ...]:
        """The values of the classes, by their number; empty for numbers that stay as they are."""
        return tuple(self._manifest.facts["classes"])

    @property
    def label_names(self) -> tuple[str, ...]:
        """The names of the channels of `label`; () for label maps."""
        return tuple(self._manifest.facts["label_names"])

    @cached_property
    def _manifest(self) -> ShardManifest:
        return ShardManifest(self.folder)

    def _chosen(self) -> Ints:
        """Return the rows of the manifest that the dataset takes, ascending."""
        manifest, split, fold = self._manifest, self.split, self.fold
        count, parts = manifest.facts["folds"], manifest.facts["parts"]
        if fold is None:
            if split is not None and split not in parts:
                raise UsageError(
                    f"split={split!r}: the parts are {', '.join(map(repr, parts))}"
                    + (", and fold= divides them" if count else "")
                )
            taken = np.array([split in (None, each) for each in manifest.column("split")], bool)
        else:
            if not count or not (isinstance(fold, int | np.integer) and 0 <= fold < count):
                told = f"0 to {count - 1}" if count else "none: the split is none into folds"
                raise UsageError(f"fold={fold!r}: the folds are {told}")
            if split not in ("train", "val"):
                raise UsageError(f"split={split!r}: expected 'train' or 'val' with fold=")
            taken = np.array(manifest.column("fold"), np.int64) == fold
            taken = taken if split == "val" else ~taken
        return np.flatnonzero(taken)

    def _make(self, row: int, epoch: int | None) -> Sample:
        del epoch
        place = self._manifest.row(int(self._rows[row]))
        start, length = place.members[_IMAGE]
        try:
            with self._opened(place) as handle:
                head = read_range(handle, start, min(length, _HEADER_BYTES))
                image = _Stored.of(head, place)
                # The members behind the image.
                rest = memoryview(
                    read_range(handle, start + length, place.offset + place.bytes - start - length)
                )

            def member(kind: str) -> memoryview:
                first = place.members[kind][0] - start - length
                return rest[first : first + place.members[kind][1]]

            values = new_array(image.shape, np.float32)
            blocks = self._fill(values.reshape(-1), image, place)
            others = [member(kind) for kind in place.members if kind != _IMAGE]
            if place.xxh3 not in ("", sum_of([head[: image.offset - start], *others], blocks)):
                raise PixelError(
                    f"the shard {place.shard!r} is damaged: the sample {place.key} has another "
                    "checksum; copy the shard again, or export again (`prepare`: delete it first)"
                )
            told = json.loads(bytes(member("json")))
            if told["key"] != place.key:
                raise ValueError("it has another sample in this place")
            tensors = {
                kind.removesuffix(_NPY): torch.from_numpy(_array(member(kind)).copy())
                for kind in place.members
                if kind.endswith(_NPY) and kind != _IMAGE
            }
            tensors |= {name: _tensor(each) for name, each in told["arrays"].items()}
            return Sample(image=torch.from_numpy(values), row=row, **told["values"], **tensors)
        except (ValueError, KeyError, TypeError) as error:
            if isinstance(error, PixelError):
                raise
            raise PixelError(
                f"the shard {place.shard!r} is not the one of the manifest, or is damaged: "
                f"{error}; copy it again, or export again (`prepare`: delete it first)"
            ) from error

    @contextlib.contextmanager
    def _opened(self, place: ShardRow) -> Iterator[Handle]:
        """Open the shard of a sample, of the size that the manifest says."""
        expected = int(self._manifest.facts["shards"][place.shard]["bytes"])
        with opened(Source(os.path.join(self.folder, place.shard))) as handle:
            if handle.size != expected:
                raise TruncatedPixels(
                    f"the shard {place.shard!r} has {handle.size} bytes, expected {expected}: copy "
                    "it again, or export again"
                )
            yield handle

    def _fill(self, values: Float32, image: "_Stored", place: ShardRow) -> list[int]:
        """Read an image into flat float32 values, by all cores outside of workers.

        Returns the checksum of each block.
        """
        threads = threads_here()
        threads = max(1, min(threads, values.nbytes // _LEAST_PER_THREAD))
        blocks = -(-values.size // image.per_block)
        bounds = np.linspace(0, blocks, threads + 1).astype(np.int64) * image.per_block

        def span(number: int) -> list[int]:
            # A handle per thread: some systems read at a place by seeking to it.
            with self._opened(place) as handle:
                stop = min(int(bounds[number + 1]), values.size)
                return image.read(handle, values, int(bounds[number]), stop)

        if threads == 1:
            return span(0)
        with ThreadPoolExecutor(threads) as pool:
            begun = [pool.submit(span, number) for number in range(threads)]
            return [each for done in begun for each in done.result()]

    def __getstate__(self) -> dict[str, Any]:
        return {
            name: value for name, value in super().__getstate__().items() if name != "_manifest"
        }

    def __repr__(self) -> str:
        told = "" if self.split is None else f", {self.split!r}"
        told += "" if self.fold is None else f", fold {self.fold}"
        return f"ShardDataset({counted(len(self), 'volumes')}{told})"


@dataclass(frozen=True, slots=True)
class _Stored:
    """An image in a shard: the place of its values in the file, their dtype and shape."""

    offset: int
    dtype: np.dtype[Any]
    shape: tuple[int, ...]

    @classmethod
    def of(cls, head: bytes, place: ShardRow) -> "_Stored":
        """Return the image of a sample by the header of its array; raise a ValueError."""
        length, dtype, shape = _header(memoryview(head))
        start, size = place.members[_IMAGE]
        if dtype.name not in _DTYPES or length + dtype.itemsize * math.prod(shape) != size:
            raise ValueError(f"its image is {dtype} {shape} in {size} bytes")
        return cls(start + length, dtype, shape)

    @property
    def per_block(self) -> int:
        """Values per block."""
        return BLOCK_BYTES // self.dtype.itemsize

    def read(self, handle: Handle, values: Float32, start: int, stop: int) -> list[int]:
        """Read the values from `start` to `stop` as float32, and return the checksum of each block.

        Blocks stay in the cache of the processor while they are converted. Torch converts float16
        by instructions that NumPy does not use.
        """
        is_same, sums = self.dtype == np.float32, []
        block = np.empty(0 if is_same else min(stop - start, self.per_block), self.dtype)
        for first in range(start, stop, self.per_block):
            out = values[first : min(first + self.per_block, stop)]
            part = out if is_same else block[: len(out)]
            read_exactly(handle, part, self.offset + first * self.dtype.itemsize)
            sums.append(xxhash.xxh3_64_intdigest(part.data))
            if not is_same:
                torch.from_numpy(out).copy_(torch.from_numpy(part))
        return sums


def _header(data: memoryview) -> tuple[int, np.dtype[Any], tuple[int, ...]]:
    """Return length, dtype and shape of the header of an array of NumPy; raise a ValueError."""
    head = io.BytesIO(data[:_HEADER_BYTES])
    if np.lib.format.read_magic(head) != (1, 0):
        raise ValueError("an array has another format")
    try:
        shape, is_fortran, dtype = np.lib.format.read_array_header_1_0(head)
    except (SyntaxError, tokenize.TokenError) as error:
        raise ValueError("an array has no header") from error
    if is_fortran or dtype.kind not in "biuf":
        raise ValueError(f"an array is {dtype}")
    return head.tell(), dtype, shape


def _array(data: memoryview) -> npt.NDArray[Any]:
    """Return the read-only array of a member in the format of NumPy; raise a ValueError."""
    length, dtype, shape = _header(data)
    return np.frombuffer(data[length:], dtype).reshape(shape)


def _tensor(told: Mapping[str, Any]) -> torch.Tensor:
    """Return the tensor of plain values, in which text is a number that JSON lacks."""
    values = [float(value) if isinstance(value, str) else value for value in told["values"]]
    return torch.from_numpy(np.array(values, told["dtype"]).reshape(told["shape"]))
