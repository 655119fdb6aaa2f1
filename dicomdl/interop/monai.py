"""Samples for MONAI, TorchIO, torchvision v2 and Lightning, and back: the only place where RAS is spoken.

`to_monai`, `to_torchio` and `to_torchvision` make of a sample what the package's transforms take, the `from_` functions make a
sample of it again. `ForMonai`, `ForTorchIO` and `ForTorchvision` do both around a transform: give them as ``transform=``. The rule
to know: while a sample is with another package its place (`affine`, `spacing`) travels inside that package's image, so no key
can go stale; on the way back `affine` is the old one times the map from new to old indices, so it stays exact where nothing moved,
and it is NaN where the map is not known. Index order never changes: (slice, row, column) outside, whatever the package calls it.

The packages are optional and imported when first used.
"""

import contextlib
import importlib
import inspect
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import DataLoader, IterableDataset
from torch.utils.data.distributed import DistributedSampler

from dicomdl.datasets.assembly import SampleDataset, collate
from dicomdl.datasets.samplers import RowSampler
from dicomdl.datasets.transport import Sample
from dicomdl.errors import GeometryError, UsageError, missing_extra

Matrix: TypeAlias = npt.NDArray[np.float64]
Unknown = Literal["raise", "axes"]

LABELS: Final = ("label", "mask")
_RAS: Final = np.diag([-1.0, -1.0, 1.0, 1.0])  # LPS to RAS and back
_KEPT: Final = "dicomdl_grid"  # the key under which TorchIO and torchvision carry what `_Grid` holds
_TRACKED: Final = "dicomdl_points"
_MAX_RESIDUAL_PIXELS: Final = 0.01  # points that lie further off no affine map: the transform was not one
_SNAP_VOXELS: Final = 1e-9  # rounding noise of a matrix inverse; a real shift is larger
_UNKNOWN_HELP: Final = 'pass unknown="axes" to take the axes of the array for those of the world, and voxels of unknown size for 1 mm'


def _package(module: str, feature: str, extra: str) -> Any:
    """An optional module, or the error that says how to get it."""
    try:
        return importlib.import_module(module)
    except Exception as error:  # torchvision raises RuntimeError beside another build of torch
        missing = missing_extra(feature, extra, extra)
        missing.add_note(f"importing {module} raised {type(error).__name__}")
        raise missing from error


# --- where a sample lies ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Grid:
    """Where a sample lies before another package gets it, and the form of its labels."""

    affine: Matrix  # (4, 4), to LPS mm
    spacing: Matrix  # (3,)
    shape: tuple[int, ...]  # (rows, columns) or (slices, rows, columns)
    labels: tuple[tuple[str, bool, torch.dtype], ...]  # name, whether it has an axis of channels, dtype

    @property
    def is_frame(self) -> bool:
        return len(self.shape) == 2

    @property
    def is_known(self) -> bool:
        return bool(np.isfinite(self.affine).all())

    def along_axes(self, unknown: Unknown) -> Matrix:
        """(4, 4) from indices to mm along the axes of the array; an unknown spacing counts as 1 mm with "axes"."""
        if unknown == "axes":
            return np.diag([*np.where(np.isfinite(self.spacing), self.spacing, 1.0), 1.0])
        return np.diag([*self.spacing, 1.0])

    def in_ras(self, unknown: Unknown) -> Matrix:
        """(4, 4) from indices to RAS mm."""
        if self.is_known:
            return np.asarray(_RAS @ self.affine)
        if unknown == "raise":
            raise GeometryError(f"the position of this sample is not known: {_UNKNOWN_HELP}")
        return self.along_axes(unknown)

    def moved(self, index_map: Matrix) -> tuple[torch.Tensor, torch.Tensor]:
        """(4, 4) affine and (3,) spacing of the grid whose indices `index_map` (4, 4) takes to indices of this one."""
        if not np.isfinite(index_map).all():
            return torch.full((4, 4), torch.nan, dtype=torch.float64), torch.full((3,), torch.nan, dtype=torch.float64)
        nearest = np.rint(index_map)
        index_map = np.where(np.abs(index_map - nearest) < _SNAP_VOXELS, nearest, index_map)
        affine = self.affine @ index_map
        # A single slice has a step in its affine but no spacing, so a new axis has a spacing where all old axes that it runs along do.
        steps = index_map[:3, :3]
        along = np.where(steps == 0, 0.0, steps * np.where(steps == 0, 0.0, self.spacing[:, None]))
        spacing = np.linalg.norm(along, axis=0)
        if self.is_known:  # axes of a tilted stack are not orthogonal: only the affine gives the length of a diagonal step
            spacing = np.where(np.isnan(spacing), np.nan, np.linalg.norm(affine[:3, :3], axis=0))
        return torch.from_numpy(affine), torch.from_numpy(spacing)


