"""joining: keys of every kind, pivots, lists, what does not match, and pandas as second opinion."""

import os
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import index_of
from hypothesis import given, settings
from hypothesis import strategies as st
from phantoms import write_multiframe, write_series

import dicomdl
from dicomdl.errors import UsageError
from dicomdl.index.index import Index


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Index:
    """Three patients; the first has two series, of 1 and 2 slices."""
    root = tmp_path_factory.mktemp("joining")
    for number, (patient, slices) in enumerate((("01", 1), ("01", 2), ("02", 3), ("03", 2))):
        folder = root / "data" / f"case{patient}" / f"s{number}"
        facts = {"patient_id": patient, "seed": number, "names": "ordered"}
        write_series(folder, shape=(slices, 4, 4), **facts)
    return dicomdl.scan(root / "data", root / "index", progress=False)


def value(index: Index, series: str, column: str) -> Any:
    """The value of the first slice of a series, by the name of its folder."""
    return next(
        index.value(n, column)
        for n in range(len(index))
        if Path(index.frame(n).path).parent.name == series
    )


@pytest.mark.parametrize(
    ("on", "keys", "level"),
    [
        ("patient_id", ["01", "02", "03"], "patient"),
        ({"PatientID": "k"}, ["01", "02", "03"], "patient"),
        ({"path.parts[-3]": "k"}, ["case01", "case02", "case03"], "patient"),
        ({"case{patient_id}": "k"}, ["case01", "case02", "case03"], "patient"),
        ({"path.parts[-3]": "case{k}"}, ["01", "02", "03"], "patient"),
        ({"patient_id": "{k:02}"}, [1, 2, 3], "patient"),
        ({"parent": "k"}, ["s0", "s1", "s2", "s3"], "series"),
        ({"{patient_id}/{parent}": "k"}, ["01/s0", "01/s1", "02/s2", "03/s3"], "series"),
        ({"slices": "k"}, [1, 2, 3], "series"),
    ],
)
def test_keys_are_facts_parts_of_paths_and_templates(
    index: Index, on: Any, keys: list[Any], level: str
) -> None:
    name = on if isinstance(on, str) else "k"
    found = index.join({name: keys, "y": list(range(len(keys)))}, on=on)
    assert found.joins[0].level == level and found.joins[0].frames_matched == len(index)
    last = {"patient": 2, "series": len(keys) - 1}[level]
    assert value(found, "s3", "y") == (1 if on == {"slices": "k"} else last)


def test_several_keys_must_all_agree(index: Index) -> None:
    table = {"p": ["01", "01", "02", "03"], "s": ["s0", "s1", "s2", "s3"], "y": [5, 6, 7, 8]}
    found = index.join(table, on={"patient_id": "p", "parent": "s"})
    assert [value(found, f"s{n}", "y") for n in range(4)] == [5, 6, 7, 8]
    table["p"][0] = "02"
    with pytest.raises(UsageError, match=r"1 of 4 keys .* and 1 of 4 rows of the table \(row 0\)"):
        index.join(table, on={"patient_id": "p", "parent": "s"})


@pytest.mark.parametrize(
    ("template", "cell"),
    [
        ("{parent}_{kind}", "{}_{}"),
        ("x_{parent}__{kind}.dcm", "x_{}__{}.dcm"),
        ("{kind}:{parent}", "{1}:{0}"),
        ("[{kind}] {parent}", "[{1}] {0}"),
        ("{patient_id}-{parent}-{kind}", "{2}-{0}-{1}"),
    ],
)
def test_a_template_with_one_more_name_splits_the_cells(
    index: Index, template: str, cell: str
) -> None:
    patients = {"s0": "01", "s1": "01", "s2": "02", "s3": "03"}
    rows = [(s, kind) for s in patients for kind in ("a", "b")]
    table = {
        "id": [cell.format(series, kind, patients[series]) for series, kind in rows],
        "y": list(range(8)),
    }
    found = index.join(table, on={template: "id"}, pivot="kind")
    assert found.joined.names == ("a", "b") and found.joins[0].rows_unmatched == 0
    assert [value(found, "s2", "a"), value(found, "s2", "b")] == [4, 5]
    table["id"][3] = "other"
    with pytest.raises(UsageError, match=r"1 of 8 rows of the table \(row 3\)"):
        index.join(table, on={template: "id"}, pivot="kind")


def test_a_split_is_at_the_last_separator(index: Index) -> None:
    table = {"id": [f"s{n}_{k}" for n in range(4) for k in ("x", "y")], "v": [0, 1] * 4}
    assert index.join(table, on={"{parent}_{k}": "id"}, pivot="k").joined.names == ("x", "y")
    # The part is a label itself, of many rows per key.
    found = index.join(table, on={"{parent}_{k}": "id"}, label=["k", "v"], lists=True)
    assert value(found, "s1", "k") == ("x", "y")


