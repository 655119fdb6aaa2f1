"""Samples for MONAI, TorchIO, torchvision v2 and Lightning, and back.

The only place where RAS is spoken.

`to_monai`, `to_torchio` and `to_torchvision` make of a sample what the package's transforms take,
the `from_` functions make a sample of it again. `ForMonai`, `ForTorchIO` and `ForTorchvision` do
both around a transform: give them as ``transform=``. The rule to know: while a sample is with
another package its place (`affine`, `spacing`) travels inside that package's image, so no key can
go stale; on the way back `affine` is the old one times the map from new to old indices, so it stays
exact where nothing moved, and it is NaN where the map is not known. Index order never changes:
(slice, row, column) outside, whatever the package calls it.

The packages are optional and imported when first used.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from dicomdl.arrays import Floats
from dicomdl.errors import GeometryError
from dicomdl.interop.grid import (
    LABELS,
    UNKNOWN_HELP,
    SampleGrid,
    Unknown,
    channelled,
    checked_unknown,
    drawn,
    elsewhere,
    from_plane,
    grid_of,
    index_map_of,
    optional_package,
    plain_value,
    rebuilt,
    seeded,
)

# --- MONAI ----------------------------------------------------------------------------------------


def to_monai(
    sample: Mapping[str, Any], labels: Sequence[str] = LABELS, *, unknown: Unknown = "raise"
) -> dict[str, Any]:
    """A sample as a dict of MetaTensors, on which MONAI's dict transforms work.

    Needs the extra `monai`.

    Parameters
    ----------
    sample
        `image` (C, H, W) or (C, D, H, W), `affine` (4, 4) to LPS mm, `spacing` (3,); tensors under
        `labels` of the same spatial shape, with or without channels, go along. Everything else is
        passed on.
    labels
        Names of what must move with the image.
    unknown
        What to do with a frame of unknown pixel spacing or a volume of unknown position: "raise",
        or "axes": take the axes of the array for those of the world, and voxels of unknown size for
        1 mm. `affine` is NaN on the way back.

    Returns
    -------
    dict
        `image` and labels as MetaTensors with an axis of channels, sharing memory with the
        sample's; no `affine`, no `spacing`. A volume's MetaTensor has the (4, 4) RAS affine of the
        same (slice, row, column) order. A frame's has a (3, 3) affine in its own plane, mm
        downwards and to the right from the first pixel's centre: MONAI cuts a 2D image's affine to
        the first two world axes, which is singular for sagittal and coronal frames. So Spacingd is
        right on every frame, and Orientationd has no anatomical meaning on one.

    Raises
    ------
    MissingExtra, UsageError
        Without MONAI; for an image or label of another shape.
    GeometryError
        For an unknown place: MONAI resamples by a NaN affine without a word, and delivers noise.
    """
    monai = optional_package("monai.data", "to_monai", "monai")
    grid = grid_of(sample, labels)
    tensors = channelled(sample, grid)
    forms = {name: (has_channels, dtype) for name, has_channels, dtype in grid.labels}
    where = _in_monai(grid, checked_unknown(unknown))
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
    return {**made, **elsewhere(sample, made)}


def from_monai(data: Any) -> Any:
    """The way back from `to_monai`: a Sample, whose `affine` is LPS again.

    Of a list (RandCropByPosNegLabeld makes one), a list.

    An image that lost its metadata (``track_meta=False``) or an axis gets NaN as `affine` and
    `spacing`. Labels get their dtype and form back, unless they have become fractional because a
    transform had no ``mode="nearest"`` for them (a lazy Compose forgets it: give it
    ``overrides={"mask": {"mode": "nearest"}}``).
    """
    if isinstance(data, list | tuple):
        return [from_monai(one) for one in data]
    image = data["image"]
    metas = {
        name: value.meta
        for name, value in data.items()
        if "dicomdl_affine" in getattr(value, "meta", ())
    }
    if "image" not in metas:
        nowhere = SampleGrid(
            np.full((4, 4), np.nan), np.full(3, np.nan), tuple(image.shape[1:]), ()
        )
        others = {name: plain_value(value) for name, value in data.items() if name != "image"}
        return rebuilt(others, nowhere, nowhere.affine, {"image": plain_value(image)})
    meta = metas["image"]
    shape = tuple(int(length) for length in meta["spatial_shape"])
    forms = tuple(
        (name, bool(one["dicomdl_form"][0]), getattr(torch, one["dicomdl_form"][1]))
        for name, one in metas.items()
    )
    grid = SampleGrid(
        meta["dicomdl_affine"],
        meta["dicomdl_spacing"],
        shape,
        tuple(form for form in forms if form[0] != "image"),
    )
    index_map = np.full((4, 4), np.nan)
    if image.ndim == 1 + len(shape):
        index_map = from_plane(
            index_map_of(meta["original_affine"], np.asarray(image.affine, dtype=np.float64))
        )
    tensors = {name: plain_value(data[name]) for name in metas}
    others = {name: plain_value(value) for name, value in data.items() if name not in tensors}
    return rebuilt(others, grid, index_map, tensors)


def _in_monai(grid: SampleGrid, unknown: Unknown) -> Floats:
    if not grid.is_frame:
        return grid.in_ras(unknown)
    plane = grid.along_axes(unknown)[1:, 1:]
    if not np.isfinite(plane).all():
        raise GeometryError(f"the pixel spacing of this frame is not known: {UNKNOWN_HELP}")
    return plane


@dataclass(frozen=True, slots=True)
class ForMonai:
    """A MONAI dict transform as the ``transform=`` of a dataset.

    `to_monai`, the transform, `from_monai`; extra `monai`.

    Parameters
    ----------
    transform
        Any callable on a dict, such as ``monai.transforms.Compose([...])``; None converts only.
    labels, unknown
        As for `to_monai`.
    seed
        None draws from torch's generator, which a DataLoader seeds for each worker and epoch. A
        number makes a sample depend on (seed, the sample's `epoch` or its row's, `row`, `location`)
        alone. MONAI's own random states, which workers inherit and would all continue alike, are
        set from it.
    restore
        False leaves MetaTensors, for ``monai.data.DataLoader``; torch's default collate would keep
        the first one's affine for all.

    Examples
    --------
    >>> import dicomdl, torch
    >>> from monai.transforms import Compose, Flipd, Resized
    >>> transform = Compose([Resized(["image"], (8, 8, 8)), Flipd(["image"], 0)])
    >>> volume = {"image": torch.zeros(1, 4, 16, 16), "affine": torch.eye(4)}
    >>> dicomdl.interop.ForMonai(transform, seed=0)(volume)["image"].shape
    torch.Size([1, 8, 8, 8])
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
            seed = drawn(self.seed, sample)
            optional_package("monai.data.utils", "ForMonai", "monai").set_rnd(self.transform, seed)
            with seeded(seed):
                data = self.transform(data)
        return from_monai(data) if self.restore else data
