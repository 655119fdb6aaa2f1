"""Stacks whose slices have several identifiers are selected, split and reported as a whole."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from phantoms import uid, write_segmentation_1bit, write_series
from pydicom.dataset import Dataset

import dicomdl

AXIAL, SAGITTAL = (1, 0, 0, 0, 1, 0), (0, 1, 0, 0, 0, -1)


def write(folder: Path, tell: Callable[[int], dict[str, Any]], **options: Any) -> None:
    def edit(dataset: Dataset, z: int) -> None:
        for keyword, value in tell(z).items():
            setattr(dataset, keyword, value)

    options = {"series_uid": uid("one series"), "study_uid": uid("a study"), **options}
    write_series(folder, edit=edit, **options)


def scan(folder: Path) -> dicomdl.Index:
    return dicomdl.scan(folder, folder.parent / f"{folder.name}.index", progress=False)


def study(z: int) -> str:
    return uid("study of a slice", z)


def test_a_stack_of_several_studies_reports_the_first(tmp_path: Path) -> None:
    write(tmp_path / "in", lambda z: {"StudyInstanceUID": study(z)})
    index = scan(tmp_path / "in")
    (stack,) = index.stacks
    assert stack.study_instance_uid == study(0)
    assert dicomdl.read_volume(stack).study_instance_uid == study(0)
    assert index.counts["studies"] == index.counts["series"] == 1
    (only,) = index.studies
    assert only.study_instance_uid == study(0)
    assert len(index.select(study_instance_uid=study(0)).stacks) == 1
    assert len(index.select(study_instance_uid=study(3))) == 0
    # The fact of the header stays what it is.
    assert [frame.study_instance_uid for frame in stack.frames] == [study(z) for z in range(6)]


def test_samples_have_the_identity_of_their_stack(tmp_path: Path) -> None:
    write(
        tmp_path / "in",
        lambda z: {"StudyInstanceUID": study(z), "PatientID": "" if z < 2 else "P"},
    )
    index = scan(tmp_path / "in")
    pytest.importorskip("torch")
    frames = dicomdl.FrameDataset(index, intensity=None)
    volumes = dicomdl.VolumeDataset(index, intensity=None)
    patches = dicomdl.PatchDataset(index, size=(2, 2, 2), intensity=None)
    for sample in (*(frames[i] for i in range(6)), volumes[0], patches[0]):
        assert (sample["patient_id"], sample["study_instance_uid"]) == ("P", study(0))


def test_a_blank_patient_is_selected_with_the_stack(tmp_path: Path) -> None:
    write(tmp_path / "in", lambda z: {"PatientID": "" if z < 2 else "P"})
    index = scan(tmp_path / "in")
    (stack,) = index.stacks
    assert stack.patient_id == "P"
    assert index.counts["patients"] == 1
    assert len(index.select(patient_id="P")) == 6
    assert len(index.select(patient_id="")) == 0


@pytest.mark.slow
@pytest.mark.parametrize("by", ["patient", "study", "series"])
def test_no_split_takes_a_stack_or_a_series_apart(tmp_path: Path, by: str) -> None:
    for number in range(6):
        for orientation in (AXIAL, SAGITTAL):
            write(
                tmp_path / "in",
                lambda z, n=number, o=orientation: {  # type: ignore[misc]
                    "StudyInstanceUID": uid(n, z, o),
                    "PatientID": "" if n % 2 or z < 2 else f"P{n}",
                },
                series_uid=uid("series", number),
                frame_of_reference=uid("frame", number),
                orientation=orientation,
                seed=number,
            )
    index = scan(tmp_path / "in")
    assert index.counts["series"] == 6
    assert index.counts["stacks"] == 12
    for seed in range(8):
        parts = index.split((0.5, 0.5), by=by, seed=seed)
        assert sum(len(part.stacks) for part in parts) == 12
        one, two = ({stack.series_instance_uid for stack in part.stacks} for part in parts)
        assert not one & two


def test_the_check_reports_what_was_joined_and_asks_for_nobody(tmp_path: Path) -> None:
    write(
        tmp_path / "in",
        lambda z: {"FrameOfReferenceUID": study(z), "PatientID": "" if z == 4 else "Doe^Jane"},
    )
    check = scan(tmp_path / "in").check()
    assert check.ok
    (row,) = check.rows
    assert "6 Frame of Reference UIDs, which tell nothing apart" in row.reason
    assert "PatientID blank in 1 of 6 slices" in row.reason
    assert "joined although the slices have several identifiers: 1 stack" in str(check)
    assert "Doe" not in f"{check}{check.to_dict()}"


def test_slices_without_a_frame_of_reference_that_fit_two_grids_need_a_person(
    tmp_path: Path,
) -> None:
    for n in range(2):
        frame = uid("frame", n)
        write(
            tmp_path / "in", lambda _, f=frame: {"FrameOfReferenceUID": f}, offset=400 * n, seed=n
        )  # type: ignore[misc]
    write(
        tmp_path / "in",
        lambda _: {"FrameOfReferenceUID": ""},
        shape=(2, 5, 7),
        origin=(0, 0, 12),
        seed=2,
    )
    check = scan(tmp_path / "in").check()
    (row,) = check.needing
    assert row.shape[0] == 2
    assert "Frame of Reference UID is blank, and the positions fit none or several" in row.reason
    (other, _) = [row for row in check.rows if not row.needs_person]
    assert "one of 2 Frame of Reference UIDs of its Series that hold grids" in other.reason


# --- Series that fall apart -----------------------------------------------------------------------


def test_a_series_that_falls_into_single_slices_needs_a_person(tmp_path: Path) -> None:
    for z in range(5):
        # Something differs from slice to slice: here the size.
        write(
            tmp_path / "in", lambda _: {}, shape=(1, 5 + z, 7), origin=(0, 0, 2 * z), modality="MR"
        )
    check = scan(tmp_path / "in").check()
    assert [row.verdict for row in check.rows] == ["single"] * 5
    assert len(check.needing) == 5
    assert check.needing[0].detail["slices_apart"] == 5
    assert "one of 5 slices of one orientation" in check.needing[0].reason
    assert "5 of 5 stacks need a person" in str(check)


def test_a_series_with_a_patient_per_slice_is_not_joined_and_needs_a_person(
    tmp_path: Path,
) -> None:
    write(tmp_path / "in", lambda z: {"PatientID": f"P{z}"})
    check = scan(tmp_path / "in").check()
    assert [row.verdict for row in check.needing] == ["single"] * 6
    assert check.needing[0].detail["slices_apart"] == 6


def test_slices_left_over_beside_a_volume_need_a_person(tmp_path: Path) -> None:
    write(tmp_path / "in", lambda _: {}, shape=(8, 5, 7))
    for n in range(3):
        write(
            tmp_path / "in",
            lambda _: {},
            shape=(1, 9 + n, 7),
            origin=(0, 0, 16 + 2 * n),
            seed=n + 1,
        )
    needing = scan(tmp_path / "in").check().needing
    assert [row.detail["slices_apart"] for row in needing] == [3] * 3


def test_slices_with_a_series_each_need_a_person(tmp_path: Path) -> None:
    for z in range(6):
        options = {"shape": (1, 5, 7), "origin": (0, 0, 2 * z), "series_uid": uid("series", z)}
        write(tmp_path / "in", lambda _: {"SeriesNumber": 4}, **options)
    index = scan(tmp_path / "in")
    assert [row.detail["series_apart"] for row in index.check().needing] == [6] * 6
    assert "6 slices of one orientation and Series Number" in index.check().needing[0].reason


def test_series_of_one_slice_with_numbers_of_their_own_need_nobody(tmp_path: Path) -> None:
    for z in range(6):
        options = {"shape": (1, 5, 7), "origin": (0, 0, 2 * z), "series_uid": uid("series", z)}
        write(tmp_path / "in", lambda _, z=z: {"SeriesNumber": z + 1}, **options)  # type: ignore[misc]
    assert scan(tmp_path / "in").check().ok


@pytest.mark.parametrize("keyword", ["FrameOfReferenceUID", "StudyInstanceUID"])
@pytest.mark.parametrize("divide", [lambda z: z % 2, lambda z: z // 3])
def test_identifiers_that_divide_one_grid_need_a_person(
    tmp_path: Path, keyword: str, divide: Callable[[int], int]
) -> None:
    write(tmp_path / "in", lambda z: {keyword: study(divide(z))})
    check = scan(tmp_path / "in").check()
    assert [row.shape[0] for row in check.needing] == [3, 3]
    assert "all of them together make one even grid" in check.needing[0].reason
    assert "apart by identifiers that differ within a Series: 2 stacks" in check.remarks


def test_frames_of_reference_that_a_contrast_confirms_need_nobody(tmp_path: Path) -> None:
    def tell(z: int) -> dict[str, Any]:
        return {"FrameOfReferenceUID": study(z // 3), "ConvolutionKernel": ["B30f", "B60f"][z // 3]}

    write(tmp_path / "in", tell)
    check = scan(tmp_path / "in").check()
    assert [row.shape[0] for row in check.rows] == [3, 3]
    assert check.ok


@pytest.mark.parametrize(
    "kind", ["orientations", "localizers", "two slices", "time points", "projections"]
)
def test_single_slices_that_are_no_volume_need_nobody(tmp_path: Path, kind: str) -> None:
    for n in range(2 if kind == "two slices" else 4):
        options: dict[str, Any] = {"origin": (0, 0, 2 * n), "shape": (1, 5 + n, 7), "seed": n}
        tell: dict[str, Any] = {}
        if kind == "orientations":
            angle = 0.1 * n
            options["orientation"] = (1, 0, 0, 0, 1 - angle**2 / 2, angle)
        elif kind == "localizers":
            tell = {"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}
        elif kind == "time points":
            options |= {"origin": (0, 0, 0), "shape": (1, 5, 7), "offset": 10 * n}
            tell = {"TemporalPositionIdentifier": n + 1}
        elif kind == "projections":
            options["modality"] = "CR"
        write(tmp_path / "in", lambda _, tell=tell: tell, **{"modality": "MR", **options})  # type: ignore[misc]
    index = scan(tmp_path / "in")
    assert len(index.stacks) > 1 and all(stack.slices == 1 for stack in index.stacks)
    assert index.check().ok


def test_sparse_segments_need_nobody(tmp_path: Path) -> None:
    write_segmentation_1bit(tmp_path / "in" / "seg", shape=(1, 5, 7), segments=4)
    index = scan(tmp_path / "in")
    assert [stack.slices for stack in index.stacks] == [1] * 4
    assert index.check().ok


# --- UIDs of several patients ---------------------------------------------------------------------


def write_patients(folder: Path, patients: tuple[str, ...], **options: Any) -> None:
    for number, patient in enumerate(patients):
        uids = {"study_uid": uid("study", number), "series_uid": uid("series", number), **options}
        write(folder, lambda _: {}, patient_id=patient, seed=number, **uids)


@pytest.mark.parametrize("level", ["study", "series"])
def test_a_uid_of_two_patients_needs_a_person(tmp_path: Path, level: str) -> None:
    write_patients(tmp_path / "in", ("Doe^Jane", "Roe^Jim"), **{f"{level}_uid": uid("shared")})
    check = scan(tmp_path / "in").check()
    assert len(check.needing) == len(check.rows) == 2
    assert [row.detail[f"patients_of_{level}"] for row in check.rows] == [2, 2]
    shown = f"2 patients, by PatientID, share its {level.capitalize()} Instance UID"
    assert all(shown in row.reason for row in check.rows)
    text = f"{check}{check.to_dict()}"
    assert "Doe" not in text
    assert "Roe" not in text


def test_a_uid_of_two_hashed_patients_needs_a_person(tmp_path: Path) -> None:
    write_patients(tmp_path / "in", ("A", "B"), study_uid=uid("shared"))
    index = dicomdl.scan(tmp_path / "in", tmp_path / "index", patient_id="hash", progress=False)
    assert [row.detail["patients_of_study"] for row in index.check().needing] == [2, 2]


@pytest.mark.parametrize("patients", [("A", ""), ("A", "A"), ("", "")])
def test_a_study_with_a_blank_patient_needs_nobody(
    tmp_path: Path, patients: tuple[str, str]
) -> None:
    write_patients(tmp_path / "in", patients, study_uid=uid("shared"))
    assert scan(tmp_path / "in").check().ok


def test_a_blank_study_is_shared_by_no_patients(tmp_path: Path) -> None:
    for number, patient in enumerate(("A", "B")):
        write(
            tmp_path / "in",
            lambda _: {"StudyInstanceUID": ""},
            patient_id=patient,
            seed=number,
            series_uid=uid("series", number),
        )
    assert scan(tmp_path / "in").check().ok