@pytest.mark.parametrize(
    ("on", "words"),
    [
        ({"patientid": "k"}, "the index: there is no column 'patientid'; did you mean patient_id"),
        ({"stem": "kk"}, r"no column 'kk'; did you mean k\?; it has 'k', 'y'"),
        ({"{stemm}_{parent}": "k"}, "nor the pivot is called 'stemm'"),
        ({"{parent}_{x}_{stem}": "k"}, "'x', which .* splits off: it comes first or last"),
        ({"{a}_{b}": "k"}, "there is no column 'a'"),
        ({"{parent": "k"}, "is no template"),
        ({"pixel_spacing": "k"}, "neither text nor whole numbers"),
        ({"path.parts[2]": "k"}, r"did you mean path.parts\[-n\]"),
        ({}, "expected the name of a key"),
        (3, "expected the name of a key"),
    ],
)
def test_a_wrong_key_is_told(index: Index, on: Any, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        index.join({"k": ["01"], "y": [1]}, on=on)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"label": "q"}, "label: the table: there is no column 'q'"),
        ({"label": []}, "no column to join"),
        ({"label": {"y": "modality"}}, "the index has a column 'modality'"),
        ({"label": {"y": "a", "z": "a"}}, "two columns are to be called 'a'"),
        ({"label": 3}, "label: expected the name"),
        ({"level": "image"}, "expected one of patient, study, series, stack, frame"),
        ({"on": {"parent": "s"}, "level": "patient"}, "some patients have several keys"),
        ({"lists": ["q"]}, "'q' is none of the joined columns y, z"),
        ({"parse": "q"}, "parse: the table: there is no column 'q'"),
        ({"pivot": "q"}, "pivot: the table: there is no column 'q'"),
        ({"pivot": "z", "lists": True}, "either pivot= or lists="),
        ({"on_unmatched": "skip"}, "on_unmatched='skip': expected 'raise'"),
        ({"on_unmatched": {"table": "keep"}}, "expected 'raise'"),
    ],
)
def test_a_wrong_option_is_told(index: Index, options: dict[str, Any], words: str) -> None:
    names = ["s0", "s1", "s2", "s3"]
    table = {"s": names, "y": [1, 2, 3, 4], "z": ["a", "b", "c", "d"]}
    options = {"on": {"parent": "s"}, **options}
    with pytest.raises(UsageError, match=words):
        index.join(table, **options)


def test_what_does_not_match_raises_is_dropped_or_kept(index: Index) -> None:
    table = {"s": ["s0", "s1", "s9"], "y": [1, 2, 3]}
    words = (
        r"2 of 4 keys of the index \('s2', 's3'\), and 1 of 3 rows of the table \(row 2\) match "
        r"nothing; correct on=, or pass on_unmatched='drop' or 'keep'"
    )
    with pytest.raises(UsageError, match=words) as raised:
        index.join(table, on={"parent": "s"})
    assert raised.value.report.keys_unmatched == raised.value.keys_unmatched == 2
    kept = index.join(table, on={"parent": "s"}, on_unmatched="keep")
    assert len(kept) == len(index) and value(kept, "s3", "y") is None
    dropped = index.join(table, on={"parent": "s"}, on_unmatched="drop")
    assert len(dropped) == 3 == len(kept.select(y=[1, 2]))
    # The other frames are still those of the index, without labels.
    assert len(~dropped) == 5 and (~dropped).joined == dropped.joined
    with pytest.raises(UsageError, match=r"1 of 3 rows of the table"):
        index.join(table, on={"parent": "s"}, on_unmatched={"index": "keep"})
    with pytest.raises(UsageError, match=r"2 of 4 keys of the index"):
        index.join(table, on={"parent": "s"}, on_unmatched={"table": "drop"})
    with pytest.raises(UsageError, match=r"match nothing; correct on=$"):
        index.join({"s": ["x"], "y": [1]}, on={"parent": "s"}, on_unmatched="keep")


def test_rows_of_other_frames_of_the_scan_match(index: Index) -> None:
    table = {"p": ["01", "02", "03"], "y": [1, 2, 3]}
    part = index.select(patient_id="02")
    found = part.join(table, on={"patient_id": "p"})
    assert len(found) == 3 and found.joins[0].rows_elsewhere == 2
    assert "2 rows of frames outside of this selection" in repr(found.joins[0])
    # A table of other patients alone has nothing for this selection.
    with pytest.raises(UsageError, match="1 of 1 keys of the index"):
        part.join({"p": ["01"], "y": [1]}, on={"patient_id": "p"}, on_unmatched="keep")


