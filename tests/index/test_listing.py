"""listing: stacks as text, CSV and JSON for a shell."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
from phantoms import write_series

import dicomdl
from dicomdl.cli.main import main
from dicomdl.errors import UsageError
from dicomdl.index.index import Index
from dicomdl.index.listing import as_csv, as_text, listing

SECRET, DATE = "SECRET-17", "19991231"


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Index:
    """Two series of one patient, one of another; a description that a spreadsheet computes."""
    tmp_path = tmp_path_factory.mktemp("shared")

    def edit(text: str) -> Any:
        def described(dataset: Any, z: int) -> None:
            dataset.SeriesDescription, dataset.StudyDate = text, DATE

        return described

    series = [(SECRET, "T1, sag"), ("B", "=1+1"), (SECRET, "scout")]
    for number, (patient, text) in enumerate(series):
        write_series(
            tmp_path / "data" / f"s{number}",
            shape=(3 + number, 5, 7),
            patient_id=patient,
            edit=edit(text),
            seed=number,
        )
    return dicomdl.scan(tmp_path / "data", tmp_path / "index", progress=False)


def test_a_listing_says_which_series_a_stack_is(index: Index) -> None:
    rows = {row["description"]: row for row in listing(index)}
    assert rows["T1, sag"]["folder"] == str(Path(index.path).parent / "data" / "s0")
    assert rows["T1, sag"]["shape"] == [3, 5, 7] and rows["scout"]["verdict"] == "regular"
    assert rows["T1, sag"]["patient"] == rows["scout"]["patient"] != rows["=1+1"]["patient"]
    for stack in index.stacks:
        assert rows[stack.description]["stack"] == stack.number
        assert stack.path == rows[stack.description]["folder"]
        assert sorted(stack.paths) == sorted(str(path) for path in Path(stack.path).iterdir())
        number = stack.value("series_number")
        assert repr(stack).endswith(f"series {number} {stack.description!r} in {stack.path})")


def test_patient_ids_and_dates_are_listed_on_request_only(index: Index) -> None:
    for text in (as_text(listing(index)), as_csv(listing(index)), json.dumps(listing(index))):
        assert SECRET not in text and DATE not in text
    assert SECRET not in repr(index.stacks) + str(index.check()) + repr(index.stacks[0].sources)
    told = as_text(listing(index, dates=True, patient_ids=True))
    assert SECRET in told and DATE in told


def test_csv_is_read_back_and_computes_nothing(index: Index) -> None:
    rows = list(csv.DictReader(io.StringIO(as_csv(listing(index)))))
    assert sorted(row["description"] for row in rows) == ["'=1+1", "T1, sag", "scout"]
    assert {row["shape"] for row in rows} == {"3 x 5 x 7", "4 x 5 x 7", "5 x 5 x 7"}


def test_csv_and_json_have_the_uids_that_labels_are_joined_by(
    index: Index, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = {stack.series_instance_uid: stack.study_instance_uid for stack in index.stacks}
    assert main(["show", index.path, "--csv"]) == 0
    table = csv.DictReader(io.StringIO(capsys.readouterr().out))
    assert {row["series_instance_uid"]: row["study_instance_uid"] for row in table} == expected
    assert main(["show", index.path, "--json"]) == 0
    stacks = json.loads(capsys.readouterr().out)["stacks"]
    assert {row["series_instance_uid"]: row["study_instance_uid"] for row in stacks} == expected
    assert main(["show", index.path, "--stacks"]) == 0
    assert "instance uid" not in capsys.readouterr().out


def test_an_option_of_the_list_prints_the_list_and_one_format_excludes_another(
    index: Index, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["show", index.path, "--dates"]) == 0
    assert DATE in capsys.readouterr().out
    assert main(["show", index.path, "--problems"]) == 0
    assert "no file has a problem" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="2"):
        main(["show", index.path, "--csv", "--json"])


def test_an_empty_selection_is_listed_as_such(index: Index) -> None:
    nothing = listing(index.select(modality="PT"))
    assert nothing == [] and "no stack" in as_text(nothing) and "stack," in as_csv(nothing)


def test_the_command_filters_and_speaks_of_the_selection(
    index: Index, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["show", index.path, "--stacks", "--where", "slices>=4"]) == 0
    printed = capsys.readouterr().out
    assert "Selection of 9 of 12 frames: 2 patients" in printed
    assert "9 of 12 files of the index hold them" in printed and "T1, sag" not in printed
    assert main(["show", index.path, "--json", "--where", "series_description=*sag*"]) == 0
    (row,) = json.loads(capsys.readouterr().out)["stacks"]
    assert row["description"] == "T1, sag" and "patient_id" not in row
    assert main(["show", index.path, "--where", "modalty=CT"]) == 2
    assert "did you mean" in capsys.readouterr().err


def test_the_summary_of_a_selection_adds_up(index: Index) -> None:
    part = index.of_frames(range(len(index) - 1))
    text = str(part)
    assert text.startswith("Selection of 11 of 12 frames") and "2 stacks" in text
    apart = 11 - part.stacks.shapes()[:, 0].sum()
    assert f"{apart} frames of stacks that the selection took apart" in text


def test_lists_of_groups_and_sources_print_one_line_each(index: Index) -> None:
    lines = repr(index.stacks[0].sources).splitlines()
    assert len(lines) == 1 + index.stacks[0].slices and all("bytes" in line for line in lines[1:])
    assert index.groups == [] and repr(index.groups) == "[]"


def test_series_studies_and_single_groups_say_which_they_are(index: Index) -> None:
    lines = repr(index.series).splitlines()
    assert lines[0] == "[3]" and len(lines) == 4
    for line, series in zip(lines[1:], index.series, strict=True):
        number, uid = series.series_number, series.series_instance_uid
        assert line == f"Series(CT, {number} {series.description!r}, 1 stack, {uid})"
    assert repr(index.studies[0]).startswith("Study(CT, 1 series, ")
    assert repr(index.stacks[0].group) == f"Group(1, {index.stacks[0]!r})"
    for wrong in ("a", 1.5, [0]):
        with pytest.raises(UsageError, match="integer"):
            index.stacks[wrong]


@pytest.mark.parametrize("wrong", [3, None, 1.5])
def test_what_is_no_path_is_refused_with_what_to_pass(index: Index, wrong: Any) -> None:
    with pytest.raises(UsageError, match=f"not {type(wrong).__name__}"):
        dicomdl.scan(wrong)
    with pytest.raises(UsageError, match=f"not {type(wrong).__name__}"):
        dicomdl.open_index(wrong)
    with pytest.raises(UsageError, match="not Index"):
        dicomdl.open_index(index)  # type: ignore[arg-type]


def test_a_file_is_not_the_folder_of_an_index(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "case.zip").write_bytes(b"PK")
    assert main(["show", str(tmp_path / "case.zip")]) == 2
    said = capsys.readouterr().err
    assert "is a file, not the folder of an index" in said and "dicomdl scan FOLDER" in said
