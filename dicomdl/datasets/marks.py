"""Boxes and points of tables, in the voxels of what a sample returns.

The table tells pixels of frames, which count from the outer corner of the first pixel, as in
annotations of DICOM (PS3.3 C.10.5.1.2) and in the tables of RSNA; or points in LPS mm. They are
read per sample from the joined columns of the index, and moved by a map of places (see
`geometry.boxes`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple

import numpy as np
import torch

from dicomdl.arrays import Floats, Ints
from dicomdl.errors import UsageError
from dicomdl.geometry.boxes import (
    clipped_boxes,
    moved_boxes,
    moved_places,
    places_inside,
)
from dicomdl.geometry.grid import Geometry
from dicomdl.index.joined import Joined
from dicomdl.index.views import Stack

BoxFormat = Literal["xywh", "xyxy"]
_NUMBERS: Final = ("integer", "real", "integers", "reals")
_LABELS: Final = ("text", "texts", "integer", "integers", "flag")


@dataclass(frozen=True, slots=True)
class Boxes:
    """The joined columns that are the `boxes` of samples: rectangles on frames.

    Parameters
    ----------
    x, y, width, height
        The names of the columns (see `Index.join`), which hold a list per frame, or one value.
        x counts columns of pixels and y rows, from the outer corner of the first pixel.
    label
        The column of their classes, text or integers.
    format
        "xywh", or "xyxy" if the last two columns are the last x and y.

    Raises
    ------
    UsageError
        The format is another word.

    Examples
    --------
    >>> from dicomdl import Boxes
    >>> Boxes("x_min", "y_min", "x_max", "y_max", label="class_name", format="xyxy").names
    ('x_min', 'y_min', 'x_max', 'y_max')
    """

    x: str
    y: str
    width: str
    height: str
    label: str | None = None
    format: BoxFormat = "xywh"

    def __post_init__(self) -> None:
        if self.format not in ("xywh", "xyxy"):
            raise UsageError(f"format={self.format!r}: expected 'xywh' or 'xyxy'")

    @property
    def names(self) -> tuple[str, ...]:
        """The columns of numbers."""
        return (self.x, self.y, self.width, self.height)

    @property
    def is_world(self) -> bool:
        """False: boxes are in pixels."""
        return False


@dataclass(frozen=True, slots=True)
class Points:
    """The joined columns that are the `points` of samples: pixels of frames, or LPS mm.

    Parameters
    ----------
    x, y
        The names of the columns (see `Index.join`), which hold a list per key, or one value.
        Without `z`, they are pixels of frames, as for `Boxes`.
    z
        The column of the third coordinate: x, y and z are LPS mm then.
    label
        The column of their classes, text or integers.

    Examples
    --------
    >>> from dicomdl import Points
    >>> Points("coordX", "coordY", "coordZ").is_world
    True
    """

    x: str
    y: str
    z: str | None = None
    label: str | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The columns of numbers."""
        return (self.x, self.y) if self.z is None else (self.x, self.y, self.z)

    @property
    def is_world(self) -> bool:
        """Whether the points are in LPS mm."""
        return self.z is not None


class Found(NamedTuple):
    """Marks of some frames, mark by mark.

    `numbers` is (n, columns) float64, `labels` (n,) int64 or None, `frames` (n,) the number of the
    frame among those asked for.
    """

    numbers: Floats
    labels: Ints | None
    frames: Ints


class Place(NamedTuple):
    """Where the marks of a stack come to lie.

    Attributes
    ----------
    own
        The grid on which the table tells them: that of the stack, or of its slices at regular
        places.
    by
        (4, 4) the map from places of that grid to those of the sample.
    shape
        The voxels of the sample, (slices, rows, columns).
    affine
        (4, 4) of the sample, to LPS mm.
    slices
        (slices,) the place of each slice on that grid, where it is not its number: a stack with
        missing slices.
    """

    own: Geometry
    by: Floats
    shape: tuple[int, int, int]
    affine: Floats
    slices: Floats | None = None


