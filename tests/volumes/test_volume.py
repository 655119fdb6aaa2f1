"""Volumes: true values at true places, whatever order, coding and rescale the files have."""

import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import SimpleITK as sitk
from descriptors import open_below
from hypothesis import given, settings
from hypothesis import strategies as st
from phantoms import (
    slice_normal,
    true_affine,
    true_volume,
    write_multiframe,
    write_secondary_capture,
    write_segmentation_1bit,
    write_series,
)
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)

import dicomdl
from dicomdl.errors import (
    DecodeError,
    GeometryError,
    IncompleteGroup,
    IntensityError,
    IrregularStack,
    StorageError,
    TruncatedPixels,
    UsageError,
)
from dicomdl.geometry.grid import Geometry
from dicomdl.storage import memory
from dicomdl.values import sampling as sampling_module
from dicomdl.values.conversion import conversions
from dicomdl.values.sampling import stack_sample
from dicomdl.values.stack_intensity import stack_intensity
from dicomdl.volumes.pictures import montage, write_png
from dicomdl.volumes.volume import Volume

OBLIQUE = (0.8, 0.6, 0.0, -0.36, 0.48, 0.8)


def only_stack(folder: Path, **scan_options: object) -> dicomdl.Stack:
    stacks = dicomdl.scan(
        folder, folder.parent / f"{folder.name}.index", progress=False, **scan_options
    ).stacks
    assert len(stacks) == 1
    return stacks[0]


@pytest.mark.quick(3)
@pytest.mark.parametrize(
    "syntax",
    [
        None,
        ImplicitVRLittleEndian,
        ExplicitVRBigEndian,
        DeflatedExplicitVRLittleEndian,
        RLELossless,
        JPEGLSLossless,
        JPEG2000Lossless,
    ],
)
def test_a_ramp_has_its_true_value_at_every_true_place_in_every_transfer_syntax(
    folder: Path, syntax: str | None
) -> None:
    options = {} if syntax is None else {"transfer_syntax": syntax}
    write_series(
        folder,
        shape=(6, 9, 11),
        spacing=(3, 0.5, 0.7),
        origin=(-10, 20, 30),
        orientation=OBLIQUE,
        intercept=-1024,
        **options,
    )
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
    assert np.array_equal(
        volume.array, true_volume((4, 5, 7), slopes, intercepts).astype(np.float32)
    )


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
    assert np.array_equal(
        dicomdl.read_volume(only_stack(folder), threads=threads).array,
        true_volume((7, 5, 7), intercept=-3),
    )


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
    # the ramp is linear, so linear interpolation is exact up to rounding
    expected = back @ [53, 7, 1] + 10
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
    (row,) = dicomdl.scan(folder, progress=False).check().rows
    assert row.reason in str(caught.value) and "{" not in str(caught.value)
    assert stack.series_instance_uid in "".join(caught.value.__notes__)
    assert np.array_equal(
        dicomdl.read_volume(stack, irregular="accept").array, true_volume((8, 5, 7), drop=(3,))
    )


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
    write_multiframe(
        folder / "e.dcm",
        shape=(6, 5, 7),
        order=[3, 1, 5, 0, 2, 4],
        intercept=-10,
        spacing=(2, 1, 1),
    )
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


@pytest.mark.slow
def test_a_percentile_maps_a_value_alike_in_frame_volume_and_sample(folder: Path) -> None:
    pytest.importorskip("torch")
    write_series(folder, shape=(40, 9, 11), modality="MR")
    stack = only_stack(folder)
    recipe = stack_intensity(stack, dicomdl.Percentile(1, 99))
    volume = dicomdl.read_volume(stack)
    assert np.array_equal(recipe(volume.array), volume.window(dicomdl.Percentile(1, 99)).array)
    frames = dicomdl.FrameDataset(only_index(folder), intensity=dicomdl.Percentile(1, 99))
    assert all(
        np.array_equal(frames[i]["image"][0].numpy(), recipe(volume.array)[i]) for i in (0, 17, 39)
    )
    assert stack_sample(stack).shape[0] == 16


def only_index(folder: Path) -> dicomdl.Index:
    return dicomdl.scan(folder, folder.parent / f"{folder.name}.index", progress=False)