def _grid_of(sample: Mapping[str, Any], names: Sequence[str]) -> _Grid:
    image = sample.get("image")
    if not isinstance(image, torch.Tensor) or image.ndim not in (3, 4):
        found = f"shape {tuple(image.shape)}" if isinstance(image, torch.Tensor) else type(image).__name__
        raise UsageError(f"image is {found}; expected a sample's tensor, (C, H, W) or (C, D, H, W)")
    spatial = tuple(image.shape[1:])
    labels = []
    for name in names:
        label = sample.get(name)
        if not isinstance(label, torch.Tensor) or label.ndim < len(spatial):
            continue  # a class of the whole sample has no place
        if label.ndim > image.ndim or tuple(label.shape[-len(spatial) :]) != spatial:
            shape = tuple(label.shape)
            raise UsageError(f"{name} has shape {shape}; expected the image's {spatial}, with or without channels", shape=shape)
        labels.append((name, label.ndim == image.ndim, label.dtype))
    return _Grid(_numbers(sample.get("affine"), (4, 4)), _numbers(sample.get("spacing"), (3,)), spatial, tuple(labels))


def _numbers(given: Any, shape: tuple[int, ...]) -> Matrix:
    return np.full(shape, np.nan) if given is None else np.asarray(given, dtype=np.float64).reshape(shape).copy()


def _channelled(sample: Mapping[str, Any], grid: _Grid) -> dict[str, torch.Tensor]:
    """The image and the labels that have a place, each with an axis of channels."""
    tensors = {"image": sample["image"]}
    for name, has_channels, _ in grid.labels:
        tensors[name] = sample[name] if has_channels else sample[name][None]
    return tensors


def _elsewhere(sample: Mapping[str, Any], tensors: Mapping[str, Any]) -> dict[str, Any]:
    """What of a sample is neither an image nor its place."""
    return {name: value for name, value in sample.items() if name not in ("affine", "spacing", *tensors)}


def _as_it_was(label: torch.Tensor, has_channels: bool, dtype: torch.dtype) -> torch.Tensor:
    """A label in its old form; one that interpolation made fractional stays float, for that is an error to see, not to round."""
    if label.is_floating_point() and not dtype.is_floating_point:
        whole = label.round()
        label = whole.to(dtype) if torch.equal(label, whole) else label
    else:
        label = label.to(dtype)
    return label if has_channels or label.shape[0] != 1 else label[0]


def _index_map(old: Matrix, new: Matrix) -> Matrix:
    """From new to old indices, given where both lie; NaN where either is not known."""
    if old.shape != new.shape or not (np.isfinite(old).all() and np.isfinite(new).all()) or np.linalg.det(old) == 0:
        return np.full((4, 4), np.nan)
    return np.asarray(np.linalg.solve(old, new))


def _rebuilt(others: Mapping[str, Any], grid: _Grid, index_map: Matrix, tensors: Mapping[str, torch.Tensor]) -> Sample:
    """The sample made of transformed tensors and of what travelled beside them."""
    affine, spacing = grid.moved(index_map)
    labels = {name: _as_it_was(tensors[name], has, dtype) for name, has, dtype in grid.labels if name in tensors}
    return Sample({"image": tensors["image"], "affine": affine, "spacing": spacing, **labels, **others})


# --- chance -----------------------------------------------------------------------------------------------------------


def _drawn(seed: int | None, sample: Mapping[str, Any]) -> int:
    """A seed for one sample: of (seed, epoch, row, location) where a seed is given, else from torch's generator.

    A DataLoader seeds that generator anew for each worker and epoch, so nothing repeats; with `seed` nothing depends on the worker.
    """
    if seed is None:
        return int(torch.randint(1 << 31, ()).item())
    location = sample.get("location")
    place = () if location is None else tuple(int(start) for start in location)
    row = sample.get("row", 0)
    numbers = (seed, int(sample.get("epoch", getattr(row, "epoch", 0))), int(row), *place)
    return int(np.random.SeedSequence([number % (1 << 32) for number in numbers]).generate_state(1)[0] >> 1)


@contextlib.contextmanager
def _chance(seed: int) -> Iterator[None]:
    """Within, torch's generator runs from `seed`; after it, it goes on as if nothing had been drawn."""
    before = torch.get_rng_state()
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        torch.set_rng_state(before)


# --- MONAI ------------------------------------------------------------------------------------------------------------


