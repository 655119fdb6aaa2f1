"""Interpolation between grids: SimpleITK and torch as second opinions, blocks against wholes."""

import itertools
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from dicomdl import Geometry, Volume
from dicomdl.arrays import Values, Voxel
from dicomdl.errors import GeometryError, UsageError
from dicomdl.volumes.interpolation import Regridding, Resampling, interpolate, thick_axis
from dicomdl.volumes.resampling import new_grid, new_shapes, sampled
from tests.phantoms import true_affine

OBLIQUE = (0.8, 0.6, 0.0, -0.36, 0.48, 0.8)
SHAPE = (9, 17, 14)
RNG = np.random.default_rng(5)
NOISE = RNG.integers(-1000, 1000, SHAPE).astype(np.float32)
RANGE = 2000.0


def grid(
    shape: Voxel = SHAPE, spacing: tuple[float, ...] = (2.5, 0.9, 0.7), **more: Any
) -> Geometry:
    return Geometry(shape, true_affine(spacing, (3, -4, 5), **more))


def by_simpleitk(array: Values, old: Geometry, new: Geometry, fill: float) -> Values:
    matrix = np.linalg.inv(old.affine) @ new.affine
    return sampled(array, matrix, new.shape, "linear", fill)


def turned(old: Geometry, order: tuple[int, ...], flips: tuple[bool, ...]) -> Geometry:
    """Return the grid with axes exchanged and reversed, and other steps, within the old one."""
    affine = np.array(old.affine)
    affine[:, :3] = affine[:, list(order)] * np.array([0.98, 1.0, 0.97])
    shape = np.array(old.shape)[list(order)]
    for axis, flip in enumerate(flips):
        affine[:3, 3] += affine[:3, axis] * (0.7 + flip * (shape[axis] - 1))
        affine[:, axis] *= -1 if flip else 1
    return Geometry((int(shape[0]), int(shape[1]), int(shape[2])), affine)


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
@pytest.mark.parametrize("flips", [(False,) * 3, (True, False, True)])
def test_parallel_axes_that_do_not_shrink_get_the_values_of_simpleitk(
    order: tuple[int, ...], flips: tuple[bool, ...]
) -> None:
    old = grid(orientation=OBLIQUE, spacing=(1.0, 1.0, 1.0))
    new = turned(old, order, flips)
    ours = interpolate(NOISE, old, new, Resampling(), -5000, series=False)
    theirs = by_simpleitk(NOISE, old, new, -5000)
    assert np.array_equal(ours == -5000, theirs == -5000) and (ours == -5000).any()
    assert np.abs(ours - theirs).max() < 1e-4 * RANGE


def test_without_antialiasing_an_axis_that_shrinks_gets_the_values_of_simpleitk() -> None:
    old = grid()
    new = new_grid(old, (3.1, 2.2, 1.9), None)
    ours = interpolate(NOISE, old, new, Resampling(antialias=False), 0, series=False)
    assert np.abs(ours - by_simpleitk(NOISE, old, new, 0)).max() < 1e-4 * RANGE


@pytest.mark.parametrize("factor", [(0.4, 0.71), (0.29, 1.3), (0.5, 0.5), (0.13, 2.0)])
def test_slices_that_shrink_get_the_values_of_torch_with_antialiasing(
    factor: tuple[float, float],
) -> None:
    torch = pytest.importorskip("torch")
    image = RNG.normal(size=(3, 47, 60)).astype(np.float32)
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(image)[None],
        scale_factor=factor,
        mode="bilinear",
        antialias=True,
        recompute_scale_factor=False,
    )[0].numpy()
    old = Geometry(image.shape, np.diag([1.0, *factor, 1.0]))
    affine = np.eye(4)
    # torch keeps the first edge where it is
    affine[1:3, 3] = 0.5 - np.array(factor) / 2
    new = Geometry(expected.shape, affine)
    ours = interpolate(image, old, new, Resampling(), 0, series=False)
    assert np.abs(ours - expected).max() < 1e-5 * np.ptp(image)


def test_slices_shrink_by_the_same_rule_as_rows_and_columns() -> None:
    old = Geometry(SHAPE, np.eye(4))
    small = Volume(NOISE, old).resample((2.3, 2.3, 2.3)).array
    swapped = Volume(
        np.ascontiguousarray(NOISE.transpose(2, 0, 1)), Geometry((14, 9, 17), np.eye(4))
    )
    again = swapped.resample((2.3, 2.3, 2.3)).array.transpose(1, 2, 0)
    assert np.abs(small - again).max() < 1e-4 * RANGE