def test_the_limits_of_a_percentile_are_computed_once_and_kept_for_other_processes(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_series(folder, shape=(5, 9, 11), modality="MR")
    stack = only_stack(folder)
    read = sampling_module.read_converted
    reads: list[int] = []

    def counted(sources, *args, **named):
        reads.append(len(sources))
        return read(sources, *args, **named)

    monkeypatch.setattr(sampling_module, "read_converted", counted)
    first = stack_intensity(stack, "auto")
    assert reads == [5]
    # The state of a new process: empty memory, limits in the cache folder.
    memory.clear()
    assert stack_intensity(stack, "auto") == first
    assert reads == [5]


@given(
    axes=st.sampled_from(
        [a + b + c for a, b, c in product("SI", "PA", "LR")] + ["LPS", "RAS", "PSL", "ALI"]
    )
)
@settings(max_examples=12)
def test_reorienting_moves_no_value_in_the_patient(axes: str) -> None:
    array = np.arange(4 * 5 * 6).reshape(4, 5, 6).astype(np.int16)
    volume = Volume(
        array, Geometry(array.shape, true_affine((3, 0.5, 0.7), (1, 2, 3), OBLIQUE, (0.2, 0.1)))
    )
    turned = volume.reorient(axes)
    voxels = np.argwhere(np.ones(array.shape, bool))
    there = np.rint(turned.geometry.world_to_voxel(volume.geometry.voxel_to_world(voxels))).astype(
        int
    )
    assert np.array_equal(turned.array[tuple(there.T)], array[tuple(voxels.T)])
    assert np.allclose(
        turned.geometry.voxel_to_world(there), volume.geometry.voxel_to_world(voxels)
    )


def test_reorient_refuses_axes_that_do_not_name_three_directions() -> None:
    volume = Volume(np.zeros((2, 2, 2), np.int16), Geometry((2, 2, 2), np.eye(4)))
    with pytest.raises(UsageError, match="SPL"):
        volume.reorient("SSL")


def test_an_axial_volume_already_has_slices_to_superior_rows_to_posterior_columns_to_left(
    folder: Path,
) -> None:
    write_series(folder, shape=(4, 5, 7))
    volume = dicomdl.read_volume(only_stack(folder))
    assert np.array_equal(volume.reorient("SPL").array, volume.array)


def test_simpleitk_gets_the_same_world_points_and_gives_them_back(folder: Path) -> None:
    write_series(
        folder, shape=(4, 5, 7), spacing=(3, 0.5, 0.7), origin=(-10, 20, 30), orientation=OBLIQUE
    )
    volume = dicomdl.read_volume(only_stack(folder))
    image = volume.to_sitk()
    for voxel in product((0, 3), (0, 4), (0, 6)):
        assert np.allclose(
            image.TransformIndexToPhysicalPoint(voxel[::-1]),
            volume.geometry.voxel_to_world(voxel),
            atol=1e-6,
        )
    back = Volume.from_sitk(image)
    assert np.array_equal(back.array, volume.array) and np.allclose(
        back.affine, volume.affine, atol=1e-6
    )


@pytest.mark.parametrize("name", ["case.nii.gz", "case.nrrd", "case.mha"])
def test_a_saved_volume_is_read_back_by_simpleitk_with_values_and_places(
    folder: Path, tmp_path: Path, name: str
) -> None:
    write_series(
        folder,
        shape=(4, 5, 7),
        spacing=(3, 0.5, 0.7),
        origin=(-10, 20, 30),
        orientation=OBLIQUE,
        intercept=-1024,
    )
    volume = dicomdl.read_volume(only_stack(folder))
    volume.save(tmp_path / name)
    image = sitk.ReadImage(str(tmp_path / name))
    assert np.array_equal(sitk.GetArrayFromImage(image), volume.array)
    assert np.allclose(
        image.TransformIndexToPhysicalPoint((6, 4, 3)),
        volume.geometry.voxel_to_world((3, 4, 6)),
        atol=1e-3,
    )


def test_saving_where_nothing_can_be_written_is_one_clear_error(
    folder: Path, tmp_path: Path
) -> None:
    write_series(folder, shape=(4, 5, 7))
    volume = dicomdl.read_volume(only_stack(folder))
    with pytest.raises(StorageError, match="no such folder"):
        volume.save(tmp_path / "absent" / "case.nii.gz")
    with pytest.raises(StorageError, match="nii"):
        volume.save(tmp_path / "case.tif")


def test_resample_keeps_the_field_of_view_and_the_ramp() -> None:
    array = (
        (np.indices((10, 20, 30)) * np.array([53, 7, 1])[:, None, None, None])
        .sum(axis=0)
        .astype(np.float32)
    )
    volume = Volume(array, Geometry(array.shape, true_affine((2, 1, 1), (5, 6, 7), OBLIQUE)))
    fine = volume.resample((1, 0.5, 0.5))
    assert fine.shape == (20, 40, 60)
    assert np.allclose(fine.geometry.center, volume.geometry.center)
    inner = np.argwhere(np.ones(fine.shape, bool)).reshape(20, 40, 60, 3)[2:-2, 2:-2, 2:-2]
    back = volume.geometry.world_to_voxel(fine.geometry.voxel_to_world(inner))
    assert np.allclose(fine.array[2:-2, 2:-2, 2:-2], back @ [53, 7, 1], atol=1e-3)


def test_a_grid_whose_axes_lie_in_one_plane_is_refused_before_any_voxel(tmp_path: Path) -> None:
    whole = Geometry((2, 3, 4), np.eye(4))
    flat = Geometry((2, 3, 4), np.diag([0.0, 1, 1, 1]))
    values = np.zeros((2, 3, 4), np.int16)
    for call in (
        lambda: Volume(values, whole).resample_to(flat),
        lambda: Volume(values, flat).resample_to(whole),
        lambda: Volume(values, flat).resample((1, 1, 1)),
        lambda: Volume(values, flat).to_sitk(),
        lambda: Volume(values, flat).save(tmp_path / "flat.nii.gz"),
    ):
        with pytest.raises(GeometryError, match="axes of this grid lie in one plane"):
            call()


def test_resample_to_a_size_alone_divides_the_field_of_view() -> None:
    volume = Volume(
        np.zeros((10, 20, 30), np.int16), Geometry((10, 20, 30), true_affine((2, 1, 1)))
    )
    small = volume.resample(size=(5, 10, 10))
    assert small.shape == (5, 10, 10)
    assert np.allclose(small.spacing, (4, 2, 3))


def test_resample_with_spacing_and_size_crops_and_pads_about_the_centre() -> None:
    volume = Volume(
        np.full((10, 20, 30), 7, np.int16), Geometry((10, 20, 30), true_affine((2, 1, 1)))
    )
    grid = volume.resample((2, 1, 1), size=(14, 10, 30), fill=-5)
    assert grid.shape == (14, 10, 30)
    assert (
        (grid.array[2:-2] == 7).all()
        and (grid.array[:2] == -5).all()
        and (grid.array[-2:] == -5).all()
    )


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


def test_rescale_zero_is_an_error_when_its_values_are_asked_for_and_not_before(
    folder: Path,
) -> None:
    write_series(folder, shape=(3, 5, 7), slope=0)
    stack = only_stack(folder)
    with pytest.raises(IntensityError, match="RescaleSlope"):
        conversions(stack)


def test_a_montage_shows_slices_and_writes_a_picture(folder: Path, tmp_path: Path) -> None:
    write_series(folder, shape=(5, 20, 30), intercept=-1024)
    sheet = montage(dicomdl.read_volume(only_stack(folder)), 4)
    assert sheet.shape == (40, 60) and sheet.dtype == np.uint8 and sheet.max() > sheet.min()
    write_png(tmp_path / "sheet.png", sheet)
    assert np.array_equal(
        sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "sheet.png"))), sheet
    )


