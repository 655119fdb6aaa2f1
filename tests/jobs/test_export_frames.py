"""Exports of frames: pictures, their tables, and the layouts of Hugging Face and YOLO."""

import csv
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import NewFolder, index_of
from phantoms import write_series
from phantoms_labels import write_seg
from PIL import Image

import dicomdl
from dicomdl.cli import _export
from dicomdl.cli.main import main
from dicomdl.errors import UsageError
from dicomdl.index.own_scans import record
from dicomdl.jobs.exports import options
from dicomdl.jobs.exports.exported import ExportWarning

PATIENTS = 4
WINDOW = (40, 80)


@pytest.fixture(scope="module")
def index(new_folder: NewFolder) -> dicomdl.Index:
    folder = new_folder()
    for number in range(PATIENTS):
        write_series(folder / str(number), patient_id=f"P{number}", seed=number, intercept=-20)
    index = index_of(folder)
    grades = {"PatientID": [f"P{n}" for n in range(PATIENTS)], "grade": list("abab")}
    return index.join(grades, on="PatientID")


@pytest.fixture(scope="module")
def boxed(index: dicomdl.Index) -> dicomdl.Index:
    uids = [index.value(row, "sop_instance_uid") for row in (0, 0, 7)]
    table = {"SOPInstanceUID": uids, "x": [1, 2, 0], "y": [1, 0, 2], "w": [2, 4, 7], "h": [3, 1, 3]}
    table["kind"] = ["nodule", "mass", "mass"]
    return index.join(table, on="SOPInstanceUID", lists=True, on_unmatched="keep")


BOXES = dicomdl.Boxes("x", "y", "w", "h", label="kind")


def exported(index: dicomdl.Index, to: Any, out: Path, **given: Any) -> Any:
    return dicomdl.export(index, to, out, progress=False, **given)


