"""Tests of patch samplers and stitching: positions, reproducible draws, and joined patches."""

import itertools
import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dicomdl.datasets.centers import Centers
from dicomdl.datasets.patch_samplers import (
    Balanced,
    Foreground,
    Grid,
    Uniform,
    as_sampler,
    chance,
    thinned,
)
from dicomdl.datasets.stitch import Stitcher, gaussian, stitch
from dicomdl.errors import GeometryError, UsageError
from dicomdl.volumes.cutting import overlap_of

shapes = st.tuples(*[st.integers(1, 40)] * 3)
sizes = st.tuples(*[st.integers(1, 24)] * 3)


class View:
    """A view of a stack with given body and labels."""

    def __init__(
        self, shape: tuple[int, int, int], body: Any = (), labels: Any = None, centers: Any = ()
    ) -> None:
        self.shape = shape
        self._body, self._labels, self._centers = (
            np.array(body).reshape(-1, 3),
            labels or {},
            np.array(centers, float).reshape(-1, 3),
        )

    def foreground(self, above: float | None) -> Any:
        return self._body

    def labelled(self) -> Any:
        return self._labels

    def centers(self) -> Any:
        return self._centers


@pytest.mark.slow
@given(shapes, sizes, st.integers(0, 2**40), st.integers(0, 1000), st.integers(0, 2**40))
def test_a_uniform_patch_lies_inside_or_around_the_middle_of_a_shorter_axis(
    shape: Any, size: Any, seed: int, epoch: int, row: int
) -> None:
    start = Uniform().start(View(shape), size, 0, chance(seed, epoch, row))
    for a, s, n in zip(start, size, shape, strict=True):
        assert (0 <= a <= n - s) if n >= s else a == (n - s) // 2


def test_chance_is_the_same_for_the_same_key_and_another_for_any_other() -> None:
    draws = {
        key: tuple(chance(*key).integers(0, 2**60, 3).tolist()) for key in np.ndindex(3, 3, 50)
    }
    assert len(set(draws.values())) == len(draws)
    assert all(
        tuple(chance(*key).integers(0, 2**60, 3).tolist()) == draw for key, draw in draws.items()
    )


def test_uniform_patches_begin_everywhere_with_the_same_probability() -> None:
    starts = np.array(
        [Uniform().start(View((9, 6, 5)), (5, 4, 5), 0, chance(1, 0, row)) for row in range(3000)]
    )
    for axis, places in enumerate((5, 3, 1)):
        counts = np.bincount(starts[:, axis], minlength=places)
        assert (
            len(counts) == places
            and (np.abs(counts - 3000 / places) < 5 * np.sqrt(3000 / places)).all()
        )


@pytest.mark.slow
@settings(max_examples=50)
@given(shapes, sizes, st.floats(0, 0.9))
def test_a_grid_covers_every_voxel_and_neighbours_share_what_was_asked(
    shape: Any, size: Any, overlap: float
) -> None:
    grid = Grid(overlap)
    starts = grid.starts(shape, size)
    assert grid.count(shape, size, 99) == len(starts)
    assert [
        grid.start(View(shape), size, number, chance(0, 0, 0)) for number in range(len(starts))
    ] == starts
    covered = np.zeros(shape, bool)
    for start in starts:
        met = overlap_of(start, size, shape)
        assert met is not None
        covered[met[0]] = True
    assert covered.all()
    for axis in range(3):
        places = sorted({start[axis] for start in starts})
        assert all(
            b - a <= max(1, size[axis] * (1 - overlap)) for a, b in itertools.pairwise(places)
        )


@settings(max_examples=30)
@given(shapes, sizes, st.sampled_from([0.0, 0.25, 0.5]), st.sampled_from(["gaussian", "constant"]))
def test_grid_patches_stitch_back_to_the_volume(
    shape: Any, size: Any, overlap: float, weights: str
) -> None:
    volume = (np.arange(np.prod(shape)) % 97).reshape(shape).astype(np.float32)
    starts = Grid(overlap).starts(shape, size)
    patches = []
    for start in starts:
        patch = np.full(size, -1e6, np.float32)  # what lies beyond the stack must not come back
        met = overlap_of(start, size, shape)
        assert met is not None
        patch[met[1]] = volume[met[0]]
        patches.append(patch)
    assert np.allclose(stitch(patches, starts, shape, weights), volume, atol=1e-3)
    assert np.allclose(
        stitch([np.stack([p, 2 * p]) for p in patches], starts, shape, weights)[1],
        2 * volume,
        atol=1e-3,
    )


def test_what_no_patch_covers_is_nan_and_said() -> None:
    whole = Stitcher((4, 4, 4), "constant")
    with pytest.raises(GeometryError, match="no patch"):
        whole.result()
    whole.add(np.ones((2, 2, 2)), (0, 0, 0))
    assert (
        not whole.is_covered
        and np.isnan(whole.result()[3, 3, 3])
        and whole.result(fill=-1)[3, 3, 3] == -1
    )
    whole.add(np.ones((2, 2, 2)), (9, 9, 9))  # lies outside
    with pytest.raises(UsageError):
        whole.add(np.ones((1, 2, 2, 2)), (0, 0, 0))
    with pytest.raises(UsageError):
        Stitcher((4, 4, 4), "linear").add(np.ones((2, 2, 2)), (0, 0, 0))


