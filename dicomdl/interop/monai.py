"""Samples as dicts of MetaTensors for MONAI's dict transforms, and back.

The RAS affine of a MetaTensor carries the grid. A frame gets a (3, 3) affine in its own plane,
because MONAI would cut a (4, 4) one to two world axes.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from dicomdl.arrays import Floats
from dicomdl.datasets.sample import RAGGED
from dicomdl.errors import GeometryError
from dicomdl.extras import import_extra
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
    plain_value,
    rebuilt,
    roles_of,
    seeded,
)
from dicomdl.interop.marks import Marks, marks_of, with_marks, without_marks


def to_monai(
    sample: Mapping[str, Any], labels: Sequence[str] = LABELS, *, unknown: Unknown = "raise"
) -> dict[str, Any]:
    """Convert a sample to a dict of MetaTensors for MONAI's dict transforms.

    Needs the extra `monai`.

    Parameters
    ----------
    sample
        A sample with `image` (C, H, W) or (C, D, H, W), `affine` (4, 4) to LPS mm, and `spacing`
        (3,) mm. Labels have the same spatial shape, with or without channels. Other entries are
        passed on.
    labels
        Names of entries that are transformed with the image.
    unknown
        Policy for a frame of unknown pixel spacing or a volume of unknown position. "raise": a
        GeometryError. "axes": take the axes of the array for those of the world, and voxels of
        unknown size for 1 mm; `affine` is NaN on the way back.

    Returns
    -------
    dict
        `image` and labels as MetaTensors with a channel axis, which share memory with the sample;
        without `affine` and `spacing`. The MetaTensor of a volume has a (4, 4) RAS affine in
        (slice, row, column) order. That of a frame has a (3, 3) affine in its own plane, in mm
        downwards and to the right from the centre of the first pixel, because MONAI cuts the affine
        of a 2D image to the first two world axes, which is singular for sagittal and coronal
        frames. Spacingd is therefore right for every frame, and Orientationd has no anatomical
        meaning for frames. `meta` has the path of a frame, or the Series Instance UID of a volume,
        as "filename_or_obj", by which SaveImaged names files; and for a sample of a `Pairing`, its
        roles as "channels". `boxes` are in the order of the axes of the array, as the transforms of
        MONAI's detection take them: (row, column, row, column) for a frame.

    Raises
    ------
    MissingExtra
        MONAI is not installed.
    UsageError
        The image or a label has another shape.
    GeometryError
        The grid is unknown. MONAI would resample by a NaN affine without an error and return noise.
    """
    monai = import_extra("monai.data", "to_monai", "monai")
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
            **_named(sample, name),
        }
        made[name] = monai.MetaTensor(tensor, affine=torch.from_numpy(where.copy()), meta=meta)
    marks, others = marks_of(sample), elsewhere(sample, made)
    if marks.is_any:
        if marks.boxes is not None:
            others["boxes"] = _in_monai_order(marks.boxes, grid)
        given = {name: others[name] for name in ("boxes", "points") if name in others}
        made["image"].meta["dicomdl_marks"] = {
            name: each.numpy().copy() for name, each in given.items()
        }
    return {**made, **others}


def _in_monai_order(boxes: Floats, grid: SampleGrid) -> torch.Tensor:
    """Return (n, 4) or (n, 6) float32 boxes along the axes of the array."""
    axes = [1, 2, 4, 5] if grid.is_frame else [0, 1, 2, 3, 4, 5]
    return torch.from_numpy(boxes[:, axes].astype(np.float32))


def _marks_after(data: Mapping[str, Any], given: Mapping[str, Any], index_map: Floats) -> Marks:
    """Return boxes and points after transforms, moved with the image where no transform did it.

    What a transform has moved is not as it was given. A box that it moved onto itself is moved onto
    itself here, too.
    """
    image = data["image"]
    made = {name: np.asarray(plain_value(data[name]), np.float64) for name in given if name in data}
    after = dict(data) | made
    if (boxes := made.get("boxes")) is not None and image.ndim == 3:
        after["boxes"] = boxes[:, [1, 0, 3, 2]]
    marks = marks_of({name: after.get(name) for name in ("image", *RAGGED)})
    moved = marks.moved(index_map)
    is_given = {
        name: np.array_equal(each.astype(np.float32), np.asarray(given[name], np.float32))
        for name, each in made.items()
    }
    return marks._replace(
        boxes=moved.boxes if is_given.get("boxes") else marks.boxes,
        points=moved.points if is_given.get("points") else marks.points,
    )


def _named(sample: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return the metadata that name an image: its file or Series, and its channels."""
    named: dict[str, Any] = {}
    file = sample.get("path", sample.get("series_instance_uid"))
    if isinstance(file, str) and file:
        named["filename_or_obj"] = file
    if name == "image" and (roles := roles_of(sample)):
        named["channels"] = list(roles)
    return named


