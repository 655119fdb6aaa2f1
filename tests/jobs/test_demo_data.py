"""The made-up data: what they are, where the lesion is, and that two calls write the same files."""

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pydicom
import pytest

import dicomdl
from dicomdl.errors import GeometryError, UsageError
from dicomdl.jobs._part10 import FileWriter
from dicomdl.jobs.demo_data import DemoData, demo_data

PATIENTS = 3


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> DemoData:
    return demo_data(tmp_path_factory.mktemp("demo") / "data", patients=PATIENTS)


@pytest.fixture(scope="module")
def index(data: DemoData) -> dicomdl.Index:
    return dicomdl.scan(data, Path(data.folder).parent / "demo.index", progress=False)


def test_a_file_has_the_elements_that_it_was_made_of(tmp_path: Path) -> None:
    elements = {
        "SOPClassUID": pydicom.uid.CTImageStorage,
        "SOPInstanceUID": "2.25.1",
        "PixelSpacing": ["1.5", "2"],
        "Rows": 3,
        "RadiopharmaceuticalInformationSequence": [{"RadionuclideTotalDose": 5e8}],
        0x00291010: ("OB", b"odd"),
        0x00290010: ("LO", b"SIEMENS CSA HEADER"),
        "DimensionIndexPointer": "ImagePositionPatient",
        "DimensionIndexValues": [1, 70000],
        "PixelData": np.arange(6, dtype="<u2").tobytes(),
    }
    (tmp_path / "file").write_bytes(FileWriter().file(elements))
    found = pydicom.dcmread(tmp_path / "file")
    assert [int(each.tag) for each in found] == sorted(int(each.tag) for each in found)
    assert found.PixelSpacing == [1.5, 2] and found.Rows == 3
    assert found.RadiopharmaceuticalInformationSequence[0].RadionuclideTotalDose == 5e8
    assert found.DimensionIndexPointer == 0x00200032 and found.DimensionIndexValues == [1, 70000]
    assert found[0x00291010].value == b"odd\0" and found.PixelData == elements["PixelData"]
    assert found.file_meta.FileMetaInformationGroupLength > 0


@pytest.mark.slow
def test_each_series_has_the_property_that_its_folder_names(index: dicomdl.Index) -> None:
    assert index.ledger["not_dicom"] == 1 and not index.problems
    stacks = {
        (os.path.basename(stack.path), tuple(stack.dimension)): stack
        for stack in index.select(patient_id="DEMO-001", content="image").stacks
    }
    verdicts = {name: stack.verdict for (name, _), stack in stacks.items()}
    assert verdicts == {
        "ct": "regular",
        "ct-tilted": "tilted",
        "ct-missing-slices": "missing_slices",
        "mr-two-echoes": "regular",
        "pet-slope-per-slice": "regular",
        "mr-mosaic": "regular",
        "film": "no_geometry",
    }
    assert {names for name, names in stacks if name == "mr-two-echoes"} == {("echo_time",)}
    assert stacks["ct-tilted", ()].detail["tilt_deg"] == pytest.approx(18)
    assert stacks["film", ()].value("photometric_interpretation") == "MONOCHROME1"
    assert len(set(stacks["pet-slope-per-slice", ()].values("rescale_slope"))) == 44


@pytest.mark.slow
def test_the_lesion_is_where_the_data_say_in_every_series(
    data: DemoData, index: dicomdl.Index
) -> None:
    for stack in index.select(modality=["CT", "PT"]).stacks:
        lesion = data.lesions[stack.patient_id]
        volume = dicomdl.read_volume(stack, irregular="resample")
        if stack.modality == "PT":
            volume = volume.suv()
        voxels = np.argwhere(volume.array > {"CT": 50, "PT": 7.5}[stack.modality])
        points = volume.geometry.voxel_to_world(voxels)
        near = np.linalg.norm(points - lesion.center, axis=1) < lesion.radius * 1.4
        assert np.abs(points[near].mean(axis=0) - lesion.center).max() < 1, stack


@pytest.mark.slow
def test_label_maps_lie_on_the_grid_of_each_stack(data: DemoData, index: dicomdl.Index) -> None:
    for stack in index.select(modality=["CT", "MR"], verdict=["regular", "tilted"]).stacks:
        lesion, labels = data.lesions[stack.patient_id], data.labels(stack)
        assert labels.dtype == np.uint8 and labels.shape == stack.shape
        volume_mm3 = labels.sum() * abs(np.linalg.det(stack.affine[:3, :3]))
        assert volume_mm3 == pytest.approx(4 / 3 * np.pi * lesion.radius**3, rel=0.15)
    with pytest.raises(GeometryError):
        data.labels(index.select(modality="DX").stacks[0])
    with pytest.raises(UsageError):
        DemoData(data.folder, 1).labels(index.select(patient_id="DEMO-002").stacks[0])


