"""Views of an index: Stack, Group, Series, Study.

A view holds a generation and a number; each value is read from the memory-mapped tables at its
first use. Views compare and hash by index folder, generation and number, and pickle as these.
"""

import functools
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from dicomdl.errors import position_in, rows_of_slice
from dicomdl.geometry.grid import Geometry, Tolerances, frame_positions
from dicomdl.geometry.in_plane import (
    IN_PLANE_COLUMNS,
    PROJECTION,
    PlaneSpacing,
    SpacingAt,
    plane_spacing,
)
from dicomdl.geometry.verdict import READABLE
from dicomdl.headers.frame import Frame
from dicomdl.headers.frame_source import FrameSource
from dicomdl.index import _stack_columns as stack_columns
from dicomdl.index._group_parts import (
    component_of,
    gaps_of,
    names_that_differ,
    quantity_of,
)
from dicomdl.index._public_functions import Plotted, Viewed
from dicomdl.index.access import Access
from dicomdl.index.annotations import Annotation, annotations_of
from dicomdl.index.rows import Generation, generation_of
from dicomdl.index.text import Lines, counted, format_lengths
from dicomdl.printing import printable
from dicomdl.storage.locations import common_folder

# Values of the dimension of a group in its repr.
SHOWN_MEMBERS: Final = 6