def to_monai(sample: Mapping[str, Any], labels: Sequence[str] = LABELS, *, unknown: Unknown = "raise") -> dict[str, Any]:
    """A sample as a dict of MetaTensors, on which MONAI's dict transforms work; needs the extra `monai`.

    Parameters
    ----------
    sample
        `image` (C, H, W) or (C, D, H, W), `affine` (4, 4) to LPS mm, `spacing` (3,); tensors under `labels` of the same spatial shape,
        with or without channels, go along. Everything else is passed on.
    labels
        Names of what must move with the image.
    unknown
        What to do with a frame of unknown pixel spacing or a volume of unknown position: "raise", or "axes": take the axes of the
        array for those of the world, and voxels of unknown size for 1 mm. `affine` is NaN on the way back.

    Returns
    -------
    dict
        `image` and labels as MetaTensors with an axis of channels, sharing memory with the sample's; no `affine`, no `spacing`. A volume's
        MetaTensor has the (4, 4) RAS affine of the same (slice, row, column) order. A frame's has a (3, 3) affine in its own plane,
        mm downwards and to the right from the first pixel's centre: MONAI cuts a 2D image's affine to the first two world axes,
        which is singular for sagittal and coronal frames. So Spacingd is right on every frame, and Orientationd has no anatomical
        meaning on one.

    Raises
    ------
    MissingExtra, UsageError
        Without MONAI; for an image or label of another shape.
    GeometryError
        For an unknown place: MONAI resamples by a NaN affine without a word, and delivers noise.
    """
    monai = _package("monai.data", "to_monai", "monai")
    grid = _grid_of(sample, labels)
    tensors = _channelled(sample, grid)
    forms = {name: (has_channels, dtype) for name, has_channels, dtype in grid.labels}
    where = _in_monai(grid, _checked_unknown(unknown))
    made = {}
    for name, tensor in tensors.items():
        has_channels, dtype = forms.get(name, (True, tensor.dtype))
        meta = {
            "original_affine": where.copy(),
            "spatial_shape": np.asarray(tensor.shape[1:]),
            "original_channel_dim": 0,
            "space": "RAS",
            "dicomdl_affine": grid.affine.copy(),
            "dicomdl_spacing": grid.spacing.copy(),
            "dicomdl_form": [has_channels, str(dtype).removeprefix("torch.")],
        }
        if isinstance(sample.get("path"), str):
            meta["filename_or_obj"] = sample["path"]
        made[name] = monai.MetaTensor(tensor, affine=torch.from_numpy(where.copy()), meta=meta)
    return {**made, **_elsewhere(sample, made)}


def from_monai(data: Any) -> Any:
    """The way back from `to_monai`: a Sample, whose `affine` is LPS again; of a list (RandCropByPosNegLabeld makes one), a list.

    An image that lost its metadata (``track_meta=False``) or an axis gets NaN as `affine` and `spacing`. Labels get their dtype and
    form back, unless they have become fractional because a transform had no ``mode="nearest"`` for them (a lazy Compose forgets
    it: give it ``overrides={"mask": {"mode": "nearest"}}``).
    """
    if isinstance(data, list | tuple):
        return [from_monai(one) for one in data]
    image = data["image"]
    metas = {name: value.meta for name, value in data.items() if "dicomdl_affine" in getattr(value, "meta", ())}
    if "image" not in metas:
        nowhere = _Grid(np.full((4, 4), np.nan), np.full(3, np.nan), tuple(image.shape[1:]), ())
        others = {name: _plain(value) for name, value in data.items() if name != "image"}
        return _rebuilt(others, nowhere, nowhere.affine, {"image": _plain(image)})
    meta = metas["image"]
    shape = tuple(int(length) for length in meta["spatial_shape"])
    forms = tuple((name, bool(one["dicomdl_form"][0]), getattr(torch, one["dicomdl_form"][1])) for name, one in metas.items())
    grid = _Grid(meta["dicomdl_affine"], meta["dicomdl_spacing"], shape, tuple(form for form in forms if form[0] != "image"))
    index_map = np.full((4, 4), np.nan)
    if image.ndim == 1 + len(shape):
        index_map = _from_plane(_index_map(meta["original_affine"], np.asarray(image.affine, dtype=np.float64)))
    tensors = {name: _plain(data[name]) for name in metas}
    others = {name: _plain(value) for name, value in data.items() if name not in tensors}
    return _rebuilt(others, grid, index_map, tensors)


def _plain(value: Any) -> Any:
    """A tensor without metadata; anything else as it is."""
    return value.as_tensor() if hasattr(value, "as_tensor") else value


def _in_monai(grid: _Grid, unknown: Unknown) -> Matrix:
    if not grid.is_frame:
        return grid.in_ras(unknown)
    plane = grid.along_axes(unknown)[1:, 1:]
    if not np.isfinite(plane).all():
        raise GeometryError(f"the pixel spacing of this frame is not known: {_UNKNOWN_HELP}")
    return plane


