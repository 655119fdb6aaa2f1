"""joined: columns of tables, by frames, in selections and in pickles."""

import pickle
from pathlib import Path

import numpy as np
import pytest
from conftest import index_of
from phantoms import write_series

from dicomdl.errors import IndexFolderError, UsageError
from dicomdl.index.index import Index

LABELS = {
    "id": ["000", "001", "002", "002"],
    "grade": [2, None, 0, 0],
    "score": [0.5, 1.5, None, None],
    "site": ["b", "a", "", ""],
    "cancer": [True, False, True, True],
}


@pytest.fixture
def index(folder: Path) -> Index:
    """Four patients with series of 2, 3, 4 and 5 slices; the table lacks the last."""
    for number in range(4):
        write_series(
            folder / str(number), shape=(2 + number, 3, 5), patient_id=f"00{number}", seed=number
        )
    return index_of(folder)


@pytest.fixture
def joined(index: Index) -> Index:
    return index.join(LABELS, on={"patient_id": "id"}, on_unmatched="keep")


def test_every_frame_has_the_values_of_its_key(joined: Index) -> None:
    columns, rows = joined.joined, joined.rows()
    assert columns.names == ("grade", "score", "site", "cancer")
    assert [columns.kind(name) for name in columns.names] == ["integer", "real", "text", "flag"]
    assert {columns.level(name) for name in columns.names} == {"patient"}
    grades, is_known = columns.values("grade", rows)
    assert grades[is_known].tolist() == [2, 2, 0, 0, 0, 0]
    assert is_known.tolist() == [True] * 2 + [False] * 3 + [True] * 4 + [False] * 5
    scores, is_known = columns.values("score", rows)
    assert np.array_equal(np.isnan(scores), ~is_known) and is_known.sum() == 5
    codes, classes = columns.codes("site", rows)
    assert classes == ("a", "b") and codes.tolist() == [1, 1, 0, 0, 0] + [-1] * 9
    assert joined.value(0, "site") == "b" and joined.facts(13, ["cancer"]) == {"cancer": None}


def test_selections_keep_the_columns_and_take_them_as_conditions(joined: Index) -> None:
    assert "grade" in joined.columns
    assert len(joined.select(grade=2)) == 2 and len(joined.select(min_grade=0)) == 6
    assert len(joined.select(site=["a", "b"])) == 5 and len(joined.select(site=None)) == 9
    assert len(joined.select(cancer=True, modality="CT")) == 6
    assert len(joined.select(not_grade=2)) == 12 and len(joined.select(grade=None)) == 8
    part = joined.select(site="a")
    for each in (part, ~part, part | ~part, *joined.split([0.5, 0.5]), joined.of_frames([0])):
        assert each.joined == joined.joined
    # The classes are those of the complete column.
    assert part.joined.codes("site", part.rows())[1] == ("a", "b")


def test_a_pickle_is_small_and_workers_map_the_columns(joined: Index) -> None:
    part = joined.select(min_slices=3)
    pickled = pickle.dumps(part)
    assert len(pickled) < 4096
    again = pickle.loads(pickled)
    assert again.joined == part.joined and len(again.select(grade=0)) == len(part.select(grade=0))
    assert again.joins == joined.joins
    of_frame = again.joined.join_of("grade").row_of_frame
    assert not of_frame.flags.owndata and not of_frame.flags.writeable


def test_a_join_that_the_cache_folder_lacks_is_an_error(
    joined: Index, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pickled = pickle.dumps(joined)
    monkeypatch.setenv("DICOMDL_CACHE", str(tmp_path / "other"))
    with pytest.raises(IndexFolderError, match="join again here, or share DICOMDL_CACHE"):
        pickle.loads(pickled)


def test_without_a_cache_folder_the_pickle_holds_the_columns(
    index: Index, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("DICOMDL_CACHE", str(tmp_path / "file"))
    joined = index.join(LABELS, on={"patient_id": "id"}, on_unmatched="keep")
    again = pickle.loads(pickle.dumps(joined))
    assert again.joined == joined.joined and len(again.select(grade=2)) == 2


@pytest.mark.parametrize("number", [2**53 + 1, -(2**60) - 1, 2**53])
def test_large_whole_numbers_reach_pandas_unrounded_beside_unknown_ones(
    index: Index, number: int
) -> None:
    pytest.importorskip("pandas")
    table = {"patient_id": [index.value(0, "patient_id")], "identifier": [number]}
    joined = index.join(table, on="patient_id", on_unmatched="keep")
    for name in ("frames", "stacks"):
        held = joined.to_pandas(name)["identifier"]
        assert held.isna().any() and {int(value) for value in held.dropna()} == {number}
        assert str(held.dtype) == ("float64" if number == 2**53 else "Int64")


def test_a_wrong_name_lists_the_joined_columns(index: Index, joined: Index) -> None:
    with pytest.raises(UsageError, match=r"joined are grade, score.*'grad'; did you mean grade"):
        joined.joined.values("grad", joined.rows())
    with pytest.raises(UsageError, match="this index has none"):
        index.joined.codes("grade", index.rows())
    with pytest.raises(UsageError, match=r"site holds text: values takes columns of integer"):
        joined.joined.values("site", joined.rows())


def test_selections_with_different_joins_do_not_combine(index: Index, joined: Index) -> None:
    other = index.join(LABELS, on={"patient_id": "id"}, label="site", on_unmatched="keep")
    assert (index.select(min_slices=3) & joined).joined == joined.joined
    with pytest.raises(UsageError, match="different joined columns"):
        other | joined


def test_tables_of_stacks_have_the_columns_above_frames(joined: Index) -> None:
    pytest.importorskip("pandas")
    table = joined.to_pandas("stacks")
    assert table["site"].tolist() == ["b", "a", "", ""]
    assert table["grade"].fillna(-1).tolist() == [2, -1, 0, -1]
    assert joined.to_pandas("frames")["cancer"].tolist()[:2] == [True, True]
    assert joined.select(joined.to_pandas("stacks").query("grade == 2")).joined == joined.joined
