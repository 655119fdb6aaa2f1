"""interop.grid"""

import contextlib
import importlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
import torch

from dicomdl.arrays import Floats
from dicomdl.datasets.sample import Sample
from dicomdl.errors import GeometryError, UsageError, missing_extra

Unknown = Literal["raise", "axes"]
LABELS: Final = ("label", "mask")
_RAS: Final = np.diag([-1.0, -1.0, 1.0, 1.0])  # LPS to RAS and back
GRID_KEY: Final = (
    "dicomdl_grid"  # the key under which TorchIO and torchvision carry what `SampleGrid` holds
)
MAX_RESIDUAL_PIXELS: Final = (
    0.01  # points that lie further off no affine map: the transform was not one
)
_SNAP_VOXELS: Final = 1e-9  # rounding noise of a matrix inverse; a real shift is larger
UNKNOWN_HELP: Final = 'pass unknown="axes" to take the axes of the array for those of the world, and voxels of unknown size for 1 mm'


def optional_package(module: str, feature: str, extra: str) -> Any:
    """An optional module, or the error that says how to get it."""
    try:
        return importlib.import_module(module)
    except Exception as error:  # torchvision raises RuntimeError beside another build of torch
        missing = missing_extra(feature, extra, extra)
        missing.add_note(f"importing {module} raised {type(error).__name__}")
        raise missing from error


@dataclass(frozen=True, slots=True)
class SampleGrid:
    """Where a sample lies before another package gets it, and the form of its labels."""

    affine: Floats  # (4, 4), to LPS mm
    spacing: Floats  # (3,)
    shape: tuple[int, ...]  # (rows, columns) or (slices, rows, columns)
    # name, whether it has an axis of channels, dtype
    labels: tuple[tuple[str, bool, torch.dtype], ...]

    @property
    def is_frame(self) -> bool:
        return len(self.shape) == 2

    @property
    def is_known(self) -> bool:
        return bool(np.isfinite(self.affine).all())

    def along_axes(self, unknown: Unknown) -> Floats:
        """(4, 4) from indices to mm along the axes of the array.

        An unknown spacing counts as 1 mm with "axes".
        """
        if unknown == "axes":
            return np.diag([*np.where(np.isfinite(self.spacing), self.spacing, 1.0), 1.0])
        return np.diag([*self.spacing, 1.0])

    def in_ras(self, unknown: Unknown) -> Floats:
        """(4, 4) from indices to RAS mm."""
        if self.is_known:
            return np.asarray(_RAS @ self.affine)
        if unknown == "raise":
            raise GeometryError(f"the position of this sample is not known: {UNKNOWN_HELP}")
        return self.along_axes(unknown)

    def moved(self, index_map: Floats) -> tuple[torch.Tensor, torch.Tensor]:
        """(4, 4) affine and (3,) spacing of the grid whose indices `index_map` (4, 4) takes to indices of this one."""
        if not np.isfinite(index_map).all():
            return torch.full((4, 4), torch.nan, dtype=torch.float64), torch.full(
                (3,), torch.nan, dtype=torch.float64
            )
        nearest = np.rint(index_map)
        index_map = np.where(np.abs(index_map - nearest) < _SNAP_VOXELS, nearest, index_map)
        affine = self.affine @ index_map
        # A single slice has a step in its affine but no spacing, so a new axis has a
        # spacing where all old axes that it runs along do.
        steps = index_map[:3, :3]
        along = np.where(steps == 0, 0.0, steps * np.where(steps == 0, 0.0, self.spacing[:, None]))
        spacing = np.linalg.norm(along, axis=0)
        # axes of a tilted stack are not orthogonal: only the affine gives the length of a
        # diagonal step
        if self.is_known:
            spacing = np.where(np.isnan(spacing), np.nan, np.linalg.norm(affine[:3, :3], axis=0))
        return torch.from_numpy(affine), torch.from_numpy(spacing)