def _checked_unknown(unknown: Unknown) -> Unknown:
    if unknown not in ("raise", "axes"):
        raise UsageError(f"unknown={unknown!r}: expected 'raise' or 'axes'")
    return unknown


def _from_plane(index_map: Matrix) -> Matrix:
    """(4, 4) of a map of (slice, row, column) from a (3, 3) one of (row, column); others as they are."""
    if index_map.shape == (4, 4):
        return index_map
    result = np.eye(4)
    result[1:, 1:] = index_map
    return result


@dataclass(frozen=True, slots=True)
class ForMonai:
    """A MONAI dict transform as the ``transform=`` of a dataset: `to_monai`, the transform, `from_monai`; extra `monai`.

    Parameters
    ----------
    transform
        Any callable on a dict, such as ``monai.transforms.Compose([...])``; None converts only.
    labels, unknown
        As for `to_monai`.
    seed
        None draws from torch's generator, which a DataLoader seeds for each worker and epoch. A number makes a sample depend on
        (seed, the sample's `epoch` or its row's, `row`, `location`) alone. MONAI's own random states, which workers inherit
        and would all continue alike, are set from it.
    restore
        False leaves MetaTensors, for ``monai.data.DataLoader``; torch's default collate would keep the first one's affine for all.

    Examples
    --------
    >>> augment = Compose([Spacingd(["image", "label"], (2, 2, 2), mode=["bilinear", "nearest"]), RandFlipd(["image", "label"], 0.5, 0)])
    >>> dataset = dicomdl.VolumeDataset(index, transform=dicomdl.interop.ForMonai(augment, seed=0))
    """

    transform: Callable[[Any], Any] | None = None
    labels: tuple[str, ...] = LABELS
    seed: int | None = None
    restore: bool = True
    unknown: Unknown = "raise"

    def __call__(self, sample: Mapping[str, Any]) -> Any:
        """A Sample, or a list of them; dicts of MetaTensors with ``restore=False``."""
        data: Any = to_monai(sample, self.labels, unknown=self.unknown)
        if self.transform is not None:
            seed = _drawn(self.seed, sample)
            _package("monai.data.utils", "ForMonai", "monai").set_rnd(self.transform, seed)
            with _chance(seed):
                data = self.transform(data)
        return from_monai(data) if self.restore else data


# --- TorchIO ----------------------------------------------------------------------------------------------------------


def to_torchio(sample: Mapping[str, Any], labels: Sequence[str] = LABELS, *, unknown: Unknown = "raise") -> Any:
    """A sample as a `torchio.Subject`: `image` a ScalarImage, labels LabelMaps, everything else as it is; needs the extra `torchio`.

    Parameters
    ----------
    sample, labels, unknown
        As for `to_monai`; TorchIO needs a position for frames as well.

    Returns
    -------
    torchio.Subject
        Images (C, D, H, W) in the order (slice, row, column), of frames (C, H, W, 1) as TorchIO wants 2D images, with RAS affines. Tensors
        share memory with the sample's.

    Raises
    ------
    MissingExtra, UsageError
        Without TorchIO; for an image or label of another shape.
    GeometryError
        The position is unknown, or the stack is tilted: TorchIO's resampling knows no shear. Resample such a dataset (``spacing=``) first.
    """
    torchio = _package("torchio", "to_torchio", "torchio")
    grid = _grid_of(sample, labels)
    affine = _in_torchio(grid, _checked_unknown(unknown))
    images: dict[str, Any] = {}
    for name, tensor in _channelled(sample, grid).items():
        kind = torchio.ScalarImage if name == "image" else torchio.LabelMap
        if tensor.dtype == torch.int64 and (tensor == tensor.int()).all():  # NIfTI, which ToCanonical goes through, refuses int64
            tensor = tensor.int()
        images[name] = kind(tensor=tensor[..., None] if grid.is_frame else tensor, affine=affine.copy())
    others = {**_elsewhere(sample, images), _KEPT: (grid, affine)}
    return torchio.Subject({**images, **others})


def from_torchio(subject: Any) -> Sample:
    """The way back from `to_torchio`: plain tensors, which the default collate takes, and an LPS `affine`.

    TorchIO's own rule stays in force: RandomFlip and RandomAffine move the content within its grid (another patient on the same scanner),
    Resample, ToCanonical, Crop and Pad move the grid over the content.
    """
    grid, old = subject[_KEPT]
    images = {name: subject[name].data for name in ("image", *(label for label, _, _ in grid.labels)) if name in subject}
    others = {name: value for name, value in subject.items() if name not in (_KEPT, *images)}
    index_map = _index_map(old, np.asarray(subject["image"].affine, dtype=np.float64))
    if grid.is_frame:
        order = [2, 0, 1, 3]  # (row, column, slice) to (slice, row, column)
        index_map = index_map[np.ix_(order, order)]
        images = {name: image[..., 0] if image.shape[-1] == 1 else image.movedim(-1, 1) for name, image in images.items()}
    return _rebuilt(others, grid, index_map, images)


