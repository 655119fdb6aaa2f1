"""write_card: counts, split and sources of a data set for machines and people, and no patient."""

import csv
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest
from conftest import NewFolder, index_of
from phantoms import write_series

import dicomdl
from dicomdl.cli.main import main
from dicomdl.errors import StorageError, UsageError
from dicomdl.index.own_scans import record
from dicomdl.jobs._card_text import license_id

# Properties that Croissant 1.1 requires or recommends of a data set.
DESCRIBED = {
    "license": "CC BY 4.0",
    "citations": ["Doe 2020"],
    "creators": ["Somebody"],
    "url": "https://example.org/set",
    "version": "1.0.0",
    "date_published": "2026-11-29",
}


def edit(dataset: Any, z: int) -> None:
    dataset.PatientName = "Secret^Name"
    dataset.StudyDate = "19990102"
    dataset.SeriesDescription = "Head of SECRET"


@pytest.fixture(scope="module")
def index(new_folder: NewFolder) -> dicomdl.Index:
    folder = new_folder()
    for seed in range(3):
        write_series(folder, seed=seed, patient_id=f"SECRET-ID-{seed}", edit=edit)
    write_series(folder, seed=7, patient_id="SECRET-ID-0", drop=[2], edit=edit)
    return index_of(folder)


def carded(index: Any, folder: Path, **options: Any) -> Any:
    return dicomdl.write_card(index, folder, name="Set", progress=False, **options)


def read(folder: Path) -> dict[str, Any]:
    made: dict[str, Any] = json.loads((folder / "card.json").read_text())
    return made


def test_a_card_states_counts_verdicts_and_the_split(index: dicomdl.Index, tmp_path: Path) -> None:
    train, test = index.split((0.6, 0.4), seed=1)
    card = carded(index, tmp_path / "set", splits={"train": train, "test": test})
    facts = read(tmp_path / "set")["dicomdl"]
    assert (facts["counts"]["patients"], facts["counts"]["frames"]) == (3, 23)
    (modality,) = facts["modalities"]
    assert (modality["modality"], modality["stacks"], modality["slices"]) == ("CT", 4, 23)
    assert modality["verdicts"] == {"missing_slices": 1, "regular": 3}
    assert modality["spacing_mm"] == [[2.0, 2.0, 2.0], [1.0, 1.0, 1.0], [1.0, 1.0, 1.0]]
    for name, part in (("train", train), ("test", test)):
        assert facts["splits"][name]["stacks"] == len(part.stacks) == card.parts[name]
        rows = list(csv.DictReader((tmp_path / f"set/stacks/{name}.csv").open()))
        assert {row["series_instance_uid"] for row in rows} == {
            stack.series_instance_uid for stack in part.stacks
        }
        assert {(row["rows"], row["row_spacing"]) for row in rows} == {("5", "1.0")}
    assert facts["fingerprint"] == card.fingerprint


