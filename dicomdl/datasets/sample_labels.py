"""The labels of samples on the grid of their image: label maps or channels, and what has none."""

import functools
import os
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch

from dicomdl.arrays import Ints, Values, Voxel, ends_of
from dicomdl.datasets._channels import are_one_grid
from dicomdl.datasets._grid_request import GridRequest, ReadLabels
from dicomdl.datasets.selection import level_of_caller
from dicomdl.errors import AnnotationError, GeometryError, UsageError
from dicomdl.geometry.grid import Geometry
from dicomdl.geometry.regular import regular_slices
from dicomdl.geometry.verdict import FILLABLE, Irregular
from dicomdl.index.views import Stack, Stacks
from dicomdl.labels.caching import COVERED, CachedLabels, cached_labels, census_of
from dicomdl.labels.places import Census
from dicomdl.labels.reader import (
    OVERLAP,
    LabelReader,
    NoLabels,
    OverlapWarning,
    channel_block,
    fraction_block,
    label_block,
    smallest_dtype,
)
from dicomdl.labels.source import LabelSource
from dicomdl.labels.survey import Survey, survey
from dicomdl.storage.cache.stats import Cache
from dicomdl.storage.memory import Share, share
from dicomdl.volumes.cutting import overlap_of
from dicomdl.volumes.volume import Volume

# A function from a stack to its label map; a source, or its name.
Labels = Callable[[Stack], npt.NDArray[Any]] | LabelSource
LabelsOption = Labels | str | os.PathLike[str] | None
# How far voxels of a label map may lie from those of the stack, in voxels: affines in files of
# float32, and those of turned slices, are not exact.
_AT_VOXELS: Final = 0.1
# Puts what a function reads of a stack onto the grid of a sample.
_Place = Callable[[ReadLabels, npt.NDArray[Any]], None]
_label_maps: Final[Share[npt.NDArray[Any]]] = share("label maps")


class ByIdentity:
    """A key for a function that may be unhashable, compared by identity."""

    def __init__(self, labels: Callable[[Stack], npt.NDArray[Any]]) -> None:
        self.labels = labels

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ByIdentity) and other.labels is self.labels

    def __hash__(self) -> int:
        return id(self.labels)


def label_map(stack: Stack, by: ByIdentity) -> npt.NDArray[Any]:
    """Return the label map of a stack, (slices, rows, columns) integers, from the cache."""
    return _label_maps.of((stack, by), functools.partial(_read_labels, stack, by.labels))


def _read_labels(stack: Stack, labels: Callable[[Stack], npt.NDArray[Any]]) -> npt.NDArray[Any]:
    """Read the label map of a stack, in the smallest integer dtype that holds it."""
    try:
        made = labels(stack)
        given = np.asarray(made)
        if given.shape != stack.shape or given.dtype.kind not in "biu":
            raise GeometryError(
                f"labels give {given.dtype} {given.shape} for a stack of {stack.shape}: expected "
                "integers of its shape"
            )
        if isinstance(made, Volume) and _is_elsewhere(made.geometry, stack.geometry):
            raise GeometryError(
                "labels give a Volume on another grid than that of the stack, of the same shape: "
                "expected mask.resample_to(stack.geometry, interpolation='nearest', fill=0)"
            )
    except OSError as error:
        failure = GeometryError(
            f"the labels of a stack cannot be read: {error.strerror or type(error).__name__}"
        )
        failure.add_note(f"series: {stack.series_instance_uid}")
        raise failure from error
    except GeometryError as error:
        error.add_note(f"series: {stack.series_instance_uid}")
        raise
    if given.dtype.itemsize == 1:
        return given
    return given.astype(
        np.result_type(np.min_scalar_type(given.min()), np.min_scalar_type(given.max()))
    )


def _is_elsewhere(given: Geometry, own: Geometry) -> bool:
    """Whether both grids have a known place, and not the same."""
    return given.is_known and own.is_known and not are_one_grid(given, own, _AT_VOXELS)


