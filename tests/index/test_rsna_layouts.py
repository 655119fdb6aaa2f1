"""RSNA layouts: each table of the challenges of 2018 to 2025 joins in its real folders."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import phantoms_rsna as rsna
import pytest

import dicomdl
from dicomdl.errors import UsageError
from dicomdl.index.index import Index


@pytest.fixture
def scanned(tmp_path: Path) -> Callable[[Callable[[Path], None]], tuple[Path, Index]]:
    """Write a data set, and return its folder and index."""

    def write(layout: Callable[[Path], None]) -> tuple[Path, Index]:
        root = tmp_path / "data"
        root.mkdir()
        layout(root)
        return root, dicomdl.scan(root, tmp_path / "index", progress=False)

    return write


Scanned = Callable[[Callable[[Path], None]], tuple[Path, Index]]


def by_file(index: Index, name: str) -> dict[str, Any]:
    """The value of a column by the name of the file."""
    return {Path(index.frame(n).path).stem: index.value(n, name) for n in range(len(index))}


def require_complete(index: Index, *levels: str) -> None:
    assert [report.level for report in index.joins] == list(levels)
    for report in index.joins:
        assert (report.keys_unmatched, report.rows_unmatched, report.rows_without_key) == (0, 0, 0)


def test_pneumonia_2018(scanned: Scanned) -> None:
    root, index = scanned(rsna.pneumonia_2018)
    boxes = ["x", "y", "width", "height"]
    index = index.join(root / "stage_2_train_labels.csv", on={"stem": "patientId"}, lists=boxes)
    index = index.join(root / "stage_2_detailed_class_info.csv", on={"stem": "patientId"})
    require_complete(index, "frame", "frame")
    assert index.joined.kind("Target") == "integer" and index.joins[1].duplicates_equal == 1
    assert list(by_file(index, "Target").values()) == [0, 1, 1]
    assert list(by_file(index, "x").values()) == [(), (264, 562), (323,)]
    assert len(index.select(**{"class": "Lung Opacity"})) == 2


def test_hemorrhage_2019(scanned: Scanned) -> None:
    root, index = scanned(rsna.hemorrhage_2019)
    index = index.join(root / "stage_2_train.csv", on={"{stem}_{subtype}": "ID"}, pivot="subtype")
    require_complete(index, "frame")
    assert index.joined.names == rsna.SUBTYPES and index.joins[0].duplicates_equal == 6
    assert by_file(index, "any") == {n: int(n[3]) for n in by_file(index, "any")}
    assert len(index.select(subdural=1)) == 1 and len(index.select(any=1)) == 3
    with pytest.raises(UsageError, match="the index: there is no column 'stm'"):
        index.join(root / "stage_2_train.csv", on={"stm": "ID"}, label="Label")


def test_embolism_2020(scanned: Scanned) -> None:
    root, index = scanned(rsna.embolism_2020)
    table = root / "train.csv"
    index = index.join(table, on="SOPInstanceUID", label="pe_present_on_image")
    index = index.join(table, "StudyInstanceUID", ["negative_exam_for_pe", "rightsided_pe"])
    require_complete(index, "frame", "study")
    assert len(index.select(pe_present_on_image=1)) == 2
    assert len(index.select(negative_exam_for_pe=1)) == 3
    with pytest.raises(UsageError, match="1 keys have several rows with different"):
        index.join(table, on="SeriesInstanceUID", label={"pe_present_on_image": "again"})


def test_vinbigdata_2021(scanned: Scanned) -> None:
    root, index = scanned(rsna.vinbigdata_2021)
    index = index.join(root / "train.csv", on={"stem": "image_id"}, lists=True)
    require_complete(index, "frame")
    assert by_file(index, "class_id") == {"50a418190bc3": (14, 14, 14), "21a10246a5ec": (3, 3, 0)}
    assert by_file(index, "rad_id")["21a10246a5ec"] == ("R8", "R9", "R9")
    assert all(np.isnan(by_file(index, "x_min")["50a418190bc3"]))


def test_covid_2021(scanned: Scanned) -> None:
    root, index = scanned(rsna.covid_2021)
    index = index.join(root / "train_study_level.csv", on={"{path.parts[-3]}_study": "id"})
    images = root / "train_image_level.csv"
    index = index.join(images, on={"{stem}_image": "id"}, parse="boxes")
    require_complete(index, "patient", "frame")
    assert list(by_file(index, "Typical Appearance").values()) == [0, 1]
    assert list(by_file(index, "boxes_width").values()) == [(), (1026.65662,)]
    assert by_file(index, "label")["000a312787f0"] == "none 1 0 0 1 1"
    with pytest.raises(UsageError, match="more text around them: use a template of the index"):
        index.join(images, on={"stem": "id"}, label={"label": "other"})


def test_glioma_2021(scanned: Scanned) -> None:
    root, index = scanned(rsna.glioma_2021)
    found = index.join(root / "train_labels.csv", on={"path.parts[-3]": "BraTS21ID"})
    require_complete(found, "patient")
    assert len(found.select(MGMT_value=1)) == 4
    # What pandas makes of the same file is told, and can be padded.
    numbers = {"BraTS21ID": [0, 2, 100], "MGMT_value": [0, 1, 0]}
    with pytest.raises(UsageError, match="leading zeros that the table lacks"):
        index.join(numbers, on={"path.parts[-3]": "BraTS21ID"})
    padded = index.join(numbers, on={"path.parts[-3]": "{BraTS21ID:05}"})
    assert padded.joined.codes("MGMT_value", padded.rows())[0].sum() == 4


def test_spine_2022(scanned: Scanned) -> None:
    root, index = scanned(rsna.spine_2022)
    index = index.join(root / "train.csv", on="StudyInstanceUID")
    keys = {"StudyInstanceUID": "StudyInstanceUID", "instance_number": "slice_number"}
    boxes = root / "train_bounding_boxes.csv"
    index = index.join(boxes, on=keys, lists=True, on_unmatched={"index": "keep"})
    assert index.joins[1].rows_unmatched == 0 and index.joins[1].keys_unmatched == 6
    assert [r.level for r in index.joins] == ["study", "frame"]
    part = index.select(patient_overall=1)
    sizes = [len(each) for each in part.joined.lists("x", part.rows())]
    assert sizes == [0, 1, 1, 0] and len(index.select(instance_number=2)) == 2
    with pytest.raises(UsageError, match="6 of 8 keys of the index"):
        index.join(boxes, on=keys, label={"x": "left"}, lists=True)


def test_breast_2023(scanned: Scanned) -> None:
    root, index = scanned(rsna.breast_2023)
    keys = {"parent": "patient_id", "stem": "image_id"}
    index = index.join(root / "train.csv", on=keys)
    require_complete(index, "frame")
    assert len(index.select(cancer=1, image_laterality="R")) == 2
    assert index.joined.kind("difficult_negative_case") == "flag"
    assert index.joined.kind("BIRADS") == "real"
    # The same labels belong to a breast: two images have equal rows.
    keys = {"patient_id": "patient_id", "image_laterality": "laterality"}
    breast = index.join(root / "train.csv", on=keys, label={"cancer": "of_breast"})
    assert breast.joins[1].duplicates_equal == 4
    assert len(breast.select(of_breast=1)) == 2


def test_abdomen_2023(scanned: Scanned) -> None:
    root, index = scanned(rsna.abdomen_2023)
    patient, series = {"path.parts[-3]": "patient_id"}, {"parent": "series_id"}
    index = index.join(root / "train.csv", on=patient)
    index = index.join(root / "train_series_meta.csv", on=patient | series)
    images, keys = root / "image_level_labels.csv", patient | series | {"stem": "instance_number"}
    index = index.join(images, on=keys, lists=True, on_unmatched={"index": "keep"})
    assert [report.level for report in index.joins] == ["patient", "series", "frame"]
    assert not any(report.rows_unmatched for report in index.joins)
    assert len(index.select(any_injury=1)) == 6 and len(index.select(aortic_hu=101.5)) == 6
    held = index.joined.lists("injury_name", index.rows())
    assert sorted(map(len, held)) == [0] * 10 + [1, 2]
    assert max(held, key=len) == ["Active_Extravasation", "Bowel"]


def test_lumbar_2024(scanned: Scanned) -> None:
    root, index = scanned(rsna.lumbar_2024)
    study, series = {"path.parts[-3]": "study_id"}, {"parent": "series_id"}
    index = index.join(root / "train.csv", on=study)
    plane = {"series_description": "plane"}
    index = index.join(root / "train_series_descriptions.csv", study | series, plane)
    points, keys = (
        root / "train_label_coordinates.csv",
        study | series | {"stem": "instance_number"},
    )
    index = index.join(points, on=keys, lists=True, on_unmatched={"index": "keep"})
    assert not any(report.rows_unmatched for report in index.joins)
    assert len(index.select(plane="Axial T2")) == 6
    codes, classes = index.joined.codes("left_neural_foraminal_narrowing_l1_l2", index.rows())
    assert classes == ("Severe",) and sorted(codes.tolist()) == [-1] * 6 + [0] * 6
    held = [each for each in index.joined.lists("level", index.rows()) if each]
    assert held == [["L1/L2", "L2/L3"]] * 2


def test_aneurysm_2025(scanned: Scanned) -> None:
    root, index = scanned(rsna.aneurysm_2025)
    index = index.join(root / "train.csv", on="SeriesInstanceUID")
    points, keep = root / "train_localizers.csv", {"index": "keep"}
    keys = {"SOPInstanceUID": "SOPInstanceUID", "frame_index": "coordinates_f"}
    index = index.join(points, keys, parse="coordinates", lists=True, on_unmatched=keep)
    assert [report.level for report in index.joins] == ["series", "frame"]
    assert index.joins[0].left_out == ("PatientAge", "PatientSex", "Modality")
    assert index.joins[1].rows_unmatched == 0 and len(index.select(**{"Aneurysm Present": 1})) == 6
    held = [tuple(each) for each in index.joined.lists("coordinates_x", index.rows())]
    assert sorted(held) == [()] * 7 + [(3.5,), (258.36, 101.5)]
    third = [n for n in range(len(index)) if index.value(n, "coordinates_f") == (2,)]
    assert [index.value(n, "frame_number") for n in third] == [3]