def table_of(out: Path) -> list[dict[str, str]]:
    with open(out / "frames.csv", newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
def test_a_picture_has_the_window_and_the_table_leads_back(
    index: dicomdl.Index, tmp_path: Path
) -> None:
    exported(index, "png", tmp_path / "out", intensity=WINDOW)
    rows = table_of(tmp_path / "out")
    values = dicomdl.FrameDataset(index, "modality")
    assert len(rows) == len(values)
    for row, sample in zip(rows, values, strict=True):
        pixels = np.asarray(Image.open(tmp_path / "out" / row["file"]))
        assert pixels.dtype == np.uint8 and row["sop_instance_uid"] == sample["sop_instance_uid"]
        low, high = float(row["low"]), float(row["high"])
        back = low + pixels / 255 * (high - low)
        clipped = np.clip(sample["image"][0].numpy(), low, high)
        assert np.abs(back - clipped).max() <= (high - low) / 255 / 2 + 1e-3


@pytest.mark.slow
def test_pictures_of_sixteen_bits_hold_modality_values(
    index: dicomdl.Index, tmp_path: Path
) -> None:
    exported(index, "png", tmp_path / "out", intensity="modality", picture="png16")
    values = dicomdl.FrameDataset(index, "modality")
    for row, sample in zip(table_of(tmp_path / "out"), values, strict=True):
        pixels = np.asarray(Image.open(tmp_path / "out" / row["file"])).astype(np.int64)
        back = float(row["low"]) + pixels / 65535 * (float(row["high"]) - float(row["low"]))
        assert np.array_equal(np.rint(back), sample["image"][0].numpy())
    with pytest.raises(UsageError, match="needs 16 bits per pixel"):
        exported(index, "png", tmp_path / "other", intensity="modality")


@pytest.mark.slow
def test_jpeg_is_near_and_its_table_has_targets_masks_and_the_split(tmp_path: Path) -> None:
    paths = write_series(tmp_path / "in" / "ct")
    mask = np.zeros((5, 7), np.uint8)
    mask[1:3, 2:6] = 1
    write_seg(tmp_path / "in" / "seg.dcm", paths[0], [(1, (0, 0, 4.0), mask)], segments={1: "a"})
    index = dicomdl.scan(tmp_path / "in", tmp_path / "index", progress=False)
    index = index.select(modality="CT").join({"PatientID": ["RAMP-1"], "age": [61.5]}, "PatientID")
    given: dict[str, Any] = {"labels": "SEG", "target": "age", "picture": "jpeg", "size": 32}
    exported(index, "png", tmp_path / "out", intensity=WINDOW, **given)
    rows = table_of(tmp_path / "out")
    assert {(row["split"], row["age"]) for row in rows} == {("train", "61.5")}
    dataset = dicomdl.FrameDataset(index, WINDOW, labels="SEG", size=32)
    for row, sample in zip(rows, dataset, strict=True):
        picture = Image.open(tmp_path / "out" / row["file"])
        assert (picture.format, picture.size) == ("JPEG", (32, 32))
        labels = np.asarray(Image.open(tmp_path / "out" / row["mask"]))
        assert np.array_equal(labels, sample["label"].numpy())


def test_the_metadata_of_hugging_face_names_every_picture(
    boxed: dicomdl.Index, tmp_path: Path
) -> None:
    done = exported(
        boxed, "hf", tmp_path / "out", target="grade", boxes=BOXES, split=(0.5, 0.25, 0.25)
    )
    assert done.published == tuple(
        f"{part}/metadata.jsonl" for part in ("train", "validation", "test")
    )
    grades = {f"P{n}": "abab"[n] for n in range(PATIENTS)}
    found = 0
    for path in done.published:
        for line in map(json.loads, (tmp_path / "out" / path).read_text().splitlines()):
            assert (tmp_path / "out" / path).with_name(line["file_name"]).is_file()
            assert line["grade"] == grades[line["patient_id"]]
            found += len(line["objects"]["bbox"])
            if line["sop_instance_uid"] == boxed.value(0, "sop_instance_uid"):
                assert sorted(line["objects"]["bbox"]) == [[1, 1, 2, 3], [2, 0, 4, 1]]
    assert found == 3


def test_the_package_datasets_reads_the_layout(index: dicomdl.Index, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    if not hasattr(datasets, "load_dataset"):
        pytest.skip("the package datasets is not installed; this is the folder of our tests")
    exported(index, "hf", tmp_path / "out", target="grade", split=(0.5, 0.5))
    read = datasets.load_dataset(
        "imagefolder", data_dir=str(tmp_path / "out"), cache_dir=str(tmp_path / "cache")
    )
    assert {name: len(part) for name, part in read.items()} == {"train": 12, "validation": 12}
    assert set(read["train"]["grade"]) <= {"a", "b"}


def yolo_boxes(folder: Path) -> tuple[dict[str, Any], dict[str, list[Any]]]:
    """Read a data set as YOLO lays it out: {entry: value}, {picture: [class, x, y, w, h]}."""
    told: dict[str, Any] = {"names": {}}
    for line in (folder / "data.yaml").read_text().splitlines():
        key, _, value = line.partition(":")
        if line.startswith("  "):
            told["names"][int(key)] = json.loads(value)
        elif value:
            told[key] = value.strip()
    boxes: dict[str, list[Any]] = {}
    for part in ("train", "val"):
        for picture in sorted((folder / told[part]).iterdir()):
            text = Path(str(picture).replace("images", "labels")).with_suffix(".txt").read_text()
            width, height = Image.open(picture).size
            scale = (1, width, height, width, height)
            boxes[picture.stem] = [
                [float(cell) * by for cell, by in zip(line.split(), scale, strict=True)]
                for line in text.splitlines()
            ]
    return told, boxes


def test_a_reader_of_yolo_finds_every_box(boxed: dicomdl.Index, tmp_path: Path) -> None:
    done = exported(boxed, "yolo", tmp_path / "out", boxes=BOXES, split=(0.5, 0.5))
    told, boxes = yolo_boxes(tmp_path / "out")
    assert told["names"] == {0: "mass", 1: "nodule"}
    assert len(boxes) == len(boxed)
    name = done.entries[0]["name"]
    assert sorted(boxes[name]) == [
        pytest.approx([0, 4, 0.5, 4, 1]),
        pytest.approx([1, 2, 2.5, 2, 3]),
    ]
    assert sum(map(len, boxes.values())) == 3


def test_yolo_needs_boxes_and_two_parts(boxed: dicomdl.Index, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="YOLO needs boxes"):
        exported(boxed, "yolo", tmp_path / "out", split=(0.5, 0.5))
    with pytest.raises(UsageError, match="parts for training and validation"):
        exported(boxed, "yolo", tmp_path / "out", boxes=BOXES)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("orientation", "RAS"),
        ("interpolation", "thick_slices"),
        ("irregular", "resample"),
        ("dtype", "int16"),
    ],
)
def test_options_of_volumes_are_refused_instead_of_left_unused(
    index: dicomdl.Index, tmp_path: Path, name: str, value: str
) -> None:
    with pytest.raises(UsageError, match=f"{name}='{value}' is an option of volumes"):
        exported(index, "png", tmp_path / "out", **{name: value})
    assert not (tmp_path / "out").exists()


def test_names_follow_a_template_that_tells_samples_apart(
    index: dicomdl.Index, tmp_path: Path
) -> None:
    done = exported(index, "png", tmp_path / "out", names="{patient_id}")
    assert [entry["name"] for entry in done.entries[:2]] == ["P0_0000", "P0_0001"]
    with pytest.raises(UsageError, match="gives stack 0 and stack 1 one name"):
        exported(index, "png", tmp_path / "other", names="{modality}")
    assert not (tmp_path / "other").exists()


def test_files_with_equal_uids_have_names_of_their_own(tmp_path: Path) -> None:
    def same(dataset: Any, z: int) -> None:
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = f"2.25.{z + 1}"

    for number in range(2):
        folder = tmp_path / "in" / str(number)
        write_series(folder, patient_id=f"P{number}", seed=number, intercept=number, edit=same)
    index = dicomdl.scan(tmp_path / "in", tmp_path / "index", progress=False)
    done = exported(index, "png", tmp_path / "png", intensity=WINDOW)
    names = [entry["name"] for entry in done.entries]
    assert len(index.stacks) == 2 and len(set(names)) == len(names) == 12
    assert [name.endswith("_1") for name in names] == [False] * 6 + [True] * 6
    volumes = exported(index, "datalist", tmp_path / "volumes")
    assert len({entry["name"] for entry in volumes.entries}) == 2
    assert exported(index, "datalist", tmp_path / "volumes").entries == volumes.entries


