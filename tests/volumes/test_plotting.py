"""`plot` of stacks, groups and indexes."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from phantoms import write_series

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


def test_what_has_no_picture_is_refused() -> None:
    with pytest.raises(UsageError, match="not str"):
        dicomdl.plot("folder")
