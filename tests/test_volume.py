"""Volumes: true values at true places, whatever order, coding and rescale the files have."""

import os
import subprocess
import sys
import threading
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st
from phantoms import true_affine, true_volume, write_multiframe, write_secondary_capture, write_series
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)

import dicomdl
from dicomdl.errors import DecodeError, GeometryError, IntensityError, IrregularStack, StorageError, TruncatedPixels, UsageError
from dicomdl.geometry import Geometry
from dicomdl.volume import Volume, montage, rescales, stack_intensity, stack_sample, write_png

OBLIQUE = (0.8, 0.6, 0.0, -0.36, 0.48, 0.8)


def only_stack(folder: Path, **scan_options: object) -> dicomdl.Stack:
    stacks = dicomdl.scan(folder, folder.parent / f"{folder.name}.index", progress=False, **scan_options).stacks
    assert len(stacks) == 1
    return stacks[0]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "dicom"
    made.mkdir()
    return made


@pytest.mark.parametrize(
    "syntax",
    [None, ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian, RLELossless, JPEGLSLossless, JPEG2000Lossless],
)
def test_a_ramp_has_its_true_value_at_every_true_place_in_every_transfer_syntax(folder: Path, syntax: str | None) -> None:
    options = {} if syntax is None else {"transfer_syntax": syntax}
    write_series(folder, shape=(6, 9, 11), spacing=(3, 0.5, 0.7), origin=(-10, 20, 30), orientation=OBLIQUE, intercept=-1024, **options)
    volume = dicomdl.read_volume(only_stack(folder))
    assert volume.array.dtype == np.int16
    assert np.array_equal(volume.array, true_volume((6, 9, 11), intercept=-1024))
    assert np.allclose(volume.affine, true_affine((3, 0.5, 0.7), (-10, 20, 30), OBLIQUE), atol=1e-6)
    assert np.allclose(volume.spacing, (3, 0.5, 0.7), atol=1e-6)
    assert volume.units == "HU"


def test_each_slice_has_its_own_slope_and_intercept(folder: Path) -> None:
    slopes, intercepts = [1.5, 2.25, 0.125, 3.0], [0.5, -7.0, 11.0, 0.0]
    write_series(folder, shape=(4, 5, 7), modality="PT", slope=slopes, intercept=intercepts)
    volume = dicomdl.read_volume(only_stack(folder))
    assert volume.array.dtype == np.float32
    assert np.array_equal(volume.array, true_volume((4, 5, 7), slopes, intercepts).astype(np.float32))


def test_signed_and_unsigned_slices_of_one_stack_keep_their_values(folder: Path) -> None:
    write_series(folder, shape=(4, 5, 7), signed=[True, False, True, False], bits_stored=12)
    assert np.array_equal(dicomdl.read_volume(only_stack(folder)).array, true_volume((4, 5, 7)))


def test_values_beyond_int16_come_as_int32_and_nothing_wraps(folder: Path) -> None:
    write_series(folder, shape=(3, 5, 7), offset=40000, bits_stored=16)
    volume = dicomdl.read_volume(only_stack(folder))
    assert volume.array.dtype == np.int32
    assert np.array_equal(volume.array, true_volume((3, 5, 7), offset=40000))


def test_unsigned_16_bit_values_that_fit_int16_come_as_int16(folder: Path) -> None:
    write_series(folder, shape=(3, 5, 7), offset=32000, intercept=-1024, bits_stored=16)
    volume = dicomdl.read_volume(only_stack(folder))
    assert volume.array.dtype == np.int16
    assert np.array_equal(volume.array, true_volume((3, 5, 7), offset=32000, intercept=-1024))


def test_a_forced_dtype_that_values_do_not_fit_raises_with_the_numbers(folder: Path) -> None:
    write_series(folder, shape=(3, 5, 7), offset=40000, bits_stored=16)
    stack = only_stack(folder)
    with pytest.raises(IntensityError) as caught:
        dicomdl.read_volume(stack, dtype="int16")
    assert caught.value.maximum > 32767
    assert dicomdl.read_volume(stack, dtype="float32").array.dtype == np.float32


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_any_number_of_threads_gives_the_same_volume(folder: Path, threads: int) -> None:
    write_series(folder, shape=(7, 5, 7), intercept=-3)
    assert np.array_equal(dicomdl.read_volume(only_stack(folder), threads=threads).array, true_volume((7, 5, 7), intercept=-3))


