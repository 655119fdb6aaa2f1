"""Figures of volumes: what they show, in mm, with a title, a mask and its legend."""

import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from phantoms import true_affine, true_volume, write_series

import dicomdl
from dicomdl import Geometry, Volume
from dicomdl.errors import GeometryError, UsageError

plt = pytest.importorskip("matplotlib.pyplot")
SHAPE = (8, 10, 12)


@pytest.fixture(autouse=True)
def canvas() -> Iterator[None]:
    plt.switch_backend("agg")
    yield
    plt.close("all")


def volume(dtype: str = "int16", **more: Any) -> Volume:
    array = true_volume(SHAPE).astype(dtype)
    return Volume(array, Geometry(SHAPE, true_affine((4, 2, 1), (-10, 20, 30))), "HU", **more)


def read(folder: Path, **options: Any) -> Volume:
    write_series(folder / "s", shape=SHAPE, **options)
    stack = dicomdl.scan(folder / "s", folder / "index", progress=False).stacks[0]
    return dicomdl.read_volume(stack, irregular="accept")


def titles(figure: Any) -> list[str]:
    return [axes.get_title() for axes in figure.axes]


def size(axes: Any) -> tuple[float, float]:
    """Width and height in mm."""
    return abs(np.diff(axes.get_xlim())[0]), abs(np.diff(axes.get_ylim())[0])


def picture(axes: Any) -> np.ndarray:
    return np.asarray(axes.images[0].get_array())


def test_three_planes_cross_in_the_middle_at_their_true_size() -> None:
    figure = volume().plot((300, 600))
    assert titles(figure) == ["axial slice 4", "coronal row 5", "sagittal column 6"]
    assert [size(axes) for axes in figure.axes] == [(12, 20), (12, 32), (20, 32)]
    assert all(axes.get_aspect() == 1 for axes in figure.axes)
    shown = volume().window((300, 600)).array
    assert np.array_equal(picture(figure.axes[0]), shown[4])
    assert np.array_equal(picture(figure.axes[1]), shown[::-1, 5])
    assert np.array_equal(picture(figure.axes[2]), shown[::-1, :, 6])


@pytest.mark.slow
def test_pyplot_has_the_figure_and_saves_it(tmp_path: Path) -> None:
    figure = volume().plot((300, 600))
    assert plt.gcf() is figure
    plt.savefig(tmp_path / "figure.png")
    assert len(set(plt.imread(tmp_path / "figure.png")[..., 0].reshape(-1).tolist())) > 50


def test_a_notebook_shows_a_figure_once(monkeypatch: pytest.MonkeyPatch) -> None:
    figure: Any = volume().plot((300, 600))
    with pytest.raises(NotImplementedError):
        figure._ipython_display_()
    assert plt.fignum_exists(figure.number)
    monkeypatch.setattr(
        "matplotlib.get_backend", lambda: "module://matplotlib_inline.backend_inline"
    )
    with pytest.raises(NotImplementedError):
        figure._ipython_display_()
    assert not plt.get_fignums()


@pytest.mark.slow
def test_the_title_says_series_window_and_units_and_no_identity(tmp_path: Path) -> None:
    def edit(dataset: pydicom.Dataset, _: int) -> None:
        dataset.SeriesNumber, dataset.SeriesDescription = 7, "Lung $5\\pi$ thin"
        dataset.PatientName, dataset.PatientID = "Doe^Jane", "P-4711"

    figure = read(tmp_path, intercept=-1024, edit=edit).plot("ct.lung")
    title = figure.get_suptitle().replace(r"\$", "$")
    assert title.startswith("series 7, Lung $5") and title.endswith(
        ", CT; window -1350 to 150 HU (ct.lung)"
    )
    figure.canvas.draw()
    everything = " ".join([title, *titles(figure)])
    assert not re.search("Doe|Jane|4711", everything)


@pytest.mark.parametrize(
    ("options", "end"),
    [
        ({}, "window -1024 to 3071 HU"),
        ({"intensity": (40, 400)}, "window -160 to 240 HU"),
        ({"intensity": "modality"}, "HU"),
    ],
)
def test_the_window_is_said_in_numbers(tmp_path: Path, options: dict[str, Any], end: str) -> None:
    assert read(tmp_path, intercept=-1024).plot(**options).get_suptitle().endswith(end)


