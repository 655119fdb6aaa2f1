"""Tests of boxes and points in samples: they enclose the same pixels after every option."""

import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from conftest import NewFolder, index_of
from phantoms import write_multiframe, write_series
from torch.utils.data import DataLoader

import dicomdl
from dicomdl import Boxes, Centers, FrameDataset, Index, PatchDataset, Points, VolumeDataset
from dicomdl.errors import UsageError

SHAPE = (6, 40, 48)
BRIGHT = 1000
# slice, then x, y, width and height of a rectangle.
RECTANGLES = [(1, 5, 10, 12, 7), (3, 30, 20, 10, 16), (4, 0, 0, 6, 6)]
BOXES = Boxes("x", "y", "width", "height", label="kind")
POINTS = Points("x", "y", label="kind")
NAMES = ("mass", "calc", "mass")


def bright(shape: tuple[int, int, int] = SHAPE) -> np.ndarray:
    """Stored values with a bright rectangle per finding."""
    stored = np.zeros(shape, np.int64)
    for z, x, y, width, height in RECTANGLES:
        stored[z, y : y + height, x : x + width] = BRIGHT
    return stored


def joined(index: Index, slices: Sequence[int] = (1, 3, 4)) -> Index:
    """The index with the rectangles on some slices, by SOP Instance UID and frame number."""
    (stack,) = index.stacks
    frames = [stack.frame(z) for z in slices]
    table = {
        "sop": [frame.sop_instance_uid for frame in frames],
        "frame": [str(frame.frame_number) for frame in frames],
        **{
            name: [rectangle[column] for rectangle in RECTANGLES]
            for column, name in enumerate(("x", "y", "width", "height"), 1)
        },
        "kind": list(NAMES),
    }
    on = {"sop_instance_uid": "sop", "frame_number": "frame"}
    return index.join(table, on=on, level="frame", lists=True, on_unmatched="keep")


@pytest.fixture(scope="module")
def unmarked(new_folder: NewFolder) -> Index:
    folder = new_folder()
    write_series(folder, shape=SHAPE, spacing=(4, 1, 1), stored=bright(), bits_stored=16)
    return index_of(folder)


@pytest.fixture(scope="module")
def index(unmarked: Index) -> Index:
    return joined(unmarked)


def boxes_of(mask: np.ndarray, axes: int) -> list[list[int]]:
    """The bounding box of every bright component, in the order of the first voxels."""
    shapes = sitk.LabelShapeStatisticsImageFilter()
    shapes.Execute(sitk.ConnectedComponent(sitk.GetImageFromArray(mask.astype(np.uint8))))
    found = []
    for label in shapes.GetLabels():
        # SimpleITK counts axes from the last one: (x, y, z), then the sizes.
        box = np.array(shapes.GetBoundingBox(label)).reshape(2, -1)[:, ::-1]
        found.append([*box[0].tolist(), *box.sum(axis=0).tolist()])
    assert all(len(box) == 2 * axes for box in found)
    return sorted(found)