def test_a_tilted_stack_is_read_with_its_shear_in_the_affine(folder: Path) -> None:
    write_series(folder, shape=(6, 9, 11), spacing=(3, 1, 1), shear=(0, 1.0))
    stack = only_stack(folder)
    volume = dicomdl.read_volume(stack)
    assert stack.verdict == "tilted"
    assert np.allclose(volume.affine, true_affine((3, 1, 1), shear=(0, 1.0)), atol=1e-6)
    with pytest.raises(GeometryError, match="resample"):
        volume.to_sitk()


def test_resampling_a_tilted_volume_puts_values_where_they_are_in_the_patient(folder: Path) -> None:
    write_series(folder, shape=(12, 20, 11), spacing=(2, 1, 1), shear=(0, 0.5), offset=10)
    volume = dicomdl.read_volume(only_stack(folder))
    straight = volume.resample((2, 1, 1), fill=-999)
    assert straight.geometry.shear < 1e-9
    inside = np.argwhere(straight.array != -999)
    back = volume.geometry.world_to_voxel(straight.geometry.voxel_to_world(inside))
    expected = back @ [53, 7, 1] + 10  # the ramp is linear, so linear interpolation is exact up to rounding
    keep = ((back >= 0) & (back <= np.array(volume.shape) - 1)).all(axis=1)
    assert keep.sum() > 1000
    assert np.abs(straight.array[tuple(inside[keep].T)] - expected[keep]).max() <= 0.5 + 1e-6


def test_an_irregular_stack_raises_with_its_numbers_and_can_be_accepted(folder: Path) -> None:
    write_series(folder, shape=(8, 5, 7), drop=(3,))
    stack = only_stack(folder)
    with pytest.raises(IrregularStack) as caught:
        dicomdl.read_volume(stack)
    assert caught.value.verdict == "missing_slices"
    assert caught.value.detail["missing"] == 1
    assert stack.series_instance_uid in "".join(caught.value.__notes__)
    assert np.array_equal(dicomdl.read_volume(stack, irregular="accept").array, true_volume((8, 5, 7), drop=(3,)))


def test_an_unknown_policy_is_refused(folder: Path) -> None:
    write_series(folder, shape=(2, 5, 7))
    with pytest.raises(UsageError, match="accept"):
        dicomdl.read_volume(only_stack(folder), irregular="guess")  # type: ignore[arg-type]


def test_a_file_cut_after_the_scan_raises_and_names_file_and_frame(folder: Path) -> None:
    paths = write_series(folder, shape=(3, 50, 70))
    stack = only_stack(folder)
    with open(paths[1], "r+b") as file:
        status = os.fstat(file.fileno())
        file.truncate(status.st_size - 4000)
    with pytest.raises((TruncatedPixels, dicomdl.DicomdlError)) as caught:
        dicomdl.read_volume(stack)
    assert str(paths[1]) in "".join([str(caught.value), *caught.value.__notes__])


def test_a_damaged_codestream_raises_and_never_gives_a_volume_with_holes(folder: Path) -> None:
    paths = write_series(folder, shape=(3, 50, 70), transfer_syntax=JPEGLSLossless)
    data = bytearray(paths[2].read_bytes())
    data[-60:-20] = bytes(40)
    paths[2].write_bytes(data)
    with pytest.raises((DecodeError, TruncatedPixels)):
        dicomdl.read_volume(only_stack(folder))


def test_a_missing_file_raises_a_typed_error(folder: Path) -> None:
    paths = write_series(folder, shape=(3, 5, 7))
    stack = only_stack(folder)
    paths[0].unlink()
    with pytest.raises(dicomdl.DicomdlError):
        dicomdl.read_volume(stack)


def test_an_enhanced_multiframe_is_a_volume_whatever_order_its_frames_have(folder: Path) -> None:
    write_multiframe(folder / "e.dcm", shape=(6, 5, 7), order=[3, 1, 5, 0, 2, 4], intercept=-10, spacing=(2, 1, 1))
    volume = dicomdl.read_volume(only_stack(folder))
    assert np.array_equal(volume.array, true_volume((6, 5, 7), intercept=-10))


