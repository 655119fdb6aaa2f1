"""What samples have of the joined columns of an index: a target, boxes and points."""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from dicomdl.datasets.marks import (
    Boxes,
    MarkColumns,
    Place,
    Points,
    boxes_entries,
    points_entries,
    rows_of_stack,
)
from dicomdl.datasets.targets import TargetColumns, TargetOption
from dicomdl.errors import UsageError
from dicomdl.index.joined import LEVELS, Joined
from dicomdl.index.views import Stack


@dataclass(frozen=True, slots=True)
class TableLabels:
    """The options `target`, `boxes` and `points` of a dataset, checked.

    Attributes
    ----------
    target, boxes, points
        The columns, or None without the option.
    """

    target: TargetColumns | None = None
    boxes: MarkColumns | None = None
    points: MarkColumns | None = None

    @classmethod
    def of(
        cls, target: TargetOption, boxes: Boxes | None, points: Points | None, joined: Joined
    ) -> "TableLabels":
        """Return the options of a dataset, checked against the joined columns of its index.

        Raises
        ------
        UsageError
            A column does not exist, or does not fit the option.
        """
        return cls(
            TargetColumns.of(target, joined),
            MarkColumns.of(boxes, joined, "boxes"),
            MarkColumns.of(points, joined, "points"),
        )

    @property
    def has_marks(self) -> bool:
        """Whether samples have boxes or points."""
        return self.boxes is not None or self.points is not None

    def has_target_of(self, level: str) -> bool:
        """Whether there is a target, the same for all frames of a level."""
        return self.target is not None and LEVELS.index(self.target.level) <= LEVELS.index(level)

    def require_target_of(self, level: str, samples: str) -> None:
        """Raise a UsageError for a target that differs among the frames of a sample."""
        if self.target is not None and not self.has_target_of(level):
            raise UsageError(
                f"target={self.target.names[0]!r} is joined by {self.target.level}, and {samples} "
                f"have several of these: join by {level} or above, or take FrameDataset",
                level=self.target.level,
            )

    def target_entries(self, joined: Joined, row: int) -> dict[str, Any]:
        """Return the entry `target` of a sample, for a row of the table `frames`."""
        return {} if self.target is None else {"target": self.target.one(joined, row)}

    def mark_entries(
        self,
        joined: Joined,
        stack: Stack,
        place: Place,
        *,
        frame: int | None = None,
        is_frame: bool = False,
    ) -> dict[str, Any]:
        """Return the entries of boxes and points of a sample.

        Parameters
        ----------
        joined
            The joined columns of the index.
        stack
            The stack that the sample shows.
        place
            Where its marks come to lie.
        frame
            The row in the table `frames` of the frame whose marks are taken; None: all of the
            stack.
        is_frame
            Whether the sample is a frame, with x and y, or a volume.
        """
        entries: dict[str, Any] = {}
        for marks in (self.boxes, self.points):
            if marks is None:
                continue
            rows = rows_of_stack(stack, marks.level) if frame is None else np.array([frame])
            found, option = marks.of_rows(joined, rows), marks.option
            entries |= (
                boxes_entries(found, option, place, is_frame=is_frame)
                if isinstance(option, Boxes)
                else points_entries(found, option, place, is_frame=is_frame)
            )
        return entries


NO_LABELS: Final = TableLabels()
