"""conditions: what `select` takes, and tables that come back."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from phantoms import write_series, write_structured_report

import dicomdl
from dicomdl.errors import UsageError
from dicomdl.index.index import Index

pd = pytest.importorskip("pandas")

DESCRIPTIONS = ("AX T1 head", "ax t2 Head (2)", "Chest [lung]", "*tfl3d1", "")


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Index:
    """Five CT series of 3 to 7 slices and five patients, an MR, a report, and a copy."""
    root = tmp_path_factory.mktemp("conditions")

    def described(text: str) -> Any:
        def edit(dataset: Any, z: int) -> None:
            dataset.SeriesDescription = text

        return edit

    for number, text in enumerate(DESCRIPTIONS):
        shape = (3 + number, 5, 7)
        folder = root / "data" / f"s{number}"
        write_series(folder, shape=shape, patient_id=f"P{number}", edit=described(text))
    mr = {"modality": "MR", "sop_class": "1.2.840.10008.5.1.4.1.1.4"}
    write_series(root / "data" / "mr", shape=(3, 5, 7), patient_id="P0", seed=9, **mr)
    write_structured_report(root / "data" / "sr")
    return dicomdl.scan(root / "data", root / "index", progress=False)


def slices(index: Index) -> list[int]:
    return sorted(stack.slices for stack in index.stacks if stack.modality == "CT")


@pytest.mark.parametrize(
    ("conditions", "expected"),
    [
        ({"series_description": "*head*"}, [3, 4]),
        ({"series_description": "AX T1 head"}, [3]),
        ({"series_description": "ax t1 head"}, []),
        ({"series_description": "chest [LUNG]*"}, [5]),
        ({"series_description": "*(?)"}, [4]),
        # The text of a row is that text, even if it looks like a pattern.
        ({"series_description": "*tfl3d1"}, [6]),
        ({"series_description": ["*head*", "*tfl3d1"]}, [3, 4, 6]),
        ({"series_description": None, "modality": "CT"}, [7]),
        ({"not_series_description": "*head*"}, [5, 6, 7]),
        ({"not_verdict": "regular"}, []),
        ({"SeriesDescription": "*t2*"}, [4]),
        ({"min_slices": 5, "max_slices": 6}, [5, 6]),
        ({"not_slices": [3, 4]}, [5, 6, 7]),
        ({"slices": lambda n: n % 2 == 0}, [4, 6]),
        ({"PatientID": lambda text: text in ("P1", "P2")}, [4, 5]),
        ({"patient_id": pd.Series(["P3", "P9"])}, [6]),
        ({"patient_id": np.array(["P3"])}, [6]),
        ({"max_KVP": 1e9, "not_modality": "MR"}, []),
    ],
)
def test_a_condition_takes_values_patterns_functions_and_keywords(
    index: Index, conditions: dict[str, Any], expected: list[int]
) -> None:
    assert slices(index.select(**conditions)) == expected


@pytest.mark.parametrize(
    ("conditions", "words"),
    [
        ({"verdict": "regulr"}, "did you mean 'regular'"),
        ({"not_verdict": "fine"}, "the values are duplicates, "),
        ({"content": "images"}, "did you mean 'image'"),
        ({"modality": "ct"}, "did you mean 'CT'"),
        ({"modality": ["MR", "CTT"]}, "did you mean 'CT'"),
        ({"not_seris_description": "x"}, "did you mean series_description"),
        ({"SeriesDescripton": "x"}, "did you mean series_description"),
        ({"slices": "many"}, "slices holds whole numbers"),
        ({"image_position_patient": lambda p: True}, "several numbers per row"),
    ],
)
def test_a_misspelt_condition_is_an_error_that_names_the_right_one(
    index: Index, conditions: dict[str, Any], words: str
) -> None:
    with pytest.raises(UsageError) as caught:
        index.select(**conditions)
    assert words in str(caught.value)


def test_a_modality_that_the_index_does_not_have_selects_nothing(index: Index) -> None:
    assert len(index.select(modality="PT")) == len(index.select(modality="US")) == 0


def test_selections_are_joined_cut_and_inverted(index: Index) -> None:
    head, long = index.select(series_description="*head*"), index.select(min_slices=4)
    assert slices(head | long) == [3, 4, 5, 6, 7]
    assert slices(head & long) == [4]
    assert slices(~head) == [5, 6, 7] and len(~index) == 0
    assert len(head) + len(~head) == len(index)
    assert slices(index.of_stacks(head.stacks)) == slices(index.of_stacks(head.stacks.numbers))
    assert index.of_frames([3, 0, 3]).rows().tolist() == [index.row(0), index.row(3)]


def test_selections_of_two_indexes_do_not_mix(index: Index, tmp_path: Path) -> None:
    write_series(tmp_path / "data", shape=(3, 5, 7))
    other = dicomdl.scan(tmp_path / "data", tmp_path / "index", progress=False)
    with pytest.raises(UsageError, match="two indexes"):
        _ = index | other
    with pytest.raises(TypeError):
        _ = index & [1]


def test_the_table_of_stacks_has_what_labels_are_joined_by(index: Index) -> None:
    table = index.select(min_slices=4).to_pandas("stacks")
    for number, row in table.iterrows():
        stack = index.stack(number)
        assert (row.modality, row.patient_id, row.series_instance_uid, row.verdict) == (
            *(stack.modality, stack.patient_id, stack.series_instance_uid, stack.verdict),
        )
        assert (row.slices, row.rows, row["columns"]) == stack.shape
        assert (row.folder, row.series_description) == (stack.path, stack.description)
    labels = pd.DataFrame({"patient_id": ["P1", "P4"], "target": [0, 1]})
    chosen = table.reset_index().merge(labels, on="patient_id")
    assert slices(index.select(chosen)) == [4, 7]
    assert slices(index.of_stacks(table[table.slices > 5])) == [6, 7]


def test_the_table_of_frames_has_stack_verdict_and_path_and_comes_back(index: Index) -> None:
    part = index.select(series_description="*head*")
    table = part.to_pandas("frames")
    for number in range(len(part)):
        row = table.loc[number]
        assert row.row == part.row(number)
        stack = part.stack_of(number)
        assert (row.stack, row.verdict) == (stack.number, "regular")
        assert row.path == part.frame(number).path
    shuffled = table.sample(frac=0.5, random_state=1)
    again = part.select(shuffled)
    assert again.rows().tolist() == sorted(shuffled.row)
    assert part.of_frames(shuffled.index).rows().tolist() == sorted(shuffled.row)


def test_the_table_of_files_lists_dicom_without_an_image_with_its_class_and_series(
    index: Index,
) -> None:
    files = index.to_pandas("files")
    (report,) = files[files.kind == "no_image"].to_dict("records")
    assert report["sop_class_uid"].startswith("1.2.840.10008.5.1.4.1.1.88")
    assert report["series_instance_uid"] and report["study_instance_uid"]
    images = files[files.kind == "image"].groupby("series_instance_uid").size()
    assert sorted(images.tolist()) == [3, 3, 4, 5, 6, 7]


def test_a_table_of_another_index_selection_or_scan_is_refused(
    index: Index, tmp_path: Path
) -> None:
    for number in range(6):
        write_series(tmp_path / "data", shape=(3, 5, 7), patient_id=f"Q{number}", seed=30 + number)
    other = dicomdl.scan(tmp_path / "data", tmp_path / "index", progress=False)
    for name in ("stacks", "frames"):
        with pytest.raises(UsageError, match="not of this index"):
            index.select(other.to_pandas(name))
        table = index.to_pandas(name)
        with pytest.raises(UsageError, match="not in this selection"):
            index.select(min_slices=5).select(table)
        with pytest.raises(UsageError, match="reset_index"):
            index.select(
                table.reset_index(drop=True).drop(columns=["row", "stack"], errors="ignore")
            )
        uid = "series_instance_uid" if name == "stacks" else "sop_instance_uid"
        with pytest.raises(UsageError, match="proves"):
            index.select(table.drop(columns=uid))
    for wrong in ([1, 2], other):
        with pytest.raises(UsageError, match="of_stacks"):
            index.select(wrong)


def test_stacks_are_named_by_numbers_views_and_tables(index: Index) -> None:
    stacks = [stack for stack in index.stacks if stack.modality == "CT"]
    first = [stacks[0].number]
    for given in (stacks[0], stacks[:1], stacks[0].number, np.array(first), pd.Index(first)):
        assert slices(index.of_stacks(given)) == [stacks[0].slices]
    assert slices(index.of_stacks(each for each in stacks if each.slices > 5)) == [6, 7]
    assert slices(index.of_stacks(index.series)) == [3, 4, 5, 6, 7]
    assert slices(index.of_stacks([float(first[0])])) == [stacks[0].slices]
    assert slices(index.of_stacks([])) == []


def test_flags_fractions_texts_and_views_of_another_index_are_no_numbers(
    index: Index, tmp_path: Path
) -> None:
    write_series(tmp_path / "data", shape=(3, 5, 7), patient_id="Q", seed=30)
    other = dicomdl.scan(tmp_path / "data", tmp_path / "index", progress=False)
    table = index.to_pandas("stacks")
    for wrong, sentence in [
        (table.modality == "CT", "flags"),
        ([True], "flags"),
        ([1.5], "fractions"),
        ([float("nan")], "fractions"),
        (table.patient_id, "type str"),
        ("12", "type str"),
        (None, "type NoneType"),
    ]:
        for take in (index.of_stacks, index.of_frames):
            with pytest.raises(UsageError, match=sentence) as caught:
                take(wrong)
            assert "P1" not in str(caught.value)
    for views in (other.stacks, other.stacks[0], list(other.stacks), other.series):
        with pytest.raises(UsageError, match="another index"):
            index.of_stacks(views)


@pytest.mark.parametrize(
    ("conditions", "said"),
    [
        ({"has": 3}, "has takes a kind of annotation or several .*, not int"),
        ({"has": None}, "not NoneType"),
        ({"not_has": [["SEG"]]}, "not list"),
        ({"min_rows": float("nan")}, "rows equals no NaN"),
        ({"max_rows": np.float64("nan")}, "rows equals no NaN"),
        ({"echo_time": [4.9, float("nan")]}, "None selects absent values"),
        ({"rows": 1.5}, "rows holds whole numbers"),
        ({"min_mixed": 1}, "mixed holds True or False, not int"),
        ({"rows": 10**400}, "rows holds whole numbers"),
        ({"folder": "\udcff"}, "no lone surrogates"),
        ({"min_folder": "\udcff"}, "no lone surrogates"),
    ],
)
def test_a_value_of_the_wrong_kind_is_an_error_in_a_sentence(
    index: Index, conditions: dict[str, Any], said: str
) -> None:
    with pytest.raises(UsageError, match=said):
        index.select(**conditions)


def test_bounds_beyond_64_bits_and_values_of_numpy_are_compared(index: Index) -> None:
    assert len(index.select(max_rows=10**30)) == len(index)
    assert len(index.select(min_rows=-(10**30))) == len(index)
    assert len(index.select(min_rows=10**400)) == 0
    assert slices(index.select(slices=np.array(4), modality="CT")) == [4]
    assert slices(index.select(slices=[np.int64(4), np.True_], modality="CT")) == [4]
    assert [stack.slices for stack in index.of_stacks(np.array(0)).stacks] == [3]


@pytest.mark.parametrize(
    ("conditions", "numbers"),
    [
        ({"min_number": 2**60 + 1}, [2**60 + 1]),
        ({"max_number": 2**60}, [-5, 7]),
        ({"min_number": 6.5}, [7, 2**60 + 1]),
        ({"max_number": 6.5}, [-5]),
        ({"min_number": 7.0, "max_number": math.inf}, [7, 2**60 + 1]),
        ({"max_number": -math.inf}, []),
        ({"min_number": 2**63}, []),
        ({"max_number": 2**63}, [-5, 7, 2**60 + 1]),
        ({"min_number": True}, [7, 2**60 + 1]),
    ],
    ids=str,
)
def test_bounds_of_numbers_that_floats_do_not_hold_are_compared(
    index: Index, conditions: dict[str, Any], numbers: list[int]
) -> None:
    table = {"patient": ["P1", "P2", "P3"], "number": [-5, 7, 2**60 + 1]}
    joined = index.join(table, on={"PatientID": "patient"}, on_unmatched="keep")
    found = joined.select(**conditions)
    assert sorted({found.value(row, "number") for row in range(len(found))}) == numbers


@pytest.mark.parametrize("given", [1.0, None, "0", [0], slice("a", None), slice(0, 1, 0)], ids=str)
def test_what_is_no_number_of_a_sequence_is_an_error_in_a_sentence(
    index: Index, given: Any
) -> None:
    said = "an integer|has integers"
    stack = index.stacks[0]
    for sequence in (index.stacks, index.problems, index.audit(index, index), stack.group):
        with pytest.raises(UsageError, match=said):
            sequence[given]
    if not isinstance(given, slice):
        for method in (stack.frame, stack.source, lambda n: stack.frame_value(n, "rows")):
            with pytest.raises(UsageError, match="a slice is an integer"):
                method(given)


def test_a_number_beyond_a_sequence_ends_it(index: Index) -> None:
    stack = index.stacks[0]
    for sequence in (index.stacks, index.problems, index.audit(index, index), stack.group):
        assert len(list(sequence)) == len(sequence)
        with pytest.raises(IndexError, match=f"{len(sequence)} of {len(sequence)}"):
            sequence[len(sequence)]
    with pytest.raises(IndexError, match="slice 3 of 3"):
        stack.frame(3)


def test_a_column_is_named_by_a_text(index: Index) -> None:
    stack = index.stacks[0]
    for method in (stack.value, stack.values, stack.is_constant):
        with pytest.raises(UsageError, match="a column is named by a text, not by list"):
            method(["rows"])  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="there is no table"):
        index.to_pandas(["stacks"])  # type: ignore[arg-type]


def test_an_error_about_a_value_does_not_quote_it(index: Index) -> None:
    for column in ("patient_id", "study_date"):
        with pytest.raises(UsageError, match="text, not int") as caught:
            index.select(**{column: 19771231})
        assert "1977" not in str(caught.value)


@pytest.mark.slow
def test_a_table_of_an_older_scan_is_refused_where_another_echo_has_the_number(
    tmp_path: Path,
) -> None:
    def at(echo: float) -> Any:
        return lambda dataset, z: setattr(dataset, "EchoTime", echo)

    uids = {"study_uid": 1, "series_uid": 2, "frame_of_reference": 3}
    for number, echo in enumerate((5.0, 10.0, 20.0)):
        # One Series of three echoes.
        write_series(
            tmp_path / "data" / f"e{number}",
            shape=(3, 5, 7),
            modality="MR",
            sop_class="1.2.840.10008.5.1.4.1.1.4",
            **{name: f"1.2.{uid}" for name, uid in uids.items()},
            seed=number,
            offset=number,
            edit=at(echo),
        )
    index = dicomdl.scan(tmp_path / "data", tmp_path / "index", progress=False)
    table = index.to_pandas("stacks")
    assert len(table) == 3 and table.series_instance_uid.nunique() == 1
    for path in (tmp_path / "data" / "e0").iterdir():
        path.unlink()
    again = dicomdl.scan(tmp_path / "data", tmp_path / "index", progress=False)
    with pytest.raises(UsageError, match="not of this index"):
        again.select(table[table.index == 1])
    assert len(again.select(again.to_pandas("stacks")).stacks) == 2


def test_a_table_comes_back_from_csv_with_its_blank_uids(tmp_path: Path) -> None:
    def blank(dataset: Any, z: int) -> None:
        dataset.SeriesInstanceUID = ""

    write_series(tmp_path / "data", shape=(3, 5, 7), patient_id="P", edit=blank)
    index = dicomdl.scan(tmp_path / "data", tmp_path / "index", progress=False)
    index.to_pandas("stacks").to_csv(tmp_path / "table.csv")
    assert len(index.select(pd.read_csv(tmp_path / "table.csv")).stacks) == 1