def test_colour_keeps_its_type_and_has_no_modality_dtype(folder: Path) -> None:
    write_secondary_capture(folder / "c.dcm", frames=3)
    stack = only_stack(folder)
    volume = dicomdl.read_volume(stack, irregular="accept")
    assert (volume.array.dtype, volume.shape) == (np.uint8, (3, 5, 7, 3))
    with pytest.raises(UsageError, match="colour"):
        dicomdl.read_volume(stack, irregular="accept", dtype="float32")


def test_window_gives_float32_between_0_and_1(folder: Path) -> None:
    write_series(folder, shape=(4, 5, 7), intercept=-1024)
    volume = dicomdl.read_volume(only_stack(folder))
    lung = volume.window("ct.lung")
    assert (lung.array.dtype, lung.units) == (np.float32, "1")
    assert lung.array.min() >= 0 and lung.array.max() <= 1
    assert np.array_equal(volume.window(-600, 1500).array, volume.window((-600, 1500)).array)


def test_a_percentile_maps_a_value_alike_in_frame_volume_and_sample(folder: Path) -> None:
    write_series(folder, shape=(40, 9, 11), modality="MR")
    stack = only_stack(folder)
    recipe = stack_intensity(stack, dicomdl.Percentile(1, 99))
    volume = dicomdl.read_volume(stack)
    assert np.array_equal(recipe(volume.array), volume.window(dicomdl.Percentile(1, 99)).array)
    frames = dicomdl.FrameDataset(only_index(folder), intensity=dicomdl.Percentile(1, 99))
    assert all(np.array_equal(frames[i]["image"][0].numpy(), recipe(volume.array)[i]) for i in (0, 17, 39))
    assert stack_sample(stack).shape[0] == 16


def only_index(folder: Path) -> dicomdl.Index:
    return dicomdl.scan(folder, folder.parent / f"{folder.name}.index", progress=False)


def test_the_limits_of_a_percentile_are_computed_once_and_kept_for_other_processes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import dicomdl.volume as module

    write_series(folder, shape=(5, 9, 11), modality="MR")
    stack = only_stack(folder)
    first = stack_intensity(stack, "auto")
    module._kept_limits.cache_clear()
    monkeypatch.setattr(module, "stack_sample", lambda stack: pytest.fail("the sample was read a second time"))
    assert stack_intensity(stack, "auto") == first


@given(axes=st.sampled_from([a + b + c for a, b, c in product("SI", "PA", "LR")] + ["LPS", "RAS", "PSL", "ALI"]))
@settings(max_examples=12, deadline=None)
def test_reorienting_moves_no_value_in_the_patient(axes: str) -> None:
    array = np.arange(4 * 5 * 6).reshape(4, 5, 6).astype(np.int16)
    volume = Volume(array, Geometry(array.shape, true_affine((3, 0.5, 0.7), (1, 2, 3), OBLIQUE, (0.2, 0.1))))
    turned = volume.reorient(axes)
    voxels = np.argwhere(np.ones(array.shape, bool))
    there = np.rint(turned.geometry.world_to_voxel(volume.geometry.voxel_to_world(voxels))).astype(int)
    assert np.array_equal(turned.array[tuple(there.T)], array[tuple(voxels.T)])
    assert np.allclose(turned.geometry.voxel_to_world(there), volume.geometry.voxel_to_world(voxels))


def test_reorient_refuses_axes_that_do_not_name_three_directions() -> None:
    volume = Volume(np.zeros((2, 2, 2), np.int16), Geometry((2, 2, 2), np.eye(4)))
    with pytest.raises(UsageError, match="SPL"):
        volume.reorient("SSL")


def test_an_axial_volume_is_already_in_the_order_slices_to_superior_rows_to_posterior_columns_to_left(folder: Path) -> None:
    write_series(folder, shape=(4, 5, 7))
    volume = dicomdl.read_volume(only_stack(folder))
    assert np.array_equal(volume.reorient("SPL").array, volume.array)


def test_simpleitk_gets_the_same_world_points_and_gives_them_back(folder: Path) -> None:
    write_series(folder, shape=(4, 5, 7), spacing=(3, 0.5, 0.7), origin=(-10, 20, 30), orientation=OBLIQUE)
    volume = dicomdl.read_volume(only_stack(folder))
    image = volume.to_sitk()
    for voxel in product((0, 3), (0, 4), (0, 6)):
        assert np.allclose(image.TransformIndexToPhysicalPoint(voxel[::-1]), volume.geometry.voxel_to_world(voxel), atol=1e-6)
    back = Volume.from_sitk(image)
    assert np.array_equal(back.array, volume.array) and np.allclose(back.affine, volume.affine, atol=1e-6)


