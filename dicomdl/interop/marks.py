"""Boxes and points of samples, between the conventions of other libraries.

On the way they are edges and places of (slice, row, column), as in `geometry.boxes`; a frame is one
slice. On the way back they are clipped to the new image, and what lies outside is dropped and
counted, as in a dataset.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch

from dicomdl.arrays import Floats
from dicomdl.datasets.sample import RAGGED, Sample
from dicomdl.errors import UsageError
from dicomdl.geometry.boxes import clipped_boxes, moved_boxes, moved_places, places_inside


class Marks(NamedTuple):
    """The boxes (n, 6) and points (n, 3) of a sample, None without any; their labels or None."""

    boxes: Floats | None
    points: Floats | None
    box_labels: torch.Tensor | None
    point_labels: torch.Tensor | None

    @property
    def is_any(self) -> bool:
        """Whether the sample has boxes or points."""
        return self.boxes is not None or self.points is not None

    def moved(self, index_map: Floats) -> "Marks":
        """Return the marks on a grid, by the (4, 4) map from its indices to those before.

        They are NaN where the map is unknown, as the affine is.
        """
        if not np.isfinite(index_map).all():
            by = np.full((4, 4), np.nan)
        else:
            by = np.linalg.inv(index_map)
        return self._replace(
            boxes=None if self.boxes is None else moved_boxes(self.boxes, by),
            points=None if self.points is None else moved_places(self.points, by),
        )


def marks_of(sample: Mapping[str, Any]) -> Marks:
    """Return the boxes and points of a sample."""
    is_frame = sample["image"].ndim == 3
    boxes, points = (
        None if sample.get(name) is None else np.asarray(sample[name], np.float64)
        for name in ("boxes", "points")
    )
    if is_frame and boxes is not None:
        boxes = boxes_of_xyxy(boxes)
    if is_frame and points is not None:
        points = np.stack([np.zeros(len(points)), points[:, 1] - 0.5, points[:, 0] - 0.5], axis=1)
    return Marks(boxes, points, sample.get("box_labels"), sample.get("point_labels"))


def boxes_of_xyxy(boxes: Floats) -> Floats:
    """Return (n, 6) boxes of one slice for (n, 4) XYXY boxes of a frame."""
    first, last = np.zeros(len(boxes)), np.ones(len(boxes))
    return np.stack([first, boxes[:, 1], boxes[:, 0], last, boxes[:, 3], boxes[:, 2]], axis=1)


def without_marks(entries: Mapping[str, Any]) -> dict[str, Any]:
    """Return the entries other than boxes, points and their labels."""
    return {name: value for name, value in entries.items() if name not in RAGGED}


def with_marks(sample: Sample, marks: Marks) -> Sample:
    """Return the sample with boxes and points that lie in its image, the others counted.

    Unknown ones, after a transform that is no affine map, stay NaN.

    Raises
    ------
    UsageError
        A transform has removed some boxes or points, and not their labels.
    """
    image = sample["image"]
    is_frame = image.ndim == 3
    shape = (1, *image.shape[1:]) if is_frame else tuple(image.shape[1:])
    if marks.boxes is not None:
        _require_one_length("boxes", marks.boxes, marks.box_labels)
        boxes, is_kept = marks.boxes, np.ones(len(marks.boxes), np.bool_)
        if np.isfinite(boxes).all():
            boxes, is_kept = clipped_boxes(boxes, shape)
        boxes = boxes[:, [2, 1, 5, 4]] if is_frame else boxes
        sample["boxes"] = torch.from_numpy(boxes.astype(np.float32))
        _count(sample, "box_labels", "boxes_dropped", marks.box_labels, is_kept)
    if marks.points is not None:
        _require_one_length("points", marks.points, marks.point_labels)
        points, is_kept = marks.points, np.ones(len(marks.points), np.bool_)
        if np.isfinite(points).all():
            is_kept = places_inside(points, shape)
        points = points[is_kept]
        shown = points[:, [2, 1]] + 0.5 if is_frame else points
        sample["points"] = torch.from_numpy(shown.astype(np.float32))
        affine = np.asarray(sample["affine"], np.float64)
        sample["points_mm"] = torch.from_numpy(moved_places(points, affine))
        _count(sample, "point_labels", "points_dropped", marks.point_labels, is_kept)
    return sample


def _count(
    sample: Sample, labels: str, dropped: str, given: torch.Tensor | None, is_kept: Any
) -> None:
    """Set the labels of what is kept, and add to the count of what is dropped."""
    if given is not None:
        sample[labels] = given[torch.from_numpy(is_kept)]
    if dropped in sample or not is_kept.all():
        sample[dropped] = int(sample.get(dropped, 0)) + int((~is_kept).sum())


def _require_one_length(name: str, marks: Floats, labels: torch.Tensor | None) -> None:
    if labels is not None and len(labels) != len(marks):
        raise UsageError(
            f"the transform left {len(marks)} {name} and {len(labels)} labels of them: have it "
            "remove both together",
            marks=len(marks),
            labels=len(labels),
        )