GRIDS: dict[str, tuple[Geometry, Geometry, Resampling]] = {
    "finer": (grid(), new_grid(grid(), (1.2, 0.4, 0.5), None), Resampling()),
    "coarser": (grid(), new_grid(grid(), (4.0, 2.0, 1.1), None), Resampling()),
    "turned": (grid(), turned(grid(), (2, 0, 1), (True, False, True)), Resampling()),
    "thick": (grid(), new_grid(grid(), (1.0, 1.0, 1.0), None), Resampling("thick_slices")),
    "nearest": (grid(), new_grid(grid(), (1.3, 1.3, 1.3), None), Resampling("nearest")),
    "tilted": (
        grid(shear=(0.2, 0.8)),
        new_grid(grid(shear=(0.2, 0.8)), (1.0, 0.8, 0.6), None),
        Resampling(),
    ),
    "tilted, coarser": (
        grid(shear=(0.2, 0.8)),
        new_grid(grid(shear=(0.2, 0.8)), (4.0, 2.0, 1.5), None),
        Resampling(),
    ),
    "rotated": (grid(), grid(orientation=OBLIQUE, spacing=(2.0, 1.0, 2.0)), Resampling()),
    "tilted, nearest": (
        grid(shear=(0.2, 0.8)),
        new_grid(grid(shear=(0.2, 0.8)), (1.0, 0.8, 0.6), None),
        Resampling("nearest"),
    ),
}


class Counted:
    """Reads boxes of the noise, and counts how often each voxel is read."""

    def __init__(self) -> None:
        self.counts = np.zeros(SHAPE, np.int64)

    def __call__(self, start: Voxel, stop: Voxel) -> NDArray[Any]:
        z, y, x = (slice(a, b) for a, b in zip(start, stop, strict=True))
        self.counts[z, y, x] += 1
        return NOISE[z, y, x]


@pytest.mark.parametrize("name", GRIDS)
def test_a_block_has_the_values_of_the_whole_and_reads_no_voxel_twice(name: str) -> None:
    old, new, how = GRIDS[name]
    whole = interpolate(NOISE, old, new, how, -7, series=False)
    assert whole.shape == new.shape and np.isfinite(whole).all()
    generator = np.random.default_rng(1)
    for _ in range(8):
        start = [int(generator.integers(0, n)) for n in new.shape]
        stop = [
            int(generator.integers(a + 1, n + 1)) for a, n in zip(start, new.shape, strict=True)
        ]
        read = Counted()
        block = Regridding(old, new, how).block(
            read, (start[0], start[1], start[2]), (stop[0], stop[1], stop[2]), NOISE.dtype, -7
        )
        expected = whole[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))]
        assert np.abs(block - expected).max() <= 1e-4 * RANGE
        assert read.counts.max() <= 1


def test_a_block_reads_the_voxels_between_which_it_lies() -> None:
    old = Geometry((40, 40, 40), np.eye(4))
    new = new_grid(old, 2.0, None)
    read: list[tuple[Voxel, Voxel]] = []

    def counted(start: Voxel, stop: Voxel) -> NDArray[Any]:
        read.append((start, stop))
        return np.zeros(np.subtract(stop, start), np.int16)

    Regridding(old, new, Resampling()).block(counted, (5, 6, 7), (6, 8, 9), np.dtype(np.int16), 0)
    # place 2 i + 0.5, and less than 2 voxels to both sides of it
    assert read == [((9, 11, 13), (13, 17, 19))]


def test_thick_slices_follow_the_anisotropy_rule_of_nnunet() -> None:
    isotropic = (1.0, 1.0, 1.0)
    assert thick_axis((3.0, 1.0, 1.0), isotropic) is None
    assert thick_axis((3.1, 1.0, 1.0), isotropic) == 0
    assert thick_axis(isotropic, (1.0, 1.0, 4.0)) == 2
    # two coarse axes have no slices
    assert thick_axis((1.25, 0.24, 1.25), isotropic) is None


def test_between_thick_slices_the_nearest_one_is_taken() -> None:
    old = grid(spacing=(5.0, 0.7, 0.7))
    volume = Volume(NOISE, old)
    thick = volume.resample((1.0, 1.0, 1.0), interpolation="thick_slices").array
    in_plane = volume.resample((5.0, 1.0, 1.0)).array
    assert np.abs(thick - np.repeat(in_plane, 5, axis=0)).max() < 1e-4 * RANGE