def test_plot_draws_slices(folder: Path) -> None:
    pytest.importorskip("matplotlib")
    write_series(folder, shape=(5, 20, 30), intercept=-1024)
    figure = dicomdl.read_volume(only_stack(folder)).plot(slices=4)
    assert len(figure.axes) == 4


def test_reading_leaves_no_thread_and_no_open_file_behind(folder: Path) -> None:
    write_series(folder, shape=(5, 20, 30))
    stack = only_stack(folder)
    dicomdl.read_volume(stack)
    threads = threading.active_count()
    for _ in range(5):
        dicomdl.read_volume(stack, threads=3)
    # Threads of other tests may end meanwhile.
    assert threading.active_count() <= threads and open_below(folder) == 0


def test_every_regular_stack_of_the_corpus_equals_simpleitk(corpus: Path, tmp_path: Path) -> None:
    script = Path(__file__).parents[1] / "oracles" / "simpleitk_volumes.py"
    ran = subprocess.run(
        [sys.executable, str(script), str(corpus)], capture_output=True, text=True, check=False
    )
    matched = [line for line in ran.stdout.splitlines() if "stacks match" in line]
    assert ran.returncode == 0, ran.stdout + ran.stderr[-2000:]
    assert int(matched[0].split()[2]) >= 30


def test_a_bits_stored_of_zero_does_not_let_values_wrap(folder: Path) -> None:
    def zero(dataset: object, z: int) -> None:
        dataset.BitsStored = 0

    write_series(folder, shape=(2, 5, 7), offset=60000, bits_stored=16, edit=zero)
    assert np.array_equal(
        dicomdl.read_volume(only_stack(folder)).array, true_volume((2, 5, 7), offset=60000)
    )


def test_percentiles_of_a_resampled_volume_are_those_of_its_stack(folder: Path) -> None:
    write_series(folder, shape=(9, 9, 11), modality="MR")
    volume = dicomdl.read_volume(only_stack(folder))
    recipe = stack_intensity(only_stack(folder), "auto")
    small = volume.resample(3)
    assert np.array_equal(small.window("auto").array, recipe(small.array))


@pytest.mark.parametrize("interpolation", ["nearest", "linear"])
def test_a_mask_is_resampled_as_a_mask(interpolation: Literal["nearest", "linear"]) -> None:
    mask = np.zeros((4, 5, 6), np.bool_)
    mask[1:3, 1:4] = True
    volume = Volume(mask, Geometry(mask.shape, np.diag([2.0, 1.0, 1.0, 1.0])))
    fine = volume.resample(1.0, interpolation=interpolation, fill=0)
    assert fine.dtype == np.bool_
    assert np.array_equal(fine.array, np.repeat(mask, 2, axis=0))


@pytest.mark.parametrize("fill", [1e9, 0.5, float("nan")])
def test_a_fill_that_does_not_fit_is_refused(fill: float) -> None:
    volume = Volume(np.zeros((4, 4, 4), np.int16), Geometry((4, 4, 4), np.eye(4)))
    with pytest.raises(UsageError, match="fill"):
        volume.resample(2, fill=fill)


@pytest.mark.parametrize(
    "options",
    [
        {"spacing": (1, 1)},
        {"spacing": "a"},
        {"size": (2, 2)},
        {"size": (0, 1, 1)},
        {"spacing": 1e-4},
    ],
)
def test_a_grid_that_cannot_be_is_a_geometry_error(options: dict[str, object]) -> None:
    volume = Volume(np.zeros((4, 4, 4), np.int16), Geometry((4, 4, 4), np.eye(4)))
    with pytest.raises(GeometryError):
        volume.resample(**options)


def test_an_accepted_irregular_volume_says_so(folder: Path) -> None:
    write_series(folder, shape=(8, 5, 7), drop=(3,))
    volume = dicomdl.read_volume(only_stack(folder), irregular="accept")
    assert volume.verdict == "missing_slices" and "missing_slices" in repr(volume)