def check(sample: Mapping[str, Any], tolerance: float = 1e-4) -> int:
    """Compare the boxes of a sample with its bright voxels; return their number."""
    image = sample["image"].numpy()
    is_frame = image.ndim == 3
    mask = image[image.shape[0] // 2 if is_frame else 0] > BRIGHT / 2
    wanted = boxes_of(mask, mask.ndim)
    boxes = sample["boxes"].numpy()
    assert boxes.dtype == np.float32 and boxes.shape == (len(wanted), 4 if is_frame else 6)
    order = boxes[:, [1, 0, 3, 2]] if is_frame else boxes
    for box, other in zip(sorted(order.tolist()), wanted, strict=True):
        assert np.abs(np.subtract(box, other)).max() <= tolerance, (box, other)
    assert len(sample["box_labels"]) == len(boxes)
    return len(boxes)


FRAME_OPTIONS: list[tuple[dict[str, Any], float]] = [
    ({}, 1e-4),
    ({"size": (20, 24)}, 0.51),
    ({"size": (80, 96)}, 0.51),
    ({"size": (53, 61)}, 0.51),
    ({"size": (64, 64), "fit": "pad"}, 0.51),
    ({"size": (64, 64), "fit": "crop"}, 0.51),
    ({"spacing": (0.7, 1.3)}, 0.51),
    ({"spacing": 1, "size": (30, 30)}, 0.01),
    ({"spacing": 1, "size": (60, 70)}, 0.01),
    ({"neighbours": 1}, 1e-4),
    ({"neighbours": 2, "size": (20, 24)}, 0.51),
    ({"reduce": 1}, 0.76),
    ({"plane": "axial"}, 1e-4),
    ({"plane": "axial", "neighbours": 1}, 1e-4),
    ({"plane": "coronal"}, 1e-4),
    ({"plane": "sagittal", "spacing": 1, "interpolation": None}, 0.51),
]


@pytest.mark.quick(4)
@pytest.mark.parametrize(("options", "tolerance"), FRAME_OPTIONS)
def test_boxes_of_frames_enclose_the_same_pixels(
    index: Index, options: dict[str, Any], tolerance: float
) -> None:
    options = {name: value for name, value in options.items() if name != "interpolation"}
    frames = FrameDataset(index, "modality", boxes=BOXES, points=POINTS, **options)
    counts = [check(frames[row], tolerance) for row in range(len(frames))]
    if "plane" not in options and options.get("fit") != "crop" and options.get("size") != (30, 30):
        assert counts == [0, 1, 0, 1, 1, 0]
    assert sum(counts) >= 2


VOLUME_OPTIONS: list[tuple[dict[str, Any], float]] = [
    ({}, 1e-4),
    ({"orientation": "RAS"}, 1e-4),
    ({"orientation": "SPL"}, 1e-4),
    ({"size": (6, 20, 24)}, 0.51),
    ({"spacing": (4, 0.6, 1.4)}, 0.51),
    ({"spacing": (4, 1, 1), "size": (6, 30, 60)}, 0.01),
    ({"spacing": (4, 1, 1), "size": (4, 30, 30)}, 0.01),
    ({"orientation": "IPR", "spacing": (4, 0.8, 0.8)}, 0.51),
    ({"reduce": 1}, 0.76),
]


@pytest.mark.parametrize(("options", "tolerance"), VOLUME_OPTIONS)
def test_boxes_of_volumes_enclose_the_same_voxels(
    index: Index, options: dict[str, Any], tolerance: float
) -> None:
    volumes = VolumeDataset(index, "modality", boxes=BOXES, points=POINTS, **options)
    sample = volumes[0]
    count = check(sample, tolerance)
    assert count + sample["boxes_dropped"] == 3 and count >= 1


@pytest.mark.slow
@pytest.mark.parametrize("orientation", [None, "RAS", "SPL", "IPR"])
@pytest.mark.parametrize("size", [(2, 9, 11), (3, 30, 60)])
def test_boxes_of_patches_are_clipped_and_counted(
    index: Index, orientation: str | None, size: tuple[int, int, int]
) -> None:
    patches = PatchDataset(
        index,
        size,
        sampler="grid",
        orientation=orientation,
        intensity="modality",
        boxes=BOXES,
    )
    total = 0
    for row in range(len(patches)):
        sample = patches[row]
        count = check(sample)
        assert count + sample["boxes_dropped"] == 3
        total += count
    assert total >= 3


def test_boxes_of_patches_follow_the_spacing(index: Index) -> None:
    patches = PatchDataset(
        index, (4, 24, 24), sampler="grid", spacing=(4, 0.8, 0.8), intensity="modality", boxes=BOXES
    )
    assert sum(len(patches[row]["boxes"]) for row in range(len(patches))) >= 3
    for row in range(len(patches)):
        sample = patches[row]
        mask = sample["image"][0].numpy() > BRIGHT / 2
        centres = np.indices(mask.shape).reshape(3, -1).T + 0.5
        surely, maybe = (
            np.any(
                [
                    ((centres > box[:3] + edge) & (centres < box[3:] - edge)).all(axis=1)
                    for box in sample["boxes"].numpy()
                ]
                + [np.zeros(mask.size, bool)],
                axis=0,
            )
            for edge in (0.02, -0.02)
        )
        assert mask.ravel()[surely].all() and not mask.ravel()[~maybe].any()


@pytest.mark.parametrize("kind", ["missing", "uneven", "tilted"])
def test_boxes_lie_on_their_slices_after_holes_are_filled(folder: Path, kind: str) -> None:
    shape = (8, 40, 48)
    options: dict[str, Any] = {}
    if kind == "missing":
        options = {"drop": (2,)}
    elif kind == "uneven":
        options = {"positions": [(0, 0, z) for z in (0, 4, 8, 12.6, 16, 20, 24, 28)]}
    else:
        options = {"shear": (0.0, 0.3)}
    write_series(
        folder, shape=shape, spacing=(4, 1, 1), stored=bright(shape), bits_stored=16, **options
    )
    index = joined(index_of(folder), (1, 2, 3) if kind == "missing" else (1, 3, 4))
    sample = VolumeDataset(index, "modality", irregular="resample", boxes=BOXES)[0]
    mask = sample["image"][0].numpy() > BRIGHT / 2
    assert len(sample["boxes"]) == 3
    for box in np.rint(sample["boxes"].numpy()).astype(int).tolist():
        inside = mask[box[0] : box[3], box[1] : box[4], box[2] : box[5]]
        assert inside.any()
        mask[box[0] : box[3], box[1] : box[4], box[2] : box[5]] = False
    assert not mask.any()


def test_boxes_of_images_without_geometry_follow_size_and_fit(folder: Path) -> None:
    write_series(
        folder, modality="DX", shape=(1, 40, 48), stored=bright((6, 40, 48))[1:2], bits_stored=16
    )
    index = index_of(folder)
    (stack,) = index.stacks
    _, x, y, width, height = RECTANGLES[0]
    table = {"SOPInstanceUID": [stack.value("sop_instance_uid")], "x": [x], "y": [y]}
    table |= {"width": [width], "height": [height], "kind": ["mass"]}
    index = index.join(table, on="SOPInstanceUID")
    for fit in ("stretch", "pad", "crop"):
        frames = FrameDataset(index, "modality", boxes=BOXES, size=(64, 60), fit=fit)
        assert check(frames[0], 0.51) == 1
    volume = VolumeDataset(
        index, "modality", boxes=BOXES, size=(1, 20, 24), irregular="accept", points=POINTS
    )[0]
    assert check(volume, 0.51) == 1 and torch.isnan(volume["points_mm"]).all()
    assert check(VolumeDataset(index, "modality", boxes=BOXES, irregular="accept")[0]) == 1
    patches = PatchDataset(
        index, (1, 20, 20), sampler="grid", boxes=BOXES, irregular="accept", intensity="modality"
    )
    assert sum(check(patches[row]) for row in range(len(patches))) >= 2


def test_points_are_the_pixels_of_the_table_and_their_mm_those_of_the_grid(index: Index) -> None:
    (stack,) = index.stacks
    for row, (z, x, y, *_) in zip((1, 3, 4), RECTANGLES, strict=True):
        sample = FrameDataset(index, "modality", points=POINTS, boxes=BOXES)[row]
        assert sample["points"].tolist() == [[x, y]]
        assert sample["boxes"][0, :2].tolist() == [x, y]
        wanted = stack.geometry.voxel_to_world((z, y - 0.5, x - 0.5))
        assert np.allclose(sample["points_mm"].numpy(), wanted)
    volume = VolumeDataset(
        index, "modality", points=POINTS, orientation="RAS", spacing=(0.75, 1, 4)
    )[0]
    mm = (
        volume["points"].numpy() @ volume["affine"].numpy()[:3, :3].T
        + volume["affine"].numpy()[:3, 3]
    )
    assert np.allclose(mm, volume["points_mm"].numpy(), atol=1e-4)
    wanted = [stack.geometry.voxel_to_world((z, y - 0.5, x - 0.5)) for z, x, y, *_ in RECTANGLES]
    # The point at the corner (0, 0) lies half a pixel beyond the centres, on the border.
    assert np.allclose(sorted(volume["points_mm"].tolist()), sorted(np.array(wanted).tolist()))
    assert volume["point_labels"].tolist() == [1, 0, 1] and volume["points_dropped"] == 0


def test_points_in_mm_reach_every_stack_of_their_series(index: Index) -> None:
    (stack,) = index.stacks
    places = [
        stack.geometry.voxel_to_world(place) for place in ((1, 4, 7), (3, 12, 20), (50, 1, 1))
    ]
    table = {
        "seriesuid": [stack.series_instance_uid] * 3,
        **{name: [place[axis] for place in places] for axis, name in enumerate(("cx", "cy", "cz"))},
    }
    index = index.join(table, on={"SeriesInstanceUID": "seriesuid"}, lists=True)
    world = Points("cx", "cy", "cz")
    volume = VolumeDataset(index, "modality", points=world)[0]
    assert np.allclose(volume["points"].numpy(), [[1, 4, 7], [3, 12, 20]], atol=1e-4)
    assert np.allclose(volume["points_mm"].numpy(), places[:2]) and volume["points_dropped"] == 1
    frames = FrameDataset(index, "modality", points=world)
    assert [len(frames[row]["points"]) for row in range(6)] == [0, 1, 0, 1, 0, 0]
    assert np.allclose(frames[1]["points"].numpy(), [[7.5, 4.5]], atol=1e-4)
    patch = PatchDataset(
        index,
        (3, 5, 7),
        sampler=Centers.from_table(
            {
                "seriesuid": table["seriesuid"],
                "coordX": table["cx"],
                "coordY": table["cy"],
                "coordZ": table["cz"],
            }
        ),
        points=world,
        intensity="modality",
    )[0]
    assert np.allclose(patch["points"].numpy(), [[1, 2, 3]], atol=1e-4)
    coronal = FrameDataset(index, "modality", points=world, plane="coronal")
    assert sum(len(coronal[row]["points"]) for row in range(len(coronal))) == 2


def test_labels_are_numbers_of_the_sorted_classes(index: Index) -> None:
    frames = FrameDataset(index, "modality", boxes=BOXES, points=POINTS)
    assert frames.box_classes == frames.point_classes == ("calc", "mass")
    assert [frames[row]["box_labels"].tolist() for row in (1, 3, 4)] == [[1], [0], [1]]
    part = FrameDataset(index.of_frames([3]), "modality", boxes=BOXES)
    assert part.box_classes == ("calc", "mass") and part[0]["box_labels"].tolist() == [0]


@pytest.mark.slow
@pytest.mark.parametrize("method", [None, "fork", "spawn"])
def test_samples_are_the_same_in_workers_and_batches_hold_lists(
    unmarked: Index, method: str | None
) -> None:
    # Joined here: a started process looks for the join in the cache folder of this test.
    patches = PatchDataset(
        joined(unmarked),
        (2, 20, 20),
        sampler="grid",
        boxes=BOXES,
        points=POINTS,
        intensity="modality",
    )
    assert len(pickle.dumps(patches)) < 20_000
    # An interpreter takes seconds to start.
    workers = {None: 0, "fork": 2, "spawn": 1}[method]
    for collate in (None, dicomdl.collate):
        loader = DataLoader(
            patches,
            batch_size=4,
            num_workers=workers,
            multiprocessing_context=method,
            collate_fn=collate,
        )
        row = 0
        for batch in loader:
            assert isinstance(batch["boxes"], list)
            for boxes, labels in zip(batch["boxes"], batch["box_labels"], strict=True):
                assert torch.equal(boxes, patches[row]["boxes"])
                assert torch.equal(labels, patches[row]["box_labels"])
                row += 1
        assert row == len(patches)


def test_bags_have_a_list_of_boxes_per_member(index: Index) -> None:
    bag = FrameDataset(index, "modality", boxes=BOXES, by="patient")[0]
    assert [len(boxes) for boxes in bag["boxes"]] == [0, 1, 0, 1, 1, 0]
    batch = dicomdl.collate([bag, bag])
    assert len(batch["boxes"]) == 2 and len(batch["boxes"][0]) == 6


def test_an_image_keeps_xyxy_boxes_and_drops_those_without_extent(index: Index) -> None:
    table = {
        "row": [str(z) for z in range(6)],
        "a": [1, 2, 3, np.nan, 5, 6],
        "b": [1, 2, 3, 4, 5, 6],
        "c": [4, 1, 3, 9, 9, 60],
        "d": [4, 5, 9, 9, 9, 60],
    }
    index = index.join(table, on={"position_in_stack": "row"}, level="frame")
    frames = FrameDataset(index, "modality", boxes=Boxes("a", "b", "c", "d", format="xyxy"))
    found = [(frames[row]["boxes"].tolist(), frames[row]["boxes_dropped"]) for row in range(6)]
    assert found == [
        ([[1, 1, 4, 4]], 0),
        ([], 1),
        ([], 1),
        ([], 0),
        ([[5, 5, 9, 9]], 0),
        ([[6, 6, 48, 40]], 0),
    ]


def test_marks_that_do_not_fit_are_errors(index: Index) -> None:
    (stack,) = index.stacks
    uid = stack.series_instance_uid
    series = index.join({"uid": [uid], "q": [1], "words": ["a"]}, on={"SeriesInstanceUID": "uid"})
    for options, words in (
        ({"boxes": Boxes("x", "y", "width", "heigth")}, "heigth"),
        ({"boxes": Boxes("q", "q", "q", "q")}, "joined by series, and pixels belong to frames"),
        ({"boxes": Boxes("kind", "y", "width", "height")}, "holds texts, expected"),
        ({"boxes": Boxes("x", "q", "width", "height")}, "several joins"),
        ({"boxes": POINTS}, r"expected dicomdl.Boxes\("),
        ({"points": BOXES}, r"expected dicomdl.Points\("),
        ({"points": Points("x", "y", label="width")}, None),
    ):
        if words is None:
            FrameDataset(series, **options)
            continue
        with pytest.raises(UsageError, match=words):
            FrameDataset(series, **options)
    with pytest.raises(UsageError, match="format='yx'"):
        Boxes("x", "y", "w", "h", format="yx")  # type: ignore[arg-type]


def test_frames_of_one_file_have_boxes_of_their_own(folder: Path) -> None:
    write_multiframe(folder / "one.dcm", shape=(6, 40, 48), spacing=(4, 1, 1))
    index = joined(index_of(folder))
    frames = FrameDataset(index, "modality", boxes=BOXES)
    assert [len(frames[row]["boxes"]) for row in range(6)] == [0, 1, 0, 1, 1, 0]
    for row, (_, x, y, width, height) in zip((1, 3, 4), RECTANGLES, strict=True):
        assert frames[row]["boxes"].tolist() == [[x, y, x + width, y + height]]


def test_points_of_a_file_without_their_frame_are_an_error(folder: Path) -> None:
    write_multiframe(folder / "a.dcm", shape=(3, 6, 8))
    index = index_of(folder).join({"k": ["a"], "x": [1], "y": [2]}, {"stem": "k"}, level="frame")
    with pytest.raises(UsageError, match="joined with several frames of one file: join by its"):
        FrameDataset(index, "modality", points=Points("x", "y"))
