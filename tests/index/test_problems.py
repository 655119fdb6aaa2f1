"""The problems of an index, as a sequence, as text and as a table."""

from pathlib import Path

import phantoms

import dicomdl
from dicomdl.index.overview import SHOWN_PROBLEMS


def scanned(folder: Path, problems: int) -> dicomdl.Index:
    phantoms.write_series(folder / "data", shape=(3, 4, 4))
    for number in range(problems):
        (folder / "data" / f"<b>{number}.dcm").write_bytes(b"\0" * 128 + b"DICM")
    return dicomdl.scan(folder / "data", folder / "index", progress=False)


def test_a_notebook_shows_reason_path_and_detail_of_each_problem(tmp_path: Path) -> None:
    problems = scanned(tmp_path, 2).problems
    html = problems._repr_html_()
    assert html.count("<tr>") == 3 and "<b>2 problems</b>" in html
    for problem in problems:
        assert problem.reason in html and problem.detail in html
    assert "&lt;b&gt;0.dcm" in html and "<b>0.dcm" not in html


def test_a_long_table_ends_and_an_empty_one_is_a_sentence(tmp_path: Path) -> None:
    problems = scanned(tmp_path, SHOWN_PROBLEMS + 5).problems
    html = problems._repr_html_()
    assert html.count("<tr>") == SHOWN_PROBLEMS + 1 and "... and 5 more" in html
    assert "... and 5 more" in repr(problems)
    assert scanned(tmp_path / "sound", 0).problems._repr_html_() == "<p>no problems</p>"