@pytest.mark.slow
def test_every_patient_has_a_segmentation_and_a_structure_set_of_its_ct(
    data: DemoData, index: dicomdl.Index
) -> None:
    stacks = index.select(has="SEG").stacks
    assert [Path(stack.path).name for stack in stacks] == ["ct"] * PATIENTS
    for stack in stacks:
        assert {(each.kind, each.status) for each in stack.annotations} == {
            ("SEG", "ok"),
            ("RTSTRUCT", "ok"),
        }
        seg = dicomdl.read_labels(stack, "SEG", align="exact")
        np.testing.assert_array_equal(seg.array == 1, data.labels(stack))
        assert seg.names == {1: "Lesion", 2: "Oedema"} and (seg.array == 2).any()
        drawn = dicomdl.read_labels(stack, "RTSTRUCT", channels=True)
        assert drawn.dimension == ("Brain", "Eye_L", "Eye_R", "GTV")
        regions = dict(zip(drawn.dimension, drawn.array, strict=True))
        both = regions["GTV"] & (seg.array == 1)
        assert 2 * both.sum() >= 0.97 * (regions["GTV"].sum() + (seg.array == 1).sum())
        # The tissues of the eyes and of the brain are where the contours are.
        hu = dicomdl.read_volume(stack).array
        assert np.median(hu[regions["Eye_L"]]) == pytest.approx(8, abs=5)
        assert np.median(hu[regions["Eye_R"]]) == pytest.approx(8, abs=5)
        assert 20 < np.median(hu[regions["Brain"]]) < 45
        assert stack.geometry.voxel_to_world(np.argwhere(regions["Eye_L"]))[:, 0].min() > 0


@pytest.mark.slow
def test_highdicom_reads_the_segmentation(index: dicomdl.Index) -> None:
    highdicom = pytest.importorskip("highdicom")
    for stack in index.select(has="SEG").stacks:
        (path,) = (each.path for each in stack.annotations if each.kind == "SEG")
        found = highdicom.seg.segread(path).get_pixels_by_source_instance(
            stack.values("sop_instance_uid"),
            combine_segments=True,
            assert_missing_frames_are_empty=True,
        )
        np.testing.assert_array_equal(found, dicomdl.read_labels(stack, "SEG").array)


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("dciodvfy"), reason="dciodvfy (dicom3tools) is not installed")
def test_dciodvfy_finds_no_error_in_the_labels(index: dicomdl.Index) -> None:
    for annotation in index.annotations:
        run = ["dciodvfy", annotation.path]
        said = subprocess.run(run, capture_output=True, text=True, check=False).stderr
        assert ("Segmentation" in said or "RTStructureSet" in said) and "Error" not in said, said


@pytest.mark.slow
def test_pydicom_reads_the_same_files_without_a_complaint(
    data: DemoData, index: dicomdl.Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pydicom.config.settings, "reading_validation_mode", pydicom.config.RAISE)
    for stack in index.select(content="image").stacks:
        frame = stack.middle
        dataset = pydicom.dcmread(frame.path)
        assert str(dataset)
        rows = slice(frame.tile_top, frame.tile_top + frame.rows)
        columns = slice(frame.tile_left, frame.tile_left + frame.columns)
        found = dataset.pixel_array
        found = found[rows, columns] if frame.tile_top >= 0 else found
        np.testing.assert_array_equal(found, dicomdl.read_frame(frame))


@pytest.mark.slow
def test_two_calls_write_the_same_files_and_a_complete_folder_is_left_alone(
    data: DemoData, tmp_path: Path
) -> None:
    def digests(folder: Path) -> dict[str, str]:
        return {
            path.relative_to(folder).as_posix(): hashlib.md5(path.read_bytes()).hexdigest()
            for path in folder.rglob("*")
            if path.is_file()
        }

    folder = Path(data.folder)
    again = demo_data(tmp_path / "again", patients=PATIENTS)
    assert digests(folder) == digests(Path(again.folder))
    times = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert demo_data(folder, patients=PATIENTS) == data
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == times
    with pytest.raises(UsageError, match="name a new folder"):
        demo_data(folder, patients=2)


@pytest.mark.parametrize("patients", [0, 100])
def test_a_number_of_patients_out_of_range_is_refused(patients: int, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="expected 1 to 99"):
        demo_data(tmp_path, patients=patients)
    assert not list(tmp_path.iterdir())
