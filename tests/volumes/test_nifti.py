"""NIfTI files of groups: time steps, b-values, gradient directions, and files that appear whole."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from phantoms import item, uid, write_multiframe, write_series
from phantoms_defects import Facts, clock, enhanced, parts, say, temporal_position
from phantoms_multi import write_mosaic

import dicomdl
from dicomdl.errors import StorageError
from dicomdl.volumes.nifti import GradientWarning

nib = pytest.importorskip("nibabel", reason="needs nibabel (extra `test`)")

SHAPE = (4, 5, 7)
PLANES: dict[str, tuple[float, ...]] = {
    "axial": (1, 0, 0, 0, 1, 0),
    "sagittal": (0, 1, 0, 0, 0, -1),
    "coronal": (1, 0, 0, 0, 0, -1),
    "oblique": (0.984808, 0.059391, -0.163176, 0, 0.939693, 0.34202),
}
GIVEN = ((0.0, 0.0, 0.0), (0.6, 0.48, 0.64), (1.0, 0.0, 0.0))
B_VALUES = (0, 1000, 1000)


def volume_of(folder: Path) -> dicomdl.Volume:
    """The volume of the only group of a folder."""
    groups = dicomdl.scan(folder, folder.parent / "index", progress=False).groups
    assert len(groups) == 1
    return dicomdl.read_volume(groups[0])


def header_of(volume: dicomdl.Volume, path: Path) -> tuple[float, str]:
    """The time step and its unit in the NIfTI header of a volume that is saved."""
    volume.save(path)
    image = nib.load(path)
    assert np.array_equal(np.asarray(image.dataobj).T, volume.array)
    return float(image.header.get_zooms()[3]), image.header.get_xyzt_units()[1]


def gradients_in_world(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """b-values and directions in LPS of the files of FSL beside an image, by its own affine."""
    image = nib.load(path)
    axes = np.diag([-1, -1, 1]) @ image.affine[:3, :3]
    axes = axes / np.linalg.norm(axes, axis=0)
    stem = str(path).removesuffix(".gz").removesuffix(".nii")
    vectors = np.loadtxt(f"{stem}.bvec", ndmin=2)
    if np.linalg.det(axes) > 0:
        vectors[0] *= -1
    return np.loadtxt(f"{stem}.bval", ndmin=1), (axes @ vectors).T


def write_diffusion(
    folder: Path,
    vendor: str,
    *,
    b_values: Sequence[float] = B_VALUES,
    given: Sequence[Sequence[float]] = GIVEN,
    plane: str = "axial",
    facts: Callable[[int], Facts] = lambda _: {},
) -> None:
    """Write one volume per direction, whose header has the private elements of a vendor."""

    def tell(n: int, _: int) -> Facts:
        b, direction = b_values[n], [float(x) for x in given[n]]
        private: dict[str, Facts] = {
            "GE": {
                (0x43, "GEMS_PARM_01", 0x39, "IS"): [int(b), 8, 0, 0],
                **{
                    (0x19, "GEMS_ACQU_01", 0xBB + axis, "DS"): f"{direction[axis]:.6f}"
                    for axis in range(3)
                },
            },
            "UIH": {
                (0x65, "Image Private Header", 0x09, "FD"): float(b),
                (0x65, "Image Private Header", 0x37, "FD"): direction,
            },
            "SIEMENS": {
                (0x19, "SIEMENS MR HEADER", 0x0C, "IS"): int(b),
                **({(0x19, "SIEMENS MR HEADER", 0x0E, "FD"): direction} if any(direction) else {}),
            },
            "Philips": {
                (0x2001, "Philips Imaging DD 001", 0x03, "FL"): float(b),
                **{
                    (0x2005, "Philips MR Imaging DD 001", 0xB0 + axis, "FL"): direction[axis]
                    for axis in range(3)
                },
            },
            "standard": {
                "DiffusionBValue": float(b),
                "DiffusionGradientOrientation": direction,
            },
        }
        return {
            "Manufacturer": vendor,
            "RepetitionTime": 5000,
            "AcquisitionNumber": n + 1,
            **private[vendor],
            **facts(n),
        }

    parts(folder, len(b_values), tell, shape=SHAPE, modality="MR", orientation=PLANES[plane])


# --- time -----------------------------------------------------------------------------------------


@pytest.mark.quick(2)
@pytest.mark.parametrize("name", ["case.nii", "case.nii.gz"])
@pytest.mark.parametrize("repetition", [5000, 730.5])
def test_a_time_series_states_its_repetition_time(
    tmp_path: Path, name: str, repetition: float
) -> None:
    parts(
        tmp_path / "dicom",
        3,
        lambda n, z: {**temporal_position(n, z), "RepetitionTime": repetition},
        modality="MR",
    )
    volume = volume_of(tmp_path / "dicom")
    assert volume.time_step_s == repetition / 1000
    step, unit = header_of(volume, tmp_path / name)
    assert (step, unit) == (pytest.approx(repetition / 1000), "sec")
    assert not list(tmp_path.glob("*.bv*"))


@pytest.mark.quick(2)
@pytest.mark.parametrize("name", ["case.nii", "case.nii.gz"])
@pytest.mark.parametrize(
    "facts",
    [
        lambda n, _: {"EchoTime": 5 + n, "RepetitionTime": 5000},
        lambda n, z: {**temporal_position(n, z), "RepetitionTime": 4.1},
        lambda n, z: {**temporal_position(n, z), "AcquisitionTime": clock(10 * n + 5 * (n == 2))},
    ],
    ids=["echoes", "excitations", "unequal"],
)
def test_a_series_without_a_time_step_states_none(tmp_path: Path, name: str, facts: Any) -> None:
    parts(tmp_path / "dicom", 3, facts, modality="MR")
    volume = volume_of(tmp_path / "dicom")
    assert np.isnan(volume.time_step_s)
    assert header_of(volume, tmp_path / name) == (0, "unknown")


def test_frames_of_a_dynamic_series_of_any_modality_have_the_step_of_their_clock(
    tmp_path: Path,
) -> None:
    parts(tmp_path / "ct", 3, lambda n, _: {"AcquisitionTime": clock(2.5 * n)}, shape=SHAPE)
    assert header_of(volume_of(tmp_path / "ct"), tmp_path / "a.nii") == (2.5, "sec")
    parts(tmp_path / "pet", 3, lambda n, _: {"FrameReferenceTime": 30e3 + 60e3 * n}, modality="PT")
    assert header_of(volume_of(tmp_path / "pet"), tmp_path / "b.nii") == (60, "sec")


def test_an_enhanced_series_has_the_step_of_its_frames(tmp_path: Path) -> None:
    (tmp_path / "dicom").mkdir()
    enhanced(
        tmp_path / "dicom",
        3,
        lambda n, z: {
            "TemporalPositionIndex": n + 1,
            "FrameAcquisitionDateTime": f"20200101{clock(1.5 * n + 0.2 * z)}",
        },
        facts={"RepetitionTime": 4.1},
    )
    assert header_of(volume_of(tmp_path / "dicom"), tmp_path / "a.nii") == (1.5, "sec")


def test_a_part_with_one_echo_has_the_step_of_its_time_points(tmp_path: Path) -> None:
    parts(
        tmp_path / "dicom",
        6,
        lambda n, _: {
            "TemporalPositionIdentifier": 1 + n // 2,
            "EchoTime": 5 + 5 * (n % 2),
            "RepetitionTime": 2000,
        },
        modality="MR",
    )
    volume = volume_of(tmp_path / "dicom")
    assert len(volume.dimension_names) == 2 and np.isnan(volume.time_step_s)
    part = dataclasses.replace(
        volume,
        array=volume.array[::2],
        dimension=volume.dimension[::2],
        stacks=volume.stacks[::2],
    )
    assert part.time_step_s == 2


def test_mosaics_have_the_step_of_their_files(tmp_path: Path) -> None:
    (tmp_path / "dicom").mkdir()
    for n in range(3):

        def stamp(dataset: Any, _: int, n: int = n) -> None:
            dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = uid("m", n)
            say(
                dataset,
                {
                    "AcquisitionNumber": n + 1,
                    "AcquisitionTime": clock(2.0025 * n),
                    "RepetitionTime": 2000,
                },
            )

        write_mosaic(tmp_path / "dicom" / f"{n}.dcm", edit=stamp)
    assert header_of(volume_of(tmp_path / "dicom"), tmp_path / "a.nii") == (2, "sec")


def test_a_step_goes_through_simpleitk_and_every_format(tmp_path: Path) -> None:
    parts(
        tmp_path / "dicom",
        3,
        lambda n, z: {**temporal_position(n, z), "RepetitionTime": 2500},
        modality="MR",
    )
    volume = volume_of(tmp_path / "dicom").resample(2.0)
    assert volume.to_sitk().GetSpacing()[3] == 2.5
    for name in ("a.mha", "a.nii.gz"):
        volume.save(tmp_path / name)
        back = dicomdl.Volume.from_sitk(sitk.ReadImage(str(tmp_path / name)))
        assert back.dimension == (0, 2.5, 5)
        assert back.time_step_s == 2.5
    assert header_of(back, tmp_path / "b.nii") == (2.5, "sec")


# --- diffusion ------------------------------------------------------------------------------------


# What dcm2niix 1.0.20260724 makes of these headers, in LPS: the first direction of GIVEN.
IN_WORLD = {
    ("standard", "oblique", ""): (0.6, 0.48, 0.64),
    ("SIEMENS", "sagittal", ""): (0.6, 0.48, 0.64),
    ("SIEMENS", "oblique", ""): (0.6, 0.48, 0.64),
    ("Philips", "coronal", ""): (0.6, 0.48, 0.64),
    ("Philips", "oblique", ""): (0.6, 0.48, 0.64),
    ("UIH", "axial", ""): (0.6, 0.48, 0.64),
    ("UIH", "sagittal", ""): (-0.64, 0.6, -0.48),
    ("UIH", "coronal", ""): (0.6, 0.64, -0.48),
    ("GE", "axial", "COL"): (-0.6, -0.48, 0.64),
    ("GE", "axial", "ROW"): (-0.48, 0.6, 0.64),
    ("GE", "sagittal", "COL"): (0.64, 0.6, -0.48),
    ("GE", "sagittal", "ROW"): (0.64, 0.48, 0.6),
    ("GE", "coronal", "COL"): (-0.6, 0.64, -0.48),
    ("GE", "coronal", "ROW"): (0.48, 0.64, -0.6),
}


@pytest.mark.quick(2)
@pytest.mark.parametrize(("vendor", "plane", "phase"), IN_WORLD)
def test_directions_of_every_vendor_and_plane_are_those_of_dcm2niix(
    tmp_path: Path, vendor: str, plane: str, phase: str
) -> None:
    write_diffusion(
        tmp_path / "dicom",
        vendor,
        plane=plane,
        facts=lambda _: {"InPlanePhaseEncodingDirection": phase},
    )
    volume = volume_of(tmp_path / "dicom")
    assert volume.b_values.tolist() == [0, 1000, 1000]
    expected = IN_WORLD[vendor, plane, phase]
    assert np.allclose(volume.b_vectors[1], expected, atol=1e-6)
    assert not volume.b_vectors[0].any()
    volume.save(tmp_path / "a.nii.gz")
    b_values, vectors = gradients_in_world(tmp_path / "a.nii.gz")
    assert b_values.tolist() == [0, 1000, 1000]
    assert np.allclose(vectors, volume.b_vectors, atol=1e-5)


@pytest.mark.quick(1)
@pytest.mark.parametrize("axes", ["RAS", "LPI", "SAR", "PIR"])
def test_directions_follow_the_axes_of_the_array_that_is_saved(tmp_path: Path, axes: str) -> None:
    write_diffusion(tmp_path / "dicom", "SIEMENS", plane="oblique")
    volume = volume_of(tmp_path / "dicom")
    for changed in (volume.reorient(axes), volume.reorient(axes).resample(1.5)):
        changed.save(tmp_path / "a.nii")
        assert np.allclose(changed.b_vectors, volume.b_vectors)
        assert np.allclose(gradients_in_world(tmp_path / "a.nii")[1], volume.b_vectors, atol=1e-5)


def test_the_files_of_an_axial_series_have_the_rows_and_signs_of_fsl(tmp_path: Path) -> None:
    write_diffusion(tmp_path / "dicom", "SIEMENS", b_values=(0, 1000, 929.7501))
    volume_of(tmp_path / "dicom").save(tmp_path / "a.nii")
    assert (tmp_path / "a.bval").read_text() == "0 929 1000\n"
    # the axes (column, row, slice) run to left, posterior and superior: right-handed
    assert (tmp_path / "a.bvec").read_text() == "0 -1 -0.6\n0 0 0.48\n0 0 0.64\n"


def test_enhanced_frames_give_their_diffusion_macro(tmp_path: Path) -> None:
    cells = [(n, z) for z in (2, 0, 3, 1) for n in (1, 2, 0)]

    def add(dataset: Any, _: int) -> None:
        groups = dataset.PerFrameFunctionalGroupsSequence
        for (n, _), group in zip(cells, groups, strict=True):
            macro = item(DiffusionBValue=float(B_VALUES[n]))
            if n:
                direction = item(DiffusionGradientOrientation=list(GIVEN[n]))
                macro[0].DiffusionGradientDirectionSequence = direction
            group.MRDiffusionSequence = macro

    (tmp_path / "dicom").mkdir()
    write_multiframe(
        tmp_path / "dicom" / "a",
        shape=SHAPE,
        order=[z for _, z in cells],
        modality="MR",
        orientation=PLANES["oblique"],
        edit=add,
    )
    volume = volume_of(tmp_path / "dicom")
    found = {tuple(v): b for v, b in zip(volume.b_vectors.round(6), volume.b_values, strict=True)}
    assert found == dict(zip(GIVEN, B_VALUES, strict=True))
    volume.save(tmp_path / "a.nii")
    assert np.allclose(gradients_in_world(tmp_path / "a.nii")[1], volume.b_vectors, atol=1e-5)


def test_a_shorter_ge_gradient_is_a_smaller_b_value(tmp_path: Path) -> None:
    given = ((0, 0, 0), (0.7071, 0, 0), (0, 0.6, 0.8))
    write_diffusion(
        tmp_path / "dicom",
        "GE",
        b_values=(1000, 1000, 1000),
        given=given,
        facts=lambda _: {"InPlanePhaseEncodingDirection": "COL"},
    )
    volume = volume_of(tmp_path / "dicom")
    assert sorted(volume.b_values.tolist()) == [0, 500, 1000]
    lengths = np.linalg.norm(volume.b_vectors, axis=1)
    assert np.allclose(sorted(lengths), [0, 1, 1])


def test_ge_marks_several_b_values_by_a_billion(tmp_path: Path) -> None:
    write_diffusion(tmp_path / "dicom", "GE", b_values=(0, 1000000700, 1000001400))
    assert volume_of(tmp_path / "dicom").b_values.tolist() == [0, 700, 1400]


def test_directions_of_ge_without_a_phase_axis_are_written_with_a_warning(tmp_path: Path) -> None:
    write_diffusion(tmp_path / "dicom", "GE")
    volume = volume_of(tmp_path / "dicom")
    with pytest.warns(GradientWarning, match="Phase Encoding"):
        volume.save(tmp_path / "a.nii")
    # those of phase encoding in the column, with the sign of the stored numbers
    assert np.allclose(volume.b_vectors[1], (0.6, 0.48, -0.64))


def test_directions_of_ge_without_private_creators_are_read(tmp_path: Path) -> None:
    facts: Facts = {"ScanningSequence": ["EP", "RM"], "InPlanePhaseEncodingDirection": "COL"}
    write_diffusion(tmp_path / "dicom", "GE", facts=lambda _: facts)
    for path in (tmp_path / "dicom").iterdir():
        dataset = pydicom.dcmread(path)
        del dataset[0x0019, 0x0010], dataset[0x0043, 0x0010]
        dataset.save_as(path)
    volume = volume_of(tmp_path / "dicom")
    assert volume.b_values.tolist() == [0, 1000, 1000]
    assert np.allclose(volume.b_vectors[1], IN_WORLD["GE", "axial", "COL"])


@pytest.mark.quick(2)
@pytest.mark.parametrize("vendor", ["SIEMENS", "GE", "Philips", "standard"])
def test_a_trace_has_a_b_value_and_no_direction(tmp_path: Path, vendor: str) -> None:
    write_diffusion(tmp_path / "dicom", vendor, b_values=(0, 1000), given=((0, 0, 0), (0, 0, 0)))
    volume_of(tmp_path / "dicom").save(tmp_path / "a.nii")
    assert (tmp_path / "a.bval").read_text() == "0 1000\n"
    assert (tmp_path / "a.bvec").read_text() == "0 0\n" * 3


def test_a_group_without_diffusion_gets_no_files(tmp_path: Path) -> None:
    write_diffusion(tmp_path / "dicom", "Philips", b_values=(0, 0, 0), given=((0, 0, 0),) * 3)
    volume = volume_of(tmp_path / "dicom")
    volume.save(tmp_path / "a.nii")
    assert not list(tmp_path.glob("*.bv*"))
    assert volume.at(0).b_values.shape == (0,)


def test_a_map_among_diffusion_images_leaves_the_files_out(tmp_path: Path) -> None:
    def facts(n: int) -> Facts:
        kind = ["DERIVED", "PRIMARY", "DIFFUSION", "ADC"] if n == 2 else ["ORIGINAL", "PRIMARY"]
        return {"ImageType": kind}

    write_diffusion(tmp_path / "dicom", "SIEMENS", facts=facts)
    index = dicomdl.scan(tmp_path / "dicom", tmp_path / "index", progress=False)
    for group in index.groups:
        volume = dicomdl.read_volume(group)
        is_map = ["ADC" in stack.value("image_type") for stack in group]
        assert np.isnan(volume.b_values).tolist() == is_map
        volume.save(tmp_path / f"{group.number}.nii")
        assert (tmp_path / f"{group.number}.bval").exists() == (not any(is_map))


# --- files ----------------------------------------------------------------------------------------


def test_a_file_that_cannot_be_written_leaves_everything_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_diffusion(tmp_path / "dicom", "SIEMENS")
    volume = volume_of(tmp_path / "dicom")
    target = tmp_path / "out"
    target.mkdir()
    volume.save(target / "a.nii")
    before = {path.name: path.read_bytes() for path in target.iterdir()}

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("dicomdl.volumes._saving.write_nifti", full)
    with pytest.raises(StorageError, match="No space left"):
        volume.reorient("RAS").save(target / "a.nii")
    assert {path.name: path.read_bytes() for path in target.iterdir()} == before


def test_files_replace_those_of_the_name_and_are_their_owners_only(tmp_path: Path) -> None:
    write_diffusion(tmp_path / "dicom", "SIEMENS")
    volume = volume_of(tmp_path / "dicom")
    target = tmp_path / "out"
    target.mkdir()
    for suffix in (".nii.gz", ".bval", ".bvec"):
        (target / f"a{suffix}").write_text("old")

    def modes() -> set[int]:
        return {path.stat().st_mode & 0o777 for path in target.iterdir()}

    volume.save(target / "a.nii.gz")
    assert sorted(path.name for path in target.iterdir()) == ["a.bval", "a.bvec", "a.nii.gz"]
    assert all("old" not in (target / f"a{suffix}").read_text() for suffix in (".bval", ".bvec"))
    assert modes() == {0o600}


def test_a_volume_from_elsewhere_is_saved_for_its_owner_too(tmp_path: Path) -> None:
    volume = dicomdl.Volume(np.zeros((2, 3, 4)), dicomdl.Geometry((2, 3, 4), np.eye(4)))
    volume.save(tmp_path / "a.nii")
    assert (tmp_path / "a.nii").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("name", ["case.nhdr", "case.mhd"])
def test_a_format_of_two_files_is_read_back(tmp_path: Path, name: str) -> None:
    write_series(tmp_path / "dicom", shape=SHAPE)
    index = dicomdl.scan(tmp_path / "dicom", tmp_path / "index", progress=False)
    volume = dicomdl.read_volume(index.stacks[0])
    (tmp_path / "out").mkdir()
    volume.save(tmp_path / "out" / name)
    image = sitk.ReadImage(str(tmp_path / "out" / name))
    assert np.array_equal(sitk.GetArrayFromImage(image), volume.array)
    assert len(list((tmp_path / "out").iterdir())) == 2