@pytest.mark.slow
def test_the_command_takes_boxes_and_targets_of_a_table(
    index: dicomdl.Index, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    uids = [index.value(row, "sop_instance_uid") for row in (0, 0, 7)]
    rows = ["image_id,x,y,w,h,kind", f"{uids[0]},1,1,2,3,nodule", f"{uids[1]},2,0,4,1,mass"]
    (tmp_path / "boxes.csv").write_text("\n".join([*rows, f"{uids[2]},0,2,7,3,mass"]))
    record(index.path, index.generation)
    given = ["export", index.path, "--to", "yolo", "-o", str(tmp_path / "out")]
    given += ["--fractions", "0.5", "0.5", "-q", "--join", str(tmp_path / "boxes.csv")]
    assert main(given) == 2
    assert "--join needs --on KEY=COLUMN" in capsys.readouterr().err
    given += ["--on", "SOPInstanceUID=image_id", "--boxes", "x,y,w,h,kind"]
    assert main(given) == 0
    told, boxes = yolo_boxes(tmp_path / "out")
    assert told["names"] == {0: "mass", 1: "nodule"}
    assert sum(map(len, boxes.values())) == 3
    (tmp_path / "grades.csv").write_text("id,grade\nP0,a\nP1,b\nP2,a\nP3,b\n")
    given = ["export", index.path, "--to", "hf", "-o", str(tmp_path / "hf"), "-q"]
    given += ["--join", str(tmp_path / "grades.csv"), "--on", "PatientID=id", "--target", "grade"]
    assert main(given) == 0
    lines = (tmp_path / "hf/train/metadata.jsonl").read_text().splitlines()
    assert {json.loads(line)["grade"] for line in lines} == {"a", "b"}


def test_the_command_names_every_format_and_dtype() -> None:
    assert (_export.FORMATS, _export.DTYPES, _export.PICTURES) == (
        options.FORMATS,
        options.DTYPES,
        options.PICTURES,
    )


@pytest.mark.parametrize(("slope", "count"), [(0.5, 2), (1, 0)])
def test_fractions_that_sixteen_bits_round_are_told(
    tmp_path: Path, slope: float, count: int
) -> None:
    write_series(tmp_path / "in", shape=(2, 4, 5), slope=slope)
    index = index_of(tmp_path / "in")
    given = {"intensity": "modality", "picture": "png16"}
    if not count:
        assert exported(index, "png", tmp_path / "out", **given).remarks == {}
        return
    with pytest.warns(ExportWarning, match="2 samples: modality values with fractions"):
        done = exported(index, "png", tmp_path / "out", **given)
    ((words, told),) = done.remarks.items()
    assert told == count
    assert words in repr(done)
    assert done.to_dict()["remarks"] == done.remarks
    # An export that finds its files complete says the same.
    with pytest.warns(ExportWarning):
        assert exported(index, "png", tmp_path / "out", **given).remarks == done.remarks


def test_a_window_of_sixteen_bits_keeps_fractions(tmp_path: Path) -> None:
    write_series(tmp_path / "in", shape=(2, 4, 5), slope=0.5)
    index = index_of(tmp_path / "in")
    done = exported(index, "png", tmp_path / "out", intensity=WINDOW, picture="png16")
    assert done.remarks == {}


def test_the_command_says_what_samples_lost_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_series(tmp_path / "in", shape=(2, 4, 5), slope=0.5)
    index = index_of(tmp_path / "in")
    record(index.path, index.generation)
    given = ["export", index.path, "--to", "png", "-o", str(tmp_path / "out"), "-q"]
    with warnings.catch_warnings():
        warnings.simplefilter("error", ExportWarning)
        assert main([*given, "--intensity", "modality", "--picture", "png16"]) == 0
    printed = capsys.readouterr()
    assert printed.out.count("were rounded to whole numbers") == 1
    assert printed.err == ""


@pytest.mark.parametrize("workers", [1, 2])
def test_the_frames_whose_labels_overlap_are_counted_and_no_others(
    tmp_path: Path, workers: int
) -> None:
    (image, *_) = write_series(tmp_path / "in", shape=(5, 4, 6))
    mask = np.ones((4, 6), np.uint8)
    planes = [(1, 2.0), (2, 2.0), (2, 4.0)]
    frames = [(segment, (0, 0, z), mask) for segment, z in planes]
    write_seg(tmp_path / "in/s.dcm", image, frames, segments={1: "a", 2: "b"})
    index = index_of(tmp_path / "in").select(modality="CT")
    with pytest.warns(ExportWarning, match="1 sample: labels overlap"):
        done = exported(index, "png", tmp_path / "out", labels="SEG", workers=workers)
    assert [number for number, entry in enumerate(done.entries) if "remarks" in entry] == [1]