def test_rows_that_repeat_a_key_are_counted_or_told(index: Index) -> None:
    table = {"p": ["01", "02", "03", "02"], "y": [1, 2, 3, 2], "z": [1, 2, 3, 4]}
    found = index.join(table, on={"patient_id": "p"}, label="y")
    assert found.joins[0].duplicates_equal == 1
    words = r"1 keys have several rows with different z: the first in row 1 and row 3. Pass lists"
    with pytest.raises(UsageError, match=words):
        index.join(table, on={"patient_id": "p"})
    found = index.join(table, on={"patient_id": "p"}, lists="z")
    assert value(found, "s2", "z") == (2, 4) and value(found, "s2", "y") == 2
    with pytest.raises(UsageError, match="different y"):
        table["y"][3] = 0
        index.join(table, on={"patient_id": "p"}, lists="z")


def test_a_pivot_has_a_column_per_value_and_label(index: Index) -> None:
    table = {
        "p": ["01", "01", "02", "03", "03", "01"],
        "kind": ["a", "b", "a", "b", "a", "a"],
        "y": [1, 2, 3, 4, 5, 1],
        "z": ["u", "v", "w", "x", "y", "u"],
    }
    found = index.join(table, on={"patient_id": "p"}, pivot="kind")
    assert found.joined.names == ("y_a", "y_b", "z_a", "z_b")
    assert found.joins[0].duplicates_equal == 1
    assert [value(found, "s2", name) for name in found.joined.names] == [3, None, "w", ""]
    table["y"][5] = 9
    with pytest.raises(UsageError, match="several rows with different y"):
        index.join(table, on={"patient_id": "p"}, pivot="kind")
    table["kind"][4] = ""
    with pytest.raises(UsageError, match=r"the cell in row 4 is blank"):
        index.join(table, on={"patient_id": "p"}, pivot="kind", label="z")
    many = {"p": ["01"] * 1001, "k": list(range(1001)), "y": [0] * 1001}
    with pytest.raises(UsageError, match="1,001 values make 1,001 columns, at most 1,000"):
        index.join(many, on={"patient_id": "p"}, pivot="k", on_unmatched="keep")


def test_columns_that_the_index_has_are_left_out_and_told(index: Index) -> None:
    table = {"s": ["s0", "s1", "s2", "s3"], "Modality": ["CT"] * 4, "y": [1, 2, 3, 4]}
    found = index.join(table, on={"parent": "s"})
    assert found.joined.names == ("y",) and found.joins[0].left_out == ("Modality",)
    assert "not joined, the index has them: Modality" in repr(found.joins[0])
    found = found.join(table, on={"parent": "s"}, label={"Modality": "of_table"})
    assert found.joined.names == ("y", "of_table") and len(found.joins) == 2
    with pytest.raises(UsageError, match="the index has a column 'y'"):
        found.join(table, on={"parent": "s"}, label="y")


def test_a_joined_column_is_a_key_of_the_next_table(index: Index) -> None:
    found = index.join({"01": "b7", "02": "b7", "03": "c1"}, on="patient_id", label="site")
    found = found.join({"b7": 1, "c1": 0}, on="site", label="academic")
    assert [value(found, f"s{n}", "academic") for n in range(4)] == [1, 1, 1, 0]
    assert found.joins[1].level == "patient"


def test_the_report_is_plain_values_and_prints(index: Index) -> None:
    found = index.join({"s": ["s0", "s1"], "y": [1, 2]}, {"parent": "s"}, on_unmatched="keep")
    report = found.joins[0]
    assert report.to_dict()["on"] == [["parent", "s"]] and report.examples == ("'s2'", "'s3'")
    assert repr(report).splitlines() == [
        "Join of the table by parent = s, level series",
        "  columns  y (integer)",
        "  index    2 of 4 keys matched, 3 of 8 frames",
        "  table    2 of 2 rows matched",
        "  2 keys without rows: 's2', 's3'",
    ]
    by_patient = index.join({"p": ["01"], "y": [1]}, {"patient_id": "p"}, on_unmatched="keep")
    # The key of a patient is no example.
    assert all(example.startswith("frame row") for example in by_patient.joins[0].examples)


