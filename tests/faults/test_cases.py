"""Hand-made files: each has the outcome that the table of cases states, and together they scan."""

import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
from faults.case import outcome_of
from faults.cases import CASES, GROUPS

import dicomdl


@pytest.mark.quick(24)
@pytest.mark.parametrize("name", CASES)
def test_a_case_has_its_outcome_and_right_values(name: str, tmp_path: Path) -> None:
    found = outcome_of(CASES[name], tmp_path)
    assert found.outcome == CASES[name].outcome
    assert found.values_are_right


def test_no_two_cases_have_one_name() -> None:
    assert len(CASES) == sum(map(len, GROUPS.values())) >= 120


@pytest.mark.slow
def test_all_cases_in_one_folder_go_the_whole_way(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    pytest.importorskip("torch")
    from faults.whole_way import Way

    for number, case in enumerate(CASES.values()):
        folder = tmp_path / "data" / f"{number:03}"
        folder.mkdir(parents=True)
        (folder / case.file_name).write_bytes(case.make())
    way = Way()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        index = way.walk(tmp_path / "data", tmp_path / "index")
    record_property("figure", f"{len(CASES)} files, scanned in {way.scan_s:.1f} s of CPU")
    assert way.escapes == []
    assert isinstance(index, dicomdl.Index)
    ledger = index.ledger
    assert ledger["files"] == len(CASES)
    reasons = {case.outcome for case in CASES.values() if case.outcome.startswith("problem")}
    assert set(index.problems.reasons()) == {reason.split(": ")[1] for reason in reasons}