def test_palettes_are_colours_in_volumes_as_in_frames(corpus: Path, tmp_path: Path) -> None:
    index = dicomdl.scan(corpus, tmp_path / "i", progress=False).select(
        photometric_interpretation="PALETTE COLOR", content="image"
    )
    assert len(index.stacks) >= 5
    frames = dicomdl.FrameDataset(index)
    for stack in index.stacks[:6]:
        volume = dicomdl.read_volume(stack, irregular="accept").window("auto")
        assert volume.array.shape[-1] == 3
        first = frames[int(np.searchsorted(index.rows(), stack.rows.start))]["image"]
        assert np.allclose(np.moveaxis(first.numpy(), 0, -1), volume.array[0])


# --- irregular="resample" ---


def write_spaced(
    folder: Path,
    places: list[float],
    *,
    shear: tuple[float, float] = (0, 0),
    orientation: tuple[float, ...] = OBLIQUE,
    **options: object,
) -> np.ndarray:
    """Write slices at `places` mm along the normal that store 53 p + 7 y + x + 10.

    Returns the affine from (p, y, x) to LPS mm.
    """
    step = (
        slice_normal(orientation)
        + shear[0] * np.array(orientation[:3])
        + shear[1] * np.array(orientation[3:])
    )
    positions = np.array([-10.0, 20, 30]) + np.outer(places, step)
    _, rows, columns = np.indices((len(places), 16, 12))
    stored = 53 * np.array(places)[:, None, None] + 7 * rows + columns + 10
    assert np.array_equal(stored, stored.round())
    spacing = (2, 0.5, 0.7)
    write_series(
        folder,
        shape=stored.shape,
        spacing=spacing,
        orientation=orientation,
        positions=positions.tolist(),
        stored=stored.astype(np.int64),
        **options,
    )
    return true_affine((1, *spacing[1:]), (-10, 20, 30), orientation, shear)


def assert_a_true_ramp(
    volume: Volume, ramp_affine: np.ndarray, last: float, tolerance: float
) -> None:
    """Every voxel between the outermost centres holds the value of the ramp at its position."""
    voxels = np.indices(volume.geometry.shape).reshape(3, -1).T
    p, y, x = (
        Geometry((1, 1, 1), ramp_affine).world_to_voxel(volume.geometry.voxel_to_world(voxels)).T
    )
    inside = (y > -1e-6) & (y < 15 + 1e-6) & (x > -1e-6) & (x < 11 + 1e-6)
    assert p.min() > -1e-6 and p.max() < last + 0.011  # no slice outside of those that were read
    assert inside.sum() > 0.8 * 16 * 12 * volume.shape[0]
    # not in any voxel that was read
    beyond = (y < -0.5 - 1e-6) | (y > 15.5 + 1e-6) | (x < -0.5 - 1e-6) | (x > 11.5 + 1e-6)
    # the smallest value that was read, as documented
    assert (volume.array.reshape(-1)[beyond] == 10).all()
    difference = volume.array.reshape(-1)[inside] - (53 * p + 7 * y + x + 10)[inside]
    assert np.abs(difference).max() <= tolerance


RESAMPLED = {
    "holes": ([0, 3, 6, 9, 15, 18, 27, 30, 33], (0, 0)),
    "uneven": ([0, 3, 6, 9, 12, 17, 22, 27], (0, 0)),
    "uneven all over": ([0, 2, 7, 9, 13, 14, 20], (0, 0)),
    "tilt": ([0, 3, 6, 9, 12, 15, 18], (0, 0.4)),
    "tilt both ways": ([0, 3, 6, 9, 12, 15, 18], (-0.2, 0.3)),
    "tilt and holes": ([0, 3, 6, 9, 15, 18, 27, 30, 33], (0, 0.2)),
    "tilt and uneven": ([0, 3, 6, 9, 12, 17, 22, 27], (0.1, -0.3)),
    "regular": ([0, 3, 6, 9], (0, 0)),
}


@pytest.mark.quick(3)
@pytest.mark.parametrize("dtype", [None, "float32"])
@pytest.mark.parametrize("kind", RESAMPLED)
def test_every_voxel_of_a_resampled_ramp_has_the_value_of_its_place_in_the_patient(
    folder: Path, kind: str, dtype: str | None
) -> None:
    places, shear = RESAMPLED[kind]
    affine = write_spaced(folder, places, shear=shear)
    volume = dicomdl.read_volume(only_stack(folder), irregular="resample", dtype=dtype)
    assert volume.array.dtype == np.dtype(dtype or np.int16)
    assert volume.geometry.shear < 1e-9
    assert volume.filled.shape == volume.shape[:1]
    assert_a_true_ramp(volume, affine, places[-1], 0.01 if dtype else 0.5 + 0.01)
    volume.to_sitk()


def test_holes_are_filled_between_neighbours_marked_and_nothing_else_is_touched(
    folder: Path,
) -> None:
    write_series(folder, shape=(10, 5, 7), drop=(3, 6, 7), intercept=-1024)
    stack = only_stack(folder)
    volume = dicomdl.read_volume(stack, irregular="resample")
    assert (
        np.array_equal(volume.array, true_volume((10, 5, 7), intercept=-1024))
        and volume.array.dtype == np.int16
    )
    assert np.flatnonzero(volume.filled).tolist() == [3, 6, 7]
    assert np.allclose(volume.affine, true_affine((2, 1, 1)))
    assert not volume.filled.flags.writeable
    assert "3 slices filled" in repr(volume) and volume.verdict == "missing_slices"