def test_files_and_series_are_frames_of_one_multi_frame_file(folder: Path) -> None:
    write_multiframe(folder / "a.dcm", shape=(3, 4, 4))
    index = index_of(folder)
    found = index.join({"k": ["a"], "y": [4]}, on={"stem": "k"}, level="stack")
    assert found.joins[0].level == "stack" and found.joins[0].keys == 1
    assert found.joined.values("y", found.rows())[0].tolist() == [4, 4, 4]
    uid = index.frame(0).sop_instance_uid
    assert index.join({uid: 4}, on="SOPInstanceUID", label="y").joins[0].level == "stack"


def test_names_of_files_keep_uids_without_a_suffix(folder: Path) -> None:
    for seed, name in enumerate(("1.2.840.5", "1.2.840.6.dcm", "c.d.dicom")):
        write_series(folder / "own", shape=(1, 4, 4), seed=seed)[0].rename(folder / name)
    found = index_of(folder).join(
        {"k": ["1.2.840.5", "1.2.840.6", "c.d"], "y": [1, 2, 3]}, on={"stem": "k"}
    )
    assert found.joins[0].keys_matched == 3


@pytest.mark.slow
@settings(max_examples=20)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["01", "02", "03", "1", ""]), st.integers(0, 2), st.integers(0, 3)
        ),
        min_size=1,
        max_size=12,
    )
)
def test_lists_and_pivots_equal_those_of_pandas(
    index: Index, rows: list[tuple[str, int, int]]
) -> None:
    pd = pytest.importorskip("pandas")
    table = pd.DataFrame(rows, columns=["p", "k", "y"])
    held = table[table["p"].isin(["01", "02", "03"])]
    options: dict[str, Any] = {"on": {"patient_id": "p"}, "on_unmatched": "keep"}
    if held.empty:
        with pytest.raises(UsageError, match="match nothing"):
            index.join(table, lists=True, **options)
        return
    found = index.join(table, lists=True, **options)
    patients = [index.value(n, "patient_id") for n in range(len(index))]
    for name in ("k", "y"):
        expected = [held.loc[held["p"] == patient, name].tolist() for patient in patients]
        assert [each.tolist() for each in found.joined.lists(name, found.rows())] == expected
    if held.groupby(["p", "k"])["y"].nunique().max() > 1:
        with pytest.raises(UsageError, match="different y"):
            index.join(table, pivot="k", **options)
        return
    found = index.join(table, pivot="k", **options)
    wide = held.drop_duplicates().pivot(index="p", columns="k", values="y")
    for column in wide:
        values, is_known = found.joined.values(str(column), found.rows())
        expected = wide[column].reindex(patients).to_numpy(dtype=float)
        assert np.array_equal(np.where(is_known, values, np.nan), expected, equal_nan=True)


def test_hashes_of_patients_are_told(folder: Path) -> None:
    write_series(folder, shape=(1, 4, 4), patient_id="P1")
    out = folder.parent / "hashed"
    index = dicomdl.scan(folder, out, patient_id="hash", progress=False)
    with pytest.raises(UsageError, match="holds hashes instead of PatientID: use another key"):
        index.join({"P1": 1}, on="patient_id", label="y")


def test_a_pairing_takes_joined_columns(index: Index) -> None:
    found = index.join({"s0": "a", "s1": "b", "s2": "a", "s3": "c"}, {"parent": "s"}, "kind")
    pairs = dicomdl.Pairing({"A": "kind=a", "B": {"kind": "b"}}, by="patient", same=None)
    assert len(pairs.pairs(found)) == 1


def test_the_overview_names_the_columns(index: Index) -> None:
    found = index.join({"s0": 1, "s1": 2, "s2": 3, "s3": 4}, {"parent": "s"}, "kind")
    assert "  joined 1 column: kind\n" in repr(found) and "joined" not in repr(index)
    assert "joined 1 column: kind" in found._repr_html_()


def test_points_of_multi_frame_files_find_their_frame(folder: Path) -> None:
    write_multiframe(folder / "a.dcm", shape=(3, 4, 4), order=[0, 1, 2])
    write_series(folder / "own", shape=(1, 4, 4), seed=3)[0].rename(folder / "b.dcm")
    index = index_of(folder)
    table = {"k": ["a", "a", "b"], "f": ["2", "0", ""], "x": [1, 2, 3]}
    keys = {"stem": "k", "frame_index": "f"}
    found = index.join(table, keys, on_unmatched={"index": "keep"})
    values = {
        (Path(frame.path).stem, frame.frame_number): found.value(n, "x")
        for n, frame in enumerate(map(found.frame, range(len(found))))
    }
    assert values == {("a", 1): 2, ("a", 2): None, ("a", 3): 1, ("b", 1): 3}
    assert found.joins[0].level == "frame" and not found.joined.repeats_in_files("x")
    # Without its frame, a row is one of all frames of the file.
    found = index.join(table, {"stem": "k"}, lists=True)
    assert found.joined.repeats_in_files("x")
    with pytest.raises(UsageError, match=r"1 of 3 rows of the table \(row 1\)"):
        table["f"][1] = ""
        index.join(table, keys, on_unmatched={"index": "keep"})