def test_gaussian_weights_are_a_bell_that_is_never_zero() -> None:
    weights = gaussian((8, 16, 5))
    assert weights.dtype == np.float32 and weights.max() == 1 and weights.min() >= 1e-3
    assert np.allclose(weights, weights[::-1, ::-1, ::-1])


def test_foreground_patches_have_the_body_in_their_middle_where_the_border_lets_them() -> None:
    body = [(10, 20, 20), (11, 25, 30)]
    for row in range(50):
        start = Foreground().start(View((30, 50, 50), body), (4, 6, 8), 0, chance(0, 0, row))
        assert tuple(np.add(start, (2, 3, 4))) in body
    near = Foreground().start(View((30, 50, 50), [(0, 49, 25)]), (4, 6, 8), 0, chance(0, 0, 0))
    assert near[:2] == (0, 44)
    assert Foreground().start(View((30, 50, 50)), (4, 6, 8), 0, chance(0, 0, 0)) == Uniform().start(
        View((30, 50, 50)), (4, 6, 8), 0, chance(0, 0, 0)
    )


@pytest.mark.slow
def test_labels_are_drawn_by_their_weights_and_absent_ones_left_out() -> None:
    labels = {0: np.array([[1, 1, 1]]), 2: np.array([[8, 8, 8]])}
    sampler = Balanced({0: 1, 2: 3, 7: 100})
    starts = [
        sampler.start(View((10, 10, 10), labels=labels), (1, 1, 1), 0, chance(0, 0, row))
        for row in range(2000)
    ]
    share = starts.count((8, 8, 8)) / 2000
    assert set(starts) == {(1, 1, 1), (8, 8, 8)} and abs(share - 0.75) < 0.05
    alike = [
        Balanced().start(View((10, 10, 10), labels=labels), (1, 1, 1), 0, chance(0, 0, row))
        for row in range(2000)
    ]
    assert abs(alike.count((8, 8, 8)) / 2000 - 0.5) < 0.05
    for wrong in ({0: -1}, {0: 0}, {0: np.nan}):
        with pytest.raises(UsageError):
            Balanced(wrong)


def test_points_of_a_table_are_in_the_middle_of_their_patch() -> None:
    table = {
        "series_instance_uid": ["1.2", "1.3", "1.2"],
        "x": [1, 2, 3],
        "y": [4.0, 5.0, 6.0],
        "z": [7, 8, 9],
    }
    centers = Centers.from_table(table)
    points, rows = centers.of_series("1.2")
    assert (
        points.tolist() == [[1, 4, 7], [3, 6, 9]] and rows.tolist() == [0, 2] and len(centers) == 3
    )
    assert all(
        len(centers.of_series(absent)[0]) == 0 for absent in ("9", "0", "1.2.1")
    ) and not len(Centers())
    assert (
        centers
        != Centers.from_table(table, jitter=1)
        != Centers.from_table({**table, "x": [1, 2, 4]}, jitter=1)
    )
    view = View((20, 20, 20), centers=[(4.2, 5.4, 6.6), (0, 0, 0)])
    assert centers.start(view, (4, 4, 5), 0, chance(0, 0, 0)) == (2, 3, 5)
    # reaches beyond the border
    assert centers.start(view, (4, 4, 4), 1, chance(0, 0, 0)) == (
        -2,
        -2,
        -2,
    )
    moved = {
        Centers.from_table(table, jitter=2).start(view, (4, 4, 5), 0, chance(0, epoch, 0))
        for epoch in range(300)
    }
    assert np.array(sorted(moved)).min(axis=0).tolist() == [0, 1, 3] and np.array(
        sorted(moved)
    ).max(axis=0).tolist() == [4, 5, 7]
    for wrong in ({**table, "x": [1, 2, "a"]}, {**table, "x": [1, 2, np.inf]}, {"x": [1]}):
        with pytest.raises(UsageError):
            Centers.from_table(wrong)


def test_samplers_are_values_and_have_names() -> None:
    for one in (
        Uniform(),
        Foreground(30),
        Balanced({1: 2}),
        Grid((0.5, 0, 0)),
        Centers.from_table({"series_instance_uid": ["1"], "x": [1], "y": [2], "z": [3]}),
    ):
        assert (
            pickle.loads(pickle.dumps(one)) == one
            and hash(one) == hash(pickle.loads(pickle.dumps(one)))
            and repr(one)
        )
    assert (
        as_sampler("labels") == Balanced()
        and as_sampler("grid") == Grid()
        and as_sampler(Uniform()) == Uniform()
    )
    for wrong in ("unifrom", 3):
        with pytest.raises(UsageError, match="sampler"):
            as_sampler(wrong)  # type: ignore[arg-type]
    with pytest.raises(UsageError):
        Grid(1.0)


def test_thinning_keeps_first_and_last_and_the_order() -> None:
    voxels = np.arange(300).reshape(100, 3)
    few = thinned(voxels, 7)
    assert (
        len(few) == 7
        and few[0].tolist() == [0, 1, 2]
        and few[-1].tolist() == [297, 298, 299]
        and (np.diff(few[:, 0]) > 0).all()
    )