def _in_torchio(grid: _Grid, unknown: Unknown) -> Matrix:
    """(4, 4) RAS affine, of a frame in the order (row, column, slice)."""
    affine = grid.in_ras(unknown)
    axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    shear = float(np.abs(axes.T @ axes - np.eye(3)).max())
    if shear > 1e-3 and not grid.is_frame:
        raise GeometryError(
            f"the slices of this stack are tilted (cosine {shear:.4f} between its axes), and TorchIO would drop the shear: "
            "give the dataset spacing=..., which resamples it to a grid without",
            shear=shear,
        )
    return affine[:, [1, 2, 0, 3]] if grid.is_frame else affine


@dataclass(frozen=True, slots=True)
class ForTorchIO:
    """A TorchIO transform as the ``transform=`` of a dataset: `to_torchio`, the transform, `from_torchio`; extra `torchio`.

    Parameters
    ----------
    transform
        Any callable on a Subject, such as ``torchio.Compose([...])``; None converts only.
    labels, unknown
        As for `to_torchio`.
    seed
        As for `ForMonai`.
    restore
        False leaves Subjects, for ``torchio.SubjectsLoader``.
    """

    transform: Callable[[Any], Any] | None = None
    labels: tuple[str, ...] = LABELS
    seed: int | None = None
    restore: bool = True
    unknown: Unknown = "raise"

    def __call__(self, sample: Mapping[str, Any]) -> Any:
        """A Sample, or a Subject with ``restore=False``."""
        subject = to_torchio(sample, self.labels, unknown=self.unknown)
        if self.transform is not None:
            with _chance(_drawn(self.seed, sample)):
                subject = self.transform(subject)
        return from_torchio(subject) if self.restore else subject


# --- torchvision ------------------------------------------------------------------------------------------------------


def to_torchvision(sample: Mapping[str, Any], labels: Sequence[str] = LABELS, *, track: bool = True) -> dict[str, Any]:
    """A sample with `tv_tensors`, so that torchvision's v2 transforms act on image and labels alike; needs the extra `torchvision`.

    Parameters
    ----------
    sample, labels
        As for `to_monai`.
    track
        Let nine points, as boxes of no size, go through the transform: they tell where the pixels went, and so the new `affine`.
        Turn it off for transforms that count boxes (RandomIoUCrop, SanitizeBoundingBoxes) or do not take them (padding other
        than "constant"); `affine` and `spacing` are NaN then.

    Returns
    -------
    dict
        A frame as Image (C, H, W); a volume as Video (D, C, H, W), each slice alike; labels as Masks of the same form.

    Raises
    ------
    MissingExtra, UsageError
        Without a torchvision that can be imported beside this torch; for an image or label of another shape.
    """
    tv = _package("torchvision.tv_tensors", "to_torchvision", "torchvision")
    grid = _grid_of(sample, labels)
    made: dict[str, Any] = {}
    for name, tensor in _channelled(sample, grid).items():
        kind = tv.Mask if name != "image" else tv.Image if grid.is_frame else tv.Video
        made[name] = kind(tensor if grid.is_frame else tensor.movedim(1, 0))
    others = {**_elsewhere(sample, made), _KEPT: grid}
    if track:
        height, width = sample["image"].shape[-2:]
        points = _points(height, width)
        made[_TRACKED] = tv.BoundingBoxes(
            torch.cat([points, points], dim=1), format="XYXY", canvas_size=(height, width), clamping_mode=None
        )
    return {**made, **others}


def from_torchvision(data: Mapping[str, Any]) -> Sample:
    """The way back from `to_torchvision`: plain tensors, channels first, and the `affine` that follows from where the points went.

    It is NaN after what is not an affine map (ElasticTransform, RandomPerspective) and without ``track``.
    """
    grid = data[_KEPT]
    names = ("image", *(label for label, _, _ in grid.labels))
    tensors = {name: data[name].as_subclass(torch.Tensor) for name in names if name in data}
    if not grid.is_frame:
        tensors = {name: tensor.movedim(0, 1) for name, tensor in tensors.items()}
    others = {name: value for name, value in data.items() if name not in (_KEPT, _TRACKED, *tensors)}
    index_map = np.full((4, 4), np.nan)
    if _TRACKED in data:
        moved = np.asarray(data[_TRACKED].as_subclass(torch.Tensor), dtype=np.float64)
        new_size = tensors["image"].shape[-2:]
        index_map = _map_of_points(_points(*grid.shape[-2:]).numpy(), _recentred(moved[:, :2], *new_size))
    return _rebuilt(others, grid, index_map, tensors)