def test_a_median_grid_keeps_the_slices_that_lie_on_it(folder: Path) -> None:
    write_spaced(folder, [0, 3, 6, 9, 12, 17, 22, 27])
    volume = dicomdl.read_volume(only_stack(folder), irregular="resample")
    accepted = dicomdl.read_volume(only_stack(folder), irregular="accept")
    assert volume.spacing[0] == pytest.approx(3) and volume.shape[0] == 10
    assert np.flatnonzero(volume.filled).tolist() == [5, 6, 7, 8]
    assert np.array_equal(volume.array[:5], accepted.array[:5]) and np.array_equal(
        volume.array[9], accepted.array[7]
    )


def test_what_is_whole_is_not_touched_by_resampling(folder: Path) -> None:
    write_series(folder, shape=(6, 5, 7), intercept=-1024)
    volume = dicomdl.read_volume(only_stack(folder), irregular="resample")
    assert (
        np.array_equal(volume.array, true_volume((6, 5, 7), intercept=-1024))
        and not volume.filled.any()
    )


@pytest.mark.parametrize("kind", ["duplicates", "no_geometry"])
def test_what_no_resampling_can_help_says_why(folder: Path, kind: str) -> None:
    def lost(dataset: object, z: int) -> None:
        del dataset.ImagePositionPatient

    def other(dataset: object, z: int) -> None:
        dataset.PixelData = bytes(len(dataset.PixelData))

    write_series(folder, shape=(4, 5, 7), edit=lost if kind == "no_geometry" else None)
    if kind == "duplicates":
        write_series(
            folder,
            shape=(4, 5, 7),
            drop=(0, 1, 3),
            seed=1,
            edit=other,
            series_uid=dicomdl.scan(folder, folder.parent / "first.index", progress=False)
            .stacks[0]
            .series_instance_uid,
        )
    with pytest.raises(IrregularStack, match="cannot be resampled, for nothing says") as caught:
        dicomdl.read_volume(only_stack(folder), irregular="resample")
    assert caught.value.verdict == kind


def test_slices_moved_in_their_own_plane_are_not_resampled_and_the_error_has_the_distance(
    folder: Path,
) -> None:
    positions = [[0.5 if z == 3 else 0, 0, 2 * z] for z in range(6)]
    write_series(folder, shape=(6, 5, 7), positions=positions)
    with pytest.raises(IrregularStack, match=r"deviate from their line by 0\.5") as caught:
        dicomdl.read_volume(only_stack(folder), irregular="resample")
    assert caught.value.detail["in_plane_error"] == pytest.approx(0.5)


def test_where_a_segmentation_has_no_frame_there_is_background_and_labels_are_never_mixed(
    folder: Path,
) -> None:
    def place(dataset: object, z: int) -> None:
        for k, group in enumerate(dataset.PerFrameFunctionalGroupsSequence):
            group.PlanePositionSequence[0].ImagePositionPatient = [0, 0, 2.0 * (k + (k >= 4))]

    write_segmentation_1bit(folder / "s.dcm", shape=(8, 5, 7), edit=place)
    stack = only_stack(folder)
    volume = dicomdl.read_volume(stack, irregular="resample")
    assert np.flatnonzero(volume.filled).tolist() == [4] and not volume.array[4].any()
    assert np.array_equal(
        np.delete(volume.array, 4, axis=0), dicomdl.read_volume(stack, irregular="accept").array
    )


def test_filled_slices_stay_marked_on_other_grids(folder: Path) -> None:
    write_series(folder, shape=(10, 5, 7), drop=(3,))
    volume = dicomdl.read_volume(only_stack(folder), irregular="resample")
    assert np.flatnonzero(volume.reorient("IPL").filled).tolist() == [6]
    # every slice of the new order crosses it
    assert volume.reorient("PSL").filled.tolist() == [True] * 5
    fine = volume.resample((1, 1, 1))
    there = volume.geometry.world_to_voxel(
        fine.geometry.voxel_to_world([[k, 0, 0] for k in range(20)])
    )[:, 0]
    assert np.array_equal(fine.filled, (there > 2) & (there < 4))
    assert not volume.filled[volume.window("ct.lung").filled != volume.filled].any()


def test_an_array_that_is_not_on_its_grid_is_refused() -> None:
    geometry = Geometry((3, 4, 5), np.eye(4))
    for array in (np.zeros((3, 4, 6)), np.zeros((2, 3, 4, 5)), np.zeros((3, 4))):
        with pytest.raises(GeometryError, match="grid"):
            Volume(array, geometry)
    assert Volume(
        np.zeros((2, 3, 4, 5)), geometry, dimension=(1.0, 2.0), dimension_names=("echo_time",)
    ).shape == (2, 3, 4, 5)


