"""Tests of boxes and points in samples of MONAI, TorchIO and torchvision: they hold what is bright.

Each library skips by name where it is not installed.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch

from dicomdl import interop
from dicomdl.datasets.sample import Sample
from dicomdl.errors import UsageError

SHAPE = (8, 20, 24)
BOXES = [[1, 4, 5, 3, 9, 15], [5, 10, 2, 8, 18, 8]]
AFFINE = np.array([[0, 0.0, 1, -20], [0, 1.0, 0, 30], [3, 0, 0, -7], [0, 0, 0, 1]])


def _in_mm(places: torch.Tensor) -> torch.Tensor:
    return places @ torch.from_numpy(AFFINE[:3, :3].T) + torch.from_numpy(AFFINE[:3, 3])


def part_of(image: torch.Tensor, box: list[int]) -> torch.Tensor:
    """The part of an array in a box along its axes."""
    axes = len(box) // 2
    return image[tuple(slice(a, b) for a, b in zip(box[:axes], box[axes:], strict=True))]


def volume() -> Sample:
    """A volume with a bright box around each of two points."""
    image = torch.zeros(1, *SHAPE)
    for a, b, c, d, e, f in BOXES:
        image[0, a:d, b:e, c:f] = 1
    boxes = torch.tensor(BOXES, dtype=torch.float32)
    points = (boxes[:, :3] + boxes[:, 3:]) / 2 - 0.5
    return Sample(
        image=image,
        affine=torch.from_numpy(AFFINE),
        spacing=torch.tensor([3.0, 1, 1], dtype=torch.float64),
        boxes=boxes,
        box_labels=torch.tensor([4, 7]),
        boxes_dropped=1,
        points=points,
        points_mm=points.double() @ torch.from_numpy(AFFINE[:3, :3].T)
        + torch.from_numpy(AFFINE[:3, 3]),
        point_labels=torch.tensor([4, 7]),
        points_dropped=0,
        series_instance_uid="1.2",
        row=0,
    )


def frame() -> Sample:
    """A frame with a bright rectangle around each of two points."""
    image = torch.zeros(1, *SHAPE[1:])
    for _, b, c, _, e, f in BOXES:
        image[0, b:e, c:f] = 1
    boxes = torch.tensor([[c, b, f, e] for _, b, c, _, e, f in BOXES], dtype=torch.float32)
    points = (boxes[:, :2] + boxes[:, 2:]) / 2
    places = torch.stack([torch.zeros(2), points[:, 1] - 0.5, points[:, 0] - 0.5], dim=1).double()
    return Sample(
        volume()
        | {
            "image": image,
            "boxes": boxes,
            "points": points,
            "points_mm": _in_mm(places),
        }
    )


def check(sample: Mapping[str, Any], count: int = 2) -> None:
    """Compare boxes and points with the bright voxels of a sample, and mm with its affine."""
    image = sample["image"][0].numpy()
    boxes, points = sample["boxes"].numpy(), sample["points"].numpy().astype(np.float64)
    is_frame = image.ndim == 2
    assert len(boxes) == len(sample["box_labels"]) == count
    if is_frame:
        boxes = boxes[:, [1, 0, 3, 2]]
        points = points[:, ::-1] - 0.5
    mask = np.zeros(image.shape, bool)
    for box in boxes.round().astype(int).tolist():
        axes = len(box) // 2
        mask[tuple(slice(a, b) for a, b in zip(box[:axes], box[axes:], strict=True))] = True
    assert np.array_equal(mask, image > 0.5)
    for point in points:
        assert image[tuple(np.clip(point.round().astype(int), 0, np.array(image.shape) - 1))] > 0.5
    if is_frame:
        points = np.concatenate([np.zeros((len(points), 1)), points], axis=1)
    affine = sample["affine"].numpy()
    assert np.allclose(points @ affine[:3, :3].T + affine[:3, 3], sample["points_mm"], atol=1e-4)


def same(one: Mapping[str, Any], other: Mapping[str, Any]) -> None:
    """Compare all entries of boxes and points."""
    for name in ("boxes", "box_labels", "points", "points_mm", "point_labels"):
        assert torch.allclose(one[name], other[name]) and one[name].dtype == other[name].dtype
    assert one["boxes_dropped"] == other["boxes_dropped"]


@pytest.mark.slow
@pytest.mark.parametrize("make", [volume, frame])
def test_monai_gets_boxes_along_the_axes_of_the_array_and_gives_them_back(make: Any) -> None:
    pytest.importorskip("monai")
    sample = make()
    data = interop.to_monai(sample)
    for box in data["boxes"].int().tolist():
        part = part_of(data["image"][0], box)
        assert (part == 1).all()
    same(interop.from_monai(data), sample)


@pytest.mark.parametrize("make", [volume, frame])
def test_boxes_follow_the_transforms_of_monai(make: Any) -> None:
    transforms = pytest.importorskip("monai.transforms")
    axes = make()["image"].ndim - 1
    for transform in (
        transforms.Flipd(["image"], spatial_axis=axes - 1),
        transforms.Rotate90d(["image"], spatial_axes=(axes - 2, axes - 1)),
        transforms.SpatialPadd(["image"], spatial_size=(32,) * axes),
        transforms.Zoomd(["image"], 2, mode="nearest", keep_size=False),
        transforms.CenterSpatialCropd(["image"], roi_size=(16,) * axes),
        transforms.ScaleIntensityd(["image"]),
    ):
        found = interop.ForMonai(transform)(make())
        check(found)
    cropped = interop.ForMonai(
        transforms.SpatialCropd(["image"], roi_start=[0] * axes, roi_end=[8] * axes)
    )(make())
    assert cropped["boxes_dropped"] + len(cropped["boxes"]) == 3
    check(cropped, len(cropped["boxes"]))


@pytest.mark.parametrize("make", [volume, frame])
def test_boxes_that_transforms_of_monai_move_are_moved_once(make: Any) -> None:
    detection = pytest.importorskip("monai.apps.detection.transforms.dictionary")
    for transform in (
        detection.FlipBoxd(["image"], ["boxes"], ["image"], spatial_axis=1),
        detection.ZoomBoxd(
            ["image"],
            ["boxes"],
            ["image"],
            zoom=[2] * (make()["image"].ndim - 1),
            mode="nearest",
            keep_size=False,
        ),
    ):
        found = interop.ForMonai(transform)(make())
        found["points"], found["points_mm"] = make()["points"][:0], make()["points_mm"][:0]
        check(found)


@pytest.mark.parametrize("make", [volume, frame])
def test_subjects_of_torchio_come_back_on_the_grid_that_moved(make: Any) -> None:
    torchio = pytest.importorskip("torchio")
    sample = make()
    subject = interop.to_torchio(sample)
    same(interop.from_torchio(subject), sample)
    if hasattr(torchio, "BoundingBoxes"):
        assert torch.equal(subject.boxes.labels, sample["box_labels"])
        world = subject.points["points"].to_world().numpy() * (-1, -1, 1)
        assert np.allclose(world, sample["points_mm"], atol=1e-4)
    crop = (1, 0, 2, 3, 1, 0) if make is volume else (2, 3, 1, 0, 0, 0)
    transforms = [torchio.Crop(cropping=crop), torchio.Pad(padding=2)]
    for transform in transforms if make is volume else transforms[:1]:
        found = interop.ForTorchIO(transform)(make())
        check(found)
        assert found["image"].shape != sample["image"].shape


def test_transforms_of_torchio_that_move_the_content_are_an_error() -> None:
    torchio = pytest.importorskip("torchio")
    name = "RandomFlip" if hasattr(torchio, "RandomFlip") else "Flip"
    flip = getattr(torchio, name)(axes=(2,), **({"flip_probability": 1} if name != "Flip" else {}))
    with pytest.raises(UsageError, match="moves no boxes or points"):
        interop.ForTorchIO(flip)(volume())
    plain = {k: v for k, v in volume().items() if not k.startswith(("box", "point"))}
    assert "boxes" not in interop.ForTorchIO(flip)(plain)


@pytest.mark.parametrize("make", [volume, frame])
def test_tv_tensors_hold_boxes_and_key_points(make: Any) -> None:
    v2 = pytest.importorskip("torchvision.transforms.v2")
    tv = pytest.importorskip("torchvision.tv_tensors")
    sample = make()
    data = interop.to_torchvision(sample)
    assert isinstance(data["boxes"], tv.BoundingBoxes) and isinstance(data["points"], tv.KeyPoints)
    same(interop.from_torchvision(data), sample)
    for transform in (
        v2.RandomHorizontalFlip(1),
        v2.RandomVerticalFlip(1),
        v2.Pad([3, 1, 2, 4]),
        v2.Resize([40, 48], interpolation=v2.InterpolationMode.NEAREST),
        v2.CenterCrop([19, 23]),
    ):
        check(interop.ForTorchvision(transform)(make()))


def test_boxes_that_torchvision_removes_take_their_labels_along() -> None:
    v2 = pytest.importorskip("torchvision.transforms.v2")
    transform = v2.Compose(
        [
            v2.CenterCrop([8, 24]),
            v2.SanitizeBoundingBoxes(labels_getter=lambda data: data["box_labels"]),
        ]
    )
    found = interop.ForTorchvision(transform, track=False)(frame())
    assert found["box_labels"].tolist() == [4, 7]
    removed = interop.ForTorchvision(
        v2.Compose(
            [
                v2.Pad(0),
                v2.SanitizeBoundingBoxes(min_size=9, labels_getter=lambda d: d["box_labels"]),
            ]
        ),
        track=False,
    )(frame())
    assert removed["box_labels"].tolist() == [4] or len(removed["boxes"]) == 0
    with pytest.raises(UsageError, match="which slices"):
        interop.ForTorchvision(
            v2.SanitizeBoundingBoxes(min_size=7, labels_getter=lambda d: d["box_labels"]),
            track=False,
        )(volume())
