"""Numbers of voxels per slice and label, and the voxels by number."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from dicomdl.arrays import Values, Voxel
from dicomdl.errors import UsageError
from dicomdl.labels import places
from dicomdl.labels.places import Census, ReadBox

SHAPE = (7, 5, 6)


def reader_of(labels: NDArray[Any], boxes: list[Voxel] | None = None) -> ReadBox:
    """Return the function that reads boxes of a label map, and note the sizes of the boxes."""

    def read(start: Voxel, stop: Voxel) -> Values:
        part: Values = labels[tuple(map(slice, start, stop))]
        if boxes is not None:
            boxes.append((part.shape[0], part.shape[1], part.shape[2]))
        return part

    return read


@pytest.mark.parametrize(
    ("dtype", "values"),
    [("u1", (0, 1, 7, 255)), ("u2", (0, 3, 9, 300)), ("i2", (-4, 0, 5, 6)), ("?", (0, 1))],
)
def test_the_voxels_of_a_label_are_all_voxels_of_it_once(dtype: str, values: Any) -> None:
    labels = np.random.default_rng(0).choice(np.array(values, dtype), SHAPE)
    read = reader_of(labels)
    census = Census.of(read, SHAPE)
    found = census.voxels(read, SHAPE)
    assert list(found) == sorted(int(value) for value in np.unique(labels))
    assert census.counts.sum(axis=1).tolist() == [30] * 7
    for label, voxels in found.items():
        expected = np.argwhere(labels == label)
        assert len(voxels) == len(expected)
        assert np.array_equal(list(voxels), expected)
        assert np.array_equal(voxels[-1], expected[-1])
        assert np.array_equal(voxels[1:3], expected[1:3])
        with pytest.raises(IndexError):
            voxels[len(voxels)]


def test_a_census_reads_slabs_and_a_voxel_its_own_slice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "SLAB_BYTES", 2 * 5 * 6)
    labels, boxes = np.ones(SHAPE, np.uint8), list[Voxel]()
    read = reader_of(labels, boxes)
    voxels = Census.of(read, SHAPE).voxels(read, SHAPE)
    assert boxes == [(2, 5, 6)] * 3 + [(1, 5, 6)]
    boxes.clear()
    assert voxels[1][209].tolist() == [6, 4, 5]
    assert boxes == [(1, 5, 6)]


def test_labels_that_change_between_calls_are_an_error() -> None:
    before, after = reader_of(np.ones(SHAPE, np.uint8)), reader_of(np.zeros(SHAPE, np.uint8))
    voxels = Census.of(before, SHAPE).voxels(after, SHAPE)
    with pytest.raises(UsageError, match="must return the same map"):
        voxels[1][3]