@pytest.mark.parametrize("name", ["case.nii.gz", "case.nrrd", "case.mha"])
def test_a_saved_volume_is_read_back_by_simpleitk_with_values_and_places(folder: Path, tmp_path: Path, name: str) -> None:
    write_series(folder, shape=(4, 5, 7), spacing=(3, 0.5, 0.7), origin=(-10, 20, 30), orientation=OBLIQUE, intercept=-1024)
    volume = dicomdl.read_volume(only_stack(folder))
    volume.save(tmp_path / name)
    image = sitk.ReadImage(str(tmp_path / name))
    assert np.array_equal(sitk.GetArrayFromImage(image), volume.array)
    assert np.allclose(image.TransformIndexToPhysicalPoint((6, 4, 3)), volume.geometry.voxel_to_world((3, 4, 6)), atol=1e-3)


def test_saving_where_nothing_can_be_written_is_one_clear_error(folder: Path, tmp_path: Path) -> None:
    write_series(folder, shape=(4, 5, 7))
    volume = dicomdl.read_volume(only_stack(folder))
    with pytest.raises(StorageError, match="no such folder"):
        volume.save(tmp_path / "absent" / "case.nii.gz")
    with pytest.raises(StorageError, match="nii"):
        volume.save(tmp_path / "case.tif")


def test_resample_keeps_the_field_of_view_and_the_ramp() -> None:
    array = (np.indices((10, 20, 30)) * np.array([53, 7, 1])[:, None, None, None]).sum(axis=0).astype(np.float32)
    volume = Volume(array, Geometry(array.shape, true_affine((2, 1, 1), (5, 6, 7), OBLIQUE)))
    fine = volume.resample((1, 0.5, 0.5))
    assert fine.shape == (20, 40, 60)
    assert np.allclose(fine.geometry.center, volume.geometry.center)
    inner = np.argwhere(np.ones(fine.shape, bool)).reshape(20, 40, 60, 3)[2:-2, 2:-2, 2:-2]
    back = volume.geometry.world_to_voxel(fine.geometry.voxel_to_world(inner))
    assert np.allclose(fine.array[2:-2, 2:-2, 2:-2], back @ [53, 7, 1], atol=1e-3)


def test_resample_to_a_size_alone_divides_the_field_of_view() -> None:
    volume = Volume(np.zeros((10, 20, 30), np.int16), Geometry((10, 20, 30), true_affine((2, 1, 1))))
    small = volume.resample(size=(5, 10, 10))
    assert small.shape == (5, 10, 10)
    assert np.allclose(small.spacing, (4, 2, 3))


def test_resample_with_spacing_and_size_crops_and_pads_about_the_centre() -> None:
    volume = Volume(np.full((10, 20, 30), 7, np.int16), Geometry((10, 20, 30), true_affine((2, 1, 1))))
    grid = volume.resample((2, 1, 1), size=(14, 10, 30), fill=-5)
    assert grid.shape == (14, 10, 30)
    assert (grid.array[2:-2] == 7).all() and (grid.array[:2] == -5).all() and (grid.array[-2:] == -5).all()


@pytest.mark.parametrize("spacing", [(0, 1, 1), (np.nan, 1, 1), (-1, 1, 1)])
def test_an_impossible_spacing_is_refused(spacing: tuple[float, ...]) -> None:
    volume = Volume(np.zeros((2, 2, 2), np.int16), Geometry((2, 2, 2), np.eye(4)))
    with pytest.raises(GeometryError):
        volume.resample(spacing)


def test_a_volume_without_geometry_has_no_place_to_resample_or_export() -> None:
    volume = Volume(np.zeros((2, 2, 2), np.int16), Geometry((2, 2, 2), np.full((4, 4), np.nan)))
    for action in (volume.to_sitk, volume.resample, volume.reorient):
        with pytest.raises(GeometryError, match="not known"):
            action()


def test_rescale_zero_is_an_error_when_its_values_are_asked_for_and_not_before(folder: Path) -> None:
    write_series(folder, shape=(3, 5, 7), slope=0)
    stack = only_stack(folder)
    with pytest.raises(IntensityError, match="RescaleSlope"):
        rescales(stack)


