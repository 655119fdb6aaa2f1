"""plot_batch: one picture per sample, with labels, boxes, points and target."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
matplotlib = pytest.importorskip("matplotlib")
matplotlib.use("agg")

from conftest import index_of  # noqa: E402
from phantoms import write_series  # noqa: E402

import dicomdl  # noqa: E402
from dicomdl.errors import UsageError  # noqa: E402


@pytest.fixture(autouse=True)
def _closed() -> Any:
    yield
    matplotlib.pyplot.close("all")


def picture(axes: Any) -> np.ndarray:
    return np.asarray(axes.get_images()[0].get_array())


@pytest.mark.slow
def test_frames_of_a_loader_are_shown_with_their_values_and_targets() -> None:
    image = torch.arange(2 * 4 * 5).reshape(2, 1, 4, 5).float()
    figure = dicomdl.plot_batch({"image": image, "target": torch.tensor([[0.5], [2.0]])})
    assert [np.array_equal(picture(a), image[n, 0]) for n, a in enumerate(figure.axes)] == [1, 1]
    assert [axes.get_title() for axes in figure.axes] == ["target 0.5", "target 2"]
    assert figure.axes[1].get_images()[0].get_clim() == (20, 39)


def test_values_from_0_to_1_are_black_to_white() -> None:
    figure = dicomdl.plot_batch({"image": torch.full((1, 1, 4, 5), 0.25)})
    assert figure.axes[0].get_images()[0].get_clim() == (0, 1)


def test_three_channels_of_a_frame_are_colour() -> None:
    figure = dicomdl.plot_batch({"image": torch.rand(1, 3, 4, 5)})
    assert picture(figure.axes[0]).shape == (4, 5, 3)


@pytest.mark.parametrize("shape", [(1, 6, 8, 8), (1, 1, 6, 8, 8)])
def test_a_volume_shows_the_slice_with_the_most_labels_and_their_outlines(shape: Any) -> None:
    image, label = torch.rand(1, 1, 6, 8, 8), torch.zeros(shape, dtype=torch.uint8)
    label[0, ..., 4, 2:6, 2:6] = 1
    label[0, ..., 1, 2:4, 2:4] = 2
    figure = dicomdl.plot_batch({"image": image, "label": label})
    axes = figure.axes[0]
    assert axes.get_title() == "slice 4 of 6"
    assert np.array_equal(picture(axes), image[0, 0, 4])
    assert len(axes.collections) == 1


def test_masks_as_channels_have_an_outline_each() -> None:
    masks = torch.zeros(1, 2, 8, 8, dtype=torch.bool)
    masks[0, 0, 2:6, 2:6] = masks[0, 1, 1:4, 1:4] = True
    figure = dicomdl.plot_batch({"image": torch.rand(1, 1, 8, 8), "label": masks})
    assert len(figure.axes[0].collections) == 2


def test_boxes_and_points_are_drawn_where_they_are() -> None:
    batch = {
        "image": torch.rand(2, 1, 8, 8),
        "boxes": [torch.tensor([[1.0, 2, 5, 7]]), torch.zeros(0, 4)],
        "points": [torch.zeros(0, 2), torch.tensor([[3.5, 4.5]])],
    }
    first, second = dicomdl.plot_batch(batch).axes
    assert sorted(set(first.lines[0].get_xdata())) == [0.5, 4.5]
    assert sorted(set(first.lines[0].get_ydata())) == [1.5, 6.5]
    assert second.lines[0].get_xydata().tolist() == [[3, 4]]


def test_a_volume_without_labels_shows_a_slice_of_its_first_box() -> None:
    batch = {"image": torch.rand(1, 1, 9, 8, 8), "boxes": [torch.tensor([[6.0, 1, 2, 8, 5, 6]])]}
    axes = dicomdl.plot_batch(batch).axes[0]
    assert axes.get_title() in ("slice 6 of 9", "slice 7 of 9")
    assert sorted(set(axes.lines[0].get_xdata())) == [1.5, 5.5]


def test_at_most_count_samples_are_shown() -> None:
    assert len(dicomdl.plot_batch({"image": torch.rand(9, 1, 4, 4)}, count=5).axes) == 5


def test_images_of_several_sizes_in_a_list_are_shown() -> None:
    batch = {"image": [torch.rand(1, 4, 5), torch.rand(1, 6, 7)]}
    assert [picture(axes).shape for axes in dicomdl.plot_batch(batch).axes] == [(4, 5), (6, 7)]


def test_a_dataset_shows_its_own_samples_after_the_transform(folder: Path) -> None:
    write_series(folder, shape=(6, 5, 7))

    def doubled(sample: Any) -> Any:
        sample["image"] = sample["image"] * 2
        return sample

    dataset = dicomdl.FrameDataset(index_of(folder), "modality", transform=doubled)
    figure = dataset.plot_batch(count=3)
    for axes, row in zip(figure.axes, (0, 2, 5), strict=True):
        assert np.array_equal(picture(axes), dataset[row]["image"][0])


@pytest.mark.slow
def test_patches_with_labels_of_the_demo_are_shown(tmp_path: Path) -> None:
    dicomdl.demo_data(tmp_path / "demo", patients=1)
    index = dicomdl.scan(tmp_path / "demo", tmp_path / "index", progress=False)
    heads = index.select(modality="CT", verdict="regular", has="SEG")
    patches = dicomdl.PatchDataset(
        heads, (16, 32, 32), per_stack=4, labels="SEG", sampler="balanced"
    )
    figure = patches.plot_batch(4)
    assert len(figure.axes) == 4 and any(axes.collections for axes in figure.axes)


@pytest.mark.parametrize(
    "what",
    [{}, {"label": 1}, "batch", {"image": torch.rand(2, 4)}, {"image": torch.rand(0, 1, 4, 4)}],
)
def test_what_is_no_batch_of_images_is_an_error(what: Any) -> None:
    with pytest.raises(UsageError, match="plot_batch takes"):
        dicomdl.plot_batch(what)


def test_a_channel_or_a_count_that_does_not_exist_is_an_error() -> None:
    batch = {"image": torch.rand(1, 2, 4, 4)}
    with pytest.raises(UsageError, match="channel is 2"):
        dicomdl.plot_batch(batch, channel=2)
    with pytest.raises(UsageError, match="count is 0"):
        dicomdl.plot_batch(batch, count=0)
