"""splits: groups that stay together, strata, what is told, kept splits, and files for others."""

import json
import math
import pickle  # our own bytes, made a line before
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from phantoms import uid, write_multiframe, write_series

import dicomdl
from dicomdl.errors import StorageError, UsageError
from dicomdl.index._dividing import SplitWarning
from dicomdl.index.index import Index

SHAPE = (1, 3, 4)


def write(root: Path, numbers: Sequence[int], **tell: Callable[[int], Any]) -> None:
    """Write a patient with one Study of one slice per number; `tell` has options by number."""
    for number in numbers:
        options: dict[str, Any] = {
            "patient_id": f"P{number}",
            "study_uid": uid("study", number),
            "series_uid": uid("series", number),
            "frame_of_reference": uid("frame", number),
            "offset": 100 * number,
            "modality": "MR" if number % 3 == 0 else "CT",
        }
        options |= {name: value(number) for name, value in tell.items()}
        write_series(root / str(number), shape=SHAPE, seed=number, **options)


def scan(root: Path, **options: Any) -> Index:
    return dicomdl.scan(root, root.parent / f"{root.name}.index", progress=False, **options)


def patients(part: Index) -> set[str]:
    return {stack.patient_id for stack in part.stacks}


def sizes(split: Sequence[Index]) -> list[int]:
    return [len(part) for part in split]


@pytest.fixture(scope="module")
def twenty(tmp_path_factory: pytest.TempPathFactory) -> Index:
    root = tmp_path_factory.mktemp("twenty") / "data"
    write(root, range(20))
    return scan(root)


# --- from scratch ---------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_split_of_twenty_patients_has_three_parts_for_every_seed(twenty: Index) -> None:
    seen = set()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for seed in range(20):
            split = twenty.split((0.8, 0.1, 0.1), seed=seed)
            assert sizes(split) == [16, 2, 2]
            assert len(set.union(*map(patients, split))) == 20
            seen.add(frozenset(patients(split[2])))
    assert len(seen) > 10
    assert sizes(twenty.split((0.8, 0.1, 0.1), by="study")) == [16, 2, 2]


def test_folds_are_a_split_and_unpack(twenty: Index) -> None:
    one, two, three = split = twenty.split(k=np.int64(3))  # type: ignore[arg-type]
    assert sizes([one, two, three]) == [7, 7, 6]
    assert isinstance(split, tuple) and split.k == 3
    for (train, held), part in zip(split.folds(), split, strict=True):
        assert patients(held) == patients(part) and len(train) + len(held) == 20
        assert twenty.audit(train, held).ok
    assert "Split by patient, seed 0: 20 groups, 20 patients" in repr(split)
    assert "<table" in split._repr_html_()
    again = pickle.loads(pickle.dumps(split))
    assert sizes(again) == [7, 7, 6] and again.saved == split.saved


def test_a_part_of_the_patients_may_be_in_no_part(twenty: Index) -> None:
    split = twenty.split((0.5, 0.2))
    assert sizes(split) == [10, 4]
    assert "none   0.3      6        6" in repr(split)
    assert sizes(twenty.split((0.0, 1.0))) == [0, 20]


def test_strata_are_in_balance_for_columns_of_frames_stacks_and_tables(twenty: Index) -> None:
    split = twenty.split((0.5, 0.5), stratify="modality")
    assert [len(part.select(modality="MR")) for part in split] in ([3, 4], [4, 3])
    assert sizes(split) == [10, 10]
    assert "modality=CT modality=MR" in repr(split)
    table = {
        "patient": [f"P{n}" for n in range(20)],
        "cancer": [n < 4 for n in range(20)],
        "age": [30.0 + n for n in range(20)],
        "site": ["a", "b", "", "b"] * 5,
    }
    joined = twenty.join(table, on={"patient_id": "patient"})
    folds = joined.split(k=4, stratify=["cancer", "site"])
    assert [len(part.select(cancer=True)) for part in folds] == [1, 1, 1, 1]
    assert all(len(part.select(site="b")) in (2, 3) for part in folds)
    assert folds[0].joined.names == joined.joined.names
    assert "cancer=True" in repr(folds) and "site=unknown" in repr(folds)
    aged = joined.split((0.5, 0.5), stratify="age")
    assert [len(part.select(max_age=33)) for part in aged] == [2, 2]