def test_a_montage_shows_slices_and_writes_a_picture(folder: Path, tmp_path: Path) -> None:
    write_series(folder, shape=(5, 20, 30), intercept=-1024)
    sheet = montage(dicomdl.read_volume(only_stack(folder)), 4)
    assert sheet.shape == (40, 60) and sheet.dtype == np.uint8 and sheet.max() > sheet.min()
    write_png(tmp_path / "sheet.png", sheet)
    assert np.array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "sheet.png"))), sheet)


def test_plot_draws_slices(folder: Path) -> None:
    pytest.importorskip("matplotlib")
    write_series(folder, shape=(5, 20, 30), intercept=-1024)
    figure = dicomdl.read_volume(only_stack(folder)).plot(slices=4)
    assert len(figure.axes) == 4


def test_reading_leaves_no_thread_and_no_open_file_behind(folder: Path) -> None:
    write_series(folder, shape=(5, 20, 30))
    stack = only_stack(folder)
    dicomdl.read_volume(stack)
    threads, files = threading.active_count(), len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    for _ in range(5):
        dicomdl.read_volume(stack, threads=3)
    assert threading.active_count() == threads
    if files:
        assert len(os.listdir("/proc/self/fd")) == files


def test_every_regular_stack_of_the_corpus_equals_simpleitk(corpus: Path, tmp_path: Path) -> None:
    script = Path(__file__).parent / "oracles" / "simpleitk_volumes.py"
    ran = subprocess.run([sys.executable, str(script), str(corpus)], capture_output=True, text=True, check=False)
    matched = [line for line in ran.stdout.splitlines() if "stacks match" in line]
    assert ran.returncode == 0, ran.stdout + ran.stderr[-2000:]
    assert int(matched[0].split()[2]) >= 30


def test_a_bits_stored_of_zero_does_not_let_values_wrap(folder: Path) -> None:
    def zero(dataset: object, z: int) -> None:
        dataset.BitsStored = 0

    write_series(folder, shape=(2, 5, 7), offset=60000, bits_stored=16, edit=zero)
    assert np.array_equal(dicomdl.read_volume(only_stack(folder)).array, true_volume((2, 5, 7), offset=60000))


def test_percentiles_of_a_resampled_volume_are_those_of_its_stack(folder: Path) -> None:
    write_series(folder, shape=(9, 9, 11), modality="MR")
    volume = dicomdl.read_volume(only_stack(folder))
    recipe = stack_intensity(only_stack(folder), "auto")
    small = volume.resample(3)
    assert np.array_equal(small.window("auto").array, recipe(small.array))


@pytest.mark.parametrize("fill", [1e9, 0.5, float("nan")])
def test_a_fill_that_does_not_fit_is_refused(fill: float) -> None:
    volume = Volume(np.zeros((4, 4, 4), np.int16), Geometry((4, 4, 4), np.eye(4)))
    with pytest.raises(UsageError, match="fill"):
        volume.resample(2, fill=fill)


@pytest.mark.parametrize("options", [{"spacing": (1, 1)}, {"spacing": "a"}, {"size": (2, 2)}, {"size": (0, 1, 1)}, {"spacing": 1e-4}])
def test_a_grid_that_cannot_be_is_a_geometry_error(options: dict[str, object]) -> None:
    volume = Volume(np.zeros((4, 4, 4), np.int16), Geometry((4, 4, 4), np.eye(4)))
    with pytest.raises(GeometryError):
        volume.resample(**options)


def test_an_accepted_irregular_volume_says_so(folder: Path) -> None:
    write_series(folder, shape=(8, 5, 7), drop=(3,))
    volume = dicomdl.read_volume(only_stack(folder), irregular="accept")
    assert volume.verdict == "missing_slices" and "missing_slices" in repr(volume)


def test_palettes_are_colours_in_volumes_as_in_frames(corpus: Path, tmp_path: Path) -> None:
    index = dicomdl.scan(corpus, tmp_path / "i", progress=False).select(photometric_interpretation="PALETTE COLOR", content="image")
    assert len(index.stacks) >= 5
    frames = dicomdl.FrameDataset(index)
    for stack in index.stacks[:6]:
        volume = dicomdl.read_volume(stack, irregular="accept").window("auto")
        assert volume.array.shape[-1] == 3
        first = frames[int(np.searchsorted(index.rows(), stack.rows.start))]["image"]
        assert np.allclose(np.moveaxis(first.numpy(), 0, -1), volume.array[0])
