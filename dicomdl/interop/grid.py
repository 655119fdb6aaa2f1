"""The grid of a sample while another package transforms it, and the sample built afterwards.

The only module that converts between LPS and RAS.
"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
import torch

from dicomdl.arrays import Floats
from dicomdl.datasets.epochs import NO_EPOCH, is_in_pass
from dicomdl.datasets.sample import Sample
from dicomdl.errors import GeometryError, UsageError

Unknown = Literal["raise", "axes"]
LABELS: Final = ("label", "mask", "unlabelled")
# From LPS to RAS and back.
_RAS: Final = np.diag([-1.0, -1.0, 1.0, 1.0])
# Key of the `SampleGrid` in samples of TorchIO and torchvision.
GRID_KEY: Final = "dicomdl_grid"
# Residual of points above which a transform is not an affine map.
MAX_RESIDUAL_PIXELS: Final = 0.01
# Rounding noise of a matrix inverse; a real shift is larger.
_SNAP_VOXELS: Final = 1e-9
UNKNOWN_HELP: Final = (
    'pass unknown="axes" to take the axes of the array for those of the world, '
    "and voxels of unknown size for 1 mm"
)


@dataclass(frozen=True, slots=True)
class SampleGrid:
    """Grid and label forms of a sample before another package transforms it.

    Attributes
    ----------
    affine
        (4, 4) from (slice, row, column, 1) to LPS mm; NaN if unknown.
    spacing
        (3,) mm; NaN if unknown.
    shape
        (rows, columns) or (slices, rows, columns).
    labels
        Name, presence of a channel axis, and dtype of each label on the grid.
    """

    affine: Floats
    spacing: Floats
    shape: tuple[int, ...]
    labels: tuple[tuple[str, bool, torch.dtype], ...]

    @property
    def is_frame(self) -> bool:
        """Whether the sample is a frame, not a volume."""
        return len(self.shape) == 2

    @property
    def is_known(self) -> bool:
        """Whether the affine is known."""
        return bool(np.isfinite(self.affine).all())

    def along_axes(self, unknown: Unknown) -> Floats:
        """Return (4, 4) from indices to mm along the axes of the array.

        With "axes", an unknown spacing counts as 1 mm.
        """
        if unknown == "axes":
            return np.diag([*np.where(np.isfinite(self.spacing), self.spacing, 1.0), 1.0])
        return np.diag([*self.spacing, 1.0])

    def in_ras(self, unknown: Unknown) -> Floats:
        """Return (4, 4) from indices to RAS mm, or raise a GeometryError if it is unknown."""
        if self.is_known:
            return np.asarray(_RAS @ self.affine)
        if unknown == "raise":
            raise GeometryError(f"the position of this sample is not known: {UNKNOWN_HELP}")
        return self.along_axes(unknown)

    def moved(self, index_map: Floats) -> tuple[torch.Tensor, torch.Tensor]:
        """Return (4, 4) affine and (3,) spacing of the grid that a transform leads to.

        `index_map` (4, 4) maps new indices to indices of this grid.
        """
        if not np.isfinite(index_map).all():
            return torch.full((4, 4), torch.nan, dtype=torch.float64), torch.full(
                (3,), torch.nan, dtype=torch.float64
            )
        nearest = np.rint(index_map)
        index_map = np.where(np.abs(index_map - nearest) < _SNAP_VOXELS, nearest, index_map)
        affine = self.affine @ index_map
        # The affine of a single slice has a step but no spacing: a new axis has a spacing if all
        # old axes that it runs along have one.
        steps = index_map[:3, :3]
        along = np.where(steps == 0, 0.0, steps * np.where(steps == 0, 0.0, self.spacing[:, None]))
        spacing = np.linalg.norm(along, axis=0)
        # The axes of a tilted stack are not orthogonal: only the affine gives the length of a
        # diagonal step.
        if self.is_known:
            spacing = np.where(np.isnan(spacing), np.nan, np.linalg.norm(affine[:3, :3], axis=0))
        return torch.from_numpy(affine), torch.from_numpy(spacing)


def grid_of(sample: Mapping[str, Any], names: Sequence[str]) -> SampleGrid:
    """Return the grid of a sample, and the forms of the labels `names` that lie on it.

    Raises a UsageError for an image or label of another shape.
    """
    image = sample.get("image")
    if isinstance(image, list):
        raise UsageError(
            f"the sample is a bag of {len(image)} images, each on a grid of its own: convert the "
            "samples of a dataset without by="
        )
    if not isinstance(image, torch.Tensor) or image.ndim not in (3, 4):
        actual = (
            f"shape {tuple(image.shape)}"
            if isinstance(image, torch.Tensor)
            else type(image).__name__
        )
        raise UsageError(f"image is {actual}; expected a tensor (C, H, W) or (C, D, H, W)")
    spatial = tuple(image.shape[1:])
    labels = []
    for name in names:
        label = sample.get(name)
        if not isinstance(label, torch.Tensor) or label.ndim < len(spatial):
            # a class of the whole sample is not on the grid
            continue
        if label.ndim > image.ndim or tuple(label.shape[-len(spatial) :]) != spatial:
            shape = tuple(label.shape)
            raise UsageError(
                f"{name} has shape {shape}; expected {spatial} as the image, "
                "with or without channels",
                shape=shape,
            )
        labels.append((name, label.ndim == image.ndim, label.dtype))
    return SampleGrid(
        _numbers(sample.get("affine"), (4, 4)),
        _numbers(sample.get("spacing"), (3,)),
        spatial,
        tuple(labels),
    )


def _numbers(given: Any, shape: tuple[int, ...]) -> Floats:
    return (
        np.full(shape, np.nan)
        if given is None
        else np.asarray(given, dtype=np.float64).reshape(shape).copy()
    )


def channelled(sample: Mapping[str, Any], grid: SampleGrid) -> dict[str, torch.Tensor]:
    """Return the image and the labels on the grid, each with a channel axis."""
    tensors = {"image": sample["image"]}
    for name, has_channels, _ in grid.labels:
        tensors[name] = sample[name] if has_channels else sample[name][None]
    return tensors


def roles_of(sample: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the roles whose images are the channels of a sample of a pairing; () for others."""
    units = sample.get("units")
    return tuple(units) if isinstance(units, Mapping) else ()