@pytest.mark.parametrize("threads", [1, 3])
def test_frames_are_read_once_even_if_a_late_value_needs_a_wider_dtype(
    folder: Path, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    import dicomdl.values.reading as module

    stored = np.indices((12, 5, 7))[0].astype(np.int64)
    stored[11] = 60000
    write_series(folder, shape=stored.shape, stored=stored, bits_stored=16)
    stack, reads = only_stack(folder), []
    decode_frame = module.decode_frame
    monkeypatch.setattr(
        module,
        "decode_frame",
        lambda source, *rest: (reads.append(source.path), decode_frame(source, *rest))[1],
    )
    array = dicomdl.read_volume(stack, threads=threads).array
    assert array.dtype == np.int32 and np.array_equal(array, stored)
    assert len(set(reads)) == 12 and len(reads) <= 13


# --- groups ---


def write_echoes(
    folder: Path,
    *,
    echo_times: tuple[float, ...] = (4.9, 7.2, 9.5),
    drop: dict[float, tuple[int, ...]] | None = None,
    **options: object,
) -> None:
    """A series with every position once per echo; echo t is offset by 1000 t."""

    def echo(value: float) -> object:
        def edit(dataset: object, z: int) -> None:
            dataset.EchoTime = value
            dataset.InstanceNumber = z * len(echo_times) + echo_times.index(value) + 1

        return edit

    given = {
        "shape": (6, 16, 12),
        "modality": "MR",
        "bits_stored": 16,
        "series_uid": "1.2.3.4",
        **options,
    }
    offsets = options.get("offsets", tuple(1000 * t for t in range(len(echo_times))))
    given.pop("offsets", None)
    for t, value in enumerate(echo_times):
        write_series(
            folder,
            **given,
            drop=(drop or {}).get(value, ()),
            offset=offsets[t],
            edit=echo(value),
            seed=t,
        )


def only_group(folder: Path) -> dicomdl.Group:
    groups = only_index(folder).groups
    assert len(groups) == 1
    return groups[0]


def test_a_group_is_one_array_with_a_leading_axis_and_says_what_it_is(folder: Path) -> None:
    write_echoes(folder, spacing=(3, 0.5, 0.7), orientation=OBLIQUE)
    volume = dicomdl.read_volume(only_group(folder))
    expected = np.stack([true_volume((6, 16, 12), offset=1000 * t) for t in range(3)])
    assert volume.shape == (3, 6, 16, 12) and volume.array.dtype == np.int16
    assert np.array_equal(volume.array, expected)
    assert (volume.dimension, volume.dimension_names) == ((4.9, 7.2, 9.5), ("echo_time",))
    assert np.allclose(volume.affine, true_affine((3, 0.5, 0.7), orientation=OBLIQUE), atol=1e-6)
    assert volume.geometry.shape == (6, 16, 12)
    assert "3 x 6 x 16 x 12" in repr(volume) and "by echo_time" in repr(volume)
    one = volume.at(-1)
    assert (
        np.array_equal(one.array, expected[2])
        and one.dimension == ()
        and one.frame.echo_time == 9.5
    )
    assert one.stack == only_group(folder)[2]
    with pytest.raises(UsageError, match="3 time points"):
        volume.at(3)


def test_a_group_has_one_dtype_that_holds_all_values_of_all_its_stacks(folder: Path) -> None:
    write_echoes(folder, offsets=(0, 40000, 100))
    volume = dicomdl.read_volume(only_group(folder))
    assert volume.array.dtype == np.int32
    assert np.array_equal(
        volume.array,
        np.stack([true_volume((6, 16, 12), offset=offset) for offset in (0, 40000, 100)]),
    )


@pytest.mark.parametrize("policy", ["raise", "accept", "resample"])
def test_an_incomplete_group_raises_with_its_missing_cells_under_every_policy(
    folder: Path, policy: str
) -> None:
    write_echoes(folder, drop={9.5: (4, 5)})
    group = only_group(folder)
    with pytest.raises(IncompleteGroup, match=r"t 2 \(9\.5\) lacks slices 4, 5") as caught:
        dicomdl.read_volume(group, irregular=policy)
    assert caught.value.missing == {9.5: [4, 5]}
    assert dicomdl.read_volume(group[0]).shape == (6, 16, 12)


def test_a_group_with_the_same_hole_everywhere_is_filled_in_every_stack(folder: Path) -> None:
    write_echoes(folder, drop={4.9: (3,), 7.2: (3,), 9.5: (3,)}, shear=(0, 0.5))
    with pytest.raises(IrregularStack):
        dicomdl.read_volume(only_group(folder))
    volume = dicomdl.read_volume(only_group(folder), irregular="resample")
    assert volume.shape[:2] == (3, 6) and np.flatnonzero(volume.filled).tolist() == [3]
    ramp_affine = true_affine((2, 1, 1), shear=(0, 0.5))
    for t in range(3):
        voxels = np.indices(volume.geometry.shape).reshape(3, -1).T
        z, y, x = (
            Geometry((1, 1, 1), ramp_affine)
            .world_to_voxel(volume.geometry.voxel_to_world(voxels))
            .T
        )
        inside = (y > -1e-6) & (y < 15 + 1e-6)
        assert (
            np.abs(volume.array[t].reshape(-1) - (53 * z + 7 * y + x + 1000 * t))[inside].max()
            <= 0.51
        )


class MadeUp(dicomdl.Group):
    """A group of arbitrary stacks, which a scan would not make: reading must detect it itself."""

    __slots__ = ("_stacks",)

    def __init__(self, stacks: list[dicomdl.Stack]) -> None:
        super().__init__(stacks[0]._generation, 0)
        self._stacks = stacks

    stacks = property(lambda self: self._stacks)
    dimension_names = ("echo_time",)
    dimension = property(lambda self: tuple(range(len(self._stacks))))
    missing: dict[object, list[int]] = {}  # noqa: RUF012

    def only(self, stacks: Sequence[dicomdl.Stack]) -> "MadeUp":
        return MadeUp(list(stacks))


@pytest.mark.parametrize(
    "other", [{"origin": (0, 0.3, 0)}, {"spacing": (2, 1, 1.05)}, {"shape": (6, 5, 8)}]
)
def test_stacks_that_are_not_on_one_grid_are_no_group_and_the_error_has_the_numbers(
    folder: Path, other: dict[str, object]
) -> None:
    write_series(folder / "a", series_uid="1.2.1")
    write_series(folder / "b", **{"shape": (6, 5, 7), "series_uid": "1.2.2", **other})
    with pytest.raises(GeometryError, match=r"stacks? (1 )?of the group") as caught:
        dicomdl.read_volume(MadeUp(list(only_index(folder).stacks)))
    assert caught.value.t == 1
    assert (
        caught.value.shape != caught.value.expected
        if "shape" in other
        else 0.25 < caught.value.error_mm < 0.35
    )


def test_stacks_on_one_grid_up_to_rounding_are_a_group(folder: Path) -> None:
    write_series(folder / "a", series_uid="1.2.1")
    write_series(folder / "b", series_uid="1.2.2", origin=(0, 0.04, 0))
    assert dicomdl.read_volume(MadeUp(list(only_index(folder).stacks))).shape == (2, 6, 5, 7)


def test_a_group_is_read_by_the_tolerances_that_its_scan_was_told(folder: Path) -> None:
    write_series(folder, shape=(6, 8, 9), series_uid="1.2.3", edit=_echo(4.9))
    write_series(folder, shape=(6, 8, 9), series_uid="1.2.3", origin=(0, 0.3, 0), edit=_echo(7.2))
    index = dicomdl.scan(
        folder,
        folder.parent / "wide.index",
        tolerances=dicomdl.Tolerances(in_plane_mm=1.0),
        progress=False,
    )
    (group,) = index.groups
    assert (len(group), group.tolerances.in_plane_mm) == (2, 1.0)
    assert dicomdl.read_volume(group).shape == (2, 6, 8, 9)


def test_slices_of_a_group_may_lie_apart_along_the_normal_as_the_scan_was_told(
    folder: Path,
) -> None:
    write_series(folder, shape=(6, 8, 9), series_uid="1.2.3", edit=_echo(4.9))
    write_series(folder, shape=(6, 8, 9), series_uid="1.2.3", origin=(0, 0, 0.15), edit=_echo(7.2))
    index = dicomdl.scan(
        folder,
        folder.parent / "wide.index",
        tolerances=dicomdl.Tolerances(same_position_mm=0.5),
        progress=False,
    )
    (group,) = index.groups
    assert dicomdl.read_volume(group).shape == (2, 6, 8, 9)


def test_a_slice_keeps_its_values_as_near_to_its_place_as_the_scan_was_told(folder: Path) -> None:
    places = [(0, 0, z) for z in (0, 2, 4.1, 6, 8, 11)]
    write_series(folder, positions=places)
    volumes = {}
    for tolerance in (0.01, 0.15):
        index = dicomdl.scan(
            folder,
            folder.parent / f"{tolerance}.index",
            tolerances=dicomdl.Tolerances(same_position_mm=tolerance),
            progress=False,
        )
        volumes[tolerance] = dicomdl.read_volume(index.stacks[0], irregular="resample").array
    assert not np.array_equal(volumes[0.01][2], true_volume((6, 5, 7))[2])
    assert np.array_equal(volumes[0.15][2], true_volume((6, 5, 7))[2])


def _echo(value: float) -> object:
    def edit(dataset: object, z: int) -> None:
        dataset.EchoTime = value

    return edit


def test_irregular_stacks_with_different_holes_are_no_group(folder: Path) -> None:
    write_series(folder / "a", shape=(8, 5, 7), series_uid="1.2.1", drop=(3,))
    write_series(folder / "b", shape=(8, 5, 7), series_uid="1.2.2", drop=(4,))
    with pytest.raises(GeometryError, match=r"2\.000 mm off"):
        dicomdl.read_volume(MadeUp(list(only_index(folder).stacks)), irregular="accept")


def test_stacks_of_different_slices_are_an_incomplete_group(folder: Path) -> None:
    write_series(folder / "a", shape=(8, 5, 7), series_uid="1.2.1")
    write_series(folder / "b", shape=(8, 5, 7), series_uid="1.2.2", drop=(0, 7))
    with pytest.raises(IncompleteGroup, match="lacks slices 0, 7") as caught:
        dicomdl.read_volume(MadeUp(list(only_index(folder).stacks)))
    assert caught.value.missing == {1: [0, 7]}


def test_a_stack_alone_in_its_group_has_a_leading_axis_too(folder: Path) -> None:
    write_series(folder, shape=(4, 5, 7))
    volume = dicomdl.read_volume(only_stack(folder).group)
    assert (
        volume.shape == (1, 4, 5, 7)
        and volume.dimension_names == ()
        and "by nothing" in repr(volume)
    )
    assert np.array_equal(volume.at(0).array, true_volume((4, 5, 7)))
    assert volume.window("ct.lung").shape == (1, 4, 5, 7)


def test_a_percentile_of_a_group_is_one_for_all_its_stacks(folder: Path) -> None:
    write_echoes(folder)
    group = only_group(folder)
    recipe = stack_intensity(group, dicomdl.Percentile(1, 99))
    volume = dicomdl.read_volume(group)
    shown = volume.window(dicomdl.Percentile(1, 99))
    assert np.array_equal(shown.array, recipe(volume.array)) and shown.dimension == volume.dimension
    assert stack_sample(group).shape[0] == 18
    assert recipe != stack_intensity(group[0], dicomdl.Percentile(1, 99))
    assert np.array_equal(
        volume.at(1).window("auto").array, dicomdl.read_volume(group[1]).window("auto").array
    )


def in_four(names: tuple[str, ...] = ("echo_time",), colour: bool = False) -> Volume:
    """Three ramps, 1000 apart, on one oblique grid, not read from files."""
    array = np.stack([true_volume((6, 9, 11), offset=1000 * t) for t in range(3)]).astype(np.int16)
    array = (
        np.stack([array % 256, array % 100, array % 7], axis=-1).astype(np.uint8)
        if colour
        else array
    )
    return Volume(
        array,
        Geometry((6, 9, 11), true_affine((3, 0.5, 0.7), (-10, 20, 30), OBLIQUE)),
        "",
        None,
        None,
        (4.9, 7.2, 9.5),
        names,
    )


@pytest.mark.parametrize("colour", [False, True])
def test_what_a_group_becomes_is_what_each_of_its_stacks_becomes(colour: bool) -> None:
    volume = in_four(colour=colour)
    for change in (
        lambda v: v.resample((2, 0.8, 0.7), fill=0),
        lambda v: v.reorient("LAI"),
        lambda v: v.resample(size=(4, 5, 6), interpolation="nearest", fill=0),
    ):
        changed = change(volume)
        assert changed.dimension == volume.dimension and changed.dimension_names == ("echo_time",)
        for t in range(3):
            alone = change(volume.at(t))
            assert (
                np.array_equal(changed.array[t], alone.array) and changed.geometry == alone.geometry
            )


@pytest.mark.parametrize("name", ["case.nii.gz", "case.nrrd", "case.mha"])
def test_a_group_is_saved_as_one_file_of_four_dimensions(tmp_path: Path, name: str) -> None:
    volume = in_four()
    volume.save(tmp_path / name)
    image = sitk.ReadImage(str(tmp_path / name))
    assert image.GetSize() == (11, 9, 6, 3)
    assert np.array_equal(sitk.GetArrayFromImage(image), volume.array)
    for voxel in product((0, 5), (0, 8), (0, 10)):
        there = image.TransformIndexToPhysicalPoint((*voxel[::-1], 2))
        assert np.allclose(there, (*volume.geometry.voxel_to_world(voxel), 2), atol=1e-3)
    back = Volume.from_sitk(image)
    assert back.dimension == (0.0, 1.0, 2.0) and back.dimension_names == ("t",)
    assert np.array_equal(back.array, volume.array) and np.allclose(
        back.affine, volume.affine, atol=1e-4
    )


def test_nibabel_finds_a_saved_group_where_it_is(tmp_path: Path) -> None:
    nibabel = pytest.importorskip("nibabel")
    volume = in_four()
    volume.save(tmp_path / "case.nii.gz")
    image = nibabel.load(tmp_path / "case.nii.gz")
    assert image.shape == (11, 9, 6, 3)
    assert np.array_equal(np.asarray(image.dataobj).T, volume.array)
    to_ras = np.diag([-1, -1, 1, 1])
    assert np.allclose(
        image.affine @ [10, 8, 5, 1], to_ras @ volume.affine @ [5, 8, 10, 1], atol=1e-3
    )


def test_a_group_of_colour_goes_through_simpleitk_and_back() -> None:
    volume = in_four(colour=True)
    back = Volume.from_sitk(volume.to_sitk())
    assert np.array_equal(back.array, volume.array) and len(back.dimension) == 3


def test_a_group_is_shown_by_its_middle_slice_across_time() -> None:
    volume = in_four()
    assert montage(volume, 4, (1000, 3000)).shape == (18, 22)
    pytest.importorskip("matplotlib")
    figure = volume.plot((1000, 3000), slices=2)
    assert [axes.get_title() for axes in figure.axes] == ["t 0, slice 3", "t 2, slice 3"]


def test_a_percentile_of_a_series_from_elsewhere_is_one_for_all_of_it() -> None:
    volume = in_four()
    option = dicomdl.Percentile(1, 99)
    assert np.array_equal(volume.window(option).array, option(volume.array))


def test_what_holds_no_stack_is_refused_before_anything_is_read(
    folder: Path,
) -> None:
    write_series(folder)
    index = only_index(folder)
    for wrong in (index.frame(0), index.source(0), np.zeros(3), 3, None):
        with pytest.raises(UsageError, match=type(wrong).__name__):
            dicomdl.read_volume(wrong)