@pytest.mark.slow
def test_a_card_is_croissant_that_its_own_reader_takes(
    index: dicomdl.Index, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    croissant = pytest.importorskip("mlcroissant")
    folder = tmp_path / "set"
    (folder / "train").mkdir(parents=True)
    (folder / "train" / "shard-0.tar").write_bytes(b"pixels")
    train, test = index.split((0.6, 0.4), seed=1)
    carded(index, folder, splits={"train": train, "test": test}, **DESCRIBED)
    caplog.clear()
    data = croissant.Dataset(str(folder / "card.json"))
    assert not [each.getMessage() for each in caplog.records if "Found" in each.getMessage()]
    assert str(data.metadata.ctx.conforms_to.value) == "http://mlcommons.org/croissant/1.1"
    records = list(data.records("stacks_train"))
    assert {record["stacks_train/series_instance_uid"].decode() for record in records} == {
        stack.series_instance_uid for stack in train.stacks
    }
    assert {record["stacks_train/slice_spacing"] for record in records} == {2.0}


def test_a_card_has_what_croissant_requires(index: dicomdl.Index, tmp_path: Path) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    (folder / "a.tar").write_bytes(b"pixels")
    (folder / ".hidden").write_bytes(b"")
    card = carded(index, folder, **DESCRIBED)
    made = read(folder)
    assert made["conformsTo"] == "http://mlcommons.org/croissant/1.1"
    required = {"name", "description", "license", "url", "creator", "datePublished", "citeAs"}
    assert required <= made.keys()
    listed = {each["contentUrl"]: each for each in made["distribution"]}
    assert set(listed) == {"a.tar", "README.md", "stacks/train.csv"}
    assert card.data_files == 1
    for path, each in listed.items():
        data = (folder / path).read_bytes()
        assert each["sha256"] == hashlib.sha256(data).hexdigest()
        assert each["contentSize"] == f"{len(data)} B"
    assert listed["a.tar"]["encodingFormat"] == "application/x-tar"


def test_the_readme_has_front_matter_that_yaml_reads(index: dicomdl.Index, tmp_path: Path) -> None:
    yaml = pytest.importorskip("yaml")
    splits = dict(zip(("train", "test"), index.split((0.6, 0.4)), strict=True))
    configs = {"shards": {"train": "train-*.tar"}}
    carded(index, tmp_path / "set", splits=splits, configs=configs, tags=["x: y"], **DESCRIBED)
    _, front, body = (tmp_path / "set/README.md").read_text().split("---\n", 2)
    matter = yaml.safe_load(front)
    assert matter["license"] == ["cc-by-4.0"]
    assert matter["size_categories"] == ["n<1K"]
    assert matter["tags"] == ["ct", "dicom", "medical", "x: y"]
    stacks, shards = matter["configs"]
    assert [each["split"] for each in stacks["data_files"]] == ["train", "test"]
    assert all((tmp_path / "set" / each["path"]).exists() for each in stacks["data_files"])
    assert shards == {
        "config_name": "shards",
        "data_files": [{"split": "train", "path": "train-*.tar"}],
    }
    assert "| CT | 4 | 23 | 1 missing_slices, 3 regular |" in body
    assert "Doe 2020" in body


def test_a_card_has_no_patient_and_no_date(index: dicomdl.Index, tmp_path: Path) -> None:
    carded(index, tmp_path / "set")
    for parent, _, names in os.walk(tmp_path / "set"):
        for name in names:
            text = (Path(parent) / name).read_text().lower()
            assert not [word for word in ("secret", "ramp", "1999") if word in text], name


def test_file_names_with_a_patient_id_are_refused_unless_asked(
    index: dicomdl.Index, tmp_path: Path
) -> None:
    folder = tmp_path / "set"
    (folder / "SECRET-ID-1").mkdir(parents=True)
    (folder / "SECRET-ID-1" / "001.nii.gz").write_bytes(b"x")
    (folder / "ct_SECRET-ID-2.nii.gz").write_bytes(b"x")
    (folder / "SECRET-ID-10.nii.gz").write_bytes(b"x")
    with pytest.raises(UsageError, match=r"2 files .* have a PatientID in their name"):
        carded(index, folder)
    assert carded(index, folder, patient_ids=True).data_files == 3
    assert carded(index, tmp_path / "set", files=[], overwrite=True).data_files == 0


@pytest.mark.slow
def test_equal_arguments_give_equal_bytes_on_any_path_and_in_any_order(tmp_path: Path) -> None:
    made = []
    for place in ("one", "two"):
        for seed in (1, 2) if place == "one" else (2, 1):
            write_series(tmp_path / place / f"{place}{seed}", seed=seed, patient_id=f"P{seed}")
        index = dicomdl.scan(tmp_path / place, tmp_path / f"{place}.index", progress=False)
        card = carded(index, tmp_path / f"{place}.set", options={"a": 1})
        made.append([(tmp_path / f"{place}.set" / path).read_bytes() for path in card.files])
    assert made[0] == made[1]


def test_a_card_of_other_content_is_replaced_only_if_asked(
    index: dicomdl.Index, tmp_path: Path
) -> None:
    folder = tmp_path / "set"
    parts = index.split((0.6, 0.4))
    first = carded(index, folder, splits=parts)
    assert carded(index, folder, splits=parts) == first
    before = {path: (folder / path).read_bytes() for path in first.files}
    with pytest.raises(UsageError, match=r"exists, with other content: .* overwrite=True"):
        carded(index, folder, options={"a": 1})
    assert before == {path: (folder / path).read_bytes() for path in first.files}
    second = carded(index, folder, options={"a": 1}, overwrite=True)
    assert second.fingerprint != first.fingerprint
    assert sorted(os.listdir(folder / "stacks")) == ["train.csv"]


def test_a_readme_of_somebody_else_stays(index: dicomdl.Index, tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set/README.md").write_text("mine")
    with pytest.raises(UsageError, match=r"README\.md"):
        carded(index, tmp_path / "set")
    assert os.listdir(tmp_path / "set") == ["README.md"]


def test_an_interrupted_card_is_continued(index: dicomdl.Index, tmp_path: Path) -> None:
    card = carded(index, tmp_path / "set")
    (tmp_path / "set/card.json").unlink()
    assert carded(index, tmp_path / "set") == card


def test_licenses_and_citations_of_joined_columns_are_in_a_card(
    index: dicomdl.Index, tmp_path: Path
) -> None:
    table = {"Modality": ["CT"], "citation": ["Doe 2020"], "license": ["CC BY-NC 3.0"]}
    carded(index.join(table, on="Modality"), tmp_path / "set", license="mine")
    made = read(tmp_path / "set")
    assert made["license"] == ["CC BY-NC 3.0", "mine"]
    assert made["citeAs"] == "Doe 2020 (CC BY-NC 3.0)"


@pytest.mark.parametrize(
    ("name", "hub"),
    [
        ("CC BY 4.0", "cc-by-4.0"),
        ("CC-BY-NC-SA-3.0", "cc-by-nc-sa-3.0"),
        ("Apache-2.0", "apache-2.0"),
        ("MIT", "mit"),
        ("ask us", "other"),
    ],
)
def test_a_license_has_the_identifier_of_the_hub(name: str, hub: str) -> None:
    assert license_id(name) == hub


def test_parts_of_a_split_are_named_by_their_number(index: dicomdl.Index, tmp_path: Path) -> None:
    assert list(carded(index, tmp_path / "a", splits=index.split((0.5, 0.5))).parts) == [
        "train",
        "validation",
    ]
    folds = list(index.stacks)
    assert list(carded(index, tmp_path / "b", splits=folds).parts)[-1] == "fold_3"


def test_wrong_parts_are_an_error(index: dicomdl.Index, tmp_path: Path) -> None:
    one, two = index.split((0.5, 0.5))
    wrong: list[tuple[Any, str]] = [
        ({"train": one, "test": index}, "shares .* frames"),
        ({"../train": one}, "none of a file"),
    ]
    for splits, words in wrong:
        with pytest.raises(UsageError, match=words):
            carded(index, tmp_path / "set", splits=splits)
    with pytest.raises(UsageError, match="not in the index"):
        carded(one, tmp_path / "set", splits={"a": two})
    write_series(tmp_path / "else", seed=9)
    other = dicomdl.scan(tmp_path / "else", tmp_path / "other", progress=False)
    with pytest.raises(UsageError, match="another index"):
        carded(index, tmp_path / "set", splits={"a": other})
    assert not (tmp_path / "set").exists()


def test_wrong_options_of_a_card_are_an_error(index: dicomdl.Index, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="blank"):
        dicomdl.write_card(index, tmp_path / "set", name=" \n", progress=False)
    with pytest.raises(UsageError, match="2026-11-29"):
        carded(index, tmp_path / "set", date_published="yesterday")
    with pytest.raises(UsageError, match="not below the folder"):
        carded(index, tmp_path / "set", files=["../a"])
    with pytest.raises(StorageError, match="cannot be read"):
        carded(index, tmp_path / "set", files=["absent"])


@pytest.mark.slow
def test_files_of_odd_names_are_listed_so_that_croissant_is_valid(
    index: dicomdl.Index, tmp_path: Path
) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    for name in ("a b.tar", "a\nb.tar", "\u65e5.tar"):
        (folder / name).write_bytes(b"x")
    (folder / "broken").symlink_to("nowhere")
    carded(index, folder)
    listed = {each["contentUrl"]: each["@id"] for each in read(folder)["distribution"]}
    assert {"a b.tar", "a\nb.tar", "\u65e5.tar"} <= listed.keys()
    assert not [found for found in listed.values() if not found.isascii() or " " in found]
    assert len(set(listed.values())) == len(listed) == 5
    croissant = pytest.importorskip("mlcroissant")
    assert croissant.Dataset(str(folder / "card.json")).metadata.name == "Set"


def test_a_file_whose_name_is_not_utf8_is_refused(index: dicomdl.Index, tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    try:
        (tmp_path / "set" / os.fsdecode(b"bad\xff.tar")).write_bytes(b"x")
    except OSError:
        pytest.skip("this file system takes UTF-8 alone")
    with pytest.raises(UsageError, match="not UTF-8"):
        carded(index, tmp_path / "set")


def test_markup_in_names_is_text_in_the_readme(index: dicomdl.Index, tmp_path: Path) -> None:
    carded(index, tmp_path / "set", description="<script>*a*\x1b[2J\n# b")
    text = (tmp_path / "set/README.md").read_text()
    assert "\x1b" not in text
    assert r"\<script\>\*a\*" in text


@pytest.mark.slow
def test_the_command_writes_a_card_and_prints_its_fingerprint(
    index: dicomdl.Index, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    index.split((0.5, 0.5), seed=3).save(tmp_path / "split.json")
    (tmp_path / "options.json").write_text('{"spacing": [1, 1, 1]}')
    out = str(tmp_path / "set")
    record(index.path, index.generation)
    command = ["card", index.path, "-o", out, "--name", "Set", "-q"]
    command += ["--split", str(tmp_path / "split.json"), "--license", "CC BY 4.0"]
    assert main([*command, "--options", str(tmp_path / "options.json")]) == 0
    made = read(tmp_path / "set")["dicomdl"]
    assert made["fingerprint"] in capsys.readouterr().out
    assert made["options"] == {"spacing": [1, 1, 1]}
    assert set(made["splits"]) == {"train", "validation"}
    assert main([*command, "--json"]) == 2
    assert "pass --overwrite" in capsys.readouterr().err
    assert main([*command, "--overwrite", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["parts"].keys() == {"train", "validation"}
    (tmp_path / "options.json").write_text("[]")
    assert main([*command, "--options", str(tmp_path / "options.json")]) == 2