def as_labels(option: LabelsOption) -> LabelSource | None:
    """Return the source of labels for the option `labels=`: a name or a function becomes one.

    Raises
    ------
    UsageError
        It is neither a name, a `LabelSource` nor a function.
    """
    if option is None or isinstance(option, LabelSource):
        return option
    if isinstance(option, str | os.PathLike):
        return LabelSource(os.fspath(option))
    if not callable(option):
        raise UsageError(
            f"labels is a {type(option).__name__}: expected 'SEG', 'RTSTRUCT', a path or pattern, "
            "a LabelSource, or a function from a stack to its label map"
        )
    return LabelSource(option)


@dataclass(frozen=True, slots=True, eq=False)
class SampleLabels:
    """The labels that the samples of a dataset have.

    Attributes
    ----------
    source
        Where they come from.
    dtype
        The name of their dtype, the same for all samples.
    names
        The names of the channels, in order; () for label maps.
    absent
        Numbers of the stacks that nobody annotated, ascending int64.
    overlaps
        The slices read so far whose labels overlap.
    """

    source: LabelSource
    dtype: str
    names: tuple[str, ...] = ()
    absent: Ints = field(default_factory=lambda: np.zeros(0, np.int64))
    overlaps: "Overlaps" = field(default_factory=lambda: Overlaps())

    def block(
        self, stack: Stack, grid: GridRequest, box: tuple[Voxel, Voxel], cache: Cache | None = None
    ) -> dict[str, npt.NDArray[Any]]:
        """Return the entries of a sample for a box (start, size) of the grid.

        These are `label`, 0 outside of the stack, and `unlabelled`, True there, if it is asked for.
        """
        start, size = box
        overlap = overlap_of(start, size, grid.geometry(stack).shape)

        def place(read: ReadLabels, result: npt.NDArray[Any]) -> None:
            if overlap is not None:
                (z, y, x), inner = overlap
                first, last = (z.start, y.start, x.start), (z.stop, y.stop, x.stop)
                result[inner] = grid.labels(read, stack, first, last)

        channels = self.channels(stack, cache, together=True)
        return self._entries(channels, self._told(stack, cache), size, place)

    def on(
        self, stack: Stack, geometry: Geometry, irregular: Irregular, cache: Cache | None = None
    ) -> dict[str, npt.NDArray[Any]]:
        """Return the entries of a sample at the voxels of a grid; see `block`.

        `irregular` is the policy by which the stack became a volume (see `read_volume`).
        """

        def place(read: ReadLabels, result: npt.NDArray[Any]) -> None:
            whole = read((0, 0, 0), stack.shape)
            result[...] = _on_grid(whole, stack, geometry, irregular)

        channels = self.channels(stack, cache, together=False)
        return self._entries(channels, self._told(stack, cache), geometry.shape, place)

    def _told(self, stack: Stack, cache: Cache | None) -> ReadLabels | None:
        """Return the function that reads what is annotated, if samples tell it."""
        return self.covered(stack, cache) if self.source.has_unlabelled else None

    def _entries(
        self,
        channels: Sequence[ReadLabels],
        told: ReadLabels | None,
        shape: Voxel,
        place: _Place,
    ) -> dict[str, npt.NDArray[Any]]:
        label = np.zeros((len(channels), *shape), self.dtype)
        for read, of_channel in zip(channels, label, strict=True):
            place(read, of_channel)
        entries = {"label": label if self.names else label[0]}
        if told is not None:
            covered = np.zeros(shape, np.bool_)
            place(told, covered)
            entries["unlabelled"] = ~covered
        return entries

    def channels(self, stack: Stack, cache: Cache | None, *, together: bool) -> list[ReadLabels]:
        """Return functions that read a box of a stack, one per channel, or one for a label map.

        A source reads the frames and contours of the box only, or slabs of a cache; the map of a
        function is remembered. `together` reads all channels of a box at once, since each is asked
        for in turn.
        """
        if callable(self.source.source):
            whole = label_map(stack, ByIdentity(self.source.source))
            return [self._fitting(lambda start, stop: whole[_box(start, stop)])]
        if not self.names:
            note = functools.partial(self.overlaps.note, stack)
            if known := self.cached(stack, cache):
                return [self._fitting(functools.partial(known.read, note=note))]
            return [self._fitting(_reads_map(self._reader(stack), note))]
        if cache is not None and not self._is_absent(stack):
            return [cached_labels(cache, stack, self.source, (each,)).read for each in self.names]
        reader = self._reader(stack)
        if not together:
            return [functools.partial(_read_channel, reader, name) for name in self.names]
        # Small: the channels of one sample, until it is made.
        read = functools.lru_cache(maxsize=2)(
            lambda start, stop: channel_block(reader, start, stop, self.names)
        )
        return [functools.partial(_read_nth, read, n) for n in range(len(self.names))]

    def covered(self, stack: Stack, cache: Cache | None) -> ReadLabels:
        """Return the function that reads what of a box of a stack is annotated, 0 or 1."""
        if cache is not None and not (callable(self.source.source) or self._is_absent(stack)):
            return cached_labels(cache, stack, self.source, COVERED).read
        reader = None if callable(self.source.source) else self._reader(stack)

        def read(start: Voxel, stop: Voxel) -> Values:
            found = None if reader is None else reader.covered(start, stop)
            shape = [b - a for a, b in zip(start, stop, strict=True)]
            return np.ones(shape, np.bool_) if found is None else found

        return read

    def cached(self, stack: Stack, cache: Cache | None) -> CachedLabels | None:
        """Return the label map of a stack in a cache; None where none is there, or several are."""
        is_here = callable(self.source.source) or self._is_absent(stack)
        is_here = is_here or bool(self.names)
        return None if cache is None or is_here else cached_labels(cache, stack, self.source)

    def census(self, stack: Stack, cache: Cache | None, read: ReadLabels) -> Census:
        """Return the number of voxels per slice and label of the map that `read` reads."""
        if callable(self.source.source):
            return Census.of(read, stack.shape)
        known = self.cached(stack, cache)
        return census_of(self._reader(stack), read) if known is None else known.census()

    def _is_absent(self, stack: Stack) -> bool:
        at = int(np.searchsorted(self.absent, stack.number))
        return at < len(self.absent) and int(self.absent[at]) == stack.number

    def _reader(self, stack: Stack) -> LabelReader:
        return NoLabels(stack.shape) if self._is_absent(stack) else self.source.reader(stack)

    def _fitting(self, read: ReadLabels) -> ReadLabels:
        """Return a function that raises a UsageError for labels that the dtype does not hold."""

        def checked(start: Voxel, stop: Voxel) -> Values:
            values = read(start, stop)
            if not np.can_cast(values.dtype, self.dtype):
                self._require_held(int(values.min(initial=0)), int(values.max(initial=0)))
            return values

        return checked

    def _require_held(self, lowest: int, highest: int) -> None:
        low, high = ends_of(np.dtype(self.dtype))
        for label in (lowest, highest):
            if not low <= label <= high:
                raise UsageError(
                    f"label {label} does not fit {self.dtype}, the dtype of labels in this "
                    "dataset: labels=LabelSource(..., label_dtype='int32') takes another",
                    label=label,
                    dtype=self.dtype,
                )


