"""The table of goals: every row has tests that exist, and the page has every row."""

import re

import pytest
from faults.goals import GOALS, PAGE, Goal, exists, together


def test_there_are_goals_1_to_26() -> None:
    assert [goal.name for goal in GOALS] == [f"R{number}" for number in range(1, 27)]


@pytest.mark.parametrize("goal", GOALS, ids=lambda goal: goal.name)
def test_the_tests_of_a_goal_exist(goal: Goal) -> None:
    assert [test for test in goal.tests if not exists(test)] == []


def test_the_page_has_every_goal_as_it_is_told_here() -> None:
    rows = re.findall(r"^\| (R\d+) \| (.*?) \| (.*?) \|", PAGE.read_text(), re.MULTILINE)
    told = [(goal.name, goal.subject, goal.goal) for goal in GOALS]
    assert rows == told, "python tests/faults/goals.py --page"


def test_figures_of_hunts_are_one_with_their_largest_costs_and_all_escapes() -> None:
    hunt = "{} fine, {} typed error, {} escapes; slowest {} s of CPU, memory + {} MiB"
    figures = [
        "smoke-RLE: " + hunt.format(155, 45, 0, 0.21, 9),
        "18 bombs: at most 1.1 s",
        "smoke-JPEG: " + hunt.format(50, 149, 1, 0.07, 12),
    ]
    assert together(figures) == [
        "smoke: 400 inputs, 1 escapes; 0.21 s, 12 MiB at most",
        "18 bombs: at most 1.1 s",
    ]
    starts = ["fork-torch threads: 20 runs, 0 hangs", "spawn-an opened index: 20 runs, 1 hangs"]
    assert together(starts) == ["40 starts, 1 hangs"]
