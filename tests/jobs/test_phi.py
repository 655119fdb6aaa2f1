"""check_phi: attributes of the basic profile that carry values, counted and never quoted."""

import json
from pathlib import Path
from typing import Any

import pydicom
import pytest
from conftest import index_of
from phantoms import write_multiframe, write_secondary_capture, write_series

import dicomdl
from dicomdl.cli.main import main
from dicomdl.errors import MissingExtra, UsageError

CANARY = "CANARY"


def require_table() -> None:
    pytest.importorskip("dicomanonymizer", reason="the package dicom-anonymizer is not installed")


def write(folder: Path, slices: int = 3, **values: Any) -> None:
    """Write a series with values by keyword; a function gives one per slice."""

    def edit(data_set: pydicom.Dataset, number: int) -> None:
        for keyword, value in values.items():
            setattr(data_set, keyword, value(number) if callable(value) else value)

    write_series(folder, shape=(slices, 5, 7), edit=edit)


def found(check: Any) -> dict[str, tuple[int, int]]:
    """Return {keyword: (files, distinct values)}."""
    return {each.keyword: (each.files, each.values) for each in check.attributes}


def files_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


@pytest.fixture(autouse=True)
def _table() -> None:
    require_table()


def test_a_check_of_no_file_is_not_ok(tmp_path: Path) -> None:
    write_series(tmp_path / "in")
    index = dicomdl.scan(tmp_path / "in", tmp_path / "index", progress=False)
    check = dicomdl.check_phi(index.select(modality="NM"), progress=False)
    assert not check.ok
    assert "no file was read" in check.text()


def test_files_and_distinct_values_are_counted_per_attribute(folder: Path) -> None:
    write(folder, PatientName=lambda number: f"{CANARY}^{number // 2}", InstitutionName="X")
    counts = found(dicomdl.check_phi(index_of(folder), progress=False))
    assert counts["PatientName"] == (3, 2)
    assert counts["InstitutionName"] == (3, 1)


def test_blank_and_absent_attributes_are_not_listed(folder: Path) -> None:
    write(folder, PatientName="", PatientComments="  ", OperatorsName=None)
    counts = found(dicomdl.check_phi(index_of(folder), progress=False))
    assert not {"PatientName", "PatientComments", "OperatorsName", "PatientAddress"} & set(counts)


def test_values_in_items_of_sequences_are_found(folder: Path) -> None:
    inner = pydicom.Dataset()
    inner.RequestingPhysician = f"{CANARY}^DOCTOR"
    outer = pydicom.Dataset()
    outer.ReferencedStudySequence = [inner]
    write(folder, RequestAttributesSequence=[outer])
    counts = found(dicomdl.check_phi(index_of(folder), progress=False))
    assert counts["RequestingPhysician"] == (3, 1)
    assert counts["RequestAttributesSequence"][0] == 3


def test_every_listed_attribute_is_one_that_pydicom_finds_with_a_value(folder: Path) -> None:
    write(folder, PatientName="A^B", PatientAge="040Y", StationName="S", AccessionNumber="7")
    check = dicomdl.check_phi(index_of(folder), progress=False)
    headers = [pydicom.dcmread(path) for path in files_in(folder)]
    listed = {int(each.tag[1:5] + each.tag[6:10], 16) for each in check.attributes}
    carried = {
        int(element.tag)
        for header in headers
        for part in (header, header.file_meta)
        for element in part.iterall()
        if not element.is_empty
    }
    assert listed <= carried
    of_persons = {
        int(element.tag)
        for header in headers
        for element in header.iterall()
        if element.VR == "PN" and not element.is_empty
    }
    assert of_persons <= listed


def test_dates_and_uids_are_kinds_of_their_own(folder: Path) -> None:
    write(folder, StudyDate="20200101", PatientName="A^B")
    kinds = {
        each.keyword: (each.kind, each.action)
        for each in dicomdl.check_phi(index_of(folder), progress=False).attributes
    }
    assert kinds["StudyDate"] == ("date", "Z")
    assert kinds["SOPInstanceUID"] == ("uid", "U")
    assert kinds["PatientName"] == ("identity", "Z")


def test_a_set_with_uids_alone_is_ok(folder: Path) -> None:
    write_series(folder, shape=(2, 5, 7), edit=_without_identities)
    check = dicomdl.check_phi(index_of(folder), progress=False)
    assert {each.kind for each in check.attributes} == {"uid"}
    assert check.ok and "no attribute of the basic profile" in repr(check)


def _without_identities(data_set: pydicom.Dataset, number: int) -> None:
    from dicomanonymizer.dicom_anonymization_databases import dicomfields_2026c as table

    uids = {pydicom.tag.Tag(*each) for each in table.U_TAGS}
    for tag in {pydicom.tag.Tag(*each[:2]) for each in table.ALL_TAGS} - uids:
        if tag in data_set:
            del data_set[tag]


def test_private_attributes_are_counted_without_their_creators(folder: Path) -> None:
    def edit(data_set: pydicom.Dataset, number: int) -> None:
        block = data_set.private_block(0x0029, "SOMEBODY", create=True)
        block.add_new(1, "LO", CANARY)
        block.add_new(2, "LO", CANARY)

    write_series(folder, shape=(2, 5, 7), edit=edit)
    check = dicomdl.check_phi(index_of(folder), progress=False)
    assert (check.private_files, check.private_elements) == (2, 4)