class Overlaps:
    """Slices of a dataset in which voxels have several labels, of which a label map holds the last.

    Which ones do is known when they are read: of the first one, a process warns.

    Attributes
    ----------
    slices
        {number of a stack: those of its slices}. Where several slices were read at once, all of
        them count.
    warns
        Whether to warn; an export has them in its ledger instead.
    """

    def __init__(self) -> None:
        self.slices: dict[int, set[int]] = {}
        self.warns = True

    def note(self, stack: Stack, first: int, stop: int) -> None:
        """Note that labels overlap in the slices of a stack from `first` up to `stop`."""
        if self.warns and not self.slices:
            warnings.warn(OVERLAP, OverlapWarning, stacklevel=level_of_caller())
        self.slices.setdefault(stack.number, set()).update(range(first, stop))


def as_tensors(entries: dict[str, npt.NDArray[Any]]) -> dict[str, torch.Tensor]:
    """Return the entries of a sample as tensors, which share memory."""
    return {name: torch.from_numpy(np.ascontiguousarray(each)) for name, each in entries.items()}


def kept_reasons(known: Survey, source: LabelSource) -> npt.NDArray[Any]:
    """Return (stacks,) text: why a dataset leaves out each stack; "" for those that it takes."""
    reasons = np.array(known.reasons, object)
    if source.on_missing == "unlabelled":
        reasons[known.is_absent] = ""
    return reasons


