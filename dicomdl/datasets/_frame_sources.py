"""Sources of frames for a dataset: the frames of the files, or planes cut out of volumes."""

import contextlib
import threading
from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from dicomdl.arrays import Ints
from dicomdl.datasets._assembly import channel_first, floored
from dicomdl.datasets._grid_request import GridRequest
from dicomdl.datasets._options import Reading
from dicomdl.datasets._regrid import FrameGrid, frame_grid
from dicomdl.datasets.base import IDENTIFIERS
from dicomdl.errors import DicomdlError, UsageError
from dicomdl.geometry.in_plane import PROJECTION
from dicomdl.index.index import Index
from dicomdl.index.views import Stack, Stacks
from dicomdl.lazy import cached_property
from dicomdl.pixels.read import frames_ahead
from dicomdl.storage.locations import SEPARATOR
from dicomdl.values.auto import resolve
from dicomdl.values.conversion import CONVERSION_COLUMNS, conversion
from dicomdl.values.intensity import Intensity
from dicomdl.values.reading import Converted, read_image
from dicomdl.values.sampling import sample_of
from dicomdl.values.stack_intensity import with_units
from dicomdl.volumes.block_reader import BlockReader
from dicomdl.volumes.cutting import padding_shows, read_block
from dicomdl.volumes.slices import KeptSlices

_FRAME_IDENTIFIERS: Final = (*IDENTIFIERS, "sop_instance_uid", "frame_number", "path")
_FRAME_FACTS: Final = (
    *CONVERSION_COLUMNS,
    "number_of_frames",
    "position_in_stack",
    *_FRAME_IDENTIFIERS,
)
# Holds `batch`, the `_Batch` that this thread reads.
_of_thread: Final = threading.local()


class FrameRead(NamedTuple):
    """A frame as it was read.

    `image` is (C, H, W) with padding set to the lowest value, on `grid`; `facts` are the other
    entries of its sample. `position` is its number along the first axis of the stack, or of the
    plane.
    """

    image: npt.NDArray[Any]
    grid: FrameGrid
    stack: Stack
    position: int
    recipe: Intensity
    facts: dict[str, Any]


class FrameSource(Protocol):
    """A source of frames: a row is a frame."""

    @property
    def boundaries(self) -> Ints:
        """(stacks + 1,) the first row of each stack, and the end."""

    def read(self, row: int) -> FrameRead:
        """Read the frame of a row."""

    def recipe(self, row: int) -> Intensity:
        """Return the intensity of a row, without limits that its own values give."""

    def batch(self, rows: Sequence[int]) -> contextlib.AbstractContextManager[None]:
        """Return a context in which this thread reads these rows, in ascending order."""


class StoredFrames:
    """The frames of an index, in its order.

    Parameters
    ----------
    index
        The frames.
    reading
        How they are read.
    neighbours
        The number of slices before and after a frame that are delivered with it.
    in_patient
        Whether the spacing of projection images is that in the patient.
    is_mixed
        Whether the frames will be interpolated.
    """

    def __init__(
        self, index: Index, reading: Reading, neighbours: int, *, in_patient: bool, is_mixed: bool
    ) -> None:
        self._index, self._reading = index, reading
        self._neighbours, self._in_patient = neighbours, in_patient
        self._is_mixed = is_mixed

    @property
    def boundaries(self) -> Ints:
        """(stacks + 1,) the first row of each stack, complete or not, and the end."""
        return self._index.stack_boundaries()

    def batch(self, rows: Sequence[int]) -> contextlib.AbstractContextManager[None]:
        """Return a context in which frames of stores are asked for together."""
        if not len(rows) or SEPARATOR not in self._index.source(rows[0]).path:
            return contextlib.nullcontext()
        return frames_ahead([self._index.source(row) for row in rows])

    def read(self, row: int) -> FrameRead:
        """Read the frame of a row."""
        stack = self._index.stack_of(row)
        facts = self._index.facts(row, _FRAME_FACTS)
        recipe = self._recipe(stack, row, facts["number_of_frames"])
        read = self._values(stack, row, facts, recipe)
        if recipe.needs_sample:
            recipe = recipe.with_sample(
                sample_of(read.array[None], None if read.padding is None else read.padding[None])
            )
        image = floored(read, recipe)
        grid = frame_grid(
            stack,
            facts["position_in_stack"],
            self._reading.decoding.reduce,
            in_patient=self._in_patient,
        )
        identifiers = {"row": row, **{name: facts[name] for name in _FRAME_IDENTIFIERS}}
        # Those of the stack, which labels are joined by: a slice of it may lack them.
        identifiers["patient_id"] = stack.patient_id
        identifiers["study_instance_uid"] = stack.study_instance_uid
        image = image if self._neighbours else channel_first(image, 2)
        return FrameRead(image, grid, stack, facts["position_in_stack"], recipe, identifiers)

    def recipe(self, row: int) -> Intensity:
        """Return the intensity of a row, without limits that its own values give."""
        stack = self._index.stack_of(row)
        return self._recipe(stack, row, self._index.value(row, "number_of_frames"))

    def _values(
        self, stack: Stack, row: int, facts: dict[str, Any], recipe: Intensity
    ) -> Converted:
        """Return the frame (rows, columns[, sample]), or with its neighbours as first axis."""
        position = facts["position_in_stack"]
        if self._neighbours:
            reader = self._reading.voxels(stack, recipe.quantity)
            numbers = (position - self._neighbours, position + self._neighbours + 1)
            return _slices(reader, numbers, recipe, is_mixed=self._is_mixed)
        if (voxels := self._reading.cached_voxels(stack, recipe.quantity)) is not None:
            array, padding = voxels.read((position, 0, 0), (position + 1, *stack.shape[1:]))
            return Converted(array[0], None if padding is None else padding[0])
        own = conversion(
            stack, position, tuple(facts[name] for name in CONVERSION_COLUMNS), recipe.quantity
        )
        return read_image(self._index.source(row), own, how=self._reading.decoding_here())

    def _recipe(self, stack: Stack, number: int, number_of_frames: int) -> Intensity:
        """Return the intensity resolved for the stack, or for the frame if it has no geometry."""
        if (
            stack.verdict == "no_geometry"
            and (stack.modality in PROJECTION or number_of_frames == 1)
            and stack.modality != "PT"
        ):
            # A percentile then takes the frame itself as its sample.
            recipe = resolve(self._reading.intensity, self._index.frame(number))
            return with_units(recipe, stack, self._index.value(number, "position_in_stack"))
        return self._reading.recipe(stack)