def test_lists_of_labels_are_several_strata(twenty: Index) -> None:
    rows = [(f"P{n}", finding) for n in range(8) for finding in (["a", "b"] if n < 4 else ["b"])]
    table = {"patient": [row[0] for row in rows], "finding": [row[1] for row in rows]}
    joined = twenty.join(table, on={"patient_id": "patient"}, lists=True, on_unmatched="keep")
    split = joined.split(k=4, stratify="finding")
    with_a = {f"P{n}" for n in range(4)}
    assert [len(patients(part) & with_a) for part in split] == [1, 1, 1, 1]


def test_columns_that_are_no_strata_are_refused(twenty: Index) -> None:
    with pytest.raises(UsageError, match="no column 'cancr'"):
        twenty.split((0.5, 0.5), stratify="cancr")
    with pytest.raises(UsageError, match="several numbers per row"):
        twenty.split((0.5, 0.5), stratify="pixel_spacing")


@pytest.mark.parametrize("column", ["patient_id", "study_date", "folder"])
def test_the_report_shows_no_identity_and_no_date(twenty: Index, column: str) -> None:
    split = twenty.split((0.5, 0.5), stratify=column)
    assert f"{column}=#0" in repr(split)
    held = {str(twenty.value(0, "study_date")), "P0", "P1"}
    assert not held & set(repr(split).replace("=", " ").split())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"fractions": (0.5,), "keep": "split.json"}, "not str"),
        ({}, "fractions such as"),
        ({"fractions": (0.5, 0.5), "k": 2}, "not both"),
        ({"k": 1}, "at least 2"),
        ({"k": True}, "at least 2"),
        ({"k": 2.0}, "at least 2"),
        ({"k": 21}, "20 groups cannot make 21 folds"),
        ({"fractions": 5}, "k=5 gives folds"),
        ({"fractions": (0.5, 0.5), "seed": 2.7}, "seed=2.7: expected a whole number"),
        ({"fractions": (0.5, 0.5), "seed": None}, "seed=None: expected a whole number"),
        ({"fractions": ("a", "b")}, "fractions are numbers"),
        ({"fractions": (0.9, 0.2)}, "together at most 1"),
        ({"fractions": (0.0,)}, "one at least above 0"),
        ({"fractions": "0"}, "one at least above 0"),
        ({"fractions": (math.inf, -math.inf)}, "one at least above 0"),
        ({"fractions": (0.5, 0.5), "stratify": 3}, "a column or a list of columns, not int"),
        ({"fractions": (0.5, 0.5), "by": ["patient"]}, "patient, study, series"),
        ({"k": 2, "by": "slice"}, "patient, study, series"),
    ],
)
def test_arguments_that_make_no_split_say_why(
    twenty: Index, options: Mapping[str, Any], words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        twenty.split(**options)


# --- what stays together --------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("key", ["patient_id", "study_uid", "frame_of_reference"])
def test_what_one_key_joins_is_in_one_part(tmp_path: Path, key: str) -> None:
    names = {"patient_id": "one", "study_uid": uid("one"), "frame_of_reference": uid("one")}
    tell = {key: lambda n: names[key] if n in (1, 4) else uid(key, n)}
    write(tmp_path / "data", range(6), **tell)
    index = scan(tmp_path / "data")
    for seed in range(10):
        for split in (index.split((0.5, 0.5), seed=seed), index.split(k=3, seed=seed)):
            (held,) = [part for part in split if uid("series", 1) in _series(part)]
            assert uid("series", 4) in _series(held)
            assert index.audit(*split).ok


def _series(part: Index) -> set[str]:
    return {stack.series_instance_uid for stack in part.stacks}


def test_a_chain_of_keys_joins_all_of_it(tmp_path: Path) -> None:
    """P0 and P1 share a Study, P1 and P2 a frame of reference, P2 and P3 a patient."""
    write(
        tmp_path / "data",
        range(8),
        study_uid=lambda n: uid("study", 0 if n == 1 else n),
        frame_of_reference=lambda n: uid("frame", 1 if n == 2 else n),
        patient_id=lambda n: f"P{2 if n == 3 else n}",
    )
    index = scan(tmp_path / "data")
    split = index.split((0.5, 0.5))
    chain = {uid("series", n) for n in range(4)}
    assert [len(_series(part) & chain) for part in split] in ([4, 0], [0, 4])
    by_study = index.split((0.5, 0.5), by="study")
    assert sum(len(_series(part) & chain) > 0 for part in by_study) == 2
    assert not index.audit(*by_study).ok


@pytest.mark.parametrize("blank", ["", uid("x")[:0]])
def test_a_blank_patient_and_an_atlas_join_nothing(tmp_path: Path, blank: str) -> None:
    atlas = "1.2.840.10008.1.4.1.1"
    write(
        tmp_path / "data", range(6), patient_id=lambda _: blank, frame_of_reference=lambda _: atlas
    )
    index = scan(tmp_path / "data")
    assert sizes(index.split(k=6)) == [1] * 6
    assert index.audit(*index.split(k=6)).ok


def test_a_blank_id_in_the_study_of_a_patient_is_that_patient(tmp_path: Path) -> None:
    for number in range(4):
        for series in range(2):
            write_series(
                tmp_path / "data" / f"{number}{series}",
                shape=SHAPE,
                patient_id=f"P{number}" if series else "",
                study_uid=uid("study", number),
                series_uid=uid(number, series),
                seed=10 * number + series,
            )
    index = scan(tmp_path / "data")
    assert sizes(index.split(k=4)) == [2, 2, 2, 2]
    assert "4 groups, 4 patients" in repr(index.split(k=2))


def test_equal_pixels_under_other_uids_stay_together_when_they_are_hashed(tmp_path: Path) -> None:
    write(tmp_path / "data", range(6), offset=lambda n: 100 * (1 if n == 4 else n))
    plain = scan(tmp_path / "data")
    assert sizes(plain.split(k=6)) == [1] * 6
    index = dicomdl.scan(tmp_path / "data", tmp_path / "hashed", progress=False, pixel_hash=True)
    split = index.split(k=5)
    assert sorted(sizes(split)) == [1, 1, 1, 1, 2]
    assert index.audit(*split).ok
    (pair,) = [part for part in split if len(part) == 2]
    assert patients(pair) == {"P1", "P4"}


# --- what is told ---------------------------------------------------------------------------------


def test_one_patient_id_for_all_is_told_without_it(tmp_path: Path) -> None:
    write(tmp_path / "data", range(6), patient_id=lambda _: "ANONYMOUS")
    index = scan(tmp_path / "data")
    with pytest.warns(SplitWarning, match="1 group cannot fill 2 parts") as told:
        split = index.split((0.8, 0.2))
    words = str(told[0].message)
    assert "1 patient, 6 studies" in words and "one PatientID" in words and "by='study'" in words
    assert "ANONYMOUS" not in words and told[0].filename == __file__
    assert sizes(split) == [6, 0]
    with pytest.raises(UsageError, match="1 patient, 6 studies") as refused:
        index.split(k=2)
    assert "ANONYMOUS" not in str(refused.value)


def test_a_group_larger_than_a_part_is_told_with_its_key(tmp_path: Path) -> None:
    write(tmp_path / "data", range(12), frame_of_reference=lambda n: uid("frame", max(n, 6)))
    index = scan(tmp_path / "data")
    with pytest.warns(SplitWarning, match="7 patients, 7 studies") as told:
        split = index.split((0.8, 0.2))
    assert f"Frame of Reference UID {uid('frame', 6)} joins 7 patients" in str(told[0].message)
    assert sizes(split) == [10, 2]
    with pytest.warns(SplitWarning, match="7 patients"):
        assert sizes(index.split((0.4, 0.6))) == [5, 7]


def test_a_dummy_patient_id_of_many_studies_is_told(tmp_path: Path) -> None:
    write(tmp_path / "data", range(20), patient_id=lambda n: "ANON" if n > 9 else f"P{n}")
    index = scan(tmp_path / "data")
    with pytest.warns(SplitWarning, match="1 patient, 10 studies, joined by one PatientID") as told:
        index.split((0.7, 0.3))
    assert "ANON" not in str(told[0].message)


def test_nothing_to_split_is_told(twenty: Index) -> None:
    nothing = twenty.select(modality="MR").select(modality="CT")
    with pytest.warns(SplitWarning, match="0 groups cannot fill 2 parts") as told:
        assert sizes(nothing.split((0.5, 0.5), stratify=["modality", "slice_location"])) == [0, 0]
    assert "Nothing is selected" in str(told[0].message)


def test_a_frame_of_reference_per_slice_joins_nothing(tmp_path: Path) -> None:
    def edit(dataset: Any, z: int) -> None:
        dataset.FrameOfReferenceUID = uid(dataset.SeriesInstanceUID, z)

    for number in range(4):
        write_series(
            tmp_path / "data" / str(number),
            shape=(3, 3, 4),
            patient_id=f"P{number}",
            study_uid=uid("study", number),
            series_uid=uid("series", number),
            edit=edit,
            seed=number,
        )
    assert sizes(scan(tmp_path / "data").split(k=4)) == [3, 3, 3, 3]


# --- keep -----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_kept_split_moves_nobody_when_patients_are_added(tmp_path: Path) -> None:
    root = tmp_path / "data"
    write(root, range(20))
    first = scan(root).split((0.6, 0.2, 0.2), stratify="modality", seed=3)
    first.save(tmp_path / "split.json")
    write(root, range(20, 26))
    index = scan(root)
    kept = dicomdl.load_split(tmp_path / "split.json")
    split = index.split(keep=kept)
    assert split.fractions == (0.6, 0.2, 0.2) and split.stratify == ("modality",)
    assert all(patients(old) <= patients(new) for old, new in zip(first, split, strict=True))
    assert sizes(split) in ([16, 5, 5], [15, 5, 6], [15, 6, 5])
    again = index.split(keep=split.saved)
    assert [patients(part) for part in again] == [patients(part) for part in split]


def test_the_file_of_a_split_holds_no_patient_and_is_private(twenty: Index, tmp_path: Path) -> None:
    split = twenty.split((0.8, 0.1), stratify="modality")
    path = tmp_path / "split.json"
    split.save(path)
    text = path.read_text()
    assert not any(f'"P{n}"' in text for n in range(20))
    assert path.stat().st_mode & 0o777 == 0o600
    content = json.loads(text)
    assert [len(part) for part in content["parts"]] == [16, 2] and len(content["rest"]) == 2
    assert content["parts"][0][0]["studies"][0].startswith("1.")
    assert dicomdl.load_split(path) == split.saved
    assert repr(split.saved) == "SavedSplit(by patient: parts of 16, 2 groups, 2 in no part)"
    same = twenty.split(keep=split.saved)
    assert [patients(part) for part in same] == [patients(part) for part in split]


@pytest.mark.slow
def test_hashed_patients_of_another_key_are_kept_by_their_studies(tmp_path: Path) -> None:
    root = tmp_path / "data"
    write(root, range(10))
    plain = scan(root).split((0.7, 0.3))
    hashed = dicomdl.scan(root, tmp_path / "hashed", progress=False, patient_id="hash")
    split = hashed.split(keep=plain.saved)
    assert [_series(part) for part in split] == [_series(part) for part in plain]


@pytest.mark.slow
def test_a_new_study_of_a_kept_patient_joins_the_patient(tmp_path: Path) -> None:
    root = tmp_path / "data"
    write(root, range(6))
    first = scan(root).split((0.5, 0.5))
    write(root, [6, 7], patient_id=lambda n: f"P{n - 5}")
    split = scan(root).split(keep=first.saved)
    for old, new in zip(first, split, strict=True):
        assert patients(old) == patients(new)
    assert sum(sizes(split)) == 8


def test_groups_that_are_not_in_the_index_stay_in_the_file(twenty: Index) -> None:
    first = twenty.split((0.5, 0.5))
    half = twenty.select(modality="MR").split(keep=first.saved)
    assert [len(part) for part in half.saved.parts] == [10, 10]
    assert half.saved == first.saved
    again = twenty.split(keep=half.saved)
    assert [patients(part) for part in again] == [patients(part) for part in first]


@pytest.mark.slow
def test_a_group_that_joins_two_parts_of_the_file_is_an_error_that_names_both(
    tmp_path: Path,
) -> None:
    root = tmp_path / "data"
    write(root, range(4))
    first = scan(root).split((0.5, 0.5))
    one, two = (next(iter(sorted(patients(part)))) for part in first)
    # A later Study of the one lies in the frame of reference of the other.
    write(
        root,
        [8],
        patient_id=lambda _: one,
        frame_of_reference=lambda _: uid("frame", int(two[1:])),
    )
    with pytest.raises(UsageError, match="joins 2 parts") as refused:
        scan(root).split(keep=first.saved)
    words = str(refused.value)
    assert "is in part 0 and" in words and "is in part 1." in words
    assert "Frame of Reference UID" in words and one not in words.replace("PatientID", "")
    assert refused.value.parts == [0, 1]


def test_a_kept_split_of_another_kind_is_refused(twenty: Index) -> None:
    kept = twenty.split((0.5, 0.5)).saved
    with pytest.raises(UsageError, match="by='patient'"):
        twenty.split(keep=kept, by="study")
    with pytest.raises(UsageError, match="2 parts, and 3"):
        twenty.split(k=3, keep=kept)
    assert sizes(twenty.split((0.9, 0.1), keep=kept)) == [10, 10]


# --- files for others -----------------------------------------------------------------------------


def test_fractions_may_be_an_array(twenty: Index) -> None:
    split = twenty.split(np.array([0.75, 0.25]), seed=np.int64(3))  # type: ignore[arg-type]
    plain = twenty.split((0.75, 0.25), seed=3)
    assert [part.rows().tolist() for part in split] == [part.rows().tolist() for part in plain]


def test_the_datalist_of_fractions_and_of_folds(twenty: Index, tmp_path: Path) -> None:
    split = twenty.split((0.8, 0.1, 0.1))
    content = split.to_datalist(tmp_path / "list.json", label=lambda stack: stack.modality)
    assert json.loads((tmp_path / "list.json").read_text()) == content
    assert {name: len(part) for name, part in content.items()} == {
        "training": 16,
        "validation": 2,
        "test": 2,
    }
    entry = content["training"][0]
    assert Path(entry["image"]).is_file() and entry["label"] in ("CT", "MR")
    folds = twenty.split(k=5).to_datalist(
        tmp_path / "folds.json", image=lambda stack: Path("images") / f"{stack.number}.nii.gz"
    )
    assert sorted(entry["fold"] for entry in folds["training"]) == sorted(list(range(5)) * 4)
    assert folds["training"][0]["image"].startswith("images")
    with pytest.raises(UsageError, match="4 parts"):
        twenty.split((0.4, 0.2, 0.2, 0.2)).to_datalist(tmp_path / "no.json")
    named = twenty.split((0.5, 0.5)).to_datalist(tmp_path / "x.json", names=("training", "testing"))
    assert list(named) == ["training", "testing"]
    with pytest.raises(StorageError):
        split.to_datalist(tmp_path / "absent" / "list.json")


@pytest.mark.slow
def test_monai_reads_the_datalist(twenty: Index, tmp_path: Path) -> None:
    data = pytest.importorskip("monai.data")
    twenty.split((0.8, 0.2)).to_datalist(tmp_path / "list.json", label=lambda stack: 1)
    for name, count in (("training", 16), ("validation", 4)):
        items = data.load_decathlon_datalist(tmp_path / "list.json", False, name)
        assert len(items) == count and Path(items[0]["image"]).is_file()


def test_a_folder_of_several_stacks_names_no_image(tmp_path: Path) -> None:
    for number in range(2):
        write_series(
            tmp_path / "data", shape=(2, 3, 4), patient_id=f"P{number}", seed=number, offset=number
        )
    with pytest.raises(UsageError, match=r"image=function"):
        scan(tmp_path / "data").split((0.5, 0.5)).to_datalist(tmp_path / "list.json")


def test_a_multi_frame_file_is_an_image_itself(tmp_path: Path) -> None:
    for number in range(2):
        write_multiframe(
            tmp_path / "data" / str(number), shape=(3, 4, 5), modality="MR", patient_id=f"P{number}"
        )
    split = scan(tmp_path / "data").split((0.5, 0.5))
    content = split.to_datalist(tmp_path / "list.json")
    assert all(Path(part[0]["image"]).is_file() for part in content.values())


def test_the_folds_of_nnunet_hold_every_case_once(twenty: Index, tmp_path: Path) -> None:
    path = tmp_path / "splits_final.json"
    folds = twenty.split(k=5).to_nnunet(path, case=lambda stack: f"case_{stack.patient_id}")
    assert json.loads(path.read_text()) == folds and len(folds) == 5
    assert sorted(name for fold in folds for name in fold["val"]) == sorted(
        f"case_P{n}" for n in range(20)
    )
    assert all(not set(fold["train"]) & set(fold["val"]) for fold in folds)
    (only,) = twenty.split((0.8, 0.1, 0.1)).to_nnunet(path, case="patient_id")
    assert len(only["train"]) == 16 and len(only["val"]) == 2
    with pytest.raises(UsageError, match="a case is in the parts"):
        twenty.split(k=5).to_nnunet(path, case="modality")
    with pytest.raises(UsageError, match="has one"):
        twenty.split((1.0,)).to_nnunet(path)


# --- files that are no split ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("nothing", "not JSON"),
        ("[]", "no split file"),
        ('{"parts": []}', "no split file"),
        ('{"dicomdl_split": 9}', "format 9, expected 1"),
        ('{"dicomdl_split": 1}', "is damaged: KeyError"),
        (
            '{"dicomdl_split": 1, "by": "patient", "seed": 0, "k": null, "stratify": [],'
            ' "fractions": [1], "parts": [[{"id": "a", "patients": "abc", "studies": [],'
            ' "series": []}]], "rest": []}',
            "a list was expected",
        ),
        (
            '{"dicomdl_split": 1, "by": "patient", "seed": 0, "k": null, "stratify": [],'
            ' "fractions": [1], "parts": [], "rest": []}',
            "0 parts of 1 fractions",
        ),
    ],
)
def test_a_file_that_is_no_split_says_so(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "split.json"
    path.write_text(text)
    with pytest.raises(UsageError, match=words):
        dicomdl.load_split(path)


def test_a_file_that_is_not_there_is_a_storage_error(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="cannot be read"):
        dicomdl.load_split(tmp_path / "no.json")