def surveyed(source: LabelSource, stacks: Stacks) -> Survey:
    """Return what is known of the labels of some stacks.

    Raises
    ------
    AnnotationError
        Some have none, and `on_missing` is "raise".
    """
    known = survey(source, stacks)
    lacking = [number for number, reason in enumerate(known.reasons) if reason]
    if lacking and source.on_missing == "raise":
        error = AnnotationError(
            f"{len(lacking)} of {len(stacks)} stacks lack labels, the first one for "
            f"this reason: {known.reasons[lacking[0]]}; on_missing='skip' leaves them out",
            missing=len(lacking),
        )
        error.add_note(f"series: {stacks[lacking[0]].series_instance_uid}")
        raise error
    return known


def _reads_map(reader: LabelReader, note: Callable[[int, int], None]) -> ReadLabels:
    """Return the function that reads boxes of a map.

    It calls `note` with the first slice of a box whose labels overlap, and the one after its last.
    """
    if reader.values == "fractions":
        return functools.partial(fraction_block, reader)
    dtype = smallest_dtype(reader.names)

    def read(start: Voxel, stop: Voxel) -> Values:
        labels, overlap = label_block(reader, start, stop, dtype)
        if overlap:
            note(start[0], stop[0])
        return labels

    return read


def _read_channel(reader: LabelReader, name: str, start: Voxel, stop: Voxel) -> Values:
    channel: Values = channel_block(reader, start, stop, (name,))[0]
    return channel


def _read_nth(read: ReadLabels, number: int, start: Voxel, stop: Voxel) -> Values:
    channel: Values = read(start, stop)[number]
    return channel


def _box(start: Voxel, stop: Voxel) -> tuple[slice, slice, slice]:
    z, y, x = (slice(a, b) for a, b in zip(start, stop, strict=True))
    return z, y, x


def _on_grid(
    whole: npt.NDArray[Any], stack: Stack, geometry: Geometry, irregular: Irregular
) -> npt.NDArray[Any]:
    """Return the labels of a stack at the voxels of a grid; 0 outside of the stack."""
    own = stack.geometry
    if irregular == "resample" and stack.verdict in FILLABLE:
        # The affine of uneven slices is an average: they go to their regular grid first.
        grid = regular_slices(stack.positions, own, stack.verdict, stack.tolerances)
        whole, own = grid.labels(whole), grid.geometry
    if geometry != own and geometry.is_known:
        # SimpleITK has no bool.
        values = whole.astype(np.uint8) if whole.dtype == np.bool_ else whole
        volume = Volume(values, own)
        whole = volume.resample_to(geometry, interpolation="nearest", fill=0).array
    if whole.shape != geometry.shape:
        raise UsageError(
            "labels of a stack without geometry have no place in an image of another size: read "
            "it without size="
        )
    return whole