@dataclass(frozen=True, slots=True)
class MarkColumns:
    """Boxes or points with the kinds of their columns, checked against the joined columns.

    Attributes
    ----------
    option
        The columns.
    classes
        The values of the classes, in order; None for integers, which stay as they are.
    level
        The level of the columns.
    """

    option: Boxes | Points
    classes: tuple[Any, ...] | None
    level: str

    @classmethod
    def of(cls, option: Boxes | Points | None, joined: Joined, name: str) -> "MarkColumns | None":
        """Return the marks for the option `name` of a dataset.

        Raises
        ------
        UsageError
            A column does not exist, holds no numbers, or belongs to no frame.
        """
        if option is None:
            return None
        wanted = Boxes if name == "boxes" else Points
        if not isinstance(option, wanted):
            raise UsageError(
                f"{name} is a {type(option).__name__}: expected dicomdl.{wanted.__name__}(...)"
            )
        label = [] if option.label is None else [option.label]
        for column, kinds in [
            *((n, _NUMBERS) for n in option.names),
            *((n, _LABELS) for n in label),
        ]:
            if (kind := joined.kind(column)) not in kinds:
                raise UsageError(f"{name}: {column!r} holds {kind}, expected {' or '.join(kinds)}")
        levels = {joined.level(column) for column in (*option.names, *label)}
        if len(levels) > 1:
            raise UsageError(f"{name}: its columns are of several joins, by {', '.join(levels)}")
        (level,) = levels
        if level != "frame" and not option.is_world:
            raise UsageError(
                f"{name}: {option.x!r} is joined by {level}, and pixels belong to frames: join by "
                "what names a frame, such as its SOP Instance UID, its file (stem) or its number, "
                "with level='frame'",
                level=level,
            )
        if not option.is_world and joined.repeats_in_files(option.x):
            raise UsageError(
                f"{name}: a row of {option.x!r} is joined with several frames of one file: join by "
                "its frame, too, such as on={..., 'frame_index': 'f'}, counted from 0"
            )
        is_text = option.label is not None and joined.kind(option.label).startswith("text")
        return cls(
            option, joined.classes(option.label) if is_text and option.label else None, level
        )

    def of_rows(self, joined: Joined, rows: Ints) -> Found:
        """Return the marks of frames, those with an unknown number left out."""
        # Few slices of a stack have a row in the table, and each costs a look-up per column.
        has_row = np.flatnonzero(joined.keys(self.option.x, rows) >= 0)
        rows, label = rows[has_row], self.option.label
        if not len(rows):
            nothing = np.zeros(0, np.int64)
            return Found(
                np.zeros((0, len(self.option.names))), None if label is None else nothing, nothing
            )
        columns = [_flat(joined, name, rows) for name in self.option.names]
        counts = columns[0][1]
        labels = None if label is None else _flat(joined, label, rows)
        for _, other in [*columns, *([labels] if labels else [])]:
            if not np.array_equal(other, counts):
                raise UsageError(
                    f"the lists of {', '.join(map(repr, self.option.names))} have several lengths "
                    "in one row: join them together",
                )
        numbers = np.stack([np.asarray(values, np.float64) for values, _ in columns], axis=1)
        frames = np.repeat(has_row, counts)
        is_known = np.isfinite(numbers).all(axis=1)
        codes = None if labels is None else self._codes(labels[0])[is_known]
        return Found(numbers[is_known], codes, frames[is_known])

    def _codes(self, labels: Sequence[Any]) -> Ints:
        """Return (n,) int64 classes, -1 where unknown."""
        if self.classes is None:
            return np.array([-1 if label is None else label for label in labels], np.int64)
        number_of = {value: number for number, value in enumerate(self.classes)}
        return np.array([number_of.get(label, -1) for label in labels], np.int64)


def _flat(joined: Joined, name: str, rows: Ints) -> tuple[Any, Ints]:
    """Return the values of some frames in a row, and their number per frame."""
    kind = joined.kind(name)
    if kind.endswith("s"):
        lists = joined.lists(name, rows)
        counts = np.array([len(each) for each in lists], np.int64)
        return [value for each in lists for value in each], counts
    if kind == "text":
        codes, classes = joined.codes(name, rows)
        return [(*classes, None)[code] for code in codes.tolist()], np.ones(len(rows), np.int64)
    values, is_known = joined.values(name, rows)
    numbers = values.astype(np.float64)
    numbers[~is_known] = np.nan
    return numbers, np.ones(len(rows), np.int64)


def rows_of_stack(stack: Stack, level: str) -> Ints:
    """Return the rows of the frames that hold the marks of a stack: one where all have the same."""
    first, end = stack.rows.start, stack.rows.stop
    return np.arange(first, end if level == "frame" else first + 1)


def boxes_entries(found: Found, option: Boxes, place: Place, *, is_frame: bool) -> dict[str, Any]:
    """Return the entries of a sample for boxes of the frames of a stack.

    `found.frames` are slices of the stack. A frame gets XYXY boxes, a volume IJKIJK boxes.
    """
    given = found.numbers.copy()
    if option.format == "xywh":
        given[:, 2:] += given[:, :2]
    slices = _slices(found, place)
    boxes = np.stack(
        [slices, given[:, 1], given[:, 0], slices + 1, given[:, 3], given[:, 2]], axis=1
    )
    # A box without extent stays without: maps must not turn it around.
    empty = (boxes[:, 3:] <= boxes[:, :3]).any(axis=1)
    moved = moved_boxes(boxes, place.by)
    moved[empty] = 0
    clipped, is_inside = clipped_boxes(moved, place.shape)
    if is_frame:
        clipped = clipped[:, [2, 1, 5, 4]]
    entries = {"boxes": torch.from_numpy(clipped.astype(np.float32))}
    if found.labels is not None:
        entries["box_labels"] = torch.from_numpy(found.labels[is_inside])
    return entries | {"boxes_dropped": int((~is_inside).sum())}


def _slices(found: Found, place: Place) -> Floats:
    """Return (n,) the place of each mark along the first axis."""
    if place.slices is not None:
        return place.slices[found.frames]
    return found.frames.astype(np.float64)


def points_entries(found: Found, option: Points, place: Place, *, is_frame: bool) -> dict[str, Any]:
    """Return the entries of a sample for points of a stack.

    A frame gets (x, y) of edges, a volume (slice, row, column) of places.
    """
    if option.is_world:
        own = place.own
        unknown = np.full((len(found.numbers), 3), np.nan)
        places = own.world_to_voxel(found.numbers) if own.is_known else unknown
    else:
        places = np.stack(
            [_slices(found, place), found.numbers[:, 1] - 0.5, found.numbers[:, 0] - 0.5], axis=1
        )
    moved = moved_places(places, place.by)
    is_inside = places_inside(moved, place.shape)
    kept = moved[is_inside]
    affine = np.asarray(place.affine)
    shown = kept[:, [2, 1]] + 0.5 if is_frame else kept
    entries = {
        "points": torch.from_numpy(shown.astype(np.float32)),
        "points_mm": torch.from_numpy(kept @ affine[:3, :3].T + affine[:3, 3]),
    }
    if found.labels is not None:
        entries["point_labels"] = torch.from_numpy(found.labels[is_inside])
    return entries | {"points_dropped": int((~is_inside).sum())}
