"""Volumes saved and loaded again: the same values at the same places."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from phantoms import true_affine, true_volume, write_series

import dicomdl
from dicomdl import Geometry, Volume
from dicomdl.errors import GeometryError, StorageError

nib = pytest.importorskip("nibabel")

SHAPE = (4, 5, 7)
OBLIQUE = (0.8, 0.6, 0.0, -0.36, 0.48, 0.8)
FORMATS = ("a.nii", "a.nii.gz", "a.nrrd", "a.nhdr", "a.mha", "a.mhd")


def grid(shear: float = 0.0) -> Geometry:
    affine = true_affine((3.1, 0.7, 0.6), (-113.7, 21.3, 408.9), OBLIQUE)
    affine[:3, 0] += shear * affine[:3, 1]
    return Geometry(SHAPE, affine)


def volume(dtype: str = "int16", *, shear: float = 0.0, samples: int = 0, **more: Any) -> Volume:
    times = len(more.get("dimension", ()))
    array = true_volume(SHAPE)
    array = np.stack([array + 500 * t for t in range(times)]) if times else array
    array = array[..., None] * np.arange(1, samples + 1) if samples else array
    return Volume((array % 251).astype(dtype), grid(shear), "HU", **more)


def assert_equal(loaded: Volume, saved: Volume) -> None:
    assert np.array_equal(loaded.array, saved.array) and loaded.dtype == saved.dtype
    assert np.allclose(loaded.affine, saved.affine, rtol=1e-5, atol=1e-5)
    assert loaded.geometry.shape == saved.geometry.shape and loaded.units == saved.units
    assert len(loaded.dimension) == len(saved.dimension)
    assert loaded.array.flags.c_contiguous and loaded.array.flags.writeable


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize(
    "dtype", ["uint8", "int16", "uint16", "int32", "int64", "float32", "float64"]
)
def test_what_was_saved_is_loaded(tmp_path: Path, name: str, dtype: str) -> None:
    path = volume(dtype).save(tmp_path / name)
    assert path == str(tmp_path / name)
    assert_equal(Volume.load(path), volume(dtype))


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("dtype", [">i2", ">f4"])
def test_big_endian_values_come_back(tmp_path: Path, name: str, dtype: str) -> None:
    loaded = Volume.load(volume(dtype).save(tmp_path / name))
    assert np.array_equal(loaded.array, volume(dtype).array)
    assert loaded.dtype.name == np.dtype(dtype).name


@pytest.mark.quick(18)
@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("samples", [1, 2, 3, 4, 6])
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_samples_and_time_points_come_back(
    tmp_path: Path, name: str, samples: int, dtype: str
) -> None:
    for dimension in ((), (0.0, 2.5, 5.0)):
        names = ("t",) if dimension else ()
        saved = volume(dtype, samples=samples, dimension=dimension, dimension_names=names)
        if samples == 1 and not name.startswith("a.nii"):
            continue
        assert_equal(Volume.load(saved.save(tmp_path / name)), saved)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("step", [0.72, 1.0, 2.0])
def test_a_time_step_comes_back_also_one_of_a_second(
    tmp_path: Path, name: str, step: float
) -> None:
    saved = volume(dimension=(0.0, step, 2 * step), dimension_names=("time_s",))
    loaded = Volume.load(saved.save(tmp_path / name))
    assert_equal(loaded, saved)
    assert loaded.time_step_s == saved.time_step_s == pytest.approx(step)
    assert loaded.dimension_names == ("time_s",)
    again = Volume.load(loaded.save(tmp_path / name))
    assert again.time_step_s == pytest.approx(step)


@pytest.mark.parametrize("name", FORMATS)
def test_values_without_a_time_step_are_counted(tmp_path: Path, name: str) -> None:
    saved = volume(dimension=(4.9, 7.2, 11.0), dimension_names=("echo_time",))
    loaded = Volume.load(saved.save(tmp_path / name))
    assert loaded.dimension == (0, 1, 2) and loaded.dimension_names == ("t",)
    assert np.isnan(loaded.time_step_s)


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_a_tilted_volume_is_saved_with_its_shear_and_loaded(tmp_path: Path, name: str) -> None:
    saved = volume(shear=0.4)
    assert_equal(Volume.load(saved.save(tmp_path / name)), saved)
    header = nib.load(tmp_path / name)
    assert int(header.header["qform_code"]) == 0 and int(header.header["sform_code"]) == 1
    lps = np.diag([-1, -1, 1, 1]) @ header.affine
    assert np.allclose(lps[:, [2, 1, 0, 3]], saved.affine, atol=1e-4)
    series = volume(shear=0.4, dimension=(0.0, 2.0), dimension_names=("time_s",))
    assert_equal(Volume.load(series.save(tmp_path / name)), series)


@pytest.mark.parametrize("name", FORMATS[2:])
def test_other_formats_refuse_a_tilt(tmp_path: Path, name: str) -> None:
    with pytest.raises(GeometryError, match="tilted"):
        volume(shear=0.4).save(tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_a_tilted_stack_goes_through_a_file(tmp_path: Path) -> None:
    write_series(tmp_path / "s", shape=(6, 7, 8), shear=(0, 0.3), intercept=-1024)
    stack = dicomdl.scan(tmp_path / "s", tmp_path / "index", progress=False).stacks[0]
    saved = dicomdl.read_volume(stack)
    assert stack.verdict == "tilted"
    loaded = Volume.load(saved.save(tmp_path / "a.nii.gz"))
    assert_equal(loaded, saved)
    assert loaded.stack is None and loaded.series_instance_uid == ""


def test_bool_becomes_uint8_and_half_floats_become_float32(tmp_path: Path) -> None:
    mask = volume().like(volume().array > 50)
    for name in FORMATS:
        loaded = Volume.load(mask.save(tmp_path / name))
        assert loaded.dtype == np.uint8 and np.array_equal(loaded.array, mask.array)
    half = volume("float16")
    assert Volume.load(half.save(tmp_path / "a.nii")).dtype == np.float32
    assert mask.to_sitk().GetPixelID() == sitk.sitkUInt8


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
@pytest.mark.parametrize("samples", [0, 3])
def test_simpleitk_reads_the_same_nifti(tmp_path: Path, name: str, samples: int) -> None:
    saved = volume("uint8", samples=samples)
    image = sitk.ReadImage(saved.save(tmp_path / name))
    other = Volume.from_sitk(image)
    assert np.array_equal(other.array, saved.array)
    assert np.allclose(other.affine, saved.affine, atol=1e-4)


def test_nifti_of_other_programs_is_loaded(tmp_path: Path) -> None:
    array = np.arange(2 * 3 * 4, dtype=">i2").reshape(2, 3, 4)
    affine = np.array([[2, 0, 0, 1], [0, 3, 0, 2], [0, 0, 4, 3], [0, 0, 0, 1.0]])
    image = nib.Nifti2Image(array, affine)
    image.header.set_xyzt_units("micron", "msec")
    nib.save(image, tmp_path / "two.nii")
    loaded = Volume.load(tmp_path / "two.nii")
    assert loaded.array[3, 2, 1] == array[1, 2, 3] and loaded.dtype == np.int16
    assert np.allclose(loaded.spacing, (0.004, 0.003, 0.002))
    scaled = nib.Nifti1Image(array.astype(np.int16), affine)
    scaled.header.set_slope_inter(0.5, 10)
    nib.save(scaled, tmp_path / "scaled.nii")
    loaded = Volume.load(tmp_path / "scaled.nii")
    assert loaded.dtype == np.float32 and np.allclose(
        loaded.array.T, nib.load(tmp_path / "scaled.nii").get_fdata()
    )


def test_a_suffix_may_have_capitals(tmp_path: Path) -> None:
    for name in ("A.NII", "B.Nii.GZ", "C.NRRD"):
        assert_equal(Volume.load(volume().save(tmp_path / name)), volume())
    assert sorted(os.listdir(tmp_path)) == ["A.NII", "B.Nii.GZ", "C.NRRD"]
    assert (tmp_path / "B.Nii.GZ").read_bytes().startswith(b"\x1f\x8b")


def test_milliseconds_are_seconds(tmp_path: Path) -> None:
    image = nib.Nifti1Image(np.zeros((2, 3, 4, 5), np.int16), np.eye(4))
    image.header.set_xyzt_units("mm", "msec")
    image.header["pixdim"][4] = 2500
    nib.save(image, tmp_path / "a.nii")
    loaded = Volume.load(tmp_path / "a.nii")
    assert loaded.time_step_s == pytest.approx(2.5) and loaded.shape == (5, 4, 3, 2)


def test_nifti_without_a_place_has_an_unknown_affine(tmp_path: Path) -> None:
    nib.save(nib.Nifti1Image(np.zeros((2, 3, 4), np.int16), None), tmp_path / "a.nii")
    image = nib.load(tmp_path / "a.nii")
    image.set_sform(None, 0)
    image.set_qform(None, 0)
    nib.save(image, tmp_path / "b.nii")
    assert not Volume.load(tmp_path / "b.nii").geometry.is_known


def test_nrrd_of_other_programs_keeps_its_shear(tmp_path: Path) -> None:
    array = np.arange(24, dtype="<i2").reshape(2, 3, 4)
    text = (
        "NRRD0004\ntype: short\ndimension: 3\nspace: left-posterior-superior\nsizes: 4 3 2\n"
        "space directions: (0.5,0,0) (0,0.6,0) (0,1.5,4)\nkinds: domain domain domain\n"
        "endian: little\nencoding: raw\nspace origin: (1,2,3)\n\n"
    )
    (tmp_path / "a.nrrd").write_bytes(text.encode() + array.tobytes())
    loaded = Volume.load(tmp_path / "a.nrrd")
    assert np.array_equal(loaded.array, array)
    assert np.allclose(loaded.affine[:3, 0], (0, 1.5, 4)) and loaded.origin == (1, 2, 3)


@pytest.mark.parametrize("name", FORMATS)
def test_a_damaged_file_is_a_typed_error(tmp_path: Path, name: str) -> None:
    path = Path(volume().save(tmp_path / name))
    content = path.read_bytes()
    for damaged in (content[: len(content) // 2], b"", b"text" * 200):
        path.write_bytes(damaged)
        with pytest.raises((StorageError, GeometryError)):
            Volume.load(path)


def test_what_is_no_file_or_of_another_format_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="no such file"):
        Volume.load(tmp_path / "absent.nii")
    with pytest.raises(StorageError, match="DICOM is read by"):
        Volume.load(tmp_path / "a.dcm")


def test_a_volume_without_a_place_is_not_saved(tmp_path: Path) -> None:
    unknown = Volume(np.zeros(SHAPE), Geometry(SHAPE, np.full((4, 4), np.nan)))
    with pytest.raises(GeometryError, match="no place in space"):
        unknown.save(tmp_path / "a.nii")
    assert os.listdir(tmp_path) == []


def test_an_axis_that_nifti_cannot_count_is_a_typed_error(tmp_path: Path) -> None:
    long = Volume(np.zeros((1, 40_000, 2), np.uint8), Geometry((1, 40_000, 2), np.eye(4)))
    with pytest.raises(StorageError, match="NIfTI cannot hold"):
        long.save(tmp_path / "a.nii")
