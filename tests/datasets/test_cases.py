"""Cases: ragged arrays of stack numbers, and the datasets that take their rows from them."""

import pickle
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

import dicomdl
from dicomdl.datasets._cases import ABSENT, Cases, EachStack
from tests import phantoms


def test_one_member_per_case_needs_no_second_array() -> None:
    cases = Cases(np.arange(1_000_000))
    assert cases.starts is None and len(cases) == 1_000_000
    assert cases[999_999].tolist() == [999_999]
    assert cases.firsts is cases.numbers
    assert Cases.of([[4], [2]]).starts is None


def test_members_are_found_by_case() -> None:
    cases = Cases.of([[5, 6, ABSENT], [2], [9, 7]])
    assert [cases[n].tolist() for n in range(len(cases))] == [[5, 6, ABSENT], [2], [9, 7]]
    assert cases.counts.tolist() == [3, 1, 2]
    assert cases.firsts.tolist() == [5, 2, 9]


def test_a_choice_of_cases_keeps_their_members() -> None:
    cases = Cases.of([[5, 6], [2], [9, 7]]).where(np.array([True, False, True]))
    assert [cases[n].tolist() for n in range(len(cases))] == [[5, 6], [9, 7]]
    assert len(Cases.of([[5, 6]]).where(np.array([False]))) == 0
    assert Cases(np.array([3, 4])).where(np.array([False, True])).numbers.tolist() == [4]


def test_a_plain_dataset_pickles_the_rule_and_no_array(tmp_path: Path) -> None:
    phantoms.write_series(tmp_path / "data", shape=(3, 8, 6))
    index = dicomdl.scan(tmp_path / "data", tmp_path / "index", progress=False)
    volumes = dicomdl.VolumeDataset(index, "modality")
    assert len(volumes) == 1
    assert volumes.rule == EachStack()
    state = volumes.__getstate__()
    assert "_cases" not in state and "_stacks" not in state
    again = pickle.loads(pickle.dumps(volumes))
    assert len(again) == 1 and again[0]["row"] == 0
