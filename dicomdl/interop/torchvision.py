"""Samples as `tv_tensors` for the v2 transforms of torchvision, and back.

tv_tensors have no affine. Nine points go through the transform as boxes of size zero, and the new
`affine` is computed from their positions.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch

from dicomdl.arrays import Floats
from dicomdl.datasets.sample import Sample
from dicomdl.errors import UsageError
from dicomdl.extras import import_extra
from dicomdl.interop.grid import (
    GRID_KEY,
    LABELS,
    MAX_RESIDUAL_PIXELS,
    channelled,
    drawn,
    elsewhere,
    grid_of,
    rebuilt,
    seeded,
)
from dicomdl.interop.marks import Marks, marks_of, with_marks, without_marks

_TRACKED: Final = "dicomdl_points"
_ACROSS: Final = "dicomdl_slices"


def to_torchvision(
    sample: Mapping[str, Any], labels: Sequence[str] = LABELS, *, track: bool = True
) -> dict[str, Any]:
    """Convert a sample to `tv_tensors`, on which the v2 transforms of torchvision act.

    Needs the extra `torchvision`.

    Parameters
    ----------
    sample, labels
        As for `to_monai`.
    track
        Send nine points through the transform, as boxes of size zero, to compute the new `affine`.
        Turn it off for transforms that count boxes (RandomIoUCrop, SanitizeBoundingBoxes) or refuse
        them (padding other than "constant"); `affine` and `spacing` are then NaN.

    Returns
    -------
    dict
        A frame as Image (C, H, W); a volume as Video (D, C, H, W), with the same transform for all
        slices; labels as Masks of the same form. Boxes are BoundingBoxes (XYXY) and points
        KeyPoints, those of a volume in the plane of its slices.

    Raises
    ------
    MissingExtra
        torchvision is not installed, or does not fit the installed torch.
    UsageError
        The image or a label has another shape.
    """
    tv = import_extra("torchvision.tv_tensors", "to_torchvision", "torchvision")
    grid = grid_of(sample, labels)
    made: dict[str, Any] = {}
    for name, tensor in channelled(sample, grid).items():
        kind = tv.Mask if name != "image" else tv.Image if grid.is_frame else tv.Video
        made[name] = kind(tensor if grid.is_frame else tensor.movedim(1, 0))
    others = {**elsewhere(sample, made), GRID_KEY: grid}
    height, width = sample["image"].shape[-2:]
    marks, size = marks_of(sample), {"canvas_size": (height, width)}
    if marks.boxes is not None:
        in_plane = torch.from_numpy(marks.boxes[:, [2, 1, 5, 4]].astype(np.float32))
        made["boxes"] = tv.BoundingBoxes(in_plane, format="XYXY", **size)
    if marks.points is not None:
        x_y = torch.from_numpy((marks.points[:, [2, 1]] + 0.5).astype(np.float32))
        made["points"] = tv.KeyPoints(x_y, **size)
    if marks.is_any:
        others[_ACROSS] = _across(marks)
    if track:
        points = _points(height, width)
        made[_TRACKED] = tv.BoundingBoxes(
            torch.cat([points, points], dim=1),
            format="XYXY",
            clamping_mode=None,
            **size,
        )
    return {**made, **{name: value for name, value in others.items() if name not in made}}


def _across(marks: Marks) -> tuple[Floats | None, Floats | None]:
    """Return the slices of boxes (n, 2) and points (n,), which no transform in the plane moves."""
    return (
        None if marks.boxes is None else marks.boxes[:, [0, 3]],
        None if marks.points is None else marks.points[:, 0],
    )


def _marks_after(data: Mapping[str, Any]) -> Marks:
    """Return the boxes and points after a transform, with their slices."""
    across = data.get(_ACROSS, (None, None))
    boxes, points = (
        None if slices is None else data[name].as_subclass(torch.Tensor).numpy().astype(np.float64)
        for name, slices in zip(("boxes", "points"), across, strict=True)
    )
    for name, marks, slices in zip(("boxes", "points"), (boxes, points), across, strict=True):
        # Of those that are left, nobody knows which they are; frames have one slice.
        if marks is not None and len(marks) != len(slices) and (slices != slices[:1]).any():
            raise UsageError(
                f"the transform removed {name} of a volume: which slices the others lie on is not "
                "known. Take one that leaves their number, such as ClampBoundingBoxes"
            )
    if boxes is not None:
        slices = _repeated(across[0], len(boxes))
        boxes = np.stack(
            [slices[:, 0], boxes[:, 1], boxes[:, 0], slices[:, 1], boxes[:, 3], boxes[:, 2]], axis=1
        )
    if points is not None:
        slices = _repeated(across[1], len(points))
        points = np.stack([slices, points[:, 1] - 0.5, points[:, 0] - 0.5], axis=1)
    return Marks(boxes, points, data.get("box_labels"), data.get("point_labels"))


def _repeated(slices: Floats, count: int) -> Floats:
    """Return the slices of `count` marks, all the same where the number has changed."""
    return slices if len(slices) == count else np.repeat(slices[:1], count, axis=0)


def from_torchvision(data: Mapping[str, Any]) -> Sample:
    """Convert tv_tensors of `to_torchvision` back to a Sample of plain tensors, channels first.

    `affine` follows from the positions of the points. It is NaN after a transform that is not an
    affine map (ElasticTransform, RandomPerspective), and with ``track=False``.

    Parameters
    ----------
    data
        The result of `to_torchvision`, transformed or not.

    Returns
    -------
    Sample
        The sample, with `affine` and `spacing` of the moved grid.
    """
    grid = data[GRID_KEY]
    names = ("image", *(label for label, _, _ in grid.labels))
    tensors = {name: data[name].as_subclass(torch.Tensor) for name in names if name in data}
    if not grid.is_frame:
        tensors = {name: tensor.movedim(0, 1) for name, tensor in tensors.items()}
    others = {
        name: value
        for name, value in without_marks(data).items()
        if name not in (GRID_KEY, _TRACKED, _ACROSS, *tensors)
    }
    index_map = np.full((4, 4), np.nan)
    if _TRACKED in data:
        moved = np.asarray(data[_TRACKED].as_subclass(torch.Tensor), dtype=np.float64)
        new_size = tensors["image"].shape[-2:]
        index_map = _map_of_points(
            _points(*grid.shape[-2:]).numpy(), _recentred(moved[:, :2], *new_size)
        )
    sample = rebuilt(others, grid, index_map, tensors)
    return with_marks(sample, _marks_after(data))


def _points(height: int, width: int) -> torch.Tensor:
    """Return (9, 2) float64: x and y of a grid of points.

    (0, 0) is the corner of the first pixel, as for boxes of torchvision.
    """
    axes = [torch.linspace(0, length, 3, dtype=torch.float64) for length in (width, height)]
    return torch.cartesian_prod(*axes)


def _recentred(points: Floats, height: int, width: int) -> Floats:
    """Correct the points after a rotation with ``expand=True``; otherwise return them unchanged.

    After such a rotation, torchvision shifts boxes until their corners touch the edges, but pixels
    until their centre is in the centre of a canvas with a whole number of pixels. The difference is
    up to half a pixel. The case is recognized by points that touch the edges without being parallel
    to them.
    """
    size = np.array([width, height], dtype=np.float64)
    if not (points.ndim == 2 and len(points) == 9 and np.isfinite(points).all()):
        return points
    is_turned = np.abs(points[2] - points[0]).min() > 1e-6
    touches = (np.abs(points.min(axis=0)) < 1e-3) | (np.abs(points.max(axis=0) - size) < 1e-3)
    return points + size / 2 - points[4] if is_turned and touches.all() else points


def _map_of_points(old: Floats, new: Floats) -> Floats:
    """Fit (4, 4) from new to old (slice, row, column) to points (n, 2) in x and y.

    NaN if no affine map fits.
    """
    result = np.full((4, 4), np.nan)
    if new.shape != old.shape or not np.isfinite(new).all():
        return result
    given = np.column_stack([new, np.ones(len(new))])
    solution, _, rank, _ = np.linalg.lstsq(given, old, rcond=None)
    if rank < 3 or np.abs(given @ solution - old).max() > MAX_RESIDUAL_PIXELS:
        return result
    # (x, y) to (row, column)
    swapped, shift = solution[:2, :2].T[::-1, ::-1], solution[2, ::-1]
    result = np.eye(4)
    result[1:3, 1:3] = swapped
    # corners to centres of pixels
    result[1:3, 3] = shift + swapped @ (0.5, 0.5) - 0.5
    return result


@dataclass(frozen=True, slots=True)
class ForTorchvision:
    """Torchvision v2 transform as the ``transform=`` of a dataset.

    Applies `to_torchvision`, the transform, and `from_torchvision`. Needs the extra `torchvision`.

    Parameters
    ----------
    transform
        Any callable on a dict, such as ``torchvision.transforms.v2.Compose([...])``; None only
        converts.
    labels
        As for `to_monai`.
    seed
        As for `ForMonai`.
    restore
        False returns tv_tensors.
    track
        As for `to_torchvision`.
    """

    transform: Callable[[Any], Any] | None = None
    labels: tuple[str, ...] = LABELS
    seed: int | None = None
    restore: bool = True
    track: bool = True

    def __call__(self, sample: Mapping[str, Any]) -> Any:
        """Transform a sample; returns a Sample, or a dict of tv_tensors with ``restore=False``."""
        data = to_torchvision(sample, self.labels, track=self.track)
        if self.transform is not None:
            with seeded(drawn(self.seed, sample)):
                data = self.transform(data)
        return from_torchvision(data) if self.restore else data
