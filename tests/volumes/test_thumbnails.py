"""Small pictures of stacks: proportions, sides, gaps, labels, and slices that are not read."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from phantoms import write_series
from pydicom.dataset import Dataset
from pydicom.uid import JPEG2000Lossless

import dicomdl
from dicomdl.errors import PixelError
from dicomdl.volumes import thumbnails
from dicomdl.volumes.thumbnails import Thumbnail, ThumbnailOptions, label_colour, thumbnail

SHAPE = (20, 24, 48)


def stack_of(folder: Path, **options: Any) -> dicomdl.Stack:
    write_series(folder, **options)
    index = dicomdl.scan(folder, folder.with_name(f"{folder.name}.index"), progress=False)
    return index.stacks[0]


def windowed(dataset: Dataset, z: int) -> None:
    dataset.WindowCenter, dataset.WindowWidth = 500, 1000
    dataset.RescaleType = "HU"


def box_of(plane: NDArray[Any]) -> tuple[int, int, int, int]:
    """Return the first and the last row and column that are not black."""
    rows, columns = np.flatnonzero(plane.any(axis=1)), np.flatnonzero(plane.any(axis=0))
    return int(rows[0]), int(rows[-1]), int(columns[0]), int(columns[-1])


def drawn(stack: dicomdl.Stack, side: int = 60, **options: Any) -> Thumbnail:
    return thumbnail(stack, ThumbnailOptions(side, **options))


def test_planes_have_the_proportions_of_the_patient(tmp_path: Path) -> None:
    # 20 slices of 3 mm, 24 rows of 2 mm and 48 columns of 1 mm: 60 x 48 x 48 mm
    stored = np.full(SHAPE, 1000)
    stack = stack_of(tmp_path / "in", shape=SHAPE, spacing=(3, 2, 1), stored=stored, edit=windowed)
    made = drawn(stack)
    assert made.names == ("axial", "coronal", "sagittal")
    sizes = [(b - a + 1, d - c + 1) for a, b, c, d in map(box_of, made.planes)]
    assert sizes == [(60, 60), (60, 48), (60, 48)]


def test_left_is_on_the_right_and_the_head_is_up(tmp_path: Path) -> None:
    stored = np.zeros(SHAPE, np.int64)
    # to the Left, Anterior and Superior of the middle, which the planes go through
    stored[10:, :13, 24:] = 1000
    stack = stack_of(tmp_path / "in", shape=SHAPE, spacing=(2, 2, 1), stored=stored, edit=windowed)
    axial, coronal, sagittal = drawn(stack).planes
    assert axial[12, 40] == coronal[15, 40] == sagittal[15, 12] == 255
    for plane, (row, column) in (
        (axial, (12, 10)),
        (axial, (45, 40)),
        (coronal, (15, 10)),
        (coronal, (45, 40)),
        (sagittal, (15, 48)),
        (sagittal, (45, 12)),
    ):
        assert plane[row, column] == 0


def test_a_gap_between_slices_stays_black(tmp_path: Path) -> None:
    stored = np.full(SHAPE, 1000)
    stack = stack_of(
        tmp_path / "in", shape=SHAPE, spacing=(3, 2, 1), stored=stored, drop=(8, 9), edit=windowed
    )
    _, coronal, _ = drawn(stack).planes
    middle = coronal[:, 30] > 0
    # slices from Inferior, 3 mm each, at 1 mm per pixel; the slices beside the gap are thicker
    assert middle[:28].all() and middle[40:].all()
    assert not middle[31:35].any()


@pytest.mark.slow
def test_slices_that_are_not_read_are_no_gap(tmp_path: Path) -> None:
    stored = np.full((72, 8, 8), 1000)
    stack = stack_of(tmp_path / "in", shape=(72, 8, 8), stored=stored, edit=windowed)
    assert all(plane[:, 30].all() for plane in drawn(stack).planes[1:])


def test_planes_go_through_the_most_of_the_labels(tmp_path: Path) -> None:
    stack = stack_of(tmp_path / "in", shape=SHAPE, spacing=(3, 2, 1), edit=windowed)
    marks = np.zeros(SHAPE, np.uint8)
    marks[4, 6, 10] = 2
    made = thumbnail(stack, ThumbnailOptions(60), marks)
    assert made.marks is not None
    assert [set(np.unique(plane).tolist()) for plane in made.marks] == [{0, 2}] * 3
    rows, columns = np.nonzero(made.marks[0])
    # row 6 of 24 and column 10 of 48, of 48 x 48 mm in 60 pixels
    assert abs(rows.mean() - (6.5 / 24 * 60 - 0.5)) < 1
    assert abs(columns.mean() - (10.5 / 48 * 60 - 0.5)) < 1


def test_a_long_stack_is_read_in_a_few_slices(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stack = stack_of(tmp_path / "in", shape=(40, 8, 8), edit=windowed)
    asked = []
    real = thumbnails.read_converted

    def counted(sources: Any, *rest: Any, **options: Any) -> Any:
        asked.extend(sources)
        return real(sources, *rest, **options)

    monkeypatch.setattr(thumbnails, "read_converted", counted)
    assert len(drawn(stack, slices=9).names) == 3
    assert len(asked) == 9
    asked.clear()
    assert drawn(stack, slices=4).names == ("axial",)
    assert len(asked) == 1


def test_compressed_slices_are_decoded_at_a_lower_resolution(tmp_path: Path) -> None:
    ramp = np.broadcast_to(np.linspace(0, 1000, 64), (10, 64, 64)).astype(np.int64)
    plain = stack_of(tmp_path / "plain", shape=(10, 64, 64), stored=ramp, edit=windowed)
    coded = stack_of(
        tmp_path / "coded",
        shape=(10, 64, 64),
        stored=ramp,
        transfer_syntax=JPEG2000Lossless,
        edit=windowed,
    )
    one = drawn(plain, 32).planes.astype(int)
    two = drawn(coded, 32, reduce=1).planes.astype(int)
    # Filters of the codec reach across the edge; inside they agree.
    assert np.abs(one - two)[:, 4:-4, 4:-4].max() <= 4


def test_a_strip_has_slices_along_the_stack(tmp_path: Path) -> None:
    stored = np.broadcast_to(np.arange(10)[:, None, None] * 100, (10, 8, 8))
    stack = stack_of(tmp_path / "in", shape=(10, 8, 8), stored=stored, edit=windowed)
    made = drawn(stack, strip=4, strip_side=16)
    assert made.numbers == (0, 3, 6, 9)
    assert made.strip is not None and made.strip.shape == (4, 16, 16)
    wanted = [number * 100 / 1000 * 255 for number in made.numbers]
    assert np.allclose(made.strip[:, 8, 8], wanted, atol=1)


def test_values_are_sampled_without_padding(tmp_path: Path) -> None:
    stored = np.full((4, 8, 8), 7)
    stored[:, :4] = 4000

    def padded(dataset: Dataset, z: int) -> None:
        windowed(dataset, z)
        dataset.PixelPaddingValue = 4000

    stack = stack_of(tmp_path / "in", shape=(4, 8, 8), stored=stored, edit=padded)
    made = drawn(stack, 16)
    assert made.percentiles == (7.0, 7.0, 7.0)
    assert (made.units, made.window) == ("HU", (0.0, 999.0))
    assert not made.planes[0, :7].any() and made.planes[0, 9:].any()


def test_a_stack_without_geometry_has_the_plane_of_its_slices(tmp_path: Path) -> None:
    def unplaced(dataset: Dataset, z: int) -> None:
        windowed(dataset, z)
        del dataset.ImagePositionPatient

    stack = stack_of(tmp_path / "in", shape=(3, 8, 8), edit=unplaced)
    made = drawn(stack, 16)
    assert len(made.names) == 1 and made.planes.shape == (1, 16, 16)


def test_slices_that_are_gone_raise(tmp_path: Path) -> None:
    paths = write_series(tmp_path / "in", shape=(4, 8, 8))
    index = dicomdl.scan(tmp_path / "in", tmp_path / "index", progress=False)
    for path in paths:
        path.unlink()
    with pytest.raises(PixelError):
        drawn(index.stacks[0])


def test_labels_have_the_colours_of_figures() -> None:
    assert label_colour(0) == (214, 94, 0)
    assert label_colour(7) == label_colour(0)
