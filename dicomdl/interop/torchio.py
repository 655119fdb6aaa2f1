"""Samples as subjects of TorchIO 1.x and 2.x, and back.

The RAS affine of an image carries the grid. TorchIO cannot represent shear, so tilted stacks raise.
In TorchIO 1.x a Subject is a dict of all entries. In 2.x it is an object with images and metadata,
and the first argument of an image is its tensor.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch

from dicomdl.arrays import Floats
from dicomdl.datasets.sample import Sample
from dicomdl.errors import GeometryError, UsageError
from dicomdl.extras import import_extra
from dicomdl.geometry.boxes import moved_boxes, moved_places
from dicomdl.interop.grid import (
    GRID_KEY,
    LABELS,
    SampleGrid,
    Unknown,
    channelled,
    checked_unknown,
    drawn,
    elsewhere,
    grid_of,
    index_map_of,
    rebuilt,
    roles_of,
    seeded,
)
from dicomdl.interop.marks import Marks, marks_of, with_marks, without_marks

# Spatial transforms that move the grid over the content, as their affine says.
_MOVES_OF_GRID: Final = frozenset(
    {"Crop", "Pad", "CropOrPad", "Resample", "Resize", "Reorient", "ToCanonical", "Anisotropy"}
    | {"EnsureShapeMultiple", "EnsureShapeMultipleOf"}
)


def to_torchio(
    sample: Mapping[str, Any], labels: Sequence[str] = LABELS, *, unknown: Unknown = "raise"
) -> Any:
    """Convert a sample to a `torchio.Subject`; needs the extra `torchio`.

    Parameters
    ----------
    sample, labels, unknown
        As for `to_monai`. TorchIO needs a position for frames, too.

    Returns
    -------
    torchio.Subject
        `image` as a ScalarImage, labels as LabelMaps, other entries unchanged. A sample of a
        `Pairing` has a ScalarImage per channel instead of `image`, with the name of its role, also
        for an image that is absent (see `present`). Images of volumes are (C, D, H, W) in the order
        (slice, row, column), those of frames (C, H, W, 1), the 2D form of TorchIO, with RAS
        affines. Tensors share memory with the sample. In TorchIO 2, `boxes` are BoundingBoxes
        (IJKIJK) and `points` are Points, in indices that the affine takes: a box begins half a
        voxel before the centre of its first voxel.

    Raises
    ------
    MissingExtra
        TorchIO is not installed.
    UsageError
        The image or a label has another shape, or a role has the name of another entry.
    GeometryError
        The position is unknown, or the stack is tilted: the resampling of TorchIO ignores shear.
        Resample such a dataset (``spacing=``) first.
    """
    torchio = import_extra("torchio", "to_torchio", "torchio")
    grid = grid_of(sample, labels)
    affine = _in_torchio(grid, checked_unknown(unknown))
    images: dict[str, Any] = {}
    tensors, roles = channelled(sample, grid), roles_of(sample)
    others = elsewhere(sample, tensors)
    for name, tensor in _by_role(tensors, roles, others).items():
        kind = torchio.ScalarImage if name in ("image", *roles) else torchio.LabelMap
        # ToCanonical uses NIfTI, which has no int64
        if tensor.dtype == torch.int64 and (tensor == tensor.int()).all():
            tensor = tensor.int()
        elif tensor.dtype == torch.bool:
            # SimpleITK has no bool.
            tensor = tensor.byte()
        images[name] = _image(kind, tensor[..., None] if grid.is_frame else tensor, affine)
    marks = marks_of(sample)
    if marks.is_any:
        others = without_marks(others) | _annotations(torchio, marks, grid, affine)
    return torchio.Subject(**images, **others, **{GRID_KEY: (grid, affine, roles, marks)})


def _annotations(torchio: Any, marks: Marks, grid: SampleGrid, affine: Floats) -> dict[str, Any]:
    """Return boxes and points as entries of a Subject; TorchIO 1.x has none."""
    if not hasattr(torchio, "BoundingBoxes"):
        return {}
    axes = [1, 2, 0] if grid.is_frame else [0, 1, 2]
    made: dict[str, Any] = {}
    if marks.boxes is not None:
        corners = marks.boxes[:, [*axes, *(axis + 3 for axis in axes)]] - 0.5
        made["boxes"] = torchio.BoundingBoxes(
            torch.from_numpy(corners.astype(np.float32)),
            format=torchio.BoundingBoxFormat.IJKIJK,
            labels=marks.box_labels,
            affine=affine.copy(),
        )
    if marks.points is not None:
        labels = {} if marks.point_labels is None else {"labels": marks.point_labels}
        made["points"] = torchio.Points(
            torch.from_numpy(marks.points[:, axes].astype(np.float32)),
            affine=affine.copy(),
            metadata=labels,
        )
    return made


def _by_role(
    tensors: Mapping[str, torch.Tensor], roles: Sequence[str], others: Mapping[str, Any]
) -> dict[str, torch.Tensor]:
    """Return the tensors with a channel per role instead of `image`; without roles as they are."""
    if not roles:
        return dict(tensors)
    taken = [role for role in roles if role in tensors or role in others]
    if taken:
        raise UsageError(
            f"a subject has an image per role, and the sample has {', '.join(taken)} already: "
            "give the roles of the pairing other names"
        )
    image = tensors["image"]
    channels = {role: image[number : number + 1] for number, role in enumerate(roles)}
    return channels | {name: tensor for name, tensor in tensors.items() if name != "image"}


def _image(kind: Any, tensor: torch.Tensor, affine: Floats) -> Any:
    """Return an image of TorchIO."""
    if issubclass(kind, dict):
        return kind(tensor=tensor, affine=affine.copy())
    # By keyword, the tensor of 2.x would be an entry of the metadata of an empty image.
    return kind(tensor, affine=affine.copy())


def from_torchio(subject: Any) -> Sample:
    """Convert a Subject of `to_torchio` back to a Sample of plain tensors and an LPS `affine`.

    The rule of TorchIO applies to the grid: RandomFlip and RandomAffine move the content within an
    unchanged grid (another patient on the same scanner); Resample, ToCanonical, Crop and Pad move
    the grid over the content. Boxes and points are moved with the grid. No release of TorchIO up to
    2.0.0a2 moves them with the content: such transforms are an error for a sample with boxes or
    points.

    Parameters
    ----------
    subject
        The result of `to_torchio`, transformed or not.

    Returns
    -------
    Sample
        The sample, with `affine` and `spacing` of the moved grid.

    Raises
    ------
    UsageError
        A transform moved the content of an image with boxes or points.
    """
    entries = _entries(subject)
    grid, old, roles, marks = entries[GRID_KEY]
    if marks.is_any:
        _require_moves_of_grid(subject)
        marks = _given_or_kept(entries, marks, grid, old)
        entries = without_marks(entries)
    images = {name: entries[name].data for name, _, _ in grid.labels if name in entries}
    channels = roles or ("image",)
    images["image"] = torch.cat([entries[name].data for name in channels])
    others = {
        name: value for name, value in entries.items() if name not in (GRID_KEY, *channels, *images)
    }
    index_map = index_map_of(old, np.asarray(entries[channels[0]].affine, dtype=np.float64))
    if grid.is_frame:
        # (row, column, slice) to (slice, row, column)
        order = [2, 0, 1, 3]
        index_map = index_map[np.ix_(order, order)]
        images = {
            name: image[..., 0] if image.shape[-1] == 1 else image.movedim(-1, 1)
            for name, image in images.items()
        }
    sample = rebuilt(others, grid, index_map, images)
    return with_marks(sample, marks.moved(index_map)) if marks.is_any else sample


def _given_or_kept(entries: Mapping[str, Any], kept: Marks, grid: SampleGrid, old: Floats) -> Marks:
    """Return the marks on the grid before the transform: those of the Subject, if it has any.

    Transforms of TorchIO 2.0.0a2 lose them; those that were converted are then taken.
    """
    axes = [2, 0, 1] if grid.is_frame else [0, 1, 2]
    boxes, points = (entries.get(name) for name in ("boxes", "points"))
    if kept.boxes is not None and boxes is not None:
        by = index_map_of(old, np.asarray(boxes.affine, np.float64))
        moved = moved_boxes(np.asarray(boxes.data, np.float64) + 0.5, by)
        order = [*axes, *(axis + 3 for axis in axes)]
        kept = kept._replace(boxes=moved[:, order], box_labels=boxes.labels)
    if kept.points is not None and points is not None:
        by = index_map_of(old, np.asarray(points.affine, np.float64))
        moved = moved_places(np.asarray(points.data, np.float64), by)
        labels = points.metadata.get("labels")
        kept = kept._replace(points=moved[:, axes], point_labels=labels)
    return kept


def _require_moves_of_grid(subject: Any) -> None:
    """Raise a UsageError if a transform has moved the content, by the history of a subject."""
    torchio = import_extra("torchio", "from_torchio", "torchio")
    for transform in subject.applied_transforms:
        # TorchIO 1.x keeps (name, arguments), TorchIO 2 a record with a name.
        name = transform[0] if isinstance(transform, tuple) else transform.name
        kind = getattr(torchio, name, None)
        moves = isinstance(kind, type) and issubclass(kind, torchio.SpatialTransform)
        if moves and name not in _MOVES_OF_GRID:
            raise UsageError(
                f"{name} moves the content of the image, and TorchIO moves no boxes or points with "
                "it: leave it out, or transform by MONAI or torchvision",
                transform=name,
            )


def _entries(subject: Any) -> dict[str, Any]:
    """Return all entries of a Subject."""
    if isinstance(subject, dict):
        return dict(subject)
    kinds = (subject.metadata, subject.images, subject.points, subject.bounding_boxes)
    return {name: entry for kind in kinds for name, entry in kind.items()}


def _in_torchio(grid: SampleGrid, unknown: Unknown) -> Floats:
    """Return the (4, 4) RAS affine, for a frame in the order (row, column, slice)."""
    affine = grid.in_ras(unknown)
    axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    shear = float(np.abs(axes.T @ axes - np.eye(3)).max())
    if shear > 1e-3 and not grid.is_frame:
        raise GeometryError(
            f"the slices of this stack are tilted (cosine {shear:.4f} between its axes), "
            "and TorchIO would drop the shear: pass spacing=... to the dataset, "
            "which resamples it to an orthogonal grid",
            shear=shear,
        )
    return affine[:, [1, 2, 0, 3]] if grid.is_frame else affine


@dataclass(frozen=True, slots=True)
class ForTorchIO:
    """TorchIO transform as the ``transform=`` of a dataset.

    Applies `to_torchio`, the transform, and `from_torchio`. Needs the extra `torchio`.

    Parameters
    ----------
    transform
        Any callable on a Subject, such as ``torchio.Compose([...])``; None only converts.
    labels, unknown
        As for `to_monai`. TorchIO needs a position for frames, too.
    seed
        As for `ForMonai`.
    restore
        False returns Subjects, for ``torchio.SubjectsLoader``.
    """

    transform: Callable[[Any], Any] | None = None
    labels: tuple[str, ...] = LABELS
    seed: int | None = None
    restore: bool = True
    unknown: Unknown = "raise"

    def __call__(self, sample: Mapping[str, Any]) -> Any:
        """Transform a sample; returns a Sample, or a Subject with ``restore=False``."""
        subject = to_torchio(sample, self.labels, unknown=self.unknown)
        if self.transform is not None:
            with seeded(drawn(self.seed, sample)):
                subject = self.transform(subject)
        return from_torchio(subject) if self.restore else subject
