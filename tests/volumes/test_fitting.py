"""Predictions and masks on the grid of a volume."""

from pathlib import Path

import numpy as np
import pytest
from phantoms import true_affine, true_volume, write_series

import dicomdl
from dicomdl import Geometry, Volume
from dicomdl.errors import GeometryError, UsageError
from dicomdl.volumes.fitting import mask_on

SHAPE = (4, 5, 6)
AFFINE = true_affine((3, 2, 1), (7, 8, 9))


def volume(times: int = 0) -> Volume:
    array = true_volume(SHAPE).astype(np.int16)
    if times:
        names = ("echo_time",)
        series = np.stack([array] * times)
        return Volume(
            series,
            Geometry(SHAPE, AFFINE),
            "HU",
            dimension=tuple(range(times)),
            dimension_names=names,
        )
    return Volume(array, Geometry(SHAPE, AFFINE), "HU")


@pytest.mark.parametrize(
    "array",
    [
        np.ones(SHAPE, bool),
        np.ones(SHAPE, np.int64),
        np.ones((*SHAPE, 3), np.float32),
        volume(),
    ],
)
def test_a_prediction_lies_on_the_grid_of_its_volume(array: object) -> None:
    like = volume().like(array, units="mm")
    assert like.geometry == volume().geometry and like.units == "mm" and like.shape[:3] == SHAPE
    assert like.quantity == "derived" and like.padding is None


def test_a_tensor_is_a_prediction_whatever_it_is_attached_to() -> None:
    torch = pytest.importorskip("torch")
    assert volume().like(torch.ones(SHAPE, requires_grad=True)).dtype == np.float32
    assert volume().like(torch.ones(SHAPE, dtype=torch.bfloat16)).dtype == np.float32


@pytest.mark.parametrize(
    ("array", "remedy"),
    [
        (np.ones((1, *SHAPE)), r"pass array\[0\]"),
        (np.ones((1, 1, *SHAPE)), r"pass array\[0, 0\]"),
        (np.ones((2, *SHAPE)), "channels come last"),
        (np.ones(SHAPE[::-1]), r"\(6, 5, 4\), the grid is \(4, 5, 6\)$"),
        (np.ones(SHAPE[1:]), "the grid is"),
    ],
)
def test_another_shape_is_an_error_with_its_remedy(array: np.ndarray, remedy: str) -> None:
    with pytest.raises(GeometryError, match=remedy):
        volume().like(array)


def test_a_volume_on_another_grid_is_no_prediction() -> None:
    moved = AFFINE.copy()
    moved[2, 3] += 1
    with pytest.raises(GeometryError, match="1 mm beside"):
        volume().like(Volume(np.ones(SHAPE), Geometry(SHAPE, moved)))


def test_words_are_no_prediction() -> None:
    with pytest.raises(UsageError, match="expected an array of numbers, found list"):
        volume().like(["a"])


def test_a_prediction_of_a_group_has_time_points_or_none() -> None:
    group = volume(times=3)
    assert group.like(np.ones((3, *SHAPE))).dimension == (0, 1, 2)
    assert group.like(np.ones(SHAPE)).dimension == ()
    with pytest.raises(GeometryError, match=r"\(3, 4, 5, 6\) or \(4, 5, 6\)"):
        group.like(np.ones((2, *SHAPE)))


def test_the_rules_of_a_file_do_not_apply_to_a_prediction(tmp_path: Path) -> None:
    write_series(tmp_path / "s", intercept=-1024)
    stack = dicomdl.scan(tmp_path / "s", tmp_path / "index", progress=False).stacks[0]
    like = dicomdl.read_volume(stack).like(np.linspace(0, 1, 210).reshape(6, 5, 7))
    assert like.stack == stack and like.series_instance_uid == stack.series_instance_uid
    with pytest.raises(UsageError):
        like.window("auto")
    with pytest.raises(UsageError):
        like.suv()
    halved = like.window((0.5, 1)).array
    assert np.allclose(halved, like.array) and like.window(dicomdl.Percentile(0, 100)).units == "1"
    assert np.allclose(like.window("modality").array, like.array)


def test_a_mask_is_bool_or_labels_and_whole_floats_are_labels() -> None:
    assert mask_on(volume(), np.ones(SHAPE, bool)).dtype == bool
    assert mask_on(volume(), np.full(SHAPE, 2.0)).dtype == np.int64
    with pytest.raises(UsageError, match=r"mask > 0\.5"):
        mask_on(volume(), np.full(SHAPE, 0.3))
    with pytest.raises(GeometryError, match="one label per voxel"):
        mask_on(volume(), np.ones((*SHAPE, 2), int))


def test_a_mask_on_another_grid_is_refused_with_the_distance() -> None:
    moved = AFFINE.copy()
    moved[0, 3] += 0.5
    mask = Volume(np.ones(SHAPE, bool), Geometry(SHAPE, moved))
    with pytest.raises(GeometryError, match=r"up to 0.5 mm beside that of the volume.*resample_to"):
        mask_on(volume(), mask)
    rounded = AFFINE.copy()
    rounded[0, 3] += 1e-4
    assert mask_on(volume(), Volume(np.ones(SHAPE, bool), Geometry(SHAPE, rounded))).all()
    other = Volume(np.ones((4, 5, 7), bool), Geometry((4, 5, 7), AFFINE))
    with pytest.raises(GeometryError, match="resample_to"):
        mask_on(volume(), other)
