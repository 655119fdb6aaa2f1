"""overview and check: text, HTML and plain values of an index."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from phantoms import write_secondary_capture, write_series
from pydicom.uid import UID, SecondaryCaptureImageStorage

import dicomdl
from dicomdl.headers.uids import PLACED
from dicomdl.index import check as check_module
from dicomdl.index._reasons import reason
from dicomdl.index.check import Check
from dicomdl.index.index import Index
from dicomdl.index.overview import IDC_COLUMNS
from dicomdl.index.text import SHOWN_LINES, Part
from dicomdl.printing import printable

Scan = Callable[[], Index]


@pytest.fixture
def scanned(tmp_path: Path) -> Scan:
    """Return a function that scans the files below tmp_path / "dicom"."""
    return lambda: dicomdl.scan(
        tmp_path / "dicom", out=tmp_path / "index", workers=1, progress=False
    )


def part_of(index: Index, **columns: list[Any]) -> Part:
    """Return the Part of an index, with some columns of its stacks replaced."""
    part = index._part()
    for name, values in columns.items():
        part = dataclasses.replace(part, stacks=part.stacks.with_column(name, values))
    return part


# --- reasons --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("verdict", "detail", "slices", "members", "told"),
    [
        (
            "regular",
            {"spacing": 2.5, "position_error": 0.04},
            40,
            1,
            "positions within 0.04 mm of an even grid",
        ),
        (
            "regular",
            {"spacing": 2.5, "position_error": 1e-6, "uniform_slice_spacing": True},
            40,
            1,
            "positions on an even grid",
        ),
        (
            "regular",
            {"spacing": 2.5, "position_error": 0.0, "unconfirmed": True},
            2,
            1,
            "two slices: nothing confirms the spacing",
        ),
        ("tilted", {"spacing": 5.0, "tilt_deg": 14.02}, 9, 1, "tilted by 14.02 degrees"),
        ("single", {"step": "SliceThickness"}, 1, 1, "one slice, as thick as SliceThickness says"),
        ("single", {"step": "unknown, 1 mm"}, 1, 1, "one slice, its thickness unknown, 1 mm"),
        (
            "missing_slices",
            {
                "spacing": 2.5,
                "missing": 3,
                "missing_after": [4, 17],
                "smallest_gap": 2.5,
                "median_gap": 2.5,
                "largest_gap": 7.5,
            },
            37,
            1,
            "3 of 40 slices missing after slices 4, 17; true spacing 2.5 mm",
        ),
        (
            "uneven_spacing",
            {
                "spacing": 3.1,
                "smallest_gap": 1.08,
                "median_gap": 3.0,
                "largest_gap": 7.0,
                "position_error": 2.0,
            },
            20,
            1,
            "spacing between 1.08 and 7 mm, median 3",
        ),
        (
            "uneven_spacing",
            {"spacing": 3.0, "in_plane_error": 4.25},
            20,
            1,
            "positions leave a straight line by up to 4.25 mm",
        ),
        (
            "duplicates",
            {"repeated_positions": 5, "pixels": "different", "instances": ["1.2", "1.3", "1.4"]},
            25,
            1,
            "5 of 25 slices at the position of another one; pixels different; "
            "nothing in the headers tells them apart; instances 1.2, 1.3, ...",
        ),
        (
            "duplicates",
            {
                "repeated_positions": 5,
                "pixels": "unchecked",
                "told_apart_by": ["echo_time", "flip_angle"],
            },
            10,
            1,
            "5 of 10 slices at the position of another one; pixels not compared; "
            "echo_time or flip_angle would tell them apart, but differently",
        ),
        (
            "regular",
            {"spacing": 2.0, "missing_in_group": [8, 9]},
            8,
            10,
            "lacks 2 slices that others of its group of 10 stacks have: 8, 9",
        ),
        (
            "no_geometry",
            {"why": "ImagePositionPatient is missing"},
            3,
            1,
            "ImagePositionPatient is missing",
        ),
        (
            "no_geometry",
            {"why": "X is missing", "series_instance_uid": "blank"},
            3,
            1,
            "X is missing; Series Instance UID is blank",
        ),
        (
            "regular",
            {"spacing": 1.0, "image_type": ["DERIVED", "MIP"], "a_new_key": 0.25},
            3,
            1,
            "image type DERIVED, MIP; a new key 0.25",
        ),
        (
            "duplicates",
            {"repeated_positions": 1, "missing": 1, "spacing": 2.0},
            5,
            1,
            "1 of 5 slices missing; true spacing 2 mm",
        ),
    ],
)
def test_the_reason_says_the_numbers_behind_a_verdict(
    verdict: str, detail: dict[str, Any], slices: int, members: int, told: str
) -> None:
    assert told in reason(verdict, detail, slices, members)
    assert not reason(verdict, detail, slices, members).startswith("; ")


def test_a_reason_tells_a_long_list_by_its_beginning_and_its_length() -> None:
    told = reason(
        "missing_slices", {"missing": 30, "missing_after": list(range(30)), "spacing": 1.0}, 31, 1
    )
    assert "after slices 0, 1, 2, 3, 4, 5, 6, 7, ... (30 in all)" in told


def test_every_defect_of_a_stack_is_in_its_reason() -> None:
    detail = {
        "repeated_positions": 1,
        "smallest_gap": 1.0,
        "median_gap": 2.0,
        "largest_gap": 9.0,
        "tilt_deg": 12.0,
        "in_plane_error": 3.0,
    }
    told = reason("duplicates", detail, 5, 1)
    assert all(
        part in told
        for part in (
            "1 of 5 slices",
            "between 1 and 9 mm",
            "straight line by up to 3 mm",
            "tilted by 12 degrees",
        )
    )


# --- what needs a person --------------------------------------------------------------------------


def test_regular_tilted_and_single_stacks_need_nobody(tmp_path: Path, scanned: Scan) -> None:
    write_series(tmp_path / "dicom", shape=(5, 4, 6))
    write_series(tmp_path / "dicom", shape=(5, 4, 6), shear=(0, 0.5), seed=1)
    write_series(tmp_path / "dicom", shape=(1, 4, 6), seed=2)
    check = scanned().check()
    assert sorted(row.verdict for row in check.rows) == ["regular", "single", "tilted"]
    assert check.ok and not check.needing
    assert "3 stacks, none needs a person" in repr(
        check
    ) and "1 regular, 1 tilted, 1 single" in repr(check)


def test_missing_slices_need_a_person_and_the_row_says_which(tmp_path: Path, scanned: Scan) -> None:
    write_series(tmp_path / "dicom", shape=(12, 4, 6), spacing=(2.5, 1, 1), drop=[5], modality="MR")
    check = scanned().check()
    (row,) = check.rows
    assert not check.ok and row.needs_person and check.needing == [row]
    assert (row.modality, row.shape, row.verdict) == ("MR", (11, 4, 6), "missing_slices")
    assert row.spacing == pytest.approx((2.5, 1, 1)) and not row.uniform_slice_spacing
    assert "1 of 12 slices missing after slice 4; true spacing 2.5 mm" in row.reason
    assert row.reason in repr(check) and row.series_instance_uid in repr(check)


def test_uneven_spacing_needs_a_person(tmp_path: Path, scanned: Scan) -> None:
    write_series(
        tmp_path / "dicom", shape=(5, 4, 6), positions=[(0, 0, z) for z in (0, 1.1, 4.2, 5, 12)]
    )
    (row,) = scanned().check().rows
    assert row.needs_person and "spacing between 0.8 and 7 mm" in row.reason


def test_slices_of_several_contrasts_need_a_person_and_can_be_left_out(
    tmp_path: Path, scanned: Scan
) -> None:
    def edit(dataset: Any, z: int) -> None:
        dataset.ImageType = ["ORIGINAL", "PRIMARY", "P" if z > 7 else "M"]

    write_series(tmp_path / "dicom", shape=(10, 4, 6), modality="MR", edit=edit)
    write_series(tmp_path / "dicom", shape=(5, 4, 6), modality="MR", seed=1)
    index = scanned()
    (row,) = index.check().needing
    assert row.verdict == "regular" and row.detail["varies"] == ["image_type"]
    assert row.reason.startswith(
        "slices of several contrasts: "
        r"image_type ORIGINAL\PRIMARY\M in 8, ORIGINAL\PRIMARY\P in 2; positions"
    )
    assert "1 stack of several contrasts: select(mixed=False)" in str(index)
    assert [stack.slices for stack in index.select(mixed=False).stacks] == [5]
    (stack,) = index.select(mixed=True).stacks
    assert stack.mixed and stack.slices == 10
    assert "contrasts" not in str(index.select(mixed=False))
    assert dicomdl.read_volume(stack).shape == (10, 4, 6)


def remove_position(dataset: Any, z: int) -> None:
    del dataset.ImagePositionPatient


@pytest.mark.parametrize("modality", ["CT", "MR", "PT"])
def test_an_image_that_should_have_a_place_and_has_none_needs_a_person(
    modality: str, tmp_path: Path, scanned: Scan
) -> None:
    write_series(tmp_path / "dicom", shape=(3, 4, 6), modality=modality, edit=remove_position)
    (row,) = scanned().check().rows
    assert (
        row.verdict == "no_geometry"
        and row.needs_person
        and "ImagePositionPatient is missing" in row.reason
    )


def test_projections_and_screenshots_need_no_place(tmp_path: Path, scanned: Scan) -> None:
    write_series(tmp_path / "dicom", shape=(1, 4, 6), modality="CR")
    write_series(tmp_path / "dicom", shape=(2, 4, 6), modality="US", seed=1)
    write_series(
        tmp_path / "dicom",
        shape=(2, 4, 6),
        sop_class=SecondaryCaptureImageStorage,
        edit=remove_position,
        seed=2,
    )
    check = scanned().check()
    assert [row.verdict for row in check.rows] == ["no_geometry"] * 3 and check.ok


def test_the_classes_that_need_a_place_are_ct_mr_and_pet_images() -> None:
    names = [UID(uid).name for uid in PLACED]
    assert len(names) == 10 and all(
        any(
            kind in name
            for kind in ("CT Image", "MR Image", "MR Color Image", "PET Image", "Positron")
        )
        for name in names
    )


def test_a_file_that_could_not_be_used_needs_a_person(tmp_path: Path, scanned: Scan) -> None:
    write_series(tmp_path / "dicom", shape=(3, 4, 6))
    (tmp_path / "dicom" / "empty.dcm").write_bytes(b"")
    check = scanned().check()
    assert not check.ok and not check.needing
    assert (
        "1 file could not be used" in repr(check)
        and "empty.dcm" in repr(check)
        and check.problems[0].reason in repr(check)
    )


def test_a_stack_that_lacks_slices_of_its_group_needs_a_person(
    tmp_path: Path, scanned: Scan
) -> None:
    write_series(tmp_path / "dicom", shape=(4, 4, 6))
    write_series(tmp_path / "dicom", shape=(3, 4, 6), seed=1)
    details = [json.dumps({"spacing": 2.0}), json.dumps({"spacing": 2.0, "missing_in_group": [3]})]
    part = part_of(
        scanned(),
        detail=details,
        group=[0, 0],
        group_index=[0, 1],
        dimension=['{"echo_time": 4.9}', '{"echo_time": 9.8}'],
    )
    complete, lacking = check_module.check(part).rows
    assert (
        not complete.needs_person
        and lacking.needs_person
        and (complete.group, lacking.group) == (0, 0)
    )
    assert "lacks 1 slice that others of its group of 2 stacks have: 3" in lacking.reason
    assert (
        lacking.dimension == {"echo_time": 9.8}
        and "[echo_time 9.8]" in check_module.check(part).text()
    )


# --- remarks --------------------------------------------------------------------------------------


def test_equal_copies_are_a_remark(tmp_path: Path, scanned: Scan) -> None:
    write_series(tmp_path / "dicom", shape=(3, 4, 6))
    write_series(tmp_path / "dicom", shape=(2, 4, 6), seed=1)
    part = scanned()._part()
    copies = int(part.starts[2] - part.starts[1])
    behind = dataclasses.replace(
        part, stacks=part.stacks.take(np.array([0])), starts=part.starts[:2], chosen=part.chosen[:1]
    )
    check = check_module.check(behind)
    assert check.ok and check.equal_copies == copies and len(check.rows) == 1
    assert f"left out as equal copies of others: {copies} frames" in check.text()


def test_a_blank_series_uid_is_a_remark(tmp_path: Path, scanned: Scan) -> None:
    write_series(
        tmp_path / "dicom",
        shape=(3, 4, 6),
        edit=lambda dataset, z: setattr(dataset, "SeriesInstanceUID", ""),
    )
    check = scanned().check()
    assert check.ok and "without a Series or Study Instance UID: 1 stack" in check.text()


def test_stacks_that_a_selection_took_apart_are_counted_and_not_judged(
    tmp_path: Path, scanned: Scan
) -> None:
    write_series(tmp_path / "dicom", shape=(4, 4, 6))
    check = scanned().select(max_instance_number=2).check()
    assert (
        check.rows == ()
        and check.parted_frames == 2
        and "taken apart by the selection and not checked: 2 frames" in check.text()
    )


def test_an_empty_index_is_shown_and_its_check_is_not_ok(tmp_path: Path, scanned: Scan) -> None:
    (tmp_path / "dicom").mkdir()
    check = scanned().check()
    assert (
        not check.ok
        and "Check: there is no stack" in check.text()
        and check._repr_html_()
        and json.dumps(check.to_dict())
    )


# --- display -------------------------------------------------------------------------------------


@pytest.fixture
def many(tmp_path: Path, scanned: Scan) -> Part:
    """Return stacks of 60 series, each with another number of missing slices."""
    for seed in range(60):
        write_series(tmp_path / "dicom", shape=(1, 2, 2), seed=seed)
    details = [
        json.dumps({"missing": number + 1, "missing_after": [0], "spacing": 1.0})
        for number in range(60)
    ]
    return part_of(scanned(), detail=details, verdict=["missing_slices"] * 60)


@pytest.mark.slow
def test_the_first_stacks_are_shown_and_the_rest_counted_unless_all_are_asked_for(
    many: Part,
) -> None:
    check = check_module.check(many)
    assert repr(check).count("slices missing") == SHOWN_LINES and "... and 20 more stacks" in repr(
        check
    )
    assert (
        check._repr_html_().count("slices missing") == SHOWN_LINES
        and "... and 20 more stacks" in check._repr_html_()
    )
    assert check.text(everything=True).count(
        "slices missing"
    ) == 60 and "more stacks" not in check.text(everything=True)


@pytest.mark.slow
def test_neighbours_with_the_same_fault_are_one_line(many: Part) -> None:
    check = check_module.check(many)
    alike = [
        dataclasses.replace(row, series_instance_uid="1.2", reason="the same") for row in check.rows
    ]
    told = dataclasses.replace(check, rows=tuple(alike)).text()
    assert told.count("the same") == 1 and "0-59" in told and "60 stacks, each: the same" in told


def test_all_lists_the_fine_ones_too_and_marks_the_others(tmp_path: Path, scanned: Scan) -> None:
    write_series(tmp_path / "dicom", shape=(6, 4, 6), drop=[2])
    write_series(tmp_path / "dicom", shape=(4, 4, 6), seed=1)
    check = scanned().check()
    lines = check.text(everything=True).splitlines()
    assert ["!" in line for line in lines if "4 x 6" in line].count(True) == 1
    assert (
        sum("4 x 6" in line for line in lines) == 2
        and sum("4 x 6" in line for line in check.text().splitlines()) == 1
    )


def test_the_plain_values_are_json_without_nan_and_hold_everything(
    tmp_path: Path, scanned: Scan
) -> None:
    write_series(tmp_path / "dicom", shape=(6, 4, 6), drop=[2])
    write_secondary_capture(tmp_path / "dicom" / "picture.dcm")
    (tmp_path / "dicom" / "empty.dcm").write_bytes(b"")
    index = scanned()
    check = index.check()
    said = json.loads(json.dumps(check.to_dict(), allow_nan=False))
    assert said["ok"] is False and len(said["stacks"]) == 2 and len(said["problems"]) == 1
    assert said["ledger"] == dict(index.ledger) and said["needs_person"] == [
        row.number for row in check.needing
    ]
    assert any(None in stack["spacing"] for stack in said["stacks"])
    for stack, row in zip(said["stacks"], check.rows, strict=True):
        assert stack["detail"] == index.stack(row.number).detail and stack["reason"] == row.reason
        assert list(stack["shape"]) == list(index.stack(row.number).shape)


def test_the_columns_of_idc_stand_beside_ours_under_their_own_names(
    tmp_path: Path, scanned: Scan
) -> None:
    write_series(tmp_path / "dicom", shape=(6, 4, 6))
    (stack,) = scanned().check().to_dict()["stacks"]
    assert set(IDC_COLUMNS) <= set(stack)
    assert (
        stack["uniform_slice_spacing"] is True
        and stack["regularly_spaced_3d_volume"] is True
        and stack["obliquity_degrees"] == 0
    )


def test_neither_names_nor_identifiers_nor_dates_of_patients_are_told(
    tmp_path: Path, scanned: Scan
) -> None:
    def identify(dataset: Any, z: int) -> None:
        dataset.PatientName, dataset.PatientBirthDate, dataset.StudyDate = (
            "Secret^Name",
            "19700102",
            "20230405",
        )
        dataset.SeriesDate = dataset.ContentDate = dataset.AcquisitionDate = "20230405"

    write_series(
        tmp_path / "dicom", shape=(6, 4, 6), drop=[2], patient_id="SECRET-ID", edit=identify
    )
    index = scanned()
    check = index.check()
    told = (
        repr(index)
        + index._repr_html_()
        + check.text(everything=True)
        + check._repr_html_()
        + json.dumps(check.to_dict())
    )
    assert not any(secret in told for secret in ("Secret", "SECRET-ID", "19700102", "20230405"))


def test_what_files_say_cannot_command_a_terminal_or_a_page(tmp_path: Path, scanned: Scan) -> None:
    def hostile(dataset: Any, z: int) -> None:
        dataset.Modality = "<B>\x1b[31m"

    write_series(tmp_path / "dicom", shape=(6, 4, 6), drop=[2], edit=hostile)
    index = scanned()
    check = index.check()
    told = [
        repr(index),
        index._repr_html_(),
        check.text(),
        check.text(everything=True),
        check._repr_html_(),
    ]
    assert not any("\x1b" in text for text in told)
    assert "<B>" not in told[1] and "<B>" not in told[4] and "&lt;B&gt;" in told[4]


@pytest.mark.parametrize(
    ("text", "shown"),
    [("é", "é"), ("a\nb", "a�b"), ("\u202eabc", "�abc"), ("bad\udcff", "bad\\udcff")],
)
def test_only_printable_text_is_shown_and_bytes_that_are_no_text_are_spelled(
    text: str, shown: str
) -> None:
    assert printable(text) == shown
    assert printable(text).encode()  # a page is UTF-8


def test_a_check_is_a_value_that_pickles(tmp_path: Path, scanned: Scan) -> None:
    import pickle

    write_series(tmp_path / "dicom", shape=(6, 4, 6), drop=[2])
    check = scanned().check()
    again = pickle.loads(pickle.dumps(check))
    assert isinstance(again, Check) and again == check


def test_the_counts_are_those_of_the_selection(tmp_path: Path, scanned: Scan) -> None:
    write_series(tmp_path / "dicom", shape=(3, 4, 6), patient_id="A")
    write_series(tmp_path / "dicom", shape=(4, 4, 6), patient_id="B", modality="MR")
    index = scanned()
    assert index.counts == {"patients": 2, "studies": 2, "series": 2, "stacks": 2, "frames": 7}
    assert index.select(modality="MR").counts == {
        "patients": 1,
        "studies": 1,
        "series": 1,
        "stacks": 1,
        "frames": 4,
    }
    assert str(index.select(modality="MR")).startswith(
        "Selection of 4 of 7 frames: 1 patient, 1 study, 1 series, 1 stack, 4 frames"
    )