class PlaneFrames:
    """The slices of each stack in a plane of the patient, cut out of the stored slices.

    Parameters
    ----------
    stacks
        The stacks, whose orientation is known.
    reading
        How they are read.
    neighbours
        The number of slices before and after a frame, across the plane, delivered with it.
    grid
        The directions of the plane: across it, down and along its rows.
    is_mixed
        Whether the frames will be interpolated.
    """

    def __init__(
        self,
        stacks: Stacks,
        reading: Reading,
        neighbours: int,
        grid: GridRequest,
        *,
        is_mixed: bool,
    ) -> None:
        self._stacks, self._reading = stacks, reading
        self._neighbours, self._grid = neighbours, grid
        self._is_mixed = is_mixed

    @cached_property
    def boundaries(self) -> Ints:
        """(stacks + 1,) the first row of each stack, and the end."""
        counts = self._grid.shapes(self._stacks)[:, 0]
        return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)

    @contextlib.contextmanager
    def batch(self, rows: Sequence[int]) -> Iterator[None]:
        """Within the context, the frames of one stack are read together, each file once."""
        outer = getattr(_of_thread, "batch", None)
        _of_thread.batch = _Batch(self, np.unique(np.asarray(rows, np.int64)))
        try:
            yield
        finally:
            _of_thread.batch = outer

    def recipe(self, row: int) -> Intensity:
        """Return the intensity of a row: that of its stack."""
        number = int(np.searchsorted(self.boundaries, row, side="right")) - 1
        return self._reading.recipe(self._stacks[number])

    def read(self, row: int) -> FrameRead:
        """Read the frame of a row."""
        number = int(np.searchsorted(self.boundaries, row, side="right")) - 1
        stack: Stack = self._stacks[number]
        position = row - int(self.boundaries[number])
        recipe = self._reading.recipe(stack)
        reader = self._together(number, stack, recipe)
        numbers = (position - self._neighbours, position + self._neighbours + 1)
        read = _slices(reader, numbers, recipe, is_mixed=self._is_mixed)
        image = floored(read, recipe)
        image = image if self._neighbours else channel_first(image[0], 2)
        affine = np.array(reader.geometry.affine)
        affine[:3, 3] += affine[:3, 0] * position
        grid = FrameGrid(affine, self._grid.spacing_of(stack), stack.spacing_at)
        facts = {"row": row, **{name: getattr(stack, name) for name in IDENTIFIERS}}
        facts |= {"stack": stack.number, "slice": position}
        return FrameRead(image, grid, stack, position, recipe, facts)

    def _together(self, number: int, stack: Stack, recipe: Intensity) -> BlockReader:
        """Return the reader of a stack, with the slices of the batch in memory if several are."""
        batch: _Batch | None = getattr(_of_thread, "batch", None)
        voxels = self._reading.voxels(stack, recipe.quantity)
        reader = self._grid.reader(voxels, self._grid.geometry(stack), stack, recipe)
        if batch is None or batch.source is not self:
            return reader
        if batch.stack != number:
            begin, end = self.boundaries[number : number + 2].tolist()
            rows = batch.rows[(batch.rows >= begin) & (batch.rows < end)] - begin
            batch.stack, batch.reader = number, self._kept(reader, rows, recipe)
        return batch.reader or reader

    def _kept(self, reader: BlockReader, positions: Ints, recipe: Intensity) -> KeptSlices | None:
        """Read the slices for some frames; None for one frame, or if a file cannot be read.

        Each frame is then read alone, and has its own error.
        """
        if len(positions) < 2:
            return None
        reach = np.arange(-self._neighbours, self._neighbours + 1)
        numbers = np.unique(positions[:, None] + reach)
        numbers = numbers[(numbers >= 0) & (numbers < reader.shape[0])]
        try:
            shows = padding_shows(reader, recipe, is_mixed=self._is_mixed)
            return KeptSlices(reader, numbers.tolist(), want_padding=shows)
        except (DicomdlError, OSError, MemoryError):
            return None


class _Batch:
    """The rows that a thread reads together, and the slices of the stack that it reads now."""

    def __init__(self, source: PlaneFrames, rows: Ints) -> None:
        self.source, self.rows = source, rows
        self.stack = -1
        self.reader: KeptSlices | None = None


def _slices(
    reader: BlockReader, numbers: tuple[int, int], recipe: Intensity, *, is_mixed: bool
) -> Converted:
    """Return the slices from one number up to another, (slices, rows, columns[, sample]).

    Slices beyond the ends of the stack are padding.
    """
    first, end = numbers
    if end - first > 1 and reader.samples:
        raise UsageError(
            "frames of colour have channels of their own: take them without neighbours="
        )
    size = (end - first, *reader.shape[1:])
    return read_block(reader, (first, 0, 0), size, recipe, None, is_mixed=is_mixed)
