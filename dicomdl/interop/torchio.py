"""Samples as subjects of TorchIO 1.x and 2.x, and back.

The RAS affine of an image carries the grid. TorchIO cannot represent shear, so tilted stacks raise.
In TorchIO 1.x a Subject is a dict of all entries. In 2.x it is an object with images and metadata,
and the first argument of an image is its tensor.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from dicomdl.arrays import Floats
from dicomdl.datasets.sample import Sample
from dicomdl.errors import GeometryError, UsageError
from dicomdl.extras import import_extra
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
        affines. Tensors share memory with the sample.

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
        images[name] = _image(kind, tensor[..., None] if grid.is_frame else tensor, affine)
    return torchio.Subject(**images, **others, **{GRID_KEY: (grid, affine, roles)})


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
    the grid over the content.

    Parameters
    ----------
    subject
        The result of `to_torchio`, transformed or not.

    Returns
    -------
    Sample
        The sample, with `affine` and `spacing` of the moved grid.
    """
    entries = _entries(subject)
    grid, old, roles = entries[GRID_KEY]
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
    return rebuilt(others, grid, index_map, images)


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
