"""`plot` of stacks, groups and indexes."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from phantoms import write_series
from phantoms_labels import write_seg

import dicomdl
from dicomdl.errors import UsageError

plt = pytest.importorskip("matplotlib.pyplot")


@pytest.fixture(autouse=True)
def canvas() -> Iterator[None]:
    plt.switch_backend("agg")
    yield
    plt.close("all")


def index_of(folder: Path, count: int = 3) -> dicomdl.Index:
    for number in range(count):
        write_series(
            folder / "data" / str(number),
            shape=(5, 8, 6 + number),
            series_uid=f"2.25.{number + 1}",
            edit=lambda dataset, _: setattr(dataset, "SeriesDescription", "Head $x$"),
        )
    return dicomdl.scan(folder / "data", folder / "index", progress=False)


def test_a_stack_shows_its_planes_and_an_irregular_one_its_verdict(tmp_path: Path) -> None:
    write_series(tmp_path / "s", shape=(8, 9, 10), drop=[3])
    stack = dicomdl.scan(tmp_path / "s", tmp_path / "index", progress=False).stacks[0]
    figure = stack.plot("ct.bone", plane="axial")
    assert plt.gcf() is figure and "missing slices" in figure.get_suptitle()
    assert figure.axes[0].get_title() == "axial slice 3"
    assert len(stack.group.plot().axes) == 3


@pytest.mark.slow
def test_an_index_is_a_contact_sheet_with_captions(tmp_path: Path) -> None:
    index = index_of(tmp_path)
    figure = index.plot()
    captions = [axes.get_title() for axes in figure.axes]
    assert captions[0].splitlines() == [
        "0: CT 5 x 8 x 6",
        r"Head \$x\$",
        "2 x 1 x 1 mm, regular",
    ]
    assert len(captions) == 3 and figure.get_suptitle() == "3 pictures of 3 stacks"
    assert plt.gcf() is figure
    figure.canvas.draw()


def test_a_contact_sheet_is_limited_and_takes_a_selection(tmp_path: Path) -> None:
    index = index_of(tmp_path, 4)
    assert index.plot(count=2).get_suptitle() == "2 pictures of 4 stacks"
    assert index.stacks[:1].plot("ct.lung").get_suptitle() == "1 picture of 1 stack"
    with pytest.raises(UsageError, match="no complete stack"):
        index.select(modality="MR").plot()
    for count in (0, [1, 2], "3"):
        with pytest.raises(UsageError, match="count="):
            index.plot(count=count)


def test_a_group_is_one_picture_of_a_contact_sheet(tmp_path: Path) -> None:
    for echo in (1, 2, 3):
        write_series(
            tmp_path / "s",
            shape=(4, 6, 7),
            modality="MR",
            series_uid="2.25.9",
            seed=echo,
            edit=lambda dataset, _, echo=echo: setattr(dataset, "EchoTime", echo),
        )
    index = dicomdl.scan(tmp_path / "s", tmp_path / "index", progress=False)
    figure = index.plot()
    if len(index.groups) == 1:
        assert figure.get_suptitle() == "1 picture of 3 stacks in 1 group"
        assert "3 in group" in figure.axes[0].get_title()


def test_a_damaged_file_does_not_hide_the_others(tmp_path: Path) -> None:
    index = index_of(tmp_path)
    for path in (tmp_path / "data" / "1").iterdir():
        path.write_bytes(path.read_bytes()[:-50])
    figure = index.plot()
    texts = [text.get_text() for axes in figure.axes for text in axes.texts]
    assert len(texts) == 1 and texts[0] in ("FileChanged", "TruncatedPixels")


def with_labels(folder: Path, numbers: dict[int, str]) -> dicomdl.Index:
    """Index two CT; the second one has a SEG of one voxel per segment in its slice 1."""
    for name in "ab":
        images = write_series(folder / "s" / name, shape=(4, 6, 7), series_uid=f"2.25.{ord(name)}")
    masks = [np.zeros((6, 7), np.uint8) for _ in numbers]
    for column, mask in enumerate(masks):
        mask[2, column] = 1
    frames = [(n, (0.0, 0.0, 2.0), mask) for n, mask in zip(numbers, masks, strict=True)]
    write_seg(folder / "s" / "seg.dcm", images[0], frames, segments=numbers)
    return dicomdl.scan(folder / "s", folder / "index", progress=False)


def legend(figure: Any) -> list[str]:
    return [text.get_text() for each in figure.legends for text in each.get_texts()]


@pytest.mark.slow
def test_labels_of_a_source_are_read_for_the_stack_and_follow_its_grid(tmp_path: Path) -> None:
    index = with_labels(tmp_path, {1: "Liver", 2: "Kidney"})
    (stack,) = index.select(has="SEG").stacks
    source = dicomdl.LabelSource("SEG", segments=["kid.*"])
    for labels, names in (("SEG", ["Liver", "Kidney"]), (source, ["Kidney"])):
        figure = stack.plot((0, 900), labels=labels)
        assert figure.axes[0].get_title() == "axial slice 1" and legend(figure) == names
    finer = dicomdl.read_volume(stack).resample((1, 1, 1))
    figure = finer.plot((0, 900), labels=lambda stack: np.ones(stack.shape, np.uint8))
    assert legend(figure) == ["label 1"]
    with pytest.raises(UsageError, match="this volume has none"):
        dicomdl.Volume(finer.array, finer.geometry).plot((0, 900), labels="SEG")


def test_a_contact_sheet_shows_labels_in_common_colours_or_says_that_there_are_none(
    tmp_path: Path,
) -> None:
    index = with_labels(tmp_path, {1: "Liver", 2: "Kidney"})
    figure = index.select(content="image").plot((0, 900), labels="SEG")
    assert legend(figure) == ["Liver", "Kidney"]
    remarks = {text.get_text() for axes in figure.axes for text in axes.texts}
    assert remarks == {"no labels"}
    with_seg = [axes for axes in figure.axes if len(axes.images) == 2]
    assert len(with_seg) == 1
    colours = np.asarray(with_seg[0].images[1].get_array())
    assert np.argwhere(colours[..., 3] > 0).tolist() == [[2, 0], [2, 1]]
    with pytest.raises(UsageError, match="RTDOSE"):
        index.plot(labels=dicomdl.LabelSource("RTDOSE"))


def test_what_has_no_picture_is_refused() -> None:
    with pytest.raises(UsageError, match="not str"):
        dicomdl.plot("folder")
