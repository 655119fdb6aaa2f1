"""Conditions of a fetch: what is asked, what answers meet them, and lists of accession numbers."""

from pathlib import Path

import pytest

from dicomdl.errors import UsageError
from dicomdl.jobs.fetch_ledger import SeriesFound
from dicomdl.jobs.network.query import Query, accession_numbers, query

CT = SeriesFound("1.2", "1.2.3", "CT", "CT Thorax [1mm]", 100)


def test_each_value_of_a_kind_is_a_question_and_kinds_hold_together() -> None:
    asked = query(patient=["A", "B"], accession="7", modality="ct", dates="2020-01-02")
    questions = list(asked.questions())
    assert [each["PatientID"] for each in questions] == ["A", "B"]
    assert {each["AccessionNumber"] for each in questions} == {"7"}
    assert {each["ModalitiesInStudy"] for each in questions} == {"CT"}
    assert {each["StudyDate"] for each in questions} == {"20200102-20200102"}


@pytest.mark.parametrize(
    ("text", "days"),
    [
        ("20200101-20201231", ("20200101", "20201231")),
        ("2020-01-01 - 2020-12-31", ("20200101", "20201231")),
        ("20200101-", ("20200101", "")),
        ("-20201231", ("", "20201231")),
    ],
)
def test_dates_are_a_day_or_a_range(text: str, days: tuple[str, str]) -> None:
    asked = query(dates=text)
    assert (asked.first_day, asked.last_day) == days


def test_an_answer_of_an_archive_that_ignores_a_key_is_not_what_was_asked_for() -> None:
    asked = query(patient="A", dates="20200101-20200131")
    answer = {"StudyInstanceUID": "1.2", "PatientID": "A", "StudyDate": "20200115"}
    assert asked.has_study(answer)
    for other in (
        {"PatientID": "B"},
        {"PatientID": ""},
        {"StudyDate": "20210101"},
        {"StudyDate": ""},
    ):
        assert not asked.has_study(answer | other)


def test_the_description_that_the_message_names_is_that_of_every_series() -> None:
    with pytest.raises(UsageError, match=r"'\*' is that of every series"):
        query()
    every = query(description="*")
    assert [set(keys.values()) for keys in every.questions()] == [{""}]
    assert every.has_study({"StudyInstanceUID": "1.2"})  # without a date
    assert every.has_series(SeriesFound("1.2", "1.3", "", "", -1))


def test_a_description_is_text_or_a_pattern_in_any_case_with_brackets_as_they_are() -> None:
    for fits in ("*thorax*", "CT Thorax [1mm]", "ct thorax ?1mm?"):
        assert query(description=fits).has_series(CT)
    for fails in ("thorax", "*head*", "CT Thorax 1"):
        assert not query(description=fails).has_series(CT)
    assert query(description=["*head*", "*thorax*"], modality="CT").has_series(CT)
    assert not query(description="*thorax*", modality="MR").has_series(CT)


@pytest.mark.parametrize(
    ("conditions", "words"),
    [
        ({}, "no condition"),
        ({"patient": "SECRET*"}, "more than itself"),
        ({"accession": "SECRET\\2"}, "more than itself"),
        ({"study": "1.2; SECRET"}, "is no UID"),
        ({"dates": "SECRET"}, "YYYYMMDD"),
        ({"dates": "20200102-20200101"}, "ends before"),
        ({"patient": [1]}, "is text"),
    ],
)
def test_a_malformed_condition_is_an_error_that_quotes_no_identity(
    conditions: dict[str, object], words: str
) -> None:
    with pytest.raises(UsageError, match=words) as caught:
        query(**conditions)  # type: ignore[arg-type]
    assert "study" in conditions or "SECRET" not in str(caught.value)


def test_neither_the_repr_nor_the_ledger_holds_an_identity_or_a_date() -> None:
    asked = query(patient="JANE", accession="ACC7", dates="19990101", modality="CT", study="1.2")
    for text in (repr(asked), str(asked.asked)):
        assert not any(word in text for word in ("JANE", "ACC7", "1999"))
    assert asked.asked == {
        **{"patients": 1, "accessions": 1, "dates": 1},
        **{"studies": ["1.2"], "modalities": ["CT"]},
    }
    assert Query().asked == {}


@pytest.mark.parametrize(
    ("text", "column"),
    [
        ("id,AccessionNumber\n1,007\n2,8\n2,8\n", ""),
        ("acc;other\n007,1\n8,2\n".replace(";", ","), ":acc"),
        ("007\n8\n", ""),
        ("\ufeffAccessionNumber\n007\n\n8\n", ""),
    ],
)
def test_accession_numbers_come_out_of_a_column_as_text(
    text: str, column: str, tmp_path: Path
) -> None:
    path = tmp_path / "list.csv"
    path.write_text(text, encoding="utf-8")
    assert accession_numbers(f"{path}{column}") == ("007", "8")


def test_a_list_without_the_column_or_without_numbers_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "list.csv"
    path.write_text("SECRET,8\n9,10\n")
    with pytest.raises(UsageError, match="has no column 'AccessionNumber'") as caught:
        accession_numbers(str(path))
    assert "SECRET" not in str(caught.value)
    path.write_text("AccessionNumber\n\n")
    with pytest.raises(UsageError, match="holds no accession numbers"):
        accession_numbers(str(path))
    path.write_bytes(b"AccessionNumber\n\xff\xfe\n")
    with pytest.raises(UsageError, match="no CSV of UTF-8"):
        accession_numbers(str(path))
    with pytest.raises(UsageError, match="does not exist"):
        accession_numbers(str(tmp_path / "none.csv"))