@pytest.mark.parametrize("spacing", [(2.5, 0.9, 0.7), (1.0, 0.4, 0.3), (6.0, 3.0, 3.0)])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int32, np.float64])
def test_a_constant_volume_stays_constant(dtype: Any, spacing: tuple[float, ...]) -> None:
    volume = Volume(np.full(SHAPE, 100, dtype), grid()).resample(spacing)
    assert volume.array.dtype == dtype
    assert np.abs(volume.array - 100.0).max() <= (1e-12 if dtype == np.float64 else 0)


def cubic_weight(distance: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the cubic B-spline at some distances."""
    far = np.abs(distance)
    near = 2 / 3 - far**2 + far**3 / 2
    return np.where(far < 1, near, np.clip(2 - far, 0, None) ** 3 / 6)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_cubic_spline_through_two_voxels_is_that_of_their_mirror_images(axis: int) -> None:
    shape = np.insert([3, 4], axis, 2)
    values = np.moveaxis(
        np.broadcast_to(np.array([10.0, 40.0]), (*np.delete(shape, axis), 2)), -1, axis
    )
    volume = Volume(values, Geometry(tuple(shape.tolist()), np.eye(4)))
    affine = np.eye(4)
    affine[axis, axis], affine[axis, 3] = 0.1, -0.75
    places = -0.75 + 0.1 * np.arange(25)
    wanted = Geometry(tuple(np.insert([3, 4], axis, 25).tolist()), affine)
    line = np.moveaxis(volume.resample_to(wanted, interpolation="cubic", fill=-1).array, axis, -1)
    # Mirrored, two values alternate about their mean; a spline of coefficients that alternate by
    # three times as much goes through them, since 2 / 3 - 2 / 6 of that is left.
    knots = np.arange(-6, 8)
    coefficients = 25 - 3 * 15 * (-1.0) ** knots
    truth = cubic_weight(places[:, None] - knots) @ coefficients
    truth[(places < -0.5) | (places >= 1.5)] = -1
    assert np.abs(line - truth).max() < 1e-9


@pytest.mark.parametrize("dtype", ["f2", "?", ">i2", ">f4", ">f8"])
def test_the_nearest_voxels_on_oblique_grids_are_taken_in_every_type(dtype: str) -> None:
    held = (NOISE % 2 if dtype == "?" else NOISE).astype(dtype)
    plain = Volume(held.astype(np.int32), grid(shear=(0.2, 0.1)))
    ours = Volume(held, plain.geometry).resample(1.5, interpolation="nearest", fill=0).array
    assert ours.dtype == held.dtype
    truth = plain.resample(1.5, interpolation="nearest", fill=0).array
    assert np.array_equal(ours.astype(np.int32), truth) and len(np.unique(truth)) > 1


@pytest.mark.parametrize("size", [(1.5, 2, 2), 2.5])
def test_a_size_of_fractions_is_refused(size: Any) -> None:
    with pytest.raises(GeometryError, match="whole numbers"):
        Volume(NOISE, grid()).resample(size=size)


@pytest.mark.parametrize("fill", ["zero", (1, 2)])
def test_a_fill_that_is_no_number_is_refused(fill: Any) -> None:
    with pytest.raises(UsageError, match="expected a number"):
        Volume(NOISE, grid()).resample(1.0, fill=fill)


def test_the_own_grid_gives_the_values_unchanged() -> None:
    old = grid(orientation=OBLIQUE)
    values = RNG.integers(-(2**31), 2**31, SHAPE).astype(np.int32)
    assert np.array_equal(Volume(values, old).resample(old.spacing).array, values)


def test_values_that_are_not_finite_reach_only_the_voxels_that_they_count_for() -> None:
    values = NOISE.copy()
    values[4, 8, 7] = np.inf
    old = Geometry(SHAPE, np.eye(4))
    small = Volume(values, old).resample((1.0, 2.0, 0.5)).array
    marked = Volume((np.isinf(values)).astype(np.float32), old).resample((1.0, 2.0, 0.5)).array
    assert np.array_equal(np.isnan(small), marked > 0) and (marked > 0).any()
    clean = Volume(NOISE, old).resample((1.0, 2.0, 0.5)).array
    assert np.array_equal(small[marked == 0], clean[marked == 0])


@pytest.mark.parametrize("interpolation", ["nearest", "linear"])
def test_infinite_values_stay_infinite_on_oblique_grids(interpolation: Any) -> None:
    values = NOISE.copy()
    values[4, 8, 7], values[2, 3, 3] = np.inf, -np.inf
    old, new = grid(shear=(0.2, 0.1)), grid((20, 30, 30), (0.8, 0.8, 0.8))
    how = Resampling(interpolation, antialias=False)
    single = interpolate(values, old, new, how, 0, series=False)
    double = interpolate(values.astype(np.float64), old, new, how, 0, series=False)
    for end in (np.inf, -np.inf):
        assert np.array_equal(single == end, double == end) and (single == end).any()


def test_antialiasing_of_a_tilted_volume_removes_what_its_grid_cannot_hold() -> None:
    old = grid((9, 60, 60), (2.5, 0.5, 0.5), shear=(0.0, 0.8))
    x = np.indices(old.shape)[2]
    stripes = Volume((1000.0 * (x % 2)).astype(np.float32), old)
    new = new_grid(old, (2.5, 0.5, 1.9), None)
    inner = (slice(1, -1), slice(16, -16), slice(5, -5))
    smooth = stripes.resample_to(new).array[inner]
    assert np.abs(smooth - 500).max() < 60
    assert np.abs(stripes.resample_to(new, antialias=False).array[inner] - 500).max() > 200


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_the_new_grid_of_a_tilted_volume_is_orthogonal_in_every_order_of_axes(
    order: tuple[int, ...],
) -> None:
    old = turned(grid(shear=(0.2, 0.8)), order, (True, False, True))
    new = new_grid(old, (1.3, 0.9, 1.1), None)
    assert new.shear < 1e-12 and np.allclose(new.spacing, (1.3, 0.9, 1.1))
    assert np.allclose(new.center, old.center)
    shifted = order.index(0)
    kept = [axis for axis in range(3) if axis != shifted]
    assert np.allclose(new.direction[:, kept], old.direction[:, kept])
    assert new.direction[:, shifted] @ old.direction[:, shifted] > 0.9
    shapes = new_shapes(np.array([old.shape]), old.affine[None, :3, :3], (1.3, 0.9, 1.1))
    assert shapes.tolist() == [list(new.shape)]


def test_an_unknown_interpolation_is_named() -> None:
    with pytest.raises(UsageError, match=r"'sinc'.*thick_slices"):
        Volume(NOISE, grid()).resample(1.0, interpolation="sinc")  # type: ignore[arg-type]


def test_the_border_of_a_coarser_oblique_grid_is_a_mean_over_its_whole_neighbourhood() -> None:
    affine = np.diag([2.0, 1, 1, 1])
    affine[1, 0] = 0.6
    old = Geometry((10, 24, 20), affine)
    z, y, x = np.indices(old.shape)
    values = 4.0 * (y + 0.6 * z) + x
    new = Geometry((4, 6, 6), np.array([[2.0, 0, 0, 6], [0, 2, 0, 6], [0, 0, 2, 4], [0, 0, 0, 1]]))
    result = interpolate(values, old, new, Resampling("linear"), 0, series=False)
    z, y, x = np.indices(new.shape)
    assert np.abs(result - (4.0 * (6 + 2 * y) + 4 + 2 * x)).max() < 1e-9


def test_voxels_just_at_the_border_are_inside_in_blocks_and_in_the_whole() -> None:
    old = Geometry(
        (10, 20, 24), true_affine(orientation=(0.8, 0.6, 0, -0.48, 0.64, -0.6), shear=(0.4, 0.5))
    )
    way = Regridding(old, new_grid(old, 1.0, None), Resampling())
    places = np.linalg.inv(old.affine) @ way.new.affine
    voxels = np.indices(way.new.shape).reshape(3, -1)
    at_border = places[:3, :3] @ voxels + places[:3, 3:] - np.array([[9.5], [19.5], [23.5]])
    assert (np.abs(at_border) < 1e-9).any()
    values = np.ones(old.shape, np.float32)

    def read(start: Voxel, stop: Voxel) -> Values:
        z, y, x = (slice(a, b) for a, b in zip(start, stop, strict=True))
        return values[z, y, x]

    whole = way.block(read, (0, 0, 0), way.new.shape, values.dtype, 0)
    _, rows, columns = way.new.shape
    for row in range(rows):
        corners = (0, row, 0), (way.new.shape[0], row + 1, columns)
        block = way.block(read, *corners, values.dtype, 0)
        assert np.abs(block - whole[:, row : row + 1]).max() < 1e-4