def test_values_that_no_rule_concerns_are_shown_by_percentiles_or_in_full() -> None:
    assert "window" in volume("float32").plot().get_suptitle()
    labels = volume().like(np.arange(960).reshape(SHAPE) // 940)
    assert labels.plot().get_suptitle() == "derived values; window 0 to 1"
    assert volume().like(np.zeros(SHAPE, bool)).plot().get_suptitle().endswith("window 0 to 1")
    assert "network values" in volume().window((300, 600)).plot().get_suptitle()


def test_a_plane_or_a_montage_can_be_asked_for() -> None:
    assert titles(volume().plot((300, 600), plane="coronal")) == ["coronal row 5"]
    montage = volume().plot((300, 600), plane="sagittal", slices=4)
    assert titles(montage) == [f"sagittal column {n}" for n in (0, 4, 7, 11)]
    assert titles(volume().plot((300, 600), slices=2)) == ["slice 0", "slice 7"]
    with pytest.raises(UsageError, match="slices=0"):
        volume().plot((300, 600), slices=0)
    with pytest.raises(UsageError, match="plane='front'"):
        volume().plot((300, 600), plane="front")  # type: ignore[arg-type]


@pytest.mark.slow
def test_a_list_of_numbers_is_a_montage_of_these_slices() -> None:
    figure = volume().plot((300, 600), slices=[1, 2, -1])
    assert titles(figure) == ["slice 1", "slice 2", "slice 7"]
    shown = volume().window((300, 600)).array
    assert np.array_equal(picture(figure.axes[2]), shown[7])
    numbers: Any = np.array([3])
    coronal = volume().plot((300, 600), plane="coronal", slices=numbers)
    assert titles(coronal) == ["coronal row 3"]
    assert titles(volume().plot((300, 600), slices=range(2))) == ["slice 0", "slice 1"]


@pytest.mark.parametrize(
    "slices", [[], [8], [-9], [1.5], [True], [[1], [2, 3]], 2.5, True, "3", ["1"], {1}]
)
def test_other_numbers_of_slices_are_a_usage_error(slices: Any) -> None:
    with pytest.raises(UsageError, match="slices="):
        volume().plot((300, 600), slices=slices)


def test_a_mask_lies_over_its_voxels_and_has_a_legend() -> None:
    labels = np.zeros(SHAPE, np.int16)
    labels[6, 2:4, 3], labels[6, 8, 9] = 1, 5
    figure = volume().plot((300, 600), labels=labels)
    # The planes go where the mask is.
    assert titles(figure) == ["axial slice 6", "coronal row 2", "sagittal column 3"]
    colours = np.asarray(figure.axes[0].images[1].get_array())
    assert np.array_equal(colours[..., 3] > 0, labels[6] != 0)
    assert not np.array_equal(colours[2, 3], colours[8, 9])
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["label 1", "label 5"]
    named = dataclasses.replace(volume().like(labels), names={5: "Liver"})
    legend = volume().plot((300, 600), labels=named).legends[0]
    assert [text.get_text() for text in legend.get_texts()] == ["label 1", "Liver"]


@pytest.mark.parametrize("kind", ["bool", "uint8", "volume", "float"])
def test_a_mask_may_be_bool_labels_or_a_volume(kind: str) -> None:
    mask: Any = np.arange(960).reshape(SHAPE) > 900
    if kind == "volume":
        mask = volume().like(mask)
    elif kind != "bool":
        mask = mask.astype(kind)
    texts = volume().plot((300, 600), labels=mask).legends[0].get_texts()
    assert [text.get_text() for text in texts] == [
        "mask" if kind in ("bool", "volume") else "label 1"
    ]


def test_masks_that_overlap_lie_over_each_other_with_a_legend() -> None:
    masks = np.zeros((3, *SHAPE), bool)
    masks[0, 6, 2:5, 3:6] = masks[2, 6, 3, 4] = True
    labels = dataclasses.replace(
        volume().like(masks[0]),
        array=masks,
        dimension=("Brain", "Eye", "GTV"),
        dimension_names=("label",),
    )
    figure = volume().plot((300, 600), labels=labels)
    assert titles(figure)[0] == "axial slice 6"
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["Brain", "GTV"]
    colours = np.asarray(figure.axes[0].images[1].get_array())
    assert np.array_equal(colours[..., 3] > 0, masks[0, 6])
    # Two masks hide more of the image than one.
    assert colours[3, 4, 3] > colours[2, 3, 3] and not np.allclose(colours[3, 4], colours[2, 3])


@pytest.mark.slow
def test_a_legend_stays_within_a_narrow_figure() -> None:
    labels = np.arange(960).reshape(SHAPE) % 7
    names = {number: f"A segment with a long name, number {number}" * 3 for number in range(1, 7)}
    named = dataclasses.replace(volume().like(labels), names=names)
    figure = volume().plot((300, 600), labels=named, plane="sagittal")
    figure.canvas.draw()
    box = figure.legends[0].get_window_extent()
    assert box.x0 >= 0 and box.x1 <= figure.bbox.x1
    assert max(len(text.get_text()) for text in figure.legends[0].get_texts()) <= 48


def test_many_labels_are_counted_and_an_empty_mask_has_no_legend() -> None:
    figure = volume().plot((300, 600), labels=np.arange(960).reshape(SHAPE) % 31)
    assert figure.legends[0].get_texts()[-1].get_text() == "and 18 more"
    for dtype in ("uint8", "bool"):
        assert not volume().plot((300, 600), labels=np.zeros(SHAPE, dtype)).legends


def test_a_mask_of_another_grid_is_refused_before_a_figure_opens() -> None:
    with pytest.raises(GeometryError):
        volume().plot((300, 600), labels=np.zeros((1, 2, 3), bool))
    assert not plt.get_fignums()


@pytest.mark.slow
def test_a_tilted_volume_is_drawn_with_its_shear(tmp_path: Path) -> None:
    tilted = read(tmp_path, shear=(0, 0.5), spacing=(4, 2, 1))
    figure = tilted.plot()
    assert tilted.verdict == "tilted" and "tilted" not in figure.get_suptitle()
    assert size(figure.axes[0]) == pytest.approx((12, 20))
    width, height = size(figure.axes[2])
    assert width == pytest.approx(20 + 8 * 4 * 0.5) or width > 21
    assert height == pytest.approx(32)


def test_slices_without_geometry_are_a_montage_and_colour_stays(tmp_path: Path) -> None:
    unknown = Geometry((3, 10, 12), np.full((4, 4), np.nan))
    colour = (true_volume((3, 10, 12))[..., None] % np.array([256, 100, 7])).astype(np.uint8)
    figure = Volume(colour, unknown).plot()
    assert titles(figure) == ["slice 0", "slice 1", "slice 2"]
    assert np.allclose(picture(figure.axes[0]), colour[0] / 255, atol=1e-6)
    with pytest.raises(GeometryError, match="orientation"):
        Volume(colour, unknown).plot(plane="axial")


def test_a_single_slice_is_one_picture(tmp_path: Path) -> None:
    write_series(tmp_path / "s", shape=(1, 10, 12), spacing=(4, 2, 1))
    stack = dicomdl.scan(tmp_path / "s", tmp_path / "index", progress=False).stacks[0]
    figure = stack.plot()
    assert titles(figure) == ["axial slice 0"] and size(figure.axes[0]) == (12, 20)


def test_padding_is_black(tmp_path: Path) -> None:
    padded = volume(padding=true_volume(SHAPE) > 200)
    axes = padded.plot((0, 100), plane="axial").axes[0]
    assert (picture(axes)[true_volume(SHAPE)[4] > 200] == 0).all()


def test_a_group_is_shown_at_its_middle_time_point() -> None:
    array = np.stack([true_volume(SHAPE) + 1000 * t for t in range(5)])
    group = Volume(
        array, volume().geometry, dimension=(1, 2, 3, 4, 5), dimension_names=("echo_time",)
    )
    figure = group.plot((2500, 1000))
    assert titles(figure) == ["t 2, axial slice 4", "t 2, coronal row 5", "t 2, sagittal column 6"]
    assert np.array_equal(picture(figure.axes[0]), group.window((2500, 1000)).array[2, 4])
    figure = group.plot((2500, 1000), plane="coronal", slices=2)
    assert titles(figure) == ["t 0, coronal row 5", "t 4, coronal row 5"]
    assert titles(group.plot((2500, 1000), slices=[0, 7])) == ["t 2, slice 0", "t 2, slice 7"]