def _points(height: int, width: int) -> torch.Tensor:
    """(9, 2) float64: x and y of a grid of points, (0, 0) being the corner of the first pixel, as torchvision counts boxes."""
    axes = [torch.linspace(0, length, 3, dtype=torch.float64) for length in (width, height)]
    return torch.cartesian_prod(*axes)


def _recentred(points: Matrix, height: int, width: int) -> Matrix:
    """The points as they are, but after a rotation with ``expand=True`` as the pixels are.

    There torchvision shifts boxes until their corners touch the edge, and pixels until the centre is in the centre, on a canvas of a whole
    number of pixels: half a pixel of difference. Touching two edges without being parallel to them tells the case.
    """
    size = np.array([width, height], dtype=np.float64)
    if not (points.ndim == 2 and len(points) == 9 and np.isfinite(points).all()):
        return points
    is_turned = np.abs(points[2] - points[0]).min() > 1e-6
    touches = (np.abs(points.min(axis=0)) < 1e-3) | (np.abs(points.max(axis=0) - size) < 1e-3)
    return points + size / 2 - points[4] if is_turned and touches.all() else points


def _map_of_points(old: Matrix, new: Matrix) -> Matrix:
    """(4, 4) from new to old (slice, row, column), of points (n, 2) in x and y; NaN where no affine map does it."""
    result = np.full((4, 4), np.nan)
    if new.shape != old.shape or not np.isfinite(new).all():
        return result
    given = np.column_stack([new, np.ones(len(new))])
    solution, _, rank, _ = np.linalg.lstsq(given, old, rcond=None)
    if rank < 3 or np.abs(given @ solution - old).max() > _MAX_RESIDUAL_PIXELS:
        return result
    swapped, shift = solution[:2, :2].T[::-1, ::-1], solution[2, ::-1]  # (x, y) to (row, column)
    result = np.eye(4)
    result[1:3, 1:3] = swapped
    result[1:3, 3] = shift + swapped @ (0.5, 0.5) - 0.5  # from corners to centres of pixels
    return result


@dataclass(frozen=True, slots=True)
class ForTorchvision:
    """A torchvision v2 transform as the ``transform=`` of a dataset: `to_torchvision`, the transform, `from_torchvision`.

    It needs the extra `torchvision`.

    Parameters
    ----------
    transform
        Any callable on a dict, such as ``torchvision.transforms.v2.Compose([...])``; None converts only.
    labels, track
        As for `to_torchvision`.
    seed
        As for `ForMonai`.
    restore
        False leaves tv_tensors.
    """

    transform: Callable[[Any], Any] | None = None
    labels: tuple[str, ...] = LABELS
    seed: int | None = None
    restore: bool = True
    track: bool = True

    def __call__(self, sample: Mapping[str, Any]) -> Any:
        """A Sample, or a dict of tv_tensors with ``restore=False``."""
        data = to_torchvision(sample, self.labels, track=self.track)
        if self.transform is not None:
            with _chance(_drawn(self.seed, sample)):
                data = self.transform(data)
        return from_torchvision(data) if self.restore else data


# --- collating and Lightning ------------------------------------------------------------------------------------------


def collate_flat(samples: Sequence[Any]) -> Any:
    """Collate where a transform makes several samples of one (RandCropByPosNegLabeld): all become one batch.

    Sizes may differ, as for `dicomdl.collate`.
    """
    return collate(list(itertools.chain.from_iterable(one if isinstance(one, list) else [one] for one in samples)))


class _TellsEpoch:
    """Mixed into a DataLoader class: whoever draws for an epoch is told its number before it begins; batches given out are counted."""

    before_epoch: Callable[[Any], None] | None = None
    batches_done: int = 0

    def __iter__(self) -> Any:
        if self.before_epoch is not None:
            self.before_epoch(self)
        batches = super().__iter__()  # type: ignore[misc]
        return batches if self.before_epoch is None else self._counted(batches)

    def _counted(self, batches: Iterator[Any]) -> Iterator[Any]:
        self.batches_done = 0
        for batch in batches:
            self.batches_done += 1
            yield batch

    def __len__(self) -> int:
        count = getattr(self.dataset, "number_of_batches", None)  # type: ignore[attr-defined]
        # Without a length Lightning fetches a batch ahead, and the count of those done would be one too many.
        return int(super().__len__()) if count is None else int(count(self))  # type: ignore[misc]