def elsewhere(sample: Mapping[str, Any], tensors: Mapping[str, Any]) -> dict[str, Any]:
    """Return the entries of a sample other than `tensors` and its grid."""
    return {
        name: value for name, value in sample.items() if name not in ("affine", "spacing", *tensors)
    }


def _restored(label: torch.Tensor, has_channels: bool, dtype: torch.dtype) -> torch.Tensor:
    """Return a label with its original dtype and axes.

    Fractional values after interpolation stay float: they are an error that must stay visible.
    """
    if label.is_floating_point() and not dtype.is_floating_point:
        rounded = label.round()
        label = rounded.to(dtype) if torch.equal(label, rounded) else label
    else:
        label = label.to(dtype)
    return label if has_channels or label.shape[0] != 1 else label[0]


def index_map_of(old: Floats, new: Floats) -> Floats:
    """Return (4, 4) from new to old indices by the affines of both.

    NaN if either is unknown, or has axes in one plane.
    """
    if (
        old.shape != new.shape
        or not (np.isfinite(old).all() and np.isfinite(new).all())
        or np.linalg.det(old) == 0
        or np.linalg.det(new) == 0
    ):
        return np.full((4, 4), np.nan)
    return np.asarray(np.linalg.solve(old, new))


def rebuilt(
    others: Mapping[str, Any],
    grid: SampleGrid,
    index_map: Floats,
    tensors: Mapping[str, torch.Tensor],
) -> Sample:
    """Build a sample from transformed tensors and the entries that were not transformed."""
    affine, spacing = grid.moved(index_map)
    labels = {
        name: _restored(tensors[name], has, dtype)
        for name, has, dtype in grid.labels
        if name in tensors
    }
    return Sample(
        {"image": tensors["image"], "affine": affine, "spacing": spacing, **labels, **others}
    )


def drawn(seed: int | None, sample: Mapping[str, Any]) -> int:
    """Draw a seed for one sample.

    With `seed`, it is a function of (seed, epoch, row, location), independent of the worker.
    Without it, or where the epoch is unknown, it comes from torch's generator, which a DataLoader
    seeds per worker. A row outside of the pass of a loader is that of epoch 0.
    """
    if seed is None:
        return int(torch.randint(1 << 31, ()).item())
    location = sample.get("location")
    start = () if location is None else tuple(int(index) for index in location)
    row = sample.get("row", 0)
    epoch = int(sample.get("epoch", getattr(row, "epoch", NO_EPOCH)))
    if epoch == NO_EPOCH and not is_in_pass():
        epoch = 0
    elif epoch == NO_EPOCH:
        epoch = int(torch.randint(1 << 31, ()).item())
    numbers = (seed, epoch, int(row), *start)
    return int(
        np.random.SeedSequence([number % (1 << 32) for number in numbers]).generate_state(1)[0] >> 1
    )


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed torch's generator within the context, and restore its state afterwards."""
    before = torch.get_rng_state()
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        torch.set_rng_state(before)


def plain_value(value: Any) -> Any:
    """Return a tensor without metadata; any other value unchanged."""
    return value.as_tensor() if hasattr(value, "as_tensor") else value


def checked_unknown(unknown: Unknown) -> Unknown:
    """Return the policy for an unknown grid, or raise a UsageError."""
    if unknown not in ("raise", "axes"):
        raise UsageError(f"unknown={unknown!r}: expected 'raise' or 'axes'")
    return unknown


def from_plane(index_map: Floats) -> Floats:
    """Extend a (3, 3) map of (row, column) to a (4, 4) map of (slice, row, column).

    A (4, 4) map is returned unchanged.
    """
    if index_map.shape == (4, 4):
        return index_map
    result = np.eye(4)
    result[1:, 1:] = index_map
    return result