def test_keys_of_paths_follow_moved_data_and_take_any_bytes(folder: Path) -> None:
    write_series(folder / "own", shape=(1, 4, 4))[0].rename(folder / "a.dcm")
    odd = os.fsencode(folder) + b"/\xff.dcm"
    try:
        os.rename(os.fsencode(write_series(folder / "own", shape=(1, 4, 4), seed=1)[0]), odd)
    except OSError:
        pytest.skip("this file system takes names in UTF-8 only")
    index = index_of(folder)
    found = index.join({"a": 1, "\\xff": 2}, on="stem", label="y")
    assert sorted(found.value(n, "y") for n in range(2)) == [1, 2]
    folder.rename(folder.parent / "moved")
    moved = dicomdl.open_index(index.path, root=folder.parent / "moved")
    assert moved.join({"moved": 3}, on="parent", label="y").joins[0].frames_matched == 2


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ([1, 2, 3], "leading zeros that the table lacks"),
        (["0001", "0002", "0003"], "keys of the table have more text around them"),
        (["case1", "case2", "case3"], ""),
        (["01.0", "02.0", "03.0"], r"end in '.0': pandas made numbers of them"),
        (["01 ", "02 ", "03 "], "spaces around them"),
        (["p-01", "p-02", "p-03"], "use a template of the index"),
    ],
)
def test_a_hint_says_how_keys_differ(index: Index, keys: list[Any], words: str) -> None:
    table = {"k": keys, "y": [1, 2, 3]}
    with pytest.raises(UsageError, match=words) as raised:
        index.join(table, on={"patient_id": "k"})
    assert bool(raised.value.report.hint) == bool(words)
    with pytest.raises(UsageError, match="differ in upper and lower case"):
        index.join({"k": ["S0", "S1", "S2", "S3"], "y": [1, 2, 3, 4]}, on={"parent": "k"})
    with pytest.raises(UsageError, match="use a template of the table"):
        index.join({"k": ["0", "1", "2", "3"], "y": [1, 2, 3, 4]}, on={"parent": "k"})


# --- forms of Unicode -----------------------------------------------------------------------------

COMPOSED, DECOMPOSED = (unicodedata.normalize(form, "M\u00fcller") for form in ("NFC", "NFD"))


@pytest.mark.parametrize("held", [COMPOSED, DECOMPOSED])
@pytest.mark.parametrize("given", [COMPOSED, DECOMPOSED])
def test_keys_match_whatever_the_form_of_their_letters(folder: Path, held: str, given: str) -> None:
    for number, name in enumerate((held, "Roe")):
        write_series(folder / name, shape=(1, 4, 4), seed=number)
    found = index_of(folder).join({given: 1, "Roe": 2}, on="parent", label="y")
    assert value(found, held, "y") == 1
    assert value(found, "Roe", "y") == 2


@pytest.mark.parametrize("delimiter", [",", ";"])
@pytest.mark.parametrize("held", [COMPOSED, DECOMPOSED])
@pytest.mark.parametrize("given", [COMPOSED, DECOMPOSED])
def test_columns_are_found_whatever_the_form_of_their_letters(
    index: Index, folder: Path, held: str, given: str, delimiter: str
) -> None:
    rows = [(f"{held}-key", held), ("01", "a"), ("02", "b"), ("03", "c")]
    (folder / "t.csv").write_text("".join(f"{delimiter.join(row)}\n" for row in rows), "utf-8")
    found = index.join(folder / "t.csv", on={"PatientID": f"{given}-key"}, label=given)
    assert value(found, "s2", COMPOSED) == "b"
    for name in (held, given, COMPOSED):
        assert len(found.select(**{name: "b"})) == 3


def test_files_whose_names_differ_in_their_form_alone_stay_apart(folder: Path) -> None:
    third = "Gr\u00f6\u00dfe"
    for number, name in enumerate((COMPOSED, DECOMPOSED, third)):
        write_series(folder / name, shape=(1, 4, 4), seed=number)
    if len(list(folder.iterdir())) < 3:
        pytest.skip("this file system takes both names for one")
    index = index_of(folder)
    table = {COMPOSED: 1, DECOMPOSED: 2, unicodedata.normalize("NFD", third): 3}
    found = index.join(table, on="parent", label="y")
    assert [value(found, name, "y") for name in (COMPOSED, DECOMPOSED, third)] == [1, 2, 3]