class _Resumable(_TellsEpoch):
    """What Lightning takes for a loader that can go on in the middle of an epoch; the state itself is the DataModule's."""

    def state_dict(self) -> dict[str, Any]:
        """Nothing of its own."""
        return {}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Nothing of its own."""


class _Shielded(DistributedSampler[Any]):
    """A sampler that knows ranks and epochs itself, in a form that Lightning leaves alone.

    Lightning would share out the share again (it asks for this very class), and it calls `set_epoch` after the pass has begun, which
    makes a sampler forget where it was resumed.
    """

    def __init__(self, own: Any) -> None:
        self.own = own

    def __iter__(self) -> Iterator[Any]:
        return iter(self.own)

    def __len__(self) -> int:
        return len(self.own)

    def set_epoch(self, epoch: int) -> None:
        """Not Lightning's business: see `_Loaders._begin_epoch`."""

    def __getattr__(self, name: str) -> Any:
        if name in ("own", "sampler") or name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.own, name)


def _is_made(sampler: Any) -> bool:
    """Whether it is a sampler, not a function or class that makes one."""
    return hasattr(sampler, "__iter__") and not isinstance(sampler, type)


def _knows_ranks(sampler: Any) -> bool:
    """Whether a sampler, or one that it draws from, shares out over ranks."""
    return sampler is not None and (hasattr(sampler, "rank") or _knows_ranks(getattr(sampler, "sampler", None)))


def _state_of(part: Any, loader: Any) -> Any:
    """The state of a part, which draws ahead of what is delivered; it is told how much was, if it can be."""
    told = {
        "loader": loader,
        "batches_done": loader.batches_done,
        "samples_done": loader.batches_done * (loader.batch_size or 1),
    }
    known = inspect.signature(part.state_dict).parameters
    return part.state_dict(**{name: value for name, value in told.items() if name in known})