class Stack(Plotted, Viewed):
    """The frames of one Series that form one grid, in slice order, with the verdict on it.

    A view of an index, which pickles as a path and a number. `Index.stacks` holds them.

    Attributes
    ----------
    number
        The number of the stack in its index, from 0.
    shape, spacing
        (slices, rows, columns), and the spacing along these axes in mm.
    affine
        (4, 4) float64, from (slice, row, column, 1) to LPS mm.
    verdict, mixed, detail
        The verdict on the grid, whether its slices have several contrasts, and the numbers.
    dimension, group, group_index
        The values that distinguish the stack from others on its grid, and their group.
    frames, sources, annotations
        The facts and the byte range of every slice; SEG, RTSTRUCT and others that describe them.

    Methods
    -------
    value, values, frame_value, is_constant
        A fact by the name of its column: of the first slice, of all, of one; is it the same in all.
    frame, source, position, plane_spacing, plot, view
        Facts, byte range, position and in-plane spacing of a slice; a picture of three planes, and
        planes with sliders in a notebook.

    Examples
    --------
    >>> import tempfile
    >>> import dicomdl
    >>> from pydicom.data import get_testdata_file
    >>> with tempfile.TemporaryDirectory() as out:
    ...     stack = dicomdl.scan(get_testdata_file("CT_small.dcm"), out, progress=False).stacks[0]
    >>> stack.shape, stack.verdict, stack.content
    ((1, 128, 128), 'single', 'image')
    >>> stack.modality, stack.value("rows")
    ('CT', 128)
    >>> stack.spacing
    (nan, 0.661468, 0.661468)
    """

    __slots__ = ("_generation", "number")

    def __init__(self, generation: Generation, number: int) -> None:
        self._generation = generation
        self.number = number

    @property
    def rows(self) -> slice:
        """The range of rows in the `frames` table, in slice order."""
        starts = self._generation.stack_starts
        return slice(int(starts[self.number]), int(starts[self.number + 1]))

    @property
    def slices(self) -> int:
        """The number of frames."""
        return int(self.rows.stop - self.rows.start)

    def __len__(self) -> int:
        return self.slices

    @property
    def shape(self) -> tuple[int, int, int]:
        """(slices, rows, columns)."""
        return (self.slices, int(self.value("rows")), int(self.value("columns")))

    @property
    def verdict(self) -> str:
        """The verdict on the grid.

        One of "regular", "tilted", "single", "missing_slices", "uneven_spacing", "duplicates" and
        "no_geometry".
        """
        return str(self._generation.stack_value("verdict", self.number))

    @property
    def detail(self) -> dict[str, Any]:
        """The numbers behind the verdict, lengths in mm."""
        return dict(json.loads(self._generation.stack_value("detail", self.number)))

    @property
    def mixed(self) -> bool:
        """Whether its slices have several contrasts; ``detail["mixed"]`` counts them."""
        return bool(self._generation.stack_value("mixed", self.number))

    @property
    def content(self) -> str:
        """The kind of pixels: "image", "segmentation", "dose" or "parametric_map"."""
        return str(self._generation.stack_value("content", self.number))

    @property
    def affine(self) -> npt.NDArray[np.float64]:
        """(4, 4) float64, from (slice, row, column, 1) to LPS mm; NaN without geometry."""
        return np.asarray(
            self._generation.stack_value("affine", self.number), dtype=np.float64
        ).reshape(4, 4)

    @property
    def spacing(self) -> tuple[float, float, float]:
        """(slice, row, column) spacing in mm; NaN where unknown.

        That of a projection image may hold at the detector: see `spacing_at`.
        """
        slice_, row, column = self._generation.stack_value("spacing", self.number)
        return (slice_, row, column)

    @property
    def spacing_at(self) -> SpacingAt:
        """The place where the in-plane spacing holds: "patient", "detector", or "" if unknown."""
        if self.verdict != "no_geometry" and self.modality not in PROJECTION:
            return "patient"
        unknown = "in_plane_spacings" in self.detail
        return "" if unknown else self.plane_spacing().at

    def plane_spacing(self, number: int = 0) -> PlaneSpacing:
        """Return the in-plane spacing of slice `number`, with its place and magnification.

        ``plane_spacing().in_patient()`` divides the spacing at the detector by the magnification.
        """
        return plane_spacing({name: self.frame_value(number, name) for name in IN_PLANE_COLUMNS})

    @property
    def geometry(self) -> Geometry:
        """The shape and the affine."""
        return Geometry(self.shape, self.affine)

    @property
    def positions(self) -> npt.NDArray[np.float64]:
        """(slices, 3) LPS mm, the centre of the first pixel of each slice; NaN where unknown.

        This is ImagePositionPatient; the planes of a dose grid add their offset (PS3.3 C.8.8.3.2).
        """
        return frame_positions(self._generation.frames.part(self.rows), self.tolerances)

    def position(self, number: int) -> npt.NDArray[np.float64]:
        """Return (3,) LPS mm, the centre of the first pixel of slice `number`.

        It is the row of `positions`, read without the others; NaN where unknown.
        """
        position = self.frame_value(number, "image_position_patient")
        if position is None or self.frame_value(number, "grid_frame_offset") is not None:
            return np.array(self.positions[number])
        return np.array(position, dtype=np.float64)

    @property
    def tolerances(self) -> Tolerances:
        """The tolerances of the scan, by which the verdict was reached."""
        return self._generation.tolerances

    @property
    def dimension(self) -> dict[str, Any]:
        """The values that distinguish this stack in its group, such as ``{"echo_time": 4.9}``.

        Empty for the only stack of a group. Times of day are in seconds from the first stack of the
        group.
        """
        values = json.loads(self._generation.stack_value("dimension", self.number))
        return {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in values.items()
        }

    @property
    def group(self) -> "Group":
        """The group: all stacks on this grid, distinguished by `dimension`, itself included."""
        return Group(self._generation, int(self._generation.stack_value("group", self.number)))

    @property
    def group_index(self) -> int:
        """The position of this stack in its group, from 0."""
        return int(self._generation.stack_value("group_index", self.number))

    @property
    def patient_id(self) -> str:
        """PatientID, or its keyed hash after a scan with ``patient_id="hash"``."""
        return self._generation.identity("patient_id", self.number)

    @property
    def study_instance_uid(self) -> str:
        """Study Instance UID, that of the first slice which has one."""
        return self._generation.identity("study_instance_uid", self.number)

    @property
    def series_instance_uid(self) -> str:
        """Series Instance UID."""
        return str(self.value("series_instance_uid"))

    @property
    def modality(self) -> str:
        """Modality (0008,0060)."""
        return str(self.value("modality"))

    @property
    def description(self) -> str:
        """Series Description (0008,103E)."""
        return str(self.value("series_description") or "")

    @property
    def component(self) -> str:
        """The part of a complex signal: "M", "P", "R" or "I"; "" where the header has none.

        Magnitude, phase, real or imaginary part, by Complex Image Component or Image Type.
        """
        return component_of(functools.partial(self.frame_value, self.slices // 2))

    @property
    def paths(self) -> list[str]:
        """The files, in slice order; a multi-frame file once."""
        return list(dict.fromkeys(self.values("path")))

    @property
    def path(self) -> str:
        """The folder that holds all files of the stack."""
        return common_folder(self.paths)

    def value(self, column: str) -> Any:
        """Return the fact `column` of the first frame."""
        return self._generation.cell(column)(self.rows.start)

    def values(self, column: str) -> list[Any]:
        """Return the fact `column` of every frame, in slice order."""
        return self._generation.values(column, self.rows)

    def is_constant(self, column: str) -> bool:
        """Return whether the fact `column` is the same in every frame; codes are compared."""
        return self._generation.is_constant(column, self.rows)

    def frame_value(self, number: int, column: str) -> Any:
        """Return the fact `column` of slice `number`."""
        return self._generation.cell(column)(self._row(number))

    def _row(self, number: int) -> int:
        return int(self.rows.start) + position_in(number, self.slices, "slice")

    @property
    def series(self) -> "Stacks":
        """All stacks of the same Series in the complete index, itself included."""
        numbers = self._generation.stacks.numbers("series")
        return Stacks(self._generation, np.flatnonzero(numbers == numbers[self.number]))

    def frame(self, number: int) -> Frame:
        """Return slice `number` with all its facts."""
        return self._generation.frame(self._row(number))

    @property
    def frames(self) -> list[Frame]:
        """All slices with all their facts; `sources` is faster for reading pixels."""
        return [self.frame(number) for number in range(self.slices)]

    @property
    def middle(self) -> Frame:
        """The middle slice: the frame that represents its stack."""
        return self.frame(self.slices // 2)

    def source(self, number: int) -> FrameSource:
        """Return the byte range of slice `number` and the facts that decode it."""
        return self._generation.source(self._row(number))

    @property
    def sources(self) -> list[FrameSource]:
        """The byte range of every slice, in slice order, with the facts that decode it."""
        source = self._generation.source
        return Lines(source(row) for row in range(self.rows.start, self.rows.stop))

    @property
    def annotations(self) -> list[Annotation]:
        """The objects that describe this stack (SEG, RTSTRUCT, RTDOSE, ...), newest first."""
        return annotations_of(self._generation, np.array([self.number]))

    @property
    def key(self) -> tuple[str, str, int, Access]:
        """(index folder, generation, number, access to files), the same in every process."""
        folder, generation, access = self._generation.address
        return (folder, generation, self.number, access)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Stack) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)

    def __reduce__(self) -> tuple[Any, ...]:
        return _unpickle_stack, (*self._generation.address, self.number)

    def __repr__(self) -> str:
        shape = " x ".join(map(str, self.shape))
        dimension = "".join(f", {name} {value}" for name, value in self.dimension.items())
        number = self.value("series_number")
        series = f"{'?' if number is None else number} {self.description!r}"
        return printable(
            f"Stack({self.modality or '?'} {shape}, {format_lengths(self.spacing)} mm, "
            f"{self.verdict}{dimension}, series {series} in {self.path})"
        )


def _unpickle_stack(folder: str, generation: str, access: Access, number: int) -> Stack:
    return Stack(generation_of(folder, generation, access), number)


class Stacks(Plotted, Sequence[Stack]):
    """A sequence of stacks, held as their numbers; a `Stack` is built on access."""

    def __init__(self, generation: Generation, numbers: npt.NDArray[np.int64]) -> None:
        self._generation = generation
        self.numbers = numbers

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, number: Any) -> Any:
        if isinstance(number, slice):
            rows_of_slice(number, len(self), "stack")
            return Stacks(self._generation, self.numbers[number])
        number = position_in(number, len(self), "stack")
        return Stack(self._generation, int(self.numbers[number]))

    def __iter__(self) -> Iterator[Stack]:
        return (Stack(self._generation, number) for number in self.numbers.tolist())

    def shapes(self) -> npt.NDArray[np.int64]:
        """Return (stacks, 3) slices, rows and columns of each stack, int64."""
        return stack_columns.shapes(self._generation, self.numbers)

    def affines(self) -> npt.NDArray[np.float64]:
        """Return (stacks, 4, 4) the affine of each stack, float64; NaN without geometry."""
        return stack_columns.affines(self._generation, self.numbers)

    def first_rows(self) -> npt.NDArray[np.int64]:
        """Return (stacks,) int64 the row of the first slice of each in the `frames` table."""
        return np.asarray(self._generation.stack_starts[self.numbers], np.int64)

    def have_detail(self, key: str) -> npt.NDArray[np.bool_]:
        """Return (len,) flags: stacks whose `detail` has a key."""
        return stack_columns.have_detail(self._generation, self.numbers, key)

    def one_per_group(self) -> "Stacks":
        """Return the first of these stacks of each group, in order."""
        groups = self._generation.stacks.numbers("group")[self.numbers]
        return Stacks(self._generation, self.numbers[np.unique(groups, return_index=True)[1]])

    def verdicts(self) -> Counter[str]:
        """Count the stacks per verdict."""
        return stack_columns.verdicts(self._generation, self.numbers)

    def __repr__(self) -> str:
        shown = "\n".join(repr(stack) for stack in self[:20])
        more = f"\n... and {len(self) - 20} more" if len(self) > 20 else ""
        return f"{counted(len(self), 'stacks')}\n{shown}{more}"