def from_monai(data: Any) -> Any:
    """Convert the result of MONAI's transforms back to a Sample with an LPS `affine`.

    Labels get their original dtype and axes. They stay fractional floats if a transform
    interpolated them without ``mode="nearest"``; a lazy Compose drops that mode, so pass it
    ``overrides={"mask": {"mode": "nearest"}}``.

    Parameters
    ----------
    data
        A dict of MetaTensors that began as `to_monai`, or a list of them, as
        RandCropByPosNegLabeld returns.

    Returns
    -------
    Sample or list of Sample
        `affine` and `spacing` are NaN if the image lost its metadata (``track_meta=False``) or an
        axis.
    """
    if isinstance(data, list | tuple):
        return [from_monai(part) for part in data]
    image = data["image"]
    metas = {
        name: value.meta
        for name, value in data.items()
        if "dicomdl_affine" in getattr(value, "meta", ())
    }
    if "image" not in metas:
        unknown = SampleGrid(
            np.full((4, 4), np.nan), np.full(3, np.nan), tuple(image.shape[1:]), ()
        )
        others = {name: plain_value(value) for name, value in data.items() if name != "image"}
        return rebuilt(others, unknown, unknown.affine, {"image": plain_value(image)})
    meta = metas["image"]
    shape = tuple(int(length) for length in meta["spatial_shape"])
    forms = tuple(
        (name, bool(meta["dicomdl_form"][0]), getattr(torch, meta["dicomdl_form"][1]))
        for name, meta in metas.items()
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
    if (given := meta.get("dicomdl_marks")) is None:
        return rebuilt(others, grid, index_map, tensors)
    sample = rebuilt(without_marks(others), grid, index_map, tensors)
    return with_marks(sample, _marks_after(data, given, index_map))


def _in_monai(grid: SampleGrid, unknown: Unknown) -> Floats:
    if not grid.is_frame:
        return grid.in_ras(unknown)
    plane = grid.along_axes(unknown)[1:, 1:]
    if not np.isfinite(plane).all():
        raise GeometryError(f"the pixel spacing of this frame is not known: {UNKNOWN_HELP}")
    return plane


@dataclass(frozen=True, slots=True)
class ForMonai:
    """MONAI dict transform as the ``transform=`` of a dataset.

    Applies `to_monai`, the transform, and `from_monai`. Needs the extra `monai`.

    Parameters
    ----------
    transform
        Any callable on a dict, such as ``monai.transforms.Compose([...])``; None only converts.
    labels, unknown
        As for `to_monai`.
    seed
        None draws from torch's generator, which a DataLoader seeds per worker. With a number, a
        sample depends only on the seed and its `epoch`, `row` and `location`, if its row carries an
        epoch (`RowSampler`) or `set_epoch` was called; under a plain DataLoader chance is drawn
        from torch's generator too, anew in every pass. The random states of MONAI are set from it;
        workers would otherwise all inherit the same states.
    restore
        False returns MetaTensors, for ``monai.data.DataLoader``. The default collate function of
        torch would give all of them the affine of the first.

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
        """Transform a sample.

        Returns a Sample or a list of them; dicts of MetaTensors with ``restore=False``.
        """
        data: Any = to_monai(sample, self.labels, unknown=self.unknown)
        if self.transform is not None:
            seed = drawn(self.seed, sample)
            import_extra("monai.data.utils", "ForMonai", "monai").set_rnd(self.transform, seed)
            with seeded(seed):
                data = self.transform(data)
        return from_monai(data) if self.restore else data