class _Loaders:
    """Train, validation, test and prediction datasets as a LightningDataModule; needs the extra `lightning`.

    Parameters
    ----------
    train, val, test, predict
        Datasets, or a list of them; any may be None.
    train_options
        Options of the training DataLoader alone, over `options`: `sampler`, `batch_sampler`, `shuffle`, `drop_last`, ...
        A sampler may be a function of the dataset, called when ranks are known, such as
        ``lambda dataset: RowBatchSampler(RowSampler(dataset), 8)``.
        By default datasets of dicomdl get a RowSampler with their own seed, so that their workers know the epoch, and others are
        shuffled by torch.
    loader
        The class of loaders: DataLoader or torchdata's StatefulDataLoader, whose state Lightning keeps in its checkpoints.
    **options
        Options of every DataLoader: `batch_size`, `num_workers`, `collate_fn`, ...

    Notes
    -----
    Before each epoch of training, `set_epoch` is called on the dataset, the sampler and the batch sampler, if they have it; validation
    draws the same every time. With several ranks Lightning shares out the samples itself, but not those of a sampler with a `rank`, which
    does so already. A checkpoint has the `state_dict` of what of them has one, so that training goes on in the middle of an epoch.

    Raises
    ------
    MissingExtra, UsageError
        Without Lightning; for options that cannot serve every dataset.
    """

    def __init__(
        self,
        train: Any = None,
        val: Any = None,
        test: Any = None,
        predict: Any = None,
        *,
        train_options: Mapping[str, Any] | None = None,
        loader: type[Any] = DataLoader,
        **options: Any,
    ) -> None:
        super().__init__()
        self.datasets = {"train": train, "val": val, "test": test, "predict": predict}
        self.train_options = dict(train_options or {})
        self.options = options
        self.loader = loader
        self._loaded: Mapping[str, Any] = {}
        self._training: list[tuple[Any, dict[str, Any]]] = []  # each loader, and whose state it advances
        of_one = {"dataset", "sampler", "batch_sampler", "shuffle"} & set(options)
        if of_one:
            raise UsageError(f"{', '.join(sorted(of_one))}: expected in train_options, for it cannot serve every dataset")
        given = [self.train_options.get(name) for name in ("sampler", "batch_sampler")]
        if isinstance(train, list | tuple) and len(train) > 1 and any(_is_made(sampler) for sampler in given):
            raise UsageError("one sampler serves one training dataset: give a function of the dataset that makes it")

    def _loaders(self, stage: str) -> Any:
        given = self.datasets[stage]
        make = self._of_training if stage == "train" else self._of_evaluation
        if given is None:
            return []
        return [make(dataset) for dataset in given] if isinstance(given, list | tuple) else make(given)

    def _of_evaluation(self, dataset: Any) -> Any:
        return _loader_class(self.loader, False)(dataset, **self.options)

    def _of_training(self, dataset: Any) -> Any:
        options = self._with_sampler(self.options | self.train_options, dataset)
        parts = {"dataset": dataset}
        for name in {"sampler", "batch_sampler"} & set(options):
            sampler = options[name]
            parts[name] = sampler if _is_made(sampler) else sampler(dataset)
            options[name] = _Shielded(parts[name]) if _knows_ranks(parts[name]) else parts[name]
        stateful = {name: part for name, part in parts.items() if _has_state(part)}
        made = _loader_class(self.loader, bool(stateful))(dataset, **options)
        if isinstance(options.get("batch_sampler"), _Shielded):
            made.__dict__["sampler"] = options["batch_sampler"]  # not drawn from; where Lightning looks for who shares out
        made.before_epoch = self._begin_epoch
        self._training.append((made, stateful))
        self._give_back(len(self._training) - 1)
        return made

    def _with_sampler(self, options: dict[str, Any], dataset: Any) -> dict[str, Any]:
        """Options without what contradicts, and with a sampler or `shuffle` where a dataset has numbers."""
        options = {name: value for name, value in options.items() if not (name.endswith("sampler") and value is None)}
        if "batch_sampler" in options:
            return {name: value for name, value in options.items() if name not in ("batch_size", "drop_last")}
        if "sampler" in options or isinstance(dataset, IterableDataset):
            return options
        shuffle = bool(options.pop("shuffle", True))
        if isinstance(dataset, SampleDataset):  # all ranks have equally many rows, or one would wait for ever
            made = RowSampler(dataset, seed=dataset.seed, shuffle="rows" if shuffle else False, uneven="pad")
            return {**options, "sampler": made}
        return {**options, "shuffle": shuffle}

    def _begin_epoch(self, loader: Any) -> None:
        trainer = getattr(self, "trainer", None)
        if trainer is None:
            return
        batch_sampler = getattr(loader, "batch_sampler", None)
        found = (loader.dataset, loader.sampler, batch_sampler, getattr(batch_sampler, "sampler", None))
        targets = {id(target): target for target in (getattr(target, "own", target) for target in found)}
        for target in targets.values():
            set_epoch: Any = getattr(target, "set_epoch", None)
            if set_epoch is not None:
                set_epoch(int(trainer.current_epoch))

    def train_dataloader(self) -> Any:
        """A loader of the training dataset, or a list."""
        self._training = []
        return self._loaders("train")

    def val_dataloader(self) -> Any:
        """A loader of the validation dataset, or a list."""
        return self._loaders("val")

    def test_dataloader(self) -> Any:
        """A loader of the test dataset, or a list."""
        return self._loaders("test")

    def predict_dataloader(self) -> Any:
        """A loader of the dataset to predict, or a list."""
        return self._loaders("predict")

    def state_dict(self) -> dict[str, Any]:
        """The states of the samplers, batch samplers and datasets of training, of those that have one."""
        if hasattr(self.loader, "state_dict"):  # a stateful loader asks them itself
            return {}
        return {
            f"{number}.{name}": _state_of(part, loader)
            for number, (loader, parts) in enumerate(self._training)
            for name, part in parts.items()
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Give back what `state_dict` gave, also before the loaders are made."""
        self._loaded = dict(state_dict)
        for number in range(len(self._training)):
            self._give_back(number)

    def _give_back(self, number: int) -> None:
        for name, part in self._training[number][1].items():
            if f"{number}.{name}" in self._loaded:
                part.load_state_dict(self._loaded[f"{number}.{name}"])
        self._loaded = {key: value for key, value in self._loaded.items() if not key.startswith(f"{number}.")}


def _has_state(part: Any) -> bool:
    return all(callable(getattr(part, method, None)) for method in ("state_dict", "load_state_dict"))


def _loader_class(loader: type[Any], is_resumable: bool) -> type[Any]:
    mixin = _Resumable if is_resumable and not _has_state(loader) else _TellsEpoch
    return type(f"{loader.__name__}ToldTheEpoch", (mixin, loader), {})


def __getattr__(name: str) -> Any:
    """`DataModule` is made when first asked for, because its base is optional."""
    if name != "DataModule":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        base = _package("lightning.pytorch", "DataModule", "lightning").LightningDataModule
    except Exception:
        base = _package("pytorch_lightning", "DataModule", "lightning").LightningDataModule  # the same under its older name
    made = type(name, (_Loaders, base), {"__module__": __name__, "__qualname__": name, "__doc__": _Loaders.__doc__})
    globals()[name] = made
    return made