class Group(Plotted, Viewed, Sequence[Stack]):
    """Stacks of one Series on one grid, distinguished by a dimension.

    Dimensions are time points, echoes, b-values, phases, kernels, ... `read_volume` returns one
    array (t, slice, row, column) for a group. Every stack is in exactly one group, possibly alone.

    Attributes
    ----------
    number
        The number of the group in its index.
    stacks, dimension_names, dimension
        The stacks in order, the attributes that distinguish them, and their value per stack.
    missing
        The slices that some stacks lack, per value of the dimension.
    parts
        The group by quantity: a group per unit, and for magnitude and phase.
    readable
        The group without the stacks that `read_volume` refuses.
    """

    __slots__ = ("_generation", "chosen", "number")

    def __init__(
        self, generation: Generation, number: int, chosen: tuple[int, ...] | None = None
    ) -> None:
        self._generation = generation
        self.number = number
        # The numbers of the stacks; None for all stacks of the group.
        self.chosen = chosen

    @property
    def stacks(self) -> Stacks:
        """The stacks, in the order of their dimension."""
        if self.chosen is None:
            return Stacks(self._generation, self._generation.groups[self.number])
        return Stacks(self._generation, np.array(self.chosen, dtype=np.int64))

    def __len__(self) -> int:
        return len(self.stacks)

    def __getitem__(self, number: Any) -> Any:
        return self.stacks[number]

    @property
    def dimension_names(self) -> tuple[str, ...]:
        """The columns of the attributes that distinguish the stacks, the slowest first.

        For example ``("temporal_position_index", "echo_time")``. A part or the readable stacks of a
        group have those names that still differ.
        """
        if self.chosen is None:
            return tuple(self[0].dimension)
        return names_that_differ([stack.dimension for stack in self])

    @property
    def dimension(self) -> tuple[Any, ...]:
        """The value of each stack; tuples when there are several attributes."""
        names = self.dimension_names
        values = [tuple(stack.dimension[name] for name in names) for stack in self]
        return tuple(value[0] if len(value) == 1 else value for value in values)

    @property
    def tolerances(self) -> Tolerances:
        """The tolerances of the scan, by which the stacks share a grid."""
        return self._generation.tolerances

    @property
    def missing(self) -> dict[Any, list[int]]:
        """The slices of the grid that a stack lacks, per value of the dimension.

        Empty when the group is complete.
        """
        missing = zip(self.dimension, gaps_of(s.detail for s in self), strict=True)
        return {value: slices for value, slices in missing if slices}

    @property
    def parts(self) -> tuple["Group", ...]:
        """The group by quantity, in the order of its stacks; the group itself if it has one.

        A quantity is a unit, and the magnitude, phase, real or imaginary part of a signal.
        ``read_volume(group.parts[0])`` is one array where ``read_volume(group)`` would mix units.
        """
        members: dict[tuple[Any, ...], list[Stack]] = {}
        for stack in self:
            key = quantity_of(functools.partial(stack.frame_value, stack.slices // 2))
            members.setdefault(key, []).append(stack)
        return tuple(map(self.only, members.values()))

    @property
    def readable(self) -> "Group":
        """The group without stacks that `read_volume` refuses, by their verdict or missing slices.

        It may be empty. `read_volume` never leaves out a stack by itself.
        """
        sound = [stack for stack in self if stack.verdict in READABLE]
        missing = gaps_of(stack.detail for stack in sound)
        whole = [stack for stack, gap in zip(sound, missing, strict=True) if not gap]
        # Segments have slices of their own, and none of them is missing.
        most = max(map(len, whole), default=0)
        return self.only([stack for stack in whole if len(stack) == most])

    def only(self, stacks: Sequence[Stack]) -> "Group":
        """Return the group with some of its `stacks`, in the order given."""
        numbers = tuple(stack.number for stack in stacks)
        is_all = numbers == tuple(self.stacks.numbers.tolist())
        return self if is_all else Group(self._generation, self.number, numbers)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Group) or self.chosen != other.chosen:
            return False
        return list(self[:1]) == list(other[:1])

    def __hash__(self) -> int:
        return hash((self.number, self.chosen))

    def __reduce__(self) -> tuple[Any, ...]:
        return _unpickle_group, (*self._generation.address, self.number, self.chosen)

    def __repr__(self) -> str:
        missing = f", {sum(map(len, self.missing.values()))} slices missing" if self.missing else ""
        values = ", ".join(map(str, self.dimension[:SHOWN_MEMBERS]))
        more = ", ..." if len(self) > SHOWN_MEMBERS else ""
        names = ", ".join(self.dimension_names)
        by = f" by {names} ({values}{more})" if names else ""
        first = f", {self[0]!r}" if len(self) else ""
        return printable(f"Group({len(self)}{by}{missing}{first})")


def _unpickle_group(
    folder: str, generation: str, access: Access, number: int, chosen: tuple[int, ...] | None
) -> Group:
    return Group(generation_of(folder, generation, access), number, chosen)