def test_pixels_with_text_are_counted_by_reason(folder: Path) -> None:
    write(folder / "ct", BurnedInAnnotation="YES")
    write_secondary_capture(folder / "sc" / "capture.dcm")
    check = dicomdl.check_phi(index_of(folder), progress=False)
    assert check.pixels == {"burned_in_annotation": 3, "text_as_a_rule": 1}


def test_a_capture_that_states_no_burned_in_text_is_not_counted(folder: Path) -> None:
    path = folder / "capture.dcm"
    write_secondary_capture(path)
    header = pydicom.dcmread(path)
    header.BurnedInAnnotation = "NO"
    header.save_as(path)
    assert dicomdl.check_phi(index_of(folder), progress=False).pixels == {}


def test_patient_identity_removed_is_counted_by_its_value(folder: Path) -> None:
    write(folder, PatientIdentityRemoved=lambda number: "YES" if number else None)
    check = dicomdl.check_phi(index_of(folder), progress=False)
    assert check.identity_removed == {"YES": 2, "": 1}


def test_objects_without_an_image_are_read_too_but_not_for_a_selection(folder: Path) -> None:
    write(folder / "ct", PatientName="A^B")
    report = pydicom.dcmread(files_in(folder / "ct")[0])
    report.SOPClassUID = report.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.88.11"
    report.SOPInstanceUID = report.file_meta.MediaStorageSOPInstanceUID = "1.2.3.4"
    report.VerifyingObserverName = f"{CANARY}^OBSERVER"
    del report.PixelData, report.Rows, report.Columns
    report.save_as(folder / "report.dcm")
    index = index_of(folder)
    assert index.ledger["no_image"] == 1
    assert "VerifyingObserverName" in found(dicomdl.check_phi(index, progress=False))
    images = index.select(modality="CT", min_rows=1).of_frames([0, 1])
    assert dicomdl.check_phi(images, progress=False).files == 2


def test_no_value_is_printed_or_returned(folder: Path) -> None:
    identity = dict.fromkeys(("PatientName", "InstitutionName", "PatientComments"), CANARY)
    write(folder, **identity, PatientBirthDate="19770317", AccessionNumber="CANARY-1")
    check = dicomdl.check_phi(index_of(folder), progress=False)
    shown = [repr(check), check.text(everything=True), check._repr_html_()]
    for text in (*shown, json.dumps(check.to_dict())):
        assert CANARY not in text and "19770317" not in text


def test_a_file_that_cannot_be_read_is_listed_and_the_others_are_counted(folder: Path) -> None:
    write(folder, PatientName="A^B")
    index = index_of(folder)
    lost = files_in(folder)[0]
    lost.unlink()
    check = dicomdl.check_phi(index, progress=False)
    assert check.files == 2 and found(check)["PatientName"][0] == 2
    assert [path for path, _ in check.unread] == [str(lost)] and not check.ok


def test_columns_of_the_index_are_marked_unless_the_scan_left_them_out(folder: Path) -> None:
    write(folder, SeriesDescription="free text", InstitutionName="X")

    def stored(**options: Any) -> set[str]:
        index = dicomdl.scan(
            folder, folder.parent / f"{len(options)}.index", progress=False, **options
        )
        check = dicomdl.check_phi(index, progress=False)
        return {each.keyword for each in check.attributes if each.in_index}

    assert {"PatientID", "SeriesDescription"} <= stored()
    assert not {"PatientID", "SeriesDescription"} & stored(texts=False, patient_id="hash")
    assert "InstitutionName" not in stored()


@pytest.mark.slow
def test_child_processes_find_the_same(folder: Path) -> None:
    write(folder, slices=70, PatientName=lambda number: f"P{number % 7}")
    index = index_of(folder)
    alone = dicomdl.check_phi(index, workers=1, progress=False)
    assert dicomdl.check_phi(index, workers=2, progress=False).to_dict() == alone.to_dict()
    assert found(alone)["PatientName"] == (70, 7)


def test_multi_frame_objects_count_as_files(folder: Path) -> None:
    write_multiframe(folder / "enhanced.dcm")
    assert dicomdl.check_phi(index_of(folder), progress=False).files == 1


def test_no_worker_is_an_error(folder: Path) -> None:
    write(folder, slices=1)
    with pytest.raises(UsageError, match="workers is 0"):
        dicomdl.check_phi(index_of(folder), workers=0)


def test_without_the_table_the_error_says_what_to_install(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    from dicomdl.headers import confidentiality

    write(folder, slices=1)
    index = index_of(folder)
    confidentiality._table.cache_clear()
    monkeypatch.setitem(sys.modules, confidentiality._TABLE, None)
    with pytest.raises(MissingExtra, match=r"dicomdl\[phi\]"):
        dicomdl.check_phi(index, progress=False)


def test_the_command_exits_with_1_where_attributes_carry_values(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(folder, PatientName=CANARY)
    index = index_of(folder)
    assert main(["check", index.path, "--phi", "-q"]) == 1
    printed = capsys.readouterr().out
    assert "PatientName" in printed and CANARY not in printed
    assert main(["check", index.path, "--phi", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["files"] == 3
    assert main(["check", index.path, "--phi", "--pixels"]) == 2