def grid_of(sample: Mapping[str, Any], names: Sequence[str]) -> SampleGrid:
    image = sample.get("image")
    if not isinstance(image, torch.Tensor) or image.ndim not in (3, 4):
        found = (
            f"shape {tuple(image.shape)}"
            if isinstance(image, torch.Tensor)
            else type(image).__name__
        )
        raise UsageError(f"image is {found}; expected a sample's tensor, (C, H, W) or (C, D, H, W)")
    spatial = tuple(image.shape[1:])
    labels = []
    for name in names:
        label = sample.get(name)
        if not isinstance(label, torch.Tensor) or label.ndim < len(spatial):
            continue  # a class of the whole sample has no place
        if label.ndim > image.ndim or tuple(label.shape[-len(spatial) :]) != spatial:
            shape = tuple(label.shape)
            raise UsageError(
                f"{name} has shape {shape}; expected the image's {spatial}, with or without channels",
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
    """The image and the labels that have a place, each with an axis of channels."""
    tensors = {"image": sample["image"]}
    for name, has_channels, _ in grid.labels:
        tensors[name] = sample[name] if has_channels else sample[name][None]
    return tensors


def elsewhere(sample: Mapping[str, Any], tensors: Mapping[str, Any]) -> dict[str, Any]:
    """What of a sample is neither an image nor its place."""
    return {
        name: value for name, value in sample.items() if name not in ("affine", "spacing", *tensors)
    }


def _as_it_was(label: torch.Tensor, has_channels: bool, dtype: torch.dtype) -> torch.Tensor:
    """A label in its old form.

    One that interpolation made fractional stays float, for that is an error to see, not to
    round.
    """
    if label.is_floating_point() and not dtype.is_floating_point:
        whole = label.round()
        label = whole.to(dtype) if torch.equal(label, whole) else label
    else:
        label = label.to(dtype)
    return label if has_channels or label.shape[0] != 1 else label[0]


def index_map_of(old: Floats, new: Floats) -> Floats:
    """From new to old indices, given where both lie; NaN where either is not known."""
    if (
        old.shape != new.shape
        or not (np.isfinite(old).all() and np.isfinite(new).all())
        or np.linalg.det(old) == 0
    ):
        return np.full((4, 4), np.nan)
    return np.asarray(np.linalg.solve(old, new))


def rebuilt(
    others: Mapping[str, Any],
    grid: SampleGrid,
    index_map: Floats,
    tensors: Mapping[str, torch.Tensor],
) -> Sample:
    """The sample made of transformed tensors and of what travelled beside them."""
    affine, spacing = grid.moved(index_map)
    labels = {
        name: _as_it_was(tensors[name], has, dtype)
        for name, has, dtype in grid.labels
        if name in tensors
    }
    return Sample(
        {"image": tensors["image"], "affine": affine, "spacing": spacing, **labels, **others}
    )


def drawn(seed: int | None, sample: Mapping[str, Any]) -> int:
    """A seed for one sample.

    Of (seed, epoch, row, location) where a seed is given, else from torch's generator.

    A DataLoader seeds that generator anew for each worker and epoch, so nothing repeats; with
    `seed` nothing depends on the worker.
    """
    if seed is None:
        return int(torch.randint(1 << 31, ()).item())
    location = sample.get("location")
    place = () if location is None else tuple(int(start) for start in location)
    row = sample.get("row", 0)
    numbers = (seed, int(sample.get("epoch", getattr(row, "epoch", 0))), int(row), *place)
    return int(
        np.random.SeedSequence([number % (1 << 32) for number in numbers]).generate_state(1)[0] >> 1
    )


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Within, torch's generator runs from `seed`.

    After it, it goes on as if nothing had been drawn.
    """
    before = torch.get_rng_state()
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        torch.set_rng_state(before)


def plain_value(value: Any) -> Any:
    """A tensor without metadata; anything else as it is."""
    return value.as_tensor() if hasattr(value, "as_tensor") else value


def checked_unknown(unknown: Unknown) -> Unknown:
    if unknown not in ("raise", "axes"):
        raise UsageError(f"unknown={unknown!r}: expected 'raise' or 'axes'")
    return unknown


def from_plane(index_map: Floats) -> Floats:
    """(4, 4) of a map of (slice, row, column) from a (3, 3) one of (row, column).

    Others as they are.
    """
    if index_map.shape == (4, 4):
        return index_map
    result = np.eye(4)
    result[1:, 1:] = index_map
    return result
